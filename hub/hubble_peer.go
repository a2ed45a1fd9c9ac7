package hub

import (
	"context"
	"errors"
	"net/netip"

	peerpb "github.com/cilium/cilium/api/v1/peer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"warren/api"
)

// Notify implements [peerpb.PeerServer]: it tells a relay of the agents of all
// nodes, and then of changes. Relays alone have the certificate with which agents
// answer: to others addresses are of no use.
func (r *relay) Notify(_ *peerpb.NotifyRequest, server grpc.ServerStreamingServer[peerpb.ChangeNotification]) error {
	const what = "Notify"
	h, ctx := r.h, server.Context()
	if c := callerOf(ctx); !c.trusted {
		return grpcError(h.door.refuse(refusedRights, c.from, nameOf(c.user), what, api.Forbidden("where agents are is told to relays, by their certificate")))
	}
	_, done, err := r.enter(ctx, what)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-h.stopping:
			cancel(errStopping)
		case <-ctx.Done():
		}
	}()
	err = api.TellPeers(ctx, api.DefaultCluster, 0, h.agents.peers, server.Send)
	if errors.Is(context.Cause(ctx), errStopping) {
		return status.Error(codes.Unavailable, errStopping.Error()) // another hub knows as much
	}
	return err
}

// peers returns where the agents of all nodes serve flows, and a channel that is
// closed when that changes. A node whose agent serves none has no address.
func (a *agents) peers() ([]api.HubblePeer, <-chan struct{}) {
	now := a.now()
	list := make([]api.HubblePeer, 0, len(now.members))
	for _, m := range now.members {
		p := api.HubblePeer{Name: m.node, TLSName: api.AgentName}
		if m.agent != nil && m.agent.flows != nil {
			p.Address = netip.AddrPortFrom(m.agent.Addr, m.agent.HubblePort).String()
		}
		list = append(list, p)
	}
	return list, now.changed
}
