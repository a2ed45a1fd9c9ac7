package bpf

import (
	"context"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

func openTest(t *testing.T, cfg Config) (*Road, *Object) {
	t.Helper()
	r, err := NewRoad(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	spec, err := loadTestroad()
	if err != nil {
		t.Fatal(err)
	}
	o, err := r.Open("testroad", spec)
	if err != nil {
		t.Fatal(err)
	}
	return r, o
}

func TestBPFSmoke(t *testing.T) {
	r, o := openTest(t, Config{})
	n := 0
	r.Handle(60, "test.critical", Critical, func(rec []byte) error {
		n++
		_, err := View[testroadTestRecord](rec)
		return err
	})
	done := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- r.Run(ctx) }()
	p, err := o.Program("testroad_make")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = p.Run(&ebpf.RunOptions{Context: testroadTestOrder{Count: 1000}})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(time.Since(start))
	if err := r.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Log(n, r.Counters(), r.Stats())
	for _, f := range Features() {
		t.Log(f, Probe(f))
	}
	st, err := o.Attach(Hook{Name: "test.fork", Rungs: []Rung{
		{"fentry", []Attachment{BTF("testroad_fentry")}},
		{"tp_btf", []Attachment{BTF("testroad_none")}},
		{"wrong", []Attachment{BTF("testroad_wrong")}},
		{"kprobe", []Attachment{Kprobe("testroad_kprobe", "bpf_fentry_test1")}},
		{"tracepoint", []Attachment{Tracepoint("testroad_tp", "syscalls", "sys_enter_getpgid"), Tracepoint("testroad_tp", "syscalls", "sys_exit_getpgid")}},
	}})
	t.Logf("%+v %v", st, err)
	st, err = o.Attach(Hook{Name: "test.egress", Rungs: []Rung{
		{"cgroup", []Attachment{Cgroup("testroad_egress", ebpf.AttachCGroupInetEgress)}}}})
	t.Logf("%+v %v", st, err)
	t.Log("lockdown", lockdown())
	cancel()
	t.Log(<-done, r.Close())
}
