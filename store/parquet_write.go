package store

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/parquet-go/parquet-go/bloom"
	"github.com/parquet-go/parquet-go/compress/zstd"
	"github.com/parquet-go/parquet-go/encoding/delta"
	"github.com/parquet-go/parquet-go/encoding/rle"
	"github.com/parquet-go/parquet-go/format"

	"warren/event"
)

// A vector is the values of one column in consecutive rows. Which of the slices
// are in use follows from the column's shape.
type vector struct {
	rows int

	// Text: codes are places in dict, or missing. Codes of lists are those of the
	// elements; those of list k are codes[offsets[k]:offsets[k+1]]. lists says which list
	// a row has, so that one of many rows is there once; where it is empty, row i has
	// list i. A row without a value has an empty one.
	codes   []uint32
	offsets []uint32
	lists   []uint32
	dict    []string

	// Numbers, times and booleans.
	nums []int64

	// null says which rows of numbers have no value; empty where all have.
	null []bool

	// uniform says that all rows have the one text in dict, or, where there is none, no
	// value: codes, nums and null say nothing then.
	uniform bool
}

// list returns the number of the list that row i has.
func (v *vector) list(i int) int {
	if len(v.lists) > 0 {
		return int(v.lists[i])
	}
	return i
}

// elements returns the codes of list k.
func (v *vector) elements(k int) []uint32 { return v.codes[v.offsets[k]:v.offsets[k+1]] }

// A parquetWriter writes one file, row group by row group. It keeps what it needs
// for the footer, and one column of one row group.
type parquetWriter struct {
	w      io.Writer
	at     int64
	cols   []parquetColumn
	groups []format.RowGroup
	keys   []format.KeyValue
	rows   int64
	plain  int64  // bytes of the values, one by one
	blooms []byte // checksums of bloom filters

	// one for each column chunk, in the order of the footer
	columnIndexes []format.ColumnIndex
	offsetIndexes []format.OffsetIndex

	codec   zstd.Codec
	dictEnc rle.DictionaryEncoding
	levels  rle.Encoding
	delta   delta.BinaryPackedEncoding

	step   int // rows of a page
	err    error
	chunk  chunkState
	page   []byte // encoded
	packed []byte // compressed
	head   []byte // of a page
	def    []byte // definition levels, encoded
	rep    []byte // repetition levels, encoded
	lv, rp []uint8
	ints   []int32
	longs  []int64
	places [2 * maxFew]uint16 // 1 + place in few, by hash
	few    []int64
	ranks  []int32
	ranked []int32
	sizes  []int32 // of the texts of a dictionary, plain
}

// chunkState is the column chunk that is being written.
type chunkState struct {
	col    *parquetColumn
	meta   format.ColumnMetaData
	index  format.ColumnIndex
	places format.OffsetIndex
	row    int64
	filter []byte
	raw    int // how many pages are still not tried to be packed
}

// newParquetWriter begins a file. Nothing else is written to w meanwhile.
func newParquetWriter(w io.Writer, cols []parquetColumn, keys map[string]string) *parquetWriter {
	p := &parquetWriter{w: w, cols: cols, step: pageRows, codec: zstd.Codec{Level: zstd.SpeedFastest}, levels: rle.Encoding{BitWidth: 1}}
	for k, v := range keys {
		p.keys = append(p.keys, format.KeyValue{Key: k, Value: v})
	}
	slices.SortFunc(p.keys, func(a, b format.KeyValue) int { return bytes.Compare([]byte(a.Key), []byte(b.Key)) })
	p.write([]byte(parquetMagic))
	return p
}

func (p *parquetWriter) write(b []byte) {
	if p.err != nil {
		return
	}
	n, err := p.w.Write(b)
	p.at += int64(n)
	p.err = err
}

