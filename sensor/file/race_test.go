package file

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/internal/testkit"
)

// raceRounds is how often each race is run at most.
const raceRounds = 10_000

// rounds is how often.
func rounds() int { return testkit.Rounds(raceRounds, raceRounds/5) }

// meanwhile runs f again and again beside the test, in a thread of its own, until
// the function that it returns is called. That tells how often f has run.
func meanwhile(f func(i int)) (stop func() int) {
	var end atomic.Bool
	done := make(chan int)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		i := 0
		for ; !end.Load(); i++ {
			f(i)
		}
		done <- i
	}()
	return func() int {
		end.Store(true)
		return <-done
	}
}

// pause passes about as much time as a system call takes.
func pause() {
	var n atomic.Int32
	for range 200 {
		n.Add(1)
	}
}

// opened opens a path n times and returns what the descriptors referred to, as
// inode numbers, in the order of the calls; 0 for calls that failed.
func opened(t *testing.T, n int, dir int, path *byte) (inodes []uint64) {
	t.Helper()
	for range n {
		fd, _, e := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(path)), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
		var st unix.Stat_t
		if e == 0 {
			if err := unix.Fstat(int(fd), &st); err != nil {
				t.Fatal(err)
			}
			_ = unix.Close(int(fd))
		}
		inodes = append(inodes, st.Ino)
	}
	return inodes
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// race runs rounds of opens while something is changed, and holds each report
// against what the descriptor was in truth. names are the names that a file with
// this inode number may have had.
func race(t *testing.T, names map[uint64][]string, dir int, path *byte, change func(i int), each func(o *event.Open)) {
	w := start(t, bpf.Config{BulkBytes: 64 << 20}, event.Kinds(event.KindOpen))
	stop := meanwhile(change)
	var truth []uint64
	for len(truth) < rounds() {
		truth = append(truth, opened(t, 500, dir, path)...)
	}
	changed := stop()
	var seen []*event.Open
	for _, e := range w.all() {
		if o := e.Data.(*event.Open); o.Type == "openat" && int(o.Dir) == dir && o.Flags&unix.O_PATH == 0 && (o.Res != 0 || names[o.Inode] != nil) {
			seen = append(seen, o)
		}
	}
	if len(seen) < len(truth) {
		t.Fatalf("%d opens are told, %d were made", len(seen), len(truth))
	}
	found, unproven, mismatches := map[uint64]int{}, 0, 0
	i := 0
	for _, o := range seen {
		if i >= len(truth) || o.Inode != truth[i] {
			continue // somebody else's of this process
		}
		i++
		found[o.Inode]++
		if o.Mismatch {
			mismatches++
		}
		switch {
		case o.Name == "" && o.NoName:
			unproven++
		case !slices.Contains(names[o.Inode], o.Name):
			t.Fatalf("inode %d is reported as %q, which it never was: %v", o.Inode, o.Name, names[o.Inode])
		}
		each(o)
	}
	if i != len(truth) {
		t.Errorf("only %d of %d opens are told as they were", i, len(truth))
	}
	t.Logf("%d opens while %d changes were made: by inode %v, %d without a name, %d that do not match", i, changed, found, unproven, mismatches)
}

