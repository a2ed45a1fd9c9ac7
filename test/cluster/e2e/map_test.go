package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"warren/api"
)

// A drawing is a map as kubectl warren printed it.
type drawing struct {
	api.Map
	byID map[string]api.MapNode
}

func (d drawing) node(id string) api.MapNode { return d.byID[id] }

// drawn gives the map that somebody sees.
func (c *testCluster) drawn(kubeconfig string, args ...string) drawing {
	c.t.Helper()
	a := c.as(kubeconfig, append([]string{"kubectl", "warren", "map", "-o", "json"}, args...)...)
	if a.code != 0 {
		c.t.Fatalf("map %v: exit code %d: %s", args, a.code, a.errors)
	}
	d := drawing{byID: make(map[string]api.MapNode)}
	c.must(json.Unmarshal([]byte(a.out), &d.Map))
	for _, n := range d.Nodes {
		if _, twice := d.byID[n.ID]; twice {
			c.t.Errorf("%s is there twice", n.ID)
		}
		d.byID[n.ID] = n
	}
	return d
}

// short names an edge of the shop: what it is from and to, and by which port.
func (d drawing) short(e api.MapEdge) string {
	name := func(id string) string {
		switch n := d.node(id); n.Kind {
		case api.MapWorkload, api.MapService:
			return n.Namespace + "/" + n.Name
		case api.MapAddress:
			return "outside"
		default:
			return string(n.Kind)
		}
	}
	return fmt.Sprintf("%s -> %s %s/%d", name(e.From), name(e.To), e.Protocol, e.Port)
}

// TestClusterMap holds that the map of the shop is the shop: who asks whom as
// the roles of test/cluster/shop do, and nothing else.
func TestClusterMap(t *testing.T) {
	c := openShop(t)
	// What is in the shop, by whether it fails.
	want := map[string]bool{
		"shop/front -> shop/catalog tcp/80": false,
		"shop/front -> shop/cart tcp/80":    false,
		"shop/front -> shop/payment tcp/80": false,
		"shop/front -> shop/ads tcp/80":     true, // nobody serves it
		"shop/cart -> shop/redis tcp/6379":  false,
	}
	// What comes from and goes to elsewhere.
	around := []string{
		"outside -> shop/front tcp/8080", "shop/front -> kube-system/coredns udp/53", "shop/cart -> kube-system/coredns udp/53",
		"process -> shop/front tcp/8080", "process -> shop/catalog tcp/8080", "process -> shop/cart tcp/8080", "process -> shop/payment tcp/8080", "process -> shop/redis tcp/6379",
	}
	var d drawing
	c.eventually("the whole shop to be seen", func(context.Context) error {
		d = c.drawn("", "-n", "shop")
		var seen []string
		for _, e := range d.Edges {
			seen = append(seen, d.short(e))
		}
		for edge := range maps.Keys(want) {
			if !slices.Contains(seen, edge) {
				return fmt.Errorf("no %s in %v", edge, seen)
			}
		}
		for _, edge := range around[:3] {
			if !slices.Contains(seen, edge) {
				return fmt.Errorf("no %s in %v", edge, seen)
			}
		}
		return nil
	})
	// Of what was under way when an agent started it cannot know who began. That
	// is over, and does not grow.
	type ends struct {
		from, to, protocol string
		port               uint16
	}
	of := func(e api.MapEdge) ends { return ends{e.From, e.To, e.Protocol, e.Port} }
	before := make(map[ends]uint64)
	for _, e := range d.Edges {
		before[of(e)] += e.Connections + e.Failed
	}
	count := func(edge string) (n uint64) {
		for _, e := range d.Edges {
			if d.short(e) == edge {
				n += e.Connections
			}
		}
		return n
	}
	bought := count("shop/front -> shop/payment tcp/80")
	c.eventually("customers to buy", func(context.Context) error {
		d = c.drawn("", "-n", "shop")
		if n := count("shop/front -> shop/payment tcp/80"); n < bought+5 {
			return fmt.Errorf("%d paid, before %d", n, bought)
		}
		return nil
	})
	if nodes := c.RunningNodes(); !slices.Equal(d.Reporters, nodes) || d.Total != len(nodes) || len(d.Missing) > 0 {
		t.Errorf("told by %v of %d nodes, without %v", d.Reporters, d.Total, d.Missing)
	}
	times := make(map[ends]int)
	for _, e := range d.Edges {
		times[of(e)]++
		if d.node(e.From).ID == "" || d.node(e.To).ID == "" {
			t.Errorf("an edge without its ends: %+v", e)
		}
		edge := d.short(e)
		fails, ours := want[edge]
		switch {
		case ours && fails:
			if e.Connections != 0 || e.Failed == 0 || e.Errors["ECONNREFUSED"] == 0 {
				t.Errorf("%s: %d connections, %d failed: %v", edge, e.Connections, e.Failed, e.Errors)
			}
		case ours:
			// While the shop opens, whoever asks a pod that is not there yet may
			// give up.
			if e.Connections == 0 || e.Failed > e.Errors["ECANCELED"] || e.BytesSent == 0 || e.BytesReceived == 0 || e.RTT == nil || e.RTT.Min <= 0 {
				t.Errorf("%s: %+v", edge, e)
			}
		case !slices.Contains(around, edge) && e.Connections+e.Failed > before[of(e)]:
			t.Errorf("nothing in the shop does this: %s: %+v", edge, e)
		}
	}
	for e, n := range times {
		if n > 1 {
			t.Errorf("%v is there %d times", e, n)
		}
	}
	// Both sides of the same connections are counted once: the cart asks its
	// database once for each time that it is asked itself.
	if cart, redis := count("shop/front -> shop/cart tcp/80"), count("shop/cart -> shop/redis tcp/6379"); cart > redis+10 || redis > cart+10 {
		t.Errorf("the cart was asked %d times and asked its database %d times", cart, redis)
	}

	t.Run("of another namespace", func(t *testing.T) {
		for _, e := range c.drawn("", "-n", c.namespace).Edges {
			t.Errorf("nobody talks there: %+v", e)
		}
	})
	t.Run("dot", func(t *testing.T) {
		a := c.as("", "kubectl", "warren", "map", "-n", "shop", "-o", "dot")
		edges, err := parseDOT(a.out)
		if err != nil {
			t.Fatalf("%v\n%s", err, a.out)
		}
		for _, edge := range []string{"workload/shop/Deployment/front -> service/shop/ads", "workload/shop/Deployment/cart -> workload/shop/Deployment/redis"} {
			if !slices.Contains(edges, edge) {
				t.Errorf("no %s in %v", edge, edges)
			}
		}
	})
}

