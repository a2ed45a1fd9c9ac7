package identity

import (
	"slices"

	"warren/cluster"
	"warren/event"
)

// ends finds connections by their ends, for those who know packets and no
// sockets. It costs each connection something, so it is made when the first
// flow, or a socket that is about to make one, is told.
type ends struct {
	on bool
	// rows are by both ends, and those of clients by the near end too: what is
	// asked of a service is answered by another address.
	rows map[endsKey]*row
	// open are the sockets that listen, or take datagrams from anybody, by port.
	open map[openKey][]*row
	// trying are the owners of sockets that ask for a connection and have no
	// answer yet, by the near end: two generations, the older forgotten at once.
	trying [2]map[endsKey]event.Key
}

// An endsKey is two ends, or the near one alone. Addresses are those of IPv6.
type endsKey struct {
	local, remote [16]byte
	lport, rport  uint16
	l4            event.Proto
}

type openKey struct {
	port uint16
	l4   event.Proto
}

// endsSize is what a connection costs when it is found by its ends too.
const endsSize = 2 * (48 + 8)

const (
	maxOpen   = 1024 // sockets of one port: as many pods may listen on it
	maxTrying = 8192
)

func endsOf(s *event.Socket) endsKey {
	k := endsKey{lport: s.LocalPort, rport: s.RemotePort, l4: s.L4}
	if s.Local.IsValid() {
		k.local = s.Local.As16()
	}
	if s.Remote.IsValid() {
		k.remote = s.Remote.As16()
	}
	return k
}

// near is the near end of k alone.
func (k endsKey) near() endsKey { return endsKey{local: k.local, lport: k.lport, l4: k.l4} }

// begin makes the index of what is known.
func (x *ends) begin(t *connections) {
	x.on = true
	x.rows = map[endsKey]*row{}
	x.open = map[openKey][]*row{}
	x.trying = [2]map[endsKey]event.Key{{}, {}}
	t.bytes += endsSize * int64(t.living.n+t.closed.n)
	for _, l := range []*list[row]{&t.closed, &t.living} {
		for r := range l.all {
			x.add(r)
		}
	}
}

// add enters a row by its last event.
func (x *ends) add(r *row) {
	s := &r.last.Socket
	switch {
	case !x.on || s.LocalPort == 0 || s.Local.IsLoopback():
		// Each network namespace has its own loopback: who is meant is not known.
	case !s.Remote.IsValid():
		k := openKey{s.LocalPort, s.L4}
		if l := x.open[k]; len(l) < maxOpen && !slices.Contains(l, r) {
			x.open[k] = append(l, r)
		}
	default:
		k := endsOf(s)
		x.rows[k] = r
		if !s.Server {
			x.rows[k.near()] = r
		}
	}
}

// drop removes what add has entered.
func (x *ends) drop(r *row) {
	if !x.on {
		return
	}
	s := &r.last.Socket
	if !s.Remote.IsValid() {
		k := openKey{s.LocalPort, s.L4}
		if l := x.open[k]; len(l) > 0 {
			if l = slices.DeleteFunc(l, func(o *row) bool { return o == r }); len(l) > 0 {
				x.open[k] = l
			} else {
				delete(x.open, k)
			}
		}
		return
	}
	k := endsOf(s)
	for _, k := range []endsKey{k, k.near()} {
		if x.rows[k] == r {
			delete(x.rows, k)
		}
	}
}

// moved reports whether a row's ends are no longer those by which it is found.
func moved(r *row, d *event.Connection) bool {
	s, o := &d.Socket, &r.last.Socket
	return s.LocalPort != o.LocalPort || s.RemotePort != o.RemotePort || s.Local != o.Local || s.Remote != o.Remote || s.Server != o.Server
}

// applyTrying remembers who asks for a connection.
func (i *Identity) applyTrying(e *event.Event, d *event.SocketState) {
	x := &i.conns.ends
	s := &d.Socket
	if !s.Local.IsValid() || s.Local.IsLoopback() || e.Actor.IsZero() {
		return
	}
	if !x.on {
		x.begin(&i.conns) // sockets tell where flows are told: the first is about to be
	}
	if len(x.trying[0]) >= maxTrying {
		x.trying[0], x.trying[1] = x.trying[1], x.trying[0]
		clear(x.trying[0])
	}
	x.trying[0][endsOf(s).near()] = e.Actor
}

