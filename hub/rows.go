package hub

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"warren/api"
	"warren/event"
)

const (
	// beginTime, unless a test gives more, is how long a stream waits at its begin for nodes to answer,
	// before it says which did; and how long a list waits for the rows of a node
	// before those of others go on.
	beginTime = 400 * time.Millisecond
	// verdictTime is how long nodes have to judge a question that the hub does
	// not understand.
	verdictTime = 3 * time.Second
	// pace is the least time between two writes of a stream: a busy one is
	// written in large pieces.
	pace = 5 * time.Millisecond
	// takeRows is how many rows are written at once.
	takeRows = 1024
	// keepAlive is how long a stream for people stays silent.
	keepAlive = 15 * time.Second
	// mostRecent bounds how many of the last events a list has, if it is to have
	// so many: they are kept until all nodes have answered.
	mostRecent = 10_000
)

// rowsRoute is the route of a list or stream.
func (h *hub) rowsRoute(path string) api.Route {
	return api.Route{Pattern: "/v1" + path, Params: api.Params(path), Handle: func(w http.ResponseWriter, req *http.Request, q api.Query) error {
		return h.serveRows(w, req, path, q)
	}}
}

// An asked is a question of a client to the hub.
type asked struct {
	api.Asked
	push api.Question // what the agents are asked
	// foreign is what the hub itself says against the question, where the
	// agents may know better: they may know more fields.
	foreign error
}

func parseAsked(path string, q api.Query) (a asked, err error) {
	if a.Asked, err = api.ParseQuestion(path, q); err == nil {
		a.push = a.Question()
		return a, nil
	}
	// Without what the hub may not understand the rest has to be right.
	bare := api.Query{}
	for k, v := range q {
		if k != "filter" && k != "fields" {
			bare[k] = v
		}
	}
	judge := err
	if a.Asked, err = api.ParseQuestion(path, bare); err != nil {
		return a, judge
	}
	a.foreign, a.push = judge, a.Question()
	a.push.Filter = q["filter"]
	if list, ok := q["fields"]; ok {
		a.push.Fields = strings.Split(list, ",")
	}
	return a, nil
}

// pushTo makes the question that of somebody who sees v.
func (a *asked) pushTo(v *view) {
	all := v.all
	if a.foreign == nil { // what the hub does not understand it does not build on
		a.push.Filter, all = v.narrow(a.push.Filter)
	}
	a.push.Nodes = nil
	if a.Follow || !all {
		a.push.Limit = 0 // which rows are the first, or the last, is not known before
	}
}

// serveRows answers with the rows of all nodes that are asked, in the order of
// time.
func (h *hub) serveRows(w http.ResponseWriter, req *http.Request, path string, q api.Query) error {
	c, what := callerOf(req.Context()), req.URL.Path
	a, err := parseAsked(path, q)
	if err != nil {
		return err
	}
	if !a.Follow && a.Limit > mostRecent {
		return api.BadRequest("parameter limit is %d, of past events at most %d are told", a.Limit, mostRecent)
	}
	v, done, err := h.enter(req.Context(), what)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()

	a.pushTo(v)
	out := &answer{h: h, api: api.NewWriter(w, req, h.cfg.Stall, a.Fields), see: h.sight(c, what, v)}
	ask, limit := askRows(path, a.Follow, same(a.push)), a.Limit
	if a.Follow && !a.Since.IsZero() {
		past := newCatchUp(a.push, time.Now())
		ask = past.ask(path)
		if a.foreign == nil {
			n, err := out.before(ctx, h.earlier(path, a.Nodes, past), limit)
			if err != nil || n == limit && limit > 0 {
				return err
			}
			if limit > 0 {
				limit -= n
			}
		}
	}
	g := &gathering[api.Row]{agents: h.agents, follow: a.Follow, nodes: a.Nodes, ask: ask}
	if a.Follow {
		g.out = newMerger(rowForm(live), live, h.cfg.Wait, h.cfg.StreamBytes, &h.pool, &h.merged)
	} else {
		g.out = newMerger(rowForm(finite), finite, h.cfg.begin, h.cfg.StreamBytes, &h.pool, &h.merged)
	}
	defer g.out.close()
	g.start(ctx)
	if a.foreign != nil {
		g.tally.wait(ctx.Done(), verdictTime)
		if e := g.tally.refusal(); e != nil || !g.tally.any() {
			return a.foreign
		}
	}
	if a.Follow {
		return out.stream(ctx, g, limit)
	}
	return out.list(ctx, g, a.Limit)
}

// enter returns what who asks may see, and takes one of the places for answers,
// which done gives back. The error is what they are told, an [*api.Error].
func (h *hub) enter(ctx context.Context, what string) (v *view, done func(), err error) {
	c := callerOf(ctx)
	v, refused := h.viewOf(ctx, c, what)
	if refused == nil {
		done, refused = h.places.begin(c)
	}
	if refused != nil {
		return nil, nil, refused
	}
	return v, done, nil
}

// An answer is being written. One goroutine writes it.
type answer struct {
	h   *hub
	api *api.Writer
	see *sight
}

