package datapath

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestBPFVerdicts is what sets of rules make of packets from pod a.
func TestBPFVerdicts(t *testing.T) {
	tcp80 := ether(ip(podA4, podB4, tcp(40000, 80, syn)))
	world80 := ether(ip(podA4, world4, tcp(40000, 80, syn)))
	allowed := uint8(stateVerdictKindVERDICT_ALLOW)
	denied := uint8(stateVerdictKindVERDICT_DENY)
	audited := uint8(stateVerdictKindVERDICT_AUDIT)
	all := newPacketWorld(t)
	// Rules without a set are of a's, for what it sends.
	for _, c := range []struct {
		name     string
		isolated []uint32
		rules    []testRule
		audit    []string
		packet   []byte
		want     uint32
		verdict  [2]uint8
		rule     [2]uint32
	}{
		{name: "no policy", packet: tcp80, want: toRedirect, verdict: [2]uint8{allowed, allowed}},
		{name: "default deny of who sends", isolated: []uint32{setA}, packet: tcp80, want: toDrop, verdict: [2]uint8{denied, 0}},
		{name: "default deny of who gets it", isolated: []uint32{setB}, packet: tcp80, want: toDrop, verdict: [2]uint8{allowed, denied}},
		{name: "a port", isolated: []uint32{setA}, rules: []testRule{
			{peer: idB, proto: protoTCP, port: 80, bits: 16, tier: 1, order: order(1, allow), rule: 7},
		}, packet: tcp80, want: toRedirect, verdict: [2]uint8{allowed, allowed}, rule: [2]uint32{7, 0}},
		{name: "another port", isolated: []uint32{setA}, rules: []testRule{
			{peer: idB, proto: protoTCP, port: 81, bits: 16, tier: 1, order: order(1, allow), rule: 7},
		}, packet: tcp80, want: toDrop, verdict: [2]uint8{denied, 0}},
		{name: "another protocol", isolated: []uint32{setA}, rules: []testRule{
			{peer: idB, proto: protoUDP, port: 80, bits: 16, tier: 1, order: order(1, allow), rule: 7},
		}, packet: tcp80, want: toDrop, verdict: [2]uint8{denied, 0}},
		{name: "another peer", isolated: []uint32{setA}, rules: []testRule{
			{peer: idC, proto: protoTCP, port: 80, bits: 16, tier: 1, order: order(1, allow), rule: 7},
		}, packet: tcp80, want: toDrop, verdict: [2]uint8{denied, 0}},
		{name: "the other direction", isolated: []uint32{setA}, rules: []testRule{
			{direction: ingress, peer: idB, proto: protoTCP, port: 80, bits: 16, tier: 1, order: order(1, allow), rule: 7},
		}, packet: tcp80, want: toDrop, verdict: [2]uint8{denied, 0}},
		{name: "anybody", isolated: []uint32{setA}, rules: []testRule{
			{proto: protoTCP, port: 80, bits: 16, tier: 1, order: order(1, allow), rule: 7},
		}, packet: tcp80, want: toRedirect, verdict: [2]uint8{allowed, allowed}, rule: [2]uint32{7, 0}},
		{name: "a range of ports", isolated: []uint32{setA}, rules: []testRule{
			{peer: idB, proto: protoTCP, port: 64, bits: 10, tier: 1, order: order(1, allow), rule: 7},
		}, packet: tcp80, want: toRedirect, verdict: [2]uint8{allowed, allowed}, rule: [2]uint32{7, 0}},
		{name: "all ports", isolated: []uint32{setA}, rules: []testRule{
			{peer: idB, proto: protoTCP, tier: 1, order: order(1, allow), rule: 7},
		}, packet: tcp80, want: toRedirect, verdict: [2]uint8{allowed, allowed}, rule: [2]uint32{7, 0}},
		{name: "any protocol", isolated: []uint32{setA}, rules: []testRule{
			{peer: idB, tier: 1, order: order(1, allow), rule: 7},
		}, packet: tcp80, want: toRedirect, verdict: [2]uint8{allowed, allowed}, rule: [2]uint32{7, 0}},
		{name: "anybody, any protocol", isolated: []uint32{setA}, rules: []testRule{
			{tier: 1, order: order(1, allow), rule: 7},
		}, packet: tcp80, want: toRedirect, verdict: [2]uint8{allowed, allowed}, rule: [2]uint32{7, 0}},
		{name: "a network of the world", isolated: []uint32{setA}, rules: []testRule{
			{peer: idWorld4, proto: protoTCP, port: 80, bits: 16, tier: 1, order: order(1, allow), rule: 7},
		}, packet: world80, want: toStack, verdict: [2]uint8{allowed, 0}, rule: [2]uint32{7, 0}},
		{name: "the lowest precedence wins, whatever is more exact", rules: []testRule{
			{peer: idB, proto: protoTCP, port: 80, bits: 16, order: order(3, allow), rule: 7},
			{tier: 0, order: order(2, deny), rule: 8},
		}, packet: tcp80, want: toDrop, verdict: [2]uint8{denied, 0}, rule: [2]uint32{8, 0}},
		{name: "the lowest precedence wins, in another order", rules: []testRule{
			{peer: idB, proto: protoTCP, port: 80, bits: 16, order: order(2, allow), rule: 7},
			{tier: 0, order: order(3, deny), rule: 8},
		}, packet: tcp80, want: toRedirect, verdict: [2]uint8{allowed, allowed}, rule: [2]uint32{7, 0}},
		{name: "the admin tier allows what network policies deny", isolated: []uint32{setA}, rules: []testRule{
			{peer: idB, order: order(5, allow), rule: 7},
		}, packet: tcp80, want: toRedirect, verdict: [2]uint8{allowed, allowed}, rule: [2]uint32{7, 0}},
		{name: "the admin tier denies what network policies allow", rules: []testRule{
			{peer: idB, order: order(5, deny), rule: 7},
			{peer: idB, tier: 1, order: order(1, allow), rule: 8},
		}, packet: tcp80, want: toDrop, verdict: [2]uint8{denied, 0}, rule: [2]uint32{7, 0}},
		{name: "pass, and network policies allow", isolated: []uint32{setA}, rules: []testRule{
			{peer: idB, order: order(5, pass), rule: 7},
			{order: order(6, deny), rule: 9},
			{peer: idB, tier: 1, order: order(1, allow), rule: 8},
		}, packet: tcp80, want: toRedirect, verdict: [2]uint8{allowed, allowed}, rule: [2]uint32{8, 0}},
		{name: "pass, and nothing allows", isolated: []uint32{setA}, rules: []testRule{
			{peer: idB, order: order(5, pass), rule: 7},
		}, packet: tcp80, want: toDrop, verdict: [2]uint8{denied, 0}},
		{name: "a baseline denies", rules: []testRule{
			{peer: idB, tier: 1, order: order(5, deny), rule: 7},
		}, packet: tcp80, want: toDrop, verdict: [2]uint8{denied, 0}, rule: [2]uint32{7, 0}},
		{name: "both ends", isolated: []uint32{setA, setB}, rules: []testRule{
			{peer: idB, proto: protoTCP, port: 80, bits: 16, tier: 1, order: order(1, allow), rule: 7},
			{set: setB, direction: ingress, peer: idA, proto: protoTCP, port: 80, bits: 16, tier: 1, order: order(1, allow), rule: 8},
		}, packet: tcp80, want: toRedirect, verdict: [2]uint8{allowed, allowed}, rule: [2]uint32{7, 8}},
		{name: "SCTP", isolated: []uint32{setB}, rules: []testRule{
			{set: setB, direction: ingress, peer: idA, proto: protoSCTP, port: 80, bits: 16, tier: 1, order: order(1, allow), rule: 8},
		}, packet: ether(ip(podA4, podB4, sctp(40000, 80))), want: toRedirect, verdict: [2]uint8{allowed, allowed}, rule: [2]uint32{0, 8}},
		{name: "echo is no port", isolated: []uint32{setB}, rules: []testRule{
			{set: setB, direction: ingress, proto: protoICMP, port: 80, bits: 16, tier: 1, order: order(1, allow), rule: 8},
		}, packet: ether(ip(podA4, podB4, icmp(8, 0, 80))), want: toDrop, verdict: [2]uint8{allowed, denied}},
		{name: "audit of who sends", isolated: []uint32{setA}, audit: []string{"a"}, packet: tcp80, want: toRedirect, verdict: [2]uint8{audited, allowed}},
		{name: "audit of who sends, not of who gets it", isolated: []uint32{setA, setB}, audit: []string{"a"}, packet: tcp80, want: toDrop, verdict: [2]uint8{audited, denied}},
		{name: "audit keeps the rule", audit: []string{"a"}, rules: []testRule{
			{peer: idB, order: order(5, deny), rule: 7},
		}, packet: tcp80, want: toRedirect, verdict: [2]uint8{audited, allowed}, rule: [2]uint32{7, 0}},
		{name: "itself", isolated: []uint32{setA}, packet: ether(ip(podA4, podA4, tcp(40000, 80, syn))), want: toRedirect, verdict: [2]uint8{allowed, allowed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := all.again(t)
			for _, set := range c.isolated {
				w.isolate(set)
			}
			for _, r := range c.rules {
				if r.set == 0 {
					r.set = setA
				}
				w.rule(r)
			}
			for _, pod := range c.audit {
				w.endpoint(pod, stateEndpoint{
					Ip4: addrOf(podA4), Ip6: addrOf(podA6), Set: both(setA | setAudit), Number: 1,
				})
			}
			w.want("packet", w.from("a", c.packet), c.want)
			events := w.events()
			if len(events) != 1 {
				t.Fatalf("%d events, want 1", len(events))
			}
			e := events[0]
			if e.Flow.Verdict != c.verdict || e.Flow.Rule != c.rule {
				t.Errorf("verdicts %d by rules %d, want %d by %d", e.Flow.Verdict, e.Flow.Rule, c.verdict, c.rule)
			}
			kind, packets, drops := stateEventKindEVENT_NEW, uint64(1), uint64(0)
			if c.want == toDrop {
				kind, packets, drops = stateEventKindEVENT_DROP, 0, 1
			}
			if e.Kind != uint8(kind) || e.Flow.Packets[0] != packets || e.Flow.Dropped != drops {
				t.Errorf("event of kind %d with %d packets, %d dropped; want %d, %d, %d", e.Kind, e.Flow.Packets[0], e.Flow.Dropped, kind, packets, drops)
			}
			if c.want == toDrop && (e.Reason != uint8(stateReasonREASON_POLICY_DENIED) || e.Captured == 0) {
				t.Errorf("reason %d, %d bytes captured", e.Reason, e.Captured)
			}
			w.want("the same again", w.from("a", c.packet), c.want)
			if got := w.kinds(); len(got) != 0 {
				t.Errorf("the second packet was told as well: %v", got)
			}
		})
	}
}

