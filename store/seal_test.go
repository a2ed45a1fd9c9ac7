package store

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"warren/event"
)

// fillStore appends events at random and returns what a query without a filter must
// tell.
func fillStore(t testing.TB, s *Store, m *inventor, n int) (events []*event.Event) {
	t.Helper()
	defer s.Hold()()
	for range n {
		e := m.event()
		events = append(events, e)
		s.Append(e)
	}
	if _, err := s.Sync(t.Context(), m.seq); err != nil {
		t.Fatal(err)
	}
	return events
}

func byTime(events []*event.Event) []*event.Event {
	return slices.SortedStableFunc(slices.Values(events), func(a, b *event.Event) int { return a.Time.Compare(b.Time) })
}

func newInventor(seed uint64) *inventor {
	return &inventor{Rand: rand.New(rand.NewPCG(seed, 5)), at: time.Unix(1_700_000_000, 0)}
}

var errDied = errors.New("died")

// TestSealDies lets sealing end at each of its steps, as if the program were killed
// there, and begins again: everything is there once.
func TestSealDies(t *testing.T) {
	var steps []string
	for at := 0; at == 0 || at <= len(steps); at++ {
		m := newInventor(9)
		m.kinds = event.Kinds(event.KindExec, event.KindConnection, event.KindExit)
		dir := t.TempDir()
		n := 0
		dies := func(step string) error {
			if at == 0 {
				steps = append(steps, step)
				return nil
			}
			if n++; n >= at {
				return errDied
			}
			return nil
		}
		s := openAt(t, Config{Dir: dir, sealStep: dies})
		events := fillStore(t, s, m, 100)
		err := s.Seal(t.Context())
		if at == 0 != (err == nil) {
			t.Fatalf("step %d: %v", at, err)
		}
		compare(t, s, byTime(events), Query{})
		// The lock goes with the process, and nothing else is done at its end.
		if err := s.lock.Close(); err != nil {
			t.Fatal(err)
		}
		s = openAt(t, Config{Dir: dir})
		compare(t, s, byTime(events), Query{})
		if err := s.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
		compare(t, s, byTime(events), Query{})
		if left, _ := filepath.Glob(filepath.Join(dir, "kind=*", "*", "*"+tmpSuffix)); len(left) > 0 {
			t.Errorf("step %d leaves %v", at, left)
		}
		if logs := s.Status().Logs; logs != 1 {
			t.Errorf("step %d leaves %d logs", at, logs)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(steps) < 10 {
		t.Errorf("only %d steps: %v", len(steps), steps)
	}
}

// TestSealFails: what a failed attempt has made is taken back, and the log is what is
// asked until another one succeeds.
func TestSealFails(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	m := newInventor(6)
	events := fillStore(t, s, m, 200)
	// A file where a directory is to be.
	wall := filepath.Join(s.cfg.Dir, "kind=lost")
	if err := os.WriteFile(wall, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(t.Context()); err == nil {
		t.Fatal("sealed all the same")
	}
	compare(t, s, byTime(events), Query{})
	if left, _ := filepath.Glob(filepath.Join(s.cfg.Dir, "kind=*", "*", "*")); len(left) > 0 {
		t.Errorf("a failed attempt leaves %v", left)
	}
	if err := os.Remove(wall); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	compare(t, s, byTime(events), Query{})
}

// TestSealWhileAsked asks again and again while events come and are sealed: each
// answer is all that was there, once, in order.
func TestSealWhileAsked(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	m := newInventor(11)
	m.kinds = event.Kinds(event.KindExec, event.KindConnection, event.KindExit)
	var mu sync.Mutex
	seen := fillStore(t, s, m, 200)
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		defer close(stop)
		for range 12 {
			more := fillStore(t, s, m, 100)
			mu.Lock()
			seen = append(seen, more...)
			mu.Unlock()
			if err := s.Seal(t.Context()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	asked := 0
	for done := false; !done; asked++ {
		select {
		case <-stop:
			done = true
		default:
		}
		mu.Lock()
		know := slices.Clone(seen)
		mu.Unlock()
		compare(t, s, byTime(know), Query{UpTo: know[len(know)-1].Seq})
	}
	work.Wait()
	if asked < 3 {
		t.Errorf("only %d questions", asked)
	}
}

// TestSealDamaged: of a frame whose checksum is right, and one column of which is
// not what it should be, nothing is sealed; all others are.
func TestSealDamaged(t *testing.T) {
	m := newInventor(11)
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	events := fillStore(t, s, m, 400)
	g := s.active()
	for _, f := range g.list(func(f *frame) bool { return f.typ == frameBatch && f.kind == event.KindConnection }) {
		payload, err := g.payload(&f)
		if err != nil {
			t.Fatal(err)
		}
		r := &reader{b: payload}
		new(frameInfo).read(r)
		body, err := unpack(r.b)
		if err != nil {
			t.Fatal(err)
		}
		body = slices.Clone(body)
		// The last column says of its rows what there is no word for.
		b := &reader{b: body}
		b.uvarint()
		for range b.count() {
			b.uvarint()
			size := b.uvarint()
			at := len(body) - len(b.b)
			if b.bytes(size); len(b.b) == 0 {
				body[at] = 7
			}
		}
		data := appendPacked(append(make([]byte, headSize), payload[:len(payload)-len(r.b)]...), body)
		sealFrame(data, 0, frameBatch, f.kind)
		g.add(frame{typ: frameBatch, kind: f.kind, frameInfo: f.frameInfo}, data)
	}
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	compare(t, s, byTime(events), Query{})
	if n := s.Status().Torn.DamagedFrames; n != 1 {
		t.Errorf("%d frames are told damaged, want one", n)
	}
}

func TestRetention(t *testing.T) {
	m := newInventor(3)
	now, began := m.at, m.at
	dir := t.TempDir()
	held := map[string]bool{}
	cfg := Config{Dir: dir, MaxBytes: 1 << 40, MaxAge: time.Hour, Now: func() time.Time { return now }, Held: func(name string) bool { return held[name] }, HeldBytes: 1 << 40}
	cfg.uptime = func() time.Duration { return now.Sub(began) }
	s := openAt(t, cfg)
	defer s.Close() //nolint:errcheck // checked by others
	var batches [][]*event.Event
	for range 4 {
		batches = append(batches, fillStore(t, s, m, 200))
		if err := s.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.at = m.at.Add(30 * time.Minute)
	}
	ask := func(from int) {
		t.Helper()
		compare(t, s, byTime(slices.Concat(batches[from:]...)), Query{})
		for _, dir := range []string{"kind=process", "kind=exec"} {
			files, _ := filepath.Glob(filepath.Join(s.cfg.Dir, dir, "*", "*.parquet"))
			if len(files) != len(batches)-from {
				t.Errorf("%d files of %s, want %d", len(files), dir, len(batches)-from)
			}
		}
	}
	retain := func() {
		t.Helper()
		if err := s.retain(); err != nil {
			t.Fatal(err)
		}
	}
	retain()
	ask(0)
	// A reader that has begun goes on when its files are removed.
	n := 0
	for e, err := range s.Query(t.Context(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			now = batches[1][0].Time.Add(time.Hour)
			retain()
		}
		_ = e
		n++
	}
	if n != 800 {
		t.Errorf("a reader was told %d of 800 events", n)
	}
	ask(1)
	// What is held stays, until there is no room.
	for _, f := range s.Segments() {
		held[f.Name] = true
	}
	s.cfg.MaxBytes = 1
	retain()
	ask(1)
	sizes := int64(0)
	for _, g := range s.groups()[1:] {
		sizes += g.size
	}
	s.cfg.HeldBytes = sizes + 100<<10
	// Of what goes, a file is needed no more.
	first := s.groups()[0]
	delete(held, first.files[0].Name)
	retain()
	ask(2)
	if st := s.Status(); st.GivenUp != len(first.files)-1 || st.GivenUpBytes != first.size-first.files[0].Size {
		t.Errorf("%d segments, %d bytes were given up, want %d, %d", st.GivenUp, st.GivenUpBytes, len(first.files)-1, first.size-first.files[0].Size)
	}
	// By hand.
	p, err := s.Prune(t.Context(), batches[3][0].Time.Add(-time.Minute))
	if err != nil || p.Segments == 0 || p.Bytes == 0 {
		t.Fatal(p, err)
	}
	ask(3)
	st := s.Status()
	for _, k := range st.Kinds {
		if k.Rows == 0 || k.Bytes == 0 || k.Plain == 0 || k.Kind != event.KindProcess && k.Events != uint64(k.Rows) {
			t.Errorf("%+v", k)
		}
	}
}

// TestClockSetForward: what is kept is not old because somebody set the clock, unless
// it stays where it was set to.
func TestClockSetForward(t *testing.T) {
	m := newInventor(3)
	now, up := m.at, time.Duration(0)
	log, said := logged()
	cfg := Config{Dir: t.TempDir(), MaxAge: 24 * time.Hour, Now: func() time.Time { return now }, uptime: func() time.Duration { return up }}
	open := func() *Store {
		s, err := Open(cfg, log)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	fillStore(t, s, m, 50)
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	retain := func(want bool, lines int) {
		t.Helper()
		if err := s.retain(); err != nil {
			t.Fatal(err)
		}
		if got := len(s.Segments()) > 0; got != want {
			t.Fatalf("there is a history: %v", got)
		}
		if n := strings.Count(said(), "far ahead"); n != lines {
			t.Fatalf("said %d times, want %d:\n%s", n, lines, said())
		}
	}
	later := func(wall, real time.Duration) { now, up = now.Add(wall), up+real }
	retain(true, 0)
	later(20*time.Hour, 20*time.Hour)
	retain(true, 0)
	later(1000*time.Hour, time.Minute)
	retain(true, 1)
	later(time.Minute, time.Minute)
	retain(true, 1)
	later(-1000*time.Hour, time.Minute) // and back again
	retain(true, 1)
	later(1000*time.Hour, time.Minute)
	retain(true, 2)
	// Time goes on meanwhile.
	later(30*time.Minute, 30*time.Minute)
	retain(true, 2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()      // at a start nobody knows
	defer s.Close() //nolint:errcheck // checked by others
	retain(true, 3)
	later(59*time.Minute, 59*time.Minute)
	retain(true, 3)
	later(time.Minute, time.Minute)
	retain(false, 3)
}

// TestFooters: however many files there are, no more than so many footers are in memory,
// and all files are asked all the same.
func TestFooters(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}
	s := openAt(t, cfg)
	m := newInventor(5)
	var want []*event.Event
	for len(s.Segments()) <= maxFooters+4 {
		want = append(want, fillStore(t, s, m, 40)...)
		if err := s.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	footers := func() (n int) {
		for _, f := range s.sealed.all() {
			if f.meta != nil {
				n++
			}
		}
		return n
	}
	check := func() {
		t.Helper()
		compare(t, s, byTime(want), Query{})
		if n := footers(); n != maxFooters {
			t.Errorf("%d footers of %d files are remembered", n, len(s.Segments()))
		}
		if all := s.sealed.all(); all[0].meta != nil || all[len(all)-1].meta == nil {
			t.Error("the footers of the latest files are not those that are remembered")
		}
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, cfg)
	defer s.Close() //nolint:errcheck // checked by others
	s.inspect(t.Context())
	check()
	for _, f := range s.Segments() {
		if f.Rows == 0 {
			t.Errorf("nothing is known of %s", f.Name)
		}
	}
}

// TestBadFiles puts files into the history that are no good: each is named once and
// passed over, and the others are told.
func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, Config{Dir: dir})
	m := newInventor(5)
	fillStore(t, s, m, 300)
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	broken := fillStore(t, s, m, 300)
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	segments := s.Segments()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Of the second segment: a footer that is cut, a page that is damaged, a foreign
	// file in place of one, and one of a newer format.
	bad := map[event.Kind]string{event.KindExec: "footer", event.KindDNS: "checksum", event.KindFile: "not a file", event.KindFork: "newer"}
	for _, f := range segments {
		path := filepath.Join(dir, f.Name)
		if bad[f.Kind] == "" || f.Seq != segments[len(segments)-1].Seq {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		switch f.Kind {
		case event.KindExec:
			b = b[:len(b)-20]
		case event.KindDNS:
			for i := 8; i < len(b)/2; i += 64 {
				b[i] ^= 0x55
			}
		case event.KindFile:
			copy(b[bytes.LastIndex(b, []byte(footerMagic)):], "none")
		case event.KindFork:
			i := bytes.LastIndex(b, []byte(keyFormat))
			b[bytes.IndexByte(b[i:], '1')+i] = '7'
			reseal(b)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "kind=exec", "notes.txt"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	s, err := Open(Config{Dir: dir}, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // checked by others
	lost := 0
	for _, e := range broken {
		if bad[e.Data.Kind()] != "" {
			lost++
		}
	}
	for range 2 {
		if got := len(all(t, s, Query{})); got != 600-lost {
			t.Errorf("%d events of %d are told", got, 600-lost)
		}
		s.inspect(t.Context())
	}
	for k, why := range bad {
		lines := 0
		for line := range strings.Lines(said.String()) {
			if strings.Contains(line, "kind="+k.String()+"/") && strings.Contains(line, why) {
				lines++
			}
		}
		if lines != 1 {
			t.Errorf("%d lines say of %v: %s", lines, k, why)
		}
	}
	if st := s.Status(); st.Unreadable != len(bad) || st.Foreign != 1 {
		t.Errorf("%d files unreadable, %d foreign", st.Unreadable, st.Foreign)
	}
	if t.Failed() {
		t.Log(said.String())
	}
}

// TestSnapshotNumbersGoOn: they are unique also where the clock was set back and
// everything has been sealed.
func TestSnapshotNumbersGoOn(t *testing.T) {
	dir, now := t.TempDir(), time.Unix(1_700_000_000, 0)
	cfg := Config{Dir: dir, Now: func() time.Time { return now }}
	s := openAt(t, cfg)
	s.snaps.last = now.Add(time.Hour).UnixNano() // as after a clock that was set back by an hour
	m := newInventor(2)
	fillStore(t, s, m, 50)
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := s.snaps.last
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, cfg)
	defer s.Close() //nolint:errcheck // checked by others
	if s.snaps.last < last {
		t.Errorf("numbers go on at %d, and %d was given", s.snaps.last, last)
	}
}

// TestRemovedWhileOpened: what is removed between the moment that a query is about and
// that in which it has opened its files is told all the same, and so is what is removed
// while it reads.
func TestRemovedWhileOpened(t *testing.T) {
	m := newInventor(4)
	m.kinds = event.Kinds(event.KindExec, event.KindConnection)
	var s *Store
	removed := make(chan error, 1)
	asked := false
	s = openAt(t, Config{Dir: t.TempDir(), listed: func() {
		if !asked {
			return
		}
		asked = false
		s.mu.Lock()
		groups := s.groups()
		s.mu.Unlock()
		go func() {
			var err error
			for _, g := range groups {
				err = errors.Join(err, s.removeGroup(g))
			}
			removed <- err
		}()
		// It has removed something, or waits.
		for s.opening.TryRLock() {
			s.opening.RUnlock()
			s.mu.Lock()
			left := len(s.sealed.files)
			s.mu.Unlock()
			if left == 0 {
				break
			}
			runtime.Gosched()
		}
	}})
	defer s.Close()
	var events []*event.Event
	for range 3 {
		events = append(events, fillStore(t, s, m, 50)...)
		if err := s.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	asked = true
	compare(t, s, byTime(events), Query{})
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	if left := all(t, s, Query{}); len(left) > 0 {
		t.Errorf("%d events are left", len(left))
	}
}
