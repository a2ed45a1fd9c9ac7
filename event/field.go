package event

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
	"unsafe"

	"warren/cluster"
)

// A Type says how the values of a field are compared and written.
type Type uint8

// The types of fields. Duration and Time are counted in nanoseconds: Time
// since 1970.
const (
	String Type = iota + 1
	Int
	Uint
	Bool
	IP
	Net // an IP address that is compared with networks
	Duration
	Time
)

var typeNames = [...]string{"", "string", "int", "uint", "bool", "ip", "net", "duration", "time"}

// String returns the type's name in lower case.
func (t Type) String() string { return typeNames[t] }

// Many says whether a field can have several values in one event, and what a
// comparison with them means.
type Many uint8

// The meanings of several values.
const (
	One       Many = iota
	Ancestors      // proc.aname: those of all ancestors, or of one: proc.aname[2]
	Either         // fd.ip: of either end, k8s.pod.ip: of either family; != holds when both differ
	List           // dns.answers: elements of a list
)

// Arg says what may stand in brackets behind a field's name.
type Arg uint8

// The arguments of fields.
const (
	NoArg    Arg = iota
	IndexArg     // a number, optional
	KeyArg       // a key, required but where KeyOptional says otherwise
)

// A Field is one named value of events.
//
// A getter is given the event and the number of the value for fields that have
// Many: 0 is the first (for Ancestors: the process itself; ancestors are 1 and
// on). It reports false when there is no such value.
type Field struct {
	Name string
	Doc  string
	Type Type
	Many Many
	Arg  Arg
	// KeyOptional is true of a field with KeyArg that has a value without a key
	// too: Str returns all of them, as key:value, sorted, joined by a comma and a
	// blank.
	KeyOptional bool
	// Virtual fields only say again what others say, in every kind: they can be filtered on
	// and printed by name, but are not part of an event's JSON.
	Virtual bool

	kinds KindSet
	gets  [numKinds]getter
	of    getterOf
}

type getter struct {
	str func(e *Event, i int) (string, bool)
	app func(b []byte, e *Event) []byte // what str is made of, for text that is put together
	num func(e *Event, i int) (int64, bool)
	ip  func(e *Event, i int) (netip.Addr, bool)
	key func(e *Event, key string) (string, bool)
	all func(e *Event) map[string]string // what key looks in
	// list appends all values of a field with List, or those of what an index chooses.
	list func(dst []string, e *Event, at int) []string
}

// Has reports whether events of kind k can have the field.
func (f *Field) Has(k Kind) bool { return f.kinds.Has(k) }

// Kinds returns the kinds of events that can have the field.
func (f *Field) Kinds() KindSet { return f.kinds }

// Str returns the i-th value of a field of type String.
func (f *Field) Str(e *Event, i int) (string, bool) {
	if g := f.gets[kindOf(e)].str; g != nil {
		return g(e, i)
	}
	return "", false
}

// Append appends the i-th value of a field of type String to b. Unlike Str it
// allocates nothing else for values that are put together from others.
func (f *Field) Append(b []byte, e *Event, i int) ([]byte, bool) {
	g := f.gets[kindOf(e)]
	if g.app == nil {
		s, ok := f.Str(e, i)
		return append(b, s...), ok
	}
	if i > 0 {
		return b, false
	}
	n := len(b)
	b = g.app(b, e)
	return b, len(b) > n
}

// Composed reports whether Str puts the value together from others, and so has
// to allocate.
func (f *Field) Composed() bool {
	for _, g := range f.gets {
		if g.app != nil {
			return true
		}
	}
	return false
}

// Listed reports whether the values of a field with List and IndexArg are read
// together, by AppendList: then one at a time costs as much as all.
func (f *Field) Listed() bool { return f.Many == List && f.Arg == IndexArg }

// AppendList appends the values of a field that is Listed: all, or, unless at is -1,
// those of what an index in brackets chooses.
func (f *Field) AppendList(dst []string, e *Event, at int) []string {
	if g := f.gets[kindOf(e)].list; g != nil {
		return g(dst, e, at)
	}
	return dst
}

// getterOf reads a field with Ancestors off one process.
type getterOf struct {
	str func(p *Process) (string, bool)
	num func(p *Process) (int64, bool)
}

