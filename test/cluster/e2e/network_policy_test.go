package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"warren/test/cluster/bed"
)

// A yard is nine pods, a to c in namespaces u to w, that all listen on the same
// ports: what policies are tried on.
type yard struct {
	*testCluster
	pods []yardPod
}

type yardPod struct {
	guest
	ns, pod string // u, a
}

// A probe is one port of the yard's pods.
type probe struct {
	protocol string
	port     uint16
}

var (
	web    = probe{"tcp", 80} // the named port web
	other  = probe{"tcp", 81}
	dgram  = probe{"udp", 80}
	probes = []probe{web, other, dgram}
)

// newYard starts the pods: those named b are on another node than the rest.
func newYard(c *testCluster) *yard {
	c.t.Helper()
	y := &yard{testCluster: c}
	nodes := c.RunningNodes()
	var all strings.Builder
	for _, ns := range []string{"u", "v", "w"} {
		fmt.Fprintf(&all, "---\n{apiVersion: v1, kind: Namespace, metadata: {name: %s-%s, labels: {ns: %s}}}\n", c.namespace, ns, ns)
	}
	c.apply(all.String())
	c.t.Cleanup(func() {
		for _, ns := range []string{"u", "v", "w"} {
			c.try("delete", "namespace", c.namespace+"-"+ns, "--wait=false")
		}
	})
	all.Reset()
	for _, ns := range []string{"u", "v", "w"} {
		for i, pod := range []string{"a", "b", "c"} {
			fmt.Fprintf(&all, `---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: %[2]s-%[3]s, labels: {pod: %[1]s}}
spec:
  nodeName: %[4]s
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: localhost/busybox:1, imagePullPolicy: Never, command: [sleep, "100000"], ports: [{name: web, containerPort: 80}, {name: dgram, containerPort: 80, protocol: UDP}]}
`, pod, c.namespace, ns, nodes[i%2])
		}
	}
	c.eventually("the pods to be taken", func(ctx context.Context) error { return c.Apply(ctx, all.String()) })
	for _, ns := range []string{"u", "v", "w"} {
		full := c.namespace + "-" + ns
		c.ready("pod", "--all", "-n", full)
		for _, g := range c.guests(full, "pod") {
			for _, p := range probes {
				c.listen(g, p.protocol, int(p.port))
			}
			pod := g.name[strings.LastIndex(g.name, "/")+1:]
			g.name = ns + "/" + pod
			y.pods = append(y.pods, yardPod{g, ns, pod})
		}
	}
	if len(y.pods) != 9 {
		c.t.Fatalf("%d pods, want 9", len(y.pods))
	}
	return y
}

func (y *yard) pod(name string) yardPod {
	return y.pods[slices.IndexFunc(y.pods, func(p yardPod) bool { return p.name == name })]
}

// A cell is one question of the table: may somebody reach a port of another.
type cell struct {
	from, to yardPod
	probe
	six bool
}

func (c cell) String() string {
	return fmt.Sprintf("%s -> %s %s/%d IPv%d", c.from.name, c.to.name, c.protocol, c.port, map[bool]int{false: 4, true: 6}[c.six])
}

// wrong asks cells, and gives those that are not as allowed says.
func (y *yard) wrong(cells []cell, allowed func(cell) bool) []cell {
	var mu sync.Mutex
	var wrong []cell
	slots := make(chan struct{}, 96)
	var running sync.WaitGroup
	for _, c := range cells {
		running.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			want := allowed(c)
			wait := patience
			if !want {
				wait = 300 * time.Millisecond
			}
			_, err := reach(c.from.guest, c.protocol, netip.AddrPortFrom(c.to.addr(c.six), c.port), wait)
			if (err == nil) != want {
				mu.Lock()
				defer mu.Unlock()
				wrong = append(wrong, c)
			}
		})
	}
	running.Wait()
	return wrong
}

