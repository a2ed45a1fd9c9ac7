package hub

import (
	"context"
	"sync"
	"time"

	"warren/api"
)

// mapTime is how long agents have to say who talks to whom.
const mapTime = 5 * time.Second

// drawMap puts the maps of all nodes that are asked together, and leaves out
// what the caller may not see. The ends of connections are on different nodes:
// only the whole is cut.
func (h *hub) drawMap(ctx context.Context, q api.MapQuestion) (api.Map, error) {
	v, done, err := h.enter(ctx, "/v1/map")
	if err != nil {
		return api.Map{}, err
	}
	defer done()
	push := q
	push.Nodes = nil
	var mu sync.Mutex
	var maps []api.Map
	t := h.agents.each(ctx, q.Nodes, mapTime, func(ctx context.Context, node string, g *agent) error {
		m, err := g.client.Map(ctx, push)
		if err == nil {
			m.Reporters = []string{node} // Kubernetes says which it is
			mu.Lock()
			maps = append(maps, m)
			mu.Unlock()
		}
		return err
	})
	if e := t.refusal(); e != nil {
		return api.Map{}, e
	}
	m := api.MergeMaps(maps)
	if !v.all {
		m = m.Restrict(v.sees)
	}
	n := t.nodesEvent()
	m.Total, m.Missing = n.Total, n.Missing
	return m, nil
}
