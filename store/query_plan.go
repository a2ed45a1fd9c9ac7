package store

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"warren/event"
	"warren/filter"
)

// A plan is a filter for one kind of events, in the form in which it is asked of
// columns. What columns cannot tell is unknown, and may be either; so a plan lets
// through every event that the filter matches, and some others.
type plan struct {
	kind   event.Kind
	layout *event.Layout
	root   *test // nil: everything
	procs  *processLeaves
	needed map[int]bool // columns that the tests look at
}

// processLeaves are the leaves of all plans of a query that are decided by the
// process that acted.
type processLeaves struct {
	all    []*leaf
	byText map[string]*leaf
}

// A test is a node of a plan. One of its members is set; none is an unknown.
type test struct {
	all, any []*test
	not      *test
	leaf     *leaf
}

// A leaf is a comparison. Columns tell exactly whether it holds.
type leaf struct {
	cmp  *filter.Comparison
	id   int // counts leaves
	form leafForm
	// cols are the columns that have the value, by index of the layout: one; or those of
	// this machine's end and of the other.
	cols   [2]int
	server int  // index of fd.is_server, where cols are chosen by it
	want   bool // what fd.is_server is where the value is in cols[0]
	// loose says that the column has a value where the field may have none, or none
	// where the field may be 0: so that only rows for which it cannot hold are known.
	loose bool

	// program decides a leaf on processes.
	program *filter.Program
	column  *event.Column // of processes, where one has the value; nil: ask program
	instead string        // what stands for a process without the column: host
	// above says that the column is asked of the process's ancestors.
	above bool
}

type leafForm uint8

const (
	leafColumn  leafForm = iota // cols[0]
	leafPick                    // cols[0] or cols[1], by server
	leafEither                  // cols[0] and cols[1]
	leafProcess                 // of the process
)

// ends are fields of a socket that are of the client's or the server's end.
var ends = map[string]struct {
	server      bool
	near, other string
}{
	"fd.cip": {false, "fd.lip", "fd.rip"}, "fd.sip": {true, "fd.lip", "fd.rip"},
	"fd.cnet": {false, "fd.lip", "fd.rip"}, "fd.snet": {true, "fd.lip", "fd.rip"},
	"fd.cport": {false, "fd.lport", "fd.rport"}, "fd.sport": {true, "fd.lport", "fd.rport"},
	"fd.cip.name": {false, "fd.lip.name", "fd.rip.name"}, "fd.sip.name": {true, "fd.lip.name", "fd.rip.name"},
}

// aliases are fields that have the values of a column with another name.
var aliases = map[string]string{"fd.lnet": "fd.lip", "fd.rnet": "fd.rip", "evt.rawtime": "evt.time"}

var either = map[string][2]string{"fd.ip": {"fd.lip", "fd.rip"}, "fd.net": {"fd.lip", "fd.rip"}, "fd.port": {"fd.lport", "fd.rport"}}

// different are columns that have values where the field of their name has none, or
// the other way.
var different = map[string]bool{
	"evt.count": true, "evt.time_last": true, event.ColumnExecID: true, "conn.duration": true, "fd.num": true, "file.uid": true, "file.links": true,
	"flow.policy_tier": true, "flow.icmp_type": true, "flow.icmp_code": true, "k8s.remote.node.name": true,
}

// looseColumns are those of them whose value is the field's, where it has one that is
// not 0.
var looseColumns = map[string]bool{
	"evt.count": true, "evt.time_last": true, "conn.duration": true, "file.uid": true, "file.links": true, "flow.icmp_type": true, "flow.icmp_code": true,
}

// hostNames are fields of containers that say host outside of them.
var hostNames = map[string]bool{"container.id": true, "container.type": true, "container.name": true}

// columnUntil is the end of a time of which nothing is known, of losses.
const columnUntil = "lost.until"

// planFor makes the plan of a filter for events of a kind. It is nil where the
// filter holds for none of them.
func planFor(p *filter.Program, k event.Kind, procs *processLeaves) *plan {
	if p != nil && !p.Kinds().Has(k) {
		return nil
	}
	pl := &plan{kind: k, layout: event.LayoutOf(k), procs: procs, needed: map[int]bool{}}
	if pl.layout == nil {
		return nil
	}
	if p != nil {
		if c := p.Condition(); c != nil {
			if pl.root = pl.test(c); pl.root == never {
				return nil
			}
		}
	}
	for _, name := range []string{"evt.time", "evt.num", event.ColumnSnapshot, event.ColumnExecID, columnUntil} {
		if c := pl.layout.Column(name); c != nil {
			pl.needed[c.Index] = true
		}
	}
	return pl
}

// never is a test that holds for no event of the plan's kind.
var never = &test{any: []*test{}}

// test makes a test of a condition, without what the kind decides: a question that is
// about losses too must not have to look at every event for that.
func (p *plan) test(c *filter.Condition) *test {
	t := &test{}
	switch {
	case c.All != nil:
		for _, x := range c.All {
			part := p.test(x)
			if part == never {
				return never
			}
			t.all = append(t.all, part)
		}
		slices.SortStableFunc(t.all, dearer)
	case c.Any != nil:
		for _, x := range c.Any {
			if part := p.test(x); part != never {
				t.any = append(t.any, part)
			}
		}
		switch len(t.any) {
		case 0:
			return never
		case 1:
			return t.any[0]
		}
		slices.SortStableFunc(t.any, dearer)
	case c.Not != nil:
		if t.not = p.test(c.Not); t.not == never {
			return &test{}
		}
	case c.Compared != nil && c.Compared.Field.Name == "evt.kind":
		if !c.Compared.Text(p.kind.String()) {
			return never
		}
	case c.Compared != nil && !c.Compared.Field.Has(p.kind):
		return never // a comparison fails where there is no value
	case p.ofProcess(c.Expr):
		t.leaf = p.processLeaf(c)
	case c.Compared != nil:
		if t.leaf = p.eventLeaf(c.Compared); t.leaf != nil {
			p.needed[t.leaf.cols[0]], p.needed[t.leaf.cols[1]], p.needed[t.leaf.server] = true, true, true
		}
	}
	return t
}

