package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"warren/api"
	"warren/cluster"
	"warren/event"
)

// TestMain makes this machine the node that samples_test.go speaks of.
func TestMain(m *testing.M) {
	event.SetNode("node-1")
	os.Exit(m.Run())
}

// talk returns a map of the day's connections.
func (m *machine) talk() *api.MapCollector {
	clock := bootTime
	c := api.NewMapCollector(api.MapConfig{Now: func() time.Time { return clock }})
	for _, e := range m.events {
		c.Add(e)
	}
	clock = now
	return c
}

// A fakeHub is the API server of a cluster with a hub that has one node's day to
// tell. How it is doing:
//
//	""            every node answers
//	missing       node-2 does not
//	back          node-2 does not, and then does
//	partial       who asks may not get pods in all namespaces
//	uneven        node-2 keeps alerts, and nothing else
//	none          there is no hub
//	forbidden, unavailable, expired, broken, away   what the API server says
//	slow          nobody answers
type fakeHub struct {
	how   string
	agent http.Handler
}

func newFakeHub(how string) *fakeHub {
	m := newNode()
	m.flow()
	return &fakeHub{how: how, agent: api.New(api.Config{Node: "node-1", Flows: m.flows, History: kept{m}}, recorded{m}, recorded{m}, recorded{m}, slog.New(slog.DiscardHandler))}
}

func (h *fakeHub) nodes(answered int, missing ...string) []byte {
	return append(event.AppendJSON(nil, &event.Event{Time: now, Data: &event.Nodes{Type: "nodes", Total: 2, Answered: answered, Missing: missing}}), '\n')
}

const connectionRefused = "node-2: connection refused"

