package store

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"slices"
	"strconv"

	"github.com/parquet-go/parquet-go/bloom"
	"github.com/parquet-go/parquet-go/encoding/delta"
	"github.com/parquet-go/parquet-go/encoding/rle"
	"github.com/parquet-go/parquet-go/format"
)

// maxGroupRows is the most rows of a row group that is read: what says that it has
// more was not written here.
const maxGroupRows = 1 << 20

// A parquetFile is a sealed file that is open. It can be used by several
// goroutines at a time; once open, it can be read to its end also when it has been
// removed meanwhile.
type parquetFile struct {
	f      sealedBytes
	size   int64
	cols   []parquetColumn
	byName map[string]int
	groups []rowGroup
	keys   map[string]string
	rows   int64
	plain  int64 // bytes of the values, one by one
}

// sealedBytes is where a sealed file's bytes are.
type sealedBytes interface {
	io.ReaderAt
	io.Closer
}

// A rowGroup is what the footer says of a row group.
type rowGroup struct {
	rows   int
	chunks []chunkInfo
}

// A chunkInfo is what the footer says of a column in a row group.
type chunkInfo struct {
	at, length    int64
	data          int64 // where its first page of data is
	bloomAt       int64
	placesAt      int64 // where it says where its pages are
	placesLen     int32
	bloomLen      int32
	bloomSum      uint32
	coded         bool
	values, nulls int64
	least, most   []byte
	bounded       bool
}

// readParquet reads the footer of a sealed file, which it closes where it fails. The
// error is errForeign for a file that was not written here, a *newerError for one of a
// newer Warren, errCorrupt for one that is damaged, and of package os otherwise.
func readParquet(f *os.File) (p *parquetFile, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
			p = nil
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errForeign
	}
	p = &parquetFile{f: f, size: st.Size(), byName: map[string]int{}, keys: map[string]string{}}
	err = guarded(p.readFooter)
	return p, err
}

// guarded turns a panic of a decoder into an error: they trust what they read more
// than a file on a disk deserves.
func guarded(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = corrupt("%v", r)
		}
	}()
	return fn()
}

func (p *parquetFile) close() error { return p.f.Close() }

func (p *parquetFile) readFooter() error {
	const tail = 16 // checksum before the footer, length and magic behind it
	if p.size < int64(len(parquetMagic)+tail) {
		return corrupt("%d bytes are no file", p.size)
	}
	// One read for most footers.
	n := min(p.size, 64<<10)
	b := make([]byte, n)
	if _, err := p.f.ReadAt(b, p.size-n); err != nil {
		return readError(err)
	}
	end := b[len(b)-8:]
	if string(end[4:]) != parquetMagic {
		return corrupt("no footer: it was cut, or is no Parquet")
	}
	length := int64(binary.LittleEndian.Uint32(end))
	if length > p.size-int64(len(parquetMagic)+tail) {
		return corrupt("a footer of %d bytes in a file of %d", length, p.size)
	}
	if length+tail > n {
		n = length + tail
		b = make([]byte, n)
		if _, err := p.f.ReadAt(b, p.size-n); err != nil {
			return readError(err)
		}
	}
	b = b[int64(len(b))-length-tail : len(b)-8]
	if string(b[:4]) != footerMagic {
		return errForeign
	}
	sum := binary.LittleEndian.Uint32(b[4:])
	if b = b[8:]; crc32.Checksum(b, castagnoli) != sum {
		return corrupt("the footer's checksum is wrong")
	}
	var meta format.FileMetaData
	if _, err := unmarshal(b, &meta); err != nil {
		return err
	}
	for _, kv := range meta.KeyValueMetadata {
		p.keys[kv.Key] = kv.Value
	}
	version, err := strconv.Atoi(p.keys[keyFormat])
	if err != nil || version < 1 {
		return errForeign
	}
	if version > parquetVersion {
		return &newerError{version, p.keys[keyVersion]}
	}
	p.plain, _ = strconv.ParseInt(p.keys[keyPlain], 10, 64) // unknown without
	if p.cols, err = columnsOf(meta.Schema); err != nil {
		return err
	}
	for i, c := range p.cols {
		p.byName[c.name] = i
	}
	for i := range meta.RowGroups {
		if err := p.addGroup(&meta.RowGroups[i]); err != nil {
			return fmt.Errorf("row group %d: %w", i, err)
		}
	}
	sums, err := hex.DecodeString(p.keys[keyBlooms])
	if err != nil {
		return corrupt("checksums of bloom filters: %v", err)
	}
	for g := range p.groups {
		for i := range p.groups[g].chunks {
			if c := &p.groups[g].chunks[i]; c.bloomLen > 0 && len(sums) >= 4 {
				c.bloomSum, sums = binary.LittleEndian.Uint32(sums), sums[4:]
			} else {
				c.bloomLen = 0 // nothing is left out for what nobody can check
			}
		}
	}
	return nil
}

