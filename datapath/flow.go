package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"warren/bpf"
	"warren/netpol"
)

// A Flow is what the kernel counts of one connection, both directions of it.
// Where there are two of something, the first is the client's: who sent the
// first packet.
type Flow struct {
	Client, Server         netip.Addr
	ClientPort, ServerPort uint16   // ICMP echo: the client's is the identifier, the server's 0
	Protocol               uint8    // IPPROTO_TCP, ...
	ICMP                   [2]uint8 // type and code of the first packet
	Packets, Bytes         [2]uint64
	Dropped                uint64 // packets, that are in no other count
	Began, Seen            time.Time
	ID                     [2]netpol.ID
	Ifindex                [2]int // 0: that end is no pod of this node
	TCPFlags               [2]uint8
	// Verdict and Rule are by netpol.Direction: Egress is judged for the client,
	// Ingress for the server. A Rule is that of the program of Generation.
	Verdict    [2]FlowVerdict
	Rule       [2]netpol.RuleID
	Generation uint32
	// Reason says why packets are dropped, 0 if they are not.
	Reason uint8
	State  FlowState
	// Stack says that it goes through the host's stack. Service, that it is to a
	// service's own address: what becomes of it is another flow, to who was chosen,
	// and is Deferred.
	Stack, Service, Deferred bool
}

// FlowVerdict is what was decided at one end of a flow.
type FlowVerdict uint8

// The verdicts. Audited is what would be denied, and passes.
const (
	NotJudged FlowVerdict = iota
	Allowed
	Denied
	Audited
)

// FlowState is how far a flow is.
type FlowState uint8

// The states of a flow. TCP's closes; other flows end when nothing has come for
// some time.
const (
	FlowOneWay FlowState = iota
	FlowEstablished
	FlowClosing
	FlowClosed
)

// FlowEventKind is why a flow is told of.
type FlowEventKind uint8

// The kinds of flow events.
const (
	FlowNew    = FlowEventKind(stateEventKindEVENT_NEW)
	FlowUpdate = FlowEventKind(stateEventKindEVENT_UPDATE)
	FlowClose  = FlowEventKind(stateEventKindEVENT_CLOSE)
	FlowDrop   = FlowEventKind(stateEventKindEVENT_DROP)
)

// A FlowEvent is a flow at one moment, as the kernel told it.
type FlowEvent struct {
	Flow
	Kind  FlowEventKind
	Ktime uint64 // nanoseconds since boot: see bpf.Wall
	// Packet is what made the kernel tell; there is none for FlowClose.
	Packet FlowPacket
}

// A FlowPacket is one packet of a flow.
type FlowPacket struct {
	Reply   bool   // the server sent it
	Len     uint32 // bytes, from the network header on
	Ifindex int    // where it was seen
	Hook    FlowHook
	// Reason is why it was dropped, of a FlowDrop.
	Reason uint8
	ICMP   [2]uint8 // type and code
	// Cookie is that of the socket that sent it, 0 where that is not known.
	Cookie uint64
	// Header is how a dropped packet begins, with its Ethernet header.
	Header []byte
}

// FlowHook is where a packet was seen.
type FlowHook uint8

// The hooks: at a pod's device what it sends and what it is sent, at the node's
// devices what arrives and what leaves, and the clock that ends flows.
const (
	HookEndpointFrom = FlowHook(stateHookHOOK_ENDPOINT_FROM)
	HookEndpointTo   = FlowHook(stateHookHOOK_ENDPOINT_TO)
	HookHostFrom     = FlowHook(stateHookHOOK_HOST_FROM)
	HookHostTo       = FlowHook(stateHookHOOK_HOST_TO)
	HookTimer        = FlowHook(stateHookHOOK_TIMER)
)

