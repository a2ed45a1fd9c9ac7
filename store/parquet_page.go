package store

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/parquet-go/parquet-go/format"
)

// maxPage is the most bytes of a page that is read, unpacked, and maxPageValues the most
// values of one: a page's rows of lists as long as a process's arguments can be, which is
// far more than pageElements and one list. What says that it has more was not written
// here.
const (
	maxPage       = 256 << 20
	maxPageValues = pageRows * 32 << 10
)

// A pageHeader is what stands before a page, as far as it matters here. There are
// many, and the decoder for any structure takes twenty times as long.
type pageHeader struct {
	kind             int64 // format.PageType
	packed, unpacked int64 // bytes, levels included
	sum              uint32
	values           int64
	// Of data pages alone:
	nulls, rows, encoding int64
	def, rep              int64 // bytes of levels
	raw                   bool  // not packed
}

// readPageHeader reads a page's head and returns how long it is, 0 for what is none.
func readPageHeader(b []byte) (h pageHeader, n int) {
	w := walker{b: b}
	h.kind = -1
	w.fields(func(id int, t byte) {
		v := &h.kind
		switch id {
		case 1:
		case 2:
			v = &h.unpacked
		case 3:
			v = &h.packed
		case 4:
			h.sum = uint32(w.zigzag(t))
			return
		case 7: // of a dictionary
			w.nested(t, func(id int, t byte) {
				if id == 1 {
					h.values = w.zigzag(t)
					return
				}
				w.skip(t)
			})
			return
		case 8: // of a data page
			all := [...]*int64{1: &h.values, &h.nulls, &h.rows, &h.encoding, &h.def, &h.rep}
			w.nested(t, func(id int, t byte) {
				if id == 7 && t <= 2 {
					h.raw = t == 2
					return
				}
				if id > 0 && id < len(all) {
					*all[id] = w.zigzag(t)
					return
				}
				w.skip(t)
			})
			return
		default:
			w.skip(t)
			return
		}
		*v = w.zigzag(t)
	})
	if w.bad {
		return h, 0
	}
	return h, w.at
}

// append writes the head of a page, as readPageHeader reads it.
func (h *pageHeader) append(b []byte) []byte {
	number := func(v int64) { b = binary.AppendVarint(append(b, 1<<4|5), v) }
	number(h.kind)
	number(h.unpacked)
	number(h.packed)
	number(int64(int32(h.sum)))
	if h.kind == int64(format.DictionaryPage) {
		b = append(b, 3<<4|12) // field 7
		number(h.values)
		number(h.encoding)
		return append(b, 0, 0)
	}
	b = append(b, 4<<4|12) // field 8
	for _, v := range [...]int64{h.values, h.nulls, h.rows, h.encoding, h.def, h.rep} {
		number(v)
	}
	packed := byte(1)
	if h.raw {
		packed = 2
	}
	return append(b, 1<<4|packed, 0, 0)
}

// fits reports whether a page is as long as its head says, and has sizes that are read.
func (h *pageHeader) fits(body []byte) bool {
	return h.packed == int64(len(body)) && h.unpacked >= 0 && h.unpacked <= maxPage && h.values >= 0 && h.values <= maxPageValues
}

// check compares a page with its checksum.
func (h *pageHeader) check(body []byte) error {
	if crc32.ChecksumIEEE(body) != h.sum {
		return corrupt("a page's checksum is wrong")
	}
	return nil
}

// fields calls fn with each field of a structure, which has to pass its value.
func (w *walker) fields(fn func(id int, t byte)) {
	id := 0
	for !w.bad {
		head := w.byte()
		if head == 0 {
			return
		}
		if head>>4 == 0 {
			id = int(int16(w.zigzag(5)))
		} else {
			id += int(head >> 4)
		}
		fn(id, head&15)
	}
}

func (w *walker) nested(t byte, fn func(id int, t byte)) {
	if t != 12 {
		w.bad = true
		return
	}
	w.fields(fn)
}

// zigzag reads a number.
func (w *walker) zigzag(t byte) int64 {
	if t < 4 || t > 6 {
		w.bad = true
		return 0
	}
	v, n := binary.Varint(w.b[min(w.at, len(w.b)):])
	if n <= 0 {
		w.bad = true
		return 0
	}
	w.at += n
	return v
}

// skip passes over a value. True and false have none.
func (w *walker) skip(t byte) {
	if t > 2 {
		w.value(t, 1)
	}
}
