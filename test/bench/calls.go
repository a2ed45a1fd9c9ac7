package main

import (
	"context"
	"errors"
	"fmt"
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
)

// calls compares a system call with the agent running, with an empty program at
// the tracepoint of another system call, and with nothing.
func (b *bench) calls(ctx context.Context) error {
	empty, err := newEmptyTracepoint(b.dir)
	if err != nil {
		return err
	}
	defer func() { _ = empty.Close() }()
	// What a run takes at best is what the code costs: everything else that
	// happens on a machine only adds.
	best := func() (float64, error) {
		least := 0.0
		for range callRuns {
			out, err := exec.CommandContext(ctx, b.load, "calls", strconv.Itoa(callsPerRun)).Output()
			if err != nil {
				return 0, fmt.Errorf("calls: %w", err)
			}
			picoseconds, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
			if err != nil {
				return 0, err
			}
			if ns := picoseconds / 1000; least == 0 || ns < least {
				least = ns
			}
		}
		return least, nil
	}
	sides := []func() (float64, error){
		best,
		func() (float64, error) {
			attached, err := empty.attach()
			if err != nil {
				return 0, err
			}
			value, err := best()
			return value, errors.Join(err, attached.Close())
		},
		func() (float64, error) { return b.withAgent(ctx, best) },
	}
	// What is compared differs by less than the machine does from one second to
	// the next: three times the rounds, and each side first in a third of them.
	var bare, tracepoint, agents, ratios []float64
	for round := range 3 * b.rounds {
		var values [3]float64
		for i := range sides {
			side := (i + round) % len(sides)
			if values[side], err = sides[side](); err != nil {
				return err
			}
		}
		bare, tracepoint, agents = append(bare, values[0]), append(tracepoint, values[1]), append(agents, values[2])
		ratios = append(ratios, values[2]/values[1])
	}
	ratio := spreadOf(ratios)
	// A clock tick, an interrupt: two runs of the same differ by as much.
	const noise = 1.03
	b.add(figCalls, ratio.median <= noise*b.slack, "at most 1 (±3 % is noise)", "%v in %d rounds; nothing %.1f, tracepoint %.1f, agent %.1f ns",
		ratio, len(ratios), spreadOf(bare).median, spreadOf(tracepoint).median, spreadOf(agents).median)
	return nil
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

// An emptyTracepoint is a program that does nothing, for sys_enter_openat.
type emptyTracepoint struct {
	program *ebpf.Program
	id      uint64
}

func newEmptyTracepoint(dir string) (*emptyTracepoint, error) {
	// tracefs is mounted on a folder of ours: the machine may have none.
	mount := filepath.Join(dir, "tracing")
	if err := os.MkdirAll(mount, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("tracefs", mount, "tracefs", 0, ""); err != nil {
		return nil, fmt.Errorf("mount tracefs: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(mount, "events/syscalls/sys_enter_openat/id"))
	if err = errors.Join(err, unix.Unmount(mount, 0)); err != nil {
		return nil, err
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return nil, err
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "bench_empty", Type: ebpf.TracePoint, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load empty program: %w", err)
	}
	return &emptyTracepoint{program: program, id: id}, nil
}

func (e *emptyTracepoint) attach() (link.Link, error) {
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type: unix.PERF_TYPE_TRACEPOINT, Config: e.id, Sample_type: unix.PERF_SAMPLE_RAW, Sample: 1, Wakeup: 1,
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
