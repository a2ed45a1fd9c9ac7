package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"warren/internal/testkit"
)

// auditPort is where the agents take in audit events.
const auditPort = "9765"

// auditPolicy is that of docs/kubernetes-audit.md, without what a cluster's own parts do.
const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: ["system:nodes"]}
- {level: None, users: ["system:kube-proxy", "system:kube-controller-manager", "system:kube-scheduler"]}
- {level: None, nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version"]}
- level: RequestResponse
  resources: [{group: "", resources: [pods]}, {group: rbac.authorization.k8s.io}]
  verbs: [create, update, patch, delete, deletecollection]
- level: Metadata
`

// auditWebhook says where the API server tells its audit events.
const auditWebhook = `
apiVersion: v1
kind: Config
clusters:
- name: warren
  cluster: {server: "https://%[1]s/k8s-audit", tls-server-name: warren-audit, certificate-authority: %[2]s/ca.crt}
users:
- {name: api-server, user: {tokenFile: %[2]s/token}}
contexts:
- {name: warren, context: {cluster: warren, user: api-server}}
current-context: warren
`

// audited has the API server tell a node's agent of requests, until the test ends.
// The secret that the agents need for that is made.
func (c *testCluster) audited(t *testing.T, node string) {
	t.Helper()
	dir := testkit.NewAuthority(t, "audit").Directory(t, "warren-audit")
	testkit.WriteFiles(t, dir, map[string][]byte{
		"token":   []byte("secret\n"),
		"policy":  []byte(auditPolicy),
		"webhook": fmt.Appendf(nil, auditWebhook, net.JoinHostPort(c.addressOf(node), auditPort), dir),
	})
	files := []string{"-n", "warren", "create", "secret", "generic", "warren-audit"}
	for _, name := range []string{"tls.crt", "tls.key", "token"} {
		files = append(files, "--from-file="+filepath.Join(dir, name))
	}
	c.kubectl(files...)
	t.Cleanup(func() { c.try("-n", "warren", "delete", "secret", "warren-audit") })
	restart := func(further ...string) {
		c.must(c.SetArguments("kube-apiserver", further...))
		c.must(c.Stop(c.context(), "control", "kube-apiserver"))
		c.must(c.Start(c.context(), "control", "kube-apiserver"))
	}
	t.Cleanup(func() { restart() })
	// One that was sent in vain is sent again after this time.
	restart("--audit-policy-file="+filepath.Join(dir, "policy"), "--audit-webhook-config-file="+filepath.Join(dir, "webhook"),
		"--audit-webhook-batch-max-wait=1s", "--audit-webhook-initial-backoff=1s")
}

// securityValues are the chart's, for a namespace.
const securityValues = `
agent:
  audit: {port: %[1]s, secret: warren-audit}
  config:
    rules: {aggregate: 0}
    reactions: {enabled: true, pods: "label,delete", namespaces: %[2]s}
    history: {filter: "evt.kind in (exec, exit, connection, dns, alert, reaction, lost, k8s_audit)"}
    kubernetes-audit:
      webhook: {listen: ":%[1]s", certificate: /etc/warren/audit/tls.crt, key: /etc/warren/audit/tls.key, token-file: /etc/warren/audit/token}
`

// securityRules are about one namespace.
const securityRules = `
- macro: complete
  condition: (jevt.value[/stage] = ResponseComplete and ka.response.code startswith 2)
- rule: Command in a pod
  desc: Somebody has a command run in a pod.
  condition: ka.stage = ResponseStarted and ka.target.resource = pods and ka.target.subresource in (exec, attach) and ka.target.namespace = %[1]s
  output: "%%ka.target.subresource %%ka.target.name %%ka.uri.param[command]"
  priority: NOTICE
  source: k8s_audit
- rule: Privileged pod
  desc: A pod that may do everything on its node.
  condition: complete and ka.target.resource = pods and not ka.target.subresource exists and ka.verb = create and ka.req.pod.containers.privileged intersects (true) and ka.target.namespace = %[1]s
  output: "%%ka.resp.name %%ka.req.pod.containers.image"
  priority: WARNING
  source: k8s_audit
- rule: Secret read
  desc: Somebody reads a secret.
  condition: complete and ka.target.resource = secrets and ka.verb = get and ka.target.namespace = %[1]s
  output: "%%ka.user.name %%ka.target.name"
  priority: ERROR
  source: k8s_audit
- rule: Administrator made
  desc: Somebody may do everything from now on.
  condition: complete and ka.target.resource = clusterrolebindings and ka.verb = create and ka.req.binding.role = cluster-admin and ka.target.name = %[1]s
  output: "%%ka.req.binding.subjects.user_names"
  priority: WARNING
  source: k8s_audit
- rule: Shell in a pod
  desc: A shell begins.
  condition: evt.type = execve and proc.name = sh and k8s.ns.name = %[1]s and proc.cmdline contains shell-canary
  output: "%%proc.cmdline in %%k8s.pod.name"
  priority: WARNING
- rule: Marked
  desc: Its pod gets a label, and could be deleted.
  condition: evt.type = execve and proc.args contains mark-canary and k8s.ns.name = %[1]s
  output: "%%proc.cmdline in %%k8s.pod.name"
  priority: ERROR
  reaction:
  - pod: {label: {quarantine: "yes"}}
  - pod: delete
    dry-run: true
- rule: Deleted
  desc: Its pod goes.
  condition: evt.type = execve and proc.args contains delete-canary and k8s.ns.name in (%[1]s, kube-system)
  output: "%%proc.cmdline in %%k8s.pod.name"
  priority: CRITICAL
  reaction:
    pod: delete
    grace: 0s
`

// falcoAuditRules is Falco's own file of rules about audit events, where the tests' data
// have it; "" where not.
func falcoAuditRules(t *testing.T) string {
	path := filepath.Join(os.Getenv("WARREN_TEST_DATA"), "k8s_audit_rules.yaml")
	if _, err := os.Stat(path); err != nil {
		t.Logf("WARREN_TEST_DATA names no folder with Falco's k8s_audit_rules.yaml: that file is not tested (%v)", err)
		return ""
	}
	return path
}

// told waits for alerts of rules, and gives the last of each.
func (c *testCluster) told(rules ...string) map[string]event {
	c.t.Helper()
	last := make(map[string]event)
	c.eventually("alerts of "+strings.Join(rules, ", "), func(context.Context) error {
		var missing []string
		for _, rule := range rules {
			if all := c.alerts("", rule); len(all) > 0 {
				last[rule] = all[len(all)-1]
			} else {
				missing = append(missing, rule)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("none of %s", strings.Join(missing, ", "))
		}
		return nil
	})
	return last
}

// past gives the rows of everybody's history of the last hour that a filter accepts.
func (c *testCluster) past(filter string) []event {
	c.t.Helper()
	a := c.as("", "kubectl", "warren", "events", "-A", "--since", "1h", "-o", "json", filter)
	if a.code != 0 {
		c.t.Errorf("events --since 1h %s: exit code %d: %s", filter, a.code, a.errors)
	}
	return a.rows(c.t.(*testing.T))
}

// TestClusterSecurity holds that rules see what people ask the API server for and what
// pods do, that they have pods labelled and deleted, and that all of it can be asked
// for afterwards.
func TestClusterSecurity(t *testing.T) {
	c := warren(t)
	t.Cleanup(func() { c.must(c.Warren(c.context())) })
	node := c.RunningNodes()[0]
	c.audited(t, node)
	values := filepath.Join(t.TempDir(), "values.yaml")
	c.must(os.WriteFile(values, fmt.Appendf(nil, securityValues, auditPort, c.namespace), 0o600))
	args := []string{"-f", values, "--set-file", `agent.rules.ours\.yaml=` + writeRules(t, fmt.Sprintf(securityRules, c.namespace))}
	falco := falcoAuditRules(t)
	if falco != "" {
		args = append(args, "--set-file", `agent.rules.falco\.yaml=`+falco)
	}
	c.upgrade(args...)
	c.nodesAnswer(len(c.RunningNodes()))

	for _, name := range []string{"victim", "doomed"} {
		c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: %[2]s}}
spec:
  nodeName: %[3]s
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: localhost/busybox:1, imagePullPolicy: Never, command: [sleep, "100000"]}]
`, c.namespace, name, node))
	}
	c.ready("pod/victim", "pod/doomed")

	t.Run("audit", func(t *testing.T) { testAuditEvents(c.in(t), falco != "") })
	t.Run("shell", func(t *testing.T) { testShell(c.in(t), node) })
	t.Run("reactions", func(t *testing.T) { testReactions(c.in(t)) })
	t.Run("afterwards", func(t *testing.T) { testAfterwards(c.in(t)) })
}

