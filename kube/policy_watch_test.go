package kube

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"warren/cluster"
	"warren/internal/testkit"
)

func apiNetworkPolicy(name string, generation int64) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("np-" + name), Generation: generation},
		Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}},
	}
}

func apiClusterPolicy(name string, priority int32) *policyv1alpha2.ClusterNetworkPolicy {
	return &policyv1alpha2.ClusterNetworkPolicy{
		TypeMeta:   metav1.TypeMeta{Kind: "ClusterNetworkPolicy", APIVersion: "policy.networking.k8s.io/v1alpha2"},
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("cnp-" + name), Generation: int64(priority)},
		Spec: policyv1alpha2.ClusterNetworkPolicySpec{Tier: policyv1alpha2.AdminTier, Priority: priority,
			Subject: policyv1alpha2.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}},
			Ingress: []policyv1alpha2.ClusterNetworkPolicyIngressRule{{Action: "Deny", From: []policyv1alpha2.ClusterNetworkPolicyIngressPeer{{Namespaces: &metav1.LabelSelector{}}}}},
		},
	}
}

// policiesOfState are the names of what is known, with what tells versions apart.
func policiesOfState(st *cluster.State) (list []string) {
	for p := range st.Policies {
		list = append(list, p.Tier.String()+" "+p.Name+strings.Repeat("'", int(p.Generation)))
	}
	slices.Sort(list)
	return list
}

// extension answers in a server's place for a cluster that has the definition of
// ClusterNetworkPolicies, or has it not.
func extension(s *server, installed *bool) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		s.mu.Lock()
		there := *installed
		s.mu.Unlock()
		switch {
		case r.URL.Path == "/apis":
			list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
			versions := []string{"apps/v1"}
			if there {
				versions = append(versions, policyVersion.String())
			}
			for _, v := range versions {
				list.Groups = append(list.Groups, metav1.APIGroup{Name: strings.Split(v, "/")[0], Versions: []metav1.GroupVersionForDiscovery{{GroupVersion: v}}})
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(&list)
			return true
		case r.URL.Path == cnpPath && !there:
			http.NotFound(w, r) // in plain text, as API servers do
			return true
		}
		return false
	}
}

// TestWatchPolicies has policies of both kinds told in each way, and changed.
func TestWatchPolicies(t *testing.T) {
	for _, streams := range []bool{true, false} {
		s := newServer(t, func(s *server) { s.streams = streams })
		web, _ := shop(s)
		web.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
		s.put(podPath, web)
		s.put(netpolPath, apiNetworkPolicy("a", 1))
		s.put(cnpPath, apiClusterPolicy("c", 1))
		st, _ := watching(t, s.client(), Options{Policies: true, Enforce: true})
		testkit.Wait(t, "the cluster", st.Synced)
		if got, want := policiesOfState(st), []string{"Admin c'", "Network a'"}; !slices.Equal(got, want) {
			t.Errorf("streams %v: %q, want %q", streams, got, want)
		}
		if got := named(st, "web-5d4f-x").Ports; len(got) != 1 || got[0] != (cluster.PodPort{Name: "http", Protocol: "tcp", Port: 8080}) {
			t.Errorf("named ports %+v", got)
		}
		s.put(netpolPath, apiNetworkPolicy("b", 1))
		s.put(cnpPath, apiClusterPolicy("c", 2))
		s.remove(netpolPath, apiNetworkPolicy("a", 1))
		want := []string{"Admin c''", "Network b'"}
		testkit.Wait(t, "the changes", func() bool { return slices.Equal(policiesOfState(st), want) })
	}
}

// TestWatchExtension watches a cluster that has no ClusterNetworkPolicies, gets
// them, and loses them. Who cannot be trusted to know takes none away.
func TestWatchExtension(t *testing.T) {
	s := newServer(t, nil)
	shop(s)
	installed := false
	s.respond(extension(s, &installed))
	install := func(yes bool) {
		s.mu.Lock()
		installed = yes
		s.mu.Unlock()
		s.cut()
	}
	s.put(cnpPath, apiClusterPolicy("c", 1))
	c := s.client()
	st, log := watching(t, c, Options{Policies: true, Enforce: true})
	testkit.Wait(t, "the cluster", st.Synced)
	if got := policiesOfState(st); len(got) != 0 {
		t.Errorf("%q", got)
	}
	testkit.Wait(t, "the reason", func() bool {
		return strings.Contains(c.Stats().Resources["clusternetworkpolicies"].LastError, "not installed")
	})
	if n := strings.Count(log.String(), "cannot be watched"); n != 0 {
		t.Errorf("an extension that is not there is told of: %s", log.String())
	}
	install(true)
	testkit.Wait(t, "the policy", func() bool { return len(policiesOfState(st)) == 1 })

	// Somebody in the server's place finds nothing at all.
	s.respond(func(w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true })
	s.compact()
	s.cut()
	tries := c.Stats().Resources["clusternetworkpolicies"].Requests
	testkit.Wait(t, "tries", func() bool { return c.Stats().Resources["clusternetworkpolicies"].Requests > tries+3 })
	if len(policiesOfState(st)) != 1 {
		t.Error("a policy is gone because somebody knows nothing")
	}
	s.respond(extension(s, &installed))
	install(false)
	testkit.Wait(t, "no policy", func() bool { return len(policiesOfState(st)) == 0 })
}

// TestWatchPoliciesForbidden watches without the right to see policies: who only
// explains them goes on without, who enforces them does not begin.
func TestWatchPoliciesForbidden(t *testing.T) {
	for _, enforce := range []bool{false, true} {
		s := newServer(t, nil)
		shop(s)
		s.respond(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == netpolPath || r.URL.Path == cnpPath {
				s.status(w, http.StatusForbidden, metav1.StatusReasonForbidden, "forbidden")
				return true
			}
			return false
		})
		c := s.client()
		st, log := watching(t, c, Options{Policies: true, Enforce: enforce})
		testkit.Wait(t, "the pods", func() bool { return named(st, "web-5d4f-x").UID != "" && peer(st, "10.96.0.10") == "service web" })
		testkit.Wait(t, "tries", func() bool {
			return c.Stats().Resources["networkpolicies"].Failures > 5 && c.Stats().Resources["clusternetworkpolicies"].Failures > 5
		})
		if !enforce {
			testkit.Wait(t, "the cluster", st.Synced)
		}
		if got := st.Synced(); got == enforce {
			t.Errorf("enforce %v: synced %v", enforce, got)
		}
		if told := strings.Count(log.String(), "cannot be watched"); (told > 0) != enforce {
			t.Errorf("enforce %v: said %d times: %s", enforce, told, log.String())
		}
	}
}
