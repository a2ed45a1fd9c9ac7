package file

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/test/roadtest"
)

var opens = event.Kinds(event.KindOpen)

// TestBPFOpen opens a file in every way there is.
func TestBPFOpen(t *testing.T) {
	w := observe(t, opens)
	roadtest.LogRungs(t, Hooks(), w.sensor.Hooks())
	dir := t.TempDir()
	path := filepath.Join(dir, "new")
	fd := openFile(t, unix.AT_FDCWD, path, unix.O_CREAT|unix.O_RDWR, 0o640)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	o := w.open(path)
	if o.Type != "openat" || o.Name != path || o.RawRes != int64(fd) || o.NoName || o.Error != 0 || o.Mismatch || o.Dir != event.AtCwd || o.Mode != 0o640 {
		t.Errorf("openat: %+v", o)
	}
	if !o.Create || !o.Read || !o.Write || o.Exec || o.Flags&^(event.OpenUpper|event.OpenLower) != unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC|event.OpenCreated {
		t.Errorf("openat: flags %#x, %+v", o.Flags, o)
	}
	if o.Inode != st.Ino || o.FileMode != st.Mode || o.Links != 1 || o.Deleted || o.Type == "" || o.FileUID != st.Uid {
		t.Errorf("openat: %+v is not %+v", o.FileObject, st)
	}

	for _, tt := range []struct {
		name string
		open func(p *byte) (uintptr, unix.Errno)
		want event.Open
	}{
		{"open", func(p *byte) (uintptr, unix.Errno) {
			r, _, e := unix.Syscall(unix.SYS_OPEN, uintptr(unsafe.Pointer(p)), unix.O_WRONLY|unix.O_CREAT, 0o755)
			return r, e
		}, event.Open{Type: "open", Write: true, Create: true, Exec: true, Mode: 0o755, Dir: event.AtCwd}},
		{"creat", func(p *byte) (uintptr, unix.Errno) {
			r, _, e := unix.Syscall(unix.SYS_CREAT, uintptr(unsafe.Pointer(p)), 0o600, 0)
			return r, e
		}, event.Open{Type: "creat", Write: true, Create: true, Mode: 0o600, Dir: event.AtCwd}},
		{"openat2", func(p *byte) (uintptr, unix.Errno) {
			how := unix.OpenHow{Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o666}
			at := unix.AT_FDCWD
			r, _, e := unix.Syscall6(unix.SYS_OPENAT2, uintptr(at), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
			return r, e
		}, event.Open{Type: "openat2", Read: true, Write: true, Create: true, Mode: 0o666, Dir: event.AtCwd}},
	} {
		path := filepath.Join(dir, tt.name)
		p, err := unix.BytePtrFromString(path)
		if err != nil {
			t.Fatal(err)
		}
		fd, errno := tt.open(p)
		if errno != 0 {
			t.Fatalf("%s: %v", tt.name, errno)
		}
		_ = unix.Close(int(fd))
		o := w.open(path)
		if o.Type != tt.want.Type || o.Name != path || o.RawRes != int64(fd) || o.Read != tt.want.Read || o.Write != tt.want.Write || o.Create != tt.want.Create || o.Exec != tt.want.Exec || o.Mode != tt.want.Mode || o.Dir != tt.want.Dir {
			t.Errorf("%s: %+v", tt.name, o)
		}
	}
}

// TestBPFOpenExisting: created is what the call created, whatever its flags.
func TestBPFOpenExisting(t *testing.T) {
	w := observe(t, opens)
	dir := t.TempDir()
	path := filepath.Join(dir, "old")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	openFile(t, unix.AT_FDCWD, path, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, 0o644)
	l := w.opens(path)
	if len(l) != 2 || !l[0].Create || l[1].Create || l[1].Read || !l[1].Write {
		t.Errorf("%+v", l)
	}
}

func TestBPFOpenRelative(t *testing.T) {
	w := observe(t, opens)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a/file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../file", filepath.Join(dir, "a/b/link")); err != nil {
		t.Fatal(err)
	}
	base := openFile(t, unix.AT_FDCWD, filepath.Join(dir, "a/b"), unix.O_DIRECTORY|unix.O_PATH, 0)
	openFile(t, base, "../file", unix.O_RDONLY, 0)
	if o := w.open("../file"); o.Name != dir+"/a/file" || int(o.Dir) != base || o.Mismatch {
		t.Errorf("%+v", o)
	}
	openFile(t, base, "link", unix.O_RDONLY, 0)
	// Other threads could have written another name there.
	if o := w.open("link"); o.Name != dir+"/a/file" || !o.Mismatch {
		t.Errorf("a symlink: %+v", o)
	}
	openFile(t, base, "link", unix.O_PATH|unix.O_NOFOLLOW, 0)
	if l := w.opens("link"); len(l) != 2 || l[1].Name != dir+"/a/b/link" || l[1].FileObject.Type() != "symlink" || l[1].Mismatch {
		t.Errorf("a symlink itself: %+v", l)
	}
	openFile(t, unix.AT_FDCWD, "/", unix.O_RDONLY, 0)
	if o := w.open("/"); o.Name != "/" || o.FileObject.Type() != "directory" {
		t.Errorf("%+v", o)
	}
	openFile(t, unix.AT_FDCWD, "/dev/null", unix.O_RDWR, 0)
	if o := w.open("/dev/null"); o.Name != "/dev/null" || o.FileObject.Type() != "char" {
		t.Errorf("%+v", o)
	}
}

