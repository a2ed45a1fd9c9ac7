package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A Map says who talks to whom: nodes are workloads, services, processes of
// hosts and what is outside, edges the connections from one to another at one
// port.
//
// An agent's map is a report, to be put together with those of other agents, or
// alone, by [MergeMaps]: its edges come apart by who saw them ([MapEdge.SeenBy])
// and from which node of the cluster they come, and services stand beside the
// workloads behind them.
type Map struct {
	// Since and Until are the span that the figures are of.
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Reporters are the nodes of the cluster whose agents told; none outside one.
	Reporters []string `json:"reporters,omitempty"`
	// Total is how many agents a hub asked, and Missing those that did not
	// answer, each with the reason: "node-2: connection refused".
	Total   int      `json:"nodes_total,omitempty"`
	Missing []string `json:"nodes_missing,omitempty"`
	// Lost counts events that were lost on the way: figures may be too low.
	Lost uint64 `json:"lost,omitempty"`
	// Forgotten counts edges that there was no room for any more.
	Forgotten uint64    `json:"forgotten,omitempty"`
	Nodes     []MapNode `json:"nodes"` // by id
	Edges     []MapEdge `json:"edges"` // by from, to, protocol and port
}

// MapKind says what a node of a map is.
type MapKind string

// The kinds of nodes.
const (
	MapWorkload  MapKind = "workload"  // pods of one controller
	MapService   MapKind = "service"   // a service of which it is not known that one workload is behind it
	MapContainer MapKind = "container" // a container outside pods
	MapProcess   MapKind = "process"   // processes of one name, outside containers
	MapHost      MapKind = "node"      // an address of a node of the cluster
	MapName      MapKind = "name"      // what DNS gave this name
	MapAddress   MapKind = "address"   // an address without a name
	MapWorld     MapKind = "world"     // addresses that are not told apart
)

// A MapNode is one end of edges.
type MapNode struct {
	ID        string  `json:"id"`
	Kind      MapKind `json:"kind"`
	Namespace string  `json:"namespace,omitempty"`
	Name      string  `json:"name"`
	// Workload is the kind of the controller: Deployment, StatefulSet, ...
	Workload string `json:"workload,omitempty"`
	// Services are the names of the services that stand for a workload alone.
	Services []string `json:"services,omitempty"`
	// Backends are the ids of the workloads behind a service.
	Backends []string `json:"backends,omitempty"`
	// HostNetwork is true for workloads that use their nodes' addresses.
	HostNetwork bool `json:"host_network,omitempty"`
}

// Who saw the connections of an edge.
const (
	SeenByClient = "client"
	SeenByServer = "server"
)

// A MapEdge is the connections from one node to another at one port.
type MapEdge struct {
	From     string `json:"from"` // ids of nodes
	To       string `json:"to"`
	Protocol string `json:"protocol"` // tcp, udp
	Port     uint16 `json:"port"`     // that the client asked for: a service's, not its pods'
	// SeenBy is client or server: whose agent reported.
	SeenBy string `json:"seen_by"`
	// FromNode is the node of the cluster that the clients are on, in a report of
	// one agent; "" outside a cluster.
	FromNode string `json:"from_node,omitempty"`
	// SameNode says, in a report of one agent, that the servers are pods of its
	// own node.
	SameNode bool `json:"same_node,omitempty"`

	Connections uint64 `json:"connections"` // opened in the span
	Active      uint64 `json:"active"`      // open at present
	Failed      uint64 `json:"failed"`      // never opened
	// Errors counts connections by what they failed or broke with: ECONNREFUSED,
	// ETIMEDOUT, "reset by server", ...
	Errors        map[string]uint64 `json:"errors,omitempty"`
	BytesSent     uint64            `json:"bytes_sent"` // by the client
	BytesReceived uint64            `json:"bytes_received"`
	Retransmits   uint64            `json:"retransmits"` // segments sent again, by the side that reported
	RTT           *MapRTT           `json:"rtt,omitempty"`
}

// A MapRTT is the round-trip times of an edge, in nanoseconds. Mean is over the
// kernel's smoothed values, one for each report of a connection.
type MapRTT struct {
	Min     int64  `json:"min_ns"`
	Mean    int64  `json:"mean_ns"`
	Max     int64  `json:"max_ns"`
	Samples uint64 `json:"samples"`
}

// A MapQuestion is what a map is asked for; the zero value asks for all that
// was seen since the agents started.
type MapQuestion struct {
	// Namespaces leave out edges with neither end in one of them; none is all.
	Namespaces []string
	// Since is how far to look back; 0 to when the agent started. It counts in
	// whole minutes: the answer says what it really covers.
	Since time.Duration
	// Nodes are those whose agents are asked, by a hub; none is all.
	Nodes []string
}

