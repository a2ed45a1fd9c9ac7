package agent

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warren/cluster"
	"warren/datapath"
	"warren/netpol"
)

// fakeFinder finds what it is told.
type fakeFinder struct {
	mu   sync.Mutex
	ends map[string]datapath.HostEnd
}

func (f *fakeFinder) Find(pods []*cluster.Pod) (map[string]datapath.HostEnd, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := make(map[string]datapath.HostEnd)
	for _, p := range pods {
		if end, ok := f.ends[p.UID]; ok {
			found[p.UID] = end
		}
	}
	return found, nil
}

func (f *fakeFinder) put(uid string, end datapath.HostEnd) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends[uid] = end
}

// TestNetworkChained judges pods that another plugin connects: they are found,
// sooner or later, and go when their devices do; nobody but them is touched.
func TestNetworkChained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, datapath.Chained)
		f := &fakeFinder{ends: make(map[string]datapath.HostEnd)}
		l.net.find = f
		stop := l.run()
		l.cluster()
		l.state.SetPolicy(&cluster.Policy{UID: "p1", Namespace: "shop", Name: "none", Tier: cluster.NetworkTier, IsolatesIngress: true}, time.Now())
		l.device(7, "cali7")
		f.put("uid-db", datapath.HostEnd{Ifindex: 7, Name: "cali7"})
		l.pod("db", "n1", nil, "10.244.1.7")
		l.pod("far", "n2", nil, "10.244.2.7")
		l.pod("slow", "n1", nil, "10.244.1.8")
		l.pod("new", "n1", nil)
		time.Sleep(100 * time.Millisecond)
		s, _ := l.kernel.last()
		if len(s.Endpoints) != 1 || s.Endpoints[0].Ifindex != 7 || !s.Endpoints[0].Chained || s.Endpoints[0].Name != "shop/db" {
			t.Fatalf("endpoints %+v", s.Endpoints)
		}
		if got := l.verdict("10.244.2.7", "10.244.1.7", 80); got != netpol.Deny {
			t.Errorf("verdict %v", got)
		}
		if st := l.net.describe(); len(st.Problems) != 1 {
			t.Errorf("problems %q", st.Problems)
		}
		if len(l.runtime.ready) != 0 {
			t.Error("the runtime was told of a network that is another's")
		}
		// The one that was not found yet is, a second later.
		l.device(8, "cali8")
		f.put("uid-slow", datapath.HostEnd{Ifindex: 8, Name: "cali8"})
		time.Sleep(2 * findAgain)
		if s, _ := l.kernel.last(); len(s.Endpoints) != 2 {
			t.Errorf("endpoints %+v", s.Endpoints)
		}
		if st := l.net.describe(); len(st.Problems) != 0 {
			t.Errorf("problems %q", st.Problems)
		}
		// Its address goes to another pod at once.
		l.state.DeletePod("uid-slow", time.Now())
		l.device(8, "")
		l.device(9, "cali9")
		f.put("uid-next", datapath.HostEnd{Ifindex: 9, Name: "cali9"})
		l.pod("next", "n1", nil, "10.244.1.8")
		time.Sleep(100 * time.Millisecond)
		s, _ = l.kernel.last()
		if len(s.Endpoints) != 2 || s.Endpoints[1].Ifindex != 9 || s.Endpoints[1].PodUID != "uid-next" {
			t.Errorf("endpoints %+v", s.Endpoints)
		}
		stop()

		// The next agent has them before it finds any again.
		l.state = cluster.NewState(cluster.Config{})
		l.begin(datapath.Chained)
		l.net.find = &fakeFinder{}
		stop = l.run()
		l.cluster()
		time.Sleep(100 * time.Millisecond)
		if s, _ := l.kernel.last(); len(s.Endpoints) != 2 || s.Endpoints[0].Ifindex != 7 {
			t.Errorf("endpoints %+v", s.Endpoints)
		}
		stop()
	})
}

// TestNetworkChainedEarly judges a pod before the cluster knows its address: as soon
// as it has a device and a process behind it.
func TestNetworkChainedEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, datapath.Chained)
		f := &fakeFinder{ends: make(map[string]datapath.HostEnd)}
		links := make(chan struct{}, 1)
		told := false
		l.net.find, l.net.links = f, func(context.Context) (<-chan struct{}, error) {
			if told {
				return nil, errors.New("nobody tells any more")
			}
			told = true
			return links, nil
		}
		defer l.run()()
		l.cluster()
		l.state.SetPolicy(&cluster.Policy{UID: "p1", Namespace: "shop", Name: "none", Tier: cluster.NetworkTier, IsolatesIngress: true}, time.Now())
		l.pod("db", "n1", nil)
		time.Sleep(lookAgain)
		if s, _ := l.kernel.last(); len(s.Endpoints) != 0 || len(l.net.describe().Problems) != 0 {
			t.Errorf("endpoints %+v, problems %q", s.Endpoints, l.net.describe().Problems)
		}
		// Its device comes first, and then a process behind it.
		l.device(7, "cali7")
		links <- struct{}{}
		time.Sleep(200 * time.Millisecond)
		f.put("uid-db", datapath.HostEnd{Ifindex: 7, Name: "cali7", Addrs: []netip.Addr{netip.MustParseAddr("10.244.1.7")}})
		time.Sleep(200 * time.Millisecond)
		s, n := l.kernel.last()
		if len(s.Endpoints) != 1 || s.Endpoints[0].Ifindex != 7 || s.Endpoints[0].Addrs[0] != netip.MustParseAddr("10.244.1.7") || !s.Endpoints[0].Chained {
			t.Fatalf("endpoints %+v", s.Endpoints)
		}
		if got := l.verdict("10.244.2.7", "10.244.1.7", 80); got != netpol.Deny {
			t.Errorf("verdict %v", got)
		}
		// What the cluster hears of it later changes nothing.
		l.pod("db", "n1", nil, "10.244.1.7")
		time.Sleep(time.Second)
		if s, again := l.kernel.last(); len(s.Endpoints) != 1 || again == n {
			t.Errorf("endpoints %+v, %d changes", s.Endpoints, again-n)
		}
		// A device and its process at once: no more than a moment passes.
		l.pod("web", "n1", nil)
		time.Sleep(time.Second)
		l.device(8, "cali8")
		f.put("uid-web", datapath.HostEnd{Ifindex: 8, Name: "cali8", Addrs: []netip.Addr{netip.MustParseAddr("10.244.1.8")}})
		links <- struct{}{}
		time.Sleep(time.Millisecond)
		if s, _ := l.kernel.last(); len(s.Endpoints) != 2 {
			t.Errorf("endpoints %+v", s.Endpoints)
		}
		close(links)
		time.Sleep(time.Second)
	})
}

// TestNetworkChainedRemoval takes the network away where only what such an agent
// needs can be written: the plugin was never there.
func TestNetworkChainedRemoval(t *testing.T) {
	r := &cniRuntime{cfg: Config{Instance: "test", Network: NetworkConfig{CNIState: "/proc/nowhere/cni", CNIConf: "/proc/nowhere", CNIBin: "/proc/nowhere"}}}
	if err := r.remove(datapath.Chained.String()); err != nil {
		t.Error(err)
	}
	// Where a plugin was it is an error that it cannot be looked for.
	if err := r.remove(datapath.Routed.String()); err == nil {
		t.Error("nobody has looked for the plugin")
	}
}
