package agent

import (
	"net/netip"
	"os/exec"
	"sync"
	"testing"
	"time"

	"warren/cluster"
	"warren/datapath"
	"warren/internal/testkit"
)

// pidFinder finds pods by processes that it is told.
type pidFinder struct {
	mu   sync.Mutex
	pids map[string]int // by uid
}

func (f *pidFinder) Find(pods []*cluster.Pod) (map[string]datapath.HostEnd, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sightings := make(map[string]datapath.Sighting)
	for _, p := range pods {
		s := datapath.Sighting{Addrs: p.Addrs}
		if pid := f.pids[p.UID]; pid != 0 {
			s.PIDs = []int{pid}
		}
		sightings[p.UID] = s
	}
	return datapath.HostEnds(sightings)
}

// TestBPFChainedNewPod has another plugin connect a pod whose address the cluster
// does not know: it is judged as soon as it has a process.
func TestBPFChainedNewPod(t *testing.T) {
	w := newWire(t)
	w.cfg.Network.Mode = datapath.Chained
	finder := &pidFinder{pids: make(map[string]int)}
	w.find = finder
	defer w.begin()()
	w.state.SetPolicy(&cluster.Policy{UID: "p1", Namespace: "shop", Name: "none", Tier: cluster.NetworkTier, IsolatesIngress: true, Generation: 1}, time.Now())
	w.tell("db")
	testkit.Wait(t, "the network", func() bool { return w.net.describe().InForce })

	w.plug("db", "10.244.1.5", 5)
	plugged := time.Now()
	sleep := exec.Command("sleep", "300")
	w.do(w.pods["db"].ns, sleep.Start)
	t.Cleanup(func() {
		_ = sleep.Process.Kill()
		_ = sleep.Wait()
	})
	finder.mu.Lock()
	finder.pids["uid-db"] = sleep.Process.Pid
	finder.mu.Unlock()
	testkit.Wait(t, "the pod is judged", func() bool {
		st := w.net.describe()
		return len(st.Endpoints) == 1 && st.Endpoints[0].InForce && st.Endpoints[0].Hook != ""
	})
	t.Logf("judged %v after its device was made, and the cluster knows no address of it", time.Since(plugged))
	if got := w.net.describe().Endpoints[0]; len(got.Addresses) != 1 || got.Addresses[0] != "10.244.1.5" {
		t.Errorf("endpoint %+v", got)
	}
	if !w.net.Served(netip.MustParseAddr("10.244.1.5")) {
		t.Error("it is nobody's")
	}
	// From elsewhere: the node itself may always ask its pods.
	w.plug("web", "10.244.1.6", 6)
	w.serve("db", 80)
	if w.reaches("web", "10.244.1.5:80") {
		t.Error("a pod that is denied everything is reached")
	}
}
