package pipeline

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/cluster"
	"warren/event"
	"warren/filter"
	"warren/identity"
)

// newBench is a pipeline with real tables, and nobody but the benchmark to feed
// it.
func newBench(b *testing.B, st *cluster.State) *Pipeline {
	b.Helper()
	log := slog.New(slog.DiscardHandler)
	var cfg identity.Config
	// Where the lives take place is known, as it is on a machine.
	place := event.Cgroup{CgroupKey: event.CgroupKey{Hierarchy: 1, ID: 1}, CgroupID: 1, Path: "/system.slice/work.service"}
	if st != nil {
		cfg.Cluster = st
		place.Path = "/kubepods/pod8f3a1c9b-7e5d-4046-af18-000000000000/" + strings.Repeat("a", 64)
	}
	p := newPipeline(Config{}, newFakeRoad(), identity.New(cfg, log), nil, log)
	p.emit(&event.Event{Data: &event.CgroupState{Type: "cgroup", Cgroup: place}})
	parent := event.Key{PID: 1, Start: 1}
	init := &event.Process{Key: parent, PID: 1, TID: 1, VPID: 1, Name: "systemd", Cgroup: event.Cgroup{CgroupKey: place.CgroupKey}}
	p.emit(&event.Event{Actor: parent, Process: init, Data: &event.ProcessState{Type: "process"}})
	return p
}

// benchCluster is a cluster of a thousand nodes and 20,000 pods, that of the
// lives and those that they connect to among them.
func benchCluster() *cluster.State {
	st := cluster.NewState(cluster.Config{})
	begun := time.Unix(0, 0)
	for n := range 20000 {
		a := netip.AddrFrom4([4]byte{10, 244, byte(n >> 8), byte(n)})
		if n < 256 {
			a = netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
		}
		st.SetPod(&cluster.Pod{
			UID: fmt.Sprintf("8f3a1c9b-7e5d-4046-af18-%012d", n), Name: fmt.Sprintf("shop-%d", n), Namespace: "shop", Node: fmt.Sprintf("node-%d", n%1000),
			Labels: map[string]string{"app": "shop"}, Addrs: []netip.Addr{a}, Phase: "Running", Created: begun, Started: begun,
		}, begun)
	}
	return st
}

// life is the events of one short-lived process that makes a connection, as
// sensors emit them: new values, which nobody else has.
func life(n uint32) [5]*event.Event {
	child := event.Key{PID: 1000 + n%30000, Start: uint64(n+1) * 1000}
	parent := event.Key{PID: 1, Start: 1}
	ktime := child.Start
	snapshot := func() *event.Process {
		p := &event.Process{Key: child, PID: child.PID, TID: child.PID, VPID: child.PID, ParentKey: parent, Name: "curl"}
		p.Cgroup.CgroupKey = event.CgroupKey{Hierarchy: 1, ID: 1}
		return p
	}
	exec := snapshot()
	exec.ExePath, exec.Cwd, exec.Filename = "/usr/bin/curl", "/root", "/usr/bin/curl"
	exec.SetArgs([]string{"curl", "-s", "https://example.org/"})
	connection := func(typ string) *event.Connection {
		return &event.Connection{Socket: event.Socket{
			Local: netip.AddrFrom4([4]byte{10, 0, 0, 1}), Remote: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}),
			LocalPort: uint16(32768 + n%28000), RemotePort: 443, L4: event.TCP, Cookie: uint64(n + 1), NetNS: 1,
		}, Type: typ, State: event.Established}
	}
	closed := connection("close")
	closed.State = event.Close
	return [5]*event.Event{
		{Ktime: ktime, Actor: child, Process: snapshot(), Data: &event.Fork{Type: "clone"}},
		{Ktime: ktime + 1, Actor: child, Process: exec, Data: &event.Exec{Type: "execve"}},
		{Time: time.Unix(1, int64(ktime)), Ktime: ktime + 2, Actor: child, Data: connection("connect")},
		{Time: time.Unix(1, int64(ktime)), Ktime: ktime + 3, Actor: child, Data: closed},
		{Ktime: ktime + 4, Actor: child, Data: &event.Exit{Type: "procexit"}},
	}
}

