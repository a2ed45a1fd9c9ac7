package netpol_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/cluster"
	"warren/netpol"
)

// crowd is a policy with many peers, for pods with app=db of namespace shop.
func crowd(peers int, peer func(i int) cluster.PolicyPeer) *cluster.Policy {
	p := &cluster.Policy{UID: "crowd", Namespace: "shop", Name: "crowd", Tier: cluster.NetworkTier, IsolatesIngress: true}
	p.Subject.Pods.Equal = map[string]string{"app": "db"}
	rule := cluster.PolicyRule{Action: cluster.AllowAction}
	for i := range peers {
		rule.Peers = append(rule.Peers, peer(i))
	}
	p.Ingress = []cluster.PolicyRule{rule}
	return p
}

func address(i int) cluster.PolicyPeer {
	return cluster.PolicyPeer{Networks: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)}), 32)}}
}

func byLabel(i int) cluster.PolicyPeer {
	return cluster.PolicyPeer{Namespaces: &cluster.Selector{}, Pods: &cluster.Selector{Equal: map[string]string{"app": fmt.Sprint("app-", i)}}}
}

const smallWorld = `
namespace shop
node n1 172.16.0.1
pod shop/db n1 app=db 10.1.0.1
pod shop/web n1 app=app-7 10.1.0.2
`

// TestManyPeers has policies with as many peers as there may be, and one more:
// then it isolates, and its rules match nothing.
func TestManyPeers(t *testing.T) {
	w := parseWorld(t, smallWorld)
	for _, test := range []struct {
		name    string
		peers   int
		peer    func(i int) cluster.PolicyPeer
		problem string
		want    netpol.Verdict
	}{
		{"networks", netpol.MaxPeers, address, "", netpol.Allow},
		{"a network too many", netpol.MaxPeers + 1, address, "10001 peers, more than 10000: its rules that allow match nothing", netpol.Deny},
		{"65,000 networks", 65_000, address, "65000 peers, more than 10000", netpol.Deny},
		{"pods", netpol.MaxPeers, byLabel, "", netpol.Allow},
		{"65,000 selectors", 65_000, byLabel, "65000 peers, more than 10000", netpol.Deny},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.Policies = []*cluster.Policy{crowd(test.peers, test.peer)}
			c := netpol.NewCompiler()
			program := mustCompile(t, c, w, nil)
			if got := strings.Join(program.Problems["crowd"], "\n"); !strings.Contains(got, test.problem) || (got == "") != (test.problem == "") {
				t.Errorf("problems: %q, want %q", got, test.problem)
			}
			p := parsePacket(t, w, "shop/web -> shop/db tcp 80")
			if test.peer(0).Networks != nil {
				p.Src = netip.MustParseAddr("100.0.0.77")
			}
			_, want := netpol.Evaluate(p, w)
			_, got := program.Judge(p)
			if got != want || got.Verdict != test.want {
				t.Errorf("judged %v, evaluated %v, want %v", got, want, test.want)
			}
			if n := len(program.Networks); n > netpol.MaxPeers+2 {
				t.Errorf("%d networks", n)
			}
		})
	}
}

// TestCrowdedTown compiles policies with as many peers as there may be over
// many pods, in a time in which nobody becomes impatient.
func TestCrowdedTown(t *testing.T) {
	w := town(10_000, 100)
	for i := range w.Pods { // every pod is a class of its own
		p := *w.Pods[i]
		p.Labels = map[string]string{"app": fmt.Sprint("app-", i), "pod": fmt.Sprint(i)}
		w.Pods[i] = &p
	}
	p := crowd(netpol.MaxPeers, byLabel)
	p.Namespace, p.Subject.Pods = "team-1", cluster.Selector{}
	q := crowd(netpol.MaxPeers, address)
	q.Namespace, q.Subject.Pods, q.UID = "team-1", cluster.Selector{}, "crowd of networks"
	w.Policies = append(w.Policies, p, q)
	c := netpol.NewCompiler()
	begun := time.Now()
	mustCompile(t, c, w, oneNode)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("took %v", took)
	} else {
		t.Logf("took %v", took)
	}
	begun = time.Now()
	w.Pods = append(w.Pods, townPod(1_000_000))
	mustCompile(t, c, w, oneNode)
	t.Logf("one more pod took %v", time.Since(begun))
}

// TestNested has networks in networks in networks.
func TestNested(t *testing.T) {
	w := parseWorld(t, smallWorld)
	var peers []cluster.PolicyPeer
	for bits := 1; bits <= 127; bits += 2 {
		n := netip.PrefixFrom(netip.MustParseAddr("fd00::"), bits)
		peers = append(peers, cluster.PolicyPeer{Networks: []netip.Prefix{n}, Except: []netip.Prefix{netip.PrefixFrom(n.Addr(), bits+1)}})
	}
	w.Policies = []*cluster.Policy{crowd(len(peers), func(i int) cluster.PolicyPeer { return peers[i] })}
	program := mustCompile(t, netpol.NewCompiler(), w, nil)
	for bit := range 128 {
		addr := netip.MustParseAddr("fd00::").As16()
		addr[bit/8] ^= 0x80 >> (bit % 8)
		p := netpol.Packet{Src: netip.AddrFrom16(addr), Dst: w.Pods[0].Addrs[0], Protocol: 6, Port: 1}
		_, want := netpol.Evaluate(p, w)
		if _, got := program.Judge(p); got != want {
			t.Errorf("%s: judged %v, evaluated %v", p.Src, got, want)
		}
	}
}

// TestContradiction has worlds that cannot be: nothing changes.
func TestContradiction(t *testing.T) {
	w := parseWorld(t, smallWorld)
	w.Policies = []*cluster.Policy{crowd(1, byLabel)}
	c := netpol.NewCompiler()
	before := mustCompile(t, c, w, nil)
	for _, bad := range []netpol.World{
		{Pods: append(slices.Clone(w.Pods), w.Pods[0])},
		{Pods: w.Pods, Nodes: []*cluster.Node{w.Nodes[0], w.Nodes[0]}},
		{Pods: w.Pods, Policies: []*cluster.Policy{w.Policies[0], w.Policies[0]}},
	} {
		if _, err := c.Compile(&bad, nil); !errors.Is(err, netpol.ErrWorld) {
			t.Errorf("error is %v", err)
		}
	}
	after := mustCompile(t, c, w, nil)
	for id, set := range before.Sets {
		if after.Sets[id] != set {
			t.Errorf("set %d is another", id)
		}
	}
}
