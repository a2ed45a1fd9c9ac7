package filter

import (
	"slices"

	"warren/event"
)

// Asked returns the kinds of events that a stream of what the expression holds
// for tells of: all that can match, if it says which it is about. If it does not,
// because it speaks of nothing but what every event has (who did it, when, where),
// or of nothing at all, they are without [event.OnDemandKinds]: nobody who asks
// what a program does wants to pay for each file that it opens unless they say so.
func (p *Program) Asked() event.KindSet {
	if p.expr != nil && namesKinds(p.expr) {
		return p.kinds
	}
	return p.kinds &^ event.OnDemandKinds
}

// namesKinds reports whether x compares a kind, a type, or a field that only some
// kinds of events have.
func namesKinds(x Expr) bool {
	switch x := x.(type) {
	case *And:
		return anyNamesKinds(x.X)
	case *Or:
		return anyNamesKinds(x.X)
	case *Not:
		return namesKinds(x.X)
	case *Check:
		return operandNamesKinds(x.Left) || operandNamesKinds(x.Right)
	}
	return false
}

func anyNamesKinds(xs []Expr) bool {
	for _, x := range xs {
		if namesKinds(x) {
			return true
		}
	}
	return false
}

func operandNamesKinds(o Operand) bool {
	switch o := o.(type) {
	case *Field:
		f, known := event.Lookup(o.Name)
		return !known || f.Name == "evt.kind" || f.Name == "evt.type" || f.Name == "syscall.type" || f.Name == "evt.category" || f.Kinds() != event.AllKinds
	case *Call:
		for _, arg := range o.Args {
			if operandNamesKinds(arg) {
				return true
			}
		}
	}
	return false
}

// Fields returns the names of the fields that the expression compares, each once,
// sorted.
func (p *Program) Fields() []string {
	if p.expr == nil {
		return nil
	}
	names := FieldsOf(p.expr)
	slices.Sort(names)
	return slices.Compact(names)
}
