package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"warren/internal/netdump"
)

const (
	mainTable = unix.RT_TABLE_MAIN
	// routeProtocol is by which the routes of the instance "warren" are known to
	// be its own; those of others are from otherProtocols numbers behind
	// firstProtocol, by their names. The kernel and routing daemons use none of
	// these.
	routeProtocol  = 87
	firstProtocol  = 100
	otherProtocols = 80
	// lastResort is the metric of a route that any other goes before.
	lastResort = math.MaxInt32
	// tunnelHops is the hop limit of a tunnel's packets.
	tunnelHops = 64
)

// protocol is the number of this instance's routes.
func (h *Host) protocol() int {
	if h.cfg.Instance == "warren" {
		return routeProtocol
	}
	return firstProtocol + int(hash32(h.cfg.Instance)%otherProtocols)
}

func hash32(s string) uint32 {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(s)) // never fails
	return sum.Sum32()
}

// A route is one of this instance's: through a tunnel if End is valid, to
// nowhere if there is no Gateway.
type route struct {
	Dst     netip.Prefix
	Gateway netip.Addr
	Link    int
	End     netip.Addr // of the tunnel,
	Source  netip.Addr // and what this node itself sends by it as
}

// routes says which routes there should be, and what cannot be reached.
func (h *Host) routes(want HostState, d HostDevices) (all []route, problems []string) {
	if want.Mode == Chained {
		return nil, nil
	}
	// What has no pod yet, or any more, is answered at once, and not sent round
	// in circles between this node and its router.
	own := networks(want.Self)
	for _, p := range own {
		all = append(all, route{Dst: p})
	}
	connected, err := connectedNetworks()
	if err != nil {
		return all, []string{err.Error()}
	}
	var far, without, taken int
	for _, n := range want.Others {
		for _, p := range networks(n) {
			r := route{Dst: p}
			switch {
			case overlaps(own, p):
				taken++
				continue
			case want.Mode == VXLAN:
				r.Gateway, r.Link, r.End, r.Source = NodeAddr(p), d.Tunnel, n.endpoint(), ownAddr(own, p.Addr().Is6())
				if r.Link == 0 {
					continue // and it was said why
				}
				if !r.Gateway.IsValid() || !r.End.IsValid() || r.End.Is6() != want.Self.endpoint().Is6() {
					without++
					continue
				}
			default:
				r.Gateway = n.addr(p.Addr().Is6())
				if !r.Gateway.IsValid() {
					without++
					continue
				}
				if r.Link = connected.link(r.Gateway); r.Link == 0 {
					far++
					continue
				}
			}
			all = append(all, r)
		}
	}
	count := func(n int, text string) {
		if n > 0 {
			problems = append(problems, fmt.Sprintf("%d networks of other nodes' pods: %s", n, text))
		}
	}
	count(far, "the nodes are on no link with this one; routers on the way must know these networks, or the mode has to be vxlan")
	count(without, "the nodes have no address by which this one could reach them")
	count(taken, "they overlap with those of this node's own pods")
	return all, problems
}

// ownAddr is the node's own address in the first of its pods' networks of a
// family.
func ownAddr(own []netip.Prefix, six bool) netip.Addr {
	for _, p := range own {
		if p.Addr().Is6() == six {
			return NodeAddr(p)
		}
	}
	return netip.Addr{}
}

func overlaps(all []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(all, p.Overlaps)
}

// connectedTo are the networks that this node is on.
type connectedTo []struct {
	network netip.Prefix
	link    int
}

func connectedNetworks() (connectedTo, error) {
	addrs, err := netdump.Addrs(nil)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var all connectedTo
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, bits := a.Mask.Size()
		if !ok || bits == 0 {
			continue
		}
		all = append(all, struct {
			network netip.Prefix
			link    int
		}{netip.PrefixFrom(ip.Unmap(), ones).Masked(), a.LinkIndex})
	}
	return all, nil
}

// link is the device to a neighbour, 0 where it is none.
func (c connectedTo) link(to netip.Addr) int {
	best, bits := 0, -1
	for _, n := range c {
		if n.network.Contains(to) && n.network.Bits() > bits && !n.network.IsSingleIP() {
			best, bits = n.link, n.network.Bits()
		}
	}
	return best
}

