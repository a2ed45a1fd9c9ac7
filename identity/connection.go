package identity

import (
	"net/netip"
	"time"
	"unsafe"

	"warren/event"
)

// connections is the table of TCP connections, listening sockets and UDP flows,
// living and recently closed.
//
// A row keeps the last event's data, completed by all that was known before; what
// a list shows is made when it is asked for.
type connections struct {
	byCookie map[uint64]*row // TCP sockets
	byKey    map[connKey]*row
	free     *row // to be used again; one is enough where each new row pushes an old one out

	lastID  uint64
	living  list[row] // least recently changed first
	closed  list[row] // oldest first
	bytes   int64
	evicted uint64
	stale   uint64
	ends    ends
}

func (t *connections) init() { t.byCookie, t.byKey = map[uint64]*row{}, map[connKey]*row{} }

// A connKey names a socket; and for UDP, where one socket talks to many, the
// other end too. A socket whose cookie is unknown is named by its ends. A TCP
// socket with a cookie needs nothing else.
type connKey struct {
	cookie        uint64
	netns         uint32
	local, remote netip.AddrPort
	l4            event.Proto
}

func keyOfConn(s *event.Socket) connKey {
	if s.Cookie != 0 && s.L4 == event.TCP {
		return connKey{cookie: s.Cookie, l4: s.L4}
	}
	k := connKey{cookie: s.Cookie, l4: s.L4, remote: netip.AddrPortFrom(s.Remote, s.RemotePort)}
	if s.Cookie == 0 {
		k.netns, k.local = s.NetNS, netip.AddrPortFrom(s.Local, s.LocalPort)
	}
	return k
}

func (k *connKey) simple() bool { return k.l4 == event.TCP && k.cookie != 0 }

func (t *connections) get(k *connKey) *row {
	if k.simple() {
		return t.byCookie[k.cookie]
	}
	return t.byKey[*k]
}

func (t *connections) add(k *connKey) *row {
	r := t.free
	if t.free = nil; r == nil {
		r = new(row)
	}
	t.lastID++
	*r = row{key: *k, id: t.lastID}
	if k.simple() {
		t.byCookie[k.cookie] = r
	} else {
		t.byKey[*k] = r
	}
	t.living.push(r, &r.links)
	t.bytes += t.rowBytes()
	return r
}

func (t *connections) remove(r *row) {
	r.list.drop(&r.links)
	// A later connection of the same socket may have taken its place.
	if k := &r.key; t.get(k) == r {
		if k.simple() {
			delete(t.byCookie, k.cookie)
		} else {
			delete(t.byKey, *k)
		}
	}
	t.bytes -= t.rowBytes()
	t.ends.drop(r)
	*r = row{}
	t.free = r
}

// A row is one connection.
type row struct {
	key    connKey
	id     uint64 // 0 when forgotten: a row may be used again for another connection
	actor  event.Key
	proc   *event.Process
	snap   *snap // keeps proc counted; nil where it is not the tables'
	shared bool  // proc only listened: nobody has accepted yet

	// How it began.
	typ    string
	res    event.Errno
	rawRes int64

	last  event.Connection // of the last event; a copy, since the event keeps more alive
	time  time.Time
	ktime uint64

	links[row]
}

// rowSize includes its share of the index.
const rowSize = int64(unsafe.Sizeof(row{})) + int64(unsafe.Sizeof(connKey{})) + 56

// rowBytes is what a row costs.
func (t *connections) rowBytes() int64 {
	if t.ends.on {
		return rowSize + endsSize
	}
	return rowSize
}

// opens reports whether a connection's event begins it.
func opens(d *event.Connection) bool {
	switch d.Type {
	case "connect", "accept", "accept4", "listen", "sendto", "recvfrom":
		return true
	}
	return false
}

// began returns the type of the event that began the connection of d: d's own,
// or what it must have been where it was not seen.
func began(d *event.Connection) string {
	switch {
	case opens(d):
		return d.Type
	case d.Direction() == "listen": // closed, its state no longer tells
		return "listen"
	case d.L4 == event.UDP && d.Server:
		return "recvfrom"
	case d.L4 == event.UDP:
		return "sendto"
	case d.Server:
		return "accept"
	}
	return "connect"
}

