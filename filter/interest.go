package filter

import (
	"math"
	"net/netip"
	"slices"
	"strings"

	"warren/event"
	"warren/interest"
)

// Interest returns what the kernel can leave out: an event that the expression
// holds for is let through by it. It is as narrow as a bounded number of terms
// can say; what an expression asks beyond that is left to Match.
func (p *Program) Interest() interest.Interest {
	want := interest.Of(event.AllKinds)
	if p.expr != nil {
		s := surveyor{known: map[Expr]outline{}}
		want = interest.Interest{Terms: s.outline(p.expr).hold}.Among(p.kinds)
	}
	if p.counting != nil {
		return p.counting.counted(want)
	}
	return want
}

// How many terms an outline has, and is made from, at most.
const (
	maxTerms   = 64
	maxFactors = 16
	maxPending = 128
)

// An outline says of a part of an expression where it can hold and where it can
// fail to. Both are supersets of the truth.
type outline struct{ hold, fail []interest.Term }

// A surveyor outlines expressions. Parts that a tree shares are outlined once.
type surveyor struct{ known map[Expr]outline }

func (s *surveyor) outline(x Expr) outline {
	o, ok := s.known[x]
	if !ok {
		o = s.draw(x)
		s.known[x] = o
	}
	return o
}

func (s *surveyor) draw(x Expr) outline {
	if ofWorkload(x) {
		return workloadOutline(x)
	}
	switch x := x.(type) {
	case *And:
		hold, fail := s.fold(x.X, func(xs []Expr) Expr { return &And{Span: x.Span, X: xs} }, false)
		return outline{hold, fail}
	case *Or:
		fail, hold := s.fold(x.X, func(xs []Expr) Expr { return &Or{Span: x.Span, X: xs} }, true)
		return outline{hold, fail}
	case *Not:
		o := s.outline(x.X)
		return outline{o.fail, o.hold}
	case *Check:
		return checkOutline(x)
	}
	return outline{everything, everything} // a macro that stands for nothing
}

var everything = []interest.Term{{Kinds: event.AllKinds}}

// fold outlines a row of conditions: all is where every one of them holds, some
// where one of them fails. With flip it is where every one fails, and one holds.
// Conditions on the workload are one, that can be said as a whole.
func (s *surveyor) fold(xs []Expr, row func([]Expr) Expr, flip bool) (all, some []interest.Term) {
	var rest, workload []Expr
	for _, x := range xs {
		if ofWorkload(x) {
			workload = append(workload, x)
		} else {
			rest = append(rest, x)
		}
	}
	var os []outline
	if len(workload) > 0 {
		os = append(os, workloadOutline(row(workload)))
	}
	for _, x := range rest {
		os = append(os, s.outline(x))
	}
	all = everything
	for _, o := range os {
		if flip {
			o.hold, o.fail = o.fail, o.hold
		}
		all = both(all, o.hold)
		if some = append(some[:len(some):len(some)], o.fail...); len(some) > maxPending {
			some, _ = interest.Limit(some, maxTerms)
		}
	}
	some, _ = interest.Limit(some, maxTerms)
	return all, some
}

// both returns where one term of a and one of b hold.
func both(a, b []interest.Term) []interest.Term {
	if len(a)*len(b) > maxFactors*maxFactors {
		a, _ = interest.Limit(a, maxFactors)
		b, _ = interest.Limit(b, maxFactors)
	}
	var out []interest.Term
	for _, t := range a {
		for _, u := range b {
			if v, ok := t.And(u); ok {
				out = append(out, v)
			}
		}
	}
	out, _ = interest.Limit(out, maxTerms)
	return out
}

// ofWorkload reports whether a condition looks at nothing but the container and
// pod of the process.
func ofWorkload(x Expr) bool {
	switch x := x.(type) {
	case *And:
		return all(x.X, ofWorkload)
	case *Or:
		return all(x.X, ofWorkload)
	case *Not:
		return ofWorkload(x.X)
	case *Check:
		f, ok := x.Left.(*Field)
		if _, call := x.Right.(*Call); !ok || call {
			return false
		}
		return strings.HasPrefix(f.Name, "container.") ||
			strings.HasPrefix(f.Name, "k8s.") && !strings.HasPrefix(f.Name, "k8s.remote.") && !strings.HasPrefix(f.Name, "k8s.node.")
	}
	return false
}

