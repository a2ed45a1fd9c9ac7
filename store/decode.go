package store

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"

	"warren/event"
)

// errFrame is that of bytes that are no batch.
var errFrame = errors.New("the frame is damaged")

// maxRows bounds what a reader takes for a batch.
const maxRows = 1 << 14

// A reader takes bytes apart. What is wrong makes it fail, once and for all, and
// nothing that is read of it then is more than was there.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) fail() { r.b, r.failed = nil, true }

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes returns the next n bytes; nil if there are not as many.
func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) byte() byte {
	b := r.bytes(1)
	if b == nil {
		return 0
	}
	return b[0]
}

// count returns a number of things each of which takes at least a byte.
func (r *reader) count() int {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) strings() []string {
	n := r.count()
	list := make([]string, 0, min(n, 1<<12))
	for range n {
		list = append(list, string(r.bytes(r.uvarint())))
		if r.failed {
			return nil
		}
	}
	return list
}

// A schema says which columns the numbers of a batch mean: those of the layout
// that wrote it. nil stands for columns that are no more.
type schema struct {
	layout  *event.Layout
	columns []*event.Column
}

// decodeBatch reads a batch, of which only the columns that want reports true
// for; nil wants all.
func decodeBatch(data []byte, s *schema, host *event.Host, want func(*event.Column) bool) (*Batch, error) {
	r := &reader{b: data}
	rows := r.uvarint()
	if rows > maxRows {
		return nil, errFrame
	}
	b := NewBatch(s.layout, host, int(rows))
	var ktime *Vector
	for range r.count() {
		index := r.uvarint()
		body := r.bytes(r.uvarint())
		if r.failed {
			return nil, errFrame
		}
		if index >= uint64(len(s.columns)) {
			return nil, errFrame
		}
		c := s.columns[index]
		if c != nil && b.Vectors[c.Index] != nil {
			return nil, errFrame // a column stands once
		}
		if c == nil || want != nil && !want(c) && c.Name != "evt.time" {
			continue
		}
		v := decodeVector(body, c, b.Rows)
		if v == nil {
			return nil, errFrame
		}
		if c.Name == "evt.ktime" {
			ktime = v
		}
		b.Vectors[c.Index] = v
	}
	if times := b.Vector("evt.time"); ktime != nil && ktime.Valid == nil && times != nil && times.Valid == nil {
		for i := range ktime.Ints {
			ktime.Ints[i] += times.Ints[i]
		}
	}
	return b, nil
}

// decodeVector returns nil for what is no column of so many rows.
func decodeVector(data []byte, c *event.Column, rows int) *Vector {
	r := &reader{b: data}
	v := &Vector{Column: c}
	n := rows
	switch r.byte() {
	case 0:
	case 1:
		set := r.bytes(uint64(rows+7) / 8)
		if set == nil {
			return nil
		}
		v.Valid = make([]bool, rows)
		n = 0
		for i := range v.Valid {
			if set[i/8]>>(i%8)&1 != 0 {
				v.Valid[i] = true
				n++
			}
		}
	default:
		return nil
	}
	if n == 0 {
		return nil // it would not have been written
	}
	var size int
	switch c.Rep {
	case event.IntRep:
		size = math.MaxInt
	case event.StrRep:
		v.Strs = r.strings()
		size = len(v.Strs)
	case event.AddrRep:
		for range r.count() {
			var a netip.Addr
			if err := a.UnmarshalBinary(r.bytes(uint64(r.byte()))); err != nil || r.failed {
				return nil
			}
			v.Addrs = append(v.Addrs, a)
		}
		size = len(v.Addrs)
	case event.ListRep:
		for range r.count() {
			v.Lists = append(v.Lists, r.strings())
			if r.failed {
				return nil
			}
		}
		size = len(v.Lists)
	case event.MapRep:
		for range r.count() {
			list := r.strings()
			if r.failed || len(list)%2 != 0 {
				return nil
			}
			m := make(map[string]string, len(list)/2)
			for i := 0; i < len(list); i += 2 {
				m[list[i]] = list[i+1]
			}
			v.Maps = append(v.Maps, m)
		}
		size = len(v.Maps)
	}
	vals := make([]int64, n, rows)
	if r.failed || !r.ints(vals) || r.failed {
		return nil
	}
	if n < rows { // put them where they belong, from behind
		vals = vals[:rows]
		for i, from := rows-1, n-1; i >= 0; i-- {
			if !v.Valid[i] {
				vals[i] = 0
				continue
			}
			vals[i] = vals[from]
			from--
		}
	}
	if c.Rep == event.IntRep {
		v.Ints = vals
		return v
	}
	v.Codes = make([]uint32, rows)
	for i, x := range vals {
		if x < 0 || x >= int64(size) {
			return nil
		}
		v.Codes[i] = uint32(x)
	}
	return v
}

// ints reads what appendInts wrote. It reports false for what is something else.
func (r *reader) ints(vals []int64) bool {
	switch r.byte() {
	case encConst:
		v := r.varint()
		for i := range vals {
			vals[i] = v
		}
	case encOffset:
		width, least := r.byte(), r.varint()
		return r.planes(vals, least, int(width))
	case encDelta:
		width := r.byte()
		first, step := r.varint(), r.varint()
		if !r.planes(vals[1:], step, int(width)) {
			return false
		}
		vals[0] = first
		for i := range vals[1:] {
			vals[i+1] += vals[i]
		}
	case encDict:
		n := r.count()
		if n == 0 || n > 256 {
			return false
		}
		var dict [256]int64
		for i := range n {
			dict[i] = r.varint()
		}
		codes := r.bytes(uint64(len(vals)))
		if codes == nil {
			return false
		}
		for i, c := range codes {
			if int(c) >= n {
				return false
			}
			vals[i] = dict[c]
		}
	default:
		return false
	}
	return true
}

func (r *reader) planes(vals []int64, base int64, width int) bool {
	if width < 1 || width > 8 {
		return false
	}
	n := len(vals)
	all := r.bytes(uint64(n * width))
	if r.failed {
		return false
	}
	plane := func(k int) []byte { return all[k*n:][:n:n] }
	a := plane(0)
	switch width {
	case 1:
		for i, x := range a {
			vals[i] = base + int64(x)
		}
		return true
	case 2:
		b := plane(1)
		for i, x := range a {
			vals[i] = base + int64(uint64(x)|uint64(b[i])<<8)
		}
		return true
	}
	b, c := plane(1), plane(2)
	for i, x := range a {
		vals[i] = base + int64(uint64(x)|uint64(b[i])<<8|uint64(c[i])<<16)
	}
	for k := 3; k < width; k++ {
		shift := 8 * uint(k)
		for i, b := range plane(k) {
			vals[i] += int64(uint64(b) << shift)
		}
	}
	return true
}
