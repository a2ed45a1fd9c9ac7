package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/internal/testkit"
	"warren/test/roadtest"
)

func TestBPFHooks(t *testing.T) {
	w := start(t, bpf.Config{}, kinds)
	roadtest.LogRungs(t, Hooks(), w.sensor.Hooks())
	if n := len(w.sensor.Hooks()); n != 9 {
		t.Errorf("%d hooks, want 9: %+v", n, w.sensor.Hooks())
	}
	// Fewer kinds: the difference is detached; none: everything.
	if err := w.sensor.Start(interest.All(event.Kinds(event.KindExec)), w.add); err != nil {
		t.Fatal(err)
	}
	if n := len(w.sensor.Hooks()); n != 5 {
		t.Errorf("%d hooks for execs, want 5: %+v", n, w.sensor.Hooks())
	}
	if err := w.sensor.Stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(w.sensor.Hooks()); n != 0 {
		t.Errorf("%d hooks after the stop", n)
	}
	quiet := len(w.all())
	run(t, exec.Command(install(t, exits(0), "x")))
	if n := len(w.all()); n != quiet {
		t.Errorf("%d events after the stop", n-quiet)
	}
	if err := w.sensor.Snapshot(t.Context()); !errors.Is(err, errNotStarted) {
		t.Errorf("snapshot after the stop: %v", err)
	}
	if err := w.sensor.Start(interest.All(kinds), w.add); err != nil {
		t.Fatal(err)
	}
	w.execOf(exec.Command(install(t, exits(0), "x")))
}

// A process that is moved to another cgroup is told at once, with that cgroup: its
// events belong to another container from then on.
func TestBPFMoved(t *testing.T) {
	for name, cgroup := range map[string]func(*testing.T) *testkit.Cgroup{
		"v2": func(t *testing.T) *testkit.Cgroup { return testkit.NewCgroup(t, "to") },
		"v1": func(t *testing.T) *testkit.Cgroup {
			mountV1(t, "pids")
			cg := testkit.NewCgroupV1(t, "pids", "to")
			sub := &testkit.Cgroup{Path: cg.Path + "/a/b/c", Dir: cg.Dir + "/a/b/c"} // deeper than any other is
			if err := os.MkdirAll(sub.Dir, 0o755); err != nil {
				t.Fatal(err)
			}
			return sub
		},
	} {
		t.Run(name, func(t *testing.T) {
			to := cgroup(t)
			w := start(t, bpf.Config{}, kinds)
			cmd := exec.Command("/bin/sleep", "1000")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			to.Add(t, cmd.Process.Pid)
			_, at := data[*event.ProcessState](w.of(cmd.Process.Pid))
			if len(at) != 1 || at[0].Process.Cgroup.ID != to.ID(t) {
				t.Errorf("told %d times: %+v", len(at), at)
			}
		})
	}
}

// The whole life of one process.
func TestBPFLife(t *testing.T) {
	w := observe(t)
	path := install(t, exits(7), "seven")
	before := time.Now()
	cmd := exec.Command(path, "a", "b c")
	cmd.Dir = "/proc"
	pid := run(t, cmd)
	events := w.of(pid)
	if len(events) != 3 {
		t.Fatalf("%d events, want fork, exec, exit", len(events))
	}
	for i, e := range events {
		if kind := []func(event.Data) bool{is[*event.Fork], is[*event.Exec], is[*event.Exit]}[i]; !kind(e.Data) {
			t.Errorf("event %d: %s", i, describe(e))
		}
		if e.Time.Before(before.Add(-time.Second)) || e.Time.After(time.Now().Add(time.Second)) {
			t.Errorf("event %d happened at %v", i, e.Time)
		}
	}
	self := os.Getpid()

	f, fe := only[*event.Fork](t, events)
	c := fe.Process
	if f.Type != "clone" || f.Flags&unix.CLONE_VFORK == 0 || int(fe.Actor.PID) != self || int(c.ParentKey.PID) != self ||
		int(c.PID) != pid || c.Name != comm(t) {
		t.Errorf("fork: %+v %+v", f, c)
	}
	x, xe := only[*event.Exec](t, events)
	p := xe.Process
	if x.Type != "execve" || p.Key != c.Key || p.ParentKey != c.ParentKey || p.Name != "seven" || p.ExePath != path ||
		p.Filename != path || p.Interp != "" || p.Cwd != "/proc" || p.Cmdline != "seven a b c" || !p.ExecTime.Equal(xe.Time) {
		t.Errorf("exec: %+v %+v", x, p)
	}
	end, ee := only[*event.Exit](t, events)
	if ee.Actor != c.Key || ee.Process != nil || end.Code != 7 || end.Signal != 0 || end.Status != 7<<8 ||
		end.Duration <= 0 || end.Duration > int64(time.Since(before)) {
		t.Errorf("exit: %+v", end)
	}
	checkSelf(t, p)
}

