package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"warren/cluster"
)

// A policyReader turns one policy of the API into values, and collects what of
// it cannot be understood. What that would have meant is never made wider by
// leaving it out: a rule that allows then matches nobody, one that denies
// everybody. Rules keep their places, so that their numbers are those of the
// policy as it was written.
type policyReader struct {
	problems []string
}

func (r *policyReader) problem(format string, args ...any) {
	// Enough to see what is wrong; an object can have a megabyte of mistakes.
	switch {
	case len(r.problems) < maxProblems:
		r.problems = append(r.problems, fmt.Sprintf(format, args...))
	case len(r.problems) == maxProblems:
		r.problems = append(r.problems, "and more")
	}
}

const maxProblems = 20

// networkPolicyOf is what Warren knows of a NetworkPolicy.
func networkPolicyOf(p *networkingv1.NetworkPolicy) *cluster.Policy {
	r := &policyReader{}
	out := &cluster.Policy{
		UID: string(p.UID), Namespace: p.Namespace, Name: p.Name, Tier: cluster.NetworkTier, Generation: p.Generation,
	}
	subject, understood := r.selector("spec.podSelector", &p.Spec.PodSelector)
	out.Subject.Pods = subject
	out.IsolatesIngress, out.IsolatesEgress = r.directions(p)
	// A subject that is not understood may be of more pods than was meant: they
	// are isolated, and nothing is allowed to them.
	if out.IsolatesIngress && understood {
		for i := range p.Spec.Ingress {
			rule := &p.Spec.Ingress[i]
			out.Ingress = append(out.Ingress, r.networkRule(fmt.Sprintf("spec.ingress[%d]", i), "from", rule.From, rule.Ports))
		}
	}
	if out.IsolatesEgress && understood {
		for i := range p.Spec.Egress {
			rule := &p.Spec.Egress[i]
			out.Egress = append(out.Egress, r.networkRule(fmt.Sprintf("spec.egress[%d]", i), "to", rule.To, rule.Ports))
		}
	}
	if !understood {
		r.problem("the pods that it is for cannot be told from others: all that it may mean are isolated, and its rules allow nothing")
	}
	out.Problems = r.problems
	return out
}

// directions are those for which a NetworkPolicy isolates: those that it names,
// or else what its rules imply.
func (r *policyReader) directions(p *networkingv1.NetworkPolicy) (ingress, egress bool) {
	for i, t := range p.Spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			ingress = true
		case networkingv1.PolicyTypeEgress:
			egress = true
		default:
			r.problem("spec.policyTypes[%d]: there is no policy type %q", i, t)
		}
	}
	if !ingress && !egress {
		return true, len(p.Spec.Egress) > 0
	}
	return ingress, egress
}

// networkRule is one rule of a NetworkPolicy.
func (r *policyReader) networkRule(at, peersKey string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) cluster.PolicyRule {
	rule := cluster.PolicyRule{Action: cluster.AllowAction, AnyPeer: len(peers) == 0}
	for i := range peers {
		if peer, ok := r.networkPeer(fmt.Sprintf("%s.%s[%d]", at, peersKey, i), &peers[i]); ok {
			rule.Peers = append(rule.Peers, peer)
		}
	}
	for i := range ports {
		if port, ok := r.networkPort(fmt.Sprintf("%s.ports[%d]", at, i), &ports[i]); ok {
			rule.Ports = append(rule.Ports, port)
		}
	}
	if len(ports) > 0 && len(rule.Ports) == 0 {
		rule.Peers, rule.AnyPeer = nil, false // no port is none, not all
	}
	return rule
}

// networkPeer is one peer of a NetworkPolicy's rule, false where it is not
// understood.
func (r *policyReader) networkPeer(at string, p *networkingv1.NetworkPolicyPeer) (cluster.PolicyPeer, bool) {
	switch {
	case p.IPBlock != nil && (p.PodSelector != nil || p.NamespaceSelector != nil):
		r.problem("%s: ipBlock stands beside a selector: it matches nobody", at)
		return cluster.PolicyPeer{}, false
	case p.IPBlock != nil:
		return r.ipBlock(at+".ipBlock", p.IPBlock)
	case p.PodSelector == nil && p.NamespaceSelector == nil:
		r.problem("%s: says nothing that is known: it matches nobody", at)
		return cluster.PolicyPeer{}, false
	}
	out, ok := cluster.PolicyPeer{Pods: &cluster.Selector{}}, true
	if p.PodSelector != nil {
		*out.Pods, ok = r.selector(at+".podSelector", p.PodSelector)
	}
	if p.NamespaceSelector == nil {
		out.SameNamespace = true
		return out, ok
	}
	namespaces, understood := r.selector(at+".namespaceSelector", p.NamespaceSelector)
	out.Namespaces = &namespaces
	return out, ok && understood
}

