// Package process observes processes: how they come to be, what they run, how
// they end, and when their credentials or namespaces change.
//
// It tells the kernel's own view: paths from dentries and mounts, arguments from
// the new image's memory, identity from task storage that the kernel copies
// along. What it cannot know there (names of users, containers, the path of a
// parent long gone) is completed by the identity package.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/sensor"
)

//go:generate go tool bpf2go -cc clang-19 -no-strip -target bpfel -type file_record -type path_end files files.bpf.c -- -O2 -mcpu=v3 -Wall -Werror -I../../bpf/include
//go:generate go tool bpf2go -cc clang-19 -no-strip -target bpfel -type task_key -type creds -type namespaces -type cgroup_key -type task_info -type fork_record -type exec_record -type exit_record -type cred_record -type ns_record -type cgroup_record -type attempt_record -type image_flags -type task_flags process process.bpf.c -- -O2 -mcpu=v3 -Wall -Werror -I../../bpf/include

// maxArgs is the most bytes of arguments that the kernel side keeps: ARGS_MAX
// of process.bpf.c.
const maxArgs = 32 << 10

// Config of the sensor. The zero value is usable.
type Config struct {
	// CriticalBytes is the size of the road's critical ring, 0 its default. In a
	// ring below 128 KiB arguments are cut at a quarter of it.
	CriticalBytes int
}

// Kinds is what the sensor can emit.
var kinds = event.Kinds(event.KindExec, event.KindFork, event.KindExit, event.KindCredentials, event.KindNamespace, event.KindProcess, event.KindCgroup, event.KindAttempt)

// base are the hooks that everything else rests on: attached whatever is
// wanted of the sensor, for the tables of identity need every birth, image and
// end, and changes are noticed against what fork and exec told.
var base = []bpf.Hook{
	{Name: "process.fork", Purpose: "processes created", Rungs: []bpf.Rung{
		{Kind: "tp_btf", Attachments: []bpf.Attachment{bpf.BTF("process_fork")}},
	}},
	{Name: "process.exec", Purpose: "programs started", Rungs: []bpf.Rung{
		{Kind: "tp_btf", Attachments: []bpf.Attachment{bpf.BTF("process_exec")}},
	}},
	{Name: "process.exit", Purpose: "processes ended", Rungs: []bpf.Rung{
		{Kind: "tp_btf", Attachments: []bpf.Attachment{bpf.BTF("process_exit")}},
	}},
}

// moves is attached beside them: a process that is moved to another cgroup belongs
// to another container from then on, and where the road is limited to a part of the
// machine it comes into it, or leaves it.
var moves = bpf.Hook{Name: "process.moves", Purpose: "processes moved to other cgroups", Rungs: []bpf.Rung{
	{Kind: "tp_btf", Attachments: []bpf.Attachment{bpf.BTF("process_moved")}},
}}

// snapshot is the hook that reads the processes there are. Without sleeping it
// cannot read other processes' arguments.
var snapshot = bpf.Hook{Name: "process.snapshot", Purpose: "processes older than the agent", Rungs: []bpf.Rung{
	{Kind: "iter.s", Attachments: []bpf.Attachment{bpf.Iter("process_task_s")}},
	{Kind: "iter", Attachments: []bpf.Attachment{bpf.Iter("process_task")}},
}}

// changes are attached while their kind is wanted.
var changes = map[event.Kind]bpf.Hook{
	event.KindCredentials: {Name: "process.credentials", Purpose: "changes of users, groups and capabilities", Rungs: []bpf.Rung{
		{Kind: "fentry", Attachments: []bpf.Attachment{bpf.BTF("process_cred_e")}},
		{Kind: "tracepoint", Attachments: append(around("process_cred_r", "setuid", "setgid", "setreuid", "setregid", "setresuid",
			"setresgid", "setfsuid", "setfsgid", "capset", "setns", "unshare"),
			bpf.Tracepoint("process_prctl", "syscalls", "sys_enter_prctl"), bpf.Tracepoint("process_cred_r", "syscalls", "sys_exit_prctl"))},
	}},
	event.KindNamespace: {Name: "process.namespaces", Purpose: "changes of namespaces", Rungs: []bpf.Rung{
		{Kind: "fentry", Attachments: []bpf.Attachment{bpf.BTF("process_ns_e"), bpf.BTF("process_uns_e")}},
		{Kind: "tracepoint", Attachments: around("process_ns_r", "setns", "unshare")},
	}},
}

