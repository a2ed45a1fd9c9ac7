package cni

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"warren/api"
	"warren/internal/testkit"
)

// outside is a namespace on the other end of the node's uplink.
func (n *node) outside() *testkit.Netns {
	n.t.Helper()
	out := testkit.NewNetns(n.t)
	err := n.ns.Do(func() error {
		l := netlink.NewVeth(netlink.LinkAttrs{Name: "uplink"})
		l.PeerName, l.PeerNamespace = "uplink", netlink.NsFd(out.FD())
		return netlink.LinkAdd(l)
	})
	for ns, list := range map[*testkit.Netns][]string{n.ns: {"192.0.2.1/24", "2001:db8::1/64"}, out: {"192.0.2.2/24", "2001:db8::2/64"}} {
		if err == nil {
			err = ns.Do(func() error {
				l, err := netlink.LinkByName("uplink")
				if err != nil {
					return err
				}
				if err := os.WriteFile("/proc/sys/net/ipv6/conf/uplink/accept_dad", []byte("0"), 0); err != nil {
					return err
				}
				for _, a := range list {
					addr, err := netlink.ParseAddr(a)
					if err != nil {
						return err
					}
					if err := netlink.AddrAdd(l, addr); err != nil {
						return err
					}
				}
				return netlink.LinkSetUp(l)
			})
		}
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

func ports(list ...portMapping) map[string]any {
	return map[string]any{"runtimeConfig": map[string]any{"portMappings": list}}
}

// serve answers TCP and UDP at a port of all addresses with a name.
func serve(t *testing.T, ns *testkit.Netns, port int, name string) {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	err := ns.Do(func() (err error) {
		if l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); p.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, name)
			c.Close()
		}
	}()
	go func() {
		for b := make([]byte, 100); ; {
			_, who, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = p.WriteTo([]byte(name), who)
		}
	}()
}

// asks says who answers at an address, "" for nobody.
func asks(t *testing.T, from *testkit.Netns, proto, at string, patience time.Duration) string {
	t.Helper()
	a := netip.MustParseAddrPort(at)
	var c net.Conn
	err := from.Do(func() (err error) { c, err = net.DialTimeout(proto, a.String(), patience); return err })
	if err != nil {
		return ""
	}
	defer c.Close()
	return askAgain(c, patience)
}

func askAgain(c net.Conn, patience time.Duration) string {
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = c.Write([]byte("?"))
	b := make([]byte, 100)
	size, _ := c.Read(b)
	return string(b[:size])
}

const long, short = 20 * time.Second, 300 * time.Millisecond

