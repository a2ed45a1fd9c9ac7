package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"warren/alert"
	"warren/filter"
	"warren/rule"
)

// ruleCheckCommand says what is wrong with rule files.
func ruleCheckCommand() *command {
	var output string
	return &command{
		name:    "rule check",
		args:    "FILE...",
		summary: "Tell what is wrong with rule files, and what their rules hardly mean",
		about: "Falco's rule files are read as they are, in the order in which they are given: what a later one says changes what an earlier one has said. Of a directory it is all its .yaml and .yml, by name; - is standard input. " +
			"What is found has Falco's code where Falco says it too; beyond that, rules that can never match, rules whose condition says all that another's does, and what costs more than it seems. " +
			"The exit code is 1 if there is an error. No agent is asked.",
		examples: []example{
			{"warren rule check falco_rules.yaml local_rules.yaml", "Before they are used"},
			{"warren rule check /etc/warren/rules.d", "A directory of them"},
			{"warren rule check rules.yaml -o json", "For a script"},
		},
		flags: []*option{outputFlag(&output, "", "text", "json")},
		run: func(_ context.Context, env *Env, args []string) error {
			if len(args) == 0 {
				return usagef("which rule files?")
			}
			files, err := readRules(env, args)
			if err != nil {
				return err
			}
			set, findings := rule.Load(files, rule.Config{})
			if output == "json" {
				err = writeFindings(env, files, set, findings)
			} else {
				err = printFindings(env, files, set, findings)
			}
			if err == nil && set == nil {
				return errRules
			}
			return err
		},
	}
}

// errRules ends a command whose rule files cannot be used, which it has said.
var errRules = errors.New("there are errors in the rules")

// readRules reads rule files, and those of directories.
func readRules(env *Env, names []string) (files []rule.File, err error) {
	for _, name := range names {
		if name == "-" {
			text, err := readPolicies(env, name)
			if err != nil {
				return nil, err
			}
			files = append(files, rule.File{Name: "standard input", Text: text})
			continue
		}
		list, err := alert.Files([]string{name}, env.Dir)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			return nil, fmt.Errorf("%s has no .yaml and no .yml", name)
		}
		files = append(files, list...)
	}
	return files, nil
}

// printFindings says it to people, as compilers do.
func printFindings(env *Env, files []rule.File, set *rule.Set, findings []rule.Finding) error {
	s := env.screen(false)
	out := &lazyWriter{out: env.Stdout}
	var wrong, warned int
	for _, f := range findings {
		word, color := "warning", yellow
		if f.IsError() {
			word, color = "error", red
			wrong++
		} else {
			warned++
		}
		about := string(f.Code)
		if f.Name != "" {
			about = f.Item + " " + f.Name + ", " + about
		}
		msg := f.Msg
		if f.Hint != "" {
			msg += "; " + f.Hint
		}
		fmt.Fprintf(out, "%s: %s %s (%s)\n", s.safe(f.Place.String()), s.paint(color, word+":"), s.safe(msg), s.safe(about))
		for line := range strings.Lines(f.Excerpt) {
			fmt.Fprintf(out, "    %s\n", s.safe(strings.TrimRight(line, "\n")))
		}
	}
	verdict := fmt.Sprintf("%s in %s", amount(wrong, "error"), amount(len(files), "file"))
	if set != nil {
		verdict = fmt.Sprintf("%s in %s, %d of them enabled", amount(len(set.Rules), "rule"), amount(len(files), "file"), enabledOf(set))
	}
	if warned > 0 {
		verdict += ", " + amount(warned, "warning")
	}
	fmt.Fprintln(out, verdict)
	return out.Flush()
}

func enabledOf(set *rule.Set) (n int) {
	for _, r := range set.Rules {
		if r.Enabled {
			n++
		}
	}
	return n
}

// A ruleFinding is what a script reads.
type ruleFinding struct {
	Code    rule.Code `json:"code"`
	Text    string    `json:"codedesc"`
	Error   bool      `json:"error"`
	File    string    `json:"file"`
	Line    int       `json:"line,omitempty"`
	Column  int       `json:"column,omitempty"`
	Item    string    `json:"item_type,omitempty"`
	Name    string    `json:"item_name,omitempty"`
	Msg     string    `json:"message"`
	Hint    string    `json:"hint,omitempty"`
	Excerpt string    `json:"snippet,omitempty"`
}

func writeFindings(env *Env, files []rule.File, set *rule.Set, findings []rule.Finding) error {
	list := make([]ruleFinding, 0, len(findings))
	for _, f := range findings {
		list = append(list, ruleFinding{f.Code, f.Code.Text(), f.IsError(), f.Place.File, f.Place.Line, f.Place.Column, f.Item, f.Name, f.Msg, f.Hint, f.Excerpt})
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Name
	}
	rules := 0
	if set != nil {
		rules = len(set.Rules)
	}
	line, err := json.Marshal(map[string]any{"successful": set != nil, "files": names, "rules": rules, "findings": list})
	if err != nil {
		return fmt.Errorf("write what was found: %w", err)
	}
	return writeObject(env, line)
}

func noRule(name string, set *rule.Set) error {
	names := make([]string, len(set.Rules))
	for i, r := range set.Rules {
		names[i] = r.Name
	}
	if near := filter.Nearest(name, names); near != "" {
		return fmt.Errorf("no rule is called %q: did you mean %q?", name, near)
	}
	return fmt.Errorf("no rule is called %q", name)
}

// reactionsOf says what a rule wants done when it alerts.
func reactionsOf(r *rule.Rule) (list []string) {
	for i := range r.Reactions {
		list = append(list, r.Reactions[i].String())
	}
	return list
}

// amount says how many there are of something.
func amount(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}
