package event

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// givers set what a field follows from, where no column is called like the field.
// They report whether they have: false leaves it to the columns.
var givers = map[string]func(m *maker, v Value) (bool, error){
	"evt.kind":      given(func(*maker, string) error { return nil }),
	"evt.hostname":  given(func(m *maker, s string) error { m.host.name = s; return nil }),
	"k8s.node.name": given(func(m *maker, s string) error { m.host.node = s; return nil }),
	"evt.boot_id":   given(func(m *maker, s string) error { m.host.boot = s; return nil }),
	"evt.time": func(m *maker, v Value) (bool, error) {
		n, err := numberOf(&Column{Type: Time}, v.Text)
		if err == nil {
			setEventTime(m.e, n)
		}
		return true, err
	},
	"evt.cpu": func(m *maker, v Value) (bool, error) {
		n, err := strconv.ParseUint(v.Text, 10, 15)
		m.e.CPU = uint16(n) + 1
		return true, err
	},
	"evt.res": func(m *maker, v Value) (bool, error) {
		c := m.l.Column("evt.res")
		if c == nil {
			return false, nil
		}
		n, err := numberOf(c, v.Text)
		if err != nil {
			return true, err
		}
		c.SetInt(m.e.Record(), n)
		if raw := m.l.Column("evt.rawres"); raw != nil && n > 0 {
			if _, ok := m.values["evt.rawres"]; !ok {
				raw.SetInt(m.e.Record(), -n)
			}
		}
		return true, nil
	},
	"evt.arg.res": func(m *maker, v Value) (bool, error) { return m.k == KindSyscall, nil },

	"proc.pid": func(m *maker, v Value) (bool, error) {
		n, err := numberText(v.Text)
		p := m.process()
		p.PID, p.Key.PID = uint32(n), uint32(n)
		return true, err
	},
	"proc.ppid": func(m *maker, v Value) (bool, error) {
		n, err := numberText(v.Text)
		p := m.process()
		p.ParentKey.PID = uint32(n)
		if p.Parent != nil {
			p.Parent.PID = uint32(n)
		}
		return true, err
	},
	"proc.exec_id": given(func(m *maker, s string) (err error) {
		m.process().Key, err = parseExecID(s)
		return err
	}),
	"proc.parent_exec_id": given(func(m *maker, s string) (err error) {
		m.process().ParentKey, err = parseExecID(s)
		return err
	}),
	"proc.argv": func(m *maker, v Value) (bool, error) {
		p := m.process()
		p.Name = m.values["proc.name"].Text
		if !v.Many {
			v.List = []string{v.Text}
		}
		p.SetArgs(v.List)
		return true, nil
	},
	"proc.sname": func(m *maker, v Value) (bool, error) {
		p := m.process()
		if _, ok := m.values["proc.sid"]; ok {
			return true, nil
		}
		for a := p; a != nil; a = a.Parent {
			if a.Name == v.Text {
				p.SID = a.PID
				return true, nil
			}
		}
		return true, nil
	},
	"proc.duration": func(m *maker, v Value) (bool, error) {
		n, err := numberText(v.Text)
		p := m.process()
		switch _, ok := m.values["evt.ktime"]; {
		case !ok:
			m.e.Ktime = p.Start + uint64(n)
		case m.e.Ktime-p.Start != uint64(n): // it had ended when this was told
			p.Exited = &Exit{Ktime: p.Start + uint64(n)}
		}
		return true, err
	},
	"proc.is_vpgid_leader": truthGiver(func(m *maker, yes bool) {
		if p := m.process(); yes {
			p.PGID = p.PID
		}
	}),
	"proc.is_sid_leader": truthGiver(func(m *maker, yes bool) {
		if p := m.process(); yes {
			p.SID = p.PID
		}
	}),
	"thread.ismain": truthGiver(func(m *maker, yes bool) {
		if p := m.process(); yes {
			p.TID = p.PID
		}
	}),

	"container.id": given(func(m *maker, s string) error {
		if s == "host" {
			return nil
		}
		c := m.container()
		c.ID = s
		if c.FullID == "" {
			c.FullID = s
		}
		return nil
	}),
	"container.type": hostGiver(func(c *Container, s string) { c.Type = s }),
	"container.name": hostGiver(func(c *Container, s string) { c.Name = s }),
	"container.privileged": truthGiver(func(m *maker, yes bool) {
		if yes || m.e.Process != nil && m.e.Process.Container != nil {
			m.container().Privileged = yes
		}
	}),
	"k8s.pod.ip": func(m *maker, v Value) (bool, error) {
		c := layouts[KindProcess].Column("k8s.pod.addrs")
		if c == nil {
			return false, nil
		}
		if !v.Many {
			v.List = []string{v.Text}
		}
		c.SetList(m.process().Record(), v.List)
		return true, nil
	},
	"k8s.pod.id":           column(KindProcess, "k8s.pod.uid"),
	"k8s.deployment.name":  workloadGiver("Deployment"),
	"k8s.daemonset.name":   workloadGiver("DaemonSet"),
	"k8s.statefulset.name": workloadGiver("StatefulSet"),
	"k8s.cronjob.name":     workloadGiver("CronJob"),
	"k8s.rc.name":          workloadGiver("ReplicationController"),

	"fd.num": func(m *maker, v Value) (bool, error) {
		n, err := numberText(v.Text)
		if d, ok := m.e.Data.(*Open); ok {
			d.RawRes = n
			return true, err
		}
		return false, nil
	},
	"fd.name": func(m *maker, v Value) (bool, error) {
		if d, ok := m.e.Data.(*Syscall); ok && !strings.Contains(v.Text, "->") {
			d.FDName = v.Text
			return true, nil
		}
		if s := m.socket(); s != nil {
			return true, s.give(v.Text)
		}
		return false, nil
	},
	"fd.containername": pathGiver,
	"fs.path.name":     pathGiver,
	"fs.path.nameraw":  rawGiver,
	"evt.arg.path":     pathGiver,
	"evt.arg.name":     pathGiver,
	"evt.arg.filename": pathGiver,
	"evt.arg.pathname": pathGiver,
	"evt.arg.dir":      pathGiver,
	"evt.arg.oldpath":  fileGiver(func(f *File, s string) { f.Source = s }),
	"evt.arg.newpath":  fileGiver(func(f *File, s string) { f.Target = s }),
	"evt.arg.linkpath": fileGiver(func(f *File, s string) { f.Target = s }),
	"evt.arg.target":   fileGiver(func(f *File, s string) { f.SourceRaw = s }),
	"fs.path.source": func(m *maker, v Value) (bool, error) {
		if d, ok := m.e.Data.(*Mount); ok {
			d.Source = v.Text
			return true, nil
		}
		return false, nil
	},
	"fd.type": func(m *maker, v Value) (bool, error) {
		o := objectOf(m.e)
		if o == nil {
			return false, nil
		}
		return true, o.giveType(v.Text)
	},
	"fd.typechar": func(m *maker, v Value) (bool, error) {
		if o := objectOf(m.e); o != nil {
			return true, o.giveType(map[string]string{"f": "file", "d": "directory"}[v.Text])
		}
		if d, ok := m.e.Data.(*Syscall); ok && d.FDType == "" {
			for _, t := range []string{"file", "directory", "ipv4", "ipv6", "unix", "pipe", "event", "inotify", "eventpoll", "timerfd", "signalfd", "bpf", "userfaultfd", "io_uring", "memfd", "pidfd", "netlink", "other"} {
				if (&Syscall{FDType: t}).fdTypeChar() == v.Text {
					d.FDType = t
					break
				}
			}
		}
		return true, nil
	},
	"file.type": func(m *maker, v Value) (bool, error) {
		o := objectOf(m.e)
		if o == nil {
			return false, nil
		}
		for _, bits := range []uint32{unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK} {
			if (&FileObject{FileMode: bits}).Type() == v.Text {
				o.FileMode = o.FileMode&^unix.S_IFMT | bits
				return true, nil
			}
		}
		return true, fmt.Errorf("there is no such type")
	},
	"file.mode": func(m *maker, v Value) (bool, error) {
		n, err := strconv.ParseUint(v.Text, 8, 12)
		if o := objectOf(m.e); o != nil && err == nil {
			if o.FileMode&unix.S_IFMT == 0 {
				o.FileMode |= unix.S_IFREG
			}
			o.FileMode |= uint32(n)
		}
		return true, err
	},
	"evt.arg.flags": flagsGiver,
	"evt.arg.mode":  modeGiver,
	"evt.arg.dirfd": dirGiver(func(d Data, fd int32) { giveDir(d, fd) }),
	"evt.arg.newdirfd": dirGiver(func(d Data, fd int32) {
		if f, ok := d.(*File); ok {
			f.NewDir = fd
		}
	}),
	"evt.arg.nstype": func(m *maker, v Value) (bool, error) {
		n, err := flagsOf(v.Text, cloneFlags)
		if d, ok := m.e.Data.(*Attempt); ok {
			d.Arg1 = n
			return true, err
		}
		return false, nil
	},
	"evt.arg.uid":    ownerGiver,
	"evt.arg.gid":    ownerGiverGroup,
	"evt.arg.ruid":   registerGiver(0),
	"evt.arg.euid":   registerGiver(1),
	"evt.arg.suid":   registerGiver(2),
	"evt.arg.rgid":   registerGiver(0),
	"evt.arg.egid":   registerGiver(1),
	"evt.arg.sgid":   registerGiver(2),
	"evt.arg.fd":     registerGiver(0),
	"evt.arg.length": numberGiver(func(f *File, n int64) { f.Size = n }),
	"file.uid":       objectGiver(func(o *FileObject, n uint32) { o.FileUID = n }),
	"file.links":     objectGiver(func(o *FileObject, n uint32) { o.Links = n }),

	"fd.cip":   addrGiver(false),
	"fd.sip":   addrGiver(true),
	"fd.cnet":  addrGiver(false),
	"fd.snet":  addrGiver(true),
	"fd.cport": portGiver(false),
	"fd.sport": portGiver(true),
	"conn.direction": func(m *maker, v Value) (bool, error) {
		if d, ok := m.e.Data.(*Connection); ok {
			if _, given := m.values["fd.is_server"]; !given {
				d.Server = v.Text != "out"
			}
			if v.Text == "listen" && d.State == 0 {
				d.State = Listen
			}
		}
		return true, nil
	},
	"k8s.remote.ns.name": func(m *maker, v Value) (bool, error) {
		name := "k8s.remote.svc.ns"
		if _, ok := m.values["k8s.remote.pod.name"]; ok {
			name = "k8s.remote.pod.ns"
		}
		return m.giveColumn(name, v)
	},
	"k8s.remote.node.name": func(m *maker, v Value) (bool, error) {
		name := "k8s.remote.node.name"
		if _, ok := m.values["k8s.remote.pod.name"]; ok {
			name = "k8s.remote.pod.node"
		}
		return m.giveColumn(name, v)
	},
	"fd.sip.name": nameGiver(true),
	"fd.cip.name": nameGiver(false),
}

