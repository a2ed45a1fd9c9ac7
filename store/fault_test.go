package store

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"warren/event"
)

// faulty are files of which some calls fail.
type faulty struct {
	disk
	mu   sync.Mutex
	fail func(call string, n int) (int, error) // n bytes of a write; how many are written all the same
}

func (f *faulty) set(fail func(string, int) (int, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *faulty) ask(call string, n int) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		return n, nil
	}
	return f.fail(call, n)
}

func (f *faulty) create(path string) (file, error) {
	if _, err := f.ask("create", 0); err != nil {
		return nil, err
	}
	g, err := f.disk.create(path)
	return &faultyFile{g, f}, err
}

func (f *faulty) open(path string) (file, error) {
	g, err := f.disk.open(path)
	return &faultyFile{g, f}, err
}

type faultyFile struct {
	file
	of *faulty
}

func (f *faultyFile) WriteAt(b []byte, off int64) (int, error) {
	n, err := f.of.ask("write", len(b))
	if err != nil {
		_, _ = f.file.WriteAt(b[:n], off)
		return n, err
	}
	return f.file.WriteAt(b, off)
}

func (f *faultyFile) Sync() error {
	if _, err := f.of.ask("sync", 0); err != nil {
		return err
	}
	return f.file.Sync()
}

// logged collects what is said.
func logged() (*slog.Logger, func() string) {
	var mu sync.Mutex
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return b.Write(p)
		}), nil)), func() string {
			mu.Lock()
			defer mu.Unlock()
			return b.String()
		}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// numbers are those of the events that are found.
func numbers(t testing.TB, s *Store) map[uint64]bool {
	m := map[uint64]bool{}
	for _, e := range all(t, s, Query{}) {
		if m[e.Seq] && e.Data.Kind() != event.KindLost {
			t.Fatalf("event %d stands twice", e.Seq)
		}
		m[e.Seq] = true
	}
	return m
}

// TestDiskFull: a disk without room is told of once; what was safe stays, what
// waits is written when there is room, and what did not fit is an event.
func TestDiskFull(t *testing.T) {
	for _, partly := range []int{0, 100} {
		dir := t.TempDir()
		fs := &faulty{}
		log, said := logged()
		s, err := Open(Config{Dir: dir, files: fs, maxPending: 4096}, log)
		if err != nil {
			t.Fatal(err)
		}
		s.in.most = 50
		p := &event.Process{Key: event.Key{PID: 1, Start: 1}, Name: "x"}
		at := time.Unix(1e9, 0)
		seq := uint64(0)
		some := func(n int) {
			for range n {
				seq++
				s.Append(connection(seq, p, at.Add(time.Duration(seq)*time.Second), uint16(seq)))
			}
		}
		some(10)
		s.step(false)
		fs.set(func(call string, n int) (int, error) { return min(n, partly), syscall.ENOSPC })
		for range 200 {
			some(5)
			s.step(false)
		}
		st := s.Status()
		if st.Failure == nil || !strings.Contains(st.Failure.What, "no space left") || st.Lost == 0 || st.Waiting == 0 || st.Waiting > 3*4096 {
			t.Fatalf("status of a full disk: %+v", st)
		}
		if n := strings.Count(said(), "\n"); n != 1 {
			t.Fatalf("%d lines are said:\n%s", n, said())
		}
		before := numbers(t, s) // what waits is found too
		if !before[1] || !before[15] {
			t.Fatalf("of %d events %d are found", seq, len(before))
		}
		fs.set(nil)
		some(3)
		s.step(false)
		s.step(false)
		st = s.Status()
		if st.Failure != nil || st.Waiting != 0 {
			t.Fatalf("status of a disk that has room again: %+v", st)
		}
		if n := strings.Count(said(), "\n"); n != 2 {
			t.Fatalf("%d lines are said:\n%s", n, said())
		}
		check := func() {
			t.Helper()
			kept, lost := uint64(0), uint64(0)
			for _, e := range all(t, s, Query{}) {
				if l, ok := e.Data.(*event.Lost); ok {
					if l.Lane != "disk" || l.What != "connection" {
						t.Fatalf("the loss is told as %+v", l)
					}
					lost += l.Count
				} else {
					kept++
				}
			}
			if kept+lost != seq || lost != st.Lost {
				t.Fatalf("of %d events %d are kept and %d are told lost, %d in status", seq, kept, lost, st.Lost)
			}
			for n := range before {
				if !numbers(t, s)[n] {
					t.Fatalf("event %d was found before, and is gone", n)
				}
			}
		}
		check()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openAt(t, Config{Dir: dir})
		check()
		if torn := s.Status().Torn; torn != (Torn{}) {
			t.Fatalf("a disk that was full left %+v", torn)
		}
		s.Close()
	}
}

