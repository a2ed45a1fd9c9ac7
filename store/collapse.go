package store

import (
	"encoding/binary"
	"math/bits"
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
	// table finds events in the list that may be alike: 1 + index, by hash. Those
	// of the same hash lie one behind the other.
	table []int32
	own   []bool // those that are the collapser's, and may be changed
	// hashes are found before any is looked for: so the processor reads many events at a
	// time, which another one has written.
	hashes []uint64
}

// maxTries bounds how many events are compared with each.
const maxTries = 8

// run collapses a list in place and returns what is left of it, in the order of
// the first ones.
func (c *collapser) run(events []*event.Event) []*event.Event {
	if len(events) < 2 {
		return events
	}
	size := 1 << bits.Len(uint(2*len(events)))
	if cap(c.table) < size {
		c.table = make([]int32, size)
	}
	c.table = c.table[:size]
	clear(c.table)
	c.own = grow(c.own, len(events))
	clear(c.own)
	c.hashes = grow(c.hashes, len(events))
	for i, e := range events {
		c.hashes[i] = hashOf(e)
	}
	n := 0
next:
	for i, e := range events {
		if h := c.hashes[i]; h != 0 {
			at := h >> (64 - bits.Len(uint(size-1)))
			for range maxTries {
				slot := &c.table[at&uint64(size-1)]
				if *slot == 0 {
					*slot = int32(n + 1)
					break
				}
				if c.merge(events, int(*slot-1), e) {
					continue next
				}
				at++
			}
		}
		events[n] = e
		n++
	}
	clear(events[n:])
	return events[:n]
}

// hashOf mixes what alike events have in common. It is 0 for what is not collapsed: an
// update tells how one connection goes on, and its counters are not to be added.
func hashOf(e *event.Event) uint64 {
	var s *event.Socket
	var h uint64
	switch d := e.Data.(type) {
	case *event.Connection:
		if d.Type == "update" {
			return 0
		}
		s, h = &d.Socket, uint64(len(d.Type))
		if d.Type != "" {
			h |= uint64(d.Type[0]) << 8
		}
	case *event.DNS:
		s, h = &d.Socket, uint64(len(d.Name))<<1
		if d.Response {
			h++
		}
	default:
		return 0
	}
	port := s.RemotePort
	if s.Server {
		port = s.LocalPort
	}
	a := s.Remote.As16()
	const m = 0x9e3779b97f4a7c15
	h = (h<<16 | uint64(port)) * m
	h = (h ^ h>>29 ^ binary.LittleEndian.Uint64(a[8:])) * m
	h = (h ^ h>>32 ^ binary.LittleEndian.Uint64(a[:8]) ^ uint64(e.Time.Unix())) * m
	h = (h ^ h>>29 ^ e.Actor.Start ^ uint64(e.Actor.PID)<<40) * m
	return h
}

// merge adds e to the i-th event, if they are alike.
func (c *collapser) merge(events []*event.Event, i int, e *event.Event) bool {
	first := events[i]
	if first.Process != e.Process || first.Actor != e.Actor || first.Time.Unix() != e.Time.Unix() {
		return false
	}
	switch d := e.Data.(type) {
	case *event.Connection:
		if f, ok := first.Data.(*event.Connection); !ok || !alikeConnections(f, d) {
			return false
		}
		addConnection(c.copied(events, i).Data.(*event.Connection), d)
	case *event.DNS:
		if f, ok := first.Data.(*event.DNS); !ok || !alikeQuestions(f, d) {
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
