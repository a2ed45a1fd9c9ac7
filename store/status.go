package store

import (
	"time"

	"warren/event"
)

// Status is what there is, and what went wrong.
type Status struct {
	Dir   string
	Size  int64 // bytes on the disk
	First time.Time
	Last  time.Time // of the events that are kept
	// Events have been kept since the start, as so many Rows: repeats are one.
	Events, Rows uint64
	// Lost are events that there was no room for, since the start.
	Lost uint64
	Torn Torn
	// ClockSteps is how often the clock was set back since the start.
	ClockSteps uint64
	// Failure is the worst of what the disk does not do, nil while it does all.
	Failure *Failure
	// Failures is how often it did not since the start.
	Failures uint64
	// Waiting are bytes that are not written yet.
	Waiting int64
	// Kinds is what is sealed, and Logs how many logs are not, with LogBytes.
	Kinds    []KindStatus
	Logs     int
	LogBytes int64
	// Unreadable are sealed files that cannot be read, and Foreign those that are not
	// the history's: both are left alone.
	Unreadable, Foreign int
	// GivenUp are segments that were removed for want of room though they were held, and
	// logs that were though they could not be sealed.
	GivenUp      int
	GivenUpBytes int64
}

// Torn is what the end of an earlier run cost, as found at the start: what it was
// writing when it was killed, and what a disk has damaged since.
type Torn struct {
	Frames, Bytes               int64 // cut off at the ends of logs
	DamagedFrames, DamagedBytes int64 // passed over between whole ones
	DamagedLogs                 int64 // that these were in
	Unreadable                  int64 // logs that are left alone
}

// Failure is something that the disk does not do.
type Failure struct {
	Since time.Time
	What  string
}

// Status returns how the history is.
func (s *Store) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := Status{
		Dir: s.cfg.Dir, Events: s.state.events, Rows: s.state.rows, Lost: s.state.lost, Torn: s.state.torn,
		ClockSteps: s.state.clockSteps, Failures: s.state.failures,
		Kinds: s.kindStatus(), Logs: len(s.segments), Unreadable: s.state.unreadable, Foreign: s.state.foreign,
		GivenUp: s.state.givenUp, GivenUpBytes: s.state.givenUpBytes,
	}
	span := func(first, last time.Time) {
		if t.First.IsZero() || first.Before(t.First) {
			t.First = first
		}
		if last.After(t.Last) {
			t.Last = last
		}
	}
	for _, k := range t.Kinds {
		t.Size += k.Bytes
		if k.Kind != event.KindProcess {
			span(k.First, k.Last)
		}
	}
	t.Failure = s.failure()
	for _, g := range s.segments {
		g.mu.Lock()
		t.Size += g.written
		t.LogBytes += g.written
		t.Waiting += g.size - g.written
		if g.total.rows > 0 {
			span(time.Unix(0, g.total.minTime), time.Unix(0, g.total.maxTime))
		}
		g.mu.Unlock()
	}
	s.in.mu.Lock()
	t.Lost += s.in.lost.count
	s.in.mu.Unlock()
	return t
}
