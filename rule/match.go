package rule

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"warren/event"
	"warren/filter"
)

// A Matcher finds the rules of a set that an event matches. What rules share is
// evaluated once for each event, and a rule is not looked at where the type of
// the event, or one value of it, says that it cannot match.
//
// For each type of event the conditions are simplified: what is known of the
// type is put in. Their parts are numbered, equal parts once, so that they form
// a graph; a [Worker] walks it.
//
// A Matcher is immutable and serves any number of workers.
type Matcher struct {
	typ   *event.Field
	kinds [64]map[string]*plan // by kind and evt.type
	nodes int                  // of the largest plan
	names int                  // rules of the largest plan
}

// A plan is what to evaluate for events of one type.
type plan struct {
	nodes []node
	rules []planned // in the order of the set
	// always are the rules that no index leaves out; the others are found by
	// the value of a field.
	always  []int32
	indexes []index
}

type planned struct {
	rule *Rule
	root int32
}

// An index finds rules by the one value of a text that they all ask for.
type index struct {
	field *event.Field
	rules map[string][]int32
}

// A node is a part of a condition.
type node struct {
	op    nodeOp
	cost  int32
	args  []int32
	atom  *filter.Program
	users int
}

type nodeOp uint8

const (
	opAtom nodeOp = iota
	opNot
	opAnd
	opOr
)

// The parts whose value is known before there is an event.
const (
	never  int32 = -1
	always int32 = -2
)

// NewMatcher makes a matcher for the enabled rules of a set. A rule sees no event of
// another source.
func NewMatcher(set *Set) *Matcher {
	m := &Matcher{}
	m.typ, _ = event.Lookup("evt.type")
	atoms := map[string]*filter.Program{}
	for _, k := range event.AllKinds.List() {
		m.kinds[k] = map[string]*plan{}
		for _, typ := range k.Types() {
			b := &builder{kind: k, typ: typ, atoms: atoms, byKey: map[string]int32{}}
			if p := b.plan(set); p != nil {
				m.kinds[k][typ] = p
				m.nodes = max(m.nodes, len(p.nodes))
				m.names = max(m.names, len(p.rules))
			}
		}
	}
	return m
}

// A builder makes the plan of a type.
type builder struct {
	kind  event.Kind
	typ   string
	atoms map[string]*filter.Program // shared by all plans
	nodes []node
	byKey map[string]int32
	// keys are the texts of nodes, to find out what a rule needs.
	checks map[int32]*filter.Check
}

// plan returns nil where no rule can match.
func (b *builder) plan(set *Set) *plan {
	p := &plan{}
	b.checks = map[int32]*filter.Check{}
	var needs [][]int32 // what has to hold for each rule
	for _, r := range set.Rules {
		if !r.Enabled || !r.Kinds().Has(b.kind) {
			continue
		}
		root := b.add(r.Condition)
		if root == never {
			continue
		}
		p.rules = append(p.rules, planned{r, root})
		if root >= 0 {
			b.nodes[root].users++
		}
		switch {
		case root == always:
			needs = append(needs, nil)
		case b.nodes[root].op == opAnd:
			needs = append(needs, b.nodes[root].args)
		default:
			needs = append(needs, []int32{root})
		}
	}
	if len(p.rules) == 0 {
		return nil
	}
	p.nodes = b.nodes
	p.index(needs, b.checks)
	return p
}

// add returns the number of a condition.
func (b *builder) add(x filter.Expr) int32 {
	switch x := x.(type) {
	case *filter.And:
		return b.join(opAnd, x.X, never, always)
	case *filter.Or:
		return b.join(opOr, x.X, always, never)
	case *filter.Not:
		switch n := b.add(x.X); n {
		case never:
			return always
		case always:
			return never
		default:
			return b.node("!"+strconv.Itoa(int(n)), node{op: opNot, args: []int32{n}, cost: b.nodes[n].cost})
		}
	case *filter.Check:
		return b.check(x)
	}
	return never // an expression that was compiled has nothing else in it
}

