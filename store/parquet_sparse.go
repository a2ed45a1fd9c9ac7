package store

import (
	"encoding/binary"
	"math/bits"

	"github.com/parquet-go/parquet-go/format"
)

// sparseShare is how many rows of a page there must be for each that is wanted for the
// page not to be decoded as a whole.
const sparseShare = 24

// sparse reads a few rows of a page, in ascending order: texts into codes, the others
// into nums, and whether there is a value into valid. rows are counted from base. It
// reports false for what is better decoded as a whole. The error is a *[pageError].
func (c *chunk) sparse(at int, rows []int32, base int, codes []uint32, nums []int64, valid []bool) (ok bool, err error) {
	d := &c.pages[at]
	if c.decoded == at || c.col.shape == shapeTexts || sparseShare*len(rows) > int(d.rows) {
		return false, nil
	}
	err = guarded(func() error {
		d, err := c.load(at)
		if err != nil {
			return err
		}
		return c.decodeSparse(d, rows, base, codes, nums, valid)
	})
	if err != nil {
		return false, &pageError{c, err}
	}
	return true, nil
}

func (c *chunk) decodeSparse(d *dataPage, rows []int32, base int, codes []uint32, nums []int64, valid []bool) (err error) {
	nulls := int(d.nulls)
	there := int(d.rows) - nulls
	levels, err := d.presence()
	if err != nil {
		return err
	}
	if there == 0 {
		for i := range rows {
			valid[i] = false
			if codes != nil {
				codes[i] = missing
			}
		}
		return nil
	}
	body := d.body[d.rep+d.def:]
	if !d.raw {
		if body, err = c.unpack(body, d.size); err != nil {
			return err
		}
	} else if len(body) != d.size {
		return corrupt("a page of %d bytes should have %d", len(body), d.size)
	}
	values, size, err := c.valuesOf(d, body, there)
	if err != nil {
		return err
	}
	for i, row := range rows {
		k := int(row) - base
		if nulls > 0 {
			if valid[i] = levels.at(k) != 0; !valid[i] {
				if codes != nil {
					codes[i] = missing
				}
				continue
			}
			k = levels.ones(k)
		}
		if k >= there {
			return corrupt("more than %d values", there)
		}
		valid[i] = true
		switch {
		case size < 0 && c.col.shape == shapeBool:
			nums[i] = int64(body[k/8] >> (k % 8) & 1)
		case size < 0:
			nums[i] = c.longs[k]
		default:
			code := values.at(k)
			if int64(code) >= int64(size) {
				return corrupt("code %d in a dictionary of %d", code, size)
			}
			if codes != nil {
				codes[i] = code
			} else {
				nums[i] = c.nums[code]
			}
		}
	}
	return nil
}

// valuesOf returns the codes of a page's values, and the size of their dictionary;
// -1 for what is in none: numbers are in c.longs then.
func (c *chunk) valuesOf(d *dataPage, body []byte, there int) (r runs, size int, err error) {
	encoding := format.Encoding(d.encoding)
	switch {
	case encoding == format.RLEDictionary && c.col.shape != shapeBool:
		size = c.dict.size()
		if c.col.shape != shapeText {
			size = len(c.nums)
		}
		if len(body) == 0 || body[0] > 32 {
			return r, 0, corrupt("a page without codes")
		}
		r = runs{rest: body[1:], width: int(body[0])}
		return r, size, checkRuns(r.rest, r.width, there)
	case c.col.shape == shapeText:
		return r, 0, corrupt("text that is not in a dictionary")
	case encoding == format.DeltaBinaryPacked && c.col.shape != shapeBool:
		return r, -1, c.decodeDeltas(body, there)
	case encoding == format.Plain && c.col.shape == shapeBool:
		if len(body) != (there+7)/8 {
			return r, 0, corrupt("%d booleans in %d bytes", there, len(body))
		}
		return r, -1, nil
	}
	return r, 0, corrupt("an encoding that Warren does not write")
}

// runs goes through runs of numbers of some bits, which [checkRuns] has checked.
type runs struct {
	rest   []byte
	width  int
	first  int    // place of the run's first number
	count  int    // its numbers
	packed []byte // they themselves, width bits each; nil: all are value
	value  uint32
	before int // ones before the run, where numbers are bits
	seen   int // ones in the run before counted
	upTo   int // place in the run up to which seen counts
}

// at returns the k-th number; k does not fall.
func (r *runs) at(k int) uint32 {
	for k >= r.first+r.count {
		r.next()
	}
	if r.packed == nil {
		return r.value
	}
	bit := (k - r.first) * r.width
	var room [8]byte
	copy(room[:], r.packed[bit/8:])
	return uint32(binary.LittleEndian.Uint64(room[:]) >> (bit % 8) & (1<<r.width - 1))
}

func (r *runs) next() {
	if r.width == 1 {
		r.before += r.onesTo(r.count)
	}
	r.first += r.count
	head, n := binary.Uvarint(r.rest)
	r.rest = r.rest[n:]
	r.seen, r.upTo = 0, 0
	if head&1 != 0 {
		r.count = 8 * int(head>>1)
		size := int(head>>1) * r.width
		r.packed, r.rest = r.rest[:size:size], r.rest[size:]
		return
	}
	r.count, r.packed, r.value = int(head>>1), nil, 0
	size := (r.width + 7) / 8
	for i, b := range r.rest[:size] {
		r.value |= uint32(b) << (8 * i)
	}
	r.rest = r.rest[size:]
}

// ones returns how many ones there are before the k-th bit, which [runs.at] has been
// asked for last.
func (r *runs) ones(k int) int { return r.before + r.onesTo(k-r.first) }

// onesTo counts the ones among the first n bits of the run; n does not fall.
func (r *runs) onesTo(n int) int {
	if r.packed == nil {
		return n * int(r.value&1)
	}
	for ; r.upTo+8 <= n; r.upTo += 8 {
		r.seen += bits.OnesCount8(r.packed[r.upTo/8])
	}
	if r.upTo == n {
		return r.seen
	}
	return r.seen + bits.OnesCount8(r.packed[r.upTo/8]&(1<<(n%8)-1))
}
