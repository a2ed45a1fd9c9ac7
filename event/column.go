package event

import (
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"warren/cluster"
)

// A Rep is how the values of a column lie in memory.
type Rep uint8

// The representations. Numbers are also truth values, times in nanoseconds since
// 1970, and what has names: see [Column.Text].
const (
	IntRep Rep = iota + 1
	StrRep
	AddrRep
	ListRep // of strings
	MapRep  // of strings to strings
)

var repNames = [...]string{"", "int", "string", "addr", "list", "map"}

// String returns the representation's name.
func (r Rep) String() string { return repNames[r] }

// A Column is one value that every event of a kind, or every process, can have:
// what a history keeps of it. Columns are described by the members of the
// structs. Those with a field tag are called as the field is; the others by a
// column tag, where "-" is none.
//
// All columns together are the event: taken out of one and put into a new one,
// they make its equal, but for what the history keeps apart: Process, Process.Parent
// and Past.Host.
type Column struct {
	Name string
	Type Type
	Rep  Rep
	// Index is the column's place in Layout.Columns.
	Index int
	// Extern is true of columns that no event holds: whoever keeps the columns
	// fills them. They have no getters and no setters.
	Extern bool

	layout *Layout
	group  int
	nulls  nullRule
	null   int64 // the number that is none, with nullIs
	names  *naming

	strs  func(at []unsafe.Pointer, dst []string)
	ints  func(at []unsafe.Pointer, dst []int64)
	addrs func(at []unsafe.Pointer, dst []netip.Addr)
	lists func(at []unsafe.Pointer, dst [][]string)
	maps  func(at []unsafe.Pointer, dst []map[string]string)

	setInt  func(at unsafe.Pointer, v int64)
	setStr  func(at unsafe.Pointer, v string)
	setAddr func(at unsafe.Pointer, v netip.Addr)
	setList func(at unsafe.Pointer, v []string)
	setMap  func(at unsafe.Pointer, v map[string]string)
}

// nullRule says when a column has no value.
type nullRule uint8

const (
	never  nullRule = iota // where its struct is, it has one
	nullIs                 // when it is the zero value; of numbers, Column.null
)

// Text returns what a number of an IntRep column of type String stands for.
func (c *Column) Text(v int64) string {
	if c.names == nil {
		return strconv.FormatInt(v, 10)
	}
	return c.names.text(v)
}

// Number is the inverse of Text. It reports false for what stands for none.
func (c *Column) Number(s string) (int64, bool) {
	if c.names == nil {
		v, err := strconv.ParseInt(s, 10, 64)
		return v, err == nil
	}
	return c.names.number(s)
}

// A Layout is the columns of a kind of events, or of processes, in an order that
// does not change while the program runs.
type Layout struct {
	Kind    Kind // KindProcess for processes
	Columns []*Column

	byName   map[string]*Column
	groups   []group
	defaults []func(root unsafe.Pointer)
}

// A group is the columns of one struct: the record itself, its Data, or what a
// member points to.
type group struct {
	parent int
	off    uintptr
	data   bool // Event.Data
	make   func() unsafe.Pointer
}

// Column finds a column by name, nil if there is none.
func (l *Layout) Column(name string) *Column { return l.byName[name] }

// Names of the columns that refer to processes: an event's by its snapshot and
// exec id, a process's parent likewise. They are Extern.
const (
	ColumnExecID         = "proc.exec_id"
	ColumnSnapshot       = "proc.snapshot"
	ColumnParentExecID   = "proc.parent_exec_id"
	ColumnParentSnapshot = "proc.parent_snapshot"
)

var layouts = buildLayouts()

// LayoutOf returns the columns of a kind. It is nil for kinds that reach no
// consumer, but for KindProcess, for which it is that of [Process]: the
// snapshots that events refer to.
func LayoutOf(k Kind) *Layout {
	if k >= numKinds {
		return nil
	}
	return layouts[k]
}

