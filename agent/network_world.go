package agent

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"warren/cluster"
	"warren/datapath"
	"warren/netpol"
)

// auditLabel is of namespaces: what policy would deny to and from their pods is
// told, and passes.
const (
	auditLabel = "warren.dev/policy"
	auditValue = "audit"
)

// built is what was made of a snapshot. What did not change is the same as in
// the last one, so that nobody looks at it again.
type built struct {
	versions cluster.Versions
	local    map[string]*localPod // by uid
	world    *netpol.World
	places   map[netip.Addr]datapath.Place
	routes   map[netip.Prefix]netip.Addr
	nodes    map[*cluster.Node]*cluster.Node // with all their addresses
	own      []netip.Addr                    // this node's, of which these were made
}

// localPod is a pod of this node as policy is asked about it: with the addresses
// that it has here, which the cluster hears of later.
type localPod struct {
	from, shown *cluster.Pod
	addrs       []netip.Addr
}

func (b *built) isSubject(p *cluster.Pod) bool { return b.local[p.UID] != nil }

// build makes a World, places and routes of what is known now.
func (n *network) build(now *cluster.Snapshot, self *cluster.Node, pods []*endpoint) {
	b, last := built{versions: now.Versions, own: n.wired.own}, &n.built
	fresh := last.world == nil
	nodesChanged := fresh || last.versions.Nodes != now.Versions.Nodes || !slices.Equal(last.own, b.own)

	var localChanged bool
	b.local, localChanged = localPods(last.local, pods)
	podsChanged := fresh || localChanged || last.versions.Pods != now.Versions.Pods
	if b.world = (&netpol.World{Namespaces: now.Namespaces, Policies: now.Policies}); podsChanged {
		b.world.Pods = withLocal(now.Pods, b.local)
	} else {
		b.world.Pods = last.world.Pods
	}
	if nodesChanged {
		b.nodes = make(map[*cluster.Node]*cluster.Node, len(now.Nodes))
		b.world.Nodes = b.allAddresses(now.Nodes, self, last)
		b.routes = routes(now.Nodes, self)
	} else {
		b.nodes, b.world.Nodes, b.routes = last.nodes, last.world.Nodes, last.routes
	}
	b.places = last.places
	if podsChanged || nodesChanged || last.versions.Services != now.Versions.Services {
		b.places = places(b.world, now, self)
	}
	n.built = b
}

// localPods are the pods of endpoints, by uid; those that are as they were are
// the same ones.
func localPods(last map[string]*localPod, pods []*endpoint) (local map[string]*localPod, changed bool) {
	local = make(map[string]*localPod, len(pods))
	for _, e := range pods {
		if e.pod == nil {
			continue
		}
		l := local[e.pod.UID]
		if l == nil {
			l = &localPod{from: e.pod}
			local[e.pod.UID] = l
		}
		for _, a := range e.Addrs {
			if !slices.Contains(l.addrs, a) {
				l.addrs = append(l.addrs, a)
			}
		}
	}
	changed = len(local) != len(last)
	for uid, l := range local {
		if known := last[uid]; known != nil && known.from == l.from && slices.Equal(known.addrs, l.addrs) {
			local[uid] = known
			continue
		}
		changed = true
		l.shown = l.from
		if !slices.Equal(l.from.Addrs, l.addrs) {
			shown := *l.from
			shown.Addrs = l.addrs
			l.shown = &shown
		}
	}
	return local, changed
}

// withLocal puts the pods of this node in their places, and takes their
// addresses from others who are still said to have them.
func withLocal(all []*cluster.Pod, local map[string]*localPod) []*cluster.Pod {
	owner := make(map[netip.Addr]string)
	for uid, l := range local {
		for _, a := range l.addrs {
			owner[a] = uid
		}
	}
	out := make([]*cluster.Pod, 0, len(all)+len(local))
	for _, p := range all {
		if local[p.UID] != nil || len(p.Addrs) == 0 {
			continue
		}
		if !p.HostNetwork && slices.ContainsFunc(p.Addrs, func(a netip.Addr) bool { _, ok := owner[a]; return ok }) {
			less := *p
			less.Addrs = slices.DeleteFunc(slices.Clone(p.Addrs), func(a netip.Addr) bool { _, ok := owner[a]; return ok })
			p = &less
		}
		out = append(out, p)
	}
	for _, l := range local {
		out = append(out, l.shown)
	}
	return out
}

// allAddresses are the nodes with every address that they may send from: they
// have one in each network of their pods, and this one those of its devices.
func (b *built) allAddresses(nodes []*cluster.Node, self *cluster.Node, last *built) []*cluster.Node {
	out := make([]*cluster.Node, 0, len(nodes))
	for _, node := range nodes {
		shown := last.nodes[node]
		if shown == nil || node == self {
			more := *node
			more.Addrs = slices.Clone(node.Addrs)
			add := func(a netip.Addr) {
				if a.IsValid() && !slices.Contains(more.Addrs, a) {
					more.Addrs = append(more.Addrs, a)
				}
			}
			for _, p := range node.PodCIDRs {
				add(datapath.NodeAddr(p))
			}
			if node == self {
				for _, a := range b.own {
					add(a)
				}
			}
			if shown == nil || !slices.Equal(shown.Addrs, more.Addrs) {
				shown = &more
			}
		}
		b.nodes[node] = shown
		out = append(out, shown)
	}
	return out
}

// underlay is the address by which a node is reached from others.
func underlay(n *cluster.Node) netip.Addr {
	for _, a := range n.Addrs {
		if a.Is4() {
			return a
		}
	}
	if len(n.Addrs) > 0 {
		return n.Addrs[0]
	}
	return netip.Addr{}
}