// parseDOT reads a graph of Graphviz's language, as far as the map uses it, and
// gives its edges.
func parseDOT(text string) (edges []string, err error) {
	depth := 0
	nodes := make(map[string]bool)
	for n, line := range strings.Split(strings.TrimSpace(text), "\n") {
		bad := func(why string) error { return fmt.Errorf("line %d: %s: %s", n+1, why, line) }
		line = strings.TrimSpace(line)
		switch {
		case n == 0:
			if line != "digraph warren {" {
				return nil, bad("no graph")
			}
			depth = 1
			continue
		case strings.HasPrefix(line, "subgraph ") && strings.HasSuffix(line, " {"):
			depth++
			continue
		case line == "}":
			depth--
			continue
		}
		if depth < 1 {
			return nil, bad("behind the end")
		}
		line, ok := strings.CutSuffix(line, ";")
		if !ok {
			return nil, bad("no semicolon")
		}
		ids, rest, err := quoted(line)
		switch {
		case err != nil:
			return nil, bad(err.Error())
		case rest != "" && (rest[0] != '[' || !strings.HasSuffix(rest, "]")):
			return nil, bad("attributes")
		case len(ids) == 1:
			nodes[ids[0]] = true
		case len(ids) == 2:
			if !nodes[ids[0]] || !nodes[ids[1]] {
				return nil, bad("an edge before its ends")
			}
			edges = append(edges, ids[0]+" -> "+ids[1])
		}
	}
	if depth != 0 {
		return nil, fmt.Errorf("%d braces are open", depth)
	}
	return edges, nil
}

// quoted takes the quoted ids from the front of a statement, with -> between.
func quoted(line string) (ids []string, rest string, err error) {
	for rest = line; strings.HasPrefix(rest, `"`); {
		end := 1
		for end < len(rest) && rest[end] != '"' {
			if rest[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(rest) {
			return nil, "", fmt.Errorf("a quote is open")
		}
		ids = append(ids, rest[1:end])
		rest = strings.TrimSpace(rest[end+1:])
		if after, ok := strings.CutPrefix(rest, "->"); ok {
			rest = strings.TrimSpace(after)
		} else {
			break
		}
	}
	if len(ids) == 0 {
		return nil, "", nil // a setting: rankdir=LR, node [...]
	}
	return ids, rest, nil
}
