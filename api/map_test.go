package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/cluster"
	"warren/event"
	"warren/filter"
)

// A mapRig makes a collector's events, on a clock of its own.
type mapRig struct {
	*MapCollector
	now    time.Time
	cookie uint64
}

var mapDay = time.Date(2026, 11, 20, 12, 0, 30, 0, time.UTC)

func newMapRig(cfg MapConfig) *mapRig {
	r := &mapRig{now: mapDay}
	cfg.Now = func() time.Time { return r.now }
	r.MapCollector = NewMapCollector(cfg)
	return r
}

// at returns the socket of a connection that a client opens.
func (r *mapRig) at(local, remote string) event.Socket {
	r.cookie++
	l, m := netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)
	return event.Socket{Local: l.Addr(), LocalPort: l.Port(), Remote: m.Addr(), RemotePort: m.Port(), L4: event.TCP, NetNS: 1, Cookie: r.cookie}
}

// tell adds an event of a connection.
func (r *mapRig) tell(p *event.Process, c event.Connection) {
	if c.Start.IsZero() && !c.Existing {
		c.Start = r.now
	}
	r.Add(&event.Event{Time: r.now, Process: p, Data: &c})
}

// exchange opens a connection, sends and receives, and closes it.
func (r *mapRig) exchange(p *event.Process, s event.Socket, sent, received uint64) {
	typ := "connect"
	if s.Server {
		typ = "accept4"
	}
	r.tell(p, event.Connection{Socket: s, Type: typ, State: event.Established})
	r.tell(p, event.Connection{Socket: s, Type: "close", State: event.Close, BytesSent: sent, BytesReceived: received, RTT: 2e6, MinRTT: 1e6})
}

