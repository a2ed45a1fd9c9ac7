package store

import (
	"cmp"
	"context"
	"encoding/base64"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"warren/event"
)

// lifeKinds are events by which processes come, change and go.
var lifeKinds = event.Kinds(event.KindFork, event.KindExec, event.KindExit, event.KindCredentials, event.KindNamespace)

// Processes yields the processes that lived at a time, those that began first at
// first, as they were then: the table of what lived when a segment began, and
// what events say of the time since. A process that did nothing that is kept
// between its birth and at is missing. The error is a *[NoTableError] where no table is
// as old.
func (s *Store) Processes(ctx context.Context, at time.Time) iter.Seq2[*event.Process, error] {
	return func(yield func(*event.Process, error) bool) {
		living, err := s.living(ctx, at)
		if err != nil {
			yield(nil, err)
			return
		}
		list := slices.SortedFunc(maps.Values(living), func(a, b *event.Process) int {
			return cmp.Or(cmp.Compare(a.Key.Start, b.Key.Start), cmp.Compare(a.Key.PID, b.Key.PID))
		})
		for _, p := range list {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// A NoTableError says that nothing in the history tells which processes lived at a time.
type NoTableError struct {
	First time.Time // of the oldest table that can be read; zero: there is none
	// Unread says that what is older, and has one or may have, cannot be read: mostly
	// because it is damaged.
	Unread bool
}

// Error implements error.
func (e *NoTableError) Error() string {
	first := e.First.Format(time.RFC3339Nano)
	switch {
	case e.First.IsZero() && e.Unread:
		return "no list of the processes that lived can be read of what is kept"
	case e.First.IsZero():
		return "no list of the processes that lived is kept"
	case e.Unread:
		return "the oldest list of the processes that lived that can be read is of " + first + "; what is older cannot be read"
	}
	return "the oldest list of the processes that lived is of " + first
}

// tableLag is how long before a table events are looked for that it may not have
// in it: what the kernel has told, and nobody has read yet.
const tableLag = 500 * time.Millisecond

// living returns the processes that lived at a time.
func (s *Store) living(ctx context.Context, at time.Time) (map[event.Key]*event.Process, error) {
	t, err := s.tableBefore(ctx, at)
	if err != nil {
		return nil, err
	}
	living := t.living
	for e, err := range s.Query(ctx, Query{Since: t.began.Add(-tableLag), Until: at.Add(1), Kinds: lifeKinds}) {
		if err != nil {
			return nil, err
		}
		switch {
		case e.Process == nil:
		case e.Data.Kind() == event.KindExit, e.Process.Exited != nil:
			delete(living, e.Process.Key)
		case e.Time.Before(t.began) && living[e.Process.Key] != nil: // the table's is later
		default:
			living[e.Process.Key] = e.Process
		}
	}
	return living, nil
}

// tableBefore reads the latest table of processes that is not after at, and whole; where
// all are damaged, the latest. The error is a *NoTableError where there is none: what
// events alone tell is a part, and to find it all of them would be read.
func (s *Store) tableBefore(ctx context.Context, at time.Time) (*lifeTable, error) {
	q := newQuery(ctx, Query{})
	defer q.release()
	s.opening.RLock()
	defer s.opening.RUnlock()
	var part *lifeTable
	none := &NoTableError{}
	for t, err := range s.lifeTables(q) {
		if err != nil {
			return nil, err
		}
		err := t.read(ctx, at)
		switch {
		case err != nil && !isDamage(err):
			return nil, err
		case err != nil:
			t.damaged(err)
			none.Unread = true
			if part == nil && t.living != nil {
				part = t
			}
		case t.living != nil:
			return t, nil
		default:
			none = &NoTableError{First: t.began}
		}
	}
	if part == nil {
		return nil, none
	}
	return part, nil
}

// A lifeTable is a table of the processes that lived when a segment began, or were known
// later.
type lifeTable struct {
	payload []byte
	unread  error                                            // why there is no payload
	load    func(ctx context.Context, numbers []int64) error // makes snapshots known, all at once
	process func(ctx context.Context, number int64) (*event.Process, error)
	damaged func(err error) // says so, once

	// As read has found it:
	began  time.Time
	living map[event.Key]*event.Process // nil where the table is later than at
}

// read reads the table, unless it is later than at. Where the error is damage, what can
// be read is there.
func (t *lifeTable) read(ctx context.Context, at time.Time) error {
	if t.unread != nil {
		return t.unread
	}
	ns, numbers, err := readTable(t.payload)
	if err != nil {
		return err
	}
	if t.began = time.Unix(0, ns); t.began.After(at) {
		return nil
	}
	t.living = map[event.Key]*event.Process{}
	if err := t.load(ctx, numbers); err != nil {
		return err
	}
	var damage error
	for _, n := range numbers {
		p, err := t.process(ctx, n)
		switch {
		case err != nil && !isDamage(err):
			return err
		case err != nil:
			damage = err
		case p == nil:
			damage = corrupt("a process that lived is not there")
		default:
			t.living[p.Key] = p
		}
	}
	return damage
}

// lifeTables yields the tables of processes, the latest first: logs are later than what
// is sealed.
func (s *Store) lifeTables(q *query) iter.Seq2[*lifeTable, error] {
	logs, files := s.everything(q)
	return func(yield func(*lifeTable, error) bool) {
		for _, g := range slices.Backward(logs) {
			tables := g.list(func(f *frame) bool { return f.typ == frameTable })
			for i := range slices.Backward(tables) {
				f := &tables[i]
				payload, err := g.payload(f)
				t := &lifeTable{
					payload: payload, unread: err, process: newLineage(g).process,
					load:    func(context.Context, []int64) error { return nil },
					damaged: func(err error) { s.damagedFrame(g, f, err) },
				}
				if !yield(t, nil) {
					return
				}
			}
		}
		for _, f := range slices.Backward(files) {
			if f.Kind == event.KindProcess && !s.sealedTables(q, f, yield) {
				return
			}
		}
	}
}

// sealedTables yields the tables of a sealed file, as lifeTables does, and reports
// whether more are wanted.
func (s *Store) sealedTables(q *query, f *sealed, yield func(*lifeTable, error) bool) bool {
	if err := q.ctx.Err(); err != nil {
		yield(nil, err)
		return false
	}
	file, err := s.openSealed(q, f)
	if err != nil {
		yield(nil, err)
		return false
	}
	damaged := func(err error) { s.damagedPart(f, err) }
	if file == nil {
		unread := f.unread()
		return unread == nil || yield(&lifeTable{unread: corrupt("%v", unread), damaged: damaged}, nil)
	}
	if file.keys[keyLiving] == "" {
		return true
	}
	for _, text := range slices.Backward(strings.Split(file.keys[keyLiving], ",")) {
		payload, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			err = corrupt("a list of processes: %v", err)
		}
		l := newSealedLineage(file)
		if !yield(&lifeTable{payload: payload, unread: err, process: l.process, load: l.load, damaged: damaged}, nil) {
			return false
		}
	}
	return true
}
