package pipeline

import (
	"context"
	"errors"
	"slices"
	"strings"
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

// lostOnce is a pipeline that, once lose is called, has lost a record of a process, and
// whose reading of what exists does as it is told from then on.
func lostOnce(t *testing.T, snapshot func(context.Context) error) (_ *rig, _ *fakeSensor, lose func()) {
	var lost atomic.Bool
	process := &fakeSensor{name: "process", kinds: processKinds, onSnapshot: func(ctx context.Context) error {
		if !lost.Load() {
			return nil
		}
		return snapshot(ctx)
	}}
	r := newRig(t, Config{}, newFakeTables(), process, &fakeSensor{name: "socket", kinds: event.Kinds(event.KindConnection)})
	<-r.Ready()
	return r, process, func() {
		lost.Store(true)
		process.took()
		r.road.set(bpf.Counter{ID: 2, Name: "process.exec", Lost: 1})
	}
}

// betweenLooks is from when a pipeline is ready to a time between two looks at its
// counters.
const betweenLooks = 1100 * time.Millisecond

// Reading that fails, or takes too long, is tried again: with more time, and after
// longer pauses.
func TestReadAgainLater(t *testing.T) {
	for name, fail := range map[string]func(context.Context) error{
		"too slow": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"broken":   func(context.Context) error { return errors.New("broken") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var well atomic.Bool
				var starts, ends []time.Time
				var allowed []time.Duration
				r, process, lose := lostOnce(t, func(ctx context.Context) error {
					starts = append(starts, time.Now())
					until, _ := ctx.Deadline()
					allowed = append(allowed, time.Until(until))
					defer func() { ends = append(ends, time.Now()) }()
					if well.Load() {
						return nil
					}
					return fail(ctx)
				})
				time.Sleep(betweenLooks)
				lose()
				time.Sleep(10 * time.Minute)
				well.Store(true)
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				if len(starts) < 8 || len(starts) > 20 {
					t.Fatalf("read %d times", len(starts))
				}
				for n, want := range []time.Duration{2, 4, 8, 16, 32, 60, 60, 60} {
					want *= time.Second
					if allowed[n] != want {
						t.Errorf("reading %d was allowed %v, want %v", n, allowed[n], want)
					}
					if n == 0 {
						continue
					}
					// It is looked once a second.
					if pause := starts[n].Sub(ends[n-1]); pause < want || pause > want+time.Second {
						t.Errorf("before reading %d there was a pause of %v, want %v", n, pause, want)
					}
				}
				if d := r.tables.doubts; len(d) != len(starts) || d[0] == 0 || slices.Max(d) != d[0] {
					t.Errorf("read %d times, doubted since %d", len(starts), d)
				}
				if n := strings.Count(r.log.String(), "were not read again"); n != 1 {
					t.Errorf("said %d times:\n%s", n, r.log)
				}
				// It went well: nothing more is missing, and the next time is like the first.
				process.took()
				time.Sleep(5 * time.Minute)
				r.road.set(bpf.Counter{ID: 2, Name: "process.exec", Lost: 2})
				time.Sleep(3 * time.Second)
				synctest.Wait()
				if got := process.took(); !slices.Equal(got, []string{"snapshot"}) || allowed[len(allowed)-1] != againTime {
					t.Errorf("after another loss called %q, allowed %v", got, allowed[len(allowed)-1])
				}
			})
		})
	}
}

// Who wants other events does not wait until a long reading ends.
func TestReadAgainGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reading atomic.Int32
		r, _, lose := lostOnce(t, func(ctx context.Context) error {
			reading.Add(1)
			<-ctx.Done()
			return ctx.Err()
		})
		time.Sleep(betweenLooks)
		lose()
		for reading.Load() < 5 { // this one may take half a minute
			time.Sleep(time.Second)
		}
		began := time.Now()
		s := r.subscribe(t, Options{Kinds: event.Kinds(event.KindConnection)})
		if err := s.Begun(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > againTime {
			t.Errorf("sensors were told after %v", took)
		}
	})
}
