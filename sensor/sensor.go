// Package sensor turns kernel hooks into events. Each folder below is one
// sensor: NAME.bpf.c hooks the kernel and writes records into a ring buffer,
// NAME.go attaches it and decodes them, NAME_test.go makes it happen on a real
// kernel.
package sensor

import (
	"context"
	"slices"

	"warren/bpf"
	"warren/event"
	"warren/interest"
)

// A Sensor observes one part of the kernel.
//
// Start, Stop and Snapshot are called by one goroutine, the pipeline's. Emit is
// called by one goroutine at a time, the ring reader's, and never blocks; what
// it is given must not be changed afterwards.
type Sensor interface {
	// Name is the sensor's folder: process, socket.
	Name() string
	// Kinds is what the sensor can emit, as far as it knows: after Start, without
	// what the kernel or missing rights have refused.
	Kinds() event.KindSet
	// Start attaches the hooks that the wanted kinds and types of events need,
	// and has the kernel leave out what nobody wants as far as it can: what is
	// emitted is all that the set wants, and possibly more. Started again with
	// another set, it attaches and detaches the difference, and loses nothing
	// that both sets want.
	Start(want interest.Set, emit func(*event.Event)) error
	// Snapshot emits what exists already, read by BPF iterators through the
	// same ring and decoders, and returns when the kernel has written it.
	Snapshot(ctx context.Context) error
	// Stop detaches every hook. The sensor can be started again.
	Stop() error
	// Hooks reports how each hook is attached, and why not better.
	Hooks() []HookStatus
}

// A HookStatus says how a hook is attached, and for the sake of which events.
type HookStatus struct {
	bpf.HookStatus
	// Kinds are the events that are not told without it: those of Types, or all
	// where there are none.
	Kinds event.KindSet
	Types []string
}

// Serves returns the names of those who hold an interest in want that needs the
// hook.
func (h HookStatus) Serves(want interest.Set) []string {
	var names []string
	for _, holder := range want.Holders() {
		if holder.Name == "" {
			continue // nobody's any more
		}
		one := interest.Union(holder)
		for _, k := range (one.Kinds() & h.Kinds).List() {
			needs := len(h.Types) == 0
			for _, typ := range h.Types {
				needs = needs || one.Wants(k, typ)
			}
			if needs && !slices.Contains(names, holder.Name) {
				names = append(names, holder.Name)
			}
		}
	}
	return names
}
