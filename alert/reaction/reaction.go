// Package reaction has done what rules want done when they alert: programs run,
// webhooks called, pods labelled and deleted.
//
// Files of rules come from many places. So a rule only asks, and the agent's
// configuration says what may be done; see [Config]. Of everything that a rule has
// asked for there is an event of kind reaction, whatever became of it.
//
// Nothing here is in the way of events: who alerts hands over, without waiting, to
// a bounded queue and a few goroutines. Any goroutine may call any method of a
// [Reactor] at any time.
package reaction

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"warren/alert"
	"warren/alert/channel"
	"warren/cluster"
	"warren/event"
	"warren/rule"
)

// Pods is what can be done with pods of a cluster; dry has only found out whether
// it could be. The errors are [ErrGone], a *[RefusedError], or of something that
// can change.
type Pods interface {
	Label(ctx context.Context, pod *cluster.Pod, labels map[string]string, dry bool) error
	// Delete gives the pod the time of grace to end; below zero its own.
	Delete(ctx context.Context, pod *cluster.Pod, grace time.Duration, dry bool) error
}

// ErrGone says that there is no such pod any more.
var ErrGone = errors.New("the pod is gone")

// A RefusedError says that something will not be done, however often it is tried.
type RefusedError struct{ Err error }

// Error implements error.
func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap returns why.
func (e *RefusedError) Unwrap() error { return e.Err }

// Env is what reactions need of the agent.
type Env struct {
	// Hostname is the machine's name, Version the agent's.
	Hostname, Version string
	// Node is the cluster's node that this machine is, Namespace that of the agent's
	// own pod; "" for none. Pods is nil where there is no cluster.
	Node, Namespace string
	Pods            Pods
	// Tell publishes what became of a reaction.
	Tell func(*event.Event)
	Log  *slog.Logger
}

const (
	// workers is how many alerts are reacted to at the same time: of a rule one after
	// the other, so that what hangs for one is not waited for by another's.
	workers = 8
	// queueSize is how many wait, queueOfRule how many of one rule.
	queueSize   = 256
	queueOfRule = 64
	// endGrace is how long what is under way when the agent ends may take.
	endGrace = 3 * time.Second
	// tellLimited is how often what was limited is told, with its number.
	tellLimited = time.Minute
)

var errEnds = errors.New("the agent ends")

// A Reactor has done what rules want.
type Reactor struct {
	env   Env
	pause time.Duration // before the second attempt

	over context.Context // ends when nothing goes on any longer
	kill context.CancelCauseFunc
	quit chan struct{} // closed when nothing more is taken
	all  sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond  // something waits, or a rule is not busy any more, or ended
	now     *Generation // whose terms are in force
	ended   bool
	waiting []*job
	busy    map[string]bool // names of rules that are reacted to
	total   window
	windows windows
	done    done
	skipped map[string]*skipped
	counts  map[rule.Action]*Count
	failed  Failure
}

// A job is an alert and what is to be done about it, in this order.
type job struct {
	of    *Generation
	rule  *rule.Rule
	about *event.Event
	alert *event.Event
	todo  []*rule.Reaction
}

// skipped are reactions that were limited since that was told.
type skipped struct {
	job
	why   string
	times uint64
	due   time.Time
}

// New begins a reactor. Its errors are those of [Reactor.Prepare].
func New(cfg Config, falco alert.Falco, env Env) (*Reactor, error) {
	x := &Reactor{env: env, pause: firstPause, quit: make(chan struct{}), busy: map[string]bool{}, skipped: map[string]*skipped{}, counts: map[rule.Action]*Count{}}
	x.changed = sync.NewCond(&x.mu)
	t, err := x.Prepare(cfg, falco)
	if err != nil {
		return nil, err
	}
	x.now = &Generation{x, t}
	x.over, x.kill = context.WithCancelCause(context.Background())
	for range workers {
		x.all.Go(x.work)
	}
	x.all.Go(x.tellSkipped)
	return x, nil
}

