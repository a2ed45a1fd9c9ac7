package hub

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/api"
	"warren/internal/testkit"
)

// serveCounts answers with parts as they are counted, and signs of life.
func (a *fakeAgent) serveCounts(w http.ResponseWriter, req *http.Request, q api.Query) error {
	feed := make(chan api.Counts, 64)
	a.mu.Lock()
	a.asked = append(a.asked, q)
	a.counting[feed] = true
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.counting, feed)
	}()
	out := api.NewWriter(w, req, time.Minute, nil)
	beat := time.NewTicker(100 * time.Millisecond)
	defer beat.Stop()
	for part := (api.Counts{}); ; {
		if err := out.Counts(&part); err != nil {
			return err
		}
		select {
		case part = <-feed:
		case <-beat.C:
			part = api.Counts{}
		case <-a.ending:
			panic(http.ErrAbortHandler)
		case <-req.Context().Done():
			return nil
		}
	}
}

// count tells a part to who counts, which is one.
func (a *fakeAgent) count(t testing.TB, part api.Counts) {
	t.Helper()
	testkit.Wait(t, a.node+" counts", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.counting) == 1
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	for feed := range a.counting {
		feed <- part
	}
}

// of returns a row.
func of(n uint64, values ...string) api.CountRow {
	r := api.CountRow{Count: n}
	for _, v := range values {
		if v == "" {
			r.Values = append(r.Values, nil)
		} else {
			r.Values = append(r.Values, &v)
		}
	}
	return r
}

// sums returns counts in short.
func sums(c *api.Counts) string {
	var b strings.Builder
	for _, r := range c.Rows {
		for _, v := range r.Values {
			if v == nil {
				b.WriteString("- ")
			} else {
				b.WriteString(*v + " ")
			}
		}
		fmt.Fprintf(&b, "%d; ", r.Count)
	}
	fmt.Fprintf(&b, "other %d, lost %d, total %d", c.Other, c.Lost, c.Total)
	for _, text := range slices.Concat(c.Missing, c.Gaps) {
		b.WriteString("; " + text)
	}
	return b.String()
}

// lastCounts asks, lets agents count, and returns the last line.
func (f *fixture) lastCounts(who shows, query string, count func()) (last api.Counts) {
	f.t.Helper()
	resp := f.open(f.t.Context(), who, "/v1/counts?"+query)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		f.t.Fatalf("%s: %s", query, resp.Status)
	}
	count()
	for dec := json.NewDecoder(resp.Body); !last.Last; {
		last = api.Counts{}
		if err := dec.Decode(&last); err != nil {
			f.t.Fatalf("%s: %v", query, err)
		}
	}
	return last
}

func TestCountsOfAllNodes(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	f := newFixture(t, ca, Config{}, one, two)
	begin := time.Now()
	got := f.lastCounts(admin, "by=proc.name,fd.name&filter=evt.kind+%3D+open&limit=18&watch=true", func() {
		one.count(t, api.Counts{Rows: []api.CountRow{of(3, "a", "x"), of(1, "a", "")}, Lost: 7})
		two.count(t, api.Counts{Rows: []api.CountRow{of(4, "a", "x"), of(2, "b", "x")}, Other: 5, Unshown: 1, Lost: 1})
		one.count(t, api.Counts{Rows: []api.CountRow{of(2, "a", "x")}})
	})
	if text, want := sums(&got), "a x 9; b x 2; a - 1; other 6, lost 8, total 18"; text != want {
		t.Errorf("told %s, want %s", text, want)
	}
	if got.Nodes != 2 || !slices.Equal(got.By, []string{"proc.name", "fd.name"}) || got.Since.Before(begin.Add(-time.Minute)) {
		t.Errorf("%+v", got)
	}
	one.mu.Lock()
	asked := one.asked[0]
	one.mu.Unlock()
	if asked["filter"] != "evt.kind = open" || asked["by"] != "proc.name,fd.name" || asked["parts"] != "true" || asked["limit"] != "" {
		t.Errorf("an agent was asked %v", asked)
	}
	got = f.lastCounts(admin, "by=proc.name&node=node-2,node-9&limit=1", func() { two.count(t, api.Counts{Rows: []api.CountRow{of(1, "a")}}) })
	if text, want := sums(&got), "a 1; other 0, lost 0, total 1; node-9: there is no such node"; text != want {
		t.Errorf("told %s, want %s", text, want)
	}
	// All that is wrong with a question is said before it is asked.
	for query, want := range map[string]string{"": "by has to name", "by=no.such": "no field", "by=proc.aname": "several values", "by=proc.name&filter=a.b%3D1": "a.b", "by=proc.name&parts=true": "unknown parameter"} {
		if code, body := f.get(admin, "/v1/counts?"+query); code != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", query, code, body)
		}
	}
}

