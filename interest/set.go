package interest

import (
	"slices"

	"warren/event"
)

// A Holder is a consumer with its interest.
type Holder struct {
	Name     string
	Interest Interest
}

// A Set is the union of the interests that live, with who holds which. The zero
// value is empty.
type Set struct {
	holders []Holder
	terms   []Term
}

// Union returns the set of what the holders want.
func Union(holders ...Holder) Set {
	var s Set
	var all []Term
	for _, h := range holders {
		if h.Interest = h.Interest.Among(event.AllKinds); len(h.Interest.Terms) > 0 {
			s.holders = append(s.holders, h)
			all = append(all, h.Interest.Terms...)
		}
	}
	s.terms = Merge(all)
	return s
}

// All returns the set of one nameless holder who wants all events of some kinds.
func All(kinds event.KindSet) Set { return Union(Holder{Interest: Of(kinds)}) }

// Kinds returns the kinds that somebody wants.
func (s Set) Kinds() event.KindSet { return kindsOf(s.terms) }

// Types returns the types of a kind that somebody wants, in the order of
// [event.Kind.Types].
func (s Set) Types(k event.Kind) []string {
	var out []string
	for _, typ := range k.Types() {
		if s.Wants(k, typ) {
			out = append(out, typ)
		}
	}
	return out
}

// Wants reports whether somebody may want an event of a kind and type.
func (s Set) Wants(k event.Kind, typ string) bool {
	return slices.ContainsFunc(s.terms, func(t Term) bool { return t.wants(k, typ) })
}

// Terms returns what is wanted, merged: no term covers another. The slice is
// shared: do not change it.
func (s Set) Terms() []Term { return s.terms }

// Holders returns who holds an interest. The slice is shared: do not change it.
func (s Set) Holders() []Holder { return s.holders }

// HoldersOf returns the names of those who may want events of a kind and type;
// an empty type stands for all of the kind.
func (s Set) HoldersOf(k event.Kind, typ string) []string {
	var names []string
	for _, h := range s.holders {
		if slices.ContainsFunc(h.Interest.Terms, func(t Term) bool { return t.Kinds.Has(k) && (typ == "" || t.wants(k, typ)) }) {
			names = append(names, h.Name)
		}
	}
	return names
}

// Among returns the part of the set that is about some kinds.
func (s Set) Among(kinds event.KindSet) Set {
	var holders []Holder
	for _, h := range s.holders {
		h.Interest = h.Interest.Among(kinds)
		holders = append(holders, h)
	}
	return Union(holders...)
}

// With returns the union of two sets.
func (s Set) With(o Set) Set { return Union(slices.Concat(s.holders, o.holders)...) }

// Covers reports whether every event that o wants is wanted by s. It may not
// know, and then says false.
func (s Set) Covers(o Set) bool {
	return !slices.ContainsFunc(o.terms, func(u Term) bool {
		return !slices.ContainsFunc(s.terms, func(t Term) bool { return t.covers(&u) })
	})
}

// Equal reports whether two sets are known to want the same.
func (s Set) Equal(o Set) bool { return s.Covers(o) && o.Covers(s) }

// Match reports whether somebody may want e.
func (s Set) Match(e *event.Event) bool { return matches(s.terms, e) }

// Merge returns terms that hold where one of ts does, in a stable order:
// without those that others cover, and those that differ in one dimension
// alone made one.
func Merge(ts []Term) []Term {
	out := make([]Term, 0, len(ts))
	for _, t := range ts {
		if t = t.normal(); t.Kinds != 0 {
			out = append(out, t)
		}
	}
	if len(out) < 2 {
		return out
	}
	out = uncovered(out)
	for i := len(dims) - 1; i >= 0; i-- { // paths first: there are most of them
		d := dims[i]
		if d.name == "workload" || d.name == "outcome" {
			continue // not every union can be said
		}
		out = joined(out, d.name, d.unite)
	}
	out = joined(out, "", func(a, b *Term) {
		if a.Types != nil || b.Types != nil {
			a.Types = slices.Concat(a.allTypes(), b.allTypes())
		}
		a.Kinds |= b.Kinds
		*a = a.normal()
	})
	return uncovered(out)
}

// uncovered leaves out terms that others cover.
func uncovered(ts []Term) []Term {
	if len(ts) > maxCompared {
		return ts
	}
	var out []Term
	for i := range ts {
		t := &ts[i]
		covered := false
		for j := range ts {
			if j != i && !covered && ts[j].covers(t) {
				covered = j < i || !t.covers(&ts[j]) // of equals the first stays
			}
		}
		if !covered {
			out = append(out, *t)
		}
	}
	return out
}

// joined makes one of terms that differ in one dimension alone.
func joined(ts []Term, name string, unite func(a, b *Term)) []Term {
	var out []Term
next:
	for i := range ts {
		for j := range out {
			if sameBut(name, &out[j], &ts[i]) {
				unite(&out[j], &ts[i])
				continue next
			}
		}
		out = append(out, ts[i])
	}
	return out
}

// Limit returns at most n terms, one or more, that hold where one of ts does,
// and the dimensions that it gave up for it: those restrict no more.
func Limit(ts []Term, n int) (out []Term, widened []string) {
	out = Merge(ts)
	for _, d := range dims {
		if len(out) <= n {
			return out, widened
		}
		widened = append(widened, d.name)
		wide := slices.Clone(out)
		for i := range wide {
			d.widen(&wide[i])
		}
		out = Merge(wide)
	}
	return out, widened // one: nothing is left but kinds and types
}

// Envelope returns one term that holds where one of ts does.
func Envelope(ts []Term) Term {
	if len(ts) == 0 {
		return Term{}
	}
	e := ts[0]
	for i := range ts[1:] {
		t := ts[i+1]
		if e.Types != nil || t.Types != nil {
			e.Types = slices.Concat(e.allTypes(), t.allTypes())
		}
		e.Kinds |= t.Kinds
		for _, d := range dims {
			switch {
			case !d.restricts(&e):
			case !d.restricts(&t):
				d.widen(&e)
			default:
				d.unite(&e, &t)
			}
		}
	}
	return e.normal()
}

// Nameless returns the set with one holder, who has no name: what was wanted,
// and is nobody's.
func (s Set) Nameless() Set { return Union(Holder{Interest: Interest{Terms: s.terms}}) }
