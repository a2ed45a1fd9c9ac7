package event

import (
	"cmp"
	"net/netip"

	"warren/cluster"
)

// derived are the fields that no struct holds: their tags stand on blank
// fields. They are computed when somebody asks.
var derived = map[string]getter{
	"evt.kind":      str(func(e *Event) string { return e.Data.Kind().String() }),
	"evt.hostname":  str(func(e *Event) string { return hostOf(e).name }),
	"k8s.node.name": str(func(e *Event) string { return hostOf(e).node }),
	"evt.boot_id":   str(func(e *Event) string { return hostOf(e).bootID }),
	"evt.count":     {num: func(e *Event, i int) (int64, bool) { n := e.Times(); return int64(n), i == 0 && n > 1 }},
	"evt.time_last": {num: timeLast},
	"evt.dir":       str(func(*Event) string { return "<" }),
	"evt.rawtime":   {num: func(e *Event, i int) (int64, bool) { return e.Time.UnixNano(), i == 0 }},

	"evt.arg.flags": composed(argFlags),

	"fd.num":           {num: fdNum},
	"fd.directory":     str(func(e *Event) string { d, _ := splitPath(fdPath(e)); return d }),
	"fd.filename":      str(func(e *Event) string { _, f := splitPath(fdPath(e)); return f }),
	"fs.path.name":     str(pathName),
	"fs.path.nameraw":  str(pathNameRaw),
	"fs.path.source":   str(func(e *Event) string { return e.Data.(*Mount).Source }),
	"file.type":        str(func(e *Event) string { return objectOf(e).Type() }),
	"file.mode":        composed(func(b []byte, e *Event) []byte { return objectOf(e).appendMode(b) }),
	"file.uid":         objectNum(func(o *FileObject) uint32 { return o.FileUID }),
	"file.links":       objectNum(func(o *FileObject) uint32 { return o.Links }),
	"evt.arg.mode":     composed(argMode),
	"evt.arg.path":     argPath("mkdir", "mkdirat", "rmdir", "unlink", "truncate"),
	"evt.arg.name":     argPath("unlinkat", "umount", "umount2", "open", "openat", "openat2", "creat"),
	"evt.arg.filename": argPath("chmod", "fchmodat", "fchmodat2"),
	"evt.arg.pathname": argPath("chown", "lchown", "fchownat"),
	"evt.arg.dir":      argPath("mount", "move_mount"),
	"evt.arg.oldpath":  str(func(e *Event) string { return e.Data.(*File).oldPath() }),
	"evt.arg.newpath":  str(func(e *Event) string { return e.Data.(*File).newPath() }),
	"evt.arg.target":   fileStr(func(f *File) string { return f.SourceRaw }, "symlink", "symlinkat"),
	"evt.arg.linkpath": fileStr(func(f *File) string { return cmp.Or(f.Target, f.TargetRaw) }, "symlink", "symlinkat"),
	"evt.arg.dirfd":    composed(argDir),
	"evt.arg.newdirfd": composed(argNewDir),
	"evt.arg.uid": orAttempt(fileNum(func(f *File) int64 { return int64(f.UID) }, "chown", "lchown", "fchown", "fchownat"),
		attemptID("setuid", "setfsuid")),
	"evt.arg.gid": orAttempt(fileNum(func(f *File) int64 { return int64(f.GID) }, "chown", "lchown", "fchown", "fchownat"),
		attemptID("setgid", "setfsgid")),
	"evt.arg.ruid":   attemptNum(0, "setreuid", "setresuid"),
	"evt.arg.euid":   attemptNum(1, "setreuid", "setresuid"),
	"evt.arg.suid":   attemptNum(2, "setresuid"),
	"evt.arg.rgid":   attemptNum(0, "setregid", "setresgid"),
	"evt.arg.egid":   attemptNum(1, "setregid", "setresgid"),
	"evt.arg.sgid":   attemptNum(2, "setresgid"),
	"evt.arg.fd":     attemptNum(0, "setns"),
	"evt.arg.nstype": composed(attemptNSType),
	"evt.arg.length": fileNum(func(f *File) int64 { return f.Size }, "truncate", "ftruncate"),

	"proc.exec_id":        procComposed(func(b []byte, e *Event, p *Process) []byte { return hostOf(e).appendExecID(b, p.Key) }),
	"proc.parent_exec_id": procComposed(func(b []byte, e *Event, p *Process) []byte { return hostOf(e).appendExecID(b, p.ParentKey) }),
	"proc.exeline": procComposed(func(b []byte, _ *Event, p *Process) []byte {
		for i, a := range p.Args {
			if i > 0 {
				b = append(b, ' ')
			}
			b = append(b, a...)
		}
		return b
	}),
	"proc.duration":      procNum(func(e *Event, p *Process) (int64, bool) { return since(e, p) }),
	"proc.ppid":          procNum(func(_ *Event, p *Process) (int64, bool) { return p.parentPID() }),
	"proc.ppid.duration": procNum(func(e *Event, p *Process) (int64, bool) { return since(e, p.Parent) }),
	"proc.pid.ts":        procNum(func(_ *Event, p *Process) (int64, bool) { return startNanos(p) }),
	"proc.ppid.ts":       procNum(func(_ *Event, p *Process) (int64, bool) { return startNanos(p.Parent) }),
	"proc.nargs":         procNum(nargs),
	"proc.cmdnargs":      procNum(nargs),
	"proc.cmdlenargs": procNum(func(_ *Event, p *Process) (int64, bool) {
		n := 0
		for _, a := range p.Args[min(1, len(p.Args)):] {
			n += len(a)
		}
		return int64(n), true
	}),
	"proc.is_vpgid_leader": procNum(func(_ *Event, p *Process) (int64, bool) { return truth(p.PGID == p.PID), true }),
	"proc.is_sid_leader":   procNum(func(_ *Event, p *Process) (int64, bool) { return truth(p.SID == p.PID), true }),
	"proc.exe_ino.ctime_duration_proc_start": procNum(func(_ *Event, p *Process) (int64, bool) {
		if p.ExeCtime == 0 || p.StartTime.IsZero() {
			return 0, false
		}
		return p.StartTime.UnixNano() - p.ExeCtime, true
	}),
	"thread.ismain": procNum(func(_ *Event, p *Process) (int64, bool) { return truth(p.TID == p.PID), p.TID != 0 }),

	"k8s.pod.ip":           {ip: podAddr},
	"k8s.pod.id":           podStr(PodOf, func(p *cluster.Pod) string { return p.UID }),
	"k8s.pod.sandbox_id":   str(sandboxID),
	"k8s.pod.label":        labels(PodOf, podLabels),
	"k8s.ns.label":         labels(PodOf, namespaceLabels),
	"k8s.deployment.name":  workloadOf("Deployment"),
	"k8s.daemonset.name":   workloadOf("DaemonSet"),
	"k8s.statefulset.name": workloadOf("StatefulSet"),
	"k8s.cronjob.name":     workloadOf("CronJob"),
	"k8s.rc.name":          workloadOf("ReplicationController"),

	"k8s.remote.kind":          peerStr(func(p *cluster.Peer) string { return string(p.Kind) }),
	"k8s.remote.ns.name":       peerStr(peerNamespace),
	"k8s.remote.pod.name":      podStr(remotePodOf, func(p *cluster.Pod) string { return p.Name }),
	"k8s.remote.pod.uid":       podStr(remotePodOf, func(p *cluster.Pod) string { return p.UID }),
	"k8s.remote.pod.labels":    joined(labels(remotePodOf, podLabels)),
	"k8s.remote.svc.name":      peerStr(peerService),
	"k8s.remote.workload.kind": podStr(remotePodOf, func(p *cluster.Pod) string { return p.Workload.Kind }),
	"k8s.remote.workload.name": podStr(remotePodOf, func(p *cluster.Pod) string { return p.Workload.Name }),
	"k8s.remote.node.name":     peerStr(peerNode),

	"fd.cip":      {ip: func(e *Event, i int) (netip.Addr, bool) { return sockAddr(e, i, false) }},
	"fd.sip":      {ip: func(e *Event, i int) (netip.Addr, bool) { return sockAddr(e, i, true) }},
	"fd.cnet":     {ip: func(e *Event, i int) (netip.Addr, bool) { return sockAddr(e, i, false) }},
	"fd.snet":     {ip: func(e *Event, i int) (netip.Addr, bool) { return sockAddr(e, i, true) }},
	"fd.lnet":     {ip: func(e *Event, i int) (netip.Addr, bool) { a := socketOf(e).Local; return a, i == 0 && a.IsValid() }},
	"fd.rnet":     {ip: func(e *Event, i int) (netip.Addr, bool) { a := socketOf(e).Remote; return a, i == 0 && a.IsValid() }},
	"fd.ip":       {ip: eitherAddr},
	"fd.net":      {ip: eitherAddr},
	"fd.cport":    {num: func(e *Event, i int) (int64, bool) { return sockPort(e, i, false) }},
	"fd.sport":    {num: func(e *Event, i int) (int64, bool) { return sockPort(e, i, true) }},
	"fd.port":     {num: eitherPort},
	"fd.cip.name": str(func(e *Event) string { return sockName(e, false) }),
	"fd.sip.name": str(func(e *Event) string { return sockName(e, true) }),
	"fd.name": composed(func(b []byte, e *Event) []byte {
		if d, ok := e.Data.(*Syscall); ok && d.FDName != "" {
			return append(b, d.FDName...)
		}
		return socketOf(e).append(b)
	}),
	"fd.type": str(func(e *Event) string {
		if o := objectOf(e); o != nil {
			return o.fdType()
		}
		if d, ok := e.Data.(*Syscall); ok {
			return d.FDType
		}
		switch a := socketOf(e).anyAddr(); {
		case a.Is4():
			return "ipv4"
		case a.Is6():
			return "ipv6"
		}
		return ""
	}),
	"fd.typechar": str(func(e *Event) string {
		if o := objectOf(e); o != nil {
			return o.fdTypeChar()
		}
		if d, ok := e.Data.(*Syscall); ok {
			return d.fdTypeChar()
		}
		switch a := socketOf(e).anyAddr(); {
		case a.Is4():
			return "4"
		case a.Is6():
			return "6"
		}
		return ""
	}),
	"fd.sockfamily": str(func(e *Event) string {
		if d, ok := e.Data.(*Syscall); ok {
			return d.sockFamily()
		}
		return "ip"
	}),
	"fd.cproto": str(func(e *Event) string { return portName(e, false) }),
	"fd.sproto": str(func(e *Event) string { return portName(e, true) }),
	"fd.lproto": str(func(e *Event) string { s := socketOf(e); return serviceName(s.LocalPort, s.L4) }),
	"fd.rproto": str(func(e *Event) string { s := socketOf(e); return serviceName(s.RemotePort, s.L4) }),

	"conn.direction": str(func(e *Event) string { return e.Data.(*Connection).Direction() }),
	"conn.duration": {num: func(e *Event, i int) (int64, bool) {
		c := e.Data.(*Connection)
		return c.Duration, i == 0 && (c.Duration != 0 || !c.Start.IsZero())
	}},
	"fd.connected": {num: func(e *Event, i int) (int64, bool) {
		c := e.Data.(*Connection)
		return truth(c.L4 == TCP && c.Direction() != "listen" && c.Res == 0), i == 0
	}},
	"flow.policy":      flowPolicy(func(p *FlowPolicy) string { return p.Title }),
	"flow.rule":        flowPolicy(func(p *FlowPolicy) string { return p.Number }),
	"flow.policy_tier": flowPolicy(func(p *FlowPolicy) string { return p.Tier.String() }),
	"flow.service": str(func(e *Event) string {
		if v := e.Data.(*Flow).Service; v != nil {
			return v.Namespace + "/" + v.Name
		}
		return ""
	}),
	"flow.direction": str(func(e *Event) string { return e.Data.(*Flow).Direction() }),
	"flow.duration": {num: func(e *Event, i int) (int64, bool) {
		f := e.Data.(*Flow)
		return int64(f.Last.Sub(f.Start)), i == 0 && !f.Start.IsZero() && !f.Last.Before(f.Start)
	}},
	"flow.icmp_type": {num: func(e *Event, i int) (int64, bool) { f := e.Data.(*Flow); return int64(f.ICMPType), i == 0 && f.ICMP }},
	"flow.icmp_code": {num: func(e *Event, i int) (int64, bool) { f := e.Data.(*Flow); return int64(f.ICMPCode), i == 0 && f.ICMP }},

	"fd.name_changed": {num: func(e *Event, i int) (int64, bool) {
		c := e.Data.(*Connection)
		return truth(c.Type != "update" && c.Type != "close"), i == 0
	}},
}

