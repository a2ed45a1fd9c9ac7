package event

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// falcoDerived are fields that rules read and that say again what others do, in
// Falco's words; docs/falco.md lists them. Their tags stand on blank fields, as
// those of [derived].
var falcoDerived = map[string]getter{
	"evt.datetime":   composed(func(b []byte, e *Event) []byte { return e.Time.AppendFormat(b, "2006-01-02 15:04:05.000000000") }),
	"evt.datetime.s": composed(func(b []byte, e *Event) []byte { return e.Time.AppendFormat(b, time.DateTime) }),
	"evt.time.s":     composed(func(b []byte, e *Event) []byte { return e.Time.AppendFormat(b, time.TimeOnly) }),
	"evt.time.iso8601": composed(func(b []byte, e *Event) []byte {
		return e.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000000-0700")
	}),
	"evt.outputtime":  composed(func(b []byte, e *Event) []byte { return e.Time.AppendFormat(b, "15:04:05.000000000") }),
	"evt.rawtime.s":   eventNum(func(e *Event) (int64, bool) { return e.Time.Unix(), true }),
	"evt.rawtime.ns":  eventNum(func(e *Event) (int64, bool) { return int64(e.Time.Nanosecond()), true }),
	"evt.cpu":         eventNum(func(e *Event) (int64, bool) { return int64(e.CPU) - 1, e.CPU > 0 }),
	"evt.source":      str(sourceOf),
	"evt.is_async":    eventNum(func(*Event) (int64, bool) { return 0, true }),
	"evt.is_wait":     eventNum(func(*Event) (int64, bool) { return 0, true }),
	"evt.type.is":     {key: typeIs, all: func(*Event) map[string]string { return nil }},
	"syscall.type":    str(callType),
	"evt.category":    str(category),
	"evt.failed":      eventNum(failed),
	"evt.is_io":       eventNum(func(e *Event) (int64, bool) { return truth(ioOf(e) != ""), true }),
	"evt.is_io_read":  eventNum(func(e *Event) (int64, bool) { return truth(ioOf(e) == "read"), true }),
	"evt.is_io_write": eventNum(func(e *Event) (int64, bool) { return truth(ioOf(e) == "write"), true }),
	"evt.io_dir":      str(ioOf),
	"evt.is_syslog": eventNum(func(e *Event) (int64, bool) {
		s, ok := e.Data.(*Syscall)
		return truth(ok && ioOf(e) == "write" && strings.Contains(s.FDName, "/dev/log")), true
	}),
	"evt.arg":                {key: argKey, all: func(*Event) map[string]string { return nil }},
	"evt.rawres":             eventNum(returned),
	"evt.buflen":             eventNum(bufferLength),
	"evt.buffer":             composed(func(b []byte, e *Event) []byte { return appendNamedArg(b, e, "data") }),
	"evt.count.exit":         eventNum(func(*Event) (int64, bool) { return 1, true }),
	"evt.count.error":        eventNum(failed),
	"evt.count.error.file":   errorCount("file"),
	"evt.count.error.net":    errorCount("net"),
	"evt.count.error.memory": errorCount("memory"),
	"evt.count.error.other":  errorCount("other"),
	"evt.info":               composed(appendEventArgs),
	"evt.args":               composed(appendEventArgs),
	"evt.abspath":            str(func(e *Event) string { p, _ := absolutePaths(e); return p }),
	"evt.abspath.src":        str(func(e *Event) string { p, _ := absolutePaths(e); return p }),
	"evt.abspath.dst":        str(func(e *Event) string { _, p := absolutePaths(e); return p }),

	"proc.pvpid": procNum(func(_ *Event, p *Process) (int64, bool) {
		if p.Parent == nil {
			return 0, false
		}
		return int64(p.Parent.VPID), p.Parent.VPID != 0
	}),
	"user.homedir":      accountStr(func(a *Account) string { return a.Home }),
	"user.shell":        accountStr(func(a *Account) string { return a.Shell }),
	"proc.loginshellid": procNum(loginShell),
	"proc.sname":        leaderStr(bySession, func(p *Process) string { return p.Name }),
	"proc.sid.exe":      leaderStr(bySession, func(p *Process) string { return p.Exe }),
	"proc.sid.exepath":  leaderStr(bySession, func(p *Process) string { return p.ExePath }),

	"proc.vpgid.name":    leaderStr(byGroup, func(p *Process) string { return p.Name }),
	"proc.vpgid.exe":     leaderStr(byGroup, func(p *Process) string { return p.Exe }),
	"proc.vpgid.exepath": leaderStr(byGroup, func(p *Process) string { return p.ExePath }),
	"proc.pgid.name":     leaderStr(byGroup, func(p *Process) string { return p.Name }),
	"proc.pgid.exe":      leaderStr(byGroup, func(p *Process) string { return p.Exe }),
	"proc.pgid.exepath":  leaderStr(byGroup, func(p *Process) string { return p.ExePath }),
	"proc.is_pgid_leader": procNum(func(_ *Event, p *Process) (int64, bool) {
		return truth(p.PGID == p.PID), true
	}),
	"proc.pidns_init_start_ts": procNum(func(_ *Event, p *Process) (int64, bool) { return startNanos(namespaceInit(p)) }),
	"proc.exe_ino.ctime_duration_pidns_start": procNum(func(_ *Event, p *Process) (int64, bool) {
		start, ok := startNanos(namespaceInit(p))
		return p.ExeCtime - start, ok && p.ExeCtime > start
	}),
	"thread.vtid": procNum(func(_ *Event, p *Process) (int64, bool) {
		switch {
		case p.TID == p.PID:
			return int64(p.VPID), p.VPID != 0
		case p.PID == p.VPID: // in the host's namespace threads have one number
			return int64(p.TID), p.TID != 0
		}
		return 0, false
	}),

	"container.duration": procNum(func(e *Event, p *Process) (int64, bool) {
		if p.Container == nil || p.Container.StartTime.IsZero() {
			return 0, false
		}
		n := e.Time.Sub(p.Container.StartTime)
		return int64(n), n >= 0
	}),
	"container.ip":           str(containerIP),
	"container.host_pid":     inContainer(func(p *Process) (bool, bool) { return p.PidNS == initPidNS, p.PidNS != 0 }),
	"container.host_ipc":     inContainer(func(p *Process) (bool, bool) { return p.IpcNS == initIpcNS, p.IpcNS != 0 }),
	"container.host_network": inContainer(hostNetwork),
	"container.labels":       joined(getter{all: containerLabels, key: func(e *Event, k string) (string, bool) { s, ok := containerLabels(e)[k]; return s, ok }}),

	"fd.dev.major":          deviceNum(unix.Major),
	"fd.dev.minor":          deviceNum(unix.Minor),
	"fd.uid":                composed(appendFDID),
	"fd.proto":              {str: eitherProto},
	"fd.containername":      composed(func(b []byte, e *Event) []byte { return inContainerOf(b, e, fdPath(e)) }),
	"fd.containerdirectory": composed(func(b []byte, e *Event) []byte { d, _ := splitPath(fdPath(e)); return inContainerOf(b, e, d) }),
	"fd.is_upper_layer":     layerOf(OpenUpper),
	"fd.is_lower_layer":     layerOf(OpenLower),
}

