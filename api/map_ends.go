package api

import (
	"net/netip"
	"strings"

	"warren/cluster"
	"warren/event"
)

// A mapEnd is one end of connections, as it is told apart from others while
// events come.
type mapEnd struct {
	kind      MapKind
	namespace string
	workload  string
	name      string
	hostNet   bool
	// addr is the address of a MapAddress, which may turn out to be one of this
	// machine's; netns is the network namespace that a loopback address is of.
	addr  netip.Addr
	netns uint32
}

// The names of what is outside and not told apart.
const (
	worldPublic  = "internet"
	worldPrivate = "private networks"
)

// actorEnd returns the end of the process that acted.
func actorEnd(p *event.Process) mapEnd {
	if p == nil {
		return mapEnd{kind: MapProcess}
	}
	c := p.Container
	switch {
	case c != nil && c.Pod != nil:
		return podEnd(c.Pod)
	case c != nil && c.Name != "":
		return mapEnd{kind: MapContainer, name: utf8Only(c.Name)}
	case c != nil:
		return mapEnd{kind: MapContainer, name: utf8Only(c.ID)}
	}
	return mapEnd{kind: MapProcess, name: utf8Only(p.Name)}
}

// podEnd returns the workload of a pod: what a person calls it by.
func podEnd(p *cluster.Pod) mapEnd {
	w := mapEnd{kind: MapWorkload, namespace: utf8Only(p.Namespace), workload: p.Workload.Kind, name: p.Workload.Name, hostNet: p.HostNetwork}
	switch {
	case w.workload == "Node":
		// A static pod has its node as a controller, and the node's name behind
		// its own.
		w.name = strings.TrimSuffix(p.Name, "-"+p.Node)
	case w.workload == "" || w.name == "":
		w.workload, w.name = "Pod", p.Name
	}
	if w.name == "" {
		w.workload, w.name = "Pod", p.UID // of which the cluster has not told yet
	}
	w.workload, w.name = utf8Only(w.workload), utf8Only(w.name)
	return w
}

// remoteEnd returns the far end of a socket, and the node of the cluster that
// it is on, "" where that is unknown.
func remoteEnd(s *event.Socket) (end mapEnd, node string) {
	if p := s.RemotePeer; p != nil {
		switch {
		case p.Pod != nil:
			return podEnd(p.Pod), p.Pod.Node
		case p.Service != nil:
			return mapEnd{kind: MapService, namespace: utf8Only(p.Service.Namespace), name: utf8Only(p.Service.Name)}, ""
		case p.Node != nil:
			return mapEnd{kind: MapHost, name: utf8Only(p.Node.Name)}, p.Node.Name
		}
	}
	if s.Remote.IsLoopback() {
		return mapEnd{kind: MapAddress, addr: s.Remote, netns: s.NetNS}, ""
	}
	return outside(s.Remote, s.RemoteName, s.Server), ""
}

// outside returns the end of an address that nobody in a cluster has. Clients
// from all over the world are not told apart: nobody could read such a map.
func outside(addr netip.Addr, name string, client bool) mapEnd {
	addr = addr.WithZone("")
	switch {
	case name != "":
		return mapEnd{kind: MapName, name: utf8Only(name)}
	case client && !isPrivate(addr):
		return world(addr)
	}
	return mapEnd{kind: MapAddress, addr: addr}
}

// world returns the end that stands for all addresses like one.
func world(addr netip.Addr) mapEnd {
	if isPrivate(addr) {
		return mapEnd{kind: MapWorld, name: worldPrivate}
	}
	return mapEnd{kind: MapWorld, name: worldPublic}
}

// isPrivate reports whether an address is of a network of one's own.
func isPrivate(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsLoopback() || a.IsMulticast() || carrierSpace.Contains(a)
}

// carrierSpace is between a carrier's customers and its routers (RFC 6598), and
// in use for pods and overlay networks.
var carrierSpace = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10)

// isOutside reports whether an end is one of those that there can be any number
// of.
func (e *mapEnd) isOutside() bool {
	return e.kind == MapName || e.kind == MapAddress && !e.addr.IsLoopback()
}

// node returns the node of a map that an end is.
func (e *mapEnd) node() MapNode {
	n := MapNode{Kind: e.kind, Namespace: e.namespace, Name: e.name, Workload: e.workload, HostNetwork: e.hostNet}
	if e.kind == MapAddress {
		n.Name = e.addr.String()
	}
	n.ID = n.id()
	return n
}

// utf8Only returns text as JSON can carry it, so that what differs here does
// not become the same on the way.
func utf8Only(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
