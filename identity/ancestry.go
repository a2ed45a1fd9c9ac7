package identity

import (
	"slices"

	"warren/event"
)

// shorten keeps chains of ancestors bounded: a snapshot that has as many as may
// be gets one that keeps the nearest. Done to the parent, before its children
// are made, so that they share the work.
func (i *Identity) shorten(en *entry) {
	s := en.snap
	if s.p.Depth < maxDepth-1 {
		return
	}
	t := &i.procs
	var chain [keepDepth]*snap
	n := 0
	for a := s.parent; a != nil && n < keepDepth; a = a.parent {
		chain[n] = a
		n++
	}
	var parent *snap
	for n--; n >= 0; n-- {
		q := *chain[n].p
		key := q.ParentKey
		link(&q, parent)
		q.ParentKey = key
		c := t.newSnap(&q, parent, chain[n].img, chain[n].since)
		t.disown(parent)
		parent = c
	}
	q := *s.p
	link(&q, parent)
	t.complete(en, &q, parent)
	t.disown(parent)
}

// disown gives back the reference that newSnap gave its caller, after somebody
// else has taken one.
func (t *processes) disown(s *snap) {
	if s != nil {
		t.release(s)
	}
}

// relinkOne looks again for the parent of a process that came before it.
func (i *Identity) relinkOne(en *entry) {
	parent := i.procs.get(en.snap.p.ParentKey)
	if parent == nil || parent == en {
		return
	}
	i.shorten(parent)
	q := *en.snap.p
	link(&q, parent.snap)
	i.procs.complete(en, &q, parent.snap)
}

// Relink completes the ancestry of all processes, whatever order they came in.
// It is to be called when the processes that existed at the start have been
// read. Parents that the kernel's iterator did not show are looked up in /proc
// afterwards: some machines hide their first process from it.
func (i *Identity) Relink() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.relink()
	i.procs.doubt = 0
	i.filler.askHidden(i.unseenParents(), i.procs.now)
}

// Doubt says that records of processes may be missing since a time (ktime), and that
// all that exist are read now: of a process that has been forked since then and of
// which no exec is known, what is read is believed. [Identity.Relink] ends it.
func (i *Identity) Doubt(since uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.procs.doubt = since
}

// maxHidden bounds how many parents are looked up at the start: more are missing only
// where records were lost, and are looked up when an event names them.
const maxHidden = 64

// unseenParents returns living processes that are named as parents and are not
// in the table.
func (i *Identity) unseenParents() []event.Key {
	if !i.filler.able {
		return nil
	}
	var unseen []event.Key
	for en := range i.procs.living.all {
		k := en.snap.p.ParentKey
		if k.IsZero() || k.Start == 0 || i.procs.get(k) != nil || slices.Contains(unseen, k) {
			continue
		}
		if unseen = append(unseen, k); len(unseen) == maxHidden {
			break
		}
	}
	return unseen
}

func (i *Identity) relink() {
	t := &i.procs
	t.incomplete = false
	// Parents first: each entry is done once its nearest unfinished ancestor is.
	// A cycle cannot come from the kernel; the mark set on the way up ends one.
	t.relinkRound++
	var up []*entry
	for en := range t.living.all {
		up = up[:0]
		for a := en; a != nil && a.relinked != t.relinkRound; a = t.get(a.snap.p.ParentKey) {
			a.relinked = t.relinkRound
			up = append(up, a)
		}
		for n := len(up) - 1; n >= 0; n-- {
			i.relinkParent(up[n])
		}
	}
}

// relinkParent gives a process whose chain ends too early its parent's present
// one.
func (i *Identity) relinkParent(en *entry) {
	p := en.snap.p
	if p.ParentKey.IsZero() || rooted(p) {
		return
	}
	t := &i.procs
	parent := t.get(p.ParentKey)
	if parent == nil || parent == en {
		return
	}
	i.shorten(parent)
	if ps := en.snap.parent; ps != nil && ps != parent.snap && ps != parent.snap.older && parent.snap.origin != ps.p {
		// The parent is another program by now: keep what it was when it made
		// this child, and complete only what is above.
		if gp := parent.snap.parent; gp != nil && gp.p.Depth+2 > p.Depth {
			m := *ps.p
			link(&m, gp)
			ms := t.newSnap(&m, gp, ps.img, ps.since)
			q := *p
			link(&q, ms)
			t.complete(en, &q, ms)
			t.disown(ms)
		}
		return
	}
	if p.Parent != nil && parent.snap.p.Depth < p.Depth {
		return // nothing gained
	}
	q := *p
	link(&q, parent.snap)
	t.complete(en, &q, parent.snap)
}

// rooted reports whether a chain ends in a process that has no parent.
func rooted(p *event.Process) bool {
	for p.Parent != nil {
		p = p.Parent
	}
	return p.ParentKey.IsZero()
}
