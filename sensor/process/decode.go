package process

import (
	"bytes"
	"errors"
	"math/bits"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
)

// A decoder turns records into events. The reader's goroutine alone calls it.
type decoder struct {
	sink   sink
	window window
}

func (d *decoder) emit(e *event.Event) {
	if f := d.sink.Load(); f != nil {
		(*f)(e)
	}
}

// errLengths means that a record's strings are longer than the record.
var errLengths = errors.New("lengths exceed the record")

// newEvent returns an event and its data, still to be filled, in one
// allocation: they live and die together.
func newEvent[D any, P interface {
	*D
	event.Data
}](hdr *processRecord, actor event.Key, p *event.Process) (*event.Event, *D) {
	both := &struct {
		event event.Event
		data  D
	}{event: event.Event{Time: bpf.Wall(hdr.Ktime), Ktime: hdr.Ktime, CPU: hdr.Cpu + 1, Actor: actor, Process: p}}
	both.event.Data = P(&both.data)
	return &both.event, &both.data
}

// newLife is newEvent for a record that tells a whole process, in the same
// allocation: an event of each process is worth a seventh of its snapshot, and
// costs as much to allocate and to collect.
func newLife[D any, P interface {
	*D
	event.Data
}](hdr *processRecord, t *processTaskInfo) (*event.Event, *D, *event.Process) {
	all := &struct {
		event   event.Event
		data    D
		process event.Process
	}{}
	fillProcess(&all.process, t)
	e := &all.event
	e.Time, e.Ktime, e.CPU = bpf.Wall(hdr.Ktime), hdr.Ktime, hdr.Cpu+1
	e.Actor, e.Process, e.Data = all.process.Key, &all.process, P(&all.data)
	return e, &all.data, &all.process
}

func (d *decoder) fork(rec []byte) (*event.Event, error) {
	r, err := bpf.View[processForkRecord](rec)
	if err != nil {
		return nil, err
	}
	e, f, p := newLife[event.Fork](&r.Hdr, &r.Task)
	e.Actor = keyOf(&r.Maker)
	p.Name = string(commOf(&r.Task.Comm))
	f.Type, f.Flags = forkType(r.Nr, r.Compat != 0), r.CloneFlags
	switch f.Type {
	case "fork":
		f.Flags = 0
	case "vfork":
		f.Flags = unix.CLONE_VFORK | unix.CLONE_VM
	}
	return e, nil
}

func (d *decoder) exec(rec []byte) (*event.Event, error) {
	r, text, err := viewImage(rec)
	if err != nil {
		return nil, err
	}
	e, x, p := newLife[event.Exec](&r.Hdr, &r.Task)
	fillImage(p, r, text, false)
	p.ExecTime = e.Time
	x.Type = "execve"
	if r.Flags&uint32(processImageFlagsEXEC_AT) != 0 {
		x.Type = "execveat"
	}
	d.window.note(p.Key, func(n *news) { *n = news{image: true} })
	return e, nil
}

// task decodes a process that is older than the hooks. It returns no event if
// what it says was told already.
func (d *decoder) task(rec []byte) (*event.Event, error) {
	r, text, err := viewImage(rec)
	if err != nil {
		return nil, err
	}
	e, st, p := newLife[event.ProcessState](&r.Hdr, &r.Task)
	fillImage(p, r, text, true)
	if !d.window.correct(p) {
		return nil, nil
	}
	st.Type = "process"
	return e, nil
}

func (d *decoder) exit(rec []byte) (*event.Event, error) {
	r, err := bpf.View[processExitRecord](rec)
	if err != nil {
		return nil, err
	}
	k := keyOf(&r.Key)
	d.window.note(k, func(n *news) { n.ended = true })

	st := unix.WaitStatus(r.Status)
	e, x := newEvent[event.Exit](&r.Hdr, k, nil)
	*x = event.Exit{
		Type:     "procexit",
		Status:   r.Status,
		Duration: int64(r.Hdr.Ktime - r.Key.Start),
		MaxRSS:   r.Maxrss * pageSize,
		MinFlt:   r.Minflt,
		MajFlt:   r.Majflt,
		Ktime:    r.Hdr.Ktime,
	}
	if st.Signaled() {
		x.Signal, x.CoreDump = event.Signal(st.Signal()), st.CoreDump()
	} else {
		x.Code = r.Status >> 8 & 0xff
	}
	user, sys := cpuTime(r.Utime, r.Stime, r.Runtime)
	x.UserTime, x.SysTime = int64(user), int64(sys)
	return e, nil
}

var pageSize = uint64(os.Getpagesize())

