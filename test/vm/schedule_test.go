package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A clock runs machines whose packages take a second for each letter of their
// names on kernel a, and half of that on b.
type clock struct {
	sleep func(time.Duration)

	mu  sync.Mutex
	log []string
}

func (c *clock) run(_ context.Context, k kernel, number int, next func() (task, bool)) (results, error) {
	begin := time.Now()
	var r results
	for t, ok := next(); ok; t, ok = next() {
		c.mu.Lock()
		c.log = append(c.log, fmt.Sprintf("%s#%d %s %v", k.series, number, t.dir, time.Since(epoch)))
		c.mu.Unlock()
		switch t.dir {
		case "dies":
			return r, errors.New("it died")
		case "forgets":
			continue
		}
		each := map[string]time.Duration{"a": time.Second, "b": time.Second / 2}[k.series]
		c.sleep(each * time.Duration(len(t.dir)))
		r.packages = append(r.packages, &packageResult{task: t, code: "0", took: time.Since(begin)})
	}
	return r, nil
}

// epoch is when a bubble of synctest begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// TestSchedule has machines work side by side, and one of the other kernel be
// booted when a kernel has nothing left.
func TestSchedule(t *testing.T) {
	for _, test := range []struct {
		name     string
		kernels  string
		packages string
		machines int
		log      []string
		errs     []string
	}{
		{"two kernels on two", "a b", "eight888 six666 four", 2, []string{
			"a#1 eight888 0s", "b#1 eight888 0s", "b#1 six666 4s", "b#1 four 7s", "a#1 six666 8s", "a#2 four 9s"}, nil},
		{"two kernels on one", "a b", "six666 four", 1, []string{
			"a#1 six666 0s", "a#1 four 6s", "b#1 six666 10s", "b#1 four 13s"}, nil},
		{"one kernel on two", "a", "six666 four", 2, []string{"a#1 six666 0s", "a#2 four 0s"}, nil},
		{"one package", "a", "six666", 2, []string{"a#1 six666 0s"}, nil},
		{"one dies", "a", "six666 dies four", 2, []string{"a#1 six666 0s", "a#2 dies 0s"},
			[]string{"it died", "kernel a-1: not run any more: four"}},
		{"one forgets", "a", "six666 forgets", 1, []string{"a#1 six666 0s", "a#1 forgets 6s"},
			[]string{"kernel a-1: given and not run: forgets"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var packages []testPackage
				for dir := range strings.FieldsSeq(test.packages) {
					packages = append(packages, testPackage{dir: dir})
				}
				c := clock{sleep: time.Sleep}
				s := schedule{machine: c.run}
				for series := range strings.FieldsSeq(test.kernels) {
					s.plans = append(s.plans, newPlan(kernel{series: series, release: series + "-1"}, packages, ""))
				}
				s.work(t.Context(), test.machines)
				slices.Sort(c.log)
				slices.Sort(test.log)
				if d := cmp.Diff(test.log, c.log); d != "" {
					t.Errorf("what ran when (-want +got):\n%s", d)
				}
				var errs []string
				done := 0
				for _, p := range s.plans {
					for _, err := range p.errs {
						errs = append(errs, err.Error())
					}
					done += len(p.results.packages)
				}
				if d := cmp.Diff(test.errs, errs); d != "" {
					t.Errorf("errors (-want +got):\n%s", d)
				}
				if want := len(c.log) - min(len(errs), 1); done != want {
					t.Errorf("%d packages have results, want %d", done, want)
				}
			})
		})
	}
}

// TestTell holds what a machine is answered: a line of two words, or an empty one.
func TestTell(t *testing.T) {
	var out bytes.Buffer
	tasks := []task{{"sensor/x", "^Test(BPF|Root)"}}
	next := func() (task, bool) {
		if len(tasks) == 0 {
			return task{}, false
		}
		defer func() { tasks = nil }()
		return tasks[0], true
	}
	for range 2 {
		if err := tell(&out, next); err != nil {
			t.Fatal(err)
		}
	}
	if want := "sensor/x ^Test(BPF|Root)\n\n"; out.String() != want {
		t.Errorf("told %q, want %q", out.String(), want)
	}
}
