package datapath

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/internal/testkit"
)

// A hostLab is two nodes with a pod each and a machine outside, on one link.
type hostLab struct {
	t       *testing.T
	link    *testkit.Netns // the bridge
	outside *testkit.Netns
	nodes   [2]hostNode
}

// A hostNode is a node of the lab.
type hostNode struct {
	Node
	ns, pod *testkit.Netns
	pods    []netip.Addr // the addresses of its pod
	host    *Host
	state   string
}

var (
	outside4 = netip.MustParseAddr("172.30.0.200")
	outside6 = netip.MustParseAddr("fd00:30::200")
)

func newHostLab(t *testing.T, cfg HostConfig) *hostLab {
	t.Helper()
	l := &hostLab{t: t, link: testkit.NewNetns(t), outside: testkit.NewNetns(t)}
	l.ip(l.link, "link add br0 type bridge", "link set br0 up")
	l.connect(l.outside, "outside", outside4, outside6)
	for i := range l.nodes {
		n := &l.nodes[i]
		n.Name = fmt.Sprintf("node%d", i+1)
		n.Addrs = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("172.30.0.%d", 11+i)), netip.MustParseAddr(fmt.Sprintf("fd00:30::%d", 11+i))}
		n.PodCIDRs = cidrs(fmt.Sprintf("10.240.%d.0/24", i), fmt.Sprintf("fd00:240:0:%d::/64", i))
		n.pods = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.240.%d.5", i)), netip.MustParseAddr(fmt.Sprintf("fd00:240:0:%d::5", i))}
		n.ns, n.pod = testkit.NewNetns(t), testkit.NewNetns(t)
		l.connect(n.ns, n.Name, n.Addrs[0], n.Addrs[1])
		l.addPod(n)
		n.state = t.TempDir()
		own := cfg
		own.State = n.state
		var err error
		if n.host, err = NewHost(own, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// ip runs commands of iproute2 in a namespace.
func (l *hostLab) ip(ns *testkit.Netns, commands ...string) string {
	l.t.Helper()
	var out []byte
	err := ns.Do(func() error {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
		var err error
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		l.t.Fatalf("ip %q: %v: %s", commands, err, out)
	}
	return string(out)
}

// show gives what iproute2 prints for each of several questions.
func (l *hostLab) show(ns *testkit.Netns, questions ...string) string {
	l.t.Helper()
	var all strings.Builder
	if err := ns.Do(func() error {
		for _, q := range questions {
			out, err := exec.Command("ip", strings.Fields(q)...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("ip %s: %w: %s", q, err, out)
			}
			all.Write(out)
		}
		return nil
	}); err != nil {
		l.t.Fatal(err)
	}
	return all.String()
}

// connect ties a namespace to the link.
func (l *hostLab) connect(ns *testkit.Netns, name string, four, six netip.Addr) {
	l.t.Helper()
	l.ip(ns, "link add eth0 type veth peer name "+name+" netns "+l.fd(l.link),
		fmt.Sprintf("addr add %s/24 dev eth0", four), fmt.Sprintf("addr add %s/64 dev eth0 nodad", six), "link set eth0 up")
	l.ip(l.link, "link set "+name+" master br0 up")
}

// fd is how a program that was started by this one finds a namespace.
func (l *hostLab) fd(ns *testkit.Netns) string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.FD())
}

// addPod makes a node's pod, as a CNI plugin does.
func (l *hostLab) addPod(n *hostNode) {
	l.t.Helper()
	l.ip(n.ns, "link add pod0 type veth peer name eth0 netns "+l.fd(n.pod), "link set pod0 up", "addr add 169.254.1.1/32 dev pod0", "addr add fe80::1/64 dev pod0 nodad",
		fmt.Sprintf("route add %s/32 dev pod0", n.pods[0]), fmt.Sprintf("route add %s/128 dev pod0", n.pods[1]))
	l.ip(n.pod, fmt.Sprintf("addr add %s/32 dev eth0", n.pods[0]), fmt.Sprintf("addr add %s/128 dev eth0 nodad", n.pods[1]), "link set eth0 up",
		"route add default via 169.254.1.1 dev eth0 onlink", "route add default via fe80::1 dev eth0")
}

// others are the nodes that are not number i.
func (l *hostLab) others(i int) []Node { return []Node{l.nodes[1-i].Node} }

// reconcile makes both nodes' networks, and gives what the first one said.
func (l *hostLab) reconcile(mode Mode) HostDevices {
	l.t.Helper()
	var first HostDevices
	for i := range l.nodes {
		d, err := l.reconcileOne(i, HostState{Mode: mode, Self: l.nodes[i].Node, Others: l.others(i)})
		if err != nil {
			l.t.Fatalf("%s of %s: %v", mode, l.nodes[i].Name, err)
		}
		if i == 0 {
			first = d
		}
	}
	return first
}

