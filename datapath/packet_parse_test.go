package datapath

import (
	"encoding/binary"
	"slices"
	"testing"
)

// cut takes bytes from the end of a packet, without telling its headers.
func cut(packet []byte, n int) []byte { return packet[:len(packet)-n] }

// set writes into a packet.
func set(packet []byte, at int, bytes ...byte) []byte {
	packet = slices.Clone(packet)
	copy(packet[at:], bytes)
	return packet
}

// TestBPFParse: what is understood, passed over and refused of what a pod sends.
func TestBPFParse(t *testing.T) {
	const eth = 14
	fragments := func(p *ipPacket) { p.id, p.more = 7, true }
	later := func(id uint32, offset int) func(*ipPacket) {
		return func(p *ipPacket) { p.id, p.offset = id, offset }
	}
	headers := func(types ...uint8) func(*ipPacket) {
		return func(p *ipPacket) { p.first, p.headers = chain(p.inner.proto, types...) }
	}
	options := func(b ...byte) func(*ipPacket) {
		return func(p *ipPacket) { p.options = b }
	}
	data := make([]byte, 32)
	routing := []byte{17, 0, 0, 1, 0, 0, 0, 0} // of type 0, one segment left
	v4 := func(t transport, change ...func(*ipPacket)) []byte {
		p := makeIP(podA4, podB4, t)
		for _, c := range change {
			p = p.with(c)
		}
		return ether(p.bytes())
	}
	v6 := func(t transport, change ...func(*ipPacket)) []byte {
		p := makeIP(podA6, podB6, t)
		for _, c := range change {
			p = p.with(c)
		}
		return ether(p.bytes())
	}
	w := newPacketWorld(t)
	for _, c := range []struct {
		name    string
		packets [][]byte // the last one counts
		want    uint32
		reason  stateReason
	}{
		{name: "TCP", packets: [][]byte{v4(tcp(1, 2, syn))}, want: toRedirect},
		{name: "TCP, IPv6", packets: [][]byte{v6(tcp(1, 2, syn))}, want: toRedirect},
		{name: "UDP", packets: [][]byte{v4(udp(1, 2))}, want: toRedirect},
		{name: "UDP, IPv6", packets: [][]byte{v6(udp(1, 2))}, want: toRedirect},
		{name: "SCTP", packets: [][]byte{v4(sctp(1, 2))}, want: toRedirect},
		{name: "SCTP, IPv6", packets: [][]byte{v6(sctp(1, 2))}, want: toRedirect},
		{name: "ICMP echo", packets: [][]byte{v4(icmp(8, 0, 5))}, want: toRedirect},
		{name: "ICMPv6 echo", packets: [][]byte{v6(icmp6(128, 0, 5))}, want: toRedirect},
		{name: "another protocol", packets: [][]byte{v4(other(protoGRE, data...))}, want: toRedirect},
		{name: "no next header", packets: [][]byte{v6(other(59))}, want: toRedirect},
		{name: "padding of Ethernet", packets: [][]byte{append(v4(udp(1, 2)), make([]byte, 18)...)}, want: toRedirect},

		{name: "a tag", packets: [][]byte{ether(ip(podA4, podB4, udp(1, 2)), 5)}, want: toStack},
		{name: "two tags", packets: [][]byte{ether(ip(podA4, podB4, udp(1, 2)), 5, 6)}, want: toStack},
		{name: "three tags", packets: [][]byte{ether(ip(podA4, podB4, udp(1, 2)), 5, 6, 7)}, want: toDrop, reason: stateReasonREASON_NOT_IP},
		{name: "ARP", packets: [][]byte{frame(0x0806, data...)}, want: toStack, reason: stateReasonREASON_MAX},
		{name: "LLDP", packets: [][]byte{frame(0x88cc, data...)}, want: toDrop, reason: stateReasonREASON_NOT_IP},

		{name: "options", packets: [][]byte{v4(tcp(1, 2, syn), options(1, 1, 148, 4, 0, 0))}, want: toRedirect},
		{name: "a loose source route", packets: [][]byte{v4(tcp(1, 2, syn), options(1, 131, 7, 4, 10, 0, 0, 9))}, want: toDrop, reason: stateReasonREASON_SOURCE_ROUTED},
		{name: "a strict source route", packets: [][]byte{v4(udp(1, 2), options(137, 7, 4, 10, 0, 0, 9))}, want: toDrop, reason: stateReasonREASON_SOURCE_ROUTED},
		{name: "a source route behind the options' end", packets: [][]byte{v4(udp(1, 2), options(0, 137, 7, 4))}, want: toRedirect},
		{name: "an option without length", packets: [][]byte{v4(udp(1, 2), options(68, 0, 0, 0))}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "as many options as there can be", packets: [][]byte{v4(udp(1, 2), options(slices.Repeat([]byte{1}, 40)...))}, want: toRedirect},

		{name: "extension headers", packets: [][]byte{v6(tcp(1, 2, syn), headers(0, 60))}, want: toRedirect},
		{name: "an authentication header", packets: [][]byte{v6(tcp(1, 2, syn), headers(51))}, want: toRedirect},
		{name: "seven extension headers", packets: [][]byte{v6(udp(1, 2), headers(60, 60, 60, 60, 60, 60, 60))}, want: toRedirect},
		{name: "nine extension headers", packets: [][]byte{v6(udp(1, 2), headers(60, 60, 60, 60, 60, 60, 60, 60, 60))}, want: toDrop, reason: stateReasonREASON_UNKNOWN_L4},
		{name: "a routing header that is used up", packets: [][]byte{v6(udp(1, 2), headers(43))}, want: toRedirect},
		{name: "a routing header", packets: [][]byte{v6(udp(1, 2), func(p *ipPacket) { p.first, p.headers = 43, routing })}, want: toDrop, reason: stateReasonREASON_SOURCE_ROUTED},

		{name: "the first fragment", packets: [][]byte{v4(udp(1, 2, data...), fragments)}, want: toRedirect},
		{name: "a later fragment", packets: [][]byte{v4(udp(1, 2, data...), fragments), v4(other(protoUDP, data...), later(7, 40))}, want: toRedirect},
		{name: "a later fragment, IPv6", packets: [][]byte{v6(udp(1, 2, data...), fragments), v6(other(protoUDP, data...), later(7, 40))}, want: toRedirect},
		{name: "a fragment of another packet", packets: [][]byte{v4(udp(1, 2, data...), fragments), v4(other(protoUDP, data...), later(8, 40))}, want: toDrop, reason: stateReasonREASON_FRAGMENT_UNKNOWN},
		{name: "a fragment before the first, IPv6", packets: [][]byte{v6(other(protoUDP, data...), later(9, 40))}, want: toDrop, reason: stateReasonREASON_FRAGMENT_UNKNOWN},
		{name: "a fragment that overwrites TCP's flags", packets: [][]byte{v4(tcp(1, 2, ack, data...), fragments), v4(other(protoTCP, data...), later(7, 8))}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "a first fragment that ends in the header", packets: [][]byte{v4(other(protoTCP, data[:16]...), fragments)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},

		// Behind a tag, for the kernel runs no programs on less than an IP header.
		{name: "nothing but Ethernet", packets: [][]byte{cut(ether(ip(podA4, podB4, udp(1, 2)), 5), 28)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "half a tag", packets: [][]byte{frame(0x8100, 0, 5)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "half an IPv4 header", packets: [][]byte{cut(ether(ip(podA4, podB4, udp(1, 2)), 5), 9)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "half an IPv6 header", packets: [][]byte{cut(ether(ip(podA6, podB6, other(59)), 5), 1)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "version 6 in a frame of IPv4", packets: [][]byte{set(v4(udp(1, 2)), eth, 0x65)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "version 4 in a frame of IPv6", packets: [][]byte{set(v6(udp(1, 2)), eth, 0x45)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "a header of four words", packets: [][]byte{set(v4(udp(1, 2)), eth, 0x44)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "a header longer than the packet", packets: [][]byte{set(v4(udp(1, 2)), eth, 0x4f)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "an IPv4 packet that was cut off", packets: [][]byte{cut(v4(udp(1, 2, data...)), 1)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "an IPv6 packet that was cut off", packets: [][]byte{cut(v6(udp(1, 2, data...)), 1)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "a packet of no length", packets: [][]byte{set(v4(udp(1, 2)), eth+2, 0, 0)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "a packet of no length, IPv6", packets: [][]byte{set(v6(udp(1, 2)), eth+4, 0, 0)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "half a TCP header", packets: [][]byte{v4(other(protoTCP, data[:19]...))}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "a TCP header of four words", packets: [][]byte{set(v4(tcp(1, 2, syn)), eth+20+12, 4<<4)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "a TCP header longer than the packet", packets: [][]byte{set(v4(tcp(1, 2, syn)), eth+20+12, 6<<4)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "half a UDP header", packets: [][]byte{v4(other(protoUDP, data[:7]...))}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "a UDP length beyond the packet", packets: [][]byte{set(v4(udp(1, 2)), eth+20+4, 0, 9)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "a UDP length less than its header", packets: [][]byte{set(v6(udp(1, 2)), eth+40+4, 0, 7)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "half an SCTP header", packets: [][]byte{v4(other(protoSCTP, data[:11]...))}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "half an ICMP header", packets: [][]byte{v4(other(protoICMP, data[:7]...))}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "extension headers beyond the packet", packets: [][]byte{set(v6(udp(1, 2), headers(60)), eth+40+1, 9)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
		{name: "an IPv4 address in a packet of IPv6", packets: [][]byte{set(v6(udp(1, 2)), eth+24, append(append(make([]byte, 10), 0xff, 0xff), 10, 0, 0, 2)...)}, want: toDrop, reason: stateReasonREASON_INVALID_PACKET},
	} {
		last := len(c.packets) - 1
		for _, p := range c.packets[:last] {
			w.from("a", p)
		}
		if c.reason == stateReasonREASON_MAX { // neither dropped nor counted
			w.want(c.name, w.from("a", c.packets[last]), c.want)
			continue
		}
		before := w.dropped(egress, c.reason)
		w.want(c.name, w.from("a", c.packets[last]), c.want)
		if n := w.dropped(egress, c.reason) - before; n != 1 {
			t.Errorf("%s: counted %d times as reason %d", c.name, n, c.reason)
		}
	}
}

// TestBPFFragmentsOneFlow: all fragments are in the flow of the first.
func TestBPFFragmentsOneFlow(t *testing.T) {
	w := newPacketWorld(t)
	data := make([]byte, 64)
	for _, ends := range [][2]string{{podA4, podB4}, {podA6, podB6}} {
		first := makeIP(ends[0], ends[1], udp(1000, 53, data...)).with(func(p *ipPacket) { p.id, p.more = 99, true })
		last := makeIP(ends[0], ends[1], other(protoUDP, data...)).with(func(p *ipPacket) { p.id, p.offset = 99, 72 })
		w.want("first", w.from("a", ether(first.bytes())), toRedirect)
		w.want("last", w.from("a", ether(last.bytes())), toRedirect)
		if f := w.flow(ends[0], ends[1], 1000, 53, protoUDP); f.Packets[0] != 2 {
			t.Errorf("%d packets in the flow, want 2", f.Packets[0])
		}
	}
}

// TestBPFDiscovery: what is about the link passes to its other end, and is no way around policy.
func TestBPFDiscovery(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setA)
	w.isolate(setB)
	w.place("fd68::1", statePlace{Id: idHost, Flags: uint32(statePlaceFlagsPLACE_HOST)})
	hops := func(n uint8) func(*ipPacket) { return func(p *ipPacket) { p.ttl = n } }
	for _, c := range []struct {
		name     string
		kind     uint8
		src, dst string
		hops     uint8
		want     uint32
	}{
		{"solicitation to all", 135, podA6, "ff02::1:ff00:1", 255, toStack},
		{"solicitation without an address", 135, "::", "ff02::1:ff00:1", 255, toStack},
		{"solicitation to the link's host", 135, "fe80::1", "fe80::2", 255, toStack},
		{"solicitation to the host", 135, podA6, "fd68::1", 255, toStack},
		{"solicitation to another pod", 135, podA6, podB6, 255, toDrop},
		{"advertisement from afar", 136, podA6, podB6, 64, toDrop},
		{"router advertisement", 134, "fe80::1", "ff02::1", 255, toDrop},
		{"redirect", 137, "fe80::1", "fe80::2", 255, toDrop},
		{"listener report", 143, "::", "ff02::16", 1, toStack},
	} {
		packet := ether(makeIP(c.src, c.dst, icmp6(c.kind, 0, 0, make([]byte, 16)...)).with(hops(c.hops)).bytes())
		w.want(c.name, w.from("a", packet), c.want)
	}
	w.config.Mode = uint32(stateModeMODE_CHAINED)
	w.configure()
	w.want("advertisement to a pod on the same link", w.from("a", ether(makeIP(podA6, podB6, icmp6(136, 0, 0, make([]byte, 16)...)).with(hops(255)).bytes())), toStack)
	w.config.Mode = uint32(stateModeMODE_ROUTED)
	w.configure()
	w.want("to the pod", w.to("b", ether(makeIP("fe80::2", podB6, icmp6(135, 0, 0, make([]byte, 16)...)).with(hops(255)).bytes())), toStack)
	w.want("to the pod, forwarded", w.to("b", ether(makeIP(podA6, podB6, icmp6(135, 0, 0, make([]byte, 16)...)).with(hops(254)).bytes())), toDrop)
	w.want("IPv4 redirect", w.from("a", ether(ip(podA4, hostAddr, icmp(5, 0, 0, ip(podA4, podB4, udp(1, 2))...)))), toDrop)
}

// TestBPFTagged: a tagged packet is judged like any other, and the stack's to deliver.
func TestBPFTagged(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setB)
	w.want("tagged", w.from("a", ether(ip(podA4, podB4, udp(1, 2)), 5)), toDrop)
	if n := w.dropped(ingress, stateReasonREASON_POLICY_DENIED); n != 1 {
		t.Errorf("%d packets denied, want 1", n)
	}
}

// TestBPFEchoKey: an echo and its answer are one flow, by the identifier of who asks;
// a question of the other end is another, and wants a policy of its own.
func TestBPFEchoKey(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setA)
	w.rule(testRule{set: setA, peer: idB, tier: 1, order: order(1, allow), rule: 7})
	w.want("echo", w.from("a", ether(ip(podA4, podB4, icmp(8, 0, 77)))), toRedirect)
	w.want("answer", w.from("b", ether(ip(podB4, podA4, icmp(0, 0, 77)))), toRedirect)
	w.want("echo, IPv6", w.from("a", ether(ip(podA6, podB6, icmp6(128, 0, 77)))), toRedirect)
	w.want("answer, IPv6", w.from("b", ether(ip(podB6, podA6, icmp6(129, 0, 77)))), toRedirect)
	for _, f := range []stateFlow{w.flow(podA4, podB4, 77, 0, protoICMP), w.flow(podA6, podB6, 77, 0, protoICMPv6)} {
		if f.Packets != [2]uint64{1, 1} || f.IcmpType != 8 && f.IcmpType != 128 {
			t.Errorf("flow of an echo: %+v", f)
		}
	}
	w.want("question of the other end", w.from("b", ether(ip(podB4, podA4, icmp(8, 0, 77)))), toDrop)
	w.want("question of the other end, IPv6", w.from("b", ether(ip(podB6, podA6, icmp6(128, 0, 77)))), toDrop)
	w.want("timestamp of the other end", w.from("b", ether(ip(podB4, podA4, icmp(13, 0, 77)))), toDrop)
	var e [2]byte
	binary.BigEndian.PutUint16(e[:], 77)
	if binary.NativeEndian.Uint16(e[:]) != networkOrder(77) {
		t.Error("ports are not in network order")
	}
}
