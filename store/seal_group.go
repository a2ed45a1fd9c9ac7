package store

import (
	"errors"
	"hash/maphash"
	"io"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"unsafe"

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

// A groupBuilder makes row groups, sorted by time, of the batches of one kind and
// machine, and writes a file of them. It holds the batches of one row group as they
// are in a log, unpacked, and the values of one column: however many columns there
// are, memory is bounded, and used again.
type groupBuilder struct {
	layout *event.Layout
	host   *event.Host
	node   string // that names of files have
	w      *parquetWriter
	limit  int // rows of a group

	room    []byte     // for the next frame
	batches []rawBatch // of the row group; behind them is memory of earlier ones
	rows    int
	bytes   int // of the batches

	col    groupColumn
	times  []int64 // evt.time, in the order of the batches
	order  []int32 // of the rows; empty where they are in order
	sorted vector
	none   vector // of a column without a value, for all
	texts  vector // of a host's column

	first, last int64 // of evt.time, of all that was written
	total       int64
}

// A rawBatch is a batch of a log: where its columns lie.
type rawBatch struct {
	rows   int
	memory []byte // that body lies in
	body   []byte
	cols   [][]byte // by the index of the layout; nil where no row has a value
	timed  bool     // each row has a time
	frame  int      // of the log
}

// A groupColumn is the column that is being written.
type groupColumn struct {
	v     vector
	index index        // of v.dict, or of addrs
	addrs []netip.Addr // whose texts are v.dict
	named [64]named    // numbers that have names and came lately, by their hashes
	// of a batch
	codes []uint32 // places of its dictionary
	first int      // of its lists in v
	nums  []int64
}

// named is a number whose name is in the dictionary.
type named struct {
	number int64
	code   uint32
	known  bool
}

// A badFrame is the error of a frame that turned out to be damaged.
type badFrame int

func (b badFrame) Error() string { return errFrame.Error() }

// maxGroupBytes is how many bytes of batches make a row group full before its rows do.
const maxGroupBytes = 16 << 20

// processPageRows is the rows of a page of processes.
const processPageRows = 1 << 10

func newGroupBuilder(w io.Writer, l *event.Layout, host *event.Host, keys map[string]string) *groupBuilder {
	g := &groupBuilder{
		layout: l, host: host, node: keys[keyNode], w: newParquetWriter(w, fileColumns(l), keys), limit: rowGroupRows,
		first: math.MaxInt64, last: math.MinInt64,
	}
	if l.Kind == event.KindProcess {
		g.w.step = processPageRows // they are looked up one by one
	}
	return g
}

// add reads a frame of a log, and adds its rows. Where a frame is damaged, the error
// of this call or of a later one is a badFrame.
func (g *groupBuilder) add(log *segment, number int, f *frame) error {
	if n := len(g.batches); n == cap(g.batches) {
		g.batches = append(g.batches, rawBatch{})[:n]
	}
	raw := &g.batches[:len(g.batches)+1][len(g.batches)]
	raw.frame = number
	if err := g.read(raw, log, f); err != nil {
		if errors.Is(err, errFrame) {
			return badFrame(number)
		}
		return err
	}
	if raw.rows == 0 {
		return nil
	}
	if g.rows > 0 && (g.rows+raw.rows > g.limit || g.bytes+len(raw.body) > maxGroupBytes) {
		n := len(g.batches)
		if err := g.flush(); err != nil {
			return err
		}
		all := g.batches[:n+1]
		all[0], all[n] = all[n], all[0]
		raw = &all[0]
	}
	g.batches = g.batches[:len(g.batches)+1]
	g.rows += raw.rows
	g.bytes += len(raw.body)
	return nil
}

// read reads the batch of a frame, all of whose log is written. The error is errFrame
// where it has none.
func (g *groupBuilder) read(b *rawBatch, log *segment, f *frame) error {
	whole, err := log.whole(g.room, f)
	if err != nil {
		return err
	}
	g.room = whole
	r := &reader{b: whole[headSize:]}
	var info frameInfo
	info.read(r)
	s := log.schemas.of(f.kind, info.schema)
	if r.failed || s == nil || s.layout != g.layout {
		return errFrame
	}
	if b.body, err = unpackTo(b.memory, r.b); err != nil {
		return err
	}
	if r.b[0] == packed {
		b.memory = b.body
	} else {
		b.memory, g.room = whole, b.memory // it stays where it was read
	}
	if !b.split(s, info.rows) {
		return errFrame
	}
	return nil
}

// split finds the columns of the batch's body. It reports false for what is none of so
// many rows.
func (b *rawBatch) split(s *schema, rows int) bool {
	l := s.layout
	b.cols = grow(b.cols, len(l.Columns))
	clear(b.cols)
	r := &reader{b: b.body}
	if n := r.uvarint(); n > maxRows || int(n) != rows {
		return false
	}
	b.rows = rows
	for range r.count() {
		index := r.uvarint()
		data := r.bytes(r.uvarint())
		if r.failed || index >= uint64(len(s.columns)) {
			return false
		}
		if c := s.columns[index]; c != nil {
			if b.cols[c.Index] != nil {
				return false
			}
			b.cols[c.Index] = data
		}
	}
	times := b.cols[l.Column("evt.time").Index]
	b.timed = len(times) > 0 && times[0] == 0
	return !r.failed
}

// column reads a column of all batches. It reports false where no row has a value.
func (g *groupBuilder) column(c *event.Column) (bool, error) {
	some := false
	for i := range g.batches {
		some = some || g.batches[i].cols[c.Index] != nil
	}
	if !some {
		return false, nil
	}
	k := &g.col
	k.reset()
	s := shapeOf(c)
	if s == shapeTexts {
		k.v.offsets = append(k.v.offsets, 0, 0) // list 0, of rows without a value
	}
	for i := range g.batches {
		b := &g.batches[i]
		at := k.v.rows
		k.v.rows += b.rows
		if b.cols[c.Index] == nil {
			k.v.addMissing(s, at, b.rows)
			continue
		}
		if !k.add(c, s, b.cols[c.Index], at, b.rows) {
			return false, badFrame(b.frame)
		}
		if c.Name == "evt.ktime" && b.timed && b.cols[c.Index][0] == 0 {
			for i, t := range g.times[at : at+b.rows] {
				k.v.nums[at+i] += t
			}
		}
	}
	return true, nil
}

// addMissing adds n rows without a value, the first of them at a place.
func (v *vector) addMissing(s shape, at, n int) {
	switch s {
	case shapeText:
		for range n {
			v.codes = append(v.codes, missing)
		}
	case shapeTexts:
		for range n {
			v.lists = append(v.lists, 0)
		}
	default:
		v.nums = append(v.nums, make([]int64, n)...)
		v.nullable(at)
		for range n {
			v.null = append(v.null, true)
		}
	}
}

// nullable makes v one whose rows, those before a place with a value, may have none.
func (v *vector) nullable(at int) {
	for len(v.null) < at {
		v.null = append(v.null, false)
	}
}

// add adds a batch's values, as appendVector wrote them. It reports false for what
// is no column of so many rows.
func (k *groupColumn) add(c *event.Column, s shape, data []byte, at, rows int) bool {
	r := &reader{b: data}
	var set []byte // which rows have a value; nil for all
	n := rows
	switch r.byte() {
	case 0:
	case 1:
		if set = r.bytes(uint64(rows+7) / 8); set == nil {
			return false
		}
		n = 0
		for _, b := range set {
			n += bits.OnesCount8(b)
		}
	default:
		return false
	}
	if n == 0 || n > rows || c.Rep != event.IntRep && !k.dictionary(r, c.Rep) {
		return false
	}
	if c.Rep == event.IntRep && s != shapeText {
		return k.numbers(r, set, n, at, rows)
	}
	k.nums = grow(k.nums, n)
	if !r.ints(k.nums) || r.failed {
		return false
	}
	switch {
	case c.Rep == event.IntRep:
		k.names(c, set, rows)
	case s == shapeText:
		return k.places(set, rows)
	default:
		return k.rowLists(set, rows)
	}
	return true
}

// numbers reads n numbers, and adds them where set says that rows have one.
func (k *groupColumn) numbers(r *reader, set []byte, n, at, rows int) bool {
	v := &k.v
	v.nums = slices.Grow(v.nums, rows)[:at+rows]
	if set == nil {
		if len(v.null) > 0 {
			v.nullable(at + rows)
		}
		return r.ints(v.nums[at:]) && !r.failed
	}
	k.nums = grow(k.nums, n+1) // one more than there are, for rows behind the last that has one
	if !r.ints(k.nums[:n]) || r.failed {
		return false
	}
	v.nullable(at)
	v.null = slices.Grow(v.null, rows)[:at+rows]
	nums, null, from := v.nums[at:], v.null[at:], 0
	for i := range nums {
		has := set[i/8] >> (i % 8) & 1
		nums[i], null[i] = k.nums[from]*int64(has), has == 0
		from += int(has)
	}
	return true
}

// names adds what the numbers in k.nums are called.
func (k *groupColumn) names(c *event.Column, set []byte, rows int) {
	from := 0
	for i := range rows {
		if set != nil && set[i/8]>>(i%8)&1 == 0 {
			k.v.codes = append(k.v.codes, missing)
			continue
		}
		n := k.nums[from]
		seen := &k.named[uint64(n)*0x9e3779b97f4a7c15>>58]
		if !seen.known || seen.number != n {
			*seen = named{n, k.code(c.Text(n)), true}
		}
		from++
		k.v.codes = append(k.v.codes, seen.code)
	}
}

// places adds the texts whose places in the batch's dictionary are in k.nums.
func (k *groupColumn) places(set []byte, rows int) bool {
	size := int64(len(k.codes))
	if set == nil {
		for _, n := range k.nums {
			if uint64(n) >= uint64(size) {
				return false
			}
			k.v.codes = append(k.v.codes, k.codes[n])
		}
		return true
	}
	k.nums = append(k.nums, 0) // for rows behind the last that has one
	at := len(k.v.codes)
	k.v.codes = slices.Grow(k.v.codes, rows)[:at+rows]
	codes, from := k.v.codes[at:], 0
	for i := range codes {
		has := set[i/8] >> (i % 8) & 1
		n := k.nums[from]
		if uint64(n) >= uint64(size) {
			return false
		}
		codes[i] = k.codes[n] | (uint32(has) - 1) // all bits of missing are set
		from += int(has)
	}
	return true
}

// rowLists adds the lists whose places are in k.nums. What they have is not repeated: a
// few processes with thousands of arguments, each of which has thousands of children,
// would fill the memory.
func (k *groupColumn) rowLists(set []byte, rows int) bool {
	size, from := len(k.v.offsets)-1-k.first, 0
	for i := range rows {
		if set != nil && set[i/8]>>(i%8)&1 == 0 {
			k.v.lists = append(k.v.lists, 0)
			continue
		}
		n := k.nums[from]
		if uint64(n) >= uint64(size) {
			return false
		}
		from++
		k.v.lists = append(k.v.lists, uint32(k.first+int(n)))
	}
	return true
}

// dictionary reads that of a batch, and finds the places of what it has in that of
// the row group.
func (k *groupColumn) dictionary(r *reader, rep event.Rep) bool {
	k.codes, k.first = k.codes[:0], len(k.v.offsets)-1
	for range r.count() {
		switch rep {
		case event.StrRep:
			k.codes = append(k.codes, k.codeBytes(r.bytes(r.uvarint())))
		case event.AddrRep:
			code, ok := k.codeAddr(r.bytes(uint64(r.byte())))
			if !ok {
				return false
			}
			k.codes = append(k.codes, code)
		case event.ListRep:
			for range r.count() {
				k.v.codes = append(k.v.codes, k.codeBytes(r.bytes(r.uvarint())))
			}
			k.v.offsets = append(k.v.offsets, uint32(len(k.v.codes)))
		default:
			flat := r.strings()
			if len(flat)%2 != 0 {
				return false
			}
			for i := 0; i+1 < len(flat); i += 2 {
				k.v.codes = append(k.v.codes, k.code(joinPair(flat[i], flat[i+1])))
			}
			k.v.offsets = append(k.v.offsets, uint32(len(k.v.codes)))
		}
		if r.failed {
			return false
		}
	}
	return true
}

// codeBytes returns the place of a text in the dictionary of the row group. What is
// put there lies in its batch, which stays until the row group is written.
func (k *groupColumn) codeBytes(b []byte) uint32 {
	return place(&k.index, &k.v.dict, unsafe.String(unsafe.SliceData(b), len(b)), maphash.Bytes(textSeed, b))
}

func (k *groupColumn) code(s string) uint32 {
	return place(&k.index, &k.v.dict, s, maphash.String(textSeed, s))
}

// codeAddr is codeBytes of an address.
func (k *groupColumn) codeAddr(b []byte) (uint32, bool) {
	var a netip.Addr
	if err := a.UnmarshalBinary(b); err != nil {
		return 0, false
	}
	code := place(&k.index, &k.addrs, a, hashAddr(a))
	if len(k.addrs) > len(k.v.dict) {
		k.v.dict = append(k.v.dict, a.String())
	}
	return code, true
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

// reset makes the column empty; its memory is used again.
func (k *groupColumn) reset() {
	clear(k.v.dict)
	k.v = vector{codes: k.v.codes[:0], offsets: k.v.offsets[:0], lists: k.v.lists[:0], dict: k.v.dict[:0], nums: k.v.nums[:0], null: k.v.null[:0]}
	k.index.clear()
	clear(k.addrs)
	k.addrs = k.addrs[:0]
	clear(k.named[:])
}

// flush writes the row group.
func (g *groupBuilder) flush() error {
	if g.rows == 0 {
		return nil
	}
	if err := g.sort(); err != nil {
		return err
	}
	if err := g.w.writeGroup(g.rows, g.vector); err != nil {
		return err
	}
	g.total += int64(g.rows)
	g.rows, g.bytes, g.batches = 0, 0, g.batches[:0]
	return nil
}

// vector returns a column of the file, in the order of its rows; it stays until the
// next is asked for.
func (g *groupBuilder) vector(i int) (*vector, error) {
	if i < len(hostColumns) {
		return g.hostVector(i), nil
	}
	c := g.layout.Columns[i-len(hostColumns)]
	some, err := g.column(c)
	switch {
	case err != nil:
		return nil, err
	case !some:
		return g.noVector(shapeOf(c)), nil
	case len(g.order) == 0:
		return &g.col.v, nil
	}
	return g.col.v.ordered(g.order, &g.sorted), nil
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
	v := &g.texts
	v.rows, v.uniform, v.dict = g.rows, true, v.dict[:0]
	if text != "" {
		v.dict = append(v.dict, text)
	}
	return v
}

// noVector returns a column without a value.
func (g *groupBuilder) noVector(s shape) *vector {
	v := &g.none
	v.rows, v.uniform = g.rows, true
	if s == shapeTexts {
		v.offsets = grow(v.offsets, g.rows+1)
		clear(v.offsets)
	}
	return v
}

// sort finds the order of the rows: by time, and of processes by number.
func (g *groupBuilder) sort() error {
	g.order = g.order[:0]
	read := func(name string, dst []int64) ([]int64, error) {
		some, err := g.column(g.layout.Column(name))
		if !some || err != nil {
			return append(dst[:0], make([]int64, g.rows)...), err
		}
		return append(dst[:0], g.col.v.nums...), nil
	}
	var err error
	if g.times, err = read("evt.time", g.times); err != nil {
		return err
	}
	for _, t := range g.times {
		g.first, g.last = min(g.first, t), max(g.last, t)
	}
	by := g.times
	if g.layout.Kind == event.KindProcess {
		if by, err = read(event.ColumnSnapshot, nil); err != nil {
			return err
		}
	}
	if slices.IsSorted(by) {
		return nil
	}
	for i := range g.rows {
		g.order = append(g.order, int32(i))
	}
	slices.SortStableFunc(g.order, func(a, b int32) int {
		switch x, y := by[a], by[b]; {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return nil
}

// ordered returns v with its rows in another order, in the memory of both v and w.
func (v *vector) ordered(order []int32, w *vector) *vector {
	*w = vector{rows: v.rows, dict: v.dict, codes: w.codes[:0], lists: w.lists[:0], nums: w.nums[:0], null: w.null[:0]}
	switch {
	case len(v.lists) > 0:
		for _, i := range order {
			w.lists = append(w.lists, v.lists[i])
		}
		v.lists, w.lists = w.lists, v.lists
		return v // with the lists, which are as they were
	case len(v.codes) > 0:
		for _, i := range order {
			w.codes = append(w.codes, v.codes[i])
		}
	default:
		for _, i := range order {
			w.nums = append(w.nums, v.nums[i])
		}
		if len(v.null) > 0 {
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
