package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A flow is what these tests look at of a line of `hubble observe -o json`.
type flow struct {
	Flow struct {
		Time        time.Time `json:"time"`
		Verdict     string    `json:"verdict"`
		NodeName    string    `json:"node_name"`
		Source      endpoint  `json:"source"`
		Destination endpoint  `json:"destination"`
		L4          map[string]any
		Service     struct{ Name string }                    `json:"destination_service"`
		DropReason  string                                   `json:"drop_reason_desc"`
		AllowedBy   []struct{ Name, Namespace, Kind string } `json:"ingress_allowed_by"`
	} `json:"flow"`
}

type endpoint struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod_name"`
}

// flows reads lines of JSON, but for those that tell of nodes.
func flows(t *testing.T, text string) []flow {
	t.Helper()
	var all []flow
	for line := range strings.Lines(text) {
		var f flow
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("a line that is not JSON: %s", line)
		}
		if !f.Flow.Time.IsZero() {
			all = append(all, f)
		}
	}
	return all
}

// An observatory is a server that answers Hubble's command line.
type observatory struct {
	c     *testCluster
	where string // the place to ask from
	flags []string
	nodes []string // that it tells of
	brief bool     // what a filter means is another's to say
	each  bool     // numbers are of each node, and flows come in about the order of time
}

// ask runs Hubble's own command line.
func (o observatory) ask(args ...string) answer {
	o.c.t.Helper()
	return o.c.program(o.where, nil, o.argv(args...)...)
}

func (o observatory) argv(args ...string) []string {
	return slices.Concat([]string{"hubble"}, args, o.flags)
}

// hubAddress is where the hub answers Hubble's clients.
func (c *testCluster) hubAddress() string {
	c.t.Helper()
	return strings.TrimSpace(c.kubectl("-n", "warren", "get", "service", "warren-hub", "-o", "jsonpath={.spec.clusterIP}")) + ":4245"
}

// hubFlags are those with which the hub is reached by name.
func (c *testCluster) hubFlags() []string {
	c.t.Helper()
	ca := filepath.Join(c.t.(*testing.T).TempDir(), "ca.crt")
	c.must(os.WriteFile(ca, c.secret("warren-hub-tls")["ca.crt"], 0o600))
	return []string{"--server", c.hubAddress(), "--tls", "--tls-ca-cert-files", ca, "--tls-server-name", "warren-hub.warren.svc"}
}

func withToken(flags []string, token string) []string {
	return slices.Concat(flags, []string{"--basic-auth-username", "token", "--basic-auth-password", token})
}

