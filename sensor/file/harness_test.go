package file

import (
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/internal/testkit"
	"warren/test/roadtest"
)

// A watch is a sensor that runs, and what it has seen of this process.
type watch struct {
	t      testing.TB
	road   *bpf.Road
	sensor *Sensor
	every  atomic.Bool // opens of other processes too
	total  atomic.Uint64

	mu     sync.Mutex
	events []*event.Event
}

// kept is a sensor on a road like an agent's, for tests that look at what it tells.
var kept testkit.Kept[event.KindSet, *watch]

// observe gives a sensor that tells these kinds, which tests before may have used;
// of what it told them nothing is left.
func observe(t *testing.T, want event.KindSet) *watch {
	t.Helper()
	w := kept.Get(t, want, func(t testing.TB) (*watch, func(testing.TB)) {
		return launch(t, bpf.Config{}, Config{}, want, os.Stderr)
	})
	w.t = t
	w.every.Store(false)
	w.all()
	w.total.Store(0)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = nil
	return w
}

// start runs a sensor on a road of its own until the test ends.
func start(t testing.TB, cfg bpf.Config, want event.KindSet) *watch {
	t.Helper()
	return startSensor(t, cfg, Config{}, want)
}

func startSensor(t testing.TB, cfg bpf.Config, own Config, want event.KindSet) *watch {
	t.Helper()
	kept.End(t)
	w, stop := launch(t, cfg, own, want, t.Output())
	t.Cleanup(func() { stop(t) })
	return w
}

// launch runs a sensor until it is stopped.
func launch(t testing.TB, cfg bpf.Config, own Config, want event.KindSet, log io.Writer) (w *watch, stop func(testing.TB)) {
	t.Helper()
	road, end := roadtest.Run(t, cfg)
	w = &watch{t: t, road: road}
	w.sensor = New(road, own, slog.New(slog.NewTextHandler(log, nil)))
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
	for _, st := range w.sensor.Hooks() {
		if st.Err != "" && st.Hook != "file.chmod2" { // since 6.6
			stop(t)
			t.Fatalf("hook %s: %s", st.Hook, st.Err)
		}
	}
	return w, stop
}

func (w *watch) add(e *event.Event) {
	w.total.Add(1)
	if _, ok := e.Data.(*event.Open); ok && e.Actor.PID != uint32(os.Getpid()) && !w.every.Load() {
		return // there are many
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// of returns what a process has done so far; opens of others only if every is set.
func (w *watch) of(pid int) []*event.Event {
	w.t.Helper()
	return slices.DeleteFunc(w.all(), func(e *event.Event) bool { return e.Actor.PID != uint32(pid) })
}

// rung returns how a hook is attached.
func (w *watch) rung(hook string) string {
	w.t.Helper()
	for _, st := range w.sensor.Hooks() {
		if st.Hook == hook {
			return st.Rung
		}
	}
	w.t.Fatalf("no hook %s", hook)
	return ""
}

// all returns what has been seen so far.
func (w *watch) all() []*event.Event {
	w.t.Helper()
	if err := w.road.Sync(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// opens returns the opens so far that asked for a path.
func (w *watch) opens(raw string) []*event.Open {
	w.t.Helper()
	var out []*event.Open
	for _, e := range w.all() {
		if o, ok := e.Data.(*event.Open); ok && o.NameRaw == raw {
			out = append(out, o)
		}
	}
	return out
}

// open returns the only open so far that asked for a path.
func (w *watch) open(raw string) *event.Open {
	w.t.Helper()
	l := w.opens(raw)
	if len(l) != 1 {
		var seen []string
		for _, e := range w.all() {
			seen = append(seen, string(event.AppendJSON(nil, e)))
		}
		if len(seen) > 40 {
			seen = seen[len(seen)-40:]
		}
		w.t.Fatalf("%d opens of %q, want 1; the latest:\n%s", len(l), raw, strings.Join(seen, "\n"))
	}
	return l[0]
}

// apart runs f in a thread of its own, with working directory, root and mounts
// of its own, and waits for it.
func apart(t testing.TB, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread ends with the goroutine
		var err error
		defer func() { done <- err }() // also where f gives up
		err = unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			f()
		}
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// openFile opens a file for the time of the test.
func openFile(t testing.TB, dir int, path string, flags int, mode uint32) int {
	t.Helper()
	fd, err := unix.Openat(dir, path, flags|unix.O_CLOEXEC, mode)
	if err != nil {
		t.Errorf("open %.100q: %v", path, err)
		return -1
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}
