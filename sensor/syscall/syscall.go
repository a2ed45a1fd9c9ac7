// Package syscall observes the system calls of event.Calls, each when it
// returns: what is ptraced, loaded into the kernel, signalled, made a descriptor
// of.
//
// One program serves them all: a map that is filled from event.Calls says what
// to read of each call. A call that nobody wants has no hook, and costs nothing.
//
// # Concurrency
//
// The decoder is called by the reader of the road alone and shares nothing with
// the rest of the sensor but an atomic.
package syscall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/prefilter"
	"warren/sensor"
)

//go:generate go tool bpf2go -cc clang-19 -no-strip -target bpfel -type syscall_record -type call_plan -type read_plan -type fd_object -type task_key -type read_flags -type read_how -type uring_marks syscall syscall.bpf.c -- -O2 -mcpu=v3 -Wall -Werror -I../../bpf/include

// Config tunes the sensor. The zero value is usable.
type Config struct {
	// Workloads know which container a cgroup is of, so that the kernel can judge it;
	// nil: it judges none.
	Workloads *prefilter.Workloads
}

// A Sensor is the syscall sensor. Make one with New.
type Sensor struct {
	road *bpf.Road
	cfg  Config
	log  *slog.Logger

	// Of the decoder.
	emit   atomic.Pointer[func(*event.Event)]
	counts atomic.Pointer[prefilter.Counter]

	// Of the goroutine that calls Start, Snapshot and Stop.
	obj    *bpf.Object
	engine *prefilter.Engine
	status map[string]bpf.HookStatus
}

var _ sensor.Sensor = (*Sensor)(nil)

// New returns a sensor that writes to road. It starts nothing.
func New(road *bpf.Road, cfg Config, log *slog.Logger) *Sensor {
	return &Sensor{road: road, cfg: cfg, log: log, status: map[string]bpf.HookStatus{}}
}

// Name implements [sensor.Sensor].
func (*Sensor) Name() string { return "syscall" }

var kinds = event.Kinds(event.KindSyscall)

// Kinds implements [sensor.Sensor].
func (*Sensor) Kinds() event.KindSet { return kinds }

// hookOf returns the hook of a call.
func hookOf(c *event.Call) bpf.Hook {
	return bpf.Hook{Name: "syscall." + c.Name, Purpose: c.Doc, Rungs: []bpf.Rung{
		{Kind: "tracepoint", Attachments: []bpf.Attachment{bpf.Tracepoint("syscall_exit", "syscalls", "sys_exit_"+c.Name)}},
	}}
}

// A hook is a hook with the types of events that it is for.
type hook struct {
	bpf.Hook
	types []string
}

// hooks are those of all calls, and that of io_uring for those that it can be asked
// for: requests pass it whatever they are about.
func hooks() []hook {
	var out []hook
	var byUring []string
	for i := range event.Calls {
		c := &event.Calls[i]
		if c.Number() == event.NoCall {
			continue
		}
		out = append(out, hook{hookOf(c), []string{c.Name}})
		if len(c.Uring) > 0 {
			byUring = append(byUring, c.Name)
		}
	}
	end := []bpf.Attachment{bpf.BTF("syscall_u_done"), bpf.BTF("syscall_u_over")}
	return append(out, hook{bpf.Hook{Name: "syscall.io_uring", Purpose: "requests of io_uring that are such calls: " + strings.Join(byUring, ", "), Rungs: []bpf.Rung{
		{Kind: "tp_btf", Attachments: append([]bpf.Attachment{bpf.BTF("syscall_u_req")}, end...)},
		{Kind: "tp_btf/submit_sqe", Attachments: append([]bpf.Attachment{bpf.BTF("syscall_u_sqe")}, end...)},
	}}, byUring})
}

// Hooks returns every hook that the sensor may attach, whatever is wanted of it.
func Hooks() []bpf.Hook {
	var out []bpf.Hook
	for _, h := range hooks() {
		out = append(out, h.Hook)
	}
	return out
}

