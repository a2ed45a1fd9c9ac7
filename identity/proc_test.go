package identity

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"warren/event"
)

func TestParseStat(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want procStat
		ok   bool
	}{
		{"7 (sh) S 1 7 6 34816 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 9 9", procStat{comm: "sh", ppid: 1, pgrp: 7, session: 6, tty: 34816, flags: 4194304, start: 12345}, true},
		{"7 (a) b) (c\n) R 1 7 6 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 5\n", procStat{comm: "a) b) (c\n", ppid: 1, pgrp: 7, session: 6, start: 5}, true},
		{"", procStat{}, false},
		{"7 sh S 1", procStat{}, false},
		{"7 (sh) S 1 7 6", procStat{}, false},
		{")(", procStat{}, false},
		{"7 (sh) S x 7 6 34816 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 12345", procStat{}, false},
		{"7 (sh) S 1 7 6 34816 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 -12345", procStat{}, false},
	} {
		got, err := parseStat([]byte(tt.in))
		if (err == nil) != tt.ok || tt.ok && got != tt.want {
			t.Errorf("%q: %+v, %v", tt.in, got, err)
		}
	}
}

func TestProcCgroups(t *testing.T) {
	hybrid := parseProcCgroup([]byte("9:name=systemd:/\n8:pids:/docker/" + id64(1) + "\n4:memory:/a:b\nx:y:/\n1\n0::/ (deleted)\n"))
	want := []cgroupLine{{9, "name=systemd", "/"}, {8, "pids", "/docker/" + id64(1)}, {4, "memory", "/a:b"}, {0, "", "/"}}
	if diff := cmp.Diff(want, hybrid, cmp.AllowUnexported(cgroupLine{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for h, want := range map[uint32]string{9: "/", 8: "/docker/" + id64(1), 4: "/a:b", 0: "/", 1: "/", 5: ""} {
		if got := pathIn(hybrid, h); got != want {
			t.Errorf("hierarchy %d: %q, want %q", h, got, want)
		}
	}
	if got := likeliest(hybrid); got != "/docker/"+id64(1) {
		t.Errorf("likeliest: %q", got)
	}
	if got := likeliest(parseProcCgroup([]byte("4:memory:/x\n1:name=systemd:/system.slice/a.service\n0::/\n"))); got != "/system.slice/a.service" {
		t.Errorf("likeliest: %q", got)
	}
	if got := likeliest(nil); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}

func TestInScope(t *testing.T) {
	lines := parseProcCgroup([]byte("4:memory:/k8s/node2/system\n0::/k8s/node1/system\n"))
	for root, want := range map[string]bool{
		"": true, "/": true, "/k8s": true, "/k8s/node1": true, "/k8s/node1/": true, "/k8s/node1/system": true,
		"/k8s/node": false, "/k8s/node2": false, "/k8s/node1/system/x": false,
	} {
		if got := inScope(lines, root); got != want {
			t.Errorf("%q: %v", root, got)
		}
	}
	for _, odd := range []string{"", "0::/../k8s/node1\n", "4:memory:/k8s/node1\n"} {
		if inScope(parseProcCgroup([]byte(odd)), "/k8s/node1") || !inScope(parseProcCgroup([]byte(odd)), "") {
			t.Errorf("%q", odd)
		}
	}
}

func FuzzProcFiles(f *testing.F) {
	f.Add([]byte("7 (sh) S 1 7 6 34816 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 9 9"))
	f.Add([]byte("Name:\tsh\nUid:\t1\t2\t3\t4\nGid:\nNSpid:\t7\t1\nCapEff:\tffffffffffffffff\n"))
	f.Add([]byte("9:name=systemd:/\n0::/x (deleted)\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parseStat(data)
		parseStatus(data, new(event.Process))
		lines := parseProcCgroup(data)
		if p := likeliest(lines); p != "" && pathIn(lines, lines[0].hierarchy) == "" && lines[0].path != "" {
			t.Errorf("%q: no path in a hierarchy that is there", data)
		}
	})
}

// realMachine sees this machine's own /proc.
func realMachine(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t, func(c *Config) {
		c.Proc = "/proc"
		c.Now = nil
	})
	// What waits for a bounded time waits until the test lets it pass.
	m.ktime = boottime()
	m.clock.Store(m.ktime)
	if !m.filler.able {
		t.Skip("/proc shows another pid namespace than the kernel's first: processes cannot be told by their numbers")
	}
	return m
}

// startProcess starts a program that runs until the test ends.
func startProcess(t *testing.T, cmd *exec.Cmd) event.Key {
	t.Helper()
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	// Start returns in the midst of the exec, before the arguments are there.
	for {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
		must(t, err)
		if len(data) > 0 {
			break
		}
		runtime.Gosched()
	}
	return keyFromProc(t, cmd.Process.Pid)
}

// keyFromProc returns the key of a process to the precision of /proc.
func keyFromProc(t *testing.T, pid int) event.Key {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	st, err := parseStat(data)
	must(t, err)
	return event.Key{PID: uint32(pid), Start: st.start*1e7 + 5}
}

func TestUnknownProcessIsLookedUp(t *testing.T) {
	m := realMachine(t)
	parent := keyFromProc(t, os.Getpid())
	m.Apply(&event.Event{Actor: parent, Process: &event.Process{Key: parent, PID: parent.PID, Name: "test"}, Data: &event.ProcessState{}})
	cmd := exec.Command("/bin/sleep", "1000")
	cmd.Dir = "/usr"
	k := startProcess(t, cmd)

	e := &event.Event{Ktime: m.cfg.Ktime(), Actor: k, Data: conn("connect", 1, "1.1.1.1:1", "2.2.2.2:2")}
	m.Apply(e)
	gone := &event.Event{Ktime: e.Ktime, Actor: event.Key{PID: k.PID, Start: k.Start + 5e9}, Data: conn("connect", 2, "1.1.1.1:1", "2.2.2.2:2")}
	m.Apply(gone)
	if e.Process != nil || !m.Pending(e) || !m.Pending(gone) {
		t.Errorf("before: %+v, pending %v %v", e.Process, m.Pending(e), m.Pending(gone))
	}
	m.run()
	m.await("the process", func() bool { return m.Process(k) != nil })
	m.await("the other's absence", func() bool { return !m.Pending(gone) })
	m.Resolve(e, false)
	m.Resolve(gone, false)
	if gone.Process != nil {
		t.Errorf("another process of the same number was taken: %+v", gone.Process)
	}
	p := e.Process
	if p == nil {
		t.Fatal("not found")
	}
	if p.Name != "sleep" || p.Cmdline != "sleep 1000" || !strings.HasSuffix(p.ExePath, "/sleep") && !strings.HasSuffix(p.ExePath, "busybox") && !strings.HasSuffix(p.ExePath, "coreutils") || p.Cwd != "/usr" {
		t.Errorf("image: %q %q %q %q", p.Name, p.Cmdline, p.ExePath, p.Cwd)
	}
	if ancestry(p) != "sleep < test" || p.ParentKey != parent {
		t.Errorf("ancestry: %s", ancestry(p))
	}
	if int(p.UID) != os.Geteuid() || p.NetNS == 0 || p.MntNS == 0 || p.CapBounding == 0 || p.VPID == 0 {
		t.Errorf("credentials and namespaces: %+v %+v, pid inside %d", p.Creds, p.Namespaces, p.VPID)
	}
	// What the kernel or an outer PID namespace started has session 0.
	sid, err := unix.Getsid(0)
	must(t, err)
	if int(p.SID) != sid {
		t.Errorf("session %d, want %d", p.SID, sid)
	}
	m.check()
}

func TestVanishedProcess(t *testing.T) {
	m := realMachine(t)
	cmd := exec.Command("/bin/sleep", "1000")
	k := startProcess(t, cmd)
	m.Apply(&event.Event{Actor: k, Process: &event.Process{Key: k, PID: k.PID, Name: "sleep"}, Data: &event.ProcessState{}})
	for range 3 {
		m.sweepOnce(m.cfg.Ktime())
	}
	if m.Process(k) == nil {
		t.Fatal("a living process is gone")
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	m.sweepOnce(m.cfg.Ktime())
	if m.Process(k) == nil {
		t.Error("gone at the first look: its exit may be under way")
	}
	for range 2 {
		m.sweepOnce(m.cfg.Ktime())
	}
	if s := m.Stats(); m.Process(k) != nil || s.Vanished != 1 {
		t.Errorf("still there; %d vanished", s.Vanished)
	}
	m.check()
}

// A process that ended unseen, and whose pid another one has by now that nobody told
// of either.
func TestVanishedProcessWithReusedPID(t *testing.T) {
	m := realMachine(t)
	if !m.filler.firstClock {
		t.Skip("/proc tells starts by another clock than that of events")
	}
	k := startProcess(t, exec.Command("/bin/sleep", "1000"))
	before := event.Key{PID: k.PID, Start: k.Start - 5e9}
	m.Apply(&event.Event{Actor: before, Process: &event.Process{Key: before, PID: before.PID, Name: "before"}, Data: &event.ProcessState{}})
	for range 3 {
		m.sweepOnce(m.cfg.Ktime())
	}
	if s := m.Stats(); m.Process(before) != nil || s.Vanished != 1 {
		t.Errorf("still there; %d vanished", s.Vanished)
	}
	m.check()
}

// TestContainerUsers runs a process in a root of its own, as containers do.
func TestContainerUsers(t *testing.T) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs a static /bin/busybox (Debian: busybox-static) to run in a root of its own")
	}
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "etc"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "busybox"), busybox, 0o755))
	passwd := filepath.Join(root, "etc/passwd")
	must(t, os.WriteFile(passwd, []byte("boss:x:0:0::/:\napp:x:1000:1000::/:\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "etc/group"), []byte("wheel:x:0:\n"), 0o644))

	m := realMachine(t)
	cmd := exec.Command("/busybox", "sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); errors.Is(err, unix.EPERM) {
		t.Skip("needs the right to make a mount namespace")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	k := keyFromProc(t, cmd.Process.Pid)
	ns := event.Namespaces{MntNS: namespaceOf(fmt.Sprintf("/proc/%d/ns/mnt", k.PID)), UserNS: m.users.hostNS.UserNS}
	place := m.cgroup(7, "/docker/"+id64(1))
	inside := func(p *event.Process) { place(p); p.Namespaces = ns }

	m.fork(k, 999, inside) // nothing is asked for before the first exec
	e := m.exec(k, inside, "/busybox", "sleep", "1000")
	if e.Process.UserName != "root" { // the host's, until the container's own is read
		t.Errorf("at first: %q", e.Process.UserName)
	}
	if !m.Pending(e) {
		t.Error("it does not wait for its users")
	}
	m.run()
	m.await("the container's users", func() bool { return m.Process(k).UserName == "boss" })
	m.Resolve(e, false)
	if e.Process.UserName != "boss" || e.Process.GroupName != "wheel" || m.Pending(e) {
		t.Errorf("after: %q %q", e.Process.UserName, e.Process.GroupName)
	}
	if e.Process != m.Process(k) {
		t.Error("the event has a copy of its own")
	}
	if e := m.exec(k, func(p *event.Process) { inside(p); p.UID = 1000 }, "/busybox"); e.Process.UserName != "app" {
		t.Errorf("known by now: %q", e.Process.UserName)
	}

	must(t, os.WriteFile(passwd, []byte("boss:x:0:0::/:\nrenamed:x:1000:1000::/:\n"), 0o644))
	m.tick(mntCheckEvery + 1)
	m.exec(k, func(p *event.Process) { inside(p); p.UID = 1000 }, "/busybox")
	m.await("the new names", func() bool { return m.Process(k).UserName == "renamed" })
	m.check()
}

// What events left out of a process that is known is looked up too: the path of
// its cgroup, and the image that a lost parent would have given it.
func TestKnownProcessIsCompleted(t *testing.T) {
	m := realMachine(t)
	k := startProcess(t, exec.Command("/bin/sleep", "1000"))
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", k.PID))
	must(t, err)
	lines := parseProcCgroup(data)
	if len(lines) == 0 {
		t.Skip("no cgroups")
	}
	m.fork(event.Key{PID: 4_000_000, Start: 1}, k.PID, func(p *event.Process) {
		p.Key = k
		p.Name = "sleep"
		p.UID = 77
		p.Cgroup.CgroupKey = event.CgroupKey{Hierarchy: lines[0].hierarchy, ID: 99}
	})
	m.run()
	m.await("the path and the image", func() bool {
		p := m.Process(k)
		return p.Cgroup.Path == lines[0].path && p.Cmdline != ""
	})
	p := m.Process(k)
	if p.Cmdline != "sleep 1000" || p.ExePath == "" || p.UID != 77 || p.ParentKey.PID != 4_000_000 {
		t.Errorf("%q %q uid %d parent %v", p.Cmdline, p.ExePath, p.UID, p.ParentKey)
	}
	m.check()
}

// What is in /proc outside the agent's scope stays there.
func TestOutsideScopeIsNotLookedUp(t *testing.T) {
	m := realMachine(t)
	m.cfg.CgroupRoot = "/warren-nobody-is-here"
	k := startProcess(t, exec.Command("/bin/sleep", "1000"))
	if p, _, err := m.readProc(k); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%+v, %v", p, err)
	}
}

// In a pod the agent has a cgroup namespace of its own, and /proc tells other
// pods' cgroups from there.
func TestPathsFromCgroupNamespace(t *testing.T) {
	const own = "/kubepods/besteffort/pod" + cartUID
	for _, tt := range []struct{ seen, told, want string }{
		{"/", "/", own + "/a"},
		{"/", "/inner", own + "/a/inner"},
		{"/", "/../b", own + "/b"},
		{"/", "/../../../burstable/pod1/c", "/kubepods/burstable/pod1/c"},
		{"/", "/../../../..", "/"},
		{"/", "/../../../../../../../x", "/x"}, // more than there can be
		{"/a", "/a", own + "/a"},
		{"/a", "/../pod1/c", "/kubepods/besteffort/pod1/c"},
	} {
		m := newMachine(t, nil)
		m.filler.nested = true
		self := filepath.Join(m.cfg.Proc, "77")
		must(t, os.MkdirAll(self, 0o755))
		must(t, os.Symlink("77", filepath.Join(m.cfg.Proc, "self")))
		must(t, os.WriteFile(filepath.Join(self, "cgroup"), []byte("0::"+tt.seen+"\n"), 0o644))
		lines := []cgroupLine{{4, "cpu", "/../v1"}, {0, "", tt.told}}
		if got := m.wholePaths(slices.Clone(lines)); got != nil {
			t.Errorf("before the agent's own process is known: %v", got)
		}
		k := m.task(77, event.Key{}, "warren")
		m.apply(k, nil, &event.CgroupState{Cgroup: event.Cgroup{CgroupKey: event.CgroupKey{Hierarchy: 1, ID: 9}, CgroupID: 9, Path: own + "/a"}})
		if got := m.wholePaths(slices.Clone(lines)); len(got) != 1 || got[0] != (cgroupLine{0, "", tt.want}) {
			t.Errorf("%s as seen from %s: %v, want %s", tt.told, tt.seen, got, tt.want)
		}
		m.filler.nested = false
		if got := m.wholePaths(slices.Clone(lines)); !slices.Equal(got, lines) {
			t.Errorf("in the first namespace: %v", got)
		}
	}
}

// A parent that the kernel's iterator did not show is looked up for its
// children's sake.
func TestHiddenParent(t *testing.T) {
	m := realMachine(t)
	parent := keyFromProc(t, os.Getpid())
	k := startProcess(t, exec.Command("/bin/sleep", "1000"))
	grand := event.Key{PID: 1 << 21, Start: 5} // nobody's, and soon given up
	for n, p := range map[event.Key]event.Key{k: parent, {PID: 1<<21 + 1, Start: 9}: grand} {
		m.Apply(&event.Event{Actor: n, Process: &event.Process{Key: n, PID: n.PID, ParentKey: p, Name: "sleep"}, Data: &event.ProcessState{}})
	}
	if p := m.Process(k); p.Parent != nil {
		t.Fatalf("%s is known", p.Parent.Name)
	}
	m.Relink()
	m.run()
	m.await("the parent", func() bool { return m.Process(k).Parent != nil })
	p := m.Process(k).Parent
	if p.Key != parent || !strings.HasPrefix(p.Name, "identity") || len(p.Args) == 0 {
		t.Errorf("parent: %+v", p)
	}
	if m.Process(parent) == nil || m.Process(grand) != nil {
		t.Error("the table knows others")
	}
	if len(m.filler.hidden) != 0 {
		t.Errorf("still looked for: %v", m.filler.hidden)
	}
	m.check()
}
