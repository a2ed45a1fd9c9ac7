package datapath

import (
	"errors"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"warren/internal/testkit"
)

// TestBPFReplies: what answers an allowed flow is allowed, whatever policy says of
// the other direction, and nothing else is.
func TestBPFReplies(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setA)
	w.isolate(setB)
	w.rule(testRule{set: setA, peer: idB, proto: protoUDP, port: 53, bits: 16, tier: 1, order: order(1, allow), rule: 1})
	w.rule(testRule{set: setB, direction: ingress, peer: idA, proto: protoUDP, port: 53, bits: 16, tier: 1, order: order(1, allow), rule: 2})
	w.want("an answer to nothing", w.from("b", ether(ip(podB4, podA4, udp(53, 4000)))), toDrop)
	w.want("question", w.from("a", ether(ip(podA4, podB4, udp(4000, 53)))), toRedirect)
	w.want("answer", w.from("b", ether(ip(podB4, podA4, udp(53, 4000)))), toRedirect)
	w.want("from another port", w.from("b", ether(ip(podB4, podA4, udp(54, 4000)))), toDrop)
	f := w.flow(podA4, podB4, 4000, 53, protoUDP)
	if f.Packets != [2]uint64{1, 1} || f.Rule != [2]uint32{1, 2} {
		t.Errorf("flow of the question: %+v", f)
	}

	// Who is denied cannot make a flow of it by what looks like an answer.
	w.want("SYN ACK", w.from("a", ether(ip(podA4, podB4, tcp(80, 5000, syn|ack)))), toDrop)
	w.want("ACK", w.from("a", ether(ip(podA4, podB4, tcp(80, 5001, ack)))), toDrop)
}

// TestBPFPortReuse: a SYN behind the end of a connection begins another one.
func TestBPFPortReuse(t *testing.T) {
	w := newPacketWorld(t)
	there := func(flags uint8) {
		w.want("to b", w.from("a", ether(ip(podA4, podB4, tcp(4000, 80, flags)))), toRedirect)
	}
	back := func(flags uint8) {
		w.want("to a", w.from("b", ether(ip(podB4, podA4, tcp(80, 4000, flags)))), toRedirect)
	}
	there(syn)
	back(syn | ack)
	there(ack)
	there(fin | ack)
	if f := w.flow(podA4, podB4, 4000, 80, protoTCP); f.State != uint8(stateFlowStateSTATE_CLOSING) {
		t.Errorf("state %d behind one FIN", f.State)
	}
	back(fin | ack)
	there(ack)
	first := w.flow(podA4, podB4, 4000, 80, protoTCP)
	if first.State != uint8(stateFlowStateSTATE_CLOSED) {
		t.Errorf("state %d behind both FINs", first.State)
	}
	there(syn)
	second := w.flow(podA4, podB4, 4000, 80, protoTCP)
	if second.State != uint8(stateFlowStateSTATE_NEW) || second.Packets != [2]uint64{1, 0} {
		t.Errorf("second flow: %+v", second)
	}
	back(rst)
	if f := w.flow(podA4, podB4, 4000, 80, protoTCP); f.State != uint8(stateFlowStateSTATE_CLOSED) {
		t.Errorf("state %d behind a RST", f.State)
	}
	const isNew, update, closed = stateEventKindEVENT_NEW, stateEventKindEVENT_UPDATE, stateEventKindEVENT_CLOSE
	events := w.events()
	var kinds []stateEventKind
	for _, e := range events {
		kinds = append(kinds, stateEventKind(e.Kind))
	}
	// SYN, SYN ACK, FIN, FIN; then the close of the first, SYN, RST.
	if diff := cmp.Diff([]stateEventKind{isNew, update, update, update, closed, isNew, update}, kinds); diff != "" {
		t.Fatalf("events (-want +got):\n%s", diff)
	}
	if last := events[4].Flow; last.Packets != [2]uint64{4, 2} {
		t.Errorf("the first flow is closed with %d packets, want 4 and 2", last.Packets)
	}
	if !(events[1].Reply == 1 && events[2].Reply == 0 && events[3].Reply == 1) {
		t.Error("events do not tell who sent the packet")
	}
}

