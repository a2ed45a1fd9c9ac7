package datapath

import (
	"testing"
	"unsafe"
)

const (
	isPod     = uint32(statePlaceFlagsPLACE_POD)
	isStack   = uint8(stateFlowFlagsFLOW_STACK)
	isDelayed = uint8(stateFlowFlagsFLOW_DEFERRED)
)

// moves gives an address to the pod of a device, which is isolated.
func (w *packetWorld) moves(addr, device string) {
	w.Helper()
	set := map[string]uint32{"a": setA, "b": setB, "d": setD}[device]
	number := map[string]uint16{"a": numberA, "b": numberB, "d": 4}[device]
	w.isolate(set)
	w.place(addr, statePlace{Id: idD, Ifindex: w.devices[device], Flags: isPod})
	ep := stateEndpoint{Set: both(set), Number: number}
	if a := addrOf(addr); a.Bytes[0] == 0 {
		ep.Ip4 = a
	} else {
		ep.Ip6 = a
	}
	w.endpoint(device, ep)
	w.flip()
}

// TestBPFAddressMoves: who goes on sending to an address, or from one, is judged by the
// policy of the pod that has it by now, also where no identity tells the two apart.
func TestBPFAddressMoves(t *testing.T) {
	all := newPacketWorld(t)
	for _, v := range []struct{ name, a, b, d, c, world, nobody string }{
		{"IPv4", podA4, podB4, podD4, remoteC4, world4, "10.0.0.77"},
		{"IPv6", podA6, podB6, podD6, remoteC6, world6, "fd00::77"},
	} {
		packet := func(src, dst string) []byte { return ether(ip(src, dst, udp(1000, 2000))) }
		for _, c := range []struct {
			name string
			run  func(t *testing.T, w *packetWorld)
		}{
			{"to nobody's address", func(t *testing.T, w *packetWorld) {
				w.want("before", w.from("a", packet(v.a, v.nobody)), toStack)
				w.moves(v.nobody, "d")
				w.want("after", w.from("a", packet(v.a, v.nobody)), toDrop)
				f := w.flow(v.a, v.nobody, 1000, 2000, protoUDP)
				if f.Ifindex != [2]uint32{w.devices["a"], w.devices["d"]} || f.Verdict != [2]uint8{1, 2} {
					t.Errorf("flow: %+v", f)
				}
			}},
			{"to a pod's address", func(_ *testing.T, w *packetWorld) {
				w.place(v.b, statePlace{Id: idD, Ifindex: w.devices["b"], Flags: isPod})
				w.want("before", w.from("a", packet(v.a, v.b)), toRedirect)
				w.moves(v.b, "d")
				w.want("after", w.from("a", packet(v.a, v.b)), toDrop)
			}},
			{"to an address of a pod elsewhere", func(_ *testing.T, w *packetWorld) {
				w.want("before", w.from("a", packet(v.a, v.c)), toRedirect)
				w.moves(v.c, "d")
				w.want("after", w.from("a", packet(v.a, v.c)), toDrop)
			}},
			{"to an address of a service", func(_ *testing.T, w *packetWorld) {
				w.place(v.nobody, statePlace{Flags: uint32(statePlaceFlagsPLACE_SERVICE)})
				w.want("before", w.from("a", packet(v.a, v.nobody)), toStack)
				w.moves(v.nobody, "d")
				w.want("after", w.from("a", packet(v.a, v.nobody)), toDrop)
			}},
			{"from a pod's address", func(_ *testing.T, w *packetWorld) {
				w.place(v.a, statePlace{Id: idD, Ifindex: w.devices["a"], Flags: isPod})
				w.want("before", w.from("a", packet(v.a, v.world)), toStack)
				w.moves(v.a, "d")
				w.want("after", w.from("d", packet(v.a, v.world)), toDrop)
			}},
			{"from the world", func(_ *testing.T, w *packetWorld) {
				w.want("before", w.to("b", packet(v.world, v.b)), toStack)
				w.moves(v.b, "d")
				w.want("after", w.to("d", packet(v.world, v.b)), toDrop)
			}},
			{"from a pod elsewhere", func(_ *testing.T, w *packetWorld) {
				w.place(v.b, statePlace{Id: idD, Ifindex: w.devices["b"], Flags: isPod})
				w.want("before", w.fromNode("uplink", packet(v.c, v.b)).verdict, toRedirect)
				w.moves(v.b, "d")
				w.want("after", w.fromNode("uplink", packet(v.c, v.b)).verdict, toDrop)
			}},
			{"of the client, away from here", func(_ *testing.T, w *packetWorld) {
				w.want("before", w.from("a", packet(v.a, v.b)), toRedirect)
				w.place(v.a, statePlace{Id: idC, Flags: isPod})
				w.flip()
				w.want("after", w.fromNode("uplink", packet(v.a, v.b)).verdict, toRedirect)
				w.isolate(setB)
				w.flip()
				w.want("isolated", w.fromNode("uplink", packet(v.a, v.b)).verdict, toDrop)
			}},
			{"of the server, to no pod", func(t *testing.T, w *packetWorld) {
				w.want("before", w.from("a", packet(v.a, v.b)), toRedirect)
				w.place(v.b, statePlace{Id: idNode, Flags: uint32(statePlaceFlagsPLACE_NODE)})
				w.want("after", w.from("a", packet(v.a, v.b)), toStack)
				if f := w.flow(v.a, v.b, 1000, 2000, protoUDP); f.Flags&isStack == 0 || f.Ifindex[1] != 0 {
					t.Errorf("flow: %+v", f)
				}
			}},
		} {
			t.Run(v.name+"/"+c.name, func(t *testing.T) { c.run(t, all.again(t)) })
		}
	}
}

