package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"warren/filter"
)

// manyRules are as many as a rule set has.
const manyRules = 100

// filterLength is how long the filter of a stream can be, which goes into the
// head of a request.
const filterLength = 16 << 10

// A ruleFile is what a file of Falco's rules names.
type ruleFile struct {
	macros map[string]filter.Expr
	lists  map[string][]*filter.Value
}

// Macro implements [filter.Resolver].
func (r *ruleFile) Macro(name string) (filter.Expr, bool) { x, ok := r.macros[name]; return x, ok }

// List implements [filter.Resolver].
func (r *ruleFile) List(name string) ([]*filter.Value, bool) { vs, ok := r.lists[name]; return vs, ok }

// falcoConditions are the conditions of a file of Falco's rules that compile here,
// with macros and lists in their place.
func falcoConditions(source []byte) ([]string, error) {
	var file []struct {
		Rule, Macro, List, Condition string
		Items                        []string
	}
	if err := yaml.Unmarshal(source, &file); err != nil {
		return nil, err
	}
	names := &ruleFile{map[string]filter.Expr{}, map[string][]*filter.Value{}}
	var rules []filter.Expr
	for _, entry := range file {
		switch {
		case entry.List != "":
			values := []*filter.Value{}
			for _, item := range entry.Items {
				if v, err := filter.ParseItem(item); err == nil {
					values = append(values, v)
				}
			}
			names.lists[entry.List] = values
		case entry.Condition != "":
			x, err := filter.Parse(entry.Condition)
			switch {
			case err != nil:
			case entry.Macro != "":
				names.macros[entry.Macro] = x
			default:
				rules = append(rules, x)
			}
		}
	}
	var conditions []string
	for _, x := range rules {
		whole, err := filter.Expand(x, names)
		if err != nil {
			continue
		}
		if _, err := filter.CompileExpr(whole); err == nil && len(url.QueryEscape(whole.String())) < filterLength {
			conditions = append(conditions, whole.String())
		}
	}
	return conditions, nil
}

// madeCondition is one of as many as are wanted, of the sorts that rules are.
func madeCondition(i int) string {
	switch i % 5 {
	case 0:
		return fmt.Sprintf("%s and fd.name startswith /etc/service%d/ and evt.is_open_write = true", openTypes, i)
	case 1:
		return fmt.Sprintf("%s and fd.name = /etc/secret/key%d", openTypes, i)
	case 2:
		return fmt.Sprintf("evt.type in (unlink, unlinkat, rename, renameat, renameat2) and fd.name startswith /var/log/service%d/", i)
	case 3:
		return fmt.Sprintf("evt.type = execve and proc.name in (tool%d, other%d) and proc.pname in (httpd, nginx)", i, i)
	}
	return fmt.Sprintf("evt.type = connect and fd.rport = %d", 30000+i)
}

// ruleFilters are the filters of streams that ask for what a hundred rules ask
// for, and how many of the rules are Falco's: those of the file falco_rules.yaml
// in the folder that WARREN_TEST_DATA names, if it does.
func ruleFilters() (filters []string, falcos int, err error) {
	var rules []string
	if dir := os.Getenv("WARREN_TEST_DATA"); dir != "" {
		source, err := os.ReadFile(filepath.Join(dir, "falco_rules.yaml"))
		if err != nil {
			return nil, 0, err
		}
		if rules, err = falcoConditions(source); err != nil {
			return nil, 0, fmt.Errorf("falco_rules.yaml: %w", err)
		}
		rules = rules[:min(len(rules), manyRules)]
	}
	falcos = len(rules)
	for i := range manyRules - falcos {
		rules = append(rules, madeCondition(i))
	}
	// An agent serves fewer streams than that: some rules share one.
	var joined string
	for _, rule := range rules {
		next := "(" + rule + ")"
		if joined != "" {
			next = joined + " or " + next
		}
		if joined != "" && (len(url.QueryEscape(next)) > filterLength || strings.Count(next, "\n") >= rulesInStream) {
			filters = append(filters, joined)
			next = "(" + rule + ")"
		}
		joined = next + "\n"
	}
	return append(filters, joined), falcos, nil
}

// rulesInStream are the rules that share a stream.
const rulesInStream = 4

// A source file includes what programs include, so that the compiler opens some
// fifty files for each.
const sourceText = `#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
int function%d(int n) { return n < 2 ? n : function%d(n - 1); }
`

// builds are what a side of a round builds: so many source files, so often.
type builds struct{ files, times int }

// prepareBuild writes sources and a Makefile of a program.
func (b *bench) prepareBuild(files int) (string, error) {
	dir, err := b.folder("build")
	if err != nil {
		return "", err
	}
	var objects strings.Builder
	var errs []error
	for i := range files {
		text := fmt.Sprintf(sourceText, i, i)
		if i == 0 {
			text += "int main(void) { return function0(1) - 1; }\n"
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, fmt.Sprintf("source%d.c", i)), []byte(text), 0o600))
		fmt.Fprintf(&objects, " source%d.o", i)
	}
	makefile := "program:" + objects.String() + "\n\t@gcc -o $@ $^\n%.o: %.c\n\t@gcc -O0 -c -o $@ $<\n" +
		// What else a build does: pack, unpack, look through, remove.
		"all: program\n\t@tar cf all.tar source*.c\n\t@mkdir -p copy\n\t@tar xf all.tar -C copy\n\t@grep -rq function1 copy\n" +
		"clean:\n\t@rm -rf copy all.tar program *.o\n"
	errs = append(errs, os.WriteFile(filepath.Join(dir, "Makefile"), []byte(makefile), 0o600))
	return dir, errors.Join(errs...)
}

