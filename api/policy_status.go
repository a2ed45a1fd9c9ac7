package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A PolicyStatus says of network policies where they are in force: node by node,
// by name.
type PolicyStatus struct {
	// Total is how many agents a hub asked, and Missing those that did not
	// answer, each with the reason.
	Total   int      `json:"nodes_total,omitempty"`
	Missing []string `json:"nodes_missing,omitempty"`
	// Nodes are those that answered.
	Nodes []NodePolicies `json:"nodes"`
}

// NodePolicies are the network policies of one node.
type NodePolicies struct {
	Node string `json:"node,omitempty"`
	// Mode is that of the node's network; off where nothing is enforced.
	Mode string `json:"mode"`
	// Waiting is for what is waited before the first policy is in force, Error what
	// is not as it should be and is tried again. What was in force goes on.
	Waiting string `json:"waiting,omitempty"`
	Error   string `json:"error,omitempty"`
	// Applied is when policy was last put in force.
	Applied time.Time `json:"applied,omitzero"`
	// Policies are those of the namespaces that were asked for, of all namespaces
	// those that are for pods of the node or have problems, and those of the
	// cluster.
	Policies []NetworkPolicy `json:"policies"`
}

// ModeOff is the mode of a node whose agent enforces nothing.
const ModeOff = "off"

// A PolicyStatusQuestion says which policies' status is asked for.
type PolicyStatusQuestion struct {
	// Namespaces are those of NetworkPolicies; none is all of them.
	Namespaces []string
	Nodes      []string // none is all
	// Cluster asks for policies of the cluster alone.
	Cluster bool
}

// PolicyStatusRoute returns the route of the status of policies.
func PolicyStatusRoute(answer func(context.Context, PolicyStatusQuestion) (PolicyStatus, error)) Route {
	return Route{Pattern: "/v1/policy/status", Params: []string{"namespace", "node", "scope"}, Handle: func(w http.ResponseWriter, req *http.Request, q Query) (err error) {
		var asked PolicyStatusQuestion
		if asked.Namespaces, err = q.List("namespace"); err != nil {
			return err
		}
		if asked.Nodes, err = q.List("node"); err != nil {
			return err
		}
		switch scope := q["scope"]; scope {
		case "":
		case "cluster":
			asked.Cluster = true
		default:
			return BadRequest("scope is cluster, or is not there; not %s", printable(scope))
		}
		s, err := answer(req.Context(), asked)
		if err != nil {
			return err
		}
		return WriteJSON(w, s)
	}}
}

// PolicyStatus returns where policies are in force. An agent's answer is its
// node's; a hub has put those of all nodes together.
func (c *Client) PolicyStatus(ctx context.Context, q PolicyStatusQuestion) (PolicyStatus, error) {
	v := url.Values{}
	if len(q.Namespaces) > 0 {
		v.Set("namespace", strings.Join(q.Namespaces, ","))
	}
	if len(q.Nodes) > 0 {
		v.Set("node", strings.Join(q.Nodes, ","))
	}
	if q.Cluster {
		v.Set("scope", "cluster")
	}
	b, err := c.object(ctx, "/policy/status", v)
	if err != nil {
		return PolicyStatus{}, err
	}
	var s PolicyStatus
	if err := json.Unmarshal(b, &s); err != nil {
		return PolicyStatus{}, fmt.Errorf("read the status of policies: %w", err)
	}
	return s, nil
}

// Restrict returns the part of s that may be seen by whom may reports the
// namespaces of: policies of these and of the cluster, and no pods of others.
func (s PolicyStatus) Restrict(may func(namespace string) bool) PolicyStatus {
	s.Nodes = slices.Clone(s.Nodes)
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Error != "" {
			n.Error = "the network is not as it should be" // it may name anybody's pods
		}
		n.Policies = slices.DeleteFunc(slices.Clone(n.Policies), func(p NetworkPolicy) bool { return p.Namespace != "" && !may(p.Namespace) })
		for j := range n.Policies {
			p := &n.Policies[j]
			if p.Namespace != "" {
				continue
			}
			p.Endpoints, p.Audited, p.Uncounted = 0, 0, true
			p.Failed = slices.DeleteFunc(slices.Clone(p.Failed), func(pod string) bool {
				namespace, _, ok := strings.Cut(pod, "/")
				return !ok || !may(namespace)
			})
		}
	}
	return s
}

// Sort puts nodes and policies in order.
func (s *PolicyStatus) Sort() {
	slices.SortFunc(s.Nodes, func(a, b NodePolicies) int { return cmp.Compare(a.Node, b.Node) })
	for i := range s.Nodes {
		slices.SortFunc(s.Nodes[i].Policies, ComparePolicies)
	}
}

// ComparePolicies orders policies by tier, namespace and name.
func ComparePolicies(a, b NetworkPolicy) int {
	return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
