package socket

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"warren/event"
	"warren/internal/testkit"
)

// trying returns what sockets of a network namespace asked for.
func (r *rig) trying(netns uint32) []*event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*event.Event
	for _, e := range r.events[r.from:] {
		if d, ok := e.Data.(*event.SocketState); ok && d.Socket.NetNS == netns {
			out = append(out, e)
		}
	}
	return out
}

// TestBPFTrying holds that the owner of a connection that nobody answers is
// told with its port, and that it is only where somebody wants to know.
func TestBPFTrying(t *testing.T) {
	for _, want := range []bool{true, false} {
		kinds := kindConn | kindDNS
		if want {
			kinds |= kindTrying
		}
		r := newRigOf(t, Config{Trying: want}, roadConfig(), kinds)
		ns := testkit.NewNetns(t)
		for _, to := range []unix.Sockaddr{
			&unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}},
			&unix.SockaddrInet6{Port: 9, Addr: netip.IPv6Loopback().As16()},
			&unix.SockaddrInet6{Port: 9, Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16()},
		} {
			family := unix.AF_INET6
			if _, ok := to.(*unix.SockaddrInet4); ok {
				family = unix.AF_INET
			}
			var fd int
			if err := ns.Do(func() (err error) {
				fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if err := unix.Connect(fd, to); err != unix.ECONNREFUSED {
				t.Fatalf("connect: %v", err)
			}
			if err := unix.Close(fd); err != nil {
				t.Fatal(err)
			}
		}
		outcomes := r.wait("outcomes", 3, in(ns.Inode(t), "connect", 0))
		got := r.trying(ns.Inode(t))
		if !want {
			if len(got) != 0 {
				t.Errorf("told though nobody wants to know: %s", list(got))
			}
			continue
		}
		if len(got) != 3 {
			t.Fatalf("%d told, want 3: %s", len(got), list(got))
		}
		for i, e := range got {
			d, c := e.Data.(*event.SocketState).Socket, outcomes[i].Data.(*event.Connection)
			r.owner(e, self(t), "who asks")
			if d.LocalPort == 0 || d.RemotePort != 9 || d.L4 != event.TCP || d.Cookie != c.Cookie || d.LocalPort != c.LocalPort || d.Local != c.Local || d.Remote != c.Remote {
				t.Errorf("told %+v, the outcome is %+v", d, c.Socket)
			}
			if e.Ktime > outcomes[i].Ktime {
				t.Error("told after the outcome")
			}
		}
	}
}
