package hub

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"warren/api"
	"warren/cluster"
	"warren/internal/testkit"
)

func TestListOfAllNodes(t *testing.T) {
	ca := newAuthority(t, "warren")
	begin := time.Now().Add(-time.Minute)
	var agents []*fakeAgent
	for i := range 3 {
		a := newAgent(fmt.Sprintf("node-%d", i+1)).listen(t, ca)
		for j := range 3 {
			a.put(api.PathEvents, a.row(begin.Add(time.Duration(10*j+i)*time.Second), "shop", fmt.Sprint(10*j+i)))
		}
		agents = append(agents, a)
	}
	dead := newAgent("node-4").listen(t, ca)
	dead.close()
	f := newFixture(t, ca, Config{}, agents...)
	f.cluster.add(dead)
	f.waitUp(dead, false)

	want := []string{"node-1 shop 0", "node-2 shop 1", "node-3 shop 2", "node-1 shop 10", "node-2 shop 11", "node-3 shop 12", "node-1 shop 20", "node-2 shop 21", "node-3 shop 22"}
	missing := "3 of 4; node-4: connection refused"
	for _, prefix := range []string{"", apiPath} {
		if got := f.list(admin, prefix+"/v1/events?follow=false"); !slices.Equal(got, append(slices.Clone(want), missing)) {
			t.Errorf("%s: told %q, want %q", prefix, got, want)
		}
	}
	if got, want := f.list(admin, "/v1/events?follow=false&limit=2"), append(slices.Clone(want[7:]), missing); !slices.Equal(got, want) {
		t.Errorf("the last two are %q, want %q", got, want)
	}
	if got, want := f.list(admin, "/v1/events?follow=false&node=node-2,node-9"), []string{"node-2 shop 1", "node-2 shop 11", "node-2 shop 21", "1 of 2; node-9: there is no such node"}; !slices.Equal(got, want) {
		t.Errorf("of one node %q, want %q", got, want)
	}
	// The question went down as it was asked, but for the nodes.
	_ = f.list(admin, "/v1/processes?filter=proc.name+%3D+ls&fields=proc.name&exited=true")
	agents[0].mu.Lock()
	asked := agents[0].asked[len(agents[0].asked)-1]
	agents[0].mu.Unlock()
	if asked["filter"] != "proc.name = ls" || asked["fields"] != "proc.name" || asked["exited"] != "true" || asked["node"] != "" {
		t.Errorf("an agent was asked %v", asked)
	}
}

func TestStreamOfAllNodes(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	f := newFixture(t, ca, Config{}, one, two)
	s := f.follow(admin, "/v1/events?watch=true")
	s.want("2 of 2")
	// What happened first comes first, though it was told last.
	now := time.Now()
	two.tell(two.row(now, "shop", "second"))
	one.tell(one.row(now.Add(-50*time.Millisecond), "shop", "first"))
	s.want("node-1 shop first", "node-2 shop second")

	two.close()
	s.want("1 of 2; node-2: it hung up")
	one.tell(one.row(time.Now(), "", "alone"))
	s.until("node-1  alone", "1 of 2; node-2: connection refused")
	two.listen(t, ca)
	two.waitStreams(t, 1)
	s.until("2 of 2", "1 of 2; node-2: connection refused", "node-2 was not heard")
	two.tell(two.row(time.Now(), "shop", "back"))
	s.until("node-2 shop back", "node-2 was not heard")

	// Agents come and go.
	three := newAgent("node-3").listen(t, ca)
	f.cluster.add(three)
	three.waitStreams(t, 1)
	s.until("3 of 3", "2 of 3; node-3: no answer yet")
	f.cluster.remove(one)
	s.want("2 of 2")
	three.tell(three.row(time.Now(), "shop", "new"))
	s.want("node-3 shop new")
	if n := len(f.hub.agents.now().members); n != 2 {
		t.Errorf("the hub knows %d nodes, want 2", n)
	}
}

func TestStreamLimit(t *testing.T) {
	ca := newAuthority(t, "warren")
	one := newAgent("node-1").listen(t, ca)
	f := newFixture(t, ca, Config{}, one)
	s := f.follow(admin, "/v1/events?limit=2")
	s.want("1 of 1")
	for i := range 4 {
		one.tell(one.row(time.Now(), "shop", fmt.Sprint(i)))
	}
	s.want("node-1 shop 0", "node-1 shop 1")
	s.wantEnd(true)
	one.mu.Lock()
	defer one.mu.Unlock()
	if asked := one.asked[0]; asked["limit"] != "" {
		t.Errorf("an agent was asked for %s rows of a stream: it may be another's that come first", asked["limit"])
	}
}