// A newerError says that a file's format is newer than this program.
type newerError struct {
	version int
	by      string
}

// Error implements error.
func (e *newerError) Error() string {
	return fmt.Sprintf("format %d, written by Warren %s, is newer than format %d, which is the newest that this one reads", e.version, e.by, parquetVersion)
}

func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return corrupt("it ends too early")
	}
	return err
}

func (p *parquetFile) addGroup(m *format.RowGroup) error {
	if m.NumRows < 0 || m.NumRows > maxGroupRows || len(m.Columns) != len(p.cols) {
		return corrupt("%d rows of %d columns", m.NumRows, len(m.Columns))
	}
	g := rowGroup{rows: int(m.NumRows), chunks: make([]chunkInfo, len(m.Columns))}
	for i := range m.Columns {
		c := &m.Columns[i]
		md := &c.MetaData
		info := chunkInfo{
			at: md.DataPageOffset, data: md.DataPageOffset, length: md.TotalCompressedSize, coded: md.DictionaryPageOffset > 0, values: md.NumValues, nulls: md.Statistics.NullCount,
			bloomAt: md.BloomFilterOffset, bloomLen: md.BloomFilterLength,
			placesAt: c.OffsetIndexOffset, placesLen: c.OffsetIndexLength,
			least: slices.Clone(md.Statistics.MinValue), most: slices.Clone(md.Statistics.MaxValue),
		}
		info.bounded = md.Statistics.MinValue != nil && md.Statistics.MaxValue != nil
		if info.coded {
			info.at = md.DictionaryPageOffset
		}
		if md.Codec != format.Zstd || md.Type != p.cols[i].physical() {
			return corrupt("column %s is packed in a way that Warren does not write", p.cols[i].name)
		}
		if !p.inside(info.at, info.length) || !p.inside(info.bloomAt, int64(info.bloomLen)) || !p.inside(info.placesAt, int64(info.placesLen)) {
			return corrupt("column %s lies outside the file", p.cols[i].name)
		}
		p.cols[i].bloom = p.cols[i].bloom || info.bloomLen > 0
		g.chunks[i] = info
	}
	p.groups = append(p.groups, g)
	p.rows += int64(g.rows)
	return nil
}

func (p *parquetFile) inside(at, n int64) bool {
	return at >= 0 && n >= 0 && at <= p.size && n <= p.size-at
}

// mayHave reports whether a row group's column can have one of texts, by its bloom
// filter. It is true where there is none.
func (p *parquetFile) mayHave(g, col int, hashes []uint64) (bool, error) {
	c := &p.groups[g].chunks[col]
	if c.bloomLen == 0 {
		return true, nil
	}
	b := make([]byte, c.bloomLen)
	if _, err := p.f.ReadAt(b, c.bloomAt); err != nil {
		return false, readError(err)
	}
	if crc32.Checksum(b, castagnoli) != c.bloomSum {
		return true, nil // the disk has changed it: it says nothing any more
	}
	var head format.BloomFilterHeader
	n, err := unmarshal(b, &head)
	if err != nil {
		return false, err
	}
	b = b[n:]
	if int64(head.NumBytes) != int64(len(b)) || len(b) == 0 || len(b)%bloom.BlockSize != 0 {
		return false, corrupt("a bloom filter of %d bytes says that it has %d", len(b), head.NumBytes)
	}
	f := bloom.MakeSplitBlockFilter(b)
	return slices.ContainsFunc(hashes, f.Check), nil
}

func bloomHash(text string) uint64 { return bloom.XXH64{}.Sum64([]byte(escapeText(text))) }

