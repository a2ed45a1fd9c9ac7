package store

import (
	"io"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/event"
	"warren/test/traffic"
)

// A stopwatch adds up the CPU time of a thread by what it did.
type stopwatch struct {
	last   time.Duration
	stages []string // in the order of their first laps
	spent  map[string]time.Duration
}

// newStopwatch times the calling goroutine, which keeps its thread until the test
// ends.
func newStopwatch(tb testing.TB) *stopwatch {
	runtime.LockOSThread()
	tb.Cleanup(runtime.UnlockOSThread)
	w := &stopwatch{spent: map[string]time.Duration{}}
	w.lap("")
	clear(w.spent)
	return w
}

// lap says what the time since the last lap went into; "" is of no stage.
func (w *stopwatch) lap(stage string) {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // it never fails
	now := time.Duration(t.Nano())
	if _, known := w.spent[stage]; !known && stage != "" {
		w.stages = append(w.stages, stage)
	}
	w.spent[stage] += now - w.last
	w.last = now
}

// BenchmarkStages is the way of a connection from Append to the sealed file, taken
// apart: an operation is one event. It reports the CPU time of each stage, and as rest
// what the process used besides: collecting garbage, for the most part.
func BenchmarkStages(b *testing.B) {
	s := openAt(b, Config{Dir: b.TempDir(), MaxBytes: 1 << 40, SegmentBytes: 1 << 40})
	defer s.Close() //nolint:errcheck // of a directory that goes
	source := traffic.New(traffic.Config{Seed: 1, Distinct: true})
	w := newStopwatch(b)
	b.ReportAllocs()
	cpu := cpuTime()
	for done := 0; done < b.N; done += maxBatch {
		keepInStages(b, s, source, min(maxBatch, b.N-done), w)
	}
	if err := s.active().sync(); err != nil {
		b.Fatal(err)
	}
	w.lap("sync")
	sealInStages(b, s.active(), w)
	rest := cpuTime() - cpu
	for _, stage := range w.stages {
		b.ReportMetric(float64(w.spent[stage])/float64(b.N), stage+"-ns/op")
		rest -= w.spent[stage]
	}
	b.ReportMetric(float64(rest-w.spent[""])/float64(b.N), "rest-ns/op")
}

// keepInStages makes n events and writes them to the log.
func keepInStages(b *testing.B, s *Store, source *traffic.Source, n int, w *stopwatch) {
	events := make([]*event.Event, n)
	for i := range events {
		events[i] = source.Connection()
	}
	w.lap("")
	for _, e := range events {
		s.Append(e)
	}
	w.lap("append")
	s.take()
	w.lap("collapse")
	const k = event.KindConnection
	g := s.active()
	s.refer(s.todo)
	s.appendProcesses(g)
	w.lap("refer")
	batch := s.build.events(event.LayoutOf(k), s.host, s.todo, &s.refs)
	w.lap("columns")
	if !s.appendBatch(g, batch, infoOf(batch)) {
		b.Fatal("a batch is too large for one frame")
	}
	w.lap("frame")
	s.build.clear()
	clear(s.todo)
	s.todo, s.in.taken = nil, 0
	w.lap("columns")
	if err := s.writeOut(); err != nil {
		b.Fatal(err)
	}
	w.lap("write")
}

// sealInStages makes a Parquet file of the connections in a log.
func sealInStages(b *testing.B, g *segment, w *stopwatch) {
	const k = event.KindConnection
	build := newGroupBuilder(io.Discard, event.LayoutOf(k), g.host, fileKeys(k, g.host, "", ""))
	flush := func() {
		if err := build.sort(); err != nil {
			b.Fatal(err)
		}
		w.lap("sort")
		err := build.w.writeGroup(build.rows, func(i int) (*vector, error) {
			w.lap("pages")
			v, err := build.vector(i)
			w.lap("vectors")
			return v, err
		})
		if err != nil {
			b.Fatal(err)
		}
		build.rows, build.bytes, build.batches = 0, 0, build.batches[:0]
		w.lap("pages")
	}
	for i, f := range g.list(func(f *frame) bool { return f.typ == frameBatch && f.kind == k }) {
		if build.rows+f.rows > build.limit || build.bytes+maxGroupBytes/8 > maxGroupBytes {
			flush()
		}
		if err := build.add(g, i, &f); err != nil {
			b.Fatal(err)
		}
		w.lap("read")
	}
	flush()
}
