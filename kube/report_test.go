package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"warren/cluster"
	"warren/internal/testkit"
)

// patches are what agents write of policies, as a server takes it.
type patches struct {
	mu     sync.Mutex
	s      *server
	known  map[string]*policyv1alpha2.ClusterNetworkPolicy
	count  int
	refuse bool
	// managers are by which names it was written.
	managers []string
}

func (p *patches) put(o *policyv1alpha2.ClusterNetworkPolicy) {
	p.mu.Lock()
	p.known[o.Name] = o
	p.mu.Unlock()
	p.s.put(cnpPath, o.DeepCopy())
}

// condition is that of a policy, as it was written.
func (p *patches) condition(name string) *metav1.Condition {
	p.mu.Lock()
	defer p.mu.Unlock()
	return meta.FindStatusCondition(p.known[name].Status.Conditions, conditionAccepted)
}

func (p *patches) answer(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodPatch {
		return false
	}
	body, _ := io.ReadAll(r.Body)
	name := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, cnpPath+"/"), "/status")
	p.mu.Lock()
	p.count++
	p.managers = append(p.managers, r.URL.Query().Get("fieldManager"))
	o, refuse := p.known[name], p.refuse
	p.mu.Unlock()
	var patch policyv1alpha2.ClusterNetworkPolicy
	err := json.Unmarshal(body, &patch)
	if refuse || o == nil || err != nil || r.Header.Get("Content-Type") != "application/apply-patch+yaml" || r.URL.Query().Get("fieldManager") == "" || len(patch.Status.Conditions) != 1 {
		p.s.status(w, http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf("no: %s %v", body, err))
		return true
	}
	next := o.DeepCopy()
	meta.SetStatusCondition(&next.Status.Conditions, patch.Status.Conditions[0])
	p.put(next)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(next)
	return true
}

// TestReport has agents of five nodes, one of them away, tell in the status of
// policies how they are understood: each is told once.
func TestReport(t *testing.T) {
	s := newServer(t, nil)
	shop(s)
	p := &patches{s: s, known: make(map[string]*policyv1alpha2.ClusterNetworkPolicy)}
	s.respond(p.answer)
	for i := range 5 {
		s.put(nodePath, apiNode(fmt.Sprint("node-", i), fmt.Sprint("172.30.0.", i+1), fmt.Sprintf("10.244.%d.0/24", i)))
	}
	agent := func(node string) {
		t.Helper()
		st := cluster.NewState(cluster.Config{})
		c := s.client()
		r := newReporter(c, st, node, cnpPath, slog.New(slog.DiscardHandler))
		r.turn = 500 * time.Millisecond
		for _, one := range resources(st, Options{Policies: true, Enforce: true}) {
			if one.extension {
				r.reports(one)
			}
			if !one.extension && one.name != "nodes" {
				continue
			}
			st.Expect(one.name)
			w := &watcher{client: c, log: r.log, state: st}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); w.run(ctx, one) }()
			t.Cleanup(func() { cancel(); <-ended })
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); r.run(ctx) }()
		t.Cleanup(func() { cancel(); <-ended })
	}
	for i := range 4 {
		agent(fmt.Sprint("node-", i))
	}
	const policies = 6
	for i := range policies {
		p.put(apiClusterPolicy(fmt.Sprint("c", i), 1))
	}
	odd := apiClusterPolicy("odd", 1)
	odd.Spec.Ingress[0].From[0].Namespaces = nil
	odd.Status.Conditions = []metav1.Condition{{Type: "example.com/Other", Status: metav1.ConditionTrue, Reason: "Fine", LastTransitionTime: whole(time.Now())}}
	p.put(odd)
	testkit.Wait(t, "the conditions", func() bool {
		for i := range policies {
			if c := p.condition(fmt.Sprint("c", i)); c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != 1 {
				return false
			}
		}
		c := p.condition("odd")
		return c != nil && c.Status == metav1.ConditionFalse && c.Reason == "NotUnderstood" && strings.Contains(c.Message, "spec.ingress[0].from[0]: wants one of")
	})
	p.mu.Lock()
	count, others := p.count, len(p.known["odd"].Status.Conditions)
	p.mu.Unlock()
	if others != 2 {
		t.Error("another's condition is gone")
	}
	if count > 2*(policies+1) {
		t.Errorf("written %d times", count)
	}
	// Another version of a policy is told of again, a known one is not.
	p.mu.Lock()
	next := p.known["c0"].DeepCopy()
	p.mu.Unlock()
	next.Generation = 2
	p.put(next)
	testkit.Wait(t, "the next condition", func() bool { return p.condition("c0").ObservedGeneration == 2 })
}

// TestReportRefused may not write: it is said once, and tried again.
func TestReportRefused(t *testing.T) {
	s := newServer(t, nil)
	s.put(nodePath, apiNode("node-1", "172.30.0.1", "10.244.0.0/24"))
	p := &patches{s: s, known: make(map[string]*policyv1alpha2.ClusterNetworkPolicy), refuse: true}
	s.respond(p.answer)
	p.put(apiClusterPolicy("c", 1))
	p.put(apiClusterPolicy("d", 1))
	st, log := watching(t, s.client(), Options{Node: "node-1", Policies: true, Enforce: true, Report: true})
	testkit.Wait(t, "the cluster", st.Synced)
	testkit.Wait(t, "tries", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.count >= 2 })
	testkit.Wait(t, "the log", func() bool { return strings.Contains(log.String(), "the status of a policy cannot be written") })
	if n := strings.Count(log.String(), "cannot be written"); n != 1 {
		t.Errorf("said %d times", n)
	}
	if len(policiesOfState(st)) != 2 {
		t.Error("policies are not known because their status cannot be written")
	}
}
