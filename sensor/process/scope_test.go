package process

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/internal/testkit"
	"warren/test/roadtest"
)

// TestBPFScope has the same happen in two subtrees and outside both, under the
// eyes of an agent for each of the two: each sees exactly its own, and nothing
// of where its processes come from.
func TestBPFScope(t *testing.T) {
	a, b := testkit.NewCgroup(t, "a"), testkit.NewCgroup(t, "b")
	wa, wb := start(t, bpf.Config{CgroupRoot: a.Path}, kinds), start(t, bpf.Config{CgroupRoot: b.Path}, kinds)
	x := install(t, exits(3), "x")
	live := func(begin func(*exec.Cmd)) int {
		cmd := testkit.Command(t, "do", "spawn|"+x, "setresgid|7|7|7", "exec|"+x)
		begin(cmd)
		_ = cmd.Wait() // its status is in the events
		return cmd.Process.Pid
	}
	pa := live(func(cmd *exec.Cmd) { a.Start(t, cmd) })
	pb := live(func(cmd *exec.Cmd) { b.Start(t, cmd) })
	po := live(func(cmd *exec.Cmd) {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	})
	for _, tt := range []struct {
		name string
		w    *watch
		pid  int
		not  []int
	}{{"a", wa, pa, []int{pb, po}}, {"b", wb, pb, []int{pa, po}}} {
		t.Run(tt.name, func(t *testing.T) {
			for _, pid := range tt.not {
				for _, e := range tt.w.of(pid) {
					t.Errorf("not of this scope: %s", describe(e))
				}
			}
			var got []string
			children := map[event.Key]bool{}
			var own event.Key
			for _, e := range tt.w.all() {
				p := e.Process
				switch d := e.Data.(type) {
				case *event.CgroupState:
					continue
				case *event.Fork:
					if int(p.PID) == tt.pid {
						own = p.Key
						if !e.Actor.IsZero() || !p.ParentKey.IsZero() {
							t.Errorf("a process of the outside is told: %+v, by %v", p, e.Actor)
						}
					} else if e.Actor == own && p.ParentKey == own {
						children[p.Key] = true
						continue
					}
					got = append(got, d.Kind().String())
				default:
					if k := e.Actor; k == own {
						got = append(got, d.Kind().String())
					} else if !children[k] {
						t.Errorf("not of this scope: %s", describe(e))
					}
				}
			}
			want := []string{"fork", "exec", "credentials", "exec", "exit"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("events of the process (-want +got):\n%s", diff)
			}
			if len(children) == 0 {
				t.Error("no child is told")
			}
		})
	}
}

// A stepper is a helper that goes on when it is told to.
type stepper struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

