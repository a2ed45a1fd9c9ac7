package file

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/internal/testkit"
	"warren/test/roadtest"
)

// Operations of io_uring.
const (
	opNop, opOpenat, opClose, opOpenat2                   = 0, 18, 19, 28
	opRenameat, opUnlinkat, opMkdirat, opSymlinkat        = 35, 36, 37, 38
	opLinkat, opFtruncate                                 = 39, 55
	anySlot                                        uint32 = 1<<32 - 1
)

func openRequest(u *testkit.Uring, path string, flags, mode uint32) testkit.Request {
	return testkit.Request{Op: opOpenat, FD: unix.AT_FDCWD, Addr: u.Text(path), Len: mode, OpFlags: flags}
}

// changed returns the changes of a type that were asked for with a path, which
// is one of the two where there are two.
func (w *watch) changed(typ, raw string) []*event.File {
	var out []*event.File
	for _, e := range w.of(os.Getpid()) {
		if f, ok := e.Data.(*event.File); ok && f.Type == typ && (f.NameRaw == raw || f.SourceRaw == raw) {
			out = append(out, f)
		}
	}
	return out
}

// TestBPFUringOpen: files that io_uring opens are told as others are, whoever
// executes it.
func TestBPFUringOpen(t *testing.T) {
	w := observe(t, opens)
	roadtest.LogRungs(t, Hooks(), w.sensor.Hooks())
	for _, tt := range []struct {
		name  string
		ring  uint32
		flags uint8
	}{
		{name: "at once"},
		{name: "by a worker", flags: testkit.UringAsync},
		{name: "by the polling thread", ring: testkit.UringPoll},
		{name: "by a worker of the polling thread", ring: testkit.UringPoll, flags: testkit.UringAsync},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := testkit.NewUring(t, 8, tt.ring)
			path := filepath.Join(t.TempDir(), "a file")
			r := openRequest(u, path, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o640)
			r.Flags = tt.flags
			fd := u.Do(r)[0]
			if fd < 0 {
				t.Fatalf("opened: %v", unix.Errno(-fd))
			}
			var st unix.Stat_t
			if err := unix.Fstat(int(fd), &st); err != nil {
				t.Fatal(err)
			}
			o := w.open(path)
			if o.Type != "openat" || o.Name != path || o.RawRes != int64(fd) || o.NoName || o.Mismatch || !o.IOUring || o.Dir != event.AtCwd || o.Mode != 0o640 {
				t.Errorf("%+v", o)
			}
			if !o.Create || o.Read || !o.Write || o.Inode != st.Ino || o.Flags&^(event.OpenUpper|event.OpenLower) != unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC|event.OpenCreated {
				t.Errorf("flags %#x, %+v", o.Flags, o)
			}

			how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC}
			link := filepath.Join(filepath.Dir(path), "link")
			if err := os.Symlink(path, link); err != nil {
				t.Fatal(err)
			}
			fd = u.Do(testkit.Request{Op: opOpenat2, FD: unix.AT_FDCWD, Flags: tt.flags, Addr: u.Text(link), Len: uint32(unsafe.Sizeof(how)), Off: u.Memory(unsafe.Pointer(&how))})[0]
			if o := w.open(link); o.Type != "openat2" || o.Name != path || o.RawRes != int64(fd) || !o.Read || o.Create || !o.IOUring {
				t.Errorf("openat2: %+v", o)
			}

			r = openRequest(u, path+"/none", unix.O_RDONLY, 0)
			r.Flags = tt.flags
			res := u.Do(r)[0]
			if o := w.open(path + "/none"); o.Name != "" || o.Res != event.Errno(unix.ENOTDIR) || res != -int32(unix.ENOTDIR) || o.Error != event.PathFailed || !o.IOUring {
				t.Errorf("failed with %d: %+v", res, o)
			}
		})
	}
}

