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

// A Config says what an engine has to do with.
type Config struct {
	// Types are by the number that the programs give interest_begin.
	Types []Type
	// Judges are the dimensions of terms that the programs judge, as [interest.Term.Only]
	// has them; nil stands for all of which they have the maps.
	Judges []string
	// Workloads know the containers; nil: nobody does.
	Workloads *Workloads
}

// An Engine is the prefilter of one sensor. Its methods are called by one
// goroutine at a time.
type Engine struct {
	types  []Type
	kinds  event.KindSet
	judges []string
	tables *ebpf.Variable
	slot   *ebpf.Variable
	maps   [numMaps][2]*ebpf.Map // by slot: the same one, or two; nil: it has none
	places *places

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
	mapExes // two maps each
	mapComms
	mapPorts // these two only where events have ends: interest_ends.h
	mapNets
	numMaps
)

var mapNames = [numMaps][2]string{
	{"interest_uids", "interest_uids"},
	{"interest_inodes", "interest_inodes"},
	{"interest_heads", "interest_heads"},
	{"interest_tails", "interest_tails"},
	{"interest_exes0", "interest_exes1"},
	{"interest_comms0", "interest_comms1"},
	{"interest_ports", "interest_ports"},
	{"interest_nets", "interest_nets"},
}

// Status is what an engine does.
type Status struct {
	// Terms are what is in force. Conditions that the kernel does not judge are
	// not in them.
	Terms []interest.Term
	// Widened are dimensions that are not judged because there would be too many
	// terms, or values, for the kernel.
	Widened []string
	// Judges are the dimensions that the programs judge at all.
	Judges []string

	places *places
	slot   uint32
}

// Cgroups returns for how many cgroups it is known which terms want what happens
// there, where a term asks for containers, and for how many there was no room:
// what happens in these is let through. Any goroutine may call it.
func (s Status) Cgroups() (judged, unjudged int) {
	if s.places == nil {
		return 0, 0
	}
	return s.places.count(s.slot)
}

// New returns the engine of an object in which nothing is wanted yet.
func New(o Object, cfg Config) (*Engine, error) {
	if len(cfg.Types) > maxTypes {
		return nil, fmt.Errorf("prefilter: %d types of events, and room for %d", len(cfg.Types), maxTypes)
	}
	e := &Engine{types: cfg.Types, kinds: Kinds(cfg.Types), judges: cfg.Judges, tables: o.Variable("interest_tables"), slot: o.Variable("interest_slot")}
	cgroups := o.Map("interest_groups")
	if e.tables == nil || e.slot == nil || cgroups == nil {
		return nil, errors.New("prefilter: the programs do not include interest.h")
	}
	for i, names := range mapNames {
		for slot, name := range names {
			if e.maps[i][slot] = o.Map(name); e.maps[i][slot] == nil && i < mapPorts {
				return nil, fmt.Errorf("prefilter: the programs have no map %s", name)
			}
		}
	}
	if e.judges == nil {
		e.judges = []string{"outcome", "open", "uids", "raw", "inodes", "paths", "workload", "exes", "names", "not_exes", "not_names"}
		if e.maps[mapPorts][0] != nil && e.maps[mapNets][0] != nil {
			e.judges = append(e.judges, "ports", "nets")
		}
	}
	e.places = cfg.Workloads.join(cgroups)
	return e, nil
}

// Close ends the engine: what its programs are asked from now on is not changed.
func (e *Engine) Close() { e.places.leave() }

// Apply puts what a set wants in force. When it fails, what was in force is
// still.
func (e *Engine) Apply(want interest.Set) error {
	next := e.force ^ 1
	t, status := compile(want.Among(e.kinds).Terms(), e.types, e.judges)
	status.Judges, status.places, status.slot = e.judges, e.places, next
	// Programs that began before the last switch may still look here.
	if err := waitForPrograms(); err != nil {
		return fmt.Errorf("change the prefilter: wait for programs: %w", err)
	}
	for m := range e.maps {
		if err := e.fill(m, next, t.entries[m]); err != nil {
			return fmt.Errorf("change the prefilter: %w", err)
		}
	}
	if err := e.places.prepare(next, t.works); err != nil {
		return fmt.Errorf("change the prefilter: %w", err)
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
	to, name := e.maps[m][slot], mapNames[m][slot]
	for _, key := range e.keys[slot][m] {
		if err := to.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("empty map %s: %w", name, err)
		}
	}
	e.keys[slot][m] = nil
	for _, x := range entries {
		key := x.key(slot)
		e.keys[slot][m] = append(e.keys[slot][m], key)
		if err := to.Put(key, x.mask.bytes()); err != nil {
			return fmt.Errorf("fill map %s: %w", name, err)
		}
	}
	return nil
}

// Status returns what is in force.
func (e *Engine) Status() Status { return e.state }
