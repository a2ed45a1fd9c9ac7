package process

import (
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/internal/testkit"
	"warren/test/roadtest"
)

// A watch is a sensor that runs, and what it has seen.
type watch struct {
	t      testing.TB
	road   *bpf.Road
	sensor *Sensor

	mu     sync.Mutex
	events []*event.Event
}

// kept is a sensor that tells all kinds, on a road like an agent's, for tests that
// look at what it tells.
var kept testkit.Kept[event.KindSet, *watch]

// observe gives a sensor that tells all kinds, which tests before may have used;
// of what it told them nothing is left.
func observe(t *testing.T) *watch {
	t.Helper()
	w := kept.Get(t, kinds, func(t testing.TB) (*watch, func(testing.TB)) {
		return launch(t, bpf.Config{}, kinds, os.Stderr)
	})
	w.t = t
	w.all()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = nil
	return w
}

// start runs a sensor on a road of its own until the test ends.
func start(t testing.TB, cfg bpf.Config, want event.KindSet) *watch {
	t.Helper()
	kept.End(t)
	w, stop := launch(t, cfg, want, t.Output())
	t.Cleanup(func() { stop(t) })
	return w
}

// launch runs a sensor until it is stopped.
func launch(t testing.TB, cfg bpf.Config, want event.KindSet, log io.Writer) (w *watch, stop func(testing.TB)) {
	t.Helper()
	road, end := roadtest.Run(t, cfg)
	w = &watch{t: t, road: road}
	w.sensor = New(road, Config{CriticalBytes: cfg.CriticalBytes}, slog.New(slog.NewTextHandler(log, nil)))
	stop = func(t testing.TB) {
		if err := w.sensor.Stop(); err != nil {
			t.Error(err)
		}
		end(t)
	}
	if err := w.sensor.Start(interest.All(want), w.add); err != nil {
		stop(t)
		t.Fatal(err)
	}
	return w, stop
}

func (w *watch) add(e *event.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// all returns what has happened so far.
func (w *watch) all() []*event.Event {
	w.t.Helper()
	if err := w.road.Sync(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// of returns what has happened to a process, by pid: in a test no pid comes
// twice unless it makes tens of thousands of processes.
func (w *watch) of(pid int) []*event.Event {
	w.t.Helper()
	return slices.DeleteFunc(w.all(), func(e *event.Event) bool {
		return e.Actor.PID != uint32(pid) && (e.Process == nil || e.Process.PID != uint32(pid))
	})
}

// data picks the events of one kind.
func data[D event.Data](events []*event.Event) (out []D, at []*event.Event) {
	for _, e := range events {
		if d, ok := e.Data.(D); ok {
			out, at = append(out, d), append(at, e)
		}
	}
	return out, at
}

// only returns the one event of a kind that a process had.
func only[D event.Data](t testing.TB, events []*event.Event) (D, *event.Event) {
	t.Helper()
	d, at := data[D](events)
	if len(d) != 1 {
		var seen []string
		for _, e := range events {
			seen = append(seen, describe(e))
		}
		t.Fatalf("%d events of %T, want 1; all:\n%s", len(d), *new(D), strings.Join(seen, "\n"))
	}
	return d[0], at[0]
}

func describe(e *event.Event) string {
	return string(event.AppendJSON(nil, e))
}

// run runs a command to its end, whatever that is.
func run(t testing.TB, cmd *exec.Cmd) int {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its status is what the test looks at
	return cmd.Process.Pid
}

// execOf runs a command and returns the event of its exec.
func (w *watch) execOf(cmd *exec.Cmd) *event.Process {
	w.t.Helper()
	_, e := only[*event.Exec](w.t, w.of(run(w.t, cmd)))
	return e.Process
}

func write(t testing.TB, path string, b []byte, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, b, mode); err != nil {
		t.Fatal(err)
	}
	return path
}
