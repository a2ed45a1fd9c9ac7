package bpf

import (
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// An eventLink attaches a program to a perf event, which it keeps.
type eventLink struct {
	fd, event int
	reaper    *reaper
}

// linkEvent attaches a program to a perf event. The cookie is what the program is
// told of where it runs: bpf_get_attach_cookie. The link owns the event; where there
// is an error it is gone.
func (r *reaper) linkEvent(event int, prog *ebpf.Program, cookie uint64) (*eventLink, error) {
	const linkCreate = 28
	attr := struct {
		prog, target, kind, flags uint32
		cookie                    uint64
	}{prog: uint32(prog.FD()), target: uint32(event), kind: uint32(ebpf.AttachPerfEvent), cookie: cookie}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, linkCreate, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(prog)
	if errno != 0 {
		r.put(event)
		return nil, fmt.Errorf("create link: %w", errno)
	}
	return &eventLink{fd: int(fd), event: event, reaper: r}, nil
}

// FD returns the link's descriptor, which remains the link's.
func (l *eventLink) FD() int { return l.fd }

// Close takes the program off the event: it is not run any more. The event itself
// goes behind our back.
func (l *eventLink) Close() error {
	err := unix.Close(l.fd)
	l.reaper.put(l.event)
	return err
}

// A reaper closes perf events of tracepoints. For each the kernel waits until all
// CPUs have left the tracepoint, one event after the other: tens of milliseconds
// that nobody has to wait for.
type reaper struct {
	mu      sync.Mutex
	events  []int
	running bool
	idle    sync.WaitGroup
}

func (r *reaper) put(event int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event)
	if !r.running {
		r.running = true
		r.idle.Go(r.run)
	}
}

func (r *reaper) run() {
	for {
		r.mu.Lock()
		if len(r.events) == 0 {
			r.running = false
			r.mu.Unlock()
			return
		}
		event := r.events[0]
		r.events = r.events[1:]
		r.mu.Unlock()
		_ = unix.Close(event) // nothing can be done about it
	}
}

// wait returns when all events are closed that were put before.
func (r *reaper) wait() { r.idle.Wait() }

// leave returns when no program runs any more that was taken off an event before.
func (r *reaper) leave() {
	const global = 1 // waits for a quiescent state of every CPU
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		r.wait() // so does the kernel when it closes events
	}
}