// writeGroup writes a row group: vectors are those of the columns, in order.
func (p *parquetWriter) writeGroup(rows int, vectors func(i int) (*vector, error)) error {
	g := format.RowGroup{NumRows: int64(rows), FileOffset: p.at, Ordinal: int16(min(len(p.groups), math.MaxInt16))}
	for i := range p.cols {
		v, err := vectors(i)
		if err != nil {
			return fmt.Errorf("write column %s: %w", p.cols[i].name, err)
		}
		if v.rows != rows {
			return fmt.Errorf("write column %s: %d rows of %d", p.cols[i].name, v.rows, rows)
		}
		p.writeChunk(&p.cols[i], v)
		if p.err != nil {
			return p.err
		}
		c := &p.chunk
		g.Columns = append(g.Columns, format.ColumnChunk{MetaData: c.meta})
		g.TotalByteSize += c.meta.TotalUncompressedSize
		g.TotalCompressedSize += c.meta.TotalCompressedSize
		p.columnIndexes = append(p.columnIndexes, c.index)
		p.offsetIndexes = append(p.offsetIndexes, c.places)
	}
	p.groups = append(p.groups, g)
	p.rows += int64(rows)
	return nil
}

func (p *parquetWriter) writeChunk(col *parquetColumn, v *vector) {
	p.chunk = chunkState{col: col, meta: format.ColumnMetaData{
		Type: col.physical(), PathInSchema: col.path(), Codec: format.Zstd,
	}}
	switch col.shape {
	case shapeText:
		p.writeTexts(v, false)
	case shapeTexts:
		p.writeTexts(v, true)
	case shapeBool:
		p.writeNumbers(v)
	default:
		p.writeNumbers(v)
	}
	m := &p.chunk.meta
	m.Encoding = append(m.Encoding, format.RLE)
	if f := p.chunk.filter; f != nil {
		h := format.BloomFilterHeader{NumBytes: int32(len(f))}
		h.Algorithm.Value, h.Hash.Value, h.Compression.Value = &format.SplitBlockAlgorithm{}, &format.XxHash{}, &format.BloomFilterUncompressed{}
		head, err := marshal(&h)
		if err != nil {
			p.err = err
			return
		}
		m.BloomFilterOffset, m.BloomFilterLength = p.at, int32(len(head)+len(f))
		p.write(head)
		p.write(f)
		p.blooms = binary.LittleEndian.AppendUint32(p.blooms, crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, f))
	}
}

// writePage compresses p.page and writes it with its levels.
func (p *parquetWriter) writePage(head *pageHeader) {
	if p.err != nil {
		return
	}
	// Numbers in few bits are hardly smaller for being packed, and written and read much
	// faster if they are not. Only pages of data can say so.
	body := p.page
	data := head.kind == int64(format.DataPageV2)
	switch {
	case data && len(p.page) < minPackedPage:
	case p.chunk.raw > 0:
		p.chunk.raw--
	default:
		if p.packed, p.err = p.codec.Encode(p.packed[:0], p.page); p.err != nil {
			return
		}
		if !data || len(p.packed) < len(p.page)/3 {
			body = p.packed
		} else {
			p.chunk.raw = rawPages // it will be the same with these
		}
	}
	if data {
		head.raw = len(p.page) == 0 || &body[0] == &p.page[0]
	}
	var rep, def []byte
	if data {
		rep, def = p.rep, p.def
	}
	head.rep, head.def = int64(len(rep)), int64(len(def))
	n := head.rep + head.def
	head.sum = crc32.Update(crc32.Update(crc32.ChecksumIEEE(rep), crc32.IEEETable, def), crc32.IEEETable, body)
	head.packed, head.unpacked = n+int64(len(body)), n+int64(len(p.page))
	p.head = head.append(p.head[:0])
	m := &p.chunk.meta
	m.TotalCompressedSize += int64(len(p.head)) + head.packed
	m.TotalUncompressedSize += int64(len(p.head)) + head.unpacked
	p.write(p.head)
	p.write(rep)
	p.write(def)
	p.write(body)
}

// minPackedPage is the least that is worth packing.
const minPackedPage = 256

// rawPages is after how many pages another one is tried, where one was not much smaller
// for being packed.
const rawPages = 16

// writeDictionary writes the dictionary page: p.page holds it, of n values.
func (p *parquetWriter) writeDictionary(n int) {
	p.chunk.meta.DictionaryPageOffset = p.at
	p.chunk.meta.Encoding = append(p.chunk.meta.Encoding, format.RLEDictionary, format.Plain)
	p.writePage(&pageHeader{kind: int64(format.DictionaryPage), values: int64(n), encoding: int64(format.Plain)})
}