// str makes a getter of a function; an empty string is a missing value.
func str(fn func(*Event) string) getter {
	return getter{str: func(e *Event, i int) (string, bool) {
		if i > 0 {
			return "", false
		}
		s := fn(e)
		return s, s != ""
	}}
}

// flowPolicy makes a getter of what the policy behind a verdict has.
func flowPolicy(fn func(*FlowPolicy) string) getter {
	return str(func(e *Event) string {
		if p := e.Data.(*Flow).Policy; p != nil {
			return fn(p)
		}
		return ""
	})
}

// composed makes a getter of a function that appends; appending nothing is a
// missing value.
func composed(fn func([]byte, *Event) []byte) getter {
	g := str(func(e *Event) string { return string(fn(nil, e)) })
	g.app = fn
	return g
}

func procComposed(fn func([]byte, *Event, *Process) []byte) getter {
	return composed(func(b []byte, e *Event) []byte {
		if e.Process == nil {
			return b
		}
		return fn(b, e, e.Process)
	})
}

func procStr(fn func(*Event, *Process) string) getter {
	return str(func(e *Event) string {
		if e.Process == nil {
			return ""
		}
		return fn(e, e.Process)
	})
}

func procNum(fn func(*Event, *Process) (int64, bool)) getter {
	return getter{num: func(e *Event, i int) (int64, bool) {
		if e.Process == nil || i > 0 {
			return 0, false
		}
		return fn(e, e.Process)
	}}
}

