package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"

	"warren/api"
	"warren/internal/testkit"
)

// TestMain lets the test binary be the plugin, by its name.
func TestMain(m *testing.M) {
	if Called(os.Args) {
		os.Exit(Main("test"))
	}
	os.Exit(m.Run())
}

// A node is a network namespace with a state directory, the plugin, and an agent
// that remembers what it was told.
type node struct {
	t       *testing.T
	ns      *testkit.Netns
	dir     string // of state
	program string
	socket  string
	agent   *fakeAgent
	version string         // of the specification
	extra   map[string]any // in the configuration
}

const network = "warren"

var dual = []string{"10.244.3.0/24", "fd00:244:3::/64"}

func newNode(t *testing.T, cidrs ...string) *node {
	t.Helper()
	n := &node{t: t, ns: testkit.NewNetns(t), dir: filepath.Join(t.TempDir(), "state"), version: "1.1.0"}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	n.program, n.socket = filepath.Join(dir, Program), filepath.Join(dir, "a.sock")
	if err := os.Symlink(self, n.program); err != nil {
		t.Fatal(err)
	}
	n.write(cidrs...)
	n.agent = startAgent(t, n.socket)
	return n
}

// write is what an agent writes of its node.
func (n *node) write(cidrs ...string) {
	n.t.Helper()
	nd := Node{MTU: 1450, Mode: "routed", Socket: n.socket}
	for _, c := range cidrs {
		nd.PodCIDRs = append(nd.PodCIDRs, netip.MustParsePrefix(c))
	}
	if len(cidrs) == 0 {
		return
	}
	if err := WriteNode(n.dir, nd); err != nil {
		n.t.Fatal(err)
	}
}

// fakeAgent is Warren's API with endpoints in a map.
type fakeAgent struct {
	mu     sync.Mutex
	has    map[api.Attachment]api.Endpoint
	refuse error
	added  []api.Endpoint
	onAdd  func(api.Endpoint)
	stop   func()
}

func (f *fakeAgent) AddEndpoint(_ context.Context, e api.Endpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return f.refuse
	}
	if f.onAdd != nil {
		f.onAdd(e)
	}
	f.has[e.Attachment] = e
	f.added = append(f.added, e)
	return nil
}

func (f *fakeAgent) DeleteEndpoint(_ context.Context, a api.Attachment) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.has, a)
	return nil
}

func (f *fakeAgent) CheckEndpoint(_ context.Context, a api.Attachment) (api.Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.has[a]
	if !ok {
		return e, api.NotFound("no endpoint %s", a)
	}
	return e, nil
}

func (f *fakeAgent) ListEndpoints(context.Context) ([]api.Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []api.Endpoint
	for _, e := range f.has {
		list = append(list, e)
	}
	return list, f.refuse
}

func (f *fakeAgent) refuseWith(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = err
}

// fakeSelf is the rest of an agent.
type fakeSelf struct{}

func (fakeSelf) Status() api.Status     { return api.Status{} }
func (fakeSelf) Ready() <-chan struct{} { return nil }
func (fakeSelf) Err() error             { return nil }

