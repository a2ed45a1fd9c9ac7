package hub

import (
	"context"
	"slices"
	"sync"
	"time"

	"warren/api"
	"warren/event"
)

// policyTime is how long agents have to say what policies are about.
const policyTime = 5 * time.Second

// reportPolicy puts together what the agents of all nodes that are asked know of
// policies and of who talked, and leaves out what the caller may not see. Who
// talked each of them knows for itself; what policies are about they all know,
// and one of them says it.
func (h *hub) reportPolicy(ctx context.Context, q api.PolicyQuestion) (api.PolicyReport, error) {
	v, done, err := h.enter(ctx, "/v1/policy")
	if err != nil {
		return api.PolicyReport{}, err
	}
	defer done()
	var sum api.PolicyMerge
	var n *event.Nodes
	if q.Part != api.PolicyWorld {
		var mu sync.Mutex
		t := h.agents.each(ctx, q.Nodes, policyTime, func(ctx context.Context, node string, g *agent) error {
			r, err := g.client.Policy(ctx, api.PolicyQuestion{Namespaces: q.Namespaces, Part: api.PolicyTalks})
			if err == nil {
				r.Reporters = []string{node} // Kubernetes says which it is
				mu.Lock()
				defer mu.Unlock()
				sum.Add(&r)
			}
			return err
		})
		if e := t.refusal(); e != nil {
			return api.PolicyReport{}, e
		}
		n = t.nodesEvent()
	}
	if q.Part != api.PolicyTalks && (n == nil || n.Answered > 0) {
		world := api.PolicyQuestion{Part: api.PolicyWorld}
		if len(q.Namespaces) > 0 {
			world.Namespaces = append(sum.Namespaces(), q.Namespaces...)
			slices.Sort(world.Namespaces)
			world.Namespaces = slices.Compact(world.Namespaces)
		}
		r, err := h.askWorld(ctx, q.Nodes, world)
		if err != nil {
			return api.PolicyReport{}, err
		}
		r.Reporters = nil
		sum.Add(&r)
	}
	r := sum.Report()
	if !v.all {
		r = r.Restrict(v.sees)
	}
	if n != nil {
		r.Total, r.Missing = n.Total, n.Missing
	}
	return r, nil
}

// askWorld asks one agent after the other what policies are about, those that
// answered lately first, until one says it.
func (h *hub) askWorld(ctx context.Context, nodes []string, q api.PolicyQuestion) (api.PolicyReport, error) {
	ctx, cancel := context.WithTimeout(ctx, policyTime)
	defer cancel()
	var up, down []*agent
	for _, m := range h.agents.now().members {
		switch {
		case m.agent == nil || nodes != nil && !slices.Contains(nodes, m.node):
		case m.agent.line().up:
			up = append(up, m.agent)
		default:
			down = append(down, m.agent)
		}
	}
	err := errNoAgent
	for _, g := range append(up, down...) {
		var r api.PolicyReport
		asked, cancel := context.WithTimeout(ctx, min(policyTime/2, g.patience()))
		r, err = g.client.Policy(asked, q)
		cancel()
		if err == nil {
			return r, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return api.PolicyReport{}, api.Unavailable("no agent says what policies there are: %s", reason(err))
}

// policyStatusTime is how long agents have to say which policies are in force.
const policyStatusTime = 3 * time.Second

// reportPolicyStatus puts together where policies are in force, and leaves out
// what the caller may not see.
func (h *hub) reportPolicyStatus(ctx context.Context, q api.PolicyStatusQuestion) (api.PolicyStatus, error) {
	v, done, err := h.enter(ctx, "/v1/policy/status")
	if err != nil {
		return api.PolicyStatus{}, err
	}
	defer done()
	s, t := h.askPolicyStatus(ctx, q)
	if e := t.refusal(); e != nil {
		return api.PolicyStatus{}, e
	}
	if !v.all {
		s = s.Restrict(v.sees)
	}
	return s, nil
}

// askPolicyStatus asks the agents where policies are in force.
func (h *hub) askPolicyStatus(ctx context.Context, q api.PolicyStatusQuestion) (api.PolicyStatus, *tally) {
	nodes := q.Nodes
	q.Nodes = nil
	s := api.PolicyStatus{Nodes: []api.NodePolicies{}}
	var mu sync.Mutex
	t := h.agents.each(ctx, nodes, policyStatusTime, func(ctx context.Context, node string, g *agent) error {
		one, err := g.client.PolicyStatus(ctx, q)
		mu.Lock()
		defer mu.Unlock()
		for _, n := range one.Nodes {
			n.Node = node // Kubernetes says which it is
			s.Nodes = append(s.Nodes, n)
		}
		return err
	})
	s.Sort()
	n := t.nodesEvent()
	s.Total, s.Missing = n.Total, n.Missing
	return s, t
}
