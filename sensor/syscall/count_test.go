package syscall

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
)

// TestBPFCount: of calls that are only counted few records leave the kernel, and
// the numbers are those of the calls that were made. Where somebody else wants
// them they are told one by one, to both.
func TestBPFCount(t *testing.T) {
	counter := interest.Holder{Name: "counter", Interest: interest.Interest{Terms: []interest.Term{{Kinds: kinds, Types: []string{"dup"}, Counted: interest.CountedByProcess}}}}
	const rounds = 20_000
	flood := func() {
		for range rounds {
			fd, err := unix.Dup(0)
			if err != nil {
				t.Fatal(err)
			}
			_ = unix.Close(fd)
			_, _ = unix.Dup(-1)
		}
	}
	for _, tt := range []struct {
		name string
		want interest.Set
		most int // records
	}{
		{"alone", interest.Union(counter), 200},
		{"beside another", interest.Union(counter, interest.Holder{Name: "other", Interest: interest.Interest{Terms: []interest.Term{{Kinds: kinds, Types: []string{"dup"}, Outcome: interest.Failed}}}}), rounds + 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := start(t, bpf.Config{BulkBytes: 64 << 20}, tt.want)
			flood()
			if err := w.sensor.Stop(); err != nil { // what is counted is told by then
				t.Fatal(err)
			}
			made := map[string]uint64{}
			records := 0
			for _, e := range w.of(os.Getpid(), "dup") {
				made[e.Data.(*event.Syscall).Res.String()] += e.Times()
				if e.Counted == nil {
					records++
				}
			}
			if made["SUCCESS"] != rounds || made["EBADF"] != rounds {
				t.Errorf("%d calls succeeded and %d failed, want %d each", made["SUCCESS"], made["EBADF"], rounds)
			}
			if records > tt.most {
				t.Errorf("%d records left the kernel, want at most %d", records, tt.most)
			}
			t.Logf("RATIO %d records of %d calls", records, 2*rounds)
		})
	}
}
