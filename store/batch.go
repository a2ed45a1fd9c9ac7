package store

import (
	"net/netip"

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

func vectorAt(b *Batch, i int) *Vector {
	if i < len(b.Vectors) {
		return b.Vectors[i]
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

// grow returns s with length n, whatever is in it.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/4)
	}
	return s[:n]
}
