package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ruleFile writes a file with a rule about the ticks of a namespace's tickers,
// and gives its path.
func ruleFile(t *testing.T, rule, namespace string) string {
	t.Helper()
	return writeRules(t, fmt.Sprintf(`
- rule: %s
  desc: A ticker ticks.
  condition: evt.type = execve and proc.name = echo and k8s.ns.name = %s
  output: "%%proc.name of %%k8s.pod.name ticks"
  priority: WARNING
`, rule, namespace))
}

func writeRules(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// alerts gives the last alerts of a rule that somebody sees.
func (c *testCluster) alerts(kubeconfig, rule string) []event {
	c.t.Helper()
	a := c.as(kubeconfig, "kubectl", "warren", "alert", "list", "-A", "--since", "1h", "--limit", "20", "-o", "json", fmt.Sprintf("alert.rule = %q", rule))
	if a.code != 0 {
		c.t.Errorf("alert list: exit code %d: %s", a.code, a.errors)
	}
	return a.rows(c.t.(*testing.T))
}

// rulesOf gives what the agents say of their rules, by node.
func (c *testCluster) rulesOf(ctx context.Context) (map[string]agentRules, error) {
	out, err := c.Kubectl(ctx, "warren", "status", "-o", "json")
	if err != nil {
		return nil, err
	}
	var status struct {
		Nodes []struct {
			Node   string
			Status struct{ Rules agentRules }
		}
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	all := make(map[string]agentRules)
	for _, n := range status.Nodes {
		all[n.Node] = n.Status.Rules
	}
	return all, nil
}

type agentRules struct {
	Refused string
	Rules   []struct{ Name string }
}

// TestClusterRules holds that agents alert by the rules of the chart's values and
// of other config maps, that alerts are for who may see their pods, and that
// changed rules are at work without a restart, or, with a mistake, nowhere.
func TestClusterRules(t *testing.T) {
	c := warren(t)
	t.Cleanup(func() { c.must(c.Warren(c.context())) })
	const more = "more-rules"
	c.kubectl("-n", "warren", "create", "configmap", more, "--from-file=more.yaml="+ruleFile(t, "Of a config map", c.namespace))
	t.Cleanup(func() { c.try("-n", "warren", "delete", "configmap", more) })
	set := func(path string) { c.upgrade("--set-file", `agent.rules.ours\.yaml=`+path) }
	c.upgrade("--set", "agent.rulesFrom={"+more+"}")
	set(ruleFile(t, "Of values", c.namespace))
	agents := c.parts("agent")
	c.ticker("rules", c.RunningNodes()[0])

	told := func(rule string) {
		t.Helper()
		var list []event
		c.eventually("an alert of "+rule, func(context.Context) error {
			if list = c.alerts("", rule); len(list) == 0 {
				return errors.New("there is none")
			}
			return nil
		})
		for _, e := range list {
			if e.text("k8s.pod.name") != "rules" || e.text("k8s.node.name") != c.RunningNodes()[0] || !strings.HasPrefix(e.text("alert.output"), "echo of rules ticks") {
				t.Errorf("%v", e)
			}
		}
	}
	told("Of a config map")
	told("Of values")
	ours, other := c.person("ours", c.namespace), c.person("other", "default")
	if got := namespacesOf(c.alerts(ours, "Of values")); got[c.namespace] == 0 || len(got) != 1 {
		t.Errorf("who may get the pods sees %v", got)
	}
	if got := c.alerts(other, "Of values"); len(got) > 0 {
		t.Errorf("who may not get the pods sees %v", got)
	}

	set(ruleFile(t, "Changed", c.namespace))
	told("Changed")

	set(writeRules(t, "- rule: Mistaken\n  desc: one\n  condition: proc.nmae = x\n  output: x\n  priority: ERROR\n"))
	c.eventually("all agents to refuse a mistake", func(ctx context.Context) error {
		all, err := c.rulesOf(ctx)
		if err != nil {
			return err
		}
		for _, node := range c.RunningNodes() {
			r := all[node]
			if !strings.Contains(r.Refused, "no field proc.nmae") || len(r.Rules) != 2 {
				return fmt.Errorf("%s: %+v", node, r)
			}
		}
		return nil
	})
	if a := c.as("", "kubectl", "warren", "status"); !strings.Contains(a.out, "changed rules are not used: /etc/warren/rules.d/ours.yaml:") {
		t.Errorf("status: %s%s", a.out, a.errors)
	}
	if now := c.parts("agent"); !equal(now, agents) {
		t.Errorf("rules replaced agents: %v, were %v", now, agents)
	}
}