func buildLayouts() (all [numKinds]*Layout) {
	for k := Kind(1); k < numKinds; k++ {
		if StateKinds.Has(k) {
			continue
		}
		l := &Layout{Kind: k, byName: map[string]*Column{}, groups: []group{{}, {data: true}}}
		l.extern("evt.time", Time, IntRep).own(eventTimes, setEventTime)
		l.walk(reflect.TypeFor[Event](), 0, 0, "")
		l.eventColumns()
		l.extern(ColumnSnapshot, Int, IntRep)
		l.extern(ColumnExecID, String, StrRep)
		l.walk(kinds[k].data, 1, 0, "")
		all[k] = l
	}
	l := &Layout{Kind: KindProcess, byName: map[string]*Column{}, groups: []group{{}}}
	for _, name := range []string{"evt.time", ColumnSnapshot, ColumnExecID, ColumnParentSnapshot, ColumnParentExecID} {
		switch name {
		case "evt.time":
			l.extern(name, Time, IntRep)
		case ColumnSnapshot, ColumnParentSnapshot:
			l.extern(name, Int, IntRep)
		default:
			l.extern(name, String, StrRep)
		}
	}
	l.walk(reflect.TypeFor[Process](), 0, 0, "")
	all[KindProcess] = l
	return all
}

func (l *Layout) extern(name string, t Type, r Rep) *Column {
	return l.add(&Column{Name: name, Type: t, Rep: r, Extern: true})
}

// own gives an extern column getters after all: get tells those of many events,
// noInt for none.
func (c *Column) own(get func(at []unsafe.Pointer, dst []int64), set func(*Event, int64)) {
	c.Extern, c.nulls, c.null = false, nullIs, noInt
	c.ints = get
	c.setInt = func(p unsafe.Pointer, v int64) { set((*Event)(p), v) }
}

// noInt stands for no value in columns all of whose likely numbers are values.
const noInt = math.MinInt64

func eventTimes(at []unsafe.Pointer, dst []int64) {
	for i, p := range at {
		dst[i] = noInt
		if t := &(*Event)(p).Time; !t.IsZero() {
			dst[i] = t.UnixNano()
		}
	}
}
func setEventTime(e *Event, v int64) { e.Time = time.Unix(0, v) }
func actorDiffers(e *Event) bool {
	return e.Process == nil && !e.Actor.IsZero() || e.Process != nil && e.Process.Key != e.Actor
}
func (e *Event) past() *Past {
	if e.Past == nil {
		e.Past = &Past{}
	}
	return e.Past
}

// eventColumns are those of Event that its members do not say: who acted, where
// that is not Process, and what stands for many.
func (l *Layout) eventColumns() {
	l.extern("evt.actor.pid", Uint, IntRep).own(
		func(at []unsafe.Pointer, dst []int64) {
			for i, p := range at {
				dst[i] = noInt
				if e := (*Event)(p); actorDiffers(e) {
					dst[i] = int64(e.Actor.PID)
				}
			}
		},
		func(e *Event, v int64) { e.Actor.PID = uint32(v) })
	l.extern("evt.actor.start", Uint, IntRep).own(
		func(at []unsafe.Pointer, dst []int64) {
			for i, p := range at {
				dst[i] = noInt
				if e := (*Event)(p); actorDiffers(e) {
					dst[i] = int64(e.Actor.Start)
				}
			}
		},
		func(e *Event, v int64) { e.Actor.Start = uint64(v) })
	// Always there, so that sums over it count events.
	l.extern("evt.count", Uint, IntRep).own(
		func(at []unsafe.Pointer, dst []int64) {
			for i, p := range at {
				dst[i] = int64((*Event)(p).Times())
			}
		},
		func(e *Event, v int64) {
			if v > 1 {
				e.past().Count = uint64(v)
			}
		})
	l.extern("evt.time_last", Time, IntRep).own(
		func(at []unsafe.Pointer, dst []int64) {
			for i, p := range at {
				dst[i] = noInt
				if v, ok := timeLast((*Event)(p), 0); ok {
					dst[i] = v
				}
			}
		},
		func(e *Event, v int64) { e.past().Last = time.Unix(0, v) })
}

