package event

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Value is what a field is given: a text, or a list of them. Numbers and truth
// values are texts as [AppendJSON] writes them.
type Value struct {
	Text string
	List []string // "" where one is missing
	Many bool     // List it is
}

// A GivenError says which value of an event cannot be made.
type GivenError struct {
	Field string // its name as it was given, "" where it is about the whole
	Msg   string
}

// Error implements error.
func (e *GivenError) Error() string { return e.Msg }

func givenf(field, format string, args ...any) *GivenError {
	return &GivenError{field, fmt.Sprintf(format, args...)}
}

// Make makes the event that has some values, by the names of their fields: the
// inverse of AppendJSON, and more, as values of fields that are not in an event's
// JSON can be given too. What is not given is missing, or 0.
//
// The event has what was given: each field is read again, and one that says
// something else, because it follows from others or cannot be, is a *[GivenError].
// So is a field that there is not.
func Make(values map[string]Value) (*Event, error) {
	m := maker{values: maps.Clone(values), told: map[string]Value{}}
	for name, v := range values {
		if base, ok := strings.CutSuffix(name, ";base64"); ok {
			raw, err := base64.StdEncoding.DecodeString(v.Text)
			if err != nil {
				return nil, givenf(name, "%s is not base64", name)
			}
			delete(m.values, name)
			m.values[base] = Value{Text: string(raw)}
		}
	}
	for name, v := range m.values {
		m.told[name] = v
	}
	if err := m.kind(); err != nil {
		return nil, err
	}
	// In an order in which what others depend on comes first.
	names := slices.SortedFunc(maps.Keys(m.values), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b))
	})
	m.usual()
	for _, name := range names {
		if err := m.set(name, m.values[name]); err != nil {
			return nil, err
		}
	}
	if m.k == KindSyscall { // which argument a name is of others may say
		for _, name := range names {
			if strings.HasPrefix(name, "evt.arg") {
				if err := m.set(name, m.values[name]); err != nil {
					return nil, err
				}
			}
		}
	}
	m.complete()
	for _, name := range names {
		if err := m.check(name, m.told[name]); err != nil {
			return nil, err
		}
	}
	return m.e, nil
}

// rank says what is set first.
func rank(name string) int {
	switch name {
	case "evt.type", "evt.boot_id", "evt.hostname", "k8s.node.name":
		return 0
	case "proc.pid", "proc.argv", "fd.is_server", "evt.rawres", "k8s.pod.uid", "container.full_id", "container.id":
		return 1
	case "evt.res", "evt.ktime", "proc.exec_id", "proc.parent_exec_id":
		return 3
	case "proc.sname", "proc.duration", "proc.ppid", "proc.is_sid_leader", "proc.is_vpgid_leader", "thread.ismain", "conn.direction", "proc.nargs":
		return 4
	}
	return 2
}

// A maker puts an event together.
type maker struct {
	values, told map[string]Value
	k            Kind
	e            *Event
	l            *Layout
	host         struct{ name, node, boot string }
}

// kind finds the kind of event that the values are of.
func (m *maker) kind() error {
	typ, named := m.values["evt.type"], m.values["evt.kind"]
	set := AllKinds &^ StateKinds
	if named.Text != "" {
		k, ok := LookupKind(named.Text)
		if !ok || StateKinds.Has(k) {
			return givenf("evt.kind", "no event is of kind %s", named.Text)
		}
		set = Kinds(k)
	}
	switch {
	case typ.Text != "":
		if set &= KindsOfType(typ.Text); set == 0 {
			return givenf("evt.type", "no event is of type %s", typ.Text)
		}
	case named.Text == "":
		return givenf("", "an event needs evt.type")
	}
	candidates := set
	if r := m.values["evt.res"].Text; r != "" && r != "SUCCESS" && named.Text == "" {
		if left := candidates &^ Kinds(KindExec, KindFork, KindCredentials, KindNamespace); left != 0 {
			candidates = left // those are told of calls that succeed
		}
	}
	for name := range m.values {
		f, err := givenField(name)
		if err != nil {
			return err
		}
		if err := givenBrackets(f, name); err != nil {
			return err
		}
		if f.kinds&candidates == 0 {
			return givenf(name, "events of type %s do not have %s", cmp.Or(typ.Text, named.Text), name)
		}
		candidates &= f.kinds
	}
	if candidates == 0 {
		return givenf("", "no kind of event has all these fields")
	}
	m.k = candidates.List()[0]
	m.l = LayoutOf(m.k)
	m.e = m.l.NewEvent()
	return nil
}

