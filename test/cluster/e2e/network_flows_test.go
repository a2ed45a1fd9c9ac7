package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// testFlows holds what is told of packets on a real node: by Warren's own command
// and by Hubble's, with verdict, rule and process, of what passes and of what does
// not.
func testFlows(c *testCluster) {
	y := newYard(c)
	full := c.namespace + "-u"
	c.apply(y.manifests("u:\npodSelector: {matchLabels: {pod: b}}\npolicyTypes: [Ingress]\ningress: [{from: [{podSelector: {matchLabels: {pod: a}}}], ports: [{port: 80}]}]"))
	to := y.pod("u/b") // on another node than a
	fetch := func(port uint16) error {
		// Its process is in the pod, as those of the table are not.
		_, err := c.Kubectl(c.context(), "exec", "-n", full, "a", "--", "nc", "-w", "1", to.addr(false).String(), fmt.Sprint(port))
		return err
	}
	c.eventually("what no rule allows to be dropped, and told with the nearest rule", func(ctx context.Context) error {
		if fetch(81) == nil {
			return fmt.Errorf("it passes")
		}
		e, err := c.flow(ctx, full, "--verdict", "dropped", "--direction", "ingress", "--port", "81", "k8s.pod.name = b")
		if err != nil {
			return err
		}
		for field, want := range map[string]string{"flow.drop_reason": "policy_default", "k8s.ns.name": full, "k8s.remote.pod.name": "a", "k8s.remote.ns.name": full, "fd.l4proto": "tcp", "flow.direction": "ingress"} {
			if got := e.text(field); got != want {
				return fmt.Errorf("%s is %q, want %q", field, got, want)
			}
		}
		if near := e.text("flow.nearest"); !strings.Contains(near, " differs in port 81") {
			return fmt.Errorf("nearest: %q", near)
		}
		return nil
	})
	c.eventually("the sender's end, with its process", func(ctx context.Context) error {
		_ = fetch(81)
		e, err := c.flow(ctx, full, "--direction", "egress", "--port", "81", "--pod", "a", "k8s.pod.name = a and proc.name = nc")
		if err == nil && (e.text("flow.verdict") != "forwarded" || e.text("k8s.remote.pod.name") != "b") {
			err = fmt.Errorf("verdict %q, to %q", e.text("flow.verdict"), e.text("k8s.remote.pod.name"))
		}
		return err
	})
	c.eventually("what a rule allows to be told with the rule, and with who listens", func(ctx context.Context) error {
		_ = fetch(80)
		e, err := c.flow(ctx, full, "--verdict", "forwarded", "--direction", "ingress", "--port", "80", "k8s.pod.name = b and flow.policy exists")
		if err == nil && (!strings.HasPrefix(e.text("flow.policy"), full+"/") || e.text("flow.rule") != "1" || e.text("flow.policy_tier") != "Network") {
			err = fmt.Errorf("policy %q, rule %q", e.text("flow.policy"), e.text("flow.rule"))
		}
		return err
	})
	// Hubble's command line, at the agent and at the hub.
	nodes := c.RunningNodes()
	for _, o := range []observatory{
		{c: c, where: nodes[1], flags: []string{"--server", "unix:///run/warren/hubble.sock"}},
		{c: c, where: nodes[0], flags: withToken(c.hubFlags(), c.seesAll())},
	} {
		c.eventually("Hubble's clients to see what is dropped", func(context.Context) error {
			_ = fetch(81)
			a := o.ask("observe", "--last", "20", "--verdict", "DROPPED", "--to-port", "81", "--namespace", full, "-o", "json")
			for _, f := range flows(c.t.(*testing.T), a.out) {
				if f := f.Flow; f.Verdict == "DROPPED" && f.Source.Pod == "a" && f.Destination.Pod == "b" && f.DropReason == "POLICY_DENIED" {
					return nil
				}
			}
			return fmt.Errorf("exit code %d: %s%s", a.code, a.out, a.errors)
		})
		c.eventually("Hubble's clients to see what decided", func(context.Context) error {
			_ = fetch(80)
			a := o.ask("observe", "--last", "20", "--type", "policy-verdict", "--verdict", "FORWARDED", "--to-port", "80", "--namespace", full, "-o", "json")
			for _, f := range flows(c.t.(*testing.T), a.out) {
				if by := f.Flow.AllowedBy; len(by) == 1 && by[0].Namespace == full && by[0].Kind == "NetworkPolicy" {
					return nil
				}
			}
			return fmt.Errorf("exit code %d: %s%s", a.code, a.out, a.errors)
		})
	}
}

// flow returns the last flow that is told, of a namespace.
func (c *testCluster) flow(ctx context.Context, namespace string, args ...string) (e event, err error) {
	out, err := c.Kubectl(ctx, append([]string{"warren", "flows", "-n", namespace, "--last", "1", "-o", "json"}, args...)...)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		var next event
		if err := json.Unmarshal([]byte(line), &next); err != nil {
			return nil, fmt.Errorf("%w: %s", err, line)
		}
		if next.text("evt.kind") == "flow" {
			e = next
		}
	}
	if e == nil {
		return nil, fmt.Errorf("no flow in %q", out)
	}
	return e, nil
}
