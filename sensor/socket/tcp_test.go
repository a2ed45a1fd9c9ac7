package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"warren/event"
	"warren/internal/testkit"
	"warren/test/roadtest"
)

// listen listens in a namespace; mptcp is Go's default for listeners.
func listen(t *testing.T, ns *testkit.Netns, network, addr string, mptcp bool) *net.TCPListener {
	t.Helper()
	var ln net.Listener
	err := ns.Do(func() (err error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(mptcp)
		ln, err = lc.Listen(context.Background(), network, addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln.(*net.TCPListener)
}

func port(ln net.Listener) uint16 { return ln.Addr().(*net.TCPAddr).AddrPort().Port() }

// dial connects from the test's own process.
func dial(t *testing.T, ns *testkit.Netns, network, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	if err := ns.Do(func() (err error) {
		c, err = net.Dial(network, addr)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func accept(t *testing.T, ln *net.TCPListener) *net.TCPConn {
	t.Helper()
	c, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// forced lists, for a hook, the rungs that this kernel takes.
func forced(t *testing.T, hook string) []string {
	t.Helper()
	var out []string
	for _, h := range hooks() {
		if h.Name != hook {
			continue
		}
		for _, r := range h.Rungs {
			if len(out) == 0 || out[len(out)-1] != r.Kind {
				out = append(out, r.Kind)
			}
		}
	}
	return out
}

// rigRung is a rig with one hook forced, or skips where the kernel is locked
// down or was built without probes.
func rigRung(t *testing.T, cfg Config, hook, kind string) *rig {
	t.Helper()
	r := newRig(t, cfg, map[string]string{hook: kind})
	for _, st := range r.sensor.Hooks() {
		if st.Hook != hook {
			continue
		}
		switch {
		case st.Rung == kind:
		case strings.Contains(st.Err, "lockdown") || strings.Contains(st.Err, "without kprobes"):
			t.Skipf("%s by %s: %s", hook, kind, st.Err)
		default:
			t.Fatalf("%s by %s: used %q, %s", hook, kind, st.Rung, st.Err)
		}
	}
	return r
}

func TestBPFRungs(t *testing.T) {
	r := newRig(t, Config{}, nil)
	if len(r.sensor.Hooks()) != len(hooks()) {
		t.Errorf("%d hooks, want %d", len(r.sensor.Hooks()), len(hooks()))
	}
	for _, st := range r.sensor.Hooks() {
		if st.Rung == "" {
			t.Errorf("%s is not attached: %s", st.Hook, st.Err)
		}
	}
	roadtest.LogRungs(t, Hooks(), r.sensor.Hooks())
}

// TestBPFTCP follows one connection from another process to this one, by every
// way to see who accepts.
func TestBPFTCP(t *testing.T) {
	for _, kind := range forced(t, "socket.accept") {
		t.Run(kind, func(t *testing.T) {
			r := rigRung(t, Config{}, "socket.accept", kind)
			for _, tt := range []struct {
				network, addr string
				mptcp         bool
			}{
				{"tcp4", "127.0.0.1", false},
				{"tcp6", "::1", false},
				{"tcp", "127.0.0.1", true}, // an MPTCP listener on IPv6, a client of IPv4
			} {
				t.Run(fmt.Sprintf("%s mptcp=%v", tt.network, tt.mptcp), func(t *testing.T) {
					r := r.with(t)
					tcpConnection(r, kind, tt.network, tt.addr, tt.mptcp)
				})
			}
		})
	}
}

func tcpConnection(r *rig, kind, network, host string, mptcp bool) {
	const sent, received = 123457, 76543
	t := r.t
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	listenOn := net.JoinHostPort(host, "0")
	if mptcp {
		listenOn = ":0"
	}
	ln := listen(t, ns, network, listenOn, mptcp)
	addr := netip.AddrPortFrom(netip.MustParseAddr(host), port(ln))

	e, c := r.wait1("listen", in(netns, "listen", addr.Port()))
	r.owner(e, self(t), "listen")
	if c.State != event.Listen || c.Direction() != "listen" || c.Res != 0 || c.Existing || c.Remote.IsValid() {
		t.Errorf("listen: %s", show(c))
	}

	h := start(t, ns, nil, "dial", "tcp", addr.String(), fmt.Sprint(sent), fmt.Sprint(received))
	conn := accept(t, ln)
	if _, err := io.ReadFull(conn, make([]byte, sent)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(make([]byte, received)); err != nil {
		t.Fatal(err)
	}
	clientPort := uint16(atoi(h.ready()))
	client := h.key()

	e, c = r.wait1("connect", in(netns, "connect", clientPort))
	r.owner(e, client, "connect")
	if c.Local != addr.Addr() || c.Remote != addr.Addr() || c.RemotePort != addr.Port() || c.L4 != event.TCP ||
		c.State != event.Established || c.Res != 0 || c.Server || c.Latency <= 0 || c.Shared || c.Cookie == 0 {
		t.Errorf("connect: %s", show(c))
	}
	cookie := c.Cookie

	acceptType := "accept4" // what Go calls
	if kind == "tp_btf" {
		acceptType = "accept"
	}
	e, c = r.wait1("accept", func(c *event.Connection) bool {
		return c.NetNS == netns && (c.Type == "accept" || c.Type == "accept4")
	})
	r.owner(e, self(t), "accept")
	if c.Type != acceptType || c.Local != addr.Addr() || c.Remote != addr.Addr() || c.LocalPort != addr.Port() ||
		c.RemotePort != clientPort || !c.Server || c.State != event.Established || c.Shared != (kind == "tp_btf") || c.Existing {
		t.Errorf("accept: %s", show(c))
	}
	if want := descriptor(t, conn); c.Res != 0 || kind == "tracepoint" && c.RawRes != want || kind != "tracepoint" && c.RawRes != 0 {
		t.Errorf("accept: result %d, descriptor %d", c.RawRes, want)
	}
	began := c.Start

	h.finish()
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	e, c = r.wait1("close of the client", in(netns, "close", clientPort))
	r.owner(e, client, "close of the client")
	if c.BytesSent != sent || c.BytesReceived != received || c.Reset != 0 || c.Error != 0 || c.Cookie != cookie ||
		c.PacketsSent == 0 || c.PacketsRecv == 0 || c.RTT == 0 || c.Duration <= 0 || c.Server || c.State != event.Close {
		t.Errorf("close of the client: %s", show(c))
	}
	e, c = r.wait1("close of the server", in(netns, "close", addr.Port()))
	r.owner(e, self(t), "close of the server")
	if c.BytesSent != received || c.BytesReceived != sent || c.Reset != 0 || c.Error != 0 || !c.Server ||
		c.Shared != (kind == "tp_btf") || c.Existing || c.Duration <= 0 {
		t.Errorf("close of the server: %s", show(c))
	}
	if kind != "tp_btf" && !c.Start.Equal(began) {
		t.Errorf("the server's connection began at %v, at its close %v", began, c.Start)
	}

	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	got := r.wait("close of the listener too", 2, in(netns, "close", addr.Port()))
	r.owner(got[1], self(t), "close of the listener")
	left := 0
	var key uint64
	var st socketSockState
	for it := r.sensor.obj.Map("adopted").Iterate(); it.Next(&key, &st); {
		if st.Netns == netns {
			left++
		}
	}
	if left > 0 {
		t.Errorf("%d sockets are still remembered", left)
	}
}

// TestBPFConnectFails has one event for each connection that fails, whatever
// the way to see it.
func TestBPFConnectFails(t *testing.T) {
	for _, kind := range forced(t, "socket.connect") {
		t.Run(kind, func(t *testing.T) {
			r := rigRung(t, Config{}, "socket.connect", kind)
			connectFails(r)
		})
	}
}

func connectFails(r *rig) {
	t := r.t
	for _, tt := range []struct {
		name, network, addr string
		want                event.Errno
		l4                  event.Proto
		reset               event.ResetBy
	}{
		{"refused", "tcp4", "127.0.0.1:1", event.Errno(unix.ECONNREFUSED), event.TCP, event.ResetRemote},
		{"refused v6", "tcp6", "[::1]:1", event.Errno(unix.ECONNREFUSED), event.TCP, event.ResetRemote},
		{"unreachable", "tcp4", "192.0.2.1:80", event.Errno(unix.ENETUNREACH), event.TCP, 0},
		{"unreachable v6", "tcp6", "[2001:db8::1]:80", event.Errno(unix.ENETUNREACH), event.TCP, 0},
		{"unreachable udp", "udp4", "192.0.2.1:80", event.Errno(unix.ENETUNREACH), event.UDP, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := r.with(t)
			ns := testkit.NewNetns(t)
			h := start(t, ns, nil, "dial", tt.network, tt.addr, "0", "0")
			if got := h.ready(); got != tt.want.String() {
				t.Fatalf("the helper got %s", got)
			}
			key := h.key()
			h.finish()
			e, c := r.wait1("connect", in(ns.Inode(t), "connect", 0))
			r.owner(e, key, "connect")
			want := netip.MustParseAddrPort(tt.addr)
			if c.Res != tt.want || c.RawRes != -int64(tt.want) || c.Error != tt.want || c.Remote != want.Addr() ||
				c.RemotePort != want.Port() || c.L4 != tt.l4 || c.State != event.Close || c.Reset != tt.reset || c.Server {
				t.Errorf("%s", show(c))
			}
			if got := r.conns(in(ns.Inode(t), "close", 0)); len(got) > 0 {
				t.Errorf("closed what was never open:%s", list(got))
			}
		})
	}

	t.Run("no local port", func(t *testing.T) {
		// A second connection with the same four numbers: connect(2) fails after
		// the socket went to SYN_SENT.
		r := r.with(t)
		ns := testkit.NewNetns(t)
		ln := listen(t, ns, "tcp4", "127.0.0.1:0", false)
		var local unix.SockaddrInet4
		for i := range 2 {
			fd := tcpSocket(t, ns, 0)
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
				t.Fatal(err)
			}
			local.Addr = [4]byte{127, 0, 0, 1}
			if err := unix.Bind(fd, &local); err != nil {
				t.Fatal(err)
			}
			sa, err := unix.Getsockname(fd)
			if err != nil {
				t.Fatal(err)
			}
			local.Port = sa.(*unix.SockaddrInet4).Port
			err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(port(ln)), Addr: local.Addr})
			if i == 1 && err != unix.EADDRNOTAVAIL || i == 0 && err != nil {
				t.Fatalf("connect: %v", err)
			}
		}
		got := r.wait("connects", 2, in(ns.Inode(t), "connect", 0))
		e, c := got[1], got[1].Data.(*event.Connection)
		r.owner(e, self(t), "second connect")
		if c.Res != event.Errno(unix.EADDRNOTAVAIL) || c.RemotePort != port(ln) || c.LocalPort != uint16(local.Port) {
			t.Errorf("%s", show(c))
		}
	})

	t.Run("asked twice", func(t *testing.T) {
		// Not blocking: the outcome is fetched by a second connect(2).
		r := r.with(t)
		ns := testkit.NewNetns(t)
		fd := tcpSocket(t, ns, unix.SOCK_NONBLOCK)
		to := &unix.SockaddrInet4{Port: 1, Addr: [4]byte{127, 0, 0, 1}}
		if err := unix.Connect(fd, to); err != unix.EINPROGRESS {
			t.Fatalf("first connect: %v", err)
		}
		if err := unix.Connect(fd, to); err != unix.ECONNREFUSED {
			t.Fatalf("second connect: %v", err)
		}
		_, c := r.wait1("connect", in(ns.Inode(t), "connect", 0))
		if c.Res != event.Errno(unix.ECONNREFUSED) {
			t.Errorf("%s", show(c))
		}
	})

	t.Run("no answer", func(t *testing.T) {
		// Whoever listens and never accepts does not answer once its queue is full.
		r := r.with(t)
		ns := testkit.NewNetns(t)
		lfd := tcpSocket(t, ns, 0)
		if err := unix.Bind(lfd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Listen(lfd, 0); err != nil {
			t.Fatal(err)
		}
		sa, err := unix.Getsockname(lfd)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(tcpSocket(t, ns, 0), sa); err != nil {
			t.Fatal(err)
		}
		patient, hasty := tcpSocket(t, ns, 0), tcpSocket(t, ns, unix.SOCK_NONBLOCK)
		if err := unix.Connect(hasty, sa); err != unix.EINPROGRESS {
			t.Fatalf("hasty: %v", err)
		}
		if err := unix.Close(hasty); err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptInt(patient, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1); err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(patient, sa); err != unix.ETIMEDOUT {
			t.Fatalf("patient: %v", err)
		}
		got := r.wait("connects", 3, in(ns.Inode(t), "connect", 0))
		for i, want := range []unix.Errno{0, unix.ECANCELED, unix.ETIMEDOUT} {
			if c := got[i].Data.(*event.Connection); c.Res != event.Errno(want) {
				t.Errorf("connect %d: %v, want %v", i, c.Res, want)
			}
		}
	})
}

// tcpSocket is an IPv4 socket of a namespace. Closing it again does no harm.
func descriptor(t *testing.T, c net.Conn) (fd int64) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err == nil {
		err = raw.Control(func(n uintptr) { fd = int64(n) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func tcpSocket(t *testing.T, ns *testkit.Netns, flags int) int {
	t.Helper()
	return int(tcpFile(t, ns, flags).Fd())
}

// tcpFile is tcpSocket for those who close it themselves.
func tcpFile(t *testing.T, ns *testkit.Netns, flags int) *os.File {
	t.Helper()
	var fd int
	if err := ns.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestBPFReset(t *testing.T) {
	r := newRig(t, Config{}, nil)
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	ln := listen(t, ns, "tcp4", "127.0.0.1:0", false)
	client := dial(t, ns, "tcp4", ln.Addr().String()).(*net.TCPConn)
	server := accept(t, ln)
	if err := client.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	clientPort := localPort(client)
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("read: %v", err)
	}
	_, c := r.wait1("close of the client", in(netns, "close", clientPort))
	if c.Reset != event.ResetLocal || c.Error != 0 {
		t.Errorf("client: %s", show(c))
	}
	_, c = r.wait1("close of the server", in(netns, "close", port(ln)))
	if c.Reset != event.ResetRemote || c.Error != event.Errno(unix.ECONNRESET) {
		t.Errorf("server: %s", show(c))
	}

	// Closing with unread data resets too.
	client = dial(t, ns, "tcp4", ln.Addr().String()).(*net.TCPConn)
	server = accept(t, ln)
	if _, err := server.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	clientPort = localPort(client)
	raw, err := client.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the data", func() bool {
		n := 0
		if err := raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil {
			t.Fatal(err)
		}
		return n == len("unread")
	})
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	_, c = r.wait1("close of the client", in(netns, "close", clientPort))
	if c.Reset != event.ResetLocal {
		t.Errorf("client with unread data: %s", show(c))
	}
}

// TestBPFPrefork has a listener whose connections another process accepts.
func TestBPFPrefork(t *testing.T) {
	for _, kind := range forced(t, "socket.accept") {
		if kind == "tp_btf" {
			continue // it cannot know
		}
		for _, mptcp := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s mptcp=%v", kind, mptcp), func(t *testing.T) {
				r := rigRung(t, Config{}, "socket.accept", kind)
				ns := testkit.NewNetns(t)
				netns := ns.Inode(t)
				ln := listen(t, ns, "tcp4", "127.0.0.1:0", mptcp)
				file, err := ln.File()
				if err != nil {
					t.Fatal(err)
				}
				h := start(t, ns, []*os.File{file}, "accept", "3")
				worker := h.key()
				h.ready()
				for range 3 {
					c := dial(t, ns, "tcp4", ln.Addr().String())
					if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
						t.Fatal(err)
					}
					if err := c.Close(); err != nil {
						t.Fatal(err)
					}
				}
				h.ready()
				e, _ := r.wait1("listen", in(netns, "listen", port(ln)))
				r.owner(e, self(t), "listen")
				for _, typ := range []string{"accept4", "close"} {
					for _, e := range r.wait(typ, 3, in(netns, typ, port(ln))) {
						r.owner(e, worker, typ)
						if c := e.Data.(*event.Connection); c.Shared || !c.Server {
							t.Errorf("%s: %s", typ, show(c))
						}
					}
				}
				for _, e := range r.wait("connect", 3, in(netns, "connect", 0)) {
					r.owner(e, self(t), "connect")
				}
				h.finish()
			})
		}
	}
}

// TestBPFNotAccepted has a connection that stays in the queue.
func TestBPFNotAccepted(t *testing.T) {
	r := newRig(t, Config{}, nil)
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	ln := listen(t, ns, "tcp4", "127.0.0.1:0", false)
	h := start(t, ns, nil, "dial", "tcp4", ln.Addr().String(), "5", "0")
	h.ready()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	got := r.wait("closes", 2, in(netns, "close", port(ln)))
	shared := 0
	for _, e := range got {
		c := e.Data.(*event.Connection)
		r.owner(e, self(t), "close")
		if c.Remote.IsValid() {
			if shared++; !c.Shared || !c.Server || c.BytesReceived != 5 || c.Reset != event.ResetLocal {
				t.Errorf("%s", show(c))
			}
		}
	}
	if shared != 1 {
		t.Errorf("want one close of the connection:%s", list(got))
	}
	h.finish()
	r.wait("accepts", 0, func(c *event.Connection) bool { return c.NetNS == netns && strings.HasPrefix(c.Type, "accept") })
}

// TestBPFBurst has 1,000 connections of short-lived processes, none of which
// lives a millisecond.
func TestBPFBurst(t *testing.T) {
	const processes, each = 20, 50
	r := newRig(t, Config{}, nil)
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	ln := listen(t, ns, "tcp4", "127.0.0.1:0", false)
	served := make(chan error, 1)
	go func() {
		for range processes * each {
			c, err := ln.Accept()
			if err == nil {
				err = c.Close()
			}
			if err != nil {
				served <- err
				return
			}
		}
		served <- nil
	}()
	owners := map[event.Key]int{}
	for range processes {
		h := start(t, ns, nil, "burst", "tcp4", ln.Addr().String(), fmt.Sprint(each))
		pid := h.cmd.Process.Pid
		h.finish()
		owners[event.Key{PID: uint32(pid)}] = 0
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	for _, e := range r.wait("connects", processes*each, in(netns, "connect", 0)) {
		owners[event.Key{PID: e.Actor.PID}]++
		if e.Actor.Start == 0 {
			t.Errorf("owner %+v", e.Actor)
		}
	}
	if len(owners) != processes {
		t.Errorf("%d owners, want %d", len(owners), processes)
	}
	for k, n := range owners {
		if n != each {
			t.Errorf("process %d: %d connects, want %d", k.PID, n, each)
		}
	}
	for _, e := range r.wait("accepts", processes*each, in(netns, "accept4", port(ln))) {
		r.owner(e, self(t), "accept")
	}
	for _, e := range r.wait("closes", 2*processes*each, in(netns, "close", 0)) {
		c := e.Data.(*event.Connection)
		if c.Server {
			r.owner(e, self(t), "close")
		} else if _, ok := owners[event.Key{PID: e.Actor.PID}]; !ok {
			t.Errorf("close: owner %+v", e.Actor)
		}
	}
}

// TestBPFPassed has a connection that is closed by another process than the one
// that connected: it keeps its owner.
func TestBPFPassed(t *testing.T) {
	r := newRig(t, Config{}, nil)
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	ln := listen(t, ns, "tcp4", "127.0.0.1:0", false)
	c := dial(t, ns, "tcp4", ln.Addr().String()).(*net.TCPConn)
	server := accept(t, ln)
	p := localPort(c)
	file, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	h := start(t, ns, []*os.File{file}, "hold")
	h.ready()
	for _, f := range []io.Closer{file, c} {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	h.finish()
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	e, _ := r.wait1("close", in(netns, "close", p))
	r.owner(e, self(t), "close")
}
