package cluster

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// node is what a State knows of a node.
type node struct {
	told  *Node
	ended int64 // when its end was told, 0 while it goes on
}

// SetNode tells a node as it is at a time. It takes n: nobody may change it
// afterwards.
func (s *State) SetNode(n *Node, at time.Time) {
	if n == nil || n.UID == "" {
		return
	}
	s.write.Lock()
	defer s.write.Unlock()
	share := &s.share
	n.UID = share.own(n.UID, maxID)
	n.Name = share.text(n.Name, maxName)
	n.Labels = share.labels(n.Labels)
	n.Addrs = share.addrs(n.Addrs)
	n.PodCIDRs = share.prefixes(n.PodCIDRs)
	now := nanos(at)
	if known := s.nodes[n.UID]; known != nil && known.ended == 0 && known.told.Name == n.Name && known.told.Created.Equal(n.Created) &&
		slices.Equal(known.told.Addrs, n.Addrs) && slices.Equal(known.told.PodCIDRs, n.PodCIDRs) && maps.Equal(known.told.Labels, n.Labels) {
		return // a node that says that it is alive
	}
	s.change(at, func() { s.setNode(n, now) })
}

// prefixes returns networks as the tables have them: each once, and none that
// holds every address.
func (s *sharer) prefixes(prefixes []netip.Prefix) []netip.Prefix {
	var usable []netip.Prefix
	for _, p := range atMost(s, prefixes, maxAddrs) {
		if p = p.Masked(); p.IsValid() && p.Bits() > 0 && !slices.Contains(usable, p) {
			usable = append(usable, p)
		}
	}
	return usable
}

func (s *State) setNode(told *Node, now int64) {
	s.versions.Nodes++
	n := s.nodes[told.UID]
	fresh := n == nil
	old := &Node{}
	from := now
	if fresh {
		n = &node{told: told}
		from = begin(told.Created, time.Time{}, now)
		s.nodes[told.UID] = n
	} else {
		s.leaveNode(n, told, now)
		if n.ended == 0 {
			old = n.told
		}
		n.told, n.ended = told, 0
	}
	held := claim[node]{owner: n, from: from, told: now, fresh: fresh}
	for _, addr := range told.Addrs {
		if !slices.Contains(old.Addrs, addr) {
			place := s.places[addr]
			place.nodes = place.nodes.hold(held)
			s.put(addr, place)
		}
	}
	for _, prefix := range told.PodCIDRs {
		if !slices.Contains(old.PodCIDRs, prefix) {
			nodes := s.networks.like(prefix)
			nodes[prefix.Addr()] = nodes[prefix.Addr()].hold(held)
		}
	}
}

// leaveNode frees what a node had and, by what is told now, has no more.
func (s *State) leaveNode(n *node, told *Node, now int64) {
	for _, addr := range n.told.Addrs {
		if !slices.Contains(told.Addrs, addr) {
			s.places[addr].nodes.release(n, now)
			s.past.push(now, forgetting(func() uint64 { return s.forgetNodeAt(addr, n, true) }))
		}
	}
	for _, prefix := range n.told.PodCIDRs {
		if !slices.Contains(told.PodCIDRs, prefix) {
			s.networks.like(prefix)[prefix.Addr()].release(n, now)
			s.past.push(now, forgetting(func() uint64 { without(s.networks.like(prefix), prefix.Addr(), n, true); return 0 }))
		}
	}
}

// forgetNodeAt forgets what a node had of an address.
func (s *State) forgetNodeAt(addr netip.Addr, n *node, endedOnly bool) (count uint64) {
	place := s.places[addr]
	place.nodes, count = place.nodes.without(n, endedOnly)
	s.put(addr, place)
	return count
}

// DeleteNode tells that a node is gone since at.
func (s *State) DeleteNode(uid string, at time.Time) {
	s.write.Lock()
	defer s.write.Unlock()
	n := s.nodes[uid]
	if n == nil || n.ended != 0 {
		return
	}
	now := nanos(at)
	s.change(at, func() {
		s.versions.Nodes++
		n.ended = now
		for _, addr := range n.told.Addrs {
			s.places[addr].nodes.release(n, now)
		}
		for _, prefix := range n.told.PodCIDRs {
			s.networks.like(prefix)[prefix.Addr()].release(n, now)
		}
		s.past.push(now, n)
	})
}

// forget takes a node out of all tables.
func (n *node) forget(s *State, at int64) (addresses uint64) {
	if n.ended != at || s.nodes[n.told.UID] != n {
		return 0
	}
	delete(s.nodes, n.told.UID)
	for _, addr := range n.told.Addrs {
		addresses += s.forgetNodeAt(addr, n, false)
	}
	for _, prefix := range n.told.PodCIDRs {
		without(s.networks.like(prefix), prefix.Addr(), n, false)
	}
	return addresses
}
