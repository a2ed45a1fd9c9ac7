package store

import (
	"math/bits"

	"warren/event"
	"warren/filter"
)

// A rowSet is a set of rows out of consecutive ones, a bit for each.
type rowSet []uint64

func newRowSet(n int, full bool) rowSet {
	s := make(rowSet, (n+63)/64)
	if full {
		for i := range s {
			s[i] = ^uint64(0)
		}
		s.trim(n)
	}
	return s
}

// trim clears what is beyond n rows.
func (s rowSet) trim(n int) {
	if n%64 != 0 && len(s) > 0 {
		s[len(s)-1] &= 1<<(n%64) - 1
	}
}

func (s rowSet) empty() bool {
	for _, w := range s {
		if w != 0 {
			return false
		}
	}
	return true
}

func (s rowSet) and(t rowSet) {
	for i := range s {
		s[i] &= t[i]
	}
}

func (s rowSet) or(t rowSet) {
	for i := range s {
		s[i] |= t[i]
	}
}

func (s rowSet) invert(n int) {
	for i := range s {
		s[i] = ^s[i]
	}
	s.trim(n)
}

func (s rowSet) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

// appendRows appends the rows in the set, counted from first on.
func (s rowSet) appendRows(rows []int32, first int) []int32 {
	for i, w := range s {
		for w != 0 {
			rows = append(rows, int32(first+64*i+bits.TrailingZeros64(w)))
			w &= w - 1
		}
	}
	return rows
}

// tables gives the columns of one unit for some rows of it, and remembers what leaves
// say of the unit's dictionaries. It belongs to one goroutine.
type tables interface {
	// view returns a column in rows [from, to), valid until the next call for the same
	// column; nil where no row has a value.
	view(col, from, to int) (*view, error)
	// lacks reports that no row's value in a column satisfies a comparison.
	lacks(col int, l *leaf) (bool, error)
	// texts returns the dictionary of a column of text, and nothing else of it; nil where
	// no row has a value.
	texts(col int) (*view, error)
	// snapshots returns the rows whose process satisfies a leaf, of those in among. It
	// reports false where nothing is known of processes.
	snapshots(l *leaf, from, to int, among rowSet) (rowSet, bool, error)
}

// An evaluation finds out for which rows tests may come out as wanted.
type evaluation struct {
	tables
	hold map[holdKey]*heldCodes
}

type holdKey struct {
	leaf *leaf
	col  int
}

// heldCodes is what a leaf says of each text of a dictionary.
type heldCodes struct {
	of   *string // the first text of that dictionary
	n    int
	some bool
	held []bool
}

// rows returns the rows of [from, to) in which t may be want. Of rows that are not in
// among, nil for all, what it says does not matter.
func (e *evaluation) rows(t *test, want bool, from, to int, among rowSet) (rowSet, error) {
	n := to - from
	xs, conjunction := t.all, want
	if t.any != nil {
		xs, conjunction = t.any, !want
	}
	switch {
	case t.not != nil:
		return e.rows(t.not, !want, from, to, among)
	case t.leaf != nil:
		s, known, err := e.leaf(t.leaf, want, from, to, among)
		if err != nil {
			return nil, err
		}
		if !known {
			return newRowSet(n, true), nil
		}
		if !want {
			s.invert(n)
		}
		return s, nil
	case xs == nil:
		return newRowSet(n, true), nil
	}
	var out rowSet
	for _, x := range xs {
		s, err := e.rows(x, want, from, to, among)
		if err != nil {
			return nil, err
		}
		switch {
		case out == nil:
			out = s
		case conjunction:
			out.and(s)
		default:
			out.or(s)
		}
		if conjunction {
			if out.empty() {
				break
			}
			among = out
		}
	}
	return out, nil
}

