// Package roadtest is what tests and benchmarks of several sensors share: a road
// that runs, and programs at tracepoints of system calls beside it.
package roadtest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"warren/bpf"
	"warren/internal/testkit"
	"warren/sensor"
)

// Run makes a road and reads it until stop is called, which whoever uses the road
// has to be done before. It skips the test where only root can.
func Run(t testing.TB, cfg bpf.Config) (road *bpf.Road, stop func(testing.TB)) {
	t.Helper()
	testkit.NeedRoot(t)
	road, err := bpf.NewRoad(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- road.Run(ctx) }()
	return road, func(t testing.TB) {
		t.Helper()
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("road: %v", err)
		}
		if err := road.Close(); err != nil {
			t.Errorf("close the road: %v", err)
		}
	}
}

// LogRungs prints how each hook of a sensor is attached, and which ways there are:
// who runs the tests of a kernel reads it.
func LogRungs(t testing.TB, hooks []bpf.Hook, attached []sensor.HookStatus) {
	t.Helper()
	ways := map[string]string{}
	for _, h := range hooks {
		var kinds []string
		for _, r := range h.Rungs {
			kinds = append(kinds, r.Kind)
		}
		ways[h.Name] = strings.Join(kinds, ",")
	}
	for _, st := range attached {
		t.Logf("RUNG %s %s %s", st.Hook, st.Rung, ways[st.Hook])
	}
}
