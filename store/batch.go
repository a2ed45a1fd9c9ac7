package store

import (
	"net/netip"
	"strings"

	"warren/event"
)

// A Batch is rows of one kind: events, or for KindProcess snapshots of processes,
// as columns.
type Batch struct {
	Layout *event.Layout
	Host   *event.Host // the machine and boot that the rows are of
	Rows   int
	// Vectors are the columns by their index. One that is nil has no value in any
	// row, or has not been asked for.
	Vectors []*Vector
}

// A Vector is the values of one column. Those of an IntRep column are in Ints;
// others are in a dictionary, each value once, and Codes are their places in it.
// Where a row has no value, its place in Ints or Codes is 0.
type Vector struct {
	Column *event.Column
	Valid  []bool // nil: every row has a value
	Ints   []int64
	Codes  []uint32
	Strs   []string
	Addrs  []netip.Addr
	Lists  [][]string
	Maps   []map[string]string
}

// Has reports whether a row has a value.
func (v *Vector) Has(i int) bool { return v != nil && (v.Valid == nil || v.Valid[i]) }

// Int returns the value of an IntRep column in a row.
func (v *Vector) Int(i int) (int64, bool) {
	if !v.Has(i) {
		return 0, false
	}
	return v.Ints[i], true
}

// Str returns the value of a StrRep column in a row.
func (v *Vector) Str(i int) (string, bool) {
	if !v.Has(i) {
		return "", false
	}
	return v.Strs[v.Codes[i]], true
}

// NewBatch returns a batch of rows in which no column has a value.
func NewBatch(l *event.Layout, host *event.Host, rows int) *Batch {
	return &Batch{Layout: l, Host: host, Rows: rows, Vectors: make([]*Vector, len(l.Columns))}
}

// Vector finds a column by name; nil where no row has a value.
func (b *Batch) Vector(name string) *Vector {
	if c := b.Layout.Column(name); c != nil {
		return b.Vectors[c.Index]
	}
	return nil
}

// Time returns evt.time of a row, in nanoseconds since 1970.
func (b *Batch) Time(i int) int64 {
	t, _ := b.Vector("evt.time").Int(i)
	return t
}

// Snapshot returns the number of the snapshot of a process that a row refers to,
// or in a batch of processes is; 0 for none.
func (b *Batch) Snapshot(i int) int64 {
	n, _ := b.Vector(event.ColumnSnapshot).Int(i)
	return n
}

// Event puts a row together again, all of whose columns must have been read; p is
// the snapshot that it refers to, nil for none.
func (b *Batch) Event(i int, p *event.Process) *event.Event {
	e := b.Layout.NewEvent()
	r := e.Record()
	actor := false
	for _, v := range b.Vectors {
		if v == nil || v.Column.Extern || !v.Has(i) {
			continue
		}
		if v.Column.Name == "evt.actor.pid" {
			actor = true
		}
		v.put(r, i)
	}
	e.Process = p
	if p != nil && !actor {
		e.Actor = p.Key
	}
	switch {
	case e.Past != nil:
		e.Past.Host = b.Host
	case b.Host != nil:
		e.Past = &event.Past{Host: b.Host, Count: 1}
	}
	return e
}

// Process puts a row of a batch of processes together again; parent is that
// which [Batch.Parent] names.
func (b *Batch) Process(i int, parent *event.Process) *event.Process {
	p := &event.Process{Parent: parent}
	r := p.Record()
	for _, v := range b.Vectors {
		if v != nil && !v.Column.Extern && v.Has(i) {
			v.put(r, i)
		}
	}
	return p
}

// Parent returns the number of the snapshot of a process's parent, 0 for none.
func (b *Batch) Parent(i int) int64 {
	n, _ := b.Vector(event.ColumnParentSnapshot).Int(i)
	return n
}

func (v *Vector) put(r event.Record, i int) {
	c := v.Column
	switch c.Rep {
	case event.IntRep:
		c.SetInt(r, v.Ints[i])
	case event.StrRep:
		c.SetStr(r, v.Strs[v.Codes[i]])
	case event.AddrRep:
		c.SetAddr(r, v.Addrs[v.Codes[i]])
	case event.ListRep:
		c.SetList(r, v.Lists[v.Codes[i]])
	case event.MapRep:
		c.SetMap(r, v.Maps[v.Codes[i]])
	}
}

