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
		return nil, m.errorf("no field "+name, suggestField(name))
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
	p.pos += len(name)
	arg, err := p.arg()
	if err != nil {
		return nil, err
	}
	return &Field{p.at(start), name, arg}, nil
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

// valueOrCall reads one value, a transformer or val().
func (p *parser) valueOrCall(op Op) (Operand, *Error) {
	if c, err := p.rightCall(); c != nil || err != nil {
		return c, err
	}
	if op.numeric() && (p.peek() == '"' || p.peek() == '\'') {
		return nil, p.here().errorf(op.String()+" compares with a number", "write numbers without quotes")
	}
	v, err := p.value()
	if err != nil {
		return nil, err
	}
	if v != nil {
		return v, nil
	}
	hint := ""
	if p.peek() == '(' {
		hint = "write in (...) to compare with several"
		if !op.numeric() {
			hint = fmt.Sprintf("write %s anyof (...) to compare with several", op)
		}
		if op == Eq {
			hint = "write in (...) to compare with several"
		}
	}
	return nil, p.here().errorf("expected a value behind "+op.String(), hint)
}

// listOrCall reads a list, a name for one, a transformer or val().
func (p *parser) listOrCall(op Op) (Operand, *Error) {
	if p.peek() == '(' {
		return p.list()
	}
	if op.list() {
		if c, err := p.rightCall(); c != nil || err != nil {
			return c, err
		}
	}
	start := p.pos
	name := p.name()
	if name == "" {
		return nil, p.here().errorf(fmt.Sprintf("expected a list behind %s", op), fmt.Sprintf("write %s (a, b)", op))
	}
	p.pos += len(name)
	if p.pos < len(p.s) && isBare(p.s[p.pos]) {
		p.bare()
		return nil, p.at(start).errorf(fmt.Sprintf("expected a list behind %s", op), fmt.Sprintf("write %s (%s)", op, shorten(p.s[start:p.pos])))
	}
	return &ListName{p.at(start), name}, nil
}

// rightCall reads a transformer or val() on the right of an operator. It
// returns nil where none comes next.
func (p *parser) rightCall() (Operand, *Error) {
	name := p.name()
	if !strings.HasPrefix(p.s[p.pos+len(name):], "(") || name != "val" && !slices.Contains(transformers, name) {
		return nil, nil
	}
	if name != "val" {
		return p.call()
	}
	start := p.pos
	p.pos += len("val(")
	p.blank()
	if n := p.name(); n == "" || p.dotted() == n {
		return nil, p.here().errorf("val() wants a field", "")
	}
	f, err := p.field()
	if err != nil {
		return nil, err
	}
	p.blank()
	if !p.accept(")") {
		return nil, p.here().errorf("expected ) behind the field in val()", "")
	}
	end := p.pos
	if p.peek() == '[' {
		return nil, p.here().errorf("nothing can stand in brackets behind val()", "write val(proc.aname[2])")
	}
	return &Call{Span: Span{p.src, start, end}, Func: "val", Args: []Operand{f}}, nil
}

// value reads text with or without quotes. It returns nil where there is none.
func (p *parser) value() (*Value, *Error) {
	if c := p.peek(); c == '"' || c == '\'' {
		return p.quoted()
	}
	start := p.pos
	text := p.bare()
	if text == "" {
		return nil, nil
	}
	if p.peek() == '(' {
		return nil, p.at(start).errorf("no transformer "+shorten(text), suggestOf(text, slices.Concat(transformers, []string{"val"})))
	}
	return &Value{Span: p.at(start), Text: text}, nil
}

// list reads values in parentheses.
func (p *parser) list() (*List, *Error) {
	start := p.pos
	p.accept("(")
	l := &List{}
	for {
		p.blank()
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		if v == nil {
			if len(l.Items) == 0 && p.accept(")") {
				break
			}
			if p.pos == len(p.s) {
				return nil, Span{p.src, start, start + 1}.errorf("this list is not closed", "")
			}
			return nil, p.here().errorf("expected a value", listHint(p.peek()))
		}
		l.Items = append(l.Items, v)
		p.blank()
		if p.accept(")") {
			break
		}
		if p.pos == len(p.s) {
			return nil, Span{p.src, start, start + 1}.errorf("this list is not closed", "")
		}
		if !p.accept(",") {
			return nil, p.here().errorf("expected a comma or ) in a list", "")
		}
	}
	l.Span = p.at(start)
	return l, nil
}

func listHint(next byte) string {
	switch next {
	case '(':
		return "lists do not nest"
	case '=':
		return "put text with = or parentheses in quotes"
	}
	return ""
}

// call reads a transformer and what it is given.
func (p *parser) call() (Operand, *Error) {
	start := p.pos
	name := p.name()
	p.pos += len(name)
	if !slices.Contains(transformers, name) {
		return nil, p.at(start).errorf("no transformer "+name, suggestOf(name, transformers))
	}
	p.accept("(")
	if err := p.enter(); err != nil {
		return nil, err
	}
	c := &Call{Func: name}
	for {
		arg, err := p.callArg(name, true)
		if err != nil {
			return nil, err
		}
		c.Args = append(c.Args, arg)
		p.blank()
		if !p.accept(",") {
			break
		}
	}
	p.leave()
	if !p.accept(")") {
		return nil, p.here().errorf("expected a comma or ) in "+name+"()", "")
	}
	var err *Error
	if c.Arg, err = p.arg(); err != nil {
		return nil, err
	}
	c.Span = p.at(start)
	return c, nil
}

// callArg reads one thing that a transformer is given.
func (p *parser) callArg(name string, lists bool) (Operand, *Error) {
	p.blank()
	start := p.pos
	switch c := p.peek(); {
	case c == '"' || c == '\'':
		return p.quoted()
	case c == '(' && lists:
		p.pos++
		return p.callList(name, start)
	}
	if word := p.name(); word != "" {
		if p.dotted() != word {
			return p.field()
		}
		if strings.HasPrefix(p.s[p.pos+len(word):], "(") {
			return p.call()
		}
		return nil, p.here().errorf("no field "+word, suggestField(word))
	}
	text := p.bare()
	if isNumber(text) {
		return &Value{Span: p.at(start), Text: text}, nil
	}
	hint := ""
	if text != "" {
		hint = "put text in quotes"
	} else {
		p.pos = start
		return nil, p.here().errorf(name+"() wants a field, text in quotes or a number", "")
	}
	return nil, p.at(start).errorf(name+"() wants a field, text in quotes or a number", hint)
}

// callList reads a list that a transformer is given, behind its parenthesis.
func (p *parser) callList(name string, start int) (Operand, *Error) {
	l := &List{}
	p.blank()
	for !p.accept(")") {
		if len(l.Items) > 0 && !p.accept(",") {
			return nil, p.here().errorf("expected a comma or ) in a list", "")
		}
		x, err := p.callArg(name, false)
		if err != nil {
			return nil, err
		}
		l.Items = append(l.Items, x)
		p.blank()
	}
	l.Span = p.at(start)
	return l, nil
}