// A node that breaks off has counted what it has, and what is missing is said.
func TestCountsOfNodeThatBreaksOff(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	f := newFixture(t, ca, Config{}, one, two)
	three := newAgent("node-3")
	resp := f.open(t.Context(), admin, "/v1/counts?by=proc.name&limit=7")
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	var got api.Counts
	until := func(total uint64) {
		for got.Total != total {
			got = api.Counts{}
			if err := dec.Decode(&got); err != nil {
				t.Fatal(err)
			}
		}
	}
	one.count(t, api.Counts{Rows: []api.CountRow{of(1, "a")}})
	two.count(t, api.Counts{Rows: []api.CountRow{of(2, "a")}})
	until(3)
	two.close()
	two.listen(t, ca)
	two.count(t, api.Counts{Rows: []api.CountRow{of(3, "a")}})
	f.cluster.add(three.listen(t, ca))
	three.count(t, api.Counts{Rows: []api.CountRow{of(1, "c")}})
	until(7)
	text := sums(&got)
	if !strings.HasPrefix(text, "a 6; c 1; other 0, lost 0, total 7; node-2 broke off for a while: ") || !strings.Contains(text, "; node-3 answers since ") || len(got.Gaps) != 2 || got.Nodes != 3 {
		t.Errorf("told %s of %d", text, got.Nodes)
	}
}

// Who sees some namespaces is told of those, whatever agents tell.
func TestCountsOfNamespaces(t *testing.T) {
	ca := newAuthority(t, "warren")
	one := newAgent("node-1").listen(t, ca)
	f := newFixture(t, ca, Config{}, one)
	for _, tt := range []struct {
		by, pushed, want string
		rows             []api.CountRow
	}{
		{"proc.name", "proc.name,k8s.ns.name", "a 2; b 1; other 3, lost 4, total 6", []api.CountRow{of(2, "a", "shop"), of(1, "b", "shop"), of(50, "a", "bank"), of(60, "a", ""), of(70, "a")}},
		{"k8s.ns.name,proc.name", "k8s.ns.name,proc.name", "shop a 3; other 3, lost 4, total 6", []api.CountRow{of(3, "shop", "a"), of(50, "bank", "a"), of(60, "", "a")}},
		{"proc.name,proc.pid,proc.ppid,proc.exe,fd.name,fd.ino,evt.kind,evt.type", "proc.name,proc.pid,proc.ppid,proc.exe,fd.name,fd.ino,evt.kind,evt.type,k8s.ns.name",
			"a 1 1 a f 1 open open 3; other 3, lost 4, total 6", []api.CountRow{of(3, "a", "1", "1", "a", "f", "1", "open", "open", "shop"), of(9, "a", "1", "1", "a", "f", "1", "open", "open", "bank")}},
	} {
		before := f.hub.withheld.Load()
		got := f.lastCounts(bearer("shop-token"), "limit=6&by="+tt.by, func() { one.count(t, api.Counts{Rows: tt.rows, Other: 3, Lost: 4}) })
		if text := sums(&got); text != tt.want {
			t.Errorf("%s: told %s, want %s", tt.by, text, tt.want)
		}
		one.mu.Lock()
		asked := one.asked[len(one.asked)-1]
		one.mu.Unlock()
		if asked["by"] != tt.pushed || asked["filter"] != `k8s.ns.name in ("shop")` {
			t.Errorf("%s: the agent was asked %v", tt.by, asked)
		}
		if f.hub.withheld.Load() == before {
			t.Error("what is left out is not counted")
		}
	}
	if code, body := f.get(bearer("nobody-token"), "/v1/counts?by=proc.name"); code != http.StatusForbidden {
		t.Errorf("who may see nothing is told %d %s", code, body)
	}
}

