package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"warren/api"
	"warren/cluster"
	"warren/datapath"
	"warren/netpol"
)

// crowd allows as many addresses to ask the pods with app=db.
func (l *lab) crowd(name string, peers int, generation int64) {
	p := &cluster.Policy{
		UID: "uid-" + name, Namespace: "shop", Name: name, Tier: cluster.NetworkTier, IsolatesIngress: true, Generation: generation,
		Subject: cluster.PolicySubject{Pods: cluster.Selector{Equal: map[string]string{"app": "db"}}},
		Ingress: []cluster.PolicyRule{{Action: cluster.AllowAction}},
	}
	for i := range peers {
		addr := netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)})
		p.Ingress[0].Peers = append(p.Ingress[0].Peers, cluster.PolicyPeer{Networks: []netip.Prefix{netip.PrefixFrom(addr, 32)}})
	}
	l.state.SetPolicy(p, time.Now())
}

func (l *lab) policy(name string) (found api.NetworkPolicy) {
	for _, p := range l.net.describe().Policies {
		if p.Name == name {
			found = p
		}
	}
	return found
}

// TestNetworkTooManyPeers has a policy with 65,000 peers: it denies, and the
// status says why.
func TestNetworkTooManyPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, datapath.Routed)
		defer l.run()()
		l.cluster()
		l.pod("db", "n1", map[string]string{"app": "db"})
		l.crowd("crowd", 65_000, 1)
		if err := l.net.AddEndpoint(t.Context(), l.endpoint("db", 7, "10.244.1.7")); err != nil {
			t.Fatal(err)
		}
		if got := l.verdict("100.0.0.1", "10.244.1.7", 80); got != netpol.Deny {
			t.Errorf("an address that the policy allows: %v", got)
		}
		got := l.policy("crowd")
		if len(got.Problems) != 1 || !strings.Contains(got.Problems[0], "65000 peers, more than 10000") || got.InForce != 1 || got.Endpoints != 1 {
			t.Errorf("the status says %+v", got)
		}
	})
}

// TestNetworkFull has a kernel without room for a policy: the status names it, and
// what was in force stays.
func TestNetworkFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, datapath.Routed)
		defer l.run()()
		l.cluster()
		l.pod("db", "n1", map[string]string{"app": "db"})
		l.crowd("crowd", 10, 1)
		l.crowd("few", 10, 1)
		if err := l.net.AddEndpoint(t.Context(), l.endpoint("db", 7, "10.244.1.7")); err != nil {
			t.Fatal(err)
		}
		before, _ := l.kernel.last()
		for _, kind := range []string{"verdicts", "networks"} {
			l.kernel.fail(fmt.Errorf("apply state: %w", &datapath.FullError{Map: kind, Room: 5000}))
			l.crowd("crowd", 9000, 2)
			synctest.Wait()
			time.Sleep(time.Second)
			if after, _ := l.kernel.last(); after != before {
				t.Error("something else is in force")
			}
			st := l.net.describe()
			if st.InForce || !strings.Contains(st.Error, "map "+kind+" is full: it has room for 5000 entries") {
				t.Errorf("%s: in force %v, error %q", kind, st.InForce, st.Error)
			}
			got := l.policy("crowd")
			if len(got.Problems) != 1 || !strings.Contains(got.Problems[0], "room for 5000 "+kind) || got.Generation != 2 || got.InForce != 1 {
				t.Errorf("%s: the status says %+v", kind, got)
			}
			if got := l.policy("few"); len(got.Problems) != 0 {
				t.Errorf("%s: of a small policy it says %v", kind, got.Problems)
			}
		}
		l.kernel.fail(nil)
		l.crowd("crowd", 11, 3)
		time.Sleep(mostRetry)
		synctest.Wait()
		if got := l.policy("crowd"); len(got.Problems) != 0 || got.InForce != 3 {
			t.Errorf("when there is room again: %+v", got)
		}
	})
}
