package netpol_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"warren/cluster"
	"warren/netpol"
)

// town is a cluster as real ones are: pods of deployments in 100 namespaces on
// 200 nodes, and policies of every kind: who may ask whom within a namespace,
// monitoring and ingress from other namespaces, DNS, networks outside, and a few
// of the whole cluster.
func town(pods, policies int) *netpol.World {
	const namespaces, nodes = 100, 200
	w := &netpol.World{Namespaces: make(map[string]map[string]string)}
	for i := range namespaces {
		name := fmt.Sprint("team-", i)
		w.Namespaces[name] = map[string]string{"kubernetes.io/metadata.name": name, "team": fmt.Sprint(i % 10)}
	}
	for i := range nodes {
		w.Nodes = append(w.Nodes, &cluster.Node{UID: fmt.Sprint("node-", i), Name: fmt.Sprint("node-", i), Labels: map[string]string{"zone": fmt.Sprint(i % 3)},
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})}})
	}
	for i := range pods {
		w.Pods = append(w.Pods, townPod(i))
	}
	for i := range policies {
		p := &cluster.Policy{UID: fmt.Sprint("policy-", i), Namespace: fmt.Sprint("team-", (i+i/10)%namespaces), Name: fmt.Sprint("policy-", i), Tier: cluster.NetworkTier}
		app := i / namespaces
		subject := func() { p.Subject.Pods.Equal = map[string]string{"app": fmt.Sprint("app-", app%10)} }
		from := func(peers ...cluster.PolicyPeer) cluster.PolicyRule {
			return cluster.PolicyRule{Action: cluster.AllowAction, Peers: peers, AnyPeer: len(peers) == 0}
		}
		switch i % 10 {
		case 0: // everything is denied unless another allows it
			p.IsolatesIngress, p.IsolatesEgress = true, true
		case 1, 2, 3, 4: // one deployment asks another
			subject()
			p.IsolatesIngress = true
			r := from(cluster.PolicyPeer{SameNamespace: true, Pods: &cluster.Selector{Equal: map[string]string{"app": fmt.Sprint("app-", (app+i)%10)}}})
			r.Ports = []cluster.PolicyPort{{Protocol: "tcp", Name: "http"}, {Protocol: "tcp", First: 9000, Last: 9100}}
			p.Ingress = append(p.Ingress, r)
		case 5: // monitoring, from everywhere that has the label
			subject()
			p.IsolatesIngress = true
			r := from(cluster.PolicyPeer{Namespaces: &cluster.Selector{Equal: map[string]string{"team": "0"}}, Pods: &cluster.Selector{Equal: map[string]string{"app": "app-1"}}})
			r.Ports = []cluster.PolicyPort{{Protocol: "tcp", First: 9090, Last: 9090}}
			p.Ingress = append(p.Ingress, r)
		case 6: // names
			p.IsolatesEgress = true
			r := from(cluster.PolicyPeer{Namespaces: &cluster.Selector{Equal: map[string]string{"kubernetes.io/metadata.name": "team-0"}}, Pods: &cluster.Selector{Equal: map[string]string{"app": "app-0"}}})
			r.Ports = []cluster.PolicyPort{{Protocol: "udp", Name: "dns"}, {Protocol: "tcp", First: 53, Last: 53}}
			p.Egress = append(p.Egress, r)
		case 7: // outside, but not what is near
			subject()
			p.IsolatesEgress = true
			r := from(cluster.PolicyPeer{Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, Except: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
				cluster.PolicyPeer{Networks: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i), 0}), 24)}})
			r.Ports = []cluster.PolicyPort{{Protocol: "tcp", First: 443, Last: 443}}
			p.Egress = append(p.Egress, r)
		case 8: // whoever is in the team
			subject()
			p.IsolatesIngress = true
			p.Ingress = append(p.Ingress, from(cluster.PolicyPeer{Namespaces: &cluster.Selector{Equal: map[string]string{"team": fmt.Sprint(i / 10 % 10)}}}))
		case 9: // some of the whole cluster
			if i%100 != 99 {
				p.IsolatesIngress = true
				p.Ingress = append(p.Ingress, from(cluster.PolicyPeer{SameNamespace: true, Pods: &cluster.Selector{}}))
				break
			}
			p.Namespace, p.Tier, p.Priority = "", cluster.AdminTier, int32(i/100)
			p.Subject.Namespaces.Equal = map[string]string{"team": fmt.Sprint(i / 100 % 10)}
			r := from(cluster.PolicyPeer{Namespaces: &cluster.Selector{Rules: []cluster.SelectorRule{{Key: "team", Op: cluster.OpNotIn, Values: []string{fmt.Sprint(i / 100 % 10), "0"}}}}})
			r.Action = cluster.DenyAction
			r.Ports = []cluster.PolicyPort{{Protocol: "tcp", First: 22, Last: 22}}
			p.Ingress = append(p.Ingress, r)
		}
		w.Policies = append(w.Policies, p)
	}
	return w
}

func townPod(i int) *cluster.Pod {
	app := i / 100 % 10
	return &cluster.Pod{UID: fmt.Sprintf("9b2f3c1e-0000-4000-8000-%012x", i), Name: fmt.Sprint("pod-", i), Namespace: fmt.Sprint("team-", i%100), Node: fmt.Sprint("node-", (i+i/100)%200),
		Labels: map[string]string{"app": fmt.Sprint("app-", app), "pod-template-hash": fmt.Sprintf("%08x", app*7919), "version": "v1"},
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}),
			netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})},
		Ports: []cluster.PodPort{{Name: "http", Protocol: "tcp", Port: uint16(8000 + app)}, {Name: "dns", Protocol: "udp", Port: 5353}}}
}

