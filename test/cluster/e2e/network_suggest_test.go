package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testSuggest holds that policies suggested from what was observed allow every
// cell of the table that was, and no other with an end in the namespace, in both
// directions; that the comparison says so beforehand; and that what is denied then
// is told with the reason.
func testSuggest(c *testCluster) {
	y := newYard(c)
	full := c.namespace + "-u"
	observed := []cell{
		{y.pod("u/a"), y.pod("u/b"), web, false},
		{y.pod("u/a"), y.pod("v/c"), dgram, true},
		{y.pod("u/b"), y.pod("u/c"), other, true},
		{y.pod("v/b"), y.pod("u/c"), other, false},
		{y.pod("w/a"), y.pod("u/a"), dgram, false},
	}
	for _, o := range observed {
		c.eventually(o.String(), func(context.Context) error {
			_, err := reach(o.from.guest, o.protocol, netip.AddrPortFrom(o.to.addr(o.six), o.port), patience)
			return err
		})
	}
	var text string
	c.eventually("everything that happened to be in what is suggested", func(context.Context) error {
		a := c.program("control", nil, "kubectl", "warren", "policy", "suggest", "-n", full)
		if text = a.out; a.code != 0 {
			return fmt.Errorf("exit code %d: %s", a.code, a.errors)
		}
		for _, o := range observed {
			line := fmt.Sprintf("%s-%s to %s-%s %s/%d", c.namespace, o.from.name, c.namespace, o.to.name, o.protocol, o.port)
			if !strings.Contains(text, line) {
				return fmt.Errorf("no %q in\n%s", line, text)
			}
		}
		return nil
	})
	file := filepath.Join(c.t.(*testing.T).TempDir(), "suggested.yaml")
	c.must(os.WriteFile(file, []byte(text), 0o600))
	if a := c.program("control", nil, "kubectl", "warren", "policy", "diff", "-n", full, file); a.code != 0 || a.out != "" {
		c.t.Errorf("exit code %d: what was observed would be denied:\n%s%s", a.code, a.out, a.errors)
	}
	c.apply(text)
	same := func(a, b cell) bool {
		return a.from.name == b.from.name && a.to.name == b.to.name && a.probe == b.probe
	}
	y.hold(c.t.(*testing.T), func(asked cell) bool {
		return asked.from.ns != "u" && asked.to.ns != "u" || slices.ContainsFunc(observed, func(o cell) bool { return same(o, asked) })
	})
	if c.t.Failed() {
		c.t.Logf("suggested was:\n%s", text)
	}
	// The command that says beforehand what would become of a packet agrees.
	out, err := c.Kubectl(c.context(), "warren", "policy", "test", "-n", full, "--from", "a", "--to", "b:80")
	if err != nil || !strings.HasPrefix(out, "allow ") {
		c.t.Errorf("from a to b: %v, %s", err, out)
	}
	if out, err := c.Kubectl(c.context(), "warren", "policy", "test", "-n", full, "--from", "b", "--to", "a:80"); err == nil || !strings.HasPrefix(out, "deny ") {
		c.t.Errorf("from b to a: %v, %s", err, out)
	}
	c.eventually("what was denied to be told", func(ctx context.Context) error {
		out, err := c.Kubectl(ctx, "warren", "flows", "-n", full, "--verdict", "dropped", "-o", "json")
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			var e event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				return fmt.Errorf("%w: %s", err, line)
			}
			if e.text("flow.drop_reason") == "policy_default" && strings.Contains(e.text("flow.nearest"), full+"/") {
				return nil
			}
		}
		return fmt.Errorf("no flow with the nearest rule in\n%s", out)
	})
}