func (l *hostLab) reconcileOne(i int, want HostState) (d HostDevices, err error) {
	err = l.nodes[i].ns.Do(func() (err error) {
		d, err = l.nodes[i].host.Reconcile(want)
		return err
	})
	return d, err
}

// ask sends a datagram from one namespace to an address of another, and gives
// the address that it came from, as the other saw it.
func (l *hostLab) ask(from, at *testkit.Netns, to netip.Addr, size int) (netip.Addr, error) {
	l.t.Helper()
	return l.askFrom(netip.Addr{}, from, at, to, size)
}

// askFrom asks from an address; the zero value leaves it to the kernel.
func (l *hostLab) askFrom(as netip.Addr, from, at *testkit.Netns, to netip.Addr, size int) (netip.Addr, error) {
	l.t.Helper()
	var server net.PacketConn
	if err := at.Do(func() (err error) {
		server, err = net.ListenPacket("udp", netip.AddrPortFrom(to, 0).String())
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	answered := make(chan netip.Addr, 1)
	go func() {
		buffer := make([]byte, 65536)
		for {
			n, who, err := server.ReadFrom(buffer)
			if err != nil {
				return
			}
			select {
			case answered <- who.(*net.UDPAddr).AddrPort().Addr().Unmap():
			default:
			}
			_, _ = server.WriteTo(buffer[:n], who)
		}
	}()
	var got netip.Addr
	err := from.Do(func() error {
		var dialer net.Dialer
		if as.IsValid() {
			dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(as, 0))
		}
		c, err := dialer.Dial("udp", server.LocalAddr().String())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		request, answer := bytes.Repeat([]byte("x"), size), make([]byte, size+1)
		// A neighbour may have to be asked for first: what is lost meanwhile is sent
		// again.
		var last error
		for range 20 {
			if _, last = c.Write(request); last != nil {
				continue
			}
			if last = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); last != nil {
				return last
			}
			var n int
			if n, last = c.Read(answer); last == nil {
				if n != size {
					return fmt.Errorf("%d of %d bytes came back", n, size)
				}
				got = <-answered
				return nil
			}
		}
		return last
	})
	return got, err
}

// see asks, and holds who is seen against who should be.
func (l *hostLab) see(what string, from, at *testkit.Netns, to, want netip.Addr) {
	l.t.Helper()
	l.seeFrom(what, netip.Addr{}, from, at, to, want)
}

func (l *hostLab) seeFrom(what string, as netip.Addr, from, at *testkit.Netns, to, want netip.Addr) {
	l.t.Helper()
	got, err := l.askFrom(as, from, at, to, 100)
	if err != nil {
		l.t.Errorf("%s: no answer from %s: %v\n%s", what, to, err, l.describe())
		return
	}
	if got != want {
		l.t.Errorf("%s: %s sees %s, want %s", what, to, got, want)
	}
}

func (l *hostLab) describe() string {
	var b strings.Builder
	for i := range l.nodes {
		fmt.Fprintf(&b, "%s:\n%s", l.nodes[i].Name, l.show(l.nodes[i].ns, "-br addr", "route show", "-6 route show", "-s -d link show", "neigh show"))
	}
	return b.String()
}

// everybody asks everybody; masquerade says whether those outside see the node.
func (l *hostLab) everybody(mode Mode, masquerade bool) {
	l.t.Helper()
	for i := range l.nodes {
		a, b := &l.nodes[i], &l.nodes[1-i]
		for family, outside := range []netip.Addr{outside4, outside6} {
			name := fmt.Sprintf("%s, IPv%d, ", a.Name, 4+2*family)
			l.see(name+"pod to pod elsewhere", a.pod, b.pod, b.pods[family], a.pods[family])
			l.see(name+"pod to its node", a.pod, a.ns, a.Addrs[family], a.pods[family])
			if got := l.source(a, a.pods[1]); got != a.Addrs[1] {
				l.t.Errorf("%s answers its pods as %s, want %s", a.Name, got, a.Addrs[1])
			}
			l.see(name+"node to its pod", a.ns, a.pod, a.pods[family], l.source(a, a.pods[family]))
			wantNode, wantPod := a.pods[family], a.Addrs[family]
			if mode == VXLAN {
				wantPod = NodeAddr(a.PodCIDRs[family])
				if masquerade {
					wantNode = a.Addrs[family]
				}
			}
			l.see(name+"node to pod elsewhere", a.ns, b.pod, b.pods[family], wantPod)
			// As of a connection to a service that was made before it was known where to.
			l.seeFrom(name+"node's address to pod elsewhere", a.Addrs[family], a.ns, b.pod, b.pods[family], wantPod)
			if mode != VXLAN || masquerade {
				l.see(name+"pod to the other node", a.pod, b.ns, b.Addrs[family], wantNode)
			}
			if masquerade {
				l.see(name+"pod to outside", a.pod, l.outside, outside, a.Addrs[family])
			}
		}
	}
}