// TestBPFGeneration: a change of policy is in force with one write, for flows that
// are known as for new ones, and for both directions.
func TestBPFGeneration(t *testing.T) {
	w := newPacketWorld(t)
	request, answer := ether(ip(podA4, podB4, tcp(40000, 80, syn))), ether(ip(podB4, podA4, tcp(80, 40000, syn|ack)))
	data := ether(ip(podA4, podB4, tcp(40000, 80, ack)))
	w.want("request", w.from("a", request), toRedirect)
	w.want("answer", w.from("b", answer), toRedirect)
	w.events()

	// The other slot has a set that denies; nothing happens until it counts.
	w.set(50, stateSet{Isolated: [2]uint8{1, 1}})
	w.endpoint("b", stateEndpoint{Ip4: addrOf(podB4), Ip6: addrOf(podB6), Set: [2]uint32{setB, 50}, Number: numberB})
	w.want("before", w.from("a", data), toRedirect)
	w.flip()
	w.want("after", w.from("a", data), toDrop)
	w.want("the answer after", w.from("b", answer), toDrop)
	if diff := cmp.Diff([]stateEventKind{stateEventKindEVENT_DROP}, w.kinds()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	// The server's packet is no new flow of the server's: it answers what is denied.
	f := w.flow(podA4, podB4, 40000, 80, protoTCP)
	if f.Verdict[1] != uint8(stateVerdictKindVERDICT_DENY) || f.Dropped != 2 || f.Generation != 1 ||
		f.Reason != uint8(stateReasonREASON_POLICY_DENIED) {
		t.Errorf("flow after the change: %+v", f)
	}
	// Back again.
	w.flip()
	w.want("allowed again", w.from("a", data), toRedirect)
	w.want("the answer again", w.from("b", answer), toRedirect)
	if diff := cmp.Diff([]stateEventKind{stateEventKindEVENT_UPDATE}, w.kinds()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if f := w.flow(podA4, podB4, 40000, 80, protoTCP); f.Packets != [2]uint64{3, 2} {
		t.Errorf("packets %d, want 3 and 2", f.Packets)
	}
}

// TestBPFIdentityChange: an address that is another pod's by now is judged anew,
// without any other change.
func TestBPFIdentityChange(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setA)
	w.rule(testRule{set: setA, peer: idB, proto: protoTCP, port: 80, bits: 16, tier: 1, order: order(1, allow), rule: 7})
	data := ether(ip(podA4, podB4, tcp(40000, 80, ack)))
	w.want("before", w.from("a", data), toRedirect)
	w.place(podB4, statePlace{Id: 999, Ifindex: w.devices["b"], Flags: uint32(statePlaceFlagsPLACE_POD)})
	w.want("after", w.from("a", data), toDrop)
	if f := w.flow(podA4, podB4, 40000, 80, protoTCP); f.Id[1] != 999 || f.Verdict[0] != uint8(stateVerdictKindVERDICT_DENY) {
		t.Errorf("flow after the change: %+v", f)
	}
}

// TestBPFFromHost: what comes from this node reaches its pods, whatever their policy.
func TestBPFFromHost(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setB)
	w.want("probe", w.to("b", ether(ip(hostAddr, podB4, tcp(50000, 8080, syn)))), toStack)
	w.want("answer", w.from("b", ether(ip(podB4, hostAddr, tcp(8080, 50000, syn|ack)))), toStack)
	w.want("another node", w.to("b", ether(ip(nodeAddr, podB4, tcp(50000, 8080, syn)))), toDrop)
	w.want("the world", w.to("b", ether(ip(world4, podB4, tcp(50000, 8080, syn)))), toDrop)
	f := w.flow(hostAddr, podB4, 50000, 8080, protoTCP)
	if f.Packets != [2]uint64{1, 1} || f.Verdict != [2]uint8{0, 1} || f.Id != [2]uint32{idHost, idB} {
		t.Errorf("flow of a probe: %+v", f)
	}
}

