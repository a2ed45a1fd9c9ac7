package agent

import (
	"context"
	"slices"
	"time"

	"warren/api"
	"warren/cluster"
	"warren/datapath"
	"warren/identity"
)

// A finder finds the host's ends of pods that another CNI plugin connects.
type finder interface {
	// Find returns them by the pods' uids, as far as they can be told.
	Find(pods []*cluster.Pod) (map[string]datapath.HostEnd, error)
}

// processFinder finds them by the pods' processes.
type processFinder struct{ who *identity.Identity }

// pidsOfPod is how many processes of a pod are asked for their namespace.
const pidsOfPod = 4

// Find implements finder.
func (f processFinder) Find(pods []*cluster.Pod) (map[string]datapath.HostEnd, error) {
	sightings := make(map[string]datapath.Sighting, len(pods))
	for _, p := range pods {
		sightings[p.UID] = datapath.Sighting{Addrs: p.Addrs}
	}
	for p := range f.who.Processes {
		if p.Container == nil || p.Container.Pod == nil || p.Exited != nil {
			continue
		}
		if s, ok := sightings[p.Container.Pod.UID]; ok && len(s.PIDs) < pidsOfPod {
			s.PIDs = append(s.PIDs, int(p.PID))
			sightings[p.Container.Pod.UID] = s
		}
	}
	return datapath.HostEnds(sightings)
}

// sees lets the network find the pods that another plugin connects.
func (n *network) sees(who *identity.Identity) {
	if n != nil && n.cfg.Mode == datapath.Chained {
		n.find, n.links = processFinder{who}, datapath.WatchDevices
	}
}

// watchDevices has devices looked at that are added, if pods are to be found by
// them; nil where nobody tells of them.
func (n *network) watchDevices(ctx context.Context) <-chan struct{} {
	if n.find == nil || n.links == nil {
		return nil
	}
	added, err := n.links(ctx)
	if err != nil {
		n.log.Warn("new pods are found later: nobody tells of their devices", "err", err)
		return nil
	}
	return added
}

// hunt looks for the pods that were not found yet, and says whether one was.
func (n *network) hunt() bool {
	if n.find == nil || n.seen == nil {
		return false // the first pass will
	}
	now := n.state.Snapshot(n.seen)
	before := n.count()
	// What fails is told by the next pass.
	_ = n.discover(now, false)
	return n.count() > before
}

// huntAnew looks for all of them as if it was the first time.
func (n *network) huntAnew() bool {
	n.hunts = 0
	for uid := range n.missed {
		n.missed[uid] = 0
	}
	return n.hunt()
}

func (n *network) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.endpoints)
}

// findLater has pods looked for again, later each time.
func (n *network) findLater() {
	wait := min(findSoonest<<min(n.hunts, 10), findAgain)
	n.hunts++
	n.again.Reset(wait)
}

// findSoonest is how soon is looked again for a pod that was not found, and each
// time later until it is findAgain; findTries is how often before that is left to
// the next look at all devices. It begins anew with each device that is added.
const (
	findSoonest = 10 * time.Millisecond
	findAgain   = time.Second
	findTries   = 20
)

// discover adds endpoints for the pods of this node that another plugin
// connects, and that it has not added itself. The cluster hears of a pod's
// address about a second after it has it: before that it is asked of the pod's
// device, as soon as there is a process behind it.
func (n *network) discover(now *cluster.Snapshot, looking bool) error {
	n.mu.Lock()
	known := make(map[string]bool, len(n.endpoints))
	for _, e := range n.endpoints {
		known[e.PodUID] = true
	}
	n.mu.Unlock()
	var missing []*cluster.Pod
	missed := make(map[string]int)
	for _, p := range now.Pods {
		if p.Node != n.node || p.HostNetwork || known[p.UID] {
			continue
		}
		if len(p.Addrs) == 0 {
			if n.hunts < findTries || looking {
				missing = append(missing, p)
			}
			continue
		}
		if tries := n.missed[p.UID]; tries < findTries || looking {
			missing = append(missing, p)
		}
		missed[p.UID] = n.missed[p.UID] + 1
	}
	n.missed = missed
	if len(missing) == 0 {
		return nil
	}
	found, err := n.find.Find(missing)
	again := false
	for _, p := range missing {
		end, ok := found[p.UID]
		addrs := p.Addrs
		if len(addrs) == 0 {
			addrs = end.Addrs
		}
		if !ok || len(addrs) == 0 {
			again = again || missed[p.UID] < findTries && n.hunts < findTries
			continue
		}
		e := &endpoint{found: true, pod: p, waits: "its turn", Endpoint: api.Endpoint{
			Attachment: api.Attachment{ContainerID: "pod-" + p.UID, Interface: "eth0"}, PodUID: p.UID, PodNamespace: p.Namespace, PodName: p.Name,
			HostInterface: end.Name, HostIndex: end.Ifindex, Addrs: slices.Clone(addrs), Chained: true,
		}}
		n.mu.Lock()
		n.endpoints[e.Attachment] = e
		n.mu.Unlock()
		delete(n.missed, p.UID)
	}
	if again {
		n.findLater()
	}
	return err
}

// unfound are how many pods of this node another plugin connects in a way that
// cannot be told, or not yet: policy is not in force for them.
func (n *network) unfound() int { return len(n.missed) }
