package file

import (
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/internal/testkit"
)

// TestBPFChangeOfInterests: what is wanted before and after a change of interests
// is told whole, also of calls that are on their way at that moment.
func TestBPFChangeOfInterests(t *testing.T) {
	w := start(t, bpf.Config{BulkBytes: 64 << 20}, event.Kinds(event.KindFileClose))
	dir := t.TempDir()
	var told atomic.Int64
	add := func(e *event.Event) {
		if c, ok := e.Data.(*event.FileClose); ok && c.Name == dir+"/f" {
			told.Add(1)
		}
	}
	want := interest.All(event.Kinds(event.KindFileClose))
	more := want.With(interest.Union(interest.Holder{Name: "other", Interest: interest.Interest{Terms: []interest.Term{{
		Kinds: event.Kinds(event.KindFileClose), Paths: []interest.Path{{Op: interest.Exact, Text: dir + "/f"}},
	}}}}))
	if err := w.sensor.Start(want, add); err != nil {
		t.Fatal(err)
	}
	// Another hook comes and goes, too: of nothing that happens here.
	other := want.With(interest.Union(interest.Holder{Name: "another", Interest: interest.Interest{Terms: []interest.Term{{
		Kinds: event.Kinds(event.KindMount), Types: []string{"move_mount"},
	}}}}))
	var closes int64
	var failed error
	stop := meanwhile(func(int) {
		fd, err := unix.Open(dir+"/f", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		if err == nil {
			err = unix.Close(fd)
		}
		if err != nil {
			failed = err
		}
		closes++
	})
	rounds := testkit.Rounds(100, 20)
	for range rounds {
		for _, set := range []interest.Set{more, want} {
			if err := w.sensor.Start(set, add); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := w.sensor.epochs[fileFileWhatFILE_CLOSE]
	for range rounds / 10 {
		for _, set := range []interest.Set{other, want} {
			if err := w.sensor.Start(set, add); err != nil {
				t.Fatal(err)
			}
		}
	}
	if after := w.sensor.epochs[fileFileWhatFILE_CLOSE]; after != before {
		t.Error("what was seen of closes is thrown away when another hook comes or goes")
	}
	stop()
	if failed != nil {
		t.Fatal(failed)
	}
	if err := w.road.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := told.Load(); n != closes {
		t.Errorf("%d closes are told, %d were made", n, closes)
	}
}
