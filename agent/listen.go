package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"warren/api"
)

// entrances are where the agent can be asked: by people and programs of this
// machine, by the hub, by who looks after it, and by clients of Hubble.
type entrances struct {
	api    []api.Door
	hubble []net.Listener
}

func (e *entrances) close() {
	for _, d := range e.api {
		d.Close()
	}
	for _, l := range e.hubble {
		l.Close()
	}
}

// open listens wherever the configuration says.
func (s *self) open(ctx context.Context, server *api.Server, log *slog.Logger) (_ *entrances, err error) {
	e := &entrances{}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	if dir := s.cfg.Hub.TLS; dir != "" && (s.cfg.Hub.Listen != "" || s.cfg.Hubble.Listen != "") {
		if s.creds, err = api.OpenCredentials(dir, log); err != nil {
			return nil, usageError("%w", err)
		}
	}
	l, err := api.ListenUnix(s.cfg.Socket)
	if err != nil {
		return nil, err
	}
	e.api = append(e.api, server.Door(l))
	s.listen = append(s.listen, "unix:"+s.cfg.Socket)

	if s.cfg.HTTP != "" {
		listen := api.ListenLoopback
		if s.cfg.HTTPPublic {
			listen = api.ListenTCP
		}
		if l, err = listen(ctx, s.cfg.HTTP, "--http"); err != nil {
			return nil, err
		}
		e.api = append(e.api, server.Door(l))
		s.listen = append(s.listen, "http://"+l.Addr().String())
	}
	if s.cfg.Metrics != "" {
		if l, err = api.ListenTCP(ctx, s.cfg.Metrics, "--metrics-listen"); err != nil {
			return nil, err
		}
		e.api = append(e.api, api.Door{Listener: l, Handler: server.Probes()})
		s.listen = append(s.listen, "http://"+l.Addr().String()+"/metrics")
	}
	if s.cfg.Hub.Listen != "" {
		if l, err = api.ListenTCP(ctx, s.cfg.Hub.Listen, "--hub-listen"); err != nil {
			return nil, err
		}
		e.api = append(e.api, api.Door{Listener: s.creds.Listen(l, "http/1.1", api.HubName), Handler: server})
		s.listen = append(s.listen, "https://"+l.Addr().String()+" for the hub")
	}
	if s.cfg.Hubble.Socket != "" {
		if err := os.MkdirAll(filepath.Dir(s.cfg.Hubble.Socket), 0o755); err != nil {
			return nil, fmt.Errorf("make the directory of Hubble's socket: %w", err)
		}
		if l, err = api.ListenUnix(s.cfg.Hubble.Socket); err != nil {
			return nil, err
		}
		e.hubble = append(e.hubble, l)
		s.listen = append(s.listen, "hubble unix:"+s.cfg.Hubble.Socket)
	}
	if s.cfg.Hubble.Listen != "" {
		if l, err = api.ListenTCP(ctx, s.cfg.Hubble.Listen, "--hubble-listen"); err != nil {
			return nil, err
		}
		e.hubble = append(e.hubble, s.creds.Listen(l, "h2", api.HubName, api.HubbleName))
		s.listen = append(s.listen, "hubble tls://"+l.Addr().String()+" for the hub and relays")
	}
	return e, nil
}

// flows returns the server of Hubble's clients, nil where nobody can ask it.
func (s *self) flows(e *entrances, log *slog.Logger) *api.Hubble {
	if len(e.hubble) == 0 {
		return nil
	}
	cfg := api.HubbleConfig{Node: s.cfg.Node, Version: s.cfg.Version, Streams: s.cfg.API.Streams, Stall: s.cfg.API.Stall,
		Flows: s.cfg.Hubble.Flows, Bytes: int(s.cfg.Hubble.Bytes)}
	if s.cfg.Hubble.Listen != "" {
		addr := e.hubble[len(e.hubble)-1].Addr()
		cfg.TLSName = api.AgentName
		if a, ok := addr.(*net.TCPAddr); ok && !a.IP.IsUnspecified() {
			cfg.Address = addr.String()
		}
	}
	if s.seen != nil {
		cfg.Served = s.net.Served
	}
	if m := s.member; m != nil {
		cfg.NodeLabels = m.labels
		if s.cfg.Hubble.Listen != "" && cfg.Address == "" {
			port := e.hubble[len(e.hubble)-1].Addr().(*net.TCPAddr).Port
			cfg.Peers = func() []api.HubblePeer { return m.peers(port) }
		}
	}
	return api.NewHubble(cfg, events{s.spine}, log)
}

// mapOfTalk returns what makes a map of who talks to whom, nil where connections
// are not watched: a map that nobody asked for attaches no hooks.
func (s *self) mapOfTalk() *api.MapCollector {
	if !s.cfg.watchesConnections() {
		return nil
	}
	return api.NewMapCollector(api.MapConfig{Node: s.cfg.Node})
}
