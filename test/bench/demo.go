package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"warren/api"
	"warren/test/cluster/bed"
)

const figDemo = "from nothing to the shop in kubectl warren map"

// shopEdges are the calls of the shop's services that succeed, by names.
var shopEdges = [][2]string{{"front", "catalog"}, {"front", "cart"}, {"front", "payment"}, {"cart", "redis"}}

// demo is `make cluster` with a clock: a Kubernetes of two nodes, Warren and the
// shop, until the map has the shop's services.
func (b *bench) demo(ctx context.Context) error {
	c, err := b.newCluster(bed.Config{Name: "bench-demo"})
	if err != nil {
		return err
	}
	defer b.takeDown(c)
	began := time.Now()
	if err := c.Up(ctx, false); err != nil {
		return err
	}
	ready := time.Since(began)
	if err := c.Demo(ctx); err != nil {
		return err
	}
	err = bed.Poll(ctx, time.Minute, func() error {
		text, err := c.Kubectl(ctx, "warren", "map", "-n", "shop", "-o", "json")
		if err != nil {
			return err
		}
		var m api.Map
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			return err
		}
		return missingEdge(m)
	})
	took := time.Since(began)
	b.add(figDemo, err == nil && took <= time.Duration(60*b.slack*float64(time.Second)), "at most 60 s", "%.1f s; its nodes were ready after %.1f", took.Seconds(), ready.Seconds())
	return err
}

// missingEdge says which of the shop's calls a map has not seen.
func missingEdge(m api.Map) error {
	names := make(map[string]string, len(m.Nodes))
	for _, n := range m.Nodes {
		names[n.ID] = n.Name
	}
	seen := make(map[[2]string]bool, len(m.Edges))
	for _, e := range m.Edges {
		if e.Connections > 0 {
			seen[[2]string{names[e.From], names[e.To]}] = true
		}
	}
	for _, e := range shopEdges {
		if !seen[e] {
			return fmt.Errorf("the map has no connection from %s to %s", e[0], e[1])
		}
	}
	return nil
}
