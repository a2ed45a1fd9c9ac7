package netpol

import "warren/cluster"

// A Selection is one policy that selects a pod.
type Selection struct {
	Policy *cluster.Policy
	// Isolates says by Direction whether what it does not allow is denied.
	Isolates [2]bool
	// Rules are by Direction, in the order in which they are asked.
	Rules [2][]SelectedRule
	// Problems say what of it is not in force.
	Problems []string
}

// A SelectedRule is a rule that is in force for a pod, in words and in members.
type SelectedRule struct {
	Rule   Ref
	Action cluster.PolicyAction
	// Peers are who it is about, in words: "pods app=web of namespace shop".
	Peers []string
	// Pods and Nodes are those of them that there are now; not those that are in
	// it by an address of theirs only, in a network.
	Pods  []*cluster.Pod
	Nodes []*cluster.Node
	// Ports are what it is about, in words: "tcp 80-90", "tcp http (tcp 8080)";
	// none is all. A name is resolved where this pod says which port it is.
	Ports []string
}

// Selecting says which policies select a pod, in the order in which they are
// asked: admin tier, NetworkPolicies, baseline tier. Where a NetworkPolicy
// isolates the pod in a direction, those of the baseline tier are not asked.
func Selecting(pod *cluster.Pod, w *World) []Selection {
	var all []Selection
	for _, tier := range []cluster.PolicyTier{cluster.AdminTier, cluster.NetworkTier, cluster.BaselineTier} {
		for _, policy := range w.policies(tier, pod) {
			s := Selection{Policy: policy, Problems: problemsOf(policy)}
			for _, dir := range []Direction{Egress, Ingress} {
				s.Isolates[dir] = isolates(policy, dir)
				for i, rule := range rulesOf(policy, dir) {
					s.Rules[dir] = append(s.Rules[dir], w.selectedRule(policy, dir, i, &rule, pod))
				}
			}
			all = append(all, s)
		}
	}
	return all
}

func (w *World) selectedRule(policy *cluster.Policy, dir Direction, i int, rule *cluster.PolicyRule, pod *cluster.Pod) SelectedRule {
	s := SelectedRule{Rule: refOf(policy, dir, i), Action: rule.Action, Peers: peerWords(policy, rule)}
	server := pod
	if dir == Egress {
		server = nil // each peer says for itself
	}
	s.Ports = portWords(rule, server)
	if rule.AnyPeer {
		return s
	}
	for _, other := range w.Pods {
		if !other.HostNetwork && w.matchesPeer(policy, rule, end{pod: other}) {
			s.Pods = append(s.Pods, other)
		}
	}
	for _, node := range w.Nodes {
		if w.matchesPeer(policy, rule, end{node: node}) {
			s.Nodes = append(s.Nodes, node)
		}
	}
	return s
}
