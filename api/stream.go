package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"warren/event"
	"warren/filter"
)

func (s *Server) serveEvents(w http.ResponseWriter, req *http.Request, q query) error {
	prog, err := q.filter()
	if err != nil {
		return err
	}
	if prog.Kinds()&^event.StateKinds == 0 {
		return cannotMatch(q, prog, "event")
	}
	fields, err := q.fields()
	if err != nil {
		return err
	}
	follow, err := q.bool("follow", true)
	if err != nil {
		return err
	}
	limit, err := q.count("limit")
	if err != nil {
		return err
	}
	out := newLines(w, s.cfg.Stall, fields)
	if !follow {
		return s.recentEvents(out, prog, limit)
	}
	stream, err := s.subscribe(req, "events", prog, event.AllKinds)
	if err != nil {
		return err
	}
	defer stream.close()
	return s.follow(req.Context(), out, stream, limit, 0)
}

// recentEvents answers with what matches among the last events, the last limit
// of them, and what was lost in between.
func (s *Server) recentEvents(out *lines, prog *filter.Program, limit int) error {
	var list []*event.Event
	for _, e := range s.events.Recent() {
		if e.Data.Kind() == event.KindLost || prog.Kinds().Has(e.Data.Kind()) && prog.Match(e) {
			list = append(list, e)
		}
	}
	first := len(list)
	for left := limit; first > 0 && (limit == 0 || left > 0); {
		if first--; list[first].Data.Kind() != event.KindLost {
			left--
		}
	}
	return writeEvents(out, list[first:])
}

func (s *Server) serveConnections(w http.ResponseWriter, req *http.Request, q query) error {
	prog, err := q.filter()
	if err != nil {
		return err
	}
	if !prog.Kinds().Has(event.KindConnection) {
		return cannotMatch(q, prog, "connection")
	}
	fields, err := q.fields()
	if err != nil {
		return err
	}
	follow, err := q.bool("follow", false)
	if err != nil {
		return err
	}
	if err := s.ready(req.Context()); err != nil {
		return err
	}
	out := newLines(w, s.cfg.Stall, fields)
	if !follow {
		return writeEvents(out, s.connections(prog.Match))
	}
	// First the stream, then the rows: what changes meanwhile is in one of the
	// two. A change that the rows tell of already is not told again.
	stream, err := s.subscribe(req, "connections", prog, event.Kinds(event.KindConnection))
	if err != nil {
		return err
	}
	defer stream.close()
	known := s.events.Seq()
	if err := writeEvents(out, s.connections(prog.Match)); err != nil {
		return err
	}
	return s.follow(req.Context(), out, stream, 0, known)
}

// connections returns the rows of the table that match, oldest first.
func (s *Server) connections(match func(*event.Event) bool) []*event.Event {
	var list []*event.Event
	s.tables.Connections(func(e *event.Event) bool {
		if match(e) {
			list = append(list, e)
		}
		return true
	})
	slices.SortStableFunc(list, func(a, b *event.Event) int { return start(a).Compare(start(b)) })
	return list
}

func start(e *event.Event) time.Time {
	if c, ok := e.Data.(*event.Connection); ok && (c.Existing || !c.Start.IsZero()) {
		return c.Start // zero, the first of all, where it is older than the agent
	}
	return e.Time
}

// cannotMatch says that a list would be empty whatever happens: the filter
// speaks of something else.
func cannotMatch(q query, prog *filter.Program, what string) error {
	expr, pos, end := q["filter"], 0, len(q["filter"])
	wants := "events of kind " + prog.Kinds().String()
	switch kinds := prog.Kinds(); {
	case kinds == 0:
		wants = "what cannot be at the same time"
	case what == "event":
		wants = "kind " + kinds.String() + ", of which there are rows in lists and no events"
	}
	return &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("no %s can match: the filter wants %s", what, wants), Expr: &expr, Pos: &pos, End: &end}
}

// stream is a subscription of one request.
type stream struct {
	Stream
	done func()
}

