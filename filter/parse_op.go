package filter

import (
	"slices"
	"strings"
)

// signs are the operators that are not words, longest first.
var signs = []struct {
	text string
	op   Op
}{{"<=", Le}, {"<", Lt}, {">=", Ge}, {">", Gt}, {"==", Eq}, {"=", Eq}, {"!=", Ne}}

// wrongOps are operators of other languages, and what to write instead.
var wrongOps = []struct{ text, hint string }{
	{"=~", "write regex to match a regular expression"},
	{"!~", "write not ... regex to refuse a regular expression"},
	{"~=", "write regex to match a regular expression"},
	{"<>", "write != for unequal"},
	{"===", "write ="},
	{"!==", "write !="},
	{"~", "write regex, glob or contains"},
	{"!", "write != for unequal, and not before a condition"},
	{":", "write = or contains"},
}

var wrongWords = map[string]string{
	"is": "write = or exists", "equals": "write =", "eq": "write =", "ne": "write !=", "gt": "write >", "lt": "write <", "ge": "write >=", "le": "write <=",
	"like": "write contains, glob or regex", "matches": "write regex or glob", "match": "write regex or glob", "has": "write contains", "includes": "write contains",
	"starts_with": "write startswith", "ends_with": "write endswith", "begins": "write startswith",
	"and": "", "or": "",
}

// operator takes the operator behind left.
func (p *parser) operator(left Operand) (Op, Span, *Error) {
	start := p.pos
	wrong := func(hint string) *Error {
		msg := "expected an operator behind " + quoted(string(left.append(nil)))
		return p.here().errorf(msg, hint)
	}
	if word := p.name(); word != "" {
		if i := slices.Index(opNames[:], word); i > 0 {
			p.pos += len(word)
			at := p.at(start)
			switch c := p.peek(); {
			case Op(i) == Exists && (p.pos == len(p.s) || isBlank(c) || c == ')'), Op(i) != Exists && isBlank(c), Op(i).list() && c == '(', p.pos == len(p.s):
				return Op(i), at, nil
			case Op(i) == Exists:
				return 0, Span{}, at.errorf("exists wants nothing behind it", "")
			}
			return 0, Span{}, at.errorf(word+" wants a blank behind it", "")
		}
		hint, known := wrongWords[word]
		if word == "not" {
			hint, known = "write not before the field: not "+quoted(string(left.append(nil)))+" ...", true
		}
		if !known {
			if lower := strings.ToLower(word); lower != word && slices.Contains(opNames[:], lower) {
				hint = "operators are written in lower case: " + lower
			} else {
				hint = suggestOf(word, opNames[Exists:])
			}
		} else if hint == "" {
			hint = "a field alone is no condition: write exists behind it, or = true"
		}
		return 0, Span{}, wrong(hint)
	}
	for _, w := range wrongOps {
		if !p.accept(w.text) {
			continue
		}
		// What begins like an operator of ours is wrong only where it stands
		// alone: in "fd.name =~/x" the value is ~/x.
		if alone := p.pos == len(p.s) || isBlank(p.peek()); alone || strings.IndexByte("~:", w.text[0]) >= 0 || w.text[len(w.text)-1] == '=' && len(w.text) == 3 || w.text == "<>" {
			return 0, Span{}, p.at(start).errorf("there is no operator "+w.text, w.hint)
		}
		p.pos = start
	}
	for _, s := range signs {
		if p.accept(s.text) {
			return s.op, p.at(start), nil
		}
	}
	if p.pos == len(p.s) || p.peek() == ')' {
		return 0, Span{}, wrong("a field alone is no condition: write exists behind it, or = true")
	}
	return 0, Span{}, wrong("")
}

// noCondition is the error where a condition should begin and none does.
func (p *parser) noCondition() *Error {
	switch rest := p.s[p.pos:]; {
	case rest == "":
		return p.here().errorf("expected a condition", "")
	case rest[0] == '!':
		return p.here().errorf("expected a condition", "write not instead of !")
	case rest[0] == '%' || rest[0] == '$':
		return p.here().errorf("expected a condition", "write the field's name alone")
	case rest[0] == '"' || rest[0] == '\'' || isDigit(rest[0]):
		return p.here().errorf("expected a condition", "the field stands left of the operator")
	case rest[0] == ')':
		return p.here().errorf("expected a condition before )", "")
	}
	return p.here().errorf("expected a condition", "")
}

// leftover is the error where a condition has ended and something else than
// and, or or ) follows.
func (p *parser) leftover() *Error {
	at := p.here()
	word := p.s[at.Pos:at.End]
	before := strings.TrimRight(p.s[:at.Pos], " \t\r\n")
	last := strings.ToLower(before[strings.LastIndexFunc(before, func(r rune) bool { return !isName(byte(r)) || r > 0x7f })+1:])
	hint := ""
	switch strings.ToLower(word) {
	case "&&", "&", "and":
		hint = "write and"
	case "||", "|", "or":
		hint = "write or"
	case ")":
		if p.depth == 0 {
			return at.errorf("this ) closes nothing", "")
		}
	case ",", "=":
		hint = "put text with = or commas in quotes"
	case "not":
		hint = "write and not"
	}
	switch {
	case strings.HasSuffix(before, "=<"):
		hint = "write <="
	case strings.HasSuffix(before, "=>"):
		hint = "write >="
	case word == "(" && slices.Contains(modNames[1:], last):
		hint = "oneof, anyof and allof stand in small letters behind an operator for text, between blanks: = anyof (a, b)"
	case word == "(" && slices.Contains(transformers, last):
		hint = "write no blank before the parenthesis of " + last + "()"
	}
	if p.depth > 0 {
		return at.errorf(`expected "and", "or" or ")"`, hint)
	}
	return at.errorf(`expected "and", "or" or the end`, hint)
}
