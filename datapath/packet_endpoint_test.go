package datapath

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestBPFPodToPod follows a connection between two pods here: judged once, past
// the stack, counted in one flow.
func TestBPFPodToPod(t *testing.T) {
	all := newPacketWorld(t)
	for _, v := range []struct {
		name, a, b string
		header     int
	}{
		{"IPv4", podA4, podB4, 20},
		{"IPv6", podA6, podB6, 40},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := all.again(t)
			request := ether(ip(v.a, v.b, tcp(40000, 80, syn)))
			r := w.run(w.pod.EndpointFrom, "a", request)
			w.want("SYN", r.verdict, toRedirect)

			// The pod is addressed, and one hop is gone.
			want := bytes.Clone(request)
			copy(want[0:], podMAC("b"))
			copy(want[6:], deviceMAC[:])
			if v.header == 20 {
				want[14+8]--
				binary.BigEndian.PutUint16(want[14+10:], 0)
				binary.BigEndian.PutUint16(want[14+10:], checksum(want[14:34]))
			} else {
				want[14+7]--
			}
			if !bytes.Equal(r.out, want) {
				t.Errorf("packet came out as\n%x, want\n%x", r.out, want)
			}

			w.want("SYN ACK", w.from("b", ether(ip(v.b, v.a, tcp(80, 40000, syn|ack)))), toRedirect)
			w.want("ACK", w.from("a", ether(ip(v.a, v.b, tcp(40000, 80, ack, []byte("GET /")...)))), toRedirect)
			f := w.flow(v.a, v.b, 40000, 80, protoTCP)
			head := uint64(v.header + 20)
			got := stateFlow{
				Packets: f.Packets, Bytes: f.Bytes, Dropped: f.Dropped, Rule: f.Rule, Id: f.Id, Ifindex: f.Ifindex,
				Verdict: f.Verdict, TcpFlags: f.TcpFlags, State: f.State, Flags: f.Flags,
			}
			wantFlow := stateFlow{
				Packets: [2]uint64{2, 1}, Bytes: [2]uint64{2*head + 5, head},
				Id: [2]uint32{idA, idB}, Ifindex: [2]uint32{w.devices["a"], w.devices["b"]},
				Verdict: [2]uint8{1, 1}, TcpFlags: [2]uint8{syn | ack, syn | ack},
				State: uint8(stateFlowStateSTATE_ESTABLISHED), Flags: uint8(stateFlowFlagsFLOW_OPENED),
			}
			if diff := cmp.Diff(wantFlow, got); diff != "" {
				t.Errorf("flow (-want +got):\n%s", diff)
			}
			if f.Began == 0 || f.Seen < f.Began {
				t.Errorf("flow began %d, was seen %d", f.Began, f.Seen)
			}
			if diff := cmp.Diff([]stateEventKind{stateEventKindEVENT_NEW, stateEventKindEVENT_UPDATE}, w.kinds()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			sent, received := w.counter(0), w.counter(16)
			if want := (stateCounter{Packets: 3, Bytes: 3*head + 5}); sent != want || received != want {
				t.Errorf("counters: sent %+v, received %+v, want both %+v", sent, received, want)
			}
		})
	}
}

