package filter

import (
	"fmt"
	"slices"
	"strings"

	"warren/event"
	"warren/interest"
)

// An Explanation says what becomes of an expression before it is evaluated.
type Explanation struct {
	// Kinds and Types are those of the events that can match: for them, and no
	// others, hooks are attached.
	Kinds event.KindSet
	Types []string
	// Left are the kinds of events that could match and are not asked for:
	// [Program.Asked].
	Left event.KindSet
	// Terms are what the kernel is asked to let through, of kinds that it judges:
	// an event for which none holds is not recorded.
	Terms []interest.Term
	// Parts are the comparisons of the expression, in order, with who judges each.
	// All of them are judged again for every event that was recorded.
	Parts []Part
	// Warnings say what costs more than its author may think.
	Warnings []string
	// Sighted are the types of events that are asked for by the file's name or number,
	// and of which the kernel shows that in all cases only where programs see objects
	// in the middle of calls (fentry). Elsewhere, of those that it does not show, all
	// are recorded.
	Sighted []string
}

// A Part is one comparison of an expression.
type Part struct {
	Text  string // with the not before it
	Judge Judge
	Note  string // "" where there is nothing to add
}

// A Judge is who decides a comparison first.
type Judge uint8

// The judges.
const (
	UserSpace    Judge = iota // the kernel records the event whatever it is
	Hooks                     // decides which hooks are attached
	Kernel                    // before the event is recorded
	KernelInPart              // the kernel decides less than the comparison asks
)

var judges = [...]string{"user space", "hooks", "kernel", "kernel, in part"}

// String returns the judge as it is shown.
func (j Judge) String() string { return judges[j] }

// kernelKinds are the kinds of events of which the kernel records only what somebody
// may want; of others it records all while anybody wants one.
var kernelKinds = interest.PathKinds | event.Kinds(event.KindSyscall)

// Explain says what of the expression the kernel decides in a stream of events.
func (p *Program) Explain() Explanation {
	want := p.Interest().Among(p.Asked())
	e := Explanation{Kinds: want.Kinds(), Left: p.kinds &^ p.Asked()}
	all := interest.Union(interest.Holder{Interest: want})
	for _, k := range e.Kinds.List() {
		for _, typ := range all.Types(k) {
			if !slices.Contains(e.Types, typ) {
				e.Types = append(e.Types, typ)
			}
		}
	}
	e.Terms = all.Among(kernelKinds).Terms()
	if p.expr != nil {
		e.parts(p.expr, false)
	}
	e.warn()
	e.sights()
	return e
}

// sights fills Sighted.
func (e *Explanation) sights() {
	var named interest.Interest
	for _, t := range e.Terms {
		if t.Paths != nil || t.Inodes != nil {
			named.Terms = append(named.Terms, t)
		}
	}
	all := interest.Union(interest.Holder{Interest: named})
	types := slices.Sorted(slices.Values(slices.Concat(all.Types(event.KindFile), all.Types(event.KindMount))))
	e.Sighted = slices.DeleteFunc(slices.Compact(types), func(typ string) bool { return slices.Contains(byDescriptor, typ) })
}

// byDescriptor are the types of which the descriptor shows the file everywhere.
var byDescriptor = []string{"fchmod", "fchown", "ftruncate"}

// parts adds the comparisons of x; not says that x stands behind an odd number
// of nots.
func (e *Explanation) parts(x Expr, not bool) {
	switch x := x.(type) {
	case *And:
		for _, y := range x.X {
			e.parts(y, not)
		}
	case *Or:
		for _, y := range x.X {
			e.parts(y, not)
		}
	case *Not:
		e.parts(x.X, !not)
	case *Check:
		p := explainCheck(x, not)
		e.beside(&p, x, not)
		e.Parts = append(e.Parts, p)
	}
}

// beside corrects what is said of a comparison on which events of some kinds have a
// field that the kernel judges in others only.
func (e *Explanation) beside(p *Part, x *Check, not bool) {
	outline := checkOutline(x)
	has := func(of func(interest.Term) bool) bool { return slices.ContainsFunc(outline.hold, of) }
	excludes := func(t interest.Term) bool { return t.NotExes != nil || t.NotNames != nil }
	some := slices.ContainsFunc(outline.hold, excludes) || slices.ContainsFunc(outline.fail, excludes)
	if p.Judge == Kernel && not != (x.Op == Ne) && some && !slices.ContainsFunc(e.Terms, excludes) {
		p.Judge, p.Note = UserSpace, "of what is left when the file is judged"
		return
	}
	outside := e.Kinds &^ (kernelKinds | event.StateKinds | event.NoticeKinds)
	switch {
	case has(func(t interest.Term) bool { return t.Ports != nil || t.Nets != nil }):
		if e.Kinds&interest.SocketKinds&^kernelKinds == 0 {
			return
		}
		if p.Note = everyConnection; p.Judge == Kernel {
			p.Judge = KernelInPart
		}
		if e.Kinds&kernelKinds == 0 {
			p.Judge = UserSpace
		}
	case p.Judge != Kernel && p.Judge != KernelInPart:
	case e.Kinds&kernelKinds == 0:
		p.Judge, p.Note = UserSpace, ""
	case outside != 0 && p.Judge == Kernel && has(func(t interest.Term) bool { return t.Kinds&outside != 0 }):
		p.Judge, p.Note = KernelInPart, "of files and system calls; of the rest all is recorded"
	}
}