func given(fn func(m *maker, s string) error) func(*maker, Value) (bool, error) {
	return func(m *maker, v Value) (bool, error) { return true, fn(m, v.Text) }
}

func truthGiver(fn func(m *maker, yes bool)) func(*maker, Value) (bool, error) {
	return func(m *maker, v Value) (bool, error) {
		yes, err := strconv.ParseBool(v.Text)
		if err == nil {
			fn(m, yes)
		}
		return true, err
	}
}

// giveColumn gives a value to a column of the event.
func (m *maker) giveColumn(name string, v Value) (bool, error) {
	c := m.l.Column(name)
	if c == nil {
		return false, nil
	}
	return true, setColumn(c, m.e.Record(), v)
}

// column gives a value to a process's column of another name.
func column(k Kind, name string) func(*maker, Value) (bool, error) {
	return func(m *maker, v Value) (bool, error) {
		c := layouts[k].Column(name)
		if c == nil {
			return false, nil
		}
		return true, setColumn(c, m.process().Record(), v)
	}
}

func (m *maker) container() *Container {
	p := m.process()
	if p.Container == nil {
		p.Container = &Container{}
	}
	return p.Container
}

// hostGiver sets what a container has, and nothing for the host.
func hostGiver(fn func(c *Container, s string)) func(*maker, Value) (bool, error) {
	return func(m *maker, v Value) (bool, error) {
		if v.Text != "host" || m.process().Container != nil {
			fn(m.container(), v.Text)
		}
		return true, nil
	}
}

