package hub

import (
	"context"
	"net/http"
	"slices"

	"warren/api"
)

// serveFile answers with what happens to a file of one node. Paths are those of the
// node, and who uses its files may be anybody: it is for who sees everything.
func (h *hub) serveFile(w http.ResponseWriter, req *http.Request, q api.Query) error {
	c, what := callerOf(req.Context()), req.URL.Path
	ask, fields, err := api.ParseFileQuestion(q)
	if err != nil {
		return err
	}
	if ask.Node == "" {
		e := api.BadRequest("parameter node is missing: a file is one node's")
		e.Hint = "say which with node=NAME"
		return e
	}
	v, done, err := h.enter(req.Context(), what)
	if err != nil {
		return err
	}
	defer done()
	if !v.all {
		return h.door.refuse(refusedRights, c.from, nameOf(c.user), what, notAll(c))
	}
	if !slices.ContainsFunc(h.agents.now().members, func(m member) bool { return m.node == ask.Node }) {
		return api.NotFound("%s: %v", printable(ask.Node), errNoNode)
	}
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	see := h.sight(c, what, v)
	see.whole = true
	push := ask
	push.Node, push.Limit = "", 0 // the agent may be asked again, and count anew
	g := &gathering[api.Row]{agents: h.agents, follow: true, nodes: []string{ask.Node}, ask: askBatches(func(ctx context.Context, a *agent) api.Batches {
		return a.client.FileRows(ctx, push)
	})}
	g.out = newMerger(rowForm(live), live, h.cfg.Wait, h.cfg.StreamBytes, &h.pool, &h.merged)
	defer g.out.close()
	g.start(ctx)
	g.tally.wait(ctx.Done(), verdictTime)
	if e := g.tally.refusal(); e != nil {
		return e
	}
	out := &answer{h: h, api: api.NewWriter(w, req, h.cfg.Stall, fields), see: see}
	return out.stream(ctx, g, ask.Limit)
}
