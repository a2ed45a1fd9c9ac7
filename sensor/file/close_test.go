package file

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"warren/event"
	"warren/internal/testkit"
	"warren/test/roadtest"
)

func TestMain(m *testing.M) {
	testkit.Main(m, map[string]func([]string) int{"close": helperClose, "crowd": helperCrowd, "hoard": helperHoard})
}

// written is what is in each file that helpers close.
const written = "text"

// put opens a file for writing, that is not closed by an exec, and writes to it.
func put(dir, name string) (int, error) {
	fd, err := unix.Open(filepath.Join(dir, name), unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err == nil {
		_, err = unix.Write(fd, []byte(written))
	}
	return fd, err
}

// helperClose DIR lets go of files in all ways but close(2), and of each but the
// first to be held once: it is named after the way. Behind DIR it ends at once.
func helperClose(args []string) int {
	if len(args) > 1 {
		return 0
	}
	dir := args[0]
	null, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	try := func(f func() error) {
		if err == nil {
			err = f()
		}
	}
	file := func(name string) (fd int) {
		try(func() (err error) { fd, err = put(dir, name); return })
		return fd
	}
	again := func(fd int) (other int) {
		try(func() (err error) { other, err = unix.Dup(fd); return })
		return other
	}
	dup2 := func(from, to int) error {
		if _, _, errno := unix.RawSyscall(uintptr(event.LookupCall("dup2").Number()), uintptr(from), uintptr(to), 0); errno != 0 {
			return errno
		}
		return nil
	}
	if exists("dup2") {
		fd := file("dup2")
		try(func() error { return dup2(fd, fd) }) // changes nothing
		try(func() error { return dup2(null, fd) })
	}
	fd := file("dup3")
	if unix.Dup3(-1, fd, 0) == nil { // changes nothing
		return 1
	}
	try(func() error { return unix.Dup3(null, fd, 0) })

	fd = file("held")
	other := again(fd)
	try(func() error { return unix.Dup3(null, fd, 0) })
	try(func() error { return unix.Close(other) })

	fd = file("range")
	twice := file("twice")
	last := again(twice)
	try(func() error { return unix.CloseRange(uint(fd), uint(last), 0) })
	fd = file("half")
	again(fd)
	try(func() error { return unix.CloseRange(uint(fd), uint(fd), unix.CLOSE_RANGE_UNSHARE) }) // the other one stays

	fd = file("exec")
	try(func() error { return unix.CloseRange(uint(fd), uint(fd), unix.CLOSE_RANGE_CLOEXEC) }) // marks it
	again(file("exit"))
	try(func() error { return unix.Exec("/proc/self/exe", append(os.Args, "end"), os.Environ()) })
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// TestBPFCloses: files go on other ways than by close(2), and are told once, when
// nothing else has them.
func TestBPFCloses(t *testing.T) {
	w := observe(t, event.Kinds(event.KindFileClose))
	roadtest.LogRungs(t, Hooks(), w.sensor.Hooks())
	dir := t.TempDir()
	inherited, err := os.Create(filepath.Join(dir, "inherited"))
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	cmd := testkit.Command(t, "close", dir)
	cmd.ExtraFiles = []*os.File{inherited}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"dup2": "dup2", "dup3": "dup3", "held": "close", "range": "close_range", "twice": "close_range", "half": "exit", "exec": "exec", "exit": "exit"}
	if !exists("dup2") {
		delete(want, "dup2")
	}
	if w.rung("file.close") == "tracepoint/no_exec" {
		delete(want, "exec")
	}
	got := map[string]string{}
	for _, e := range w.of(cmd.Process.Pid) {
		c := e.Data.(*event.FileClose)
		name, err := filepath.Rel(dir, c.Name)
		if err != nil || c.Type != "close" || c.Res != 0 || c.NoName || c.Inode == 0 || c.Size != int64(len(written)) || c.FD <= 3 {
			t.Errorf("%+v", c)
		}
		if got[name] != "" {
			t.Errorf("%s is told twice, by %s and %s", name, got[name], c.By)
		}
		got[name] = c.By
	}
	if !maps.Equal(got, want) {
		t.Errorf("closed are %v, want %v", got, want)
	}
}

// helperCrowd PATH has many threads when it ends.
func helperCrowd(args []string) int {
	if _, err := put(args[0], "f"); err != nil {
		return 1
	}
	var ends [2]int
	if err := unix.Pipe(ends[:]); err != nil {
		return 1
	}
	ready := make(chan struct{})
	for range 8 {
		go func() {
			runtime.LockOSThread()
			ready <- struct{}{}
			_, _ = unix.Read(ends[0], make([]byte, 1)) // which nobody writes
		}()
	}
	for range 8 {
		<-ready
	}
	return 0
}

// TestBPFClosesOfMany: what threads have in common is told once when they end all
// at the same time.
func TestBPFClosesOfMany(t *testing.T) {
	w := observe(t, event.Kinds(event.KindFileClose))
	for range 20 {
		dir := t.TempDir()
		cmd := testkit.Command(t, "crowd", dir)
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		var by []string
		for _, e := range w.of(cmd.Process.Pid) {
			by = append(by, e.Data.(*event.FileClose).By)
		}
		if !slices.Equal(by, []string{"exit"}) {
			t.Fatalf("told as closed by %q, want once by exit", by)
		}
	}
}

// helperHoard DIR N ends with N more descriptors of each of two files, in turn.
func helperHoard(args []string) int {
	n, err := strconv.Atoi(args[1])
	if err == nil {
		most := uint64(2*n + 100)
		err = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most})
	}
	var fds [2]int
	for i, name := range []string{"a", "b"} {
		if err == nil {
			fds[i], err = put(args[0], name)
		}
	}
	for i := range 2 * n {
		if err == nil {
			_, err = unix.Dup(fds[i%2])
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestBPFClosesOfHoard: whether a file has other holders than many descriptors of one
// process is not looked for without end, and what is not found so is counted.
func TestBPFClosesOfHoard(t *testing.T) {
	w := observe(t, event.Kinds(event.KindFileClose))
	for _, c := range []struct {
		n    int
		lost bool
	}{{10, false}, {1000, true}} {
		lost := w.lost("file.close")
		cmd := testkit.Command(t, "hoard", t.TempDir(), strconv.Itoa(c.n))
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, e := range w.of(cmd.Process.Pid) {
			f := e.Data.(*event.FileClose)
			got[filepath.Base(f.Name)+" by "+f.By]++
		}
		if !maps.Equal(got, map[string]int{"a by exit": 1, "b by exit": 1}) {
			t.Errorf("with %d descriptors of each: %v", c.n, got)
		}
		if lost = w.lost("file.close") - lost; lost > 0 != c.lost {
			t.Errorf("with %d descriptors of each %d are counted as lost", c.n, lost)
		}
	}
}