// source is which address a node uses to another.
func (l *hostLab) source(n *hostNode, to netip.Addr) netip.Addr {
	l.t.Helper()
	var answer []struct {
		Src netip.Addr `json:"prefsrc"`
	}
	if err := n.ns.Do(func() error {
		out, err := exec.Command("ip", "-j", "route", "get", to.String()).Output()
		if err != nil {
			return err
		}
		return json.Unmarshal(out, &answer)
	}); err != nil || len(answer) != 1 {
		l.t.Fatalf("the way to %s: %+v, %v", to, answer, err)
	}
	return answer[0].Src
}

// snapshot is what of a node's network could be left over, once all of its devices
// are up: a link comes a moment after its ends.
func (l *hostLab) snapshot(n *hostNode) string {
	l.t.Helper()
	testkit.Wait(l.t, "the links of "+n.Name, func() bool {
		return !strings.Contains(l.show(n.ns, "-br link show"), "NO-CARRIER")
	})
	var b strings.Builder
	b.WriteString(l.show(n.ns, "-br link show", "addr show dev eth0 scope global", "route show table all type unicast", "route show table all type unreachable", "-6 route show", "-6 route show type unreachable", "rule show", "-6 rule show"))
	if err := n.ns.Do(func() error {
		tables, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		b.Write(tables)
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/eth0/accept_ra", "ipv4/conf/all/rp_filter", "ipv4/conf/eth0/forwarding"} {
			text, readErr := os.ReadFile("/proc/sys/net/" + name)
			if readErr != nil {
				return readErr
			}
			fmt.Fprintf(&b, "%s %s", name, text)
		}
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(n.state, "*"))
	fmt.Fprintln(&b, files, err)
	return b.String()
}

func (l *hostLab) remove(i int) {
	l.t.Helper()
	if err := l.nodes[i].ns.Do(l.nodes[i].host.Remove); err != nil {
		l.t.Errorf("remove the network of %s: %v", l.nodes[i].Name, err)
	}
}

// TestRootHost holds what both modes make of two nodes, that either follows on
// the other, and that nothing is left in the end.
func TestRootHost(t *testing.T) {
	l := newHostLab(t, HostConfig{})
	before := [2]string{l.snapshot(&l.nodes[0]), l.snapshot(&l.nodes[1])}
	for _, mode := range []Mode{Routed, VXLAN, Routed, VXLAN} {
		d := l.reconcile(mode)
		wantMTU := map[Mode]int{Routed: 1500, VXLAN: 1450}[mode]
		if d.UplinkName != "eth0" || d.Uplink == 0 || (d.Tunnel != 0) != (mode == VXLAN) || d.MTU != wantMTU || d.Routes != 2 || len(d.Problems) > 0 ||
			d.Node4 != l.nodes[0].Addrs[0] || d.Node6 != l.nodes[0].Addrs[1] {
			t.Errorf("%s: %+v", mode, d)
		}
		l.everybody(mode, true)
		// Once more changes nothing.
		was := l.snapshot(&l.nodes[0])
		l.reconcile(mode)
		if now := l.snapshot(&l.nodes[0]); now != was {
			t.Errorf("%s: once more makes of\n%s\nthis:\n%s", mode, was, now)
		}
	}
	for i := range l.nodes {
		l.remove(i)
		if now := l.snapshot(&l.nodes[i]); now != before[i] {
			t.Errorf("left of the network on %s: before\n%s\nafter\n%s", l.nodes[i].Name, before[i], now)
		}
		l.remove(i) // nothing to remove is no error
	}
}

