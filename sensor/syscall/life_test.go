package syscall

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.Main(m, map[string]func([]string) int{
		"die":    die,
		"traced": traced,
		"copy":   copies,
		"lookup": lookUp,
	})
}

// die ends by a signal that it sends itself, in the middle of the call.
func die([]string) int {
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	return 0
}

// traced asks to be traced, and gives itself another name.
func traced([]string) int {
	runtime.LockOSThread()
	_, _, errno := unix.RawSyscall(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0)
	if errno != 0 {
		return 1
	}
	name := [16]byte{'o', 't', 'h', 'e', 'r'}
	_, _, errno = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name)), 0)
	return int(errno)
}

// copies copies its standard input.
func copies([]string) int {
	if _, err := unix.Dup(0); err != nil {
		return 1
	}
	return 0
}

// lookUp looks something up in no map.
func lookUp([]string) int {
	attr := make([]byte, 32)
	_, _, _ = unix.RawSyscall(unix.SYS_BPF, unix.BPF_MAP_LOOKUP_ELEM, uintptr(unsafe.Pointer(&attr[0])), 32)
	return 0
}

func run(t testing.TB, cmd *exec.Cmd) int {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its status is what the test looks at
	return cmd.Process.Pid
}

// TestBPFKillItself: the call does not come back to the process, but is told.
func TestBPFKillItself(t *testing.T) {
	w := start(t, bpf.Config{}, only("kill"))
	pid := run(t, testkit.Command(t, "die"))
	es := w.of(pid, "kill")
	if len(es) != 1 {
		t.Fatalf("%d events", len(es))
	}
	if e := es[0]; text(t, e, "evt.arg.sig") != "SIGKILL" || number(t, e, "evt.arg.pid") != int64(pid) || text(t, e, "evt.res") != "SUCCESS" {
		t.Errorf("%s", event.AppendJSON(nil, e))
	}
}

func TestBPFTraced(t *testing.T) {
	w := start(t, bpf.Config{}, only("ptrace", "prctl"))
	cmd := testkit.Command(t, "traced")
	cmd.Env = append(cmd.Environ(), "GODEBUG=asyncpreemptoff=1") // a signal of the runtime's own would stop what is traced
	pid := run(t, cmd)
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if es := w.of(pid, "ptrace"); len(es) != 1 || text(t, es[0], "evt.arg.request") != "PTRACE_TRACEME" || text(t, es[0], "evt.res") != "SUCCESS" {
		t.Errorf("ptrace: %d events", len(es))
	}
	named := 0
	for _, e := range w.of(pid, "prctl") {
		if text(t, e, "evt.arg.option") == "PR_SET_NAME" && text(t, e, "evt.arg.arg2_str") == "other" {
			named++
		}
	}
	if named != 1 {
		t.Errorf("named %d times", named)
	}
}

// TestBPFCopiedFile: a copy of a descriptor tells the file behind it.
func TestBPFCopiedFile(t *testing.T) {
	w := start(t, bpf.Config{}, only("dup"))
	path := t.TempDir() + "/a file"
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	cmd := testkit.Command(t, "copy")
	cmd.Stdin = f
	es := w.of(run(t, cmd), "dup")
	if len(es) != 1 || text(t, es[0], "fd.name") != path || text(t, es[0], "fd.type") != "file" || number(t, es[0], "evt.arg.oldfd") != 0 {
		t.Errorf("%d events, the last %s", len(es), event.AppendJSON(nil, es[len(es)-1]))
	}
}

// TestBPFCallsInScope: of calls outside the scope nothing is told.
func TestBPFCallsInScope(t *testing.T) {
	testkit.NeedRoot(t)
	c := testkit.NewCgroup(t, "calls")
	w := start(t, bpf.Config{CgroupRoot: c.Path}, only("dup", "kill"))
	outside := run(t, testkit.Command(t, "copy"))
	in := testkit.Command(t, "copy")
	c.Start(t, in)
	_ = in.Wait()
	if es := w.of(in.Process.Pid, "dup"); len(es) != 1 {
		t.Errorf("%d events of the process in the scope", len(es))
	}
	for _, e := range w.all() {
		if e.Actor.PID == uint32(outside) || e.Actor.PID == uint32(os.Getpid()) {
			t.Errorf("outside the scope: %s", event.AppendJSON(nil, e))
		}
	}
}

// TestBPFUserWanted: who wants the calls of one user is told no others.
func TestBPFUserWanted(t *testing.T) {
	w := start(t, bpf.Config{}, ofUser(os.Getuid()+1, "personality"))
	_, _, _ = unix.RawSyscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
	if n := len(w.of(os.Getpid(), "personality")); n != 0 {
		t.Errorf("%d events of another user", n)
	}
	if err := w.sensor.Start(ofUser(os.Getuid(), "personality"), w.add); err != nil {
		t.Fatal(err)
	}
	w.call("personality", 0xffffffff)
}

// TestBPFOwnElements: the agent's own work with maps is not told, its other calls
// and everybody else's are.
func TestBPFOwnElements(t *testing.T) {
	w := start(t, bpf.Config{}, only("bpf"))
	attr := make([]byte, 32)
	_, _, _ = unix.RawSyscall(unix.SYS_BPF, unix.BPF_MAP_LOOKUP_ELEM, uintptr(unsafe.Pointer(&attr[0])), 32)
	e, errno := w.call("bpf", unix.BPF_OBJ_GET_INFO_BY_FD, attr, 16)
	if errno == 0 || text(t, e, "evt.arg.cmd") != "BPF_OBJ_GET_INFO_BY_FD" {
		t.Errorf("%v, %s", errno, event.AppendJSON(nil, e))
	}
	for _, e := range w.of(os.Getpid(), "bpf") {
		if text(t, e, "evt.arg.cmd") == "BPF_MAP_LOOKUP_ELEM" {
			t.Errorf("own look-up: %s", event.AppendJSON(nil, e))
		}
	}
	cmd := testkit.Command(t, "lookup")
	if es := w.of(run(t, cmd), "bpf"); len(es) != 1 || text(t, es[0], "evt.arg.cmd") != "BPF_MAP_LOOKUP_ELEM" {
		t.Errorf("%d events of another process", len(es))
	}
}
