package audit

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// Path is where the webhook takes events: Falco's.
const Path = "/k8s-audit"

// DefaultMaxBody is how large a request may be, unpacked, unless somebody says
// otherwise: Falco's limit.
const DefaultMaxBody = 12 << 20

const (
	// maxConns are connections at a time. API servers keep one or a few each.
	maxConns = 64
	// maxBodies are requests that are read at a time: so much of them is in memory.
	maxBodies = 4
	// bodyTime is how long a request may take to come.
	bodyTime = 20 * time.Second
	// headTime is how long what is before the body may take, and a handshake.
	headTime = 10 * time.Second
	idleTime = 3 * time.Minute
	maxHead  = 64 << 10
	// stopTime is how long requests that are being read may take when the end has come.
	stopTime = 2 * time.Second
)

// WebhookConfig says who may tell events, and how.
type WebhookConfig struct {
	// Cert and Key are files of our certificate; "" for HTTP in plain text. They, the
	// authority and the token are read again when they are used.
	Cert, Key string
	// ClientCA is a file of the authorities of clients' certificates; "" asks for none.
	ClientCA string
	// TokenFile is a file with what clients must show as bearer token; "" asks for none.
	TokenFile string
	// MaxBody is how large a request may be, unpacked; 0 stands for the default.
	MaxBody int64
}

// A Webhook takes lists of events from API servers.
type Webhook struct {
	in     *Intake
	cfg    WebhookConfig
	log    *slog.Logger
	bodies chan struct{} // those who read a request; capacity maxBodies
	conns  atomic.Int64
	keys   atomic.Pointer[tls.Config] // the last that could be read
}

// NewWebhook makes a webhook; it reads the files that it is to use.
func NewWebhook(in *Intake, cfg WebhookConfig, log *slog.Logger) (*Webhook, error) {
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = DefaultMaxBody
	}
	w := &Webhook{in: in, cfg: cfg, log: log, bodies: make(chan struct{}, maxBodies)}
	if cfg.Cert != "" {
		if _, err := w.readKeys(); err != nil {
			return nil, err
		}
	}
	if cfg.TokenFile != "" {
		if _, err := w.token(); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// Run answers at l until ctx ends, or over is closed, and closes it. Requests that are
// being read then have stopTime to come to their end; when ctx ends they are not heard
// to the end, for nobody looks at what they tell any more.
func (w *Webhook) Run(ctx context.Context, l net.Listener, over <-chan struct{}) error {
	server := &http.Server{
		Handler:           w,
		ReadHeaderTimeout: headTime,
		ReadTimeout:       headTime + bodyTime,
		WriteTimeout:      headTime + bodyTime + 2*patience,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHead,
		ConnState:         w.counted,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(w.log.Handler(), slog.LevelDebug),
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1: one request at a time on a connection
	}
	served, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-ctx.Done():
		case <-over:
		case <-served:
			return
		}
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	}()
	serve := server.Serve
	if w.cfg.Cert != "" {
		server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return w.readKeys() }}
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	err := serve(l)
	close(served)
	<-ended
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// counted closes connections of which there are too many.
func (w *Webhook) counted(c net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		if w.conns.Add(1) > maxConns {
			c.Close()
		}
	case http.StateClosed, http.StateHijacked:
		w.conns.Add(-1)
	}
}

// readKeys reads our certificate and the authorities. Where they have changed to
// what cannot be used, the former ones stay.
func (w *Webhook) readKeys() (*tls.Config, error) {
	c, err := w.cfg.keys()
	if err == nil {
		w.keys.Store(c)
		return c, nil
	}
	if old := w.keys.Load(); old != nil {
		w.in.wrong(new(uint64), "changed certificates cannot be used", "the former ones stay in force: "+err.Error()) // the request is taken
		return old, nil
	}
	return nil, err
}

func (c *WebhookConfig) keys() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("read the certificate %s and its key %s: %w", c.Cert, c.Key, err)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	if c.ClientCA == "" {
		return t, nil
	}
	pem, err := os.ReadFile(c.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("read the authority of clients: %w", err)
	}
	t.ClientAuth, t.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	// A ticket would outlive the authority that its owner was believed by.
	t.SessionTicketsDisabled = true
	if !t.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read the authority of clients: %s has no certificate in PEM", c.ClientCA)
	}
	return t, nil
}

// maxToken bounds a token: what is longer is something else.
const maxToken = 64 << 10

func (w *Webhook) token() (string, error) {
	f, err := os.Open(w.cfg.TokenFile)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxToken))
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	t := strings.TrimSpace(string(b))
	if t == "" {
		return "", fmt.Errorf("read the token: %s is empty", w.cfg.TokenFile)
	}
	return t, nil
}

// An answer is why a request is not taken.
type answer struct {
	code int
	msg  string
	why  error // what is not for who asks; nil for nothing
}

func (a *answer) Error() string { return a.msg }

func answerf(code int, format string, args ...any) *answer {
	return &answer{code: code, msg: fmt.Sprintf(format, args...)}
}

// ServeHTTP implements [http.Handler]. A list is taken as a whole or not at all;
// what of it cannot be read by itself, or is too large, is counted.
func (w *Webhook) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	if a := w.take(rw, req); a != nil {
		w.fail(rw, req, a)
		return
	}
	w.in.room(req.Context())
	rw.WriteHeader(http.StatusOK)
}

