package filter

import (
	"cmp"
	"encoding/hex"
	"errors"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// matchText returns how text is matched against constants. With neither a
// modifier nor a list operator there is one constant.
func matchText(op Op, mod Mod, vs []*Value) (func(string) bool, *Error) {
	texts := make([]string, len(vs))
	for i, v := range vs {
		texts[i] = v.Text
	}
	switch {
	case op == In, op == Intersects, op == Eq && mod == AnyOf:
		return textSet(texts), nil
	case op == Ne && mod == AllOf:
		in := textSet(texts)
		return func(s string) bool { return !in(s) }, nil
	case op == Pmatch:
		return newPathTree(texts).match, nil
	case (op == StartsWith || op == BStartsWith) && mod == AnyOf:
		if op == BStartsWith {
			for i, v := range vs {
				var err *Error
				if texts[i], err = unhexText(op, v); err != nil {
					return nil, err
				}
			}
		}
		return prefixSet(texts), nil
	case mod != NoMod:
		fs := make([]func(string) bool, len(vs))
		for i := range vs {
			var err *Error
			if fs[i], err = matchText(op, NoMod, vs[i:i+1]); err != nil {
				return nil, err
			}
		}
		return counted(mod, fs), nil
	}
	switch v := vs[0].Text; op {
	case Eq:
		return func(s string) bool { return s == v }, nil
	case Ne:
		return func(s string) bool { return s != v }, nil
	case Lt:
		return func(s string) bool { return s < v }, nil
	case Le:
		return func(s string) bool { return s <= v }, nil
	case Gt:
		return func(s string) bool { return s > v }, nil
	case Ge:
		return func(s string) bool { return s >= v }, nil
	case Contains:
		return func(s string) bool { return strings.Contains(s, v) }, nil
	case StartsWith:
		return func(s string) bool { return strings.HasPrefix(s, v) }, nil
	case EndsWith:
		return func(s string) bool { return strings.HasSuffix(s, v) }, nil
	case IContains:
		v = lowerText(v)
		return func(s string) bool { return containsFold(s, v) }, nil
	case Glob:
		return compileGlob(v, false), nil
	case IGlob:
		return compileGlob(v, true), nil
	case BContains, BStartsWith:
		raw, err := unhexText(op, vs[0])
		if err != nil {
			return nil, err
		}
		if op == BContains {
			return func(s string) bool { return strings.Contains(s, raw) }, nil
		}
		return func(s string) bool { return strings.HasPrefix(s, raw) }, nil
	case Regex:
		return compileRegex(vs[0])
	}
	panic("filter: no way to match text by " + op.String())
}

// unhexText returns the bytes that v gives in hexadecimal.
func unhexText(op Op, v *Value) (string, *Error) {
	b, err := hex.DecodeString(v.Text)
	if err != nil || len(b) == 0 {
		return "", v.errorf(op.String()+" compares with bytes in hexadecimal, two digits each, not "+quoted(v.Text), "")
	}
	return string(b), nil
}

// textSet holds for one of texts.
func textSet(texts []string) func(string) bool {
	const few = 4
	texts = slices.Clone(texts)
	slices.Sort(texts)
	texts = slices.Compact(texts)
	if len(texts) == 1 {
		one := texts[0]
		return func(s string) bool { return s == one }
	}
	if len(texts) <= few {
		return func(s string) bool {
			for _, t := range texts {
				if s == t {
					return true
				}
			}
			return false
		}
	}
	set := setOf(texts)
	shortest := len(slices.MinFunc(texts, func(a, b string) int { return cmp.Compare(len(a), len(b)) }))
	longest := len(slices.MaxFunc(texts, func(a, b string) int { return cmp.Compare(len(a), len(b)) }))
	return func(s string) bool { return len(s) >= shortest && len(s) <= longest && set[s] }
}

// prefixSet holds for what begins with one of prefixes.
func prefixSet(prefixes []string) func(string) bool {
	sorted := slices.Clone(prefixes)
	slices.Sort(sorted)
	// Without those that another one begins, only the last prefix that is not
	// greater than s can begin s: all texts between a prefix of s and s begin
	// with that prefix.
	least := sorted[:1]
	for _, p := range sorted[1:] {
		if !strings.HasPrefix(p, least[len(least)-1]) {
			least = append(least, p)
		}
	}
	return func(s string) bool {
		i, found := slices.BinarySearch(least, s)
		return found || i > 0 && strings.HasPrefix(s, least[i-1])
	}
}

// lower folds a letter of ASCII; other bytes stay, as in the kernel's locale.
func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c &^ 0x20
	}
	return c
}

func lowerText(s string) string {
	b := []byte(s)
	for i, c := range b {
		b[i] = lower(c)
	}
	return string(b)
}

// containsFold reports whether s contains sub, which is in lower case, in any
// case.
func containsFold(s, sub string) bool {
	if sub == "" {
		return true
	}
	first := sub[0]
next:
	for i := 0; i+len(sub) <= len(s); i++ {
		if lower(s[i]) != first {
			continue
		}
		for j := 1; j < len(sub); j++ {
			if lower(s[i+j]) != sub[j] {
				continue next
			}
		}
		return true
	}
	return false
}

// maxStates is how many states all regular expressions of one expression can
// have together: repetitions make many of little text.
const maxStates = 100_000

// countStates checks that regular expressions are correct and not too large.
func (c *compiler) countStates(vs []*Value) *Error {
	for _, v := range vs {
		re, err := syntax.Parse(v.Text, syntax.Perl)
		if err != nil {
			return badRegex(v, err)
		}
		prog, err := syntax.Compile(re.Simplify())
		if err != nil {
			return badRegex(v, err)
		}
		if c.states -= len(prog.Inst); c.states < 0 {
			return v.errorf("the regular expressions of this expression are too large together", "")
		}
	}
	return nil
}

// badRegex is the error for a regular expression that is none.
func badRegex(v *Value, err error) *Error {
	at := v.Span
	msg := err.Error()
	if e := (*syntax.Error)(nil); errors.As(err, &e) {
		msg = e.Code.String()
		// Point at the part, where the text is as it was written.
		if i := strings.Index(v.Text, e.Expr); e.Expr != "" && i >= 0 && v.src != nil {
			if off := strings.Index(v.src.text[v.Pos:v.End], v.Text); off >= 0 {
				at.Pos, at.End = v.Pos+off+i, v.Pos+off+i+len(e.Expr)
			}
		}
	}
	return at.errorf("no regular expression: "+msg, "")
}

// compileRegex returns how text is matched against a regular expression: as a
// whole. ^ and $ also stand for the ends of lines, as in Falco. countStates has
// seen that v alone is correct.
func compileRegex(v *Value) (func(string) bool, *Error) {
	re, err := regexp.Compile(`\A(?m:` + v.Text + `)\z`)
	if err != nil {
		return nil, badRegex(v, err)
	}
	return re.MatchString, nil
}
