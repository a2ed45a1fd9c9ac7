package netpol

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"warren/cluster"
)

// A space is a namespace with its labels. When these change it is another one.
type space struct {
	name    string
	labels  map[string]string
	classes map[*class]bool
}

// A class is the pods that no policy whatever can tell from each other, but by
// their addresses: namespace, labels and named ports are the same.
type class struct {
	key    string
	space  *space
	labels map[string]string
	ports  []cluster.PodPort
	pods   map[*pod]bool
	// subjects are how many of them policy is compiled for.
	subjects int
	// policies select the class, in the order in which they are asked; only for
	// those with subjects.
	policies []*policy
	told     []*cluster.Policy // the same
	// recipe is how its set is made, nil while it must be found out.
	recipe *recipe
	// groups in force that it is in, and how names of ports in force resolve;
	// both are in signature, which is what others can see of it.
	groups    []*group
	named     []namedPort
	signature string
}

// A namedPort is what a name stands for at a pod.
type namedPort struct {
	name portName
	keys []portKey
}

// A pod is what a Compiler knows of one.
type pod struct {
	told    *cluster.Pod
	class   *class
	addrs   []netip.Addr
	subject bool
	round   uint64 // of the Compile that saw it last
}

// A node is what a Compiler knows of one.
type node struct {
	node   *cluster.Node
	addrs  []netip.Addr
	groups []*group
	round  uint64
}

// A place is all that claims an address.
type place struct {
	addr  netip.Addr
	pods  []*pod
	nodes []*node
	// What its identity was made of, and the identity.
	kind              kind
	signature, region string
	identity          *identity
}

// spaceOf returns the namespace of a pod.
func (c *Compiler) spaceOf(p *cluster.Pod) *space {
	key := p.Namespace
	labels, ok := c.namespaces[p.Namespace]
	if !ok {
		labels = p.NamespaceLabels
		key = string(appendLabels(append([]byte(key), 0), labels))
	}
	ns := c.spaces[key]
	if ns == nil {
		ns = &space{name: p.Namespace, labels: labels, classes: make(map[*class]bool)}
		c.spaces[key] = ns
	}
	return ns
}

// setNamespaces learns the labels of namespaces, and returns whether any have
// changed; pods of those find their way to other classes.
func (c *Compiler) setNamespaces(namespaces map[string]map[string]string) bool {
	changed := len(namespaces) != len(c.namespaces)
	for name, labels := range namespaces {
		if old, ok := c.namespaces[name]; !ok || !maps.Equal(old, labels) {
			changed = true
		}
	}
	if changed {
		for name, ns := range c.spaces {
			if labels, ok := namespaces[ns.name]; !ok || !maps.Equal(labels, ns.labels) {
				delete(c.spaces, name) // its pods leave it when they are looked at
			}
		}
		c.namespaces = maps.Clone(namespaces)
	}
	return changed
}

// setPods learns the pods of a World.
func (c *Compiler) setPods(w *World, subjects func(*cluster.Pod) bool, namespaces bool) {
	live := 0
	for _, told := range w.Pods {
		if told.HostNetwork {
			continue
		}
		live++
		p := c.pods[podKey(told)]
		if p == nil {
			p = &pod{}
			c.pods[podKey(told)] = p
		}
		p.round = c.round
		if p.told != told || namespaces && c.spaces[told.Namespace] != p.class.space {
			c.setPod(p, told)
		}
		if subject := subjects == nil || subjects(told); subject != p.subject {
			c.setSubject(p, subject)
		}
	}
	if live == len(c.pods) {
		return
	}
	for key, p := range c.pods {
		if p.round != c.round {
			delete(c.pods, key)
			c.setAddrs(p, nil)
			c.leave(p)
		}
	}
}

func podKey(p *cluster.Pod) string {
	if p.UID == "" {
		return p.Namespace + "/" + p.Name
	}
	return p.UID
}

func (c *Compiler) setPod(p *pod, told *cluster.Pod) {
	ns := c.spaceOf(told)
	key := string(classKey(told))
	old := p.told
	if p.class == nil || p.class.space != ns || p.class.key != key {
		subject := p.subject
		if p.class != nil {
			c.leave(p)
		}
		cl := c.classOf(ns, key, told)
		p.class = cl
		cl.pods[p] = true
		if subject {
			c.setSubject(p, true)
		}
		for _, addr := range p.addrs {
			c.dirtyPlaces[addr] = true
		}
	}
	p.told = told
	if old == nil || !slices.Equal(old.Addrs, told.Addrs) {
		c.setAddrs(p, addrsOf(told.Addrs))
	} else if old.Node != told.Node || !old.Started.Equal(told.Started) || !old.Created.Equal(told.Created) {
		for _, addr := range p.addrs {
			c.dirtyPlaces[addr] = true
		}
	}
}

// classOf returns the class of a pod, made where there is none.
func (c *Compiler) classOf(ns *space, key string, told *cluster.Pod) *class {
	id := classID{ns, key}
	cl := c.classes[id]
	if cl != nil {
		return cl
	}
	cl = &class{key: key, space: ns, labels: told.Labels, ports: told.Ports, pods: make(map[*pod]bool)}
	c.classes[id] = cl
	ns.classes[cl] = true
	for k, v := range cl.labels {
		have := c.byLabel[label{k, v}]
		if have == nil {
			have = make(map[*class]bool)
			c.byLabel[label{k, v}] = have
		}
		have[cl] = true
	}
	for g := range c.inForce {
		if g.hasClass(cl) {
			c.join(cl, g)
		}
	}
	c.dirtyClasses[cl] = true
	return cl
}