// hold waits until the table is as allowed says, and then looks once more.
func (y *yard) hold(t *testing.T, allowed func(cell) bool) {
	t.Helper()
	var cells []cell
	for _, from := range y.pods {
		for _, to := range y.pods {
			for _, p := range probes {
				cells = append(cells, cell{from, to, p, false}, cell{from, to, p, true})
			}
		}
	}
	// Nothing keeps a pod from itself.
	rule := func(c cell) bool { return c.from.name == c.to.name || allowed(c) }
	wrong := cells
	began := time.Now()
	for len(wrong) > 0 && time.Since(began) < bed.Patience {
		wrong = y.wrong(wrong, rule)
	}
	took := time.Since(began)
	if len(wrong) == 0 {
		wrong = y.wrong(cells, rule)
	}
	for i, c := range wrong {
		if i == 12 {
			t.Errorf("and %d more", len(wrong)-i)
			break
		}
		t.Errorf("%s: allowed should be %v", c, rule(c))
	}
	t.Logf("in force after %v at most", took.Round(time.Millisecond))
}

// A policyCase is policies and what they allow.
type policyCase struct {
	name    string
	policy  string // of NetworkPolicies, without what all of them have; those of several namespaces are set apart by ---
	allowed func(c cell) bool
}

// manifests gives the case's policies as objects: each begins with a line "ns:".
func (y *yard) manifests(spec string) string {
	var out strings.Builder
	for i, one := range strings.Split(spec, "---\n") {
		ns, rest, _ := strings.Cut(strings.TrimSpace(one), "\n")
		rest = strings.ReplaceAll(rest, "\n", "\n  ")
		fmt.Fprintf(&out, "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p%d, namespace: %s-%s}\nspec:\n  %s\n", i, y.namespace, strings.TrimSuffix(ns, ":"), rest)
	}
	known := []string{"{pods4}", y.Pods.V4.String(), "{pods6}", y.Pods.V6.String()}
	for _, p := range y.pods {
		known = append(known, "{"+p.name+".4}", p.addr(false).String(), "{"+p.name+".6}", p.addr(true).String())
	}
	return strings.NewReplacer(known...).Replace(out.String())
}

// clear deletes all policies of the yard.
func (y *yard) clear() {
	y.t.Helper()
	for _, ns := range []string{"u", "v", "w"} {
		y.kubectl("delete", "networkpolicy", "--all", "-n", y.namespace+"-"+ns)
	}
}

func to(names ...string) func(c cell) bool {
	return func(c cell) bool { return slices.Contains(names, c.to.name) }
}

