package filter

import (
	"slices"

	"warren/event"
)

// Unnamed returns the program that holds for what p could hold for if it were
// known which file an event is about: every comparison with its name or inode is
// taken for true, and behind a not for false. It is nil where p makes none.
func (p *Program) Unnamed() *Program {
	if p.expr == nil {
		return nil
	}
	x, some := unnamed(p.expr, true)
	if !some {
		return nil
	}
	q, err := CompileExpr(x)
	if err != nil {
		return nil // never: its parts have compiled
	}
	return q
}

// fileNames are the fields that a file's name or number decides.
var fileNames = []string{
	"fd.name", "fd.containername", "fd.directory", "fd.containerdirectory", "fd.filename", "fs.path.name", "fs.path.source", "fs.path.target", "fd.ino", "fd.dev",
	"fd.dev.major", "fd.dev.minor", "fd.is_upper_layer", "fd.is_lower_layer", "evt.abspath", "evt.abspath.src", "evt.abspath.dst",
}

// alwaysTrue is a condition that holds for every event.
var alwaysTrue = &Check{Left: &Field{Name: "evt.kind"}, Op: Exists}

// unnamed replaces comparisons with names in x by what they are taken for. It
// reports whether there are any.
func unnamed(x Expr, as bool) (Expr, bool) {
	row := func(xs []Expr) ([]Expr, bool) {
		out, some := make([]Expr, len(xs)), false
		for i, y := range xs {
			var has bool
			out[i], has = unnamed(y, as)
			some = some || has
		}
		return out, some
	}
	switch x := x.(type) {
	case *And:
		xs, some := row(x.X)
		return &And{Span: x.Span, X: xs}, some
	case *Or:
		xs, some := row(x.X)
		return &Or{Span: x.Span, X: xs}, some
	case *Not:
		y, some := unnamed(x.X, !as)
		return &Not{Span: x.Span, X: y}, some
	case *Check:
		if !ofNames(x.Left) && !ofNames(x.Right) {
			return x, false
		}
		if as {
			return alwaysTrue, true
		}
		return &Not{X: alwaysTrue}, true
	}
	return x, false
}

func ofNames(o Operand) bool {
	switch o := o.(type) {
	case *Field:
		f, known := event.Lookup(o.Name)
		return known && slices.Contains(fileNames, f.Name)
	case *Call:
		return slices.ContainsFunc(o.Args, ofNames)
	case *List:
		return slices.ContainsFunc(o.Items, ofNames)
	}
	return false
}