// Inode numbers of the first namespaces, which every kernel has
// (include/linux/proc_ns.h).
const (
	initPidNS = 0xeffffffc
	initIpcNS = 0xefffffff
)

// eventNum makes a getter of a function; it is asked for the one value.
func eventNum(fn func(*Event) (int64, bool)) getter {
	return getter{num: func(e *Event, i int) (int64, bool) {
		if i > 0 {
			return 0, false
		}
		return fn(e)
	}}
}

// typeIs is evt.type.is: 1 of events of that type, 0 of others.
func typeIs(e *Event, key string) (string, bool) {
	if typeOf(e) == key {
		return "1", true
	}
	return "0", true
}

// typeOf returns evt.type.
func typeOf(e *Event) string {
	switch d := e.Data.(type) {
	case *Exec:
		return d.Type
	case *Fork:
		return d.Type
	case *Exit:
		return d.Type
	case *Credentials:
		return d.Type
	case *Namespace:
		return d.Type
	case *Connection:
		return d.Type
	case *DNS:
		return d.Type
	case *Lost:
		return d.Type
	case *ProcessState:
		return d.Type
	case *CgroupState:
		return d.Type
	case *Nodes:
		return d.Type
	case *Flow:
		return d.Type
	case *SocketState:
		return d.Type
	case *Open:
		return d.Type
	case *File:
		return d.Type
	case *Mount:
		return d.Type
	case *FileClose:
		return d.Type
	case *Syscall:
		return d.Type
	case *Attempt:
		return d.Type
	case *Alert:
		return d.Type
	}
	return ""
}

