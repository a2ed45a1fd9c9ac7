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

// What is older than the question comes first, of all nodes in the order of time;
// then what happens. Each agent is asked for the two parts by its own clock.
func TestStreamFromThePast(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1"), newAgent("node-2")
	two.clock = 3 * time.Minute
	one.listen(t, ca)
	two.listen(t, ca)
	f := newFixture(t, ca, Config{}, one, two)
	for _, a := range []*fakeAgent{one, two} {
		f.waitUp(a, true)
	}
	old := time.Now().Add(-time.Hour)
	for i := range 3 {
		one.put(api.PathEvents, one.row(old.Add(time.Duration(2*i)*time.Second), "shop", fmt.Sprint(2*i)))
		two.put(api.PathEvents, two.row(old.Add(time.Duration(2*i+1)*time.Second), "shop", fmt.Sprint(2*i+1)))
	}
	s := f.follow(admin, "/v1/events?since=2h&follow=true")
	s.want("node-1 shop 0", "node-2 shop 1", "node-1 shop 2", "node-2 shop 3", "node-1 shop 4", "node-2 shop 5", "2 of 2")
	one.waitStreams(t, 1)
	one.tell(one.row(time.Now(), "shop", "now"))
	s.want("node-1 shop now")
	for _, a := range []*fakeAgent{one, two} {
		a.mu.Lock()
		if len(a.asked) != 2 {
			t.Fatalf("%s was asked %v", a.node, a.asked)
		}
		list, live := a.asked[0], a.asked[1]
		a.mu.Unlock()
		cut, err := time.Parse(time.RFC3339Nano, list["until"])
		if err != nil || list["follow"] != "false" || live["follow"] != "true" || live["until"] != "" || live["since"] != list["until"] {
			t.Errorf("%s was asked %v, then %v", a.node, list, live)
		}
		if ago := time.Since(cut.Add(-a.clock)); ago < settledTime-time.Second || ago > settledTime+time.Minute {
			t.Errorf("%s: the cut is %v ago", a.node, ago)
		}
	}
}

// before reads lines until one is as wanted, and returns those before it, but for who
// answers.
func (s *following) before(want string) (list []string) {
	s.t.Helper()
	for deadline := time.After(testkit.Patience); ; {
		select {
		case got, ok := <-s.lines:
			switch {
			case !ok:
				s.t.Fatalf("the stream ended (%v), want %q", s.err, want)
			case got == want:
				return list
			case !strings.Contains(got, " of "):
				list = append(list, got)
			}
		case <-deadline:
			s.t.Fatalf("the stream does not say %q", want)
		}
	}
}

// A stream from the past goes on behind what was told last when an agent was away; one
// of what happens says for how long it heard nothing; and so does one from the past of
// an agent without a history.
func TestStreamBreaksOff(t *testing.T) {
	ca := newAuthority(t, "warren")
	for _, tt := range []struct {
		name, path string
		forgets    bool // the agent has no history
		recovers   bool // it has one when it is back
		on         bool // the stream goes on
	}{
		{"past", "/v1/events?since=2h&follow=true", false, false, true},
		{"past without a history", "/v1/events?since=2h&follow=true", true, false, false},
		{"past with a history that could not be read", "/v1/events?since=2h&follow=true", true, true, true},
		{"past of a question that the hub does not understand", "/v1/events?since=2h&follow=true&filter=no.such%20%3D%201", false, false, true},
		{"live", "/v1/events", false, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			one := newAgent("node-1").listen(t, ca)
			one.clock = -2 * time.Minute
			one.judge(func(q api.Query) *api.Error {
				if _, ok := q["since"]; ok && tt.forgets {
					return api.Unavailable("this agent keeps no history")
				}
				return nil
			})
			f := newFixture(t, ca, Config{}, one)
			s := f.follow(admin, tt.path)
			one.waitStreams(t, 1)
			last := time.Now()
			one.tell(one.row(last, "shop", "last"))
			s.before("node-1 shop last")
			one.close()
			if tt.recovers {
				one.judge(func(api.Query) *api.Error { return nil })
			}
			one.listen(t, ca)
			one.waitStreams(t, 1)
			one.tell(one.row(time.Now(), "shop", "next"))
			between := s.before("node-1 shop next")
			if want := []string{"node-1 was not heard"}; tt.on && len(between) > 0 || !tt.on && !slices.Equal(between, want) {
				t.Errorf("between the two it says %q", between)
			}
			one.mu.Lock()
			defer one.mu.Unlock()
			since, err := time.Parse(time.RFC3339Nano, one.asked[len(one.asked)-1]["since"])
			if tt.on != (err == nil) || tt.on && !since.Equal(last.Add(one.clock+1)) {
				t.Errorf("the agent was asked %v", one.asked[len(one.asked)-1])
			}
		})
	}
}

