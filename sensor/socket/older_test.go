package socket

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/event"
	"warren/internal/testkit"
)

// TestBPFOlderConnect has connects that are older than the sensor, and end before
// a snapshot has decided whose they are: they are the client's.
func TestBPFOlderConnect(t *testing.T) {
	for _, test := range []struct {
		name  string
		sweep bool // the sockets that listen have been listed, and no more
	}{{"unswept", false}, {"half swept", true}} {
		t.Run(test.name, func(t *testing.T) {
			// A queue of one, which is full: the second one's SYN is dropped, and
			// sent again a second later.
			waiting := func() (ns *testkit.Netns, listener, client *os.File, to uint16) {
				ns = testkit.NewNetns(t)
				listener = tcpFile(t, ns, 0)
				if err := unix.Listen(int(listener.Fd()), 0); err != nil {
					t.Fatal(err)
				}
				sa, err := unix.Getsockname(int(listener.Fd()))
				if err != nil {
					t.Fatal(err)
				}
				if err := unix.Connect(tcpSocket(t, ns, 0), sa); err != nil {
					t.Fatal(err)
				}
				client = tcpFile(t, ns, unix.SOCK_NONBLOCK)
				if err := unix.Connect(int(client.Fd()), sa); !errors.Is(err, unix.EINPROGRESS) {
					t.Fatalf("connect: %v, want that it is in progress", err)
				}
				return ns, listener, client, uint16(sa.(*unix.SockaddrInet4).Port)
			}
			refusing, first, _, refused := waiting()
			meeting, second, _, met := waiting()
			leaving, _, third, left := waiting()

			r := newRig(t, Config{Interval: time.Hour}, nil)
			if test.sweep {
				r.sensor.sweeping.Lock()
				err := r.sensor.sweepFiles(t.Context(), r.sensor.obj, socketSweepModeSWEEP_LISTENERS)
				r.sensor.sweeping.Unlock()
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := third.Close(); err != nil {
				t.Fatal(err)
			}
			accepted, _, err := unix.Accept(int(second.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Close(accepted) })
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			for _, want := range []struct {
				name string
				ns   *testkit.Netns
				port uint16
				err  unix.Errno
			}{{"refused", refusing, refused, unix.ECONNREFUSED}, {"given up", leaving, left, unix.ECANCELED}, {"established", meeting, met, 0}} {
				_, c := r.wait1(want.name, func(c *event.Connection) bool {
					return c.NetNS == want.ns.Inode(t) && c.Type == "connect" && c.RemotePort == want.port
				})
				if c.Server || c.Shared || !c.Existing || !c.Start.IsZero() || unix.Errno(c.Res) != want.err {
					t.Errorf("%s: %s", want.name, show(c))
				}
			}
		})
	}
}

// TestBPFOlderClose has connections that are older than the sensor, and are
// closed before a snapshot has told of them.
func TestBPFOlderClose(t *testing.T) {
	ns := testkit.NewNetns(t)
	ln := listen(t, ns, "tcp4", "127.0.0.1:0", false)
	client := dial(t, ns, "tcp4", ln.Addr().String())
	server := accept(t, ln)
	r := newRig(t, Config{Interval: time.Hour}, nil)
	r.sensor.sweeping.Lock()
	err := r.sensor.sweepFiles(t.Context(), r.sensor.obj, socketSweepModeSWEEP_LISTENERS)
	r.sensor.sweeping.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	for port, served := range map[uint16]bool{localPort(client): false, port(ln): true} {
		e, c := r.wait1("close", in(ns.Inode(t), "close", port))
		r.owner(e, self(t), "close")
		if c.Server != served || c.Shared || !c.Existing || !c.Start.IsZero() {
			t.Errorf("close at the server %t: %s", served, show(c))
		}
	}
}
