package store

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
	"unsafe"

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
	w.texts = 0
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
		dst = binary.AppendUvarint(dst, uint64(v.Column.Index))
		dst = append(dst, 0, 0, 0, 0)
		at := len(dst)
		dst = w.appendVector(dst, b, v, times)
		putLength(dst[at-4:at], len(dst)-at)
	}
	return dst
}

// putLength writes a length, of less than 2^28, as a varint that fills four bytes: it
// is not known before what it is the length of.
func putLength(b []byte, n int) {
	b[0], b[1], b[2], b[3] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)|0x80, byte(n>>21)
}

// An encoder writes batches; its memory is used again.
type encoder struct {
	texts int // bytes of dictionaries in the batch
	ints  []int64
	steps []int64
	codes []uint32
	dict  intDict
}

func (w *encoder) appendVector(dst []byte, b *Batch, v *Vector, times *Vector) []byte {
	if v.Valid == nil {
		dst = append(dst, 0)
	} else {
		dst = append(dst, 1)
		dst = appendBits(dst, v.Valid[:b.Rows])
	}
	if v.Column.Rep != event.IntRep {
		at := len(dst)
		dst = w.appendDictionary(dst, v)
		w.texts += len(dst) - at
		return w.appendCodes(dst, v, b.Rows)
	}
	switch {
	case v.Column.Name == "evt.ktime" && v.Valid == nil && times != nil && times.Valid == nil:
		// Both clocks go alike: what lies between them is one number.
		w.ints = grow(w.ints, b.Rows)
		for i, x := range v.Ints[:b.Rows] {
			w.ints[i] = x - times.Ints[i]
		}
	case v.Valid == nil:
		return w.appendInts(dst, v.Ints[:b.Rows])
	default:
		w.ints = there(w.ints, v.Ints, v.Valid[:b.Rows])
	}
	return w.appendInts(dst, w.ints)
}

// there returns those values that are valid, in the memory of room.
func there[T any](room, vals []T, valid []bool) []T {
	room = grow(room, len(valid))
	n := 0
	for i, ok := range valid {
		room[n] = vals[i] // which the next one takes the place of, if it is not
		n += int(event.Digit(ok))
	}
	return room[:n]
}

func (w *encoder) appendDictionary(dst []byte, v *Vector) []byte {
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
	return dst
}

// appendCodes writes places in a dictionary.
func (w *encoder) appendCodes(dst []byte, v *Vector, rows int) []byte {
	size := max(len(v.Strs), len(v.Addrs), len(v.Lists), len(v.Maps))
	if size == 1 {
		return append(dst, encConst, 0)
	}
	codes := v.Codes[:rows]
	if v.Valid != nil {
		w.codes = there(w.codes, codes, v.Valid[:rows])
		codes = w.codes
	}
	width := bytesOf(uint64(size - 1))
	return appendPlanes(append(dst, encOffset, byte(width), 0), codes, 0, width)
}

func appendAddr(dst []byte, a netip.Addr) []byte {
	at := len(dst)
	dst = append(dst, 0)
	dst, _ = a.AppendBinary(dst) // it never fails
	dst[at] = byte(len(dst) - at - 1)
	return dst
}

func appendBits(dst []byte, valid []bool) []byte {
	i := 0
	for ; i+8 <= len(valid); i += 8 {
		// Eight bytes that are 0 or 1: each one's lowest bit comes to lie in the uppermost byte.
		eight := *(*[8]byte)(unsafe.Pointer(&valid[i]))
		dst = append(dst, byte(binary.LittleEndian.Uint64(eight[:])*0x0102040810204080>>56))
	}
	if i < len(valid) {
		last := byte(0)
		for k, ok := range valid[i:] {
			if ok {
				last |= 1 << k
			}
		}
		dst = append(dst, last)
	}
	return dst
}

// appendInts writes numbers, of which there is at least one.
func (w *encoder) appendInts(dst []byte, vals []int64) []byte {
	first := vals[0]
	least, most := first, first
	for _, v := range vals[1:] {
		if v < least {
			least = v
		} else if v > most {
			most = v
		}
	}
	if least == most {
		dst = append(dst, encConst)
		return binary.AppendVarint(dst, least)
	}
	width := bytesOf(uint64(most - least))
	if width == 1 {
		dst = append(dst, encOffset, 1)
		dst = binary.AppendVarint(dst, least)
		return appendPlanes(dst, vals, least, 1)
	}
	leastStep, stepWidth := stepsOf(vals, width)
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
		w.steps = grow(w.steps, len(vals)-1)
		for i := range w.steps {
			w.steps[i] = vals[i+1] - vals[i]
		}
		return appendPlanes(dst, w.steps, leastStep, stepWidth)
	}
	dst = append(dst, encOffset, byte(width))
	dst = binary.AppendVarint(dst, least)
	return appendPlanes(dst, vals, least, width)
}

// stepsOf returns the least step between numbers that follow one another, and how many
// bytes the others need more than it. What is not less than enough is not looked into.
func stepsOf(vals []int64, enough int) (least int64, width int) {
	last := vals[0]
	least = vals[1] - last
	most := least
	for rest := vals[1:]; len(rest) > 0 && width < enough; {
		n := min(len(rest), stride)
		for _, v := range rest[:n] {
			step := v - last
			last = v
			least, most = min(least, step), max(most, step)
		}
		rest = rest[n:]
		width = bytesOf(uint64(most - least))
	}
	return least, width
}

// appendPlanes writes numbers less a base, byte by byte.
func appendPlanes[T int64 | uint32](dst []byte, vals []T, base T, width int) []byte {
	at := len(dst)
	n := len(vals)
	dst = slices.Grow(dst, n*width)[:at+n*width]
	plane := func(k int) []byte { return dst[at+k*n:][:n:n] }
	switch a := plane(0); width {
	case 1:
		for i, v := range vals {
			a[i] = byte(v - base)
		}
	case 2:
		b := plane(1)
		for i, v := range vals {
			v -= base
			a[i], b[i] = byte(v), byte(v>>8)
		}
	case 3:
		b, c := plane(1), plane(2)
		for i, v := range vals {
			v -= base
			a[i], b[i], c[i] = byte(v), byte(v>>8), byte(v>>16)
		}
	default:
		b, c, d := plane(1), plane(2), plane(3)
		for i, v := range vals {
			v -= base
			a[i], b[i], c[i], d[i] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
		}
		for k := 4; k < width; k++ {
			p, shift := plane(k), 8*uint(k)
			for i, v := range vals {
				p[i] = byte(uint64(v-base) >> shift)
			}
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
