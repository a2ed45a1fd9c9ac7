// Package api is how people and programs ask a running agent: HTTP with JSON on
// a Unix socket and on loopback, described by openapi.json. [Client] is the
// other end.
//
// Streams and lists are NDJSON: one object a line, whose keys are the names of
// fields (see [event.AppendJSON]). A stream that is idle sends an empty line now
// and then, so that both ends notice when the other has gone.
//
// A client that reads too slowly loses events, not the agent's memory: what its
// queue has no room for is counted and told to it as an event of kind lost. One
// that stops reading altogether is disconnected.
//
// The server knows nothing of sensors and kernels: what it serves is handed in
// as values, by the interfaces below. All of it may be used by any goroutine.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"warren/event"
	"warren/filter"
)

// Config are the server's settings; zero values stand for the defaults.
type Config struct {
	// Streams is how many streams can be open at the same time. Default 64.
	Streams int
	// KeepAlive is how long a stream stays silent. Default 15 s.
	KeepAlive time.Duration
	// Stall is how long a client may read nothing before it is disconnected.
	// Default 30 s.
	Stall time.Duration
}

func (c Config) withDefaults() Config {
	if c.Streams <= 0 {
		c.Streams = 64
	}
	if c.KeepAlive <= 0 {
		c.KeepAlive = 15 * time.Second
	}
	if c.Stall <= 0 {
		c.Stall = 30 * time.Second
	}
	return c
}

// Events is where events come from.
type Events interface {
	// Subscribe begins a stream of what a filter matches among events of some
	// kinds. who names the consumer to people.
	Subscribe(who string, wanted *filter.Program, among event.KindSet) (Stream, error)
	// Recent returns the last events, in their order.
	Recent() []*event.Event
	// Seq returns the number of the last event that the tables know of.
	Seq() uint64
}

// A Stream is one consumer's events. Next and Buffered are called by one
// goroutine.
type Stream interface {
	// Next waits for the next event; io.EOF ends the stream.
	Next(ctx context.Context) (*event.Event, error)
	// Buffered reports whether Next would return at once.
	Buffered() bool
	Close()
}

// Tables are what is known at present.
type Tables interface {
	Process(k event.Key) *event.Process
	ProcessByPID(pid uint32) []*event.Process // newest first, exited ones included
	Processes(yield func(*event.Process) bool)
	Connections(yield func(*event.Event) bool)
}

// Self is what the agent knows of itself.
type Self interface {
	Status() Status
	// Ready is closed when the tables are complete.
	Ready() <-chan struct{}
	// Err returns why the agent no longer sees what happens, nil while it does.
	Err() error
}

// A Server answers questions.
type Server struct {
	cfg     Config
	events  Events
	tables  Tables
	self    Self
	proc    procfs
	log     *slog.Logger
	metrics http.Handler
	mux     *http.ServeMux
	streams chan struct{} // holds one element for each open stream; who finds it full is refused
}

// New returns a server. It does not listen yet.
func New(cfg Config, events Events, tables Tables, self Self, log *slog.Logger) *Server {
	s := &Server{cfg: cfg.withDefaults(), events: events, tables: tables, self: self, proc: procfs{"/proc"}, log: log, metrics: newMetrics(self), mux: http.NewServeMux()}
	s.streams = make(chan struct{}, s.cfg.Streams)
	for _, r := range s.routes() {
		s.mux.HandleFunc("GET "+r.pattern, func(w http.ResponseWriter, req *http.Request) {
			s.serve(w, req, r)
		})
	}
	return s
}

// A route is one path and the query parameters that it takes.
type route struct {
	pattern string
	params  []string
	handle  func(*Server, http.ResponseWriter, *http.Request, query) error
}

// routes is the list of all there is; openapi.json describes each.
func (*Server) routes() []route {
	return []route{
		{"/v1/events", []string{"filter", "fields", "follow", "limit"}, (*Server).serveEvents},
		{"/v1/processes", []string{"filter", "fields", "exited"}, (*Server).serveProcesses},
		{"/v1/processes/{id}", nil, (*Server).serveProcess},
		{"/v1/connections", []string{"filter", "fields", "follow"}, (*Server).serveConnections},
		{"/v1/fields", []string{"kind"}, (*Server).serveFields},
		{"/v1/status", nil, (*Server).serveStatus},
		{"/metrics", nil, (*Server).serveMetrics},
		{"/healthz", nil, (*Server).serveHealth},
		{"/openapi.json", nil, (*Server).serveOpenAPI},
	}
}

