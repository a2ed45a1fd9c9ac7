package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"warren/api"
	"warren/internal/netdump"
)

// What a pod's network looks like: its address has the prefix of one host, and
// everything else is behind a gateway that is the same for all pods and answers
// by the Ethernet address of the host's end, which both ends know without
// asking.
var gateways = map[bool]netip.Addr{
	false: netip.AddrFrom4([4]byte{169, 254, 1, 1}),
	true:  netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: 1}),
}

// DevicePrefix is how the names of the host's ends of pods' pairs begin.
const DevicePrefix = hostPrefix

const (
	hostPrefix = "wrn"
	maxAlias   = 255
	// routeProtocol marks the host's routes to pods as Warren's.
	routeProtocol = 88
)

// hostName is the name of the host's end: the same for the same attachment, so
// that it is found by who knows no more than that.
func hostName(network string, a api.Attachment) string {
	sum := identity(network, a)
	return hostPrefix + hex.EncodeToString(sum[:6])
}

// hardware returns the Ethernet addresses of an attachment's ends. They are set
// and not left to chance so that whoever sees an interface knows whether it is
// this one, and nobody else on the node thinks that it may choose.
func hardware(network string, a api.Attachment) (pod, host api.MAC) {
	sum := identity(network, a)
	copy(pod[:], sum[8:])
	copy(host[:], sum[16:])
	pod[0], host[0] = pod[0]&^1|2, host[0]&^1|2 // of one host, administered locally
	return pod, host
}

func identity(network string, a api.Attachment) [sha256.Size]byte {
	return sha256.Sum256([]byte(network + "\x00" + a.ContainerID + "\x00" + a.Interface))
}

// alias is what the host's end says of itself to people and to GC.
func alias(network string, a api.Attachment) string {
	s := "warren " + network + " " + a.String()
	return s[:min(len(s), maxAlias)]
}

// A wire is both ends of a pod's veth pair, and how to change them.
type wire struct {
	network string
	a       api.Attachment
	addrs   []netip.Addr
	mtu     int
	pod     *netlink.Handle // in the container's namespace
	podNS   netns.NsHandle
	host    *netlink.Handle
	peer    netlink.Link // in the container; nil until found or made
	link    netlink.Link // the host's end; nil until found or made
}

// openWire opens the way into a container's namespace.
func openWire(network string, a api.Attachment, path string) (_ *wire, err error) {
	w := &wire{network: network, a: a, podNS: netns.None()}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.podNS, err = openNetns(path); err != nil {
		return nil, err
	}
	if w.host, err = netdump.Handle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if w.pod, err = netdump.HandleAt(w.podNS, unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", path, err)
	}
	return w, nil
}

// A netnsError says that a path is no network namespace of a container.
type netnsError struct {
	path string
	gone bool
	err  error
}

// Error implements error.
func (e *netnsError) Error() string { return fmt.Sprintf("network namespace %s: %v", e.path, e.err) }

// Unwrap returns why.
func (e *netnsError) Unwrap() error { return e.err }

func openNetns(path string) (netns.NsHandle, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return netns.None(), &netnsError{path, errors.Is(err, unix.ENOENT), err}
	}
	ns := netns.NsHandle(fd)
	fail := func(err error) (netns.NsHandle, error) {
		ns.Close()
		return netns.None(), &netnsError{path, false, err}
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return fail(err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		// Where it was unmounted a file is left.
		return fail(errors.New("it is no namespace"))
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil {
		return fail(err)
	}
	if kind != unix.CLONE_NEWNET {
		return fail(errors.New("it is a namespace of another kind"))
	}
	own, err := netns.GetFromPath("/proc/self/ns/net")
	if err != nil {
		return fail(err)
	}
	defer own.Close()
	if own.Equal(ns) {
		return fail(errors.New("it is the node's own, not a container's"))
	}
	return ns, nil
}

func (w *wire) close() {
	if w.pod != nil {
		w.pod.Close()
	}
	if w.host != nil {
		w.host.Close()
	}
	if w.podNS.IsOpen() {
		w.podNS.Close()
	}
}

// find looks for both ends. It reports whether they are there and each other's.
func (w *wire) find() (bool, error) {
	var err error
	if w.link, err = byName(w.host, hostName(w.network, w.a)); err != nil {
		return false, err
	}
	if w.peer, err = byName(w.pod, w.a.Interface); err != nil {
		return false, err
	}
	return w.link != nil && w.peer != nil && w.isOurs(w.peer) && w.link.Attrs().ParentIndex == w.peer.Attrs().Index, nil
}

// isOurs tells the container's end from an interface that only has its name.
func (w *wire) isOurs(l netlink.Link) bool {
	pod, _ := hardware(w.network, w.a)
	return l.Type() == "veth" && slices.Equal(l.Attrs().HardwareAddr, pod[:])
}

// byName returns a link, nil if there is none of that name.
func byName(h *netlink.Handle, name string) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", name, err)
	}
	return l, nil
}

