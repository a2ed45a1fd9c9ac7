package hub

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"warren/api"
	"warren/event"
)

// A merger puts what several nodes tell into the order of time: rows, or flows.
// What one node tells stays in the order in which that node told it.
//
// The earliest row that is there can be passed on when no other node can still
// tell an earlier one. That is known of nodes whose last row, or clock, is later;
// of the others it is assumed once enough time has gone by. So a node that is
// idle, slow or dead holds nobody up for longer than that, and a row that comes
// later still is passed on late.
//
// Nodes' goroutines call the methods of their sources, one goroutine takes.
type merger[T any] struct {
	form  form[T]
	order order
	wait  time.Duration
	most  int // bytes that may wait
	pool  *pool
	count *mergeCount

	mu      sync.Mutex
	heads   sources[T] // those with rows: a heap
	idle    sources[T] // those without of which rows may come
	made    int        // sources that there ever were
	bytes   int
	room    sync.Cond // there is room again, or nobody who takes
	closed  bool
	notices []T   // our own rows, told before anything else
	last    int64 // key of the latest row that was taken

	wake chan struct{} // holds one element when there may be something to take
}

// A form is what a merger has to know of what it merges.
type form[T any] struct {
	time func(T) int64 // nanoseconds since 1970, by the clock of its node; 0 is the beginning
	size func(T) int   // bytes
	// kind and lost are for mergers that lose what there is no room for: of what
	// kind it was, and how that is told. Without lost, who brings waits.
	kind func(T) string
	lost func(l loss, at int64) T
	// untold says that a node told nothing for a time, by our clock. Without it that is
	// not said.
	untold func(node string, from, to int64) T
}

// order is how rows are compared.
type order uint8

const (
	// live is the order of streams: rows wait until nobody can tell an earlier
	// one, or until wait after they came.
	live order = iota
	// finite is the order of lists, which end: rows wait for nodes from which
	// nothing came yet, for wait.
	finite
)

// A pool is the memory that all mergers of a hub have together. Any goroutine may
// use it.
type pool struct {
	most int64
	held atomic.Int64
}

// fairBytes is what a merger may have however little is left in the pool.
const fairBytes = 1 << 20

// mergeCount counts what mergers pass on. Any goroutine may use it.
type mergeCount struct {
	rows  atomic.Uint64 // passed on
	lost  atomic.Uint64 // for which there was no room
	late  atomic.Uint64 // passed on after a later one of another node
	delay atomic.Int64  // for which rows waited, in sum, nanoseconds
}

// A source is one node's part in a merger.
type source[T any] struct {
	m     *merger[T]
	node  string     // set by who made it, before it is used
	id    int        // breaks ties
	rows  []entry[T] // from next on
	next  int
	place place

	key      int64     // of the last row that came
	frontier int64     // before which it tells nothing more
	heard    time.Time // when something last came, or was last taken
	away     bool      // nothing comes for now
	// told is when the node last said that it had told everything, by our clock; 0:
	// never. broken says that what happened since is not told.
	told   int64
	broken bool
	done   bool   // nothing comes any more
	lost   []loss // since the last row that found room
}

type entry[T any] struct {
	key, came int64
	row       T
}

// loss is how many rows of a kind found no room.
type loss struct {
	kind  string
	count uint64
}

// rowForm is that of rows of streams; those of lists are not lost.
func rowForm(o order) form[api.Row] {
	f := form[api.Row]{
		time: func(r api.Row) int64 { return r.Time },
		size: func(r api.Row) int { return len(r.JSON) },
	}
	if o == live {
		f.kind = func(r api.Row) string { return r.Kind }
		f.lost, f.untold = lostRow, untoldRow
	}
	return f
}

// untoldRow tells people that a node's stream broke off, and went on later.
func untoldRow(node string, from, to int64) api.Row {
	e := &event.Event{Time: time.Unix(0, from), Past: &event.Past{Host: event.NewHost("", node, "")},
		Data: &event.Lost{Type: "lost", Lane: "connection", Consumer: "hub", Until: time.Unix(0, to)}}
	return api.Row{Time: from, Kind: event.KindLost.String(), JSON: event.AppendJSON(nil, e)}
}