// dearer orders tests by what they cost: each is asked only of what those before it
// have left.
func dearer(a, b *test) int { return cmp.Compare(a.cost(), b.cost()) }

func (t *test) cost() int {
	switch {
	case t.not != nil:
		return t.not.cost()
	case t.leaf == nil:
		return 5 // several of them, or an unknown
	case t.leaf.form == leafProcess:
		return 4
	case t.leaf.form != leafColumn:
		return 3
	case t.leaf.cmp.Num != nil:
		return 2
	}
	return 1
}

// ofProcess reports whether a comparison looks at nothing but the process, its
// container and its pod.
func (p *plan) ofProcess(x filter.Expr) bool {
	names := filter.FieldsOf(x)
	for _, name := range names {
		f, ok := event.Lookup(name)
		if !ok || f.Kinds() != event.AllKinds {
			return false
		}
		switch part, _, _ := strings.Cut(name, "."); part {
		case "proc", "thread", "user", "group":
			if name == "proc.duration" || name == "proc.ppid.duration" {
				return false
			}
		case "container":
			if name == "container.duration" {
				return false
			}
		case "k8s":
			if name == "k8s.node.name" || p.kind == event.KindFlow {
				return false
			}
		default:
			return false
		}
	}
	return len(names) > 0
}

func (p *plan) processLeaf(c *filter.Condition) *leaf {
	text := c.Expr.String()
	if l := p.procs.byText[text]; l != nil {
		return l
	}
	program, err := filter.CompileExpr(c.Expr)
	if err != nil {
		return nil // cannot be: the whole has been compiled
	}
	l := &leaf{cmp: c.Compared, id: len(p.procs.all), form: leafProcess, program: program}
	if c.Compared != nil && (c.Compared.Field.Many == event.One || c.Compared.Field.Many == event.Ancestors) {
		name := c.Compared.Field.Name
		if l.above = c.Compared.Field.Many == event.Ancestors; l.above {
			name = strings.Replace(name, "proc.a", "proc.", 1)
		}
		if col := event.LayoutOf(event.KindProcess).Column(name); col != nil && col.Type == c.Compared.Field.Type && !different[name] && col.Rep != event.MapRep && col.Rep != event.ListRep &&
			(col.Type == event.String || !strings.HasPrefix(name, "container.")) { // the host is told of as a container with zeros
			l.column = col
			if hostNames[name] {
				l.instead = "host"
			}
		}
	}
	if p.procs.byText == nil {
		p.procs.byText = map[string]*leaf{}
	}
	p.procs.byText[text] = l
	p.procs.all = append(p.procs.all, l)
	return l
}

// eventLeaf returns nil where no column has what the field has.
func (p *plan) eventLeaf(c *filter.Comparison) *leaf {
	l, f := &leaf{cmp: c}, c.Field
	index := func(name string) int {
		if col := p.layout.Column(name); col != nil {
			return col.Index
		}
		return -1
	}
	switch e, ok := ends[f.Name]; {
	case ok:
		l.form, l.cols, l.server, l.want = leafPick, [2]int{index(e.near), index(e.other)}, index("fd.is_server"), e.server
		if l.cols[0] < 0 || l.cols[1] < 0 || l.server < 0 {
			return nil
		}
		return l
	case f.Many == event.Either:
		names, ok := either[f.Name]
		if !ok {
			return nil
		}
		l.form, l.cols = leafEither, [2]int{index(names[0]), index(names[1])}
		if l.cols[0] < 0 || l.cols[1] < 0 {
			return nil
		}
		return l
	}
	name := f.Name
	if s, ok := aliases[name]; ok {
		name = s
	}
	l.cols[0] = index(name)
	if l.cols[0] < 0 || different[name] && !looseColumns[name] {
		return nil
	}
	l.loose = looseColumns[name]
	col := p.layout.Columns[l.cols[0]]
	if col.Rep == event.MapRep || (col.Rep == event.ListRep) != (f.Many == event.List) {
		return nil
	}
	// A column of numbers that have names is compared as text, as the field is.
	text := c.Text != nil && col.Type == event.String
	addr := c.Addr != nil && col.Type == event.IP
	num := c.Num != nil && col.Type != event.String && col.Type != event.IP && col.Rep == event.IntRep
	if !text && !addr && !num {
		return nil
	}
	return l
}

// A view is a column of some rows, for leaves to look at.
type view struct {
	vector
	addrs []netip.Addr // dict as addresses
}

// onlyTexts returns the texts that a column must have one of for the comparison to
// hold, as a file has them; nil where nothing can be said.
func onlyTexts(c *filter.Comparison) []string {
	if c.Addrs == nil {
		return c.Only
	}
	var l []string
	for _, a := range c.Addrs {
		l = append(l, a.String())
		if a.Is4() {
			l = append(l, netip.AddrFrom16(a.As16()).String())
		}
	}
	return l
}
