package store

import (
	"io"
	"math"
	"net/netip"
	"slices"
	"strings"

	"warren/event"
)

// Columns of a file that stand for the machine that its rows are of.
const (
	columnHostname = "evt.hostname"
	columnNode     = "node"
	columnBootID   = "evt.boot_id"
)

// bloomColumns have bloom filters: what people look for by name.
var bloomColumns = map[string]bool{
	event.ColumnExecID: true, "fd.lip": true, "fd.rip": true, "container.id": true, "container.full_id": true,
}

// hostColumns are those that every file begins with.
var hostColumns = []parquetColumn{{name: columnNode, shape: shapeText}, {name: columnHostname, shape: shapeText}, {name: columnBootID, shape: shapeText}}

// fileColumns returns the columns of a file of a kind.
func fileColumns(l *event.Layout) []parquetColumn {
	cols := slices.Clone(hostColumns)
	for _, c := range l.Columns {
		cols = append(cols, parquetColumn{name: c.Name, shape: shapeOf(c), bloom: bloomColumns[c.Name]})
	}
	return cols
}

func shapeOf(c *event.Column) shape {
	switch {
	case c.Rep == event.ListRep, c.Rep == event.MapRep:
		return shapeTexts
	case c.Rep != event.IntRep, c.Type == event.String:
		return shapeText
	case c.Type == event.Time:
		return shapeTime
	case c.Type == event.Bool:
		return shapeBool
	case c.Type == event.Uint:
		return shapeUint
	}
	return shapeInt
}

// A groupBuilder gathers batches of one kind and machine into row groups, sorted by
// time, and writes a file of them. It holds one row group.
type groupBuilder struct {
	layout *event.Layout
	host   *event.Host
	node   string // that names of files have
	w      *parquetWriter
	rows   int
	cols   []groupColumn // by the index of the layout
	limit  int           // rows of a group
	expect int           // rows that will come, as far as that is known
	none   vector        // of a column without a value, for all
	by     string        // column that rows are sorted by
	times  []int64       // what rows are sorted by
	order  []int32
	sorted vector
	texts  vector // of a host's column

	first, last int64 // of evt.time, of all that was written
	total       int64
}

// A groupColumn is a column of the row group that is being gathered.
type groupColumn struct {
	v     vector
	some  bool // a row has a value; else v is nothing but a number of rows
	known map[string]uint32
	ints  map[int64]uint32 // of numbers that have names
	bytes int              // of texts in the dictionary
	codes []uint32         // of a batch's codes
	lists [][]uint32       // likewise
}

// maxGroupText is how many bytes of texts make a row group full before its rows do.
const maxGroupText = 16 << 20

// processPageRows is the rows of a page of processes.
const processPageRows = 1 << 10

func newGroupBuilder(w io.Writer, l *event.Layout, host *event.Host, keys map[string]string) *groupBuilder {
	g := &groupBuilder{
		layout: l, host: host, node: keys[keyNode], w: newParquetWriter(w, fileColumns(l), keys), cols: make([]groupColumn, len(l.Columns)), limit: rowGroupRows,
		first: math.MaxInt64, last: math.MinInt64, by: "evt.time",
	}
	if l.Kind == event.KindProcess {
		// Processes are looked up one by one.
		g.by, g.w.step = event.ColumnSnapshot, processPageRows
	}
	return g
}

// add adds the rows of a batch, which is not kept.
func (g *groupBuilder) add(b *Batch) error {
	for from := 0; from < b.Rows; {
		to := min(b.Rows, from+g.limit-g.rows)
		for i, c := range g.layout.Columns {
			g.cols[i].add(c, vectorAt(b, i), from, to, min(g.limit, max(g.expect, to-from)))
		}
		text := 0
		for i := range g.cols {
			text += g.cols[i].bytes
		}
		if g.rows += to - from; g.rows == g.limit || text > maxGroupText {
			if err := g.flush(); err != nil {
				return err
			}
		}
		from = to
	}
	return nil
}

func vectorAt(b *Batch, i int) *Vector {
	if i < len(b.Vectors) {
		return b.Vectors[i]
	}
	return nil
}

// begin makes room for the rows of a group, those before without a value.
func (c *groupColumn) begin(s shape, before, room int) {
	c.some = true
	switch s {
	case shapeText:
		c.v.codes = slices.Grow(c.v.codes, max(before, room))
		for range before {
			c.v.codes = append(c.v.codes, missing)
		}
	case shapeTexts:
		c.v.offsets = append(slices.Grow(c.v.offsets, max(before, room)+1), make([]uint32, before)...)
	default:
		c.v.nums = append(slices.Grow(c.v.nums, max(before, room)), make([]int64, before)...)
		if before > 0 {
			c.v.setNull(0, before, func(int) bool { return true })
		}
	}
}

