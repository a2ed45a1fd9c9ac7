package netpol

import (
	"net/netip"
	"testing"

	"warren/cluster"
)

// TestExplainBetween holds that who is known to have sent or received a packet is
// judged as that pod, though another has its address now.
func TestExplainBetween(t *testing.T) {
	pod := func(name, addr string) *cluster.Pod {
		return &cluster.Pod{UID: name, Name: name, Namespace: "shop", Labels: map[string]string{"app": name}, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
	}
	front, db, gone := pod("front", "10.0.0.1"), pod("db", "10.0.0.2"), pod("gone", "10.0.0.1")
	from := cluster.Selector{Equal: map[string]string{"app": "gone"}}
	w := (&World{Pods: []*cluster.Pod{front, db}, Policies: []*cluster.Policy{{
		UID: "1", Namespace: "shop", Name: "db", Tier: cluster.NetworkTier, IsolatesIngress: true, Subject: cluster.PolicySubject{Pods: cluster.Selector{Equal: db.Labels}},
		Ingress: []cluster.PolicyRule{{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{SameNamespace: true, Pods: &from}}}},
	}}}).Index()
	p := Packet{Src: front.Addrs[0], Dst: db.Addrs[0], Protocol: 6, Port: 5432}
	if e := Explain(p, w); e.Verdict() != Deny || e.Src != "shop/front" {
		t.Errorf("now: %v", e)
	}
	if e := ExplainBetween(p, gone, nil, w); e.Verdict() != Allow || e.Src != "shop/gone" || e.Dst != "shop/db" {
		t.Errorf("of who has gone: %v", e)
	}
	back := Packet{Src: db.Addrs[0], Dst: front.Addrs[0], Protocol: 6, Port: 1}
	if e := ExplainBetween(back, nil, gone, w); e.Verdict() != Allow || e.Dst != "shop/gone" {
		t.Errorf("to who has gone: %v", e)
	}
}
