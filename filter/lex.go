package filter

import "strings"

// The language has no tokens of its own: what a run of characters is depends on
// where it stands (a comma ends a value, a dot makes a field of a name, a word
// behind an operator is text). So the parser reads with the functions of this
// file, each of which takes one thing from the text or leaves it alone.

// parser reads one text.
type parser struct {
	src   *source
	s     string
	pos   int
	depth int
}

func isBlank(c byte) bool {
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f' || c == '\b'
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isName(c byte) bool { return isLetter(c) || isDigit(c) || c == '_' }

// isBare reports whether c can stand in text without quotes.
func isBare(c byte) bool { return !isBlank(c) && strings.IndexByte(`()"'=,`, c) < 0 }

// at returns the place from pos to where the parser is.
func (p *parser) at(pos int) Span { return Span{p.src, pos, p.pos} }

// here returns the place of what comes next: a word, a sign, or the end.
func (p *parser) here() Span {
	end := p.pos
	switch {
	case end == len(p.s):
	case isName(p.s[end]):
		for end < len(p.s) && (isName(p.s[end]) || p.s[end] == '.') {
			end++
		}
	case strings.IndexByte(`()[]"',`, p.s[end]) >= 0:
		end++
	default:
		for end < len(p.s) && isBare(p.s[end]) && !isName(p.s[end]) {
			end++
		}
		if end == p.pos { // an = or a blank
			end++
		}
	}
	return Span{p.src, p.pos, end}
}

// peek returns the next byte, 0 at the end.
func (p *parser) peek() byte {
	if p.pos < len(p.s) {
		return p.s[p.pos]
	}
	return 0
}

// blank skips white space and reports whether there was any.
func (p *parser) blank() bool {
	start := p.pos
	for p.pos < len(p.s) && isBlank(p.s[p.pos]) {
		p.pos++
	}
	return p.pos > start
}

// accept takes s if it comes next.
func (p *parser) accept(s string) bool {
	if strings.HasPrefix(p.s[p.pos:], s) {
		p.pos += len(s)
		return true
	}
	return false
}

// name returns the name that comes next, without taking it.
func (p *parser) name() string {
	end := p.pos
	if end < len(p.s) && isLetter(p.s[end]) {
		for end < len(p.s) && isName(p.s[end]) {
			end++
		}
	}
	return p.s[p.pos:end]
}

// dotted returns the name that comes next with all parts joined by dots,
// without taking it.
func (p *parser) dotted() string {
	start := p.pos
	defer func() { p.pos = start }()
	for {
		n := len(p.name())
		p.pos += n
		if n == 0 || p.pos+1 >= len(p.s) || p.s[p.pos] != '.' || !isLetter(p.s[p.pos+1]) {
			return p.s[start:p.pos]
		}
		p.pos++
	}
}

// bare takes text without quotes; it is empty where there is none.
func (p *parser) bare() string {
	start := p.pos
	for p.pos < len(p.s) && isBare(p.s[p.pos]) {
		p.pos++
	}
	return p.s[start:p.pos]
}

// quoted takes text in quotes. It is not to be called but on a quote.
func (p *parser) quoted() (*Value, *Error) {
	start := p.pos
	quote := p.s[start]
	end := start + 1
	// A quote behind a backslash does not end the string, even where that
	// backslash is itself escaped.
	for ; ; end++ {
		if end >= len(p.s) {
			hint := ""
			if strings.Contains(p.s[start+1:], `\`+string(quote)) {
				hint = `a quote behind a backslash does not end a string; write a backslash at the end as \x5c`
			}
			return nil, Span{p.src, start, len(p.s)}.errorf("this string has no closing "+string(quote), hint)
		}
		if p.s[end] == quote && (end == start+1 || p.s[end-1] != '\\') {
			break
		}
	}
	p.pos = end + 1
	text, err := p.unescape(start+1, end, quote)
	if err != nil {
		return nil, err
	}
	return &Value{Span: p.at(start), Text: text, Quoted: true}, nil
}

// unescape returns the text between two quotes.
func (p *parser) unescape(from, to int, quote byte) (string, *Error) {
	if strings.IndexByte(p.s[from:to], '\\') < 0 {
		return p.s[from:to], nil
	}
	b := make([]byte, 0, to-from)
	for i := from; i < to; i++ {
		c := p.s[i]
		if c != '\\' {
			b = append(b, c)
			continue
		}
		i++ // there is a byte: the closing quote does not stand behind a backslash
		switch c := p.s[i]; c {
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case '\\', ' ': // Falco reads "\ " as a backslash, for old rules' sake
			b = append(b, '\\')
		case '/':
			b = append(b, '/')
		case '"', '\'':
			if c != quote {
				return "", Span{p.src, i - 1, i + 1}.errorf(`\`+string(c)+" is not needed in a string between "+string(quote), "write "+string(c)+" alone")
			}
			b = append(b, c)
		case 'x':
			if i+2 >= to || !isHex(p.s[i+1]) || !isHex(p.s[i+2]) {
				return "", Span{p.src, i - 1, min(i+3, to)}.errorf(`\x wants two hexadecimal digits`, "")
			}
			b = append(b, unhex(p.s[i+1])<<4|unhex(p.s[i+2]))
			i += 2
		default:
			return "", Span{p.src, i - 1, i + 1}.errorf(`there is no escape \`+strings.Trim(quoted(string(rune(c))), `"`), `a backslash itself is written \\`)
		}
	}
	return string(b), nil
}

func isHex(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

func unhex(c byte) byte {
	if isDigit(c) {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

// isNumber reports whether s is written as a number: 12, -1, 0x1f, 1.5, 1e+3.
func isNumber(s string) bool {
	if h, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		return h != "" && strings.Trim(h, "0123456789abcdef") == ""
	}
	digits := func() bool {
		n := 0
		for n < len(s) && isDigit(s[n]) {
			n++
		}
		s = s[n:]
		return n > 0
	}
	if s != "" && (s[0] == '+' || s[0] == '-') {
		s = s[1:]
	}
	if !digits() {
		return false
	}
	if s != "" && s[0] == '.' {
		s = s[1:]
		digits()
	}
	if len(s) > 2 && s[0]|0x20 == 'e' && (s[1] == '+' || s[1] == '-') {
		s = s[2:]
		return digits() && s == ""
	}
	return s == ""
}
