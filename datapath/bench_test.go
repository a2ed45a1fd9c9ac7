package datapath

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"warren/cluster"
	"warren/internal/testkit"
	"warren/netpol"
)

// largeWorld is a cluster of nodes with 100 pods each, and policies: every one is
// for an app of a namespace, and lets in some others.
func largeWorld(nodes, policies int) *netpol.World {
	w := &netpol.World{Namespaces: make(map[string]map[string]string)}
	for i := range 50 {
		w.Namespaces[fmt.Sprintf("ns%d", i)] = map[string]string{"team": fmt.Sprintf("team%d", i%10)}
	}
	for n := range nodes {
		name := fmt.Sprintf("node%d", n)
		w.Nodes = append(w.Nodes, &cluster.Node{UID: name, Name: name, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{172, 30, byte(n >> 8), byte(n)})}})
		for i := range 100 {
			k := n*100 + i
			six := netip.MustParseAddr("fd00::").As16()
			six[13], six[14], six[15] = byte(k>>16), byte(k>>8), byte(k)
			w.Pods = append(w.Pods, &cluster.Pod{
				UID: fmt.Sprintf("uid-%d", k), Name: fmt.Sprintf("pod%d", k), Namespace: fmt.Sprintf("ns%d", k%50), Node: name,
				Labels:  map[string]string{"app": fmt.Sprintf("app%d", k/50%40), "version": fmt.Sprint(k % 3)},
				Addrs:   []netip.Addr{netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)}), netip.AddrFrom16(six)},
				Phase:   "Running",
				Started: time.Unix(int64(k), 0), Created: time.Unix(int64(k), 0),
			})
		}
	}
	for i := range policies {
		w.Policies = append(w.Policies, largePolicy(i, uint16(8000+i%100)))
	}
	return w
}

func largePolicy(i int, port uint16) *cluster.Policy {
	who, team := pods(fmt.Sprintf("app%d", (i+1)%40)), cluster.Selector{Equal: map[string]string{"team": fmt.Sprintf("team%d", i%10)}}
	uid := fmt.Sprintf("policy-%d", i)
	return &cluster.Policy{UID: uid, Name: uid, Namespace: fmt.Sprintf("ns%d", i%50), Tier: cluster.NetworkTier,
		Subject: cluster.PolicySubject{Pods: pods(fmt.Sprintf("app%d", i/50%40))}, IsolatesIngress: true,
		Ingress: []cluster.PolicyRule{
			{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Pods: &who, Namespaces: &team}}, Ports: []cluster.PolicyPort{{Protocol: "tcp", First: port, Last: port + 10}}},
			{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Networks: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 24)}}}},
		}}
}

// BenchmarkApplyChange is one change of policy on its way to the kernel: 1,000
// policies, 10,000 pods of which 100 are here.
func BenchmarkApplyChange(b *testing.B) {
	cfg := smallConfig(newBPFFS(b))
	ns := testkit.NewNetns(b)
	w := largeWorld(100, 1000)
	var endpoints []Endpoint
	var dp *Datapath
	err := ns.Do(func() (err error) {
		for i := range 100 {
			name := fmt.Sprintf("veth%d", i)
			if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: fmt.Sprintf("peer%d", i)}); err != nil {
				return err
			}
			dev, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			endpoints = append(endpoints, Endpoint{Name: w.Pods[i].Name, PodUID: w.Pods[i].UID, Ifindex: dev.Attrs().Index, Addrs: w.Pods[i].Addrs})
		}
		dp, err = Open(cfg, testLog(b))
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := dp.Remove(); err != nil {
			b.Error(err)
		}
	}()
	places := make(map[netip.Addr]Place)
	for _, p := range w.Pods {
		for _, a := range p.Addrs {
			places[a] = Place{Kind: PodPlace, Node: w.Nodes[1].Addrs[0]}
		}
	}
	compiler := netpol.NewCompiler()
	here := func(p *cluster.Pod) bool { return p.Node == "node0" }
	var compile, apply, inForce time.Duration
	change := func(i int) {
		policies := make([]*cluster.Policy, len(w.Policies))
		copy(policies, w.Policies)
		if i >= 0 {
			at := i * 7 % 100 // of pods that are here, too
			policies[at] = largePolicy(at, uint16(9000+i))
		}
		next := *w
		next.Policies = policies
		w = &next
		began := time.Now()
		program, err := compiler.Compile(w, here)
		if err != nil {
			b.Fatal(err)
		}
		compile += time.Since(began)
		began = time.Now()
		report, err := dp.Apply(b.Context(), &State{Endpoints: endpoints, Policy: program, Places: places})
		if err != nil {
			b.Fatal(err)
		}
		apply += time.Since(began)
		inForce += report.InForce.Sub(began)
		if !report.Flipped && i >= 0 {
			b.Fatalf("change %d changed nothing", i)
		}
	}
	change(-1)
	b.Logf("from nothing: compiled in %v, in force after %v, finished after %v; %d verdicts", compile, inForce, apply, dp.tables.verdictsUsed())
	nothing := compile + inForce
	compile, apply, inForce = 0, 0, 0
	n := 0
	var worst time.Duration
	for b.Loop() {
		before := compile + inForce
		change(n)
		worst = max(worst, compile+inForce-before)
		n++
	}
	b.ReportMetric(float64(nothing.Milliseconds()), "ms-nothing")
	b.ReportMetric(float64(worst.Microseconds())/1000, "ms-worst")
	b.ReportMetric(float64(compile.Milliseconds())/float64(n), "ms-compile/op")
	b.ReportMetric(float64(inForce.Microseconds())/1000/float64(n), "ms-in-force/op")
	b.ReportMetric(float64(apply.Microseconds())/1000/float64(n), "ms-apply/op")
}