// testAuditEvents does as people do what audit rules are about.
func testAuditEvents(c *testCluster, falco bool) {
	t := c.t.(*testing.T)
	// Those before the agents listened may have been given up.
	c.eventually("the API server to tell", func(context.Context) error {
		c.kubectl("get", "configmaps")
		if len(c.past("ka.target.resource = configmaps and ka.target.namespace = "+c.namespace)) == 0 {
			return errors.New("no event")
		}
		return nil
	})
	c.kubectl("exec", "victim", "--", "true", "audit-canary")
	c.kubectl("run", "mighty", "--image=localhost/busybox:1", "--image-pull-policy=Never", "--restart=Never", "--privileged", "--command", "--", "sleep", "100000")
	c.kubectl("create", "secret", "generic", "key", "--from-literal=key=value")
	c.kubectl("get", "secret", "key")
	c.kubectl("create", "clusterrolebinding", c.namespace, "--clusterrole=cluster-admin", "--user=mallory")
	t.Cleanup(func() { c.try("delete", "clusterrolebinding", c.namespace) })

	want := map[string]string{
		"Command in a pod":   "exec victim true",
		"Privileged pod":     "mighty (localhost/busybox:1)",
		"Secret read":        " key",
		"Administrator made": "(mallory)",
	}
	if falco {
		for rule, text := range map[string]string{
			"Attach/Exec Pod":              "pod=victim",
			"Create Privileged Pod":        "pod=mighty",
			"K8s Secret Get Successfully":  "key",
			"Attach to cluster-admin Role": "mallory",
		} {
			want[rule] = text
		}
	}
	var rules []string
	for rule := range want {
		rules = append(rules, rule)
	}
	for rule, e := range c.told(rules...) {
		if !strings.Contains(e.text("alert.output"), want[rule]) || e.text("alert.source") != "k8s_audit" {
			t.Errorf("%s: %v, want %q", rule, e, want[rule])
		}
	}
	if a := c.as("", "kubectl", "warren", "status", "-o", "wide"); !strings.Contains(a.out, "/k8s-audit") {
		t.Errorf("status does not say where audit events come from: %s%s", a.out, a.errors)
	}
}

