package all

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/cluster"
	"warren/event"
	"warren/filter"
	"warren/identity"
	"warren/interest"
	"warren/internal/testkit"
	"warren/prefilter"
	"warren/sensor"
	"warren/sensor/file"
	"warren/sensor/process"
	"warren/sensor/syscall"
	"warren/test/roadtest"
)

// listedWho are filters on who does something, and on the ends of what is done it
// with; DIR is the test's.
var listedWho = []string{
	"evt.type = openat and proc.exepath = DIR/opt/backup",
	"evt.type = openat and proc.exepath in (DIR/opt/backup, DIR/opt/restore) and evt.is_open_write = true",
	"evt.type = openat and proc.exepath startswith DIR/opt/ and fd.name startswith DIR/etc",
	"evt.type = openat and proc.exepath pmatch (DIR/opt) and not fd.filename = shadow",
	"evt.type = openat and (proc.exepath = DIR/opt/restore or proc.exepath = /usr/sbin/sshd)",
	"evt.type = openat and proc.name = backup",
	"evt.type = openat and proc.name in (restore, sshd, sudo) and fd.name = DIR/etc/shadow",
	"evt.type = openat and proc.name startswith back and evt.res = SUCCESS",
	"evt.type = openat and proc.exepath = DIR/opt/old",
	"evt.type = openat and container.id != host and fd.directory = DIR/etc",
	"evt.type = openat and container.name = web and not proc.name = restore",
	"evt.type = openat and k8s.ns.name = shop and k8s.pod.name startswith web and evt.is_open_write = true",
	"evt.type = openat and container.image.repository endswith /shop and proc.exepath startswith DIR/opt/b",
	"evt.type = dup and fd.rport = 53",
	"evt.type in (dup, dup2, dup3) and fd.rport in (22, 443) and fd.net = 127.1.0.0/16",
	"evt.type = dup and fd.rip = 127.9.9.9",
	"evt.type = dup and fd.net in (127.3.0.0/16, 10.0.0.0/8)",
	"evt.type = dup and fd.port = 443 and proc.exepath = DIR/opt/restore",
	"evt.type = dup and container.name in (web, db) and fd.sport = 53",
	"evt.type = dup and fd.sip = 127.1.2.3 and not proc.name in (sshd, nc)",
	"evt.kind = syscall and evt.type = dup and proc.name = backup",
	"evt.type = bind and fd.sport = 4453",
	"evt.type = openat and not proc.name in (clerk, sshd) and fd.filename = shadow",
	"evt.type = openat and not proc.exepath in (DIR/bin/clerk, /usr/sbin/sshd) and evt.is_open_write = true",
	"evt.type = openat and proc.exepath != DIR/bin/clerk and not proc.exepath startswith /usr/",
	"evt.type = dup and proc.name != clerk and proc.name != restore",
	"evt.type = bind and fd.lip = 127.53.0.0/16 and evt.res = SUCCESS",
	"evt.type in (bind, dup) and fd.port in (53, 4453) and proc.exepath startswith DIR/opt/",
}

// ends are what sockets are connected to, after the one that is so often.
var ends = []unix.SockaddrInet4{
	{Port: 53, Addr: [4]byte{127, 0, 0, 1}}, {Port: 443, Addr: [4]byte{127, 1, 2, 3}}, {Port: 22, Addr: [4]byte{127, 1, 0, 9}},
	{Port: 443, Addr: [4]byte{127, 9, 9, 9}}, {Port: 8080, Addr: [4]byte{127, 3, 3, 3}},
}

// filesOfAll are opened by everybody, noiseOfClerk often by the clerk.
var filesOfAll = []string{"etc/shadow", "etc/hosts", "etc/cron.d/backup", "var/log/syslog", "usr/bin/curl"}

const noiseOfClerk = 400

