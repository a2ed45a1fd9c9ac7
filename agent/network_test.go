package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warren/api"
	"warren/cluster"
	"warren/cni"
	"warren/datapath"
	"warren/netpol"
)

// fakeKernel is a datapath that remembers what it was told.
type fakeKernel struct {
	mu       sync.Mutex
	states   []*datapath.State
	err      error
	refuse   map[int]error // by ifindex
	attached map[datapath.HostPart]int
}

func (k *fakeKernel) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (k *fakeKernel) Apply(_ context.Context, s *datapath.State) (datapath.Report, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return datapath.Report{}, k.err
	}
	k.states = append(k.states, s)
	r := datapath.Report{Generation: uint32(len(k.states)), Flipped: true, InForce: time.Now()}
	for _, e := range s.Endpoints {
		r.Endpoints = append(r.Endpoints, datapath.EndpointReport{Name: e.Name, PodUID: e.PodUID, Ifindex: e.Ifindex, Hook: "tcx", Err: k.refuse[e.Ifindex]})
	}
	return r, nil
}

func (k *fakeKernel) AttachHost(ifindex int, part datapath.HostPart) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.attached[part] = ifindex
	return nil
}

func (k *fakeKernel) DetachHost(part datapath.HostPart) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.attached, part)
	return nil
}

func (k *fakeKernel) Status() (datapath.Status, error) { return datapath.Status{}, nil }
func (k *fakeKernel) Close() error                     { return nil }

// fail makes every Apply fail; nil none.
func (k *fakeKernel) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

// last is what was applied last, and how often something was.
func (k *fakeKernel) last() (*datapath.State, int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.states) == 0 {
		return nil, 0
	}
	return k.states[len(k.states)-1], len(k.states)
}

type fakeHost struct {
	mu   sync.Mutex
	want []datapath.HostState
	err  error
}

func (h *fakeHost) Reconcile(want datapath.HostState) (datapath.HostDevices, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.want = append(h.want, want)
	d := datapath.HostDevices{Uplink: 2, MTU: 1450, Node4: want.Self.Addrs[0]}
	if want.Mode == datapath.VXLAN {
		d.Tunnel = 3
	}
	return d, h.err
}

type fakeRuntime struct {
	mu    sync.Mutex
	ready []cni.Node
}

func (r *fakeRuntime) Ready(n cni.Node) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = append(r.ready, n)
	return nil
}

// lab is a network with a cluster and a kernel that are told, not real.
type lab struct {
	t       *testing.T
	state   *cluster.State
	kernel  *fakeKernel
	host    *fakeHost
	runtime *fakeRuntime
	net     *network
	store   *networkStore

	mu      sync.Mutex
	devices map[int]string
}

func newLab(t *testing.T, mode datapath.Mode) *lab {
	l := &lab{
		t: t, state: cluster.NewState(cluster.Config{}), host: &fakeHost{}, runtime: &fakeRuntime{},
		kernel:  &fakeKernel{refuse: make(map[int]error), attached: make(map[datapath.HostPart]int)},
		store:   &networkStore{path: filepath.Join(t.TempDir(), networkFile), mode: mode.String()},
		devices: map[int]string{2: "eth0"},
	}
	l.begin(mode)
	return l
}

// begin makes a network on what the last one has left.
func (l *lab) begin(mode datapath.Mode) {
	l.t.Helper()
	left, _, err := l.store.load()
	if err != nil {
		l.t.Fatal(err)
	}
	l.net = newNetwork(NetworkConfig{Mode: mode}, &membership{node: "n1", state: l.state}, l.store, left, slog.New(slog.DiscardHandler))
	l.net.kernel, l.net.host, l.net.runtime = l.kernel, l.host, l.runtime
	l.net.devices = func() (map[int]string, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		out := make(map[int]string)
		for i, name := range l.devices {
			out[i] = name
		}
		return out, nil
	}
	l.net.addresses = func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("192.168.9.1")}, nil }
}

