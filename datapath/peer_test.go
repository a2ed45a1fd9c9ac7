package datapath

import (
	"context"
	"net/netip"
	"os/exec"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/testkit"
)

// TestRootHostEnds finds the devices of pods that were made in each way in which
// plugins make them.
func TestRootHostEnds(t *testing.T) {
	l := &hostLab{t: t}
	node := testkit.NewNetns(t)
	bridged, routed, quiet, far := testkit.NewNetns(t), testkit.NewNetns(t), testkit.NewNetns(t), testkit.NewNetns(t)
	l.ip(node,
		"link add cni0 type bridge", "addr add 10.1.0.1/24 dev cni0", "link set cni0 up",
		"link add br1 type veth peer name eth0 netns "+l.fd(bridged), "link set br1 master cni0 up",
		"link add br2 type veth peer name eth0 netns "+l.fd(quiet), "link set br2 master cni0 up",
		"link add cali1 type veth peer name eth0 netns "+l.fd(routed), "link set cali1 up", "route add 10.2.0.5/32 dev cali1",
		"link add eth0 type veth peer name eth0 netns "+l.fd(far), "addr add 172.30.0.1/24 dev eth0", "link set eth0 up", "route add default via 172.30.0.2 onlink dev eth0")
	l.ip(routed, "addr add 10.2.0.5/32 dev eth0", "addr add 10.2.0.6/32 dev eth0", "addr add fd00:2::5/128 dev eth0 nodad")
	pid := func(ns *testkit.Netns) int {
		t.Helper()
		cmd := exec.Command("sleep", "60")
		if err := ns.Do(cmd.Start); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return cmd.Process.Pid
	}
	sightings := map[string]Sighting{
		"bridged, by a process":  {PIDs: []int{1 << 22, pid(bridged)}, Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.5")}},
		"bridged, quiet":         {Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.6")}},
		"routed, by its address": {Addrs: []netip.Addr{netip.MustParseAddr("fd00::5"), netip.MustParseAddr("10.2.0.5")}},
		"routed, by a process":   {PIDs: []int{pid(routed)}},
		"of another network":     {PIDs: []int{pid(testkit.NewNetns(t))}, Addrs: []netip.Addr{netip.MustParseAddr("10.3.0.5")}},
	}
	var got map[string]HostEnd
	err := node.Do(func() (err error) {
		got, err = HostEnds(sightings)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]string)
	for key, end := range got {
		names[key] = end.Name
	}
	addrs := []netip.Addr{netip.MustParseAddr("10.2.0.5"), netip.MustParseAddr("fd00:2::5")}
	if end := got["routed, by a process"]; !slices.Equal(end.Addrs, addrs) {
		t.Errorf("addresses of a pod that nobody has told: %v", end.Addrs)
	}
	if end := got["bridged, by a process"]; end.Addrs != nil {
		t.Errorf("addresses of a pod whose address was told: %v", end.Addrs)
	}
	want := map[string]string{"bridged, by a process": "br1", "routed, by its address": "cali1", "routed, by a process": "cali1"}
	if d := cmp.Diff(want, names); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// TestRootWatchDevices hears of devices that are added.
func TestRootWatchDevices(t *testing.T) {
	l := &hostLab{t: t}
	node := testkit.NewNetns(t)
	ctx, cancel := context.WithCancel(t.Context())
	var added <-chan struct{}
	err := node.Do(func() (err error) {
		added, err = WatchDevices(ctx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l.ip(node, "link add br0 type bridge")
	if _, ok := <-added; !ok {
		t.Error("nobody tells")
	}
	cancel()
	for range added { // it is closed
	}
}
