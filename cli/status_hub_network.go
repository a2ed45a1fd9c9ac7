package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"warren/api"
)

// network says of each node how its pods are connected and what policy is in
// force there, and of each policy with problems where it has which.
func (v *hubView) network() {
	var rows [][]cell
	for i := range v.st.Nodes {
		if n := &v.st.Nodes[i]; n.Status != nil && n.Status.Network != nil {
			rows = append(rows, v.nodeNetwork(n.Node, n.Status.Network))
		}
	}
	if len(rows) == 0 {
		return
	}
	v.heading("Network")
	v.rows([]column{
		{head: "NODE", max: 32}, {head: "MODE"}, {head: "STATE"}, {head: "PODS", right: true}, {head: "NOT IN FORCE", right: true}, {head: "POLICIES", right: true},
		{head: "DENIED", right: true}, {head: "CHANGED", right: true, spare: 1}, {head: "PROBLEM"},
	}, rows)
	v.troubledPolicies()
}

func (v *hubView) nodeNetwork(node string, n *api.Network) []cell {
	state := cell{text: "in force", color: green}
	problem := n.Error
	switch {
	case n.Error != "":
		state = cell{text: "failing", color: red}
	case n.Waiting != "":
		state, problem = cell{text: "waiting", color: yellow}, "waits for "+n.Waiting
	case len(n.Problems) > 0:
		problem = n.Problems[0]
	}
	if more := len(n.Problems) - 1; n.Error == "" && n.Waiting == "" && more > 0 {
		problem += fmt.Sprintf(" (and %d more)", more)
	}
	var missing, denied uint64
	for _, e := range n.Endpoints {
		if !e.InForce {
			missing++
		}
	}
	for _, p := range n.Packets {
		if p.Verdict == "denied" {
			denied += p.Packets
		}
	}
	inForce := 0
	for _, p := range n.Policies {
		if p.Endpoints > 0 {
			inForce++
		}
	}
	changed := ""
	if !n.Applied.IsZero() {
		changed = span(v.now.Sub(n.Applied)) + " ago"
	}
	return []cell{
		{text: v.safe(node)}, {text: v.safe(n.Mode)}, state, count(uint64(len(n.Endpoints))), bad(missing), {text: strconv.Itoa(inForce)},
		count(denied), {text: changed}, {text: v.safe(problem), color: yellow},
	}
}

// troubledPolicies are those that are not in force somewhere, or not wholly
// understood.
func (v *hubView) troubledPolicies() {
	type trouble struct {
		api.NetworkPolicy
		nodes, failed int
	}
	byName := make(map[string]*trouble)
	for i := range v.st.Nodes {
		st := v.st.Nodes[i].Status
		if st == nil || st.Network == nil {
			continue
		}
		for _, p := range st.Network.Policies {
			if len(p.Failed) == 0 && len(p.Problems) == 0 {
				continue
			}
			key := p.Tier + "/" + p.Namespace + "/" + p.Name
			if byName[key] == nil {
				byName[key] = &trouble{NetworkPolicy: p}
			}
			byName[key].nodes++
			byName[key].failed += len(p.Failed)
		}
	}
	var list []*trouble
	for _, t := range byName {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *trouble) int {
		return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	rows := make([][]cell, 0, len(list))
	for _, t := range list {
		name, problem := t.Name, ""
		if t.Namespace != "" {
			name = t.Namespace + "/" + name
		}
		if len(t.Problems) > 0 {
			problem = t.Problems[0]
		}
		if more := len(t.Problems) - 1; more > 0 {
			problem += fmt.Sprintf(" (and %d more)", more)
		}
		rows = append(rows, []cell{{text: v.safe(name)}, {text: v.safe(t.Tier)}, {text: strconv.Itoa(t.nodes)}, bad(uint64(t.failed)), {text: v.safe(problem), color: yellow}})
	}
	if len(rows) > 0 {
		v.rows([]column{{head: "POLICY"}, {head: "TIER"}, {head: "ON NODES", right: true}, {head: "PODS WITHOUT IT", right: true}, {head: "PROBLEM"}}, rows)
	}
}
