package datapath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/cluster"
	"warren/internal/testkit"
	"warren/netpol"
)

// A rig is a cluster of one or two nodes in network namespaces, with pods that
// answer, and a datapath for each node.
type rig struct {
	t        testing.TB
	cfg      Config
	nodes    []*rigNode
	pods     []*rigPod
	compiler *netpol.Compiler
	policies []*cluster.Policy
	labels   map[string]map[string]string // of namespaces
	audit    bool
	programs map[*rigNode]*netpol.Program // in force
}

type rigNode struct {
	*cluster.Node
	ns      *testkit.Netns
	host    *Host
	devices HostDevices
	dp      *Datapath
	cfg     Config
}

type rigPod struct {
	*cluster.Pod
	on           *rigNode
	ns           *testkit.Netns
	ifindex      int // of the host's end
	mac, hostMAC [6]byte
}

// ports are those that pods serve, by TCP and UDP.
var rigPorts = []uint16{80, 443, 8080}

// newRig makes nodes with pods each.
func newRig(t testing.TB, cfg Config, nodes, pods int) *rig {
	t.Helper()
	needBPF(t)
	r := &rig{t: t, cfg: cfg, compiler: netpol.NewCompiler(), programs: make(map[*rigNode]*netpol.Program),
		labels: map[string]map[string]string{"shop": {"team": "shop"}, "lab": {"team": "lab"}}}
	for i := range nodes {
		r.addNode(i)
	}
	if nodes == 2 {
		r.connectNodes()
	}
	for _, n := range r.nodes {
		for range pods {
			r.addPod(n)
		}
	}
	for _, n := range r.nodes {
		r.open(n)
	}
	return r
}

// in runs f in a namespace.
func (r *rig) in(ns *testkit.Netns, f func() error) {
	r.t.Helper()
	if err := ns.Do(f); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) addNode(i int) {
	name := fmt.Sprintf("node%d", i+1)
	n := &rigNode{ns: testkit.NewNetns(r.t), cfg: r.cfg, Node: &cluster.Node{
		UID: name, Name: name,
		Addrs:    []netip.Addr{netip.MustParseAddr(fmt.Sprintf("172.30.0.%d", 11+i)), netip.MustParseAddr(fmt.Sprintf("fd00:30::%d", 11+i))},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.240.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:240:0:%d::/64", i))},
	}}
	n.cfg.Instance = fmt.Sprintf("%s-%s", r.cfg.instance(), name)
	r.in(n.ns, func() error { return quietIPv6("all", "default") })
	r.nodes = append(r.nodes, n)
}

// quietIPv6 has addresses be there at once.
func quietIPv6(names ...string) error {
	for _, name := range names {
		for _, key := range []string{"accept_dad", "dad_transmits"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/"+key, []byte("0"), 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// connectNodes is the wire between two nodes.
func (r *rig) connectNodes() {
	a, b := r.nodes[0], r.nodes[1]
	r.in(a.ns, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"},
			PeerName: "eth0", PeerNamespace: netlink.NsFd(b.ns.FD())})
	})
	for _, n := range r.nodes {
		r.in(n.ns, func() error {
			dev, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return errors.Join(
				netlink.LinkSetUp(dev),
				netlink.AddrAdd(dev, rigAddr(netip.PrefixFrom(n.Addrs[0], 24))),
				netlink.AddrAdd(dev, rigAddr(netip.PrefixFrom(n.Addrs[1], 64))))
		})
	}
}

