package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/api"
)

// A mapTree draws a map as lines: each edge once, below its client.
type mapTree struct {
	screen
	wide      bool
	m         *api.Map
	namespace string // which names need not say

	nodes map[string]*api.MapNode
	out   map[string][]*api.MapEdge // by client
	drawn map[string]bool           // nodes whose servers were drawn
	mixed bool                      // workloads stand beside processes of hosts
	cells int                       // of a row
	rows  [][]cell
}

func (t *mapTree) columns() []column {
	cols := []column{{head: "SENT", right: true, min: 8}, {head: "RECV", right: true, min: 8}, {head: "OPENED", right: true}, {head: "ACTIVE", right: true, spare: 2}, {head: "FAILED", right: true}, {head: "RTT", right: true, spare: 1}}
	if t.wide {
		cols = append(cols, column{head: "RTT MIN", right: true}, column{head: "RTT MAX", right: true}, column{head: "RETRANS", right: true}, column{head: "SEEN BY"})
	}
	return append(cols, column{head: "WHO TALKS TO WHOM"})
}

// write draws the map: first what nobody talks to, which is where requests come
// from, then what is left, which talks in a circle. Processes of hosts come last
// where there are workloads.
func (t *mapTree) write(out *table) error {
	t.cells = len(out.cols)
	t.nodes, t.out, t.drawn = map[string]*api.MapNode{}, map[string][]*api.MapEdge{}, map[string]bool{}
	for i := range t.m.Nodes {
		n := &t.m.Nodes[i]
		t.nodes[n.ID] = n
		t.mixed = t.mixed || n.Kind == api.MapWorkload || n.Kind == api.MapService
	}
	called := map[string]bool{}
	for i := range t.m.Edges {
		e := &t.m.Edges[i]
		t.out[e.From] = append(t.out[e.From], e)
		if e.From == e.To || t.onHost(e.From) && !t.onHost(e.To) {
			continue // probes of a host's processes are not where requests come from
		}
		called[e.To] = true
		for _, b := range t.node(e.To).Backends {
			called[b] = true // drawn below the service
		}
	}
	order := func(a, b string) int { return strings.Compare(t.rank(a), t.rank(b)) }
	clients := slices.SortedFunc(maps.Keys(t.out), order)
	for _, edges := range t.out {
		slices.SortStableFunc(edges, func(a, b *api.MapEdge) int { return order(a.To, b.To) })
	}
	for _, hosts := range []bool{false, true} {
		for _, circles := range []bool{false, true} {
			for _, id := range clients {
				if t.onHost(id) == hosts && called[id] == circles && !t.drawn[id] {
					row := make([]cell, t.cells)
					row[len(row)-1] = t.name(id)
					if t.node(id).Kind == api.MapHost {
						row[len(row)-1].text += " (forwards)"
					}
					t.rows = append(t.rows, row)
					t.below(id, "")
				}
			}
		}
	}
	return out.rows(t.rows)
}

// onHost reports whether a node of the map is processes of a host, beside
// workloads.
func (t *mapTree) onHost(id string) bool { return t.mixed && t.node(id).Kind == api.MapProcess }

// rank orders nodes: what is outside first, then by namespace and name.
func (t *mapTree) rank(id string) string {
	n := t.node(id)
	switch {
	case n.Kind == api.MapWorld:
		return "0" + n.Name
	case n.Kind == api.MapName || n.Kind == api.MapAddress || n.Kind == api.MapHost:
		return "1" + n.Name
	case n.Namespace == "":
		return "3" + n.Name
	}
	return "2" + n.Namespace + "/" + n.Name
}

func (t *mapTree) node(id string) *api.MapNode {
	if n := t.nodes[id]; n != nil {
		return n
	}
	return &api.MapNode{ID: id, Name: id}
}

