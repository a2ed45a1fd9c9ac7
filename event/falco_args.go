package event

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// categories are Falco's categories of the types of events; io is that of calls
// on any descriptor, whose category its type decides. Calls that Falco does not
// describe are other, types that are no calls have none.
var categories = func() map[string]string {
	m := map[string]string{}
	for category, types := range map[string]string{
		"file":    "open openat openat2 creat open_by_handle_at unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat mkdir mkdirat rmdir chmod fchmod fchmodat chown lchown fchown fchownat mount umount umount2 userfaultfd",
		"net":     "connect accept accept4 listen socket",
		"IPC":     "socketpair process_vm_readv process_vm_writev",
		"memory":  "memfd_create",
		"process": "execve execveat fork vfork clone clone3 procexit capset chroot prctl ptrace setns unshare pidfd_getfd pidfd_open",
		"signal":  "kill tkill tgkill",
		"user":    "setuid setgid setreuid setregid setresuid setresgid",
		"io":      "close dup dup2 dup3 fcntl io_uring_enter io_uring_register io_uring_setup sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg",
	} {
		for _, t := range strings.Fields(types) {
			m[t] = category
		}
	}
	return m
}()

// Categories returns what evt.category can be in events of a type.
func Categories(typ string) []string {
	switch c := categories[typ]; {
	case c == "io":
		return []string{"file", "net", "ipc", "unknown"}
	case c != "":
		return []string{c}
	case slices.Contains(notCalls, typ) && typ != "socket":
		return nil
	}
	return []string{"other"}
}

// category is evt.category.
func category(e *Event) string {
	t := typeOf(e)
	c := categories[t]
	switch {
	case c == "" && callType(e) != "":
		return "other"
	case c != "io":
		return c
	}
	switch fdTypeOf(e) {
	case "file", "directory":
		return "file"
	case "ipv4", "ipv6":
		return "net"
	case "pipe", "unix", "event", "signalfd", "inotify", "userfaultfd":
		return "ipc"
	}
	return "unknown"
}

// fdTypeOf returns fd.type, "" where there is none.
func fdTypeOf(e *Event) string {
	s, _ := derived["fd.type"].str(e, 0)
	return s
}

// ioOf returns whether the event is of a call that reads from a descriptor, or
// writes to one: read, write or nothing.
func ioOf(e *Event) string {
	switch typeOf(e) {
	case "recvfrom", "recvmsg", "recvmmsg", "finit_module":
		return "read"
	case "sendto", "sendmsg", "sendmmsg":
		return "write"
	}
	return ""
}

// noArg holds the place of an argument that Falco has and events do not, so that
// those behind it have Falco's numbers.
const noArg = "-"

// callArgs are the arguments of calls that are no [Syscall], by Falco's names and
// in Falco's order. Those that events do not have are [noArg], or left out at the
// end.
var callArgs = func() map[string][]string {
	m := map[string][]string{}
	for types, args := range map[string]string{
		"open":                    "fd name flags mode dev ino",
		"openat":                  "fd dirfd name flags mode dev ino",
		"openat2":                 "fd dirfd name flags mode - dev ino",
		"creat":                   "fd name mode dev ino",
		"open_by_handle_at":       "fd - flags path dev ino",
		"close":                   "res fd",
		"unlink rmdir":            "res path",
		"unlinkat":                "res dirfd name flags",
		"mkdir":                   "res path mode",
		"mkdirat":                 "res dirfd path mode",
		"rename link":             "res oldpath newpath",
		"renameat":                "res olddirfd oldpath newdirfd newpath",
		"renameat2":               "res olddirfd oldpath newdirfd newpath flags",
		"linkat":                  "res olddir oldpath newdir newpath flags",
		"symlink":                 "res target linkpath",
		"symlinkat":               "res target linkdirfd linkpath",
		"chmod":                   "res filename mode",
		"fchmod":                  "res fd mode",
		"fchmodat":                "res dirfd filename mode",
		"chown lchown":            "res path uid gid",
		"fchown":                  "res fd uid gid",
		"fchownat":                "res dirfd pathname uid gid flags",
		"mount":                   "res dev dir type flags",
		"umount":                  "res name",
		"umount2":                 "res name flags",
		"setuid":                  "res uid",
		"setgid":                  "res gid",
		"setreuid":                "res ruid euid",
		"setregid":                "res rgid egid",
		"setresuid":               "res ruid euid suid",
		"setresgid":               "res rgid egid sgid",
		"setns":                   "res fd nstype",
		"unshare":                 "res flags",
		"connect":                 "res tuple",
		"sendto":                  "res - - - tuple",
		"recvfrom":                "res - tuple",
		"accept accept4":          "- tuple",
		"listen capset":           "res",
		"procexit":                "status",
		"execve execveat":         "res exe args tid pid ptid cwd - - - - - - comm - - tty - loginuid - - - - - - - uid",
		"clone clone3 fork vfork": "res exe args tid pid ptid cwd - - - - - - comm - flags uid gid vtid vpid",
	} {
		for _, t := range strings.Fields(types) {
			m[t] = strings.Fields(args)
		}
	}
	return m
}()