// StrOf returns the value that p has of a field with Ancestors and type String:
// what Str returns for the generation that p is. To visit all generations, follow
// Process.Parent: Str counts them from the start each time.
func (f *Field) StrOf(p *Process) (string, bool) {
	if f.of.str == nil || p == nil {
		return "", false
	}
	return f.of.str(p)
}

// NumOf is to Num what StrOf is to Str.
func (f *Field) NumOf(p *Process) (int64, bool) {
	if f.of.num == nil || p == nil {
		return 0, false
	}
	return f.of.num(p)
}

// readOf returns how values of Go type t at an offset in Process are read.
func readOf(t reflect.Type, off uintptr) getterOf {
	switch t {
	case reflect.TypeFor[string]():
		return getterOf{str: func(p *Process) (string, bool) {
			s := *(*string)(unsafe.Add(unsafe.Pointer(p), off))
			return s, s != ""
		}}
	case reflect.TypeFor[uint32]():
		return getterOf{num: func(p *Process) (int64, bool) {
			return int64(*(*uint32)(unsafe.Add(unsafe.Pointer(p), off))), true
		}}
	}
	panic(fmt.Sprintf("event: no accessor of ancestors for %v", t))
}

// Num returns the i-th value of a field of type Int, Uint, Bool, Duration or
// Time. A Uint above the range of int64 is returned as its two's complement.
func (f *Field) Num(e *Event, i int) (int64, bool) {
	if g := f.gets[kindOf(e)].num; g != nil {
		return g(e, i)
	}
	return 0, false
}

// Addr returns the i-th value of a field of type IP or Net.
func (f *Field) Addr(e *Event, i int) (netip.Addr, bool) {
	if g := f.gets[kindOf(e)].ip; g != nil {
		return g(e, i)
	}
	return netip.Addr{}, false
}

// Key returns the value under key of a field with KeyArg.
func (f *Field) Key(e *Event, key string) (string, bool) {
	if g := f.gets[kindOf(e)].key; g != nil {
		return g(e, key)
	}
	return "", false
}

// All returns what a field with KeyArg has under all keys. It is the event's own:
// do not change it.
func (f *Field) All(e *Event) map[string]string {
	if g := f.gets[kindOf(e)].all; g != nil {
		return g(e)
	}
	return nil
}

func kindOf(e *Event) Kind {
	if e.Data == nil {
		return 0
	}
	return e.Data.Kind()
}

// A KindSet is a set of kinds.
type KindSet uint32

// AllKinds is every kind there is.
const AllKinds KindSet = (1<<numKinds - 1) &^ 1

// Kinds returns the set of ks.
func Kinds(ks ...Kind) KindSet {
	var s KindSet
	for _, k := range ks {
		s |= 1 << k
	}
	return s
}

// Has reports whether k is in s.
func (s KindSet) Has(k Kind) bool { return s&(1<<k) != 0 }

// List returns the kinds in s in the order of kinds.go.
func (s KindSet) List() []Kind {
	var l []Kind
	for k := Kind(1); k < numKinds; k++ {
		if s.Has(k) {
			l = append(l, k)
		}
	}
	return l
}

// String returns the kinds' names, separated by commas.
func (s KindSet) String() string {
	var names []string
	for _, k := range s.List() {
		names = append(names, k.String())
	}
	return strings.Join(names, ",")
}

// String returns the kind's name.
func (k Kind) String() string {
	if k == 0 || k >= numKinds {
		return fmt.Sprintf("kind(%d)", uint8(k))
	}
	return kinds[k].name
}

// Doc says in one line what events of the kind are.
func (k Kind) Doc() string { return kinds[k].doc }

// Types returns the values that evt.type has in events of the kind.
func (k Kind) Types() []string { return kinds[k].types }

// LookupKind finds a kind by name.
func LookupKind(name string) (Kind, bool) {
	for k := Kind(1); k < numKinds; k++ {
		if kinds[k].name == name {
			return k, true
		}
	}
	return 0, false
}

// KindsOfType returns the kinds whose events can have the evt.type typ: one for
// most, none for what is no type.
func KindsOfType(typ string) KindSet {
	var s KindSet
	for k := Kind(1); k < numKinds; k++ {
		if slices.Contains(kinds[k].types, typ) {
			s |= Kinds(k)
		}
	}
	return s
}