// notCalls are types of events that are no system calls.
var notCalls = []string{"procexit", "commit_creds", "update", "flow_new", "flow_update", "flow_close", "flow_drop", "dns", "lost", "process", "cgroup", "nodes", "socket", "alert", "reaction"}

// callType returns the name of the system call that an event is of, "" for none.
func callType(e *Event) string {
	t := typeOf(e)
	if slices.Contains(notCalls, t) && (t != "socket" || e.Data.Kind() == KindSocket) {
		return ""
	}
	return t
}

// Calls returns the types of the kind that are system calls.
func (k Kind) Calls() []string {
	return slices.DeleteFunc(slices.Clone(kinds[k].types), func(t string) bool {
		return slices.Contains(notCalls, t) && (t != "socket" || k == KindSocket)
	})
}

// returned returns what an event's call returned, and whether it is of a call
// that has returned. Calls that succeed and return nothing else return 0.
func returned(e *Event) (int64, bool) {
	switch d := e.Data.(type) {
	case *Exec:
		return d.RawRes, true
	case *Open:
		return d.RawRes, true
	case *File:
		return d.RawRes, true
	case *Mount:
		return d.RawRes, true
	case *FileClose:
		return d.RawRes, true
	case *Syscall:
		return d.RawRes, true
	case *Attempt:
		return d.RawRes, true
	case *Connection:
		return d.RawRes, d.Type != "update"
	case *Fork, *Namespace:
		return 0, true // in the child, where the process is
	case *Credentials:
		return 0, d.Type != "commit_creds"
	}
	return 0, false
}

func failed(e *Event) (int64, bool) {
	n, ok := returned(e)
	return truth(n < 0), ok
}

// bufferLength is how many bytes a call that reads or writes has moved.
func bufferLength(e *Event) (int64, bool) {
	n, ok := returned(e)
	return n, ok && n >= 0 && ioOf(e) != ""
}

// errorCount is evt.count.error.WHAT: of events about what, 1 for a failure.
func errorCount(what string) getter {
	return eventNum(func(e *Event) (int64, bool) {
		n, ok := failed(e)
		return n, ok && errorClass(e) == what
	})
}

// errorClass says which errors Falco counts an event among.
func errorClass(e *Event) string {
	kind := ""
	switch d := e.Data.(type) {
	case *Open:
		return "file"
	case *Connection:
		return "net"
	case *File:
		if d.FD >= 0 {
			kind = objectOf(e).fdType()
		}
	case *FileClose:
		kind = "file"
	case *Syscall:
		if d.FD >= 0 {
			kind = d.FDType
		}
	}
	switch kind {
	case "file", "directory":
		return "file"
	case "ipv4", "ipv6", "unix":
		return "net"
	}
	if category(e) == "memory" {
		return "memory"
	}
	return "other"
}

// absolutePaths are the paths of calls that are given a directory's descriptor:
// the one, or that which was there before, and the new one.
func absolutePaths(e *Event) (src, dst string) {
	switch d := e.Data.(type) {
	case *Open:
		if slices.Contains([]string{"openat", "openat2", "open_by_handle_at"}, d.Type) {
			return d.Name, ""
		}
	case *File:
		switch d.Type {
		case "renameat", "renameat2", "linkat":
			return d.Source, d.Target
		case "symlinkat":
			return d.Target, d.Target
		case "unlinkat", "mkdirat", "fchmodat", "fchownat":
			return d.Name, ""
		}
	}
	return "", ""
}

// loginShell is the oldest shell among a process and its ancestors: what has a
// name that ends in sh.
func loginShell(_ *Event, p *Process) (pid int64, ok bool) {
	for ; p != nil; p = p.Parent {
		if strings.HasSuffix(p.Name, "sh") {
			pid, ok = int64(p.PID), true
		}
	}
	return pid, ok
}

func bySession(p *Process) uint32 { return p.SID }
func byGroup(p *Process) uint32   { return p.PGID }

// leader returns the leader of a process's session or group: the process that has
// its number, or where that is none of the ancestors, the oldest of those in a row
// that have it too.
func leader(p *Process, id func(*Process) uint32) *Process {
	n := id(p)
	if n == 0 {
		return nil
	}
	last := p
	for a := p; a != nil; a = a.Parent {
		if a.PID == n {
			return a
		}
	}
	for a := p; a != nil && id(a) == n; a = a.Parent {
		last = a
	}
	return last
}

