package process

import (
	"fmt"
	"os/exec"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/internal/testkit"
)

// Numbers of system calls of 32-bit programs.
const (
	exit32    = 1
	setuid32  = 213
	unshare32 = 310
)

// TestBPFCompat changes credentials and namespaces by 32-bit system calls, of
// which tracepoints of system calls know nothing: the next fork, exec or exit
// tells what they did.
func TestBPFCompat(t *testing.T) {
	testkit.NeedRoot(t)
	probe := exec.Command(install(t, new(program).call32(exit32, 7).call(unix.SYS_EXIT_GROUP, 1), "probe"))
	if run(t, probe); probe.ProcessState.ExitCode() != 7 {
		t.Skip("this kernel has no 32-bit system calls")
	}
	setuid := func() *program { return new(program).call32(setuid32, 1000) }
	unshare := func() *program { return new(program).call32(unshare32, unix.CLONE_NEWUTS) }
	programs := []compatProgram{
		{"credentials, exit", setuid(), []string{"credentials 1000", "exit"}},
		{"credentials, fork", setuid().call(unix.SYS_FORK), []string{"credentials 1000", "fork 1000", "exit"}},
		{"namespaces, exit", unshare(), []string{"namespace uts", "exit"}},
		{"namespaces, fork", unshare().call(unix.SYS_FORK), []string{"namespace uts", "fork 0", "exit"}},
		{"both", unshare().call32(setuid32, 1000), []string{"credentials 1000", "namespace uts", "exit"}},
		{"nothing", new(program).call32(setuid32, 0), []string{"exit"}},
	}
	for i := range programs {
		programs[i].p.call(unix.SYS_EXIT_GROUP, 0)
	}
	for _, rungs := range []struct {
		name string
		cfg  bpf.Config
	}{
		{"best", bpf.Config{}},
		{"tracepoint", bpf.Config{Rungs: map[string]string{"process.credentials": "tracepoint", "process.namespaces": "tracepoint"}}},
	} {
		t.Run(rungs.name, func(t *testing.T) {
			w := start(t, rungs.cfg, kinds)
			for _, p := range programs {
				t.Run(p.name, func(t *testing.T) { p.check(t, w) })
			}
		})
	}
}

// A compatProgram makes 32-bit calls.
type compatProgram struct {
	name string
	p    *program
	want []string // of the process, after its own exec
}

// check runs the program and holds what is told of it.
func (p compatProgram) check(t *testing.T, w *watch) {
	pid := run(t, exec.Command(install(t, p.p, "x")))
	var got []string
	for _, e := range w.of(pid) {
		switch d := e.Data.(type) {
		case *event.Exec:
			got = nil
		case *event.Credentials:
			got = append(got, "credentials "+fmt.Sprint(e.Process.UID))
		case *event.Namespace:
			got = append(got, "namespace "+d.Changed[0])
		case *event.Fork:
			got = append(got, "fork "+fmt.Sprint(e.Process.UID))
		case *event.Exit:
			got = append(got, "exit")
		}
	}
	if p.name == "both" { // in the order in which they were made, or are compared
		slices.Sort(got[:len(got)-1])
	}
	if diff := cmp.Diff(p.want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
