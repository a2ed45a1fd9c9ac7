package syscall

import (
	"log/slog"
	"math"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/test/roadtest"
)

// BenchmarkCall is what a call costs that has no hook, while others have; that
// has an empty hook; that has ours, but nobody wants it of this user; that is
// told. The least of many batches, alternately: the machine does other things.
func BenchmarkCall(b *testing.B) {
	name := make([]byte, 16)
	pgid := func() { _, _, _ = unix.RawSyscall(unix.SYS_GETPGID, 0, 0, 0) }
	persona := func() { _, _, _ = unix.RawSyscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0) }
	getName := func() {
		_, _, _ = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_NAME, uintptr(unsafe.Pointer(&name[0])), 0)
	}
	none := func() func() { return func() {} }
	nobody := interest.Union(interest.Holder{Interest: interest.Interest{Terms: []interest.Term{{Kinds: kinds, Types: []string{"personality"}, UIDs: []uint32{4242}}}}})
	cases := []struct {
		name  string
		setUp func() func()
		call  func()
	}{
		{"plain", none, pgid},
		{"unhooked", func() func() {
			return live(b, only("bpf", "kill", "ptrace", "dup", "prctl", "personality", "memfd_create", "socket"))
		}, pgid},
		{"call", none, persona},
		{"empty", func() func() { return roadtest.Nothing(b, "sys_exit_personality") }, persona},
		{"nobody", func() func() { return live(b, nobody) }, persona},
		{"told", func() func() { return live(b, only("personality")) }, persona},
		{"name", none, getName},
		{"name-told", func() func() { return live(b, only("prctl")) }, getName},
	}
	least := make([]float64, len(cases))
	for i := range least {
		least[i] = math.Inf(1)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for b.Loop() {
		for range 6 {
			for i, c := range cases {
				end := c.setUp()
				for range 20 {
					const n = 5000
					begun := time.Now()
					for range n {
						c.call()
					}
					least[i] = min(least[i], float64(time.Since(begun))/n)
				}
				end()
			}
		}
	}
	for i, c := range cases {
		b.ReportMetric(least[i], "ns/"+c.name)
	}
}

// live runs a sensor.
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