func leaderStr(id func(*Process) uint32, fn func(*Process) string) getter {
	return procStr(func(_ *Event, p *Process) string {
		if p = leader(p, id); p == nil {
			return ""
		}
		return fn(p)
	})
}

// namespaceInit returns the first process of a process's pid namespace, nil where
// that is none of its ancestors.
func namespaceInit(p *Process) *Process {
	ns := p.PidNS
	for ; p != nil && p.PidNS == ns; p = p.Parent {
		if p.VPID == 1 {
			return p
		}
	}
	return nil
}

// inContainer makes a getter of whether something holds for a container.
func inContainer(fn func(*Process) (holds, known bool)) getter {
	return procNum(func(_ *Event, p *Process) (int64, bool) {
		if p.Container == nil {
			return 0, false
		}
		holds, known := fn(p)
		return truth(holds), known
	})
}

// hostNetwork compares a process's network with that of the first process, where
// that is among its ancestors, or asks the pod.
func hostNetwork(p *Process) (holds, known bool) {
	for a := p; a != nil; a = a.Parent {
		if a.PID == 1 && a.NetNS != 0 && p.NetNS != 0 {
			return a.NetNS == p.NetNS, true
		}
	}
	if pod := p.Container.Pod; pod != nil && pod.Name != "" {
		return pod.HostNetwork, true
	}
	return false, false
}

// containerIP is the pod's address of IPv4.
func containerIP(e *Event) string {
	if e.Process == nil || e.Process.Container == nil || e.Process.Container.Pod == nil {
		return ""
	}
	p := e.Process.Container.Pod
	if i := slices.IndexFunc(p.Addrs, netip.Addr.Is4); i >= 0 {
		return p.Addrs[i].String()
	}
	return ""
}

func containerLabels(e *Event) map[string]string {
	if e.Process == nil || e.Process.Container == nil {
		return nil
	}
	return e.Process.Container.Labels
}

// deviceNum makes a getter of a part of the number of the file's device.
func deviceNum(part func(uint64) uint32) getter {
	return getter{num: func(e *Event, i int) (int64, bool) {
		o := objectOf(e)
		if i > 0 || o == nil || o.Inode == 0 {
			return 0, false
		}
		return int64(part(UserDevice(o.Dev))), true
	}}
}

// UserDevice returns the number of a device as user space has it, of the kernel's
// own: 12 bits of major number and 20 of minor.
func UserDevice(dev uint64) uint64 { return unix.Mkdev(uint32(dev>>20), uint32(dev&(1<<20-1))) }

// appendFDID appends thread and descriptor, one behind the other.
func appendFDID(b []byte, e *Event) []byte {
	n, ok := fdNum(e, 0)
	if d, is := e.Data.(*FileClose); is {
		n, ok = int64(d.FD), d.FD >= 0
	}
	if !ok || e.Process == nil || e.Process.TID == 0 {
		return b
	}
	b = strconv.AppendUint(b, uint64(e.Process.TID), 10)
	return strconv.AppendInt(b, n, 10)
}

// eitherProto is what the ports of both ends are called, the client's first, and
// then their numbers: a condition can have either.
func eitherProto(e *Event, i int) (string, bool) {
	if i > 3 {
		return "", false
	}
	if i < 2 {
		s := portName(e, i == 1)
		if s != "" {
			return s, true
		}
	}
	p, ok := sockPort(e, 0, i%2 == 1)
	return strconv.Itoa(int(p)), ok
}

// inContainerOf appends the container's id, a colon and a path.
func inContainerOf(b []byte, e *Event, path string) []byte {
	if path == "" || e.Process == nil {
		return b
	}
	id := hostContainer.ID
	if c := e.Process.Container; c != nil {
		id = c.ID
	}
	b = append(append(b, id...), ':')
	return append(b, path...)
}

// layerOf tells whether the file lies in a layer of an overlay.
func layerOf(bit uint64) getter {
	return eventNum(func(e *Event) (int64, bool) {
		d := e.Data.(*Open)
		return truth(d.Flags&bit != 0), d.Inode != 0
	})
}

// accountStr is a text of the account that a process's user has.
func accountStr(fn func(*Account) string) getter {
	return procStr(func(_ *Event, p *Process) string {
		if p.Account == nil {
			return ""
		}
		return fn(p.Account)
	})
}
