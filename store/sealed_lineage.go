package store

import (
	"slices"
	"sort"

	"warren/event"
)

// A sealedLineage finds the snapshots of processes in a sealed file of them, for one
// reader; see lineage.
type sealedLineage struct {
	f      *sealedFile
	bounds []int64 // greatest number of each row group
	known  map[int64]*event.Process
	groups []*lineageGroup // by row group; nil: not read yet
}

// A lineageGroup is a row group of processes: their numbers, in order, and those of
// their parents, 0 for none.
type lineageGroup struct {
	*groupReader
	numbers, parents []int64
}

func newSealedLineage(f *sealedFile) *sealedLineage {
	l := &sealedLineage{f: f, known: map[int64]*event.Process{}, groups: make([]*lineageGroup, len(f.groups))}
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

// process returns the snapshot of a number; nil for 0, and where it is not there.
func (l *sealedLineage) process(number int64) (*event.Process, error) {
	if p, ok := l.known[number]; ok || number == 0 {
		return p, nil
	}
	if err := l.load([]int64{number}); err != nil {
		return nil, err
	}
	return l.known[number], nil
}

// load makes snapshots known, and those of their ancestors: all of a row group at a
// time, which takes each of its pages apart once.
func (l *sealedLineage) load(numbers []int64) error {
	if len(l.known) >= maxKnown {
		clear(l.known)
	}
	var want []int64
	asked := map[int64]bool{}
	for _, number := range numbers {
		for number != 0 && !asked[number] {
			asked[number] = true
			if _, ok := l.known[number]; ok {
				break
			}
			g, row, err := l.find(number)
			if err != nil {
				return err
			}
			if g == nil {
				break
			}
			want = append(want, number)
			// A parent is written before its children; else the file is damaged.
			up := g.parents[row]
			if up >= number {
				break
			}
			number = up
		}
	}
	slices.Sort(want)
	for len(want) > 0 {
		g, row, err := l.find(want[0])
		if err != nil {
			return err
		}
		rows := []int32{int32(row)}
		n := 1
		for ; n < len(want); n++ {
			h, row, err := l.find(want[n])
			if err != nil {
				return err
			}
			if h != g {
				break
			}
			rows = append(rows, int32(row))
		}
		b, err := g.batch(rows, nil)
		if err != nil {
			return err
		}
		for i, number := range want[:n] {
			var parent *event.Process
			if up := b.Parent(i); up < number {
				parent = l.known[up]
			}
			l.known[number] = b.Process(i, parent)
		}
		want = want[n:]
	}
	return nil
}

// find returns where a snapshot is; nil where it is not.
func (l *sealedLineage) find(number int64) (*lineageGroup, int, error) {
	at := sort.Search(len(l.bounds), func(i int) bool { return l.bounds[i] >= number })
	if at == len(l.bounds) {
		return nil, 0, nil
	}
	g, err := l.group(at)
	if err != nil {
		return nil, 0, err
	}
	if row, ok := slices.BinarySearch(g.numbers, number); ok {
		return g, row, nil
	}
	return nil, 0, nil
}

// group returns a row group.
func (l *sealedLineage) group(i int) (*lineageGroup, error) {
	if l.groups[i] != nil {
		return l.groups[i], nil
	}
	g := &lineageGroup{groupReader: newGroupReader(l.f, i, nil, nil)}
	var err error
	if g.numbers, err = g.ints(event.ColumnSnapshot); err != nil {
		return nil, err
	}
	if g.parents, err = g.ints(event.ColumnParentSnapshot); err != nil {
		return nil, err
	}
	l.groups[i] = g
	return g, nil
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
