package identity

import (
	"strings"
	"unsafe"

	"warren/event"
)

// processes is the table of processes, living and recently ended.
//
// Three kinds of objects stand behind it. An entry is a process. A snap is what
// was true of it for a time: an immutable [event.Process], shared with events.
// An image is the part of a snapshot that a program's start brings and that
// all descendants by fork share: arguments and paths. Snaps and images count
// their references from within the tables, so that the bytes in use are known
// exactly, those of ancestors that ended long ago included; what events keep
// beyond that is the consumers' own.
type processes struct {
	byPID  map[uint32]*entry // newest first, by entry.older
	living list[entry]       // least recently seen by the clock hand first
	exited list[entry]       // oldest exit first
	bytes  int64
	now    uint64 // latest ktime of any event
	recent recentSnaps
	intern interner

	// What processes leave behind when they are forgotten is used again for those
	// that come: in a steady state the tables make no garbage of their own.
	freeEntries  *entry // by older
	freeSnaps    *snap  // by parent
	spareEntries int
	spareSnaps   int

	incomplete  bool   // tasks came whose parents may have come later
	doubt       uint64 // ktime since which records may be missing; 0: none is
	relinkRound uint32
	evicted     uint64
	stripped    uint64
	vanished    uint64
	unknown     uint64
	overtaken   uint64
}

func (t *processes) init() {
	t.byPID = map[uint32]*entry{}
	t.intern.init(1 << 20)
}

// An entry is one process.
type entry struct {
	key   event.Key
	snap  *snap
	older *entry // the process that had the same pid before
	cg    *cgroup

	links[entry] // in living or exited

	cont         *container // nil on the host
	cprev, cnext *entry     // members of cont

	exitKtime uint64
	stripped  bool // its snapshot was cut down to save memory
	relinked  uint32
}

// A snap is a snapshot and what it keeps alive.
type snap struct {
	p      *event.Process
	parent *snap // of p.Parent
	img    *image
	refs   int32
	extra  int32  // bytes beside snapSize
	queued bool   // in recentSnaps, which counts no reference
	since  uint64 // ktime from which it is true
	older  *snap  // what was true before; dropped after a short while
	// origin is the first of the snapshots that this one replaced only to
	// complete them.
	origin *event.Process
}

// An image is the memory that a program's start brought.
type image struct {
	refs int32
	size int32
}

const (
	// processSize includes the event that came with it, in one allocation.
	processSize = int64(unsafe.Sizeof(event.Process{}) + unsafe.Sizeof(event.Event{}) + unsafe.Sizeof(event.Exec{}))
	snapSize    = processSize + int64(unsafe.Sizeof(snap{}))
	// entrySize includes its share of the index.
	entrySize = int64(unsafe.Sizeof(entry{})) + 48
	imageSize = int64(unsafe.Sizeof(image{}))
	// exitSize is what the last snapshot keeps besides: the exit, and the event
	// in one allocation with it.
	exitSize = unsafe.Sizeof(event.Exit{}) + unsafe.Sizeof(event.Event{})

	// maxSpare bounds the entries, and the snaps, that wait to be used again.
	maxSpare = 1024
)

// maxDepth bounds chains of ancestors; a deeper one is rebuilt from its nearest
// keepDepth, so that a program that re-forks itself for ever does not keep all
// its former lives.
const (
	maxDepth  = 64
	keepDepth = 32
)

func (t *processes) get(k event.Key) *entry {
	for en := t.byPID[k.PID]; en != nil; en = en.older {
		if en.key.Start == k.Start {
			return en
		}
	}
	return nil
}

// insert adds a process that is not there yet.
func (t *processes) insert(k event.Key) *entry {
	en := t.freeEntries
	if en != nil {
		t.freeEntries = en.older
		t.spareEntries--
	} else {
		en = new(entry)
	}
	*en = entry{key: k}
	head := t.byPID[k.PID]
	if head == nil || head.key.Start < k.Start {
		en.older = head
		t.byPID[k.PID] = en
	} else {
		for head.older != nil && head.older.key.Start > k.Start {
			head = head.older
		}
		en.older, head.older = head.older, en
	}
	t.living.push(en, &en.links)
	t.bytes += entrySize
	return en
}

// remove forgets a process. Its snapshot stays as long as others need it.
func (t *processes) remove(en *entry) {
	head := t.byPID[en.key.PID]
	switch {
	case head == en && en.older == nil:
		delete(t.byPID, en.key.PID)
	case head == en:
		t.byPID[en.key.PID] = en.older
	default:
		for head.older != en {
			head = head.older // en is in the chain: it is in the table
		}
		head.older = en.older
	}
	en.list.drop(&en.links)
	t.bytes -= entrySize
	if en.snap != nil {
		t.release(en.snap)
	}
	*en = entry{}
	if t.spareEntries < maxSpare {
		en.older, t.freeEntries = t.freeEntries, en
		t.spareEntries++
	}
}

// newSnap wraps a snapshot. The caller holds the one reference.
func (t *processes) newSnap(p *event.Process, parent *snap, img *image, since uint64) *snap {
	s := t.freeSnaps
	if s != nil {
		t.freeSnaps = s.parent
		t.spareSnaps--
	} else {
		s = new(snap)
	}
	*s = snap{p: p, img: img, refs: 1, since: since}
	if img != nil {
		img.refs++
	}
	if parent != nil {
		parent.refs++
		s.parent = parent
	}
	t.bytes += snapSize
	if p.Exited != nil {
		s.extra = int32(exitSize)
		t.bytes += int64(exitSize)
	}
	return s
}

