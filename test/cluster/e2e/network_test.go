package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/internal/testkit"
	"warren/test/cluster/bed"
)

// ownNetwork gives a cluster of its own whose pods Warren alone connects: "warren"
// or "warren-vxlan". Where WARREN_CLUSTER names such a cluster that is used, and
// left running.
func ownNetwork(t *testing.T, cni string) *testCluster {
	t.Helper()
	testkit.NeedRoot(t)
	tools, err := bed.FindTools()
	if err != nil {
		t.Fatal(err)
	}
	say := func(line string) { fmt.Fprintln(os.Stderr, line) }
	name, proxy := "e2e-"+cni, ""
	if cni == "warren-vxlan" {
		proxy = "iptables" // both of kube-proxy's modes have a cluster
	}
	c, err := bed.New(bed.Config{Name: name, CNI: cni, ProxyMode: proxy}, tools, say)
	if given := os.Getenv("WARREN_CLUSTER"); given != "" {
		// As it runs: with iptables, or whatever it was given.
		if c, err = bed.Open(given, tools, say); err != nil || c.CNI != cni {
			t.Skipf("cluster %s is not one of %s: %v", given, cni, err)
		}
		name = given
	}
	if err != nil {
		t.Fatal(err)
	}
	if name == "e2e-"+cni {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), bed.Patience)
			defer cancel()
			if err := c.Down(ctx); err != nil {
				t.Errorf("take the cluster down: %v", err)
			}
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*bed.Patience)
	defer cancel()
	if err := c.Up(ctx, true); err != nil {
		t.Fatal(err)
	}
	return &testCluster{Cluster: c, t: t, namespace: "default"}
}

// own is a cluster for one subtest, with a namespace.
func (c *testCluster) own(t *testing.T) *testCluster {
	t.Helper()
	return withNamespace(t, c.Cluster)
}

// TestClusterNetworkRouted holds everything that Warren's network promises, in
// routed mode.
func TestClusterNetworkRouted(t *testing.T) {
	c := ownNetwork(t, "warren")
	t.Run("ways", func(t *testing.T) { c.own(t).allWays() })
	t.Run("outside", func(t *testing.T) { c.own(t).outsideWays() })
	t.Run("hub", func(t *testing.T) { c.own(t).hubWorks() })
	t.Run("policies", func(t *testing.T) { testPolicies(c.own(t)) })
	t.Run("flows", func(t *testing.T) { testFlows(c.own(t)) })
	t.Run("suggest", func(t *testing.T) { testSuggest(c.own(t)) })
	t.Run("agent killed", func(t *testing.T) { testAgentKilled(c.own(t)) })
	t.Run("node comes and goes", func(t *testing.T) { c.own(t).nodeComesAndGoes() })
	t.Run("uninstall", func(t *testing.T) { testNetworkUninstall(c.own(t)) })
}

// TestClusterNetworkVXLAN holds it for tunnels, as far as they differ.
func TestClusterNetworkVXLAN(t *testing.T) {
	c := ownNetwork(t, "warren-vxlan")
	t.Run("ways", func(t *testing.T) { c.own(t).allWays() })
	t.Run("outside", func(t *testing.T) { c.own(t).outsideWays() })
	t.Run("hub", func(t *testing.T) { c.own(t).hubWorks() })
	t.Run("policies", func(t *testing.T) { testFewPolicies(c.own(t)) })
	t.Run("uninstall", func(t *testing.T) { testNetworkUninstall(c.own(t)) })
}

// TestClusterNetworkChained holds that policies are in force, and flows told, on
// top of the network of another plugin, as the chart has it by itself; that both
// end when packets are to be left alone; and that this network is as before when
// Warren has gone.
func TestClusterNetworkChained(t *testing.T) {
	c := warren(t)
	t.Cleanup(func() { c.must(c.Warren(c.context())) })
	t.Run("policies", func(t *testing.T) { testFewPolicies(c.own(t)) })
	t.Run("flows", func(t *testing.T) { testFlows(c.own(t)) })
	t.Run("ways", func(t *testing.T) { c.own(t).allWays() })
	t.Run("off", func(t *testing.T) { testNetworkOff(c.own(t)) })
	c.must(c.Warren(c.context()))
	c.nodesAnswer(len(c.RunningNodes()))
	c.uninstall("warren", "warren")
	t.Run("ways without it", func(t *testing.T) { c.own(t).allWays() })
}