func workloadGiver(kind string) func(*maker, Value) (bool, error) {
	return func(m *maker, v Value) (bool, error) {
		p := m.process()
		for name, text := range map[string]string{"k8s.workload.kind": kind, "k8s.workload.name": v.Text} {
			if c := layouts[KindProcess].Column(name); c != nil {
				c.SetStr(p.Record(), text)
			}
		}
		return true, nil
	}
}

// parseExecID is the inverse of ExecID, but for the machine.
func parseExecID(s string) (Key, error) {
	parts := strings.Split(s, "-")
	if len(parts) != 3 {
		return Key{}, fmt.Errorf("that is no id of a process")
	}
	start, err := strconv.ParseUint(parts[1], 16, 64)
	if err != nil {
		return Key{}, fmt.Errorf("that is no id of a process")
	}
	pid, err := strconv.ParseUint(parts[2], 10, 32)
	if err != nil {
		return Key{}, fmt.Errorf("that is no id of a process")
	}
	return Key{PID: uint32(pid), Start: start}, nil
}

// socket returns the event's, made where a call has none yet.
func (m *maker) socket() *Socket {
	if d, ok := m.e.Data.(*Syscall); ok && d.Sock == nil {
		d.Sock = &Socket{}
	}
	return SocketOf(m.e)
}

