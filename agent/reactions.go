package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"warren/alert/reaction"
	"warren/api"
	"warren/cluster"
	"warren/event"
	"warren/kube"
	"warren/pipeline"
)

// reactions have done what rules want when they alert.
type reactions struct {
	*reaction.Reactor
	spine *pipeline.Pipeline

	mu  sync.Mutex
	sub *pipeline.Subscription // nil where none have ever been enabled
}

// openReactions begins them. Nobody is asked.
func openReactions(cfg Config, member *membership, spine *pipeline.Pipeline, log *slog.Logger) (*reactions, error) {
	env := reaction.Env{Hostname: event.Hostname(), Version: cfg.Version, Node: cfg.Node, Namespace: kube.Namespace(), Tell: spine.Tell, Log: log}
	if member != nil {
		env.Pods = podActs{member.kube}
	}
	x, err := reaction.New(cfg.Reactions, cfg.Alerts.Falco, env)
	if err != nil {
		return nil, fmt.Errorf("prepare reactions: %w", err)
	}
	r := &reactions{Reactor: x, spine: spine}
	if err := r.subscribe(cfg.Reactions); err != nil {
		x.Close()
		return nil, err
	}
	return r, nil
}

// subscribe has the pipeline wait with its end for what is told of the last
// reactions, once they are enabled: they come to their end when there are no more
// alerts. No event is wanted.
func (r *reactions) subscribe(cfg reaction.Config) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sub != nil || !cfg.Enabled {
		return nil
	}
	sub, err := r.spine.Subscribe(pipeline.Options{
		Name: "reactions", Filter: "nothing", Kinds: event.Kinds(event.KindAlert), Match: func(*event.Event) bool { return false }, Tells: event.Kinds(event.KindReaction),
	})
	if err != nil {
		return fmt.Errorf("begin reactions: %w", err)
	}
	r.sub = sub
	go func() {
		for {
			if _, err := sub.Next(context.Background()); err != nil { // closed, or the end
				r.close()
				return
			}
		}
	}()
	return nil
}

// use goes by another configuration, or with nil by that which is in force, for a
// generation of rules.
func (r *reactions) use(g *reaction.Generation, t *reaction.Terms, cfg reaction.Config) error {
	if err := r.subscribe(cfg); err != nil {
		return err
	}
	r.Use(g, t)
	return nil
}

// close ends what is under way, and tells it.
func (r *reactions) close() {
	r.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sub != nil {
		r.sub.Close()
	}
}

// status describes what became of them, nil where there is nothing to tell.
func (r *reactions) status() *api.Reactions {
	if r == nil {
		return nil
	}
	st := r.Status()
	if !st.Enabled && len(st.Counts) == 0 {
		return nil
	}
	out := &api.Reactions{Enabled: st.Enabled, DryRun: st.DryRun, Waiting: st.Waiting, Running: st.Running, Actions: []api.ReactionCount{}}
	for _, c := range st.Counts {
		out.Actions = append(out.Actions, api.ReactionCount(c))
	}
	if f := st.Failed; !f.At.IsZero() {
		out.Failure = &api.ReactionFailure{At: f.At, Rule: f.Rule, Action: f.Action, Error: f.Why}
	}
	return out
}

// podActs does with pods of the cluster what reactions want.
type podActs struct{ kube *kube.Client }

var _ reaction.Pods = podActs{}

// Label implements [reaction.Pods].
func (p podActs) Label(ctx context.Context, pod *cluster.Pod, labels map[string]string, dry bool) error {
	return podError(p.kube.LabelPod(ctx, podName(pod), labels, dry))
}

// Delete implements [reaction.Pods].
func (p podActs) Delete(ctx context.Context, pod *cluster.Pod, grace time.Duration, dry bool) error {
	return podError(p.kube.DeletePod(ctx, podName(pod), grace, dry))
}

func podName(p *cluster.Pod) kube.PodName {
	return kube.PodName{Namespace: p.Namespace, Name: p.Name, UID: p.UID}
}

func podError(err error) error {
	switch {
	case errors.Is(err, kube.ErrPodGone):
		return reaction.ErrGone
	case errors.Is(err, kube.ErrRefused):
		return &reaction.RefusedError{Err: err}
	}
	return err
}