// netlink gives a route as the kernel is told it.
func (h *Host) netlinkRoute(r route) *netlink.Route {
	n := &netlink.Route{Dst: ipNet(r.Dst), Protocol: netlink.RouteProtocol(h.protocol()), Table: mainTable}
	if !r.Gateway.IsValid() {
		n.Type, n.Priority = unix.RTN_UNREACHABLE, lastResort
		return n
	}
	n.LinkIndex, n.Gw = r.Link, r.Gateway.AsSlice()
	if r.End.IsValid() {
		n.Flags = int(netlink.FLAG_ONLINK)
		n.Encap = &ipEncap{id: h.cfg.VNI, dst: r.End}
		if r.Source.IsValid() {
			n.Src = r.Source.AsSlice()
		}
	}
	return n
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// setRoutes makes this instance's routes those that are wanted, and gives how
// many of them lead somewhere.
func (h *Host) setRoutes(want []route) (n int, err error) {
	var errs []error
	is := make(map[string]netlink.Route)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{Protocol: netlink.RouteProtocol(h.protocol()), Table: mainTable}
		all, err := netdump.Whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return 0, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range all {
			if r.Dst != nil {
				is[routeKey(&r)] = r
			}
		}
	}
	wanted := make(map[string]bool)
	var missing []route
	for _, r := range want {
		w := h.netlinkRoute(r)
		key := routeKey(w)
		wanted[key] = true
		// Where a tunnel ends cannot be read back: what this Host has not made
		// itself is made again.
		if _, there := is[key]; !there || h.encap[key] != r {
			missing = append(missing, r)
		} else if r.Gateway.IsValid() {
			n++
		}
	}
	// Those first that are not wanted: a route to the same place by another way
	// is in the way of a new one.
	for key, r := range is {
		if wanted[key] {
			continue
		}
		delete(h.encap, key)
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove the route to %s: %w", r.Dst, err))
		}
	}
	for _, r := range missing {
		w := h.netlinkRoute(r)
		if err := netlink.RouteReplace(w); err != nil {
			errs = append(errs, fmt.Errorf("route to %s by %s: %w", r.Dst, r.Gateway, err))
			continue
		}
		h.encap[routeKey(w)] = r
		if r.Gateway.IsValid() {
			n++
		}
	}
	for key := range h.encap {
		if !wanted[key] {
			delete(h.encap, key)
		}
	}
	return n, errors.Join(errs...)
}

// routeKey is by what routes are told from each other.
func routeKey(r *netlink.Route) string {
	if r.Type == unix.RTN_UNREACHABLE {
		return r.Dst.String() + " unreachable"
	}
	return fmt.Sprintf("%s via %s dev %d", r.Dst, r.Gw, r.LinkIndex)
}

// ipEncap is the header that a route puts around packets: the key of the tunnel
// and where it ends. The device writes the rest.
type ipEncap struct {
	id  uint32
	dst netip.Addr
}

var _ netlink.Encap = (*ipEncap)(nil)

// Type implements [netlink.Encap].
func (e *ipEncap) Type() int {
	if e.dst.Is6() {
		return nl.LWTUNNEL_ENCAP_IP6
	}
	return nl.LWTUNNEL_ENCAP_IP
}

// Attributes of LWTUNNEL_ENCAP_IP and _IP6: their numbers are the same.
const (
	tunnelID    = 1 // big-endian, 64 bits
	tunnelDst   = 2
	tunnelTTL   = 4
	tunnelFlags = 6 // big-endian, 16 bits

	// tunnelChecksum asks for a checksum of the outer UDP: without one IPv6
	// packets are not taken.
	tunnelChecksum = 0x01
)

// Encode implements [netlink.Encap].
func (e *ipEncap) Encode() ([]byte, error) {
	var out []byte
	add := func(kind int, value []byte) {
		out = append(out, nl.NewRtAttr(kind, value).Serialize()...)
	}
	add(tunnelID, binary.BigEndian.AppendUint64(nil, uint64(e.id)))
	add(tunnelDst, e.dst.AsSlice())
	add(tunnelTTL, []byte{tunnelHops})
	if e.dst.Is6() {
		add(tunnelFlags, binary.BigEndian.AppendUint16(nil, tunnelChecksum))
	}
	return out, nil
}

// Decode implements [netlink.Encap]. Nobody reads routes into one.
func (e *ipEncap) Decode([]byte) error { return errors.ErrUnsupported }

// String implements [netlink.Encap].
func (e *ipEncap) String() string { return fmt.Sprintf("id %d dst %s", e.id, e.dst) }

// Equal implements [netlink.Encap].
func (e *ipEncap) Equal(x netlink.Encap) bool {
	o, ok := x.(*ipEncap)
	return ok && *o == *e
}

// tunnelName is that of the device of tunnels. It is no longer than 15 bytes.
func (h *Host) tunnelName() string {
	if name := h.cfg.Instance + "-vxlan"; len(name) <= 15 {
		return name
	}
	return fmt.Sprintf("wx-%08x", hash32(h.cfg.Instance))
}

