package pipeline

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"warren/event"
	"warren/interest"
)

// ErrClosed says that the pipeline has ended: no event comes any more.
var ErrClosed = errors.New("the pipeline has ended")

// Options say what a consumer wants.
type Options struct {
	// Name says who it is, in status and in [event.Lost].
	Name string
	// Filter is the text of Match, for status.
	Filter string
	// Kinds are the kinds of events wanted: sensors run for them. None is
	// none: then only losses are delivered.
	Kinds event.KindSet
	// Interest is what of them the kernel need not leave out: Match holds for no
	// event that it does not let through. Zero stands for all of Kinds.
	Interest interest.Interest
	// Match picks from them; nil wants all. It is called by the goroutine that
	// reads the rings: it must neither block nor keep the event.
	Match func(*event.Event) bool
	// Unnamed picks, from events of files of which the kernel does not show which
	// they are, those for which Match could hold if it did; nil: none. They are
	// counted, and told by an [event.Lost].
	Unnamed func(*event.Event) bool
	// Tells are the kinds of events that the consumer makes of these, by
	// [Pipeline.Tell]. Whoever wants those still gets them when the pipeline ends:
	// the consumer calls Close when it has told the last.
	Tells event.KindSet
	// Queue is how many events wait for the consumer; zero stands for
	// Config.Queue.
	Queue int
}

// A Subscription is one consumer's view of the stream.
type Subscription struct {
	opts  Options
	id    uint64
	asked uint64 // of Pipeline, when it began
	p     *Pipeline
	begun time.Time
	// counts is true where numbers are wanted, of some kinds, and no events.
	counts bool

	left bool // closed by its consumer; p.mu guards it

	delivered atomic.Uint64
	unnamed   unnamed // guarded by p.mu
	// batch is what the consumer has taken from the queue and not yet been
	// given, in buf. Only the consumer's goroutine touches them.
	batch []*event.Event
	buf   [takeAtOnce]*event.Event
	// busy is true when events have come since the consumer last slept.
	busy   bool
	linger *time.Timer

	mu sync.Mutex
	// queue is a ring of the events that wait. Who drops: push, on the ring
	// reader's goroutine, and it counts what it drops in gap.
	queue    []*event.Event
	head, n  int
	bytes    int // that its events hold: see event.Event.HeldBytes
	gap      gap
	matched  uint64
	lost     uint64
	puts     uint64 // what was ever put into the queue, or taken past it
	sleeping bool
	closed   bool
	wake     chan struct{} // capacity 1: the consumer sleeps in one place
}

// unnamed counts the events that could have been a consumer's: nobody knows which
// file they were about.
type unnamed struct {
	total, said uint64
	kinds       event.KindSet // since they were last said
}

// gap is a run of events for which there was no room.
type gap struct {
	count uint64
	kinds event.KindSet
	last  *event.Event  // its time and number are the gap's
	notes []*event.Lost // notices of losses elsewhere that fell into the gap, one per lane
}

func (g *gap) open() bool { return g.last != nil }

// maxHeld is how many bytes the events that wait for a consumer may hold: as many
// events as fit into a queue can hold more than there is memory.
const maxHeld = 32 << 20

// maxRecent is how much an event may hold to be one of Pipeline.Recent.
const maxRecent = 8 << 10

// takeAtOnce is how many events a consumer takes from its queue under one lock.
const takeAtOnce = 64

// minQueue leaves room, in half a queue, for an event and all that a gap before
// it has to tell.
const minQueue = 32

// Subscribe begins a consumer: from now on what it wants is queued for it. It
// returns ErrClosed when the pipeline has ended.
func (p *Pipeline) Subscribe(o Options) (*Subscription, error) {
	subs, err := p.Replace(nil, o)
	if err != nil {
		return nil, err
	}
	return subs[0], nil
}

