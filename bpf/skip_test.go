package bpf

import (
	"encoding/binary"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"warren/internal/testkit"
)

func TestSkips(t *testing.T) {
	var s skips
	s.init()
	a, b, c := new(ebpf.Program), new(ebpf.Program), new(ebpf.Program)
	kernel := map[*ebpf.Program]uint64{}
	s.read = func(p *ebpf.Program) (uint64, error) {
		if n, ok := kernel[p]; ok {
			return n, nil
		}
		return 0, errors.New("it cannot be read")
	}
	check := func(when string, want ...Counter) {
		t.Helper()
		if d := cmp.Diff(want, s.counters()); d != "" {
			t.Errorf("%s (-want +got)\n%s", when, d)
		}
	}
	kernel[a], kernel[b] = 0, 0
	s.watch("test.two", a)
	s.watch("test.two", b)
	s.watch("test.one", c)
	check("nothing was left out")
	kernel[a], kernel[b] = 3, 4
	check("two programs of a hook", Counter{Name: "test.two", Lane: Kernel, Lost: 7})
	check("nothing new", Counter{Name: "test.two", Lane: Kernel, Lost: 7})
	kernel[b], kernel[c] = 5, 1
	both := []Counter{{Name: "test.one", Lane: Kernel, Lost: 1}, {Name: "test.two", Lane: Kernel, Lost: 8}}
	check("another hook", both...)
	kernel[b] = 6
	s.leave("test.two", b)
	both[1].Lost++
	check("what was left out before it was detached", both...)
	s.watch("test.two", new(ebpf.Program))
	check("attached again, it cannot be read", both...)
	kernel[b] = 2 // another program now
	s.watch("test.two", b)
	both[1].Lost += 2
	check("attached again", both...)
	// One that two hooks have: for which it was left out nobody says.
	kernel[c] = 3
	s.watch("test.also", c)
	kernel[c] = 5
	s.leave("test.one", c)
	kernel[c] = 9
	both[0].Lost += 2
	both = append([]Counter{{Name: "test.also", Lane: Kernel, Lost: 4}, {Name: "test.also,test.one", Lane: Kernel, Lost: 2}}, both...)
	check("shared for a while", both...)
	if both[0].Lane.String() != "kernel" {
		t.Errorf("the lane is called %s", both[0].Lane)
	}
}

// leftOut is how many runs of a hook the kernel has left out. Those of others it
// has not.
func leftOut(t *testing.T, r *Road, hook string) (n uint64) {
	t.Helper()
	for _, c := range r.Counters() {
		if c.Lane == Kernel && c.Name != hook {
			t.Errorf("runs of another hook were left out: %+v", c)
		} else if c.Lane == Kernel {
			n = c.Lost
		}
	}
	return n
}

// A program that sets itself off is left out by the kernel each time, and each
// time is counted.
func TestBPFSkips(t *testing.T) {
	for name, cfg := range map[string]Config{"measured": {}, "unmeasured": {Unmeasured: true}} {
		t.Run(name, func(t *testing.T) {
			const hook = "test.nested"
			const rounds = 100
			r, o := openTest(t, cfg)
			if _, err := o.Attach(Hook{Name: hook, Rungs: []Rung{{"tp_btf", []Attachment{BTF("testroad_nested")}}}}); err != nil {
				t.Fatal(err)
			}
			if _, err := o.Attach(Hook{Name: "test.other", Rungs: []Rung{{"tp_btf", []Attachment{BTF("testroad_btf")}}}}); err != nil {
				t.Fatal(err)
			}
			p, err := o.Program("testroad_print")
			if err != nil {
				t.Fatal(err)
			}
			check := func(when string, want uint64) {
				t.Helper()
				if n := leftOut(t, r, hook); n != want {
					t.Errorf("%s: %d runs were left out, want %d", when, n, want)
				}
			}
			check("at first", 0)
			for i := range rounds {
				if _, err := p.Run(&ebpf.RunOptions{Context: testroadTestOrder{}}); err != nil {
					t.Fatal(err)
				}
				if i == rounds/2 {
					check("in between", rounds/2+1)
				}
			}
			if n := hits(t, o, 7); n != rounds {
				t.Errorf("%d runs, want %d", n, rounds)
			}
			// What nobody has looked at before the end is counted too.
			if err := o.Detach(hook); err != nil {
				t.Fatal(err)
			}
			check("detached", rounds)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			check("closed", rounds)
		})
	}
}

