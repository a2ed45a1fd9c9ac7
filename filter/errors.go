package filter

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// An Error says what is wrong with an expression, and where.
type Error struct {
	Expr     string // the whole expression
	Pos, End int    // the wrong part is Expr[Pos:End]; End == Pos where something is missing
	Msg      string // one line, printable
	Hint     string // what to do about it, printable; empty where there is nothing to say
}

// Error returns the message and the hint in one line.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Msg
	}
	return e.Msg + "; " + e.Hint
}

// Caret returns the line of the expression where the error is and, in a second
// line, ^ under the wrong part. Bytes that a terminal would not print as they
// are, are replaced: the text is safe to show. It has no final newline.
func (e *Error) Caret() string {
	pos := min(max(e.Pos, 0), len(e.Expr))
	end := min(max(e.End, pos), len(e.Expr))
	start := strings.LastIndexByte(e.Expr[:pos], '\n') + 1
	stop := len(e.Expr)
	if n := strings.IndexByte(e.Expr[start:], '\n'); n >= 0 {
		stop = start + n
	}
	end = min(end, stop)

	var line strings.Builder
	cells := func(s string) (n int) {
		for i := 0; i < len(s); {
			r, size := utf8.DecodeRuneInString(s[i:])
			r = shown(r)
			line.WriteRune(r)
			n += width(r)
			i += size
		}
		return n
	}
	before := cells(e.Expr[start:pos])
	under := max(cells(e.Expr[pos:end]), 1)
	cells(e.Expr[end:stop])
	return strings.TrimRight(line.String(), " ") + "\n" + strings.Repeat(" ", before) + strings.Repeat("^", under)
}

// shown returns what stands for r on a terminal: r itself, a blank for white
// space and U+FFFD for what could move the cursor or turn the text around.
func shown(r rune) rune {
	switch {
	case r == '\t' || r == '\n' || r == '\r' || r == '\v' || r == '\f':
		return ' '
	case r == utf8.RuneError || !unicode.IsPrint(r) && !unicode.Is(unicode.Mn, r):
		return utf8.RuneError
	}
	return r
}

// wide are the runes that take two cells on a terminal.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115f, 1}, {0x231a, 0x231b, 1}, {0x2329, 0x232a, 1}, {0x23e9, 0x23ec, 1}, {0x2614, 0x2615, 1},
		{0x2e80, 0x303e, 1}, {0x3041, 0x33ff, 1}, {0x3400, 0x4dbf, 1}, {0x4e00, 0x9fff, 1}, {0xa000, 0xa4cf, 1},
		{0xa960, 0xa97f, 1}, {0xac00, 0xd7a3, 1}, {0xf900, 0xfaff, 1}, {0xfe30, 0xfe6f, 1}, {0xff00, 0xff60, 1}, {0xffe0, 0xffe6, 1},
	},
	R32: []unicode.Range32{
		{0x16fe0, 0x18aff, 1}, {0x1b000, 0x1b2ff, 1}, {0x1f004, 0x1f004, 1}, {0x1f18e, 0x1f19a, 1}, {0x1f200, 0x1f64f, 1},
		{0x1f680, 0x1f6ff, 1}, {0x1f7e0, 0x1f7eb, 1}, {0x1f90c, 0x1faff, 1}, {0x20000, 0x3fffd, 1},
	},
}

func width(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.Is(unicode.Mn, r):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}

// quoted returns text as messages show it: as it is where it is a plain word,
// otherwise in quotes and escaped, and never long.
func quoted(s string) string {
	const most = 60
	if len(s) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		return strconv.QuoteToGraphic(s[:cut] + "...")
	}
	if s == "" || strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == '"' || r == '\'' || r == '`' || r == ',' || r == ';' || r == utf8.RuneError || !unicode.IsPrint(r)
	}) {
		return strconv.QuoteToGraphic(s)
	}
	return s
}