// Lookup finds a field by name.
func Lookup(name string) (*Field, bool) {
	f, ok := catalog.byName[name]
	return f, ok
}

// Fields returns every field in the order of the structs: what all events
// have, then the process, the container, its pod, and the kinds' own. The slice is
// shared: do not change it.
func Fields() []*Field { return catalog.all }

var catalog = buildCatalog()

type kind struct {
	name, doc string
	types     []string
	data      reflect.Type
	make      func() Data
}

func describe[T any, P interface {
	*T
	Data
}](name, doc string, types ...string) kind {
	return kind{name: name, doc: doc, types: types, data: reflect.TypeFor[T](), make: func() Data { return P(new(T)) }}
}

type fields struct {
	all    []*Field
	byName map[string]*Field
	byKind [numKinds][]*Field // what AppendJSON writes
}

func buildCatalog() *fields {
	c := &fields{byName: map[string]*Field{}}
	c.add(reflect.TypeFor[Event](), AllKinds, eventBase, 0)
	c.add(reflect.TypeFor[Process](), AllKinds, processBase, 0)
	c.add(reflect.TypeFor[Container](), AllKinds, containerBase, 0)
	c.add(reflect.TypeFor[cluster.Pod](), AllKinds, podBase, 0)
	for k := Kind(1); k < numKinds; k++ {
		c.add(kinds[k].data, Kinds(k), dataBase, 0)
	}
	c.add(reflect.TypeFor[Socket](), Kinds(KindSyscall), syscallSocket, 0)
	c.addCallArgs()
	c.addEventArgs()
	c.addCallFields()
	c.addAuditFields()
	for k := Kind(1); k < numKinds; k++ {
		for _, f := range c.all {
			if f.Has(k) && !f.Virtual {
				c.byKind[k] = append(c.byKind[k], f)
			}
		}
	}
	return c
}

// base returns the struct in which the i-th value of a field lies, nil if the
// event has none.
type base func(e *Event, i int) unsafe.Pointer

func eventBase(e *Event, i int) unsafe.Pointer {
	if i > 0 {
		return nil
	}
	return unsafe.Pointer(e)
}

func dataBase(e *Event, i int) unsafe.Pointer {
	if i > 0 {
		return nil
	}
	// A Data is always a pointer, so the second word of the interface is it.
	return (*[2]unsafe.Pointer)(unsafe.Pointer(&e.Data))[1]
}

func processBase(e *Event, i int) unsafe.Pointer {
	if i > 0 {
		return nil
	}
	return unsafe.Pointer(e.Process)
}

func parentBase(e *Event, i int) unsafe.Pointer {
	if i > 0 {
		return nil
	}
	return unsafe.Pointer(e.Process.Ancestor(1))
}

func ancestorBase(e *Event, i int) unsafe.Pointer { return unsafe.Pointer(e.Process.Ancestor(i)) }

func containerBase(e *Event, i int) unsafe.Pointer {
	if e.Process == nil || i > 0 {
		return nil
	}
	if e.Process.Container == nil {
		return unsafe.Pointer(hostContainer)
	}
	return unsafe.Pointer(e.Process.Container)
}

func podBase(e *Event, i int) unsafe.Pointer {
	if i > 0 {
		return nil
	}
	return unsafe.Pointer(PodOf(e))
}

