package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// modulePath is what import paths begin with.
const modulePath = "warren/"

// A testPackage is one whose tests run in the machines.
type testPackage struct {
	dir    string // below the tree's root: sensor/process
	tests  int    // how many
	binary string
}

var testName = regexp.MustCompile(`(?m)^func Test(BPF|Root)`)

// packagesWithTests finds the packages that have tests for the machines, those
// with the most first: all of them or, of the patterns, those that have. Those
// below test have programs of their own, which want a compiler.
func packagesWithTests(ctx context.Context, patterns []string) ([]testPackage, error) {
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"list", "-f", "{{.Dir}}"}, patterns)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	var found []testPackage
	for line := range strings.Lines(string(out)) {
		dir, err := filepath.Rel(root, strings.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(dir, "test/") {
			continue
		}
		tests, err := countTests(dir)
		if err != nil {
			return nil, err
		}
		if tests > 0 {
			found = append(found, testPackage{dir: dir, tests: tests})
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no package of %s has a test named TestBPF or TestRoot", strings.Join(patterns, " "))
	}
	slices.SortStableFunc(found, func(a, b testPackage) int { return cmp.Compare(b.tests, a.tests) })
	return found, nil
}

// countTests says how many tests of a folder are made for the machines.
func countTests(dir string) (tests int, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		tests += len(testName.FindAll(source, -1))
	}
	return tests, nil
}

// compile builds the packages' tests: static, for the machines have no C
// library.
func compile(ctx context.Context, packages []testPackage, dir string) error {
	for i := range packages {
		p := &packages[i]
		p.binary = filepath.Join(dir, strings.ReplaceAll(p.dir, "/", "-")+".test")
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", p.binary, "./"+p.dir)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("compile the tests of %s: %w", p.dir, err)
		}
	}
	return nil
}
