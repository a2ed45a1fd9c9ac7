package store

import (
	"hash/maphash"
	"net/netip"
	"os"
	"slices"
	"unsafe"

	"warren/event"
	"warren/filter"
)

// A sealedFile is a sealed file with what its columns mean here. It can be used by
// several goroutines at a time.
type sealedFile struct {
	*parquetFile
	kind   event.Kind
	layout *event.Layout
	host   *event.Host
	cols   []int // in the file, by index of the layout; -1: the file has no such column
}

// openSealed opens a sealed file. Errors are those of [readParquet].
func openSealed(path string) (*sealedFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return readSealed(f)
}

// readSealed is openSealed of a file that is open, which it closes where it fails.
func readSealed(file *os.File) (*sealedFile, error) {
	p, err := readParquet(file)
	if err != nil {
		return nil, err
	}
	k, ok := event.LookupKind(p.keys[keyKind])
	l := event.LayoutOf(k)
	if !ok || l == nil {
		_ = p.close() // read only
		return nil, corrupt("no kind of events is called %q", p.keys[keyKind])
	}
	f := &sealedFile{parquetFile: p, kind: k, layout: l, host: event.NewHost(p.keys[keyHostname], p.keys[keyK8sNode], p.keys[keyBootID])}
	for _, c := range l.Columns {
		i, ok := p.byName[c.Name]
		if !ok || p.cols[i].shape != shapeOf(c) {
			i = -1
		}
		f.cols = append(f.cols, i)
	}
	if f.cols[l.Column("evt.time").Index] < 0 {
		_ = p.close()
		return nil, corrupt("no column evt.time")
	}
	return f, nil
}

// A groupReader reads one row group of a sealed file, columns as they are asked for.
// It belongs to one goroutine at a time.
type groupReader struct {
	f      *sealedFile
	g      int
	chunks []*chunk // by column of the file
	damage []error  // of columns that cannot be read, as chunks
	addrs  map[*chunk][]netip.Addr
	nums   map[*chunk][]int64
	views  map[int]*groupView
	known  map[compared]bool // what lacks has said
	// scratch is of all chunks.
	scratch pageScratch
	rooms   *rooms // for what is read whole; may be nil
	sets    *processSets
}

// compared is a comparison of a column.
type compared struct {
	by  *filter.Comparison
	col int
}

type groupView struct {
	view
	from, to int
}

func newGroupReader(f *sealedFile, g int, sets *processSets, rooms *rooms) *groupReader {
	return &groupReader{f: f, g: g, rooms: rooms, chunks: make([]*chunk, len(f.parquetFile.cols)), damage: make([]error, len(f.parquetFile.cols)), addrs: map[*chunk][]netip.Addr{}, nums: map[*chunk][]int64{}, views: map[int]*groupView{}, known: map[compared]bool{}, sets: sets}
}

func (r *groupReader) rows() int { return r.f.groups[r.g].rows }

// info returns what the footer says of a column of the layout; nil where the file has
// none, or no row a value.
func (r *groupReader) info(col int) *chunkInfo {
	i := r.f.cols[col]
	if i < 0 {
		return nil
	}
	if c := &r.f.groups[r.g].chunks[i]; c.nulls < c.values {
		return c
	}
	return nil
}

// chunk returns a column of the layout; nil where no row has a value.
func (r *groupReader) chunk(col int) (*chunk, error) { return r.chunkBy(col, (*parquetFile).readChunk) }

// chunkBy is chunk, and says how it is read if it was not yet. What is damaged is not
// read again.
func (r *groupReader) chunkBy(col int, read func(p *parquetFile, g, col int, scratch *pageScratch, rooms *rooms) (*chunk, error)) (*chunk, error) {
	if r.info(col) == nil {
		return nil, nil
	}
	i := r.f.cols[col]
	if r.chunks[i] == nil && r.damage[i] == nil {
		c, err := read(r.f.parquetFile, r.g, i, &r.scratch, r.rooms)
		if err != nil && !isDamage(err) {
			return nil, err
		}
		r.chunks[i], r.damage[i] = c, err
	}
	return r.chunks[i], r.damage[i]
}

// scatterShare is how many pages there must be for each that is wanted for pages to be
// read by themselves.
const scatterShare = 4

// scattered reports whether some rows, in ascending order, are in so few pages that
// these are read by themselves.
func (r *groupReader) scattered(rows []int32) bool {
	pages, last := 0, int32(-1)
	for _, row := range rows {
		if at := row / pageRows; at != last {
			last = at
			pages++
		}
	}
	return scatterShare*pages <= r.rows()/pageRows
}

