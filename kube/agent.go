package kube

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// An Agent is an agent's pod as the agents' service has it.
type Agent struct {
	Node, Pod           string
	Addr                netip.Addr
	HubPort, HubblePort uint16 // 0 where the service has no such port
	Ready               bool
}

// The names of an agent's ports in its service.
const (
	hubPort    = "hub"
	hubblePort = "hubble"
)

// WatchAgents calls set with all agents of the service, by node and pod, first
// when they are known and then whenever they change, until ctx ends. Agents that
// are not ready are among them. set is never called twice at the same time, and
// not at all while the server is away.
func (c *Client) WatchAgents(ctx context.Context, namespace, service string, set func([]Agent)) error {
	known := make(map[string][]Agent) // by slice
	var last []Agent
	told := false
	r := &resource{
		name: "agents", path: "/apis/discovery.k8s.io/v1/namespaces/" + url.PathEscape(namespace) + "/endpointslices",
		labels:  discoveryv1.LabelServiceName + "=" + service,
		convert: of(func(s *discoveryv1.EndpointSlice) (string, any) { return s.Name, agentsOf(s) }),
		set:     func(key string, v any, _ time.Time) { known[key], _ = v.([]Agent) },
		gone:    func(key string, _ any, _ time.Time) { delete(known, key) },
	}
	s := &store{resource: r, counter: c.meter.of(r.name), known: make(map[string]bool), now: time.Now, synced: func() {}}
	s.after = func() {
		agents := merge(known)
		if told && slices.Equal(agents, last) {
			return
		}
		told, last = true, agents
		set(slices.Clone(agents))
	}
	c.reflect(ctx, r, s, slog.New(slog.DiscardHandler), func(error) {})
	return ctx.Err()
}

// agentsOf are the agents of one slice. Endpoints without a pod are nobody's.
func agentsOf(s *discoveryv1.EndpointSlice) []Agent {
	ports := make(map[string]uint16)
	for _, p := range s.Ports {
		if p.Name != nil && p.Port != nil {
			ports[*p.Name] = portOf(*p.Port)
		}
	}
	agents := make([]Agent, 0, len(s.Endpoints))
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		addrs := parseAddrs(e.Addresses)
		if len(addrs) == 0 || e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
			continue
		}
		a := Agent{Pod: e.TargetRef.Name, Addr: addrs[0].Unmap(), HubPort: ports[hubPort], HubblePort: ports[hubblePort]}
		if e.NodeName != nil {
			a.Node = *e.NodeName
		}
		// What is not said counts as ready: so the API means it.
		a.Ready = e.Conditions.Ready == nil || *e.Conditions.Ready
		agents = append(agents, a)
	}
	return agents
}

// merge are the agents of all slices, each once: a pod is in one slice for each
// family of its addresses, and for a while in two while slices are cut anew.
func merge(bySlice map[string][]Agent) []Agent {
	agents := slices.Concat(slices.Collect(maps.Values(bySlice))...)
	slices.SortFunc(agents, func(a, b Agent) int {
		return cmp.Or(
			cmp.Compare(a.Node, b.Node), cmp.Compare(a.Pod, b.Pod),
			a.Addr.Compare(b.Addr), // IPv4 before IPv6
			compareReady(a, b),
			cmp.Compare(b.HubPort, a.HubPort), cmp.Compare(b.HubblePort, a.HubblePort))
	})
	return slices.CompactFunc(agents, func(a, b Agent) bool { return a.Node == b.Node && a.Pod == b.Pod })
}

// compareReady puts who is ready first.
func compareReady(a, b Agent) int {
	switch {
	case a.Ready == b.Ready:
		return 0
	case a.Ready:
		return -1
	}
	return 1
}
