package identity

import "strings"

// reclaim makes room: ended processes and closed connections go first, oldest
// first; then the living are cut down, and at last forgotten. It does a bounded
// amount of work, more than one event can add.
func (i *Identity) reclaim() {
	t := &i.procs
	const steps = 64
	for range steps {
		over := t.bytes > i.cfg.ProcessBytes
		switch {
		case t.exited.n > i.cfg.MaxExited:
			i.forget(t.exited.first())
			t.evicted++
		case !over:
			return
		case t.exited.n > 0 && (i.conns.closed.n == 0 || t.exited.first().exitKtime <= i.conns.closed.first().ktime):
			i.forget(t.exited.first())
			t.evicted++
		case i.conns.closed.n > 0:
			i.dropRow(i.conns.closed.first())
			i.conns.evicted++
		case t.recent.n > 0:
			t.popRecent()
		case t.living.n > 1:
			i.shed()
		default:
			return
		}
	}
}

// keepArgs is how many bytes of arguments a process keeps when memory is short.
const keepArgs = 256

// shed takes the next living process in turn: the first time around it loses
// ancestors that have ended and long arguments; the second time it is
// forgotten, with the connections that nobody else accounts for.
func (i *Identity) shed() {
	t := &i.procs
	en := t.living.first()
	if en.stripped {
		i.forget(en)
		t.evicted++
		if r := i.conns.living.first(); r != nil && r.snap != nil {
			i.dropRow(r)
			i.conns.evicted++
		}
		return
	}
	en.stripped = true
	t.stripped++
	t.living.move(&en.links)

	q := *en.snap.p
	img := en.snap.img
	if img != nil && int64(img.size) > imageSize+4*keepArgs {
		n := 0
		var args []string
		for _, a := range q.Args {
			if n += len(a); n > keepArgs {
				break
			}
			args = append(args, strings.Clone(a)) // all may be parts of one string
		}
		q.SetArgs(args)
		q.ArgsCut = true
		img = t.newImage(&q)
	}
	var parent *snap
	if p := t.get(q.ParentKey); p != nil && p != en {
		parent = p.snap
	}
	key := q.ParentKey
	link(&q, parent)
	q.ParentKey = key
	old := en.snap
	s := t.newSnap(&q, parent, img, old.since)
	s.origin = old.p
	en.snap = s
	t.release(old)
}

// sweepOnce forgets what is too old at a time.
func (i *Identity) sweepOnce(now uint64) {
	i.mu.Lock()
	t := &i.procs
	t.now = max(t.now, now)
	for age := uint64(i.cfg.ExitedAge); t.exited.n > 0 && t.exited.first().exitKtime+age < now; {
		i.forget(t.exited.first())
	}
	for t.recent.n > 0 && t.recent.ring[t.recent.head].since+recentSpan < now {
		t.popRecent()
	}
	if t.incomplete {
		i.relink()
	}
	i.sweepConnections(now)
	i.mu.Unlock()
	i.askAgain()
	i.peers.lookAgain() // some are given up by now
	i.sweepGone()
}

// staleAfter is for how long a connection whose process has ended is believed
// to live on without a word, in nanoseconds: its end was lost. Sockets can
// outlive the process that made them, in one that inherited them, and are then
// heard of again.
const staleAfter = 15 * 60e9

func (i *Identity) sweepConnections(now uint64) {
	t := &i.conns
	for r := range t.living.all {
		if r.ktime+staleAfter >= now {
			return
		}
		if en := i.procs.get(r.actor); (en == nil || en.list == &i.procs.exited) && r.typ != "listen" {
			i.dropRow(r)
			t.stale++
		}
	}
}