func TestBPFOpenFails(t *testing.T) {
	w := observe(t, opens)
	none := filepath.Join(t.TempDir(), "none")
	for path, want := range map[string]unix.Errno{none: unix.ENOENT, "/proc/self/../self/exe/x": unix.ENOTDIR, strings.Repeat("x", 256): unix.ENAMETOOLONG} {
		if _, err := unix.Openat(unix.AT_FDCWD, path, unix.O_RDWR, 0); !errors.Is(err, want) {
			t.Fatal(err)
		}
		o := w.open(path)
		if o.Name != "" || !o.NoName || o.Error != event.PathFailed || o.Res != event.Errno(want) || o.RawRes != -int64(want) || !o.Read || !o.Write || o.Inode != 0 || o.Mismatch {
			t.Errorf("%+v", o)
		}
	}
	if _, err := unix.Openat(1<<30, "relative", unix.O_RDONLY, 0); err != unix.EBADF {
		t.Fatal(err)
	}
	if o := w.open("relative"); o.Dir != 1<<30 || o.Res != event.Errno(unix.EBADF) {
		t.Errorf("%+v", o)
	}
	// A path that is nowhere in memory.
	at := unix.AT_FDCWD
	if _, _, e := unix.Syscall6(unix.SYS_OPENAT, uintptr(at), 8, unix.O_RDONLY, 0, 0, 0); e != unix.EFAULT {
		t.Fatal(e)
	}
	for _, e := range w.all() {
		if o := e.Data.(*event.Open); o.Res == event.Errno(unix.EFAULT) {
			if o.NameRaw != "" || o.Error != event.PathFailed {
				t.Errorf("%+v", o)
			}
			return
		}
	}
	t.Error("the open of no path is missing")
}

