package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
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
	c, err := newCounter([]string{"fd.ino"}, maxBy)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxGroups {
		c.add(opened("/x", uint64(i%(2*maxGroups))+1))
	}
	got := c.tell(maxRows)
	sum := got.Other + got.Unshown
	for _, r := range got.Rows {
		sum += r.Count
	}
	if len(got.Rows) != maxRows || got.Total != 3*maxGroups || sum != got.Total || got.Other != maxGroups {
		t.Errorf("%d rows, total %d, sum %d, other %d", len(got.Rows), got.Total, sum, got.Other)
	}
}

// Processes choose texts: with any bytes, and as long as there is room for.
func TestCountForeignValues(t *testing.T) {
	c, err := newCounter([]string{"fd.name", "fd.nameraw", "fd.ino"}, maxBy)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, names := range [][2]string{{"a\x00", "b"}, {"a", "\x00b"}, {"\x00\x00\x01x", "\x00"}} {
		e := opened(names[0], 7)
		e.Data.(*event.Open).NameRaw = names[1]
		c.add(e)
		want = append(want, fmt.Sprintf("%q %q 7", names[0], names[1]))
	}
	var got []string
	for _, r := range c.tell(maxRows).Rows {
		got = append(got, fmt.Sprintf("%q %q %s", *r.Values[0], *r.Values[1], *r.Values[2]))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}

	long := strings.Repeat("x", 1<<20)
	for i := range 10 {
		c.add(opened(fmt.Sprint(long, i), 7))
	}
	if counts := c.tell(maxRows); len(counts.Rows) > 3+4 || counts.Other < 6 || counts.Total != 13 {
		t.Errorf("%d rows, %d others of %d", len(counts.Rows), counts.Other, counts.Total)
	}
}
