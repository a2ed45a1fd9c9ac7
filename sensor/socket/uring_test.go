package socket

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"warren/event"
	"warren/internal/testkit"
)

// TestBPFUringConnect: connections that io_uring makes are told once, as those of
// who submitted them, whoever executes it.
func TestBPFUringConnect(t *testing.T) {
	r := newRig(t, Config{}, nil)
	ns := testkit.NewNetns(t)
	ln := listen(t, ns, "tcp4", "127.0.0.1:0", false)
	for _, flags := range []uint8{0, testkit.UringAsync} {
		var fd int
		if err := ns.Do(func() (err error) {
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		u := testkit.NewUring(t, 4, 0)
		p := port(ln)
		addr := &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: p<<8 | p>>8, Addr: [4]byte{127, 0, 0, 1}}
		const opConnect = 16
		if res := u.Do(testkit.Request{Op: opConnect, Flags: flags, FD: int32(fd), Addr: u.Memory(unsafe.Pointer(addr)), Off: unix.SizeofSockaddrInet4})[0]; res != 0 {
			t.Fatal(unix.Errno(-res))
		}
		sa, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		accept(t, ln)
		of := func(c *event.Connection) bool {
			return c.Type == "connect" && c.LocalPort == uint16(sa.(*unix.SockaddrInet4).Port) && c.RemotePort == p
		}
		e, _ := r.wait1("connect", of)
		r.owner(e, self(t), "connect")
		_ = unix.Close(fd)
		r.sync()
		if n := len(r.conns(of)); n != 1 {
			t.Errorf("flags %#x: told %d times", flags, n)
		}
	}
}
