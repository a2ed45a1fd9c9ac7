package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"warren/internal/testkit"
)

// TestE2EReactions reads a file of passwords' hashes as an intruder does, and has a
// program run and a webhook called, a third thing refused, and all of it told.
func TestE2EReactions(t *testing.T) {
	dir := t.TempDir()
	rules := "- rule: hashes read\n  desc: somebody reads passwords' hashes\n  condition: evt.type in (open, openat, openat2) and evt.is_open_read = true and fd.name = /etc/shadow and proc.name = cat and proc.args contains reacted-canary\n" +
		"  output: '%proc.name read %fd.name'\n  priority: CRITICAL\n" +
		"  reaction:\n  - program: [/bin/sh, -c, 'cat >\"$0/new\"; mv \"$0/new\" \"$0/alert\"; echo collected', " + dir + "]\n  - webhook: hook\n  - program: [/bin/rm, -r, " + dir + "]\n  - pod: delete\n"
	if err := os.WriteFile(filepath.Join(dir, "rules.yaml"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	type alert struct {
		UUID, Rule string
		Fields     map[string]any `json:"output_fields"`
	}
	var mu sync.Mutex
	var called []alert
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var a alert
		b, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(b, &a) != nil {
			t.Errorf("not an alert: %q", b)
		}
		mu.Lock()
		defer mu.Unlock()
		called = append(called, a)
	}))
	t.Cleanup(hook.Close)
	a := start(t, options{config: "rules: {aggregate: 1h}\nreactions: {enabled: true, programs: /bin/sh, pods: delete, webhooks: [{name: hook, url: '" + hook.URL + "/call'}]}\n", args: []string{"--rules", dir}})
	f := a.follow("evt.kind in (alert, reaction)")
	outcomes := func() (list []string) {
		for _, o := range f.all() {
			if o.str("evt.kind") == "reaction" {
				list = append(list, o.str("reaction.action")+" "+o.str("reaction.outcome"))
			}
		}
		return list
	}
	want := []string{"delete refused", "program done", "program refused", "webhook done"}
	testkit.Wait(t, "four reactions", func() bool {
		// The hooks come a moment after the agent answers. What is alike is told once.
		if err := shell(t, "cat /etc/shadow /dev/null reacted-canary >/dev/null 2>&1; true").Run(); err != nil {
			t.Fatal(err)
		}
		return len(outcomes()) >= len(want)
	})
	if got := slices.Sorted(slices.Values(outcomes())); !slices.Equal(got, want) {
		t.Errorf("reactions: %q, want %q", got, want)
	}
	var id string
	for _, o := range f.all() {
		if o.str("evt.kind") == "alert" && id == "" {
			id = o.str("alert.uuid")
		}
		if o.str("evt.kind") == "reaction" && (o.str("alert.uuid") != id || o.str("alert.rule") != "hashes read" || o.str("proc.name") != "cat") {
			t.Errorf("a reaction to another alert than %s: %v", id, o)
		}
	}
	var read alert
	b, err := os.ReadFile(filepath.Join(dir, "alert"))
	if err != nil || json.Unmarshal(b, &read) != nil || read.UUID != id || read.Fields["fd.name"] != "/etc/shadow" {
		t.Errorf("the program read %q, %v", b, err)
	}
	mu.Lock()
	if len(called) != 1 || called[0].UUID != id || called[0].Rule != "hashes read" {
		t.Errorf("the webhook was called with %+v", called)
	}
	mu.Unlock()

	show := a.ok("alert", "show", id)
	for _, want := range []string{"Reactions", "program /bin/sh", "done: collected", "webhook hook: done", "refused: the program is not among reactions: programs", "delete: refused: the event is of no pod"} {
		if !strings.Contains(show, want) {
			t.Errorf("alert show does not say %q:\n%s", want, show)
		}
	}
	if out := a.ok("status"); !strings.Contains(out, "Reactions\n") || !strings.Contains(out, "program") {
		t.Errorf("status:\n%s", out)
	}
	if out := a.ok("events", "--since", "1h", "evt.type = reaction and reaction.outcome = refused and alert.uuid = "+id); strings.Count(out, "hashes read") != 2 {
		t.Errorf("events:\n%s", out)
	}
}
