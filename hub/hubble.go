package hub

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"warren/api"
)

// A relay answers Hubble's clients for the whole cluster, as Hubble's own relay
// does, from what the agents' observers tell.
type relay struct {
	observerpb.UnimplementedObserverServer
	peerpb.UnimplementedPeerServer
	h *hub
}

var (
	_ observerpb.ObserverServer = (*relay)(nil)
	_ peerpb.PeerServer         = (*relay)(nil)
)

// observe returns what an agent is asked for flows with; the error is why it
// cannot be.
func (g *agent) observe() (observerpb.ObserverClient, error) {
	if g.flows == nil {
		return nil, errNoFlows
	}
	return observerpb.NewObserverClient(g.flows), nil
}

// flowError says why an agent does not tell its flows: what its line knows is
// more exact than what gRPC says of a connection.
func (g *agent) flowError(err error) error {
	if line := g.line(); status.Code(err) == codes.Unavailable && !line.up && line.err != nil {
		return line.err
	}
	return err
}

// each asks the observers of all nodes one question, and hands what they answer
// to put, one at a time.
func each[T any](ctx context.Context, h *hub, ask func(context.Context, observerpb.ObserverClient) (T, error), put func(node string, answer T)) *tally {
	var mu sync.Mutex
	return h.agents.each(ctx, nil, statusTime, func(ctx context.Context, node string, g *agent) error {
		o, err := g.observe()
		if err != nil {
			return err
		}
		answer, err := ask(ctx, o)
		if err != nil {
			return g.flowError(err)
		}
		mu.Lock()
		defer mu.Unlock()
		put(node, answer)
		return nil
	})
}

// GetNodes implements [observerpb.ObserverServer]: all nodes of the cluster,
// those that do not answer too.
func (r *relay) GetNodes(ctx context.Context, req *observerpb.GetNodesRequest) (*observerpb.GetNodesResponse, error) {
	v, done, err := r.enter(ctx, "GetNodes")
	if err != nil {
		return nil, err
	}
	defer done()
	resp := &observerpb.GetNodesResponse{}
	t := each(ctx, r.h, func(ctx context.Context, o observerpb.ObserverClient) (*observerpb.GetNodesResponse, error) {
		return o.GetNodes(ctx, req)
	}, func(_ string, a *observerpb.GetNodesResponse) { resp.Nodes = append(resp.Nodes, a.GetNodes()...) })
	for node, reply := range t.sorted() {
		if !reply.given {
			resp.Nodes = append(resp.Nodes, &observerpb.Node{Name: node, State: relaypb.NodeState_NODE_UNAVAILABLE, Tls: &observerpb.TLS{Enabled: true, ServerName: api.AgentName}})
		}
	}
	if !v.all {
		for _, n := range resp.Nodes {
			n.Address = "" // others know nodes by name
		}
	}
	slices.SortFunc(resp.Nodes, func(a, b *observerpb.Node) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return resp, nil
}

// GetNamespaces implements [observerpb.ObserverServer]: those of which some node
// has flows, and which the caller may see.
func (r *relay) GetNamespaces(ctx context.Context, req *observerpb.GetNamespacesRequest) (*observerpb.GetNamespacesResponse, error) {
	v, done, err := r.enter(ctx, "GetNamespaces")
	if err != nil {
		return nil, err
	}
	defer done()
	resp := &observerpb.GetNamespacesResponse{}
	each(ctx, r.h, func(ctx context.Context, o observerpb.ObserverClient) (*observerpb.GetNamespacesResponse, error) {
		return o.GetNamespaces(ctx, req)
	}, func(_ string, a *observerpb.GetNamespacesResponse) {
		for _, ns := range a.GetNamespaces() {
			if v.sees(ns.GetNamespace()) {
				resp.Namespaces = append(resp.Namespaces, ns)
			}
		}
	})
	order := func(a, b *observerpb.Namespace) int {
		return cmp.Or(cmp.Compare(a.GetCluster(), b.GetCluster()), cmp.Compare(a.GetNamespace(), b.GetNamespace()))
	}
	slices.SortFunc(resp.Namespaces, order)
	resp.Namespaces = slices.CompactFunc(resp.Namespaces, func(a, b *observerpb.Namespace) bool { return order(a, b) == 0 })
	return resp, nil
}

// ServerStatus implements [observerpb.ObserverServer]: the figures of all nodes
// together.
func (r *relay) ServerStatus(ctx context.Context, req *observerpb.ServerStatusRequest) (*observerpb.ServerStatusResponse, error) {
	_, done, err := r.enter(ctx, "ServerStatus")
	if err != nil {
		return nil, err
	}
	defer done()
	sum := &observerpb.ServerStatusResponse{Version: r.h.cfg.Version}
	t := each(ctx, r.h, func(ctx context.Context, o observerpb.ObserverClient) (*observerpb.ServerStatusResponse, error) {
		return o.ServerStatus(ctx, req)
	}, func(_ string, a *observerpb.ServerStatusResponse) {
		sum.NumFlows += a.GetNumFlows()
		sum.MaxFlows += a.GetMaxFlows()
		sum.SeenFlows += a.GetSeenFlows()
		sum.FlowsRate += a.GetFlowsRate()
		sum.UptimeNs = max(sum.UptimeNs, a.GetUptimeNs())
	})
	var up, away uint32
	for node, reply := range t.sorted() {
		if reply.given {
			up++
			continue
		}
		away++
		sum.UnavailableNodes = append(sum.UnavailableNodes, node)
	}
	sum.NumConnectedNodes, sum.NumUnavailableNodes = wrapperspb.UInt32(up), wrapperspb.UInt32(away)
	return sum, nil
}

// GetAgentEvents implements [observerpb.ObserverServer]: there are none.
func (r *relay) GetAgentEvents(*observerpb.GetAgentEventsRequest, grpc.ServerStreamingServer[observerpb.GetAgentEventsResponse]) error {
	return status.Error(codes.Unimplemented, "there are no events of Cilium's agents: this is Warren, whose own are told by \"kubectl warren events\"")
}

// GetDebugEvents implements [observerpb.ObserverServer]: there are none.
func (r *relay) GetDebugEvents(*observerpb.GetDebugEventsRequest, grpc.ServerStreamingServer[observerpb.GetDebugEventsResponse]) error {
	return status.Error(codes.Unimplemented, "there are no debug events of Cilium's datapath: this is Warren")
}

// enter is the hub's, with an error for the client.
func (r *relay) enter(ctx context.Context, what string) (*view, func(), error) {
	v, done, err := r.h.enter(ctx, what)
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return nil, nil, grpcError(e)
	}
	return v, done, err
}

// nodeStates tells a client of Hubble which nodes answer, and what changes of
// that.
type nodeStates map[string]string // why a node does not answer; "" where it does

// changes returns the events of what is new in a tally.
func (n nodeStates) changes(t *tally, now time.Time) (list []*observerpb.GetFlowsResponse) {
	news := map[string][]string{} // nodes by why they do not answer
	there := map[string]bool{}
	for node, reply := range t.sorted() {
		why := ""
		if !reply.given {
			why = reason(reply.err)
		}
		there[node] = true
		if old, told := n[node]; !told || old != why {
			n[node] = why
			news[why] = append(news[why], node)
		}
	}
	var gone []string
	for node := range n {
		if !there[node] {
			gone = append(gone, node)
			delete(n, node)
		}
	}
	slices.Sort(gone)
	return nodeEvents(news, gone, now)
}
