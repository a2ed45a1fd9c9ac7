package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

const (
	figThroughput   = "kernel record to enriched event, one core"
	figFilter       = "typical filter of 6 terms"
	figFilterAllocs = "typical filter: allocations"
)

// benchLine is a line of go test -bench -benchmem.
var benchLine = regexp.MustCompile(`(?m)^Benchmark(\w+)\S*\s+\d+\s+([0-9.]+) ns/op.*?\s(\d+) allocs/op`)

// A cost is what one operation of a Go benchmark takes.
type cost struct{ nanoseconds, allocs float64 }

// goBench runs Go benchmarks several times and gives the best of each: what
// else the machine does only adds.
func (b *bench) goBench(ctx context.Context, pattern string, packages ...string) (map[string]cost, error) {
	length := "1s"
	if b.rounds < fullWeight.rounds {
		length = "200ms"
	}
	args := append([]string{"test", "-run", "^$", "-bench", pattern, "-benchmem", "-cpu", "1",
		"-benchtime", length, "-count", strconv.Itoa(b.rounds)}, packages...)
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test -bench %s: %w: %s", pattern, err, out)
	}
	costs := make(map[string]cost)
	for _, m := range benchLine.FindAllStringSubmatch(string(out), -1) {
		ns, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return nil, err
		}
		allocs, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, err
		}
		if old, ok := costs[m[1]]; !ok || ns < old.nanoseconds {
			costs[m[1]] = cost{ns, allocs}
		}
	}
	return costs, nil
}

// code measures what needs no kernel.
func (b *bench) code(ctx context.Context) error {
	filter, filterErr := b.goBench(ctx, "^BenchmarkTypical$", "./filter")
	if c, ok := filter["Typical"]; ok {
		b.add(figFilter, c.nanoseconds < 300*b.slack, "below 300 ns", "%.0f ns", c.nanoseconds)
		b.add(figFilterAllocs, c.allocs == 0, "0", "%.0f", c.allocs)
	}
	road, roadErr := b.goBench(ctx, "^BenchmarkRecordToEvent$", "./pipeline")
	if c, ok := road["RecordToEvent"]; ok {
		b.add(figThroughput, c.nanoseconds <= 1000*b.slack, "at least 1,000,000 a second", "%.2f million a second (%.0f ns each)",
			1000/c.nanoseconds, c.nanoseconds)
	}
	return errors.Join(filterErr, roadErr)
}
