package netpol

import "warren/cluster"

// Why says what led to a Judgement.
type Why uint8

// The reasons for a Judgement.
const (
	NoPod       Why = iota // the end is no pod: nothing is judged
	Self                   // a pod talks to itself
	OwnNode                // the pod's own node talks to it
	ByRule                 // a rule decided
	DefaultDeny            // NetworkPolicies isolate the pod, and no rule matched
	Unselected             // no policy says anything about it
)

// An Explanation says why a packet is allowed or denied.
type Explanation struct {
	Packet Packet
	// Src and Dst are who its addresses stand for: "shop/web" for a pod, "node a"
	// for a node, and the address for everybody else.
	Src, Dst        string
	Egress, Ingress Reason
}

// A Reason is why one end judges as it does.
type Reason struct {
	Judgement
	Why Why
	// Selecting are the policies that select this end and say something about
	// this direction, in the order in which they are asked.
	Selecting []*cluster.Policy
	// Nearest is the rule that is nearest to match, where none did and the
	// packet is denied for it; nil where no policy that isolates the end has a
	// rule that allows anything.
	Nearest *Nearest
}

// A Nearest is a rule that did not match, and what of it did not: fewer
// differences are nearer, then the rule that is asked first.
type Nearest struct {
	Rule    Ref
	Differs []Difference
}

// A Difference is one respect in which a packet is not what a rule is about.
type Difference struct {
	What string // peer, protocol or port
	Have string // the packet's
	Want string // the rule's, in words
}

// Explain says what Evaluate judges, and why.
func Explain(p Packet, w *World) Explanation { return Explanation{Packet: p} }

// Verdict is what becomes of the packet: Deny where one end denies it, Allow
// where nothing does.
func (e Explanation) Verdict() Verdict { return Unjudged }

// String says it in one line: "denied at ingress of shop/db: no rule matched;
// nearest: shop/allow-frontend differs in port 8080 (it has tcp 5432)".
func (e Explanation) String() string { return "" }

// String says why one end judges as it does: "no rule matched; nearest:
// shop/allow-frontend differs in port 8080 (it has tcp 5432)".
func (r Reason) String() string { return "" }