func TestQuietNodeHoldsNobody(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2")
	two.quiet = true
	two.listen(t, ca)
	// For how long at most is tested by the merger's own clock.
	f := newFixture(t, ca, Config{Wait: 250 * time.Millisecond}, one, two)
	s := f.follow(admin, "/v1/events")
	s.want("2 of 2")
	one.tell(one.row(time.Now(), "shop", "x"))
	s.want("node-1 shop x")
}

func TestClocksMinutesApart(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1"), newAgent("node-2")
	one.clock, two.clock = 7*time.Minute, -3*time.Minute
	one.listen(t, ca)
	two.listen(t, ca)
	f := newFixture(t, ca, Config{}, one, two)
	now := time.Now().Add(-time.Minute)
	for i := range 3 {
		one.put(api.PathEvents, one.row(now.Add(time.Duration(2*i)*time.Second), "shop", fmt.Sprint(2*i)))
		two.put(api.PathEvents, two.row(now.Add(time.Duration(2*i+1)*time.Second), "shop", fmt.Sprint(2*i+1)))
	}
	want := []string{"node-1 shop 0", "node-2 shop 1", "node-1 shop 2", "node-2 shop 3", "node-1 shop 4", "node-2 shop 5", "2 of 2"}
	if got := f.list(admin, "/v1/events?follow=false"); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	s := f.follow(admin, "/v1/events")
	s.want("2 of 2")
	at := time.Now()
	one.tell(one.row(at, "shop", "second"))
	two.tell(two.row(at.Add(-60*time.Millisecond), "shop", "first"))
	s.want("node-2 shop first", "node-1 shop second")

	var st Status
	_, body := f.get(admin, "/v1/status")
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		t.Fatal(err)
	}
	for i, want := range []time.Duration{7 * time.Minute, -3 * time.Minute} {
		if d := time.Duration(*st.Nodes[i].Offset) - want; d.Abs() > time.Second {
			t.Errorf("the clock of %s is told to be %v ahead, want %v", st.Nodes[i].Node, time.Duration(*st.Nodes[i].Offset), want)
		}
	}
}