// Terms are a configuration that a reactor can go by. They never change.
type Terms struct {
	cfg   Config
	falco alert.Falco // how alerts are written
	calls map[string]*channel.Call
}

// Prepare makes terms of a configuration, and of how alerts are written; it changes
// nothing. The error is that a webhook's files cannot be read.
func (x *Reactor) Prepare(cfg Config, falco alert.Falco) (*Terms, error) {
	cfg.Limit = cmp.Or(cfg.Limit, defaultLimit)
	if cfg.Protected == nil {
		cfg.Protected = slices.Clone(clusterNamespaces)
		if ns := x.env.Namespace; ns != "" && !slices.Contains(cfg.Namespaces, ns) {
			cfg.Protected = append(cfg.Protected, ns)
		}
		cfg.Protected = slices.DeleteFunc(cfg.Protected, func(ns string) bool { return slices.Contains(cfg.Namespaces, ns) })
	}
	t := &Terms{cfg: cfg, falco: falco, calls: map[string]*channel.Call{}}
	for _, w := range cfg.Webhooks {
		call, err := channel.NewCall(w, x.env.Version)
		if err != nil {
			return nil, fmt.Errorf("webhook %s: %w", w.Name, err)
		}
		t.calls[w.Name] = call
	}
	return t, nil
}

// A Generation is rules that are put to work together, and the terms that they came
// with. What is to be done about their alerts has to be allowed by these, and by
// those that are in force when it begins: rules that are being replaced gain nothing
// by what others may have done.
type Generation struct {
	x     *Reactor
	terms *Terms // guarded by x.mu; nil before Use
}

// Next returns a generation of rules that are to be put to work.
func (x *Reactor) Next() *Generation { return &Generation{x: x} }

// Now returns the generation whose terms are in force.
func (x *Reactor) Now() *Generation {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.now
}

// Use goes by the terms of a generation, which are from now on these; nil stands for
// those in force. What is under way ends as it began; what waits is done only as far
// as these allow it. Counts and limits' times go on.
func (x *Reactor) Use(g *Generation, t *Terms) {
	x.mu.Lock()
	old := x.now.terms
	x.now, g.terms = g, cmp.Or(t, old)
	x.mu.Unlock()
	if t != nil {
		old.close()
	}
}

// close ends connections that nobody uses.
func (t *Terms) close() {
	for _, c := range t.calls {
		c.Close()
	}
}

// React hands over an alert of a rule, with the event that it is about. It does not
// wait. There is none before Use.
func (g *Generation) React(r *rule.Rule, about, told *event.Event) {
	x, j := g.x, &job{of: g, rule: r, about: about, alert: told}
	var say []*event.Event
	x.mu.Lock()
	room := x.room(r.Name)
	for i := range r.Reactions {
		do := &r.Reactions[i]
		if v := x.admit(j, do, room, time.Now()); v != (verdict{}) {
			if v.outcome != event.ReactionLimited {
				say = append(say, x.outcome(j, do, x.bounds(j).undone(do, v)))
			}
			continue
		}
		j.todo = append(j.todo, do)
	}
	if len(j.todo) > 0 {
		x.waiting = append(x.waiting, j)
		x.changed.Signal()
	}
	x.mu.Unlock()
	for _, e := range say {
		x.env.Tell(e)
	}
}

// room reports whether one more alert of a rule can wait. The caller holds x.mu.
func (x *Reactor) room(rule string) bool {
	n := 0
	for _, j := range x.waiting {
		if j.rule.Name == rule {
			n++
		}
	}
	return n < queueOfRule && len(x.waiting) < queueSize
}

// A verdict is what became of a reaction, and why it was not done.
type verdict struct{ outcome, why string }

