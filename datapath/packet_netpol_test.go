package datapath

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"unsafe"

	"warren/cluster"
	"warren/netpol"
)

// policyChance makes worlds around the pods and devices of a packetWorld: pods a,
// b and d here, others elsewhere, two nodes, and policies at random.
type policyChance struct{ *rand.Rand }

func (r policyChance) one(in int) bool { return r.IntN(in) == 0 }

func choose[T any](r policyChance, of ...T) T { return of[r.IntN(len(of))] }

func (r policyChance) labels() map[string]string {
	labels := map[string]string{"app": choose(r, "x", "y", "z")}
	if r.one(2) {
		labels["tier"] = choose(r, "front", "back")
	}
	return labels
}

func (r policyChance) selector() cluster.Selector {
	switch r.IntN(4) {
	case 0:
		return cluster.Selector{}
	case 1:
		return cluster.Selector{Rules: []cluster.SelectorRule{{Key: "tier", Op: choose(r, cluster.OpExists, cluster.OpDoesNotExist)}}}
	case 2:
		return cluster.Selector{Rules: []cluster.SelectorRule{{Key: "app", Op: choose(r, cluster.OpIn, cluster.OpNotIn), Values: []string{"x", choose(r, "y", "z")}}}}
	}
	return cluster.Selector{Equal: map[string]string{"app": choose(r, "x", "y", "z")}}
}

func (r policyChance) peer(p *cluster.Policy) (peer cluster.PolicyPeer) {
	pods, namespaces := r.selector(), r.selector()
	switch r.IntN(5) {
	case 0:
		peer.Pods = &pods
		peer.SameNamespace = p.Tier == cluster.NetworkTier
		if !peer.SameNamespace {
			peer.Namespaces = &cluster.Selector{}
		}
	case 1:
		peer.Namespaces = &namespaces
	case 2:
		peer.Pods, peer.Namespaces = &pods, &namespaces
	case 3:
		peer.Networks = []netip.Prefix{netip.MustParsePrefix(choose(r,
			"0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.0.0/30", "10.0.9.0/24", "fd00::/16", "fd00:9::/64", "203.0.113.0/24", "192.168.0.0/16"))}
		if r.one(2) {
			peer.Except = []netip.Prefix{netip.MustParsePrefix(choose(r, "10.0.0.2/32", "10.0.9.0/29", "fd00::2/127", "203.0.113.8/29"))}
		}
	case 4:
		if p.Tier == cluster.NetworkTier {
			peer.SameNamespace, peer.Pods = true, &pods
		} else {
			peer.Nodes = &cluster.Selector{}
		}
	}
	return peer
}

func (r policyChance) port() cluster.PolicyPort {
	port := cluster.PolicyPort{Protocol: choose(r, "tcp", "udp", "sctp")}
	switch r.IntN(4) {
	case 0:
		port.First = choose[uint16](r, 53, 80, 443)
		port.Last = port.First
	case 1:
		port.First = uint16(r.IntN(1000))
		port.Last = port.First + uint16(r.IntN(60_000))
	case 2:
		port.First, port.Last = 1, 65535
	}
	return port
}

func (r policyChance) rules(p *cluster.Policy) (rules []cluster.PolicyRule) {
	for range r.IntN(4) {
		rule := cluster.PolicyRule{Action: cluster.AllowAction, AnyPeer: r.one(4)}
		if p.Tier != cluster.NetworkTier {
			rule.Action = choose(r, cluster.AllowAction, cluster.DenyAction, cluster.PassAction)
		}
		if !rule.AnyPeer {
			rule.Peers = append(rule.Peers, r.peer(p))
		}
		for range r.IntN(3) {
			rule.Ports = append(rule.Ports, r.port())
		}
		rules = append(rules, rule)
	}
	return rules
}