// MapMemory is how far back [MapQuestion.Since] can reach.
const MapMemory = time.Hour

// MapRoute returns the route of the map, which answer answers.
func MapRoute(answer func(ctx context.Context, q MapQuestion) (Map, error)) Route {
	return Route{Pattern: "/v1/map", Params: []string{"namespace", "since", "node"}, Handle: func(w http.ResponseWriter, req *http.Request, q Query) error {
		asked, err := parseMapQuestion(q)
		if err != nil {
			return err
		}
		m, err := answer(req.Context(), asked)
		if err != nil {
			return err
		}
		return WriteJSON(w, m)
	}}
}

func parseMapQuestion(q Query) (MapQuestion, error) {
	var asked MapQuestion
	var err error
	if asked.Namespaces, err = q.List("namespace"); err != nil {
		return asked, err
	}
	if asked.Nodes, err = q.List("node"); err != nil {
		return asked, err
	}
	if text, ok := q["since"]; ok {
		asked.Since, err = time.ParseDuration(text)
		if err != nil || asked.Since <= 0 {
			return asked, BadRequest("parameter since is %s, want a duration like 10m", printable(text))
		}
		if asked.Since > MapMemory {
			return asked, tooFarBack(asked.Since)
		}
	}
	return asked, nil
}

func tooFarBack(since time.Duration) *Error {
	e := BadRequest("since is %s: minutes are remembered for %s", since, MapMemory)
	e.Hint = "without since, a map tells all since the agent started"
	return e
}

// id returns the name that a node has in edges. Only the last part of an id can
// have slashes of its own.
func (n *MapNode) id() string {
	switch n.Kind {
	case MapWorkload:
		return fmt.Sprintf("workload/%s/%s/%s", n.Namespace, n.Workload, n.Name)
	case MapService:
		return fmt.Sprintf("service/%s/%s", n.Namespace, n.Name)
	}
	return string(n.Kind) + "/" + n.Name
}

// sound reports whether a node that somebody else told is what its id says.
func (n *MapNode) sound() bool {
	return n.ID == n.id() && !strings.Contains(string(n.Kind), "/") && !strings.Contains(n.Namespace, "/") && (n.Namespace == "" || n.Kind == MapWorkload || n.Kind == MapService)
}

// behind returns the backends that a service can have: workloads of its own
// namespace.
func (n *MapNode) behind() []string {
	if n.Kind != MapService {
		return nil
	}
	prefix := string(MapWorkload) + "/" + n.Namespace + "/"
	return slices.DeleteFunc(slices.Clone(n.Backends), func(id string) bool { return !strings.HasPrefix(id, prefix) })
}

// Restrict returns the part of m that may be seen by whom may reports the
// namespaces of; "" stands for what is in none: processes of hosts, nodes, and
// what is outside. An edge may be seen by whoever may see one of its ends,
// which is whose events tell of both. Of what is behind a service the part stays
// that is in the map.
func (m Map) Restrict(may func(namespace string) bool) Map {
	m, there := m.part(may)
	for i := range m.Nodes {
		n := &m.Nodes[i]
		n.Backends = slices.DeleteFunc(slices.Clone(n.Backends), func(id string) bool { return !there[id] })
	}
	return m
}

// part returns the edges with an end in some namespaces, and the nodes that these
// need or that are there; there has their ids.
func (m Map) part(may func(namespace string) bool) (_ Map, there map[string]bool) {
	allowed := map[string]bool{}
	in := make(map[string]bool, len(m.Nodes)) // ids
	for _, n := range m.Nodes {
		ok, known := allowed[n.Namespace]
		if !known {
			ok = may(n.Namespace)
			allowed[n.Namespace] = ok
		}
		in[n.ID] = ok
	}
	m.Edges = slices.DeleteFunc(slices.Clone(m.Edges), func(e MapEdge) bool { return !in[e.From] && !in[e.To] })
	for _, e := range m.Edges {
		in[e.From], in[e.To] = true, true
	}
	m.Nodes = slices.DeleteFunc(slices.Clone(m.Nodes), func(n MapNode) bool { return !in[n.ID] })
	return m, in
}

// within returns the part of m that is about some namespaces; none are all.
func (m Map) within(namespaces []string) Map {
	if len(namespaces) == 0 {
		return m
	}
	m, _ = m.part(func(ns string) bool { return slices.Contains(namespaces, ns) })
	return m
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// sort gives nodes and edges their order.
func (m *Map) sort() {
	slices.SortFunc(m.Nodes, func(a, b MapNode) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(m.Edges, func(a, b MapEdge) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.SeenBy, b.SeenBy), cmp.Compare(a.FromNode, b.FromNode), compareBool(a.SameNode, b.SameNode))
	})
}