// join numbers conditions that are joined: one that is zero decides, one that is
// one says nothing.
func (b *builder) join(op nodeOp, xs []filter.Expr, zero, one int32) int32 {
	var args []int32
	for _, x := range xs {
		n := b.add(x)
		switch {
		case n == zero:
			return zero
		case n == one:
		case b.nodes[n].op == op:
			args = append(args, b.nodes[n].args...)
		default:
			args = append(args, n)
		}
	}
	slices.Sort(args)
	args = slices.Compact(args)
	switch len(args) {
	case 0:
		return one
	case 1:
		return args[0]
	}
	var key strings.Builder
	key.WriteByte("?!&|"[op])
	var cost int32
	for _, n := range args {
		key.WriteString(strconv.Itoa(int(n)))
		key.WriteByte(',')
		cost += b.nodes[n].cost
	}
	// What is cheap is asked first: all parts mean the same in any order.
	slices.SortStableFunc(args, func(a, c int32) int { return cmp.Compare(b.nodes[a].cost, b.nodes[c].cost) })
	return b.node(key.String(), node{op: op, args: args, cost: cost})
}

// check numbers a comparison.
func (b *builder) check(x *filter.Check) int32 {
	if f, ok := x.Left.(*filter.Field); ok && f.Name == "evt.type" && f.Arg == nil && x.Mod == filter.NoMod {
		same := func(v *filter.Value) bool { return v.Text == b.typ }
		switch vs := values(x); {
		case x.Op == filter.Exists:
			return always
		case len(vs) == 0: // another field
		case x.Op == filter.Eq, x.Op == filter.In, x.Op == filter.Intersects:
			return constant(slices.ContainsFunc(vs, same))
		case x.Op == filter.Ne:
			return constant(!slices.ContainsFunc(vs, same))
		}
	}
	text := x.String()
	if n, ok := b.byKey[text]; ok {
		return n
	}
	p := b.atoms[text]
	if p == nil {
		var err error
		if p, err = filter.CompileExpr(x); err != nil {
			return never // the whole was compiled: so can be its parts
		}
		b.atoms[text] = p
	}
	if !p.Kinds().Has(b.kind) {
		return never // a comparison with what is missing
	}
	n := b.node(text, node{op: opAtom, atom: p, cost: costOf(x)})
	b.checks[n] = x
	return n
}

func constant(holds bool) int32 {
	if holds {
		return always
	}
	return never
}

// node numbers a part, or returns the number of an equal one.
func (b *builder) node(key string, n node) int32 {
	if at, ok := b.byKey[key]; ok {
		return at
	}
	for _, a := range n.args {
		b.nodes[a].users++
	}
	at := int32(len(b.nodes))
	b.nodes = append(b.nodes, n)
	b.byKey[key] = at
	return at
}

// costOf is how dear a comparison is, about; 1 is one number with another.
func costOf(x *filter.Check) int32 {
	c := map[filter.Op]int32{
		filter.In: 2, filter.Intersects: 2, filter.Contains: 3, filter.IContains: 6, filter.BContains: 3, filter.StartsWith: 1, filter.EndsWith: 1, filter.Pmatch: 6,
		filter.Glob: 6, filter.IGlob: 8, filter.Regex: 20,
	}[x.Op] + 1
	if l, ok := x.Right.(*filter.List); ok && x.Op != filter.In && x.Op != filter.Intersects {
		c *= int32(min(len(l.Items), 100) + 1)
	}
	f, ok := x.Left.(*filter.Field)
	if !ok {
		return 4 * c
	}
	if ef, ok := event.Lookup(f.Name); ok {
		if ef.Many == event.Ancestors && f.Arg == nil {
			c *= 5
		}
		if ef.Composed() || ef.Listed() || f.Arg != nil && ef.Arg == event.KeyArg {
			c += 10
		}
		if ef.Type == event.String {
			c++
		}
	}
	return c
}