// run runs the network until the function that is returned is called.
func (l *lab) run() (stop func()) {
	ctx, cancel := context.WithCancel(l.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.net.run(ctx) }()
	return func() {
		l.t.Helper()
		cancel()
		if err := <-ended; err != nil {
			l.t.Error(err)
		}
	}
}

func (l *lab) device(index int, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if name == "" {
		delete(l.devices, index)
		return
	}
	l.devices[index] = name
}

// cluster tells two nodes and a namespace, and that this is all.
func (l *lab) cluster() {
	for i, name := range []string{"n1", "n2"} {
		l.state.SetNode(&cluster.Node{
			UID: "uid-" + name, Name: name, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{172, 30, 0, byte(i + 1)})},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i+1))},
		}, time.Now())
	}
	l.state.SetNamespace("shop", map[string]string{"kubernetes.io/metadata.name": "shop"}, time.Now())
	l.state.SetSynced("pods")
}

func (l *lab) pod(name, node string, labels map[string]string, addrs ...string) {
	p := &cluster.Pod{UID: "uid-" + name, Name: name, Namespace: "shop", Node: node, Labels: labels, Phase: "Running", Created: time.Now(), Started: time.Now()}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
	}
	l.state.SetPod(p, time.Now())
}

func (l *lab) endpoint(name string, index int, addr string) api.Endpoint {
	ifname := fmt.Sprint("wrn", index)
	l.device(index, ifname)
	return api.Endpoint{
		Attachment: api.Attachment{ContainerID: "box-" + name, Interface: "eth0"}, PodUID: "uid-" + name, PodNamespace: "shop", PodName: name,
		HostInterface: ifname, HostIndex: index, Addrs: []netip.Addr{netip.MustParseAddr(addr)}, MAC: api.MAC{2, 0, 0, 0, 0, byte(index)}, HostMAC: api.MAC{2, 0, 0, 0, 1, byte(index)},
	}
}

// verdict is what the policy in force says of a packet between two addresses.
func (l *lab) verdict(src, dst string, port uint16) netpol.Verdict {
	l.t.Helper()
	s, n := l.kernel.last()
	if n == 0 {
		l.t.Fatal("nothing is in force")
	}
	p := netpol.Packet{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Protocol: 6, Port: port}
	for _, e := range s.Endpoints {
		if e.Addrs[0] != p.Dst {
			continue
		}
		set := s.Policy.Sets[s.Policy.SetOf[e.PodUID]]
		if set == nil {
			return netpol.Deny
		}
		v, _ := set.Judge(s.Policy.Identity(p.Src), netpol.Ingress, p.Protocol, p.Port)
		return v
	}
	return netpol.Unjudged
}

