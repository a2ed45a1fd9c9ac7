package kube

import (
	"context"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"warren/internal/testkit"
)

// TestProgrammed has a hub see policies and tell where they are in force, beside
// what agents have told.
func TestProgrammed(t *testing.T) {
	s := newServer(t, nil)
	p := &patches{s: s, known: make(map[string]*policyv1alpha2.ClusterNetworkPolicy)}
	s.respond(p.answer)
	tier := apiClusterPolicy("tier", 2)
	tier.Status.Conditions = []metav1.Condition{{Type: conditionAccepted, Status: metav1.ConditionFalse, Reason: "NotUnderstood", ObservedGeneration: 2, LastTransitionTime: whole(time.Now())}}
	p.put(tier)
	c := s.client()
	var mu sync.Mutex
	var seen []ClusterPolicy
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- c.WatchClusterPolicies(ctx, func(list []ClusterPolicy) {
			mu.Lock()
			defer mu.Unlock()
			seen = list
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	now := func() ClusterPolicy {
		mu.Lock()
		defer mu.Unlock()
		if len(seen) != 1 {
			return ClusterPolicy{}
		}
		return seen[0]
	}
	testkit.Wait(t, "the policy", func() bool { return now().Name == "tier" })
	if got := now(); got.UID != string(tier.UID) || got.Generation != 2 || !got.NotUnderstood || got.Programmed != (Programmed{}) {
		t.Errorf("seen %+v", got)
	}
	want := Programmed{Status: "False", Reason: "PartlyProgrammed", Message: "In force on 1 of 2 nodes.", Generation: 2, Since: time.Now().Add(-time.Hour).Truncate(time.Second)}
	if err := c.TellProgrammed(t.Context(), now(), want); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the condition", func() bool { return now().Programmed.Status != "" })
	got := now().Programmed
	if !got.Since.Equal(want.Since) {
		t.Errorf("since %v, want %v", got.Since, want.Since)
	}
	if got.Since = want.Since; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if meta.FindStatusCondition(p.known["tier"].Status.Conditions, conditionAccepted) == nil {
		t.Error("the agents' condition is gone")
	}
	for _, manager := range p.managers {
		if manager != "warren-hub" {
			t.Errorf("written by %q: what agents have applied would be taken from them", manager)
		}
	}
}