func all[T any](xs []T, holds func(T) bool) bool {
	return !slices.ContainsFunc(xs, func(x T) bool { return !holds(x) })
}

// workloadOutline keeps a condition on the workload as it is, for who knows
// containers.
func workloadOutline(x Expr) outline {
	yes, err := CompileExpr(x)
	if err != nil {
		return outline{everything, everything}
	}
	no, err := CompileExpr(&Not{X: x})
	if err != nil {
		return outline{everything, everything}
	}
	return outline{
		hold: []interest.Term{{Kinds: event.AllKinds, Workload: yes}},
		fail: []interest.Term{{Kinds: event.AllKinds, Workload: no}},
	}
}

// checkOutline outlines a comparison. Where it is of a field that few system
// calls have, it can hold for these alone.
func checkOutline(x *Check) outline {
	o := plainOutline(x)
	f, ok := x.Left.(*Field)
	if !ok {
		return o
	}
	key := ""
	if f.Arg != nil {
		key = f.Arg.Text
	}
	calls := event.CallsWith(f.Name, key)
	if calls == nil {
		return o
	}
	var hold []interest.Term
	for _, t := range o.hold {
		if t.Types != nil || !t.Kinds.Has(event.KindSyscall) {
			hold = append(hold, t)
			continue
		}
		of := t
		of.Kinds, of.Types = event.Kinds(event.KindSyscall), slices.Sorted(slices.Values(calls))
		if t.Kinds &^= event.Kinds(event.KindSyscall); t.Kinds != 0 {
			hold = append(hold, t)
		}
		if len(calls) > 0 {
			hold = append(hold, of)
		}
	}
	o.hold = hold
	return o
}

func plainOutline(x *Check) outline {
	c := newCompiler()
	n, err := c.check(x)
	if err != nil {
		return outline{everything, everything}
	}
	o := outline{hold: termOf(n.mayHold), fail: termOf(n.mayFail)}
	t, err := c.term(x.Left)
	if err != nil || t.field == nil || x.Op == Exists {
		return o
	}
	q := question{check: x, term: t, outline: o, kinds: n.mayHold, others: event.AllKinds &^ t.kinds}
	switch right := x.Right.(type) {
	case *Value:
		q.values = []*Value{right}
	case *List:
		for _, item := range right.Items {
			v, ok := item.(*Value)
			if !ok {
				return o
			}
			q.values = append(q.values, v)
		}
	}
	if len(q.values) == 0 {
		return o
	}
	q.ask()
	return outline{hold: interest.Merge(q.hold), fail: interest.Merge(q.fail)}
}

func termOf(kinds event.KindSet) []interest.Term {
	if kinds == 0 {
		return nil
	}
	return []interest.Term{{Kinds: kinds}}
}

// A question is a comparison of a field with constants, on its way to an
// outline.
type question struct {
	check  *Check
	term   *term
	values []*Value
	kinds  event.KindSet // of events it can hold for
	others event.KindSet // of events that have no such field
	outline
}

// ask narrows the outline where the field is one that the kernel can judge.
func (q *question) ask() {
	switch name := q.term.field.Name; name {
	case "evt.type":
		q.askType()
	case "evt.res":
		q.askResult()
	case "evt.rawres":
		q.askRawResult()
	case "evt.is_open_read":
		q.askOpen(interest.OpenRead)
	case "evt.is_open_write":
		q.askOpen(interest.OpenWrite)
	case "evt.is_open_exec":
		q.askOpen(interest.OpenExec)
	case "evt.is_open_create":
		q.askOpen(interest.OpenCreate)
	case "fd.name", "fs.path.name", "fs.path.source", "fs.path.target",
		"fd.directory", "fd.filename":
		q.askPath()
	case "fd.nameraw":
		if all(q.values, q.dotted) {
			q.hold = append(termOf(q.kinds&^interest.OpenKinds), interest.Term{Kinds: q.kinds & interest.OpenKinds, RawDots: true})
		}
	case "fd.ino", "fd.dev":
		q.askEqual(func(t *interest.Term, n uint64) {
			i := interest.Inode{Ino: n}
			if name == "fd.dev" {
				i = interest.Inode{Dev: n}
			}
			t.Inodes = append(t.Inodes, i)
		}, math.MaxUint64)
		q.hold = append(q.hold, termOf(q.kinds&^interest.PathKinds)...)
	case "user.uid":
		q.askEqual(func(t *interest.Term, n uint64) { t.UIDs = append(t.UIDs, uint32(n)) }, math.MaxUint32)
	case "fd.port", "fd.lport", "fd.rport", "fd.cport", "fd.sport":
		q.askEqual(func(t *interest.Term, n uint64) { t.Ports = append(t.Ports, uint16(n)) }, math.MaxUint16)
	case "fd.ip", "fd.lip", "fd.rip", "fd.cip", "fd.sip", "fd.net", "fd.lnet", "fd.rnet", "fd.cnet", "fd.snet":
		q.askNet()
	case "proc.exepath":
		q.askText(func(t *interest.Term, ps []interest.Path) { t.Exes = ps })
		q.askNotText(func(t *interest.Term, ps []interest.Path) { t.NotExes = ps })
	case "proc.name":
		q.askText(func(t *interest.Term, ps []interest.Path) { t.Names = ps })
		q.askNotText(func(t *interest.Term, ps []interest.Path) { t.NotNames = ps })
	}
}

