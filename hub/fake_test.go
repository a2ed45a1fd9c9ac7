package hub

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"warren/api"
	"warren/cluster"
	"warren/internal/testkit"
	"warren/kube"
)

// A fakeCluster is a cluster's API server, as a hub sees it.
type fakeCluster struct {
	front *authority // of the front proxy

	mu      sync.Mutex
	agents  []kube.Agent
	set     func([]kube.Agent)
	state   *cluster.State
	tokens  map[string]cluster.User
	may     map[string][]string // namespaces by user; "" is all of them
	away    bool
	reviews []string // what was asked: "token", "rights USER NAMESPACE"

	policies        []kube.ClusterPolicy
	policiesChanged chan struct{} // closed when they have
	written         int
}

var errAway = errors.New("connection refused")

func newFakeCluster(t testing.TB) *fakeCluster {
	return &fakeCluster{
		front:  newAuthority(t, "request header"),
		tokens: map[string]cluster.User{"admin-token": {Name: "admin"}, "shop-token": {Name: "sue"}, "nobody-token": {Name: "ned"}},
		may:    map[string][]string{"admin": {""}, "sue": {"shop"}},

		policiesChanged: make(chan struct{}),
	}
}

func (c *fakeCluster) Watch(ctx context.Context, st *cluster.State, o kube.Options, _ *slog.Logger) error {
	if !slices.Equal(o.Only, []string{"namespaces", "nodes"}) {
		return fmt.Errorf("a hub watches %v", o.Only)
	}
	c.mu.Lock()
	c.state = st
	for _, ns := range []string{"shop", "bank", "kube-system"} {
		st.SetNamespace(ns, nil, time.Now())
	}
	c.mu.Unlock()
	st.SetSynced("namespaces")
	st.SetSynced("nodes")
	<-ctx.Done()
	return nil
}