// TestNetworkAdd adds a pod: it is answered when its policy is in force, with the
// addresses that only the plugin knows.
func TestNetworkAdd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, datapath.Routed)
		defer l.run()()
		l.cluster()
		l.state.SetPolicy(&cluster.Policy{UID: "p1", Namespace: "shop", Name: "db", Tier: cluster.NetworkTier, IsolatesIngress: true,
			Subject: cluster.PolicySubject{Pods: cluster.Selector{Equal: map[string]string{"app": "db"}}},
			Ingress: []cluster.PolicyRule{{Action: cluster.AllowAction, Ports: []cluster.PolicyPort{{Protocol: "tcp", First: 5432, Last: 5432}},
				Peers: []cluster.PolicyPeer{{SameNamespace: true, Pods: &cluster.Selector{Equal: map[string]string{"app": "web"}}}}}}}, time.Now())
		l.pod("db", "n1", map[string]string{"app": "db"})
		l.pod("web", "n2", map[string]string{"app": "web"}, "10.244.2.9")
		if err := l.net.AddEndpoint(t.Context(), l.endpoint("db", 7, "10.244.1.7")); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			src  string
			port uint16
			want netpol.Verdict
		}{{"10.244.2.9", 5432, netpol.Allow}, {"10.244.2.9", 80, netpol.Deny}, {"10.244.2.10", 5432, netpol.Deny}} {
			if got := l.verdict(test.src, "10.244.1.7", test.port); got != test.want {
				t.Errorf("%s to port %d: %v, want %v", test.src, test.port, got, test.want)
			}
		}
		s, _ := l.kernel.last()
		for addr, want := range map[string]datapath.Place{
			"10.244.1.7":  {Kind: datapath.PodPlace},
			"10.244.2.9":  {Kind: datapath.PodPlace, Node: netip.MustParseAddr("172.30.0.2")},
			"172.30.0.1":  {Kind: datapath.HostPlace},
			"10.244.1.1":  {Kind: datapath.HostPlace},
			"192.168.9.1": {Kind: datapath.HostPlace},
			"172.30.0.2":  {Kind: datapath.NodePlace, Node: netip.MustParseAddr("172.30.0.2")},
			"10.244.2.1":  {Kind: datapath.NodePlace, Node: netip.MustParseAddr("172.30.0.2")},
		} {
			if got := s.Places[netip.MustParseAddr(addr)]; got != want {
				t.Errorf("%s is %+v, want %+v", addr, got, want)
			}
		}
		if via := s.Routes[netip.MustParsePrefix("10.244.2.0/24")]; via != netip.MustParseAddr("172.30.0.2") || len(s.Routes) != 1 {
			t.Errorf("routes %v", s.Routes)
		}
		synctest.Wait()
		if len(l.runtime.ready) == 0 || l.runtime.ready[0].MTU != 1450 || l.runtime.ready[0].Reserved[0] != netip.MustParseAddr("10.244.1.1") {
			t.Errorf("the runtime was told %+v", l.runtime.ready)
		}
		if l.kernel.attached[datapath.Uplink] != 2 {
			t.Errorf("attached to %v", l.kernel.attached)
		}
		if got, err := l.net.CheckEndpoint(t.Context(), api.Attachment{ContainerID: "box-db", Interface: "eth0"}); err != nil || got.HostIndex != 7 {
			t.Errorf("check: %+v, %v", got, err)
		}
		if !l.net.Served(netip.MustParseAddr("10.244.1.7")) || l.net.Served(netip.MustParseAddr("10.244.2.9")) {
			t.Error("who is served is wrong")
		}
		// What the cluster says later of the same pod changes nothing in the kernel's policy.
		before, _ := l.kernel.last()
		l.pod("db", "n1", map[string]string{"app": "db"}, "10.244.1.7")
		synctest.Wait()
		time.Sleep(time.Second)
		if after, _ := l.kernel.last(); after.Policy.SetOf["uid-db"] != before.Policy.SetOf["uid-db"] {
			t.Error("policy changed with the address that the cluster tells")
		}
		// It goes, and its address is nobody's.
		if err := l.net.DeleteEndpoint(t.Context(), api.Attachment{ContainerID: "box-db", Interface: "eth0"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if s, _ := l.kernel.last(); len(s.Endpoints) != 0 {
			t.Errorf("endpoints %+v", s.Endpoints)
		}
		if err := l.net.DeleteEndpoint(t.Context(), api.Attachment{ContainerID: "box-db", Interface: "eth0"}); err != nil {
			t.Error(err)
		}
	})
}

