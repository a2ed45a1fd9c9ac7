package cli

import (
	"testing"

	"warren/event"
	"warren/rule"
)

// TestRecordedEvents makes events again of what is printed of them.
func TestRecordedEvents(t *testing.T) {
	for _, m := range []*machine{newMachine(), newNode()} {
		for _, e := range m.events {
			line := event.AppendJSON(nil, e)
			values, err := rule.ParseEvent(line)
			if err != nil {
				t.Fatal(err)
			}
			again, err := event.Make(values)
			if err != nil {
				t.Errorf("event %d: %v", e.Seq, err)
				continue
			}
			if got := event.AppendJSON(nil, again); string(got) != string(line) {
				t.Errorf("%s\nis made again as\n%s", line, got)
			}
		}
	}
}
