package api

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A wildcard is a name in which * stands for any characters: *.example.com.
// Case and a final dot do not count.
type wildcard []string // what stands between the stars

// maxWildcard is the length of the longest name of DNS, with stars.
const maxWildcard = 512

func parseWildcard(text string) (wildcard, error) {
	name := canonicalName(text)
	switch {
	case name == "":
		return nil, errors.New("a name must not be empty")
	case len(name) > maxWildcard:
		return nil, fmt.Errorf("a name has at most %d bytes", maxWildcard)
	case strings.HasSuffix(name, "."):
		return nil, fmt.Errorf("%q ends in several dots", text)
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.*", c) {
			return nil, fmt.Errorf("%q has a character %q, which names do not", text, c)
		}
	}
	return strings.Split(name, "*"), nil
}

func canonicalName(s string) string {
	return strings.ToLower(strings.TrimSuffix(strings.TrimSpace(s), "."))
}

func (w wildcard) match(name string) bool {
	name = canonicalName(name)
	first, last := w[0], w[len(w)-1]
	if len(w) == 1 {
		return name == first
	}
	if len(name) < len(first)+len(last) || !strings.HasPrefix(name, first) || !strings.HasSuffix(name, last) {
		return false
	}
	name = name[len(first) : len(name)-len(last)]
	for _, piece := range w[1 : len(w)-1] {
		_, rest, ok := strings.Cut(name, piece)
		if !ok {
			return false
		}
		name = rest
	}
	return true
}

// A labelSelector picks sets of labels, all of whose requirements they meet. It
// is Kubernetes' language, in which keys may name the source of a label:
// k8s:app=front, reserved:host, env in (a, b), !canary.
type labelSelector []labelRequirement

type labelRequirement struct {
	source string // "" and any for all
	key    string
	op     labelOp
	values []string
	number int64 // of above and below
}

type labelOp uint8

const (
	labelExists labelOp = iota
	labelMissing
	labelIn
	labelNotIn
	labelAbove
	labelBelow
)

// maxSelector bounds selectors, in bytes.
const maxSelector = 4096

func parseLabelSelector(text string) (labelSelector, error) {
	if len(text) > maxSelector {
		return nil, fmt.Errorf("a selector has at most %d bytes", maxSelector)
	}
	p := labelParser{rest: text}
	p.space()
	if p.rest == "" {
		return nil, errors.New("a selector must not be empty")
	}
	var s labelSelector
	for {
		r, err := p.requirement()
		if err != nil {
			return nil, fmt.Errorf("no selector %q: %w", text, err)
		}
		s = append(s, r)
		if p.rest == "" {
			return s, nil
		}
		if !p.take(",") {
			return nil, fmt.Errorf("no selector %q: expected a comma before %q", text, p.rest)
		}
	}
}

func (s labelSelector) match(labels []string) bool {
	for _, r := range s {
		if !r.match(labels) {
			return false
		}
	}
	return true
}

func (r *labelRequirement) match(labels []string) bool {
	value, ok := r.find(labels)
	switch r.op {
	case labelExists:
		return ok
	case labelMissing:
		return !ok
	case labelIn:
		return ok && slices.Contains(r.values, value)
	case labelNotIn:
		return !ok || !slices.Contains(r.values, value)
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if !ok || err != nil {
		return false
	}
	if r.op == labelAbove {
		return n > r.number
	}
	return n < r.number
}

// find returns the value of the label that is meant.
func (r *labelRequirement) find(labels []string) (string, bool) {
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		source, name, ok := strings.Cut(key, ":")
		if !ok {
			source, name = "", key
		}
		if name == r.key && (r.source == "" || r.source == "any" || r.source == source) {
			return value, true
		}
	}
	return "", false
}

// labelParser reads a selector from the left.
type labelParser struct{ rest string }

func (p *labelParser) space() { p.rest = strings.TrimLeft(p.rest, " \t\r\n") }

// take takes a token, and blanks behind it, if it is next.
func (p *labelParser) take(token string) bool {
	rest, ok := strings.CutPrefix(p.rest, token)
	if ok {
		p.rest = rest
		p.space()
	}
	return ok
}

// word takes what has no blank and no punctuation of the language in it, and
// blanks behind it.
func (p *labelParser) word() string {
	end := strings.IndexAny(p.rest, " \t\r\n,=!<>()")
	if end < 0 {
		end = len(p.rest)
	}
	w := p.rest[:end]
	p.rest = p.rest[end:]
	p.space()
	return w
}

func (p *labelParser) requirement() (labelRequirement, error) {
	p.space()
	not := p.take("!")
	word := p.word()
	r := labelRequirement{key: word}
	if source, key, ok := strings.Cut(word, ":"); ok {
		r.source, r.key = source, key
	}
	if r.key == "" || strings.Contains(r.key, ":") {
		return r, fmt.Errorf("expected a key before %q", p.rest)
	}
	if not {
		r.op = labelMissing
		return r, nil
	}
	switch {
	case p.take("=="), p.take("="):
		r.op, r.values = labelIn, []string{p.word()}
	case p.take("!="):
		r.op, r.values = labelNotIn, []string{p.word()}
	case p.take(">"):
		r.op = labelAbove
		return r, p.bound(&r)
	case p.take("<"):
		r.op = labelBelow
		return r, p.bound(&r)
	case p.rest == "" || p.rest[0] == ',':
		r.op = labelExists
	default:
		return r, p.set(&r)
	}
	return r, nil
}

// bound reads the number behind > or <.
func (p *labelParser) bound(r *labelRequirement) error {
	text := p.word()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("%q is no whole number", text)
	}
	r.number = n
	return nil
}

// set reads in (a, b) and notin (a, b).
func (p *labelParser) set(r *labelRequirement) error {
	switch op := p.word(); op {
	case "in":
		r.op = labelIn
	case "notin":
		r.op = labelNotIn
	default:
		return fmt.Errorf("expected in, notin or a sign behind %q, not %q", r.key, op+p.rest)
	}
	if !p.take("(") {
		return fmt.Errorf("expected ( behind in and notin")
	}
	for {
		r.values = append(r.values, p.word())
		switch {
		case p.take(")"):
			return nil
		case !p.take(","):
			return fmt.Errorf("expected a comma or ) before %q", p.rest)
		}
	}
}
