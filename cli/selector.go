package cli

import (
	"fmt"
	"strings"

	"warren/filter"
)

// A requirement is one part of a label selector.
type requirement struct {
	key    string
	op     selectorOp
	values []string
}

type selectorOp uint8

// The operators of selectors. Those that deny hold where the label is missing.
const (
	opExists selectorOp = iota + 1
	opAbsent
	opIn
	opNotIn
)

// condition returns the requirement in the language of filters.
func (r *requirement) condition() string {
	field := "k8s.pod.labels[" + quoteText(r.key) + "]"
	in := func() string {
		if len(r.values) == 1 {
			return field + " = " + quoteText(r.values[0])
		}
		quoted := make([]string, len(r.values))
		for i, v := range r.values {
			quoted[i] = quoteText(v)
		}
		return field + " in (" + strings.Join(quoted, ", ") + ")"
	}
	switch r.op {
	case opExists:
		return field + " exists"
	case opAbsent:
		return "not " + field + " exists"
	case opIn:
		return in()
	}
	return "not " + in()
}

// quoteText returns text as a value of the language of filters. What names in
// Kubernetes are made of needs no escapes.
func quoteText(s string) string { return `"` + s + `"` }

// A selectorParser reads a label selector as kubectl's -l takes it: requirements
// that are all to hold, separated by commas.
//
//	app=shop, app==shop      the label has the value
//	app!=shop                it has not, or there is none
//	tier in (front, back)    it has one of the values
//	tier notin (front)       it has none of them, or there is none
//	app, !app                there is such a label, or there is none
type selectorParser struct {
	text string
	pos  int
}

// parseSelector understands a selector; one that is empty has no requirements.
// Its errors are those of a filter: they name the place.
func parseSelector(text string) ([]requirement, error) {
	p := selectorParser{text: text}
	p.space()
	if p.pos == len(p.text) {
		return nil, nil
	}
	var list []requirement
	for {
		r, err := p.requirement()
		if err != nil {
			return nil, err
		}
		list = append(list, *r)
		if p.space(); p.pos == len(p.text) {
			return list, nil
		}
		if p.text[p.pos] != ',' {
			return nil, p.wrong(p.pos, p.pos+1, "expected a comma or the end of the selector", "")
		}
		p.pos++
	}
}

// wrong says what is wrong with a part of the selector.
func (p *selectorParser) wrong(pos, end int, msg, hint string) error {
	return &filter.Error{Expr: p.text, Pos: pos, End: min(end, len(p.text)), Msg: "label selector: " + msg, Hint: hint}
}

func (p *selectorParser) space() {
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.pos]) >= 0 {
		p.pos++
	}
}

// take consumes a piece of punctuation, if it comes next.
func (p *selectorParser) take(what string) bool {
	if p.space(); strings.HasPrefix(p.text[p.pos:], what) {
		p.pos += len(what)
		return true
	}
	return false
}

// word consumes what ends at a blank or at punctuation, which may be nothing.
func (p *selectorParser) word() (word string, pos int) {
	p.space()
	pos = p.pos
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n,()=!<>", p.text[p.pos]) < 0 {
		p.pos++
	}
	return p.text[pos:p.pos], pos
}

func (p *selectorParser) requirement() (*requirement, error) {
	r := &requirement{op: opExists}
	if p.take("!") {
		r.op = opAbsent
	}
	key, pos := p.word()
	if why := badLabelKey(key); why != "" {
		return nil, p.wrong(pos, max(p.pos, pos+1), why, "")
	}
	r.key = key
	if r.op == opAbsent {
		return r, nil
	}
	switch p.space(); {
	case p.take("!="):
		r.op = opNotIn
	case p.take("=="), p.take("="):
		r.op = opIn
	case p.take("<"), p.take(">"):
		return nil, p.wrong(p.pos-1, p.pos, "labels are text and are not compared by size", "write =, !=, in or notin")
	default:
		return p.set(r)
	}
	value, err := p.value()
	r.values = []string{value}
	return r, err
}

// set reads in (a, b) and notin (a, b), or nothing.
func (p *selectorParser) set(r *requirement) (*requirement, error) {
	begin := p.pos
	word, pos := p.word()
	switch word {
	case "in":
		r.op = opIn
	case "notin":
		r.op = opNotIn
	case "":
		p.pos = begin
		return r, nil
	default:
		return nil, p.wrong(pos, p.pos, fmt.Sprintf("%q is no operator", word), "write =, !=, in or notin")
	}
	if !p.take("(") {
		return nil, p.wrong(p.pos, p.pos+1, word+" wants values in parentheses", "write "+r.key+" "+word+" (a, b)")
	}
	for {
		value, err := p.value()
		if err != nil {
			return nil, err
		}
		r.values = append(r.values, value)
		switch {
		case p.take(")"):
			return r, nil
		case !p.take(","):
			return nil, p.wrong(p.pos, p.pos+1, "expected a comma or a closing parenthesis", "")
		}
	}
}

// value reads a value, which may be empty.
func (p *selectorParser) value() (string, error) {
	value, pos := p.word()
	if why := badLabelName(value); value != "" && why != "" {
		return "", p.wrong(pos, p.pos, "the value "+why, "")
	}
	return value, nil
}

// The most that Kubernetes allows, in bytes.
const (
	maxLabelName   = 63
	maxLabelPrefix = 253
)

// badLabelKey says why no label can have a key, "" if one can.
func badLabelKey(key string) string {
	if key == "" {
		return "expected the key of a label"
	}
	prefix, name, both := strings.Cut(key, "/")
	if !both {
		prefix, name = "", key
	}
	switch why := badLabelName(name); {
	case why != "":
		return "the key " + why
	case both && badSubdomain(prefix):
		return fmt.Sprintf("%q in front of the slash is no domain name in lower case", prefix)
	}
	return ""
}

// badLabelName says why text can be neither a value nor the name part of a key.
func badLabelName(s string) string {
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '-' && c != '_' && c != '.' {
			return "has what no label has: letters, digits, -, _ and . are allowed"
		}
	}
	switch {
	case s == "":
		return "is empty"
	case len(s) > maxLabelName:
		return fmt.Sprintf("has %d bytes, labels have %d at most", len(s), maxLabelName)
	case !isAlnum(s[0]) || !isAlnum(s[len(s)-1]):
		return "does not begin and end with a letter or a digit"
	}
	return ""
}

// badSubdomain reports whether s is no DNS name as Kubernetes has them.
func badSubdomain(s string) bool {
	for part := range strings.SplitSeq(s, ".") {
		if badNamespace(part) {
			return true
		}
	}
	return len(s) > maxLabelPrefix
}

// badNamespace reports whether no namespace, nor a part of a node's name, can
// have a name.
func badNamespace(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' || !isAlnum(c) && c != '-' {
			return true
		}
	}
	return s == "" || len(s) > maxLabelName || s[0] == '-' || s[len(s)-1] == '-'
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
