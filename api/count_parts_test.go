package api

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"

	"warren/event"
)

// Parts of several agents add up to what one would have counted.
func TestCountParts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	by := []string{"fd.name", "fd.ino"}
	all, err := newCounter(by, maxBy)
	if err != nil {
		t.Fatal(err)
	}
	sum := NewCountSum(by)
	sum.counts.Since = all.counts.Since
	for range 3 {
		one, err := newCounter(by, maxBy)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			for range 1000 {
				e := opened([]string{"", "\x00", "a", "caf\u00e9"}[r.IntN(4)], r.Uint64N(100))
				all.add(e)
				one.add(e)
			}
			lost := &event.Event{Data: &event.Lost{Type: "lost", Count: 2}}
			all.add(lost)
			one.add(lost)
			b, err := json.Marshal(one.next())
			if err != nil {
				t.Fatal(err)
			}
			var part Counts
			if err := json.Unmarshal(b, &part); err != nil {
				t.Fatal(err)
			}
			sum.Add(&part, func(CountRow) bool { return true })
		}
		if rest := one.next(); len(rest.Rows) != 0 || rest.Total != 0 || rest.Lost != 0 {
			t.Errorf("what was told is told again: %+v", rest)
		}
	}
	text := func(c *Counts) string {
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	equal(t, text(sum.Counts()), text(all.tell(maxRows)))
	if c := sum.Counts(); c.Total != 12_000 || c.Lost != 24 || len(c.Rows) < 300 {
		t.Errorf("total %d, lost %d, %d rows", c.Total, c.Lost, len(c.Rows))
	}
	// There is room for so many, and the sum is exact.
	for i := range 2 * maxGroups {
		name, ino := "x", fmt.Sprint(1_000_000+i)
		sum.Add(&Counts{Rows: []CountRow{{Values: []*string{&name, &ino}, Count: 2}, {Values: []*string{&name}, Count: 77}}}, func(CountRow) bool { return true })
	}
	sum.AddOthers(5)
	c := sum.Counts()
	shown := uint64(0)
	for _, row := range c.Rows {
		shown += row.Count
	}
	if c.Total != 12_000+4*maxGroups+5 || shown+c.Unshown+c.Other != c.Total || c.Other < 2*maxGroups || len(c.Rows) != maxRows {
		t.Errorf("total %d, shown %d, unshown %d, other %d, %d rows", c.Total, shown, c.Unshown, c.Other, len(c.Rows))
	}
}

// Who asks for parts hears at once that there is somebody, and then the rest.
func TestCountPartsOfAgent(t *testing.T) {
	f := newFake()
	c, _ := listen(t, f, Config{})
	n, total := 0, uint64(0)
	for part, err := range c.CountParts(t.Context(), CountQuestion{By: []string{"fd.name"}, Limit: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 1 {
			f.send(opened("/a", 1), opened("/b", 1), opened("/a", 1))
			f.end()
		}
		total += part.Total
	}
	if n < 2 || total != 3 {
		t.Errorf("%d events in %d parts", total, n)
	}
	for _, q := range []string{"by=fd.name&parts=true&limit=1", "by=fd.name&parts=perhaps"} {
		w := httptest.NewRecorder()
		newServer(f, Config{}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/counts?"+q, http.NoBody))
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", q, w.Code, w.Body)
		}
	}
}
