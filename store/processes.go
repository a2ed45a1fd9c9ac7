package store

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
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
	First time.Time // of the oldest table; zero: there is none
}

// Error implements error.
func (e *NoTableError) Error() string {
	if e.First.IsZero() {
		return "no list of the processes that lived is kept"
	}
	return "the oldest list of the processes that lived is of " + e.First.Format(time.RFC3339)
}

// tableLag is how long before a table events are looked for that it may not have
// in it: what the kernel has told, and nobody has read yet.
const tableLag = 500 * time.Millisecond

// living returns the processes that lived at a time.
func (s *Store) living(ctx context.Context, at time.Time) (map[event.Key]*event.Process, error) {
	living := map[event.Key]*event.Process{}
	began, found, err := s.tableBefore(ctx, at, living)
	if err != nil {
		return nil, err
	}
	if !found {
		// What events alone tell is a part, and to find it all of them would be read.
		return nil, &NoTableError{began}
	}
	for e, err := range s.Query(ctx, Query{Since: began.Add(-tableLag), Until: at.Add(1), Kinds: lifeKinds}) {
		if err != nil {
			return nil, err
		}
		switch {
		case e.Process == nil:
		case e.Data.Kind() == event.KindExit, e.Process.Exited != nil:
			delete(living, e.Process.Key)
		case e.Time.Before(began) && living[e.Process.Key] != nil: // the table's is later
		default:
			living[e.Process.Key] = e.Process
		}
	}
	return living, nil
}

// tableBefore reads the latest table of processes that is not after at. Where there is
// none it returns the time of the oldest.
func (s *Store) tableBefore(ctx context.Context, at time.Time, living map[event.Key]*event.Process) (began time.Time, found bool, err error) {
	q := newQuery(ctx, Query{})
	defer q.release()
	s.opening.RLock()
	defer s.opening.RUnlock()
	logs, files := s.everything(q)
	// The latest first: logs are later than what is sealed.
	for _, g := range slices.Backward(logs) {
		tables := g.list(func(f *frame) bool { return f.typ == frameTable })
		for i := range slices.Backward(tables) {
			payload, err := g.payload(&tables[i])
			if errors.Is(err, errFrame) {
				continue
			}
			if err != nil {
				return began, false, err
			}
			of, ok, err := fill(living, payload, at, newLineage(g).process)
			switch {
			case isDamage(err):
				continue
			case ok || err != nil:
				return of, ok, err
			}
			began = of
		}
	}
	for _, f := range slices.Backward(files) {
		if f.Kind != event.KindProcess {
			continue
		}
		if err := ctx.Err(); err != nil {
			return began, false, err
		}
		file, err := s.openSealed(q, f)
		if err != nil {
			return began, false, err
		}
		if file == nil || file.keys[keyLiving] == "" {
			continue
		}
		for _, table := range slices.Backward(strings.Split(file.keys[keyLiving], ",")) {
			payload, err := base64.StdEncoding.DecodeString(table)
			if err != nil {
				s.unreadable(f, err)
				break
			}
			of, ok, err := fill(living, payload, at, newSealedLineage(file).process)
			if isDamage(err) {
				s.unreadable(f, err)
				break
			}
			if ok || err != nil {
				return of, ok, err
			}
			began = of
		}
	}
	return began, false, nil
}

// fill reads a table, unless it is later than at.
func fill(living map[event.Key]*event.Process, payload []byte, at time.Time, process func(int64) (*event.Process, error)) (began time.Time, ok bool, err error) {
	ns, numbers, err := readTable(payload)
	if err != nil {
		return began, false, err
	}
	if began = time.Unix(0, ns); began.After(at) {
		return began, false, nil
	}
	for _, n := range numbers {
		p, err := process(n)
		if err != nil && !isDamage(err) {
			return began, false, err
		}
		if p != nil {
			living[p.Key] = p
		}
	}
	return began, true, nil
}
