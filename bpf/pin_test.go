package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// newBPFFS mounts a BPF file system that nobody else can see.
func newBPFFS(t testing.TB) string {
	t.Helper()
	needBPF(t)
	dir, err := detachedMount("bpf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
}

func openTestPins(t testing.TB) *Pins {
	t.Helper()
	p, err := OpenPins(newBPFFS(t), "warren-test")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newNumber(t testing.TB, v uint32) *ebpf.Map {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "number", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1,
		Contents: []ebpf.MapKV{{Key: uint32(0), Value: v}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func pinned(p *Pins, name string) (v uint32, err error) {
	m, err := p.Map("set", name)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	return v, m.Lookup(uint32(0), &v)
}

func TestBPFPinsReplace(t *testing.T) {
	p := openTestPins(t)
	if _, err := pinned(p, "number"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	first := newNumber(t, 1)
	if err := p.Replace("set", func(d *PinDir) error {
		return errors.Join(d.Pin("number", first), d.Pin("gone", first))
	}); err != nil {
		t.Fatal(err)
	}
	if v, err := pinned(p, "number"); err != nil || v != 1 {
		t.Errorf("%d, %v", v, err)
	}

	// A map that stays is pinned in the next set too.
	if err := p.Replace("set", func(d *PinDir) error {
		return errors.Join(d.Pin("number", newNumber(t, 2)), d.Pin("kept", first))
	}); err != nil {
		t.Fatal(err)
	}
	names, err := p.Names("set")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"kept", "number"}, names); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]uint32{"number": 2, "kept": 1} {
		if v, err := pinned(p, name); err != nil || v != want {
			t.Errorf("%s: %d, %v", name, v, err)
		}
	}

	// What fails changes nothing.
	boom := errors.New("boom")
	if err := p.Replace("set", func(d *PinDir) error {
		return errors.Join(d.Pin("number", newNumber(t, 3)), boom)
	}); !errors.Is(err, boom) {
		t.Errorf("replace: %v", err)
	}
	if v, err := pinned(p, "number"); err != nil || v != 2 {
		t.Errorf("%d, %v", v, err)
	}

	if err := p.Remove("set"); err != nil {
		t.Fatal(err)
	}
	if err := p.Remove("set"); err != nil {
		t.Errorf("removed again: %v", err)
	}
	if names, err := p.Names("set"); err != nil || names != nil {
		t.Errorf("removed, but there are %q, %v", names, err)
	}
	left, err := os.ReadDir(p.dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Whoever looks while sets are replaced sees a complete one, old or new.
func TestBPFPinsReplaceIsAtomic(t *testing.T) {
	p := openTestPins(t)
	replace := func(v uint32) {
		m := newNumber(t, v)
		if err := p.Replace("set", func(d *PinDir) error {
			return errors.Join(d.Pin("first", m), d.Pin("last", m))
		}); err != nil {
			t.Error(err)
		}
	}
	replace(0)
	var done atomic.Bool
	var wg sync.WaitGroup
	for _, name := range []string{"first", "last"} {
		wg.Go(func() {
			last := uint32(0)
			for !done.Load() {
				v, err := pinned(p, name)
				if err != nil || v < last {
					t.Errorf("%s: %d after %d, %v", name, v, last, err)
					return
				}
				last = v
			}
		})
	}
	for v := range uint32(200) {
		replace(v)
	}
	done.Store(true)
	wg.Wait()
}

// What a crash left behind is removed by the next one, and was never seen.
func TestBPFPinsAfterCrash(t *testing.T) {
	p := openTestPins(t)
	half := filepath.Join(p.dir, "_half")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (&PinDir{dir: half}).Pin("number", newNumber(t, 1)); err != nil {
		t.Fatal(err)
	}
	if err := p.Replace("set", func(d *PinDir) error { return d.Pin("number", newNumber(t, 2)) }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a set is still there: %v", err)
	}
}

func TestBPFPinsKeepHook(t *testing.T) {
	p := openTestPins(t)
	r, o := openTest(t, Config{})
	if _, err := o.Attach(Hook{Name: "test.hook", Rungs: []Rung{
		{"tracepoint", []Attachment{Tracepoint("testroad_tp", "syscalls", "sys_enter_getpgid")}}}}); err != nil {
		t.Fatal(err)
	}
	if err := p.Replace("set", func(d *PinDir) error {
		return errors.Join(o.PinHook(d, "test.hook"), d.Pin("hits", o.Map("hits")))
	}); err != nil {
		t.Fatal(err)
	}
	if err := p.Replace("other", func(d *PinDir) error { return o.PinHook(d, "test.other") }); err == nil {
		t.Error("a hook that is not attached is pinned")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}

	// The agent is gone, the hook is not.
	getpgid(t)
	m, err := p.Map("set", "hits")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var n uint64
	if err := m.Lookup(uint32(3), &n); err != nil || n != 1 {
		t.Errorf("%d runs, %v, want 1", n, err)
	}
	l, err := p.Link("set", "test-hook-0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Remove("set"); err != nil {
		t.Fatal(err)
	}
}

func TestBPFPinsMountsBPFFS(t *testing.T) {
	needBPF(t)
	at := filepath.Join(t.TempDir(), "bpf")
	if _, err := OpenPins(at, "one"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	// The second finds the first's.
	if _, err := OpenPins(at, "two"); err != nil {
		t.Fatal(err)
	}
	for _, instance := range []string{"one", "two"} {
		if _, err := os.Stat(filepath.Join(at, instance)); err != nil {
			t.Error(err)
		}
	}
}

func TestPinNames(t *testing.T) {
	for name, fine := range map[string]bool{
		"warren": true, "a-B_9": true, "": false, "_new": false, "a.b": false, "..": false, "a/b": false, "é": false,
	} {
		if err := checkPinName(name); (err == nil) != fine {
			t.Errorf("%q: %v", name, err)
		}
	}
}
