package cli

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

const hexDigits = "0123456789abcdef"

// safe returns s fit for a terminal: control characters, characters that
// change how text around them is drawn (bidirectional and zero-width ones),
// blanks other than the common one, and bytes that are not UTF-8 are written
// as escapes: \n, \x1b, \u202e, \xff. Where the locale is not UTF-8, so is
// everything beyond ASCII. A backslash stays as it is: this is for people;
// JSON is exact.
func (s screen) safe(text string) string {
	if isPlain(text) {
		return text
	}
	var b strings.Builder
	b.Grow(len(text) + 16)
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 {
			b.WriteString(`\x`)
			b.WriteByte(hexDigits[text[i]>>4])
			b.WriteByte(hexDigits[text[i]&15])
		} else {
			s.writeRune(&b, r)
		}
		i += n
	}
	return b.String()
}

func (s screen) writeRune(b *strings.Builder, r rune) {
	if strconv.IsPrint(r) && (s.utf8 || r < utf8.RuneSelf) {
		b.WriteRune(r)
		return
	}
	switch r {
	case '\n':
		b.WriteString(`\n`)
	case '\r':
		b.WriteString(`\r`)
	case '\t':
		b.WriteString(`\t`)
	default:
		switch {
		case r < utf8.RuneSelf:
			b.WriteString(`\x`)
			writeHex(b, r, 2)
		case r < 0x10000:
			b.WriteString(`\u`)
			writeHex(b, r, 4)
		default:
			b.WriteString(`\U`)
			writeHex(b, r, 8)
		}
	}
}

func writeHex(b *strings.Builder, r rune, digits int) {
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		b.WriteByte(hexDigits[r>>shift&15])
	}
}

// isPlain reports whether every byte of s is a printable ASCII character.
func isPlain[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// safeJSON returns a line of JSON fit for a terminal: what safe would not show
// as it is becomes an escape of JSON, so that the line means the same. A line
// of JSON holds such characters only within strings.
func safeJSON(line []byte) []byte {
	if isPlain(line) {
		return line
	}
	b := make([]byte, 0, len(line)+32)
	unit := func(u rune) {
		b = append(b, '\\', 'u', hexDigits[u>>12&15], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
	}
	for i := 0; i < len(line); {
		r, n := utf8.DecodeRune(line[i:])
		switch {
		case strconv.IsPrint(r) && (r != utf8.RuneError || n > 1):
			b = append(b, line[i:i+n]...)
		case r < 0x10000:
			unit(r)
		default:
			r -= 0x10000
			unit(0xd800 + r>>10)
			unit(0xdc00 + r&0x3ff)
		}
		i += n
	}
	return b
}

// quoteArg returns an argument as a shell would take it: bare where that is
// enough, else in single quotes, else (with anything in it that safe escapes)
// as $'...'.
func (s screen) quoteArg(arg string) string {
	if arg == "" {
		return "''"
	}
	bare := true
	for i := range len(arg) {
		if c := arg[i]; c >= utf8.RuneSelf || !isBare(c) {
			bare = false
			break
		}
	}
	if bare {
		return arg
	}
	shown := s.safe(arg)
	if shown == arg && !strings.Contains(arg, "'") {
		return "'" + arg + "'"
	}
	// The escapes of safe are those of $'...'; its own must be added first.
	return "$'" + s.safe(strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(arg)) + "'"
}

func isBare(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_-./:=,@%+^", c) >= 0
}

// commandLine returns arguments as one line of shell.
func (s screen) commandLine(args []string) string {
	var b strings.Builder
	for i, a := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(s.quoteArg(a))
	}
	return b.String()
}

// runeWidths measures text as terminals of Western locales do. It is a value
// of its own because the library's default asks the environment.
var runeWidths = runewidth.Condition{StrictEmojiNeutral: true}

// width returns how many columns text takes, which must have passed safe.
func width(text string) int {
	if isPlain(text) {
		return len(text)
	}
	return runeWidths.StringWidth(text)
}

// truncate returns text cut to a width, with a mark where it was cut.
func (s screen) truncate(text string, w int) string {
	if width(text) <= w {
		return text
	}
	if w < 1 {
		return ""
	}
	mark := "…"
	if !s.utf8 {
		mark = "~"
	}
	return runeWidths.Truncate(text, w, mark)
}
