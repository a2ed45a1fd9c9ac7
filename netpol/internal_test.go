package netpol

import (
	"math"
	"net/netip"
	"strings"
	"testing"

	"warren/cluster"
)

// TestTooManyVerdicts has a pod with more verdicts than there may be: it is
// closed, the problem is told, and gone when the policy is.
func TestTooManyVerdicts(t *testing.T) {
	db := &cluster.Pod{UID: "db", Namespace: "shop", Name: "db", Labels: map[string]string{"app": "db"}, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	web := &cluster.Pod{UID: "web", Namespace: "shop", Name: "web", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}
	policy := &cluster.Policy{UID: "p", Namespace: "shop", Name: "p", Tier: cluster.NetworkTier, IsolatesIngress: true,
		Ingress: []cluster.PolicyRule{{Action: cluster.AllowAction, AnyPeer: true, Ports: []cluster.PolicyPort{{Protocol: "tcp", First: 1, Last: 1}, {Protocol: "tcp", First: 2, Last: 2}}}}}
	policy.Subject.Pods.Equal = map[string]string{"app": "db"}
	w := &World{Pods: []*cluster.Pod{db, web}, Policies: []*cluster.Policy{policy}}
	p := Packet{Src: web.Addrs[0], Dst: db.Addrs[0], Protocol: 6, Port: 1}
	for _, test := range []struct {
		max     int
		want    Verdict
		problem string
	}{{2, Allow, ""}, {1, Deny, "more than 1 verdicts"}} {
		c := NewCompiler()
		c.maxVerdicts = test.max
		program, err := c.Compile(w, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, in := program.Judge(p); in.Verdict != test.want {
			t.Errorf("with %d: %v", test.max, in)
		}
		if out, _ := program.Judge(Packet{Src: db.Addrs[0], Dst: web.Addrs[0], Protocol: 6, Port: 1}); out.Verdict != test.want {
			t.Errorf("with %d, egress: %v", test.max, out)
		}
		if got := strings.Join(program.Problems["p"], ""); !strings.Contains(got, test.problem) || (got == "") != (test.problem == "") {
			t.Errorf("with %d: problems %q", test.max, got)
		}
		if program, err = c.Compile(&World{Pods: w.Pods}, nil); err != nil || len(program.Problems) != 0 {
			t.Errorf("problems of a policy that is gone: %v, %v", program.Problems, err)
		}
	}
}

// TestNumbersRunOut begins again where numbers end, and skips those in use.
func TestNumbersRunOut(t *testing.T) {
	c := NewCompiler()
	c.lastID = math.MaxUint32 - 1
	c.byID[math.MaxUint32] = &identity{}
	c.byID[1] = &identity{}
	if id := c.nextID(); id != 2 {
		t.Errorf("after the last comes %d", id)
	}
}

// TestNothingLeft compiles a world and then none: a Compiler that runs for
// months keeps nothing of what is gone.
func TestNothingLeft(t *testing.T) {
	c := NewCompiler()
	pod := &cluster.Pod{UID: "db", Namespace: "shop", Name: "db", Labels: map[string]string{"a": "b"}, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, NamespaceLabels: map[string]string{"a": "b"},
		Ports: []cluster.PodPort{{Name: "http", Protocol: "tcp", Port: 1}}}
	node := &cluster.Node{UID: "n", Name: "n", Addrs: []netip.Addr{netip.MustParseAddr("172.16.0.1")}}
	policy := &cluster.Policy{UID: "p", Namespace: "shop", Name: "p", Tier: cluster.NetworkTier, IsolatesEgress: true,
		Egress: []cluster.PolicyRule{{Action: cluster.AllowAction, AnyPeer: true, Ports: []cluster.PolicyPort{{Name: "http"}}},
			{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, {Nodes: &cluster.Selector{}}}}}}
	for range 3 {
		for _, w := range []*World{{Pods: []*cluster.Pod{pod}, Nodes: []*cluster.Node{node}, Policies: []*cluster.Policy{policy}}, {}} {
			if _, err := c.Compile(w, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if c.retired = nil; len(c.classes)+len(c.byLabel)+len(c.pods)+len(c.nodes)+len(c.places)+len(c.policies)+len(c.groups)+len(c.inForce)+len(c.names.rules)+len(c.recipes)+len(c.sets)+len(c.setUsed) != 0 {
		t.Errorf("left: %d classes, %d pods, %d nodes, %d places, %d policies, %d groups, %d names, %d recipes, %d sets",
			len(c.classes), len(c.pods), len(c.nodes), len(c.places), len(c.policies), len(c.groups), len(c.names.rules), len(c.recipes), len(c.sets))
	}
	if len(c.identities) != 1 || len(c.regions.of) != 2 || len(c.byID) != 1 {
		t.Errorf("left: identities %v, regions %v", c.identities, c.regions.of)
	}
	if len(c.spaces) > 1 {
		t.Errorf("left: %d namespaces", len(c.spaces))
	}
}

// TestPortKeys cuts ranges: what matches a key is what is in the range.
func TestPortKeys(t *testing.T) {
	for _, r := range [][2]uint16{{1, 65535}, {80, 80}, {80, 90}, {1, 1}, {65535, 65535}, {1023, 1025}, {1, 65534}, {2, 32768}} {
		keys := portKeys([]cluster.PolicyPort{{Protocol: "tcp", First: r[0], Last: r[1]}})
		if len(keys) > 30 {
			t.Errorf("%v: %d keys", r, len(keys))
		}
		for port := 0; port <= 65535; port++ {
			hits := 0
			for _, k := range keys {
				if uint32(port)>>(16-k.bits) == uint32(k.port)>>(16-k.bits) {
					hits++
				}
			}
			want := 0
			if uint16(port) >= r[0] && uint16(port) <= r[1] {
				want = 1
			}
			if hits != want {
				t.Fatalf("%v: port %d is hit by %d keys", r, port, hits)
			}
		}
	}
}
