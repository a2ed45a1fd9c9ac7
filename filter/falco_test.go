package filter

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"

	"warren/interest"
)

// falcoRules is what a rule file names.
type falcoRules struct {
	macros map[string]Expr
	lists  map[string][]*Value
}

func (r *falcoRules) Macro(name string) (Expr, bool) { x, ok := r.macros[name]; return x, ok }

func (r *falcoRules) List(name string) ([]*Value, bool) { vs, ok := r.lists[name]; return vs, ok }

// TestFalcoRules parses and compiles every condition of Falco's stable rules.
func TestFalcoRules(t *testing.T) {
	dir := os.Getenv("WARREN_TEST_DATA")
	if dir == "" {
		t.Skip("WARREN_TEST_DATA is not set: it names the folder with falco_rules.yaml")
	}
	source, err := os.ReadFile(filepath.Join(dir, "falco_rules.yaml"))
	if err != nil {
		t.Skip(err)
	}
	var file []struct {
		Rule, Macro, List, Condition string
		Items                        []string
	}
	if err := yaml.Unmarshal(source, &file); err != nil {
		t.Fatal(err)
	}
	rules := &falcoRules{map[string]Expr{}, map[string][]*Value{}}
	conditions := map[string]Expr{}
	for _, entry := range file {
		switch {
		case entry.List != "":
			vs := []*Value{}
			for _, item := range entry.Items {
				v, err := ParseItem(item)
				if err != nil {
					t.Errorf("list %s: %v", entry.List, err)
				}
				vs = append(vs, v)
			}
			rules.lists[entry.List] = vs
		case entry.Condition != "":
			x, err := Parse(entry.Condition)
			if err != nil {
				t.Errorf("%s%s: %v\n%s", entry.Rule, entry.Macro, err, caret(err))
				continue
			}
			if entry.Macro != "" {
				rules.macros[entry.Macro] = x
			} else {
				conditions[entry.Rule] = x
			}
		}
	}
	if len(conditions) < 20 || len(rules.macros) < 50 || len(rules.lists) < 30 {
		t.Fatalf("%d rules, %d macros, %d lists: is this Falco's stable rule file?", len(conditions), len(rules.macros), len(rules.lists))
	}

	checks := 0
	var all []interest.Holder
	for _, name := range slices.Sorted(maps.Keys(conditions)) {
		x, err := Expand(conditions[name], rules)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if again, err := Parse(x.String()); err != nil || shape(again) != shape(x) {
			t.Errorf("%s: the canonical form means something else (%v)", name, err)
		}
		checks += len(allChecks(x))
		p, err := CompileExpr(x)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, caret(err))
			continue
		}
		want := p.Interest()
		t.Logf("%s: kinds %v, interest in %v: %d terms", name, p.Kinds(), want.Kinds(), len(want.Terms))
		for _, warning := range p.Explain().Warnings {
			t.Logf("%s: %s", name, warning)
		}
		all = append(all, interest.Holder{Name: name, Interest: want})
	}
	// Together they are what the kernel has room for.
	if terms := interest.Union(all...).Among(interest.PathKinds).Terms(); len(terms) > 256 {
		t.Errorf("%d terms of files", len(terms))
	} else {
		t.Logf("%d terms of files in all", len(terms))
		for _, term := range terms {
			t.Log(term)
		}
	}
	t.Logf("%d rules, %d comparisons", len(conditions), checks)
}

func allChecks(x Expr) (cs []*Check) {
	switch x := x.(type) {
	case *And:
		for _, y := range x.X {
			cs = append(cs, allChecks(y)...)
		}
	case *Or:
		for _, y := range x.X {
			cs = append(cs, allChecks(y)...)
		}
	case *Not:
		return allChecks(x.X)
	case *Check:
		return []*Check{x}
	}
	return cs
}
