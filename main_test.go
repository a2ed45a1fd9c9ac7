package main

import (
	"os"
	"regexp"
	"testing"

	"warren/agent"
)

// TestExampleConfiguration: docs/warren.yaml is accepted, says what holds
// without it, and is complete as far as its own comments are examples.
func TestExampleConfiguration(t *testing.T) {
	const page = "docs/warren.yaml"
	got, err := agent.Load(agent.Options{Config: page})
	if err != nil {
		t.Fatal(err)
	}
	want, err := agent.Load(agent.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Instance != want.Instance || got.Socket != want.Socket || got.State != want.State || got.HTTP != want.HTTP || got.HTTPPublic != want.HTTPPublic || got.LogLevel != want.LogLevel {
		t.Errorf("%s sets %+v, the defaults are %+v", page, got, want)
	}
	// What it shows in comments works too.
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^(hooks:) \{\}\n#  `).ReplaceAll(text, []byte("$1\n  "))
	file := t.TempDir() + "/warren.yaml"
	if err := os.WriteFile(file, shown, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err = agent.Load(agent.Options{Config: file}); err != nil {
		t.Fatal(err)
	}
	if got.Road.Rungs["socket.accept"] != "tracepoint" {
		t.Errorf("the example of a hook sets %v", got.Road.Rungs)
	}
}
