package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"warren/api"
	"warren/cluster"
)

// endpoint is a pod of this node, where it is connected.
type endpoint struct {
	api.Endpoint
	// pod is the last that is known of it, nil while nothing is. Only run's
	// goroutine changes it.
	pod *cluster.Pod
	// found is one that another plugin connects.
	found bool

	// The network's lock is held over what follows.
	inForce bool
	hook    string        // how it is attached
	failed  error         // why it is not
	waits   string        // what it waits for
	done    chan struct{} // closed when it is in force, or has failed; nil where nobody waits
}

// addTime is how long a pod waits to be known and its policy in force.
const addTime = 10 * time.Second

var _ api.Endpoints = (*network)(nil)

// AddEndpoint implements [api.Endpoints].
func (n *network) AddEndpoint(ctx context.Context, added api.Endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, addTime)
	defer cancel()
	added.Addrs = slices.Clone(added.Addrs)
	done := make(chan struct{})
	e := &endpoint{Endpoint: added, done: done, waits: "its turn"}
	n.mu.Lock()
	known := n.endpoints[added.Attachment]
	if known != nil && known.inForce && !known.found && same(known.Endpoint, added) {
		n.mu.Unlock()
		return nil
	}
	if known != nil && known.pod != nil && known.PodUID == added.PodUID && known.PodName == added.PodName && known.PodNamespace == added.PodNamespace {
		e.pod = known.pod
	}
	n.endpoints[added.Attachment] = e
	n.mu.Unlock()
	n.wake()
	select {
	case <-done:
	case <-ctx.Done():
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	if e.inForce {
		return nil
	}
	// Who asked takes the pair away, and asks again with another.
	if n.endpoints[added.Attachment] == e {
		delete(n.endpoints, added.Attachment)
		n.wake()
	}
	pod := added.PodNamespace + "/" + added.PodName
	switch {
	case e.failed != nil:
		return api.Unavailable("pod %s cannot be connected: %v", pod, e.failed)
	case n.progress.waiting != "":
		return api.Unavailable("pod %s: the agent waits for %s", pod, n.progress.waiting)
	case n.progress.err != nil:
		return api.Unavailable("pod %s waits for %s; the network is not as it should be: %v", pod, e.waits, n.progress.err)
	}
	return api.Unavailable("pod %s waits for %s", pod, e.waits)
}

// same is true for endpoints that are the same to the kernel.
func same(a, b api.Endpoint) bool {
	return a.Attachment == b.Attachment && a.PodUID == b.PodUID && a.PodNamespace == b.PodNamespace && a.PodName == b.PodName &&
		a.HostInterface == b.HostInterface && a.HostIndex == b.HostIndex && a.MAC == b.MAC && a.HostMAC == b.HostMAC &&
		a.Chained == b.Chained && slices.Equal(a.Addrs, b.Addrs)
}

// DeleteEndpoint implements [api.Endpoints].
func (n *network) DeleteEndpoint(_ context.Context, a api.Attachment) error {
	n.mu.Lock()
	e := n.endpoints[a]
	delete(n.endpoints, a)
	n.mu.Unlock()
	if e != nil {
		n.wake()
	}
	return nil
}

// CheckEndpoint implements [api.Endpoints].
func (n *network) CheckEndpoint(_ context.Context, a api.Attachment) (api.Endpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.endpoints[a]
	switch {
	case e == nil:
		return api.Endpoint{}, api.NotFound("there is no endpoint %s", a)
	case e.failed != nil:
		return api.Endpoint{}, api.NotFound("endpoint %s is not in force: %v", a, e.failed)
	case !e.inForce:
		return api.Endpoint{}, api.NotFound("endpoint %s is not in force: it waits for %s", a, e.waits)
	}
	return e.Endpoint, nil
}

// ListEndpoints implements [api.Endpoints].
func (n *network) ListEndpoints(context.Context) ([]api.Endpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch p := &n.progress; {
	case p.waiting != "":
		return nil, api.Unavailable("no pod can be added yet: the agent waits for %s", p.waiting)
	case p.applied == 0 && p.err != nil:
		return nil, api.Unavailable("no pod can be added: %v", p.err)
	}
	var list []api.Endpoint
	for _, e := range n.sorted() {
		if e.inForce {
			list = append(list, e.Endpoint)
		}
	}
	return list, nil
}

