package roadtest

import (
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Nothing attaches a program that does nothing to tracepoints of system calls,
// such as sys_enter_openat, as the road attaches its own: what a program costs
// that costs nothing itself.
func Nothing(t testing.TB, tracepoints ...string) (detach func()) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.TracePoint, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	var links []link.Link
	for _, name := range tracepoints {
		links = append(links, attach(t, p, name))
	}
	return func() {
		for _, l := range links {
			_ = l.Close()
		}
		_ = p.Close()
	}
}

// attach attaches a program to a tracepoint of system calls.
func attach(t testing.TB, p *ebpf.Program, name string) link.Link {
	t.Helper()
	ev, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type: unix.PERF_TYPE_TRACEPOINT, Config: tracepointID(t, name), Sample_type: unix.PERF_SAMPLE_RAW, Sample: 1, Wakeup: 1,
	}, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(ev) }()
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: ev, Program: p, Attach: ebpf.AttachPerfEvent})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// tracepointID returns the number by which perf knows a tracepoint. Tracefs need
// not be mounted.
func tracepointID(t testing.TB, name string) uint64 {
	t.Helper()
	fs, err := unix.Fsopen("tracefs", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatal(err)
	}
	dir, err := unix.Fsmount(fs, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(dir) }()
	fd, err := unix.Openat(dir, "events/syscalls/"+name+"/id", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	var buf [32]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		t.Fatal(err)
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(buf[:n])), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
