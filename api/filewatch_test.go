package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"warren/event"
	"warren/filter"
	"warren/internal/testkit"
)

func opened(name string, ino uint64) *event.Event {
	return &event.Event{Data: &event.Open{Type: "openat", Name: name, FileObject: event.FileObject{Inode: ino, Dev: 5}}}
}

func within(e *event.Event, container string) *event.Event {
	e.Process = &event.Process{Container: &event.Container{ID: container}}
	return e
}

// A watch says what is about the file, and what it leads to from then on.
func TestFileWatch(t *testing.T) {
	at := map[string]FileID{
		"/x/../a": {Path: "/real", Dev: 5, Ino: 1}, "/x/../": {Path: "/", Dev: 5, Ino: 100, Dir: true}, "/proc/12/cwd": {Path: "/"}, "/proc/12/fd/8": {Path: "/"}, "/proc/12/fd/9": {Path: "/x"},
	}
	w, err := watchFile("/x/../a", false, func(p string) (FileID, error) {
		if id, ok := at[p]; ok {
			return id, nil
		}
		return FileID{}, errors.New("no such file")
	})
	if err != nil {
		t.Fatal(err)
	}
	created := opened("/b", 3)
	created.Data.(*event.Open).Create = true
	failed := opened("/a", 9)
	failed.Data.(*event.Open).RawRes = -2
	failing := func(raw string, dir int32) *event.Event {
		return &event.Event{Data: &event.Open{Type: "openat", NameRaw: raw, Dir: dir, RawRes: -13, Res: 13, NoName: true, Error: event.PathFailed}}
	}
	acting := func(e *event.Event) *event.Event {
		e.Actor = event.Key{PID: 12, Start: 1}
		return e
	}
	rename := func(from, to string, ino uint64) *event.Event {
		return &event.Event{Data: &event.File{Type: "rename", Source: from, Target: to, FileObject: event.FileObject{Inode: ino, Dev: 5}}}
	}
	for i, s := range []struct {
		e       *event.Event
		about   bool
		changed bool
	}{
		{opened("/a", 1), true, false},
		{opened("/hard", 1), true, false},
		{within(opened("/mnt/a", 1), "c"), true, false},
		{opened("/b", 2), false, false},
		{within(opened("/a", 77), "c"), false, false}, // a container's own
		{rename("/a", "/old", 1), true, true},         // that is its name too, from now on
		{&event.Event{Data: &event.File{Type: "unlink", NoName: true, NameRaw: "/old", Dir: event.AtCwd, RawRes: -1}}, true, false},
		{rename("/old", "/older", 1), true, true},
		{opened("/old", 0), false, false},
		{opened("/older", 1), true, false},
		{&event.Event{Data: &event.File{Type: "link", Source: "/older", Target: "/second"}}, true, true},
		{&event.Event{Data: &event.File{Type: "unlink", Name: "/second"}}, true, true},
		{rename("/older", "/old", 1), true, true},
		{opened("/old", 1), true, false},
		{failed, true, false},
		{failing("/a", event.AtCwd), true, false},
		{failing("/x/a", event.AtCwd), false, false},
		{failing("a", 7), true, false}, // nobody knows of which directory
		{failing("b", 7), false, false},
		{acting(failing("a", 8)), true, false},
		{acting(failing("a", 9)), false, false},
		{acting(failing("a", event.AtCwd)), true, false},
		{opened("/a", 3), true, true}, // a new one
		{opened("/hard3", 3), true, false},
		{rename("/tmp/n", "/real", 4), true, true}, // another in its place
		{opened("/hard4", 4), true, false},
		{opened("/old", 1), true, false},
		{created, false, true}, // the number is another's by now
		{opened("/b", 3), false, false},
		{&event.Event{Data: &event.File{Type: "unlink", Name: "/a"}}, true, false},
		{&event.Event{Data: &event.File{Type: "symlink", Source: "/a", Target: "/s"}}, false, false},
		{&event.Event{Data: &event.File{Type: "chmod", FDName: "/a"}}, true, false},
		{&event.Event{Data: &event.Mount{Target: "/a"}}, true, false},
		{&event.Event{Data: &event.File{Type: "unlink", NoName: true, NameRaw: "/x/../a", Dir: event.AtCwd}}, true, false},
		{&event.Event{Process: &event.Process{Cwd: "/"}, Data: &event.File{Type: "rename", NoName: true, SourceRaw: "b", TargetRaw: "./a", Dir: event.AtCwd, NewDir: event.AtCwd}}, true, false},
		{&event.Event{Process: &event.Process{Cwd: "/x"}, Data: &event.File{Type: "unlink", NoName: true, NameRaw: "a", Dir: event.AtCwd}}, false, false},
		{&event.Event{Process: &event.Process{Cwd: "/"}, Data: &event.File{Type: "unlinkat", NoName: true, NameRaw: "a", Dir: 7}}, true, false},
		{acting(&event.Event{Data: &event.File{Type: "unlinkat", NoName: true, NameRaw: "a", Dir: 8}}), true, false},
		{acting(&event.Event{Data: &event.File{Type: "unlinkat", NoName: true, NameRaw: "a", Dir: 9}}), false, false},
		{&event.Event{Process: &event.Process{ExePath: "/somewhere", ExeInode: 4, ExeDev: 5}, Data: &event.Exec{}}, true, false},
		{&event.Event{Data: &event.Exit{}}, false, false},
	} {
		prog, err := filter.Compile(w.filter())
		if err != nil {
			t.Fatal(err)
		}
		if s.about && !prog.Match(s.e) {
			t.Errorf("%d: the filter leaves it out: %s", i, prog)
		}
		if about, changed := w.take(s.e); about != s.about || changed != s.changed {
			t.Errorf("%d: about the file %v, changed %v; want %v, %v", i, about, changed, s.about, s.changed)
		}
	}
	for n := range uint64(100) {
		w.take(opened("/a", 1000+n))
	}
	if len(w.inodes) > maxInodes || !slices.Contains(w.inodes, inode{5, 1099}) {
		t.Errorf("%v", w.inodes)
	}
}