func is[D event.Data](d event.Data) bool { _, ok := d.(D); return ok }

// checkSelf compares what a child has from its parent with the parent.
func checkSelf(t *testing.T, p *event.Process) {
	t.Helper()
	status := statusOf(t, os.Getpid())
	if got, want := fmt.Sprintf("%016x", uint64(p.CapEffective)), status["CapEff"]; got != want {
		t.Errorf("effective capabilities %s, want %s", got, want)
	}
	if got, want := fmt.Sprintf("%016x", uint64(p.CapBounding)), status["CapBnd"]; got != want {
		t.Errorf("bounding capabilities %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(p.RUID, p.UID, p.SUID, p.FUID), strings.Join(strings.Fields(status["Uid"]), " "); got != want {
		t.Errorf("user ids %s, want %s", got, want)
	}
	for name, got := range map[string]uint32{
		"mnt": p.MntNS, "pid": p.PidNS, "net": p.NetNS, "user": p.UserNS, "uts": p.UtsNS, "ipc": p.IpcNS, "cgroup": p.CgroupNS, "time": p.TimeNS,
	} {
		if want := nsOf(t, "thread-self", name); got != want {
			t.Errorf("namespace %s: %d, want %d", name, got, want)
		}
	}
	sid, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	if int(p.SID) != sid || int(p.PGID) != unix.Getpgrp() || p.VSID != p.SID || p.VPGID != p.PGID || p.VPID != p.PID {
		t.Errorf("session %d %d, group %d %d, pid %d %d; want session %d and group %d", p.SID, p.VSID, p.PGID, p.VPGID, p.PID, p.VPID, sid, unix.Getpgrp())
	}
	if b, err := os.ReadFile("/proc/self/loginuid"); err == nil {
		if got := fmt.Sprint(uint32(p.LoginUID)); got != string(b) {
			t.Errorf("login uid %s, want %s", got, b)
		}
	}
	if stat := statOf(t, os.Getpid()); fmt.Sprint(p.TTY) != stat[4] {
		t.Errorf("terminal %d, want %s", p.TTY, stat[4])
	}
}

func comm(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSuffix(b, []byte("\n")))
}

func nsOf(t testing.TB, pid, name string) uint32 {
	t.Helper()
	var st unix.Stat_t
	err := unix.Stat("/proc/"+pid+"/ns/"+name, &st)
	if errors.Is(err, os.ErrNotExist) {
		return 0 // the kernel has no such namespaces
	}
	if err != nil {
		t.Fatal(err)
	}
	return uint32(st.Ino)
}

func statusOf(t testing.TB, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		m[k] = strings.TrimSpace(v)
	}
	return m
}

// statOf returns the fields of /proc/PID/stat behind the name: [0] is the state.
func statOf(t testing.TB, pid int) []string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