// over reports whether nothing follows on an event.
func over(d *event.Connection) bool {
	return d.Type == "close" || d.State == event.Close && d.L4 == event.TCP || d.Type == "connect" && d.Res != 0 && d.Res != inProgress
}

// inProgress is how a connect that does not wait returns; its outcome follows.
const inProgress = 115 // EINPROGRESS

// applyConnection merges an event into its row, and completes the event by what
// the row knows.
func (i *Identity) applyConnection(e *event.Event, d *event.Connection, s *snap) {
	t := &i.conns
	k := keyOfConn(&d.Socket)
	r := t.get(&k)
	if r != nil && r.list == &t.closed && opens(d) {
		r = nil // the socket connects again: another connection
	}
	if r == nil {
		i.nameEnds(&d.Socket, e.Ktime)
		setStart(e, d)
		r = t.add(&k)
		r.typ, r.res, r.rawRes, r.shared = began(d), d.Res, d.RawRes, d.Shared
		i.own(r, e, s)
		if i.cfg.Cluster != nil && d.Remote.IsValid() {
			i.meet(r, e, d)
		}
	} else {
		i.merge(r, e, d, s)
		t.living.move(&r.links)
	}
	if d.Duration == 0 && !d.Start.IsZero() && e.Time.After(d.Start) {
		d.Duration = int64(e.Time.Sub(d.Start))
	}
	if t.ends.on && moved(r, d) {
		t.ends.drop(r)
	}
	r.last, r.time, r.ktime = *d, e.Time, e.Ktime
	if t.ends.on {
		t.ends.add(r)
	}
	if over(d) {
		t.closed.move(&r.links)
	}
	for t.closed.n > i.cfg.MaxClosed || t.bytes > i.cfg.ConnectionBytes && t.closed.n > 0 {
		i.dropRow(t.closed.first())
	}
	for t.bytes > i.cfg.ConnectionBytes && t.living.n > 1 {
		i.dropRow(t.living.first())
		t.evicted++
	}
}

// setStart says when the connection of d began, where the kernel did not tell:
// an event that begins it knows. For one that is older than the agent, or whose
// beginning was lost, any time would be invented.
func setStart(e *event.Event, d *event.Connection) {
	switch {
	case !d.Start.IsZero():
	case opens(d) && !d.Existing:
		d.Start = e.Time
	case d.Duration > 0:
		d.Start = e.Time.Add(-time.Duration(d.Duration))
	}
}

// own makes the process of an event, and its snapshot s, the owner of a row.
func (i *Identity) own(r *row, e *event.Event, s *snap) {
	if s != nil {
		s.refs++
	}
	if r.snap != nil {
		i.procs.release(r.snap)
	}
	r.actor, r.proc, r.snap = e.Actor, e.Process, s
}