// TestNetworkAddWaits adds pods that cannot be connected: who asks hears why,
// after ten seconds at most, and nothing is left of it.
func TestNetworkAddWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, datapath.Routed)
		defer l.run()()
		add := func(name string, index int, addr string, want string) {
			t.Helper()
			began := time.Now()
			err := l.net.AddEndpoint(t.Context(), l.endpoint(name, index, addr))
			if e := (*api.Error)(nil); !errors.As(err, &e) || e.Status != 503 || !strings.Contains(e.Message, want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
			if took := time.Since(began); took > addTime {
				t.Errorf("%s: told after %v", name, took)
			}
		}
		if _, err := l.net.ListEndpoints(t.Context()); err == nil {
			t.Error("pods can be added before anything is known")
		}
		add("db", 7, "10.244.1.7", "the agent waits for all of the cluster to be known")
		l.cluster()
		synctest.Wait()
		time.Sleep(time.Second)
		if _, err := l.net.ListEndpoints(t.Context()); err != nil {
			t.Error(err)
		}
		add("db", 7, "10.244.1.7", "the cluster to know it")

		// It is told of a moment later.
		go func() {
			time.Sleep(3 * time.Second)
			l.pod("db", "n1", nil)
		}()
		began := time.Now()
		if err := l.net.AddEndpoint(t.Context(), l.endpoint("db", 7, "10.244.1.7")); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 3*time.Second || took > 4*time.Second {
			t.Errorf("in force after %v", took)
		}

		l.pod("web", "n1", nil)
		l.kernel.refuse[8] = errors.New("no such hook")
		add("web", 8, "10.244.1.8", "no such hook")
		delete(l.kernel.refuse, 8)
		l.kernel.fail(errors.New("the map is full"))
		add("web", 8, "10.244.1.8", "the map is full")
		l.kernel.fail(nil)
		gone := l.endpoint("web", 9, "10.244.1.9")
		l.device(9, "other")
		if err := l.net.AddEndpoint(t.Context(), gone); err == nil || !strings.Contains(err.Error(), "there is no device wrn9") {
			t.Errorf("a device that is another: %v", err)
		}
		// Nobody takes an address or a device from who is there, but who was there
		// before.
		add("web", 8, "10.244.1.7", "endpoint box-db/eth0 has its address")
		if err := l.net.AddEndpoint(t.Context(), l.endpoint("web", 10, "10.244.1.8")); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if list, err := l.net.ListEndpoints(t.Context()); err != nil || len(list) != 2 {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

// TestNetworkRestart ends an agent and begins another with the API server away:
// nothing changes in the kernel until all is known, and nothing after.
func TestNetworkRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, datapath.VXLAN)
		stop := l.run()
		l.cluster()
		l.pod("db", "n1", map[string]string{"app": "db"})
		l.pod("web", "n1", map[string]string{"app": "web"})
		for i, name := range []string{"db", "web"} {
			if err := l.net.AddEndpoint(t.Context(), l.endpoint(name, 7+i, fmt.Sprint("10.244.1.", 7+i))); err != nil {
				t.Fatal(err)
			}
		}
		if l.kernel.attached[datapath.Tunnel] != 3 {
			t.Errorf("attached to %v", l.kernel.attached)
		}
		stop()

		// The next one knows nothing of the cluster.
		_, applied := l.kernel.last()
		l.state = cluster.NewState(cluster.Config{})
		l.state.Expect("pods")
		l.begin(datapath.VXLAN)
		stop = l.run()
		time.Sleep(10 * time.Minute)
		if _, n := l.kernel.last(); n != applied {
			t.Errorf("%d times something was applied without knowing the cluster", n-applied)
		}
		// What was in force is, as far as anybody can tell.
		if e, err := l.net.CheckEndpoint(t.Context(), api.Attachment{ContainerID: "box-db", Interface: "eth0"}); err != nil || e.HostIndex != 7 {
			t.Errorf("check: %+v, %v", e, err)
		}
		// A pod went while nobody looked, without the agent, and one is not known
		// to the cluster any more, though it is there.
		l.device(8, "")
		l.state.SetPolicy(&cluster.Policy{UID: "p1", Namespace: "shop", Name: "db", Tier: cluster.NetworkTier, IsolatesIngress: true,
			Subject: cluster.PolicySubject{Pods: cluster.Selector{Equal: map[string]string{"app": "db"}}}}, time.Now())
		l.cluster()
		time.Sleep(time.Second)
		s, _ := l.kernel.last()
		if len(s.Endpoints) != 1 || s.Endpoints[0].Name != "shop/db" || s.Endpoints[0].PodUID != "uid-db" {
			t.Fatalf("endpoints %+v", s.Endpoints)
		}
		if got := l.verdict("10.244.2.9", "10.244.1.7", 80); got != netpol.Deny {
			t.Errorf("a pod that was known by its labels before the restart: %v", got)
		}
		stop()
	})
}