func (l *Layout) add(c *Column) *Column {
	if l.byName[c.Name] != nil {
		panic(fmt.Sprintf("event: two columns %s in %v", c.Name, l.Kind))
	}
	c.layout, c.Index = l, len(l.Columns)
	l.byName[c.Name] = c
	l.Columns = append(l.Columns, c)
	return c
}

// walk adds the columns of a struct. Under a prefix, columns are called by it and
// the last part of their own name.
func (l *Layout) walk(t reflect.Type, g int, off uintptr, prefix string) {
	for i := range t.NumField() {
		sf := t.Field(i)
		if sf.Name == "_" {
			continue
		}
		tag := sf.Tag.Get("column")
		name, opts, _ := strings.Cut(sf.Tag.Get("field"), ",")
		if tag != "" {
			name = tag
		}
		if name == "-" || g == 0 && l.byName[name] != nil {
			continue // evt.time stands first
		}
		if sf.Type.Kind() == reflect.Struct && name == tag && sf.Type != reflect.TypeFor[time.Time]() && sf.Type != reflect.TypeFor[netip.Addr]() {
			under := prefix
			if tag != "" {
				under = tag
			}
			l.walk(sf.Type, g, off+sf.Offset, under)
			continue
		}
		if name == "" {
			panic(fmt.Sprintf("event: %v.%s has neither a field nor a column tag: what would the history call it?", t, sf.Name))
		}
		if prefix != "" {
			name = prefix + lastPart(name)
		}
		if l.pointer(sf.Type, g, off+sf.Offset, name) {
			continue
		}
		c := &Column{Name: name, group: g, nulls: nullIs}
		c.access(sf.Type, off+sf.Offset)
		zeroIsNone := opts == "omitzero" || sf.Tag.Get("field") == "" || c.names != nil && c.names.text(0) == ""
		if c.Rep == IntRep && c.null == 0 && !zeroIsNone {
			c.nulls = never
		}
		if s := sf.Tag.Get("null"); s != "" {
			l.absent(c, s)
		}
		if s := sf.Tag.Get("type"); s != "" {
			c.Type = typeNamed(s)
		}
		l.add(c)
	}
}

// lastPart is the last part of a name, with a dot before it.
func lastPart(name string) string { return "." + name[strings.LastIndexByte(name, '.')+1:] }

// absent makes a number stand for no value.
func (l *Layout) absent(c *Column, number string) {
	v, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		panic(err)
	}
	c.null, c.nulls = v, nullIs
	l.defaults = append(l.defaults, func(root unsafe.Pointer) { c.setInt(l.at(root, c.group, true), v) })
}

// at returns where a group's struct of a record is, nil if there is none and it is
// not to be made.
func (l *Layout) at(root unsafe.Pointer, g int, make bool) unsafe.Pointer {
	if g == 0 {
		return root
	}
	d := &l.groups[g]
	if d.data {
		return dataBase((*Event)(root), 0)
	}
	p := l.at(root, d.parent, make)
	if p == nil {
		return nil
	}
	m := (*unsafe.Pointer)(unsafe.Add(p, d.off))
	if *m == nil && make {
		*m = d.make()
	}
	return *m
}

// follow adds a group: what the member at an offset points to.
func follow[T any](l *Layout, parent int, off uintptr) int {
	l.groups = append(l.groups, group{parent: parent, off: off, make: func() unsafe.Pointer { return unsafe.Pointer(new(T)) }})
	return len(l.groups) - 1
}

// key makes the column say whether its struct is there: it has a value then.
func (l *Layout) key(name string) {
	c := l.byName[name]
	c.nulls = never
}

