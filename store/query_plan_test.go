package store

import (
	"testing"

	"warren/event"
)

// TestPlanKind: what a condition says of other kinds of events costs a question
// nothing, and what holds for the kind alone is not asked.
func TestPlanKind(t *testing.T) {
	for _, c := range []struct {
		filter string
		kind   event.Kind
		leaves int // -1: there is no plan
	}{
		{"fd.rip = 10.0.0.1", event.KindConnection, 1},
		{"(fd.rip = 10.0.0.1) or evt.kind = lost", event.KindConnection, 1},
		{"(fd.rip = 10.0.0.1) or evt.kind = lost", event.KindLost, 0},
		{"fd.rip = 10.0.0.1 or dns.name = example.com", event.KindConnection, 1},
		{"fd.rip = 10.0.0.1 or evt.kind = exec or evt.kind in (exit, lost)", event.KindConnection, 1},
		{"evt.kind = connection and fd.rip = 10.0.0.1", event.KindConnection, 1},
		{"evt.kind != lost and fd.rip = 10.0.0.1", event.KindConnection, 1},
		{"fd.rip = 10.0.0.1 and (evt.kind = lost or dns.name = example.com)", event.KindConnection, -1},
		{"not evt.kind = lost and fd.rip = 10.0.0.1", event.KindConnection, 1},
		{"not evt.kind = lost", event.KindLost, -1},
	} {
		p := planFor(mustCompile(t, c.filter), c.kind, &processLeaves{})
		if p == nil || c.leaves < 0 {
			if (p == nil) != (c.leaves < 0) {
				t.Errorf("%s has a plan for %v: %v", c.filter, c.kind, p != nil)
			}
			continue
		}
		if got, sure := leavesOf(p.root); got != c.leaves || sure != (c.leaves > 0) {
			t.Errorf("%s, for %v: %d leaves, want %d; rows can be left out: %v", c.filter, c.kind, got, c.leaves, sure)
		}
	}
}

// leavesOf counts the leaves of a test, and says whether they can leave out rows.
func leavesOf(t *test) (n int, sure bool) {
	switch {
	case t == nil:
		return 0, false
	case t.leaf != nil:
		return 1, true
	case t.not != nil:
		return leavesOf(t.not)
	}
	sure = t.any != nil
	for _, x := range t.all {
		m, s := leavesOf(x)
		n, sure = n+m, sure || s
	}
	for _, x := range t.any {
		m, s := leavesOf(x)
		n, sure = n+m, sure && s
	}
	return n, sure
}
