package kube

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"warren/cluster"
)

// maxPriority is the last one that a ClusterNetworkPolicy can have.
const maxPriority = 1000

// clusterPolicyOf is what Warren knows of a ClusterNetworkPolicy; nil for one of
// a tier that is not known, and one that does not say for whom it is.
func clusterPolicyOf(p *policyv1alpha2.ClusterNetworkPolicy) *cluster.Policy {
	r := &policyReader{}
	out := &cluster.Policy{UID: string(p.UID), Name: p.Name, Generation: p.Generation, Priority: min(max(p.Spec.Priority, 0), maxPriority)}
	if out.Priority != p.Spec.Priority {
		r.problem("spec.priority: %d is not from 0 to %d: it counts as %d", p.Spec.Priority, maxPriority, out.Priority)
	}
	inForce := true
	switch p.Spec.Tier {
	case policyv1alpha2.AdminTier:
		out.Tier = cluster.AdminTier
	case policyv1alpha2.BaselineTier:
		out.Tier = cluster.BaselineTier
	default:
		out.Tier = cluster.AdminTier // where its problem is seen; it has no rules
		r.problem("spec.tier: %q is neither Admin nor Baseline: the policy is not in force", excerpt(string(p.Spec.Tier)))
		inForce = false
	}
	subject, named, understood := r.subject(&p.Spec.Subject)
	out.Subject = subject
	switch {
	case !named:
		r.problem("spec.subject: names no pods in a way that is known: the policy is not in force")
		inForce = false
	case !understood:
		r.problem("the pods that it is for cannot be told from others: all that it may mean are denied what its rules of actions Deny and Pass are about, and nothing is accepted")
	}
	for i := range p.Spec.Ingress {
		from := &p.Spec.Ingress[i]
		rule := r.clusterRule(fmt.Sprintf("spec.ingress[%d]", i), from.Name, from.Action, "from", len(from.From), func(at string, i int) (cluster.PolicyPeer, bool) {
			return r.ingressPeer(at, &from.From[i])
		}, from.Protocols)
		out.Ingress = append(out.Ingress, rule)
	}
	for i := range p.Spec.Egress {
		to := &p.Spec.Egress[i]
		rule := r.clusterRule(fmt.Sprintf("spec.egress[%d]", i), to.Name, to.Action, "to", len(to.To), func(at string, i int) (cluster.PolicyPeer, bool) {
			return r.egressPeer(at, &to.To[i])
		}, to.Protocols)
		out.Egress = append(out.Egress, rule)
	}
	if !inForce {
		out.Ingress, out.Egress = nil, nil
	}
	if !understood {
		for _, rules := range [][]cluster.PolicyRule{out.Ingress, out.Egress} {
			for i := range rules {
				closeForSubject(&rules[i])
			}
		}
	}
	out.Problems = r.problems
	return out
}

// subject is whom a ClusterNetworkPolicy is for.
func (r *policyReader) subject(s *policyv1alpha2.ClusterNetworkPolicySubject) (out cluster.PolicySubject, named, understood bool) {
	switch {
	case s.Namespaces != nil && s.Pods == nil:
		out.Namespaces, understood = r.selector("spec.subject.namespaces", s.Namespaces)
		return out, true, understood
	case s.Pods != nil && s.Namespaces == nil:
		var ok bool
		out.Namespaces, ok = r.selector("spec.subject.pods.namespaceSelector", &s.Pods.NamespaceSelector)
		out.Pods, understood = r.selector("spec.subject.pods.podSelector", &s.Pods.PodSelector)
		return out, true, ok && understood
	}
	return out, false, true
}

// closeForSubject makes a rule harmless for pods that its policy may not be for.
func closeForSubject(rule *cluster.PolicyRule) {
	if rule.Action == cluster.AllowAction {
		rule.Peers, rule.AnyPeer, rule.Ports = nil, false, nil
		return
	}
	rule.Action = cluster.DenyAction
}

// clusterRule is one rule of a ClusterNetworkPolicy. What of it is not
// understood fails closed, as the API asks for: a rule that accepts matches less,
// one that denies or passes denies everything to everybody.
func (r *policyReader) clusterRule(at, name string, action policyv1alpha2.ClusterNetworkPolicyRuleAction, peersKey string, peers int,
	peer func(at string, i int) (cluster.PolicyPeer, bool), protocols []policyv1alpha2.ClusterNetworkPolicyProtocol,
) cluster.PolicyRule {
	rule := cluster.PolicyRule{Name: name}
	ok := true
	switch action {
	case policyv1alpha2.ClusterNetworkPolicyRuleActionAccept:
		rule.Action = cluster.AllowAction
	case policyv1alpha2.ClusterNetworkPolicyRuleActionDeny:
		rule.Action = cluster.DenyAction
	case policyv1alpha2.ClusterNetworkPolicyRuleActionPass:
		rule.Action = cluster.PassAction
	default:
		rule.Action = cluster.DenyAction
		r.problem("%s.action: %q is none of Accept, Deny and Pass", at, excerpt(string(action)))
		ok = false
	}
	if peers == 0 {
		r.problem("%s.%s: there is nobody", at, peersKey)
		ok = false
	}
	for i := range peers {
		one, understood := peer(fmt.Sprintf("%s.%s[%d]", at, peersKey, i), i)
		ok = ok && understood
		if understood {
			rule.Peers = append(rule.Peers, one)
		}
	}
	for i := range protocols {
		port, understood := r.clusterProtocol(fmt.Sprintf("%s.protocols[%d]", at, i), &protocols[i])
		ok = ok && understood
		if understood {
			rule.Ports = append(rule.Ports, port)
		}
	}
	switch {
	case ok:
	case rule.Action == cluster.AllowAction:
		if len(protocols) > 0 && len(rule.Ports) == 0 {
			rule.Peers = nil // no port is none, not all
		}
		r.problem("%s: accepts only what of it is understood", at)
	default:
		rule.Action, rule.Peers, rule.AnyPeer, rule.Ports = cluster.DenyAction, nil, true, nil
		r.problem("%s: denies everybody, because not all of it is understood", at)
	}
	return rule
}