func TestPastLists(t *testing.T) {
	ca := newAuthority(t, "warren")
	one := newAgent("node-1").listen(t, ca)
	f := newFixture(t, ca, Config{}, one)
	one.put(api.PathEvents, one.row(time.Now().Add(-time.Hour), "shop", "a"), one.row(time.Now().Add(-time.Minute), "shop", "b"))
	one.put(api.PathProcesses, one.row(time.Now(), "shop", "p"))
	one.put(api.PathConnections, one.row(time.Now(), "shop", "c"))
	for path, want := range map[string]string{"/v1/events?since=2h&until=1m": "[node-1 shop a node-1 shop b 1 of 1]", "/v1/processes?at=1h": "[node-1 shop p 1 of 1]", "/v1/connections?since=1d": "[node-1 shop c 1 of 1]"} {
		if got := fmt.Sprint(f.list(admin, path)); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	for _, q := range one.asked {
		if q["since"] == "" && q["at"] == "" {
			t.Errorf("the agent was asked %v", q)
		}
		for _, name := range []string{"since", "until", "at"} {
			if q[name] != "" {
				if _, err := time.Parse(time.RFC3339Nano, q[name]); err != nil {
					t.Errorf("%s=%s depends on the agent's clock", name, q[name])
				}
			}
		}
	}
}

func TestWhoOfAllNodes(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	row := func(ns, exe string, last int64) api.WhoRow {
		return api.WhoRow{Namespace: ns, ExePath: exe, Last: time.Unix(last, 0), Connections: 1, Ancestry: []api.WhoAncestor{}, Node: "a lie"}
	}
	one.reached = api.Who{To: "x.example", Since: time.Unix(5, 0), Until: time.Unix(9, 0), Addresses: []api.WhoAddress{{Address: "1.2.3.4", Name: "x.example"}}, Rows: []api.WhoRow{row("shop", "/a", 7), row("", "/host", 8)}}
	two.reached = api.Who{To: "x.example", Since: time.Unix(4, 0), Until: time.Unix(9, 0), Rows: []api.WhoRow{row("bank", "/b", 6)}}
	f := newFixture(t, ca, Config{}, one, two)
	for _, tt := range []struct {
		who         shows
		query, want string
		more        uint64
		addresses   int
	}{
		{admin, "to=x.example", "[node-1 /host node-1 /a node-2 /b]", 0, 1},
		{admin, "to=x.example&limit=1", "[node-1 /host]", 2, 1},
		{admin, "to=x.example&node=node-2", "[node-2 /b]", 0, 0},
		{bearer("shop-token"), "to=x.example&since=1h", "[node-1 /a]", 0, 0},
	} {
		code, body := f.get(tt.who, "/v1/who?"+tt.query)
		var w api.Who
		if err := json.Unmarshal([]byte(body), &w); err != nil || code != http.StatusOK {
			t.Fatalf("%s: %d %s", tt.query, code, body)
		}
		got := []string{}
		for _, r := range w.Rows {
			got = append(got, r.Node+" "+r.ExePath)
		}
		if fmt.Sprint(got) != tt.want || w.More != tt.more || len(w.Addresses) != tt.addresses || w.Total == 0 {
			t.Errorf("%s: %v and %d more, %d addresses; want %s: %s", tt.query, got, w.More, len(w.Addresses), tt.want, body)
		}
	}
	one.mu.Lock()
	asked := one.whoAsked[len(one.whoAsked)-1]
	one.mu.Unlock()
	if asked.Filter != `k8s.ns.name in ("shop")` || asked.Since.IsZero() || asked.Limit != 0 {
		t.Errorf("the agent was asked %+v", asked)
	}
	if code, body := f.get(admin, "/v1/who?to=1.2.3"); code != http.StatusBadRequest {
		t.Errorf("%d %s", code, body)
	}
	if code, _ := f.get(bearer("nobody-token"), "/v1/who?to=1.2.3.4"); code == http.StatusOK {
		t.Error("who may see nothing sees who it was")
	}
}
