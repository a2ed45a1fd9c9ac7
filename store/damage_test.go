package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go/format"
	"golang.org/x/sys/unix"

	"warren/event"
	"warren/filter"
)

// TestNoDescriptors: a query for which there are no descriptors fails, and takes
// nothing away from the next one.
func TestNoDescriptors(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	m := newInventor(1)
	events := fillStore(t, s, m, 100)
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	var failed error
	for _, err := range s.Query(t.Context(), Query{}) {
		failed = err
	}
	s.inspect(t.Context())
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(failed, unix.EMFILE) {
		t.Errorf("without descriptors a query says %v", failed)
	}
	compare(t, s, byTime(events), Query{})
	if st := s.Status(); st.Unreadable != 0 {
		t.Errorf("%d files are called unreadable", st.Unreadable)
	}
}

// TestDamagedPage: what is before a damaged page is told, also the second time.
func TestDamagedPage(t *testing.T) {
	log, said := logged()
	s, err := Open(Config{Dir: t.TempDir()}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // checked by others
	p := &event.Process{Key: event.Key{PID: 1, Start: 1}, Name: "x"}
	release := s.Hold()
	for i := range 3 * pageRows {
		s.Append(connection(uint64(i+1), p, time.Unix(1e9, int64(i)), uint16(i)))
	}
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	release()
	i := slices.IndexFunc(s.Segments(), func(f Segment) bool { return f.Kind == event.KindConnection })
	path := filepath.Join(s.cfg.Dir, s.Segments()[i].Name)
	file, err := openSealed(path)
	if err != nil {
		t.Fatal(err)
	}
	info := file.groups[0].chunks[file.byName["fd.lport"]]
	if err := file.close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[info.at+info.length-10] ^= 1 // in the last page
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n := len(all(t, s, Query{})); n < pageRows || n >= 3*pageRows {
			t.Errorf("%d events are told", n)
		}
	}
	if n := len(s.Segments()); n != 2 {
		t.Errorf("%d segments are left", n)
	}
	if n := strings.Count(said(), "cannot be read"); n != 1 || s.Status().Unreadable != 1 {
		t.Errorf("%+v; said:\n%s", s.Status(), said())
	}
}

