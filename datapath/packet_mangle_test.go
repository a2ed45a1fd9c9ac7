package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"warren/internal/testkit"
)

// templates are packets of all kinds from pod a.
func templates() [][]byte {
	first, headers := chain(protoUDP, 0, 60, 43)
	data := make([]byte, 40)
	return [][]byte{
		ether(ip(podA4, podB4, tcp(1, 2, syn, data...))),
		ether(ip(podA6, podB6, tcp(1, 2, syn, data...))),
		ether(ip(podA4, podB4, udp(1, 2, data...))),
		ether(ip(podA6, podB6, udp(1, 2, data...))),
		ether(ip(podA4, podB4, sctp(1, 2))),
		ether(ip(podA4, podB4, icmp(3, 3, 0, ip(podB4, podA4, udp(1, 2, data...))...))),
		ether(ip(podA6, podB6, icmp6(1, 4, 0, ip(podB6, podA6, udp(1, 2, data...))...))),
		ether(makeIP(podA6, podB6, icmp6(135, 0, 0, data...)).with(func(p *ipPacket) { p.ttl = 255 }).bytes()),
		ether(makeIP(podA4, podB4, udp(1, 2, data...)).with(func(p *ipPacket) { p.options = []byte{1, 1, 148, 4, 0, 0, 1, 1} }).bytes()),
		ether(makeIP(podA6, podB6, udp(1, 2, data...)).with(func(p *ipPacket) { p.first, p.headers = first, headers }).bytes()),
		ether(makeIP(podA4, podB4, udp(1, 2, data...)).with(func(p *ipPacket) { p.id, p.more = 7, true }).bytes()),
		ether(makeIP(podA6, podB6, other(protoUDP, data...)).with(func(p *ipPacket) { p.id, p.offset = 7, 48 }).bytes()),
		ether(ip(podA4, podB4, tcp(1, 2, ack)), 5),
		ether(ip(podA6, podB6, udp(1, 2)), 5, 6),
		frame(0x0806, data...),
	}
}

// mangle changes a packet somewhere, often near its beginning; or cuts it off.
func mangle(r *rand.Rand, packet []byte) []byte {
	packet = slices.Clone(packet)
	for range 1 + r.IntN(4) {
		switch r.IntN(4) {
		case 0:
			packet[12+r.IntN(len(packet)-12)] = byte(r.IntN(256))
		case 1:
			packet[12+r.IntN(min(48, len(packet)-12))] = byte(r.IntN(256))
		case 2:
			packet[12+r.IntN(len(packet)-12)] ^= 1 << r.IntN(8)
		case 3:
			if n := r.IntN(len(packet)); n > 14 && r.IntN(3) == 0 {
				packet = packet[:n]
			}
		}
	}
	return packet
}

// unjudged reports whether a packet may pass whatever policy says: ARP, neighbour
// discovery that goes no further than the link, and what a sends to itself.
func unjudged(packet []byte) bool {
	at := 12
	kind := binary.BigEndian.Uint16(packet[at:])
	for n := 0; n < 2 && (kind == 0x8100 || kind == 0x88a8) && len(packet) >= at+6; n++ {
		at += 4
		kind = binary.BigEndian.Uint16(packet[at:])
	}
	if kind == 0x0806 {
		return true
	}
	header := packet[at+2:]
	if kind == 0x0800 && len(header) >= 20 && bytes.Equal(header[16:20], netip.MustParseAddr(podA4).AsSlice()) {
		return true
	}
	if kind != 0x86dd || len(header) < 40 {
		return false
	}
	dst := header[24:40]
	if bytes.Equal(dst, netip.MustParseAddr(podA6).AsSlice()) {
		return true
	}
	link := dst[0] == 0xff || dst[0] == 0xfe && dst[1]&0xc0 == 0x80
	return link && (header[7] == 255 || header[7] == 1)
}

// TestBPFMangled throws packets at a pod's programs that no builder makes. Where
// all is denied nothing passes but what is about the link; where all is allowed a
// packet is dropped, left as it was, or forwarded as it was but for its Ethernet
// addresses, its hops and their checksum.
func TestBPFMangled(t *testing.T) {
	packets := testkit.Rounds(30_000, 5_000)
	all := newPacketWorldOf(t, small) // of very many flows
	for _, denied := range []bool{true, false} {
		w := all.again(t)
		w.config.Flags = 0
		w.configure()
		if denied {
			w.isolate(setA)
		}
		r := rand.New(rand.NewPCG(1, 2))
		from := templates()
		seen := map[uint32]int{}
		err := w.ns.Do(func() error {
			m := newMeter(w.pod.EndpointFrom, w.devices["a"])
			out := make([]byte, 512)
			m.attr.out = &out[0]
			for range packets {
				packet := mangle(r, from[r.IntN(len(from))])
				m.attr.dataOut = uint32(len(out))
				verdict, _, err := m.run(packet)
				if errors.Is(err, unix.EINVAL) {
					continue // the kernel runs no programs on it
				}
				if err != nil {
					return err
				}
				seen[verdict]++
				after := out[:m.attr.dataOut]
				switch {
				case verdict == toDrop:
				case denied && (!unjudged(packet)):
					t.Errorf("all is denied, and %x gave %d", packet, int32(verdict))
				case verdict == toStack && !bytes.Equal(after, packet):
					t.Errorf("%x went to the stack as %x", packet, after)
				case verdict == toRedirect && !forwarded(packet, after):
					t.Errorf("%x was forwarded as %x", packet, after)
				case verdict != toStack && verdict != toRedirect:
					t.Errorf("%x gave %d", packet, int32(verdict))
				}
				if t.Failed() {
					return nil
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if seen[toDrop] < packets/20 || !denied && (seen[toRedirect] < packets/20 || seen[toStack] < packets/20) {
			t.Errorf("packets are not of all kinds: %v", seen)
		}
	}
}

// forwarded reports whether a packet came out as a router sends it on.
func forwarded(before, after []byte) bool {
	if len(before) != len(after) {
		return false
	}
	want := slices.Clone(before)
	copy(want[:12], after[:12])
	if binary.BigEndian.Uint16(want[12:]) == 0x86dd {
		want[14+7]--
		return bytes.Equal(want, after)
	}
	// The checksum may have been wrong before: then it is as wrong behind.
	want[14+8]--
	size := int(want[14]&15) * 4
	was, is := checksum(before[14:14+size]), checksum(after[14:14+size])
	copy(want[14+10:14+12], after[14+10:])
	return bytes.Equal(want, after) && (was == is || was^is == 0xffff)
}
