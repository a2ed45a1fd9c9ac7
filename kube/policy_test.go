package kube

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/google/go-cmp/cmp"

	"warren/cluster"
)

// allPods selects every pod.
var allPods = cluster.Selector{}

func app(name string) *cluster.Selector {
	return &cluster.Selector{Equal: map[string]string{"app": name}}
}

// policyFile is a NetworkPolicy with a spec, as a person writes it.
func policyFile(spec string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n" + indent(spec)
}

func clusterPolicyFile(spec string) string {
	return "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\nspec:\n" + indent(spec)
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") + "\n"
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, t := range texts {
		list = append(list, netip.MustParsePrefix(t))
	}
	return list
}

// TestNetworkPolicy reads every field, and what nobody can mean.
func TestNetworkPolicy(t *testing.T) {
	tcp := func(first, last uint16) cluster.PolicyPort {
		return cluster.PolicyPort{Protocol: "tcp", First: first, Last: last}
	}
	for _, test := range []struct {
		name, spec string
		want       cluster.Policy
		problems   []string
	}{
		{"deny all ingress", "podSelector: {}\npolicyTypes: [Ingress]", cluster.Policy{IsolatesIngress: true}, nil},
		{"no types, no rules", "podSelector: {}", cluster.Policy{IsolatesIngress: true}, nil},
		{"no types, egress rules", "podSelector: {}\negress: [{}]", cluster.Policy{
			IsolatesIngress: true, IsolatesEgress: true,
			Egress: []cluster.PolicyRule{{Action: cluster.AllowAction, AnyPeer: true}},
		}, nil},
		{"rules of a direction that is not named", "podSelector: {}\npolicyTypes: [Egress]\ningress: [{}]", cluster.Policy{IsolatesEgress: true}, nil},
		{"everything at once", `
podSelector: {matchLabels: {app: db}, matchExpressions: [{key: tier, operator: In, values: [a, b]}, {key: x, operator: NotIn, values: [w]}, {key: e, operator: Exists}, {key: d, operator: DoesNotExist}]}
policyTypes: [Ingress, Egress]
ingress:
- from:
  - podSelector: {matchLabels: {app: web}}
  - namespaceSelector: {matchLabels: {app: ops}}
  - podSelector: {}
    namespaceSelector: {}
  - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.0.0/16]}
  ports:
  - port: 5432
  - {port: 8000, endPort: 8010, protocol: UDP}
  - {port: metrics, protocol: SCTP}
  - protocol: UDP
egress:
- to: [{ipBlock: {cidr: "2001:db8::/32"}}]
`, cluster.Policy{
			Subject: cluster.PolicySubject{Pods: cluster.Selector{Equal: map[string]string{"app": "db"}, Rules: []cluster.SelectorRule{
				{Key: "tier", Op: cluster.OpIn, Values: []string{"a", "b"}}, {Key: "x", Op: cluster.OpNotIn, Values: []string{"w"}},
				{Key: "e", Op: cluster.OpExists}, {Key: "d", Op: cluster.OpDoesNotExist},
			}}},
			IsolatesIngress: true, IsolatesEgress: true,
			Ingress: []cluster.PolicyRule{{
				Action: cluster.AllowAction,
				Peers: []cluster.PolicyPeer{
					{Pods: app("web"), SameNamespace: true},
					{Pods: &allPods, Namespaces: app("ops")},
					{Pods: &allPods, Namespaces: &allPods},
					{Networks: prefixes("10.0.0.0/8"), Except: prefixes("10.1.0.0/16", "10.2.0.0/16")},
				},
				Ports: []cluster.PolicyPort{tcp(5432, 5432), {Protocol: "udp", First: 8000, Last: 8010}, {Protocol: "sctp", Name: "metrics"}, {Protocol: "udp"}},
			}},
			Egress: []cluster.PolicyRule{{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Networks: prefixes("2001:db8::/32")}}}},
		}, nil},
		{"networks as they can be written", `
podSelector: {}
ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8}}, {ipBlock: {cidr: "::ffff:10.0.0.0/104"}}, {ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: "::/0"}}, {ipBlock: {cidr: 192.0.2.1/32}}]}]
`, cluster.Policy{IsolatesIngress: true, Ingress: []cluster.PolicyRule{{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{
			{Networks: prefixes("10.0.0.0/8")}, {Networks: prefixes("10.0.0.0/8")}, {Networks: prefixes("0.0.0.0/0")}, {Networks: prefixes("::/0")}, {Networks: prefixes("192.0.2.1/32")},
		}}}}, nil},
		{"networks that are none", `
podSelector: {}
ingress:
- from: [{ipBlock: {cidr: 10.0.0.0/33}}, {ipBlock: {cidr: 10.0.0.0}}, {ipBlock: {cidr: 010.0.0.0/8}}, {ipBlock: {cidr: "::ffff:10.0.0.0/90"}}, {ipBlock: {cidr: "fe80::%eth0/64"}}, {ipBlock: {cidr: ""}}]
- from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/99]}}, {podSelector: {}}]
`, cluster.Policy{IsolatesIngress: true, Ingress: []cluster.PolicyRule{
			{Action: cluster.AllowAction},
			{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Pods: &allPods, SameNamespace: true}}},
		}}, []string{
			`spec.ingress[0].from[0].ipBlock.cidr: "10.0.0.0/33" is no network: it matches nobody`,
			`spec.ingress[0].from[1].ipBlock.cidr: "10.0.0.0" is no network: it matches nobody`,
			`spec.ingress[0].from[2].ipBlock.cidr: "010.0.0.0/8" is no network: it matches nobody`,
			`spec.ingress[0].from[3].ipBlock.cidr: "::ffff:10.0.0.0/90" is of IPv4 and IPv6: it matches nobody`,
			`spec.ingress[0].from[4].ipBlock.cidr: "fe80::%eth0/64" is no network: it matches nobody`,
			`spec.ingress[0].from[5].ipBlock.cidr: "" is no network: it matches nobody`,
			`spec.ingress[1].from[0].ipBlock.except[0]: "10.1.0.0/99" is no network: it matches nobody`,
		}},
		{"ports that are none", `
podSelector: {}
ingress:
- ports: [{port: 0}]
- ports: [{port: 70000}, {port: 90, endPort: 80}, {port: 1, endPort: 65536}, {port: -1}, {endPort: 5}, {port: web, endPort: 80}, {port: ""}, {port: 1, protocol: ICMP}, {protocol: tcp}, {port: 443}]
`, cluster.Policy{IsolatesIngress: true, Ingress: []cluster.PolicyRule{
			{Action: cluster.AllowAction},
			{Action: cluster.AllowAction, AnyPeer: true, Ports: []cluster.PolicyPort{tcp(443, 443)}},
		}}, []string{
			"spec.ingress[0].ports[0]: 0 is no port",
			"spec.ingress[1].ports[0]: 70000 is no port",
			"spec.ingress[1].ports[1]: ports end at 80, before 90 where they begin",
			"spec.ingress[1].ports[2]: 65536 is no port",
			"spec.ingress[1].ports[3]: -1 is no port",
			"spec.ingress[1].ports[4]: endPort 5 without a port: it matches nothing",
			`spec.ingress[1].ports[5]: endPort 80 behind the name "web": it matches nothing`,
			"spec.ingress[1].ports[6]: a port without number and name: it matches nothing",
			`spec.ingress[1].ports[7]: protocol "ICMP" is none of TCP, UDP and SCTP: it matches nothing`,
			`spec.ingress[1].ports[8]: protocol "tcp" is none of TCP, UDP and SCTP: it matches nothing`,
		}},
		{"peers that are none", `
podSelector: {}
ingress: [{from: [{}, {ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}, {podSelector: {matchExpressions: [{key: a, operator: Like, values: [b]}]}}, {namespaceSelector: {matchExpressions: [{key: a, operator: In}]}}, {podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]}]
`, cluster.Policy{IsolatesIngress: true, Ingress: []cluster.PolicyRule{{Action: cluster.AllowAction}}}, []string{
			"spec.ingress[0].from[0]: says nothing that is known: it matches nobody",
			"spec.ingress[0].from[1]: ipBlock stands beside a selector: it matches nobody",
			`spec.ingress[0].from[2].podSelector.matchExpressions[0]: there is no operator "Like"`,
			"spec.ingress[0].from[3].namespaceSelector.matchExpressions[0]: operator In with 0 values",
			"spec.ingress[0].from[4].podSelector.matchExpressions[0]: operator Exists with 1 values",
		}},
		{"a subject that is not understood", `
podSelector: {matchLabels: {app: db}, matchExpressions: [{key: a, operator: Like, values: [b]}]}
ingress: [{}]
`, cluster.Policy{Subject: cluster.PolicySubject{Pods: *app("db")}, IsolatesIngress: true}, []string{
			`spec.podSelector.matchExpressions[0]: there is no operator "Like"`,
			"the pods that it is for cannot be told from others: all that it may mean are isolated, and its rules allow nothing",
		}},
		{"a type that is none", "podSelector: {}\npolicyTypes: [Forward]", cluster.Policy{IsolatesIngress: true}, []string{`spec.policyTypes[0]: there is no policy type "Forward"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			list, err := ParsePolicies([]byte(policyFile(test.spec)), "")
			if err != nil || len(list) != 1 {
				t.Fatalf("%d policies, %v", len(list), err)
			}
			test.want.UID, test.want.Namespace, test.want.Name, test.want.Tier = "networkpolicy/shop/p", "shop", "p", cluster.NetworkTier
			test.want.Problems = test.problems
			if d := cmp.Diff(&test.want, list[0], cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// TestClusterNetworkPolicy reads every field of the other kind; what is not
// understood fails closed.
func TestClusterNetworkPolicy(t *testing.T) {
	everybody := cluster.PolicyPeer{Pods: &allPods, Namespaces: &allPods}
	denyAll := cluster.PolicyRule{Action: cluster.DenyAction, AnyPeer: true}
	for _, test := range []struct {
		name, spec string
		want       cluster.Policy
		problems   []string // how each begins
	}{
		{"everything at once", `
tier: Baseline
priority: 17
subject: {pods: {namespaceSelector: {matchLabels: {app: shop}}, podSelector: {matchLabels: {app: db}}}}
ingress:
- {name: monitoring, action: Accept, from: [{namespaces: {matchLabels: {app: ops}}}, {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: probe}}}}]}
- {action: Pass, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 1, end: 9}}}}, {sctp: {destinationPort: {number: 7}}}, {destinationNamedPort: web}]}
egress:
- {action: Deny, to: [{networks: [10.0.0.0/8, "fd00::1/8"]}, {nodes: {matchLabels: {app: gate}}}, {namespaces: {}}]}
`, cluster.Policy{
			Tier: cluster.BaselineTier, Priority: 17, Subject: cluster.PolicySubject{Namespaces: *app("shop"), Pods: *app("db")},
			Ingress: []cluster.PolicyRule{
				{Name: "monitoring", Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Pods: &allPods, Namespaces: app("ops")}, {Pods: app("probe"), Namespaces: &allPods}}},
				{Action: cluster.PassAction, Peers: []cluster.PolicyPeer{everybody}, Ports: []cluster.PolicyPort{
					{Protocol: "tcp", First: 80, Last: 80}, {Protocol: "udp", First: 1, Last: 9}, {Protocol: "sctp", First: 7, Last: 7}, {Name: "web"},
				}},
			},
			Egress: []cluster.PolicyRule{{Action: cluster.DenyAction, Peers: []cluster.PolicyPeer{{Networks: prefixes("10.0.0.0/8", "fd00::/8")}, {Nodes: app("gate")}, everybody}}},
		}, nil},
		{"accept what is understood", `