// givenField finds the field that a name with brackets, or without, is of.
func givenField(name string) (*Field, error) {
	base, _, _ := strings.Cut(name, "[")
	f, ok := Lookup(base)
	if !ok {
		return nil, &GivenError{name, "no field " + base}
	}
	return f, nil
}

// givenBrackets reports brackets that a field does not have, or that it has to.
func givenBrackets(f *Field, name string) error {
	_, key, bracket := strings.Cut(name, "[")
	switch {
	case bracket && !strings.HasSuffix(key, "]"):
		return givenf(name, "%s has no closing bracket", name)
	case bracket && f.Arg != KeyArg && f.Many != Ancestors:
		return givenf(name, "%s cannot be given with something in brackets", f.Name)
	case !bracket && f.Arg == KeyArg && !f.KeyOptional:
		return givenf(name, "%s wants a key in brackets", f.Name)
	}
	return nil
}

// usual gives what was not given its usual value, where 0 is not that.
func (m *maker) usual() {
	for name := range m.values {
		if c := layouts[KindProcess].Column(name); c != nil && !c.Extern || strings.HasPrefix(name, "proc.") || strings.HasPrefix(name, "container.") || strings.HasPrefix(name, "k8s.") && !strings.HasPrefix(name, "k8s.remote") && name != "k8s.node.name" {
			m.process()
			break
		}
	}
	if d, ok := m.e.Data.(*Syscall); ok {
		d.Call = LookupCall(m.values["evt.type"].Text)
	}
}

func (m *maker) process() *Process {
	if m.e.Process == nil {
		m.e.Process = &Process{LoginUID: NoLogin}
	}
	return m.e.Process
}

func (m *maker) ancestor(n int) *Process {
	p := m.process()
	for range n {
		if p.Parent == nil {
			p.Parent = &Process{LoginUID: NoLogin}
		}
		p = p.Parent
	}
	return p
}

// recorded reports whether the values are those of an event that happened, whole.
func (m *maker) recorded() bool { _, ok := m.values["evt.num"]; return ok }

// complete sets what follows from what was given.
func (m *maker) complete() {
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(n string) bool { _, ok := m.values[n]; return ok })
	}
	if m.host.name != "" || m.host.boot != "" || m.host.node != "" {
		m.e.past().Host = NewHost(m.host.name, m.host.node, m.host.boot)
	}
	p := m.e.Process
	if p != nil {
		if p.Key.PID == 0 {
			p.Key.PID = p.PID
		}
		for a := p; a.Parent != nil; a = a.Parent {
			p.Depth++
			if a.Parent.Key.PID == 0 {
				a.Parent.Key.PID = a.Parent.PID
			}
			if a.ParentKey.IsZero() {
				a.ParentKey = a.Parent.Key
			} else {
				a.Parent.Key, a.Parent.PID = a.ParentKey, a.ParentKey.PID
			}
		}
		m.e.Actor = p.Key
		argv := has("proc.argv") // which has set both
		if !argv && p.Cmdline == "" && !m.recorded() {
			p.Cmdline = strings.TrimSpace(p.Name + " " + p.ArgsLine)
		}
		if !argv && len(p.Args) == 0 && (p.Exe != "" || p.ArgsLine != "") {
			p.Args = append([]string{cmp.Or(p.Exe, p.Name)}, strings.Fields(p.ArgsLine)...)
		}
	}
	if d, ok := m.e.Data.(*Open); ok && !m.recorded() {
		if o := &d.FileObject; o.FileMode == 0 && !has("fd.type", "fd.typechar", "file.type") && d.Res == 0 {
			o.FileMode = unix.S_IFREG
		}
		if !has("evt.is_open_read", "evt.is_open_write") {
			how := d.Flags & unix.O_ACCMODE
			d.Read, d.Write = how != unix.O_WRONLY, how != unix.O_RDONLY
		} else if !has("evt.arg.flags") {
			switch {
			case d.Write && d.Read:
				d.Flags |= unix.O_RDWR
			case d.Write:
				d.Flags |= unix.O_WRONLY
			}
		}
	}
	if d, ok := m.e.Data.(*Connection); ok && !m.recorded() && d.L4 == 0 {
		d.L4 = TCP
	}
	if d, ok := m.e.Data.(*K8sAudit); ok && !m.recorded() {
		m.completeAudit(d)
	}
}

