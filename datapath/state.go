// Package datapath makes the kernel connect pods, judge what they send by
// network policy, and count it. What it should do is a [State]; the kernel goes
// on doing it when nobody is left who told it.
package datapath

import (
	"net/netip"

	"warren/netpol"
)

// A State is what the datapath should do. It never changes once it was given
// away; equal parts of the next one may be shared with it.
type State struct {
	Endpoints []Endpoint
	// Policy says what is allowed. Its sets are those of Endpoints, at least.
	Policy *netpol.Program
	// Places are the addresses of pods, nodes and services.
	Places map[netip.Addr]Place
	// Node4 and Node6 are this node's own addresses, invalid for families that it
	// does not have.
	Node4, Node6 netip.Addr
	// MTU is how large a pod's packet can be between nodes, 0 if nobody knows.
	MTU int
	// Routes are networks behind other nodes: their pods'.
	Routes map[netip.Prefix]netip.Addr
}

// An Endpoint is a pod of this node, at the host's end of its veth pair.
type Endpoint struct {
	Name    string // namespace/name, for people
	PodUID  string
	Ifindex int
	Addrs   []netip.Addr
	// MAC is the pod's, HostMAC that of the host's end.
	MAC, HostMAC [6]byte
	// Audit tells what would be denied and lets it pass.
	Audit bool
	// Chained is a veth of another CNI plugin: it is judged, never redirected.
	Chained bool
}

// A Place is what an address stands for.
type Place struct {
	Kind PlaceKind
	// Node is the address of the node that a pod is on, invalid for this one.
	Node netip.Addr
}

// PlaceKind is what kind of thing has an address.
type PlaceKind uint8

// The kinds of places. HostPlace is this node itself.
const (
	PodPlace PlaceKind = iota + 1
	NodePlace
	HostPlace
	ServicePlace
)
