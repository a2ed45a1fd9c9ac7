package store

import (
	"flag"
	"os"
	"strings"
	"testing"

	"warren/event"
)

var update = flag.Bool("update", false, "rewrite docs/history.md's table of columns")

// TestColumnsDocumented holds docs/history.md against the columns that are no
// fields. What is a field is in docs/events.md.
func TestColumnsDocumented(t *testing.T) {
	const page, head = "../docs/history.md", "| kind | columns |\n|---|---|\n"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{keyFormat, keyKind, keyNode, keyHostname, keyK8sNode, keyBootID, keySchema, keyVersion, keySource, keyPlain, keyEvents, keyMinSeq, keyMaxSeq, keyLiving} {
		if !strings.Contains(string(text), "`"+key+"`") {
			t.Errorf("%s does not tell of %s", page, key)
		}
	}
	for name := range bloomColumns {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("%s does not tell of the bloom filter of %s", page, name)
		}
	}
	before, after, ok := strings.Cut(string(text), head)
	if !ok {
		t.Fatalf("%s has no table of columns", page)
	}
	var table strings.Builder
	shared := map[string]bool{}
	row := func(kind string, names []string) {
		if len(names) > 0 {
			table.WriteString("| " + kind + " | `" + strings.Join(names, "`, `") + "` |\n")
		}
	}
	for _, c := range event.LayoutOf(event.KindExec).Columns {
		if _, ok := event.Lookup(c.Name); !ok {
			shared[c.Name] = true
		}
	}
	var all []string
	for _, c := range event.LayoutOf(event.KindExec).Columns {
		if shared[c.Name] {
			all = append(all, c.Name)
		}
	}
	row("all events", all)
	for _, k := range event.AllKinds.List() {
		l := event.LayoutOf(k)
		if l == nil {
			continue
		}
		var own []string
		for _, c := range l.Columns {
			if _, ok := event.Lookup(c.Name); !ok && (!shared[c.Name] || k == event.KindProcess) {
				own = append(own, c.Name)
			}
		}
		row(k.String(), own)
	}
	_, rest, ok := strings.Cut(after, "\n\n")
	if strings.HasPrefix(after, "\n") {
		rest, ok = after[1:], true
	}
	if !ok {
		t.Fatalf("the table of %s does not end", page)
	}
	want := before + head + table.String() + "\n" + rest
	if want == string(text) {
		return
	}
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the table of columns in %s is not that of the code: go test ./store -run TestColumnsDocumented -update", page)
}
