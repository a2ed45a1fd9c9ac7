package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"warren/api"
	"warren/filter"
)

// TestGenerated holds the generated pages of docs against what they are
// generated from.
func TestGenerated(t *testing.T) {
	for page, command := range map[string]string{"events.md": "fields -o markdown", "cli.md": "help -o markdown"} {
		var out bytes.Buffer
		if code := Main(t.Context(), testEnv(&out, nil), strings.Fields(command)); code != 0 {
			t.Fatalf("warren %s: exit code %d: %s", command, code, &out)
		}
		have, err := os.ReadFile(filepath.Join("..", "docs", page))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, out.Bytes()) {
			t.Errorf("docs/%s is not what warren %s writes: run make generate", page, command)
		}
	}
}

// judge is an agent that only judges what it is asked.
type judge struct{ t *testing.T }

func (j judge) filter(expr string) api.Lines {
	if _, err := filter.Compile(expr); err != nil {
		j.t.Errorf("filter %q: %v", expr, err)
	}
	return func(func([]byte, error) bool) {}
}
func (j judge) Events(_ context.Context, expr string, _ int) api.Lines { return j.filter(expr) }
func (j judge) Recent(_ context.Context, expr string, _ int) api.Lines { return j.filter(expr) }
func (j judge) Processes(_ context.Context, expr string, _ bool) api.Lines {
	return j.filter(expr)
}
func (j judge) Connections(_ context.Context, expr string) api.Lines       { return j.filter(expr) }
func (j judge) FollowConnections(_ context.Context, expr string) api.Lines { return j.filter(expr) }
func (j judge) Process(context.Context, string) ([]byte, error)            { return nil, errStop }
func (j judge) Status(context.Context) ([]byte, error)                     { return nil, errStop }

var errStop = errors.New("the line was understood")

// TestExamples runs every example of help, of the README and of docs: each line
// that begins with warren, or with a prompt and warren. Commands and flags have
// to exist, filters to compile.
func TestExamples(t *testing.T) {
	var lines []string
	var g globals
	commands, _ := commandTable(&g)
	for _, c := range commands {
		for _, e := range c.examples {
			lines = append(lines, e.line)
		}
	}
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "../README.md", "../ARCHITECTURE.md", "../CONTRIBUTING.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range exampleLine.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "[FLAGS]") {
				continue // that is how help shows what may follow
			}
			lines = append(lines, m[1])
		}
	}
	if len(lines) < 30 {
		t.Fatalf("only %d examples were found: does the pattern still fit?", len(lines))
	}
	for _, line := range lines {
		words, err := shellWords(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		var out bytes.Buffer
		env := testEnv(&out, judge{t})
		env.RunAgent = func(context.Context, AgentOptions) error { return errStop }
		if code := Main(t.Context(), env, words[1:]); code == exitUsage {
			t.Errorf("%s: %s", line, &out)
		}
	}
}

// exampleLine is a line of a code block that calls the program.
var exampleLine = regexp.MustCompile(`(?m)^(?:    )?(?:[$#] )?(?:sudo )?((?:\./bin/)?warren [a-z-].*)$`)

// shellWords splits a line as a shell would, as far as our examples go: quotes,
// comments, and an end at the first |, > or ;.
func shellWords(line string) ([]string, error) {
	var words []string
	var b strings.Builder
	in, quote := false, rune(0)
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			b.WriteRune(r)
		case r == '\'' || r == '"':
			quote, in = r, true
		case r == ' ' || r == '|' || r == '>' || r == ';' || r == '#' && !in:
			if in {
				words = append(words, b.String())
				b.Reset()
				in = false
			}
			if r != ' ' {
				return words, nil
			}
		default:
			b.WriteRune(r)
			in = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if in {
		words = append(words, b.String())
	}
	return words, nil
}