// No program runs at a tracepoint while another one does, whichever that is.
func TestBPFSkipsTracepoint(t *testing.T) {
	const hook = "test.printed"
	r, o := openTest(t, Config{})
	if _, err := o.Attach(Hook{Name: hook, Rungs: []Rung{{"tracepoint", []Attachment{Tracepoint("testroad_traced", "bpf_trace", "bpf_trace_printk")}}}}); err != nil {
		t.Fatal(err)
	}
	clock, err := o.Program("testroad_clock")
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // its time is what ticks
	defer runtime.UnlockOSThread()
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Size: unix.PERF_ATTR_SIZE_VER1,
		Sample: uint64(time.Millisecond), Bits: unix.PerfBitDisabled,
	}, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		t.Fatalf("perf_event_open: %v", err)
	}
	defer unix.Close(fd)
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: fd, Program: clock, Attach: ebpf.AttachPerfEvent})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		t.Fatal(err)
	}
	ticks := func() uint64 {
		var n [8]byte
		if _, err := unix.Read(fd, n[:]); err != nil {
			t.Fatal(err)
		}
		return binary.NativeEndian.Uint64(n[:])
	}
	for ticks() < uint64(50*time.Millisecond) { // of this thread's own time
	}
	if leftOut(t, r, hook) == 0 {
		testkit.NeedKernel(t, "the count of runs left out", "6.7", errors.New("it is 0"))
	}
	if n := hits(t, o, 7); n != 0 {
		t.Errorf("%d runs inside another program", n)
	}
}

// All programs of a hook are looked at, whatever implements it.
func TestBPFSkipsAll(t *testing.T) {
	r, o := openTest(t, Config{})
	hooks := map[string]Rung{
		"test.btf":        {"tp_btf", []Attachment{BTF("testroad_btf"), BTF("testroad_nested")}},
		"test.tracepoint": {"tracepoint", []Attachment{Tracepoint("testroad_tp", "syscalls", "sys_enter_getpgid")}},
		"test.cgroup":     {"cgroup", []Attachment{Cgroup("testroad_egress", ebpf.AttachCGroupInetEgress)}},
	}
	for name, rung := range hooks {
		if _, err := o.Attach(Hook{Name: name, Rungs: []Rung{rung}}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[*ebpf.Program]bool{}
	kernel := r.skips.read
	r.skips.read = func(p *ebpf.Program) (uint64, error) {
		seen[p] = true
		return kernel(p)
	}
	r.Counters()
	for name := range hooks {
		for program, p := range o.hooks[name].programs {
			if _, err := kernel(p); !seen[p] || err != nil {
				t.Errorf("%s of %s was not looked at: %v", program, name, err)
			}
		}
	}
	if err := o.Detach("test.btf", "test.cgroup"); err != nil {
		t.Fatal(err)
	}
	clear(seen)
	r.Counters()
	if len(seen) != 1 {
		t.Errorf("%d programs are looked at where one is attached", len(seen))
	}
}

// BenchmarkSkips looks at as many programs as an agent with all its hooks has.
func BenchmarkSkips(b *testing.B) {
	r, o := openTest(b, Config{})
	p, err := o.Program("testroad_btf")
	if err != nil {
		b.Fatal(err)
	}
	const programs = 100
	for range programs {
		c, err := p.Clone()
		if err != nil {
			b.Fatal(err)
		}
		r.skips.watch("test.hook", c)
		defer c.Close()
	}
	for b.Loop() {
		r.skips.counters()
	}
}