// settle ends the evaluation of the group, after which a few rows may be asked for, or
// many.
func (r *groupReader) settle(rows []int32) {
	r.views = nil // they share memory with pages that are decoded anew
	if !r.scattered(rows) {
		return
	}
	for _, c := range r.chunks {
		if c != nil {
			c.shed(r.rooms)
		}
	}
}

// view implements tables.
func (r *groupReader) view(col, from, to int) (*view, error) {
	c, err := r.chunk(col)
	if c == nil || err != nil {
		return nil, err
	}
	v := r.views[col]
	if v == nil {
		v = &groupView{}
		r.views[col] = v
	}
	if v.from == from && v.to == to && v.rows > 0 {
		return &v.view, nil
	}
	if err := c.window(from, to, &v.vector); err != nil {
		return nil, err
	}
	v.from, v.to = from, to
	return &v.view, nil
}

// texts implements tables.
func (r *groupReader) texts(col int) (*view, error) {
	c, err := r.chunk(col)
	if c == nil || err != nil {
		return nil, err
	}
	v := &view{vector: vector{dict: c.dict.texts()}}
	if c.col.shape == shapeTexts {
		v.offsets = []uint32{0}
	}
	return v, nil
}

// window puts rows [from, to) of a chunk into v. It shares their memory where they lie
// in one page.
func (c *chunk) window(from, to int, v *vector) error {
	*v = vector{rows: to - from}
	if c.dict.size() > 0 {
		v.dict = c.dict.texts()
	}
	if c.col.shape == shapeTexts {
		return c.listWindow(from, to, v)
	}
	for at := from; at < to; {
		n := c.pageAt(at)
		p, err := c.page(n)
		if err != nil {
			return err
		}
		i, j := at-c.pages[n].row, min(to-c.pages[n].row, p.rows)
		whole := at == from && j-i == to-from
		at += j - i
		switch {
		case c.col.shape == shapeText && whole:
			v.codes = p.codes[i:j]
		case c.col.shape == shapeText:
			v.codes = append(v.codes, p.codes[i:j]...)
		case whole:
			v.nums = p.nums[i:j]
			if p.null != nil {
				v.null = p.null[i:j]
			}
		default:
			if p.null != nil && v.null == nil {
				v.null = make([]bool, len(v.nums))
			}
			v.nums = append(v.nums, p.nums[i:j]...)
			if p.null != nil {
				v.null = append(v.null, p.null[i:j]...)
			} else if v.null != nil {
				v.null = append(v.null, make([]bool, j-i)...)
			}
		}
	}
	return nil
}

// listWindow is window of lists, each of which is there once: all those of a row group
// can be far more than are different.
func (c *chunk) listWindow(from, to int, v *vector) error {
	lists := newListSet()
	for at := from; at < to; {
		n := c.pageAt(at)
		p, err := c.page(n)
		if err != nil {
			return err
		}
		first := c.pages[n].row
		for ; at < min(to, first+p.rows); at++ {
			v.lists = append(v.lists, lists.add(p.elements(at-first)))
		}
	}
	v.codes, v.offsets = lists.codes, lists.offsets
	return nil
}

// A listSet is lists of codes, each of which is there once.
type listSet struct {
	vector                   // codes and offsets
	seen   map[uint64]uint32 // the last list of a hash
}

func newListSet() *listSet {
	return &listSet{vector: vector{offsets: []uint32{0}}, seen: map[uint64]uint32{}}
}

// add returns the number of a list.
func (s *listSet) add(codes []uint32) uint32 {
	hash := maphash.Bytes(textSeed, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(codes))), 4*len(codes)))
	k, ok := s.seen[hash]
	if !ok || !slices.Equal(s.elements(int(k)), codes) {
		k = uint32(len(s.offsets) - 1)
		s.seen[hash] = k
		s.codes = append(s.codes, codes...)
		s.offsets = append(s.offsets, uint32(len(s.codes)))
	}
	return k
}

// lacks implements tables: by bounds and bloom filter, which it asks once.
func (r *groupReader) lacks(col int, l *leaf) (bool, error) {
	key := compared{l.cmp, col}
	no, ok := r.known[key]
	if ok {
		return no, nil
	}
	no, err := r.lacksAny(col, l.cmp)
	if err == nil {
		r.known[key] = no
	}
	return no, err
}

