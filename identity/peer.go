package identity

import (
	"context"
	"slices"
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
	again   chan struct{} // capacity 1: the cluster has changed; a second signal says nothing new
	tidied  uint64        // ktime at which waiting was last gone through for want of room
	dropped uint64        // rows for which there was no room to wait
}

type waitingRow struct {
	r     *row
	id    uint64    // of r, which may be used again
	at    time.Time // as of when it is asked for
	until uint64    // ktime from which nobody waits any more
}

const (
	maxKnownPeers   = 4096
	maxWaitingRows  = 16384
	peerWait        = 60e9 // nanoseconds for which an unknown address is asked for again
	peerDoubt       = 10e9 // likewise one of whom an answer may turn out to be wrong
	peerRowsAtATime = 256
	tidyEvery       = 1e9 // nanoseconds
)

func (t *peers) init() {
	t.known = map[cluster.Peer]*cluster.Peer{}
	t.again = make(chan struct{}, 1)
}

// peer returns what the far end of a socket stood for at a time, nil where that
// is not known or asks for no answer, and for how many nanoseconds to ask again.
//
// An address still stands for a pod shortly after its end, for what is told late.
// A connection that begins then may be the next pod's, of which the API has not
// told yet: nobody is told of it before the time to ask is over, which last says.
func (i *Identity) peer(s *event.Socket, at time.Time, last bool) (p *cluster.Peer, wait uint64) {
	a := s.Remote
	if !a.IsValid() || a.IsLoopback() || a.IsUnspecified() {
		return nil, 0
	}
	port := s.RemotePort
	if s.Server {
		port = 0 // a client's: no service's, though it may be as high as a node port
	}
	found, ok := i.cfg.Cluster.Peer(a.Unmap(), port, s.L4.String(), at)
	switch pod := found.Pod; {
	case !ok:
		return nil, peerWait
	case !last && pod != nil && !pod.Ended.IsZero() && !at.Before(pod.Ended):
		return nil, peerDoubt
	case found.Kind == cluster.PeerWorld && a.Unmap().IsPrivate():
		return i.peers.one(found), peerDoubt
	}
	return i.peers.one(found), 0
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
	at := e.Time
	if !d.Start.IsZero() {
		at = d.Start // the first that is seen of it may be its end
	}
	began := !d.Start.IsZero() || d.Type != "close"
	var wait uint64
	if d.RemotePeer, wait = i.peer(&d.Socket, at, !began); wait == 0 {
		return
	}
	t := &i.peers
	now := i.procs.now
	if len(t.waiting) >= maxWaitingRows && now >= t.tidied+tidyEvery {
		t.tidied = now
		t.tidy(now)
	}
	if len(t.waiting) >= maxWaitingRows {
		t.dropped++
		return
	}
	t.waiting = append(t.waiting, waitingRow{r: r, id: r.id, at: at, until: now + wait})
}

// meetDNS tells a DNS message who is at the far end: as its socket's row has it.
func (i *Identity) meetDNS(e *event.Event, d *event.DNS) {
	k := keyOfConn(&d.Socket)
	if r := i.conns.get(&k); r != nil && r.last.RemotePeer != nil {
		d.RemotePeer = r.last.RemotePeer
		return
	}
	d.RemotePeer, _ = i.peer(&d.Socket, e.Time, true)
}

// waits reports whether the row is there and somebody waits for its far end.
func (w *waitingRow) waits(now uint64) bool { return w.r.id == w.id && now < w.until }

// tidy forgets the rows for which nobody waits any more.
func (t *peers) tidy(now uint64) {
	t.waiting = slices.DeleteFunc(t.waiting, func(w waitingRow) bool { return !w.waits(now) })
}

// lookAgain has unknown far ends asked for again.
func (t *peers) lookAgain() {
	select {
	case t.again <- struct{}{}:
	default:
	}
}

// meetPeers asks again for unknown far ends, after the cluster has changed, until
// ctx ends. In a cluster that changes all the time, with many that stay unknown,
// that takes a twentieth of a CPU at most.
func (i *Identity) meetPeers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-i.peers.again:
		}
		begun := time.Now()
		i.meetAgain()
		if !pause(ctx, min(20*time.Since(begun), time.Second)) {
			return
		}
	}
}

// meetAgain asks again for far ends that were not known, as of when their
// connections began. It holds the lock for a few rows at a time.
func (i *Identity) meetAgain() {
	t := &i.peers
	i.mu.Lock()
	now := max(i.procs.now, i.cfg.Ktime())
	all := t.waiting
	t.waiting = nil
	i.mu.Unlock()
	rest := all[:0]
	for rows := all; len(rows) > 0; {
		n := min(peerRowsAtATime, len(rows))
		i.mu.Lock()
		for _, w := range rows[:n] {
			if w.r.id != w.id {
				continue
			}
			over := now >= w.until
			p, wait := i.peer(&w.r.last.Socket, w.at, over)
			if p != nil {
				w.r.last.RemotePeer = p
			}
			if wait > 0 && !over {
				rest = append(rest, w)
			}
		}
		i.mu.Unlock()
		rows = rows[n:]
	}
	i.mu.Lock()
	rest = append(rest, t.waiting...)
	clear(all[min(len(rest), len(all)):]) // what is forgotten is not held
	t.waiting = rest
	i.mu.Unlock()
}
