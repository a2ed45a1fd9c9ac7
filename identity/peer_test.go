package identity

import (
	"fmt"
	"testing"
	"time"

	"warren/cluster"
	"warren/event"
)

func peerOf(e *event.Event) string {
	p := event.SocketOf(e).RemotePeer
	switch {
	case p == nil:
		return ""
	case p.Pod != nil:
		return "pod " + p.Pod.Name
	case p.Service != nil:
		return "service " + p.Service.Name
	case p.Node != nil:
		return "node " + p.Node.Name
	}
	return string(p.Kind)
}

func podPeer(name string) cluster.Peer {
	return cluster.Peer{Kind: cluster.PeerPod, Pod: &cluster.Pod{Name: name}}
}

var worldPeer = cluster.Peer{Kind: cluster.PeerWorld}

func (m *machine) connection(typ string, cookie uint64, remote string) *event.Event {
	return m.apply(event.Key{}, nil, conn(typ, cookie, "10.0.0.9:4000", remote))
}

func TestPeerAtTheTime(t *testing.T) {
	f := newFakeCluster()
	m := newMachine(t, func(c *Config) { c.Cluster = f })
	for addr, p := range map[string]cluster.Peer{
		"10.0.0.1": podPeer("old"), "10.96.0.1": {Kind: cluster.PeerService, Service: &cluster.Service{Name: "cart"}},
		"192.168.0.2": {Kind: cluster.PeerNode, Node: &cluster.Node{Name: "node-2"}}, "8.8.8.8": worldPeer, "127.0.0.1": worldPeer, "::1": worldPeer,
	} {
		f.give(addr, m.boot, p)
	}
	for n, tt := range []struct{ remote, want string }{
		{"10.0.0.1:80", "pod old"}, {"[::ffff:10.0.0.1]:80", "pod old"}, {"10.96.0.1:80", "service cart"}, {"192.168.0.2:10250", "node node-2"}, {"8.8.8.8:53", "world"},
		{"127.0.0.1:80", ""}, {"[::1]:80", ""}, {"[::ffff:127.0.0.1]:80", ""}, {"0.0.0.0:80", ""}, {"10.0.0.77:80", ""},
	} {
		e := m.connection("connect", uint64(100+n), tt.remote)
		if got := peerOf(e); got != tt.want {
			t.Errorf("%s is %q, want %q", tt.remote, got, tt.want)
		}
	}

	// An hour later another pod has the address: what began before stays.
	long := m.connection("connect", 1, "10.0.0.1:80")
	m.tick(time.Hour)
	f.give("10.0.0.1", m.now(), podPeer("new"))
	m.meetAgain()
	f.asked = 0
	for _, typ := range []string{"update", "update", "close"} {
		if got := peerOf(m.connection(typ, 1, "10.0.0.1:80")); got != "pod old" {
			t.Errorf("%s of the old connection: %q", typ, got)
		}
	}
	if f.asked != 0 {
		t.Errorf("the cluster was asked %d times for a connection that it has told of", f.asked)
	}
	if got := peerOf(m.connection("connect", 2, "10.0.0.1:80")); got != "pod new" {
		t.Errorf("the new connection: %q", got)
	}
	if peerOf(long) != "pod old" {
		t.Error("an event that was published has changed")
	}
	// A record that comes late is of its own time.
	late := &event.Event{Time: m.now().Add(-time.Minute), Ktime: m.ktime - 60e9, Data: conn("connect", 3, "10.0.0.9:4001", "10.0.0.1:80")}
	m.Apply(late)
	if got := peerOf(late); got != "pod old" {
		t.Errorf("a connection of a minute ago: %q", got)
	}
	// One of which the end is all that was seen.
	end := conn("close", 4, "10.0.0.9:4002", "10.0.0.1:80")
	end.Duration = int64(time.Minute)
	if got := peerOf(m.apply(event.Key{}, nil, end)); got != "pod old" {
		t.Errorf("a connection that began a minute ago: %q", got)
	}
	rows := map[uint64]string{}
	for _, e := range m.rows() {
		rows[event.SocketOf(e).Cookie] = peerOf(e)
	}
	if rows[1] != "pod old" || rows[2] != "pod new" || rows[3] != "pod old" {
		t.Errorf("the table: %v", rows)
	}
	// The same socket, used again.
	if got := peerOf(m.connection("connect", 1, "10.0.0.1:80")); got != "pod new" {
		t.Errorf("the socket connects again: %q", got)
	}
}

