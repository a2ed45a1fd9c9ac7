package api

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"warren/cluster"
	"warren/event"
	"warren/netpol"
)

// What a report's talk was read from.
const (
	TalkOfFlows       = "flows"
	TalkOfConnections = "connections"
)

// PolicyConfig are a collector's settings; zero values stand for the defaults.
type PolicyConfig struct {
	// Flows says that a datapath tells what packets do. Without one connections
	// of sockets are looked at: then who asks for a service's address is known by
	// the agent of the pod behind it.
	Flows bool
	// World returns what policies are about now; it may be called from any
	// goroutine.
	World func() (*netpol.World, error)
	// MaxTalk bounds who talks to whom at which port. Default 65536, of about 250
	// bytes each and the pods that are gone.
	MaxTalk int
	// Now is the clock; nil is the real one.
	Now func() time.Time
}

// A PolicyCollector remembers who talked to whom, for those who write policies.
// Any goroutine may call its methods; Run is called once.
type PolicyCollector struct {
	cfg     PolicyConfig
	started time.Time

	mu     sync.Mutex
	talk   map[talkKey]*talked
	lost   uint64
	forgot uint64
}

// talked is one line of talk, with the pods that there were.
type talked struct {
	PolicyTalk
	from, to *cluster.Pod
}

// NewPolicyCollector returns a collector that has seen nothing.
func NewPolicyCollector(cfg PolicyConfig) *PolicyCollector {
	cfg.MaxTalk = cmp.Or(cfg.MaxTalk, 65536)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &PolicyCollector{cfg: cfg, started: cfg.Now(), talk: map[talkKey]*talked{}}
}

// Run collects until ctx ends or the events do, and then returns nil.
func (c *PolicyCollector) Run(ctx context.Context, events Events) error {
	kind := event.KindConnection
	if c.cfg.Flows {
		kind = event.KindFlow
	}
	return consume(ctx, events, "policy", event.Kinds(kind), c.Add)
}

// Add takes in an event; kinds that say nothing of who talks to whom are passed
// over.
func (c *PolicyCollector) Add(e *event.Event) {
	switch d := e.Data.(type) {
	case *event.Lost:
		c.mu.Lock()
		c.lost += d.Count
		c.mu.Unlock()
	case *event.Flow:
		if d.Reply || !c.cfg.Flows {
			return // the flow's first packet told it
		}
		local := cluster.Peer{}
		if d.LocalPeer != nil {
			local = *d.LocalPeer
		}
		c.add(e.Time, &d.Socket, local, d.Verdict == event.Dropped, d.Type == "flow_new" || d.Type == "flow_drop")
	case *event.Connection:
		if c.cfg.Flows || e.Process == nil || e.Process.Container == nil || d.Direction() == "listen" || !reached(d) {
			return
		}
		pod := e.Process.Container.Pod
		if pod == nil {
			return
		}
		c.add(e.Time, &d.Socket, cluster.Peer{Kind: cluster.PeerPod, Pod: pod}, false, isOpening(d.Type))
	}
}

// reached reports whether packets of a connection have come to its other end: it
// is there, or was refused.
func reached(d *event.Connection) bool {
	switch d.Res {
	case 0, inProgress, event.Errno(unix.ECONNREFUSED):
		return d.State != event.SynSent
	}
	return false
}

// add remembers that a socket's two ends talked.
func (c *PolicyCollector) add(at time.Time, s *event.Socket, local cluster.Peer, dropped, opens bool) {
	remote := cluster.Peer{}
	if s.RemotePeer != nil {
		remote = *s.RemotePeer
	}
	switch {
	case remote.Service != nil || local.Service != nil:
		return // whoever is behind it tells who asked
	case !s.Local.IsValid() || !s.Remote.IsValid() || s.Remote.IsLoopback() || s.Local.Unmap() == s.Remote.Unmap():
		return // no policy is about this
	case remote.Kind == "" && remote.Pod == nil && remote.Node == nil && s.Remote.IsPrivate():
		return // nobody knows yet who that is
	}
	from, to := side{s.Local, local}, side{s.Remote, remote}
	t := talked{PolicyTalk: PolicyTalk{Protocol: uint8(s.L4), Port: s.RemotePort, Dropped: dropped, SeenBy: SeenByClient, First: at, Last: at}}
	if s.Server {
		from, to = to, from
		t.Port, t.SeenBy = s.LocalPort, SeenByServer
	}
	if s.L4 != event.TCP && s.L4 != event.UDP && s.L4 != unix.IPPROTO_SCTP {
		t.Port = 0
	}
	t.From, t.from = from.party()
	t.To, t.to = to.party()
	c.mu.Lock()
	defer c.mu.Unlock()
	k := keyOfTalk(&t.PolicyTalk)
	known := c.talk[k]
	if known == nil {
		if len(c.talk) >= c.cfg.MaxTalk {
			c.forget()
		}
		known = &t
		known.Count = 1
		c.talk[k] = known
		return
	}
	if opens {
		known.Count++
	}
	if at.After(known.Last) {
		known.Last = at
	}
}