func (c *chunk) decode(d *dataPage) error {
	rep, def := d.body[:d.rep], d.body[d.rep:d.rep+d.def]
	body := d.body[len(rep)+len(def):]
	var err error
	if !d.raw {
		if body, err = c.unpack(body, d.size); err != nil {
			return err
		}
	} else if len(body) != d.size {
		return corrupt("a page of %d bytes should have %d", len(body), d.size)
	}
	rows, values, nulls := int(d.rows), int(d.values), int(d.nulls)
	encoding := format.Encoding(d.encoding)
	v := &c.current
	v.rows = rows
	there := values - nulls
	c.longs, c.ints = slices.Grow(c.longs[:0], there+256), slices.Grow(c.ints[:0], there+64) // with room for what decoders write beyond
	if c.col.shape == shapeTexts {
		return c.decodeLists(rep, def, body, rows, values, there)
	}
	if _, err := d.presence(); err != nil {
		return err
	}
	if nulls > 0 && nulls < values {
		if c.lv, err = decodeLevels(c.lv, def, 1, values); err != nil {
			return err
		}
	}
	switch {
	case c.col.shape == shapeText:
		if encoding != format.RLEDictionary {
			return corrupt("text that is not in a dictionary")
		}
		if err := c.decodeCodes(body, there, c.dict.size()); err != nil {
			return err
		}
		v.codes = spread(v.codes, c.ints, c.lv, rows, nulls)
		return nil
	case encoding == format.RLEDictionary:
		if err := c.decodeCodes(body, there, len(c.nums)); err != nil {
			return err
		}
		c.longs = c.longs[:0]
		for _, code := range c.ints {
			c.longs = append(c.longs, c.nums[code])
		}
	case encoding == format.DeltaBinaryPacked && c.col.shape != shapeBool:
		if err := c.decodeDeltas(body, there); err != nil {
			return err
		}
	case encoding == format.Plain && c.col.shape == shapeBool:
		if len(body) != (there+7)/8 {
			return corrupt("%d booleans in %d bytes", there, len(body))
		}
		c.longs = c.longs[:0]
		for i := range there {
			c.longs = append(c.longs, int64(body[i/8]>>(i%8)&1))
		}
	default:
		return corrupt("an encoding that Warren does not write")
	}
	if nulls == 0 {
		v.nums, v.null = append(slices.Grow(v.nums[:0], rows), c.longs...), nil
		return nil
	}
	v.nums, v.null = slices.Grow(v.nums[:0], rows)[:rows], slices.Grow(v.null[:0], rows)[:rows]
	k := 0
	for i := range rows {
		v.nums[i] = 0
		if v.null[i] = nulls == rows || c.lv[i] == 0; !v.null[i] {
			v.nums[i] = c.longs[k]
			k++
		}
	}
	return nil
}

// spread gives each row its code, where some have none.
func spread(dst []uint32, codes []int32, lv []uint8, rows, nulls int) []uint32 {
	dst = slices.Grow(dst[:0], rows)[:rows]
	switch nulls {
	case 0:
		for i, c := range codes {
			dst[i] = uint32(c)
		}
	case rows:
		for i := range dst {
			dst[i] = missing
		}
	default:
		k := 0
		for i := range dst {
			if lv[i] == 0 {
				dst[i] = missing
				continue
			}
			dst[i] = uint32(codes[k])
			k++
		}
	}
	return dst
}

func (c *chunk) decodeLists(rep, def, body []byte, rows, values, there int) (err error) {
	if c.lv, err = decodeLevels(c.lv, def, 2, values); err != nil {
		return err
	}
	if c.rp, err = decodeLevels(c.rp, rep, 1, values); err != nil {
		return err
	}
	if err := c.decodeCodes(body, there, c.dict.size()); err != nil {
		return err
	}
	v := &c.current
	v.codes, v.offsets = v.codes[:0], v.offsets[:0]
	for i, l := range c.lv {
		if c.rp[i] == 0 {
			v.offsets = append(v.offsets, uint32(len(v.codes)))
		}
		if l == 2 {
			if len(v.codes) >= there || len(v.offsets) == 0 {
				return corrupt("more elements of lists than there are")
			}
			v.codes = append(v.codes, uint32(c.ints[len(v.codes)]))
		}
	}
	v.offsets = append(v.offsets, uint32(len(v.codes)))
	if len(v.offsets) != rows+1 || len(v.codes) != there {
		return corrupt("%d lists of %d, with %d elements of %d", len(v.offsets)-1, rows, len(v.codes), there)
	}
	return nil
}

