package cni

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/internal/netdump"
)

// Ports of the node that are pods' are rules of a table of the network's own,
// which is there as long as a pod has one:
//
//	chain guard        pods do not reach the node's loopback, though their
//	                   interfaces route it
//	chain prerouting   to an address of the node: jump ports
//	chain output       the same for the node's own processes
//	chain ports        one rule for each mapping and family
//	chain postrouting  from the node's loopback to a pod: masquerade; jump hairpin
//	chain hairpin      from a pod to itself: masquerade
//
// Rules of an attachment carry its key in their comment, and are removed by it.
// A new rule comes first: it is the one that holds where an old one was
// forgotten.
const (
	portTable    = "warren-hostport-"
	portsChain   = "ports"
	hairpinChain = "hairpin"
	commentStart = "warren "
)

// A ruleset is the table while a call changes it.
type ruleset struct {
	conn  *nftables.Conn
	table *nftables.Table
	there bool // the table is
}

func openRuleset(network string) (*ruleset, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	t := &ruleset{conn: c, table: &nftables.Table{Name: portTable + network, Family: nftables.TableFamilyINet}}
	list, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list tables of nftables: %w", err)
	}
	t.there = slices.ContainsFunc(list, func(o *nftables.Table) bool { return o.Name == t.table.Name })
	return t, nil
}

func (t *ruleset) chain(name string) *nftables.Chain {
	return &nftables.Chain{Name: name, Table: t.table}
}

// rules returns the rules of attachments by their keys.
func (t *ruleset) rules() (map[string][]*nftables.Rule, error) {
	all := map[string][]*nftables.Rule{}
	if !t.there {
		return all, nil
	}
	for _, name := range []string{portsChain, hairpinChain} {
		list, err := t.conn.GetRules(t.table, t.chain(name))
		if err != nil {
			return nil, fmt.Errorf("list rules of %s %s: %w", t.table.Name, name, err)
		}
		for _, r := range list {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			if rest, ok := strings.CutPrefix(comment, commentStart); ok {
				key, _, _ := strings.Cut(rest, " ")
				all[key] = append(all[key], r)
			}
		}
	}
	return all, nil
}

func (t *ruleset) commit() error {
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("change table %s of nftables: %w", t.table.Name, err)
	}
	return nil
}

// base makes the table, and the rules that are nobody's, as they should be.
func (t *ruleset) base() {
	t.conn.AddTable(t.table)
	t.conn.AddChain(t.chain(portsChain))
	t.conn.AddChain(t.chain(hairpinChain))
	hook := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) func(...expr.Any) {
		c := t.conn.AddChain(&nftables.Chain{Name: name, Table: t.table, Type: kind, Hooknum: hook, Priority: priority})
		t.conn.FlushChain(c)
		return func(e ...expr.Any) { t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: c, Exprs: e}) }
	}
	guard := hook("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	for _, offset := range []uint32{sourceOf4, destinationOf4} {
		guard(slices.Concat(podDevice(expr.MetaKeyIIFNAME), loopback4(offset), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})...)
	}
	toPorts := []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		equal(native(unix.RTN_LOCAL)),
		&expr.Verdict{Kind: expr.VerdictJump, Chain: portsChain},
	}
	hook("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)(toPorts...)
	output := hook("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	// From ::1 nothing can leave the node, not even with another destination.
	output(slices.Concat(address(netip.IPv6Loopback(), false), []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}})...)
	output(toPorts...)
	post := hook("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	post(slices.Concat(podDevice(expr.MetaKeyOIFNAME), loopback4(sourceOf4), []expr.Any{&expr.Masq{}})...)
	post(&expr.Verdict{Kind: expr.VerdictJump, Chain: hairpinChain})
}

// Where addresses are in the headers.
const (
	sourceOf4      = 12
	destinationOf4 = 16
	sourceOf6      = 8
	destinationOf6 = 24
)

func equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func family(six bool) []expr.Any {
	proto := byte(unix.NFPROTO_IPV4)
	if six {
		proto = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{proto})}
}

// podDevice matches interfaces of pods: their names begin alike.
func podDevice(key expr.MetaKey) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, equal([]byte(hostPrefix))}
}

func loopback4(offset uint32) []expr.Any {
	return append(family(false), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1}, equal([]byte{127}))
}

// address matches packets from or to an address.
func address(a netip.Addr, source bool) []expr.Any {
	offset := map[[2]bool]uint32{{false, true}: sourceOf4, {false, false}: destinationOf4, {true, true}: sourceOf6, {true, false}: destinationOf6}[[2]bool{a.Is6(), source}]
	return append(family(a.Is6()), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(a.BitLen() / 8)}, equal(a.AsSlice()))
}

var protocolNumbers = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}

func port(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

// forwarding is the rule of a mapping to a pod's address, nil if it is for the
// other family.
func (p portMapping) forwarding(pod netip.Addr) []expr.Any {
	host, ok := p.host(pod)
	if !ok {
		return nil
	}
	match := family(pod.Is6())
	if host.IsValid() {
		match = address(host, false)
	}
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2}
	if pod.Is6() {
		nat.Family = unix.NFPROTO_IPV6
	}
	return append(match,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{protocolNumbers[p.Protocol]}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, equal(port(p.HostPort)),
		&expr.Immediate{Register: 1, Data: pod.AsSlice()},
		&expr.Immediate{Register: 2, Data: port(p.ContainerPort)},
		nat,
	)
}

