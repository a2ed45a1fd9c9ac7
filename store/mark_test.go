package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warren/event"
)

// gapsOf are the times of which a query says that nothing was kept, by seconds since
// start.
func gapsOf(t testing.TB, s *Store, q Query, start time.Time) (list [][2]float64) {
	t.Helper()
	for _, e := range all(t, s, q) {
		if l, ok := e.Data.(*event.Lost); ok && l.Lane == "agent" {
			list = append(list, [2]float64{e.Time.Sub(start).Seconds(), l.Until.Sub(start).Seconds()})
		}
	}
	return list
}

// TestGap: a run tells since when nobody had kept anything, whether the one before was
// killed or ended; whoever asks for any part of that time is told.
func TestGap(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	now := start
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * 1e9)) }
	log, said := logged()
	cfg := Config{Dir: t.TempDir(), Now: func() time.Time { return now }}
	open := func(seconds float64) *Store {
		now = at(seconds)
		s, err := Open(cfg, log)
		if err != nil {
			t.Fatal(err)
		}
		s.Recording()
		s.step(false)
		return s
	}
	p := &event.Process{Key: event.Key{PID: 10, Start: 50}, PID: 10, Name: "curl"}
	work := func(s *Store, seconds float64) {
		now = at(seconds)
		s.Append(connection(uint64(seconds), p, now, 443))
		s.step(false)
	}
	check := func(s *Store, q Query, want ...[2]float64) {
		t.Helper()
		got := gapsOf(t, s, q, start)
		if len(got) != len(want) {
			t.Fatalf("from %v until %v: gaps %v, want %v", q.Since, q.Until, got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("from %v until %v: gaps %v, want %v", q.Since, q.Until, got, want)
			}
		}
	}

	s := open(0)
	work(s, 5)
	work(s, 10)
	check(s, Query{})                      // nobody ran before the first
	if err := s.lock.Close(); err != nil { // as when it is killed
		t.Fatal(err)
	}

	killed := [2]float64{9, 100} // what was a second old is safe
	s = open(100)
	for range 2 { // in the log, and sealed
		check(s, Query{}, killed)
		check(s, Query{Until: at(9)})
		check(s, Query{Since: at(2), Until: at(20)}, killed)
		check(s, Query{Since: at(20), Until: at(30)}, killed)
		check(s, Query{Since: at(20), Kinds: event.Kinds(event.KindLost)}, killed)
		check(s, Query{Since: at(101)})
		if err := s.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Status().Lost; n != 0 {
		t.Errorf("%d events count as lost", n)
	}
	if n := s.Status().ClockSteps; n != 0 {
		t.Errorf("the clock was set back %d times", n)
	}
	work(s, 110)
	now = at(112.5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	ended := [2]float64{112.5, 120}
	s = open(120)
	check(s, Query{Since: at(111)}, ended)
	// One that dies before all that it kept is on the disk has recorded nothing.
	if err := s.lock.Close(); err != nil {
		t.Fatal(err)
	}
	now = at(130)
	s = openAt(t, cfg) // never says that it records
	s.Append(connection(1, p, now, 443))
	s.step(false)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(140)
	check(s, Query{Since: at(111)}, ended, [2]float64{120, 140})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// A clock that was set back says nothing.
	s = open(50)
	check(s, Query{Since: at(111)}, ended, [2]float64{120, 140})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(said(), "mark") || strings.Contains(said(), markName) {
		t.Fatal(said())
	}
	// What is no time is said, and replaced.
	var gaps [][2]float64
	for i, text := range []string{"half a ti", "what has more bytes than any time that was ever written"} {
		if err := os.WriteFile(filepath.Join(cfg.Dir, markName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		began := 200 + 20*float64(i)
		s = open(began)
		check(s, Query{Since: at(150)}, gaps...)
		if n := strings.Count(said(), "is not a time"); n != i+1 {
			t.Errorf("%d times it is said that a mark is none: %s", n, said())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(began + 10)
		gaps = append(gaps, [2]float64{began, began + 10})
		check(s, Query{Since: at(150)}, gaps...)
		// What comes while it ends is kept, and not all of it may have come.
		work(s, began+12)
		s.Ending()
		work(s, began+14)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(began + 15)
		gaps = append(gaps, [2]float64{began + 12, began + 15})
		check(s, Query{Since: at(150)}, gaps...)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGapOfDisk: what a disk did not take before the agent was killed was not kept.
func TestGapOfDisk(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	now := start
	failing := &faulty{}
	cfg := Config{Dir: t.TempDir(), Now: func() time.Time { return now }, files: failing}
	p := &event.Process{Key: event.Key{PID: 10, Start: 50}, PID: 10, Name: "curl"}
	s := openAt(t, cfg)
	s.Recording()
	for i := range 20 {
		now = start.Add(time.Duration(i) * time.Second)
		if i == 10 {
			failing.set(func(call string, n int) (int, error) {
				if call == "write" {
					return 0, errors.New("no room")
				}
				return n, nil
			})
		}
		s.Append(connection(uint64(i+1), p, now, 443))
		s.step(false)
	}
	if err := s.lock.Close(); err != nil {
		t.Fatal(err)
	}
	failing.set(nil)
	now = start.Add(time.Minute)
	s = openAt(t, cfg)
	defer s.Close()
	s.Recording()
	s.step(false)
	if got, want := gapsOf(t, s, Query{}, start), [2]float64{8, 60}; len(got) != 1 || got[0] != want {
		t.Errorf("gaps %v, want %v", got, want)
	}
}
