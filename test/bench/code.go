package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	figThroughput   = "kernel record to enriched event, one core"
	figFilter       = "typical filter of 6 terms"
	figFilterAllocs = "typical filter: allocations"
)

// costs are what Go benchmarks measured, by name and unit:
// costs["BenchmarkMatch/six_terms"]["ns/op"].
type costs map[string]map[string]float64

// get gives a value, and whether it was measured.
func (c costs) get(name, unit string) (float64, error) {
	value, ok := c[name][unit]
	if !ok {
		return 0, fmt.Errorf("no %s of %s", unit, name)
	}
	return value, nil
}

// parse takes lines of go test -bench, and keeps the least of each value: what
// else the machine does only adds.
func (c costs) parse(output string) {
	for line := range strings.Lines(output) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		if c[fields[0]] == nil {
			c[fields[0]] = make(map[string]float64)
		}
		// Name, count, then values with their units.
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				break
			}
			if old, ok := c[fields[0]][fields[i+1]]; !ok || value < old {
				c[fields[0]][fields[i+1]] = value
			}
		}
	}
}

// goBench runs the benchmarks of a package that match a pattern on one core.
func (b *bench) goBench(ctx context.Context, c costs, dir, pattern string) error {
	length := time.Second
	if b.rounds < fullWeight.rounds {
		length /= 4
	}
	// As the agent sets them (agent/memory.go).
	return c.run(ctx, dir, pattern, []string{"GOGC=200", "GOMEMLIMIT=96MiB"},
		"-benchmem", "-cpu", "1", "-benchtime", length.String(), "-count", strconv.Itoa(b.rounds))
}

// run runs benchmarks of a package. What they measured is kept where one of them
// fails, too: it may fail because of what it measured.
func (c costs) run(ctx context.Context, dir, pattern string, env []string, flags ...string) error {
	args := append([]string{"test", "-run", "^$", "-bench", pattern}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, dir)...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	c.parse(string(out))
	if err != nil {
		return fmt.Errorf("go test -bench %s %s: %w: %s", pattern, dir, err, out)
	}
	return nil
}

// code measures our own code, without what the kernel takes to make a record.
func (b *bench) code(ctx context.Context) error {
	c := make(costs)
	err := errors.Join(
		b.goBench(ctx, c, "./filter", "^BenchmarkMatch$/^six_terms$"),
		b.goBench(ctx, c, "./bpf", "^BenchmarkDrain$/^road$"),
		b.goBench(ctx, c, "./sensor/process", "^BenchmarkRecord$"),
		b.goBench(ctx, c, "./pipeline", "^BenchmarkMatch$/^before-the-queue$"),
	)
	six := "BenchmarkMatch/six_terms"
	if ns, missing := c.get(six, "ns/op"); missing == nil {
		b.add(figFilter, ns < 300*b.slack, "below 300 ns", "%.0f ns", ns)
	}
	if n, missing := c.get(six, "allocs/op"); missing == nil {
		b.add(figFilterAllocs, n == 0, "0", "%.0f", n)
	}
	// The way of a record, added up: out of the ring; through its decoder and the
	// tables (the mean over a process's life, the dearest records there are), with
	// the garbage that both make; through the pipeline and a filter.
	drain, err1 := c.get("BenchmarkDrain/road", "ns/event")
	record, err2 := c.get("BenchmarkRecord", "cpu-ns/event")
	deliver, err3 := c.get("BenchmarkMatch/before-the-queue", "ns/op")
	if err := errors.Join(err, err1, err2, err3); err != nil {
		return err
	}
	sum := drain + record + deliver
	b.add(figThroughput, sum <= 1000*b.slack, "at least 1 million a second", "%.2f million a second (%.0f ns: ring %.0f, decode and enrich %.0f, filter %.0f)",
		1000/sum, sum, drain, record, deliver)
	return nil
}