// pointer adds the columns of what a member points to. It reports false for
// members that are values.
func (l *Layout) pointer(t reflect.Type, g int, off uintptr, name string) bool {
	switch t {
	case reflect.TypeFor[*Container]():
		l.walk(t.Elem(), follow[Container](l, g, off), 0, "")
		l.key("container.full_id")
	case reflect.TypeFor[*cluster.Pod]():
		l.walk(t.Elem(), follow[cluster.Pod](l, g, off), 0, "")
		l.key("k8s.pod.uid")
	case reflect.TypeFor[*Exit]():
		l.walk(t.Elem(), follow[Exit](l, g, off), 0, name)
		l.key(name + ".ktime")
	case reflect.TypeFor[*Socket]():
		l.walk(t.Elem(), follow[Socket](l, g, off), 0, "")
		l.key("fd.l4proto")
	case reflect.TypeFor[*FlowPolicy]():
		l.walk(t.Elem(), follow[FlowPolicy](l, g, off), 0, "")
		l.key("flow.policy_name")
	case reflect.TypeFor[*cluster.Service]():
		in := follow[cluster.Service](l, g, off)
		l.add(&Column{Name: name + ".ns", group: in, nulls: nullIs}).text(unsafe.Offsetof(cluster.Service{}.Namespace))
		l.add(&Column{Name: name + ".name", group: in}).text(unsafe.Offsetof(cluster.Service{}.Name))
	case reflect.TypeFor[*cluster.Peer]():
		l.peer(g, off, name)
	case reflect.TypeFor[*Call]():
		c := l.add(&Column{Name: name, Type: String, Rep: StrRep, group: g, nulls: nullIs})
		c.strs = func(at []unsafe.Pointer, dst []string) {
			for i, p := range at {
				dst[i] = ""
				if call := *(**Call)(unsafe.Add(p, off)); call != nil {
					dst[i] = call.Name
				}
			}
		}
		c.setStr = func(p unsafe.Pointer, v string) { *(**Call)(unsafe.Add(p, off)) = LookupCall(v) }
	case reflect.TypeFor[[6]uint64]():
		for i := range 6 {
			c := l.add(&Column{Name: name + strconv.Itoa(i), group: g, nulls: nullIs})
			c.access(reflect.TypeFor[uint64](), off+uintptr(i)*8)
		}
	case reflect.TypeFor[[MaxReads]CallMemory]():
		for i := range MaxReads {
			at := off + uintptr(i)*unsafe.Sizeof(CallMemory{})
			l.add(&Column{Name: name + strconv.Itoa(i), group: g, nulls: nullIs}).text(at)
			c := l.add(&Column{Name: name + strconv.Itoa(i) + ".there", group: g, nulls: nullIs})
			c.access(reflect.TypeFor[bool](), at+unsafe.Offsetof(CallMemory{}.There))
		}
	default:
		return false
	}
	return true
}

// peer adds what is kept of a cluster's end of a socket. The far one's columns
// have the names of the fields; of the near one there is the whole pod.
func (l *Layout) peer(g int, off uintptr, name string) {
	in := follow[cluster.Peer](l, g, off)
	var peer cluster.Peer
	l.add(&Column{Name: name + ".kind", group: in}).text(unsafe.Offsetof(peer.Kind))
	svc := follow[cluster.Service](l, in, unsafe.Offsetof(peer.Service))
	l.add(&Column{Name: name + ".svc.name", group: svc}).text(unsafe.Offsetof(cluster.Service{}.Name))
	l.add(&Column{Name: name + ".svc.ns", group: svc, nulls: nullIs}).text(unsafe.Offsetof(cluster.Service{}.Namespace))
	node := follow[cluster.Node](l, in, unsafe.Offsetof(peer.Node))
	l.add(&Column{Name: name + ".node.name", group: node}).text(unsafe.Offsetof(cluster.Node{}.Name))
	pod := follow[cluster.Pod](l, in, unsafe.Offsetof(peer.Pod))
	if name != "k8s.remote" {
		l.walk(reflect.TypeFor[cluster.Pod](), pod, 0, "")
		l.key("k8s.pod.uid")
		return
	}
	var p cluster.Pod
	l.add(&Column{Name: name + ".pod.uid", group: pod}).text(unsafe.Offsetof(p.UID))
	l.add(&Column{Name: name + ".pod.name", group: pod, nulls: nullIs}).text(unsafe.Offsetof(p.Name))
	l.add(&Column{Name: name + ".pod.ns", group: pod, nulls: nullIs}).text(unsafe.Offsetof(p.Namespace))
	l.add(&Column{Name: name + ".pod.node", group: pod, nulls: nullIs}).text(unsafe.Offsetof(p.Node))
	l.add(&Column{Name: name + ".workload.kind", group: pod, nulls: nullIs}).text(unsafe.Offsetof(p.Workload) + unsafe.Offsetof(p.Workload.Kind))
	l.add(&Column{Name: name + ".workload.name", group: pod, nulls: nullIs}).text(unsafe.Offsetof(p.Workload) + unsafe.Offsetof(p.Workload.Name))
	c := l.add(&Column{Name: name + ".pod.labels", group: pod, nulls: nullIs})
	c.access(reflect.TypeFor[map[string]string](), unsafe.Offsetof(p.Labels))
}