// lostRow tells people what was lost.
func lostRow(l loss, at int64) api.Row {
	e := &event.Event{Time: time.Unix(0, at), Data: &event.Lost{Type: "lost", Count: l.count, What: l.kind, Lane: "queue", Consumer: "hub"}}
	return api.Row{Time: at, Kind: event.KindLost.String(), JSON: event.AppendJSON(nil, e)}
}

// place is the list of its merger that a source is in.
type place uint8

const (
	nowhere place = iota
	inHeads
	inIdle
)

const (
	// grace is how far behind its clock a node may tell of something: when
	// little happens its reader looks every 50 ms.
	grace = 100 * time.Millisecond
	// mostLost is how many kinds of losses of one node are told apart.
	mostLost = 64
	// rowCost is what a row takes beside its JSON.
	rowCost = 96
)

func newMerger[T any](f form[T], o order, wait time.Duration, most int, p *pool, count *mergeCount) *merger[T] {
	m := &merger[T]{form: f, order: o, wait: wait, most: most, pool: p, count: count, last: math.MinInt64, wake: make(chan struct{}, 1)}
	m.room.L = &m.mu
	return m
}

// source adds a node.
func (m *merger[T]) source(now time.Time) *source[T] {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &source[T]{m: m, id: m.made, key: math.MinInt64, frontier: math.MinInt64, heard: now}
	m.made++
	s.settle()
	return s
}

// notice passes on a row of our own, before all others.
func (m *merger[T]) notice(r T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notices = append(m.notices, r)
	m.signal()
}

// close says that nobody takes any more.
func (m *merger[T]) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.room.Broadcast()
	m.hold(-m.bytes)
}

// hold takes memory, or gives it back.
func (m *merger[T]) hold(n int) {
	m.bytes += n
	m.pool.held.Add(int64(n))
}

// full reports whether there is no room for size bytes more.
func (m *merger[T]) full(size int) bool {
	return m.bytes+size > m.most || m.bytes+size > fairBytes && m.pool.held.Load()+int64(size) > m.pool.most
}

// crowded reports whether half of the room is taken.
func (m *merger[T]) crowded() bool {
	return m.bytes > m.most/2 || m.bytes > fairBytes/2 && m.pool.held.Load() > m.pool.most/2
}

// signal wakes who takes, unless it is awake already.
func (m *merger[T]) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// push takes in rows that came at now, when the node's clock was clock, in
// nanoseconds since 1970; 0 is not known. correction is taken from the node's
// times. Where nothing is to be lost it returns when there was room for all.
func (s *source[T]) push(rows []T, clock int64, correction time.Duration, now time.Time) {
	m := s.m
	m.mu.Lock()
	defer m.mu.Unlock()
	s.away, s.heard = false, now
	if m.closed {
		return // what were added now nobody would give back to the pool
	}
	came := now.UnixNano()
	if s.broken {
		s.broken = false
		if s.told != 0 && m.form.untold != nil {
			s.add(s.told, came, m.form.untold(s.node, s.told, max(s.told, clock-int64(correction))))
		}
	}
	for _, r := range rows {
		size := m.form.size(r) + rowCost
		// One row of each node finds room always: the others wait for it.
		for s.next < len(s.rows) && m.form.lost == nil && m.full(size) && !m.closed {
			s.settle()
			m.signal()
			m.room.Wait()
		}
		if m.closed {
			return
		}
		if m.form.lost != nil {
			if m.bytes > 0 && m.full(size) {
				s.lose(m.form.kind(r))
				continue
			}
			s.tellLost(came)
		}
		t := m.form.time(r)
		if t != 0 {
			t -= int64(correction)
		}
		s.add(t, came, r)
	}
	if clock != 0 {
		s.told = clock - int64(correction)
		s.frontier = max(s.frontier, min(clock-int64(correction)-int64(grace), came))
	}
	s.settle()
	m.signal()
}

