package cluster_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"warren/cluster"
)

// TestSnapshot changes what policies are about, and what they are not: a snapshot
// shares what has not changed.
func TestSnapshot(t *testing.T) {
	s := cluster.NewState(cluster.Config{})
	pod := func(change func(*cluster.Pod)) {
		p := &cluster.Pod{UID: "p", Name: "web", Namespace: "shop", Node: "n1", Phase: "Running", Labels: map[string]string{"app": "web"}, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
		change(p)
		s.SetPod(p, noon)
	}
	as := func(*cluster.Pod) {}
	pod(as)
	s.SetNode(&cluster.Node{UID: "n", Name: "n1"}, noon)
	s.SetService(&cluster.Service{UID: "v", Namespace: "shop", Name: "web", Addrs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}}, noon)
	s.SetService(&cluster.Service{UID: "h", Namespace: "shop", Name: "headless"}, noon)
	s.SetNamespace("shop", map[string]string{"team": "blue"}, noon)
	s.SetPolicy(&cluster.Policy{UID: "a", Namespace: "shop", Name: "a", Generation: 1}, noon)
	s.SetSynced("pods")
	last := s.Snapshot(nil)
	if !last.Synced || len(last.Pods) != 1 || len(last.Nodes) != 1 || len(last.Services) != 1 || len(last.Policies) != 1 || last.Namespaces["shop"]["team"] != "blue" || last.Pods[0].NamespaceLabels["team"] != "blue" {
		t.Fatalf("%+v", last)
	}
	for _, test := range []struct {
		name   string
		change func()
		want   cluster.Versions // that go on
	}{
		{"nothing", func() {}, cluster.Versions{}},
		{"the same pod", func() { pod(as) }, cluster.Versions{}},
		{"a container of a pod", func() { pod(func(p *cluster.Pod) { p.Containers = []cluster.Container{{Name: "x", ID: "1"}} }) }, cluster.Versions{}},
		{"a label of a pod", func() { pod(func(p *cluster.Pod) { p.Labels["app"] = "db" }) }, cluster.Versions{Pods: 1}},
		{"an address of a pod", func() {
			pod(func(p *cluster.Pod) { p.Labels["app"], p.Addrs = "db", []netip.Addr{netip.MustParseAddr("10.0.0.2")} })
		}, cluster.Versions{Pods: 1}},
		{"a named port", func() {
			pod(func(p *cluster.Pod) {
				p.Labels["app"], p.Addrs = "db", []netip.Addr{netip.MustParseAddr("10.0.0.2")}
				p.Ports = []cluster.PodPort{{Name: "http", Protocol: "tcp", Port: 80}}
			})
		}, cluster.Versions{Pods: 1}},
		{"labels of a namespace", func() { s.SetNamespace("shop", map[string]string{"team": "red"}, noon) }, cluster.Versions{Pods: 1, Namespaces: 1}},
		{"the same labels", func() { s.SetNamespace("shop", map[string]string{"team": "red"}, noon) }, cluster.Versions{}},
		{"a namespace that goes", func() { s.DeleteNamespace("shop", noon) }, cluster.Versions{Namespaces: 1}},
		{"endpoints of a service", func() { s.SetEndpoints("shop", "web-1", "web", []cluster.Endpoint{{PodUID: "p"}}, noon) }, cluster.Versions{}},
		{"ports of a service", func() {
			s.SetService(&cluster.Service{UID: "v", Namespace: "shop", Name: "web", Addrs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Ports: []cluster.Port{{Port: 80, Protocol: "tcp"}}}, noon)
		}, cluster.Versions{}},
		{"an address of a service", func() {
			s.SetService(&cluster.Service{UID: "v", Namespace: "shop", Name: "web", Addrs: []netip.Addr{netip.MustParseAddr("10.96.0.2")}}, noon)
		}, cluster.Versions{Services: 1}},
		{"a service that goes", func() { s.DeleteService("v", noon) }, cluster.Versions{Services: 1}},
		{"a label of a node", func() { s.SetNode(&cluster.Node{UID: "n", Name: "n1", Labels: map[string]string{"a": "b"}}, noon) }, cluster.Versions{Nodes: 1}},
		{"the same policy", func() { s.SetPolicy(&cluster.Policy{UID: "a", Namespace: "shop", Name: "a", Generation: 1}, noon) }, cluster.Versions{}},
		{"another version of it", func() { s.SetPolicy(&cluster.Policy{UID: "a", Namespace: "shop", Name: "a", Generation: 2}, noon) }, cluster.Versions{Policies: 1}},
		{"one that tells no version", func() { s.SetPolicy(&cluster.Policy{UID: "b"}, noon) }, cluster.Versions{Policies: 1}},
		{"and again", func() { s.SetPolicy(&cluster.Policy{UID: "b"}, noon) }, cluster.Versions{Policies: 1}},
		{"a policy that goes", func() { s.DeletePolicy("a", noon) }, cluster.Versions{Policies: 1}},
		{"a policy that was gone", func() { s.DeletePolicy("a", noon) }, cluster.Versions{}},
		{"nobody's policy", func() { s.SetPolicy(&cluster.Policy{}, noon); s.SetPolicy(nil, noon) }, cluster.Versions{}},
		{"a pod that ends", func() { s.DeletePod("p", noon.Add(time.Minute)) }, cluster.Versions{Pods: 1}},
		{"a node that goes", func() { s.DeleteNode("n", noon) }, cluster.Versions{Nodes: 1}},
	} {
		test.change()
		now := s.Snapshot(last)
		got := cluster.Versions{
			Pods: now.Versions.Pods - last.Versions.Pods, Nodes: now.Versions.Nodes - last.Versions.Nodes, Services: now.Versions.Services - last.Versions.Services,
			Namespaces: now.Versions.Namespaces - last.Versions.Namespaces, Policies: now.Versions.Policies - last.Versions.Policies,
		}
		if got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
		if got.Pods == 0 && !slices.Equal(now.Pods, last.Pods) || got.Policies == 0 && !slices.Equal(now.Policies, last.Policies) {
			t.Errorf("%s: what did not change is not shared", test.name)
		}
		last = now
	}
	if len(last.Pods) != 0 || len(last.Nodes) != 0 || len(last.Services) != 0 || len(last.Namespaces) != 0 || len(last.Policies) != 1 {
		t.Errorf("%+v", last)
	}
}

