package filter

import (
	"fmt"
	"slices"
	"strings"
)

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
	// What has to be written in quotes is no number; leftover explains oneof (...).
	if v != nil && op.numeric() && !v.plain() && !strings.HasPrefix(strings.TrimLeft(p.s[p.pos:], " \t\r\n"), "(") {
		return nil, v.errorf(op.String()+" compares with a number", "")
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
		return nil, p.at(start).errorf(fmt.Sprintf("expected a list behind %s", op), fmt.Sprintf("write %s (%s)", op, quoted(p.s[start:p.pos])))
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
		return nil, p.noCall(text, p.at(start))
	}
	return &Value{Span: p.at(start), Text: text}, nil
}

// noCall is the error where a parenthesis follows text that has to be a value.
func (p *parser) noCall(text string, at Span) *Error {
	switch {
	case slices.Contains(transformers, text) || text == "val":
		return at.errorf(text+"() cannot stand in a list", "compare with it alone, joined by or")
	case slices.Contains(modNames[1:], text):
		return at.errorf("expected a value", fmt.Sprintf("write %s (a, b), with a blank before and behind %[1]s", text))
	}
	hint := suggestOf(text, slices.Concat(transformers, []string{"val"}))
	if hint == "" {
		hint = "put text with parentheses in quotes"
	}
	return at.errorf("no transformer "+quoted(text), hint)
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
		return nil, p.here().errorf("no field "+word, SuggestField(word))
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