// TestBPFLinkLocal: who has an address of a pod's link and is not the pod is its
// node, unless another plugin made the link.
func TestBPFLinkLocal(t *testing.T) {
	const hostLink, podLink, node6 = "fe80::1", "fe80::a", "fd68::1"
	for _, v := range []struct{ name, host string }{{"a node with IPv6", node6}, {"with IPv4 alone", hostAddr}} {
		t.Run(v.name, func(t *testing.T) {
			w := newPacketWorld(t)
			if v.host == node6 {
				w.place(node6, statePlace{Id: idHost, Flags: uint32(statePlaceFlagsPLACE_HOST)})
				w.config.Node6 = addrOf(node6)
			} else {
				w.config.Node4 = addrOf(hostAddr)
			}
			w.configure()
			w.isolate(setA)
			w.isolate(setB)
			w.rule(testRule{set: setA, peer: idHost, proto: protoUDP, port: 53, bits: 16, tier: 1, order: order(1, allow), rule: 1})
			w.want("to the node", w.from("a", ether(ip(podA6, hostLink, udp(4000, 53)))), toStack)
			w.want("its answer", w.to("a", ether(ip(hostLink, podA6, udp(53, 4000)))), toStack)
			w.want("from an address of the link", w.from("a", ether(ip(podLink, hostLink, udp(4000, 53)))), toStack)
			w.want("to another port", w.from("a", ether(ip(podA6, hostLink, udp(4000, 54)))), toDrop)
			w.want("a probe", w.to("b", ether(ip(hostLink, podB6, tcp(50000, 8080, syn)))), toStack)
			if f := w.flow(podA6, hostLink, 4000, 53, protoUDP); f.Id != [2]uint32{idA, idHost} || f.Packets != [2]uint64{1, 1} {
				t.Errorf("flow to the node: %+v", f)
			}
			if f := w.flow(podLink, hostLink, 4000, 53, protoUDP); f.Id != [2]uint32{idA, idHost} {
				t.Errorf("flow from an address of the link: %+v", f)
			}
			w.config.Mode = uint32(stateModeMODE_CHAINED)
			w.configure()
			w.want("to somebody on another plugin's link", w.from("a", ether(ip(podA6, "fe80::2", udp(4000, 53)))), toDrop)
			w.want("from somebody there", w.to("b", ether(ip("fe80::2", podB6, tcp(50000, 8080, syn)))), toDrop)
		})
	}
}

// TestBPFMissingSet: an endpoint whose set is not there is denied everything.
func TestBPFMissingSet(t *testing.T) {
	w := newPacketWorld(t)
	w.endpoint("a", stateEndpoint{Ip4: addrOf(podA4), Set: both(77), Number: 1})
	w.want("packet", w.from("a", ether(ip(podA4, world4, udp(1, 2)))), toDrop)
}
