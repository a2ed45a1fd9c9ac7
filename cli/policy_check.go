package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"warren/cluster"
	"warren/netpol"
)

// policyTestCommand says what would become of a packet.
func policyTestCommand(g *globals) *command {
	var about selection
	var output, from, to string
	protocol := "tcp"
	return &command{
		name:    "policy test",
		summary: "Tell what would become of a connection, and why",
		about: "By the policies that there are now: for each end the rule that decides, or the one that comes nearest where none matches. " +
			"An end is a pod, a workload (one of its pods), NAMESPACE/NAME, or an address; that of a pod which you may not see counts as one outside of the cluster. The exit code is 0 for what is allowed, 1 for what is denied.",
		examples: []example{
			{"warren policy test -n shop --from front --to redis:6379", "On a node of a cluster"},
		},
		cluster: []example{
			{"kubectl warren policy test -n shop --from front --to redis:6379", "From a pod of one workload to one of another"},
			{"kubectl warren policy test -n shop --from 198.51.100.7 --to front:8080", "From outside"},
			{"kubectl warren policy test -n shop --from front --to kube-system/coredns:53 --protocol udp", "To another namespace"},
		},
		flags: append([]*option{
			{long: "from", meta: "END", text: &from, doc: "who connects"},
			{long: "to", meta: "END:PORT", text: &to, doc: "who is asked, and at which port"},
			{long: "protocol", meta: "NAME", text: &protocol, choices: []string{"tcp", "udp", "sctp"}, doc: "protocol (default tcp)"},
			outputFlag(&output, "", "text", "json"),
		}, namespaceFlags(g, &about)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if err := atMost(0, args); err != nil {
				return err
			}
			if from == "" || to == "" {
				return usagef("who asks whom? --from and --to say")
			}
			src, err := parseNamed("--from", from, false)
			if err != nil {
				return err
			}
			dst, err := parseNamed("--to", to, true)
			if err != nil {
				return err
			}
			v, err := g.policyWorld(ctx, env, &about)
			if err != nil {
				return err
			}
			p, err := v.packet(src, dst, policyProtocols[protocol])
			if err != nil {
				return err
			}
			if err := v.test(p, output); err != nil {
				return err
			}
			return v.whole(nil)
		},
	}
}

// errDenied ends a command that was asked whether something is allowed, and has
// answered that it is not.
var errDenied = fmt.Errorf("denied")

func (v *policyView) test(p netpol.Packet, output string) error {
	e := netpol.Explain(p, v.world)
	var err error
	if output == "json" {
		type end struct {
			Verdict string   `json:"verdict"`
			Why     string   `json:"why"`
			Policy  []string `json:"policies,omitempty"`
		}
		tell := func(r netpol.Reason) end {
			out := end{Verdict: r.Verdict.String(), Why: r.String()}
			for _, p := range r.Selecting {
				out.Policy = append(out.Policy, policyName(p))
			}
			return out
		}
		err = writeValue(v.env, map[string]any{"from": e.Src, "to": e.Dst, "port": portText(p.Protocol, p.Port), "verdict": e.Verdict().String(),
			"egress": tell(e.Egress), "ingress": tell(e.Ingress)})
	} else {
		s := v.env.screen(false)
		out := &lazyWriter{out: v.env.Stdout}
		color := green
		if e.Verdict() == netpol.Deny {
			color = red
		}
		fmt.Fprintf(out, "%s  %s to %s %s\n", s.paint(color, e.Verdict().String()), s.safe(e.Src), s.safe(e.Dst), portText(p.Protocol, p.Port))
		for _, end := range []struct {
			name string
			r    netpol.Reason
		}{{"egress", e.Egress}, {"ingress", e.Ingress}} {
			fmt.Fprintf(out, "  %-8s %-9s %s\n", end.name, end.r.Verdict, s.safe(end.r.String()))
			for _, p := range end.r.Selecting {
				fmt.Fprintf(out, "  %-8s %-9s selected by %s (%s)\n", "", "", s.safe(policyName(p)), p.Tier)
			}
		}
		err = out.Flush()
	}
	if err == nil && e.Verdict() == netpol.Deny {
		return errDenied
	}
	return err
}

func policyName(p *cluster.Policy) string {
	if p.Namespace == "" {
		return p.Name
	}
	return p.Namespace + "/" + p.Name
}

// policyExplainCommand shows all that selects a pod.
func policyExplainCommand(g *globals) *command {
	var about selection
	var output string
	return &command{
		name:    "policy explain",
		args:    "POD",
		summary: "Show every policy that selects a pod, and what it allows",
		about: "In the order in which they are asked: policies of the admin tier, NetworkPolicies, the baseline tier; each rule with whom it is about, in words and how many pods that are now, and the ports. " +
			"POD is a pod or a workload, NAMESPACE/NAME for one of another namespace. With -o dot, a picture for Graphviz.",
		examples: []example{
			{"warren policy explain -n shop redis", "On a node of a cluster"},
		},
		cluster: []example{
			{"kubectl warren policy explain -n shop redis", "What selects the pods of a workload"},
			{"kubectl warren policy explain -n shop redis -o dot | dot -Tsvg > redis.svg", "As a picture, by Graphviz"},
		},
		flags: append([]*option{outputFlag(&output, "", "table", "dot", "json")}, namespaceFlags(g, &about)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if len(args) == 0 {
				return usagef("which pod?")
			}
			if err := atMost(1, args); err != nil {
				return err
			}
			n, err := parseNamed("POD", args[0], false)
			if err != nil {
				return err
			}
			if n.addr.IsValid() {
				return usagef("explains pods, not addresses like %s", args[0])
			}
			v, err := g.policyWorld(ctx, env, &about)
			if err != nil {
				return err
			}
			pod, err := v.find(n)
			if err != nil {
				return err
			}
			return v.whole(v.explain(pod, output))
		},
	}
}

