package rule

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// A source is the text of one file.
type source struct {
	name  string
	lines []string
}

func newSource(f File) *source { return &source{f.Name, strings.Split(string(f.Text), "\n")} }

// place returns where a node begins.
func (s *source) place(n *yaml.Node) Place {
	if n == nil || n.Line == 0 {
		return Place{File: s.name}
	}
	return Place{s.name, n.Line, n.Column}
}

// A piece is text that stands somewhere in a file, as the value of a scalar.
type piece struct {
	text string
	src  *source
	node *yaml.Node
}

// A prose is text that several pieces were joined to, with a blank between
// them: a condition and what was appended to it.
type prose []piece

func (p prose) String() string {
	switch len(p) {
	case 0:
		return ""
	case 1:
		return p[0].text
	}
	var b strings.Builder
	for i, part := range p {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(part.text)
	}
	return b.String()
}

// find returns where in the files the byte of the text at offset off stands,
// and at most how many columns the text to end takes on that line.
func (p prose) find(off, end int) (src *source, at Place, columns int) {
	for i, part := range p {
		if off <= len(part.text) || i == len(p)-1 {
			off = min(max(off, 0), len(part.text))
			end = min(max(end, off), len(part.text))
			line, col := part.src.locate(part.node, part.text, off)
			stopLine, stopCol := part.src.locate(part.node, part.text, end)
			columns = 1
			if stopLine == line {
				columns = max(stopCol-col, 1)
			}
			return part.src, Place{part.src.name, line, col}, columns
		}
		off -= len(part.text) + 1
		end -= len(part.text) + 1
	}
	return nil, Place{}, 1
}

// locate returns line and column of the byte of a scalar's value at offset off.
// A value is its text in the file but for white space, which is folded, and for
// escapes in quotes. Where the two cannot be laid side by side, it is the place
// where the scalar begins.
func (s *source) locate(n *yaml.Node, value string, off int) (line, column int) {
	if n.Line < 1 || n.Line > len(s.lines) {
		return n.Line, n.Column
	}
	c := cursor{lines: s.lines, line: n.Line - 1, col: n.Column - 1}
	switch {
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		c.line, c.col = c.line+1, 0
	case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		c.next()
	}
	for i, want := range value {
		if unicode.IsSpace(want) {
			if i >= off {
				break // what is behind the last word begins behind it
			}
			continue
		}
		c.blanks(n.Style)
		if i >= off {
			break
		}
		got, ok := c.next()
		switch {
		case !ok:
			return n.Line, n.Column
		case got == want && got != '\\' && (got != '\'' || n.Style&yaml.SingleQuotedStyle == 0):
		case got == '\'' && n.Style&yaml.SingleQuotedStyle != 0:
			c.next() // the second of two
		case got == '\\' && n.Style&yaml.DoubleQuotedStyle != 0:
			c.escape()
		case got != want:
			return n.Line, n.Column
		}
	}
	return c.line + 1, c.col + 1
}

// A cursor walks over the characters of a text, line by line.
type cursor struct {
	lines     []string
	line, col int // col counts characters, as the YAML library does
	at        int // byte offset of col in the line
	of        int // line that at is an offset in, plus one
}

func (c *cursor) rest() string {
	if c.line >= len(c.lines) {
		return ""
	}
	l := c.lines[c.line]
	if c.of != c.line+1 {
		c.at, c.of = 0, c.line+1
		for range c.col {
			_, size := utf8.DecodeRuneInString(l[c.at:])
			c.at += size
		}
	}
	return l[c.at:]
}

// next returns the next character. A line's end is one.
func (c *cursor) next() (rune, bool) {
	if c.line >= len(c.lines) {
		return 0, false
	}
	rest := c.rest()
	if rest == "" {
		c.line, c.col = c.line+1, 0
		return '\n', true
	}
	r, size := utf8.DecodeRuneInString(rest)
	c.col++
	c.at += size
	return r, true
}

// blanks skips white space, and in double quotes what stands for it.
func (c *cursor) blanks(style yaml.Style) {
	for c.line < len(c.lines) {
		rest := c.rest()
		r, _ := utf8.DecodeRuneInString(rest)
		switch {
		case rest == "" || unicode.IsSpace(r):
			c.next()
		case style&yaml.DoubleQuotedStyle != 0 && len(rest) == 1 && r == '\\':
			c.next()
		case style&yaml.DoubleQuotedStyle != 0 && len(rest) > 1 && r == '\\' && strings.IndexByte("nrtN_LP \t", rest[1]) >= 0:
			c.next()
			c.next()
		default:
			return
		}
	}
}

// escape skips what is left of an escape in double quotes.
func (c *cursor) escape() {
	r, _ := c.next()
	n := map[rune]int{'x': 2, 'u': 4, 'U': 8}[r]
	for range n {
		c.next()
	}
}

// excerpt returns a line and a second one with ^ under some of its columns,
// without what a terminal would not show as it is.
func (s *source) excerpt(at Place, columns int) string {
	if at.Line < 1 || at.Line > len(s.lines) {
		return ""
	}
	const width = 120 // of the line, around the place
	line := []rune(strings.TrimRight(s.lines[at.Line-1], "\r"))
	from := min(max(at.Column-1, 0), len(line))
	to := min(from+columns, len(line))
	first := 0
	for first < from && line[first] == ' ' {
		first++ // indentation says nothing
	}
	first = max(first, from-width/2)
	last := min(len(line), first+width)
	to = min(to, last)
	var b strings.Builder
	for _, r := range line[first:last] {
		if !unicode.IsPrint(r) {
			r = ' '
			if !unicode.IsSpace(r) {
				r = utf8.RuneError
			}
		}
		b.WriteRune(r)
	}
	return strings.TrimRight(b.String(), " ") + "\n" + strings.Repeat(" ", from-first) + strings.Repeat("^", max(to-from, 1))
}