// helperWho DIR ROLE opens files and copies sockets: as often as nobody asks for,
// a clerk; as somebody who changes what he is called, and what he executes, a
// backup; and one who was there before, whenever he is told to.
func helperWho(args []string) int {
	dir, role := args[0], args[1]
	often := 1
	if role == "clerk" {
		often = noiseOfClerk
	}
	work := func() bool {
		open := func(name string, flags int) {
			if fd, err := unix.Open(filepath.Join(dir, name), flags|unix.O_CLOEXEC, 0); err == nil {
				_ = unix.Close(fd)
			}
		}
		for range often {
			open("srv/data", unix.O_RDONLY)
		}
		for _, name := range filesOfAll {
			open(name, unix.O_RDONLY)
			open(name, unix.O_WRONLY)
		}
		open("etc/none", unix.O_RDONLY)
		for i := range 1 + len(ends) {
			to, n := unix.SockaddrInet4{Port: 9999, Addr: [4]byte{127, 0, 0, 7}}, often
			if i > 0 {
				to, n = ends[i-1], 2
			}
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = unix.Connect(fd, &to)
			}
			for range n {
				copied, errDup := unix.Dup(fd)
				if err = cmpErr(err, errDup); err == nil {
					err = unix.Close(copied)
				}
			}
			if err = cmpErr(err, unix.Close(fd)); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return false
			}
		}
		return bound(unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 7}}, often) && bound(unix.SockaddrInet4{Port: 4453, Addr: [4]byte{127, 53, 0, 53}}, 2)
	}
	switch role {
	case "old":
		// Where it works is not where it was executed.
		if err := os.Chdir("/"); err != nil {
			return 1
		}
		in := bufio.NewReader(os.Stdin)
		for {
			if _, err := in.ReadString('\n'); err != nil {
				return 0
			}
			if !work() {
				return 1
			}
			fmt.Println("done")
		}
	case "backup":
		if !work() {
			return 1
		}
		runtime.LockOSThread()
		// What the kernel calls it now, nobody was told.
		other := []byte("other\x00")
		if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&other[0])), 0, 0, 0); err != nil || !work() {
			return 1
		}
		if !forked(filepath.Join(dir, "etc/shadow")) {
			return 1
		}
		// A thread that is not the first executes something else.
		failed := make(chan error)
		go func() {
			runtime.LockOSThread()
			failed <- unix.Exec(filepath.Join(dir, args[2]), append([]string{"restore", dir, "restore"}, args[3:]...), os.Environ())
		}()
		fmt.Fprintln(os.Stderr, <-failed)
		return 1
	}
	if !work() {
		return 1
	}
	return 0
}

// bound gives n sockets, one after the other, an address.
func bound(to unix.SockaddrInet4, n int) bool {
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, &to)
		}
		if err = cmpErr(err, unix.Close(fd)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return false
		}
	}
	return true
}

func cmpErr(first, next error) error {
	if first != nil {
		return first
	}
	return next
}

// forked makes a child that executes nothing but opens a file, and waits for it.
func forked(path string) bool {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return false
	}
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return false
	}
	if pid == 0 { // no more than system calls: Go has no threads here
		dir := unix.AT_FDCWD
		unix.RawSyscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(name)), unix.O_RDONLY, 0, 0, 0)
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	var st unix.WaitStatus
	_, err = unix.Wait4(int(pid), &st, 0, nil)
	return err == nil && st.ExitStatus() == 0
}

// A lobby is a desk with all that tells of processes, and what becomes of it.
type lobby struct {
	*desk
	works   prefilter.Workloads
	process sensor.Sensor
	calls   sensor.Sensor
	tables  *identity.Identity

	dir string
	web *testkit.Cgroup
	old *conversation
}

// A conversation is with a process that does something when it is told to.
type conversation struct {
	in  io.WriteCloser
	out *bufio.Reader
	pid int
}

var webContainer = &event.Container{FullID: "a1b2", ID: "a1b2", Name: "web", Type: "docker", Image: "registry.lan/shop:1", ImageRepo: "registry.lan/shop",
	Pod: &cluster.Pod{Name: "web-0", Namespace: "shop"}}

// newLobby has the sensors run on a road whose critical ring is of some bytes, 0
// for the usual, in a tree with the programs that work there.
func newLobby(t *testing.T, critical int) *lobby {
	t.Helper()
	testkit.NeedRoot(t)
	l := &lobby{desk: &desk{t: t, cgroup: testkit.NewCgroup(t, "lobby")}, dir: t.TempDir()}
	l.web = &testkit.Cgroup{Path: l.cgroup.Path + "/web", Dir: filepath.Join(l.cgroup.Dir, "web")}
	if err := os.Mkdir(l.web.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"srv/data"}, filesOfAll...) {
		l.put(name, []byte(name))
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"opt/backup", "opt/restore", "opt/old", "bin/clerk"} {
		l.put(name, nil)
		path := filepath.Join(l.dir, name)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if os.Link(self, path) == nil {
			continue
		}
		program, err := os.ReadFile(self)
		if err != nil {
			t.Fatal(err)
		}
		l.put(name, program)
	}
	// One who was there before anybody looked.
	l.old = l.talk("opt/old")

	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	var end func(testing.TB)
	l.road, end = roadtest.Run(t, bpf.Config{CgroupRoot: l.cgroup.Path, CriticalBytes: critical})
	l.tables = identity.New(identity.Config{}, log)
	l.process = process.New(l.road, process.Config{CriticalBytes: critical}, log)
	l.sensor = file.New(l.road, file.Config{Workloads: &l.works}, log)
	l.calls = syscall.New(l.road, syscall.Config{Workloads: &l.works}, log)
	t.Cleanup(func() {
		for _, s := range []sensor.Sensor{l.calls, l.sensor, l.process} {
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		}
		end(t)
	})
	if err := l.process.Start(interest.All(event.Kinds(event.KindExec)), l.told); err != nil {
		t.Fatal(err)
	}
	if err := l.process.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lobby) put(name string, content []byte) {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o755); err != nil {
		l.t.Fatal(err)
	}
}

