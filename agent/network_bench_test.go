package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"warren/api"
	"warren/cluster"
	"warren/datapath"
	"warren/netpol"
)

// idleKernel takes everything.
type idleKernel struct{ fakeKernel }

func (*idleKernel) Apply(context.Context, *datapath.State) (datapath.Report, error) {
	return datapath.Report{}, nil
}

// BenchmarkNetworkPass is one change of a pod, and of a policy, from the State to
// what the kernel is told: in a cluster of 1,000 nodes, 20,000 pods and 1,000
// policies, on a node with 50 pods.
func BenchmarkNetworkPass(b *testing.B) {
	state := cluster.NewState(cluster.Config{})
	at := time.Now()
	for i := range 1000 {
		state.SetNode(&cluster.Node{UID: fmt.Sprint("n", i), Name: fmt.Sprint("n", i), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})},
			PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}}, at)
	}
	pod := func(i, label int) {
		state.SetPod(&cluster.Pod{UID: fmt.Sprint("p", i), Name: fmt.Sprint("p", i), Namespace: fmt.Sprint("team-", i%100), Node: fmt.Sprint("n", i/20%1000), Phase: "Running", Started: at,
			Labels: map[string]string{"app": fmt.Sprint("a", i%1000), "version": fmt.Sprint(label)},
			Addrs:  []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i / 20 >> 8), byte(i / 20), byte(2 + i%20)})}}, at)
	}
	for i := range 20_000 {
		pod(i, 0)
	}
	policy := func(i int, generation int64) {
		state.SetPolicy(&cluster.Policy{UID: fmt.Sprint("np", i), Namespace: fmt.Sprint("team-", i%100), Name: fmt.Sprint("np", i), Tier: cluster.NetworkTier, IsolatesIngress: true, Generation: generation,
			Subject: cluster.PolicySubject{Pods: cluster.Selector{Equal: map[string]string{"app": fmt.Sprint("a", i)}}},
			Ingress: []cluster.PolicyRule{{Action: cluster.AllowAction, Ports: []cluster.PolicyPort{{Protocol: "tcp", First: uint16(1 + generation%1000), Last: 2000}},
				Peers: []cluster.PolicyPeer{{SameNamespace: true, Pods: &cluster.Selector{Equal: map[string]string{"app": fmt.Sprint("a", (i+100)%1000)}}}}}}}, at)
	}
	for i := range 1000 {
		policy(i, 1)
	}
	state.SetSynced("pods")
	n := newNetwork(NetworkConfig{Mode: datapath.Routed}, &membership{node: "n1", state: state}, &networkStore{path: b.TempDir() + "/f"}, nil, slog.New(slog.DiscardHandler))
	n.kernel, n.host, n.runtime = &idleKernel{fakeKernel{attached: make(map[datapath.HostPart]int)}}, &fakeHost{}, &fakeRuntime{}
	n.devices, n.addresses = func() (map[int]string, error) { return nil, nil }, func() ([]netip.Addr, error) { return nil, nil }
	for i := range 50 {
		a := api.Attachment{ContainerID: fmt.Sprint("c", i), Interface: "eth0"}
		n.endpoints[a] = &endpoint{Endpoint: api.Endpoint{Attachment: a, PodUID: fmt.Sprint("p", i), HostIndex: 10 + i, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(10 + i)})}}}
	}
	n.compiler = netpol.NewCompiler()
	if err := n.pass(b.Context(), false); err != nil {
		b.Fatal(err)
	}
	for _, change := range []struct {
		name string
		do   func(i int)
	}{{"pod", func(i int) { pod(5000, i+1) }}, {"policy", func(i int) { policy(7, int64(i+2)) }}} {
		b.Run(change.name, func(b *testing.B) {
			for i := range b.N {
				change.do(i)
				if err := n.pass(b.Context(), false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
