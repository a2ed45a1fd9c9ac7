package filter

import "strings"

// A glob is a pattern as fnmatch(3) of the C locale reads it, without flags: *
// and ? also match a slash and a leading dot, and what is matched are bytes.
type glob []globPart

// A globPart matches one byte, or any number of them.
type globPart struct {
	kind globKind
	lit  byte
	set  *[256]bool
}

type globKind uint8

const (
	globLit globKind = iota
	globAny          // ?
	globSet          // [...]
	globStar
	globNever // a backslash at the end
)

// parseGlob reads a pattern. With fold, letters of ASCII match in any case.
func parseGlob(pattern string, fold bool) glob {
	var g glob
	for i := 0; i < len(pattern); {
		var part globPart
		part, i = readGlob(pattern, i, fold, new([256]bool))
		if part.kind != globStar || len(g) == 0 || g[len(g)-1].kind != globStar {
			g = append(g, part)
		}
	}
	return g
}

// readGlob reads the part of a pattern that begins at i, and returns where the
// next one does. A set is put into set.
func readGlob(pattern string, i int, fold bool, set *[256]bool) (globPart, int) {
	c := pattern[i]
	switch c {
	case '*':
		return globPart{kind: globStar}, i + 1
	case '?':
		return globPart{kind: globAny}, i + 1
	case '[':
		if end := readGlobSet(pattern, i, fold, set); end > 0 {
			return globPart{kind: globSet, set: set}, end
		}
	case '\\':
		if i++; i == len(pattern) {
			return globPart{kind: globNever}, i
		}
		c = pattern[i]
	}
	if fold && lower(c) != upper(c) {
		*set = [256]bool{}
		set[lower(c)], set[upper(c)] = true, true
		return globPart{kind: globSet, set: set}, i + 1
	}
	return globPart{lit: c}, i + 1
}

// globClasses are the classes of characters of the C locale.
var globClasses = map[string]func(c byte) bool{
	"alnum":  func(c byte) bool { return isLetter(c) || isDigit(c) },
	"alpha":  isLetter,
	"blank":  func(c byte) bool { return c == ' ' || c == '\t' },
	"cntrl":  func(c byte) bool { return c < ' ' || c == 0x7f },
	"digit":  isDigit,
	"graph":  func(c byte) bool { return c > ' ' && c < 0x7f },
	"lower":  func(c byte) bool { return 'a' <= c && c <= 'z' },
	"print":  func(c byte) bool { return c >= ' ' && c < 0x7f },
	"punct":  func(c byte) bool { return c > ' ' && c < 0x7f && !isLetter(c) && !isDigit(c) },
	"space":  func(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' },
	"upper":  func(c byte) bool { return 'A' <= c && c <= 'Z' },
	"xdigit": isHex,
}

// readGlobSet reads a bracket expression that begins at start and returns where
// it ends, 0 where it is not closed: then the bracket stands for itself. The C
// locale has no collating symbols worth reading: [.a.] and [=a=] are plain bytes.
func readGlobSet(s string, start int, fold bool, set *[256]bool) (end int) {
	i := start + 1
	negated := i < len(s) && (s[i] == '!' || s[i] == '^')
	if negated {
		i++
	}
	*set = [256]bool{}
	add := func(c byte) {
		set[c] = true
		if fold {
			set[lower(c)], set[upper(c)] = true, true
		}
	}
	one := func() (c byte, ok bool) { // a byte that can begin or end a range
		if i < len(s) && s[i] == '\\' {
			i++
		}
		if i >= len(s) {
			return 0, false
		}
		c = s[i]
		i++
		return c, true
	}
	for first := true; ; first = false {
		if i >= len(s) {
			return 0
		}
		if s[i] == ']' && !first {
			break
		}
		if strings.HasPrefix(s[i:], "[:") {
			if n := strings.Index(s[i+2:], ":]"); n >= 0 {
				if in, ok := globClasses[s[i+2:i+2+n]]; ok {
					for c := range 256 {
						if in(byte(c)) {
							add(byte(c))
						}
					}
					i += n + 4
					continue
				}
			}
		}
		from, ok := one()
		if !ok {
			return 0
		}
		to := from
		if i+1 < len(s) && s[i] == '-' && s[i+1] != ']' {
			i++
			if to, ok = one(); !ok {
				return 0
			}
		}
		if fold {
			from, to = lower(from), lower(to)
		}
		for c := int(from); c <= int(to); c++ {
			if fold && lower(byte(c)) != byte(c) {
				continue // what is compared is in lower case, so it is never this
			}
			add(byte(c))
		}
	}
	if negated {
		for c := range set {
			set[c] = !set[c]
		}
	}
	return i + 1
}

func (p globPart) match(c byte) bool {
	switch p.kind {
	case globLit:
		return p.lit == c
	case globAny:
		return true
	case globSet:
		return p.set[c]
	}
	return false
}

// match reports whether the pattern is all of s. After a mismatch only the last
// star is tried again, one byte further: the time is at most that of the length
// of s times that of the pattern.
func (g glob) match(s string) bool {
	star, from := -1, 0
	i, j := 0, 0
	for i < len(s) {
		switch {
		case j < len(g) && g[j].kind == globStar:
			star, from = j, i
			j++
		case j < len(g) && g[j].match(s[i]):
			i++
			j++
		case star >= 0:
			from++
			i, j = from, star+1
		default:
			return false
		}
	}
	for j < len(g) && g[j].kind == globStar {
		j++
	}
	return j == len(g)
}

// matchGlob reports whether pattern is all of s, for patterns that are known
// only now.
func matchGlob(pattern, s string, fold bool) bool {
	var set [256]bool
	star, from := -1, 0
	i, j := 0, 0
	for i < len(s) {
		if j < len(pattern) {
			part, next := readGlob(pattern, j, fold, &set)
			if part.kind == globStar {
				star, from = next, i
				j = next
				continue
			}
			if part.match(s[i]) {
				i++
				j = next
				continue
			}
		}
		if star < 0 {
			return false
		}
		from++
		i, j = from, star
	}
	for j < len(pattern) && pattern[j] == '*' {
		j++
	}
	return j == len(pattern)
}

// literals returns the text of g if it consists of literals alone.
func (g glob) literals() (string, bool) {
	b := make([]byte, len(g))
	for i, p := range g {
		if p.kind != globLit {
			return "", false
		}
		b[i] = p.lit
	}
	return string(b), true
}

// compileGlob returns how text is matched against a pattern; for the common
// ones, with a star at an end only, without going through it by bytes.
func compileGlob(pattern string, fold bool) func(string) bool {
	g := parseGlob(pattern, fold)
	inner := g
	head := len(inner) > 0 && inner[0].kind == globStar
	if head {
		inner = inner[1:]
	}
	tail := len(inner) > 0 && inner[len(inner)-1].kind == globStar
	if tail {
		inner = inner[:len(inner)-1]
	}
	text, ok := inner.literals()
	switch {
	case !ok:
		return g.match
	case head && (tail || text == ""):
		return func(s string) bool { return strings.Contains(s, text) }
	case head:
		return func(s string) bool { return strings.HasSuffix(s, text) }
	case tail:
		return func(s string) bool { return strings.HasPrefix(s, text) }
	}
	return func(s string) bool { return s == text }
}
