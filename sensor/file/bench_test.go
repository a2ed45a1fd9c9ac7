package file

import (
	"fmt"
	"log/slog"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/test/roadtest"
)

// openClose opens and closes a file n times and returns nanoseconds for each.
// The system calls are raw: the runtime does not get in the way.
func openClose(path string, n int) float64 {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		panic(err)
	}
	at := unix.AT_FDCWD
	start := time.Now()
	for range n {
		fd, _, _ := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(p)), unix.O_RDONLY, 0, 0, 0)
		_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
	return float64(time.Since(start)) / float64(n)
}

// empty attaches a program that does nothing to both ends of openat(2).
func empty(b *testing.B) func() {
	b.Helper()
	return roadtest.Nothing(b, "sys_enter_openat", "sys_exit_openat")
}

// live runs a sensor of which everything in a set is wanted.
func live(b *testing.B, want interest.Set) func() {
	b.Helper()
	road, end := roadtest.Run(b, bpf.Config{BulkBytes: 64 << 20})
	s := New(road, Config{}, slog.New(slog.DiscardHandler))
	if err := s.Start(want, func(*event.Event) {}); err != nil {
		b.Fatal(err)
	}
	return func() {
		if err := s.Stop(); err != nil {
			b.Fatal(err)
		}
		end(b)
	}
}

// hundred are paths of all sorts that begin alike, and none of them is the file
// that the benchmark opens.
func hundred(root string) []interest.Path {
	var paths []interest.Path
	for i := range 100 {
		p := interest.Path{Op: interest.Under, Text: fmt.Sprintf("%s/data/%d/private", root, i)}
		switch i % 4 {
		case 1:
			p = interest.Path{Op: interest.Exact, Text: fmt.Sprintf("%s/lib/secret/key%d", root, i)}
		case 2:
			p = interest.Path{Op: interest.Prefix, Text: fmt.Sprintf("%s/lib/app%d", root, i)}
		case 3:
			p = interest.Path{Op: interest.Suffix, Text: fmt.Sprintf("/.ssh/id_%d", i)}
		}
		paths = append(paths, p)
	}
	return paths
}

// BenchmarkOpenClose is what opening and closing a file costs, at the least of
// many batches, in rounds that take turns: without anybody, with an empty
// program at both ends of the call, with the sensor where all is wanted, where all
// is counted by process and directory, and with a hundred paths that the file is none of: of other directories, and of its own.
func BenchmarkOpenClose(b *testing.B) {
	modes := []struct {
		name string
		on   func(b *testing.B) func()
	}{
		{"off", func(*testing.B) func() { return func() {} }},
		{"pair", empty},
		{"all", func(b *testing.B) func() { return live(b, interest.All(opens)) }},
		{"counted", func(b *testing.B) func() {
			return live(b, interest.Union(counted(interest.CountedByProcess|interest.CountedByDirectory)))
		}},
		{"others", func(b *testing.B) func() {
			return live(b, interest.Union(interest.Holder{Interest: interest.Interest{Terms: []interest.Term{{Kinds: opens, Paths: hundred("/srv")}}}}))
		}},
		{"neighbours", func(b *testing.B) func() {
			return live(b, interest.Union(interest.Holder{Interest: interest.Interest{Terms: []interest.Term{{Kinds: opens, Paths: hundred("/usr")}}}}))
		}},
	}
	least := map[string]float64{}
	for b.Loop() {
		for _, m := range modes {
			off := m.on(b)
			for range 200 {
				if ns := openClose("/usr/lib/os-release", 500); least[m.name] == 0 || ns < least[m.name] {
					least[m.name] = ns
				}
			}
			off()
		}
	}
	for _, m := range modes {
		b.ReportMetric(least[m.name], m.name+"-ns")
	}
}
