package identity

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"warren/cluster"
	"warren/event"
)

// fakeCluster is a cluster that tests make up. An address stands for what it was
// given last, from the time it was given.
type fakeCluster struct {
	mu       sync.Mutex
	pods     map[string]*cluster.Pod
	services map[string][]*cluster.Service // by uid of the pod
	peers    map[netip.Addr][]fakePeer
	asked    int // how often for a peer
	ports    []uint16
	changed  chan struct{}
}

type fakePeer struct {
	from time.Time
	peer cluster.Peer
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{
		pods: map[string]*cluster.Pod{}, services: map[string][]*cluster.Service{}, peers: map[netip.Addr][]fakePeer{},
		changed: make(chan struct{}, 1),
	}
}

// set makes a pod what the cluster knows by uid; nil forgets it.
func (f *fakeCluster) set(uid string, p *cluster.Pod, services ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pods[uid], f.services[uid] = p, nil
	for _, name := range services {
		f.services[uid] = append(f.services[uid], &cluster.Service{Name: name})
	}
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *fakeCluster) give(addr string, from time.Time, p cluster.Peer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := netip.MustParseAddr(addr)
	f.peers[a] = append(f.peers[a], fakePeer{from, p})
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *fakeCluster) Pod(uid string) *cluster.Pod {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pods[uid]
}

func (f *fakeCluster) ServicesOf(p *cluster.Pod) []*cluster.Service {
	f.mu.Lock()
	defer f.mu.Unlock()
	for uid, known := range f.pods {
		if known == p {
			return f.services[uid]
		}
	}
	return nil
}

func (f *fakeCluster) Peer(addr netip.Addr, port uint16, _ string, at time.Time) (cluster.Peer, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	f.ports = append(f.ports, port)
	spans := f.peers[addr]
	for n := len(spans) - 1; n >= 0; n-- {
		if !spans[n].from.After(at) {
			return spans[n].peer, true
		}
	}
	return cluster.Peer{}, false
}

func (f *fakeCluster) Changed() <-chan struct{} { return f.changed }

var (
	_ Cluster = (*fakeCluster)(nil)
	_ Cluster = (*cluster.State)(nil)
)

// What a State tells and what identity makes of it agree: a pod whose address
// the API learns late, one address of two pods an hour apart, a static pod.
func TestWithState(t *testing.T) {
	st := cluster.NewState(cluster.Config{Remember: 3 * time.Hour})
	m := newMachine(t, func(c *Config) { c.Cluster = st })
	begun := m.now().Add(-time.Hour)
	st.SetNamespace("shop", map[string]string{"team": "web"}, begun)
	st.SetNode(&cluster.Node{UID: "n1", Name: "node-1", Addrs: []netip.Addr{netip.MustParseAddr("192.168.0.1")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}, begun)
	st.SetService(&cluster.Service{
		UID: "s1", Namespace: "shop", Name: "cart", Addrs: []netip.Addr{netip.MustParseAddr("10.96.0.7")}, Ports: []cluster.Port{{Protocol: "tcp", Port: 80}},
	}, begun)
	pod := func(uid, name string, at time.Time, addr string) *cluster.Pod {
		p := cartPod(func(p *cluster.Pod) { p.UID, p.Name, p.Created, p.Started, p.Phase = uid, name, at, at, "Running" })
		if addr != "" {
			p.Addrs = []netip.Addr{netip.MustParseAddr(addr)}
		}
		return p
	}
	m.run()

	// Its process and first connection come before its address does.
	st.SetPod(pod(cartUID, "cart-1", m.now(), ""), m.now())
	st.SetEndpoints("shop", "cart-abc", "cart", []cluster.Endpoint{{PodUID: cartUID}}, m.now())
	e := m.first(100, podPath(cartUID, id64(3)))
	if c := e.Process.Container; c.Pod.Name != "cart-1" || c.Pod.NamespaceLabels["team"] != "web" || c.PodContainer != "cart" {
		t.Errorf("its first exec: %+v %+v", c, c.Pod)
	}
	in := m.connection("accept", 1, "10.244.1.7:40000")
	if got := peerOf(in); got != "" {
		t.Errorf("an address of which nobody has heard is %q", got)
	}
	m.tick(time.Second)
	st.SetPod(pod(cartUID, "cart-1", m.now().Add(-time.Second), "10.244.1.7"), m.now())
	m.awaitState("the address", func() bool { return peerOf(m.rows()[0]) == "pod cart-1" })
	m.awaitState("the service", func() bool { return len(m.Process(e.Actor).Container.Services) == 1 })
	if got := peerOf(m.connection("connect", 2, "10.96.0.7:80")); got != "service cart" {
		t.Errorf("the service is %q", got)
	}
	if got := peerOf(m.connection("connect", 3, "192.168.0.1:10250")); got != "node node-1" {
		t.Errorf("the node is %q", got)
	}

	// An hour later the address is another's.
	m.tick(time.Minute)
	st.DeletePod(cartUID, m.now())

	// What begins just after its end may be the next one's, of which nobody has
	// heard yet: it is not told as the first one's.
	m.tick(500 * time.Millisecond)
	next, began := "44444444-4444-4444-4444-444444444444", m.now()
	if got := peerOf(m.connection("accept", 6, "10.244.1.7:40002")); got != "" {
		t.Errorf("just after the first pod's end its address is %q", got)
	}
	if got := peerOf(m.connection("close", 7, "10.244.1.7:40003")); got != "pod cart-1" {
		t.Errorf("the end of a connection that nobody saw begin is %q", got)
	}
	m.tick(time.Second)
	st.SetPod(pod(next, "cart-next", began.Add(-100*time.Millisecond), "10.244.1.7"), m.now())
	m.awaitState("the next pod", func() bool {
		return slices.ContainsFunc(m.rows(), func(e *event.Event) bool {
			return event.SocketOf(e).RemotePort == 40002 && peerOf(e) == "pod cart-next"
		})
	})
	st.DeletePod(next, m.now())
	m.tick(time.Hour)
	st.SetPod(pod("22222222-2222-2222-2222-222222222222", "cart-2", m.now(), "10.244.1.7"), m.now())
	m.tick(time.Second)
	if got := peerOf(m.connection("accept", 4, "10.244.1.7:40001")); got != "pod cart-2" {
		t.Errorf("the second pod is %q", got)
	}
	if got := peerOf(m.connection("close", 1, "10.244.1.7:40000")); got != "pod cart-1" {
		t.Errorf("the end of the first pod's connection is %q", got)
	}
	if c := m.Process(e.Actor).Container; c.Pod.Name != "cart-1" {
		t.Errorf("the first pod's process is in %s", c.Pod.Name)
	}

	mirror := pod("33333333-3333-3333-3333-333333333333", "etcd-node-1", m.now(), "192.168.0.1")
	mirror.StaticUID, mirror.HostNetwork = staticUID, true
	st.SetPod(mirror, m.now())
	if c := m.first(200, podPath(staticUID, id64(20))).Process.Container; c.Pod.Name != "etcd-node-1" || c.Pod.UID != mirror.UID {
		t.Errorf("the static pod: %+v", c.Pod)
	}
	if got := peerOf(m.connection("connect", 5, "192.168.0.1:2379")); got != "node node-1" {
		t.Errorf("a pod on the node's network is %q", got)
	}
}

// awaitState waits until ok holds, looking at the pace of followCluster.
func (m *machine) awaitState(what string, ok func() bool) {
	m.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for limit := time.After(20 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-limit:
			m.t.Fatalf("%s did not come: %+v", what, m.Stats())
		}
	}
}
