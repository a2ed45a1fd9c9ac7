package hub

import (
	"sync"
	"time"
)

// skew measures how far the clock of a node is from ours. A batch says what its
// sender's clock was when it was sent; what lies between that and our clock at
// its arrival is the difference of the clocks, less the time on the way. The
// fastest of the last batches is the best measurement. Any goroutine may use it.
type skew struct {
	mu      sync.Mutex
	samples [skewSamples]int64 // sender's clock - ours, nanoseconds
	n       int                // that were ever taken
}

const (
	// skewSamples is how many measurements count: heartbeats of as many seconds.
	skewSamples = 16
	// skewLeast is the difference that is worth a correction. Clocks that are
	// kept by NTP are closer than that, and closer than a measurement over a
	// busy network.
	skewLeast = 50 * time.Millisecond
)

// measure takes in that a batch with the sender's time clock, in nanoseconds
// since 1970, arrived at now.
func (s *skew) measure(clock int64, now time.Time) {
	if clock == 0 {
		return // the sender does not know
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples[s.n%skewSamples] = clock - now.UnixNano()
	s.n++
}

// offset returns how far the node's clock is ahead of ours, and whether that
// was ever measured.
func (s *skew) offset() (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == 0 {
		return 0, false
	}
	most := s.samples[0]
	for _, v := range s.samples[1:min(s.n, skewSamples)] {
		most = max(most, v)
	}
	return time.Duration(most), true
}

// correction returns what is taken from the node's times to compare them with
// others': zero where the clocks agree.
func (s *skew) correction() time.Duration {
	if d, _ := s.offset(); d.Abs() >= skewLeast {
		return d
	}
	return 0
}
