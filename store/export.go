package store

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"

	"warren/event"
)

const (
	// exportRows is the most rows of a row group of an export: a group is in memory
	// as a whole, with the columns of all kinds.
	exportRows = 8 << 10
	// exportElements is how many elements of lists that differ make a row group of an
	// export full before its rows do: each takes four bytes, and most groups have far
	// fewer.
	exportElements = 1 << 20
	// exportKind stands where a sealed file has the kind of its events.
	exportKind = "export"
)

// Export writes the events of a query as one file of Parquet that needs no other:
// a column for each field that events of the kinds have in JSON, those of the
// process, its parent and ancestors, container and pod included. A list, and the labels of
// a pod or container (key=value), is a list of texts. It gives how many rows were
// written; after an error the file has no footer, and nobody reads it as whole.
func (s *Store) Export(ctx context.Context, w io.Writer, q Query) (rows int64, err error) {
	kinds := event.AllKinds
	if q.Kinds != 0 {
		kinds = q.Kinds
	}
	if q.Filter != nil {
		kinds &= q.Filter.Kinds()
	}
	x := newExporter(w, kinds&^event.StateKinds, map[string]string{
		keyFormat: strconv.Itoa(parquetVersion), keyKind: exportKind, keyNode: s.cfg.Node, keyVersion: s.cfg.Version,
	})
	for e, err := range s.Query(ctx, q) {
		if err != nil {
			return x.w.rows, fmt.Errorf("export: %w", err)
		}
		if err := x.add(e); err != nil {
			return x.w.rows, fmt.Errorf("export: %w", err)
		}
	}
	if err := x.close(); err != nil {
		return x.w.rows, fmt.Errorf("export: %w", err)
	}
	return x.w.rows, nil
}

// An exporter gathers events into row groups.
type exporter struct {
	w    *parquetWriter
	cols []exportColumn
	rows int
	none vector // of a column without a value: all of these share it
}

type exportColumn struct {
	field *event.Field
	shape shape
	v     listSet // the vector, with each list once
	codes map[string]uint32
	list  []uint32 // of listOf
	some  bool     // has a value in this group
}

func newExporter(w io.Writer, kinds event.KindSet, keys map[string]string) *exporter {
	x := &exporter{}
	var cols []parquetColumn
	for _, f := range event.Fields() {
		if f.Virtual || f.Kinds()&kinds == 0 {
			continue
		}
		c := exportColumn{field: f, shape: exportShape(f), v: *newListSet(), codes: map[string]uint32{}}
		x.cols = append(x.cols, c)
		cols = append(cols, parquetColumn{name: f.Name, shape: c.shape, bloom: bloomColumns[f.Name]})
	}
	x.w = newParquetWriter(w, cols, keys)
	return x
}

func exportShape(f *event.Field) shape {
	switch {
	case f.Many != event.One, f.Arg == event.KeyArg:
		return shapeTexts
	case f.Type == event.Time:
		return shapeTime
	case f.Type == event.Bool:
		return shapeBool
	case f.Type == event.Uint:
		return shapeUint
	case f.Type == event.Int, f.Type == event.Duration:
		return shapeInt
	}
	return shapeText
}

func (x *exporter) add(e *event.Event) error {
	elements := 0
	for i := range x.cols {
		c := &x.cols[i]
		c.add(e, x.rows)
		if c.shape == shapeTexts {
			elements += len(c.v.codes)
		}
	}
	if x.rows++; x.rows == exportRows || elements >= exportElements {
		return x.flush()
	}
	return nil
}

// add takes in the row'th event. Columns begin with the first value that they have.
func (c *exportColumn) add(e *event.Event, row int) {
	f := c.field
	switch c.shape {
	case shapeTexts:
		if list := c.listOf(e); len(list) > 0 {
			c.begin(row)
			c.v.lists = append(c.v.lists, c.v.add(list))
		}
	case shapeText:
		if text, ok := textOf(f, e, 0); ok {
			c.begin(row)
			c.v.codes = append(c.v.codes, c.code(text))
		}
	default:
		if n, ok := f.Num(e, 0); ok {
			c.begin(row)
			c.v.nums = append(c.v.nums, n)
			c.v.null = append(c.v.null, false)
		}
	}
	if c.some {
		c.fill(row + 1)
	}
}