func (r policyChance) policies() (policies []*cluster.Policy) {
	for i := range r.IntN(12) {
		p := &cluster.Policy{UID: fmt.Sprint("policy-", i), Name: fmt.Sprint("p", i)}
		switch p.Tier = choose(r, cluster.AdminTier, cluster.NetworkTier, cluster.NetworkTier, cluster.BaselineTier); p.Tier {
		case cluster.NetworkTier:
			p.Namespace = choose(r, "shop", "pay")
			p.IsolatesIngress, p.IsolatesEgress = !r.one(3), r.one(2)
		default:
			p.Priority = int32(r.IntN(5))
			p.Subject.Namespaces = r.selector()
		}
		p.Subject.Pods = r.selector()
		p.Ingress, p.Egress = r.rules(p), r.rules(p)
		policies = append(policies, p)
	}
	return policies
}

func (r policyChance) world() *netpol.World {
	w := &netpol.World{Namespaces: map[string]map[string]string{"shop": r.labels(), "pay": r.labels()}}
	for name, addr := range map[string]string{"here": hostAddr, "there": nodeAddr} {
		w.Nodes = append(w.Nodes, &cluster.Node{UID: name, Name: name, Labels: r.labels(), Addrs: []netip.Addr{netip.MustParseAddr(addr)}})
	}
	pod := func(name, node string, addrs ...string) {
		p := &cluster.Pod{UID: name, Name: name, Namespace: choose(r, "shop", "pay"), Node: node, Labels: r.labels()}
		p.NamespaceLabels = w.Namespaces[p.Namespace]
		for _, a := range addrs {
			p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
		}
		w.Pods = append(w.Pods, p)
	}
	pod("a", "here", podA4, podA6)
	pod("b", "here", podB4, podB6)
	pod("d", "here", podD4, podD6)
	for i := range 8 {
		pod(fmt.Sprint("c", i), "there", fmt.Sprintf("10.0.9.%d", i+1), fmt.Sprintf("fd00:9::%x", i+1))
	}
	w.Policies = r.policies()
	return w
}

// addr is the address of somebody of the family.
func (r policyChance) addr(six bool) string {
	if six {
		return choose(r, podA6, podB6, podD6, podA6, podB6, fmt.Sprintf("fd00:9::%x", 1+r.IntN(8)), world6)
	}
	return choose(r, podA4, podB4, podD4, podA4, podB4, fmt.Sprintf("10.0.9.%d", 1+r.IntN(8)), world4, "203.0.113.77", hostAddr, nodeAddr)
}

// An enforcer puts programs in force in a packetWorld, one after the other.
type enforcer struct {
	*packetWorld
	networks map[netip.Prefix][2]uint32 // as they are in the kernel
	before   map[netip.Prefix]netpol.ID // as the last program has them
}

// around is the identity of the smallest network that a network is in.
func around(networks map[netip.Prefix]netpol.ID, prefix netip.Prefix) uint32 {
	for bits := prefix.Bits(); bits >= 0; bits-- {
		if id, ok := networks[netip.PrefixFrom(prefix.Addr(), bits).Masked()]; ok {
			return uint32(id)
		}
	}
	return 0
}

