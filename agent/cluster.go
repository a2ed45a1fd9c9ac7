package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"warren/api"
	"warren/cluster"
	"warren/event"
	"warren/kube"
)

// membership is what the agent of a cluster's node knows of the cluster. A nil
// one is that of a machine that is no node, and of a node whose cluster is not
// asked.
type membership struct {
	node  string
	state *cluster.State
	kube  *kube.Client
	// enforce says that the agent enforces policy: it must not do so before it
	// knows all of it.
	enforce bool

	mu   sync.Mutex
	seen *cluster.Snapshot
}

// join finds the cluster. why says why there is none, where that is no mistake;
// nothing is asked yet.
func join(cfg Config) (m *membership, why string, err error) {
	event.SetNode(cfg.Node)
	switch {
	case cfg.Node == "":
		return nil, "the agent was not told which node of a cluster it is", nil
	case cfg.Kubernetes.Off:
		return nil, "switched off by configuration", nil
	}
	client, err := kube.Connect(cfg.Kubernetes.Kubeconfig, "")
	switch {
	case errors.Is(err, kube.ErrNoCluster) && cfg.Kubernetes.Kubeconfig == "":
		return nil, "there is neither a kubeconfig nor the service account of a pod", nil
	case err != nil && cfg.Kubernetes.Kubeconfig != "":
		return nil, "", usageError("find the cluster: %w", err)
	case err != nil:
		return nil, "", fmt.Errorf("find the cluster: %w", err)
	}
	return &membership{node: cfg.Node, state: cluster.NewState(cluster.Config{}), kube: client, enforce: cfg.Network.On()}, "", nil
}

// run keeps what is known of the cluster up to date. That the API server is
// away ends nothing.
func (m *membership) run(ctx context.Context, log *slog.Logger) error {
	return m.kube.Watch(ctx, m.state, kube.Options{Node: m.node, Policies: true, Enforce: m.enforce, Report: m.enforce}, log)
}

// snapshot is what policies are about now; what did not change is shared with
// the last one.
func (m *membership) snapshot() *cluster.Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = m.state.Snapshot(m.seen)
	return m.seen
}

// own returns the node that this is, nil while it is not known.
func (m *membership) own() *cluster.Node {
	for n := range m.state.Nodes {
		if n.Name == m.node {
			return n
		}
	}
	return nil
}

// labels are those of the node, key=value.
func (m *membership) labels() []string {
	n := m.own()
	if n == nil {
		return nil
	}
	list := make([]string, 0, len(n.Labels))
	for _, k := range slices.Sorted(maps.Keys(n.Labels)) {
		list = append(list, k+"="+n.Labels[k])
	}
	return list
}

// peers are the servers of flows that this agent knows of: itself, at the
// address of its node, which may be known later than it begins to serve.
func (m *membership) peers(port int) []api.HubblePeer {
	self := api.HubblePeer{Name: m.node, TLSName: api.AgentName}
	if n := m.own(); n != nil && len(n.Addrs) > 0 {
		self.Address = netip.AddrPortFrom(n.Addrs[0], uint16(port)).String()
	}
	return []api.HubblePeer{self}
}

// describe returns what there is to know, for the status.
func (m *membership) describe() *api.Kubernetes {
	s, k := m.state.Stats(), m.kube.Stats()
	out := &api.Kubernetes{
		Server: k.Server, Connected: k.Connected, Since: k.Since, Synced: m.state.Synced(),
		Pods: s.Pods, EndedPods: s.EndedPods, Services: s.Services, EndpointSlices: s.EndpointSlices,
		Nodes: s.Nodes, Namespaces: s.Namespaces, Addresses: s.Addresses,
		Forgotten: s.ForgottenPods + s.ForgottenAddresses, Trimmed: s.Trimmed,
		Resources: []api.Resource{},
	}
	for name, r := range k.Resources {
		out.Resources = append(out.Resources, api.Resource{
			Name: name, Requests: r.Requests, Failures: r.Failures, Objects: r.Objects, Events: r.Events, Restarts: r.Restarts, Bytes: r.Bytes, Error: r.LastError,
		})
	}
	slices.SortFunc(out.Resources, func(a, b api.Resource) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