// give sets both ends: client:port->server:port, or one.
func (s *Socket) give(text string) error {
	client, server, both := strings.Cut(text, "->")
	c, err := parseEnd(client)
	if err != nil {
		return err
	}
	if !both {
		if !s.Local.IsValid() && !s.Remote.IsValid() {
			s.Local, s.LocalPort = c.Addr(), c.Port()
		}
		return nil
	}
	r, err := parseEnd(server)
	if err != nil {
		return err
	}
	if s.Server {
		c, r = r, c
	}
	s.Local, s.LocalPort, s.Remote, s.RemotePort = c.Addr(), c.Port(), r.Addr(), r.Port()
	return nil
}

func parseEnd(text string) (netip.AddrPort, error) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return netip.AddrPort{}, fmt.Errorf("want ADDRESS:PORT->ADDRESS:PORT")
	}
	a, err := netip.ParseAddr(strings.Trim(text[:i], "[]"))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("want ADDRESS:PORT->ADDRESS:PORT")
	}
	port, err := strconv.ParseUint(text[i+1:], 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("want ADDRESS:PORT->ADDRESS:PORT")
	}
	return netip.AddrPortFrom(a, uint16(port)), nil
}

func addrGiver(server bool) func(*maker, Value) (bool, error) {
	return func(m *maker, v Value) (bool, error) {
		a, err := netip.ParseAddr(v.Text)
		s := m.socket()
		if err != nil || s == nil {
			return true, err
		}
		if s.Server == server {
			s.Local = a
		} else {
			s.Remote = a
		}
		return true, nil
	}
}

func portGiver(server bool) func(*maker, Value) (bool, error) {
	return func(m *maker, v Value) (bool, error) {
		n, err := strconv.ParseUint(v.Text, 10, 16)
		s := m.socket()
		if err != nil || s == nil {
			return true, err
		}
		if s.Server == server {
			s.LocalPort = uint16(n)
		} else {
			s.RemotePort = uint16(n)
		}
		return true, nil
	}
}

func nameGiver(server bool) func(*maker, Value) (bool, error) {
	return func(m *maker, v Value) (bool, error) {
		if s := m.socket(); s != nil {
			if s.Server == server {
				s.LocalName = v.Text
			} else {
				s.RemoteName = v.Text
			}
		}
		return true, nil
	}
}

// pathGiver sets the path of a file, whatever its kind calls it.
func pathGiver(m *maker, v Value) (bool, error) {
	switch d := m.e.Data.(type) {
	case *Open:
		d.Name = v.Text
	case *FileClose:
		d.Name = v.Text
	case *Mount:
		d.Target = v.Text
	case *File:
		if d.Name == "" {
			d.Name = v.Text
		}
	default:
		return false, nil
	}
	return true, nil
}

func rawGiver(m *maker, v Value) (bool, error) {
	switch d := m.e.Data.(type) {
	case *Open:
		d.NameRaw = v.Text
	case *Mount:
		d.TargetRaw = v.Text
	default:
		return false, nil
	}
	return true, nil
}

func fileGiver(fn func(*File, string)) func(*maker, Value) (bool, error) {
	return func(m *maker, v Value) (bool, error) {
		f, ok := m.e.Data.(*File)
		if ok {
			fn(f, v.Text)
		}
		return ok, nil
	}
}

func numberGiver(fn func(*File, int64)) func(*maker, Value) (bool, error) {
	return func(m *maker, v Value) (bool, error) {
		f, ok := m.e.Data.(*File)
		if !ok {
			return false, nil
		}
		n, err := numberText(v.Text)
		fn(f, n)
		return true, err
	}
}

func objectGiver(fn func(*FileObject, uint32)) func(*maker, Value) (bool, error) {
	return func(m *maker, v Value) (bool, error) {
		o := objectOf(m.e)
		if o == nil {
			return false, nil
		}
		n, err := numberText(v.Text)
		fn(o, uint32(n))
		return true, err
	}
}