// A Rows is where the structs of many records are: columns read them one after
// the other. Its memory is used again.
type Rows struct {
	layout *Layout
	n      int
	groups []located
	ints   []int64 // of a column that not all rows have
}

// located is where the structs of a group are, and of which rows: those that there
// are, without places between.
type located struct {
	at   []unsafe.Pointer
	rows []int32
}

// Events makes r that of some events, all of the layout's kind. They are kept
// until the next call.
func (r *Rows) Events(l *Layout, events []*Event) {
	r.reset(l, len(events), 2)
	at, data := r.groups[0].at, r.groups[1].at
	for i, e := range events {
		at[i] = unsafe.Pointer(e)
	}
	for i, e := range events {
		data[i] = dataBase(e, 0)
	}
	r.follow(2)
}

// Processes makes r that of some processes.
func (r *Rows) Processes(processes []*Process) {
	r.reset(layouts[KindProcess], len(processes), 1)
	at := r.groups[0].at
	for i, p := range processes {
		at[i] = unsafe.Pointer(p)
	}
	r.follow(1)
}

// Clear lets go of what r refers to.
func (r *Rows) Clear() {
	for _, g := range r.groups {
		clear(g.at[:cap(g.at)])
	}
}

// reset makes room for n structs of each group. Those of the first groups are of all
// rows.
func (r *Rows) reset(l *Layout, n, first int) {
	r.layout, r.n = l, n
	for len(r.groups) < len(l.groups) {
		r.groups = append(r.groups, located{})
	}
	for i := range l.groups {
		g := &r.groups[i]
		if cap(g.at) < n {
			g.at, g.rows = make([]unsafe.Pointer, n), make([]int32, n)
		}
		g.at, g.rows = g.at[:n], g.rows[:n]
	}
	for _, g := range r.groups[:first] {
		for row := range g.rows {
			g.rows[row] = int32(row)
		}
	}
}

// follow finds the structs of the groups from first on by those of their parents.
func (r *Rows) follow(first int) {
	for i := first; i < len(r.layout.groups); i++ {
		d, to := &r.layout.groups[i], &r.groups[i]
		from := &r.groups[d.parent]
		n := 0
		for i, p := range from.at {
			if q := *(*unsafe.Pointer)(unsafe.Add(p, d.off)); q != nil {
				to.at[n], to.rows[n] = q, from.rows[i]
				n++
			}
		}
		to.at, to.rows = to.at[:n], to.rows[:n]
	}
}

// allValid are rows that all have a value.
var allValid = func() (valid [256]bool) {
	for i := range valid {
		valid[i] = true
	}
	return valid
}()

// Ints reads an IntRep column: dst and valid have a place for each row. It
// returns how many rows have no value; those are 0 and not valid.
func (c *Column) Ints(r *Rows, dst []int64, valid []bool) (nulls int) {
	g := &r.groups[c.group]
	if len(g.at) < r.n {
		return c.someInts(r, g, dst, valid)
	}
	c.ints(g.at, dst)
	if c.nulls != never {
		for _, v := range dst {
			nulls += int(Digit(v == c.null))
		}
	}
	switch nulls {
	case 0:
		for rest := valid; len(rest) > 0; {
			rest = rest[copy(rest, allValid[:]):]
		}
	case len(dst):
		clear(dst)
		clear(valid)
	default:
		for i, v := range dst {
			has := v != c.null
			dst[i], valid[i] = v*int64(Digit(has)), has
		}
	}
	return nulls
}