// routes are the networks of other nodes' pods, and the nodes that they are
// behind.
func routes(nodes []*cluster.Node, self *cluster.Node) map[netip.Prefix]netip.Addr {
	out := make(map[netip.Prefix]netip.Addr)
	for _, node := range nodes {
		via := underlay(node)
		if node == self || !via.IsValid() {
			continue
		}
		for _, p := range node.PodCIDRs {
			out[p] = via
		}
	}
	return out
}

// places are what addresses stand for. Nobody takes an address from a pod of
// this node or from a node, and no service one from a pod.
func places(w *netpol.World, now *cluster.Snapshot, self *cluster.Node) map[netip.Addr]datapath.Place {
	out := make(map[netip.Addr]datapath.Place, 2*len(w.Pods))
	for _, v := range now.Services {
		for _, a := range v.Addrs {
			out[a] = datapath.Place{Kind: datapath.ServicePlace}
		}
	}
	via := make(map[string]netip.Addr, len(now.Nodes)) // by name of the node
	for _, node := range now.Nodes {
		via[node.Name] = underlay(node)
	}
	via[self.Name] = netip.Addr{}
	for _, p := range w.Pods {
		if p.HostNetwork {
			continue
		}
		for _, a := range p.Addrs {
			out[a] = datapath.Place{Kind: datapath.PodPlace, Node: via[p.Node]}
		}
	}
	for _, node := range w.Nodes {
		place := datapath.Place{Kind: datapath.NodePlace, Node: via[node.Name]}
		if node.Name == self.Name {
			place = datapath.Place{Kind: datapath.HostPlace}
		}
		for _, a := range node.Addrs {
			out[a] = place
		}
	}
	return out
}

// kernelState is what the kernel is to do.
func (n *network) kernelState(program *netpol.Program, pods []*endpoint) *datapath.State {
	s := &datapath.State{
		Policy: program, Places: n.built.places, Routes: n.built.routes,
		Node4: n.wired.devices.Node4, Node6: n.wired.devices.Node6,
	}
	for _, e := range pods {
		one := datapath.Endpoint{
			Name: e.PodNamespace + "/" + e.PodName, Ifindex: e.HostIndex, Addrs: e.Addrs, MAC: e.MAC, HostMAC: e.HostMAC, Chained: e.Chained,
		}
		if p := e.pod; p != nil {
			one.Name, one.PodUID = p.Namespace+"/"+p.Name, p.UID
			one.Audit = n.audits(p.Namespace)
		}
		s.Endpoints = append(s.Endpoints, one)
	}
	return s
}

// inForce is what numbers of the kernel stand for.
type inForce struct {
	generation uint64
	program    *netpol.Program
	world      *netpol.World
	indexed    func() *netpol.World       // the same, for many packets
	policies   map[string]*cluster.Policy // by uid
	// before are the policies of the last change: flows of that time are told a
	// little later.
	before map[string]*cluster.Policy
	served map[netip.Addr]bool
}

// inForceAfter is what is in force when a program is.
func (n *network) inForceAfter(program *netpol.Program) *inForce {
	last := n.force.Load()
	next := &inForce{generation: 1, program: program, world: n.built.world, served: make(map[netip.Addr]bool)}
	next.indexed = sync.OnceValue(next.world.Index)
	if last != nil {
		next.generation, next.policies, next.before = last.generation+1, last.policies, last.before
	}
	if last == nil || n.seen == nil || n.seen.Versions.Policies != n.built.versions.Policies {
		next.before = next.policies
		next.policies = make(map[string]*cluster.Policy, len(n.built.world.Policies))
		for _, p := range n.built.world.Policies {
			next.policies[p.UID] = p
		}
	}
	for _, l := range n.built.local {
		for _, a := range l.addrs {
			next.served[a] = true
		}
	}
	return next
}

// Generation changes with the policies.
func (n *network) Generation() uint64 {
	if f := n.force.Load(); f != nil {
		return f.generation
	}
	return 0
}

// Rule returns a rule by its number in the kernel, with its policy as it was, nil
// where that is not remembered.
func (n *network) Rule(id netpol.RuleID) (netpol.Ref, *cluster.Policy, bool) {
	f := n.force.Load()
	if f == nil {
		return netpol.Ref{}, nil, false
	}
	ref, ok := f.program.Rules[id]
	if !ok {
		return ref, nil, false
	}
	p := f.policies[ref.UID]
	if p == nil {
		p = f.before[ref.UID]
	}
	return ref, p, true
}

// Nearest says, of a packet that no rule allows in a direction, which rule is
// nearest to allowing it and what it differs in.
func (n *network) Nearest(d netpol.Direction, p netpol.Packet) string {
	f := n.force.Load()
	if f == nil {
		return ""
	}
	e := netpol.Explain(p, f.indexed())
	at := e.Egress
	if d == netpol.Ingress {
		at = e.Ingress
	}
	if at.Why != netpol.DefaultDeny {
		return "" // it would pass by now
	}
	return strings.TrimPrefix(strings.TrimPrefix(at.String(), "no rule matched; "), "nearest: ")
}

// Served says whether an address is that of a pod of this node.
func (n *network) Served(a netip.Addr) bool {
	f := n.force.Load()
	return f != nil && f.served[a]
}

// world is what policies are about now, with the network or without; nil where
// there is no cluster. Any goroutine may call it.
func (s *self) world() *netpol.World {
	if s.net != nil {
		if f := s.net.force.Load(); f != nil {
			return f.indexed()
		}
	}
	if s.member == nil {
		return nil
	}
	now := s.member.snapshot()
	return &netpol.World{Pods: now.Pods, Nodes: now.Nodes, Namespaces: now.Namespaces, Policies: now.Policies}
}
