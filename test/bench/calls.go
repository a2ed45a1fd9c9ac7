package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const figCalls = "a system call that nothing hooks: with the agent / with one empty tracepoint"

// Runs are short, about ten milliseconds, and many: one of them is undisturbed.
const (
	callsPerRun = 100_000
	callRuns    = 25
	// A clock tick, an interrupt: two runs of the same differ by as much.
	callNoise = 1.03
)

// calls compares a system call with the agent running, with an empty program at
// the tracepoint of another system call, and with nothing.
func (b *bench) calls(ctx context.Context) error {
	empty, err := newEmptyTracepoint(b.dir, "sys_enter_openat")
	if err != nil {
		return err
	}
	defer func() { _ = empty.Close() }()
	best := func() (float64, error) { return b.bestCall(ctx, "calls", callRuns) }
	sides := []func() (float64, error){
		best,
		func() (float64, error) { return empty.during(best) },
		func() (float64, error) { return b.withAgent(ctx, best) },
	}
	// What is compared differs by less than the machine does from one second to
	// the next: three times the rounds, and each side first in a third of them.
	var bare, tracepoint, agents, ratios []float64
	for round := range 3 * b.rounds {
		values, err := inTurns(round, sides)
		if err != nil {
			return err
		}
		bare, tracepoint, agents = append(bare, values[0]), append(tracepoint, values[1]), append(agents, values[2])
		ratios = append(ratios, values[2]/values[1])
	}
	ratio := spreadOf(ratios)
	b.add(figCalls, ratio.median <= callNoise*b.slack, "at most 1 (±3 % is noise)", "%v in %d rounds; nothing %.1f, tracepoint %.1f, agent %.1f ns",
		ratio, len(ratios), spreadOf(bare).median, spreadOf(tracepoint).median, spreadOf(agents).median)
	return nil
}

// inTurns measures each side once. In each round another is the first.
func inTurns[V any](round int, sides []func() (V, error)) (values []V, err error) {
	values = make([]V, len(sides))
	for i := range sides {
		side := (i + round) % len(sides)
		if values[side], err = sides[side](); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// bestCall is what a system call costs, in nanoseconds, in the best of some runs
// of the load's command that makes it. What a run takes at best is what the code
// costs: everything else that happens on a machine only adds.
func (b *bench) bestCall(ctx context.Context, command string, runs int) (float64, error) {
	least := math.Inf(1)
	for range runs {
		out, err := exec.CommandContext(ctx, b.load, command, strconv.Itoa(callsPerRun)).Output()
		if err != nil {
			return 0, fmt.Errorf("%s: %w", command, err)
		}
		ns, err := nanoseconds(out)
		if err != nil {
			return 0, err
		}
		least = min(least, ns)
	}
	return least, nil
}

// nanoseconds reads the picoseconds that the load prints.
func nanoseconds(out []byte) (float64, error) {
	picoseconds, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	return picoseconds / 1000, err
}

// withAgent measures while an agent runs and somebody asks it for everything.
func (b *bench) withAgent(ctx context.Context, measure func() (float64, error)) (value float64, err error) {
	a, err := b.start(ctx, "")
	if err != nil {
		return 0, err
	}
	defer a.stop()
	s, err := a.follow(ctx, "", stormFields, func([]byte) {})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return measure()
}

// An emptyTracepoint is a program that does nothing, for tracepoints of system
// calls.
type emptyTracepoint struct {
	program *ebpf.Program
	ids     []uint64
}

func newEmptyTracepoint(dir string, names ...string) (*emptyTracepoint, error) {
	// tracefs is mounted on a folder of ours: the machine may have none.
	mount := filepath.Join(dir, "tracing")
	if err := os.MkdirAll(mount, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("tracefs", mount, "tracefs", 0, ""); err != nil {
		return nil, fmt.Errorf("mount tracefs: %w", err)
	}
	e := &emptyTracepoint{}
	var err error
	for _, name := range names {
		var text []byte
		if text, err = os.ReadFile(filepath.Join(mount, "events/syscalls", name, "id")); err != nil {
			break
		}
		var id uint64
		if id, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err != nil {
			break
		}
		e.ids = append(e.ids, id)
	}
	if err = errors.Join(err, unix.Unmount(mount, 0)); err != nil {
		return nil, err
	}
	if e.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "bench_empty", Type: ebpf.TracePoint, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	}); err != nil {
		return nil, fmt.Errorf("load empty program: %w", err)
	}
	return e, nil
}

// during measures while the program is attached.
func (e *emptyTracepoint) during(measure func() (float64, error)) (value float64, err error) {
	for _, id := range e.ids {
		attached, failed := e.attach(id)
		if failed != nil {
			return 0, failed
		}
		defer func() { err = errors.Join(err, attached.Close()) }()
	}
	return measure()
}

func (e *emptyTracepoint) attach(id uint64) (link.Link, error) {
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Sample_type: unix.PERF_SAMPLE_RAW, Sample: 1, Wakeup: 1,
	}, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open tracepoint: %w", err)
	}
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: fd, Program: e.program, Attach: ebpf.AttachPerfEvent})
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("attach empty program: %w", err)
	}
	return perfLink{l, fd}, nil
}

func (e *emptyTracepoint) Close() error { return e.program.Close() }

// perfLink closes the event with the link.
type perfLink struct {
	link.Link
	fd int
}

func (p perfLink) Close() error { return errors.Join(p.Link.Close(), unix.Close(p.fd)) }
