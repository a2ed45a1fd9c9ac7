// Package file observes what processes do to files: what they open, which names
// they make, move and remove, what they mount.
//
// Paths are those of the kernel's own objects, read after the call: see
// bpf/include/walk.h. What a process asked for is reported beside them, and is
// never taken for a path.
//
// # Concurrency
//
// The decoders are called by the reader of the road alone and share nothing
// with the rest of the sensor but atomics.
package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/prefilter"
	"warren/sensor"
)

//go:generate go tool bpf2go -cc clang-19 -no-strip -target bpfel -type open_record -type change_record -type file_object -type file_actor -type file_what -type file_error -type file_marks file file.bpf.c -- -O2 -mcpu=v3 -Wall -Werror -I../../bpf/include

// Config tunes the sensor. The zero value is usable.
type Config struct {
	// Calls is how many calls that change or close files can be on their way at
	// the same time: what is known of more is lost, and counted. The kernel holds
	// some 1.2 KiB for each. A power of two, at least 64; default 1024.
	Calls int
	// Workloads know which container a cgroup is of, so that the kernel can judge it;
	// nil: it judges none.
	Workloads *prefilter.Workloads
}

// Validate checks the values.
func (c Config) Validate() error {
	if c.Calls != 0 && (c.Calls < 64 || c.Calls > 1<<20 || c.Calls&(c.Calls-1) != 0) {
		return fmt.Errorf("%d calls: has to be a power of two between 64 and 1048576", c.Calls)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Calls == 0 {
		c.Calls = 1024
	}
	return c
}

// A Sensor is the file sensor. Make one with New.
type Sensor struct {
	cfg  Config
	road *bpf.Road
	log  *slog.Logger

	// Of the decoders.
	emit   atomic.Pointer[func(*event.Event)]
	counts atomic.Pointer[prefilter.Counter]

	// Of the goroutine that calls Start, Snapshot and Stop.
	obj    *bpf.Object
	filter *prefilter.Engine
	status map[string]bpf.HookStatus
	epochs [maxWhats]uint32 // change_epochs of the programs
	sees   [maxWhats]uint8  // and change_sees
}

var _ sensor.Sensor = (*Sensor)(nil)

// New returns a sensor that writes to road. It starts nothing.
func New(road *bpf.Road, cfg Config, log *slog.Logger) *Sensor {
	return &Sensor{cfg: cfg.withDefaults(), road: road, log: log, status: map[string]bpf.HookStatus{}}
}

// Name implements [sensor.Sensor].
func (*Sensor) Name() string { return "file" }

var kinds = event.Kinds(event.KindOpen, event.KindFile, event.KindMount, event.KindFileClose)

// Kinds implements [sensor.Sensor].
func (*Sensor) Kinds() event.KindSet { return kinds }

// hook is a hook with what it is for.
type hook struct {
	bpf.Hook
	kind  event.Kind
	types []string
	more  []hook // other kinds that it is for, with their types; no hooks of their own
}

// wanted reports whether somebody wants what the hook is for.
func (h *hook) wanted(want interest.Set) bool {
	return slices.ContainsFunc(h.types, func(t string) bool { return want.Wants(h.kind, t) }) ||
		slices.ContainsFunc(h.more, func(m hook) bool { return m.wanted(want) })
}

// hooks are attached each when one of its types is wanted, so that what nobody
// asked for costs nothing.
func hooks() []hook {
	list := []hook{
		opening("open"),
		opening("openat"),
		opening("openat2"),
		opening("creat"),
		opening("open_by_handle_at"),
		changing(event.KindFile, "remove", "unlink unlinkat rmdir", "file_s_unlink", "file_s_rmdir"),
		changing(event.KindFile, "rename", "rename renameat renameat2", "file_s_rename"),
		changing(event.KindFile, "link", "link linkat", "file_s_link"),
		changing(event.KindFile, "symlink", "symlink symlinkat", "file_s_symlink"),
		changing(event.KindFile, "mkdir", "mkdir mkdirat", "file_s_mkdir"),
		changing(event.KindFile, "chmod", "chmod fchmod fchmodat", "file_s_chmod"),
		changing(event.KindFile, "chmod2", "fchmodat2", "file_s_chmod"),
		changing(event.KindFile, "chown", "chown lchown fchown fchownat", "file_s_chown"),
		changing(event.KindFile, "truncate", "truncate ftruncate", "file_s_truncate"),
		changing(event.KindMount, "mount", "mount", "file_s_mount"),
		changing(event.KindMount, "umount", "umount", "file_s_umount"),
		changing(event.KindMount, "move_mount", "move_mount", "file_s_movemnt"),
		closing(),
	}
	list = append(list, uring())
	return slices.DeleteFunc(list, func(h hook) bool { return len(h.types) == 0 })
}

// opening is the hook of a system call that opens files.
func opening(call string) hook {
	h := hook{kind: event.KindOpen}
	if exists(call) {
		h.types = []string{call}
	}
	h.Hook = bpf.Hook{Name: "file." + call, Purpose: "files that are opened: " + call, Rungs: []bpf.Rung{
		{Kind: "tracepoint", Attachments: []bpf.Attachment{bpf.Tracepoint("file_open_x", "syscalls", "sys_exit_"+call)}},
	}}
	return h
}

// changing is the hook of system calls that change something. Where the
// kernel lets objects be seen in the middle of the call, programs do so; else
// what is asked for is read when the call begins. What a kernel refuses comes
// first: the rest is not loaded in vain.
func changing(kind event.Kind, name, calls string, seen ...string) hook {
	h := hook{kind: kind}
	var exits, enters, sights []bpf.Attachment
	for call := range strings.FieldsSeq(calls) {
		if !exists(call) {
			continue
		}
		exits = append(exits, bpf.Tracepoint("file_change_x", "syscalls", "sys_exit_"+call))
		enters = append(enters, bpf.Tracepoint("file_change_e", "syscalls", "sys_enter_"+call))
		h.types = append(h.types, call)
	}
	if kind == event.KindMount && name == "umount" {
		h.types = []string{"umount", "umount2"}
	}
	for _, program := range seen {
		sights = append(sights, bpf.BTF(program))
	}
	h.Hook = bpf.Hook{Name: "file." + name, Purpose: "what is changed: " + strings.Join(h.types, ", "), Rungs: []bpf.Rung{
		{Kind: "fentry", Attachments: slices.Concat(sights, exits)},
		{Kind: "tracepoint", Attachments: slices.Concat(exits, enters)},
	}}
	return h
}

// closing is the hook of all ways on which descriptors go. An exec must be seen before
// it has closed any: since Linux 6.10 there is a tracepoint, before it takes fexit.
// Where the kernel has neither, the last rung misses what execs close.
func closing() hook {
	var all []bpf.Attachment
	for _, call := range []string{"close", "dup2", "dup3"} {
		if exists(call) {
			all = append(all, bpf.Tracepoint("file_change_x", "syscalls", "sys_exit_"+call), bpf.Tracepoint("file_close_e", "syscalls", "sys_enter_"+call))
		}
	}
	all = append(all, bpf.Tracepoint("file_close_many", "syscalls", "sys_enter_close_range"), bpf.BTF("file_close_exit"))
	return hook{Hook: bpf.Hook{Name: "file.close", Purpose: "files that were open for writing are closed", Rungs: []bpf.Rung{
		{Kind: "tracepoint", Attachments: slices.Concat([]bpf.Attachment{bpf.BTF("file_close_exec")}, all)},
		{Kind: "tracepoint/fexit", Attachments: slices.Concat([]bpf.Attachment{bpf.BTF("file_exec_fexit")}, all)},
		{Kind: "tracepoint/no_exec", Attachments: all},
	}}, kind: event.KindFileClose, types: []string{"close"}}
}

// Hooks returns every hook that the sensor may attach, whatever is wanted of it.
func Hooks() []bpf.Hook {
	var out []bpf.Hook
	for _, h := range hooks() {
		out = append(out, h.Hook)
	}
	return out
}

// Start implements [sensor.Sensor]. What this kernel refuses, Hooks tells.
func (s *Sensor) Start(want interest.Set, emit func(*event.Event)) (err error) {
	if want.Kinds()&s.Kinds() == 0 {
		return s.Stop()
	}
	if s.obj == nil {
		if err := s.open(); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				_ = s.Stop() // what failed first is what counts
			}
		}()
	}
	s.emit.Store(&emit)
	// Before a hook is attached, so that none records what nobody wants.
	if err := s.filter.Apply(want); err != nil {
		return err
	}
	if err := s.counts.Load().Apply(prefilter.Counting(want, kinds)); err != nil {
		return err
	}
	var spare []string
	for _, h := range hooks() {
		unwanted, err := s.arrange(h, want)
		if err != nil {
			return err
		}
		if unwanted {
			spare = append(spare, h.Name)
		}
	}
	return s.obj.Detach(spare...)
}