// TestBPFSpoof: a pod sends from its own addresses only.
func TestBPFSpoof(t *testing.T) {
	w := newPacketWorld(t)
	for _, c := range []struct {
		name     string
		src, dst string
		want     uint32
	}{
		{"another pod's address", podB4, podD4, toDrop},
		{"another pod's IPv6 address", podB6, podD6, toDrop},
		{"no address", "0.0.0.0", "255.255.255.255", toDrop},
		{"loopback", "127.0.0.1", podB4, toDrop},
		{"its link's address, to another pod", "fe80::1", podB6, toDrop},
		{"its link's address, to the host's", "fe80::1", "fe80::2", toStack},
		{"its own", podA4, podB4, toRedirect},
		{"its own, IPv6", podA6, podB6, toRedirect},
	} {
		w.want(c.name, w.from("a", ether(ip(c.src, c.dst, udp(1000, 53)))), c.want)
	}
	if n := w.dropped(egress, stateReasonREASON_SPOOFED); n != 5 {
		t.Errorf("%d packets counted as spoofed, want 5", n)
	}
	w.noFlow(podB4, podD4, 1000, 53, protoUDP)
	events := w.events()
	if len(events) == 0 {
		t.Fatal("no event of the first spoofed packet")
	}
	e := events[0]
	if e.Kind != uint8(stateEventKindEVENT_DROP) || e.Reason != uint8(stateReasonREASON_SPOOFED) || e.Flow.Began != 0 ||
		e.Ifindex != w.devices["a"] || e.Len != 28 || e.Captured != 42 || e.Hook != uint8(stateHookHOOK_ENDPOINT_FROM) {
		t.Errorf("event of a spoofed packet: %+v", e)
	}
	if want := ether(ip(podB4, podD4, udp(1000, 53))); !bytes.Equal(e.Header[:42], want) {
		t.Errorf("captured %x, want %x", e.Header[:42], want)
	}
	key, _ := keyOf(podB4, podD4, 1000, 53, protoUDP)
	if e.Key != key {
		t.Errorf("key %+v, want %+v", e.Key, key)
	}

	// A pod that may.
	w.endpoint("a", stateEndpoint{Ip4: addrOf(podA4), Set: both(setA), Number: 1, Flags: uint32(stateEndpointFlagsEP_ANY_SOURCE)})
	w.want("any source", w.from("a", ether(ip("10.9.9.9", podB4, udp(1000, 53)))), toStack)
	// One that has no address of a family has not the unspecified one.
	w.endpoint("a", stateEndpoint{Ip4: addrOf(podA4), Set: both(setA), Number: 1})
	w.want("unspecified", w.from("a", ether(ip("::", podB6, udp(1000, 53)))), toDrop)
}

// TestBPFUnknownDevice: where nobody said which pod it is, nothing passes.
func TestBPFUnknownDevice(t *testing.T) {
	w := newPacketWorld(t)
	w.want("from", w.from("uplink", ether(ip(podA4, podB4, udp(1, 2)))), toDrop)
	w.want("to", w.to("uplink", ether(ip(podB4, podA4, udp(1, 2)))), toDrop)
	w.want("ARP", w.from("uplink", frame(0x0806, make([]byte, 28)...)), toStack)
	if n := w.dropped(egress, stateReasonREASON_NO_ENDPOINT) + w.dropped(ingress, stateReasonREASON_NO_ENDPOINT); n != 2 {
		t.Errorf("%d packets counted, want 2", n)
	}
}

// TestBPFPaths: which way a pod's packets take.
func TestBPFPaths(t *testing.T) {
	const stack = uint8(stateFlowFlagsFLOW_STACK)
	all := newPacketWorld(t)
	for _, c := range []struct {
		name   string
		change func(w *packetWorld)
		dst    string
		want   uint32
		flags  uint8
	}{
		{"pod here", nil, podB4, toRedirect, 0},
		{"pod elsewhere, routed", nil, remoteC4, toRedirect, 0},
		{"pod elsewhere, IPv6", nil, remoteC6, toRedirect, 0},
		{"pod elsewhere, by the host's routes", func(w *packetWorld) { w.config.Uplink = 0 }, remoteC4, toStack, stack},
		{"the world", nil, world4, toStack, stack},
		{"the world, IPv6", nil, world6, toStack, stack},
		{"another node", nil, nodeAddr, toStack, stack},
		{"this node", nil, hostAddr, toStack, stack},
		{"a service", nil, service4, toStack, stack | uint8(stateFlowFlagsFLOW_SERVICE)},
		{"chained", func(w *packetWorld) { w.config.Mode = uint32(stateModeMODE_CHAINED) }, podB4, toStack, stack},
		{"chained, elsewhere", func(w *packetWorld) { w.config.Mode = uint32(stateModeMODE_CHAINED) }, remoteC4, toStack, stack},
		{"a chained endpoint", func(w *packetWorld) {
			w.endpoint("b", stateEndpoint{Ip4: addrOf(podB4), Set: both(setB), Number: 2, Flags: uint32(stateEndpointFlagsEP_CHAINED)})
		}, podB4, toStack, stack},
		{"a tunnel without a node", func(w *packetWorld) {
			w.config.Mode, w.config.Tunnel = uint32(stateModeMODE_VXLAN), w.devices["tunnel"]
			w.place(remoteC4, statePlace{Id: idC, Flags: uint32(statePlaceFlagsPLACE_POD)})
		}, remoteC4, toStack, stack},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := all.again(t)
			if c.change != nil {
				c.change(w)
				w.configure()
			}
			src := podA4
			if addrOf(c.dst).Bytes[0] != 0 {
				src = podA6
			}
			packet := ether(ip(src, c.dst, udp(1000, 2000)))
			r := w.run(w.pod.EndpointFrom, "a", packet)
			w.want("packet", r.verdict, c.want)
			if f := w.flow(src, c.dst, 1000, 2000, protoUDP); f.Flags&^uint8(stateFlowFlagsFLOW_OPENED) != c.flags {
				t.Errorf("flow has flags %#x, want %#x", f.Flags, c.flags)
			}
			if c.want == toStack && !bytes.Equal(r.out, packet) {
				t.Errorf("packet was changed on its way to the stack: %x, was %x", r.out, packet)
			}
			w.want("the next", w.from("a", packet), c.want)
		})
	}
}

