package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"warren/api"
	"warren/bpf"
	"warren/cluster"
	"warren/datapath"
	"warren/event"
	"warren/identity"
	"warren/internal/testkit"
	"warren/netpol"
	"warren/pipeline"
	"warren/sensor"
	"warren/sensor/flow"
)

// storm is a datapath that tells as much as it is asked to.
type storm struct {
	fakeFlows
	left  atomic.Int64
	read  chan struct{} // all that was left
	next  uint64
	event datapath.FlowEvent
	ip    []netip.Addr
}

func (s *storm) FlowsWaiting() (bytes, room int) { return int(s.left.Load()) * 300, 8 << 20 }

func (s *storm) DrainFlows(tell func(*datapath.FlowEvent)) error {
	for n := s.left.Load(); n > 0; n-- {
		s.next++
		e := &s.event
		client := int(s.next % 100)
		e.Client, e.Server = s.ip[client], s.ip[int(s.next)%len(s.ip)]
		e.ClientPort = uint16(1024 + s.next%50000)
		now := time.Now()
		e.Ktime, e.Began, e.Seen = 1000e9+s.next*10000, now, now
		e.Kind = datapath.FlowNew + datapath.FlowEventKind(s.next%3)
		e.Ifindex[0] = 10 + client
		tell(e)
	}
	if s.left.Swap(0) > 0 {
		s.read <- struct{}{}
	}
	return nil
}

type stormPolicies struct{}

func (stormPolicies) Generation() uint64 { return 1 }
func (stormPolicies) Rule(id netpol.RuleID) (netpol.Ref, *cluster.Policy, bool) {
	return netpol.Ref{Tier: cluster.NetworkTier, Namespace: "shop", Name: fmt.Sprint("p", id)}, nil, true
}
func (stormPolicies) Nearest(netpol.Direction, netpol.Packet) string { return "" }

// BenchmarkFlows measures what a record of a flow costs from where it is decoded
// to where it is remembered, twice: for who asks Warren and who asks Hubble; with
// 20,000 pods known. ns/op is the time of one CPU, whoever else runs.
func BenchmarkFlows(b *testing.B) {
	testkit.NeedRoot(b)
	log := slog.New(slog.DiscardHandler)
	st := cluster.NewState(cluster.Config{})
	s := &storm{read: make(chan struct{}, 1)}
	now := time.Now().Add(-time.Hour)
	for n := range 20000 {
		a := netip.MustParseAddr(fmt.Sprintf("10.%d.%d.%d", 1+n>>16, n>>8&255, n&255))
		s.ip = append(s.ip, a)
		st.SetPod(&cluster.Pod{UID: fmt.Sprint("u", n), Namespace: "shop", Name: fmt.Sprint("p", n), Addrs: []netip.Addr{a}, Created: now, Started: now}, now)
	}
	s.event.Flow = datapath.Flow{ServerPort: 80, Protocol: 6, Packets: [2]uint64{1, 1}, Verdict: [2]datapath.FlowVerdict{datapath.Allowed}, Rule: [2]netpol.RuleID{7}}
	road, err := bpf.NewRoad(bpf.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer road.Close()
	who := identity.New(identity.Config{Cluster: st}, log)
	sensors := []sensor.Sensor{flow.New(road, flow.Config{
		Source: &flowSource{kernel: s}, Policies: stormPolicies{},
		Device: func(i uint32) (string, string) { return fmt.Sprint("wrn", i), fmt.Sprint("u", i-10) },
	}, log)}
	none := event.KindSet(0)
	spine := pipeline.New(pipeline.Config{Tables: &none, Queue: 1 << 16}, road, who, sensors, log)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	memory := api.NewFlowMemory(api.FlowsConfig{})
	hubble := api.NewHubble(api.HubbleConfig{Served: func(netip.Addr) bool { return true }}, events{spine}, log)
	for _, run := range []func(context.Context) error{spine.Run, hubble.Run, func(ctx context.Context) error { return memory.Run(ctx, events{spine}) }} {
		go func() { _ = run(ctx) }()
	}
	testkit.Wait(b, "the sensor to run", func() bool { return s.on })
	const batch = 1000 // of 10 ms, at 100,000 a second
	b.ReportAllocs()
	b.ResetTimer()
	begun := cpuTime(b)
	done := int64(0)
	for n := 0; n < b.N; n += batch {
		s.left.Store(batch)
		done += batch
		<-s.read
	}
	testkit.Wait(b, "all to be remembered", func() bool { return memory.Stats().Seen+lostOf(spine) >= uint64(done) })
	used := cpuTime(b) - begun
	b.ReportMetric(float64(used.Nanoseconds())/float64(done), "cpu-ns/record")
	b.ReportMetric(float64(lostOf(spine)), "lost")
}

func lostOf(p *pipeline.Pipeline) (n uint64) {
	for _, s := range p.Status().Subscriptions {
		if s.Name == "flows" {
			n += s.Lost
		}
	}
	return n
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
