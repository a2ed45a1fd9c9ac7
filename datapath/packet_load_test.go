package datapath

import (
	"errors"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"warren/bpf"
	"warren/internal/testkit"
)

// A kernelSide is all programs on maps of their own, not attached anywhere.
type kernelSide struct {
	stateMaps
	pod  endpointPrograms
	node hostPrograms
}

// sweepEvery is how often tests have flows looked at.
const sweepEvery = uint64(50 * time.Millisecond)

// loadKernelSide loads all programs; resize may change the sizes of maps.
func loadKernelSide(t testing.TB, resize func(maps map[string]*ebpf.MapSpec)) *kernelSide {
	t.Helper()
	testkit.NeedRoot(t)
	testkit.NeedKernel(t, "ring", "5.8", bpf.Probe(bpf.FeatureRing))
	_ = rlimit.RemoveMemlock()
	k := &kernelSide{}
	maps := map[string]*ebpf.Map{}
	for _, o := range []struct {
		load func() (*ebpf.CollectionSpec, error)
		into any
	}{
		{loadState, &k.stateMaps},
		{loadEndpoint, &k.pod},
		{loadHost, &k.node},
	} {
		spec, err := o.load()
		if err != nil {
			t.Fatal(err)
		}
		if resize != nil {
			resize(spec.Maps)
		}
		if v := spec.Variables["sweep_every"]; v != nil {
			if err := v.Set(sweepEvery); err != nil {
				t.Fatal(err)
			}
		}
		have := map[string]*ebpf.Map{}
		for name := range spec.Maps {
			if maps[name] != nil {
				have[name] = maps[name]
			}
		}
		coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: have})
		if err != nil {
			var v *ebpf.VerifierError
			if errors.As(err, &v) {
				t.Fatalf("%+v", v)
			}
			t.Fatal(err)
		}
		t.Cleanup(coll.Close)
		for name, m := range coll.Maps {
			maps[name] = m
		}
		if err := coll.Assign(o.into); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// TestBPFDatapathLoads says of a kernel that it takes all programs.
func TestBPFDatapathLoads(t *testing.T) {
	loadKernelSide(t, nil)
}
