package netpol

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"warren/cluster"
)

// This file says in words what rules are about.

// maxWords is how many of a list one line names.
const maxWords = 3

// few is a list for one line.
func few(words []string) string {
	if over := len(words) - maxWords; over > 1 {
		words = append(slices.Clone(words[:maxWords]), fmt.Sprintf("%d others", over))
	}
	return strings.Join(words, ", ")
}

// peerWords says who a rule is about: "pods app=web", "everybody".
func peerWords(policy *cluster.Policy, rule *cluster.PolicyRule) []string {
	if rule.AnyPeer {
		return []string{"everybody"}
	}
	if len(rule.Peers) == 0 {
		return []string{"nobody"}
	}
	words := make([]string, len(rule.Peers))
	for i, peer := range rule.Peers {
		switch {
		case len(peer.Networks) > 0:
			words[i] = networkWords(peer.Networks)
			if len(peer.Except) > 0 {
				words[i] += " except " + networkWords(peer.Except)
			}
		case peer.Nodes != nil:
			words[i] = selected("nodes", "every node", peer.Nodes)
		default:
			pods := "every pod"
			if peer.Pods != nil {
				pods = selected("pods", "every pod", peer.Pods)
			}
			switch {
			case peer.SameNamespace:
				words[i] = pods + " of namespace " + policy.Namespace
			case peer.Namespaces == nil:
				words[i] = pods
			default:
				words[i] = pods + " of " + selected("namespaces", "every namespace", peer.Namespaces)
			}
		}
	}
	return words
}

func networkWords(networks []netip.Prefix) string {
	words := make([]string, len(networks))
	for i, n := range networks {
		words[i] = network(n).String()
	}
	return few(words)
}

func selected(some, every string, s *cluster.Selector) string {
	if words := selectorWords(s); words != "" {
		return some + " " + words
	}
	return every
}

// selectorWords is a selector as kubectl writes it, "" for one that selects
// everything.
func selectorWords(s *cluster.Selector) string {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(s.Equal)) {
		words = append(words, k+"="+s.Equal[k])
	}
	for _, r := range s.Rules {
		switch values := strings.Join(r.Values, ", "); r.Op {
		case cluster.OpIn:
			words = append(words, fmt.Sprintf("%s in (%s)", r.Key, values))
		case cluster.OpNotIn:
			words = append(words, fmt.Sprintf("%s notin (%s)", r.Key, values))
		case cluster.OpExists:
			words = append(words, r.Key)
		case cluster.OpDoesNotExist:
			words = append(words, "!"+r.Key)
		}
	}
	return strings.Join(words, ",")
}

// portWords says which ports a rule is about: "tcp 80-90", "tcp http", and
// "http (tcp 8080)" where pod says what the name is.
func portWords(rule *cluster.PolicyRule, pod *cluster.Pod) []string {
	words := make([]string, 0, len(rule.Ports))
	for _, p := range rule.Ports {
		switch {
		case p.Name != "":
			words = append(words, nameWords(portName{p.Name, p.Protocol}, pod))
		case p.Protocol == "":
			words = append(words, "every port")
		case p.First == 0:
			words = append(words, p.Protocol)
		case p.First == p.Last:
			words = append(words, fmt.Sprintf("%s %d", p.Protocol, p.First))
		default:
			words = append(words, fmt.Sprintf("%s %d-%d", p.Protocol, p.First, p.Last))
		}
	}
	return words
}

// nameWords says what a name of a port stands for, where pod says it.
func nameWords(name portName, pod *cluster.Pod) string {
	if pod == nil {
		return strings.TrimSpace(name.protocol + " " + name.name)
	}
	var are []string
	for _, k := range name.resolve(pod.Ports) {
		are = append(are, fmt.Sprintf("%s %d", protocolName(k.protocol), k.port))
	}
	if len(are) == 0 {
		are = []string{strings.TrimSpace("no "+name.protocol) + " port of " + pod.Namespace + "/" + pod.Name}
	}
	return fmt.Sprintf("%s (%s)", name.name, strings.Join(are, ", "))
}

// protocolWord is what people call a protocol.
func protocolWord(number uint8) string {
	if name := protocolName(number); name != "" {
		return name
	}
	switch number {
	case 1:
		return "icmp"
	case 58:
		return "icmp6"
	}
	return fmt.Sprintf("number %d", number)
}