// RoundTrip implements [http.RoundTripper].
func (h *fakeHub) RoundTrip(req *http.Request) (*http.Response, error) {
	status := func(code int, reason, msg string) (*http.Response, error) {
		rec := httptest.NewRecorder()
		rec.Header().Set("Content-Type", "application/json")
		rec.WriteHeader(code)
		fmt.Fprintf(rec, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":%d,"reason":%q,"message":%q}`, code, reason, msg)
		return rec.Result(), nil
	}
	switch h.how {
	case "none":
		return status(404, "NotFound", "the server could not find the requested resource")
	case "forbidden":
		return status(403, "Forbidden", `events.hub.warren.dev is forbidden: User "eve" cannot list resource "events" in API group "hub.warren.dev" at the cluster scope`)
	case "unavailable":
		return status(503, "ServiceUnavailable", "error trying to reach service: no endpoints")
	case "expired":
		return status(401, "Unauthorized", "Unauthorized")
	case "broken":
		return &http.Response{StatusCode: 502, Header: http.Header{"Content-Type": {"text/plain"}}, Body: io.NopCloser(strings.NewReader("bad \x1b[31m gateway"))}, nil
	case "away":
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	case "slow":
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	path, ok := strings.CutPrefix(req.URL.Path, "/apis/hub.warren.dev")
	if !ok {
		return status(404, "NotFound", "the server could not find the requested resource")
	}
	req.URL.Path = path
	q := req.URL.Query()
	if path == "/v1/files" {
		if h.how == "partial" { // what the hub says to who does not see everything
			rec := httptest.NewRecorder()
			e := api.Forbidden("eve may not get pods in all namespaces")
			e.Hint = "what is of a node, and of no pod, is told to who may"
			api.WriteError(rec, e)
			return rec.Result(), nil
		}
	}
	if path == "/v1/counts" {
		q.Del("limit") // of all nodes
	}
	if q.Get("node") == "node-2" && path != "/v1/files" {
		q.Set("filter", "proc.pid = 0") // it has nothing to tell
	}
	q.Del("node")
	req.URL.RawQuery = q.Encode()
	rec := httptest.NewRecorder()
	switch path {
	case "/v1/map":
		api.NewMux([]api.Route{api.MapRoute(h.clusterMap)}, slog.New(slog.DiscardHandler)).ServeHTTP(rec, req)
	case "/v1/policy":
		api.NewMux([]api.Route{api.PolicyRoute(h.policy)}, slog.New(slog.DiscardHandler)).ServeHTTP(rec, req)
	case "/v1/policy/status":
		api.NewMux([]api.Route{api.PolicyStatusRoute(h.policyStatus)}, slog.New(slog.DiscardHandler)).ServeHTTP(rec, req)
	case "/v1/status":
		h.status(rec, req)
	default:
		h.agent.ServeHTTP(rec, req)
	}
	if path == "/v1/counts" && rec.Code == http.StatusOK {
		return h.counts(rec)
	}
	if rec.Code == http.StatusOK && rec.Header().Get("Content-Type") == "application/x-ndjson" {
		body := rec.Body.Bytes()
		switch h.how {
		case "", "uneven":
			body = append(h.nodes(2), body...)
		case "missing":
			body = append(h.nodes(1, connectionRefused), body...)
		case "back":
			first := bytes.IndexByte(body, '\n') + 1
			rows := append(h.nodes(1, connectionRefused), h.nodes(1, connectionRefused)...)
			rows = append(append(rows, body[:first]...), h.nodes(2)...)
			body = append(rows, body[first:]...)
		}
		rec.Body = bytes.NewBuffer(body)
	}
	return rec.Result(), nil
}

// counts are those of node-1, by what a hub knows of its nodes.
func (h *fakeHub) counts(rec *httptest.ResponseRecorder) (*http.Response, error) {
	var out bytes.Buffer
	for line := range bytes.Lines(rec.Body.Bytes()) {
		var c api.Counts
		if err := json.Unmarshal(line, &c); err != nil {
			return nil, err
		}
		c.Nodes = 2
		switch h.how {
		case "missing":
			c.Missing = []string{connectionRefused}
		case "back":
			c.Gaps = []string{"node-2 broke off for a while: what happened there meanwhile is not counted"}
		}
		b, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		out.Write(append(b, '\n'))
	}
	rec.Body = &out
	return rec.Result(), nil
}

func (h *fakeHub) status(w http.ResponseWriter, req *http.Request) {
	rec := httptest.NewRecorder()
	h.agent.ServeHTTP(rec, req)
	missing, second := "", `{"node":"node-2","pod":"warren-agent-b","version":"v1.2.2","ready":true,"clock_offset_ns":-90000000000}`
	answered := 2
	switch h.how {
	case "uneven":
		second = `{"node":"node-2","ready":true,"status":{"history":{"filter":"evt.kind = alert","kinds":["alert"],"oldest":"2026-11-20T21:00:00Z"}}}`
	case "missing":
		missing, second, answered = fmt.Sprintf("%q", connectionRefused), `{"node":"node-2","pod":"warren-agent-b","error":"connection refused"}`, 1
	}
	of := `,"status":` + rec.Body.String()
	if h.how == "partial" {
		of = ""
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"hub":{"version":"v1.2.3","started":"2026-11-20T20:00:00Z","nodes_total":2,"nodes_answered":%d,"nodes_missing":[%s]},"nodes":[{"node":"node-1","pod":"warren-agent-a","version":"v1.2.3","ready":true,"clock_offset_ns":1200000%s},%s]}`,
		answered, missing, of, second)
}

// clusterMap is a shop.
func (h *fakeHub) clusterMap(_ context.Context, q api.MapQuestion) (api.Map, error) {
	m := api.Map{Since: at(600_000), Until: now, Reporters: []string{"node-1", "node-2"}, Total: 2}
	if q.Since > 0 {
		m.Since = now.Add(-q.Since)
	}
	if h.how == "missing" {
		m.Missing, m.Reporters, m.Lost, m.Forgotten = []string{connectionRefused}, m.Reporters[:1], 7, 3
	}
	node := func(kind api.MapKind, ns, name string) string {
		n := api.MapNode{ID: string(kind) + "/" + name, Kind: kind, Namespace: ns, Name: name}
		switch kind {
		case api.MapWorkload:
			n.Workload, n.ID = "Deployment", "workload/"+ns+"/Deployment/"+name
		case api.MapService:
			n.ID = "service/" + ns + "/" + name
		}
		m.Nodes = append(m.Nodes, n)
		return n.ID
	}
	world, stripe, kubelet := node(api.MapWorld, "", "internet"), node(api.MapName, "", "api.stripe.example"), node(api.MapProcess, "", "kubelet \x1b[31m\"\\N&lt;")
	frontend, cart, db, payment := node(api.MapWorkload, "shop", "frontend"), node(api.MapWorkload, "shop", "cart"), node(api.MapWorkload, "shop", "postgres"), node(api.MapService, "shop", "payment")
	backends := []string{node(api.MapWorkload, "shop", "payment"), node(api.MapWorkload, "shop", "payment-v2")}
	m.Nodes[slices.IndexFunc(m.Nodes, func(n api.MapNode) bool { return n.ID == payment })].Backends = backends
	dns, host := node(api.MapWorkload, "kube-system", "coredns"), node(api.MapHost, "", "node-2")
	edge := func(from, to string, port uint16, n uint64) *api.MapEdge {
		m.Edges = append(m.Edges, api.MapEdge{From: from, To: to, Protocol: "tcp", Port: port, SeenBy: api.SeenByClient, Connections: n, BytesSent: 1000 * n, BytesReceived: 3000 * n, RTT: &api.MapRTT{Min: 1e5, Mean: int64(n) * 1e5, Max: int64(n) * 1e6, Samples: n}})
		return &m.Edges[len(m.Edges)-1]
	}
	edge(world, frontend, 80, 412).SeenBy = api.SeenByServer
	edge(frontend, cart, 80, 400).Active = 3
	edge(frontend, payment, 8443, 12)
	udp := edge(frontend, dns, 53, 30)
	udp.Protocol, udp.RTT = "udp", nil
	broken := edge(cart, db, 5432, 90)
	broken.Failed, broken.Retransmits, broken.Errors = 4, 17, map[string]uint64{"ECONNREFUSED": 3, "reset by server": 1}
	edge(backends[0], stripe, 443, 9)
	edge(backends[1], stripe, 443, 3)
	edge(kubelet, cart, 8080, 60)
	edge(db, db, 5433, 1)
	edge(dns, host, 53, 2)
	// Two that talk to each other, and to nobody else.
	a, b := node(api.MapWorkload, "raft", "a"), node(api.MapWorkload, "raft", "b")
	edge(a, b, 7000, 5)
	edge(b, a, 7000, 6)
	m = api.MergeMaps([]api.Map{m})
	if len(q.Namespaces) > 0 {
		m = m.Restrict(func(ns string) bool { return ns == q.Namespaces[0] })
	}
	return m, nil
}

// policy is what policies of a shop are about: the front asks the database, and
// a debugger tried to.
func (h *fakeHub) policy(_ context.Context, q api.PolicyQuestion) (api.PolicyReport, error) {
	r := api.PolicyReport{Since: at(600_000), Until: now, Source: api.TalkOfFlows, Reporters: []string{"node-1", "node-2"}, Total: 2,
		Namespaces: map[string]map[string]string{"shop": {}, "kube-system": {}}}
	if h.how == "missing" {
		r.Missing, r.Reporters, r.Lost, r.Forgotten, r.Partial, r.Source = []string{connectionRefused}, r.Reporters[:1], 7, 3, []string{"kube-system"}, api.TalkOfConnections
	}
	party := func(ns, name string, n byte, ports ...cluster.PodPort) api.PolicyParty {
		p := api.PolicyPod{UID: name, Name: name + "-1", Namespace: ns, Node: "node-1", Labels: map[string]string{"app": name}, Ports: ports,
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, n})}, Workload: cluster.Workload{Kind: "Deployment", Name: name}}
		r.Pods = append(r.Pods, p)
		return api.PolicyParty{Addr: p.Addrs[0], Pod: p.UID}
	}
	front, db := party("shop", "front", 1), party("shop", "db", 2, cluster.PodPort{Name: "sql", Protocol: "tcp", Port: 5432})
	debug, dns := party("shop", "debug", 3), party("kube-system", "coredns", 4)
	talk := func(from, to api.PolicyParty, protocol uint8, port uint16, n uint64) *api.PolicyTalk {
		r.Talk = append(r.Talk, api.PolicyTalk{From: from, To: to, Protocol: protocol, Port: port, SeenBy: api.SeenByClient, Count: n, First: at(500_000), Last: at(1000)})
		return &r.Talk[len(r.Talk)-1]
	}
	talk(front, db, 6, 5432, 41)
	talk(front, dns, 17, 53, 9)
	talk(front, api.PolicyParty{Addr: netip.MustParseAddr("198.51.100.7")}, 1, 0, 1)
	talk(debug, db, 6, 5432, 1).Dropped = true
	if q.Part == api.PolicyWorld {
		r.Talk = nil
	}
	if len(q.Namespaces) == 0 {
		party("kube-system", "metrics", 9) // who has not talked to the shop
	}
	app := func(name string) cluster.Selector { return cluster.Selector{Equal: map[string]string{"app": name}} }
	from := app("front")
	r.Policies = []*cluster.Policy{{UID: "1", Namespace: "shop", Name: "db", Tier: cluster.NetworkTier, Subject: cluster.PolicySubject{Pods: app("db")}, IsolatesIngress: true,
		Ingress: []cluster.PolicyRule{{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Pods: &from, SameNamespace: true}}, Ports: []cluster.PolicyPort{{Protocol: "tcp", First: 5432, Last: 5432}}}}}}
	return r, nil
}

// policyStatus is that of two nodes, of which one has not come as far.
func (h *fakeHub) policyStatus(_ context.Context, q api.PolicyStatusQuestion) (api.PolicyStatus, error) {
	tier := api.NetworkPolicy{UID: "t", Tier: "Admin", Name: "tier", Generation: 1, InForce: 1, Uncounted: true}
	db := api.NetworkPolicy{UID: "d", Tier: "Network", Namespace: "shop", Name: "db", Generation: 3, InForce: 3, Endpoints: 1}
	old := db
	old.Generation, old.InForce, old.Failed = 2, 2, []string{"shop/db-1", "shop/db-2"}
	odd := api.NetworkPolicy{UID: "o", Tier: "Network", Namespace: "shop", Name: "odd", Generation: 1, InForce: 1, Endpoints: 1, Problems: []string{"spec.egress[0]: \x1b[31mno", "more"}}
	lab := api.NetworkPolicy{UID: "l", Tier: "Network", Namespace: "shop", Name: "lab", Generation: 1, InForce: 1, Endpoints: 2, Audited: 2}
	unused := api.NetworkPolicy{UID: "u", Tier: "Network", Namespace: "shop", Name: "unused", Generation: 1, InForce: 1}
	s := api.PolicyStatus{Total: 2, Nodes: []api.NodePolicies{
		{Node: "node-1", Mode: "routed", Applied: at(1000), Policies: []api.NetworkPolicy{tier, db, odd, lab}},
		{Node: "node-2", Mode: "routed", Error: "apply policy: no", Policies: []api.NetworkPolicy{tier, old}},
	}}
	switch {
	case h.how == "missing":
		s.Nodes, s.Missing = s.Nodes[:1], []string{connectionRefused}
		s.Nodes[0].Waiting = "all of the cluster to be known"
	case slices.Equal(q.Namespaces, []string{"shop"}):
		s.Nodes[0].Policies = append(s.Nodes[0].Policies, unused)
	case slices.Equal(q.Namespaces, []string{"empty"}):
		s.Nodes = []api.NodePolicies{{Node: "node-1", Mode: api.ModeOff}}
	}
	return s, nil
}

// cmdKubectl runs kubectl's plugin.
func cmdKubectl(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 || args[0] != "warren" {
		ts.Fatalf("usage: kubectl warren ARGUMENTS")
	}
	runMain(ts, neg, args[1:], func(env *Env) {
		env.Kubectl = true
		// A file says whom nobody may ask any more.
		env.Policies = func(text []byte, namespace string) ([]*cluster.Policy, error) {
			name, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "isolate ")
			if !ok {
				return nil, errors.New("document 1: kind is missing")
			}
			return []*cluster.Policy{{UID: "2", Namespace: namespace, Name: name, Tier: cluster.NetworkTier, IsolatesIngress: true,
				Subject: cluster.PolicySubject{Pods: cluster.Selector{Equal: map[string]string{"app": name}}}}}, nil
		}
		env.Cluster = func(o ClusterOptions) (Agent, string, error) {
			if ts.Getenv("HUB") == "options" {
				_, err := fmt.Fprintf(ts.Stdout(), "%+v\n", o)
				return nil, "", errors.Join(err, errStop)
			}
			base, err := url.Parse("https://10.0.0.1:6443/apis/hub.warren.dev/v1")
			return api.NewHTTPClient(base, newFakeHub(ts.Getenv("HUB"))), "shop", err
		}
	})
}
