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