// testShell opens a shell in a pod.
func testShell(c *testCluster, node string) {
	c.kubectl("exec", "victim", "--", "sh", "-c", "true; echo shell-canary")
	e := c.told("Shell in a pod")["Shell in a pod"]
	for field, want := range map[string]string{
		"k8s.ns.name": c.namespace, "k8s.pod.name": "victim", "k8s.node.name": node, "k8s.container.name": "main", "container.image.repository": "localhost/busybox",
		"proc.name": "sh", "alert.source": "syscall", "alert.priority": "Warning",
	} {
		if e.text(field) != want {
			c.t.Errorf("%s is %q, want %q", field, e.text(field), want)
		}
	}
	if e.text("container.id") == "" || !strings.HasPrefix(e.text("alert.output"), "sh -c true; echo shell-canary in victim") {
		c.t.Errorf("%v", e)
	}
}

// outcomes gives what became of a rule's reactions, sorted.
func (c *testCluster) outcomes(rule string) (all []string) {
	c.t.Helper()
	for _, e := range c.past(fmt.Sprintf("evt.kind = reaction and alert.rule = %q", rule)) {
		text := strings.Join([]string{e.text("reaction.action"), e.text("k8s.pod.name"), e.text("reaction.outcome")}, " ")
		if e["reaction.dry_run"] == true {
			text += " dry"
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

// testReactions has a pod labelled, and could have it deleted; and has another one
// deleted.
func testReactions(c *testCluster) {
	reacted := func(rule string, want ...string) {
		c.t.Helper()
		c.eventually("reactions of "+rule, func(context.Context) error {
			if got := c.outcomes(rule); !slices.Equal(got, want) {
				return fmt.Errorf("%q, want %q", got, want)
			}
			return nil
		})
	}
	c.kubectl("exec", "victim", "--", "true", "mark-canary")
	reacted("Marked", "delete victim done dry", "label victim done")
	if got := c.kubectl("get", "pods", "-l", "quarantine=yes", "-o", "jsonpath={.items[*].metadata.name} {.items[*].status.phase}"); got != "victim Running" {
		c.t.Errorf("labelled: %q", got)
	}
	// The command may end with its pod.
	c.try("-n", c.namespace, "exec", "doomed", "--", "true", "delete-canary")
	reacted("Deleted", "delete doomed done")
	c.eventually("the pod to be gone", func(context.Context) error {
		if out := c.kubectl("get", "pods", "-l", "app=doomed", "-o", "name"); out != "" {
			return errors.New(out)
		}
		return nil
	})
	// The API server has seen who it was.
	c.eventually("the audit event of it", func(context.Context) error {
		all := c.past("ka.user.name = system:serviceaccount:warren:warren-agent and ka.verb = delete and ka.target.name = doomed and ka.target.namespace = " + c.namespace)
		if len(all) == 0 {
			return errors.New("none")
		}
		return nil
	})
}

// testAfterwards asks the hub what happened.
func testAfterwards(c *testCluster) {
	ran := c.past("evt.type = execve and proc.args contains mark-canary")
	if len(ran) == 0 {
		c.t.Error("nobody remembers the program that ran")
	}
	for _, e := range ran {
		if e.text("k8s.pod.name") != "victim" || e.text("k8s.ns.name") != c.namespace {
			c.t.Errorf("%v", e)
		}
	}
	if a := c.as("", "kubectl", "warren", "alert", "list", "-n", c.namespace); !strings.Contains(a.out, "Shell in a pod") || strings.Contains(a.out, "Secret read") {
		c.t.Errorf("alerts of the namespace: exit code %d: %s%s", a.code, a.out, a.errors)
	}
	c.ticker("counted", c.RunningNodes()[1])
	if a := c.as("", "kubectl", "warren", "events", "-n", c.namespace, "--count-by", "k8s.pod.name,proc.name", "--limit", "20", ticks); a.code != 0 || !strings.Contains(a.out, "counted") {
		c.t.Errorf("counts: exit code %d: %s%s", a.code, a.out, a.errors)
	}
}