// reasons are the texts of enum reason.
var reasons = map[stateReason]string{
	stateReasonREASON_POLICY_DENIED:    "denied by policy",
	stateReasonREASON_SPOOFED:          "source address is not the sender's",
	stateReasonREASON_INVALID_PACKET:   "invalid packet",
	stateReasonREASON_FRAGMENT_UNKNOWN: "fragment of an unknown packet",
	stateReasonREASON_UNKNOWN_L4:       "too many extension headers",
	stateReasonREASON_NO_ENDPOINT:      "unknown endpoint",
	stateReasonREASON_NO_ROUTE:         "no node is known for the address",
	stateReasonREASON_SOURCE_ROUTED:    "source routed",
	stateReasonREASON_NOT_IP:           "neither IP nor ARP",
	stateReasonREASON_TTL_EXCEEDED:     "hop limit exceeded",
	stateReasonREASON_TOO_BIG:          "packet too big",
	stateReasonREASON_AUDITED:          "would be denied by policy",
}

// ReasonText says in words why packets were dropped, or what else is remarkable
// about them; "" for 0.
func ReasonText(reason uint8) string {
	if reason == 0 {
		return ""
	}
	if text, ok := reasons[stateReason(reason)]; ok {
		return text
	}
	return fmt.Sprintf("reason %d", reason)
}

// verdictOf is what became of packets that are counted with a reason.
func verdictOf(reason uint8) FlowVerdict {
	switch stateReason(reason) {
	case stateReasonREASON_NONE, stateReasonREASON_TTL_EXCEEDED, stateReasonREASON_TOO_BIG:
		return Allowed
	case stateReasonREASON_AUDITED:
		return Audited
	}
	return Denied
}

// An eventReader reads the ring of flow events.
type eventReader struct {
	ring   *ringbuf.Reader
	record ringbuf.Record
	raw    stateFlowEvent
	event  FlowEvent
	// malformed records are shorter than they must be.
	malformed uint64
}

// DrainFlows hands the flow events that have come by now to tell, one after the
// other, and returns. The event is reused: tell copies what it keeps. Events
// that found no room are counted, see [Datapath.Counters]. One goroutine calls
// it at a time.
func (d *Datapath) DrainFlows(tell func(*FlowEvent)) error {
	d.eventsMu.Lock()
	defer d.eventsMu.Unlock()
	if d.events == nil {
		return fmt.Errorf("read flow events: %w", ErrClosed)
	}
	if err := d.events.drain(tell); err != nil {
		return fmt.Errorf("read flow events: %w", err)
	}
	return nil
}

// FlowsWaiting says how many bytes of events wait to be read, and how many there
// is room for.
func (d *Datapath) FlowsWaiting() (bytes, room int) {
	d.eventsMu.Lock()
	defer d.eventsMu.Unlock()
	if d.events == nil {
		return 0, 0
	}
	return d.events.ring.AvailableBytes(), d.events.ring.BufferSize()
}

