package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
)

// A sealed file is Parquet as its specification has it, written and read here by
// whole columns: the pages are made from codes and numbers as they stand in a
// Batch, without a value between. Other engines read it as it is. Two things
// are narrower than the specification, so that a reader needs little:
//
//   - pages are of version 2, compressed by zstd; text is in a dictionary, numbers
//     in one or as differences (DELTA_BINARY_PACKED), booleans plain;
//   - eight bytes before the footer, where the format has nothing, are the
//     checksum of the footer: pages have theirs in their headers.
const (
	parquetMagic = "PAR1"
	footerMagic  = "WCRC" // followed by CRC-32C of the footer

	// rowGroupRows is the most rows of a row group, which is what a scan can skip
	// by bloom filters, and pageRows that of a page, which it can skip by its least and
	// greatest values. Files of processes have processPageRows to a page instead, and a
	// page of lists ends earlier where it has pageElements.
	rowGroupRows = 128 << 10
	pageRows     = 2 << 10

	// parquetVersion counts changes of what is in a file. A newer file is not read.
	parquetVersion = 1

	keyFormat = "warren.format"
	keyKind   = "warren.kind"
	keyNode   = "warren.node"
	// What the rows are of, whoever wrote them.
	keyHostname = "warren.hostname"
	keyK8sNode  = "warren.k8s_node"
	keyBootID   = "warren.boot_id"
	keySchema   = "warren.schema"
	keyVersion  = "warren.version"
	keySource   = "warren.source" // number of the active segment that a file was made of
	keyPlain    = "warren.plain"  // bytes of the values, one by one
	keyEvents   = "warren.events" // that the rows stand for
	keyMinSeq   = "warren.min_num"
	keyMaxSeq   = "warren.max_num"
	keyLiving   = "warren.living" // of processes: which lived when the segment began
	keyBlooms   = "warren.blooms" // CRC-32C of each bloom filter, in the order of the footer
)

// missing is the code of a row without a text.
const missing = ^uint32(0)

// Errors of files that are no sealed segment, or none that can be read.
var (
	errForeign = errors.New("not a file of Warren's history")
	errCorrupt = errors.New("corrupt")
)

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errCorrupt}, args...)...)
}

// A shape is how values of a column are kept in a file.
type shape uint8

const (
	shapeText  shape = iota + 1 // text and addresses
	shapeTexts                  // lists of text
	shapeInt
	shapeUint
	shapeTime // nanoseconds since 1970
	shapeBool
)

// A parquetColumn is a column of a file.
type parquetColumn struct {
	name  string
	shape shape
	bloom bool
}

// schemaElements describes columns for the footer, by logical types and by what
// there was before them: some readers, DuckDB among them, know lists by that alone.
func schemaElements(cols []parquetColumn) []format.SchemaElement {
	root := format.SchemaElement{Name: "event"}
	root.NumChildren = thrift.New(int32(len(cols)))
	els := []format.SchemaElement{root}
	for _, c := range cols {
		el := format.SchemaElement{Name: c.name, RepetitionType: thrift.New(format.Optional)}
		switch c.shape {
		case shapeText:
			el.Type = thrift.New(format.ByteArray)
			el.LogicalType.Value, el.ConvertedType = &format.StringType{}, thrift.New(deprecated.UTF8)
		case shapeTexts:
			list := format.SchemaElement{Name: "list", RepetitionType: thrift.New(format.Repeated), NumChildren: thrift.New(int32(1))}
			item := format.SchemaElement{Name: "element", RepetitionType: thrift.New(format.Required), Type: thrift.New(format.ByteArray)}
			item.LogicalType.Value, item.ConvertedType = &format.StringType{}, thrift.New(deprecated.UTF8)
			el.NumChildren = thrift.New(int32(1))
			el.LogicalType.Value, el.ConvertedType = &format.ListType{}, thrift.New(deprecated.List)
			els = append(els, el, list, item)
			continue
		case shapeInt:
			el.Type = thrift.New(format.Int64)
		case shapeUint:
			el.Type = thrift.New(format.Int64)
			el.LogicalType.Value, el.ConvertedType = &format.IntType{BitWidth: 64}, thrift.New(deprecated.Uint64)
		case shapeTime:
			el.Type = thrift.New(format.Int64)
			el.LogicalType.Value = &format.TimestampType{IsAdjustedToUTC: true, Unit: format.TimeUnit{Value: &format.NanoSeconds{}}}
		case shapeBool:
			el.Type = thrift.New(format.Boolean)
		}
		els = append(els, el)
	}
	return els
}