// step starts a helper, by begin, whose actions contain "wait"s.
func step(t *testing.T, begin func(*exec.Cmd) error, actions ...string) *stepper {
	t.Helper()
	cmd := testkit.Command(t, "do", actions...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := begin(cmd); err != nil {
		t.Fatal(err)
	}
	s := &stepper{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	s.waits()
	return s
}

// waits returns when the helper waits.
func (s *stepper) waits() {
	s.t.Helper()
	if _, err := s.out.ReadString('\n'); err != nil {
		s.t.Fatalf("helper: %v", err)
	}
}

// next lets the helper go on until it waits again.
func (s *stepper) next() {
	s.t.Helper()
	s.goOn()
	s.waits()
}

func (s *stepper) goOn() {
	s.t.Helper()
	if _, err := s.in.Write([]byte("\n")); err != nil {
		s.t.Fatal(err)
	}
}

// end lets the helper go on to its end.
func (s *stepper) end() int {
	s.t.Helper()
	s.goOn()
	if err := s.cmd.Wait(); err != nil {
		s.t.Fatal(err)
	}
	return s.cmd.Process.Pid
}

// tell says what happened to a process, in short.
func tell(events []*event.Event) (out []string) {
	for _, e := range events {
		switch d := e.Data.(type) {
		case *event.ProcessState:
			out = append(out, fmt.Sprintf("process in %d", e.Process.Cgroup.CgroupID))
		case *event.Credentials:
			out = append(out, fmt.Sprintf("credentials %d", d.GID))
		default:
			out = append(out, d.Kind().String())
		}
	}
	return out
}

// TestBPFScopeMoves moves a process through two scopes: each knows it from the
// moment at which it comes, and of what it does after it has left only its end.
func TestBPFScopeMoves(t *testing.T) {
	a, b := testkit.NewCgroup(t, "a"), testkit.NewCgroup(t, "b")
	inner := &testkit.Cgroup{Path: a.Path + "/inner", Dir: filepath.Join(a.Dir, "inner")}
	if err := os.Mkdir(inner.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	outside := testkit.NewCgroup(t, "outside")
	wa, wb := start(t, bpf.Config{CgroupRoot: a.Path}, kinds), start(t, bpf.Config{CgroupRoot: b.Path}, kinds)

	s := step(t, (*exec.Cmd).Start, "wait", "setresgid|1|1|1", "wait", "setresgid|2|2|2", "wait", "setresgid|3|3|3", "wait", "setresgid|4|4|4", "wait")
	pid := s.cmd.Process.Pid
	s.next() // outside, it becomes 1
	for _, to := range []*testkit.Cgroup{a, inner, b} {
		to.Add(t, pid)
		s.next()
	}
	outside.Add(t, pid)
	s.end()

	in := func(c *testkit.Cgroup) string { return fmt.Sprintf("process in %d", c.ID(t)) }
	for _, tt := range []struct {
		name string
		w    *watch
		want []string
	}{
		{"a", wa, []string{in(a), "credentials 2", in(inner), "credentials 3", in(b), "exit"}},
		{"b", wb, []string{in(b), "credentials 4", in(outside), "exit"}},
	} {
		events := tt.w.of(pid)
		if diff := cmp.Diff(tt.want, tell(events)); diff != "" {
			t.Fatalf("scope %s (-want +got):\n%s", tt.name, diff)
		}
		p := events[0].Process
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		if p.ExePath != self || !p.ParentKey.IsZero() || !p.ArgsCut || len(p.Args) > 0 || p.Key != events[len(events)-1].Actor {
			t.Errorf("scope %s: %+v", tt.name, p)
		}
	}
}

// TestBPFScopeSelf has a process move itself into the scope, and a child of its
// start a life there: of such a process the arguments are told too.
func TestBPFScopeSelf(t *testing.T) {
	a := testkit.NewCgroup(t, "a")
	w := start(t, bpf.Config{CgroupRoot: a.Path}, kinds)
	roadtest.LogRungs(t, Hooks(), w.sensor.Hooks())
	x := install(t, exits(0), "x")
	cmd := testkit.Command(t, "do", "setresgid|5|5|5", "write|"+filepath.Join(a.Dir, "cgroup.procs")+"|0", "spawn|"+x, "setresgid|6|6|6")
	pid := run(t, cmd)
	var got []string
	var p *event.Process
	for _, e := range w.all() {
		if e.Actor.PID == uint32(pid) {
			if _, isFork := e.Data.(*event.Fork); !isFork {
				got = append(got, tell([]*event.Event{e})...)
			}
		}
		if _, isState := e.Data.(*event.ProcessState); isState {
			p = e.Process
		}
		if f, isExec := e.Data.(*event.Exec); isExec && (e.Process.ExePath != x || e.Process.ParentKey.PID != uint32(pid)) {
			t.Errorf("%+v of %+v", f, e.Process)
		}
	}
	want := []string{fmt.Sprintf("process in %d", a.ID(t)), "credentials 6", "exit"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff(cmd.Args, p.Args); diff != "" || p.ArgsCut {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
}

// TestBPFScopeSnapshot reads what exists: of the scope alone.
func TestBPFScopeSnapshot(t *testing.T) {
	a, b := testkit.NewCgroup(t, "a"), testkit.NewCgroup(t, "b")
	place := func(c *testkit.Cgroup) func(*exec.Cmd) error {
		return func(cmd *exec.Cmd) error { c.Start(t, cmd); return nil }
	}
	sa, sb := step(t, place(a), "wait", "setresgid|1|1|1"), step(t, place(b), "wait")
	w := start(t, bpf.Config{CgroupRoot: a.Path}, kinds)
	if err := w.sensor.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	states, at := data[*event.ProcessState](w.all())
	if len(states) != 1 || at[0].Process.PID != uint32(sa.cmd.Process.Pid) || !at[0].Process.ParentKey.IsZero() {
		t.Errorf("%d processes: %s", len(states), tell(at))
	}
	pid := sa.end()
	sb.end()
	want := []string{fmt.Sprintf("process in %d", a.ID(t)), "credentials 1", "exit"}
	if diff := cmp.Diff(want, tell(w.of(pid))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if events := w.of(sb.cmd.Process.Pid); len(events) > 0 {
		t.Errorf("of another subtree: %s", tell(events))
	}
}

// TestBPFScopeRestart: what was told before the sensor was stopped is forgotten,
// for ends go unseen meanwhile and pids are used again.
func TestBPFScopeRestart(t *testing.T) {
	a := testkit.NewCgroup(t, "a")
	w := start(t, bpf.Config{CgroupRoot: a.Path}, kinds)
	s := step(t, func(cmd *exec.Cmd) error { a.Start(t, cmd); return nil }, "wait", "wait")
	pid := s.cmd.Process.Pid
	(&testkit.Cgroup{Dir: filepath.Dir(a.Dir)}).Add(t, pid)
	before := len(w.of(pid))
	if err := w.sensor.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.sensor.Start(interest.All(kinds), w.add); err != nil {
		t.Fatal(err)
	}
	s.next()
	s.end()
	if events := w.of(pid); before == 0 || len(events) != before {
		t.Errorf("%d events before the stop, then %s", before, tell(events[before:]))
	}
}

// TestBPFScopeReturns has a process change outside of the scope, come back, and
// change to what it was before it left: that is a change from what was told last.
func TestBPFScopeReturns(t *testing.T) {
	a, outside := testkit.NewCgroup(t, "a"), testkit.NewCgroup(t, "outside")
	w := start(t, bpf.Config{CgroupRoot: a.Path}, kinds)
	s := step(t, func(cmd *exec.Cmd) error { a.Start(t, cmd); return nil },
		"setresgid|1|1|1", "wait", "setresgid|2|2|2", "wait", "setresgid|1|1|1", "wait")
	pid := s.cmd.Process.Pid
	outside.Add(t, pid)
	s.next()
	a.Add(t, pid)
	s.next()
	s.end()
	var got []string
	for _, e := range w.of(pid) {
		switch d := e.Data.(type) {
		case *event.ProcessState:
			got = append(got, fmt.Sprintf("is %d", e.Process.Creds.GID))
		case *event.Credentials:
			got = append(got, fmt.Sprintf("from %d to %d", d.OldGID, d.GID))
		}
	}
	want := []string{"from 0 to 1", "is 1", "is 2", "from 2 to 1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
