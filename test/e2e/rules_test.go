package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"warren/internal/testkit"
)

// TestE2ERules alerts when somebody does what a rule is about, reads changed
// files while it runs, and keeps the rules when these have mistakes.
func TestE2ERules(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "rules.yaml")
	write := func(condition string) {
		t.Helper()
		text := "- rule: canary\n  desc: somebody writes to the canary\n  condition: evt.type in (open, openat, creat) and evt.is_open_write = true and " + condition +
			"\n  output: '%proc.name wrote %fd.name'\n  priority: CRITICAL\n  tags: [test]\n" +
			"- rule: shadow\n  desc: the same, more quietly\n  condition: evt.type in (open, openat) and evt.is_open_write = true and " + condition +
			"\n  output: '%fd.name'\n  priority: NOTICE\n"
		// As an editor would: all at once.
		tmp := filepath.Join(dir, "new")
		if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, file); err != nil {
			t.Fatal(err)
		}
	}
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	write("fd.name = " + first)
	a := start(t, options{args: []string{"--rules", dir}})
	f := a.follow("evt.kind = alert")
	touch := func(path string) {
		t.Helper()
		if err := shell(t, `echo x > "$0"`, path).Run(); err != nil {
			t.Fatal(err)
		}
	}
	// The hooks come a moment after the agent answers.
	alert := func(rule, path string) object {
		t.Helper()
		var found object
		testkit.Wait(t, "an alert of "+rule+" about "+path, func() bool {
			touch(path)
			for _, o := range f.all() {
				if o.str("alert.rule") == rule && strings.Contains(o.str("alert.output"), path) {
					found = o
				}
			}
			return found != nil
		})
		return found
	}
	got := alert("canary", first)
	want(t, got, map[string]string{"evt.type": "alert", "alert.priority": "Critical", "alert.source": "syscall", "alert.evt.type": "openat", "proc.name": "sh"})
	if said := got.str("alert.output"); !strings.HasPrefix(said, "sh wrote "+first+" container_id=") {
		t.Errorf("the alert says %q", said)
	}
	if got.str("alert.uuid") == "" || !strings.Contains(got.str("alert.output_fields"), `"fd.name":"`+first+`"`) {
		t.Errorf("%v", got)
	}
	alert("shadow", first) // all rules alert, not the first alone

	write("fd.nmae = " + first)
	testkit.Wait(t, "a status that names the mistake", func() bool {
		return strings.Contains(a.warren("status").stdout, "no field fd.nmae")
	})
	alert("canary", first)

	write("fd.name = " + second)
	alert("canary", second)
	r := a.warren("status")
	if !strings.Contains(r.stdout, "2 of 2 rules") || strings.Contains(r.stdout, "nmae") {
		t.Errorf("status:\n%s", r.stdout)
	}
}

// TestE2ERuleReplay asks the history what rules would have said of it.
func TestE2ERuleReplay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules.yaml")
	text := "- rule: begun\n  desc: a program begins\n  condition: evt.type in (execve, execveat) and proc.args contains replayed-canary\n  output: '%proc.name of %proc.pname with %proc.args'\n  priority: NOTICE\n" +
		"- rule: opened\n  desc: a file is opened\n  condition: evt.type = openat and fd.name = /etc/shadow\n  output: '%fd.name'\n  priority: NOTICE\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a := start(t, options{})
	if err := shell(t, `: "$0"; true`, "replayed-canary").Run(); err != nil {
		t.Fatal(err)
	}
	var r result
	testkit.Wait(t, "what the rule would have said", func() bool {
		r = a.warren("rule", "replay", file, "--history", "1h")
		return strings.Contains(r.stdout, "sh of ")
	})
	if !strings.Contains(r.stdout, "1  Notice    begun") || !strings.Contains(r.stdout, "not asked  Notice    opened") || !strings.Contains(r.stderr, "rule opened was not asked") || strings.Contains(r.stderr, "could not be judged") {
		t.Errorf("%s\n%s", r.stdout, r.stderr)
	}
}

// TestE2ERulesWithMistakes refuses to start.
func TestE2ERulesWithMistakes(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rules.yaml"), []byte("- rule: x\n  condition: y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAgent(t, options{args: []string{"--rules", dir}})
	a.launch()
	<-a.ended
	if a.err == nil || !strings.Contains(a.out.String(), "rules.yaml:1:3: the rule has no key output") {
		t.Errorf("the agent ended with %v", a.err)
	}
}