func (s *Server) subscribe(req *http.Request, what string, prog *filter.Program, among event.KindSet) (*stream, error) {
	select {
	case s.streams <- struct{}{}:
	default:
		return nil, unavailable("%d streams are open already: no more are served at the same time", cap(s.streams))
	}
	who := what
	if a := req.RemoteAddr; a != "" && a != "@" {
		who += " " + a
	}
	sub, err := s.events.Subscribe(who, prog, among)
	if err != nil {
		<-s.streams
		return nil, unavailable("%v", err)
	}
	return &stream{Stream: sub, done: func() { <-s.streams }}, nil
}

func (st *stream) close() {
	st.Stream.Close()
	st.done()
}

// follow writes events as they come: at once while there is time, in large
// pieces while there is none. It ends with the stream, after limit events, or
// when the client has gone. Events up to the number known are left out.
func (s *Server) follow(ctx context.Context, out *lines, from *stream, limit int, known uint64) error {
	if err := out.flush(); err != nil { // tells the client that the stream has begun
		return err
	}
	for n := 0; limit == 0 || n < limit; {
		e, err := s.next(ctx, out, from)
		switch {
		case errors.Is(err, io.EOF):
			return out.flush()
		case err != nil:
			return err
		}
		k := e.Data.Kind()
		if e.Seq <= known && k != event.KindLost {
			continue
		}
		if err := out.event(e); err != nil {
			return err
		}
		if k != event.KindLost {
			n++
		}
	}
	return out.flush()
}

// next returns the next event. Before it waits it sends what is written, and
// while it waits it shows the client now and then that it is there.
func (s *Server) next(ctx context.Context, out *lines, from *stream) (*event.Event, error) {
	if from.Buffered() {
		return from.Next(ctx)
	}
	for {
		if err := out.flush(); err != nil {
			return nil, err
		}
		idle, cancel := context.WithTimeout(ctx, s.cfg.KeepAlive)
		e, err := from.Next(idle)
		cancel()
		switch {
		case ctx.Err() != nil && err != nil && !errors.Is(err, io.EOF):
			return nil, &clientGone{ctx.Err()}
		case !errors.Is(err, context.DeadlineExceeded):
			return e, err
		}
		out.blank()
	}
}

// clientGone says that there is nobody left to answer.
type clientGone struct{ err error }

// Error implements error.
func (c *clientGone) Error() string { return "write: " + c.err.Error() }

// Unwrap returns what the connection said.
func (c *clientGone) Unwrap() error { return c.err }

// lines writes NDJSON.
type lines struct {
	w      http.ResponseWriter
	ctl    *http.ResponseController
	stall  time.Duration
	fields *event.Selection
	buf    []byte
	dirty  bool // the connection holds something back: the headers, at first
}

// flushBytes is how much a busy stream collects before it writes.
const flushBytes = 64 << 10

func newLines(w http.ResponseWriter, stall time.Duration, fields *event.Selection) *lines {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &lines{w: w, ctl: http.NewResponseController(w), stall: stall, fields: fields, buf: make([]byte, 0, 4096), dirty: true}
}

func (l *lines) event(e *event.Event) error {
	l.buf = append(l.fields.AppendJSON(l.buf, e), '\n')
	return l.full()
}

func (l *lines) blank() { l.buf = append(l.buf, '\n') }

// full writes when enough has come together.
func (l *lines) full() error {
	if len(l.buf) < flushBytes {
		return nil
	}
	return l.write()
}

func (l *lines) write() error {
	// Not supported is right for a writer without a connection.
	if err := l.ctl.SetWriteDeadline(time.Now().Add(l.stall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return &clientGone{err}
	}
	_, err := l.w.Write(l.buf)
	l.buf, l.dirty = l.buf[:0], true
	if err != nil {
		return &clientGone{err}
	}
	return nil
}

// flush sends everything, the headers too.
func (l *lines) flush() error {
	if len(l.buf) == 0 && !l.dirty {
		return nil
	}
	if err := l.write(); err != nil {
		return err
	}
	l.dirty = false
	if err := l.ctl.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return &clientGone{err}
	}
	return nil
}

func writeEvents(out *lines, list []*event.Event) error {
	for _, e := range list {
		if err := out.event(e); err != nil {
			return err
		}
	}
	return out.flush()
}