// notice reports whether a row is for everybody who asks: what was lost, and who
// answered.
func notice(kind string) bool {
	k, ok := event.LookupKind(kind)
	return ok && event.NoticeKinds.Has(k)
}

// visible leaves those of rows that are told. The array is used again.
func (a *answer) visible(rows []api.Row) []api.Row {
	if a.see.view.all {
		return rows
	}
	before := len(rows)
	rows = slices.DeleteFunc(rows, func(r api.Row) bool { return !a.see.view.sees(r.Namespace) && !notice(r.Kind) })
	a.h.withheld.Add(uint64(before - len(rows)))
	return rows
}

// stream writes rows as they come, until limit of them are written, ctx ends or
// the client has gone.
func (a *answer) stream(ctx context.Context, g *gathering[api.Row], limit int) error {
	g.tally.wait(ctx.Done(), a.h.cfg.begin)
	if err := a.api.Row(g.tally.row(time.Now())); err != nil {
		return err
	}
	if err := a.api.Flush(); err != nil {
		return err
	}
	select {
	case <-g.tally.changed: // it is told
	default:
	}
	var buf []api.Row
	n, wrote := 0, time.Now()
	for {
		now := time.Now()
		if err := a.see.keep(ctx, now); err != nil {
			return a.broken(ctx, err)
		}
		rows, again := g.out.take(buf[:0], takeRows, now)
		buf = rows
		for _, r := range a.visible(rows) {
			if err := a.api.Row(r); err != nil {
				return err
			}
			if notice(r.Kind) {
				continue
			}
			if n++; n == limit {
				return a.api.Flush()
			}
		}
		clear(buf) // the rows are not needed any more
		if len(rows) > 0 {
			wrote = now
			if len(rows) >= takeRows {
				continue // what is behind fills the same piece
			}
			if err := a.api.Flush(); err != nil {
				return err
			}
			if !sleep(ctx, pace) {
				return a.broken(ctx, ctx.Err())
			}
			continue
		}
		beat := wrote.Add(a.api.Idle(keepAlive))
		if !now.Before(beat) {
			if err := a.api.Beat(); err != nil {
				return err
			}
			wrote = now
			continue
		}
		until := earlier(earlier(beat, again), a.see.next)
		switch err := a.await(ctx, g, until.Sub(now)); {
		case errors.Is(err, errStopping):
			return a.api.Flush()
		case err != nil:
			return err
		}
	}
}

// errStopping ends streams when the hub stops.
var errStopping = errors.New("the hub stops")

// await returns when there may be something to write, after at most d.
func (a *answer) await(ctx context.Context, g *gathering[api.Row], d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-g.out.wake:
	case <-g.tally.changed:
		g.out.notice(g.tally.row(time.Now()))
	case <-t.C:
	case <-a.h.stopping:
		return errStopping
	case <-ctx.Done():
		return a.broken(ctx, ctx.Err())
	}
	return nil
}

// list writes rows until all nodes have told theirs, and then which did. Of
// more than limit the last are written.
func (a *answer) list(ctx context.Context, g *gathering[api.Row], limit int) error {
	last := tail[api.Row]{notice: func(r api.Row) bool { return notice(r.Kind) }}
	write := a.api.Row
	if limit > 0 {
		write = func(r api.Row) error { last.add(r, limit); return nil }
	}
	if err := a.drain(ctx, g, limit == 0, write); err != nil {
		return err
	}
	for _, r := range last.list() {
		if err := a.api.Row(r); err != nil {
			return err
		}
	}
	if err := a.api.Row(g.tally.row(time.Now())); err != nil {
		return err
	}
	return a.api.Flush()
}

// drain hands the rows of a list to write, until all nodes have told theirs. What
// is written is sent whenever nothing more is there, if flush says so.
func (a *answer) drain(ctx context.Context, g *gathering[api.Row], flush bool, write func(api.Row) error) error {
	var buf []api.Row
	for ended := false; ; {
		select {
		case <-g.done:
			ended = true // and all that came is there to be taken
		default:
		}
		now := time.Now()
		rows, again := g.out.take(buf[:0], takeRows, now)
		buf = rows
		if err := a.see.keep(ctx, now); err != nil {
			return a.broken(ctx, err)
		}
		for _, r := range a.visible(rows) {
			if err := write(r); err != nil {
				return err
			}
		}
		clear(buf)
		if len(rows) > 0 {
			continue
		}
		if ended {
			return nil
		}
		if flush {
			if err := a.api.Flush(); err != nil {
				return err
			}
		}
		d := keepAlive
		if !again.IsZero() {
			d = again.Sub(now)
		}
		t := time.NewTimer(d)
		select {
		case <-g.out.wake:
		case <-g.done:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return a.broken(ctx, ctx.Err())
		}
		t.Stop()
	}
}

// broken ends the connection, so that what was written does not look whole.
func (a *answer) broken(ctx context.Context, err error) error {
	if !errors.Is(err, errRevoked) && ctx.Err() == nil {
		a.h.log.Warn("an answer ends: nobody can say what its reader may see", "who", nameOf(a.see.caller.user), "err", err)
	}
	panic(http.ErrAbortHandler)
}

// sleep waits for d, or returns false when ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
