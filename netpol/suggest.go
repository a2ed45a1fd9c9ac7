package netpol

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"warren/cluster"
)

// An Observation is that somebody talked to somebody, for some time.
type Observation struct {
	From, To Party
	Protocol uint8  // IPPROTO_TCP, ...
	Port     uint16 // of To; 0 for protocols without ports
	// Count is how many flows there were, First and Last when.
	Count       uint64
	First, Last time.Time
}

// A Party is who an address stood for when it was seen. Pod is nil for what is
// no pod, and for pods that share their node's network: those are their node.
type Party struct {
	Addr netip.Addr
	Pod  *cluster.Pod
	Node *cluster.Node
}

// MaxExternal is how many addresses outside of the cluster one suggested rule
// names one by one. More are joined to networks, and the rule says so.
const MaxExternal = 16

// A Suggestion is a NetworkPolicy for pods that look alike, that allows what was
// observed of them and nothing else.
type Suggestion struct {
	Policy *cluster.Policy
	// Pods are those that it is for, of those that there are now.
	Pods []*cluster.Pod
	// Evidence is by Direction, and for each rule what it comes from.
	Evidence [2][]Evidence
}

// Evidence is why a rule is suggested.
type Evidence struct {
	Count       uint64 // flows
	First, Last time.Time
	// Examples are up to three who talked: "front-5d9c to redis-0 tcp/6379".
	Examples []string
	// Warnings say where the rule allows more than was observed, or what of it
	// does not follow pods that come and go.
	Warnings []string
}

// Suggest returns the NetworkPolicies of a namespace that allow exactly what was
// observed: one for each kind of pods in it, those that nobody talked to
// included. Pods are of one kind when their labels are the same, those that
// controllers give to each of theirs left out. Both ends of what happens within
// the namespace are allowed it.
//
// What a pod's own node asks of it is always allowed, and not in a rule.
// Protocols other than TCP, UDP and SCTP can be in no NetworkPolicy, nor can who
// has no address: they are returned in left.
func Suggest(namespace string, w *World, seen []Observation) (list []Suggestion, left []Observation) {
	s := suggester{world: w, kinds: map[string][]*kindOfPods{}, of: map[*cluster.Pod]*kindOfPods{}}
	for _, p := range w.Pods {
		if k := s.learn(p); k != nil {
			k.alive = append(k.alive, p)
		}
	}
	for _, o := range seen {
		s.learn(o.From.Pod)
		s.learn(o.To.Pod)
	}
	drafts := map[*kindOfPods]*[2]draft{}
	for _, k := range s.kinds[namespace] {
		drafts[k] = &[2]draft{{at: map[cellKey]*cell{}}, {at: map[cellKey]*cell{}}}
	}
	for _, o := range seen {
		from, to := s.kindOf(o.From.Pod), s.kindOf(o.To.Pod)
		inside := func(k *kindOfPods) bool { return k != nil && k.namespace == namespace }
		if !inside(from) && !inside(to) {
			continue
		}
		nobody := func(p Party, k *kindOfPods) bool { return k == nil && !p.Addr.IsValid() }
		if protocolName(o.Protocol) == "" || nobody(o.From, from) || nobody(o.To, to) {
			left = append(left, o)
			continue
		}
		port := s.port(o, to)
		if inside(from) {
			drafts[from][Egress].add(o, s.peer(namespace, o.To, to), port)
		}
		if inside(to) && !ownNode(o.From, o.To.Pod) {
			drafts[to][Ingress].add(o, s.peer(namespace, o.From, from), port)
		}
	}
	names, inside := map[string]bool{}, insideOf(w)
	for _, k := range s.kinds[namespace] {
		list = append(list, s.suggestion(k, drafts[k], names, inside))
	}
	slices.SortFunc(list, func(a, b Suggestion) int { return cmp.Compare(a.Policy.Name, b.Policy.Name) })
	return list, left
}

// ownNode reports whether somebody is the node that a pod is on.
func ownNode(p Party, pod *cluster.Pod) bool { return p.Node != nil && p.Node.Name == pod.Node }

// volatile are labels that tell pods of one template from each other or from
// those of an earlier one.
var volatile = map[string]bool{
	"pod-template-hash": true, "controller-revision-hash": true, "pod-template-generation": true,
	"statefulset.kubernetes.io/pod-name": true, "apps.kubernetes.io/pod-index": true,
	"controller-uid": true, "batch.kubernetes.io/controller-uid": true,
	"job-name": true, "batch.kubernetes.io/job-name": true, "batch.kubernetes.io/job-completion-index": true,
}

