package netpol_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"warren/cluster"
	"warren/netpol"
)

// chance makes choices: at random, or as the bytes of a fuzzer say.
type chance struct {
	random *rand.Rand
	bytes  []byte
}

// n returns 0 to n-1. Small numbers are the plain things, so that a shrunk
// input is a plain world.
func (c *chance) n(n int) int {
	if c.random != nil {
		return c.random.IntN(n)
	}
	if len(c.bytes) == 0 {
		return 0
	}
	b := c.bytes[0]
	c.bytes = c.bytes[1:]
	return int(b) % n
}

func (c *chance) one(in int) bool { return c.n(in) == in-1 }

func pick[T any](c *chance, of []T) T { return of[c.n(len(of))] }

var (
	someNamespaces = []string{"shop", "pay", "dev", "kube"}
	someKeys       = []string{"app", "tier", "zone"}
	someValues     = []string{"a", "b", "c"}
	someNames      = []string{"http", "db", "dns"}
	someProtocols  = []string{"tcp", "udp", "sctp"}
	somePorts      = []uint16{80, 53, 5432, 8080, 1, 1023, 1024, 65535, 8081, 443}
	someNetworks   = []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.4/30", "10.1.1.5/32", "0.0.0.0/0", "::/0", "fd00::/16", "fd00:1::/64",
		"fd00:1::4/126", "192.0.2.0/24", "192.0.2.7/8", "::ffff:10.1.0.0/112", "::ffff:0:0/96", "::/80", "172.16.0.0/30"}
)

func (c *chance) labels() map[string]string {
	labels := make(map[string]string)
	for range c.n(4) {
		labels[pick(c, someKeys)] = pick(c, someValues)
	}
	return labels
}

func (c *chance) selector() cluster.Selector {
	var s cluster.Selector
	if c.one(4) {
		return s
	}
	if !c.one(3) {
		s.Equal = map[string]string{pick(c, someKeys): pick(c, someValues)}
	}
	for range c.n(3) {
		r := cluster.SelectorRule{Key: pick(c, someKeys), Op: cluster.OpIn + cluster.SelectorOp(c.n(4))}
		if r.Op <= cluster.OpNotIn {
			for range 1 + c.n(2) {
				r.Values = append(r.Values, pick(c, someValues))
			}
		}
		s.Rules = append(s.Rules, r)
	}
	return s
}

func (c *chance) networks(n int) (networks []netip.Prefix) {
	for range n {
		if c.one(3) {
			addr := c.addr(c.one(3))
			networks = append(networks, netip.PrefixFrom(addr, c.n(addr.BitLen()+1)))
			continue
		}
		networks = append(networks, netip.MustParsePrefix(pick(c, someNetworks)))
	}
	return networks
}

func (c *chance) addr(six bool) netip.Addr {
	low := byte(c.n(12))
	if six {
		return netip.AddrFrom16([16]byte{0: 0xfd, 3: byte(c.n(2)), 15: low})
	}
	return netip.AddrFrom4([4]byte{10, byte(c.n(2)), byte(c.n(2)), low})
}

func (c *chance) peer(p *cluster.Policy, dir netpol.Direction) (peer cluster.PolicyPeer) {
	kinds := 4
	if p.Tier != cluster.NetworkTier && dir == netpol.Egress || c.one(20) {
		kinds = 5
	}
	switch c.n(kinds) {
	case 0:
		s := c.selector()
		peer.Pods = &s
		if p.Tier == cluster.NetworkTier {
			peer.SameNamespace = true
		} else {
			peer.Namespaces = &cluster.Selector{}
		}
	case 1:
		s := c.selector()
		peer.Namespaces = &s
	case 2:
		s, n := c.selector(), c.selector()
		peer.Pods, peer.Namespaces = &s, &n
	case 3:
		peer.Networks = c.networks(1 + c.n(2))
		peer.Except = c.networks(c.n(3))
	case 4:
		s := c.selector()
		peer.Nodes = &s
	}
	if c.one(100) { // garbage
		peer.SameNamespace = !peer.SameNamespace
	}
	return peer
}