func (c *fields) add(t reflect.Type, ks KindSet, at base, offset uintptr) {
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, ok := sf.Tag.Lookup("field")
		if !ok {
			if sf.Type.Kind() == reflect.Struct && sf.Tag.Get("fields") != "-" && (sf.Anonymous || hasFields(sf.Type)) {
				c.add(sf.Type, ks, at, offset+sf.Offset)
			}
			continue
		}
		name, opts, _ := strings.Cut(tag, ",")
		f := Field{Name: name, Doc: sf.Tag.Get("doc"), Virtual: sf.Tag.Get("virtual") != "", kinds: ks}
		var g getter
		if sf.Name == "_" {
			d, ok := derived[name]
			if !ok {
				d, ok = falcoDerived[name]
			}
			if !ok {
				panic("event: no function derives " + name)
			}
			g = d
			f.Type = typeNamed(sf.Tag.Get("type"))
			if sf.Tag.Get("many") == "either" {
				f.Many = Either
			}
			if g.key != nil {
				f.Arg, f.KeyOptional = KeyArg, g.str != nil
			}
		} else {
			f.Type, f.Many, f.Arg, g = access(sf.Type, at, offset+sf.Offset, opts == "omitzero")
			if t := sf.Tag.Get("type"); t != "" {
				f.Type = typeNamed(t)
			}
			if sf.Tag.Get("joined") != "" {
				g, f.KeyOptional = joined(g), true
			}
		}
		c.register(f, g, ks)
		if p := sf.Tag.Get("parent"); p != "" {
			up := f
			up.Name, up.Doc = p, "of the parent process: "+f.Doc
			_, _, _, g := access(sf.Type, parentBase, offset+sf.Offset, opts == "omitzero")
			c.register(up, g, ks)
		}
		if a := sf.Tag.Get("ancestors"); a != "" {
			up := f
			a, opt, _ := strings.Cut(a, ",")
			up.Virtual = opt == "virtual"
			up.Name, up.Doc, up.Many, up.Arg = a, "of an ancestor, nearest first: [1] is the parent, [0] the process itself; without a number, of any ancestor: "+f.Doc, Ancestors, IndexArg
			up.of = readOf(sf.Type, offset+sf.Offset)
			_, _, _, g := access(sf.Type, ancestorBase, offset+sf.Offset, opts == "omitzero")
			c.register(up, g, ks)
		}
	}
}

func hasFields(t reflect.Type) bool {
	for i := range t.NumField() {
		if _, ok := t.Field(i).Tag.Lookup("field"); ok {
			return true
		}
	}
	return false
}

func (c *fields) register(f Field, g getter, ks KindSet) {
	old := c.byName[f.Name]
	if old == nil {
		old = &f
		old.kinds = 0
		c.byName[f.Name] = old
		c.all = append(c.all, old)
	} else if old.Type != f.Type || old.Many != f.Many || old.Arg != f.Arg {
		panic(fmt.Sprintf("event: %s is %v in one kind and %v in another", f.Name, old.Type, f.Type))
	}
	if old.kinds&ks != 0 {
		panic(fmt.Sprintf("event: %s stands twice in %v", f.Name, old.kinds&ks))
	}
	old.kinds |= ks
	old.Virtual = old.Virtual && f.Virtual // one kind that says nothing else by it is enough
	for _, k := range ks.List() {
		old.gets[k] = g
	}
}

func typeNamed(s string) Type {
	i := slices.Index(typeNames[:], s)
	if i <= 0 {
		panic("event: no type " + s)
	}
	return Type(i)
}