func (c *fakeCluster) WatchAgents(ctx context.Context, namespace, service string, set func([]kube.Agent)) error {
	if namespace != "warren" || service != "warren-agent" {
		return fmt.Errorf("a hub looks for agents at %s/%s", namespace, service)
	}
	c.mu.Lock()
	c.set = set
	set(c.agents)
	c.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (c *fakeCluster) WatchRequestHeader(ctx context.Context, set func(kube.RequestHeader)) error {
	set(kube.RequestHeader{
		CA: c.front.PEM, AllowedNames: []string{"front-proxy-client"},
		UsernameHeaders: []string{"X-Remote-User"}, UIDHeaders: []string{"X-Remote-Uid"}, GroupHeaders: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-"},
	})
	<-ctx.Done()
	return nil
}

func (c *fakeCluster) WatchClusterPolicies(ctx context.Context, set func([]kube.ClusterPolicy)) error {
	for {
		c.mu.Lock()
		list, changed := slices.Clone(c.policies), c.policiesChanged
		c.mu.Unlock()
		set(list)
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *fakeCluster) TellProgrammed(_ context.Context, p kube.ClusterPolicy, is kube.Programmed) error {
	c.change(func(c *fakeCluster) {
		for i := range c.policies {
			if c.policies[i].UID == p.UID {
				c.policies[i].Programmed = is
				c.written++
			}
		}
		close(c.policiesChanged)
		c.policiesChanged = make(chan struct{})
	})
	return nil
}

func (c *fakeCluster) ReviewToken(_ context.Context, token string) (cluster.User, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reviews = append(c.reviews, "token")
	if c.away {
		return cluster.User{}, errAway
	}
	if u, ok := c.tokens[token]; ok {
		return u, nil
	}
	return cluster.User{}, fmt.Errorf("token of another audience: %w", kube.ErrUnauthenticated)
}

func (c *fakeCluster) MayGetPods(_ context.Context, u cluster.User, namespace string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reviews = append(c.reviews, "rights "+u.Name+" "+namespace)
	if c.away {
		return false, errAway
	}
	return slices.Contains(c.may[u.Name], namespace), nil
}

func (c *fakeCluster) Stats() kube.Stats {
	return kube.Stats{Resources: map[string]kube.ResourceStats{"nodes": {Requests: 1, Events: 2}}}
}

// change changes what the cluster says.
func (c *fakeCluster) change(f func(*fakeCluster)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c)
}

// add makes agents known; remove forgets those of nodes.
func (c *fakeCluster) add(list ...*fakeAgent) {
	c.change(func(c *fakeCluster) {
		for _, a := range list {
			c.agents = append(c.agents, a.pod())
		}
		c.tell()
	})
}

func (c *fakeCluster) remove(a *fakeAgent) {
	c.change(func(c *fakeCluster) {
		c.agents = slices.DeleteFunc(c.agents, func(k kube.Agent) bool { return k == a.pod() })
		c.tell()
	})
}

func (c *fakeCluster) tell() {
	if c.set != nil {
		c.set(slices.Clone(c.agents))
	}
}

// A fakeAgent is the agent of a node: it has rows, and tells them by real TLS to
// whoever asks. Filters it judges, but what it tells does not depend on them.
type fakeAgent struct {
	node, name string
	addr       netip.AddrPort
	hubble     uint16
	version    string
	started    time.Time
	claims     string        // the node that it says it is on
	clock      time.Duration // ahead of the true time
	quiet      bool          // streams give no sign of life
	refuse     func(q api.Query) *api.Error

	mu       sync.Mutex
	lists    map[string][]api.Row // by path
	process  map[string]string    // by id
	talk     api.Map
	reached  api.Who
	counting map[chan api.Counts]bool
	policy   api.PolicyReport
	inForce  func(api.PolicyStatusQuestion) api.NodePolicies
	whoAsked []api.WhoQuestion
	// policyAsked are the questions about policies.
	policyAsked []api.PolicyQuestion
	streams     map[chan api.Row]bool
	asked       []api.Query
	stop        context.CancelFunc
	ending      chan struct{} // closed when streams are to break
	stopped     chan struct{}
}

// newAgent returns an agent that does not listen yet.
func newAgent(node string) *fakeAgent {
	return &fakeAgent{node: node, name: "warren-agent-" + node, version: "v1", started: time.Now(), claims: node,
		lists: map[string][]api.Row{}, process: map[string]string{}, streams: map[chan api.Row]bool{}, counting: map[chan api.Counts]bool{}}
}

func (a *fakeAgent) pod() kube.Agent {
	return kube.Agent{Node: a.node, Pod: a.name, Addr: a.addr.Addr(), HubPort: a.addr.Port(), HubblePort: a.hubble, Ready: true}
}

// listen lets an agent answer; at its former address, if it had one.
func (a *fakeAgent) listen(t testing.TB, ca *authority) *fakeAgent {
	t.Helper()
	addr := "127.0.0.1:0"
	if a.addr.IsValid() {
		addr = a.addr.String()
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	a.addr = l.Addr().(*net.TCPAddr).AddrPort()
	log := slog.New(slog.DiscardHandler)
	creds := ca.credentials(t, agentLeaf, log)
	mux := api.NewMux([]api.Route{
		{Pattern: "/v1/counts", Params: []string{"filter", "by", "parts", "watch"}, Handle: a.serveCounts},
		{Pattern: "/v1/files", Params: api.FileParams, Handle: a.rows(api.PathFiles)},
		{Pattern: "/v1/events", Params: api.Params(api.PathEvents), Handle: a.rows(api.PathEvents)},
		{Pattern: "/v1/processes", Params: api.Params(api.PathProcesses), Handle: a.rows(api.PathProcesses)},
		{Pattern: "/v1/connections", Params: api.Params(api.PathConnections), Handle: a.rows(api.PathConnections)},
		{Pattern: "/v1/processes/{id}", Handle: a.serveProcess},
		{Pattern: "/v1/status", Handle: a.serveStatus},
		api.WhoRoute(30*time.Second, a.serveWho),
		api.MapRoute(a.serveMap),
		api.PolicyRoute(a.servePolicy),
		api.PolicyStatusRoute(a.servePolicyStatus),
	}, log)
	ctx, stop := context.WithCancel(context.Background())
	a.stop, a.stopped = stop, make(chan struct{})
	a.ending = make(chan struct{})
	context.AfterFunc(ctx, func() { close(a.ending) })
	stopped := a.stopped
	go func() {
		defer close(stopped)
		_ = api.Serve(ctx, 30*time.Second, log, api.Door{Listener: creds.Listen(l, "http/1.1", api.HubName), Handler: mux})
	}()
	t.Cleanup(a.close)
	return a
}

// close ends an agent and its connections.
func (a *fakeAgent) close() {
	a.stop()
	<-a.stopped
	a.mu.Lock()
	clear(a.streams)
	a.mu.Unlock()
}

func (a *fakeAgent) serveStatus(w http.ResponseWriter, _ *http.Request, _ api.Query) error {
	return api.WriteJSON(w, map[string]any{"version": a.version, "started": a.started, "node": a.claims, "ready": true, "unheard_of": []int{1}})
}

func (a *fakeAgent) serveProcess(w http.ResponseWriter, req *http.Request, _ api.Query) error {
	a.mu.Lock()
	p, ok := a.process[req.PathValue("id")]
	a.mu.Unlock()
	if !ok {
		return api.NotFound("no process")
	}
	_, err := io.WriteString(w, p)
	return err
}

func (a *fakeAgent) serveWho(_ context.Context, q api.WhoQuestion) (api.Who, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.whoAsked = append(a.whoAsked, q)
	return a.reached, nil
}

func (a *fakeAgent) serveMap(context.Context, api.MapQuestion) (api.Map, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.talk, nil
}

func (a *fakeAgent) servePolicy(_ context.Context, q api.PolicyQuestion) (api.PolicyReport, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.policyAsked = append(a.policyAsked, q)
	r := a.policy
	switch q.Part {
	case api.PolicyWorld:
		r.Talk = nil
	case api.PolicyTalks:
		r.Policies, r.Nodes, r.Namespaces = nil, nil, nil
		r.Pods = slices.DeleteFunc(slices.Clone(r.Pods), func(p api.PolicyPod) bool {
			return !slices.ContainsFunc(r.Talk, func(t api.PolicyTalk) bool { return t.From.Pod == p.UID || t.To.Pod == p.UID })
		})
	}
	return r, nil
}

func (a *fakeAgent) servePolicyStatus(_ context.Context, q api.PolicyStatusQuestion) (api.PolicyStatus, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.inForce == nil {
		return api.PolicyStatus{}, api.Unavailable("no policies")
	}
	return api.PolicyStatus{Nodes: []api.NodePolicies{a.inForce(q)}}, nil
}

// rows answers a list or a stream in the way of api.Writer, but with a clock of
// its own.
func (a *fakeAgent) rows(path string) func(http.ResponseWriter, *http.Request, api.Query) error {
	return func(w http.ResponseWriter, req *http.Request, q api.Query) error {
		a.mu.Lock()
		refuse := a.refuse
		a.mu.Unlock()
		if refuse == nil {
			if _, err := q.Filter(); err != nil {
				return err
			}
		} else if e := refuse(q); e != nil {
			return e
		}
		follow := q["follow"] != "false" && (path == api.PathEvents || path == api.PathFiles) || q["follow"] == "true"
		w.Header().Set("Content-Type", api.RowsType)
		out := http.NewResponseController(w)
		send := func(rows []api.Row) error {
			b, err := cbor.Marshal(api.Batch{Clock: time.Now().Add(a.clock).UnixNano(), Rows: rows})
			if err != nil {
				return err
			}
			if _, err := w.Write(b); err != nil {
				return err
			}
			return out.Flush()
		}
		line := q["filter"] == "evt.kind = lost"
		feed := make(chan api.Row, 1024)
		a.mu.Lock()
		list := slices.Clone(a.lists[path])
		if !line {
			a.asked = append(a.asked, q)
			if follow {
				a.streams[feed] = true
			}
		}
		a.mu.Unlock()
		if !follow {
			return send(list)
		}
		if err := send(nil); err != nil {
			return err
		}
		beat := time.NewTicker(100 * time.Millisecond)
		defer beat.Stop()
		for {
			var rows []api.Row
			select {
			case r := <-feed:
				rows = append(rows, r)
			case <-beat.C:
				if a.quiet && !line {
					continue
				}
			case <-a.ending:
				panic(http.ErrAbortHandler)
			case <-req.Context().Done():
				return nil
			}
			if err := send(rows); err != nil {
				return err
			}
		}
	}
}

// put adds rows to a list.
func (a *fakeAgent) put(path string, rows ...api.Row) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lists[path] = append(a.lists[path], rows...)
}

// judge says which questions are refused.
func (a *fakeAgent) judge(refuse func(api.Query) *api.Error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = refuse
}

// tell tells a row to all streams.
func (a *fakeAgent) tell(r api.Row) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for s := range a.streams {
		s <- r
	}
}

