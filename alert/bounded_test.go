package alert

import (
	"fmt"
	"strings"
	"testing"

	"warren/event"
	"warren/rule"
)

// TestManyRules asks for what very many rules are about in few terms, and for all of
// it.
func TestManyRules(t *testing.T) {
	const each = 600
	var text strings.Builder
	for i := range each {
		fmt.Fprintf(&text, "- {rule: e%d, desc: d, condition: evt.type = execve and proc.name = p%d, output: o, priority: INFO}\n", i, i)
		fmt.Fprintf(&text, "- {rule: o%d, desc: d, condition: 'evt.type in (open, openat) and fd.name = /tmp/f%d', output: o, priority: INFO}\n", i, i)
	}
	f := &files{text: text.String()}
	r, err := load(Config{Load: f.load, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	wants := r.wants()
	if n := len(wants[0].Interest.Terms); len(wants) != 2 || n > maxTerms {
		t.Fatalf("%d streams of %d terms", len(wants), n)
	}
	matcher := rule.NewMatcher(r.set).NewWorker()
	for _, e := range []*event.Event{
		exec(1, "p471"),
		{Process: &event.Process{Name: "x"}, Data: &event.Open{Type: "openat", Name: "/tmp/f471"}},
	} {
		if len(matcher.Match(e)) != 1 || !wants[0].Interest.Match(e) {
			t.Errorf("not asked for, or not matched: %s", event.AppendJSON(nil, e))
		}
	}
}
