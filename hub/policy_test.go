package hub

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/api"
	"warren/cluster"
)

// TestPolicy holds that who sees one namespace is told of its pods, of who talked
// to them and of its policies, and of nothing else; and that it is Kubernetes who
// says which node an agent reports for.
func TestPolicy(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	pod := func(ns, name string) api.PolicyPod { return api.PolicyPod{UID: name, Namespace: ns, Name: name} }
	talk := func(from, to string, port uint16) api.PolicyTalk {
		end := func(uid string) api.PolicyParty {
			return api.PolicyParty{Addr: netip.MustParseAddr("10.0.0.1"), Pod: uid}
		}
		return api.PolicyTalk{From: end(from), To: end(to), Protocol: 6, Port: port, SeenBy: api.SeenByClient, Count: 1}
	}
	one.policy = api.PolicyReport{Reporters: []string{"node-7"}, Source: api.TalkOfFlows, Pods: []api.PolicyPod{pod("shop", "cart"), pod("bank", "vault"), pod("bank", "teller")},
		Namespaces: map[string]map[string]string{"shop": {}, "bank": {}, "secret": {}}, Talk: []api.PolicyTalk{talk("cart", "vault", 1)},
		Policies: []*cluster.Policy{{UID: "1", Namespace: "shop", Name: "cart"}, {UID: "2", Namespace: "bank", Name: "vault"}, {UID: "3", Name: "all"}}}
	two.policy = api.PolicyReport{Source: api.TalkOfFlows, Pods: one.policy.Pods, Talk: []api.PolicyTalk{talk("teller", "vault", 2)}, Policies: one.policy.Policies, Namespaces: one.policy.Namespaces}
	f := newFixture(t, ca, Config{}, one, two)
	for _, test := range []struct {
		who                  shows
		pods, policies, talk []string
		namespaces           int
		partial              []string
	}{
		{admin, []string{"teller", "vault", "cart"}, []string{"all", "vault", "cart"}, []string{"cart vault", "teller vault"}, 3, nil},
		{bearer("shop-token"), []string{"vault", "cart"}, []string{"all", "cart"}, []string{"cart vault"}, 2, []string{"bank"}},
	} {
		code, body := f.get(test.who, "/v1/policy")
		var r api.PolicyReport
		if err := json.Unmarshal([]byte(body), &r); err != nil || code != http.StatusOK {
			t.Fatal(code, body, err)
		}
		var pods, policies, talk []string
		for _, p := range r.Pods {
			pods = append(pods, p.Name)
		}
		for _, p := range r.Policies {
			policies = append(policies, p.Name)
		}
		for _, t := range r.Talk {
			talk = append(talk, t.From.Pod+" "+t.To.Pod)
		}
		slices.Sort(talk)
		if !slices.Equal(pods, test.pods) || !slices.Equal(policies, test.policies) || !slices.Equal(talk, test.talk) || len(r.Namespaces) != test.namespaces || !slices.Equal(r.Partial, test.partial) {
			t.Errorf("told of pods %q, policies %q, talk %q, namespaces %v, partial %q", pods, policies, talk, r.Namespaces, r.Partial)
		}
		if r.Total != 2 || !slices.Equal(r.Reporters, []string{"node-1", "node-2"}) {
			t.Errorf("told by %q of %d", r.Reporters, r.Total)
		}
	}
	// One of them says what policies are about, of the namespaces of who talked,
	// too; another one where that one cannot.
	for _, a := range []*fakeAgent{one, two} {
		a.mu.Lock()
		a.policyAsked = nil
		a.mu.Unlock()
	}
	worlds := func() (list []string) {
		for _, a := range []*fakeAgent{one, two} {
			a.mu.Lock()
			for _, q := range a.policyAsked {
				if q.Part != api.PolicyTalks {
					list = append(list, a.node+" "+string(q.Part)+" "+strings.Join(q.Namespaces, ","))
				}
			}
			a.mu.Unlock()
		}
		return list
	}
	if code, _ := f.get(admin, "/v1/policy?namespace=shop"); code != http.StatusOK {
		t.Error(code)
	}
	if got := worlds(); !slices.Equal(got, []string{"node-1 world bank,shop"}) {
		t.Errorf("asked for the world: %q", got)
	}
	one.close()
	f.waitUp(one, false)
	for _, path := range []string{"/v1/policy?part=world&namespace=shop", "/v1/policy?part=talk", "/v1/policy"} {
		code, body := f.get(admin, path)
		var r api.PolicyReport
		if err := json.Unmarshal([]byte(body), &r); err != nil || code != http.StatusOK {
			t.Fatal(path, code, body, err)
		}
		wantMissing, wantPolicies, wantTalk := 1, 3, 1
		switch {
		case strings.Contains(path, "world"):
			wantMissing, wantTalk = 0, 0
		case strings.Contains(path, "talk"):
			wantPolicies = 0
		}
		if len(r.Missing) != wantMissing || len(r.Policies) != wantPolicies || len(r.Talk) != wantTalk {
			t.Errorf("%s: missing %q, %d policies, %d lines of talk", path, r.Missing, len(r.Policies), len(r.Talk))
		}
	}
	if code, body := f.get(bearer("nobody-token"), "/v1/policy"); code != http.StatusForbidden {
		t.Errorf("who may see nothing is told %d %s", code, body)
	}
}

// TestPolicyStatus holds that who sees one namespace is told where its policies
// are in force, and nothing of another's; and that a node that does not answer is
// named.
func TestPolicyStatus(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	one.inForce = func(api.PolicyStatusQuestion) api.NodePolicies {
		return api.NodePolicies{Node: "node-7", Mode: "routed", Policies: []api.NetworkPolicy{
			{UID: "1", Tier: "Admin", Name: "all", Endpoints: 5, Failed: []string{"bank/vault"}},
			{UID: "2", Tier: "Network", Namespace: "bank", Name: "vault"}, {UID: "3", Tier: "Network", Namespace: "shop", Name: "cart", Endpoints: 2},
		}}
	}
	f := newFixture(t, ca, Config{}, one, two)
	for _, test := range []struct {
		who  shows
		want []api.NetworkPolicy
	}{
		{admin, one.inForce(api.PolicyStatusQuestion{}).Policies},
		{bearer("shop-token"), []api.NetworkPolicy{{UID: "1", Tier: "Admin", Name: "all", Uncounted: true}, {UID: "3", Tier: "Network", Namespace: "shop", Name: "cart", Endpoints: 2}}},
	} {
		code, body := f.get(test.who, "/v1/policy/status?namespace=shop,bank")
		var s api.PolicyStatus
		if err := json.Unmarshal([]byte(body), &s); err != nil || code != http.StatusOK {
			t.Fatal(code, body, err)
		}
		if s.Total != 2 || len(s.Missing) != 1 || len(s.Nodes) != 1 || s.Nodes[0].Node != "node-1" {
			t.Fatalf("told %s", body)
		}
		if d := cmp.Diff(test.want, s.Nodes[0].Policies); d != "" {
			t.Error(d)
		}
	}
	if code, body := f.get(bearer("nobody-token"), "/v1/policy/status"); code != http.StatusForbidden {
		t.Errorf("who may see nothing is told %d %s", code, body)
	}
}