// TestBPFMarkOfAnother: a masqueraded flow is that of the pod whose mark its packets have.
func TestBPFMarkOfAnother(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setB)
	w.rule(testRule{set: setB, direction: ingress, peer: idA, tier: 1, order: order(1, allow), rule: 4})
	packet := ether(ip(hostAddr, podB4, udp(61000, 8080)))
	by := func(number uint32) uint32 { return w.run(w.pod.EndpointTo, "b", packet, withMark(number<<16)).verdict }
	w.want("of who may", by(numberA), toStack)
	w.want("of who may not", by(4), toDrop)
	w.want("of who may, again", by(numberA), toStack)
	w.want("of the node", by(0), toStack)
	w.want("of who may not, then", by(4), toDrop)
	w.want("of a pod that is gone", by(77), toDrop)
	w.want("of the node, then", by(0), toStack)

	leaves := ether(ip(hostAddr, remoteC4, udp(61000, 8080)))
	out := func(number uint32) uint32 {
		return w.run(w.node.HostTo, "uplink", leaves, withMark(number<<16)).verdict
	}
	w.isolate(setD)
	w.want("leaves, of who may", out(numberA), toStack)
	w.want("leaves, of who may not", out(4), toDrop)
}

// TestBPFNodePort: what comes from elsewhere by a node port and has this node's address
// then is not the node's own.
func TestBPFNodePort(t *testing.T) {
	all := newPacketWorld(t)
	for _, v := range []struct {
		name, world, host, b string
		world0               uint32
	}{
		{"IPv4", world4, hostAddr, podB4, idWorld4}, {"IPv6", world6, "fd68::1", podB6, idWorld6},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := all.again(t)
			w.network("10.0.0.0/8", 77)
			w.network("fd68::/16", 78)
			w.place(v.host, statePlace{Id: idHost, Flags: uint32(statePlaceFlagsPLACE_HOST)})
			w.isolate(setB)
			r := w.run(w.node.HostFrom, "uplink", ether(ip(v.world, v.host, tcp(4000, 30080, syn))), withMark(0x4000))
			w.want("arrives", r.verdict, toStack)
			masqueraded := ether(ip(v.host, v.b, tcp(61000, 8080, syn)))
			w.want("isolated", w.run(w.pod.EndpointTo, "b", masqueraded, withMark(r.mark)).verdict, toDrop)
			// The node's own, by the same ports, and the other way round.
			w.want("a probe", w.to("b", masqueraded), toStack)
			w.want("behind a probe", w.run(w.pod.EndpointTo, "b", masqueraded, withMark(r.mark)).verdict, toDrop)
			// Nobody knows who it is, so rules about everybody match, and no others.
			w.rule(testRule{set: setB, direction: ingress, peer: v.world0, proto: protoTCP, port: 8080, bits: 16, tier: 1, order: order(1, allow), rule: 4})
			w.flip()
			w.want("allowed", w.run(w.pod.EndpointTo, "b", masqueraded, withMark(r.mark)).verdict, toStack)
			if f := w.flow(v.host, v.b, 61000, 8080, protoTCP); f.Id[0] != v.world0 || f.Rule[1] != 4 {
				t.Errorf("flow: %+v", f)
			}
			// The answer is judged with its question: by a later policy too, and where it leaves.
			w.flip()
			back := w.run(w.pod.EndpointFrom, "b", ether(ip(v.b, v.host, tcp(8080, 61000, syn|ack))), withMark(0x4000))
			w.want("answer", back.verdict, toStack)
			if back.mark != 0xffff4000 {
				t.Errorf("an answer has mark %#x: the node is not its sender", back.mark)
			}
			if f := w.flow(v.host, v.b, 61000, 8080, protoTCP); f.Id[0] != v.world0 || f.Packets[1] != 1 {
				t.Errorf("flow behind its answer: %+v", f)
			}
			// To a backend on another node the mark does not go along.
			out := w.run(w.node.HostTo, "uplink", ether(ip(v.world, remoteC4If(v.b), tcp(4000, 8080, syn))), withMark(r.mark))
			w.want("leaves", out.verdict, toStack)
			if r.mark != 0xffff4000 || out.mark != 0x4000 {
				t.Errorf("mark %#x of what arrives, %#x of what leaves", r.mark, out.mark)
			}
		})
	}
	// Addresses on a link are not told, services' may be translated too.
	w := all.again(t)
	for _, dst := range []string{"fe80::99", "169.254.1.1", service4} {
		src := world4
		if dst == "fe80::99" {
			src = "fe80::98"
		}
		if r := w.fromNode("uplink", ether(ip(src, dst, tcp(4000, 30080, syn)))); r.verdict != toStack || r.mark>>16 != 0xffff {
			t.Errorf("to %s: %d, mark %#x", dst, r.verdict, r.mark)
		}
	}
	r := w.run(w.pod.EndpointFrom, "a", ether(ip(podA4, "169.254.1.1", tcp(4000, 30080, syn))))
	if r.verdict != toStack || r.mark>>16 != numberA {
		t.Errorf("a pod to its link: %d, mark %#x", r.verdict, r.mark)
	}
	// So may be what is for a pod, by rules of others.
	w.isolate(setB)
	r = w.fromNode("uplink", ether(ip(world4, podB4, tcp(4000, 80, syn))))
	w.want("to a pod, masqueraded", w.run(w.pod.EndpointTo, "b", ether(ip(hostAddr, podB4, tcp(4000, 80, syn))), withMark(r.mark)).verdict, toDrop)
}

