package hub

import "slices"

// A tail keeps the last of many, and the notices between them.
type tail[T any] struct {
	notice func(T) bool // it is no answer itself, but tells of what is missing

	kept  []T // from first on
	first int
	count int // of them, those that are no notices
}

// add takes in the next one; limit of them are kept.
func (t *tail[T]) add(next T, limit int) {
	t.kept = append(t.kept, next)
	if !t.notice(next) {
		t.count++
	}
	for t.count > limit || t.count == limit && t.notice(t.kept[t.first]) {
		if !t.notice(t.kept[t.first]) {
			t.count--
		}
		var none T
		t.kept[t.first] = none
		t.first++
	}
	if t.first > mostRecent && t.first > len(t.kept)/2 {
		t.kept, t.first = slices.Delete(t.kept, 0, t.first), 0
	}
}

// list returns what was kept.
func (t *tail[T]) list() []T { return t.kept[t.first:] }