// kindOfPods are pods of a namespace whose lasting labels are the same.
type kindOfPods struct {
	namespace string
	labels    map[string]string
	pods      []*cluster.Pod // that are there or were seen
	alive     []*cluster.Pod // of them
	uids      map[string]bool
	selector  *cluster.Selector // made when it is asked for first
}

type suggester struct {
	world *World
	kinds map[string][]*kindOfPods     // by namespace
	of    map[*cluster.Pod]*kindOfPods // those that were looked for
}

func lasting(labels map[string]string) map[string]string {
	kept := maps.Clone(labels)
	maps.DeleteFunc(kept, func(k, _ string) bool { return volatile[k] })
	return kept
}

func (s *suggester) kindOf(p *cluster.Pod) *kindOfPods {
	if p == nil || p.HostNetwork {
		return nil
	}
	if k := s.of[p]; k != nil {
		return k
	}
	labels := lasting(p.Labels)
	for _, k := range s.kinds[p.Namespace] {
		if maps.Equal(k.labels, labels) {
			s.of[p] = k
			return k
		}
	}
	return nil
}

// learn returns the kind of a pod, nil for what is no pod of the network.
func (s *suggester) learn(p *cluster.Pod) *kindOfPods {
	if p == nil || p.HostNetwork {
		return nil
	}
	k := s.kindOf(p)
	if k == nil {
		k = &kindOfPods{namespace: p.Namespace, labels: lasting(p.Labels), uids: map[string]bool{}}
		s.kinds[p.Namespace] = append(s.kinds[p.Namespace], k)
	}
	if !k.uids[p.UID] {
		k.uids[p.UID] = true
		k.pods = append(k.pods, p)
	}
	return k
}

// preferred are labels that people select by, best first.
var preferred = []string{"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component", "app", "k8s-app", "name", "component", "tier", "role"}