// fail answers that a request was not taken, and why.
func (w *Webhook) fail(rw http.ResponseWriter, req *http.Request, a *answer) {
	switch a.code {
	case http.StatusMethodNotAllowed:
		rw.Header().Set("Allow", http.MethodPost)
	case http.StatusUnauthorized:
		rw.Header().Set("WWW-Authenticate", "Bearer")
		rw.Header().Set("Connection", "close") // others want one
	case http.StatusServiceUnavailable:
		rw.Header().Set("Retry-After", "1")
	}
	why := req.RemoteAddr + ": " + a.msg
	if a.why != nil {
		why += ": " + a.why.Error()
	}
	if a.code == http.StatusBadRequest || a.code == http.StatusRequestEntityTooLarge {
		w.in.bad(errors.New(why)) // of somebody who may tell: events were in it
	} else {
		w.in.refuse(why)
	}
	http.Error(rw, a.msg, a.code)
}

// errEnds answers who was not heard to the end.
var errEnds = answerf(http.StatusServiceUnavailable, "the agent ends")

// take takes in the events of a request.
func (w *Webhook) take(rw http.ResponseWriter, req *http.Request) *answer {
	switch {
	case req.URL.Path != Path:
		return answerf(http.StatusNotFound, "events are taken at %s", Path)
	case req.Method != http.MethodPost:
		return answerf(http.StatusMethodNotAllowed, "want POST, not %.20q", req.Method)
	}
	if a := w.allowed(req); a != nil {
		return a
	}
	if kind, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return answerf(http.StatusUnsupportedMediaType, "want application/json, not %.60q", req.Header.Get("Content-Type"))
	}
	select {
	case w.bodies <- struct{}{}:
		defer func() { <-w.bodies }()
	case <-time.After(patience):
		return answerf(http.StatusServiceUnavailable, "%d requests are being read already", maxBodies)
	case <-req.Context().Done():
		return errEnds
	}
	body, a := w.body(rw, req)
	if a != nil {
		return a
	}
	list, err := parseList(body)
	if err != nil {
		return answerf(http.StatusBadRequest, "%v", err)
	}
	for item := range list {
		if req.Context().Err() != nil { // nobody may look at it any more
			return errEnds
		}
		w.in.take(item)
	}
	return nil
}

// allowed reports why somebody may tell nothing. A client's certificate has been
// judged before.
func (w *Webhook) allowed(req *http.Request) *answer {
	if w.cfg.TokenFile == "" {
		return nil
	}
	want, err := w.token()
	if err != nil {
		return &answer{code: http.StatusServiceUnavailable, msg: "the token cannot be read", why: err}
	}
	scheme, got, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare([]byte(strings.TrimSpace(got)), []byte(want)) != 1 {
		return answerf(http.StatusUnauthorized, "want the bearer token")
	}
	return nil
}

// errBroken answers who stopped sending: nothing is lost, it comes again.
var errBroken = answerf(http.StatusRequestTimeout, "the request did not come to its end")

// A sender knows why no more comes, if that is not all.
type sender struct {
	from io.Reader
	err  error
}

// Read implements [io.Reader].
func (s *sender) Read(b []byte) (int, error) {
	n, err := s.from.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// body reads what was sent, unpacked.
func (w *Webhook) body(rw http.ResponseWriter, req *http.Request) ([]byte, *answer) {
	// Somebody else wants to be read too.
	_ = http.NewResponseController(rw).SetReadDeadline(time.Now().Add(bodyTime)) // as bounded without it, by the server
	tooLarge := answerf(http.StatusRequestEntityTooLarge, "a request may have %d bytes", w.cfg.MaxBody)
	if req.ContentLength > w.cfg.MaxBody {
		return nil, tooLarge
	}
	sent := &sender{from: http.MaxBytesReader(rw, req.Body, w.cfg.MaxBody)}
	var from io.Reader = sent
	switch packed := req.Header.Get("Content-Encoding"); packed {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(sent)
		if sent.err != nil {
			return nil, errBroken
		}
		if err != nil {
			return nil, answerf(http.StatusBadRequest, "unpack the request: %v", err)
		}
		from = z
	default:
		return nil, answerf(http.StatusUnsupportedMediaType, "want gzip or nothing packed, not %.20q", packed)
	}
	body, err := io.ReadAll(io.LimitReader(from, w.cfg.MaxBody+1))
	var most *http.MaxBytesError
	switch {
	case errors.As(err, &most), err == nil && int64(len(body)) > w.cfg.MaxBody:
		return nil, tooLarge
	case sent.err != nil:
		return nil, errBroken
	case err != nil:
		return nil, answerf(http.StatusBadRequest, "read the request: %v", err)
	}
	return body, nil
}

// apiVersion is that of the events that API servers send.
const apiVersion = "audit.k8s.io/v1"

// parseList returns the events of a list, or a single event. Each is good until the
// next one, so that a list of very many takes no more room than its text.
func parseList(body []byte) (iter.Seq[json.RawMessage], error) {
	var head struct {
		Kind       string          `json:"kind"`
		APIVersion string          `json:"apiVersion"`
		Items      json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return nil, fmt.Errorf("this is no EventList of %s: %w", apiVersion, err)
	}
	switch {
	case head.APIVersion != apiVersion:
		return nil, fmt.Errorf("want %s, not %.60q", apiVersion, head.APIVersion)
	case head.Kind == "Event":
		return func(yield func(json.RawMessage) bool) { yield(body) }, nil
	case head.Kind != "EventList":
		return nil, fmt.Errorf("want an EventList, not %.60q", head.Kind)
	case len(head.Items) > 0 && head.Items[0] != '[' && string(head.Items) != "null":
		return nil, fmt.Errorf("this is no EventList of %s: its items are no array", apiVersion)
	}
	return func(yield func(json.RawMessage) bool) {
		d := json.NewDecoder(bytes.NewReader(head.Items))
		if _, err := d.Token(); err != nil {
			return // none
		}
		var item json.RawMessage
		for d.More() {
			item = item[:0]
			if d.Decode(&item) != nil || !yield(item) { // all has been found to be JSON above
				return
			}
		}
	}, nil
}