// testNetworkOff holds that an upgrade leaves packets alone, those too that a
// policy denied.
func testNetworkOff(c *testCluster) {
	y := newYard(c)
	c.apply(y.manifests("u:\npodSelector: {}\npolicyTypes: [Ingress, Egress]"))
	from, to := y.pod("v/a"), y.pod("u/b")
	port := netip.AddrPortFrom(to.addr(false), 80)
	c.eventually("the policy to be in force", func(context.Context) error {
		if _, err := reach(from.guest, "tcp", port, 300*time.Millisecond); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	pins := func() (all string) {
		for _, node := range c.RunningNodes() {
			out, err := run(c, node, "find", "/sys/fs/bpf", "-mindepth", "1", "-not", "-name", "*.debug")
			c.must(err)
			all += out
		}
		return all
	}
	if pins() == "" {
		c.t.Fatal("nothing of the network is pinned: nothing is tested")
	}
	c.must(c.Warren(c.context(), "--set", "network.mode=off"))
	c.nodesAnswer(len(c.RunningNodes()))
	if left := pins(); left != "" {
		c.t.Errorf("left:\n%s", left)
	}
	c.sees(from.guest, "tcp", port, netip.Addr{})
}

// hubWorks holds that the hub, which has a policy of its own, reaches agents and
// API server, and is reached.
func (c *testCluster) hubWorks() {
	c.t.Helper()
	c.nodesAnswer(len(c.RunningNodes()))
	if out := c.kubectl("get", "networkpolicy", "-n", "warren", "-o", "name"); !strings.Contains(out, "warren-hub") {
		c.t.Errorf("policies of Warren: %q", out)
	}
}

// A guest is somewhere in the cluster's networks from where is asked, and where
// is answered: a pod or a place.
type guest struct {
	name   string // u/a for a pod
	node   string
	addrs  []netip.Addr // IPv4, IPv6
	inside func(func() error) error
}

func (g guest) addr(six bool) netip.Addr {
	for _, a := range g.addrs {
		if a.Is6() == six {
			return a
		}
	}
	return netip.Addr{}
}

// guests gives pods by a selector, in all namespaces.
func (c *testCluster) guests(namespace, selector string) []guest {
	c.t.Helper()
	var all []guest
	was := c.namespace
	c.namespace = namespace
	defer func() { c.namespace = was }()
	for _, p := range c.pods(selector) {
		pid, err := c.PodProcess(p.Node, p.UID)
		c.must(err)
		g := guest{name: namespace + "/" + p.Name, node: p.Node, inside: func(do func() error) error { return bed.InsideProcess(pid, do) }}
		for _, ip := range p.IPs {
			a, err := netip.ParseAddr(ip)
			c.must(err)
			g.addrs = append(g.addrs, a)
		}
		all = append(all, g)
	}
	return all
}

// place gives a node, the control plane or outside.
func (c *testCluster) guestAt(name string) guest {
	c.t.Helper()
	g := guest{name: name, node: name, inside: func(do func() error) error { return c.Inside(name, do) }}
	c.must(g.inside(func() error {
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			ip, ok := netip.AddrFromSlice(a.(*net.IPNet).IP)
			if ip = ip.Unmap(); ok && (c.Network.V4.Contains(ip) || c.Network.V6.Contains(ip)) {
				g.addrs = append(g.addrs, ip)
			}
		}
		return err
	}))
	return g
}

// listen answers on a port of a guest with the address that asked, until the test
// ends. Protocols are tcp and udp.
func (c *testCluster) listen(g guest, protocol string, port int) {
	c.t.Helper()
	at := fmt.Sprintf("[::]:%d", port)
	c.must(g.inside(func() error {
		if protocol == "udp" {
			l, err := net.ListenPacket("udp", at)
			if err != nil {
				return err
			}
			c.t.Cleanup(func() { _ = l.Close() })
			go func() {
				buffer := make([]byte, 64)
				for {
					_, who, err := l.ReadFrom(buffer)
					if err != nil {
						return
					}
					_, _ = l.WriteTo([]byte(who.(*net.UDPAddr).AddrPort().Addr().Unmap().String()), who)
				}
			}()
			return nil
		}
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		l, err := config.Listen(context.Background(), "tcp", at)
		if err != nil {
			return err
		}
		c.t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer func() { _ = conn.Close() }()
					who := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().String()
					if _, err := conn.Write([]byte(who)); err != nil {
						return
					}
					_, _ = io.Copy(conn, conn) // who wants to talk on is answered
				}()
			}
		}()
		return nil
	}))
}