func TestFileWatchDirectory(t *testing.T) {
	look := func(string) (FileID, error) { return FileID{Path: "/d", Dev: 5, Ino: 1, Dir: true}, nil }
	for _, s := range []struct {
		name       string
		flat, deep bool
	}{{"/d", true, true}, {"/d/a", true, true}, {"/d/a/b", false, true}, {"/da", false, false}, {"", false, false}} {
		for _, recursive := range []bool{false, true} {
			w, err := watchFile("/d", recursive, look)
			if err != nil {
				t.Fatal(err)
			}
			about, changed := w.take(opened(s.name, 9))
			want := s.flat
			if recursive {
				want = s.deep
			}
			if about != want || changed != (s.name == "/d") {
				t.Errorf("%s, recursive %v: %v, changed %v", s.name, recursive, about, changed)
			}
		}
	}
	w, err := watchFile("/", true, look)
	if err != nil {
		t.Fatal(err)
	}
	if about, _ := w.take(opened("/any/where", 9)); !about {
		t.Error("nothing is below the root")
	}
}

// A path of any bytes is a filter for that path, and no other.
func FuzzWatchedPath(f *testing.F) {
	for _, s := range []string{"/", "/a b", `/"`, `/\`, "/\xff\n", "/漢", "/' or evt.num > 0 or fd.name = '"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" || s[0] != '/' || slices.Contains([]byte(s), 0) {
			return
		}
		w, err := watchFile(s, false, nil)
		if err != nil {
			return // it goes upwards
		}
		prog, err := filter.Compile(w.filter())
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		name := w.names[0]
		if !prog.Match(opened(name, 1)) || prog.Match(opened(name+"x", 1)) {
			t.Errorf("%q: %s", s, prog)
		}
	})
}

// What comes while the watch turns to another file is told once, and in order.
func TestFileWatchStream(t *testing.T) {
	f := newFake()
	c, _ := listen(t, f, Config{Locate: func(string) (FileID, error) { return FileID{Path: "/a", Dev: 5, Ino: 1}, nil }})
	send := func(seq uint64, name string, ino uint64) {
		e := opened(name, ino)
		e.Seq, e.Process = seq, &event.Process{Name: fmt.Sprint(seq)}
		f.send(e)
	}
	streams := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.streams)
	}
	var got []string
	begun := func() {
		send(1, "/a", 1)
		send(2, "/b", 2)
		send(3, "/a", 3)
	}
	for line, err := range c.WatchFile(t.Context(), FileQuestion{Path: "/a", Limit: 4, Begun: begun}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, name(t, line))
		if len(got) == 2 {
			testkit.Wait(t, "a stream of the new file", func() bool { return streams() == 2 })
			send(4, "/c", 3)
			send(5, "/a", 1) // in both streams, or in the second alone
		}
	}
	equal(t, got, []string{"open 1", "open 3", "open 4", "open 5"})
	for _, path := range []string{"", "a", "a/b"} {
		var e *Error
		for _, err := range c.WatchFile(t.Context(), FileQuestion{Path: path}) {
			errors.As(err, &e)
		}
		if e == nil || e.Status != 400 {
			t.Errorf("path %q: %v", path, e)
		}
	}
}

// Above a symbolic link lies what lies above that to which it leads.
func TestFileWatchUpwards(t *testing.T) {
	at := map[string]FileID{
		"/link/../":  {Path: "/far", Dev: 5, Ino: 1, Dir: true}, // /link leads to /far/away
		"/link/../a": {Path: "/far/a", Dev: 5, Ino: 2},
		"/link/..":   {Path: "/far", Dev: 5, Ino: 1, Dir: true},
	}
	look := func(p string) (FileID, error) {
		if id, ok := at[p]; ok {
			return id, nil
		}
		return FileID{}, errors.New("no such file")
	}
	for name, want := range map[string][]string{
		"/link/../a":     {"/far/a"},
		"/link/../new":   {"/far/new"},
		"/link/..":       {"/far"},
		"/other/../a":    nil,
		"/a/./b//c":      {"/a/b/c"},
		"/a/..b/...":     {"/a/..b/..."},
		"/link/../a/../": nil,
	} {
		w, err := watchFile(name, false, look)
		if want == nil {
			if err == nil {
				t.Errorf("%s: is followed as %q", name, w.names)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		equal(t, w.names, want)
	}
}

// TestFileWatchPath refuses what can be no path.
func TestFileWatchPath(t *testing.T) {
	f := newFake()
	c, _ := listen(t, f, Config{})
	for _, name := range []string{"/a\x00b", "/" + strings.Repeat("x", 4096)} {
		var err error
		for _, e := range c.WatchFile(t.Context(), FileQuestion{Path: name, Begun: f.end}) {
			err = e
		}
		if e := (*Error)(nil); !errors.As(err, &e) || e.Status != http.StatusBadRequest {
			t.Errorf("%.20q: %v", name, err)
		}
	}
}

// A loop of renames begins no stream for each of them.
func TestFileWatchLoop(t *testing.T) {
	f := newFake()
	c, _ := listen(t, f, Config{Locate: func(string) (FileID, error) { return FileID{Path: "/a", Dev: 5, Ino: 1}, nil }})
	const rounds = 200
	begun := func() {
		for n := range uint64(rounds) {
			e := opened("/a", 10+n)
			e.Seq = 1 + n
			f.send(e)
		}
	}
	for _, err := range c.WatchFile(t.Context(), FileQuestion{Path: "/a", Limit: rounds, Begun: begun}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.streams); n > rounds/10 {
		t.Errorf("%d streams", n)
	}
}