// askNotText narrows to texts that are none of some, where a comparison fails for
// all of these, or with !=, holds for none.
func (q *question) askNotText(set func(*interest.Term, []interest.Path)) {
	if q.check.Mod != NoMod {
		return
	}
	op := interest.Exact
	switch q.check.Op {
	case Eq, In, Intersects, Ne:
	case StartsWith:
		op = interest.Prefix
	default:
		return
	}
	var paths []interest.Path
	for _, v := range q.values {
		if v.Text == "" {
			return
		}
		paths = append(paths, interest.Path{Op: op, Text: v.Text})
	}
	narrow := func(terms []interest.Term) []interest.Term {
		t := interest.Term{Kinds: interest.Interest{Terms: terms}.Kinds()}
		set(&t, paths)
		return []interest.Term{t}
	}
	if q.check.Op == Ne {
		q.hold = narrow(q.hold)
		return
	}
	q.fail = narrow(q.fail)
}

// askText narrows to texts by what they begin with, or are.
func (q *question) askText(set func(*interest.Term, []interest.Path)) {
	paths := []interest.Path{}
	for _, v := range q.values {
		ps, ok := beginnings(q.check.Op, v)
		if !ok {
			return
		}
		paths = append(paths, ps...)
	}
	t := interest.Term{Kinds: q.kinds}
	set(&t, paths)
	q.hold = []interest.Term{t}
}

// beginnings returns the paths that a text is one of, where a comparison with a
// value holds for it and says how the text begins.
func beginnings(op Op, v *Value) ([]interest.Path, bool) {
	switch op {
	case Eq, In, Intersects:
		return onePath(interest.Exact, v.Text), true
	case Glob:
		if prefix, _, exact := globEnds(v.Text); exact {
			return onePath(interest.Exact, prefix), true
		}
	}
	return prefixPaths(op, v)
}

// equality reports whether the comparison wants the field to be one of the
// values, or still more than that.
func (q *question) equality() bool {
	op := q.check.Op
	return op == Eq || op == In || op == Intersects
}

// matchText returns how text is compared.
func (q *question) matchText() (func(string) bool, bool) {
	match, err := matchText(q.check.Op, q.check.Mod, q.values)
	return match, err == nil
}

func (q *question) askType() {
	match, ok := q.matchText()
	if !ok {
		return
	}
	hold := interest.Term{Kinds: event.AllKinds, Types: []string{}}
	fail := interest.Term{Kinds: event.AllKinds, Types: []string{}}
	for _, k := range event.AllKinds.List() {
		for _, typ := range k.Types() {
			if match(typ) {
				hold.Types = append(hold.Types, typ)
			} else {
				fail.Types = append(fail.Types, typ)
			}
		}
	}
	q.hold, q.fail = []interest.Term{hold}, []interest.Term{fail}
}

// outcome says that where the comparison holds, or fails for an event that has
// the field, calls ended in one way.
func (q *question) outcome(hold, fail interest.Outcome) {
	q.hold = []interest.Term{{Kinds: q.kinds, Outcome: hold}}
	q.fail = append(termOf(q.others), interest.Term{Kinds: q.term.kinds, Outcome: fail})
}

const success = "SUCCESS"