func (r *mapRig) report(t *testing.T) Map {
	t.Helper()
	m, err := r.Map(MapQuestion{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func proc(name string) *event.Process { return &event.Process{Name: name} }

// inPod returns a process of a pod of a deployment.
func inPod(node, ns, deployment string, services ...string) *event.Process {
	p := mapPod(node, ns, deployment)
	return &event.Process{Name: deployment, Container: &event.Container{ID: "c", Pod: p, Services: services}}
}

func mapPod(node, ns, deployment string) *cluster.Pod {
	return &cluster.Pod{UID: "uid-" + node + deployment, Name: deployment + "-6f5d-x2x", Namespace: ns, Node: node, Workload: cluster.Workload{Kind: "Deployment", Name: deployment}}
}

func to(s event.Socket, p cluster.Peer) event.Socket {
	s.RemotePeer = &p
	return s
}

func service(ns, name string) cluster.Peer {
	return cluster.Peer{Kind: cluster.PeerService, Service: &cluster.Service{Namespace: ns, Name: name}}
}

func podPeer(node, ns, deployment string) cluster.Peer {
	return cluster.Peer{Kind: cluster.PeerPod, Pod: mapPod(node, ns, deployment)}
}

func nodePeer(name string) cluster.Peer {
	return cluster.Peer{Kind: cluster.PeerNode, Node: &cluster.Node{Name: name}}
}

func served(s event.Socket) event.Socket {
	s.Server = true
	return s
}

// drawn writes the edges of a map in one line each, as far as tests ask.
func drawn(m Map) string {
	var b strings.Builder
	for _, e := range m.Edges {
		fmt.Fprintf(&b, "%s -> %s %s/%d %s%s: %d opened, %d active, %d failed, %d/%d B", e.From, e.To, e.Protocol, e.Port, e.SeenBy, e.FromNode, e.Connections, e.Active, e.Failed, e.BytesSent, e.BytesReceived)
		for _, why := range slices.Sorted(func(yield func(string) bool) {
			for k := range e.Errors {
				if !yield(k) {
					return
				}
			}
		}) {
			fmt.Fprintf(&b, ", %d %s", e.Errors[why], why)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func wantMap(t *testing.T, m Map, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimSpace(strings.ReplaceAll(want, "\t", "")), strings.TrimSpace(drawn(m))); diff != "" {
		t.Errorf("the map is not as expected (-want +got):\n%s", diff)
	}
}

func TestMapCountsConnections(t *testing.T) {
	r := newMapRig(MapConfig{})
	curl := proc("curl")
	s := r.at("10.0.0.1:4000", "93.184.216.34:443")
	s.RemoteName = "example.com"
	r.tell(curl, event.Connection{Socket: s, Type: "connect", State: event.Established})
	r.tell(curl, event.Connection{Socket: s, Type: "update", State: event.Established, BytesSent: 100, BytesReceived: 1000, Retransmits: 1})
	r.tell(curl, event.Connection{Socket: s, Type: "update", State: event.Established, BytesSent: 150, BytesReceived: 1000, Retransmits: 1, RTT: 3e6, MinRTT: 1e6})
	// One that is older than the collector counts from here.
	old := r.at("10.0.0.1:4001", "93.184.216.34:443")
	old.RemoteName = "example.com"
	r.tell(curl, event.Connection{Socket: old, Type: "update", Existing: true, State: event.Established, BytesSent: 7000, BytesReceived: 7000})
	r.tell(curl, event.Connection{Socket: old, Type: "update", Existing: true, State: event.Established, BytesSent: 7001, BytesReceived: 7000})
	wantMap(t, r.report(t), `process/curl -> name/example.com tcp/443 client: 1 opened, 2 active, 0 failed, 151/1000 B`)

	r.tell(curl, event.Connection{Socket: s, Type: "close", State: event.Close, BytesSent: 150, BytesReceived: 1002, Reset: event.ResetRemote})
	r.tell(curl, event.Connection{Socket: r.at("10.0.0.1:4002", "192.168.7.7:25"), Type: "connect", State: event.Close, Res: 111, Error: 111})
	r.tell(curl, event.Connection{Socket: r.at("10.0.0.1:4003", "192.168.7.7:25"), Type: "connect", State: event.Close, Res: 110, Error: 110})
	m := r.report(t)
	wantMap(t, m, `
	process/curl -> address/192.168.7.7 tcp/25 client: 0 opened, 0 active, 2 failed, 0/0 B, 1 ECONNREFUSED, 1 ETIMEDOUT
	process/curl -> name/example.com tcp/443 client: 1 opened, 1 active, 0 failed, 151/1002 B, 1 reset by server`)
	e := m.Edges[1]
	if e.Retransmits != 1 || e.RTT == nil || *e.RTT != (MapRTT{Min: 1e6, Mean: 3e6, Max: 3e6, Samples: 1}) {
		t.Errorf("retransmits %d, rtt %+v", e.Retransmits, e.RTT)
	}
	// What was lost is told.
	r.Add(&event.Event{Time: r.now, Data: &event.Lost{Count: 12}})
	if m := r.report(t); m.Lost != 12 {
		t.Errorf("%d events lost, want 12", m.Lost)
	}
}

// TestMapBeginningLost: a connection whose first event was lost counts whole, if
// it began after the collector did.
func TestMapBeginningLost(t *testing.T) {
	r := newMapRig(MapConfig{})
	r.now = r.now.Add(time.Second)
	r.tell(proc("a"), event.Connection{Socket: r.at("10.0.0.1:1", "10.0.0.2:80"), Type: "close", State: event.Close, BytesSent: 5, BytesReceived: 6})
	r.tell(proc("a"), event.Connection{Socket: r.at("10.0.0.1:1", "10.0.0.2:80"), Type: "close", State: event.Close, BytesSent: 50, BytesReceived: 60, Start: mapDay.Add(-time.Hour)})
	wantMap(t, r.report(t), `process/a -> address/10.0.0.2 tcp/80 client: 1 opened, 0 active, 0 failed, 5/6 B`)
}

func TestMapUDP(t *testing.T) {
	r := newMapRig(MapConfig{})
	s := r.at("10.0.0.1:4000", "10.0.0.53:53")
	s.L4 = event.UDP
	other := s // the same socket, another flow
	other.Remote = netip.MustParseAddr("10.0.0.54")
	for _, f := range []event.Socket{s, other} {
		r.tell(proc("dig"), event.Connection{Socket: f, Type: "sendto"})
		r.tell(proc("dig"), event.Connection{Socket: f, Type: "close", BytesSent: 30, BytesReceived: 90})
	}
	// The flow begins again.
	r.tell(proc("dig"), event.Connection{Socket: s, Type: "sendto"})
	wantMap(t, r.report(t), `
	process/dig -> address/10.0.0.53 udp/53 client: 2 opened, 1 active, 0 failed, 30/90 B
	process/dig -> address/10.0.0.54 udp/53 client: 1 opened, 0 active, 0 failed, 30/90 B`)
}

// TestMapUDPNamed holds that a socket that was found with a peer is no talk
// until a datagram is seen.
func TestMapUDPNamed(t *testing.T) {
	r := newMapRig(MapConfig{})
	s := r.at("10.0.0.1:4000", "10.0.0.2:53")
	s.L4 = event.UDP
	other := r.at("10.0.0.1:4001", "10.0.0.3:443")
	other.L4 = event.UDP
	for _, f := range []event.Socket{s, other} {
		r.tell(proc("front"), event.Connection{Socket: f, Type: "connection", Existing: true})
	}
	wantMap(t, r.report(t), "")
	r.tell(proc("front"), event.Connection{Socket: other, Type: "connection", Existing: true, BytesSent: 7, PacketsSent: 1})
	wantMap(t, r.report(t), `process/front -> address/10.0.0.3 udp/443 client: 0 opened, 1 active, 0 failed, 7/0 B`)
	r.tell(proc("front"), event.Connection{Socket: other, Type: "close", Existing: true, BytesSent: 12, BytesReceived: 3, PacketsSent: 2, PacketsRecv: 1})
	wantMap(t, r.report(t), `process/front -> address/10.0.0.3 udp/443 client: 0 opened, 0 active, 0 failed, 12/3 B`)
}

// TestMapOneMachine: who listens at an address of this machine is who is meant,
// and both ends of a connection on it count once.
func TestMapOneMachine(t *testing.T) {
	r := newMapRig(MapConfig{})
	db := &event.Process{Name: "postgres", Container: &event.Container{ID: "0123", Name: "db"}}
	r.tell(proc("nginx"), event.Connection{Socket: served(event.Socket{Local: netip.IPv4Unspecified(), LocalPort: 8080, L4: event.TCP, NetNS: 1}), Type: "listen", State: event.Listen})

	// By loopback, and by an address of the machine's own.
	r.exchange(proc("curl"), r.at("127.0.0.1:4000", "127.0.0.1:8080"), 1, 2)
	r.exchange(proc("nginx"), served(r.at("127.0.0.1:8080", "127.0.0.1:4000")), 2, 1)
	r.exchange(proc("curl"), r.at("10.0.0.1:4001", "10.0.0.1:8080"), 10, 20)
	r.exchange(proc("nginx"), served(r.at("10.0.0.1:8080", "10.0.0.1:4001")), 20, 10)
	// To a container: its network namespace is another.
	s := served(r.at("10.88.0.2:5432", "10.0.0.1:4002"))
	s.NetNS = 2
	r.exchange(db, s, 200, 100)
	r.exchange(proc("nginx"), r.at("10.0.0.1:4002", "10.88.0.2:5432"), 100, 200)
	// A loopback of another namespace is another machine, so to speak.
	s = r.at("127.0.0.1:4003", "127.0.0.1:8080")
	s.NetNS = 2
	r.exchange(db, s, 3, 4)
	// From outside.
	r.exchange(proc("nginx"), served(r.at("10.0.0.1:8080", "203.0.113.7:6000")), 1000, 500)
	r.exchange(proc("nginx"), served(r.at("10.0.0.1:8080", "198.51.100.8:6000")), 1000, 500)
	r.exchange(proc("nginx"), served(r.at("10.0.0.1:8080", "192.168.1.9:6000")), 7, 5)
	m := MergeMaps([]Map{r.report(t)})
	wantMap(t, m, `
	address/192.168.1.9 -> process/nginx tcp/8080 server: 1 opened, 0 active, 0 failed, 5/7 B
	container/db -> container/db tcp/8080 client: 1 opened, 0 active, 0 failed, 3/4 B
	process/curl -> process/nginx tcp/8080 client: 2 opened, 0 active, 0 failed, 11/22 B
	process/nginx -> container/db tcp/5432 client: 1 opened, 0 active, 0 failed, 100/200 B
	world/internet -> process/nginx tcp/8080 server: 2 opened, 0 active, 0 failed, 1000/2000 B`)

	// Who listens no more is not meant any more.
	r.tell(proc("nginx"), event.Connection{Socket: served(event.Socket{Local: netip.IPv4Unspecified(), LocalPort: 8080, L4: event.TCP, NetNS: 1}), Type: "close", State: event.Close})
	if got := drawn(r.report(t)); !strings.Contains(got, "process/curl -> address/127.0.0.1 tcp/8080") {
		t.Errorf("a listener that has gone is still meant:\n%s", got)
	}
}

// TestMapCluster has two agents tell of the same connections.
func TestMapCluster(t *testing.T) {
	one, two := newMapRig(MapConfig{Node: "node-1"}), newMapRig(MapConfig{Node: "node-2"})
	front, cart, db := inPod("node-1", "shop", "frontend", "frontend"), inPod("node-2", "shop", "cart", "cart"), inPod("node-2", "shop", "db", "db", "db-headless")

	// frontend -> cart by the service's address; cart's agent sees the pod.
	one.exchange(front, to(one.at("10.1.1.5:4000", "10.96.0.7:80"), service("shop", "cart")), 10, 20)
	two.exchange(cart, served(to(two.at("10.1.2.5:8080", "10.1.1.5:4000"), podPeer("node-1", "shop", "frontend"))), 20, 10)
	// cart -> db on the same node.
	two.exchange(cart, to(two.at("10.1.2.5:4001", "10.96.0.8:5432"), service("shop", "db")), 30, 40)
	two.exchange(db, served(to(two.at("10.1.2.6:5432", "10.1.2.5:4001"), podPeer("node-2", "shop", "cart"))), 40, 30)
	// From a pod of a node that has no agent, and from outside by another node.
	two.exchange(db, served(to(two.at("10.1.2.6:5432", "10.1.3.9:4001"), podPeer("node-3", "jobs", "report"))), 5, 6)
	two.exchange(cart, served(to(two.at("10.1.2.5:8080", "172.30.0.11:4001"), nodePeer("node-1"))), 7, 8)
	one.exchange(front, served(to(one.at("10.1.1.5:80", "203.0.113.4:5000"), cluster.Peer{Kind: cluster.PeerWorld})), 9, 11)
	// A kubelet's probes, told by both ends: two.cart has been called by node-1
	// above, which kubelet of node-2 does not explain.
	two.exchange(proc("kubelet"), to(two.at("172.30.0.12:5000", "10.1.2.6:5432"), podPeer("node-2", "shop", "db")), 1, 1)
	two.exchange(db, served(to(two.at("10.1.2.6:5432", "172.30.0.12:5000"), nodePeer("node-2"))), 1, 1)
	// The host of a node by its address.
	two.exchange(proc("kube-apiserver"), served(to(two.at("172.30.0.12:6443", "10.1.1.5:4010"), podPeer("node-1", "shop", "frontend"))), 2, 2)
	one.exchange(front, to(one.at("10.1.1.5:4010", "172.30.0.12:6443"), nodePeer("node-2")), 2, 2)

	want := `
	node/node-1 -> workload/shop/Deployment/cart tcp/8080 server: 1 opened, 0 active, 0 failed, 8/7 B
	process/kubelet -> workload/shop/Deployment/db tcp/5432 client: 1 opened, 0 active, 0 failed, 1/1 B
	workload/jobs/Deployment/report -> workload/shop/Deployment/db tcp/5432 server: 1 opened, 0 active, 0 failed, 6/5 B
	workload/shop/Deployment/cart -> service/shop/db-all tcp/5432 client: 1 opened, 0 active, 0 failed, 1/1 B
	workload/shop/Deployment/cart -> workload/shop/Deployment/db tcp/5432 client: 1 opened, 0 active, 0 failed, 30/40 B
	workload/shop/Deployment/frontend -> process/kube-apiserver tcp/6443 client: 1 opened, 0 active, 0 failed, 2/2 B
	workload/shop/Deployment/frontend -> workload/shop/Deployment/cart tcp/80 client: 1 opened, 0 active, 0 failed, 10/20 B
	world/internet -> workload/shop/Deployment/frontend tcp/80 server: 1 opened, 0 active, 0 failed, 11/9 B`
	// A service with two workloads behind it stays one.
	two.exchange(cart, to(two.at("10.1.2.5:4005", "10.96.0.9:5432"), service("shop", "db-all")), 1, 1)
	two.exchange(inPod("node-2", "shop", "db2", "db-all"), served(to(two.at("10.1.2.7:5432", "10.1.2.5:4006"), podPeer("node-2", "shop", "cart"))), 1, 1)
	db.Container.Services = append(db.Container.Services, "db-all")
	two.exchange(db, served(to(two.at("10.1.2.6:5432", "10.1.2.5:4007"), podPeer("node-2", "shop", "cart"))), 1, 1)

	m := MergeMaps([]Map{one.report(t), two.report(t)})
	wantMap(t, m, want)
	if diff := cmp.Diff([]string{"node-1", "node-2"}, m.Reporters); diff != "" {
		t.Error(diff)
	}
	nodes := map[string]MapNode{}
	for _, n := range m.Nodes {
		nodes[n.ID] = n
	}
	if diff := cmp.Diff([]string{"db", "db-headless"}, nodes["workload/shop/Deployment/db"].Services); diff != "" {
		t.Errorf("services of db: %s", diff)
	}
	if diff := cmp.Diff([]string{"workload/shop/Deployment/db", "workload/shop/Deployment/db2"}, nodes["service/shop/db-all"].Backends); diff != "" {
		t.Errorf("backends of db-all: %s", diff)
	}
	if _, ok := nodes["service/shop/cart"]; ok {
		t.Error("the service stands beside its only workload")
	}

	// In any order, and again.
	if diff := cmp.Diff(m, MergeMaps([]Map{two.report(t), one.report(t)})); diff != "" {
		t.Errorf("the order of reports matters: %s", diff)
	}
	if diff := cmp.Diff(m, MergeMaps([]Map{m})); diff != "" {
		t.Errorf("merging again changes the map: %s", diff)
	}

	// Without node-1's agent, the servers' side is all there is.
	alone := MergeMaps([]Map{two.report(t)})
	if got := drawn(alone); !strings.Contains(got, "workload/shop/Deployment/frontend -> workload/shop/Deployment/cart tcp/8080 server: 1 opened, 0 active, 0 failed, 10/20 B") {
		t.Errorf("what only the server's side tells is missing:\n%s", got)
	}

	// Who may see jobs only.
	wantMap(t, m.Restrict(func(ns string) bool { return ns == "jobs" }), `workload/jobs/Deployment/report -> workload/shop/Deployment/db tcp/5432 server: 1 opened, 0 active, 0 failed, 6/5 B`)
	for _, n := range m.Restrict(func(string) bool { return false }).Nodes {
		t.Errorf("%s is shown to nobody", n.ID)
	}
}

// TestMapOfLiar holds that an agent cannot move what others tell into a namespace
// in which somebody may see it.
func TestMapOfLiar(t *testing.T) {
	honest := Map{Reporters: []string{"node-1"}, Nodes: []MapNode{
		{ID: "workload/bank/Deployment/vault", Kind: MapWorkload, Namespace: "bank", Workload: "Deployment", Name: "vault"},
		{ID: "workload/bank/Deployment/teller", Kind: MapWorkload, Namespace: "bank", Workload: "Deployment", Name: "teller"},
		{ID: "service/bank/vault", Kind: MapService, Namespace: "bank", Name: "vault"},
	}, Edges: []MapEdge{
		{From: "workload/bank/Deployment/teller", To: "workload/bank/Deployment/vault", Protocol: "tcp", Port: 1, SeenBy: SeenByClient, FromNode: "node-1", Connections: 1},
		{From: "workload/bank/Deployment/teller", To: "service/bank/vault", Protocol: "tcp", Port: 2, SeenBy: SeenByClient, FromNode: "node-1", Connections: 1},
	}}
	mine := MapNode{ID: "workload/evil/Deployment/x", Kind: MapWorkload, Namespace: "evil", Workload: "Deployment", Name: "x"}
	for name, lie := range map[string]MapNode{
		"another's id":        {ID: "workload/bank/Deployment/vault", Kind: MapWorkload, Namespace: "evil", Workload: "Deployment", Name: "vault"},
		"a kind with slashes": {ID: "workload/bank/Deployment/vault", Kind: "workload/bank/Deployment", Namespace: "evil", Name: "vault"},
		"a foreign backend":   {ID: "service/bank/vault", Kind: MapService, Namespace: "bank", Name: "vault", Backends: []string{mine.ID}},
	} {
		liar := Map{Reporters: []string{"node-2"}, Nodes: []MapNode{mine, lie}}
		for _, reports := range [][]Map{{liar, honest}, {honest, liar}} {
			if m := MergeMaps(reports).Restrict(func(ns string) bool { return ns == "evil" }); len(m.Edges) > 0 {
				t.Errorf("%s: who sees evil only is told %s", name, drawn(m))
			}
		}
	}
}

// TestMapRestrictServices holds that workloads behind another's service are not
// named to who may not see them.
func TestMapRestrictServices(t *testing.T) {
	m := Map{Nodes: []MapNode{
		{ID: "workload/shop/Deployment/front", Kind: MapWorkload, Namespace: "shop", Workload: "Deployment", Name: "front"},
		{ID: "service/bank/vault", Kind: MapService, Namespace: "bank", Name: "vault", Backends: []string{"workload/bank/Deployment/a", "workload/bank/Deployment/b"}},
		{ID: "workload/bank/Deployment/a", Kind: MapWorkload, Namespace: "bank", Workload: "Deployment", Name: "a"},
		{ID: "workload/bank/Deployment/b", Kind: MapWorkload, Namespace: "bank", Workload: "Deployment", Name: "b"},
	}, Edges: []MapEdge{{From: "workload/shop/Deployment/front", To: "service/bank/vault", Protocol: "tcp", Port: 1, SeenBy: SeenByClient}}}
	for _, n := range m.Restrict(func(ns string) bool { return ns == "shop" }).Nodes {
		if len(n.Backends) > 0 || n.Name == "a" || n.Name == "b" {
			t.Errorf("told %+v", n)
		}
	}
	if got := m.Restrict(func(string) bool { return true }); !cmp.Equal(got, m) {
		t.Error(cmp.Diff(m, got))
	}
}

// TestMapNodesAddress: what comes from a node's address is its own processes,
// which tell of it, or what it forwards for clients outside.
func TestMapNodesAddress(t *testing.T) {
	one, two := newMapRig(MapConfig{Node: "node-1"}), newMapRig(MapConfig{Node: "node-2"})
	front1, front2 := inPod("node-1", "shop", "front"), inPod("node-2", "shop", "front")
	// Each kubelet probes the pod of its own node, by the pod's address; another
	// process asks by the service's.
	for _, n := range []struct {
		r    *mapRig
		name string
		pod  *event.Process
	}{{one, "node-1", front1}, {two, "node-2", front2}} {
		n.r.exchange(proc("kubelet"), to(n.r.at("10.1.0.1:5000", "10.1.0.5:8080"), podPeer(n.name, "shop", "front")), 1, 1)
		n.r.exchange(n.pod, served(to(n.r.at("10.1.0.5:8080", "10.1.0.1:5000"), nodePeer(n.name))), 1, 1)
		n.r.exchange(proc("probe"), to(n.r.at("10.1.0.1:5001", "10.96.0.1:80"), service("shop", "front-all")), 2, 2)
		s := served(to(n.r.at("10.1.0.5:8080", "10.1.0.1:5001"), nodePeer(n.name)))
		n.r.tell(n.pod, event.Connection{Socket: s, Type: "accept4", State: event.Established})
		n.r.now = n.r.now.Add(10 * time.Minute)
		n.r.tell(n.pod, event.Connection{Socket: s, Type: "close", State: event.Close, BytesSent: 2, BytesReceived: 2, Start: mapDay})
	}
	// Clients outside come by a port of node-1, which forwards them to both pods.
	one.exchange(front1, served(to(one.at("10.1.0.5:8080", "10.1.0.1:40001"), nodePeer("node-1"))), 30, 20)
	two.exchange(front2, served(to(two.at("10.1.0.5:8080", "172.30.0.11:40002"), nodePeer("node-1"))), 30, 20)
	wantMap(t, MergeMaps([]Map{one.report(t), two.report(t)}), `
	node/node-1 -> workload/shop/Deployment/front tcp/8080 server: 2 opened, 0 active, 0 failed, 40/60 B
	process/kubelet -> workload/shop/Deployment/front tcp/8080 client: 2 opened, 0 active, 0 failed, 2/2 B
	process/probe -> service/shop/front-all tcp/80 client: 2 opened, 0 active, 0 failed, 4/4 B`)
}

// TestMapProcessKnownLate: a connection counts for the process that has it, also
// when that is known after the connection.
func TestMapProcessKnownLate(t *testing.T) {
	r := newMapRig(MapConfig{})
	late, never, slow := r.at("10.0.0.1:1", "10.0.0.2:80"), r.at("10.0.0.1:2", "10.0.0.2:80"), r.at("10.0.0.1:3", "10.0.0.2:80")
	for _, s := range []event.Socket{late, never, slow} {
		r.tell(nil, event.Connection{Socket: s, Type: "connect", State: event.Established})
	}
	wantMap(t, r.report(t), "")
	r.tell(proc("a"), event.Connection{Socket: late, Type: "update", State: event.Established, BytesSent: 5})
	r.tell(nil, event.Connection{Socket: never, Type: "close", State: event.Close, BytesSent: 7})
	wantMap(t, r.report(t), `
	process/ -> address/10.0.0.2 tcp/80 client: 1 opened, 0 active, 0 failed, 7/0 B
	process/a -> address/10.0.0.2 tcp/80 client: 1 opened, 1 active, 0 failed, 5/0 B`)
	// What has no process for minutes has none.
	r.now = r.now.Add(2 * time.Minute)
	r.tell(nil, event.Connection{Socket: slow, Type: "update", State: event.Established, BytesSent: 1})
	wantMap(t, r.report(t), `
	process/ -> address/10.0.0.2 tcp/80 client: 2 opened, 1 active, 0 failed, 8/0 B
	process/a -> address/10.0.0.2 tcp/80 client: 1 opened, 1 active, 0 failed, 5/0 B`)
}

func TestMapSpan(t *testing.T) {
	r := newMapRig(MapConfig{})
	for range 3 {
		r.exchange(proc("a"), r.at("10.0.0.1:1", "10.0.0.2:80"), 1, 0)
		r.now = r.now.Add(40 * time.Minute)
	}
	r.now = r.now.Add(-40 * time.Minute) // 80 minutes after the start
	for _, tt := range []struct {
		since time.Duration
		sent  uint64
		from  time.Time
	}{
		{0, 3, mapDay},
		{time.Minute, 1, mapDay.Add(79*time.Minute - 30*time.Second)},
		{40 * time.Minute, 2, mapDay.Add(40*time.Minute - 30*time.Second)},
		{time.Hour, 2, mapDay.Add(20*time.Minute - 30*time.Second)},
	} {
		m, err := r.Map(MapQuestion{Since: tt.since})
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Edges) != 1 || m.Edges[0].BytesSent != tt.sent || !m.Since.Equal(tt.from) || !m.Until.Equal(r.now) {
			t.Errorf("since %s: from %s, %+v", tt.since, m.Since, m.Edges)
		}
	}
	var wrong *Error
	if _, err := r.Map(MapQuestion{Since: 2 * time.Hour}); !errors.As(err, &wrong) || wrong.Status != http.StatusBadRequest {
		t.Errorf("two hours back: %v", err)
	}
	// An event that comes late counts now: minutes never begin again.
	r.Add(&event.Event{Time: mapDay, Process: proc("late"), Data: &event.Connection{Socket: r.at("10.0.0.1:1", "10.0.0.3:80"), Type: "connect", State: event.Established}})
	m, err := r.Map(MapQuestion{Since: time.Minute})
	if err != nil || len(m.Edges) != 2 {
		t.Errorf("%v, %+v", err, m.Edges)
	}
}

// TestMapBounds: whatever comes, the tables keep their bounds and what is
// counted adds up.
func TestMapBounds(t *testing.T) {
	r := newMapRig(MapConfig{MaxEdges: 64, MaxMinutes: 1, MaxConnections: 32})
	// So many names outside are one.
	for i := range 3 * mapFan {
		s := r.at("10.0.0.1:1", "93.184.216.34:443")
		s.RemoteName = fmt.Sprintf("host-%d.example", i)
		r.exchange(proc("crawler"), s, 1, 1)
	}
	if n := len(r.edges); n > 64 {
		t.Errorf("%d edges", n)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 5000 {
		s := r.at("10.0.0.1:1", fmt.Sprintf("10.%d.%d.%d:%d", rnd.IntN(256), rnd.IntN(256), 1+rnd.IntN(250), 1+rnd.IntN(3)))
		r.tell(proc(fmt.Sprintf("p%d", rnd.IntN(100))), event.Connection{Socket: s, Type: "connect", State: event.Established})
		if rnd.IntN(2) == 0 {
			r.tell(proc("p"), event.Connection{Socket: s, Type: "close", State: event.Close, BytesSent: 1})
		}
		if i%100 == 0 {
			r.now = r.now.Add(time.Minute)
		}
	}
	minutes, active, fan := 0, 0, 0
	for k, e := range r.edges {
		minutes += len(e.minutes)
		active += e.active
		if k.to.isOutside() {
			fan++
		}
		if e.active < 0 {
			t.Errorf("%d connections of %v", e.active, k)
		}
	}
	for _, n := range r.fan {
		fan -= n
	}
	if followed := len(r.byCookie) + len(r.byKey); len(r.edges) > 64 || followed > 32 || minutes > r.cfg.MaxMinutes || minutes != r.minutes || active != followed || fan != 0 {
		t.Errorf("%d edges, %d connections of %d active, %d of %d minutes, fan off by %d", len(r.edges), followed, active, minutes, r.minutes, fan)
	}
	if m := r.report(t); m.Forgotten == 0 || len(m.Edges) == 0 {
		t.Errorf("%d forgotten, %d edges", m.Forgotten, len(m.Edges))
	}
	// A connection that was dropped and is heard of again is not counted twice.
	before := r.report(t)
	r.now = r.now.Add(time.Second)
	r.tell(proc("again"), event.Connection{Socket: r.at("10.0.0.1:1", "10.1.1.1:1"), Type: "update", State: event.Established, BytesSent: 1 << 40, Start: mapDay.Add(time.Second)})
	for _, e := range r.report(t).Edges {
		if e.BytesSent > 1<<30 {
			t.Errorf("counted from nothing: %+v", e)
		}
	}
	if len(before.Nodes) == 0 {
		t.Error("no nodes")
	}
}

// TestMapHostileNames: names are whatever programs choose.
func TestMapHostileNames(t *testing.T) {
	r := newMapRig(MapConfig{})
	r.exchange(proc("a/b\xff\x1b[2J"), r.at("10.0.0.1:1", "10.0.0.2:80"), 1, 1)
	r.exchange(nil, r.at("10.0.0.1:1", "10.0.0.2:80"), 1, 1)
	b := httptest.NewRecorder()
	if err := WriteJSON(b, r.report(t)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.Body.String(), `"process/a/b`+"\ufffd"+`\u001b[2J"`) || !strings.Contains(b.Body.String(), `"id":"process/"`) {
		t.Error(b.Body.String())
	}
}

func TestMapRoute(t *testing.T) {
	r := newMapRig(MapConfig{Node: "node-1"})
	r.exchange(inPod("node-1", "shop", "a"), to(r.at("10.1.1.1:1", "10.96.0.1:80"), service("shop", "b")), 1, 1)
	r.exchange(inPod("node-1", "other", "a"), to(r.at("10.1.1.1:1", "10.96.0.1:80"), service("other", "b")), 1, 1)
	srv := httptest.NewServer(NewMux([]Route{MapRoute(r.Answer)}, slog.New(slog.DiscardHandler)))
	defer srv.Close()
	base, err := url.Parse(srv.URL + "/v1")
	if err != nil {
		t.Fatal(err)
	}
	client := NewHTTPClient(base, http.DefaultTransport)
	m, err := client.Map(t.Context(), MapQuestion{Namespaces: []string{"shop", "nowhere"}, Since: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	wantMap(t, m, `workload/shop/Deployment/a -> service/shop/b tcp/80 clientnode-1: 1 opened, 0 active, 0 failed, 1/1 B`)
	for query, want := range map[string]string{
		"since=yesterday": "want a duration", "since=-5m": "want a duration", "since=2h": "minutes are remembered for", "namespace=a,,b": "namespace", "name=a": "unknown parameter",
	} {
		resp, err := http.Get(srv.URL + "/v1/map?" + query)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s %s (%v), want %s", query, resp.Status, body, err, want)
		}
	}
}

// mapEvents is a stream of events that ends.
type mapEvents struct {
	Events
	list []*event.Event
	asks string
}

func (m *mapEvents) Subscribe(who string, _ *filter.Program, among event.KindSet) (Stream, error) {
	m.asks = who + " " + among.String()
	return &mapStream{m.list}, nil
}

type mapStream struct{ left []*event.Event }

func (s *mapStream) Next(context.Context) (*event.Event, error) {
	if len(s.left) == 0 {
		return nil, io.EOF
	}
	e := s.left[0]
	s.left = s.left[1:]
	return e, nil
}
func (*mapStream) Buffered() bool              { return true }
func (*mapStream) Begun(context.Context) error { return nil }
func (*mapStream) Close()                      {}

func TestMapRun(t *testing.T) {
	r := newMapRig(MapConfig{})
	events := &mapEvents{list: []*event.Event{
		{Time: r.now, Process: proc("a"), Data: &event.Connection{Socket: r.at("10.0.0.1:1", "10.0.0.2:80"), Type: "connect", State: event.Established}},
		{Time: r.now, Data: &event.Exec{}},
	}}
	if err := r.Run(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	if events.asks != "map connection" {
		t.Errorf("it subscribed as %q", events.asks)
	}
	wantMap(t, r.report(t), `process/a -> address/10.0.0.2 tcp/80 client: 1 opened, 1 active, 0 failed, 0/0 B`)
}

// BenchmarkMapAdd is what a connection costs: opened, updated and closed, among
// 200 edges.
func BenchmarkMapAdd(b *testing.B) {
	r := newMapRig(MapConfig{Node: "node-1"})
	var events []*event.Event
	for i := range 200 {
		s := to(r.at("10.1.1.5:4000", "10.96.0.7:80"), service("shop", fmt.Sprintf("service-%d", i)))
		p := inPod("node-1", "shop", fmt.Sprintf("deployment-%d", i%20))
		for _, c := range []event.Connection{
			{Socket: s, Type: "connect", State: event.Established, Start: r.now},
			{Socket: s, Type: "update", State: event.Established, Start: r.now, BytesSent: 10, RTT: 1e6},
			{Socket: s, Type: "close", State: event.Close, Start: r.now, BytesSent: 20, RTT: 1e6},
		} {
			events = append(events, &event.Event{Time: r.now, Process: p, Data: &c})
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		r.Add(events[i])
		if i++; i == len(events) {
			i = 0
		}
	}
}

// BenchmarkMapFull is what a collector takes that has reached all its bounds.
func BenchmarkMapFull(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		r := newMapRig(MapConfig{Node: "node-1"})
		for i := range 20 * r.cfg.MaxEdges {
			s := to(r.at("10.1.1.5:4000", "10.96.0.7:80"), service("shop", fmt.Sprintf("service-%d", i%r.cfg.MaxEdges)))
			r.tell(inPod("node-1", "shop", "deployment"), event.Connection{Socket: s, Type: "connect", State: event.Established})
			if i%r.cfg.MaxEdges == 0 {
				r.now = r.now.Add(time.Minute)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
		b.ReportMetric(float64(len(r.edges)), "edges")
		b.ReportMetric(float64(r.minutes), "minutes")
		b.ReportMetric(float64(len(r.byCookie)), "connections")
	}
}
