// Package prefilter has the kernel leave out what nobody wants: it writes an
// [interest.Set] into the maps of bpf/include/interest.h, which a sensor's
// programs ask before they record anything.
//
// A set is written where no program looks, and then one word says that it is in
// force: an event that both the old and the new set want is never missed.
package prefilter

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"warren/event"
	"warren/interest"
)

//go:generate go tool bpf2go -cc clang-19 -no-strip -target bpfel -output-suffix _test prefilter prefilter.bpf.c -- -O2 -mcpu=v3 -Wall -Werror -I../bpf/include

// An Object is what the engine needs of a *bpf.Object whose programs include
// interest.h.
type Object interface {
	Map(name string) *ebpf.Map
	Variable(name string) *ebpf.Variable
}

// A Type is a type of event by the sensor's own number. The zero value stands
// for numbers that are not used.
type Type struct {
	Kind event.Kind
	Name string // evt.type
}

// An Engine is the prefilter of one sensor. Its methods are called by one
// goroutine at a time.
type Engine struct {
	types  []Type
	kinds  event.KindSet
	tables *ebpf.Variable
	slot   *ebpf.Variable
	maps   [numMaps]*ebpf.Map

	force uint32               // the slot in force
	keys  [2][numMaps][][]byte // what is in the maps, by slot
	state Status
}

// The maps with keys.
const (
	mapUIDs = iota
	mapInodes
	mapHeads
	mapTails
	numMaps
)

var mapNames = [numMaps]string{"interest_uids", "interest_inodes", "interest_heads", "interest_tails"}

// Status is what an engine does.
type Status struct {
	// Terms are what is in force. Conditions that the kernel does not judge are
	// not in them.
	Terms []interest.Term
	// Widened are dimensions that are not judged because there would be too many
	// terms, or values, for the kernel.
	Widened []string
}

// New returns the engine of an object in which nothing is wanted yet. types are
// by the number that the programs give interest_begin.
func New(o Object, types []Type) (*Engine, error) {
	if len(types) > maxTypes {
		return nil, fmt.Errorf("prefilter: %d types of events, and room for %d", len(types), maxTypes)
	}
	e := &Engine{types: types, kinds: Kinds(types), tables: o.Variable("interest_tables"), slot: o.Variable("interest_slot")}
	if e.tables == nil || e.slot == nil {
		return nil, errors.New("prefilter: the programs do not include interest.h")
	}
	for i, name := range mapNames {
		if e.maps[i] = o.Map(name); e.maps[i] == nil {
			return nil, fmt.Errorf("prefilter: the programs have no map %s", name)
		}
	}
	return e, nil
}

// Apply puts what a set wants in force. When it fails, what was in force is
// still.
func (e *Engine) Apply(want interest.Set) error {
	next := e.force ^ 1
	t, status := compile(want.Among(e.kinds).Terms(), e.types)
	// Programs that began before the last switch may still look here.
	if err := waitForPrograms(); err != nil {
		return fmt.Errorf("change the prefilter: wait for programs: %w", err)
	}
	for m := range e.maps {
		if err := e.fill(m, next, t.entries[m]); err != nil {
			return fmt.Errorf("change the prefilter: %w", err)
		}
	}
	var both [2]table
	if err := e.tables.Get(&both); err != nil {
		return fmt.Errorf("change the prefilter: read table: %w", err)
	}
	both[next] = t.table
	if err := e.tables.Set(both); err != nil {
		return fmt.Errorf("change the prefilter: write table: %w", err)
	}
	if err := e.slot.Set(next); err != nil {
		return fmt.Errorf("change the prefilter: switch: %w", err)
	}
	e.force, e.state = next, status
	return nil
}

// fill makes a map have the entries of one slot.
func (e *Engine) fill(m int, slot uint32, entries []entry) error {
	for _, key := range e.keys[slot][m] {
		if err := e.maps[m].Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("empty map %s: %w", mapNames[m], err)
		}
	}
	e.keys[slot][m] = nil
	for _, x := range entries {
		key := x.key(slot)
		e.keys[slot][m] = append(e.keys[slot][m], key)
		if err := e.maps[m].Put(key, x.mask.bytes()); err != nil {
			return fmt.Errorf("fill map %s: %w", mapNames[m], err)
		}
	}
	return nil
}

// Status returns what is in force.
func (e *Engine) Status() Status { return e.state }
