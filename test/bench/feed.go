package main

import (
	"context"
	"strconv"
	"time"
)

const (
	figFeedHeap  = "agent, simulated API server: heap with 20,000 pods"
	figFeedStart = "agent, simulated API server: start to 20,000 pods known"
	figFeedCPU   = "agent, simulated API server: CPU, 50 pods a second coming and going"
	figFeedLag   = "agent, simulated API server: from what is told to what is known, meanwhile"
	figFeedWrong = "agent, simulated API server: pods and addresses too many or too few afterwards"
	figFeedHub   = "hub, simulated API server: heap and CPU meanwhile, and how soon it knows a new node"
	figFeedRate  = "simulated API server: pods a second that went and came, so that the above means something"
)

// feed has the API server of kube's tests tell an agent and a hub of a cluster
// whose pods come and go as fast as is promised: no etcd, no scheduler and no
// controllers share the machine with them.
func (b *bench) feed(ctx context.Context) error {
	c := make(costs)
	err := c.run(ctx, "./kube", "^BenchmarkChurn$", []string{"WARREN_BENCH_PROGRAM=" + b.warren, "WARREN_BENCH_SECONDS=" + strconv.Itoa(int(b.comeAndGo/time.Second))}, "-benchtime", "1x", "-count", "1")
	c.dropSuffix()
	m := c["BenchmarkChurn"]
	if m == nil {
		return err
	}
	b.add(figFeedHeap, m["MiB"] > 0 && m["MiB"] <= 150, "at most 150 MiB", "%.1f MiB at most", m["MiB"])
	b.add(figFeedStart, true, "for comparison", "%.1f s", m["start-s"])
	b.add(figFeedCPU, true, "for comparison", "%.3f of a core, %.0f µs for each of %.0f changes and %.0f KiB a second", m["cores"], m["us/change"], m["changes/s"], m["KiB/s"])
	b.add(figFeedLag, m["ms-known-most"] <= 1000*b.slack, "within 1 s", "%.0f ms in the median, %.0f at most", m["ms-known"], m["ms-known-most"])
	b.add(figFeedWrong, m["pods-wrong"] == 0 && m["addresses-more"] == 0, "0", "%+.0f of 20,000 pods, %+.0f addresses", m["pods-wrong"], m["addresses-more"])
	b.add(figFeedHub, true, "for comparison", "%.1f MiB, %.3f of a core; a node within %.0f ms", m["hub-MiB"], m["hub-cores"], m["ms-node"])
	b.add(figFeedRate, m["pods/s"] >= 49.5/b.slack, "at least 50", "%.1f", m["pods/s"])
	return err
}
