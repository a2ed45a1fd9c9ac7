package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"warren/test/retry"
)

// results are what the tests of a machine printed, or of all machines of a
// kernel.
type results struct {
	kernel   string // uname -r
	packages []*packageResult
	errors   []string // of the machines themselves
	done     bool     // whether the machine came to its end
}

// A packageResult is the outcome of one test binary.
type packageResult struct {
	task   task
	code   string   // exit code; empty if it did not end
	output []string // of tests that did not pass, and of no test
	test   []string // of the test that runs
	bad    bool     // whether it failed, or did not end
	whole  bool     // whether the binary said that it failed: it had run all its tests
	passed []string
	failed []string
	logged string            // what was logged last
	twice  []retry.Test      // tests that failed again, alone; among the failed
	flaky  []retry.Test      // tests that failed and passed alone; among the passed
	skips  map[string]string // test -> reason
	rungs  []rung
	start  time.Time
	took   time.Duration
}

// A rung is a line "RUNG HOOK USED BEST[,NEXT...]" that a sensor's test logs:
// how a hook is attached, of which ways in order.
type rung struct {
	hook, used string
	ladder     []string
}

var (
	// go test -v: "    file.go:12: RUNG socket.accept fentry fentry,tracepoint"
	rungLine = regexp.MustCompile(`\bRUNG (\S+) (\S+) (\S+)$`)
	runLine  = regexp.MustCompile(`^=== RUN   [^/]+$`)
	testLine = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+)`)
	logLine  = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)$`)
)

// read takes a machine's second serial line to its end. ask answers it when it
// asks for work.
func (r *results) read(from io.Reader, ask func() error) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<22)
	var p *packageResult // whose tests run
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		switch word, rest, _ := strings.Cut(line, " "); word {
		case "VM-KERNEL":
			r.kernel = rest
		case "VM-ERROR":
			r.errors = append(r.errors, rest)
		case "VM-NEXT":
			if err := ask(); err != nil {
				return fmt.Errorf("tell it what to run: %w", err)
			}
		case "VM-BEGIN":
			p = newPackageResult(rest)
			r.packages = append(r.packages, p)
		case "VM-END":
			if p != nil {
				_, code, _ := strings.Cut(rest, " ")
				p.end(code)
			}
			p = nil
		case "VM-DONE":
			r.done = true
		default:
			switch {
			case p != nil:
				p.read(line)
			case line != "":
				r.errors = append(r.errors, line)
			}
		}
	}
	if p != nil {
		p.endTest()
	}
	return lines.Err()
}

// check says whether the machine came to its end, on the kernel that it should
// have.
func (r *results) check(release string) error {
	switch {
	case !r.done:
		return fmt.Errorf("kernel %s ended before the tests did", release)
	case r.kernel != release:
		return fmt.Errorf("kernel %s: the machine ran %q", release, r.kernel)
	}
	return nil
}

// add takes what another machine did.
func (r *results) add(o *results) {
	r.packages = append(r.packages, o.packages...)
	r.errors = append(r.errors, o.errors...)
}

// newPackageResult is that of a task that begins: "DIR TESTS".
func newPackageResult(task string) *packageResult {
	p := &packageResult{skips: make(map[string]string), start: time.Now()}
	p.task.dir, p.task.tests, _ = strings.Cut(task, " ")
	return p
}

// name is the package's.
func (p *packageResult) name() string { return modulePath + p.task.dir }

// read takes a line that a test binary printed.
func (p *packageResult) read(line string) {
	if runLine.MatchString(line) {
		p.endTest()
		p.bad = true // until it passes
	}
	p.test = append(p.test, line)
	p.whole = p.whole || line == "FAIL"
	if m := rungLine.FindStringSubmatch(line); m != nil {
		p.addRung(rung{hook: m[1], used: m[2], ladder: strings.Split(m[3], ",")})
	}
	if m := logLine.FindStringSubmatch(line); m != nil {
		p.logged = m[1]
		return
	}
	m := testLine.FindStringSubmatch(line)
	if m == nil {
		return
	}
	if !strings.HasPrefix(line, " ") {
		p.bad = m[1] == "FAIL"
	}
	switch m[1] {
	case "PASS":
		p.passed = append(p.passed, m[2])
	case "FAIL":
		p.failed = append(p.failed, m[2])
	case "SKIP":
		// A skip's reason is the last line it logged, printed before its
		// "--- SKIP" with -v.
		p.skips[m[2]] = p.logged
	}
}

