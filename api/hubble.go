package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"warren/event"
	"warren/filter"
)

// HubbleHealth is the name under which clients of Hubble ask whether a server
// is well.
const HubbleHealth = "hubble.server.Observer"

// DefaultCluster is what Hubble calls a cluster that has no name of its own.
const DefaultCluster = "default"

// HubbleConfig are the settings of what answers Hubble's clients; zero values
// stand for the defaults.
type HubbleConfig struct {
	// Node is the name of this node. Default: the machine's.
	Node string
	// Cluster is the name of the cluster. Default [DefaultCluster].
	Cluster string
	// Version is this program's, for status.
	Version string
	// Address is where other machines reach this server, host:port; "" where
	// they do not.
	Address string
	// TLSName is the name in this server's certificate; "" where it has none.
	TLSName string
	// NodeLabels returns the labels of this node, key=value; nil has none.
	NodeLabels func() []string
	// Peers returns all servers of the cluster; nil knows of this one alone.
	Peers func() []HubblePeer

	// Served reports whether an address is that of a pod whose packets a datapath
	// tells of, as flows. Its connections are then told as those flows, with their
	// verdicts, and not again as connections. Nil: there is no datapath.
	Served func(netip.Addr) bool

	// Flows is how many flows are remembered. Default 4,095.
	Flows int
	// Bytes is how much memory they take at most. Default 8 MiB.
	Bytes int
	// Streams is how many requests for flows are served at the same time.
	// Default 64.
	Streams int
	// Stall is how long a client may take nothing before its request ends.
	// Default 30 s.
	Stall time.Duration
	// Refresh is how often Peers is asked. Default 5 s.
	Refresh time.Duration
}

func (c HubbleConfig) withDefaults() HubbleConfig {
	c.Node = cmp.Or(c.Node, event.Hostname())
	c.Cluster = cmp.Or(c.Cluster, DefaultCluster)
	c.Version = cmp.Or(c.Version, "(unknown)")
	if c.Flows <= 0 {
		c.Flows = 4095
	}
	if c.Bytes <= 0 {
		c.Bytes = 8 << 20
	}
	if c.Streams <= 0 {
		c.Streams = 64
	}
	if c.Stall <= 0 {
		c.Stall = 30 * time.Second
	}
	if c.Refresh <= 0 {
		c.Refresh = 5 * time.Second
	}
	return c
}

// Hubble answers clients of Hubble: its command line, its relay, its user
// interface. It remembers the last flows in a ring; what it keeps of one is
// what the event says, and only who asks makes it a message. It serves the
// services Observer and Peer. All methods may be called by any goroutine.
type Hubble struct {
	observerpb.UnimplementedObserverServer
	peerpb.UnimplementedPeerServer

	cfg        HubbleConfig
	events     Events
	log        *slog.Logger
	teller     flowTeller
	ring       *flowRing
	namespaces namespacesSeen
	begun      time.Time
	streams    chan struct{} // holds one element for each request for flows; who finds it full is refused
	health     *health.Server
	stalled    atomic.Uint64
}

// NewHubble returns a server that remembers nothing yet: see [Hubble.Run].
func NewHubble(cfg HubbleConfig, events Events, log *slog.Logger) *Hubble {
	cfg = cfg.withDefaults()
	now := time.Now()
	h := &Hubble{
		cfg:     cfg,
		events:  events,
		log:     log,
		teller:  flowTeller{node: nodeName(cfg.Cluster, cfg.Node), self: cfg.Node, cluster: cfg.Cluster, labels: cfg.NodeLabels},
		ring:    newFlowRing(cfg.Flows, cfg.Bytes, now),
		begun:   now,
		streams: make(chan struct{}, cfg.Streams),
		health:  health.NewServer(),
	}
	_, _ = rand.Read(h.teller.instance[:]) // never fails
	h.health.SetServingStatus(HubbleHealth, healthpb.HealthCheckResponse_NOT_SERVING)
	h.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	return h
}

// nodeName is a node's name as Hubble's clients know it: with the cluster's
// before it, unless that is the default.
func nodeName(cluster, node string) string {
	if cluster == DefaultCluster {
		return node
	}
	return cluster + "/" + node
}

// Run fills the ring with flows until ctx ends or no event comes any more.
// While it runs, the server is healthy.
func (h *Hubble) Run(ctx context.Context) error {
	all, err := filter.Compile("")
	if err != nil {
		return fmt.Errorf("compile the filter of all events: %w", err)
	}
	stream, err := h.events.Subscribe("hubble", all, h.kinds())
	if err != nil {
		return fmt.Errorf("subscribe to connections: %w", err)
	}
	defer stream.Close()
	h.setServing(healthpb.HealthCheckResponse_SERVING)
	defer h.setServing(healthpb.HealthCheckResponse_NOT_SERVING)
	// Requests end with the events, also those that follow.
	defer h.ring.end()
	for {
		e, err := stream.Next(ctx)
		switch {
		case errors.Is(err, io.EOF), err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read events: %w", err)
		}
		h.take(e)
		if !stream.Buffered() {
			h.ring.publish()
		}
	}
}

