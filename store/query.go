package store

import (
	"cmp"
	"container/heap"
	"context"
	"iter"
	"math"
	"runtime"
	"slices"
	"sync"
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
	// Newest the last; oldest is told first either way. Notices of what is missing are
	// told too, and not counted, unless nothing else is asked for.
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
		from = nanos(q.Since)
	}
	if !q.Until.IsZero() {
		if to = nanos(q.Until); to > math.MinInt64 {
			to--
		}
	}
	return from, to
}

// nanos returns a time in nanoseconds since 1970. Those that are too far away for that
// are before everything, or after it.
func nanos(t time.Time) int64 {
	switch sec := t.Unix(); {
	case sec <= math.MinInt64/int64(time.Second):
		return math.MinInt64
	case sec >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// Query yields events by their time. Each is whole: its process, the ancestors of
// that and the container are what they were then. After an error nothing more
// comes; of what is damaged, the rest is told all the same.
//
// What is told is what was there when the sequence was begun: sealing and retention
// go on meanwhile, and take nothing away from it.
func (s *Store) Query(ctx context.Context, q Query) iter.Seq2[*event.Event, error] {
	return func(yield func(*event.Event, error) bool) {
		inner, cancel := context.WithCancel(ctx)
		r := newQuery(inner, q)
		defer func() {
			cancel()
			r.wait()
			r.release()
		}()
		if err := s.sources(r); err != nil {
			yield(nil, err)
			return
		}
		r.run(yield)
	}
}

// A query is one that runs.
type query struct {
	Query
	ctx      context.Context
	from, to int64
	plans    map[event.Kind]*plan
	leaves   processLeaves
	sources  []*source
	held     []func()
	rooms    rooms

	working sync.WaitGroup
}

func newQuery(ctx context.Context, q Query) *query {
	r := &query{Query: q, ctx: ctx, plans: map[event.Kind]*plan{}}
	r.from, r.to = q.span()
	kinds := event.AllKinds
	if q.Kinds != 0 {
		kinds = q.Kinds
	}
	for _, k := range (kinds &^ event.StateKinds).List() {
		if p := planFor(q.Filter, k, &r.leaves); p != nil {
			r.plans[k] = p
		}
	}
	return r
}

// kinds are those of which there can be events.
func (q *query) kinds() (kinds event.KindSet) {
	for k := range q.plans {
		kinds |= event.Kinds(k)
	}
	return kinds
}

func (q *query) release() {
	for _, fn := range q.held {
		fn()
	}
}

// wait waits for the goroutines of the query, which ctx has ended.
func (q *query) wait() { q.working.Wait() }

// A source is rows of one kind that may have some of what is asked for: a frame of a
// log, or a row group of a sealed file.
type source struct {
	plan     *plan
	min, max int64 // of evt.time; all rows lie between them
	own      bool
	// open reads what is needed to evaluate the plan. It is called once, by any
	// goroutine.
	open func(ctx context.Context) (*opened, error)
}

// opened is a source that has been evaluated.
type opened struct {
	rows  []int32 // that may match, by time
	times []int64 // of rows
	// load makes events of some rows. One goroutine at a time.
	load func(rows []int32) ([]*event.Event, error)
	// first are the events of the first rows, which are no more among rows.
	first []*event.Event
}

// bounded reports whether rows of a source have to be looked at for their number.
func (q *query) bounded(own bool) bool { return own && (q.UpTo != 0 || q.After != 0) }

// candidates evaluates a plan on n rows, in windows. Times and numbers are asked first:
// they say which windows matter.
func (q *query) candidates(ctx context.Context, p *plan, t tables, n, step int, inside, own bool) (*opened, error) {
	o := &opened{}
	e := evaluation{tables: t}
	timeCol, numCol := p.layout.Column("evt.time").Index, p.layout.Column("evt.num").Index
	until := p.layout.Column(columnUntil)
	sorted := true
	for from := 0; from < n; from += step {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		to := min(from+step, n)
		var set rowSet
		if !inside {
			v, err := t.view(timeCol, from, to)
			if err != nil {
				return nil, err
			}
			var ends *view
			if until != nil {
				if ends, err = t.view(until.Index, from, to); err != nil {
					return nil, err
				}
			}
			set = newRowSet(to-from, false)
			for i := range to - from {
				if v == nil || v.nums[i] > q.to {
					continue
				}
				if v.nums[i] >= q.from || ends != nil && (ends.null == nil || !ends.null[i]) && ends.nums[i] >= q.from {
					set[i/64] |= 1 << (i % 64)
				}
			}
			if set.empty() {
				continue
			}
		}
		if q.bounded(own) {
			v, err := t.view(numCol, from, to)
			if err != nil {
				return nil, err
			}
			if set == nil {
				set = newRowSet(to-from, true)
			}
			for i := range to - from {
				n := uint64(0)
				if v != nil {
					n = uint64(v.nums[i])
				}
				if q.UpTo != 0 && n > q.UpTo || n <= q.After && q.After != 0 {
					set[i/64] &^= 1 << (i % 64)
				}
			}
		}
		if p.root != nil {
			rows, err := e.rows(p.root, true, from, to, set)
			if err != nil {
				return nil, err
			}
			if set == nil {
				set = rows
			} else {
				set.and(rows)
			}
		}
		if set == nil {
			set = newRowSet(to-from, true)
		}
		before := len(o.rows)
		if o.rows = set.appendRows(o.rows, from); len(o.rows) == before {
			continue
		}
		v, err := t.view(timeCol, from, to)
		if err != nil {
			return nil, err
		}
		for _, row := range o.rows[before:] {
			at := int64(0)
			if v != nil {
				at = v.nums[int(row)-from]
			}
			sorted = sorted && (len(o.times) == 0 || at >= o.times[len(o.times)-1])
			o.times = append(o.times, at)
		}
	}
	if !sorted {
		o.sort()
	}
	return o, nil
}

func (o *opened) sort() {
	order := make([]int, len(o.rows))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(o.times[a], o.times[b]) })
	rows, times := make([]int32, len(order)), make([]int64, len(order))
	for i, k := range order {
		rows[i], times[i] = o.rows[k], o.times[k]
	}
	o.rows, o.times = rows, times
}

