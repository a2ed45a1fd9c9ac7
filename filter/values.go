package filter

import (
	"sync"
	"unsafe"

	"warren/event"
)

// values reads what one side of a comparison is for an event: one value or
// several, by many. A missing value is reported by false.
type values[T any] struct {
	many event.Many

	// get reads the i-th value and needs no scratch; nil where that cannot be.
	get func(e *event.Event, i int) (T, bool)
	// use does the same with a scratch. It is nil where of or list is not.
	use func(e *event.Event, i int, s *scratch) (T, bool)
	// of reads the value of one ancestor.
	of func(p *event.Process, s *scratch) (T, bool)
	// list returns all values of a computed list.
	list func(e *event.Event, s *scratch) ([]T, bool)

	// scratch says that the above need one.
	scratch bool
}

// read makes values of a function that needs no scratch.
func read[T any](many event.Many, get func(e *event.Event, i int) (T, bool)) *values[T] {
	return &values[T]{many: many, get: get, use: func(e *event.Event, i int, _ *scratch) (T, bool) { return get(e, i) }}
}

// find reports whether fn holds for one of the values.
func (v *values[T]) find(e *event.Event, s *scratch, fn func(T) bool) bool {
	mark := s.mark()
	switch {
	case v.list != nil:
		l, _ := v.list(e, s)
		for _, x := range l {
			if fn(x) {
				return true
			}
		}
	case v.many == event.Ancestors:
		if e.Process == nil {
			return false
		}
		for p := e.Process.Parent; p != nil; p = p.Parent {
			if x, ok := v.of(p, s); ok && fn(x) {
				return true
			}
			s.release(mark)
		}
	case v.many == event.Either:
		for i := range 2 {
			if x, ok := v.use(e, i, s); ok && fn(x) {
				return true
			}
		}
	case v.many == event.List:
		for i := 0; ; i++ {
			x, ok := v.use(e, i, s)
			if !ok {
				return false
			}
			if fn(x) {
				return true
			}
			s.release(mark)
		}
	default:
		x, ok := v.use(e, 0, s)
		return ok && fn(x)
	}
	return false
}

// every reports whether there are values and fn holds for all of them.
func (v *values[T]) every(e *event.Event, s *scratch, fn func(T) bool) bool {
	some := false
	return !v.find(e, s, func(x T) bool { some = true; return !fn(x) }) && some
}

// somePredicate makes a predicate that holds where match does for one of the
// values.
func somePredicate[T any](pool *sync.Pool, v *values[T], match func(T) bool) predicate {
	if get := v.get; get != nil && v.many == event.One {
		return func(e *event.Event) bool {
			x, ok := get(e, 0)
			return ok && match(x)
		}
	}
	if !v.scratch {
		return func(e *event.Event) bool { return v.find(e, nil, match) }
	}
	return func(e *event.Event) bool {
		s := pool.Get().(*scratch)
		ok := v.find(e, s, match)
		s.put(pool)
		return ok
	}
}

// everyPredicate makes a predicate that holds where match does for all values.
func everyPredicate[T any](pool *sync.Pool, v *values[T], match func(T) bool) predicate {
	if !v.scratch {
		return func(e *event.Event) bool { return v.every(e, nil, match) }
	}
	return func(e *event.Event) bool {
		s := pool.Get().(*scratch)
		ok := v.every(e, s, match)
		s.put(pool)
		return ok
	}
}

// transformed makes values of others by a function that can use the scratch.
func transformed[T, U any](v *values[T], scratched bool, fn func(T, *scratch) (U, bool)) *values[U] {
	u := &values[U]{many: v.many, scratch: v.scratch || scratched}
	if get := v.get; get != nil && !scratched {
		u.get = func(e *event.Event, i int) (y U, ok bool) {
			if x, ok := get(e, i); ok {
				return fn(x, nil)
			}
			return y, false
		}
	}
	if use := v.use; use != nil {
		u.use = func(e *event.Event, i int, s *scratch) (y U, ok bool) {
			if x, ok := use(e, i, s); ok {
				return fn(x, s)
			}
			return y, false
		}
	}
	if of := v.of; of != nil {
		u.of = func(p *event.Process, s *scratch) (y U, ok bool) {
			if x, ok := of(p, s); ok {
				return fn(x, s)
			}
			return y, false
		}
	}
	return u
}

// scratch is where text is put together for one comparison. What is taken from
// it stays valid until the scratch is released, also when buf has moved on.
type scratch struct {
	buf  []byte
	list []string
}

// mark returns how much is in use, for release. A nil scratch has nothing.
func (s *scratch) mark() [2]int {
	if s == nil {
		return [2]int{}
	}
	return [2]int{len(s.buf), len(s.list)}
}

func (s *scratch) release(mark [2]int) {
	if s != nil {
		s.buf, s.list = s.buf[:mark[0]], s.list[:mark[1]]
	}
}

// put gives s back. Buffers that one event made large are not kept.
func (s *scratch) put(pool *sync.Pool) {
	const most = 256 << 10
	if cap(s.buf) > most {
		s.buf = nil
	}
	if cap(s.list) > 1024 {
		s.list = nil
	}
	clear(s.list[:cap(s.list)]) // do not keep the event's text alive
	s.buf, s.list = s.buf[:0], s.list[:0]
	pool.Put(s)
}

// took returns what was appended to the buffer since it had n bytes, as text.
func (s *scratch) took(b []byte) string {
	n := len(s.buf)
	s.buf = b
	return unsafe.String(unsafe.SliceData(b[n:]), len(b)-n)
}