func TestBPFForkTypes(t *testing.T) {
	w := observe(t)
	clone3 := new(program)
	args := clone3.addr() + 17 + 12
	clone3.call(unix.SYS_CLONE3, args, 64).call(unix.SYS_EXIT, 0)
	for _, v := range []byte{0, 0, 0, 0, byte(unix.SIGCHLD), 0, 0, 0} {
		if clone3.addr() == args {
			clone3.raw(0, 0x20, 0, 0, 0, 0, 0, 0) // CLONE_PTRACE
			continue
		}
		clone3.raw(v, 0, 0, 0, 0, 0, 0, 0)
	}
	for _, tt := range []struct {
		name  string
		p     *program
		flags uint64
	}{
		{"fork", new(program).call(unix.SYS_FORK).call(unix.SYS_EXIT, 0), 0},
		{"vfork", new(program).call(unix.SYS_VFORK).call(unix.SYS_EXIT, 0), unix.CLONE_VFORK | unix.CLONE_VM},
		{"clone", new(program).call(unix.SYS_CLONE, unix.CLONE_PTRACE|uint32(unix.SIGCHLD), 0, 0, 0).call(unix.SYS_EXIT, 0), unix.CLONE_PTRACE | uint64(unix.SIGCHLD)},
		{"clone3", clone3, unix.CLONE_PTRACE},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pid := run(t, exec.Command(install(t, tt.p, tt.name)))
			f, e := forkBy(t, w, pid)
			if f.Type != tt.name || f.Flags != tt.flags {
				t.Errorf("%s with flags %#x, want %s with %#x", f.Type, f.Flags, tt.name, tt.flags)
			}
			if int(e.Process.ParentKey.PID) != pid || e.Actor != e.Process.ParentKey {
				t.Errorf("made by %v, parent %v, want %d", e.Actor, e.Process.ParentKey, pid)
			}
		})
	}

	t.Run("sibling", func(t *testing.T) {
		pid := run(t, exec.Command(install(t, new(program).call(unix.SYS_CLONE, unix.CLONE_PARENT, 0, 0, 0).call(unix.SYS_EXIT, 0), "sibling")))
		_, e := forkBy(t, w, pid)
		if int(e.Process.ParentKey.PID) != os.Getpid() || int(e.Actor.PID) != pid {
			t.Errorf("made by %v, parent %v; want %d and the test, %d", e.Actor, e.Process.ParentKey, pid, os.Getpid())
		}
		// It has no exit signal, so that only __WCLONE finds it.
		if _, err := unix.Wait4(int(e.Process.PID), nil, unix.WALL, nil); err != nil {
			t.Error(err)
		}
	})
}

// forkBy returns the one fork that a process made.
func forkBy(t testing.TB, w *watch, pid int) (*event.Fork, *event.Event) {
	t.Helper()
	var by []*event.Event
	for _, e := range w.all() {
		if e.Actor.PID == uint32(pid) && is[*event.Fork](e.Data) {
			by = append(by, e)
		}
	}
	return only[*event.Fork](t, by)
}

func TestBPFExitStatus(t *testing.T) {
	w := observe(t)
	kill := func(sig unix.Signal) *program {
		// getpid, then kill(it, sig)
		return new(program).call(unix.SYS_GETPID).raw(0x89, 0xc7, 0xbe, byte(sig), 0, 0, 0, 0xb8, unix.SYS_KILL, 0, 0, 0, 0x0f, 0x05).call(unix.SYS_PAUSE)
	}
	// The first thread leaves by exit(3); the other one then by exit(5), so
	// that wait tells 3, or by exit_group(5), so that it tells 5.
	leaderFirst := func(last uint32) *program {
		p := new(program)
		p.call(unix.SYS_CLONE, unix.CLONE_VM|unix.CLONE_FS|unix.CLONE_FILES|unix.CLONE_SIGHAND|unix.CLONE_THREAD|unix.CLONE_SYSVSEM, 0, 0, 0)
		p.raw(0x85, 0xc0, 0x74, 12) // in the first thread:
		p.call(unix.SYS_EXIT, 3)
		var nap [16]byte // 30 ms: the first has gone
		at := p.addr() + 17 + 12
		nap[8], nap[9], nap[10], nap[11] = 0x80, 0xc3, 0xc9, 0x01
		return p.call(unix.SYS_NANOSLEEP, at, 0).call(last, 5).raw(nap[:]...)
	}
	for _, tt := range []struct {
		name string
		p    *program
		args []string
	}{
		{"zero", exits(0), nil},
		{"code", exits(255), nil},
		{"plain exit", new(program).call(unix.SYS_EXIT, 42), nil},
		{"first thread first, all by exit", leaderFirst(unix.SYS_EXIT), nil},
		{"first thread first, then exit_group", leaderFirst(unix.SYS_EXIT_GROUP), nil},
		{"threads, exit_group", threads(4, unix.SYS_EXIT_GROUP, 9), nil},
		{"SIGKILL", kill(unix.SIGKILL), nil},
		{"SIGTERM", kill(unix.SIGTERM), nil},
		{"real-time signal", kill(40), nil},
		{"illegal instruction, no core", new(program).raw(0x0f, 0x0b), nil},
		{"core", new(program).raw(0x0f, 0x0b), []string{"core"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := write(t, dir+"/x", tt.p.elf(), 0o755)
			cmd := testkit.Command(t, "do", append(tt.args, "exec|"+path)...)
			cmd.Dir = dir
			pid := run(t, cmd)
			st := cmd.ProcessState.Sys().(syscall.WaitStatus)
			usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
			x, _ := only[*event.Exit](t, w.of(pid))
			if x.Status != int32(st) || x.CoreDump != st.CoreDump() {
				t.Errorf("status %#x, core %v; wait says %#x, core %v", x.Status, x.CoreDump, int(st), st.CoreDump())
			}
			switch {
			case st.Signaled() && (x.Signal != event.Signal(st.Signal()) || x.Code != 0):
				t.Errorf("code %d, signal %v; wait says signal %v", x.Code, x.Signal, st.Signal())
			case st.Exited() && (int(x.Code) != st.ExitStatus() || x.Signal != 0):
				t.Errorf("code %d, signal %v; wait says code %d", x.Code, x.Signal, st.ExitStatus())
			}
			if x.MaxRSS != uint64(usage.Maxrss)<<10 || x.MinFlt != uint64(usage.Minflt) || x.MajFlt != uint64(usage.Majflt) {
				t.Errorf("maxrss %d, faults %d and %d; wait says %d, %d, %d", x.MaxRSS, x.MinFlt, x.MajFlt, usage.Maxrss<<10, usage.Minflt, usage.Majflt)
			}
			if tt.name == "core" && !st.CoreDump() {
				t.Logf("this machine writes no core for the test: only the flag's absence is tested")
			}
		})
	}
}

