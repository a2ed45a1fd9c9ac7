package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The chain of the instance's own table. Its name also tells other instances
// that somebody masquerades here.
const masqueradeChain = "masquerade"

// longMessages lets a socket send tens of thousands of networks at once. Its
// type is one of a module that is nftables' own business.
func longMessages[Socket interface{ SetWriteBuffer(bytes int) error }](s Socket) error {
	return s.SetWriteBuffer(16 << 20)
}

// tablePrefix begins the names of all instances' tables.
const tablePrefix = "warren_"

func (h *Host) table() *nftables.Table {
	return &nftables.Table{Name: tablePrefix + h.cfg.Instance, Family: nftables.TableFamilyINet}
}

// A span is the addresses from First to Last.
type span struct{ First, Last netip.Addr }

func (s span) String() string { return s.First.String() + "-" + s.Last.String() }

// spans gives networks of one family as spans that do not touch, in order.
func spans(all []netip.Prefix, six bool) []span {
	var list []span
	for _, p := range all {
		if p.IsValid() && p.Addr().Is6() == six {
			list = append(list, span{p.Masked().Addr(), lastOf(p)})
		}
	}
	slices.SortFunc(list, func(a, b span) int { return a.First.Compare(b.First) })
	var out []span
	for _, s := range list {
		if n := len(out); n > 0 {
			// The address behind the last of all is none: it holds whatever comes.
			if next := out[n-1].Last.Next(); !next.IsValid() || next.Compare(s.First) >= 0 {
				if s.Last.Compare(out[n-1].Last) > 0 {
					out[n-1].Last = s.Last
				}
				continue
			}
		}
		out = append(out, s)
	}
	return out
}

// lastOf is the last address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b) // as long as it was
	return a
}

// unrouted are destinations that are nobody's beyond the uplink.
var unrouted = []netip.Prefix{netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"), netip.MustParsePrefix("ff00::/8"), netip.MustParsePrefix("fe80::/10")}

// A masquerading is what the rules say of one family, nothing without Pods:
// what has a source of Own and a destination of neither Pods nor Keep gets the
// node's address. What leaves by a tunnel and has no source of Pods gets Tunnel,
// the node's own address among its pods: the answer to anything else would not
// come back by the tunnel.
type masquerading struct {
	Own, Pods, Keep []span
	Tunnel          netip.Addr
}

// rules is how many rules there are for it.
func (m masquerading) rules() int {
	n := 0
	if len(m.Own) > 0 {
		n++
	}
	if m.Tunnel.IsValid() {
		n++
	}
	return n
}

// masqueradings are those of IPv4 and IPv6.
func (h *Host) masqueradings(want HostState) [2]masquerading {
	var out [2]masquerading
	if want.Mode == Chained || h.cfg.NoMasquerade && want.Mode != VXLAN {
		return out
	}
	own := networks(want.Self)
	pods := slices.Concat(own, networks(want.Others...))
	keep := slices.Concat(unrouted, h.cfg.KeepSource)
	// The network below tunnels need not carry addresses of pods at all.
	if want.Mode == Routed {
		for _, n := range append([]Node{want.Self}, want.Others...) {
			for _, a := range n.Addrs {
				if a = a.Unmap(); a.IsValid() {
					keep = append(keep, netip.PrefixFrom(a, a.BitLen()))
				}
			}
		}
	}
	for i := range out {
		mine := spans(own, i == 1)
		if len(mine) == 0 {
			continue
		}
		out[i].Pods = spans(pods, i == 1)
		if want.Mode == VXLAN {
			out[i].Tunnel = ownAddr(own, i == 1)
		}
		if !h.cfg.NoMasquerade {
			out[i].Own, out[i].Keep = mine, spans(keep, i == 1)
		}
	}
	return out
}

// setMasquerade makes the instance's table what it should be, in one step.
func (h *Host) setMasquerade(want HostState) error {
	rules := h.masqueradings(want)
	count := 0
	for _, r := range rules {
		count += r.rules()
	}
	if count == 0 {
		h.masquerade = ""
		return h.removeMasquerade()
	}
	text := fmt.Sprint(rules)
	if text == h.masquerade && h.masquerades(count) {
		return nil
	}
	h.masquerade = ""
	// All of it is one message to the kernel, or it would not be one step.
	c, err := nftables.New(nftables.WithSockOptions(longMessages))
	if err != nil {
		return err
	}
	t := c.AddTable(h.table()) // so that there is one to delete
	c.DelTable(t)
	t = c.AddTable(h.table())
	policy := nftables.ChainPolicyAccept
	chain := c.AddChain(&nftables.Chain{
		Name: masqueradeChain, Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Policy: &policy,
	})
	for i, r := range rules {
		if r.rules() == 0 {
			continue
		}
		if err := h.addRules(c, t, chain, r, i == 1); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write table %s: %w", t.Name, err)
	}
	h.masquerade = text
	return nil
}

// addRules adds one family's sets and rules.
func (h *Host) addRules(c *nftables.Conn, t *nftables.Table, chain *nftables.Chain, m masquerading, six bool) error {
	family, suffix, kind := byte(unix.NFPROTO_IPV4), "4", nftables.TypeIPAddr
	source, destination, length := uint32(12), uint32(16), uint32(4)
	if six {
		family, suffix, kind = unix.NFPROTO_IPV6, "6", nftables.TypeIP6Addr
		source, destination, length = 8, 24, 16
	}
	set := func(name string, of []span) (*nftables.Set, error) {
		s := &nftables.Set{Table: t, Name: name + suffix, KeyType: kind, Interval: true}
		if err := c.AddSet(s, nil); err != nil {
			return nil, err
		}
		// As many as a message has room for.
		for part := range slices.Chunk(elements(of), 1000) {
			if err := c.SetAddElements(s, part); err != nil {
				return nil, err
			}
		}
		return s, nil
	}
	only := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
	}
	in := func(offset uint32, s *nftables.Set, not bool) []expr.Any {
		return []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
			&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID, Invert: not},
		}
	}
	rule := func(exprs ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: slices.Concat(exprs...)})
	}
	pods, err := set("pods", m.Pods)
	if err != nil {
		return err
	}
	if m.Tunnel.IsValid() {
		device := make([]byte, unix.IFNAMSIZ)
		copy(device, h.tunnelName())
		rule(only, []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: device},
		}, in(source, pods, true), []expr.Any{
			&expr.Immediate{Register: 1, Data: m.Tunnel.AsSlice()},
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(family), RegAddrMin: 1},
		})
	}
	if len(m.Own) > 0 {
		own, err := set("own", m.Own)
		if err != nil {
			return err
		}
		keep, err := set("keep", m.Keep)
		if err != nil {
			return err
		}
		rule(only, in(source, own, false), in(destination, pods, true), in(destination, keep, true), []expr.Any{&expr.Masq{}})
	}
	return nil
}