// reach asks a port for the address that it sees, once.
func reach(from guest, protocol string, to netip.AddrPort, patience time.Duration) (seen string, err error) {
	err = from.inside(func() error {
		dialer := net.Dialer{Timeout: patience}
		dialer.SetMultipathTCP(false)
		conn, err := dialer.Dial(protocol, to.String())
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if protocol == "udp" {
			if _, err := conn.Write([]byte("who?")); err != nil {
				return err
			}
		}
		answer := make([]byte, 64)
		n, err := conn.Read(answer)
		seen = string(answer[:n])
		return err
	})
	return seen, err
}

// patience is how long an answer that should come is waited for.
const patience = 5 * time.Second

// sees holds that a guest is seen by another with an address.
func (c *testCluster) sees(from guest, protocol string, to netip.AddrPort, want netip.Addr) {
	c.t.Helper()
	var seen string
	c.eventually(fmt.Sprintf("an answer to %s from %s %s", from.name, protocol, to), func(context.Context) (err error) {
		seen, err = reach(from, protocol, to, patience)
		return err
	})
	if want.IsValid() && seen != want.String() {
		c.t.Errorf("from %s to %s %s: %s is seen, want %s", from.name, protocol, to, seen, want)
	}
}

// outsideWays holds what pods are to those outside, and those outside to pods.
func (c *testCluster) outsideWays() {
	c.t.Helper()
	c.serve()
	c.must(c.Outside(c.context()))
	outside, vxlan := c.guestAt("outside"), c.CNI == "warren-vxlan"
	pods := c.guests(c.namespace, "app=serve")
	nodes := make(map[string]guest)
	for _, name := range c.RunningNodes() {
		nodes[name] = c.guestAt(name)
		for _, protocol := range []string{"tcp", "udp"} {
			c.listen(nodes[name], protocol, 9001)
		}
	}
	for _, protocol := range []string{"tcp", "udp"} {
		c.listen(outside, protocol, 9000)
		for _, p := range pods {
			c.listen(p, protocol, 9002)
		}
	}
	for _, protocol := range []string{"tcp", "udp"} {
		for _, six := range []bool{false, true} {
			for _, p := range pods {
				own := nodes[p.node]
				c.sees(p, protocol, netip.AddrPortFrom(outside.addr(six), 9000), own.addr(six))
				c.sees(p, protocol, netip.AddrPortFrom(own.addr(six), 9001), p.addr(six))
				c.sees(own, protocol, netip.AddrPortFrom(p.addr(six), 9002), netip.Addr{})
				// From outside by the pod's own address, where there is a way.
				c.sees(c.guestAt("control"), protocol, netip.AddrPortFrom(p.addr(six), 9002), c.guestAt("control").addr(six))
				for name, other := range nodes {
					if name == p.node {
						continue
					}
					want := p.addr(six)
					if vxlan {
						want = own.addr(six)
					}
					c.sees(p, protocol, netip.AddrPortFrom(other.addr(six), 9001), want)
					c.sees(other, protocol, netip.AddrPortFrom(p.addr(six), 9002), netip.Addr{})
				}
			}
		}
	}
	c.largePackets(pods, vxlan)
}