// writeData writes a data page: p.page holds its values. rows, values and nulls are
// counts; least and most are bounds, nil where the page has no value or they are not
// known.
func (p *parquetWriter) writeData(enc format.Encoding, rows, values, nulls int, least, most []byte) {
	c := &p.chunk
	if c.meta.DataPageOffset == 0 {
		c.meta.DataPageOffset = p.at
	}
	at := p.at
	p.writePage(&pageHeader{kind: int64(format.DataPageV2), values: int64(values), nulls: int64(nulls), rows: int64(rows), encoding: int64(enc)})
	c.places.PageLocations = append(c.places.PageLocations, format.PageLocation{Offset: at, CompressedPageSize: int32(p.at - at), FirstRowIndex: c.row})
	c.index.NullPages = append(c.index.NullPages, nulls == values)
	c.index.NullCounts = append(c.index.NullCounts, int64(nulls))
	c.index.MinValues = append(c.index.MinValues, least)
	c.index.MaxValues = append(c.index.MaxValues, most)
	c.meta.NumValues += int64(values)
	c.meta.Statistics.NullCount += int64(nulls)
	c.row += int64(rows)
}

// bounds records the least and greatest value of the chunk.
func (p *parquetWriter) bounds(least, most []byte) {
	p.chunk.meta.Statistics.MinValue, p.chunk.meta.Statistics.MaxValue = least, most
}

// maxBound is the longest text that is kept as a bound. Where one is longer, a chunk
// has none.
const maxBound = 128

// writeTexts writes a chunk of text, or of lists of it.
func (p *parquetWriter) writeTexts(v *vector, list bool) {
	texts := p.texts(v)
	bounded := len(texts) > 0
	least, most := "", ""
	for i, t := range texts {
		if i == 0 || t < least {
			least = t
		}
		if i == 0 || t > most {
			most = t
		}
		bounded = bounded && len(t) <= maxBound
	}
	p.writeDictionary(len(texts))
	if bounded {
		p.bounds([]byte(least), []byte(most))
	}
	if p.chunk.col.bloom && len(texts) > 0 {
		p.chunk.filter = bloomFilter(texts)
	}
	if list {
		p.writeLists(v, texts, bounded)
		return
	}
	p.dense(v)
	step := p.step
	if len(texts) <= 1 && len(p.ints) == 0 || len(texts) == 1 && len(p.ints) == v.rows {
		step = max(v.rows, 1) // nothing to skip
	}
	if bounded {
		p.rank(texts)
	}
	full := len(p.ints) == v.rows
	done := 0
	for from := 0; from < v.rows; from += step {
		to := min(from+step, v.rows)
		values := to - from
		switch {
		case full:
			p.sameLevels(values, 1)
		case len(p.ints) == 0:
			values = 0
			p.sameLevels(to-from, 0)
		default:
			p.lv, values = grow(p.lv, to-from), 0
			for i, c := range v.codes[from:to] {
				has := event.Digit(c != missing)
				p.lv[i] = has
				values += int(has)
			}
			p.encodeLevels(1)
		}
		codes := p.ints[done : done+values]
		done += values
		var lo, hi []byte
		if bounded {
			lo, hi = p.textBounds(codes, texts)
		}
		p.encodeCodes(codes)
		p.writeData(format.RLEDictionary, to-from, to-from, to-from-values, lo, hi)
	}
	if !bounded {
		p.chunk.index = format.ColumnIndex{} // no index at all, rather than one without bounds
	}
}

// texts returns the texts of a chunk as the file has them, and makes p.page its
// dictionary, and p.sizes what each takes there without escapes.
func (p *parquetWriter) texts(v *vector) []string {
	texts := make([]string, len(v.dict))
	p.page = p.page[:0]
	for i, s := range v.dict {
		texts[i] = escapeText(s)
		p.page = binary.LittleEndian.AppendUint32(p.page, uint32(len(texts[i])))
		p.page = append(p.page, texts[i]...)
	}
	p.sizes = grow(p.sizes, len(v.dict))
	for i, s := range v.dict {
		p.sizes[i] = int32(len(s)) + 4
	}
	return texts
}

