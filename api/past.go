package api

import (
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"slices"
	"time"

	"warren/event"
)

// A page is some events of the past, read ahead of who writes them.
type page struct {
	events []*event.Event
	err    error
}

const (
	// pageEvents is how many events a page has at most.
	pageEvents = 256
	// pageTime is how long events wait for a page to be full.
	pageTime = 20 * time.Millisecond
)

// pages reads ahead, so that who writes can show signs of life while nothing is
// found. The channel is closed after the last page; who stops reading before ends
// ctx.
func pages(ctx context.Context, events iter.Seq2[*event.Event, error]) <-chan page {
	out := make(chan page, 2) // who finds it full waits
	go func() {
		defer close(out)
		send := func(p page) bool {
			select {
			case out <- p:
				return true
			case <-ctx.Done():
				return false
			}
		}
		var p page
		last := time.Now()
		for e, err := range events {
			if err != nil {
				p.err = err
				break
			}
			p.events = append(p.events, e)
			if len(p.events) < pageEvents && time.Since(last) < pageTime {
				continue
			}
			if !send(p) {
				return
			}
			p, last = page{}, time.Now()
		}
		if len(p.events) > 0 || p.err != nil {
			send(p)
		}
	}()
	return out
}

// past writes events of the past, and calls meanwhile, if it is not nil, now and
// then. What goes wrong before anything is written is an error for the client;
// afterwards the connection ends, so that the answer does not look whole.
func (s *Server) past(ctx context.Context, out *Writer, events iter.Seq2[*event.Event, error], meanwhile func() error, write func(*event.Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	beat := out.Idle(s.cfg.KeepAlive)
	wait := beat
	if meanwhile != nil {
		wait = min(wait, pageTime)
	}
	tick := time.NewTicker(wait)
	defer tick.Stop()
	wrote, begun := time.Now(), false
	incoming := pages(ctx, events)
	for {
		select {
		case p, more := <-incoming:
			if !more {
				return ctx.Err()
			}
			for _, e := range p.events {
				if err := write(e); err != nil {
					return err
				}
			}
			if p.err != nil {
				return s.pastFailed(ctx, p.err, begun)
			}
			begun, wrote = true, time.Now()
		case <-tick.C:
			if time.Since(wrote) >= beat {
				if err := out.Beat(); err != nil {
					return err
				}
				begun, wrote = true, time.Now()
			}
		case <-ctx.Done():
			return &clientGone{ctx.Err()}
		}
		if meanwhile != nil {
			if err := meanwhile(); err != nil {
				return err
			}
		}
	}
}

func (s *Server) pastFailed(ctx context.Context, err error, begun bool) error {
	switch {
	case ctx.Err() != nil:
		return &clientGone{ctx.Err()}
	case begun:
		s.log.Warn("an answer from the history breaks off", "err", err)
		return &clientGone{err}
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return err
	}
	return Unavailable("the history cannot be read: %v", err)
}

// synced is the events of the past that a question is about, with everything in
// them that had happened when they were asked for.
func (s *Server) synced(ctx context.Context, q PastQuestion) iter.Seq2[*event.Event, error] {
	return func(yield func(*event.Event, error) bool) {
		if _, err := s.cfg.History.Sync(ctx); err != nil {
			yield(nil, err)
			return
		}
		for e, err := range s.cfg.History.Events(ctx, q) {
			if !yield(e, err) {
				return
			}
		}
	}
}

// pastEvents answers with events from the disk: the last limit of them.
func (s *Server) pastEvents(ctx context.Context, out *Writer, a Asked) error {
	q := PastQuestion{Filter: a.Filter, Kinds: a.Filter.Asked() | event.NoticeKinds, Since: a.Since, Until: a.Until, Limit: a.Limit, Newest: a.Limit > 0}
	if err := s.past(ctx, out, s.synced(ctx, q), nil, out.Event); err != nil {
		return err
	}
	return out.Flush()
}

// The seam between what is kept and what happens.
const (
	// seamPasses is how often the disk is read again for what happened while it was
	// read, before the live stream begins: each time it is less.
	seamPasses = 8
	// shortPass is how long reading takes that need not be repeated.
	shortPass = 50 * time.Millisecond
	// seamEvents is how many live events wait for the last of what is read; what
	// comes then waits in the stream's own queue.
	seamEvents = 1 << 17
)

// A seam sees to it that each event is told once: from the disk or live.
//
// Events are published in the order of their numbers, but for some that wait for
// the description of their container. Those with numbers up to settled were
// published before the question, those with numbers above last are after it. Of
// those between, it is remembered which the disk told of.
type seam struct {
	settled, last uint64
	told          map[uint64]uint64 // number -> ktime: an earlier run has the same numbers
}

// tell reports whether an event is to be told, and remembers that it is.
func (m *seam) tell(e *event.Event) bool {
	if m.again(e) {
		return false
	}
	if m.settled < e.Seq && e.Seq <= m.last {
		m.told[e.Seq] = e.Ktime
	}
	return true
}

// again reports whether an event was told already.
func (m *seam) again(e *event.Event) bool {
	k, ok := m.told[e.Seq]
	return ok && k == e.Ktime && !event.NoticeKinds.Has(e.Data.Kind())
}

// next begins another question: of numbers up to before all was told.
func (m *seam) next(before, settled, last uint64) {
	for n := range m.told {
		if n <= before {
			delete(m.told, n)
		}
	}
	m.settled, m.last = settled, max(last, 1) // 0 would be no bound
}

// followPast answers with events from the disk, then with those that happen: none
// twice, none left out.
func (s *Server) followPast(req *http.Request, out *Writer, a Asked) error {
	ctx, n := req.Context(), 0
	m := &seam{told: map[uint64]uint64{}}
	q := PastQuestion{Filter: a.Filter, Kinds: a.Filter.Asked() | event.NoticeKinds, Since: a.Since}
	write := func(e *event.Event) error {
		if !m.tell(e) {
			return nil
		}
		if err := out.Event(e); err != nil {
			return err
		}
		if event.NoticeKinds.Has(e.Data.Kind()) {
			return nil
		}
		if n++; n == a.Limit {
			return errEnough
		}
		return nil
	}
	// What was there before, and then what came while that was told.
	for range seamPasses {
		begun, settled := time.Now(), s.events.Settled()
		if settled == 0 {
			break // nothing has happened in this run yet
		}
		cut, err := s.cfg.History.Sync(ctx)
		if err != nil {
			return s.pastFailed(ctx, err, false)
		}
		m.next(q.After, settled, cut)
		q.UpTo = m.last
		if err := s.past(ctx, out, s.cfg.History.Events(ctx, q), nil, write); err != nil {
			return enough(err, out)
		}
		q.After = settled
		if time.Since(begun) < shortPass {
			break
		}
	}
	// And now the stream, and what was published before it began.
	settled := s.events.Settled()
	stream, err := s.subscribe(req, "events", a.Filter, a.Filter.Asked())
	if err != nil {
		return err
	}
	defer stream.close()
	ahead := &readAhead{from: stream}
	cut, err := ahead.during(ctx, s.cfg.History.Sync)
	if err != nil {
		return s.pastFailed(ctx, err, q.After > 0)
	}
	m.next(q.After, settled, cut)
	q.UpTo = m.last
	if err := s.past(ctx, out, s.cfg.History.Events(ctx, q), func() error { return ahead.take(ctx) }, write); err != nil {
		return enough(err, out)
	}
	for _, e := range ahead.events {
		if err := write(e); err != nil {
			return enough(err, out)
		}
	}
	ahead.events = nil
	left := 0
	if a.Limit > 0 {
		left = a.Limit - n
	}
	return s.follow(ctx, out, stream, left, m.again)
}

// A readAhead takes live events from their queue, which is short, while the last
// of what was there before is read from the disk.
type readAhead struct {
	from   *stream
	events []*event.Event
}

// take takes what is there.
func (r *readAhead) take(ctx context.Context) error {
	for len(r.events) < seamEvents && r.from.Buffered() {
		e, err := r.from.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil // it is said again when it is asked again
		case err != nil:
			return &clientGone{err}
		}
		r.events = append(r.events, e)
	}
	return nil
}

