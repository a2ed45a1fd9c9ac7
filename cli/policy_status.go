package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"warren/api"
	"warren/cluster"
)

// policyStatusCommand says where policies are in force.
func policyStatusCommand(g *globals) *command {
	var about selection
	var output string
	return &command{
		name:    "policy status",
		args:    "[POLICY]",
		summary: "Tell where network policies are in force",
		about: "For each policy: which version of it is in force, on how many of the nodes that know it, for how many pods, and what keeps it from others. POLICY is its name, or NAMESPACE/NAME; " +
			"with it, or with -o wide, node by node. Of one namespace, policies that are for no pod are told too; of all of them, only those that are for some.",
		examples: []example{
			{"warren policy status", "On a node of a cluster"},
		},
		cluster: []example{
			{"kubectl warren policy status -n shop", "Whether what was applied is in force"},
			{"kubectl warren policy status -n shop allow-frontend", "Node by node"},
		},
		flags: append(append([]*option{outputFlag(&output, "", "table", "wide", "json")}, namespaceFlags(g, &about)...), nodeFlags(g, &about)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if err := atMost(1, args); err != nil {
				return err
			}
			var only named
			if len(args) > 0 {
				var err error
				if only, err = parseNamed("POLICY", args[0], false); err != nil {
					return err
				}
				if only.addr.IsValid() {
					only = named{name: args[0]} // a policy can be called so
				}
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			q := api.PolicyStatusQuestion{Nodes: who.nodes}
			if ns := cmp.Or(only.namespace, who.namespace); ns != "" {
				q.Namespaces = []string{ns}
			}
			ctx, cancel := g.finite(ctx, false)
			defer cancel()
			s, err := who.PolicyStatus(ctx, q)
			if err != nil {
				return err
			}
			who.missingNodes(s.Total, s.Missing)
			return who.whole(who.policyStatus(s, only, output))
		},
	}
}

// A policyState is one policy, as the nodes that know it have it.
type policyState struct {
	api.NetworkPolicy // with the newest version, and pods of all nodes
	nodes, good       int
	on                []policyOn
}

// policyOn is a policy on one node.
type policyOn struct {
	node string
	api.NetworkPolicy
}

// policyStates are the policies of all nodes, each once.
func policyStates(s *api.PolicyStatus, only named) []*policyState {
	byKey := map[string]*policyState{}
	var list []*policyState
	for _, n := range s.Nodes {
		for _, p := range n.Policies {
			if only.name != "" && (p.Name != only.name || only.namespace != "" && p.Namespace != only.namespace) {
				continue
			}
			key := cmp.Or(p.UID, p.Tier+"/"+p.Namespace+"/"+p.Name)
			one := byKey[key]
			if one == nil {
				one = &policyState{NetworkPolicy: api.NetworkPolicy{UID: p.UID, Tier: p.Tier, Namespace: p.Namespace, Name: p.Name}}
				byKey[key] = one
				list = append(list, one)
			}
			one.add(n.Node, p)
		}
	}
	for _, one := range list {
		for _, on := range one.on {
			one.good += one.isGood(&on)
		}
	}
	slices.SortFunc(list, func(a, b *policyState) int { return api.ComparePolicies(a.NetworkPolicy, b.NetworkPolicy) })
	return list
}

// isGood is 1 where the newest version is in force for all pods of a node.
func (s *policyState) isGood(on *policyOn) int {
	if on.InForce == s.Generation && len(on.Failed) == 0 {
		return 1
	}
	return 0
}

func (s *policyState) add(node string, p api.NetworkPolicy) {
	s.nodes++
	s.on = append(s.on, policyOn{node, p})
	s.Generation = max(s.Generation, p.Generation)
	s.Endpoints += p.Endpoints
	s.Audited += p.Audited
	s.Uncounted = s.Uncounted || p.Uncounted
	s.Failed = append(s.Failed, p.Failed...)
	for _, problem := range p.Problems {
		if !slices.Contains(s.Problems, problem) {
			s.Problems = append(s.Problems, problem)
		}
	}
}

// stateOf says in words how a policy is that is good on some of some nodes.
func stateOf(p *api.NetworkPolicy, good, nodes int) cell {
	switch {
	case good == 0:
		return cell{text: "not in force", color: red}
	case good < nodes:
		return cell{text: "not everywhere", color: red}
	case len(p.Problems) > 0:
		return cell{text: "in part", color: yellow}
	case p.Endpoints == 0 && !p.Uncounted:
		return cell{text: "for no pod", color: dim}
	case p.Audited > 0 && p.Audited == p.Endpoints:
		return cell{text: "audit", color: yellow}
	}
	return cell{text: "in force", color: green}
}

// firstOf is the first of some texts, and how many there are more.
func firstOf(list []string) string {
	switch len(list) {
	case 0:
		return ""
	case 1:
		return list[0]
	}
	return fmt.Sprintf("%s (and %d more)", list[0], len(list)-1)
}

func podsOf(p *api.NetworkPolicy) cell {
	if p.Uncounted {
		return cell{text: "?", color: dim}
	}
	return count(uint64(max(0, p.Endpoints)))
}

// policyStatus writes where policies are in force.
func (a *answerer) policyStatus(st api.PolicyStatus, only named, output string) error {
	if output == "json" {
		return writeValue(a.env, st)
	}
	states := policyStates(&st, only)
	out := &lazyWriter{out: a.env.Stdout}
	s := a.env.screen(true)
	name := func(p *api.NetworkPolicy) cell {
		return cell{text: s.safe(policyName(&cluster.Policy{Namespace: p.Namespace, Name: p.Name}))}
	}
	var t *table
	var rows [][]cell
	if output == "wide" || only.name != "" {
		t = newTable(out, s, []column{{head: "POLICY", min: 12, max: 48}, {head: "TIER"}, {head: "NODE", max: 32}, {head: "STATE"}, {head: "VERSION", right: true}, {head: "IN FORCE", right: true},
			{head: "PODS", right: true}, {head: "AUDITED", right: true, spare: 1}, {head: "WITHOUT IT", max: 48}, {head: "PROBLEM"}})
		for _, p := range states {
			for i := range p.on {
				on := &p.on[i]
				rows = append(rows, []cell{name(&on.NetworkPolicy), {text: s.safe(on.Tier)}, {text: s.safe(on.node)}, stateOf(&on.NetworkPolicy, p.isGood(on), 1),
					{text: strconv.FormatInt(on.Generation, 10)}, {text: strconv.FormatInt(on.InForce, 10)}, podsOf(&on.NetworkPolicy), count(uint64(max(0, on.Audited))),
					{text: s.safe(firstOf(on.Failed)), color: red}, {text: s.safe(strings.Join(on.Problems, "; ")), color: yellow}})
			}
		}
	} else {
		t = newTable(out, s, []column{{head: "POLICY", min: 12, max: 48}, {head: "TIER"}, {head: "STATE"}, {head: "VERSION", right: true}, {head: "NODES", right: true},
			{head: "PODS", right: true}, {head: "WITHOUT IT", max: 48}, {head: "PROBLEM"}})
		for _, p := range states {
			nodes := cell{text: fmt.Sprintf("%d/%d", p.good, p.nodes)}
			if p.good < p.nodes {
				nodes.color = red
			}
			rows = append(rows, []cell{name(&p.NetworkPolicy), {text: s.safe(p.Tier)}, stateOf(&p.NetworkPolicy, p.good, p.nodes), {text: strconv.FormatInt(p.Generation, 10)}, nodes,
				podsOf(&p.NetworkPolicy), {text: s.safe(firstOf(p.Failed)), color: red}, {text: s.safe(firstOf(p.Problems)), color: yellow}})
		}
	}
	if len(rows) > 0 {
		if err := t.rows(rows); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	a.policyCaveats(&st, len(rows) == 0)
	return nil
}

// policyCaveats tells what the table does not say.
func (a *answerer) policyCaveats(st *api.PolicyStatus, none bool) {
	safe := screen{utf8: a.env.utf8()}
	say := func(format string, args ...any) {
		fmt.Fprintln(a.env.Stderr, a.env.program()+": "+safe.safe(fmt.Sprintf(format, args...)))
	}
	if none {
		say("there is no such network policy, or it is for no pod")
	}
	for _, n := range st.Nodes {
		node := "this node"
		if n.Node != "" {
			node = "node " + n.Node
		}
		switch {
		case n.Mode == api.ModeOff:
			say("%s enforces no policy: its agent has no network", node)
		case n.Waiting != "":
			say("%s waits for %s: what was in force there goes on", node, n.Waiting)
		case n.Error != "":
			say("%s is not as it should be, and what was in force goes on: %s", node, n.Error)
		}
	}
}
