package cluster

import (
	"math"
	"net/netip"
	"time"
)

// forever is the end of what has not ended.
const forever = math.MaxInt64

// slack is how long after its end an address still stands for who had it, if
// nobody else has it by then: the API tells times of other machines' clocks in
// whole seconds, and a connection's last packets come after its process.
const slack = int64(2 * time.Second)

// A holding is a span of time for which an address, or a port of one, stood for
// its owner. Those of one address do not overlap; each leads to the one before.
type holding[T any] struct {
	from, until int64 // until is not in it
	owner       *T
	older       *holding[T]
}

// at returns who held at a time, or had shortly before; 0 is now.
func (h *holding[T]) at(t int64) *T {
	if t == 0 {
		if h != nil && h.until == forever {
			return h.owner
		}
		return nil
	}
	for ; h != nil; h = h.older {
		if t >= h.from {
			if t < h.until || t-h.until < slack {
				return h.owner
			}
			return nil
		}
	}
	return nil
}

// late is by how much the end of a thing can be told too late, if all that is
// told is that it is gone.
const late = int64(30 * time.Second)

// A claim is what is told of an owner that holds.
type claim[T any] struct {
	owner      *T
	from, told int64
	// fresh is an owner of which nothing was known before: it may have begun
	// long ago. Others have just begun.
	fresh bool
	// vague is an end of the holding before that may have been told late.
	vague bool
}

// hold says that somebody holds, and returns the newest holding.
//
// The API tells two things in no order: that one is over and that another has
// begun. What is sure is that two never hold at once. So who has ended holds
// until their end, and the next begins there at the earliest; who is not known
// to have ended did so when the next began.
func (h *holding[T]) hold(c claim[T]) *holding[T] {
	from := c.from
	switch {
	case h == nil:
	case h.until != forever:
		end := min(h.until, c.told)
		if c.vague && from < end && end-from <= late {
			end = from
		}
		h.until = max(end, h.from+1)
		from = max(from, h.until)
	case h.owner == c.owner:
		return h
	case from > h.from:
		h.until = from
	case c.fresh:
		// It began before the one that is there: that one has it now. It stays
		// among the holdings, to have it when that one ends.
		return h.held(c.owner, min(from, h.from-1), h.from)
	default:
		from = max(c.told, h.from+1)
		h.until = from
	}
	return &holding[T]{from: from, until: forever, owner: c.owner, older: h}
}

// held says that owner held for a span that is over, and returns the newest
// holding. Of the span, what others held is cut off, but for one that is not
// known to have ended: that one held before and after.
func (h *holding[T]) held(owner *T, from, until int64) *holding[T] {
	switch {
	case from >= until:
		return h
	case h == nil:
		return &holding[T]{from: from, until: until, owner: owner}
	case from <= h.from:
		h.older = h.older.held(owner, from, min(until, h.from))
		return h
	case h.until == forever:
		h.until = from
		span := &holding[T]{from: from, until: until, owner: owner, older: h}
		return &holding[T]{from: until, until: forever, owner: h.owner, older: span}
	case h.until < until:
		return &holding[T]{from: max(from, h.until), until: until, owner: owner, older: h}
	}
	return h
}

// release says that owner, if it holds, does so no more since at.
func (h *holding[T]) release(owner *T, at int64) {
	for ; h != nil; h = h.older {
		if h.owner == owner && h.until == forever {
			h.until = max(at, h.from+1)
			return
		}
	}
}

// without returns the newest holding after those of an owner are forgotten, of
// one that goes on only those that have ended, and how many were.
func (h *holding[T]) without(owner *T, endedOnly bool) (*holding[T], uint64) {
	if h == nil {
		return nil, 0
	}
	older, n := h.older.without(owner, endedOnly)
	h.older = older
	if h.owner == owner && (!endedOnly || h.until != forever) {
		return older, n + 1
	}
	return h, n
}

// without forgets what an owner had of a key in a table, see holding.without.
func without[K comparable, T any](table map[K]*holding[T], key K, owner *T, endedOnly bool) uint64 {
	h, n := table[key].without(owner, endedOnly)
	if h == nil {
		delete(table, key)
	} else {
		table[key] = h
	}
	return n
}

// A place is all that one address stood for.
type place struct {
	pods     *holding[pod]
	services *holding[service]
	nodes    *holding[node]
}