// TestNetworkChanges changes policies, pods and namespaces: each is in the kernel
// within a second, what comes together is one change.
func TestNetworkChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, datapath.Routed)
		defer l.run()()
		l.cluster()
		l.pod("db", "n1", map[string]string{"app": "db"})
		if err := l.net.AddEndpoint(t.Context(), l.endpoint("db", 7, "10.244.1.7")); err != nil {
			t.Fatal(err)
		}
		settled := func(change func()) int {
			_, before := l.kernel.last()
			change()
			time.Sleep(100 * time.Millisecond)
			_, after := l.kernel.last()
			return after - before
		}
		deny := func(generation int64, problems ...string) *cluster.Policy {
			return &cluster.Policy{UID: "p1", Namespace: "shop", Name: "none", Tier: cluster.NetworkTier, IsolatesIngress: true, Generation: generation, Problems: problems}
		}
		if n := settled(func() { l.state.SetPolicy(deny(1), time.Now()) }); n != 1 || l.verdict("10.244.2.9", "10.244.1.7", 80) != netpol.Deny {
			t.Errorf("a policy: %d changes, %v", n, l.verdict("10.244.2.9", "10.244.1.7", 80))
		}
		if n := settled(func() {
			for i := range 1000 {
				l.pod(fmt.Sprint("other-", i), "n2", nil, fmt.Sprintf("10.244.2.%d", 10+i%200))
			}
		}); n != 1 {
			t.Errorf("a thousand pods: %d changes", n)
		}
		if s, _ := l.kernel.last(); s.Endpoints[0].Audit {
			t.Error("audited")
		}
		settled(func() { l.state.SetNamespace("shop", map[string]string{auditLabel: auditValue}, time.Now()) })
		if s, _ := l.kernel.last(); !s.Endpoints[0].Audit {
			t.Error("not audited")
		}
		// Its pod ends; while its device is there, policy holds.
		settled(func() { l.state.DeletePod("uid-db", time.Now()) })
		if got := l.verdict("10.244.2.9", "10.244.1.7", 80); got != netpol.Deny {
			t.Errorf("a pod that has ended: %v", got)
		}
		// Somebody else is told to have its address, wrongly.
		settled(func() { l.pod("thief", "n2", nil, "10.244.1.7") })
		if s, _ := l.kernel.last(); s.Places[netip.MustParseAddr("10.244.1.7")] != (datapath.Place{Kind: datapath.PodPlace}) {
			t.Errorf("its address is at %+v", s.Places[netip.MustParseAddr("10.244.1.7")])
		}
		settled(func() { l.state.DeletePolicy("p1", time.Now()) })
		if got := l.verdict("10.244.2.9", "10.244.1.7", 80); got != netpol.Allow {
			t.Errorf("without policy: %v", got)
		}
		// The kernel fails for a while: nothing is lost.
		l.kernel.fail(errors.New("no memory"))
		settled(func() { l.state.SetPolicy(deny(2), time.Now()) })
		l.kernel.fail(nil)
		time.Sleep(3 * time.Second)
		if got := l.verdict("10.244.2.9", "10.244.1.7", 80); got != netpol.Deny {
			t.Errorf("after a failure: %v", got)
		}
	})
}

// TestNetworkTunnelNumbers: the kernel has the numbers of tunnels that the host has.
func TestNetworkTunnelNumbers(t *testing.T) {
	cfg := Config{Network: NetworkConfig{VNI: 5, Port: 6}}
	k, h := kernelConfig(cfg), hostConfig(cfg)
	if k.VNI != 5 || k.Port != 6 || h.VNI != k.VNI || h.Port != k.Port {
		t.Errorf("kernel %d at %d, host %d at %d", k.VNI, k.Port, h.VNI, h.Port)
	}
}
