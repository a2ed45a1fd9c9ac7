package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"warren/api"
	"warren/event"
)

// A gathering is one question that is asked of all nodes, and what they answer:
// rows, or flows.
type gathering[T any] struct {
	agents *agents
	follow bool     // the answers do not end
	nodes  []string // those that are asked; nil for all
	// ask asks one agent, and pushes what it answers until that ends. began is
	// called when the agent answers.
	ask func(ctx context.Context, a *agent, to *source[T], began func()) error

	out   *merger[T] // nil where ask has no use for a source
	tally *tally

	done  chan struct{} // closed when nothing comes any more
	feeds sync.WaitGroup
}

// downTime is how long an agent that did not answer lately has to begin.
const downTime = time.Second

// start asks, until ctx ends; a list until all have answered.
func (g *gathering[T]) start(ctx context.Context) {
	g.tally, g.done = newTally(), make(chan struct{})
	go func() {
		defer close(g.done)
		g.run(ctx)
	}()
}

// run keeps one feed for each node that is asked.
func (g *gathering[T]) run(ctx context.Context) {
	defer g.feeds.Wait()
	type feeding struct {
		agent *agent
		stop  context.CancelFunc
	}
	running := map[string]feeding{} // by node
	fed := map[string]*source[T]{}  // that there were, by node
	defer func() {
		for _, f := range running {
			f.stop()
		}
	}()
	for {
		r := g.agents.now()
		there := map[string]bool{}
		for _, m := range r.members {
			if g.nodes != nil && !slices.Contains(g.nodes, m.node) {
				continue
			}
			there[m.node] = true
			f, ok := running[m.node]
			if ok && f.agent == m.agent {
				continue
			}
			if ok {
				f.stop()
				delete(running, m.node)
			}
			if m.agent == nil {
				g.tally.failed(m.node, errNoAgent)
				continue
			}
			feed, stop := context.WithCancel(ctx)
			running[m.node] = feeding{m.agent, stop}
			g.tally.ask(m.node)
			var src *source[T]
			if g.out != nil {
				src = g.out.source(time.Now())
				src.node = m.node
				if old := fed[m.node]; old != nil {
					src.follows(old)
				}
				fed[m.node] = src
			}
			g.feeds.Go(func() {
				defer src.end()
				g.feed(feed, m.node, m.agent, src)
			})
		}
		for node, f := range running {
			if !there[node] {
				f.stop()
				delete(running, node)
				g.tally.gone(node)
			}
		}
		for _, node := range g.nodes {
			if !there[node] {
				g.tally.failed(node, errNoNode)
			}
		}
		g.tally.asked()
		if !g.follow {
			g.feeds.Wait()
			return
		}
		select {
		case <-r.changed:
		case <-ctx.Done():
			return
		}
	}
}

// errNoNode is why a node does not answer that was asked for by name.
var errNoNode = errors.New("there is no such node")

// feed asks one agent, a list once, and a stream again whenever it breaks.
func (g *gathering[T]) feed(ctx context.Context, node string, a *agent, src *source[T]) {
	var b backoff
	for {
		news := a.answers()
		began := false
		err := g.ask(ctx, a, src, func() {
			began = true
			b = backoff{}
			g.tally.answered(node)
		})
		if ctx.Err() != nil {
			return // nobody asks any more, or not this agent
		}
		if g.follow && a.isGone() {
			<-ctx.Done() // it broke off because it is gone, not because it failed
			return
		}
		if err == nil && !g.follow {
			if !began {
				g.tally.answered(node) // with nothing at all
			}
			return
		}
		if err == nil {
			err = errHungUp
		}
		g.tally.failed(node, err)
		if !g.follow {
			return
		}
		src.pause()
		if refused(err) {
			// It will say the same again, unless it is replaced.
			select {
			case <-news:
				continue
			case <-ctx.Done():
				return
			}
		}
		if !b.wait(ctx, news) {
			return
		}
	}
}

