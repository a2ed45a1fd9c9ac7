package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/internal/testkit"
)

// existing returns what a snapshot tells, by pid.
func (w *watch) existing() map[int]*event.Process {
	w.t.Helper()
	before := len(w.all())
	if err := w.sensor.Snapshot(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	found := map[int]*event.Process{}
	for _, e := range w.all()[before:] {
		if is[*event.ProcessState](e.Data) {
			found[int(e.Process.PID)] = e.Process
		}
	}
	return found
}

// living returns the processes that /proc lists, without those that have ended.
func living(t testing.TB) map[int]bool {
	t.Helper()
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	pids := map[int]bool{}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err != nil || bytes.Contains(b, []byte(") Z ")) {
			continue
		}
		pids[pid] = true
	}
	return pids
}

// waiting starts a process that waits, and ends it with the test.
func waiting(t testing.TB, cmd *exec.Cmd) int {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// Everything that /proc tells of every process, and what it does not.
func TestBPFExisting(t *testing.T) {
	path := install(t, waits(), "waits\n\xff")
	odd := &exec.Cmd{Path: path, Args: []string{"", "a b", "\xff\n", "", "x"}, Dir: "/proc"}
	pid := waiting(t, odd)
	long := waiting(t, exec.Command(path, strings.Repeat("x", 20000), strings.Repeat("y", 20000)))
	threaded := waiting(t, exec.Command(install(t, threads(3, unix.SYS_PAUSE, 0), "threaded")))

	before := living(t)
	w := start(t, bpf.Config{}, kinds)
	found := w.existing()
	after := living(t)

	ours := []int{os.Getpid(), pid, long, threaded}
	compared := 0
	for pid := range before {
		if !after[pid] {
			continue // came or went meanwhile
		}
		p := found[pid]
		if p == nil {
			if _, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); errors.Is(err, fs.ErrPermission) {
				t.Logf("this kernel hides process %d, from root and from its iterator", pid)
			} else {
				t.Errorf("process %d is missing", pid)
			}
			continue
		}
		if !sameAsProc(t, p) && slices.Contains(ours, pid) {
			t.Errorf("process %d of the test could not be compared", pid)
		}
		compared++
	}
	if compared < 10 {
		t.Errorf("%d processes compared", compared)
	}
	for pid := range found {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil && !bytes.Contains(b, fmt.Appendf(nil, "\nTgid:\t%d\n", pid)) {
			t.Errorf("%d is a thread", pid)
		}
	}

	p := found[pid]
	if diff := cmp.Diff(odd.Args, p.Args); diff != "" || p.ArgsCut || p.Cwd != "/proc" || p.ExePath != path || p.Name != "waits\n\xff" {
		t.Errorf("%+v; arguments (-want +got):\n%s", p, diff)
	}
	if p := found[long]; !p.ArgsCut || len(strings.Join(p.Args, " ")) != 32<<10 {
		t.Errorf("arguments cut: %v, to %d bytes", p.ArgsCut, len(strings.Join(p.Args, " ")))
	}
	if k := found[2]; k == nil || !k.Kthread || k.Name != "kthreadd" || k.ExePath != "" || k.ExeUnresolved || len(k.Args) != 0 {
		t.Errorf("kthreadd: %+v", k)
	}

	// Told once more, it is the same; what happens afterwards belongs to it.
	again := w.existing()
	if diff := cmp.Diff(found[pid], again[pid]); diff != "" {
		t.Errorf("a second time (-first +second):\n%s", diff)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the exit", func() bool {
		_, at := data[*event.Exit](w.of(pid))
		return len(at) == 1 && at[0].Actor == p.Key
	})
	// A zombie is no process any more, though /proc still lists it.
	if p := w.existing()[pid]; p != nil {
		t.Errorf("a zombie: %+v", p)
	}
}

// A process whose first thread has ended, and the memory of that one with it, is
// known by the others.
func TestBPFExistingLeaderless(t *testing.T) {
	path := install(t, leaderless(), "leaderless")
	pid := waiting(t, exec.Command(path, "a", "b"))
	testkit.Wait(t, "the first thread to end", func() bool { return statOf(t, pid)[0] == "Z" })
	w := start(t, bpf.Config{}, kinds)
	p := w.existing()[pid]
	if p == nil {
		t.Fatal("it is missing")
	}
	status := statusOf(t, pid)
	if p.ExePath != path || !slices.Equal(p.Args, []string{path, "a", "b"}) || p.Name != "leaderless" || p.MntNS == 0 || p.Cwd == "" ||
		p.TID != p.PID || fmt.Sprint(p.VPID) != status["NSpid"] {
		t.Errorf("%+v", p)
	}
	if ticks, _ := strconv.ParseUint(statOf(t, pid)[19], 10, 64); p.Start/10_000_000 != ticks {
		t.Errorf("it began at %d, not %d", p.Start/10_000_000, ticks)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the exit", func() bool {
		_, at := data[*event.Exit](w.of(pid))
		return len(at) == 1 && at[0].Actor == p.Key
	})
}