func startAgent(t *testing.T, socket string) *fakeAgent {
	t.Helper()
	f := &fakeAgent{has: map[api.Attachment]api.Endpoint{}}
	l, err := api.ListenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	s := api.New(api.Config{Endpoints: f}, nil, nil, fakeSelf{}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(f.stop)
	return f
}

// A container is a network namespace and what a runtime says of it.
type container struct {
	ns     *testkit.Netns
	id     string
	ifname string
	args   string
	netns  string // path
}

func (n *node) container(id string) *container {
	n.t.Helper()
	ns := testkit.NewNetns(n.t)
	return &container{ns: ns, id: id, ifname: "eth0", netns: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.FD()),
		args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=" + id + ";K8S_POD_INFRA_CONTAINER_ID=" + id + ";K8S_POD_UID=uid-" + id}
}

// config is the plugin's configuration as a runtime makes it.
func (n *node) config(with map[string]any) []byte {
	c := map[string]any{"cniVersion": n.version, "name": network, "type": Program, "stateDir": n.dir, "socket": n.socket}
	for _, m := range []map[string]any{n.extra, with} {
		for k, v := range m {
			c[k] = v
		}
	}
	b, err := json.Marshal(c)
	if err != nil {
		n.t.Fatal(err)
	}
	return b
}

// command is one call of the plugin on the node.
func (n *node) command(verb string, c *container, config []byte) *exec.Cmd {
	cmd := exec.CommandContext(n.t.Context(), n.program)
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_PATH=" + filepath.Dir(n.program), "PATH=/usr/bin:/bin"}
	if c != nil {
		cmd.Env = append(cmd.Env, "CNI_CONTAINERID="+c.id, "CNI_IFNAME="+c.ifname, "CNI_NETNS="+c.netns, "CNI_ARGS="+c.args)
	}
	cmd.Stdin = bytes.NewReader(config)
	return cmd
}

// call runs the plugin. The error is what it printed as one.
func (n *node) call(verb string, c *container, with map[string]any) ([]byte, *types.Error) {
	n.t.Helper()
	return n.run(n.command(verb, c, n.config(with)))
}

func (n *node) run(cmd *exec.Cmd) ([]byte, *types.Error) {
	n.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := n.ns.Do(cmd.Run)
	if stderr.Len() > 0 {
		n.t.Logf("standard error: %s", stderr.Bytes())
	}
	if err == nil {
		return stdout.Bytes(), nil
	}
	e := &types.Error{}
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || json.Unmarshal(stdout.Bytes(), e) != nil || e.Code == 0 {
		n.t.Fatalf("the plugin ended with %v and printed no error: %s%s", err, stdout.Bytes(), stderr.Bytes())
	}
	return nil, e
}

// add is ADD, which must succeed.
func (n *node) add(c *container, with map[string]any) *current.Result {
	n.t.Helper()
	b, e := n.call("ADD", c, with)
	if e != nil {
		n.t.Fatalf("ADD %s: %d %v", c.id, e.Code, e)
	}
	versioned, err := version.NewResult(n.version, b)
	if err != nil {
		n.t.Fatalf("result of ADD: %v\n%s", err, b)
	}
	r, err := current.NewResultFromResult(versioned)
	if err != nil {
		n.t.Fatalf("result of ADD: %v\n%s", err, b)
	}
	return r
}

func (n *node) must(verb string, c *container, with map[string]any) {
	n.t.Helper()
	if _, e := n.call(verb, c, with); e != nil {
		n.t.Fatalf("%s: %d %v", verb, e.Code, e)
	}
}

func (n *node) fails(code uint, verb string, c *container, with map[string]any, words ...string) {
	n.t.Helper()
	b, e := n.call(verb, c, with)
	n.failed(code, verb, b, e, words...)
}

func (n *node) failed(code uint, verb string, b []byte, e *types.Error, words ...string) {
	n.t.Helper()
	if e == nil {
		n.t.Fatalf("%s succeeds: %s", verb, b)
	}
	if e.Code != code {
		n.t.Errorf("%s: code %d, want %d: %v", verb, e.Code, code, e)
	}
	for _, w := range words {
		if !strings.Contains(e.Error(), w) {
			n.t.Errorf("%s: %q does not say %q", verb, e, w)
		}
	}
}

// addrs are the container's addresses, by the result of ADD.
func addrs(r *current.Result) (list []netip.Addr) {
	for _, ip := range r.IPs {
		list = append(list, addrOf(ip.Address.IP))
	}
	return list
}

// left is everything that the plugin has on a node.
type left struct {
	Records, Links, Rules, Endpoints []string
}

func (n *node) left() left {
	n.t.Helper()
	var l left
	s, err := openState(n.dir)
	if err != nil {
		n.t.Fatal(err)
	}
	list, broken, err := s.records()
	if err != nil || len(broken) > 0 {
		n.t.Fatal(err, broken)
	}
	for _, r := range list {
		l.Records = append(l.Records, r.String())
	}
	err = n.ns.Do(func() error {
		links, err := netlink.LinkList()
		for _, k := range links {
			if strings.HasPrefix(k.Attrs().Name, hostPrefix) {
				l.Links = append(l.Links, k.Attrs().Name)
			}
		}
		if err != nil {
			return err
		}
		t, err := openRuleset(network)
		if err != nil {
			return err
		}
		rules, err := t.rules()
		for k := range rules {
			l.Rules = append(l.Rules, k)
		}
		if t.there && len(rules) == 0 {
			l.Rules = append(l.Rules, "an empty table")
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.agent.mu.Lock()
	defer n.agent.mu.Unlock()
	for a := range n.agent.has {
		l.Endpoints = append(l.Endpoints, a.String())
	}
	for _, s := range [][]string{l.Records, l.Links, l.Rules, l.Endpoints} {
		slices.Sort(s)
	}
	return l
}

func (n *node) nothingLeft() {
	n.t.Helper()
	if l := n.left(); len(l.Records)+len(l.Links)+len(l.Rules)+len(l.Endpoints) > 0 {
		n.t.Errorf("left: %+v", l)
	}
}

// asMap is a result as a runtime gives it back.
func asMap(t *testing.T, r *current.Result, version string) map[string]any {
	t.Helper()
	v, err := r.GetAsVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}
