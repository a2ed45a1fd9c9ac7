package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"warren/filter"
)

// A Route is one path that is answered.
type Route struct {
	// Pattern is the path as openapi.json has it: {name} stands for what varies.
	Pattern string
	// Params are the query parameters that it takes; every other is refused.
	Params []string
	// Handle answers. An error it returns is told to who asked: see [Fail].
	Handle func(w http.ResponseWriter, req *http.Request, q Query) error
}

// A Mux answers GETs by the path, and everything else with an error that says
// what is wrong. Any goroutine may use it.
type Mux struct {
	routes []Route
	log    *slog.Logger
	mux    *http.ServeMux
}

// NewMux returns a handler that answers routes.
func NewMux(routes []Route, log *slog.Logger) *Mux {
	m := &Mux{routes: routes, log: log, mux: http.NewServeMux()}
	for _, r := range routes {
		m.mux.HandleFunc("GET "+r.Pattern, func(w http.ResponseWriter, req *http.Request) {
			q, err := parseQuery(req, r.Params)
			if err == nil {
				err = r.Handle(w, req, q)
			}
			if err != nil {
				Fail(w, req, log, err)
			}
		})
	}
	return m
}

// ServeHTTP implements [http.Handler].
func (m *Mux) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if _, pattern := m.mux.Handler(req); pattern != "" && req.Method == http.MethodGet {
		m.mux.ServeHTTP(w, req)
		return
	}
	// The path may be one of ours, asked with another method.
	get := *req
	get.Method = http.MethodGet
	if _, pattern := m.mux.Handler(&get); pattern != "" {
		h.Set("Allow", http.MethodGet)
		WriteError(w, &Error{Status: http.StatusMethodNotAllowed, Message: fmt.Sprintf("method %s is not allowed: every path answers GET only", printable(req.Method))})
		return
	}
	e := NotFound("no such path %s", printable(req.URL.Path))
	var paths []string
	for _, r := range m.routes {
		paths = append(paths, r.Pattern)
	}
	switch near := filter.Nearest(req.URL.Path, paths); {
	case near != "":
		e.Hint = "did you mean " + near + "?"
	case slices.Contains(paths, "/openapi.json"):
		e.Hint = "/openapi.json describes all paths"
	default:
		e.Hint = "paths are " + strings.Join(paths, ", ")
	}
	WriteError(w, e)
}

// What a client may take to ask.
const (
	headerTime   = 5 * time.Second
	idleTime     = 2 * time.Minute
	shutdownTime = 5 * time.Second
	headerBytes  = 64 << 10
)

// A Door is where clients come in, and who answers them there.
type Door struct {
	net.Listener
	Handler http.Handler
}

// bodyTaker is a handler that wants the body of some requests.
type bodyTaker interface{ takesBody(*http.Request) bool }

// bodiless refuses requests that have a body: none is for anything here, but for
// what a handler wants itself, and who announces one that does not come would
// keep a connection for ever.
func bodiless(next http.Handler) http.Handler {
	taker, _ := next.(bodyTaker)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.ContentLength == 0 {
			next.ServeHTTP(w, req)
			return
		}
		if taker != nil && taker.takesBody(req) {
			if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(headerTime)); err != nil {
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, req)
			return
		}
		// What is on the way is read, so that the answer is not lost with it.
		if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(headerTime)); err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Connection", "close")
		e := BadRequest("the request has a body: every path answers GET without one")
		if req.Method != http.MethodGet {
			e.Status, e.Message = http.StatusMethodNotAllowed, fmt.Sprintf("method %s is not allowed: every path answers GET only", printable(req.Method))
			w.Header().Set("Allow", http.MethodGet)
		}
		WriteError(w, e)
	})
}

// Serve answers at doors until ctx ends, and then lets what is being answered
// end: streams end when their events do. It closes the listeners. A client that
// reads nothing for stall is disconnected.
func Serve(ctx context.Context, stall time.Duration, log *slog.Logger, doors ...Door) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, d := range doors {
		hs := &http.Server{
			Handler:           bodiless(d.Handler),
			ReadHeaderTimeout: headerTime,
			IdleTimeout:       idleTime,
			WriteTimeout:      stall, // streams move it with each write
			MaxHeaderBytes:    headerBytes,
			ConnContext:       withConn,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
		g.Go(func() error {
			if err := hs.Serve(d.Listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("listen on %s: %w", d.Addr(), err)
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
