package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// results are what the tests of a machine printed.
type results struct {
	kernel   string // uname -r
	packages []*packageResult
	errors   []string // of the machine itself
	done     bool
}

// A packageResult is the outcome of one test binary.
type packageResult struct {
	dir    string
	code   string   // exit code; empty if it did not end
	output []string // of tests that did not pass, and of no test
	test   []string // of the test that runs
	bad    bool     // whether it failed, or did not end
	passed []string
	failed []string
	twice  []string          // tests that failed again, alone; among the failed
	flaky  []string          // tests that failed and passed alone; among the passed
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

// read takes the machine's second serial line to its end.
func (r *results) read(from io.Reader) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<22)
	var p *packageResult
	var lastLog string
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		switch word, rest, _ := strings.Cut(line, " "); word {
		case "VM-KERNEL":
			r.kernel = rest
			continue
		case "VM-ERROR":
			r.errors = append(r.errors, rest)
			continue
		case "VM-BEGIN":
			p = &packageResult{dir: rest, skips: make(map[string]string), start: time.Now()}
			r.packages = append(r.packages, p)
			continue
		case "VM-END":
			if p != nil {
				_, p.code, _ = strings.Cut(rest, " ")
				// Who ended badly though no test failed said so last.
				p.bad = p.bad || p.code != "0" && len(p.failed) == 0
				p.endTest()
				p.took = time.Since(p.start)
			}
			p = nil
			continue
		case "VM-DONE":
			r.done = true
			continue
		}
		if p == nil {
			if line != "" {
				r.errors = append(r.errors, line)
			}
			continue
		}
		if runLine.MatchString(line) {
			p.endTest()
			p.bad = true // until it passes
		}
		p.test = append(p.test, line)
		if m := rungLine.FindStringSubmatch(line); m != nil {
			p.addRung(rung{hook: m[1], used: m[2], ladder: strings.Split(m[3], ",")})
		}
		if m := logLine.FindStringSubmatch(line); m != nil {
			// A skip's reason is the last line it logged, printed before its
			// "--- SKIP" with -v.
			lastLog = m[1]
			continue
		}
		if m := testLine.FindStringSubmatch(line); m != nil {
			if !strings.HasPrefix(line, " ") {
				p.bad = m[1] == "FAIL"
			}
			switch m[1] {
			case "PASS":
				p.passed = append(p.passed, m[2])
			case "FAIL":
				p.failed = append(p.failed, m[2])
			case "SKIP":
				p.skips[m[2]] = lastLog
			}
		}
	}
	if p != nil {
		p.endTest()
	}
	return lines.Err()
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

// maxAgain is how many tests of a machine may fail and be tried again: where
// more do, that is no chance.
const maxAgain = 5

// A failure is a test at the top level that failed.
type failure struct{ dir, test string }

// again gives the tests that failed, to be run once more, each alone. There are
// none if passing then could not make the run a good one: there are too many, or
// a package's tests did not all run, for one of them panicked or hung.
func (r *results) again() (failed []failure) {
	for _, p := range r.packages {
		before := len(failed)
		for _, test := range p.failed {
			if !strings.Contains(test, "/") {
				failed = append(failed, failure{p.dir, test})
			}
		}
		if p.code != "0" && (p.code != "1" || len(failed) == before) {
			return nil
		}
	}
	if len(failed) > maxAgain {
		return nil
	}
	return failed
}

// settle takes the results that the tests of again had alone: a package each, in
// their order.
func (r *results) settle(failed []failure, second *results) {
	r.errors = append(r.errors, second.errors...)
	for i, alone := range second.packages {
		if i >= len(failed) || failed[i].dir != alone.dir {
			r.errors = append(r.errors, "the second time it ran "+alone.dir)
			continue
		}
		for _, p := range r.packages {
			if p.dir == alone.dir {
				p.settle(failed[i].test, alone)
			}
		}
	}
}

// settle takes the result that a test had alone.
func (p *packageResult) settle(test string, alone *packageResult) {
	maps.Copy(p.skips, alone.skips)
	for _, u := range alone.rungs {
		p.addRung(u)
	}
	// One that is skipped now has not passed.
	if alone.code != "0" || !slices.Contains(alone.passed, test) {
		p.twice = append(p.twice, test)
		p.output = append(append(p.output, test+" once more, alone:"), alone.output...)
		return
	}
	p.flaky = append(p.flaky, test)
	its := func(name string) bool { return name == test || strings.HasPrefix(name, test+"/") }
	p.failed = slices.DeleteFunc(p.failed, its)
	p.passed = append(slices.DeleteFunc(p.passed, its), alone.passed...)
}