// BenchmarkEmit is what the pipeline and the tables take for one event, from
// emit to the queues, without the sensor's decoder. The events are made while
// the clock stands.
func BenchmarkEmit(b *testing.B) {
	for _, bb := range []struct {
		name    string
		filters []string
		cluster bool
	}{
		{"nobody", nil, false},
		{"one-filter", []string{"evt.type = connect and proc.aname contains sshd and fd.rport = 443"}, false},
		{"one-consumer", []string{""}, false},
		{"kubernetes", nil, true},
		{"kubernetes-one-filter", []string{"evt.type = connect and k8s.remote.pod.labels[app] = db and k8s.ns.name = shop"}, true},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var st *cluster.State
			if bb.cluster {
				st = benchCluster()
			}
			p := newBench(b, st)
			var wg sync.WaitGroup
			for _, f := range bb.filters {
				prog, err := filter.Compile(f)
				if err != nil {
					b.Fatal(err)
				}
				o := Options{Kinds: prog.Kinds(), Match: prog.Match}
				if f == "" {
					o.Match = nil
				}
				s, err := p.Subscribe(o)
				if err != nil {
					b.Fatal(err)
				}
				wg.Go(func() {
					for {
						if _, err := s.Next(b.Context()); err != nil {
							return
						}
					}
				})
			}
			const batch = 1000 // lives, prepared at once
			lives := make([][5]*event.Event, batch)
			n, events := uint32(0), 0
			// The time of the emitting thread alone: others' load and the
			// garbage collector's own threads are not in it.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var cpu int64
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				for i := range lives {
					lives[i] = life(n)
					n++
				}
				b.StartTimer()
				cpu -= threadTime()
				for i := range lives {
					for _, e := range lives[i] {
						p.emit(e)
					}
				}
				cpu += threadTime()
				events += 5 * batch
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event") // with all of that
			b.ReportMetric(float64(cpu)/float64(events), "cpu-ns/event")
			b.ReportMetric(float64(events)/float64(cpu)*1e9, "events/cpu-s")
			p.closeSubscriptions()
			wg.Wait()
		})
	}
}

func threadTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // cannot fail: the clock exists since 2.6.12
	return ts.Nano()
}

// BenchmarkPipeline is the pipeline alone, with tables that do nothing.
func BenchmarkPipeline(b *testing.B) {
	for _, consumers := range []int{0, 1} {
		b.Run(fmt.Sprintf("consumers-%d", consumers), func(b *testing.B) {
			p := newPipeline(Config{}, newFakeRoad(), newFakeTables(), nil, slog.New(slog.DiscardHandler))
			for range consumers {
				// It never reads: its queue is full soon, and losses are counted.
				if _, err := p.Subscribe(Options{Kinds: event.AllKinds}); err != nil {
					b.Fatal(err)
				}
			}
			e := exec(1, "")
			b.ReportAllocs()
			for b.Loop() {
				p.emit(e)
			}
		})
	}
}

// BenchmarkMatch is the reason for filters before the queue: what a consumer
// costs the ring's reader for an event that it does not want, when its filter is
// evaluated there, and when the event goes through its queue to be thrown away
// behind it.
func BenchmarkMatch(b *testing.B) {
	prog, err := filter.Compile("evt.type = connect and proc.aname contains sshd and fd.rport = 443")
	if err != nil {
		b.Fatal(err)
	}
	parent := &event.Process{Name: "bash", Parent: &event.Process{Name: "systemd"}}
	e := &event.Event{Process: &event.Process{Name: "curl", Parent: parent}, Data: &event.Connection{Type: "connect", Socket: event.Socket{RemotePort: 443}}}
	run := func(b *testing.B, o Options, behind func(*event.Event) bool) {
		p := newPipeline(Config{}, newFakeRoad(), newFakeTables(), nil, slog.New(slog.DiscardHandler))
		s, err := p.Subscribe(o)
		if err != nil {
			b.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				e, err := s.Next(b.Context())
				if err != nil {
					return
				}
				behind(e)
			}
		})
		b.ReportAllocs()
		for b.Loop() {
			p.emit(e)
		}
		st := s.Status()
		b.ReportMetric(100*float64(st.Lost)/float64(max(1, b.N)), "%lost")
		p.closeSubscriptions()
		wg.Wait()
	}
	b.Run("before-the-queue", func(b *testing.B) {
		run(b, Options{Kinds: event.AllKinds, Match: prog.Match}, func(*event.Event) bool { return true })
	})
	b.Run("behind-the-queue", func(b *testing.B) {
		run(b, Options{Kinds: event.AllKinds}, prog.Match)
	})
}
