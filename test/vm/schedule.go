package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"warren/test/retry"
)

// A task is one call of a package's test binary.
type task struct {
	dir   string // the package's
	tests string // -test.run
}

// A plan is what is to be done on one kernel, by one machine or by several side by
// side.
type plan struct {
	kernel  kernel
	waiting []task // that no machine has taken
	running int    // machines
	booted  int    // machines, ever
	results results
	errs    []error // of machines
	started time.Time
	took    time.Duration // until the last machine was done
}

// newPlan has the tests of all packages run.
func newPlan(k kernel, packages []testPackage, tests string) *plan {
	p := &plan{kernel: k}
	for _, pkg := range packages {
		p.waiting = append(p.waiting, task{pkg.dir, tests})
	}
	return p
}

// A schedule has machines work off plans. Machines take one task after the other;
// when a kernel has none left, its machine makes room for one of another kernel.
type schedule struct {
	plans   []*plan
	machine runMachine

	mu sync.Mutex // guards the plans
}

// runMachine boots a machine, has it do the tasks that next gives, and says what
// they printed. The machines of a kernel are numbered from 1.
type runMachine func(ctx context.Context, k kernel, number int, next func() (task, bool)) (results, error)

// work returns when all plans are done, or given up. At most so many machines run
// at the same time.
func (s *schedule) work(ctx context.Context, machines int) {
	var wg sync.WaitGroup
	for range machines {
		wg.Go(func() {
			for s.one(ctx) {
			}
		})
	}
	wg.Wait()
}

// one boots a machine where one is wanted most and waits for its end; false says
// that none is.
func (s *schedule) one(ctx context.Context) bool {
	p, number, first := s.pick()
	if p == nil {
		return false
	}
	var given []task
	next := func() (t task, ok bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if t, ok = first, len(given) == 0; !ok {
			t, ok = p.next()
		}
		if ok {
			given = append(given, t)
		}
		return t, ok
	}
	r, err := s.machine(ctx, p.kernel, number, next)
	if err == nil {
		err = r.missing(p.kernel.release, given)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.end(&r, err)
	return true
}

// pick takes a task for a machine that is to be booted: of the kernel with the
// fewest machines, and then with the most tasks.
func (s *schedule) pick() (best *plan, number int, first task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.plans {
		switch {
		case len(p.waiting) == 0:
		case best == nil, p.running < best.running, p.running == best.running && len(p.waiting) > len(best.waiting):
			best = p
		}
	}
	if best == nil {
		return nil, 0, task{}
	}
	if best.started.IsZero() {
		best.started = time.Now()
	}
	best.running++
	best.booted++
	first, _ = best.next()
	return best, best.booted, first
}

// next takes a task.
func (p *plan) next() (t task, ok bool) {
	if len(p.waiting) == 0 {
		return task{}, false
	}
	t, p.waiting = p.waiting[0], p.waiting[1:]
	return t, true
}

// end takes what a machine did. Where one died the next would: no more is begun.
func (p *plan) end(r *results, err error) {
	p.running--
	p.took = time.Since(p.started)
	p.results.add(r)
	if err == nil {
		return
	}
	p.errs = append(p.errs, err)
	if len(p.waiting) > 0 {
		var left []string
		for _, t := range p.waiting {
			left = append(left, t.dir)
		}
		p.errs = append(p.errs, fmt.Errorf("kernel %s: not run any more: %s", p.kernel.release, strings.Join(left, " ")))
		p.waiting = nil
	}
}

// again has tests that failed run once more, each alone, in machines that are
// booted for that.
func again(ctx context.Context, plans []*plan, machine runMachine, machines int) {
	s := schedule{machine: machine}
	settle := make([]func(), 0, len(plans))
	for _, p := range plans {
		failed, err := p.results.again(p.kernel.series)
		switch {
		case err != nil:
			p.errs = append(p.errs, fmt.Errorf("kernel %s: %w", p.kernel.release, err))
		case len(failed) > 0 && len(p.errs) == 0:
			second := &plan{kernel: p.kernel, booted: p.booted}
			for _, t := range failed {
				second.waiting = append(second.waiting, task{strings.TrimPrefix(t.Package, modulePath), t.Pattern()})
			}
			s.plans = append(s.plans, second)
			settle = append(settle, func() { p.settle(failed, second) })
		}
	}
	s.work(ctx, machines)
	for _, f := range settle {
		f()
	}
}

// settle takes what became of tests that were run once more.
func (p *plan) settle(failed []retry.Test, second *plan) {
	p.took += second.took
	if len(second.errs) > 0 {
		p.errs = append(p.errs, fmt.Errorf("tests that failed, once more: %w", errors.Join(second.errs...)))
		return
	}
	p.results.settle(failed, &second.results)
}
