package datapath

import (
	"fmt"
	"iter"
	"slices"

	"warren/reconcile"
)

// What depends on policy has two slots in each row, and one is in force. slotted
// changes a map of such rows so that nobody sees half of it: what is wanted is
// written into the other slot (prepare), the caller puts that one in force, and
// when nobody looks at the former one any more it is brought in line (settle).
//
// All of it can be done again from the start after any failure, with the same
// rows or with others: what is in force is written by nobody.
type slotted[K, V, S comparable] struct {
	name   string
	mirror *reconcile.Mirror[K, V]
	slots  func(*V) *[2]S
	// alike says whether two slots are judged alike; nil if only equal ones are.
	alike func(a, b S) bool
	// judged says whether two rows differ, besides slots, in something that flows
	// remember; nil if in nothing.
	judged func(a, b V) bool
}

// uncovered is how a key was, or will be, judged that has no row: the slot that
// it would have. New keys keep it until the change is in force, and keys that go
// get it then.
type uncovered[K, S comparable] func(K) S

// load reads what is there.
func (s *slotted[K, V, S]) load() error {
	if err := s.mirror.Load(); err != nil {
		return fmt.Errorf("read %s: %w", s.name, err)
	}
	return nil
}

// A delta is what rows differ in from what is there.
type delta[K comparable] struct {
	put  []K // wanted, and not there or not like that
	gone []K // there, and not wanted
}

// compare says what has to be written for want.
func (s *slotted[K, V, S]) compare(want map[K]V) (d delta[K]) {
	fresh := 0
	for key, w := range want {
		have, ok := s.mirror.Get(key)
		if !ok {
			fresh++
		}
		if !ok || have != w {
			d.put = append(d.put, key)
		}
	}
	if s.mirror.Len() == len(want)-fresh {
		return d
	}
	for key := range s.mirror.All() {
		if _, ok := want[key]; !ok {
			d.gone = append(d.gone, key)
		}
	}
	return d
}

// changes reports whether putting want in force changes how anything is judged.
// Rows of want have the same value in both slots; d is how they differ from what
// is there.
func (s *slotted[K, V, S]) changes(want map[K]V, d delta[K], force uint32, before, after uncovered[K, S]) bool {
	for _, key := range d.put {
		w := want[key]
		have, ok := s.mirror.Get(key)
		switch {
		case !ok && before == nil:
		case !ok && s.differ(before(key), s.slots(&w)[force]):
			return true
		case ok && s.differ(s.slots(&have)[force], s.slots(&w)[force]):
			return true
		case s.judged != nil && s.judged(have, w):
			return true
		}
	}
	if after == nil {
		return false
	}
	for _, key := range d.gone {
		if have, _ := s.mirror.Get(key); s.differ(s.slots(&have)[force], after(key)) {
			return true
		}
	}
	return false
}

func (s *slotted[K, V, S]) differ(a, b S) bool {
	if s.alike == nil {
		return a != b
	}
	return !s.alike(a, b)
}

// prepare writes want into the slot that is not in force, and into new rows,
// which are in force as before says. Rows that nobody wants get what after says.
func (s *slotted[K, V, S]) prepare(want map[K]V, d delta[K], force uint32, before, after uncovered[K, S]) error {
	if _, err := s.mirror.Put(s.prepared(want, d, force, before, after)); err != nil {
		return fmt.Errorf("write %s: %w", s.name, err)
	}
	return nil
}

func (s *slotted[K, V, S]) prepared(want map[K]V, d delta[K], force uint32, before, after uncovered[K, S]) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, key := range d.put {
			w := want[key]
			if have, ok := s.mirror.Get(key); ok {
				s.slots(&w)[force] = s.slots(&have)[force]
			} else if before != nil {
				s.slots(&w)[force] = before(key)
			}
			if !yield(key, w) {
				return
			}
		}
		if after == nil {
			return
		}
		for _, key := range d.gone {
			have, _ := s.mirror.Get(key)
			s.slots(&have)[1-force] = after(key)
			if !yield(key, have) {
				return
			}
		}
	}
}

// settle writes want into both slots, then deletes what nobody wants.
func (s *slotted[K, V, S]) settle(want map[K]V, d delta[K]) error {
	_, err := s.mirror.Put(func(yield func(K, V) bool) {
		for _, key := range d.put {
			if !yield(key, want[key]) {
				return
			}
		}
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", s.name, err)
	}
	if _, err := s.mirror.Delete(slices.Values(d.gone)); err != nil {
		return fmt.Errorf("delete of %s: %w", s.name, err)
	}
	return nil
}
