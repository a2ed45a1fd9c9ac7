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
	"runtime"
	"slices"
	"sync/atomic"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/prefilter"
	"warren/sensor"
)

//go:generate go tool bpf2go -cc clang-19 -no-strip -target bpfel -type open_record -type file_what -type file_error -type file_marks file file.bpf.c -- -O2 -mcpu=v3 -Wall -Werror -I../../bpf/include

// Config tunes the sensor. The zero value is usable.
type Config struct{}

// A Sensor is the file sensor. Make one with New.
type Sensor struct {
	road *bpf.Road
	log  *slog.Logger

	// Of the decoders.
	emit atomic.Pointer[func(*event.Event)]

	// Of the goroutine that calls Start, Snapshot and Stop.
	obj    *bpf.Object
	filter *prefilter.Engine
	status map[string]bpf.HookStatus
}

var _ sensor.Sensor = (*Sensor)(nil)

// New returns a sensor that writes to road. It starts nothing.
func New(road *bpf.Road, _ Config, log *slog.Logger) *Sensor {
	return &Sensor{road: road, log: log, status: map[string]bpf.HookStatus{}}
}

// Name implements [sensor.Sensor].
func (*Sensor) Name() string { return "file" }

var kinds = event.Kinds(event.KindOpen)

// Kinds implements [sensor.Sensor].
func (*Sensor) Kinds() event.KindSet { return kinds }

// hook is a hook with what it is for.
type hook struct {
	bpf.Hook
	kind  event.Kind
	types []string
}

// hooks has one hook for each system call, so that a call that nobody asked for
// costs nothing.
func hooks() []hook {
	var list []hook
	call := func(kind event.Kind, program, name string) {
		if runtime.GOARCH != "amd64" && slices.Contains(oldCalls, name) {
			return
		}
		list = append(list, hook{bpf.Hook{Name: "file." + name, Purpose: kind.Doc(), Rungs: []bpf.Rung{
			{Kind: "tracepoint", Attachments: []bpf.Attachment{bpf.Tracepoint(program, "syscalls", "sys_exit_"+name)}},
		}}, kind, []string{name}})
	}
	call(event.KindOpen, "file_open", "open")
	call(event.KindOpen, "file_openat", "openat")
	call(event.KindOpen, "file_openat2", "openat2")
	call(event.KindOpen, "file_creat", "creat")
	call(event.KindOpen, "file_open_hdl", "open_by_handle_at")
	return list
}

// oldCalls are calls that only old architectures have.
var oldCalls = []string{"open", "creat"}

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
	for _, h := range hooks() {
		if err := s.arrange(h, want); err != nil {
			return err
		}
	}
	return nil
}

// open makes the maps in the kernel and registers the decoders.
func (s *Sensor) open() error {
	spec, err := loadFile()
	if err != nil {
		return fmt.Errorf("read object file: %w", err)
	}
	s.obj, err = s.road.Open("file", spec)
	if err != nil {
		return err
	}
	if s.filter, err = prefilter.New(s.obj, types); err != nil {
		return errors.Join(err, s.Stop())
	}
	s.road.Handle(bpf.RecOpen, "file.open", bpf.Bulk, s.decodeOpen)
	return nil
}

// types are the types of events by the programs' numbers.
var types = []prefilter.Type{
	fileFileWhatFILE_OPEN:           {Kind: event.KindOpen, Name: "open"},
	fileFileWhatFILE_OPENAT:         {Kind: event.KindOpen, Name: "openat"},
	fileFileWhatFILE_OPENAT2:        {Kind: event.KindOpen, Name: "openat2"},
	fileFileWhatFILE_CREAT:          {Kind: event.KindOpen, Name: "creat"},
	fileFileWhatFILE_OPEN_BY_HANDLE: {Kind: event.KindOpen, Name: "open_by_handle_at"},
}

// Prefilter returns what of the wanted events the kernel is asked to tell.
func (s *Sensor) Prefilter() prefilter.Status {
	if s.obj == nil {
		return prefilter.Status{}
	}
	return s.filter.Status()
}

// arrange attaches or detaches one hook.
func (s *Sensor) arrange(h hook, want interest.Set) error {
	st, known := s.status[h.Name]
	attached := known && st.Err == ""
	if !slices.ContainsFunc(h.types, func(t string) bool { return want.Wants(h.kind, t) }) {
		delete(s.status, h.Name)
		if !attached {
			return nil
		}
		return s.obj.Detach(h.Name)
	}
	if attached {
		return nil
	}
	st, err := s.obj.Attach(h.Hook)
	s.status[h.Name] = st
	if err != nil {
		s.log.Warn("hook is not available", "hook", h.Name, "err", err)
	}
	return nil
}

// Snapshot implements [sensor.Sensor]: files have no past that is told.
func (*Sensor) Snapshot(context.Context) error { return nil }

// Stop implements [sensor.Sensor].
func (s *Sensor) Stop() error {
	if s.obj == nil {
		return nil
	}
	err := s.obj.Close()
	s.obj = nil
	clear(s.status)
	return err
}

// Hooks implements [sensor.Sensor].
func (s *Sensor) Hooks() []sensor.HookStatus {
	var out []sensor.HookStatus
	for _, h := range hooks() {
		if st, ok := s.status[h.Name]; ok {
			out = append(out, sensor.HookStatus{HookStatus: st, Kinds: event.Kinds(h.kind), Types: h.types})
		}
	}
	return out
}

func (s *Sensor) send(e *event.Event) {
	if emit := s.emit.Load(); emit != nil {
		(*emit)(e)
	}
}
