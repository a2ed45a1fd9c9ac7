package netpol

import (
	"cmp"
	"net/netip"
	"slices"

	"warren/cluster"
)

// Evaluate judges a packet at both of its ends. It is the specification: it
// looks at every policy, one after the other, in the order in which they decide.
//
// For each end that is a pod:
//
//  1. A pod may talk to itself, and the node that a pod is on to the pod: its
//     kubelet asks whether the pod is well. (The pod to its node is judged.)
//  2. Policies of the admin tier, lowest priority first, then by name; their
//     rules in order. The first rule that matches allows, denies, or passes the
//     packet on to 3.
//  3. NetworkPolicies. If one of them isolates the pod in this direction, the
//     packet is allowed if a rule of those matches, and denied otherwise.
//  4. If none does, policies of the baseline tier, like those of 2; passed on
//     is allowed, since nothing comes after.
//  5. What nobody has judged is allowed.
func Evaluate(p Packet, w *World) (egress, ingress Judgement) {
	src, dst := w.at(p.Src), w.at(p.Dst)
	return w.judge(Egress, src, dst, p), w.judge(Ingress, dst, src, p)
}

// An end is what a packet's address stands for: a pod, a node, or neither.
type end struct {
	addr netip.Addr
	pod  *cluster.Pod
	node *cluster.Node
}

// at says what an address stands for. An address of a pod is no node's.
func (w *World) at(addr netip.Addr) end {
	e := end{addr: canonical(addr)}
	if !addr.IsValid() {
		return e
	}
	if w.index != nil {
		found := w.index[e.addr]
		found.addr = e.addr
		return found
	}
	for _, pod := range w.Pods {
		if hasAddr(pod.Addrs, e.addr) && !pod.HostNetwork && (e.pod == nil || later(pod, e.pod)) {
			e.pod = pod
		}
	}
	if e.pod != nil {
		return e
	}
	for _, node := range w.Nodes {
		if hasAddr(node.Addrs, e.addr) && (e.node == nil || before(node, e.node)) {
			e.node = node
		}
	}
	return e
}

// Index returns the same World with its addresses in a table: for many packets.
// Pods and Nodes must not be changed afterwards.
func (w *World) Index() *World {
	indexed := *w
	indexed.index = make(map[netip.Addr]end, 2*len(w.Pods)+len(w.Nodes))
	for _, pod := range w.Pods {
		for _, addr := range pod.Addrs {
			addr = canonical(addr)
			if has := indexed.index[addr]; !pod.HostNetwork && (has.pod == nil || later(pod, has.pod)) {
				indexed.index[addr] = end{pod: pod}
			}
		}
	}
	for _, node := range w.Nodes {
		for _, addr := range node.Addrs {
			addr = canonical(addr)
			if has := indexed.index[addr]; has.pod == nil && (has.node == nil || before(node, has.node)) {
				indexed.index[addr] = end{node: node}
			}
		}
	}
	return &indexed
}

// canonical is an address as this package compares it: IPv4 is not written as
// IPv6, and which device a packet came through is nothing that policies know.
func canonical(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

func hasAddr(addrs []netip.Addr, addr netip.Addr) bool {
	for _, a := range addrs {
		if canonical(a) == addr {
			return true
		}
	}
	return false
}

// later reports whether pod a has an address that b claims too.
func later(a, b *cluster.Pod) bool {
	return cmp.Or(a.Started.Compare(b.Started), a.Created.Compare(b.Created), cmp.Compare(podKey(a), podKey(b))) > 0
}

// before reports whether node a has an address that b claims too.
func before(a, b *cluster.Node) bool {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID)) < 0
}

