package datapath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/cluster"
	"warren/internal/testkit"
	"warren/netpol"
	"warren/reconcile"
)

// pods selects by the label app.
func pods(app string) cluster.Selector {
	return cluster.Selector{Equal: map[string]string{"app": app}}
}

// Examples of policies, of all kinds.
func rigPolicies() map[string][]*cluster.Policy {
	app0, app1 := pods("app0"), pods("app1")
	shop := cluster.Selector{Equal: map[string]string{"team": "shop"}}
	every := cluster.Selector{}
	isolate := &cluster.Policy{UID: "isolate", Namespace: "shop", Name: "isolate", Tier: cluster.NetworkTier, IsolatesIngress: true}
	return map[string][]*cluster.Policy{
		"none":    nil,
		"isolate": {isolate},
		"ports": {isolate, {UID: "ports", Namespace: "shop", Name: "ports", Tier: cluster.NetworkTier, IsolatesIngress: true,
			Ingress: []cluster.PolicyRule{
				{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Pods: &app1, Namespaces: &every}}, Ports: []cluster.PolicyPort{{Protocol: "tcp", First: 80, Last: 443}}},
				{Action: cluster.AllowAction, AnyPeer: true, Ports: []cluster.PolicyPort{{Protocol: "tcp", Name: "web"}}},
			}}},
		"egress": {{UID: "egress", Namespace: "lab", Name: "egress", Tier: cluster.NetworkTier, IsolatesEgress: true,
			Egress: []cluster.PolicyRule{{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Pods: &app0, Namespaces: &shop}}}}}},
		"admin": {isolate, {UID: "admin", Name: "admin", Tier: cluster.AdminTier, Priority: 5, Subject: cluster.PolicySubject{},
			Ingress: []cluster.PolicyRule{
				{Name: "pass", Action: cluster.PassAction, AnyPeer: true, Ports: []cluster.PolicyPort{{Protocol: "udp", First: 443, Last: 443}}},
				{Name: "no", Action: cluster.DenyAction, Peers: []cluster.PolicyPeer{{Pods: &app1, Namespaces: &every}}},
				{Name: "yes", Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Pods: &every, Namespaces: &shop}}},
			}}},
	}
}

func TestBPFTableOneNode(t *testing.T) {
	r := newRig(t, smallConfig(newBPFFS(t)), 1, 4)
	for name, policies := range rigPolicies() {
		t.Run(name, func(t *testing.T) {
			r.t = t
			r.apply(policies...)
			r.checkTable()
		})
	}
}

func TestBPFTableTwoNodes(t *testing.T) {
	for _, mode := range []Mode{Routed, VXLAN} {
		t.Run(mode.String(), func(t *testing.T) {
			cfg := smallConfig(newBPFFS(t))
			cfg.Mode = mode
			r := newRig(t, cfg, 2, 2)
			for _, name := range []string{"none", "ports", "admin"} {
				t.Run(name, func(t *testing.T) {
					r.t = t
					r.apply(rigPolicies()[name]...)
					r.checkTable()
				})
			}
		})
	}
}

// The same with the rung that kernels without TCX have, which others have too.
func TestBPFTableClsact(t *testing.T) {
	cfg := smallConfig(newBPFFS(t))
	cfg.Rung = rungClsact
	r := newRig(t, cfg, 1, 3)
	r.apply(rigPolicies()["ports"]...)
	r.checkTable()
	status, err := r.nodes[0].dp.Status()
	if err != nil {
		t.Fatal(err)
	}
	if h := status.Hooks[0]; h.Hook != "endpoint" || h.Rung != rungClsact || h.Devices != 3 {
		t.Errorf("%+v", h)
	}
}

// Another CNI's veths are judged, and nothing is redirected.
func TestBPFTableChained(t *testing.T) {
	cfg := smallConfig(newBPFFS(t))
	cfg.Mode = Chained
	r := newRig(t, cfg, 1, 3)
	for _, name := range []string{"ports", "egress", "admin"} {
		r.apply(rigPolicies()[name]...)
		r.checkTable()
	}
}

// kernelThings is what there is of ours in a node's devices and in the machine's
// pins.
func (r *rig) kernelThings(n *rigNode) (things []string) {
	r.t.Helper()
	r.in(n.ns, func() error {
		devices, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, dev := range devices {
			name, index := dev.Attrs().Name, dev.Attrs().Index
			qdiscs, err := netlink.QdiscList(dev)
			if err != nil {
				return err
			}
			for _, q := range qdiscs {
				if q.Type() == "clsact" {
					things = append(things, name+" clsact")
				}
			}
			for i, side := range sides {
				filters, err := netlink.FilterList(dev, side.parent)
				if err != nil {
					return err
				}
				for _, f := range filters {
					things = append(things, fmt.Sprintf("%s filter %v", name, f))
				}
				if n.cfg.Rung == rungClsact {
					continue
				}
				all, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: sides[i].attach})
				if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) {
					continue // this kernel has no TCX
				}
				if err != nil {
					return err
				}
				for _, p := range all.Programs {
					things = append(things, fmt.Sprintf("%s %s program %d", name, side.name, p.ID))
				}
			}
		}
		return nil
	})
	return things
}

