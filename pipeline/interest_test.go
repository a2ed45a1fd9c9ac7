package pipeline

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"warren/event"
	"warren/interest"
)

// TestInterest: a sensor is told at once of more that is wanted, with who wants
// it; what nobody wants any more stays for the grace, and not for longer because
// others come and go meanwhile.
func TestInterest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := event.Kinds(event.KindOpen)
		s := &fakeSensor{name: "file", kinds: open}
		var none event.KindSet
		r := newRig(t, Config{Tables: &none, StopGrace: 3 * time.Second}, newFakeTables(), s)
		<-r.Ready()
		of := func(name string, uid uint32) Options {
			return Options{Name: name, Kinds: open, Interest: interest.Interest{Terms: []interest.Term{{Kinds: open, UIDs: []uint32{uid}, Open: interest.OpenRead}}}}
		}
		users := func() []string {
			t.Helper()
			terms := r.Status().Sensors[0].Want.Terms()
			if len(terms) != 1 {
				t.Fatalf("terms %v", terms)
			}
			var out []string
			for _, uid := range terms[0].UIDs {
				out = append(out, strconv.Itoa(int(uid)))
			}
			return out
		}
		a := r.subscribe(t, of("a", 1))
		synctest.Wait()
		want(t, s.took(), []string{"start open", "snapshot"})
		r.subscribe(t, of("a too", 1))
		synctest.Wait()
		want(t, s.took(), nil) // it has that
		want(t, r.Status().Sensors[0].Want.HoldersOf(event.KindOpen, "open"), []string{"a", "a too"})

		b := r.subscribe(t, of("b", 2))
		synctest.Wait()
		want(t, s.took(), []string{"start open"})
		want(t, users(), []string{"1", "2"})
		b.Close()
		synctest.Wait()
		want(t, s.took(), nil)
		want(t, users(), []string{"1", "2"}) // still
		time.Sleep(2 * time.Second)
		r.subscribe(t, of("c", 3))
		synctest.Wait()
		want(t, s.took(), []string{"start open"})
		want(t, users(), []string{"1", "2", "3"})
		time.Sleep(1500 * time.Millisecond)
		want(t, s.took(), []string{"start open"})
		want(t, users(), []string{"1", "3"})
		a.Close()
		time.Sleep(time.Minute)
		want(t, s.took(), nil) // the other wants the same
		want(t, r.Status().Sensors[0].Want.HoldersOf(event.KindOpen, "open"), []string{"a too", "c"})
		r.stop()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
	})
}
