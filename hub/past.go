package hub

import (
	"context"
	"errors"
	"sync"
	"time"

	"warren/api"
)

// whoTime is how long agents have to look through their history.
const whoTime = 25 * time.Second

// who puts together who reached something, on all nodes that are asked.
func (h *hub) who(ctx context.Context, q api.WhoQuestion) (api.Who, error) {
	v, done, err := h.enter(ctx, "/v1"+api.PathWho)
	if err != nil {
		return api.Who{}, err
	}
	defer done()
	push := q
	push.Nodes, push.Limit, push.Progress = nil, 0, nil
	progress := func(string) func(api.WhoProgress) { return nil }
	if q.Progress != nil {
		progress = api.MergeWhoProgress(func(p api.WhoProgress) {
			if !v.all {
				p.Events = 0 // they may be of others
			}
			q.Progress(p)
		})
	}
	push.Filter, _ = v.narrow(q.Filter)
	var mu sync.Mutex
	var all []api.Who
	t := h.agents.each(ctx, q.Nodes, whoTime, func(ctx context.Context, node string, g *agent) error {
		push := push
		push.Progress = progress(node)
		w, err := g.client.Who(ctx, push)
		if err == nil {
			for i := range w.Rows {
				w.Rows[i].Node = node // Kubernetes says which it is
			}
			for i := range w.Gaps {
				w.Gaps[i].Node = node
			}
			mu.Lock()
			all = append(all, w)
			mu.Unlock()
		}
		return err
	})
	if e := t.refusal(); e != nil {
		return api.Who{}, e
	}
	w := api.MergeWho(all)
	if !v.all {
		w = w.Restrict(v.sees)
	}
	w = w.Last(q.Limit)
	if w.To == "" { // nobody answered
		w.To, w.Since, w.Until = q.To, q.Since, q.Until
	}
	n := t.nodesEvent()
	w.Total, w.Missing = n.Total, n.Missing
	return w, nil
}

// settledTime is after how long an agent has kept everything that happened: what
// waits for the description of its container comes late.
const settledTime = 5 * time.Second

// A catchUp is a stream that begins in the past. What is older than the cut is
// told first, as a list: nothing of it is lost where more comes than is taken.
// The stream, which begins there, tells the rest and what happens. Where it breaks
// off it goes on, by the agent's history, behind what was told last. Any goroutine may
// use it.
type catchUp struct {
	question api.Question
	cut      time.Time // by our clock

	mu    sync.Mutex
	nodes map[string]*caughtUp
}

// caughtUp is how far a node is, by its own clock.
type caughtUp struct {
	next  time.Time // behind what was told; zero: nothing was
	plain bool      // its history answered nothing, which has been said
}

func newCatchUp(q api.Question, now time.Time) *catchUp {
	cut := now.Add(-settledTime)
	if cut.Before(q.Since) {
		cut = q.Since
	}
	return &catchUp{question: q, cut: cut, nodes: map[string]*caughtUp{}}
}

// of returns how far an agent's node is. The caller holds c.mu.
func (c *catchUp) of(a *agent) *caughtUp {
	node := nodeOf(a.Agent)
	if c.nodes[node] == nil {
		c.nodes[node] = &caughtUp{}
	}
	return c.nodes[node]
}

// list is what an agent is asked first.
func (c *catchUp) list(a *agent) api.Question {
	ahead, _ := a.clock.offset()
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.question
	q.Until = c.cut.Add(ahead)
	c.of(a).next = q.Until
	if !q.Since.Before(q.Until) {
		q.Since = q.Until.Add(-1)
	}
	return q
}

// live is what it is asked then, and again where its answer broke off.
func (c *catchUp) live(a *agent) (q api.Question, plain bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q = c.question
	n := c.of(a)
	if !n.next.IsZero() {
		q.Since = n.next
	}
	return q, n.plain
}

// ask returns how agents are asked for the stream. One whose history answers nothing is
// asked for what happens, once it has been said why; when that breaks off, its history
// may answer again.
func (c *catchUp) ask(path string) func(context.Context, *agent, *source[api.Row], func()) error {
	return func(ctx context.Context, a *agent, to *source[api.Row], began func()) error {
		q, plain := c.live(a)
		ask := askBatches(func(ctx context.Context, a *agent) api.Batches { return c.watch(a, a.client.Rows(ctx, path, true, q)) })
		to.resume()
		err := ask(ctx, a, to, began)
		_, refused := errors.AsType[*api.Error](err)
		c.mu.Lock()
		c.of(a).plain = refused
		c.mu.Unlock()
		if !refused || !plain {
			return err
		}
		to.pause()
		q.Since = time.Time{}
		return ask(ctx, a, to, began)
	}
}

// watch remembers up to when an agent has told what happened.
func (c *catchUp) watch(a *agent, batches api.Batches) api.Batches {
	return func(yield func(api.Batch, error) bool) {
		for b, err := range batches {
			c.told(a, b.Rows)
			if !yield(b, err) {
				return
			}
		}
	}
}

func (c *catchUp) told(a *agent, rows []api.Row) {
	if len(rows) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.of(a)
	for _, r := range rows {
		if next := time.Unix(0, r.Time+1); !notice(r.Kind) && next.After(n.next) {
			n.next = next
		}
	}
}

// earlier asks the nodes for what is older than the cut.
func (h *hub) earlier(path string, nodes []string, c *catchUp) *gathering[api.Row] {
	g := &gathering[api.Row]{agents: h.agents, nodes: nodes, ask: askRows(path, false, c.list)}
	g.out = newMerger(rowForm(finite), finite, h.cfg.begin, h.cfg.StreamBytes, &h.pool, &h.merged)
	return g
}

// errEnough ends a list that has as many rows as were asked for.
var errEnough = errors.New("enough")

// before writes what is older than a stream: the first limit rows. It returns how
// many there are.
func (a *answer) before(ctx context.Context, g *gathering[api.Row], limit int) (n int, err error) {
	defer g.out.close()
	g.start(ctx)
	err = a.drain(ctx, g, true, func(r api.Row) error {
		if err := a.api.Row(r); err != nil {
			return err
		}
		if !notice(r.Kind) {
			n++
		}
		if n == limit && limit > 0 {
			return errEnough
		}
		return nil
	})
	switch {
	case errors.Is(err, errEnough):
	case err != nil:
		return n, err
	case len(g.tally.nodesEvent().Missing) > 0:
		// Whoever answers the stream may have told nothing of what was before.
		if err := a.api.Row(g.tally.row(time.Now())); err != nil {
			return n, err
		}
	}
	return n, a.api.Flush()
}