// Start implements [sensor.Sensor]. It attaches the hooks of the types that
// somebody wants. What this kernel lacks or refuses, Hooks tells.
func (s *Sensor) Start(want interest.Set, emit func(*event.Event)) (err error) {
	if want.Kinds()&kinds == 0 {
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
	if err := s.engine.Apply(want); err != nil {
		return fmt.Errorf("start syscall sensor: %w", err)
	}
	if err := s.counts.Load().Apply(prefilter.Counting(want, kinds)); err != nil {
		return fmt.Errorf("start syscall sensor: %w", err)
	}
	var spare []string
	for _, h := range hooks() {
		if s.arrange(h, want) {
			spare = append(spare, h.Name)
		}
	}
	return s.obj.Detach(spare...)
}

// open makes the maps in the kernel, tells it what to read, and registers the
// decoder.
func (s *Sensor) open() error {
	spec, err := loadSyscall()
	if err != nil {
		return fmt.Errorf("read object syscall: %w", err)
	}
	var ns unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &ns); err != nil {
		return fmt.Errorf("stat own pid namespace: %w", err)
	}
	for name, value := range map[string]uint32{"self_pid": uint32(os.Getpid()), "self_pidns": uint32(ns.Ino)} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if err := setUring(spec); err != nil {
		return err
	}
	obj, err := s.road.Open("syscall", spec)
	if err != nil {
		return err
	}
	for i := range event.Calls {
		c := &event.Calls[i]
		if c.Number() == event.NoCall {
			continue
		}
		if err := obj.Map("call_plans").Put(c.Number(), planOf(i, c)); err != nil {
			_ = obj.Close()
			return fmt.Errorf("plan call %s: %w", c.Name, err)
		}
	}
	// Types are known by their place in the table.
	types := make([]prefilter.Type, len(event.Calls))
	for i := range types {
		types[i] = prefilter.Type{Kind: event.KindSyscall, Name: event.Calls[i].Name}
	}
	if s.engine, err = prefilter.New(obj, prefilter.Config{Types: types, Workloads: s.cfg.Workloads}); err != nil {
		_ = obj.Close()
		return err
	}
	counts, err := prefilter.NewCounter(obj, s.road, recordTypeOf, s.send)
	if err != nil {
		s.engine.Close()
		_ = obj.Close()
		return err
	}
	s.obj = obj
	s.counts.Store(counts)
	s.road.Handle(bpf.RecCall, "syscall.call", bpf.Bulk, s.decode)
	s.road.Handle(bpf.RecCallUp, "syscall.call_critical", bpf.Critical, s.decode)
	return nil
}

// setUring tells the programs which calls io_uring's operations are, plus one.
func setUring(spec *ebpf.CollectionSpec) error {
	v := spec.Variables["uring_calls"]
	calls := make([]uint16, v.Size()/2)
	for i := range event.Calls {
		c := &event.Calls[i]
		for _, op := range c.Uring {
			calls[op] = uint16(c.Number()) + 1
		}
	}
	if err := v.Set(calls); err != nil {
		return fmt.Errorf("set uring_calls: %w", err)
	}
	return nil
}

// recordTypeOf returns the type of the records of a call, by its place in the table;
// of those that failed, where there are two.
func recordTypeOf(uint32) uint8 { return bpf.RecCall }

// Registers as the kernel's program knows them.
const (
	noRegister = 0xff
	atResult   = 0xfe
)

// planOf says to the kernel's program what to read of a call.
func planOf(index int, c *event.Call) syscallCallPlan {
	p := syscallCallPlan{Call: uint16(index + 1), FdAt: noRegister, Own: c.Own}
	switch {
	case c.FD == event.AtResult:
		p.FdAt = atResult
	case c.FD >= 0:
		p.FdAt = uint8(c.FD)
	}
	if c.FDObject {
		p.Object = 1
	}
	if c.Critical {
		p.Critical = 1
	}
	for i, r := range c.Reads {
		q := syscallReadPlan{How: uint8(r.How), At: r.At, Max: r.Max, LenAt: noRegister, IfAt: r.If.At, Is: r.If.Is}
		if r.Len != event.NoLen {
			q.LenAt = uint8(r.Len)
		}
		for flag, on := range map[syscallReadFlags]bool{
			syscallReadFlagsREAD_BY_RESULT: r.ByResult, syscallReadFlagsREAD_DONE: r.If.Done, syscallReadFlagsREAD_NOT: r.If.Not,
		} {
			if on {
				q.Flags |= uint8(flag)
			}
		}
		p.Reads[i] = q
	}
	return p
}

// Prefilter returns what of the wanted events the kernel is asked to tell.
func (s *Sensor) Prefilter() prefilter.Status {
	if s.obj == nil {
		return prefilter.Status{}
	}
	return s.engine.Status()
}

// arrange attaches a hook that is wanted. It reports whether the hook is attached and
// nobody wants it.
func (s *Sensor) arrange(h hook, want interest.Set) (spare bool) {
	st, known := s.status[h.Name]
	attached := known && st.Err == ""
	if !slices.ContainsFunc(h.types, func(t string) bool { return want.Wants(event.KindSyscall, t) }) {
		delete(s.status, h.Name)
		return attached
	}
	if attached {
		return false
	}
	st, err := s.obj.Attach(h.Hook)
	s.status[h.Name] = st
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.log.Debug("kernel was built without a call", "hook", h.Name, "err", err) // nobody can make it
	case err != nil:
		s.log.Warn("hook is not available", "hook", h.Name, "err", err)
	}
	return false
}

// Snapshot implements [sensor.Sensor]: calls have no past that is told.
func (*Sensor) Snapshot(context.Context) error { return nil }

// Stop implements [sensor.Sensor].
func (s *Sensor) Stop() error {
	if s.obj == nil {
		return nil
	}
	s.engine.Close()
	// What was counted is told when nothing is any more.
	err := errors.Join(s.obj.Detach(slices.Collect(maps.Keys(s.status))...), s.counts.Load().Close(), s.obj.Close())
	s.obj = nil
	s.counts.Store(nil)
	clear(s.status)
	return err
}

// Hooks implements [sensor.Sensor].
func (s *Sensor) Hooks() []sensor.HookStatus {
	var out []sensor.HookStatus
	for _, h := range hooks() {
		if st, ok := s.status[h.Name]; ok {
			out = append(out, sensor.HookStatus{HookStatus: st, Kinds: kinds, Types: h.types})
		}
	}
	return out
}
