package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// A Feature is something that a kernel may or may not let us do.
type Feature string

// The features. Each is probed by doing it, never by version.
const (
	FeatureRing       Feature = "ring"       // BPF ring buffers
	FeatureTPBTF      Feature = "tp_btf"     // programs on tracepoints, with kernel types
	FeatureTracepoint Feature = "tracepoint" // programs on tracepoints of tracefs
	FeatureFentry     Feature = "fentry"     // programs on kernel functions by trampoline
	FeatureKprobe     Feature = "kprobe"     // programs on kernel functions by breakpoint
	FeatureIter       Feature = "iter"       // iterators over tasks
	FeatureCgroup     Feature = "cgroup"     // programs on the packets of a cgroup
)

// Features returns all features, those that everything needs first.
func Features() []Feature {
	return []Feature{FeatureRing, FeatureTPBTF, FeatureTracepoint, FeatureIter, FeatureCgroup, FeatureFentry, FeatureKprobe}
}

// Probe tries a feature with a program that does nothing, for an instant, and
// returns nil if it works, else an *[UnavailableError] with the reason.
func Probe(f Feature) error {
	var err error
	switch f {
	case FeatureRing:
		err = probeRing()
	case FeatureTPBTF:
		err = probeAttach(probeTPBTF, BTF(""))
	case FeatureTracepoint:
		err = probeAttach(probeTracepoint, Tracepoint("", "sched", "sched_process_exit"))
	case FeatureFentry:
		err = probeAttach(probeFentry, BTF(""))
	case FeatureKprobe:
		err = probeAttach(probeKprobe, Kprobe("", probeFunction))
	case FeatureIter:
		err = probeAttach(probeIter, Iter(""))
	case FeatureCgroup:
		err = probeAttach(probeCgroup, Cgroup("", ebpf.AttachCGroupInetEgress))
	default:
		return fmt.Errorf("probe %s: no such feature", f)
	}
	if err == nil {
		return nil
	}
	return &UnavailableError{Feature: string(f), Reason: reasonOf(err), Err: err}
}

// probeFunction is a kernel function that runs in BPF's own tests only.
const probeFunction = "bpf_fentry_test1"

// What the probes load: the smallest program of each kind.
var (
	probeTPBTF      = probeSpec(ebpf.Tracing, ebpf.AttachTraceRawTp, "sched_process_exit", 0)
	probeTracepoint = probeSpec(ebpf.TracePoint, ebpf.AttachNone, "", 0)
	probeFentry     = probeSpec(ebpf.Tracing, ebpf.AttachTraceFEntry, probeFunction, 0)
	probeKprobe     = probeSpec(ebpf.Kprobe, ebpf.AttachNone, "", 0)
	probeIter       = probeSpec(ebpf.Tracing, ebpf.AttachTraceIter, "task", 0)
	probeCgroup     = probeSpec(ebpf.CGroupSKB, ebpf.AttachCGroupInetEgress, "", 1) // 1 lets packets pass
)

func probeSpec(t ebpf.ProgramType, at ebpf.AttachType, to string, result int32) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name:         "probe",
		Type:         t,
		AttachType:   at,
		AttachTo:     to,
		License:      "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, result), asm.Return()},
	}
}

func loadProbe(ps *ebpf.ProgramSpec, types *btf.Cache) error {
	coll, err := ebpf.NewCollectionWithOptions(&ebpf.CollectionSpec{
		Programs: map[string]*ebpf.ProgramSpec{ps.Name: ps},
	}, ebpf.CollectionOptions{Cache: types})
	if err != nil {
		return err
	}
	coll.Close()
	return nil
}

func probeAttach(ps *ebpf.ProgramSpec, at Attachment) (err error) {
	p, err := ebpf.NewProgram(ps)
	if err != nil {
		return explainLoad(ps, err, btf.NewCache())
	}
	defer p.Close()
	if at.Target == "" {
		at.Target = ps.AttachTo
	}
	var where places
	defer func() { err = errors.Join(err, where.close()) }()
	l, err := where.attach(at, p, 0)
	if err != nil {
		return explainAttach(at, ps, err)
	}
	return l.Close()
}

func probeRing() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "probe", Type: ebpf.RingBuf, MaxEntries: 4096})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return &UnavailableError{Feature: "ring", MinKernel: "5.8", Reason: "this kernel has no BPF ring buffers", Err: err}
	}
	if err != nil {
		return explainMap(err)
	}
	return m.Close()
}