// decodeCodes reads n places in a dictionary of size into c.ints.
func (c *chunk) decodeCodes(b []byte, n, size int) error {
	if n == 0 {
		c.ints = c.ints[:0]
		return nil
	}
	if len(b) == 0 {
		return corrupt("a page without codes")
	}
	width := int(b[0])
	if width > 32 {
		return corrupt("codes of %d bits", width)
	}
	if err := checkRuns(b[1:], width, n); err != nil {
		return err
	}
	var err error
	if c.ints, err = dictDecoder.DecodeInt32(c.ints[:0], b); err != nil {
		return corrupt("%v", err)
	}
	if len(c.ints) < n {
		return corrupt("%d codes of %d", len(c.ints), n)
	}
	c.ints = c.ints[:n]
	most := uint32(0)
	for _, code := range c.ints {
		most = max(most, uint32(code))
	}
	if int64(most) >= int64(size) {
		return corrupt("code %d in a dictionary of %d", most, size)
	}
	return nil
}

var dictDecoder rle.DictionaryEncoding

func decodeLevels(dst []uint8, b []byte, width, n int) ([]uint8, error) {
	if err := checkRuns(b, width, n); err != nil {
		return dst, err
	}
	e := rle.Encoding{BitWidth: width}
	dst, err := e.DecodeLevels(dst[:0], b)
	if err != nil {
		return dst, corrupt("%v", err)
	}
	if len(dst) < n {
		return dst, corrupt("%d levels of %d", len(dst), n)
	}
	// Runs in bits are of eight: what is beyond the last level is nothing.
	if slices.ContainsFunc(dst[n:], func(l uint8) bool { return l != 0 }) {
		return dst, corrupt("%d levels where there should be %d", len(dst), n)
	}
	return dst[:n], nil
}

// checkRuns checks that runs of values of some bits are as many as n, and there, and
// nothing behind them: the decoder allocates what they say. The last run may have up
// to seven more.
func checkRuns(b []byte, width, n int) error {
	total := 0
	for len(b) > 0 {
		if total >= n {
			return corrupt("runs go on behind %d values", n)
		}
		head, k := binary.Uvarint(b)
		if k <= 0 {
			return corrupt("a run without length")
		}
		b = b[k:]
		size := uint64(width+7) / 8
		count := head >> 1
		if head&1 != 0 {
			if hi, _ := bits.Mul64(count, uint64(width)); hi != 0 || count > uint64(n)/8+1 {
				return corrupt("a run of %d values", count)
			}
			size, count = count*uint64(width), 8*count
		}
		if count > uint64(n)+7 || size > uint64(len(b)) {
			return corrupt("a run of %d values in %d bytes", count, len(b))
		}
		if total += int(count); total > n+7 {
			return corrupt("%d values instead of %d", total, n)
		}
		b = b[size:]
	}
	if total < n {
		return corrupt("%d values instead of %d", total, n)
	}
	return nil
}

// decodeDeltas reads n numbers into c.longs.
func (c *chunk) decodeDeltas(b []byte, n int) error {
	rest := b
	var head [3]uint64 // values of a block, its parts, all values
	for i := range head {
		v, k := binary.Uvarint(rest)
		if k <= 0 {
			return corrupt("numbers without a head")
		}
		head[i], rest = v, rest[k:]
	}
	if head[0] != 128 || head[1] != 4 || head[2] != uint64(n) {
		return corrupt("%d numbers instead of %d", head[2], n)
	}
	var err error
	if c.longs, err = deltaDecoder.DecodeInt64(c.longs[:0], b); err != nil {
		return corrupt("%v", err)
	}
	if len(c.longs) != n {
		return corrupt("%d numbers instead of %d", len(c.longs), n)
	}
	return nil
}

var deltaDecoder delta.BinaryPackedEncoding

// isNotExist says that a file went away, as retention removes them.
func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