// TestBPFUringReplaced: the ends of requests are told together; meanwhile a
// descriptor can be another file. No path is told then that is not true.
func TestBPFUringReplaced(t *testing.T) {
	w := observe(t, opens)
	u := testkit.NewUring(t, 64, 0)
	dir := t.TempDir()
	paths := []string{filepath.Join(dir, "first"), filepath.Join(dir, "second")}
	for _, p := range paths {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	raw := func(i int) string { return dir + "/./" + filepath.Base(paths[i]) }
	u.Table(8)
	slot := func(r testkit.Request, n uint32) testkit.Request {
		r.Slot = n
		return r
	}
	// A table's slot, which the second open takes over.
	res := u.Do(slot(openRequest(u, raw(0), unix.O_RDONLY, 0), 3), slot(openRequest(u, raw(1), unix.O_RDONLY, 0), 3))
	if res[0] != 0 || res[1] != 0 {
		t.Fatalf("results %v", res)
	}
	for i := range paths {
		if o := w.open(raw(i)); o.Name != "" && o.Name != paths[i] || o.Name == "" && o.Error != event.PathUnproven {
			t.Errorf("%s is told to be %q: %+v", paths[i], o.Name, o)
		}
	}
	// A descriptor that is closed and used again.
	for round := 0; ; round++ {
		free, err := unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(free)
		a, b := fmt.Sprintf("%s/r%d/../first", dir, round), fmt.Sprintf("%s/r%d/../second", dir, round)
		if err := os.Mkdir(fmt.Sprintf("%s/r%d", dir, round), 0o700); err != nil {
			t.Fatal(err)
		}
		u.Submit(3, withData(openRequest(u, a, unix.O_RDONLY, 0), 1), testkit.Request{Op: opClose, FD: int32(free), Data: 2}, withData(openRequest(u, b, unix.O_RDONLY, 0), 3))
		ends := u.Ends(3)
		_ = unix.Close(int(ends[3]))
		if ends[1] != int32(free) || ends[2] != 0 || ends[3] != int32(free) {
			if round == 50 {
				t.Fatalf("results %v of %d", ends, free)
			}
			continue // somebody else of this process took the descriptor
		}
		if o := w.open(a); o.Name != "" || o.Error != event.PathUnproven || o.RawRes != int64(free) {
			t.Errorf("%s is told to be %q: %+v", a, o.Name, o)
		}
		if o := w.open(b); o.Name != "" && o.Name != paths[1] {
			t.Errorf("%s is told to be %q: %+v", b, o.Name, o)
		}
		break
	}
	// Many at once are told with their names, as long as none is closed.
	var many []testkit.Request
	for i := range 20 {
		many = append(many, openRequest(u, fmt.Sprintf("%s/.//%d/../first", dir, i), unix.O_RDONLY, 0))
		if err := os.Mkdir(fmt.Sprintf("%s/%d", dir, i), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	u.Do(many...)
	for i := range many {
		if o := w.open(fmt.Sprintf("%s/.//%d/../first", dir, i)); o.Name != paths[0] {
			t.Errorf("%d: %+v", i, o)
		}
	}
}

func withData(r testkit.Request, data uint64) testkit.Request {
	r.Data = data
	return r
}

// TestBPFUringChain: files that are opened and closed in one chain are told, for
// the close waits until the end of the open was told.
func TestBPFUringChain(t *testing.T) {
	w := observe(t, opens)
	u := testkit.NewUring(t, 64, 0)
	u.Table(16)
	dir := t.TempDir()
	for _, batch := range []string{"x", "y"} {
		var rs []testkit.Request
		for i := range uint32(8) {
			r := openRequest(u, fmt.Sprintf("%s/%s%d", dir, batch, i), unix.O_CREAT|unix.O_RDWR, 0o600)
			r.Slot, r.Flags = i+1, testkit.UringLink
			rs = append(rs, r, testkit.Request{Op: opClose, Slot: i + 1})
		}
		for i, res := range u.Do(rs...) {
			if res != 0 {
				t.Fatalf("result %d is %d", i, res)
			}
		}
		for i := range 8 {
			p := fmt.Sprintf("%s/%s%d", dir, batch, i)
			if o := w.open(p); o.Name != p || !o.Create {
				t.Errorf("%s: %+v", p, o)
			}
		}
	}
	// A slot of the kernel's choice.
	r := openRequest(u, dir+"/any", unix.O_CREAT|unix.O_RDWR, 0o600)
	r.Slot = anySlot
	if res := u.Do(r)[0]; res < 0 {
		t.Fatal(unix.Errno(-res))
	}
	if o := w.open(dir + "/any"); o.Name != dir+"/any" {
		t.Errorf("%+v", o)
	}
}

// TestBPFUringChanges: what io_uring is asked to change is told with the names
// that were asked for, as unproven.
func TestBPFUringChanges(t *testing.T) {
	w := start(t, bpf.Config{}, event.Kinds(event.KindFile, event.KindFileClose))
	u := testkit.NewUring(t, 8, 0)
	dir := t.TempDir()
	p := func(name string) string { return filepath.Join(dir, name) }
	one := func(typ, raw string) *event.File {
		t.Helper()
		fs := w.changed(typ, raw)
		if len(fs) != 1 {
			t.Fatalf("%d events %s of %s", len(fs), typ, raw)
		}
		return fs[0]
	}
	do := func(r testkit.Request) {
		t.Helper()
		if res := u.Do(r)[0]; res < 0 {
			t.Fatal(unix.Errno(-res))
		}
	}
	fd := openFile(t, unix.AT_FDCWD, p("file"), unix.O_CREAT|unix.O_RDWR, 0o600)

	do(testkit.Request{Op: opMkdirat, FD: unix.AT_FDCWD, Addr: u.Text(p("dir")), Len: 0o750})
	if f := one("mkdirat", p("dir")); f.Name != "" || f.Error != event.PathUnproven || !f.NoName || f.Mode != 0o750 || f.Dir != event.AtCwd || !f.IOUring || f.Res != 0 {
		t.Errorf("%+v", f)
	}
	do(testkit.Request{Op: opRenameat, FD: unix.AT_FDCWD, Addr: u.Text(p("file")), Len: uint32(int64(unix.AT_FDCWD) & 0xffffffff), Off: u.Text(p("dir/other"))})
	if f := one("renameat", p("file")); f.TargetRaw != p("dir/other") || f.Source != "" || f.Target != "" || !f.IOUring {
		t.Errorf("%+v", f)
	}
	do(testkit.Request{Op: opRenameat, FD: unix.AT_FDCWD, Addr: u.Text(p("dir/other")), Len: uint32(int64(unix.AT_FDCWD) & 0xffffffff), Off: u.Text(p("file")), OpFlags: unix.RENAME_NOREPLACE})
	if f := one("renameat2", p("dir/other")); f.TargetRaw != p("file") || f.Flags != unix.RENAME_NOREPLACE {
		t.Errorf("%+v", f)
	}
	do(testkit.Request{Op: opSymlinkat, FD: unix.AT_FDCWD, Addr: u.Text("where"), Off: u.Text(p("symlink"))})
	if f := one("symlinkat", "where"); f.TargetRaw != p("symlink") || f.Source != "where" || !f.IOUring {
		t.Errorf("%+v", f)
	}
	do(testkit.Request{Op: opLinkat, FD: unix.AT_FDCWD, Addr: u.Text(p("file")), Len: uint32(int64(unix.AT_FDCWD) & 0xffffffff), Off: u.Text(p("hard"))})
	if f := one("linkat", p("file")); f.TargetRaw != p("hard") || f.NewDir != event.AtCwd {
		t.Errorf("%+v", f)
	}
	do(testkit.Request{Op: opUnlinkat, FD: unix.AT_FDCWD, Addr: u.Text(p("dir")), OpFlags: unix.AT_REMOVEDIR})
	if f := one("unlinkat", p("dir")); f.Flags != unix.AT_REMOVEDIR || f.Res != 0 || f.NoName != true {
		t.Errorf("%+v", f)
	}
	res := u.Do(testkit.Request{Op: opUnlinkat, FD: unix.AT_FDCWD, Addr: u.Text(p("none"))})[0]
	if f := one("unlinkat", p("none")); f.Res != event.Errno(unix.ENOENT) || f.Error != event.PathFailed || res != -int32(unix.ENOENT) {
		t.Errorf("%+v", f)
	}
	if res := u.Do(testkit.Request{Op: opFtruncate, FD: int32(fd), Off: 77})[0]; res == 0 { // since 6.9
		fs := w.changed("ftruncate", "")
		if len(fs) != 1 || fs[0].Name != p("file") || fs[0].Size != 77 || fs[0].FD != int32(fd) || !fs[0].IOUring {
			t.Errorf("%d events, the last %+v", len(fs), fs[len(fs)-1])
		}
	}
	// Names that no small record has room for.
	long := dir
	for len(long) < 3000 {
		long += "/./././././././././././././././././././././././././././."
	}
	do(testkit.Request{Op: opRenameat, FD: unix.AT_FDCWD, Addr: u.Text(long + "/file"), Len: uint32(int64(unix.AT_FDCWD) & 0xffffffff), Off: u.Text(long + "/file2")})
	if f := one("renameat", long+"/file"); f.TargetRaw != long+"/file2" {
		t.Errorf("%d bytes, then %d", len(f.SourceRaw), len(f.TargetRaw))
	}

	// A copy of the descriptor, for the test closes the other one.
	copied, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	do(testkit.Request{Op: opClose, FD: int32(copied)})
	var closes []*event.FileClose
	for _, e := range w.of(os.Getpid()) {
		if c, ok := e.Data.(*event.FileClose); ok && c.IOUring {
			closes = append(closes, c)
		}
	}
	if len(closes) != 1 || closes[0].Name != p("file2") || closes[0].FD != int32(copied) || closes[0].NoName || closes[0].Inode == 0 {
		t.Errorf("%d closes: %+v", len(closes), closes)
	}
}

// TestBPFUringUntold: who asks io_uring to tell him nothing of what succeeded, or
// leaves no room for it, hides nothing.
func TestBPFUringUntold(t *testing.T) {
	w := start(t, bpf.Config{}, opens|event.Kinds(event.KindFile))
	dir := t.TempDir()
	u := testkit.NewUring(t, 8, 0)
	r := testkit.Request{Op: opMkdirat, Flags: testkit.UringSkip, FD: unix.AT_FDCWD, Addr: u.Text(dir + "/silent"), Len: 0o700}
	u.Submit(0, r)
	testkit.Wait(t, "directory", func() bool { _, err := os.Stat(dir + "/silent"); return err == nil })
	if fs := w.changed("mkdirat", dir+"/silent"); len(fs) != 1 || fs[0].Res != event.Errno(unix.EINPROGRESS) || fs[0].Error != event.PathUnproven {
		t.Errorf("%d events: %+v", len(fs), fs)
	}
	// An open that fails is told to the process all the same.
	r = openRequest(u, dir+"/none", unix.O_RDONLY, 0)
	r.Flags = testkit.UringSkip
	u.Submit(1, withData(r, 9))
	if res := u.Ends(1)[9]; res != -int32(unix.ENOENT) {
		t.Fatalf("second: %d", res)
	}
	if os := w.opens(dir + "/none"); len(os) != 2 || os[0].Res != event.Errno(unix.EINPROGRESS) || os[1].Res != event.Errno(unix.ENOENT) {
		t.Errorf("%d events: %+v", len(os), os)
	}

	full := testkit.NewUring(t, 4, testkit.UringCQSize)
	full.Submit(4, testkit.Request{Op: opNop}, testkit.Request{Op: opNop}, testkit.Request{Op: opNop}, testkit.Request{Op: opNop})
	full.Submit(0, withData(openRequest(full, dir+"/over", unix.O_CREAT|unix.O_RDWR, 0o600), 5), testkit.Request{Op: opMkdirat, FD: unix.AT_FDCWD, Addr: full.Text(dir + "/beyond"), Len: 0o700, Data: 6})
	testkit.Wait(t, "directory", func() bool { _, err := os.Stat(dir + "/beyond"); return err == nil })
	if o := w.open(dir + "/over"); o.Name != dir+"/over" || o.RawRes < 3 {
		t.Errorf("%+v", o)
	}
	testkit.Wait(t, "the second event", func() bool { return len(w.changed("mkdirat", dir+"/beyond")) == 1 })
}

// TestBPFUringOnDemand: the tracepoints of io_uring are attached for who wants
// what it can do, and for nobody else.
func TestBPFUringOnDemand(t *testing.T) {
	w := start(t, bpf.Config{}, opens)
	for _, tt := range []struct {
		types []string
		want  bool
	}{{[]string{"open", "creat"}, false}, {[]string{"openat2"}, true}, {[]string{"unlink"}, false}, {[]string{"unlinkat"}, true}, {[]string{"close"}, true}} {
		want := interest.Union(interest.Holder{Name: "test", Interest: interest.Interest{Terms: []interest.Term{{Kinds: kinds, Types: tt.types}}}})
		if err := w.sensor.Start(want, w.add); err != nil {
			t.Fatal(err)
		}
		has := false
		for _, st := range w.sensor.Hooks() {
			has = has || st.Hook == "file.io_uring"
		}
		if has != tt.want {
			t.Errorf("%v: attached is %v", tt.types, has)
		}
	}
}
