package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/api"
	"warren/bpf"
	"warren/cluster"
	"warren/datapath"
	"warren/internal/testkit"
	"warren/netpol"
)

// A wire is a node with its pods in network namespaces, and a real kernel.
type wire struct {
	t     *testing.T
	node  *testkit.Netns
	cfg   Config
	state *cluster.State
	net   *network
	pods  map[string]*wirePod
	find  finder // of pods that another plugin connects
}

type wirePod struct {
	ns       *testkit.Netns
	endpoint api.Endpoint
}

func newWire(t *testing.T) *wire {
	t.Helper()
	testkit.NeedRoot(t)
	testkit.NeedKernel(t, "ring", "5.8", bpf.Probe(bpf.FeatureRing))
	w := &wire{t: t, node: testkit.NewNetns(t), pods: make(map[string]*wirePod)}
	dir := t.TempDir()
	bpffs := filepath.Join(dir, "bpf")
	if err := os.Mkdir(bpffs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", bpffs, "bpf", 0, "mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(bpffs, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	w.cfg = Config{Instance: "test", Node: "n1", State: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "sock"), Network: NetworkConfig{
		Mode: datapath.Routed, BPFFS: bpffs, CNIState: filepath.Join(dir, "cni"), CNIConf: filepath.Join(dir, "conf"), CNIBin: filepath.Join(dir, "bin"),
	}}
	for _, d := range []string{w.cfg.State, w.cfg.Network.CNIConf, w.cfg.Network.CNIBin} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	outside := testkit.NewNetns(t)
	w.do(w.node, func() error {
		return w.pair("eth0", outside, "eth0", func(host netlink.Link) error {
			return addAddr(host, "172.30.0.1/24")
		})
	})
	return w
}

func (w *wire) do(ns *testkit.Netns, f func() error) {
	w.t.Helper()
	if err := ns.Do(f); err != nil {
		w.t.Fatal(err)
	}
}

// pair makes a pair of devices, from here to another namespace, and sets both up.
func (w *wire) pair(name string, to *testkit.Netns, peer string, prepare func(netlink.Link) error) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(to.FD())}); err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := prepare(link); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func addAddr(link netlink.Link, text string) error {
	addr, err := netlink.ParseAddr(text)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(link, addr)
}

// begin begins a network, with what the last one has left; it runs until stop is
// called.
func (w *wire) begin() (stop func()) {
	w.t.Helper()
	w.state = cluster.NewState(cluster.Config{})
	w.state.Expect("pods")
	log := slog.New(slog.NewTextHandler(w.t.Output(), nil))
	ctx, cancel := context.WithCancel(w.t.Context())
	opened, ended := make(chan error, 1), make(chan error, 2)
	go func() {
		ended <- w.node.Do(func() (err error) {
			if err := onlyNeeds(); err != nil {
				return err
			}
			w.net, err = openNetwork(w.cfg, &membership{node: "n1", state: w.state}, "", log)
			if err == nil && w.find != nil {
				w.net.find, w.net.links = w.find, datapath.WatchDevices
			}
			opened <- err
			if err != nil {
				return err
			}
			return w.net.run(ctx)
		})
	}()
	if err := <-opened; err != nil {
		w.t.Fatal(err)
	}
	go func() { ended <- w.net.kernel.Run(ctx) }()
	return func() {
		w.t.Helper()
		cancel()
		for range 2 {
			if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
				w.t.Error(err)
			}
		}
		if err := w.net.close(); err != nil {
			w.t.Error(err)
		}
	}
}

// onlyNeeds leaves the calling thread the capabilities that an agent has when it
// has started, and no others.
func onlyNeeds() error {
	var data [2]unix.CapUserData
	for _, n := range needs {
		if !n.startOnly {
			data[n.cap/32].Effective |= 1 << (n.cap % 32)
			data[n.cap/32].Permitted |= 1 << (n.cap % 32)
		}
	}
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0])
}