// An argValue is an argument as Falco tells it: a number or text, and what it
// stands for, "" for nothing.
type argValue struct{ plain, resolved string }

// text returns the argument as evt.arg has it.
func (v argValue) text() string { return cmp.Or(v.resolved, v.plain) }

// eventArg returns an argument of an event that is no [Syscall], by Falco's name.
func eventArg(e *Event, name string) (v argValue, ok bool) {
	if n, ok := eventArgNumber(e, name); ok {
		v.plain = strconv.FormatInt(n, 10)
		switch name {
		case "res":
			if n < 0 {
				v.resolved = Errno(-n).String()
			}
		case "fd":
			switch typed := fdTyped(e); {
			case n < -1:
				v.resolved = Errno(-n).String()
			case typed != "" && n >= 0:
				v.resolved = typed
			}
		case "dirfd", "olddirfd", "newdirfd", "olddir", "newdir", "linkdirfd":
			if int32(n) == AtCwd {
				v.resolved = "AT_FDCWD"
			}
		case "dev":
			v.plain = string(appendHex(nil, uint64(n)))
		case "mode":
			if _, is := e.Data.(*File); is && typeOf(e) != "mkdir" && typeOf(e) != "mkdirat" {
				v.resolved = string(argMode(nil, e))
			}
			v.plain = string(appendOctal(nil, uint32(n)))
		case "uid":
			v.resolved = nameOfUser(e, uint32(n))
		}
		return v, true
	}
	s, ok := eventArgText(e, name)
	if name == "flags" || name == "nstype" {
		if f, is := flagBits(e); is {
			return argValue{strconv.FormatUint(f, 10), s}, true
		}
	}
	v.plain = s
	return v, ok
}

// eventArgNumber returns an argument that is a number.
func eventArgNumber(e *Event, name string) (int64, bool) {
	p := e.Process
	switch name {
	case "res":
		return returned(e)
	case "status":
		if d, ok := e.Data.(*Exit); ok {
			return int64(d.Status), true
		}
	case "fd":
		switch d := e.Data.(type) {
		case *Open:
			return d.RawRes, true
		case *FileClose:
			return int64(d.FD), true
		case *File:
			return int64(d.FD), d.FD >= 0
		case *Attempt:
			return attemptNum(0, "setns").num(e, 0)
		}
	case "dirfd", "olddirfd", "olddir":
		switch d := e.Data.(type) {
		case *Open:
			return int64(d.Dir), true
		case *File:
			return int64(d.Dir), true
		}
	case "newdirfd", "newdir", "linkdirfd":
		if d, ok := e.Data.(*File); ok {
			return int64(d.NewDir), true
		}
	case "mode":
		switch d := e.Data.(type) {
		case *Open:
			return int64(d.Mode), true
		case *File:
			return int64(d.Mode), true
		}
	case "dev", "ino":
		d, ok := e.Data.(*Open)
		switch {
		case !ok:
		case name == "ino":
			return int64(d.Inode), true
		default:
			return int64(UserDevice(d.Dev)), true
		}
	case "uid", "gid", "ruid", "euid", "suid", "rgid", "egid", "sgid":
		return eventArgID(e, name)
	}
	if k := e.Data.Kind(); p == nil || k != KindExec && k != KindFork {
		return 0, false
	}
	switch name {
	case "tid":
		return int64(p.TID), p.TID != 0
	case "pid":
		return int64(p.PID), true
	case "ptid":
		return p.parentPID()
	case "tty":
		return int64(p.TTY), true
	case "loginuid":
		return int64(int32(p.LoginUID)), true
	case "vtid", "vpid":
		return int64(p.VPID), p.VPID != 0
	}
	return 0, false
}