// kinds are those of events that are flows.
func (h *Hubble) kinds() event.KindSet {
	if h.cfg.Served == nil {
		return event.Kinds(event.KindConnection, event.KindDNS)
	}
	return event.Kinds(event.KindConnection, event.KindDNS, event.KindFlow)
}

// take remembers an event, if it is one of flows.
func (h *Hubble) take(e *event.Event) {
	if c, ok := e.Data.(*event.Connection); ok && servedSet(h.cfg.Served).twice(c) {
		return
	}
	r := newFlowRecord(e)
	if r == nil {
		return
	}
	h.ring.add(r)
	local, remote := r.namespaces()
	h.namespaces.saw(local, e.Time)
	h.namespaces.saw(remote, e.Time)
}

func (h *Hubble) setServing(s healthpb.HealthCheckResponse_ServingStatus) {
	h.health.SetServingStatus(HubbleHealth, s)
	h.health.SetServingStatus("", s)
}

// Register adds the services to a server: Observer, Peer and health.
func (h *Hubble) Register(s grpc.ServiceRegistrar) {
	observerpb.RegisterObserverServer(s, h)
	peerpb.RegisterPeerServer(s, h)
	healthpb.RegisterHealthServer(s, h.health)
}

// HubbleStats are the figures of a server of flows.
type HubbleStats struct {
	Flows, MaxFlows int       // remembered, and how many at most
	Bytes, MaxBytes int       // that they take, about
	Seen            uint64    // flows since the start
	Oldest          time.Time // time of the oldest flow remembered, zero without one
	Streams         int       // requests for flows under way
	Stalled         uint64    // requests that ended because the client took nothing
}

// Stats returns the figures of now.
func (h *Hubble) Stats() HubbleStats {
	s := h.ring.stats()
	s.Streams, s.Stalled = len(h.streams), h.stalled.Load()
	return s
}

// Bounds of what one client may cost.
const (
	maxHubbleRequest = 1 << 20 // bytes; the command line's are below a KiB
	maxHubbleCalls   = 1024    // of one connection at the same time: a hub has one
)

// HubbleServerOptions are the limits of a server of flows: sizes, calls, and
// how soon a client that has gone is noticed.
func HubbleServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxHubbleRequest),
		grpc.MaxConcurrentStreams(maxHubbleCalls),
		grpc.ConnectionTimeout(headerTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		// Relays ask more often than gRPC's own limit of five minutes.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// ServeHubble answers Hubble's clients on the listeners, which do TLS
// themselves where it is wanted, until ctx ends. It closes the listeners.
func ServeHubble(ctx context.Context, h *Hubble, listeners ...net.Listener) error {
	s := grpc.NewServer(HubbleServerOptions()...)
	h.Register(s)
	return ServeGRPC(ctx, s, listeners...)
}

// ServeGRPC runs a server on the listeners until ctx ends; what it is answering
// has a moment to end. It closes the listeners.
func ServeGRPC(ctx context.Context, s *grpc.Server, listeners ...net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error {
			if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				return fmt.Errorf("listen on %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		kill := time.AfterFunc(shutdownTime, s.Stop)
		defer kill.Stop()
		s.GracefulStop()
		return nil
	})
	return g.Wait()
}

// namespacesSeen are the namespaces of flows, with when the last was.
type namespacesSeen struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// Namespaces without flows for this long are forgotten, and so many are known.
const (
	namespaceMemory = time.Hour
	maxNamespaces   = 16384
)

func (n *namespacesSeen) saw(name string, at time.Time) {
	if name == "" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last == nil {
		n.last = make(map[string]time.Time)
	}
	if _, ok := n.last[name]; !ok && len(n.last) >= maxNamespaces {
		n.forget(at)
		if len(n.last) >= maxNamespaces {
			return
		}
	}
	n.last[name] = at
}

// names returns the namespaces with flows within the hour before now.
func (n *namespacesSeen) names(now time.Time) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forget(now)
	names := make([]string, 0, len(n.last))
	for name := range n.last {
		names = append(names, name)
	}
	return names
}

func (n *namespacesSeen) forget(now time.Time) {
	for name, at := range n.last {
		if now.Sub(at) > namespaceMemory {
			delete(n.last, name)
		}
	}
}
