package store

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"warren/event"
)

// How the numbers of a column are written. They are as wide as their spread
// needs, 1 to 8 bytes, and their bytes lie apart: first the lowest of all, then
// the next. Bytes that differ little are then together, which is what makes them
// small.
const (
	encConst  = iota // one number stands for all
	encOffset        // from the least
	encDelta         // from the one before, and that from the least such step
	encDict          // places in a list of numbers
)

// appendBatch writes a batch. What it needs to be read is its layout: see
// schema.
func (w *encoder) appendBatch(dst []byte, b *Batch) []byte {
	dst = binary.AppendUvarint(dst, uint64(b.Rows))
	n := 0
	for _, v := range b.Vectors {
		if v != nil {
			n++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	times := b.Vector("evt.time")
	for _, v := range b.Vectors {
		if v == nil {
			continue
		}
		w.body = w.appendVector(w.body[:0], b, v, times)
		dst = binary.AppendUvarint(dst, uint64(v.Column.Index))
		dst = binary.AppendUvarint(dst, uint64(len(w.body)))
		dst = append(dst, w.body...)
	}
	return dst
}

// An encoder writes batches; its memory is used again.
type encoder struct {
	body []byte
	ints []int64
	dict intDict
}

func (w *encoder) appendVector(dst []byte, b *Batch, v *Vector, times *Vector) []byte {
	if v.Valid == nil {
		dst = append(dst, 0)
	} else {
		dst = append(dst, 1)
		dst = appendBits(dst, v.Valid[:b.Rows])
	}
	w.ints = w.ints[:0]
	switch {
	case v.Column.Rep != event.IntRep:
		for i, c := range v.Codes[:b.Rows] {
			if v.Valid == nil || v.Valid[i] {
				w.ints = append(w.ints, int64(c))
			}
		}
	case v.Column.Name == "evt.ktime" && v.Valid == nil && times != nil && times.Valid == nil:
		// Both clocks go alike: what lies between them is one number.
		for i, x := range v.Ints[:b.Rows] {
			w.ints = append(w.ints, x-times.Ints[i])
		}
	case v.Valid == nil:
		w.ints = append(w.ints, v.Ints[:b.Rows]...)
	default:
		for i, x := range v.Ints[:b.Rows] {
			if v.Valid[i] {
				w.ints = append(w.ints, x)
			}
		}
	}
	switch v.Column.Rep {
	case event.StrRep:
		dst = appendStrings(dst, v.Strs)
	case event.AddrRep:
		dst = binary.AppendUvarint(dst, uint64(len(v.Addrs)))
		for _, a := range v.Addrs {
			dst = appendAddr(dst, a)
		}
	case event.ListRep:
		dst = binary.AppendUvarint(dst, uint64(len(v.Lists)))
		for _, l := range v.Lists {
			dst = appendStrings(dst, l)
		}
	case event.MapRep:
		dst = binary.AppendUvarint(dst, uint64(len(v.Maps)))
		for _, m := range v.Maps {
			dst = appendStrings(dst, flatten(m))
		}
	}
	return w.appendInts(dst)
}

func appendAddr(dst []byte, a netip.Addr) []byte {
	at := len(dst)
	dst = append(dst, 0)
	dst, _ = a.AppendBinary(dst) // it never fails
	dst[at] = byte(len(dst) - at - 1)
	return dst
}

func appendBits(dst []byte, valid []bool) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, (len(valid)+7)/8)...)
	for i, ok := range valid {
		if ok {
			dst[at+i/8] |= 1 << (i % 8)
		}
	}
	return dst
}

// appendInts writes w.ints, of which there is at least one.
func (w *encoder) appendInts(dst []byte) []byte {
	vals := w.ints
	first := vals[0]
	least, most := first, first
	var leastStep, mostStep int64
	if len(vals) > 1 {
		leastStep = vals[1] - first
		mostStep = leastStep
	}
	last := first
	for _, v := range vals[1:] {
		least, most = min(least, v), max(most, v)
		step := v - last
		leastStep, mostStep = min(leastStep, step), max(mostStep, step)
		last = v
	}
	if least == most {
		dst = append(dst, encConst)
		return binary.AppendVarint(dst, least)
	}
	width, stepWidth := bytesOf(uint64(most-least)), bytesOf(uint64(mostStep-leastStep))
	if min(width, stepWidth) > 2 && len(vals) >= 16 && w.dict.fill(vals) {
		dst = append(dst, encDict)
		dst = binary.AppendUvarint(dst, uint64(len(w.dict.values)))
		for _, v := range w.dict.values {
			dst = binary.AppendVarint(dst, v)
		}
		return append(dst, w.dict.codes...)
	}
	if stepWidth < width {
		dst = append(dst, encDelta, byte(stepWidth))
		dst = binary.AppendVarint(dst, first)
		dst = binary.AppendVarint(dst, leastStep)
		for i := len(vals) - 1; i > 0; i-- {
			vals[i] -= vals[i-1]
		}
		return appendPlanes(dst, vals[1:], leastStep, stepWidth)
	}
	dst = append(dst, encOffset, byte(width))
	dst = binary.AppendVarint(dst, least)
	return appendPlanes(dst, vals, least, width)
}

// appendPlanes writes numbers less a base, byte by byte.
func appendPlanes(dst []byte, vals []int64, base int64, width int) []byte {
	at := len(dst)
	n := len(vals)
	dst = append(dst, make([]byte, n*width)...)
	for k := range width {
		plane := dst[at+k*n : at+(k+1)*n]
		shift := 8 * uint(k)
		for i, v := range vals {
			plane[i] = byte(uint64(v-base) >> shift)
		}
	}
	return dst
}

func bytesOf(spread uint64) int { return max(1, (bits.Len64(spread)+7)/8) }

// An intDict finds numbers that come again: at most 256 different ones.
type intDict struct {
	slots  [1024]uint16 // 1 + place in values
	values []int64
	codes  []byte
}

// fill reports whether the numbers are few enough.
func (d *intDict) fill(vals []int64) bool {
	clear(d.slots[:])
	d.values, d.codes = d.values[:0], grow(d.codes, len(vals))
	most := min(256, len(vals)/4)
	for i, v := range vals {
		h := uint64(v) * 0x9e3779b97f4a7c15 >> 54
		for {
			s := d.slots[h]
			if s == 0 {
				if len(d.values) == most {
					return false
				}
				d.values = append(d.values, v)
				d.slots[h] = uint16(len(d.values))
				d.codes[i] = byte(len(d.values) - 1)
				break
			}
			if d.values[s-1] == v {
				d.codes[i] = byte(s - 1)
				break
			}
			h = (h + 1) & 1023
		}
	}
	return true
}