// add adds rows of a vector, nil for none with a value. The group will have room rows.
func (c *groupColumn) add(col *event.Column, v *Vector, from, to, room int) {
	n := to - from
	before := c.v.rows
	c.v.rows += n
	s := shapeOf(col)
	if !c.some {
		if v == nil {
			return
		}
		c.begin(s, before, room)
	}
	if v == nil {
		switch s {
		case shapeText:
			for range n {
				c.v.codes = append(c.v.codes, missing)
			}
		case shapeTexts:
			for range n {
				c.v.offsets = append(c.v.offsets, uint32(len(c.v.codes)))
			}
		default:
			c.v.nums = append(c.v.nums, make([]int64, n)...)
			c.v.setNull(before, n, func(int) bool { return true })
		}
		return
	}
	switch {
	case col.Rep == event.IntRep && s == shapeText:
		if c.ints == nil {
			c.ints = map[int64]uint32{}
		}
		last, code, some := int64(0), uint32(0), false
		for i := from; i < to; i++ {
			if !v.Has(i) {
				c.v.codes = append(c.v.codes, missing)
				continue
			}
			if n := v.Ints[i]; !some || n != last {
				last, some = n, true
				var ok bool
				if code, ok = c.ints[n]; !ok {
					code = c.code(col.Text(n))
					c.ints[n] = code
				}
			}
			c.v.codes = append(c.v.codes, code)
		}
	case col.Rep == event.IntRep:
		c.v.nums = append(c.v.nums, v.Ints[from:to]...)
		if v.Valid != nil || c.v.null != nil {
			c.v.setNull(before, n, func(i int) bool { return !v.Has(from + i) })
		}
	case s == shapeText:
		c.place(v)
		if v.Valid == nil {
			for _, code := range v.Codes[from:to] {
				c.v.codes = append(c.v.codes, c.codeOf(v, code))
			}
			return
		}
		for i := from; i < to; i++ {
			code := missing
			if v.Valid[i] {
				code = c.codeOf(v, v.Codes[i])
			}
			c.v.codes = append(c.v.codes, code)
		}
	default:
		c.place(v)
		for i := from; i < to; i++ {
			c.v.offsets = append(c.v.offsets, uint32(len(c.v.codes)))
			if v.Has(i) {
				c.v.codes = append(c.v.codes, c.listOf(v, v.Codes[i])...)
			}
		}
	}
}

// setNull says which of n rows behind the first have no value.
func (v *vector) setNull(before, n int, null func(i int) bool) {
	if v.null == nil {
		v.null = make([]bool, before, before+n)
	}
	v.null = append(v.null, make([]bool, before-len(v.null))...)
	for i := range n {
		v.null = append(v.null, null(i))
	}
}

// code returns the place of a text in the dictionary of the row group.
func (c *groupColumn) code(s string) uint32 {
	if c.known == nil {
		c.known = map[string]uint32{}
	}
	code, ok := c.known[s]
	if !ok {
		code = uint32(len(c.v.dict))
		s = strings.Clone(s) // it may lie in something larger
		c.known[s] = code
		c.v.dict = append(c.v.dict, s)
		c.bytes += len(s)
	}
	return code
}

// place begins with a batch's dictionary, of which no code is known yet.
func (c *groupColumn) place(v *Vector) {
	n := max(len(v.Strs), len(v.Addrs), len(v.Lists), len(v.Maps))
	c.codes = slices.Grow(c.codes[:0], n)[:n]
	for i := range c.codes {
		c.codes[i] = missing
	}
	clear(c.lists)
	c.lists = c.lists[:0]
	if v.Lists != nil || v.Maps != nil {
		c.lists = slices.Grow(c.lists, n)[:n]
	}
}

func (c *groupColumn) codeOf(v *Vector, code uint32) uint32 {
	if c.codes[code] == missing {
		if v.Column.Rep == event.AddrRep {
			c.codes[code] = c.code(v.Addrs[code].String())
		} else {
			c.codes[code] = c.code(v.Strs[code])
		}
	}
	return c.codes[code]
}

func (c *groupColumn) listOf(v *Vector, code uint32) []uint32 {
	if c.lists[code] == nil {
		list := []uint32{}
		if v.Column.Rep == event.MapRep {
			flat := flatten(v.Maps[code])
			for i := 0; i+1 < len(flat); i += 2 {
				list = append(list, c.code(joinPair(flat[i], flat[i+1])))
			}
		} else {
			for _, s := range v.Lists[code] {
				list = append(list, c.code(s))
			}
		}
		c.lists[code] = list
	}
	return c.lists[code]
}

