package netpol

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"
)

// spans are networks that have nothing in common, sorted.
type spans []netip.Prefix

// insideOf are the addresses of a cluster, as far as they are known: those of
// pods and nodes, and the networks that pods get theirs from. A suggested
// network of others has none of them: it would allow pods that nobody has seen.
func insideOf(w *World) spans {
	var all []netip.Prefix
	for _, p := range w.Pods {
		for _, a := range addrsOf(p.Addrs) {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, n := range w.Nodes {
		for _, a := range addrsOf(n.Addrs) {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
		for _, p := range n.PodCIDRs {
			if p = network(p); p.IsValid() {
				all = append(all, p)
			}
		}
	}
	slices.SortFunc(all, comparePrefixes)
	var apart spans
	for _, p := range all {
		if n := len(apart); n == 0 || !apart[n-1].Contains(p.Addr()) {
			apart = append(apart, p)
		}
	}
	return apart
}

// overlap reports whether one of s has an address of p.
func (s spans) overlap(p netip.Prefix) bool {
	at := sort.Search(len(s), func(i int) bool { return s[i].Addr().Compare(p.Addr()) >= 0 })
	return at < len(s) && p.Contains(s[at].Addr()) || at > 0 && s[at-1].Contains(p.Addr())
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// join returns networks that have all of some addresses, as narrow as it takes
// for there to be at most so many, and whether they have others too. There are
// more where only a network with something that is inside would have them.
func join(addrs []netip.Addr, most int, inside spans) (networks []netip.Prefix, wider bool) {
	for _, a := range addrs {
		networks = append(networks, netip.PrefixFrom(a, a.BitLen()))
	}
	slices.SortFunc(networks, comparePrefixes)
	networks = slices.Compact(networks)
	// Neighbours whose common network is the narrowest come first.
	for bits := 127; bits >= 0 && len(networks) > most; bits-- {
		left, joined := len(networks), networks[:0]
		for _, n := range networks {
			if len(joined) > 0 {
				last := &joined[len(joined)-1]
				if last.Contains(n.Addr()) {
					left--
					continue
				}
				if both := common(*last, n, bits); left > most && both.IsValid() && !inside.overlap(both) {
					*last, wider = both, true
					left--
					continue
				}
			}
			joined = append(joined, n)
		}
		networks = joined
	}
	return networks, wider
}

// common is the network of so many bits that has both, invalid where none has.
func common(a, b netip.Prefix, bits int) netip.Prefix {
	if a.Addr().Is4() != b.Addr().Is4() || bits > min(a.Bits(), b.Bits()) {
		return netip.Prefix{}
	}
	if both := netip.PrefixFrom(a.Addr(), bits).Masked(); both.Contains(b.Addr()) {
		return both
	}
	return netip.Prefix{}
}