// index finds values that rules ask for, so that most are not looked at.
func (p *plan) index(needs [][]int32, checks map[int32]*filter.Check) {
	type choice struct {
		field  *event.Field
		values []*filter.Value
	}
	choices := make([][]choice, len(p.rules))
	uses := map[*event.Field]int{}
	for i, list := range needs {
		for _, n := range list {
			c := checks[n]
			if c == nil || c.Mod != filter.NoMod || c.Op != filter.Eq && c.Op != filter.In {
				continue
			}
			ref, ok := c.Left.(*filter.Field)
			if !ok || ref.Arg != nil {
				continue
			}
			f, ok := event.Lookup(ref.Name)
			if vs := values(c); ok && f.Type == event.String && f.Many == event.One && f.Arg == event.NoArg && !f.Composed() && len(vs) > 0 {
				choices[i] = append(choices[i], choice{f, vs})
				uses[f]++
			}
		}
	}
	at := map[*event.Field]int{}
	for i := range p.rules {
		if len(choices[i]) == 0 {
			p.always = append(p.always, int32(i))
			continue
		}
		// The field that most rules ask for, so that few have to be read.
		best := slices.MaxFunc(choices[i], func(a, b choice) int {
			return cmp.Or(cmp.Compare(uses[a.field], uses[b.field]), cmp.Compare(len(b.values), len(a.values)), strings.Compare(b.field.Name, a.field.Name))
		})
		n, ok := at[best.field]
		if !ok {
			n = len(p.indexes)
			at[best.field] = n
			p.indexes = append(p.indexes, index{best.field, map[string][]int32{}})
		}
		for _, v := range best.values {
			list := p.indexes[n].rules[v.Text]
			if len(list) == 0 || list[len(list)-1] != int32(i) {
				p.indexes[n].rules[v.Text] = append(list, int32(i))
			}
		}
	}
}

// A Worker matches events, one at a time.
type Worker struct {
	m *Matcher
	// known says at which event a part was evaluated, and what came out.
	known []uint64
	turn  uint64
	found []*Rule
	ids   []int32
}

// NewWorker makes a worker for one goroutine.
func (m *Matcher) NewWorker() *Worker {
	return &Worker{m: m, known: make([]uint64, m.nodes), found: make([]*Rule, 0, m.names), ids: make([]int32, 0, m.names)}
}

// Match returns the rules that e matches, in the order of the set. The slice is
// valid until the next call. It allocates nothing.
func (w *Worker) Match(e *event.Event) []*Rule {
	p := w.asked(e)
	if p == nil {
		return nil
	}
	w.turn++
	w.found = w.found[:0]
	for _, id := range w.ids {
		if r := &p.rules[id]; w.holds(p, r.root, e) {
			w.found = append(w.found, r.rule)
		}
	}
	return w.found
}

// Judge hands each rule that e is laid before to yield, until that returns false.
// judge evaluates the rule by itself, as often as it is called during that call.
func (w *Worker) Judge(e *event.Event, yield func(r *Rule, judge func() bool) bool) {
	p := w.asked(e)
	if p == nil {
		return
	}
	for _, id := range w.ids {
		r := &p.rules[id]
		judge := func() bool {
			w.turn++
			return w.holds(p, r.root, e)
		}
		if !yield(r.rule, judge) {
			return
		}
	}
}

// asked returns the plan for events like e, nil for none, and puts the numbers of
// the rules in it that e is laid before into w.ids.
func (w *Worker) asked(e *event.Event) *plan {
	if e.Data == nil {
		return nil
	}
	typ, _ := w.m.typ.Str(e, 0)
	p := w.m.kinds[e.Data.Kind()][typ]
	if p == nil {
		return nil
	}
	w.ids = append(w.ids[:0], p.always...)
	for i := range p.indexes {
		if v, ok := p.indexes[i].field.Str(e, 0); ok {
			w.ids = append(w.ids, p.indexes[i].rules[v]...)
		}
	}
	if len(p.indexes) > 0 {
		slices.Sort(w.ids)
	}
	return p
}

// holds evaluates a part.
func (w *Worker) holds(p *plan, at int32, e *event.Event) bool {
	if at < 0 {
		return at == always
	}
	n := &p.nodes[at]
	if n.users > 1 && w.known[at]>>1 == w.turn {
		return w.known[at]&1 != 0
	}
	var ok bool
	switch n.op {
	case opAtom:
		ok = n.atom.Match(e)
	case opNot:
		ok = !w.holds(p, n.args[0], e)
	case opAnd:
		ok = true
		for _, a := range n.args {
			if !w.holds(p, a, e) {
				ok = false
				break
			}
		}
	case opOr:
		for _, a := range n.args {
			if w.holds(p, a, e) {
				ok = true
				break
			}
		}
	}
	if n.users > 1 {
		w.known[at] = w.turn << 1
		if ok {
			w.known[at] |= 1
		}
	}
	return ok
}
