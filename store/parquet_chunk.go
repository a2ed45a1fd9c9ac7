package store

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/format"
)

// A chunk is a column in a row group. Its pages are decoded when they are asked for,
// and read then where the chunk was not read whole. It belongs to one goroutine.
type chunk struct {
	file  *parquetFile
	col   *parquetColumn
	info  *chunkInfo
	rows  int
	dict  dictionary // of texts
	nums  []int64    // of numbers, where they are coded
	pages []dataPage
	// listed says that pages are where the file's list of them says, which has no
	// checksum, and not where they are seen to follow each other.
	listed bool

	decoded int // page that current is; -1 none
	current vector
	raw     []byte // all pages, where they are in memory
	*pageScratch
}

// A pageScratch is what decoding a page needs meanwhile; the chunks of a row group
// share one.
type pageScratch struct {
	page   []byte // that was read by itself
	plain  []byte
	lv, rp []uint8
	ints   []int32
	longs  []int64
}

type dataPage struct {
	pageHeader        // of one that was not read yet: rows alone
	body       []byte // levels, then packed values; nil: it is not in memory
	size       int    // of the values, unpacked
	row        int    // the first
	at, length int64  // in the file, with its head
}

func (p *parquetFile) newChunk(g, col int, scratch *pageScratch) *chunk {
	return &chunk{file: p, col: &p.cols[col], info: &p.groups[g].chunks[col], rows: p.groups[g].rows, decoded: -1, pageScratch: scratch}
}

// readChunk reads the column chunk of a row group, into memory of rooms. Chunks that
// share a scratch belong to one goroutine.
func (p *parquetFile) readChunk(g, col int, scratch *pageScratch, rooms *rooms) (*chunk, error) {
	c := p.newChunk(g, col, scratch)
	err := guarded(func() error {
		c.raw = rooms.take(c.info.length)
		if _, err := p.f.ReadAt(c.raw, c.info.at); err != nil {
			return readError(err)
		}
		return c.split(c.raw)
	})
	if err != nil {
		return nil, fmt.Errorf("column %s of row group %d: %w", c.col.name, g, err)
	}
	return c, nil
}

// openChunk is readChunk for who wants few of the pages: it reads where they are, and
// the dictionary.
func (p *parquetFile) openChunk(g, col int, scratch *pageScratch, rooms *rooms) (*chunk, error) {
	c := p.newChunk(g, col, scratch)
	err := guarded(func() error {
		if err := c.readPlaces(); err != nil || !c.info.coded {
			return err
		}
		b, err := c.read(c.info.at, c.info.data-c.info.at)
		if err != nil {
			return err
		}
		head, n := readPageHeader(b)
		if n == 0 || head.kind != int64(format.DictionaryPage) || !head.fits(b[n:]) {
			return corrupt("no dictionary where one should be")
		}
		return c.readDictionary(&head, b[n:])
	})
	if isDamage(err) || c.pages == nil {
		// Where the pages are can be seen in themselves, too.
		return p.readChunk(g, col, scratch, rooms)
	}
	if err != nil {
		return nil, fmt.Errorf("column %s of row group %d: %w", c.col.name, g, err)
	}
	return c, nil
}

// read reads a part of the file. It is valid until the next call.
func (c *chunk) read(at, n int64) ([]byte, error) {
	if n < 0 || at < c.info.at || n > c.info.length-(at-c.info.at) {
		return nil, corrupt("a page lies outside its column")
	}
	c.pageScratch.page = slices.Grow(c.pageScratch.page[:0], int(n))[:n]
	if _, err := c.file.f.ReadAt(c.pageScratch.page, at); err != nil {
		return nil, readError(err)
	}
	return c.pageScratch.page, nil
}