func TestTwoAgentsClaimOneNode(t *testing.T) {
	ca := newAuthority(t, "warren")
	old, young := newAgent("node-1"), newAgent("node-1")
	old.name, young.name = "warren-agent-z-old", "warren-agent-a-young"
	old.started, old.version = time.Now().Add(-time.Hour), "v0"
	old.listen(t, ca)
	young.listen(t, ca)
	f := newFixture(t, ca, Config{}, old, young)
	testkit.Wait(t, "the younger agent stands for the node", func() bool {
		m := f.hub.agents.now().members
		return len(m) == 1 && m[0].agent.Pod == young.name
	})
	old.put(api.PathProcesses, old.row(time.Now(), "shop", "old"))
	young.put(api.PathProcesses, young.row(time.Now(), "shop", "young"))
	if got, want := f.list(admin, "/v1/processes"), []string{"node-1 shop young", "1 of 1"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	_, body := f.get(admin, "/v1/status")
	if !strings.Contains(body, `"ignored":["warren-agent-z-old"]`) {
		t.Errorf("the status does not tell of the agent that is not asked: %s", body)
	}
	if !strings.Contains(f.logs.String(), "two agents claim one node") {
		t.Error("the log does not tell of it")
	}
	// A stream goes over to the other one when the first goes.
	s := f.follow(admin, "/v1/events")
	s.want("1 of 1")
	young.close()
	old.waitStreams(t, 1)
	old.tell(old.row(time.Now(), "shop", "again"))
	s.until("node-1 shop again", "0 of 1; node-1: ", "1 of 1", "node-1 was not heard")
}

func TestNodeWithoutAgent(t *testing.T) {
	ca := newAuthority(t, "warren")
	one := newAgent("node-1").listen(t, ca)
	f := newFixture(t, ca, Config{}, one)
	linux := map[string]string{"kubernetes.io/os": "linux"}
	f.cluster.change(func(c *fakeCluster) {
		c.state.SetNode(&cluster.Node{UID: "1", Name: "node-1", Labels: linux}, time.Now())
		c.state.SetNode(&cluster.Node{UID: "2", Name: "node-2", Labels: linux}, time.Now())
		c.state.SetNode(&cluster.Node{UID: "3", Name: "node-3", Labels: map[string]string{"kubernetes.io/os": "windows"}}, time.Now())
	})
	testkit.Wait(t, "the node without an agent is known", func() bool { return len(f.hub.agents.now().members) == 2 })
	if got, want := f.list(admin, "/v1/processes"), []string{"1 of 2; node-2: no agent runs there"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestAgentsOfOtherVersions(t *testing.T) {
	ca := newAuthority(t, "warren")
	// The newer agent knows a field that neither the hub nor the older one does.
	fresh, old := newAgent("node-1"), newAgent("node-2")
	fresh.version, old.version = "v9", "v0"
	unknown := func(api.Query) *api.Error { return api.BadRequest("no field of.the.future") }
	fresh.judge(func(api.Query) *api.Error { return nil })
	old.judge(func(q api.Query) *api.Error {
		if strings.Contains(q["filter"], "future") {
			return unknown(q)
		}
		return nil
	})
	fresh.listen(t, ca)
	old.listen(t, ca)
	f := newFixture(t, ca, Config{}, fresh, old)
	fresh.put(api.PathProcesses, fresh.row(time.Now(), "shop", "x"))
	path := "/v1/processes?filter=of.the.future+%3D+1&fields=of.the.future"
	code, body := f.get(admin, path)
	lines := strings.Split(strings.TrimSpace(body), "\n")
	if code != http.StatusOK || len(lines) != 2 || !strings.Contains(lines[0], `"of.the.future":1`) {
		t.Errorf("GET %s: %d %s", path, code, body)
	}
	if got, want := saying(t, []byte(lines[len(lines)-1])), "1 of 2; node-2: no field of.the.future"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	s := f.follow(admin, "/v1/events?filter=of.the.future+%3D+1")
	s.want("1 of 2; node-2: no field of.the.future")
	// Where nobody knows it, it is a mistake, and the place of it is told.
	fresh.judge(unknown)
	code, body = f.get(admin, path)
	if code != http.StatusBadRequest || !strings.Contains(body, `"expr":"of.the.future = 1"`) {
		t.Errorf("GET %s: %d %s", path, code, body)
	}
	_, body = f.get(admin, "/v1/status")
	for _, want := range []string{`"version":"v9"`, `"version":"v0"`} {
		if !strings.Contains(body, want) {
			t.Errorf("the status does not say %s: %s", want, body)
		}
	}
}

func TestMistakes(t *testing.T) {
	ca := newAuthority(t, "warren")
	f := newFixture(t, ca, Config{}, newAgent("node-1").listen(t, ca))
	for _, test := range []struct {
		path, want string
		code       int
	}{
		{"/v1/events?filter=proc.name+%3D", "", http.StatusBadRequest},
		{"/v1/events?filter=)+or+(evt.kind=exec", "", http.StatusBadRequest},
		{"/v1/events?follow=perhaps", "want true or false", http.StatusBadRequest},
		{"/v1/events?limit=0", "at least 1", http.StatusBadRequest},
		{"/v1/events?follow=false&limit=10001", "at most 10000", http.StatusBadRequest},
		{"/v1/events?node=", "names separated by commas", http.StatusBadRequest},
		{"/v1/events?filtre=x", "did you mean filter?", http.StatusBadRequest},
		{"/v1/event", "did you mean /v1/events?", http.StatusNotFound},
		{"/v1/processes/12", "no process", http.StatusNotFound},
		{"/metrics", "no such path", http.StatusNotFound},
		{"/openapi/v2", "no such path", http.StatusNotFound},
		{"/openapi/v3", "no such path", http.StatusNotFound},
		{"/v1/map?since=yesterday", "want a duration", http.StatusBadRequest},
	} {
		if code, body := f.get(admin, test.path); code != test.code || !strings.Contains(body, test.want) || !json.Valid([]byte(body)) {
			t.Errorf("GET %s: %d %s, want %d and %q", test.path, code, body, test.code, test.want)
		}
	}
}

func TestProcess(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	one.process["12"] = `{"k8s.ns.name":"shop","proc.name":"a","ancestors":[{"proc.name":"init"},{"k8s.ns.name":"shop","proc.name":"sh"}],"children":[{"k8s.ns.name":"bank"}],"others":["x"]}`
	two.process["12"] = `{"k8s.ns.name":"bank","proc.name":"b"}`
	two.process["13"] = `{"proc.name":"host"}`
	f := newFixture(t, ca, Config{}, one, two)
	for _, test := range []struct {
		who        shows
		path, want string
		code       int
	}{
		{admin, "/v1/processes/12", "several nodes have a process \\\"12\\\": node-1, node-2", http.StatusBadRequest},
		{admin, "/v1/processes/12?node=node-2", two.process["12"], http.StatusOK},
		{admin, "/v1/processes/13", two.process["13"], http.StatusOK},
		{admin, "/v1/processes/14", "no process", http.StatusNotFound},
		// Who sees the shop only finds one, without its relatives elsewhere.
		{bearer("shop-token"), "/v1/processes/12", `{"ancestors":[{"k8s.ns.name":"shop","proc.name":"sh"}],"children":[],"k8s.ns.name":"shop","others":[],"proc.name":"a"}`, http.StatusOK},
		{bearer("shop-token"), "/v1/processes/12?node=node-2", "no process", http.StatusNotFound},
		{bearer("shop-token"), "/v1/processes/13", "no process", http.StatusNotFound},
		// Nobody asks agents for other paths.
		{bearer("shop-token"), "/v1/processes/%2E", "neither a pid nor an exec id", http.StatusBadRequest},
		{bearer("shop-token"), "/v1/processes/%2E%2E", "neither a pid nor an exec id", http.StatusBadRequest},
		{bearer("shop-token"), "/v1/processes/..%2Fstatus", "neither a pid nor an exec id", http.StatusBadRequest},
	} {
		if code, body := f.get(test.who, test.path); code != test.code || !strings.Contains(body, test.want) {
			t.Errorf("GET %s: %d %s, want %d %s", test.path, code, body, test.code, test.want)
		}
	}
}

// TestMap holds that who sees one namespace is told of the edges with an end there,
// and that it is Kubernetes who says which node an agent reports for.
func TestMap(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	workload := func(ns, name string) api.MapNode {
		return api.MapNode{ID: "workload/" + ns + "/Deployment/" + name, Kind: api.MapWorkload, Namespace: ns, Workload: "Deployment", Name: name}
	}
	edge := func(from, to api.MapNode) api.MapEdge {
		return api.MapEdge{From: from.ID, To: to.ID, Protocol: "tcp", Port: 1, SeenBy: api.SeenByClient, Connections: 1}
	}
	cart, vault, teller := workload("shop", "cart"), workload("bank", "vault"), workload("bank", "teller")
	one.talk = api.Map{Reporters: []string{"node-7"}, Nodes: []api.MapNode{cart, vault}, Edges: []api.MapEdge{edge(cart, vault)}}
	two.talk = api.Map{Reporters: []string{"node-1"}, Nodes: []api.MapNode{teller, vault}, Edges: []api.MapEdge{edge(teller, vault)}}
	f := newFixture(t, ca, Config{}, one, two)
	for _, test := range []struct {
		who  shows
		want []string
	}{
		{admin, []string{teller.ID + " " + vault.ID, cart.ID + " " + vault.ID}},
		{bearer("shop-token"), []string{cart.ID + " " + vault.ID}},
	} {
		code, body := f.get(test.who, "/v1/map")
		var m api.Map
		if err := json.Unmarshal([]byte(body), &m); err != nil || code != http.StatusOK {
			t.Fatal(code, body, err)
		}
		var got []string
		for _, e := range m.Edges {
			got = append(got, e.From+" "+e.To)
		}
		if !slices.Equal(got, test.want) || m.Total != 2 || !slices.Equal(m.Reporters, []string{"node-1", "node-2"}) {
			t.Errorf("told %q by %q of %d, want %q", got, m.Reporters, m.Total, test.want)
		}
	}
	if code, body := f.get(bearer("nobody-token"), "/v1/map"); code != http.StatusForbidden {
		t.Errorf("who may see nothing is told %d %s", code, body)
	}
}

// TestGarbage holds that an agent cannot put lines into answers that are no rows of
// its own: above all, it does not say which nodes answer.
func TestGarbage(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	one.put(api.PathProcesses, one.row(time.Now(), "shop", "x"))
	f := newFixture(t, ca, Config{}, one, two)
	row := func(change func(*api.Row)) api.Row {
		r := two.row(time.Now(), "shop", "y")
		change(&r)
		return r
	}
	for name, test := range map[string]struct {
		row  api.Row
		want string
	}{
		"who answers": {row(func(r *api.Row) { r.Kind = "nodes" }), "2 of 2"},
		"two lines":   {row(func(r *api.Row) { r.JSON = []byte("{}\n{}") }), "1 of 2; node-2: it tells rows that are none"},
		"no object":   {row(func(r *api.Row) { r.JSON = []byte("[1]") }), "1 of 2; node-2: it tells rows that are none"},
		"nothing":     {row(func(r *api.Row) { r.JSON = nil }), "1 of 2; node-2: it tells rows that are none"},
		"a namespace": {row(func(r *api.Row) { r.Namespace = strings.Repeat("x", 65) }), "1 of 2; node-2: it tells rows that are none"},
		"a kind":      {row(func(r *api.Row) { r.Kind = strings.Repeat("x", 65) }), "1 of 2; node-2: it tells rows that are none"},
	} {
		two.mu.Lock()
		two.lists[api.PathProcesses] = []api.Row{test.row}
		two.mu.Unlock()
		if got, want := f.list(admin, "/v1/processes"), []string{"node-1 shop x", test.want}; !slices.Equal(got, want) {
			t.Errorf("%s: told %q, want %q", name, got, want)
		}
	}
}

// TestStatusCountsForEveryone holds that how many rows there are that somebody may
// not see is not told to them.
func TestStatusCountsForEveryone(t *testing.T) {
	ca := newAuthority(t, "warren")
	f := newFixture(t, ca, Config{}, newAgent("node-1").listen(t, ca))
	for _, test := range []struct {
		who  shows
		want bool
	}{{admin, true}, {bearer("shop-token"), false}} {
		code, body := f.get(test.who, "/v1/status")
		if code != http.StatusOK || strings.Contains(body, `"rows_withheld":0`) != test.want || strings.Contains(body, "rows_") != test.want {
			t.Errorf("GET /v1/status: %d %s", code, body)
		}
	}
}

// TestSlowClientIsToldWhatItLost holds that a client that does not read costs
// itself rows, and that it is told how many, where they are missing.
func TestSlowClientIsToldWhatItLost(t *testing.T) {
	ca := newAuthority(t, "warren")
	one := newAgent("node-1").listen(t, ca)
	f := newFixture(t, ca, Config{StreamBytes: 1 << 20}, one)
	resp := f.open(t.Context(), admin, "/v1/events")
	defer resp.Body.Close()
	one.waitStreams(t, 1)
	const many = 600
	for range many {
		one.tell(one.row(time.Now(), "shop", strings.Repeat("x", 64<<10)))
	}
	testkit.Wait(t, "rows are lost", func() bool { return f.hub.merged.lost.Load() > 0 })
	read := func() (rows, lost int) {
		in := bufio.NewScanner(resp.Body)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			line := in.Text()
			if line == "" {
				continue
			}
			n := 0
			switch said := saying(t, []byte(line)); {
			case said == "1 of 1":
			case strings.HasPrefix(said, "lost "):
				if _, err := fmt.Sscanf(said, "lost %d", &n); err != nil {
					t.Fatal(err)
				}
				lost += n
			default:
				rows++
			}
			if rows+lost == many {
				return rows, lost
			}
		}
		t.Fatalf("the stream ended after %d rows and %d lost ones: %v", rows, lost, in.Err())
		return rows, lost
	}
	rows, lost := read()
	if rows == 0 || lost == 0 || uint64(lost) != f.hub.merged.lost.Load() {
		t.Errorf("%d rows and %d lost ones were told, counted are %d", rows, lost, f.hub.merged.lost.Load())
	}
}

func TestSilentAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		batches := func(every time.Duration, n int) func(context.Context) api.Batches {
			return func(ctx context.Context) api.Batches {
				return func(yield func(api.Batch, error) bool) {
					for range n {
						select {
						case <-time.After(every):
							if !yield(api.Batch{}, nil) {
								return
							}
						case <-ctx.Done():
							yield(api.Batch{}, ctx.Err())
							return
						}
					}
				}
			}
		}
		for _, test := range []struct {
			name  string
			every time.Duration
			first time.Duration
			slow  time.Duration // of the reader
			want  error
		}{
			{"a sign of life each second", time.Second, silence, 0, nil},
			{"nothing at first", 6 * time.Second, silence, 0, errSilent},
			{"nothing in the short time of who was down", 2 * time.Second, downTime, 0, errSilent},
			{"a reader that takes its time", time.Second, silence, time.Minute, nil},
		} {
			var got error
			n := 0
			for _, err := range attentive(t.Context(), test.first, batches(test.every, 3)) {
				if got = err; err == nil {
					n++
				}
				time.Sleep(test.slow)
			}
			if !errors.Is(got, test.want) || test.want == nil && n != 3 {
				t.Errorf("%s: %d batches and %v, want %v", test.name, n, got, test.want)
			}
		}
	})
}
