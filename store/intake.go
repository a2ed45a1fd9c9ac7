package store

import (
	"context"
	"slices"
	"sync"
	"time"

	"warren/event"
)

// An intake holds the events that came and are not encoded yet.
type intake struct {
	mu     sync.Mutex
	events []*event.Event
	// cuts are places in events over which nothing is collapsed; a held stretch,
	// in which nothing is, lies between an even one and the next.
	cuts     []cut
	holds    int
	taken    int // that are not encoded yet either
	most     int
	critical bool
	last     uint64 // evt.num of the latest
	lost     loss
}

// A cut is a place between two events. Behind a held one nothing is collapsed.
type cut struct {
	at   int
	held bool
}

// loss is what there was no room for.
type loss struct {
	count uint64
	kinds event.KindSet
	last  *event.Event
}

// Append gives the history an event, which nobody changes any more. It never
// waits: what there is no room for is counted, and told of later. One goroutine
// at a time.
func (s *Store) Append(e *event.Event) {
	k := e.Data.Kind()
	if event.LayoutOf(k) == nil || k == event.KindProcess {
		return // tells tables what they need, and nobody else
	}
	if k != event.KindLost { // which is of a time before
		s.watchClock(e)
	}
	in := &s.in
	in.mu.Lock()
	in.last = max(in.last, e.Seq)
	if len(in.events)+in.taken >= in.most {
		in.lost.add(e)
		in.mu.Unlock()
		return
	}
	in.events = append(in.events, e)
	rouse := len(in.events) == maxBatch
	if critical(e) {
		in.critical, rouse = true, true
	}
	in.mu.Unlock()
	if rouse {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (l *loss) add(e *event.Event) {
	if d, ok := e.Data.(*event.Lost); ok {
		l.count += d.Count // or what it tells would be lost besides
	} else {
		l.count += e.Times()
	}
	l.kinds |= event.Kinds(e.Data.Kind())
	l.last = e
}

// critical reports whether an event is to be on the disk at once: those of which
// an attacker would want that nobody finds them.
func critical(e *event.Event) bool {
	switch d := e.Data.(type) {
	case *event.Credentials, *event.Namespace, *event.Mount:
		return true
	case *event.Syscall:
		return d.Call != nil && d.Call.Critical && d.Res == 0
	}
	return false
}

// cutHere closes what collapsing has open. The caller holds in.mu.
func (in *intake) cutHere() {
	in.cuts = append(in.cuts, cut{len(in.events), in.holds > 0})
}

// Hold makes the events that are appended until release is called rows of their
// own, with their own numbers, which nothing is added to. Any goroutine may ask,
// and several at a time.
func (s *Store) Hold() (release func()) {
	in := &s.in
	in.mu.Lock()
	in.holds++
	in.cutHere()
	in.mu.Unlock()
	return sync.OnceFunc(func() {
		in.mu.Lock()
		in.holds--
		in.cutHere()
		in.mu.Unlock()
	})
}

// Sync lets Query find all events that have been appended, and returns the number
// of the latest of them, or seq where that is later. No row that is found
// stands for events on both sides of that moment. The caller sees to it that all
// events up to seq have been appended.
func (s *Store) Sync(ctx context.Context, seq uint64) (uint64, error) {
	s.in.mu.Lock()
	s.in.cutHere()
	last := max(seq, s.in.last)
	s.in.mu.Unlock()
	for {
		critical, all := s.flush(false)
		if critical {
			s.in.mu.Lock()
			s.in.critical = true // Run sees to it that it is on the disk at once
			s.in.mu.Unlock()
			select {
			case s.wake <- struct{}{}:
			default:
			}
		}
		// What there was no room for has some when what is before it is written. A disk
		// that takes nothing keeps nobody from what there is: Status tells of it.
		if all || ctx.Err() != nil || s.active() == nil || s.writeOut() != nil {
			return last, ctx.Err()
		}
	}
}

// take returns what waits, in stretches: what is collapsed, and what is not.
func (in *intake) take(spare []*event.Event) (events []*event.Event, cuts []cut, lost loss, critical bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	events, in.events = in.events, spare[:0]
	cuts, in.cuts = in.cuts, nil
	if in.holds > 0 {
		in.cuts = append(in.cuts, cut{0, true})
	}
	lost, in.lost = in.lost, loss{}
	in.taken = len(events)
	critical, in.critical = in.critical, false
	return events, cuts, lost, critical
}

// flush makes frames of all that has been appended, which Query finds from then
// on; with write it writes them, piece by piece: however much came, what is
// oldest is safe soon. It reports whether some of it is critical, and whether there
// was room for all.
func (s *Store) flush(write bool) (critical, all bool) {
	for taken := false; ; {
		more, c, ok := s.flushSome(&taken)
		critical = critical || c
		if !ok || !more && taken {
			return critical, ok
		}
		if write && more {
			if err := s.writeOut(); err != nil {
				s.failed(dutyWrite, err)
			}
		}
	}
}

// flushSome makes frames of the next events. It reports whether there are more,
// and whether there is somewhere to put them.
func (s *Store) flushSome(taken *bool) (more, critical, ok bool) {
	s.encoding.Lock()
	defer s.encoding.Unlock()
	g := s.active()
	if g == nil || g.pending() > s.cfg.maxPending {
		return false, false, false // Append counts what there is no room for
	}
	if len(s.todo) == 0 && !*taken {
		*taken = true
		critical = s.take()
	}
	part := s.todo[:min(len(s.todo), maxBatch)]
	if len(part) > 0 {
		n := s.encodeRows(g, part)
		s.mu.Lock()
		s.state.events += n
		s.state.rows += uint64(len(part))
		s.mu.Unlock()
		clear(part)
		s.todo = s.todo[len(part):]
	}
	s.in.mu.Lock()
	s.in.taken = len(s.todo)
	s.in.mu.Unlock()
	return len(s.todo) > 0 || !*taken, critical, true
}

// take moves what waits to what is to be encoded, collapsed.
func (s *Store) take() (critical bool) {
	events, cuts, lost, critical := s.in.take(s.spare)
	s.spare = events[:0]
	var rows []*event.Event
	if len(cuts) == 0 {
		rows = s.collapse.run(events)
	} else {
		rows = s.stretches(events, cuts)
	}
	if lost.count > 0 {
		rows = append(rows, lost.event())
		s.mu.Lock()
		s.state.lost += lost.count
		s.mu.Unlock()
	}
	s.todo = rows
	return critical
}

// stretches collapses events between cuts.
func (s *Store) stretches(events []*event.Event, cuts []cut) []*event.Event {
	n, at, held := 0, 0, false
	for _, c := range append(cuts, cut{len(events), false}) {
		part := events[at:c.at]
		if !held {
			part = s.collapse.run(part)
		}
		n += copy(events[n:], part)
		at, held = c.at, c.held
	}
	return events[:n]
}

// event tells of a loss.
func (l *loss) event() *event.Event {
	return &event.Event{Time: l.last.Time, Ktime: l.last.Ktime, Seq: l.last.Seq,
		Data: &event.Lost{Type: "lost", Count: l.count, What: l.kinds.String(), Lane: "disk", Consumer: "history"}}
}

// encodeRows makes frames of at most maxBatch events: first the snapshots that they
// refer to. It returns how many events the rows stand for, those apart that tell of
// losses.
func (s *Store) encodeRows(g *segment, rows []*event.Event) (events uint64) {
	for _, e := range rows {
		k := e.Data.Kind()
		if len(s.byKind[k]) == 0 {
			s.order = append(s.order, k)
		}
		s.byKind[k] = append(s.byKind[k], e)
	}
	slices.Sort(s.order)
	for _, k := range s.order {
		s.refer(s.byKind[k])
		s.appendProcesses(g)
		if n := s.appendEvents(g, k, s.byKind[k], &s.refs); k != event.KindLost {
			events += n
		}
		clear(s.byKind[k])
		s.byKind[k] = s.byKind[k][:0]
	}
	s.order = s.order[:0]
	s.build.clear()
	return events
}

// refer makes s.refs those of events, numbering snapshots that have no number yet.
func (s *Store) refer(events []*event.Event) {
	r := &s.refs
	r.reset()
	s.batches++
	var last *event.Process
	var n snapshot
	code := uint32(0)
	for _, e := range events {
		if e.Process != last {
			last = e.Process
			n, code = s.snaps.number(last, e.Time.UnixNano()), 0
			if name := n.name; name != nil {
				if name.batch != s.batches {
					name.batch, name.code = s.batches, uint32(len(r.ids))
					r.ids = append(r.ids, name.id)
				}
				code = name.code
			}
		}
		r.snapshot = append(r.snapshot, n.number)
		r.codes = append(r.codes, code)
	}
}

// appendEvents makes a frame of events of a kind, or several. It returns how many
// events the rows stand for.
func (s *Store) appendEvents(g *segment, k event.Kind, rows []*event.Event, r *refs) (events uint64) {
	b := s.build.events(event.LayoutOf(k), s.host, rows, r)
	info := infoOf(b)
	if s.appendBatch(g, b, info) {
		return info.events
	}
	half := len(rows) / 2
	return s.appendEvents(g, k, rows[:half], r.part(0, half)) + s.appendEvents(g, k, rows[half:], r.part(half, len(rows)))
}

// infoOf says what there is to know of a batch of events. Where a row has no value,
// that is 0.
func infoOf(b *Batch) frameInfo {
	info := frameInfo{schema: ownHashes()[b.Layout.Kind], rows: b.Rows}
	if v := b.Vector("evt.time"); v != nil {
		info.minTime, info.maxTime = slices.Min(v.Ints), slices.Max(v.Ints)
	}
	for _, end := range []string{"evt.time_last", "lost.until"} {
		if v := b.Vector(end); v != nil {
			info.maxTime = max(info.maxTime, slices.Max(v.Ints))
		}
	}
	if v := b.Vector("evt.num"); v != nil {
		info.minSeq, info.maxSeq = uint64(slices.Min(v.Ints)), uint64(slices.Max(v.Ints))
	}
	for _, n := range b.Vector("evt.count").Ints {
		info.events += uint64(n)
	}
	return info
}

// appendProcesses makes frames of the snapshots that have been numbered.
func (s *Store) appendProcesses(g *segment) {
	t := &s.snaps
	for i := 0; i < len(t.rows); i += maxProcesses {
		j := min(i+maxProcesses, len(t.rows))
		s.appendSnapshots(g, t.rows[i:j], t.refs.part(i, j))
	}
	t.written()
}

func (s *Store) appendSnapshots(g *segment, rows []*event.Process, r *refs) {
	n := len(rows)
	b := s.build.processes(s.host, rows, r)
	info := frameInfo{schema: ownHashes()[event.KindProcess], rows: n,
		minTime: slices.Min(r.time), maxTime: slices.Max(r.time), minSeq: uint64(r.snapshot[0]), maxSeq: uint64(r.snapshot[n-1])}
	if !s.appendBatch(g, b, info) {
		s.appendSnapshots(g, rows[:n/2], r.part(0, n/2))
		s.appendSnapshots(g, rows[n/2:], r.part(n/2, n))
	}
}

// appendBatch makes a frame of a batch. It reports false for one that is too
// large, and has more rows than one.
func (s *Store) appendBatch(g *segment, b *Batch, info frameInfo) bool {
	var head [headSize]byte
	front := info.append(append(s.body[:0], head[:]...))
	s.body = s.encode.appendBatch(append(front, plain), b)
	body := s.body[len(front)+1:]
	if len(body) > splitAt && b.Rows > 1 {
		return false
	}
	data := s.body
	if 2*s.encode.texts >= len(body) {
		s.room = appendPacked(append(s.room[:0], s.body[:len(front)]...), body)
		data = s.room
	}
	data = slices.Clone(data)
	k := b.Layout.Kind
	sealFrame(data, 0, frameBatch, k)
	g.add(frame{typ: frameBatch, kind: k, frameInfo: info}, data)
	if cap(s.body) > 2*splitAt {
		s.body, s.room = nil, nil
	}
	return true
}

// watchClock counts how often the clock was set back: events keep the times they
// came with. What tells is how far the wall clock is from the one that nobody sets:
// events that come late are of the past, and the clock was not set. Those without a
// time of the kernel tell nothing: they can be of another machine's clock, as what
// API servers tell is. Only Append calls it.
func (s *Store) watchClock(e *event.Event) {
	if e.Ktime == 0 {
		return
	}
	ahead := e.Time.UnixNano() - int64(e.Ktime)
	if back := s.lastAhead - ahead; s.lastAhead != 0 && back > int64(stepBack) {
		s.mu.Lock()
		s.state.clockSteps++
		s.mu.Unlock()
		s.log.Warn("history: the clock was set back", "by", time.Duration(back))
	}
	s.lastAhead = ahead
}