// readPlaces finds the pages by the index of the file, if there is one.
func (c *chunk) readPlaces() error {
	if c.info.placesLen == 0 {
		return nil
	}
	b := make([]byte, c.info.placesLen)
	if _, err := c.file.f.ReadAt(b, c.info.placesAt); err != nil {
		return readError(err)
	}
	pages, ok := appendPlaces(nil, b)
	if !ok {
		return corrupt("no list of pages")
	}
	// The list has no checksum. But pages follow each other, and the footer, which has
	// one, says where the first begins and the last ends.
	at := c.info.data
	for i := range pages {
		p := &pages[i]
		end := c.rows
		if i+1 < len(pages) {
			end = pages[i+1].row
		}
		if p.at != at || p.length <= 0 || i == 0 && p.row != 0 || end <= p.row || end > c.rows {
			return corrupt("a list of pages that are not there")
		}
		p.rows = int64(end - p.row)
		at += p.length
	}
	if at != c.info.at+c.info.length {
		return corrupt("a list of other pages")
	}
	c.pages, c.listed = pages, true
	return nil
}

// appendPlaces reads where pages are: a structure OffsetIndex of the format.
func appendPlaces(pages []dataPage, b []byte) ([]dataPage, bool) {
	w := walker{b: b}
	w.fields(func(id int, t byte) {
		if id != 1 || t != 9 {
			w.skip(t)
			return
		}
		head := w.byte()
		n := uint64(head >> 4)
		if n == 15 {
			n = w.varint()
		}
		for range w.length(n) {
			var d dataPage
			w.nested(head&15, func(id int, t byte) {
				switch id {
				case 1:
					d.at = w.zigzag(t)
				case 2:
					d.length = w.zigzag(t)
				case 3:
					d.row = int(w.zigzag(t))
				default:
					w.skip(t)
				}
			})
			if w.bad {
				return
			}
			pages = append(pages, d)
		}
	})
	return pages, !w.bad
}

// split finds the pages of a chunk and reads its dictionary.
func (c *chunk) split(b []byte) error {
	row, values, nulls, at := 0, int64(0), int64(0), c.info.at
	for len(b) > 0 {
		head, n := readPageHeader(b)
		if n == 0 {
			return corrupt("a page without a head")
		}
		b = b[n:]
		if head.packed < 0 || head.packed > int64(len(b)) || !head.fits(b[:head.packed]) {
			return corrupt("a page of %d bytes of %d, with %d values in %d bytes", head.packed, len(b), head.values, head.unpacked)
		}
		body, length := b[:head.packed], int64(n)+head.packed
		b = b[head.packed:]
		switch {
		case head.kind == int64(format.DictionaryPage) && c.pages == nil:
			if err := c.readDictionary(&head, body); err != nil {
				return err
			}
		case head.kind == int64(format.DataPageV2):
			if err := c.checkHead(&head, c.rows-row, c.info.values-values); err != nil {
				return err
			}
			d := dataPage{row: row, at: at, length: length}
			d.fill(&head, body)
			c.pages = append(c.pages, d)
			row += int(head.rows)
			values += head.values
			nulls += head.nulls
		default:
			return corrupt("a page of a type that Warren does not write")
		}
		at += length
	}
	if row != c.rows || values != c.info.values || nulls != c.info.nulls {
		return corrupt("pages of %d rows of %d, with %d values of %d, %d of %d missing", row, c.rows, values, c.info.values, nulls, c.info.nulls)
	}
	return nil
}

// presence returns the definition levels of a page that is of no lists, which say for
// each row whether it has a value. They are as many as the head says, and as many ones:
// it has no checksum, and where it is believed a value that is there would be missing.
func (d *dataPage) presence() (runs, error) {
	def := d.body[d.rep : d.rep+d.def]
	if err := checkRuns(def, 1, int(d.values)); err != nil {
		return runs{}, err
	}
	all := runs{rest: def, width: 1}
	levels := all
	all.at(int(d.values) - 1)
	if n := int64(all.ones(int(d.values))); n != d.values-d.nulls {
		return runs{}, corrupt("%d values instead of %d", n, d.values-d.nulls)
	}
	return levels, nil
}

// checkHead checks the head of a page of data, which has at most so many rows and
// values: heads have no checksum, and the footer has.
func (c *chunk) checkHead(head *pageHeader, rows int, values int64) error {
	levels := head.def + head.rep
	if head.rows < 1 || head.rows > int64(rows) || head.values < head.rows || head.values > values || head.nulls < 0 || head.nulls > head.values ||
		head.def < 0 || head.rep < 0 || levels > head.packed || levels > head.unpacked || c.col.shape != shapeTexts && head.values != head.rows {
		return corrupt("a page of %d rows with %d values", head.rows, head.values)
	}
	return nil
}

