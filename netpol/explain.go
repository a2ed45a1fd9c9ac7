package netpol

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"warren/cluster"
)

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
	lone    bool // its policy has no other rule in this direction
}

// A Difference is one respect in which a packet is not what a rule is about.
type Difference struct {
	What string // peer, protocol or port
	Have string // the packet's
	Want string // the rule's, in words
}

// Explain says what Evaluate judges, and why.
func Explain(p Packet, w *World) Explanation { return ExplainBetween(p, nil, nil, w) }

// ExplainBetween does that where it is known that an end is a pod, whoever has
// its address now; nil where the address says it.
func ExplainBetween(p Packet, from, to *cluster.Pod, w *World) Explanation {
	known := func(addr netip.Addr, pod *cluster.Pod) end {
		if pod == nil || pod.HostNetwork {
			return w.at(addr)
		}
		return end{addr: canonical(addr), pod: pod}
	}
	src, dst := known(p.Src, from), known(p.Dst, to)
	return Explanation{Packet: p, Src: src.String(), Dst: dst.String(), Egress: w.explain(Egress, src, dst, p), Ingress: w.explain(Ingress, dst, src, p)}
}

// String returns "shop/web", "node a" or an address.
func (e end) String() string {
	switch {
	case e.pod != nil:
		return e.pod.Namespace + "/" + e.pod.Name
	case e.node != nil:
		return "node " + e.node.Name
	}
	return e.addr.String()
}

// explain says why a packet is judged as it is at the end of subject.
func (w *World) explain(dir Direction, subject, peer end, p Packet) Reason {
	r := Reason{Judgement: w.judge(dir, subject, peer, p)}
	if subject.pod == nil {
		return r
	}
	for _, tier := range []cluster.PolicyTier{cluster.AdminTier, cluster.NetworkTier, cluster.BaselineTier} {
		for _, policy := range w.policies(tier, subject.pod) {
			if isolates(policy, dir) || len(rulesOf(policy, dir)) > 0 {
				r.Selecting = append(r.Selecting, policy)
			}
		}
	}
	switch {
	case subject.pod == peer.pod:
		r.Why = Self
	case dir == Ingress && peer.node != nil && peer.node.Name == subject.pod.Node:
		r.Why = OwnNode
	case r.Rule != (Ref{}):
		r.Why = ByRule
	case r.Verdict == Deny:
		r.Why = DefaultDeny
		r.Nearest = w.nearest(r.Selecting, dir, subject, peer, p)
	default:
		r.Why = Unselected
	}
	return r
}

// nearest returns the rule of NetworkPolicies that a packet differs from least.
func (w *World) nearest(policies []*cluster.Policy, dir Direction, subject, peer end, p Packet) *Nearest {
	var best *Nearest
	for _, policy := range policies {
		if policy.Tier != cluster.NetworkTier {
			continue
		}
		rules := rulesOf(policy, dir)
		for i, rule := range rules {
			if !rule.AnyPeer && len(rule.Peers) == 0 {
				continue // it allows nothing, and never will
			}
			near := &Nearest{Rule: refOf(policy, dir, i), lone: len(rules) == 1}
			if !w.matchesPeer(policy, &rule, peer) {
				near.Differs = append(near.Differs, Difference{"peer", peer.String(), few(peerWords(policy, &rule))})
			}
			server := subject
			if dir == Egress {
				server = peer
			}
			near.Differs = append(near.Differs, portDifferences(&rule, server.pod, p)...)
			if best == nil || len(near.Differs) < len(best.Differs) {
				best = near
			}
		}
	}
	return best
}

// portDifferences says in what a packet's protocol and port differ from those of
// a rule that are most like it.
func portDifferences(rule *cluster.PolicyRule, pod *cluster.Pod, p Packet) []Difference {
	if matchesPort(rule, pod, p) {
		return nil
	}
	want := few(portWords(rule, pod))
	port := Difference{"port", fmt.Sprint(p.Port), want}
	protocol := Difference{"protocol", protocolWord(p.Protocol), want}
	samePort := false
	for _, of := range rule.Ports {
		for _, k := range meaning(of, pod, p) {
			if k.protocol == p.Protocol {
				return []Difference{port}
			}
			samePort = samePort || k.first <= p.Port && p.Port <= k.last
		}
	}
	if samePort || protocolName(p.Protocol) == "" {
		return []Difference{protocol}
	}
	return []Difference{protocol, port}
}

