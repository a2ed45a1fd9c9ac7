package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/cluster"
	"warren/internal/testkit"
)

// wantKind waits until programs are attached to a device of the node, or not (0).
func (n *rigNode) wantKind(t *testing.T, name string, want device) {
	t.Helper()
	var index uint32
	err := n.ns.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err == nil {
			index = uint32(link.Attrs().Index)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, fmt.Sprintf("%s is a device of kind %v", name, want), func() bool {
		have, ok := n.dp.attacher.there.Get(index)
		return have.Device == want && ok == (want != 0)
	})
}

// TestRootOtherDevices has a service's backend be behind devices of the node that are
// neither the uplink nor the tunnel, one of which has no Ethernet: what a pod may not
// send does not leave, and what comes from there has no pod's address.
func TestRootOtherDevices(t *testing.T) {
	for _, rung := range []string{"", rungClsact} {
		t.Run("rung "+rung, func(t *testing.T) { otherDevices(t, rung) })
	}
}

func otherDevices(t *testing.T, rung string) {
	cfg := smallConfig(newBPFFS(t))
	cfg.PodDevices, cfg.Rung = "veth", rung
	r := newRig(t, cfg, 1, 2)
	n, client, other := r.nodes[0], r.pods[0], r.pods[1]
	r.apply()
	run, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.dp.Run(run) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	dmz := testkit.NewNetns(t)
	var tun *os.File
	r.in(n.ns, func() error {
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "dmz"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(dmz.FD())})
		if err != nil {
			return err
		}
		tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "bare"}, Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_NO_PI, Queues: 1}
		if err := netlink.LinkAdd(tap); err != nil {
			return err
		}
		tun = tap.Fds[0]
		return errors.Join(linkUp("dmz", "172.31.8.1/24"), linkUp("bare", "172.31.9.1/24"),
			netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	})
	defer tun.Close()
	r.in(dmz, func() error {
		if err := linkUp("eth0", "172.31.8.9/24"); err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(172, 31, 8, 1)}); err != nil {
			return err
		}
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err := lc.Listen(t.Context(), "tcp", "172.31.8.9:8080")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go serveTCP(l, "dmz")
		return nil
	})
	n.dp.checkOthers(t.Context()) // what was there before Run listens is found by its check
	n.wantKind(t, "dmz", otherDevice)
	n.wantKind(t, "bare", otherDevice|bareDevice)
	n.wantKind(t, "br0", otherDevice)
	n.wantKind(t, "lo", 0)

	service := netip.MustParseAddrPort("10.96.0.9:443")
	put := func(policies ...*cluster.Policy) {
		t.Helper()
		r.policies = policies
		program, err := r.compiler.Compile(r.world(), nil)
		if err != nil {
			t.Fatal(err)
		}
		state := r.state(n, program)
		state.Places[service.Addr()] = Place{Kind: ServicePlace}
		if _, err := n.dp.Apply(t.Context(), state); err != nil {
			t.Fatal(err)
		}
	}
	nothing := &cluster.Policy{UID: "nothing", Namespace: client.Namespace, Name: "nothing", Tier: cluster.NetworkTier,
		Subject: cluster.PolicySubject{Pods: pods("app0")}, IsolatesEgress: true}
	// denied waits until the node has dropped what a pod sends to a backend.
	denied := func(backend netip.AddrPort) {
		t.Helper()
		testkit.Wait(t, "the node has denied it", func() (found bool) {
			err := n.dp.EachFlow(t.Context(), 0, func(f *Flow) bool {
				found = f.Server == backend.Addr() && f.Verdict[0] == Denied && f.Dropped > 0
				return !found
			})
			if err != nil {
				t.Fatal(err)
			}
			return found
		})
	}
	for _, backend := range []netip.AddrPort{netip.MustParseAddrPort("172.31.8.9:8080"), netip.MustParseAddrPort("172.31.9.9:8080")} {
		if err := translate(n, service, backend, false); err != nil {
			t.Fatal(err)
		}
		put()
		ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
		if backend.Addr() == netip.MustParseAddr("172.31.8.9") {
			if said, err := client.ask(ctx, service); said != "dmz" {
				t.Errorf("%v: answer %q, %v", backend, said, err)
			}
		} else {
			go func() { _, _ = client.dial(ctx, service) }() // nobody answers
			wantPacket(t, tun, backend.Addr())
		}
		cancel()
		put(nothing)
		ctx, cancel = context.WithCancel(t.Context())
		tried := make(chan error, 1)
		go func() {
			_, err := client.ask(ctx, service)
			tried <- err
		}()
		denied(backend)
		cancel()
		if err := <-tried; err == nil {
			t.Errorf("%v: answered though it is denied", backend)
		}
	}

	// Nobody out there has the address of a pod, with Ethernet or without.
	put()
	before := r.spoofed(n)
	r.in(dmz, func() error {
		own, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(own), netlink.AddrAdd(own, rigAddr(netip.PrefixFrom(client.Addrs[0], 32))))
	})
	r.in(dmz, func() error {
		u, err := net.DialUDP("udp", &net.UDPAddr{IP: client.Addrs[0].AsSlice()}, &net.UDPAddr{IP: other.Addrs[0].AsSlice(), Port: 80})
		if err != nil {
			return err
		}
		defer u.Close()
		_, err = u.Write([]byte("?"))
		return err
	})
	testkit.Wait(t, "the lie is dropped", func() bool { return r.spoofed(n) > before })
	before = r.spoofed(n)
	if _, err := tun.Write(ip(client.Addrs[0].String(), other.Addrs[0].String(), udp(1, 80))); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the lie without Ethernet is dropped", func() bool { return r.spoofed(n) > before })

	// A port of a bridge is the bridge's.
	r.in(n.ns, func() error {
		port, err := netlink.LinkByName("dmz")
		if err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(port, bridge)
	})
	n.wantKind(t, "dmz", 0)
}

func linkUp(name, addr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(link, rigAddr(netip.MustParsePrefix(addr))), netlink.LinkSetUp(link))
}

// spoofed are the packets that a node has dropped because their sources were not
// their senders'.
func (r *rig) spoofed(n *rigNode) (packets uint64) {
	c, err := n.dp.Counters()
	if err != nil {
		r.t.Fatal(err)
	}
	for kind, count := range c.Packets {
		if kind.Reason == uint8(stateReasonREASON_SPOOFED) {
			packets += count.Packets
		}
	}
	return packets
}

// wantPacket reads IPv4 packets until there is one to an address.
func wantPacket(t *testing.T, tun *os.File, to netip.Addr) {
	t.Helper()
	buf := make([]byte, 2048)
	deadline := time.Now().Add(testkit.Patience)
	for time.Now().Before(deadline) {
		ready := []unix.PollFd{{Fd: int32(tun.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, 100); err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		if ready[0].Revents&unix.POLLIN == 0 {
			continue
		}
		size, err := tun.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if dst, _ := netip.AddrFromSlice(buf[16:20]); size >= 20 && buf[0]>>4 == 4 && dst == to {
			return
		}
	}
	t.Errorf("no packet to %v has left", to)
}
