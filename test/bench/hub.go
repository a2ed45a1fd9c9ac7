package main

import (
	"context"
	"strconv"
	"strings"
)

const (
	figHubCPU   = "hub: 50 agents at 2,000 flows a second each, merged for one reader"
	figHubFirst = "hub: first row of a list from 50 agents"
	figEmit     = "an event: with 20,000 pods known / without a cluster"
)

// hub measures a hub with simulated agents behind real TLS connections.
func (b *bench) hub(ctx context.Context) error {
	c := make(costs)
	// On all cores, as a hub runs: those of the agents and of the reader, which are
	// other processes, are the machine's too.
	err := c.run(ctx, "./hub", "^Benchmark(Merge|FirstAnswer)$", nil, "-benchtime", strconv.Itoa(2*b.rounds)+"x", "-count", "3")
	c.dropSuffix()
	if cores, missing := c.get("BenchmarkMerge", "cores"); missing == nil {
		rows, delay := c["BenchmarkMerge"]["rows-in/s"], c["BenchmarkMerge"]["ms-merge"]
		b.add(figHubCPU, cores < 1*b.slack, "below one core", "%.2f cores (%.1f µs for each of 100,000 rows a second; at least %.0f a second came, %.0f ms in order)", cores, cores*10, rows, delay)
	}
	if ms, missing := c.get("BenchmarkFirstAnswer", "ms-first"); missing == nil {
		whole := c["BenchmarkFirstAnswer"]["ms-whole"]
		b.add(figHubFirst, ms <= 500*b.slack, "within 500 ms", "%.0f ms, %.2f of that; all 15,000 in %.0f ms", ms, ms/500, whole)
	}
	return err
}

// emitInCluster is what an event costs an agent more because there is a cluster:
// whose pod, and whose the far end was at that time.
func (b *bench) emitInCluster(ctx context.Context) error {
	c := make(costs)
	err := b.goBench(ctx, c, "./pipeline", "^BenchmarkEmit$/^(nobody|kubernetes)$")
	without, missing1 := c.get("BenchmarkEmit/nobody", "cpu-ns/event")
	with, missing2 := c.get("BenchmarkEmit/kubernetes", "cpu-ns/event")
	if missing1 == nil && missing2 == nil {
		b.add(figEmit, true, "for comparison", "%.2f: %.0f against %.0f ns", with/without, with, without)
	}
	return err
}

// dropSuffix takes the number of cores from the benchmarks' names.
func (c costs) dropSuffix() {
	for name, values := range c {
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				delete(c, name)
				c[name[:i]] = values
			}
		}
	}
}