// What is taken from a reader is counted no more, and what cannot be told apart
// is not either.
func TestCountsRevoked(t *testing.T) {
	n := newCounting(api.CountQuestion{By: []string{"proc.name"}}, &view{namespaces: map[string]bool{"shop": true, "bank": true}})
	part := &api.Counts{Rows: []api.CountRow{of(1, "a", "shop"), of(1, "a", "bank")}, Other: 1}
	n.add(part)
	n.see(&view{namespaces: map[string]bool{"shop": true}})
	n.add(part)
	c, left := n.counts()
	if text := sums(c); !strings.HasPrefix(text, "a 3; other 1, lost 0, total 4; nodes had no room") || left != 1 {
		t.Errorf("told %s, left out %d", text, left)
	}
	// Who could see everything and cannot any more: the agents were not asked by
	// namespace.
	ca := newAuthority(t, "warren")
	one := newAgent("node-1").listen(t, ca)
	f := newFixture(t, ca, Config{Review: 200 * time.Millisecond}, one)
	s := f.follow(admin, "/v1/counts?by=proc.name")
	f.cluster.change(func(c *fakeCluster) { c.may["admin"] = []string{"shop"} })
	s.wantEnd(false)
	if f.refusedSoFar()[refusedLate] != 1 {
		t.Error("the end is not counted")
	}
}

func TestFileOfNode(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	f := newFixture(t, ca, Config{Review: 200 * time.Millisecond}, one, two)
	s := f.follow(admin, "/v1/files?path=/etc/shadow&node=node-2&recursive=true&fields=proc.name,evt.kind&watch=true")
	s.want("1 of 1")
	two.waitStreams(t, 1)
	two.tell(two.row(time.Now(), "", "of the host"))
	two.tell(two.row(time.Now(), "bank", "x"))
	s.want("node-2  of the host", "node-2 bank x")
	two.mu.Lock()
	asked := two.asked[0]
	two.mu.Unlock()
	if asked["path"] != "/etc/shadow" || asked["recursive"] != "true" || asked["fields"] != "proc.name,evt.kind" || asked["node"] != "" || asked["limit"] != "" {
		t.Errorf("the agent was asked %v", asked)
	}
	if len(one.filters()) != 0 {
		t.Error("another node was asked")
	}
	limited := f.follow(admin, "/v1/files?path=/x&node=node-2&limit=1")
	two.waitStreams(t, 2)
	limited.want("1 of 1")
	two.tell(two.row(time.Now(), "", "y"))
	limited.want("node-2  y")
	limited.wantEnd(true)
	two.judge(func(api.Query) *api.Error { return api.BadRequest("no such directory") })
	for _, tt := range []struct {
		who         shows
		query, want string
		code        int
	}{
		{bearer("shop-token"), "path=/x&node=node-1", "sue may not get pods in all namespaces", http.StatusForbidden},
		{bearer("nobody-token"), "path=/x&node=node-1", "may not get pods in any namespace", http.StatusForbidden},
		{shows{}, "path=/x&node=node-1", "nobody says who asks", http.StatusUnauthorized},
		{admin, "path=/x", "a file is one node's", http.StatusBadRequest},
		{admin, "path=/x&node=node-1,node-2", "a file is one node's", http.StatusBadRequest},
		{admin, "path=x&node=node-1", "absolute path", http.StatusBadRequest},
		{admin, "path=/x&node=node-1&fields=a.b", "no field", http.StatusBadRequest},
		{admin, "path=/x&node=node-9", "there is no such node", http.StatusNotFound},
		{admin, "path=/x/../y&node=node-2", "no such directory", http.StatusBadRequest},
	} {
		if code, body := f.get(tt.who, "/v1/files?"+tt.query); code != tt.code || !strings.Contains(body, tt.want) {
			t.Errorf("%s: %d %s, want %d %s", tt.query, code, body, tt.code, tt.want)
		}
	}
	if len(one.filters()) != 0 {
		t.Error("an agent was asked for who may not")
	}
	// Who does not see everything any more does not see the rest.
	before := f.refusedSoFar()[refusedLate]
	f.cluster.change(func(c *fakeCluster) { c.may["admin"] = []string{"shop"} })
	s.wantEnd(false)
	if f.refusedSoFar()[refusedLate] != before+1 {
		t.Error("the end is not counted")
	}
}