// elements gives spans as a set has them: where each begins, and where it has
// ended. The last of all addresses has none behind it.
func elements(all []span) []nftables.SetElement {
	var out []nftables.SetElement
	for _, s := range all {
		out = append(out, nftables.SetElement{Key: s.First.AsSlice()})
		if next := s.Last.Next(); next.IsValid() {
			out = append(out, nftables.SetElement{Key: next.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

// masquerades tells whether the chain is there with its rules: others may have
// flushed all there were.
func (h *Host) masquerades(rules int) bool {
	c, err := nftables.New()
	if err != nil {
		return false
	}
	t := h.table()
	is, err := c.GetRules(t, &nftables.Chain{Name: masqueradeChain, Table: t})
	return err == nil && len(is) == rules
}

// removeMasquerade removes the instance's table.
func (h *Host) removeMasquerade() error {
	h.masquerade = ""
	c, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		return nil // a kernel without nftables has no table
	case err != nil:
		return fmt.Errorf("list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == h.table().Name {
			c.DelTable(t)
			return c.Flush()
		}
	}
	return nil
}

// hindrances says what of other programs' keeps packets from being forwarded, or
// does the same as this one.
func (h *Host) hindrances() []string {
	c, err := nftables.New()
	if err != nil {
		return nil
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil // that there is no masquerading was said
	}
	var all []string
	for _, chain := range chains {
		if chain.Table == nil || chain.Table.Name == h.table().Name {
			continue
		}
		if strings.HasPrefix(chain.Table.Name, tablePrefix) && chain.Name == masqueradeChain {
			all = append(all, fmt.Sprintf("another agent, %s, makes the network here too", strings.TrimPrefix(chain.Table.Name, tablePrefix)))
		}
		if chain.Type == nftables.ChainTypeFilter && chain.Hooknum != nil && *chain.Hooknum == *nftables.ChainHookForward && chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop {
			all = append(all, fmt.Sprintf("what is forwarded is dropped by the policy of chain %s in table %s, unless a rule there accepts it: pods may reach neither services nor what is outside", chain.Name, chain.Table.Name))
		}
	}
	return all
}
