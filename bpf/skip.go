package bpf

import (
	"maps"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
)

// skips counts the runs of attached programs that the kernel left out. It does
// not run a program on a CPU that is running it already, interrupted or by what
// the program itself has set off; and of those at tracepoints and kprobes none
// while any of them runs. It counts that by program, those at tracepoints and
// kprobes from 6.7 on. Programs of cgroups and iterators are never left out.
type skips struct {
	mu       sync.Mutex
	programs map[*ebpf.Program]skipped // attached
	hooks    map[string]uint64         // what is known, by hook
	// read asks the kernel how often a program was left out. Tests replace it.
	read func(*ebpf.Program) (uint64, error)
}

// skipped is what is known of one program.
type skipped struct {
	hook string
	runs uint64
}

func (s *skips) init() {
	s.programs, s.hooks = map[*ebpf.Program]skipped{}, map[string]uint64{}
	s.read = func(p *ebpf.Program) (uint64, error) {
		st, err := p.Stats()
		if err != nil {
			return 0, err
		}
		return st.RecursionMisses, nil
	}
}

// watch counts a program as one of a hook's, until leave.
func (s *skips) watch(hook string, p *ebpf.Program) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.programs[p] = skipped{hook: hook}
}

// leave looks at a program for the last time, which then may be closed.
func (s *skips) leave(p *ebpf.Program) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(p)
	delete(s.programs, p)
}

// look adds to its hook what the kernel has left out of a program since it was
// last looked at. The caller holds s.mu.
func (s *skips) look(p *ebpf.Program) {
	was, ok := s.programs[p]
	if !ok {
		return
	}
	// The kernel does not refuse it for an open program, however old it is.
	runs, err := s.read(p)
	if err != nil || runs <= was.runs {
		return
	}
	s.hooks[was.hook] += runs - was.runs
	was.runs = runs
	s.programs[p] = was
}

// counters looks at all programs, and returns the hooks of which runs were left
// out. That takes some microseconds for each program.
func (s *skips) counters() []Counter {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.programs {
		s.look(p)
	}
	var out []Counter
	for _, hook := range slices.Sorted(maps.Keys(s.hooks)) {
		out = append(out, Counter{Name: hook, Lane: Kernel, Lost: s.hooks[hook]})
	}
	return out
}
