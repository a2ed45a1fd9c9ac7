package bpf

import (
	"sync"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// An eventLink attaches a program to a perf event, which it keeps.
type eventLink struct {
	*link.RawLink
	event  int
	reaper *reaper
}

// Close takes the program off the event: it is not run any more. The event itself
// goes behind our back.
func (l *eventLink) Close() error {
	err := l.RawLink.Close()
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
