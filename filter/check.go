package filter

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"warren/event"
)

// A compiler turns checked expressions into predicates that share scratches.
type compiler struct {
	pool   *sync.Pool
	states int // that regular expressions may still have
}

func newCompiler() *compiler {
	return &compiler{pool: &sync.Pool{New: func() any { return new(scratch) }}, states: maxStates}
}

// A term is one side of a comparison with its type. One of str, num and ip
// reads it.
type term struct {
	Span
	name  string // as messages show it
	typ   event.Type
	many  event.Many
	kinds event.KindSet
	field *event.Field // where the term is a field and nothing else

	str *values[string]
	num *values[int64]
	ip  *values[netip.Addr]
}

// isNum reports whether values of t are compared as whole numbers.
func isNum(t event.Type) bool {
	return t == event.Int || t == event.Uint || t == event.Duration || t == event.Time
}

func isAddr(t event.Type) bool { return t == event.IP || t == event.Net }

// typeName returns a type as messages name it.
func typeName(t event.Type) string {
	switch t {
	case event.String:
		return "text"
	case event.Bool:
		return "true or false"
	case event.IP:
		return "an address"
	case event.Net:
		return "a network"
	case event.Duration:
		return "a duration"
	case event.Time:
		return "a time"
	}
	return "a number"
}

// term resolves a field, transformer or constant.
func (c *compiler) term(x Operand) (*term, *Error) {
	switch x := x.(type) {
	case *Field:
		return c.field(x)
	case *Call:
		return c.call(x)
	case *Value:
		text := x.Text
		return &term{Span: x.Span, name: quoted(text), typ: event.String, kinds: event.AllKinds,
			str: read(event.One, func(_ *event.Event, i int) (string, bool) { return text, i == 0 })}, nil
	}
	return nil, x.span().errorf("a list cannot stand here", "")
}

// field resolves a field and what stands in brackets behind it.
func (c *compiler) field(x *Field) (*term, *Error) {
	name, arg := x.Name, x.Arg
	skip := 0
	if name == "proc.args" && arg != nil {
		// Falco's proc.args[0] is the first argument behind the program's name.
		name, skip = "proc.argv", 1
	}
	f, ok := event.Lookup(name)
	if !ok {
		at := x.Span
		at.End = at.Pos + len(x.Name)
		if why := event.FalcoWhy(x.Name); why != "" {
			return nil, at.errorf("no field "+x.Name+": "+why, "docs/falco.md has Falco's fields")
		}
		return nil, at.errorf("no field "+x.Name, SuggestField(x.Name))
	}
	t := &term{Span: x.Span, name: quoted(string(x.append(nil))), typ: f.Type, many: f.Many, kinds: f.Kinds()}
	switch {
	case f.Arg == event.KeyArg && (arg != nil || !f.KeyOptional):
		if arg == nil {
			return nil, x.errorf(f.Name+" wants a key in brackets", "write "+f.Name+"[key]")
		}
		key := arg.Text
		if f.Name == "evt.arg" && !event.KnownArg(key) {
			return nil, arg.errorf("no system call has an argument "+quoted(key), suggestOf(key, event.CallArgNames()))
		}
		t.str = read(event.One, func(e *event.Event, i int) (string, bool) {
			if i > 0 {
				return "", false
			}
			return f.Key(e, key)
		})
	case arg != nil:
		if f.Arg != event.IndexArg && f.Many != event.List {
			return nil, arg.errorf(f.Name+" has nothing in brackets", "")
		}
		n, err := strconv.ParseUint(arg.Text, 10, 31)
		if err != nil {
			hint := "0 is the first"
			if f.Many == event.Ancestors {
				hint = "0 is the process itself, 1 its parent"
			}
			return nil, arg.errorf(x.Name+"[] wants a number, not "+quoted(arg.Text), hint)
		}
		if f.Listed() {
			t.str = listed(f, int(n))
			break
		}
		t.many = event.One
		c.read(t, f, int(n)+skip)
	case f.Listed():
		t.field, t.str = f, listed(f, -1)
	default:
		t.field = f
		c.read(t, f, 0)
	}
	return t, nil
}

