package process

import (
	"errors"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/identity"
)

// BenchmarkRecord is the way of a record of a process's life from its bytes to
// the event that says all: the decoder and the tables, which are as full as on a
// machine that has run for long. The garbage that both make is collected
// meanwhile: cpu-ns/event is the time of all threads.
func BenchmarkRecord(b *testing.B) {
	var d decoder
	tables := identity.New(identity.Config{}, slog.New(slog.DiscardHandler))
	apply := func(e *event.Event, err error) {
		if err != nil {
			b.Fatal(err)
		}
		tables.Apply(e)
	}
	r, text := execRecord()
	path := "/system.slice/work.service"
	apply(d.cgroup(bytesOf(processCgroupRecord{Key: r.Task.Cgroup, Len: uint32(len(path))}, path)))
	shell := r
	shell.Task.Key, shell.Task.Parent = processTaskKey{Start: 1e9, Pid: 50, Tid: 50}, processTaskKey{}
	apply(d.task(bytesOf(shell, text)))

	fork := bytesOf(processForkRecord{Task: r.Task, Nr: 56}, "")
	exec := bytesOf(r, text)
	exit := bytesOf(processExitRecord{Runtime: 5}, "")
	forkView, err1 := bpf.View[processForkRecord](fork)
	execView, err2 := bpf.View[processExecRecord](exec)
	exitView, err3 := bpf.View[processExitRecord](exit)
	if err := errors.Join(err1, err2, err3); err != nil {
		b.Fatal(err)
	}
	n := uint64(0)
	life := func() {
		n++
		k := processTaskKey{Start: 5e9 + n*1000, Pid: uint32(100 + n%30000)}
		k.Tid = k.Pid
		forkView.Task.Key, forkView.Hdr.Ktime = k, k.Start
		apply(d.fork(fork))
		execView.Task.Key, execView.Hdr.Ktime = k, k.Start+100
		apply(d.exec(exec))
		exitView.Key, exitView.Hdr.Ktime = k, k.Start+200
		apply(d.exit(exit))
	}
	for range 40000 {
		life()
	}
	b.ReportAllocs()
	cpu := -cpuOfAll()
	for b.Loop() {
		life()
	}
	cpu += cpuOfAll()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(3*b.N), "ns/event")
	b.ReportMetric(float64(cpu)/float64(3*b.N), "cpu-ns/event")
}

// cpuOfAll is the time that all threads have run, in nanoseconds.
func cpuOfAll() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) // cannot fail: the clock exists since 2.6.12
	return ts.Nano()
}