// cpuTime divides the time that the scheduler counted exactly in the ratio of
// what the clock tick sampled, as the kernel does for wait4(2) and getrusage(2)
// (kernel/sched/cputime.c, cputime_adjust): a short life has no sample at all.
func cpuTime(utime, stime, runtime uint64) (user, sys uint64) {
	total, carry := bits.Add64(utime, stime, 0)
	switch {
	case carry != 0:
		return utime, stime // no machine runs that long
	case stime == 0:
		return runtime, 0
	case utime == 0:
		return 0, runtime
	}
	hi, lo := bits.Mul64(stime, runtime)
	sys, _ = bits.Div64(hi, lo, total)
	return runtime - sys, sys
}

func (d *decoder) credentials(rec []byte) (*event.Event, error) {
	r, err := bpf.View[processCredRecord](rec)
	if err != nil {
		return nil, err
	}
	p := &event.Process{Key: keyOf(&r.Key), PID: r.Key.Pid, TID: r.Key.Tid, Creds: credsOf(&r.Now)}
	d.window.note(p.Key, func(n *news) { n.creds = &p.Creds })
	e, c := newEvent[event.Credentials](&r.Hdr, p.Key, p)
	*c = event.Credentials{
		Type:    credType(r.Nr, r.Compat != 0),
		UID:     r.Now.Uid,
		GID:     r.Now.Gid,
		OldUID:  r.Old.Uid,
		OldGID:  r.Old.Gid,
		OldCaps: event.CapSet(r.Old.Effective),
		Gained:  event.CapSet(r.Now.Effective &^ r.Old.Effective),
		Dropped: event.CapSet(r.Old.Effective &^ r.Now.Effective),
	}
	return e, nil
}

func (d *decoder) namespaces(rec []byte) (*event.Event, error) {
	r, err := bpf.View[processNsRecord](rec)
	if err != nil {
		return nil, err
	}
	p := &event.Process{Key: keyOf(&r.Key), PID: r.Key.Pid, TID: r.Key.Tid, Namespaces: namespacesOf(&r.Now)}
	e, n := newEvent[event.Namespace](&r.Hdr, p.Key, p)
	n.Type, n.Old = nsType(r.Nr, r.Compat != 0), namespacesOf(&r.Old)
	for _, c := range []struct {
		name    string
		changed bool
	}{
		{"mnt", r.Now.Mnt != r.Old.Mnt},
		// A process never leaves its pid namespace: its children do.
		{"pid", r.Now.Pid != r.Old.Pid || r.ChildPidns != r.OldChildPidns},
		{"net", r.Now.Net != r.Old.Net},
		{"user", r.Now.User != r.Old.User},
		{"uts", r.Now.Uts != r.Old.Uts},
		{"ipc", r.Now.Ipc != r.Old.Ipc},
		{"cgroup", r.Now.Cgroup != r.Old.Cgroup},
		{"time", r.Now.Time != r.Old.Time || r.ChildTimens != r.OldChildTimens},
	} {
		if c.changed {
			n.Changed = append(n.Changed, c.name)
		}
	}
	d.window.note(p.Key, func(n *news) { n.ns = &p.Namespaces })
	return e, nil
}

func (d *decoder) cgroup(rec []byte) (*event.Event, error) {
	r, err := bpf.View[processCgroupRecord](rec)
	if err != nil {
		return nil, err
	}
	path := rec[unsafe.Sizeof(*r):]
	if uint64(r.Len) > uint64(len(path)) {
		return nil, errLengths
	}
	e, c := newEvent[event.CgroupState](&r.Hdr, event.Key{}, nil)
	c.Type = "cgroup"
	c.Cgroup = event.Cgroup{
		CgroupKey: event.CgroupKey{Hierarchy: r.Key.Hierarchy, ID: r.Key.Id},
		CgroupID:  r.Key.Id,
		Path:      string(path[:r.Len]),
	}
	return e, nil
}

// viewImage checks an exec record. What it returns lies in rec itself.
func viewImage(rec []byte) (*processExecRecord, []byte, error) {
	r, err := bpf.View[processExecRecord](rec)
	if err != nil {
		return nil, nil, err
	}
	rest := rec[unsafe.Sizeof(*r):]
	if uint64(r.ExeLen)+uint64(r.CwdLen)+uint64(r.FilenameLen)+uint64(r.InterpLen)+uint64(r.ArgsLen) > uint64(len(rest)) {
		return nil, nil, errLengths
	}
	return r, rest, nil
}

