package store

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"warren/event"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// openAt opens a store, without Run.
func openAt(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func all(t testing.TB, s *Store, q Query) (list []*event.Event) {
	t.Helper()
	for e, err := range s.Query(context.Background(), q) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

func connection(seq uint64, p *event.Process, at time.Time, port uint16) *event.Event {
	return &event.Event{Time: at, Ktime: uint64(at.UnixNano()) - 1e18, Seq: seq, Actor: p.Key, Process: p, Data: &event.Connection{
		Type: "connect", State: event.Established, Start: at, Socket: event.Socket{
			Local: netip.MustParseAddr("10.0.0.1"), LocalPort: 1024 + uint16(seq), Remote: netip.MustParseAddr("10.0.0.2"), RemotePort: port, L4: event.TCP,
		}}}
}

func TestStore(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, Config{Dir: dir})
	init := &event.Process{Key: event.Key{PID: 1, Start: 5}, PID: 1, Name: "systemd"}
	p := &event.Process{Key: event.Key{PID: 10, Start: 50}, PID: 10, Name: "curl", Parent: init, ParentKey: init.Key, Depth: 1}
	at := time.Unix(1700000000, 0)
	var want []string
	for i := range 10 {
		e := connection(uint64(i+1), p, at.Add(time.Duration(i)*time.Second), 443)
		want = append(want, string(event.AppendJSON(nil, e)))
		s.Append(e)
	}
	check := func() {
		t.Helper()
		got := all(t, s, Query{})
		if len(got) != len(want) {
			t.Fatalf("%d events, want %d", len(got), len(want))
		}
		for i, e := range got {
			if s := string(event.AppendJSON(nil, e)); s != want[i] {
				t.Fatalf("event %d is\n%s, want\n%s", i, s, want[i])
			}
		}
	}
	if cut, err := s.Sync(t.Context(), 10); err != nil || cut != 10 {
		t.Fatal(cut, err)
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, Config{Dir: dir})
	defer s.Close()
	check()
	if got := all(t, s, Query{Limit: 2, Newest: true}); len(got) != 2 || got[0].Seq != 9 {
		t.Fatalf("the last two: %v", got)
	}
	if st := s.Status(); st.Torn != (Torn{}) || st.Failure != nil || st.Size == 0 {
		t.Fatalf("%+v", st)
	}
}

// TestStoreLarge holds that events that are too large for one frame are in several,
// with the processes that they are of, in a log and sealed.
func TestStoreLarge(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // of a directory that goes
	at := time.Unix(1700000000, 0)
	const n = 5
	for i := range uint64(n) {
		p := &event.Process{Key: event.Key{PID: uint32(10 + i), Start: 50}, PID: uint32(10 + i), Name: "dig"}
		name := strings.Repeat(string(rune('a'+i)), splitAt/2)
		s.Append(&event.Event{Time: at, Seq: 1 + i, Actor: p.Key, Process: p, Data: &event.DNS{Type: "dns", Name: name, QType: "A"}})
	}
	if _, err := s.Sync(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	frames := s.active().list(func(f *frame) bool { return f.kind == event.KindDNS })
	if len(frames) < 2 {
		t.Fatalf("%d frames", len(frames))
	}
	check := func() {
		t.Helper()
		got := all(t, s, Query{})
		if len(got) != n || s.Status().Events != n {
			t.Fatalf("%d events of %d, Status says %d", len(got), n, s.Status().Events)
		}
		for i, e := range got {
			d, ok := e.Data.(*event.DNS)
			if !ok || len(d.Name) != splitAt/2 || d.Name[0] != 'a'+byte(i) || e.Process == nil || e.Process.PID != uint32(10+i) {
				t.Errorf("event %d of process %v, %d bytes", e.Seq, e.Process, len(d.Name))
			}
		}
	}
	check()
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	check()
}
