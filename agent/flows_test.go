package agent

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/api"
	"warren/datapath"
	"warren/event"
	"warren/netpol"
	"warren/sensor/flow"
)

// fakeFlows is a datapath that tells what a test gives it.
type fakeFlows struct {
	list     []datapath.FlowEvent
	counters datapath.Counters
	err      error
	on       bool
}

func (f *fakeFlows) Tell(on bool) error { f.on = on; return f.err }

func (f *fakeFlows) DrainFlows(tell func(*datapath.FlowEvent)) error {
	for i := range f.list {
		tell(&f.list[i])
	}
	f.list = nil
	return f.err
}

func (f *fakeFlows) FlowsWaiting() (bytes, room int)      { return len(f.list), 1 << 20 }
func (f *fakeFlows) Counters() (datapath.Counters, error) { return f.counters, f.err }

// TestFlowRecords holds what the sensor is given of what the datapath tells.
func TestFlowRecords(t *testing.T) {
	base := datapath.FlowEvent{
		Kind: datapath.FlowNew, Ktime: 77,
		Flow: datapath.Flow{
			Client: netip.MustParseAddr("10.0.0.1"), ClientPort: 40000, Server: netip.MustParseAddr("10.0.0.2"), ServerPort: 80, Protocol: 6,
			Packets: [2]uint64{1, 2}, Bytes: [2]uint64{3, 4}, Dropped: 5, Began: time.Unix(1, 0), Seen: time.Unix(2, 0), ID: [2]netpol.ID{6, 7}, Ifindex: [2]int{8, 9},
			TCPFlags: [2]uint8{2, 18}, Verdict: [2]datapath.FlowVerdict{datapath.Allowed, datapath.Denied}, Rule: [2]netpol.RuleID{10, 11},
		},
		Packet: datapath.FlowPacket{Reply: true, Cookie: 12, ICMP: [2]uint8{13, 14}},
	}
	want := flow.Record{
		Kind: flow.Began, Protocol: 6, Reply: true, Ktime: 77, Began: time.Unix(1, 0), Seen: time.Unix(2, 0), Cookie: 12, Dropped: 5, ICMPType: 13, ICMPCode: 14,
		Client: netip.MustParseAddrPort("10.0.0.1:40000"), Server: netip.MustParseAddrPort("10.0.0.2:80"),
		Ends: [2]flow.End{
			{Verdict: flow.Allowed, TCPFlags: 2, Rule: 10, Identity: 6, Ifindex: 8, Packets: 1, Bytes: 3},
			{Verdict: flow.Denied, TCPFlags: 18, Rule: 11, Identity: 7, Ifindex: 9, Packets: 2, Bytes: 4},
		},
	}
	kernel := &fakeFlows{list: []datapath.FlowEvent{base}}
	s := &flowSource{kernel: kernel}
	read := func(change func(*datapath.FlowEvent)) (r flow.Record) {
		t.Helper()
		e := base
		change(&e)
		kernel.list = []datapath.FlowEvent{e}
		if n, room := s.Waiting(); n != 1 || room != 1<<20 {
			t.Errorf("%d of %d bytes wait", n, room)
		}
		if err := s.Read(func(got *flow.Record) { r = *got }); err != nil {
			t.Error(err)
		}
		return r
	}
	same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if diff := cmp.Diff(want, read(func(*datapath.FlowEvent) {}), same); diff != "" {
		t.Errorf("a new flow (-want +got):\n%s", diff)
	}
	if r := read(func(e *datapath.FlowEvent) { e.Kind, e.Packet.Reason = datapath.FlowDrop, datapath.ReasonPolicy }); r.Kind != flow.Dropped || r.Reason != 0 {
		t.Errorf("dropped by policy: %+v", r)
	}
	if r := read(func(e *datapath.FlowEvent) {
		e.Kind, e.Packet, e.Ifindex = datapath.FlowDrop, datapath.FlowPacket{Reason: datapath.ReasonSpoofed, Hook: datapath.HookEndpointFrom, Ifindex: 33}, [2]int{}
	}); r.Reason != event.SpoofedSource || r.Ends[0].Ifindex != 33 || r.Ends[1].Ifindex != 0 {
		t.Errorf("without a flow, sent: %+v", r)
	}
	if r := read(func(e *datapath.FlowEvent) {
		e.Kind, e.Packet, e.Ifindex = datapath.FlowDrop, datapath.FlowPacket{Reason: 200, Hook: datapath.HookEndpointTo, Ifindex: 33}, [2]int{}
	}); r.Reason != event.DatapathError || r.Ends[1].Ifindex != 33 {
		t.Errorf("without a flow, received: %+v", r)
	}
	if r := read(func(e *datapath.FlowEvent) {
		e.Kind, e.Packet, e.ICMP = datapath.FlowClose, datapath.FlowPacket{}, [2]uint8{8, 1}
	}); r.Kind != flow.Ended || r.ICMPType != 8 || r.ICMPCode != 1 {
		t.Errorf("ended: %+v", r)
	}
	if r := read(func(e *datapath.FlowEvent) { e.Kind, e.Verdict[0] = 200, 200 }); r.Kind != 0 || r.Ends[0].Verdict != flow.Unjudged {
		t.Errorf("of a kind that nobody knows: %+v", r)
	}
	if err := s.Tell(true); err != nil || !kernel.on {
		t.Errorf("tell: %v", err)
	}
}

// TestFlowLosses holds that all that is missing is told as such.
func TestFlowLosses(t *testing.T) {
	kernel := &fakeFlows{counters: datapath.Counters{Lost: map[datapath.FlowEventKind]uint64{datapath.FlowDrop: 1}, Malformed: 2, Quiet: 3, Evicted: 4, Unflowed: 6}}
	s := &flowSource{kernel: kernel}
	got, err := s.Losses()
	want := []flow.Loss{{What: "any", Lane: "decode", Count: 2}, {What: "drop", Lane: "rate", Count: 3}, {What: "new", Lane: "table", Count: 6}, {What: "close", Lane: "table", Count: 4}, {What: "drop", Lane: "ring", Count: 1}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("losses (-want +got):\n%s\n%v", diff, err)
	}
	kernel.err = errors.New("closed")
	if _, err := s.Losses(); err == nil {
		t.Error("no error")
	}
}

// TestFlowState holds what the status has, also when the datapath cannot be read.
func TestFlowState(t *testing.T) {
	var none *flowWatch
	if none.state() != nil {
		t.Error("there is a state without a datapath")
	}
	kernel := &fakeFlows{counters: datapath.Counters{
		Told: map[datapath.FlowEventKind]uint64{datapath.FlowNew: 10}, Lost: map[datapath.FlowEventKind]uint64{datapath.FlowClose: 11}, Quiet: 12,
	}}
	w := &flowWatch{memory: api.NewFlowMemory(api.FlowsConfig{}), kernel: kernel}
	w.state()
	kernel.err = errors.New("closed")
	st := w.state()
	if len(st.Events) != 4 || st.Events[0] != (api.FlowEventCount{Kind: "new", Told: 10}) || st.Events[2] != (api.FlowEventCount{Kind: "close", Lost: 11}) || st.Quiet != 12 || st.MaxFlows == 0 {
		t.Errorf("state %+v", st)
	}
}