// TestBPFOpenOddNames: bytes that are no UTF-8, the longest names, 200 levels,
// more than a path may have.
func TestBPFOpenOddNames(t *testing.T) {
	w := observe(t, opens)
	dir := t.TempDir()
	for n := 1; n <= unix.NAME_MAX; n++ {
		name := strings.Repeat("n", n-1) + "\xff"
		fd, err := unix.Openat(unix.AT_FDCWD, filepath.Join(dir, name), unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd)
		if o := w.open(dir + "/" + name); o.Name != dir+"/"+name {
			t.Fatalf("a name of %d bytes is %q", n, o.Name)
		}
	}
	for level, name := range map[int]string{200: "d", 15: strings.Repeat("x", 255), 1800: "y"} {
		at, path := openFile(t, unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0), dir
		for range level {
			if err := unix.Mkdirat(at, name, 0o755); err != nil {
				t.Fatal(err)
			}
			next, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_ = unix.Close(at)
			at, path = next, path+"/"+name
		}
		leaf := "leaf" + name[:1]
		_ = unix.Close(openFile(t, at, leaf, unix.O_CREAT|unix.O_RDWR, 0o600))
		if o := w.open(leaf); o.Name != path+"/"+leaf {
			t.Errorf("%d levels of %.5q: %d bytes of %d", level, name, len(o.Name), len(path)+1+len(leaf))
		}
		// As long as a path may be, and too long.
		for _, n := range []int{4095, 4096, 4097} {
			last := n - len(path) - 1
			if last < 1 || last > unix.NAME_MAX {
				continue
			}
			leaf := strings.Repeat("z", last)
			_ = unix.Close(openFile(t, at, leaf, unix.O_CREAT|unix.O_RDWR, 0o600))
			o := w.open(leaf)
			if n <= 4096 && o.Name != path+"/"+leaf || n > 4096 && (o.Name != "" || o.Error != event.PathTooLong || !o.NoName) {
				t.Errorf("a path of %d bytes is one of %d: %v", n, len(o.Name), o.Error)
			}
		}
		_ = unix.Close(at)
	}
}