// largePackets holds that pods have the largest MTU that the uplink carries, and
// that packets of that size arrive.
func (c *testCluster) largePackets(pods []guest, vxlan bool) {
	c.t.Helper()
	want := 1500
	if vxlan {
		want = 1450
	}
	for _, p := range pods {
		c.must(p.inside(func() error {
			dev, err := net.InterfaceByName("eth0")
			if err == nil && dev.MTU != want {
				c.t.Errorf("%s: its MTU is %d, want %d", p.name, dev.MTU, want)
			}
			return err
		}))
	}
	from, to := pods[0], pods[len(pods)-1]
	for _, six := range []bool{false, true} {
		size := want - 28
		if six {
			size = want - 48
		}
		c.must(to.inside(func() error {
			l, err := net.ListenPacket("udp", netip.AddrPortFrom(to.addr(six), 9003).String())
			if err != nil {
				return err
			}
			c.t.Cleanup(func() { _ = l.Close() })
			go func() {
				buffer := make([]byte, 65536)
				for {
					n, who, err := l.ReadFrom(buffer)
					if err != nil {
						return
					}
					_, _ = l.WriteTo(buffer[:n], who)
				}
			}()
			return nil
		}))
		for _, size := range []int{size, size + 1, 8000} {
			c.eventually(fmt.Sprintf("%d bytes from %s to %s", size, from.node, to.node), func(context.Context) error {
				return from.inside(func() error {
					conn, err := net.Dial("udp", netip.AddrPortFrom(to.addr(six), 9003).String())
					if err != nil {
						return err
					}
					defer func() { _ = conn.Close() }()
					if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
						return err
					}
					if _, err := conn.Write(make([]byte, size)); err != nil {
						return err
					}
					n, err := conn.Read(make([]byte, 65536))
					if err == nil && n != size {
						err = fmt.Errorf("%d bytes came back", n)
					}
					return err
				})
			})
		}
	}
}

// nodeComesAndGoes holds that the others know a new node's pods, and forget them.
func (c *testCluster) nodeComesAndGoes() {
	c.t.Helper()
	c.must(c.AddNode(c.context(), 3))
	pods := c.serve()
	for _, from := range pods {
		for _, to := range pods {
			for _, ip := range to.IPs {
				c.eventually(fmt.Sprintf("from %s to %s", from.Node, to.Node), func(ctx context.Context) error {
					_, err := c.ask(ctx, from.Name, "http://"+net.JoinHostPort(ip, "8080"))
					return err
				})
			}
		}
	}
	routes := func() string {
		out, err := run(c, "node1", "sh", "-c", "ip route show proto 87; ip -6 route show proto 87")
		c.must(err)
		return out
	}
	before := strings.Count(routes(), "\n")
	c.must(c.RemoveNode(c.context(), 3))
	// Nobody would say for a minute that its pods have ended.
	_, err := c.Kubectl(c.context(), "delete", "pods", "-A", "--field-selector", "spec.nodeName=node3", "--force", "--grace-period=0")
	c.must(err)
	c.eventually("its routes to be gone", func(context.Context) error {
		if now := routes(); strings.Count(now, "\n") != before-2 {
			return fmt.Errorf("routes are\n%s", now)
		}
		return nil
	})
}

// testAgentKilled holds that connections go on, and new ones are made and denied
// as before, while agents are killed and come back, and while they are replaced.
func testAgentKilled(c *testCluster) {
	t := c.t
	c.serve()
	c.apply(fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-9100, namespace: %s}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 9100}, {port: 9100, protocol: UDP}]}]}