// tunnel makes the device of tunnels as it should be, and gives its index.
func (h *Host) tunnel(self Node, mtu int) (int, error) {
	end := self.endpoint()
	if !end.IsValid() {
		return 0, errors.New("the node has no address")
	}
	name := h.tunnelName()
	mac := TunnelMAC(end)
	link, err := netlink.LinkByName(name)
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none):
	case err != nil:
		return 0, err
	default:
		v, ours := link.(*netlink.Vxlan)
		if !ours {
			return 0, fmt.Errorf("there is a device %s, of type %s: it is not ours", name, link.Type())
		}
		if !v.FlowBased || v.Port != int(h.cfg.Port) {
			if err := netlink.LinkDel(link); err != nil {
				return 0, fmt.Errorf("remove the former one: %w", err)
			}
			link = nil
		}
	}
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = name, mtu, mac[:]
		if err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, Port: int(h.cfg.Port)}); errors.Is(err, unix.EEXIST) {
			return 0, fmt.Errorf("another program has tunnels on UDP port %d: %w", h.cfg.Port, err)
		} else if err != nil {
			return 0, err
		}
		if link, err = netlink.LinkByName(name); err != nil {
			return 0, err
		}
	}
	a := link.Attrs()
	if a.MTU != mtu {
		err = errors.Join(err, netlink.LinkSetMTU(link, mtu))
	}
	if !bytes.Equal(a.HardwareAddr, mac[:]) {
		err = errors.Join(err, netlink.LinkSetHardwareAddr(link, mac[:]))
	}
	// No address of its own choice, and no asking around for routers.
	err = errors.Join(err, h.settings(name))
	if a.Flags&net.FlagUp == 0 {
		if up := netlink.LinkSetUp(link); up != nil {
			err = errors.Join(err, fmt.Errorf("bring %s with its UDP port %d up: %w", name, h.cfg.Port, up))
		}
	}
	return a.Index, errors.Join(err, setAddresses(link, self))
}

// settings are those of the tunnels' device: they go with it. Packets that come
// out of a tunnel are not held against the way that answers would take.
func (h *Host) settings(name string) error {
	if h.sysctls.get("net/ipv4/conf/"+name+"/rp_filter") != "1" && h.sysctls.get("net/ipv4/conf/all/rp_filter") != "1" {
		return nil
	}
	if h.sysctls.get("net/ipv4/conf/"+name+"/rp_filter") == "2" {
		return nil
	}
	return h.sysctls.write("net/ipv4/conf/"+name+"/rp_filter", "2")
}

// setAddresses gives the tunnels' device the node's own addresses among its pods:
// what the node itself sends to pods elsewhere has to come back by the tunnel.
func setAddresses(link netlink.Link, self Node) error {
	want := make(map[netip.Addr]bool)
	for _, p := range networks(self) {
		if a := NodeAddr(p); a.IsValid() {
			want[a] = true
		}
	}
	is, err := netdump.Addrs(link)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range is {
		ip, ok := netip.AddrFromSlice(a.IP)
		if ip = ip.Unmap(); !ok || ip.IsLinkLocalUnicast() {
			continue
		}
		if ones, bits := a.Mask.Size(); want[ip] && ones == bits {
			delete(want, ip)
			continue
		}
		errs = append(errs, netlink.AddrDel(link, &a))
	}
	for a := range want {
		add := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}
		if a.Is6() {
			// Not preferred: the kernel would take it for answers of the node to its own
			// pods, which asked another address of it.
			add.Flags, add.ValidLft, add.PreferedLft = unix.IFA_F_NODAD, math.MaxUint32, 0
		}
		errs = append(errs, netlink.AddrAdd(link, add))
	}
	return errors.Join(errs...)
}

// removeTunnel removes the device of tunnels, with its routes and neighbours.
func (h *Host) removeTunnel() error {
	link, err := netlink.LinkByName(h.tunnelName())
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, ours := link.(*netlink.Vxlan); !ours {
		return nil
	}
	return netlink.LinkDel(link)
}

// setNeighbours tells the tunnels' device whose hardware address the nodes' own
// addresses among their pods have.
func (h *Host) setNeighbours(others []Node, link int) error {
	want := make(map[netip.Addr][6]byte)
	for _, n := range others {
		end := n.endpoint()
		for _, p := range networks(n) {
			if a := NodeAddr(p); a.IsValid() && end.IsValid() {
				want[a] = TunnelMAC(end)
			}
		}
	}
	is, err := netdump.Whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	var errs []error
	for _, n := range is {
		ip, ok := netip.AddrFromSlice(n.IP)
		if ip = ip.Unmap(); !ok || n.State&netlink.NUD_PERMANENT == 0 {
			continue
		}
		mac, wanted := want[ip]
		switch {
		case wanted && bytes.Equal(mac[:], n.HardwareAddr):
			delete(want, ip)
		case !wanted:
			errs = append(errs, netlink.NeighDel(&n))
		}
	}
	for ip, mac := range want {
		errs = append(errs, netlink.NeighSet(&netlink.Neigh{LinkIndex: link, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac[:]}))
	}
	return errors.Join(errs...)
}
