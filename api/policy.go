package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"warren/cluster"
	"warren/netpol"
)

// A PolicyReport is what network policies of some namespaces are about, and who
// was seen to talk to whom there. What follows from it package netpol computes.
type PolicyReport struct {
	// Since is when the agent that was told of latest began to look.
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Source is what was looked at: "flows", the packets that a datapath judged,
	// or "connections", what sockets did.
	Source string `json:"source"`
	// Reporters are the nodes of the cluster whose agents told.
	Reporters []string `json:"reporters,omitempty"`
	// Total is how many agents a hub asked, and Missing those that did not
	// answer, each with the reason.
	Total   int      `json:"nodes_total,omitempty"`
	Missing []string `json:"nodes_missing,omitempty"`
	// Lost counts events that were lost on the way, Forgotten pairs of ends that
	// there was no room for any more.
	Lost      uint64 `json:"lost,omitempty"`
	Forgotten uint64 `json:"forgotten,omitempty"`
	// Partial are namespaces of which the caller may not see all pods: only those
	// that talked are told, and no policies.
	Partial []string `json:"partial,omitempty"`
	// Pods are those of the namespaces, and those that talked to them.
	Pods       []PolicyPod                  `json:"pods"`
	Nodes      []PolicyNode                 `json:"nodes"`
	Namespaces map[string]map[string]string `json:"namespaces"` // labels by name
	// Policies are those of the namespaces, of the namespaces of who talked to
	// them, and those of the cluster.
	Policies []*cluster.Policy `json:"policies"`
	Talk     []PolicyTalk      `json:"talk"`
}

// A PolicyPod is what policies know of a pod.
type PolicyPod struct {
	UID       string `json:"uid"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// Node is where it runs.
	Node            string            `json:"node,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	NamespaceLabels map[string]string `json:"namespace_labels,omitempty"`
	Addrs           []netip.Addr      `json:"addresses,omitempty"`
	HostNetwork     bool              `json:"host_network,omitempty"`
	Ports           []cluster.PodPort `json:"ports,omitempty"` // with a name
	Workload        cluster.Workload  `json:"workload"`
	Started         time.Time         `json:"started,omitzero"`
	// Gone is true for one that talked and is there no more.
	Gone bool `json:"gone,omitempty"`
}

// A PolicyNode is what policies know of a node.
type PolicyNode struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Addrs  []netip.Addr      `json:"addresses,omitempty"`
	// PodCIDRs are the networks that its pods get addresses from.
	PodCIDRs []netip.Prefix `json:"pod_cidrs,omitempty"`
}

