package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Client asks an agent, on its Unix socket or over the network, or a hub. It
// may be used by any goroutine.
//
// Its errors tell a person what to do: [*NoAgentError] when nobody answers on a
// socket, [*Error] for what the agent or the hub answered, and [*ServerError]
// for what somebody on the way to it did. A mistake in a filter can be had from
// an Error as a *filter.Error with errors.As.
type Client struct {
	base   *url.URL // ends in /v1, as the paths of openapi.json begin
	socket string   // "" for the network
	who    string   // for messages: the agent on /run/x, host
	http   *http.Client
}

// Lines are JSON objects, one each, as the agent wrote them. A line is valid
// until the next one is asked for. The first error ends them.
type Lines = iter.Seq2[[]byte, error]

// NewClient returns a client of the agent that listens at socket. It does not
// connect before the first question.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	base := &url.URL{Scheme: "http", Host: "warren", Path: "/v1"}
	return &Client{base: base, socket: socket, who: "the agent on " + socket, http: &http.Client{Transport: &http.Transport{
		DialContext:           dial,
		DisableCompression:    true,
		ResponseHeaderTimeout: answerTime,
		MaxIdleConns:          4,
		IdleConnTimeout:       time.Minute,
	}}}
}

// NewHTTPClient returns a client of what answers below base by way of rt, an
// agent or a hub: of https://hub/v1, /v1/events is https://hub/v1/events. base
// may be a path of the cluster's API server. rt sees to who is asked and who
// asks; redirects are not followed.
func NewHTTPClient(base *url.URL, rt http.RoundTripper) *Client {
	return &Client{base: base, who: base.Host, http: &http.Client{
		Transport:     rt,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// answerTime is how long an agent may take to begin its answer.
const answerTime = 30 * time.Second

// NoAgentError says that nobody answers at a socket, and why.
type NoAgentError struct {
	Socket string
	Err    error
}

// Error returns what a person can do about it.
func (e *NoAgentError) Error() string {
	switch {
	case errors.Is(e.Err, fs.ErrNotExist):
		return fmt.Sprintf("no agent listens on %s: start one with `warren agent`", e.Socket)
	case errors.Is(e.Err, syscall.ECONNREFUSED):
		return fmt.Sprintf("no agent listens on %s any more: start one with `warren agent`", e.Socket)
	case errors.Is(e.Err, fs.ErrPermission):
		return fmt.Sprintf("no permission to ask the agent on %s: only root and the socket's group may; try sudo", e.Socket)
	case errors.Is(e.Err, syscall.ENOTSOCK), errors.Is(e.Err, syscall.EPROTOTYPE):
		return fmt.Sprintf("%s is not the socket of an agent", e.Socket)
	}
	return fmt.Sprintf("ask the agent on %s: %v", e.Socket, e.Err)
}

// Unwrap returns why the connection failed.
func (e *NoAgentError) Unwrap() error { return e.Err }

// A Question is what a list or a stream is asked for; the zero value asks for
// all there is.
type Question struct {
	// Filter is a condition in the language of package filter.
	Filter string
	// Fields are the names of the fields that are told; none stands for all.
	Fields []string
	// Limit, if it is above 0, is how many events Events and Recent yield, and how
	// many flows Flows and FollowFlows.
	Limit int
	// Exited asks Processes for those that have ended, too.
	Exited bool
	// Nodes asks a hub for those nodes of the cluster only.
	Nodes []string
	// Since and Until bound the past that is asked for: of Events and Recent, which
	// then tell what was kept, and of Connections those that there were. At asks
	// Processes for those that ran at a moment. Zero is none.
	Since, Until, At time.Time
	// Begun, if it is not nil, is called when the answer begins, before its first
	// line, which may be long in coming: it was not refused.
	Begun func()
}

// values returns the parameters of a question about one of the listings.
func (q Question) values(path string, follow bool) url.Values {
	v := nodeValues(q.Nodes)
	if q.Filter != "" {
		v.Set("filter", q.Filter)
	}
	if len(q.Fields) > 0 {
		v.Set("fields", strings.Join(q.Fields, ","))
	}
	if q.Limit > 0 && slices.Contains(lookupListing(path).params, "limit") {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Exited && path == PathProcesses {
		v.Set("exited", "true")
	}
	past := false
	for _, at := range []struct {
		name string
		time time.Time
	}{{"since", q.Since}, {"until", q.Until}, {"at", q.At}} {
		if !at.time.IsZero() && slices.Contains(lookupListing(path).params, at.name) {
			v.Set(at.name, at.time.Format(time.RFC3339Nano))
			past = true
		}
	}
	if path != PathProcesses && (past || follow != lookupListing(path).follow) {
		v.Set("follow", strconv.FormatBool(follow))
	}
	if follow {
		// Servers between us and a hub let an answer that is a watch last.
		v.Set("watch", "true")
	}
	return v
}

func nodeValues(nodes []string) url.Values {
	v := url.Values{}
	if len(nodes) > 0 {
		v.Set("node", strings.Join(nodes, ","))
	}
	return v
}

// Events yields events as they happen that match, with Since after those that were
// kept. Losses come in between, as
// events of kind lost, which are not limited.
func (c *Client) Events(ctx context.Context, q Question) Lines {
	return c.lines(ctx, PathEvents, q.values(PathEvents, true), q.Begun)
}

// Recent yields the last events that match, of as many as the agent remembers;
// with Limit, Since or Until also of those that were kept.
func (c *Client) Recent(ctx context.Context, q Question) Lines {
	return c.lines(ctx, PathEvents, q.values(PathEvents, false), q.Begun)
}

// Processes yields processes that match.
func (c *Client) Processes(ctx context.Context, q Question) Lines {
	return c.lines(ctx, PathProcesses, q.values(PathProcesses, false), q.Begun)
}

// Process returns everything known of the process with a pid or an exec id, as
// one JSON object: the fields of its row, and the lists ancestors, children,
// connections and others. A hub asks those of its nodes that are given, or all.
func (c *Client) Process(ctx context.Context, id string, nodes ...string) ([]byte, error) {
	if !isProcessID(id) {
		return nil, BadRequest("%s is neither a pid nor an exec id", printable(id))
	}
	return c.object(ctx, PathProcesses+"/"+id, nodeValues(nodes))
}

// isProcessID reports whether a text can be a pid or an exec id. It is a part of
// a path, of which others, like "..", would make another path.
func isProcessID(id string) bool {
	const most = 64
	notOne := func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-'
	}
	return id != "" && len(id) <= most && !strings.ContainsFunc(id, notOne)
}

// Connections yields connections that match, living and lately closed.
func (c *Client) Connections(ctx context.Context, q Question) Lines {
	return c.lines(ctx, PathConnections, q.values(PathConnections, false), q.Begun)
}

// FollowConnections yields what Connections does, and then every change.
func (c *Client) FollowConnections(ctx context.Context, q Question) Lines {
	return c.lines(ctx, PathConnections, q.values(PathConnections, true), q.Begun)
}

// Flows yields the last flows that match, of as many as are remembered.
func (c *Client) Flows(ctx context.Context, q Question) Lines {
	return c.lines(ctx, PathFlows, q.values(PathFlows, false), q.Begun)
}

// FollowFlows yields flows that match as they are told.
func (c *Client) FollowFlows(ctx context.Context, q Question) Lines {
	return c.lines(ctx, PathFlows, q.values(PathFlows, true), q.Begun)
}

// Fields returns the fields of events of a kind, or of all kinds if it is "".
func (c *Client) Fields(ctx context.Context, kind string) ([]Field, error) {
	q := url.Values{}
	if kind != "" {
		q.Set("kind", kind)
	}
	var list []Field
	for line, err := range c.lines(ctx, "/fields", q, nil) {
		var f Field
		if err == nil {
			err = json.Unmarshal(line, &f)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

// Status returns the agent's report on itself, one JSON object: a [Status]. A
// hub's is about itself and those of its nodes that are given, or all.
func (c *Client) Status(ctx context.Context, nodes ...string) ([]byte, error) {
	return c.object(ctx, "/status", nodeValues(nodes))
}

// Health returns nil when the agent is ready and sees what happens.
func (c *Client) Health(ctx context.Context) error {
	_, err := c.object(ctx, "/../readyz", nil)
	return err
}

// maxObject bounds an answer that is one object, maxLine one line of a stream,
// maxError what says why there is no answer.
const (
	maxObject = 64 << 20
	maxLine   = 16 << 20
	maxError  = 64 << 10
)

// object asks for one JSON object; path is below the base.
func (c *Client) object(ctx context.Context, path string, q url.Values) ([]byte, error) {
	resp, err := c.get(ctx, path, q, "application/json")
	if err != nil {
		return nil, err
	}
	return c.one(ctx, resp)
}

// send sends a body, or nothing, and returns the object that is the answer.
func (c *Client) send(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	resp, err := c.ask(ctx, method, path, nil, body, "application/json")
	if err != nil {
		return nil, err
	}
	return c.one(ctx, resp)
}

// one reads an answer that is one JSON object.
func (c *Client) one(ctx context.Context, resp *http.Response) ([]byte, error) {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxObject+1))
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	if len(b) > maxObject {
		return nil, fmt.Errorf("the answer of %s has more than %d bytes", c.who, maxObject)
	}
	return bytes.TrimSpace(b), nil
}

// lines asks for NDJSON; path is below the base. begun may be nil.
func (c *Client) lines(ctx context.Context, path string, q url.Values, begun func()) Lines {
	return c.linesUpTo(ctx, path, q, begun, maxLine)
}

// linesUpTo is lines, of at most so many bytes each.
func (c *Client) linesUpTo(ctx context.Context, path string, q url.Values, begun func(), most int) Lines {
	return func(yield func([]byte, error) bool) {
		resp, err := c.get(ctx, path, q, linesType)
		if err != nil {
			yield(nil, err)
			return
		}
		defer resp.Body.Close()
		if begun != nil {
			begun()
		}
		s := bufio.NewScanner(resp.Body)
		s.Buffer(make([]byte, 0, 64<<10), most)
		for s.Scan() {
			if len(s.Bytes()) == 0 {
				continue // the agent is alive and has nothing to say
			}
			if !yield(s.Bytes(), nil) {
				return
			}
		}
		if err := s.Err(); err != nil {
			yield(nil, c.broken(ctx, err))
		}
	}
}

// get asks, and returns the answer or the error that it is.
func (c *Client) get(ctx context.Context, path string, q url.Values, accept string) (*http.Response, error) {
	return c.ask(ctx, http.MethodGet, path, q, nil, accept)
}

func (c *Client) ask(ctx context.Context, method, path string, q url.Values, body []byte, accept string) (*http.Response, error) {
	u := c.base.JoinPath(path)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &Error{Status: resp.StatusCode}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err == nil && json.Unmarshal(b, e) == nil && e.Message != "" {
		e.Status = resp.StatusCode
		return nil, e
	}
	if c.socket != "" {
		return nil, fmt.Errorf("what listens on %s is no agent: it answered %s to %s", c.socket, resp.Status, u.Path)
	}
	return nil, serverError(resp, b)
}

// A ServerError is the answer of somebody between us and a hub, mostly the
// cluster's API server.
type ServerError struct {
	Code    int
	Reason  string // as Kubernetes calls it: Forbidden, NotFound, ...; "" where it did not say
	Message string
}

// Error returns what the server said.
func (e *ServerError) Error() string {
	if e.Message != "" {
		return e.Message
	}
	return fmt.Sprintf("the server answered %d %s", e.Code, http.StatusText(e.Code))
}

// serverError reads an answer that is no [Error]: a Status object of
// Kubernetes, or text.
func serverError(resp *http.Response, body []byte) *ServerError {
	const most = 1024 // of a text that may be a whole page
	e := &ServerError{Code: resp.StatusCode}
	var status struct{ Kind, Reason, Message string }
	if json.Unmarshal(body, &status) == nil && status.Kind == "Status" {
		e.Reason, e.Message = status.Reason, status.Message
		return e
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && media == "text/plain" {
		e.Message = strings.ToValidUTF8(string(bytes.TrimSpace(body[:min(most, len(body))])), "\ufffd")
	}
	return e
}

// broken says what a failed connection means.
func (c *Client) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var op *net.OpError
	if c.socket != "" && errors.As(err, &op) && op.Op == "dial" {
		if fi, statErr := os.Stat(c.socket); statErr == nil && fi.Mode()&fs.ModeSocket == 0 {
			err = syscall.ENOTSOCK
		}
		return &NoAgentError{Socket: c.socket, Err: err}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("%s has hung up: it was stopped, or went away: %w", c.who, err)
	}
	var late net.Error
	if c.socket != "" && errors.As(err, &late) && late.Timeout() {
		return fmt.Errorf("%s did not begin its answer within %v: it has much to do, or much to read; ask again, or for less, as a shorter time", c.who, answerTime)
	}
	// What the library says around it is a path of ours and not of the agent's.
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("ask %s: %w", c.who, err)
}
