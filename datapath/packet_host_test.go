package datapath

import (
	"bytes"
	"testing"
)

// fromNode runs what comes from other nodes.
func (w *packetWorld) fromNode(device string, packet []byte) ran {
	w.Helper()
	return w.run(w.node.HostFrom, device, packet)
}

// TestBPFFromNode: what another node sends to a pod here.
func TestBPFFromNode(t *testing.T) {
	for _, v := range []struct{ name, remote, b string }{{"IPv4", remoteC4, podB4}, {"IPv6", remoteC6, podB6}} {
		t.Run(v.name, func(t *testing.T) {
			w := newPacketWorld(t)
			r := w.fromNode("uplink", ether(ip(v.remote, v.b, tcp(4000, 80, syn))))
			w.want("SYN", r.verdict, toRedirect)
			if !bytes.Equal(r.out[:6], podMAC("b")) {
				t.Errorf("frame is for %x", r.out[:6])
			}
			w.want("SYN ACK", w.from("b", ether(ip(v.b, v.remote, tcp(80, 4000, syn|ack)))), toRedirect)
			f := w.flow(v.remote, v.b, 4000, 80, protoTCP)
			if f.Packets != [2]uint64{1, 1} || f.Verdict != [2]uint8{0, 1} || f.Id != [2]uint32{idC, idB} ||
				f.Ifindex != [2]uint32{0, w.devices["b"]} {
				t.Errorf("flow: %+v", f)
			}
			// A pod that was asked answers though it may ask nobody.
			w.isolate(setB)
			w.flip()
			w.want("SYN, denied", w.fromNode("uplink", ether(ip(v.remote, v.b, tcp(4001, 80, syn)))).verdict, toDrop)
			w.want("the flow that was allowed", w.fromNode("uplink", ether(ip(v.remote, v.b, tcp(4000, 80, ack)))).verdict, toDrop)
		})
	}
}

// TestBPFFromNodeOthers: what is not between pods is the stack's, untouched.
func TestBPFFromNodeOthers(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setB) // nothing of this is judged here
	other := ether(ip(remoteC4, podB4, udp(1, 2)))
	copy(other, []byte{2, 9, 9, 9, 9, 9})
	for _, c := range []struct {
		name   string
		packet []byte
	}{
		{"from the world to a pod", ether(ip(world4, podB4, tcp(1, 2, syn)))},
		{"from a node to a pod", ether(ip(nodeAddr, podB4, tcp(1, 2, syn)))},
		{"to the node", ether(ip(world4, hostAddr, tcp(1, 22, syn)))},
		{"to nobody we know", ether(ip(remoteC4, world4, udp(1, 2)))},
		{"to another node's pod", ether(ip(world4, remoteC4, udp(1, 2)))},
		{"ARP", frame(0x0806, make([]byte, 28)...)},
		{"LLDP", frame(0x88cc, make([]byte, 28)...)},
		{"a lie to the node", set(ether(ip(world4, hostAddr, udp(1, 2))), 14, 0x44)},
		{"a frame for another machine", other},
	} {
		r := w.fromNode("uplink", c.packet)
		w.want(c.name, r.verdict, toStack)
		if !bytes.Equal(r.out, c.packet) {
			t.Errorf("%s: the packet was changed", c.name)
		}
	}
	if n := w.counter(16).Packets; n != 0 {
		t.Errorf("%d packets counted", n)
	}
	if got := w.kinds(); len(got) != 0 {
		t.Errorf("events %v", got)
	}
	// Out of the tunnel everything is for us.
	w.config.Mode, w.config.Tunnel = uint32(stateModeMODE_VXLAN), w.devices["tunnel"]
	w.put(w.Sets, uint32(setB), stateSet{})
	w.configure()
	w.want("a frame out of the tunnel", w.fromNode("tunnel", other).verdict, toRedirect)
	w.want("past the tunnel", w.fromNode("uplink", ether(ip(remoteC4, podB4, udp(1, 2)))).verdict, toDrop)
	w.want("past the tunnel, new", w.fromNode("uplink", ether(ip(remoteC4, podB4, udp(1, 3)))).verdict, toDrop)
	w.want("a pod's address, to the node", w.fromNode("uplink", ether(ip(podA4, hostAddr, udp(1, 3)))).verdict, toDrop)
	// From outside nobody has a pod's address here.
	w.want("spoofed", w.fromNode("uplink", ether(ip(podA4, podB4, udp(5, 6)))).verdict, toDrop)
	w.want("known", w.from("a", ether(ip(podA4, podB4, udp(5, 6)))), toRedirect)
	w.want("spoofed, of a flow", w.fromNode("uplink", ether(ip(podA4, podB4, udp(5, 6)))).verdict, toDrop)
	if n := w.dropped(ingress, stateReasonREASON_SPOOFED); n != 5 {
		t.Errorf("%d spoofed, want 5", n)
	}
	w.want("a lie to a pod", w.fromNode("uplink", set(ether(ip(remoteC4, podB4, udp(1, 2))), 14, 0x44)).verdict, toDrop)
}

