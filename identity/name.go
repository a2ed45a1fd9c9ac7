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
	m       map[nameKey]*name
	used    list[name] // least recently used first
	max     int
	evicted uint64
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
	links[name]
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
			n = t.used.first()
			t.used.drop(&n.links)
			delete(t.m, n.key)
			t.evicted++
		} else {
			n = new(name)
		}
		*n = name{key: k, now: span{s, ktime, until}}
		t.m[k] = n
		t.used.push(n, &n.links)
	case n.now.name == s:
		n.now.until = max(n.now.until, until)
		t.used.move(&n.links)
	default:
		n.before, n.now = n.now, span{s, ktime, until}
		t.used.move(&n.links)
	}
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
	if t.used.tail != &n.links {
		t.used.move(&n.links)
	}
	for _, s := range []span{n.now, n.before} {
		if s.since <= ktime && ktime <= s.until {
			return s.name
		}
	}
	return ""
}

// applyDNS learns the addresses of an answer. They get the name that was asked
// for, whatever aliases led to them.
func (i *Identity) applyDNS(e *event.Event, d *event.DNS) {
	i.nameEnds(&d.Socket, e.Ktime)
	if i.cfg.Cluster != nil {
		i.meetDNS(e, d)
	}
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