// TestBPFHops: packets that a router would not pass on are the stack's to answer.
func TestBPFHops(t *testing.T) {
	w := newPacketWorld(t)
	w.config.Mtu = 1450
	w.configure()
	old := func(p *ipPacket) { p.ttl = 1 }
	big := make([]byte, 1450-28+1)
	for _, c := range []struct {
		name   string
		packet []byte
		want   uint32
		reason stateReason
	}{
		{"hops, here", ether(makeIP(podA4, podB4, udp(1, 2)).with(old).bytes()), toStack, stateReasonREASON_TTL_EXCEEDED},
		{"hops, IPv6", ether(makeIP(podA6, podB6, udp(1, 2)).with(old).bytes()), toStack, stateReasonREASON_TTL_EXCEEDED},
		{"hops, elsewhere", ether(makeIP(podA4, remoteC4, udp(1, 2)).with(old).bytes()), toStack, stateReasonREASON_TTL_EXCEEDED},
		{"fits", ether(ip(podA4, remoteC4, udp(1, 2, big[1:]...))), toRedirect, 0},
		{"too big", ether(ip(podA4, remoteC4, udp(1, 2, big...))), toStack, stateReasonREASON_TOO_BIG},
		{"big, here", ether(ip(podA4, podB4, udp(1, 2, big...))), toRedirect, 0},
	} {
		before := w.dropped(egress, c.reason)
		r := w.run(w.pod.EndpointFrom, "a", c.packet)
		w.want(c.name, r.verdict, c.want)
		if c.want == toStack && !bytes.Equal(r.out, c.packet) {
			t.Errorf("%s: the packet was changed", c.name)
		}
		if n := w.dropped(egress, c.reason) - before; n != 1 {
			t.Errorf("%s: counted %d times", c.name, n)
		}
	}
	// Segments are what has to fit.
	segments := func(size uint32) func(*skBuff) {
		return func(s *skBuff) { s.GSOSize, s.GSOSegs = size, 3 }
	}
	payload := make([]byte, 1440)
	packet := ether(ip(podA4, remoteC4, tcp(7, 8, ack, payload...)))
	w.want("segments that fit", w.run(w.pod.EndpointFrom, "a", packet, segments(1410)).verdict, toRedirect)
	w.want("segments that do not", w.run(w.pod.EndpointFrom, "a", packet, segments(1411)).verdict, toStack)
	if f := w.flow(podA4, remoteC4, 7, 8, protoTCP); f.Packets[0] != 6 {
		t.Errorf("two times three segments are %d packets", f.Packets[0])
	}
}

// TestBPFTunnel: into the tunnel goes a frame for the other node's tunnel.
func TestBPFTunnel(t *testing.T) {
	w := newPacketWorld(t)
	w.config.Mode, w.config.Tunnel = uint32(stateModeMODE_VXLAN), w.devices["tunnel"]
	w.configure()
	for _, ends := range [][2]string{{podA4, remoteC4}, {podA6, remoteC6}} {
		r := w.run(w.pod.EndpointFrom, "a", ether(ip(ends[0], ends[1], udp(1000, 2000))))
		w.want("packet", r.verdict, toRedirect)
		if want := []byte{0x0e, 0x57, 192, 168, 0, 2}; !bytes.Equal(r.out[:6], want) {
			t.Errorf("frame is for %x, want %x", r.out[:6], want)
		}
		if !bytes.Equal(r.out[6:12], deviceMAC[:]) {
			t.Errorf("frame is from %x, want %x", r.out[6:12], deviceMAC)
		}
	}
}