func TestBPFOpenNameless(t *testing.T) {
	w := observe(t, opens)
	dir := t.TempDir()
	mem, err := unix.MemfdCreate("warren", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(mem) }()
	path := "/proc/self/fd/" + itoa(mem)
	openFile(t, unix.AT_FDCWD, path, unix.O_RDONLY, 0)
	if o := w.open(path); o.Name != "memfd:warren" || !o.Memfd || o.NoName || o.Mismatch {
		t.Errorf("%+v", o)
	}

	openFile(t, unix.AT_FDCWD, dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	for _, o := range w.opens(dir) {
		if o.Flags&unix.O_TMPFILE == unix.O_TMPFILE && (!o.Deleted || o.Links != 0 || !strings.HasPrefix(o.Name, dir+"/#")) {
			t.Errorf("%+v", o)
		}
	}

	gone := filepath.Join(dir, "gone")
	fd := openFile(t, unix.AT_FDCWD, gone, unix.O_CREAT|unix.O_RDWR, 0o600)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	path = "/proc/self/fd/" + itoa(fd)
	openFile(t, unix.AT_FDCWD, path, unix.O_RDONLY, 0)
	if o := w.open(path); o.Name != gone || !o.Deleted || o.Links != 0 {
		t.Errorf("%+v", o)
	}

	apart(t, func() { // a working directory that is gone
		wd := filepath.Join(dir, "wd")
		if err := os.Mkdir(wd, 0o755); err != nil {
			t.Error(err)
		}
		if err := unix.Chdir(wd); err != nil {
			t.Error(err)
		}
		if err := os.Remove(wd); err != nil {
			t.Error(err)
		}
		openFile(t, unix.AT_FDCWD, "./", unix.O_RDONLY, 0)
		if o := w.open("./"); o.Name != wd || !o.Deleted {
			t.Errorf("%+v", o)
		}
		openFile(t, unix.AT_FDCWD, "..", unix.O_RDONLY, 0)
		if o := w.open(".."); o.Name != dir || o.Deleted {
			t.Errorf("%+v", o)
		}
	})
}

func itoa(n int) string { return string(appendInt(nil, n)) }

func appendInt(b []byte, n int) []byte {
	if n > 9 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

// TestBPFOpenMounts: bind mounts, other roots, mounts that hang nowhere,
// overlays.
func TestBPFOpenMounts(t *testing.T) {
	w := observe(t, opens)
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	apart(t, func() {
		for _, d := range []string{"src/deep", "dst", "root/etc", "lower", "upper", "work", "merged", "fs"} {
			must(os.MkdirAll(filepath.Join(dir, d), 0o755))
		}
		must(os.WriteFile(dir+"/src/deep/f", nil, 0o600))
		must(unix.Mount(dir+"/src/deep", dir+"/dst", "", unix.MS_BIND, ""))
		openFile(t, unix.AT_FDCWD, dir+"/dst/f", unix.O_RDONLY, 0)
		if o := w.open(dir + "/dst/f"); o.Name != dir+"/dst/f" {
			t.Errorf("a bind mount: %+v", o)
		}

		must(unix.Mount("warren", dir+"/fs", "tmpfs", 0, ""))
		for _, d := range []string{"lower", "upper", "work", "merged"} {
			must(os.Mkdir(dir+"/fs/"+d, 0o755))
		}
		must(os.WriteFile(dir+"/fs/lower/l", nil, 0o600))
		must(os.WriteFile(dir+"/fs/upper/u", nil, 0o600))
		must(unix.Mount("overlay", dir+"/fs/merged", "overlay", 0, "lowerdir="+dir+"/fs/lower,upperdir="+dir+"/fs/upper,workdir="+dir+"/fs/work"))
		for name, flag := range map[string]uint64{"l": event.OpenLower, "u": event.OpenUpper} {
			path := dir + "/fs/merged/" + name
			openFile(t, unix.AT_FDCWD, path, unix.O_RDONLY, 0)
			if o := w.open(path); o.Name != path || o.Flags&(event.OpenLower|event.OpenUpper) != flag {
				t.Errorf("an overlay: %#x, %+v", o.Flags, o)
			}
		}

		// A tree that is mounted nowhere.
		tree, err := unix.OpenTree(unix.AT_FDCWD, dir+"/src", unix.OPEN_TREE_CLONE)
		must(err)
		openFile(t, tree, "deep/f", unix.O_RDONLY, 0)
		if o := w.open("deep/f"); o.Name != "" || o.Error != event.PathDetached || !o.NoName || o.Inode == 0 {
			t.Errorf("a tree that is mounted nowhere: %+v", o)
		}
		_ = unix.Close(tree)

		outside := openFile(t, unix.AT_FDCWD, dir+"/src", unix.O_RDONLY, 0)
		must(os.WriteFile(dir+"/root/etc/passwd", nil, 0o600))
		must(unix.Chroot(dir + "/root"))
		must(unix.Chdir("/"))
		openFile(t, unix.AT_FDCWD, "/etc/passwd", unix.O_RDONLY, 0)
		if o := w.open("/etc/passwd"); o.Name != "/etc/passwd" || o.Mismatch {
			t.Errorf("another root: %+v", o)
		}
		openFile(t, outside, "deep/../deep/f", unix.O_RDONLY, 0)
		if o := w.open("deep/../deep/f"); o.Name != dir+"/src/deep/f" {
			t.Errorf("outside of the root: %+v", o)
		}
	})
}

// TestBPFOpenLost: what a ring that is too small loses is counted, to the last
// record.
func TestBPFOpenLost(t *testing.T) {
	w := start(t, bpf.Config{BulkBytes: 64 << 10}, opens)
	path := filepath.Join(t.TempDir(), strings.Repeat("f", 200))
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const n = 50_000
	openClose(path, n)
	if err := w.sensor.Stop(); err != nil { // so that nobody else opens anything
		t.Fatal(err)
	}
	ours := 0
	for _, e := range w.all() {
		if o := e.Data.(*event.Open); o.NameRaw == path {
			ours++
			if o.Name != path {
				t.Fatalf("%+v", o)
			}
		}
	}
	for _, c := range w.road.Counters() {
		if c.Name != "file.open" {
			continue
		}
		t.Logf("%d of %d delivered, %d of all; submitted %d, lost %d, decoded %d, malformed %d", ours, n+1, w.total.Load(), c.Submitted, c.Lost, c.Decoded, c.Malformed)
		if c.Lost == 0 || w.total.Load() != c.Submitted || c.Malformed != 0 || uint64(n+1-ours) > c.Lost {
			t.Errorf("%d of %d delivered, %d of all; counted: submitted %d, lost %d, decoded %d, malformed %d", ours, n+1, w.total.Load(), c.Submitted, c.Lost, c.Decoded, c.Malformed)
		}
	}
}
