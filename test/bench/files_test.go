package main

import (
	"fmt"
	"strings"
	"testing"

	"warren/filter"
)

// TestFilesFilters holds that what the benchmarks ask for can be asked for, and
// that as many rules are as are told of.
func TestFilesFilters(t *testing.T) {
	for i := range manyRules {
		if _, err := filter.Compile(madeCondition(i)); err != nil {
			t.Errorf("%s: %v", madeCondition(i), err)
		}
	}
	if _, err := filter.Compile(hundredPaths("/tmp/seen")); err != nil {
		t.Error(err)
	}
	t.Setenv("WARREN_TEST_DATA", "")
	filters, falcos, err := ruleFilters()
	if err != nil || falcos != 0 {
		t.Fatalf("%d rules of Falco's, %v", falcos, err)
	}
	rules := 0
	for _, f := range filters {
		if _, err := filter.Compile(f); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		rules += strings.Count(f, "\n")
	}
	if rules != manyRules || len(filters) != manyRules/rulesInStream {
		t.Errorf("%d rules in %d streams", rules, len(filters))
	}
}

// TestFalcoConditions holds that macros and lists are in their place, and that a
// rule of which something is unknown is left out.
func TestFalcoConditions(t *testing.T) {
	got, err := falcoConditions([]byte(`
- list: shells
  items: [bash, sh]
- macro: spawned
  condition: evt.type = execve
- rule: good
  condition: spawned and proc.name in (shells)
- rule: unknown
  condition: spawned and no.field = 1
- rule: unfinished
  condition: spawned and (
`))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"evt.type = execve and proc.name in (bash, sh)"}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestFloodCheck holds that a flood's events are counted by what they are.
func TestFloodCheck(t *testing.T) {
	c := &floodCheck{path: "/a/file"}
	for _, line := range []string{
		`{"evt.kind":"open","fd.name":"/a/file"}`,
		`{"evt.kind":"open","fd.name":"/a/file2"}`,
		`{"evt.kind":"lost","lost.count":5,"lost.kind":"file.open","lost.lane":"bulk"}`,
		`{"evt.kind":"lost","lost.count":7,"lost.kind":"open","lost.lane":"queue"}`,
		`{"evt.kind":"lost","lost.count":11,"lost.kind":"process.exec","lost.lane":"critical"}`,
		`{"evt.kind":"lost","lost.count":13,"lost.kind":"socket.tcp","lost.lane":"bulk"}`,
	} {
		c.event([]byte(line))
	}
	got := fmt.Sprint(c.delivered.Load(), c.lost.Load())
	if want := "1 12"; got != want {
		t.Errorf("delivered and lost are %s, want %s", got, want)
	}
	r := floodResult{watched: 20, delivered: c.delivered.Load(), lost: c.lost.Load()}
	if r.left() != 7 {
		t.Errorf("%d are left, want 7", r.left())
	}
}

// TestFloodBad holds that what is missing and what is told to be lost are not added
// up where they are the same.
func TestFloodBad(t *testing.T) {
	for name, tt := range map[string]struct {
		storm stormResult
		want  int
	}{
		"nothing":                     {stormResult{}, 0},
		"lost by the ring":            {stormResult{missing: 24, critical: 24}, 24},
		"not read":                    {stormResult{missing: 7, unread: 7}, 0},
		"both":                        {stormResult{missing: 10, unread: 7, critical: 3}, 3},
		"wrong as well":               {stormResult{missing: 10, unread: 7, critical: 3, wrong: 2}, 5},
		"of other processes":          {stormResult{critical: 3}, 3},
		"missing, and nobody says so": {stormResult{missing: 4}, 4},
	} {
		if got := (floodResult{storm: tt.storm}).bad(); got != tt.want {
			t.Errorf("%s: %d are bad, want %d", name, got, tt.want)
		}
	}
}