// TestBPFTurnedDenial: a denied flow does not keep the other end from beginning one.
func TestBPFTurnedDenial(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setA)
	w.rule(testRule{set: setA, direction: ingress, tier: 1, order: order(1, allow), rule: 1})
	for _, make := range []func(src, dst string, sport, dport uint16) []byte{
		func(src, dst string, sport, dport uint16) []byte { return ether(ip(src, dst, udp(sport, dport))) },
		func(src, dst string, sport, dport uint16) []byte { return ether(ip(src, dst, tcp(sport, dport, syn))) },
	} {
		w.want("denied", w.from("a", make(podA4, podB4, 7, 9)), toDrop)
		w.want("the other way", w.from("b", make(podB4, podA4, 9, 7)), toRedirect)
		w.want("its answer", w.from("a", make(podA4, podB4, 7, 9)), toRedirect)
	}
	// Both are denied: told once, counted always.
	w.isolate(setB)
	w.events()
	for range 3 {
		w.want("denied", w.from("a", ether(ip(podA4, podB4, udp(70, 90)))), toDrop)
		w.want("denied, the other way", w.from("b", ether(ip(podB4, podA4, udp(90, 70)))), toDrop)
	}
	if diff := cmp.Diff([]stateEventKind{stateEventKindEVENT_DROP}, w.kinds()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if f := w.flow(podA4, podB4, 70, 90, protoUDP); f.Dropped != 6 {
		t.Errorf("%d dropped, want 6", f.Dropped)
	}
	w.flow(podB4, podA4, 9, 7, protoUDP)
	w.flow(podB4, podA4, 9, 7, protoTCP)
}

// TestBPFErrors: ICMP errors follow the flow that they are about.
func TestBPFErrors(t *testing.T) {
	type packet struct {
		pod  string
		data []byte
	}
	for _, v := range []struct {
		name, a, b  string
		unreachable func(quoted []byte) transport
		other       func(quoted []byte) transport
	}{
		{"IPv4", podA4, podB4,
			func(q []byte) transport { return icmp(3, 3, 0, q...) },
			func(q []byte) transport { return icmp(13, 0, 0, q...) }},
		{"IPv6", podA6, podB6,
			func(q []byte) transport { return icmp6(1, 4, 0, q...) },
			func(q []byte) transport { return icmp6(200, 0, 0, q...) }},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := newPacketWorld(t)
			w.isolate(setA)
			w.isolate(setB)
			w.rule(testRule{set: setA, peer: idB, proto: protoUDP, port: 53, bits: 16, tier: 1, order: order(1, allow), rule: 1})
			w.rule(testRule{set: setB, direction: ingress, peer: idA, proto: protoUDP, port: 53, bits: 16, tier: 1, order: order(1, allow), rule: 2})
			question := ip(v.a, v.b, udp(4000, 53))
			about := func(quoted []byte) packet {
				return packet{"b", ether(ip(v.b, v.a, v.unreachable(quoted)))}
			}
			w.want("about nothing", w.from("b", about(question).data), toDrop)
			w.want("question", w.from("a", ether(question)), toRedirect)
			for _, c := range []struct {
				name   string
				packet packet
				want   uint32
			}{
				{"about the question", about(question), toRedirect},
				{"with a piece of it", about(question[:len(question)-4]), toRedirect},
				{"with less than its ports", about(question[:len(question)-8]), toDrop},
				{"with nothing", about(nil), toDrop},
				{"about another one", about(ip(v.a, v.b, udp(4001, 53))), toDrop},
				{"about what another pod was sent", about(ip(v.a, podD4If(v.a), udp(4000, 53))), toDrop},
				{"to somebody else", packet{"b", ether(ip(v.b, podD4If(v.a), v.unreachable(question)))}, toDrop},
				{"no error", packet{"b", ether(ip(v.b, v.a, v.other(question)))}, toDrop},
			} {
				w.want(c.name, w.from(c.packet.pod, c.packet.data), c.want)
			}
			// A router on the way says so too, through the stack.
			router, dst := hostAddr, v.a
			if v.name == "IPv6" {
				router = "2001:db8::1"
			}
			w.want("from a router", w.to("a", ether(ip(router, dst, v.unreachable(question)))), toStack)
			proto := uint8(protoUDP)
			if f := w.flow(v.a, v.b, 4000, 53, proto); f.Packets != [2]uint64{1, 0} {
				t.Errorf("errors are counted as the flow's: %d", f.Packets)
			}
		})
	}
}