// end takes a test binary's exit code.
func (p *packageResult) end(code string) {
	p.code = code
	// Who ended badly though no test failed said so last.
	p.bad = p.bad || code != "0" && len(p.failed) == 0
	p.endTest()
	p.took = time.Since(p.start)
}

// endTest keeps what the last test printed only if somebody needs it.
func (p *packageResult) endTest() {
	if p.bad {
		p.output = append(p.output, p.test...)
	}
	p.test, p.bad = nil, false
}

// addRung notes a hook once: several tests attach it.
func (p *packageResult) addRung(r rung) {
	if !slices.ContainsFunc(p.rungs, func(o rung) bool { return o.hook == r.hook && o.used == r.used }) {
		p.rungs = append(p.rungs, r)
	}
}

// again gives the tests that failed, to be run once more, each alone. There are
// none if passing then could not make the run a good one, for one panicked or hung
// and not all of a package's ran; the error says that they are too many.
func (r *results) again(kernel string) (failed []retry.Test, _ error) {
	for _, p := range r.packages {
		before := len(failed)
		for _, test := range p.failed {
			if !strings.Contains(test, "/") {
				failed = append(failed, retry.Test{On: kernel, Package: p.name(), Name: test})
			}
		}
		if p.code != "0" && (p.code != "1" || !p.whole || len(failed) == before) {
			return nil, nil
		}
	}
	if err := retry.Limit(failed); err != nil {
		return nil, err
	}
	return failed, nil
}

// settle takes the results that the tests of again had alone.
func (r *results) settle(failed []retry.Test, second *results) {
	r.errors = append(r.errors, second.errors...)
	for _, t := range failed {
		alone := second.find(func(p *packageResult) bool { return p.name() == t.Package && p.task.tests == t.Pattern() })
		if alone == nil {
			r.errors = append(r.errors, fmt.Sprintf("%s %s was not run once more", t.Package, t.Name))
			continue
		}
		r.find(func(p *packageResult) bool { return p.name() == t.Package }).settle(t, alone)
	}
}

// missing says which tasks a machine was given and has not run.
func (r *results) missing(release string, given []task) error {
	var dirs []string
	for _, t := range given {
		if r.find(func(p *packageResult) bool { return p.task == t && p.code != "" }) == nil {
			dirs = append(dirs, t.dir)
		}
	}
	if dirs == nil {
		return nil
	}
	return fmt.Errorf("kernel %s: given and not run: %s", release, strings.Join(dirs, " "))
}

// find gives the first package of which something is true, or nil.
func (r *results) find(is func(p *packageResult) bool) *packageResult {
	i := slices.IndexFunc(r.packages, is)
	if i < 0 {
		return nil
	}
	return r.packages[i]
}

// settle takes the result that a test had alone.
func (p *packageResult) settle(t retry.Test, alone *packageResult) {
	test := t.Name
	maps.Copy(p.skips, alone.skips)
	for _, u := range alone.rungs {
		p.addRung(u)
	}
	// One that is skipped now has not passed.
	if alone.code != "0" || !slices.Contains(alone.passed, test) {
		p.twice = append(p.twice, t)
		p.output = append(append(p.output, test+" once more, alone:"), alone.output...)
		return
	}
	p.flaky = append(p.flaky, t)
	its := func(name string) bool { return name == test || strings.HasPrefix(name, test+"/") }
	p.failed = slices.DeleteFunc(p.failed, its)
	p.passed = append(slices.DeleteFunc(p.passed, its), alone.passed...)
}

// good says whether all tests of a package passed, at the first or second try.
func (p *packageResult) good() bool {
	return p.code == "0" || p.code == "1" && p.whole && len(p.failed) == 0 && len(p.flaky) > 0
}
