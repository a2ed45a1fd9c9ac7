package filter

import (
	"fmt"
	"slices"
	"strings"
)

const (
	maxLength = 1 << 20 // bytes of an expression
	maxDepth  = 100     // parentheses and calls inside each other
)

// Parse reads a condition. Fields and values are not checked: that is
// [CompileExpr]'s. The error is an *[Error].
func Parse(text string) (Expr, error) {
	x, err := parse(text)
	if err != nil {
		return nil, err
	}
	return x, nil
}

func parse(text string) (Expr, *Error) {
	if len(text) > maxLength {
		return nil, &Error{Expr: text, Pos: maxLength, End: maxLength, Msg: fmt.Sprintf("the expression is longer than %d bytes", maxLength)}
	}
	p := &parser{src: &source{text}, s: text}
	p.blank()
	if p.pos == len(p.s) {
		return nil, p.here().errorf("the expression is empty", "")
	}
	x, err := p.or()
	if err != nil {
		return nil, err
	}
	if p.pos < len(p.s) {
		return nil, p.leftover()
	}
	return x, nil
}

// enter counts one level of nesting. leave must follow if it succeeded.
func (p *parser) enter() *Error {
	if p.depth++; p.depth > maxDepth {
		return p.here().errorf(fmt.Sprintf("more than %d parentheses inside each other", maxDepth), "")
	}
	return nil
}

func (p *parser) leave() { p.depth-- }

// or reads conditions joined by or, and the blanks behind them.
func (p *parser) or() (Expr, *Error) {
	first, err := p.and()
	if err != nil {
		return nil, err
	}
	xs := []Expr{first}
	for {
		if ok, err := p.keyword("or"); err != nil {
			return nil, err
		} else if !ok {
			break
		}
		x, err := p.and()
		if err != nil {
			return nil, err
		}
		xs = append(xs, x)
	}
	if len(xs) == 1 {
		return first, nil
	}
	return &Or{first.span().to(xs[len(xs)-1].span()), xs}, nil
}

func (p *parser) and() (Expr, *Error) {
	first, err := p.not()
	if err != nil {
		return nil, err
	}
	xs := []Expr{first}
	for {
		if ok, err := p.keyword("and"); err != nil {
			return nil, err
		} else if !ok {
			break
		}
		x, err := p.not()
		if err != nil {
			return nil, err
		}
		xs = append(xs, x)
	}
	if len(xs) == 1 {
		return first, nil
	}
	return &And{first.span().to(xs[len(xs)-1].span()), xs}, nil
}

func (p *parser) not() (Expr, *Error) {
	p.blank()
	start, negated := p.pos, false
	for {
		if ok, err := p.keyword("not"); err != nil {
			return nil, err
		} else if !ok {
			break
		}
		negated = !negated
	}
	x, err := p.primary()
	if err != nil {
		return nil, err
	}
	p.blank()
	if negated {
		if twice, ok := x.(*Not); ok {
			return twice.X, nil
		}
		return &Not{Span{p.src, start, x.span().End}, x}, nil
	}
	return x, nil
}

// keyword takes word if it comes next, with a blank or a parenthesis behind it.
func (p *parser) keyword(word string) (bool, *Error) {
	p.blank()
	if p.name() != word || strings.HasPrefix(p.s[p.pos+len(word):], ".") {
		return false, nil
	}
	start := p.pos
	p.pos += len(word)
	if p.blank() || p.peek() == '(' {
		return true, nil
	}
	if p.pos == len(p.s) {
		return false, p.here().errorf("expected a condition behind "+word, "")
	}
	return false, p.at(start).errorf(word+" wants a blank or a parenthesis behind it", "")
}

// primary reads a condition without and, or and not.
func (p *parser) primary() (Expr, *Error) {
	p.blank()
	if start := p.pos; p.accept("(") {
		if err := p.enter(); err != nil {
			return nil, err
		}
		x, err := p.or()
		if err != nil {
			return nil, err
		}
		p.leave()
		if !p.accept(")") {
			if p.pos < len(p.s) {
				return nil, p.leftover()
			}
			return nil, Span{p.src, start, start + 1}.errorf("this parenthesis is not closed", "")
		}
		return x, nil
	}

	start := p.pos
	name := p.name()
	switch {
	case name == "":
		return nil, p.noCondition()
	case name == "and" || name == "or":
		return nil, p.here().errorf("expected a condition, not "+name, "")
	case name != "not" && strings.ToLower(name) == "not":
		return nil, p.here().errorf("expected a condition", "write not")
	case name == "val" && strings.HasPrefix(p.s[p.pos:], "val("):
		return nil, p.here().errorf("val() stands on the right of an operator only", "on the left write the field alone")
	}
	if dotted := p.dotted(); dotted != name {
		left, err := p.field()
		if err != nil {
			return nil, err
		}
		return p.check(left)
	}
	p.pos += len(name)
	if p.peek() == '(' {
		p.pos = start
		left, err := p.call()
		if err != nil {
			return nil, err
		}
		return p.check(left)
	}
	m := &Macro{p.at(start), name}
	after := p.pos
	p.blank()
	if p.operatorFollows() {
		return nil, m.errorf("no field "+name, SuggestField(name))
	}
	p.pos = after
	return m, nil
}