func (r *eventReader) drain(tell func(*FlowEvent)) error {
	waiting := r.ring.AvailableBytes()
	if waiting == 0 {
		return nil
	}
	// Nobody waits: what is there is read, and no more, however fast it comes.
	r.ring.SetDeadline(time.Unix(1, 0))
	for last := waiting; ; last = r.record.Remaining {
		err := r.ring.ReadInto(&r.record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		if r.decode(r.record.RawSample) {
			tell(&r.event)
		} else {
			r.malformed++
		}
		if waiting -= max(last-r.record.Remaining, 8); waiting <= 0 {
			return nil
		}
	}
}

// eventLen is the size of an event without a packet's header.
const eventLen = int(unsafe.Offsetof(stateFlowEvent{}.Header))

// decode reads a record into r.event.
func (r *eventReader) decode(record []byte) bool {
	if len(record) < eventLen {
		return false
	}
	raw := &r.raw
	copy(unsafe.Slice((*byte)(unsafe.Pointer(raw)), unsafe.Sizeof(*raw)), record)
	captured := min(int(raw.Captured), len(raw.Header), len(record)-eventLen)
	e := &r.event
	e.Flow.decode(&raw.Key, &raw.Flow, 0)
	e.Kind, e.Ktime = FlowEventKind(raw.Kind), raw.Ktime
	e.Packet = FlowPacket{
		Reply: raw.Reply != 0, Len: raw.Len, Ifindex: int(raw.Ifindex), Hook: FlowHook(raw.Hook),
		Reason: raw.Reason, ICMP: [2]uint8{raw.IcmpType, raw.IcmpCode}, Cookie: raw.Cookie,
	}
	if captured > 0 {
		e.Packet.Header = raw.Header[:captured:captured]
	}
	return true
}

// decode reads a flow as the kernel has it, whose clock is behind boot time by
// behind.
func (f *Flow) decode(key *stateFlowKey, raw *stateFlow, behind time.Duration) {
	a, b := netip.AddrFrom16(key.A.Bytes).Unmap(), netip.AddrFrom16(key.B.Bytes).Unmap()
	f.Client, f.Server = a, b
	f.ClientPort, f.ServerPort = be16(key.PortA), be16(key.PortB)
	if raw.Reversed != 0 {
		f.Client, f.Server = b, a
		f.ClientPort, f.ServerPort = f.ServerPort, f.ClientPort
	}
	f.Protocol = key.Proto
	f.ICMP = [2]uint8{raw.IcmpType, raw.IcmpCode}
	f.Packets, f.Bytes, f.Dropped = raw.Packets, raw.Bytes, raw.Dropped
	f.Began, f.Seen = time.Time{}, time.Time{}
	if raw.Began != 0 {
		f.Began = bpf.Wall(raw.Began + uint64(behind))
	}
	if raw.Seen != 0 {
		f.Seen = bpf.Wall(raw.Seen + uint64(behind))
	}
	for i := range 2 {
		f.ID[i], f.Ifindex[i] = netpol.ID(raw.Id[i]), int(raw.Ifindex[i])
		f.Verdict[i], f.Rule[i] = FlowVerdict(raw.Verdict[i]), netpol.RuleID(raw.Rule[i])
	}
	f.TCPFlags, f.Generation = raw.TcpFlags, raw.Generation
	f.Reason, f.State = raw.Reason, FlowState(raw.State)
	flags := stateFlowFlags(raw.Flags)
	f.Stack = flags&stateFlowFlagsFLOW_STACK != 0
	f.Service = flags&stateFlowFlagsFLOW_SERVICE != 0
	f.Deferred = flags&stateFlowFlagsFLOW_DEFERRED != 0
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// EachFlow hands at most limit flows that the kernel remembers to see, in no
// order, until it says no; limit 0 is all of them. The flow is reused.
func (d *Datapath) EachFlow(ctx context.Context, limit int, see func(*Flow) bool) error {
	flows, err := d.flowMap()
	if err != nil {
		return fmt.Errorf("read flows: %w", err)
	}
	defer flows.Close()
	m := NewMap[stateFlowKey, stateFlow](flows, false)
	behind := coarseToBoot()
	var f Flow
	n := 0
	err = m.Each(func(key stateFlowKey, raw stateFlow) error {
		if n++; limit > 0 && n > limit || ctx.Err() != nil {
			return errEnough
		}
		f.decode(&key, &raw, behind)
		if !see(&f) {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return fmt.Errorf("read flows: %w", err)
	}
	return ctx.Err()
}

// flowMap is the map of flows for who reads it, also while d is closed meanwhile.
func (d *Datapath) flowMap() (*ebpf.Map, error) {
	d.eventsMu.Lock()
	defer d.eventsMu.Unlock()
	if d.events == nil {
		return nil, ErrClosed
	}
	return d.kernel.maps[stateMapFlows].Clone()
}

func (d *Datapath) flowsUsed() (n int) {
	// A walk that fails has counted those that it saw.
	_ = NewMap[stateFlowKey, stateFlow](d.kernel.maps[stateMapFlows], false).Each(func(stateFlowKey, stateFlow) error {
		n++
		return nil
	})
	return n
}

// Counters are exact, whether or not somebody reads events.
type Counters struct {
	// Packets are those that pods of this node have sent (Egress) and those that
	// came for them (Ingress), by what became of them.
	Packets map[PacketKind]Count
	// Told are the flow events that were written, Lost those that found no room.
	Told, Lost map[FlowEventKind]uint64
	// Malformed are events that could not be read.
	Malformed uint64
	// Quiet are drops without a flow that were not told, for there were too many.
	Quiet uint64
	// Begun are all flows that there were: those that there are, Ended ones, and
	// Evicted ones, that gave way to others before their time and are not told of.
	// It takes a few seconds to notice that a flow was evicted.
	Begun, Ended, Evicted uint64
	// Unflowed packets passed without a flow, for want of room.
	Unflowed uint64
}

// A PacketKind is what became of packets. Reason says why, see ReasonText.
type PacketKind struct {
	Direction netpol.Direction
	Verdict   FlowVerdict // Allowed, Denied or Audited
	Reason    uint8
}

// A Count is of packets.
type Count struct{ Packets, Bytes uint64 }

// Counters returns the counters of all processors together.
func (d *Datapath) Counters() (Counters, error) {
	d.eventsMu.Lock()
	defer d.eventsMu.Unlock()
	if d.events == nil {
		return Counters{}, fmt.Errorf("read counters: %w", ErrClosed)
	}
	return d.counters()
}

// counters wants eventsMu.
func (d *Datapath) counters() (Counters, error) {
	m := d.kernel.maps[stateMapCounters]
	c := Counters{
		Packets: make(map[PacketKind]Count),
		Told:    make(map[FlowEventKind]uint64),
		Lost:    make(map[FlowEventKind]uint64),
	}
	var percpu []stateCounter
	sum := func(index stateCounterIndex) (n Count, err error) {
		if err := m.Lookup(uint32(index), &percpu); err != nil {
			return n, fmt.Errorf("read counters: %w", err)
		}
		for _, cpu := range percpu {
			n.Packets += cpu.Packets
			n.Bytes += cpu.Bytes
		}
		return n, nil
	}
	for dir := netpol.Egress; dir <= netpol.Ingress; dir++ {
		for reason := range uint8(stateReasonREASON_MAX) {
			n, err := sum(stateCounterIndex(dir)*stateCounterIndexCOUNT_INGRESS + stateCounterIndex(reason))
			if err != nil {
				return c, err
			}
			if n.Packets > 0 {
				c.Packets[PacketKind{dir, verdictOf(reason), reason}] = n
			}
		}
	}
	for kind := FlowNew; kind <= FlowDrop; kind++ {
		told, err := sum(stateCounterIndexCOUNT_EVENTS + stateCounterIndex(kind))
		if err != nil {
			return c, err
		}
		lost, err := sum(stateCounterIndexCOUNT_LOST + stateCounterIndex(kind))
		if err != nil {
			return c, err
		}
		c.Told[kind], c.Lost[kind] = told.Packets, lost.Packets
	}
	for index, into := range map[stateCounterIndex]*uint64{
		stateCounterIndexCOUNT_QUIET: &c.Quiet, stateCounterIndexCOUNT_UNFLOWED: &c.Unflowed,
		stateCounterIndexCOUNT_BEGUN: &c.Begun, stateCounterIndexCOUNT_ENDED: &c.Ended, stateCounterIndexCOUNT_EVICTED: &c.Evicted,
	} {
		n, err := sum(index)
		if err != nil {
			return c, err
		}
		*into = n.Packets
	}
	c.Malformed = d.events.malformed
	return c, nil
}

// Status is the state of the datapath for people.
type Status struct {
	Mode       string
	Schema     uint32
	Generation uint32
	// Hooks say how programs are attached, and why not better.
	Hooks []HookStatus
	// Maps say how full the maps are.
	Maps []MapStatus
	// Failed says what could not be attached, by device.
	Failed   map[string]string
	Counters Counters
}

// A HookStatus says how a kind of program is attached, and to how many devices.
type HookStatus struct {
	Hook    string // endpoint, uplink, tunnel, other
	Rung    string // tcx or clsact, "" if there is none
	Devices int
	Refused map[string]string // why not by better ones
}

// A MapStatus says how full a map is.
type MapStatus struct {
	Name     string
	Used     int
	Capacity int
}
