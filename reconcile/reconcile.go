// Package reconcile makes something outside, mostly a map in the kernel, equal
// to what is wanted. It knows nothing of what it carries.
//
// A [Map] is what rows go into; there is one in memory, one that fails as it is
// told ([Faulty]), and the kernel's, which package datapath has. A [Mirror]
// remembers what is in a Map and writes the differences, many at once. A [Table]
// is for rows that take more than a write, and can fail each for itself: it
// tries again, later and later, and says for each row how far it is.
//
// Tables, and maps where they say so, may be used from any goroutine, a Mirror
// from one at a time.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"
)

// Operations make rows true. They are called one at a time.
type Operations[K comparable, V any] interface {
	// Update makes a row true, whatever was there before: also if it is true
	// already, or was half made by a call that failed.
	Update(ctx context.Context, key K, value V) error
	// Delete takes away what Update made, if there is anything.
	Delete(ctx context.Context, key K) error
	// Prune deletes what is there and is not wanted by anybody: what a former
	// process has left behind.
	Prune(ctx context.Context, wanted map[K]V) error
}

// State is how far a row is.
type State uint8

// The states of a row.
const (
	Pending  State = iota + 1 // wanted, and not tried yet as it is now
	Done                      // true
	Failed                    // tried, and will be again
	Deleting                  // not wanted, and not gone yet
)

// String returns pending, done, failed or deleting.
func (s State) String() string {
	switch s {
	case Pending:
		return "pending"
	case Done:
		return "done"
	case Failed:
		return "failed"
	case Deleting:
		return "deleting"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// A Status says how far a row is.
type Status struct {
	State State
	// Err is why the last attempt failed, Tries how many have since one worked,
	// and Next when the next one is.
	Err   error
	Tries int
	Next  time.Time
	// Since is when State became what it is.
	Since time.Time
}

// Options are those of a Table. The zero value is usable.
type Options struct {
	// Retry is how long a row that failed waits, twice as long after each
	// failure, up to MaxRetry. 0 means 100 ms and 30 s.
	Retry, MaxRetry time.Duration
}

// A Table holds rows that are wanted, and makes them true.
type Table[K comparable, V any] struct {
	ops     Operations[K, V]
	options Options
	changed chan struct{} // holds one: Run looks when there is something in it

	working sync.Mutex // held by who calls ops

	mu     sync.Mutex
	rows   map[K]*row[V]
	prune  bool
	pruned Status
}

type row[V any] struct {
	value   V
	wanted  bool
	version uint64 // of what is wanted
	status  Status
}

// NewTable makes a table that nothing is in.
func NewTable[K comparable, V any](ops Operations[K, V], options Options) *Table[K, V] {
	if options.Retry <= 0 {
		options.Retry = 100 * time.Millisecond
	}
	if options.MaxRetry <= 0 {
		options.MaxRetry = 30 * time.Second
	}
	return &Table[K, V]{
		ops:     ops,
		options: options,
		changed: make(chan struct{}, 1),
		rows:    make(map[K]*row[V]),
	}
}

// Want wants a row, in the place of the one with the same key. It is tried at
// once, also if the value is what it was and nothing is known to be wrong.
func (t *Table[K, V]) Want(key K, value V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.want(key, value)
	t.kick()
}

func (t *Table[K, V]) want(key K, value V) {
	r := t.rows[key]
	if r == nil {
		r = &row[V]{}
		t.rows[key] = r
	}
	r.value, r.wanted = value, true
	t.renew(r, Pending)
}

// renew makes a row new work.
func (t *Table[K, V]) renew(r *row[V], state State) {
	r.version++
	r.status = Status{State: state, Since: time.Now()}
}

// Unwant wants a row no longer. One that is not there is fine.
func (t *Table[K, V]) Unwant(key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unwant(key)
	t.kick()
}

func (t *Table[K, V]) unwant(key K) {
	if r := t.rows[key]; r != nil && r.wanted {
		var none V
		r.value, r.wanted = none, false
		t.renew(r, Deleting)
	}
}

// Replace wants these rows and no others. Those that equal says are what they
// were are left alone.
func (t *Table[K, V]) Replace(rows map[K]V, equal func(a, b V) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.rows {
		if _, ok := rows[key]; !ok {
			t.unwant(key)
		}
	}
	for key, value := range rows {
		if r := t.rows[key]; r == nil || !r.wanted || !equal(r.value, value) {
			t.want(key, value)
		}
	}
	t.kick()
}

// Prune has what nobody wants deleted, once, when there is time.
func (t *Table[K, V]) Prune() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prune = true
	t.pruned = Status{State: Pending, Since: time.Now()}
	t.kick()
}

// kick tells Run that there may be work.
func (t *Table[K, V]) kick() {
	select {
	case t.changed <- struct{}{}:
	default: // Run will look anyway
	}
}

// Status returns the status of a row, and false if there is none.
func (t *Table[K, V]) Status(key K) (Status, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rows[key]
	if r == nil {
		return Status{}, false
	}
	return r.status, true
}

// Statuses returns the status of every row.
func (t *Table[K, V]) Statuses() map[K]Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[K]Status, len(t.rows))
	for key, r := range t.rows {
		all[key] = r.status
	}
	return all
}

