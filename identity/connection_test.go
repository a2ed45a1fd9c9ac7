package identity

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"warren/event"
)

var ignoreTags = cmp.Options{
	cmpopts.IgnoreUnexported(event.Connection{}, event.Socket{}, event.DNS{}),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

func TestConnectionLife(t *testing.T) {
	m := newMachine(t, nil)
	k := m.task(100, event.Key{}, "curl")
	dns := &event.DNS{Type: "dns", Response: true, Addrs: []event.Answer{{Name: "shop.example", Addr: netip.MustParseAddr("2.2.2.2"), TTL: 30}}}
	dns.NetNS = 1
	m.apply(k, nil, dns)

	c := conn("connect", 7, "10.0.0.1:4000", "2.2.2.2:443")
	c.Latency = 500
	e := m.apply(k, nil, c)
	began := e.Time
	if c.RemoteName != "shop.example" || c.LocalName != "" || !c.Start.Equal(began) || e.Process == nil {
		t.Errorf("connect: name %q, start %v, process %v", c.RemoteName, c.Start, e.Process)
	}

	m.tick(time.Hour) // the name has long expired
	u := conn("update", 7, "10.0.0.1:4000", "2.2.2.2:443")
	u.BytesSent, u.BytesReceived, u.RTT, u.MinRTT = 10, 20, 300, 200
	m.apply(event.Key{}, nil, u)
	if u.RemoteName != "shop.example" || !u.Start.Equal(began) || u.Latency != 500 {
		t.Errorf("update: %q %v %d", u.RemoteName, u.Start, u.Latency)
	}

	m.tick(time.Second)
	rows := m.rows()
	if len(rows) != 1 {
		t.Fatalf("%d rows", len(rows))
	}
	got := rows[0].Data.(*event.Connection)
	want := *u
	want.Type, want.Duration = "connect", int64(m.now().Sub(began))
	if diff := cmp.Diff(&want, got, ignoreTags); diff != "" {
		t.Errorf("living (-want +got):\n%s", diff)
	}
	if rows[0].Process == nil || rows[0].Process.Name != "curl" || rows[0].Actor != k || !rows[0].Time.Equal(m.now()) {
		t.Errorf("living row: %+v", rows[0])
	}

	x := conn("close", 7, "10.0.0.1:4000", "2.2.2.2:443")
	x.State, x.BytesSent, x.RTT, x.Reset = event.Close, 40, 250, event.ResetRemote
	e = m.apply(event.Key{}, nil, x)
	if e.Process == nil || e.Process.Name != "curl" || e.Actor != k {
		t.Errorf("close has lost its process: %+v", e)
	}
	closed := m.now()
	m.tick(time.Minute)
	rows = m.rows()
	if len(rows) != 1 {
		t.Fatalf("%d rows", len(rows))
	}
	got = rows[0].Data.(*event.Connection)
	if got.BytesSent != 40 || got.BytesReceived != 20 || got.RTT != 250 || got.MinRTT != 200 || got.Reset != event.ResetRemote || got.State != event.Close {
		t.Errorf("closed: %+v", got)
	}
	if got.Duration != int64(closed.Sub(began)) || !rows[0].Time.Equal(closed) || got.Type != "connect" {
		t.Errorf("closed: duration %v, time %v, type %s", time.Duration(got.Duration), rows[0].Time, got.Type)
	}
	m.check()
}

func TestConnectionFailsThenTheSocketTriesAgain(t *testing.T) {
	m := newMachine(t, nil)
	k := m.task(100, event.Key{}, "nc")
	f := conn("connect", 7, "10.0.0.1:4000", "2.2.2.2:443")
	f.Res, f.RawRes, f.State = 111, -111, event.Close
	m.apply(k, nil, f)
	if s := m.Stats(); s.Connections != 0 || s.Closed != 1 {
		t.Errorf("after a failure: %+v", s)
	}
	m.apply(k, nil, conn("connect", 7, "10.0.0.1:4001", "2.2.2.2:443"))
	m.apply(k, nil, conn("close", 7, "10.0.0.1:4001", "2.2.2.2:443"))
	var got []string
	for _, e := range m.rows() {
		c := e.Data.(*event.Connection)
		got = append(got, fmt.Sprint(c.Type, " ", c.Res, " ", c.LocalPort))
	}
	if diff := cmp.Diff([]string{"connect ECONNREFUSED 4000", "connect SUCCESS 4001"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	m.check()
}

// An accepted connection belongs to the listener until somebody accepts it.
func TestConnectionOwner(t *testing.T) {
	m := newMachine(t, nil)
	listener, worker := m.task(100, event.Key{}, "master"), m.task(101, event.Key{}, "worker")
	l := conn("listen", 1, "0.0.0.0:80", "0.0.0.0:0")
	l.State, l.Server = event.Listen, true
	m.apply(listener, nil, l)

	early := conn("update", 2, "10.0.0.1:80", "2.2.2.2:5000")
	early.Shared, early.Server = true, true
	e := m.apply(listener, nil, early)
	if e.Process.Name != "master" {
		t.Errorf("before accept: %v", e.Process)
	}
	acc := conn("accept4", 2, "10.0.0.1:80", "2.2.2.2:5000")
	acc.Server = true
	m.apply(worker, nil, acc)
	// A later event in another process, to which the socket was handed on.
	other := m.task(102, event.Key{}, "other")
	m.apply(other, nil, conn("update", 2, "10.0.0.1:80", "2.2.2.2:5000"))

	got := map[uint64]string{}
	for _, e := range m.rows() {
		c := e.Data.(*event.Connection)
		got[c.Cookie] = e.Process.Name + " " + c.Type + " " + c.Direction()
	}
	if diff := cmp.Diff(map[uint64]string{1: "master listen listen", 2: "worker accept4 in"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	m.check()
}

func TestUDPFlowsOfOneSocket(t *testing.T) {
	m := newMachine(t, nil)
	k := m.task(100, event.Key{}, "resolver")
	udp := func(typ, remote string, sent uint64) {
		c := conn(typ, 9, "10.0.0.1:5353", remote)
		c.L4, c.BytesSent = event.UDP, sent
		m.apply(k, nil, c)
	}
	udp("sendto", "1.1.1.1:53", 10)
	udp("sendto", "8.8.8.8:53", 20)
	udp("update", "1.1.1.1:53", 30)
	udp("close", "8.8.8.8:53", 25)
	got := map[string]string{}
	for _, e := range m.rows() {
		c := e.Data.(*event.Connection)
		got[c.Remote.String()] = fmt.Sprint(c.BytesSent)
	}
	if diff := cmp.Diff(map[string]string{"1.1.1.1": "30", "8.8.8.8": "25"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if s := m.Stats(); s.Connections != 1 || s.Closed != 1 {
		t.Errorf("%+v", s)
	}
}

// Without a cookie the ends name a socket, in its network namespace.
func TestConnectionWithoutCookie(t *testing.T) {
	m := newMachine(t, nil)
	for _, ns := range []uint32{1, 2} {
		c := conn("connect", 0, "10.0.0.1:4000", "2.2.2.2:443")
		c.NetNS = ns
		m.apply(event.Key{}, nil, c)
	}
	c := conn("close", 0, "10.0.0.1:4000", "2.2.2.2:443")
	m.apply(event.Key{}, nil, c)
	if s := m.Stats(); s.Connections != 1 || s.Closed != 1 {
		t.Errorf("%+v", s)
	}
}

func TestConnectionBounds(t *testing.T) {
	m := newMachine(t, func(c *Config) { c.MaxClosed, c.ConnectionBytes = 10, 100*rowSize })
	k := m.task(100, event.Key{}, "x")
	for n := range 50 {
		m.apply(k, nil, conn("connect", uint64(n+1), "1.1.1.1:1", "2.2.2.2:2"))
		m.apply(k, nil, conn("close", uint64(n+1), "1.1.1.1:1", "2.2.2.2:2"))
	}
	if s := m.Stats(); s.Closed != 10 || s.ConnectionsEvicted != 0 {
		t.Errorf("closed: %+v", s)
	}
	for n := range 500 {
		m.apply(k, nil, conn("connect", uint64(n+1000), "1.1.1.1:1", "2.2.2.2:2"))
		if n%2 == 0 { // the first stays in use
			m.apply(k, nil, conn("update", 1000, "1.1.1.1:1", "2.2.2.2:2"))
		}
	}
	s := m.Stats()
	if s.Connections != 100 || s.Closed != 0 || s.ConnectionsEvicted != 400 || s.ConnectionBytes > s.ConnectionBudget {
		t.Errorf("living: %+v", s)
	}
	used := false
	for _, e := range m.rows() {
		used = used || e.Data.(*event.Connection).Cookie == 1000
	}
	if !used {
		t.Error("the connection in use was forgotten before idle ones")
	}
	m.check()
}

// A connection whose close was lost is given up, unless it may live on.
func TestStaleConnections(t *testing.T) {
	m := newMachine(t, nil)
	init := m.task(1, event.Key{}, "init")
	gone, _ := m.fork(init, 100)
	l := conn("listen", 1, "0.0.0.0:80", "0.0.0.0:0")
	l.State = event.Listen
	m.apply(gone, nil, l)
	m.apply(gone, nil, conn("connect", 2, "1.1.1.1:1", "2.2.2.2:2"))
	m.apply(init, nil, conn("connect", 3, "1.1.1.1:1", "2.2.2.2:2"))
	m.exit(gone, 0)
	m.tick(14 * time.Minute)
	m.sweepOnce(m.ktime)
	if s := m.Stats(); s.Connections != 3 {
		t.Errorf("too early: %+v", s)
	}
	m.tick(2 * time.Minute)
	m.sweepOnce(m.ktime)
	if s := m.Stats(); s.Connections != 2 || s.ConnectionsStale != 1 {
		t.Errorf("%+v", s)
	}
	m.check()
}

func TestProcessFoundAfterItsConnection(t *testing.T) {
	m := newMachine(t, nil)
	k := event.Key{PID: 5, Start: 5e9}
	m.apply(k, nil, conn("connect", 2, "1.1.1.1:1", "2.2.2.2:2"))
	m.task(5, event.Key{}, "late")
	if rows := m.rows(); rows[0].Process == nil || rows[0].Process.Name != "late" {
		t.Errorf("%+v", rows[0])
	}
}

// What is older than the agent began at no time that anybody knows.
func TestConnectionOlderThanTheAgent(t *testing.T) {
	m := newMachine(t, nil)
	k := m.task(100, event.Key{}, "sshd")
	row := func() *event.Connection {
		t.Helper()
		rows := m.rows()
		if len(rows) != 1 {
			t.Fatalf("%d rows", len(rows))
		}
		return rows[0].Data.(*event.Connection)
	}
	unknown := func(what string, c *event.Connection) {
		t.Helper()
		if !c.Existing || !c.Start.IsZero() || c.Duration != 0 {
			t.Errorf("%s: existing %v, start %v, duration %v", what, c.Existing, c.Start, time.Duration(c.Duration))
		}
	}
	u := conn("update", 7, "10.0.0.1:22", "2.2.2.2:443")
	u.Existing = true
	m.apply(k, nil, u)
	unknown("first seen", u)
	m.tick(time.Minute)
	unknown("listed", row())
	// Nobody had accepted it when the agent came.
	a := conn("accept4", 7, "10.0.0.1:22", "2.2.2.2:443")
	a.Server = true
	m.apply(k, nil, a)
	unknown("accepted", a)
	x := conn("close", 7, "10.0.0.1:22", "2.2.2.2:443")
	x.State = event.Close
	m.apply(k, nil, x)
	unknown("closed", x)
	unknown("listed when closed", row())
}

// The kernel tells at the end of a connection how long it was, even where its
// beginning was lost.
func TestConnectionSeenAtItsEnd(t *testing.T) {
	m := newMachine(t, nil)
	k := m.task(100, event.Key{}, "curl")
	x := conn("close", 7, "10.0.0.1:4000", "2.2.2.2:443")
	x.State, x.Duration = event.Close, int64(time.Minute)
	if e := m.apply(k, nil, x); !x.Start.Equal(e.Time.Add(-time.Minute)) {
		t.Errorf("start %v, end %v", x.Start, e.Time)
	}
	y := conn("close", 8, "10.0.0.1:4000", "2.2.2.2:443")
	y.State = event.Close
	if m.apply(k, nil, y); !y.Start.IsZero() || y.Duration != 0 {
		t.Errorf("start %v, duration %v", y.Start, y.Duration)
	}
}

// The end of a listening socket no longer has the state that would tell.
func TestListenerSeenAtItsEnd(t *testing.T) {
	m := newMachine(t, nil)
	k := m.task(100, event.Key{}, "nginx")
	x := conn("close", 1, "0.0.0.0:80", "0.0.0.0:0")
	x.State, x.Server, x.Remote = event.Close, true, netip.Addr{}
	m.apply(k, nil, x)
	rows := m.rows()
	if len(rows) != 1 {
		t.Fatalf("%d rows", len(rows))
	}
	if c := rows[0].Data.(*event.Connection); c.Type != "listen" || c.Direction() != "listen" {
		t.Errorf("a %s that goes %s", c.Type, c.Direction())
	}
}
