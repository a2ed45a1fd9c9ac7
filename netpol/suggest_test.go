package netpol

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/cluster"
)

// someWorld is three namespaces of pods whose labels overlap in every way: none,
// some of another's, replicas, and ports with names that differ among them.
func someWorld(r *rand.Rand) *World {
	w := &World{Namespaces: map[string]map[string]string{}, Nodes: []*cluster.Node{
		{UID: "n1", Name: "n1", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
		{UID: "n2", Name: "n2", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}},
	}}
	keys := []string{"app", "tier", "color", "app.kubernetes.io/name"}
	n := 0
	for _, ns := range []string{"shop", "bank", "kube-system"} {
		w.Namespaces[ns] = map[string]string{namespaceLabel: ns}
		for range 1 + r.IntN(5) {
			labels := map[string]string{}
			for _, k := range keys {
				if r.IntN(2) == 0 {
					labels[k] = string(rune('a' + r.IntN(2)))
				}
			}
			ports := []cluster.PodPort{{Name: "web", Protocol: "tcp", Port: 8080}}
			if r.IntN(2) == 0 {
				ports = nil
			}
			for replica := range 1 + r.IntN(2) {
				n++
				mine := maps.Clone(labels)
				mine["pod-template-hash"] = fmt.Sprint(n)
				if r.IntN(3) == 0 {
					ports = []cluster.PodPort{{Name: "web", Protocol: "tcp", Port: uint16(8080 + replica)}}
				}
				w.Pods = append(w.Pods, &cluster.Pod{
					UID: fmt.Sprint("uid", n), Name: fmt.Sprint("pod-", n), Namespace: ns, Node: fmt.Sprint("n", 1+n%2), Labels: mine,
					NamespaceLabels: w.Namespaces[ns], Ports: ports,
					Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), netip.MustParseAddr(fmt.Sprintf("fd00::%x", n))},
				})
			}
		}
	}
	return w
}

func party(w *World, r *rand.Rand) Party {
	switch r.IntN(12) {
	case 0:
		return Party{Addr: netip.AddrFrom4([4]byte{198, 51, 100, byte(r.IntN(200))})}
	case 1:
		n := w.Nodes[r.IntN(2)]
		return Party{Addr: n.Addrs[0], Node: n}
	}
	p := w.Pods[r.IntN(len(w.Pods))]
	return Party{Addr: p.Addrs[r.IntN(2)], Pod: p}
}

// TestSuggestProperty holds suggestions against what was observed: whatever was
// is allowed, and nothing else of the table of all pods by all pods by all ports,
// in both directions. Addresses outside are few enough to be named one by one.
func TestSuggestProperty(t *testing.T) {
	ports := []uint16{80, 8080, 8081, 53}
	protocols := []uint8{6, 17, 132}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		w := someWorld(r)
		type flow struct {
			from, to string
			protocol uint8
			port     uint16
		}
		s := &suggester{kinds: map[string][]*kindOfPods{}, of: map[*cluster.Pod]*kindOfPods{}}
		for _, p := range w.Pods {
			s.learn(p)
		}
		// Pods that labels do not tell apart are one, for policies.
		who := func(p Party) string {
			if k := s.kindOf(p.Pod); k != nil {
				return fmt.Sprint(k.namespace, k.labels)
			}
			return p.Addr.String()
		}
		seen := map[flow]bool{}
		var all []Observation
		parties := map[string]Party{}
		for _, p := range w.Pods {
			parties[p.UID] = Party{Addr: p.Addrs[0], Pod: p}
		}
		for range r.IntN(12) {
			o := Observation{From: party(w, r), To: party(w, r), Protocol: protocols[r.IntN(3)], Port: ports[r.IntN(4)], Count: 1}
			if o.From.Pod != nil && o.From.Pod == o.To.Pod {
				continue
			}
			// What one pod's node asked of it, another's of its kind may not.
			if o.To.Pod == nil || !ownNode(o.From, o.To.Pod) {
				seen[flow{who(o.From), who(o.To), o.Protocol, o.Port}] = true
			}
			all = append(all, o)
			for _, p := range []Party{o.From, o.To} {
				if p.Pod == nil {
					parties[p.Addr.String()] = p
				}
			}
		}
		list, left := Suggest("shop", w, all)
		if len(left) > 0 {
			t.Fatalf("seed %d: %d were left out", seed, len(left))
		}
		after := *w
		for i, s := range list {
			s.Policy.UID = fmt.Sprint("policy", i)
			after.Policies = append(after.Policies, s.Policy)
			if len(s.Policy.Problems) > 0 {
				t.Errorf("seed %d: %v", seed, s.Policy.Problems)
			}
			for d, rules := range [][]cluster.PolicyRule{Egress: s.Policy.Egress, Ingress: s.Policy.Ingress} {
				if len(rules) != len(s.Evidence[d]) {
					t.Fatalf("seed %d: %d rules and evidence of %d", seed, len(rules), len(s.Evidence[d]))
				}
			}
		}
		for _, from := range parties {
			for _, to := range parties {
				for _, protocol := range protocols {
					for _, port := range ports {
						egress, ingress := Evaluate(Packet{Src: from.Addr, Dst: to.Addr, Protocol: protocol, Port: port}, &after)
						want := seen[flow{who(from), who(to), protocol, port}]
						if from.Pod != nil && from.Pod == to.Pod {
							want = true
						}
						if from.Pod != nil && from.Pod.Namespace == "shop" && (egress.Verdict == Allow) != want {
							t.Fatalf("seed %d: egress of %v to %v %d/%d: %v, seen %v\n%s", seed, from, to, protocol, port, egress, want, written(list))
						}
						if to.Pod != nil && ownNode(from, to.Pod) {
							want = true
						}
						if to.Pod != nil && to.Pod.Namespace == "shop" && (ingress.Verdict == Allow) != want {
							t.Fatalf("seed %d: ingress of %v from %v %d/%d: %v, seen %v\n%s", seed, to, from, protocol, port, ingress, want, written(list))
						}
					}
				}
			}
		}
	}
}