type classID struct {
	space *space
	key   string
}

// leave takes a pod out of its class, which is gone after the last one.
func (c *Compiler) leave(p *pod) {
	c.setSubject(p, false)
	cl := p.class
	delete(cl.pods, p)
	p.class = nil
	if len(cl.pods) > 0 {
		return
	}
	delete(c.classes, classID{cl.space, cl.key})
	delete(cl.space.classes, cl)
	for k, v := range cl.labels {
		delete(c.byLabel[label{k, v}], cl)
		if len(c.byLabel[label{k, v}]) == 0 {
			delete(c.byLabel, label{k, v})
		}
	}
	for _, g := range cl.groups {
		delete(g.classes, cl)
	}
	delete(c.dirtyClasses, cl)
	delete(c.staleClasses, cl)
}

// setSubject says whether policy is compiled for a pod.
func (c *Compiler) setSubject(p *pod, subject bool) {
	if p.subject == subject {
		return
	}
	p.subject = subject
	if subject {
		if p.class.subjects++; p.class.subjects == 1 {
			c.staleClasses[p.class] = true
		}
		return
	}
	if p.class.subjects--; p.class.subjects == 0 {
		delete(c.staleClasses, p.class)
		c.setPolicies(p.class, nil)
		c.setRecipe(p.class, nil)
	}
}

// setAddrs gives a pod other addresses.
func (c *Compiler) setAddrs(p *pod, addrs []netip.Addr) {
	for _, addr := range p.addrs {
		pl := c.places[addr]
		pl.pods = slices.DeleteFunc(pl.pods, func(o *pod) bool { return o == p })
		c.dirtyPlaces[addr] = true
	}
	p.addrs = addrs
	for _, addr := range addrs {
		pl := c.placeOf(addr)
		pl.pods = append(pl.pods, p)
		c.dirtyPlaces[addr] = true
	}
}

func (c *Compiler) placeOf(addr netip.Addr) *place {
	pl := c.places[addr]
	if pl == nil {
		pl = &place{addr: addr}
		c.places[addr] = pl
	}
	return pl
}

// setNodes learns the nodes of a World.
func (c *Compiler) setNodes(w *World) {
	for _, told := range w.Nodes {
		n := c.nodes[nodeKey(told)]
		if n == nil {
			n = &node{}
			c.nodes[nodeKey(told)] = n
		}
		n.round = c.round
		if n.node == told {
			continue
		}
		c.leaveNode(n)
		n.node, n.addrs, n.groups = told, addrsOf(told.Addrs), nil
		for g := range c.inForce {
			if g.hasNode(told) {
				n.groups = insert(n.groups, g)
			}
		}
		for _, addr := range n.addrs {
			pl := c.placeOf(addr)
			pl.nodes = append(pl.nodes, n)
			c.dirtyPlaces[addr] = true
		}
	}
	for key, n := range c.nodes {
		if n.round != c.round {
			c.leaveNode(n)
			delete(c.nodes, key)
		}
	}
}

func nodeKey(n *cluster.Node) string { return n.UID + "/" + n.Name }

// leaveNode takes a node from its addresses.
func (c *Compiler) leaveNode(n *node) {
	for _, addr := range n.addrs {
		pl := c.places[addr]
		pl.nodes = slices.DeleteFunc(pl.nodes, func(o *node) bool { return o == n })
		c.dirtyPlaces[addr] = true
	}
	n.addrs = nil
}

func (c *Compiler) dirtyNode(n *node) {
	for _, addr := range n.addrs {
		c.dirtyPlaces[addr] = true
	}
}

// holder returns who has an address: as World.at says.
func (pl *place) holder() (*pod, *node) {
	if len(pl.pods) > 0 {
		best := pl.pods[0]
		for _, p := range pl.pods[1:] {
			if later(p.told, best.told) {
				best = p
			}
		}
		return best, nil
	}
	if len(pl.nodes) == 0 {
		return nil, nil
	}
	best := pl.nodes[0]
	for _, n := range pl.nodes[1:] {
		if before(n.node, best.node) {
			best = n
		}
	}
	return nil, best
}

// addrsOf returns addresses as this package compares them, each once.
func addrsOf(told []netip.Addr) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(told))
	for _, addr := range told {
		if addr = canonical(addr); addr.IsValid() && !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// classKey is the same for pods of a namespace that are of one class.
func classKey(p *cluster.Pod) []byte {
	b := appendLabels(make([]byte, 0, 256), p.Labels)
	for _, port := range p.Ports {
		b = strconv.AppendQuote(b, port.Name)
		b = append(b, port.Protocol...)
		b = strconv.AppendUint(append(b, ' '), uint64(port.Port), 10)
	}
	return b
}

func appendLabels(b []byte, labels map[string]string) []byte {
	b = binary.AppendUvarint(b, uint64(len(labels)))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		b = appendText(appendText(b, k), labels[k])
	}
	return b
}

func appendText(b []byte, text string) []byte {
	b = binary.AppendUvarint(b, uint64(len(text)))
	return append(b, text...)
}
