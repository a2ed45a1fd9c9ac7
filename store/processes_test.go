package store

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/event"
)

func TestProcesses(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	now := start
	proc := func(pid uint32, name string, parent *event.Process) *event.Process {
		p := &event.Process{Key: event.Key{PID: pid, Start: uint64(pid)}, PID: pid, Name: name, Parent: parent}
		if parent != nil {
			p.ParentKey, p.Depth = parent.Key, parent.Depth+1
		}
		return p
	}
	first := proc(1, "systemd", nil)
	shell := proc(2, "bash", first)
	living := []*event.Process{first, shell}
	s := openAt(t, Config{Dir: t.TempDir(), Now: func() time.Time { return now }, Living: func() iter.Seq[*event.Process] { return slices.Values(living) }})
	defer s.Close() //nolint:errcheck // checked by others
	seq := uint64(0)
	happens := func(p *event.Process, d event.Data) {
		t.Helper()
		now = now.Add(10 * time.Second)
		seq++
		s.Append(&event.Event{Time: now, Seq: seq, Actor: p.Key, Process: p, Data: d})
		if _, err := s.Sync(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	curl := proc(3, "curl", shell)
	happens(curl, &event.Exec{Type: "execve"}) // at 10
	ended := *shell
	ended.Exited = &event.Exit{Type: "procexit"}
	happens(&ended, ended.Exited) // at 20
	living = []*event.Process{first, curl}
	seal := func() {
		t.Helper()
		if err := s.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	check := func(after time.Duration, want string) {
		t.Helper()
		var got []string
		for p, err := range s.Processes(t.Context(), start.Add(after)) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(p.Name, p.Depth))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("after %v: %v, want %s", after, got, want)
		}
	}
	all := func() {
		t.Helper()
		check(5*time.Second, "[systemd0 bash1]")
		check(10*time.Second, "[systemd0 bash1 curl2]")
		check(19*time.Second, "[systemd0 bash1 curl2]")
		check(20*time.Second, "[systemd0 curl2]")
		for _, err := range s.Processes(t.Context(), start.Add(-time.Hour)) {
			if none := (*NoTableError)(nil); !errors.As(err, &none) || !none.First.Equal(start) {
				t.Errorf("an hour before there was a history: %v", err)
			}
		}
	}
	all()
	seal() // a new segment begins, with a table of its own
	all()
	wget := proc(4, "wget", curl)
	happens(wget, &event.Exec{Type: "execve"}) // at 30
	check(30*time.Second, "[systemd0 curl2 wget3]")
	all()
	seal()
	check(30*time.Second, "[systemd0 curl2 wget3]")
	all()
	// Where the disk has changed a table, the one before it and what happened since tell.
	spoil(t, s, event.KindProcess, "proc.name")
	check(30*time.Second, "[systemd0 curl2]")
	all()
	if n := s.Status().Unreadable; n != 1 {
		t.Errorf("%d files are said to be damaged", n)
	}
}

// TestNoTable: who asks for what was before all lists is told of which the oldest is,
// and that there are older ones that cannot be read.
func TestNoTable(t *testing.T) {
	const tables = 3
	start := time.Unix(1_700_000_000, 0)
	// made returns a history with lists of each second, each in a segment of its own if sealed.
	made := func(t *testing.T, dir string, sealed bool) *Store {
		t.Helper()
		now := start
		p := &event.Process{Key: event.Key{PID: 1, Start: 1}, PID: 1, Name: "x"}
		living := slices.Values([]*event.Process{p})
		s := openAt(t, Config{Dir: dir, Now: func() time.Time { return now }, Living: func() iter.Seq[*event.Process] { return living }})
		for i := range tables {
			s.Append(connection(uint64(i+1), p, now, 1))
			now = now.Add(time.Second)
			switch {
			case sealed:
				if err := s.Seal(t.Context()); err != nil {
					t.Fatal(err)
				}
			case i < tables-1:
				s.RememberLiving()
			}
		}
		return s
	}
	logged := func(t *testing.T, damaged []int) *Store {
		t.Helper()
		s := made(t, t.TempDir(), false)
		if err := s.writeOut(); err != nil {
			t.Fatal(err)
		}
		g := s.active()
		frames := g.list(func(f *frame) bool { return f.typ == frameTable })
		if len(frames) != tables {
			t.Fatalf("%d lists", len(frames))
		}
		for _, i := range damaged {
			if _, err := g.file.WriteAt([]byte{0xff, 0xff, 0xff}, frames[i].off+2); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	sealed := func(t *testing.T, damaged []int) *Store {
		t.Helper()
		dir := t.TempDir()
		s := made(t, dir, true)
		var names []string
		for _, f := range s.Segments() {
			if f.Kind == event.KindProcess {
				names = append(names, f.Name)
			}
		}
		slices.Sort(names)
		if err := s.Close(); err != nil || len(names) != tables {
			t.Fatalf("%v are sealed: %v", names, err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "active")); err != nil { // a list of its own
			t.Fatal(err)
		}
		for _, i := range damaged {
			path := filepath.Join(dir, names[i])
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)-20] ^= 1 // in the footer
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return openAt(t, Config{Dir: dir})
	}
	for _, test := range []struct {
		damaged []int
		first   int // -1: none
		unread  bool
		says    string
	}{
		{nil, 0, false, "the oldest list of the processes that lived is of "},
		{[]int{2}, 0, false, "the oldest list of the processes that lived is of "},
		{[]int{0}, 1, true, "; what is older cannot be read"},
		{[]int{0, 2}, 1, true, "; what is older cannot be read"},
		{[]int{0, 1, 2}, -1, true, "no list of the processes that lived can be read"},
	} {
		for name, with := range map[string]func(*testing.T, []int) *Store{"log": logged, "sealed": sealed} {
			t.Run(fmt.Sprint(name, test.damaged), func(t *testing.T) {
				s := with(t, test.damaged)
				defer s.Close() //nolint:errcheck // checked by others
				var first time.Time
				if test.first >= 0 {
					first = start.Add(time.Duration(test.first) * time.Second)
				}
				for range 2 {
					for _, err := range s.Processes(t.Context(), start.Add(-1)) {
						none, ok := errors.AsType[*NoTableError](err)
						if !ok || !none.First.Equal(first) || none.Unread != test.unread || !strings.Contains(none.Error(), test.says) {
							t.Errorf("%#v: %v", err, err)
						}
					}
				}
			})
		}
	}
}

// spoil changes a column of the latest sealed file of a kind.
func spoil(t *testing.T, s *Store, k event.Kind, column string) {
	t.Helper()
	var files []string
	for _, f := range s.Segments() {
		if f.Kind == k {
			files = append(files, filepath.Join(s.cfg.Dir, f.Name))
		}
	}
	slices.Sort(files)
	path := files[len(files)-1]
	file, err := openSealed(path)
	if err != nil {
		t.Fatal(err)
	}
	info := file.groups[0].chunks[file.byName[column]]
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[info.at+info.length-1] ^= 1
	if err := errors.Join(file.close(), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// What the table does not know yet is told by events that come behind it, and a
// table can be written again when more is known.
func TestProcessesBeside(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	now := start
	proc := func(pid uint32, name string) *event.Process {
		return &event.Process{Key: event.Key{PID: pid, Start: uint64(pid)}, PID: pid, Name: name}
	}
	first, gone, came := proc(1, "systemd"), proc(2, "gone"), proc(3, "came")
	var living []*event.Process
	s := openAt(t, Config{Dir: t.TempDir(), Now: func() time.Time { return now }, Living: func() iter.Seq[*event.Process] { return slices.Values(living) }})
	defer s.Close() //nolint:errcheck // checked by others
	now = start.Add(time.Second)
	living = []*event.Process{first, gone}
	s.RememberLiving()
	ended := *gone
	ended.Exited = &event.Exit{Type: "procexit"}
	renamed := *first
	renamed.Name = "init"
	for i, e := range []*event.Event{
		{Time: now.Add(-200 * time.Millisecond), Process: &renamed, Data: &event.Exec{Type: "execve"}},
		{Time: now.Add(-100 * time.Millisecond), Process: &ended, Data: ended.Exited},
		{Time: now.Add(-50 * time.Millisecond), Process: came, Data: &event.Exec{Type: "execve"}},
	} {
		e.Seq, e.Actor = uint64(i+1), e.Process.Key
		s.Append(e)
	}
	if _, err := s.Sync(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	check := func(at time.Time, want string) {
		t.Helper()
		var got []string
		for p, err := range s.Processes(t.Context(), at) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, p.Name)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("at %v: %v, want %s", at.Sub(start), got, want)
		}
	}
	for range 2 {
		for _, err := range s.Processes(t.Context(), start.Add(-1)) {
			if !errors.As(err, new(*NoTableError)) {
				t.Errorf("before there was a table: %v", err)
			}
		}
		check(start, "[]")
		check(now, "[systemd came]")
		check(now.Add(time.Minute), "[systemd came]")
		if err := s.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
