package socket

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/event"
	"warren/internal/testkit"
)

// TestBPFSnapshot has sockets that are older than the sensor.
func TestBPFSnapshot(t *testing.T) {
	for _, mptcp := range []bool{false, true} {
		t.Run(fmt.Sprintf("mptcp=%v", mptcp), func(t *testing.T) { snapshot(t, mptcp) })
	}
}

func snapshot(t *testing.T, mptcp bool) {
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	ln := listen(t, ns, "tcp4", "127.0.0.1:0", mptcp)
	network := "tcp4"
	h := start(t, ns, nil, "dial", network, ln.Addr().String(), "100", "50")
	server := accept(t, ln)
	if _, err := io.ReadFull(server, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write(make([]byte, 50)); err != nil {
		t.Fatal(err)
	}
	clientPort := uint16(atoi(h.ready()))
	client := h.key()
	udp := packetConn(t, ns, "udp4", "127.0.0.1:0")
	var connected net.Conn
	if err := ns.Do(func() (err error) {
		connected, err = net.Dial("udp4", udp.LocalAddr().String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connected.Close() })

	r := newRig(t, Config{Interval: 100 * time.Millisecond}, nil)
	if err := r.sensor.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	e, c := r.wait1("listen", in(netns, "listen", port(ln)))
	r.owner(e, self(t), "listen")
	if !c.Existing || c.State != event.Listen || !c.Start.IsZero() || c.Duration != 0 {
		t.Errorf("listen: %s", show(c))
	}
	exists := func(port uint16, l4 event.Proto) func(*event.Connection) bool {
		return func(c *event.Connection) bool {
			return c.NetNS == netns && c.Type == "update" && c.LocalPort == port && c.L4 == l4 && c.Remote.IsValid() == (port != localPort(udp))
		}
	}
	check := func(what string, port uint16, owner event.Key, isServer bool, sent, received uint64) {
		t.Helper()
		e, c := r.wait1(what, exists(port, event.TCP))
		r.owner(e, owner, what)
		if !c.Existing || c.Server != isServer || c.BytesSent != sent || c.BytesReceived != received || c.State != event.Established || c.Shared {
			t.Errorf("%s: %s", what, show(c))
		}
	}
	check("client", clientPort, client, false, 100, 50)
	check("server", port(ln), self(t), true, 50, 100)
	e, c = r.wait1("UDP socket", exists(localPort(udp), event.UDP))
	r.owner(e, self(t), "UDP socket")
	if !c.Existing || !c.Server || c.Local != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("UDP socket: %s", show(c))
	}
	e, c = r.wait1("connected UDP socket", exists(localPort(connected), event.UDP))
	r.owner(e, self(t), "connected UDP socket")
	if !c.Existing || c.Server || c.RemotePort != localPort(udp) {
		t.Errorf("connected UDP socket: %s", show(c))
	}

	// Counters that change are reported again.
	if _, err := server.Write(make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "an update", func() bool {
		return len(r.conns(func(c *event.Connection) bool {
			return exists(port(ln), event.TCP)(c) && c.BytesSent == 57 && c.Existing && c.Server
		})) > 0
	})

	// What they do from now on is known to be theirs.
	h.finish()
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	e, c = r.wait1("close of the client", in(netns, "close", clientPort))
	r.owner(e, client, "close of the client")
	if !c.Existing || c.Server || c.BytesSent != 100 {
		t.Errorf("close of the client: %s", show(c))
	}
	e, c = r.wait1("close of the server", in(netns, "close", port(ln)))
	r.owner(e, self(t), "close of the server")
	if !c.Existing || !c.Server || c.BytesSent != 57 {
		t.Errorf("close of the server: %s", show(c))
	}
	sendTo(t, udp, netip.MustParseAddrPort(connected.LocalAddr().String()), 1)
	e, _ = r.wait1("sendto", in(netns, "sendto", localPort(udp)))
	r.owner(e, self(t), "sendto")

	// A connection to a listener that is older than the sensor is not.
	c2 := dial(t, ns, network, ln.Addr().String())
	accepted := accept(t, ln)
	e, c = r.wait1("accept", in(netns, "accept4", port(ln)))
	r.owner(e, self(t), "accept")
	if c.Existing || c.Start.IsZero() {
		t.Errorf("accept: %s", show(c))
	}
	// Of one that lives longer, counters are reported as they change.
	if _, err := c2.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "an update of the young connection", func() bool {
		return len(r.conns(func(c *event.Connection) bool {
			return exists(port(ln), event.TCP)(c) && c.BytesReceived == 1000 && !c.Existing && c.Server && !c.Shared
		})) > 0
	})
	_ = accepted
}

// TestBPFListenUnbound has a socket that gets its port by listening.
func TestBPFListenUnbound(t *testing.T) {
	r := newRig(t, Config{Interval: 50 * time.Millisecond}, nil)
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	fd := tcpSocket(t, ns, 0)
	if err := unix.Listen(fd, 5); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	e, c := r.wait1("listen", in(netns, "listen", 0))
	r.owner(e, self(t), "listen")
	if int(c.LocalPort) != sa.(*unix.SockaddrInet4).Port || c.Existing || c.State != event.Listen || c.Start.IsZero() {
		t.Errorf("%s", show(c))
	}
	if err := unix.Connect(tcpSocket(t, ns, 0), sa); err != nil {
		t.Fatal(err)
	}
	r.wait("connect", 1, in(netns, "connect", 0))
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	r.wait("closes", 2, in(netns, "close", c.LocalPort)) // the listener's and the connection's
	r.wait("listen", 1, in(netns, "listen", 0))
}

// TestBPFAcceptOfOlder accepts a connection that was established before the
// sensor was there, by each rung: whatever is told of it names the same socket,
// and it ends.
func TestBPFAcceptOfOlder(t *testing.T) {
	for _, rung := range forced(t, "socket.accept") {
		t.Run(rung, func(t *testing.T) {
			ns := testkit.NewNetns(t)
			ln := listen(t, ns, "tcp4", "127.0.0.1:0", false)
			h := start(t, ns, nil, "dial", "tcp4", ln.Addr().String(), "100", "0")
			h.ready() // the connection waits to be accepted
			r := rigRung(t, Config{Interval: 50 * time.Millisecond}, "socket.accept", rung)
			if err := r.sensor.Snapshot(t.Context()); err != nil {
				t.Fatal(err)
			}
			server := accept(t, ln)
			ours := func(typ string) func(*event.Connection) bool { return in(ns.Inode(t), typ, port(ln)) }
			testkit.Wait(t, "the connection", func() bool { return len(r.conns(ours("update")))+len(r.conns(ours("accept4"))) > 0 })
			h.finish()
			_ = server.Close()
			e, c := r.wait1("close", ours("close"))
			r.owner(e, self(t), "close")
			for _, e := range r.conns(func(d *event.Connection) bool {
				return d.NetNS == c.NetNS && d.LocalPort == c.LocalPort && d.Remote.IsValid()
			}) {
				if d := e.Data.(*event.Connection); d.Cookie != c.Cookie || d.Cookie == 0 {
					t.Errorf("socket %d, closed as %d: %s", d.Cookie, c.Cookie, show(d))
				}
			}
		})
	}
}
