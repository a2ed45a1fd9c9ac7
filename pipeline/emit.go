package pipeline

import (
	"time"

	"warren/event"
	"warren/interest"
)

// emit takes an event from a sensor. It is called by the goroutine that reads
// the rings, and never blocks.
func (p *Pipeline) emit(e *event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := e.Data.Kind() % maxKinds
	p.totals[k] += e.Times()
	if e.Counted != nil {
		p.emitCounted(e)
		return
	}
	if event.StateKinds.Has(k) {
		p.tables.Apply(e)
		return
	}
	p.seq++
	e.Seq = p.seq
	p.tables.Apply(e)
	if p.mustWait(e) {
		return
	}
	p.publish(e)
}

// emitCounted takes events that the kernel has counted. They know no more than
// the one that was told: who it was is what that one says. Nobody else sees them.
func (p *Pipeline) emitCounted(e *event.Event) {
	p.seq++
	e.Seq = p.seq
	if len(p.waiting.fifo) > 0 && p.waiting.holds(e.Counted.Of) {
		p.wait(e) // for the process of the one that was told
		return
	}
	p.publishCounted(e)
}

// publishCounted hands counted events to those who count, and did so when they
// began to be counted. The caller holds p.mu.
func (p *Pipeline) publishCounted(e *event.Event) {
	e.Process = e.Counted.Of.Process
	for _, s := range p.routes[e.Data.Kind()%maxKinds] {
		if s.counts && !s.begun.After(e.Counted.Since) && (s.opts.Match == nil || s.opts.Match(e)) {
			s.push(e)
		}
	}
}

// publish hands an event, now complete and immutable, to those who want it.
// The caller holds p.mu.
func (p *Pipeline) publish(e *event.Event) {
	if e.HeldBytes() <= maxRecent {
		p.recent.add(e)
	}
	for _, s := range p.routes[e.Data.Kind()%maxKinds] {
		if s.opts.Match == nil || s.opts.Match(e) {
			s.push(e)
		} else if s.opts.Unnamed != nil && interest.Unnamed(e) && s.opts.Unnamed(e) {
			s.unnamed.total++
			s.unnamed.kinds |= event.Kinds(e.Data.Kind())
		}
	}
}

// Tell publishes an event that a consumer has made of others, or that comes from
// elsewhere than the kernel: it is numbered, and has its Process already. Tell does
// not block.
func (p *Pipeline) Tell(e *event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.totals[e.Data.Kind()%maxKinds]++
	p.seq++
	e.Seq = p.seq
	p.publish(e)
}

// TellLost tells every consumer of a loss where what [Pipeline.Tell] is told comes
// from.
func (p *Pipeline) TellLost(l *event.Lost) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.lost(time.Now(), bootTime(), l)
	}
}

// Crowded reports whether half of what may wait for a consumer of events of kind k
// does. Who has more to tell does well to wait a little.
func (p *Pipeline) Crowded(k event.Kind) bool {
	p.mu.Lock()
	to := p.routes[k%maxKinds] // replaced, never changed
	p.mu.Unlock()
	for _, s := range to {
		s.mu.Lock()
		crowded := s.n >= len(s.queue)/2 || s.bytes >= maxHeld/2
		s.mu.Unlock()
		if crowded {
			return true
		}
	}
	return false
}

// lost tells every consumer of a loss. The caller holds p.mu.
func (p *Pipeline) lost(now time.Time, ktime uint64, l *event.Lost) {
	p.seq++
	p.totals[event.KindLost]++
	e := &event.Event{Time: now, Ktime: ktime, Seq: p.seq, Data: l}
	p.recent.add(e)
	for _, s := range p.subs {
		s.push(e)
	}
}

// sayUnnamed tells consumers how many events could have been theirs, since the last
// call. The caller holds p.mu.
func (p *Pipeline) sayUnnamed(now time.Time) {
	for _, s := range p.subs {
		u := &s.unnamed
		if u.total == u.said {
			continue
		}
		p.seq++
		l := &event.Lost{Type: "lost", Count: u.total - u.said, What: u.kinds.String(), Lane: "name", Consumer: s.opts.Name}
		s.push(&event.Event{Time: now, Ktime: bootTime(), Seq: p.seq, Data: l})
		u.said, u.kinds = u.total, 0
	}
}

// recent are the last events, oldest overwritten first.
type recent struct {
	ring []*event.Event
	next int
}

func (r *recent) init(n int) { r.ring = make([]*event.Event, max(0, n)) }

func (r *recent) add(e *event.Event) {
	if len(r.ring) == 0 {
		return
	}
	r.ring[r.next] = e
	if r.next++; r.next == len(r.ring) {
		r.next = 0
	}
}

