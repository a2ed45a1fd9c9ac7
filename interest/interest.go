// Package interest says what consumers want of the stream, in words that the
// kernel can decide: kinds and types of events, paths, users, ports.
//
// An [Interest] is one consumer's, made of its filter; a [Set] is the union of
// those that live. Both are conservative: what a consumer's filter accepts,
// its interest lets through. What the kernel cannot decide is not said here,
// and left to the filter.
//
// The package is pure. Its values are not changed once made and can be used by
// any number of goroutines.
package interest

import (
	"net/netip"
	"slices"

	"warren/event"
)

// An Interest is what one consumer wants: events for which one of the terms
// holds. Without terms it wants nothing.
type Interest struct {
	Terms []Term
}

// Of returns the interest in every event of some kinds.
func Of(kinds event.KindSet) Interest {
	if kinds == 0 {
		return Interest{}
	}
	return Interest{Terms: []Term{{Kinds: kinds}}}
}

// Kinds returns the kinds of the events wanted.
func (i Interest) Kinds() event.KindSet { return kindsOf(i.Terms) }

// Among returns the part of the interest that is about some kinds.
func (i Interest) Among(kinds event.KindSet) Interest { return Interest{Terms: among(i.Terms, kinds)} }

// Match reports whether the interest lets e through.
func (i Interest) Match(e *event.Event) bool { return matches(i.Terms, e) }

// A Term holds for an event when all of its dimensions do. A dimension that is
// zero does not restrict; one that lists several holds when one of them does.
type Term struct {
	// Kinds are the kinds of events; a term without any holds for nothing.
	Kinds event.KindSet
	// Types are values of evt.type, sorted: those of Kinds that are wanted.
	Types []string
	// Outcome says whether calls must have succeeded or failed.
	Outcome Outcome
	// Open is what a file was opened for.
	Open OpenMask
	// Paths are compared with each name that an event of [PathKinds] has: one of
	// the names must be one of the paths.
	Paths []Path
	// RawDots says that the path which the process gave must have two dots in a
	// row. Of events of [OpenKinds].
	RawDots bool
	// Inodes are files, whatever their names. Of events of [PathKinds].
	Inodes []Inode
	// UIDs are effective user ids of the process.
	UIDs []uint32
	// Exes are compared with the path of what the process executes, and Names with
	// what it was called when that was told.
	Exes, Names []Path
	// NotExes and NotNames are none of which these may be. What is not known is none
	// of them. They are compared from the beginning: none is a [Suffix]. Of events that
	// are asked for by the file they say nothing.
	NotExes, NotNames []Path
	// Workload says which containers and pods the process must be of.
	Workload Workload
	// Ports are of either end, and Nets hold the address of either end. Of events
	// of [SocketKinds].
	Ports []uint16
	Nets  []netip.Prefix
	// Counted is not zero where events are only counted, and by what: then those
	// that are equal in it need not be told one by one. It does not restrict.
	Counted Counted
}

// Counted is what events are counted by, beside what is always told apart: the
// process and what it executes, the type of the event, its result and what a file
// was opened for.
type Counted uint8

// What events can be counted by.
const (
	CountedByProcess   Counted = 1 << iota // and by no more
	CountedByDirectory                     // in which the file lies
)

// CountedKinds are the kinds of events that the kernel can count.
const CountedKinds event.KindSet = 1<<event.KindOpen | 1<<event.KindSyscall

// A Workload picks containers and pods. It looks at nothing of an event but the
// container of its process; a *filter.Program that does the same is one.
type Workload interface {
	// String is the condition as it would be written.
	String() string
	Match(e *event.Event) bool
}

// An Outcome is how a call ended.
type Outcome uint8

// The outcomes.
const (
	AnyOutcome Outcome = iota
	Succeeded
	Failed
)

// An OpenMask is what a file is opened for.
type OpenMask uint8

// What a file can be opened for. Create is a file that came to be by it.
const (
	OpenRead OpenMask = 1 << iota
	OpenWrite
	OpenExec
	OpenCreate
)

// An Inode is a file by its number.
type Inode struct {
	Dev uint64 // as fd.dev has it; 0: any
	Ino uint64 // 0: any
}

// A Path is a condition on a path.
type Path struct {
	Op   PathOp
	Text string
}

// A PathOp says how a name is compared with a Path's text.
type PathOp uint8

// The comparisons.
const (
	Exact  PathOp = iota + 1
	Prefix        // of the text: /etc/pa is one of /etc/passwd
	Suffix        // of the text
	Under         // the directory, which has no slash at its end, and all below it
)

// Match reports whether a name satisfies the condition.
func (p Path) Match(name string) bool {
	n, t := len(name), len(p.Text)
	switch p.Op {
	case Exact:
		return name == p.Text
	case Prefix:
		return n >= t && name[:t] == p.Text
	case Suffix:
		return n >= t && name[n-t:] == p.Text
	case Under:
		return n >= t && name[:t] == p.Text && (n == t || name[t] == '/')
	}
	return false
}

// covers reports whether p holds wherever q does.
func (p Path) covers(q Path) bool {
	switch p.Op {
	case Exact:
		return p == q
	case Prefix:
		return q.Op != Suffix && p.Match(q.Text)
	case Suffix:
		return (q.Op == Exact || q.Op == Suffix) && p.Match(q.Text)
	case Under:
		switch q.Op {
		case Exact, Under:
			return p.Match(q.Text)
		case Prefix:
			return len(q.Text) > len(p.Text) && p.Match(q.Text)
		}
	}
	return false
}

// anything returns whether a list of paths restricts nothing that has a name.
func anything(ps []Path) bool {
	return slices.ContainsFunc(ps, func(p Path) bool { return p.Text == "" && p.Op != Exact })
}

// restrictions counts the dimensions, but for kinds and types, that restrict.
func (t *Term) restrictions() int {
	n := 0
	for _, d := range dims {
		if d.restricts(t) {
			n++
		}
	}
	return n
}

// wants reports whether events of a kind and type can satisfy t.
func (t *Term) wants(k event.Kind, typ string) bool {
	if !t.Kinds.Has(k) {
		return false
	}
	if t.Types == nil {
		return true
	}
	_, ok := slices.BinarySearch(t.Types, typ)
	return ok
}

func kindsOf(ts []Term) event.KindSet {
	var ks event.KindSet
	for i := range ts {
		ks |= ts[i].Kinds
	}
	return ks
}

// among returns the terms that are about some kinds, without other kinds.
func among(ts []Term, kinds event.KindSet) []Term {
	var out []Term
	for _, t := range ts {
		if t.Kinds &= kinds; t.Kinds == 0 {
			continue
		}
		if t = t.normal(); t.Kinds != 0 {
			out = append(out, t)
		}
	}
	return out
}

func matches(ts []Term, e *event.Event) bool {
	for i := range ts {
		if ts[i].Match(e) {
			return true
		}
	}
	return false
}
