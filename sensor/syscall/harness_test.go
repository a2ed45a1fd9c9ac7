package syscall

import (
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
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

// only is the interest in some types of calls.
func only(types ...string) interest.Set {
	slices.Sort(types)
	return interest.Union(interest.Holder{Name: "test", Interest: interest.Interest{Terms: []interest.Term{{Kinds: kinds, Types: types}}}})
}

// ofUser is the interest in calls of a user.
func ofUser(uid int, types ...string) interest.Set {
	return interest.Union(interest.Holder{Name: "test", Interest: interest.Interest{Terms: []interest.Term{{Kinds: kinds, Types: types, UIDs: []uint32{uint32(uid)}}}}})
}

// start runs a sensor on a road of its own until the test ends.
func start(t testing.TB, cfg bpf.Config, want interest.Set) *watch {
	t.Helper()
	road, end := roadtest.Run(t, cfg)
	w := &watch{t: t, road: road}
	w.sensor = New(road, Config{}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(func() {
		if err := w.sensor.Stop(); err != nil {
			t.Error(err)
		}
		end(t)
	})
	if err := w.sensor.Start(want, w.add); err != nil {
		t.Fatal(err)
	}
	return w
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

// of returns the events of one type that a process has.
func (w *watch) of(pid int, typ string) []*event.Event {
	w.t.Helper()
	return slices.DeleteFunc(w.all(), func(e *event.Event) bool {
		return e.Actor.PID != uint32(pid) || e.Data.(*event.Syscall).Type != typ
	})
}

// call makes a system call of this process and returns its event, which must be
// one, and the last.
func (w *watch) call(name string, args ...any) (*event.Event, unix.Errno) {
	w.t.Helper()
	c := event.LookupCall(name)
	var regs [6]uintptr
	var keep []any
	for i, a := range args {
		switch a := a.(type) {
		case int:
			regs[i] = uintptr(a)
		case uint64:
			regs[i] = uintptr(a)
		case string:
			b := append([]byte(a), 0)
			keep = append(keep, b)
			regs[i] = uintptr(unsafe.Pointer(&b[0]))
		case []byte:
			keep = append(keep, a)
			regs[i] = uintptr(unsafe.Pointer(&a[0]))
		case unsafe.Pointer:
			regs[i] = uintptr(a)
		default:
			w.t.Fatalf("argument %d is a %T", i, a)
		}
	}
	before := len(w.of(os.Getpid(), name))
	_, _, errno := unix.RawSyscall6(uintptr(c.Number()), regs[0], regs[1], regs[2], regs[3], regs[4], regs[5])
	runtime.KeepAlive(keep)
	for _, e := range w.of(os.Getpid(), name)[before:] {
		if d := e.Data.(*event.Syscall); sameRegs(d.Regs[:len(args)], regs[:len(args)]) {
			return e, errno
		}
	}
	w.t.Fatalf("%s: no event", name)
	return nil, errno
}

func sameRegs(a []uint64, b []uintptr) bool {
	for i := range a {
		if a[i] != uint64(b[i]) {
			return false
		}
	}
	return true
}

func text(t testing.TB, e *event.Event, field string) string {
	t.Helper()
	name, key, _ := strings.Cut(field, "[")
	f, ok := event.Lookup(name)
	if !ok {
		t.Fatalf("no field %s", name)
	}
	if key != "" {
		s, _ := f.Key(e, strings.TrimSuffix(key, "]"))
		return s
	}
	s, _ := f.Str(e, 0)
	return s
}

func number(t testing.TB, e *event.Event, field string) int64 {
	t.Helper()
	f, ok := event.Lookup(field)
	if !ok {
		t.Fatalf("no field %s", field)
	}
	n, ok := f.Num(e, 0)
	if !ok {
		t.Errorf("%s is missing", field)
	}
	return n
}
