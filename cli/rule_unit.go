package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"warren/alert"
	"warren/rule"
)

// ruleTestCommand puts tests to rules.
func ruleTestCommand() *command {
	var run string
	var verbose bool
	return &command{
		name:    "rule test",
		args:    "FILE...",
		summary: "Test rules: events in, alerts expected",
		about: "A test is some events and the alerts that all rules together make of them, in their order: one that is missing, and one too many, is a failure. Tests stand in YAML files, or in txtar archives, and name the rule files that they are about, or have rules of their own; docs/rules.md shows both. " +
			"Of a directory it is all that ends in .txtar, _test.yaml or _test.yml, and what lies below. Events are a few fields, or a line of \"warren events -o json\". No agent is asked. The exit code is 1 if a test fails.",
		examples: []example{
			{"warren rule test rules.d/tests", "All tests of a directory"},
			{"warren rule test shell.txtar --run 'reads shadow' -v", "Some tests of a file, each by its name"},
		},
		flags: []*option{
			{long: "run", meta: "TEXT", text: &run, doc: "only tests whose name contains TEXT"},
			{long: "verbose", short: "v", yes: &verbose, doc: "show tests that pass, too"},
		},
		run: func(_ context.Context, env *Env, args []string) error {
			if len(args) == 0 {
				return usagef("which tests?")
			}
			files, err := suiteFiles(env, args)
			if err != nil {
				return err
			}
			v := &unitView{env: env, screen: env.screen(false), run: run, verbose: verbose}
			v.out = &lazyWriter{out: env.Stdout}
			failed := 0
			for _, f := range files {
				ok, err := v.file(f)
				if err != nil {
					return err
				}
				if !ok {
					failed++
				}
			}
			if err := v.out.Flush(); err != nil {
				return err
			}
			switch {
			case failed > 0:
				return fmt.Errorf("%d of %s failed", failed, amount(len(files), "file"))
			case v.tests == 0:
				return fmt.Errorf("no test has %q in its name", run)
			}
			return nil
		},
	}
}

// suiteFiles returns the files of tests: those that are named, and of directories
// those whose names say so.
func suiteFiles(env *Env, names []string) (files []string, err error) {
	for _, name := range names {
		at := name
		if !filepath.IsAbs(name) {
			at = filepath.Join(env.Dir, name)
		}
		info, err := os.Stat(at)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			files = append(files, name)
			continue
		}
		n := len(files)
		err = filepath.WalkDir(at, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
				return err
			}
			if base := d.Name(); strings.HasSuffix(base, ".txtar") || strings.HasSuffix(base, "_test.yaml") || strings.HasSuffix(base, "_test.yml") {
				files = append(files, filepath.Join(name, strings.TrimPrefix(path, at)))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(files) == n {
			return nil, fmt.Errorf("%s has no .txtar, no _test.yaml and no _test.yml", name)
		}
	}
	return slices.Compact(files), nil
}

// A unitView tells what becomes of tests.
type unitView struct {
	env     *Env
	screen  screen
	out     *lazyWriter
	run     string
	verbose bool
	tests   int
}

// file runs the tests of one file. It reports whether all pass; the error is that
// nothing can be written.
func (v *unitView) file(name string) (bool, error) {
	s := v.screen
	results, said, err := v.results(name)
	if err != nil {
		if said != nil {
			if err := v.out.Flush(); err != nil {
				return false, err
			}
			if err := printFindings(v.env, said.files, nil, said.findings); err != nil {
				return false, err
			}
		} else {
			fmt.Fprintln(v.out, s.safe(err.Error()))
		}
		fmt.Fprintf(v.out, "%s  %s\n", s.paint(red, "FAIL"), s.safe(name))
		return false, nil
	}
	n, failed := 0, 0
	for i := range results {
		r := &results[i]
		title := cmp.Or(r.Test.Name, r.Test.Place.String())
		if !strings.Contains(title, v.run) {
			continue
		}
		n++
		if r.Passed() {
			if v.verbose {
				fmt.Fprintf(v.out, "--- ok: %s\n", s.safe(title))
			}
			continue
		}
		failed++
		fmt.Fprintf(v.out, "%s %s (%s)\n", s.paint(red, "--- FAIL:"), s.safe(title), s.safe(r.Test.Place.String()))
		for _, d := range r.Differences {
			v.difference(d)
		}
	}
	v.tests += n
	if failed > 0 {
		fmt.Fprintf(v.out, "%s  %s  %d of %s failed\n", s.paint(red, "FAIL"), s.safe(name), failed, amount(n, "test"))
		return false, nil
	}
	fmt.Fprintf(v.out, "%s    %s  %s\n", s.paint(green, "ok"), s.safe(name), amount(n, "test"))
	return true, nil
}

// difference shows an alert that was expected, one that came, or both.
func (v *unitView) difference(d rule.Difference) {
	s := v.screen
	text := func(rule, output string) string {
		if output != "" {
			rule += ": " + output
		}
		return s.safe(rule)
	}
	switch {
	case d.Got == nil:
		fmt.Fprintf(v.out, "    %s\n        expected at %s\n", s.paint(red, "- "+text(d.Want.Rule, d.Want.Output)), s.safe(d.Want.Place.String()))
	case d.Want == nil:
		fmt.Fprintf(v.out, "    %s\n        of the event at %s\n", s.paint(green, "+ "+text(d.Got.Rule, d.Got.Output)), s.safe(d.Got.Event.Place.String()))
	default:
		fmt.Fprintf(v.out, "      %s\n", text(d.Want.Rule, d.Want.Output))
	}
}

// badRules are findings about the rules of tests.
type badRules struct {
	files    []rule.File
	findings []rule.Finding
}

// results runs a file. Where its rules have errors these are said.
func (v *unitView) results(name string) ([]rule.Result, *badRules, error) {
	at := name
	if !filepath.IsAbs(name) {
		at = filepath.Join(v.env.Dir, name)
	}
	text, err := os.ReadFile(at)
	if err != nil {
		return nil, nil, err
	}
	suite, err := rule.ParseSuite(rule.File{Name: name, Text: text})
	if err != nil {
		return nil, nil, err
	}
	var files []rule.File
	for _, path := range suite.Paths {
		missing := ""
		path = os.Expand(path, func(name string) string {
			value := v.env.Getenv(name)
			if value == "" {
				missing = name
			}
			return value
		})
		if missing != "" {
			return nil, nil, fmt.Errorf("%s: the variable %s is not set", name, missing)
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(name), path)
		}
		list, err := alert.Files([]string{path}, v.env.Dir)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		files = append(files, list...)
	}
	files = append(files, suite.Rules...)
	if len(files) == 0 {
		return nil, nil, fmt.Errorf("%s: it names no rules", name)
	}
	set, findings := rule.Load(files, rule.Config{})
	if set == nil {
		findings = slices.DeleteFunc(findings, func(f rule.Finding) bool { return !f.IsError() })
		return nil, &badRules{files, findings}, errRules
	}
	results, err := suite.Run(set)
	if e := (*rule.SuiteError)(nil); errors.As(err, &e) {
		return nil, nil, e
	}
	return results, nil, err
}
