package cli

import (
	"fmt"
	"strconv"
	"strings"
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
			for _, f := range event.Fields() {
				if was, is := saidBy(f, e), saidBy(f, again); was != is && event.Remade(f.Name) {
					t.Errorf("event %d: %s was %s and is %s", e.Seq, f.Name, was, is)
				}
			}
		}
	}
}

// saidBy is what a field says of an event, all of it.
func saidBy(f *event.Field, e *event.Event) string {
	var b strings.Builder
	for i := range 8 {
		s, isStr := f.Str(e, i)
		n, isNum := f.Num(e, i)
		a, isAddr := f.Addr(e, i)
		k, isKey := f.Key(e, strconv.Itoa(i))
		fmt.Fprintln(&b, s, isStr, n, isNum, a, isAddr, k, isKey)
	}
	return b.String()
}
