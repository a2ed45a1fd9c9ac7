package cli

import (
	"testing"
	"time"

	"warren/event"
)

// Of a connection that is older than the agent nobody knows the age.
func TestConnectionOfUnknownAge(t *testing.T) {
	for want, c := range map[string]*event.Connection{
		"":     {Existing: true},
		"0s":   {Start: time.Unix(1, 0)},
		"2.0s": {Start: time.Unix(1, 0), Duration: 2e9},
	} {
		var r record
		if err := r.parse(event.AppendJSON(nil, &event.Event{Data: c})); err != nil {
			t.Fatal(err)
		}
		if r.has("conn.start") == c.Start.IsZero() {
			t.Errorf("age %q: conn.start %q", want, r.str("conn.start"))
		}
		table := connectionTable{now: func() time.Time { return time.Unix(9, 0) }}
		row := table.row(&r)
		if got := row[len(row)-2].text; got != want { // before the error
			t.Errorf("age %q, want %q", got, want)
		}
	}
}
