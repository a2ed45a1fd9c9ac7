package api

import (
	"encoding/json"
	"fmt"
	"testing"

	"warren/event"
)

func TestCount(t *testing.T) {
	f := newFake()
	c, _ := listen(t, f, Config{})
	begun := func() {
		for i := range 6 {
			f.send(opened([]string{"/a", "/b", "/a", "", "/a", "/b"}[i], 1))
		}
		f.send(&event.Event{Data: &event.Lost{Type: "lost", Count: 7}})
		f.end()
	}
	var got Counts
	for line, err := range c.CountEvents(t.Context(), CountQuestion{By: []string{"fd.name", "evt.is_open_read"}, Begun: begun}) {
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatal(err)
		}
	}
	text := ""
	for _, r := range got.Rows {
		for _, v := range r.Values {
			if v == nil {
				text += "- "
			} else {
				text += *v + " "
			}
		}
		text += fmt.Sprint(r.Count, "; ")
	}
	equal(t, text, "/a false 3; /b false 2; - false 1; ")
	if got.Total != 6 || got.Lost != 7 || got.Other != 0 || !got.Last {
		t.Errorf("%+v", got)
	}
	for _, by := range []string{"", "no.such", "proc.aname", "container.label"} {
		var err error
		for _, e := range c.CountEvents(t.Context(), CountQuestion{By: []string{by}}) {
			err = e
		}
		if err == nil {
			t.Errorf("by %q", by)
		}
	}
}

// However many values there are, the sum is exact.
func TestCountBounded(t *testing.T) {
	c, err := newCounter([]string{"fd.ino"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxGroups {
		c.add(opened("/x", uint64(i%(2*maxGroups))+1))
	}
	got := c.tell()
	sum := got.Other + got.Unshown
	for _, r := range got.Rows {
		sum += r.Count
	}
	if len(got.Rows) != maxRows || got.Total != 3*maxGroups || sum != got.Total || got.Other != maxGroups {
		t.Errorf("%d rows, total %d, sum %d, other %d", len(got.Rows), got.Total, sum, got.Other)
	}
}
