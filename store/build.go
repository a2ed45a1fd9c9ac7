package store

import (
	"net/netip"

	"warren/event"
)

// A builder makes batches of events and processes. Its memory, and so that of
// the batch it made last, is used again.
type builder struct {
	batch   Batch
	vectors []*Vector // by column index, for all layouts
	coders  []coder   // likewise
	valid   [][]bool  // likewise
	nulls   []int     // likewise
	rows    event.Rows
	// what one column has in a stride, and in which of its rows
	at    []int32
	strs  []string
	addrs []netip.Addr
	lists [][]string
	maps  []map[string]string
}

// stride is how many rows are taken apart at a time, column by column: few enough
// that the processor still has them at the last column.
const stride = 256

// refs are the numbers of snapshots that rows refer to, and their exec ids.
type refs struct {
	snapshot []int64
	// of events: the places of their exec ids in ids, each of which is there once
	codes []uint32
	ids   []string
	// of processes
	execID   []string
	parent   []int64
	parentID []string
	time     []int64
}

func (b *builder) events(l *event.Layout, host *event.Host, events []*event.Event, r *refs) *Batch {
	b.begin(l, host, len(events))
	for i := 0; i < len(events); i += stride {
		j := min(i+stride, len(events))
		b.rows.Events(l, events[i:j])
		b.take(i, j)
	}
	return b.end(r)
}

func (b *builder) processes(host *event.Host, ps []*event.Process, r *refs) *Batch {
	b.begin(event.LayoutOf(event.KindProcess), host, len(ps))
	for i := 0; i < len(ps); i += stride {
		j := min(i+stride, len(ps))
		b.rows.Processes(ps[i:j])
		b.take(i, j)
	}
	return b.end(r)
}

// clear lets go of the rows that were built last.
func (b *builder) clear() {
	b.rows.Clear()
	clear(b.strs[:cap(b.strs)])
	clear(b.addrs[:cap(b.addrs)])
	clear(b.lists[:cap(b.lists)])
	clear(b.maps[:cap(b.maps)])
	for i := range b.coders {
		b.coders[i].clear()
	}
	for _, v := range b.vectors {
		clear(v.Strs[:cap(v.Strs)])
		clear(v.Addrs[:cap(v.Addrs)])
		clear(v.Lists[:cap(v.Lists)])
		clear(v.Maps[:cap(v.Maps)])
	}
}

// begin makes room for a batch.
func (b *builder) begin(l *event.Layout, host *event.Host, n int) {
	b.batch.Layout, b.batch.Host, b.batch.Rows = l, host, n
	b.batch.Vectors = b.batch.Vectors[:0]
	for len(b.vectors) < len(l.Columns) {
		b.vectors = append(b.vectors, &Vector{})
		b.coders, b.valid, b.nulls = append(b.coders, coder{}), append(b.valid, nil), append(b.nulls, 0)
	}
	b.at, b.strs, b.addrs, b.lists, b.maps = grow(b.at, stride), grow(b.strs, stride), grow(b.addrs, stride), grow(b.lists, stride), grow(b.maps, stride)
	for i, c := range l.Columns {
		v := b.vectors[i]
		b.valid[i], b.nulls[i] = grow(b.valid[i], n), 0
		v.Column, v.Valid = c, b.valid[i]
		if c.Rep == event.IntRep {
			v.Ints = grow(v.Ints, n)
			continue
		}
		v.Codes, v.Strs, v.Addrs, v.Lists, v.Maps = grow(v.Codes, n), v.Strs[:0], v.Addrs[:0], v.Lists[:0], v.Maps[:0]
		b.coders[i].clear()
	}
}

// take takes rows i to j, which are those of b.rows, apart.
func (b *builder) take(i, j int) {
	n := j - i
	for at, c := range b.batch.Layout.Columns {
		if c.Extern {
			continue
		}
		v, coder := b.vectors[at], &b.coders[at]
		valid := v.Valid[i:j]
		if c.Rep == event.IntRep {
			b.nulls[at] += c.Ints(&b.rows, v.Ints[i:j], valid)
			continue
		}
		codes, rows := v.Codes[i:j], 0
		clear(codes)
		switch c.Rep {
		case event.StrRep:
			rows = c.Strs(&b.rows, b.strs, b.at)
			v.Strs = coder.texts(codes, v.Strs, b.strs[:rows], b.at)
		case event.AddrRep:
			rows = c.Addrs(&b.rows, b.addrs, b.at)
			v.Addrs = coder.addresses(codes, v.Addrs, b.addrs[:rows], b.at)
		case event.ListRep:
			rows = c.Lists(&b.rows, b.lists, b.at)
			v.Lists = coder.lists(codes, v.Lists, b.lists[:rows], b.at)
		case event.MapRep:
			rows = c.Maps(&b.rows, b.maps, b.at)
			v.Maps = coder.maps(codes, v.Maps, b.maps[:rows], b.at)
		}
		clear(valid)
		for _, row := range b.at[:rows] {
			valid[row] = true
		}
		b.nulls[at] += n - rows
	}
}

// end adds the columns that no event holds, and returns the batch.
func (b *builder) end(r *refs) *Batch {
	for i, c := range b.batch.Layout.Columns {
		v := b.vectors[i]
		if c.Extern {
			b.nulls[i] = b.extern(v, &b.coders[i], r)
		}
		switch b.nulls[i] {
		case b.batch.Rows:
			v = nil
		case 0:
			v.Valid = nil
		}
		b.batch.Vectors = append(b.batch.Vectors, v)
	}
	return &b.batch
}

// extern fills a column that no event holds.
func (b *builder) extern(v *Vector, k *coder, r *refs) (nulls int) {
	ints := func(from []int64) {
		copy(v.Ints, from)
		for i, x := range from {
			if v.Valid[i] = x != 0; x == 0 {
				nulls++
			}
		}
	}
	strs := func(from []string) {
		clear(v.Codes)
		for i, x := range from {
			if v.Valid[i] = x != ""; x == "" {
				nulls++
				continue
			}
			v.Strs = k.texts(v.Codes[i:], v.Strs, from[i:i+1], []int32{0})
		}
	}
	switch v.Column.Name {
	case event.ColumnSnapshot:
		ints(r.snapshot)
	case event.ColumnExecID:
		if len(r.codes) == 0 {
			strs(r.execID)
			break
		}
		copy(v.Codes, r.codes)
		v.Strs = append(v.Strs, r.ids...)
		for i, x := range r.snapshot {
			if v.Valid[i] = x != 0; x == 0 {
				nulls++
			}
		}
	case event.ColumnParentSnapshot:
		ints(r.parent)
	case event.ColumnParentExecID:
		strs(r.parentID)
	case "evt.time":
		ints(r.time)
	default:
		return b.batch.Rows
	}
	return nulls
}
