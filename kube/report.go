package kube

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"log/slog"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"warren/cluster"
)

// conditionAccepted says in the status of a ClusterNetworkPolicy whether all of
// it is understood. NetworkPolicies have no status.
const conditionAccepted = "warren.dev/Accepted"

// maxMessage is how long a condition's message can be, by the API.
const maxMessage = 32 << 10

// A reporter writes that condition. Every agent comes to the same one, so any of
// them may write it; the one that is first in an order that each policy has of
// its own does, and the next ones where it does not. A condition that is there
// for a version of the policy stays: agents of two releases do not argue.
type reporter struct {
	client *Client
	state  *cluster.State
	node   string
	path   string
	log    *slog.Logger
	now    func() time.Time
	// turn is between two agents' turns.
	turn time.Duration

	wake    chan struct{} // has room for one signal
	mu      sync.Mutex
	due     map[string]report // by uid
	refused bool              // and said
}

// A report is what is to be written, and when.
type report struct {
	name      string // of the policy
	condition metav1.Condition
	at        time.Time
	ranked    bool // it is our turn at that time
}

const (
	reportTurn  = 3 * time.Second
	reportRetry = time.Minute
)

func newReporter(c *Client, st *cluster.State, node, path string, log *slog.Logger) *reporter {
	return &reporter{
		client: c, state: st, node: node, path: path, log: log, now: time.Now, turn: reportTurn,
		wake: make(chan struct{}, 1), due: make(map[string]report),
	}
}

// told hears of a policy as it is, and how it was understood.
func (r *reporter) told(o *policyv1alpha2.ClusterNetworkPolicy, p *cluster.Policy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	is := meta.FindStatusCondition(o.Status.Conditions, conditionAccepted)
	if is != nil && is.ObservedGeneration >= o.Generation {
		delete(r.due, string(o.UID))
		return
	}
	want := metav1.Condition{
		Type: conditionAccepted, Status: metav1.ConditionTrue, ObservedGeneration: o.Generation, Reason: "Accepted",
		Message: "All of it is understood. Condition warren.dev/Programmed says where it is in force.", LastTransitionTime: metav1.NewTime(r.now().Truncate(time.Second)),
	}
	if len(p.Problems) > 0 {
		want.Status, want.Reason = metav1.ConditionFalse, "NotUnderstood"
		want.Message = strings.Join(p.Problems, "; ")
		if len(want.Message) > maxMessage {
			want.Message = strings.ToValidUTF8(want.Message[:maxMessage], "")
		}
	}
	if is != nil && is.Status == want.Status {
		want.LastTransitionTime = is.LastTransitionTime
	}
	r.due[string(o.UID)] = report{name: o.Name, condition: want, at: r.now()}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// gone hears that a policy is.
func (r *reporter) gone(uid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.due, uid)
}

// queue says when it is our turn to write what is due, once the nodes are known.
func (r *reporter) queue(uid string) {
	synced, rank := r.state.Synced(), r.rank(uid)
	r.mu.Lock()
	defer r.mu.Unlock()
	one, ok := r.due[uid]
	if !ok {
		return
	}
	one.at = r.now().Add(r.turn)
	if synced {
		one.at, one.ranked = r.now().Add(time.Duration(rank)*r.turn), true
	}
	r.due[uid] = one
}

// rank is how many agents come before this one for a policy.
func (r *reporter) rank(uid string) (before int) {
	mine := turnOf(uid, r.node)
	for n := range r.state.Nodes {
		if n.Name != r.node && turnOf(uid, n.Name) < mine {
			before++
		}
	}
	return before
}

func turnOf(uid, node string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(uid + "\x00" + node)) // never fails
	return h.Sum64()
}

// run writes what is due until ctx ends.
func (r *reporter) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		uid, next, wait := r.next()
		if wait > 0 || uid == "" {
			if uid == "" {
				wait = time.Hour
			}
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return
			case <-r.wake:
			case <-timer.C:
			}
			continue
		}
		if !next.ranked {
			r.queue(uid)
			continue
		}
		err := r.write(ctx, next.name, &next.condition)
		if ctx.Err() != nil {
			return
		}
		r.wrote(uid, next, err)
	}
}

// next is what is due first, and in how long; "" where nothing is.
func (r *reporter) next() (uid string, first report, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for u, one := range r.due {
		if uid == "" || one.at.Before(first.at) {
			uid, first = u, one
		}
	}
	return uid, first, first.at.Sub(r.now())
}

// wrote hears how it went.
func (r *reporter) wrote(uid string, what report, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now, ok := r.due[uid]; !ok || now.condition != what.condition {
		return // another version was told meanwhile, or that it is written
	}
	if err == nil {
		delete(r.due, uid)
		r.refused = false
		return
	}
	what.at = r.now().Add(reportRetry)
	r.due[uid] = what
	if !r.refused {
		r.refused = true
		r.log.Warn("the status of a policy cannot be written", "policy", what.name, "err", err)
	}
}

// write applies the condition, and leaves others' alone.
func (r *reporter) write(ctx context.Context, name string, c *metav1.Condition) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": policyVersion.String(), "kind": "ClusterNetworkPolicy", "metadata": map[string]any{"name": name},
		"status": map[string]any{"conditions": []metav1.Condition{*c}},
	})
	if err != nil {
		return err
	}
	return r.client.rest.Patch(types.ApplyPatchType).AbsPath(r.path, name, "status").Param("fieldManager", userAgent).Param("force", "true").
		Body(body).Do(asking(ctx, "clusternetworkpolicies/status")).Error()
}

// reported is what is kept of a ClusterNetworkPolicy where somebody reports.
type reported struct {
	object *policyv1alpha2.ClusterNetworkPolicy // with what a reporter looks at
	policy *cluster.Policy
}

// reports makes a resource of ClusterNetworkPolicies tell a reporter, too.
func (r *reporter) reports(of *resource) {
	convert, set, gone := of.convert, of.set, of.gone
	of.convert = func(o runtime.Object) (string, any) {
		key, v := convert(o)
		object, ok := o.(*policyv1alpha2.ClusterNetworkPolicy)
		policy, is := v.(*cluster.Policy)
		if !ok || !is {
			return key, v
		}
		return key, &reported{policy: policy, object: &policyv1alpha2.ClusterNetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: object.Name, UID: object.UID, Generation: object.Generation},
			Status:     policyv1alpha2.ClusterNetworkPolicyStatus{Conditions: object.Status.Conditions},
		}}
	}
	of.set = func(key string, v any, at time.Time) {
		if both, ok := v.(*reported); ok {
			r.told(both.object, both.policy)
			set(key, both.policy, at)
		}
	}
	of.gone = func(key string, v any, at time.Time) {
		r.gone(key)
		gone(key, nil, at)
	}
}