func rigAddr(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: rigNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func rigNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// addPod adds a pod to a node: the first, third, ... in namespace shop.
func (r *rig) addPod(n *rigNode) *rigPod {
	r.t.Helper()
	i := len(r.pods)
	p := &rigPod{on: n, ns: testkit.NewNetns(r.t), Pod: &cluster.Pod{
		UID: fmt.Sprintf("uid-%d", i), Name: fmt.Sprintf("pod%d", i), Namespace: []string{"shop", "lab"}[i%2], Node: n.Name,
		Labels: map[string]string{"app": fmt.Sprintf("app%d", i%4)},
		Ports:  []cluster.PodPort{{Name: "web", Protocol: "tcp", Port: 8080}},
		Phase:  "Running", Started: time.Unix(int64(1000+i), 0), Created: time.Unix(int64(1000+i), 0),
	}}
	for _, cidr := range n.PodCIDRs {
		a := cidr.Addr().AsSlice()
		a[len(a)-1] = byte(10 + i)
		addr, _ := netip.AddrFromSlice(a)
		p.Addrs = append(p.Addrs, addr)
	}
	host := fmt.Sprintf("veth%d", i)
	r.in(p.ns, func() error { return quietIPv6("all", "default") })
	r.in(n.ns, func() error {
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: host, MTU: 1450},
			PeerName: "eth0", PeerNamespace: netlink.NsFd(p.ns.FD())})
		if err != nil {
			return err
		}
		dev, err := netlink.LinkByName(host)
		if err != nil {
			return err
		}
		p.ifindex = dev.Attrs().Index
		copy(p.hostMAC[:], dev.Attrs().HardwareAddr)
		return netlink.LinkSetUp(dev)
	})
	gateways := []netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")}
	r.in(p.ns, func() error {
		dev, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		copy(p.mac[:], dev.Attrs().HardwareAddr)
		if err := netlink.LinkSetUp(dev); err != nil {
			return err
		}
		for i, a := range p.Addrs {
			err := errors.Join(
				netlink.AddrAdd(dev, rigAddr(netip.PrefixFrom(a, a.BitLen()))),
				rigNeighbour(dev, gateways[i], p.hostMAC),
				netlink.RouteAdd(&netlink.Route{LinkIndex: dev.Attrs().Index, Gw: gateways[i].AsSlice(), Flags: int(netlink.FLAG_ONLINK)}))
			if err != nil {
				return err
			}
		}
		return nil
	})
	r.in(n.ns, func() error {
		dev, err := netlink.LinkByIndex(p.ifindex)
		if err != nil {
			return err
		}
		for _, a := range p.Addrs {
			err := errors.Join(
				netlink.RouteAdd(&netlink.Route{LinkIndex: p.ifindex, Dst: rigNet(netip.PrefixFrom(a, a.BitLen())), Scope: netlink.SCOPE_LINK}),
				rigNeighbour(dev, a, p.mac))
			if err != nil {
				return err
			}
		}
		return nil
	})
	r.pods = append(r.pods, p)
	r.serve(p)
	return p
}

func rigNeighbour(dev netlink.Link, a netip.Addr, mac [6]byte) error {
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: dev.Attrs().Index, IP: a.AsSlice(),
		HardwareAddr: mac[:], State: netlink.NUD_PERMANENT})
}

// serve answers on all ports of a pod: with its name.
func (r *rig) serve(p *rigPod) {
	for _, port := range rigPorts {
		r.in(p.ns, func() error {
			var lc net.ListenConfig
			lc.SetMultipathTCP(false)
			l, err := lc.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
			if err != nil {
				return err
			}
			r.t.Cleanup(func() { l.Close() })
			go serveTCP(l, p.Name)
			u, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
			if err != nil {
				return err
			}
			r.t.Cleanup(func() { u.Close() })
			go serveUDP(u, p.Name)
			return nil
		})
	}
}

// serveTCP says its name, then repeats what it is told.
func serveTCP(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := fmt.Fprintln(c, name); err != nil {
				return
			}
			_, _ = io.Copy(c, c) // until the client has had enough
		}()
	}
}

func serveUDP(u *net.UDPConn, name string) {
	buf := make([]byte, 2048)
	for {
		_, from, err := u.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		_, _ = u.WriteToUDPAddrPort([]byte(name), from) // nobody may wait for it
	}
}

// open makes a node's network and opens its datapath.
func (r *rig) open(n *rigNode) {
	r.t.Helper()
	if len(r.nodes) == 2 && r.cfg.Mode != Chained {
		var err error
		if n.host, err = NewHost(HostConfig{Instance: n.cfg.Instance, State: r.t.TempDir()}, testLog(r.t)); err != nil {
			r.t.Fatal(err)
		}
		r.in(n.ns, func() (err error) {
			n.devices, err = n.host.Reconcile(r.hostState(n))
			return err
		})
	} else {
		r.in(n.ns, func() error {
			return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
				os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
		})
	}
	n.dp = r.openDatapath(n)
}

