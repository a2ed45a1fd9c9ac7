package bpf

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"warren/internal/testkit"
)

func TestBPFRoadCarries(t *testing.T) {
	r, o := openTest(t, Config{})
	type rec struct {
		ID            uint8
		Producer, Seq uint64
	}
	var got []rec
	decode := func(b []byte) error {
		h, _ := ParseHeader(b)
		if age := time.Since(Wall(h.Ktime)); age < -time.Second || age > time.Minute {
			t.Errorf("record is %v old", age)
		}
		e := viewTest(t, b)
		got = append(got, rec{h.Type, e.Producer, e.Seq})
		return nil
	}
	r.Handle(testCritical, "test.critical", Critical, decode)
	r.Handle(testBulk, "test.bulk", Bulk, decode)
	run(t, r)
	produce(t, o, testroadTestModeMODE_BULK, 7, 1)
	produce(t, o, testroadTestModeMODE_CRITICAL, 7, 2)
	if err := r.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(got, func(a, b rec) int { return int(a.ID) - int(b.ID) })
	want := []rec{{testCritical, 7, 0}, {testCritical, 7, 1}, {testBulk, 7, 0}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBPFRoadVariableRecords(t *testing.T) {
	r, o := openTest(t, Config{})
	n := 0
	r.Handle(testVariable, "test.variable", Bulk, func(b []byte) error {
		h, _ := ParseHeader(b)
		// Two fields and half a pad, then up to 31 bytes more.
		if want := 32 + n%32; len(b) != want || int(h.Len) != want {
			t.Errorf("record %d: %d bytes, header says %d, want %d", n, len(b), h.Len, want)
		}
		n++
		return nil
	})
	run(t, r)
	produce(t, o, testroadTestModeMODE_VARIABLE, 0, 100)
	if err := r.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n != 100 {
		t.Errorf("%d records, want 100", n)
	}
	if c := counter(t, r, testVariable); c.Submitted != 100 || c.Decoded != 100 || c.Lost != 0 {
		t.Errorf("%+v", c)
	}
}

// Under load on all CPUs, no bulk record is decoded before the critical one
// that the same producer had submitted before it.
func TestBPFRoadOrder(t *testing.T) {
	r, o := openTest(t, Config{})
	const producers, perRound = 4, 3000 // a round fits in the critical ring
	rounds := testkit.Rounds(20, 5)
	var seen [producers]uint64
	inOrder := 0
	r.Handle(testCritical, "test.critical", Critical, func(b []byte) error {
		e := viewTest(t, b)
		seen[e.Producer] = e.Seq
		return nil
	})
	r.Handle(testBulk, "test.bulk", Bulk, func(b []byte) error {
		if e := viewTest(t, b); seen[e.Producer] < e.Seq {
			t.Errorf("bulk record %d of producer %d before its critical one: last was %d", e.Seq, e.Producer, seen[e.Producer])
		} else {
			inOrder++
		}
		return nil
	})
	run(t, r)
	for range rounds {
		var wg sync.WaitGroup
		for p := range uint64(producers) {
			wg.Go(func() { produce(t, o, testroadTestModeMODE_BOTH, p, perRound) })
		}
		wg.Wait()
		if err := r.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		clear(seen[:])
	}
	if inOrder != producers*rounds*perRound {
		t.Errorf("%d records in order, want %d", inOrder, producers*rounds*perRound)
	}
	if c := counter(t, r, testCritical); c.Lost != 0 {
		t.Errorf("lost %d critical records, so the test proves nothing", c.Lost)
	}
}

// With small rings records are lost, and every one is counted.
func TestBPFRoadCountsLosses(t *testing.T) {
	r, o := openTest(t, Config{CriticalBytes: 64 << 10, BulkBytes: 64 << 10})
	var decoded [2]uint64
	r.Handle(testCritical, "test.critical", Critical, func([]byte) error { decoded[0]++; return nil })
	r.Handle(testBulk, "test.bulk", Bulk, func([]byte) error { decoded[1]++; return nil })

	// Without a reader all losses are certain.
	const early = 5000
	produce(t, o, testroadTestModeMODE_BOTH, 0, early)
	size := uint64(64 << 10 / (ringHeader + 72))
	if c := counter(t, r, testCritical); c.Submitted+c.Lost != early || c.Submitted > size || c.Submitted < size-1 {
		t.Errorf("without a reader: %+v, want %d submitted of %d", c, size, early)
	}

	run(t, r)
	const producers, count = 4, 100_000
	var wg sync.WaitGroup
	for p := range uint64(producers) {
		wg.Go(func() { produce(t, o, testroadTestModeMODE_BOTH, p, count) })
	}
	wg.Wait()
	if err := r.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, id := range []uint8{testCritical, testBulk} {
		c := counter(t, r, id)
		if c.Submitted+c.Lost != early+producers*count || c.Decoded != c.Submitted || c.Malformed != 0 || c.Lost == 0 {
			t.Errorf("%+v, want %d in sum and all submitted ones decoded", c, early+producers*count)
		}
		if c.Decoded != decoded[i] {
			t.Errorf("%s: counted %d, decoded %d", c.Name, c.Decoded, decoded[i])
		}
	}
}

func TestBPFRoadDiscardedRecords(t *testing.T) {
	r, o := openTest(t, Config{})
	r.Handle(testCritical, "test.critical", Critical, func([]byte) error { return nil })
	run(t, r)
	produce(t, o, testroadTestModeMODE_DISCARD, 0, 1000)
	if err := r.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := counter(t, r, testCritical); c.Submitted != 1000 || c.Decoded != 1000 {
		t.Errorf("%+v, want the 1000 that were not discarded", c)
	}
}

func TestBPFRoadGarbage(t *testing.T) {
	r, o := openTest(t, Config{})
	r.Handle(testCritical, "test.critical", Critical, func(b []byte) error {
		_, err := View[testroadTestRecord](b)
		return err
	})
	run(t, r)
	produce(t, o, testroadTestModeMODE_GARBAGE, 0, 400)
	produce(t, o, testroadTestModeMODE_CRITICAL, 0, 10)
	if p, err := o.Program("testroad_alien"); err != nil {
		t.Error(err)
	} else if _, err := p.Run(&ebpf.RunOptions{Context: testroadTestOrder{}}); err != nil {
		t.Error(err)
	}
	if err := r.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Of four kinds of damage one leaves a header that can be used.
	c := counter(t, r, testCritical)
	if c.Submitted != 410 || c.Decoded != 10 || c.Malformed != 100 {
		t.Errorf("%+v", c)
	}
	if s := r.Stats(); s.Malformed != 301 || s.LastError == "" {
		t.Errorf("%+v", s)
	}
	if c := counter(t, r, testForeign); c.Submitted != 1 || c.Name != "unknown.63" {
		t.Errorf("%+v", c)
	}
}

// An idle lane still delivers soon: the longest of many waits for one record
// stays near the idle interval. Other work on the machine may delay it, so the
// bound is wide; the usual wait is not.
func TestBPFRoadIdleLatency(t *testing.T) {
	r, o := openTest(t, Config{})
	arrived := make(chan struct{}, 1)
	r.Handle(testCritical, "test.critical", Critical, func([]byte) error { arrived <- struct{}{}; return nil })
	run(t, r)
	var waits []time.Duration
	for range 9 {
		// The reader has backed off once it has polled a few times for nothing.
		from := r.Stats().Polls
		testkit.Wait(t, "the reader to be idle", func() bool { return r.Stats().Polls > from+8 })
		start := time.Now()
		produce(t, o, testroadTestModeMODE_CRITICAL, 0, 1)
		<-arrived
		waits = append(waits, time.Since(start))
	}
	slices.Sort(waits)
	t.Logf("from record to decoder: %v", waits)
	if waits[len(waits)/2] > 100*time.Millisecond || waits[len(waits)-1] > 2*time.Second {
		t.Errorf("from record to decoder: %v", waits)
	}
}

// A ring that fills wakes the reader though its next poll is an hour away.
func TestBPFRoadWakesWhenFilling(t *testing.T) {
	for _, mode := range []testroadTestMode{testroadTestModeMODE_CRITICAL, testroadTestModeMODE_BULK, testroadTestModeMODE_VARIABLE} {
		r, o := openTest(t, Config{CriticalBytes: 1 << 20, BulkBytes: 1 << 20, Idle: time.Hour, Busy: time.Hour})
		var n atomic.Uint64
		for _, id := range []uint8{testCritical, testBulk, testVariable} {
			r.Handle(id, "test", Critical, func([]byte) error { n.Add(1); return nil })
		}
		stop := run(t, r)
		if err := r.Sync(t.Context()); err != nil { // it waits, for an hour
			t.Fatal(err)
		}
		produce(t, o, mode, 0, 10)
		if s := r.Stats(); s.Wakeups != 0 {
			t.Errorf("mode %d: %d wake-ups for a few records", mode, s.Wakeups)
		}
		produce(t, o, mode, 0, 8000) // more than a quarter of the ring, less than it
		testkit.Wait(t, "the reader to be woken", func() bool { return n.Load() > 0 && r.Stats().Wakeups > 0 })
		stop()
	}
}

func TestBPFRoadDrainsAtEnd(t *testing.T) {
	r, o := openTest(t, Config{Idle: time.Hour, Busy: time.Hour})
	n := 0
	r.Handle(testBulk, "test.bulk", Bulk, func([]byte) error { n++; return nil })
	stop := run(t, r)
	if err := r.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	produce(t, o, testroadTestModeMODE_BULK, 0, 100)
	stop()
	if n != 100 {
		t.Errorf("decoded %d, want 100", n)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if c := counter(t, r, testBulk); c.Submitted != 100 || c.Decoded != 100 {
		t.Errorf("after close: %+v", c)
	}
	if _, err := r.Open("late", &ebpf.CollectionSpec{}); err == nil {
		t.Error("a closed road opens objects")
	}
	if err := r.Sync(t.Context()); err == nil {
		t.Error("a closed road syncs")
	}
}

// The iterator writes many times what the ring holds, and nothing is lost.
func TestBPFIterateLosesNothing(t *testing.T) {
	r, o := openTest(t, Config{CriticalBytes: 64 << 10})
	var n uint64
	r.Handle(testCritical, "test.critical", Critical, func([]byte) error { n++; return nil })
	run(t, r)
	for range 64 { // a fresh machine has few tasks
		if err := o.Iterate(t.Context(), "testroad_tasks"); err != nil {
			t.Fatal(err)
		}
	}
	c := counter(t, r, testCritical)
	if c.Lost != 0 || c.Decoded != c.Submitted || c.Decoded != n || n < 16*64 {
		t.Errorf("%+v, decoded %d", c, n)
	}
	if n*(72+ringHeader) < 2*64<<10 {
		t.Errorf("%d records do not fill the ring", n)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Iterate(ctx, "testroad_tasks"); err == nil {
		t.Error("iterating with a context that has ended works")
	}
}

func TestBPFOpen(t *testing.T) {
	r, o := openTest(t, Config{CriticalBytes: 64 << 10})
	if m := o.Map("critical"); m == nil || m.MaxEntries() != 64<<10 {
		t.Errorf("critical is %v", m)
	}
	if o.Map("none") != nil {
		t.Error("a map that does not exist")
	}
	var v uint64
	if err := o.Variable("initialised").Get(&v); err != nil || v != 42 {
		t.Errorf("initialised = %d, %v", v, err)
	}
	if err := o.Variable("initialised").Set(uint64(43)); err != nil {
		t.Fatal(err)
	}
	// Loading a program must not write the variables' first values again.
	if _, err := o.Program("testroad_btf"); err != nil {
		t.Fatal(err)
	}
	if err := o.Variable("initialised").Get(&v); err != nil || v != 43 {
		t.Errorf("after loading a program: initialised = %d, %v", v, err)
	}
	if err := o.Variable("critical_size").Get(&v); err != nil || v != 64<<10 {
		t.Errorf("critical_size = %d, %v", v, err)
	}
	if _, err := o.Program("none"); err == nil {
		t.Error("a program that does not exist")
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if err := o.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	if _, err := o.Program("testroad_make"); err == nil {
		t.Error("a closed object loads programs")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// A road that is read is not taken from under its reader, and one that is closed
// is read by nobody.
func TestBPFCloseBesideRun(t *testing.T) {
	r, o := openTest(t, Config{})
	decoded := make(chan struct{}, 1)
	r.Handle(testCritical, "test.critical", Critical, func([]byte) error {
		decoded <- struct{}{}
		return nil
	})
	stop := run(t, r)
	if err := r.Sync(t.Context()); err != nil { // Run has begun
		t.Fatal(err)
	}
	if err := r.Close(); err == nil {
		t.Error("closed while it was read")
	}
	produce(t, o, testroadTestModeMODE_CRITICAL, 0, 1)
	<-decoded
	stop()
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := r.Run(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("read after closing: %v", err)
	}
	if err := r.Sync(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("sync after closing: %v", err)
	}
	if c := counter(t, r, testCritical); c.Decoded != 1 || c.Submitted != 1 {
		t.Errorf("last counts %+v", c)
	}
}