// A policyLine is one rule of a policy that selects a pod, as JSON.
type policyLine struct {
	Policy    string   `json:"policy"`
	Tier      string   `json:"tier"`
	Direction string   `json:"direction"`
	Rule      string   `json:"rule,omitempty"`
	Action    string   `json:"action"`
	Peers     []string `json:"peers,omitempty"`
	Pods      int      `json:"pods"`
	Ports     []string `json:"ports,omitempty"`
	Problems  []string `json:"problems,omitempty"`
}

// policyLines are the rules of all policies that select a pod. A policy that
// isolates and has no rule has a line that says so.
func policyLines(selections []netpol.Selection) (lines []policyLine) {
	for _, s := range selections {
		for _, d := range []netpol.Direction{netpol.Ingress, netpol.Egress} {
			line := policyLine{Policy: policyName(s.Policy), Tier: s.Policy.Tier.String(), Direction: d.String(), Problems: s.Problems}
			if s.Isolates[d] && len(s.Rules[d]) == 0 {
				line.Action = "Deny"
				line.Peers = []string{"everybody"}
				lines = append(lines, line)
			}
			for _, r := range s.Rules[d] {
				line.Rule, line.Action, line.Peers, line.Pods, line.Ports = fmt.Sprint(r.Rule.Rule+1), r.Action.String(), r.Peers, len(r.Pods)+len(r.Nodes), r.Ports
				if r.Rule.RuleName != "" {
					line.Rule = r.Rule.RuleName
				}
				lines = append(lines, line)
			}
		}
	}
	return lines
}

func (v *policyView) explain(pod *cluster.Pod, output string) error {
	lines := policyLines(netpol.Selecting(pod, v.world))
	switch output {
	case "json":
		return writeValue(v.env, lines)
	case "dot":
		out := &lazyWriter{out: v.env.Stdout}
		v.dotPolicies(out, pod, lines)
		return out.Flush()
	}
	out := &lazyWriter{out: v.env.Stdout}
	s := v.env.screen(true)
	t := newTable(out, s, []column{{head: "POLICY", min: 12, max: 48}, {head: "TIER"}, {head: "DIRECTION"}, {head: "RULE"}, {head: "ACTION"},
		{head: "PEERS", min: 16, max: 72}, {head: "NOW", right: true, spare: 1}, {head: "PORTS", min: 8, max: 48}})
	rows := make([][]cell, len(lines))
	for i, l := range lines {
		rows[i] = []cell{{text: s.safe(l.Policy)}, {text: l.Tier}, {text: l.Direction}, {text: s.safe(l.Rule)}, {text: l.Action},
			{text: s.safe(strings.Join(l.Peers, "; "))}, {text: fmt.Sprint(l.Pods)}, {text: s.safe(strings.Join(l.Ports, ", "))}}
	}
	if len(rows) > 0 {
		if err := t.rows(rows); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if len(lines) == 0 {
		v.say("no policy selects %s/%s: everything is allowed", pod.Namespace, pod.Name)
	}
	told := map[string]bool{}
	for _, l := range lines {
		for _, p := range l.Problems {
			if !told[l.Policy+p] {
				told[l.Policy+p] = true
				v.say("%s: %s", l.Policy, p)
			}
		}
	}
	return nil
}

// dotPolicies draws peers, rules and the pod, for Graphviz.
func (v *policyView) dotPolicies(out io.Writer, pod *cluster.Pod, lines []policyLine) {
	s := screen{utf8: v.env.utf8()}
	name := s.dotQuote(pod.Namespace + "/" + pod.Name)
	fmt.Fprintf(out, "digraph warren {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n  %s [style=\"rounded,bold\"];\n", name)
	for _, l := range lines {
		label := l.Policy
		if l.Rule != "" {
			label += " rule " + l.Rule
		}
		if len(l.Ports) > 0 {
			label += ", " + strings.Join(l.Ports, ", ")
		}
		style := ""
		if l.Action == cluster.DenyAction.String() {
			style = ", color=red, style=dashed"
		}
		for _, peer := range l.Peers {
			from, to := s.dotQuote(peer), name
			if l.Direction == netpol.Egress.String() {
				from, to = to, from
			}
			fmt.Fprintf(out, "  %s -> %s [label=%s%s];\n", from, to, s.dotQuote(label), style)
		}
	}
	fmt.Fprintln(out, "}")
}