// maxWhats is how many kinds of calls the programs keep apart.
const maxWhats = 64

// see tells the programs whether the objects of a hook's calls are seen.
func (s *Sensor) see(h hook, all bool) error {
	for what, t := range types {
		if t.Kind == h.kind && slices.Contains(h.types, t.Name) {
			s.sees[what] = 0
			if all {
				s.sees[what] = 1
			}
		}
	}
	if err := s.obj.Variable("change_sees").Set(s.sees); err != nil {
		return fmt.Errorf("set change_sees: %w", err)
	}
	return nil
}

// begin has what was seen so far of a hook's calls not be taken for true: calls
// that were on their way when it was detached ended unseen.
func (s *Sensor) begin(h hook) error {
	for what, t := range types {
		if t.Kind == h.kind && slices.Contains(h.types, t.Name) {
			s.epochs[what]++
		}
	}
	if err := s.obj.Variable("change_epochs").Set(s.epochs); err != nil {
		return fmt.Errorf("set change_epochs: %w", err)
	}
	return nil
}

// open makes the maps in the kernel and registers the decoders.
func (s *Sensor) open() error {
	spec, err := loadFile()
	if err != nil {
		return fmt.Errorf("read object file: %w", err)
	}
	if err := errors.Join(s.size(spec), setCalls(spec)); err != nil {
		return err
	}
	s.obj, err = s.road.Open("file", spec)
	if err != nil {
		return err
	}
	if s.filter, err = prefilter.New(s.obj, prefilter.Config{Types: types, Workloads: s.cfg.Workloads}); err != nil {
		return errors.Join(err, s.Stop())
	}
	counts, err := prefilter.NewCounter(s.obj, s.road, func(uint32) uint8 { return bpf.RecOpen }, s.send)
	if err != nil {
		return errors.Join(err, s.Stop())
	}
	s.counts.Store(counts)
	s.road.Handle(bpf.RecOpen, "file.open", bpf.Bulk, s.decodeOpen)
	s.road.Handle(bpf.RecFile, "file.change", bpf.Bulk, s.decodeChange)
	s.road.Handle(bpf.RecMount, "file.mount", bpf.Bulk, s.decodeChange)
	s.road.Handle(bpf.RecClose, "file.close", bpf.Bulk, s.decodeChange)
	return nil
}

