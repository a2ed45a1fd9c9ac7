package hub

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"warren/api"
	"warren/kube"
)

const (
	// lookTime is how often agents are asked where policies of the cluster are in
	// force, while there are some; a quarter more or less, so that not all hubs ask
	// at once. Each agent has a hundredth of a second of that.
	lookTime, lookShare = 5 * time.Second, 10 * time.Millisecond
	// settleTime is how long nodes have for a new version of a policy before it is
	// told that not all have it.
	settleTime = 10 * time.Second
	// rewriteTime is between two changes of what is told of one version, recountTime
	// where only the number of nodes is another, and mostWrites how many policies
	// are written to in one look: nodes that come and go all the time are no reason
	// to keep an API server busy.
	rewriteTime, recountTime = time.Minute, 10 * time.Minute
	mostWrites               = 20
)

// tellProgrammed keeps in the status of each ClusterNetworkPolicy where it is in
// force. All hubs come to the same, and write only what is not there yet, so
// that it does not matter which one does.
func (h *hub) tellProgrammed(ctx context.Context) error {
	told := make(chan []kube.ClusterPolicy)
	watched := make(chan error, 1)
	go func() {
		watched <- h.cluster.WatchClusterPolicies(ctx, func(list []kube.ClusterPolicy) {
			select {
			case told <- list:
			case <-ctx.Done():
			}
		})
	}()
	defer func() { <-watched }()
	l := newLedger()
	look := time.NewTimer(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case list := <-told:
			if l.take(list, time.Now()) {
				look.Reset(h.cfg.look / 5)
			}
			continue
		case <-look.C:
		}
		if len(l.policies) > 0 && h.ready() == nil {
			h.lookAtPolicies(ctx, l)
		}
		every := max(h.cfg.look, time.Duration(len(l.nodes))*lookShare)
		look.Reset(every*3/4 + rand.N(every/2+1))
	}
}

// lookAtPolicies asks all agents, and writes what is new.
func (h *hub) lookAtPolicies(ctx context.Context, l *ledger) {
	var nodes []string
	for _, m := range h.agents.now().members {
		nodes = append(nodes, m.node)
	}
	s, _ := h.askPolicyStatus(ctx, api.PolicyStatusQuestion{Cluster: true})
	if ctx.Err() != nil {
		return
	}
	l.heard(nodes, s.Nodes)
	for _, w := range l.due(time.Now()) {
		if err := h.cluster.TellProgrammed(ctx, w.policy, w.is); err != nil && ctx.Err() == nil {
			h.log.Debug("the status of a policy cannot be written", "policy", w.policy.Name, "err", err)
		}
	}
}

// A ledger is what a hub knows of the policies of the cluster, and of where they
// are in force. One goroutine uses it.
type ledger struct {
	policies []kube.ClusterPolicy
	seen     map[string]version // by uid
	nodes    []string
	said     map[string]api.NodePolicies // by node: its last word
}

// A version of a policy, and what was told of it.
type version struct {
	generation int64
	since      time.Time // it is known
	told       kube.Programmed
	changed    time.Time // told
}

func newLedger() *ledger {
	return &ledger{seen: map[string]version{}, said: map[string]api.NodePolicies{}}
}

// take takes in the policies that there are, and says whether there is another
// version of one.
func (l *ledger) take(list []kube.ClusterPolicy, now time.Time) (news bool) {
	seen := make(map[string]version, len(list))
	for _, p := range list {
		v, known := l.seen[p.UID]
		if !known || v.generation != p.Generation {
			news = true
			v.generation, v.since = p.Generation, now
		}
		if v.told != p.Programmed {
			v.told, v.changed = p.Programmed, now
		}
		seen[p.UID] = v
	}
	l.policies, l.seen = list, seen
	return news
}

// heard takes in what nodes have said. Who says nothing, or has just begun, has
// in force what it had: its kernel goes on.
func (l *ledger) heard(nodes []string, said []api.NodePolicies) {
	l.nodes = nodes
	for _, n := range said {
		if _, known := l.said[n.Node]; n.Waiting == "" || !known {
			l.said[n.Node] = n
		}
	}
	for node := range l.said {
		if !slices.Contains(nodes, node) {
			delete(l.said, node)
		}
	}
}

type writing struct {
	policy kube.ClusterPolicy
	is     kube.Programmed
}

