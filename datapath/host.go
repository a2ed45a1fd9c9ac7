package datapath

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"

	"warren/internal/netdump"
)

// DefaultVNI and DefaultPort are how the packets of one cluster's tunnels are
// told from others'.
const (
	DefaultVNI         = 87
	DefaultPort uint16 = 8472
)

// A Node is one of the cluster.
type Node struct {
	Name string
	// Addrs are the addresses by which nodes reach each other; the first of each
	// family counts.
	Addrs []netip.Addr
	// PodCIDRs are the networks that its pods have addresses from.
	PodCIDRs []netip.Prefix
}

// addr is a node's address of a family, the zero value if it has none.
func (n Node) addr(six bool) netip.Addr {
	for _, a := range n.Addrs {
		if a = a.Unmap(); a.IsValid() && a.Is6() == six {
			return a
		}
	}
	return netip.Addr{}
}

// endpoint is the address that tunnels to a node end at: that of IPv4 where it
// has one.
func (n Node) endpoint() netip.Addr {
	if a := n.addr(false); a.IsValid() {
		return a
	}
	return n.addr(true)
}

// NodeAddr is the node's own address in a network of its pods: the first behind
// the network's. No pod may have it. Zero for a network without room for it.
func NodeAddr(pods netip.Prefix) netip.Addr {
	if a := pods.Masked().Addr().Next(); pods.Contains(a) {
		return a
	}
	return netip.Addr{}
}

// TunnelMAC is the hardware address of the tunnel's device on the node with an
// address. It follows from the address, so that nobody has to ask around.
func TunnelMAC(node netip.Addr) [6]byte {
	mac := [6]byte{0x0e, 0x57}
	if node = node.Unmap(); node.Is4() {
		four := node.As4()
		copy(mac[2:], four[:])
		return mac
	}
	h := fnv.New32a()
	_, _ = h.Write(node.AsSlice()) // never fails
	copy(mac[2:], h.Sum(nil))
	return mac
}

// HostConfig is what can be set about the node's network. Its zero value works.
type HostConfig struct {
	// Instance is the agent's: all that is made is named after it. "" is warren.
	Instance string
	// State is the directory in which is kept what was changed of the machine's
	// settings, so that it can be put back; "" remembers as long as the Host
	// lives.
	State string
	// Sysctl is where the machine's settings can be written; "" is /proc/sys.
	Sysctl string
	// Uplink is the device to the other nodes; "" is the one with the node's
	// address, or else that of the default route.
	Uplink string
	// MTU of pods; 0 is the largest that the uplink carries.
	MTU int
	// NoMasquerade lets pods be seen by their own addresses everywhere.
	// KeepSource does it for destinations.
	NoMasquerade bool
	KeepSource   []netip.Prefix
	// VNI and Port are those of the tunnels; 0 is the default.
	VNI  uint32
	Port uint16
}

// minMTU is what IPv6 needs.
const minMTU = 1280

// complete fills in defaults and says what cannot be.
func (c HostConfig) complete() (HostConfig, error) {
	if c.Instance == "" {
		c.Instance = "warren"
	}
	if c.Sysctl == "" {
		c.Sysctl = "/proc/sys"
	}
	if c.VNI == 0 {
		c.VNI = DefaultVNI
	}
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	switch {
	case c.VNI >= 1<<24:
		return c, fmt.Errorf("network identifier %d of tunnels: at most %d", c.VNI, 1<<24-1)
	case c.MTU != 0 && (c.MTU < minMTU || c.MTU > 65535):
		return c, fmt.Errorf("MTU %d of pods: 0, or from %d to 65535", c.MTU, minMTU)
	case len(c.Uplink) > 15:
		return c, fmt.Errorf("uplink %q cannot be the name of a device: more than 15 bytes", c.Uplink)
	}
	keep := make([]netip.Prefix, 0, len(c.KeepSource))
	for _, p := range c.KeepSource {
		if !p.IsValid() || p.Bits() == 0 {
			return c, fmt.Errorf("destination %s that sees pods' own addresses: a network smaller than all addresses; switch masquerading off for all", p)
		}
		keep = append(keep, p.Masked())
	}
	c.KeepSource = keep
	return c, nil
}