// TestSyncFails: it is told once.
func TestSyncFails(t *testing.T) {
	fs := &faulty{}
	log, said := logged()
	s, err := Open(Config{Dir: t.TempDir(), files: fs}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fs.set(func(call string, n int) (int, error) {
		if call == "sync" {
			return 0, syscall.EIO
		}
		return n, nil
	})
	s.Append(connection(1, &event.Process{}, time.Unix(1e9, 0), 1))
	s.flush(false)
	if err := s.writeOut(); err != nil {
		t.Fatal(err)
	}
	s.sync(s.active())
	s.sync(s.active())
	if f := s.Status().Failure; f == nil || !strings.Contains(f.What, "sync: input/output error") || strings.Count(said(), "\n") != 1 {
		t.Fatalf("failure %v; said:\n%s", f, said())
	}
}

// TestFullAtStart: a store that cannot begin works when it can.
func TestFullAtStart(t *testing.T) {
	fs := &faulty{}
	fs.set(func(string, int) (int, error) { return 0, syscall.ENOSPC })
	log, said := logged()
	s, err := Open(Config{Dir: t.TempDir(), files: fs}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Append(connection(1, &event.Process{}, time.Unix(1e9, 0), 1))
	s.step(false)
	s.step(false)
	if s.Status().Failure == nil || strings.Count(said(), "\n") != 1 {
		t.Fatalf("said:\n%s", said())
	}
	fs.set(nil)
	s.step(false)
	s.step(false)
	if st := s.Status(); st.Failure != nil || !numbers(t, s)[1] {
		t.Fatalf("%+v", st)
	}
}

// TestLocked: a second process is refused, and told who is first.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, Config{Dir: dir})
	_, err := Open(Config{Dir: dir}, quiet())
	locked, ok := errors.AsType[*LockedError](err)
	if !ok || !strings.Contains(err.Error(), dir) || !strings.Contains(locked.Holder, "pid ") {
		t.Fatalf("a second store: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openAt(t, Config{Dir: dir}).Close()
}

// TestRefused: a directory that cannot be had is named, with the reason.
func TestRefused(t *testing.T) {
	notDir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, reason := range map[string]string{filepath.Join(notDir, "history"): "not a directory", "/proc/nowhere": "no such file", "": "no directory"} {
		_, err := Open(Config{Dir: dir}, quiet())
		if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: %v, want %s", dir, err, reason)
		}
	}
	if os.Getuid() != 0 {
		return
	}
	// Root may do all; who may not is another.
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	if err := os.Link(exe, program); err != nil {
		data, err := os.ReadFile(exe)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(program, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command(program, "-test.run=^$")
	c.Env = append(os.Environ(), "WARREN_STORE_CHILD=open", "WARREN_STORE_DIR="+filepath.Join(dir, "history"))
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, _ := c.CombinedOutput()
	if !strings.Contains(string(out), dir) || !strings.Contains(string(out), "permission denied") {
		t.Errorf("without permission: %s", out)
	}
}

// TestClockBack: events keep the times they came with, and it is told once each time.
func TestClockBack(t *testing.T) {
	log, said := logged()
	s, err := Open(Config{Dir: t.TempDir()}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	at := time.Unix(1e9, 0)
	p := &event.Process{Key: event.Key{PID: 1, Start: 1}}
	for i := range 20 {
		e := at.Add(time.Duration(i) * time.Second)
		if i >= 10 {
			e = e.Add(-time.Hour)
		}
		c := connection(uint64(i+1), p, e, 1)
		c.Ktime = uint64(i+2000) * 1e9
		s.Append(c)
		if i%3 == 0 {
			s.flush(false)
		}
	}
	s.flush(false)
	got := all(t, s, Query{})
	if len(got) != 20 || got[0].Seq != 11 || got[19].Seq != 10 {
		t.Fatalf("%d events, from %d to %d", len(got), got[0].Seq, got[len(got)-1].Seq)
	}
	if st := s.Status(); st.ClockSteps != 1 || strings.Count(said(), "set back") != 1 || !st.First.Equal(at.Add(10*time.Second-time.Hour)) {
		t.Fatalf("%+v; said:\n%s", st, said())
	}
}

func TestFailureText(t *testing.T) {
	for want, err := range map[string]error{
		"write: no space left on device":          syscall.ENOSPC,
		"write /h/1.wrs: no space left on device": &os.PathError{Op: "write", Path: "/h/1.wrs", Err: syscall.ENOSPC},
		"write: open /h/1.wrs: no such file":      errors.New("open /h/1.wrs: no such file"),
	} {
		if got := failureText("write", err); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
