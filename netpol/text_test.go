package netpol_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"warren/cluster"
	"warren/netpol"
)

// The text of a world, one thing a line; what is indented belongs to the line
// above.
//
//	namespace shop team=a
//	node n1 zone=x 10.0.0.1
//	pod shop/web n1 app=web 10.1.0.2 fd00::2 http=tcp/8080
//	pod kube/proxy n1 host 10.0.0.1
//	policy shop/allow-web for app=db isolates ingress,egress
//	  ingress allow with pods app=web; namespaces team=a pods *; networks 10.0.0.0/8 except 10.1.0.0/16 ports tcp 5432; tcp http
//	  egress allow
//	policy strict admin 10 for namespaces team=a pods app=db
//	  egress deny "name" with nodes zone=x ports udp 80-90; any dns
//
// Selectors are k=v, k:in:a|b, k:notin:a|b, k:has and k:hasnot, joined by commas;
// * selects everything. Pods without namespaces are of the policy's own. A rule
// without "with" is about everybody, "with none" about nobody.
type textWorld struct {
	*netpol.World
}

var protocols = map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmp6": 58}

func parseWorld(t testing.TB, text string) *netpol.World {
	w := &netpol.World{Namespaces: make(map[string]map[string]string)}
	var policy *cluster.Policy
	for n, line := range strings.Split(text, "\n") {
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("line %d: %s: %s", n+1, line, fmt.Sprintf(format, args...))
		}
		line, _, _ := strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "namespace":
			w.Namespaces[words[1]] = labelsOf(words[2:])
		case "node":
			node := &cluster.Node{UID: "node-" + words[1], Name: words[1], Labels: make(map[string]string)}
			for _, word := range words[2:] {
				if addr, err := netip.ParseAddr(word); err == nil {
					node.Addrs = append(node.Addrs, addr)
				} else {
					maps.Copy(node.Labels, labelsOf([]string{word}))
				}
			}
			w.Nodes = append(w.Nodes, node)
		case "pod":
			ns, name, _ := strings.Cut(words[1], "/")
			pod := &cluster.Pod{UID: "pod-" + words[1], Namespace: ns, Name: name, Node: words[2], Labels: make(map[string]string)}
			for _, word := range words[3:] {
				key, value, _ := strings.Cut(word, "=")
				protocol, port, named := strings.Cut(value, "/")
				switch addr, err := netip.ParseAddr(word); {
				case err == nil:
					pod.Addrs = append(pod.Addrs, addr)
				case word == "host":
					pod.HostNetwork = true
				case named:
					number, _ := strconv.Atoi(port)
					pod.Ports = append(pod.Ports, cluster.PodPort{Name: key, Protocol: protocol, Port: uint16(number)})
				default:
					pod.Labels[key] = value
				}
			}
			w.Pods = append(w.Pods, pod)
		case "policy":
			policy = &cluster.Policy{UID: "policy-" + words[1], Tier: cluster.NetworkTier}
			if ns, name, ok := strings.Cut(words[1], "/"); ok {
				policy.Namespace, policy.Name = ns, name
			} else {
				policy.Name = words[1]
				policy.Tier = cluster.AdminTier
				if words[2] == "baseline" {
					policy.Tier = cluster.BaselineTier
				}
				priority, _ := strconv.Atoi(words[3])
				policy.Priority = int32(priority)
			}
			for i, word := range words {
				switch word {
				case "isolates":
					policy.IsolatesIngress = strings.Contains(words[i+1], "ingress")
					policy.IsolatesEgress = strings.Contains(words[i+1], "egress")
				case "for":
					if policy.Tier == cluster.NetworkTier {
						policy.Subject.Pods = selectorOf(words[i+1])
					}
				case "namespaces":
					policy.Subject.Namespaces = selectorOf(words[i+1])
				case "pods":
					policy.Subject.Pods = selectorOf(words[i+1])
				}
			}
			w.Policies = append(w.Policies, policy)
		case "ingress", "egress":
			rule, err := parseRule(strings.TrimSpace(line))
			if err != nil || policy == nil {
				fail("%v", err)
			}
			if words[0] == "ingress" {
				policy.Ingress = append(policy.Ingress, rule)
			} else {
				policy.Egress = append(policy.Egress, rule)
			}
		default:
			fail("what is that?")
		}
	}
	return w
}

func labelsOf(words []string) map[string]string {
	labels := make(map[string]string)
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		labels[key] = value
	}
	return labels
}