func (r *rig) openDatapath(n *rigNode) *Datapath {
	r.t.Helper()
	var dp *Datapath
	r.in(n.ns, func() (err error) {
		dp, err = Open(n.cfg, slog.New(slog.DiscardHandler))
		return err
	})
	r.t.Cleanup(func() {
		if err := dp.Close(); err != nil {
			r.t.Error(err)
		}
	})
	for part, index := range map[HostPart]int{Uplink: n.devices.Uplink, Tunnel: n.devices.Tunnel} {
		if index == 0 {
			continue
		}
		if err := dp.AttachHost(index, part); err != nil {
			r.t.Fatal(err)
		}
	}
	return dp
}

func (r *rig) hostState(n *rigNode) HostState {
	s := HostState{Mode: r.cfg.Mode}
	for _, other := range r.nodes {
		h := Node{Name: other.Name, Addrs: other.Addrs, PodCIDRs: other.PodCIDRs}
		if other == n {
			s.Self = h
		} else {
			s.Others = append(s.Others, h)
		}
	}
	return s
}

// world is what policies are about.
func (r *rig) world() *netpol.World {
	w := &netpol.World{Namespaces: r.labels, Policies: r.policies}
	for _, n := range r.nodes {
		w.Nodes = append(w.Nodes, n.Node)
	}
	for _, p := range r.pods {
		w.Pods = append(w.Pods, p.Pod)
	}
	return w
}

// state is what a node's datapath should do with a program.
func (r *rig) state(n *rigNode, program *netpol.Program) *State {
	s := &State{Policy: program, Places: make(map[netip.Addr]Place), Routes: make(map[netip.Prefix]netip.Addr),
		Node4: n.Addrs[0], Node6: n.Addrs[1], MTU: n.devices.MTU}
	for _, other := range r.nodes {
		kind, via := NodePlace, other.Addrs[0]
		if other == n {
			kind, via = HostPlace, netip.Addr{}
		}
		for _, a := range other.Addrs {
			s.Places[a] = Place{Kind: kind, Node: via}
		}
		for _, cidr := range other.PodCIDRs {
			s.Places[NodeAddr(cidr)] = Place{Kind: kind, Node: via}
			if other != n {
				s.Routes[cidr] = via
			}
		}
	}
	for _, p := range r.pods {
		via := p.on.Addrs[0]
		if p.on == n {
			via = netip.Addr{}
			s.Endpoints = append(s.Endpoints, Endpoint{Name: p.Namespace + "/" + p.Name, PodUID: p.UID, Ifindex: p.ifindex,
				Addrs: p.Addrs, MAC: p.mac, HostMAC: p.hostMAC, Audit: r.audit, Chained: r.cfg.Mode == Chained})
		}
		for _, a := range p.Addrs {
			s.Places[a] = Place{Kind: PodPlace, Node: via}
		}
	}
	return s
}

// apply puts policies in force on all nodes.
func (r *rig) apply(policies ...*cluster.Policy) {
	r.t.Helper()
	r.policies = policies
	program, err := r.compiler.Compile(r.world(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, n := range r.nodes {
		report, err := n.dp.Apply(r.t.Context(), r.state(n, program))
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range report.Endpoints {
			if e.Err != nil || e.Hook == "" {
				r.t.Fatalf("%s: %s, hook %q, %v", n.Name, e.Name, e.Hook, e.Err)
			}
		}
		r.programs[n] = program
	}
}

// dial connects a pod with an address.
func (p *rigPod) dial(ctx context.Context, to netip.AddrPort) (c net.Conn, err error) {
	err = p.ns.Do(func() error {
		var d net.Dialer
		d.SetMultipathTCP(false)
		c, err = d.DialContext(ctx, "tcp", to.String())
		return err
	})
	return c, err
}

// ask asks a pod by TCP who it is.
func (p *rigPod) ask(ctx context.Context, to netip.AddrPort) (string, error) {
	c, err := p.dial(ctx, to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	return readLine(c)
}

func readLine(c io.Reader) (string, error) {
	var line strings.Builder
	var b [1]byte
	for {
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return line.String(), nil
		}
		line.WriteByte(b[0])
	}
}

// askUDP asks until there is an answer, always from one port.
func (p *rigPod) askUDP(ctx context.Context, to netip.AddrPort) (string, error) {
	var u *net.UDPConn
	err := p.ns.Do(func() (err error) {
		u, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		return err
	})
	if err != nil {
		return "", err
	}
	defer u.Close()
	buf := make([]byte, 100)
	for ctx.Err() == nil {
		if _, err := u.Write([]byte("?")); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return "", err
		}
		if err := u.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return "", err
		}
		if n, err := u.Read(buf); err == nil {
			return string(buf[:n]), nil
		}
	}
	return "", ctx.Err()
}