func (c *chance) port() cluster.PolicyPort {
	port := cluster.PolicyPort{Protocol: pick(c, someProtocols)}
	switch c.n(6) {
	case 0, 1:
		port.First = pick(c, somePorts)
		port.Last = port.First
	case 2:
		port.First, port.Last = pick(c, somePorts), pick(c, somePorts)
		if port.First > port.Last && !c.one(20) {
			port.First, port.Last = port.Last, port.First
		}
	case 3:
		port.Name = pick(c, someNames)
		if c.one(3) {
			port.Protocol = ""
		}
	case 4: // all ports of the protocol
	case 5:
		port.First = uint16(c.n(256)<<8 | c.n(256))
		port.Last = uint16(c.n(256)<<8 | c.n(256))
		if port.First > port.Last {
			port.First, port.Last = port.Last, port.First
		}
	}
	if c.one(40) {
		port.Protocol = ""
	}
	if c.one(100) {
		port.Protocol = "icmp"
	}
	return port
}

func (c *chance) rules(p *cluster.Policy, dir netpol.Direction) (rules []cluster.PolicyRule) {
	for range c.n(4) {
		rule := cluster.PolicyRule{Action: cluster.AllowAction}
		if p.Tier != cluster.NetworkTier || c.one(100) {
			rule.Action += cluster.PolicyAction(c.n(3))
		}
		if c.one(5) {
			rule.AnyPeer = true
		} else {
			for range c.n(3) + 1 - c.n(2)*c.n(2) {
				rule.Peers = append(rule.Peers, c.peer(p, dir))
			}
		}
		for range c.n(3) {
			rule.Ports = append(rule.Ports, c.port())
		}
		rules = append(rules, rule)
	}
	return rules
}

func (c *chance) policy(n int) *cluster.Policy {
	p := &cluster.Policy{UID: fmt.Sprint("policy-", n), Name: fmt.Sprint("p", n), Tier: cluster.NetworkTier}
	switch c.n(4) {
	case 0, 1:
		p.Namespace = pick(c, someNamespaces)
		p.IsolatesIngress, p.IsolatesEgress = !c.one(3), c.one(2)
	case 2:
		p.Tier = cluster.AdminTier
	case 3:
		p.Tier = cluster.BaselineTier
	}
	if p.Tier != cluster.NetworkTier {
		p.Priority = int32(c.n(4))
		p.Subject.Namespaces = c.selector()
	}
	p.Subject.Pods = c.selector()
	p.Ingress, p.Egress = c.rules(p, netpol.Ingress), c.rules(p, netpol.Egress)
	return p
}

func (c *chance) pod(n int) *cluster.Pod {
	p := &cluster.Pod{UID: fmt.Sprint("pod-", n), Name: fmt.Sprint("pod", n), Namespace: pick(c, someNamespaces),
		Node: fmt.Sprint("n", c.n(4)), Labels: c.labels(), HostNetwork: c.one(12)}
	if !c.one(20) {
		p.Addrs = append(p.Addrs, c.addr(false))
	}
	if c.one(2) {
		p.Addrs = append(p.Addrs, c.addr(true))
	}
	if c.one(20) {
		p.Addrs = append(p.Addrs, netip.AddrFrom16(c.addr(false).As16()))
	}
	for range c.n(3) {
		p.Ports = append(p.Ports, cluster.PodPort{Name: pick(c, someNames), Protocol: pick(c, someProtocols), Port: pick(c, somePorts)})
	}
	if c.one(10) {
		p.NamespaceLabels = c.labels()
	}
	return p
}

func (c *chance) node(n int) *cluster.Node {
	node := &cluster.Node{UID: fmt.Sprint("node-", n), Name: fmt.Sprint("n", n%4), Labels: c.labels()}
	node.Addrs = append(node.Addrs, netip.AddrFrom4([4]byte{172, 16, 0, byte(n % 3)}))
	if c.one(2) {
		node.Addrs = append(node.Addrs, c.addr(c.one(2)))
	}
	return node
}

func (c *chance) world() *netpol.World {
	w := &netpol.World{Namespaces: make(map[string]map[string]string)}
	for _, name := range someNamespaces {
		if !c.one(8) {
			w.Namespaces[name] = c.labels()
		}
	}
	for i := range c.n(5) {
		w.Nodes = append(w.Nodes, c.node(i))
	}
	for i := range 2 + c.n(30) {
		w.Pods = append(w.Pods, c.pod(i))
	}
	for i := range c.n(12) {
		w.Policies = append(w.Policies, c.policy(i))
	}
	return w
}

