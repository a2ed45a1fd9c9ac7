package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCompletionInBash has bash read its script, and asks it as a person does
// who presses the key. A script stands for the program.
func TestCompletionInBash(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash here")
	}
	dir := t.TempDir()
	var script bytes.Buffer
	if code := Main(t.Context(), testEnv(&script, nil), []string{"completion", "bash"}); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	// A program that answers as warren does, for what is asked below.
	answers := filepath.Join(dir, "answers")
	fake := filepath.Join(dir, "warren")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\nprintf '%s|' \"$@\" >> "+answers+"\ncat "+filepath.Join(dir, "says")+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file one"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		words []string
		says  string // what the program answers
		want  []string
	}{
		{[]string{"events", "--re"}, "--recent\tshow it\n:4\n", []string{"--recent"}},
		{[]string{"process", ""}, "list\tList $(touch x) `y`\ntree\n:4\n", []string{"list", "tree"}},
		{[]string{"agent", "--config", "fi"}, ":0\n", []string{"file one"}},
		{[]string{"agent", "--config", "=", "fi"}, ":0\n", []string{"file one"}},
	} {
		if err := os.WriteFile(filepath.Join(dir, "says"), []byte(tt.says), 0o644); err != nil {
			t.Fatal(err)
		}
		var quoted []string
		for _, w := range append([]string{fake}, tt.words...) {
			quoted = append(quoted, "'"+w+"'")
		}
		line := script.String() + "\nCOMP_WORDS=(" + strings.Join(quoted, " ") + ")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_warren\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n"
		cmd := exec.CommandContext(t.Context(), bash, "--norc", "-c", line)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if got := strings.Split(strings.TrimSpace(string(out)), "\n"); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%v: %q %v, want %q", tt.words, got, err, tt.want)
		}
		asked, err := os.ReadFile(answers)
		if want := "__complete|" + strings.Join(tt.words, "|") + "|"; err != nil || string(asked) != want {
			t.Errorf("the program was asked %q (%v), want %q", asked, err, want)
		}
		if err := os.Remove(answers); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCompletionKnowsAll: every flag of every command completes, and what it
// says has nothing that a shell would read as more than text.
func TestCompletionKnowsAll(t *testing.T) {
	for _, kubectl := range []bool{false, true} {
		g := globals{kubectl: kubectl}
		commands, global := commandTable(&g)
		for _, c := range commands {
			words := append(strings.Fields(c.name), "--")
			list, add := complete(commands, global, words)
			if len(list) != len(c.flags)+len(global)+1 || add != addNothing {
				t.Errorf("%s: %d flags complete of %d", c.name, len(list), len(c.flags)+len(global)+1)
			}
			for _, can := range list {
				if strings.ContainsAny(can.word+can.says, "\n\t") || can.says == "" {
					t.Errorf("%s: %q", c.name, can)
				}
			}
		}
	}
}

func FuzzComplete(f *testing.F) {
	for _, s := range []string{"", "events --", "process list -o ", "-", "--", "-x", "events --output = w", "help x -- -", "process -o= --=", "events -c a,b,", "\x00", "connection list -fo"} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, line string, kubectl bool) {
		g := globals{kubectl: kubectl}
		commands, global := commandTable(&g)
		list, _ := complete(commands, global, strings.Split(line, " "))
		for _, c := range list {
			if strings.ContainsAny(c.word, "\n") && !strings.ContainsAny(line, "\n") {
				t.Errorf("%q becomes %q", line, c.word)
			}
		}
	})
}

func TestCalled(t *testing.T) {
	for _, tt := range []struct {
		argv, want string
		kubectl    bool
	}{
		{"", "", false},
		{"/usr/bin/warren events", "events", false},
		{"/usr/local/bin/kubectl-warren events", "events", true},
		{"kubectl_complete-warren events --", "__complete events --", true},
		{"kubectl-warren", "", true},
	} {
		var env Env
		if got := strings.Join(env.Called(strings.Fields(tt.argv)), " "); got != tt.want || env.Kubectl != tt.kubectl {
			t.Errorf("%q: %q, plugin %v", tt.argv, got, env.Kubectl)
		}
	}
}
