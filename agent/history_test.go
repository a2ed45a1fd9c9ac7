package agent

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"warren/api"
	"warren/event"
	"warren/filter"
	"warren/store"
)

// TestHistoryOfDamagedLog: a log of which a frame is damaged is a broken segment, from
// when a question needed the frame.
func TestHistoryOfDamagedLog(t *testing.T) {
	dir := t.TempDir()
	open := func() *store.Store {
		t.Helper()
		s, err := store.Open(store.Config{Dir: dir}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	p := &event.Process{Key: event.Key{PID: 1, Start: 1}, PID: 1, Name: "x"}
	s.Append(&event.Event{Time: time.Now(), Seq: 1, Process: p, Actor: p.Key, Data: &event.Connection{Type: "connect", Socket: event.Socket{Remote: netip.MustParseAddr("192.0.2.1"), L4: event.TCP}}})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "active", "*.wrs"))
	if err != nil || len(logs) != 1 {
		t.Fatalf("%v: %v", logs, err)
	}
	s = open()
	defer s.Close() //nolint:errcheck // read only
	spoilEnd(t, logs[0])

	h := &history{kinds: event.AllKinds}
	if h.prog, err = filter.Compile("evt.kind = connection"); err != nil {
		t.Fatal(err)
	}
	h.kept.Store(&keeping{store: s})
	if n := h.Status().Broken; n != 0 {
		t.Errorf("%d segments are broken before a question", n)
	}
	for range 2 {
		for e, err := range h.Events(t.Context(), api.PastQuestion{}) {
			t.Errorf("%v is told: %v", e, err)
		}
		if n := h.Status().Broken; n != 1 {
			t.Errorf("%d segments are broken, want the one log", n)
		}
	}
}

// spoilEnd changes the last byte of a file.
func spoilEnd(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 0xff
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