// judge judges a packet at the end of subject.
func (w *World) judge(dir Direction, subject, peer end, p Packet) Judgement {
	switch {
	case subject.pod == nil:
		return Judgement{}
	case subject.pod == peer.pod:
		return Judgement{Verdict: Allow}
	case dir == Ingress && peer.node != nil && peer.node.Name == subject.pod.Node:
		return Judgement{Verdict: Allow}
	}
	if rule, ref := w.first(cluster.AdminTier, dir, subject, peer, p); rule != nil && rule.Action != cluster.PassAction {
		return Judgement{verdictOf(rule), ref}
	}
	if w.isolated(dir, subject.pod) {
		if rule, ref := w.first(cluster.NetworkTier, dir, subject, peer, p); rule != nil {
			return Judgement{Allow, ref}
		}
		return Judgement{Verdict: Deny}
	}
	if rule, ref := w.first(cluster.BaselineTier, dir, subject, peer, p); rule != nil {
		return Judgement{verdictOf(rule), ref}
	}
	return Judgement{Verdict: Allow}
}

func verdictOf(rule *cluster.PolicyRule) Verdict {
	if rule.Action == cluster.DenyAction {
		return Deny
	}
	return Allow
}

// first returns the first rule of a tier that matches a packet.
func (w *World) first(tier cluster.PolicyTier, dir Direction, subject, peer end, p Packet) (*cluster.PolicyRule, Ref) {
	for _, policy := range w.policies(tier, subject.pod) {
		for i, rule := range rulesOf(policy, dir) {
			if w.matches(policy, &rule, dir, subject, peer, p) {
				return &rule, refOf(policy, dir, i)
			}
		}
	}
	return nil, Ref{}
}

// isolated reports whether NetworkPolicies say all that is allowed for a pod.
func (w *World) isolated(dir Direction, pod *cluster.Pod) bool {
	return slices.ContainsFunc(w.Policies, func(policy *cluster.Policy) bool {
		return isolates(policy, dir) && w.selects(policy, pod)
	})
}

func isolates(policy *cluster.Policy, dir Direction) bool {
	if policy.Tier != cluster.NetworkTier {
		return false
	}
	if dir == Egress {
		return policy.IsolatesEgress
	}
	return policy.IsolatesIngress
}

// policies returns those of a tier that select a pod, in the order in which they
// are asked.
func (w *World) policies(tier cluster.PolicyTier, pod *cluster.Pod) []*cluster.Policy {
	var of []*cluster.Policy
	for _, policy := range w.Policies {
		if policy.Tier == tier && w.selects(policy, pod) {
			of = append(of, policy)
		}
	}
	slices.SortStableFunc(of, comparePolicies)
	return of
}

// comparePolicies orders the policies of a tier. Nothing depends on the order of
// NetworkPolicies but which of several rules is said to have allowed a packet.
func comparePolicies(a, b *cluster.Policy) int {
	if a.Tier != cluster.NetworkTier && a.Priority != b.Priority {
		return cmp.Compare(a.Priority, b.Priority)
	}
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
}

// selects reports whether a policy is for a pod.
func (w *World) selects(policy *cluster.Policy, pod *cluster.Pod) bool {
	switch {
	case pod.HostNetwork:
		return false
	case policy.Tier == cluster.NetworkTier:
		return policy.Namespace == pod.Namespace && policy.Subject.Pods.Matches(pod.Labels)
	}
	return policy.Subject.Pods.Matches(pod.Labels) && policy.Subject.Namespaces.Matches(w.labelsOf(pod))
}

// labelsOf are the labels of a pod's namespace.
func (w *World) labelsOf(pod *cluster.Pod) map[string]string {
	if labels, ok := w.Namespaces[pod.Namespace]; ok {
		return labels
	}
	return pod.NamespaceLabels
}

