package store

import (
	"context"
	"sort"

	"warren/event"
)

// A lineage finds the snapshots of processes in a segment, for one reader. Each
// is made once: those of one ancestry share their ancestors.
type lineage struct {
	g      *segment
	frames []frame // of processes, by their numbers
	knownSnapshots
	lastAt int    // frame that was read last; -1: none
	last   *Batch // of it
	bad    error  // its damage
}

// A reading is what reading a snapshot came to.
type reading struct {
	process *event.Process // nil where it is not there
	damage  error          // of it, or of an ancestor
}

// A frameDamage is damage of a frame that whoever meets it need not know.
type frameDamage struct {
	frame *frame
	err   error
}

// Error implements error.
func (d *frameDamage) Error() string { return d.err.Error() }

// Unwrap returns what is damaged.
func (d *frameDamage) Unwrap() error { return d.err }

// maxKnown bounds the snapshots that a reader keeps, and maxKnownArgs the arguments that
// they have together: one can have thousands.
const (
	maxKnown     = 1 << 14
	maxKnownArgs = 512 << 10
)

// knownSnapshots are those that a reader keeps.
type knownSnapshots struct {
	known map[int64]reading
	args  int // of the processes in known
}

func newKnown() knownSnapshots { return knownSnapshots{known: map[int64]reading{}} }

// keep adds a snapshot.
func (k *knownSnapshots) keep(number int64, r reading) {
	k.known[number] = r
	if r.process != nil {
		k.args += len(r.process.Args)
	}
}

// trim lets go of all snapshots where they are too many.
func (k *knownSnapshots) trim() {
	if len(k.known) >= maxKnown || k.args >= maxKnownArgs {
		clear(k.known)
		k.args = 0
	}
}

func newLineage(g *segment) *lineage {
	l := &lineage{g: g, knownSnapshots: newKnown(), lastAt: -1}
	l.frames = g.list(func(f *frame) bool { return f.typ == frameBatch && f.kind == event.KindProcess })
	return l
}

// process returns the snapshot of a number; nil for 0, and where it was lost. Where the
// disk has damaged its frame, the error is a *[frameDamage], the next time too.
func (l *lineage) process(ctx context.Context, number int64) (*event.Process, error) {
	if number == 0 {
		return nil, nil
	}
	if r, ok := l.known[number]; ok {
		return r.process, r.damage
	}
	p, err := l.find(ctx, number)
	if err != nil && !isDamage(err) {
		return nil, err
	}
	l.trim()
	l.keep(number, reading{p, err})
	return p, err
}

// find reads a snapshot and its ancestors.
func (l *lineage) find(ctx context.Context, number int64) (*event.Process, error) {
	i := sort.Search(len(l.frames), func(i int) bool { return int64(l.frames[i].maxSeq) >= number })
	if i == len(l.frames) {
		return nil, nil
	}
	b, err := l.batch(ctx, i)
	if err != nil {
		return nil, err
	}
	numbers := b.Vector(event.ColumnSnapshot)
	if numbers == nil {
		return nil, nil
	}
	row := sort.Search(b.Rows, func(row int) bool { return numbers.Ints[row] >= number })
	if row == b.Rows || numbers.Ints[row] != number {
		return nil, nil
	}
	var parent *event.Process
	if up := b.Parent(row); up < number { // a parent is written before; else it is damaged
		if parent, err = l.process(ctx, up); err != nil {
			return nil, err
		}
	}
	return b.Process(row, parent), nil
}

// batch reads a frame, unless it was the last one.
func (l *lineage) batch(ctx context.Context, i int) (*Batch, error) {
	if l.lastAt == i {
		return l.last, l.bad
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := l.g.read(&l.frames[i], nil)
	switch {
	case isDamage(err):
		err = &frameDamage{&l.frames[i], err}
	case err != nil:
		return nil, err
	}
	l.lastAt, l.last, l.bad = i, b, err
	return b, err
}