// Hooks returns every hook that the sensor may attach, whatever is wanted of it.
func Hooks() []bpf.Hook {
	return append(slices.Clone(base), moves, snapshot, changes[event.KindCredentials], changes[event.KindNamespace], attempts[0].Hook, attempts[1].Hook)
}

// around attaches to entry and exit of system calls.
func around(exit string, calls ...string) []bpf.Attachment {
	var as []bpf.Attachment
	for _, c := range calls {
		as = append(as, bpf.Tracepoint("process_before", "syscalls", "sys_enter_"+c), bpf.Tracepoint(exit, "syscalls", "sys_exit_"+c))
	}
	return as
}

// A Sensor observes processes. Its concurrency is that of [sensor.Sensor].
type Sensor struct {
	road *bpf.Road
	cfg  Config
	log  *slog.Logger
	dec  decoder

	mu     sync.Mutex // guards the fields below against Hooks
	object *bpf.Object
	hooks  map[string]bpf.HookStatus
	order  []string // names of hooks, as attached
}

var _ sensor.Sensor = (*Sensor)(nil)

// New makes a sensor and registers its decoders with the road. It puts nothing
// into the kernel.
func New(road *bpf.Road, cfg Config, log *slog.Logger) *Sensor {
	s := &Sensor{road: road, cfg: cfg, log: log, hooks: map[string]bpf.HookStatus{}}
	for _, r := range []struct {
		id     uint8
		name   string
		decode func([]byte) (*event.Event, error)
	}{
		{bpf.RecFork, "process.fork", s.dec.fork},
		{bpf.RecExec, "process.exec", s.dec.exec},
		{bpf.RecExit, "process.exit", s.dec.exit},
		{bpf.RecCred, "process.credentials", s.dec.credentials},
		{bpf.RecNS, "process.namespaces", s.dec.namespaces},
		{bpf.RecTask, "process.existing", s.dec.task},
		{bpf.RecCgroup, "process.cgroup", s.dec.cgroup},
		{bpf.RecTry, "process.attempt", s.dec.attempt},
	} {
		lane := bpf.Critical
		if r.id == bpf.RecTry { // anybody can make as many as he likes
			lane = bpf.Bulk
		}
		road.Handle(r.id, r.name, lane, func(rec []byte) error {
			e, err := r.decode(rec)
			if e != nil {
				s.dec.emit(e)
			}
			return err
		})
	}
	return s
}

// Name implements [sensor.Sensor].
func (*Sensor) Name() string { return "process" }

// Kinds implements [sensor.Sensor]. Once a hook has been tried in vain, its kind
// is none of them.
func (s *Sensor) Kinds() event.KindSet {
	s.mu.Lock()
	defer s.mu.Unlock()
	can := kinds
	for k, h := range changes {
		if st, tried := s.hooks[h.Name]; tried && st.Err != "" {
			can &^= event.Kinds(k)
		}
	}
	return can
}

// Start implements [sensor.Sensor]. It fails if forks, execs or exits cannot be
// observed; what else is missing is told by Hooks.
func (s *Sensor) Start(wanted interest.Set, emit func(*event.Event)) (err error) {
	want := wanted.Kinds()
	if want&kinds == 0 {
		return s.Stop()
	}
	s.dec.sink.Store(&emit)

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.object == nil {
		if s.object, err = s.open(); err != nil {
			return fmt.Errorf("start process sensor: %w", err)
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.detachAll())
		}
	}()
	hooks := base
	if s.road.Limited() {
		hooks = append(slices.Clone(base), moves)
		if len(s.order) == 0 {
			if err := s.forget(); err != nil {
				return fmt.Errorf("start process sensor: %w", err)
			}
		}
	}
	for _, h := range hooks {
		if err := s.attach(h); err != nil {
			return fmt.Errorf("start process sensor: %w", err)
		}
	}
	s.tryAttach(moves)
	for _, k := range []event.Kind{event.KindCredentials, event.KindNamespace} {
		h := changes[k]
		if !want.Has(k) {
			if err := s.detach(h.Name); err != nil {
				return fmt.Errorf("start process sensor: %w", err)
			}
			continue
		}
		s.tryAttach(h)
	}
	for _, a := range attempts {
		if !a.wanted(wanted) {
			if err := s.detach(a.Name); err != nil {
				return fmt.Errorf("start process sensor: %w", err)
			}
			continue
		}
		s.tryAttach(a.Hook)
	}
	if err := s.compare(); err != nil {
		return fmt.Errorf("start process sensor: %w", err)
	}
	s.tryAttach(snapshot)
	return nil
}

