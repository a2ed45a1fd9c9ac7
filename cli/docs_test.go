package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"warren/api"
	"warren/filter"
)

// TestGenerated holds the generated pages of docs against what they are
// generated from.
func TestGenerated(t *testing.T) {
	for page, command := range map[string]string{"events.md": "fields -o markdown", "cli.md": "help -o markdown", "falco.md": "fields -o falco"} {
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

// judge is an agent that only judges filters.
type judge struct{}

func (judge) filter(expr string) api.Lines {
	return func(yield func([]byte, error) bool) {
		if _, err := filter.Compile(expr); err != nil {
			yield(nil, err)
		}
	}
}
func (j judge) Events(_ context.Context, q api.Question) api.Lines      { return j.filter(q.Filter) }
func (j judge) Recent(_ context.Context, q api.Question) api.Lines      { return j.filter(q.Filter) }
func (j judge) Processes(_ context.Context, q api.Question) api.Lines   { return j.filter(q.Filter) }
func (j judge) Connections(_ context.Context, q api.Question) api.Lines { return j.filter(q.Filter) }
func (j judge) FollowConnections(_ context.Context, q api.Question) api.Lines {
	return j.filter(q.Filter)
}
func (j judge) Flows(_ context.Context, q api.Question) api.Lines       { return j.filter(q.Filter) }
func (j judge) FollowFlows(_ context.Context, q api.Question) api.Lines { return j.filter(q.Filter) }
func (j judge) CountEvents(_ context.Context, q api.CountQuestion) api.Lines {
	return j.filter(q.Filter)
}
func (judge) WatchFile(context.Context, api.FileQuestion) api.Lines {
	return func(yield func([]byte, error) bool) { yield(nil, errStop) }
}
func (judge) Map(context.Context, api.MapQuestion) (api.Map, error) { return api.Map{}, errStop }
func (judge) Policy(context.Context, api.PolicyQuestion) (api.PolicyReport, error) {
	return api.PolicyReport{}, errStop
}
func (judge) PolicyStatus(context.Context, api.PolicyStatusQuestion) (api.PolicyStatus, error) {
	return api.PolicyStatus{}, errStop
}
func (judge) Who(context.Context, api.WhoQuestion) (api.Who, error) { return api.Who{}, errStop }
func (judge) History(context.Context) ([]byte, error)               { return nil, errStop }
func (judge) ExportHistory(context.Context, api.Question) (io.ReadCloser, error) {
	return nil, errStop
}
func (judge) TestAlert(context.Context, string) (api.AlertTested, error) {
	return api.AlertTested{}, errStop
}
func (judge) Rules(context.Context) (api.RuleFiles, error) { return api.RuleFiles{}, errStop }
func (judge) PruneHistory(context.Context, time.Time) (api.Pruned, error) {
	return api.Pruned{}, errStop
}
func (judge) Process(context.Context, string, ...string) ([]byte, error) { return nil, errStop }
func (judge) Status(context.Context, ...string) ([]byte, error)          { return nil, errStop }

var errStop = errors.New("the line was understood")

// TestExamples runs every example of help, of the README and of docs: each line
// that begins with warren, or with a prompt and warren. Commands and flags have
// to exist, filters to compile; where the page shows a complaint, exactly that
// one is made.
func TestExamples(t *testing.T) {
	type example struct{ line, complaint string }
	var examples []example
	for _, kubectl := range []bool{false, true} {
		g := globals{kubectl: kubectl}
		commands, _ := commandTable(&g)
		for _, c := range commands {
			for _, e := range c.examplesOf(program(kubectl)) {
				examples = append(examples, example{line: e.line})
			}
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
		for _, at := range exampleLine.FindAllSubmatchIndex(text, -1) {
			e := example{line: string(text[at[2]:at[3]])}
			if strings.Contains(e.line, "[FLAGS]") {
				continue // that is how help shows what may follow
			}
			if m := complaint.FindSubmatch(text[at[1]:]); m != nil {
				for line := range strings.Lines(string(m[0])) {
					e.complaint += strings.TrimPrefix(line, "    ")
				}
				e.complaint = strings.Trim(e.complaint, "\n")
			}
			examples = append(examples, e)
		}
	}
	if len(examples) < 30 {
		t.Fatalf("only %d examples were found: does the pattern still fit?", len(examples))
	}
	for _, e := range examples {
		words, err := shellWords(e.line)
		if err != nil {
			t.Errorf("%s: %v", e.line, err)
			continue
		}
		var out bytes.Buffer
		env := testEnv(&out, judge{})
		env.RunAgent = func(context.Context, AgentOptions) error { return errStop }
		env.RunHub = func(context.Context, HubOptions) error { return errStop }
		env.RemoveNetwork = func(context.Context, RemovalOptions, func(string)) error { return errStop }
		if env.Kubectl = words[0] == "kubectl"; env.Kubectl {
			env.Cluster = func(ClusterOptions) (Agent, string, error) { return judge{}, "default", nil }
			words = words[1:]
		}
		code := Main(t.Context(), env, words[1:])
		if said := strings.Trim(out.String(), "\n"); (code == exitUsage) != (e.complaint != "") || code == exitUsage && said != e.complaint {
			t.Errorf("%s: exit code %d\n%s\nwant\n%s", e.line, code, said, e.complaint)
		}
	}
}

// complaint is what the program says of a mistake, shown below its example.
var complaint = regexp.MustCompile(`^\n\n    warren: .*(\n    .*)*`)

// exampleLine is a line of a code block that calls the program.
var exampleLine = regexp.MustCompile(`(?m)^(?:    )?(?:[$#] )?(?:sudo )?((?:\./bin/|kubectl )?warren [a-z-].*)$`)

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
