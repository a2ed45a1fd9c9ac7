package process

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/internal/testkit"
)

// openFiles starts a process that does things, waits and keeps the files that it
// is given from number 3 on, and returns what is read of it.
func openFiles(t *testing.T, f *Files, files []*os.File, actions ...string) map[uint32]File {
	t.Helper()
	cmd := testkit.Command(t, "do", append(actions, "wait")...)
	cmd.ExtraFiles = files
	saysWaiting(t, cmd)
	list, total, err := f.Read(livingKey(t, cmd), 100)
	if err != nil {
		t.Fatal(err)
	}
	if total != len(list) || total < 3+len(files) {
		t.Fatalf("%d files of %d", len(list), total)
	}
	m := map[uint32]File{}
	for i, x := range list {
		if i > 0 && list[i-1].FD >= x.FD {
			t.Errorf("descriptor %d behind %d", x.FD, list[i-1].FD)
		}
		m[x.FD] = x
	}
	return m
}

// saysWaiting starts a command and returns when that says that it waits.
func saysWaiting(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// livingKey reads what the kernel calls a living process.
func livingKey(t *testing.T, cmd *exec.Cmd) event.Key {
	t.Helper()
	w := start(t, bpf.Config{}, kinds)
	if err := w.sensor.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, e := range w.all() {
		if e.Process != nil && e.Process.PID == uint32(cmd.Process.Pid) {
			return e.Process.Key
		}
	}
	t.Fatalf("process %d is not there", cmd.Process.Pid)
	return event.Key{}
}

func newFiles(t *testing.T, cfg bpf.Config) *Files {
	t.Helper()
	testkit.NeedRoot(t)
	road, err := bpf.NewRoad(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := NewFiles(road)
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if err := road.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func mustOpen(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// What a process has open is told by the kernel's own objects.
func TestBPFOpenFiles(t *testing.T) {
	f := newFiles(t, bpf.Config{})
	dir := t.TempDir()
	plain := mustOpen(t, filepath.Join(dir, "plain\n\xff"), os.O_RDWR|os.O_CREATE|os.O_APPEND)
	if _, err := plain.WriteString("12345"); err != nil {
		t.Fatal(err)
	}
	gone := mustOpen(t, filepath.Join(dir, "gone"), os.O_WRONLY|os.O_CREATE)
	if err := os.Remove(gone.Name()); err != nil {
		t.Fatal(err)
	}
	moved := mustOpen(t, filepath.Join(dir, "before"), os.O_RDONLY|os.O_CREATE)
	if err := os.Rename(moved.Name(), filepath.Join(dir, "after")); err != nil {
		t.Fatal(err)
	}
	folder := mustOpen(t, dir, os.O_RDONLY)
	fd, err := unix.MemfdCreate("secret", 0)
	if err != nil {
		t.Fatal(err)
	}
	memfd := os.NewFile(uintptr(fd), "memfd")
	defer memfd.Close()
	if fd, err = unix.Eventfd(0, 0); err != nil {
		t.Fatal(err)
	}
	eventfd := os.NewFile(uintptr(fd), "eventfd")
	defer eventfd.Close()
	long := dir
	for len(long) < 3500 {
		long = filepath.Join(long, strings.Repeat("x", 200))
	}
	if err := os.MkdirAll(long, 0o755); err != nil {
		t.Fatal(err)
	}
	deep := mustOpen(t, long, os.O_RDONLY)

	got := openFiles(t, f, []*os.File{plain, gone, moved, folder, memfd, eventfd, deep})
	var st unix.Stat_t
	if err := unix.Stat(plain.Name(), &st); err != nil {
		t.Fatal(err)
	}
	x := got[3]
	dev := uint64(unix.Major(st.Dev))<<20 | uint64(unix.Minor(st.Dev))
	if x.Path != plain.Name() || x.Inode != st.Ino || x.Dev != dev || x.Mode != st.Mode || x.Pos != 5 || x.Deleted || x.Flags&unix.O_ACCMODE != unix.O_RDWR || x.Flags&unix.O_APPEND == 0 {
		t.Errorf("a file: %+v", x)
	}
	if x := got[4]; x.Path != gone.Name() || !x.Deleted || x.Flags&unix.O_ACCMODE != unix.O_WRONLY {
		t.Errorf("one that was deleted: %+v", x)
	}
	if x := got[5]; x.Path != filepath.Join(dir, "after") || x.Deleted {
		t.Errorf("one that was renamed: %+v", x)
	}
	if x := got[6]; x.Path != dir || x.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Errorf("a directory: %+v", x)
	}
	if x := got[7]; x.Path != "memfd:secret" || !x.Nameless || !x.Deleted {
		t.Errorf("a file in memory: %+v", x)
	}
	if x := got[8]; x.Path != "[eventfd]" || !x.Nameless {
		t.Errorf("an eventfd: %+v", x)
	}
	if x := got[9]; x.Path != long {
		t.Errorf("a long path of %d bytes: %+v", len(long), x)
	}
	if x := got[0]; x.Mode&unix.S_IFMT != unix.S_IFIFO || x.Magic != unix.PIPEFS_MAGIC || !x.Nameless {
		t.Errorf("a pipe: %+v", x)
	}
}

// Paths are those that the process sees; what lies elsewhere has its whole path.
func TestBPFOpenFilesRoot(t *testing.T) {
	f := newFiles(t, bpf.Config{})
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "root", "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	inside := mustOpen(t, filepath.Join(dir, "root", "etc", "x"), os.O_RDONLY|os.O_CREATE)
	outside := mustOpen(t, filepath.Join(dir, "y"), os.O_RDONLY|os.O_CREATE)
	got := openFiles(t, f, []*os.File{inside, outside}, "chroot|"+filepath.Join(dir, "root"), "chdir|/")
	if x := got[3]; x.Path != "/etc/x" || x.Outside {
		t.Errorf("below the root: %+v", x)
	}
	if x := got[4]; x.Path != outside.Name() || !x.Outside {
		t.Errorf("not below the root: %+v", x)
	}
}

func TestBPFOpenSockets(t *testing.T) {
	f := newFiles(t, bpf.Config{})
	var files []*os.File
	keep := func(c interface{ File() (*os.File, error) }) *os.File {
		t.Helper()
		file, err := c.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		files = append(files, file)
		return file
	}
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	keep(ln)
	c, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	keep(c.(*net.TCPConn))
	udp, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	keep(udp)
	path := filepath.Join(t.TempDir(), "s")
	ul, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer ul.Close()
	keep(ul)
	uc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer uc.Close()
	keep(uc.(*net.UnixConn))
	abstract, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("@warren-test-%d", os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	keep(abstract)

	got := openFiles(t, f, files)
	for fd := range uint32(len(files)) {
		if x := got[3+fd]; x.Socket == nil || x.Mode&unix.S_IFMT != unix.S_IFSOCK {
			t.Fatalf("%d is no socket: %+v", 3+fd, x)
		}
	}
	if s := got[3].Socket; s.Family != unix.AF_INET || s.Type != unix.SOCK_STREAM || s.Local.String() != ln.Addr().String() || s.State != 10 {
		t.Errorf("a listening socket: %+v", s)
	}
	if s := got[4].Socket; s.Remote.String() != ln.Addr().String() || s.Local.String() != c.LocalAddr().String() || s.State != 1 || s.Protocol != unix.IPPROTO_TCP {
		t.Errorf("a connection: %+v", s)
	}
	if s := got[5].Socket; s.Family != unix.AF_INET6 || s.Type != unix.SOCK_DGRAM || s.Local.String() != udp.LocalAddr().String() || s.Remote.Port() != 0 {
		t.Errorf("a UDP socket: %+v", s)
	}
	if s := got[6].Socket; s.Family != unix.AF_UNIX || s.Path != path || s.PeerPath != "" {
		t.Errorf("a Unix socket that listens: %+v", s)
	}
	if s := got[7].Socket; s.Path != "" || s.PeerPath != path {
		t.Errorf("one that is connected to it: %+v", s)
	}
	if s := got[8].Socket; s.Path != "\x00"+abstract.Addr().String()[1:] {
		t.Errorf("an abstract one: %+v", s)
	}
}

// Nothing is told of a process that has ended, nor of one outside the scope; and
// no more than was asked for.
func TestBPFOpenFilesOfNobody(t *testing.T) {
	f := newFiles(t, bpf.Config{})
	cmd := testkit.Command(t, "do", "wait")
	saysWaiting(t, cmd)
	k := livingKey(t, cmd)
	list, total, err := f.Read(k, 2)
	if err != nil || len(list) != 2 || total < 3 {
		t.Errorf("%d files of %d, %v", len(list), total, err)
	}
	list, total, err = f.Read(event.Key{PID: k.PID, Start: k.Start + 1}, 10)
	if err != nil || len(list) != 0 || total != 0 {
		t.Errorf("of another process with its number: %v %d %v", list, total, err)
	}
	if _, _, err := newFiles(t, bpf.Config{}).Read(event.Key{}, 10); err != nil {
		t.Error(err)
	}
	cg := testkit.NewCgroup(t, "files")
	other := newFiles(t, bpf.Config{CgroupRoot: cg.Path})
	if list, _, err := other.Read(k, 10); err != nil || len(list) != 0 {
		t.Errorf("from another scope: %v, %v", list, err)
	}
}

func FuzzFiles(f *testing.F) {
	f.Add([]byte{})
	rec := make([]byte, fileRecordLen+4)
	rec[0] = byte(len(rec))
	f.Add(rec)
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_ = eachFile(bytes.NewReader(b), func(rec []byte) error {
			n += len(rec)
			_, err := decodeFile(rec)
			return err
		})
		if n > len(b) {
			t.Errorf("%d bytes of %d", n, len(b))
		}
	})
}