// portRules are the rules of an attachment: a chain's name and what is in it.
func portRules(r *record) map[string][][]expr.Any {
	rules := map[string][][]expr.Any{}
	for _, a := range r.Addrs {
		before := len(rules[portsChain])
		for _, p := range r.Ports {
			if f := p.forwarding(a); f != nil {
				rules[portsChain] = append(rules[portsChain], f)
			}
		}
		if len(rules[portsChain]) > before {
			same := slices.Concat(address(a, true), address(a, false), []expr.Any{&expr.Masq{}})
			rules[hairpinChain] = append(rules[hairpinChain], same)
		}
	}
	return rules
}

// mapPorts makes ports of the node those of an attachment, in the place of what
// it had before.
func mapPorts(s *state, network string, r *record) error {
	if len(r.Ports) == 0 {
		return nil
	}
	l, err := s.lock(portLock)
	if err != nil {
		return err
	}
	defer l.Close()
	t, err := openRuleset(network)
	if err != nil {
		return err
	}
	old, err := t.rules()
	if err != nil {
		return err
	}
	t.base()
	for _, rule := range old[key(r.Attachment)] {
		if err := t.conn.DelRule(rule); err != nil {
			return err
		}
	}
	const most = 120 // of a comment that people read; nftables allows 128
	comment := commentStart + key(r.Attachment) + " " + podName(r)
	data := userdata.AppendString(nil, userdata.TypeComment, comment[:min(len(comment), most)])
	for chain, list := range portRules(r) {
		for _, e := range list {
			t.conn.InsertRule(&nftables.Rule{Table: t.table, Chain: t.chain(chain), Exprs: e, UserData: data})
		}
	}
	if err := t.commit(); err != nil {
		return err
	}
	forgetUDP(r)
	return nil
}

// unmapPorts removes the rules of an attachment. r is its record, nil if it is
// lost: then the rules are looked for, and not to find out is no error.
func unmapPorts(s *state, network, key string, r *record) error {
	if r != nil && len(r.Ports) == 0 {
		return nil
	}
	err := dropRules(s, network, func(k string) bool { return k == key })
	if r == nil && err != nil {
		fmt.Fprintf(os.Stderr, "%s: look for ports of the node: %v\n", Program, err)
		return nil
	}
	if r != nil {
		forgetUDP(r)
	}
	return err
}

// collectPorts removes the rules of all attachments but those whose keys are
// kept.
func collectPorts(s *state, network string, kept map[string]bool) error {
	return dropRules(s, network, func(k string) bool { return !kept[k] })
}

// dropRules removes rules by their keys, and the table with the last.
func dropRules(s *state, network string, drop func(key string) bool) error {
	l, err := s.lock(portLock)
	if err != nil {
		return err
	}
	defer l.Close()
	t, err := openRuleset(network)
	if err != nil || !t.there {
		return err
	}
	all, err := t.rules()
	if err != nil {
		return err
	}
	left, dropped := 0, 0
	for k, list := range all {
		if !drop(k) {
			left += len(list)
			continue
		}
		for _, r := range list {
			dropped++
			if err := t.conn.DelRule(r); err != nil {
				return err
			}
		}
	}
	switch {
	case left == 0:
		t.conn.DelTable(t.table)
	case dropped == 0:
		return nil
	}
	return t.commit()
}

// checkPorts says whether the ports of an attachment are mapped.
func checkPorts(network string, r *record) error {
	if len(r.Ports) == 0 {
		return nil
	}
	t, err := openRuleset(network)
	if err != nil {
		return err
	}
	all, err := t.rules()
	if err != nil {
		return err
	}
	want := 0
	for _, list := range portRules(r) {
		want += len(list)
	}
	if have := len(all[key(r.Attachment)]); have != want {
		return fmt.Errorf("%d rules for ports of the node are there, %d should be", have, want)
	}
	return nil
}

// forgetUDP ends the kernel's memory of flows by UDP to ports that change their
// owner: who keeps sending would reach whom he reached before. That it cannot be
// done is told to people, and no more: they end by themselves.
func forgetUDP(r *record) {
	f := udpFlows{ports: map[uint16]bool{}, pods: map[netip.Addr]bool{}, node: map[netip.Addr]bool{}}
	for _, p := range r.Ports {
		if p.Protocol == "udp" {
			f.ports[uint16(p.HostPort)] = true
		}
	}
	if len(f.ports) == 0 {
		return
	}
	for _, a := range r.Addrs {
		f.pods[a] = true
	}
	h, err := netdump.Handle(unix.NETLINK_NETFILTER, unix.NETLINK_ROUTE)
	if err == nil {
		var own []netlink.Addr
		own, err = h.AddrList(nil, netlink.FAMILY_ALL)
		for _, a := range own {
			f.node[addrOf(a.IP)] = true
		}
		defer h.Close()
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			if _, e := h.ConntrackDeleteFilters(netlink.ConntrackTable, family, f); e != nil && !errors.Is(e, unix.ENOENT) {
				err = errors.Join(err, e)
			}
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: forget flows by UDP: %v\n", Program, err)
	}
}

// udpFlows matches flows to ports of the node, and those that pods answer. What
// others are asked at a port of the same number goes on: the kernel would forget
// who translated it.
type udpFlows struct {
	ports map[uint16]bool
	pods  map[netip.Addr]bool
	node  map[netip.Addr]bool // its addresses
}

// MatchConntrackFlow implements [netlink.CustomConntrackFilter].
func (f udpFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	return f.ports[flow.Forward.DstPort] && f.node[addrOf(flow.Forward.DstIP)] || f.pods[addrOf(flow.Reverse.SrcIP)]
}