func (c *chance) packet(w *netpol.World) netpol.Packet {
	end := func() netip.Addr {
		switch c.n(16) {
		case 0:
			return c.addr(c.one(2))
		case 1, 2:
			if len(w.Nodes) > 0 {
				return pick(c, pick(c, w.Nodes).Addrs)
			}
			return netip.AddrFrom4([4]byte{192, 0, 2, byte(c.n(10))})
		case 3:
			return netip.AddrFrom16(c.addr(false).As16())
		}
		if p := pick(c, w.Pods); len(p.Addrs) > 0 {
			return pick(c, p.Addrs)
		}
		return netip.Addr{}
	}
	p := netpol.Packet{Src: end(), Dst: end(), Protocol: protocols[pick(c, someProtocols)], Port: pick(c, somePorts)}
	if c.one(3) {
		p.Port += uint16(c.n(3)) - 1
	}
	if c.one(20) {
		p.Protocol, p.Port = protocols["icmp"], 0
	}
	return p
}

// change changes one thing, or a few, as a new World that shares the rest.
func (c *chance) change(w *netpol.World, round int) *netpol.World {
	next := &netpol.World{Pods: slices.Clone(w.Pods), Nodes: slices.Clone(w.Nodes), Namespaces: make(map[string]map[string]string), Policies: slices.Clone(w.Policies)}
	for name, labels := range w.Namespaces {
		next.Namespaces[name] = labels
	}
	for range 1 + c.n(3) {
		switch c.n(10) {
		case 0: // a pod is another
			i := c.n(len(next.Pods))
			p := c.pod(0)
			p.UID, p.Name = next.Pods[i].UID, next.Pods[i].Name
			if !c.one(3) {
				p.Namespace = next.Pods[i].Namespace
			}
			next.Pods[i] = p
		case 1:
			if len(next.Pods) > 2 {
				i := c.n(len(next.Pods))
				next.Pods = slices.Delete(next.Pods, i, i+1)
			}
		case 2, 3:
			next.Pods = append(next.Pods, c.pod(1000+round*8+c.n(8)))
			last := next.Pods[len(next.Pods)-1]
			next.Pods = slices.DeleteFunc(next.Pods, func(p *cluster.Pod) bool { return p != last && p.UID == last.UID })
		case 4:
			if len(next.Policies) > 0 {
				i := c.n(len(next.Policies))
				next.Policies = slices.Delete(next.Policies, i, i+1)
			}
		case 5:
			n := 1000 + round*8 + c.n(8)
			next.Policies = slices.DeleteFunc(next.Policies, func(p *cluster.Policy) bool { return p.UID == fmt.Sprint("policy-", n) })
			next.Policies = append(next.Policies, c.policy(n))
		case 6: // a policy is another, or only told again
			if len(next.Policies) > 0 {
				i := c.n(len(next.Policies))
				p := *next.Policies[i]
				switch c.n(4) {
				case 0:
					p.Generation++
				case 1:
					p.Subject.Pods = c.selector()
				case 2:
					p.Ingress = c.rules(&p, netpol.Ingress)
				case 3:
					p.Egress = c.rules(&p, netpol.Egress)
				}
				next.Policies[i] = &p
			}
		case 7:
			next.Namespaces[pick(c, someNamespaces)] = c.labels()
		case 8:
			delete(next.Namespaces, pick(c, someNamespaces))
		case 9:
			n := c.n(6)
			next.Nodes = slices.DeleteFunc(next.Nodes, func(o *cluster.Node) bool { return o.UID == fmt.Sprint("node-", n) })
			if !c.one(3) {
				next.Nodes = append(next.Nodes, c.node(n))
			}
		}
	}
	return next
}