// waitStreams waits until so many streams listen.
func (a *fakeAgent) waitStreams(t testing.TB, n int) {
	t.Helper()
	testkit.Wait(t, fmt.Sprintf("%d streams of %s", n, a.node), func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.streams) == n
	})
}

// questions returns the filters that were asked.
func (a *fakeAgent) filters() (list []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, q := range a.asked {
		list = append(list, q["filter"])
	}
	return list
}

// row returns a row of a namespace, by the clock of the agent.
func (a *fakeAgent) row(at time.Time, namespace, name string) api.Row {
	at = at.Add(a.clock)
	b, _ := json.Marshal(map[string]any{"evt.kind": "exec", "evt.time": at, "k8s.node.name": a.node, "k8s.ns.name": namespace, "proc.name": name, "of.the.future": 1})
	return api.Row{Time: at.UnixNano(), Kind: "exec", Namespace: namespace, JSON: b}
}

// A fixture is a hub with a cluster and agents, over real connections.
type fixture struct {
	t       testing.TB
	ca      *authority
	cluster *fakeCluster
	hub     *hub
	url     string // of HTTPS
	hubble  string // address
	plain   string // URL of metrics and health
	logs    *testkit.Log
	stop    func() // lets the hub end
}

// fixtureWait is how long a hub of tests waits for what other nodes may tell.
const fixtureWait = 10 * time.Second