// A PolicyTalk is that somebody talked to somebody at one port.
type PolicyTalk struct {
	From     PolicyParty `json:"from"`
	To       PolicyParty `json:"to"`
	Protocol uint8       `json:"protocol"` // IPPROTO_TCP, ...
	Port     uint16      `json:"port"`
	// Dropped says that it was tried, and denied.
	Dropped bool `json:"dropped,omitempty"`
	// SeenBy is client or server: at which end it was seen.
	SeenBy string    `json:"seen_by"`
	Count  uint64    `json:"count"` // flows
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

// A PolicyParty is one end: its address, and the pod or node that had it then.
type PolicyParty struct {
	Addr netip.Addr `json:"address"`
	Pod  string     `json:"pod,omitempty"`  // uid
	Node string     `json:"node,omitempty"` // name
}

// A PolicyQuestion says which report is asked for.
type PolicyQuestion struct {
	// Namespaces are those that it is about; none is all of them.
	Namespaces []string
	Nodes      []string // none is all
	Part       PolicyPart
}

// A PolicyPart is a part of a report. All agents of a cluster know the same world,
// and each its own talk.
type PolicyPart string

// The parts: WholePolicy has both of the others. PolicyWorld is what policies are
// about without who talked, PolicyTalks who talked, with nothing but the pods that
// did.
const (
	WholePolicy PolicyPart = ""
	PolicyWorld PolicyPart = "world"
	PolicyTalks PolicyPart = "talk"
)

// PolicyRoute returns the route of reports, which answer answers.
func PolicyRoute(answer func(context.Context, PolicyQuestion) (PolicyReport, error)) Route {
	return Route{Pattern: "/v1/policy", Params: []string{"namespace", "node", "part"}, Handle: func(w http.ResponseWriter, req *http.Request, q Query) (err error) {
		asked := PolicyQuestion{Part: PolicyPart(q["part"])}
		if asked.Namespaces, err = q.List("namespace"); err != nil {
			return err
		}
		if asked.Nodes, err = q.List("node"); err != nil {
			return err
		}
		if !slices.Contains([]PolicyPart{WholePolicy, PolicyWorld, PolicyTalks}, asked.Part) {
			return BadRequest("part is world or talk, or is not there; not %s", printable(string(asked.Part)))
		}
		r, err := answer(req.Context(), asked)
		if err != nil {
			return err
		}
		return WriteJSON(w, r)
	}}
}

// Policy returns what network policies are about, and who was seen to talk. An
// agent's report is its node's; a hub has put those of all nodes together.
func (c *Client) Policy(ctx context.Context, q PolicyQuestion) (PolicyReport, error) {
	v := url.Values{}
	if len(q.Namespaces) > 0 {
		v.Set("namespace", strings.Join(q.Namespaces, ","))
	}
	if len(q.Nodes) > 0 {
		v.Set("node", strings.Join(q.Nodes, ","))
	}
	if q.Part != WholePolicy {
		v.Set("part", string(q.Part))
	}
	b, err := c.object(ctx, "/policy", v)
	if e := (*Error)(nil); errors.As(err, &e) && e.Status == http.StatusBadRequest && v.Has("part") {
		v.Del("part") // who is of an older release tells all
		b, err = c.object(ctx, "/policy", v)
	}
	if err != nil {
		return PolicyReport{}, err
	}
	var r PolicyReport
	if err := json.Unmarshal(b, &r); err != nil {
		return PolicyReport{}, fmt.Errorf("read the report on policies: %w", err)
	}
	return r, nil
}

// MergePolicyReports puts the reports of agents together. All of them know all
// pods; each has seen what its node did.
func MergePolicyReports(reports []PolicyReport) PolicyReport {
	var m PolicyMerge
	for i := range reports {
		m.Add(&reports[i])
	}
	return m.Report()
}

// A PolicyMerge puts reports together one by one. The zero value has none.
type PolicyMerge struct {
	sum      PolicyReport
	pods     map[string]PolicyPod
	nodes    map[string]PolicyNode
	policies map[string]*cluster.Policy
	talk     map[talkKey]*PolicyTalk
}

// Add takes in a report, which must not change afterwards.
func (m *PolicyMerge) Add(r *PolicyReport) {
	if m.pods == nil {
		m.pods, m.nodes, m.policies, m.talk = map[string]PolicyPod{}, map[string]PolicyNode{}, map[string]*cluster.Policy{}, map[talkKey]*PolicyTalk{}
		m.sum.Namespaces = map[string]map[string]string{}
	}
	sum := &m.sum
	sum.Reporters = append(sum.Reporters, r.Reporters...)
	sum.Lost += r.Lost
	sum.Forgotten += r.Forgotten
	if r.Since.After(sum.Since) {
		sum.Since = r.Since
	}
	if r.Until.After(sum.Until) {
		sum.Until = r.Until
	}
	switch sum.Source {
	case "", r.Source:
		sum.Source = r.Source
	default:
		sum.Source = TalkOfConnections // of some: what all have is less
	}
	for _, p := range r.Pods {
		// Who knows that it is gone has heard of more than who does not.
		if known, ok := m.pods[p.UID]; !ok || !known.Gone {
			m.pods[p.UID] = p
		}
	}
	for _, n := range r.Nodes {
		m.nodes[n.Name] = n
	}
	for _, p := range r.Policies {
		if p == nil {
			continue
		}
		if known := m.policies[p.UID]; known == nil || known.Generation < p.Generation {
			m.policies[p.UID] = p
		}
	}
	maps.Copy(sum.Namespaces, r.Namespaces)
	for i := range r.Talk {
		t := r.Talk[i]
		if known := m.talk[keyOfTalk(&t)]; known != nil {
			known.join(&t)
			continue
		}
		m.talk[keyOfTalk(&t)] = &t
	}
}

// Namespaces are those of the pods that reports have told of, sorted.
func (m *PolicyMerge) Namespaces() []string {
	set := map[string]bool{}
	for _, p := range m.pods {
		set[p.Namespace] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// Report is the sum.
func (m *PolicyMerge) Report() PolicyReport {
	r := m.sum
	if r.Namespaces == nil {
		r.Namespaces = map[string]map[string]string{}
	}
	slices.Sort(r.Reporters)
	r.Pods = slices.SortedFunc(maps.Values(m.pods), func(a, b PolicyPod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	r.Nodes = slices.SortedFunc(maps.Values(m.nodes), func(a, b PolicyNode) int { return cmp.Compare(a.Name, b.Name) })
	r.Policies = slices.SortedFunc(maps.Values(m.policies), func(a, b *cluster.Policy) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	for _, t := range m.talk {
		r.Talk = append(r.Talk, *t)
	}
	r.sort()
	return r
}

func (r *PolicyReport) sort() {
	slices.SortFunc(r.Talk, func(a, b PolicyTalk) int {
		return cmp.Or(a.First.Compare(b.First), a.From.Addr.Compare(b.From.Addr), a.To.Addr.Compare(b.To.Addr), cmp.Compare(a.Protocol, b.Protocol),
			cmp.Compare(a.Port, b.Port), cmp.Compare(a.SeenBy, b.SeenBy), compareBool(a.Dropped, b.Dropped))
	})
}

// A talkKey tells talk apart.
type talkKey struct {
	from, to PolicyParty
	protocol uint8
	port     uint16
	dropped  bool
	seenBy   string
}

func keyOfTalk(t *PolicyTalk) talkKey {
	return talkKey{t.From, t.To, t.Protocol, t.Port, t.Dropped, t.SeenBy}
}

// pair is the key of who asked whom for what, whatever became of it and whoever
// saw it.
func (t *PolicyTalk) pair() talkKey {
	return talkKey{from: t.From, to: t.To, protocol: t.Protocol, port: t.Port}
}

func (t *PolicyTalk) join(o *PolicyTalk) {
	t.Count += o.Count
	if o.First.Before(t.First) {
		t.First = o.First
	}
	if o.Last.After(t.Last) {
		t.Last = o.Last
	}
}

// Restrict returns the part of r that may be seen by whom may reports the
// namespaces of: policies and pods of these, who talked to them, and that talk.
// What is known of the cluster as a whole is in it.
func (r PolicyReport) Restrict(may func(namespace string) bool) PolicyReport {
	home := map[string]bool{} // uids
	for _, p := range r.Pods {
		home[p.UID] = may(p.Namespace)
	}
	r.Talk = slices.DeleteFunc(slices.Clone(r.Talk), func(t PolicyTalk) bool { return !home[t.From.Pod] && !home[t.To.Pod] })
	near := map[string]bool{}
	for _, t := range r.Talk {
		near[t.From.Pod], near[t.To.Pod] = true, true
	}
	r.Pods = slices.DeleteFunc(slices.Clone(r.Pods), func(p PolicyPod) bool { return !home[p.UID] && !near[p.UID] })
	r.Policies = slices.DeleteFunc(slices.Clone(r.Policies), func(p *cluster.Policy) bool { return p.Namespace != "" && !may(p.Namespace) })
	there := map[string]bool{}
	for _, p := range r.Pods {
		there[p.Namespace] = true
	}
	r.Namespaces = maps.Clone(r.Namespaces)
	maps.DeleteFunc(r.Namespaces, func(name string, _ map[string]string) bool { return !there[name] && !may(name) })
	for _, name := range slices.Sorted(maps.Keys(there)) {
		if !may(name) {
			r.Partial = append(r.Partial, name)
		}
	}
	return r
}

// World returns what policies are about, without the pods that are gone, and
// each pod by its uid, with those.
func (r *PolicyReport) World() (*netpol.World, map[string]*cluster.Pod) {
	// Who answered may be of another version, or nobody's friend.
	w := &netpol.World{Namespaces: r.Namespaces, Policies: slices.DeleteFunc(slices.Clone(r.Policies), func(p *cluster.Policy) bool { return p == nil })}
	pods := make(map[string]*cluster.Pod, len(r.Pods))
	for _, p := range r.Pods {
		pod := &cluster.Pod{UID: p.UID, Name: p.Name, Namespace: p.Namespace, Node: p.Node, Labels: p.Labels, NamespaceLabels: p.NamespaceLabels,
			Addrs: p.Addrs, HostNetwork: p.HostNetwork, Ports: p.Ports, Workload: p.Workload, Started: p.Started}
		pods[p.UID] = pod
		if !p.Gone {
			w.Pods = append(w.Pods, pod)
		}
	}
	for _, n := range r.Nodes {
		w.Nodes = append(w.Nodes, &cluster.Node{UID: n.Name, Name: n.Name, Labels: n.Labels, Addrs: n.Addrs, PodCIDRs: n.PodCIDRs})
	}
	return w, pods
}

// Observations returns the talk that was let through, or what was denied, of the
// pods and nodes that World has returned. What both ends have seen is there once,
// with the larger of their counts. What the client's end let go, and the server's
// has denied whenever it came, was not let through.
func (r *PolicyReport) Observations(w *netpol.World, pods map[string]*cluster.Pod, dropped bool) []netpol.Observation {
	nodes := map[string]*cluster.Node{}
	for _, n := range w.Nodes {
		nodes[n.Name] = n
	}
	party := func(p PolicyParty) netpol.Party {
		return netpol.Party{Addr: p.Addr, Pod: pods[p.Pod], Node: nodes[p.Node]}
	}
	arrived := map[talkKey]bool{} // at the server: whether it was let in
	for i := range r.Talk {
		if t := &r.Talk[i]; t.SeenBy == SeenByServer {
			k := t.pair()
			arrived[k] = arrived[k] || !t.Dropped
		}
	}
	at := map[talkKey]int{}
	var list []netpol.Observation
	for i := range r.Talk {
		t := &r.Talk[i]
		if t.Dropped != dropped {
			continue
		}
		k := t.pair()
		if in, seen := arrived[k]; !dropped && seen && !in {
			continue
		}
		o := netpol.Observation{From: party(t.From), To: party(t.To), Protocol: t.Protocol, Port: t.Port, Count: t.Count, First: t.First, Last: t.Last}
		n, ok := at[k]
		if !ok {
			at[k] = len(list)
			list = append(list, o)
			continue
		}
		known := &list[n]
		known.Count = max(known.Count, o.Count)
		if o.First.Before(known.First) {
			known.First = o.First
		}
		if o.Last.After(known.Last) {
			known.Last = o.Last
		}
	}
	return list
}