// release gives a reference back.
func (t *processes) release(s *snap) {
	for s != nil {
		if s.refs--; s.refs > 0 {
			return
		}
		t.bytes -= snapSize + int64(s.extra)
		if s.img != nil {
			if s.img.refs--; s.img.refs == 0 {
				t.bytes -= int64(s.img.size)
			}
		}
		if s.older != nil {
			o := s.older
			s.older = nil
			t.release(o) // at most as deep as changes within recentSpan
		}
		parent, queued := s.parent, s.queued
		*s = snap{}
		if !queued && t.spareSnaps < maxSpare {
			s.parent, t.freeSnaps = t.freeSnaps, s
			t.spareSnaps++
		}
		s = parent
	}
}

// newImage measures what a snapshot brought that no other shares.
func (t *processes) newImage(p *event.Process) *image {
	n := imageSize + int64(len(p.ArgsLine)+len(p.Cmdline)+len(p.Cwd)+len(p.ExePath)+len(p.Filename)+len(p.Interp))
	for _, a := range p.Args {
		n += int64(len(a)) + 16
	}
	t.bytes += n
	return &image{size: int32(min(n, 1<<30))}
}

// replace makes p what is true of the process from ktime since on.
func (t *processes) replace(en *entry, p *event.Process, parent *snap, img *image, since uint64) {
	s := t.newSnap(p, parent, img, since)
	s.older = en.snap // takes over the entry's reference
	en.snap = s
	if s.older != nil {
		t.pushRecent(s)
	}
}

// complete puts p in the place of the present snapshot, of which it says the
// same and more.
func (t *processes) complete(en *entry, p *event.Process, parent *snap) {
	old := en.snap
	s := t.newSnap(p, parent, old.img, old.since)
	if s.origin = old.origin; s.origin == nil {
		s.origin = old.p
	}
	s.older, old.older = old.older, nil
	if s.older != nil {
		t.pushRecent(s)
	}
	en.snap = s
	t.release(old)
}

// at returns what was true of a process at a time: records of connections are
// read after those of processes, so that an exec may overtake them.
func (en *entry) at(ktime uint64) *snap {
	s := en.snap
	if ktime == 0 {
		return s
	}
	for s.older != nil && ktime < s.since {
		s = s.older
	}
	return s
}

// recentSnaps are the snapshots that still know what they replaced.
type recentSnaps struct {
	ring [maxRecent]*snap
	head int // oldest
	n    int
}

// What was true before is found for as long as a record of that time may wait in
// the ring of bulk. While it does, all of the critical ring may be read: 8 MiB of
// records of exec, some 400 bytes each, are 20,000, as many as come in seconds of
// nothing but exec. The heap has room for 8192 snapshots (TestHeapUnderChurn), two
// fifths of that; Stats.Overtaken counts where it was not enough.
const (
	maxRecent  = 8192
	recentSpan = 2e9 // nanoseconds
)

func (t *processes) pushRecent(s *snap) {
	r := &t.recent
	for r.n > 0 {
		old := r.ring[r.head]
		if r.n < len(r.ring) && old.since+recentSpan > t.now {
			break
		}
		t.popRecent()
	}
	r.ring[(r.head+r.n)%len(r.ring)] = s
	r.n++
	s.queued = true
}

func (t *processes) popRecent() {
	r := &t.recent
	s := r.ring[r.head]
	r.ring[r.head] = nil
	r.head = (r.head + 1) % len(r.ring)
	r.n--
	s.queued = false
	if s.older != nil {
		if s.since+recentSpan > t.now {
			t.overtaken++
		}
		o := s.older
		s.older = nil
		t.release(o)
	}
}

// interner makes equal strings one. Cleared when full: what is in use then
// stays in use, and is learnt again.
type interner struct {
	m          map[string]string
	bytes, max int
}

const maxInterned = 256

func (in *interner) init(limit int) { in.m, in.max = map[string]string{}, limit }

func (in *interner) str(s string) string {
	if s == "" || len(s) > maxInterned {
		return s
	}
	if v, ok := in.m[s]; ok {
		return v
	}
	if in.bytes += len(s) + 48; in.bytes > in.max {
		clear(in.m)
		in.bytes = len(s) + 48
	}
	s = strings.Clone(s) // it may be a part of much more
	in.m[s] = s
	return s
}

// like is str for a string that may well be equal to one that has been through it.
func (in *interner) like(known, s string) string {
	if s == known {
		return known
	}
	return in.str(s)
}

// Process returns the last snapshot of a process, nil if it is unknown.
func (i *Identity) Process(k event.Key) *event.Process {
	i.mu.Lock()
	defer i.mu.Unlock()
	if en := i.procs.get(k); en != nil {
		return en.snap.p
	}
	return nil
}

// ProcessByPID returns the processes that had a pid, newest first, ended ones
// included.
func (i *Identity) ProcessByPID(pid uint32) []*event.Process {
	i.mu.Lock()
	defer i.mu.Unlock()
	var list []*event.Process
	for en := i.procs.byPID[pid]; en != nil; en = en.older {
		list = append(list, en.snap.p)
	}
	return list
}

// Processes yields the last snapshot of each process, ended ones included, as
// they were when the iteration began: living ones first.
func (i *Identity) Processes(yield func(*event.Process) bool) {
	i.mu.Lock()
	ps := make([]*event.Process, 0, i.procs.living.n+i.procs.exited.n)
	for _, l := range []*list[entry]{&i.procs.living, &i.procs.exited} {
		for en := range l.all {
			ps = append(ps, en.snap.p)
		}
	}
	i.mu.Unlock()
	for _, p := range ps {
		if !yield(p) {
			return
		}
	}
}