// TestDamagedProcesses: where a log loses its processes while it is read, events are
// told without.
func TestDamagedProcesses(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	m := newInventor(1)
	m.kinds = event.Kinds(event.KindExec)
	events := fillStore(t, s, m, 50)
	if err := s.writeOut(); err != nil {
		t.Fatal(err)
	}
	g := s.active()
	for _, f := range g.list(func(f *frame) bool { return f.kind == event.KindProcess }) {
		if _, err := g.file.WriteAt([]byte{0xff, 0xff, 0xff}, f.off+5); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(all(t, s, Query{})); n != len(events) {
		t.Errorf("%d of %d events are told", n, len(events))
	}
	for _, err := range s.Processes(t.Context(), m.at) {
		if !errors.As(err, new(*NoTableError)) {
			t.Error(err)
		}
	}
	if torn := s.Status().Torn; torn.DamagedFrames == 0 {
		t.Error("nothing is said of it")
	}
}

// TestPageHeads: heads of pages have no checksum, and are believed no more than the
// footer.
func TestPageHeads(t *testing.T) {
	col := &parquetColumn{name: "x", shape: shapeTexts}
	for name, head := range map[string]format.DataPageHeaderV2{
		"values":  {NumValues: 200 << 20, NumRows: 10},
		"no rows": {NumValues: 0, NumRows: 0},
		"nulls":   {NumValues: 20, NumNulls: 20, NumRows: 20},
	} {
		h := format.PageHeader{Type: format.DataPageV2}
		h.DataPageHeaderV2.V, h.DataPageHeaderV2.Valid = head, true
		b, err := marshal(&h)
		if err != nil {
			t.Fatal(err)
		}
		c := &chunk{col: col, info: &chunkInfo{values: 20}, rows: int(head.NumRows), decoded: -1, pageScratch: &pageScratch{}}
		if err := c.split(b); !errors.Is(err, errCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBloomDamage: a bloom filter that the disk has changed hides nothing.
func TestBloomDamage(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	p := &event.Process{Key: event.Key{PID: 1, Start: 1}, Name: "x"}
	for i := range 10 {
		s.Append(connection(uint64(i+1), p, time.Unix(1e9+int64(i), 0), 443))
	}
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range s.Segments() {
		path := filepath.Join(s.cfg.Dir, f.Name)
		file, err := openSealed(path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		filters := 0
		for _, c := range file.groups[0].chunks {
			if c.bloomLen > 0 {
				clear(b[c.bloomAt+int64(c.bloomLen)-32 : c.bloomAt+int64(c.bloomLen)])
				filters++
			}
		}
		if filters == 0 {
			t.Fatalf("%s has no bloom filter", f.Name)
		}
		for c := range file.cols {
			if ok, err := file.mayHave(0, c, []uint64{bloomHash("nowhere")}); err != nil || ok != (file.groups[0].chunks[c].bloomLen == 0) {
				t.Errorf("%s, column %s may have what it has not: %v %v", f.Name, file.parquetFile.cols[c].name, ok, err)
			}
		}
		if err := errors.Join(file.close(), os.WriteFile(path, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	q := Query{Filter: mustCompile(t, "fd.rip = 10.0.0.2")}
	if n := len(all(t, s, q)); n != 10 {
		t.Errorf("%d of 10 events are told", n)
	}
}

// TestProcessesOutliveRetention: a query that has begun tells the processes of events
// whose files are removed before it comes to them.
func TestProcessesOutliveRetention(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	seq := uint64(0)
	for i := range 14 {
		p := &event.Process{Key: event.Key{PID: uint32(i + 1), Start: 1}, Name: "x"}
		for range 5 {
			seq++
			s.Append(connection(seq, p, time.Unix(1e9+int64(seq), 0), 443))
		}
		if err := s.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	next, stop := iter.Pull2(s.Query(t.Context(), Query{}))
	defer stop()
	for n := 0; ; n++ {
		e, err, ok := next()
		if !ok {
			if n != int(seq) {
				t.Errorf("%d of %d events are told", n, seq)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Process == nil {
			t.Fatalf("event %d has no process", e.Seq)
		}
		if n == 0 {
			if _, err := s.Prune(t.Context(), time.Unix(2e9, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestFailuresApart: that the disk does one thing says nothing of another, and each is
// told once.
func TestFailuresApart(t *testing.T) {
	fs := &faulty{}
	log, said := logged()
	died := true
	s, err := Open(Config{Dir: t.TempDir(), files: fs, sealStep: func(string) error {
		if died {
			return errDied
		}
		return nil
	}}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // checked by others
	fs.set(func(call string, n int) (int, error) {
		if call == "sync" {
			return 0, syscall.EIO
		}
		return n, nil
	})
	for i := range 5 {
		s.Append(connection(uint64(i+1), &event.Process{}, time.Unix(1e9, 0), 1))
		s.step(false)
		s.sync(s.active())
		s.sealAndRetain(t.Context())
	}
	s.step(true)
	s.sealAndRetain(t.Context())
	if f := s.Status().Failure; f == nil || strings.Count(said(), "\n") != 2 {
		t.Errorf("failure %v; said:\n%s", f, said())
	}
	fs.set(nil)
	s.sealAndRetain(t.Context())
	s.step(false)
	s.Append(connection(6, &event.Process{}, time.Unix(1e9, 0), 1))
	s.step(false)
	s.sync(s.active())
	if f := s.Status().Failure; f == nil || !strings.HasPrefix(f.What, "seal ") {
		t.Errorf("failure %v", f)
	}
	died = false
	s.sealAndRetain(t.Context())
	if f := s.Status().Failure; f != nil || strings.Count(said(), "\n") != 4 {
		t.Errorf("failure %v; said:\n%s", f, said())
	}
}

// TestSealSyncsTheLog: the log is on the disk before its files have their names, or a
// crash could leave less of it than they have, and it would be what is believed.
func TestSealSyncsTheLog(t *testing.T) {
	fs := &faulty{}
	synced := 0
	cfg := Config{Dir: t.TempDir(), files: fs, sealStep: func(step string) error {
		if strings.HasPrefix(step, "rename") && synced == 0 {
			return fmt.Errorf("%s before the log is synced", step)
		}
		return nil
	}}
	s := openAt(t, cfg)
	fs.set(func(call string, n int) (int, error) {
		if call == "sync" {
			synced++
		}
		return n, nil
	})
	for i := range 4 {
		s.Append(connection(uint64(i+1), &event.Process{}, time.Unix(1e9, 0), 1))
		if i == 2 { // and also one that an earlier run has left
			s.flush(false)
			if err := errors.Join(s.writeOut(), s.lock.Close()); err != nil {
				t.Fatal(err)
			}
			s = openAt(t, cfg)
		}
		synced = 0
		if err := s.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSyncAfterFailure: what a failed sync may have cost is written again before the
// next one.
func TestSyncAfterFailure(t *testing.T) {
	fs := &faulty{}
	s := openAt(t, Config{Dir: t.TempDir(), files: fs})
	defer s.Close() //nolint:errcheck // checked by others
	s.Append(connection(1, &event.Process{}, time.Unix(1e9, 0), 1))
	s.step(false)
	fails, written := true, 0
	fs.set(func(call string, n int) (int, error) {
		switch {
		case call == "sync" && fails:
			return 0, syscall.EIO
		case call == "write":
			written += n
		}
		return n, nil
	})
	g := s.active()
	s.sync(g)
	fails = false
	s.sync(g)
	if int64(written) != g.size || g.synced != g.size {
		t.Errorf("%d of %d bytes are written again, %d are synced", written, g.size, g.synced)
	}
	s.sync(g)
	if int64(written) != g.size {
		t.Error("and again")
	}
	if n := len(all(t, s, Query{})); n != 1 {
		t.Errorf("%d events", n)
	}
}

// TestPruneOfFullDisk: where nothing can be sealed any more, what is sealed can be
// pruned.
func TestPruneOfFullDisk(t *testing.T) {
	full := false
	s := openAt(t, Config{Dir: t.TempDir(), sealStep: func(string) error {
		if full {
			return syscall.ENOSPC
		}
		return nil
	}})
	defer s.Close() //nolint:errcheck // checked by others
	m := newInventor(1)
	fillStore(t, s, m, 50)
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.at = m.at.Add(time.Hour)
	later := fillStore(t, s, m, 50)
	full = true
	p, err := s.Prune(t.Context(), later[0].Time.Add(-time.Minute))
	if !errors.Is(err, syscall.ENOSPC) || p.Segments == 0 || len(s.Segments()) != 0 {
		t.Errorf("%+v, %v; %d segments are left", p, err, len(s.Segments()))
	}
	compare(t, s, byTime(later), Query{})
}

// TestLogThatCannotBeSealed goes when there is no room for more, which is told.
func TestLogThatCannotBeSealed(t *testing.T) {
	log, said := logged()
	s, err := Open(Config{Dir: t.TempDir(), MaxBytes: 1, SegmentBytes: 1 << 20, sealStep: func(string) error { return errDied }}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // checked by others
	fillStore(t, s, newInventor(1), 50)
	if err := s.Seal(t.Context()); !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	if err := s.retain(); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.GivenUp != 1 || st.GivenUpBytes == 0 || !strings.Contains(said(), "events=50") {
		t.Errorf("%+v; said:\n%s", st, said())
	}
}

// otherHead rewrites the head of a log.
func otherHead(t *testing.T, path string, change func(h *logHead)) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := headSize + int(le32(b[4:]))
	body, err := unpack(b[headSize:size])
	if err != nil {
		t.Fatal(err)
	}
	h := &logHead{}
	if err := json.Unmarshal(body, h); err != nil {
		t.Fatal(err)
	}
	change(h)
	if body, err = json.Marshal(h); err != nil {
		t.Fatal(err)
	}
	head := appendPacked(make([]byte, headSize), body)
	sealFrame(head, 0, frameHead, 0)
	if err := os.WriteFile(path, append(head, b[size:]...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestKindsOfOthers: a program that numbers kinds in another way left the log.
func TestKindsOfOthers(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, Config{Dir: dir})
	m := newInventor(4)
	events := fillStore(t, s, m, 200)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := segmentPath(dir, 0)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(b); { // each kind is the next one's
		end := at + headSize + int(le32(b[at+4:]))
		if b[at+8] == frameBatch {
			sealFrame(b[:end], at, b[at+8], event.Kind(b[at+9]+1))
		}
		at = end
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	otherHead(t, path, func(h *logHead) {
		for name, k := range h.Kinds {
			k.Number++
			h.Kinds[name] = k
		}
	})
	s = openAt(t, Config{Dir: dir})
	defer s.Close() //nolint:errcheck // checked by others
	compare(t, s, byTime(events), Query{})
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	compare(t, s, byTime(events), Query{})
}

// TestNewerLog: a log of another format is left to whoever can read it.
func TestNewerLog(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, Config{Dir: dir})
	fillStore(t, s, newInventor(4), 20)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := segmentPath(dir, 0)
	otherHead(t, path, func(h *logHead) { h.Version++ })
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	log, said := logged()
	if s, err = Open(Config{Dir: dir}, log); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Seal(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the log is %d bytes, and was %d: %v", len(after), len(before), err)
	}
	if s.state.torn.Unreadable != 1 || !strings.Contains(said(), "format 2") {
		t.Errorf("said:\n%s", said())
	}
}

// TestLongNode: names of nodes can be as long as those of files.
func TestLongNode(t *testing.T) {
	a, b := strings.Repeat("n", 252)+"a", strings.Repeat("n", 252)+"b"
	if nameOfNode(a) == nameOfNode(b) || len(nameOfNode(a)) > maxNodeName {
		t.Errorf("%s and %s", nameOfNode(a), nameOfNode(b))
	}
	s := openAt(t, Config{Dir: t.TempDir(), Node: a})
	defer s.Close() //nolint:errcheck // checked by others
	events := fillStore(t, s, newInventor(1), 20)
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	compare(t, s, byTime(events), Query{})
}

// TestLossOfLosses: what an event of losses told is counted with what is lost.
func TestLossOfLosses(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	s.in.most = 1
	p := &event.Process{}
	s.Append(connection(1, p, time.Unix(1e9, 0), 1))
	s.Append(&event.Event{Time: time.Unix(1e9, 0), Seq: 2, Data: &event.Lost{Type: "lost", Count: 1000}})
	s.Append(connection(3, p, time.Unix(1e9, 0), 1))
	if n := s.Status().Lost; n != 1001 {
		t.Errorf("%d are lost", n)
	}
}

// TestFarTimes: bounds may be further away than nanoseconds reach.
func TestFarTimes(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	events := byTime(fillStore(t, s, newInventor(1), 20))
	far := Query{Since: time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC), Until: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}
	if n := len(all(t, s, far)); n != len(events) {
		t.Errorf("%d of %d events", n, len(events))
	}
}

// TestSyncMakesRoom: what waits for a disk that is only slow is found after Sync.
func TestSyncMakesRoom(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir(), maxPending: 100})
	defer s.Close() //nolint:errcheck // checked by others
	p := &event.Process{}
	for i := range 3 {
		s.Append(connection(uint64(i+1), p, time.Unix(1e9+int64(i), 0), 1))
		s.flush(false)
	}
	if _, err := s.Sync(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if n := len(all(t, s, Query{})); n != 3 {
		t.Errorf("%d of 3 events", n)
	}
}

// TestLateEvents: an event that comes late is no clock that was set back.
func TestLateEvents(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	for i := range 20 {
		s.Append(connection(uint64(i+1), &event.Process{}, time.Unix(1_700_000_000, 0).Add(time.Duration(i%2)*time.Hour), 1))
		// Nor is one of another machine's clock.
		s.Append(&event.Event{Seq: uint64(i + 101), Time: time.Unix(1_600_000_000, 0).Add(-time.Duration(i) * time.Hour), Data: &event.K8sAudit{Type: "k8s_audit", JSON: "{}"}})
	}
	s.flush(false)
	if n := s.Status().ClockSteps; n != 0 {
		t.Errorf("the clock was set back %d times", n)
	}
}

// TestUnreadableHolds: what nobody can read is not kept for anybody.
func TestUnreadableHolds(t *testing.T) {
	up := time.Duration(0)
	uptime := func() time.Duration { up += 2 * time.Hour; return up } // the clock is believed
	s := openAt(t, Config{Dir: t.TempDir(), MaxAge: time.Hour, uptime: uptime, Held: func(string) bool { return true }, HeldBytes: 1 << 40})
	defer s.Close()                     //nolint:errcheck // checked by others
	fillStore(t, s, newInventor(1), 20) // of 2023
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.retain(); err != nil {
		t.Fatal(err)
	}
	files := s.sealed.all()
	if len(files) == 0 {
		t.Fatal("what is held is gone")
	}
	for _, f := range files {
		s.unreadable(f, errCorrupt)
	}
	if err := s.retain(); err != nil {
		t.Fatal(err)
	}
	if n := len(s.sealed.all()); n != 0 {
		t.Errorf("%d files that nobody can read are held for ever", n)
	}
}

func mustCompile(t testing.TB, text string) *filter.Program {
	t.Helper()
	p, err := filter.Compile(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
