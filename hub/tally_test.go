package hub

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"warren/api"
)

func TestTallyTellsWhatIsNew(t *testing.T) {
	y := newTally()
	refused, gone := errors.New("connection refused"), errors.New("no route to host")
	for _, step := range []struct {
		what string
		do   func()
		news bool
		want string
	}{
		{"asked", func() { y.ask("b"); y.ask("a"); y.asked() }, false, "0 of 2 nodes answered; a: no answer yet; b: no answer yet"},
		{"one answers", func() { y.answered("a") }, true, "1 of 2 nodes answered; b: no answer yet"},
		{"the other fails", func() { y.failed("b", refused) }, true, "1 of 2 nodes answered; b: connection refused"},
		{"and again", func() { y.failed("b", refused) }, false, "1 of 2 nodes answered; b: connection refused"},
		{"for another reason", func() { y.failed("b", gone) }, false, "1 of 2 nodes answered; b: no route to host"},
		{"is asked again", func() { y.ask("b") }, false, "1 of 2 nodes answered; b: no answer yet"},
		{"in vain", func() { y.failed("b", refused) }, false, "1 of 2 nodes answered; b: connection refused"},
		{"answers", func() { y.answered("b") }, true, "2 of 2 nodes answered"},
		{"still", func() { y.answered("b") }, false, "2 of 2 nodes answered"},
		{"its agent is replaced", func() { y.ask("b"); y.answered("b") }, false, "2 of 2 nodes answered"},
		{"hangs up", func() { y.failed("b", errHungUp) }, true, "1 of 2 nodes answered; b: it hung up"},
		{"is gone", func() { y.gone("b") }, true, "1 of 1 nodes answered"},
		{"was never there", func() { y.gone("c") }, false, "1 of 1 nodes answered"},
	} {
		step.do()
		news := false
		select {
		case <-y.changed:
			news = true
		default:
		}
		if got := y.nodesEvent().Sentence(); news != step.news || got != step.want {
			t.Errorf("%s: news %t, %q; want %t, %q", step.what, news, got, step.news, step.want)
		}
	}
}

func TestTallySettles(t *testing.T) {
	settled := func(y *tally) bool {
		select {
		case <-y.settled:
			return true
		default:
			return false
		}
	}
	y := newTally()
	y.ask("a")
	y.answered("a")
	if settled(y) {
		t.Error("all have answered before all were asked")
	}
	y.ask("b")
	y.asked()
	if settled(y) {
		t.Error("all have answered while one may still")
	}
	y.failed("b", errHungUp)
	if !settled(y) {
		t.Error("nobody is left who may answer, and that is not told")
	}
	y.ask("c") // later ones do not count
	if !settled(y) {
		t.Error("settled is taken back")
	}
	empty := newTally()
	empty.asked()
	if !settled(empty) {
		t.Error("of no nodes some are waited for")
	}
	away := newTally()
	away.ask("a")
	away.gone("a")
	away.asked()
	if !settled(away) {
		t.Error("who is gone is waited for")
	}
}

func TestTallyNamesNotTooMany(t *testing.T) {
	y := newTally()
	for i := range mostMissing + 3 {
		y.failed(fmt.Sprintf("node-%03d", i), errNoAgent)
	}
	n := y.nodesEvent()
	if n.Total != mostMissing+3 || len(n.Missing) != mostMissing+1 || n.Missing[mostMissing] != "and 3 more" {
		t.Errorf("told %d, %q", n.Total, n.Missing)
	}
}

func TestTallyRefusal(t *testing.T) {
	y := newTally()
	no := &api.Error{Status: http.StatusBadRequest, Message: "no field x"}
	y.failed("a", errHungUp)
	if y.refusal() != nil {
		t.Error("who hung up refused")
	}
	y.failed("b", fmt.Errorf("ask: %w", no))
	if y.refusal() != no {
		t.Error("that all who answer refuse is not told")
	}
	y.answered("c")
	if y.refusal() != nil {
		t.Error("one answers, and all refuse")
	}
}

func TestReason(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{nil, "no answer yet"},
		{&api.Error{Status: 400, Message: "no field x", Hint: "did you mean y?"}, "no field x; did you mean y?"},
		{fmt.Errorf("ask 10.0.0.1:7118: %w", fmt.Errorf("dial tcp 10.0.0.1: %w", errors.New("connection refused"))), "connection refused"},
		{errSilent, "no sign of life for 5s"},
	} {
		if got := reason(test.err); got != test.want {
			t.Errorf("%v is told as %q, want %q", test.err, got, test.want)
		}
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	last := time.Duration(0)
	for i := range 100 {
		d, most := b.next(), min(backoffLeast<<min(i, 10), backoffMost)
		if d < most/2 || d > most {
			t.Errorf("try %d waits %v, want %v to %v", i, d, most/2, most)
		}
		last = d
	}
	if last > backoffMost {
		t.Errorf("it waits %v at last", last)
	}
}
