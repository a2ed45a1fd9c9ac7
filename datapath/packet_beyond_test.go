package datapath

import "testing"

// vxlan has the world's pods elsewhere be behind a tunnel.
func (w *packetWorld) vxlan() {
	w.config.Mode, w.config.Tunnel = uint32(stateModeMODE_VXLAN), w.devices["tunnel"]
	w.configure()
}

// TestBPFTunnelMark: what comes out of the tunnel has the mark of the packet that carried
// it, which was for the node; where the stack has to forward it, it is a pod's all the same.
func TestBPFTunnelMark(t *testing.T) {
	for _, v := range []struct{ name, remote, b string }{{"IPv4", remoteC4, podB4}, {"IPv6", remoteC6, podB6}} {
		t.Run(v.name, func(t *testing.T) {
			w := newPacketWorld(t)
			w.vxlan()
			// Between nodes that have only IPv6.
			w.place(v.remote, statePlace{Id: idC, Flags: uint32(statePlaceFlagsPLACE_POD)})
			w.isolate(setB)
			w.rule(testRule{set: setB, direction: ingress, peer: idC, tier: 1, order: order(1, allow), rule: 4})
			outer := w.fromNode("uplink", ether(ip(nodeAddr, hostAddr, udp(50000, 8472))))
			packet := ether(ip(v.remote, v.b, udp(7, 8080)))
			for range 2 {
				r := w.run(w.node.HostFrom, "tunnel", packet, withMark(outer.mark|0x4000))
				w.want("out of the tunnel", r.verdict, toStack)
				if r.mark != 0x4000 {
					t.Errorf("mark %#x", r.mark)
				}
				w.want("to the pod", w.run(w.pod.EndpointTo, "b", packet, withMark(r.mark)).verdict, toStack)
			}
			if f := w.flow(v.remote, v.b, 7, 8080, protoUDP); f.Id[0] != idC || f.Rule[1] != 4 {
				t.Errorf("flow: %+v", f)
			}
		})
	}
}

// TestBPFTunnelForged: no pod sends packets of the tunnel, in which it could be anybody.
func TestBPFTunnelForged(t *testing.T) {
	w := newPacketWorld(t)
	w.place(service4, statePlace{Flags: uint32(statePlaceFlagsPLACE_SERVICE)})
	send := func(dst string, port uint16) uint32 { return w.from("a", ether(ip(podA4, dst, udp(4000, port)))) }
	w.want("where there is no tunnel", send(nodeAddr, 8472), toStack)
	w.vxlan()
	for _, dst := range []string{hostAddr, nodeAddr, world4, "169.254.1.1"} {
		w.want("to "+dst, send(dst, 8472), toDrop)
		w.want("another port of "+dst, send(dst, 8473), toStack)
	}
	w.want("IPv6", w.from("a", ether(ip(podA6, world6, udp(4000, 8472)))), toDrop)
	w.want("TCP", w.from("a", ether(ip(podA4, nodeAddr, tcp(4000, 8472, syn)))), toStack)
	w.want("to a pod", send(podB4, 8472), toRedirect)
	w.want("to a service", send(service4, 8472), toStack)
	if n := w.dropped(egress, stateReasonREASON_SPOOFED); n != 5 {
		t.Errorf("%d spoofed, want 5", n)
	}
}

// TestBPFNodePortOfLoopback: node ports have loopback's addresses too, whoever asks.
func TestBPFNodePortOfLoopback(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setB)
	masqueraded := ether(ip(hostAddr, podB4, tcp(61000, 8080, syn)))
	r := w.run(w.pod.EndpointFrom, "a", ether(ip(podA4, "127.0.0.1", tcp(4000, 30080, syn))))
	w.want("a pod asks", r.verdict, toStack)
	w.want("of a pod", w.run(w.pod.EndpointTo, "b", masqueraded, withMark(r.mark)).verdict, toDrop)
	// And so may addresses that nobody has told us of, like those of new services.
	for _, dst := range []string{"127.0.0.1", "198.51.100.7"} {
		r := w.fromNode("uplink", ether(ip(world4, dst, tcp(4000, 30080, syn))))
		w.want("somebody beyond asks "+dst, r.verdict, toStack)
		w.want("of somebody beyond", w.run(w.pod.EndpointTo, "b", masqueraded, withMark(r.mark)).verdict, toDrop)
	}
}

