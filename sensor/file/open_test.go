package file

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
)

var opens = event.Kinds(event.KindOpen)

func TestBPFOpen(t *testing.T) {
	w := start(t, bpf.Config{}, opens)
	dir := t.TempDir()
	path := filepath.Join(dir, "new")
	fd, err := unix.Openat(unix.AT_FDCWD, path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	o := w.open(path)
	t.Logf("%+v", o)
	if o.Name != path || o.RawRes != int64(fd) || !o.Create || !o.Read || !o.Write || o.Inode != st.Ino || o.NoName {
		t.Errorf("%+v", o)
	}
	_ = os.Remove(path)
}
