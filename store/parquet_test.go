package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// testColumns is one column of each shape.
var testColumns = []parquetColumn{
	{name: "evt.time", shape: shapeTime}, {name: "evt.num", shape: shapeUint}, {name: "fd.rip", shape: shapeText, bloom: true}, {name: "dns.answers", shape: shapeTexts},
	{name: "conn.state", shape: shapeText}, {name: "evt.rawres", shape: shapeInt}, {name: "fd.is_server", shape: shapeBool}, {name: "none", shape: shapeText}, {name: "zero", shape: shapeInt},
}

// randomVector makes rows of a shape.
func randomVector(r *rand.Rand, s shape, rows int) *vector {
	v := &vector{rows: rows}
	switch s {
	case shapeText, shapeTexts:
		n := 1 + r.IntN(5000)
		for i := range n {
			v.dict = append(v.dict, []string{"", "10.0.0.", "é", "\xff\xfe", "\U0010feff", "a"}[r.IntN(6)]+strconv.Itoa(i))
		}
		if s == shapeTexts {
			v.offsets = append(v.offsets, 0)
			for range rows {
				for range r.IntN(4) {
					v.codes = append(v.codes, uint32(r.IntN(n)))
				}
				v.offsets = append(v.offsets, uint32(len(v.codes)))
			}
			return v
		}
		gaps := r.IntN(3)
		for range rows {
			c := uint32(r.IntN(n))
			if gaps > 0 && r.IntN(gaps*3) == 0 {
				c = missing
			}
			v.codes = append(v.codes, c)
		}
	default:
		span := []int64{1, 2, 200, 1 << 40, 1<<63 - 1}[r.IntN(5)]
		if s == shapeBool {
			span = 2
		}
		for range rows {
			n := r.Int64N(span)
			if s == shapeInt && r.IntN(2) == 0 {
				n = -n
			}
			v.nums = append(v.nums, n)
		}
		if r.IntN(2) == 0 {
			v.null = make([]bool, rows)
			for i := range v.null {
				v.null[i] = r.IntN(3) == 0
			}
		}
	}
	if r.IntN(2) == 0 { // long runs of the same
		for i := range rows {
			if first := i - i%150; s == shapeText {
				v.codes[i] = v.codes[first]
			} else if v.nums[i] = v.nums[first]; v.null != nil {
				v.null[i] = v.null[first]
			}
		}
	}
	return v
}

func texts(v *vector, i int) any {
	if v.codes[i] == missing {
		return nil
	}
	return v.dict[v.codes[i]]
}

// valueAt returns what a row has, for comparisons.
func valueAt(s shape, v *vector, i int) any {
	switch s {
	case shapeText:
		return texts(v, i)
	case shapeTexts:
		var l []string
		for _, c := range v.elements(v.list(i)) {
			l = append(l, v.dict[c])
		}
		return l
	}
	if v.null != nil && v.null[i] {
		return nil
	}
	return v.nums[i]
}

// writeTestFile writes row groups of random rows and returns what is in them.
func writeTestFile(t testing.TB, r *rand.Rand, groups ...int) (path string, wrote [][]*vector) {
	t.Helper()
	var b bytes.Buffer
	w := newParquetWriter(&b, testColumns, map[string]string{keyFormat: "1", keyKind: "connection"})
	for _, rows := range groups {
		var vs []*vector
		for _, c := range testColumns {
			v := randomVector(r, c.shape, rows)
			switch c.name {
			case "none":
				v = &vector{rows: rows, codes: slices.Repeat([]uint32{missing}, rows)}
			case "zero":
				v = &vector{rows: rows, nums: make([]int64, rows)}
			}
			vs = append(vs, v)
		}
		if err := w.writeGroup(rows, func(i int) (*vector, error) { return vs[i], nil }); err != nil {
			t.Fatal(err)
		}
		wrote = append(wrote, vs)
	}
	return closeTestFile(t, w, &b), wrote
}

// closeTestFile ends a file that lies in b, and returns the path of one on the disk.
func closeTestFile(t testing.TB, w *parquetWriter, b *bytes.Buffer) string {
	t.Helper()
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.parquet")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func openParquet(path string) (*parquetFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return readParquet(f)
}