// What an agent has made it can take away, and nothing else.
func TestBPFRemoveLeavesNothing(t *testing.T) {
	for _, rung := range []string{"", rungClsact} {
		t.Run("rung "+rung, func(t *testing.T) {
			cfg := smallConfig(newBPFFS(t))
			cfg.Rung = rung
			r := newRig(t, cfg, 2, 2)
			n, other := r.nodes[0], r.nodes[1]
			// Somebody else's filter, on a clsact that is not ours.
			foreign := r.pods[0]
			r.in(n.ns, func() error { return addForeignFilter(foreign.ifindex) })
			r.apply(rigPolicies()["isolate"]...)
			before := r.kernelThings(n)
			if len(before) < 3*2 {
				t.Fatalf("attached: %q", before)
			}
			theirs := r.kernelThings(other)
			ids := programIDs(t, n.dp)
			if err := n.dp.Remove(); err != nil {
				t.Fatal(err)
			}
			left := r.kernelThings(n)
			for _, s := range left {
				if !strings.HasPrefix(s, "veth0 ") || strings.Contains(s, "program") {
					t.Errorf("left: %s", s)
				}
			}
			if len(left) != 2 { // the other's clsact and filter
				t.Errorf("left: %q", left)
			}
			if diff := cmp.Diff(theirs, r.kernelThings(other)); diff != "" {
				t.Errorf("another instance's: %s", diff)
			}
			if _, err := os.Stat(filepath.Join(cfg.BPFFS, n.cfg.Instance)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("pins: %v", err)
			}
			testkit.Wait(t, "the programs are gone", func() bool {
				for _, id := range ids {
					if p, err := ebpf.NewProgramFromID(id); err == nil {
						p.Close()
						return false
					}
				}
				return true
			})
			// Without a datapath the pods of this node are not judged any more.
			r.reach(foreign, r.pods[1], true)
			// Once more is fine.
			r.in(n.ns, func() error { return Remove(n.cfg) })
		})
	}
}

