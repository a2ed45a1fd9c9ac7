package store

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// What is written by hand is what the format's own decoder reads.
func TestPageHeader(t *testing.T) {
	for _, h := range []pageHeader{
		{kind: int64(format.DictionaryPage), values: 300, encoding: int64(format.Plain), packed: 70, unpacked: 9000, sum: 0xf00dfeed},
		{kind: int64(format.DataPageV2), values: 1 << 20, nulls: 3, rows: 4096, encoding: int64(format.DeltaBinaryPacked), def: 129, rep: 64, packed: 5, unpacked: 1 << 27, sum: 1},
		{kind: int64(format.DataPageV2), encoding: int64(format.RLEDictionary), raw: true},
	} {
		want := format.PageHeader{Type: format.PageType(h.kind), UncompressedPageSize: int32(h.unpacked), CompressedPageSize: int32(h.packed), CRC: int32(h.sum)}
		if h.kind == int64(format.DictionaryPage) {
			want.DictionaryPageHeader = thrift.New(format.DictionaryPageHeader{NumValues: int32(h.values), Encoding: format.Encoding(h.encoding)})
		} else {
			want.DataPageHeaderV2 = thrift.New(format.DataPageHeaderV2{
				NumValues: int32(h.values), NumNulls: int32(h.nulls), NumRows: int32(h.rows), Encoding: format.Encoding(h.encoding),
				DefinitionLevelsByteLength: int32(h.def), RepetitionLevelsByteLength: int32(h.rep), IsCompressed: thrift.New(!h.raw),
			})
		}
		b := h.append(nil)
		var got format.PageHeader
		if n, err := unmarshal(b, &got); err != nil || n != len(b) {
			t.Fatalf("%+v: %d bytes of %d are read: %v", h, n, len(b), err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v is read as %+v", h, got)
		}
		read, n := readPageHeader(b)
		if n != len(b) {
			t.Errorf("%+v: %d bytes of %d are read", h, n, len(b))
		}
		if h.encoding = read.encoding; read != h {
			t.Errorf("%+v is read as %+v", h, read)
		}
	}
}

// TestPagesPacked: a column whose first page is hardly smaller for being packed is packed
// where it is, some pages later.
func TestPagesPacked(t *testing.T) {
	const pages = 64
	r := rand.New(rand.NewPCG(1, 9))
	v := &vector{rows: pages * pageRows}
	for i := range maxFew {
		v.dict = append(v.dict, strconv.Itoa(i))
	}
	for i := range v.rows {
		code := i % 64
		if i < pageRows {
			code = r.IntN(maxFew)
		}
		v.codes = append(v.codes, uint32(code))
	}
	var b bytes.Buffer
	w := newParquetWriter(&b, []parquetColumn{{name: "fd.name", shape: shapeText}}, map[string]string{keyFormat: "1"})
	if err := w.writeGroup(v.rows, func(int) (*vector, error) { return v, nil }); err != nil {
		t.Fatal(err)
	}
	p, err := openParquet(closeTestFile(t, w, &b))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close() //nolint:errcheck // read only
	c, err := p.readChunk(0, 0, new(pageScratch), nil)
	if err != nil {
		t.Fatal(err)
	}
	raw := 0
	for n := range c.pages {
		got, err := c.page(n)
		if err != nil {
			t.Fatal(err)
		}
		if from := n * pageRows; !slices.Equal(got.codes, v.codes[from:from+pageRows]) {
			t.Fatalf("page %d has other texts", n)
		}
		if c.pages[n].raw {
			raw++
		}
	}
	if len(c.pages) != pages || raw != 1+rawPages {
		t.Errorf("%d of %d pages are not packed, want %d", raw, len(c.pages), 1+rawPages)
	}
}