// dense makes p.ints the places of the texts that there are, row by row.
func (p *parquetWriter) dense(v *vector) {
	if v.uniform {
		p.ints = grow(p.ints, v.rows*len(v.dict))
		clear(p.ints)
	} else {
		p.ints = grow(p.ints, len(v.codes))
		n := 0
		for _, c := range v.codes {
			p.ints[n] = int32(c) // which the next one takes the place of, if it is missing
			n += int(event.Digit(c != missing))
		}
		p.ints = p.ints[:n]
	}
	p.addPlain()
}

// addPlain counts the texts in p.ints.
func (p *parquetWriter) addPlain() {
	plain := int64(0)
	for _, c := range p.ints {
		plain += int64(p.sizes[c])
	}
	p.plain += plain
}

// maxRanked is up to how many texts of a chunk are sorted, so that bounds of pages
// are found among numbers. With twice as many, sorting takes longer than to compare the
// texts of all rows of a full row group.
const maxRanked = 8 << 10

// rank sorts the texts of a chunk, if they are few: p.ranks has the place of each.
func (p *parquetWriter) rank(texts []string) {
	p.ranks, p.ranked = p.ranks[:0], p.ranked[:0]
	if len(texts) > maxRanked {
		return
	}
	for i := range texts {
		p.ranked = append(p.ranked, int32(i))
	}
	slices.SortFunc(p.ranked, func(a, b int32) int { return strings.Compare(texts[a], texts[b]) })
	p.ranks = append(p.ranks, p.ranked...)
	for at, i := range p.ranked {
		p.ranks[i] = int32(at)
	}
}

// textBounds returns the least and the greatest of texts that codes name.
func (p *parquetWriter) textBounds(codes []int32, texts []string) (least, most []byte) {
	if len(codes) == 0 {
		return nil, nil
	}
	if len(texts) == 1 {
		return []byte(texts[0]), []byte(texts[0])
	}
	if len(p.ranks) > 0 {
		lo, hi := p.ranks[codes[0]], p.ranks[codes[0]]
		for _, c := range codes[1:] {
			r := p.ranks[c]
			lo, hi = min(lo, r), max(hi, r)
		}
		return []byte(texts[p.ranked[lo]]), []byte(texts[p.ranked[hi]])
	}
	lo, hi := texts[codes[0]], texts[codes[0]]
	for _, c := range codes[1:] {
		if t := texts[c]; t < lo {
			lo = t
		} else if t > hi {
			hi = t
		}
	}
	return []byte(lo), []byte(hi)
}

// pageElements is how many elements of lists make a page full before its rows do. Only
// lists that are far longer than most, as arguments of a process can be, are as many.
const pageElements = 256 << 10

// writeLists writes the pages of a chunk of lists.
func (p *parquetWriter) writeLists(v *vector, texts []string, bounded bool) {
	if bounded {
		p.rank(texts)
	}
	for from := 0; from < v.rows; {
		to, nulls := p.listPage(v, from)
		p.encodeLevels(2)
		if p.err == nil {
			p.rep, p.err = p.encodeBits(p.rep, p.rp, 1)
		}
		if p.err != nil {
			return
		}
		p.addPlain()
		var lo, hi []byte
		if bounded {
			lo, hi = p.textBounds(p.ints, texts)
		}
		p.encodeCodes(p.ints)
		p.writeData(format.RLEDictionary, to-from, len(p.lv), nulls, lo, hi)
		from = to
	}
	p.rep = p.rep[:0]
	if !bounded {
		p.chunk.index = format.ColumnIndex{}
	}
}

// listPage makes p.ints, p.lv and p.rp of the lists of one page, which begins with a
// row. It returns the row behind the page, and how many have no value.
func (p *parquetWriter) listPage(v *vector, from int) (to, nulls int) {
	const some = 2 // definition level of an element; 0 is no list. An empty one is none, as everywhere.
	p.ints, p.lv, p.rp = p.ints[:0], p.lv[:0], p.rp[:0]
	for to = from; to < v.rows && to-from < p.step && len(p.ints) < pageElements; to++ {
		list := v.elements(v.list(to))
		p.rp = append(p.rp, 0)
		if len(list) == 0 {
			p.lv = append(p.lv, 0)
			nulls++
		}
		for i, c := range list {
			if i > 0 {
				p.rp = append(p.rp, 1)
			}
			p.lv = append(p.lv, some)
			p.ints = append(p.ints, int32(c))
		}
	}
	return to, nulls
}