func podD4If(addr string) string {
	if addr == podA4 {
		return podD4
	}
	return podD6
}

// TestBPFDroppedFlags: what is told of a dropped packet has its flags of TCP, which
// no flow counts.
func TestBPFDroppedFlags(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setA)
	for _, c := range []struct {
		name   string
		packet []byte
		reason stateReason
	}{
		{"denied", ip(podA4, podB4, tcp(4000, 80, syn)), stateReasonREASON_POLICY_DENIED},
		{"denied, IPv6", ip(podA6, podB6, tcp(4000, 80, syn)), stateReasonREASON_POLICY_DENIED},
		{"spoofed", ip(podB4, podA4, tcp(4001, 80, syn)), stateReasonREASON_SPOOFED},
	} {
		w.want(c.name, w.from("a", ether(c.packet)), toDrop)
		events := w.events()
		if len(events) != 1 || events[0].Kind != uint8(stateEventKindEVENT_DROP) || events[0].Reason != uint8(c.reason) || events[0].Flow.TcpFlags != [2]uint8{syn, 0} {
			t.Errorf("%s: events %+v", c.name, events)
		}
	}
	if f := w.flow(podA4, podB4, 4000, 80, protoTCP); f.TcpFlags != [2]uint8{} {
		t.Errorf("the flow has flags %v of a packet that never arrived", f.TcpFlags)
	}
}