// number is what a plain number of a struct can be.
type number interface {
	~int | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

func num[T number](at base, off uintptr, omitZero bool) getter {
	return getter{num: func(e *Event, i int) (int64, bool) {
		p := at(e, i)
		if p == nil {
			return 0, false
		}
		v := *(*T)(unsafe.Add(p, off))
		return int64(v), !omitZero || v != 0
	}}
}

func named[T interface {
	comparable
	fmt.Stringer
}](at base, off uintptr, omitZero bool) getter {
	return getter{str: func(e *Event, i int) (string, bool) {
		p := at(e, i)
		if p == nil {
			return "", false
		}
		v := *(*T)(unsafe.Add(p, off))
		var zero T
		if omitZero && v == zero {
			return "", false
		}
		s := v.String()
		return s, s != ""
	}}
}

// access returns how values of Go type t at an offset are read.
func access(t reflect.Type, at base, off uintptr, omitZero bool) (Type, Many, Arg, getter) {
	switch t {
	case reflect.TypeFor[string](), reflect.TypeFor[cluster.ContainerKind](): // of one layout
		return String, One, NoArg, getter{str: func(e *Event, i int) (string, bool) {
			p := at(e, i)
			if p == nil {
				return "", false
			}
			s := *(*string)(unsafe.Add(p, off))
			return s, s != ""
		}}
	case reflect.TypeFor[[]string]():
		return String, List, NoArg, getter{str: func(e *Event, i int) (string, bool) {
			p := at(e, 0)
			if p == nil {
				return "", false
			}
			l := *(*[]string)(unsafe.Add(p, off))
			if i >= len(l) {
				return "", false
			}
			return l[i], true
		}}
	case reflect.TypeFor[map[string]string]():
		return String, One, KeyArg, getter{key: func(e *Event, key string) (string, bool) {
			p := at(e, 0)
			if p == nil {
				return "", false
			}
			s, ok := (*(*map[string]string)(unsafe.Add(p, off)))[key]
			return s, ok
		}, all: func(e *Event) map[string]string {
			if p := at(e, 0); p != nil {
				return *(*map[string]string)(unsafe.Add(p, off))
			}
			return nil
		}}
	case reflect.TypeFor[bool]():
		return Bool, One, NoArg, getter{num: func(e *Event, i int) (int64, bool) {
			p := at(e, i)
			if p == nil {
				return 0, false
			}
			if *(*bool)(unsafe.Add(p, off)) {
				return 1, true
			}
			return 0, !omitZero
		}}
	case reflect.TypeFor[netip.Addr]():
		return IP, One, NoArg, getter{ip: func(e *Event, i int) (netip.Addr, bool) {
			p := at(e, i)
			if p == nil {
				return netip.Addr{}, false
			}
			a := *(*netip.Addr)(unsafe.Add(p, off))
			return a, a.IsValid()
		}}
	case reflect.TypeFor[time.Time]():
		return Time, One, NoArg, getter{num: func(e *Event, i int) (int64, bool) {
			p := at(e, i)
			if p == nil {
				return 0, false
			}
			t := *(*time.Time)(unsafe.Add(p, off))
			if t.IsZero() {
				return 0, false
			}
			return t.UnixNano(), true
		}}
	case reflect.TypeFor[Errno]():
		return String, One, NoArg, named[Errno](at, off, omitZero)
	case reflect.TypeFor[Signal]():
		return String, One, NoArg, named[Signal](at, off, omitZero)
	case reflect.TypeFor[CapSet]():
		return String, One, NoArg, named[CapSet](at, off, omitZero)
	case reflect.TypeFor[Proto]():
		return String, One, NoArg, named[Proto](at, off, omitZero)
	case reflect.TypeFor[TCPState]():
		return String, One, NoArg, named[TCPState](at, off, omitZero)
	case reflect.TypeFor[ResetBy]():
		return String, One, NoArg, named[ResetBy](at, off, omitZero)
	case reflect.TypeFor[Verdict]():
		return String, One, NoArg, named[Verdict](at, off, omitZero)
	case reflect.TypeFor[DropReason]():
		return String, One, NoArg, named[DropReason](at, off, omitZero)
	case reflect.TypeFor[PathError]():
		return String, One, NoArg, named[PathError](at, off, omitZero)
	case reflect.TypeFor[TCPFlags]():
		return String, One, NoArg, named[TCPFlags](at, off, omitZero)
	case reflect.TypeFor[LoginUID]():
		return Int, One, NoArg, getter{num: func(e *Event, i int) (int64, bool) {
			p := at(e, i)
			if p == nil {
				return 0, false
			}
			return int64(int32(*(*LoginUID)(unsafe.Add(p, off)))), true
		}}
	case reflect.TypeFor[*int32]():
		return Int, One, NoArg, getter{num: func(e *Event, i int) (int64, bool) {
			p := at(e, i)
			if p == nil {
				return 0, false
			}
			if v := *(**int32)(unsafe.Add(p, off)); v != nil {
				return int64(*v), true
			}
			return 0, false
		}}
	case reflect.TypeFor[int]():
		return Int, One, NoArg, num[int](at, off, omitZero)
	case reflect.TypeFor[int32]():
		return Int, One, NoArg, num[int32](at, off, omitZero)
	case reflect.TypeFor[int64]():
		return Int, One, NoArg, num[int64](at, off, omitZero)
	case reflect.TypeFor[uint16]():
		return Uint, One, NoArg, num[uint16](at, off, omitZero)
	case reflect.TypeFor[uint32]():
		return Uint, One, NoArg, num[uint32](at, off, omitZero)
	case reflect.TypeFor[uint64]():
		return Uint, One, NoArg, num[uint64](at, off, omitZero)
	}
	panic(fmt.Sprintf("event: no accessor for %v", t))
}
