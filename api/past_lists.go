package api

import (
	"cmp"
	"context"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"warren/event"
	"warren/filter"
)

// A connectionKey tells connections apart. The number of a socket is its own
// until the next boot; the rest is for those of earlier ones.
type connectionKey struct {
	cookie        uint64
	netns         uint32
	server        bool
	local, remote netip.AddrPort
}

func keyOf(c *event.Connection) connectionKey {
	return connectionKey{c.Cookie, c.NetNS, c.Server, netip.AddrPortFrom(c.Local, c.LocalPort), netip.AddrPortFrom(c.Remote, c.RemotePort)}
}

// mostOpen bounds the connections whose end is looked for on disk: what is beyond
// is told as it was when it was last heard of.
const mostOpen = 1 << 17

// listConnections writes the rows of connections: those that are known, or with
// since or until each that there was in that time, as it was last heard of.
func (s *Server) listConnections(ctx context.Context, out *Writer, a Asked) error {
	if !a.past() {
		return writeRows(out, s.connections(a.Filter.Match), start)
	}
	// What is in the table is newer than what is on disk of it.
	live := map[connectionKey]*event.Event{}
	if a.Until.IsZero() {
		s.tables.Connections(func(e *event.Event) bool {
			if c, ok := e.Data.(*event.Connection); ok && (c.State != event.Close || !e.Time.Before(a.Since)) {
				live[keyOf(c)] = e
			}
			return true
		})
	}
	open := map[connectionKey]*event.Event{}
	tell := func(e *event.Event) error {
		if !a.Filter.Match(e) {
			return nil
		}
		return out.event(e, start(e))
	}
	q := PastQuestion{Filter: a.Filter, Kinds: event.Kinds(event.KindConnection) | event.NoticeKinds, Since: a.Since, Until: a.Until}
	if !lasting(a.Filter) {
		q.Filter = nil // it is asked of each connection's last event
	}
	err := s.past(ctx, out, s.synced(ctx, q), nil, func(e *event.Event) error {
		c, ok := e.Data.(*event.Connection)
		if !ok {
			return out.Event(e) // of what is missing
		}
		k := keyOf(c)
		switch now := live[k]; {
		case now != nil && c.State == event.Close && now.Data.(*event.Connection).State == event.Close:
			return nil // the same, and it is told below
		case now != nil && c.State != event.Close:
			live[k] = begun(now, c)
			return nil
		case c.State == event.Close:
			delete(open, k)
			return tell(e)
		case e.Times() > 1:
			return nil // several that began: their ends, or the table, tell of each
		case len(open) >= mostOpen && open[k] == nil:
			return tell(e)
		}
		open[k] = e
		return nil
	})
	if err != nil {
		return err
	}
	list := make([]*event.Event, 0, len(open)+len(live))
	for _, m := range []map[connectionKey]*event.Event{open, live} {
		for _, e := range m {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *event.Event) int {
		return cmp.Or(start(a).Compare(start(b)), cmp.Compare(a.Seq, b.Seq))
	})
	for _, e := range list {
		if err := tell(e); err != nil {
			return err
		}
	}
	return out.Flush()
}

// begun returns the last event of a connection, with the begin that the history
// knows where it is older than the agent.
func begun(e *event.Event, c *event.Connection) *event.Event {
	d, ok := e.Data.(*event.Connection)
	if !ok || !d.Start.IsZero() || c.Start.IsZero() {
		return e
	}
	whole, row := *d, *e
	whole.Start, whole.Duration, row.Data = c.Start, int64(max(e.Time.Sub(c.Start), 0)), &whole
	return &row
}

// lasting reports whether a filter holds for all events of a connection or for
// none: it speaks of who has it and of its ends.
func lasting(prog *filter.Program) bool {
	return !slices.ContainsFunc(prog.Fields(), func(name string) bool {
		switch kind, _, _ := strings.Cut(name, "."); {
		case strings.HasSuffix(name, "ip.name"), strings.HasSuffix(name, "duration"), name == "fd.connected", name == "fd.name_changed":
			return true
		case kind == "proc", kind == "container", kind == "k8s", kind == "user", kind == "group", kind == "fd", name == "evt.kind":
			return false
		}
		return true
	})
}

// processesAt returns the rows of processes that ran at a moment.
func (s *Server) processesAt(ctx context.Context, a Asked) ([]*event.Event, error) {
	if s.cfg.History == nil {
		return nil, errNoHistory()
	}
	if _, err := s.cfg.History.Sync(ctx); err != nil {
		return nil, Unavailable("the history cannot be read: %v", err)
	}
	if st := s.cfg.History.Status(); st.Oldest.IsZero() || a.At.Before(st.Oldest) {
		return nil, beforeHistory(st, a.At)
	}
	var list []*event.Event
	for p, err := range s.cfg.History.Processes(ctx, a.At) {
		if err != nil {
			return nil, s.pastFailed(ctx, err, false)
		}
		if row := stateAt(p, a.At); a.Filter.Match(row) {
			list = append(list, row)
		}
	}
	slices.SortFunc(list, func(a, b *event.Event) int {
		return cmp.Or(a.Process.StartTime.Compare(b.Process.StartTime), compareKeys(a.Actor, b.Actor))
	})
	return list, nil
}

// exactly is how a moment is written beside another one that it may share the second
// with.
const exactly = "2006-01-02T15:04:05.999Z07:00"

func beforeHistory(st HistoryStatus, at time.Time) *Error {
	if st.Oldest.IsZero() {
		return NotFound("nothing is known of %s: the history is empty", at.Format(exactly))
	}
	e := NotFound("nothing is known of %s", at.Format(exactly))
	e.Hint = "the history begins at " + st.Oldest.In(at.Location()).Format(exactly)
	return e
}

// stateAt is the row of a process in a list of those that ran at a moment.
func stateAt(p *event.Process, at time.Time) *event.Event {
	ktime := p.Start
	if d := at.Sub(p.StartTime); d > 0 && !p.StartTime.IsZero() {
		ktime += uint64(d)
	}
	return p.State(at, ktime)
}

// each calls do with the events of a question to the history, until it returns an
// error.
func each(events iter.Seq2[*event.Event, error], do func(*event.Event) error) error {
	for e, err := range events {
		if err == nil {
			err = do(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