func remoteC4If(pod string) string {
	if addrOf(pod).Bytes[0] == 0 {
		return remoteC4
	}
	return remoteC6
}

// TestBPFBeyond: nobody beyond this node has an address of a pod here or of the node, and
// pods elsewhere are behind one device.
func TestBPFBeyond(t *testing.T) {
	w := newPacketWorld(t)
	w.place("fd68::1", statePlace{Id: idHost, Flags: uint32(statePlaceFlagsPLACE_HOST)})
	other := "tunnel" // in mode routed it is a device like any other
	for _, c := range []struct {
		name, device, src, dst string
		want                   uint32
	}{
		{"a pod here, to a pod", other, podA4, podB4, toDrop},
		{"a pod here, to the node", other, podA4, hostAddr, toDrop},
		{"a pod here, to a service", "uplink", podA4, service4, toDrop},
		{"the node, to a pod", "uplink", hostAddr, podB4, toDrop},
		{"the node, to a pod, IPv6", "uplink", "fd68::1", podB6, toDrop},
		{"the node, to a pod, elsewhere", other, "fd68::1", podB6, toDrop},
		{"a pod elsewhere", other, remoteC4, podB4, toDrop},
		{"a pod elsewhere, IPv6", other, remoteC6, podB6, toDrop},
		{"a pod elsewhere, on the uplink", "uplink", remoteC4, podB4, toRedirect},
		{"a pod elsewhere, of a flow that there is", other, remoteC4, podB4, toDrop},
		{"a pod elsewhere, to the node", other, remoteC4, hostAddr, toStack},
		{"the world", other, world4, podB4, toStack},
	} {
		w.want(c.name, w.fromNode(c.device, ether(ip(c.src, c.dst, udp(1, 2)))).verdict, c.want)
	}

	// In tunnels' mode the tunnel alone has pods behind it.
	w.config.Mode, w.config.Tunnel = uint32(stateModeMODE_VXLAN), w.devices["tunnel"]
	w.configure()
	w.want("past the tunnel", w.fromNode("uplink", ether(ip(remoteC4, podB4, udp(1, 2)))).verdict, toDrop)
	w.want("past the tunnel, through the stack", w.fromNode("uplink", ether(ip(remoteC6, podB6, udp(5, 6)))).verdict, toDrop)
	r := w.fromNode("uplink", ether(ip(remoteC4, hostAddr, udp(1, 30080))))
	w.isolate(setB)
	w.rule(testRule{set: setB, direction: ingress, peer: idC, tier: 1, order: order(1, allow), rule: 4})
	w.flip()
	w.want("past the tunnel, by a node port", w.run(w.pod.EndpointTo, "b", ether(ip(remoteC4, podB4, udp(7, 8080))), withMark(r.mark)).verdict, toDrop)

	// Another plugin's devices are its own business.
	w.config.Mode, w.config.Tunnel = uint32(stateModeMODE_CHAINED), 0
	w.configure()
	w.want("chained", w.fromNode(other, ether(ip(podA4, podB4, udp(1, 2)))).verdict, toStack)
}

