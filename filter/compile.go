// Package filter is the condition language: Falco's, over the fields of
// package event. It is the one language of Warren, for streams, lists, rules,
// history and enforcement; docs/filter.md describes it.
//
// [Compile] turns text into a [Program] of closures, each made for the type of
// its field and its operator. Matching allocates nothing and a Program can be
// used by any number of goroutines at once. [Parse], [Expand] and [CompileExpr]
// are the steps for those who give names a meaning: macros and lists of rules.
package filter

import (
	"strings"

	"warren/event"
)

// A Program is a compiled expression. It is immutable.
type Program struct {
	expr  Expr // nil for the empty expression
	match predicate
	kinds event.KindSet
	// counting is not nil for who only counts.
	counting *Counting
}

type predicate func(e *event.Event) bool

// Compile compiles an expression; one of nothing but blanks matches every
// event. The error is an *[Error].
func Compile(expr string) (*Program, error) {
	if strings.Trim(expr, " \t\n\r\v\f\b") == "" {
		return &Program{match: func(*event.Event) bool { return true }, kinds: event.AllKinds}, nil
	}
	x, err := parse(expr)
	if err != nil {
		return nil, err
	}
	return CompileExpr(x)
}

// CompileExpr compiles a parsed expression in which no name of a macro or list
// is left. The error is an *[Error] with the text that its place was parsed from.
func CompileExpr(x Expr) (*Program, error) {
	c := newCompiler()
	n, err := c.expr(x)
	if err != nil {
		return nil, err
	}
	return &Program{expr: x, match: n.match, kinds: n.mayHold}, nil
}

// Match reports whether the expression holds for e.
func (p *Program) Match(e *event.Event) bool {
	if e.Data != nil && !p.kinds.Has(e.Data.Kind()) {
		return false
	}
	return p.match(e)
}

// Kinds returns the kinds of events that the expression can hold for: all that
// it does hold for, and possibly more.
func (p *Program) Kinds() event.KindSet { return p.kinds }

// String returns the canonical form of the expression, which compiles to the
// same program; it is empty for the empty expression.
func (p *Program) String() string {
	if p.expr == nil {
		return ""
	}
	return p.expr.String()
}

// A node is a compiled part of an expression.
type node struct {
	match predicate
	reach
}

// expr compiles x.
func (c *compiler) expr(x Expr) (node, *Error) {
	switch x := x.(type) {
	case *And:
		ns, err := c.exprs(x.X)
		if err != nil {
			return node{}, err
		}
		return node{and(ns), allOf(ns)}, nil
	case *Or:
		ns, err := c.exprs(x.X)
		if err != nil {
			return node{}, err
		}
		return node{or(ns), anyOf(ns)}, nil
	case *Not:
		n, err := c.expr(x.X)
		if err != nil {
			return node{}, err
		}
		match := n.match
		return node{func(e *event.Event) bool { return !match(e) }, n.not()}, nil
	case *Check:
		return c.check(x)
	case *Macro:
		hint := SuggestField(x.Name)
		if hint == "" {
			hint = "write a field, an operator and a value: proc.name = " + x.Name
		}
		return node{}, x.errorf(quoted(x.Name)+" is no condition", hint)
	}
	panic("filter: an Expr that is none")
}

func (c *compiler) exprs(xs []Expr) ([]node, *Error) {
	ns := make([]node, len(xs))
	for i, x := range xs {
		var err *Error
		if ns[i], err = c.expr(x); err != nil {
			return nil, err
		}
	}
	return ns, nil
}

// and holds when all of ns do. The conditions are called in order, and short
// rows without a loop.
func and(ns []node) predicate {
	switch len(ns) {
	case 2:
		a, b := ns[0].match, ns[1].match
		return func(e *event.Event) bool { return a(e) && b(e) }
	case 3:
		a, b, c := ns[0].match, ns[1].match, ns[2].match
		return func(e *event.Event) bool { return a(e) && b(e) && c(e) }
	}
	all := matches(ns)
	return func(e *event.Event) bool {
		for _, match := range all {
			if !match(e) {
				return false
			}
		}
		return true
	}
}

func or(ns []node) predicate {
	switch len(ns) {
	case 2:
		a, b := ns[0].match, ns[1].match
		return func(e *event.Event) bool { return a(e) || b(e) }
	case 3:
		a, b, c := ns[0].match, ns[1].match, ns[2].match
		return func(e *event.Event) bool { return a(e) || b(e) || c(e) }
	}
	all := matches(ns)
	return func(e *event.Event) bool {
		for _, match := range all {
			if match(e) {
				return true
			}
		}
		return false
	}
}

func matches(ns []node) []predicate {
	ps := make([]predicate, len(ns))
	for i, n := range ns {
		ps[i] = n.match
	}
	return ps
}
