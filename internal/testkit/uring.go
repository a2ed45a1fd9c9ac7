package testkit

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Request is one of io_uring: struct io_uring_sqe, whose members mean what
// they mean to the operation.
type Request struct {
	Op, Flags   uint8
	Priority    uint16
	FD          int32
	Off, Addr   uint64
	Len         uint32
	OpFlags     uint32
	Data        uint64
	_           uint16
	Personality uint16
	Slot        uint32 // of the ring's own table of files, plus one
	_           [2]uint64
}

// Flags of requests, and of rings.
const (
	UringLink   = 1 << 2
	UringAsync  = 1 << 4
	UringSkip   = 1 << 6
	UringPoll   = 1 << 1 // of a ring: a thread of the kernel submits
	UringCQSize = 1 << 3
	UringDefer  = 1<<12 | 1<<13
)

// An Uring is an io_uring. Only its methods may be called by one goroutine at a
// time, locked to its thread if the ring's flags ask for that.
type Uring struct {
	t     testing.TB
	fd    int
	flags uint32
	ring  []byte
	sqes  []Request
	sq    [5]*uint32 // head, tail, mask, flags, array
	cq    [3]*uint32 // head, tail, mask
	cqes  *uringEnd
	keep  []any
}

type uringEnd struct {
	Data  uint64
	Res   int32
	Flags uint32
}

type uringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	_                                                    [3]uint32
	sq                                                   struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

// NewUring makes a ring of n requests for the time of the test, with room for as
// many ends, where flags have UringCQSize, and else for twice as many.
func NewUring(t testing.TB, n int, flags uint32) *Uring {
	t.Helper()
	p := uringParams{flags: flags, idle: 1000}
	if flags&UringCQSize != 0 {
		p.cqEntries = uint32(n)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(n), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		t.Fatalf("io_uring_setup: %v", errno)
	}
	u := &Uring{t: t, fd: int(fd), flags: flags}
	size := max(int(p.sq.array)+int(p.sqEntries)*4, int(p.cq.cqes)+int(p.cqEntries)*16)
	var err error
	if u.ring, err = unix.Mmap(u.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		t.Fatal(err)
	}
	sqes, err := unix.Mmap(u.fd, 0x10000000, int(p.sqEntries)*64, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	u.sqes = unsafe.Slice((*Request)(unsafe.Pointer(&sqes[0])), p.sqEntries)
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.ring[off])) }
	u.sq = [5]*uint32{at(p.sq.head), at(p.sq.tail), at(p.sq.mask), at(p.sq.flags), at(p.sq.array)}
	u.cq = [3]*uint32{at(p.cq.head), at(p.cq.tail), at(p.cq.mask)}
	u.cqes = (*uringEnd)(unsafe.Pointer(&u.ring[p.cq.cqes]))
	t.Cleanup(func() {
		_ = unix.Close(u.fd)
		_ = unix.Munmap(u.ring)
		_ = unix.Munmap(sqes)
		runtime.KeepAlive(u.keep)
	})
	return u
}

// Text returns the address of a text that ends with a zero byte and stays where
// it is as long as the ring.
func (u *Uring) Text(s string) uint64 {
	b := append([]byte(s), 0)
	return u.Memory(&b[0])
}

// Memory returns an address as requests have it, and keeps what is there alive.
func (u *Uring) Memory(p any) uint64 {
	u.keep = append(u.keep, p)
	switch p := p.(type) {
	case *byte:
		return uint64(uintptr(unsafe.Pointer(p)))
	case unsafe.Pointer:
		return uint64(uintptr(p))
	}
	u.t.Fatalf("address of a %T", p)
	return 0
}

// Table gives the ring a table of n files, all of them empty.
func (u *Uring) Table(n int) {
	u.t.Helper()
	fds := make([]int32, n)
	for i := range fds {
		fds[i] = -1
	}
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(u.fd), 2, uintptr(unsafe.Pointer(&fds[0])), uintptr(n), 0, 0); errno != 0 {
		u.t.Fatalf("register files: %v", errno)
	}
}

// Submit hands requests over all at once, and waits for n ends.
func (u *Uring) Submit(n int, rs ...Request) {
	u.t.Helper()
	tail, mask := *u.sq[1], *u.sq[2]
	for i, r := range rs {
		at := (tail + uint32(i)) & mask
		u.sqes[at] = r
		*(*uint32)(unsafe.Add(unsafe.Pointer(u.sq[4]), at*4)) = at
	}
	atomic.StoreUint32(u.sq[1], tail+uint32(len(rs)))
	flags := uintptr(1) // wait for ends
	if u.flags&UringPoll != 0 && atomic.LoadUint32(u.sq[3])&1 != 0 {
		flags |= 2 // and wake the thread
	}
	for {
		done, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), uintptr(len(rs)), uintptr(n), flags, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 || int(done) != len(rs) {
			u.t.Fatalf("io_uring_enter: %d of %d, %v", done, len(rs), errno)
		}
		return
	}
}

// Ends takes n ends, by the numbers of the requests.
func (u *Uring) Ends(n int) map[uint64]int32 {
	u.t.Helper()
	out := map[uint64]int32{}
	for range n {
		head := *u.cq[0]
		if head == atomic.LoadUint32(u.cq[1]) {
			u.t.Fatalf("%d ends of %d", len(out), n)
		}
		e := (*uringEnd)(unsafe.Add(unsafe.Pointer(u.cqes), uintptr(head&*u.cq[2])*unsafe.Sizeof(uringEnd{})))
		out[e.Data] = e.Res
		atomic.StoreUint32(u.cq[0], head+1)
	}
	return out
}

// Do has requests done and returns their results, in their order.
func (u *Uring) Do(rs ...Request) []int32 {
	u.t.Helper()
	for i := range rs {
		rs[i].Data = uint64(i) + 1
	}
	u.Submit(len(rs), rs...)
	ends := u.Ends(len(rs))
	res := make([]int32, len(rs))
	for i := range rs {
		res[i] = ends[uint64(i)+1]
		if res[i] >= 0 && (rs[i].Op == 18 || rs[i].Op == 28) && rs[i].Slot == 0 {
			f := os.NewFile(uintptr(res[i]), "io_uring")
			u.keep = append(u.keep, f)
		}
	}
	return res
}
