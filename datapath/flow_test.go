package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/internal/testkit"
	"warren/netpol"
)

// What the kernel writes may be of any length, and say anything.
func FuzzFlowEvent(f *testing.F) {
	var e stateFlowEvent
	e.Captured, e.Kind = 64, 4
	whole := unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e))
	f.Add(slices.Clone(whole))
	f.Add(slices.Clone(whole[:eventLen]))
	f.Add(whole[:eventLen-1])
	e.Captured = 0xffff
	f.Add(slices.Clone(whole))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 400))
	f.Fuzz(func(t *testing.T, record []byte) {
		var r eventReader
		ok := r.decode(record)
		if ok != (len(record) >= eventLen) {
			t.Errorf("%d bytes: %v", len(record), ok)
		}
		if max := len(record) - eventLen; ok && len(r.event.Packet.Header) > max {
			t.Errorf("%d bytes of a header, of %d", len(r.event.Packet.Header), max)
		}
		// It is read again into the same.
		if again := r.decode(record); again != ok {
			t.Error("not the same twice")
		}
	})
}

func TestFlowDecodeEnds(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	key := stateFlowKey{A: addrKey(a), B: addrKey(b), PortA: be16(1000), PortB: be16(80), Proto: 6}
	raw := stateFlow{Packets: [2]uint64{3, 2}, Id: [2]uint32{7, 8}, Rule: [2]uint32{5, 6}, Verdict: [2]uint8{1, 2}}
	var f Flow
	f.decode(&key, &raw, 0)
	if f.Client != a || f.Server != b || f.ClientPort != 1000 || f.ServerPort != 80 || !f.Began.IsZero() {
		t.Errorf("%+v", f)
	}
	raw.Reversed = 1
	f.decode(&key, &raw, 0)
	if f.Client != b || f.Server != a || f.ClientPort != 80 || f.ServerPort != 1000 ||
		f.Verdict != [2]FlowVerdict{Allowed, Denied} || f.Rule != [2]netpol.RuleID{5, 6} || f.ID != [2]netpol.ID{7, 8} {
		t.Errorf("%+v", f)
	}
}

func TestReasonTexts(t *testing.T) {
	for reason := range uint8(stateReasonREASON_MAX) {
		text := ReasonText(reason)
		if (text == "") != (reason == 0) || reason > 0 && text == ReasonText(0xff) || len(text) > 40 {
			t.Errorf("reason %d: %q", reason, text)
		}
		if _, ok := reasons[stateReason(reason)]; !ok && reason > 0 {
			t.Errorf("reason %d has no text", reason)
		}
	}
	if ReasonText(200) == "" {
		t.Error("an unknown reason says nothing")
	}
}

