package agent

import (
	"os"
	"runtime/debug"

	"warren/identity"
)

const (
	// garbagePercent lets the heap grow to three times what is in use before it is
	// collected, not twice: in a storm of processes the collector marks the tables
	// again and again, a third of all the time that an event takes. Measured by
	// BenchmarkRecord of sensor/process: a fifth less per event; 400 saves no more.
	garbagePercent = 200
	// besideTables is what the agent may take beside its tables, garbage included,
	// before the collector works harder than that, in bytes. It keeps the promised
	// 128 MiB where the tables are full.
	besideTables = 48 << 20
	// clusterBytes is what the agent of a cluster's node may take beyond that, in
	// bytes: it keeps the promised 150 MiB where 20,000 pods are known.
	clusterBytes = 54 << 20
)

// tuneCollector sets how eagerly garbage is collected, unless the environment
// says it (GOGC, GOMEMLIMIT). inCluster says whether a cluster is known, too.
func tuneCollector(s identity.Stats, inCluster bool) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		limit := s.ProcessBudget + s.ConnectionBudget + besideTables
		if inCluster {
			limit += clusterBytes
		}
		debug.SetMemoryLimit(limit)
	}
}
