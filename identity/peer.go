package identity

import (
	"time"

	"warren/cluster"
	"warren/event"
)

// peers are what far addresses stand for in the cluster. A connection keeps what
// its far address stood for when it began, whoever has the address later.
type peers struct {
	// known makes equal answers one, so that a connection costs no allocation.
	known map[cluster.Peer]*cluster.Peer
	// waiting are the rows whose far end the cluster did not know when they
	// began: a pod can talk before the API has heard of its address.
	waiting []waitingRow
	dropped uint64 // rows for which there was no room to wait
}

type waitingRow struct {
	r     *row
	id    uint64    // of r, which may be used again
	at    time.Time // when the connection began
	until uint64    // ktime from which nobody waits any more
}

const (
	maxKnownPeers   = 4096
	maxWaitingRows  = 16384
	peerWait        = 60e9 // nanoseconds for which an unknown address is asked for again
	peerDoubt       = 10e9 // likewise a private one that seems to be outside
	peerRowsAtATime = 256
)

func (t *peers) init() { t.known = map[cluster.Peer]*cluster.Peer{} }

// peer returns what the far end of a socket stood for at a time, nil where that
// is not known or asks for no answer. It reports whether to ask again later.
func (i *Identity) peer(s *event.Socket, at time.Time) (p *cluster.Peer, again bool) {
	a := s.Remote
	if !a.IsValid() || a.IsLoopback() || a.IsUnspecified() {
		return nil, false
	}
	port := s.RemotePort
	if s.Server {
		port = 0 // a client's: no service's, though it may be as high as a node port
	}
	found, ok := i.cfg.Cluster.Peer(a.Unmap(), port, s.L4.String(), at)
	if !ok {
		return nil, true
	}
	return i.peers.one(found), found.Kind == cluster.PeerWorld && a.Unmap().IsPrivate()
}

// one returns the pointer that stands for all peers equal to p.
func (t *peers) one(p cluster.Peer) *cluster.Peer {
	if same := t.known[p]; same != nil {
		return same
	}
	if len(t.known) >= maxKnownPeers {
		clear(t.known) // what is in use stays in use, and is learnt again
	}
	same := new(cluster.Peer) // not &p: it would be allocated for known answers too
	*same = p
	t.known[p] = same
	return same
}

// meet tells a connection that begins who is at its far end.
func (i *Identity) meet(r *row, e *event.Event, d *event.Connection) {
	var again bool
	if d.RemotePeer, again = i.peer(&d.Socket, e.Time); !again {
		return
	}
	t := &i.peers
	wait := uint64(peerWait)
	if d.RemotePeer != nil {
		wait = peerDoubt
	}
	if len(t.waiting) >= maxWaitingRows {
		t.tidy(i.procs.now)
	}
	if len(t.waiting) >= maxWaitingRows {
		t.dropped++
		return
	}
	t.waiting = append(t.waiting, waitingRow{r: r, id: r.id, at: e.Time, until: i.procs.now + wait})
}

// meetDNS tells a DNS message who is at the far end: as its socket's row has it.
func (i *Identity) meetDNS(e *event.Event, d *event.DNS) {
	k := keyOfConn(&d.Socket)
	if r := i.conns.get(&k); r != nil && r.last.RemotePeer != nil {
		d.RemotePeer = r.last.RemotePeer
		return
	}
	d.RemotePeer, _ = i.peer(&d.Socket, e.Time)
}

// tidy forgets the rows for which nobody waits any more.
func (t *peers) tidy(now uint64) {
	rest := t.waiting[:0]
	for _, w := range t.waiting {
		if w.r.id == w.id && now < w.until {
			rest = append(rest, w)
		}
	}
	clear(t.waiting[len(rest):])
	t.waiting = rest
}

// meetAgain asks again for far ends that were not known, as of when their
// connections began.
func (i *Identity) meetAgain() {
	t := &i.peers
	i.mu.Lock()
	t.tidy(max(i.procs.now, i.cfg.Ktime()))
	rows := t.waiting
	t.waiting = nil
	i.mu.Unlock()
	var rest []waitingRow
	for len(rows) > 0 {
		n := min(peerRowsAtATime, len(rows))
		i.mu.Lock()
		for _, w := range rows[:n] {
			if w.r.id != w.id {
				continue
			}
			p, again := i.peer(&w.r.last.Socket, w.at)
			if p != nil {
				w.r.last.RemotePeer = p
			}
			if again {
				rest = append(rest, w)
			}
		}
		i.mu.Unlock()
		rows = rows[n:]
	}
	i.mu.Lock()
	t.waiting = append(rest, t.waiting...)
	i.mu.Unlock()
}