// talk executes a program that does something when it is told to, and has done it
// once.
func (l *lobby) talk(name string) *conversation {
	l.t.Helper()
	cmd := testkit.Command(l.t, "who", l.dir, "old")
	cmd.Path = filepath.Join(l.dir, name)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		l.t.Fatal(err1, err2)
	}
	l.cgroup.Start(l.t, cmd)
	l.t.Cleanup(func() { _ = cmd.Wait() }) // killed with the test
	c := &conversation{in, bufio.NewReader(out), cmd.Process.Pid}
	c.tell(l.t)
	return c
}

// told gives events to the tables, which say whose they are, and keeps them.
func (l *lobby) told(e *event.Event) {
	l.tables.Apply(e)
	l.add(e)
}

func (l *lobby) want(w interest.Interest) {
	l.t.Helper()
	for _, s := range []sensor.Sensor{l.sensor, l.calls} {
		if err := s.Start(interest.Union(interest.Holder{Name: l.t.Name(), Interest: w.Among(s.Kinds())}), l.told); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (c *conversation) tell(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(c.in, "go\n"); err != nil {
		t.Fatal(err)
	}
	if s, err := c.out.ReadString('\n'); err != nil || s != "done\n" {
		t.Fatalf("answer %q: %v", s, err)
	}
}

// made returns how many records of files and calls the kernel has made.
func (l *lobby) made() (n int) {
	for _, c := range l.road.Counters() {
		if c.Lane == bpf.Kernel {
			continue // runs, not records
		}
		if strings.HasPrefix(c.Name, "file.") || strings.HasPrefix(c.Name, "syscall.") {
			n += int(c.Submitted)
			if c.Lost > 0 {
				l.t.Errorf("%d records of %s lost", c.Lost, c.Name)
			}
		}
	}
	return n
}

// work has everybody do what they do, and returns the events of it.
func (l *lobby) work(restore ...string) []*event.Event {
	l.t.Helper()
	l.take()
	for role, in := range map[string]*testkit.Cgroup{"clerk": l.cgroup, "backup": l.web} {
		cmd := testkit.Command(l.t, "who", append([]string{l.dir, role}, restore...)...)
		cmd.Path = filepath.Join(l.dir, map[string]string{"clerk": "bin/clerk", "backup": "opt/backup"}[role])
		cmd.Stderr = os.Stderr
		in.Start(l.t, cmd)
		if err := cmd.Wait(); err != nil {
			l.t.Fatal(err)
		}
	}
	l.old.tell(l.t)
	var out []*event.Event
	for _, e := range l.take() {
		switch d := e.Data.(type) {
		case *event.Open:
			if !strings.HasPrefix(d.Name, l.dir) && !strings.HasPrefix(d.NameRaw, l.dir) {
				continue // the runtime's
			}
		case *event.Syscall:
		default:
			continue
		}
		if e.Process == nil {
			l.t.Fatalf("nobody's: %s", event.AppendJSON(nil, e))
		}
		p, copied := *e.Process, *e
		if strings.HasSuffix(p.Cgroup.Path, "/web") {
			p.Container = webContainer
			l.works.Know(p.Cgroup.CgroupKey, webContainer)
		} else {
			l.works.Know(p.Cgroup.CgroupKey, nil)
		}
		copied.Process = &p
		out = append(out, &copied)
	}
	return out
}

func matches(p *filter.Program, events []*event.Event) (n int) {
	for _, e := range events {
		if p.Match(e) {
			n++
		}
	}
	return n
}

// TestBPFPrefilterWho counts what leaves the kernel under filters on executables,
// names, containers, ports and networks: all that the filter accepts, and little
// beside. Some of those who work were there before, some are renamed, fork, and
// execute something else in a thread.
func TestBPFPrefilterWho(t *testing.T) {
	l := newLobby(t, 0)
	calls := interest.Term{Kinds: event.Kinds(event.KindSyscall), Types: []string{"bind", "dup"}}
	l.want(interest.Interest{Terms: []interest.Term{{Kinds: event.Kinds(event.KindOpen), Types: []string{"openat"}}, calls}})
	everything := l.work("opt/restore")
	if len(everything) < 2*noiseOfClerk {
		t.Fatalf("%d events of %d", len(everything), 2*noiseOfClerk)
	}
	for _, expr := range listedWho {
		p, err := filter.Compile(strings.ReplaceAll(expr, "DIR", l.dir))
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		want := matches(p, everything)
		l.want(p.Interest())
		made := l.made()
		got := matches(p, l.work("opt/restore"))
		left := l.made() - made
		t.Logf("%5d of %d left the kernel, %4d wanted: %s", left, len(everything), got, expr)
		switch {
		case got != want:
			t.Errorf("%s: %d events, want %d", expr, got, want)
		case want == 0:
			t.Errorf("%s: accepts nothing that is tried here", expr)
		case left > len(everything)/8:
			t.Errorf("%s: %d of %d records left the kernel", expr, left, len(everything))
		}
		if w := p.Explain().Warnings; len(w) > 0 {
			t.Errorf("%s: warnings %q", expr, w)
		}
	}
}

// TestBPFPrefilterUntold: an exec that could not be told leaves a process what it
// was for all filters, and for the kernel one that is not judged.
func TestBPFPrefilterUntold(t *testing.T) {
	// So long that no ring of this size holds the record of the exec.
	const ring = 8 << 10
	l := newLobby(t, ring)
	deep := "opt/" + strings.Repeat(strings.Repeat("d", 250)+"/", 14) + "restore"
	l.put(deep, nil)
	if err := os.Remove(filepath.Join(l.dir, deep)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(l.dir, "opt/restore"), filepath.Join(l.dir, deep)); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a", ring/4)
	l.want(interest.Interest{Terms: []interest.Term{{Kinds: event.Kinds(event.KindOpen), Types: []string{"openat"}}}})
	everything := l.work(deep, long)
	for expr, n := range map[string]int{
		// Two each: before and after its renaming, and as what was not told.
		"evt.type = openat and proc.name = backup and fd.filename = shadow": 6,
		// And one of its child, which has the other name.
		"evt.type = openat and proc.exepath = DIR/opt/backup and fd.filename = shadow": 7,
	} {
		p, err := filter.Compile(strings.ReplaceAll(expr, "DIR", l.dir))
		if err != nil {
			t.Fatal(err)
		}
		want := matches(p, everything)
		l.want(p.Interest())
		if got := matches(p, l.work(deep, long)); got != want || want != n {
			t.Errorf("%s: %d events, want %d, and %d of all", expr, got, n, want)
		}
	}
}

// TestBPFPrefilterRenamed: what processes execute is read again, and one of them is
// told with another path: the kernel does not judge it by the former.
func TestBPFPrefilterRenamed(t *testing.T) {
	l := newLobby(t, 0)
	if err := os.Rename(filepath.Join(l.dir, "opt/old"), filepath.Join(l.dir, "opt/young")); err != nil {
		t.Fatal(err)
	}
	if err := l.process.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := filter.Compile("evt.type = openat and proc.exepath = " + l.dir + "/opt/young and fd.filename = shadow")
	if err != nil {
		t.Fatal(err)
	}
	l.want(p.Interest())
	if got := matches(p, l.work("opt/restore")); got != 2 {
		t.Errorf("%d events, want 2", got)
	}
}

// TestBPFPrefilterAgain: processes that were told by their exec are told again, with
// what they execute as it was: they are judged by it as before. One that is told with
// another path is not judged, until it is told with that once more.
func TestBPFPrefilterAgain(t *testing.T) {
	l := newLobby(t, 0)
	clerk, backup := l.talk("bin/clerk"), l.talk("opt/backup")
	p, err := filter.Compile("evt.type = openat and proc.exepath = " + l.dir + "/opt/backup")
	if err != nil {
		t.Fatal(err)
	}
	l.want(p.Interest())
	opens := 2 + 2*len(filesOfAll)
	again := func() {
		t.Helper()
		if err := l.process.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, others int) {
		t.Helper()
		l.take()
		made := l.made()
		clerk.tell(t)
		if n := l.made() - made; n != others {
			t.Errorf("%s: %d records of another executable left the kernel, want %d", when, n, others)
		}
		backup.tell(t)
		if n := matches(p, l.take()); n != opens {
			t.Errorf("%s: %d events, want %d", when, n, opens)
		}
	}
	check("executed", 0)
	again()
	check("read again", 0)
	for _, c := range []*conversation{clerk, backup} {
		l.web.Add(t, c.pid)
	}
	check("moved", 0)
	if err := os.Rename(filepath.Join(l.dir, "bin/clerk"), filepath.Join(l.dir, "bin/scribe")); err != nil {
		t.Fatal(err)
	}
	again()
	check("renamed", opens)
	again()
	check("renamed, and read again", 0)
}