// someInts is Ints of a column whose struct not all rows have.
func (c *Column) someInts(r *Rows, g *located, dst []int64, valid []bool) (nulls int) {
	clear(dst)
	clear(valid)
	if len(g.at) == 0 {
		return len(dst)
	}
	if cap(r.ints) < r.n {
		r.ints = make([]int64, r.n)
	}
	vals := r.ints[:len(g.at)]
	c.ints(g.at, vals)
	n := 0
	for i, v := range vals {
		has := c.nulls == never || v != c.null
		dst[g.rows[i]], valid[g.rows[i]] = v*int64(Digit(has)), has
		n += int(Digit(has))
	}
	return len(dst) - n
}

// Digit is 1 for true. The compiler makes no branch of it: where values are missing
// at random, half of all branches would be foreseen wrongly.
func Digit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// Strs reads a StrRep column: dst and rows have a place for each row. It returns how
// many rows have a value: those values begin dst, and whose they are begins rows.
func (c *Column) Strs(r *Rows, dst []string, rows []int32) int {
	return present(c, r, c.strs, dst, rows, func(s string) bool { return s != "" || c.nulls == never })
}

// Addrs reads an AddrRep column, as Strs does.
func (c *Column) Addrs(r *Rows, dst []netip.Addr, rows []int32) int {
	return present(c, r, c.addrs, dst, rows, netip.Addr.IsValid)
}

// Lists reads a ListRep column, as Strs does. The lists are the events' own.
func (c *Column) Lists(r *Rows, dst [][]string, rows []int32) int {
	return present(c, r, c.lists, dst, rows, func(l []string) bool { return len(l) > 0 })
}

// Maps reads a MapRep column, as Strs does. The maps are the events' own.
func (c *Column) Maps(r *Rows, dst []map[string]string, rows []int32) int {
	return present(c, r, c.maps, dst, rows, func(m map[string]string) bool { return len(m) > 0 })
}

// present reads a column whose values lie in dst one behind the other.
func present[T any](c *Column, r *Rows, get func([]unsafe.Pointer, []T), dst []T, rows []int32, has func(T) bool) (n int) {
	g := &r.groups[c.group]
	dst = dst[:len(g.at)]
	get(g.at, dst)
	for i, v := range dst {
		if n != i {
			dst[n] = v
		}
		rows[n] = g.rows[i]
		n += int(Digit(has(v)))
	}
	return n
}

// A Record is an event or a process that columns are put into.
type Record struct{ root unsafe.Pointer }

// NewEvent returns an event of the layout's kind in which no column has a value.
func (l *Layout) NewEvent() *Event {
	e := &Event{Data: kinds[l.Kind].make()}
	for _, fn := range l.defaults {
		fn(unsafe.Pointer(e))
	}
	return e
}

// Record returns e for setters of columns.
func (e *Event) Record() Record { return Record{unsafe.Pointer(e)} }

// Record returns p for setters of columns. It must not have been published yet.
func (p *Process) Record() Record { return Record{unsafe.Pointer(p)} }

// SetInt gives an IntRep column of a record a value.
func (c *Column) SetInt(r Record, v int64) { c.setInt(c.layout.at(r.root, c.group, true), v) }

// SetStr gives a StrRep column of a record a value.
func (c *Column) SetStr(r Record, v string) { c.setStr(c.layout.at(r.root, c.group, true), v) }

// SetAddr gives an AddrRep column of a record a value.
func (c *Column) SetAddr(r Record, v netip.Addr) { c.setAddr(c.layout.at(r.root, c.group, true), v) }

// SetList gives a ListRep column of a record a value, which it keeps.
func (c *Column) SetList(r Record, v []string) { c.setList(c.layout.at(r.root, c.group, true), v) }

// SetMap gives a MapRep column of a record a value, which it keeps.
func (c *Column) SetMap(r Record, v map[string]string) {
	c.setMap(c.layout.at(r.root, c.group, true), v)
}