// A side is one end, as it was told.
type side struct {
	addr netip.Addr
	peer cluster.Peer
}

func (s side) party() (PolicyParty, *cluster.Pod) {
	p := PolicyParty{Addr: s.addr.Unmap().WithZone("")}
	switch {
	case s.peer.Pod != nil:
		p.Pod = s.peer.Pod.UID
		if s.peer.Pod.HostNetwork {
			p.Node = s.peer.Pod.Node
		}
	case s.peer.Node != nil:
		p.Node = s.peer.Node.Name
	}
	return p, s.peer.Pod
}

// forget drops the eighth that was silent for longest. Where a good part is what
// was denied, it is of that: who tries all ports pushes out nobody who may talk.
func (c *PolicyCollector) forget() {
	var denied, last []time.Time
	for _, t := range c.talk {
		last = append(last, t.Last)
		if t.Dropped {
			denied = append(denied, t.Last)
		}
	}
	only := len(denied) > len(last)/4
	if only {
		last = denied
	}
	slices.SortFunc(last, time.Time.Compare)
	limit := last[len(last)/8]
	for k, t := range c.talk {
		if !t.Last.After(limit) && (t.Dropped || !only) {
			delete(c.talk, k)
			c.forgot++
		}
	}
}

// Answer returns a report.
func (c *PolicyCollector) Answer(_ context.Context, q PolicyQuestion) (PolicyReport, error) {
	w, err := c.cfg.World()
	if err != nil {
		return PolicyReport{}, err
	}
	asked := func(ns string) bool { return len(q.Namespaces) == 0 || slices.Contains(q.Namespaces, ns) }
	r := PolicyReport{Since: c.started, Until: c.cfg.Now(), Source: TalkOfConnections, Namespaces: map[string]map[string]string{}}
	if c.cfg.Flows {
		r.Source = TalkOfFlows
	}
	pods := map[string]PolicyPod{}
	seen := func(p *cluster.Pod, gone bool) {
		if p == nil {
			return
		}
		if _, ok := pods[p.UID]; ok && gone {
			return
		}
		pods[p.UID] = PolicyPod{UID: p.UID, Name: p.Name, Namespace: p.Namespace, Node: p.Node, Labels: p.Labels, NamespaceLabels: p.NamespaceLabels,
			Addrs: p.Addrs, HostNetwork: p.HostNetwork, Ports: p.Ports, Workload: p.Workload, Started: p.Started, Gone: gone}
	}
	c.mu.Lock()
	r.Lost, r.Forgotten = c.lost, c.forgot
	for _, t := range c.talk {
		if q.Part == PolicyWorld {
			break
		}
		if t.from != nil && asked(t.from.Namespace) || t.to != nil && asked(t.to.Namespace) {
			r.Talk = append(r.Talk, t.PolicyTalk)
			seen(t.from, true)
			seen(t.to, true)
		}
	}
	c.mu.Unlock()
	r.sort()
	// Which labels tell pods apart depends on all there are in a namespace.
	near := map[string]bool{}
	for _, p := range pods {
		near[p.Namespace] = true
	}
	for _, p := range w.Pods {
		_, talked := pods[p.UID]
		if talked || q.Part != PolicyTalks && (asked(p.Namespace) || near[p.Namespace]) {
			seen(p, false)
		}
	}
	r.Pods = slices.SortedFunc(maps.Values(pods), func(a, b PolicyPod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	if q.Part == PolicyTalks {
		return r, nil
	}
	for _, n := range w.Nodes {
		r.Nodes = append(r.Nodes, PolicyNode{Name: n.Name, Labels: n.Labels, Addrs: n.Addrs, PodCIDRs: n.PodCIDRs})
	}
	for name, labels := range w.Namespaces {
		if asked(name) || near[name] {
			r.Namespaces[name] = labels
		}
	}
	for _, p := range w.Policies {
		// Those of the other ends' namespaces judge what is asked about, too.
		if p.Namespace == "" || asked(p.Namespace) || near[p.Namespace] {
			r.Policies = append(r.Policies, p)
		}
	}
	return r, nil
}