func timeLast(e *Event, i int) (int64, bool) {
	if i > 0 || e.Times() == 1 || e.Past.Last.IsZero() {
		return 0, false
	}
	return e.Past.Last.UnixNano(), true
}

func since(e *Event, p *Process) (int64, bool) {
	if p == nil {
		return 0, false
	}
	end := e.Ktime
	if p.Exited != nil {
		end = p.Exited.Ktime
	}
	return int64(end - p.Start), end >= p.Start
}

func startNanos(p *Process) (int64, bool) {
	if p == nil || p.StartTime.IsZero() {
		return 0, false
	}
	return p.StartTime.UnixNano(), true
}

func nargs(_ *Event, p *Process) (int64, bool) { return int64(max(0, len(p.Args)-1)), true }

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// SocketOf returns the socket of an event of a kind that has one, nil for
// others.
func SocketOf(e *Event) *Socket {
	switch d := e.Data.(type) {
	case *Connection:
		return &d.Socket
	case *DNS:
		return &d.Socket
	case *Flow:
		return &d.Socket
	case *Syscall:
		return d.Sock
	}
	return nil
}

func (s *Socket) anyAddr() netip.Addr {
	if s.Local.IsValid() {
		return s.Local
	}
	return s.Remote
}

func sockAddr(e *Event, i int, server bool) (netip.Addr, bool) {
	s := socketOf(e)
	a := s.Remote
	if s.Server == server {
		a = s.Local
	}
	return a, i == 0 && a.IsValid()
}

