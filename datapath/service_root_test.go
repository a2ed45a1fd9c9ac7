package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"warren/cluster"
)

// translate has a node send connections to a service to a backend, as kube-proxy
// does; masquerade as it does where the backend must not see who asks.
func translate(n *rigNode, service, backend netip.AddrPort, masquerade bool) error {
	return n.rules(backend.Addr(), masquerade, func(c *nftables.Conn, t *nftables.Table) {
		pre := c.AddChain(&nftables.Chain{Name: "pre", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
		c.AddRule(&nftables.Rule{Table: t, Chain: pre, Exprs: append(tcpTo(service.Addr()),
			&expr.Immediate{Register: 1, Data: backend.Addr().AsSlice()},
			&expr.Immediate{Register: 2, Data: []byte{byte(backend.Port() >> 8), byte(backend.Port())}},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(t.Family), RegAddrMin: 1, RegProtoMin: 2},
		)})
	})
}

// rules puts rules in the place of a node's former ones: those that more adds, and
// where wanted one that hides from a backend who asks.
func (n *rigNode) rules(backend netip.Addr, masquerade bool, more func(*nftables.Conn, *nftables.Table)) error {
	c, err := nftables.New(nftables.WithNetNSFd(n.ns.FD()))
	if err != nil {
		return err
	}
	family := nftables.TableFamilyIPv4
	if backend.Is6() {
		family = nftables.TableFamilyIPv6
	}
	t := c.AddTable(&nftables.Table{Family: family, Name: "services"})
	c.DelTable(t)
	t = c.AddTable(&nftables.Table{Family: family, Name: "services"})
	more(c, t)
	if masquerade {
		post := c.AddChain(&nftables.Chain{Name: "post", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
		c.AddRule(&nftables.Rule{Table: t, Chain: post, Exprs: append(tcpTo(backend), &expr.Masq{})})
	}
	return c.Flush()
}

// tcpTo matches what goes to an address by TCP.
func tcpTo(addr netip.Addr) []expr.Any {
	offset := uint32(16)
	if addr.Is6() {
		offset = 24
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(addr.BitLen() / 8)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr.AsSlice()},
	}
}

// TestRootServices connects a pod with services that the node translates: their
// backends are a pod here, a pod elsewhere, this node and another one. Policy is
// about the backend and its port, whatever address and source it has on the way.
func TestRootServices(t *testing.T) {
	testServices(newRig(t, smallConfig(newBPFFS(t)), 2, 2), translate)
}

// serviceAddrs are where the service is asked for.
func serviceAddrs() []netip.AddrPort {
	return []netip.AddrPort{netip.MustParseAddrPort("10.96.0.9:443"), netip.MustParseAddrPort("[fd96::9]:443")}
}

// testServices holds it for whoever translates.
func testServices(r *rig, translate func(n *rigNode, service, backend netip.AddrPort, masquerade bool) error) {
	t := r.t.(*testing.T)
	here, there, client := r.nodes[0], r.nodes[1], r.pods[0]
	for _, n := range r.nodes {
		r.in(n.ns, func() error {
			var lc net.ListenConfig
			lc.SetMultipathTCP(false)
			l, err := lc.Listen(context.Background(), "tcp", ":6443")
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go serveTCP(l, n.Name)
			return nil
		})
	}
	services := serviceAddrs()
	// put has a policy in force with the services' addresses known.
	put := func(policies ...*cluster.Policy) {
		t.Helper()
		r.policies = policies
		program, err := r.compiler.Compile(r.world(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range r.nodes {
			state := r.state(n, program)
			for _, s := range services {
				state.Places[s.Addr()] = Place{Kind: ServicePlace}
			}
			if _, err := n.dp.Apply(t.Context(), state); err != nil {
				t.Fatal(err)
			}
			r.programs[n] = program
		}
	}
	// only lets the client send to some networks and a port, if it has one.
	only := func(port uint16, addrs ...netip.Addr) *cluster.Policy {
		p := &cluster.Policy{UID: "only", Namespace: client.Namespace, Name: "only", Tier: cluster.NetworkTier,
			Subject: cluster.PolicySubject{Pods: pods("app0")}, IsolatesEgress: true}
		if port == 0 {
			return p
		}
		rule := cluster.PolicyRule{Action: cluster.AllowAction, Ports: []cluster.PolicyPort{{Protocol: "tcp", First: port, Last: port}}}
		for _, a := range addrs {
			rule.Peers = append(rule.Peers, cluster.PolicyPeer{Networks: []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}})
		}
		p.Egress = []cluster.PolicyRule{rule}
		return p
	}
	for _, backend := range []struct {
		name       string
		addrs      []netip.Addr
		port       uint16
		answers    string
		masquerade bool
	}{
		{"a pod here", r.pods[1].Addrs, 8080, r.pods[1].Name, false},
		{"a pod here, masqueraded", r.pods[1].Addrs, 8080, r.pods[1].Name, true},
		{"a pod elsewhere", r.pods[2].Addrs, 8080, r.pods[2].Name, false},
		{"a pod elsewhere, masqueraded", r.pods[2].Addrs, 8080, r.pods[2].Name, true},
		{"this node", here.Addrs, 6443, here.Name, false},
		{"another node", there.Addrs, 6443, there.Name, true},
	} {
		for i, service := range services {
			t.Run(fmt.Sprintf("%s/%v", backend.name, service), func(t *testing.T) {
				r.t = t
				if err := translate(here, service, netip.AddrPortFrom(backend.addrs[i], backend.port), backend.masquerade); err != nil {
					t.Fatal(err)
				}
				for _, c := range []struct {
					name   string
					policy []*cluster.Policy
					want   bool
				}{
					{"no policy", nil, true},
					{"nothing", []*cluster.Policy{only(0)}, false},
					{"the backend's port", []*cluster.Policy{only(backend.port, backend.addrs...)}, true},
					{"the service's port", []*cluster.Policy{only(service.Port(), backend.addrs...)}, false},
					{"the service's address", []*cluster.Policy{only(service.Port(), service.Addr())}, false},
				} {
					put(c.policy...)
					wait := 300 * time.Millisecond
					if c.want {
						wait = 10 * time.Second
					}
					ctx, cancel := context.WithTimeout(t.Context(), wait)
					got, err := client.ask(ctx, service)
					cancel()
					switch {
					case c.want && (err != nil || got != backend.answers):
						t.Errorf("%s: answer %q, %v; want %q", c.name, got, err, backend.answers)
					case !c.want && err == nil:
						t.Errorf("%s: answered by %s", c.name, got)
					}
				}
			})
		}
	}
	// Where nobody listens the node says so.
	for i, service := range services {
		if err := translate(here, service, netip.AddrPortFrom(here.Addrs[i], 6444), false); err != nil {
			t.Fatal(err)
		}
		put(only(6444, here.Addrs...))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := client.dial(ctx, service)
		cancel()
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("nobody at %v: %v", service, err)
		}
	}
}

// TestRootServiceUnknown: an address that nobody has told of yet may be translated, too. It is
// answered as any outside; with the node's address it does not pass for the node.
func TestRootServiceUnknown(t *testing.T) {
	r := newRig(t, smallConfig(newBPFFS(t)), 2, 2)
	here, client, server := r.nodes[0], r.pods[0], r.pods[1]
	isolated := func(from string) *cluster.Policy {
		who, every := pods(from), cluster.Selector{}
		return &cluster.Policy{UID: "isolated", Namespace: server.Namespace, Name: "isolated", Tier: cluster.NetworkTier,
			Subject: cluster.PolicySubject{Pods: pods("app1")}, IsolatesIngress: true,
			Ingress: []cluster.PolicyRule{{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Pods: &who, Namespaces: &every}}}}}
	}
	for i, service := range serviceAddrs() {
		for _, c := range []struct {
			name       string
			masquerade bool
			policies   []*cluster.Policy
			want       bool
		}{
			{"no policy", false, nil, true},
			{"no policy, masqueraded", true, nil, true},
			{"nobody may", false, []*cluster.Policy{isolated("app9")}, false},
			{"nobody may, masqueraded", true, []*cluster.Policy{isolated("app9")}, false},
			{"who may", false, []*cluster.Policy{isolated("app0")}, true},
			{"nobody knows who may, masqueraded", true, []*cluster.Policy{isolated("app0")}, false},
		} {
			if err := translate(here, service, netip.AddrPortFrom(server.Addrs[i], 8080), c.masquerade); err != nil {
				t.Fatal(err)
			}
			r.apply(c.policies...)
			wait := 300 * time.Millisecond
			if c.want {
				wait = 10 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			got, err := client.ask(ctx, service)
			cancel()
			if c.want != (err == nil && got == server.Name) {
				t.Errorf("%v, %s: answer %q, %v", service, c.name, got, err)
			}
		}
	}
}