// rulesOf are a policy's rules in a direction as they are in force. A
// NetworkPolicy that does not isolate in a direction has none there. A rule that
// has a fault fails closed: allowing, it matches nothing, otherwise it denies
// everything.
func rulesOf(policy *cluster.Policy, dir Direction) []cluster.PolicyRule {
	if policy.Tier == cluster.NetworkTier && !isolates(policy, dir) {
		return nil
	}
	rules := policy.Ingress
	if dir == Egress {
		rules = policy.Egress
	}
	excess := excessOf(policy)
	in := make([]cluster.PolicyRule, len(rules))
	for i, rule := range rules {
		switch {
		case excess == "" && faultOf(policy, &rule) == "":
			in[i] = rule
		case policy.Tier == cluster.NetworkTier || rule.Action == cluster.AllowAction:
			in[i] = cluster.PolicyRule{Name: rule.Name, Action: cluster.AllowAction}
		default:
			in[i] = cluster.PolicyRule{Name: rule.Name, Action: cluster.DenyAction, AnyPeer: true}
		}
	}
	return in
}

func refOf(policy *cluster.Policy, dir Direction, i int) Ref {
	rules := policy.Ingress
	if dir == Egress {
		rules = policy.Egress
	}
	return Ref{Tier: policy.Tier, Namespace: policy.Namespace, Name: policy.Name, UID: policy.UID, Direction: dir, Rule: i, RuleName: rules[i].Name}
}

// matches reports whether a rule is about a packet.
func (w *World) matches(policy *cluster.Policy, rule *cluster.PolicyRule, dir Direction, subject, peer end, p Packet) bool {
	server := subject // who listens at the port, and says which one has a name
	if dir == Egress {
		server = peer
	}
	return w.matchesPeer(policy, rule, peer) && matchesPort(rule, server.pod, p)
}

// matchesPeer reports whether a rule is about who is at the other end.
func (w *World) matchesPeer(policy *cluster.Policy, rule *cluster.PolicyRule, peer end) bool {
	return rule.AnyPeer || slices.ContainsFunc(rule.Peers, func(of cluster.PolicyPeer) bool {
		switch {
		case len(of.Networks) > 0:
			return contains(of.Networks, peer.addr) && !contains(of.Except, peer.addr)
		case of.Nodes != nil:
			return peer.node != nil && of.Nodes.Matches(peer.node.Labels)
		case peer.pod == nil:
			return false
		case of.SameNamespace && peer.pod.Namespace != policy.Namespace:
			return false
		case of.Namespaces != nil && !of.Namespaces.Matches(w.labelsOf(peer.pod)):
			return false
		}
		return of.Pods == nil || of.Pods.Matches(peer.pod.Labels)
	})
}

// contains reports whether one of some networks has an address.
func contains(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return network(n).Contains(addr) })
}

// network is a network as this package compares it: what it says of bits of
// hosts is ignored, as Kubernetes does, and IPv4 is not written as IPv6. So ::/0
// has no address of IPv4. It is invalid for what is no network.
func network(n netip.Prefix) netip.Prefix {
	addr := n.Addr().WithZone("")
	if addr.Is4In6() && n.Bits() >= 96 {
		return netip.PrefixFrom(addr.Unmap(), n.Bits()-96).Masked()
	}
	return netip.PrefixFrom(addr, n.Bits()).Masked()
}

// matchesPort reports whether a rule is about a port of a server; pod is nil
// where that is none.
func matchesPort(rule *cluster.PolicyRule, pod *cluster.Pod, p Packet) bool {
	return len(rule.Ports) == 0 || slices.ContainsFunc(rule.Ports, func(of cluster.PolicyPort) bool {
		switch {
		case of.Name != "":
			return pod != nil && slices.ContainsFunc(pod.Ports, func(named cluster.PodPort) bool {
				return named.Name == of.Name && (of.Protocol == "" || of.Protocol == named.Protocol) &&
					named.Port != 0 && named.Port == p.Port && numberOf(named.Protocol) == p.Protocol && p.Protocol != 0
			})
		case of.Protocol == "":
			return true
		case numberOf(of.Protocol) != p.Protocol:
			return false
		}
		return of.First == 0 || of.First <= p.Port && p.Port <= of.Last
	})
}

// numberOf is the number of a protocol that has ports, 0 for others.
func numberOf(protocol string) uint8 {
	switch protocol {
	case "tcp":
		return 6
	case "udp":
		return 17
	case "sctp":
		return 132
	}
	return 0
}