// read makes t read field f: from its at-th value on, or that one alone where t
// is one value.
func (c *compiler) read(t *term, f *event.Field, at int) {
	switch {
	case f.Type == event.String && f.Composed():
		t.str = &values[string]{many: t.many, scratch: true, use: func(e *event.Event, i int, s *scratch) (string, bool) {
			b, ok := f.Append(s.buf, e, i)
			if !ok {
				return "", false
			}
			return s.took(b), true
		}}
	case f.Type == event.String:
		t.str = reader(t.many, at, f.Str)
		t.str.of = func(p *event.Process, _ *scratch) (string, bool) { return f.StrOf(p) }
	case isAddr(f.Type):
		t.ip = reader(t.many, at, func(e *event.Event, i int) (netip.Addr, bool) {
			a, ok := f.Addr(e, i)
			return a.Unmap(), ok
		})
	default:
		t.num = reader(t.many, at, f.Num)
		t.num.of = func(p *event.Process, _ *scratch) (int64, bool) { return f.NumOf(p) }
	}
}

// listed makes values of a field that has to be read as a whole: all, or those of what
// an index chooses.
func listed(f *event.Field, at int) *values[string] {
	return &values[string]{many: event.List, scratch: true, list: func(e *event.Event, s *scratch) ([]string, bool) {
		n := len(s.list)
		s.list = f.AppendList(s.list, e, at)
		return s.list[n:], len(s.list) > n
	}}
}

// reader makes values of an accessor.
func reader[T any](many event.Many, at int, get func(*event.Event, int) (T, bool)) *values[T] {
	if at > 0 {
		return read(many, func(e *event.Event, i int) (T, bool) { return get(e, at+i) })
	}
	return read(many, get)
}

// check compiles a comparison.
func (c *compiler) check(x *Check) (node, *Error) {
	left, err := c.term(x.Left)
	if err != nil {
		return node{}, err
	}
	if x.Op == Exists {
		return node{c.exists(left), reachOf(left.kinds)}, nil
	}
	if err := left.allows(x); err != nil {
		return node{}, err
	}
	switch right := x.Right.(type) {
	case *Call:
		return c.compare(x, left, right)
	case *ListName:
		op := strings.TrimSuffix(x.Op.String()+" "+x.Mod.String(), " ")
		return node{}, right.errorf("there is no list "+right.Name, "write values in parentheses: "+op+" ("+right.Name+")")
	case *List:
		vs := make([]*Value, len(right.Items))
		for i, item := range right.Items {
			vs[i] = item.(*Value)
		}
		return c.constants(x, left, vs)
	case *Value:
		return c.constants(x, left, []*Value{right})
	}
	panic("filter: a check without a right side")
}

func (c *compiler) exists(t *term) predicate {
	switch {
	case t.str != nil:
		return somePredicate(c.pool, t.str, func(string) bool { return true })
	case t.num != nil:
		return somePredicate(c.pool, t.num, func(int64) bool { return true })
	}
	return somePredicate(c.pool, t.ip, func(netip.Addr) bool { return true })
}

// allows says whether t can be compared by the operator of x.
func (t *term) allows(x *Check) *Error {
	op := x.Op
	switch {
	case t.typ == event.String, op == Eq, op == Ne, op == In, op == Intersects:
		return nil
	case isNum(t.typ) && op.numeric():
		return nil
	}
	hint := "use =, != or in"
	if isNum(t.typ) {
		hint = "use =, !=, <, <=, >, >= or in"
	}
	does := "compares text"
	if op.numeric() {
		does = "compares numbers"
	}
	return x.OpAt.errorf(op.String()+" "+does+", but "+t.name+" is "+typeName(t.typ), hint)
}