func TestParquetRoundTrip(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		path, wrote := writeTestFile(t, r, 1+r.IntN(2*pageRows), 1+r.IntN(100))
		p, err := openParquet(path)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(names(p.cols), names(testColumns)) {
			t.Fatalf("columns %v", names(p.cols))
		}
		for g, vs := range wrote {
			for i, want := range vs {
				c, err := p.readChunk(g, i, new(pageScratch), nil)
				if err != nil {
					t.Fatal(err)
				}
				row := 0
				for n := range c.pages {
					got, err := c.page(n)
					if err != nil {
						t.Fatal(err)
					}
					got.dict = c.dict.texts()
					for k := range got.rows {
						if a, b := valueAt(c.col.shape, got, k), valueAt(c.col.shape, want, row); !reflect.DeepEqual(a, b) {
							t.Fatalf("seed %d: group %d, column %s, row %d is %v, want %v", seed, g, c.col.name, row, a, b)
						}
						row++
					}
				}
				if row != want.rows {
					t.Fatalf("column %s has %d rows of %d", c.col.name, row, want.rows)
				}
			}
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}
}

// TestFewNumbers holds when numbers are written as a dictionary, and that it has them.
func TestFewNumbers(t *testing.T) {
	for _, c := range []struct {
		rows, different int
		want            bool
	}{
		{0, 0, true}, {256, 256, true}, {257, 257, false}, {4095, 257, false}, {16 * 300, 300, true}, {16 * 300, 301, false},
		{rowGroupRows, maxFew, true}, {rowGroupRows, maxFew + 1, false},
	} {
		nums := make([]int64, c.rows)
		for i := range nums {
			nums[i] = int64(i%c.different)*0x1234567 - 99
		}
		p := &parquetWriter{}
		if got := p.fewNumbers(nums); got != c.want {
			t.Errorf("%d different numbers of %d are few: %v", c.different, c.rows, got)
		} else if !got {
			continue
		}
		if len(p.few) != c.different || len(p.ints) != c.rows {
			t.Errorf("%d different numbers of %d are %d, for %d", c.different, c.rows, len(p.few), len(p.ints))
		}
		for i, n := range nums {
			if p.few[p.ints[i]] != n {
				t.Fatalf("number %d is %d, want %d", i, p.few[p.ints[i]], n)
			}
		}
	}
}

// readSparse reads rows of a page one by one; it reports false where that is not done.
func readSparse(c *chunk, page int, rows []int32) (*vector, bool, error) {
	v := &vector{rows: len(rows), dict: c.dict.texts(), null: make([]bool, len(rows))}
	if c.col.shape == shapeText {
		v.codes = make([]uint32, len(rows))
	} else {
		v.nums = make([]int64, len(rows))
	}
	valid := make([]bool, len(rows))
	ok, err := c.sparse(page, rows, c.pages[page].row, v.codes, v.nums, valid)
	for i := range valid {
		v.null[i] = !valid[i]
	}
	return v, ok, err
}

// TestSparse holds that single rows are what they are in their pages.
func TestSparse(t *testing.T) {
	some := 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		path, wrote := writeTestFile(t, r, 1+r.IntN(3*pageRows))
		p, err := openParquet(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range wrote[0] {
			c, err := p.readChunk(0, i, new(pageScratch), nil)
			if err != nil {
				t.Fatal(err)
			}
			for n := range c.pages {
				var rows []int32
				for k := range int(c.pages[n].rows) {
					if r.IntN(50) == 0 {
						rows = append(rows, int32(c.pages[n].row+k))
					}
				}
				got, ok, err := readSparse(c, n, rows)
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					continue
				}
				for k, row := range rows {
					some++
					if a, b := valueAt(c.col.shape, got, k), valueAt(c.col.shape, want, int(row)); !reflect.DeepEqual(a, b) {
						t.Fatalf("seed %d: column %s, row %d is %v, want %v", seed, c.col.name, row, a, b)
					}
				}
			}
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}
	if some < 1000 {
		t.Errorf("only %d values were read", some)
	}
}

func names(cols []parquetColumn) (l []string) {
	for _, c := range cols {
		l = append(l, fmt.Sprint(c.name, c.shape, c.bloom))
	}
	return l
}