func (p *parquetWriter) encodeBits(dst []byte, lv []uint8, width int) ([]byte, error) {
	p.levels.BitWidth = width
	return p.levels.EncodeLevels(dst[:0], lv)
}

// sameLevels encodes n definition levels that are all the same.
func (p *parquetWriter) sameLevels(n int, level byte) {
	p.def = append(binary.AppendUvarint(p.def[:0], uint64(n)<<1), level)
}

// encodeLevels encodes p.lv as definition levels.
func (p *parquetWriter) encodeLevels(width int) {
	if p.err == nil {
		p.def, p.err = p.encodeBits(p.def, p.lv, width)
	}
}

// encodeCodes makes p.page of places in a dictionary.
func (p *parquetWriter) encodeCodes(codes []int32) {
	if p.err == nil {
		p.page, p.err = p.dictEnc.EncodeInt32(p.page[:0], codes)
	}
}

func bloomFilter(texts []string) []byte {
	const bits = 10 // for each value: one in a hundred that are not there passes
	f := make(bloom.SplitBlockFilter, bloom.NumSplitBlocksOf(int64(len(texts)), bits))
	for _, t := range texts {
		f.Insert(bloom.XXH64{}.Sum64([]byte(t)))
	}
	return f.Bytes()
}

// Different numbers of a chunk make a dictionary if they are at most alwaysFew, or a
// sixteenth of all and at most maxFew.
const (
	alwaysFew = 256
	maxFew    = 4 << 10
)

// fewNumbers reports whether numbers are few, and leaves them in p.few and the places
// of all in p.ints.
func (p *parquetWriter) fewNumbers(nums []int64) bool {
	clear(p.places[:])
	p.few = p.few[:0]
	most := min(maxFew, max(alwaysFew, len(nums)/16))
	p.ints = grow(p.ints, len(nums))
	last, place := int64(0), int32(-1)
	for i, n := range nums {
		if place < 0 || n != last {
			last = n
			for at := uint64(n) * 0x9e3779b97f4a7c15 >> 51; ; at = (at + 1) % uint64(len(p.places)) {
				if place = int32(p.places[at]) - 1; place < 0 {
					if len(p.few) == most {
						return false
					}
					place = int32(len(p.few))
					p.few = append(p.few, n)
					p.places[at] = uint16(place + 1)
					break
				}
				if p.few[place] == n {
					break
				}
			}
		}
		p.ints[i] = place
	}
	return true
}

func appendBound(n int64) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(n)) }

func (p *parquetWriter) writeNumbers(v *vector) {
	shape := p.chunk.col.shape
	nums := v.nums
	if v.uniform {
		nums = nil
	} else if len(v.null) > 0 {
		p.longs = grow(p.longs, len(nums))
		n := 0
		for i, x := range nums {
			p.longs[n] = x // which the next one takes the place of, if it is none
			n += int(event.Digit(!v.null[i]))
		}
		nums = p.longs[:n]
	}
	p.plain += 8 * int64(len(nums))
	coded := shape != shapeBool && p.fewNumbers(nums)
	step := p.step
	if coded {
		p.page = p.page[:0]
		for _, n := range p.few {
			p.page = binary.LittleEndian.AppendUint64(p.page, uint64(n))
		}
		p.writeDictionary(len(p.few))
		if len(p.few) == 0 || len(p.few) == 1 && len(v.null) == 0 {
			step = max(v.rows, 1)
		}
	} else if shape == shapeBool {
		p.chunk.meta.Encoding = append(p.chunk.meta.Encoding, format.Plain)
	} else {
		p.chunk.meta.Encoding = append(p.chunk.meta.Encoding, format.DeltaBinaryPacked)
	}
	var all span
	done := 0
	for from := 0; from < v.rows; from += step {
		to := min(from+step, v.rows)
		values := to - from
		switch {
		case len(nums) == v.rows:
			p.sameLevels(values, 1)
		case len(nums) == 0:
			values = 0
			p.sameLevels(to-from, 0)
		default:
			p.lv, values = grow(p.lv, to-from), 0
			for i, null := range v.null[from:to] {
				has := event.Digit(!null)
				p.lv[i] = has
				values += int(has)
			}
			p.encodeLevels(1)
		}
		page := nums[done : done+values]
		codes := done
		done += values
		enc := format.DeltaBinaryPacked
		switch {
		case coded:
			enc = format.RLEDictionary
			p.encodeCodes(p.ints[codes:done])
		case shape == shapeBool:
			enc = format.Plain
			p.page = append(p.page[:0], make([]byte, (len(page)+7)/8)...)
			for i, n := range page {
				p.page[i/8] |= byte(n&1) << (i % 8)
			}
		case p.err == nil:
			p.page, p.err = p.delta.EncodeInt64(p.page[:0], page)
		}
		bounds := spanOf(shape, page)
		all.add(bounds)
		lo, hi := bounds.bytes(shape)
		p.writeData(enc, to-from, to-from, to-from-values, lo, hi)
	}
	p.bounds(all.bytes(shape))
}