// TestBPFServiceOfNobody: what is for a service's address, and the stack leaves as it is,
// is judged as what it is for.
func TestBPFServiceOfNobody(t *testing.T) {
	for _, mode := range []stateMode{stateModeMODE_ROUTED, stateModeMODE_CHAINED} {
		w := newPacketWorld(t)
		w.config.Mode = uint32(mode)
		w.configure()
		w.place("8.8.8.8", statePlace{Id: 88, Flags: uint32(statePlaceFlagsPLACE_SERVICE)})
		w.isolate(setA)
		packet := ether(ip(podA4, "8.8.8.8", udp(1000, 53)))
		mark := w.run(w.pod.EndpointFrom, "a", packet).mark
		leaves := func() uint32 { return w.run(w.node.HostTo, "uplink", packet, withMark(mark)).verdict }
		w.want("leaves", leaves(), toDrop)
		w.want("leaves again", leaves(), toDrop)
		w.want("the next", w.from("a", packet), toDrop)
		w.rule(testRule{set: setA, peer: 88, proto: protoUDP, port: 53, bits: 16, tier: 1, order: order(1, allow), rule: 5})
		w.flip()
		w.want("allowed", w.from("a", packet), toStack)
		w.want("leaves, allowed", leaves(), toStack)
		w.want("more", w.from("a", packet), toStack)
		w.want("leaves, more", leaves(), toStack)
		w.want("answer", w.to("a", ether(ip("8.8.8.8", podA4, udp(53, 1000)))), toStack)
		if f := w.flow(podA4, "8.8.8.8", 1000, 53, protoUDP); f.Packets != [2]uint64{3, 1} || f.Dropped != 3 || f.Rule[0] != 5 {
			t.Errorf("flow: %+v", f)
		}
	}
}

// TestBPFServiceAndDirect: where a connection to a service has the ends of one that is past
// the stack, its answers go where they are translated back.
func TestBPFServiceAndDirect(t *testing.T) {
	w := newPacketWorld(t)
	there, back := ether(ip(podA4, podB4, udp(1000, 53))), ether(ip(podB4, podA4, udp(53, 1000)))
	w.want("direct", w.from("a", there), toRedirect)
	w.want("its answer", w.from("b", back), toRedirect)
	w.want("by a service", w.run(w.pod.EndpointTo, "b", there, withMark(numberA<<16)).verdict, toStack)
	w.want("the service's answer", w.from("b", back), toStack)
	if f := w.flow(podA4, podB4, 1000, 53, protoUDP); f.Flags&(isStack|isDelayed) != isStack|isDelayed {
		t.Errorf("flow: %+v", f)
	}
	far := ether(ip(podA4, remoteC4, udp(1000, 53)))
	w.want("direct, elsewhere", w.from("a", far), toRedirect)
	w.want("by a service, elsewhere", w.run(w.node.HostTo, "uplink", far, withMark(numberA<<16)).verdict, toStack)
	w.want("its answer", w.fromNode("uplink", ether(ip(remoteC4, podA4, udp(53, 1000)))).verdict, toStack)
}