// The times of a process with threads, some of which have gone before, are what
// wait4 tells.
func TestBPFExitUsage(t *testing.T) {
	w := observe(t)
	// Three threads count to 2^28 each; two leave, the last one ends all.
	burn := func() []byte {
		// mov ecx, 1<<28; dec ecx; jnz
		return []byte{0xb9, 0, 0, 0, 0x10, 0xff, 0xc9, 0x75, 0xfc}
	}
	p := new(program)
	p.raw(0x41, 0xbc, 2, 0, 0, 0) // mov r12d, 2
	again := len(p.code)
	p.call(unix.SYS_CLONE, unix.CLONE_VM|unix.CLONE_FS|unix.CLONE_FILES|unix.CLONE_SIGHAND|unix.CLONE_THREAD|unix.CLONE_SYSVSEM, 0, 0, 0)
	p.raw(0x85, 0xc0, 0x74, 5) // the new one goes on below
	p.raw(0x41, 0xff, 0xcc)
	p.raw(0x75, byte(again-len(p.code)-2))
	p.raw(burn()...).call(unix.SYS_EXIT, 0)
	cmd := exec.Command(install(t, p, "burn"))
	pid := run(t, cmd)
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	x, _ := only[*event.Exit](t, w.of(pid))
	want := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	got := time.Duration(x.UserTime + x.SysTime)
	// The scheduler accounts a running thread at each tick, at least every 10 ms.
	if diff := (got - want).Abs(); diff > 20*time.Millisecond || want < 20*time.Millisecond {
		t.Errorf("%v of CPU time, wait4 says %v", got, want)
	}
}

// Threads that end at the same moment: one exit, whoever is last.
func TestBPFExitRace(t *testing.T) {
	w := observe(t)
	const rounds = 150
	for name, p := range map[string]*program{
		"exit":       threads(7, unix.SYS_EXIT, 6),
		"exit_group": threads(7, unix.SYS_EXIT_GROUP, 6),
	} {
		t.Run(name, func(t *testing.T) {
			path := install(t, p, "race")
			pids := map[uint32]bool{}
			for range rounds {
				pids[uint32(run(t, exec.Command(path)))] = true
			}
			exits := map[event.Key]int{}
			for _, e := range w.all() {
				if x, ok := e.Data.(*event.Exit); ok && pids[e.Actor.PID] {
					exits[e.Actor]++
					if x.Code != 6 {
						t.Errorf("code %d", x.Code)
					}
				}
			}
			if len(exits) != rounds {
				t.Errorf("%d processes ended, want %d", len(exits), rounds)
			}
			for k, n := range exits {
				if n != 1 {
					t.Errorf("%v ended %d times", k, n)
				}
			}
		})
	}
}

