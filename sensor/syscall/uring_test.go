package syscall

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/internal/testkit"
	"warren/test/roadtest"
)

// Operations of io_uring.
const opSendmsg, opRecvmsg, opSocket = 9, 10, 45

// TestBPFUring: what io_uring is asked for is told as the call that does the same,
// whoever executes it, and marked; with the arguments that were given.
func TestBPFUring(t *testing.T) {
	w := start(t, bpf.Config{}, only("socket", "sendmsg", "recvmsg", "dup"))
	roadtest.LogRungs(t, Hooks(), w.sensor.Hooks())
	told := map[string]int{}
	// next returns the only new event of a type that io_uring was asked for.
	next := func(typ string) *event.Event {
		t.Helper()
		all := slices.DeleteFunc(w.of(os.Getpid(), typ), func(e *event.Event) bool { return !e.Data.(*event.Syscall).IOUring })
		if len(all) != told[typ]+1 {
			t.Fatalf("%d events of %s, want %d", len(all), typ, told[typ]+1)
		}
		told[typ]++
		return all[len(all)-1]
	}
	check := func(e *event.Event, fd int32, args string) {
		t.Helper()
		got, _, _ := strings.Cut(text(t, e, "evt.args"), " flags=") // which the kernel adds to
		if !like(got, args) || e.Data.(*event.Syscall).FD != fd {
			t.Errorf("of %d: %s, want of %d: %s", e.Data.(*event.Syscall).FD, got, fd, args)
		}
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fds[0]); _ = unix.Close(fds[1]) })
	for _, tt := range []struct {
		name  string
		ring  uint32
		flags uint8
	}{
		{name: "at once"},
		{name: "by a worker", flags: testkit.UringAsync},
		{name: "by the polling thread", ring: testkit.UringPoll},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := testkit.NewUring(t, 8, tt.ring)
			u.Table(4)
			request := func(op uint8, fd int, m testkit.Request) testkit.Request {
				m.Op, m.FD, m.Flags = op, int32(fd), m.Flags|tt.flags
				return m
			}
			fd := u.Do(request(opSocket, unix.AF_INET, testkit.Request{Off: unix.SOCK_DGRAM | unix.SOCK_CLOEXEC}))[0]
			if fd < 0 {
				t.Fatal(unix.Errno(-fd))
			}
			t.Cleanup(func() { _ = unix.Close(int(fd)) })
			check(next("socket"), fd, fmt.Sprintf("fd=%d domain=2(AF_INET) type=524290 proto=0", fd))
			if res := u.Do(request(opSocket, unix.AF_INET, testkit.Request{Off: unix.SOCK_DGRAM, Slot: 2}))[0]; res != 0 {
				t.Fatal(unix.Errno(-res))
			}
			if e := next("socket"); e.Data.(*event.Syscall).FD != -1 {
				t.Errorf("in the ring's own table: %s", event.AppendJSON(nil, e))
			}
			if res := u.Do(request(opSocket, 4242, testkit.Request{Off: unix.SOCK_DGRAM}))[0]; res >= 0 {
				t.Fatal(res)
			}
			if e := next("socket"); e.Data.(*event.Syscall).Res == 0 || number(t, e, "evt.rawarg.domain") != 4242 {
				t.Errorf("refused: %s", event.AppendJSON(nil, e))
			}

			sent, got := []byte("hello"), make([]byte, 8)
			if res := u.Do(request(opSendmsg, fds[0], message(u, sent)))[0]; res != 5 {
				t.Fatal(res)
			}
			check(next("sendmsg"), int32(fds[0]), fmt.Sprintf("res=5 data=hello fd=%d size=5 tuple=NULL", fds[0]))
			if res := u.Do(request(opRecvmsg, fds[1], message(u, got)))[0]; res != 5 {
				t.Fatal(res)
			}
			check(next("recvmsg"), int32(fds[1]), fmt.Sprintf("res=5 size=5 data=hello tuple=NULL fd=%d", fds[1]))

			// Of whose success nobody is told; the ring's next end is that of another one.
			m := message(u, sent)
			m.Flags = testkit.UringSkip | testkit.UringLink
			u.Submit(1, request(opSendmsg, fds[0], m), testkit.Request{Data: 1})
			if e := next("sendmsg"); e.Data.(*event.Syscall).Res != event.Errno(unix.EINPROGRESS) || e.Data.(*event.Syscall).FD != int32(fds[0]) {
				t.Errorf("untold: %s", event.AppendJSON(nil, e))
			}
			if _, err := unix.Read(fds[1], got); err != nil {
				t.Fatal(err)
			}
			u.Ends(1)
		})
	}
}

// message is a request that sends what b is, or receives into it.
func message(u *testkit.Uring, b []byte) testkit.Request {
	iov := &unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	msg := &unix.Msghdr{Iov: iov, Iovlen: 1}
	u.Memory(&b[0])
	u.Memory(unsafe.Pointer(iov))
	return testkit.Request{Addr: u.Memory(unsafe.Pointer(msg)), Len: 1}
}

// TestBPFUringSameNumber: requests that have one number and are on their way at once
// are each told with what was asked of it, also where the ring has no room for ends.
func TestBPFUringSameNumber(t *testing.T) {
	w := start(t, bpf.Config{}, only("recvmsg"))
	for _, tt := range []struct {
		name string
		full bool
	}{{name: "room"}, {name: "no room", full: true}} {
		t.Run(tt.name, func(t *testing.T) {
			u := testkit.NewUring(t, 4, testkit.UringCQSize)
			if tt.full {
				u.Submit(4, make([]testkit.Request, 4)...) // that do nothing
			}
			var rs []testkit.Request
			var peers []int
			for range 3 {
				fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = unix.Close(fds[0]); _ = unix.Close(fds[1]) })
				r := message(u, make([]byte, 8))
				r.Op, r.FD, r.Data = opRecvmsg, int32(fds[0]), 7
				rs, peers = append(rs, r), append(peers, fds[1])
			}
			u.Submit(0, rs...)
			before := len(w.of(os.Getpid(), "recvmsg"))
			for n, i := range []int{1, 0, 2} { // not in the order in which they were submitted
				if _, err := unix.Write(peers[i], []byte("hello")[:i+1]); err != nil {
					t.Fatal(err)
				}
				testkit.Wait(t, "the end of a request", func() bool { return len(w.of(os.Getpid(), "recvmsg")) == before+n+1 })
				d := w.of(os.Getpid(), "recvmsg")[before+n].Data.(*event.Syscall)
				if d.FD != rs[i].FD || d.RawRes != int64(i)+1 || !d.IOUring {
					t.Errorf("request %d, of descriptor %d: told of %d with %d", i, rs[i].FD, d.FD, d.RawRes)
				}
			}
		})
	}
}
