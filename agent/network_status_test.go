package agent

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/api"
	"warren/cluster"
	"warren/datapath"
)

// TestNetworkPolicyStatus holds what the status says of policies: those without
// a rule are there too, the version is the one in force, and pods are counted by
// whether it is enforced, only told, or not in force.
func TestNetworkPolicyStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, datapath.Routed)
		defer l.run()()
		l.cluster()
		l.state.SetNamespace("lab", map[string]string{auditLabel: auditValue}, time.Now())
		policy := func(ns, name string, tier cluster.PolicyTier, generation int64, labels map[string]string) {
			l.state.SetPolicy(&cluster.Policy{UID: "uid-" + name, Namespace: ns, Name: name, Tier: tier, Generation: generation, IsolatesIngress: true,
				Subject: cluster.PolicySubject{Pods: cluster.Selector{Equal: labels}}}, time.Now())
		}
		policy("shop", "default-deny", cluster.NetworkTier, 1, nil)
		policy("shop", "elsewhere", cluster.NetworkTier, 1, map[string]string{"app": "nobody"})
		policy("lab", "audited", cluster.NetworkTier, 4, nil)
		policy("", "tier", cluster.AdminTier, 2, map[string]string{"app": "nobody"})
		l.kernel.refuse[8] = errors.New("no room")
		for i, name := range []string{"good", "bad", "guinea-pig"} {
			e := l.endpoint(name, 7+i, "10.244.1."+string(rune('7'+i)))
			if name == "guinea-pig" {
				e.PodNamespace = "lab"
				l.state.SetPod(&cluster.Pod{UID: e.PodUID, Name: name, Namespace: "lab", Node: "n1", Phase: "Running", Created: time.Now()}, time.Now())
			} else {
				l.pod(name, "n1", nil)
			}
			if err := l.net.AddEndpoint(t.Context(), e); (err != nil) != (name == "bad") {
				t.Fatal(name, err)
			}
			if name == "bad" { // the plugin takes it away; one that was there before does not
				l.net.mu.Lock()
				l.net.endpoints[e.Attachment] = &endpoint{Endpoint: e}
				l.net.mu.Unlock()
				l.net.wake()
			}
		}
		synctest.Wait()
		time.Sleep(time.Second)
		want := []api.NetworkPolicy{
			{UID: "uid-tier", Tier: "Admin", Name: "tier", Generation: 2, InForce: 2},
			{UID: "uid-audited", Tier: "Network", Namespace: "lab", Name: "audited", Generation: 4, InForce: 4, Endpoints: 1, Audited: 1},
			{UID: "uid-default-deny", Tier: "Network", Namespace: "shop", Name: "default-deny", Generation: 1, InForce: 1, Endpoints: 1, Failed: []string{"shop/bad"}},
		}
		if d := cmp.Diff(want, l.net.describe().Policies); d != "" {
			t.Error(d)
		}
		names := func(q api.PolicyStatusQuestion) (list []string) {
			for _, p := range l.net.policyStatus(q).Policies {
				list = append(list, p.Name)
			}
			return list
		}
		for _, test := range []struct {
			q    api.PolicyStatusQuestion
			want []string
		}{
			{api.PolicyStatusQuestion{}, []string{"tier", "audited", "default-deny"}},
			{api.PolicyStatusQuestion{Namespaces: []string{"shop"}}, []string{"tier", "default-deny", "elsewhere"}},
			{api.PolicyStatusQuestion{Cluster: true}, []string{"tier"}},
		} {
			if got := names(test.q); !slices.Equal(got, test.want) {
				t.Errorf("%+v: %q, want %q", test.q, got, test.want)
			}
		}
		if off := (*network)(nil).policyStatus(api.PolicyStatusQuestion{}); off.Mode != api.ModeOff {
			t.Errorf("without a network: %+v", off)
		}

		// What cannot be put in force is not said to be.
		l.kernel.fail(errors.New("the kernel says no"))
		policy("shop", "default-deny", cluster.NetworkTier, 2, nil)
		policy("shop", "another", cluster.NetworkTier, 1, nil)
		time.Sleep(time.Second)
		want[2].Generation = 2
		want = slices.Insert(want, 2, api.NetworkPolicy{UID: "uid-another", Tier: "Network", Namespace: "shop", Name: "another", Generation: 1})
		if d := cmp.Diff(want, l.net.describe().Policies); d != "" {
			t.Error(d)
		}
		if st := l.net.policyStatus(api.PolicyStatusQuestion{Cluster: true}); !strings.Contains(st.Error, "the kernel says no") {
			t.Errorf("error %q", st.Error)
		}
	})
}

// TestNetworkTellsRuntime holds that who adds pods is told what is new, at once,
// and looked after each half minute: not with each change of the cluster.
func TestNetworkTellsRuntime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, datapath.Routed)
		defer l.run()()
		l.cluster()
		told := func() int {
			synctest.Wait()
			l.runtime.mu.Lock()
			defer l.runtime.mu.Unlock()
			return len(l.runtime.ready)
		}
		time.Sleep(time.Second)
		begin := told()
		for range 20 {
			l.pod("web", "n2", map[string]string{"at": time.Now().String()}, "10.244.2.9")
			time.Sleep(time.Second)
		}
		if _, applied := l.kernel.last(); applied < 20 {
			t.Fatalf("%d changes applied", applied)
		}
		if n := told(); begin == 0 || n != begin {
			t.Errorf("told %d times, then %d", begin, n)
		}
		time.Sleep(lookAgain)
		if n := told(); n != begin+1 {
			t.Errorf("looked at %d times in half a minute", n-begin)
		}
		node := *nodeNamed(l.state.Snapshot(nil).Nodes, "n1")
		node.PodCIDRs = append(slices.Clone(node.PodCIDRs), netip.MustParsePrefix("fd00:1::/64"))
		l.state.SetNode(&node, time.Now())
		time.Sleep(time.Second)
		if n := told(); n != begin+2 {
			t.Errorf("told %d times of another network", n-begin-1)
		}
	})
}