// eventArgID returns an argument that is the number of a user or a group.
func eventArgID(e *Event, name string) (int64, bool) {
	switch d := e.Data.(type) {
	case *Credentials:
		switch {
		case name == "uid" && d.Type == "setuid":
			return int64(d.UID), true
		case name == "gid" && d.Type == "setgid":
			return int64(d.GID), true
		}
	case *Attempt, *File:
		if _, is := e.Data.(*File); is && name != "uid" && name != "gid" {
			return 0, false
		}
		return derived["evt.arg."+name].num(e, 0)
	case *Exec, *Fork:
		switch {
		case e.Process == nil:
		case name == "uid":
			return int64(e.Process.UID), true
		case name == "gid":
			return int64(e.Process.GID), true
		}
	}
	return 0, false
}

// eventArgText returns an argument that is text, flags by name.
func eventArgText(e *Event, name string) (string, bool) {
	s := ""
	switch d := e.Data.(type) {
	case *Open:
		switch name {
		case "name", "path":
			s = cmp.Or(d.Name, d.NameRaw)
		case "flags":
			s = string(argFlags(nil, e))
		}
	case *File:
		switch name {
		case "name", "path", "filename", "pathname":
			s = cmp.Or(d.Name, d.NameRaw)
		case "oldpath":
			s = d.oldPath()
		case "newpath":
			s = d.newPath()
		case "target":
			s = d.SourceRaw
		case "linkpath":
			s = cmp.Or(d.Target, d.TargetRaw)
		case "flags":
			s = string(argFlags(nil, e))
		}
	case *Mount:
		switch name {
		case "dev":
			s = d.Source
		case "dir", "name":
			s = cmp.Or(d.Target, d.TargetRaw)
		case "type":
			s = d.FSType
		case "flags":
			s = string(argFlags(nil, e))
		}
	case *Connection:
		if name == "tuple" {
			s = d.Socket.String()
		}
	case *Attempt:
		switch name {
		case "flags":
			s = string(argFlags(nil, e))
		case "nstype":
			s = string(attemptNSType(nil, e))
		}
	case *Exec, *Fork:
		if p := e.Process; p != nil {
			switch name {
			case "exe":
				s = p.Exe
			case "args":
				s = p.ArgsLine
			case "cwd":
				s = p.Cwd
			case "comm":
				s = p.Name
			case "flags":
				s = string(argFlags(nil, e))
			}
		}
	}
	return s, s != ""
}

// falcoBits returns flags as Falco numbers them, by its bit for each of ours.
func falcoBits(flags uint64, bits map[uint64]uint) (n uint64) {
	for ours, bit := range bits {
		if flags&ours != 0 {
			n |= 1 << bit
		}
	}
	return n
}

// falcoOpenFlags is that of the flags of open(2): access modes are bits there.
func falcoOpenFlags(flags uint64) uint64 {
	if flags&unix.O_SYNC == unix.O_SYNC {
		flags &^= unix.O_DSYNC
	}
	if flags&unix.O_TMPFILE == unix.O_TMPFILE {
		flags &^= unix.O_DIRECTORY
	}
	access := [...]uint64{1, 2, 3, 3}[flags&unix.O_ACCMODE]
	if flags&unix.O_PATH != 0 {
		access = 0
	}
	return falcoBits(flags&^unix.O_ACCMODE, openBits) | access
}

// openBits and cloneBits are Falco's numbers of bits, by our bits.
var openBits = map[uint64]uint{
	unix.O_CREAT: 2, unix.O_APPEND: 3, unix.O_DSYNC: 4, unix.O_EXCL: 5, unix.O_NONBLOCK: 6, unix.O_SYNC &^ unix.O_DSYNC: 7, unix.O_TRUNC: 8, unix.O_DIRECT: 9,
	unix.O_DIRECTORY: 10, 0o100000: 11, unix.O_CLOEXEC: 12, unix.O_TMPFILE &^ unix.O_DIRECTORY: 13, OpenCreated: 14, OpenUpper: 15, OpenLower: 16,
}

var cloneBits = func() map[uint64]uint {
	m := map[uint64]uint{unix.CLONE_NEWUSER: 20, unix.CLONE_CHILD_CLEARTID: 23, unix.CLONE_CHILD_SETTID: 24, unix.CLONE_SETTLS: 25, unix.CLONE_VFORK: 27, unix.CLONE_NEWCGROUP: 28}
	for i, f := range cloneFlags[:16] { // CLONE_FILES to CLONE_VM
		m[f.bit] = uint(i)
	}
	return m
}()