// columnsOf reads a file's schema back. Columns of a shape that is not among
// those above make the file foreign.
func columnsOf(els []format.SchemaElement) ([]parquetColumn, error) {
	if len(els) == 0 {
		return nil, corrupt("no schema")
	}
	var cols []parquetColumn
	for i := 1; i < len(els); i++ {
		el := &els[i]
		c := parquetColumn{name: el.Name}
		switch l := el.LogicalType.Value.(type) {
		case *format.StringType:
			c.shape = shapeText
		case *format.ListType:
			if i+2 >= len(els) {
				return nil, corrupt("a list without elements")
			}
			i += 2
			c.shape = shapeTexts
		case *format.IntType:
			c.shape = shapeInt
			if !l.IsSigned {
				c.shape = shapeUint
			}
		case *format.TimestampType:
			c.shape = shapeTime
		case nil:
			switch {
			case !el.Type.Valid:
				return nil, corrupt("column %q has no type", el.Name)
			case el.Type.V == format.Int64:
				c.shape = shapeInt
			case el.Type.V == format.Boolean:
				c.shape = shapeBool
			}
		}
		if c.shape == 0 {
			return nil, corrupt("column %q is of a type that Warren writes nowhere", el.Name)
		}
		cols = append(cols, c)
	}
	return cols, nil
}

func (c *parquetColumn) path() []string {
	if c.shape == shapeTexts {
		return []string{c.name, "list", "element"}
	}
	return []string{c.name}
}

func (c *parquetColumn) physical() format.Type {
	switch c.shape {
	case shapeText, shapeTexts:
		return format.ByteArray
	case shapeBool:
		return format.Boolean
	}
	return format.Int64
}

// marshal writes a structure of the format.
func marshal(v any) ([]byte, error) { return thrift.Marshal(new(thrift.CompactProtocol), v) }

// unmarshal reads a structure of the format from the beginning of b and returns
// how long it was. What b is has been checked for lengths that are not there,
// because the decoder allocates what it is told.
func unmarshal(b []byte, v any) (n int, err error) {
	n, err = thriftLength(b)
	if err != nil {
		return 0, err
	}
	r := new(thrift.CompactProtocol).NewReaderFromBytes(b[:n])
	if err := thrift.NewDecoder(r).Decode(v); err != nil {
		return 0, corrupt("%v", err)
	}
	return n, nil
}

// Other engines refuse text that is no UTF-8, and the kernel's need not be: names of
// files and processes are bytes. Bytes that are no UTF-8 are written as characters
// U+10FE80 to U+10FEFF, of a plane for private use, and so are the bytes of these
// characters themselves, so that every text comes back as it was.
const escapeBase = 0x10FE00

func escapes(r rune) bool { return r >= escapeBase+0x80 && r <= escapeBase+0xff }

// escapeText returns s as valid UTF-8.
func escapeText(s string) string {
	plain := true
	for i := 0; i < len(s); {
		if s[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || escapes(r) {
			plain = false
			break
		}
		i += n
	}
	if plain {
		return s
	}
	var b []byte
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || escapes(r) {
			for _, c := range []byte(s[i : i+n]) {
				b = utf8.AppendRune(b, escapeBase+rune(c))
			}
		} else {
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	return string(b)
}

// unescapeText undoes escapeText.
func unescapeText(s string) string {
	// All of these characters begin with one byte, and hardly any other does.
	i := 0
	for i < len(s) && s[i] != 0xf4 {
		i++
	}
	if i == len(s) {
		return s
	}
	b := []byte(s[:i])
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		if escapes(r) {
			b = append(b, byte(r-escapeBase))
		} else {
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	return string(b)
}

// thriftLength returns how long the structure at the beginning of b is, in the
// compact protocol, and that everything it announces is there.
func thriftLength(b []byte) (int, error) {
	w := walker{b: b}
	if w.structure(0); w.bad {
		return 0, corrupt("a structure goes beyond its end")
	}
	return w.at, nil
}

// A walker goes through a structure of Thrift's compact protocol.
type walker struct {
	b   []byte
	at  int
	bad bool
}

func (w *walker) byte() byte {
	if w.at >= len(w.b) {
		w.bad = true
		return 0
	}
	w.at++
	return w.b[w.at-1]
}

func (w *walker) varint() uint64 {
	v, n := binary.Uvarint(w.b[min(w.at, len(w.b)):])
	if n <= 0 {
		w.bad = true
		return 0
	}
	w.at += n
	return v
}

// length reads the number of things of at least one byte each.
func (w *walker) length(n uint64) int {
	if n > uint64(len(w.b)-min(w.at, len(w.b))) {
		w.bad = true
		return 0
	}
	return int(n)
}

func (w *walker) structure(depth int) {
	for !w.bad {
		head := w.byte()
		if head == 0 {
			return
		}
		if head>>4 == 0 {
			w.varint()
		}
		if t := head & 15; t > 2 { // 1 and 2 are true and false, and nothing more
			w.value(t, depth)
		}
	}
}

func (w *walker) value(t byte, depth int) {
	if depth > 16 {
		w.bad = true
	}
	if w.bad {
		return
	}
	switch t {
	case 1, 2, 3:
		w.byte()
	case 4, 5, 6:
		w.varint()
	case 7:
		w.at += w.length(8)
	case 8:
		w.at += w.length(w.varint())
	case 9, 10:
		head := w.byte()
		n := uint64(head >> 4)
		if n == 15 {
			n = w.varint()
		}
		for range w.length(n) {
			if w.value(head&15, depth+1); w.bad {
				return
			}
		}
	case 12:
		w.structure(depth + 1)
	default: // maps: the format has none
		w.bad = true
	}
}
