package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"warren/internal/testkit"
	"warren/test/attack"
)

// falcoRules is the path of Falco's stable rule file.
func falcoRules(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("WARREN_TEST_DATA")
	if dir == "" {
		t.Skip("WARREN_TEST_DATA is not set: it names the folder with falco_rules.yaml")
	}
	file := filepath.Join(dir, "falco_rules.yaml")
	if _, err := os.Stat(file); err != nil {
		t.Skip(err)
	}
	return file
}

// TestE2EAttacks does what each of Falco's stable rules is about, and wants its
// alert; and what is nearly the same, and wants none.
func TestE2EAttacks(t *testing.T) {
	file := falcoRules(t)
	attacks := attack.PossibleAttacks()
	for _, x := range attack.Attacks() {
		if err := x.Possible(); err != nil {
			t.Logf("%s: not attacked: %v", x.Rule, err)
		}
	}
	l, err := attack.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	}()
	a := start(t, options{config: "rules: {aggregate: 0}\n" + l.Config(), args: []string{"--rules", file}})
	f := a.follow("evt.kind = alert")

	heard := func(x attack.Attack, word string) bool {
		return slices.ContainsFunc(f.all(), func(o object) bool { return o.str("alert.rule") == x.Rule && l.Shows(x, word, o.str("alert.output")) })
	}
	if err := l.Settle(t.Context(), attacks, heard); err != nil {
		t.Error(err)
	}
	// What is spared goes first: when an attack has been heard of, so would it.
	spared, words := make([]string, len(attacks)), make([]string, len(attacks))
	for i, x := range attacks {
		spared[i] = l.Word()
		if err := x.Spare(t.Context(), l, spared[i]); err != nil {
			t.Errorf("%s: what is no attack: %v", x.Rule, err)
		}
	}
	for i, x := range attacks {
		words[i] = l.Word()
		if err := x.Do(t.Context(), l, words[i]); err != nil {
			t.Errorf("%s: %v", x.Rule, err)
		}
	}
	// All at once, so that it takes no longer if many are missing.
	missing := map[string]bool{}
	attack.Await(testkit.Patience, func() bool {
		all := f.all()
		clear(missing)
		for i, x := range attacks {
			if !slices.ContainsFunc(all, func(o object) bool {
				return o.str("alert.rule") == x.Rule && l.Shows(x, words[i], o.str("alert.output"))
			}) {
				missing[x.Rule] = true
			}
		}
		return len(missing) == 0
	})
	for i, x := range attacks {
		if missing[x.Rule] {
			t.Errorf("%s: no alert shows %q", x.Rule, l.Evidence(x, words[i]))
		}
		for _, o := range f.all() {
			name, output := o.str("alert.rule"), o.str("alert.output")
			switch {
			case name == x.Rule && strings.Contains(output, spared[i]):
				t.Errorf("%s alerts for what is no attack: %s", x.Rule, output)
			case missing[x.Rule] && (name == x.Rule || strings.Contains(output, words[i])):
				t.Logf("%s: there is %s: %s", x.Rule, name, output)
			case name != x.Rule && strings.Contains(output, words[i]):
				t.Logf("%s: also %s", x.Rule, name)
			}
		}
	}
	if t.Failed() {
		t.Log(a.warren("status").stdout)
	}
}
