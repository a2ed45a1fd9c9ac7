package store

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"warren/event"
)

// totals are what must not change by collapsing.
type totals struct {
	events, sent, received, packetsSent, packetsReceived, retransmits, lost uint64
}

func (t *totals) add(e *event.Event) {
	t.events += e.Times()
	if c, ok := e.Data.(*event.Connection); ok {
		t.sent += c.BytesSent
		t.received += c.BytesReceived
		t.packetsSent += c.PacketsSent
		t.packetsReceived += c.PacketsRecv
		t.retransmits += uint64(c.Retransmits)
		t.lost += uint64(c.Lost)
	}
}

// groupOf is all that people tell events apart by.
func groupOf(e *event.Event) string {
	s := event.SocketOf(e)
	port := s.RemotePort
	if s.Server {
		port = s.LocalPort
	}
	typ, _ := event.Lookup("evt.type")
	name, _ := typ.Str(e, 0)
	detail := ""
	switch d := e.Data.(type) {
	case *event.Connection:
		detail = fmt.Sprint(d.Res, d.State, d.Reset)
	case *event.DNS:
		detail = fmt.Sprint(d.Name, d.QType, d.RCode, d.Answers)
	}
	return fmt.Sprint(e.Actor, name, s.Remote, port, s.Server, e.Time.Unix(), detail)
}

// repeats makes events most of which happened before.
func (m *maker) repeats(procs []*event.Process, at time.Time) *event.Event {
	p := procs[m.IntN(len(procs))]
	m.seq++
	e := &event.Event{Time: at, Seq: m.seq, Actor: p.Key, Process: p}
	s := event.Socket{
		Local: netip.AddrFrom4([4]byte{10, 0, 0, 1}), Remote: netip.AddrFrom4([4]byte{10, 0, 0, byte(m.IntN(3))}), LocalPort: uint16(m.IntN(60000)),
		RemotePort: uint16(1 + m.IntN(2)), L4: event.TCP, Server: m.IntN(3) == 0, Cookie: m.Uint64N(100),
	}
	if s.Server {
		s.LocalPort, s.RemotePort = s.RemotePort, s.LocalPort
	}
	if m.IntN(4) == 0 {
		e.Data = &event.DNS{Type: "dns", Socket: s, Name: []string{"a.example", "b.example"}[m.IntN(2)], ID: uint16(m.IntN(9)), Response: m.IntN(2) == 0, Latency: m.Int64N(9)}
		return e
	}
	e.Data = &event.Connection{Socket: s, Type: []string{"connect", "close", "update", "accept"}[m.IntN(4)], Res: event.Errno(m.IntN(2) * 111),
		BytesSent: m.Uint64N(1000), BytesReceived: m.Uint64N(1000), PacketsSent: m.Uint64N(10), PacketsRecv: m.Uint64N(10), Retransmits: uint32(m.IntN(3)), Lost: uint32(m.IntN(2))}
	return e
}

// TestCollapseProperty: whatever is collapsed, the totals of each group, in all and
// of what a filter finds, are those of the raw stream; and it is less.
func TestCollapseProperty(t *testing.T) {
	for seed := range uint64(30) {
		m := newMaker(seed)
		procs := []*event.Process{{Key: event.Key{PID: 1, Start: 1}}, {Key: event.Key{PID: 2, Start: 1}}, {Key: event.Key{PID: 3, Start: 1}}}
		at := time.Unix(1e9, 0)
		s := openAt(t, Config{Dir: t.TempDir()})
		raw, texts := map[string]*totals{}, map[uint64]string{}
		var events []*event.Event
		for range 500 {
			at = at.Add(time.Duration(m.IntN(2e7)))
			e := m.repeats(procs, at)
			events = append(events, e)
			texts[e.Seq] = string(event.AppendJSON(nil, e))
			k := groupOf(e)
			if raw[k] == nil {
				raw[k] = &totals{}
			}
			raw[k].add(e)
			s.Append(e)
			if m.IntN(100) == 0 {
				s.flush(false)
			}
		}
		s.flush(false)
		rows, got := 0, map[string]*totals{}
		for _, e := range all(t, s, Query{}) {
			rows++
			k := groupOf(e)
			if got[k] == nil {
				got[k] = &totals{}
			}
			got[k].add(e)
			if e.Times() > 1 && (e.Past.Last.Before(e.Time) || e.Past.Last.Unix() != e.Time.Unix()) {
				t.Fatalf("the last of %d events at %v was at %v", e.Times(), e.Time, e.Past.Last)
			}
			if c, ok := e.Data.(*event.Connection); ok && c.Type == "update" && e.Times() > 1 {
				t.Fatal("updates, whose counters go on, are added")
			}
		}
		if rows >= len(events) || len(got) != len(raw) {
			t.Fatalf("%d events in %d groups became %d rows in %d", len(events), len(raw), rows, len(got))
		}
		for k, want := range raw {
			if got[k] == nil || *got[k] != *want {
				t.Fatalf("%s: totals %+v, want %+v", k, got[k], want)
			}
		}
		for _, e := range events {
			if string(event.AppendJSON(nil, e)) != texts[e.Seq] {
				t.Fatalf("event %d, which others have too, was changed", e.Seq)
			}
		}
		if st := s.Status(); st.Events != uint64(len(events)) || st.Rows != uint64(rows) {
			t.Fatalf("status: %d events in %d rows, want %d in %d", st.Events, st.Rows, len(events), rows)
		}
		s.Close()
	}
}

// TestHold: what is appended while somebody holds is told by its own number, and
// nothing before and after becomes one with it.
func TestHold(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close()
	p := &event.Process{Key: event.Key{PID: 1, Start: 1}, Name: "x"}
	at := time.Unix(1e9, 0)
	seq := uint64(0)
	some := func(n int) {
		for range n {
			seq++
			s.Append(connection(seq, p, at, 443))
		}
	}
	some(3) // one row
	release := s.Hold()
	some(2) // two rows
	inner := s.Hold()
	some(1)
	inner()
	inner()
	s.flush(false)
	some(1)
	release()
	some(4) // one row
	if cut, err := s.Sync(t.Context(), 3); cut != seq || err != nil {
		t.Fatal(cut, err)
	}
	some(2) // one row
	s.flush(false)
	var got string
	for _, e := range all(t, s, Query{}) {
		got += fmt.Sprintf("%d*%d ", e.Seq, e.Times())
	}
	if want := "1*3 4*1 5*1 6*1 7*1 8*4 12*2 "; got != want {
		t.Fatalf("rows %s, want %s", got, want)
	}
	for q, want := range map[Query]int{{UpTo: 6}: 4, {After: 6}: 3, {UpTo: 7, After: 4}: 3} {
		if n := len(all(t, s, q)); n != want {
			t.Errorf("%+v: %d rows, want %d", q, n, want)
		}
	}
}
