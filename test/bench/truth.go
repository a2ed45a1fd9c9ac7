package main

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// truth counts processes in the kernel by programs of its own, written here
// instruction by instruction, to hold the agent's arithmetic against something
// that shares nothing with it.
type truth struct {
	counts   *ebpf.Map
	programs []*ebpf.Program
	links    []link.Link
}

// What truth counts.
const (
	truthFork = iota
	truthExec
	truthExit
	truths
)

var truthNames = [truths]string{"fork", "exec", "exit"}

func newTruth() (_ *truth, err error) {
	t := &truth{}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.counts, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "bench_truth", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: truths,
	}); err != nil {
		return nil, fmt.Errorf("make map: %w", err)
	}
	pid, tgid, err := taskOffsets()
	if err != nil {
		return nil, err
	}
	for i, hook := range []struct {
		tracepoint string
		task       int16 // offset of the task among the arguments; -1: every call counts
	}{
		truthFork: {"sched_process_fork", 8}, // parent, child
		truthExec: {"sched_process_exec", -1},
		truthExit: {"sched_process_exit", 0},
	} {
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "bench_truth", Type: ebpf.RawTracepoint, License: "Dual BSD/GPL",
			Instructions: countLeaders(t.counts, int64(i), hook.task, pid, tgid),
		})
		if err != nil {
			return nil, fmt.Errorf("load counter of %s: %w", hook.tracepoint, err)
		}
		t.programs = append(t.programs, program)
		l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: hook.tracepoint, Program: program})
		if err != nil {
			return nil, fmt.Errorf("attach counter of %s: %w", hook.tracepoint, err)
		}
		t.links = append(t.links, l)
	}
	return t, nil
}

// taskOffsets are where a task holds its own number and its process's.
func taskOffsets() (pid, tgid uint32, err error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return 0, 0, fmt.Errorf("kernel's types: %w", err)
	}
	var task *btf.Struct
	if err := kernel.TypeByName("task_struct", &task); err != nil {
		return 0, 0, err
	}
	found := 0
	for _, m := range task.Members {
		switch m.Name {
		case "pid":
			pid, found = m.Offset.Bytes(), found+1
		case "tgid":
			tgid, found = m.Offset.Bytes(), found+1
		}
	}
	if found != 2 {
		return 0, 0, errors.New("task_struct has no pid and tgid")
	}
	return pid, tgid, nil
}

// countLeaders adds one to a slot, unless the task among the arguments is a
// thread and not a process.
func countLeaders(counts *ebpf.Map, slot int64, task int16, pid, tgid uint32) asm.Instructions {
	var code asm.Instructions
	if task >= 0 {
		code = append(code, asm.LoadMem(asm.R6, asm.R1, task, asm.DWord))
		for _, read := range []struct{ to, offset int32 }{{-8, int32(pid)}, {-16, int32(tgid)}} {
			code = append(code,
				asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, read.to),
				asm.Mov.Imm(asm.R2, 4),
				asm.Mov.Reg(asm.R3, asm.R6), asm.Add.Imm(asm.R3, read.offset),
				asm.FnProbeReadKernel.Call(),
			)
		}
		code = append(code,
			asm.LoadMem(asm.R7, asm.RFP, -8, asm.Word), asm.LoadMem(asm.R8, asm.RFP, -16, asm.Word),
			asm.JNE.Reg(asm.R7, asm.R8, "out"),
		)
	}
	return append(code,
		asm.StoreImm(asm.RFP, -24, slot, asm.Word),
		asm.LoadMapPtr(asm.R1, counts.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -24),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		// A raw tracepoint's program can be interrupted by one on its own CPU.
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return(),
	)
}

// read gives the counts so far.
func (t *truth) read() (sums [truths]int64, err error) {
	for slot := range sums {
		var perCPU []uint64
		if err := t.counts.Lookup(uint32(slot), &perCPU); err != nil {
			return sums, fmt.Errorf("read counter: %w", err)
		}
		for _, n := range perCPU {
			sums[slot] += int64(n)
		}
	}
	return sums, nil
}

func (t *truth) Close() error {
	var errs []error
	for _, l := range t.links {
		errs = append(errs, l.Close())
	}
	for _, p := range t.programs {
		errs = append(errs, p.Close())
	}
	if t.counts != nil {
		errs = append(errs, t.counts.Close())
	}
	return errors.Join(errs...)
}
