package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/testkit"
)

func TestLine(t *testing.T) {
	line := []byte(`{"evt.kind":"exit","proc.pid":12,"proc.cmdline":"load child 7","exit.code":-1,"proc.ppid":"x"}` + "\n")
	for key, want := range map[string]string{
		"evt.kind": "exit", "proc.cmdline": "load child 7", "proc.pid": "", "absent": "",
	} {
		if got := string(text(line, key)); got != want {
			t.Errorf("text %s = %q, want %q", key, got, want)
		}
	}
	for key, want := range map[string]string{
		"proc.pid": "12 true", "exit.code": "-1 true", "proc.ppid": "0 false", "absent": "0 false",
	} {
		n, ok := number(line, key)
		if got := fmt.Sprint(n, ok); got != want {
			t.Errorf("number %s = %s, want %s", key, got, want)
		}
	}
}

// TestStormCheck holds the check against streams that are wrong in one place:
// what it lets pass, it would let pass in the storm.
func TestStormCheck(t *testing.T) {
	const good = `{"evt.kind":"fork","proc.ppid":9,"proc.cmdline":"load storm 1 1"}
{"evt.kind":"exec","proc.ppid":9,"proc.cmdline":"load child 252"}
{"evt.kind":"exit","proc.ppid":9,"proc.cmdline":"load child 252","exit.code":1}
{"evt.kind":"exit","proc.ppid":1,"proc.cmdline":"load storm 1 1","exit.code":0}
`
	for _, test := range []struct {
		name, lines string
		want        string // events, wrong, lost
	}{
		{"good", good, "1 1 1, 0 wrong, 0 lost"},
		{"wrong parent of a fork", strings.Replace(good, `fork","proc.ppid":9`, `fork","proc.ppid":8`, 1), "0 1 1, 1 wrong, 0 lost"},
		{"wrong parent", strings.Replace(good, `exec","proc.ppid":9`, `exec","proc.ppid":8`, 1), "1 0 1, 1 wrong, 0 lost"},
		{"no parent", strings.Replace(good, `exec","proc.ppid":9`, `exec"`, 1), "1 0 1, 1 wrong, 0 lost"},
		{"wrong arguments", strings.Replace(good, "child 252", "child x", 1), "1 0 1, 1 wrong, 0 lost"},
		{"wrong exit code", strings.Replace(good, `code":1`, `code":2`, 1), "1 1 0, 1 wrong, 0 lost"},
		{"no exit code", strings.Replace(good, `,"exit.code":1`, ``, 1), "1 1 0, 1 wrong, 0 lost"},
		{"twice", good + strings.SplitAfter(good, "\n")[1], "1 1 1, 1 wrong, 0 lost"},
		{"lost", good + `{"evt.kind":"lost","lost.count":5,"lost.kind":"process.fork","lost.lane":"critical"}` + "\n", "1 1 1, 0 wrong, 5 lost"},
		{"not read", good + `{"evt.kind":"lost","lost.count":7,"lost.kind":"exec,exit","lost.lane":"queue"}` + "\n", "1 1 1, 0 wrong, 7 lost"},
		{"not decoded", good + `{"evt.kind":"lost","lost.count":3,"lost.kind":"process.exec","lost.lane":"decode"}` + "\n", "1 1 1, 0 wrong, 3 lost"},
		{"opens lost", good + `{"evt.kind":"lost","lost.count":9,"lost.kind":"file.open","lost.lane":"bulk"}` + "\n", "1 1 1, 0 wrong, 0 lost"},
	} {
		t.Run(test.name, func(t *testing.T) {
			check := &stormCheck{parent: 9}
			for line := range strings.Lines(test.lines) {
				check.event([]byte(line))
			}
			got := fmt.Sprintf("%d %d %d, %d wrong, %d lost", check.forks, check.nExecs, check.nExits, check.wrong, check.lost)
			if got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestPromises(t *testing.T) {
	const page = "# Figures\n\nSome | pipes | here.\n\n| figure | promised |\n| --- | --- |\n| a: b | 1 |\n| c | 2 |\n\n" +
		"| other | table |\n| --- | --- |\n| d | e |\n\n| figure | promised |\n| --- | --- |\n| f | 3 |\n"
	for nth, want := range [][]string{1: {"a: b", "c"}, 2: {"f"}, 3: nil} {
		if d := cmp.Diff(want, promises(page, nth)); d != "" {
			t.Errorf("promises of table %d (-want +got):\n%s", nth, d)
		}
	}
}

// TestPromised holds that the page's tables are the lists of what is measured.
func TestPromised(t *testing.T) {
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	for table, list := range [][]part{ofMachine: parts, ofCluster: clusterParts, ofNetwork: networkParts, ofFiles: filesParts, ofHistory: historyParts, ofRules: rulesParts} {
		var measured []string
		for _, p := range list {
			measured = append(measured, p.figures...)
		}
		promised := promises(string(page), table)
		slices.Sort(measured)
		slices.Sort(promised)
		if d := cmp.Diff(measured, promised); d != "" {
			t.Errorf("table %d (-measured +promised):\n%s", table, d)
		}
	}
}

func TestParseMetrics(t *testing.T) {
	m := parseMetrics("# HELP a b c\n# TYPE a gauge\na 1\nb{resource=\"pods\"} 2.5e+06\nb{resource=\"jobs\"} 3\nbad\nworse x\n")
	want := metrics{"a": 1, `b{resource="pods"}`: 2.5e6, `b{resource="jobs"}`: 3}
	if d := cmp.Diff(want, m); d != "" {
		t.Errorf("metrics (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[string]float64{"pods": 2.5e6, "jobs": 3}, m.byResource("b")); d != "" {
		t.Errorf("by resource (-want +got):\n%s", d)
	}
}

func TestReport(t *testing.T) {
	var out bytes.Buffer
	if err := report(&out, []figure{{name: "a", ok: true}}, false); err != nil {
		t.Error(err)
	}
	if err := report(&out, []figure{{name: "a", ok: true}, {name: "b"}}, false); err == nil {
		t.Error("a figure that is not reached is no error")
	}
}

func TestCosts(t *testing.T) {
	c := make(costs)
	c.parse("goos: linux\nBenchmarkA/b_c \t 100\t 1235 ns/op\t 0.5 ns/event\t 960 B/op\t 5 allocs/op\n" +
		"BenchmarkA/b_c \t 100\t 1200 ns/op\t 0.7 ns/event\t 960 B/op\t 5 allocs/op\nPASS\n")
	want := costs{"BenchmarkA/b_c": {"ns/op": 1200, "ns/event": 0.5, "B/op": 960, "allocs/op": 5}}
	if d := cmp.Diff(want, c); d != "" {
		t.Errorf("costs (-want +got):\n%s", d)
	}
	if _, err := c.get("BenchmarkA", "ns/op"); err == nil {
		t.Error("a benchmark that did not run has a value")
	}
}

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   string
	}{
		{[]float64{3, 1, 2}, "2 (1 to 3)"},
		{[]float64{4, 1, 2, 3}, "2.5 (1 to 4)"},
	} {
		if got := spreadOf(test.values).String(); got != test.want {
			t.Errorf("spread of %v = %s, want %s", test.values, got, test.want)
		}
	}
}

// TestRootLoad runs the load and counts it by the kernel's own word.
func TestRootLoad(t *testing.T) {
	testkit.NeedRoot(t)
	b := &bench{load: filepath.Join(t.TempDir(), "load"), log: os.Stderr}
	t.Chdir("../..")
	if err := compileLoad(t.Context(), b.load); err != nil {
		t.Fatal(err)
	}
	kernel, err := newTruth()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := kernel.Close(); err != nil {
			t.Error(err)
		}
	}()
	before, err := kernel.read()
	if err != nil {
		t.Fatal(err)
	}
	run, err := b.startStorm(context.Background(), 10e9, 500)
	if err != nil {
		t.Fatal(err)
	}
	n, _, err := run.wait()
	if err != nil || n != 500 {
		t.Fatalf("the storm started %d processes: %v", n, err)
	}
	after, err := kernel.read()
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range truthNames {
		// The storm itself, and what else the machine does meanwhile.
		if got := after[i] - before[i]; got < 501 || got > 5000 {
			t.Errorf("%d of %s were counted, want 501 or a few more", got, name)
		}
	}
}
