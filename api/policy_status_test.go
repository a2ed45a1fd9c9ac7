package api

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// statusOfPolicies is what a node says that has policies of all kinds.
func statusOfPolicies(PolicyStatusQuestion) NodePolicies {
	return NodePolicies{Node: "node-1", Mode: "routed", Waiting: "x", Error: "pod bank/vault: no room", Applied: flowTime, Policies: []NetworkPolicy{
		{UID: "1", Tier: "Admin", Name: "all", Generation: 2, InForce: 2, Endpoints: 7, Audited: 1, Failed: []string{"bank/vault", "shop/cart"}},
		{UID: "2", Tier: "Network", Namespace: "bank", Name: "vault", Generation: 1, InForce: 1, Endpoints: 1},
		{UID: "3", Tier: "Network", Namespace: "shop", Name: "cart", Generation: 3, InForce: 2, Endpoints: 1, Failed: []string{"shop/cart"}, Problems: []string{"spec"}},
	}}
}

// TestPolicyStatusRoute holds that a question and its answer arrive as they were.
func TestPolicyStatusRoute(t *testing.T) {
	want := PolicyStatus{Total: 2, Missing: []string{"node-2: away"}, Nodes: []NodePolicies{statusOfPolicies(PolicyStatusQuestion{})}}
	asked := PolicyStatusQuestion{Namespaces: []string{"shop", "bank"}, Nodes: []string{"node-1"}, Cluster: true}
	srv := httptest.NewServer(NewMux([]Route{PolicyStatusRoute(func(_ context.Context, q PolicyStatusQuestion) (PolicyStatus, error) {
		if d := cmp.Diff(asked, q); d != "" {
			t.Error(d)
		}
		return want, nil
	})}, slog.New(slog.DiscardHandler)))
	defer srv.Close()
	base, err := url.Parse(srv.URL + "/v1")
	if err != nil {
		t.Fatal(err)
	}
	got, err := NewHTTPClient(base, srv.Client().Transport).PolicyStatus(t.Context(), asked)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	resp, err := srv.Client().Get(srv.URL + "/v1/policy/status?scope=shop")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("another scope: %s", resp.Status)
	}
}

// TestPolicyStatusRestrict holds that who sees one namespace is told nothing of
// pods and policies of another, nor how many there are.
func TestPolicyStatusRestrict(t *testing.T) {
	whole := PolicyStatus{Nodes: []NodePolicies{statusOfPolicies(PolicyStatusQuestion{})}}
	want := statusOfPolicies(PolicyStatusQuestion{})
	want.Error = "the network is not as it should be"
	want.Policies = []NetworkPolicy{want.Policies[0], want.Policies[2]}
	all := &want.Policies[0]
	all.Endpoints, all.Audited, all.Failed, all.Uncounted = 0, 0, []string{"shop/cart"}, true
	got := whole.Restrict(func(ns string) bool { return ns == "shop" })
	if d := cmp.Diff([]NodePolicies{want}, got.Nodes); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(statusOfPolicies(PolicyStatusQuestion{}), whole.Nodes[0]); d != "" {
		t.Error("the whole has changed: " + d)
	}
}
