package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// closer is what all kinds of links are to us: closing one detaches it.
type closer interface{ Close() error }

// places finds where programs are attached. It opens tracefs and the cgroup
// hierarchy when they are first needed and keeps them until close.
type places struct {
	mu      sync.Mutex
	tracefs *os.File
	cgroup  *os.File // of the scope from the beginning; else the root of the hierarchy
	closed  bool

	reaper reaper
}

func (p *places) close() error {
	p.reaper.wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var errs []error
	for _, f := range []*os.File{p.tracefs, p.cgroup} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	p.tracefs, p.cgroup = nil, nil
	return errors.Join(errs...)
}

// attach puts a program in its place. At tracepoints it is told the cookie.
func (p *places) attach(at Attachment, prog *ebpf.Program, cookie uint64) (closer, error) {
	switch at.how {
	case byTracepoint:
		return p.attachTracepoint(at.group, at.symbol, prog, cookie)
	case byKprobe:
		return link.Kprobe(at.symbol, prog, nil)
	case byKretprobe:
		return link.Kretprobe(at.symbol, prog, nil)
	case byCgroup:
		dir, err := p.cgroupDir()
		if err != nil {
			return nil, err
		}
		return link.AttachRawLink(link.RawLinkOptions{Target: int(dir.Fd()), Program: prog, Attach: at.at})
	case byIter:
		return link.AttachIter(link.IterOptions{Program: prog})
	default:
		return link.AttachTracing(link.TracingOptions{Program: prog})
	}
}

// attachTracepoint opens the tracepoint as a perf event and attaches the
// program to that. One event, on any CPU, stands for all CPUs: the program runs
// for the tracepoint, not for the event.
func (p *places) attachTracepoint(group, name string, prog *ebpf.Program, cookie uint64) (closer, error) {
	id, err := p.tracepointID(group, name)
	if err != nil {
		return nil, err
	}
	attr := unix.PerfEventAttr{
		Type:        unix.PERF_TYPE_TRACEPOINT,
		Config:      id,
		Size:        unix.PERF_ATTR_SIZE_VER1,
		Sample_type: unix.PERF_SAMPLE_RAW,
		Sample:      1,
		Wakeup:      1,
	}
	fd, err := unix.PerfEventOpen(&attr, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("perf_event_open: %w", err)
	}
	l, err := p.reaper.linkEvent(fd, prog, cookie)
	if err != nil {
		return nil, err // and no link that is a nil pointer
	}
	return l, nil
}

// openTracefs opens tracefs where it is not open yet. The caller holds p.mu.
func (p *places) openTracefs() error {
	if p.tracefs != nil {
		return nil
	}
	dir, err := openFS("tracefs")
	if err != nil {
		return err
	}
	p.tracefs = dir
	return nil
}

// tracepointID returns the number by which perf_event_open knows a tracepoint.
func (p *places) tracepointID(group, name string) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, ErrClosed
	}
	if err := p.openTracefs(); err != nil {
		return 0, err
	}
	s, err := readAt(p.tracefs, "events/"+group+"/"+name+"/id")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, &UnavailableError{Feature: group + "/" + name,
			Reason: fmt.Sprintf("this kernel has no tracepoint %s/%s", group, name), Err: err}
	case errors.Is(err, fs.ErrPermission):
		return 0, &UnavailableError{Feature: group + "/" + name,
			Reason: "only root may read tracefs" + missing("; ", unix.CAP_DAC_READ_SEARCH), Err: err}
	case err != nil:
		return 0, err
	}
	id, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read id of tracepoint %s/%s: %w", group, name, err)
	}
	return id, nil
}

// cgroupDir returns the directory that cgroup hooks attach to.
func (p *places) cgroupDir() (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	if p.cgroup != nil {
		return p.cgroup, nil
	}
	f, err := openHierarchy()
	if err != nil {
		return nil, err
	}
	p.cgroup = f
	return f, nil
}
