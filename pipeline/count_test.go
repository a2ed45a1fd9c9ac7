package pipeline

import (
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"warren/event"
	"warren/interest"
)

// TestCounted: events that were counted go to those alone who count and did so
// when they happened, as many times as they happened, with the process of the one
// that was told. A sensor that does all that is wanted begins anew for who comes.
func TestCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := event.Kinds(event.KindOpen)
		s := &fakeSensor{name: "file", kinds: open}
		var none event.KindSet
		r := newRig(t, Config{Tables: &none}, newFakeTables(), s)
		<-r.Ready()
		counter := Options{Kinds: open, Interest: interest.Interest{Terms: []interest.Term{{Kinds: open, Counted: interest.CountedByProcess}}}}
		first := r.subscribe(t, counter)
		synctest.Wait()
		want(t, s.took(), []string{"start open", "snapshot"})

		told := &event.Event{Data: &event.Open{Type: "open"}, Process: &event.Process{PID: 7}}
		r.emit(told)
		time.Sleep(time.Second)
		since := time.Now()
		second := r.subscribe(t, counter)
		synctest.Wait()
		want(t, s.took(), []string{"start open"})
		plain := r.subscribe(t, Options{Kinds: open})
		synctest.Wait()
		want(t, s.took(), []string{"start open"})
		again := func(n uint64, since time.Time) {
			r.emit(&event.Event{Data: told.Data, Counted: &event.Counted{Of: told, Count: n, Since: since}})
		}
		again(10, since.Add(-time.Second))
		again(5, since)
		if n := r.Status().Sensors[0].Kinds; n != open {
			t.Errorf("kinds %v", n)
		}
		r.stop()
		for _, c := range []struct {
			from  *Subscription
			times []uint64
		}{{first, []uint64{1, 10, 5}}, {second, []uint64{5}}, {plain, nil}} {
			var times []uint64
			for {
				e, err := c.from.Next(t.Context())
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if times = append(times, e.Times()); e.Process != told.Process {
					t.Errorf("process %v", e.Process)
				}
			}
			if !slices.Equal(times, c.times) {
				t.Errorf("times %d, want %d", times, c.times)
			}
		}
		if err := <-r.done; err != nil {
			t.Error(err)
		}
	})
}