// run tells what the sources have, in order. Those ahead are evaluated by other
// goroutines meanwhile.
func (q *query) run(yield func(*event.Event, error) bool) {
	backwards := q.backwards()
	slices.SortStableFunc(q.sources, func(a, b *source) int {
		if backwards {
			return cmp.Compare(b.max, a.max)
		}
		return cmp.Compare(a.min, b.min)
	})
	out, told := yield, 0
	uncounted := event.NoticeKinds
	if q.kinds()&^uncounted == 0 {
		uncounted = 0
	}
	count := func(e *event.Event) {
		if !uncounted.Has(e.Data.Kind()) {
			told++
		}
	}
	var last []*event.Event
	if backwards {
		out = func(e *event.Event, err error) bool {
			if err != nil {
				return yield(nil, err)
			}
			last = append(last, e)
			count(e)
			return told < q.Limit
		}
	} else if q.Limit > 0 {
		out = func(e *event.Event, err error) bool {
			if err != nil {
				return yield(nil, err)
			}
			count(e)
			return yield(e, nil) && told < q.Limit
		}
	}
	if !q.merge(out, backwards) {
		return
	}
	for _, e := range slices.Backward(last) {
		if !yield(e, nil) {
			return
		}
	}
}

// ahead is how many sources are evaluated before they are needed.
const ahead = 4

// merge tells the events of all sources. It reports false after an error.
func (q *query) merge(yield func(*event.Event, error) bool, backwards bool) bool {
	next := q.evaluated()
	var open cursors
	open.backwards = backwards
	for i := 0; i < len(q.sources) || len(open.all) > 0; {
		// A source begins when everything before it has been told.
		if i < len(q.sources) && (len(open.all) == 0 || !open.before(q.sources[i])) {
			src := q.sources[i]
			i++
			o, err := next()
			if err == nil && len(o.rows) == 0 && len(o.first) == 0 {
				continue
			}
			c := &cursor{src: src, opened: o, filter: q.Filter, backwards: backwards, step: firstRows}
			if err == nil {
				c.events, o.first = o.first, nil
				err = c.fill()
			}
			if err != nil {
				yield(nil, err)
				return false
			}
			if len(c.events) > 0 {
				heap.Push(&open, c)
			}
			continue
		}
		c := open.all[0]
		if !yield(c.take(), nil) {
			return true
		}
		if len(c.events) == 0 {
			if q.ctx.Err() != nil {
				yield(nil, q.ctx.Err())
				return false
			}
			if err := c.fill(); err != nil {
				yield(nil, err)
				return false
			}
		}
		if len(c.events) == 0 {
			heap.Pop(&open)
		} else {
			heap.Fix(&open, 0)
		}
	}
	return true
}

