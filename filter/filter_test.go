package filter

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"warren/event"
)

var update = flag.Bool("update", false, "rewrite testdata/*.txtar; commit only what you understand")

// TestVerdicts runs testdata/*.txtar. A file NAME.event describes an event (see
// newEvent); a file NAME.filters holds expressions, each followed by "->" and the
// verdict about the event of that name, or by the error as it is shown. Where
// there is no such event, the canonical form stands for the verdict. An
// expression goes on in lines that begin with a tab.
func TestVerdicts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata: %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			a := txtar.Parse(source)
			events := map[string]*event.Event{}
			for i, f := range a.Files {
				if name, ok := strings.CutSuffix(f.Name, ".event"); ok {
					if events[name], err = newEvent(string(f.Data)); err != nil {
						t.Fatalf("%s: %v", f.Name, err)
					}
					continue
				}
				a.Files[i].Data = judged(f.Data, events[strings.TrimSuffix(f.Name, ".filters")])
			}
			got := txtar.Format(a)
			if *update && !bytes.Equal(got, source) {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(source), string(got)); d != "" {
				t.Errorf("%s (-want +got):\n%s", file, d)
			}
		})
	}
}

// judged replaces what follows each expression.
func judged(data []byte, e *event.Event) []byte {
	var out strings.Builder
	var expr []string
	flush := func() {
		if len(expr) > 0 {
			fmt.Fprintf(&out, "%s\n%s", strings.Join(expr, "\n"), verdict(strings.Join(expr, "\n"), e))
			expr = nil
		}
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "->") || strings.HasPrefix(line, " | "):
			flush()
		case strings.HasPrefix(line, "\t"):
			expr = append(expr, line)
		case line == "" || strings.HasPrefix(line, "#"):
			flush()
			out.WriteString(line + "\n")
		default:
			flush()
			expr = append(expr, line)
		}
	}
	flush()
	return []byte(out.String())
}

func verdict(expr string, e *event.Event) string {
	p, err := Compile(expr)
	if err != nil {
		var at *Error
		if !errors.As(err, &at) {
			return "-> " + err.Error() + "\n"
		}
		return "-> " + err.Error() + "\n | " + strings.ReplaceAll(at.Caret(), "\n", "\n | ") + "\n"
	}
	if e == nil {
		return "-> " + p.String() + "\n"
	}
	return fmt.Sprintf("-> %v\n", p.Match(e))
}