// TestBPFChangeOnTheWay: a packet that was judged where it was sent is judged again where
// it arrives if policy has changed meanwhile, and is counted once.
func TestBPFChangeOnTheWay(t *testing.T) {
	w := newPacketWorld(t)
	w.config.Mode = uint32(stateModeMODE_CHAINED)
	w.configure()
	packet := ether(ip(podA4, podB4, udp(1, 2)))
	w.want("sent", w.from("a", packet), toStack)
	w.flip()
	w.want("arrives", w.to("b", packet), toStack)
	if f := w.flow(podA4, podB4, 1, 2, protoUDP); f.Packets[0] != 1 || f.Generation != w.config.Generation {
		t.Errorf("flow: %+v", f)
	}
	w.want("sent again", w.from("a", packet), toStack)
	w.isolate(setB)
	w.flip()
	w.want("isolated when it arrives", w.to("b", packet), toDrop)
	// So is an error about a flow.
	w = newPacketWorld(t)
	w.want("question", w.from("a", packet), toRedirect)
	w.isolate(setA)
	w.flip()
	w.want("an error about it", w.from("b", ether(ip(podB4, podA4, icmp(3, 3, 0, ip(podA4, podB4, udp(1, 2))...)))), toDrop)
}

// TestBPFUnreadable: what is a pod's and cannot be read does not leave.
func TestBPFUnreadable(t *testing.T) {
	w := newPacketWorld(t)
	later := makeIP(podA4, remoteC4, other(protoUDP, make([]byte, 64)...)).with(func(p *ipPacket) { p.id, p.offset = 9, 64 })
	w.want("a fragment of nobody knows what", w.run(w.node.HostTo, "uplink", ether(later.bytes()), withMark(numberA<<16)).verdict, toDrop)
	w.want("of nobody here", w.run(w.node.HostTo, "uplink", ether(later.bytes())).verdict, toStack)
	w.config.Mode = uint32(stateModeMODE_CHAINED)
	w.configure()
	w.want("chained", w.run(w.node.HostTo, "uplink", ether(later.bytes())).verdict, toDrop)
}

// TestBPFSpoofedFragment: who lies about its address says nothing about others' fragments.
func TestBPFSpoofedFragment(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setB)
	w.rule(testRule{set: setB, peer: idD, proto: protoUDP, port: 53, bits: 16, tier: 1, order: order(1, allow), rule: 1})
	first := func(port uint16) []byte {
		return ether(makeIP(podB4, podD4, udp(1000, port, make([]byte, 64)...)).with(func(p *ipPacket) { p.id, p.more = 99, true }).bytes())
	}
	last := ether(makeIP(podB4, podD4, other(protoUDP, make([]byte, 64)...)).with(func(p *ipPacket) { p.id, p.offset = 99, 72 }).bytes())
	w.want("spoofed", w.from("a", first(53)), toDrop)
	w.want("spoofed, from beyond", w.fromNode("uplink", first(53)).verdict, toDrop)
	w.want("its rest, of the true one", w.from("b", last), toDrop)
	if n := w.dropped(egress, stateReasonREASON_FRAGMENT_UNKNOWN); n != 1 {
		t.Errorf("%d fragments of unknown packets, want 1", n)
	}
	w.want("a true one", w.from("b", first(53)), toRedirect)
	w.want("its rest", w.from("b", last), toRedirect)
}

// TestBPFCountedOnce: on nodes without IPv4 packets out of the tunnel go through the
// stack, and the first one too is counted once.
func TestBPFCountedOnce(t *testing.T) {
	w := newPacketWorld(t)
	w.config.Mode, w.config.Tunnel = uint32(stateModeMODE_VXLAN), w.devices["tunnel"]
	w.configure()
	w.place(remoteC6, statePlace{Id: idC, Flags: isPod})
	packet := ether(ip(remoteC6, podB6, udp(1, 2)))
	for range 2 {
		w.want("out of the tunnel", w.fromNode("tunnel", packet).verdict, toStack)
		w.want("to the pod", w.to("b", packet), toStack)
	}
	if f := w.flow(remoteC6, podB6, 1, 2, protoUDP); f.Packets[0] != 2 {
		t.Errorf("%d packets, want 2", f.Packets[0])
	}
}

// TestFlowWord: what programs write at once is one word.
func TestFlowWord(t *testing.T) {
	var f stateFlow
	at := unsafe.Offsetof(f.Generation)
	if at%8 != 0 || unsafe.Offsetof(f.Verdict) != at+4 || unsafe.Offsetof(f.Flags) != at+6 || unsafe.Offsetof(f.Reversed) != at+7 {
		t.Errorf("the word is at %d: verdict %d, flags %d, reversed %d", at, unsafe.Offsetof(f.Verdict), unsafe.Offsetof(f.Flags), unsafe.Offsetof(f.Reversed))
	}
}
