package flow

import (
	"net/netip"
	"time"

	"warren/cluster"
	"warren/event"
	"warren/netpol"
)

// A Source is where records come from: the datapath. Waiting, Read and Losses are
// called by one goroutine at a time, Tell by any.
type Source interface {
	// Tell has the kernel tell of flows, or not: nobody asks. What it counts, and
	// what it does with packets, does not depend on it.
	Tell(on bool) error
	// Waiting returns how many bytes of records have not been read, and how many
	// there can be. It is cheap.
	Waiting() (bytes, room int)
	// Read calls take with each record that has come by now, oldest first. A
	// record is the source's again after the call.
	Read(take func(*Record)) error
	// Losses returns how many records there was no room for, and how many were not
	// understood, since the kernel began to count. The slice is the source's.
	Losses() ([]Loss, error)
}

// A Loss is how many records of a kind were lost since the kernel began to count.
type Loss struct {
	What  string // new, update, close, drop: what the records would have told
	Lane  string // ring, where there was no room; decode, what was not understood
	Count uint64
}

// Policies say what stands behind the numbers of the kernel. Its methods may be
// called by any goroutine.
type Policies interface {
	// Generation changes with the policies.
	Generation() uint64
	// Rule returns a rule by its number, with its policy as it was, nil where that
	// is not remembered.
	Rule(id netpol.RuleID) (netpol.Ref, *cluster.Policy, bool)
	// Nearest says, of a packet that no rule allows in a direction, which rule is
	// nearest to allowing it and what it differs in; "" if none is near.
	Nearest(d netpol.Direction, p netpol.Packet) string
}

// A Record is what the datapath tells of a flow: how it was at one moment, and
// the packet that it is told for.
type Record struct {
	Kind     Kind
	Protocol uint8
	// Reply is true of a packet from the server.
	Reply bool
	// Service is true of packets to a service's own address. Unless they were
	// judged, they are told again as those to the pod that was chosen.
	Service bool
	// Reason is why the packet was dropped, where policy was not; 0 is none.
	Reason             event.DropReason
	ICMPType, ICMPCode uint8
	Ktime              uint64    // nanoseconds since boot, suspend included
	Began, Seen        time.Time // of the first and the latest packet; zero is unknown
	// Cookie is the number of the socket that sent the packet, 0 where that is
	// unknown or not of this machine.
	Cookie  uint64
	Dropped uint64 // packets of either end
	// Client sent the first packet, Server was asked. IPv4 is IPv4 here.
	Client, Server netip.AddrPort
	// Ends are those of the client and of the server: [netpol.Egress] of the one
	// and [netpol.Ingress] of the other are judged.
	Ends [2]End
}

// An End is one end of a flow, as a Record tells of it.
type End struct {
	Verdict  Verdict
	TCPFlags uint8 // that it has sent so far
	Rule     netpol.RuleID
	Identity netpol.ID
	// Ifindex is that of the pod's device on this machine, 0 where it is not here.
	Ifindex        uint32
	Packets, Bytes uint64 // that it has sent so far
}

// Kind is what a Record tells.
type Kind uint8

// The kinds: the first packet, a change or an interval, the end, a packet that was
// dropped.
const (
	Began Kind = iota + 1
	Went
	Ended
	Dropped
)

// Verdict is what the datapath made of one end's policy.
type Verdict uint8

// The verdicts. Audited would be denied, and is forwarded.
const (
	Unjudged Verdict = iota
	Allowed
	Denied
	Audited
)
