package filter

import (
	"net/netip"

	"warren/event"
)

// A Condition is a part of an expression in a form for those who keep events in
// columns: they can judge many events at a time by what they have, and find out
// where a condition cannot hold. It is one of the four forms below; what fits none
// of these is a Condition with nothing but its Expr.
type Condition struct {
	// Expr is the part of the expression.
	Expr Expr

	// All and Any are conjunction and disjunction, Not a negation.
	All, Any []*Condition
	Not      *Condition

	// Compared is a comparison of a field's values with constants.
	Compared *Comparison
}

// A Comparison compares a field, without brackets, with constants. It fails where
// the event has no such value.
//
// Where the field can have several values (see [event.Many]), it holds where one of
// them satisfies it; with Every, where there are values and all do. Where it has those of
// all ancestors, the process itself is none of them.
type Comparison struct {
	Field *event.Field
	Every bool

	// One of these says whether a value satisfies the comparison, by the field's type.
	// Addresses are unmapped, numbers are as [event.Field.Num] returns them.
	Text func(string) bool
	Num  func(int64) bool
	Addr func(netip.Addr) bool

	// Only lists the texts that satisfy it, where there are no others; Addrs does so
	// for addresses. They are nil where nothing can be said.
	Only  []string
	Addrs []netip.Addr
	// Edges are numbers at which a comparison of numbers begins or ceases to hold:
	// where a range has a number that satisfies it, then its least or greatest number
	// does, or an edge in it.
	Edges []int64
}

// Condition returns the whole expression for columns. It is nil for the empty
// expression.
func (p *Program) Condition() *Condition {
	if p.expr == nil {
		return nil
	}
	return conditionOf(p.expr)
}

func conditionOf(x Expr) *Condition {
	c := &Condition{Expr: x}
	switch x := x.(type) {
	case *And:
		c.All = conditionsOf(x.X)
	case *Or:
		c.Any = conditionsOf(x.X)
	case *Not:
		c.Not = conditionOf(x.X)
	case *Check:
		c.Compared = comparisonOf(x)
	}
	return c
}

func conditionsOf(xs []Expr) []*Condition {
	cs := make([]*Condition, len(xs))
	for i, x := range xs {
		cs[i] = conditionOf(x)
	}
	return cs
}

// comparisonOf returns nil for a check that has no such form. x has been compiled
// before.
func comparisonOf(x *Check) *Comparison {
	c := newCompiler()
	t, err := c.term(x.Left)
	if err != nil || t.field == nil {
		return nil
	}
	out := &Comparison{Field: t.field}
	if x.Op == Exists {
		switch {
		case t.str != nil:
			out.Text = always[string]
		case t.num != nil:
			out.Num = always[int64]
		default:
			out.Addr = always[netip.Addr]
		}
		return out
	}
	if t.many != event.One && x.Mod != NoMod {
		return nil // a modifier counts constants, each for itself
	}
	var vs []*Value
	switch right := x.Right.(type) {
	case *Value:
		vs = []*Value{right}
	case *List:
		for _, item := range right.Items {
			v, ok := item.(*Value)
			if !ok {
				return nil
			}
			vs = append(vs, v)
		}
	}
	if len(vs) == 0 {
		return nil
	}
	out.Every = t.many == event.Either && x.Op == Ne || t.many == event.List && x.Op == In
	equal := x.Op == Eq && (x.Mod == NoMod || x.Mod == AnyOf) || x.Op == In || x.Op == Intersects
	switch {
	case t.str != nil:
		out.Text, err = matchText(x.Op, x.Mod, vs)
		if equal {
			for _, v := range vs {
				out.Only = append(out.Only, v.Text)
			}
		}
	case t.num != nil:
		if out.Num, err = numberMatcher(t)(x.Op, x.Mod, vs); err == nil {
			out.Edges, err = edges(t, x.Op, vs)
		}
	default:
		out.Addr, err = addrMatcher(t)(x.Op, x.Mod, vs)
		if equal && err == nil {
			out.Addrs, err = singles(t, vs)
		}
	}
	if err != nil {
		return nil
	}
	return out
}

func always[T any](T) bool { return true }

func edges(t *term, op Op, vs []*Value) ([]int64, *Error) {
	var l []int64
	for _, v := range vs {
		n, err := parseNumber(t, v)
		if err != nil {
			return nil, err
		}
		if k, side := n.key(t.typ); side == 0 {
			l = append(l, int64(k^flipOf(t.typ)))
			if op == Ne { // what satisfies it begins and ends beside constants
				l = append(l, int64((k-1)^flipOf(t.typ)), int64((k+1)^flipOf(t.typ)))
			}
		}
	}
	return l, nil
}

// singles returns the addresses that are all there is in networks, nil where one is
// larger.
func singles(t *term, vs []*Value) ([]netip.Addr, *Error) {
	var l []netip.Addr
	for _, v := range vs {
		n, err := parseNet(t, v)
		if err != nil || !n.IsSingleIP() {
			return nil, err
		}
		l = append(l, n.Addr())
	}
	return l, nil
}

// FieldsOf returns the names of the fields that x looks at, in the order in which
// they stand; a name can be there twice.
func FieldsOf(x Expr) []string {
	var l []string
	VisitFields(x, func(f *Field) { l = append(l, f.Name) })
	return l
}

// VisitFields calls fn with each field that x looks at, in the order in which they
// stand.
func VisitFields(x Expr, fn func(*Field)) {
	switch x := x.(type) {
	case *And:
		for _, y := range x.X {
			VisitFields(y, fn)
		}
	case *Or:
		for _, y := range x.X {
			VisitFields(y, fn)
		}
	case *Not:
		VisitFields(x.X, fn)
	case *Check:
		visitOperand(x.Left, fn)
		if x.Right != nil {
			visitOperand(x.Right, fn)
		}
	}
}

func visitOperand(o Operand, fn func(*Field)) {
	switch o := o.(type) {
	case *Field:
		fn(o)
	case *Call:
		for _, a := range o.Args {
			visitOperand(a, fn)
		}
	case *List:
		for _, a := range o.Items {
			visitOperand(a, fn)
		}
	}
}