// hold holds a Program against Evaluate for some packets.
func hold(t *testing.T, c *chance, w *netpol.World, program *netpol.Program, subjects func(*cluster.Pod) bool, packets int, what string) {
	t.Helper()
	indexed := w.Index()
	for range packets {
		p := c.packet(w)
		wantEgress, wantIngress := netpol.Evaluate(p, w)
		egress, ingress := program.Judge(p)
		if e := netpol.Explain(p, indexed); e.Egress.Judgement != wantEgress || e.Ingress.Judgement != wantIngress {
			t.Fatalf("%s: %+v is explained as %s, but judged %v, %v\n%s", what, p, e, wantEgress, wantIngress, textWorld{w})
		} else {
			for _, r := range []netpol.Reason{e.Egress, e.Ingress} {
				if (r.Why == netpol.DefaultDeny) != (r.Verdict == netpol.Deny && r.Rule == netpol.Ref{}) || r.Nearest != nil && len(r.Nearest.Differs) == 0 {
					t.Fatalf("%s: %+v is explained as %s\n%s", what, p, r, textWorld{w})
				}
			}
		}
		if subjects != nil {
			// An end for which nothing was compiled is not judged.
			if egress.Verdict == netpol.Unjudged {
				wantEgress = netpol.Judgement{}
			}
			if ingress.Verdict == netpol.Unjudged {
				wantIngress = netpol.Judgement{}
			}
		}
		if egress != wantEgress || ingress != wantIngress {
			t.Fatalf("%s:\negress  %v, want %v\ningress %v, want %v\n-- world --\n%s-- packets --\n%s -> %s %d %d\n",
				what, egress, wantEgress, ingress, wantIngress, textWorld{shrink(w, p)}, p.Src, p.Dst, p.Protocol, p.Port)
		}
	}
}

// shrink leaves out of a world what a packet is judged wrongly without. A world
// that is judged rightly when it is compiled from nothing stays as it is.
func shrink(w *netpol.World, p netpol.Packet) *netpol.World {
	wrong := func(w *netpol.World) bool {
		program, err := netpol.NewCompiler().Compile(w, nil)
		if err != nil {
			return false
		}
		wantEgress, wantIngress := netpol.Evaluate(p, w)
		egress, ingress := program.Judge(p)
		return egress != wantEgress || ingress != wantIngress
	}
	if !wrong(w) {
		return w
	}
	for smaller := true; smaller; {
		smaller = false
		try := func(change func(w *netpol.World)) {
			less := *w
			if change(&less); wrong(&less) {
				w, smaller = &less, true
			}
		}
		for i := len(w.Policies) - 1; i >= 0; i-- {
			try(func(w *netpol.World) { w.Policies = slices.Delete(slices.Clone(w.Policies), i, i+1) })
		}
		for i := len(w.Pods) - 1; i >= 0; i-- {
			try(func(w *netpol.World) { w.Pods = slices.Delete(slices.Clone(w.Pods), i, i+1) })
		}
		for i := len(w.Nodes) - 1; i >= 0; i-- {
			try(func(w *netpol.World) { w.Nodes = slices.Delete(slices.Clone(w.Nodes), i, i+1) })
		}
		for i := range w.Policies {
			rules := func(change func(p *cluster.Policy)) {
				try(func(w *netpol.World) {
					p := *w.Policies[i]
					change(&p)
					w.Policies = slices.Clone(w.Policies)
					w.Policies[i] = &p
				})
			}
			for j := len(w.Policies[i].Ingress) - 1; j >= 0; j-- {
				rules(func(p *cluster.Policy) { p.Ingress = slices.Delete(slices.Clone(p.Ingress), j, j+1) })
			}
			for j := len(w.Policies[i].Egress) - 1; j >= 0; j-- {
				rules(func(p *cluster.Policy) { p.Egress = slices.Delete(slices.Clone(p.Egress), j, j+1) })
			}
		}
	}
	return w
}

// play compiles a world and changes of it, and holds every Program against
// Evaluate, and against one that is compiled from nothing.
func play(t *testing.T, c *chance, changes, packets int) {
	t.Helper()
	w := c.world()
	var subjects func(*cluster.Pod) bool
	node := ""
	if c.one(3) {
		node = fmt.Sprint("n", c.n(4))
		subjects = func(p *cluster.Pod) bool { return p.Node == node }
	}
	compiler := netpol.NewCompiler()
	var last *netpol.Program
	for round := range changes + 1 {
		if round > 0 {
			w = c.change(w, round)
		}
		program, err := compiler.Compile(w, subjects)
		if err != nil {
			t.Fatal(err)
		}
		hold(t, c, w, program, subjects, packets, fmt.Sprint("change ", round))
		fresh, err := netpol.NewCompiler().Compile(w, subjects)
		if err != nil {
			t.Fatal(err)
		}
		sameProgram(t, program, fresh, w)
		soundProgram(t, program, last)
		last = program
	}
}