// flagBits returns the flags of an event's call as Falco numbers them.
func flagBits(e *Event) (uint64, bool) {
	switch d := e.Data.(type) {
	case *Open:
		return falcoOpenFlags(d.Flags), true
	case *File:
		return uint64(d.Flags), slices.Contains(callArgs[d.Type], "flags")
	case *Mount:
		return d.Flags, true
	case *Attempt:
		if d.Type == "setns" {
			return falcoBits(uint64(uint32(d.Arg1)), cloneBits), true
		}
		return falcoBits(d.Arg0, cloneBits), true
	case *Fork:
		return falcoBits(d.cloneFlags(), cloneBits), true
	}
	return 0, false
}

// nameOfUser returns the name of a user that is that of the process.
func nameOfUser(e *Event, uid uint32) string {
	if p := e.Process; p != nil && p.UID == uid && e.Data.Kind() != KindFile {
		return p.UserName
	}
	return ""
}

// fdTyped returns what a descriptor refers to as Falco's evt.args has it: its type
// as a letter, for sockets of the Internet the first letter of the protocol, and
// the name.
func fdTyped(e *Event) string {
	char, _ := derived["fd.typechar"].str(e, 0)
	if char == "" {
		return ""
	}
	name := fdPath(e)
	if s := SocketOf(e); s != nil && name == "" {
		if l4 := s.L4.String(); l4 != "" {
			char += l4[:1]
		}
		name = s.String()
	}
	if d, ok := e.Data.(*Syscall); ok && d.FDName != "" {
		name = d.FDName
	}
	if name == "" {
		return ""
	}
	return "<" + char + ">" + name
}

// appendEventArgs is evt.args: the arguments as Falco writes them, NAME=VALUE, and
// behind a number what it stands for, in parentheses.
func appendEventArgs(b []byte, e *Event) []byte {
	if s, ok := e.Data.(*Syscall); ok {
		return s.appendArgs(b)
	}
	start := len(b)
	for _, name := range callArgs[typeOf(e)] {
		v, ok := eventArg(e, name)
		if name == noArg || !ok {
			continue
		}
		if len(b) > start {
			b = append(b, ' ')
		}
		b = append(append(append(b, name...), '='), v.plain...)
		if v.resolved != "" {
			b = append(append(append(b, '('), v.resolved...), ')')
		}
	}
	return b
}

// appendNamedArg appends the argument of a name as evt.arg has it.
func appendNamedArg(b []byte, e *Event, name string) []byte {
	if s, ok := e.Data.(*Syscall); ok {
		if a := s.arg(name); a != nil {
			b, _ = s.appendArg(b, a)
		}
		return b
	}
	if name == noArg || !slices.Contains(callArgs[typeOf(e)], name) {
		return b
	}
	v, _ := eventArg(e, name)
	return append(b, v.text()...)
}

// argKey is evt.arg[KEY]: an argument by name, or by its number.
func argKey(e *Event, key string) (string, bool) {
	n, err := strconv.Atoi(key)
	byNumber := err == nil && n >= 0
	if s, ok := e.Data.(*Syscall); ok {
		a := s.arg(key)
		if byNumber {
			a = s.argAt(n)
		}
		if a == nil {
			return "", false
		}
		b, ok := s.appendArg(nil, a)
		return string(b), ok
	}
	if args := callArgs[typeOf(e)]; byNumber {
		if n >= len(args) {
			return "", false
		}
		key = args[n]
	}
	b := appendNamedArg(nil, e, key)
	return string(b), len(b) > 0
}

// argKinds are the kinds whose events have arguments.
const argKinds KindSet = 1<<KindExec | 1<<KindFork | 1<<KindExit | 1<<KindCredentials | 1<<KindNamespace | 1<<KindConnection |
	1<<KindOpen | 1<<KindFile | 1<<KindMount | 1<<KindFileClose | 1<<KindSyscall | 1<<KindAttempt

// addEventArgs makes a field of each argument of callArgs that its kind does not
// have as one yet, and one of each number behind: evt.rawarg.
func (c *fields) addEventArgs() {
	for _, k := range (argKinds &^ Kinds(KindSyscall)).List() {
		for _, name := range argNamesOf(k) {
			full := "evt.arg." + name
			f := c.byName[full]
			if f == nil || !f.Has(k) {
				n := Field{Name: full, Type: String, Virtual: true, Doc: "argument " + name + " of the call: see docs/falco.md"}
				g := composed(func(b []byte, e *Event) []byte { return appendNamedArg(b, e, name) })
				if f != nil {
					n.Type, n.Doc = f.Type, f.Doc
				}
				if n.Type != String {
					g = numberArg(name)
				}
				c.register(n, g, Kinds(k))
			}
			if name == "flags" || name == "nstype" {
				c.addHidden("evt.rawarg."+name, "number behind evt.arg."+name, getter{num: flagNumber}, k)
			} else if slices.Contains(numberArgs, name) {
				c.addHidden("evt.rawarg."+name, "number behind evt.arg."+name, numberArg(name), k)
			}
		}
	}
}

