package pipeline

import (
	"strings"
	"testing"
	"testing/synctest"

	"warren/event"
)

// TestToldFromElsewhere bounds what waits by what it holds, tells what was lost, and
// where it comes from as well.
func TestToldFromElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Queue: 1024, Recent: 8}, newFakeTables())
		s := r.subscribe(t, Options{Name: "slow", Kinds: event.Kinds(event.KindK8sAudit)})
		text := strings.Repeat("x", 1<<20)
		if r.Crowded(event.KindK8sAudit) {
			t.Error("crowded, and nothing waits")
		}
		const sent = 100
		for i := range sent {
			r.Tell(&event.Event{Data: &event.K8sAudit{Type: "audit", JSON: text}})
			if crowded := r.Crowded(event.KindK8sAudit); crowded != (i >= 15) {
				t.Fatalf("%d MiB wait: crowded is %t", i+1, crowded)
			}
		}
		r.TellLost(&event.Lost{Type: "lost", Count: 7, What: "k8s_audit", Lane: "audit"})
		if n := len(r.Recent()); n > 1 {
			t.Errorf("%d events are remembered", n) // the loss
		}
		var told, lost, elsewhere uint64
		for told+lost < sent || elsewhere == 0 {
			e, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			switch l, _ := e.Data.(*event.Lost); {
			case l == nil:
				told++
			case l.Lane == "queue":
				lost += l.Count
			default:
				elsewhere += l.Count
			}
		}
		if told != 33 || lost != sent-33 || elsewhere != 7 {
			t.Errorf("%d told, %d lost, %d lost elsewhere", told, lost, elsewhere)
		}
		if r.Crowded(event.KindK8sAudit) {
			t.Error("crowded, and nothing waits any more")
		}
	})
}