// sameProgram holds a Program that was made by changes against one from nothing:
// numbers differ, but not how many there are, and who shares them.
func sameProgram(t *testing.T, a, b *netpol.Program, w *netpol.World) {
	t.Helper()
	if len(a.Addresses) != len(b.Addresses) || len(a.Networks) != len(b.Networks) || len(a.Sets) != len(b.Sets) || len(a.SetOf) != len(b.SetOf) {
		t.Fatalf("%d addresses, %d networks, %d sets, %d subjects; from nothing %d, %d, %d, %d\n%s", len(a.Addresses), len(a.Networks), len(a.Sets), len(a.SetOf),
			len(b.Addresses), len(b.Networks), len(b.Sets), len(b.SetOf), textWorld{w})
	}
	ids := make(map[netpol.ID]netpol.ID)
	pair := func(x, y netpol.ID) {
		if was, ok := ids[x]; ok && was != y || x == 0 || y == 0 {
			t.Fatalf("identity %d is %d and %d from nothing\n%s", x, was, y, textWorld{w})
		}
		ids[x] = y
	}
	for addr, id := range a.Addresses {
		pair(id, b.Addresses[addr])
	}
	for prefix, id := range a.Networks {
		pair(id, b.Networks[prefix])
	}
	for uid, set := range a.SetOf {
		x, y := a.Sets[set], b.Sets[b.SetOf[uid]]
		if len(x.Verdicts) != len(y.Verdicts) || x.Isolated != y.Isolated || x.Lengths != y.Lengths || x.AnyProtocol != y.AnyProtocol {
			t.Fatalf("the set of %s is %+v, from nothing %+v\n%s", uid, x, y, textWorld{w})
		}
		for key, value := range x.Verdicts {
			if key.Peer != 0 {
				key.Peer = ids[key.Peer]
			}
			if other := y.Verdicts[key]; other.Order != value.Order || b.Rules[other.Rule[0]] != a.Rules[value.Rule[0]] || b.Rules[other.Rule[1]] != a.Rules[value.Rule[1]] {
				t.Fatalf("the set of %s has %+v: %+v, from nothing %+v\n%s", uid, key, value, other, textWorld{w})
			}
		}
	}
}

// soundProgram finds what no Program may be, alone and after another.
func soundProgram(t *testing.T, p, last *netpol.Program) {
	t.Helper()
	ids := make(map[netpol.ID]bool)
	for _, id := range p.Addresses {
		ids[id] = true
	}
	for _, id := range p.Networks {
		ids[id] = true
	}
	for id, set := range p.Sets {
		if set.ID != id {
			t.Fatalf("set %d calls itself %d", id, set.ID)
		}
		if last != nil && last.Sets[id] != nil && last.Sets[id] != set {
			t.Fatalf("set %d is another than before", id)
		}
		for key, value := range set.Verdicts {
			if key.Peer != 0 && !ids[key.Peer] {
				t.Fatalf("verdict %+v is about nobody", key)
			}
			if key.Bits > 16 || key.Protocol == 0 && (key.Bits != 0 || key.Port != 0) || key.Bits < 16 && key.Port<<key.Bits != 0 {
				t.Fatalf("verdict %+v is no key", key)
			}
			if key.Protocol == 0 && !set.AnyProtocol[key.Direction] || key.Protocol != 0 && set.Lengths[key.Direction]&(1<<key.Bits) == 0 {
				t.Fatalf("verdict %+v is not looked for", key)
			}
			for slot, order := range value.Order {
				if _, ok := p.Rules[value.Rule[slot]]; (order != 0) != ok {
					t.Fatalf("verdict %+v: %+v has no rule", key, value)
				}
			}
		}
	}
	if last == nil {
		return
	}
	for id, ref := range last.Rules {
		if now, ok := p.Rules[id]; ok && now != ref {
			t.Fatalf("rule %d was %v and is %v", id, ref, now)
		}
	}
}

// TestJudgeIsEvaluate holds the two meanings of policy together, over worlds,
// changes of them and packets at random.
func TestJudgeIsEvaluate(t *testing.T) {
	rounds := 500
	if testing.Short() {
		rounds = 200
	}
	for seed := range uint64(rounds) {
		func() {
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			play(t, &chance{random: rand.New(rand.NewPCG(seed, 1))}, 6, 60)
		}()
	}
}

// FuzzJudge does the same with what a fuzzer comes up with.
func FuzzJudge(f *testing.F) {
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 2))
		data := make([]byte, 600)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { play(t, &chance{bytes: data}, 3, 30) })
}
