package cli

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// A column is how one column of a table is laid out.
type column struct {
	head  string
	min   int  // width it begins with, the head's if that is more
	max   int  // width beyond which it does not grow; 0: no bound
	right bool // aligned to the right
}

// A cell is one value of a row, safe for a terminal.
type cell struct {
	text  string
	color string
	// tail stays when text is cut: the end of a line that matters.
	tail string
}

// A table writes rows in aligned columns. Rows of a stream are written as they
// come: a column is as wide as its widest value so far, within bounds.
type table struct {
	out    io.Writer
	screen screen
	cols   []column
	widths []int
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

// rows writes a finite table: columns fit all rows, and are then narrowed,
// widest first, until lines fit the screen.
func (t *table) rows(rows [][]cell) error {
	for _, r := range rows {
		t.grow(r)
	}
	if t.screen.cut {
		for t.fixed()+minLast > t.screen.width {
			i := widest(t.widths[:len(t.widths)-1])
			if t.widths[i] <= minColumn {
				break
			}
			t.widths[i]--
			t.cols[i].max = t.widths[i]
		}
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

// Below these widths a column says nothing any more.
const (
	minColumn = 7
	minLast   = 24
)

func widest(w []int) int {
	i := 0
	for j := range w {
		if w[j] > w[i] {
			i = j
		}
	}
	return i
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
		if m := t.cols[i].max; m > 0 {
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
		b = append(b, t.screen.paint(dim, c.tail)...)
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

// A lazyWriter gathers what is written, so that a fast stream does not cost a
// system call a line, and passes it on at most flushDelay later.
type lazyWriter struct {
	out io.Writer

	mu    sync.Mutex
	buf   []byte
	timer *time.Timer
	err   error // the first of out; it is returned by every Write after it
}

const (
	flushDelay = 20 * time.Millisecond
	flushSize  = 64 << 10
)

// Write implements [io.Writer].
func (w *lazyWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	if len(w.buf) == 0 {
		if w.timer == nil {
			w.timer = time.AfterFunc(flushDelay, func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.flush()
			})
		} else {
			w.timer.Reset(flushDelay)
		}
	}
	w.buf = append(w.buf, b...)
	if len(w.buf) >= flushSize {
		w.flush()
	}
	return len(b), w.err
}

// Flush passes on what is left and returns the first error there was.
func (w *lazyWriter) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
	return w.err
}

func (w *lazyWriter) flush() {
	if len(w.buf) > 0 && w.err == nil {
		_, w.err = w.out.Write(w.buf)
	}
	w.buf = w.buf[:0]
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
