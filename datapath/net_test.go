package datapath

import (
	"testing"

	"warren/cluster"
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
	r := newRig(t, small(newBPFFS(t)), 1, 4)
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
			cfg := small(newBPFFS(t))
			cfg.Mode = mode
			r := newRig(t, cfg, 2, 2)
			for name, policies := range rigPolicies() {
				t.Run(name, func(t *testing.T) {
					r.t = t
					r.apply(policies...)
					r.checkTable()
				})
			}
		})
	}
}