// TestParquetOfOthers reads a file by another implementation of the format.
func TestParquetOfOthers(t *testing.T) {
	path, wrote := writeTestFile(t, rand.New(rand.NewPCG(7, 7)), pageRows+100, 17)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	p, err := parquet.OpenFile(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	for g, rg := range p.RowGroups() {
		for i, cc := range rg.ColumnChunks() {
			var got []any
			pages := cc.Pages()
			for {
				page, err := pages.ReadPage()
				if err != nil {
					break
				}
				values := make([]parquet.Value, page.NumValues())
				n, _ := page.Values().ReadValues(values)
				for _, v := range values[:n] {
					got = append(got, otherValue(testColumns[i].shape, v, &got))
				}
			}
			if err := pages.Close(); err != nil {
				t.Fatal(err)
			}
			if testColumns[i].shape == shapeTexts {
				continue // compared by the number of rows below
			}
			for row, v := range got {
				want := valueAt(testColumns[i].shape, wrote[g][i], row)
				if s, ok := want.(string); ok {
					want = escapeText(s)
				}
				if v != want {
					t.Fatalf("column %s, row %d is %v, want %v", testColumns[i].name, row, v, want)
				}
			}
			if len(got) != wrote[g][i].rows {
				t.Errorf("column %s has %d rows of %d", testColumns[i].name, len(got), wrote[g][i].rows)
			}
			if b := cc.BloomFilter(); testColumns[i].bloom {
				if ok, err := b.Check(parquet.ByteArrayValue([]byte(escapeText(wrote[g][i].dict[firstCode(wrote[g][i])])))); !ok || err != nil {
					t.Errorf("the bloom filter misses a value: %v", err)
				}
			}
		}
	}
}

func firstCode(v *vector) uint32 {
	for _, c := range v.codes {
		if c != missing {
			return c
		}
	}
	return 0
}

func otherValue(s shape, v parquet.Value, _ *[]any) any {
	switch {
	case v.IsNull():
		return nil
	case s == shapeText || s == shapeTexts:
		return string(v.ByteArray())
	case s == shapeBool:
		if v.Boolean() {
			return int64(1)
		}
		return int64(0)
	}
	return v.Int64()
}

func TestEscapeText(t *testing.T) {
	for _, s := range []string{"", "curl", "é", "\xff", "a\xc3", "\U0010fe80", "\U0010feff\xfe", "\U0010ffff", "\xed\xa0\x80", "\xf4\xff"} {
		e := escapeText(s)
		if string([]rune(e)) != e {
			t.Errorf("%q is written as %q, which is no UTF-8", s, e)
		}
		if got := unescapeText(e); got != s {
			t.Errorf("%q comes back as %q", s, got)
		}
	}
}

// readAll reads everything in a file.
func readAll(path string) error {
	p, err := openParquet(path)
	if err != nil {
		return err
	}
	defer p.close() //nolint:errcheck // read only
	for g := range p.groups {
		for i := range p.cols {
			if _, err := p.mayHave(g, i, []uint64{1}); err != nil {
				return err
			}
			c, err := p.readChunk(g, i, new(pageScratch), nil)
			if err != nil {
				return err
			}
			for n := range c.pages {
				if _, _, err := readSparse(c, n, []int32{int32(c.pages[n].row)}); err != nil {
					return err
				}
				if _, err := c.page(n); err != nil {
					return err
				}
			}
			if c, err = p.openChunk(g, i, new(pageScratch), nil); err != nil {
				return err
			}
			for n := range c.pages {
				if _, err := c.page(n); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// reseal makes the footer's checksum right again, so that what comes behind it is
// tried too.
func reseal(b []byte) {
	if len(b) < 16 {
		return
	}
	n := int(binary.LittleEndian.Uint32(b[len(b)-8:]))
	if at := len(b) - 8 - n; at >= 8 && at <= len(b)-8 {
		binary.LittleEndian.PutUint32(b[at-4:], crc32.Checksum(b[at:len(b)-8], castagnoli))
	}
}

func FuzzParquet(f *testing.F) {
	path, _ := writeTestFile(f, rand.New(rand.NewPCG(3, 3)), 300, 20)
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 64 {
		f.Add(uint32(len(good)*i/64), byte(0x80), uint16(0), true)
		f.Add(uint32(len(good)-i*5), byte(0xff), uint16(i), false)
	}
	file := filepath.Join(f.TempDir(), "x.parquet")
	f.Fuzz(func(t *testing.T, at uint32, flip byte, cut uint16, whole bool) {
		b := slices.Clone(good)
		for i := range uint32(3) {
			b[(at+i*at/7)%uint32(len(b))] ^= flip >> i
		}
		if whole {
			reseal(b)
		} else {
			b = b[:len(b)-min(int(cut), len(b))]
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := readAll(file); err != nil && !errors.Is(err, errCorrupt) && !errors.Is(err, errForeign) && !errors.As(err, new(*newerError)) {
			t.Errorf("an error without a reason: %v", err)
		}
	})
}

func FuzzThriftLength(f *testing.F) {
	f.Add([]byte{0x15, 0x02, 0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := thriftLength(b); err == nil && n > len(b) {
			t.Errorf("%d bytes of %d", n, len(b))
		}
	})
}
