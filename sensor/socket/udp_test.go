package socket

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/internal/testkit"
)

// packetConn is a UDP socket of the test's own process in a namespace.
func packetConn(t *testing.T, ns *testkit.Netns, network, addr string) *net.UDPConn {
	t.Helper()
	var c net.PacketConn
	if err := ns.Do(func() (err error) {
		c, err = net.ListenPacket(network, addr)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.UDPConn)
}

func sendTo(t *testing.T, c *net.UDPConn, to netip.AddrPort, size int) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort(make([]byte, size), to); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c *net.UDPConn) netip.AddrPort {
	t.Helper()
	_, from, err := c.ReadFromUDPAddrPort(make([]byte, 65536))
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

func TestBPFUDP(t *testing.T) {
	r := newRig(t, Config{Interval: time.Hour}, nil)
	for _, tt := range []struct{ network, listen, addr string }{
		{"udp4", "127.0.0.1:0", "127.0.0.1"},
		{"udp6", "[::1]:0", "::1"},
		{"udp", ":0", "127.0.0.1"}, // IPv4 on a socket of IPv6
	} {
		t.Run(tt.network, func(t *testing.T) { udpFlows(r.with(t), tt.network, tt.listen, tt.addr) })
	}
}

// udpFlows has two clients of one server: one connected, in another process,
// and one that is not, in this.
func udpFlows(r *rig, network, listenOn, host string) {
	t := r.t
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	server := packetConn(t, ns, network, listenOn)
	addr := netip.AddrPortFrom(netip.MustParseAddr(host), localPort(server))

	h := start(t, ns, nil, "dial", "udp", addr.String(), "700", "300")
	from := receive(t, server)
	sendTo(t, server, from, 300)
	clientPort := uint16(atoi(h.ready()))
	client := h.key()
	e, c := r.wait1("sendto of the client", in(netns, "sendto", clientPort))
	r.owner(e, client, "sendto of the client")
	if c.Local != addr.Addr() || c.Remote != addr.Addr() || c.RemotePort != addr.Port() || c.L4 != event.UDP || c.Server ||
		c.BytesSent != 700 || c.PacketsSent != 1 || c.BytesReceived != 0 || c.State != event.Established || c.Existing {
		t.Errorf("sendto of the client: %s", show(c))
	}
	e, c = r.wait1("recvfrom of the server", in(netns, "recvfrom", addr.Port()))
	r.owner(e, self(t), "recvfrom of the server")
	if c.Remote != addr.Addr() || c.RemotePort != clientPort || !c.Server || c.BytesReceived != 700 || c.PacketsRecv != 1 {
		t.Errorf("recvfrom of the server: %s", show(c))
	}

	h.finish() // closes the socket: its only flow ends at once
	e, c = r.wait1("close of the client", in(netns, "close", clientPort))
	r.owner(e, client, "close of the client")
	if c.BytesSent != 700 || c.BytesReceived != 300 || c.PacketsSent != 1 || c.PacketsRecv != 1 || c.State != event.Close || c.Duration <= 0 {
		t.Errorf("close of the client: %s", show(c))
	}

	other := packetConn(t, ns, network, listenOn)
	for range 3 {
		sendTo(t, other, addr, 1)
		receive(t, server)
	}
	sendTo(t, other, addr, 0) // of no bytes, and yet a datagram
	receive(t, server)
	e, c = r.wait1("sendto of the other", in(netns, "sendto", localPort(other)))
	r.owner(e, self(t), "sendto of the other")
	if c.BytesSent != 1 || c.PacketsSent != 1 {
		t.Errorf("sendto of the other: %s", show(c))
	}

	// The server's socket has two flows: a sweep ends them, asked for by its end.
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	for _, e := range r.wait("closes of the server", 2, in(netns, "close", addr.Port())) {
		c := e.Data.(*event.Connection)
		r.owner(e, self(t), "close of the server")
		want := [4]uint64{300, 700, 1, 1}
		if c.RemotePort == localPort(other) {
			want = [4]uint64{0, 3, 0, 4}
		}
		if got := [4]uint64{c.BytesSent, c.BytesReceived, c.PacketsSent, c.PacketsRecv}; got != want || !c.Server {
			t.Errorf("close of the server: %v, want %v: %s", got, want, show(c))
		}
	}
	if got := r.conns(in(netns, "connect", 0)); len(got) > 0 {
		t.Errorf("connect of UDP:%s", list(got))
	}
}

// TestBPFUDPUpdates sees counters that grow, and the end of what is idle.
func TestBPFUDPUpdates(t *testing.T) {
	r := newRig(t, Config{Interval: 50 * time.Millisecond, FlowIdle: 400 * time.Millisecond}, nil)
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	server := packetConn(t, ns, "udp4", "127.0.0.1:0")
	client := packetConn(t, ns, "udp4", "127.0.0.1:0")
	to := netip.MustParseAddrPort(server.LocalAddr().String())
	sendTo(t, client, to, 10)
	r.wait("sendto", 1, in(netns, "sendto", localPort(client)))
	sendTo(t, client, to, 10)
	testkit.Wait(t, "an update", func() bool { return len(r.conns(in(netns, "update", localPort(client)))) > 0 })
	for _, e := range r.conns(in(netns, "update", localPort(client))) {
		if c := e.Data.(*event.Connection); c.BytesSent != 20 || c.PacketsSent != 2 || c.L4 != event.UDP || c.Existing {
			t.Errorf("update: %s", show(c))
		}
	}
	e, c := r.wait1("close", in(netns, "close", localPort(client)))
	r.owner(e, self(t), "close")
	if c.BytesSent != 20 || c.State != event.Close || c.Duration >= int64(400*time.Millisecond) {
		t.Errorf("close: %s", show(c))
	}
}

// TestBPFUDPTable fills the table of flows: each datagram that has no place in
// it is counted.
func TestBPFUDPTable(t *testing.T) {
	const places = 64
	r := newRig(t, Config{Interval: 50 * time.Millisecond, Flows: places}, nil)
	ns := testkit.NewNetns(t)
	client := packetConn(t, ns, "udp4", "127.0.0.1:0")
	server := packetConn(t, ns, "udp4", "127.0.0.1:0")
	to := netip.MustParseAddrPort(server.LocalAddr().String())
	sent := 0
	for range 2 * places { // each from a port of its own: a flow at either end
		c := packetConn(t, ns, "udp4", "127.0.0.1:0")
		sendTo(t, c, to, 1)
		sent += 2
	}
	_ = client
	counted := func() (flows, lost int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, e := range r.events {
			switch d := e.Data.(type) {
			case *event.Connection: // other sockets of the machine take places too
				if d.NetNS == ns.Inode(t) && (d.Type == "sendto" || d.Type == "recvfrom") {
					flows++
				}
			case *event.Lost:
				if d.What != "socket.udp" || d.Lane != "table" {
					t.Errorf("%+v", d)
				}
				lost += int(d.Count)
			}
		}
		return flows, lost
	}
	testkit.Wait(t, "the losses", func() bool {
		flows, lost := counted()
		return flows+lost >= sent
	})
	if flows, lost := counted(); flows > places || lost < sent-places {
		t.Errorf("%d flows and %d lost of %d in %d places", flows, lost, sent, places)
	}
}

// TestBPFUDPPassed has a socket that another process sends from: then it is the
// owner.
func TestBPFUDPPassed(t *testing.T) {
	r := newRig(t, Config{Interval: time.Hour}, nil)
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	server := packetConn(t, ns, "udp4", "127.0.0.1:0")
	second := packetConn(t, ns, "udp4", "127.0.0.1:0")
	to := netip.MustParseAddrPort(server.LocalAddr().String())
	c := packetConn(t, ns, "udp4", "127.0.0.1:0")
	file, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	sendTo(t, c, to, 10)
	e, _ := r.wait1("sendto", in(netns, "sendto", localPort(c)))
	r.owner(e, self(t), "first datagram")
	h := start(t, ns, []*os.File{file}, "send", second.LocalAddr().String())
	h.ready()
	other := h.key()
	got := r.wait("sendto", 2, in(netns, "sendto", localPort(c)))
	r.owner(got[1], other, "datagram of the other process")
	h.finish()
}

// TestBPFFlowOnly has only connections wanted, then DNS too, then DNS alone.
func TestBPFWanted(t *testing.T) {
	r := newRigOf(t, Config{Interval: time.Hour}, bpf.Config{}, kindDNS)
	names := func() (s []string) {
		for _, st := range r.sensor.Hooks() {
			s = append(s, st.Hook)
		}
		return s
	}
	if got, want := fmt.Sprint(names()), "[socket.create socket.packet socket.existing]"; got != want {
		t.Errorf("for DNS: %v, want %v", got, want)
	}
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	ln := listen(t, ns, "tcp4", "127.0.0.1:0", false)
	r.sync()
	r.wait("events of connections", 0, in(netns, "listen", 0))

	// What was there is listed when it is wanted.
	if err := r.sensor.Start(interest.All(kindConn|kindDNS), r.collect); err != nil {
		t.Fatal(err)
	}
	e, c := r.wait1("listen", in(netns, "listen", port(ln)))
	r.owner(e, self(t), "listen")
	if !c.Existing {
		t.Errorf("%s", show(c))
	}
	dial(t, ns, "tcp4", ln.Addr().String())
	r.wait("connect", 1, in(netns, "connect", 0))

	if err := r.sensor.Start(interest.All(kindDNS), r.collect); err != nil {
		t.Fatal(err)
	}
	dial(t, ns, "tcp4", ln.Addr().String())
	r.sync()
	r.wait("connect", 1, in(netns, "connect", 0))
	if got, want := fmt.Sprint(names()), "[socket.create socket.packet socket.existing]"; got != want {
		t.Errorf("for DNS again: %v, want %v", got, want)
	}
	if err := r.sensor.Stop(); err != nil {
		t.Fatal(err)
	}
	if len(names()) > 0 {
		t.Errorf("stopped, and attached: %v", names())
	}
	if err := r.sensor.Start(interest.All(kindConn), r.collect); err != nil {
		t.Fatal(err)
	}
	dial(t, ns, "tcp4", ln.Addr().String())
	r.wait("connect", 2, in(netns, "connect", 0))
}

// TestBPFUDPShapes sends datagrams whose packets are unlike others: many in
// one packet of the kernel's, one in many fragments, with options before UDP.
func TestBPFUDPShapes(t *testing.T) {
	r := newRig(t, Config{Interval: time.Hour}, nil)
	control := func(t *testing.T, c *net.UDPConn, f func(fd int) error) {
		t.Helper()
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var inner error
		if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil || inner != nil {
			t.Fatal(err, inner)
		}
	}
	tests := []struct {
		name, host string
		prepare    func(t *testing.T, ns *testkit.Netns, c *net.UDPConn)
		size       int
		datagrams  int // that arrive of one write
	}{
		{"segmentation offload", "127.0.0.1", func(t *testing.T, _ *testkit.Netns, c *net.UDPConn) {
			control(t, c, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000) })
		}, 9500, 10},
		{"fragments", "127.0.0.1", func(t *testing.T, ns *testkit.Netns, _ *net.UDPConn) { setMTU(t, ns, 1500) }, 9500, 1},
		{"fragments of IPv6", "::1", func(t *testing.T, ns *testkit.Netns, _ *net.UDPConn) { setMTU(t, ns, 1500) }, 9500, 1},
		{"options of IPv6", "::1", func(t *testing.T, _ *testkit.Netns, c *net.UDPConn) {
			padding := string([]byte{0, 0, 1, 4, 0, 0, 0, 0}) // eight bytes that mean nothing
			control(t, c, func(fd int) error { return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, padding) })
			control(t, c, func(fd int) error { return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, padding) })
		}, 100, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := r.with(t)
			ns := testkit.NewNetns(t)
			netns := ns.Inode(t)
			any := net.JoinHostPort(tt.host, "0")
			server, client := packetConn(t, ns, "udp", any), packetConn(t, ns, "udp", any)
			serverPort, clientPort := localPort(server), localPort(client)
			tt.prepare(t, ns, client)
			sendTo(t, client, netip.MustParseAddrPort(server.LocalAddr().String()), tt.size)
			for range tt.datagrams {
				receive(t, server)
			}
			if err := client.Close(); err != nil {
				t.Fatal(err)
			}
			if err := server.Close(); err != nil {
				t.Fatal(err)
			}
			_, c := r.wait1("close of the client", in(netns, "close", clientPort))
			if c.BytesSent != uint64(tt.size) || c.PacketsSent != uint64(tt.datagrams) || c.RemotePort != serverPort {
				t.Errorf("close of the client: %s", show(c))
			}
			_, c = r.wait1("close of the server", in(netns, "close", serverPort))
			if c.BytesReceived != uint64(tt.size) || c.PacketsRecv != uint64(tt.datagrams) || c.RemotePort != clientPort {
				t.Errorf("close of the server: %s", show(c))
			}
		})
	}
}

// setMTU makes the loopback of a namespace like a network.
func setMTU(t *testing.T, ns *testkit.Netns, mtu uint32) {
	t.Helper()
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		request, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		request.SetUint32(mtu)
		return unix.IoctlIfreq(fd, unix.SIOCSIFMTU, request)
	})
	if err != nil {
		t.Fatal(err)
	}
}
