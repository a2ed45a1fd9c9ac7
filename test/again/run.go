package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"warren/test/retry"
)

// A run reads what go test -json writes, and prints what go test would print
// without -json.
type run struct {
	w        io.Writer
	verbose  bool
	packages map[string]*result
	rest     []byte // of a line that is not whole yet
}

// A result is what became of a package.
type result struct {
	lines  []line // of tests that have not passed, and of none
	passed []string
	failed []string
	whole  bool // whether all tests had run when the binary ended
	race   bool
	bad    bool // whether it failed
}

// A line is something that a test at the top level, or one below it, printed.
type line struct {
	test string
	text string
}

// An event is one of go test's: see go doc test2json and go help buildjson.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

func newRun(w io.Writer, verbose bool) *run {
	return &run{w: w, verbose: verbose, packages: make(map[string]*result)}
}

// Write implements [io.Writer] for go test's standard output.
func (r *run) Write(b []byte) (int, error) {
	r.rest = append(r.rest, b...)
	for {
		i := bytes.IndexByte(r.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		var e event
		if err := json.Unmarshal(r.rest[:i], &e); err != nil {
			e = event{Action: "build-output", Output: string(r.rest[:i+1])}
		}
		r.rest = r.rest[i+1:]
		r.take(e)
	}
}

func (r *run) take(e event) {
	if e.Action == "build-output" {
		r.print(e.Output)
	}
	if e.Package == "" {
		return
	}
	p := r.packages[e.Package]
	if p == nil {
		p = &result{}
		r.packages[e.Package] = p
	}
	top, _, below := strings.Cut(e.Test, "/")
	switch {
	case e.Action == "output":
		r.output(p, line{top, e.Output})
	case below:
	case e.Action == "pass" || e.Action == "skip":
		if e.Test == "" {
			r.end(p, p.summary())
			break
		}
		if e.Action == "pass" {
			p.passed = append(p.passed, e.Test)
		}
		p.lines = slices.DeleteFunc(p.lines, func(l line) bool { return l.test == top })
	case e.Action == "fail":
		if e.Test == "" {
			p.bad = true
			r.end(p, p.lines)
			break
		}
		p.failed = append(p.failed, e.Test)
	}
}

func (r *run) output(p *result, l line) {
	// What package testing says when it has run all tests and some failed; who
	// panics or is killed does not come to it.
	p.whole = p.whole || l.test == "" && l.text == "FAIL\n"
	p.race = p.race || strings.Contains(l.text, "WARNING: DATA RACE")
	switch {
	case r.verbose:
		r.print(l.text)
	case !strings.HasPrefix(l.text, "=== "):
		p.lines = append(p.lines, l)
	}
}

// summary is the last line that is no test's: "ok", the package and a time.
func (p *result) summary() []line {
	for i, l := range slices.Backward(p.lines) {
		if l.test == "" {
			return p.lines[i : i+1]
		}
	}
	return nil
}

// end prints what is to be said of a package.
func (r *run) end(p *result, lines []line) {
	for _, l := range lines {
		r.print(l.text)
	}
	p.lines = nil
}

func (r *run) print(text string) { _, _ = io.WriteString(r.w, text) }

// passed says whether a test did: one that was skipped did not.
func (r *run) passed(t retry.Test) bool {
	p := r.packages[t.Package]
	return p != nil && slices.Contains(p.passed, t.Name)
}

// chance are the tests that failed, if that may have been chance: trying again
// can make a good run of this one, whose end was err. Its error names everything
// that cannot.
func (r *run) chance(err error) (failed []retry.Test, _ error) {
	var never []error
	for _, name := range slices.Sorted(maps.Keys(r.packages)) {
		p := r.packages[name]
		switch {
		case !p.bad:
		case p.race:
			never = append(never, fmt.Errorf("%s has a data race: %w", name, err))
		case !p.whole || len(p.failed) == 0:
			never = append(never, fmt.Errorf("%s did not run to its end: %w", name, err))
		default:
			for _, test := range p.failed {
				failed = append(failed, retry.Test{Package: name, Name: test})
			}
		}
	}
	switch {
	case len(never) > 0:
		return nil, errors.Join(never...)
	case len(failed) == 0:
		return nil, err
	}
	return failed, retry.Limit(failed)
}
