package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"warren/api"
	"warren/event"
	"warren/filter"
)

// reacted is an agent that answers each question with an alert and a reaction to it,
// and notes what it was asked.
type reacted struct {
	hostile
	asked []string
}

func (r *reacted) Recent(_ context.Context, q api.Question) api.Lines {
	r.asked = append(r.asked, q.Filter)
	return func(yield func([]byte, error) bool) {
		_ = yield(r.record(event.KindAlert, "alert"), nil) && yield(r.record(event.KindReaction, "reaction"), nil)
	}
}

// TestAround asks what was around an alert as anybody does who names no kind, and
// shows reactions once.
func TestAround(t *testing.T) {
	agent := &reacted{hostile: hostile{"0f8fad5b"}}
	var out bytes.Buffer
	env := testEnv(&out, agent)
	if code := Main(t.Context(), env, []string{"alert", "show", "0f8fad5b"}); code != 0 {
		t.Fatalf("%d: %s", code, &out)
	}
	last, err := filter.Compile(agent.asked[len(agent.asked)-1])
	if err != nil || last.Asked().Has(event.KindOpen) || !last.Asked().Has(event.KindExec) {
		t.Errorf("asked %q: %v", agent.asked, err)
	}
	_, around, _ := strings.Cut(out.String(), "Around it\n")
	if !strings.Contains(around, "  alert") || strings.Contains(around, "  reaction") || !strings.Contains(out.String(), "Reactions\n") {
		t.Errorf("shown:\n%s", &out)
	}
}