func written(list []Suggestion) string {
	var b bytes.Buffer
	for _, s := range list {
		b.WriteString("---\n")
		_ = s.WriteYAML(&b) // to memory
	}
	return b.String()
}

// TestSuggestWritten is what people see.
func TestSuggestWritten(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	pod := func(ns, name, workload string, addr byte, labels map[string]string, ports ...cluster.PodPort) *cluster.Pod {
		return &cluster.Pod{UID: name, Name: name, Namespace: ns, Node: "n1", Labels: labels, Ports: ports,
			Workload: cluster.Workload{Kind: "Deployment", Name: workload}, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, addr})}}
	}
	front := pod("shop", "front-1", "front", 1, map[string]string{"app": "front", "pod-template-hash": "1"}, cluster.PodPort{Name: "http", Protocol: "tcp", Port: 8080})
	canary := pod("shop", "canary-1", "canary", 2, map[string]string{"app": "front", "track": "true"})
	redis := pod("shop", "redis-1", "redis", 3, map[string]string{"app": "redis"})
	dns := pod("kube-system", "coredns-1", "coredns", 4, map[string]string{"k8s-app": "kube-dns"})
	w := &World{Pods: []*cluster.Pod{front, canary, redis, dns}}
	of := func(p *cluster.Pod) Party { return Party{Addr: p.Addrs[0], Pod: p} }
	outside := Party{Addr: netip.MustParseAddr("198.51.100.7")}
	list, left := Suggest("shop", w, []Observation{
		{From: of(front), To: of(redis), Protocol: 6, Port: 6379, Count: 41, First: at, Last: at.Add(time.Minute)},
		{From: of(front), To: of(dns), Protocol: 17, Port: 53, Count: 2},
		{From: outside, To: of(front), Protocol: 6, Port: 8080, Count: 1},
		{From: outside, To: of(front), Protocol: 1, Count: 3},
		{From: of(dns), To: outside, Protocol: 17, Port: 53, Count: 3},
	})
	if len(left) != 1 || left[0].Protocol != 1 {
		t.Errorf("left out: %v", left)
	}
	const want = `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: canary
  namespace: shop
spec:
  podSelector:
    matchLabels:
      app: front
      track: "true"
  policyTypes: [Ingress, Egress]
  ingress: [] # nothing was seen
  egress: [] # nothing was seen
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: front
  namespace: shop
spec:
  podSelector:
    matchLabels:
      app: front
    matchExpressions:
    - {key: track, operator: DoesNotExist}
  policyTypes: [Ingress, Egress]
  ingress:
  # 1 flow: 198.51.100.7 to shop/front-1 tcp/8080
  - from:
    - ipBlock: {cidr: "198.51.100.7/32"}
    ports:
    - {protocol: TCP, port: http}
  egress:
  # 41 flows from 2026-11-20T12:00:00Z to 2026-11-20T12:01:00Z: shop/front-1 to shop/redis-1 tcp/6379
  - to:
    - podSelector:
        matchLabels:
          app: redis
    ports:
    - {protocol: TCP, port: 6379}
  # 2 flows: shop/front-1 to kube-system/coredns-1 udp/53
  - to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: kube-system
      podSelector:
        matchLabels:
          k8s-app: kube-dns
    ports:
    - {protocol: UDP, port: 53}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: redis
  namespace: shop
spec:
  podSelector:
    matchLabels:
      app: redis
  policyTypes: [Ingress, Egress]
  ingress:
  # 41 flows from 2026-11-20T12:00:00Z to 2026-11-20T12:01:00Z: shop/front-1 to shop/redis-1 tcp/6379
  - from:
    - podSelector:
        matchLabels:
          app: front
        matchExpressions:
        - {key: track, operator: DoesNotExist}
    ports:
    - {protocol: TCP, port: 6379}
  egress: [] # nothing was seen
`
	if d := cmp.Diff(want, written(list)); d != "" {
		t.Error(d)
	}
}

