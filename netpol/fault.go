package netpol

import (
	"fmt"
	"slices"

	"warren/cluster"
)

// problemsOf says everything of a policy that is not in force as it is written.
func problemsOf(policy *cluster.Policy) []string {
	problems := slices.Clone(policy.Problems)
	switch policy.Tier {
	case cluster.AdminTier, cluster.BaselineTier:
		if fault := selectorFault(&policy.Subject.Namespaces); fault != "" {
			problems = append(problems, "subject, namespaces: "+fault+": it is for no pod")
		}
	case cluster.NetworkTier:
	default:
		return append(problems, fmt.Sprintf("tier %d is none: the policy is not in force", policy.Tier))
	}
	if fault := selectorFault(&policy.Subject.Pods); fault != "" {
		problems = append(problems, "subject, pods: "+fault+": it is for no pod")
	}
	excess := excessOf(policy)
	if excess != "" {
		problems = append(problems, excess+": its rules that allow match nothing, its others deny everything")
	}
	for _, dir := range []Direction{Ingress, Egress} {
		rules := policy.Ingress
		if dir == Egress {
			rules = policy.Egress
		}
		if policy.Tier == cluster.NetworkTier && !isolates(policy, dir) {
			continue
		}
		for i, rule := range rules {
			fault := faultOf(policy, &rule)
			if fault == "" || excess != "" {
				continue
			}
			effect := "denies everything"
			if policy.Tier == cluster.NetworkTier || rule.Action == cluster.AllowAction {
				effect = "matches nothing"
			}
			problems = append(problems, fmt.Sprintf("%s rule %d: %s: it %s", dir, i+1, fault, effect))
		}
	}
	return problems
}

// excessOf says which limit a policy is beyond, "" for none.
func excessOf(policy *cluster.Policy) string {
	var peers, ports int
	for _, rules := range [][]cluster.PolicyRule{policy.Ingress, policy.Egress} {
		for i := range rules {
			ports += len(rules[i].Ports)
			for _, peer := range rules[i].Peers {
				peers += max(1, len(peer.Networks)+len(peer.Except))
			}
		}
	}
	switch {
	case peers > MaxPeers:
		return fmt.Sprintf("%d peers, more than %d", peers, MaxPeers)
	case ports > MaxPorts:
		return fmt.Sprintf("%d ports, more than %d", ports, MaxPorts)
	}
	return ""
}

// faultOf says why a rule cannot be in force, "" where it can.
func faultOf(policy *cluster.Policy, rule *cluster.PolicyRule) string {
	switch {
	case rule.Action < cluster.AllowAction || rule.Action > cluster.PassAction:
		return fmt.Sprintf("action %d is none", rule.Action)
	case policy.Tier == cluster.NetworkTier && rule.Action != cluster.AllowAction:
		return fmt.Sprintf("a NetworkPolicy cannot say %s", rule.Action)
	case rule.AnyPeer && len(rule.Peers) > 0:
		return "it is about everybody, and about some"
	}
	for i, peer := range rule.Peers {
		if fault := peerFault(policy, &peer); fault != "" {
			return fmt.Sprintf("peer %d: %s", i+1, fault)
		}
	}
	for i, port := range rule.Ports {
		if fault := portFault(port); fault != "" {
			return fmt.Sprintf("port %d: %s", i+1, fault)
		}
	}
	return ""
}

func peerFault(policy *cluster.Policy, peer *cluster.PolicyPeer) string {
	pods := peer.Pods != nil || peer.Namespaces != nil || peer.SameNamespace
	kinds := 0
	for _, is := range []bool{pods, peer.Nodes != nil, len(peer.Networks) > 0} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds == 0:
		return "it says nobody that is known here"
	case kinds > 1:
		return "it is more than one of pods, nodes and networks"
	case len(peer.Except) > 0 && len(peer.Networks) == 0:
		return "exceptions without a network"
	case peer.SameNamespace && (policy.Tier != cluster.NetworkTier || peer.Namespaces != nil):
		return "which namespace it means is not clear"
	case pods && !peer.SameNamespace && peer.Namespaces == nil:
		return "pods of no namespace"
	}
	for _, n := range slices.Concat(peer.Networks, peer.Except) {
		if !network(n).IsValid() {
			return "a network that is none"
		}
	}
	for _, s := range []*cluster.Selector{peer.Pods, peer.Namespaces, peer.Nodes} {
		if s == nil {
			continue
		}
		if fault := selectorFault(s); fault != "" {
			return fault
		}
	}
	return ""
}

func portFault(port cluster.PolicyPort) string {
	ranged := port.First != 0 || port.Last != 0
	switch {
	case port.Protocol != "" && numberOf(port.Protocol) == 0:
		return fmt.Sprintf("protocol %q is not tcp, udp or sctp", port.Protocol)
	case port.Name != "" && ranged:
		return fmt.Sprintf("port %s has a number too", port.Name)
	case port.Name == "" && port.Protocol == "" && ranged:
		return "ports of no protocol"
	case port.First == 0 && port.Last != 0:
		return "port 0 is none"
	case port.Last < port.First:
		return fmt.Sprintf("the last port %d is below the first, %d", port.Last, port.First)
	}
	return ""
}

func selectorFault(s *cluster.Selector) string {
	for _, r := range s.Rules {
		if r.Op < cluster.OpIn || r.Op > cluster.OpDoesNotExist {
			return fmt.Sprintf("label %s: operator %d is none", r.Key, r.Op)
		}
	}
	return ""
}
