package socket

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/internal/testkit"
)

// TestBPFSnapshotFullRing reads what exists while the ring has no room: it waits
// for the reader, and loses nothing.
func TestBPFSnapshotFullRing(t *testing.T) {
	const listeners = 100
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	bound := func() {
		fd := tcpSocket(t, ns, 0)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Listen(fd, 1); err != nil {
			t.Fatal(err)
		}
	}
	for range listeners {
		bound()
	}
	r := newRigOf(t, Config{Interval: time.Hour}, bpf.Config{BulkBytes: 4096}, kindConn)
	r.lossy = true
	lost := func(name string) uint64 {
		for _, c := range r.road.Counters() {
			if c.Name == name {
				return c.Lost
			}
		}
		t.Fatalf("no counter %s", name)
		return 0
	}
	existing := func(c *event.Connection) bool { return c.NetNS == netns && c.Type == "listen" && c.Existing }

	func() {
		r.mu.Lock() // the reader stands still from the next event on
		defer r.mu.Unlock()
		for lost("socket.tcp") == 0 {
			bound()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := r.sensor.Snapshot(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a snapshot with a reader that stands still: %v", err)
		}
	}()
	if n := lost("socket.existing"); n != 0 {
		t.Errorf("%d existing sockets lost", n)
	}
	r.sync()
	if got := r.conns(existing); len(got) != 0 {
		t.Errorf("%d existing listeners told to a full ring", len(got))
	}
	done := make(chan error)
	r.mu.Lock()
	go func() { done <- r.sensor.Snapshot(t.Context()) }()
	r.mu.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.wait("existing listeners", listeners, existing)
	if n := lost("socket.existing"); n != 0 {
		t.Errorf("%d existing sockets lost", n)
	}
}

// TestBPFAcceptUnseen has a connection accepted by a call that no program sees,
// as a 32-bit one is where tracepoints of system calls are all there is: the
// next sweep finds who has it.
func TestBPFAcceptUnseen(t *testing.T) {
	r := newRig(t, Config{Interval: 50 * time.Millisecond}, map[string]string{"socket.accept": "tracepoint"})
	if err := r.sensor.obj.Detach("socket.accept"); err != nil {
		t.Fatal(err)
	}
	ns := testkit.NewNetns(t)
	netns := ns.Inode(t)
	ln := listen(t, ns, "tcp4", "127.0.0.1:0", false)
	f, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := start(t, ns, []*os.File{f}, "take")
	c := dial(t, ns, "tcp4", ln.Addr().String())
	h.ready()
	taker := h.key()

	e, conn := r.wait1("update", func(c *event.Connection) bool {
		return in(netns, "update", port(ln))(c) && c.State == event.Established
	})
	r.owner(e, taker, "update")
	if conn.Shared || conn.Existing || !conn.Server {
		t.Errorf("update: %s", show(conn))
	}
	h.finish()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	e, conn = r.wait1("close", func(c *event.Connection) bool {
		return in(netns, "close", port(ln))(c) && c.RemotePort != 0
	})
	r.owner(e, taker, "close")
	if conn.Shared || conn.Existing || !conn.Server || conn.Duration <= 0 {
		t.Errorf("close: %s", show(conn))
	}
}

// TestBPFWithoutIPv6 loads the programs as on a kernel that was built without
// IPv6, and whose sockets have no place for its addresses.
func TestBPFWithoutIPv6(t *testing.T) {
	testkit.NeedRoot(t)
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	kernel = kernel.Copy() // what is changed here is ours
	var sock *btf.Struct
	if err := kernel.TypeByName("sock_common", &sock); err != nil {
		t.Fatal(err)
	}
	had := len(sock.Members)
	sock.Members = slices.DeleteFunc(sock.Members, func(m btf.Member) bool { return strings.HasPrefix(m.Name, "skc_v6_") })
	if len(sock.Members) != had-2 {
		t.Skip("this kernel has no IPv6")
	}
	spec, err := loadSocket()
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range spec.Programs {
		switch kind, _, _ := strings.Cut(p.SectionName, "/"); kind {
		case "fentry", "fexit", "kprobe", "kretprobe": // not every kernel loads them
			delete(spec.Programs, name)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: kernel}})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	coll.Close()
}
