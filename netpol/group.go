package netpol

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"warren/cluster"
)

// A group is who a rule is about: all its peers together. Rules about the same
// peers share one, whatever else they say. Groups in force are what identities
// are made of: an identity is which of them one is in.
type group struct {
	number uint32 // never used again
	key    string
	// namespace is that of peers with SameNamespace.
	namespace string
	pods      []cluster.PolicyPeer
	nodes     []*cluster.Selector
	networks  []cluster.PolicyPeer
	// rules are how many of policies in force are about it: none is a group out
	// of force.
	rules   int
	classes map[*class]bool
	members map[*identity]bool
	// version is when members changed last.
	version uint64
}

// everyPod is the peer that is every pod.
var everyPod = []cluster.PolicyPeer{{Namespaces: &cluster.Selector{}}}

// group returns the group of some peers. It is in force when use is called.
func (c *Compiler) group(peers []cluster.PolicyPeer, namespace string) *group {
	key := peersKey(peers, namespace)
	if g := c.groups[key]; g != nil {
		return g
	}
	c.groupNumber++
	g := &group{number: c.groupNumber, key: key, classes: make(map[*class]bool), members: make(map[*identity]bool)}
	for _, p := range peers {
		switch {
		case len(p.Networks) > 0:
			g.networks = append(g.networks, p)
		case p.Nodes != nil:
			g.nodes = append(g.nodes, p.Nodes)
		default:
			if p.SameNamespace {
				g.namespace = namespace
			}
			g.pods = append(g.pods, p)
		}
	}
	c.groups[key] = g
	return g
}

// use puts a group in force for one more rule: classes and nodes learn whether
// they are in it.
func (c *Compiler) use(g *group) {
	if g.rules++; g.rules > 1 {
		return
	}
	c.inForce[g] = true
	c.netsChanged = c.netsChanged || len(g.networks) > 0
	for i := range g.pods {
		c.admit(g, &g.pods[i])
	}
	if len(g.nodes) > 0 {
		for _, n := range c.nodes {
			if g.hasNode(n.node) {
				n.groups = insert(n.groups, g)
				c.dirtyNode(n)
			}
		}
	}
}

// unuse takes a group out of force for one rule; after the last one it is gone.
func (c *Compiler) unuse(g *group) {
	if g.rules--; g.rules > 0 {
		return
	}
	delete(c.inForce, g)
	delete(c.groups, g.key)
	c.netsChanged = c.netsChanged || len(g.networks) > 0
	for cl := range g.classes {
		cl.groups = remove(cl.groups, g)
		c.dirtyClasses[cl] = true
	}
	g.classes = nil
	if len(g.nodes) > 0 {
		for _, n := range c.nodes {
			if slices.Contains(n.groups, g) {
				n.groups = remove(n.groups, g)
				c.dirtyNode(n)
			}
		}
	}
}

// admit puts the classes in a group that one of its peers selects. It looks at
// those that have one of the labels that the peer asks for, where it asks for
// some, and else at those of the namespaces that it selects.
func (c *Compiler) admit(g *group, peer *cluster.PolicyPeer) {
	if labels := required(peer.Pods); labels != nil {
		for _, l := range labels {
			for cl := range c.byLabel[l] {
				if inSpace(peer, g, cl.space) && peer.Pods.Matches(cl.labels) {
					c.join(cl, g)
				}
			}
		}
		return
	}
	for _, ns := range c.spaces {
		if !inSpace(peer, g, ns) {
			continue
		}
		for cl := range ns.classes {
			if peer.Pods == nil || peer.Pods.Matches(cl.labels) {
				c.join(cl, g)
			}
		}
	}
}

// A label is a key and a value.
type label struct{ key, value string }

// required returns labels of which everything has one that a selector selects,
// nil where it selects by something else.
func required(s *cluster.Selector) []label {
	if s == nil {
		return nil
	}
	for k, v := range s.Equal {
		return []label{{k, v}}
	}
	for _, r := range s.Rules {
		if r.Op == cluster.OpIn && len(r.Values) > 0 {
			labels := make([]label, len(r.Values))
			for i, v := range r.Values {
				labels[i] = label{r.Key, v}
			}
			return labels
		}
	}
	return nil
}