// constants compiles the comparison of left with constants.
func (c *compiler) constants(x *Check, left *term, vs []*Value) (node, *Error) {
	for _, v := range vs {
		if strings.IndexByte(v.Text, 0) >= 0 {
			return node{}, v.errorf("text cannot contain a zero byte", "no text of the kernel does")
		}
	}
	r := reachOf(left.kinds)
	if len(vs) == 0 { // holds for nothing, whatever the operator
		r.mayHold = 0
		return node{func(*event.Event) bool { return false }, r}, nil
	}
	switch {
	case left.str != nil:
		if left.field != nil {
			if err := checkNames(left.field, x.Op, vs); err != nil {
				return node{}, err
			}
		}
		if x.Op == Regex {
			if err := c.countStates(vs); err != nil {
				return node{}, err
			}
		}
		p, match, err := quantified(c.pool, left.str, x.Op, x.Mod, vs, matchText)
		if err != nil {
			return node{}, err
		}
		if left.field != nil && match != nil {
			r = reachOfText(left.field, match)
		}
		return node{p, r}, nil
	case left.num != nil:
		p, _, err := quantified(c.pool, left.num, x.Op, x.Mod, vs, numberMatcher(left))
		return node{p, r}, err
	}
	p, _, err := quantified(c.pool, left.ip, x.Op, x.Mod, vs, addrMatcher(left))
	return node{p, r}, err
}

// quantified makes the predicate that compares what v reads with constants.
// Where v is one value, it also returns how that is matched.
//
// A field with several values compares as follows: != with either end wants
// both to differ, in with a list wants all elements to be in it; everything
// else wants one value for which it holds. A modifier counts over the
// constants, each compared on its own.
func quantified[T any](pool *sync.Pool, v *values[T], op Op, mod Mod, vs []*Value, matcher func(Op, Mod, []*Value) (func(T) bool, *Error)) (predicate, func(T) bool, *Error) {
	if v.many == event.One || mod == NoMod {
		match, err := matcher(op, mod, vs)
		if err != nil {
			return nil, nil, err
		}
		if v.many == event.One {
			return somePredicate(pool, v, match), match, nil
		}
		if v.many == event.Either && op == Ne || v.many == event.List && op == In {
			return everyPredicate(pool, v, match), nil, nil
		}
		return somePredicate(pool, v, match), nil, nil
	}
	ps := make([]func(*event.Event) bool, len(vs))
	for i := range vs {
		var err *Error
		if ps[i], _, err = quantified(pool, v, op, NoMod, vs[i:i+1], matcher); err != nil {
			return nil, nil, err
		}
	}
	return counted(mod, ps), nil, nil
}

// counted combines conditions by a modifier.
func counted[T any](mod Mod, fs []func(T) bool) func(T) bool {
	want := 1
	if mod == AllOf {
		want = len(fs)
	}
	return func(x T) bool {
		n := 0
		for i, f := range fs {
			if f(x) {
				n++
			}
			switch {
			case mod == AnyOf && n > 0:
				return true
			case mod == AllOf && n <= i, mod == OneOf && n > 1:
				return false
			}
		}
		return n == want
	}
}

// checkNames refuses values that a field with known values never has.
func checkNames(f *event.Field, op Op, vs []*Value) *Error {
	if op != Eq && op != Ne && op != In && op != Intersects {
		return nil
	}
	var known []string
	switch f.Name {
	case "evt.type":
		for _, k := range event.AllKinds.List() {
			known = append(known, k.Types()...)
		}
	case "evt.kind":
		for _, k := range event.AllKinds.List() {
			known = append(known, k.String())
		}
	default:
		return nil
	}
	for _, v := range vs {
		if slices.Contains(known, v.Text) {
			continue
		}
		near := known
		if f.Name == "evt.type" {
			if falcoTypes[v.Text] {
				continue // a type of Falco's that no event has yet
			}
			for t := range falcoTypes {
				near = append(near, t)
			}
			slices.Sort(near[len(known):])
		}
		what := "no type of event is called "
		if f.Name == "evt.kind" {
			what = "no kind of event is called "
		}
		return v.errorf(what+quoted(v.Text), suggestOf(v.Text, near))
	}
	return nil
}