tier: Admin
priority: 1
subject: {namespaces: {}}
egress:
- {action: Accept, to: [{}, {domainNames: [example.com]}, {networks: [10.0.0.0/8, nonsense]}, {namespaces: {}}]}
- {action: Accept, to: [{namespaces: {}}], protocols: [{}]}
- {action: Accept, to: []}
- {action: Accept, to: [{namespaces: {}}], protocols: [{tcp: {}}, {udp: {destinationPort: {}}}, {tcp: {destinationPort: {number: 80, range: {start: 1, end: 2}}}}, {udp: {destinationPort: {range: {start: 9, end: 1}}}}, {udp: {destinationPort: {number: 53}}}]}
`, cluster.Policy{Tier: cluster.AdminTier, Priority: 1, Egress: []cluster.PolicyRule{
			{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{everybody}},
			{Action: cluster.AllowAction},
			{Action: cluster.AllowAction},
			{Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{everybody}, Ports: []cluster.PolicyPort{{Protocol: "udp", First: 53, Last: 53}}},
		}}, []string{
			"spec.egress[0].to[0]: wants one of", "spec.egress[0].to[1].domainNames: names of domains", `spec.egress[0].to[2].networks[1]: "nonsense" is no network`, "spec.egress[0]: accepts only",
			"spec.egress[1].protocols[0]: wants one of", "spec.egress[1]: accepts only",
			"spec.egress[2].to: there is nobody", "spec.egress[2]: accepts only",
			"spec.egress[3].protocols[0].tcp: wants destinationPort", "spec.egress[3].protocols[1].udp.destinationPort: wants one of", "spec.egress[3].protocols[2].tcp.destinationPort: wants one of",
			"spec.egress[3].protocols[3].udp.destinationPort: ports end at 1", "spec.egress[3]: accepts only",
		}},
		{"deny and pass fail closed", `