// selectorOf returns what selects one kind of pods and no other of its namespace:
// as few labels as do, those that people select by first, and where others have
// all of its labels and more, that these are missing.
func (s *suggester) selectorOf(k *kindOfPods) *cluster.Selector {
	if k.selector != nil {
		return k.selector
	}
	others := slices.DeleteFunc(slices.Clone(s.kinds[k.namespace]), func(o *kindOfPods) bool { return o == k })
	sel := &cluster.Selector{Equal: map[string]string{}}
	keys := slices.DeleteFunc(slices.Clone(preferred), func(key string) bool { _, ok := k.labels[key]; return !ok })
	for _, key := range slices.Sorted(maps.Keys(k.labels)) {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	take := func(key string) {
		sel.Equal[key] = k.labels[key]
		others = slices.DeleteFunc(others, func(o *kindOfPods) bool { return !sel.Matches(o.labels) })
	}
	// One label at least: a pod that comes later with none is not meant.
	for i, key := range keys {
		matched := len(others)
		if i > 0 && matched == 0 {
			break
		}
		take(key)
		if i > 0 && len(others) == matched {
			delete(sel.Equal, key) // tells nobody apart
		}
	}
	// What is left has all of its labels, and more.
	for len(others) > 0 {
		more := slices.Sorted(maps.Keys(others[0].labels))
		more = slices.DeleteFunc(more, func(key string) bool { _, ok := k.labels[key]; return ok })
		sel.Rules = append(sel.Rules, cluster.SelectorRule{Key: more[0], Op: cluster.OpDoesNotExist})
		others = slices.DeleteFunc(others, func(o *kindOfPods) bool { return !sel.Matches(o.labels) })
	}
	if len(sel.Equal) == 0 {
		sel.Equal = nil
	}
	k.selector = sel
	return sel
}

// namespaceLabel is on every namespace, put there by the API server.
const namespaceLabel = "kubernetes.io/metadata.name"

// A suggestedPeer is the far end in a policy. Its text tells peers apart.
type suggestedPeer struct {
	text     string
	peer     cluster.PolicyPeer
	external netip.Addr // is valid for what no selector selects
	warning  string
}

func (s *suggester) peer(namespace string, p Party, k *kindOfPods) suggestedPeer {
	if k == nil {
		out := suggestedPeer{external: canonical(p.Addr)}
		switch {
		case p.Pod != nil:
			out.warning = fmt.Sprintf("%s is %s/%s in the network of its node: the address is the node's", out.external, p.Pod.Namespace, p.Pod.Name)
		case p.Node != nil:
			out.warning = fmt.Sprintf("%s is node %s: its address is written down", out.external, p.Node.Name)
		}
		return out
	}
	sel := s.selectorOf(k)
	out := suggestedPeer{peer: cluster.PolicyPeer{Pods: sel, SameNamespace: true}}
	if k.namespace != namespace {
		out.peer = cluster.PolicyPeer{Pods: sel, Namespaces: &cluster.Selector{Equal: map[string]string{namespaceLabel: k.namespace}}}
	}
	out.text = k.namespace + "/" + selectorText(sel)
	return out
}

// port is how a rule says which port was asked: by name where all pods of its
// kind give that name to it, and to nothing else.
func (s *suggester) port(o Observation, server *kindOfPods) cluster.PolicyPort {
	protocol := protocolName(o.Protocol)
	numbered := cluster.PolicyPort{Protocol: protocol, First: o.Port, Last: o.Port}
	if server == nil || len(server.pods) == 0 {
		return numbered
	}
	name := ""
	for i, pod := range server.pods {
		at := slices.IndexFunc(pod.Ports, func(p cluster.PodPort) bool { return p.Port == o.Port && p.Protocol == protocol && p.Name != "" })
		if at < 0 || i > 0 && pod.Ports[at].Name != name {
			return numbered
		}
		name = pod.Ports[at].Name
		for _, p := range pod.Ports {
			if p.Name == name && p.Protocol == protocol && p.Port != o.Port {
				return numbered
			}
		}
	}
	return cluster.PolicyPort{Protocol: protocol, Name: name}
}

// protocolName is what policies call a protocol, "" for what they cannot name.
func protocolName(number uint8) string {
	for _, name := range []string{"tcp", "udp", "sctp"} {
		if numberOf(name) == number {
			return name
		}
	}
	return ""
}

// A cell is one peer at one port.
type cell struct {
	peer     suggestedPeer
	port     cluster.PolicyPort
	evidence Evidence
}

// A draft is what was observed of one kind of pods in one direction.
type draft struct {
	cells []*cell
	at    map[cellKey]*cell
}

// A cellKey tells cells apart.
type cellKey struct {
	peer farKey
	port cluster.PolicyPort
}

type farKey struct {
	text     string
	external netip.Addr
}

func (p *suggestedPeer) key() farKey { return farKey{p.text, p.external} }

func (d *draft) add(o Observation, peer suggestedPeer, port cluster.PolicyPort) {
	key := cellKey{peer.key(), port}
	c := d.at[key]
	if c == nil {
		c = &cell{peer: peer, port: port}
		d.at[key] = c
		d.cells = append(d.cells, c)
	}
	e := &c.evidence
	e.join(Evidence{Count: o.Count, First: o.First, Last: o.Last, Examples: []string{fmt.Sprintf("%s to %s %s/%d", o.From, o.To, protocolName(o.Protocol), o.Port)}})
	if peer.warning != "" && !slices.Contains(e.Warnings, peer.warning) {
		e.Warnings = append(e.Warnings, peer.warning)
	}
}

// maxExamples is how many are shown of a rule.
const maxExamples = 3

func (e *Evidence) join(o Evidence) {
	e.Count += o.Count
	if e.First.IsZero() || !o.First.IsZero() && o.First.Before(e.First) {
		e.First = o.First
	}
	if o.Last.After(e.Last) {
		e.Last = o.Last
	}
	for _, x := range o.Examples {
		if len(e.Examples) < maxExamples && !slices.Contains(e.Examples, x) {
			e.Examples = append(e.Examples, x)
		}
	}
	for _, x := range o.Warnings {
		if !slices.Contains(e.Warnings, x) {
			e.Warnings = append(e.Warnings, x)
		}
	}
}

// String is how people know somebody: "shop/front-1", "node a", or the address.
func (p Party) String() string {
	switch {
	case p.Pod != nil && !p.Pod.HostNetwork:
		return p.Pod.Namespace + "/" + p.Pod.Name
	case p.Node != nil:
		return "node " + p.Node.Name
	}
	return p.Addr.String()
}

func (s *suggester) suggestion(k *kindOfPods, drafts *[2]draft, names map[string]bool, inside spans) Suggestion {
	p := &cluster.Policy{
		Namespace: k.namespace, Name: k.name(names), Tier: cluster.NetworkTier,
		Subject: cluster.PolicySubject{Pods: *s.selectorOf(k)}, IsolatesIngress: true, IsolatesEgress: true,
	}
	made := Suggestion{Policy: p, Pods: k.alive}
	p.Ingress, made.Evidence[Ingress] = drafts[Ingress].rules(inside)
	p.Egress, made.Evidence[Egress] = drafts[Egress].rules(inside)
	return made
}

// name is what a policy is called: after the controller of its pods, or one of
// them.
func (k *kindOfPods) name(taken map[string]bool) string {
	first := slices.MinFunc(k.pods, func(a, b *cluster.Pod) int { return cmp.Compare(a.Name, b.Name) })
	base := cmp.Or(first.Workload.Name, first.Name)
	name := base
	for n := 2; taken[name]; n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	taken[name] = true
	return name
}

// rules are the rules that allow what was observed: peers that talked at the
// same ports share one.
func (d *draft) rules(inside spans) ([]cluster.PolicyRule, []Evidence) {
	type line struct {
		key      string
		peers    []suggestedPeer
		ports    []cluster.PolicyPort
		evidence Evidence
	}
	// The ports of each peer, then the peers of each list of ports.
	var byPeer []*line
	ofPeer := map[farKey]*line{}
	for _, c := range d.cells {
		l := ofPeer[c.peer.key()]
		if l == nil {
			l = &line{peers: []suggestedPeer{c.peer}}
			ofPeer[c.peer.key()] = l
			byPeer = append(byPeer, l)
		}
		l.ports = append(l.ports, c.port)
		l.evidence.join(c.evidence)
	}
	var lines []*line
	ofPorts := map[string]*line{}
	for _, l := range byPeer {
		slices.SortFunc(l.ports, comparePorts)
		l.key = fmt.Sprint(l.peers[0].external.IsValid(), l.ports)
		same := ofPorts[l.key]
		if same == nil {
			ofPorts[l.key] = l
			lines = append(lines, l)
			continue
		}
		same.peers = append(same.peers, l.peers...)
		same.evidence.join(l.evidence)
	}
	slices.SortFunc(lines, func(a, b *line) int { return cmp.Compare(a.key, b.key) })
	var rules []cluster.PolicyRule
	var evidence []Evidence
	for _, l := range lines {
		r := cluster.PolicyRule{Action: cluster.AllowAction, Ports: l.ports}
		var outside []netip.Addr
		for _, p := range l.peers {
			if p.external.IsValid() {
				outside = append(outside, p.external)
			} else {
				r.Peers = append(r.Peers, p.peer)
			}
		}
		networks, wider := join(outside, MaxExternal, inside)
		if wider {
			l.evidence.Warnings = append(l.evidence.Warnings, fmt.Sprintf("%d addresses outside of the cluster were seen: their networks have others too", len(outside)))
		}
		for _, n := range networks {
			r.Peers = append(r.Peers, cluster.PolicyPeer{Networks: []netip.Prefix{n}})
		}
		slices.SortFunc(r.Peers, func(a, b cluster.PolicyPeer) int { return cmp.Compare(peerOrder(a), peerOrder(b)) })
		rules, evidence = append(rules, r), append(evidence, l.evidence)
	}
	return rules, evidence
}

func comparePorts(a, b cluster.PolicyPort) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First), cmp.Compare(a.Name, b.Name))
}

func peerOrder(p cluster.PolicyPeer) string {
	if len(p.Networks) > 0 {
		return "2" + p.Networks[0].String()
	}
	if p.Namespaces == nil {
		return "0" + selectorText(p.Pods)
	}
	return "1" + selectorText(p.Namespaces) + selectorText(p.Pods)
}

// selectorText is a selector as kubectl takes it: "app=web,!canary".
func selectorText(s *cluster.Selector) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(s.Equal)) {
		parts = append(parts, k+"="+s.Equal[k])
	}
	for _, r := range s.Rules {
		switch r.Op {
		case cluster.OpExists:
			parts = append(parts, r.Key)
		case cluster.OpDoesNotExist:
			parts = append(parts, "!"+r.Key)
		case cluster.OpIn:
			parts = append(parts, r.Key+" in ("+strings.Join(r.Values, ",")+")")
		case cluster.OpNotIn:
			parts = append(parts, r.Key+" notin ("+strings.Join(r.Values, ",")+")")
		}
	}
	return strings.Join(parts, ",")
}