func (q *question) askResult() {
	match, ok := q.matchText()
	if !ok {
		return
	}
	hold, fail := interest.AnyOutcome, interest.AnyOutcome
	if !match(success) {
		hold = interest.Failed
	} else if q.equality() && all(q.values, func(v *Value) bool { return v.Text == success }) {
		hold, fail = interest.Succeeded, interest.Failed
	}
	if q.check.Op == Ne && len(q.values) == 1 && q.values[0].Text == success {
		fail = interest.Succeeded
	}
	q.outcome(hold, fail)
}

func (q *question) askRawResult() {
	match, err := numberMatcher(q.term)(q.check.Op, q.check.Mod, q.values)
	if err != nil {
		return
	}
	least, most := match(math.MinInt64), match(math.MaxInt64)
	switch q.check.Op {
	case Eq, In, Intersects:
		var bad, good bool
		for _, v := range q.values {
			n, err := parseNumber(q.term, v)
			bad, good = bad || err != nil || n.neg, good || err != nil || !n.neg
		}
		switch {
		case !good:
			q.outcome(interest.Failed, interest.AnyOutcome)
		case !bad:
			q.outcome(interest.Succeeded, interest.AnyOutcome)
		}
	case Lt, Le, Gt, Ge: // a range from one end: it is enough to ask around zero
		if q.check.Mod != NoMod {
			return
		}
		hold, fail := interest.AnyOutcome, interest.AnyOutcome
		switch {
		case least && !match(0):
			hold = interest.Failed
		case most && !match(-1):
			hold = interest.Succeeded
		}
		switch {
		case least && match(-1):
			fail = interest.Succeeded
		case most && match(0):
			fail = interest.Failed
		}
		q.outcome(hold, fail)
	}
}

func (q *question) askOpen(purpose interest.OpenMask) {
	match, err := numberMatcher(q.term)(q.check.Op, q.check.Mod, q.values)
	if err != nil {
		return
	}
	with := interest.Term{Kinds: q.term.kinds, Open: purpose}
	switch yes, no := match(1), match(0); {
	case yes && !no:
		q.hold = []interest.Term{with}
	case no && !yes:
		q.fail = append(termOf(q.others), with)
	}
}

// askEqual narrows to equality with numbers, up to the largest that the
// dimension can hold.
func (q *question) askEqual(add func(t *interest.Term, n uint64), most uint64) {
	if !q.equality() {
		return
	}
	t, some := interest.Term{Kinds: q.kinds}, false
	for _, v := range q.values {
		n, err := parseNumber(q.term, v)
		switch {
		case err != nil:
			return
		case n.neg || n.mag > most: // equal to none
		default:
			add(&t, n.mag)
			some = true
		}
	}
	if q.hold = nil; some {
		q.hold = []interest.Term{t}
	}
}

func (q *question) askNet() {
	if !q.equality() {
		return
	}
	var nets []netip.Prefix
	for _, v := range q.values {
		n, err := parseNet(q.term, v)
		if err != nil {
			return
		}
		nets = append(nets, n)
	}
	q.hold = []interest.Term{{Kinds: q.kinds, Nets: nets}}
}

// dotted reports whether the comparison with a value holds for nothing without
// two dots in a row.
func (q *question) dotted(v *Value) bool {
	text := v.Text
	switch q.check.Op {
	case Eq, In, Intersects, Contains, IContains, StartsWith, EndsWith:
		return strings.Contains(text, "..")
	case Glob:
		g := parseGlob(text, false)
		for i := 1; i < len(g); i++ {
			if g[i-1].kind == globLit && g[i-1].lit == '.' && g[i].kind == globLit && g[i].lit == '.' {
				return true
			}
		}
	}
	return false
}

// rawSource is the terms of events whose fs.path.source is text that a process
// gave: no path of the kernel's, so that nobody compares it there.
var rawSource = []interest.Term{
	{Kinds: event.Kinds(event.KindMount)},
	{Kinds: event.Kinds(event.KindFile), Types: []string{"symlink", "symlinkat"}},
}

func (q *question) askPath() {
	var paths []interest.Path
	for _, v := range q.values {
		ps, ok := q.paths(v)
		if !ok {
			return
		}
		paths = append(paths, ps...)
	}
	q.hold = nil
	if len(paths) > 0 {
		q.hold = append(q.hold, interest.Term{Kinds: q.kinds & interest.PathKinds, Paths: paths})
	}
	if q.term.field.Name == "fs.path.source" {
		for _, t := range rawSource {
			if t, ok := t.And(interest.Term{Kinds: q.kinds}); ok {
				q.hold = append(q.hold, t)
			}
		}
	}
	// Sockets have names of another kind, and none of them begins with a slash.
	// Descriptors of system calls may be either.
	others := q.kinds &^ interest.PathKinds
	if all(paths, rooted) {
		others &= event.Kinds(event.KindSyscall)
	}
	if others != 0 {
		q.hold = append(q.hold, interest.Term{Kinds: others})
	}
}