func (r *groupReader) lacksAny(col int, c *filter.Comparison) (bool, error) {
	info := r.info(col)
	if info == nil {
		return true, nil
	}
	s := r.f.parquetFile.cols[r.f.cols[col]].shape
	switch {
	case c.Num != nil:
		if !info.bounded || s == shapeBool || len(info.least) != 8 || len(info.most) != 8 {
			return false, nil
		}
		lo, hi := int64(le64(info.least)), int64(le64(info.most))
		if c.Num(lo) || c.Num(hi) {
			return false, nil
		}
		for _, e := range c.Edges {
			inside := e >= lo && e <= hi
			if s == shapeUint {
				inside = uint64(e) >= uint64(lo) && uint64(e) <= uint64(hi)
			}
			if inside && c.Num(e) {
				return false, nil
			}
		}
		return true, nil
	case s == shapeTexts:
		return false, nil
	}
	only := onlyTexts(c)
	if only == nil {
		return false, nil
	}
	if info.bounded {
		least, most := string(info.least), string(info.most)
		only = slices.DeleteFunc(slices.Clone(only), func(t string) bool { t = escapeText(t); return t < least || t > most })
	}
	if len(only) == 0 {
		return true, nil
	}
	if info.bloomLen == 0 || r.chunks[r.f.cols[col]] != nil { // the dictionary tells more
		return false, nil
	}
	var hashes []uint64
	for _, t := range only {
		hashes = append(hashes, bloomHash(t))
	}
	may, err := r.f.mayHave(r.g, r.f.cols[col], hashes)
	return !may, err
}

func le64(b []byte) uint64 { return uint64(le32(b)) | uint64(le32(b[4:]))<<32 }

// snapshots implements tables.
func (r *groupReader) snapshots(l *leaf, from, to int, among rowSet) (rowSet, bool, error) {
	if r.sets == nil || !r.sets.known {
		return nil, false, nil
	}
	n := to - from
	if r.sets.none(l) {
		return newRowSet(n, false), true, nil
	}
	// The ids of processes are in a dictionary: mostly that says all.
	if ids := r.sets.ids(l); ids != nil {
		col := r.f.layout.Column(event.ColumnExecID).Index
		no, err := r.lacks(col, &leaf{cmp: ids})
		if err != nil {
			return nil, false, err
		}
		if no {
			return newRowSet(n, false), true, nil
		}
	}
	v, err := r.view(r.f.layout.Column(event.ColumnSnapshot).Index, from, to)
	if v == nil || err != nil {
		return newRowSet(n, false), true, err
	}
	return r.sets.rows(l, n, among, func(i int) (int64, bool) { return v.nums[i], v.null == nil || !v.null[i] })
}

// possible reports whether t may come out as wanted for a row of the group, by what is
// known without reading rows.
func (r *groupReader) possible(t *test, want bool) (bool, error) {
	if t == nil {
		return true, nil
	}
	xs, conjunction := t.all, want
	if t.any != nil {
		xs, conjunction = t.any, !want
	}
	switch {
	case t.not != nil:
		return r.possible(t.not, !want)
	case t.leaf != nil && want:
		return r.leafPossible(t.leaf)
	case xs == nil:
		return true, nil
	}
	for _, x := range xs {
		ok, err := r.possible(x, want)
		if err != nil || ok != conjunction {
			return ok, err
		}
	}
	return conjunction, nil
}

func (r *groupReader) leafPossible(l *leaf) (bool, error) {
	cols := l.cols[:]
	switch l.form {
	case leafProcess:
		return r.sets == nil || !r.sets.known || !r.sets.none(l), nil
	case leafColumn:
		cols = cols[:1]
	}
	if l.loose && l.cmp.Num(0) {
		return true, nil
	}
	for _, col := range cols {
		if no, err := r.lacks(col, l); err != nil || !no {
			return true, err
		}
	}
	return false, nil
}

