package cni

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// checkResult compares what the runtime was told with what was kept. Plugins
// that came later may have added to it.
func (w *wire) checkResult(r *current.Result) error {
	var told []netip.Addr
	for _, ip := range r.IPs {
		if i := ip.Interface; i != nil && (*i < 0 || *i >= len(r.Interfaces) || r.Interfaces[*i].Name != w.a.Interface || r.Interfaces[*i].Sandbox == "") {
			continue
		}
		told = append(told, addrOf(ip.Address.IP))
	}
	for _, a := range w.addrs {
		if !slices.Contains(told, a) {
			return fmt.Errorf("prevResult has the addresses %v, the container was given %v", told, w.addrs)
		}
	}
	_, host := hardware(w.network, w.a)
	for _, i := range r.Interfaces {
		if i.Sandbox == "" && i.Name == w.link.Attrs().Name && i.Mac != host.String() {
			return fmt.Errorf("prevResult has %s for %s, which has %s", i.Mac, i.Name, host)
		}
	}
	return nil
}

// checkPod says what is missing in the container: an address, the way to its
// gateway, or a route that the runtime was told of.
func (w *wire) checkPod(r *current.Result) error {
	if w.peer.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("interface %s in the container is down", w.a.Interface)
	}
	_, mac := hardware(w.network, w.a)
	if err := hasAddrs(w.pod, w.peer, w.addrs); err != nil {
		return fmt.Errorf("in the container: %w", err)
	}
	for _, a := range w.addrs {
		if err := hasNeighbour(w.pod, neighbour(w.peer.Attrs().Index, gateways[a.Is6()], mac)); err != nil {
			return fmt.Errorf("in the container: %w", err)
		}
		for _, route := range podRoutes(w.peer.Attrs().Index, a) {
			if told(r, route) {
				if err := hasRoute(w.pod, route); err != nil {
					return fmt.Errorf("in the container: %w", err)
				}
			}
		}
	}
	return nil
}

// told reports whether a route is in a result: what a later plugin has taken out
// of it need not be there.
func told(r *current.Result, route *netlink.Route) bool {
	for _, t := range r.Routes {
		if t.Dst.String() == route.Dst.String() && t.GW.Equal(route.Gw) {
			return true
		}
	}
	return false
}

// checkHost says what is missing on the node.
func (w *wire) checkHost() error {
	l := w.link.Attrs()
	if l.Flags&net.FlagUp == 0 {
		return fmt.Errorf("interface %s is down", l.Name)
	}
	mac, _ := hardware(w.network, w.a)
	var errs []error
	for _, a := range w.addrs {
		errs = append(errs, hasNeighbour(w.host, neighbour(l.Index, a, mac)), hasRoute(w.host, w.hostRoute(a)))
	}
	return errors.Join(errs...)
}

func hasAddrs(h *netlink.Handle, l netlink.Link, want []netip.Addr) error {
	list, err := h.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range want {
		if !slices.ContainsFunc(list, func(have netlink.Addr) bool { return addrOf(have.IP) == a }) {
			return fmt.Errorf("interface %s has not the address %s", l.Attrs().Name, a)
		}
	}
	return nil
}

func hasNeighbour(h *netlink.Handle, want *netlink.Neigh) error {
	list, err := h.NeighList(want.LinkIndex, want.Family)
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, have := range list {
		if have.IP.Equal(want.IP) && have.State&unix.NUD_PERMANENT != 0 && bytes.Equal(have.HardwareAddr, want.HardwareAddr) {
			return nil
		}
	}
	return fmt.Errorf("no permanent neighbour %s is at %s", want.IP, want.HardwareAddr)
}

func hasRoute(h *netlink.Handle, want *netlink.Route) error {
	family := netlink.FAMILY_V4
	if len(want.Dst.Mask) == net.IPv6len {
		family = netlink.FAMILY_V6
	}
	list, err := h.RouteListFiltered(family, &netlink.Route{LinkIndex: want.LinkIndex}, netlink.RT_FILTER_OIF)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, have := range list {
		dst := have.Dst
		if dst == nil { // how some versions tell a default route
			dst = &net.IPNet{IP: make(net.IP, len(want.Dst.Mask)), Mask: make(net.IPMask, len(want.Dst.Mask))}
		}
		if dst.String() == want.Dst.String() && have.Gw.Equal(want.Gw) {
			return nil
		}
	}
	return fmt.Errorf("no route to %s", want.Dst)
}