// An exec by a thread that is not the first: it takes over pid and identity.
func TestBPFExecThread(t *testing.T) {
	w := observe(t)
	path := install(t, exits(4), "thread")
	pid := run(t, testkit.Command(t, "do", "execthread|"+path))
	events := w.of(pid)
	_, fe := only[*event.Fork](t, events)
	execs, at := data[*event.Exec](events)
	if len(execs) != 2 {
		t.Fatalf("%d execs, want the helper's and the thread's", len(execs))
	}
	p := at[1].Process
	if p.Key != fe.Process.Key || p.ExePath != path || p.ParentKey != fe.Process.ParentKey || p.TID != p.PID {
		t.Errorf("%+v", p)
	}
	if x, e := only[*event.Exit](t, events); x.Code != 4 || e.Actor != p.Key {
		t.Errorf("exit of %v: %+v", e.Actor, x)
	}
}

// Every record is delivered or counted.
func TestBPFTinyRing(t *testing.T) {
	w := start(t, bpf.Config{CriticalBytes: 64 << 10, Busy: 40 * time.Millisecond, Idle: 50 * time.Millisecond}, kinds)
	path := install(t, exits(0), "x")
	long := strings.Repeat("x", 4000)
	for range 200 {
		run(t, exec.Command(path, long, long, long, long))
	}
	if err := w.sensor.Stop(); err != nil { // others start processes too, also while we count
		t.Fatal(err)
	}
	w.all()
	lost := uint64(0)
	for _, c := range w.road.Counters() {
		lost += c.Lost
		if c.Decoded != c.Submitted || c.Malformed != 0 {
			t.Errorf("%s: %d submitted, %d decoded, %d malformed", c.Name, c.Submitted, c.Decoded, c.Malformed)
		}
		if c.Name == "process.fork" && c.Submitted+c.Lost < 200 || c.Name == "process.exit" && c.Submitted+c.Lost < 200 {
			t.Errorf("%s: %d submitted and %d lost are not all", c.Name, c.Submitted, c.Lost)
		}
	}
	t.Logf("%d lost", lost)
}

// Processes as fast as they can be made: each is told, whole, and in order.
func TestBPFFlood(t *testing.T) {
	w := start(t, bpf.Config{}, kinds)
	const n = 3000
	path := install(t, exits(3), "flood")
	pid := run(t, exec.Command(install(t, starts(n, path, "one", "two words", ""), "starts")))
	type life struct{ forks, execs, exits int }
	lives := map[event.Key]*life{}
	for _, e := range w.all() {
		switch d := e.Data.(type) {
		case *event.Fork:
			if e.Process.ParentKey.PID == uint32(pid) {
				lives[e.Process.Key] = &life{forks: 1}
				if d.Type != "vfork" {
					t.Fatalf("made by %s", d.Type)
				}
			}
		case *event.Exec:
			if l := lives[e.Process.Key]; l != nil {
				l.execs++
				if p := e.Process; p.ExePath != path || int(p.ParentKey.PID) != pid || !slices.Equal(p.Args, []string{path, "one", "two words", ""}) || p.ArgsCut {
					t.Fatalf("%+v", p)
				}
			}
		case *event.Exit:
			if l := lives[e.Actor]; l != nil {
				l.exits++
				if d.Code != 3 || l.execs != 1 {
					t.Fatalf("code %d after %d execs", d.Code, l.execs)
				}
			}
		}
	}
	for k, l := range lives {
		if *l != (life{1, 1, 1}) {
			t.Errorf("%v: %+v", k, *l)
		}
	}
	if len(lives) != n {
		t.Errorf("%d processes, want %d", len(lives), n)
	}
	for _, c := range w.road.Counters() {
		if (c.Lost != 0 && c.Lane != bpf.Kernel) || c.Malformed != 0 {
			t.Errorf("%s: %d lost, %d malformed", c.Name, c.Lost, c.Malformed)
		}
	}
}

// What a process costs with the sensor, and without: one vfork, execve, exit
// and wait4.
func BenchmarkBPFProcess(b *testing.B) {
	path := install(b, exits(0), "flood")
	const n = 500
	maker := install(b, starts(n, path, "one", "two words", ""), "starts")
	for _, with := range []bool{false, true} {
		b.Run(fmt.Sprintf("sensor=%v", with), func(b *testing.B) {
			if with {
				start(b, bpf.Config{}, kinds).sensor.dec.sink.Store(nil)
			}
			for b.Loop() {
				run(b, exec.Command(maker))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/process")
		})
	}
}
