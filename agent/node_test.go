package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"warren/api"
	"warren/internal/testkit"
)

// apiServer is as much of a cluster's API server as an agent asks: a node, a
// pod, and nothing else.
func apiServer(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	q := req.URL.Query()
	switch {
	case q.Get("sendInitialEvents") != "":
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422,"message":"sendInitialEvents is forbidden"}`)
		return
	case q.Get("watch") != "":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
		return
	}
	items := map[string]string{
		"pods":  `{"metadata":{"name":"web","namespace":"shop","uid":"u1","resourceVersion":"1"},"spec":{"nodeName":"node-1"},"status":{"phase":"Running","podIP":"10.1.0.5","podIPs":[{"ip":"10.1.0.5"}]}}`,
		"nodes": `{"metadata":{"name":"node-1","uid":"n1","resourceVersion":"1"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}`,
	}
	kinds := map[string]string{"pods": "v1/Pod", "nodes": "v1/Node", "services": "v1/Service", "namespaces": "v1/Namespace", "endpointslices": "discovery.k8s.io/v1/EndpointSlice", "replicasets": "apps/v1/ReplicaSet", "jobs": "batch/v1/Job"}
	resource := filepath.Base(req.URL.Path)
	version, kind := filepath.Split(kinds[resource])
	if kind == "" {
		http.NotFound(w, req)
		return
	}
	if strings.Contains(req.Header.Get("Accept"), "as=PartialObjectMetadataList") {
		version, kind = "meta.k8s.io/v1", "PartialObjectMetadata"
	}
	fmt.Fprintf(w, `{"kind":"%sList","apiVersion":%q,"metadata":{"resourceVersion":"1"},"items":[%s]}`, kind, strings.TrimSuffix(version, "/"), items[resource])
}

// kubeconfig says that the API server is at an address.
func kubeconfig(t *testing.T, addr string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: \"http://%s\"}}]\nusers: [{name: u, user: {}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n", addr)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// An agent whose cluster is away runs, and knows it when it comes; when it goes
// away again, what is known stays known.
func TestBPFClusterComesAndGoes(t *testing.T) {
	needBPF(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close() // nobody answers there now
	began := time.Now().Add(-time.Second)
	a := startAgent(t, t.TempDir(), "-node", "node-1", "-kubeconfig", kubeconfig(t, addr), "-hubble-socket", "off").running(t)
	a.sees(t)
	st := a.status(t)
	if k := st.Kubernetes; k == nil || k.Connected || k.Synced || k.Server != "http://"+addr || k.Since.Before(began) || k.Off != "" {
		t.Errorf("while the cluster is away: %+v", k)
	}
	if st.Node != "node-1" {
		t.Errorf("node %q", st.Node)
	}

	if l, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(apiServer), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	known := testkit.WaitFor(t, "the cluster to be known", func() (*api.Kubernetes, bool) {
		k := a.status(t).Kubernetes
		return k, k.Connected && k.Synced && k.Pods == 1 && k.Nodes == 1
	})
	if len(known.Resources) == 0 || !known.Since.After(st.Kubernetes.Since) {
		t.Errorf("connected: %+v", known)
	}

	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	<-served
	gone := testkit.WaitFor(t, "the cluster to be away", func() (*api.Kubernetes, bool) {
		k := a.status(t).Kubernetes
		return k, !k.Connected
	})
	if gone.Pods != 1 || gone.Nodes != 1 || !gone.Synced || !gone.Since.After(known.Since) {
		t.Errorf("away again: %+v", gone)
	}
	a.sees(t)
}

// Without a node's name an agent knows of no cluster; with one and no cluster
// it says why.
func TestBPFNoCluster(t *testing.T) {
	needBPF(t)
	t.Setenv(nodeVariable, "")
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if st := startAgent(t, t.TempDir()).running(t).status(t); st.Kubernetes != nil || st.Node != "" || st.Certificate != nil || st.Hubble != nil || st.CgroupRoot != "" {
		t.Errorf("on a plain machine: %+v", st)
	}
	for reason, args := range map[string][]string{
		"there is neither a kubeconfig nor the service account of a pod": {"-node", "n"},
		"switched off by configuration":                                  {"-node", "n", "-kubernetes", "off", "-kubeconfig", "/none"},
	} {
		if k := startAgent(t, t.TempDir(), args...).running(t).status(t).Kubernetes; k == nil || k.Off != reason {
			t.Errorf("%v: %+v", args, k)
		}
	}
}

// What who started the agent got wrong and only trying shows.
func TestBPFWrongStart(t *testing.T) {
	needBPF(t)
	dir := t.TempDir()
	nonsense := filepath.Join(dir, "nonsense")
	if err := os.WriteFile(nonsense, []byte("\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no kubeconfig":       {[]string{"-node", "n", "-kubeconfig", filepath.Join(dir, "none")}, "find the cluster: read kubeconfig " + filepath.Join(dir, "none")},
		"kubeconfig nonsense": {[]string{"-node", "n", "-kubeconfig", nonsense}, "find the cluster: read kubeconfig " + nonsense},
		"no such cgroup":      {[]string{"-cgroup-root", "/warren-none"}, "cgroup root /warren-none is unavailable"},
		"no certificates":     {[]string{"-tls-dir", dir, "-hub-listen", "127.0.0.1:0"}, "read certificates: open " + filepath.Join(dir, "tls.crt")},
	} {
		t.Run(name, func(t *testing.T) { startAgent(t, t.TempDir(), test.args...).refusedBy(t, 2, test.want) })
	}
}

// listening returns where an agent listens, of the entries with a prefix.
func (a *agentProcess) listening(t *testing.T, prefix string) string {
	t.Helper()
	for _, l := range a.status(t).Listen {
		if rest, ok := strings.CutPrefix(l, prefix); ok {
			addr, _, _ := strings.Cut(rest, " ")
			return strings.TrimSuffix(addr, "/metrics")
		}
	}
	t.Fatalf("nothing listens at %s", prefix)
	return ""
}

// The hub gets in with its certificate, and what it is told is what the socket
// tells; others do not get in, and are counted.
func TestBPFHubAsks(t *testing.T) {
	needBPF(t)
	ours, foreign := testkit.NewAuthority(t, "ours"), testkit.NewAuthority(t, "foreign")
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte("hubble: {flows: 77, bytes: 1MiB}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, t.TempDir(), "-config", config, "-node", "node-1", "-kubernetes", "off", "-tls-dir", ours.Directory(t, api.AgentName),
		"-hub-listen", "127.0.0.1:0", "-hubble-listen", "127.0.0.1:0").running(t)
	hub, hubble := a.listening(t, "https://"), a.listening(t, "hubble tls://")
	open := func(dir string) *api.Credentials {
		c, err := api.OpenCredentials(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	creds := open(ours.Directory(t, api.HubName))
	client := func(c *api.Credentials) *api.Client {
		return api.NewHTTPClient(&url.URL{Scheme: "https", Host: hub, Path: "/v1"}, &http.Transport{
			DisableKeepAlives: true,
			DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				return c.Dial(ctx, addr, api.AgentName, "http/1.1")
			},
		})
	}
	rows := 0
	for b, err := range client(creds).Rows(t.Context(), api.PathProcesses, false, api.Question{Filter: fmt.Sprintf("proc.pid = %d", os.Getpid()), Nodes: []string{"node-1"}}) {
		if err != nil {
			t.Fatal(err)
		}
		rows += len(b.Rows)
	}
	if rows != 1 {
		t.Errorf("%d rows", rows)
	}
	// A relay is not a hub: it may see flows, and no command lines.
	relay := open(ours.Directory(t, api.HubbleName))
	for name, dir := range map[string]string{
		"of another authority": foreign.Directory(t, api.HubName), "of another agent": ours.Directory(t, api.AgentName), "that is a relay": ours.Directory(t, api.HubbleName),
	} {
		c := open(dir)
		if name == "of another authority" {
			// It believes the agent, whatever the agent thinks of it.
			testkit.WriteFiles(t, dir, map[string][]byte{"ca.crt": ours.PEM})
		}
		if _, err := client(c).Status(t.Context()); err == nil {
			t.Errorf("a hub %s was let in", name)
		}
	}
	testkit.Wait(t, "all three to be counted", func() bool { c := a.status(t).Certificate; return c != nil && c.Refused == 3 })
	if !strings.Contains(a.stderr.String(), `msg="a client was refused"`) {
		t.Errorf("the log does not tell:\n%s", a.stderr)
	}

	if h := a.status(t).Hubble; h == nil || h.MaxFlows != 77 || h.MaxBytes != 1<<20 {
		t.Errorf("Hubble's log: %+v, want 77 flows in 1 MiB", h)
	}
	// Hubble's clients: the hub and relays by their certificates, people by the
	// socket.
	for name, dial := range map[string]grpc.DialOption{
		"by the network": grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return creds.Dial(ctx, hubble, api.AgentName, "h2")
		}),
		"as a relay": grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return relay.Dial(ctx, hubble, api.AgentName, "h2")
		}),
		"by the socket": grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(a.dir, "run", "hubble.sock"))
		}),
	} {
		conn, err := grpc.NewClient("passthrough:///agent", dial, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if st, err := observerpb.NewObserverClient(conn).ServerStatus(t.Context(), &observerpb.ServerStatusRequest{}); err != nil || st.GetMaxFlows() != 77 {
			t.Errorf("%s: %v %v", name, st, err)
		}
	}
}

// Who looks after the agent gets metrics and its health on an address of their
// own, and nothing else there.
func TestBPFMetricsListen(t *testing.T) {
	needBPF(t)
	a := startAgent(t, t.TempDir(), "-metrics-listen", "0.0.0.0:0").running(t)
	_, port, err := net.SplitHostPort(a.listening(t, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	// Any name will do: the kubelet asks by the node's address.
	for path, want := range map[string]int{"/metrics": 200, "/healthz": 200, "/readyz": 200, "/v1/status": 404, "/v1/events": 404, "/openapi.json": 404} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+port+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "node-1.example"
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want || path == "/metrics" && !strings.Contains(string(b), "\nwarren_ready 1\n") {
			t.Errorf("%s: %d, %v", path, resp.StatusCode, err)
		}
	}
}
