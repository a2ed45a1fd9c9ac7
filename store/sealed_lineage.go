package store

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sort"

	"warren/event"
)

// A sealedLineage finds the snapshots of processes in a sealed file of them, for one
// reader; see lineage.
type sealedLineage struct {
	f      *sealedFile
	bounds []int64 // greatest number of each row group
	knownSnapshots
	groups []*lineageGroup // by row group; nil: not read yet
}

// A lineageGroup is a row group of processes: their numbers, in order, and those of
// their parents, 0 for none.
type lineageGroup struct {
	*groupReader
	numbers, parents []int64
	bad              error // these are damaged
}

// A snapshotPlace is where a snapshot is.
type snapshotPlace struct {
	number int64
	group  *lineageGroup
	row    int
}

func newSealedLineage(f *sealedFile) *sealedLineage {
	l := &sealedLineage{f: f, knownSnapshots: newKnown(), groups: make([]*lineageGroup, len(f.groups))}
	col := f.cols[f.layout.Column(event.ColumnSnapshot).Index]
	for g := range f.groups {
		most := int64(1<<63 - 1)
		if col >= 0 {
			if info := &f.groups[g].chunks[col]; info.bounded && len(info.most) == 8 {
				most = int64(le64(info.most))
			}
		}
		l.bounds = append(l.bounds, most)
	}
	return l
}

// process returns the snapshot of a number; nil for 0, and where it is not there. What
// is damaged is so the next time, too.
func (l *sealedLineage) process(ctx context.Context, number int64) (*event.Process, error) {
	if number == 0 {
		return nil, nil
	}
	if _, ok := l.known[number]; !ok {
		if err := l.load(ctx, []int64{number}); err != nil {
			return nil, err
		}
	}
	r := l.known[number]
	return r.process, r.damage
}

// load makes snapshots known, and those of their ancestors: all of a row group at a
// time, which takes each of its pages apart once. Damage is no error: process tells it
// of those that it is of.
func (l *sealedLineage) load(ctx context.Context, numbers []int64) error {
	l.trim()
	want, err := l.unknown(ctx, numbers)
	if err != nil {
		return err
	}
	// Parents come before their children.
	slices.SortFunc(want, func(a, b snapshotPlace) int { return cmp.Compare(a.number, b.number) })
	return eachRun(want, func(p snapshotPlace) *lineageGroup { return p.group }, func(run []snapshotPlace) error { return l.read(ctx, run) })
}

// unknown finds the snapshots that are not known of some numbers, and of their
// ancestors.
func (l *sealedLineage) unknown(ctx context.Context, numbers []int64) ([]snapshotPlace, error) {
	var want []snapshotPlace
	asked := map[int64]bool{}
	for _, number := range numbers {
		for number != 0 && !asked[number] {
			asked[number] = true
			if _, ok := l.known[number]; ok {
				break
			}
			p, err := l.find(ctx, number)
			if err != nil && !isDamage(err) {
				return nil, err
			}
			if p.group == nil {
				l.keep(number, reading{damage: err})
				break
			}
			want = append(want, p)
			// A parent is written before its children; else the file is damaged.
			up := p.group.parents[p.row]
			if up >= number {
				break
			}
			number = up
		}
	}
	return want, nil
}

// read makes snapshots of one row group known.
func (l *sealedLineage) read(ctx context.Context, want []snapshotPlace) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	rows := make([]int32, len(want))
	for i, p := range want {
		rows[i] = int32(p.row)
	}
	b, err := want[0].group.batch(rows, nil)
	if err != nil && !isDamage(err) {
		return err
	}
	if bad, ok := errors.AsType[*pageError](err); ok {
		// Those in other pages of the column than the damaged one may be there.
		page := func(p snapshotPlace) int { return bad.chunk.pageAt(p.row) }
		if page(want[0]) != page(want[len(want)-1]) {
			return eachRun(want, page, func(run []snapshotPlace) error { return l.read(ctx, run) })
		}
	}
	for i, p := range want {
		l.keep(p.number, l.made(b, i, p.number, err))
	}
	return nil
}

// made makes a row of a batch a snapshot, unless that is damaged, or its parent is.
func (l *sealedLineage) made(b *Batch, row int, number int64, damage error) reading {
	if damage != nil {
		return reading{damage: damage}
	}
	var parent reading
	if up := b.Parent(row); up < number {
		parent = l.known[up]
	}
	if parent.damage != nil {
		return parent
	}
	return reading{process: b.Process(row, parent.process)}
}

// eachRun calls fn with the runs of places that have the same key.
func eachRun[K comparable](all []snapshotPlace, key func(snapshotPlace) K, fn func(run []snapshotPlace) error) error {
	for len(all) > 0 {
		n := 1
		for n < len(all) && key(all[n]) == key(all[0]) {
			n++
		}
		if err := fn(all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// find returns where a snapshot is; no group where it is not.
func (l *sealedLineage) find(ctx context.Context, number int64) (snapshotPlace, error) {
	at := sort.Search(len(l.bounds), func(i int) bool { return l.bounds[i] >= number })
	if at == len(l.bounds) {
		return snapshotPlace{}, nil
	}
	g, err := l.group(ctx, at)
	if err != nil {
		return snapshotPlace{}, err
	}
	if row, ok := slices.BinarySearch(g.numbers, number); ok {
		return snapshotPlace{number, g, row}, nil
	}
	return snapshotPlace{}, nil
}

// group returns a row group.
func (l *sealedLineage) group(ctx context.Context, i int) (*lineageGroup, error) {
	if g := l.groups[i]; g != nil {
		return g, g.bad
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	g := &lineageGroup{groupReader: newGroupReader(l.f, i, nil, nil)}
	if g.numbers, g.bad = g.ints(event.ColumnSnapshot); g.bad == nil {
		g.parents, g.bad = g.ints(event.ColumnParentSnapshot)
	}
	if g.bad != nil && !isDamage(g.bad) {
		return nil, g.bad
	}
	l.groups[i] = g
	return g, g.bad
}

// ints returns all of a column of numbers, with 0 for none.
func (r *groupReader) ints(name string) ([]int64, error) {
	list := make([]int64, r.rows())
	c, err := r.chunk(r.f.layout.Column(name).Index)
	if c == nil || err != nil {
		return list, err
	}
	for i := range c.pages {
		p, err := c.page(i)
		if err != nil {
			return nil, err
		}
		for k, n := range p.nums[:p.rows] {
			if p.null == nil || !p.null[k] {
				list[c.pages[i].row+k] = n
			}
		}
	}
	return list, nil
}
