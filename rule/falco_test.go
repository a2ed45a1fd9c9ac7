package rule

import (
	"os"
	"path/filepath"
	"testing"
)

// falcoRules returns Falco's stable rule file.
func falcoRules(t testing.TB) File {
	dir := os.Getenv("WARREN_TEST_DATA")
	if dir == "" {
		t.Skip("WARREN_TEST_DATA is not set: it names the folder with falco_rules.yaml")
	}
	text, err := os.ReadFile(filepath.Join(dir, "falco_rules.yaml"))
	if err != nil {
		t.Skip(err)
	}
	return File{"falco_rules.yaml", text}
}

// TestFalcoRules loads Falco's stable rules as they are: nothing may be said of
// them that Falco would not say.
func TestFalcoRules(t *testing.T) {
	set, findings := Load([]File{falcoRules(t)}, Config{})
	for _, f := range findings {
		if f.Code != WarnUnusedList && f.Code != WarnUnusedMacro {
			t.Errorf("%v: %s (%s %s): %s; %s\n%s", f.Place, f.Code, f.Item, f.Name, f.Msg, f.Hint, f.Excerpt)
			continue
		}
		t.Logf("%v: %s (%s %s)", f.Place, f.Code, f.Item, f.Name)
	}
	if set == nil || len(set.Rules) != 25 {
		t.Fatal("not all rules were loaded")
	}
	for _, r := range set.Rules {
		t.Logf("%v %s: kinds %v; %v", r.Place, r.Name, r.Program.Kinds(), r.Format.Fields())
	}
}
