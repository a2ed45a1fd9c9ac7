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
	push.Nodes, push.Limit = nil, 0
	push.Filter, _ = v.narrow(q.Filter)
	var mu sync.Mutex
	var all []api.Who
	t := h.agents.each(ctx, q.Nodes, whoTime, func(ctx context.Context, node string, g *agent) error {
		w, err := g.client.Who(ctx, push)
		if err == nil {
			for i := range w.Rows {
				w.Rows[i].Node = node // Kubernetes says which it is
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
// The stream, which begins there, tells the rest and what happens. Any goroutine
// may use it.
type catchUp struct {
	question api.Question
	cut      time.Time // by our clock

	mu   sync.Mutex
	cuts map[*agent]time.Time // by its own; zero: the stream has begun
}

func newCatchUp(q api.Question, now time.Time) *catchUp {
	cut := now.Add(-settledTime)
	if cut.Before(q.Since) {
		cut = q.Since
	}
	return &catchUp{question: q, cut: cut, cuts: map[*agent]time.Time{}}
}

// list is what an agent is asked first.
func (c *catchUp) list(a *agent) api.Question {
	ahead, _ := a.clock.offset()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cuts[a] = c.cut.Add(ahead)
	q := c.question
	q.Until = c.cuts[a]
	if !q.Since.Before(q.Until) {
		q.Since = q.Until.Add(-1)
	}
	return q
}

// live is what it is asked then. Where its answer breaks off it goes on with what
// happens.
func (c *catchUp) live(a *agent) api.Question {
	q := c.question
	c.mu.Lock()
	defer c.mu.Unlock()
	if cut, ok := c.cuts[a]; ok {
		q.Since = cut
	}
	c.cuts[a] = time.Time{}
	return q
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