// admit judges whether something may be done now; the zero verdict is that it may.
// room is whether one more alert can wait. What is not begun, for there is too much
// else, takes nothing of a workload's limit: it would be used up by others. The
// caller holds x.mu.
func (x *Reactor) admit(j *job, do *rule.Reaction, room bool, now time.Time) verdict {
	if x.ended {
		return verdict{event.ReactionFailed, errEnds.Error()}
	}
	once := keyOf(j.rule, do, podOf(j.about))
	if do.Once && x.done.has(once, x.bounds(j).dry(do)) {
		return x.skip(j, do, "it is done once for each pod", now)
	}
	w := x.windows.of(keyOf(j.rule, do, workloadOf(j.about)), now)
	switch {
	case w == nil:
		return x.skip(j, do, "there are too many workloads to count it of one more", now)
	case !w.room(do.Limit, now):
		return x.skip(j, do, "at most "+do.Limit.String()+" for each workload", now)
	}
	if v := x.bounds(j).allowed(do, j.about, &x.env); v != (verdict{}) {
		if v.outcome == event.ReactionRefused {
			w.take(do.Limit, now) // how often it is told
		}
		return v
	}
	switch {
	case !room:
		return verdict{event.ReactionFailed, "too many others wait"}
	case !x.total.room(x.now.terms.cfg.Limit, now):
		return x.skip(j, do, "at most "+x.now.terms.cfg.Limit.String()+" by the agent's configuration", now)
	}
	w.take(do.Limit, now)
	x.total.take(x.now.terms.cfg.Limit, now)
	if do.Once {
		x.done.add(once, false) // as long as it waits, whatever becomes of it
	}
	return verdict{}
}

// skip counts a reaction that was limited, and will be told. The caller holds x.mu.
func (x *Reactor) skip(j *job, do *rule.Reaction, why string, now time.Time) verdict {
	key := keyOf(j.rule, do, workloadOf(j.about))
	s := x.skipped[key]
	if s == nil {
		if len(x.skipped) >= maxKeys {
			key = "" // of some that are not told apart
			s = x.skipped[key]
		}
		if s == nil {
			s = &skipped{due: now.Add(tellLimited)}
			x.skipped[key] = s
		}
	}
	s.job, s.why = job{j.of, j.rule, j.about, j.alert, []*rule.Reaction{do}}, why
	s.times++
	return verdict{event.ReactionLimited, why}
}

// tellSkipped tells what was limited, when it is time.
func (x *Reactor) tellSkipped() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			x.tellDue(now)
		case <-x.quit:
			x.tellDue(time.Time{})
			return
		}
	}
}

// tellDue tells what is due; with the zero time, all.
func (x *Reactor) tellDue(now time.Time) {
	var say []*event.Event
	x.mu.Lock()
	for _, key := range slices.Sorted(maps.Keys(x.skipped)) {
		s := x.skipped[key]
		if now.IsZero() || !s.due.After(now) {
			delete(x.skipped, key)
			r := x.bounds(&s.job).undone(s.todo[0], verdict{event.ReactionLimited, s.why})
			r.times = s.times
			say = append(say, x.outcome(&s.job, s.todo[0], r))
		}
	}
	x.mu.Unlock()
	for _, e := range say {
		x.env.Tell(e)
	}
}

