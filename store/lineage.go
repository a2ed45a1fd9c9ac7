package store

import (
	"sort"

	"warren/event"
)

// A lineage finds the snapshots of processes in a segment, for one reader. Each
// is made once: those of one ancestry share their ancestors.
type lineage struct {
	g      *segment
	frames []frame // of processes, by their numbers
	known  map[int64]*event.Process
	last   *Batch // of the frame at lastAt
	lastAt int
}

// maxKnown bounds the snapshots that a reader keeps.
const maxKnown = 1 << 14

func newLineage(g *segment) *lineage {
	l := &lineage{g: g, known: map[int64]*event.Process{}, lastAt: -1}
	l.frames = g.list(func(f *frame) bool { return f.typ == frameBatch && f.kind == event.KindProcess })
	return l
}

// process returns the snapshot of a number; nil for 0, and where it was lost.
func (l *lineage) process(number int64) (*event.Process, error) {
	if number == 0 {
		return nil, nil
	}
	if p, ok := l.known[number]; ok {
		return p, nil
	}
	i := sort.Search(len(l.frames), func(i int) bool { return int64(l.frames[i].maxSeq) >= number })
	if i == len(l.frames) {
		return nil, nil
	}
	b, err := l.batch(i)
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
		if parent, err = l.process(up); err != nil {
			return nil, err
		}
	}
	p := b.Process(row, parent)
	if len(l.known) >= maxKnown {
		clear(l.known)
	}
	l.known[number] = p
	return p, nil
}

func (l *lineage) batch(i int) (*Batch, error) {
	if l.lastAt == i {
		return l.last, nil
	}
	b, err := l.g.read(&l.frames[i], nil)
	if err != nil {
		return nil, err
	}
	l.last, l.lastAt = b, i
	return b, nil
}
