// Package audit takes in what API servers of Kubernetes tell of the requests to
// them: events of their audit log, sent by their webhook or written to a file. It
// makes events of them, and knows nobody who wants those.
//
// An [Intake] may be used by any goroutine.
package audit

import (
	"context"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"warren/event"
)

// A Sink is where events go.
type Sink interface {
	// Tell takes an event, and does not block.
	Tell(e *event.Event)
	// TellLost says that events were lost before.
	TellLost(l *event.Lost)
	// Crowded reports whether somebody who wants events of a kind is behind.
	Crowded(k event.Kind) bool
}

// Lane is where losses are said to be.
const Lane = "audit"

// DefaultMaxEvent is how large an event may be unless somebody says otherwise:
// Falco's limit.
const DefaultMaxEvent = 256 << 10

// Stats is what has come in so far.
type Stats struct {
	// Events were told, Repeated came again, which changed nothing.
	Events, Repeated uint64
	// Bad could not be read, TooLarge were larger than is taken: both are lost.
	Bad, TooLarge uint64
	// Refused are requests of who may not tell anything, or not so.
	Refused uint64
	// Last is when the latest came, Error what was wrong last, and ErrorAt when.
	Last    time.Time
	Error   string
	ErrorAt time.Time
}

// Lost is how many events were lost here.
func (s *Stats) Lost() uint64 { return s.Bad + s.TooLarge }

// An Intake makes events of texts.
type Intake struct {
	sink     Sink
	maxEvent atomic.Int64
	log      *slog.Logger

	mu    sync.Mutex
	stats Stats
	said  uint64 // of stats.Lost, by TellLost
	warns time.Time
	seen  repeats
}

// NewIntake makes an intake of events of up to [DefaultMaxEvent] bytes.
func NewIntake(sink Sink, log *slog.Logger) *Intake {
	in := &Intake{sink: sink, log: log}
	in.SetMaxEvent(0)
	return in
}

// SetMaxEvent sets how large an event may be, in bytes; 0 stands for the default.
func (in *Intake) SetMaxEvent(n int) {
	if n <= 0 {
		n = DefaultMaxEvent
	}
	in.maxEvent.Store(int64(n))
}

// Stats returns what has come in so far.
func (in *Intake) Stats() Stats {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.stats
}

// Run tells of losses, together those of a second, until ctx ends.
func (in *Intake) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			in.sayLost()
			return nil
		case <-tick.C:
			in.sayLost()
		}
	}
}

func (in *Intake) sayLost() {
	in.mu.Lock()
	n := in.stats.Lost() - in.said
	in.said += n
	in.mu.Unlock()
	if n > 0 {
		in.sink.TellLost(&event.Lost{Type: "lost", Count: n, What: event.KindK8sAudit.String(), Lane: Lane})
	}
}

// take makes an event of a text and tells it, unless it came before: who is told of
// no success sends it again. The text is the caller's.
func (in *Intake) take(text []byte) {
	if int64(len(text)) > in.maxEvent.Load() {
		in.tooLarge()
		return
	}
	if in.again(text) {
		return
	}
	e, err := event.ParseAudit(text)
	if err != nil {
		in.bad(err)
		return
	}
	in.mu.Lock()
	in.stats.Events++
	in.stats.Last = time.Now()
	in.mu.Unlock()
	in.sink.Tell(e)
}

func (in *Intake) again(text []byte) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.seen.known == nil {
		in.seen = newRepeats(maxRepeats)
	}
	if !in.seen.add(text) {
		return false
	}
	in.stats.Repeated++
	return true
}

// bad counts what could not be read.
func (in *Intake) bad(err error) {
	in.wrong(&in.stats.Bad, "what an API server told cannot be read", err.Error())
}

// tooLarge counts an event that was larger than is taken.
func (in *Intake) tooLarge() {
	in.wrong(&in.stats.TooLarge, "an event of an API server is too large", "it is larger than max-event")
}

// refuse counts a request that is not taken.
func (in *Intake) refuse(why string) {
	in.wrong(&in.stats.Refused, "a request to take in events of an API server was refused", why)
}

// between is how long nothing more is said of what goes wrong, but counted.
const between = time.Minute

func (in *Intake) wrong(counter *uint64, what, why string) {
	now := time.Now()
	in.mu.Lock()
	*counter++
	in.stats.Error, in.stats.ErrorAt = what+": "+why, now
	say := in.warns.IsZero() || now.Sub(in.warns) >= between
	if say {
		in.warns = now
	}
	s := in.stats
	in.mu.Unlock()
	if say {
		in.log.Warn("not all that an API server told was taken", "what", what, "bad", s.Bad, "tooLarge", s.TooLarge, "refused", s.Refused, "err", why)
	}
}

// patience is how long one who tells waits for who is behind.
const patience = time.Second

// room waits until nobody is behind, or for a while: one who reads nothing keeps
// the others from nothing.
func (in *Intake) room(ctx context.Context) {
	over := time.Now().Add(patience)
	for in.sink.Crowded(event.KindK8sAudit) && time.Now().Before(over) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// maxRepeats is how many of the latest texts are known again: more than API servers
// send at once.
const maxRepeats = 1 << 13

// repeats knows the latest texts, by hashes of which nobody else has the seed. The
// id of a request is no measure: clients can choose it.
type repeats struct {
	seed  maphash.Seed
	known map[uint64]bool
	ring  []uint64
	next  int
}

func newRepeats(n int) repeats {
	return repeats{seed: maphash.MakeSeed(), known: make(map[uint64]bool, n), ring: make([]uint64, 0, n)}
}

// add reports whether a text is among the latest, and makes it one of them.
func (r *repeats) add(text []byte) bool {
	h := maphash.Bytes(r.seed, text)
	if r.known[h] {
		return true
	}
	r.known[h] = true
	if len(r.ring) < cap(r.ring) {
		r.ring = append(r.ring, h)
		return false
	}
	delete(r.known, r.ring[r.next])
	r.ring[r.next] = h
	if r.next++; r.next == len(r.ring) {
		r.next = 0
	}
	return false
}