tier: Admin
priority: 1
subject: {namespaces: {}}
ingress:
- {action: Deny, from: [{namespaces: {}}, {}]}
- {action: Pass, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 0}}}]}
- {action: Wave, from: [{namespaces: {}}]}
- {action: Deny, from: [{namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}]}
`, cluster.Policy{Tier: cluster.AdminTier, Priority: 1, Ingress: []cluster.PolicyRule{denyAll, denyAll, denyAll, denyAll}}, []string{
			"spec.ingress[0].from[1]: wants one of", "spec.ingress[0]: denies everybody",
			"spec.ingress[1].protocols[0].tcp.destinationPort: wants one of", "spec.ingress[1]: denies everybody",
			`spec.ingress[2].action: "Wave" is none of`, "spec.ingress[2]: denies everybody",
			"spec.ingress[3].from[0]: wants one of", "spec.ingress[3]: denies everybody",
		}},
		{"a subject that is not understood", `
tier: Admin
priority: -5
subject: {namespaces: {matchLabels: {app: shop}, matchExpressions: [{key: a, operator: Like}]}}
ingress: [{action: Accept, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}]}, {action: Pass, from: [{namespaces: {}}]}]
`, cluster.Policy{Tier: cluster.AdminTier, Subject: cluster.PolicySubject{Namespaces: *app("shop")}, Ingress: []cluster.PolicyRule{
			{Action: cluster.AllowAction}, {Action: cluster.DenyAction, Peers: []cluster.PolicyPeer{everybody}}, {Action: cluster.DenyAction, Peers: []cluster.PolicyPeer{everybody}},
		}}, []string{"spec.priority: -5", "spec.subject.namespaces.matchExpressions[0]: there is no operator", "the pods that it is for cannot be told"}},
		{"no subject", "tier: Admin\npriority: 2000\nsubject: {}\ningress: [{action: Deny, from: [{namespaces: {}}]}]",
			cluster.Policy{Tier: cluster.AdminTier, Priority: 1000}, []string{"spec.priority: 2000", "spec.subject: names no pods"}},
		{"no tier", "tier: Middle\npriority: 0\nsubject: {namespaces: {}}\ningress: [{action: Deny, from: [{namespaces: {}}]}]",
			cluster.Policy{Tier: cluster.AdminTier}, []string{`spec.tier: "Middle" is neither`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			list, err := ParsePolicies([]byte(clusterPolicyFile(test.spec)), "")
			if err != nil || len(list) != 1 {
				t.Fatalf("%d policies, %v", len(list), err)
			}
			problems := list[0].Problems
			list[0].Problems = nil
			test.want.UID, test.want.Name = "clusternetworkpolicy/p", "p"
			if d := cmp.Diff(&test.want, list[0], cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if !slices.EqualFunc(problems, test.problems, strings.HasPrefix) {
				t.Errorf("problems:\n%s\nwant:\n%s", strings.Join(problems, "\n"), strings.Join(test.problems, "\n"))
			}
		})
	}
}

// TestManyProblems has a policy with a thousand mistakes: some of them are told.
func TestManyProblems(t *testing.T) {
	p := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{Ingress: make([]networkingv1.NetworkPolicyIngressRule, 1000)}}
	for i := range p.Spec.Ingress {
		p.Spec.Ingress[i].Ports = []networkingv1.NetworkPolicyPort{{Port: &intstr.IntOrString{IntVal: -1}}}
	}
	out := networkPolicyOf(p)
	if len(out.Problems) != maxProblems+1 || out.Problems[maxProblems] != "and more" || len(out.Ingress) != 1000 {
		t.Errorf("%d problems, %d rules, last %q", len(out.Problems), len(out.Ingress), out.Problems[len(out.Problems)-1])
	}
	for i, r := range out.Ingress {
		if r.AnyPeer || len(r.Peers) > 0 {
			t.Fatalf("rule %d allows %+v", i, r)
		}
	}
}

// TestNamedPorts finds the ports of a pod that have names.
func TestNamedPorts(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	p := &corev1.Pod{Spec: corev1.PodSpec{
		Containers: []corev1.Container{
			{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 80}, {ContainerPort: 81}, {Name: "dns", ContainerPort: 53, Protocol: "UDP"}, {Name: "bad", ContainerPort: 70000}, {Name: "odd", ContainerPort: 1, Protocol: "X"}}},
			{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: "TCP"}}},
		},
		InitContainers: []corev1.Container{
			{Ports: []corev1.ContainerPort{{Name: "early", ContainerPort: 1}}},
			{RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "mesh", ContainerPort: 15001}}},
		},
	}}
	want := []cluster.PodPort{{Name: "web", Protocol: "tcp", Port: 80}, {Name: "dns", Protocol: "udp", Port: 53}, {Name: "web", Protocol: "tcp", Port: 8080}, {Name: "mesh", Protocol: "tcp", Port: 15001}}
	if d := cmp.Diff(want, namedPortsOf(p)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// TestParsePolicies reads files as people have them.
func TestParsePolicies(t *testing.T) {
	const one = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n"
	for _, test := range []struct {
		name, text string
		want       []string // uids
		err        string
	}{
		{"nothing", "", nil, ""},
		{"comments", "# nothing\n---\n---\n# here\n", nil, ""},
		{"one, in the namespace that is asked about", one, []string{"networkpolicy/shop/a"}, ""},
		{"two documents", one + "---\n" + clusterPolicyFile("tier: Admin\npriority: 1\nsubject: {namespaces: {}}"), []string{"networkpolicy/shop/a", "clusternetworkpolicy/p"}, ""},
		{"JSON", `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"j","namespace":"x"},"spec":{"podSelector":{}}}`, []string{"networkpolicy/x/j"}, ""},
		{"a list as kubectl writes it", "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(one), "\n", "\n  "), []string{"networkpolicy/shop/a"}, ""},
		{"another kind", one + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: x}\n", nil, `document 2: "Pod" of "v1" is no policy`},
		{"an old version", strings.Replace(one, "v1", "v1beta1", 1), nil, `document 1: "NetworkPolicy" of "networking.k8s.io/v1beta1" is no policy`},
		{"a key that is none", one + "extra: true\n", nil, `NetworkPolicy "a": json: unknown field "extra"`},
		{"a key that is none, below", strings.Replace(one, "podSelector: {}", "podSelector: {}, ingres: []", 1), nil, `unknown field "ingres"`},
		{"no name", strings.Replace(one, "name: a", "namespace: a", 1), nil, "without a name"},
		{"text", "hello", nil, "document 1"},
		{"no YAML", "a: [", nil, "document 1"},
		{"lists in lists", strings.Repeat(`{"apiVersion":"v1","kind":"List","items":[`, 9) + strings.Repeat("]}", 9), nil, "lists in lists"},
	} {
		t.Run(test.name, func(t *testing.T) {
			list, err := ParsePolicies([]byte(test.text), "shop")
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var uids []string
			for _, p := range list {
				uids = append(uids, p.UID)
			}
			if !slices.Equal(uids, test.want) {
				t.Errorf("%q, want %q", uids, test.want)
			}
		})
	}
	if _, err := ParsePolicies(make([]byte, maxPolicyFile+1), ""); err == nil {
		t.Error("a file without end was read")
	}
}

// FuzzParsePolicies reads anything: what comes of it allows nothing that nobody
// wrote, in ways that can be told from the outcome.
func FuzzParsePolicies(f *testing.F) {
	f.Add([]byte(policyFile("podSelector: {}\ningress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 1, endPort: 2}]}]")))
	f.Add([]byte(clusterPolicyFile("tier: Admin\npriority: 1\nsubject: {namespaces: {}}\negress: [{action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]")))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := ParsePolicies(text, "shop")
		if err != nil && list != nil {
			t.Error("policies and an error")
		}
		for _, p := range list {
			if p.UID == "" || p.Name == "" || p.Tier == 0 || p.Priority < 0 || p.Priority > maxPriority || len(p.Problems) > maxProblems+1 {
				t.Errorf("%+v", p)
			}
			for _, rules := range [][]cluster.PolicyRule{p.Ingress, p.Egress} {
				for _, r := range rules {
					checkRule(t, &r)
				}
			}
		}
	})
}

// checkRule holds what is promised of every rule.
func checkRule(t *testing.T, r *cluster.PolicyRule) {
	t.Helper()
	if r.Action < cluster.AllowAction || r.Action > cluster.PassAction || r.AnyPeer && len(r.Peers) > 0 {
		t.Errorf("%+v", r)
	}
	for _, peer := range r.Peers {
		ways := 0
		for _, is := range []bool{peer.Pods != nil, len(peer.Networks) > 0, peer.Nodes != nil} {
			if is {
				ways++
			}
		}
		if ways != 1 || peer.Pods != nil && (peer.Namespaces == nil) != peer.SameNamespace {
			t.Errorf("peer %+v", peer)
		}
		for _, n := range slices.Concat(peer.Networks, peer.Except) {
			if !n.IsValid() || n != n.Masked() || n.Addr().Is4In6() {
				t.Errorf("network %v", n)
			}
		}
	}
	for _, port := range r.Ports {
		if port.First > port.Last || (port.First == 0) != (port.Last == 0) || port.Name != "" && port.First != 0 || port.Protocol == "" && port.Name == "" {
			t.Errorf("port %+v", port)
		}
	}
}
