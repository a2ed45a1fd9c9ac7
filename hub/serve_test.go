package hub

import (
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"warren/api"
)

// plain asks the listener that speaks no TLS.
func (f *fixture) askPlain(path string) (int, string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.plain+path, http.NoBody)
	if err != nil {
		f.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestMetrics(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, dead := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	dead.close()
	one.put(api.PathProcesses, one.row(time.Now(), "shop", "x"), one.row(time.Now(), "bank", "x"))
	f := newFixture(t, ca, Config{Version: "v1"}, one)
	f.cluster.add(dead)
	_ = f.list(bearer("shop-token"), "/v1/processes")
	_, _ = f.get(shows{}, "/v1/processes")
	code, text := f.askPlain("/metrics")
	if code != http.StatusOK {
		t.Fatalf("answered %d", code)
	}
	for _, want := range []string{
		`warren_build_info{version="v1"} 1`, "warren_hub_ready 1", "warren_hub_nodes 2", `warren_hub_agent_up{node="node-1"} 1`, `warren_hub_agent_up{node="node-2"} 0`,
		"warren_hub_rows_merged_total 2", "warren_hub_rows_withheld_total 1", "warren_hub_token_reviews_total 1", "warren_hub_access_reviews_total 4",
		`warren_hub_refused_total{reason="no_credentials"} 1`, `warren_hub_refused_total{reason="rights"} 0`, `warren_hub_cluster_watch_events_total{resource="nodes"} 2`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("the metrics do not say %s", want)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Error(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "warren_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	if promtool, err := exec.LookPath("promtool"); err == nil {
		cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool check metrics: %v\n%s", err, out)
		}
	}
	// There is nothing else without TLS.
	for _, path := range []string{"/v1/processes", "/v1/events", "/v1/status", "/openapi.json", "/apis", apiPath + "/v1/events"} {
		if code, body := f.askPlain(path); code != http.StatusNotFound {
			t.Errorf("GET %s without TLS: %d %s", path, code, body)
		}
	}
}

func TestHealth(t *testing.T) {
	ca := newAuthority(t, "warren")
	f := newFixture(t, ca, Config{}, newAgent("node-1").listen(t, ca))
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, body := f.askPlain(path); code != http.StatusOK {
			t.Errorf("GET %s: %d %s", path, code, body)
		}
		if code, body := f.get(admin, path); code != http.StatusOK {
			t.Errorf("GET %s with TLS: %d %s", path, code, body)
		}
	}
	f.hub.found.Store(false)
	if code, body := f.askPlain("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "does not know the cluster's agents") {
		t.Errorf("GET /readyz: %d %s", code, body)
	}
	// Until then nobody is told that there is nothing for them to see.
	if code, body := f.get(bearer("nobody-token"), "/v1/processes"); code != http.StatusServiceUnavailable || f.refusedSoFar()[refusedRights] != 0 {
		t.Errorf("GET /v1/processes: %d %s", code, body)
	}
}

func TestDiscovery(t *testing.T) {
	ca := newAuthority(t, "warren")
	f := newFixture(t, ca, Config{}, newAgent("node-1").listen(t, ca))
	// Whom the API server asks as has no pods to see: it finds the API anyway.
	who := proxied(f.cluster.front, t, "system:kube-aggregator")
	for _, test := range []struct{ path, want string }{
		{"/apis", `{"kind":"APIGroupList","apiVersion":"v1","groups":[{"name":"hub.warren.dev","versions":[{"groupVersion":"hub.warren.dev/v1","version":"v1"}],"preferredVersion":{"groupVersion":"hub.warren.dev/v1","version":"v1"}}]}`},
		{"/apis/hub.warren.dev", `{"kind":"APIGroup","apiVersion":"v1","name":"hub.warren.dev","versions":[{"groupVersion":"hub.warren.dev/v1","version":"v1"}],"preferredVersion":{"groupVersion":"hub.warren.dev/v1","version":"v1"}}`},
		{"/apis/hub.warren.dev/v1", `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"hub.warren.dev/v1","resources":[]}`},
		{"/apis/hub.warren.dev/v1?timeout=32s", `"resources":[]`},
	} {
		if code, body := f.get(who, test.path); code != http.StatusOK || !strings.Contains(body, test.want) {
			t.Errorf("GET %s: %d %s, want %s", test.path, code, body, test.want)
		}
		if code, body := f.get(shows{}, test.path); code != http.StatusUnauthorized {
			t.Errorf("GET %s of nobody: %d %s", test.path, code, body)
		}
	}
}

func TestOpenAPI(t *testing.T) {
	ca := newAuthority(t, "warren")
	f := newFixture(t, ca, Config{}, newAgent("node-1").listen(t, ca))
	_, body := f.get(bearer("nobody-token"), "/openapi.json")
	doc, err := openapi3.NewLoader().LoadFromData([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"/v1/events", "/v1/processes", "/v1/processes/{id}", "/v1/connections", "/v1/map", "/v1/fields", "/v1/status", "/healthz", "/readyz"} {
		if doc.Paths.Find(path) == nil {
			t.Errorf("%s is not described", path)
		}
	}
	// A hub's status is not an agent's.
	for _, who := range []shows{admin, bearer("shop-token")} {
		_, status := f.get(who, "/v1/status")
		var v any
		if err := json.Unmarshal([]byte(status), &v); err != nil {
			t.Fatal(err)
		}
		// What an agent says is described by its own tests.
		for _, n := range v.(map[string]any)["nodes"].([]any) {
			delete(n.(map[string]any), "status")
		}
		if err := doc.Components.Schemas["HubStatus"].Value.VisitJSON(v); err != nil {
			t.Errorf("the status is not as described: %v", err)
		}
	}
}

func TestStatus(t *testing.T) {
	ca := newAuthority(t, "warren")
	one := newAgent("node-1").listen(t, ca)
	one.claims = "node-7"
	dead := newAgent("node-2").listen(t, ca)
	dead.close()
	f := newFixture(t, ca, Config{Version: "v1"}, one)
	f.cluster.add(dead)
	f.waitUp(dead, false)
	read := func(who shows, path string) (st Status) {
		t.Helper()
		_, body := f.get(who, path)
		if err := json.Unmarshal([]byte(body), &st); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
		return st
	}
	st := read(admin, "/v1/status")
	if st.Hub.Version != "v1" || !st.Hub.Ready || st.Hub.NodesTotal != 2 || st.Hub.NodesAnswered != 1 || len(st.Hub.NodesMissing) != 1 || st.Hub.NodesMissing[0] != "node-2: connection refused" {
		t.Errorf("of the hub is told %+v", st.Hub)
	}
	if len(st.Nodes) != 2 || st.Nodes[0].Claims != "node-7" || st.Nodes[0].Status == nil || st.Nodes[0].Pod != "warren-agent-node-1" || st.Nodes[1].Error != "connection refused" {
		t.Errorf("of nodes is told %+v", st.Nodes)
	}
	if !strings.Contains(f.logs.String(), "another node than Kubernetes does") {
		t.Error("that an agent claims another node is not logged")
	}
	// What an agent says of itself is for those who see everything.
	if st := read(bearer("shop-token"), "/v1/status"); st.Nodes[0].Status != nil {
		t.Errorf("who sees one namespace is told %s", st.Nodes[0].Status)
	}
	if st := read(admin, "/v1/status?node=node-1"); len(st.Nodes) != 1 {
		t.Errorf("of one node is told %+v", st.Nodes)
	}
}
