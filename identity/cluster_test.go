package identity

import (
	"net/netip"
	"sync"
	"time"

	"warren/cluster"
)

// fakeCluster is a cluster that tests make up. An address stands for what it was
// given last, from the time it was given.
type fakeCluster struct {
	mu       sync.Mutex
	pods     map[string]*cluster.Pod
	services map[string][]*cluster.Service // by uid of the pod
	peers    map[netip.Addr][]fakePeer
	asked    int // how often for a peer
	ports    []uint16
	changed  chan struct{}
}

type fakePeer struct {
	from time.Time
	peer cluster.Peer
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{
		pods: map[string]*cluster.Pod{}, services: map[string][]*cluster.Service{}, peers: map[netip.Addr][]fakePeer{},
		changed: make(chan struct{}, 1),
	}
}

// set makes a pod what the cluster knows by uid; nil forgets it.
func (f *fakeCluster) set(uid string, p *cluster.Pod, services ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pods[uid], f.services[uid] = p, nil
	for _, name := range services {
		f.services[uid] = append(f.services[uid], &cluster.Service{Name: name})
	}
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *fakeCluster) give(addr string, from time.Time, p cluster.Peer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := netip.MustParseAddr(addr)
	f.peers[a] = append(f.peers[a], fakePeer{from, p})
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *fakeCluster) Pod(uid string) *cluster.Pod {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pods[uid]
}

func (f *fakeCluster) ServicesOf(p *cluster.Pod) []*cluster.Service {
	f.mu.Lock()
	defer f.mu.Unlock()
	for uid, known := range f.pods {
		if known == p {
			return f.services[uid]
		}
	}
	return nil
}

func (f *fakeCluster) Peer(addr netip.Addr, port uint16, _ string, at time.Time) (cluster.Peer, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	f.ports = append(f.ports, port)
	spans := f.peers[addr]
	for n := len(spans) - 1; n >= 0; n-- {
		if !spans[n].from.After(at) {
			return spans[n].peer, true
		}
	}
	return cluster.Peer{}, false
}

func (f *fakeCluster) Changed() <-chan struct{} { return f.changed }

var (
	_ Cluster = (*fakeCluster)(nil)
	_ Cluster = (*cluster.State)(nil)
)