// fillImage adds to a process what an exec record tells beyond its task.
func fillImage(p *event.Process, r *processExecRecord, rest []byte, existing bool) {
	// All strings of a process but its command line share one allocation.
	name := commOf(&r.Task.Comm)
	var b strings.Builder
	b.Grow(len(name) + len(rest))
	b.Write(name)
	b.Write(rest)
	text := b.String()
	next := func(n int) (s string) {
		s, text = text[:n], text[n:]
		return s
	}
	p.Name = next(len(name))
	p.ExePath = next(int(r.ExeLen))
	p.Cwd = next(int(r.CwdLen))
	p.Filename = next(int(r.FilenameLen))
	p.Interp = next(int(r.InterpLen))
	p.SetArgs(splitArgs(next(int(r.ArgsLen)), existing))

	has := func(f processImageFlags) bool { return r.Flags&uint32(f) != 0 }
	p.ArgsCut = has(processImageFlagsARGS_CUT)
	p.ExeUnresolved = has(processImageFlagsEXE_UNRESOLVED)
	p.ExeMemfd = has(processImageFlagsEXE_MEMFD)
	p.ExeDeleted = has(processImageFlagsEXE_DELETED)
	p.ExeUpper = has(processImageFlagsEXE_UPPER)
	p.ExeLower = has(processImageFlagsEXE_LOWER)
	p.ExeWritable = has(processImageFlagsEXE_WRITABLE)
	p.ExeInode = r.ExeIno
	p.ExeDev = uint64(r.ExeDev)
	p.ExeMode = r.ExeMode
	p.ExeUID = r.ExeUid
	p.ExeCtime = r.ExeCtime
	p.ExeMtime = r.ExeMtime
}

// splitArgs splits arguments, each ended by a NUL; the last one's is missing
// where they were cut. A process that runs may have overwritten its own
// (setproctitle), leaving NULs behind: then empty ones at the end mean nothing.
func splitArgs(s string, existing bool) []string {
	switch {
	case s == "":
		return nil
	case existing:
		s = strings.TrimRight(s, "\x00")
	default:
		s = strings.TrimSuffix(s, "\x00")
	}
	args := make([]string, 0, strings.Count(s, "\x00")+1)
	for {
		a, rest, more := strings.Cut(s, "\x00")
		args = append(args, a)
		if !more {
			return args
		}
		s = rest
	}
}

// fillProcess sets, in an empty process, what all records tell of one, but for
// its name. Field by field: a whole one made first would be copied, past the
// collector's barrier.
func fillProcess(p *event.Process, t *processTaskInfo) {
	p.Key = keyOf(&t.Key)
	p.PID, p.TID, p.VPID = t.Key.Pid, t.Key.Tid, t.Vpid
	p.ParentKey = keyOf(&t.Parent)
	p.Creds, p.Namespaces = credsOf(&t.Creds), namespacesOf(&t.Ns)
	p.LoginUID, p.TTY = event.LoginUID(t.Loginuid), t.Tty
	p.SID, p.PGID, p.VSID, p.VPGID = t.Sid, t.Pgid, t.Vsid, t.Vpgid
	p.Kthread = t.Flags&uint32(processTaskFlagsTASK_KTHREAD) != 0
	p.StartTime = bpf.Wall(t.Key.Start)
	p.Cgroup.CgroupKey = event.CgroupKey{Hierarchy: t.Cgroup.Hierarchy, ID: t.Cgroup.Id}
	p.Cgroup.CgroupID = t.Cgroup.Id
	if t.Sessionid != noSession {
		p.SessionID = t.Sessionid
	}
}

const noSession = 1<<32 - 1 // AUDIT_SID_UNSET

func keyOf(k *processTaskKey) event.Key { return event.Key{PID: k.Pid, Start: k.Start} }

// commOf returns the name in its place in the record.
func commOf(c *[16]int8) []byte {
	b := (*[16]byte)(unsafe.Pointer(c))[:]
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return b
}

func credsOf(c *processCreds) event.Creds {
	return event.Creds{
		UID: c.Uid, GID: c.Gid,
		RUID: c.Ruid, RGID: c.Rgid,
		SUID: c.Suid, SGID: c.Sgid,
		FUID: c.Fsuid, FGID: c.Fsgid,
		CapEffective:   event.CapSet(c.Effective),
		CapPermitted:   event.CapSet(c.Permitted),
		CapInheritable: event.CapSet(c.Inheritable),
		CapBounding:    event.CapSet(c.Bounding),
		CapAmbient:     event.CapSet(c.Ambient),
	}
}

func namespacesOf(n *processNamespaces) event.Namespaces {
	return event.Namespaces{
		MntNS: n.Mnt, PidNS: n.Pid, NetNS: n.Net, UserNS: n.User,
		UtsNS: n.Uts, IpcNS: n.Ipc, CgroupNS: n.Cgroup, TimeNS: n.Time,
	}
}
