package cli

import (
	"bytes"
	"io"
	"slices"
	"strings"
)

// A column is how one column of a table is laid out.
type column struct {
	head  string
	min   int  // width it begins with, the head's if that is more
	max   int  // width beyond which it does not grow in a stream, and that lets it be narrowed; 0: neither
	right bool // aligned to the right
	spare int  // a list may be without it where there is no room: those with 1 go first; 0: no
}

// A cell is one value of a row, safe for a terminal.
type cell struct {
	text  string
	color string
	// tail stays when text is cut: the end of a line that matters. It is dim
	// unless it has a colour.
	tail, tailColor string
}

// A table writes rows in aligned columns. Rows of a stream are written as they
// come: a column is as wide as its widest value so far, within bounds.
type table struct {
	out    io.Writer
	screen screen
	cols   []column
	widths []int
	last   int // width of the last one
	line   []byte
	headed bool
}

func newTable(out io.Writer, s screen, cols []column) *table {
	t := &table{out: out, screen: s, cols: cols, widths: make([]int, len(cols))}
	for i, c := range cols {
		t.widths[i] = max(c.min, width(c.head))
	}
	return t
}

// rows writes a finite table: columns fit all rows. Where lines do not fit the
// screen, columns that can be spared are left out, and others narrowed, the
// widest first.
func (t *table) rows(rows [][]cell) error {
	last := len(t.cols) - 1
	t.last = width(t.cols[last].head)
	for _, r := range rows {
		t.grow(r)
		t.last = max(t.last, width(r[last].text)+width(r[last].tail))
	}
	for t.screen.cut && t.fixed()+t.last > t.screen.width {
		i, empty := t.spare(rows)
		if i < 0 || !empty && t.fits(true) {
			break
		}
		t.cols, t.widths = slices.Delete(t.cols, i, i+1), slices.Delete(t.widths, i, i+1)
		for j := range rows {
			rows[j] = slices.Delete(rows[j], i, i+1)
		}
	}
	for t.screen.cut && !t.fits(false) {
		i := t.widest()
		if i < 0 {
			break
		}
		t.widths[i]--
	}
	if err := t.head(); err != nil {
		return err
	}
	for _, r := range rows {
		if err := t.write(r); err != nil {
			return err
		}
	}
	return nil
}

const (
	minLast   = 24 // what the last column should keep, if it has that much to say
	minColumn = 7  // below, a column says nothing any more
	// comfortable is what a column can be narrowed to before others are left
	// out, unless it has a minimum that is more.
	comfortable = 10
)

// fits reports whether lines fit the screen, as they are or once columns are
// narrowed as far as is comfortable.
func (t *table) fits(narrowed bool) bool {
	n := min(minLast, t.last)
	for i, w := range t.widths[:len(t.widths)-1] {
		if t.cols[i].max > 0 && narrowed {
			w = min(w, max(comfortable, t.cols[i].min))
		}
		n += w + gap
	}
	return n <= t.screen.width
}

// spare returns the column to leave out next, -1 if there is none: one without
// any value before others.
func (t *table) spare(rows [][]cell) (best int, empty bool) {
	best = -1
	least := 0
	for i, c := range t.cols[:len(t.cols)-1] {
		rank := c.spare
		if rank == 0 {
			continue
		}
		if !slices.ContainsFunc(rows, func(r []cell) bool { return r[i].text != "" }) {
			rank -= 1 << 20
		}
		if best < 0 || rank < least {
			best, least = i, rank
		}
	}
	return best, least < 0
}

// widest returns the widest column that can still be narrowed, -1 for none.
func (t *table) widest() int {
	best := -1
	for i, w := range t.widths[:len(t.widths)-1] {
		if t.cols[i].max > 0 && w > minColumn && (best < 0 || w > t.widths[best]) {
			best = i
		}
	}
	return best
}

// row writes one row of a stream.
func (t *table) row(r []cell) error {
	if !t.headed {
		if err := t.head(); err != nil {
			return err
		}
	}
	t.grow(r)
	return t.write(r)
}

func (t *table) grow(r []cell) {
	for i := range len(r) - 1 {
		w := width(r[i].text)
		if m := t.cols[i].max; m > 0 && t.headed {
			w = min(w, m)
		}
		t.widths[i] = max(t.widths[i], w)
	}
}

// fixed returns what all columns but the last take, with the gaps.
func (t *table) fixed() int {
	n := 0
	for _, w := range t.widths[:len(t.widths)-1] {
		n += w + gap
	}
	return n
}

const gap = 2

// head writes the names of the columns.
func (t *table) head() error {
	t.headed = true
	r := make([]cell, len(t.cols))
	for i, c := range t.cols {
		r[i] = cell{text: c.head, color: bold}
	}
	return t.write(r)
}

func (t *table) write(r []cell) error {
	b := t.line[:0]
	last := len(r) - 1
	for i, c := range r[:last] {
		text := c.text
		if t.screen.cut {
			text = t.screen.truncate(text, t.widths[i])
		}
		pad := t.widths[i] - width(text)
		if t.cols[i].right {
			b = appendBlanks(b, pad)
			pad = 0
		}
		b = append(b, t.screen.paint(c.color, text)...)
		b = appendBlanks(b, pad+gap)
	}
	c := r[last]
	if t.screen.cut {
		c = t.screen.fit(c, max(minLast, t.screen.width-t.fixed()))
	}
	b = append(b, t.screen.paint(c.color, c.text)...)
	if c.tail != "" {
		if c.tailColor == plain {
			c.tailColor = dim
		}
		b = append(b, t.screen.paint(c.tailColor, c.tail)...)
	}
	b = append(bytes.TrimRight(b, " "), '\n')
	t.line = b
	_, err := t.out.Write(b)
	return err
}

// fit cuts a cell to a width. The tail may keep two fifths of it.
func (s screen) fit(c cell, w int) cell {
	text, tail := width(c.text), width(c.tail)
	if text+tail <= w {
		return c
	}
	if keep := w * 2 / 5; tail > keep {
		tail = max(keep, w-text)
		c.tail = s.truncate(c.tail, tail)
	}
	c.text = s.truncate(c.text, w-tail)
	return c
}

func appendBlanks(b []byte, n int) []byte {
	for range n {
		b = append(b, ' ')
	}
	return b
}

// wrap breaks text into lines of at most w columns, at blanks. Lines that
// begin with a blank, and empty ones, are kept as they are.
func wrap(text string, w int) []string {
	var out []string
	for para := range strings.SplitSeq(text, "\n") {
		if para == "" || para[0] == ' ' {
			out = append(out, para)
			continue
		}
		line := ""
		for word := range strings.FieldsSeq(para) {
			if line != "" && width(line)+1+width(word) > w {
				out = append(out, line)
				line = ""
			}
			if line != "" {
				line += " "
			}
			line += word
		}
		out = append(out, line)
	}
	return slices.Clip(out)
}
