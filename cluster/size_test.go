package cluster_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"warren/cluster"
)

// town is a cluster as real ones are: 1,000 nodes, 20,000 pods with two
// addresses, of 1,000 deployments in 100 namespaces, each with a service.
func town(tell func(p *cluster.Pod), s *cluster.State, pods int) {
	for i := range 1000 {
		s.SetNode(&cluster.Node{UID: fmt.Sprintf("0d2f3c1e-0000-4000-8000-%012x", i), Name: fmt.Sprint("node-", i),
			Addrs:    []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})},
			PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}}, noon)
		namespace := fmt.Sprint("team-", i%100)
		s.SetService(&cluster.Service{UID: fmt.Sprintf("5e2f3c1e-0000-4000-8000-%012x", i), Namespace: namespace, Name: fmt.Sprint("app-", i),
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
			Ports: []cluster.Port{{Name: "http", Protocol: "tcp", Port: 80}}}, noon)
	}
	for i := range 100 {
		s.SetNamespace(fmt.Sprint("team-", i), map[string]string{"kubernetes.io/metadata.name": fmt.Sprint("team-", i), "team": fmt.Sprint(i)}, noon)
	}
	endpoints := make(map[int][]cluster.Endpoint)
	for i := range pods {
		app, node := i%1000, i/20%1000
		hash := fmt.Sprintf("%08x", app*7919)
		p := &cluster.Pod{
			UID:       fmt.Sprintf("9b2f3c1e-0000-4000-8000-%012x", i),
			Name:      fmt.Sprintf("app-%d-%s-%05x", app, hash, i),
			Namespace: fmt.Sprint("team-", app%100),
			Node:      fmt.Sprint("node-", node),
			Labels: map[string]string{
				"app.kubernetes.io/name": fmt.Sprint("app-", app), "app.kubernetes.io/instance": fmt.Sprint("app-", app, "-prod"),
				"app.kubernetes.io/version": "v1.2.3", "team": fmt.Sprint(app % 100), "pod-template-hash": hash,
			},
			Addrs: []netip.Addr{
				netip.AddrFrom4([4]byte{10, byte(node >> 8), byte(node), byte(2 + i%20)}),
				netip.AddrFrom16([16]byte{0xfd, 0, 0x10, 0, 0, 0, byte(node >> 8), byte(node), 14: 1, 15: byte(i % 20)}),
			},
			Controller:     cluster.Workload{Kind: "ReplicaSet", Name: fmt.Sprintf("app-%d-%s", app, hash)},
			ServiceAccount: fmt.Sprint("app-", app), Phase: "Running", Created: noon, Started: noon,
			Containers: []cluster.Container{
				{Name: "main", Image: fmt.Sprint("registry.example/team/app-", app, ":v1.2.3"), Kind: cluster.Main, ID: fmt.Sprintf("%064x", i*2)},
				{Name: "proxy", Image: "registry.example/mesh/proxy:v1.20.1", Kind: cluster.Sidecar, ID: fmt.Sprintf("%064x", i*2+1)},
			},
		}
		tell(p)
		endpoints[app] = append(endpoints[app], cluster.Endpoint{PodUID: p.UID, Addr: p.Addrs[0]})
	}
	for app, list := range endpoints {
		s.SetEndpoints(fmt.Sprint("team-", app%100), fmt.Sprint("app-", app, "-x1"), fmt.Sprint("app-", app), list, noon)
	}
	s.SetSynced("pods")
}

func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestBytesPerPod prints what a pod costs, and holds a limit.
func TestBytesPerPod(t *testing.T) {
	notRaced(t)
	const pods = 20_000
	for _, test := range []struct {
		name       string
		containers bool
		limit      int
	}{
		{"of another node", false, 1536},
		{"with its containers", true, 2048},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := heap()
			s := cluster.NewState(cluster.Config{})
			town(func(p *cluster.Pod) {
				if !test.containers {
					p.Containers = nil
				}
				s.SetPod(p, noon)
			}, s, pods)
			all := heap() - before
			t.Logf("%d bytes a pod: %.1f MiB for %d pods, 1,000 nodes, services and slices", all/pods, float64(all)/(1<<20), pods)
			if all/pods > test.limit {
				t.Errorf("%d bytes a pod, not %d", all/pods, test.limit)
			}
			// The past is bounded too: as many again have come and gone.
			town(func(p *cluster.Pod) {
				p.Containers = nil
				p.UID = "b" + p.UID[1:]
				s.SetPod(p, after(time.Minute))
				s.DeletePod(p.UID, after(2*time.Minute))
			}, s, pods)
			ended := heap() - before - all
			t.Logf("%d bytes an ended pod", ended/pods)
			if ended/pods > test.limit {
				t.Errorf("%d bytes an ended pod, not %d", ended/pods, test.limit)
			}
			runtime.KeepAlive(s)
		})
	}
}

func BenchmarkPeer(b *testing.B) {
	s := cluster.NewState(cluster.Config{})
	town(func(p *cluster.Pod) { s.SetPod(p, noon) }, s, 20_000)
	for _, test := range []struct {
		name string
		addr func(i int) netip.Addr
		port uint16
	}{
		{"pod", func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i & 1), byte(i), byte(2 + i%20)}) }, 8080},
		{"service", func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(i & 1), byte(i)}) }, 80},
		{"node", func(i int) netip.Addr { return netip.AddrFrom4([4]byte{172, 16, byte(i & 1), byte(i)}) }, 10250},
		{"world", func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}) }, 443},
	} {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			at := after(time.Second)
			i := 0
			for b.Loop() {
				s.Peer(test.addr(i), test.port, "tcp", at)
				i++
			}
		})
	}
}

func BenchmarkSetPod(b *testing.B) {
	s := cluster.NewState(cluster.Config{})
	var all []*cluster.Pod
	town(func(p *cluster.Pod) { all = append(all, p); s.SetPod(p, noon) }, s, 20_000)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		p := *all[i%len(all)]
		s.SetPod(&p, after(time.Second))
		i++
	}
}

// TestReadersAllocateNothing holds what the road of every event relies on.
func TestReadersAllocateNothing(t *testing.T) {
	s := cluster.NewState(cluster.Config{})
	town(func(p *cluster.Pod) { s.SetPod(p, noon) }, s, 100)
	p := s.PodByName("team-1", "app-1-00001eef-00001")
	if p == nil {
		t.Fatal("no such pod")
	}
	at := after(time.Second)
	for name, read := range map[string]func(){
		"Peer":       func() { s.Peer(p.Addrs[0], 80, "tcp", at) },
		"Pod":        func() { s.Pod(p.UID) },
		"PodByName":  func() { s.PodByName(p.Namespace, p.Name) },
		"ServicesOf": func() { s.ServicesOf(p) },
		"Synced":     func() { s.Synced() },
	} {
		if n := testing.AllocsPerRun(100, read); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
	if got := who(s.Peer(p.Addrs[1], 80, "tcp", at)); got != "pod "+p.UID {
		t.Errorf("%s is %s", p.Addrs[1], got)
	}
	if got := s.ServicesOf(p); len(got) != 1 || got[0].Name != "app-1" {
		t.Errorf("services: %v", got)
	}
}

// notRaced skips a test of memory under the race detector, whose own is more
// than what is measured.
func notRaced(t *testing.T) {
	t.Helper()
	info, _ := debug.ReadBuildInfo()
	if info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("memory is measured without the race detector")
	}
}