// TestBPFInterval: a flow that goes on is told of again and again, not each packet.
func TestBPFInterval(t *testing.T) {
	w := newPacketWorld(t)
	w.config.FlowInterval = 1000
	w.configure()
	packet := ether(ip(podA4, podB4, udp(1, 2)))
	for range 5 {
		w.from("a", packet)
	}
	if diff := cmp.Diff([]stateEventKind{stateEventKindEVENT_NEW}, w.kinds()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	key, _ := keyOf(podA4, podB4, 1, 2, protoUDP)
	f := w.flow(podA4, podB4, 1, 2, protoUDP)
	f.Told -= uint64(1001 * time.Second)
	w.put(w.Flows, key, f)
	w.from("a", packet)
	w.from("a", packet)
	events := w.events()
	if len(events) != 1 || events[0].Kind != uint8(stateEventKindEVENT_UPDATE) || events[0].Flow.Packets[0] != 6 {
		t.Errorf("events behind the interval: %+v", events)
	}
	if e := events[0]; e.Flow.Seen > e.Ktime || e.Ktime-e.Flow.Seen > uint64(time.Second) {
		t.Errorf("the flow was seen at %d, and told of at %d, in boot time", e.Flow.Seen, e.Ktime)
	}
	// Nobody listens.
	w.config.Flags = 0
	w.configure()
	w.from("a", ether(ip(podA4, podB4, udp(3, 4))))
	w.from("a", ether(ip(podB4, podA4, udp(3, 4))))
	if got := w.kinds(); len(got) != 0 {
		t.Errorf("told though nobody listens: %v", got)
	}
}

// TestBPFQuota: a flood of packets without a flow is counted, not told.
func TestBPFQuota(t *testing.T) {
	w := newPacketWorld(t)
	packet := ether(ip(podB4, podA4, udp(1, 2)))
	for range 1000 {
		w.from("a", packet)
	}
	n := uint64(len(w.events()))
	if n == 0 || n >= 1000 {
		t.Errorf("%d of 1,000 told", n)
	}
	if quiet := w.counter(uint32(stateCounterIndexCOUNT_QUIET)).Packets; quiet+n != 1000 {
		t.Errorf("%d told and %d counted as not, want 1,000 together", n, quiet)
	}
	if d := w.dropped(egress, stateReasonREASON_SPOOFED); d != 1000 {
		t.Errorf("%d counted as spoofed", d)
	}
}

// TestBPFRingFull: what the ring has no room for is counted.
func TestBPFRingFull(t *testing.T) {
	w := newPacketWorldOf(t, small)
	record := uint64(184 + 8)
	fits := uint64(8<<20) / record
	packets := manyFlows(podA4, podB4, 1, 80, 50_000, false)
	w.median(w.pod.EndpointFrom, "a", toRedirect, packets, len(packets))
	told := w.counter(uint32(stateCounterIndexCOUNT_EVENTS) + uint32(stateEventKindEVENT_NEW)).Packets
	lost := w.counter(uint32(stateCounterIndexCOUNT_LOST) + uint32(stateEventKindEVENT_NEW)).Packets
	if told == 0 || lost == 0 || told+lost != 50_000 || told > fits {
		t.Errorf("%d told, %d lost; %d fit", told, lost, fits)
	}
	if n := len(w.events()); uint64(n) != told {
		t.Errorf("%d read, %d told", n, told)
	}
}

// TestBPFExpired: a packet that finds a flow whose time is over begins another one,
// whoever sends it, and the former is told of as ended.
func TestBPFExpired(t *testing.T) {
	w := newPacketWorld(t)
	w.isolate(setA)
	w.rule(testRule{set: setA, peer: idB, proto: protoUDP, port: 53, bits: 16, tier: 1, order: order(1, allow), rule: 1})
	key, _ := keyOf(podA4, podB4, 4000, 53, protoUDP)
	question, answer := ether(ip(podA4, podB4, udp(4000, 53))), ether(ip(podB4, podA4, udp(53, 4000)))
	age := func(by time.Duration) {
		f := w.flow(podA4, podB4, 4000, 53, protoUDP)
		f.Began -= uint64(by)
		f.Seen -= uint64(by)
		w.put(w.Flows, key, f)
	}
	w.want("question", w.from("a", question), toRedirect)
	first := w.flow(podA4, podB4, 4000, 53, protoUDP)
	age(29 * time.Second)
	w.want("in time", w.from("a", question), toRedirect)
	w.want("answer", w.from("b", answer), toRedirect)
	age(119 * time.Second)
	w.want("answer in time", w.from("b", answer), toRedirect)
	w.events()
	age(121 * time.Second)
	w.want("question of another flow", w.from("a", question), toRedirect)
	f := w.flow(podA4, podB4, 4000, 53, protoUDP)
	if f.Packets != [2]uint64{1, 0} || f.Stamp != first.Stamp {
		t.Errorf("the next flow has %d packets and stamp %x, want that of the first, %x", f.Packets, f.Stamp, first.Stamp)
	}
	age(31 * time.Second)
	w.want("an answer too late", w.from("b", answer), toDrop)
	if f := w.flow(podB4, podA4, 53, 4000, protoUDP); f.Packets != [2]uint64{0, 0} || f.Dropped != 1 {
		t.Errorf("the late answer: %+v", f)
	}
	events := w.events()
	var kinds []stateEventKind
	for _, e := range events {
		kinds = append(kinds, stateEventKind(e.Kind))
	}
	const isNew, closed, drop = stateEventKindEVENT_NEW, stateEventKindEVENT_CLOSE, stateEventKindEVENT_DROP
	if diff := cmp.Diff([]stateEventKind{closed, isNew, closed, drop}, kinds); diff != "" {
		t.Fatalf("events (-want +got):\n%s", diff)
	}
	if events[0].Flow.Packets != [2]uint64{2, 2} || events[2].Flow.Packets != [2]uint64{1, 0} {
		t.Errorf("closed with %d and %d packets", events[0].Flow.Packets, events[2].Flow.Packets)
	}
	// What is about a flow that is over is about nothing.
	w.want("an error too late", w.from("b", ether(ip(podB4, podA4, icmp(3, 3, 0, ip(podA4, podB4, udp(4000, 53))...)))), toDrop)
}

// TestBPFSweepFull: where flows come faster than ends are noticed, as many are told
// and counted as there were, and a flow that cannot be followed is none.
func TestBPFSweepFull(t *testing.T) {
	for _, tt := range []struct {
		name   string
		queue  uint32
		flows  int
		enough bool // there is room for nearly all
	}{
		{"of their size", 1 << 11, 50_000, true},
		{"too small", 1 << 7, 20_000, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newPacketWorldOf(t, func(maps map[string]*ebpf.MapSpec) {
				small(maps)
				for name, n := range map[string]uint32{"flows": 1 << 10, "sweeps": tt.queue} {
					if maps[name] != nil {
						maps[name].MaxEntries = n
					}
				}
			})
			packets := manyFlows(podA4, podB4, 1, 80, tt.flows, false)
			w.median(w.pod.EndpointFrom, "a", toRedirect, packets, len(packets))
			count := func(index stateCounterIndex) uint64 { return w.counter(uint32(index)).Packets }
			there := func() uint64 {
				var n uint64
				var key stateFlowKey
				var f stateFlow
				for it := w.Flows.Iterate(); it.Next(&key, &f); {
					n++
				}
				return n
			}
			begun, refused := count(stateCounterIndexCOUNT_BEGUN), count(stateCounterIndexCOUNT_UNFLOWED)
			if begun+refused != uint64(tt.flows) || refused < uint64(tt.flows/100) != tt.enough {
				t.Errorf("%d flows have begun and %d not, of %d", begun, refused, tt.flows)
			}
			testkit.Wait(t, "all flows are there or accounted for", func() bool {
				return begun == there()+count(stateCounterIndexCOUNT_EVICTED)+count(stateCounterIndexCOUNT_ENDED)
			})
			// All that are left come to their end.
			var keys []stateFlowKey
			var key stateFlowKey
			var f stateFlow
			for it := w.Flows.Iterate(); it.Next(&key, &f); {
				keys = append(keys, key)
			}
			for _, key := range keys {
				if w.Flows.Lookup(key, &f) != nil {
					continue // to write one evicts another, sometimes
				}
				f.Seen -= uint64(time.Hour)
				w.put(w.Flows, key, f)
			}
			testkit.Wait(t, "the rest ends", func() bool { return there() == 0 })
			told, lost := count(stateCounterIndexCOUNT_EVENTS+stateCounterIndex(stateEventKindEVENT_CLOSE)), count(stateCounterIndexCOUNT_LOST+stateCounterIndex(stateEventKindEVENT_CLOSE))
			evicted, ended := count(stateCounterIndexCOUNT_EVICTED), count(stateCounterIndexCOUNT_ENDED)
			t.Logf("%d flows, %d begun, %d ended, %d evicted", tt.flows, begun, ended, evicted)
			if told+lost != ended || ended+evicted != begun || ended == 0 {
				t.Errorf("%d begun; %d ends told and %d lost of %d, %d evicted", begun, told, lost, ended, evicted)
			}
		})
	}
}

