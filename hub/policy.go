package hub

import (
	"context"
	"sync"
	"time"

	"warren/api"
)

// policyTime is how long agents have to say what policies are about.
const policyTime = 5 * time.Second

// reportPolicy puts together what the agents of all nodes that are asked know of
// policies and of who talked, and leaves out what the caller may not see.
func (h *hub) reportPolicy(ctx context.Context, namespaces, nodes []string) (api.PolicyReport, error) {
	v, done, err := h.enter(ctx, "/v1/policy")
	if err != nil {
		return api.PolicyReport{}, err
	}
	defer done()
	var mu sync.Mutex
	var reports []api.PolicyReport
	t := h.agents.each(ctx, nodes, policyTime, func(ctx context.Context, node string, g *agent) error {
		r, err := g.client.Policy(ctx, namespaces, nil)
		if err == nil {
			r.Reporters = []string{node} // Kubernetes says which it is
			mu.Lock()
			reports = append(reports, r)
			mu.Unlock()
		}
		return err
	})
	if e := t.refusal(); e != nil {
		return api.PolicyReport{}, e
	}
	r := api.MergePolicyReports(reports)
	if !v.all {
		r = r.Restrict(v.sees)
	}
	n := t.nodesEvent()
	r.Total, r.Missing = n.Total, n.Missing
	return r, nil
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
