package syscall

import (
	"context"
	"log/slog"
	"math"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
)

// BenchmarkCall is what a call costs that has no hook, while others have; that
// has an empty hook; that has ours, but nobody wants it of this user; that is
// told. The least of many batches, alternately: the machine does other things.
func BenchmarkCall(b *testing.B) {
	name := make([]byte, 16)
	pgid := func() { _, _, _ = unix.RawSyscall(unix.SYS_GETPGID, 0, 0, 0) }
	persona := func() { _, _, _ = unix.RawSyscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0) }
	getName := func() {
		_, _, _ = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_NAME, uintptr(unsafe.Pointer(&name[0])), 0)
	}
	none := func() func() { return func() {} }
	nobody := interest.Union(interest.Holder{Interest: interest.Interest{Terms: []interest.Term{{Kinds: kinds, Types: []string{"personality"}, UIDs: []uint32{4242}}}}})
	cases := []struct {
		name  string
		setUp func() func()
		call  func()
	}{
		{"plain", none, pgid},
		{"unhooked", func() func() {
			return live(b, only("bpf", "kill", "ptrace", "dup", "prctl", "personality", "memfd_create", "socket"))
		}, pgid},
		{"call", none, persona},
		{"empty", func() func() { return empty(b, "sys_exit_personality") }, persona},
		{"nobody", func() func() { return live(b, nobody) }, persona},
		{"told", func() func() { return live(b, only("personality")) }, persona},
		{"name", none, getName},
		{"name-told", func() func() { return live(b, only("prctl")) }, getName},
	}
	least := make([]float64, len(cases))
	for i := range least {
		least[i] = math.Inf(1)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for b.Loop() {
		for range 6 {
			for i, c := range cases {
				end := c.setUp()
				for range 20 {
					const n = 5000
					begun := time.Now()
					for range n {
						c.call()
					}
					least[i] = min(least[i], float64(time.Since(begun))/n)
				}
				end()
			}
		}
	}
	for i, c := range cases {
		b.ReportMetric(least[i], "ns/"+c.name)
	}
}

// live runs a sensor.
func live(b *testing.B, want interest.Set) func() {
	b.Helper()
	road, err := bpf.NewRoad(bpf.Config{BulkBytes: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- road.Run(ctx) }()
	s := New(road, Config{}, slog.New(slog.DiscardHandler))
	if err := s.Start(want, func(*event.Event) {}); err != nil {
		b.Fatal(err)
	}
	return func() {
		if err := s.Stop(); err != nil {
			b.Fatal(err)
		}
		cancel()
		<-done
		if err := road.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// empty attaches a program that does nothing to a tracepoint of system calls.
func empty(b *testing.B, name string) func() {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.TracePoint, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		b.Fatal(err)
	}
	l := attachPerf(b, p, name)
	return func() { _, _ = l.Close(), p.Close() }
}

// attachPerf attaches a program as the road does. Tracefs need not be mounted.
func attachPerf(b *testing.B, p *ebpf.Program, name string) link.Link {
	b.Helper()
	fs, err := unix.Fsopen("tracefs", 0)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigCreate(fs); err != nil {
		b.Fatal(err)
	}
	dir, err := unix.Fsmount(fs, 0, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = unix.Close(dir) }()
	fd, err := unix.Openat(dir, "events/syscalls/"+name+"/id", unix.O_RDONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	var buf [32]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		b.Fatal(err)
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(buf[:n])), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	ev, err := unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Sample_type: unix.PERF_SAMPLE_RAW, Sample: 1, Wakeup: 1}, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = unix.Close(ev) }()
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: ev, Program: p, Attach: ebpf.AttachPerfEvent})
	if err != nil {
		b.Fatal(err)
	}
	return l
}
