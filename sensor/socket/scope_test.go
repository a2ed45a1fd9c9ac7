package socket

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/bpf"
	"warren/event"
	"warren/internal/testkit"
)

// into starts commands in a cgroup; nil is outside.
func into(t *testing.T, c *testkit.Cgroup) func(*exec.Cmd) error {
	if c == nil {
		return (*exec.Cmd).Start
	}
	return func(cmd *exec.Cmd) error { c.Start(t, cmd); return nil }
}

// A scopeWant is what a rig is to tell of one process: kinds of events, sorted.
type scopeWant map[event.Key][]string

// told sorts what a rig has told by process. It fails on what was told of other
// network namespaces than the test's: nothing else on the machine is in a scope.
func (r *rig) told(netns uint32) scopeWant {
	r.t.Helper()
	r.sync()
	r.mu.Lock()
	defer r.mu.Unlock()
	got := scopeWant{}
	for _, e := range r.events {
		k := event.Key{PID: e.Actor.PID, Start: e.Actor.Start / 1e7 * 1e7} // as keyOf has it
		switch d := e.Data.(type) {
		case *event.Connection:
			if d.NetNS != netns {
				r.t.Errorf("of another namespace: %s", show(d))
			}
			got[k] = append(got[k], fmt.Sprintf("%v %s", d.L4, d.Type))
		case *event.DNS:
			got[k] = append(got[k], fmt.Sprintf("dns response=%v", d.Response))
		}
	}
	for _, list := range got {
		slices.Sort(list)
	}
	return got
}

// TestBPFScope has two scopes talk with each other and with the outside, in one
// network namespace: each sensor tells its own ends, and nothing else.
func TestBPFScope(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) { scopes(t, network) })
	}
}

func scopes(t *testing.T, network string) {
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	loopback := map[string]string{"tcp4": "127.0.0.1:", "tcp6": "[::1]:"}[network]
	a, b := testkit.NewCgroup(t, "a"), testkit.NewCgroup(t, "b")
	watch := func(c *testkit.Cgroup) *rig {
		return newRigOf(t, Config{Interval: time.Hour}, bpf.Config{CgroupRoot: c.Path}, kindConn|kindDNS)
	}
	ra, rb := watch(a), watch(b)
	wantA, wantB := scopeWant{}, scopeWant{}
	add := func(w scopeWant, h *helper, what ...string) {
		if w != nil {
			w[h.key()] = append(w[h.key()], what...)
		}
	}

	// connect has a client in one place talk to a server in another.
	connect := func(server, client *testkit.Cgroup, wantServer, wantClient scopeWant) {
		t.Helper()
		s := startBy(t, ns, into(t, server), nil, "serve", network, loopback+"0", "10")
		add(wantServer, s, "tcp accept4", "tcp close", "tcp close", "tcp listen")
		to := loopback + s.ready()
		c := startBy(t, ns, into(t, client), nil, "dial", network, to, "10", "0")
		add(wantClient, c, "tcp close", "tcp connect")
		c.ready()
		s.ready()
		c.finish() // first: its end waits in TIME_WAIT
		s.finish()
	}
	connect(a, b, wantA, wantB)
	connect(b, a, wantB, wantA)
	connect(a, a, wantA, wantA)
	connect(a, nil, wantA, nil)
	connect(nil, b, nil, wantB)
	connect(nil, nil, nil, nil)

	// Nobody listens: connects that fail, by a reset and at once.
	for _, to := range []string{loopback + "1", "192.0.2.1:1"} {
		for _, place := range []struct {
			cg   *testkit.Cgroup
			want scopeWant
		}{{a, wantA}, {b, wantB}, {nil, nil}} {
			c := startBy(t, ns, into(t, place.cg), nil, "dial", "tcp", to, "0", "0")
			add(place.want, c, "tcp connect")
			c.ready()
			c.finish()
		}
	}

	// One asks, another answers.
	resolve := func(asker, answerer *testkit.Cgroup, wantAsker, wantAnswerer scopeWant) {
		t.Helper()
		s := startBy(t, ns, into(t, answerer), nil, "answer", "127.0.0.1:53")
		add(wantAnswerer, s, "dns response=false", "dns response=true", "udp close", "udp recvfrom")
		s.ready()
		c := startBy(t, ns, into(t, asker), nil, "ask", "127.0.0.1:53")
		add(wantAsker, c, "dns response=false", "dns response=true", "udp close", "udp sendto")
		c.ready()
		s.ready()
		c.finish()
		s.finish()
	}
	resolve(a, b, wantA, wantB)
	resolve(b, nil, wantB, nil)
	resolve(nil, nil, nil, nil)

	// A listener from outside that is used inside stays outside, and a client of
	// it too.
	ln := listen(t, ns, network, loopback+"0", false)
	file, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	h := startBy(t, ns, into(t, a), []*os.File{file}, "take")
	c := startBy(t, ns, into(t, nil), nil, "dial", network, ln.Addr().String(), "0", "0")
	c.ready()
	h.ready()
	c.finish()
	h.finish()

	// A socket belongs where it was created: of a process that has left with it,
	// its connections are told, but not to be that process's.
	s := startBy(t, ns, into(t, a), nil, "serve", network, loopback+"0", "0")
	to := loopback + s.ready()
	add(wantA, s, "tcp close", "tcp listen")
	wantA[event.Key{}] = []string{"tcp accept4", "tcp close"}
	b.Add(t, s.cmd.Process.Pid)
	c = startBy(t, ns, into(t, nil), nil, "dial", network, to, "0", "0")
	c.ready()
	s.ready()
	c.finish()
	s.finish()

	for _, tt := range []struct {
		name string
		r    *rig
		want scopeWant
	}{{"a", ra, wantA}, {"b", rb, wantB}} {
		for _, list := range tt.want {
			slices.Sort(list)
		}
		// The last ends come when the kernel gets to them.
		for k, list := range tt.want {
			testkit.Wait(t, fmt.Sprintf("all of %+v in scope %s", k, tt.name), func() bool { return len(tt.r.told(netns)[k]) >= len(list) })
		}
		if diff := cmp.Diff(tt.want, tt.r.told(netns)); diff != "" {
			t.Errorf("scope %s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestBPFScopeSnapshot lists sockets that are older than the sensor: those of the
// scope.
func TestBPFScopeSnapshot(t *testing.T) {
	ns := testkit.NewNetns(t)
	a, b := testkit.NewCgroup(t, "a"), testkit.NewCgroup(t, "b")
	var servers []*helper // each with a socket of its own
	for _, c := range []*testkit.Cgroup{a, b, nil} {
		s := startBy(t, ns, into(t, c), nil, "serve", "tcp4", "127.0.0.1:0", "0")
		s.ready()
		u := startBy(t, ns, into(t, c), nil, "answer", "127.0.0.1:0")
		u.ready()
		servers = append(servers, s, u)
	}
	// Neither a socket from outside that a process of the scope holds, nor what a
	// process holds that has left.
	file, err := listen(t, ns, "tcp4", "127.0.0.1:0", false).File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	startBy(t, ns, into(t, a), []*os.File{file}, "hold").ready()
	left := startBy(t, ns, into(t, a), nil, "serve", "tcp4", "127.0.0.1:0", "0")
	left.ready()
	b.Add(t, left.cmd.Process.Pid)

	r := newRigOf(t, Config{Interval: time.Hour}, bpf.Config{CgroupRoot: a.Path}, kindConn)
	if err := r.sensor.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := scopeWant{servers[0].key(): {"tcp listen"}, servers[1].key(): {"udp update"}}
	if diff := cmp.Diff(want, r.told(ns.Inode(t))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
