package identity

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"warren/cluster"
	"warren/event"
)

// flowOf returns a flow as its near end tells it.
func flowOf(local, remote string, server bool) *event.Flow {
	f := &event.Flow{Type: "flow_new", Verdict: event.Forwarded}
	f.L4, f.Server = event.TCP, server
	f.Local, f.LocalPort = addr(local)
	f.Remote, f.RemotePort = addr(remote)
	return f
}

// inPod is a process of a pod that the cluster knows.
func (m *machine) inPod(f *fakeCluster, pid uint32, uid, name, address string) event.Key {
	m.t.Helper()
	p := &cluster.Pod{UID: uid, Name: name, Namespace: "shop", Containers: []cluster.Container{{Name: name, ID: id64(int(pid)), Kind: cluster.Main}}}
	f.set(uid, p)
	f.give(address, m.boot, cluster.Peer{Kind: cluster.PeerPod, Pod: p})
	return m.first(pid, podPath(uid, id64(int(pid)))).Process.Key
}

const (
	frontUID = "aaaaaaaa-0000-4000-8000-000000000001"
	backUID  = "aaaaaaaa-0000-4000-8000-000000000002"
)

func who(e *event.Event) string {
	if e.Process == nil {
		return ""
	}
	return fmt.Sprint(e.Process.PID)
}

func TestFlowOwner(t *testing.T) {
	f := newFakeCluster()
	m := newMachine(t, func(c *Config) { c.Cluster = f })
	front := m.inPod(f, 100, frontUID, "front", "10.0.0.1")
	back := m.inPod(f, 200, backUID, "back", "10.0.0.2")
	worker, _ := m.fork(back, 201)
	f.give("10.96.0.1", m.boot, cluster.Peer{Kind: cluster.PeerService, Service: &cluster.Service{Namespace: "shop", Name: "back"}})

	// A socket of before the first flow, which makes the index.
	m.apply(front, nil, conn("connect", 1, "10.0.0.1:4000", "10.0.0.2:80"))
	listen := conn("listen", 2, "10.0.0.2:80", "10.0.0.1:1")
	listen.Remote, listen.RemotePort, listen.Local, listen.State, listen.Server, listen.NetNS = netip.Addr{}, 0, netip.IPv6Unspecified(), event.Listen, true, 2
	m.apply(back, nil, listen)

	check := func(what string, d *event.Flow, want event.Key) *event.Event {
		t.Helper()
		e := m.apply(event.Key{}, nil, d)
		if e.Actor != want || want.IsZero() != (e.Process == nil) || e.Process != nil && e.Process.PID != want.PID {
			t.Errorf("%s: actor %+v, process %s, want %+v", what, e.Actor, who(e), want)
		}
		return e
	}
	e := check("by both ends", flowOf("10.0.0.1:4000", "10.0.0.2:80", false), front)
	if d := e.Data.(*event.Flow); d.Cookie != 1 || d.NetNS != 1 || d.LocalPeer.Pod.Name != "front" || peerOf(e) != "pod back" || d.Service != nil {
		t.Errorf("flow %+v", d)
	}
	check("the other end, by who listens", flowOf("10.0.0.2:80", "10.0.0.1:4000", true), back)
	accepted := conn("accept", 3, "10.0.0.2:80", "10.0.0.1:4000")
	accepted.Server = true
	m.apply(worker, nil, accepted)
	check("the other end, by who accepted", flowOf("10.0.0.2:80", "10.0.0.1:4000", true), worker)
	check("nobody listens there", flowOf("10.0.0.2:81", "10.0.0.1:4000", true), event.Key{})
	check("the pod does not, another does", flowOf("10.0.0.1:80", "10.0.0.2:4000", true), event.Key{})

	// What is asked of a service is answered by a pod.
	m.apply(front, nil, conn("connect", 4, "10.0.0.1:4001", "10.96.0.1:80"))
	e = check("by the near end", flowOf("10.0.0.1:4001", "10.0.0.2:8080", false), front)
	if d := e.Data.(*event.Flow); d.Service == nil || d.Service.Name != "back" || peerOf(e) != "pod back" {
		t.Errorf("flow of a service %+v", d)
	}

	// Nobody answers: only the socket's own word tells whose it is.
	d := flowOf("10.0.0.1:4002", "10.0.0.9:80", false)
	d.Type, d.Verdict = "flow_drop", event.Dropped
	check("before the socket told", d, event.Key{})
	m.apply(front, nil, &event.SocketState{Type: "socket", Socket: event.Socket{Local: netip.MustParseAddr("10.0.0.1"), LocalPort: 4002, Remote: netip.MustParseAddr("10.0.0.9"), RemotePort: 80, L4: event.TCP}})
	check("after it", flowOf("10.0.0.1:4002", "10.0.0.9:80", false), front)

	// By the number of the socket, whatever the addresses.
	d = flowOf("10.0.0.1:9999", "10.0.0.9:80", false)
	d.Cookie = 4
	check("by cookie", d, front)

	// The end of a connection is told after the end of its socket.
	x := conn("close", 1, "10.0.0.1:4000", "10.0.0.2:80")
	x.State = event.Close
	m.apply(front, nil, x)
	d = flowOf("10.0.0.1:4000", "10.0.0.2:80", false)
	d.Type = "flow_close"
	check("closed", d, front)
	m.check()
}