// allowed says whether the agent's configuration lets something be done, and
// whether it is known with what; the zero verdict is that it may.
func (t *Terms) allowed(do *rule.Reaction, about *event.Event, env *Env) verdict {
	refuse := func(format string, args ...any) verdict {
		return verdict{event.ReactionRefused, fmt.Sprintf(format, args...)}
	}
	switch {
	case !t.cfg.Enabled:
		return refuse("reactions are not enabled in the agent's configuration")
	case do.Action == rule.RunProgram:
		if !slices.Contains(t.cfg.Programs, do.Program[0]) {
			return refuse("the program is not among reactions: programs in the agent's configuration")
		}
		return verdict{}
	case do.Action == rule.CallWebhook:
		if t.calls[do.Webhook] == nil {
			return refuse("no webhook of that name is among reactions: webhooks in the agent's configuration")
		}
		return verdict{}
	case !slices.Contains(t.cfg.Pods, do.Action):
		return refuse("%s is not among reactions: pods in the agent's configuration", do.Action)
	}
	if key, ok := t.forbidden(do.Labels); ok {
		return refuse("label %s is not among reactions: labels in the agent's configuration", key)
	}
	switch pod := event.PodOf(about); {
	case pod == nil:
		return refuse("the event is of no pod of this node")
	case env.Pods == nil:
		return refuse("the agent knows no cluster")
	case pod.UID == "" || pod.Name == "" || pod.Namespace == "" || pod.Node == "":
		return verdict{event.ReactionFailed, "the cluster has not told which pod it is"}
	case pod.Node != env.Node:
		return refuse("the pod is not on this node")
	case slices.Contains(t.cfg.Protected, pod.Namespace):
		return refuse("namespace %s is protected", pod.Namespace)
	case len(t.cfg.Namespaces) > 0 && !slices.Contains(t.cfg.Namespaces, pod.Namespace):
		return refuse("namespace %s is not among reactions: namespaces in the agent's configuration", pod.Namespace)
	case do.Action == rule.DeletePod && pod.StaticUID != "":
		return refuse("the pod is a static one, which its kubelet would start again")
	}
	return verdict{}
}

// forbidden returns the first key, in their order, of a label that rules may not put
// on pods.
func (t *Terms) forbidden(labels map[string]string) (key string, ok bool) {
	if len(t.cfg.Labels) == 0 {
		return "", false
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if !slices.Contains(t.cfg.Labels, key) {
			return key, true
		}
	}
	return "", false
}

// bounds are what a reaction is held to: the terms of its rule's generation, and
// those in force, which are the same but while rules are being replaced.
type bounds struct{ own, now *Terms }

// bounds returns those of a job. The caller holds x.mu.
func (x *Reactor) bounds(j *job) bounds { return bounds{j.of.terms, x.now.terms} }

// allowed says whether both let something be done; see [Terms.allowed].
func (b bounds) allowed(do *rule.Reaction, about *event.Event, env *Env) verdict {
	v := b.now.allowed(do, about, env)
	if v == (verdict{}) && b.own != b.now {
		v = b.own.allowed(do, about, env)
	}
	return v
}

// dry reports whether a reaction is only to be found out about.
func (b bounds) dry(do *rule.Reaction) bool {
	return do.DryRun || b.own.cfg.DryRun || b.now.cfg.DryRun
}

// undone is what became of a reaction that is not tried.
func (b bounds) undone(do *rule.Reaction, v verdict) result {
	return result{verdict: v, dry: b.dry(do)}
}

// A result is what became of a reaction that was tried, or was not.
type result struct {
	verdict
	dry      bool
	said     string
	attempts int
	took     time.Duration
	times    uint64 // of limited ones
}

// outcome counts what became of a reaction, and makes an event of it. The caller
// holds x.mu.
func (x *Reactor) outcome(j *job, do *rule.Reaction, r result) *event.Event {
	c := x.counts[do.Action]
	if c == nil {
		c = &Count{Action: do.Action.String()}
		x.counts[do.Action] = c
	}
	switch {
	case r.outcome == event.ReactionDone && r.dry:
		c.DryRun++
	case r.outcome == event.ReactionDone:
		c.Done++
	case r.outcome == event.ReactionFailed:
		c.Failed++
		x.failed = Failure{At: time.Now(), Rule: j.rule.Name, Action: c.Action, Why: r.why}
	case r.outcome == event.ReactionRefused:
		c.Refused++
	default:
		c.Limited += r.times
	}
	if once := keyOf(j.rule, do, podOf(j.about)); do.Once {
		switch r.outcome {
		case event.ReactionDone:
			x.done.add(once, r.dry)
		case event.ReactionFailed, event.ReactionRefused:
			x.done.remove(once) // the next alert tries again
		}
	}
	e := &event.Reaction{
		Type: "reaction", Rule: j.rule.Name, Priority: j.rule.Priority.String(), Action: do.Action.String(), Target: target(do, j.about), DryRun: r.dry,
		Outcome: r.outcome, Reason: r.why, Output: r.said, Attempts: uint64(r.attempts), Took: int64(r.took), Times: r.times,
	}
	if a, ok := j.alert.Data.(*event.Alert); ok {
		e.Alert = a.ID
	}
	return &event.Event{Time: time.Now(), Actor: j.alert.Actor, Process: j.alert.Process, Data: e}
}