// leaf returns the rows for which a leaf holds.
func (e *evaluation) leaf(l *leaf, want bool, from, to int, among rowSet) (rowSet, bool, error) {
	switch l.form {
	case leafProcess:
		return e.snapshots(l, from, to, among)
	case leafColumn:
		if l.loose {
			return e.loose(l, want, from, to)
		}
		s, err := e.column(l, l.cols[0], from, to)
		return s, true, err
	case leafEither:
		a, err := e.column(l, l.cols[0], from, to)
		if err != nil {
			return nil, false, err
		}
		b, err := e.column(l, l.cols[1], from, to)
		if err != nil {
			return nil, false, err
		}
		if !l.cmp.Every {
			a.or(b)
			return a, true, nil
		}
		// Both that are there, and one at least.
		for i, col := range l.cols {
			v, err := e.view(col, from, to)
			if err != nil {
				return nil, false, err
			}
			there := present(v, to-from)
			for w := range a {
				if i == 0 {
					a[w] |= ^there[w]
				} else {
					b[w] |= ^there[w]
				}
			}
		}
		some := newRowSet(to-from, false)
		for _, col := range l.cols {
			v, err := e.view(col, from, to)
			if err != nil {
				return nil, false, err
			}
			some.or(present(v, to-from))
		}
		a.and(b)
		a.and(some)
		return a, true, nil
	default:
		server, err := e.view(l.server, from, to)
		if err != nil {
			return nil, false, err
		}
		n := to - from
		near := newRowSet(n, false)
		for i := range n {
			is := server != nil && (server.null == nil || !server.null[i]) && server.nums[i] != 0
			if is == l.want {
				near[i/64] |= 1 << (i % 64)
			}
		}
		a, err := e.column(l, l.cols[0], from, to)
		if err != nil {
			return nil, false, err
		}
		b, err := e.column(l, l.cols[1], from, to)
		if err != nil {
			return nil, false, err
		}
		for i := range a {
			a[i] = a[i]&near[i] | b[i]&^near[i]
		}
		return a, true, nil
	}
}

// loose returns the rows for which a leaf may hold whose column says less than its
// field. Where it may fail is not known.
func (e *evaluation) loose(l *leaf, want bool, from, to int) (rowSet, bool, error) {
	if !want {
		return nil, false, nil
	}
	s, err := e.column(l, l.cols[0], from, to)
	if err != nil || !l.cmp.Num(0) {
		return s, true, err
	}
	v, err := e.view(l.cols[0], from, to)
	if err != nil {
		return nil, false, err
	}
	none := present(v, to-from)
	none.invert(to - from)
	s.or(none)
	return s, true, nil
}

// present returns the rows that have a value.
func present(v *view, n int) rowSet {
	s := newRowSet(n, false)
	if v == nil {
		return s
	}
	for i := range n {
		has := true
		switch {
		case v.codes != nil:
			has = v.codes[i] != missing
		case v.null != nil:
			has = !v.null[i]
		}
		if has {
			s[i/64] |= 1 << (i % 64)
		}
	}
	return s
}

// column returns the rows whose value in a column satisfies a leaf's comparison.
func (e *evaluation) column(l *leaf, col, from, to int) (rowSet, error) {
	n := to - from
	s := newRowSet(n, false)
	if no, err := e.lacks(col, l); no || err != nil {
		return s, err
	}
	var h *heldCodes
	if l.cmp.Num == nil {
		// Where no text of the dictionary will do, rows need not be looked at.
		d, err := e.texts(col)
		if d == nil || err != nil {
			return s, err
		}
		if h = e.held(l, col, d); !h.some {
			return s, nil
		}
	}
	v, err := e.view(col, from, to)
	if v == nil || err != nil {
		return s, err
	}
	if l.cmp.Num != nil {
		match := l.cmp.Num
		if v.null == nil {
			for i, x := range v.nums {
				if match(x) {
					s[i/64] |= 1 << (i % 64)
				}
			}
			return s, nil
		}
		for i, x := range v.nums {
			if !v.null[i] && match(x) {
				s[i/64] |= 1 << (i % 64)
			}
		}
		return s, nil
	}
	if v.offsets != nil {
		lists := make([]bool, len(v.offsets)-1)
		for k := range lists {
			lists[k] = listHolds(v.elements(k), h.held, l.cmp.Every)
		}
		for i := range n {
			if lists[v.list(i)] {
				s[i/64] |= 1 << (i % 64)
			}
		}
		return s, nil
	}
	for i, c := range v.codes {
		if c != missing && h.held[c] {
			s[i/64] |= 1 << (i % 64)
		}
	}
	return s, nil
}

func listHolds(codes []uint32, held []bool, every bool) bool {
	for _, c := range codes {
		if held[c] != every {
			return !every
		}
	}
	return every && len(codes) > 0
}

