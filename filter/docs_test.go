package filter

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"warren/event"
)

// TestDocs runs the examples of docs/filter.md: each line of a block of kind
// filter ends in the verdict about the event of the first block; a block of kind
// error is an expression, the message, and how the place is shown.
func TestDocs(t *testing.T) {
	source, err := os.ReadFile("../docs/filter.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(source)
	var e *event.Event
	examples := 0
	for _, block := range regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)\n```$").FindAllStringSubmatch(doc, -1) {
		kind, text := block[1], block[2]
		switch kind {
		case "event":
			if e, err = newEvent(text); err != nil {
				t.Fatal(err)
			}
		case "filter":
			for _, line := range strings.Split(text, "\n") {
				expr, verdict, ok := strings.Cut(line, "  # ")
				if !ok || verdict != "true" && verdict != "false" {
					t.Errorf("%s: no verdict", line)
					continue
				}
				p, err := Compile(expr)
				if err != nil {
					t.Errorf("%v\n%s", err, caret(err))
					continue
				}
				if p.Match(e) != (verdict == "true") {
					t.Errorf("%s: is not %s", strings.TrimSpace(expr), verdict)
				}
				examples++
			}
		case "error":
			expr, shown, _ := strings.Cut(text, "\n")
			_, err := Compile(expr)
			if err == nil {
				t.Errorf("%s: no error", expr)
				continue
			}
			if got := err.Error() + "\n" + caret(err); got != shown {
				t.Errorf("%s: shows\n%s\nnot\n%s", expr, got, shown)
			}
			examples++
		default:
			t.Errorf("a block of kind %s", kind)
		}
	}
	if examples < 50 {
		t.Errorf("%d examples found", examples)
	}

	// What there is must be there.
	doc = regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(doc, "")
	words := regexp.MustCompile("[a-z0-9]+|[=!<>]+").FindAllString(strings.Join(regexp.MustCompile("`[^`]+`").FindAllString(doc, -1), " "), -1)
	for _, name := range slices.Concat(opNames[1:], modNames[1:], transformers, []string{"val"}) {
		if !slices.Contains(words, name) {
			t.Errorf("docs/filter.md does not describe %s", name)
		}
	}
	for _, f := range event.Fields() {
		if f.Many != event.One && !f.Listed() && !strings.Contains(doc, "`"+f.Name+"`") {
			t.Errorf("docs/filter.md does not list %s, which has several values", f.Name)
		}
	}
}