// good says whether all tests of a package passed, at the first or second try.
func (p *packageResult) good() bool {
	return p.code == "0" || p.code == "1" && len(p.failed) == 0 && len(p.flaky) > 0
}

// A report prints what machines did, as go test would.
type report struct {
	w       io.Writer
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

func newReport(w io.Writer) *report {
	return &report{w: w, used: make(map[string]map[string]string), ladders: make(map[string][]string)}
}

func (r *report) complain(format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// machine prints a machine's results and notes what is wrong with them.
func (r *report) machine(m *machine, err error) {
	name := m.kernel.series
	r.kernels = append(r.kernels, name)
	fmt.Fprintf(r.w, "=== kernel %s (%s), %v\n", name, m.kernel.release, m.took.Round(100*time.Millisecond))
	if err != nil {
		r.complain("%v", err)
	}
	for _, e := range m.results.errors {
		r.complain("%s: %s", name, e)
	}
	if m.results.done && m.results.kernel != m.kernel.release {
		r.complain("%s: the machine ran %q, not %q", name, m.results.kernel, m.kernel.release)
	}
	for _, p := range m.results.packages {
		r.passed += len(p.passed)
		r.failed += len(p.failed)
		r.skipped += len(p.skips)
		if p.code != "0" {
			for _, line := range p.output {
				fmt.Fprintf(r.w, "    %s\n", line)
			}
		}
		for _, test := range p.flaky {
			r.flaky = append(r.flaky, fmt.Sprintf("flaky: %s: warren/%s %s failed once, passed alone", name, p.dir, test))
		}
		for _, test := range p.twice {
			r.complain("%s: %s: %s failed twice", name, p.dir, test)
		}
		if !p.good() && len(p.twice) == 0 {
			r.complain("%s: %s: exit code %q", name, p.dir, p.code)
		}
		status := map[bool]string{true: "ok  ", false: "FAIL"}[p.good()]
		fmt.Fprintf(r.w, "%s\twarren/%s\t%.3fs\t[%s: %d passed, %d failed, %d skipped]\n",
			status, p.dir, p.took.Seconds(), name, len(p.passed), len(p.failed), len(p.skips))
		if len(p.passed)+len(p.failed) == 0 {
			r.complain("%s: %s ran no test", name, p.dir)
		}
		// A sensor that stops telling how it is attached would look fine. With a
		// choice of tests, its own may not be among them. sensor/all is none.
		if strings.HasPrefix(p.dir, "sensor/") && p.dir != "sensor/all" && len(p.rungs) == 0 && m.options.run == defaultRun {
			r.complain("%s: %s logged no RUNG", name, p.dir)
		}
		for test, reason := range p.skips {
			if why, allowed := allowedSkip(name, p.dir, test); allowed {
				fmt.Fprintf(r.w, "    skipped: %s: %s (allowed: %s)\n", test, reason, why)
			} else {
				r.complain("%s: %s: %s was skipped: %s", name, p.dir, test, reason)
			}
		}
		for _, u := range p.rungs {
			r.rung(name, u)
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
	if len(r.hooks) > 0 {
		fmt.Fprintln(r.w)
		t := tabwriter.NewWriter(r.w, 0, 8, 2, ' ', 0)
		fmt.Fprintf(t, "SENSOR\tHOOK\t%s\tLADDER\n", strings.Join(r.kernels, "\t"))
		slices.Sort(r.hooks)
		for _, hook := range r.hooks {
			sensor, _, _ := strings.Cut(hook, ".")
			fmt.Fprintf(t, "%s\t%s", sensor, hook)
			for _, kernel := range r.kernels {
				cell := r.used[hook][kernel]
				if cell == "" {
					cell = notAttached
					if why, allowed := allowedRung(kernel, hook, notAttached); allowed {
						cell += " (" + why + ")"
					} else {
						r.complain("%s: %s was not attached", kernel, hook)
					}
				}
				fmt.Fprintf(t, "\t%s", cell)
			}
			fmt.Fprintf(t, "\t%s\n", strings.Join(r.ladders[hook], ","))
		}
		if err := t.Flush(); err != nil {
			return err
		}
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