// HostState is what the node's network should be.
type HostState struct {
	Mode   Mode
	Self   Node
	Others []Node
}

// HostDevices is what [Host.Reconcile] found and made.
type HostDevices struct {
	// Uplink is the index of the device to the other nodes, Tunnel that of the
	// tunnels' device, 0 without tunnels.
	Uplink, Tunnel int
	UplinkName     string
	// MTU is what pods may send, 0 where another makes their devices.
	MTU int
	// Node4 and Node6 are this node's addresses, zero where it has none.
	Node4, Node6 netip.Addr
	// Routes is how many networks of others' pods are reached.
	Routes int
	// Problems are what keeps some packets from arriving though everything was
	// done that can be done here.
	Problems []string
}

// Host keeps the network of a node as it should be: routes to the pods of other
// nodes, the device of tunnels, masquerading, and that the node forwards. All of
// it acts in the network namespace of the calling thread. Methods may be called
// at the same time; they wait for each other.
type Host struct {
	cfg HostConfig
	log *slog.Logger

	mu         sync.Mutex
	told       string           // problems that were logged
	encap      map[string]route // what this Host made, by destination
	masquerade string           // the rules that this Host made
	sysctls    sysctls
}

// NewHost gives the Host of an instance; it changes nothing yet.
func NewHost(cfg HostConfig, log *slog.Logger) (*Host, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, fmt.Errorf("the node's network: %w", err)
	}
	return &Host{cfg: cfg, log: log, encap: make(map[string]route), sysctls: sysctls{root: cfg.Sysctl, dir: cfg.State}}, nil
}

// Reconcile makes the node's network what it should be, and takes away what an
// earlier state, or an earlier agent of the same instance, made and is not wanted
// any more. What can be done is done, also where the error says that something
// could not. Mode Off removes everything.
func (h *Host) Reconcile(want HostState) (HostDevices, error) {
	if want.Mode == Off {
		return HostDevices{}, h.Remove()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var d HostDevices
	d.Node4, d.Node6 = want.Self.addr(false), want.Self.addr(true)
	uplink, err := findUplink(h.cfg.Uplink, want.Self, h.tunnelName())
	if err != nil {
		return d, fmt.Errorf("the node's network: %w", err)
	}
	d.Uplink, d.UplinkName = uplink.Attrs().Index, uplink.Attrs().Name

	var errs []error
	step := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	if want.Mode != Chained {
		d.MTU, err = h.mtu(want, uplink.Attrs().MTU)
		step("MTU of pods", err)
		step("forward packets", h.forward(want.Self, d.UplinkName))
	}
	if want.Mode == VXLAN {
		d.Tunnel, err = h.tunnel(want.Self, d.MTU)
		step("make the device of tunnels", err)
	} else {
		step("remove the device of tunnels", h.removeTunnel())
	}
	routes, problems := h.routes(want, d)
	d.Problems = append(d.Problems, problems...)
	d.Routes, err = h.setRoutes(routes)
	step("set routes", err)
	if want.Mode == VXLAN && d.Tunnel != 0 {
		step("set neighbours", h.setNeighbours(want.Others, d.Tunnel))
	}
	step("masquerade", h.setMasquerade(want))
	if want.Mode != Chained {
		d.Problems = append(d.Problems, h.hindrances()...)
	}
	h.tell(d.Problems)
	if err := errors.Join(errs...); err != nil {
		return d, fmt.Errorf("the node's network: %w", err)
	}
	return d, nil
}

// tell logs problems when they change.
func (h *Host) tell(problems []string) {
	slices.Sort(problems)
	now := fmt.Sprint(problems)
	if now == h.told || h.log == nil {
		return
	}
	h.told = now
	for _, p := range problems {
		h.log.Warn("the node's network has a problem", "problem", p)
	}
}

// Remove takes away everything that a Host of this instance has made, this one
// or an earlier one. Nothing to remove is no error.
func (h *Host) Remove() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.encap)
	_, err := h.setRoutes(nil)
	err = errors.Join(err, h.removeTunnel(), h.removeMasquerade(), h.sysctls.restore())
	if err != nil {
		return fmt.Errorf("remove the node's network: %w", err)
	}
	return nil
}

