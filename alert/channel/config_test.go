package channel

import (
	"os"
	"slices"
	"strings"
	"testing"

	"warren/settings"
)

// TestKeys holds the table of types against the keys, and both against the page
// that describes them.
func TestKeys(t *testing.T) {
	page, err := os.ReadFile("../../docs/alerts.md")
	if err != nil {
		t.Skip("the source tree is not here")
	}
	var keys []string
	var visit func(list []settings.Option[Config])
	visit = func(list []settings.Option[Config]) {
		for _, o := range list {
			if !strings.Contains(string(page), "`"+o.Key+"`") && !strings.Contains(string(page), "`"+o.Key+": ") {
				t.Errorf("docs/alerts.md says nothing of %s", o.Key)
			}
			visit(o.Sub)
		}
	}
	visit(Options())
	for _, o := range Options() {
		keys = append(keys, o.Key)
	}
	used := slices.Clone(commonKeys)
	for name, k := range kinds {
		used = append(used, k.keys...)
		for _, key := range k.keys {
			if !slices.Contains(keys, key) {
				t.Errorf("%s has key %s, which is none", name, key)
			}
		}
		if !strings.Contains(string(page), "\n## "+name+"\n") {
			t.Errorf("docs/alerts.md says nothing of type %s", name)
		}
	}
	for _, key := range keys {
		if !slices.Contains(used, key) {
			t.Errorf("no type has key %s", key)
		}
	}
}