// held asks a leaf about each text of a dictionary, once.
func (e *evaluation) held(l *leaf, col int, v *view) *heldCodes {
	key := holdKey{l, col}
	h := e.hold[key]
	var first *string
	n := max(len(v.dict), len(v.addrs))
	if len(v.dict) > 0 {
		first = &v.dict[0]
	}
	if h != nil && first != nil && h.of == first && h.n == n {
		return h
	}
	h = &heldCodes{of: first, n: n, held: holds(l.cmp, v)}
	for _, held := range h.held {
		h.some = h.some || held
	}
	if e.hold == nil {
		e.hold = map[holdKey]*heldCodes{}
	}
	e.hold[key] = h
	return h
}

// holds asks a comparison about each text of a dictionary.
func holds(c *filter.Comparison, v *view) []bool {
	held := make([]bool, max(len(v.dict), len(v.addrs)))
	for i := range held {
		switch {
		case c.Text != nil:
			// A field of text never is empty; the elements of a list can be.
			held[i] = (v.dict[i] != "" || v.offsets != nil) && c.Text(v.dict[i])
		case c.Addr != nil && v.addrs != nil:
			held[i] = c.Addr(v.addrs[i].Unmap())
		case c.Addr != nil:
			a := parseAddr(v.dict[i])
			held[i] = a.IsValid() && c.Addr(a.Unmap())
		}
	}
	return held
}

// batchTables are the columns of a batch.
type batchTables struct {
	b     *Batch
	procs *processSets
	views []*view
	built []bool
}

func newBatchTables(b *Batch, procs *processSets) *batchTables {
	return &batchTables{b: b, procs: procs, views: make([]*view, len(b.Layout.Columns)), built: make([]bool, len(b.Layout.Columns))}
}

func (t *batchTables) lacks(int, *leaf) (bool, error) { return false, nil }

func (t *batchTables) texts(col int) (*view, error) { return t.view(col, 0, t.b.Rows) }

func (t *batchTables) snapshots(l *leaf, from, to int, among rowSet) (rowSet, bool, error) {
	v := t.b.Vector(event.ColumnSnapshot)
	return t.procs.rows(l, to-from, among, func(i int) (int64, bool) { return v.Int(from + i) })
}

// view returns the column of all rows of the batch: evaluations of batches are of
// all.
func (t *batchTables) view(col, from, to int) (*view, error) {
	if !t.built[col] {
		t.built[col] = true
		if v := vectorAt(t.b, col); v != nil {
			t.views[col] = viewOf(v, t.b.Rows)
		}
	}
	return t.views[col], nil
}

// viewOf shows a vector of a batch as one of a file.
func viewOf(v *Vector, rows int) *view {
	w := &view{}
	w.rows = rows
	s := shapeOf(v.Column)
	switch {
	case v.Column.Rep == event.IntRep && s == shapeText:
		known := map[int64]uint32{}
		for i := range rows {
			if !v.Has(i) {
				w.codes = append(w.codes, missing)
				continue
			}
			code, ok := known[v.Ints[i]]
			if !ok {
				code = uint32(len(w.dict))
				known[v.Ints[i]] = code
				w.dict = append(w.dict, v.Column.Text(v.Ints[i]))
			}
			w.codes = append(w.codes, code)
		}
	case v.Column.Rep == event.IntRep:
		w.nums = v.Ints[:rows]
		if v.Valid != nil {
			w.null = make([]bool, rows)
			for i := range w.null {
				w.null[i] = !v.Valid[i]
			}
		}
	case s == shapeText:
		w.dict, w.addrs = v.Strs, v.Addrs
		if v.Valid == nil {
			w.codes = v.Codes[:rows]
			break
		}
		for i := range rows {
			code := missing
			if v.Valid[i] {
				code = v.Codes[i]
			}
			w.codes = append(w.codes, code)
		}
	case v.Column.Rep == event.ListRep:
		known := map[string]uint32{}
		w.offsets = []uint32{0, 0} // list 0, of rows without a value
		for _, list := range v.Lists {
			for _, s := range list {
				code, ok := known[s]
				if !ok {
					code = uint32(len(w.dict))
					known[s] = code
					w.dict = append(w.dict, s)
				}
				w.codes = append(w.codes, code)
			}
			w.offsets = append(w.offsets, uint32(len(w.codes)))
		}
		for i := range rows {
			w.lists = append(w.lists, (1+v.Codes[i])*uint32(event.Digit(v.Has(i))))
		}
	}
	return w
}