`, c.namespace))
	pods := c.guests(c.namespace, "app=serve")
	for _, p := range pods {
		c.listen(p, "tcp", 9100)
		c.listen(p, "udp", 9100)
		c.listen(p, "tcp", 9101)
	}
	from, to := pods[0], pods[len(pods)-1]
	denied := netip.AddrPortFrom(to.addr(false), 9101)
	c.eventually("the policy to be in force", func(context.Context) error {
		if _, err := reach(from, "tcp", denied, 300*time.Millisecond); err == nil {
			return errors.New("a port that no rule allows answers")
		}
		return nil
	})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var made, failed, wrong atomic.Int64
	var first atomic.Pointer[string]
	fail := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		first.CompareAndSwap(nil, &text)
	}
	for _, protocol := range []string{"tcp", "udp"} {
		for _, six := range []bool{false, true} {
			running.Go(func() {
				for ctx.Err() == nil {
					if _, err := reach(from, protocol, netip.AddrPortFrom(to.addr(six), 9100), patience); err != nil {
						failed.Add(1)
						fail("a new connection by %s: %v", protocol, err)
					}
					made.Add(1)
				}
			})
		}
	}
	running.Go(func() {
		for ctx.Err() == nil {
			if _, err := reach(from, "tcp", denied, 200*time.Millisecond); err == nil {
				wrong.Add(1)
				fail("a port that no rule allows answers")
			}
		}
	})
	var talk net.Conn
	c.must(from.inside(func() (err error) {
		talk, err = net.Dial("tcp", netip.AddrPortFrom(to.addr(false), 9100).String())
		return err
	}))
	defer func() { _ = talk.Close() }()
	said := make([]byte, 64)
	if _, err := talk.Read(said); err != nil { // who asked
		t.Fatal(err)
	}
	running.Go(func() {
		for ctx.Err() == nil {
			if err := talk.SetDeadline(time.Now().Add(patience)); err != nil {
				fail("%v", err)
			}
			if _, err := talk.Write([]byte("x")); err == nil {
				_, err = io.ReadFull(talk, said[:1])
				if err == nil {
					continue
				}
			}
			failed.Add(1)
			fail("a connection that was there has ended")
			return
		}
	})
	for _, end := range []struct {
		how string
		do  func(agents map[string]int)
	}{
		{"killed", func(agents map[string]int) {
			for node, pid := range agents {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatalf("kill the agent of %s: %v", node, err)
				}
			}
		}},
		{"replaced", func(map[string]int) {
			c.kubectl("-n", "warren", "rollout", "restart", "daemonset/warren-agent")
			c.must(c.Rollout(c.context(), "warren", "daemonset/warren-agent"))
		}},
	} {
		before := c.agentProcesses()
		if len(before) != len(c.RunningNodes()) {
			t.Fatalf("agents: %v", before)
		}
		end.do(before)
		c.eventually("other agents", func(context.Context) error {
			now := c.agentProcesses()
			for node, pid := range before {
				if now[node] == 0 || now[node] == pid {
					return fmt.Errorf("%s: %v", node, now)
				}
			}
			return nil
		})
		c.nodesAnswer(len(before))
		t.Logf("agents were %s: %d connections so far", end.how, made.Load())
	}
	stop()
	running.Wait()
	if made.Load() < 100 || failed.Load() > 0 || wrong.Load() > 0 {
		text := "nothing"
		if p := first.Load(); p != nil {
			text = *p
		}
		t.Errorf("of %d connections %d failed, and %d that are not allowed were made; first: %s", made.Load(), failed.Load(), wrong.Load(), text)
	}
	// And policy still changes.
	c.kubectl("delete", "networkpolicy", "only-9100")
	c.sees(from, "tcp", denied, from.addr(false))
}

// testNetworkUninstall holds that nothing of the network is left on any node. What is
// left of the rest, the history above all, TestClusterUninstall holds.
func testNetworkUninstall(c *testCluster) {
	t := c.t.(*testing.T)
	ask := func(node, script string) string {
		out, err := run(c, node, "sh", "-c", script)
		c.must(err)
		return out
	}
	const traces = `ip route show table all proto 87; ip -6 route show table all proto 87; ip route show table all proto 88; ip -6 route show table all proto 88
		ip -o link show | grep -E 'warren|wrn' | cut -d' ' -f2; nft list tables | grep warren; find /sys/fs/bpf /etc/cni/net.d /opt/cni/bin /var/lib/warren -mindepth 1 -not -path "/var/lib/warren/history*" -not -name '*.debug' -not -path /var/lib/warren/lock; true`
	for _, node := range c.RunningNodes() {
		if out := ask(node, traces); !strings.Contains(out, "warren") || !strings.Contains(out, "/sys/fs/bpf") {
			t.Fatalf("the network has no traces on %s: nothing is tested:\n%s", node, out)
		}
	}
	c.kubectl("delete", "daemonset,deployment", "--all", "-n", c.namespace)
	c.uninstall("warren", "warren")
	for _, node := range c.RunningNodes() {
		if out := ask(node, traces); out != "" {
			t.Errorf("left on %s:\n%s", node, out)
		}
		if out := strings.Fields(ask(node, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding")); !slices.Equal(out, []string{"0", "0"}) {
			t.Errorf("settings of %s are %v: not put back", node, out)
		}
	}
}
