package store

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/event"
	"warren/test/traffic"
)

// streams makes connections as servers and clients of a busy machine do: of some
// hundred processes, to some hundred peers, a connect or accept and a close each.
type streams struct {
	procs []*event.Process
	peers []netip.Addr
	at    time.Time
	seq   uint64
	m     *maker
}

func newStreams() *streams {
	t := &streams{m: newMaker(7), at: time.Unix(1700000000, 0)}
	root := &event.Process{Key: event.Key{PID: 1, Start: 5}, PID: 1, Name: "systemd", ExePath: "/usr/lib/systemd/systemd"}
	for i := range 300 {
		p := &event.Process{Key: event.Key{PID: uint32(1000 + i), Start: t.m.Uint64N(1 << 50)}, PID: uint32(1000 + i), Name: fmt.Sprint("worker-", i%20), ExePath: "/usr/bin/worker", Parent: root, ParentKey: root.Key, Depth: 1}
		p.SetArgs([]string{"worker", "--id", fmt.Sprint(i)})
		p.Container = &event.Container{FullID: fmt.Sprintf("%064x", i%50), ID: fmt.Sprintf("%012x", i%50), Type: "containerd", Image: "shop/worker:1", Name: "worker", Labels: map[string]string{"app": "shop"}}
		t.procs = append(t.procs, p)
	}
	for range 400 {
		t.peers = append(t.peers, netip.AddrFrom4([4]byte{10, 244, byte(t.m.IntN(4)), byte(t.m.IntN(256))}))
	}
	return t
}

// next makes the next event, 10 µs after the last.
func (t *streams) next() *event.Event {
	t.seq++
	t.at = t.at.Add(time.Duration(5000 + t.m.IntN(10000)))
	p := t.procs[t.m.IntN(len(t.procs))]
	c := &struct {
		e event.Event
		c event.Connection
	}{}
	c.e = event.Event{Time: t.at, Ktime: uint64(t.at.UnixNano()) - 1699000000e9, Seq: t.seq, Actor: p.Key, Process: p, Data: &c.c}
	d := &c.c
	d.Local, d.LocalPort = netip.AddrFrom4([4]byte{10, 244, 0, byte(p.PID)}), uint16(32768+t.m.IntN(28000))
	d.Remote, d.RemotePort = t.peers[t.m.IntN(len(t.peers))], []uint16{443, 80, 5432, 6379, 53}[t.m.IntN(5)]
	d.L4, d.NetNS, d.Cookie = event.TCP, 4026531840+p.PID%50, t.seq/2+5000
	d.Start = t.at
	if t.seq%2 == 0 {
		d.Type, d.State = "connect", event.Established
		d.Latency = int64(100000 + t.m.IntN(100000))
		return &c.e
	}
	d.Type, d.State = "close", event.Close
	d.Duration = int64(t.m.IntN(1e9))
	d.Start = t.at.Add(-time.Duration(d.Duration))
	d.BytesSent, d.BytesReceived = uint64(t.m.IntN(5000)), uint64(t.m.IntN(50000))
	d.PacketsSent, d.PacketsRecv = d.BytesSent/1000+3, d.BytesReceived/1400+3
	d.RTT, d.MinRTT = int64(50000+t.m.IntN(50000)), 50000
	return &c.e
}

func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAppend is the way of a connection from Append to the log. It reports
// bytes of the log, and CPU time of the whole process, for each event.
func BenchmarkAppend(b *testing.B) {
	s := openAt(b, Config{Dir: b.TempDir(), MaxBytes: 1 << 40, SegmentBytes: 1 << 40})
	defer s.Close()
	tr := newStreams()
	events := make([]*event.Event, 16384)
	for i := range events {
		events[i] = tr.next()
	}
	b.ReportAllocs()
	b.ResetTimer()
	cpu := cpuTime()
	for i := range b.N {
		s.Append(events[i%len(events)])
		if i%len(events) == len(events)-1 {
			s.step(false)
		}
	}
	s.step(false)
	b.StopTimer()
	b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(s.Status().Size)/float64(b.N), "B-log/op")
}

// BenchmarkSeal makes a log a Parquet file. An operation is one event; it reports
// bytes of the file, and CPU time of the whole process, for each.
func BenchmarkSeal(b *testing.B) {
	s := openAt(b, Config{Dir: b.TempDir(), MaxBytes: 1 << 40, SegmentBytes: 1 << 40})
	defer s.Close() //nolint:errcheck // of a directory that goes
	source := traffic.New(traffic.Config{Seed: 1, Distinct: true})
	for i := range b.N {
		s.Append(source.Connection())
		if i%maxBuffered == maxBuffered-1 {
			s.step(false)
		}
	}
	s.step(false)
	runtime.GC()
	b.ReportAllocs()
	b.ResetTimer()
	cpu := cpuTime()
	if err := s.Seal(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(s.Status().Size)/float64(b.N), "B-file/op")
}

// BenchmarkHeap appends 100,000 events each second, for some seconds.
func BenchmarkHeap(b *testing.B) {
	if os.Getenv("WARREN_BENCH") == "" {
		b.Skip("set WARREN_BENCH=1: it takes ten seconds")
	}
	s := openAt(b, Config{Dir: b.TempDir()})
	tr := newStreams()
	ctx := b.Context()
	go func() { _ = s.Run(ctx) }()
	debug.FreeOSMemory()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var most uint64
	for range b.N {
		for i := range 1000 {
			<-tick.C
			for range 1000 {
				s.Append(tr.next())
			}
			if i%20 == 0 {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapInuse)
			}
		}
	}
	st := s.Status()
	b.ReportMetric(float64(most)/(1<<20), "MiB-heap")
	b.ReportMetric(float64(st.Lost), "lost")
	b.ReportMetric(float64(st.Events)/float64(b.N), "events")
}
