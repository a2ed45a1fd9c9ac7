package store

import (
	"net/netip"
	"slices"

	"warren/event"
)

// A collapser makes one event of those that repeat: of the same snapshot of a
// process, of the same type, with the same peer and the same outcome, in the same
// second; of DNS with the same question and answer.
//
// What counts is added up: bytes, packets, segments sent again. Of what is
// measured the greatest stays (duration, latency, round trip), of the least round
// trip the least. What differs otherwise, and so is of none of them, is left out:
// the port that a client was given, the number of its socket, DNS's id.
type collapser struct {
	seen map[collapseKey]int // index of the event in the list
	own  map[int]bool        // those that are the collapser's, and may be changed
}

type collapseKey struct {
	process *event.Process
	actor   event.Key
	peer    netip.Addr
	port    uint16
	kind    event.Kind
	typ     string
	second  int64
}

// run collapses a list in place and returns what is left of it, in the order of
// the first ones.
func (c *collapser) run(events []*event.Event) []*event.Event {
	if c.seen == nil {
		c.seen, c.own = map[collapseKey]int{}, map[int]bool{}
	}
	clear(c.seen)
	clear(c.own)
	n := 0
	for _, e := range events {
		key, ok := keyOf(e)
		if ok {
			if i, there := c.seen[key]; there && c.merge(events, i, e) {
				continue
			}
			c.seen[key] = n
		}
		events[n] = e
		n++
	}
	clear(events[n:])
	return events[:n]
}

// keyOf reports false for what is not collapsed: an update tells how one
// connection goes on, and its counters are not to be added.
func keyOf(e *event.Event) (collapseKey, bool) {
	key := collapseKey{process: e.Process, actor: e.Actor, second: e.Time.Unix()}
	var s *event.Socket
	switch d := e.Data.(type) {
	case *event.Connection:
		if d.Type == "update" {
			return key, false
		}
		s, key.typ, key.kind = &d.Socket, d.Type, event.KindConnection
	case *event.DNS:
		s, key.typ, key.kind = &d.Socket, d.Name, event.KindDNS
	default:
		return key, false
	}
	key.peer = s.Remote
	if s.Server {
		key.port = s.LocalPort
	} else {
		key.port = s.RemotePort
	}
	return key, true
}

// merge adds e to the i-th event, if they are alike.
func (c *collapser) merge(events []*event.Event, i int, e *event.Event) bool {
	first := events[i]
	switch d := e.Data.(type) {
	case *event.Connection:
		if !alikeConnections(first.Data.(*event.Connection), d) {
			return false
		}
		addConnection(c.copied(events, i).Data.(*event.Connection), d)
	case *event.DNS:
		if !alikeQuestions(first.Data.(*event.DNS), d) {
			return false
		}
		addQuestion(c.copied(events, i).Data.(*event.DNS), d)
	}
	p := events[i].Past
	p.Count += e.Times()
	last := e.Time
	if e.Past != nil && e.Past.Last.After(last) {
		last = e.Past.Last
	}
	if last.After(p.Last) {
		p.Last = last
	}
	return true
}

// copied returns the i-th event as one that may be changed: those that came are
// shared with others.
func (c *collapser) copied(events []*event.Event, i int) *event.Event {
	if c.own[i] {
		return events[i]
	}
	c.own[i] = true
	e := *events[i]
	past := event.Past{Count: e.Times(), Last: e.Time}
	if e.Past != nil {
		past.Host = e.Past.Host
		if e.Past.Last.After(past.Last) {
			past.Last = e.Past.Last
		}
	}
	e.Past = &past
	switch d := e.Data.(type) {
	case *event.Connection:
		data := *d
		e.Data = &data
	case *event.DNS:
		data := *d
		e.Data = &data
	}
	events[i] = &e
	return &e
}

// alikeSockets reports whether two sockets differ in no more than the client's
// port and their number.
func alikeSockets(a, b *event.Socket) bool {
	return a.Local == b.Local && a.Remote == b.Remote && a.L4 == b.L4 && a.Server == b.Server && a.NetNS == b.NetNS &&
		(a.Server && a.LocalPort == b.LocalPort || !a.Server && a.RemotePort == b.RemotePort) &&
		a.LocalName == b.LocalName && a.RemoteName == b.RemoteName && a.RemotePeer == b.RemotePeer
}

func addSocket(to, s *event.Socket) {
	if to.LocalPort != s.LocalPort {
		to.LocalPort = 0
	}
	if to.RemotePort != s.RemotePort {
		to.RemotePort = 0
	}
	if to.Cookie != s.Cookie {
		to.Cookie = 0
	}
}

func alikeConnections(a, b *event.Connection) bool {
	return a.Type == b.Type && a.Res == b.Res && (a.RawRes == b.RawRes || a.RawRes >= 0 && b.RawRes >= 0) && a.State == b.State &&
		a.Reset == b.Reset && a.Error == b.Error && a.Existing == b.Existing && a.Shared == b.Shared && a.Start.IsZero() == b.Start.IsZero() &&
		alikeSockets(&a.Socket, &b.Socket)
}

func addConnection(to, c *event.Connection) {
	addSocket(&to.Socket, &c.Socket)
	if to.RawRes != c.RawRes {
		to.RawRes = 0 // descriptors
	}
	to.BytesSent += c.BytesSent
	to.BytesReceived += c.BytesReceived
	to.PacketsSent += c.PacketsSent
	to.PacketsRecv += c.PacketsRecv
	to.Retransmits += c.Retransmits
	to.Lost += c.Lost
	to.Duration = max(to.Duration, c.Duration)
	to.Latency = max(to.Latency, c.Latency)
	to.RTT = max(to.RTT, c.RTT)
	if to.MinRTT == 0 || c.MinRTT != 0 && c.MinRTT < to.MinRTT {
		to.MinRTT = c.MinRTT
	}
	if c.Start.Before(to.Start) && !c.Start.IsZero() {
		to.Start = c.Start
	}
}

func alikeQuestions(a, b *event.DNS) bool {
	return a.Type == b.Type && a.Name == b.Name && a.Response == b.Response && a.QType == b.QType && a.RCode == b.RCode && a.Cut == b.Cut &&
		slices.Equal(a.Answers, b.Answers) && slices.Equal(a.Addrs, b.Addrs) && alikeSockets(&a.Socket, &b.Socket)
}

func addQuestion(to, d *event.DNS) {
	addSocket(&to.Socket, &d.Socket)
	if to.ID != d.ID {
		to.ID = 0
	}
	to.Latency = max(to.Latency, d.Latency)
}
