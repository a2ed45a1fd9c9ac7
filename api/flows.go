package api

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"warren/event"
	"warren/filter"
)

// FlowsConfig are the bounds of a [FlowMemory]; zero values stand for the
// defaults.
type FlowsConfig struct {
	// Forwarded and Dropped are how many events of flows are remembered: what was
	// dropped, or would have been but for audit, is not pushed out by all that was
	// not. Default 4,096 of each.
	Forwarded, Dropped int
}

// A FlowMemory remembers the last flows, so that who asks afterwards is told. All
// methods may be called by any goroutine.
type FlowMemory struct {
	mu    sync.Mutex
	rings [2]flowEvents // forwarded, and not
	seen  uint64
	begun time.Time
}

// flowEvents are the last of some events.
type flowEvents struct {
	ring []*event.Event
	next uint64
}

func (r *flowEvents) add(e *event.Event) {
	r.ring[r.next%uint64(len(r.ring))] = e
	r.next++
}

func (r *flowEvents) len() int { return int(min(r.next, uint64(len(r.ring)))) }

// append appends the events, oldest first.
func (r *flowEvents) append(list []*event.Event) []*event.Event {
	for i := r.next - uint64(r.len()); i < r.next; i++ {
		list = append(list, r.ring[i%uint64(len(r.ring))])
	}
	return list
}

// NewFlowMemory returns one that remembers nothing yet: see [FlowMemory.Run].
func NewFlowMemory(cfg FlowsConfig) *FlowMemory {
	const flows = 4096
	if cfg.Forwarded <= 0 {
		cfg.Forwarded = flows
	}
	if cfg.Dropped <= 0 {
		cfg.Dropped = flows
	}
	m := &FlowMemory{begun: time.Now()}
	m.rings[0].ring = make([]*event.Event, cfg.Forwarded)
	m.rings[1].ring = make([]*event.Event, cfg.Dropped)
	return m
}

// Run remembers flows until ctx ends or the events do, and then returns nil.
func (m *FlowMemory) Run(ctx context.Context, events Events) error {
	return consume(ctx, events, "flows", event.Kinds(event.KindFlow), m.Add)
}

// Add remembers an event, if it is of a flow or says that flows were lost.
func (m *FlowMemory) Add(e *event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch d := e.Data.(type) {
	case *event.Flow:
		m.seen++
		if d.Verdict == event.Forwarded {
			m.rings[0].add(e)
		} else {
			m.rings[1].add(e)
		}
	case *event.Lost:
		if d.Lane == "queue" || strings.HasPrefix(d.What, "flow.") {
			m.rings[1].add(e)
		}
	}
}

// Recent returns what is remembered, in the order of the events.
func (m *FlowMemory) Recent() []*event.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*event.Event, 0, m.rings[0].len()+m.rings[1].len())
	for i := range m.rings {
		list = m.rings[i].append(list)
	}
	slices.SortFunc(list, func(a, b *event.Event) int {
		switch {
		case a.Seq < b.Seq:
			return -1
		case a.Seq > b.Seq:
			return 1
		}
		return 0
	})
	return list
}

// FlowMemoryStats are the figures of a [FlowMemory].
type FlowMemoryStats struct {
	Flows, MaxFlows int
	Bytes           int // about, processes not counted: others share them
	Seen            uint64
	Oldest          time.Time
}

// Stats returns the figures of now.
func (m *FlowMemory) Stats() FlowMemoryStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := FlowMemoryStats{Seen: m.seen}
	for i := range m.rings {
		r := &m.rings[i]
		s.Flows += r.len()
		s.MaxFlows += len(r.ring)
		if n := r.len(); n > 0 {
			if at := r.ring[(r.next-uint64(n))%uint64(len(r.ring))].Time; s.Oldest.IsZero() || at.Before(s.Oldest) {
				s.Oldest = at
			}
		}
	}
	s.Bytes = s.Flows * int(unsafe.Sizeof(event.Event{})+unsafe.Sizeof(event.Flow{}))
	return s
}

// serveFlows answers with the last flows that are remembered, or with those to
// come.
func (s *Server) serveFlows(w http.ResponseWriter, req *http.Request, q Query) error {
	a, err := s.question(PathFlows, q)
	if err != nil {
		return err
	}
	if s.cfg.Flows == nil {
		return &Error{Status: http.StatusServiceUnavailable, Message: noFlows, Hint: noFlowsHint}
	}
	out := NewWriter(w, req, s.cfg.Stall, a.Fields)
	if !a.Follow {
		return writeRows(out, lastOf(s.cfg.Flows.Recent(), a.Filter, a.Limit), func(e *event.Event) time.Time { return e.Time })
	}
	stream, err := s.subscribe(req, "flows", a.Filter, event.Kinds(event.KindFlow))
	if err != nil {
		return err
	}
	defer stream.close()
	return s.follow(req.Context(), out, stream, a.Limit, nothingKnown)
}

// What an agent without a datapath has to say of flows.
const (
	noFlows     = "this agent tells no flows: it does not connect pods (its configuration has no network)"
	noFlowsHint = "connections and their processes are told without it: warren connection list, warren events 'evt.kind = connection'"
)

// lastOf returns what matches, the last limit of it if that is above 0, with
// what was lost in between.
func lastOf(events []*event.Event, prog *filter.Program, limit int) []*event.Event {
	var list []*event.Event
	for _, e := range events {
		if event.NoticeKinds.Has(e.Data.Kind()) || prog.Kinds().Has(e.Data.Kind()) && prog.Match(e) {
			list = append(list, e)
		}
	}
	first := len(list)
	for left := limit; first > 0 && (limit == 0 || left > 0); {
		if first--; !event.NoticeKinds.Has(list[first].Data.Kind()) {
			left--
		}
	}
	return list[first:]
}
