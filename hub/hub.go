// Package hub is the view of a whole cluster. A hub finds the agents of its
// nodes, asks all of them what it is asked, and answers with what they told,
// merged in the order of time: by the same HTTP API as an agent's, as an
// aggregated API of the cluster, and as Hubble's relay.
//
// Who asks is known by Kubernetes, by way of the API server or by a bearer token,
// and sees what pods do of namespaces in which they may get pods. An answer says
// which nodes it is from and why others are missing.
//
// A hub keeps nothing that it cannot find again: there may be any number of
// them, and each may end at any time.
package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"warren/api"
	"warren/cluster"
	"warren/kube"
)

// apiServer is the cluster's, as a hub uses it: see [kube.Client].
type apiServer interface {
	reviewer
	Watch(ctx context.Context, st *cluster.State, o kube.Options, log *slog.Logger) error
	WatchAgents(ctx context.Context, namespace, service string, set func([]kube.Agent)) error
	WatchRequestHeader(ctx context.Context, set func(kube.RequestHeader)) error
	WatchClusterPolicies(ctx context.Context, set func([]kube.ClusterPolicy)) error
	TellProgrammed(ctx context.Context, p kube.ClusterPolicy, is kube.Programmed) error
	Stats() kube.Stats
}

var _ apiServer = (*kube.Client)(nil)

// Run runs a hub until ctx ends or a signal asks it to (SIGINT, SIGTERM,
// SIGHUP), and then returns nil. When a part fails, the others are stopped too
// and the error names it. What it listens on is told on stdout.
func Run(ctx context.Context, cfg Config, stdout io.Writer, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once

	kubernetes, err := kube.Connect(cfg.Kubeconfig, "")
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	creds, err := api.OpenCredentials(cfg.TLSDir, log)
	if err != nil {
		return err
	}
	doors, err := listen(ctx, cfg)
	if err != nil {
		return err
	}
	for _, d := range doors.told() {
		if _, err := fmt.Fprintln(stdout, d); err != nil {
			log.Warn("what the hub listens on could not be told", "err", err)
		}
	}
	return newHub(cfg, kubernetes, creds, log).run(ctx, doors)
}

// listeners are what a hub listens on; those it does not are nil.
type listeners struct {
	api, hubble, metrics net.Listener
}

func listen(ctx context.Context, cfg Config) (l listeners, err error) {
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	var lc net.ListenConfig
	for _, at := range []struct {
		addr string
		to   *net.Listener
	}{{cfg.Listen, &l.api}, {cfg.HubbleListen, &l.hubble}, {cfg.MetricsListen, &l.metrics}} {
		if at.addr == "" {
			continue
		}
		if *at.to, err = lc.Listen(ctx, "tcp", at.addr); err != nil {
			return l, fmt.Errorf("listen on %s: %w", at.addr, err)
		}
	}
	return l, nil
}

func (l listeners) close() {
	for _, one := range []net.Listener{l.api, l.hubble, l.metrics} {
		if one != nil {
			one.Close()
		}
	}
}

// told says in words what is listened on.
func (l listeners) told() (lines []string) {
	for _, one := range []struct {
		what string
		net.Listener
	}{{"HTTPS", l.api}, {"Hubble, with TLS", l.hubble}, {"metrics and health, without TLS", l.metrics}} {
		if one.Listener != nil {
			lines = append(lines, fmt.Sprintf("warren hub listens on %s: %s", one.Addr(), one.what))
		}
	}
	return lines
}

// A hub answers for a cluster.
type hub struct {
	cfg     Config
	cluster apiServer
	creds   *api.Credentials
	log     *slog.Logger
	started time.Time

	state  *cluster.State
	agents *agents
	door   *doorman
	rights *rights

	found    atomic.Bool   // the agents of the cluster are known
	places   *places       // for answers that are being written
	stopping chan struct{} // closed when answers are to end

	pool     pool          // of what waits for clients
	merged   mergeCount    // rows
	flows    mergeCount    // Hubble's
	withheld atomic.Uint64 // rows that agents told and their reader may not see
}

func newHub(cfg Config, kubernetes apiServer, creds *api.Credentials, log *slog.Logger) *hub {
	cfg = cfg.withDefaults()
	h := &hub{cfg: cfg, cluster: kubernetes, creds: creds, log: log, started: time.Now(), state: cluster.NewState(cluster.Config{})}
	h.agents = newAgents(dialer{creds}, h.expected, log)
	h.door = newDoorman(kubernetes, cfg.Review, log)
	h.rights = newRights(kubernetes, h.state, cfg.Review, log)
	h.pool.most = int64(cfg.Memory)
	h.places, h.stopping = newPlaces(cfg.Streams), make(chan struct{})
	return h
}

// expected returns the nodes on which an agent is to be.
func (h *hub) expected() (list []*cluster.Node) {
	h.state.Nodes(func(n *cluster.Node) bool {
		for k, v := range h.cfg.Nodes {
			if n.Labels[k] != v {
				return true
			}
		}
		list = append(list, n)
		return true
	})
	return list
}

// run answers until ctx ends. It closes the listeners.
func (h *hub) run(ctx context.Context, l listeners) error {
	handler, err := h.handler()
	if err != nil {
		l.close()
		return err
	}
	defer h.agents.wait()
	g, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, func() { close(h.stopping) })
	part := func(name string, run func(context.Context) error) {
		g.Go(func() error {
			err := run(ctx)
			if err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled) {
				return nil
			}
			return fmt.Errorf("%s: %w", name, err)
		})
	}
	part("watch", func(ctx context.Context) error {
		return h.cluster.Watch(ctx, h.state, kube.Options{Only: []string{"namespaces", "nodes"}}, h.log)
	})
	part("agents", func(ctx context.Context) error {
		return h.cluster.WatchAgents(ctx, h.cfg.Namespace, h.cfg.Agents, func(list []kube.Agent) {
			h.agents.set(ctx, list)
			h.found.Store(true)
		})
	})
	part("nodes", h.watchNodes)
	part("policies", h.tellProgrammed)
	part("front proxy", func(ctx context.Context) error {
		return h.cluster.WatchRequestHeader(ctx, h.door.setProxy)
	})
	part("api", func(ctx context.Context) error {
		return api.Serve(ctx, h.cfg.Stall, h.log, h.doors(l, handler)...)
	})
	if l.hubble != nil {
		part("hubble", func(ctx context.Context) error { return h.serveHubble(ctx, l.hubble) })
	}
	return g.Wait()
}

// nodesTime is how often is looked for nodes that are gone, which nobody
// signals.
const nodesTime = 5 * time.Second

// watchNodes keeps the roster up to date with the nodes of the cluster.
func (h *hub) watchNodes(ctx context.Context) error {
	look := time.NewTicker(nodesTime)
	defer look.Stop()
	for {
		select {
		case <-h.state.Changed():
		case <-look.C:
		case <-ctx.Done():
			return nil
		}
		h.agents.refresh()
	}
}

// ready says why the hub cannot answer yet; nil when it can.
func (h *hub) ready() *api.Error {
	switch {
	case !h.state.Synced():
		return api.Unavailable("the hub is still starting: it does not know the cluster's namespaces and nodes yet")
	case !h.found.Load():
		return api.Unavailable("the hub is still starting: it does not know the cluster's agents yet")
	}
	return nil
}
