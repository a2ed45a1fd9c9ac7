package reconcile

import (
	"errors"
	"fmt"
	"iter"
	"maps"
)

// A Mirror remembers what is in a Map that nobody else writes, so that only
// differences are written. After a failure it looks before it believes.
type Mirror[K, V comparable] struct {
	m     Map[K, V]
	known map[K]V
	doubt map[K]struct{} // keys whose values nobody knows

	keys   []K // of one call, kept for the next
	values []V
}

// NewMirror makes a mirror of a map that is empty; Load is for others.
func NewMirror[K, V comparable](m Map[K, V]) *Mirror[K, V] {
	return &Mirror[K, V]{m: m, known: make(map[K]V), doubt: make(map[K]struct{})}
}

// Load reads all that is in the map.
func (r *Mirror[K, V]) Load() error {
	known, err := Contents(r.m)
	if err != nil {
		return err
	}
	r.known = known
	clear(r.doubt)
	return nil
}

// Settle looks at what a write that failed has left open. Until it succeeds the
// mirror shows what was there before that write.
func (r *Mirror[K, V]) Settle() error {
	for key := range r.doubt {
		value, err := r.m.Get(key)
		switch {
		case err == nil:
			r.known[key] = value
		case errors.Is(err, ErrAbsent):
			delete(r.known, key)
		default:
			return fmt.Errorf("look after a write that failed: %w", err)
		}
		delete(r.doubt, key)
	}
	return nil
}

// Get returns what is there.
func (r *Mirror[K, V]) Get(key K) (V, bool) {
	value, ok := r.known[key]
	return value, ok
}

// Len is how many keys there are.
func (r *Mirror[K, V]) Len() int { return len(r.known) }

// All are the rows, in no order. Writing while they are looked at is fine for
// the keys that have been seen.
func (r *Mirror[K, V]) All() iter.Seq2[K, V] { return maps.All(r.known) }

// Put writes those rows that are not there already, and returns how many that
// were. If it fails, some of them may be.
func (r *Mirror[K, V]) Put(rows iter.Seq2[K, V]) (int, error) {
	if err := r.Settle(); err != nil {
		return 0, err
	}
	r.keys, r.values = r.keys[:0], r.values[:0]
	for key, value := range rows {
		if have, ok := r.known[key]; !ok || have != value {
			r.keys = append(r.keys, key)
			r.values = append(r.values, value)
		}
	}
	if len(r.keys) == 0 {
		return 0, nil
	}
	n, err := r.m.PutMany(r.keys, r.values)
	for i := range n {
		r.known[r.keys[i]] = r.values[i]
	}
	if err != nil {
		for _, key := range r.keys[n:] {
			r.doubt[key] = struct{}{}
		}
		return n, err
	}
	return n, nil
}

// Delete deletes those keys that are there, and returns how many that were.
func (r *Mirror[K, V]) Delete(keys iter.Seq[K]) (int, error) {
	if err := r.Settle(); err != nil {
		return 0, err
	}
	r.keys = r.keys[:0]
	for key := range keys {
		if _, ok := r.known[key]; ok {
			r.keys = append(r.keys, key)
		}
	}
	if len(r.keys) == 0 {
		return 0, nil
	}
	if err := r.m.Delete(r.keys...); err != nil {
		for _, key := range r.keys {
			r.doubt[key] = struct{}{}
		}
		return 0, err
	}
	for _, key := range r.keys {
		delete(r.known, key)
	}
	return len(r.keys), nil
}
