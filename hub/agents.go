package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"warren/api"
	"warren/cluster"
	"warren/kube"
)

// A roster is which agent is asked for which node, at one time. It does not
// change: when that changes there is a new one.
type roster struct {
	members []member      // by node
	changed chan struct{} // closed when there is another one
}

// A member is one node of the cluster.
type member struct {
	node  string
	agent *agent // nil where none runs
	// spare are agents that claim the same node and are not asked.
	spare []*agent
}

// errNoAgent is why a node does not answer on which no agent runs.
var errNoAgent = errors.New("no agent runs there")

// agents knows the agents of the cluster, and keeps a line to each: a stream by
// which it learns that an agent answers, its version and its clock. Any
// goroutine may use it.
type agents struct {
	dial  dialer
	nodes func() []*cluster.Node // on which an agent is to be
	log   *slog.Logger

	mu     sync.Mutex
	known  map[string]*agent // by pod and address
	roster atomic.Pointer[roster]
	lines  sync.WaitGroup
}

func newAgents(dial dialer, nodes func() []*cluster.Node, log *slog.Logger) *agents {
	a := &agents{dial: dial, nodes: nodes, log: log, known: map[string]*agent{}}
	a.roster.Store(&roster{changed: make(chan struct{})})
	return a
}

// now returns the present roster.
func (a *agents) now() *roster { return a.roster.Load() }

// An agent is one pod of the agents' service.
type agent struct {
	kube.Agent // as it was found; whether it is ready now is in state
	client     *api.Client
	flows      *grpc.ClientConn // nil where it serves no flows
	clock      skew
	cancel     context.CancelFunc
	gone       <-chan struct{} // closed when it is no agent any more: a roster says so next

	mu    sync.Mutex
	state lineState
	news  chan struct{} // closed when the agent begins to answer
}

// lineState is what the line to an agent has told.
type lineState struct {
	ready bool  // Kubernetes says so
	up    bool  // it answers
	err   error // why it does not; nil as long as that is not known
	since time.Time
	about about
	lost  uint64 // events that the agent says it lost
}

// about is what is read of an agent's status; agents of other versions may say
// more, or less.
type about struct {
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	Node    string    `json:"node"`
	Ready   bool      `json:"ready"`
}

func (g *agent) line() lineState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state
}

// answers returns a channel that is closed when the agent next begins to
// answer.
func (g *agent) answers() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.news
}

// nodeOf is the name under which an agent stands for its node. Kubernetes says on
// which one a pod runs; what the agent says of itself decides nothing.
func nodeOf(k kube.Agent) string { return cmp.Or(k.Node, k.Pod, k.Addr.String()) }

func keyOf(k kube.Agent) string {
	return fmt.Sprintf("%s %s %s %d %d", k.Node, k.Pod, k.Addr, k.HubPort, k.HubblePort)
}

// set takes in all agents that there are, and keeps a line to each as long as
// ctx lasts and it is there.
func (a *agents) set(ctx context.Context, list []kube.Agent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	there := map[string]bool{}
	for _, k := range list {
		if !k.Addr.IsValid() || k.HubPort == 0 {
			continue // it has no address yet
		}
		key := keyOf(k)
		there[key] = true
		if g := a.known[key]; g != nil {
			g.mu.Lock()
			g.state.ready = k.Ready
			g.mu.Unlock()
			continue
		}
		line, cancel := context.WithCancel(ctx)
		g := &agent{Agent: k, client: a.dial.rows(k), cancel: cancel, gone: line.Done(), news: make(chan struct{})}
		g.state.ready = k.Ready
		if k.HubblePort != 0 {
			conn, err := a.dial.flows(k)
			if err != nil {
				a.log.Warn("an agent's flows cannot be asked for", "node", nodeOf(k), "pod", k.Pod, "err", err)
			}
			g.flows = conn
		}
		a.known[key] = g
		a.lines.Go(func() {
			a.keep(line, g)
			if g.flows != nil {
				g.flows.Close()
			}
		})
	}
	for key, g := range a.known {
		if !there[key] {
			g.cancel()
			delete(a.known, key)
		}
	}
	a.arrange()
}

// refresh makes a new roster if the nodes of the cluster have changed.
func (a *agents) refresh() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.arrange()
}

// arrange makes the roster of the agents that are known. Where two claim one
// node, as during an update, one is asked.
func (a *agents) arrange() {
	byNode := map[string][]*agent{}
	for _, n := range a.nodes() {
		byNode[n.Name] = nil
	}
	for _, g := range a.known {
		byNode[nodeOf(g.Agent)] = append(byNode[nodeOf(g.Agent)], g)
	}
	next := &roster{changed: make(chan struct{})}
	for _, node := range slices.Sorted(maps.Keys(byNode)) {
		m := member{node: node}
		if list := byNode[node]; len(list) > 0 {
			slices.SortFunc(list, preferred)
			m.agent, m.spare = list[0], list[1:]
		}
		next.members = append(next.members, m)
	}
	old := a.roster.Load()
	if slices.EqualFunc(old.members, next.members, func(x, y member) bool {
		return x.node == y.node && x.agent == y.agent && slices.Equal(x.spare, y.spare)
	}) {
		return
	}
	a.tellSpares(old, next)
	a.roster.Store(next)
	close(old.changed)
}

