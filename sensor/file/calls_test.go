package file

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/internal/testkit"
)

// kernelMemory returns what the kernel's allocator has given away, bytes.
func kernelMemory(t *testing.T) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "SUnreclaim: %d kB", &n); err == nil {
			return n << 10
		}
	}
	t.Fatal("no SUnreclaim in /proc/meminfo")
	return 0
}

// TestBPFCallsMemory: thousands of threads that change files cost the kernel no
// more memory than they do when nobody asks.
func TestBPFCallsMemory(t *testing.T) {
	testkit.NeedRoot(t)
	const threads, most = 500, 8 << 10
	dir := t.TempDir()
	change := func(name string) error {
		fd, err := unix.Open(name, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		if err == nil {
			err = unix.Close(fd)
		}
		if err == nil {
			err = unix.Unlink(name)
		}
		return err
	}
	var first, second, done sync.WaitGroup
	begin, end := make(chan struct{}), make(chan struct{})
	for i := range threads {
		first.Add(1)
		second.Add(1)
		done.Go(func() {
			runtime.LockOSThread() // one thread each, which ends with the goroutine
			if err := change(fmt.Sprint(dir, "/", i)); err != nil {
				t.Error(err)
			}
			first.Done()
			<-begin
			if err := change(fmt.Sprint(dir, "/", i)); err != nil {
				t.Error(err)
			}
			second.Done()
			<-end
		})
	}
	first.Wait()
	w := start(t, bpf.Config{}, event.Kinds(event.KindFile, event.KindFileClose))
	before := kernelMemory(t)
	close(begin)
	second.Wait()
	grown := (kernelMemory(t) - before) / threads
	close(end)
	done.Wait()
	t.Logf("%d threads that have changed files take %d bytes more each", threads, grown)
	if grown > most {
		t.Errorf("threads that have changed files take %d bytes of the kernel's memory more each, want at most %d", grown, most)
	}
	var closed, removed int
	for _, e := range w.of(os.Getpid()) {
		switch d := e.Data.(type) {
		case *event.FileClose:
			if strings.HasPrefix(d.Name, dir+"/") {
				closed++
			}
		case *event.File:
			if strings.HasPrefix(d.NameRaw, dir+"/") {
				removed++
			}
		}
	}
	if closed != threads || removed != threads {
		t.Errorf("%d closes and %d removals are told, %d of each were made", closed, removed, threads)
	}
}

// occupy writes an owner into every slot that is free.
func (w *watch) occupy(owner uint64) {
	w.t.Helper()
	m := w.sensor.obj.Map("call_sets")
	for set := range m.MaxEntries() {
		var owners [slotWays]uint64
		for i := range owners {
			owners[i] = owner
		}
		if err := m.Put(set, unsafe.Slice((*byte)(unsafe.Pointer(&owners)), unsafe.Sizeof(owners))); err != nil {
			w.t.Fatal(err)
		}
	}
}

// owner is the word of a slot that a thread has had since so many times 2^30 ns.
func owner(t *testing.T, tid uint32, what fileFileWhat, age uint64) uint64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	return uint64(tid) | uint64(what)<<32 | ((uint64(now.Nano())>>30-age)&0x7fffff)<<41
}

// lost returns how many records of a type are counted as lost.
func (w *watch) lost(name string) (n uint64) {
	w.t.Helper()
	for _, c := range w.road.Counters() {
		if c.Name == name {
			n += c.Lost
		}
	}
	return n
}

