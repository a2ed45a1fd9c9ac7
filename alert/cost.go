package alert

import (
	"sync/atomic"
	"time"

	"warren/event"
	"warren/rule"
)

// A tally is what became of a rule since it was loaded.
type tally struct {
	matches atomic.Uint64
	// measured events took so long to judge, together, nanoseconds.
	measured, took atomic.Uint64
}

// mean is how long one event took to judge, 0 where none was measured.
func (t *tally) mean() time.Duration {
	n := t.measured.Load()
	if n == 0 {
		return 0
	}
	return time.Duration(t.took.Load() / n)
}

const (
	// measureEach is how often a worker measures an event, at most.
	measureEach = 50 * time.Millisecond
	// judgements of a rule are measured at once, so that the clock costs little of
	// what it shows.
	judgements = 8
	// mostMeasured is how many rules are measured with one event.
	mostMeasured = 64
)

// costs says what a worker measures next.
type costs struct {
	last time.Time
	// skip is how many of the rules that an event of a kind is laid before were measured
	// since all were.
	skip map[event.Kind]int
}

// measure finds out, now and then, what it costs to judge an event by each rule alone.
// With other rules it is less: what they have in common is judged once.
func (w *worker) measure(ev *event.Event, now time.Time) {
	c := &w.costs
	if now.Sub(c.last) < measureEach {
		return
	}
	c.last = now
	kind := ev.Data.Kind()
	skip := c.skip[kind]
	at, done := 0, 0
	w.match.Judge(ev, func(r *rule.Rule, judge func() bool) bool {
		if at++; at <= skip {
			return true
		}
		begun := time.Now()
		for range judgements {
			judge()
		}
		t := w.rules.tallies[r]
		t.took.Add(uint64(time.Since(begun) / judgements))
		t.measured.Add(1)
		done++
		return done < mostMeasured
	})
	c.skip[kind] = skip + done
	if done < mostMeasured { // the last of them was among these
		c.skip[kind] = 0
	}
}