func TestJoinNetworks(t *testing.T) {
	addrs := func(texts ...string) (list []netip.Addr) {
		for _, text := range texts {
			list = append(list, netip.MustParseAddr(text))
		}
		return list
	}
	for _, test := range []struct {
		name   string
		addrs  []netip.Addr
		most   int
		inside spans
		want   string
		wider  bool
	}{
		{"none", nil, 2, nil, "[]", false},
		{"as they are, each once", addrs("192.0.2.1", "192.0.2.9", "192.0.2.1"), 2, nil, "[192.0.2.1/32 192.0.2.9/32]", false},
		{"the nearest first", addrs("192.0.2.1", "192.0.2.9", "192.0.2.8"), 2, nil, "[192.0.2.1/32 192.0.2.8/31]", true},
		{"what lies between is in it", addrs("192.0.2.1", "192.0.2.129", "192.0.2.200", "198.51.100.1"), 2, nil, "[192.0.2.0/24 198.51.100.1/32]", true},
		{"families are not joined", addrs("192.0.2.1", "2001:db8::1"), 1, nil, "[192.0.2.1/32 2001:db8::1/128]", false},
		{
			"not over who is inside", addrs("9.255.255.254", "9.255.255.255", "11.0.0.1"), 1, spans{netip.MustParsePrefix("10.0.0.0/8")},
			"[9.255.255.254/31 11.0.0.1/32]", true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, wider := join(test.addrs, test.most, test.inside)
			if fmt.Sprint(got) != test.want || wider != test.wider {
				t.Errorf("got %v %v, want %s %v", got, wider, test.want, test.wider)
			}
		})
	}
}

// TestSuggestOutside holds that networks of many addresses outside allow no pod
// that was not seen: neither one that there is, nor one that may come, in a
// network of the nodes' pods.
func TestSuggestOutside(t *testing.T) {
	pod := func(name string, addr string) *cluster.Pod {
		return &cluster.Pod{UID: name, Name: name, Namespace: "shop", Node: "n1", Labels: map[string]string{"app": name}, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
	}
	crawler, other := pod("crawler", "10.0.0.1"), pod("other", "172.20.0.9") // from another network of pods
	w := &World{Pods: []*cluster.Pod{crawler, other}, Nodes: []*cluster.Node{
		{UID: "n1", Name: "n1", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}},
	}}
	var seen []Observation
	talk := func(addr netip.Addr) {
		seen = append(seen, Observation{From: Party{Addr: crawler.Addrs[0], Pod: crawler}, To: Party{Addr: addr}, Protocol: 6, Port: 443, Count: 1})
	}
	for i := range 20_000 {
		for _, first := range []byte{9, 11, 172, 192} {
			if second := byte(i >> 8); first < 172 || second < 20 {
				talk(netip.AddrFrom4([4]byte{first, second, byte(i), 77}))
			}
		}
	}
	list, _ := Suggest("shop", w, seen)
	after := *w
	for _, s := range list {
		after.Policies = append(after.Policies, s.Policy)
		if n := len(s.Policy.Egress); s.Policy.Name == "crawler" && (n != 1 || len(s.Policy.Egress[0].Peers) > 4*MaxExternal) {
			t.Errorf("%d rules", n)
		}
	}
	allowed := func(addr string) bool {
		egress, _ := Evaluate(Packet{Src: crawler.Addrs[0], Dst: netip.MustParseAddr(addr), Protocol: 6, Port: 443}, &after)
		return egress.Verdict == Allow
	}
	for _, o := range seen[:100] {
		if !allowed(o.To.Addr.String()) {
			t.Fatalf("%s was seen, and is denied", o.To.Addr)
		}
	}
	for _, addr := range []string{"172.20.0.9", "10.0.0.2", "10.0.0.200", "192.0.2.1"} {
		if allowed(addr) {
			t.Errorf("%s was not seen, and is allowed", addr)
		}
	}
}