// isGone reports whether the agent is none any more.
func (g *agent) isGone() bool {
	select {
	case <-g.gone:
		return true
	default:
		return false
	}
}

// refused reports whether an agent finds a question wrong.
func refused(err error) bool {
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return e.Status >= http.StatusBadRequest && e.Status < http.StatusInternalServerError
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
		return true
	}
	return false
}

// same asks every agent the same question.
func same(q api.Question) func(*agent) api.Question {
	return func(*agent) api.Question { return q }
}

// askRows returns how agents are asked for the rows of a list or stream.
func askRows(path string, follow bool, question func(*agent) api.Question) func(context.Context, *agent, *source[api.Row], func()) error {
	return askBatches(func(ctx context.Context, a *agent) api.Batches { return a.client.Rows(ctx, path, follow, question(a)) })
}

// askBatches returns how agents are asked for rows.
func askBatches(ask func(context.Context, *agent) api.Batches) func(context.Context, *agent, *source[api.Row], func()) error {
	return func(ctx context.Context, a *agent, to *source[api.Row], began func()) error {
		begun := false
		for batch, err := range attentive(ctx, a.patience(), func(ctx context.Context) api.Batches { return ask(ctx, a) }) {
			if err != nil {
				return err
			}
			now := time.Now()
			if !begun {
				begun = true
				a.clock.measure(batch.Clock, now)
				began()
			}
			if batch.Rows, err = tellable(batch.Rows); err != nil {
				return err
			}
			to.push(batch.Rows, batch.Clock, a.clock.correction(), now)
		}
		return nil
	}
}

// errGarbage is why a node does not answer whose agent tells what cannot be told.
var errGarbage = errors.New("it tells rows that are none")

// maxName is more than kinds and namespaces have bytes.
const maxName = 64

// tellable returns the rows of an agent that are passed on. Which nodes answer
// nobody says but the hub. The JSON is not read, but it is one line, or it would be
// rows of its own where people ask for lines.
func tellable(rows []api.Row) ([]api.Row, error) {
	for _, r := range rows {
		n := len(r.JSON)
		if n < 2 || r.JSON[0] != '{' || r.JSON[n-1] != '}' || bytes.IndexByte(r.JSON, '\n') >= 0 || len(r.Kind) > maxName || len(r.Namespace) > maxName {
			return nil, errGarbage
		}
	}
	return slices.DeleteFunc(rows, func(r api.Row) bool { return r.Kind == nodesKind }), nil
}

var nodesKind = event.KindNodes.String()

// patience is how long an agent has to begin its answer.
func (g *agent) patience() time.Duration {
	if g.line().up {
		return silence
	}
	return downTime
}

// each asks the agents of all nodes that are wanted something that is one
// object, at the same time. A node whose agent does not answer in time is
// failed in the tally.
func (a *agents) each(ctx context.Context, nodes []string, within time.Duration, ask func(ctx context.Context, node string, g *agent) error) *tally {
	t := newTally()
	var all sync.WaitGroup
	there := map[string]bool{}
	for _, m := range a.now().members {
		if nodes != nil && !slices.Contains(nodes, m.node) {
			continue
		}
		there[m.node] = true
		if m.agent == nil {
			t.failed(m.node, errNoAgent)
			continue
		}
		t.ask(m.node)
		limit := within
		if !m.agent.line().up {
			limit = min(within, downTime)
		}
		all.Go(func() {
			ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
			defer cancel()
			err := ask(ctx, m.node, m.agent)
			switch cause := context.Cause(ctx); {
			case err == nil:
				t.answered(m.node)
			case cause != nil:
				t.failed(m.node, cause)
			default:
				t.failed(m.node, err)
			}
		})
	}
	for _, node := range nodes {
		if !there[node] {
			t.failed(node, errNoNode)
		}
	}
	all.Wait()
	t.asked()
	return t
}
