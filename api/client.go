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
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Client asks the agent that listens on a Unix socket. It may be used by any
// goroutine.
//
// Its errors tell a person what to do: [*NoAgentError] when nobody answers, and
// [*Error] for what the agent answered; a mistake in a filter can be had from
// it as a *filter.Error with errors.As.
type Client struct {
	socket string
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
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext:           dial,
		DisableCompression:    true,
		ResponseHeaderTimeout: answerTime,
		MaxIdleConns:          4,
		IdleConnTimeout:       time.Minute,
	}}}
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
	// Limit, if it is above 0, is how many events Events and Recent yield.
	Limit int
	// Exited asks Processes for those that have ended, too.
	Exited bool
}

// values returns the parameters that all paths have in common.
func (q Question) values() url.Values {
	v := url.Values{}
	if q.Filter != "" {
		v.Set("filter", q.Filter)
	}
	if len(q.Fields) > 0 {
		v.Set("fields", strings.Join(q.Fields, ","))
	}
	return v
}

func (q Question) limited() url.Values {
	v := q.values()
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// Events yields events as they happen that match. Losses come in between, as
// events of kind lost, which are not limited.
func (c *Client) Events(ctx context.Context, q Question) Lines {
	return c.lines(ctx, "/v1/events", q.limited())
}

// Recent yields the last events that match, of as many as the agent remembers.
func (c *Client) Recent(ctx context.Context, q Question) Lines {
	v := q.limited()
	v.Set("follow", "false")
	return c.lines(ctx, "/v1/events", v)
}

// Processes yields processes that match.
func (c *Client) Processes(ctx context.Context, q Question) Lines {
	v := q.values()
	if q.Exited {
		v.Set("exited", "true")
	}
	return c.lines(ctx, "/v1/processes", v)
}

// Process returns everything known of the process with a pid or an exec id, as
// one JSON object: the fields of its row, and the lists ancestors, children,
// connections and others.
func (c *Client) Process(ctx context.Context, id string) ([]byte, error) {
	return c.object(ctx, "/v1/processes/"+url.PathEscape(id))
}

// Connections yields connections that match, living and lately closed.
func (c *Client) Connections(ctx context.Context, q Question) Lines {
	return c.lines(ctx, "/v1/connections", q.values())
}

// FollowConnections yields what Connections does, and then every change.
func (c *Client) FollowConnections(ctx context.Context, q Question) Lines {
	v := q.values()
	v.Set("follow", "true")
	return c.lines(ctx, "/v1/connections", v)
}

// Fields returns the fields of events of a kind, or of all kinds if it is "".
func (c *Client) Fields(ctx context.Context, kind string) ([]Field, error) {
	q := url.Values{}
	if kind != "" {
		q.Set("kind", kind)
	}
	var list []Field
	for line, err := range c.lines(ctx, "/v1/fields", q) {
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

// Status returns the agent's report on itself, one JSON object: a [Status].
func (c *Client) Status(ctx context.Context) ([]byte, error) {
	return c.object(ctx, "/v1/status")
}

// Health returns nil when the agent is ready and sees what happens.
func (c *Client) Health(ctx context.Context) error {
	_, err := c.object(ctx, "/healthz")
	return err
}

// maxObject bounds an answer that is one object, maxLine one line of a stream.
const (
	maxObject = 64 << 20
	maxLine   = 16 << 20
)

func (c *Client) object(ctx context.Context, path string) ([]byte, error) {
	resp, err := c.get(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxObject))
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	return bytes.TrimSpace(b), nil
}

func (c *Client) lines(ctx context.Context, path string, q url.Values) Lines {
	return func(yield func([]byte, error) bool) {
		resp, err := c.get(ctx, path, q)
		if err != nil {
			yield(nil, err)
			return
		}
		defer resp.Body.Close()
		s := bufio.NewScanner(resp.Body)
		s.Buffer(make([]byte, 0, 64<<10), maxLine)
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
func (c *Client) get(ctx context.Context, path string, q url.Values) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "warren", Path: path, RawQuery: q.Encode()}
	if raw, err := url.PathUnescape(path); err == nil && raw != path {
		u.Path, u.RawPath = raw, path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
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
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxObject))
	if err != nil || json.Unmarshal(b, e) != nil || e.Message == "" {
		return nil, fmt.Errorf("what listens on %s is no agent: it answered %s to %s", c.socket, resp.Status, path)
	}
	e.Status = resp.StatusCode
	return nil, e
}

// broken says what a failed connection means.
func (c *Client) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		if fi, statErr := os.Stat(c.socket); statErr == nil && fi.Mode()&fs.ModeSocket == 0 {
			err = syscall.ENOTSOCK
		}
		return &NoAgentError{Socket: c.socket, Err: err}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("the agent on %s has hung up: it was stopped, or went away", c.socket)
	}
	// What the library says around it is a path of ours and not of the agent's.
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("ask the agent on %s: %w", c.socket, err)
}