func cstring(t *testing.T, s string) *byte {
	t.Helper()
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestBPFRaceBuffer: another thread changes the path while it is being opened.
func TestBPFRaceBuffer(t *testing.T) {
	dir := t.TempDir()
	names := map[uint64][]string{}
	for _, n := range []string{"benign", "secret"} {
		if err := os.WriteFile(dir+"/"+n, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		names[inodeOf(t, dir+"/"+n)] = []string{dir + "/" + n}
	}
	path := cstring(t, dir+"/benign")
	last := (*[6]byte)(unsafe.Add(unsafe.Pointer(path), len(dir)+1))
	wrong := 0
	race(t, names, unix.AT_FDCWD, path, func(i int) {
		if i&1 == 0 {
			*last = [6]byte([]byte("secret"))
		} else {
			*last = [6]byte([]byte("benign"))
		}
		pause()
	}, func(o *event.Open) {
		if o.Res == 0 && (o.NameRaw != o.Name) != o.Mismatch {
			t.Fatalf("%q was asked for as %q: mismatch %t", o.Name, o.NameRaw, o.Mismatch)
		}
		if o.Mismatch {
			wrong++
		}
	})
	if wrong == 0 {
		t.Log("no round in which the buffer was changed at the right time")
	}
}

// TestBPFRaceDirectory: the directories above are renamed meanwhile, two at a
// time, so that a walk without care would put together names of two moments.
func TestBPFRaceDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/x", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/a/b/f", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ino := inodeOf(t, dir+"/a/b/f")
	fd, err := unix.Open(dir+"/a/b", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	race(t, map[uint64][]string{ino: {dir + "/a/b/f", dir + "/x/y/f"}}, fd, cstring(t, "f"), func(i int) {
		from, to := dir+"/a/b", dir+"/x/y"
		if i&1 == 1 {
			from, to = to, from
		}
		if err := unix.Rename(from, to); err != nil {
			t.Error(err)
		}
	}, func(o *event.Open) {
		if o.Mismatch {
			t.Fatalf("%q was asked for as %q", o.Name, o.NameRaw)
		}
	})
}

// TestBPFRaceSymlink: the symlink on the way leads elsewhere meanwhile.
func TestBPFRaceSymlink(t *testing.T) {
	dir := t.TempDir()
	names := map[uint64][]string{}
	for _, n := range []string{"one", "two"} {
		if err := os.Mkdir(dir+"/"+n, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/"+n+"/f", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		names[inodeOf(t, dir+"/"+n+"/f")] = []string{dir + "/" + n + "/f"}
	}
	if err := os.Symlink("one", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("two", dir+"/other"); err != nil {
		t.Fatal(err)
	}
	race(t, names, unix.AT_FDCWD, cstring(t, dir+"/link/f"), func(int) {
		if err := unix.Renameat2(unix.AT_FDCWD, dir+"/link", unix.AT_FDCWD, dir+"/other", unix.RENAME_EXCHANGE); err != nil {
			t.Error(err)
		}
	}, func(o *event.Open) {
		if !strings.HasSuffix(o.NameRaw, "/link/f") {
			t.Fatalf("%q was asked for", o.NameRaw)
		}
	})
}

// TestBPFRaceRemove: another thread changes the path of a file while it is being
// removed. What is told as removed is what is gone.
func TestBPFRaceRemove(t *testing.T) {
	w := start(t, bpf.Config{BulkBytes: 64 << 20}, event.Kinds(event.KindFile))
	dir := t.TempDir()
	path := cstring(t, dir+"/benign")
	last := (*[6]byte)(unsafe.Add(unsafe.Pointer(path), len(dir)+1))
	both := []string{"benign", "secret"}
	stop := meanwhile(func(i int) {
		*last = [6]byte([]byte(both[i&1]))
		pause()
	})
	var gone []string
	for range rounds() {
		for _, n := range both {
			fd, err := unix.Open(dir+"/"+n, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			_ = unix.Close(fd)
		}
		_, _, e := unix.Syscall(unix.SYS_UNLINK, uintptr(unsafe.Pointer(path)), 0, 0)
		removed := ""
		for _, n := range both {
			if unix.Access(dir+"/"+n, unix.F_OK) != nil {
				removed = dir + "/" + n
			}
		}
		if (e == 0) != (removed != "") {
			t.Fatalf("%v, and %q is gone", e, removed)
		}
		gone = append(gone, removed)
	}
	changed := stop()
	i, proven, flagged := 0, 0, 0
	for _, e := range w.of(os.Getpid()) {
		f, ok := e.Data.(*event.File)
		if !ok || f.Type != "unlink" || i == len(gone) {
			continue
		}
		if f.Name != "" && f.Name != gone[i] || (f.Res == 0) != (gone[i] != "") {
			t.Fatalf("%q is told as removed, %q is gone: %+v", f.Name, gone[i], f)
		}
		if f.Name != "" {
			proven++
		}
		if f.Mismatch {
			flagged++
		}
		i++
	}
	if i != len(gone) {
		t.Errorf("%d of %d removals are told", i, len(gone))
	}
	if known := w.rung("file.remove") == "fentry"; known && proven == 0 || !known && proven != 0 {
		t.Errorf("%d names are told", proven)
	}
	t.Logf("%d removals while %d changes were made: %d names are told, %d that do not match", i, changed, proven, flagged)
}

// shared is memory that a process without threads has in common with the test.
type shared struct {
	name [8]byte // what it removes
	end  [2][8]byte
	gone [raceRounds]byte // by round: which of the two was removed, from 1
}

// removing makes and removes files in its working directory, in a process that
// was forked and has nothing of Go's runtime but its code: no thread, no stack
// that grows.
//
//go:norace
//go:nosplit
func removing(m *shared, rounds int, dir *byte) {
	unix.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(dir)), 0, 0)
	at := unix.AT_FDCWD
	for round := 0; round < rounds; round++ {
		for i := 0; i < 2; i++ {
			fd, _, _ := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&m.end[i])), unix.O_CREAT|unix.O_WRONLY, 0o600, 0, 0)
			unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
		}
		unix.RawSyscall(unix.SYS_UNLINKAT, uintptr(at), uintptr(unsafe.Pointer(&m.name)), 0)
		for i := 0; i < 2; i++ {
			if _, _, e := unix.RawSyscall(unix.SYS_FACCESSAT, uintptr(at), uintptr(unsafe.Pointer(&m.end[i])), unix.F_OK); e != 0 {
				m.gone[round] = byte(i + 1)
			}
		}
	}
	unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
}