// TestRootHostLargePackets sends packets that fit exactly, and ones that do not.
func TestRootHostLargePackets(t *testing.T) {
	l := newHostLab(t, HostConfig{})
	for _, mode := range []Mode{Routed, VXLAN} {
		d := l.reconcile(mode)
		for i := range l.nodes {
			l.ip(l.nodes[i].ns, fmt.Sprintf("link set pod0 mtu %d", d.MTU))
			l.ip(l.nodes[i].pod, fmt.Sprintf("link set eth0 mtu %d", d.MTU))
		}
		for family, headers := range []int{28, 48} {
			for _, size := range []int{d.MTU - headers, 4000} {
				if _, err := l.ask(l.nodes[0].pod, l.nodes[1].pod, l.nodes[1].pods[family], size); err != nil {
					t.Errorf("%s: %d bytes over IPv%d: %v", mode, size, 4+2*family, err)
				}
			}
		}
	}
}

// TestRootHostLaterAgent holds that an agent takes over what the one before it
// made, takes away what is not wanted any more, and repairs what is broken.
func TestRootHostLaterAgent(t *testing.T) {
	for _, mode := range []Mode{Routed, VXLAN} {
		t.Run(mode.String(), func(t *testing.T) {
			l := newHostLab(t, HostConfig{})
			before := l.snapshot(&l.nodes[0])
			gone := Node{Name: "node3", Addrs: []netip.Addr{netip.MustParseAddr("172.30.0.13"), netip.MustParseAddr("fd00:30::13")}, PodCIDRs: cidrs("10.240.3.0/24", "fd00:240:0:3::/64")}
			if _, err := l.reconcileOne(0, HostState{Mode: mode, Self: l.nodes[0].Node, Others: append(l.others(0), gone)}); err != nil {
				t.Fatal(err)
			}
			if text := l.show(l.nodes[0].ns, "route show", "neigh show"); !strings.Contains(text, "10.240.3.0/24") {
				t.Fatalf("no route to a third node:\n%s", text)
			}
			// Of a route and a rule of others nothing is changed.
			l.ip(l.nodes[0].ns, "route add 10.99.0.0/16 via 172.30.0.13", "route add fd99::/64 via fd00:30::13")
			// An agent that knows nothing of the one before.
			for i := range l.nodes {
				fresh, err := NewHost(HostConfig{State: l.nodes[i].state}, nil)
				if err != nil {
					t.Fatal(err)
				}
				l.nodes[i].host = fresh
			}
			l.reconcile(mode)
			text := l.show(l.nodes[0].ns, "route show", "-6 route show", "neigh show")
			for _, left := range []string{"10.240.3.", "fd00:240:0:3:"} {
				if strings.Contains(text, left) {
					t.Errorf("there is still %s:\n%s", left, text)
				}
			}
			if !strings.Contains(text, "10.99.0.0/16") || !strings.Contains(text, "fd99::/64") {
				t.Errorf("others' routes are gone:\n%s", text)
			}
			// Somebody flushes.
			damage := []string{"route del 10.240.1.0/24"}
			if mode == VXLAN {
				damage = append(damage, "neigh flush all nud permanent dev warren-vxlan", "link set warren-vxlan mtu 1300 down")
			}
			l.ip(l.nodes[0].ns, damage...)
			l.nft(&l.nodes[0], "flush ruleset")
			l.reconcile(mode)
			l.everybody(mode, true)
			l.ip(l.nodes[0].ns, "route del 10.99.0.0/16", "route del fd99::/64")
			l.remove(0)
			if now := l.snapshot(&l.nodes[0]); now != before {
				t.Errorf("left: before\n%s\nafter\n%s", before, now)
			}
		})
	}
}

func (l *hostLab) nft(n *hostNode, command string) {
	l.t.Helper()
	if err := n.ns.Do(func() error {
		out, err := exec.CommandContext(context.Background(), "nft", command).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}); err != nil {
		l.t.Fatal(err)
	}
}

