package api

import (
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
	Address string // host:port
	TLSName string // in its certificate; "" where it has none
}

// Notify implements [peerpb.PeerServer]: it tells a relay of the servers that
// there are, and then of changes.
func (h *Hubble) Notify(_ *peerpb.NotifyRequest, server grpc.ServerStreamingServer[peerpb.ChangeNotification]) error {
	ctx := server.Context()
	look := time.NewTicker(h.cfg.Refresh)
	defer look.Stop()
	known := map[string]HubblePeer{}
	for {
		now := h.peers()
		for _, c := range peerChanges(known, now) {
			if err := server.Send(c); err != nil {
				return err
			}
		}
		known = now
		select {
		case <-look.C:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// peers returns the servers by name. One without an address is this one, seen
// by nobody else.
func (h *Hubble) peers() map[string]HubblePeer {
	list := []HubblePeer{{Name: h.cfg.Node, Address: h.cfg.Address, TLSName: h.cfg.TLSName}}
	if h.cfg.Peers != nil {
		list = h.cfg.Peers()
	}
	m := make(map[string]HubblePeer, len(list))
	for _, p := range list {
		if p.Address != "" {
			p.Name = nodeName(h.cfg.Cluster, p.Name)
			m[p.Name] = p
		}
	}
	return m
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