func selectorOf(text string) (s cluster.Selector) {
	if text == "*" {
		return s
	}
	for _, part := range strings.Split(text, ",") {
		if key, value, ok := strings.Cut(part, "="); ok {
			if s.Equal == nil {
				s.Equal = make(map[string]string)
			}
			s.Equal[key] = value
			continue
		}
		words := append(strings.Split(part, ":"), "", "")
		r := cluster.SelectorRule{Key: words[0], Op: map[string]cluster.SelectorOp{"in": cluster.OpIn, "notin": cluster.OpNotIn,
			"has": cluster.OpExists, "hasnot": cluster.OpDoesNotExist}[words[1]]}
		if words[2] != "" {
			r.Values = strings.Split(words[2], "|")
		}
		s.Rules = append(s.Rules, r)
	}
	return s
}

func textOf(s *cluster.Selector) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(s.Equal)) {
		parts = append(parts, key+"="+s.Equal[key])
	}
	for _, r := range s.Rules {
		op := map[cluster.SelectorOp]string{cluster.OpIn: "in", cluster.OpNotIn: "notin", cluster.OpExists: "has", cluster.OpDoesNotExist: "hasnot"}[r.Op]
		parts = append(parts, strings.TrimSuffix(r.Key+":"+op+":"+strings.Join(r.Values, "|"), ":"))
	}
	if len(parts) == 0 {
		return "*"
	}
	return strings.Join(parts, ",")
}

// parseRule reads: ingress allow "name" with PEER; PEER ports PORT; PORT
func parseRule(text string) (rule cluster.PolicyRule, err error) {
	head, ports, hasPorts := strings.Cut(text, " ports ")
	head, peers, hasPeers := strings.Cut(head, " with ")
	words := strings.Fields(head)
	if len(words) < 2 {
		return rule, fmt.Errorf("no action")
	}
	rule.Action = map[string]cluster.PolicyAction{"allow": cluster.AllowAction, "deny": cluster.DenyAction, "pass": cluster.PassAction}[words[1]]
	if _, name, ok := strings.Cut(head, `"`); ok {
		rule.Name = strings.TrimRight(name, `" `)
	}
	rule.AnyPeer = !hasPeers
	if hasPeers && strings.TrimSpace(peers) != "none" {
		for _, part := range strings.Split(peers, ";") {
			peer, err := parsePeer(strings.Fields(part))
			if err != nil {
				return rule, err
			}
			rule.Peers = append(rule.Peers, peer)
		}
	}
	if hasPorts {
		for _, part := range strings.Split(ports, ";") {
			words := append(strings.Fields(part), "")
			port := cluster.PolicyPort{Protocol: words[0]}
			if words[0] == "any" {
				port.Protocol = ""
			}
			first, last, ranged := strings.Cut(words[1], "-")
			if !ranged {
				last = first
			}
			a, err := strconv.ParseUint(first, 10, 16)
			b, _ := strconv.ParseUint(last, 10, 16)
			if err != nil {
				port.Name = words[1]
			}
			port.First, port.Last = uint16(a), uint16(b)
			rule.Ports = append(rule.Ports, port)
		}
	}
	return rule, nil
}

func parsePeer(words []string) (peer cluster.PolicyPeer, err error) {
	except := false
	for i := 0; i < len(words); i++ {
		switch words[i] {
		case "networks":
		case "except":
			except = true
		case "pods", "namespaces", "nodes":
			s := selectorOf(words[i+1])
			switch words[i] {
			case "pods":
				peer.Pods = &s
			case "namespaces":
				peer.Namespaces = &s
			default:
				peer.Nodes = &s
			}
			i++
		default:
			n, err := netip.ParsePrefix(words[i])
			if err != nil {
				return peer, err
			}
			if except {
				peer.Except = append(peer.Except, n)
			} else {
				peer.Networks = append(peer.Networks, n)
			}
		}
	}
	peer.SameNamespace = peer.Pods != nil && peer.Namespaces == nil
	return peer, nil
}

// String is the text that parseWorld reads.
func (w textWorld) String() string {
	var b strings.Builder
	words := func(labels map[string]string) {
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			fmt.Fprintf(&b, " %s=%s", key, labels[key])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.Namespaces)) {
		b.WriteString("namespace " + name)
		words(w.Namespaces[name])
		b.WriteByte('\n')
	}
	for _, n := range w.Nodes {
		b.WriteString("node " + n.Name)
		words(n.Labels)
		for _, addr := range n.Addrs {
			fmt.Fprintf(&b, " %s", addr)
		}
		b.WriteByte('\n')
	}
	for _, p := range w.Pods {
		fmt.Fprintf(&b, "pod %s/%s %s", p.Namespace, p.Name, p.Node)
		if p.HostNetwork {
			b.WriteString(" host")
		}
		words(p.Labels)
		for _, addr := range p.Addrs {
			fmt.Fprintf(&b, " %s", addr)
		}
		for _, port := range p.Ports {
			fmt.Fprintf(&b, " %s=%s/%d", port.Name, port.Protocol, port.Port)
		}
		b.WriteByte('\n')
	}
	for _, p := range w.Policies {
		b.WriteString(policyText(p))
	}
	return b.String()
}

