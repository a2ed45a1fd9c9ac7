package netpol

import "net/netip"

// Judge judges a packet at both of its ends as the kernel does, with the same
// lookups. An end for which the Program has no set is not judged.
func (p *Program) Judge(packet Packet) (egress, ingress Judgement) {
	src, dst := canonical(packet.Src), canonical(packet.Dst)
	return p.judge(Egress, src, dst, packet), p.judge(Ingress, dst, src, packet)
}

func (p *Program) judge(dir Direction, subject, peer netip.Addr, packet Packet) Judgement {
	own, other := p.owners[subject], p.owners[peer]
	set := p.Sets[p.SetOf[own.pod]]
	switch {
	case own.pod == "" || set == nil:
		return Judgement{}
	case own.pod == other.pod:
		return Judgement{Verdict: Allow}
	case dir == Ingress && other != (owner{}) && other.pod == "" && other.node == own.node:
		return Judgement{Verdict: Allow}
	}
	verdict, rule := set.Judge(p.Identity(peer), dir, packet.Protocol, packet.Port)
	return Judgement{verdict, p.Rules[rule]}
}

// Identity returns the identity of an address.
func (p *Program) Identity(addr netip.Addr) ID {
	addr = canonical(addr)
	if id, ok := p.Addresses[addr]; ok {
		return id
	}
	lengths := p.lengths6
	if addr.Is4() {
		lengths = p.lengths4
	}
	for _, length := range lengths {
		if prefix, err := addr.Prefix(length); err == nil {
			if id, ok := p.Networks[prefix]; ok {
				return id
			}
		}
	}
	return 0
}

// Judge asks the set for one peer, protocol and port of the server. All keys
// that can match are looked up, and the smallest order wins: of the admin tier,
// unless that is a pass or there is none, then of the tier behind it.
func (s *Set) Judge(peer ID, dir Direction, protocol uint8, port uint16) (Verdict, RuleID) {
	var best Value
	try := func(k Key) {
		value, ok := s.Verdicts[k]
		if !ok {
			return
		}
		for slot, order := range value.Order {
			if order != 0 && (best.Order[slot] == 0 || order < best.Order[slot]) {
				best.Order[slot], best.Rule[slot] = order, value.Rule[slot]
			}
		}
	}
	for _, who := range [2]ID{peer, 0} {
		if s.AnyProtocol[dir] {
			try(Key{Peer: who, Direction: dir})
		}
		for bits := uint8(0); bits <= 16; bits++ {
			if s.Lengths[dir]&(1<<bits) != 0 {
				masked := uint16(uint32(port) >> (16 - bits) << (16 - bits))
				try(Key{Peer: who, Direction: dir, Protocol: protocol, Port: masked, Bits: bits})
			}
		}
	}
	for slot, order := range best.Order {
		switch order & 3 {
		case 1:
			return Allow, best.Rule[slot]
		case 2:
			return Deny, best.Rule[slot]
		}
	}
	if s.Isolated[dir] {
		return Deny, 0
	}
	return Allow, 0
}
