package store

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/event"
	"warren/filter"
	machine "warren/test/traffic"
)

var (
	benchEvents = flag.Int("events", 300_000, "events of the history that BenchmarkQuery asks")
	benchDir    = flag.String("history", "", "where that history is kept for another run, which needs not make it; as many events then, please")
)

// BenchmarkQuery asks a history of connections and their processes: cold, with no page
// of it in memory and nothing known of it, and again. It reports what sealing costs and
// how large the files are, too.
//
//	go test ./store -run - -bench Query -benchtime 1x -args -events=10000000
func BenchmarkQuery(b *testing.B) {
	dir := *benchDir
	if dir == "" {
		dir = b.TempDir()
	}
	s := openAt(b, Config{Dir: dir, MaxBytes: 1 << 40, SegmentBytes: 64 << 20})
	src := machine.New(machine.Config{Seed: 1, Start: time.Now().Add(-time.Hour), Distinct: true})
	made := len(s.Segments()) > 0
	sealCPU := time.Duration(0)
	seal := func() {
		at := cpuTime()
		if err := s.sealAll(b.Context()); err != nil {
			b.Fatal(err)
		}
		sealCPU += cpuTime() - at
	}
	release := s.Hold()
	for i := range *benchEvents {
		e := src.Next()
		if made {
			continue
		}
		s.Append(e)
		if i%maxBatch == maxBatch-1 {
			s.step(false)
			seal()
		}
	}
	release()
	at := cpuTime()
	if err := s.Seal(b.Context()); err != nil {
		b.Fatal(err)
	}
	sealCPU += cpuTime() - at
	st := s.Status()
	peer, process := src.Peers()[len(src.Peers())-1], src.Processes()[7]
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for _, k := range st.Kinds {
		b.Logf("%-12v %9d rows %11d bytes: %5.1f a row, packed %.1f times, %d files", k.Kind, k.Rows, k.Bytes, float64(k.Bytes)/float64(k.Rows), float64(k.Plain)/float64(k.Bytes), k.Segments)
		if k.Kind == event.KindConnection {
			b.ReportMetric(float64(k.Bytes)/float64(k.Rows), "bytes/connection")
		}
	}
	if !made {
		b.ReportMetric(float64(sealCPU.Nanoseconds())/float64(*benchEvents), "sealing-ns/event")
	}
	for _, text := range []string{
		"fd.rip = 203.0.113.250", "fd.rip = " + peer.String(), "proc.exepath = /usr/bin/curl and fd.rport = 6379 and conn.bytes_sent > 500000", "proc.pid = " + fmt.Sprint(process.PID),
		"fd.sport = 5432 and conn.duration > 1h", "container.id = nothing", "proc.aname = nothing and fd.rport = 443", "fd.rip.name contains \"zzz\"", "evt.type = connect and evt.res != SUCCESS and user.uid = 12345",
		"fd.name contains nothing and fd.rip = " + peer.String(),
	} {
		p, err := filter.Compile(text)
		if err != nil {
			b.Fatal(err)
		}
		for _, cold := range []bool{true, false} {
			b.Run(fmt.Sprintf("cold=%v/%s", cold, text), func(b *testing.B) {
				var s *Store
				open := func() {
					if s != nil {
						s.lock.Close() //nolint:errcheck // a lock
					}
					s = openAt(b, Config{Dir: dir, MaxBytes: 1 << 40})
				}
				open()
				told := 0
				if !cold {
					told = len(all(b, s, Query{Filter: p}))
				}
				b.ResetTimer()
				cpu := time.Duration(0)
				for range b.N {
					if cold {
						b.StopTimer()
						forget(b, dir)
						open()
						b.StartTimer()
					}
					at := cpuTime()
					told = len(all(b, s, Query{Filter: p}))
					cpu += cpuTime() - at
				}
				b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "cpu-ms")
				b.ReportMetric(float64(told), "told")
				s.lock.Close() //nolint:errcheck // a lock
			})
		}
	}
}

// forget lets the kernel drop the pages of a history's files.
func forget(b *testing.B, dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "kind=*", "*", "*.parquet"))
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			b.Fatal(err)
		}
		f.Close() //nolint:errcheck // read only
	}
}

// BenchmarkSmallFiles asks a history of 100,000 connections that was sealed once, and
// one that was sealed 2,000 times, as that of an agent that is begun again and again:
// all of it, for a peer, and what there was in its last hundredth.
//
//	WARREN_BENCH=1 go test ./store -run - -bench SmallFiles
func BenchmarkSmallFiles(b *testing.B) {
	if os.Getenv("WARREN_BENCH") == "" {
		b.Skip("set WARREN_BENCH=1: it makes thousands of files")
	}
	const rows = 100_000
	for _, files := range []int{1, 100, 2000} {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			cfg := Config{Dir: b.TempDir(), MaxBytes: 1 << 40}
			s := openAt(b, cfg)
			src := machine.New(machine.Config{Seed: 1, Start: time.Now().Add(-time.Hour), Distinct: true})
			release := s.Hold()
			for i := range rows {
				s.Append(src.Connection())
				if i%maxBatch == 0 {
					s.step(false)
				}
				if i%(rows/files) == rows/files-1 {
					if err := s.Seal(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			}
			release()
			size := s.Status().Size
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			b.Run("open", func(b *testing.B) {
				b.ReportMetric(float64(size)/rows, "bytes/event")
				for range b.N {
					if err := openAt(b, cfg).Close(); err != nil {
						b.Fatal(err)
					}
				}
			})
			s = openAt(b, cfg)
			defer s.Close() //nolint:errcheck // of a directory that goes
			for name, q := range map[string]Query{
				"count": {Filter: mustCompile(b, "fd.rport = 5432 and conn.bytes_sent > 8000")},
				"peer":  {Filter: mustCompile(b, "fd.rip = "+src.Peers()[7].String())},
				"last":  {Since: src.Now().Add(-rows / 100 * 10 * time.Microsecond)},
			} {
				b.Run(name, func(b *testing.B) {
					told := 0
					for range b.N {
						told = len(all(b, s, q))
					}
					b.ReportMetric(float64(told), "told")
				})
			}
		})
	}
}