// make makes both ends at once: the host's end down, so that nothing passes
// before the datapath judges it.
func (w *wire) make() error {
	name := hostName(w.network, w.a)
	pod, host := hardware(w.network, w.a)
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: name, MTU: w.mtu, TxQLen: -1, HardwareAddr: host[:]})
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerMTU = w.a.Interface, pod[:], uint32(w.mtu)
	veth.PeerNamespace = netlink.NsFd(int(w.podNS))
	if err := w.host.LinkAdd(veth); err != nil {
		return fmt.Errorf("make interfaces %s and, in the container, %s: %w", name, w.a.Interface, err)
	}
	whole, err := w.find()
	if err == nil && !whole {
		err = errors.New("somebody has changed it")
	}
	if err == nil {
		err = w.host.LinkSetAlias(w.link, alias(w.network, w.a))
	}
	if err != nil {
		return fmt.Errorf("make interface %s: %w", name, err)
	}
	return nil
}

// setPod sets up the container's end: addresses, neighbours and routes. It can
// be repeated.
func (w *wire) setPod() error {
	six := slices.ContainsFunc(w.addrs, netip.Addr.Is6)
	if err := w.inPod(func() error { return podSysctls(w.a.Interface, six) }); err != nil {
		return err
	}
	if w.mtu > 0 && w.peer.Attrs().MTU != w.mtu {
		if err := errors.Join(w.pod.LinkSetMTU(w.peer, w.mtu), w.host.LinkSetMTU(w.link, w.mtu)); err != nil {
			return fmt.Errorf("set the MTU %d: %w", w.mtu, err)
		}
	}
	if err := w.pod.LinkSetUp(w.peer); err != nil {
		return fmt.Errorf("set %s up: %w", w.a.Interface, err)
	}
	index := w.peer.Attrs().Index
	_, mac := hardware(w.network, w.a)
	for _, a := range w.addrs {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := w.pod.AddrReplace(w.peer, addr); err != nil {
			return fmt.Errorf("give %s the address %s: %w", w.a.Interface, a, err)
		}
		if err := w.pod.NeighSet(neighbour(index, gateways[a.Is6()], mac)); err != nil {
			return fmt.Errorf("tell %s its gateway: %w", w.a.Interface, err)
		}
		for _, r := range podRoutes(index, a) {
			if err := w.pod.RouteReplace(r); err != nil {
				return fmt.Errorf("route %s in the container: %w", r.Dst, err)
			}
		}
	}
	return nil
}

// podRoutes are the routes of a container that has an address.
func podRoutes(index int, a netip.Addr) []*netlink.Route {
	gateway := net.IP(gateways[a.Is6()].AsSlice())
	all := &net.IPNet{IP: make(net.IP, a.BitLen()/8), Mask: net.CIDRMask(0, a.BitLen())}
	toAll := &netlink.Route{LinkIndex: index, Dst: all, Gw: gateway}
	if a.Is6() {
		return []*netlink.Route{toAll} // the gateway is on the link, as its address says
	}
	toGateway := &netlink.Route{LinkIndex: index, Dst: ipNet(gateways[false]), Scope: netlink.SCOPE_LINK}
	return []*netlink.Route{toGateway, toAll}
}

// setHost sets up the host's end, which lets packets pass. It can be repeated.
func (w *wire) setHost(ports bool) error {
	name := w.link.Attrs().Name
	six := slices.ContainsFunc(w.addrs, netip.Addr.Is6)
	if err := hostSysctls(name, six, ports); err != nil {
		return err
	}
	if err := w.host.LinkSetUp(w.link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	if six {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: gateways[true].AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}
		if err := w.host.AddrReplace(w.link, addr); err != nil {
			return fmt.Errorf("make %s the pod's gateway: %w", name, err)
		}
	}
	mac, _ := hardware(w.network, w.a)
	for _, a := range w.addrs {
		if err := w.host.NeighSet(neighbour(w.link.Attrs().Index, a, mac)); err != nil {
			return fmt.Errorf("tell %s the pod's Ethernet address: %w", name, err)
		}
		if err := w.host.RouteReplace(w.hostRoute(a)); err != nil {
			return fmt.Errorf("route %s to %s: %w", a, name, err)
		}
	}
	return nil
}