// operatorFollows reports whether an operator comes next.
func (p *parser) operatorFollows() bool {
	if strings.IndexByte("=<>", p.peek()) >= 0 || strings.HasPrefix(p.s[p.pos:], "!=") {
		return p.pos < len(p.s)
	}
	return slices.Contains(opNames[1:], p.name()) && p.name() != ""
}

// field reads a field's name and what stands in brackets behind it.
func (p *parser) field() (*Field, *Error) {
	start := p.pos
	name := p.dotted()
	for _, f := range dottedKeys {
		if strings.HasPrefix(name, f+".") {
			return p.dottedKey(f), nil
		}
	}
	p.pos += len(name)
	arg, err := p.arg()
	if err != nil {
		return nil, err
	}
	return &Field{p.at(start), name, arg}, nil
}

// dottedKeys are fields whose key can follow a dot, as rules of Falco have it. A
// key goes on to the next character that no key has.
var dottedKeys = []string{"evt.type.is", "container.label", "k8s.pod.label", "k8s.ns.label"}

// dottedKey reads such a field.
func (p *parser) dottedKey(name string) *Field {
	start := p.pos
	p.pos += len(name) + 1
	key := p.pos
	for p.pos < len(p.s) && (isLetter(p.s[p.pos]) || strings.IndexByte("0123456789._-/", p.s[p.pos]) >= 0) {
		p.pos++
	}
	for strings.IndexByte("._-/", p.s[p.pos-1]) >= 0 && p.pos > key {
		p.pos-- // the end of a sentence
	}
	return &Field{Span: p.at(start), Name: name, Arg: &Value{Span: p.at(key), Text: p.s[key:p.pos]}}
}

// arg reads [x] or ["x"]. It returns nil where there is no bracket.
func (p *parser) arg() (*Value, *Error) {
	open := p.pos
	if !p.accept("[") {
		return nil, nil
	}
	var v *Value
	if c := p.peek(); c == '"' || c == '\'' {
		var err *Error
		if v, err = p.quoted(); err != nil {
			return nil, err
		}
	} else {
		start := p.pos
		for p.pos < len(p.s) && !isBlank(p.s[p.pos]) && strings.IndexByte(`[]"'`, p.s[p.pos]) < 0 {
			p.pos++
		}
		if p.pos == start {
			return nil, p.here().errorf("expected a number or a key in brackets, without blanks", "")
		}
		v = &Value{Span: p.at(start), Text: p.s[start:p.pos]}
	}
	if !p.accept("]") {
		return nil, p.at(open).errorf("this bracket is not closed", "")
	}
	return v, nil
}

// check reads the operator behind an operand, and its right side.
func (p *parser) check(left Operand) (Expr, *Error) {
	p.blank()
	op, at, err := p.operator(left)
	if err != nil {
		return nil, err
	}
	c := &Check{Left: left, Op: op, OpAt: at}
	spaced := p.blank()
	switch {
	case op == Exists:
		p.pos = at.End
	case op.list():
		c.Right, err = p.listOrCall(op)
	default:
		if spaced && !op.numeric() {
			c.Mod = p.modifier()
		}
		if c.Mod != NoMod {
			p.blank()
			c.Right, err = p.listOrCall(op)
		} else {
			c.Right, err = p.valueOrCall(op)
		}
	}
	if err != nil {
		return nil, err
	}
	c.Span = left.span().to(p.at(p.pos))
	return c, nil
}

// modifier takes a modifier if one comes next: a word that a list follows.
func (p *parser) modifier() Mod {
	word := p.name()
	mod := Mod(max(slices.Index(modNames[:], word), 0))
	if word == "" || mod == NoMod {
		return NoMod
	}
	start := p.pos
	p.pos += len(word)
	end := p.pos
	if p.blank() {
		next := p.name()
		if p.peek() == '(' || next != "" && next != "and" && next != "or" && next != "not" {
			p.pos = end
			return mod
		}
	}
	p.pos = start
	return NoMod
}