// merge completes d by what the row knows, so that d says all.
func (i *Identity) merge(r *row, e *event.Event, d *event.Connection, proc *snap) {
	was := &r.last
	// The owner is who connected, or who accepted; an accepted connection belongs
	// to the listener's process until somebody has taken it.
	if r.proc == nil || r.shared && !d.Shared {
		if e.Process != nil || r.proc == nil && !e.Actor.IsZero() {
			i.own(r, e, proc)
		}
	}
	r.shared = r.shared && d.Shared
	if e.Process == nil && (e.Actor.IsZero() || e.Actor == r.actor) {
		e.Actor, e.Process = r.actor, r.proc
	}
	if opens(d) && !opens(was) {
		r.typ, r.res, r.rawRes = began(d), d.Res, d.RawRes
	}
	s, o := &d.Socket, &was.Socket
	if !s.Local.IsValid() || s.Local.IsUnspecified() && o.Local.IsValid() {
		s.Local = o.Local
	}
	if !s.Remote.IsValid() {
		s.Remote = o.Remote
	}
	s.RemotePeer = o.RemotePeer
	if i.cfg.Cluster != nil && s.Remote.IsValid() && !o.Remote.IsValid() {
		i.meet(r, e, d)
	}
	if s.LocalPort == 0 {
		s.LocalPort = o.LocalPort
	}
	if s.RemotePort == 0 {
		s.RemotePort = o.RemotePort
	}
	if s.NetNS == 0 {
		s.NetNS = o.NetNS
	}
	s.Server = s.Server || o.Server
	// Names are those that were good when the connection began.
	if o.LocalName != "" || o.RemoteName != "" {
		s.LocalName, s.RemoteName = o.LocalName, o.RemoteName
	}
	i.nameEnds(s, e.Ktime)

	if !was.Start.IsZero() {
		d.Start = was.Start
	} else {
		d.Existing = d.Existing || was.Existing
		setStart(e, d)
	}
	d.BytesSent = max(d.BytesSent, was.BytesSent)
	d.BytesReceived = max(d.BytesReceived, was.BytesReceived)
	d.PacketsSent = max(d.PacketsSent, was.PacketsSent)
	d.PacketsRecv = max(d.PacketsRecv, was.PacketsRecv)
	d.Retransmits = max(d.Retransmits, was.Retransmits)
	if d.Latency == 0 {
		d.Latency = was.Latency
	}
	if d.RTT == 0 {
		d.RTT = was.RTT
	}
	if d.MinRTT == 0 || was.MinRTT != 0 && was.MinRTT < d.MinRTT {
		d.MinRTT = was.MinRTT
	}
	if d.Reset == event.NotReset {
		d.Reset = was.Reset
	}
	if d.Error == 0 {
		d.Error = was.Error
	}
	if d.State == 0 {
		d.State = was.State
	}
	d.Existing = d.Existing || was.Existing
}

// dropRow forgets a connection.
func (i *Identity) dropRow(r *row) {
	if r.snap != nil {
		i.procs.release(r.snap)
	}
	i.conns.remove(r)
}

// Connections yields every connection there was when the iteration began: living
// ones first, then those closed recently, oldest first. Each is an event of the
// type that began the connection. The Duration of a living one reaches up to
// now.
func (i *Identity) Connections(yield func(*event.Event) bool) {
	now, ktime := i.cfg.Now(), i.cfg.Ktime()
	type ref struct {
		r  *row
		id uint64
	}
	i.mu.Lock()
	refs := make([]ref, 0, i.conns.living.n+i.conns.closed.n)
	for _, l := range []*list[row]{&i.conns.living, &i.conns.closed} {
		for r := range l.all {
			refs = append(refs, ref{r, r.id})
		}
	}
	i.mu.Unlock()
	// Described a few at a time, so that Apply never waits for a long list.
	const few = 256
	list := make([]*event.Event, 0, few)
	for len(refs) > 0 {
		n := min(few, len(refs))
		list = list[:0]
		i.mu.Lock()
		for _, f := range refs[:n] {
			switch {
			case f.r.id != f.id: // forgotten meanwhile
			case f.r.list == &i.conns.living:
				list = append(list, i.rowEvent(f.r, now, ktime))
			default:
				list = append(list, i.rowEvent(f.r, time.Time{}, 0))
			}
		}
		i.mu.Unlock()
		refs = refs[n:]
		for _, e := range list {
			if !yield(e) {
				return
			}
		}
	}
}

// rowEvent describes a row, up to now if that is given.
func (i *Identity) rowEvent(r *row, now time.Time, ktime uint64) *event.Event {
	d := r.last
	d.Type, d.Res, d.RawRes = r.typ, r.res, r.rawRes
	e := &event.Event{Time: r.time, Ktime: r.ktime, Actor: r.actor, Data: &d}
	if !now.IsZero() {
		e.Time, e.Ktime = now, ktime
		if !d.Start.IsZero() && now.After(d.Start) {
			d.Duration = int64(now.Sub(d.Start))
		}
	}
	p := r.proc
	if p == nil && !r.actor.IsZero() {
		if en := i.procs.get(r.actor); en != nil {
			p = en.snap.p // found in the meantime
		}
	}
	e.Process = i.completed(p)
	return e
}