func (d *dataPage) fill(head *pageHeader, body []byte) {
	d.pageHeader, d.body, d.size = *head, body, int(head.unpacked-head.def-head.rep)
}

// load returns a page that is in memory until the next call.
func (c *chunk) load(i int) (*dataPage, error) {
	d := &c.pages[i]
	if d.body == nil {
		b, err := c.read(d.at, d.length)
		if err != nil {
			return nil, err
		}
		head, n := readPageHeader(b)
		if n == 0 || head.kind != int64(format.DataPageV2) || !head.fits(b[n:]) || head.rows != d.rows {
			return nil, corrupt("no page of %d rows where one should be", d.rows)
		}
		if err := c.checkHead(&head, int(d.rows), c.info.values); err != nil {
			return nil, err
		}
		one := dataPage{row: d.row}
		one.fill(&head, b[n:])
		d = &one
	}
	return d, d.check(d.body)
}

// shed gives back the memory of pages, which are read again when they are asked for.
func (c *chunk) shed(rooms *rooms) {
	for i := range c.pages {
		c.pages[i].body = nil
	}
	rooms.give(c.raw)
	c.raw = nil
}

// A pageError is why a page of a chunk is not read, whose other pages may be.
type pageError struct {
	chunk *chunk
	err   error
}

// Error implements error.
func (e *pageError) Error() string { return fmt.Sprintf("column %s: %v", e.chunk.col.name, e.err) }

// Unwrap returns what is wrong with the page.
func (e *pageError) Unwrap() error { return e.err }

// page returns the i-th page, without its texts. It is valid until the next call. The
// error is a *[pageError].
func (c *chunk) page(i int) (*vector, error) {
	if c.decoded == i {
		return &c.current, nil
	}
	c.decoded = -1
	err := guarded(func() error {
		d, err := c.load(i)
		if err != nil {
			return err
		}
		return c.decode(d)
	})
	if err != nil {
		return nil, &pageError{c, err}
	}
	c.decoded = i
	return &c.current, nil
}

// pageAt returns the number of the page with a row.
func (c *chunk) pageAt(row int) int {
	i, found := slices.BinarySearchFunc(c.pages, row, func(p dataPage, row int) int { return cmp.Compare(p.row, row) })
	if !found {
		i--
	}
	return i
}

// pageUnpackers are decoders that nobody uses. They write into the room that they are
// given, whatever a page says that it has.
var pageUnpackers = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // of the options alone
	}
	return d
}}

// unpackMargin is how much more room than they need makes decoders copy faster.
const unpackMargin = 16

// unsaidSize bounds what is in a packed page that does not say how much it is.
const unsaidSize = 256

// unpack returns what is packed in a page, as much as its head says. It is valid until
// the next call. Heads have no checksum, and what is packed has: no memory is taken
// before they agree.
func (c *chunk) unpack(b []byte, size int) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	var head zstd.Header
	if err := head.Decode(b); err != nil {
		return nil, corrupt("%v", err)
	}
	if head.HasFCS && head.FrameContentSize != uint64(size) || !head.HasFCS && size >= unsaidSize {
		return nil, corrupt("a page that is packed should have %d bytes, and does not say so", size)
	}
	d := pageUnpackers.Get().(*zstd.Decoder)
	defer pageUnpackers.Put(d)
	plain, err := d.DecodeAll(b, slices.Grow(c.plain[:0], size+unpackMargin))
	c.plain = nil
	if err != nil {
		return nil, corrupt("%v", err)
	}
	if len(plain) != size {
		return nil, corrupt("a page of %d bytes should have %d", len(plain), size)
	}
	c.plain = plain
	return plain, nil
}