// TestBPFAnswerForgotten: an answer for the node is none where the stack has forgotten the
// question, and does not pass for the node's own then.
func TestBPFAnswerForgotten(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setD)
	// b has been asked by a, which chose the number of a node port for its own.
	asked := ether(ip(hostAddr, podB4, udp(30080, 53)))
	w.want("asked", w.run(w.pod.EndpointTo, "b", asked, withMark(numberA<<16)).verdict, toStack)
	answer := ether(ip(podB4, hostAddr, udp(53, 30080)))
	r := w.run(w.pod.EndpointFrom, "b", answer, withMark(0x4000))
	w.want("an answer", r.verdict, toStack)
	w.want("by the node port", w.run(w.pod.EndpointTo, "d", ether(ip(hostAddr, podD4, udp(61000, 8080))), withMark(r.mark)).verdict, toDrop)
	// The answer of a question from elsewhere leaves, though b may ask nobody.
	w.isolate(setB)
	w.flip()
	out := w.run(w.node.HostTo, "uplink", ether(ip(hostAddr, world4, udp(30053, 4000))), withMark(r.mark))
	w.want("leaves", out.verdict, toStack)
	if out.mark != 0x4000 {
		t.Errorf("mark %#x of what leaves", out.mark)
	}
}

// TestBPFErrorBehindMasquerade: what a pod has to say of a packet leaves as its answers do.
func TestBPFErrorBehindMasquerade(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setB)
	w.rule(testRule{set: setB, direction: ingress, peer: idWorld4, tier: 1, order: order(1, allow), rule: 4})
	asked := ip(hostAddr, podB4, udp(61000, 53))
	w.want("asked", w.run(w.pod.EndpointTo, "b", ether(asked), withMark(0xffff<<16)).verdict, toStack)
	r := w.run(w.pod.EndpointFrom, "b", ether(ip(podB4, hostAddr, icmp(3, 3, 0, asked...))))
	w.want("nobody listens", r.verdict, toStack)
	quoted := ip(world4, hostAddr, udp(4000, 30053))
	w.want("leaves", w.run(w.node.HostTo, "uplink", ether(ip(hostAddr, world4, icmp(3, 3, 0, quoted...))), withMark(r.mark)).verdict, toStack)
}

// TestBPFBeyondForwarded: nobody beyond has a pod's address by way of this node either.
func TestBPFBeyondForwarded(t *testing.T) {
	w := newPacketWorld(t)
	w.vxlan()
	w.want("as a pod here", w.fromNode("uplink", ether(ip(podA4, remoteC4, udp(1, 2)))).verdict, toDrop)
	w.want("as a pod here, to a node", w.fromNode("uplink", ether(ip(podA4, nodeAddr, udp(1, 2)))).verdict, toDrop)
	w.want("as itself", w.fromNode("uplink", ether(ip(world4, remoteC4, udp(1, 2)))).verdict, toStack)
}

