// Package netpol says what network policies mean, twice: [Evaluate] is written
// for people to read, [Compiler] for the kernel to execute, and a test holds the
// two together over clusters, policies and packets at random.
//
// It computes only. Values that it is given must not be changed while it uses
// them, and those that it hands out never change. A Compiler is for one
// goroutine at a time.
package netpol

import (
	"net/netip"

	"warren/cluster"
)

// A World is what policies are about, at one moment.
type World struct {
	Pods       []*cluster.Pod // with their addresses; those that have ended are left out
	Nodes      []*cluster.Node
	Namespaces map[string]map[string]string // labels by name
	Policies   []*cluster.Policy
}

// A Packet is the first packet of a flow: what a policy judges. Ports are those
// of the server; 0 and no meaning for protocols without ports.
type Packet struct {
	Src, Dst netip.Addr
	Protocol uint8 // IPPROTO_TCP, ...
	Port     uint16
}

// Direction is from which end a packet is judged.
type Direction uint8

// The directions: Egress by the policies of who sends, Ingress by those of who
// receives.
const (
	Egress Direction = iota
	Ingress
)

// Verdict is what becomes of a packet.
type Verdict uint8

// The verdicts. Unjudged is that of an end that is no pod.
const (
	Unjudged Verdict = iota
	Allow
	Deny
)

// A Ref names a rule: the Rule-th (from 0) of a policy in a direction. The zero
// Ref is no rule: default deny, or that nothing applies.
type Ref struct {
	Tier            cluster.PolicyTier
	Namespace, Name string // of the policy
	UID             string
	Direction       Direction
	Rule            int
	RuleName        string
}

// A Judgement is the verdict of one end.
type Judgement struct {
	Verdict Verdict
	// Rule gave it; the zero Ref for default deny, and where no policy applies.
	Rule Ref
}

// ID is an identity: pods that no policy can tell from each other have the same
// one. 0 is nobody's and means anybody in a verdict's key.
type ID uint32

// RuleID is the number of a rule in the kernel; 0 is no rule. A number is not
// used again for another rule while a Compiler lives.
type RuleID uint32

// SetID names a set of verdicts by its content.
type SetID uint32

// A Key is what a set of verdicts is asked for.
type Key struct {
	Peer      ID // 0 is anybody
	Direction Direction
	Protocol  uint8  // 0 is any, then Bits is 0
	Port      uint16 // its first Bits bits; the others are 0
	Bits      uint8  // 0 to 16
}

// An Order is how strong a rule is, and what it does: precedence << 2 | action,
// lower wins; 0 is no rule. See [cluster.PolicyAction] for the actions.
type Order uint32

// A Value is what a set says for one key: [0] of the admin tier, [1] of the
// tier behind it.
type Value struct {
	Order [2]Order
	Rule  [2]RuleID
}

// A Set is all verdicts for the pods that have the same ones. It never changes.
type Set struct {
	ID       SetID
	Isolated [2]bool // by Direction: what no rule matches is denied
	Verdicts map[Key]Value
}

// A Program is policy as the kernel executes it.
type Program struct {
	// Addresses has every address of pods and nodes; Networks the rest of the
	// world, with at least 0.0.0.0/0 and ::/0: the longest match counts.
	Addresses map[netip.Addr]ID
	Networks  map[netip.Prefix]ID
	Sets      map[SetID]*Set
	// SetOf is by uid of a pod.
	SetOf map[string]SetID
	Rules map[RuleID]Ref
	// Problems are by uid of a policy: what of it is not in force, and why.
	Problems map[string][]string
}
