package store

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"warren/event"
	"warren/filter"
)

// A Query asks for events. The zero value asks for all.
type Query struct {
	Filter       *filter.Program // nil: all
	Since, Until time.Time       // zero: no bound; Until is not in it
	Kinds        event.KindSet   // 0: all
	// Limit is the most events that are told, 0: all. They are the first, or with
	// Newest the last; oldest is told first either way.
	Limit  int
	Newest bool
	// UpTo and After are bounds on evt.num, 0: none. They are about what this
	// program appended: what earlier runs did is in with UpTo and out with After.
	UpTo, After uint64
}

// span returns the times that are asked for, in nanoseconds since 1970: the last
// one is in it.
func (q *Query) span() (from, to int64) {
	from, to = math.MinInt64, math.MaxInt64
	if !q.Since.IsZero() {
		from = q.Since.UnixNano()
	}
	if !q.Until.IsZero() {
		to = q.Until.UnixNano() - 1
	}
	return from, to
}

// Query yields events by their time. Each is whole: its process, the ancestors of
// that and the container are what they were then. After an error nothing more
// comes; of what is damaged, the rest is told all the same.
func (s *Store) Query(ctx context.Context, q Query) iter.Seq2[*event.Event, error] {
	return func(yield func(*event.Event, error) bool) {
		r := &query{Query: q, ctx: ctx}
		r.from, r.to = q.span()
		r.kinds = event.AllKinds
		if q.Kinds != 0 {
			r.kinds = q.Kinds
		}
		if q.Filter != nil {
			r.kinds &= q.Filter.Kinds()
		}
		r.kinds &^= event.StateKinds
		segments := s.hold()
		defer release(segments)
		for _, g := range segments {
			r.add(g)
		}
		if q.Newest && q.Limit > 0 {
			r.newest(yield)
			return
		}
		r.oldest(yield)
	}
}

// hold returns the segments there are, which stay until they are released.
func (s *Store) hold() (held []*segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.segments {
		if g.hold() {
			held = append(held, g)
		}
	}
	return held
}

func release(segments []*segment) {
	for _, g := range segments {
		g.release()
	}
}

// A query is one that runs.
type query struct {
	Query
	ctx      context.Context
	from, to int64
	kinds    event.KindSet
	parts    []part
	found    found
}

// A part is a batch that may have some of what is asked for.
type part struct {
	frame
	g *segment
	l *lineage
}

func (q *query) add(g *segment) {
	if q.After > 0 && !g.own {
		return
	}
	frames := g.list(func(f *frame) bool {
		return f.typ == frameBatch && q.kinds.Has(f.kind) && f.maxTime >= q.from && f.minTime <= q.to &&
			(!g.own || (q.UpTo == 0 || f.minSeq <= q.UpTo) && f.maxSeq > q.After)
	})
	if len(frames) == 0 {
		return
	}
	l := newLineage(g)
	for _, f := range frames {
		q.parts = append(q.parts, part{f, g, l})
	}
}

// oldest tells from the oldest on. Of the batches, which overlap in time, those
// are open that have begun.
func (q *query) oldest(yield func(*event.Event, error) bool) {
	slices.SortStableFunc(q.parts, func(a, b part) int { return cmp.Compare(a.minTime, b.minTime) })
	told := 0
	for i := range q.parts {
		if !q.tell(q.parts[i].minTime, &told, yield) {
			return
		}
		if err := q.open(&q.parts[i]); err != nil {
			yield(nil, err)
			return
		}
	}
	q.tell(math.MaxInt64, &told, yield)
}

// tell tells what was found before a time.
func (q *query) tell(before int64, told *int, yield func(*event.Event, error) bool) bool {
	for len(q.found) > 0 && (q.found[0].time < before || before == math.MaxInt64) {
		if !yield(heap.Pop(&q.found).(hit).e, nil) {
			return false
		}
		if *told++; q.Limit > 0 && *told == q.Limit {
			return false
		}
	}
	return true
}

// newest tells the last ones.
func (q *query) newest(yield func(*event.Event, error) bool) {
	slices.SortStableFunc(q.parts, func(a, b part) int { return cmp.Compare(b.maxTime, a.maxTime) })
	for i := range q.parts {
		if len(q.found) == q.Limit && q.parts[i].maxTime < q.found[0].time {
			break
		}
		if err := q.open(&q.parts[i]); err != nil {
			yield(nil, err)
			return
		}
		for len(q.found) > q.Limit {
			heap.Pop(&q.found)
		}
	}
	told := 0
	q.tell(math.MaxInt64, &told, yield)
}

// open finds what is asked for in a batch.
func (q *query) open(p *part) error {
	if err := q.ctx.Err(); err != nil {
		return err
	}
	b, err := p.g.read(&p.frame, nil)
	if err != nil {
		return err
	}
	times, nums := b.Vector("evt.time"), b.Vector("evt.num")
	for i := range b.Rows {
		t, _ := times.Int(i)
		if t < q.from || t > q.to {
			continue
		}
		if n, _ := nums.Int(i); p.g.own && (q.UpTo != 0 && uint64(n) > q.UpTo || uint64(n) <= q.After && q.After != 0) {
			continue
		}
		process, err := p.l.process(b.Snapshot(i))
		if err != nil {
			return fmt.Errorf("process of an event: %w", err)
		}
		e := b.Event(i, process)
		if q.Filter == nil || q.Filter.Match(e) {
			heap.Push(&q.found, hit{t, e})
		}
	}
	return nil
}

// A hit is an event that is asked for.
type hit struct {
	time int64
	e    *event.Event
}

// found is a heap: what comes first, by time and number, lies on top.
type found []hit

func (f found) Len() int      { return len(f) }
func (f found) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f found) Less(i, j int) bool {
	return f[i].time < f[j].time || f[i].time == f[j].time && f[i].e.Seq < f[j].e.Seq
}
func (f *found) Push(x any) { *f = append(*f, x.(hit)) }
func (f *found) Pop() any {
	last := len(*f) - 1
	x := (*f)[last]
	(*f)[last] = hit{}
	*f = (*f)[:last]
	return x
}
