package alert

import (
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"warren/event"
	"warren/rule"
)

// maxGroups is how many different alerts are remembered at a time. What is beyond
// them is told one by one.
const maxGroups = 8192

// noise keeps identical alerts from being told again: of the same rule, about the
// same workload, and with the same values of the output's fields, but for those
// that differ each time. The first is told at once, those within a window behind
// it as one, with their number, when it ends; while more come there is one such
// each window.
//
// All workers share it, so that what is told does not depend on how many they are.
type noise struct {
	window time.Duration
	keys   map[*rule.Rule]*rule.Format
	seeds  [2]maphash.Seed

	mu     sync.Mutex
	groups map[groupKey]*group
	due    []*group // in the order of when their windows end
	over   uint64   // alerts that found no room
}

// A groupKey is what identical alerts have in common, hashed: nobody who does not
// know the seeds can make two that are not look so.
type groupKey [2]uint64

type group struct {
	key   groupKey
	rule  *rule.Rule
	end   time.Time
	more  uint64 // alerts since it was last told
	first time.Time
	last  *event.Event
}

func newNoise(window time.Duration, set *rule.Set) *noise {
	n := &noise{window: window, keys: map[*rule.Rule]*rule.Format{}, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, groups: map[groupKey]*group{}}
	for _, r := range set.Rules {
		n.keys[r] = r.Format.Key(differs)
	}
	return n
}

// differs reports whether a field has another value each time that the same thing
// happens.
func differs(name string) bool { return slices.Contains(differing, name) }

var differing = []string{
	"evt.time", "evt.datetime", "evt.rawtime", "evt.num", "evt.ktime", "evt.count", "evt.time_last",
	"proc.pid", "proc.vpid", "proc.ppid", "proc.apid", "thread.tid", "proc.sid", "proc.pgid", "proc.vsid", "proc.vpgid", "proc.exec_id", "proc.parent_exec_id",
	"proc.duration", "proc.ppid.duration", "proc.pid.ts", "proc.ppid.ts", "proc.start", "proc.exec_time",
	// A client's port is left out by append.
	"fd.cookie", "conn.start", "conn.duration", "conn.latency",
}

// append appends what has to be the same of an event.
func (n *noise) append(b []byte, r *rule.Rule, e *event.Event) []byte {
	b = append(b, r.Name...)
	b = append(b, 0)
	if p := e.Process; p != nil && p.Container != nil {
		b = append(b, p.Container.FullID...)
		if p.Container.Pod != nil {
			b = append(b, p.Container.Pod.UID...)
		}
	}
	b = append(b, 0)
	s := event.SocketOf(e)
	if s == nil {
		return n.keys[r].Append(b, e)
	}
	// A client has another port each time.
	c := *e
	d := *s
	if d.Server {
		d.RemotePort = 0
	} else {
		d.LocalPort = 0
	}
	switch data := e.Data.(type) {
	case *event.Connection:
		x := *data
		x.Socket, c.Data = d, &x
	case *event.DNS:
		x := *data
		x.Socket, c.Data = d, &x
	case *event.Syscall:
		x := *data
		x.Sock, c.Data = &d, &x
	default:
		return n.keys[r].Append(b, e)
	}
	return n.keys[r].Append(b, &c)
}

// add reports whether a match of a rule is another one of those that were told:
// it is not to be told then. text is room for a key.
func (n *noise) add(text []byte, r *rule.Rule, e *event.Event, now time.Time) (_ []byte, again bool) {
	text = n.append(text[:0], r, e)
	key := groupKey{maphash.Bytes(n.seeds[0], text), maphash.Bytes(n.seeds[1], text)}
	n.mu.Lock()
	defer n.mu.Unlock()
	g := n.groups[key]
	switch {
	case g != nil:
		if g.more == 0 {
			g.first = e.Time
		}
		g.more++
		if g.last == nil || !e.Time.Before(g.last.Time) {
			g.last = e
		}
		if e.Time.Before(g.first) { // of another process
			g.first = e.Time
		}
		return text, true
	case len(n.groups) >= maxGroups:
		n.over++
		return text, false
	}
	g = &group{key: key, rule: r, end: now.Add(n.window)}
	n.groups[key] = g
	n.due = append(n.due, g)
	return text, false
}

// A summary is of alerts that were not told one by one.
type summary struct {
	rule  *rule.Rule
	times uint64
	first time.Time
	last  *event.Event
}

// ended returns what is to be told of windows that end up to now; of all of them,
// with the zero time.
func (n *noise) ended(now time.Time) (list []summary) {
	n.mu.Lock()
	defer n.mu.Unlock()
	left := len(n.due)
	for ; left > 0 && (now.IsZero() || !n.due[0].end.After(now)); left-- {
		g := n.due[0]
		n.due[0] = nil
		n.due = n.due[1:]
		if g.more == 0 {
			delete(n.groups, g.key)
			continue
		}
		list = append(list, summary{g.rule, g.more, g.first, g.last})
		g.more, g.last = 0, nil
		if now.IsZero() {
			delete(n.groups, g.key)
			continue
		}
		g.end = now.Add(n.window)
		n.due = append(n.due, g)
	}
	return list
}

// overflow returns how many alerts found no room.
func (n *noise) overflow() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.over
}
