package pipeline

import (
	"context"
	"errors"
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

// TestBegun: a subscription has begun when the sensors have been told of it, and
// not before.
func TestBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := event.Kinds(event.KindOpen)
		attached := false
		s := &fakeSensor{name: "file", kinds: open, onStart: func() {
			time.Sleep(time.Second)
			attached = true
		}}
		var none event.KindSet
		r := newRig(t, Config{Tables: &none}, newFakeTables(), s)
		<-r.Ready()
		sub := r.subscribe(t, Options{Name: "a", Kinds: open})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := sub.Begun(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("begun though the sensor is not told: %v", err)
		}
		if err := sub.Begun(t.Context()); err != nil || !attached {
			t.Errorf("%v, attached %v", err, attached)
		}
		again := r.subscribe(t, Options{Name: "b", Kinds: open})
		if err := again.Begun(t.Context()); err != nil { // of nothing new
			t.Error(err)
		}
		r.stop()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
		if err := sub.Begun(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestUnnamed: of files of which nobody knows the name, a consumer that asks for
// names is told how many there were that could be of its own.
func TestUnnamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := event.Kinds(event.KindFile)
		s := &fakeSensor{name: "file", kinds: files}
		var none event.KindSet
		r := newRig(t, Config{Tables: &none}, newFakeTables(), s)
		<-r.Ready()
		o := Options{Name: "a", Kinds: files,
			Match:   func(e *event.Event) bool { return e.Data.(*event.File).Name == "/etc/passwd" },
			Unnamed: func(e *event.Event) bool { return e.Data.(*event.File).Type == "unlink" }}
		a := r.subscribe(t, o)
		o.Name, o.Unnamed = "b", nil
		b := r.subscribe(t, o)
		synctest.Wait()
		for range 3 {
			s.emit(&event.Event{Data: &event.File{Type: "unlink", Error: event.PathUnproven}})
		}
		s.emit(&event.Event{Data: &event.File{Type: "rename", Error: event.PathUnproven}})
		s.emit(&event.Event{Data: &event.File{Type: "unlink", Error: event.PathFailed}})
		s.emit(&event.Event{Data: &event.File{Type: "unlink", Name: "/x"}})
		s.emit(&event.Event{Data: &event.File{Type: "unlink", Name: "/etc/passwd"}})
		time.Sleep(3 * time.Second)
		e, err := a.Next(t.Context())
		if f, ok := e.Data.(*event.File); err != nil || !ok || f.Name != "/etc/passwd" {
			t.Errorf("%+v, %v", e, err)
		}
		e, err = a.Next(t.Context())
		if l, ok := e.Data.(*event.Lost); err != nil || !ok || l.Count != 3 || l.Lane != "name" || l.What != "file" || l.Consumer != "a" {
			t.Errorf("%+v, %v", e.Data, err)
		}
		if _, err := b.Next(t.Context()); err != nil || a.Buffered() || b.Buffered() {
			t.Errorf("more was told: %v", err)
		}
		if st := r.Status().Subscriptions; st[0].Unnamed != 3 || st[1].Unnamed != 0 || st[0].Matched != 1 {
			t.Errorf("%+v", st)
		}
		r.stop()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
	})
}