// ipBlock is a network without parts of it. One exception that is not understood
// spoils it all: without it, the block would be wider than was meant.
func (r *policyReader) ipBlock(at string, b *networkingv1.IPBlock) (cluster.PolicyPeer, bool) {
	network, ok := r.prefix(at+".cidr", b.CIDR)
	peer := cluster.PolicyPeer{Networks: []netip.Prefix{network}}
	for i, text := range b.Except {
		except, understood := r.prefix(fmt.Sprintf("%s.except[%d]", at, i), text)
		ok = ok && understood
		peer.Except = append(peer.Except, except)
	}
	return peer, ok
}

// prefix reads a network. Bits behind its length are no mistake: so the API
// means it. IPv4 that is written as IPv6 is IPv4.
func (r *policyReader) prefix(at, text string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		r.problem("%s: %q is no network: it matches nobody", at, excerpt(text))
		return netip.Prefix{}, false
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			r.problem("%s: %q is of IPv4 and IPv6: it matches nobody", at, excerpt(text))
			return netip.Prefix{}, false
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}

// networkPort is one port of a NetworkPolicy's rule, false where it is not
// understood.
func (r *policyReader) networkPort(at string, p *networkingv1.NetworkPolicyPort) (cluster.PolicyPort, bool) {
	out := cluster.PolicyPort{Protocol: "tcp"} // what the API means with none
	if p.Protocol != nil {
		protocol, ok := protocolOf(string(*p.Protocol))
		if !ok {
			r.problem("%s: protocol %q is none of TCP, UDP and SCTP: it matches nothing", at, excerpt(string(*p.Protocol)))
			return out, false
		}
		out.Protocol = protocol
	}
	switch {
	case p.Port == nil && p.EndPort == nil:
		return out, true
	case p.Port == nil:
		r.problem("%s: endPort %d without a port: it matches nothing", at, *p.EndPort)
		return out, false
	case p.Port.Type == intstr.String && p.EndPort != nil:
		r.problem("%s: endPort %d behind the name %q: it matches nothing", at, *p.EndPort, excerpt(p.Port.StrVal))
		return out, false
	case p.Port.Type == intstr.String && p.Port.StrVal == "":
		r.problem("%s: a port without number and name: it matches nothing", at)
		return out, false
	case p.Port.Type == intstr.String:
		out.Name = p.Port.StrVal
		return out, true
	}
	last := p.Port.IntVal
	if p.EndPort != nil {
		last = *p.EndPort
	}
	return out, r.span(at, p.Port.IntVal, last, &out)
}

// span sets a range of ports.
func (r *policyReader) span(at string, first, last int32, out *cluster.PolicyPort) bool {
	switch {
	case first < 1 || first > 0xffff:
		r.problem("%s: %d is no port", at, first)
		return false
	case last < 1 || last > 0xffff:
		r.problem("%s: %d is no port", at, last)
		return false
	case last < first:
		r.problem("%s: ports end at %d, before %d where they begin", at, last, first)
		return false
	}
	out.First, out.Last = uint16(first), uint16(last)
	return true
}

// protocolOf is a protocol as policies name them.
func protocolOf(text string) (string, bool) {
	switch text {
	case string(corev1.ProtocolTCP), string(corev1.ProtocolUDP), string(corev1.ProtocolSCTP):
		return strings.ToLower(text), true
	}
	return "", false
}

// selector reads a label selector. Where it is not understood it selects at
// least what it may mean.
func (r *policyReader) selector(at string, s *metav1.LabelSelector) (cluster.Selector, bool) {
	out, ok := cluster.Selector{Equal: s.MatchLabels}, true
	for i, e := range s.MatchExpressions {
		where := fmt.Sprintf("%s.matchExpressions[%d]", at, i)
		rule := cluster.SelectorRule{Key: e.Key, Values: slices.Clone(e.Values)}
		wants := false // values
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			rule.Op, wants = cluster.OpIn, true
		case metav1.LabelSelectorOpNotIn:
			rule.Op, wants = cluster.OpNotIn, true
		case metav1.LabelSelectorOpExists:
			rule.Op = cluster.OpExists
		case metav1.LabelSelectorOpDoesNotExist:
			rule.Op = cluster.OpDoesNotExist
		default:
			r.problem("%s: there is no operator %q", where, excerpt(string(e.Operator)))
			ok = false
			continue
		}
		if wants != (len(e.Values) > 0) {
			r.problem("%s: operator %s with %d values", where, e.Operator, len(e.Values))
			ok = false
			continue
		}
		out.Rules = append(out.Rules, rule)
	}
	return out, ok
}

// excerpt is foreign text in a message, cut to what helps.
func excerpt(text string) string {
	const most = 64
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

// namedPortsOf are a pod's ports that have names: those of containers that go on
// while it does.
func namedPortsOf(p *corev1.Pod) []cluster.PodPort {
	var out []cluster.PodPort
	add := func(c *corev1.Container) {
		for _, port := range c.Ports {
			protocol, ok := "tcp", true
			if port.Protocol != "" {
				protocol, ok = protocolOf(string(port.Protocol))
			}
			if number := portOf(port.ContainerPort); ok && port.Name != "" && number != 0 {
				out = append(out, cluster.PodPort{Name: port.Name, Protocol: protocol, Port: number})
			}
		}
	}
	for i := range p.Spec.Containers {
		add(&p.Spec.Containers[i])
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return out
}
