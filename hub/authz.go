package hub

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"warren/api"
	"warren/cluster"
	"warren/kube"
)

// A view is what somebody may see: everything, or what pods of some namespaces
// do. It does not change.
type view struct {
	all        bool
	namespaces map[string]bool
}

// everything is the view of who may get pods in all namespaces, and of Warren's
// own parts.
var everything = &view{all: true}

// sees reports whether rows of a namespace are told; "" is what belongs to no
// pod, as the processes of the nodes themselves.
func (v *view) sees(namespace string) bool {
	return v.all || namespace != "" && v.namespaces[namespace]
}

// none reports whether nothing at all is seen.
func (v *view) none() bool { return !v.all && len(v.namespaces) == 0 }

// list returns the namespaces, sorted; nil for everything.
func (v *view) list() []string {
	if v.all {
		return nil
	}
	return slices.Sorted(maps.Keys(v.namespaces))
}

// mostPushed is how many namespaces are named in the filter that agents get. For
// who has more of them the hub alone leaves out the rest.
const mostPushed = 200

// narrow returns a filter that matches what expr does, and only in the view. It
// spares the way of rows that the hub would leave out: what is told the hub
// decides by the namespace of each row. all is false where the filter can match
// what is not in the view: then agents cannot say which are the last ten.
func (v *view) narrow(expr string) (narrowed string, all bool) {
	if v.all || len(v.namespaces) > mostPushed {
		return expr, v.all
	}
	in := `k8s.ns.name in ("` + strings.Join(v.list(), `", "`) + `")`
	if strings.TrimSpace(expr) == "" {
		return in, true
	}
	return "(" + expr + ") and " + in, true
}

// namespaces is what is known of the cluster's.
type namespaces interface {
	Namespaces() []string
}

// A decision is whether a user may get the pods of a namespace; "" of all.
type decision struct {
	user      identity
	namespace string
}

type ruling struct {
	may bool
	at  time.Time
}

// rights decides who may see what, and remembers it for a while. Any goroutine
// may use it.
type rights struct {
	reviewer reviewer
	known    namespaces
	log      *slog.Logger
	now      func() time.Time
	fresh    time.Duration // for how long a ruling counts
	asking   *flights[decision, bool]

	mu      sync.Mutex
	rulings map[decision]ruling
	reviews atomic.Uint64
}

const (
	// mostRulings bounds how many are remembered.
	mostRulings = 1 << 16
	// awayTime is how long the last ruling counts while the cluster cannot be
	// asked: nobody loses their view because its API server restarts.
	awayTime = 2 * time.Minute
)

func newRights(r reviewer, known namespaces, review time.Duration, log *slog.Logger) *rights {
	// See newTokens for the half.
	return &rights{reviewer: r, known: known, log: log, now: time.Now, fresh: review / 2, asking: newFlights[decision, bool](), rulings: map[decision]ruling{}}
}

// errBlind is that of a user who may see nothing.
var errBlind = errors.New("may not get pods in any namespace")

// view returns what somebody may see. The error is errBlind where that is
// nothing, and any other where the cluster could not be asked.
func (r *rights) view(ctx context.Context, c *caller) (*view, error) {
	if c.trusted {
		return everything, nil
	}
	who := identityOf(c.user)
	all, err := r.may(ctx, c.user, who, "")
	switch {
	case err != nil:
		return nil, err
	case all:
		return everything, nil
	}
	return r.among(ctx, c, who, r.known.Namespaces())
}

// still returns what somebody may see yet of what they saw. Namespaces that they
// gained are not looked for: nobody told of them so far, and in a cluster of many
// namespaces there would be as many questions.
func (r *rights) still(ctx context.Context, c *caller, saw *view) (*view, error) {
	if saw.all {
		return r.view(ctx, c)
	}
	there := slices.DeleteFunc(r.known.Namespaces(), func(ns string) bool { return !saw.namespaces[ns] })
	return r.among(ctx, c, identityOf(c.user), there)
}

// askedAtOnce is how many questions about one user are asked at the same time:
// others have questions, too.
const askedAtOnce = 8

// among returns which of some namespaces somebody may see.
func (r *rights) among(ctx context.Context, c *caller, who identity, names []string) (*view, error) {
	v := &view{namespaces: map[string]bool{}}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(askedAtOnce)
	for _, ns := range names {
		if !isLabel(ns) {
			continue // no namespace has such a name, and no filter is to
		}
		g.Go(func() error {
			may, err := r.may(ctx, c.user, who, ns)
			if may {
				mu.Lock()
				defer mu.Unlock()
				v.namespaces[ns] = true
			}
			return err
		})
	}
	switch err := g.Wait(); {
	case err != nil:
		return nil, err
	case v.none():
		return nil, errBlind
	}
	return v, nil
}

