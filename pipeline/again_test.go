package pipeline

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"warren/bpf"
	"warren/event"
)

// When records of processes were lost, what exists is read once more: when the losses
// are over, and now and then while they go on.
func TestReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		process := &fakeSensor{name: "process", kinds: processKinds, snapshot: []*event.Event{{Data: &event.ProcessState{}}}}
		socket := &fakeSensor{name: "socket", kinds: event.Kinds(event.KindConnection)}
		r := newRig(t, Config{}, newFakeTables(), process, socket)
		<-r.Ready()
		reads := func() (n int) {
			synctest.Wait()
			for _, c := range process.took() {
				if c == "snapshot" {
					n++
				}
			}
			return n
		}
		if n := reads(); n != 1 {
			t.Fatalf("read %d times at the start", n)
		}
		socket.took()
		applied, relinks := r.tables.applied, r.tables.relinks
		time.Sleep(1100 * time.Millisecond) // from here on between two looks at the counters

		exec, existing, attempt := uint64(0), uint64(0), uint64(0)
		lose := func(n *uint64, seconds int) {
			for range seconds {
				*n++
				r.road.set(bpf.Counter{ID: 2, Name: "process.exec", Lost: exec}, bpf.Counter{ID: 6, Name: "process.existing", Lost: existing},
					bpf.Counter{ID: 8, Name: "process.attempt", Lane: bpf.Bulk, Lost: attempt}, bpf.Counter{ID: 16, Name: "socket.tcp", Lane: bpf.Bulk, Lost: attempt})
				time.Sleep(time.Second)
			}
		}
		began := bootTime()
		lose(&exec, 1)
		if n := reads(); n != 0 {
			t.Errorf("read %d times before the losses were over", n)
		}
		time.Sleep(time.Second)
		if n := reads(); n != 1 {
			t.Errorf("read %d times after the losses", n)
		}
		if r.tables.applied != applied+1 || r.tables.relinks != relinks+1 || len(r.tables.doubts) != 1 {
			t.Errorf("the tables got %d processes, were relinked %d times and doubted %d times", r.tables.applied-applied, r.tables.relinks-relinks, len(r.tables.doubts))
		} else if since := r.tables.doubts[0]; since == 0 || since > began {
			t.Errorf("doubted since %d, the losses came after %d", since, began)
		}
		time.Sleep(time.Minute)
		if n := reads(); n != 0 {
			t.Errorf("read %d times, and nothing was lost", n)
		}

		lose(&exec, 13)
		if n := reads(); n != 2 {
			t.Errorf("read %d times in 13 seconds with losses, want each 5", n)
		}
		time.Sleep(time.Second)
		if n := reads(); n != 1 {
			t.Errorf("read %d times afterwards", n)
		}

		// What reading would not bring back, or what somebody can make as he likes.
		lose(&existing, 3)
		lose(&attempt, 3)
		time.Sleep(time.Minute)
		if n := reads(); n != 0 {
			t.Errorf("read %d times for losses that reading does not mend", n)
		}
		if slices.Contains(socket.took(), "snapshot") {
			t.Error("sockets were read again, too")
		}
	})
}

// Reading that takes too long ends, and is tried again.
func TestReadAgainLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tables := newFakeTables()
		var slow atomic.Bool
		process := &fakeSensor{name: "process", kinds: processKinds, onSnapshot: func(ctx context.Context) error {
			if !slow.Load() {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		r := newRig(t, Config{}, tables, process)
		<-r.Ready()
		time.Sleep(1100 * time.Millisecond)
		slow.Store(true)
		process.took()
		r.road.set(bpf.Counter{ID: 2, Name: "process.exec", Lost: 1})
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := process.took(); !slices.Equal(got, []string{"snapshot"}) {
			t.Errorf("called %q", got)
		}
		slow.Store(false)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := process.took(); !slices.Equal(got, []string{"snapshot"}) {
			t.Errorf("called %q when there was time", got)
		}
		if len(tables.doubts) != 2 || tables.doubts[0] != tables.doubts[1] {
			t.Errorf("doubted since %d", tables.doubts)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := process.took(); len(got) != 0 {
			t.Errorf("called %q, and nothing was lost", got)
		}
	})
}
