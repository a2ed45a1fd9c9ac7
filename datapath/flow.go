package datapath

import (
	"context"
	"net/netip"
	"time"

	"warren/netpol"
)

// A Flow is what the kernel counts of one connection, both directions of it.
// Where there are two of something, the first is the client's: who sent the
// first packet.
type Flow struct {
	Client, Server         netip.Addr
	ClientPort, ServerPort uint16 // ICMP: the identifier and 0
	Protocol               uint8  // IPPROTO_TCP, ...
	Packets, Bytes         [2]uint64
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
	// Stack says that it goes through the host's stack.
	Stack bool
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

// FlowEventKind is why a flow is told of.
type FlowEventKind uint8

// The kinds of flow events.
const (
	FlowNew FlowEventKind = iota + 1
	FlowUpdate
	FlowClose
	FlowDrop
)

// A FlowEvent is a flow at one moment, as the kernel told it.
type FlowEvent struct {
	Flow
	Kind FlowEventKind
	Time time.Time
	// Len is that of the packet that made the kernel tell.
	Len uint32
	// Cookie is that of the packet's socket, where it is known.
	Cookie uint64
	// ICMP are type and code of the packet, where it is one.
	ICMP [2]uint8
	// Header is how a dropped packet begins, with its network header.
	Header []byte
}

// ReadFlows hands every flow event to tell until ctx ends, one after the other.
// The event is reused: tell copies what it keeps. Events that found no room are
// counted, see [Datapath.Counters].
func (d *Datapath) ReadFlows(ctx context.Context, tell func(*FlowEvent)) error { return ErrClosed }

// EachFlow hands at most limit flows that the kernel remembers to see, in no
// order, until it says no; limit 0 is all of them. The flow is reused.
func (d *Datapath) EachFlow(ctx context.Context, limit int, see func(*Flow) bool) error {
	return ErrClosed
}

// Counters are exact, whether or not somebody reads events.
type Counters struct {
	// Verdicts counts packets by name of what became of them: "forwarded",
	// "policy denied" and so on.
	Verdicts map[string]uint64
	// Lost are the flow events that found no room, by kind.
	Lost map[FlowEventKind]uint64
}

// Counters returns the counters of all processors together.
func (d *Datapath) Counters() (Counters, error) { return Counters{}, ErrClosed }

// ReasonText says in words why packets were dropped.
func ReasonText(reason uint8) string { return "" }

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
	Hook    string // endpoint, uplink, tunnel
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

// Status returns the state of the datapath.
func (d *Datapath) Status() (Status, error) { return Status{}, ErrClosed }