// TestBPFWorld: a pod's flow to the world goes through the stack both ways, and is
// counted once.
func TestBPFWorld(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setA)
	w.rule(testRule{set: setA, peer: idWorld4, proto: protoTCP, port: 443, bits: 16, tier: 1, order: order(1, allow), rule: 3})
	there, back := ether(ip(podA4, world4, tcp(4000, 443, syn))), ether(ip(world4, podA4, tcp(443, 4000, syn|ack)))
	r := w.run(w.pod.EndpointFrom, "a", there, withMark(0x5))
	w.want("SYN", r.verdict, toStack)
	if r.mark != 0xfffe0005 {
		t.Errorf("mark %#x", r.mark)
	}
	// Without masquerade the answer has the pod's address on the uplink already.
	w.want("SYN ACK, on the uplink", w.fromNode("uplink", back).verdict, toStack)
	w.want("SYN ACK, to the pod", w.to("a", back), toStack)
	w.want("unasked", w.to("a", ether(ip(world4, podA4, tcp(443, 4001, syn|ack)))), toDrop)
	if f := w.flow(podA4, world4, 4000, 443, protoTCP); f.Packets != [2]uint64{1, 1} || f.Rule != [2]uint32{3, 0} {
		t.Errorf("flow: %+v", f)
	}
	// What leaves unmarked is not looked at.
	out := w.run(w.node.HostTo, "uplink", ether(ip(hostAddr, world4, tcp(61000, 443, syn))))
	w.want("leaves", out.verdict, toStack)
	w.noFlow(hostAddr, world4, 61000, 443, protoTCP)
}

// TestBPFService follows a connection to a service whose backend is a pod here.
func TestBPFService(t *testing.T) {
	for _, v := range []struct{ name, a, service, b string }{{"IPv4", podA4, service4, podB4}, {"IPv6", podA6, service6, podB6}} {
		t.Run(v.name, func(t *testing.T) {
			w := newPacketWorld(t)
			w.isolate(setA)
			w.rule(testRule{set: setA, peer: idB, proto: protoTCP, port: 8080, bits: 16, tier: 1, order: order(1, allow), rule: 3})
			r := w.run(w.pod.EndpointFrom, "a", ether(ip(v.a, v.service, tcp(4000, 80, syn))), withMark(0x4000))
			w.want("SYN", r.verdict, toStack)
			if r.mark != numberA<<16|0x4000 {
				t.Errorf("mark %#x, want the pod's number over the mark of others", r.mark)
			}
			// The stack has chosen b.
			dnat := ether(ip(v.a, v.b, tcp(4000, 8080, syn)))
			w.want("SYN behind the stack", w.run(w.pod.EndpointTo, "b", dnat, withMark(r.mark)).verdict, toStack)
			w.want("SYN ACK", w.from("b", ether(ip(v.b, v.a, tcp(8080, 4000, syn|ack)))), toStack)
			w.want("SYN ACK behind the stack", w.to("a", ether(ip(v.service, v.a, tcp(80, 4000, syn|ack)))), toStack)
			front := w.flow(v.a, v.service, 4000, 80, protoTCP)
			behind := w.flow(v.a, v.b, 4000, 8080, protoTCP)
			if front.Packets != [2]uint64{1, 1} || front.Verdict != [2]uint8{0, 0} || front.Flags&uint8(stateFlowFlagsFLOW_SERVICE) == 0 {
				t.Errorf("flow to the service: %+v", front)
			}
			if behind.Packets != [2]uint64{1, 1} || behind.Verdict != [2]uint8{1, 1} || behind.Rule != [2]uint32{3, 0} ||
				behind.Flags&uint8(stateFlowFlagsFLOW_DEFERRED) == 0 || behind.Ifindex != [2]uint32{w.devices["a"], w.devices["b"]} {
				t.Errorf("flow to the backend: %+v", behind)
			}
			// Another backend is not allowed.
			d := podD4
			if v.name == "IPv6" {
				d = podD6
				w.place(podD6, statePlace{Id: idD, Ifindex: w.devices["d"], Flags: uint32(statePlaceFlagsPLACE_POD)})
			}
			w.want("another backend", w.run(w.pod.EndpointTo, "d", ether(ip(v.a, d, tcp(4002, 8080, syn))), withMark(r.mark)).verdict, toDrop)
			// From a service's address nothing comes that was not asked for.
			w.want("unasked", w.to("a", ether(ip(v.service, v.a, tcp(80, 4009, syn|ack)))), toDrop)
		})
	}
}

