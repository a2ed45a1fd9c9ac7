package store

import (
	"reflect"
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
