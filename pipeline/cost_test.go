package pipeline

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/bpf"
	"warren/event"
)

// A hook's share of a core is what it ran lately, times what a run takes.
func TestHookCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, newFakeTables(), &fakeSensor{name: "process", kinds: TableKinds})
		cost := func(c bpf.Cost) {
			r.road.mu.Lock()
			defer r.road.mu.Unlock()
			r.road.costs = map[string]bpf.Cost{"process.hook": c}
		}
		hook := func() HookStatus { return r.Status().Sensors[0].Hooks[0] }
		<-r.Ready()
		if h := hook(); h.Cost != (bpf.Cost{}) || h.Core != 0 {
			t.Errorf("at first %+v", h)
		}
		time.Sleep(time.Second / 2) // between two looks of the pipeline's
		const perSecond = 100_000
		for i := range uint64(20) {
			n := i * perSecond
			cost(bpf.Cost{Runs: n, Sampled: n / bpf.SampleEvery, Time: time.Duration(n/bpf.SampleEvery) * time.Microsecond})
			time.Sleep(time.Second)
		}
		if h := hook(); h.Cost.Mean() != time.Microsecond || h.Core < 0.099 || h.Core > 0.101 {
			t.Errorf("%+v costs %v of a core, want a tenth", h.Cost, h.Core)
		}
		cost(bpf.Cost{Runs: 3, Sampled: 1, Time: time.Second})
		time.Sleep(time.Second)
		if h := hook(); h.Core != 0 {
			t.Errorf("attached anew: %+v", h)
		}
		time.Sleep(10 * time.Second)
		if h := hook(); h.Core != 0 {
			t.Errorf("nothing happens: %+v", h)
		}
		r.stop()
		<-r.done
	})
}

// Status says for whom a hook is attached.
func TestHookForWhom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		none := event.KindSet(0)
		r := newRig(t, Config{Tables: &none}, newFakeTables(), &fakeSensor{name: "socket", kinds: event.Kinds(event.KindDNS)})
		<-r.Ready()
		names := func() []string {
			t.Helper()
			synctest.Wait()
			return r.Status().Sensors[0].Hooks[0].For
		}
		a := r.subscribe(t, Options{Name: "a", Kinds: event.AllKinds})
		b := r.subscribe(t, Options{Name: "b", Kinds: event.Kinds(event.KindDNS)})
		r.subscribe(t, Options{Name: "c", Kinds: event.Kinds(event.KindExec)})
		if d := cmp.Diff([]string{"a", "b"}, names()); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
		a.Close()
		if d := cmp.Diff([]string{"b"}, names()); d != "" {
			t.Errorf("one has gone (-want +got)\n%s", d)
		}
		b.Close()
		if d := cmp.Diff([]string(nil), names()); d != "" {
			t.Errorf("both have gone (-want +got)\n%s", d)
		}
		r.stop()
		<-r.done
	})
}