// A cell is one entry of the table of who reaches whom.
type cell struct {
	from, to *rigPod
	proto    uint8
	addr     netip.AddrPort
}

func (c cell) String() string {
	return fmt.Sprintf("%s/%s -> %s/%s %v proto %d", c.from.Namespace, c.from.Name, c.to.Namespace, c.to.Name, c.addr, c.proto)
}

func (c cell) packet() netpol.Packet {
	src := c.from.Addrs[0]
	if c.addr.Addr().Is6() {
		src = c.from.Addrs[1]
	}
	return netpol.Packet{Src: src, Dst: c.addr.Addr(), Protocol: c.proto, Port: c.addr.Port()}
}

// cells are all pairs of different pods, with all protocols and ports.
func (r *rig) cells() (all []cell) {
	for _, from := range r.pods {
		for _, to := range r.pods {
			if from == to {
				continue
			}
			for _, a := range to.Addrs {
				for _, port := range rigPorts {
					for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
						all = append(all, cell{from, to, proto, netip.AddrPortFrom(a, port)})
					}
				}
			}
		}
	}
	return all
}

// checkTable tries every cell and holds it against what the policies mean.
func (r *rig) checkTable() {
	r.t.Helper()
	world := r.world()
	var wg sync.WaitGroup
	tokens := make(chan struct{}, 16)
	allowed, denied := 0, 0
	for _, c := range r.cells() {
		egress, ingress := netpol.Evaluate(c.packet(), world)
		want := egress.Verdict != netpol.Deny && ingress.Verdict != netpol.Deny
		if want {
			allowed++
		} else {
			denied++
		}
		wg.Go(func() {
			tokens <- struct{}{}
			defer func() { <-tokens }()
			r.checkCell(c, want, egress, ingress)
		})
	}
	wg.Wait()
	r.t.Logf("%d cells allowed, %d denied", allowed, denied)
}

// checkCell tries a cell. What is denied is known when the kernel says so.
func (r *rig) checkCell(c cell, want bool, egress, ingress netpol.Judgement) {
	ctx, cancel := context.WithTimeout(r.t.Context(), testkit.Patience)
	defer cancel()
	answer := make(chan string, 1)
	go func() {
		ask := c.from.ask
		if c.proto == unix.IPPROTO_UDP {
			ask = c.from.askUDP
		}
		said, err := ask(ctx, c.addr)
		if err != nil {
			said = "error: " + err.Error()
		}
		answer <- said
	}()
	if want {
		if said := <-answer; said != c.to.Name {
			r.t.Errorf("%v: allowed, but: %s", c, said)
		}
		return
	}
	for {
		select {
		case said := <-answer:
			r.t.Errorf("%v: denied (%v, %v), but: %s", c, egress, ingress, said)
			return
		case <-time.After(5 * time.Millisecond):
		}
		if r.deniedFlow(c) {
			cancel()
			<-answer
			return
		}
	}
}

// deniedFlow says whether a node has denied a cell's packets.
func (r *rig) deniedFlow(c cell) (found bool) {
	p := c.packet()
	for _, n := range r.nodes {
		err := n.dp.EachFlow(context.Background(), 0, func(f *Flow) bool {
			if f.Client == p.Src && f.Server == p.Dst && f.Protocol == p.Protocol && f.ServerPort == p.Port && f.Dropped > 0 &&
				(f.Verdict[0] == Denied || f.Verdict[1] == Denied) && f.Generation == r.generation(n) {
				found = true
			}
			return !found
		})
		if err != nil {
			r.t.Error(err)
		}
	}
	return found
}

func (r *rig) generation(n *rigNode) uint32 {
	c, err := n.dp.settings.Get(0)
	if err != nil {
		r.t.Error(err)
	}
	return c.Generation
}
