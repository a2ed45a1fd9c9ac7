package traffic

import (
	"bytes"
	"testing"

	"warren/event"
)

// TestSource holds that events are what a machine can have: in order, each
// connection begun before it ends, processes there while they act; and the same
// for the same seed.
func TestSource(t *testing.T) {
	var texts [2][]byte
	for round := range texts {
		s := New(Config{Seed: 7, Processes: 50, Peers: 100, Churn: 20})
		alive := map[event.Key]bool{}
		for _, p := range s.Processes() {
			alive[p.Key] = true
		}
		open := map[uint64]bool{}
		counts := map[string]int{}
		last := s.Now()
		for i := range 20_002 { // then nobody who ended waits to be followed
			e := s.Next()
			if e.Seq != uint64(i+1) || !e.Time.After(last) || e.Process == nil || e.Actor != e.Process.Key {
				t.Fatalf("event %d: %+v", i, e)
			}
			last = e.Time
			switch d := e.Data.(type) {
			case *event.Fork:
				alive[e.Actor] = true
			case *event.Connection:
				if !alive[e.Actor] {
					t.Fatalf("event %d is of a process that is not there", i)
				}
				if d.Type == "close" != open[d.Cookie] {
					t.Fatalf("event %d is a %s of a connection that is open: %v", i, d.Type, open[d.Cookie])
				}
				open[d.Cookie] = d.Type != "close"
			case *event.Exit:
				delete(alive, e.Actor)
			}
			counts[e.Data.Kind().String()]++
			if i < 500 {
				texts[round] = event.AppendJSON(texts[round], e)
			}
		}
		if n := counts["exit"]; len(alive) != 51 || counts["connection"] < 15_000 || n < 500 || counts["exec"] != n || counts["fork"] != n {
			t.Errorf("%d processes, %v", len(alive), counts)
		}
	}
	if !bytes.Equal(texts[0], texts[1]) {
		t.Error("the same seed gives other events")
	}
}