func (c *chunk) readDictionary(head *pageHeader, body []byte) error {
	if err := head.check(body); err != nil {
		return err
	}
	n := int(head.values)
	b, err := c.unpack(body, int(head.unpacked))
	if err != nil {
		return err
	}
	if c.col.shape != shapeText && c.col.shape != shapeTexts {
		if n < 0 || len(b) != 8*n {
			return corrupt("a dictionary of %d numbers in %d bytes", n, len(b))
		}
		c.nums = make([]int64, n)
		for i := range c.nums {
			c.nums[i] = int64(binary.LittleEndian.Uint64(b[8*i:]))
		}
		return nil
	}
	c.dict, err = newDictionary(b, n)
	return err
}

// A dictionary is the texts of a chunk.
type dictionary struct {
	all  string   // each behind its length in four bytes
	ends []uint32 // of each in all
	list []string // of all, once somebody wanted it
}

func newDictionary(b []byte, n int) (d dictionary, err error) {
	if n < 0 || 4*n > len(b) {
		return d, corrupt("a dictionary of %d texts in %d bytes", n, len(b))
	}
	d.ends = make([]uint32, n)
	at := 0
	for i := range d.ends {
		if len(b)-at < 4 {
			return d, corrupt("a dictionary ends too early")
		}
		l := int64(binary.LittleEndian.Uint32(b[at:]))
		if at += 4; l > int64(len(b)-at) {
			return d, corrupt("a dictionary ends too early")
		}
		at += int(l)
		d.ends[i] = uint32(at)
	}
	if at != len(b) {
		return d, corrupt("a dictionary of %d texts goes on behind them", n)
	}
	d.all = string(b)
	return d, nil
}

func (d *dictionary) size() int { return len(d.ends) }

// text returns one text.
func (d *dictionary) text(code uint32) string {
	if d.list != nil {
		return d.list[code]
	}
	from := uint32(4)
	if code > 0 {
		from += d.ends[code-1]
	}
	return unescapeText(d.all[from:d.ends[code]])
}

// texts returns all texts.
func (d *dictionary) texts() []string {
	if d.list == nil {
		list := make([]string, len(d.ends))
		for i := range list {
			list[i] = d.text(uint32(i))
		}
		d.list = list
	}
	return d.list
}

// narrowShare is how many texts of a dictionary there must be for each that is wanted
// for the others not to be looked at.
const narrowShare = 8

// narrow returns copies of the texts that codes are places of, and makes codes places in
// what it returns; nil, and nothing done, where all texts are as good.
func (d *dictionary) narrow(codes []uint32) []string {
	if narrowShare*len(codes) > len(d.ends) {
		return nil
	}
	places := make(map[uint32]uint32, len(codes))
	var list []string
	for i, code := range codes {
		place, ok := places[code]
		if !ok {
			place = uint32(len(list))
			places[code] = place
			// Without a copy, each event would hold all texts in memory.
			list = append(list, strings.Clone(d.text(code)))
		}
		codes[i] = place
	}
	return list
}

// lists returns the texts of lists, whose codes are places in what it looks them up in
// then.
func (d *dictionary) lists(s *listSet) [][]string {
	all := d.narrow(s.codes)
	if all == nil {
		all = d.texts()
	}
	lists := make([][]string, len(s.offsets)-1)
	for k := range lists {
		codes := s.elements(k)
		lists[k] = make([]string, len(codes))
		for i, code := range codes {
			lists[k][i] = all[code]
		}
	}
	return lists
}

// maxRooms is how many rooms are kept for others.
const maxRooms = 32

// rooms is memory for chunks, which the row groups of a query use one after the other.
// All methods may be called at the same time, and of nil, which keeps none.
type rooms struct {
	mu   sync.Mutex
	free [][]byte
}

// take returns n bytes, of any contents.
func (r *rooms) take(n int64) []byte {
	if r == nil {
		return make([]byte, n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, b := range r.free {
		if int64(cap(b)) >= n {
			r.free = slices.Delete(r.free, i, i+1)
			return b[:n]
		}
	}
	return make([]byte, n)
}

// give keeps memory that nobody uses any more.
func (r *rooms) give(b []byte) {
	if r == nil || cap(b) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.free) == maxRooms {
		r.free = slices.Delete(r.free, 0, 1) // smaller than what was asked for, more likely than not
	}
	r.free = append(r.free, b)
}
