package filter

import (
	"net/netip"
	"slices"
	"strings"
)

// addrMatcher returns how addresses are matched against addresses and networks.
func addrMatcher(t *term) func(Op, Mod, []*Value) (func(netip.Addr) bool, *Error) {
	return func(op Op, mod Mod, vs []*Value) (func(netip.Addr) bool, *Error) {
		nets := make([]netip.Prefix, len(vs))
		for i, v := range vs {
			var err *Error
			if nets[i], err = parseNet(t, v); err != nil {
				return nil, err
			}
		}
		switch {
		case op == In, op == Intersects, op == Eq && (mod == AnyOf || mod == NoMod):
			return netSet(nets), nil
		case op == Ne && (mod == AllOf || mod == NoMod):
			in := netSet(nets)
			return func(a netip.Addr) bool { return !in(a) }, nil
		}
		fs := make([]func(netip.Addr) bool, len(nets))
		for i, n := range nets {
			in := netSet([]netip.Prefix{n})
			fs[i] = in
			if op == Ne {
				fs[i] = func(a netip.Addr) bool { return !in(a) }
			}
		}
		return counted(mod, fs), nil
	}
}

// parseNet reads an address or a network; an address is the network of itself.
func parseNet(t *term, v *Value) (netip.Prefix, *Error) {
	text := v.Text
	if strings.IndexByte(text, '/') < 0 {
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
			a = a.Unmap()
			return netip.PrefixFrom(a, a.BitLen()), nil
		}
	} else if n, err := netip.ParsePrefix(text); err == nil {
		if a := n.Addr(); a.Is4In6() && n.Bits() >= 96 {
			n = netip.PrefixFrom(a.Unmap(), n.Bits()-96)
		}
		return n.Masked(), nil
	}
	hint := "write an address like 10.0.0.1 or ::1, or a network like 10.0.0.0/8"
	if strings.ContainsFunc(text, func(r rune) bool { return r|0x20 >= 'g' && r|0x20 <= 'z' }) && strings.HasPrefix(t.name, "fd.") && strings.HasSuffix(t.name, "ip") && t.name != "fd.ip" {
		hint = "compare names with " + t.name + ".name"
	}
	return netip.Prefix{}, v.errorf(t.name+" is an address, not "+quoted(text), hint)
}

// netSet holds for addresses in one of nets. An address of the other family is
// in none.
func netSet(nets []netip.Prefix) func(netip.Addr) bool {
	const few = 8
	if len(nets) == 1 {
		n := nets[0]
		if one := n.Addr(); n.IsSingleIP() {
			return func(a netip.Addr) bool { return a == one }
		}
		return n.Contains
	}
	if len(nets) <= few {
		nets = slices.Clone(nets)
		return func(a netip.Addr) bool {
			for _, n := range nets {
				if n.Contains(a) {
					return true
				}
			}
			return false
		}
	}
	// Networks of one length are found by hash: a lookup for each length.
	set := make(map[netip.Prefix]struct{}, len(nets))
	var bits4, bits6 []int
	for _, n := range nets {
		set[n] = struct{}{}
		bits := &bits6
		if n.Addr().Is4() {
			bits = &bits4
		}
		if !slices.Contains(*bits, n.Bits()) {
			*bits = append(*bits, n.Bits())
		}
	}
	return func(a netip.Addr) bool {
		bits := bits6
		if a.Is4() {
			bits = bits4
		}
		for _, b := range bits {
			n, err := a.Prefix(b)
			if err != nil {
				return false
			}
			if _, ok := set[n]; ok {
				return true
			}
		}
		return false
	}
}
