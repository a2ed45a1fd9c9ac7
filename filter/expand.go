package filter

import "fmt"

// A Resolver gives names a meaning: it is a rule file's macros and lists. What
// it returns can itself contain names.
type Resolver interface {
	// Macro returns the condition that name stands for.
	Macro(name string) (Expr, bool)
	// List returns the values that name stands for. It is also asked about
	// each value of a list that is written without quotes.
	List(name string) ([]*Value, bool)
}

// Expand replaces the names of macros and lists in x. Names that r does not
// know stay. What r returns keeps its own place, so that an error in a macro
// shows the macro's text. The error is an *[Error].
func Expand(x Expr, r Resolver) (Expr, error) {
	left := maxExpanded
	y, err := expander{r, 0, &left}.expr(x)
	if err != nil {
		return nil, err
	}
	return y, nil
}

// maxExpanded is how many macros and values can come out of names: macros that
// each stand for others twice grow beyond all bounds.
const maxExpanded = 1 << 20

type expander struct {
	Resolver
	depth int  // macros inside each other
	left  *int // of maxExpanded
}

// spend counts what came out of a name at a place.
func (p expander) spend(n int, at Span, name string) *Error {
	if *p.left -= n; *p.left < 0 {
		return at.errorf(fmt.Sprintf("%s stands for more than %d macros and values", quoted(name), maxExpanded), "")
	}
	return nil
}

func (p expander) expr(x Expr) (Expr, *Error) {
	switch x := x.(type) {
	case *And:
		xs, err := p.exprs(x.X)
		return &And{x.Span, xs}, err
	case *Or:
		xs, err := p.exprs(x.X)
		return &Or{x.Span, xs}, err
	case *Not:
		y, err := p.expr(x.X)
		return &Not{x.Span, y}, err
	case *Check:
		right, err := p.right(x.Right)
		if err != nil || right == x.Right {
			return x, err
		}
		y := *x
		y.Right = right
		return &y, nil
	case *Macro:
		m, ok := p.Macro(x.Name)
		if !ok {
			return x, nil
		}
		if p.depth++; p.depth > maxDepth {
			return nil, x.errorf(fmt.Sprintf("macro %s: more than %d macros inside each other", x.Name, maxDepth), "does it contain itself?")
		}
		if err := p.spend(1, x.Span, x.Name); err != nil {
			return nil, err
		}
		return p.expr(m)
	}
	return x, nil
}

func (p expander) exprs(xs []Expr) ([]Expr, *Error) {
	ys := make([]Expr, len(xs))
	for i, x := range xs {
		var err *Error
		if ys[i], err = p.expr(x); err != nil {
			return nil, err
		}
	}
	return ys, nil
}

// right expands the right side of a check.
func (p expander) right(x Operand) (Operand, *Error) {
	switch x := x.(type) {
	case *ListName:
		vs, ok := p.List(x.Name)
		if !ok {
			return x, nil
		}
		l := &List{Span: x.Span}
		if err := p.spend(len(vs), x.Span, x.Name); err != nil {
			return nil, err
		}
		return l, p.values(l, vs, 0)
	case *List:
		l := &List{Span: x.Span}
		for _, item := range x.Items {
			v := item.(*Value)
			if err := p.values(l, []*Value{v}, 0); err != nil {
				return nil, err
			}
		}
		return l, nil
	}
	return x, nil
}

// values appends vs to l, names of lists among them replaced.
func (p expander) values(l *List, vs []*Value, depth int) *Error {
	for _, v := range vs {
		if !v.Quoted {
			if inner, ok := p.List(v.Text); ok {
				if depth >= maxDepth {
					return v.errorf(fmt.Sprintf("list %s: more than %d lists inside each other", v.Text, maxDepth), "does it contain itself?")
				}
				if err := p.spend(1+len(inner), v.Span, v.Text); err != nil {
					return err
				}
				if err := p.values(l, inner, depth+1); err != nil {
					return err
				}
				continue
			}
		}
		l.Items = append(l.Items, v)
	}
	return nil
}

// ParseItem reads an item of a list in a rule file: a text in quotes, or any
// text as it is. Without quotes it can be the name of another list. The error is
// an *[Error].
func ParseItem(text string) (*Value, error) {
	p := &parser{src: &source{text}, s: text}
	p.blank()
	if c := p.peek(); c != '"' && c != '\'' {
		return &Value{Span: Span{p.src, 0, len(text)}, Text: text}, nil
	}
	v, err := p.quoted()
	if err != nil {
		return nil, err
	}
	if p.blank(); p.pos < len(text) {
		return nil, p.here().errorf("expected the end behind the closing quote", "")
	}
	return v, nil
}
