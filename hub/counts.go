package hub

import (
	"context"
	"iter"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"warren/api"
)

// countPace is how often counts are told.
const countPace = 2 * time.Second

// serveCounts answers with how many events there are, on all nodes that are asked.
func (h *hub) serveCounts(w http.ResponseWriter, req *http.Request, q api.Query) error {
	c, what := callerOf(req.Context()), req.URL.Path
	a, err := api.ParseCountQuestion(q)
	if err != nil {
		return err
	}
	v, done, err := h.enter(req.Context(), what)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	n := newCounting(a.CountQuestion, v)
	g := &gathering[*api.Counts]{agents: h.agents, follow: true, nodes: a.Nodes, ask: n.ask}
	g.start(ctx)
	g.tally.wait(ctx.Done(), h.cfg.begin)
	if e := g.tally.refusal(); e != nil {
		return e
	}
	n.begin()
	out := &answer{h: h, api: api.NewWriter(w, req, h.cfg.Stall, nil), see: h.sight(c, what, v)}
	out.see.whole = v.all // the agents are not asked by namespace then
	return out.counts(ctx, g, n, uint64(a.Limit))
}

// A counting is a question of how many events there are, which all nodes are asked.
// Agents tell parts, so that what they counted before one breaks off is not lost,
// and for who does not see everything they count by namespace too: which rows are
// told the hub decides. Any goroutine may use it.
type counting struct {
	push  api.CountQuestion // what agents are asked
	place int               // of the namespace among the values of a row; -1: no matter
	news  chan struct{}     // holds one element when something was added

	mu      sync.Mutex
	sum     *api.CountSum
	view    *view
	narrow  bool // agents count nothing that is not in the view, others included
	hidden  bool // there were others, of which nobody knows whose they are
	begun   bool // nodes that answer later are late
	heard   map[string]bool
	partial map[string]string // nodes of which something is not counted, and what
	left    uint64            // events that were not told
}

// namespaceField is by which agents count besides.
const namespaceField = "k8s.ns.name"

func newCounting(q api.CountQuestion, v *view) *counting {
	n := &counting{push: q, place: -1, news: make(chan struct{}, 1), sum: api.NewCountSum(q.By), view: v, heard: map[string]bool{}, partial: map[string]string{}}
	n.push.Nodes = nil
	n.push.Filter, n.narrow = v.narrow(q.Filter)
	if v.all {
		return n
	}
	if n.place = slices.Index(q.By, namespaceField); n.place < 0 {
		n.place = len(q.By)
		n.push.By = append(slices.Clone(q.By), namespaceField)
	}
	return n
}

// ask asks one agent, and adds what it counts until that ends.
func (n *counting) ask(ctx context.Context, a *agent, _ *source[*api.Counts], began func()) error {
	begun := false
	for part, err := range attentive(ctx, a.patience(), func(ctx context.Context) iter.Seq2[*api.Counts, error] {
		return a.client.CountParts(ctx, n.push)
	}) {
		if err != nil {
			return err
		}
		if !begun {
			begun = true
			n.hear(nodeOf(a.Agent), time.Now())
			began()
		}
		n.add(part)
	}
	return nil
}

// begin says that nodes which do not answer yet are late.
func (n *counting) begin() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.begun = true
}

// hear says that a node begins to count.
func (n *counting) hear(node string, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.heard[node]:
		n.partial[node] = node + " broke off for a while: what happened there meanwhile is not counted"
	case n.begun:
		n.partial[node] = node + " answers since " + now.UTC().Format(time.RFC3339) + ": what happened there before is not counted"
	}
	n.heard[node] = true
}

// add adds what a node counted.
func (n *counting) add(part *api.Counts) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sum.Add(part, n.told)
	switch others := part.Other + part.Unshown; {
	case others > 0 && n.narrow:
		n.sum.AddOthers(others)
	case others > 0:
		n.hidden = true
	}
	select {
	case n.news <- struct{}{}:
	default: // it is known
	}
}

// told reports whether a row is told.
func (n *counting) told(r api.CountRow) bool {
	if n.place < 0 {
		return true
	}
	if n.place < len(r.Values) && r.Values[n.place] != nil && n.view.sees(*r.Values[n.place]) {
		return true
	}
	n.left += r.Count
	return false
}

// see says what who asks may see from now on. What was counted before was told, or
// could have been.
func (n *counting) see(v *view) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(v.namespaces) < len(n.view.namespaces) {
		n.narrow = false
	}
	n.view = v
}

// counts returns the counts so far, and how many events were left out since it was
// last called.
func (n *counting) counts() (c *api.Counts, left uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, left = n.sum.Counts(), n.left
	n.left = 0
	for _, node := range slices.Sorted(maps.Keys(n.partial)) {
		if len(c.Gaps) == mostMissing {
			c.Gaps = append(c.Gaps, "and of more nodes something is not counted")
			break
		}
		c.Gaps = append(c.Gaps, n.partial[node])
	}
	if n.hidden {
		c.Gaps = append(c.Gaps, "nodes had no room for all combinations of values: whose the events of the others are is not known, and they are not counted")
	}
	return c, left
}

// counts writes counts every two seconds, until there are limit of them, ctx ends
// or the client has gone.
func (a *answer) counts(ctx context.Context, g *gathering[*api.Counts], n *counting, limit uint64) error {
	if err := a.api.Flush(); err != nil {
		return err
	}
	tick := time.NewTicker(countPace)
	defer tick.Stop()
	for {
		due, last := false, false
		select {
		case <-n.news:
		case <-tick.C:
			due = true
		case <-a.h.stopping:
			last = true
		case <-ctx.Done():
			return a.broken(ctx, ctx.Err())
		}
		if err := a.see.keep(ctx, time.Now()); err != nil {
			return a.broken(ctx, err)
		}
		n.see(a.see.view)
		if !due && !last && limit == 0 {
			continue
		}
		c, left := n.counts()
		a.h.withheld.Add(left)
		c.Last = last || limit > 0 && c.Total >= limit
		if !due && !c.Last {
			continue
		}
		roll := g.tally.nodesEvent()
		c.Nodes, c.Missing = roll.Total, roll.Missing
		if err := a.api.Counts(c); err != nil || c.Last {
			return err
		}
	}
}