// Recent returns past events in their order, as many as are remembered. They
// are not counted as delivered to anybody.
func (p *Pipeline) Recent() []*event.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &p.recent
	list := make([]*event.Event, 0, len(r.ring))
	for i := range r.ring {
		if e := r.ring[(r.next+i)%len(r.ring)]; e != nil {
			list = append(list, e)
		}
	}
	return list
}

// Seq returns the number of the last event that the tables know of: they tell
// of it and of all before it.
func (p *Pipeline) Seq() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seq
}

// Settled returns the number up to which all events have reached their consumers:
// some wait, and are published after later ones.
func (p *Pipeline) Settled() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	settled := p.seq
	for _, it := range p.waiting.fifo {
		settled = min(settled, it.e.Seq-1)
	}
	return settled
}

// waiting holds events that are not complete yet, in their order: the runtime
// has not described their container, or their process is being looked up. Events of the same container, or of the same process, wait
// behind them, so that nobody sees a process exit before its exec.
type waiting struct {
	fifo       []waiter
	containers map[string]int
	processes  map[event.Key]int
	timedOut   uint64 // events that went on incomplete
	pushedOut  uint64 // of these: because more than WaitEvents waited
	total      uint64
}

type waiter struct {
	e        *event.Event
	deadline time.Time
}

func (w *waiting) init() {
	w.containers = map[string]int{}
	w.processes = map[event.Key]int{}
}

// holds reports whether an event must wait behind others.
func (w *waiting) holds(e *event.Event) bool {
	return w.processes[e.Actor] > 0 || w.containers[containerOf(e)] > 0
}

func containerOf(e *event.Event) string {
	if e.Process == nil || e.Process.Container == nil {
		return ""
	}
	return e.Process.Container.FullID
}

func (w *waiting) add(e *event.Event, deadline time.Time) {
	w.total++
	w.fifo = append(w.fifo, waiter{e, deadline})
	if id := containerOf(e); id != "" {
		w.containers[id]++
	}
	if !e.Actor.IsZero() {
		w.processes[e.Actor]++
	}
}

func (w *waiting) forget(e *event.Event) {
	if id := containerOf(e); id != "" {
		if w.containers[id]--; w.containers[id] <= 0 {
			delete(w.containers, id)
		}
	}
	if w.processes[e.Actor]--; w.processes[e.Actor] <= 0 {
		delete(w.processes, e.Actor)
	}
}

// mustWait reports whether e has to wait, and if so has put it in the queue.
func (p *Pipeline) mustWait(e *event.Event) bool {
	w := &p.waiting
	// The usual case first: nothing waits, and nothing has to.
	if len(w.fifo) == 0 {
		if !p.tables.Pending(e) {
			return false
		}
	} else if !w.holds(e) && !p.tables.Pending(e) {
		return false
	}
	p.wait(e)
	return true
}

// wait puts an event into the queue.
func (p *Pipeline) wait(e *event.Event) {
	w := &p.waiting
	if len(w.fifo) >= p.cfg.WaitEvents {
		w.pushedOut++
		p.release(w.fifo[0].e, true)
		w.fifo[0] = waiter{}
		w.fifo = w.fifo[1:]
	}
	w.add(e, time.Now().Add(p.cfg.WaitContainer))
	if len(w.fifo) == 1 {
		select {
		case p.waits <- struct{}{}:
		default:
		}
	}
}

// letOn publishes the waiting events whose container has been described or
// whose time is over; with all, every one. The caller holds p.mu.
func (p *Pipeline) letOn(now time.Time, all bool) {
	w := &p.waiting
	if len(w.fifo) == 0 {
		return
	}
	// What stays keeps what follows it, even where the description arrives
	// between the two looks at it.
	stay := waiting{}
	stay.init()
	for _, it := range w.fifo {
		over := all || !now.Before(it.deadline)
		if !over && (stay.holds(it.e) || it.e.Counted == nil && p.tables.Pending(it.e)) {
			stay.add(it.e, it.deadline)
			continue
		}
		p.release(it.e, over)
	}
	clear(w.fifo)
	w.fifo = append(w.fifo[:0], stay.fifo...)
}

func (p *Pipeline) release(e *event.Event, final bool) {
	w := &p.waiting
	w.forget(e) // before Resolve, which replaces the container
	if e.Counted != nil {
		p.publishCounted(e)
		return
	}
	p.tables.Resolve(e, final)
	if e.Process == nil || e.Process.Container != nil && e.Process.Container.Pending {
		w.timedOut++
	}
	p.publish(e)
}