// sameAsProc compares p with /proc; false if it has gone or changed meanwhile.
func sameAsProc(t *testing.T, p *event.Process) bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", p.PID)
	comm, err := os.ReadFile(dir + "comm")
	if err != nil || string(comm) != p.Name+"\n" && !p.Kthread { // workers of the kernel rename themselves
		return false
	}
	cmdline, err := os.ReadFile(dir + "cmdline")
	if err != nil {
		return false
	}
	want := splitArgs(string(cmdline), true)
	if !p.ArgsCut && !slices.Equal(p.Args, want) {
		t.Errorf("%d %s: arguments %q, want %q", p.PID, p.Name, p.Args, want)
	}
	// Some executables are hidden from everybody: then the kernel's word is all there is.
	exe, err := os.Readlink(dir + "exe")
	if err == nil {
		deleted := strings.HasSuffix(exe, " (deleted)")
		exe = strings.TrimPrefix(strings.TrimSuffix(exe, " (deleted)"), "/memfd:")
		if strings.TrimPrefix(p.ExePath, "memfd:") != exe || p.ExeDeleted != deleted {
			if root, _ := os.Readlink(dir + "root"); root == "/" {
				t.Errorf("%d %s: executable %q, deleted %v; want %q, %v", p.PID, p.Name, p.ExePath, p.ExeDeleted, exe, deleted)
			}
		}
	} else if errors.Is(err, fs.ErrNotExist) != p.Kthread && !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%d %s: kernel thread %v, but /proc says %v", p.PID, p.Name, p.Kthread, err)
	}
	if cwd, err := os.Readlink(dir + "cwd"); err == nil && cwd != p.Cwd && !strings.HasSuffix(cwd, " (deleted)") {
		if root, _ := os.Readlink(dir + "root"); root == "/" {
			t.Errorf("%d %s: cwd %q, want %q", p.PID, p.Name, p.Cwd, cwd)
		}
	}
	stat := statOf(t, int(p.PID))
	parent, _ := strconv.Atoi(stat[1])
	ticks, _ := strconv.ParseUint(stat[19], 10, 64)
	if int(p.ParentKey.PID) != parent || p.Start/10_000_000 != ticks || fmt.Sprint(p.PGID, p.SID, p.TTY) != strings.Join(stat[2:5], " ") {
		t.Errorf("%d %s: parent %d, start %d, group %d, session %d, terminal %d; want %d, %d, %s", p.PID, p.Name, p.ParentKey.PID, p.Start/10_000_000, p.PGID, p.SID, p.TTY, parent, ticks, stat[2:5])
	}
	status := statusOf(t, int(p.PID))
	if got := fmt.Sprint(p.RUID, p.UID, p.SUID, p.FUID); got != strings.Join(strings.Fields(status["Uid"]), " ") {
		t.Errorf("%d %s: user ids %s, want %s", p.PID, p.Name, got, status["Uid"])
	}
	if mnt, err := os.Readlink(dir + "ns/mnt"); err == nil && mnt != fmt.Sprintf("mnt:[%d]", p.MntNS) {
		t.Errorf("%d %s: mount namespace %d, want %s", p.PID, p.Name, p.MntNS, mnt)
	}
	return true
}

// More than the ring holds: nothing of it is lost. What happens meanwhile on a
// machine that is busy may be.
func TestBPFExistingTinyRing(t *testing.T) {
	path := install(t, waits(), "waits")
	arg := strings.Repeat("x", 3000)
	pids := map[int]bool{}
	for range 60 {
		pids[waiting(t, exec.Command(path, arg))] = true
	}
	for _, size := range []int{32 << 10, 64 << 10} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			w := start(t, bpf.Config{CriticalBytes: size}, kinds)
			found := w.existing()
			for pid := range pids {
				if p := found[pid]; p == nil || len(p.Args) != 2 || p.Args[1] != arg {
					t.Errorf("process %d: %+v", pid, p)
				}
			}
			for _, c := range w.road.Counters() {
				if c.Name == "process.existing" && c.Lost != 0 {
					t.Errorf("%s: %d lost", c.Name, c.Lost)
				}
			}
		})
	}
}

