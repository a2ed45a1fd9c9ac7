package cli

import (
	"fmt"
	"strings"
)

// A page is text under headings: names at the left, what is known beside them.
type page struct {
	screen
	b strings.Builder
}

// heading begins a part of the page. name is safe for a terminal.
func (p *page) heading(name string) {
	if p.b.Len() > 0 {
		p.b.WriteByte('\n')
	}
	p.b.WriteString(p.paint(bold, name) + "\n")
}

// line writes a value with its name, nothing if it is empty. Both are safe for
// a terminal.
func (p *page) line(name, value string) {
	if value == "" {
		return
	}
	p.b.WriteString("  " + p.paint(dim, fmt.Sprintf("%-*s", nameWidth, name)) + "  " + value + "\n")
}

const nameWidth = 15

// rows writes a table below a heading, indented.
func (p *page) rows(cols []column, rows [][]cell) {
	s := p.screen
	s.width -= 2
	var b strings.Builder
	t := newTable(&b, s, cols)
	if t.rows(rows) != nil {
		return // a strings.Builder does not fail
	}
	for line := range strings.Lines(b.String()) {
		p.b.WriteString("  " + line)
	}
}

// print writes the page.
func (p *page) print(env *Env) error {
	out := &lazyWriter{out: env.Stdout}
	if _, err := out.Write([]byte(p.b.String())); err != nil {
		return err
	}
	return out.Flush()
}