// tell tells the cluster, all of it.
func (w *wire) tell(pods ...string) {
	w.state.SetNode(&cluster.Node{UID: "uid-n1", Name: "n1", Addrs: []netip.Addr{netip.MustParseAddr("172.30.0.1")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}, time.Now())
	w.state.SetNamespace("shop", map[string]string{"kubernetes.io/metadata.name": "shop"}, time.Now())
	for _, name := range pods {
		w.state.SetPod(&cluster.Pod{UID: "uid-" + name, Name: name, Namespace: "shop", Node: "n1", Labels: map[string]string{"app": name}, Phase: "Running", Created: time.Now(), Started: time.Now()}, time.Now())
	}
	w.state.SetSynced("pods")
}

// plug makes a pod's pair, as the CNI plugin does.
func (w *wire) plug(name, addr string, number byte) {
	w.t.Helper()
	p := &wirePod{ns: testkit.NewNetns(w.t)}
	mac, hostMAC := api.MAC{2, 0, 0, 0, 0, number}, api.MAC{2, 0, 0, 0, 1, number}
	p.endpoint = api.Endpoint{
		Attachment: api.Attachment{ContainerID: "box-" + name, Interface: "eth0"}, PodUID: "uid-" + name, PodNamespace: "shop", PodName: name,
		HostInterface: "wrn" + name, Addrs: []netip.Addr{netip.MustParseAddr(addr)}, MAC: mac, HostMAC: hostMAC,
	}
	w.do(w.node, func() error {
		return w.pair(p.endpoint.HostInterface, p.ns, "eth0", func(host netlink.Link) error {
			p.endpoint.HostIndex = host.Attrs().Index
			return netlink.LinkSetHardwareAddr(host, hostMAC[:])
		})
	})
	gateway := net.IPv4(169, 254, 1, 1)
	w.do(p.ns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		index := link.Attrs().Index
		return errors.Join(
			netlink.LinkSetHardwareAddr(link, mac[:]), addAddr(link, addr+"/32"), netlink.LinkSetUp(link),
			netlink.NeighSet(&netlink.Neigh{LinkIndex: index, IP: gateway, HardwareAddr: hostMAC[:], State: netlink.NUD_PERMANENT}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: gateway, Mask: net.CIDRMask(32, 32)}}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: index, Gw: gateway}))
	})
	w.do(w.node, func() error {
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{LinkIndex: p.endpoint.HostIndex, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: net.ParseIP(addr).To4(), Mask: net.CIDRMask(32, 32)}}),
			netlink.NeighSet(&netlink.Neigh{LinkIndex: p.endpoint.HostIndex, IP: net.ParseIP(addr), HardwareAddr: mac[:], State: netlink.NUD_PERMANENT}))
	})
	w.pods[name] = p
}

// serve answers on a port of a pod until the test ends.
func (w *wire) serve(name string, port int) {
	w.t.Helper()
	w.do(w.pods[name].ns, func() error {
		l, err := net.Listen("tcp4", fmt.Sprint(":", port))
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_, _ = io.Copy(c, c)
				}()
			}
		}()
		return nil
	})
}

// soon is how long is waited for what may not come: short, for it often does not,
// and long enough for machines that are emulated and busy.
const soon = time.Second

// dial connects from a pod; soon, or not at all.
func (w *wire) dial(from, to string) (c net.Conn, err error) {
	err = w.pods[from].ns.Do(func() error {
		c, err = net.DialTimeout("tcp4", to, soon)
		return err
	})
	return c, err
}

func (w *wire) reaches(from, to string) bool {
	c, err := w.dial(from, to)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// says reports whether a connection still goes.
func says(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(soon))
	b := []byte("hello")
	if _, err := c.Write(b); err != nil {
		return false
	}
	_, err := io.ReadFull(c, b)
	return err == nil
}