// preferred orders agents that claim one node: first one that answers, then one
// that is ready, then the one that started last, which is the one that replaces
// the other.
func preferred(x, y *agent) int {
	rank := func(g *agent) (n int) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.state.up {
			n += 2
		}
		if g.state.ready {
			n++
		}
		return n
	}
	return cmp.Or(
		cmp.Compare(rank(y), rank(x)),
		y.line().about.Started.Compare(x.line().about.Started),
		cmp.Compare(y.Pod, x.Pod),
		cmp.Compare(keyOf(y.Agent), keyOf(x.Agent)),
	)
}

// tellSpares logs which agents are not asked because another one claims their
// node.
func (a *agents) tellSpares(old, next *roster) {
	before := map[*agent]bool{}
	for _, m := range old.members {
		for _, g := range m.spare {
			before[g] = true
		}
	}
	for _, m := range next.members {
		for _, g := range m.spare {
			if !before[g] {
				a.log.Warn("two agents claim one node: the newer one is asked", "node", m.node, "asked", m.agent.Pod, "ignored", g.Pod)
			}
		}
	}
}

const (
	// silence is how long an agent may say nothing. It says something each
	// second.
	silence = 5 * time.Second
	// backoffLeast and backoffMost bound the time between two tries.
	backoffLeast = 100 * time.Millisecond
	backoffMost  = 5 * time.Second
)

// backoff counts tries in vain.
type backoff struct{ tries int }

// next returns how long to wait before the next try: longer each time, and of
// random length, so that not all hubs ask an agent at once that comes back.
func (b *backoff) next() time.Duration {
	d := min(backoffLeast<<min(b.tries, 10), backoffMost)
	b.tries++
	return d/2 + rand.N(d/2+1)
}

// wait waits for the next try, or until something else has news. It returns
// false when ctx has ended.
func (b *backoff) wait(ctx context.Context, news <-chan struct{}) bool {
	t := time.NewTimer(b.next())
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-news:
	case <-t.C:
	}
	return ctx.Err() == nil
}

// keep keeps the line to an agent until ctx ends.
func (a *agents) keep(ctx context.Context, g *agent) {
	var b backoff
	for {
		err := a.hear(ctx, g, func() { b = backoff{} })
		if ctx.Err() != nil {
			return
		}
		a.down(g, err)
		if !b.wait(ctx, nil) {
			return
		}
	}
}

// hear reads an agent's status, and then its signs of life until they end.
func (a *agents) hear(ctx context.Context, g *agent, up func()) error {
	asked, cancel := context.WithTimeout(ctx, silence)
	b, err := g.client.Status(asked)
	cancel()
	if err != nil {
		return err
	}
	var st about
	if err := json.Unmarshal(b, &st); err != nil {
		return fmt.Errorf("read its status: %w", err)
	}
	// Losses are told to everybody: a stream of nothing else has signs of life.
	first := true
	for batch, err := range attentive(ctx, silence, func(ctx context.Context) api.Batches {
		return g.client.Rows(ctx, api.PathEvents, true, api.Question{Filter: "evt.kind = lost", Fields: []string{"lost.count"}})
	}) {
		if err != nil {
			return err
		}
		g.clock.measure(batch.Clock, time.Now())
		if first {
			first = false
			a.up(g, st)
			up()
		}
		if len(batch.Rows) > 0 {
			g.mu.Lock()
			g.state.lost += countLost(batch.Rows)
			g.mu.Unlock()
		}
	}
	return errHungUp
}

// countLost sums up the events that rows say were lost.
func countLost(rows []api.Row) (sum uint64) {
	for _, r := range rows {
		var l struct {
			Count uint64 `json:"lost.count"`
		}
		if json.Unmarshal(r.JSON, &l) == nil {
			sum += l.Count
		}
	}
	return sum
}

func (a *agents) up(g *agent, st about) {
	g.mu.Lock()
	g.state.up, g.state.err, g.state.since, g.state.about = true, nil, time.Now(), st
	close(g.news)
	g.news = make(chan struct{})
	g.mu.Unlock()
	if st.Node != "" && st.Node != nodeOf(g.Agent) {
		a.log.Warn("an agent says that it is on another node than Kubernetes does", "pod", g.Pod, "node", nodeOf(g.Agent), "says", st.Node)
	}
	a.log.Info("an agent answers", "node", nodeOf(g.Agent), "pod", g.Pod, "version", st.Version)
	a.refresh()
}

func (a *agents) down(g *agent, err error) {
	g.mu.Lock()
	was := g.state
	g.state.up, g.state.err = false, err
	if was.up || was.since.IsZero() {
		g.state.since = time.Now()
	}
	g.mu.Unlock()
	if was.up || was.err == nil || reason(was.err) != reason(err) {
		a.log.Warn("an agent does not answer", "node", nodeOf(g.Agent), "pod", g.Pod, "err", err)
	}
	if was.up {
		a.refresh()
	}
}

// wait returns when no line is kept any more: their context has to end.
func (a *agents) wait() { a.lines.Wait() }