func rooted(p interest.Path) bool { return p.Op != interest.Suffix && strings.HasPrefix(p.Text, "/") }

// paths returns the paths that a name satisfies one of, where the comparison
// with a value holds for it. It reports false where nothing can be said.
func (q *question) paths(v *Value) ([]interest.Path, bool) {
	op, text := q.check.Op, v.Text
	switch q.term.field.Name {
	case "fd.directory":
		return directoryPaths(op, v)
	case "fd.filename":
		return filenamePaths(op, text)
	}
	switch op {
	case Eq, In, Intersects:
		return onePath(interest.Exact, text), true
	case EndsWith:
		return onePath(interest.Suffix, text), text != ""
	case Glob:
		prefix, suffix, exact := globEnds(text)
		switch {
		case exact:
			return onePath(interest.Exact, prefix), true
		case prefix != "":
			return onePath(interest.Prefix, prefix), true
		}
		return onePath(interest.Suffix, suffix), suffix != ""
	}
	return prefixPaths(op, v)
}

func onePath(op interest.PathOp, text string) []interest.Path {
	return []interest.Path{{Op: op, Text: text}}
}

// prefixPaths is of operators that look at the beginning of a path.
func prefixPaths(op Op, v *Value) ([]interest.Path, bool) {
	switch op {
	case StartsWith:
		return onePath(interest.Prefix, v.Text), v.Text != ""
	case BStartsWith:
		raw, err := unhexText(op, v)
		return onePath(interest.Prefix, raw), err == nil
	case Glob:
		prefix, _, _ := globEnds(v.Text)
		return onePath(interest.Prefix, prefix), prefix != ""
	case Pmatch:
		return treePaths(v.Text)
	}
	return nil, false
}

// treePaths is of a path that is to be a name or above it.
func treePaths(text string) ([]interest.Path, bool) {
	dir, names := "", 0
	rest := text
	for {
		var name string
		if name, rest = firstName(rest); name == "" || strings.ContainsAny(name, "?*[") {
			if names == 0 {
				return nil, false
			}
			ps := onePath(interest.Under, dir)
			if names == 1 && name == "" { // a file in no directory can be called so
				ps = append(ps, interest.Path{Op: interest.Exact, Text: dir[1:]})
			}
			return ps, true
		}
		dir += "/" + name
		names++
	}
}

func directoryPaths(op Op, v *Value) ([]interest.Path, bool) {
	text := v.Text
	if op == Glob {
		if prefix, _, exact := globEnds(text); exact {
			op, text = Eq, prefix
		}
	}
	switch op {
	case Eq, In, Intersects:
		return onePath(interest.Prefix, strings.TrimRight(text, "/")+"/"), true
	case Pmatch:
		ps, ok := treePaths(text)
		return ps[:min(len(ps), 1)], ok
	}
	return prefixPaths(op, v)
}

func filenamePaths(op Op, text string) ([]interest.Path, bool) {
	if op == Glob {
		prefix, suffix, exact := globEnds(text)
		switch {
		case exact:
			op, text = Eq, prefix
		case suffix != "":
			return onePath(interest.Suffix, suffix), true
		}
	}
	switch op {
	case Eq, In, Intersects:
		return []interest.Path{{Op: interest.Suffix, Text: "/" + text}, {Op: interest.Exact, Text: text}}, text != ""
	case EndsWith:
		return onePath(interest.Suffix, text), text != ""
	}
	return nil, false
}

// globEnds returns the text that all matches of a pattern begin and end with,
// and whether that is all of it.
func globEnds(pattern string) (prefix, suffix string, exact bool) {
	g := parseGlob(pattern, false)
	n := 0
	for n < len(g) && g[n].kind == globLit {
		n++
	}
	prefix, _ = g[:n].literals()
	if n == len(g) {
		return prefix, prefix, true
	}
	n = len(g)
	for n > 0 && g[n-1].kind == globLit {
		n--
	}
	suffix, _ = g[n:].literals()
	return prefix, suffix, false
}
