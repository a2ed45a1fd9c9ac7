// Package retry is what the levels of tests have in common about tests that
// failed: which are run once more, alone, and what is said of them then.
//
// A second try is for chance: a machine that was busy, a state that was waited
// for too short. Whoever runs tests decides what cannot be chance (a package that
// ended before all its tests had run, a data race), and asks Limit about the rest.
package retry

import (
	"cmp"
	"fmt"
	"slices"
)

// Max is how many tests may fail and be tried again: where more do, that is no
// chance.
const Max = 5

// A Test is one at the top level of a package.
type Test struct {
	On      string // what it ran on, if that is another kernel than this machine's: 6.1
	Package string // as go list has it: warren/bpf
	Name    string
}

// String names the test as reports do: "6.1: warren/bpf TestX".
func (t Test) String() string {
	s := t.Package + " " + t.Name
	if t.On != "" {
		s = t.On + ": " + s
	}
	return s
}

// Pattern is what -run takes to run this test alone, with all that is below it.
func (t Test) Pattern() string { return "^" + t.Name + "$" }

// Flaky is what is said, when all is done, of a test that passed the second time.
func (t Test) Flaky() string { return fmt.Sprintf("flaky: %s failed once, passed alone", t) }

// Twice is what is said of one that did not.
func (t Test) Twice() string { return fmt.Sprintf("%s failed twice", t) }

// Limit sorts tests that failed; its error says that they are too many to be run
// once more.
func Limit(failed []Test) error {
	if len(failed) > Max {
		return fmt.Errorf("%d tests failed, more than %d: none is tried again", len(failed), Max)
	}
	slices.SortFunc(failed, func(a, b Test) int {
		return cmp.Or(cmp.Compare(a.On, b.On), cmp.Compare(a.Package, b.Package), cmp.Compare(a.Name, b.Name))
	})
	return nil
}
