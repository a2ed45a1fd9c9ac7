package attack

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"warren/rule"
)

// TestAttacks wants an attack for each of Falco's stable rules, and no other.
func TestAttacks(t *testing.T) {
	dir := os.Getenv("WARREN_TEST_DATA")
	if dir == "" {
		t.Skip("WARREN_TEST_DATA is not set: it names the folder with falco_rules.yaml")
	}
	file := filepath.Join(dir, "falco_rules.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Skip(err)
	}
	set, findings := rule.Load([]rule.File{{Name: file, Text: text}}, rule.Config{})
	if set == nil {
		t.Fatalf("%s: %v", file, findings)
	}
	var want, have []string
	for _, r := range set.Rules {
		want = append(want, r.Name)
	}
	for _, a := range Attacks() {
		have = append(have, a.Rule)
	}
	if !slices.Equal(have, want) {
		t.Errorf("attacks are there for\n%s\nrules are\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}