// listOf returns the codes of an event's list. They are valid until the next call.
func (c *exportColumn) listOf(e *event.Event) []uint32 {
	f := c.field
	c.list = c.list[:0]
	if f.Arg == event.KeyArg {
		m := f.All(e)
		for _, k := range sortedKeys(m) {
			c.list = append(c.list, c.code(joinPair(k, m[k])))
		}
		return c.list
	}
	first := 0
	if f.Many == event.Ancestors {
		first = 1
	}
	for i := first; i < first+maxExported; i++ {
		text, ok := textOf(f, e, i)
		if !ok && (f.Many == event.List || f.Many == event.Ancestors && e.Process.Ancestor(i) == nil) {
			break
		}
		if !ok && f.Many == event.Either {
			if i > first {
				break
			}
			continue
		}
		// An ancestor without a value has a place, so that the generations of several
		// columns belong together.
		c.list = append(c.list, c.code(text))
	}
	return c.list
}

// maxExported bounds the values of a list.
const maxExported = 4096

// textOf is a value as JSON has it, without quotes.
func textOf(f *event.Field, e *event.Event, i int) (string, bool) {
	switch f.Type {
	case event.String:
		return f.Str(e, i)
	case event.IP, event.Net:
		a, ok := f.Addr(e, i)
		if !ok || a == (netip.Addr{}) {
			return "", false
		}
		return a.String(), true
	case event.Uint:
		n, ok := f.Num(e, i)
		return strconv.FormatUint(uint64(n), 10), ok
	}
	n, ok := f.Num(e, i)
	return strconv.FormatInt(n, 10), ok
}

// begin makes room for a value in a row: rows before it have none.
func (c *exportColumn) begin(row int) {
	c.some = true
	c.fill(row)
}

// fill makes rows up to a number, those that are new without a value.
func (c *exportColumn) fill(rows int) {
	switch c.shape {
	case shapeText:
		for len(c.v.codes) < rows {
			c.v.codes = append(c.v.codes, missing)
		}
	case shapeTexts:
		for len(c.v.lists) < rows {
			c.v.lists = append(c.v.lists, c.v.add(nil))
		}
	default:
		for len(c.v.nums) < rows {
			c.v.nums = append(c.v.nums, 0)
			c.v.null = append(c.v.null, true)
		}
	}
}

func (c *exportColumn) code(s string) uint32 {
	code, ok := c.codes[s]
	if !ok {
		code = uint32(len(c.v.dict))
		c.codes[s] = code
		c.v.dict = append(c.v.dict, s)
	}
	return code
}

func (x *exporter) flush() error {
	if x.rows == 0 {
		return nil
	}
	n := x.rows
	for len(x.none.codes) < n {
		x.none.codes = append(x.none.codes, missing)
		x.none.null = append(x.none.null, true)
	}
	empty := map[shape]*vector{
		shapeText:  {rows: n, codes: x.none.codes[:n]},
		shapeTexts: {rows: n, offsets: make([]uint32, n+1)},
		shapeInt:   {rows: n, nums: make([]int64, n), null: x.none.null[:n]},
	}
	err := x.w.writeGroup(n, func(i int) (*vector, error) {
		c := &x.cols[i]
		if !c.some {
			if v := empty[c.shape]; v != nil {
				return v, nil
			}
			return empty[shapeInt], nil
		}
		c.v.rows = n
		return &c.v.vector, nil
	})
	for i := range x.cols {
		c := &x.cols[i]
		clear(c.v.dict)
		clear(c.codes)
		clear(c.v.seen)
		c.v.vector = vector{codes: c.v.codes[:0], offsets: c.v.offsets[:1], lists: c.v.lists[:0], dict: c.v.dict[:0], nums: c.v.nums[:0], null: c.v.null[:0]}
		c.some = false
	}
	x.rows = 0
	return err
}

func (x *exporter) close() error {
	if err := x.flush(); err != nil {
		return err
	}
	return x.w.close()
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
