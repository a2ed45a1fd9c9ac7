package hub

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"warren/api"
	"warren/internal/testkit"
	"warren/kube"
)

// on is what a node says that has versions of policies in force, by uid.
func on(node string, inForce map[string]int64) api.NodePolicies {
	n := api.NodePolicies{Node: node, Mode: "routed"}
	for uid, generation := range inForce {
		n.Policies = append(n.Policies, api.NetworkPolicy{UID: uid, Tier: "Admin", Name: uid, Generation: generation, InForce: generation, Endpoints: 1})
	}
	return n
}

// TestProgrammedWords holds what is told of a policy by what nodes say of it.
func TestProgrammedWords(t *testing.T) {
	const uid = "p"
	good, old := on("a", map[string]int64{uid: 2}), on("b", map[string]int64{uid: 1})
	with := func(node string, change func(*api.NodePolicies)) api.NodePolicies {
		n := on(node, map[string]int64{uid: 2})
		change(&n)
		return n
	}
	failing := with("b", func(n *api.NodePolicies) { n.Policies[0].Failed = []string{"bank/vault", "shop/x"} })
	stuck := old
	stuck.Error = "apply policy: no room " + strings.Repeat("x", 1000)
	limited := with("b", func(n *api.NodePolicies) { n.Policies[0].Problems = []string{"too many verdicts"} })
	off := api.NodePolicies{Node: "b", Mode: api.ModeOff}
	for _, test := range []struct {
		name          string
		p             kube.ClusterPolicy
		said          []api.NodePolicies
		status, words string
	}{
		{"everywhere", kube.ClusterPolicy{}, []api.NodePolicies{good, on("b", map[string]int64{uid: 2})}, "True", "Programmed: In force on 2 of 2 nodes."},
		{"nobody has spoken", kube.ClusterPolicy{}, nil, "", ": "},
		{"one has not spoken", kube.ClusterPolicy{}, []api.NodePolicies{good}, "Unknown", "Pending: In force on 1 of 2 nodes. Not on b: no agent has said so"},
		{"one has the last version", kube.ClusterPolicy{}, []api.NodePolicies{good, old}, "Unknown", "Pending: In force on 1 of 2 nodes. Not on b: not yet"},
		{"not for some pods", kube.ClusterPolicy{}, []api.NodePolicies{good, failing}, "False", "PartlyProgrammed: In force on 1 of 2 nodes. Not on b: not for 2 pods, which warren policy status names"},
		{"a node that cannot", kube.ClusterPolicy{}, []api.NodePolicies{stuck}, "False", "NotProgrammed: In force on 0 of 2 nodes. Not on b: apply policy: no room x"},
		{"a limit", kube.ClusterPolicy{}, []api.NodePolicies{good, limited}, "False", "PartlyProgrammed: In force on 1 of 2 nodes. Not on b: too many verdicts"},
		{"what agents have told", kube.ClusterPolicy{NotUnderstood: true}, []api.NodePolicies{good, limited}, "True", "Programmed: In force on 2 of 2 nodes."},
		{"one without a network", kube.ClusterPolicy{}, []api.NodePolicies{good, off}, "False", "PartlyProgrammed: In force on 1 of 2 nodes. Not on b: its agent enforces no policy"},
		{"none with one", kube.ClusterPolicy{}, []api.NodePolicies{{Node: "a", Mode: api.ModeOff}, off}, "", ": "},
		{"none with one any more", kube.ClusterPolicy{Programmed: kube.Programmed{Status: "True"}}, []api.NodePolicies{{Node: "a", Mode: api.ModeOff}, off}, "False", "NotEnforced: No node enforces policy: their agents have no network."},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLedger()
			l.heard([]string{"a", "b"}, test.said)
			test.p.UID, test.p.Generation = uid, 2
			is, _ := l.programmed(test.p)
			if words := is.Reason + ": " + is.Message; is.Status != test.status || !strings.HasPrefix(words, test.words) || len(words) > 500 || test.status != "" && is.Generation != 2 {
				t.Errorf("got %q %s (of version %d)", is.Status, words, is.Generation)
			}
		})
	}
	// Who is away, or begins anew, goes on with what it had.
	l := newLedger()
	l.heard([]string{"a"}, []api.NodePolicies{good})
	l.heard([]string{"a"}, nil)
	l.heard([]string{"a"}, []api.NodePolicies{{Node: "a", Mode: "routed", Waiting: "the cluster"}})
	if is, sure := l.programmed(kube.ClusterPolicy{UID: uid, Generation: 2}); is.Status != "True" || !sure {
		t.Errorf("an agent that begins anew: %+v", is)
	}
	l.heard([]string{"b"}, nil)
	if len(l.said) != 0 {
		t.Errorf("of nodes that are gone is known %v", l.said)
	}
}