// maxTarget bounds a program's arguments in an event, in bytes.
const maxTarget = 512

// target says what something is done with.
func target(do *rule.Reaction, about *event.Event) string {
	switch do.Action {
	case rule.RunProgram:
		text := strings.Join(do.Program, " ")
		return strings.ToValidUTF8(text[:min(len(text), maxTarget)], "")
	case rule.CallWebhook:
		return do.Webhook
	}
	if p := event.PodOf(about); p != nil {
		return p.Namespace + "/" + p.Name
	}
	return ""
}

// next returns the alert that has waited longest, of a rule of which none is
// reacted to now; nil at the end.
func (x *Reactor) next() *job {
	x.mu.Lock()
	defer x.mu.Unlock()
	for {
		i := slices.IndexFunc(x.waiting, func(j *job) bool { return !x.busy[j.rule.Name] })
		if i >= 0 {
			j := x.waiting[i]
			x.waiting = slices.Delete(x.waiting, i, i+1)
			x.busy[j.rule.Name] = true
			return j
		}
		if x.ended && len(x.waiting) == 0 {
			return nil
		}
		x.changed.Wait()
	}
}

// finished lets the next alert of a rule be reacted to.
func (x *Reactor) finished(rule string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.busy, rule)
	x.changed.Broadcast()
}

// work does what is to be done until there is nothing left.
func (x *Reactor) work() {
	for j := x.next(); j != nil; j = x.next() {
		for _, do := range j.todo {
			r := x.perform(j, do)
			x.mu.Lock()
			e := x.outcome(j, do, r)
			x.mu.Unlock()
			x.env.Tell(e)
			x.log(e.Data.(*event.Reaction))
		}
		x.finished(j.rule.Name)
	}
}

// perform does what an alert's rule wants, by the terms that are in force when it
// begins: they may have changed while it waited. Nothing is begun when the agent ends.
func (x *Reactor) perform(j *job, do *rule.Reaction) result {
	x.mu.Lock()
	b := x.bounds(j)
	x.mu.Unlock()
	select {
	case <-x.quit:
		return b.undone(do, verdict{event.ReactionFailed, errEnds.Error()})
	default:
	}
	if v := b.allowed(do, j.about, &x.env); v != (verdict{}) {
		return b.undone(do, v)
	}
	return x.do(b, j, do)
}

// log says what was done, and what was to be and was not.
func (x *Reactor) log(r *event.Reaction) {
	attrs := []any{"rule", r.Rule, "action", r.Action, "target", r.Target, "alert", r.Alert}
	if r.DryRun {
		attrs = append(attrs, "dry_run", true)
	}
	if r.Reason != "" {
		attrs = append(attrs, "err", r.Reason)
	}
	if r.Outcome == event.ReactionDone {
		x.env.Log.Info("a rule's reaction is done", attrs...)
	} else {
		x.env.Log.Warn("a rule's reaction has failed", attrs...)
	}
}

// Close ends the reactor, within a few seconds: what is under way is ended when it
// takes longer, and what waits is not begun; both is told. A second call does
// nothing.
func (x *Reactor) Close() {
	x.mu.Lock()
	if x.ended {
		x.mu.Unlock()
		return
	}
	x.ended = true
	close(x.quit)
	x.changed.Broadcast()
	x.mu.Unlock()
	defer x.kill(errEnds)
	stop := time.AfterFunc(endGrace, func() { x.kill(errEnds) })
	defer stop.Stop()
	x.all.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.now.terms.close()
}