// policyCases are every feature of NetworkPolicy, each with the table that the
// API's documentation makes of it.
func policyCases() []policyCase {
	toUA := to("u/a")
	return []policyCase{
		{"nothing", "", func(cell) bool { return true }},
		{"default deny ingress", "u:\npodSelector: {}\npolicyTypes: [Ingress]", func(c cell) bool { return c.to.ns != "u" }},
		{"default deny egress", "u:\npodSelector: {}\npolicyTypes: [Egress]", func(c cell) bool { return c.from.ns != "u" }},
		{"default deny of everything", "u:\npodSelector: {}\npolicyTypes: [Ingress, Egress]", func(c cell) bool { return c.from.ns != "u" && c.to.ns != "u" }},
		{"allow all", "u:\npodSelector: {}\npolicyTypes: [Ingress]\n---\nu:\npodSelector: {}\ningress: [{}]", func(cell) bool { return true }},
		{"pods of the same namespace", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]",
			func(c cell) bool { return !toUA(c) || c.from.name == "u/b" }},
		{"namespaces", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}}]}]",
			func(c cell) bool { return !toUA(c) || c.from.ns == "v" }},
		{"pods of namespaces", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}, podSelector: {matchLabels: {pod: b}}}]}]",
			func(c cell) bool { return !toUA(c) || c.from.name == "v/b" }},
		{"one peer or another", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}}, {podSelector: {matchLabels: {pod: c}}}]}]",
			func(c cell) bool { return !toUA(c) || c.from.ns == "v" || c.from.name == "u/c" }},
		{"expressions", "u:\npodSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}\ningress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [w]}, {key: ns, operator: Exists}]}, podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [b]}]}}]}]",
			func(c cell) bool {
				return !to("u/a", "u/b")(c) || slices.Contains([]string{"u", "v"}, c.from.ns) && c.from.pod != "b"
			}},
		{"a port", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{ports: [{port: 81}]}]", func(c cell) bool { return !toUA(c) || c.probe == other }},
		{"a port of UDP", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{ports: [{port: 80, protocol: UDP}]}]", func(c cell) bool { return !toUA(c) || c.probe == dgram }},
		{"a protocol", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{ports: [{protocol: TCP}]}]", func(c cell) bool { return !toUA(c) || c.protocol == "tcp" }},
		{"a named port", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{ports: [{port: web}]}]", func(c cell) bool { return !toUA(c) || c.probe == web }},
		{"a range of ports", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{ports: [{port: 80, endPort: 81}]}]", func(c cell) bool { return !toUA(c) || c.protocol == "tcp" }},
		{"a range without the port", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{ports: [{port: 81, endPort: 65535}]}]", func(c cell) bool { return !toUA(c) || c.probe == other }},
		{"peers and ports", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}}], ports: [{port: 80}]}, {from: [{namespaceSelector: {matchLabels: {ns: w}}}], ports: [{port: 81}]}]",
			func(c cell) bool {
				return !toUA(c) || c.from.ns == "v" && c.probe == web || c.from.ns == "w" && c.probe == other
			}},
		{"networks with exceptions are of pods too", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{from: [{ipBlock: {cidr: {pods4}, except: [{v/b.4}/32]}}, {ipBlock: {cidr: {pods6}, except: [{v/c.6}/128]}}]}]",
			func(c cell) bool { return !toUA(c) || !c.six && c.from.name != "v/b" || c.six && c.from.name != "v/c" }},
		{"a single address", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{from: [{ipBlock: {cidr: {w/b.4}/32}}]}]", func(c cell) bool { return !toUA(c) || !c.six && c.from.name == "w/b" }},
		{"egress to pods", "u:\npodSelector: {}\npolicyTypes: [Egress]\negress: [{to: [{namespaceSelector: {matchLabels: {ns: v}}, podSelector: {matchLabels: {pod: b}}}]}]",
			func(c cell) bool { return c.from.ns != "u" || c.to.name == "v/b" }},
		{"egress to a port", "u:\npodSelector: {matchLabels: {pod: a}}\npolicyTypes: [Egress]\negress: [{ports: [{port: 80}]}]", func(c cell) bool { return c.from.name != "u/a" || c.probe == web }},
		{"egress to a named port", "u:\npodSelector: {matchLabels: {pod: a}}\npolicyTypes: [Egress]\negress: [{to: [{namespaceSelector: {matchLabels: {ns: v}}}], ports: [{port: dgram, protocol: UDP}]}]",
			func(c cell) bool { return c.from.name != "u/a" || c.to.ns == "v" && c.probe == dgram }},
		{"egress to networks", "u:\npodSelector: {matchLabels: {pod: a}}\npolicyTypes: [Egress]\negress: [{to: [{ipBlock: {cidr: {pods4}, except: [{v/a.4}/32, {v/b.4}/32]}}]}]",
			func(c cell) bool { return c.from.name != "u/a" || !c.six && c.to.name != "v/a" && c.to.name != "v/b" }},
		{"both ends must allow", "u:\npodSelector: {matchLabels: {pod: a}}\npolicyTypes: [Egress]\negress: [{to: [{namespaceSelector: {matchLabels: {ns: v}}}]}]\n---\nv:\npodSelector: {matchLabels: {pod: b}}\ningress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}]}]",
			func(c cell) bool {
				return (c.from.name != "u/a" || c.to.ns == "v") && (c.to.name != "v/b" || c.from.ns == "w")
			}},
		{"policies add up", "u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}}]}]\n---\nu:\npodSelector: {}\ningress: [{from: [{namespaceSelector: {matchLabels: {ns: w}}}], ports: [{port: 80}]}]",
			func(c cell) bool {
				return c.to.ns != "u" || c.from.ns == "w" && c.probe == web || toUA(c) && c.from.ns == "v"
			}},
		{"selectors that select nobody", "u:\npodSelector: {matchLabels: {pod: nobody}}\npolicyTypes: [Ingress]\n---\nv:\npodSelector: {matchLabels: {pod: a}}\ningress: [{from: [{podSelector: {matchLabels: {pod: nobody}}}]}]",
			func(c cell) bool { return c.to.name != "v/a" }},
		{"nothing again", "", func(cell) bool { return true }},
	}
}