// oneNode are the pods of one of the nodes, as an agent asks for them.
func oneNode(p *cluster.Pod) bool { return p.Node == "node-7" }

func mustCompile(t testing.TB, c *netpol.Compiler, w *netpol.World, subjects func(*cluster.Pod) bool) *netpol.Program {
	t.Helper()
	program, err := c.Compile(w, subjects)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// changes are things that happen to a town, one at a time.
var changes = []struct {
	name   string
	change func(w *netpol.World, i int)
}{
	{"nothing", func(*netpol.World, int) {}},
	{"a pod like others", func(w *netpol.World, i int) { w.Pods = append(w.Pods, townPod(1_000_000+i)) }},
	{"a pod like no other", func(w *netpol.World, i int) {
		p := townPod(7 + 200*(i%50))
		p.UID, p.Addrs = fmt.Sprint("new-", i), []netip.Addr{netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)})}
		p.Labels = map[string]string{"app": "app-3", "statefulset.kubernetes.io/pod-name": fmt.Sprint("x-", i)}
		p.Ports = []cluster.PodPort{{Name: "http", Protocol: "tcp", Port: uint16(20000 + i%1000)}}
		w.Pods = append(w.Pods, p)
	}},
	{"labels of a pod", func(w *netpol.World, i int) {
		p := *w.Pods[i%len(w.Pods)]
		p.Labels = map[string]string{"app": fmt.Sprint("app-", i%10)}
		w.Pods[i%len(w.Pods)] = &p
	}},
	{"a policy of a namespace", func(w *netpol.World, i int) {
		n := 1 + i*10%1000 // kind 1: who may ask whom
		p := *w.Policies[n]
		p.Ingress = slices.Clone(p.Ingress)
		p.Ingress[0].Ports = []cluster.PolicyPort{{Protocol: "tcp", First: uint16(1 + i%60000), Last: uint16(1 + i%60000)}}
		w.Policies[n] = &p
	}},
	{"a network", func(w *netpol.World, i int) {
		n := 7 + i*10%1000
		p := *w.Policies[n]
		p.Egress = slices.Clone(p.Egress)
		p.Egress[0].Peers = append(slices.Clip(p.Egress[0].Peers), cluster.PolicyPeer{Networks: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, byte(i), 0}), 24)}})
		w.Policies[n] = &p
	}},
	{"a policy of the cluster", func(w *netpol.World, i int) {
		n := 99 + i*100%1000
		p := *w.Policies[n]
		p.Priority = int32(i % 1000)
		w.Policies[n] = &p
	}},
	{"labels of a namespace", func(w *netpol.World, i int) {
		w.Namespaces = maps.Clone(w.Namespaces)
		w.Namespaces[fmt.Sprint("team-", i%100)] = map[string]string{"kubernetes.io/metadata.name": fmt.Sprint("team-", i%100), "team": fmt.Sprint(i / 100 % 10)}
	}},
}

func BenchmarkCompile(b *testing.B) {
	for _, subjects := range []struct {
		name string
		are  func(*cluster.Pod) bool
	}{{"node", oneNode}, {"all", nil}} {
		b.Run("nothing-known/"+subjects.name, func(b *testing.B) {
			w := town(10_000, 1000)
			var program *netpol.Program
			for b.Loop() {
				program = mustCompile(b, netpol.NewCompiler(), w, subjects.are)
			}
			ms(b)
			verdicts, ids := 0, make(map[netpol.ID]bool)
			for _, set := range program.Sets {
				verdicts += len(set.Verdicts)
			}
			for _, id := range program.Addresses {
				ids[id] = true
			}
			b.ReportMetric(float64(verdicts), "verdicts")
			b.ReportMetric(float64(len(program.Sets)), "sets")
			b.ReportMetric(float64(len(ids)), "identities")
		})
		for _, change := range changes {
			b.Run(change.name+"/"+subjects.name, func(b *testing.B) {
				w, c := town(10_000, 1000), netpol.NewCompiler()
				mustCompile(b, c, w, subjects.are)
				i := 0
				for b.Loop() {
					i++
					change.change(w, i)
					mustCompile(b, c, w, subjects.are)
				}
				ms(b)
			})
		}
	}
}

func ms(b *testing.B) {
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(b.Elapsed())/float64(time.Millisecond)/float64(b.N), "ms/op")
}

func BenchmarkJudge(b *testing.B) {
	w := town(10_000, 1000)
	program := mustCompile(b, netpol.NewCompiler(), w, nil)
	p := netpol.Packet{Src: w.Pods[101].Addrs[0], Dst: w.Pods[201].Addrs[0], Protocol: 6, Port: 8001}
	for b.Loop() {
		program.Judge(p)
	}
}

func BenchmarkExplain(b *testing.B) {
	w := town(10_000, 1000)
	p := netpol.Packet{Src: w.Pods[101].Addrs[0], Dst: w.Pods[201].Addrs[0], Protocol: 6, Port: 8001}
	w = w.Index()
	for b.Loop() {
		_ = netpol.Explain(p, w).String()
	}
}

func BenchmarkEvaluate(b *testing.B) {
	w := town(10_000, 1000)
	p := netpol.Packet{Src: w.Pods[101].Addrs[0], Dst: w.Pods[201].Addrs[0], Protocol: 6, Port: 8001}
	for b.Loop() {
		netpol.Evaluate(p, w)
	}
}