// newFixture starts a hub that knows the agents, which listen already, and waits
// until it is ready and all of them that answer have.
func newFixture(t testing.TB, ca *authority, cfg Config, agents ...*fakeAgent) *fixture {
	t.Helper()
	// Agents that answer all do, however busy the machine is, and what they tell
	// has one order; the bounds themselves are tested by their own clock.
	cfg.begin, cfg.Wait = cmp.Or(cfg.begin, fixtureWait), cmp.Or(cfg.Wait, fixtureWait)
	f := &fixture{t: t, ca: ca, cluster: newFakeCluster(t), logs: &testkit.Log{}}
	log := slog.New(slog.NewTextHandler(f.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f.cluster.add(agents...)
	f.hub = newHub(cfg, f.cluster, ca.credentials(t, hubLeaf, log), log)
	l, err := listen(t.Context(), Config{Listen: "127.0.0.1:0", HubbleListen: "127.0.0.1:0", MetricsListen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	f.url, f.hubble, f.plain = "https://"+l.api.Addr().String(), l.hubble.Addr().String(), "http://"+l.metrics.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	ended := make(chan error, 1)
	go func() { ended <- f.hub.run(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the hub ended with %v", err)
		}
	})
	testkit.Wait(t, "the hub is ready", func() bool { return f.hub.ready() == nil && f.hub.door.proxy.Load() != nil })
	for _, a := range agents {
		if a.stopped != nil {
			f.waitUp(a, true)
		}
	}
	return f
}

// line returns what the hub knows of an agent, which may be a spare one.
func (f *fixture) line(a *fakeAgent) (lineState, bool) {
	f.hub.agents.mu.Lock()
	defer f.hub.agents.mu.Unlock()
	g := f.hub.agents.known[keyOf(a.pod())]
	if g == nil {
		return lineState{}, false
	}
	return g.line(), true
}

func (f *fixture) waitUp(a *fakeAgent, up bool) {
	f.t.Helper()
	testkit.Wait(f.t, fmt.Sprintf("the line to %s is up: %t", a.name, up), func() bool {
		l, ok := f.line(a)
		return ok && l.up == up && (up || l.err != nil)
	})
}

// An identityOfTest is how a client of the tests shows who it is.
type shows struct {
	cert   *tls.Certificate
	header http.Header
}

func bearer(token string) shows {
	return shows{header: http.Header{"Authorization": {"Bearer " + token}}}
}

var admin = bearer("admin-token")

// client returns an HTTP client that believes the hub.
func (f *fixture) client(who shows) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(f.ca.Cert)
	c := &tls.Config{RootCAs: roots, ServerName: api.HubName}
	if who.cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return who.cert, nil }
	}
	tr := &http.Transport{TLSClientConfig: c}
	f.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// get asks the hub for a path and returns status and body.
func (f *fixture) get(who shows, path string) (int, string) {
	f.t.Helper()
	resp := f.open(f.t.Context(), who, path)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatalf("GET %s: %v after %q", path, err, b)
	}
	return resp.StatusCode, string(b)
}

func (f *fixture) open(ctx context.Context, who shows, path string) *http.Response {
	f.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+path, http.NoBody)
	if err != nil {
		f.t.Fatal(err)
	}
	maps.Copy(req.Header, who.header)
	resp, err := f.client(who).Do(req)
	if err != nil {
		f.t.Fatalf("GET %s: %v", path, err)
	}
	return resp
}

// rows asks for a list and returns what its rows say: see saying.
func (f *fixture) list(who shows, path string) []string {
	f.t.Helper()
	code, body := f.get(who, path)
	if code != http.StatusOK {
		f.t.Fatalf("GET %s: %d %s", path, code, body)
	}
	var list []string
	for line := range strings.Lines(body) {
		if line = strings.TrimSpace(line); line != "" {
			list = append(list, saying(f.t, []byte(line)))
		}
	}
	return list
}
