package filter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"warren/event"
	"warren/interest"
)

// A Counting says what of the events that an expression holds for the kernel can
// count, for somebody who wants to know how many there are by some fields.
type Counting struct {
	// Kinds are those that it counts; Told those that it could count but for Why.
	Kinds, Told event.KindSet
	Why         []string
	by          interest.Counted
}

// Counting says what the kernel can count of events of some kinds, by fields. It
// counts those that are equal in all fields that are asked for, in by and in the
// expression: by process, type, result and purpose, and by directory. What
// another field would tell apart is recorded.
func (p *Program) Counting(by []string, among event.KindSet) Counting {
	c := Counting{by: interest.CountedByProcess}
	for _, k := range (p.Interest().Among(among).Kinds() & interest.CountedKinds).List() {
		var why []string
		for _, name := range by {
			if !c.field(k, name) {
				why = append(why, name)
			}
		}
		if p.expr != nil {
			why = c.expr(k, p.expr, why)
		}
		if len(why) == 0 {
			c.Kinds |= event.Kinds(k)
			continue
		}
		c.Told |= event.Kinds(k)
		for _, text := range why {
			if !slices.Contains(c.Why, text) {
				c.Why = append(c.Why, text)
			}
		}
	}
	return c
}

// String says it to people: what is counted where; "" where that is no question.
func (c Counting) String() string {
	var parts []string
	if c.Kinds != 0 {
		parts = append(parts, "events of kind "+strings.ReplaceAll(c.Kinds.String(), ",", ", ")+" are counted in the kernel")
	}
	if c.Told != 0 {
		parts = append(parts, fmt.Sprintf("every event of kind %s is recorded to be counted: the kernel cannot count by %s", strings.ReplaceAll(c.Told.String(), ",", ", "), strings.Join(c.Why, ", ")))
	}
	return strings.Join(parts, "; ")
}

// Counted returns the program for who only counts what it holds for, by fields:
// its Interest says so of what the kernel can count.
func (p *Program) Counted(by []string, among event.KindSet) *Program {
	c := p.Counting(by, among)
	if c.Kinds == 0 {
		return p
	}
	counted := *p
	counted.counting = &c
	return &counted
}

// counted says of terms that they only count, where they do.
func (c *Counting) counted(i interest.Interest) interest.Interest {
	out := i.Among(event.AllKinds &^ c.Kinds)
	for _, t := range i.Among(c.Kinds).Terms {
		t.Counted = c.by
		out.Terms = append(out.Terms, t)
	}
	return out
}

// sameFields are fields that are equal in all events that the kernel counts as
// one: of what happened, and of who did it.
var sameFields = []string{
	"evt.kind", "evt.type", "evt.res", "evt.hostname", "k8s.node.name", "evt.boot_id", "evt.is_open_read", "evt.is_open_write",
	"evt.is_open_exec", "evt.is_open_create", "evt.io_uring", "fd.name_error", "fd.name_unresolved", "file.deleted", "file.memfd",
	"proc.pid", "proc.vpid", "proc.exec_id", "proc.name", "proc.exe", "proc.exepath", "proc.cmdline", "proc.args", "proc.exeline", "proc.filename",
	"proc.interp", "proc.start", "proc.pid.ts", "proc.exec_time", "proc.nargs", "proc.cmdnargs", "proc.cmdlenargs", "proc.exe_ino", "proc.exe_dev", "proc.is_kthread",
	"proc.is_exe_from_memfd", "proc.is_exe_upper_layer", "proc.is_exe_lower_layer",
	"proc.ppid", "proc.pname", "proc.pexe", "proc.pexepath", "proc.pcmdline", "proc.apid", "proc.aname", "proc.aexe", "proc.aexepath", "proc.acmdline",
	"user.uid", "user.name", "group.gid",
	"proc.cgroup", "proc.cgroup.id", "proc.unit",
	"container.id", "container.full_id", "container.type", "container.name", "container.image", "container.image.id",
	"container.image.repository", "container.image.tag", "container.image.digest",
	"k8s.ns.name", "k8s.pod.name", "k8s.pod.uid",
}

// field reports whether a field is equal in all events of a kind that are counted
// as one, and sees to it where it can be.
func (c *Counting) field(k event.Kind, name string) bool {
	f, known := event.Lookup(name)
	switch {
	case !known:
		return false
	case !f.Kinds().Has(k) || slices.Contains(sameFields, f.Name):
		return true
	case k == event.KindOpen && f.Name == "fd.directory":
		c.by |= interest.CountedByDirectory
		return true
	}
	return false
}

// expr appends the comparisons of x that tell events apart that are counted as
// one.
func (c *Counting) expr(k event.Kind, x Expr, why []string) []string {
	switch x := x.(type) {
	case *And:
		for _, y := range x.X {
			why = c.expr(k, y, why)
		}
	case *Or:
		for _, y := range x.X {
			why = c.expr(k, y, why)
		}
	case *Not:
		why = c.expr(k, x.X, why)
	case *Check:
		if !c.check(k, x) {
			why = append(why, strconv.Quote(x.String())+hint(x))
		}
	default:
		why = append(why, x.String())
	}
	return why
}

// hint says what could be asked for instead.
func hint(x *Check) string {
	f, ok := x.Left.(*Field)
	if _, value := x.Right.(*Value); ok && value && x.Op == StartsWith && (f.Name == "fd.name" || f.Name == "fs.path.name") {
		return " (with a slash at its end it could)"
	}
	return ""
}

func (c *Counting) check(k event.Kind, x *Check) bool {
	f, ok := x.Left.(*Field)
	v, value := x.Right.(*Value)
	if ok && value {
		switch f.Name {
		case "evt.rawres", "fd.num": // all that failed have the same result, and all others are 0 or more
			if v.Text == "0" && (x.Op == Ge || x.Op == Lt) && (k == event.KindOpen || f.Name == "evt.rawres") {
				return true
			}
		case "fd.name", "fs.path.name": // which the directory begins with
			// What lies in the root itself is not counted.
			if k == event.KindOpen && x.Op == StartsWith && (strings.HasSuffix(v.Text, "/") || strings.LastIndexByte(v.Text, '/') == 0) {
				return c.field(k, "fd.directory")
			}
		}
	}
	return c.operand(k, x.Left) && c.operand(k, x.Right)
}

func (c *Counting) operand(k event.Kind, o Operand) bool {
	switch o := o.(type) {
	case nil, *Value, *List:
		return true
	case *Field:
		return c.field(k, o.Name)
	case *Call:
		return all(o.Args, func(arg Operand) bool { return c.operand(k, arg) })
	}
	return false
}