func (o *FileObject) giveType(typ string) error {
	bits := map[string]uint32{"file": unix.S_IFREG, "directory": unix.S_IFDIR}[typ]
	if bits == 0 {
		return fmt.Errorf("a file's descriptor is of type file or directory")
	}
	if o.fdType() != typ {
		o.FileMode = o.FileMode&^unix.S_IFMT | bits
	}
	return nil
}

func ownerGiver(m *maker, v Value) (bool, error) {
	n, err := numberText(v.Text)
	switch d := m.e.Data.(type) {
	case *File:
		d.UID = uint32(n)
	case *Attempt:
		d.Arg0 = uint64(n)
	default:
		return false, nil
	}
	return true, err
}

func ownerGiverGroup(m *maker, v Value) (bool, error) {
	n, err := numberText(v.Text)
	switch d := m.e.Data.(type) {
	case *File:
		d.GID = uint32(n)
	case *Attempt:
		d.Arg0 = uint64(n)
	default:
		return false, nil
	}
	return true, err
}

func registerGiver(at int) func(*maker, Value) (bool, error) {
	return func(m *maker, v Value) (bool, error) {
		d, ok := m.e.Data.(*Attempt)
		if !ok {
			return false, nil
		}
		n, err := numberText(v.Text)
		*[...]*uint64{&d.Arg0, &d.Arg1, &d.Arg2}[at] = uint64(n)
		return true, err
	}
}

// flagsGiver sets a call's flags, by name.
func flagsGiver(m *maker, v Value) (bool, error) {
	switch d := m.e.Data.(type) {
	case *Fork:
		n, err := flagsOf(v.Text, cloneFlags)
		d.Flags = n
		return true, err
	case *Attempt:
		n, err := flagsOf(v.Text, cloneFlags)
		d.Arg0 = n
		return true, err
	case *Open:
		n, err := flagsOf(v.Text, openFlags)
		d.Flags = n &^ (openReadOnly | openWriteOnly | openReadWrite)
		switch {
		case n&openReadWrite != 0:
			d.Flags |= unix.O_RDWR
		case n&openWriteOnly != 0:
			d.Flags |= unix.O_WRONLY
		}
		if n&(unix.O_SYNC&^unix.O_DSYNC) != 0 {
			d.Flags |= unix.O_DSYNC
		}
		if n&(unix.O_TMPFILE&^unix.O_DIRECTORY) != 0 {
			d.Flags |= unix.O_DIRECTORY
		}
		return true, err
	case *File:
		names := atFlags
		switch d.Type {
		case "unlinkat":
			names = unlinkFlags
		case "renameat2":
			names = renameFlags
		}
		n, err := flagsOf(v.Text, names)
		d.Flags = uint32(n)
		return true, err
	case *Mount:
		names := umountFlags
		switch d.Type {
		case "mount":
			names = mountFlags
		case "move_mount":
			names = moveMountFlags
		}
		n, err := flagsOf(v.Text, names)
		d.Flags = n
		return true, err
	}
	return false, nil
}

// flagsOf is the inverse of appendFlags.
func flagsOf(text string, names []flagName) (flags uint64, err error) {
	for part := range strings.SplitSeq(text, "|") {
		i := slices.IndexFunc(names, func(f flagName) bool { return f.name == part })
		if i >= 0 {
			flags |= names[i].bit
			continue
		}
		n, err := strconv.ParseUint(part, 0, 64)
		if err != nil {
			return 0, fmt.Errorf("there is no flag %s", part)
		}
		flags |= n
	}
	return flags, nil
}

func modeGiver(m *maker, v Value) (bool, error) {
	set := func() (uint32, error) {
		if n, err := strconv.ParseUint(v.Text, 8, 32); err == nil {
			return uint32(n), nil
		}
		n, err := flagsOf(v.Text, modeNames)
		return uint32(n), err
	}
	switch d := m.e.Data.(type) {
	case *Open:
		n, err := set()
		d.Mode = n
		return true, err
	case *File:
		n, err := set()
		d.Mode = n
		return true, err
	}
	return false, nil
}

func dirGiver(fn func(Data, int32)) func(*maker, Value) (bool, error) {
	return func(m *maker, v Value) (bool, error) {
		if m.k == KindSyscall {
			return false, nil
		}
		fd := int64(AtCwd)
		var err error
		if v.Text != "AT_FDCWD" {
			fd, err = numberText(v.Text)
		}
		fn(m.e.Data, int32(fd))
		return true, err
	}
}

func giveDir(d Data, fd int32) {
	switch d := d.(type) {
	case *Open:
		d.Dir = fd
	case *File:
		d.Dir = fd
	}
}
