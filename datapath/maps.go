package datapath

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/cilium/ebpf"

	"warren/reconcile"
)

// NewMap makes a map of the kernel one that can be reconciled. K and V are laid
// out as the kernel has them. Where locked is set, its values have a
// bpf_spin_lock and are written in place, so that no reader is ever left with
// the memory of an element that is somebody else's by now.
func NewMap[K comparable, V any](m *ebpf.Map, locked bool) reconcile.Map[K, V] {
	k := &kernelMap[K, V]{m: m}
	if locked {
		k.flags = ebpf.UpdateLock
	}
	return k
}

// kernelMap is a reconcile.Map in the kernel. Batches are tried first: kernels
// have them for some types of maps only.
type kernelMap[K comparable, V any] struct {
	m     *ebpf.Map
	flags ebpf.MapUpdateFlags
}

// batchSize is how many elements one call of the kernel reads: a bucket of a
// hash map must fit.
const batchSize = 4096

func (k *kernelMap[K, V]) Get(key K) (V, error) {
	var value V
	err := k.m.Lookup(&key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = reconcile.ErrAbsent
	}
	return value, err
}

func (k *kernelMap[K, V]) Put(key K, value V) error {
	return explainFull(k.m, k.m.Update(&key, &value, k.flags))
}

func (k *kernelMap[K, V]) PutMany(keys []K, values []V) (n int, err error) {
	if len(keys) == 0 {
		return 0, nil
	}
	if len(keys) > 1 {
		n, err = k.m.BatchUpdate(keys, values, &ebpf.BatchOptions{ElemFlags: uint64(k.flags)})
		if !unsupported(err) {
			return min(n, len(keys)), explainFull(k.m, err)
		}
	}
	for i := range keys {
		if err := k.Put(keys[i], values[i]); err != nil {
			return i, err
		}
	}
	return len(keys), nil
}

func (k *kernelMap[K, V]) Delete(keys ...K) error {
	for len(keys) > 1 {
		n, err := k.m.BatchDelete(keys, nil)
		if unsupported(err) {
			break
		}
		if err == nil {
			return nil
		}
		// It stops at a key that is not there.
		if !errors.Is(err, ebpf.ErrKeyNotExist) || n >= len(keys) {
			return err
		}
		keys = keys[n+1:]
	}
	for i := range keys {
		if err := k.m.Delete(&keys[i]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

func (k *kernelMap[K, V]) Each(see func(K, V) error) error {
	keys, values := make([]K, batchSize), make([]V, batchSize)
	var cursor ebpf.MapBatchCursor
	for first := true; ; first = false {
		n, err := k.m.BatchLookup(&cursor, keys, values, nil)
		if first && unsupported(err) {
			return k.eachOne(see)
		}
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !last {
			return err
		}
		for i := range n {
			if err := see(keys[i], values[i]); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
	}
}

func (k *kernelMap[K, V]) eachOne(see func(K, V) error) error {
	var key K
	var value V
	it := k.m.Iterate()
	for it.Next(&key, &value) {
		if err := see(key, value); err != nil {
			return err
		}
	}
	return it.Err()
}

func unsupported(err error) bool {
	return errors.Is(err, ebpf.ErrNotSupported)
}

// explainFull says which map is full.
func explainFull(m *ebpf.Map, err error) error {
	if errors.Is(err, syscall.E2BIG) || errors.Is(err, syscall.ENOSPC) {
		full := &FullError{Room: int(m.MaxEntries()), err: err}
		if info, look := m.Info(); look == nil {
			full.Map = info.Name
		}
		return full
	}
	return err
}

// A FullError means that the kernel has no room for what the state wants.
type FullError struct {
	Map  string // as in the Status, "" where the kernel does not say
	Room int    // entries
	err  error
}

// Error implements error.
func (e *FullError) Error() string {
	return fmt.Sprintf("map %s is full: it has room for %d entries: %v", e.Map, e.Room, e.err)
}

// Unwrap returns what the kernel said.
func (e *FullError) Unwrap() error { return e.err }
