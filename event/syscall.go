package event

import (
	"slices"
	"strconv"
	"strings"
	"unsafe"
)

// Syscall is a call of [Calls] that returned.
//
// What a call's arguments point at is read when it returns: a thread that writes
// there meanwhile can make the event say something else than what the kernel
// took. Numbers, and what the kernel's objects say, cannot be forged.
type Syscall struct {
	Type    string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Res     Errno  `field:"evt.res" doc:"SUCCESS, or the name of the error"`
	RawRes  int64  `field:"evt.rawres" doc:"what the system call returned: 0 or more, or a negative error number"`
	IOUring bool   `field:"evt.io_uring,omitzero" doc:"true when the call was asked for by io_uring"`

	// Call describes it, and says what Regs and Memory hold.
	Call   *Call                `column:"syscall.name"`
	Regs   [6]uint64            `column:"syscall.arg"`
	Memory [MaxReads]CallMemory `column:"syscall.mem"`

	// FD is the descriptor of Call.FD, -1 where there is none.
	FD     int32  `column:"fd.num" null:"-1"`
	FDName string `column:"fd.path"` // path of its file as the process sees it; sockets have Sock
	FDType string `column:"fd.type"` // file, directory, pipe, unix, ipv4, ...
	// Sock are the ends of a descriptor that is a socket of the Internet; else nil.
	Sock *Socket `column:"fd"`

	// Unreadable and Truncated name arguments that lie in memory.
	Unreadable []string `field:"evt.args_unreadable" doc:"arguments that are missing, because the memory that the process named could not be read"`
	Truncated  []string `field:"evt.args_truncated" doc:"arguments that were longer than what is kept of them"`

	_ struct{} `field:"fd.num" type:"int" doc:"number of the descriptor"`
}

// Kind implements [Data].
func (*Syscall) Kind() Kind { return KindSyscall }

// CallMemory is what was read of the caller's memory.
type CallMemory struct {
	Bytes string
	// There is false where nothing was to be read, or it could not be.
	There bool
}

// callTypes are the names of Calls: the types of the kind.
func callTypes() []string {
	names := make([]string, len(Calls))
	for i := range Calls {
		names[i] = Calls[i].Name
	}
	return names
}