// joinPair writes a key and its value as one text, key=value. A = or \ in the key has
// a \ before it.
func joinPair(k, v string) string {
	if strings.ContainsAny(k, `=\`) {
		k = strings.NewReplacer(`\`, `\\`, `=`, `\=`).Replace(k)
	}
	return k + "=" + v
}

func splitPair(s string) (k, v string) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '=':
			k, v = s[:i], s[i+1:]
			if strings.Contains(k, `\`) {
				k = strings.NewReplacer(`\\`, `\`, `\=`, `=`).Replace(k)
			}
			return k, v
		}
	}
	return s, ""
}

// reset makes the column empty; its memory is used again, what texts took is not kept.
func (c *groupColumn) reset() {
	clear(c.v.dict)
	c.v = vector{codes: c.v.codes[:0], offsets: c.v.offsets[:0], dict: c.v.dict[:0], nums: c.v.nums[:0]}
	c.bytes, c.some = 0, false
	clear(c.known)
	clear(c.ints)
}

// flush writes the row group.
func (g *groupBuilder) flush() error {
	if g.rows == 0 {
		return nil
	}
	g.sort()
	err := g.w.writeGroup(g.rows, func(i int) *vector {
		if i < len(hostColumns) {
			return g.hostVector(i)
		}
		c := &g.cols[i-len(hostColumns)]
		if !c.some {
			return g.noVector()
		}
		if shapeOf(g.layout.Columns[i-len(hostColumns)]) == shapeTexts {
			c.v.offsets = append(c.v.offsets, uint32(len(c.v.codes)))
		}
		if g.order == nil {
			return &c.v
		}
		return c.v.ordered(g.order, &g.sorted)
	})
	g.total += int64(g.rows)
	g.rows = 0
	for i := range g.cols {
		g.cols[i].reset()
	}
	return err
}

// hostVector returns a column with the same text in all rows.
func (g *groupBuilder) hostVector(i int) *vector {
	text := g.node
	if name := hostColumns[i].name; name != columnNode {
		text = ""
		if g.host != nil && name == columnHostname {
			text = g.host.Name()
		} else if g.host != nil {
			text = g.host.BootID()
		}
	}
	code := uint32(0)
	if text == "" {
		code = missing
	}
	v := &g.texts
	v.rows, v.dict, v.codes = g.rows, append(v.dict[:0], text), v.codes[:0]
	for range g.rows {
		v.codes = append(v.codes, code)
	}
	return v
}

// noVector returns a column without a value, of any shape.
func (g *groupBuilder) noVector() *vector {
	v := &g.none
	v.rows = g.rows
	for len(v.codes) < g.rows {
		v.codes, v.nums, v.null = append(v.codes, missing), append(v.nums, 0), append(v.null, true)
	}
	v.codes, v.nums, v.null = v.codes[:g.rows], v.nums[:g.rows], v.null[:g.rows]
	v.offsets = append(v.offsets[:0], make([]uint32, g.rows+1)...)
	return v
}

// sort finds the order of the rows by time; nil where they are in order.
func (g *groupBuilder) sort() {
	g.order = nil
	for _, t := range g.cols[g.layout.Column("evt.time").Index].v.nums {
		g.first, g.last = min(g.first, t), max(g.last, t)
	}
	g.times = g.cols[g.layout.Column(g.by).Index].v.nums
	if slices.IsSorted(g.times) {
		return
	}
	g.order = make([]int32, g.rows)
	for i := range g.order {
		g.order[i] = int32(i)
	}
	slices.SortStableFunc(g.order, func(a, b int32) int {
		switch x, y := g.times[a], g.times[b]; {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
}

// ordered returns v with its rows in another order, in the memory of w.
func (v *vector) ordered(order []int32, w *vector) *vector {
	*w = vector{rows: v.rows, dict: v.dict, codes: w.codes[:0], offsets: w.offsets[:0], nums: w.nums[:0], null: nil}
	switch {
	case len(v.offsets) > 0:
		for _, i := range order {
			w.offsets = append(w.offsets, uint32(len(w.codes)))
			w.codes = append(w.codes, v.codes[v.offsets[i]:v.offsets[i+1]]...)
		}
		w.offsets = append(w.offsets, uint32(len(w.codes)))
	case len(v.codes) > 0:
		for _, i := range order {
			w.codes = append(w.codes, v.codes[i])
		}
	default:
		for _, i := range order {
			w.nums = append(w.nums, v.nums[i])
		}
		if v.null != nil {
			w.null = make([]bool, 0, len(order))
			for _, i := range order {
				w.null = append(w.null, v.null[i])
			}
		}
	}
	return w
}

// close writes what is left, and the footer.
func (g *groupBuilder) close() error {
	if err := g.flush(); err != nil {
		return err
	}
	return g.w.close()
}

// parseAddr reads an address of a file. What is none is no address.
func parseAddr(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a
}