// add appends a row of time t by our clock. It is ordered not after it came, and
// not before what its node told earlier.
func (s *source[T]) add(t, came int64, r T) {
	s.key = max(s.key, min(t, came))
	s.frontier = max(s.frontier, s.key)
	s.rows = append(s.rows, entry[T]{s.key, came, r})
	s.m.hold(s.m.form.size(r) + rowCost)
}

func (s *source[T]) lose(kind string) {
	s.m.count.lost.Add(1)
	for i := range s.lost {
		if s.lost[i].kind == kind {
			s.lost[i].count++
			return
		}
	}
	if len(s.lost) >= mostLost { // no agent knows as many
		s.lost[0].count++
		return
	}
	s.lost = append(s.lost, loss{kind, 1})
}

// tellLost tells what was lost, in the place where it is missing.
func (s *source[T]) tellLost(came int64) {
	for _, l := range s.lost {
		s.add(s.key, came, s.m.form.lost(l, came))
	}
	s.lost = s.lost[:0]
}

// pause says that nothing comes from the node for now, and what happens meanwhile is
// not told later.
func (s *source[T]) pause() {
	if s == nil {
		return
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.away, s.broken = true, true
	s.m.signal()
}

// resume says that what comes next goes on where the node broke off.
func (s *source[T]) resume() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.broken = false
}

// follows says that another source of the same node is over, which s goes on for.
func (s *source[T]) follows(old *source[T]) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.told, s.broken = old.told, true
}

