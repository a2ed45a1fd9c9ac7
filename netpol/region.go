package netpol

import (
	"net/netip"
	"slices"
)

// A region is the addresses of a network that are in none of the smaller
// networks that rules in force speak of: all of them are in the same groups.
type region struct {
	prefix netip.Prefix
	parent *region // the smallest network around it, nil for the largest
	// spoken are the peers that name this very network, and how.
	spoken []spoken
	// hits are how many peers of a group have addresses of this region, for the
	// groups of which a peer speaks of it; for others ask the parent.
	hits map[*group]int
	// groups that have its addresses, and their numbers as a text.
	groups    []*group
	signature string
	identity  *identity
}

// spoken says that a peer of a group names a network.
type spoken struct {
	group  *group
	peer   int
	except bool
}

// regions are all of them. There are always those of all addresses.
type regions struct {
	of map[netip.Prefix]*region
	// lengths of networks by family, longest first.
	lengths4, lengths6 []int
}

var (
	all4 = netip.MustParsePrefix("0.0.0.0/0")
	all6 = netip.MustParsePrefix("::/0")
)

// newRegions cuts the world along the networks of groups in force.
func newRegions(inForce map[*group]bool) *regions {
	rs := &regions{of: make(map[netip.Prefix]*region)}
	speak := func(prefix netip.Prefix, s spoken) {
		r := rs.of[prefix]
		if r == nil {
			r = &region{prefix: prefix}
			rs.of[prefix] = r
		}
		r.spoken = append(r.spoken, s)
	}
	for _, prefix := range []netip.Prefix{all4, all6} {
		rs.of[prefix] = &region{prefix: prefix}
	}
	for g := range inForce {
		for i, peer := range g.networks {
			for _, n := range peer.Networks {
				speak(network(n), spoken{g, i, false})
			}
			for _, n := range peer.Except {
				speak(network(n), spoken{g, i, true})
			}
		}
	}
	ordered := make([]*region, 0, len(rs.of))
	for _, r := range rs.of {
		ordered = append(ordered, r)
		lengths := rs.lengths(r.prefix.Addr())
		if !slices.Contains(*lengths, r.prefix.Bits()) {
			*lengths = append(*lengths, r.prefix.Bits())
		}
	}
	for _, lengths := range []*[]int{&rs.lengths4, &rs.lengths6} {
		slices.SortFunc(*lengths, func(a, b int) int { return b - a })
	}
	slices.SortFunc(ordered, func(a, b *region) int { return a.prefix.Bits() - b.prefix.Bits() })
	for _, r := range ordered {
		r.parent = rs.around(r.prefix.Addr(), r.prefix.Bits())
		r.join()
	}
	return rs
}

func (rs *regions) lengths(addr netip.Addr) *[]int {
	if addr.Is4() {
		return &rs.lengths4
	}
	return &rs.lengths6
}

// around returns the smallest network with an address that is larger than one of
// some bits, nil where there is none.
func (rs *regions) around(addr netip.Addr, bits int) *region {
	for _, length := range *rs.lengths(addr) {
		if length >= bits {
			continue
		}
		if prefix, err := addr.Prefix(length); err == nil {
			if r := rs.of[prefix]; r != nil {
				return r
			}
		}
	}
	return nil
}

// at returns the region of an address.
func (rs *regions) at(addr netip.Addr) *region { return rs.around(addr, 129) }

// join finds out which groups have the region, when that of the parent is known:
// a network puts all that is smaller into its peer, an exception takes it out,
// whatever else is said.
func (r *region) join() {
	if r.parent != nil {
		r.groups = r.parent.groups
	}
	r.hits = make(map[*group]int)
	for i, s := range r.spoken {
		if slices.ContainsFunc(r.spoken[:i], func(o spoken) bool { return o.group == s.group && o.peer == s.peer }) {
			continue
		}
		hits, known := r.hits[s.group]
		if !known {
			hits = r.parent.count(s.group)
		}
		if r.parent.has(s.group, s.peer) {
			hits--
		}
		if r.has(s.group, s.peer) {
			hits++
		}
		r.hits[s.group] = hits
	}
	for g, hits := range r.hits {
		in := r.parent.count(g) > 0
		switch {
		case hits > 0 && !in:
			r.groups = insert(r.groups, g)
		case hits == 0 && in:
			r.groups = remove(r.groups, g)
		}
	}
	r.signature = numbers(r.groups)
}

// count returns how many peers of a group have the region.
func (r *region) count(g *group) int {
	for ; r != nil; r = r.parent {
		if n, ok := r.hits[g]; ok {
			return n
		}
	}
	return 0
}

// has reports whether a peer of a group has the region.
func (r *region) has(g *group, peer int) bool {
	in := false
	for ; r != nil; r = r.parent {
		for _, s := range r.spoken {
			if s.group == g && s.peer == peer {
				if s.except {
					return false
				}
				in = true
			}
		}
	}
	return in
}