// everyConnection is why the kernel judges no ports and networks of connections.
const everyConnection = "every connection is recorded: the agent's own table wants it"

func explainCheck(x *Check, not bool) Part {
	p := Part{Text: x.String()}
	o := checkOutline(x)
	if ofWorkload(x) {
		o = workloadOutline(x)
	}
	terms := o.hold
	if not {
		p.Text = "not " + p.Text
		terms = o.fail
	}
	f, _ := x.Left.(*Field)
	switch {
	case f != nil && (f.Name == "evt.type" || f.Name == "evt.kind"):
		if kindsOf(terms) != event.AllKinds || slices.ContainsFunc(terms, func(t interest.Term) bool { return t.Types != nil }) {
			p.Judge = Hooks
		}
		return p
	}
	restricted := false
	for _, t := range terms {
		if t.Kinds&kernelKinds == 0 {
			continue
		}
		if plain := (interest.Term{Kinds: t.Kinds, Types: t.Types}); !equalTerms(plain, t) {
			restricted = true
		}
	}
	switch {
	case restricted:
		p.Judge, p.Note = Kernel, widerNote(x, f)
		if p.Note != "" {
			p.Judge = KernelInPart
		}
	case kindsOf(terms) != event.AllKinds && kindsOf(terms)&kernelKinds != kindsOf(o.hold)&kindsOf(o.fail)&kernelKinds:
		p.Note = "only of events that have the field"
	}
	return p
}

func kindsOf(ts []interest.Term) event.KindSet { return interest.Interest{Terms: ts}.Kinds() }

func equalTerms(a, b interest.Term) bool {
	as := interest.Union(interest.Holder{Interest: interest.Interest{Terms: []interest.Term{a}}})
	bs := interest.Union(interest.Holder{Interest: interest.Interest{Terms: []interest.Term{b}}})
	return as.Equal(bs)
}

// widerNote says what the kernel lets through beyond a comparison that it
// judges.
func widerNote(x *Check, f *Field) string {
	if f == nil {
		return ""
	}
	if ofWorkload(x) {
		return "by the cgroup, once its container is described"
	}
	switch f.Name {
	case "fd.directory":
		if x.Op != StartsWith && x.Op != Pmatch {
			return "all below the directory"
		}
	case "user.uid":
		return ""
	case "fd.nameraw":
		return "whether there are two dots in a row"
	}
	switch x.Op {
	case Glob:
		if f.Name == "proc.exepath" || f.Name == "proc.name" {
			if v, ok := x.Right.(*Value); ok {
				if _, _, exact := globEnds(v.Text); exact {
					return ""
				}
			}
			return "the text before the first star"
		}
		return "the text before the first star, or behind the last"
	case Pmatch:
		if l, ok := x.Right.(*List); ok && slices.ContainsFunc(l.Items, func(o Operand) bool {
			v, ok := o.(*Value)
			return ok && strings.ContainsAny(v.Text, "?*[")
		}) {
			return "the directories before the first pattern"
		}
	}
	if f.Name == "evt.res" || f.Name == "evt.rawres" {
		if v, ok := x.Right.(*Value); !ok || v.Text != success && v.Text != "0" {
			return "whether the call failed"
		}
	}
	return ""
}

// frequent are types of events that a machine has thousands of in a second.
var frequent = []string{"open", "openat", "close", "fcntl", "sendmsg", "recvmsg"}

// someOf lists types: where there are many, those that are the most frequent.
func someOf(types []string) string {
	const most = 5
	if len(types) <= most {
		return strings.Join(types, ", ")
	}
	var named []string
	for _, t := range frequent {
		if slices.Contains(types, t) {
			named = append(named, t)
		}
	}
	return fmt.Sprintf("%s and %d others", strings.Join(named, ", "), len(types)-len(named))
}

// warn tells of kinds of which all is recorded, where that is much.
func (e *Explanation) warn() {
	for _, k := range (e.Kinds & kernelKinds).List() {
		var all []string
		for _, t := range e.Terms {
			if !t.Kinds.Has(k) {
				continue
			}
			if bare := (interest.Term{Kinds: t.Kinds, Types: t.Types}); !equalTerms(bare, t) {
				continue
			}
			if t.Types == nil {
				all = k.Types()
				break
			}
			for _, typ := range t.Types {
				if slices.Contains(k.Types(), typ) {
					all = append(all, typ)
				}
			}
		}
		if slices.ContainsFunc(all, func(typ string) bool { return slices.Contains(frequent, typ) }) {
			e.Warnings = append(e.Warnings, fmt.Sprintf("nothing that the kernel can decide keeps out any event of kind %s: every %s of the machine is recorded, and judged in user space", k, someOf(all)))
		}
	}
}
