package api

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/event"
)

// thisProcess is the key of the test's own process.
func thisProcess(t *testing.T) event.Key {
	t.Helper()
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	ticks, ok := startTicks(b)
	if !ok {
		t.Fatalf("no start time in %s", b)
	}
	return event.Key{PID: uint32(os.Getpid()), Start: ticks * clockTick}
}

// addr is the address of a listener on loopback.
type addr struct{}

func (addr) Network() string { return "tcp" }
func (addr) String() string  { return "127.0.0.1:7117" }

var _ net.Addr = addr{}

func cancelled(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx, cancel
}

func TestProcfsOfThisProcess(t *testing.T) {
	i := procfs{root: "/proc"}.read(thisProcess(t))
	if i == nil {
		t.Fatal("nothing")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if i.Exe != exe || i.Cwd != cwd || i.Root != "/" || i.Threads == 0 || i.RSS == 0 || i.RSSAnon == 0 || i.FilesOpen < 3 || len(i.Files) < 3 || len(i.Cgroups) == 0 || i.OOMScore == nil || i.State == "" || i.Unreadable != nil {
		t.Errorf("%+v", i)
	}
	later := thisProcess(t)
	later.Start += 5 * clockTick
	if i := (procfs{root: "/proc"}).read(later); i != nil {
		t.Errorf("another process of the same pid: %+v", i)
	}
}

func TestProcfs(t *testing.T) {
	root := t.TempDir()
	write := func(pid int, name, text string) {
		t.Helper()
		path := filepath.Join(root, strconv.Itoa(pid), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const stat = "7 (a) b) c) S 1 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 500 1 1"
	write(7, "stat", stat)
	write(7, "status", "Name:\ta\nState:\tS (sleeping)\nThreads:\t2\nVmRSS:\t 12 kB\nRssAnon:\tmany kB\nVmSwap: 1\nSeccomp:\t2\nNoNewPrivs:\t1\nGarbage\n\n:")
	write(7, "oom_score", "66\n")
	write(7, "cgroup", "1:cpu:/a\n0::/b\n")
	write(7, "exe", "is no link")
	write(7, "fd/x", "")
	score := 66
	got := procfs{root: root}.read(event.Key{PID: 7, Start: 500*clockTick + 3})
	want := &procInfo{State: "S (sleeping)", Threads: 2, RSS: 12288, Seccomp: "filter", NoNewPrivs: true, OOMScore: &score, Cgroups: []string{"1:cpu:/a", "0::/b"}, Unreadable: []string{"exe: invalid argument"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	// Most of it vanishes while it is read.
	write(8, "stat", stat)
	if got := (procfs{root: root}).read(event.Key{PID: 8, Start: 500 * clockTick}); got == nil || cmp.Diff(&procInfo{}, got) != "" {
		t.Errorf("a process that ends: %+v", got)
	}
	if got := (procfs{root: root}).read(event.Key{PID: 9, Start: 500 * clockTick}); got != nil {
		t.Errorf("no process: %+v", got)
	}
}

func FuzzStartTicks(f *testing.F) {
	f.Add([]byte("7 (a) b) c) S 1 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 500 1 1"))
	f.Add([]byte("7 (a"))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, b []byte) {
		startTicks(b)
		var i procInfo
		i.status(b)
		if s := i.appendJSON(nil); len(s) < 2 || s[0] != '{' {
			t.Errorf("%s", s)
		}
	})
}

func FuzzExecID(f *testing.F) {
	f.Add(event.Key{PID: 1, Start: 2}.ExecID())
	f.Add("a-b-c")
	f.Add("--")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := parseExecID(s); err == nil && k.ExecID() != s {
			t.Errorf("%q is read as %q", s, k.ExecID())
		}
	})
}
