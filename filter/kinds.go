package filter

import (
	"slices"

	"warren/event"
)

// reach says for which kinds of events a part of an expression can hold, and
// for which it can fail to hold: what not needs to know. Both are supersets of
// the truth.
type reach struct {
	mayHold, mayFail event.KindSet
}

func (r reach) not() reach { return reach{r.mayFail, r.mayHold} }

// allOf is the reach of and: it holds where all can, and fails where one can.
func allOf(ns []node) reach {
	r := reach{mayHold: event.AllKinds}
	for _, n := range ns {
		r.mayHold &= n.mayHold
		r.mayFail |= n.mayFail
	}
	return r
}

// anyOf is the reach of or.
func anyOf(ns []node) reach {
	r := reach{mayFail: event.AllKinds}
	for _, n := range ns {
		r.mayHold |= n.mayHold
		r.mayFail &= n.mayFail
	}
	return r
}

// reachOf is the reach of a comparison of a field that events of kinds can
// have. For other kinds it does not hold; for these it can fail, because the
// value can be missing.
func reachOf(kinds event.KindSet) reach { return reach{kinds, event.AllKinds} }

// reachOfText narrows the reach of a comparison of field f with constants: where
// the kind decides the text, match is asked now.
func reachOfText(f *event.Field, match func(string) bool) reach {
	r := reachOf(f.Kinds())
	switch f.Name {
	case "evt.kind":
		// Every event has one, so that the comparison cannot fail for others.
		r = reach{}
		for _, k := range event.AllKinds.List() {
			if match(k.String()) {
				r.mayHold |= event.Kinds(k)
			} else {
				r.mayFail |= event.Kinds(k)
			}
		}
	case "syscall.type":
		for _, k := range r.mayHold.List() {
			if !matchAny(k.Calls(), match) {
				r.mayHold &^= event.Kinds(k)
			}
		}
	case "evt.category":
		for _, k := range r.mayHold.List() {
			if !slices.ContainsFunc(k.Types(), func(t string) bool { return matchAny(event.Categories(t), match) }) {
				r.mayHold &^= event.Kinds(k)
			}
		}
	case "evt.type":
		for _, k := range r.mayHold.List() {
			if !matchAny(k.Types(), match) {
				r.mayHold &^= event.Kinds(k)
			}
		}
	}
	return r
}

func matchAny(ss []string, match func(string) bool) bool {
	for _, s := range ss {
		if match(s) {
			return true
		}
	}
	return false
}