// put keeps what is known of an address, or nothing.
func (s *State) put(addr netip.Addr, p place) {
	if p == (place{}) {
		delete(s.places, addr)
		return
	}
	s.places[addr] = p
}

// frontend is where a service is asked for.
type frontend struct {
	addr netip.Addr
	nodePort
}

// nodePort is where it is asked for at any node.
type nodePort struct{ port, proto uint32 } // wide: maps hash it in one piece

func portOf(port uint16, proto string) nodePort {
	return nodePort{uint32(port), protocol(proto)}
}

// protocol is the number of a transport, 0 for what services do not have.
func protocol(name string) uint32 {
	switch name {
	case "tcp", "TCP":
		return 6
	case "udp", "UDP":
		return 17
	case "sctp", "SCTP":
		return 132
	}
	return 0
}

// canonical is an address as the tables have it.
func canonical(addr netip.Addr) netip.Addr {
	addr = addr.Unmap()
	if addr.Zone() != "" {
		addr = addr.WithZone("")
	}
	return addr
}

// networks are the networks that nodes give their pods addresses from.
type networks []*network

// network are those of one length: there are few lengths.
type network struct {
	bits  int
	ip4   bool
	nodes map[netip.Addr]*holding[node] // by their first address
}

// of returns the network that addr is in, by its first address, and its holdings.
func (n networks) of(addr netip.Addr) (netip.Addr, *holding[node]) {
	for _, network := range n {
		if network.ip4 != addr.Is4() {
			continue
		}
		if prefix, err := addr.Prefix(network.bits); err == nil {
			if h := network.nodes[prefix.Addr()]; h != nil {
				return prefix.Addr(), h
			}
		}
	}
	return netip.Addr{}, nil
}

// like returns the networks as long as this one.
func (n *networks) like(prefix netip.Prefix) map[netip.Addr]*holding[node] {
	for _, network := range *n {
		if network.bits == prefix.Bits() && network.ip4 == prefix.Addr().Is4() {
			return network.nodes
		}
	}
	made := &network{prefix.Bits(), prefix.Addr().Is4(), make(map[netip.Addr]*holding[node])}
	*n = append(*n, made)
	return made.nodes
}

// Peer returns what addr stood for at a time; the zero time asks for now. Port
// and proto ("tcp", "udp", "sctp") are the peer's: they tell services that
// share an address, and node ports, from each other.
//
// An address of pods that share their node's network is the node's. It is false
// where nobody knows: for loopback, while the cluster was not told, for an
// address that somebody had at another time only, and for one of the pods'
// networks that no known pod has had.
func (s *State) Peer(addr netip.Addr, port uint16, proto string, at time.Time) (Peer, bool) {
	if !addr.IsValid() || addr.IsLoopback() || addr.IsUnspecified() {
		return Peer{}, false
	}
	addr = canonical(addr)
	var t int64
	if !at.IsZero() {
		t = nanos(at)
	}
	s.table.RLock()
	defer s.table.RUnlock()
	if p, known := s.places[addr]; known {
		if pod := p.pods.at(t); pod != nil {
			return Peer{Kind: PeerPod, Pod: pod.told}, true
		}
		peer := s.servicePeer(p, addr, portOf(port, proto), t)
		// An address that was somebody's at another time is not the world's.
		return peer, peer.Kind != ""
	}
	if first, h := s.networks.of(addr); h != nil {
		// Its first two addresses are those of the node's own end, in every
		// common way of making such a network.
		if addr == first || addr == first.Next() {
			if node := h.at(t); node != nil {
				return Peer{Kind: PeerNode, Node: node.told}, true
			}
		}
		return Peer{}, false
	}
	if !s.complete {
		return Peer{}, false
	}
	return Peer{Kind: PeerWorld}, true
}

// servicePeer is the service that is asked for at an address, or the node.
func (s *State) servicePeer(p place, addr netip.Addr, asked nodePort, t int64) Peer {
	if p.services != nil {
		if v := s.frontends[frontend{addr, asked}].at(t); v != nil {
			return Peer{Kind: PeerService, Service: v.told}
		}
	}
	if node := p.nodes.at(t); node != nil {
		if v := s.nodePorts[asked].at(t); v != nil {
			return Peer{Kind: PeerService, Service: v.told}
		}
		return Peer{Kind: PeerNode, Node: node.told}
	}
	if v := p.services.at(t); v != nil {
		// A port that the service does not have is still asked of it.
		return Peer{Kind: PeerService, Service: v.told}
	}
	return Peer{}
}