func (w *wire) hostRoute(a netip.Addr) *netlink.Route {
	r := &netlink.Route{LinkIndex: w.link.Attrs().Index, Dst: ipNet(a), Protocol: routeProtocol}
	if a.Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

// remove takes both ends away, which takes all with it that was set on them.
func (w *wire) remove() error {
	if w.link != nil {
		return removeLink(w.host, w.link.Attrs().Name)
	}
	return nil
}

// removeLink removes a veth pair by the host's end. That it is not there is no
// error; an interface of another kind is left alone.
func removeLink(h *netlink.Handle, name string) error {
	l, err := byName(h, name)
	if err != nil || l == nil {
		return err
	}
	if l.Type() != "veth" {
		return fmt.Errorf("interface %s is a %s and none of Warren's", name, l.Type())
	}
	if err := h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

func neighbour(index int, a netip.Addr, mac api.MAC) *netlink.Neigh {
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	return &netlink.Neigh{LinkIndex: index, Family: family, State: unix.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac[:]}
}

// ipNet returns an address as a network of one.
func ipNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// addrOf returns an address of netlink's, in its shortest form.
func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// routed returns the addresses that the host routes to pods' interfaces but to
// that of one attachment: pods have them, whatever the records say.
func (w *wire) routed() (map[netip.Addr]bool, error) {
	links, err := w.host.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	pods := map[int]bool{}
	for _, l := range links {
		if n := l.Attrs().Name; strings.HasPrefix(n, hostPrefix) && l.Type() == "veth" && n != hostName(w.network, w.a) {
			pods[l.Attrs().Index] = true
		}
	}
	routes, err := w.host.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	addrs := map[netip.Addr]bool{}
	for _, r := range routes {
		if r.Dst == nil || !pods[r.LinkIndex] {
			continue
		}
		if ones, bits := r.Dst.Mask.Size(); ones == bits {
			addrs[addrOf(r.Dst.IP)] = true
		}
	}
	return addrs, nil
}

// inPod calls f on a thread in the container's namespace.
func (w *wire) inPod(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(w.podNS), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter the container's network namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

// podSysctls lets an interface of a container have addresses of IPv6 that are
// good at once, and no others.
func podSysctls(name string, six bool) error {
	if !six {
		return nil
	}
	conf := sysctlRoot + "ipv6/conf/"
	return setSysctls([][2]string{
		{conf + name + "/disable_ipv6", "0"},
		{conf + name + "/accept_ra", "0"},
		{conf + name + "/accept_dad", "0"},
	})
}

const sysctlRoot = "/proc/sys/net/"

// hostSysctls sets what the host's end needs, on that device only, and that the
// node forwards at all.
func hostSysctls(name string, six, ports bool) error {
	four := sysctlRoot + "ipv4/conf/" + name
	list := [][2]string{
		{four + "/forwarding", "1"},
		{four + "/accept_redirects", "0"},
		{four + "/send_redirects", "0"},
		// The pod knows its gateway; whoever is behind the pod may have to ask.
		{four + "/proxy_arp", "1"},
		{sysctlRoot + "ipv4/neigh/" + name + "/proxy_delay", "0"},
	}
	if ports {
		// From 127.0.0.1 of the host to a port that is a pod's. What pods send to
		// 127.0.0.0/8 is dropped by the table of host ports.
		list = append(list, [2]string{four + "/route_localnet", "1"})
	}
	if err := forward(sysctlRoot+"ipv4/ip_forward", nil); err != nil {
		return err
	}
	conf := sysctlRoot + "ipv6/conf/"
	if six {
		list = append(list,
			[2]string{conf + name + "/disable_ipv6", "0"},
			[2]string{conf + name + "/accept_ra", "0"},
			[2]string{conf + name + "/accept_redirects", "0"},
			[2]string{conf + name + "/accept_dad", "0"},
			[2]string{conf + name + "/addr_gen_mode", "1"}, // none: the gateway's is the only one
		)
		if err := forward(conf+"all/forwarding", keepRouters); err != nil {
			return err
		}
	} else if _, err := os.Stat(conf + name); err == nil {
		// Or pods would have a way to the node, and tell it who its routers are.
		list = append(list, [2]string{conf + name + "/accept_ra", "0"}, [2]string{conf + name + "/disable_ipv6", "1"})
	}
	return setSysctls(list)
}

// forward switches forwarding on, unless it is. before is called first.
func forward(path string, before func() error) error {
	b, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(b)) != "0" {
		return nil
	}
	if err == nil && before != nil {
		err = before()
	}
	if err != nil {
		return fmt.Errorf("forward packets: %w", err)
	}
	return setSysctls([][2]string{{path, "1"}})
}

// keepRouters lets interfaces that learn their routers from the network go on
// with that when the node becomes a router itself.
func keepRouters() error {
	const conf = sysctlRoot + "ipv6/conf/"
	names, err := os.ReadDir(conf)
	if err != nil {
		return err
	}
	for _, n := range names {
		path := conf + n.Name() + "/accept_ra"
		if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) != "1" || n.Name() == "all" || n.Name() == "default" {
			continue // it does not learn them, or has gone
		}
		if err := setSysctls([][2]string{{path, "2"}}); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// setSysctls writes what has not the value yet: /proc may be read-only, and the
// value right.
func setSysctls(list [][2]string) error {
	for _, s := range list {
		if b, err := os.ReadFile(s[0]); err == nil && strings.TrimSpace(string(b)) == s[1] {
			continue
		}
		if err := os.WriteFile(s[0], []byte(s[1]), 0); err != nil {
			return fmt.Errorf("set sysctl: %w", err)
		}
	}
	return nil
}