// enforce writes a program into the slot that is not in force, and puts it in force.
func (w *enforcer) enforce(world *netpol.World, p *netpol.Program) {
	w.Helper()
	slot := (w.config.Generation + 1) & 1
	local := map[string]string{"a": "a", "b": "b", "d": "d"}
	place := func(addr netip.Addr, flags, ifindex uint32) {
		var e statePlaceEntry
		key := stateAddr{Bytes: addr.As16()}
		_ = w.Addresses.Lookup(key, &e)
		e.Slot[slot] = statePlace{Id: uint32(p.Identity(addr)), Flags: flags, Ifindex: ifindex}
		w.put(w.Addresses, key, e)
	}
	for _, pod := range world.Pods {
		for _, addr := range pod.Addrs {
			place(addr, uint32(statePlaceFlagsPLACE_POD), w.devices[local[pod.UID]])
		}
	}
	for _, node := range world.Nodes {
		flags := statePlaceFlagsPLACE_NODE
		if node.Name == "here" {
			flags = statePlaceFlagsPLACE_HOST
		}
		place(node.Addrs[0], uint32(flags), 0)
	}
	// A network that one of the slots does not have is there what is around it.
	networks := maps.Clone(w.networks)
	for prefix := range p.Networks {
		if _, has := networks[prefix]; !has {
			networks[prefix] = [2]uint32{}
		}
	}
	for prefix := range networks {
		ids := networks[prefix]
		ids[slot] = around(p.Networks, prefix)
		if _, has := w.networks[prefix]; !has {
			ids[slot^1] = around(w.before, prefix)
		}
		key := stateNetwork{Prefix: uint32(prefix.Bits()), Addr: prefix.Addr().As16()}
		if prefix.Addr().Is4() {
			key.Prefix += 96
		}
		w.put(w.Networks, key, stateNetworkEntry{Slot: [2]statePlace{{Id: ids[0]}, {Id: ids[1]}}})
		networks[prefix] = ids
	}
	w.networks, w.before = networks, p.Networks
	for id, set := range p.Sets {
		s := stateSet{Bits: set.Lengths}
		for d := range 2 {
			s.AnyProto[d], s.Isolated[d] = asBit(set.AnyProtocol[d]), asBit(set.Isolated[d])
		}
		for k, v := range set.Verdicts {
			key := stateVerdictKey{Set: uint32(id), Peer: uint32(k.Peer), Bits: k.Bits | uint8(k.Direction)<<7, Proto: k.Protocol}
			binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&key.Port))[:], k.Port)
			w.put(w.Verdicts, key, stateVerdict{
				Order: [2]uint32{uint32(v.Order[0]), uint32(v.Order[1])}, Rule: [2]uint32{uint32(v.Rule[0]), uint32(v.Rule[1])},
			})
		}
		w.put(w.Sets, uint32(id), s)
	}
	for _, pod := range world.Pods {
		device, here := local[pod.UID]
		if !here {
			continue
		}
		var ep stateEndpoint
		if err := w.Endpoints.Lookup(w.devices[device], &ep); err != nil {
			w.Fatal(err)
		}
		ep.Ip4, ep.Ip6 = stateAddr{Bytes: pod.Addrs[0].As16()}, stateAddr{Bytes: pod.Addrs[1].As16()}
		ep.Set[slot] = uint32(p.SetOf[pod.UID])
		w.put(w.Endpoints, w.devices[device], ep)
	}
	w.flip()
}

func asBit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// judged says what the kernel has made of a flow, in the words of netpol.
func judged(p *netpol.Program, f stateFlow, d netpol.Direction) netpol.Judgement {
	return netpol.Judgement{Verdict: netpol.Verdict(f.Verdict[d]), Rule: p.Rules[netpol.RuleID(f.Rule[d])]}
}

// A question is a packet that begins a flow.
type question struct {
	packet   netpol.Packet
	sport    uint16
	src, dst string
}

func (q question) bytes() transport {
	switch q.packet.Protocol {
	case protoTCP:
		return tcp(q.sport, q.packet.Port, syn)
	case protoUDP:
		return udp(q.sport, q.packet.Port)
	}
	return sctp(q.sport, q.packet.Port)
}

// move has some pods give their addresses to each other, here and elsewhere, while
// others go on sending to these.
func (r policyChance) move(world *netpol.World) *netpol.World {
	next := *world
	next.Pods = slices.Clone(world.Pods)
	for range r.IntN(4) {
		// Pods here are the first three.
		i, j := r.IntN(3), r.IntN(len(next.Pods))
		one, other := *next.Pods[i], *next.Pods[j]
		one.Addrs, other.Addrs = other.Addrs, one.Addrs
		if i != j {
			next.Pods[i], next.Pods[j] = &one, &other
		}
	}
	return &next
}

// devicesOf says behind which devices addresses are.
func devicesOf(world *netpol.World) map[string]string {
	devices := make(map[string]string)
	for _, pod := range world.Pods {
		if pod.Node == "here" {
			for _, a := range pod.Addrs {
				devices[a.String()] = pod.UID
			}
		}
	}
	return devices
}