// testPolicies holds every feature of policies against its table.
func testPolicies(c *testCluster) {
	y := newYard(c)
	for _, test := range policyCases() {
		c.t.(*testing.T).Run(test.name, func(t *testing.T) { y.try(t, test) })
	}
	c.t.(*testing.T).Run("labels change", y.labelsChange)
	c.t.(*testing.T).Run("policies of the cluster", y.clusterPolicies)
	c.t.(*testing.T).Run("services", y.services)
}

// testFewPolicies holds one table of each kind.
func testFewPolicies(c *testCluster) {
	y := newYard(c)
	for _, test := range policyCases() {
		if slices.Contains([]string{"nothing", "default deny of everything", "peers and ports", "networks with exceptions are of pods too", "both ends must allow", "nothing again"}, test.name) {
			c.t.(*testing.T).Run(test.name, func(t *testing.T) { y.try(t, test) })
		}
	}
	c.t.(*testing.T).Run("services", y.services)
}

// at is the yard for a subtest.
func (y *yard) at(t *testing.T) *yard { return &yard{y.testCluster.in(t), y.pods} }

func (y *yard) try(t *testing.T, test policyCase) {
	y = y.at(t)
	y.clear()
	if test.policy != "" {
		y.apply(y.manifests(test.policy))
	}
	y.hold(t, test.allowed)
}

// labelsChange holds that who is selected changes with labels of pods and of
// namespaces.
func (y *yard) labelsChange(t *testing.T) {
	y = y.at(t)
	y.clear()
	y.apply(y.manifests("u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchExpressions: [{key: role, operator: Exists}]}}]}]"))
	y.hold(t, func(c cell) bool { return c.to.name != "u/a" })
	y.kubectl("label", "namespace", y.namespace+"-v", "team=blue")
	y.kubectl("label", "pod", "b", "-n", y.namespace+"-v", "role=tester")
	y.hold(t, func(c cell) bool { return c.to.name != "u/a" || c.from.name == "v/b" })
	y.kubectl("label", "pod", "b", "-n", y.namespace+"-v", "role-")
	y.hold(t, func(c cell) bool { return c.to.name != "u/a" })
}