// set gives the event a value.
func (m *maker) set(name string, v Value) error {
	if fn, ok := givers[name]; ok {
		if done, err := fn(m, v); done || err != nil {
			return wrongGiven(name, v, err)
		}
	}
	f, err := givenField(name)
	if err != nil {
		return err
	}
	_, key, bracket := strings.Cut(name, "[")
	key = strings.TrimSuffix(key, "]")
	switch {
	case f.Many == Ancestors:
		return m.setAncestors(f, key, bracket, v)
	case strings.HasPrefix(f.Name, "evt.arg") && m.k == KindSyscall:
		return wrongGiven(name, v, m.setArg(name, cmp.Or(key, strings.TrimPrefix(f.Name, "evt.arg.")), v.Text))
	}
	if of, ok := parentFields()[f.Name]; ok {
		return wrongGiven(name, v, setColumn(layouts[KindProcess].Column(of), m.ancestor(1).Record(), v))
	}
	if f.Arg == KeyArg && bracket {
		return m.setLabel(f, key, v)
	}
	if c := m.l.Column(f.Name); c != nil && !c.Extern {
		return wrongGiven(name, v, setColumn(c, m.e.Record(), v))
	}
	if c := layouts[KindProcess].Column(f.Name); c != nil && !c.Extern {
		return wrongGiven(name, v, setColumn(c, m.process().Record(), v))
	}
	return nil // it follows from others: check tells whether it does
}

func wrongGiven(name string, v Value, err error) error {
	if err == nil {
		return nil
	}
	return givenf(name, "%s cannot be %s: %v", name, v, err)
}

// String returns the value as a message shows it.
func (v Value) String() string {
	if v.Many {
		return "[" + strings.Join(v.List, ", ") + "]"
	}
	return strconv.Quote(v.Text)
}

// parentFields are the names of the fields that a parent's have otherwise:
// proc.pname is proc.name.
func parentFields() map[string]string {
	return map[string]string{"proc.pname": "proc.name", "proc.pexe": "proc.exe", "proc.pexepath": "proc.exepath", "proc.pcmdline": "proc.cmdline"}
}

// ancestorFields are those of ancestors.
func ancestorFields() map[string]string {
	return map[string]string{"proc.apid": "proc.pid", "proc.aname": "proc.name", "proc.aexe": "proc.exe", "proc.aexepath": "proc.exepath", "proc.acmdline": "proc.cmdline"}
}

func (m *maker) setAncestors(f *Field, key string, bracket bool, v Value) error {
	c := layouts[KindProcess].Column(ancestorFields()[f.Name])
	if c == nil {
		return givenf(f.Name, "%s cannot be given", f.Name)
	}
	list, from := v.List, 1
	if bracket {
		n, err := strconv.Atoi(key)
		if err != nil || n < 0 || n > maxGiven {
			return givenf(f.Name+"["+key+"]", "%s is no ancestor's number", key)
		}
		list, from = []string{v.Text}, n
	} else if !v.Many {
		list = []string{v.Text}
	}
	if len(list) > maxGiven {
		return givenf(f.Name, "%s has more than %d values", f.Name, maxGiven)
	}
	for i, text := range list {
		a := m.ancestor(from + i)
		if text == "" {
			continue
		}
		if err := setColumn(c, a.Record(), Value{Text: text}); err != nil {
			return wrongGiven(f.Name, v, err)
		}
	}
	return nil
}

// maxGiven is how many ancestors an event can be given.
const maxGiven = 1000

func (m *maker) setLabel(f *Field, key string, v Value) error {
	name := map[string]string{"k8s.pod.label": "k8s.pod.labels", "k8s.ns.label": "k8s.ns.labels"}[f.Name]
	name = cmp.Or(name, f.Name)
	r := Record{}
	c := m.l.Column(name)
	if c != nil {
		r = m.e.Record()
	} else if c = layouts[KindProcess].Column(name); c != nil {
		r = m.process().Record()
	}
	if c == nil || c.Rep != MapRep {
		return givenf(f.Name, "%s cannot be given", f.Name)
	}
	all := maps.Clone(f.All(m.e))
	if all == nil {
		all = map[string]string{}
	}
	all[key] = v.Text
	c.SetMap(r, all)
	return nil
}

// setColumn gives a record a column's value, as text.
func setColumn(c *Column, r Record, v Value) error {
	if v.Many != (c.Rep == ListRep) {
		if v.Many && c.Rep != ListRep {
			return fmt.Errorf("it has one value, and no list of them")
		}
		v = Value{List: []string{v.Text}, Many: true}
	}
	switch c.Rep {
	case StrRep:
		c.SetStr(r, v.Text)
	case ListRep:
		c.SetList(r, v.List)
	case AddrRep:
		a, err := netip.ParseAddr(v.Text)
		if err != nil {
			return fmt.Errorf("that is no address")
		}
		c.SetAddr(r, a)
	case MapRep:
		all := map[string]string{}
		for part := range strings.SplitSeq(v.Text, ", ") {
			key, value, _ := strings.Cut(part, ":")
			all[key] = value
		}
		c.SetMap(r, all)
	case IntRep:
		n, err := numberOf(c, v.Text)
		if err != nil {
			return err
		}
		c.SetInt(r, n)
	}
	return nil
}