// isPodAt says whether an address is that of a pod.
func isPodAt(world *netpol.World, addr string) bool {
	return slices.ContainsFunc(world.Pods, func(p *cluster.Pod) bool { return slices.Contains(p.Addrs, netip.MustParseAddr(addr)) })
}

// TestBPFNetpol holds the kernel against the specification: policies, packets,
// changes of policy and of who has which address at random, as netpol compiles
// them and as it evaluates them.
func TestBPFNetpol(t *testing.T) {
	all := newPacketWorld(t)
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := &enforcer{packetWorld: all.again(t), networks: map[netip.Prefix][2]uint32{}}
			w.empty(w.Networks)
			w.config.Flags = 0
			r := policyChance{rand.New(rand.NewPCG(seed, 1))}
			c := netpol.NewCompiler()
			var questions []question
			for len(questions) < 350 {
				six := r.one(3)
				src, dst := r.addr(six), r.addr(six)
				questions = append(questions, question{
					packet: netpol.Packet{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst),
						Protocol: choose[uint8](r, protoTCP, protoUDP, protoSCTP), Port: choose(r, 53, 80, 443, uint16(1+r.IntN(65535)))},
					sport: uint16(20_000 + len(questions)), src: src, dst: dst,
				})
			}
			world := r.world()
			for round := range 6 {
				p, err := c.Compile(world, func(p *cluster.Pod) bool { return p.Node == "here" })
				if err != nil {
					t.Fatal(err)
				}
				w.enforce(world, p)
				indexed, devices := world.Index(), devicesOf(world)
				err = w.ns.Do(func() error {
					for _, q := range questions {
						if devices[q.src] == "" && devices[q.dst] == "" {
							continue
						}
						program, device := w.pod.EndpointFrom, devices[q.src]
						elsewhere := device == "" && isPodAt(world, q.src)
						if elsewhere {
							program, device = w.node.HostFrom, "uplink"
						} else if device == "" {
							program, device = w.pod.EndpointTo, devices[q.dst]
						}
						packet := ether(ip(q.src, q.dst, q.bytes()))
						verdict, _, err := newMeter(program, w.devices[device]).run(packet)
						if err == nil && elsewhere && verdict == toStack {
							verdict, _, err = newMeter(w.pod.EndpointTo, w.devices[devices[q.dst]]).run(packet)
						}
						if err != nil {
							return err
						}
						w.compare(t, p, indexed, q.packet, q.sport, verdict, devices[q.src] != "", devices[q.dst] != "", round)
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if t.Failed() {
					return
				}
				world = r.move(world)
				world.Policies = r.policies()
			}
		})
	}
}

// compare holds what the kernel did with a flow's first packet, or its first one
// under another policy, against what policies mean.
func (w *packetWorld) compare(t *testing.T, p *netpol.Program, world *netpol.World, packet netpol.Packet, sport uint16, verdict uint32, fromHere, toHere bool, round int) {
	t.Helper()
	f := w.flow(packet.Src.String(), packet.Dst.String(), sport, packet.Port, packet.Protocol)
	egress, ingress := netpol.Evaluate(packet, world)
	if !fromHere {
		egress = netpol.Judgement{}
	}
	if !toHere || egress.Verdict == netpol.Deny {
		ingress = netpol.Judgement{}
	}
	denied := egress.Verdict == netpol.Deny || ingress.Verdict == netpol.Deny
	gotEgress, gotIngress := judged(p, f, netpol.Egress), judged(p, f, netpol.Ingress)
	if gotEgress != egress || gotIngress != ingress || (verdict == toDrop) != denied {
		t.Errorf("round %d: %v > %v %d/%d: program returned %d, verdicts %v, %v; want %v, %v", round,
			packet.Src, packet.Dst, packet.Protocol, packet.Port, int32(verdict), gotEgress, gotIngress, egress, ingress)
	}
}