// TestRootHostMasquerade holds who sees pods' own addresses.
func TestRootHostMasquerade(t *testing.T) {
	back := func(l *hostLab) {
		for i, n := range l.nodes {
			l.ip(l.outside, fmt.Sprintf("route add %s via %s", l.nodes[i].PodCIDRs[0], n.Addrs[0]), fmt.Sprintf("route add %s via %s", l.nodes[i].PodCIDRs[1], n.Addrs[1]))
		}
	}
	t.Run("off", func(t *testing.T) {
		l := newHostLab(t, HostConfig{NoMasquerade: true})
		l.reconcile(Routed)
		back(l)
		l.see("pod to outside", l.nodes[0].pod, l.outside, outside4, l.nodes[0].pods[0])
		l.see("pod to outside", l.nodes[0].pod, l.outside, outside6, l.nodes[0].pods[1])
		l.everybody(Routed, false)
	})
	t.Run("exceptions", func(t *testing.T) {
		l := newHostLab(t, HostConfig{KeepSource: cidrs("172.30.0.200/32")})
		l.reconcile(Routed)
		back(l)
		l.see("pod to outside", l.nodes[0].pod, l.outside, outside4, l.nodes[0].pods[0])
		l.see("pod to outside", l.nodes[0].pod, l.outside, outside6, l.nodes[0].Addrs[1])
	})
	t.Run("many networks", func(t *testing.T) {
		l := newHostLab(t, HostConfig{})
		others := l.others(0)
		n := testkit.Rounds(3000, 1000)
		for i := range n {
			a := netip.AddrFrom4([4]byte{11, byte(i >> 7), byte(i << 1), 0})
			others = append(others, Node{Addrs: []netip.Addr{a}, PodCIDRs: []netip.Prefix{netip.PrefixFrom(a, 24)}})
		}
		began := time.Now()
		d, err := l.reconcileOne(0, HostState{Mode: VXLAN, Self: l.nodes[0].Node, Others: others})
		if err != nil || d.Routes != n+2 {
			t.Errorf("%+v, %v", d, err)
		}
		t.Logf("%d nodes at once: %v", n, time.Since(began))
		began = time.Now()
		if _, err = l.reconcileOne(0, HostState{Mode: VXLAN, Self: l.nodes[0].Node, Others: others}); err != nil {
			t.Error(err)
		}
		t.Logf("%d nodes again: %v", n, time.Since(began))
		if _, err := l.reconcileOne(1, HostState{Mode: VXLAN, Self: l.nodes[1].Node, Others: l.others(1)}); err != nil {
			t.Fatal(err)
		}
		l.everybody(VXLAN, true)
	})
}

// TestRootHostTrouble holds what is said of what cannot be done.
func TestRootHostTrouble(t *testing.T) {
	l := newHostLab(t, HostConfig{})
	n := &l.nodes[0]
	state := func() HostState { return HostState{Mode: Routed, Self: n.Node, Others: l.others(0)} }
	complain := func(name string, want HostState, text string) {
		t.Helper()
		d, err := l.reconcileOne(0, want)
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %+v, %v; want an error with %q", name, d, err, text)
		}
	}
	problem := func(name string, want HostState, text string) {
		t.Helper()
		d, err := l.reconcileOne(0, want)
		if err != nil || !slices.ContainsFunc(d.Problems, func(p string) bool { return strings.Contains(p, text) }) {
			t.Errorf("%s: %+v, %v; want a problem with %q", name, d, err, text)
		}
	}
	stranger := state()
	stranger.Self.Addrs = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	complain("no device", stranger, "name the uplink")
	far := state()
	far.Others = append(far.Others, Node{Addrs: []netip.Addr{netip.MustParseAddr("198.51.100.7")}, PodCIDRs: cidrs("10.240.7.0/24")})
	problem("far away", far, "1 networks of other nodes' pods: the nodes are on no link")
	half := state()
	half.Others = append(half.Others, Node{Addrs: []netip.Addr{netip.MustParseAddr("172.30.0.13")}, PodCIDRs: cidrs("fd00:240:0:7::/64")})
	problem("no address of the family", half, "no address by which")
	twice := state()
	twice.Others = append(twice.Others, Node{Addrs: twice.Others[0].Addrs, PodCIDRs: cidrs("10.240.0.128/25")})
	problem("overlap", twice, "overlap with those of this node")

	l.nft(n, "add table inet filter { chain forward { type filter hook forward priority 0; policy drop; }; }")
	problem("policy drop", state(), "policy of chain forward in table filter")
	l.nft(n, "delete table inet filter")

	other, err := NewHost(HostConfig{Instance: "second", State: t.TempDir()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.ns.Do(func() error { _, err := other.Reconcile(state()); return err }); err != nil {
		t.Error(err)
	}
	problem("a second agent", state(), "another agent, second, makes the network here too")
	if err := n.ns.Do(other.Remove); err != nil {
		t.Error(err)
	}
	if text := l.show(n.ns, "route show"); !strings.Contains(text, "10.240.1.0/24 via 172.30.0.12") {
		t.Errorf("the second agent took the first one's routes with it:\n%s", text)
	}

	l.ip(n.ns, "link add warren-vxlan type bridge")
	tunnels := state()
	tunnels.Mode = VXLAN
	complain("a device of somebody else", tunnels, "it is not ours")
	l.ip(n.ns, "link del warren-vxlan", "link add other type vxlan external dstport 8472", "link set other up")
	complain("a port of somebody else", tunnels, "UDP port 8472")
	l.ip(n.ns, "link del other")
	if _, err := l.reconcileOne(0, tunnels); err != nil {
		t.Errorf("when it is free: %v", err)
	}
}