// seesAll makes an account that may get pods everywhere, and gives its token.
func (c *testCluster) seesAll() string {
	c.t.Helper()
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: sees-all, namespace: %[1]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: sees-all, namespace: %[1]s}]
`, c.namespace))
	c.t.Cleanup(func() { c.try("delete", "clusterrolebinding", c.namespace) })
	return strings.TrimSpace(c.kubectl("create", "token", "sees-all"))
}

// TestClusterHubble holds that Hubble's own command line works against an agent,
// the hub, and Hubble's own relay, which learns of all nodes from the hub.
func TestClusterHubble(t *testing.T) {
	c := openShop(t)
	nodes := c.RunningNodes()
	all := c.seesAll()
	for _, o := range []struct {
		name  string
		serve func(t *testing.T) observatory
	}{
		{"agent", func(*testing.T) observatory {
			return observatory{c: c, where: nodes[0], flags: []string{"--server", "unix:///run/warren/hubble.sock"}, nodes: nodes[:1], brief: true}
		}},
		{"hub", func(*testing.T) observatory {
			return observatory{c: c, where: nodes[0], flags: withToken(c.hubFlags(), all), nodes: nodes}
		}},
		{"relay", func(t *testing.T) observatory {
			return observatory{c: c, where: nodes[1], flags: []string{"--server", c.in(t).relay(t, nodes[1])}, nodes: nodes, brief: true, each: true}
		}},
	} {
		t.Run(o.name, func(t *testing.T) {
			served := o.serve(t)
			served.c = c.in(t)
			served.test(t)
		})
	}
}

// relay starts Hubble's relay on a node, with the certificate that is made for
// it, and gives its address.
func (c *testCluster) relay(t *testing.T, node string) string {
	t.Helper()
	dir, keys := t.TempDir(), c.secret("warren-hubble-tls")
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		c.must(os.WriteFile(filepath.Join(dir, name), keys[name], 0o600))
	}
	const address = "127.0.0.1:14245" // nothing else is on the node
	cmd, err := c.In(context.Background(), node, "hubble-relay", "serve", "--peer-service", c.hubAddress(),
		"--listen-address", address, "--health-listen-address", "127.0.0.1:14222", "--gops=false", "--disable-server-tls",
		"--tls-hubble-client-cert-file", filepath.Join(dir, "tls.crt"), "--tls-hubble-client-key-file", filepath.Join(dir, "tls.key"),
		"--tls-hubble-server-ca-files", filepath.Join(dir, "ca.crt"))
	c.must(err)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	c.must(cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // ended by us
		if t.Failed() {
			t.Logf("the relay said:\n%s", said.String())
		}
	})
	c.eventually("the relay to know the nodes", func(context.Context) error {
		if a := c.program(node, nil, "hubble", "list", "nodes", "--server", address); strings.Count(a.out, "Connected") != len(c.RunningNodes()) {
			return fmt.Errorf("exit code %d: %s%s", a.code, a.out, a.errors)
		}
		return nil
	})
	return address
}

func (o observatory) test(t *testing.T) {
	c := o.c
	c.eventually("a server that is well", func(context.Context) error {
		a := o.ask("status")
		if want := fmt.Sprintf("Connected Nodes: %d/%d", len(o.nodes), len(o.nodes)); a.code != 0 || !strings.Contains(a.out, "Ok") || !strings.Contains(a.out, want) {
			return fmt.Errorf("exit code %d, want %s: %s%s", a.code, want, a.out, a.errors)
		}
		return nil
	})
	a := o.ask("list", "nodes")
	lines := strings.Split(strings.TrimSpace(a.out), "\n")[1:]
	if len(lines) != len(o.nodes) {
		t.Errorf("nodes: %s%s", a.out, a.errors)
	}
	for i, node := range o.nodes[:min(len(lines), len(o.nodes))] {
		if f := strings.Fields(lines[i]); f[0] != node || f[1] != "Connected" {
			t.Errorf("node %d is %v, want %s, Connected", i, f, node)
		}
	}
	if a := o.ask("list", "namespaces"); !slices.Contains(strings.Fields(a.out), "shop") {
		t.Errorf("namespaces: %s%s", a.out, a.errors)
	}

	// The last ones, in order.
	each := 1
	if o.each {
		each = len(o.nodes)
	}
	a = o.ask("observe", "--namespace", "shop", "--last", "20", "-o", "json")
	last := flows(t, a.out)
	if a.code != 0 || len(last) != 20*each {
		t.Errorf("--last 20: exit code %d, %d flows: %s", a.code, len(last), a.errors)
	}
	for _, f := range last {
		if f.Flow.Source.Namespace != "shop" && f.Flow.Destination.Namespace != "shop" && !strings.HasPrefix(f.Flow.Service.Name, "shop/") {
			t.Errorf("a flow of others: %+v", f.Flow)
		}
	}
	many := flows(t, o.ask("observe", "--last", "100", "-o", "json").out)
	if len(many) != 100*each {
		t.Errorf("--last 100: %d flows", len(many))
	}
	if !o.each && !slices.IsSortedFunc(many, func(a, b flow) int { return a.Flow.Time.Compare(b.Flow.Time) }) {
		t.Error("--last 100: flows are not in the order of time")
	}
	if got := tellers(many); !slices.Equal(got, o.nodes) {
		t.Errorf("flows are of %v, want %v", got, o.nodes)
	}

	// What happens now.
	filters := []struct {
		flags []string
		is    func(flow) bool
	}{
		{[]string{"--protocol", "tcp", "--namespace", "shop"}, func(f flow) bool { return f.Flow.L4["TCP"] != nil }},
		{[]string{"--protocol", "udp"}, func(f flow) bool { return f.Flow.L4["UDP"] != nil }},
		{[]string{"--verdict", "ERROR"}, func(f flow) bool { return f.Flow.Verdict == "ERROR" }},
		{[]string{"--verdict", "FORWARDED", "--from-pod", "shop/front", "--to-service", "shop/cart"}, func(f flow) bool {
			return f.Flow.Verdict == "FORWARDED" && strings.HasPrefix(f.Flow.Source.Pod, "front-") && f.Flow.Service.Name == "cart"
		}},
	}
	if o.brief {
		filters = filters[:1]
	}
	for _, test := range filters {
		began := time.Now()
		s := c.prints(o.where, o.argv(append([]string{"observe", "--follow", "-o", "json"}, test.flags...)...)...)
		c.eventually(fmt.Sprintf("flows of all nodes by %v", test.flags), func(context.Context) error {
			text, complaints := s.text()
			seen := flows(t, text)
			if got := tellers(seen); len(seen) < 5 || !slices.Equal(got, o.nodes) {
				return fmt.Errorf("%d flows of %v\n%s", len(seen), got, complaints)
			}
			return nil
		})
		s.end()
		text, _ := s.text()
		seen := flows(t, text)
		for _, f := range seen {
			if !test.is(f) {
				t.Errorf("%v shows %+v", test.flags, f.Flow)
			}
			if f.Flow.Time.Before(began.Add(-5 * time.Second)) {
				t.Errorf("%v shows what was before: %+v", test.flags, f.Flow)
			}
		}
		if !o.each && !slices.IsSortedFunc(seen, func(a, b flow) int { return a.Flow.Time.Compare(b.Flow.Time) }) {
			t.Errorf("%v: flows are not in the order of time", test.flags)
		}
	}
}

// A printer is a program that prints for as long as it is wanted.
type printer struct {
	cmd  *exec.Cmd
	once sync.Once
	mu   sync.Mutex
	out  bytes.Buffer
	errs bytes.Buffer
}

// prints starts one in a place. It ends with the test at the latest.
func (c *testCluster) prints(where string, argv ...string) *printer {
	c.t.Helper()
	cmd, err := c.In(context.Background(), where, argv...)
	c.must(err)
	p := &printer{cmd: cmd}
	cmd.Stdout, cmd.Stderr = &locked{&p.mu, &p.out}, &locked{&p.mu, &p.errs}
	c.must(cmd.Start())
	c.t.Cleanup(p.end)
	return p
}

// end interrupts it, and returns when it has ended.
func (p *printer) end() {
	p.once.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGINT)
		_ = p.cmd.Wait() // ended by us
	})
}

// text gives the whole lines that it has printed, and what it complains of.
func (p *printer) text() (lines, complaints string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := p.out.String()
	return text[:strings.LastIndex(text, "\n")+1], p.errs.String()
}

// locked is a buffer that is read while it is written.
type locked struct {
	mu  *sync.Mutex
	out *bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(b)
}

// tellers are the nodes that flows are of, in order.
func tellers(all []flow) []string {
	var names []string
	for _, f := range all {
		// Hubble's names of nodes begin with the cluster's.
		names = append(names, f.Flow.NodeName[strings.LastIndex(f.Flow.NodeName, "/")+1:])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// TestClusterHubbleStrangers holds that the hub tells flows to nobody whom it
// does not know, and to others of their namespaces.
func TestClusterHubbleStrangers(t *testing.T) {
	c := openShop(t)
	flags, where := c.hubFlags(), c.RunningNodes()[0]
	agent, dir := c.secret("warren-agent-tls"), t.TempDir()
	for _, name := range []string{"tls.crt", "tls.key"} {
		c.must(os.WriteFile(filepath.Join(dir, name), agent[name], 0o600))
	}
	small, none := c.serviceAccount("small", "shop"), c.serviceAccount("none")
	for _, test := range []struct {
		name  string
		flags []string
		want  string
	}{
		{"nobody", flags, "Unauthenticated"},
		{"garbage", withToken(flags, "garbage"), "Unauthenticated"},
		{"a token that has ended", withToken(flags, c.endedToken("small")), "Unauthenticated"},
		{"an agent", append(slices.Clone(flags), "--tls-client-cert-file", filepath.Join(dir, "tls.crt"), "--tls-client-key-file", filepath.Join(dir, "tls.key")), "Unauthenticated"},
		{"who may nowhere", withToken(flags, none), "PermissionDenied"},
	} {
		for _, args := range [][]string{{"observe", "--last", "1"}, {"observe", "--follow"}, {"list", "nodes"}, {"list", "namespaces"}} {
			if a := (observatory{c: c, where: where, flags: test.flags}).ask(args...); a.code != 1 || a.out != "" || !strings.Contains(a.errors, test.want) {
				t.Errorf("%s, %v: exit code %d, want %s: %s%s", test.name, args, a.code, test.want, a.out, a.errors)
			}
		}
	}
	if n := c.hubSaid("msg=refused", "why=no_credentials", "GetFlows"); n == 0 {
		t.Error("the hubs' logs do not have that nobody asked for flows")
	}

	shopper := observatory{c: c, where: where, flags: withToken(flags, small)}
	if a := shopper.ask("list", "namespaces"); strings.Join(strings.Fields(a.out), " ") != "NAMESPACE shop" {
		t.Errorf("who may in the shop is told of %s%s", a.out, a.errors)
	}
	seen := flows(t, shopper.ask("observe", "--last", "500", "-o", "json").out)
	for _, f := range seen {
		// Either end may be the one that it was seen at.
		if f.Flow.Source.Namespace != "shop" && f.Flow.Destination.Namespace != "shop" {
			t.Errorf("who may in the shop sees %+v", f.Flow)
		}
	}
	if len(seen) == 0 {
		t.Error("who may in the shop sees nothing")
	}
}