// clusterPolicies holds what comes before and after NetworkPolicies.
func (y *yard) clusterPolicies(t *testing.T) {
	y = y.at(t)
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/network-policy-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config", "crd", "standard", "policy.networking.k8s.io_clusternetworkpolicies.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	y.apply(string(text))
	t.Cleanup(func() { y.quietly("delete", "crd", "clusternetworkpolicies.policy.networking.k8s.io") })
	y.clear()
	policy := func(name, tier string, priority int, rest string) {
		y.eventually("policy "+name+" to be taken", func(ctx context.Context) error {
			return y.Apply(ctx, fmt.Sprintf("apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: %s}\nspec:\n  tier: %s\n  priority: %d\n  subject: {pods: {namespaceSelector: {matchLabels: {ns: u}}, podSelector: {}}}\n  %s\n",
				name, tier, priority, strings.ReplaceAll(rest, "\n", "\n  ")))
		})
	}
	from := func(ns string) string {
		return fmt.Sprintf("from: [{namespaces: {matchLabels: {ns: %s}}}]", ns)
	}
	policy("first", "Admin", 10, "ingress: [{name: no-v, action: Deny, "+from("v")+"}, {name: w-decides, action: Pass, "+from("w")+"}]")
	// Agents that have asked for these policies in vain ask again after half a
	// minute at the latest.
	y.hold(t, func(c cell) bool { return c.to.ns != "u" || c.from.ns != "v" })
	// What a NetworkPolicy allows is denied all the same; what passes is its.
	y.apply(y.manifests("u:\npodSelector: {matchLabels: {pod: a}}\ningress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}}]}]"))
	y.hold(t, func(c cell) bool { return c.to.ns != "u" || c.from.ns != "v" && c.to.name != "u/a" })
	// Before both, and behind both.
	policy("before", "Admin", 5, "ingress: [{name: v-may, action: Accept, "+from("v")+"}]")
	policy("behind", "Baseline", 1, "ingress: [{name: no-w, action: Deny, "+from("w")+"}]")
	y.hold(t, func(c cell) bool {
		switch {
		case c.to.ns != "u" || c.from.ns == "v":
			return true
		case c.to.name == "u/a":
			return false // isolated, and neither u nor w is allowed
		}
		return c.from.ns == "u"
	})
	y.inForceEverywhere("first")
	y.kubectl("delete", "clusternetworkpolicy", "--all")
	y.clear()
	y.hold(t, func(cell) bool { return true })
}

// inForceEverywhere holds that the status of a policy of the cluster, and the
// command, say that it is in force on all nodes.
func (y *yard) inForceEverywhere(policy string) {
	y.t.Helper()
	y.eventually("the status of "+policy, func(ctx context.Context) error {
		message, err := y.Kubectl(ctx, "get", "clusternetworkpolicy", policy, "-o", `jsonpath={.status.conditions[?(@.type=="warren.dev/Programmed")].message}`)
		if err != nil {
			return err
		}
		var good, nodes int
		if n, _ := fmt.Sscanf(message, "In force on %d of %d nodes.", &good, &nodes); n != 2 || good != nodes {
			return fmt.Errorf("it says %q", message)
		}
		table, err := y.Kubectl(ctx, "warren", "policy", "status", "-A")
		if err == nil && !strings.Contains(table, fmt.Sprintf(" %d/%d ", nodes, nodes)) {
			err = fmt.Errorf("of %d nodes the command says\n%s", nodes, table)
		}
		return err
	})
}

func (y *yard) quietly(args ...string) { _, _ = y.Kubectl(context.Background(), args...) }

// services holds that policy is about the pod behind a service's address, and who
// asks is the pod that did.
func (y *yard) services(t *testing.T) {
	y = y.at(t)
	y.clear()
	full := y.namespace + "-u"
	y.apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: u, namespace: %s}
spec: {ipFamilyPolicy: RequireDualStack, selector: {pod: b}, ports: [{name: a, port: 8080, targetPort: 80}, {name: b, port: 8081, targetPort: 81}]}
`, full))
	var virtual []netip.Addr
	for _, ip := range strings.Fields(y.kubectl("-n", full, "get", "service", "u", "-o", "jsonpath={.spec.clusterIPs[*]}")) {
		virtual = append(virtual, netip.MustParseAddr(ip))
	}
	y.apply(y.manifests("u:\npodSelector: {}\ningress: [{from: [{namespaceSelector: {matchLabels: {ns: v}}}], ports: [{port: 80}]}]"))
	y.eventually("the table of the service", func(context.Context) error {
		for _, from := range y.pods {
			for _, ip := range virtual {
				for port, target := range map[uint16]uint16{8080: 80, 8081: 81} {
					want := from.ns == "v" && target == 80 || from.name == "u/b"
					wait := patience
					if !want {
						wait = 300 * time.Millisecond
					}
					if _, err := reach(from.guest, "tcp", netip.AddrPortFrom(ip, port), wait); (err == nil) != want {
						return fmt.Errorf("%s to the service %s port %d, which should be %v: %w", from.name, ip, port, want, cmp.Or(err, errors.New("it answers")))
					}
				}
			}
		}
		return nil
	})
}
