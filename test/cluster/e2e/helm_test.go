package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/test/cluster/bed"
)

// helm runs Helm; an error ends the test.
func (c *testCluster) helm(args ...string) string {
	c.t.Helper()
	a := c.program("control", nil, append([]string{"helm"}, args...)...)
	if a.code != 0 {
		c.t.Fatalf("helm %s: exit code %d: %s%s", strings.Join(args, " "), a.code, a.out, a.errors)
	}
	return a.out
}

// chart is the path of Warren's.
func chart(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../../../deploy/helm/warren")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// image are the settings with which the chart finds the tree's image.
func (c *testCluster) image() []string {
	return []string{"--set", "image.repository=localhost/warren,image.tag=dev,image.pullPolicy=Never", "--set-string", "agent.cgroupRoot=/" + c.Name + "/$(NODE_NAME)"}
}

// upgrade upgrades the release to other settings, and waits.
func (c *testCluster) upgrade(args ...string) {
	c.t.Helper()
	c.helm(append([]string{"upgrade", "warren", chart(c.t), "-n", "warren", "--reuse-values"}, args...)...)
	c.must(c.Rollout(c.context(), "warren", "daemonset/warren-agent"))
	c.must(c.Rollout(c.context(), "warren", "deployment/warren-hub"))
}

// parts gives the pods of a part of Warren, and how often each was restarted.
func (c *testCluster) parts(component string) map[string]string {
	c.t.Helper()
	all := make(map[string]string)
	const format = `jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].restartCount}{"\n"}{end}`
	for line := range strings.Lines(c.kubectl("-n", "warren", "get", "pods", "-l", "app.kubernetes.io/component="+component, "-o", format)) {
		name, restarts, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[name] = restarts
	}
	return all
}

// TestClusterChart holds what the chart makes of values against what the API
// server takes for objects, and that it refuses values that mean nothing.
func TestClusterChart(t *testing.T) {
	c := warren(t)
	// Kinds of others, as far as the API server has to know them.
	for _, kind := range []struct{ group, version, kind, plural string }{
		{"cert-manager.io", "v1", "Certificate", "certificates"}, {"cert-manager.io", "v1", "Issuer", "issuers"}, {"monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"},
	} {
		name := kind.plural + "." + kind.group
		c.apply(fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %s}
spec:
  group: %s
  scope: Namespaced
  names: {kind: %s, plural: %s}
  versions: [{name: %s, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`, name, kind.group, kind.kind, kind.plural, kind.version))
		t.Cleanup(func() { c.try("delete", "crd", name, "--wait=false") })
		c.kubectl("wait", "--for=condition=Established", "crd/"+name, "--timeout="+bed.Patience.String())
	}
	taken := map[string][]string{
		"nothing":                 nil,
		"small":                   {"--set", "hub.replicas=1,hub.podDisruptionBudget.enabled=false,hub.networkPolicy.enabled=false,metrics.annotations=false,hub.askers=null"},
		"cert-manager":            {"--set", "certificates.method=cert-manager,metrics.serviceMonitor.enabled=true,metrics.serviceMonitor.labels.team=x"},
		"cert-manager's issuer":   {"--set", "certificates.method=cert-manager,certificates.certManager.issuerRef.name=corp,certificates.certManager.issuerRef.kind=ClusterIssuer"},
		"certificates that exist": {"--set", "certificates.method=existing,certificates.existing.agentSecret=a,certificates.existing.hubSecret=h,certificates.existing.caBundle=x"},
		"no network":              {"--set", "network.mode=off"},
		"rules":                   {"--set-file", `agent.rules.ours\.yaml=` + ruleFile(t, "Of values", "shop")},
		"rules of others, and what channels read": {"--set", "agent.rulesFrom={more,yet-more},agent.extraVolumes[0].name=chat,agent.extraVolumes[0].secret.secretName=chat," +
			"agent.extraVolumeMounts[0].name=chat,agent.extraVolumeMounts[0].mountPath=/etc/warren/chat,agent.extraVolumeMounts[0].readOnly=true"},
		"reactions": {"--set", `agent.config.reactions.enabled=true,agent.config.reactions.pods=label\,delete`},
		"the network": {"--set", "cni=true,network.mode=vxlan,network.masquerade=false,network.keepSource={10.0.0.0/8,fd00::/8},network.mtu=1400,network.uplink=eth1,network.vni=5,network.port=4789," +
			"network.apiServer=[fd00::1]:6443,network.confDir=/etc/kubernetes/cni/net.d,network.binDir=/usr/libexec/cni,network.removal.timeoutSeconds=300"},
		"everything": {"--set", "image.tag=v1,image.pullSecrets={registry},agent.cgroupRoot=/a,agent.capabilities={BPF,PERFMON,NET_ADMIN,SYS_PTRACE,DAC_READ_SEARCH,SYS_ADMIN},agent.ports.hub=17118,agent.ports.metrics=19118," +
			"agent.podLabels.a=b,agent.podAnnotations.a=b,agent.logLevel=debug,agent.extraArgs={--log-level=debug},hub.extraArgs={--log-level=debug},hub.priorityClassName=system-cluster-critical,hub.podLabels.a=b," +
			"hub.askers[0].kind=ServiceAccount,hub.askers[0].name=bot,hub.askers[0].namespace=ci,hub.networkPolicy.extraEgress[0].ports[0].port=8443,hub.tolerations[0].operator=Exists,agent.config.queues.streams=9"},
	}
	for name, args := range taken {
		t.Run(name, func(t *testing.T) {
			c := c.in(t)
			manifests := c.helm(append([]string{"template", "warren", chart(t), "-n", c.namespace}, args...)...)
			if err := c.dryRun(manifests); err != nil {
				t.Error(err)
			}
		})
	}
	for setting, want := range map[string]string{
		"hub.replicas=-1":                      "replicas",
		"agent.capabilites={BPF}":              "capabilites",
		"agent.logLevel=loud":                  "logLevel",
		`agent.rules.ours\.json=x`:             "additional properties 'ours.json' not allowed",
		"agent.rulesFrom={a,a}":                "rulesFrom",
		"agent.extraVolumes[0].emptyDir=x":     "missing property 'name'",
		"agent.extraVolumeMounts[0].name=x":    "missing property 'mountPath'",
		"certificates.method=magic":            "method",
		"certificates.method=existing":         "certificates.existing.hubSecret: name the secret",
		"agent.ports.hub=70000":                "ports",
		"hub.askers[0].kind=Everybody":         "kind",
		"hub.askers[0].kind=ServiceAccount":    "name",
		"certificates.helm.authorityDays=0":    "authorityDays",
		"metrics.serviceMonitor.interval=fast": "interval",
		"cni=yes":                              "cni",
		"network.mode=vxlan":                   "is for a cluster without another network",
		"cni=true,network.mode=chained":        "connects no pods",
		"network.mtu=1000":                     "mtu",
		"network.keepSource={everything}":      "keepSource",
		"network.apiServer=10.0.0.1":           "apiServer",
		"network.port=0":                       "port",
	} {
		a := c.program("control", nil, "helm", "template", "warren", chart(t), "--set", setting)
		if a.code == 0 || !strings.Contains(a.errors, want) {
			t.Errorf("%s: exit code %d, want an error that says %s: %s", setting, a.code, want, a.errors)
		}
	}
	// There is one in a cluster: its rights and its API have no namespace.
	a := c.program("control", nil, slices.Concat([]string{"helm", "install", "second", chart(t), "-n", c.namespace}, c.image())...)
	if a.code == 0 || !strings.Contains(a.errors, "cannot be imported into the current release") {
		t.Errorf("a second one: exit code %d: %s%s", a.code, a.out, a.errors)
	}
	if left := c.kubectl("get", "all,secret,configmap", "-l", "app.kubernetes.io/name=warren", "-o", "name"); left != "" {
		t.Errorf("a second one that was refused left %s", left)
	}
}

// dryRun has the API server look at manifests.
func (c *testCluster) dryRun(manifests string) error {
	cmd, err := c.In(c.context(), "control", "kubectl", "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-")
	if err != nil {
		return err
	}
	cmd.Stdin = strings.NewReader(manifests)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// An identity is what a hub shows and believes at a time.
type identity struct {
	cert  *tls.Certificate
	roots *x509.CertPool
	text  string // of the authorities
}

func (c *testCluster) hubIdentity() identity {
	c.t.Helper()
	s := c.secret("warren-hub-tls")
	cert, err := tls.X509KeyPair(s["tls.crt"], s["tls.key"])
	c.must(err)
	return identity{&cert, pool(c.t, s["ca.crt"]), string(s["ca.crt"])}
}

// shown gives the certificate that a server of a name shows to a hub.
func (c *testCluster) shown(address, name string, id identity) (*x509.Certificate, error) {
	conn, err := c.Dial(c.context(), c.RunningNodes()[0], "tcp", address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	t := tls.Client(conn, &tls.Config{RootCAs: id.roots, ServerName: name, Certificates: []tls.Certificate{*id.cert}})
	if err := t.HandshakeContext(c.context()); err != nil {
		return nil, err
	}
	return t.ConnectionState().PeerCertificates[0], nil
}

// showNew says who does not show the certificate yet that its secret has.
func (c *testCluster) showNew(id identity) error {
	c.t.Helper()
	for _, part := range []struct{ name, port string }{{"agent", "7118"}, {"hub", "7443"}} {
		made := c.secret("warren-" + part.name + "-tls")
		want, err := tls.X509KeyPair(made["tls.crt"], made["tls.key"])
		c.must(err)
		for _, ip := range strings.Fields(c.kubectl("-n", "warren", "get", "pods", "-l", "app.kubernetes.io/component="+part.name, "-o", "jsonpath={.items[*].status.podIP}")) {
			cert, err := c.shown(net.JoinHostPort(ip, part.port), part.name+".warren", id)
			if err != nil {
				return fmt.Errorf("%s at %s: %w", part.name, ip, err)
			}
			if cert.SerialNumber.Cmp(want.Leaf.SerialNumber) != 0 {
				return fmt.Errorf("%s at %s shows a former certificate", part.name, ip)
			}
		}
	}
	return nil
}

// TestClusterUpgrade holds that an upgrade replaces the pods whose configuration
// changes and no others; that certificates are renewed, and their authority
// replaced, without a moment in which agents and hub do not know each other; and
// that it can be taken back.
func TestClusterUpgrade(t *testing.T) {
	c := warren(t)
	t.Cleanup(func() { c.must(c.Warren(c.context())) }) // as it was
	url := "https://" + net.JoinHostPort(c.addressOf(c.RunningNodes()[0]), "7118") + "/v1/status"
	agents, hubs := c.parts("agent"), c.parts("hub")
	first := c.hubIdentity()

	// Three upgrades for a new authority: trusted, in use, alone.
	for step := 1; step <= 3; step++ {
		before := c.hubIdentity()
		c.upgrade("--set", "certificates.helm.authorityGeneration=second")
		after := c.hubIdentity()
		if after.cert.Leaf.SerialNumber.Cmp(before.cert.Leaf.SerialNumber) == 0 {
			t.Fatalf("upgrade %d renews no certificate", step)
		}
		if n, want := strings.Count(after.text, "BEGIN CERTIFICATE"), []int{2, 2, 1}[step-1]; n != want {
			t.Errorf("after upgrade %d %d authorities are trusted, want %d", step, n, want)
		}
		// Nodes see what is new some time later, each at its own: until then, and
		// afterwards, whoever is a step behind or before is known.
		c.eventually(fmt.Sprintf("all to show their certificates of upgrade %d", step), func(context.Context) error {
			for name, id := range map[string]identity{"before": before, "after": after} {
				if code, text, err := (stranger{cert: id.cert, roots: id.roots}).ask(c, "agent.warren", url); err != nil || code != http.StatusOK {
					t.Fatalf("upgrade %d, a hub with what was %s: %d %s, %v", step, name, code, text, err)
				}
			}
			c.answers()
			return c.showNew(after)
		})
		for name, id := range map[string]identity{"before": before, "after": after} {
			if code, text, err := (stranger{cert: id.cert, roots: id.roots}).ask(c, "agent.warren", url); err != nil || code != http.StatusOK {
				t.Errorf("upgrade %d, the agent has what is new, the hub what was %s: %d %s, %v", step, name, code, text, err)
			}
		}
	}
	last := c.hubIdentity()
	if strings.Contains(last.text, strings.TrimSpace(first.text)) {
		t.Error("the first authority is still trusted")
	}
	if _, _, err := (stranger{cert: first.cert, roots: last.roots}).ask(c, "agent.warren", url); err == nil {
		t.Error("the first certificate still lets in")
	}
	if now := c.parts("agent"); !equal(now, agents) {
		t.Errorf("certificates replaced agents: %v, were %v", now, agents)
	}
	if now := c.parts("hub"); !equal(now, hubs) {
		t.Errorf("certificates replaced hubs: %v, were %v", now, hubs)
	}

	// The hub's configuration is none of the agents' business.
	c.upgrade("--set", "hub.config.wait=100ms,hub.replicas=1")
	c.answers()
	if now := c.parts("agent"); !equal(now, agents) {
		t.Errorf("the hub's configuration replaced agents: %v, were %v", now, agents)
	}
	c.eventually("one hub with the new configuration", func(context.Context) error {
		now := c.parts("hub")
		for name := range now {
			if _, old := hubs[name]; old || len(now) != 1 {
				return fmt.Errorf("hubs are %v, were %v", now, hubs)
			}
		}
		return nil
	})
	c.helm("rollback", "warren", "-n", "warren")
	c.must(c.Rollout(c.context(), "warren", "deployment/warren-hub"))
	c.nodesAnswer(len(c.RunningNodes()))
	if config := c.kubectl("-n", "warren", "get", "configmap", "warren", "-o", "jsonpath={.data.hub\\.yaml}"); strings.Contains(config, "100ms") {
		t.Errorf("after it was taken back the configuration is %s", config)
	}
	if now := c.parts("agent"); !equal(now, agents) {
		t.Errorf("to take it back replaced agents: %v, were %v", now, agents)
	}
}

func equal(a, b map[string]string) bool {
	return fmt.Sprint(a) == fmt.Sprint(b) // printed in order
}

// answers asks once for all nodes, and all have to answer.
func (c *testCluster) answers() {
	c.t.Helper()
	a := c.as("", "kubectl", "warren", "process", "list", "-A", "-o", "json", "proc.name = warren")
	seen := make(map[string]bool)
	for _, e := range a.rows(c.t.(*testing.T)) {
		seen[e.text("k8s.node.name")] = true
	}
	if a.code != 0 || len(seen) != len(c.RunningNodes()) {
		c.t.Errorf("exit code %d, told by %v: %s%s", a.code, seen, a.out[max(0, len(a.out)-300):], a.errors)
	}
}

// TestClusterHubAway holds what a cluster is without its hub: agents go on,
// people are told, and a namespace that is deleted meanwhile is gone when the
// hub is back, or when its API is taken away.
func TestClusterHubAway(t *testing.T) {
	c := warren(t)
	t.Cleanup(func() { c.must(c.Warren(c.context())) })
	c.kubectl("-n", "warren", "scale", "deployment/warren-hub", "--replicas=0")
	c.eventually("the API to be known as away", func(context.Context) error {
		if status := c.kubectl("get", "apiservice", "v1.hub.warren.dev", "-o", `jsonpath={.status.conditions[?(@.type=="Available")].status}`); status != "False" {
			return fmt.Errorf("available: %s", status)
		}
		return nil
	})
	if a := c.as("", "kubectl", "warren", "process", "list", "-A"); a.code != 1 || !strings.Contains(a.errors, "the hub does not answer") {
		t.Errorf("exit code %d: %s%s", a.code, a.out, a.errors)
	}
	if out, err := run(c, c.RunningNodes()[0], "warren", "process", "list", "--socket", "/run/warren/warren.sock", "proc.name = warren"); err != nil || !strings.Contains(out, "warren agent") {
		t.Errorf("the agent alone: %v: %s", err, out)
	}
	// Nobody else's work waits for it.
	c.kubectl("get", "pods")
	c.apply(fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: while-away, namespace: %s}}", c.namespace))

	// The controller of namespaces asks all APIs for objects, and waits for one
	// that does not answer: so it is with every API of this kind.
	names := []string{c.namespace + "-first", c.namespace + "-second"}
	for _, ns := range names {
		c.apply(fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s}}", ns))
	}
	waits := func(ns string) {
		c.kubectl("delete", "namespace", ns, "--wait=false")
		c.eventually(ns+" to wait for the hub's API", func(context.Context) error {
			message := c.kubectl("get", "namespace", ns, "-o", `jsonpath={.status.conditions[?(@.type=="NamespaceDeletionDiscoveryFailure")].message}`)
			if !strings.Contains(message, "hub.warren.dev/v1") {
				return fmt.Errorf("it says %q", message)
			}
			return nil
		})
	}
	gone := func(ns, why string) {
		began := time.Now()
		c.eventually(ns+" to be gone, because "+why, func(ctx context.Context) error {
			out, err := c.Kubectl(ctx, "get", "namespace", ns)
			switch {
			case err == nil:
				return fmt.Errorf("it is there: %s", out)
			case !strings.Contains(err.Error(), "NotFound"):
				return err
			}
			return nil
		})
		t.Logf("%s was gone %v after %s", ns, time.Since(began).Round(time.Second/10), why)
	}
	waits(names[0])
	c.kubectl("delete", "apiservice", "v1.hub.warren.dev")
	gone(names[0], "the API was taken away")
	// The release brings its API back.
	c.must(c.Warren(c.context()))
	c.kubectl("-n", "warren", "scale", "deployment/warren-hub", "--replicas=0")
	c.eventually("the API to be known as away", func(context.Context) error {
		if status := c.kubectl("get", "apiservice", "v1.hub.warren.dev", "-o", `jsonpath={.status.conditions[?(@.type=="Available")].status}`); status != "False" {
			return fmt.Errorf("available: %s", status)
		}
		return nil
	})
	waits(names[1])
	c.kubectl("-n", "warren", "scale", "deployment/warren-hub", "--replicas=2")
	c.must(c.Rollout(c.context(), "warren", "deployment/warren-hub"))
	gone(names[1], "the hub was back")
	c.nodesAnswer(len(c.RunningNodes()))
}
