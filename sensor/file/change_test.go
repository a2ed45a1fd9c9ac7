package file

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/internal/testkit"
	"warren/test/roadtest"
)

var changes = event.Kinds(event.KindFile, event.KindMount, event.KindFileClose)

// alone runs a command of busybox, which has one thread, in a directory, and
// returns its pid.
func alone(t *testing.T, dir string, args ...string) int {
	t.Helper()
	cmd := exec.Command("busybox", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil && cmd.ProcessState == nil {
		t.Fatalf("busybox %q: %v: %s", args, err, out)
	}
	return cmd.Process.Pid
}

// file returns the only change of a file by a process.
func (w *watch) file(pid int, types ...string) *event.File {
	w.t.Helper()
	var found []*event.File
	for _, e := range w.of(pid) {
		if f, ok := e.Data.(*event.File); ok && (len(types) == 0 || f.Type == types[0]) {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		var seen []byte
		for _, e := range w.of(pid) {
			seen = append(event.AppendJSON(seen, e), '\n')
		}
		w.t.Fatalf("%d changes, want 1:\n%s", len(found), seen)
	}
	return found[0]
}

// TestBPFChange: names in the working directory are known on any kernel, of a
// process that is alone with its memory.
func TestBPFChange(t *testing.T) {
	w := observe(t, changes)
	roadtest.LogRungs(t, Hooks(), w.sensor.Hooks())
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}

	check := func(f *event.File, name, raw string) {
		t.Helper()
		if f.Name != dir+name || f.NameRaw != raw || f.NoName || f.Error != 0 || f.Res != 0 || f.Mismatch {
			t.Errorf("%s: %q, %q: %+v", f.Type, f.Name, f.NameRaw, f)
		}
	}
	two := func(f *event.File, from, to, fromRaw, toRaw string) {
		t.Helper()
		if f.Source != from || f.SourceRaw != fromRaw || f.Target != dir+to || f.TargetRaw != toRaw || f.NoName || f.Error != 0 || f.Res != 0 || f.Name != "" || f.Mismatch {
			t.Errorf("%s: %q -> %q: %+v", f.Type, f.Source, f.Target, f)
		}
	}
	f := w.file(alone(t, dir, "mkdir", "d"))
	check(f, "/d", "d")
	if f.Mode != 0o777 && f.Mode != 0o755 {
		t.Errorf("mode %o", f.Mode)
	}
	if err := os.WriteFile(dir+"/f", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	two(w.file(alone(t, dir, "mv", "f", "g")), dir+"/f", "/g", "f", "g")
	two(w.file(alone(t, dir, "ln", "g", "h")), dir+"/g", "/h", "g", "h")
	two(w.file(alone(t, dir, "ln", "-s", "/no/where", "s")), "/no/where", "/s", "/no/where", "s")
	check(w.file(alone(t, dir, "rm", "h")), "/h", "h")
	check(w.file(alone(t, dir, "rmdir", "d")), "/d", "d")
}

// TestBPFChangeElsewhere: where objects are seen every name is known, where they
// are not what was asked for is not taken for one.
func TestBPFChangeElsewhere(t *testing.T) {
	w := observe(t, changes)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir+"/real/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	check := func(hook string, f *event.File, got, want, gotRaw, raw string) {
		t.Helper()
		if w.rung(hook) != "fentry" {
			if got != "" || gotRaw != raw || !f.NoName || f.Error != event.PathUnproven {
				t.Errorf("%s: %q, %q: %+v", f.Type, got, gotRaw, f)
			}
			return
		}
		if got != want || gotRaw != raw || f.NoName || f.Error != 0 {
			t.Errorf("%s: %q, %q: %+v", f.Type, got, gotRaw, f)
		}
	}
	f := w.file(alone(t, dir, "mkdir", "link/sub/d"))
	check("file.mkdir", f, f.Name, dir+"/real/sub/d", f.NameRaw, "link/sub/d")
	if err := os.WriteFile(dir+"/real/f", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f = w.file(alone(t, dir, "chmod", "640", "link/f"))
	check("file.chmod", f, f.Name, dir+"/real/f", f.NameRaw, "link/f")
	if f.Mode != 0o640 {
		t.Errorf("mode %o", f.Mode)
	}
	f = w.file(alone(t, dir, "chown", "12:34", "link/f"))
	check("file.chown", f, f.Name, dir+"/real/f", f.NameRaw, "link/f")
	if f.UID != 12 || f.GID != 34 {
		t.Errorf("owner %d:%d", f.UID, f.GID)
	}
	f = w.file(alone(t, dir, "mv", "link/f", dir+"/link/sub/g"))
	check("file.rename", f, f.Source, dir+"/real/f", f.SourceRaw, "link/f")
	check("file.rename", f, f.Target, dir+"/real/sub/g", f.TargetRaw, dir+"/link/sub/g")
	f = w.file(alone(t, dir, "rm", "link/sub/g"))
	check("file.remove", f, f.Name, dir+"/real/sub/g", f.NameRaw, "link/sub/g")

	// This process has several threads: a name alone proves nothing.
	apart(t, func() {
		if err := unix.Chdir(dir); err != nil {
			t.Error(err)
		}
		if err := unix.Mkdir("ours", 0o755); err != nil {
			t.Error(err)
		}
	})
	f = nil
	for _, e := range w.of(os.Getpid()) {
		if d, ok := e.Data.(*event.File); ok && d.NameRaw == "ours" {
			f = d
		}
	}
	if f == nil {
		t.Fatal("mkdir is missing")
	}
	check("file.mkdir", f, f.Name, dir+"/ours", f.NameRaw, "ours")
}

func TestBPFChangeFails(t *testing.T) {
	w := observe(t, changes)
	dir := t.TempDir()
	f := w.file(alone(t, dir, "rmdir", "none"))
	if f.Res != event.Errno(unix.ENOENT) || f.Name != "" || f.NameRaw != "none" || !f.NoName || f.Error != event.PathFailed {
		t.Errorf("%+v", f)
	}
}

// TestBPFChangeDescriptor: a descriptor is proof enough.
func TestBPFChangeDescriptor(t *testing.T) {
	w := observe(t, changes)
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"fchmod":    func() error { return unix.Fchmod(fd, 0o4755) },
		"fchown":    func() error { return unix.Fchown(fd, 7, -1) },
		"ftruncate": func() error { return unix.Ftruncate(fd, 4096) },
	} {
		if err := call(); err != nil {
			t.Fatal(err)
		}
		f := w.file(os.Getpid(), name)
		if f.Name != path || f.FDName != path || int(f.FD) != fd || f.NoName || f.Inode == 0 || f.Links != 1 {
			t.Errorf("%s: %+v", name, f)
		}
		if name == "fchmod" && f.Mode != 0o4755 || name == "fchown" && (f.UID != 7 || f.GID != 1<<32-1) || name == "ftruncate" && f.Size != 4096 {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if _, err := unix.Pwrite(fd, []byte("end"), 4096); err != nil { // in an overlay only the upper file knows
		t.Fatal(err)
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	read := openFile(t, unix.AT_FDCWD, "/dev/null", unix.O_WRONLY, 0)
	_ = unix.Close(read)
	var closed []*event.FileClose
	for _, e := range w.of(os.Getpid()) {
		if c, ok := e.Data.(*event.FileClose); ok && c.Name == path {
			closed = append(closed, c)
		} else if ok && c.Name == "/dev/null" {
			t.Errorf("no file that keeps what is written: %+v", c)
		}
	}
	if len(closed) != 1 || int(closed[0].FD) != fd || closed[0].Size != 4099 || closed[0].Inode == 0 || closed[0].Res != 0 {
		t.Errorf("closes: %+v", closed)
	}
}

// TestBPFScope: what happens outside of a part of the cgroups is not told to who
// sees that part alone.
func TestBPFScope(t *testing.T) {
	cg := testkit.NewCgroup(t, "file")
	w := start(t, bpf.Config{CgroupRoot: cg.Path}, event.Kinds(event.KindOpen, event.KindFile, event.KindFileClose))
	w.every.Store(true)
	dir := t.TempDir()
	do := func(name string, begin func(*exec.Cmd)) int {
		cmd := exec.Command("busybox", "sh", "-c", "mkdir "+name+"; echo >"+name+"/f; rm "+name+"/f")
		cmd.Dir = dir
		begin(cmd)
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		return cmd.Process.Pid
	}
	do("in", func(cmd *exec.Cmd) { cg.Start(t, cmd) })
	do("out", func(cmd *exec.Cmd) {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	})
	var made, opened int
	for _, e := range w.all() {
		switch d := e.Data.(type) {
		case *event.File:
			if strings.HasPrefix(d.NameRaw, "out") {
				t.Errorf("not of this scope: %+v", d)
			} else if d.NameRaw == "in" || d.NameRaw == "in/f" {
				made++
			}
		case *event.FileClose:
			if strings.HasPrefix(d.Name, dir+"/out") {
				t.Errorf("not of this scope: %+v", d)
			}
		case *event.Open:
			if strings.HasPrefix(d.NameRaw, "out") {
				t.Errorf("not of this scope: %+v", d)
			} else if d.Name == dir+"/in/f" && d.Create {
				opened++
			}
		}
	}
	if made != 2 || opened != 1 {
		t.Errorf("of this scope are told %d changes and %d opens", made, opened)
	}
}

func TestBPFMount(t *testing.T) {
	w := start(t, bpf.Config{}, event.Kinds(event.KindMount))
	dir := t.TempDir()
	apart(t, func() {
		if err := unix.Mount("warren", dir, "tmpfs", unix.MS_NOSUID, ""); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(dir, 0); err != unix.EINVAL {
			t.Error(err)
		}
	})
	var l []*event.Mount
	for _, e := range w.of(os.Getpid()) {
		if m, ok := e.Data.(*event.Mount); ok && m.TargetRaw == dir {
			l = append(l, m)
		}
	}
	if len(l) != 3 {
		t.Fatalf("%d mounts and unmounts: %+v", len(l), l)
	}
	if m := l[0]; m.Type != "mount" || m.SourceRaw != "warren" || m.FSType != "tmpfs" || m.Flags != unix.MS_NOSUID || m.Res != 0 {
		t.Errorf("%+v", m)
	}
	if m := l[1]; m.Type != "umount2" || m.Flags != unix.MNT_DETACH || m.Res != 0 {
		t.Errorf("%+v", m)
	}
	if m := l[2]; m.Type != "umount2" || m.Res != event.Errno(unix.EINVAL) || m.RawRes != -int64(unix.EINVAL) {
		t.Errorf("%+v", m)
	}
	for _, m := range l[:2] {
		if known := w.rung("file.mount") == "fentry"; known && m.Target != dir || !known && (m.Target != "" || m.Error != event.PathUnproven) {
			t.Errorf("%+v", m)
		}
	}
}