// during waits for sync and takes meanwhile.
func (r *readAhead) during(ctx context.Context, sync func(context.Context) (uint64, error)) (cut uint64, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		cut, err = sync(ctx)
	}()
	tick := time.NewTicker(pageTime)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return cut, err
		case <-tick.C:
			if err := r.take(ctx); err != nil {
				<-done
				return 0, err
			}
		}
	}
}

// errEnough ends an answer that has as many events as were asked for.
var errEnough = errors.New("enough")

func enough(err error, out *Writer) error {
	if errors.Is(err, errEnough) {
		return out.Flush()
	}
	return err
}

// lastEvents answers with the last limit events: those that are remembered, and
// where these are fewer, what the disk has of before.
func (s *Server) lastEvents(ctx context.Context, out *Writer, a Asked) error {
	recent := s.events.Recent()
	list := lastOf(recent, a.Filter, a.Limit)
	n := 0
	for _, e := range list {
		if !event.NoticeKinds.Has(e.Data.Kind()) {
			n++
		}
	}
	if s.cfg.History != nil && a.Limit > n && s.kept(a.Filter.Asked()) == nil {
		q := PastQuestion{Filter: a.Filter, Kinds: a.Filter.Asked(), Limit: a.Limit - n, Newest: true}
		if len(recent) > 0 {
			// Nothing is told twice; what was published late may be missing.
			first := slices.MinFunc(recent, func(a, b *event.Event) int { return cmp.Compare(a.Seq, b.Seq) })
			q.UpTo, q.Until = max(first.Seq-1, 1), first.Time // 0 would be no bound
		}
		if err := s.past(ctx, out, s.synced(ctx, q), nil, out.Event); err != nil {
			return err
		}
	}
	return writeRows(out, list, func(e *event.Event) time.Time { return e.Time })
}
