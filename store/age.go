package store

import (
	"time"

	"golang.org/x/sys/unix"
)

// An ageClock says what time it is for whoever removes what is old: the wall clock,
// unless that was set forward, by mistake or by who wants that nothing is left. Until
// that has lasted, time goes on as it went before. Store.sealing guards it.
type ageClock struct {
	now   time.Time // as it was told last; zero before
	up    time.Duration
	ahead bool // the wall clock is too far ahead
	since time.Duration
}

const (
	// jumpForward is by how much the wall clock must gain on the one that nobody sets,
	// and jumpLasts for how long, to be believed.
	jumpForward = time.Hour
	jumpLasts   = time.Hour
)

// age returns what time it is, and says once that the wall clock is not believed. The
// caller holds s.sealing.
func (s *Store) age(newest time.Time) time.Time {
	c := &s.aged
	wall, up := s.cfg.Now(), s.cfg.uptime()
	expected := c.now.Add(up - c.up)
	if c.now.IsZero() {
		// At a start nobody knows. All at once is not removed then.
		if expected = wall; !newest.IsZero() && wall.Sub(newest) > s.cfg.MaxAge {
			expected = newest
		}
	}
	c.up = up
	switch ahead := wall.Sub(expected); {
	case ahead <= jumpForward:
		c.now, c.ahead = wall, false
	case !c.ahead:
		c.now, c.ahead, c.since = expected, true, up
		s.log.Warn("history: the clock is far ahead of what is kept; nothing is removed for its age until that has lasted", "dir", s.cfg.Dir, "by", ahead.Round(time.Second), "until", jumpLasts)
	case up-c.since >= jumpLasts:
		c.now, c.ahead = wall, false
	default:
		c.now = expected
	}
	return c.now
}

// uptime is how long the machine has been up, suspended or not: whoever wakes it finds
// no clock that was set.
func uptime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail: the clock exists since 2.6.39
	return time.Duration(ts.Nano())
}