// TestBPFRaceSharedMemory: another process, which shares memory with the one that
// removes a file, changes the path meanwhile.
func TestBPFRaceSharedMemory(t *testing.T) {
	w := start(t, bpf.Config{BulkBytes: 64 << 20}, event.Kinds(event.KindFile))
	dir, n := t.TempDir(), rounds()
	memory, err := unix.Mmap(-1, 0, int(unsafe.Sizeof(shared{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(memory) }()
	m := (*shared)(unsafe.Pointer(&memory[0]))
	both := [2][8]byte{[8]byte([]byte("benign\x00\x00")), [8]byte([]byte("secret\x00\x00"))}
	m.name, m.end = both[0], both
	path := cstring(t, dir)
	runtime.LockOSThread()
	pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid == 0 && e == 0 {
		removing(m, n, path)
	}
	runtime.UnlockOSThread()
	if e != 0 {
		t.Fatal(e)
	}
	stop := meanwhile(func(i int) { m.name = both[i&1] })
	if _, err := unix.Wait4(int(pid), nil, 0, nil); err != nil {
		t.Fatal(err)
	}
	changed := stop()
	i, proven := 0, 0
	for _, e := range w.of(int(pid)) {
		f, ok := e.Data.(*event.File)
		if !ok || f.Type != "unlinkat" || i == n {
			continue
		}
		gone := ""
		if which := m.gone[i]; which != 0 {
			gone = dir + "/" + unix.ByteSliceToString(both[which-1][:])
		}
		if f.Name != "" && f.Name != gone {
			t.Fatalf("round %d: %q is told as removed, %q is gone: %+v", i, f.Name, gone, f)
		}
		if f.Name != "" {
			proven++
		}
		i++
	}
	if i != n {
		t.Errorf("%d of %d removals are told", i, n)
	}
	t.Logf("%d removals while %d changes were made: %d names are told", i, changed, proven)
}