// end says that the node has told all that it had to tell. It may be called
// again.
func (s *source[T]) end() {
	if s == nil {
		return
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.done = true
	s.settle()
	s.m.signal()
}

// settle puts a source into the list in which it belongs.
func (s *source[T]) settle() {
	want := nowhere
	switch {
	case s.next < len(s.rows):
		want = inHeads
	case !s.done:
		want = inIdle
	default: // nothing comes any more; one that follows wants to know no more than told
		s.rows, s.next = nil, 0
	}
	if s.place == want {
		return
	}
	switch m := s.m; s.place {
	case inIdle:
		m.idle.remove(s)
	case inHeads:
		m.heads.pop() // it is first: only who takes makes it empty
	}
	switch m := s.m; want {
	case inIdle:
		m.idle = append(m.idle, s)
	case inHeads:
		m.heads.push(s)
	}
	s.place = want
}

// take appends to rows those whose turn has come, but for notices not more than
// most in all. It returns when to ask again though nobody wakes; zero is never.
func (m *merger[T]) take(rows []T, most int, now time.Time) (_ []T, again time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rows = append(rows, m.notices...)
	m.notices = nil
	// What nobody can tell an earlier one than, and what waited long enough.
	free, again := m.free(now)
	due, until := m.due(now)
	again = earlier(again, until)
	taken, late, delay := 0, 0, int64(0)
	defer func() { m.taken(taken, late, delay) }()
	for len(m.heads) > 0 {
		s := m.heads[0]
		e := &s.rows[s.next]
		if len(rows) >= most {
			return rows, now
		}
		// When much waits: better out of order than held back for long.
		if e.key > max(free, due) && (m.order == finite || !m.crowded()) {
			return rows, again
		}
		if taken++; e.key < m.last {
			late++
		}
		delay += now.UnixNano() - e.came
		m.last = max(m.last, e.key)
		rows = append(rows, e.row)
		m.hold(-m.form.size(e.row) - rowCost)
		s.drop()
		if s.next < len(s.rows) {
			m.heads.fix()
			d, until := s.due(now)
			due, again = max(due, d), earlier(again, until)
			continue
		}
		s.heard = now
		s.settle()
		if s.place == inIdle {
			key, until := s.holds(now)
			free, again = min(free, key), earlier(again, until)
		}
	}
	return rows, m.lossesDue(now)
}

// taken counts rows that were taken, for which there is room now.
func (m *merger[T]) taken(n, late int, delay int64) {
	if n == 0 {
		return
	}
	m.count.rows.Add(uint64(n))
	m.count.late.Add(uint64(late))
	m.count.delay.Add(delay)
	m.room.Broadcast()
}

// lossesDue tells losses of sources from which nothing came since. It is called
// when nothing waits any more, and returns when to take what it tells.
func (m *merger[T]) lossesDue(now time.Time) (again time.Time) {
	for i := len(m.idle) - 1; i >= 0; i-- { // those that have rows leave the list
		if s := m.idle[i]; len(s.lost) > 0 {
			s.tellLost(now.UnixNano())
			s.settle()
			again = now
		}
	}
	return again
}

// free returns the key up to which rows can be passed on because no node will
// tell an earlier one, and when that changes by itself.
func (m *merger[T]) free(now time.Time) (key int64, again time.Time) {
	key = math.MaxInt64
	for _, s := range m.idle {
		k, until := s.holds(now)
		key, again = min(key, k), earlier(again, until)
	}
	return key, again
}

// holds returns the key behind which rows have to wait for a source without
// rows, and until when.
func (s *source[T]) holds(now time.Time) (key int64, until time.Time) {
	switch {
	case s.away:
		return math.MaxInt64, time.Time{}
	case s.m.order == live:
		return s.frontier, time.Time{} // rows say themselves for how long
	}
	if until = s.heard.Add(s.m.wait); now.Before(until) {
		return math.MinInt64, until
	}
	return math.MaxInt64, time.Time{}
}

// due returns the key up to which rows have waited long enough, and when that
// changes by itself.
func (m *merger[T]) due(now time.Time) (key int64, again time.Time) {
	key = math.MinInt64
	if m.order == live {
		for _, s := range m.heads {
			k, until := s.due(now)
			key, again = max(key, k), earlier(again, until)
		}
	}
	return key, again
}

// due returns the key of the first row if it has waited long enough, and
// otherwise when it has.
func (s *source[T]) due(now time.Time) (key int64, until time.Time) {
	if s.m.order != live {
		return math.MinInt64, time.Time{}
	}
	e := &s.rows[s.next]
	if until = time.Unix(0, e.came).Add(s.m.wait); now.Before(until) {
		return math.MinInt64, until
	}
	return e.key, time.Time{}
}

// earlier returns the earlier of two times that may be zero, which is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// drop forgets the first row.
func (s *source[T]) drop() {
	s.rows[s.next] = entry[T]{}
	s.next++
	const few = 1024
	switch {
	case s.next == len(s.rows) && cap(s.rows) > few:
		s.rows, s.next = nil, 0
	case s.next == len(s.rows):
		s.rows, s.next = s.rows[:0], 0
	case s.next >= few && s.next*2 >= len(s.rows):
		n := copy(s.rows, s.rows[s.next:])
		clear(s.rows[n:])
		s.rows, s.next = s.rows[:n], 0
	}
}

// sources is a heap by the key of the first row, or any list.
type sources[T any] []*source[T]

func (h sources[T]) less(i, j int) bool {
	a, b := h[i], h[j]
	ka, kb := a.rows[a.next].key, b.rows[b.next].key
	return ka < kb || ka == kb && a.id < b.id
}

func (h *sources[T]) push(s *source[T]) {
	*h = append(*h, s)
	q := *h
	for i := len(q) - 1; i > 0; {
		parent := (i - 1) / 2
		if !q.less(i, parent) {
			return
		}
		q[i], q[parent] = q[parent], q[i]
		i = parent
	}
}

// pop takes the first out.
func (h *sources[T]) pop() {
	q := *h
	last := len(q) - 1
	q[0], q[last] = q[last], nil
	*h = q[:last]
	if last > 0 {
		h.fix()
	}
}

// fix puts the first where it belongs.
func (h sources[T]) fix() {
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h); child++ {
			if h.less(child, least) {
				least = child
			}
		}
		if least == i {
			return
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}

// remove takes s out of a list that is no heap.
func (h *sources[T]) remove(s *source[T]) {
	q := *h
	for i, o := range q {
		if o == s {
			last := len(q) - 1
			q[i], q[last] = q[last], nil
			*h = q[:last]
			return
		}
	}
}