// ports are those that an entry of a rule means. A name that stands for nothing
// still has a protocol, and no ports: the last is below the first.
type ports struct {
	protocol    uint8
	first, last uint16
}

func meaning(of cluster.PolicyPort, pod *cluster.Pod, p Packet) []ports {
	switch {
	case of.Name != "":
		var all []ports
		if pod != nil {
			for _, k := range (portName{of.Name, of.Protocol}).resolve(pod.Ports) {
				all = append(all, ports{k.protocol, k.port, k.port})
			}
		}
		if len(all) == 0 && (of.Protocol != "" || protocolName(p.Protocol) != "") {
			all = []ports{{numberOf(cmp.Or(of.Protocol, protocolName(p.Protocol))), 1, 0}}
		}
		return all
	case of.First == 0:
		return []ports{{numberOf(of.Protocol), 0, 65535}}
	}
	return []ports{{numberOf(of.Protocol), of.First, of.Last}}
}

// Verdict is what becomes of the packet: Deny where one end denies it, Unjudged
// where no end is a pod.
func (e Explanation) Verdict() Verdict {
	switch {
	case e.Egress.Verdict == Deny || e.Ingress.Verdict == Deny:
		return Deny
	case e.Egress.Verdict == Allow || e.Ingress.Verdict == Allow:
		return Allow
	}
	return Unjudged
}

// String says it in one line: "denied at ingress of shop/db: no rule matched;
// nearest: shop/allow-frontend differs in port 8080 (it has tcp 5432)". Both
// ends are in it where both deny, or none does.
func (e Explanation) String() string {
	verdict := e.Verdict()
	words := map[Verdict]string{Allow: "allowed", Deny: "denied"}[verdict]
	var ends []string
	for _, at := range []struct {
		who    string
		dir    Direction
		reason Reason
	}{{e.Src, Egress, e.Egress}, {e.Dst, Ingress, e.Ingress}} {
		if at.reason.Verdict == verdict {
			ends = append(ends, fmt.Sprintf("%s at %s of %s: %s", words, at.dir, at.who, at.reason))
		}
	}
	if verdict == Unjudged {
		return fmt.Sprintf("not judged: neither %s nor %s is a pod with a network of its own", e.Src, e.Dst)
	}
	return strings.Join(ends, "; ")
}

// String says why one end judges as it does: "no rule matched; nearest:
// shop/allow-frontend differs in port 8080 (it has tcp 5432)".
func (r Reason) String() string {
	switch r.Why {
	case Self:
		return "a pod may talk to itself"
	case OwnNode:
		return "a pod's own node may always talk to it"
	case ByRule:
		if r.Rule.Tier == cluster.NetworkTier {
			return r.Rule.String()
		}
		return fmt.Sprintf("%s (%s tier)", r.Rule, strings.ToLower(r.Rule.Tier.String()))
	case DefaultDeny:
		if r.Nearest != nil {
			return "no rule matched; nearest: " + r.Nearest.String()
		}
		var names []string
		for _, policy := range r.Selecting {
			if policy.Tier == cluster.NetworkTier {
				names = append(names, policy.Namespace+"/"+policy.Name)
			}
		}
		return fmt.Sprintf("no rule matched; what isolates it allows nothing: %s", few(names))
	case Unselected:
		if len(r.Selecting) == 0 {
			return "no policy is for it"
		}
		return "no rule matched, and nothing isolates it"
	}
	return "no pod with a network of its own"
}

// String says which rule it is, and what of it differs.
func (n *Nearest) String() string {
	name := n.Rule.String()
	if n.lone {
		name = n.Rule.Policy()
	}
	differs := make([]string, len(n.Differs))
	for i, d := range n.Differs {
		differs[i] = fmt.Sprintf("%s %s", d.What, d.Have)
		if d.Want != "" && (i+1 == len(n.Differs) || n.Differs[i+1].Want != d.Want) {
			differs[i] += fmt.Sprintf(" (it has %s)", d.Want)
		}
	}
	return name + " differs in " + strings.Join(differs, " and ")
}
