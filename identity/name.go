package identity

import (
	"net/netip"

	"warren/event"
)

// names are the names that DNS answered for addresses, in each network
// namespace. Only Apply uses it, but for the counters.
//
// A name is good for the answer's time to live and nameGrace beyond it: programs
// connect a while after they asked, and resolvers hand out answers whose last
// seconds run. What an address was called before its present name is kept too,
// for events that happened before the last answer.
type names struct {
	m        map[nameKey]*name
	old, new *name // by use: least recently at old
	max      int
	evicted  uint64
}

const (
	nameGrace = 60e9          // nanoseconds
	maxTTL    = 7 * 24 * 3600 // seconds; what claims more is a mistake or an attack
	// maxAnswers bounds what one message can teach.
	maxAnswers = 64
)

type nameKey struct {
	netns uint32
	addr  netip.Addr
}

type name struct {
	key         nameKey
	now, before span
	prev, next  *name
}

// span is a name and the ktimes between which it was good.
type span struct {
	name         string
	since, until uint64
}

func (t *names) init(limit int) {
	t.m, t.max = map[nameKey]*name{}, limit
}

func (t *names) learn(netns uint32, addr netip.Addr, s string, ttl uint32, ktime uint64) {
	if s == "" || !addr.IsValid() || addr.IsUnspecified() {
		return
	}
	k := nameKey{netns, addr.Unmap()}
	until := ktime + uint64(min(ttl, maxTTL))*1e9 + nameGrace
	n := t.m[k]
	switch {
	case n == nil:
		if len(t.m) >= t.max {
			n = t.old
			t.unlink(n)
			delete(t.m, n.key)
			t.evicted++
		} else {
			n = new(name)
		}
		*n = name{key: k, now: span{s, ktime, until}}
		t.m[k] = n
	case n.now.name == s:
		n.now.until = max(n.now.until, until)
		t.unlink(n)
	default:
		n.before, n.now = n.now, span{s, ktime, until}
		t.unlink(n)
	}
	t.link(n)
}

// lookup returns what an address was called at a time, "" if nothing.
func (t *names) lookup(netns uint32, addr netip.Addr, ktime uint64) string {
	if len(t.m) == 0 || !addr.IsValid() {
		return ""
	}
	n := t.m[nameKey{netns, addr.Unmap()}]
	if n == nil {
		return ""
	}
	if n != t.new {
		t.unlink(n)
		t.link(n)
	}
	for _, s := range []span{n.now, n.before} {
		if s.since <= ktime && ktime <= s.until {
			return s.name
		}
	}
	return ""
}

func (t *names) link(n *name) {
	n.prev, n.next = t.new, nil
	if t.new != nil {
		t.new.next = n
	} else {
		t.old = n
	}
	t.new = n
}

func (t *names) unlink(n *name) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		t.old = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		t.new = n.prev
	}
}

// applyDNS learns the addresses of an answer. They get the name that was asked
// for, whatever aliases led to them.
func (i *Identity) applyDNS(e *event.Event, d *event.DNS) {
	i.nameEnds(&d.Socket, e.Ktime)
	if !d.Response {
		return
	}
	for _, a := range d.Addrs[:min(len(d.Addrs), maxAnswers)] {
		i.names.learn(d.NetNS, a.Addr, i.procs.intern.str(a.Name), a.TTL, e.Ktime)
	}
}

// nameEnds sets the names of both ends, as they were known at a time.
func (i *Identity) nameEnds(s *event.Socket, ktime uint64) {
	if s.LocalName == "" {
		s.LocalName = i.names.lookup(s.NetNS, s.Local, ktime)
	}
	if s.RemoteName == "" {
		s.RemoteName = i.names.lookup(s.NetNS, s.Remote, ktime)
	}
}