func (s *Sensor) open() (*bpf.Object, error) {
	spec, err := loadProcess()
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count CPUs: %w", err)
	}
	spec.Maps["exec_scratches"].MaxEntries = uint32(cpus) + 1 // for moves
	if !s.road.Limited() {
		spec.Maps["told"].MaxEntries = 1 // nothing is remembered
	}
	if err := spec.Variables["cpus"].Set(uint32(cpus)); err != nil {
		return nil, fmt.Errorf("set cpus: %w", err)
	}
	args := maxArgs
	if s.cfg.CriticalBytes > 0 {
		args = min(args, s.cfg.CriticalBytes/4)
	}
	if err := spec.Variables["args_max"].Set(uint32(args)); err != nil {
		return nil, fmt.Errorf("set args_max: %w", err)
	}
	return s.road.Open("process", spec)
}

// forget empties the kernel's memory of the processes it told of: while nothing
// was attached, their ends went unseen.
func (s *Sensor) forget() error {
	told := s.object.Map("told")
	keys := make([]uint32, told.MaxEntries())
	for i := range keys {
		keys[i] = uint32(i)
	}
	if _, err := told.BatchUpdate(keys, make([]uint64, len(keys)), nil); err != nil {
		return fmt.Errorf("clear map told: %w", err)
	}
	return nil
}

// attach attaches a hook that is not attached yet.
func (s *Sensor) attach(h bpf.Hook) error {
	if s.hooks[h.Name].Rung != "" {
		return nil
	}
	st, err := s.object.Attach(h)
	if _, known := s.hooks[h.Name]; !known {
		s.order = append(s.order, h.Name)
	}
	s.hooks[h.Name] = st
	return err
}

// tryAttach is attach for hooks that the sensor can do without.
func (s *Sensor) tryAttach(h bpf.Hook) {
	if err := s.attach(h); err != nil {
		s.log.Warn("hook not attached", "hook", h.Name, "err", err)
	}
}

// compare has changes looked for at every fork, exec and exit where hooks cannot
// see all of them: those of system calls do not see 32-bit ones.
func (s *Sensor) compare() error {
	for name, k := range map[string]event.Kind{"compare_creds": event.KindCredentials, "compare_ns": event.KindNamespace} {
		if err := s.object.Variable(name).Set(s.hooks[changes[k].Name].Rung == "tracepoint"); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

func (s *Sensor) detach(name string) error {
	if _, known := s.hooks[name]; !known {
		return nil
	}
	delete(s.hooks, name)
	for i, n := range s.order {
		if n == name {
			s.order = append(s.order[:i:i], s.order[i+1:]...)
			break
		}
	}
	return s.object.Detach(name)
}

func (s *Sensor) detachAll() error {
	var errs []error
	for len(s.order) > 0 {
		errs = append(errs, s.detach(s.order[0]))
	}
	return errors.Join(errs...)
}

// Snapshot implements [sensor.Sensor]: every process there is, as one event of
// [event.ProcessState]. It waits for the reader where the ring is full.
func (s *Sensor) Snapshot(ctx context.Context) error {
	s.mu.Lock()
	object, st := s.object, s.hooks[snapshot.Name]
	s.mu.Unlock()
	if st.Rung == "" {
		return fmt.Errorf("read existing processes: %w", errNotStarted)
	}
	program := "process_task_s"
	if st.Rung == "iter" {
		program = "process_task"
	}
	read := func(ctx context.Context) error { return object.Iterate(ctx, program) }
	if err := s.dec.window.while(ctx, read, s.road.Sync); err != nil {
		return fmt.Errorf("read existing processes: %w", err)
	}
	return nil
}

var errNotStarted = errors.New("the sensor is not started, or this kernel has no task iterator")

// Stop implements [sensor.Sensor].
func (s *Sensor) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.detachAll(); err != nil {
		return fmt.Errorf("stop process sensor: %w", err)
	}
	return nil
}

// Hooks implements [sensor.Sensor].
func (s *Sensor) Hooks() []sensor.HookStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]sensor.HookStatus, 0, len(s.order))
	for _, n := range s.order {
		h := sensor.HookStatus{HookStatus: s.hooks[n], Kinds: kinds}
		for k, change := range changes {
			if change.Name == n {
				h.Kinds = event.Kinds(k)
			}
		}
		for _, a := range attempts {
			if a.Name == n {
				h.Kinds, h.Types = event.Kinds(event.KindAttempt), a.types
			}
		}
		out = append(out, h)
	}
	return out
}

// A sink is where events go; nil before the first Start.
type sink = atomic.Pointer[func(*event.Event)]
