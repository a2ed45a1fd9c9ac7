package bpf

import (
	"maps"
	"slices"
	"strings"
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
	hooks    map[string]uint64         // what is known, by hook, or several
	// read asks the kernel how often a program was left out. Tests replace it.
	read func(*ebpf.Program) (uint64, error)
}

// skipped is what is known of one program.
type skipped struct {
	hooks []string // sorted
	runs  uint64
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

// watch counts a program as one of a hook's, until leave. Of one that several hooks
// share the kernel does not say for which it was left out: that is told of all.
func (s *skips) watch(hook string, p *ebpf.Program) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(p) // so far it was others'
	was := s.programs[p]
	was.hooks = append(slices.Clone(was.hooks), hook)
	slices.Sort(was.hooks)
	s.programs[p] = was
}

// leave looks at a hook's program for the last time. One that no hook has any more
// may be closed then.
func (s *skips) leave(hook string, p *ebpf.Program) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(p)
	was := s.programs[p]
	was.hooks = slices.DeleteFunc(slices.Clone(was.hooks), func(h string) bool { return h == hook })
	if len(was.hooks) == 0 {
		delete(s.programs, p)
		return
	}
	s.programs[p] = was
}

// look adds to its hooks what the kernel has left out of a program since it was
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
	s.hooks[strings.Join(was.hooks, ",")] += runs - was.runs
	was.runs = runs
	s.programs[p] = was
}

// counters looks at all programs, and returns the hooks of which runs were left
// out, with commas where they share a program. That takes some microseconds for each program.
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
