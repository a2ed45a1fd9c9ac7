package rule

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write what is said of the files of testdata into them")

// TestLoad loads the rule files of each archive in testdata/load, and compares
// the rules that come out, and what is said of the files, with what the archive
// wants.
func TestLoad(t *testing.T) {
	paths, err := filepath.Glob("testdata/load/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no archives", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var files []File
			var want *txtar.File
			for i, f := range a.Files {
				if f.Name == "want" {
					want = &a.Files[i]
				} else {
					files = append(files, File{f.Name, f.Data})
				}
			}
			if want == nil {
				a.Files = append(a.Files, txtar.File{Name: "want"})
				want = &a.Files[len(a.Files)-1]
			}
			got := described(Load(files, Config{}))
			if *update {
				want.Data = got
				if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want.Data), string(got)); diff != "" {
				t.Errorf("what is said of the files (-want +got):\n%s", diff)
			}
		})
	}
}

func described(set *Set, findings []Finding) []byte {
	var b bytes.Buffer
	for _, f := range findings {
		fmt.Fprintf(&b, "%v: %s", f.Place, f.Code)
		if f.Item != "" {
			fmt.Fprintf(&b, " %s %s", f.Item, f.Name)
		}
		fmt.Fprintf(&b, ": %s", f.Msg)
		if f.Hint != "" {
			fmt.Fprintf(&b, "; %s", f.Hint)
		}
		b.WriteByte('\n')
		for line := range strings.Lines(f.Excerpt) {
			b.WriteString("    " + line)
		}
		if f.Excerpt != "" {
			b.WriteByte('\n')
		}
	}
	if set == nil {
		b.WriteString("nothing is loaded\n")
		return b.Bytes()
	}
	for _, r := range set.Rules {
		fmt.Fprintf(&b, "rule %s: %v, %s", r.Name, r.Priority, r.Source)
		if !r.Enabled {
			b.WriteString(", not enabled")
		}
		fmt.Fprintf(&b, "\n  when %v\n  say  %s\n  desc %s\n  tags %v\n", r.Condition, r.Output, r.Desc, r.Tags)
		for i := range r.Reactions {
			fmt.Fprintf(&b, "  then %v\n", &r.Reactions[i])
		}
	}
	return b.Bytes()
}