// Changes of a process that was there before are told against what it was.
func TestBPFExistingChanges(t *testing.T) {
	p := new(program)
	// read(0, nowhere, 0) returns at the end of file of standard input.
	p.call(unix.SYS_READ, 0, programStart, 1).call(unix.SYS_SETRESUID, 1000, 1000, 1000).call(unix.SYS_EXIT, 1)
	cmd := exec.Command(install(t, p, "x"))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pid := waiting(t, cmd)
	w := start(t, bpf.Config{}, kinds)
	was := w.existing()[pid]
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the exit", func() bool {
		x, _ := data[*event.Exit](w.of(pid))
		return len(x) == 1
	})
	c, e := only[*event.Credentials](t, w.of(pid))
	if c.OldUID != 0 || c.UID != 1000 || c.OldCaps != was.CapEffective || e.Actor != was.Key {
		t.Errorf("%+v by %v", c, e.Actor)
	}
}

func TestBPFCgroup(t *testing.T) {
	w := start(t, bpf.Config{}, kinds)
	path := install(t, exits(0), "x")
	announced := func(t *testing.T, e *event.Event) string {
		t.Helper()
		for _, a := range w.all() {
			if a == e {
				break // later is too late
			}
			if c, ok := a.Data.(*event.CgroupState); ok && c.Cgroup.CgroupKey == e.Process.Cgroup.CgroupKey {
				return c.Cgroup.Path
			}
		}
		t.Fatalf("cgroup %+v was not announced before its process", e.Process.Cgroup)
		return ""
	}

	t.Run("v2", func(t *testing.T) {
		cg := testkit.NewCgroup(t, "v2")
		deep := cg.Dir
		for range 20 {
			deep = filepath.Join(deep, strings.Repeat("deep", 10))
		}
		if err := os.MkdirAll(deep, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*testkit.Cgroup{cg, {Path: cg.Path + deep[len(cg.Dir):], Dir: deep}} {
			cmd := exec.Command(path)
			c.Start(t, cmd)
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			events := w.of(cmd.Process.Pid)
			_, f := only[*event.Fork](t, events)
			if got := announced(t, f); got != c.Path || f.Process.Cgroup.ID != c.ID(t) || f.Process.Cgroup.CgroupID != c.ID(t) {
				t.Errorf("%q, id %d; want %q, %d", got, f.Process.Cgroup.ID, c.Path, c.ID(t))
			}
			_, x := only[*event.Exec](t, events)
			if x.Process.Cgroup != f.Process.Cgroup {
				t.Errorf("exec in %+v, fork in %+v", x.Process.Cgroup, f.Process.Cgroup)
			}
			told := 0
			for _, e := range w.all() {
				if s, ok := e.Data.(*event.CgroupState); ok && s.Cgroup.CgroupKey == f.Process.Cgroup.CgroupKey {
					told++
				}
			}
			if told != 1 {
				t.Errorf("announced %d times", told)
			}
		}
	})

	// In the root of v2 and deeper in a v1 hierarchy: the latter tells.
	t.Run("v1", func(t *testing.T) {
		mountV1(t, "pids")
		cg := testkit.NewCgroupV1(t, "pids", "v1")
		sub := &testkit.Cgroup{Path: cg.Path + "/a/b/c", Dir: cg.Dir + "/a/b/c"}
		if err := os.MkdirAll(sub.Dir, 0o755); err != nil {
			t.Fatal(err)
		}
		// Moved there after its fork, before its exec.
		cmd := testkit.Command(t, "do", "write|"+sub.Dir+"/cgroup.procs|0", "exec|"+path)
		pid := run(t, cmd)
		_, at := data[*event.Exec](w.of(pid))
		if len(at) != 2 {
			t.Fatalf("%d execs", len(at))
		}
		e := at[1]
		if got := announced(t, e); got != sub.Path || e.Process.Cgroup.ID != sub.ID(t) {
			t.Errorf("%q, id %d; want %q, %d", got, e.Process.Cgroup.ID, sub.Path, sub.ID(t))
		}
		if e.Process.Cgroup.Hierarchy == 0 {
			t.Errorf("hierarchy %d, want that of pids", e.Process.Cgroup.Hierarchy)
		}
	})
}

// mountV1 mounts a v1 hierarchy until the test ends, where there is none.
func mountV1(t *testing.T, controller string) {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(info)) {
		_, rest, _ := strings.Cut(line, " - cgroup ")
		if f := strings.Fields(rest); len(f) == 2 && slices.Contains(strings.Split(f[1], ","), controller) {
			return
		}
	}
	dir := t.TempDir()
	if err := unix.Mount("cgroup", dir, "cgroup", 0, controller); err != nil {
		t.Skipf("this machine has %s in its v2 hierarchy: %v", controller, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}
