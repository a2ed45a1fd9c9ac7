package socket

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/internal/testkit"
	"warren/test/roadtest"
)

func TestMain(m *testing.M) {
	testkit.Main(m, map[string]func([]string) int{
		"dial":   helperDial,
		"burst":  helperBurst,
		"accept": helperAccept,
		"take":   helperTake,
		"send":   helperSend,
		"hold":   helperHold,
		"ask":    helperAsk,
		"serve":  helperServe,
		"answer": helperAnswer,
	})
}

// A rig is a running sensor with what it has emitted.
type rig struct {
	t      *testing.T
	road   *bpf.Road
	sensor *Sensor
	*seen
	lossy bool // records may be lost
	from  int  // numbers of namespaces are used again: what came before is another's
}

type seen struct {
	mu     sync.Mutex
	events []*event.Event
}

// with is the rig as a subtest uses it.
func (r *rig) with(t *testing.T) *rig {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &rig{t: t, road: r.road, sensor: r.sensor, seen: r.seen, from: len(r.events)}
}

// newRig starts a sensor for all its kinds; rungs forces hooks.
func newRig(t *testing.T, cfg Config, rungs map[string]string) *rig {
	t.Helper()
	return newRigOf(t, cfg, bpf.Config{Rungs: rungs}, kindConn|kindDNS)
}

// roadConfig is the road's default.
func roadConfig() bpf.Config { return bpf.Config{} }

func newRigOf(t *testing.T, cfg Config, road bpf.Config, want event.KindSet) *rig {
	t.Helper()
	r := &rig{t: t, seen: &seen{}}
	var end func(testing.TB)
	r.road, end = roadtest.Run(t, road)
	t.Cleanup(func() {
		if err := r.sensor.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		for _, c := range r.road.Counters() {
			if c.Malformed > 0 {
				t.Errorf("%s: %d malformed records: %s", c.Name, c.Malformed, r.road.Stats().LastError)
			}
			// Runs that the kernel leaves out, where one program interrupts itself, are
			// told too; no test can forbid them.
			if c.Lost > 0 && !r.lossy && c.Lane != bpf.Kernel {
				t.Errorf("%s: %d records lost", c.Name, c.Lost)
			}
		}
		end(t)
	})
	r.sensor = New(r.road, cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err := r.sensor.Start(interest.All(want), r.collect); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) collect(e *event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *rig) sync() {
	r.t.Helper()
	if err := r.road.Sync(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// conns returns the connection events that match.
func (r *rig) conns(match func(*event.Connection) bool) []*event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*event.Event
	for _, e := range r.events[r.from:] {
		if c, ok := e.Data.(*event.Connection); ok && match(c) {
			out = append(out, e)
		}
	}
	return out
}

// wait waits for n events that match, and checks that there are no more.
func (r *rig) wait(what string, n int, match func(*event.Connection) bool) []*event.Event {
	r.t.Helper()
	testkit.WaitFor(r.t, what, func() (int, bool) {
		got := len(r.conns(match))
		return got, got >= n
	})
	r.sync()
	got := r.conns(match)
	if len(got) != n {
		r.t.Fatalf("%s: %d events, want %d:%s", what, len(got), n, list(got))
	}
	return got
}

func (r *rig) wait1(what string, match func(*event.Connection) bool) (*event.Event, *event.Connection) {
	r.t.Helper()
	e := r.wait(what, 1, match)[0]
	return e, e.Data.(*event.Connection)
}

// dns returns the DNS events of a network namespace.
func (r *rig) dns(netns uint32) []*event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*event.Event
	for _, e := range r.events[r.from:] {
		if d, ok := e.Data.(*event.DNS); ok && d.NetNS == netns {
			out = append(out, e)
		}
	}
	return out
}

func list(es []*event.Event) string {
	var b strings.Builder
	for _, e := range es {
		fmt.Fprintf(&b, "\n%+v %s", e.Actor, event.AppendJSON(nil, e))
	}
	return b.String()
}

func show(d event.Data) string { return string(event.AppendJSON(nil, &event.Event{Data: d})) }

// in matches events of one type in one network namespace; lport 0 is any.
func in(netns uint32, typ string, lport uint16) func(*event.Connection) bool {
	return func(c *event.Connection) bool {
		return c.NetNS == netns && c.Type == typ && (lport == 0 || c.LocalPort == lport)
	}
}

// self is the test's own key.
func self(t *testing.T) event.Key { return keyOf(t, os.Getpid()) }

// keyOf reads when a living process started. Its own clock tick is coarser than
// the kernel's, so it only serves to compare: same.
func keyOf(t *testing.T, pid int) event.Key {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var ticks uint64
	if _, err := fmt.Sscan(f[19], &ticks); err != nil {
		t.Fatal(err)
	}
	return event.Key{PID: uint32(pid), Start: ticks * 1e7}
}

// same says whether a key is that of a process read from /proc.
func same(got, proc event.Key) bool {
	return got.PID == proc.PID && got.Start/1e7 == proc.Start/1e7
}

func (r *rig) owner(e *event.Event, want event.Key, what string) {
	r.t.Helper()
	if !same(e.Actor, want) {
		r.t.Errorf("%s: owner %+v, want %+v", what, e.Actor, want)
	}
}

// helper is a process of the test binary, with its answers.
type helper struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader
}

// start starts a helper in a namespace, with files as descriptors from 3.
func start(t *testing.T, ns *testkit.Netns, files []*os.File, name string, args ...string) *helper {
	t.Helper()
	return startBy(t, ns, (*exec.Cmd).Start, files, name, args...)
}

// startBy is start where something else than the command itself starts it.
func startBy(t *testing.T, ns *testkit.Netns, begin func(*exec.Cmd) error, files []*os.File, name string, args ...string) *helper {
	t.Helper()
	cmd := testkit.Command(t, name, args...)
	cmd.ExtraFiles = files
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error { return begin(cmd) }); err != nil {
		t.Fatal(err)
	}
	return &helper{t: t, cmd: cmd, in: in, out: out}
}

// key is the helper's; it must be alive.
func (h *helper) key() event.Key { return keyOf(h.t, h.cmd.Process.Pid) }

// ready waits for a line of the helper's.
func (h *helper) ready() string {
	h.t.Helper()
	var line string
	if _, err := fmt.Fscanln(h.out, &line); err != nil {
		h.t.Fatalf("helper: %v", err)
	}
	return line
}

// finish lets the helper end and waits for it.
func (h *helper) finish() {
	h.t.Helper()
	_ = h.in.Close()
	if err := h.cmd.Wait(); err != nil {
		h.t.Fatalf("helper: %v", err)
	}
}

// pause tells the test that a helper is ready and waits for finish.
func pause(line string) {
	fmt.Println(line)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