func flagNumber(e *Event, i int) (int64, bool) {
	n, ok := flagBits(e)
	return int64(n), ok && i == 0
}

// numberArgs are the arguments with a number behind them.
var numberArgs = strings.Fields("res status fd dirfd olddirfd olddir newdirfd newdir linkdirfd mode dev ino uid gid ruid euid suid rgid egid sgid tid pid ptid tty loginuid vtid vpid")

// callFields are fields of calls that are made of what their kinds have.
var callFields = []struct {
	Field
	in KindSet
}{
	{Field{Name: "evt.arg", Type: String, Arg: KeyArg, Doc: "an argument by its name or number: evt.arg[pid], evt.arg[0], as text; docs/syscalls.md and docs/falco.md have the names"}, argKinds},
	{Field{Name: "evt.args", Type: String, Doc: "all arguments as Falco writes them: NAME=VALUE, and behind a number that has a name, the name in parentheses; NULL where memory could not be read"}, argKinds},
	{Field{Name: "evt.info", Type: String, Doc: "the same as evt.args"}, argKinds},
	{Field{Name: "evt.rawres", Type: Int, Doc: "what the system call returned: 0 or more, or a negative error number"}, 1<<KindFork | 1<<KindNamespace | 1<<KindCredentials},
	{Field{Name: "evt.failed", Type: Bool, Doc: "true when the call failed"}, returnKinds},
	{Field{Name: "evt.buffer", Type: String, Doc: "the data of a call that has some, what cannot be printed as dots: evt.arg.data"}, 1 << KindSyscall},
	{Field{Name: "evt.buflen", Type: Int, Doc: "bytes that a call has read from a descriptor, or written to one"}, 1<<KindSyscall | 1<<KindConnection},
	{Field{Name: "evt.abspath", Type: String, Doc: "absolute path of a call that is given a directory's descriptor; of two, the one that was there before"}, 1<<KindOpen | 1<<KindFile},
	{Field{Name: "evt.abspath.src", Type: String, Doc: "the same as evt.abspath"}, 1<<KindOpen | 1<<KindFile},
	{Field{Name: "evt.abspath.dst", Type: String, Doc: "of such a call with two paths, the new one"}, 1 << KindFile},
	{Field{Name: "evt.count.error", Type: Uint, Doc: "1 when the call failed, else 0"}, returnKinds},
	{Field{Name: "evt.count.error.file", Type: Uint, Doc: "evt.count.error, of calls on files"}, returnKinds},
	{Field{Name: "evt.count.error.net", Type: Uint, Doc: "evt.count.error, of calls on sockets"}, returnKinds},
	{Field{Name: "evt.count.error.memory", Type: Uint, Doc: "evt.count.error, of calls for memory"}, returnKinds},
	{Field{Name: "evt.count.error.other", Type: Uint, Doc: "evt.count.error, of other calls"}, returnKinds},
}

// returnKinds are the kinds whose events are calls that have returned.
const returnKinds = argKinds &^ (1 << KindExit)

// addCallFields makes the fields of callFields.
func (c *fields) addCallFields() {
	for _, f := range callFields {
		f.Virtual = true
		c.register(f.Field, falcoDerived[f.Name], f.in)
	}
}

func numberArg(name string) getter {
	return getter{num: func(e *Event, i int) (int64, bool) {
		if i > 0 || !slices.Contains(callArgs[typeOf(e)], name) {
			return 0, false
		}
		return eventArgNumber(e, name)
	}}
}

// argNamesOf returns the names of the arguments that events of a kind have.
func argNamesOf(k Kind) (names []string) {
	for _, t := range kinds[k].types {
		for _, name := range callArgs[t] {
			if name != noArg && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// addHidden gives events of a kind a number that is found by its name alone.
func (c *fields) addHidden(name, doc string, g getter, k Kind) {
	f := c.byName[name]
	if f == nil {
		f = &Field{Name: name, Doc: doc, Type: Int, Virtual: true}
		c.byName[name] = f
	}
	f.kinds |= Kinds(k)
	f.gets[k] = g
}