func TestRootHostPorts(t *testing.T) {
	n := newNode(t, dual...)
	out := n.outside()
	one, two := n.container("one"), n.container("two")
	mapped := ports(
		portMapping{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"},
		portMapping{HostPort: 8053, ContainerPort: 80, Protocol: "UDP", HostIP: "0.0.0.0"},
		portMapping{HostPort: 8132, ContainerPort: 80, Protocol: "SCTP"},
		portMapping{HostPort: 9090, ContainerPort: 80, HostIP: "192.0.2.1"},
		portMapping{HostPort: 9091, ContainerPort: 80, HostIP: "192.0.2.77"},
		portMapping{HostPort: 9092, ContainerPort: 80, HostIP: "2001:db8::1"},
	)
	prev := map[string]any{"prevResult": asMap(t, n.add(one, mapped), n.version), "runtimeConfig": mapped["runtimeConfig"]}
	n.add(two, nil)
	serve(t, one.ns, 80, "one")
	serve(t, n.ns, 8081, "node")
	// Both ends must know the way back.
	for _, c := range []struct {
		from      *testkit.Netns
		proto, at string
		want      string
	}{
		{out, "tcp", "192.0.2.1:8080", "one"},
		{out, "tcp", "[2001:db8::1]:8080", "one"},
		{out, "udp", "192.0.2.1:8053", "one"},
		{out, "udp", "[2001:db8::1]:8053", ""}, // it is for IPv4
		{out, "udp", "192.0.2.1:8080", ""},
		{out, "tcp", "192.0.2.1:9090", "one"},
		{out, "tcp", "[2001:db8::1]:9090", ""},
		{out, "tcp", "192.0.2.1:9091", ""},
		{out, "tcp", "[2001:db8::1]:9092", "one"},
		{out, "tcp", "192.0.2.1:8081", "node"},
		{n.ns, "tcp", "192.0.2.1:8080", "one"},
		{n.ns, "tcp", "[2001:db8::1]:8080", "one"},
		{n.ns, "tcp", "127.0.0.1:8080", "one"},
		{n.ns, "udp", "127.0.0.1:8053", "one"},
		{n.ns, "tcp", "[::1]:8080", ""},
		{one.ns, "tcp", "192.0.2.1:8080", "one"}, // to itself
		{one.ns, "udp", "192.0.2.1:8053", "one"},
		{one.ns, "tcp", "[2001:db8::1]:8080", "one"},
		{two.ns, "tcp", "192.0.2.1:8080", "one"},
		{two.ns, "tcp", "[2001:db8::1]:8080", "one"},
	} {
		patience := long
		if c.want == "" {
			patience = short
		}
		if got := asks(t, c.from, c.proto, c.at, patience); got != c.want {
			t.Errorf("%s %s: %q answers, want %q", c.proto, c.at, got, c.want)
		}
	}
	n.must("CHECK", one, prev)
	rules := n.portRules()
	if want := 8 + 2; len(rules) != want || !slices.ContainsFunc(rules, func(s string) bool { return strings.HasSuffix(s, "shop/one") }) {
		t.Errorf("rules: %q, want %d", rules, want)
	}
	// Again changes nothing.
	n.add(one, mapped)
	if again := n.portRules(); len(again) != len(rules) {
		t.Errorf("rules: %q", again)
	}
	if err := n.ns.Do(func() error {
		c, err := nftables.New()
		if err == nil {
			c.DelTable(&nftables.Table{Name: portTable + network, Family: nftables.TableFamilyINet})
			err = c.Flush()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	n.fails(999, "CHECK", one, prev, "rules")
	n.must("DEL", two, nil)
	n.must("DEL", one, mapped)
	n.nothingLeft()
}

// portRules are the comments of all rules of containers.
func (n *node) portRules() (list []string) {
	n.t.Helper()
	err := n.ns.Do(func() error {
		t, err := openRuleset(network)
		if err != nil {
			return err
		}
		all, err := t.rules()
		for _, rules := range all {
			for _, r := range rules {
				list = append(list, string(r.UserData[2:len(r.UserData)-1]))
			}
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return list
}

// Who keeps sending by UDP to a port of the node reaches the pod that has it
// now, and a new owner goes before one that was forgotten.
func TestRootHostPortMoves(t *testing.T) {
	n := newNode(t, dual...)
	out := n.outside()
	mapped := ports(portMapping{HostPort: 8053, ContainerPort: 53, Protocol: "udp"})
	one, two, three := n.container("one"), n.container("two"), n.container("three")
	for i, at := range []string{"192.0.2.1:8053", "[2001:db8::1]:8053"} {
		if i == 0 {
			serve(t, one.ns, 53, "one")
			serve(t, two.ns, 53, "two")
			serve(t, three.ns, 53, "three")
		}
		n.add(one, mapped)
		c, err := dial(out, "udp", netip.MustParseAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		if got := askAgain(c, long); got != "one" {
			t.Fatalf("%q answers, not one", got)
		}
		n.must("DEL", one, mapped)
		n.add(two, mapped)
		if got := askAgain(c, long); got != "two" {
			t.Errorf("%q answers, not two", got)
		}
		n.add(three, mapped)
		if got := askAgain(c, long); got != "three" {
			t.Errorf("%q answers, not three", got)
		}
		_ = c.Close()
		n.must("DEL", three, mapped)
		n.must("DEL", two, mapped)
	}
	n.nothingLeft()
}

// Flows by UDP to the port of a pod that ends are forgotten where it was the
// node's or the pod's, and nobody else's: DNS goes on where a pod has port 53.
func TestForgottenFlows(t *testing.T) {
	addr := netip.MustParseAddr
	f := udpFlows{ports: map[uint16]bool{53: true}, pods: map[netip.Addr]bool{addr("10.0.0.1"): true}, node: map[netip.Addr]bool{addr("192.0.2.1"): true}}
	for _, test := range []struct {
		protocol    uint8
		to, answers string
		port        uint16
		want        bool
	}{
		{17, "192.0.2.1", "10.0.0.1", 53, true},
		{17, "192.0.2.1", "192.0.2.1", 53, true}, // nobody's yet
		{17, "198.51.100.9", "10.0.0.1", 9999, true},
		{17, "10.96.0.10", "10.0.7.7", 53, false},
		{17, "8.8.8.8", "8.8.8.8", 53, false},
		{17, "192.0.2.1", "192.0.2.1", 54, false},
		{6, "192.0.2.1", "10.0.0.1", 53, false},
	} {
		flow := &netlink.ConntrackFlow{
			Forward: netlink.IPTuple{Protocol: test.protocol, DstIP: addr(test.to).AsSlice(), DstPort: test.port},
			Reverse: netlink.IPTuple{Protocol: test.protocol, SrcIP: addr(test.answers).AsSlice()},
		}
		if got := f.MatchConntrackFlow(flow); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
}

// A pod does not reach the node's loopback, though its interface routes that for
// ports of the node.
func TestRootLoopbackIsGuarded(t *testing.T) {
	n := newNode(t, dual...)
	c := n.container("one")
	n.add(c, ports(portMapping{HostPort: 8080, ContainerPort: 80}))
	serve(t, n.ns, 7777, "node")
	if err := c.ns.Do(func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0); err != nil {
			return err
		}
		out, err := testCommand(t, "ip", "route", "add", "table", "local", "unicast", "127.0.0.9", "via", "169.254.1.1", "dev", "eth0", "src", "10.244.3.1").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := asks(t, c.ns, "tcp", "127.0.0.9:7777", short); got != "" {
		t.Errorf("the pod reaches the node's loopback: %q", got)
	}
	// It is the guard that keeps it out.
	if err := n.ns.Do(func() error {
		conn, err := nftables.New()
		if err == nil {
			conn.FlushChain(&nftables.Chain{Name: "guard", Table: &nftables.Table{Name: portTable + network, Family: nftables.TableFamilyINet}})
			err = conn.Flush()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if got := asks(t, c.ns, "tcp", "127.0.0.9:7777", long); got != "node" {
		t.Errorf("without the guard %q answers: this test proves nothing", got)
	}
}

// People can read the rules with nft.
func TestRootHostPortsAsText(t *testing.T) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("nft is not here")
	}
	n := newNode(t, "10.244.3.0/24")
	n.add(n.container("one"), ports(portMapping{HostPort: 8080, ContainerPort: 80}, portMapping{HostPort: 53, ContainerPort: 53, Protocol: "udp", HostIP: "192.0.2.1"}))
	var out []byte
	if err := n.ns.Do(func() (err error) {
		out, err = testCommand(t, nft, "list", "table", "inet", portTable+network).CombinedOutput()
		return err
	}); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		`tcp dport 8080 dnat ip to 10.244.3.1:80 comment "warren ` + key(api.Attachment{ContainerID: "one", Interface: "eth0"}) + ` shop/one"`,
		`ip daddr 192.0.2.1 udp dport 53 dnat ip to 10.244.3.1:53`,
		`fib daddr type local jump ports`,
		`iifname "wrn*" ip daddr 127.0.0.0/8 drop`,
		`ip saddr 10.244.3.1 ip daddr 10.244.3.1 masquerade`,
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