// below draws whom a node talks to.
func (t *mapTree) below(id, lead string) {
	t.drawn[id] = true
	branch, last, down := "├─ ", "└─ ", "│  "
	if !t.utf8 {
		branch, last, down = "|- ", "`- ", "|  "
	}
	// Of the workloads behind a service, those that talk to others.
	behind := slices.DeleteFunc(slices.Clone(t.node(id).Backends), func(b string) bool { return t.drawn[b] || len(t.out[b]) == 0 })
	edges := t.out[id]
	left := len(edges) + len(behind)
	step := func() (mark, next string) {
		if left--; left == 0 {
			return last, "   "
		}
		return branch, down
	}
	for _, e := range edges {
		mark, next := step()
		t.rows = append(t.rows, t.row(e, lead+mark))
		if !t.drawn[e.To] {
			t.below(e.To, lead+next)
		}
	}
	for _, b := range behind {
		mark, next := step()
		row := make([]cell, t.cells)
		row[len(row)-1] = t.name(b)
		row[len(row)-1].text = lead + mark + row[len(row)-1].text
		t.rows = append(t.rows, row)
		if !t.drawn[b] {
			t.below(b, lead+next)
		}
	}
}

// row writes an edge.
func (t *mapTree) row(e *api.MapEdge, lead string) []cell {
	who := t.name(e.To)
	who.text = lead + who.text + " :" + strconv.Itoa(int(e.Port))
	if e.Protocol != "tcp" {
		who.text += "/" + t.safe(e.Protocol)
	}
	if t.drawn[e.To] && len(t.out[e.To]) > 0 && e.From != e.To {
		who.tail = "  (above)"
	}
	var errs []string
	for _, why := range slices.Sorted(maps.Keys(e.Errors)) {
		errs = append(errs, fmt.Sprintf("%d %s", e.Errors[why], t.safe(why)))
	}
	if len(errs) > 0 {
		who.tail, who.tailColor = "  "+strings.Join(errs, ", ")+who.tail, red
	}
	row := []cell{{text: byteCount(e.BytesSent)}, {text: byteCount(e.BytesReceived)}, count(e.Connections), {text: some(e.Active)}, {text: some(e.Failed), color: red}, {}}
	if r := e.RTT; r != nil {
		row[5].text = span(time.Duration(r.Mean))
	}
	if t.wide {
		extra := []cell{{}, {}, {text: some(e.Retransmits), color: yellow}, {text: t.safe(e.SeenBy)}}
		if r := e.RTT; r != nil {
			extra[0].text, extra[1].text = span(time.Duration(r.Min)), span(time.Duration(r.Max))
		}
		row = append(row, extra...)
	}
	return append(row, who)
}

// some writes a number that is mostly zero, which says nothing then.
func some(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

// name returns what a node is called.
func (t *mapTree) name(id string) cell {
	n := t.node(id)
	c := cell{text: t.safe(n.Name)}
	if n.Name == "" {
		c.text = "(unknown)"
	}
	switch n.Kind {
	case api.MapWorkload, api.MapService:
		if n.Namespace != t.namespace && n.Namespace != "" {
			c.text = t.safe(n.Namespace) + "/" + c.text
		}
		c.color = green
		if n.Kind == api.MapService {
			c.text += " (service" + t.backends(n) + ")"
		} else if t.wide && n.Workload != "" {
			c.text += " (" + t.safe(n.Workload) + ")"
		}
	case api.MapHost:
		c.text = "node " + c.text
		c.color = blue
	case api.MapProcess:
		if t.mixed {
			c.text += " (process)"
		}
		c.color = blue
	case api.MapContainer:
		c.text += " (container)"
		c.color = green
	case api.MapWorld:
		c.color = yellow
	}
	return c
}

// backends names the workloads behind a service.
func (t *mapTree) backends(n *api.MapNode) string {
	if len(n.Backends) == 0 {
		return ""
	}
	names := make([]string, len(n.Backends))
	for i, id := range n.Backends {
		names[i] = t.safe(id[strings.LastIndexByte(id, '/')+1:])
	}
	return " of " + strings.Join(names, ", ")
}