// A builder makes batches of events and processes. Its memory, and so that of
// the batch it made last, is used again.
type builder struct {
	batch   Batch
	vectors []*Vector // by column index, for all layouts
	rows    event.Rows
	valid   [][]bool
	strs    []string
	addrs   []netip.Addr
	lists   [][]string
	maps    []map[string]string

	known     map[string]uint32
	knownAddr map[netip.Addr]uint32
	recent    [256]recentStr
	key       strings.Builder
}

type recentStr struct {
	s    string
	code uint32
	used bool
}

// refs are the numbers of snapshots that rows refer to, and their exec ids.
type refs struct {
	snapshot []int64
	execID   []string
	parent   []int64 // of processes alone, as what follows
	parentID []string
	time     []int64
}

func (b *builder) events(l *event.Layout, host *event.Host, events []*event.Event, r *refs) *Batch {
	b.rows.Events(l, events)
	return b.build(l, host, len(events), r)
}

func (b *builder) processes(host *event.Host, ps []*event.Process, r *refs) *Batch {
	b.rows.Processes(ps)
	return b.build(event.LayoutOf(event.KindProcess), host, len(ps), r)
}

// clear lets go of the rows that were built last.
func (b *builder) clear() {
	b.rows.Clear()
	clear(b.strs[:cap(b.strs)])
	clear(b.addrs[:cap(b.addrs)])
	clear(b.lists[:cap(b.lists)])
	clear(b.maps[:cap(b.maps)])
	clear(b.known)
	clear(b.knownAddr)
	b.recent = [256]recentStr{}
	for _, v := range b.vectors {
		clear(v.Strs[:cap(v.Strs)])
		clear(v.Addrs[:cap(v.Addrs)])
		clear(v.Lists[:cap(v.Lists)])
		clear(v.Maps[:cap(v.Maps)])
	}
}

func (b *builder) build(l *event.Layout, host *event.Host, n int, r *refs) *Batch {
	b.batch.Layout, b.batch.Host, b.batch.Rows = l, host, n
	b.batch.Vectors = b.batch.Vectors[:0]
	for len(b.vectors) < len(l.Columns) {
		b.vectors = append(b.vectors, &Vector{})
		b.valid = append(b.valid, nil)
	}
	for i, c := range l.Columns {
		v := b.vectors[i]
		v.Column = c
		b.valid[i] = grow(b.valid[i], n)
		v.Valid = b.valid[i]
		var nulls int
		switch {
		case c.Extern:
			nulls = b.extern(v, n, r)
		case c.Rep == event.IntRep:
			v.Ints = grow(v.Ints, n)
			nulls = c.Ints(&b.rows, v.Ints, v.Valid)
		case c.Rep == event.StrRep:
			b.strs = grow(b.strs, n)
			if nulls = c.Strs(&b.rows, b.strs, v.Valid); nulls < n {
				b.codeStrs(v, b.strs)
			}
		case c.Rep == event.AddrRep:
			b.addrs = grow(b.addrs, n)
			if nulls = c.Addrs(&b.rows, b.addrs, v.Valid); nulls < n {
				b.codeAddrs(v, b.addrs)
			}
		case c.Rep == event.ListRep:
			b.lists = grow(b.lists, n)
			if nulls = c.Lists(&b.rows, b.lists, v.Valid); nulls < n {
				b.codeLists(v, b.lists)
			}
		case c.Rep == event.MapRep:
			b.maps = grow(b.maps, n)
			if nulls = c.Maps(&b.rows, b.maps, v.Valid); nulls < n {
				b.codeMaps(v, b.maps)
			}
		}
		switch nulls {
		case n:
			v = nil
		case 0:
			v.Valid = nil
		}
		b.batch.Vectors = append(b.batch.Vectors, v)
	}
	return &b.batch
}

// extern fills a column that no event holds.
func (b *builder) extern(v *Vector, n int, r *refs) (nulls int) {
	ints := func(from []int64) {
		v.Ints = append(v.Ints[:0], from...)
		for i, x := range from {
			if v.Valid[i] = x != 0; x == 0 {
				nulls++
			}
		}
	}
	strs := func(from []string) {
		for i, x := range from {
			if v.Valid[i] = x != ""; x == "" {
				nulls++
			}
		}
		b.codeStrs(v, from)
	}
	switch v.Column.Name {
	case event.ColumnSnapshot:
		ints(r.snapshot)
	case event.ColumnExecID:
		strs(r.execID)
	case event.ColumnParentSnapshot:
		ints(r.parent)
	case event.ColumnParentExecID:
		strs(r.parentID)
	case "evt.time":
		ints(r.time)
	default:
		return n
	}
	return nulls
}

// grow returns s with length n, whatever is in it.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/4)
	}
	return s[:n]
}
