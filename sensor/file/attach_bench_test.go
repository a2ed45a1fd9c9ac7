package file

import (
	"log/slog"
	"testing"
	"time"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/test/roadtest"
)

// BenchmarkAttach is how long it takes until all hooks of the sensor are there,
// and until they are gone.
func BenchmarkAttach(b *testing.B) {
	road, end := roadtest.Run(b, bpf.Config{})
	var on, off time.Duration
	for b.Loop() {
		s := New(road, Config{}, slog.New(slog.DiscardHandler))
		start := time.Now()
		if err := s.Start(interest.All(kinds), func(*event.Event) {}); err != nil {
			b.Fatal(err)
		}
		there := time.Now()
		if err := s.Stop(); err != nil {
			b.Fatal(err)
		}
		on, off = on+there.Sub(start), off+time.Since(there)
	}
	b.ReportMetric(float64(on.Milliseconds())/float64(b.N), "on-ms")
	b.ReportMetric(float64(off.Milliseconds())/float64(b.N), "off-ms")
	end(b)
}
