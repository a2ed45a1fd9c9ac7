package bpf

import (
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// BenchmarkRing carries records of 72 bytes from the kernel to a decoder that
// does nothing: while a program writes as fast as it can, by the road's reader.
func BenchmarkRing(b *testing.B) {
	r, o := openTest(b, Config{BulkBytes: 32 << 20})
	r.Handle(testBulk, "test.bulk", Bulk, func([]byte) error { return nil })
	run(b, r)
	if err := r.Sync(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	start := time.Now()
	for left := uint64(b.N); left > 0; {
		n := min(left, 100_000)
		produce(b, o, testroadTestModeMODE_BULK, 0, n)
		left -= n
	}
	if err := r.Sync(b.Context()); err != nil {
		b.Fatal(err)
	}
	c := counter(b, r, testBulk)
	b.ReportMetric(float64(c.Decoded)/time.Since(start).Seconds(), "events/s")
	b.ReportMetric(float64(c.Lost)/float64(c.Submitted+c.Lost)*100, "%lost")
}

// BenchmarkDrain decodes rings that are already full: what reading alone costs,
// by our reader and by the library's.
func BenchmarkDrain(b *testing.B) {
	const batch = 200_000
	fill := func(b *testing.B, drain func(b *testing.B, r *Road) int) {
		r, o := openTest(b, Config{BulkBytes: 32 << 20})
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			b.StopTimer()
			produce(b, o, testroadTestModeMODE_BULK, 0, batch)
			b.StartTimer()
			n += drain(b, r)
		}
		b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
	}
	b.Run("road", func(b *testing.B) {
		n := 0
		fill(b, func(b *testing.B, r *Road) int {
			r.Handle(testBulk, "test.bulk", Bulk, func([]byte) error { n++; return nil })
			n = 0
			r.cycle()
			return n
		})
	})
	b.Run("library", func(b *testing.B) {
		var rd *ringbuf.Reader
		fill(b, func(b *testing.B, r *Road) (n int) {
			if rd == nil {
				var err error
				if rd, err = ringbuf.NewReader(r.maps["bulk"]); err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { rd.Close() })
			}
			rd.SetDeadline(time.Unix(1, 0))
			var rec ringbuf.Record
			for {
				err := rd.ReadInto(&rec)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					return n
				}
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
		})
	})
}

// BenchmarkIdle is the CPU time that a second of waiting for nothing costs, and
// a second with a record every ten milliseconds.
func BenchmarkIdle(b *testing.B) {
	for name, every := range map[string]time.Duration{"nothing": 0, "100 a second": 10 * time.Millisecond} {
		b.Run(name, func(b *testing.B) {
			r, o := openTest(b, Config{})
			r.Handle(testCritical, "test.critical", Critical, func([]byte) error { return nil })
			run(b, r)
			var wg sync.WaitGroup
			before, start := cpuTime(b), time.Now()
			polls := r.Stats().Polls
			tick := time.NewTicker(max(every, 100*time.Millisecond))
			if every > 0 {
				tick.Reset(every)
			}
			defer tick.Stop()
			for b.Loop() {
				for end := time.Now().Add(time.Second); time.Now().Before(end); {
					<-tick.C
					if every > 0 {
						produce(b, o, testroadTestModeMODE_CRITICAL, 0, 1)
					}
				}
			}
			wg.Wait()
			seconds := time.Since(start).Seconds()
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/seconds, "cpu-µs/s")
			b.ReportMetric(float64(r.Stats().Polls-polls)/seconds, "polls/s")
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