// TestBPFUnknownTranslated: what a pod sends to an address that nobody has told us of may
// come out of the stack for a pod, by a service of the last second for example. With the
// node's address it is not the node's then; with the pod's own it is that pod's.
func TestBPFUnknownTranslated(t *testing.T) {
	all := newPacketWorld(t)
	for _, v := range []struct {
		name, a, b, host, unknown, node string
		world                           uint32
	}{
		{"IPv4", podA4, podB4, hostAddr, "198.51.100.7", nodeAddr, idWorld4},
		{"IPv6", podA6, podB6, "fd68::1", "fd96::99", "fd68::2", idWorld6},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := all.again(t)
			w.place(v.host, statePlace{Id: idHost, Flags: uint32(statePlaceFlagsPLACE_HOST)})
			w.place(v.node, statePlace{Id: idNode, Flags: uint32(statePlaceFlagsPLACE_NODE)})
			w.isolate(setB)
			mark := uint32(0)
			for _, dst := range []string{v.node, v.unknown} { // rules of others are about either
				r := w.run(w.pod.EndpointFrom, "a", ether(ip(v.a, dst, tcp(4000, 80, syn))), withMark(0x4000))
				w.want("a pod asks "+dst, r.verdict, toStack)
				if mark = r.mark; mark != 0xfffe4000 {
					t.Errorf("a pod asks %s: mark %#x", dst, mark)
				}
			}
			arrives := func(src string, port uint16, mark uint32) uint32 {
				return w.run(w.pod.EndpointTo, "b", ether(ip(src, v.b, tcp(port, 8080, syn))), withMark(mark)).verdict
			}
			w.want("masqueraded", arrives(v.host, 61000, mark), toDrop)
			w.want("the node's own", arrives(v.host, 61001, 0x4000), toStack)
			w.want("with its own address", arrives(v.a, 4000, mark), toDrop)

			w.rule(testRule{set: setB, direction: ingress, peer: idA, tier: 1, order: order(1, allow), rule: 4})
			w.flip()
			w.want("masqueraded: it is not known whose", arrives(v.host, 61000, mark), toDrop)
			for range 2 {
				w.want("with its own address, which may", arrives(v.a, 4000, mark), toStack)
			}
			if f := w.flow(v.a, v.b, 4000, 8080, protoTCP); f.Id[0] != idA || f.Rule[1] != 4 || f.Packets[0] != 2 || f.Flags&uint8(stateFlowFlagsFLOW_OUTSIDE) != 0 {
				t.Errorf("flow: %+v", f)
			}
			w.want("masqueraded, of a service by now", arrives(v.host, 61000, numberA<<16), toStack)
			w.want("with its own address, of a service by now", arrives(v.a, 4000, numberA<<16), toStack)
			w.rule(testRule{set: setB, direction: ingress, peer: v.world, tier: 1, order: order(1, allow), rule: 5})
			w.flip()
			w.want("where anybody may", arrives(v.host, 61002, mark), toStack)

			// What is for outside leaves as before, by another address and by its own.
			for _, src := range []string{v.a, v.host} {
				r := w.run(w.node.HostTo, "uplink", ether(ip(src, v.unknown, tcp(4001, 80, syn))), withMark(mark))
				if r.verdict != toStack || r.mark != 0x4000 {
					t.Errorf("%s leaves: %d, mark %#x", src, int32(r.verdict), r.mark)
				}
				w.noFlow(src, v.unknown, 4001, 80, protoTCP)
			}
			// Its answer comes back.
			w.want("the answer", w.run(w.pod.EndpointTo, "a", ether(ip(v.unknown, v.a, tcp(80, 4000, syn|ack)))).verdict, toStack)

			w.config.Mode = uint32(stateModeMODE_CHAINED)
			w.configure()
			if r := w.run(w.pod.EndpointFrom, "a", ether(ip(v.a, v.unknown, tcp(4003, 80, syn))), withMark(0x12344000)); r.mark != 0x12344000 {
				t.Errorf("chained: mark %#x", r.mark)
			}
		})
	}
}

// TestBPFServiceRefused: where nobody listens at a backend that is this node's own, the
// kernel itself says so, with a socket that knows nothing of the port.
func TestBPFServiceRefused(t *testing.T) {
	for _, v := range []struct{ name, a, service string }{{"IPv4", podA4, service4}, {"IPv6", podA6, service6}} {
		t.Run(v.name, func(t *testing.T) {
			w := newPacketWorld(t)
			w.isolate(setA)
			host := uint32(statePlaceFlagsPLACE_SERVICE | statePlaceFlagsPLACE_HOST)
			w.place(v.service, statePlace{Id: idHost, Flags: host})
			w.want("SYN", w.from("a", ether(ip(v.a, v.service, tcp(4000, 443, syn)))), toStack)
			w.want("RST", w.to("a", ether(ip(v.service, v.a, tcp(443, 4000, rst|ack)))), toStack)
			f := w.flow(v.a, v.service, 4000, 443, protoTCP)
			if f.Verdict != [2]uint8{} || f.Packets != [2]uint64{1, 1} || f.State != uint8(stateFlowStateSTATE_CLOSED) {
				t.Errorf("flow: %+v", f)
			}
			// Of who does listen an isolated pod still hears nothing.
			w.want("SYN again", w.from("a", ether(ip(v.a, v.service, tcp(4000, 443, syn)))), toStack)
			w.want("SYN ACK", w.to("a", ether(ip(v.service, v.a, tcp(443, 4000, syn|ack)))), toDrop)
			w.want("RST of what was denied", w.to("a", ether(ip(v.service, v.a, tcp(443, 4000, rst)))), toDrop)
		})
	}
}
