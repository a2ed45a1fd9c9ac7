package api

import (
	"slices"
	"time"
)

// flowStep is by how much a flow may be behind the newest one before it and
// still be told in its place. An agent reads processes before packets, and waits
// a moment for who did it: by so much its events' times step back.
const flowStep = 2 * time.Second

// followStep is the same for flows that are told as they happen, and by how much
// that makes them late: packets' ring is read at intervals of up to 50 ms, after
// what processes did.
const followStep = 150 * time.Millisecond

// A flowOrder puts records into the order of their times, as long as none is
// more than step late: that one is told as soon as it comes. Records of one time
// keep their order.
type flowOrder struct {
	step   time.Duration
	held   []*flowRecord // by time
	newest time.Time
}

// add takes the next record.
func (o *flowOrder) add(rec *flowRecord) {
	at := len(o.held)
	for at > 0 && o.held[at-1].time.After(rec.time) {
		at--
	}
	o.held = slices.Insert(o.held, at, rec)
	if rec.time.After(o.newest) {
		o.newest = rec.time
	}
}

// ready moves the records to out that no later one can be before, and returns
// it.
func (o *flowOrder) ready(out []*flowRecord) []*flowRecord {
	n := 0
	for n < len(o.held) && o.newest.Sub(o.held[n].time) >= o.step {
		n++
	}
	return o.take(n, out)
}

// rest moves all of them.
func (o *flowOrder) rest(out []*flowRecord) []*flowRecord { return o.take(len(o.held), out) }

func (o *flowOrder) take(n int, out []*flowRecord) []*flowRecord {
	out = append(out, o.held[:n]...)
	o.held = slices.Delete(o.held, 0, n)
	return out
}