// due is what is to be written now.
func (l *ledger) due(now time.Time) (list []writing) {
	for _, p := range l.policies {
		is, sure := l.programmed(p)
		is.Since = now
		if is.Status == p.Programmed.Status {
			is.Since = p.Programmed.Since
		}
		if v := l.seen[p.UID]; is.Status == "" || is == p.Programmed || now.Sub(v.since) < settleTime && is.Status != "True" || !replaces(is, p.Programmed, sure, now.Sub(v.changed)) {
			continue
		}
		if list = append(list, writing{p, is}); len(list) == mostWrites {
			break
		}
	}
	return list
}

// replaces says whether something takes the place of what was told some time
// ago. A hub that has not heard of all nodes does not correct one that has: they
// would write in turns for ever.
func replaces(is, was kube.Programmed, sure bool, ago time.Duration) bool {
	switch {
	case was.Status == "" || was.Generation != is.Generation:
		return true
	case sure && is.Status == was.Status && is.Status == "True":
		return ago >= recountTime
	case sure:
		return ago >= rewriteTime
	case is.Status == "False":
		return was.Status != "False" && ago >= rewriteTime
	}
	return was.Status == "False" && ago >= recountTime
}

// mostNodesTold is how many nodes a message names, and mostReason how long the
// reason of one can be.
const mostNodesTold, mostReason = 5, 300

// programmed says where a policy is in force, as far as the nodes have said; sure
// where all of them have.
func (l *ledger) programmed(p kube.ClusterPolicy) (is kube.Programmed, sure bool) {
	var bad, unknown []string
	good, enforcing := 0, 0
	for _, node := range l.nodes {
		said, ok := l.said[node]
		if ok && said.Mode != api.ModeOff {
			enforcing++
		}
		switch wrong, sure := onNode(p, said, ok); {
		case wrong == "":
			good++
		case sure:
			bad = append(bad, node+": "+wrong)
		default:
			unknown = append(unknown, node+": "+wrong)
		}
	}
	is = kube.Programmed{Status: "Unknown", Reason: "Pending", Generation: p.Generation}
	switch {
	case enforcing == 0 && (len(unknown) > 0 || p.Programmed.Status == ""):
		return kube.Programmed{}, false // nobody has ever said that it is in force
	case enforcing == 0:
		is.Status, is.Reason, is.Message = "False", "NotEnforced", "No node enforces policy: their agents have no network."
		return is, true
	case good == len(l.nodes):
		is.Status, is.Reason = "True", "Programmed"
	case len(bad) > 0 && good > 0:
		is.Status, is.Reason = "False", "PartlyProgrammed"
	case len(bad) > 0:
		is.Status, is.Reason = "False", "NotProgrammed"
	}
	is.Message = fmt.Sprintf("In force on %d of %d nodes.", good, len(l.nodes))
	if why := append(bad, unknown...); len(why) > 0 {
		more := ""
		if over := len(why) - mostNodesTold; over > 0 {
			why, more = why[:mostNodesTold], fmt.Sprintf("; and %d more nodes", over)
		}
		is.Message += " Not on " + strings.Join(why, "; ") + more
	}
	return is, len(unknown) == 0
}

// onNode says why a policy is not in force on a node, "" where it is; sure where
// the node itself says so and does not only need more time.
func onNode(p kube.ClusterPolicy, said api.NodePolicies, ok bool) (why string, sure bool) {
	switch {
	case !ok:
		return "no agent has said so", false
	case said.Mode == api.ModeOff:
		return "its agent enforces no policy", true
	}
	at := slices.IndexFunc(said.Policies, func(o api.NetworkPolicy) bool { return o.UID == p.UID })
	switch {
	case at < 0 || said.Policies[at].InForce < p.Generation:
		if said.Error != "" {
			return cut(said.Error), true
		}
		return "not yet", false
	case len(said.Policies[at].Failed) > 0:
		return fmt.Sprintf("not for %d pods, which warren policy status names", len(said.Policies[at].Failed)), true
	case len(said.Policies[at].Problems) > 0 && !p.NotUnderstood:
		return cut(said.Policies[at].Problems[0]), true
	}
	return "", true
}

func cut(text string) string {
	if len(text) > mostReason {
		return strings.ToValidUTF8(text[:mostReason], "") + "..."
	}
	return text
}