// Flows are told, dumped and counted as they are; told only if somebody listens.
func TestBPFFlowsAreTold(t *testing.T) {
	r := newRig(t, smallConfig(newBPFFS(t)), 1, 3)
	n := r.nodes[0]
	r.apply(rigPolicies()["ports"]...)
	from, to := r.pods[1], r.pods[2]
	addr := netip.AddrPortFrom(to.Addrs[1], 443)
	r.mustAsk(from, addr)
	if waiting, room := n.dp.FlowsWaiting(); waiting != 0 || room != n.cfg.EventBytes {
		t.Errorf("nobody listens, and %d of %d bytes wait", waiting, room)
	}
	if err := n.dp.Tell(true); err != nil {
		t.Fatal(err)
	}
	r.mustAsk(from, addr)
	kinds := make(map[FlowEventKind]int)
	var last FlowEvent
	see := func(e *FlowEvent) {
		if e.Server == addr.Addr() && e.ServerPort == addr.Port() && e.Protocol == unix.IPPROTO_TCP {
			kinds[e.Kind]++
			last = *e
		}
	}
	testkit.Wait(t, "the connection's events", func() bool {
		if err := n.dp.DrainFlows(see); err != nil {
			t.Fatal(err)
		}
		return kinds[FlowNew] == 1 && kinds[FlowUpdate]+kinds[FlowClose] > 0
	})
	program := r.programs[n]
	if last.Client != from.Addrs[1] || last.Verdict[netpol.Ingress] != Allowed || last.Generation != r.generation(n) ||
		program.Rules[last.Rule[netpol.Ingress]].Name != "ports" || last.ID[1] != program.Identity(addr.Addr()) ||
		last.Ifindex != [2]int{from.ifindex, to.ifindex} {
		t.Errorf("%+v", last)
	}

	// What is denied is told with how it began.
	denied := cell{r.pods[0], to, unix.IPPROTO_UDP, netip.AddrPortFrom(to.Addrs[0], 80)}
	egress, ingress := netpol.Evaluate(denied.packet(), r.world())
	r.checkCell(denied, false, egress, ingress)
	var drop FlowEvent
	testkit.Wait(t, "the drop", func() bool {
		err := n.dp.DrainFlows(func(e *FlowEvent) {
			if e.Kind == FlowDrop && e.Server == denied.addr.Addr() {
				drop = *e
				drop.Packet.Header = slices.Clone(e.Packet.Header)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return drop.Kind == FlowDrop
	})
	if ReasonText(drop.Packet.Reason) != "denied by policy" || drop.Packet.Hook != HookEndpointFrom || drop.Rule != [2]netpol.RuleID{} ||
		!bytes.Equal(drop.Packet.Header[:6], denied.from.hostMAC[:]) || drop.Dropped == 0 {
		t.Errorf("%+v", drop)
	}

	counters, err := n.dp.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if counters.Told[FlowDrop] == 0 || counters.Lost[FlowDrop] != 0 || counters.Malformed != 0 ||
		counters.Packets[PacketKind{netpol.Ingress, Allowed, 0}].Packets == 0 {
		t.Errorf("%+v", counters)
	}
	var deniedPackets uint64
	for kind, count := range counters.Packets {
		if kind.Verdict == Denied && ReasonText(kind.Reason) == "denied by policy" {
			deniedPackets += count.Packets
		}
	}
	if deniedPackets == 0 {
		t.Errorf("no packets were denied: %+v", counters.Packets)
	}

	seen := 0
	if err := n.dp.EachFlow(t.Context(), 2, func(*Flow) bool { seen++; return true }); err != nil || seen != 2 {
		t.Errorf("at most two flows: %d, %v", seen, err)
	}
	if err := n.dp.EachFlow(t.Context(), 0, func(*Flow) bool { seen++; return false }); err != nil || seen != 3 {
		t.Errorf("until it says no: %d, %v", seen, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.dp.EachFlow(ctx, 0, func(*Flow) bool { return true }); err == nil {
		t.Error("it went on after its time")
	}
}

// mustAsk is answered.
func (r *rig) mustAsk(from *rigPod, to netip.AddrPort) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), testkit.Patience)
	defer cancel()
	if _, err := from.ask(ctx, to); err != nil {
		r.t.Fatal(err)
	}
}

// Who reads flows reads them to the end, even if the datapath is closed meanwhile.
func TestBPFFlowsWhileClosing(t *testing.T) {
	cfg := smallConfig(newBPFFS(t))
	cfg.Flows = 1 << 15
	d := openTest(t, cfg)
	const all = 10_000 // more than are read at once
	for i := range uint32(all) {
		key := stateFlowKey{Proto: 17}
		binary.NativeEndian.PutUint32(key.A.Bytes[:], i)
		if err := d.kernel.maps[stateMapFlows].Put(key, stateFlow{}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	err := d.EachFlow(t.Context(), 0, func(*Flow) bool {
		if n == 0 {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		n++
		return true
	})
	if err != nil || n != all {
		t.Errorf("%d of %d flows, %v", n, all, err)
	}
}

// A closed datapath says so, whatever it is asked.
func TestBPFClosed(t *testing.T) {
	cfg := smallConfig(newBPFFS(t))
	d := openTest(t, cfg)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"apply": func() error {
			_, err := d.Apply(t.Context(), &State{Policy: oneSet(&netpol.Set{ID: 1}, nil)})
			return err
		},
		"attach":   func() error { return d.AttachHost(1, Uplink) },
		"tell":     func() error { return d.Tell(true) },
		"events":   func() error { return d.DrainFlows(func(*FlowEvent) {}) },
		"flows":    func() error { return d.EachFlow(t.Context(), 0, func(*Flow) bool { return true }) },
		"counters": func() error { _, err := d.Counters(); return err },
		"status":   func() error { _, err := d.Status(); return err },
	} {
		if err := f(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := d.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	for _, bad := range []Config{{}, {Mode: Off}, {Mode: Routed, Rung: "xdp"}, {Mode: Routed, Instance: "a/b"}} {
		bad.BPFFS = cfg.BPFFS
		if d, err := Open(bad, testLog(t)); err == nil {
			t.Errorf("%+v is taken", bad)
			_ = d.Close() // no test of it
		}
	}
}