// TestBPFCallsFull: what is seen of calls for which there is no slot is counted,
// each, and so is what must make room.
func TestBPFCallsFull(t *testing.T) {
	w := startSensor(t, bpf.Config{}, Config{Calls: 64}, event.Kinds(event.KindFileClose, event.KindFile))
	dir := t.TempDir()
	in := []interest.Path{{Op: interest.Under, Text: dir}}
	want := interest.Union(interest.Holder{Name: "test", Interest: interest.Interest{Terms: []interest.Term{{Kinds: event.Kinds(event.KindFileClose, event.KindFile), Paths: in}}}})
	if err := w.sensor.Start(want, w.add); err != nil {
		t.Fatal(err)
	}
	closes := func(n int) {
		t.Helper()
		for range n {
			fd, err := unix.Open(dir+"/f", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
			if err == nil {
				err = unix.Close(fd)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	told := func() (n int) {
		for _, e := range w.of(os.Getpid()) {
			if c, ok := e.Data.(*event.FileClose); ok && c.Name == dir+"/f" {
				n++
			}
		}
		return n
	}
	const young, old = 1, 1000
	closes(10)
	if n, lost := told(), w.lost("file.close"); n != 10 || lost != 0 {
		t.Fatalf("with room: %d closes are told, %d lost", n, lost)
	}
	w.occupy(owner(t, 1<<30, fileFileWhatFILE_CLOSE, young))
	closes(10)
	if n, lost := told(), w.lost("file.close"); n != 10 || lost != 10 {
		t.Errorf("without room: %d closes are told, %d lost, want 10 and 10", n, lost)
	}
	before := w.lost("file.change")
	alone(t, dir, "mkdir", "d") // wanted by its name alone
	lost, unnamed := w.lost("file.change")-before, 0
	for _, e := range w.all() {
		if f, ok := e.Data.(*event.File); ok && f.Type == "mkdir" && f.NameRaw == "d" && f.Error == event.PathUnproven {
			unnamed++
		}
	}
	if fentry := w.rung("file.mkdir") == "fentry"; fentry && (lost != 1 || unnamed != 0) || !fentry && (lost != 0 || unnamed != 1) {
		t.Errorf("without room: %d changes are lost, %d told without a name", lost, unnamed)
	}
	w.occupy(owner(t, 1<<30, fileFileWhatFILE_MKDIR, old))
	before = w.lost("file.change")
	closes(10)
	if n, lost, changes := told(), w.lost("file.close"), w.lost("file.change")-before; n != 20 || lost != 10 || changes != 1 {
		t.Errorf("in place of an old one: %d closes are told, %d closes and %d changes lost, want 20, 10 and 1", n, lost, changes)
	}
}

// TestBPFCallsLong: paths that do not fit into a slot are told whole.
func TestBPFCallsLong(t *testing.T) {
	w := start(t, bpf.Config{}, event.Kinds(event.KindFileClose, event.KindFile))
	dir := t.TempDir()
	apart(t, func() { // in a thread of its own, which has a working directory
		path := dir
		if err := unix.Chdir(dir); err != nil {
			t.Fatal(err)
		}
		for len(path) < 3800 {
			name := strings.Repeat("d", 200)
			if err := unix.Mkdir(name, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Chdir(name); err != nil {
				t.Fatal(err)
			}
			path += "/" + name
		}
		fd, err := unix.Open("f", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		if err == nil {
			err = unix.Close(fd)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Rename("f", "g"); err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, e := range w.of(os.Getpid()) {
			switch d := e.Data.(type) {
			case *event.FileClose:
				if d.Name == path+"/f" {
					found++
				}
			case *event.File:
				if known := w.rung("file.rename") == "fentry"; strings.HasPrefix(d.Type, "rename") && d.SourceRaw == "f" && d.TargetRaw == "g" &&
					known == (d.Source == path+"/f" && d.Target == path+"/g") {
					found++
				}
			}
		}
		if found != 2 {
			t.Errorf("of a close and a rename with paths of %d bytes, %d are told", len(path)+2, found)
		}
	})
}

// compat makes a system call as 32-bit programs do, which this machine may not
// have.
func compat(t *testing.T, nr, a, b uint32) {
	t.Helper()
	code := []byte{
		0xb8, 0, 0, 0, 0, // mov eax, nr
		0xbb, 0, 0, 0, 0, // mov ebx, a
		0xb9, 0, 0, 0, 0, // mov ecx, b
		0xcd, 0x80, 0xc3, // int 0x80; ret
	}
	for i, v := range []uint32{nr, a, b} {
		binary.LittleEndian.PutUint32(code[1+5*i:], v)
	}
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(page) }()
	copy(page, code)
	entry := &page[0]
	function := &entry // a func is a pointer to what begins with its code's address
	(*(*func())(unsafe.Pointer(&function)))()
}

// TestBPFCallsCompat: what a 32-bit call was about is not taken for what a call
// of the same number is about that fails later.
func TestBPFCallsCompat(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("int 0x80 is x86's")
	}
	w := start(t, bpf.Config{}, event.Kinds(event.KindFile))
	victim := t.TempDir() + "/victim"
	fd := openFile(t, unix.AT_FDCWD, victim, unix.O_CREAT|unix.O_RDWR, 0o600)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	compat(t, 94, uint32(fd), 0o640) // fchmod; as 64-bit programs count, lchown
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&0o777 != 0o640 {
		t.Skipf("this kernel has no 32-bit calls: %v, mode %o", err, st.Mode)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_LCHOWN, 1, 0, 0); e != unix.EFAULT {
		t.Fatal(e)
	}
	f := w.file(os.Getpid(), "lchown")
	if f.Name != "" || f.Error != event.PathFailed || f.Inode != 0 {
		t.Errorf("a call that failed before it came to a file is told with one: %+v", f)
	}
}