// Replace begins consumers in the place of others, in one moment: each event is
// for the old ones or for the new ones. The old ones get what is left in their
// queues, and then [io.EOF]. It returns ErrClosed when the pipeline has ended.
func (p *Pipeline) Replace(old []*Subscription, with ...Options) ([]*Subscription, error) {
	subs := make([]*Subscription, len(with))
	for i, o := range with {
		subs[i] = newSubscription(p, o)
	}
	p.mu.Lock()
	if p.ending {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	p.asked++
	for _, s := range subs {
		p.gone.subscriptions++
		s.id, s.asked = p.gone.subscriptions, p.asked
		if s.opts.Tells != 0 {
			p.tellers = append(p.tellers, s)
		}
	}
	all := slices.Concat(p.subs, subs)
	all = slices.DeleteFunc(all, func(s *Subscription) bool { return slices.Contains(old, s) })
	p.subs = all
	p.route()
	p.mu.Unlock()
	for _, s := range old {
		s.end(false)
	}
	p.interestChanged()
	return subs, nil
}

func newSubscription(p *Pipeline, o Options) *Subscription {
	if o.Queue <= 0 {
		o.Queue = p.cfg.Queue
	}
	o.Queue = max(o.Queue, minQueue)
	o.Kinds &^= event.StateKinds
	if o.Interest.Terms == nil {
		o.Interest = interest.Of(o.Kinds)
	}
	return &Subscription{
		opts:   o,
		p:      p,
		begun:  time.Now(),
		counts: slices.ContainsFunc(o.Interest.Terms, func(t interest.Term) bool { return t.Counted != 0 }),
		queue:  make([]*event.Event, o.Queue),
		wake:   make(chan struct{}, 1),
	}
}

// Begun waits until the sensors have been told what the subscription wants, as
// far as this kernel lets them: what happens after that is in it. It ends sooner
// with ctx, of which it returns the error.
func (s *Subscription) Begun(ctx context.Context) error {
	for {
		done, changed := s.p.settled.look(s.asked)
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// route works out who may match which kind. The caller holds p.mu.
func (p *Pipeline) route() {
	for k := range p.routes {
		var to []*Subscription
		for _, s := range p.subs {
			// Losses go to everybody, by lost.
			if s.opts.Kinds.Has(event.Kind(k)) && event.Kind(k) != event.KindLost {
				to = append(to, s)
			}
		}
		p.routes[k] = to
	}
}

// Close ends the subscription; what is still queued is dropped. It may be
// called more than once, and by any goroutine.
func (s *Subscription) Close() {
	p := s.p
	p.mu.Lock()
	i := slices.Index(p.subs, s)
	if i >= 0 {
		p.subs = slices.Delete(slices.Clone(p.subs), i, i+1)
		p.route()
	}
	first := !s.left
	s.left = true
	p.part(s)
	p.mu.Unlock()
	s.end(true)
	if first {
		p.mu.Lock()
		p.gone.add(s)
		p.mu.Unlock()
	}
	if i >= 0 {
		p.interestChanged()
	}
}

// waits returns how many events are in the queue.
func (s *Subscription) waits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func (s *Subscription) end(drop bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if drop {
		clear(s.queue)
		s.head, s.n, s.bytes, s.gap = 0, 0, 0, gap{}
	}
	s.rouse()
}

// push queues an event, or counts it as lost. It never blocks.
func (s *Subscription) push(e *event.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if e.Data.Kind() != event.KindLost {
		s.matched += e.Times()
	}
	// After a gap the queue takes again when half of it is free: one long gap
	// tells more than one event lost in two, and loses no more.
	if s.n == len(s.queue) || s.bytes > maxHeld || s.gap.open() && (s.n > len(s.queue)/2 || s.bytes > maxHeld/2) {
		s.drop(e)
		return
	}
	s.endGap(s.put)
	s.put(e)
	s.rouse()
}

func (s *Subscription) put(e *event.Event) {
	i := s.head + s.n
	if i >= len(s.queue) {
		i -= len(s.queue)
	}
	s.queue[i] = e
	s.n++
	s.bytes += e.HeldBytes()
	s.puts++
}

// Mark returns how many events Next will have returned, those that tell of losses
// counted too, when it has returned all that was published before the call. Any
// goroutine may call it.
func (s *Subscription) Mark() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.puts
	if s.gap.open() {
		n += uint64(len(s.gap.notes))
		if s.gap.count > 0 {
			n++
		}
	}
	return n
}

// drop counts an event for which there is no room. A notice of a loss elsewhere
// is no event that somebody asked for: it is not counted but kept.
func (s *Subscription) drop(e *event.Event) {
	g := &s.gap
	g.last = e
	l, ok := e.Data.(*event.Lost)
	if !ok {
		s.lost += e.Times()
		g.count += e.Times()
		g.kinds |= 1 << e.Data.Kind()
		return
	}
	for _, n := range g.notes {
		if n.Lane == l.Lane {
			n.Count += l.Count
			if !slices.Contains(strings.Split(n.What, ","), l.What) {
				n.What += "," + l.What
			}
			return
		}
	}
	copied := *l
	g.notes = append(g.notes, &copied)
}

// endGap hands what tells of the gap, if there is one, to put. The events have
// the number of the last event lost, so that numbers never fall in a
// consumer's stream.
func (s *Subscription) endGap(put func(*event.Event)) {
	if !s.gap.open() {
		return
	}
	g := s.gap
	s.gap = gap{}
	tell := func(l *event.Lost) {
		put(&event.Event{Time: g.last.Time, Ktime: g.last.Ktime, Seq: g.last.Seq, Data: l})
	}
	for _, l := range g.notes {
		tell(l)
	}
	if g.count > 0 {
		tell(&event.Lost{Type: "lost", Count: g.count, What: g.kinds.String(), Lane: "queue", Consumer: s.opts.Name})
	}
}

// rouse wakes the consumer if it sleeps. The caller holds s.mu.
func (s *Subscription) rouse() {
	if !s.sleeping {
		return
	}
	s.sleeping = false
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Next returns the next event, waiting for it until ctx ends. After the last
// one of a pipeline that has ended, or after Close, it returns [io.EOF]. It is
// called by one goroutine at a time.
func (s *Subscription) Next(ctx context.Context) (*event.Event, error) {
	for {
		if len(s.batch) > 0 {
			e := s.batch[0]
			s.batch[0] = nil
			s.batch = s.batch[1:]
			if e.Data.Kind() != event.KindLost {
				s.delivered.Add(e.Times())
			}
			return e, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		more, err := s.take(!s.busy)
		if err != nil {
			return nil, err
		}
		if more {
			s.busy = true
			continue
		}
		// Where one event came, the next is near. To be woken for each costs
		// the ring's reader more than all else that it does for an event: while
		// they come, the consumer looks for itself.
		var wake <-chan time.Time
		if s.busy {
			s.busy = false
			wake = s.lingerTime()
		}
		select {
		case <-wake:
		case <-s.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lingerFor is how long a consumer that has just had events waits before it
// looks again; those that come meanwhile are this late.
const lingerFor = time.Millisecond

func (s *Subscription) lingerTime() <-chan time.Time {
	if s.linger == nil {
		s.linger = time.NewTimer(lingerFor)
	} else {
		s.linger.Reset(lingerFor)
	}
	return s.linger.C
}

// take moves events from the queue to the batch. It reports whether there were
// any; if not, and sleep is true, the next event will wake the consumer.
func (s *Subscription) take(sleep bool) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batch = s.buf[:0]
	for range min(s.n, takeAtOnce) {
		s.batch = append(s.batch, s.queue[s.head])
		s.bytes -= s.queue[s.head].HeldBytes()
		s.queue[s.head] = nil
		if s.head++; s.head == len(s.queue) {
			s.head = 0
		}
		s.n--
	}
	switch {
	case len(s.batch) > 0:
		return true, nil
	case s.gap.open(): // nothing came after the gap that would have ended it
		s.endGap(func(e *event.Event) {
			s.batch = append(s.batch, e)
			s.puts++
		})
		return true, nil
	case s.closed:
		return false, io.EOF
	}
	s.sleeping = sleep
	return false, nil
}

// Buffered reports whether Next has an event at hand that it returns without
// waiting. It is called by the consumer's goroutine.
func (s *Subscription) Buffered() bool {
	if len(s.batch) > 0 {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n > 0 || s.gap.open()
}