// findUplink finds the device to the other nodes.
func findUplink(name string, self Node, not string) (netlink.Link, error) {
	if name != "" {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return nil, fmt.Errorf("find the uplink %s: %w", name, err)
		}
		return link, nil
	}
	usable := func(index int) (netlink.Link, bool) {
		link, err := netlink.LinkByIndex(index)
		if err != nil {
			return nil, false // gone since
		}
		a := link.Attrs()
		return link, a.Flags&net.FlagLoopback == 0 && a.Name != not
	}
	addrs, err := netdump.Addrs(nil)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, own := range []netip.Addr{self.addr(false), self.addr(true)} {
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); !own.IsValid() || !ok || ip.Unmap() != own {
				continue
			}
			if link, ok := usable(a.LinkIndex); ok {
				return link, nil
			}
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := netdump.Whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{Table: mainTable}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		all = slices.DeleteFunc(all, func(r netlink.Route) bool { return !isDefault(r) })
		slices.SortStableFunc(all, func(a, b netlink.Route) int { return a.Priority - b.Priority })
		for _, r := range all {
			if link, ok := usable(r.LinkIndex); ok {
				return link, nil
			}
		}
	}
	return nil, fmt.Errorf("no device has the node's address (%v), and there is no default route: name the uplink", self.Addrs)
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// overhead is what a tunnel adds to a packet: outer IP, UDP and VXLAN headers and
// the inner Ethernet header.
func overhead(underlay netip.Addr) int {
	if underlay.Is6() {
		return 70
	}
	return 50
}

// mtu is that of pods.
func (h *Host) mtu(want HostState, uplink int) (int, error) {
	most := uplink
	if want.Mode == VXLAN {
		most -= overhead(want.Self.endpoint())
	}
	switch {
	case h.cfg.MTU > most:
		return most, fmt.Errorf("%d is more than fits: the uplink's is %d, which leaves %d", h.cfg.MTU, uplink, most)
	case h.cfg.MTU != 0:
		return h.cfg.MTU, nil
	case most < minMTU:
		return most, fmt.Errorf("the uplink's is %d, which leaves %d; IPv6 needs %d", uplink, most, minMTU)
	}
	return most, nil
}

// forward lets the node forward packets in the families that pods have.
func (h *Host) forward(self Node, uplink string) error {
	var errs []error
	if slices.ContainsFunc(self.PodCIDRs, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
		errs = append(errs, h.sysctls.want("net/ipv4/ip_forward", "1"))
	}
	if slices.ContainsFunc(self.PodCIDRs, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		const forwarding = "net/ipv6/conf/all/forwarding"
		// Who forwards does not listen to routers, unless told to: a node that has
		// its own route from them would lose it.
		accept := "net/ipv6/conf/" + uplink + "/accept_ra"
		if h.sysctls.get(forwarding) == "0" && h.sysctls.get(accept) == "1" {
			errs = append(errs, h.sysctls.want(accept, "2"))
		}
		errs = append(errs, h.sysctls.want(forwarding, "1"))
	}
	return errors.Join(errs...)
}

// networks gives the pods' networks of nodes, each once, in order.
func networks(nodes ...Node) []netip.Prefix {
	all := make(map[netip.Prefix]bool)
	for _, n := range nodes {
		for _, p := range n.PodCIDRs {
			if p.IsValid() && p.Bits() > 0 {
				all[p.Masked()] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
}