// join puts a class in a group.
func (c *Compiler) join(cl *class, g *group) {
	if !g.classes[cl] {
		g.classes[cl] = true
		cl.groups = insert(cl.groups, g)
		c.dirtyClasses[cl] = true
	}
}

// inSpace reports whether a peer can be a pod of a namespace.
func inSpace(peer *cluster.PolicyPeer, g *group, ns *space) bool {
	if peer.SameNamespace {
		return ns.name == g.namespace
	}
	return peer.Namespaces == nil || peer.Namespaces.Matches(ns.labels)
}

// hasClass reports whether the pods of a class are in a group, not looking at
// their addresses.
func (g *group) hasClass(cl *class) bool {
	return slices.ContainsFunc(g.pods, func(peer cluster.PolicyPeer) bool {
		return inSpace(&peer, g, cl.space) && (peer.Pods == nil || peer.Pods.Matches(cl.labels))
	})
}

// hasNode reports whether a node is in a group, likewise.
func (g *group) hasNode(node *cluster.Node) bool {
	return slices.ContainsFunc(g.nodes, func(s *cluster.Selector) bool { return s.Matches(node.Labels) })
}

func byNumber(a, b *group) int { return int(int64(a.number) - int64(b.number)) }

// insert and remove return a new list, ordered by number: lists of groups may
// be shared.
func insert(list []*group, g *group) []*group {
	i, _ := slices.BinarySearchFunc(list, g, byNumber)
	return slices.Insert(slices.Clip(list), i, g)
}

func remove(list []*group, g *group) []*group {
	i, _ := slices.BinarySearchFunc(list, g, byNumber)
	return slices.Delete(slices.Clone(list), i, i+1)
}

// peersKey is the same text for peers that are the same, in whatever order.
func peersKey(peers []cluster.PolicyPeer, namespace string) string {
	texts := make([]string, 0, len(peers))
	for i := range peers {
		texts = append(texts, peerKey(&peers[i], namespace))
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), "\n")
}

func peerKey(p *cluster.PolicyPeer, namespace string) string {
	var b []byte
	switch {
	case len(p.Networks) > 0:
		b = append(b, 'n')
		b = appendNetworks(b, p.Networks)
		b = append(b, '-')
		b = appendNetworks(b, p.Except)
	case p.Nodes != nil:
		b = append(b, 'h')
		b = appendSelector(b, p.Nodes)
	default:
		b = append(b, 'p')
		if p.SameNamespace {
			b = strconv.AppendQuote(b, namespace)
		}
		if p.Namespaces != nil {
			b = appendSelector(b, p.Namespaces)
		}
		b = append(b, '/')
		if p.Pods != nil {
			b = appendSelector(b, p.Pods)
		}
	}
	return string(b)
}

func appendNetworks(b []byte, networks []netip.Prefix) []byte {
	texts := make([]string, 0, len(networks))
	for _, n := range networks {
		texts = append(texts, network(n).String())
	}
	slices.Sort(texts)
	for _, t := range slices.Compact(texts) {
		b = append(append(b, t...), ' ')
	}
	return b
}

func appendSelector(b []byte, s *cluster.Selector) []byte {
	b = append(b, '{')
	for _, k := range slices.Sorted(maps.Keys(s.Equal)) {
		b = strconv.AppendQuote(b, k)
		b = append(b, '=')
		b = strconv.AppendQuote(b, s.Equal[k])
	}
	for _, r := range s.Rules {
		b = strconv.AppendQuote(b, r.Key)
		b = strconv.AppendUint(append(b, ' '), uint64(r.Op), 10)
		for _, v := range r.Values {
			b = strconv.AppendQuote(b, v)
		}
		b = append(b, ';')
	}
	return append(b, '}')
}
