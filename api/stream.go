package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"warren/event"
	"warren/filter"
)

func (s *Server) serveEvents(w http.ResponseWriter, req *http.Request, q Query) error {
	a, err := s.question(PathEvents, q)
	if err != nil {
		return err
	}
	if a.past() {
		kinds := a.Filter.Asked()
		if a.Follow {
			kinds = event.AllKinds // what is not kept happens
		}
		if err := s.kept(kinds); err != nil {
			return err
		}
	}
	out := NewWriter(w, req, s.cfg.Stall, a.Fields)
	switch {
	case a.past() && a.Follow:
		return s.followPast(req, out, a)
	case a.past():
		return s.pastEvents(req.Context(), out, a)
	case !a.Follow:
		return s.lastEvents(req.Context(), out, a)
	}
	stream, err := s.subscribe(req, "events", a.Filter, a.Filter.Asked())
	if err != nil {
		return err
	}
	defer stream.close()
	return s.follow(req.Context(), out, stream, a.Limit, nothingKnown)
}

// nothingKnown is for streams that begin with what happens now.
func nothingKnown(*event.Event) bool { return false }

func (s *Server) serveConnections(w http.ResponseWriter, req *http.Request, q Query) error {
	a, err := s.question(PathConnections, q)
	if err != nil {
		return err
	}
	if err := s.ready(req.Context()); err != nil {
		return err
	}
	if a.past() {
		if err := s.kept(event.Kinds(event.KindConnection)); err != nil {
			return err
		}
	}
	out := NewWriter(w, req, s.cfg.Stall, a.Fields)
	if !a.Follow {
		return s.listConnections(req.Context(), out, a)
	}
	// First the stream, then the rows: what changes meanwhile is in one of the
	// two. A change that the rows tell of already is not told again.
	stream, err := s.subscribe(req, "connections", a.Filter, event.Kinds(event.KindConnection))
	if err != nil {
		return err
	}
	defer stream.close()
	known := s.events.Seq()
	if err := s.listConnections(req.Context(), out, a); err != nil {
		return err
	}
	return s.follow(req.Context(), out, stream, 0, func(e *event.Event) bool { return e.Seq <= known && !event.NoticeKinds.Has(e.Data.Kind()) })
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

// stream is a subscription of one request.
type stream struct {
	Stream
	done func()
}

func (s *Server) subscribe(req *http.Request, what string, prog *filter.Program, among event.KindSet) (*stream, error) {
	select {
	case s.streams <- struct{}{}:
	default:
		return nil, Unavailable("%d streams are open already: no more are served at the same time", cap(s.streams))
	}
	who := what
	if a := req.RemoteAddr; a != "" && a != "@" {
		who += " " + a
	}
	sub, err := s.events.Subscribe(who, prog, among)
	if err != nil {
		<-s.streams
		return nil, Unavailable("%v", err)
	}
	return &stream{Stream: sub, done: func() { <-s.streams }}, nil
}

func (st *stream) close() {
	st.Stream.Close()
	st.done()
}

// beginTime bounds how long the beginning of a stream waits for its hooks: one
// that a slow machine takes longer to attach shows itself in status.
const beginTime = 5 * time.Second

// begin tells the client that the stream has begun: what happens after that is in
// it.
func (s *Server) begin(ctx context.Context, out *Writer, from *stream) error {
	limited, cancel := context.WithTimeout(ctx, beginTime)
	defer cancel()
	if err := from.Begun(limited); err != nil && ctx.Err() != nil {
		return &clientGone{ctx.Err()}
	}
	return out.Flush()
}

// follow writes events as they come: at once while there is time, in large
// pieces while there is none. It ends with the stream, after limit events, or
// when the client has gone. Events that are known are left out.
func (s *Server) follow(ctx context.Context, out *Writer, from *stream, limit int, known func(*event.Event) bool) error {
	if err := s.begin(ctx, out, from); err != nil {
		return err
	}
	for n := 0; limit == 0 || n < limit; {
		e, err := s.next(ctx, out, from)
		switch {
		case errors.Is(err, io.EOF):
			return out.Flush()
		case err != nil:
			return err
		}
		k := e.Data.Kind()
		if known(e) {
			continue
		}
		if err := out.Event(e); err != nil {
			return err
		}
		if !event.NoticeKinds.Has(k) {
			n++
		}
	}
	return out.Flush()
}

// next returns the next event. Before it waits it sends what is written, and
// while it waits it shows the client now and then that it is there.
func (s *Server) next(ctx context.Context, out *Writer, from *stream) (*event.Event, error) {
	if from.Buffered() {
		return from.Next(ctx)
	}
	if err := out.Flush(); err != nil {
		return nil, err
	}
	for {
		idle, cancel := context.WithTimeout(ctx, out.Idle(s.cfg.KeepAlive))
		e, err := from.Next(idle)
		cancel()
		switch {
		case ctx.Err() != nil && err != nil && !errors.Is(err, io.EOF):
			return nil, &clientGone{ctx.Err()}
		case !errors.Is(err, context.DeadlineExceeded):
			return e, err
		}
		if err := out.Beat(); err != nil {
			return nil, err
		}
	}
}

// writeRows writes the rows of a list, which are in the order of a time.
func writeRows(out *Writer, list []*event.Event, order func(*event.Event) time.Time) error {
	for _, e := range list {
		if err := out.event(e, order(e)); err != nil {
			return err
		}
	}
	return out.Flush()
}
