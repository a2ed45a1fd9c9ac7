package cni

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"warren/api"
	"warren/internal/testkit"
)

func TestRootAddAndDelete(t *testing.T) {
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			n := newNode(t, dual...)
			n.version = version
			c := n.container("one")
			n.agent.onAdd = func(e api.Endpoint) {
				// Nothing passes before the agent has answered.
				if len(n.agent.added) > 0 {
					return
				}
				err := n.ns.Do(func() error {
					l, err := netlink.LinkByIndex(e.HostIndex)
					if err == nil && l.Attrs().Flags&net.FlagUp != 0 {
						err = errors.New("the host's end is up")
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
			r := n.add(c, nil)
			want := []netip.Addr{netip.MustParseAddr("10.244.3.1"), netip.MustParseAddr("fd00:244:3::1")}
			if diff := cmp.Diff(want, addrs(r), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
			if len(r.Interfaces) != 2 || r.Interfaces[1].Name != "eth0" || r.Interfaces[1].Sandbox != c.netns || *r.IPs[0].Interface != 1 {
				t.Errorf("result: %+v", r)
			}
			e := n.agent.added[0]
			if e.PodNamespace != "shop" || e.PodName != "one" || e.PodUID != "uid-one" || e.MAC.String() != r.Interfaces[1].Mac || e.HostMAC.String() != r.Interfaces[0].Mac || e.HostInterface != r.Interfaces[0].Name {
				t.Errorf("the agent was told %+v", e)
			}
			prev := map[string]any{"prevResult": asMap(t, r, version)}
			if version >= "0.4.0" {
				n.must("CHECK", c, prev)
			} else {
				n.fails(1, "CHECK", c, prev)
				prev = nil
			}
			// Again is the same.
			if again := n.add(c, nil); !cmp.Equal(addrs(again), want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
				t.Errorf("ADD again gives %v", addrs(again))
			}
			n.must("DEL", c, prev)
			n.nothingLeft()
			n.must("DEL", c, prev)
			c.netns = ""
			n.must("DEL", c, nil)
			n.nothingLeft()
		})
	}
}

// dials connects two namespaces by TCP and UDP: what arrives is who asked.
func dials(t *testing.T, from, to *testkit.Netns, at netip.AddrPort) netip.Addr {
	t.Helper()
	var l net.Listener
	if err := to.Do(func() (err error) { l, err = net.Listen("tcp", at.String()); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	who := make(chan netip.Addr, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			who <- netip.Addr{}
			return
		}
		who <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		_ = c.Close()
	}()
	c, err := dial(from, "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return <-who
}

func dial(from *testkit.Netns, proto string, at netip.AddrPort) (c net.Conn, err error) {
	err = from.Do(func() (err error) { c, err = net.DialTimeout(proto, at.String(), 20*time.Second); return err })
	return c, err
}

// Two pods of a node reach each other, and the node them, by the node's routes.
func TestRootTwoPods(t *testing.T) {
	n := newNode(t, dual...)
	one, two := n.container("one"), n.container("two")
	of1, of2 := addrs(n.add(one, nil)), addrs(n.add(two, nil))
	for i := range of1 {
		if who := dials(t, one.ns, two.ns, netip.AddrPortFrom(of2[i], 8080)); who != of1[i] {
			t.Errorf("%s meets %s", of2[i], who)
		}
		if who := dials(t, two.ns, one.ns, netip.AddrPortFrom(of1[i], 8080)); who != of2[i] {
			t.Errorf("%s meets %s", of1[i], who)
		}
		ping(t, one.ns, of2[i])
	}
	// The node needs an address of its own for that.
	if err := n.ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
			if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.MustParseAddr(a))}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, a := range of1 {
		dials(t, n.ns, one.ns, netip.AddrPortFrom(a, 9090))
	}
	n.must("DEL", one, nil)
	n.must("DEL", two, nil)
	n.nothingLeft()
}

// ping sends an echo request and waits for the answer.
func ping(t *testing.T, from *testkit.Netns, to netip.Addr) {
	t.Helper()
	proto, request, reply := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		proto, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	var c net.Conn
	if err := from.Do(func() (err error) { c, err = net.Dial(proto, to.String()); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	message := []byte{request, 0, 0, 0, 0, 7, 0, 1}
	if to.Is4() {
		message[2], message[3] = 0xf7, 0xf7 // its checksum; the kernel makes that of IPv6
	}
	if _, err := c.Write(message); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 1500); ; {
		size, err := c.Read(b)
		if err != nil {
			t.Fatalf("ping %s: %v", to, err)
		}
		answer := b[:size]
		if to.Is4() && size > 20 {
			answer = b[20:size] // behind the header of IPv4
		}
		if len(answer) >= 8 && answer[0] == reply && answer[5] == 7 {
			return
		}
	}
}

func TestRootAgentAway(t *testing.T) {
	n := newNode(t, dual...)
	c := n.container("one")
	n.agent.refuseWith(api.Unavailable("the pod is not known yet"))
	n.fails(11, "ADD", c, nil, "not known yet")
	n.nothingLeft()
	n.fails(50, "STATUS", nil, nil, "not known yet")
	n.agent.refuseWith(api.BadRequest("no"))
	n.fails(999, "ADD", c, nil, "no")
	n.nothingLeft()
	n.fails(51, "STATUS", nil, nil)
	n.agent.refuseWith(errors.New("broken"))
	n.fails(999, "ADD", c, nil, "broken")
	n.agent.refuseWith(nil)
	n.must("STATUS", nil, nil)
	first := addrs(n.add(c, nil))
	two := n.container("two")
	prev := map[string]any{"prevResult": asMap(t, n.add(two, nil), n.version)}
	n.agent.stop()
	n.fails(11, "ADD", n.container("three"), nil, "agent is away", n.socket)
	n.fails(11, "CHECK", two, prev, "agent is away")
	n.fails(50, "STATUS", nil, nil, "agent is away")
	n.must("STATUS", nil, map[string]any{"statusGrace": 3600})
	n.must("DEL", c, nil)
	if l := n.left(); len(l.Records) != 1 || len(l.Links) != 1 {
		t.Errorf("left: %+v", l)
	}
	n.must("DEL", two, nil)
	// What was released lately is not given again at once.
	n.agent = startAgent(t, n.socket)
	if next := addrs(n.add(c, nil)); slices.Contains(next, first[0]) || slices.Contains(next, first[1]) {
		t.Errorf("%v is given again at once", next)
	}
	if err := RemoveNode(n.dir); err != nil {
		t.Fatal(err)
	}
	n.fails(11, "ADD", n.container("four"), nil, nodeFile)
	n.fails(50, "STATUS", nil, nil, nodeFile)
	n.must("DEL", c, nil)
	n.nothingLeft()
}

func TestRootStatusAfterGrace(t *testing.T) {
	n := newNode(t, dual...)
	n.agent.stop()
	grace := map[string]any{"statusGrace": 60}
	n.must("STATUS", nil, grace)
	long := time.Now().Add(-2 * time.Minute)
	if err := os.Chtimes(filepath.Join(n.dir, awayFile), long, long); err != nil {
		t.Fatal(err)
	}
	n.fails(50, "STATUS", nil, grace, "away")
	n.agent = startAgent(t, n.socket)
	n.must("STATUS", nil, grace)
	n.agent.stop()
	n.must("STATUS", nil, grace)
	// An agent that was there before the node was started anew is none.
	b, err := os.ReadFile(filepath.Join(n.dir, nodeFile))
	if err != nil {
		t.Fatal(err)
	}
	b = []byte(string(b[:len(b)-2]))
	if err := os.WriteFile(filepath.Join(n.dir, nodeFile), append(b, []byte(`,"boot":"another"}`)...), 0o600); err != nil {
		t.Fatal(err)
	}
	n.fails(50, "STATUS", nil, grace, "since the node did")
}

func TestRootExhausted(t *testing.T) {
	n := newNode(t, "10.1.1.0/30")
	one, two, three := n.container("one"), n.container("two"), n.container("three")
	n.add(one, nil)
	second := addrs(n.add(two, nil))
	n.fails(11, "ADD", three, nil, "in use")
	n.fails(50, "STATUS", nil, nil, "in use")
	n.must("DEL", two, nil)
	n.must("STATUS", nil, nil)
	// Released lately, and the only one.
	if got := addrs(n.add(three, nil)); !slices.Equal(got, second) {
		t.Errorf("got %v, want %v", got, second)
	}
}

func TestRootCheck(t *testing.T) {
	n := newNode(t, dual...)
	c := n.container("one")
	ports := map[string]any{"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}
	n.extra = map[string]any{"runtimeConfig": ports}
	setUp := func() map[string]any {
		n.must("DEL", c, nil)
		return map[string]any{"prevResult": asMap(t, n.add(c, nil), n.version)}
	}
	prev := setUp()
	n.must("CHECK", c, prev)
	n.fails(7, "CHECK", c, nil, "prevResult")
	ip := func(ns *testkit.Netns, args ...string) func() {
		return func() {
			if err := ns.Do(testCommand(t, "ip", args...).Run); err != nil {
				t.Fatalf("ip %v: %v", args, err)
			}
		}
	}
	host := hostName(network, api.Attachment{ContainerID: "one", Interface: "eth0"})
	for name, breaks := range map[string]func(){
		"address":   ip(c.ns, "-6", "address", "flush", "dev", "eth0", "scope", "global"),
		"route":     ip(c.ns, "-4", "route", "del", "default"),
		"down":      ip(c.ns, "link", "set", "eth0", "down"),
		"neighbour": ip(c.ns, "neigh", "del", "169.254.1.1", "dev", "eth0"),
		"host down": ip(n.ns, "link", "set", host, "down"),
		"no link":   ip(n.ns, "link", "del", host),
		"renamed": func() {
			ip(c.ns, "link", "set", "eth0", "down")() // Linux 6.1 renames none that is up
			ip(c.ns, "link", "set", "eth0", "name", "eth7")()
			ip(c.ns, "link", "set", "eth7", "up")()
		},
		"rules": func() {
			if err := n.ns.Do(func() error { return dropRules(&state{n.dir}, network, func(string) bool { return true }) }); err != nil {
				t.Fatal(err)
			}
		},
		"agent":            func() { _ = n.agent.DeleteEndpoint(t.Context(), api.Attachment{ContainerID: "one", Interface: "eth0"}) },
		"addresses differ": func() { prev["prevResult"].(map[string]any)["ips"] = []any{} },
	} {
		t.Run(name, func(t *testing.T) {
			prev = setUp()
			n.must("CHECK", c, prev)
			breaks()
			if _, e := n.call("CHECK", c, prev); e == nil {
				t.Error("CHECK succeeds")
			}
		})
	}
	n.must("DEL", c, nil)
	n.fails(3, "CHECK", c, prev)
	n.nothingLeft()
}

func TestRootCollect(t *testing.T) {
	n := newNode(t, dual...)
	n.extra = map[string]any{"runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}}}}
	var all []*container
	for i := range 4 {
		c := n.container(fmt.Sprintf("c%d", i))
		all = append(all, c)
		n.add(c, nil)
	}
	// One lost its record, one has a record that nobody can read, one is stale.
	s := &state{n.dir}
	at := func(c *container) string { return s.path(api.Attachment{ContainerID: c.id, Interface: c.ifname}) }
	if err := os.Remove(at(all[0])); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at(all[1]), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.fails(999, "ADD", n.container("new"), nil, "GC")
	n.fails(7, "GC", nil, nil, "valid-attachments")
	valid := []any{map[string]any{"containerID": "c3", "ifname": "eth0"}, map[string]any{"containerID": "unknown", "ifname": "eth0"}}
	n.must("GC", nil, map[string]any{"cni.dev/valid-attachments": valid})
	// The agent is told of what there is a record of.
	n.agent.mu.Lock()
	for _, c := range all[:2] {
		delete(n.agent.has, api.Attachment{ContainerID: c.id, Interface: c.ifname})
	}
	n.agent.mu.Unlock()
	l := n.left()
	if want := []string{"c3/eth0"}; !cmp.Equal(l.Records, want) || !cmp.Equal(l.Endpoints, want) || len(l.Links) != 1 || len(l.Rules) != 1 {
		t.Errorf("left: %+v", l)
	}
	n.add(n.container("new"), nil)
	n.must("GC", nil, map[string]any{"cni.dev/valid-attachments": nil})
	n.nothingLeft()
}

// Containers whose runtime has forgotten them, and never collects, hold no
// address for ever: theirs are given where no other is left. Who only lost their
// interface, or has it and no namespace by that path, still has theirs.
func TestRootReclaim(t *testing.T) {
	n := newNode(t, "10.1.1.0/29")
	n.extra = ports(portMapping{HostPort: 8080, ContainerPort: 80})
	path := func(c *container) string { return filepath.Join(t.TempDir(), c.id) }
	var all []*container
	for i := range 6 {
		c := n.container(fmt.Sprintf("c%d", i))
		at := path(c)
		if err := os.Symlink(c.netns, at); err != nil {
			t.Fatal(err)
		}
		c.netns = at
		all = append(all, c)
		n.add(c, nil)
	}
	link := func(c *container) string {
		return hostName(network, api.Attachment{ContainerID: c.id, Interface: c.ifname})
	}
	remove := func(c *container, netns, interf bool) {
		if netns {
			if err := os.Remove(c.netns); err != nil {
				t.Fatal(err)
			}
		}
		if interf {
			if err := n.ns.Do(testCommand(t, "ip", "link", "del", link(c)).Run); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove(all[0], true, false)
	remove(all[1], false, true)
	next := n.container("next")
	n.fails(11, "ADD", next, nil, "in use")
	n.fails(50, "STATUS", nil, nil, "in use")
	remove(all[2], true, true)
	n.must("STATUS", nil, nil)
	if got := addrs(n.add(next, nil)); len(got) != 1 || got[0] != netip.MustParseAddr("10.1.1.3") {
		t.Errorf("got %v, want that of the third", got)
	}
	if l := n.left(); len(l.Records) != 6 || len(l.Rules) != 6 {
		t.Errorf("left: %+v", l)
	}
	n.fails(11, "ADD", n.container("more"), nil, "in use")
}

// What ADD refuses DEL takes away all the same, whatever the configuration says
// beside where things are.
func TestRootDeleteRefused(t *testing.T) {
	n := newNode(t, dual...)
	c := n.container("one")
	n.add(c, nil)
	for name, with := range map[string]map[string]any{
		"ports":       {"runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": 80, "containerPort": 80, "hostIP": "224.0.0.1"}}}},
		"prevResult":  {"prevResult": map[string]any{"cniVersion": "1.1.0", "ips": "x"}},
		"another one": {"prevResult": map[string]any{"cniVersion": "7.0.0"}},
		"mtu":         {"mtu": "x"},
	} {
		if _, e := n.call("ADD", c, with); e == nil {
			t.Errorf("%s: ADD succeeds", name)
		}
		n.must("DEL", c, with)
		n.nothingLeft()
		n.add(c, nil)
		with = maps.Clone(with)
		with["cni.dev/valid-attachments"] = []any{}
		n.must("GC", nil, with)
		n.nothingLeft()
		n.add(c, nil)
	}
	n.fails(7, "DEL", c, map[string]any{"name": "../x"})
}

// A pod whose record was lost, or whose node has got another network, has its
// new addresses after another ADD, and no old ones.
func TestRootAddedAnew(t *testing.T) {
	n := newNode(t, "10.1.1.0/24")
	c := n.container("one")
	for name, change := range map[string]func(){
		"the record is lost": func() {
			if err := os.RemoveAll(filepath.Join(n.dir, attachmentsDir)); err != nil {
				t.Fatal(err)
			}
		},
		"another network": func() { n.write("10.2.2.0/24") },
	} {
		n.write("10.1.1.0/24")
		before := addrs(n.add(c, nil))
		if again := addrs(n.add(c, nil)); !slices.Equal(before, again) {
			t.Errorf("%s: %v, and then %v", name, before, again)
		}
		change()
		want := addrs(n.add(c, nil))
		var has []netip.Addr
		if err := c.ns.Do(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			list, err := netlink.AddrList(l, netlink.FAMILY_V4)
			for _, a := range list {
				has = append(has, addrOf(a.IP))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(has, want) || slices.Equal(want, before) {
			t.Errorf("%s: the pod has %v, was told %v, had %v", name, has, want, before)
		}
		n.must("DEL", c, nil)
	}
	n.nothingLeft()
}

// Records are lost, the pods are not: their addresses are not given to others.
func TestRootStateLost(t *testing.T) {
	n := newNode(t, dual...)
	has := map[netip.Addr]bool{}
	for i := range 3 {
		for _, a := range addrs(n.add(n.container(fmt.Sprintf("c%d", i)), nil)) {
			has[a] = true
		}
	}
	if err := os.RemoveAll(n.dir); err != nil {
		t.Fatal(err)
	}
	n.write(dual...)
	for _, a := range addrs(n.add(n.container("new"), nil)) {
		if has[a] {
			t.Errorf("%s is given twice", a)
		}
	}
	if err := n.ns.Do(func() error { return Purge(network, n.dir) }); err != nil {
		t.Fatal(err)
	}
	for _, e := range n.agent.added {
		_ = n.agent.DeleteEndpoint(t.Context(), e.Attachment)
	}
	if _, err := os.Stat(n.dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("the state directory is still there")
	}
	n.nothingLeft()
}

// What is asked wrongly is answered with the specification's code, and nothing
// is made.
func TestRootWrong(t *testing.T) {
	n := newNode(t, dual...)
	good := n.container("one")
	with := func(change func(*container)) *container {
		c := *good
		change(&c)
		return &c
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]struct {
		code uint
		c    *container
		with map[string]any
	}{
		"version":        {1, good, map[string]any{"cniVersion": "9.9.9"}},
		"no version":     {1, good, map[string]any{"cniVersion": ""}},
		"version text":   {1, good, map[string]any{"cniVersion": "x"}},
		"version number": {6, good, map[string]any{"cniVersion": 1}},
		"no name":        {7, good, map[string]any{"name": ""}},
		"name":           {7, good, map[string]any{"name": "../x"}},
		"mtu":            {7, good, map[string]any{"mtu": 5}},
		"mtu of IPv6":    {7, good, map[string]any{"mtu": 1000}},
		"mtu text":       {6, good, map[string]any{"mtu": "x"}},
		"relative":       {7, good, map[string]any{"stateDir": "x"}},
		"port":           {7, good, map[string]any{"runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": 0, "containerPort": 1}}}}},
		"protocol":       {7, good, map[string]any{"runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}}}}},
		"chain":          {7, good, map[string]any{"prevResult": map[string]any{"cniVersion": "1.1.0"}}},
		"prevResult":     {6, good, map[string]any{"prevResult": map[string]any{"cniVersion": "1.1.0", "ips": "x"}}},
		"args":           {4, with(func(c *container) { c.args = "x" }), nil},
		"unknown arg":    {4, with(func(c *container) { c.args = "FOO=1" }), nil},
		"pod":            {4, with(func(c *container) { c.args = "K8S_POD_NAME=../x;K8S_POD_NAMESPACE=a" }), nil},
		"id":             {4, with(func(c *container) { c.id = "a/b" }), nil},
		"no id":          {4, with(func(c *container) { c.id = "" }), nil},
		"ifname":         {4, with(func(c *container) { c.ifname = "a/b" }), nil},
		"long ifname":    {4, with(func(c *container) { c.ifname = "0123456789abcdef" }), nil},
		"taken":          {4, with(func(c *container) { c.ifname = "lo" }), nil},
		"no netns":       {4, with(func(c *container) { c.netns = "" }), nil},
		"gone":           {3, with(func(c *container) { c.netns = "/run/netns/there-is-none" }), nil},
		"a file":         {8, with(func(c *container) { c.netns = file }), nil},
		"other kind":     {8, with(func(c *container) { c.netns = "/proc/self/ns/mnt" }), nil},
		"own":            {8, with(func(c *container) { c.netns = "/proc/self/ns/net" }), nil},
	} {
		t.Run(name, func(t *testing.T) {
			b, e := n.call("ADD", f.c, f.with)
			n.failed(f.code, "ADD", b, e)
			n.nothingLeft()
		})
	}
	for _, text := range []string{"", "{", "[]", "null", `{"name":5}`} {
		b, e := n.run(n.command("ADD", good, []byte(text)))
		n.failed(map[bool]uint{true: 7, false: 6}[text == "null"], "ADD "+text, b, e)
	}
	b, e := n.run(n.command("DANCE", good, n.config(nil)))
	n.failed(4, "DANCE", b, e)
	if b, e := n.call("VERSION", nil, nil); e != nil || !slices.Contains(slices.Collect(jsonStrings(b)), "1.1.0") {
		t.Errorf("VERSION: %v %s", e, b)
	}
	// A container's end with the right name that another made stays.
	if err := good.ns.Do(testCommand(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "x").Run); err != nil {
		t.Fatal(err)
	}
	n.fails(4, "ADD", good, nil, "did not make it")
	n.must("DEL", good, nil)
	if err := good.ns.Do(func() error { _, err := netlink.LinkByName("eth0"); return err }); err != nil {
		t.Error(err)
	}
	n.nothingLeft()
}

// What the node becomes for the first pod, and what it does not.
func TestRootSysctls(t *testing.T) {
	for _, cidrs := range [][]string{{"10.1.0.0/24"}, {"fd01::/64"}, dual} {
		t.Run(fmt.Sprint(cidrs), func(t *testing.T) {
			n := newNode(t, cidrs...)
			c := n.container("one")
			r := n.add(c, nil)
			if len(r.IPs) != len(cidrs) {
				t.Errorf("%v", r.IPs)
			}
			host := r.Interfaces[0].Name
			want := map[string]string{
				"ipv4/ip_forward": "1", "ipv4/conf/" + host + "/route_localnet": "0", "ipv4/conf/" + host + "/send_redirects": "0", "ipv4/conf/" + host + "/proxy_arp": "1",
				"ipv6/conf/" + host + "/accept_ra": "0", "ipv6/conf/lo/accept_ra": "1",
			}
			if six := len(cidrs) == 2 || cidrs[0] == "fd01::/64"; six {
				want["ipv6/conf/all/forwarding"], want["ipv6/conf/"+host+"/disable_ipv6"], want["ipv6/conf/lo/accept_ra"] = "1", "0", "2"
			} else {
				want["ipv6/conf/all/forwarding"], want["ipv6/conf/"+host+"/disable_ipv6"] = "0", "1"
			}
			for name, value := range want {
				var b []byte
				if err := n.ns.Do(func() (err error) { b, err = os.ReadFile("/proc/sys/net/" + name); return err }); err != nil {
					t.Error(err)
				} else if string(b) != value+"\n" {
					t.Errorf("%s is %s, want %s", name, b, value)
				}
			}
			n.must("CHECK", c, map[string]any{"prevResult": asMap(t, r, n.version)})
			n.must("DEL", c, nil)
			n.nothingLeft()
		})
	}
}