func policyText(p *cluster.Policy) string {
	var b strings.Builder
	if p.Tier == cluster.NetworkTier {
		fmt.Fprintf(&b, "policy %s/%s for %s", p.Namespace, p.Name, textOf(&p.Subject.Pods))
		var isolates []string
		if p.IsolatesIngress {
			isolates = append(isolates, "ingress")
		}
		if p.IsolatesEgress {
			isolates = append(isolates, "egress")
		}
		if len(isolates) > 0 {
			fmt.Fprintf(&b, " isolates %s", strings.Join(isolates, ","))
		}
	} else {
		fmt.Fprintf(&b, "policy %s %s %d for namespaces %s pods %s", p.Name, strings.ToLower(p.Tier.String()), p.Priority,
			textOf(&p.Subject.Namespaces), textOf(&p.Subject.Pods))
	}
	b.WriteByte('\n')
	for _, r := range p.Ingress {
		b.WriteString("  ingress " + ruleText(&r) + "\n")
	}
	for _, r := range p.Egress {
		b.WriteString("  egress " + ruleText(&r) + "\n")
	}
	return b.String()
}

func ruleText(r *cluster.PolicyRule) string {
	text := map[cluster.PolicyAction]string{cluster.AllowAction: "allow", cluster.DenyAction: "deny", cluster.PassAction: "pass"}[r.Action]
	if r.Name != "" {
		text += fmt.Sprintf(" %q", r.Name)
	}
	if !r.AnyPeer {
		var peers []string
		for _, p := range r.Peers {
			var words []string
			if p.Namespaces != nil {
				words = append(words, "namespaces", textOf(p.Namespaces))
			}
			if p.Pods != nil {
				words = append(words, "pods", textOf(p.Pods))
			}
			if p.Nodes != nil {
				words = append(words, "nodes", textOf(p.Nodes))
			}
			if len(p.Networks) > 0 {
				words = append(words, "networks")
				for _, n := range p.Networks {
					words = append(words, n.String())
				}
			}
			if len(p.Except) > 0 {
				words = append(words, "except")
				for _, n := range p.Except {
					words = append(words, n.String())
				}
			}
			peers = append(peers, strings.Join(words, " "))
		}
		if len(peers) == 0 {
			peers = []string{"none"}
		}
		text += " with " + strings.Join(peers, "; ")
	}
	if len(r.Ports) > 0 {
		var ports []string
		for _, p := range r.Ports {
			protocol, port := p.Protocol, p.Name
			if protocol == "" {
				protocol = "any"
			}
			if p.First != 0 || p.Last != 0 {
				port = fmt.Sprintf("%d-%d", p.First, p.Last)
			}
			ports = append(ports, strings.TrimSpace(protocol+" "+port))
		}
		text += " ports " + strings.Join(ports, "; ")
	}
	return text
}

// parsePacket reads: FROM -> TO PROTOCOL PORT, where FROM and TO are an address,
// or a pod or node with the family: shop/web, shop/web.6, node:n1.
func parsePacket(t testing.TB, w *netpol.World, text string) netpol.Packet {
	t.Helper()
	words := append(strings.Fields(text), "", "")
	if len(words) < 6 || words[1] != "->" {
		t.Fatalf("packet %q is not FROM -> TO PROTOCOL PORT", text)
	}
	protocol, ok := protocols[words[3]]
	if !ok {
		number, err := strconv.ParseUint(words[3], 10, 8)
		if err != nil {
			t.Fatalf("packet %q: protocol: %v", text, err)
		}
		protocol = uint8(number)
	}
	port, _ := strconv.ParseUint(words[4], 10, 16)
	return netpol.Packet{Src: addrOf(t, w, words[0]), Dst: addrOf(t, w, words[2]), Protocol: protocol, Port: uint16(port)}
}

func addrOf(t testing.TB, w *netpol.World, text string) netip.Addr {
	t.Helper()
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr
	}
	name, six := strings.CutSuffix(text, ".6")
	pick := func(addrs []netip.Addr) netip.Addr {
		for _, addr := range addrs {
			if addr.Is4() != six {
				return addr
			}
		}
		t.Fatalf("%s has no such address", text)
		return netip.Addr{}
	}
	if node, ok := strings.CutPrefix(name, "node:"); ok {
		for _, n := range w.Nodes {
			if n.Name == node {
				return pick(n.Addrs)
			}
		}
	}
	for _, p := range w.Pods {
		if p.Namespace+"/"+p.Name == name {
			return pick(p.Addrs)
		}
	}
	t.Fatalf("nobody is %s", text)
	return netip.Addr{}
}