// addForeignFilter adds a filter that lets everything pass.
func addForeignFilter(index int) error {
	err := netlink.QdiscAdd(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
	if err != nil {
		return err
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "foreign", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if err != nil {
		return err
	}
	defer p.Close()
	return netlink.FilterAdd(&netlink.BpfFilter{Fd: p.FD(), Name: "foreign", DirectAction: true, FilterAttrs: netlink.FilterAttrs{
		LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 7, Handle: 1, Protocol: unix.ETH_P_ALL}})
}

func programIDs(t testing.TB, d *Datapath) (ids []ebpf.ProgramID) {
	t.Helper()
	for _, p := range d.kernel.programs {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		if id, ok := info.ID(); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// reach holds whether a pod is answered by another within a moment.
func (r *rig) reach(from, to *rigPod, want bool) {
	r.t.Helper()
	for _, a := range to.Addrs {
		patience := testkit.Patience
		if !want {
			patience = 300 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(r.t.Context(), patience)
		said, err := from.ask(ctx, netip.AddrPortFrom(a, rigPorts[0]))
		cancel()
		if (err == nil) != want {
			r.t.Errorf("%s -> %s %v: %q, %v", from.Name, to.Name, a, said, err)
		}
	}
}

// Agents of two nodes that share a kernel have nothing in common, whether their
// instances or their BPF file systems differ.
func TestBPFTwoAgents(t *testing.T) {
	for _, same := range []string{"file system", "instance"} {
		t.Run("same "+same, func(t *testing.T) {
			cfg := smallConfig(newBPFFS(t))
			r := newRig(t, cfg, 2, 2)
			if same == "instance" {
				n := r.nodes[1]
				if err := n.dp.Remove(); err != nil {
					t.Fatal(err)
				}
				n.cfg.BPFFS, n.cfg.Instance = newBPFFS(t), r.nodes[0].cfg.Instance
				n.dp = r.openDatapath(n)
			}
			r.apply()
			r.reach(r.pods[0], r.pods[2], true)
			// The second's policy is not the first's.
			one, two := r.nodes[0], r.nodes[1]
			ones := r.kernelThings(one)
			program, err := netpol.NewCompiler().Compile(&netpol.World{Pods: r.world().Pods, Nodes: r.world().Nodes,
				Namespaces: r.labels, Policies: rigPolicies()["isolate"]}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := two.dp.Apply(t.Context(), r.state(two, program)); err != nil {
				t.Fatal(err)
			}
			r.reach(r.pods[1], r.pods[0], true)
			r.reach(r.pods[1], r.pods[2], false)
			if g := r.generation(one); g != 1 {
				t.Errorf("the first's generation is %d", g)
			}
			// Nor does it go with the second.
			if err := two.dp.Remove(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(ones, r.kernelThings(one)); diff != "" {
				t.Error(diff)
			}
			r.reach(r.pods[1], r.pods[0], true)
			r.reach(r.pods[1], r.pods[2], true)
		})
	}
}

// Nothing is sent to devices of the node that are no more.
func TestBPFNodeDeviceGoes(t *testing.T) {
	r := newRig(t, smallConfig(newBPFFS(t)), 1, 1)
	n := r.nodes[0]
	r.apply()
	var links [2]netlink.Link
	for part, name := range map[HostPart]string{Uplink: "up0", Tunnel: "up1"} {
		r.in(n.ns, func() (err error) {
			if err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}); err != nil {
				return err
			}
			links[part], err = netlink.LinkByName(name)
			return err
		})
		if err := n.dp.AttachHost(links[part].Attrs().Index, part); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.dp.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	settings := func() stateConfig {
		c, err := n.dp.settings.Get(0)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := settings(); c.Uplink != uint32(links[Uplink].Attrs().Index) || c.Tunnel != uint32(links[Tunnel].Attrs().Index) {
		t.Fatalf("settings %+v", c)
	}
	for part, left := range map[HostPart]func() bool{
		Uplink: func() bool { return settings().Uplink != 0 },
		Tunnel: func() bool { return settings().Tunnel != 0 },
	} {
		r.in(n.ns, func() error { return netlink.LinkDel(links[part]) })
		n.dp.check(ctx) // what Run does every ten seconds, if it begins too late to hear of it
		testkit.Wait(t, part.String()+" is forgotten", func() bool { return !left() })
	}
}

// Who detaches our programs is not obeyed, and a device that goes takes its rows
// along.
func TestBPFRunHeals(t *testing.T) {
	for _, rung := range []string{"", rungClsact} {
		t.Run("rung "+rung, func(t *testing.T) {
			cfg := smallConfig(newBPFFS(t))
			cfg.Rung = rung
			r := newRig(t, cfg, 1, 3)
			n := r.nodes[0]
			r.apply(rigPolicies()["isolate"]...)
			whole := r.kernelThings(n)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- n.dp.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}()

			r.in(n.ns, func() error { return detachAll(n.dp, uint32(r.pods[0].ifindex)) })
			if len(r.kernelThings(n)) == len(whole) {
				t.Fatal("nothing was detached")
			}
			n.dp.check(ctx) // what Run does every ten seconds
			testkit.Wait(t, "programs are attached again", func() bool { return len(r.kernelThings(n)) == len(whole) })
			r.reach(r.pods[1], r.pods[0], false)

			// The pod's namespace takes the device along; its rows go.
			gone := r.pods[2]
			r.in(n.ns, func() error {
				dev, err := netlink.LinkByIndex(gone.ifindex)
				if err != nil {
					return err
				}
				return netlink.LinkDel(dev)
			})
			endpoints := NewMap[uint32, stateEndpoint](n.dp.kernel.maps[stateMapEndpoints], true)
			places := NewMap[stateAddr, statePlaceEntry](n.dp.kernel.maps[stateMapAddresses], true)
			testkit.Wait(t, "the endpoint's rows are gone", func() bool {
				_, err := endpoints.Get(uint32(gone.ifindex))
				place, perr := places.Get(addrKey(gone.Addrs[0]))
				return errors.Is(err, reconcile.ErrAbsent) && (perr != nil || place.Slot[0].Ifindex == 0)
			})
			testkit.Wait(t, "its links are gone", func() bool {
				sets, err := n.dp.pins.Sets()
				return err == nil && !slices.Contains(sets, pinSet(uint32(gone.ifindex)))
			})
			// The State still has it: it alone fails.
			report, err := n.dp.Apply(t.Context(), r.state(n, r.programs[n]))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range report.Endpoints {
				if (e.Err != nil) != (e.Ifindex == gone.ifindex) {
					t.Errorf("%s: %v", e.Name, e.Err)
				}
			}
		})
	}
}

// detachAll takes a device's programs away, as a person with a tool would.
func detachAll(d *Datapath, index uint32) error {
	have, _ := d.attacher.there.Get(index)
	if have.Rung == byClsact {
		return netlink.QdiscDel(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: int(index), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
	}
	for _, side := range sides {
		l, err := d.pins.Link(pinSet(index), side.name)
		if err != nil {
			return err
		}
		defer l.Close()
		if err := l.Detach(); err != nil {
			return err
		}
	}
	return nil
}