// TestBPFServiceHere: a backend that is a process of this node is judged by its answer.
func TestBPFServiceHere(t *testing.T) {
	for _, v := range []struct{ name, a, service string }{{"IPv4", podA4, service4}, {"IPv6", podA6, service6}} {
		t.Run(v.name, func(t *testing.T) {
			w := newPacketWorld(t)
			w.isolate(setA)
			// The socket that a test run pretends has the packet's address, and port 0.
			host := uint32(statePlaceFlagsPLACE_SERVICE | statePlaceFlagsPLACE_HOST)
			w.place(v.service, statePlace{Id: idHost, Flags: host})
			there, back := ether(ip(v.a, v.service, tcp(4000, 443, syn))), ether(ip(v.service, v.a, tcp(443, 4000, syn|ack)))
			w.want("SYN", w.from("a", there), toStack)
			w.want("SYN ACK", w.to("a", back), toDrop)
			w.want("once more", w.to("a", back), toDrop)
			w.want("SYN of what is denied", w.from("a", there), toDrop)
			f := w.flow(v.a, v.service, 4000, 443, protoTCP)
			if f.Verdict != [2]uint8{2, 0} || f.Id[1] != idHost || f.Packets != [2]uint64{1, 0} || f.Dropped != 3 {
				t.Errorf("flow: %+v", f)
			}
			w.rule(testRule{set: setA, peer: idHost, proto: protoTCP, port: 0, bits: 16, tier: 1, order: order(1, allow), rule: 9})
			w.flip()
			w.want("SYN, allowed", w.from("a", there), toStack)
			w.want("SYN ACK, allowed", w.to("a", back), toStack)
			if f := w.flow(v.a, v.service, 4000, 443, protoTCP); f.Verdict != [2]uint8{1, 0} || f.Rule[0] != 9 {
				t.Errorf("flow that is allowed: %+v", f)
			}
		})
	}
}

// TestBPFServiceMasqueraded: the mark says whose a packet is that has the node's address.
func TestBPFServiceMasqueraded(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setB)
	mark := withMark(numberA << 16)
	packet := ether(ip(hostAddr, podB4, tcp(61000, 8080, syn)))
	w.want("from a pod that may not", w.run(w.pod.EndpointTo, "b", packet, mark).verdict, toDrop)
	w.want("from the node itself", w.to("b", ether(ip(hostAddr, podB4, tcp(61001, 8080, syn)))), toStack)
	w.rule(testRule{set: setB, direction: ingress, peer: idA, proto: protoTCP, port: 8080, bits: 16, tier: 1, order: order(1, allow), rule: 4})
	w.flip()
	w.want("from a pod that may", w.run(w.pod.EndpointTo, "b", packet, mark).verdict, toStack)
	f := w.flow(hostAddr, podB4, 61000, 8080, protoTCP)
	if f.Id != [2]uint32{idA, idB} || f.Rule != [2]uint32{0, 4} || f.Ifindex[0] != w.devices["a"] {
		t.Errorf("flow: %+v", f)
	}
	w.want("answer", w.from("b", ether(ip(podB4, hostAddr, tcp(8080, 61000, syn|ack)))), toStack)
	w.want("more", w.run(w.pod.EndpointTo, "b", packet, mark).verdict, toStack)
	if f := w.flow(hostAddr, podB4, 61000, 8080, protoTCP); f.Packets != [2]uint64{2, 1} {
		t.Errorf("packets %d, want 2 and 1", f.Packets)
	}
	// A pod behind its own service.
	w.isolate(setA)
	w.want("itself", w.run(w.pod.EndpointTo, "a", ether(ip(hostAddr, podA4, tcp(61002, 8080, syn))), mark).verdict, toStack)
}