// applyFlow completes a flow: whose its near end is, by its device or address,
// and by which process; and what is at its far end.
func (i *Identity) applyFlow(e *event.Event, d *event.Flow) {
	t := &i.conns
	if !t.ends.on {
		t.ends.begin(t)
	}
	i.nameEnds(&d.Socket, e.Ktime)
	if i.cfg.Cluster != nil {
		i.meetFlow(e, d)
	}
	if r := i.rowOf(d); r != nil {
		e.Actor, e.Process = r.actor, i.completed(r.proc)
		d.NetNS = r.last.NetNS
		if p := r.last.RemotePeer; p != nil && p.Service != nil && r.last.Remote != d.Remote {
			d.Service = p.Service
		}
		if d.Cookie == 0 && r.last.Remote.IsValid() {
			d.Cookie = r.last.Cookie
		}
	} else if !d.Server {
		k := endsOf(&d.Socket).near()
		for _, m := range t.ends.trying {
			if a, ok := m[k]; ok {
				e.Actor = a
				break
			}
		}
	}
	i.attribute(e)
	if e.Process != nil && strangers(d, e.Process) {
		e.Actor, e.Process = event.Key{}, nil
	}
}

// meetFlow says what both ends stand for.
func (i *Identity) meetFlow(e *event.Event, d *event.Flow) {
	at := e.Time
	if !d.Start.IsZero() {
		at = d.Start
	}
	d.RemotePeer, _ = i.peer(&d.Socket, at, false)
	if d.PodUID != "" {
		// Of a pod of which the cluster has not told, the address may have been
		// another's.
		if p := i.cfg.Cluster.Pod(d.PodUID); p != nil {
			d.LocalPeer = i.peers.one(cluster.Peer{Kind: cluster.PeerPod, Pod: p})
		}
		return
	}
	near := event.Socket{Remote: d.Local, L4: d.L4}
	d.LocalPeer, _ = i.peer(&near, at, false)
}

// rowOf returns the connection that a flow's packets are of, or the socket that
// will take them; nil where none is known.
func (i *Identity) rowOf(d *event.Flow) *row {
	t := &i.conns
	if d.Cookie != 0 && d.L4 == event.TCP {
		if r := t.byCookie[d.Cookie]; r != nil {
			return r
		}
	}
	k := endsOf(&d.Socket)
	if r := t.ends.rows[k]; r != nil {
		return r
	}
	if !d.Server {
		return t.ends.rows[k.near()]
	}
	var found *row
	for _, r := range t.ends.open[openKey{d.LocalPort, d.L4}] {
		if r.list != &t.closed && i.takes(r, d) {
			found = r // the latest
		}
	}
	return found
}

// takes reports whether an open socket takes what comes for the near end of a
// flow.
func (i *Identity) takes(r *row, d *event.Flow) bool {
	if a := r.last.Local; a.IsValid() && !a.IsUnspecified() {
		return a == d.Local
	}
	// It takes what comes for any address of its network namespace: the pod's.
	if d.LocalPeer == nil || d.LocalPeer.Pod == nil || r.proc == nil {
		return false
	}
	p := i.completed(r.proc)
	return p.Container != nil && p.Container.Pod != nil && p.Container.Pod.UID == d.LocalPeer.Pod.UID
}

// strangers reports whether a process is in another pod than the near end of a
// flow: an address, or a port, is somebody else's by now.
func strangers(d *event.Flow, p *event.Process) bool {
	uid := d.PodUID
	if uid == "" && d.LocalPeer != nil && d.LocalPeer.Pod != nil {
		uid = d.LocalPeer.Pod.UID
	}
	if uid == "" || p.Container == nil || p.Container.Pod == nil {
		return false
	}
	return p.Container.Pod.UID != uid
}
