package bpf

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Every run of a hook's programs is counted, and one in so many measured.
func TestBPFCost(t *testing.T) {
	r, o := openTest(t, Config{})
	if err := Probe(FeatureTracepoint); err != nil {
		t.Skip(err)
	}
	h := Hook{Name: "test.hook", Rungs: []Rung{{"tracepoint", []Attachment{Tracepoint("testroad_tp", "syscalls", "sys_enter_getpgid")}}}}
	if _, err := o.Attach(h); err != nil {
		t.Fatal(err)
	}
	if c, ok := r.Costs()["test.hook"]; !ok || c.Runs > 100 {
		t.Fatalf("when attached: %+v, %v", c, ok)
	}
	const calls = 64 * SampleEvery
	before := hits(t, o, 3)
	for range calls {
		if _, err := unix.Getpgid(0); err != nil {
			t.Fatal(err)
		}
	}
	if n := hits(t, o, 3) - before; n != calls {
		t.Errorf("the program itself ran %d times, not %d", n, calls)
	}
	c := r.Costs()["test.hook"]
	cpus := uint64(ebpf.MustPossibleCPU())
	// Others on this machine may make the same call.
	if c.Runs < calls || c.Sampled < calls/SampleEvery-cpus || c.Sampled > c.Runs/SampleEvery+cpus {
		t.Errorf("after %d calls: %+v", calls, c)
	}
	if c.Time <= 0 || c.Mean() <= 0 {
		t.Errorf("no time was measured: %+v", c)
	}
	if err := o.Detach("test.hook"); err != nil {
		t.Fatal(err)
	}
	if got := r.Costs(); len(got) != 0 {
		t.Errorf("detached, there is %+v", got)
	}
	if _, err := o.Attach(h); err != nil {
		t.Fatal(err)
	}
	if c := r.Costs()["test.hook"]; c.Runs > 100 {
		t.Errorf("attached again, it begins with %+v", c)
	}
}

// Hooks at tracepoints that have the same program share it, and each knows what it
// costs where it is attached for itself.
func TestBPFCostShared(t *testing.T) {
	r, o := openTest(t, Config{})
	if err := Probe(FeatureTracepoint); err != nil {
		t.Skip(err)
	}
	hook := func(name string, calls ...string) Hook {
		h := Hook{Name: name, Rungs: []Rung{{Kind: "tracepoint"}}}
		for _, c := range calls {
			h.Rungs[0].Attachments = append(h.Rungs[0].Attachments, Tracepoint("testroad_tp", "syscalls", "sys_enter_"+c))
		}
		return h
	}
	for _, h := range []Hook{hook("test.one", "getpgid", "getsid"), hook("test.two", "getpriority")} {
		if _, err := o.Attach(h); err != nil {
			t.Fatal(err)
		}
	}
	if one, two := o.hooks["test.one"].programs["testroad_tp"], o.hooks["test.two"].programs["testroad_tp"]; one != two {
		t.Error("the program was loaded twice")
	}
	// No place takes a program twice: who wants to be there too has one of his own.
	if _, err := o.Attach(hook("test.third", "getsid", "getpriority")); err != nil {
		t.Fatal(err)
	}
	if o.hooks["test.third"].programs["testroad_tp"] == o.shared["testroad_tp"].Program {
		t.Error("the same program twice at the same place")
	}
	if err := o.Detach("test.third"); err != nil {
		t.Fatal(err)
	}
	const calls = 2 * SampleEvery
	before := hits(t, o, 3)
	for range calls {
		if _, err := unix.Getpgid(0); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Getsid(0); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err != nil {
			t.Fatal(err)
		}
	}
	if n := hits(t, o, 3) - before; n < 3*calls {
		t.Errorf("the program ran %d times, not %d", n, 3*calls)
	}
	// Others on this machine may make the same calls, seldom.
	if one, two := r.Costs()["test.one"], r.Costs()["test.two"]; one.Runs < 2*calls || two.Runs < calls || two.Runs >= 2*calls || one.Sampled == 0 || two.Sampled == 0 {
		t.Errorf("after %d and %d calls: %+v and %+v", 2*calls, calls, one, two)
	}
	if err := o.Detach("test.one"); err != nil {
		t.Fatal(err)
	}
	was := r.Costs()["test.two"]
	if _, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err != nil {
		t.Fatal(err)
	}
	if c := r.Costs(); len(c) != 1 || c["test.two"].Runs <= was.Runs {
		t.Errorf("when the other hook is gone, of %+v it is %+v", was, c)
	}
	if err := o.Detach("test.two"); err != nil {
		t.Fatal(err)
	}
	if len(o.shared) != 0 {
		t.Errorf("%d programs remain", len(o.shared))
	}
}

// Who has no slot left runs unmeasured, and so does who wants it so.
func TestBPFCostNone(t *testing.T) {
	h := Hook{Name: "test.hook", Rungs: []Rung{{"tp_btf", []Attachment{BTF("testroad_btf")}}}}
	shared := Hook{Name: "test.shared", Rungs: []Rung{{"tracepoint", []Attachment{Tracepoint("testroad_tp", "syscalls", "sys_enter_getpgid")}}}}
	check := func(t *testing.T, r *Road, o *Object) {
		for _, h := range []Hook{h, shared} {
			if _, err := o.Attach(h); err != nil {
				t.Fatal(err)
			}
		}
		before, other := hits(t, o, 0), hits(t, o, 3)
		fork(t)
		getpgid(t)
		if hits(t, o, 0) == before || hits(t, o, 3) == other {
			t.Error("the programs did not run")
		}
		if got := r.Costs(); len(got) != 0 {
			t.Errorf("there is %+v", got)
		}
	}
	t.Run("full", func(t *testing.T) {
		r, o := openTest(t, Config{})
		for range costSlots {
			if _, ok := r.costs.take("other", "program"); !ok {
				t.Fatal("no room")
			}
		}
		check(t, r, o)
	})
	t.Run("unmeasured", func(t *testing.T) {
		r, o := openTest(t, Config{Unmeasured: true})
		check(t, r, o)
	})
}

// BenchmarkCost is a system call with a program at its entry: none, one that is
// not measured, one that is, by turns; each the least of many batches.
func BenchmarkCost(b *testing.B) {
	const batch = 20_000
	_, unmeasured := openTest(b, Config{Unmeasured: true})
	_, measured := openTest(b, Config{})
	h := Hook{Name: "test.hook", Rungs: []Rung{{"tracepoint", []Attachment{Tracepoint("testroad_tp", "syscalls", "sys_enter_getpgid")}}}}
	cases := []struct {
		name  string
		o     *Object
		least time.Duration
	}{{"none", nil, time.Hour}, {"unmeasured", unmeasured, time.Hour}, {"measured", measured, time.Hour}}
	for b.Loop() {
		for i := range cases {
			c := &cases[i]
			if c.o != nil {
				if _, err := c.o.Attach(h); err != nil {
					b.Fatal(err)
				}
			}
			for range 5 {
				start := time.Now()
				for range batch {
					_, _, _ = unix.RawSyscall(unix.SYS_GETPGID, 0, 0, 0)
				}
				c.least = min(c.least, time.Since(start))
			}
			if c.o != nil {
				if err := c.o.Detach(h.Name); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	for _, c := range cases {
		b.ReportMetric(float64(c.least.Nanoseconds())/batch, c.name+"-ns")
	}
}
