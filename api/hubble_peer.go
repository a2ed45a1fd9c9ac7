package api

import (
	"context"
	"maps"
	"slices"
	"time"

	peerpb "github.com/cilium/cilium/api/v1/peer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// A HubblePeer is a server of flows that relays may connect to.
type HubblePeer struct {
	Name    string // of the node
	Address string // host:port; "" where nobody reaches it
	TLSName string // in its certificate; "" where it has none
}

// TellPeers tells a relay of the servers that list returns, and then of what
// changes, until ctx ends: it is asked again when the channel that it returns is
// closed, and each time that refresh has passed, if that is not zero. A server
// without an address is one that is missing: relays say so.
func TellPeers(ctx context.Context, cluster string, refresh time.Duration, list func() ([]HubblePeer, <-chan struct{}), send func(*peerpb.ChangeNotification) error) error {
	var look <-chan time.Time
	if refresh > 0 {
		t := time.NewTicker(refresh)
		defer t.Stop()
		look = t.C
	}
	known := map[string]HubblePeer{}
	for {
		peers, changed := list()
		now := make(map[string]HubblePeer, len(peers))
		for _, p := range peers {
			p.Name = nodeName(cluster, p.Name)
			now[p.Name] = p
		}
		for _, c := range peerChanges(known, now) {
			if err := send(c); err != nil {
				return err
			}
		}
		known = now
		select {
		case <-look:
		case <-changed:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// Notify implements [peerpb.PeerServer]: it tells a relay of the servers that
// there are, and then of changes.
func (h *Hubble) Notify(_ *peerpb.NotifyRequest, server grpc.ServerStreamingServer[peerpb.ChangeNotification]) error {
	return TellPeers(server.Context(), h.cfg.Cluster, h.cfg.Refresh, func() ([]HubblePeer, <-chan struct{}) { return h.peers(), nil }, server.Send)
}

// peers returns the servers that somebody else can reach.
func (h *Hubble) peers() []HubblePeer {
	list := []HubblePeer{{Name: h.cfg.Node, Address: h.cfg.Address, TLSName: h.cfg.TLSName}}
	if h.cfg.Peers != nil {
		list = h.cfg.Peers()
	}
	return slices.DeleteFunc(slices.Clone(list), func(p HubblePeer) bool { return p.Address == "" })
}

// address returns where others reach this server, "" where they do not.
func (h *Hubble) address() string {
	for _, p := range h.peers() {
		if p.Name == h.cfg.Node {
			return p.Address
		}
	}
	return h.cfg.Address
}

// peerChanges returns what happened between two moments, in the order of names.
func peerChanges(before, after map[string]HubblePeer) []*peerpb.ChangeNotification {
	var list []*peerpb.ChangeNotification
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[name]; !ok {
			list = append(list, before[name].notification(peerpb.ChangeNotificationType_PEER_DELETED))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		switch old, ok := before[name]; {
		case !ok:
			list = append(list, after[name].notification(peerpb.ChangeNotificationType_PEER_ADDED))
		case old != after[name]:
			list = append(list, after[name].notification(peerpb.ChangeNotificationType_PEER_UPDATED))
		}
	}
	return list
}

func (p HubblePeer) notification(what peerpb.ChangeNotificationType) *peerpb.ChangeNotification {
	c := &peerpb.ChangeNotification{Name: p.Name, Address: p.Address, Type: what}
	if p.TLSName != "" {
		c.Tls = &peerpb.TLS{ServerName: p.TLSName}
	}
	return c
}