// batch reads some rows, in ascending order: those columns that want reports true
// for; nil wants all.
func (r *groupReader) batch(rows []int32, want func(*event.Column) bool) (*Batch, error) {
	b := NewBatch(r.f.layout, r.f.host, len(rows))
	read := (*parquetFile).readChunk
	if r.scattered(rows) {
		read = (*parquetFile).openChunk
	}
	for i, c := range r.f.layout.Columns {
		if want != nil && !want(c) {
			continue
		}
		ch, err := r.chunkBy(i, read)
		if err != nil {
			return nil, err
		}
		if ch == nil {
			continue
		}
		b.Vectors[i], err = r.pick(ch, c, rows)
		if err != nil && isDamage(err) && ch.listed {
			b.Vectors[i], err = r.pickUnlisted(ch, c, rows, err)
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// pickUnlisted is pick where what a list of pages led to is damaged: where they are can
// be seen in themselves, too, unless that is damaged as well. It is looked at once.
func (r *groupReader) pickUnlisted(listed *chunk, col *event.Column, rows []int32, damage error) (*Vector, error) {
	i := r.f.cols[col.Index]
	c, err := r.f.readChunk(r.g, i, &r.scratch, r.rooms)
	switch {
	case err == nil:
		r.chunks[i] = c
		return r.pick(c, col, rows)
	case isDamage(err):
		listed.listed = false // there is no other way to its pages
		return nil, damage
	}
	return nil, err
}

// pick makes a vector of some rows of a chunk.
func (r *groupReader) pick(c *chunk, col *event.Column, rows []int32) (*Vector, error) {
	v := &Vector{Column: col}
	n := len(rows)
	valid := make([]bool, n)
	nulls := 0
	var texts []uint32
	var lists *listSet
	switch c.col.shape {
	case shapeTexts:
		texts, lists = make([]uint32, n), newListSet()
	case shapeText:
		texts = make([]uint32, n)
	default:
		v.Ints = make([]int64, n)
	}
	for k := 0; k < n; {
		at := c.pageAt(int(rows[k]))
		first := c.pages[at].row
		end := k + 1
		for end < n && int(rows[end]) < first+int(c.pages[at].rows) {
			end++
		}
		some, err := c.sparse(at, rows[k:end], first, from(texts, k), from(v.Ints, k), valid[k:])
		if err != nil {
			return nil, err
		}
		if some {
			for ; k < end; k++ {
				if !valid[k] {
					nulls++
				}
			}
			continue
		}
		p, err := c.page(at)
		if err != nil {
			return nil, err
		}
		for ; k < n && int(rows[k]) < first+p.rows; k++ {
			i := int(rows[k]) - first
			switch c.col.shape {
			case shapeText:
				texts[k] = p.codes[i]
				valid[k] = texts[k] != missing
			case shapeTexts:
				if list := p.elements(i); len(list) > 0 {
					valid[k], texts[k] = true, lists.add(list)
				}
			default:
				valid[k] = p.null == nil || !p.null[i]
				v.Ints[k] = p.nums[i]
			}
			if !valid[k] {
				nulls++
			}
		}
	}
	if nulls == n {
		return nil, nil
	}
	if nulls > 0 {
		v.Valid = valid
		for k, ok := range valid {
			if !ok && texts != nil {
				texts[k] = 0
			}
		}
	}
	switch col.Rep {
	case event.StrRep:
		if v.Codes, v.Strs = texts, c.dict.narrow(texts); v.Strs == nil {
			v.Strs = c.dict.texts()
		}
	case event.AddrRep:
		v.Codes = texts
		if few := c.dict.narrow(texts); few != nil {
			for _, text := range few {
				v.Addrs = append(v.Addrs, parseAddr(text))
			}
		} else {
			v.Addrs = r.addresses(c, texts)
		}
	case event.ListRep:
		v.Codes, v.Lists = texts, c.dict.lists(lists)
	case event.MapRep:
		v.Codes = texts
		for _, l := range c.dict.lists(lists) {
			m := make(map[string]string, len(l))
			for _, s := range l {
				key, value := splitPair(s)
				m[key] = value
			}
			v.Maps = append(v.Maps, m)
		}
	case event.IntRep:
		if texts == nil {
			break
		}
		nums := r.numbers(c, col)
		v.Ints = make([]int64, n)
		for k, code := range texts {
			if valid[k] {
				v.Ints[k] = nums[code]
			}
		}
	}
	return v, nil
}

// from returns a list from a place on, nil for nil.
func from[T any](l []T, k int) []T {
	if l == nil {
		return nil
	}
	return l[k:]
}

// addresses returns the dictionary of a chunk as addresses, as far as codes name them.
func (r *groupReader) addresses(c *chunk, codes []uint32) []netip.Addr {
	l := r.addrs[c]
	if l == nil {
		l = make([]netip.Addr, c.dict.size())
		r.addrs[c] = l
	}
	for _, code := range codes {
		if !l[code].IsValid() {
			l[code] = parseAddr(c.dict.text(code))
		}
	}
	return l
}

func (r *groupReader) numbers(c *chunk, col *event.Column) []int64 {
	if r.nums[c] == nil {
		l := make([]int64, c.dict.size())
		for i, s := range c.dict.texts() {
			l[i], _ = col.Number(s) // what is no name stands for none
		}
		r.nums[c] = l
	}
	return r.nums[c]
}
