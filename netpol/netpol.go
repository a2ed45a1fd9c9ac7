// Package netpol says what network policies mean, twice: [Evaluate] is written
// for people to read, [Compiler] for the kernel to execute, and a test holds the
// two together over clusters, policies and packets at random.
//
// It computes only. Values that it is given must not be changed while it uses
// them, and those that it hands out never change. A Compiler is for one
// goroutine at a time.
package netpol

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"warren/cluster"
)

// A World is what policies are about, at one moment.
type World struct {
	// Pods with their addresses; those that have ended are left out. Of pods
	// that claim the same address, the one that started last has it (then the one
	// made last, then the larger uid). Pods that share their node's network are
	// their node: nothing selects them, and no policy is for them.
	Pods []*cluster.Pod
	// Nodes with all addresses that they may send from.
	Nodes []*cluster.Node
	// Namespaces are labels by name. Where a pod's has no entry, the labels are
	// those that the pod has seen.
	Namespaces map[string]map[string]string
	Policies   []*cluster.Policy

	index map[netip.Addr]end
}

// A Packet is the first packet of a flow: what a policy judges. Port is the
// server's; 0, and without a meaning, for protocols that have no ports.
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

// ID is an identity: addresses that no policy in force can tell from each other
// have the same one. A pod's addresses can have different ones, since ipBlocks
// match addresses of pods. 0 is nobody's and means anybody in a verdict's key.
// IDs are a Compiler's own; one that was given up is not given again before all
// others were.
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

// A Set is all verdicts for the pods that have the same ones. It never changes:
// where a later Program has the same *Set, nothing of it has changed.
type Set struct {
	ID       SetID
	Isolated [2]bool // by Direction: what no rule matches is denied
	Verdicts map[Key]Value
	// Lengths says by Direction which Bits the keys with a protocol have: bit n
	// for n, 0 to 16. AnyProtocol says whether there are keys without one.
	Lengths     [2]uint32
	AnyProtocol [2]bool
}

// A Program is policy as the kernel executes it. It never changes.
type Program struct {
	// Addresses has every address of pods and nodes; Networks the rest of the
	// world, with at least 0.0.0.0/0 and ::/0: the longest match counts.
	Addresses map[netip.Addr]ID
	Networks  map[netip.Prefix]ID
	// Sets are those that SetOf names, and no others.
	Sets map[SetID]*Set
	// SetOf is by uid of a pod, for the pods that were asked for.
	SetOf map[string]SetID
	// Selecting are, for the same pods by uid, the policies that select them, in the
	// order in which they are asked: those without a rule too.
	Selecting map[string][]*cluster.Policy
	// Rules are those of the policies in force, and the last that were.
	Rules map[RuleID]Ref
	// Problems are by uid of a policy: what of it is not in force, and why.
	Problems map[string][]string

	owners map[netip.Addr]owner
	// lengths of Networks by family, longest first.
	lengths4, lengths6 []int
}

// An owner is who has an address, as far as two rules ask that are above all
// policies: a pod may talk to itself, and its node to it.
type owner struct {
	pod  string // uid, "" for a node
	node string // name of the node that it is, or is on
}

// ErrWorld is a World that contradicts itself: two pods, or two policies, that
// are the same one.
var ErrWorld = errors.New("world contradicts itself")

// Limits of what one policy may have. A policy beyond one is in force as far as
// that is safe: whom it isolates is isolated, its rules that allow match nothing,
// its rules that deny or pass deny everything, and Problems says so.
const (
	// MaxPeers is how many selectors and networks the rules of a policy have in
	// all, exceptions of networks included.
	MaxPeers = 10_000
	// MaxPorts is how many entries for ports they have in all.
	MaxPorts = 10_000
	// MaxVerdicts is how many verdicts there can be for one pod. Where its
	// policies come to more, all it sends and receives is denied, and Problems
	// says so of each of them. It depends on the identities there are: it is the
	// one limit that Evaluate does not know.
	MaxVerdicts = 1 << 18
)

// String returns egress or ingress.
func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// String returns unjudged, allow or deny.
func (v Verdict) String() string {
	switch v {
	case Allow:
		return "allow"
	case Deny:
		return "deny"
	}
	return "unjudged"
}

// String returns "shop/allow-frontend rule 2", and the rule's name where it has
// one; "no rule" for the zero Ref. People count from 1.
func (r Ref) String() string {
	if r == (Ref{}) {
		return "no rule"
	}
	text := fmt.Sprintf("%s rule %d", r.Policy(), r.Rule+1)
	if r.RuleName != "" {
		text += " " + strconv.Quote(r.RuleName)
	}
	return text
}

// Policy returns "shop/allow-frontend", or the name alone of a policy of the
// cluster.
func (r Ref) Policy() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "/" + r.Name
}