// CallArgNames returns the names of all arguments of all calls, in the order of
// the table, each once.
func CallArgNames() []string {
	var names []string
	for i := range Calls {
		for j := range Calls[i].Args {
			if n := Calls[i].Args[j].Name; !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	return names
}

// arg returns the argument of a name that the call has now, nil if it has none.
func (s *Syscall) arg(name string) *CallArg {
	if s.Call == nil {
		return nil
	}
	for i := range s.Call.Args {
		if a := &s.Call.Args[i]; a.Name == name && a.If.Holds(&s.Regs, s.RawRes) {
			return a
		}
	}
	return nil
}

// argAt returns the n-th argument, as Falco counts: those that exclude each other
// count once.
func (s *Syscall) argAt(n int) *CallArg {
	switch {
	case s.Call == nil:
		return nil
	case s.Call.Order != nil && n < len(s.Call.Order):
		return s.arg(s.Call.Order[n])
	case s.Call.Order != nil:
		return nil
	}
	last := ""
	for i := range s.Call.Args {
		a := &s.Call.Args[i]
		if a.Name == last {
			continue
		}
		if last = a.Name; n == 0 {
			return s.arg(last)
		}
		n--
	}
	return nil
}

// CallsWith returns the calls whose events can have a field, by name, with what
// stands in brackets behind it; nil: all of them, as far as is known.
func CallsWith(field, key string) []string {
	name, isArg := strings.CutPrefix(field, "evt.arg.")
	if raw, ok := strings.CutPrefix(field, "evt.rawarg."); ok {
		name, isArg = raw, true
	}
	if field == "evt.arg" {
		if _, err := strconv.Atoi(key); err == nil {
			return nil
		}
		name, isArg = key, true
	}
	var has func(*Call) bool
	switch {
	case isArg:
		has = func(c *Call) bool {
			return slices.ContainsFunc(c.Args, func(a CallArg) bool { return a.Name == name })
		}
	case field == "fd.num":
		has = func(c *Call) bool { return c.FD != NoFD }
	case strings.HasPrefix(field, "fd."), strings.HasPrefix(field, "k8s.remote."):
		has = func(c *Call) bool { return c.FDObject }
	default:
		return nil
	}
	names := []string{}
	for i := range Calls {
		if has(&Calls[i]) {
			names = append(names, Calls[i].Name)
		}
	}
	return names
}

// KnownArg reports whether some call has an argument of that name: what may stand
// in the brackets of evt.arg.
func KnownArg(key string) bool {
	if n, err := strconv.Atoi(key); err == nil {
		return n >= 0
	}
	return slices.Contains(CallArgNames(), key) || slices.ContainsFunc(argKinds.List(), func(k Kind) bool { return slices.Contains(argNamesOf(k), key) })
}

// addCallArgs makes a field of each argument. Where other kinds have an argument
// of that name, it is of the same type.
func (c *fields) addCallArgs() {
	type argument struct {
		numeric, number bool // compared as a number; has one
		calls           []string
	}
	args := map[string]*argument{}
	names := CallArgNames()
	for i := range Calls {
		for j := range Calls[i].Args {
			a := &Calls[i].Args[j]
			x := args[a.Name]
			if x == nil {
				x = &argument{numeric: true}
				args[a.Name] = x
			}
			x.numeric = x.numeric && a.Numeric()
			x.number = x.number || a.Form.HasNumber()
			if !slices.Contains(x.calls, Calls[i].Name) {
				x.calls = append(x.calls, Calls[i].Name)
			}
		}
	}
	for _, name := range names {
		x := args[name]
		f := Field{Name: "evt.arg." + name, Type: String, kinds: Kinds(KindSyscall), Doc: "argument of " + strings.Join(x.calls, ", ")}
		if x.numeric {
			f.Type = Int
		}
		if old := c.byName[f.Name]; old != nil {
			f.Type = old.Type
		}
		g := argText(name)
		if f.Type != String {
			g = argNumber(name)
		}
		c.register(f, g, f.kinds)
		if x.number {
			c.addHidden("evt.rawarg."+name, "number behind evt.arg."+name, argNumber(name), KindSyscall)
		}
	}
}

func argText(name string) getter {
	return composed(func(b []byte, e *Event) []byte {
		s := e.Data.(*Syscall)
		if a := s.arg(name); a != nil {
			b, _ = s.appendArg(b, a)
		}
		return b
	})
}

func argNumber(name string) getter {
	return getter{num: func(e *Event, i int) (int64, bool) {
		s := e.Data.(*Syscall)
		if a := s.arg(name); a != nil && i == 0 {
			return s.number(a)
		}
		return 0, false
	}}
}

// syscallSocket is the base of the fields of sockets in events of calls.
func syscallSocket(e *Event, i int) unsafe.Pointer {
	if i > 0 {
		return nil
	}
	return unsafe.Pointer(e.Data.(*Syscall).Sock)
}

var noSocket Socket

// socketOf is SocketOf for fields: never nil.
func socketOf(e *Event) *Socket {
	if s := SocketOf(e); s != nil {
		return s
	}
	return &noSocket
}

// fdTypeChar is the type of the descriptor as Falco abbreviates it.
func (s *Syscall) fdTypeChar() string {
	switch s.FDType {
	case "":
		return ""
	case "ipv4":
		return "4"
	case "ipv6":
		return "6"
	case "other":
		return "o"
	case "eventpoll":
		return "l"
	case "timerfd":
		return "t"
	case "signalfd":
		return "s"
	case "bpf":
		return "b"
	case "userfaultfd":
		return "u"
	case "io_uring":
		return "r"
	case "memfd":
		return "m"
	case "pidfd":
		return "P"
	case "netlink":
		return "n"
	}
	return s.FDType[:1] // file, directory, unix, pipe, event, inotify
}

func (s *Syscall) sockFamily() string {
	switch s.FDType {
	case "ipv4", "ipv6":
		return "ip"
	case "unix":
		return "unix"
	}
	return ""
}