// slotWays is how many slots a set has: calls.h.
const slotWays = 8

// longTexts is how many calls there are for one that may have paths which do not
// fit into its slot.
const longTexts = 16

// size gives the maps of calls that are on their way their sizes.
func (s *Sensor) size(spec *ebpf.CollectionSpec) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	for _, m := range []struct {
		sets, slots, mask string
		n                 int
	}{{"call_sets", "calls", "call_mask", s.cfg.Calls}, {"text_sets", "call_texts", "text_mask", max(slotWays, s.cfg.Calls/longTexts)}} {
		sets := uint32(m.n / slotWays)
		spec.Maps[m.sets].MaxEntries, spec.Maps[m.slots].MaxEntries = sets, sets*slotWays
		if err := spec.Variables[m.mask].Set(sets - 1); err != nil {
			return fmt.Errorf("set %s: %w", m.mask, err)
		}
	}
	return nil
}

// types are the types of events by the programs' numbers.
var types = typesOf()

func typesOf() []prefilter.Type {
	list := make([]prefilter.Type, fileFileWhatFILE_WHATS)
	for what, name := range openTypes {
		list[what] = prefilter.Type{Kind: event.KindOpen, Name: name}
	}
	for what, name := range changeTypes {
		if name != "" {
			list[what] = prefilter.Type{Kind: kindOf(fileFileWhat(what)), Name: name}
		}
	}
	return list
}

// Prefilter returns what of the wanted events the kernel is asked to tell.
func (s *Sensor) Prefilter() prefilter.Status {
	if s.filter == nil {
		return prefilter.Status{}
	}
	return s.filter.Status()
}

// arrange attaches a hook that is wanted. It reports whether the hook is attached
// and nobody wants it.
func (s *Sensor) arrange(h hook, want interest.Set) (spare bool, err error) {
	st, known := s.status[h.Name]
	attached := known && st.Err == ""
	if !h.wanted(want) {
		delete(s.status, h.Name)
		return attached, nil
	}
	if attached {
		return false, nil
	}
	if err := s.begin(h); err != nil {
		return false, err
	}
	if err := s.see(h, false); err != nil {
		return false, err
	}
	st, err = s.obj.Attach(h.Hook)
	s.status[h.Name] = st
	if err != nil {
		s.log.Warn("hook is not available", "hook", h.Name, "err", err)
		return false, nil
	}
	if st.Rung == "fentry" {
		return false, s.see(h, true)
	}
	if len(st.Refused) == 0 {
		return false, nil
	}
	return false, s.begin(h) // programs of a rung that was tried may have left something
}

// Snapshot implements [sensor.Sensor]: files have no past that is told.
func (*Sensor) Snapshot(context.Context) error { return nil }

// Stop implements [sensor.Sensor].
func (s *Sensor) Stop() error {
	if s.obj == nil {
		return nil
	}
	var errs []error
	if counts := s.counts.Load(); counts != nil { // what was counted is told when nothing is any more
		errs = append(errs, s.obj.Detach(slices.Collect(maps.Keys(s.status))...), counts.Close())
	}
	if s.filter != nil {
		s.filter.Close()
		s.filter = nil
	}
	errs = append(errs, s.obj.Close())
	s.obj = nil
	s.counts.Store(nil)
	s.epochs, s.sees = [maxWhats]uint32{}, [maxWhats]uint8{}
	clear(s.status)
	return errors.Join(errs...)
}

// Hooks implements [sensor.Sensor].
func (s *Sensor) Hooks() []sensor.HookStatus {
	var out []sensor.HookStatus
	for _, h := range hooks() {
		if st, ok := s.status[h.Name]; ok {
			kinds, types := event.Kinds(h.kind), h.types
			for _, m := range h.more {
				kinds, types = kinds|event.Kinds(m.kind), slices.Concat(types, m.types)
			}
			out = append(out, sensor.HookStatus{HookStatus: st, Kinds: kinds, Types: types})
		}
	}
	return out
}

func (s *Sensor) send(e *event.Event) {
	if emit := s.emit.Load(); emit != nil {
		(*emit)(e)
	}
}
