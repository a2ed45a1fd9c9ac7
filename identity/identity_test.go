package identity

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"warren/event"
)

// machine is an Identity with a clock that tests move, and a host of its own.
type machine struct {
	*Identity
	t     testing.TB
	ktime uint64
	clock atomic.Uint64 // ktime, for the goroutines of Run
	boot  time.Time
}

// newMachine returns tables that see neither this machine's runtimes nor its
// users.
func newMachine(t testing.TB, change func(*Config)) *machine {
	t.Helper()
	m := &machine{t: t, ktime: 1000e9, boot: time.Unix(1_700_000_000, 0)}
	root := t.TempDir()
	must(t, os.Mkdir(filepath.Join(root, "etc"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\nstaff:x:1000:\n"), 0o644))
	cfg := Config{
		Root: root,
		Proc: filepath.Join(root, "proc"),
		Sockets: Sockets{
			Docker: []string{}, Podman: []string{}, Containerd: []string{}, CRIO: []string{},
			RootlessPodman: filepath.Join(root, "run/user/UID/podman.sock"),
		},
		Now:   func() time.Time { return m.boot.Add(time.Duration(m.clock.Load())) },
		Ktime: m.clock.Load,
	}
	if change != nil {
		change(&cfg)
	}
	m.clock.Store(m.ktime)
	m.Identity = New(cfg, slog.New(slog.DiscardHandler))
	return m
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *machine) now() time.Time { return m.boot.Add(time.Duration(m.ktime)) }

// tick lets time pass.
func (m *machine) tick(d time.Duration) {
	m.ktime += uint64(d)
	m.clock.Store(m.ktime)
}

func (m *machine) apply(actor event.Key, p *event.Process, d event.Data) *event.Event {
	m.tick(1000)
	e := &event.Event{Time: m.now(), Ktime: m.ktime, Actor: actor, Process: p, Data: d}
	m.Apply(e)
	return e
}

// task tells of a process that exists already.
func (m *machine) task(pid uint32, parent event.Key, args ...string) event.Key {
	k := event.Key{PID: pid, Start: uint64(pid) * 1e9}
	p := &event.Process{Key: k, PID: pid, TID: pid, ParentKey: parent, Name: args[0], ExePath: "/bin/" + args[0], LoginUID: event.NoLogin, StartTime: m.boot.Add(time.Duration(k.Start))}
	p.SetArgs(args)
	m.apply(k, p, &event.ProcessState{Type: "process"})
	return k
}

// fork makes a child as the sensor tells it: with its parent's credentials,
// and without its image.
func (m *machine) fork(parent event.Key, pid uint32, change ...func(*event.Process)) (event.Key, *event.Event) {
	k := event.Key{PID: pid, Start: m.ktime + 1000}
	p := &event.Process{Key: k, PID: pid, TID: pid, ParentKey: parent, StartTime: m.now()}
	if q := m.Process(parent); q != nil {
		p.Creds, p.Namespaces, p.Cgroup.CgroupKey, p.LoginUID = q.Creds, q.Namespaces, q.Cgroup.CgroupKey, q.LoginUID
		p.SessionID = q.SessionID
	}
	for _, fn := range change {
		fn(p)
	}
	return k, m.apply(k, p, &event.Fork{Type: "clone"})
}

// exec starts a program.
func (m *machine) exec(k event.Key, change func(*event.Process), args ...string) *event.Event {
	p := &event.Process{Key: k, PID: k.PID, TID: k.PID, Name: filepath.Base(args[0]), ExePath: args[0], LoginUID: event.NoLogin, ExecTime: m.now()}
	p.ExeInode = uint64(len(args[0]))
	if q := m.Process(k); q != nil {
		p.ParentKey, p.Creds, p.Namespaces, p.Cgroup.CgroupKey = q.ParentKey, q.Creds, q.Namespaces, q.Cgroup.CgroupKey
	}
	p.SetArgs(args)
	if change != nil {
		change(p)
	}
	return m.apply(k, p, &event.Exec{Type: "execve"})
}

func (m *machine) exit(k event.Key, code int32) *event.Event {
	return m.apply(k, nil, &event.Exit{Type: "procexit", Code: code, Status: code << 8})
}

// cgroup tells a cgroup's path.
func (m *machine) cgroup(id uint64, path string) func(*event.Process) {
	k := event.CgroupKey{ID: id}
	m.apply(event.Key{}, nil, &event.CgroupState{Type: "cgroup", Cgroup: event.Cgroup{CgroupKey: k, CgroupID: id, Path: path}})
	return func(p *event.Process) { p.Cgroup = event.Cgroup{CgroupKey: k, CgroupID: id} }
}

func addr(s string) (netip.Addr, uint16) {
	ap := netip.MustParseAddrPort(s)
	return ap.Addr(), ap.Port()
}

// conn returns a connection's event, to be changed by the caller.
func conn(typ string, cookie uint64, local, remote string) *event.Connection {
	c := &event.Connection{Type: typ, State: event.Established}
	c.L4, c.Cookie, c.NetNS = event.TCP, cookie, 1
	c.Local, c.LocalPort = addr(local)
	c.Remote, c.RemotePort = addr(remote)
	return c
}

// rows returns what Connections yields.
func (m *machine) rows() []*event.Event {
	var list []*event.Event
	for e := range m.Connections {
		list = append(list, e)
	}
	return list
}

// checkSpares verifies that nothing that waits to be used again is in use.
func (m *machine) checkSpares(used map[*snap]int32) {
	m.t.Helper()
	t := &m.procs
	n, spare := 0, map[*snap]bool{}
	for s := t.freeSnaps; s != nil; s = s.parent {
		if used[s] != 0 || s.queued || s.p != nil || s.older != nil {
			m.t.Errorf("a spare snapshot is in use: %+v", s)
		}
		spare[s] = true
		n++
	}
	if n != t.spareSnaps || n > maxSpare {
		m.t.Errorf("%d spare snapshots, %d counted", n, t.spareSnaps)
	}
	n = 0
	for en := t.freeEntries; en != nil; en = en.older {
		if en.snap != nil || en.list != nil {
			m.t.Errorf("a spare entry is in use: %+v", en)
		}
		n++
	}
	if n != t.spareEntries || n > maxSpare {
		m.t.Errorf("%d spare entries, %d counted", n, t.spareEntries)
	}
	for n := range t.recent.n {
		if s := t.recent.ring[(t.recent.head+n)%len(t.recent.ring)]; spare[s] || used[s] != 0 && !s.queued {
			m.t.Errorf("a recent snapshot may be used again: %+v", s)
		}
	}
}

// check verifies that the bytes in use are those of what can be reached.
func (m *machine) check() {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	t := &m.procs
	refs := map[*snap]int32{}
	images := map[*image]int32{}
	var bytes int64
	var visit func(s *snap)
	visit = func(s *snap) {
		if s == nil {
			return
		}
		refs[s]++
		if refs[s] > 1 {
			return
		}
		bytes += snapSize + int64(s.extra)
		if s.img != nil {
			if images[s.img]++; images[s.img] == 1 {
				bytes += int64(s.img.size)
			}
		}
		if (s.parent == nil) != (s.p.Parent == nil) || s.parent != nil && s.parent.p != s.p.Parent {
			m.t.Errorf("snapshot of %d: the parent counted is not its Parent", s.p.PID)
		}
		visit(s.parent)
		visit(s.older)
	}
	n := 0
	for _, en := range t.byPID {
		for ; en != nil; en = en.older {
			n++
			bytes += entrySize
			visit(en.snap)
		}
	}
	if n != t.living.n+t.exited.n {
		m.t.Errorf("%d processes in the index, %d living and %d ended in the lists", n, t.living.n, t.exited.n)
	}
	for _, l := range []*list[row]{&m.conns.living, &m.conns.closed} {
		for r := range l.all {
			visit(r.snap)
		}
	}
	for s, n := range refs {
		if s.refs != n {
			m.t.Errorf("snapshot of %d counts %d references, has %d", s.p.PID, s.refs, n)
		}
	}
	for img, n := range images {
		if img.refs != n {
			m.t.Errorf("an image counts %d references, has %d", img.refs, n)
		}
	}
	m.checkSpares(refs)
	if bytes != t.bytes {
		m.t.Errorf("%d bytes counted, %d in use", t.bytes, bytes)
	}
	for _, c := range m.conts.byID {
		living := 0
		for en := c.members; en != nil; en = en.cnext {
			if en.cont != c {
				m.t.Errorf("process %d is listed in a container that is not its own", en.key.PID)
			}
			if en.list == &t.living {
				living++
			}
		}
		if living != c.living {
			m.t.Errorf("container %s counts %d living, has %d", c.id.id, c.living, living)
		}
	}
}