// TestBPFNetwork runs the whole loop on this kernel: pods are connected, policy
// is in force within a second of being told, an agent that ends and one that
// begins without the cluster change nothing, and one that is off leaves nothing.
func TestBPFNetwork(t *testing.T) {
	w := newWire(t)
	stop := w.begin()
	w.tell("web", "db")
	w.plug("web", "10.244.1.5", 5)
	w.plug("db", "10.244.1.6", 6)
	for _, name := range []string{"web", "db"} {
		began := time.Now()
		if err := w.net.AddEndpoint(t.Context(), w.pods[name].endpoint); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s is connected after %v", name, time.Since(began))
	}
	w.serve("db", 5432)
	w.serve("db", 80)
	if !w.reaches("web", "10.244.1.6:5432") || !w.reaches("web", "10.244.1.6:80") {
		t.Fatal("pods do not reach each other")
	}
	old, err := w.dial("web", "10.244.1.6:80")
	if err != nil || !says(old) {
		t.Fatal("no connection", err)
	}
	defer old.Close()

	told := time.Now()
	w.state.SetPolicy(&cluster.Policy{UID: "p1", Namespace: "shop", Name: "db", Tier: cluster.NetworkTier, IsolatesIngress: true, Generation: 1,
		Subject: cluster.PolicySubject{Pods: cluster.Selector{Equal: map[string]string{"app": "db"}}},
		Ingress: []cluster.PolicyRule{{Action: cluster.AllowAction, Ports: []cluster.PolicyPort{{Protocol: "tcp", First: 5432, Last: 5432}},
			Peers: []cluster.PolicyPeer{{SameNamespace: true, Pods: &cluster.Selector{Equal: map[string]string{"app": "web"}}}}}}}, told)
	testkit.Wait(t, "the policy to be in force", func() bool { return !w.reaches("web", "10.244.1.6:80") })
	w.net.mu.Lock()
	inForce := w.net.progress.report.InForce
	w.net.mu.Unlock()
	took := inForce.Sub(told)
	t.Logf("a policy is in force after %v", took)
	if took <= 0 || took > time.Second {
		t.Errorf("a policy was in force after %v", took)
	}
	if !w.reaches("web", "10.244.1.6:5432") {
		t.Error("what the policy allows does not pass")
	}
	if says(old) {
		t.Error("a connection that the policy denies goes on")
	}
	st := w.net.describe()
	if len(st.Policies) != 1 || st.Policies[0].Endpoints != 1 || len(st.Endpoints) != 2 || st.Error != "" || !st.InForce {
		t.Errorf("status %+v", st)
	}
	var denied *api.NetworkPackets
	for i, p := range st.Packets {
		if p.Verdict == "denied" && p.Direction == netpol.Ingress.String() && p.Packets > 0 {
			denied = &st.Packets[i]
		}
	}
	if denied == nil {
		t.Errorf("nothing was counted as denied: %+v", st.Packets)
	}

	// The agent ends, and another one begins that cannot ask the cluster.
	kept, err := w.dial("web", "10.244.1.6:5432")
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	stop()
	check := func(when string) {
		t.Helper()
		if !says(kept) || !w.reaches("web", "10.244.1.6:5432") || w.reaches("web", "10.244.1.6:80") {
			t.Errorf("%s: a connection goes on: %v, what is allowed passes: %v, what is denied: %v", when, says(kept), w.reaches("web", "10.244.1.6:5432"), w.reaches("web", "10.244.1.6:80"))
		}
	}
	check("without an agent")
	stop = w.begin()
	check("without a cluster")
	w.tell("web", "db")
	w.state.SetPolicy(&cluster.Policy{UID: "p2", Namespace: "shop", Name: "none", Tier: cluster.NetworkTier, IsolatesIngress: true, Generation: 1}, time.Now())
	testkit.Wait(t, "the next policy", func() bool { return !w.reaches("web", "10.244.1.6:5432") })
	w.state.DeletePolicy("p2", time.Now())
	testkit.Wait(t, "no policy", func() bool { return w.reaches("web", "10.244.1.6:80") })
	// A namespace in which what would be denied is told, and passes.
	w.state.SetNamespace("shop", map[string]string{auditLabel: auditValue}, time.Now())
	w.state.SetPolicy(&cluster.Policy{UID: "p3", Namespace: "shop", Name: "none", Tier: cluster.NetworkTier, IsolatesIngress: true, Generation: 1}, time.Now())
	testkit.Wait(t, "audited packets", func() bool {
		passes := w.reaches("web", "10.244.1.6:80")
		for _, p := range w.net.describe().Packets {
			if p.Verdict == "audited" && p.Packets > 0 {
				return passes
			}
		}
		return false
	})
	stop()

	w.cfg.Network.Mode = datapath.Off
	w.do(w.node, func() error {
		if err := onlyNeeds(); err != nil {
			return err
		}
		_, err := openNetwork(w.cfg, nil, "", slog.New(slog.NewTextHandler(t.Output(), nil)))
		return err
	})
	for _, dir := range []string{w.cfg.Network.CNIConf, w.cfg.Network.CNIBin, w.cfg.Network.BPFFS, w.cfg.State} {
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, f := range left {
			if !strings.HasSuffix(f.Name(), ".debug") { // the file system's own
				t.Errorf("left in %s: %s", filepath.Base(dir), f.Name())
			}
		}
	}
}

// TestRootAddresses holds which addresses are the node's: not those of services,
// that kube-proxy keeps on a device of its own in its mode IPVS, and none that
// others cannot send to.
func TestRootAddresses(t *testing.T) {
	testkit.NeedRoot(t)
	err := testkit.NewNetns(t).Do(func() error {
		for name, addrs := range map[string][]string{
			"eth0":       {"172.30.0.1/24", "fd00:30::1/64", "169.254.7.7/16"},
			"kube-ipvs0": {"10.96.0.1/32", "172.30.0.77/32", "fd00:96::1/128"},
		} {
			dev := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "peer-" + name}
			if err := netlink.LinkAdd(dev); err != nil {
				return err
			}
			for _, a := range addrs {
				if err := addAddr(dev, a); err != nil {
					return err
				}
			}
		}
		got, err := netAddresses()
		if want := []netip.Addr{netip.MustParseAddr("172.30.0.1"), netip.MustParseAddr("fd00:30::1")}; err == nil && !slices.Equal(got, want) {
			t.Errorf("addresses %v, want %v", got, want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
