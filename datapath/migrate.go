package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// moved are the maps whose contents are worth more than their making anew, with
// the types of their keys and values. A map of another size, or of another
// schema, is copied into ours: members of the same name and size are taken over,
// others are 0. What policy says is not among them: Apply writes it. Nor are
// fragments, which live for seconds, counters, which begin again, and events.
var moved = map[string]struct {
	key, value string
}{
	stateMapFlows: {"flow_key", "flow"},
}

// resized are those that are moved too if their schema is ours, and only their size
// is not: the programs need them at once.
var resized = map[string]struct {
	key, value string
}{
	stateMapFlows:     {"flow_key", "flow"},
	stateMapAddresses: {"addr", "place_entry"},
	stateMapVerdicts:  {"verdict_key", "verdict"},
}

// moveMaps copies what k.old knows into our maps. Rows that are there already
// stay: it may be called again to fetch what was added meanwhile.
func moveMaps(k *kernel, log *slog.Logger) error {
	types := resized
	if k.other {
		types = moved
	}
	for name, t := range types {
		from, to := k.old[name], k.maps[name]
		if from == nil {
			continue
		}
		key, err := converter(from, to, t.key)
		if err == nil {
			var value func([]byte) []byte
			if value, err = converter(from, to, t.value); err == nil {
				put := func(key, value []byte) error { return to.Update(key, value, ebpf.UpdateNoExist) }
				if name == stateMapFlows {
					put = putFlow(to, k.maps[stateMapSweeps])
				}
				err = moveRows(from, key, value, put)
				var full *FullError
				if errors.As(err, &full) && name == stateMapFlows {
					log.Warn("not all flows of an earlier agent have room: what was left begins anew", "room", to.MaxEntries())
					err = nil
				}
			}
		}
		if errors.Is(err, btf.ErrNotFound) || errors.Is(err, btf.ErrNotSupported) {
			// It does not say what it has.
			log.Warn("what an earlier agent knew cannot be read", "map", name, "err", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}
	return nil
}

// converter copies a struct as the one map describes it to the layout of the
// other.
func converter(from, to *ebpf.Map, name string) (func([]byte) []byte, error) {
	was, err := structOf(from, name)
	if err != nil {
		return nil, err
	}
	is, err := structOf(to, name)
	if err != nil {
		return nil, err
	}
	type move struct{ from, to, size uint32 }
	var moves []move
	for _, m := range is.Members {
		size, err := btf.Sizeof(m.Type)
		if err != nil || m.BitfieldSize > 0 {
			continue
		}
		for _, w := range was.Members {
			old, err := btf.Sizeof(w.Type)
			if err == nil && old == size && w.Name == m.Name && w.BitfieldSize == 0 {
				moves = append(moves, move{w.Offset.Bytes(), m.Offset.Bytes(), uint32(size)})
			}
		}
	}
	return func(b []byte) []byte {
		out := make([]byte, is.Size)
		for _, m := range moves {
			if int(m.from+m.size) <= len(b) {
				copy(out[m.to:m.to+m.size], b[m.from:])
			}
		}
		return out
	}, nil
}

// structOf is a struct as a map's own description has it.
func structOf(m *ebpf.Map, name string) (*btf.Struct, error) {
	handle, err := m.Handle()
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	spec, err := handle.Spec(nil)
	if err != nil {
		return nil, err
	}
	var s *btf.Struct
	if err := spec.TypeByName(name, &s); err != nil {
		return nil, err
	}
	return s, nil
}

// putFlow adds flows, each with its place in the queue of those that the kernel
// looks at, which has more of them than flows.
func putFlow(flows, sweeps *ebpf.Map) func(key, value []byte) error {
	// No stamp of the kernel's has the first bit.
	stamp := 1<<63 | bootTime()
	return func(key, value []byte) error {
		stamp++
		binary.NativeEndian.PutUint64(value[unsafe.Offsetof(stateFlow{}.Stamp):], stamp)
		if err := flows.Update(key, value, ebpf.UpdateNoExist); err != nil {
			return err
		}
		s := stateSweep{Stamp: stamp} // due at once
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&s.Key)), unsafe.Sizeof(s.Key)), key)
		if err := sweeps.Update(nil, &s, ebpf.UpdateAny); err != nil {
			return errors.Join(explainFull(sweeps, err), flows.Delete(key))
		}
		return nil
	}
}

func moveRows(from *ebpf.Map, key, value func([]byte) []byte, put func(key, value []byte) error) error {
	var k, v []byte
	it := from.Iterate()
	for it.Next(&k, &v) {
		err := put(key(k), value(v))
		if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return err
		}
	}
	// Programs write it all the while: what is missed is new.
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return err
	}
	return nil
}

// lastGeneration is that of an earlier agent's settings, of whatever schema.
func lastGeneration(k *kernel) uint32 {
	if from := k.old[stateMapSettings]; from != nil {
		convert, err := converter(from, k.maps[stateMapSettings], "config")
		if err == nil {
			var raw []byte
			if raw, err = from.LookupBytes(uint32(0)); err == nil && raw != nil {
				return binary.LittleEndian.Uint32(convert(raw))
			}
		}
	}
	// One that it hardly had.
	return uint32(bootTime() >> 20)
}
