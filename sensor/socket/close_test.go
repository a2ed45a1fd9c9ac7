package socket

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/event"
	"warren/internal/testkit"
)

// udpTo is a UDP socket of the test's own process that has only a peer.
func udpTo(t *testing.T, ns *testkit.Netns, network, addr string) *net.UDPConn {
	t.Helper()
	return dial(t, ns, network, addr).(*net.UDPConn)
}

// udpOf makes a connection of a descriptor, and takes it over.
func udpOf(fd int) (*net.UDPConn, error) {
	f := os.NewFile(uintptr(fd), "udp")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// TestBPFToldUDPCloses has UDP sockets that a snapshot has told of: each is
// closed with the ends that it was told with, once.
func TestBPFToldUDPCloses(t *testing.T) {
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	peer, other := packetConn(t, ns, "udp4", "127.0.0.1:0"), packetConn(t, ns, "udp4", "127.0.0.1:0")
	to := peer.LocalAddr().(*net.UDPAddr).AddrPort()
	silent := udpTo(t, ns, "udp4", to.String())
	moved := udpTo(t, ns, "udp4", to.String())
	talks := udpTo(t, ns, "udp4", to.String())
	free := packetConn(t, ns, "udp4", "127.0.0.1:0")
	var six *net.UDPConn // whose IPv4 is wrapped in IPv6
	if err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err = unix.Connect(fd, &unix.SockaddrInet6{Port: int(to.Port()), Addr: netip.AddrFrom4([4]byte{127, 0, 0, 1}).As16()}); err == nil {
			six, err = udpOf(fd)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = six.Close() })

	r := newRig(t, Config{Interval: time.Hour}, nil)
	young := udpTo(t, ns, "udp4", to.String())
	if err := r.sensor.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.sync()
	// After the snapshot one connects to somebody else, and some talk.
	raw, err := moved.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := other.LocalAddr().(*net.UDPAddr).AddrPort()
	if cerr := raw.Control(func(fd uintptr) {
		err = unix.Connect(int(fd), &unix.SockaddrInet4{Port: int(elsewhere.Port()), Addr: elsewhere.Addr().As4()})
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	for _, c := range []net.Conn{moved, talks, six} {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	sendTo(t, free, to, 1)

	for _, test := range []struct {
		name  string
		conn  *net.UDPConn
		young bool
		want  []uint16 // remote ports of closes
	}{
		{"connected and silent", silent, false, []uint16{to.Port()}},
		{"younger than the sensor", young, true, []uint16{to.Port()}},
		{"connected to another since", moved, false, []uint16{to.Port(), elsewhere.Port()}},
		{"connected and talking", talks, false, []uint16{to.Port()}},
		{"connected and talking by IPv6", six, false, []uint16{to.Port()}},
		{"without a peer", free, false, []uint16{0, to.Port()}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &rig{t: t, road: r.road, sensor: r.sensor, seen: r.seen}
			port := localPort(test.conn)
			_, told := r.wait1("update", in(netns, "update", port))
			if told.Existing == test.young || told.State != event.Established {
				t.Errorf("told: %s", show(told))
			}
			if err := test.conn.Close(); err != nil {
				t.Fatal(err)
			}
			got := map[uint16]int{}
			for _, e := range r.wait("closes", len(test.want), in(netns, "close", port)) {
				c := e.Data.(*event.Connection)
				got[c.RemotePort]++
				r.owner(e, self(t), "close")
				if c.Cookie != told.Cookie || c.Local != netip.MustParseAddr("127.0.0.1") || c.State != event.Close || c.L4 != event.UDP {
					t.Errorf("close: %s", show(c))
				}
				if c.PacketsSent == 0 && (c.Remote != told.Remote || c.Existing != told.Existing || c.Server != told.Server) {
					t.Errorf("told as %s, closed as %s", show(told), show(c))
				}
			}
			for _, p := range test.want {
				if got[p] != 1 {
					t.Errorf("closes by remote port: %v, want one of each of %d", got, test.want)
				}
			}
		})
	}
}

// TestBPFAcceptedUnseen accepts connections while nobody sees their state, as
// happens while the sensor starts, by each rung: one that ends meanwhile is not
// told at all, since its end would not be; one that lives is told by the
// snapshot.
func TestBPFAcceptedUnseen(t *testing.T) {
	for _, rung := range forced(t, "socket.accept") {
		t.Run(rung, func(t *testing.T) {
			ns := testkit.NewNetns(t)
			netns := ns.Inode(t)
			ln := listen(t, ns, "tcp4", "127.0.0.1:0", false)
			r := rigRung(t, Config{Interval: time.Hour}, "socket.accept", rung)
			state := func(want event.KindSet) {
				t.Helper()
				for _, h := range hooks() {
					if h.Name != "socket.state" {
						continue
					}
					if err := r.sensor.arrange(h, want); err != nil {
						t.Fatal(err)
					}
				}
			}
			meet := func() (client, server net.Conn) {
				t.Helper()
				client = dial(t, ns, "tcp4", ln.Addr().String())
				return client, accept(t, ln)
			}
			state(0)
			client, server := meet()
			gone := client.LocalAddr().(*net.TCPAddr).AddrPort().Port()
			_ = client.Close()
			_ = server.Close()
			client, server = meet()
			lives := client.LocalAddr().(*net.TCPAddr).AddrPort().Port()
			state(kindConn)
			if err := r.sensor.Snapshot(t.Context()); err != nil {
				t.Fatal(err)
			}
			of := func(typ string, remote uint16) func(*event.Connection) bool {
				return func(c *event.Connection) bool { return in(netns, typ, port(ln))(c) && c.RemotePort == remote }
			}
			e, c := r.wait1("update", of("update", lives))
			r.owner(e, self(t), "update")
			if !c.Server || c.State != event.Established {
				t.Errorf("update: %s", show(c))
			}
			_ = client.Close()
			_ = server.Close()
			e, _ = r.wait1("close", of("close", lives))
			r.owner(e, self(t), "close")
			if got := r.conns(func(c *event.Connection) bool {
				return c.NetNS == netns && (c.RemotePort == gone || c.LocalPort == gone)
			}); len(got) > 0 {
				t.Errorf("told of a connection whose end nobody saw:%s", list(got))
			}
			// From now on accepts are told again.
			client, _ = meet()
			r.wait("accept", 1, func(c *event.Connection) bool {
				return c.NetNS == netns && c.Server && c.RemotePort == client.LocalAddr().(*net.TCPAddr).AddrPort().Port() && (c.Type == "accept" || c.Type == "accept4")
			})
		})
	}
}