// TestFlowOfAnother holds that a process is not told of a pod that it is not in:
// the address was another's a moment ago.
func TestFlowOfAnother(t *testing.T) {
	f := newFakeCluster()
	m := newMachine(t, func(c *Config) { c.Cluster = f })
	front := m.inPod(f, 100, frontUID, "front", "10.0.0.1")
	m.apply(front, nil, conn("connect", 1, "10.0.0.1:4000", "10.0.0.2:80"))
	m.tick(time.Second)
	p := &cluster.Pod{UID: backUID, Name: "back", Namespace: "shop"}
	f.set(backUID, p)
	d := flowOf("10.0.0.1:4000", "10.0.0.2:80", false)
	d.PodUID = backUID
	e := m.apply(event.Key{}, nil, d)
	if e.Process != nil || !e.Actor.IsZero() {
		t.Errorf("of another pod: %s", who(e))
	}
	if d.LocalPeer == nil || d.LocalPeer.Pod != p {
		t.Errorf("whose device it is: %+v", d.LocalPeer)
	}
	// A device of which the cluster has not heard stands for nobody's address.
	d = flowOf("10.0.0.1:4000", "10.0.0.2:80", false)
	d.PodUID = "unknown"
	if e = m.apply(event.Key{}, nil, d); e.Process != nil {
		t.Errorf("of a pod that nobody knows: %s", who(e))
	}
	if d.LocalPeer != nil {
		t.Errorf("a pod that nobody knows is %+v", d.LocalPeer)
	}
}

// TestFlowIndexIsBounded holds that what finds connections by their ends forgets
// them with the connections, and counts.
func TestFlowIndexIsBounded(t *testing.T) {
	const most = 1 << 20
	m := newMachine(t, func(c *Config) { c.ConnectionBytes = most })
	k := m.task(100, event.Key{}, "curl")
	for n := range 100 {
		m.apply(k, nil, conn("connect", uint64(n+1), fmt.Sprintf("10.0.0.1:%d", 1000+n), "10.0.0.2:80"))
	}
	before := m.conns.bytes
	m.apply(event.Key{}, nil, flowOf("10.0.0.1:1000", "10.0.0.2:80", false))
	if got := m.conns.bytes - before; got != 100*endsSize {
		t.Errorf("the index of 100 connections counts %d bytes, want %d", got, 100*endsSize)
	}
	for n := range 20000 {
		c := conn("connect", uint64(n+1), fmt.Sprintf("10.1.%d.%d:2000", n/250, n%250), "10.0.0.2:80")
		switch n % 4 {
		case 0:
			c.Server = true
		case 1:
			c.Type, c.State, c.Remote, c.RemotePort, c.Server = "listen", event.Listen, netip.Addr{}, 0, true
		case 2:
			c.Local = netip.MustParseAddr("127.0.0.1")
		}
		m.apply(k, nil, c)
		m.apply(k, nil, &event.SocketState{Socket: event.Socket{Local: netip.MustParseAddr("10.0.0.1"), LocalPort: uint16(n), L4: event.TCP}})
		if n%3 == 0 {
			x := conn("close", uint64(n+1), fmt.Sprintf("10.1.%d.%d:2000", n/250, n%250), "10.0.0.2:80")
			x.State = event.Close
			m.apply(k, nil, x)
		}
	}
	x := &m.conns.ends
	rows := m.conns.living.n + m.conns.closed.n
	open := 0
	for _, l := range x.open {
		open += len(l)
	}
	if m.conns.bytes > most || len(x.rows)+open > 2*rows || len(x.trying[0]) > maxTrying || len(x.trying[1]) > maxTrying {
		t.Errorf("%d bytes, %d rows, %d + %d in the index, %d and %d that try", m.conns.bytes, rows, len(x.rows), open, len(x.trying[0]), len(x.trying[1]))
	}
	for k, r := range x.rows {
		if r.id == 0 || endsOf(&r.last.Socket) != k && endsOf(&r.last.Socket).near() != k {
			t.Fatalf("the index says %+v of %+v", k, r.last.Socket)
		}
	}
	for _, l := range x.open {
		for _, r := range l {
			if r.id == 0 || r.last.Remote.IsValid() {
				t.Fatalf("open: %+v", r.last.Socket)
			}
		}
	}
	m.check()
}

// BenchmarkApplyFlow measures what completing an event of a flow costs, with
// 20,000 connections and as many pods known.
func BenchmarkApplyFlow(b *testing.B) {
	st := cluster.NewState(cluster.Config{})
	m := newMachine(b, func(c *Config) { c.Cluster, c.ConnectionBytes = st, 64<<20 })
	ip := func(n int) string { return fmt.Sprintf("10.%d.%d.%d", 1+n>>16, n>>8&255, n&255) }
	for n := range 20000 {
		st.SetPod(&cluster.Pod{UID: fmt.Sprint("u", n), Namespace: "shop", Name: fmt.Sprint("p", n), Addrs: []netip.Addr{netip.MustParseAddr(ip(n))}, Created: m.boot, Started: m.boot}, m.boot)
	}
	k := m.task(100, event.Key{}, "curl")
	for n := range 20000 {
		m.apply(k, nil, conn("connect", uint64(n+1), fmt.Sprintf("%s:%d", ip(n%100), 1000+n), ip(n)+":80"))
	}
	events := make([]*event.Event, batch)
	n, next := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		if n == 0 {
			b.StopTimer()
			for i := range events {
				next = (next + 1) % 20000
				m.ktime += 10000
				d := flowOf(fmt.Sprintf("%s:%d", ip(next%100), 1000+next), ip(next)+":80", false)
				d.PodUID = fmt.Sprint("u", next%100)
				events[i] = &event.Event{Time: m.now(), Ktime: m.ktime, Data: d}
			}
			n = batch
			b.StartTimer()
		}
		m.Apply(events[batch-n])
		n--
	}
}
