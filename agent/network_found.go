package agent

import "warren/cluster"

// A finder finds the host's ends of pods that another CNI plugin connects.
type finder interface {
	// Find returns, by uid, the devices of pods as far as they can be told.
	Find(pods []*cluster.Pod) (map[string]foundDevice, error)
}

// foundDevice is the host's end of a pod.
type foundDevice struct {
	Index int
	Name  string
}

// discover adds endpoints for the pods of this node that another plugin connects.
func (n *network) discover(now *cluster.Snapshot, looking bool) {
}