func (r *policyReader) ingressPeer(at string, p *policyv1alpha2.ClusterNetworkPolicyIngressPeer) (cluster.PolicyPeer, bool) {
	if (p.Namespaces != nil) == (p.Pods != nil) {
		r.problem("%s: wants one of namespaces and pods", at)
		return cluster.PolicyPeer{}, false
	}
	return r.podPeer(at, p.Namespaces, p.Pods)
}

func (r *policyReader) egressPeer(at string, p *policyv1alpha2.ClusterNetworkPolicyEgressPeer) (cluster.PolicyPeer, bool) {
	named := 0
	for _, has := range []bool{p.Namespaces != nil, p.Pods != nil, p.Nodes != nil, len(p.Networks) > 0, len(p.DomainNames) > 0} {
		if has {
			named++
		}
	}
	switch {
	case named != 1:
		r.problem("%s: wants one of namespaces, pods, nodes and networks", at)
		return cluster.PolicyPeer{}, false
	case len(p.DomainNames) > 0:
		r.problem("%s.domainNames: names of domains are not enforced", at)
		return cluster.PolicyPeer{}, false
	case p.Nodes != nil:
		nodes, ok := r.selector(at+".nodes", p.Nodes)
		return cluster.PolicyPeer{Nodes: &nodes}, ok
	case len(p.Networks) > 0:
		var out cluster.PolicyPeer
		ok := true
		for i, text := range p.Networks {
			network, understood := r.prefix(fmt.Sprintf("%s.networks[%d]", at, i), string(text))
			ok = ok && understood
			if understood {
				out.Networks = append(out.Networks, network)
			}
		}
		return out, ok
	}
	return r.podPeer(at, p.Namespaces, p.Pods)
}

// podPeer is pods of the cluster; one of its arguments is not nil.
func (r *policyReader) podPeer(at string, namespaces *metav1.LabelSelector, pods *policyv1alpha2.NamespacedPod) (cluster.PolicyPeer, bool) {
	out := cluster.PolicyPeer{Pods: &cluster.Selector{}, Namespaces: &cluster.Selector{}}
	if namespaces != nil {
		var ok bool
		*out.Namespaces, ok = r.selector(at+".namespaces", namespaces)
		return out, ok
	}
	var one, other bool
	*out.Namespaces, one = r.selector(at+".pods.namespaceSelector", &pods.NamespaceSelector)
	*out.Pods, other = r.selector(at+".pods.podSelector", &pods.PodSelector)
	return out, one && other
}

// clusterProtocol is one entry of a rule's protocols.
func (r *policyReader) clusterProtocol(at string, p *policyv1alpha2.ClusterNetworkPolicyProtocol) (out cluster.PolicyPort, ok bool) {
	var ports *policyv1alpha2.Port
	named := 0
	if p.TCP != nil {
		named, out.Protocol, ports = named+1, "tcp", p.TCP.DestinationPort
	}
	if p.UDP != nil {
		named, out.Protocol, ports = named+1, "udp", p.UDP.DestinationPort
	}
	if p.SCTP != nil {
		named, out.Protocol, ports = named+1, "sctp", p.SCTP.DestinationPort
	}
	if p.DestinationNamedPort != "" {
		named++
		out.Name = p.DestinationNamedPort
	}
	switch {
	case named != 1:
		r.problem("%s: wants one of tcp, udp, sctp and destinationNamedPort", at)
		return out, false
	case out.Name != "":
		return out, true
	case ports == nil:
		// To match by a port is all that a protocol can say: this one says
		// something that is not known.
		r.problem("%s.%s: wants destinationPort", at, out.Protocol)
		return out, false
	case (ports.Number != 0) == (ports.Range != nil):
		r.problem("%s.%s.destinationPort: wants one of number and range", at, out.Protocol)
		return out, false
	case ports.Range != nil:
		return out, r.span(at+"."+out.Protocol+".destinationPort", ports.Range.Start, ports.Range.End, &out)
	}
	return out, r.span(at+"."+out.Protocol+".destinationPort", ports.Number, ports.Number, &out)
}