// may says whether a user may get the pods of a namespace.
func (r *rights) may(ctx context.Context, u cluster.User, who identity, namespace string) (bool, error) {
	key := decision{who, namespace}
	r.mu.Lock()
	last, known := r.rulings[key]
	r.mu.Unlock()
	if known && r.now().Sub(last.at) < r.counts(last) {
		return last.may, nil
	}
	may, err := r.asking.do(ctx, key, func(ctx context.Context) (bool, error) {
		r.reviews.Add(1)
		may, err := r.reviewer.MayGetPods(ctx, u, namespace)
		if err == nil {
			r.keep(key, ruling{may, r.now()})
		}
		return may, err
	}, nil)
	if err != nil && known && ctx.Err() == nil && r.now().Sub(last.at) < awayTime {
		r.log.Debug("rights could not be reviewed: the last answer counts", "who", u.Name, "namespace", namespace, "err", err)
		return last.may, nil
	}
	return may, err
}

// counts is for how long a ruling is not asked for again: who is refused may be
// about to be granted what they lack.
func (r *rights) counts(is ruling) time.Duration {
	if is.may {
		return r.fresh
	}
	return min(badTime, r.fresh)
}

func (r *rights) keep(key decision, is ruling) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rulings) >= mostRulings {
		for k, old := range r.rulings {
			if is.at.Sub(old.at) >= r.fresh {
				delete(r.rulings, k)
			}
		}
	}
	if len(r.rulings) >= mostRulings {
		clear(r.rulings)
	}
	r.rulings[key] = is
}

// viewOf returns what a caller may see. The error is what they are told.
func (h *hub) viewOf(ctx context.Context, c *caller, what string) (*view, *api.Error) {
	if starting := h.ready(); starting != nil {
		return nil, starting // it would seem to them that there is nothing to see
	}
	v, err := h.rights.view(ctx, c)
	switch {
	case errors.Is(err, errBlind):
		return nil, h.door.refuse(refusedRights, c.from, nameOf(c.user), what, api.Forbidden("%s %v", nameOf(c.user), errBlind))
	case err != nil:
		h.log.Warn("rights could not be reviewed", "who", c.user.Name, "err", err)
		return nil, api.Unavailable("the cluster cannot be asked what %s may see", nameOf(c.user))
	}
	return v, nil
}

// errRevoked is why an answer ends that goes on: who gets it may not any more.
var errRevoked = errors.New("the rights of who asks have ended")

// review asks again what a caller may see, who saw a view and whose answer goes
// on. The error is
// errRevoked where it has to end, and any other where the cluster could not be
// asked.
func (h *hub) review(ctx context.Context, c *caller, what string, saw *view) (*view, error) {
	err := h.door.again(ctx, c)
	var v *view
	if err == nil {
		v, err = h.rights.still(ctx, c, saw)
	}
	if errors.Is(err, kube.ErrUnauthenticated) || errors.Is(err, errBlind) {
		h.door.refuse(refusedLate, c.from, nameOf(c.user), what, api.Forbidden("%v", err))
		return nil, errRevoked
	}
	return v, err
}

// notAll refuses what is told to who sees everything, and to nobody else.
func notAll(c *caller) *api.Error {
	e := api.Forbidden("%s may not get pods in all namespaces", nameOf(c.user))
	e.Hint = "what is of a node, and of no pod, is told to who may"
	return e
}

// A sight is the view of a caller whose answer goes on, as it is at any time.
// One goroutine uses it.
type sight struct {
	h      *hub
	caller *caller
	what   string
	view   *view
	whole  bool // the answer is for who sees everything, and ends with that
	proven time.Time
	next   time.Time // when to ask again
}

func (h *hub) sight(c *caller, what string, v *view) *sight {
	now := time.Now()
	return &sight{h: h, caller: c, what: what, view: v, proven: now, next: now.Add(h.cfg.Review / 2)}
}

// keep asks again when it is time. The error is that the answer has to end: the
// rights have, or nobody could say for too long.
func (s *sight) keep(ctx context.Context, now time.Time) error {
	if now.Before(s.next) {
		return nil
	}
	s.next = now.Add(s.h.cfg.Review / 2)
	switch v, err := s.h.review(ctx, s.caller, s.what, s.view); {
	case err == nil && s.whole && !v.all:
		s.h.door.refuse(refusedLate, s.caller.from, nameOf(s.caller.user), s.what, notAll(s.caller))
		return errRevoked
	case err == nil:
		s.view, s.proven = v, now
	case errors.Is(err, errRevoked) || now.Sub(s.proven) >= awayTime:
		return err
	default:
		s.h.log.Debug("rights could not be reviewed: the last answer counts", "who", nameOf(s.caller.user), "err", err)
	}
	return nil
}
