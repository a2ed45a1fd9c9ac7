package cluster_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/cluster"
)

// noon is when the tests' clusters begin.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return noon.Add(d) }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// running is a pod that runs since a time.
func running(uid, name string, since time.Time, addrs ...string) *cluster.Pod {
	p := &cluster.Pod{UID: uid, Name: name, Namespace: "shop", Node: "node-1", Phase: "Running", Created: since, Started: since}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, addr(a))
	}
	return p
}

// who is what a Peer says, in a word.
func who(p cluster.Peer, ok bool) string {
	switch {
	case !ok:
		return "unknown"
	case p.Pod != nil:
		return "pod " + p.Pod.UID
	case p.Service != nil:
		return "service " + p.Service.Name
	case p.Node != nil:
		return "node " + p.Node.Name
	}
	return string(p.Kind)
}

func TestAddressAtATime(t *testing.T) {
	hour := time.Hour
	type asked struct {
		at   time.Duration
		want string
	}
	never := time.Duration(-1)
	for _, test := range []struct {
		name string
		tell func(s *cluster.State)
		asks []asked
	}{
		{
			name: "two pods an hour apart",
			tell: func(s *cluster.State) {
				s.SetPod(running("a", "web-a", after(0), "10.244.0.7"), after(time.Second))
				s.DeletePod("a", after(10*time.Minute))
				s.SetPod(running("b", "web-b", after(hour), "10.244.0.7"), after(hour+time.Second))
			},
			asks: []asked{
				{-time.Minute, "unknown"}, {0, "pod a"}, {9 * time.Minute, "pod a"}, {30 * time.Minute, "unknown"},
				{hour, "pod b"}, {2 * hour, "pod b"}, {never, "pod b"},
			},
		},
		{
			name: "it begins when it started, not when the watch told",
			tell: func(s *cluster.State) {
				s.SetPod(running("a", "web-a", after(0), "10.244.0.7"), after(5*hour))
			},
			asks: []asked{{time.Second, "pod a"}, {-time.Second, "unknown"}},
		},
		{
			name: "it ends when it ended, not when it was deleted",
			tell: func(s *cluster.State) {
				s.SetPod(running("a", "job-a", after(0), "10.244.0.7"), after(0))
				done := running("a", "job-a", after(0), "10.244.0.7")
				done.Phase, done.Ended = "Succeeded", after(time.Minute)
				s.SetPod(done, after(2*time.Minute))
				s.SetPod(running("b", "web-b", after(90*time.Second), "10.244.0.7"), after(3*time.Minute))
				s.DeletePod("a", after(hour))
			},
			asks: []asked{{30 * time.Second, "pod a"}, {80 * time.Second, "unknown"}, {95 * time.Second, "pod b"}, {2 * hour, "pod b"}},
		},
		{
			name: "a list tells a finished pod after the one that has its address now",
			tell: func(s *cluster.State) {
				s.SetPod(running("b", "web-b", after(hour), "10.244.0.7"), after(90*time.Minute))
				done := running("a", "job-a", after(30*time.Minute), "10.244.0.7")
				done.Phase, done.Ended = "Succeeded", after(40*time.Minute)
				s.SetPod(done, after(90*time.Minute))
			},
			asks: []asked{{35 * time.Minute, "pod a"}, {50 * time.Minute, "unknown"}, {70 * time.Minute, "pod b"}, {never, "pod b"}},
		},
		{
			name: "the end of the first is told after the second has begun",
			tell: func(s *cluster.State) {
				s.SetPod(running("a", "web-a", after(0), "10.244.0.7"), after(0))
				s.SetPod(running("b", "web-b", after(hour), "10.244.0.7"), after(hour))
				s.DeletePod("a", after(hour+time.Minute))
			},
			asks: []asked{{59 * time.Minute, "pod a"}, {hour, "pod b"}, {hour + 2*time.Minute, "pod b"}, {never, "pod b"}},
		},
		{
			name: "a pod that waited gets what another has had until then",
			tell: func(s *cluster.State) {
				s.SetPod(running("a", "web-a", after(time.Minute), "10.244.0.7"), after(time.Minute))
				s.SetPod(running("b", "web-b", after(0)), after(time.Minute))
				s.DeletePod("a", after(hour))
				s.SetPod(running("b", "web-b", after(0), "10.244.0.7"), after(hour+time.Minute))
			},
			asks: []asked{{30 * time.Minute, "pod a"}, {hour + time.Second, "pod b"}, {never, "pod b"}},
		},
		{
			name: "a pod that started and ended while the server was away, in the place of one not told to be gone",
			tell: func(s *cluster.State) {
				s.SetPod(running("a", "web-a", after(0), "10.244.0.7"), after(0))
				done := running("b", "job-b", after(10*time.Minute), "10.244.0.7")
				done.Phase, done.Ended = "Failed", after(11*time.Minute)
				s.SetPod(done, after(hour))
				s.DeletePod("a", after(hour))
			},
			asks: []asked{{5 * time.Minute, "pod a"}, {10*time.Minute + 30*time.Second, "pod b"}, {never, "unknown"}},
		},
		{
			name: "a node's clock is three minutes ahead",
			tell: func(s *cluster.State) {
				p := running("a", "web-a", after(0), "10.244.0.7")
				p.Started = after(3 * time.Minute)
				s.SetPod(p, after(time.Second))
				done := running("a", "web-a", after(0), "10.244.0.7")
				done.Started = after(3 * time.Minute)
				done.Phase, done.Ended = "Succeeded", after(8*time.Minute)
				s.SetPod(done, after(5*time.Minute))
			},
			asks: []asked{{0, "pod a"}, {4 * time.Minute, "pod a"}, {6 * time.Minute, "unknown"}},
		},
		{
			name: "a node's clock is three minutes behind",
			tell: func(s *cluster.State) {
				p := running("a", "web-a", after(0), "10.244.0.7")
				p.Started = after(-3 * time.Minute)
				s.SetPod(p, after(time.Second))
				alive := *p
				s.SetPod(&alive, after(2*time.Minute))
				done := running("a", "web-a", after(0), "10.244.0.7")
				done.Phase, done.Ended = "Succeeded", after(-time.Minute)
				s.SetPod(done, after(3*time.Minute))
			},
			asks: []asked{{-time.Minute, "unknown"}, {time.Second, "pod a"}, {time.Minute, "pod a"}},
		},
		{
			name: "a pod gets another address",
			tell: func(s *cluster.State) {
				s.SetPod(running("a", "web-a", after(0), "10.244.0.7"), after(0))
				s.SetPod(running("a", "web-a", after(0), "10.244.0.8"), after(hour))
				s.SetPod(running("b", "web-b", after(hour), "10.244.0.7"), after(2*hour))
			},
			asks: []asked{{time.Minute, "pod a"}, {hour + time.Minute, "pod b"}, {never, "pod b"}},
		},
		{
			name: "an end without addresses frees them at the end",
			tell: func(s *cluster.State) {
				s.SetPod(running("a", "web-a", after(0), "10.244.0.7"), after(0))
				done := running("a", "web-a", after(0))
				done.Phase, done.Ended = "Failed", after(time.Minute)
				s.SetPod(done, after(hour))
			},
			asks: []asked{{30 * time.Second, "pod a"}, {2 * time.Minute, "unknown"}},
		},
		{
			name: "told gone by mistake",
			tell: func(s *cluster.State) {
				s.SetPod(running("a", "web-a", after(0), "10.244.0.7"), after(0))
				s.DeletePod("a", after(time.Minute))
				s.SetPod(running("a", "web-a", after(0), "10.244.0.7"), after(2*time.Minute))
			},
			asks: []asked{{30 * time.Second, "pod a"}, {3 * time.Minute, "pod a"}, {never, "pod a"}},
		},
		{
			name: "two say that they have it, and the one that is believed ends",
			tell: func(s *cluster.State) {
				s.SetPod(running("a", "web-a", after(0), "10.244.0.7"), after(hour))
				s.SetPod(running("b", "web-b", after(0), "10.244.0.7"), after(hour))
				s.DeletePod("a", after(2*hour))
			},
			asks: []asked{{hour, "pod a"}, {3 * hour, "pod b"}, {never, "pod b"}},
		},
		{
			name: "the last packets of a pod come after its end",
			tell: func(s *cluster.State) {
				s.SetPod(running("a", "web-a", after(0), "10.244.0.7"), after(0))
				s.DeletePod("a", after(time.Minute))
			},
			asks: []asked{{time.Minute + time.Second, "pod a"}, {time.Minute + 3*time.Second, "unknown"}, {never, "unknown"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := cluster.NewState(cluster.Config{Remember: 24 * time.Hour})
			s.SetSynced("pods")
			test.tell(s)
			for _, ask := range test.asks {
				at := after(ask.at)
				if ask.at == never {
					at = time.Time{}
				}
				if got := who(s.Peer(addr("10.244.0.7"), 80, "tcp", at)); got != ask.want {
					t.Errorf("after %v: %s, want %s", ask.at, got, ask.want)
				}
			}
		})
	}
}

// TestPeer asks for every kind of address that a cluster has.
func TestPeer(t *testing.T) {
	s := cluster.NewState(cluster.Config{})
	s.SetNode(&cluster.Node{UID: "n1", Name: "node-1", Addrs: []netip.Addr{addr("172.30.0.11"), addr("fd00::11")},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:10::/64")}}, noon)
	s.SetPod(running("a", "web", noon, "10.244.0.7", "fd00:10::7"), noon)
	host := running("h", "agent", noon, "172.30.0.11")
	host.HostNetwork = true
	s.SetPod(host, noon)
	s.SetService(&cluster.Service{UID: "s1", Namespace: "shop", Name: "web", Created: noon,
		Addrs: []netip.Addr{addr("10.96.0.10"), addr("192.0.2.1")},
		Ports: []cluster.Port{{Protocol: "tcp", Port: 80, NodePort: 30080}}}, noon)
	s.SetService(&cluster.Service{UID: "s2", Namespace: "shop", Name: "dns", Created: noon,
		Addrs: []netip.Addr{addr("10.96.0.53"), addr("192.0.2.1"), addr("172.30.0.11")},
		Ports: []cluster.Port{{Protocol: "udp", Port: 53}, {Protocol: "tcp", Port: 53}}}, noon)

	if got := who(s.Peer(addr("198.51.100.1"), 443, "tcp", noon)); got != "unknown" {
		t.Errorf("before the cluster was told, an address of the world is %s", got)
	}
	s.Expect("pods")
	s.Expect("nodes")
	s.SetSynced("pods")
	if s.Synced() {
		t.Error("synced without the nodes")
	}
	s.SetSynced("nodes")

	for _, test := range []struct {
		addr  string
		port  uint16
		proto string
		want  string
	}{
		{"10.244.0.7", 80, "tcp", "pod a"},
		{"::ffff:10.244.0.7", 80, "tcp", "pod a"},
		{"fd00:10::7", 80, "tcp", "pod a"},
		{"172.30.0.11", 10250, "tcp", "node node-1"},
		{"172.30.0.11", 30080, "tcp", "service web"},
		{"172.30.0.11", 30080, "udp", "node node-1"},
		{"172.30.0.11", 53, "udp", "service dns"}, // an external address of a service
		{"fd00::11", 30080, "tcp", "service web"},
		{"10.96.0.10", 80, "tcp", "service web"},
		{"10.96.0.10", 81, "tcp", "service web"}, // a port that it does not have
		{"192.0.2.1", 80, "tcp", "service web"},  // one address, two services
		{"192.0.2.1", 53, "udp", "service dns"},
		{"10.244.0.1", 22, "tcp", "node node-1"},      // its own end of the pods' network
		{"10.244.0.99", 80, "tcp", "unknown"},         // a pod that nobody has told
		{"fd00:10::99", 80, "tcp", "unknown"},         //
		{"198.51.100.1", 443, "tcp", "world"},         //
		{"2001:db8::1", 443, "tcp", "world"},          //
		{"fe80::1%eth0", 443, "tcp", "world"},         //
		{"127.0.0.1", 80, "tcp", "unknown"},           //
		{"::1", 80, "tcp", "unknown"},                 //
		{"::ffff:127.0.0.1", 80, "tcp", "unknown"},    //
		{"0.0.0.0", 0, "udp", "unknown"},              //
		{"172.30.0.11", 30080, "quic", "node node-1"}, // no such transport
	} {
		if got := who(s.Peer(addr(test.addr), test.port, test.proto, noon.Add(time.Second))); got != test.want {
			t.Errorf("%s port %d %s: %s, want %s", test.addr, test.port, test.proto, got, test.want)
		}
	}
	if got := who(s.Peer(netip.Addr{}, 0, "", noon)); got != "unknown" {
		t.Errorf("no address: %s", got)
	}
}

// TestServiceAtATime has a cluster address, a port and a node port that go from
// one service to another.
func TestServiceAtATime(t *testing.T) {
	s := cluster.NewState(cluster.Config{Remember: 24 * time.Hour})
	s.SetSynced("services")
	s.SetNode(&cluster.Node{UID: "n1", Name: "node-1", Created: noon, Addrs: []netip.Addr{addr("172.30.0.11")}}, noon)
	tell := func(uid string, at time.Time, port, nodePort uint16) {
		s.SetService(&cluster.Service{UID: uid, Namespace: "shop", Name: uid, Created: at, Addrs: []netip.Addr{addr("10.96.0.10")},
			Ports: []cluster.Port{{Protocol: "tcp", Port: port, NodePort: nodePort}}}, at)
	}
	tell("first", noon, 80, 30080)
	tell("first", after(time.Hour), 81, 30081)
	s.DeleteService("first", after(2*time.Hour))
	tell("second", after(3*time.Hour), 80, 30080)
	for _, test := range []struct {
		at   time.Duration
		addr string
		port uint16
		want string
	}{
		{time.Minute, "10.96.0.10", 80, "service first"},
		{time.Minute, "172.30.0.11", 30080, "service first"},
		{90 * time.Minute, "172.30.0.11", 30080, "node node-1"},
		{90 * time.Minute, "172.30.0.11", 30081, "service first"},
		{150 * time.Minute, "10.96.0.10", 80, "unknown"},
		{4 * time.Hour, "10.96.0.10", 80, "service second"},
		{4 * time.Hour, "172.30.0.11", 30080, "service second"},
		{4 * time.Hour, "172.30.0.11", 30081, "node node-1"},
	} {
		if got := who(s.Peer(addr(test.addr), test.port, "tcp", after(test.at))); got != test.want {
			t.Errorf("%s:%d after %v: %s, want %s", test.addr, test.port, test.at, got, test.want)
		}
	}
	s.DeleteNode("n1", after(5*time.Hour))
	if got := who(s.Peer(addr("172.30.0.11"), 22, "tcp", after(6*time.Hour))); got != "unknown" {
		t.Errorf("a node that is gone: %s", got)
	}
}

// TestPodIsFound asks for pods by every name that they have.
func TestPodIsFound(t *testing.T) {
	s := cluster.NewState(cluster.Config{})
	static := running("mirror", "etcd-node-1", noon)
	static.StaticUID = "0123456789abcdef"
	s.SetPod(static, noon)
	for _, uid := range []string{"mirror", "0123456789abcdef"} {
		if p := s.Pod(uid); p == nil || p.UID != "mirror" {
			t.Errorf("pod %s: %v", uid, p)
		}
	}
	s.SetPod(running("db-0.a", "db-0", noon), noon)
	s.DeletePod("db-0.a", after(time.Minute))
	if p := s.PodByName("shop", "db-0"); p == nil || p.UID != "db-0.a" || !p.Ended.Equal(after(time.Minute)) {
		t.Errorf("the pod that was: %+v", p)
	}
	s.SetPod(running("db-0.b", "db-0", after(time.Minute)), after(time.Minute))
	if p := s.PodByName("shop", "db-0"); p == nil || p.UID != "db-0.b" {
		t.Errorf("the pod that is: %+v", p)
	}
	// The end of the first, once more, changes nothing.
	late := running("db-0.a", "db-0", noon)
	late.Phase = "Failed"
	s.SetPod(late, after(2*time.Minute))
	if p := s.PodByName("shop", "db-0"); p == nil || p.UID != "db-0.b" {
		t.Errorf("after news of the first: %+v", p)
	}
	if s.Pod("nobody") != nil || s.PodByName("shop", "nobody") != nil || s.Pod("") != nil {
		t.Error("a pod that nobody told")
	}
	var uids []string
	s.Pods(func(p *cluster.Pod) bool { uids = append(uids, p.UID); return true })
	slices.Sort(uids)
	if diff := cmp.Diff([]string{"db-0.b", "mirror"}, uids); diff != "" {
		t.Error(diff)
	}
}

func TestWorkload(t *testing.T) {
	s := cluster.NewState(cluster.Config{})
	tell := func(uid string, controller cluster.Workload, labels map[string]string) {
		p := running(uid, uid+"-pod", noon)
		p.Controller, p.Labels = controller, labels
		s.SetPod(p, noon)
	}
	s.SetOwner("shop", cluster.Workload{Kind: "Job", Name: "nightly-1"}, cluster.Workload{Kind: "CronJob", Name: "nightly"}, noon)
	tell("deployed", cluster.Workload{Kind: "ReplicaSet", Name: "web-5d4f"}, map[string]string{"pod-template-hash": "5d4f"})
	tell("rollout", cluster.Workload{Kind: "ReplicaSet", Name: "api-77"}, map[string]string{"rollouts-pod-template-hash": "77"})
	tell("bare-set", cluster.Workload{Kind: "ReplicaSet", Name: "web-5d4f"}, map[string]string{"pod-template-hash": "other"})
	tell("cron", cluster.Workload{Kind: "Job", Name: "nightly-1"}, nil)
	tell("job", cluster.Workload{Kind: "Job", Name: "once"}, nil)
	tell("late", cluster.Workload{Kind: "Job", Name: "nightly-2"}, nil)
	tell("stateful", cluster.Workload{Kind: "StatefulSet", Name: "db"}, nil)
	tell("static", cluster.Workload{Kind: "Node", Name: "node-1"}, nil)
	tell("alone", cluster.Workload{}, nil)
	s.SetOwner("shop", cluster.Workload{Kind: "Job", Name: "nightly-2"}, cluster.Workload{Kind: "CronJob", Name: "nightly"}, noon)
	s.SetOwner("shop", cluster.Workload{Kind: "ReplicaSet", Name: "api-77"}, cluster.Workload{Kind: "Rollout", Name: "api"}, noon)
	s.DeleteOwner("shop", cluster.Workload{Kind: "Job", Name: "nightly-1"}, noon)
	tell("cron", cluster.Workload{Kind: "Job", Name: "nightly-1"}, map[string]string{"told": "again"})
	for uid, want := range map[string][3]string{ // workload, replica set, job
		"deployed": {"Deployment/web", "web-5d4f", ""},
		"rollout":  {"Rollout/api", "api-77", ""},
		"bare-set": {"ReplicaSet/web-5d4f", "web-5d4f", ""},
		"cron":     {"CronJob/nightly", "", "nightly-1"},
		"job":      {"Job/once", "", "once"},
		"late":     {"CronJob/nightly", "", "nightly-2"},
		"stateful": {"StatefulSet/db", "", ""},
		"static":   {"Node/node-1", "", ""},
		"alone":    {"Pod/alone-pod", "", ""},
	} {
		p := s.Pod(uid)
		if got := [3]string{p.Workload.Kind + "/" + p.Workload.Name, p.ReplicaSet, p.Job}; got != want {
			t.Errorf("%s: %v, want %v", uid, got, want)
		}
	}
}

func TestNamespaceLabels(t *testing.T) {
	s := cluster.NewState(cluster.Config{})
	s.SetPod(running("before", "a", noon), noon)
	s.SetPod(running("ended", "b", noon), noon)
	s.SetNamespace("shop", map[string]string{"team": "blue"}, noon)
	s.SetPod(running("after", "c", noon), noon)
	s.DeletePod("ended", noon)
	was := s.Pod("before")
	if was.NamespaceLabels["team"] != "blue" || s.Pod("after").NamespaceLabels["team"] != "blue" {
		t.Errorf("labels of the namespace: %v, %v", was.NamespaceLabels, s.Pod("after").NamespaceLabels)
	}
	s.SetNamespace("shop", map[string]string{"team": "red"}, noon)
	if got := s.Pod("before").NamespaceLabels["team"]; got != "red" {
		t.Errorf("team %s after the change", got)
	}
	if was.NamespaceLabels["team"] != "blue" || s.Pod("ended").NamespaceLabels["team"] != "blue" {
		t.Error("what was handed out, or has ended, changed")
	}
	s.SetNamespace("empty", nil, noon)
	if diff := cmp.Diff([]string{"empty", "shop"}, s.Namespaces()); diff != "" {
		t.Error(diff)
	}
	s.DeleteNamespace("shop", noon)
	s.DeleteNamespace("never", noon)
	if diff := cmp.Diff([]string{"empty"}, s.Namespaces()); diff != "" {
		t.Error(diff)
	}
	if got := s.Pod("before").NamespaceLabels["team"]; got != "red" {
		t.Errorf("a pod of a namespace that is gone has team %q", got)
	}
	again := running("before", "a", noon)
	again.Phase = "Succeeded"
	s.SetPod(again, noon)
	if p := s.Pod("before"); p.Phase != "Succeeded" || p.NamespaceLabels["team"] != "red" {
		t.Errorf("told again, it is %s of team %q", p.Phase, p.NamespaceLabels["team"])
	}
}

func TestServicesOf(t *testing.T) {
	s := cluster.NewState(cluster.Config{})
	service := func(uid string) *cluster.Service {
		return &cluster.Service{UID: uid, Namespace: "shop", Name: uid}
	}
	names := func(uid string) string {
		var names []string
		for _, v := range s.ServicesOf(s.Pod(uid)) {
			names = append(names, v.Name)
		}
		return strings.Join(names, " ")
	}
	check := func(when string, want map[string]string) {
		t.Helper()
		for uid, want := range want {
			if got := names(uid); got != want {
				t.Errorf("%s: services of %s: %q, want %q", when, uid, got, want)
			}
		}
	}
	// The slice, the service and the pods are told in every order.
	s.SetEndpoints("shop", "web-1", "web", []cluster.Endpoint{{PodUID: "a", Addr: addr("10.244.0.7")}, {Addr: addr("10.244.0.8")}, {PodUID: "host"}}, noon)
	s.SetPod(running("a", "a", noon, "10.244.0.7"), noon)
	check("no service yet", map[string]string{"a": ""})
	s.SetService(service("web"), noon)
	s.SetPod(running("b", "b", noon, "10.244.0.8"), noon)
	host := running("host", "host", noon, "172.30.0.11")
	host.HostNetwork = true
	s.SetPod(host, noon)
	other := running("otherhost", "otherhost", noon, "172.30.0.11")
	other.HostNetwork = true
	s.SetPod(other, noon)
	s.SetService(service("all"), noon)
	s.SetEndpoints("shop", "all-1", "all", []cluster.Endpoint{{PodUID: "a"}, {PodUID: "a", Addr: addr("fd00::7")}}, noon)
	check("all told", map[string]string{"a": "all web", "b": "web", "host": "web", "otherhost": ""})

	s.SetEndpoints("shop", "web-1", "web", []cluster.Endpoint{{PodUID: "b"}}, noon)
	check("two are out", map[string]string{"a": "all", "b": "web", "host": ""})
	s.SetEndpoints("shop", "web-1", "all", []cluster.Endpoint{{PodUID: "b"}}, noon)
	check("a slice of another service", map[string]string{"b": "all"})
	s.DeletePod("b", noon)
	s.DeleteEndpoints("shop", "web-1", noon)
	check("an ended pod keeps its last", map[string]string{"b": "all"})
	s.DeleteService("all", noon)
	check("no service any more", map[string]string{"a": ""})
	s.SetService(service("all"), noon)
	check("it is back", map[string]string{"a": "all"})
	s.DeleteEndpoints("shop", "all-1", noon)
	check("no slice any more", map[string]string{"a": ""})
	if got := s.Stats().EndpointSlices; got != 0 {
		t.Errorf("%d slices are left", got)
	}
	if s.ServicesOf(nil) != nil || s.ServicesOf(running("nobody", "x", noon)) != nil {
		t.Error("services of nobody")
	}
}

// TestForgotten holds the bounds of the past: its age and its number.
func TestForgotten(t *testing.T) {
	s := cluster.NewState(cluster.Config{Remember: time.Hour, MaxEnded: 10})
	for i := range 20 {
		uid := fmt.Sprint("pod-", i)
		s.SetPod(running(uid, uid, noon, fmt.Sprint("10.244.0.", i), fmt.Sprintf("fd00::%x", i+1)), noon)
		s.DeletePod(uid, after(time.Minute))
	}
	if got, want := s.Stats(), (cluster.Stats{EndedPods: 10, Addresses: 20, ForgottenPods: 10, ForgottenAddresses: 20}); got != want {
		t.Errorf("too many: %+v, want %+v", got, want)
	}
	if s.Pod("pod-9") != nil || s.Pod("pod-10") == nil {
		t.Error("not the oldest were forgotten")
	}
	// What comes back in between is not forgotten with its end.
	s.SetPod(running("pod-19", "pod-19", noon, "10.244.0.19"), after(2*time.Minute))
	s.SetNode(&cluster.Node{UID: "n", Name: "n", Addrs: []netip.Addr{addr("172.30.0.1")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")}}, noon)
	s.SetService(&cluster.Service{UID: "v", Namespace: "shop", Name: "v", Addrs: []netip.Addr{addr("10.96.0.1")}, Ports: []cluster.Port{{Port: 1, NodePort: 2, Protocol: "tcp"}}}, noon)
	s.DeleteNode("n", after(3*time.Minute))
	s.DeleteService("v", after(3*time.Minute))
	s.SetNamespace("tick", nil, after(2*time.Hour))
	if got, want := s.Stats(), (cluster.Stats{Pods: 1, Namespaces: 1, Addresses: 1, ForgottenPods: 19, ForgottenAddresses: 41}); got != want {
		t.Errorf("too old: %+v, want %+v", got, want)
	}
	if got := who(s.Peer(addr("10.244.0.19"), 0, "", time.Time{})); got != "pod pod-19" {
		t.Errorf("the one that came back: %s", got)
	}
	// One that ended twice at one time is forgotten once, and the others of its
	// namespace are still known to be in it.
	at := after(2 * time.Hour)
	for _, uid := range []string{"stays", "twice"} {
		s.SetPod(running(uid, uid, at), at)
	}
	s.DeletePod("twice", at)
	s.SetPod(running("twice", "twice", at), at)
	s.DeletePod("twice", at)
	s.SetNamespace("tick", map[string]string{"a": "b"}, at.Add(2*time.Hour))
	s.SetNamespace("shop", map[string]string{"team": "blue"}, at.Add(2*time.Hour))
	if s.Pod("twice") != nil || s.Pod("stays").NamespaceLabels["team"] != "blue" {
		t.Errorf("%v is known, and the other has labels %v", s.Pod("twice"), s.Pod("stays").NamespaceLabels)
	}
	// What has ended long ago is not even taken.
	old := running("old", "old", noon, "10.244.0.50")
	old.Phase, old.Ended = "Succeeded", noon
	s.SetPod(old, after(3*time.Hour))
	if s.Pod("old") != nil {
		t.Error("a pod that ended hours ago was taken")
	}
}

// TestGarbage tells what no API server would let through.
func TestGarbage(t *testing.T) {
	s := cluster.NewState(cluster.Config{})
	huge := strings.Repeat("x", 1<<20)
	labels := map[string]string{"\x1b[31m": "\xff\xfe", huge: huge, "ok": "yes"}
	for i := range 1000 {
		labels[fmt.Sprintf("zz-%04d", i)] = "v"
	}
	p := running("uid\x00", huge, time.Time{}, "10.244.0.7", "10.244.0.7", "127.0.0.1", "0.0.0.0")
	p.Labels, p.Phase, p.Created = labels, "\u202eevil", time.Unix(1<<60, 0)
	for range 1000 {
		p.Containers = append(p.Containers, cluster.Container{Name: huge, ID: huge, Image: huge, Kind: cluster.ContainerKind(huge)})
	}
	for i := range 1000 {
		p.Addrs = append(p.Addrs, netip.AddrFrom4([4]byte{10, 245, byte(i >> 8), byte(i)}))
	}
	s.SetPod(p, noon)
	s.SetPod(nil, noon)
	s.SetPod(&cluster.Pod{Name: "no uid"}, noon)
	s.SetService(nil, noon)
	s.SetService(&cluster.Service{}, noon)
	s.SetNode(nil, noon)
	s.SetNode(&cluster.Node{UID: "n", Name: "n", PodCIDRs: []netip.Prefix{{}, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}, noon)
	s.SetEndpoints("shop", "x", "y", []cluster.Endpoint{{}}, noon)
	s.SetPod(running("ancient", "a", time.Date(-5000, 1, 1, 0, 0, 0, 0, time.UTC), "10.1.1.1"), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))
	s.SetSynced("pods")

	got := s.Pod("uid\ufffd")
	if got == nil {
		t.Fatal("not found by its clean uid")
	}
	size := len(got.Name) + len(got.Phase)
	for k, v := range got.Labels {
		size += len(k) + len(v)
	}
	for _, c := range got.Containers {
		size += len(c.Name) + len(c.ID) + len(c.Image) + len(c.Kind)
	}
	if size > 1<<20 || len(got.Labels) > 256 || len(got.Containers) > 256 || len(got.Addrs) > 64 {
		t.Errorf("%d bytes, %d labels, %d containers, %d addresses", size, len(got.Labels), len(got.Containers), len(got.Addrs))
	}
	if got.Labels["\ufffd[31m"] != "\ufffd\ufffd" || got.Labels["ok"] != "yes" || got.Phase != "\ufffdevil" {
		t.Errorf("labels %.100q, phase %q", got.Labels, got.Phase)
	}
	if s.Stats().Trimmed == 0 {
		t.Error("nothing was counted")
	}
	if got := who(s.Peer(addr("198.51.100.1"), 1, "tcp", time.Time{})); got != "world" {
		t.Errorf("a node has given its pods every address: %s", got)
	}
}

func TestChanged(t *testing.T) {
	s := cluster.NewState(cluster.Config{})
	signalled := func() bool {
		select {
		case <-s.Changed():
			return true
		default:
			return false
		}
	}
	if signalled() {
		t.Error("signalled before anything was told")
	}
	s.SetPod(running("a", "a", noon), noon)
	s.SetPod(running("b", "b", noon), noon)
	if !signalled() || signalled() {
		t.Error("two changes are one signal")
	}
	s.SetPod(running("a", "a", noon), after(time.Minute))
	if signalled() {
		t.Error("signalled that a pod is as it was")
	}
	next := running("a", "a", noon)
	next.Labels = map[string]string{"version": "2"}
	s.SetPod(next, after(time.Minute))
	if !signalled() || s.Pod("a").Labels["version"] != "2" {
		t.Error("another label is nothing new")
	}
	node := func() *cluster.Node {
		return &cluster.Node{UID: "n", Name: "n", Addrs: []netip.Addr{addr("172.30.0.11")}}
	}
	s.SetNode(node(), noon)
	signalled()
	s.SetNode(node(), after(time.Minute))
	if signalled() {
		t.Error("signalled that a node is as it was")
	}
	s.SetEndpoints("shop", "s", "v", []cluster.Endpoint{{PodUID: "a"}}, noon)
	signalled()
	s.SetEndpoints("shop", "s", "v", []cluster.Endpoint{{PodUID: "a"}}, noon)
	if signalled() {
		t.Error("signalled that nothing changed")
	}
}
