package datapath

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Packets of tests are put together from the inside to the outside:
//
//	ether(ip("10.0.0.1", "10.0.0.2", tcp(40000, 80, syn)))

// Protocols and flags that packets are made of.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoGRE    = 47
	protoICMPv6 = 58
	protoSCTP   = 132

	fin = 1
	syn = 2
	rst = 4
	ack = 16
)

// A transport is what an IP header announces.
type transport struct {
	proto uint8
	bytes []byte
}

func tcp(sport, dport uint16, flags uint8, payload ...byte) transport {
	b := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(b[0:], sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	b[12] = 5 << 4
	b[13] = flags
	return transport{protoTCP, append(b, payload...)}
}

func udp(sport, dport uint16, payload ...byte) transport {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b[0:], sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return transport{protoUDP, append(b, payload...)}
}

func sctp(sport, dport uint16) transport {
	b := make([]byte, 16)
	binary.BigEndian.PutUint16(b[0:], sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	return transport{protoSCTP, b}
}

// icmp is a message of ICMP with an identifier.
func icmp(kind, code uint8, id uint16, rest ...byte) transport {
	b := make([]byte, 8, 8+len(rest))
	b[0], b[1] = kind, code
	binary.BigEndian.PutUint16(b[4:], id)
	return transport{protoICMP, append(b, rest...)}
}

func icmp6(kind, code uint8, id uint16, rest ...byte) transport {
	t := icmp(kind, code, id, rest...)
	t.proto = protoICMPv6
	return t
}

func other(proto uint8, payload ...byte) transport { return transport{proto, payload} }

// An ipPacket is an IP packet in the making.
type ipPacket struct {
	src, dst netip.Addr
	ttl      uint8
	options  []byte // of IPv4, padded to words
	headers  []byte // of IPv6, between its own and the transport's
	first    uint8  // protocol of headers
	id       uint32 // of fragments
	offset   int    // of a fragment, bytes
	more     bool
	inner    transport
}

func (p ipPacket) with(change func(*ipPacket)) ipPacket {
	change(&p)
	return p
}

// makeIP makes a packet of the version that its addresses have.
func makeIP(src, dst string, t transport) ipPacket {
	return ipPacket{src: netip.MustParseAddr(src), dst: netip.MustParseAddr(dst), ttl: 64, inner: t}
}

func ip(src, dst string, t transport) []byte { return makeIP(src, dst, t).bytes() }

func (p ipPacket) bytes() []byte {
	if p.src.Is4() {
		options := slices.Clone(p.options)
		for len(options)%4 != 0 {
			options = append(options, 0)
		}
		b := make([]byte, 20, 20+len(options)+len(p.inner.bytes))
		b[0] = 4<<4 | uint8(5+len(options)/4)
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(options)+len(p.inner.bytes)))
		binary.BigEndian.PutUint16(b[4:], uint16(p.id))
		fragment := uint16(p.offset / 8)
		if p.more {
			fragment |= 0x2000
		}
		binary.BigEndian.PutUint16(b[6:], fragment)
		b[8], b[9] = p.ttl, p.inner.proto
		copy(b[12:], p.src.AsSlice())
		copy(b[16:], p.dst.AsSlice())
		b = append(b, options...)
		binary.BigEndian.PutUint16(b[10:], checksum(b))
		return append(b, p.inner.bytes...)
	}
	headers, next := slices.Clone(p.headers), p.inner.proto
	if len(headers) > 0 {
		next = p.first
	}
	if p.offset > 0 || p.more {
		// Behind the other headers, whose last one announces it.
		f := []byte{p.inner.proto, 0, 0, 0, 0, 0, 0, 0}
		fragment := uint16(p.offset)
		if p.more {
			fragment |= 1
		}
		binary.BigEndian.PutUint16(f[2:], fragment)
		binary.BigEndian.PutUint32(f[4:], p.id)
		if len(headers) == 0 {
			next = 44
		}
		headers = append(headers, f...)
	}
	b := make([]byte, 40, 40+len(headers)+len(p.inner.bytes))
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(headers)+len(p.inner.bytes)))
	b[6], b[7] = next, p.ttl
	copy(b[8:], p.src.AsSlice())
	copy(b[24:], p.dst.AsSlice())
	return append(append(b, headers...), p.inner.bytes...)
}

// chain makes IPv6 extension headers of the given types, eight bytes each.
func chain(last uint8, types ...uint8) (first uint8, headers []byte) {
	for i, kind := range types {
		next := last
		if i+1 < len(types) {
			next = types[i+1]
		}
		h := make([]byte, 8)
		h[0] = next
		if kind == 51 {
			h[1] = 0 // (0 + 2) * 4 bytes
		}
		headers = append(headers, h...)
	}
	return types[0], headers
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// ether puts an Ethernet header before an IP packet, and VLAN tags between them.
func ether(packet []byte, vlans ...uint16) []byte {
	b := make([]byte, 12, 14+4*len(vlans)+len(packet))
	copy(b, deviceMAC[:])
	copy(b[6:], podMAC("a"))
	for i, v := range vlans {
		kind := uint16(0x8100)
		if i+1 < len(vlans) {
			kind = 0x88a8
		}
		b = binary.BigEndian.AppendUint16(b, kind)
		b = binary.BigEndian.AppendUint16(b, v)
	}
	kind := uint16(0x0800)
	if packet[0]>>4 == 6 {
		kind = 0x86dd
	}
	return append(binary.BigEndian.AppendUint16(b, kind), packet...)
}

// frame is an Ethernet frame of any other kind.
func frame(kind uint16, payload ...byte) []byte {
	b := make([]byte, 12, 14+len(payload))
	copy(b, deviceMAC[:])
	return append(binary.BigEndian.AppendUint16(b, kind), payload...)
}