// sorted returns the endpoints by their attachment. The lock is held.
func (n *network) sorted() []*endpoint {
	return slices.SortedFunc(maps.Values(n.endpoints), func(a, b *endpoint) int {
		return cmp.Or(cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.Interface, b.Interface))
	})
}

func (n *network) list() []*endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sorted()
}

func (n *network) wake() {
	select {
	case n.kick <- struct{}{}:
	default: // one signal waits already
	}
}

// finish says that an endpoint is in force, or why it is not. The network's lock
// is held.
func (e *endpoint) finish(hook string, err error) {
	e.hook, e.failed, e.inForce, e.waits = hook, err, err == nil, ""
	if e.done != nil {
		close(e.done)
		e.done = nil
	}
}

// prune forgets the endpoints whose devices are gone: a plugin that is called
// while no agent runs takes them away alone. It looks where asked to, and where
// somebody is added, who may have the address of one that is gone.
func (n *network) prune(looking bool) error {
	n.mu.Lock()
	look := looking
	for _, e := range n.endpoints {
		look = look || e.done != nil
	}
	n.mu.Unlock()
	if !look {
		return nil
	}
	devices, err := n.devices()
	if err != nil {
		return fmt.Errorf("list the node's devices: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for a, e := range n.endpoints {
		switch name, ok := devices[e.HostIndex]; {
		case ok && name == e.HostInterface:
		case e.done != nil:
			e.finish("", fmt.Errorf("there is no device %s with the number %d", e.HostInterface, e.HostIndex))
			delete(n.endpoints, a)
		default:
			delete(n.endpoints, a)
		}
	}
	return nil
}

// resolve finds the pods of the endpoints, and returns those that the kernel is
// to have: those whose pods are known, and those that are connected already.
func (n *network) resolve(now *cluster.Snapshot) []*endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := n.sorted()
	// Who is there keeps its address and its device: its device was looked for
	// when the other was added.
	slices.SortStableFunc(all, func(a, b *endpoint) int { return cmp.Compare(b2i(a.done != nil), b2i(b.done != nil)) })
	addrs, devices := make(map[netip.Addr]*endpoint), make(map[int]*endpoint)
	var pods []*endpoint
	for _, e := range all {
		if other := taken(e, addrs, devices); other != nil {
			e.finish("", fmt.Errorf("endpoint %s has its address or device", other.Attachment))
			delete(n.endpoints, e.Attachment)
			continue
		}
		if p := n.podOf(e); p != nil {
			e.pod = p
		}
		if e.found && e.pod != nil && len(e.pod.Addrs) > 0 {
			e.Addrs = e.pod.Addrs
		}
		if e.pod == nil && e.done != nil {
			e.waits = "the cluster to know it"
			continue
		}
		// Who is connected already and no pod of this cluster may do nothing: the
		// kernel denies what it has no policy for.
		devices[e.HostIndex] = e
		for _, a := range e.Addrs {
			addrs[a] = e
		}
		pods = append(pods, e)
	}
	return pods
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// taken returns who has an address or the device of an endpoint.
func taken(e *endpoint, addrs map[netip.Addr]*endpoint, devices map[int]*endpoint) *endpoint {
	if other := devices[e.HostIndex]; other != nil {
		return other
	}
	for _, a := range e.Addrs {
		if other := addrs[a]; other != nil {
			return other
		}
	}
	return nil
}

// podOf returns what the cluster says of an endpoint's pod, nil where it says
// nothing. A pod whose end was told goes on as it was while its device is there.
func (n *network) podOf(e *endpoint) *cluster.Pod {
	var p *cluster.Pod
	if e.PodUID != "" {
		p = n.state.Pod(e.PodUID)
	}
	if p == nil {
		// Kubelets have names of their own for pods that they know from files; a
		// name stands for other pods only where no uid was told.
		named := n.state.PodByName(e.PodNamespace, e.PodName)
		if named != nil && (e.PodUID == "" || named.StaticUID != "") {
			p = named
		}
	}
	switch {
	case p == nil || p.HostNetwork:
		return nil
	case !p.Ended.IsZero() && e.pod != nil && e.pod.UID == p.UID:
		return nil
	case !p.Ended.IsZero():
		going := *p
		going.Ended = time.Time{}
		return &going
	}
	return p
}
