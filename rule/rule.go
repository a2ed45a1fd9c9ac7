// Package rule reads rule files, Falco's as they are, and finds the rules that
// an event matches.
//
// [Load] is the way in: text of files in, a [Set] and what is to be said about
// the files out. A Set is immutable; whoever wants other rules loads another.
// Package rule reads no file itself and acts on nothing: matches are what comes
// out.
package rule

import (
	"fmt"
	"slices"
	"strings"

	"warren/event"
	"warren/filter"
)

// A Priority says how bad it is when a rule matches. Smaller is worse, as in
// syslog.
type Priority uint8

// The priorities, Falco's.
const (
	Emergency Priority = iota
	Alert
	Critical
	Error
	Warning
	Notice
	Informational
	Debug
)

var priorityNames = [...]string{"Emergency", "Alert", "Critical", "Error", "Warning", "Notice", "Informational", "Debug"}

// String returns the priority as Falco writes it in alerts.
func (p Priority) String() string { return priorityNames[p] }

// ParsePriority returns the priority of a name, in any case. Info stands for
// Informational.
func ParsePriority(name string) (Priority, bool) {
	if strings.EqualFold(name, "info") {
		return Informational, true
	}
	for i, n := range priorityNames {
		if strings.EqualFold(n, name) {
			return Priority(i), true
		}
	}
	return 0, false
}

// A Rule is a condition and what to say of an event that it holds for.
type Rule struct {
	Name     string
	Desc     string
	Output   string // as it is written; Format says it of an event
	Priority Priority
	Source   string
	Tags     []string // sorted, each once
	Enabled  bool
	// Condition has no names of macros and lists left, and has the exceptions in
	// it; Program is it compiled.
	Condition filter.Expr
	Program   *filter.Program
	Format    *Format
	// Reactions are what it wants done when it alerts, in this order.
	Reactions []Reaction
	// Place is where the rule was last defined.
	Place Place

	fields fields // that exceptions speak of
}

// A Place is somewhere in a rule file.
type Place struct {
	File         string
	Line, Column int // from 1; 0 where it is not known
}

// String returns the place as compilers write it.
func (p Place) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// A Set is all rules of some files. It is immutable.
type Set struct {
	// Rules are in the order in which they were first defined, those that are
	// not enabled among them.
	Rules []*Rule
}

// AtLeast returns the rules that are at least as urgent as p; nil stands for all.
func (s *Set) AtLeast(p *Priority) *Set {
	if p == nil {
		return s
	}
	return &Set{Rules: slices.DeleteFunc(slices.Clone(s.Rules), func(r *Rule) bool { return r.Priority > *p })}
}

// Rule returns the rule with a name.
func (s *Set) Rule(name string) (*Rule, bool) {
	for _, r := range s.Rules {
		if r.Name == name {
			return r, true
		}
	}
	return nil, false
}

// Kinds returns the kinds of events that an enabled rule can match.
func (s *Set) Kinds() (kinds event.KindSet) {
	for _, r := range s.Rules {
		if r.Enabled {
			kinds |= r.Kinds()
		}
	}
	return kinds
}