// numberOf reads the number of an IntRep column.
func numberOf(c *Column, text string) (int64, error) {
	switch {
	case c.Type == Bool:
		yes, err := strconv.ParseBool(text)
		if err != nil {
			return 0, fmt.Errorf("it is true or false")
		}
		return truth(yes), nil
	case c.Type == Time:
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return 0, fmt.Errorf("that is no time of RFC 3339")
		}
		return t.UnixNano(), nil
	case c.names != nil:
		n, ok := c.Number(text)
		if !ok {
			return 0, fmt.Errorf("there is no such name")
		}
		return n, nil
	}
	return numberText(text)
}

func numberText(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 0, 64)
	if err != nil {
		u, err := strconv.ParseUint(text, 0, 64)
		if err != nil {
			return 0, fmt.Errorf("that is no number")
		}
		return int64(u), nil
	}
	return n, nil
}

// check reads a value again.
func (m *maker) check(name string, want Value) error {
	f, err := givenField(name)
	if err != nil {
		return err
	}
	_, key, bracket := strings.Cut(name, "[")
	key = strings.TrimSuffix(key, "]")
	var got []string
	switch {
	case f.Arg == KeyArg && bracket:
		if s, ok := f.Key(m.e, key); ok {
			got = []string{s}
		}
	case f.Many == Ancestors && bracket:
		n, _ := strconv.Atoi(key)
		got = m.read(f, n, n+1)
	case f.Many == Ancestors:
		got = m.read(f, 1, m.generations())
	case f.Many == One:
		got = m.read(f, 0, 1)
	default:
		got = m.read(f, 0, len(want.List)+2)
		for len(got) > 0 && got[len(got)-1] == "" {
			got = got[:len(got)-1]
		}
	}
	expected := want.List
	if !want.Many {
		expected = []string{want.Text}
	}
	same := slices.EqualFunc(got, expected, func(a, b string) bool { return sameValue(f, a, b) })
	if want.Text == "" && !want.Many && len(got) == 0 {
		same = true
	}
	if f.Many == Ancestors && !bracket && len(expected) < len(got) { // another field knows more generations
		same = slices.EqualFunc(got[:len(expected)], expected, func(a, b string) bool { return sameValue(f, a, b) }) && !m.recorded()
	}
	if same || !want.Many && f.Many == Either && slices.ContainsFunc(got, func(a string) bool { return sameValue(f, a, want.Text) }) {
		return nil
	}
	said := "it is missing"
	if len(got) > 0 {
		said = "it is " + strings.Join(got, ", ")
	}
	return givenf(name, "%s cannot be %s: by the other fields %s", name, want, said)
}

// generations returns how many there are, the process included.
func (m *maker) generations() (n int) {
	for p := m.e.Process; p != nil; p = p.Parent {
		n++
	}
	return n
}

// read returns values as AppendJSON writes them.
func (m *maker) read(f *Field, from, to int) (list []string) {
	for i := from; i < to; i++ {
		switch f.Type {
		case String:
			s, ok := f.Str(m.e, i)
			if !ok && f.Many != Ancestors {
				return list
			}
			list = append(list, s)
		default:
			b, ok, _ := appendValue(nil, f, m.e, i)
			if !ok && f.Many == List {
				return list
			}
			if ok {
				list = append(list, strings.Trim(string(b), `"`))
			}
		}
	}
	return list
}

// sameValue compares values as text, or as what the text stands for.
func sameValue(f *Field, a, b string) bool {
	if a == b {
		return true
	}
	switch f.Type {
	case Int, Uint, Duration:
		x, err := numberText(a)
		y, err2 := numberText(b)
		return err == nil && err2 == nil && x == y
	case Time:
		x, err := time.Parse(time.RFC3339Nano, a)
		y, err2 := time.Parse(time.RFC3339Nano, b)
		return err == nil && err2 == nil && x.Equal(y)
	case Bool:
		x, err := strconv.ParseBool(a)
		y, err2 := strconv.ParseBool(b)
		return err == nil && err2 == nil && x == y
	case IP, Net:
		x, err := netip.ParseAddr(a)
		y, err2 := netip.ParseAddr(b)
		return err == nil && err2 == nil && x == y
	}
	return false
}
