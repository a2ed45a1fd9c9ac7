package api

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

// Answer is what [MapRoute] of an agent answers.
func (c *MapCollector) Answer(_ context.Context, q MapQuestion) (Map, error) { return c.Map(q) }

// Map returns the map of a span. The error is an [*Error] for a span that is
// not remembered.
func (c *MapCollector) Map(q MapQuestion) (Map, error) {
	if q.Since > MapMemory {
		return Map{}, tooFarBack(q.Since)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	m := Map{Since: c.started, Until: now, Lost: c.lost, Forgotten: c.forgot}
	if c.cfg.Node != "" {
		m.Reporters = []string{c.cfg.Node}
	}
	first := int64(0)
	if q.Since > 0 {
		first = max(minuteOf(now.Add(-q.Since)), c.horizon)
		if begin := time.Unix(first*60, 0); begin.After(m.Since) {
			m.Since = begin
		}
	}
	d := drawing{nodes: map[string]*MapNode{}, edges: map[drawnKey]*drawnEdge{}}
	for k, e := range c.edges {
		c.draw(&d, &k, e, first, q.Since == 0)
	}
	c.drawServices(&d)
	d.into(&m)
	return m.within(q.Namespaces), nil
}

// A drawing is a map under way.
type drawing struct {
	nodes map[string]*MapNode // by id
	edges map[drawnKey]*drawnEdge
}

type drawnKey struct {
	from, to, l4 string
	port         uint16
	seenBy, node string
	sameNode     bool
}

type drawnEdge struct {
	figures
	active uint64
}

// node adds a node, or what is told anew of one that is there.
func (d *drawing) node(n MapNode) *MapNode {
	is := d.nodes[n.ID]
	if is == nil {
		n.Services, n.Backends = slices.Clone(n.Services), slices.Clone(n.Backends)
		d.nodes[n.ID] = &n
		return &n
	}
	is.HostNetwork = is.HostNetwork || n.HostNetwork
	is.Services = union(is.Services, n.Services)
	is.Backends = union(is.Backends, n.Backends)
	return is
}

// union returns the elements of both, in order, each once.
func union(a, b []string) []string {
	if len(b) == 0 {
		return a
	}
	l := slices.Concat(a, b)
	slices.Sort(l)
	return slices.Compact(l)
}

func (d *drawing) edge(k drawnKey, f *figures, active uint64) {
	e := d.edges[k]
	if e == nil {
		e = &drawnEdge{}
		d.edges[k] = e
	}
	e.add(f)
	e.active += active
}

// into puts a drawing into a map, in order.
func (d *drawing) into(m *Map) {
	m.Nodes, m.Edges = make([]MapNode, 0, len(d.nodes)), make([]MapEdge, 0, len(d.edges))
	for _, n := range d.nodes {
		m.Nodes = append(m.Nodes, *n)
	}
	for k, e := range d.edges {
		out := e.figures.edge()
		out.From, out.To, out.Protocol, out.Port, out.SeenBy, out.FromNode, out.SameNode, out.Active = k.from, k.to, k.l4, k.port, k.seenBy, k.node, k.sameNode, e.active
		m.Edges = append(m.Edges, out)
	}
	m.sort()
}

// draw adds an edge with its figures since a minute, or all of them.
func (c *MapCollector) draw(d *drawing, k *mapKey, e *mapEdge, first int64, all bool) {
	from, to := k.from, k.to
	if _, ours := c.own[from.addr]; ours && k.server {
		return // its client is on this machine, and tells
	}
	if at, ok := c.listener(&to, k); ok {
		to = at
	} else if to.addr.IsLoopback() && (from.kind == MapWorkload || from.kind == MapContainer) {
		to = from // the same network namespace
	}
	f := e.total
	if !all {
		f = figures{}
		for i := range e.minutes {
			if e.minutes[i].minute >= first {
				f.add(&e.minutes[i].figures)
			}
		}
	}
	active := uint64(max(0, e.active))
	if active == 0 && f.connections == 0 && f.failed == 0 && f.sent == 0 && f.received == 0 && len(f.errors) == 0 {
		return
	}
	key := drawnKey{from: d.node(from.node()).ID, to: d.node(to.node()).ID, l4: k.l4.String(), port: k.port, seenBy: SeenByClient, node: k.fromNode, sameNode: k.sameNode}
	if k.server {
		key.seenBy = SeenByServer
	}
	d.edge(key, &f, active)
}

// listener returns who listens at an address of this machine.
func (c *MapCollector) listener(to *mapEnd, k *mapKey) (mapEnd, bool) {
	if to.kind != MapAddress {
		return mapEnd{}, false
	}
	netns, ours := c.own[to.addr]
	if to.addr.IsLoopback() {
		netns, ours = to.netns, true
	}
	if !ours {
		return mapEnd{}, false
	}
	at, ok := c.listeners[mapSocket{netns, k.port, k.l4}]
	return at, ok
}

// drawServices adds which workloads are behind services: what else but the
// agents of these workloads could tell?
func (c *MapCollector) drawServices(d *drawing) {
	until := c.newest - int64(MapMemory/time.Minute)
	for svc, workloads := range c.backends {
		n := svc.node()
		for w, seen := range workloads {
			if seen < until {
				delete(workloads, w)
				continue
			}
			n.Backends = append(n.Backends, d.node(w.node()).ID)
		}
		if len(n.Backends) == 0 {
			delete(c.backends, svc)
			continue
		}
		slices.Sort(n.Backends)
		n.Backends = slices.Compact(n.Backends) // of a workload with and without its node's network
		d.node(n)
	}
}

// MergeMaps puts the maps of agents together: each connection counts once,
// though the agents of both its ends may have told, and a service with one
// workload behind it becomes that workload.
//
// The two reports of a connection cannot be matched: between client and server
// stands the service's address. So what the client's side tells counts, and
// what the server's side tells only where no client's side could: where the
// client is on a node whose agent is not among the reporters, or outside. An
// address of a node stands for its host's processes, and for whomever the node
// forwards. On the server's own node the agent knows which; of another node, the
// server's report counts unless processes of that node's host talk to the same
// server.
//
// The result is merged again without harm, and in any order. What a report says
// of a node under another's id does not count, and a service has no backends
// outside its namespace: an agent that lies puts nobody's edges into another's
// namespace, by which [Map.Restrict] decides who sees them.
func MergeMaps(reports []Map) Map {
	var m Map
	d := drawing{nodes: map[string]*MapNode{}, edges: map[drawnKey]*drawnEdge{}}
	for i := range reports {
		r := &reports[i]
		if i == 0 || r.Since.Before(m.Since) {
			m.Since = r.Since
		}
		if r.Until.After(m.Until) {
			m.Until = r.Until
		}
		m.Reporters = union(m.Reporters, r.Reporters)
		m.Missing = union(m.Missing, r.Missing)
		m.Total += r.Total
		m.Lost += r.Lost
		m.Forgotten += r.Forgotten
		for _, n := range r.Nodes {
			if n.sound() {
				n.Backends = n.behind()
				d.node(n)
			}
		}
	}
	mg := merger{nodes: d.nodes, reporters: m.Reporters, hosts: map[hostPort]string{}, callers: map[[2]string]bool{}}
	mg.study(reports)
	for i := range reports {
		for j := range reports[i].Edges {
			e := &reports[i].Edges[j]
			if e.SeenBy == SeenByServer && mg.clientTells(e, reports[i].Reporters) {
				continue
			}
			k := drawnKey{from: mg.alias(e.From), to: mg.target(e), l4: e.Protocol, port: e.Port, seenBy: e.SeenBy}
			if other := k; other.seenBy == SeenByServer {
				other.seenBy = SeenByClient
				if d.edges[other] != nil {
					k = other
				}
			} else if other.seenBy = SeenByServer; d.edges[other] != nil {
				d.edges[k] = d.edges[other]
				delete(d.edges, other)
			}
			f := figuresOf(e)
			d.edge(k, &f, e.Active)
		}
	}
	mg.tidy(&d)
	d.into(&m)
	return m
}

// A merger knows what all reports together tell.
type merger struct {
	nodes     map[string]*MapNode
	reporters []string
	// hosts are the processes of hosts, and workloads in their network, that were
	// seen to accept: who is meant by a node's address.
	hosts map[hostPort]string
	// callers are the nodes whose hosts' processes talk to a server: node and id.
	callers map[[2]string]bool
}

type hostPort struct {
	node, l4 string
	port     uint16
}

// study gathers what deciding on edges takes.
func (mg *merger) study(reports []Map) {
	for i := range reports {
		r := &reports[i]
		if len(r.Reporters) == 1 {
			for _, e := range r.Edges {
				if e.SeenBy == SeenByServer && mg.onHost(e.To) {
					mg.hosts[hostPort{r.Reporters[0], e.Protocol, e.Port}] = e.To
				}
			}
		}
		for _, e := range r.Edges {
			if e.SeenBy != SeenByClient || e.FromNode == "" || e.SameNode || !mg.onHost(e.From) {
				continue
			}
			mg.callers[[2]string{e.FromNode, mg.alias(e.To)}] = true
			if n := mg.nodes[e.To]; n != nil {
				for _, b := range n.Backends {
					mg.callers[[2]string{e.FromNode, b}] = true
				}
			}
		}
	}
}

// onHost reports whether a node of the map uses the addresses of a node of the
// cluster.
func (mg *merger) onHost(id string) bool {
	n := mg.nodes[id]
	return n != nil && (n.Kind == MapProcess || n.Kind == MapContainer || n.HostNetwork)
}

// clientTells reports whether what a server's side tells, reported by some
// agents, was told by the client's side too.
func (mg *merger) clientTells(e *MapEdge, by []string) bool {
	if _, reports := slices.BinarySearch(mg.reporters, e.FromNode); e.FromNode == "" || !reports {
		return false
	}
	if n := mg.nodes[e.From]; n != nil && n.Kind != MapHost && !n.HostNetwork {
		return true
	}
	if len(by) == 1 && by[0] == e.FromNode {
		return false // see MapCollector.clientTells
	}
	return mg.callers[[2]string{e.FromNode, mg.alias(e.To)}]
}

// alias returns the node that stands for another: the workload, where it alone
// is behind a service.
func (mg *merger) alias(id string) string {
	if n := mg.nodes[id]; n != nil && n.Kind == MapService && len(n.Backends) == 1 && mg.nodes[n.Backends[0]] != nil {
		return n.Backends[0]
	}
	return id
}

// target returns who is at the far end of an edge.
func (mg *merger) target(e *MapEdge) string {
	if node, ok := strings.CutPrefix(e.To, string(MapHost)+"/"); ok {
		if at, ok := mg.hosts[hostPort{node, e.Protocol, e.Port}]; ok {
			return at
		}
	}
	return mg.alias(e.To)
}

// tidy leaves out nodes without edges, and gives workloads their services.
func (mg *merger) tidy(d *drawing) {
	for _, id := range slices.Sorted(maps.Keys(d.nodes)) {
		if to := mg.alias(id); to != id {
			w := d.nodes[to]
			w.Services = union(w.Services, []string{d.nodes[id].Name})
		}
	}
	used := map[string]bool{}
	for k := range d.edges {
		for _, id := range []string{k.from, k.to} {
			used[id] = true
			if d.nodes[id] == nil {
				d.nodes[id] = &MapNode{ID: id, Kind: MapWorld, Name: id} // a report that lacks it
			}
		}
	}
	for id := range maps.Clone(used) {
		for _, b := range d.nodes[id].Backends {
			used[b] = true
		}
	}
	maps.DeleteFunc(d.nodes, func(id string, _ *MapNode) bool { return !used[id] })
}