// A buildCost is what a build took: time that passed, and CPU, of itself and of
// the agent.
type buildCost struct{ time, cpu, agent time.Duration }

// makeIn builds what is in a folder, from nothing.
func (w builds) makeIn(ctx context.Context, dir string) (c buildCost, err error) {
	for range w.times {
		for _, args := range [][]string{{"clean"}, {"-j", fmt.Sprint(runtime.NumCPU()), "all"}} {
			cmd := exec.CommandContext(ctx, "make", append([]string{"-s", "-C", dir}, args...)...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			began := time.Now()
			if out, err := cmd.CombinedOutput(); err != nil {
				return c, fmt.Errorf("build: %w: %s", err, out)
			}
			if args[0] == "clean" {
				continue
			}
			c.time += time.Since(began)
			c.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		}
	}
	return c, nil
}

// withRules builds while somebody asks an agent for what rules ask for.
func (b *bench) withRules(ctx context.Context, filters []string, measure func() (buildCost, error)) (c buildCost, err error) {
	a, err := b.start(ctx, "")
	if err != nil {
		return c, err
	}
	defer a.stop()
	for _, text := range filters {
		s, err := a.follow(ctx, text, "evt.kind,proc.name,fd.name", func([]byte) {})
		if err != nil {
			return c, err
		}
		defer func() { err = errors.Join(err, s.close()) }()
	}
	if _, err := a.rest(ctx); err != nil {
		return c, err
	}
	return a.beside(measure)
}

// beside measures a build, with what an agent's CPU is meanwhile.
func (a *agent) beside(measure func() (buildCost, error)) (c buildCost, err error) {
	before, err := cpu(a.pid())
	if err != nil {
		return c, err
	}
	if c, err = measure(); err != nil {
		return c, err
	}
	after, err := cpu(a.pid())
	c.agent = after - before
	return c, err
}

// rest waits until an agent has done what its start and its streams make it do,
// and gives the CPU that it took.
func (a *agent) rest(ctx context.Context) (time.Duration, error) {
	last, err := cpu(a.pid())
	for deadline := time.Now().Add(5 * time.Second); err == nil && ctx.Err() == nil && time.Now().Before(deadline); {
		time.Sleep(300 * time.Millisecond)
		was := last
		if last, err = cpu(a.pid()); last-was <= 10*time.Millisecond {
			break
		}
	}
	return last, err
}

// build compares a build of many processes and opens while an agent is asked for
// what a rule set asks for with the same build without an agent.
func (b *bench) build(ctx context.Context) error {
	filters, falcos, err := ruleFilters()
	if err != nil {
		return err
	}
	r, err := b.compareBuilds(ctx, func(measure func() (buildCost, error)) (buildCost, error) { return b.withRules(ctx, filters, measure) })
	if err != nil {
		return err
	}
	b.add(figBuild, b.fast(r.times.median <= 1.03), "at most 1.03", "%v in %d rounds; %d of the rules are Falco's; %s", r.times, r.rounds, falcos, r.seconds())
	b.add(figBuildCPU, true, "for comparison", "%s", r.cpu())
	return nil
}

// builtBeside are builds beside an agent, compared with those without one.
type builtBeside struct {
	times, cpus spread // ratios
	last        []buildCost
	rounds      int
}

func (r *builtBeside) seconds() string {
	return fmt.Sprintf("%.2f against %.2f s in the last", r.last[1].time.Seconds(), r.last[0].time.Seconds())
}

func (r *builtBeside) cpu() string {
	return fmt.Sprintf("%v; in the last %.2f and %.2f against %.2f s", r.cpus, r.last[1].cpu.Seconds(), r.last[1].agent.Seconds(), r.last[0].cpu.Seconds())
}

// compareBuilds builds in turns without an agent, and as with has it.
func (b *bench) compareBuilds(ctx context.Context, with func(measure func() (buildCost, error)) (buildCost, error)) (*builtBeside, error) {
	work := builds{files: 80, times: 2}
	if b.light() {
		work = builds{files: 12, times: 1}
	}
	dir, err := b.prepareBuild(work.files)
	if err != nil {
		return nil, err
	}
	measure := func() (buildCost, error) { return work.makeIn(ctx, dir) }
	if _, err := measure(); err != nil { // fills the page cache
		return nil, err
	}
	sides := []func() (buildCost, error){measure, func() (buildCost, error) { return with(measure) }}
	var times, cpus []float64
	r := &builtBeside{rounds: b.fileRounds()}
	for round := range r.rounds {
		if r.last, err = inTurns(round, sides); err != nil {
			return nil, err
		}
		times = append(times, r.last[1].time.Seconds()/r.last[0].time.Seconds())
		cpus = append(cpus, (r.last[1].cpu+r.last[1].agent).Seconds()/r.last[0].cpu.Seconds())
	}
	r.times, r.cpus = spreadOf(times), spreadOf(cpus)
	return r, nil
}