// TestWatch has several wait for changes, beside each other.
func TestWatch(t *testing.T) {
	s := cluster.NewState(cluster.Config{})
	one, stopOne := s.Watch()
	two, stopTwo := s.Watch()
	signalled := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	for range 3 {
		s.SetPolicy(&cluster.Policy{UID: "p"}, noon) // each is a change, none waits
	}
	if !signalled(one) || !signalled(two) || !signalled(s.Changed()) {
		t.Error("somebody was not told")
	}
	if signalled(one) {
		t.Error("told twice")
	}
	stopOne()
	stopOne()
	s.SetPolicy(&cluster.Policy{UID: "p"}, noon)
	if signalled(one) || !signalled(two) {
		t.Error("who has gone is told, or who is there is not")
	}
	stopTwo()
}

// BenchmarkSnapshot is how long the lock is held for 20,000 pods of which one has
// changed, and of which none has.
func BenchmarkSnapshot(b *testing.B) {
	s := cluster.NewState(cluster.Config{})
	town(func(p *cluster.Pod) { s.SetPod(p, noon) }, s, 20_000)
	last := s.Snapshot(nil)
	for _, changes := range []bool{true, false} {
		b.Run(fmt.Sprint("changed ", changes), func(b *testing.B) {
			var spent time.Duration
			for i := range b.N {
				if changes {
					s.SetPod(&cluster.Pod{UID: "x", Name: "x", Namespace: "team-1", Phase: "Running", Labels: map[string]string{"n": fmt.Sprint(i)}}, noon)
				}
				began := time.Now()
				last = s.Snapshot(last)
				spent += time.Since(began)
			}
			b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "us/snapshot")
		})
	}
}
