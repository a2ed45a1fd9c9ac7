package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A report prints what machines did, as go test would.
type report struct {
	w       io.Writer
	all     bool // whether all tests were to run
	wrong   []string
	flaky   []string
	kernels []string
	hooks   []string
	used    map[string]map[string]string // hook -> series -> rung
	ladders map[string][]string
	passed  int
	failed  int
	skipped int
}

// newReport makes one of all tests, or of some that were chosen.
func newReport(w io.Writer, all bool) *report {
	return &report{w: w, all: all, used: make(map[string]map[string]string), ladders: make(map[string][]string)}
}

func (r *report) complain(format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// plan prints what was done on a kernel and notes what is wrong with it.
func (r *report) plan(p *plan) {
	series := p.kernel.series
	r.kernels = append(r.kernels, series)
	fmt.Fprintf(r.w, "=== kernel %s (%s), %v\n", series, p.kernel.release, p.took.Round(100*time.Millisecond))
	for _, err := range p.errs {
		r.complain("%v", err)
	}
	for _, e := range p.results.errors {
		r.complain("%s: %s", series, e)
	}
	slices.SortFunc(p.results.packages, func(a, b *packageResult) int { return cmp.Compare(a.task.dir, b.task.dir) })
	for _, result := range p.results.packages {
		r.packageResult(series, result)
	}
}

// packageResult prints a line of a package, what its tests printed that did not
// pass, and notes what is wrong with it.
func (r *report) packageResult(series string, p *packageResult) {
	r.passed += len(p.passed)
	r.failed += len(p.failed)
	r.skipped += len(p.skips)
	if p.code != "0" {
		for _, line := range p.output {
			fmt.Fprintf(r.w, "    %s\n", line)
		}
	}
	for _, t := range p.flaky {
		r.flaky = append(r.flaky, t.Flaky())
	}
	for _, t := range p.twice {
		r.complain("%s", t.Twice())
	}
	if !p.good() && len(p.twice) == 0 {
		r.complain("%s: %s: exit code %q", series, p.task.dir, p.code)
	}
	status := "ok  "
	if !p.good() {
		status = "FAIL"
	}
	fmt.Fprintf(r.w, "%s\t%s\t%.3fs\t[%s: %d passed, %d failed, %d skipped]\n",
		status, p.name(), p.took.Seconds(), series, len(p.passed), len(p.failed), len(p.skips))
	if len(p.passed)+len(p.failed) == 0 {
		r.complain("%s: %s ran no test", series, p.task.dir)
	}
	// A sensor that stops telling how it is attached would look fine. With a
	// choice of tests, its own may not be among them. sensor/all is none.
	if r.all && strings.HasPrefix(p.task.dir, "sensor/") && p.task.dir != "sensor/all" && len(p.rungs) == 0 {
		r.complain("%s: %s logged no RUNG", series, p.task.dir)
	}
	r.skips(series, p)
	for _, u := range p.rungs {
		r.rung(series, u)
	}
}

// skips prints which tests were skipped, and complains where they must not be.
func (r *report) skips(series string, p *packageResult) {
	for _, test := range slices.Sorted(maps.Keys(p.skips)) {
		if why, allowed := allowedSkip(series, p.task.dir, test); allowed {
			fmt.Fprintf(r.w, "    skipped: %s: %s (allowed: %s)\n", test, p.skips[test], why)
		} else {
			r.complain("%s: %s: %s was skipped: %s", series, p.task.dir, test, p.skips[test])
		}
	}
}

// rung notes how a hook was attached. Only the best way will do.
func (r *report) rung(kernel string, u rung) {
	if r.used[u.hook] == nil {
		r.used[u.hook] = make(map[string]string)
		r.hooks = append(r.hooks, u.hook)
	}
	cell := u.used
	if u.used != u.ladder[0] {
		if why, allowed := allowedRung(kernel, u.hook, u.used); allowed {
			cell += " (" + why + ")"
		} else {
			cell += " !"
			r.complain("%s: %s is attached as %s, though it has %s", kernel, u.hook, u.used, u.ladder[0])
		}
	}
	r.used[u.hook][kernel] = cell
	r.ladders[u.hook] = u.ladder
}

// finish prints the table of rungs and says whether all was well.
func (r *report) finish() error {
	if err := r.table(); err != nil {
		return err
	}
	fmt.Fprintf(r.w, "\n%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	for _, line := range r.flaky {
		fmt.Fprintln(r.w, line)
	}
	if len(r.wrong) > 0 {
		return fmt.Errorf("%d things are wrong:\n  %s", len(r.wrong), strings.Join(r.wrong, "\n  "))
	}
	return nil
}

// table prints how hooks are attached on each kernel, and complains of those that
// are not.
func (r *report) table() error {
	if len(r.hooks) == 0 {
		return nil
	}
	fmt.Fprintln(r.w)
	t := tabwriter.NewWriter(r.w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "SENSOR\tHOOK\t%s\tLADDER\n", strings.Join(r.kernels, "\t"))
	slices.Sort(r.hooks)
	for _, hook := range r.hooks {
		sensor, _, _ := strings.Cut(hook, ".")
		fmt.Fprintf(t, "%s\t%s", sensor, hook)
		for _, kernel := range r.kernels {
			fmt.Fprintf(t, "\t%s", r.cell(hook, kernel))
		}
		fmt.Fprintf(t, "\t%s\n", strings.Join(r.ladders[hook], ","))
	}
	return t.Flush()
}

// cell is what the table says of a hook on a kernel.
func (r *report) cell(hook, kernel string) string {
	if cell := r.used[hook][kernel]; cell != "" {
		return cell
	}
	if why, allowed := allowedRung(kernel, hook, notAttached); allowed {
		return notAttached + " (" + why + ")"
	}
	r.complain("%s: %s was not attached", kernel, hook)
	return notAttached
}