func sockPort(e *Event, i int, server bool) (int64, bool) {
	s := socketOf(e)
	p := s.RemotePort
	if s.Server == server {
		p = s.LocalPort
	}
	return int64(p), i == 0 && p != 0
}

func sockName(e *Event, server bool) string {
	s := socketOf(e)
	if s.Server == server {
		return s.LocalName
	}
	return s.RemoteName
}

func portName(e *Event, server bool) string {
	p, _ := sockPort(e, 0, server)
	return serviceName(uint16(p), socketOf(e).L4)
}

// eitherAddr is the client's address, then the server's.
func eitherAddr(e *Event, i int) (netip.Addr, bool) {
	if i > 1 {
		return netip.Addr{}, false
	}
	return sockAddr(e, 0, i == 1)
}

func eitherPort(e *Event, i int) (int64, bool) {
	if i > 1 {
		return 0, false
	}
	return sockPort(e, 0, i == 1)
}

// String returns both ends as Falco writes them, client first.
func (s *Socket) String() string { return string(s.append(make([]byte, 0, 96))) }

func (s *Socket) append(b []byte) []byte {
	l, r := netip.AddrPortFrom(s.Local, s.LocalPort), netip.AddrPortFrom(s.Remote, s.RemotePort)
	if s.Server {
		l, r = r, l
	}
	if l.Addr().IsValid() {
		b = appendEnd(b, l)
	}
	if l.Addr().IsValid() && r.Addr().IsValid() {
		b = append(b, "->"...)
	}
	if r.Addr().IsValid() {
		b = appendEnd(b, r)
	}
	return b
}

// appendEnd writes an address without the brackets of RFC 3986: Falco's form.
func appendEnd(b []byte, a netip.AddrPort) []byte {
	b = a.Addr().AppendTo(b)
	b = append(b, ':')
	return appendUint(b, uint64(a.Port()))
}

// Direction returns listen, in or out. A server's end without another is one that
// listens, also when it is closed.
func (c *Connection) Direction() string {
	switch {
	case c.State == Listen, c.Server && !c.Remote.IsValid():
		return "listen"
	case c.Server:
		return "in"
	}
	return "out"
}

// parentPID returns the pid of the parent, which is known by its key even where
// nobody has looked at it.
func (p *Process) parentPID() (int64, bool) {
	if p.Parent != nil {
		return int64(p.Parent.PID), true
	}
	return int64(p.ParentKey.PID), !p.ParentKey.IsZero()
}
