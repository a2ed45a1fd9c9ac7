package api

import (
	"sync"
	"time"
)

// A flowRing holds the last flows, bounded by number and by bytes. One
// goroutine adds, any number read, each at its own pace: who is overtaken is
// told how many flows it missed.
type flowRing struct {
	mu       sync.Mutex
	slots    []*flowRecord // position p is in slot p % len
	oldest   uint64        // position of the oldest record
	next     uint64        // position of the next record
	flows    int           // in the records that are held
	bytes    int
	maxFlows int
	maxBytes int
	seen     uint64 // flows since the start
	quiet    int    // records since the last publish
	wake     chan struct{}
	ended    bool
	past     flowPast
}

// publishAfter is how many records are added before readers that wait are woken,
// though more are at hand.
const publishAfter = 64

func newFlowRing(flows, bytes int, now time.Time) *flowRing {
	return &flowRing{
		slots:    make([]*flowRecord, flows),
		maxFlows: flows,
		maxBytes: bytes,
		past:     flowPast{first: now.Unix(), last: now.Unix()},
	}
}

// add remembers a record and forgets the oldest ones for which there is no
// room. Readers that wait see it after publish.
func (r *flowRing) add(rec *flowRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past.advance(rec.time.Unix(), r.seen)
	rec.before = r.seen
	r.seen += uint64(rec.flows)
	r.flows += rec.flows
	r.bytes += rec.bytes
	if r.next-r.oldest == uint64(len(r.slots)) {
		r.forget()
	}
	*r.slot(r.next) = rec
	r.next++
	// The newest stays, however large it is: the bound is then the event's.
	for r.next-r.oldest > 1 && (r.flows > r.maxFlows || r.bytes > r.maxBytes) {
		r.forget()
	}
	if r.quiet++; r.quiet >= publishAfter {
		r.rouse()
	}
}

func (r *flowRing) slot(pos uint64) **flowRecord { return &r.slots[pos%uint64(len(r.slots))] }

func (r *flowRing) forget() {
	s := r.slot(r.oldest)
	r.flows -= (*s).flows
	r.bytes -= (*s).bytes
	*s = nil
	r.oldest++
}

// publish wakes the readers that wait.
func (r *flowRing) publish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rouse()
}

func (r *flowRing) rouse() {
	r.quiet = 0
	if r.wake != nil {
		close(r.wake)
		r.wake = nil
	}
}

// end tells readers that nothing comes any more.
func (r *flowRing) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.rouse()
}

// A flowCursor is a reader's place.
type flowCursor struct {
	pos   uint64
	flows uint64 // seen before pos
}

// bounds returns the places of the oldest record and behind the newest.
func (r *flowRing) bounds() (oldest, end flowCursor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	end = flowCursor{r.next, r.seen}
	oldest = end
	if r.oldest != r.next {
		oldest = flowCursor{r.oldest, (*r.slot(r.oldest)).before}
	}
	return oldest, end
}

// read copies the records from c on into buf, moves c behind them and returns
// how many there were. lost is how many flows were overwritten before they
// were read; c is then in the middle of the ring: one long gap tells more than
// many short ones.
func (r *flowRing) read(c *flowCursor, buf []*flowRecord) (n int, lost uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.pos < r.oldest {
		c.pos = r.oldest + (r.next-r.oldest)/2
		before := (*r.slot(c.pos)).before
		lost, c.flows = before-c.flows, before
	}
	for n < len(buf) && c.pos < r.next {
		rec := *r.slot(c.pos)
		buf[n] = rec
		n++
		c.pos++
		c.flows = rec.before + uint64(rec.flows)
	}
	return n, lost
}

// readBack copies the records before pos into buf, newest first, and returns
// how many there were: none where the ring no longer has them.
func (r *flowRing) readBack(pos uint64, buf []*flowRecord) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for n < len(buf) && pos > r.oldest {
		pos--
		buf[n] = *r.slot(pos)
		n++
	}
	return n
}

// changed returns a channel that is closed when there are records from pos on,
// or never will be.
func (r *flowRing) changed(pos uint64) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wake == nil {
		r.wake = make(chan struct{})
	}
	wake := r.wake
	if r.next != pos || r.ended {
		r.rouse()
	}
	return wake
}

// over reports whether all up to pos is all there will ever be.
func (r *flowRing) over(pos uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended && pos >= r.next
}

// overwritten returns how many flows since a time are no longer held, and the
// time from which that count is exact: since to the second, or the earliest
// that is remembered.
func (r *flowRing) overwritten(since time.Time) (lost uint64, from, to time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.oldest == 0 {
		return 0, time.Time{}, time.Time{}
	}
	before, second := r.past.before(since.Unix(), r.seen)
	first := *r.slot(r.oldest)
	if first.before <= before {
		return 0, time.Time{}, time.Time{}
	}
	return first.before - before, time.Unix(second, 0), first.time
}

// rate returns flows per second over the minute before now, or since the start
// where that is less.
func (r *flowRing) rate(now time.Time) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, second := r.past.before(now.Unix()-60, r.seen)
	return float64(r.seen-before) / max(float64(now.Unix()-second), 1)
}

func (r *flowRing) stats() HubbleStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := HubbleStats{Flows: r.flows, MaxFlows: r.maxFlows, Bytes: r.bytes, MaxBytes: r.maxBytes, Seen: r.seen}
	if r.oldest != r.next {
		s.Oldest = (*r.slot(r.oldest)).time
	}
	return s
}

// flowPast remembers how many flows had been seen when each second of the last
// hour began: who asks for a time that the ring no longer reaches is told how
// much is missing.
type flowPast struct {
	first, last int64 // seconds: the earliest and the latest that are remembered
	counts      [3600]uint64
}

// advance tells that a flow came in a second, after seen others. Clocks that
// fall back change nothing.
func (p *flowPast) advance(second int64, seen uint64) {
	n := int64(len(p.counts))
	for s := max(p.last+1, second-n+1); s <= second; s++ {
		p.counts[s%n] = seen
	}
	p.last = max(p.last, second)
	p.first = max(p.first, p.last-n+1)
}

// before returns how many flows had been seen when a second began; for one that
// is no longer remembered, when the earliest that is began.
func (p *flowPast) before(second int64, seen uint64) (count uint64, from int64) {
	if second > p.last {
		return seen, second
	}
	second = max(second, p.first)
	return p.counts[second%int64(len(p.counts))], second
}