// TestProgrammedWrites runs two hubs for an hour, one of which has begun after a
// node went down, over nodes that come and go: what is told follows, and nobody
// writes much.
func TestProgrammedWrites(t *testing.T) {
	const policies, steps = 40, 720 // of five seconds
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	server := make([]kube.ClusterPolicy, policies)
	inForce := map[string]int64{}
	for i := range server {
		server[i] = kube.ClusterPolicy{UID: fmt.Sprint(i), Name: fmt.Sprint("p", i), Generation: 1}
		inForce[server[i].UID] = 1
	}
	first, second := newLedger(), newLedger()
	writes := 0
	step := func(nodes []string, said func(node string) (api.NodePolicies, bool), hubs ...*ledger) {
		now = now.Add(5 * time.Second)
		for _, l := range hubs {
			l.take(append([]kube.ClusterPolicy(nil), server...), now)
			var list []api.NodePolicies
			for _, node := range nodes {
				if n, ok := said(node); ok {
					list = append(list, n)
				}
			}
			l.heard(nodes, list)
			for _, w := range l.due(now) {
				writes++
				for i := range server {
					if server[i].UID == w.policy.UID {
						server[i].Programmed = w.is
					}
				}
			}
		}
	}
	all := func(node string) (api.NodePolicies, bool) { return on(node, inForce), true }
	for range 10 {
		step([]string{"a", "b", "down"}, all, first)
	}
	if writes != policies {
		t.Errorf("%d writes of %d policies that are in force everywhere", writes, policies)
	}
	writes = 0
	for range steps {
		nodes := []string{"a", "b", "down"}
		for i := range random.IntN(5) {
			nodes = append(nodes, fmt.Sprint("new-", i))
		}
		step(nodes, func(node string) (api.NodePolicies, bool) {
			switch {
			case node == "down":
				return api.NodePolicies{}, false
			case random.IntN(3) == 0:
				return api.NodePolicies{Node: node, Mode: "routed", Waiting: "the cluster"}, true
			}
			return on(node, inForce), true
		}, first, second)
	}
	// The number of nodes is told anew six times in an hour, at most.
	if writes > 6*policies {
		t.Errorf("%d writes in an hour, of %d policies", writes, policies)
	}
	for _, p := range server {
		if p.Programmed.Status != "True" {
			t.Fatalf("%s: %+v", p.Name, p.Programmed)
		}
	}
	// A node that fails is told within a minute or so, by either hub, and once.
	failing := func(node string) (api.NodePolicies, bool) {
		n := on(node, inForce)
		if node == "b" {
			n.Policies[0].Failed = []string{"shop/x"}
		}
		return n, node != "down"
	}
	writes = 0
	for range 30 {
		step([]string{"a", "b", "down"}, failing, first, second)
	}
	told := 0
	for _, p := range server {
		if p.Programmed.Status == "False" {
			told++
		}
	}
	if told == 0 || writes > policies+told*3 {
		t.Errorf("%d writes, %d told", writes, told)
	}
	// So is another version, when all nodes have had their time.
	server[7].Generation = 2
	writes = 0
	for range 4 {
		step([]string{"a", "b", "down"}, all, second, first)
	}
	if p := server[7].Programmed; p.Generation != 2 || p.Status != "Unknown" {
		t.Errorf("a version that is nowhere yet: %+v", p)
	}
	inForce["7"] = 2
	for range 30 {
		step([]string{"a", "b", "down"}, all, second, first)
	}
	if p := server[7].Programmed; p.Generation != 2 || p.Status != "True" && !strings.Contains(p.Message, "down: not") {
		t.Errorf("a version that is in force: %+v", p)
	}
}

// TestProgrammed has a hub ask agents and tell the cluster.
func TestProgrammed(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	for _, a := range []*fakeAgent{one, two} {
		a.inForce = func(q api.PolicyStatusQuestion) api.NodePolicies {
			if !q.Cluster {
				t.Error("asked for more than policies of the cluster")
			}
			return on("x", map[string]int64{"u": 1})
		}
	}
	f := newFixture(t, ca, Config{look: 20 * time.Millisecond}, one, two)
	f.cluster.change(func(c *fakeCluster) {
		c.policies = []kube.ClusterPolicy{{UID: "u", Name: "tier", Generation: 1}}
		close(c.policiesChanged)
		c.policiesChanged = make(chan struct{})
	})
	testkit.Wait(t, "the condition", func() bool {
		f.cluster.mu.Lock()
		defer f.cluster.mu.Unlock()
		return f.cluster.policies[0].Programmed.Message == "In force on 2 of 2 nodes."
	})
	f.cluster.mu.Lock()
	defer f.cluster.mu.Unlock()
	if f.cluster.written != 1 {
		t.Errorf("written %d times", f.cluster.written)
	}
}
