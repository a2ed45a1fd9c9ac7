package reconcile

import (
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
)

// ErrAbsent means that a map has no such key.
var ErrAbsent = errors.New("no such key")

// A Map holds values by key, somewhere where writing can fail. Its methods may
// be called from any goroutine.
type Map[K comparable, V any] interface {
	// Get returns a value, or ErrAbsent.
	Get(K) (V, error)
	// Put writes a value, in the place of another or not.
	Put(K, V) error
	// PutMany writes values in their order, and is not one step. If it fails,
	// the first n are written, and of the others nobody knows.
	PutMany([]K, []V) (n int, err error)
	// Delete deletes in the order of the keys. What is absent is fine. If it
	// fails, nobody knows how far it came.
	Delete(...K) error
	// Each calls see for every key that is there all the while, once; for others
	// it may. It ends with the first error of see, which it returns.
	Each(see func(K, V) error) error
}

// Contents returns all that is in a map.
func Contents[K comparable, V any](m Map[K, V]) (map[K]V, error) {
	all := make(map[K]V)
	err := m.Each(func(key K, value V) error {
		all[key] = value
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Memory is a Map in memory.
type Memory[K comparable, V any] struct {
	// Room is how many keys there is room for, 0 for any number; ErrFull says
	// that there is none. They must not be changed while the map is used.
	Room    int
	ErrFull error

	mu   sync.Mutex
	rows map[K]V
}

// NewMemory makes an empty map.
func NewMemory[K comparable, V any]() *Memory[K, V] {
	return &Memory[K, V]{rows: make(map[K]V)}
}

var _ Map[int, int] = (*Memory[int, int])(nil)

// Get is Map's.
func (m *Memory[K, V]) Get(key K) (V, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok := m.rows[key]
	if !ok {
		return value, ErrAbsent
	}
	return value, nil
}

// Put is Map's.
func (m *Memory[K, V]) Put(key K, value V) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.put(key, value)
}

func (m *Memory[K, V]) put(key K, value V) error {
	if _, ok := m.rows[key]; !ok && m.Room > 0 && len(m.rows) >= m.Room {
		return m.ErrFull
	}
	m.rows[key] = value
	return nil
}

// PutMany is Map's.
func (m *Memory[K, V]) PutMany(keys []K, values []V) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, key := range keys {
		if err := m.put(key, values[i]); err != nil {
			return i, err
		}
	}
	return len(keys), nil
}

// Delete is Map's.
func (m *Memory[K, V]) Delete(keys ...K) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		delete(m.rows, key)
	}
	return nil
}

// Each is Map's; see may change the map.
func (m *Memory[K, V]) Each(see func(K, V) error) error {
	m.mu.Lock()
	all := maps.Clone(m.rows)
	m.mu.Unlock()
	for key, value := range all {
		if err := see(key, value); err != nil {
			return err
		}
	}
	return nil
}

// Faults say how a Faulty map fails. The zero value does not.
type Faults struct {
	// Err is the error. Nothing fails without one.
	Err error
	// Probability is how many operations fail, 1 for all.
	Probability float64
	// After operations that work, one fails; it counts down. 0 is for none.
	After int
	// Late operations are done, and fail all the same.
	Late bool
	// Reads fail too; otherwise only writes do.
	Reads bool
}

// Faulty is a Map that fails.
type Faulty[K comparable, V any] struct {
	inner Map[K, V]

	mu     sync.Mutex
	random *rand.Rand
	faults Faults
	failed int
	count  int
}

// NewFaulty makes a map of another that fails when it is told to, as a seed has
// it.
func NewFaulty[K comparable, V any](inner Map[K, V], seed uint64) *Faulty[K, V] {
	return &Faulty[K, V]{inner: inner, random: rand.New(rand.NewPCG(seed, 0))}
}

var _ Map[int, int] = (*Faulty[int, int])(nil)

// Fail fails from now on as faults say.
func (f *Faulty[K, V]) Fail(faults Faults) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
}

// Failed is how many operations have failed.
func (f *Faulty[K, V]) Failed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// Writes is how many writes were tried.
func (f *Faulty[K, V]) Writes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

// fault decides whether an operation fails, and how.
func (f *Faulty[K, V]) fault(read bool) (late bool, share float64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !read {
		f.count++
	}
	if f.faults.Err == nil || read && !f.faults.Reads {
		return false, 0, nil
	}
	hit := f.faults.Probability > 0 && f.random.Float64() < f.faults.Probability
	if f.faults.After > 0 {
		f.faults.After--
		hit = hit || f.faults.After == 0
	}
	if !hit {
		return false, 0, nil
	}
	f.failed++
	return f.faults.Late, f.random.Float64(), f.faults.Err
}

// Get is Map's.
func (f *Faulty[K, V]) Get(key K) (V, error) {
	if _, _, err := f.fault(true); err != nil {
		var none V
		return none, err
	}
	return f.inner.Get(key)
}

// Put is Map's.
func (f *Faulty[K, V]) Put(key K, value V) error {
	late, _, err := f.fault(false)
	if err != nil && !late {
		return err
	}
	if e := f.inner.Put(key, value); e != nil {
		return e
	}
	return err
}

// PutMany is Map's. When it fails, some are written, more than it says if the
// failure is a late one.
func (f *Faulty[K, V]) PutMany(keys []K, values []V) (int, error) {
	late, share, err := f.fault(false)
	if err == nil {
		return f.inner.PutMany(keys, values)
	}
	written := int(share * float64(len(keys)+1))
	n, e := f.inner.PutMany(keys[:written], values[:written])
	if e != nil {
		return n, e
	}
	if late {
		n /= 2
	}
	return n, err
}

// Delete is Map's.
func (f *Faulty[K, V]) Delete(keys ...K) error {
	late, share, err := f.fault(false)
	if err != nil && !late {
		keys = keys[:int(share*float64(len(keys)))]
	}
	if e := f.inner.Delete(keys...); e != nil {
		return e
	}
	return err
}

// Each is Map's.
func (f *Faulty[K, V]) Each(see func(K, V) error) error {
	if _, _, err := f.fault(true); err != nil {
		return err
	}
	return f.inner.Each(see)
}