// TestBPFServiceElsewhere: a backend on another node is judged where the packet leaves.
func TestBPFServiceElsewhere(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setA)
	w.rule(testRule{set: setA, peer: idC, proto: protoTCP, port: 8080, bits: 16, tier: 1, order: order(1, allow), rule: 3})
	leaves := func(src string, sport, dport uint16, mark uint32) ran {
		return w.run(w.node.HostTo, "uplink", ether(ip(src, remoteC4, tcp(sport, dport, syn))), withMark(mark))
	}
	r := leaves(podA4, 4000, 8080, numberA<<16|0x4000)
	w.want("allowed", r.verdict, toStack)
	if r.mark != 0x4000 {
		t.Errorf("mark %#x leaves the node, want what is others' of it", r.mark)
	}
	w.want("denied", leaves(podA4, 4000, 8081, numberA<<16).verdict, toDrop)
	w.want("the mark of no pod", leaves(podA4, 4001, 8081, 77<<16).verdict, toStack)
	w.want("unmarked", leaves(podA4, 4001, 8081, 0).verdict, toStack)
	w.want("answer", w.fromNode("uplink", ether(ip(remoteC4, podA4, tcp(8080, 4000, syn|ack)))).verdict, toStack)
	if f := w.flow(podA4, remoteC4, 4000, 8080, protoTCP); f.Packets != [2]uint64{1, 1} || f.Verdict != [2]uint8{1, 0} {
		t.Errorf("flow: %+v", f)
	}
	// With the node's address.
	w.want("masqueraded", leaves(hostAddr, 61000, 8080, numberA<<16).verdict, toStack)
	w.want("masqueraded, denied", leaves(hostAddr, 61001, 9999, numberA<<16).verdict, toDrop)
	w.want("its answer", w.fromNode("uplink", ether(ip(remoteC4, hostAddr, tcp(8080, 61000, syn|ack)))).verdict, toStack)
	if f := w.flow(hostAddr, remoteC4, 61000, 8080, protoTCP); f.Packets != [2]uint64{1, 1} || f.Id[0] != idA {
		t.Errorf("flow: %+v", f)
	}
	if n := w.counter(16 * 0).Packets; n != 0 {
		t.Errorf("%d packets counted as sent: endpoint_from has counted them", n)
	}
}

// TestBPFChained: with another CNI plugin packets are judged and counted once, and
// go its ways.
func TestBPFChained(t *testing.T) {
	w := newPacketWorld(t)
	w.config.Mode = uint32(stateModeMODE_CHAINED)
	w.configure()
	w.isolate(setB)
	w.rule(testRule{set: setB, direction: ingress, peer: idA, proto: protoTCP, port: 80, bits: 16, tier: 1, order: order(1, allow), rule: 4})
	w.rule(testRule{set: setB, direction: ingress, peer: idC, proto: protoTCP, port: 80, bits: 16, tier: 1, order: order(1, allow), rule: 5})
	there, back := ether(ip(podA4, podB4, tcp(4000, 80, syn))), ether(ip(podB4, podA4, tcp(80, 4000, syn|ack)))
	for range 2 {
		w.want("from a", w.from("a", there), toStack)
		w.want("to b", w.to("b", there), toStack)
		w.want("from b", w.from("b", back), toStack)
		w.want("to a", w.to("a", back), toStack)
	}
	if f := w.flow(podA4, podB4, 4000, 80, protoTCP); f.Packets != [2]uint64{2, 2} || f.Flags&uint8(stateFlowFlagsFLOW_DEFERRED) != 0 {
		t.Errorf("flow: %+v", f)
	}
	if sent, got := w.counter(0).Packets, w.counter(16).Packets; sent != 4 || got != 4 {
		t.Errorf("%d sent and %d received, want 4 each", sent, got)
	}
	w.want("denied", w.from("a", ether(ip(podA4, podB4, tcp(4000, 81, syn)))), toDrop)
	remote := ether(ip(remoteC4, podB4, tcp(4000, 80, syn)))
	w.want("on the uplink", w.fromNode("uplink", remote).verdict, toStack)
	w.want("to the pod", w.to("b", remote), toStack)
	if f := w.flow(remoteC4, podB4, 4000, 80, protoTCP); f.Packets != [2]uint64{1, 0} || f.Rule != [2]uint32{0, 5} {
		t.Errorf("flow from another node: %+v", f)
	}
	// A mark is somebody else's here.
	r := w.run(w.pod.EndpointFrom, "a", ether(ip(podA4, service4, tcp(4000, 80, syn))), withMark(0x70000))
	if r.mark != 0x70000 {
		t.Errorf("mark %#x", r.mark)
	}
	w.want("to a service's backend", w.run(w.node.HostTo, "uplink", ether(ip(podA4, remoteC4, tcp(4000, 8080, syn)))).verdict, toStack)
	if f := w.flow(podA4, remoteC4, 4000, 8080, protoTCP); f.Verdict != [2]uint8{1, 0} {
		t.Errorf("flow to a backend: %+v", f)
	}
}
