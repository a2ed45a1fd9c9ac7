package api

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"warren/event"
)

// MapConfig are a collector's settings; zero values stand for the defaults.
type MapConfig struct {
	// Node is the node of the cluster that the agent is on, "" outside one.
	Node string
	// MaxEdges bounds the edges. Default 4096.
	MaxEdges int
	// MaxMinutes bounds the minutes of all edges in which something happened.
	// Default 65536, of about 100 bytes each.
	MaxMinutes int
	// MaxConnections bounds those that are followed at a time. Default 65536, of
	// about 60 bytes each.
	MaxConnections int
	// Now is the clock; nil is the real one.
	Now func() time.Time
}

func (c MapConfig) withDefaults() MapConfig {
	c.MaxEdges = cmp.Or(c.MaxEdges, 4096)
	c.MaxMinutes = max(cmp.Or(c.MaxMinutes, 65536), 2*c.MaxEdges) // the present minute of each is never dropped
	c.MaxConnections = cmp.Or(c.MaxConnections, 65536)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

const (
	// mapFan is how many names and addresses outside an end is told to talk to;
	// what is beyond is not told apart.
	mapFan = 64
	// mapLearnt bounds what is learnt on the way: listening sockets, own
	// addresses, services. What is beyond is learnt anew.
	mapLearnt = 8192
)

// A MapCollector makes a map of an agent's events. Any goroutine may call its
// methods; Run is called once.
//
// Counters of connections only grow: what is counted is by how much, in the
// minute in which it was told. A connection that is older than the collector
// counts from when it was first seen.
type MapCollector struct {
	cfg     MapConfig
	started time.Time

	mu    sync.Mutex
	edges map[mapKey]*mapEdge
	// A TCP connection is known by its socket's cookie alone.
	byCookie map[uint64]*followed
	byKey    map[mapConn]*followed
	fan      map[mapEnd]int // ends outside that an end has edges with
	minutes  int            // of all edges
	newest   int64          // the last minute, counted from 1970
	horizon  int64          // the first minute that is complete
	trusted  time.Time      // connections that began later have been followed from their start
	lost     uint64
	forgot   uint64

	listeners map[mapSocket]mapEnd
	own       map[netip.Addr]uint32       // this machine's addresses, and the network namespace of each
	hostPorts map[mapSocket]int64         // ports that processes of the host connect from, and when they last did
	backends  map[mapEnd]map[mapEnd]int64 // service -> workloads behind it, and when that was last so
}

// A mapKey tells edges apart.
type mapKey struct {
	from, to mapEnd
	port     uint16
	l4       event.Proto
	server   bool   // seen by the server
	fromNode string // of the clients
	sameNode bool   // for a client's side: the server is a pod of this node
}

// A mapEdge is what is counted of one edge.
type mapEdge struct {
	total   figures
	minutes []minuteFigures // oldest first
	active  int
	last    int64 // minute
}

type minuteFigures struct {
	minute int64
	figures
}

// A mapConn names a connection whose socket is not enough.
type mapConn struct {
	cookie        uint64
	netns         uint32
	l4            event.Proto
	local, remote netip.AddrPort
}

// A mapSocket is a socket that listens.
type mapSocket struct {
	netns uint32
	port  uint16
	l4    event.Proto
}

// A followed connection is one that goes on.
type followed struct {
	edge                        *mapEdge // nil while its process is unknown, and where the client tells
	told                        bool     // by the client, on this machine too
	opened                      uint64   // 1 if its opening waits to be counted
	sent, received, retransmits uint64   // counted already
	begun, seen                 int64    // minutes
}

// NewMapCollector returns a collector that has seen nothing.
func NewMapCollector(cfg MapConfig) *MapCollector {
	cfg = cfg.withDefaults()
	now := cfg.Now()
	return &MapCollector{
		cfg: cfg, started: now, trusted: now, newest: minuteOf(now), horizon: minuteOf(now),
		edges: map[mapKey]*mapEdge{}, byCookie: map[uint64]*followed{}, byKey: map[mapConn]*followed{}, fan: map[mapEnd]int{},
		listeners: map[mapSocket]mapEnd{}, own: map[netip.Addr]uint32{}, hostPorts: map[mapSocket]int64{}, backends: map[mapEnd]map[mapEnd]int64{},
	}
}

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

// Run collects until ctx ends or the events do, and then returns nil.
func (c *MapCollector) Run(ctx context.Context, events Events) error {
	return consume(ctx, events, "map", event.Kinds(event.KindConnection), c.Add)
}

// Add counts an event; kinds that say nothing of connections are passed over.
func (c *MapCollector) Add(e *event.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch d := e.Data.(type) {
	case *event.Lost:
		c.lost += d.Count
	case *event.Connection:
		c.tick(minuteOf(e.Time))
		c.learn(e, d)
		if d.Direction() != "listen" && d.Remote.IsValid() {
			c.count(e, d)
		}
	}
}

// tick moves to a minute. Events of one that is over count in the newest.
func (c *MapCollector) tick(minute int64) {
	if minute <= c.newest {
		return
	}
	c.newest = minute
	c.forgetBefore(minute - int64(MapMemory/time.Minute))
}

// forgetBefore drops the minutes before one.
func (c *MapCollector) forgetBefore(minute int64) {
	c.horizon = max(c.horizon, minute)
	for _, e := range c.edges {
		n := 0
		for n < len(e.minutes) && e.minutes[n].minute < minute {
			n++
		}
		e.minutes = slices.Delete(e.minutes, 0, n)
		c.minutes -= n
	}
}

// learn remembers what an event tells of this machine: where it listens, its
// addresses, who connects from it, and for which services a pod stands.
func (c *MapCollector) learn(e *event.Event, d *event.Connection) {
	at := mapSocket{d.NetNS, d.LocalPort, d.L4}
	switch {
	case d.Direction() == "listen" && d.Type == "close":
		delete(c.listeners, at)
	case d.Server && e.Process != nil:
		remember(c.listeners, at, actorEnd(e.Process))
	}
	if d.Local.IsValid() && !d.Local.IsLoopback() && !d.Local.IsUnspecified() {
		remember(c.own, d.Local, d.NetNS)
	}
	if c.cfg.Node != "" && !d.Server && onHostNetwork(e.Process) {
		remember(c.hostPorts, mapSocket{port: d.LocalPort, l4: d.L4}, c.newest)
	}
	if !d.Server || e.Process == nil || e.Process.Container == nil || e.Process.Container.Pod == nil {
		return
	}
	pod := e.Process.Container.Pod
	for _, name := range e.Process.Container.Services {
		svc := mapEnd{kind: MapService, namespace: utf8Only(pod.Namespace), name: utf8Only(name)}
		if c.backends[svc] == nil {
			remember(c.backends, svc, map[mapEnd]int64{})
		}
		remember(c.backends[svc], podEnd(pod), c.newest)
	}
}

// onHostNetwork reports whether a process has the addresses of its machine; one
// that is not known yet may.
func onHostNetwork(p *event.Process) bool {
	return p == nil || p.Container == nil || p.Container.Pod != nil && p.Container.Pod.HostNetwork
}

// clientTells reports whether the other end of a connection that was accepted
// is a process of this node's host, which tells of it too. What the node
// forwards for others comes from the same addresses, but from other ports.
func (c *MapCollector) clientTells(d *event.Connection) bool {
	if p := d.RemotePeer; c.cfg.Node == "" || p == nil || p.Node == nil || p.Node.Name != c.cfg.Node {
		return false
	}
	seen, ok := c.hostPorts[mapSocket{port: d.RemotePort, l4: d.L4}]
	return ok && seen >= c.newest-1
}

// remember sets a value; a map that is full begins anew.
func remember[K comparable, V any](m map[K]V, k K, v V) {
	if _, ok := m[k]; !ok && len(m) >= mapLearnt {
		clear(m)
	}
	m[k] = v
}

// count counts what happened to a connection.
func (c *MapCollector) count(e *event.Event, d *event.Connection) {
	if d.Server && (d.Remote.IsLoopback() || d.Remote == d.Local) {
		return // its client is on this machine, and tells
	}
	key := mapConn{cookie: d.Cookie, l4: d.L4}
	if d.Cookie == 0 || d.L4 != event.TCP {
		key.remote = netip.AddrPortFrom(d.Remote, d.RemotePort)
	}
	if d.Cookie == 0 {
		key.netns, key.local = d.NetNS, netip.AddrPortFrom(d.Local, d.LocalPort)
	}
	f := c.get(key)
	opens := isOpening(d.Type)
	if f != nil && opens && !d.Server {
		c.drop(key, f) // the socket begins again: another connection
		f = nil
	}
	if d.Type == "connect" && (d.State == event.Close && d.L4 == event.TCP || d.Res != 0 && d.Res != inProgress) {
		if edge := c.edge(e, d); edge != nil {
			now := figures{failed: 1}
			if why := trouble(d); why != "" {
				now.fail(why, 1)
			}
			c.addTo(edge, &now)
		}
		return
	}
	if f == nil {
		f = c.follow(key)
		f.told = d.Server && c.clientTells(d)
		if opens || !d.Existing && d.Start.After(c.trusted) {
			f.opened = 1
		} else {
			f.sent, f.received, f.retransmits = d.BytesSent, d.BytesReceived, uint64(d.Retransmits)
		}
	}
	f.seen = c.newest
	over := d.Type == "close" || d.State == event.Close && d.L4 == event.TCP
	if over {
		defer c.drop(key, f)
	}
	switch {
	case f.told, f.edge == nil && e.Process == nil && !over && f.begun == c.newest:
		return // somebody else's to count, or to be known soon
	case f.edge == nil && onlyNamed(d):
		return
	case f.edge == nil:
		if f.edge = c.edge(e, d); f.edge == nil {
			return
		}
		f.edge.active++
	}
	var now figures
	now.connections, f.opened = f.opened, 0
	now.sent, f.sent = grown(f.sent, d.BytesSent)
	now.received, f.received = grown(f.received, d.BytesReceived)
	now.retransmits, f.retransmits = grown(f.retransmits, uint64(d.Retransmits))
	if d.Server {
		now.sent, now.received = now.received, now.sent
	}
	if d.RTT > 0 {
		now.measure(d.RTT, min(d.RTT, cmp.Or(d.MinRTT, d.RTT)), d.RTT, 1)
	}
	if why := trouble(d); over && why != "" {
		now.fail(why, 1)
	}
	c.addTo(f.edge, &now)
}

// onlyNamed reports whether a UDP socket that was there before the sensor has a
// peer and no datagram of it has been seen. Whoever asks the kernel by which
// address it would reach another connects such a socket, and talks to nobody.
func onlyNamed(d *event.Connection) bool {
	return d.L4 == event.UDP && d.Existing && d.BytesSent|d.BytesReceived|d.PacketsSent|d.PacketsRecv == 0
}

// inProgress is how a connect that does not wait returns; its outcome follows.
const inProgress = 115 // EINPROGRESS

func isOpening(typ string) bool {
	switch typ {
	case "connect", "accept", "accept4", "sendto", "recvfrom":
		return true
	}
	return false
}

// grown returns by how much a counter has grown, and what it is.
func grown(was, is uint64) (by, now uint64) {
	if is <= was {
		return 0, was
	}
	return is - was, is
}

// addTo adds to an edge, in this minute.
func (c *MapCollector) addTo(e *mapEdge, now *figures) {
	e.last = c.newest
	e.total.add(now)
	n := len(e.minutes)
	if n == 0 || e.minutes[n-1].minute != c.newest {
		if c.minutes >= c.cfg.MaxMinutes {
			c.forgetBefore(c.oldest() + 1)
		}
		e.minutes = append(e.minutes, minuteFigures{minute: c.newest})
		n = len(e.minutes)
		c.minutes++
	}
	e.minutes[n-1].add(now)
}

// oldest returns the oldest minute of any edge.
func (c *MapCollector) oldest() int64 {
	least := c.newest
	for _, e := range c.edges {
		if len(e.minutes) > 0 {
			least = min(least, e.minutes[0].minute)
		}
	}
	return least
}

func (k *mapConn) simple() bool { return k.cookie != 0 && k.l4 == event.TCP }

func (c *MapCollector) get(k mapConn) *followed {
	if k.simple() {
		return c.byCookie[k.cookie]
	}
	return c.byKey[k]
}

// follow begins to follow a connection.
func (c *MapCollector) follow(k mapConn) *followed {
	if len(c.byCookie)+len(c.byKey) >= c.cfg.MaxConnections {
		c.dropOldest()
	}
	f := &followed{begun: c.newest}
	if k.simple() {
		c.byCookie[k.cookie] = f
	} else {
		c.byKey[k] = f
	}
	return f
}

func (c *MapCollector) drop(k mapConn, f *followed) {
	if f.edge != nil {
		f.edge.active--
	}
	if k.simple() {
		delete(c.byCookie, k.cookie)
	} else {
		delete(c.byKey, k)
	}
}

// dropOldest makes room by following no more what has not been heard of for
// longest: among them are those whose end was lost. One that is heard of again
// counts from there.
func (c *MapCollector) dropOldest() {
	var seen []int64
	for _, f := range c.byCookie {
		seen = append(seen, f.seen)
	}
	for _, f := range c.byKey {
		seen = append(seen, f.seen)
	}
	slices.Sort(seen)
	left := max(1, len(seen)/16)
	until := seen[left-1]
	for k, f := range c.byCookie {
		if left > 0 && f.seen <= until {
			c.drop(mapConn{cookie: k, l4: event.TCP}, f)
			left--
		}
	}
	for k, f := range c.byKey {
		if left > 0 && f.seen <= until {
			c.drop(k, f)
			left--
		}
	}
	c.trusted = c.cfg.Now()
}

// edge returns the edge that a connection is of, nil where there is no room.
func (c *MapCollector) edge(e *event.Event, d *event.Connection) *mapEdge {
	actor := actorEnd(e.Process)
	remote, node := remoteEnd(&d.Socket)
	if _, ours := c.own[d.Remote]; ours && remote.isOutside() {
		remote = mapEnd{kind: MapAddress, addr: d.Remote}
	}
	k := mapKey{l4: d.L4, server: d.Server, fromNode: node}
	set := func(remote mapEnd) {
		if d.Server {
			k.from, k.to, k.port = remote, actor, d.LocalPort
		} else {
			k.from, k.to, k.port, k.fromNode = actor, remote, d.RemotePort, c.cfg.Node
			k.sameNode = node != "" && node == c.cfg.Node && remote.kind == MapWorkload
		}
	}
	set(remote)
	if edge := c.edges[k]; edge != nil {
		return edge
	}
	if remote.isOutside() && c.fan[actor] >= mapFan {
		set(world(d.Remote))
		if edge := c.edges[k]; edge != nil {
			return edge
		}
	}
	if len(c.edges) >= c.cfg.MaxEdges && !c.forgetEdges() {
		c.forgot++
		return nil
	}
	edge := &mapEdge{last: c.newest}
	c.edges[k] = edge
	c.fanOut(&k, 1)
	return edge
}

// fanOut counts the ends outside that an end has edges with.
func (c *MapCollector) fanOut(k *mapKey, by int) {
	actor, remote := k.from, k.to
	if k.server {
		actor, remote = remote, actor
	}
	if !remote.isOutside() {
		return
	}
	if c.fan[actor] += by; c.fan[actor] <= 0 {
		delete(c.fan, actor)
	}
}

// forgetEdges makes room: of the edges without a connection, those that are
// silent for longest go. It reports whether there were any.
func (c *MapCollector) forgetEdges() bool {
	var silent []mapKey
	for k, e := range c.edges {
		if e.active <= 0 {
			silent = append(silent, k)
		}
	}
	slices.SortFunc(silent, func(a, b mapKey) int { return cmp.Compare(c.edges[a].last, c.edges[b].last) })
	silent = silent[:min(len(silent), max(1, c.cfg.MaxEdges/16))]
	for _, k := range silent {
		c.minutes -= len(c.edges[k].minutes)
		delete(c.edges, k)
		c.fanOut(&k, -1)
		c.forgot++
	}
	return len(silent) > 0
}