// evaluated returns the sources one after the other, evaluated.
func (q *query) evaluated() func() (*opened, error) {
	type result struct {
		o   *opened
		err error
	}
	results := make([]chan result, len(q.sources))
	started, taken := 0, 0
	slots := make(chan struct{}, max(1, min(ahead, runtime.GOMAXPROCS(0))))
	start := func() {
		for started < len(q.sources) && started < taken+2*ahead {
			src, ch := q.sources[started], make(chan result, 1)
			results[started] = ch
			started++
			q.working.Go(func() {
				select {
				case slots <- struct{}{}:
				case <-q.ctx.Done():
					ch <- result{nil, q.ctx.Err()}
					return
				}
				o, err := src.open(q.ctx)
				if err == nil && len(o.rows) > 0 {
					err = q.loadFirst(o)
				}
				<-slots
				ch <- result{o, err}
			})
		}
	}
	return func() (*opened, error) {
		start()
		r := <-results[taken]
		results[taken] = nil
		taken++
		start()
		return r.o, r.err
	}
}

// firstRows is how many rows of a source are made events as soon as it is evaluated:
// mostly that is all of them, and done beside the other sources.
const firstRows = 64

func (q *query) loadFirst(o *opened) (err error) {
	n := min(firstRows, len(o.rows))
	if q.Limit > 0 {
		n = min(n, q.Limit)
	}
	var rows []int32
	if q.backwards() {
		rows, o.rows = o.rows[len(o.rows)-n:], o.rows[:len(o.rows)-n]
	} else {
		rows, o.rows = o.rows[:n], o.rows[n:]
	}
	events, err := o.load(rows)
	for _, e := range events {
		if q.Filter == nil || q.Filter.Match(e) {
			o.first = append(o.first, e)
		}
	}
	if q.backwards() {
		slices.Reverse(o.first)
	}
	return err
}

// backwards reports whether the latest events are looked for first.
func (q *query) backwards() bool { return q.Newest && q.Limit > 0 }

// A cursor tells the events of a source that match, in order.
type cursor struct {
	*opened
	src       *source
	filter    *filter.Program
	backwards bool
	step      int
	events    []*event.Event // the next ones
}

// maxStep is how many rows are made events at a time.
const maxStep = 512

// fill makes the next rows events, until there is one that matches, or no more.
func (c *cursor) fill() error {
	for len(c.events) == 0 && len(c.rows) > 0 {
		n := min(c.step, len(c.rows))
		c.step = min(2*c.step, maxStep)
		var rows []int32
		if c.backwards {
			rows, c.rows = c.rows[len(c.rows)-n:], c.rows[:len(c.rows)-n]
		} else {
			rows, c.rows = c.rows[:n], c.rows[n:]
		}
		events, err := c.load(rows)
		if err != nil {
			return err
		}
		for _, e := range events {
			if c.filter == nil || c.filter.Match(e) {
				c.events = append(c.events, e)
			}
		}
		if c.backwards {
			slices.Reverse(c.events)
		}
	}
	return nil
}

func (c *cursor) take() *event.Event {
	e := c.events[0]
	c.events[0] = nil
	c.events = c.events[1:]
	return e
}

// cursors is a heap of those that have an event.
type cursors struct {
	all       []*cursor
	backwards bool
}

// before reports whether the first event is to be told before all of a source.
func (h *cursors) before(s *source) bool {
	at := h.all[0].events[0].Time.UnixNano()
	if h.backwards {
		return at > s.max
	}
	return at < s.min
}

func (h *cursors) Len() int      { return len(h.all) }
func (h *cursors) Swap(i, j int) { h.all[i], h.all[j] = h.all[j], h.all[i] }
func (h *cursors) Less(i, j int) bool {
	a, b := h.all[i].events[0], h.all[j].events[0]
	c := a.Time.Compare(b.Time)
	if c == 0 {
		c = cmp.Compare(a.Seq, b.Seq)
	}
	if h.backwards {
		return c > 0
	}
	return c < 0
}
func (h *cursors) Push(x any) { h.all = append(h.all, x.(*cursor)) }
func (h *cursors) Pop() any {
	last := len(h.all) - 1
	x := h.all[last]
	h.all[last] = nil
	h.all = h.all[:last]
	return x
}

// sortedLoad makes load of a function that wants rows in ascending order.
func sortedLoad(load func(rows []int32) ([]*event.Event, error)) func(rows []int32) ([]*event.Event, error) {
	return func(rows []int32) ([]*event.Event, error) {
		if slices.IsSorted(rows) {
			return load(rows)
		}
		up := slices.Sorted(slices.Values(rows))
		events, err := load(up)
		if err != nil {
			return nil, err
		}
		out := make([]*event.Event, len(rows))
		for i, row := range rows {
			k, _ := slices.BinarySearch(up, row)
			out[i] = events[k]
		}
		return out, nil
	}
}