// A pod can talk before the API has heard of its address.
func TestPeerThatComesLater(t *testing.T) {
	f := newFakeCluster()
	m := newMachine(t, func(c *Config) { c.Cluster = f })
	f.give("10.0.0.3", m.boot, worldPeer) // private, so that it may still be somebody
	f.give("8.8.8.8", m.boot, worldPeer)
	first := m.connection("accept", 1, "10.0.0.2:40000")
	doubt := m.connection("connect", 2, "10.0.0.3:80")
	m.connection("connect", 3, "8.8.8.8:53")
	m.connection("connect", 4, "127.0.0.1:80")
	m.apply(event.Key{}, nil, &event.Connection{Type: "listen", State: event.Listen, Socket: event.Socket{Cookie: 5, L4: event.TCP, Server: true, Local: event.SocketOf(first).Local, LocalPort: 80}})
	if s := m.Stats(); s.PeersWaiting != 2 {
		t.Errorf("%d wait, want 2", s.PeersWaiting)
	}
	m.tick(time.Second)
	m.meetAgain() // still nobody
	f.give("10.0.0.2", m.boot, podPeer("young"))
	f.give("10.0.0.3", m.boot, podPeer("younger"))
	m.meetAgain()
	if got := peerOf(m.connection("update", 1, "10.0.0.2:40000")); got != "pod young" {
		t.Errorf("after the cluster told: %q", got)
	}
	if got := peerOf(m.connection("close", 2, "10.0.0.3:80")); got != "pod younger" {
		t.Errorf("after the cluster told: %q", got)
	}
	if peerOf(first) != "" || peerOf(doubt) != "world" {
		t.Error("an event that was published has changed")
	}
	if s := m.Stats(); s.PeersWaiting != 0 {
		t.Errorf("%d wait", s.PeersWaiting)
	}

	// An address that is given only afterwards was not the peer's.
	m.connection("connect", 6, "10.0.0.4:80")
	m.tick(time.Second)
	f.give("10.0.0.4", m.now(), podPeer("later"))
	m.meetAgain()
	if got := peerOf(m.connection("update", 6, "10.0.0.4:80")); got != "" {
		t.Errorf("a pod that had not been: %q", got)
	}
	// It is given up after a minute.
	m.tick(time.Minute)
	m.meetAgain()
	if s := m.Stats(); s.PeersWaiting != 0 {
		t.Errorf("%d wait", s.PeersWaiting)
	}
	m.check()
}