// A span is the least and the greatest of some numbers, if there is one. Those of
// unsigned columns are compared with their highest bit flipped.
type span struct {
	flip, least, most int64
	some              bool
}

func spanOf(s shape, nums []int64) span {
	if len(nums) == 0 {
		return span{}
	}
	flip := int64(0)
	if s == shapeUint {
		flip = math.MinInt64
	}
	least, most := nums[0]^flip, nums[0]^flip
	for _, n := range nums[1:] {
		least, most = min(least, n^flip), max(most, n^flip)
	}
	return span{flip, least, most, true}
}

// add makes b the span of its numbers and those of another one.
func (b *span) add(c span) {
	switch {
	case !c.some:
	case !b.some:
		*b = c
	default:
		b.least, b.most = min(b.least, c.least), max(b.most, c.most)
	}
}

// bytes returns the bounds as the format writes them.
func (b *span) bytes(s shape) (least, most []byte) {
	switch {
	case !b.some:
		return nil, nil
	case s == shapeBool:
		return []byte{byte(b.least)}, []byte{byte(b.most)}
	}
	return appendBound(b.least ^ b.flip), appendBound(b.most ^ b.flip)
}

// close writes the indexes and the footer.
func (p *parquetWriter) close() error {
	i := 0
	for g := range p.groups {
		for c := range p.groups[g].Columns {
			chunk := &p.groups[g].Columns[c]
			if x := &p.columnIndexes[i]; len(x.MinValues) > 0 {
				b, err := marshal(x)
				if err != nil {
					return err
				}
				chunk.ColumnIndexOffset, chunk.ColumnIndexLength = p.at, int32(len(b))
				p.write(b)
			}
			i++
		}
	}
	i = 0
	for g := range p.groups {
		for c := range p.groups[g].Columns {
			b, err := marshal(&p.offsetIndexes[i])
			if err != nil {
				return err
			}
			chunk := &p.groups[g].Columns[c]
			chunk.OffsetIndexOffset, chunk.OffsetIndexLength = p.at, int32(len(b))
			p.write(b)
			i++
		}
	}
	p.keys = append(p.keys, format.KeyValue{Key: keyPlain, Value: strconv.FormatInt(p.plain, 10)}, format.KeyValue{Key: keyBlooms, Value: hex.EncodeToString(p.blooms)})
	meta := format.FileMetaData{Version: 2, Schema: schemaElements(p.cols), NumRows: p.rows, RowGroups: p.groups, KeyValueMetadata: p.keys, CreatedBy: "Warren"}
	for range p.cols {
		meta.ColumnOrders = append(meta.ColumnOrders, format.ColumnOrder{Value: &format.TypeDefinedOrder{}})
	}
	b, err := marshal(&meta)
	if err != nil {
		return err
	}
	var seal []byte
	seal = append(seal, footerMagic...)
	seal = binary.LittleEndian.AppendUint32(seal, crc32.Checksum(b, castagnoli))
	seal = append(seal, b...)
	seal = binary.LittleEndian.AppendUint32(seal, uint32(len(b)))
	seal = append(seal, parquetMagic...)
	p.write(seal)
	return p.err
}