// TestBPFSweep: flows end in the kernel when they are over, with nobody's help, and
// their last counts are told.
func TestBPFSweep(t *testing.T) {
	w := newPacketWorldOf(t, small)
	w.config.FlowInterval = 1
	w.configure()
	w.from("a", ether(ip(podA4, podB4, udp(1, 2))))
	w.from("a", ether(ip(podA4, podB4, udp(3, 4))))
	w.from("a", ether(ip(podA4, podB4, udp(5, 6))))
	w.events()
	// The first is over by now, the second had its time to be told of, the third
	// has made way for others.
	age := func(sport, dport uint16, seen, told time.Duration) {
		key, _ := keyOf(podA4, podB4, sport, dport, protoUDP)
		f := w.flow(podA4, podB4, sport, dport, protoUDP)
		f.Seen -= uint64(seen)
		f.Told -= uint64(told)
		w.put(w.Flows, key, f)
	}
	age(1, 2, 31*time.Second, 0)
	age(3, 4, 0, 2*time.Second)
	third, _ := keyOf(podA4, podB4, 5, 6, protoUDP)
	if err := w.Flows.Delete(third); err != nil {
		t.Fatal(err)
	}
	first, _ := keyOf(podA4, podB4, 1, 2, protoUDP)
	testkit.Wait(t, "the flow ends", func() bool {
		var f stateFlow
		return errors.Is(w.Flows.Lookup(first, &f), ebpf.ErrKeyNotExist)
	})
	testkit.Wait(t, "the lost flow is noticed", func() bool {
		return w.counter(uint32(stateCounterIndexCOUNT_EVICTED)).Packets == 1
	})
	w.flow(podA4, podB4, 3, 4, protoUDP)
	var kinds []stateEventKind
	testkit.Wait(t, "both are told of", func() bool {
		for _, e := range w.events() {
			kinds = append(kinds, stateEventKind(e.Kind))
			if e.Hook != uint8(stateHookHOOK_TIMER) || e.Flow.Packets[0] != 1 {
				t.Errorf("event of the timer: %+v", e)
			}
		}
		return len(kinds) >= 2
	})
	if diff := cmp.Diff([]stateEventKind{stateEventKindEVENT_CLOSE, stateEventKindEVENT_UPDATE}, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