// Wanted returns the rows that are wanted.
func (t *Table[K, V]) Wanted() map[K]V {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wanted()
}

func (t *Table[K, V]) wanted() map[K]V {
	all := make(map[K]V, len(t.rows))
	for key, r := range t.rows {
		if r.wanted {
			all[key] = r.value
		}
	}
	return all
}

// Reconcile does what is due and returns when it wants to be called again: the
// zero time if everything is as it should be. Rows that nobody wants come first:
// what they leave may be in the way of others. It ends early only if ctx does.
func (t *Table[K, V]) Reconcile(ctx context.Context) (next time.Time) {
	t.working.Lock()
	defer t.working.Unlock()
	for _, wanted := range []bool{false, true} {
		for _, key := range t.due(wanted) {
			if ctx.Err() != nil {
				return time.Now()
			}
			t.work(ctx, key, wanted)
		}
	}
	t.workPrune(ctx)
	return t.next()
}

// due returns the keys of rows that are to be tried now.
func (t *Table[K, V]) due(wanted bool) (keys []K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for key, r := range t.rows {
		if r.wanted == wanted && r.status.State != Done && !r.status.Next.After(now) {
			keys = append(keys, key)
		}
	}
	return keys
}

// work tries one row, unless it has changed its mind since it was due.
func (t *Table[K, V]) work(ctx context.Context, key K, wanted bool) {
	t.mu.Lock()
	r := t.rows[key]
	if r == nil || r.wanted != wanted {
		t.mu.Unlock()
		return
	}
	value, version := r.value, r.version
	t.mu.Unlock()

	var err error
	if wanted {
		err = t.ops.Update(ctx, key, value)
	} else {
		err = t.ops.Delete(ctx, key)
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case r.version != version: // something else is wanted by now, and due
	case err == nil && !wanted:
		delete(t.rows, key)
	case err == nil:
		r.status = Status{State: Done, Since: time.Now()}
	default:
		failed := Failed
		if !wanted {
			failed = Deleting
		}
		t.fail(&r.status, failed, err)
	}
}

// fail notes an attempt that failed.
func (t *Table[K, V]) fail(s *Status, state State, err error) {
	now := time.Now()
	if s.State != state {
		s.State, s.Since = state, now
	}
	s.Err = err
	s.Next = now.Add(t.backoff(s.Tries))
	s.Tries++
}

// backoff is how long to wait after an attempt that tries came before.
func (t *Table[K, V]) backoff(tries int) time.Duration {
	wait := t.options.Retry
	for range tries {
		if wait >= t.options.MaxRetry {
			break
		}
		wait *= 2
	}
	return min(wait, t.options.MaxRetry)
}

func (t *Table[K, V]) workPrune(ctx context.Context) {
	t.mu.Lock()
	if !t.prune || t.pruned.Next.After(time.Now()) {
		t.mu.Unlock()
		return
	}
	wanted := t.wanted()
	t.prune = false // or asked again meanwhile
	t.mu.Unlock()

	err := t.ops.Prune(ctx, wanted)

	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.prune = true
		t.fail(&t.pruned, Failed, err)
		return
	}
	t.pruned = Status{State: Done, Since: time.Now()}
}

// Pruned says how far pruning is; its State is 0 if nobody has asked for it.
func (t *Table[K, V]) Pruned() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pruned
}

// next is when something is due.
func (t *Table[K, V]) next() (next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	earlier := func(s Status) {
		at := s.Next
		if at.IsZero() {
			at = s.Since
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	for _, r := range t.rows {
		if r.status.State != Done {
			earlier(r.status)
		}
	}
	if t.prune {
		earlier(t.pruned)
	}
	return next
}

// Run reconciles whenever something is due, until ctx ends.
func (t *Table[K, V]) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.changed:
		case <-timer.C:
		}
		if next := t.Reconcile(ctx); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// MapOperations are the operations of a table whose rows are those of a map.
func MapOperations[K comparable, V any](m Map[K, V]) Operations[K, V] {
	return mapOperations[K, V]{m}
}

type mapOperations[K comparable, V any] struct{ m Map[K, V] }

func (o mapOperations[K, V]) Update(_ context.Context, key K, value V) error {
	return o.m.Put(key, value)
}

func (o mapOperations[K, V]) Delete(_ context.Context, key K) error {
	return o.m.Delete(key)
}

func (o mapOperations[K, V]) Prune(_ context.Context, wanted map[K]V) error {
	there, err := Contents(o.m)
	if err != nil {
		return err
	}
	maps.DeleteFunc(there, func(key K, _ V) bool { _, ok := wanted[key]; return ok })
	var errs []error
	for key := range there {
		errs = append(errs, o.m.Delete(key))
	}
	return errors.Join(errs...)
}