func TestPeerWaitIsBounded(t *testing.T) {
	f := newFakeCluster()
	m := newMachine(t, func(c *Config) { c.Cluster, c.ConnectionBytes = f, 256<<20 })
	for n := range maxWaitingRows + 10 {
		m.connection("connect", uint64(n+1), fmt.Sprintf("10.1.%d.%d:80", n>>8&255, n&255))
	}
	if s := m.Stats(); s.PeersWaiting != maxWaitingRows || s.PeersDropped != 10 {
		t.Errorf("%d wait, %d do not", s.PeersWaiting, s.PeersDropped)
	}
	// There is room when the first are given up: looked for once a second, since
	// to look through all of them for each connection would be dear.
	m.tick(peerWait)
	m.connection("connect", 1<<20, "10.2.0.1:80")
	if s := m.Stats(); s.PeersWaiting != 1 || s.PeersDropped != 10 {
		t.Errorf("after a minute %d wait, %d do not", s.PeersWaiting, s.PeersDropped)
	}
	if n := testing.AllocsPerRun(10, m.meetAgain); n != 0 {
		t.Errorf("to ask again makes %v allocations", n)
	}
	// Rows that are forgotten do not wait, and those used again are not mistaken.
	m = newMachine(t, func(c *Config) { c.Cluster, c.MaxClosed = f, 1 })
	m.connection("connect", 1, "10.0.0.1:80")
	m.connection("close", 1, "10.0.0.1:80")
	m.connection("connect", 2, "10.0.0.2:80")
	m.connection("close", 2, "10.0.0.2:80") // the first is forgotten
	m.connection("connect", 3, "127.0.0.1:80")
	f.give("10.0.0.1", m.boot, podPeer("one"))
	f.give("10.0.0.2", m.boot, podPeer("two"))
	m.meetAgain()
	for _, e := range m.rows() {
		if want := map[uint64]string{2: "pod two"}[event.SocketOf(e).Cookie]; peerOf(e) != want {
			t.Errorf("socket %d: %q, want %q", event.SocketOf(e).Cookie, peerOf(e), want)
		}
	}
	for n := range maxKnownPeers + 5 {
		m.peers.one(podPeer(fmt.Sprint(n)))
	}
	if n := len(m.peers.known); n > maxKnownPeers {
		t.Errorf("%d answers remembered", n)
	}
}

func TestPeerOfDNSAndClients(t *testing.T) {
	f := newFakeCluster()
	f.give("10.96.0.10", time.Unix(0, 0), cluster.Peer{Kind: cluster.PeerService, Service: &cluster.Service{Name: "kube-dns"}})
	m := newMachine(t, func(c *Config) { c.Cluster = f })
	dns := func() *event.DNS {
		d := &event.DNS{Type: "dns", Name: "cart.shop.svc"}
		d.L4, d.Cookie = event.UDP, 7
		d.Remote, d.RemotePort = addr("10.96.0.10:53")
		return d
	}
	if got := peerOf(m.apply(event.Key{}, nil, dns())); got != "service kube-dns" {
		t.Errorf("without a row: %q", got)
	}
	flow := conn("sendto", 7, "10.0.0.9:4000", "10.96.0.10:53")
	flow.L4 = event.UDP
	m.apply(event.Key{}, nil, flow)
	f.asked = 0
	if got := peerOf(m.apply(event.Key{}, nil, dns())); got != "service kube-dns" || f.asked != 0 {
		t.Errorf("with a row: %q, asked %d times", got, f.asked)
	}
	// A client's port is no service's.
	f.ports = nil
	in := conn("accept", 8, "10.0.0.9:80", "192.168.0.2:31000")
	in.Server = true
	m.apply(event.Key{}, nil, in)
	m.connection("connect", 9, "192.168.0.2:31000")
	if len(f.ports) != 2 || f.ports[0] != 0 || f.ports[1] != 31000 {
		t.Errorf("asked for ports %v", f.ports)
	}
	if event.SocketOf(m.rows()[0]).RemotePort == 0 {
		t.Error("the event has lost its port")
	}
}

// What a connection costs the cluster's tables, and the collector.
func TestPeerCost(t *testing.T) {
	f := newFakeCluster()
	m := newMachine(t, func(c *Config) { c.Cluster = f })
	for n := range 8 {
		f.give(fmt.Sprintf("10.0.0.%d", n), m.boot, podPeer(fmt.Sprint(n)))
	}
	m.connection("connect", 1, "10.0.0.1:80")
	s := &event.Socket{L4: event.TCP}
	s.Remote, s.RemotePort = addr("10.0.0.1:80")
	f.ports = make([]uint16, 0, 1000)
	if n := testing.AllocsPerRun(100, func() { i := m.Identity; _, _ = i.peer(s, m.now(), false) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