func (s *Server) serve(w http.ResponseWriter, req *http.Request, r route) {
	q, err := parseQuery(req, r.params)
	if err == nil {
		err = r.handle(s, w, req, q)
	}
	if err != nil {
		s.fail(w, req, err)
	}
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if _, pattern := s.mux.Handler(req); pattern != "" && req.Method == http.MethodGet {
		s.mux.ServeHTTP(w, req)
		return
	}
	// The path may be one of ours, asked with another method.
	get := *req
	get.Method = http.MethodGet
	if _, pattern := s.mux.Handler(&get); pattern != "" {
		h.Set("Allow", http.MethodGet)
		s.fail(w, req, &Error{Status: http.StatusMethodNotAllowed, Message: fmt.Sprintf("method %s is not allowed: every path answers GET only", printable(req.Method))})
		return
	}
	e := &Error{Status: http.StatusNotFound, Message: fmt.Sprintf("no such path %s", printable(req.URL.Path))}
	var paths []string
	for _, r := range s.routes() {
		paths = append(paths, r.pattern)
	}
	if near := filter.Nearest(req.URL.Path, paths); near != "" {
		e.Hint = "did you mean " + near + "?"
	} else {
		e.Hint = "/openapi.json describes all paths"
	}
	s.fail(w, req, e)
}

// Error is the answer to a question that could not be answered.
type Error struct {
	Status  int    `json:"-"`
	Message string `json:"error"`
	// Expr, Pos and End are set for a filter: the mistake is Expr[Pos:End].
	Expr *string `json:"expr,omitempty"`
	Pos  *int    `json:"pos,omitempty"`
	End  *int    `json:"end,omitempty"`
	Hint string  `json:"hint,omitempty"`
}

// Error implements error.
func (e *Error) Error() string {
	if e.Hint == "" || strings.Contains(e.Message, e.Hint) {
		return e.Message
	}
	return e.Message + "; " + e.Hint
}

// Unwrap returns the error of the filter, a [*filter.Error], if it is one.
func (e *Error) Unwrap() error {
	if e.Expr == nil || e.Pos == nil || e.End == nil {
		return nil
	}
	return &filter.Error{Expr: *e.Expr, Pos: *e.Pos, End: *e.End, Msg: e.Message, Hint: e.Hint}
}

// fail answers with an error, or ends the connection where an answer has begun.
func (s *Server) fail(w http.ResponseWriter, req *http.Request, err error) {
	var e *Error
	var gone *clientGone
	switch {
	case errors.As(err, &gone):
		s.log.Debug("client has gone", "path", req.URL.Path, "err", err)
		// What was sent must not look whole.
		panic(http.ErrAbortHandler)
	case !errors.As(err, &e):
		s.log.Warn("a question could not be answered", "path", req.URL.Path, "err", err)
		e = &Error{Status: http.StatusInternalServerError, Message: err.Error()}
	}
	writeError(w, e)
}

func writeError(w http.ResponseWriter, e *Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(e) // the client may have gone: nobody is left to tell
}

// serveTime bounds what a client takes to ask.
const (
	headerTime   = 5 * time.Second
	idleTime     = 2 * time.Minute
	shutdownTime = 5 * time.Second
	headerBytes  = 64 << 10
)

// Serve answers on the listeners until ctx ends, and then lets what it is
// answering end: streams end when their events do. It closes the listeners.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		handler := http.Handler(s)
		if l.Addr().Network() == "tcp" {
			handler = local(s, l.Addr())
		}
		hs := &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: headerTime,
			IdleTimeout:       idleTime,
			WriteTimeout:      s.cfg.Stall, // streams move it with each line
			MaxHeaderBytes:    headerBytes,
			ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		}
		g.Go(func() error {
			if err := hs.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("listen on %s: %w", l.Addr(), err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
			defer cancel()
			if err := hs.Shutdown(grace); err != nil {
				return hs.Close()
			}
			return nil
		})
	}
	return g.Wait()
}

// query is the parameters of a request, each given at most once.
type query map[string]string

func parseQuery(req *http.Request, known []string) (query, error) {
	values, err := parseValues(req.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	q := query{}
	for name, v := range values {
		if !slices.Contains(known, name) {
			e := badRequest("unknown parameter %s", printable(name))
			switch near := filter.Nearest(name, known); {
			case near != "":
				e.Hint = "did you mean " + near + "?"
			case len(known) == 0:
				e.Hint = req.URL.Path + " takes no parameters"
			default:
				e.Hint = "known are " + strings.Join(known, ", ")
			}
			return nil, e
		}
		if len(v) > 1 {
			return nil, badRequest("parameter %s is given %d times", name, len(v))
		}
		q[name] = v[0]
	}
	return q, nil
}

func badRequest(format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) *Error {
	return &Error{Status: http.StatusNotFound, Message: fmt.Sprintf(format, args...)}
}

func unavailable(format string, args ...any) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Message: fmt.Sprintf(format, args...)}
}

// ready waits a while for the tables to be complete, so that the first answer
// is.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	select {
	case <-s.self.Ready():
		return nil
	case <-ctx.Done():
		return unavailable("the agent is still starting: it has not read yet what was there before it")
	}
}

const readyTime = 10 * time.Second
