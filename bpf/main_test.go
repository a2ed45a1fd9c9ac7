package bpf

import (
	"context"
	"os"
	"testing"

	"github.com/cilium/ebpf"

	"warren/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.Main(m, map[string]func([]string) int{
		"probe":  helperProbe,
		"packet": helperPacket,
		"scope":  helperScope,
		"idle":   func([]string) int { return 0 },
	})
}

// Record types and modes of testroad.bpf.c.
const (
	testCritical = 60
	testBulk     = 61
	testVariable = 62
	testForeign  = 63
)

// needBPF skips a test on a machine that lets us do no BPF at all.
func needBPF(t testing.TB) {
	t.Helper()
	testkit.NeedRoot(t)
	testkit.NeedKernel(t, "ring", "5.8", Probe(FeatureRing))
}

// openTest makes a road with the test object on it.
func openTest(t testing.TB, cfg Config) (*Road, *Object) {
	t.Helper()
	needBPF(t)
	r, err := NewRoad(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	spec, err := loadTestroad()
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables["only_tgid"].Set(uint32(os.Getpid())); err != nil {
		t.Fatal(err)
	}
	o, err := r.Open("testroad", spec)
	if err != nil {
		t.Fatal(err)
	}
	return r, o
}

// run reads the road until the test ends or the returned function is called.
func run(t testing.TB, r *Road) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// produce makes the kernel write records; it may be called from any goroutine.
func produce(t testing.TB, o *Object, mode testroadTestMode, producer, count uint64) {
	t.Helper()
	p, err := o.Program("testroad_make")
	if err != nil {
		t.Error(err)
		return
	}
	order := testroadTestOrder{Producer: producer, Count: count, Mode: uint64(mode)}
	if _, err := p.Run(&ebpf.RunOptions{Context: order}); err != nil {
		t.Errorf("run testroad_make: %v", err)
	}
}

func viewTest(t testing.TB, rec []byte) *testroadTestRecord {
	e, err := View[testroadTestRecord](rec)
	if err != nil {
		t.Error(err)
		return &testroadTestRecord{}
	}
	return e
}

func counter(t testing.TB, r *Road, id uint8) Counter {
	t.Helper()
	for _, c := range r.Counters() {
		if c.ID == id {
			return c
		}
	}
	t.Fatalf("no counter for record type %d in %+v", id, r.Counters())
	return Counter{}
}

func hits(t testing.TB, o *Object, slot uint32) uint64 {
	t.Helper()
	var n uint64
	if err := o.Map("hits").Lookup(slot, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
