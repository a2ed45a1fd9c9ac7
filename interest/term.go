package interest

import (
	"cmp"
	"net/netip"
	"slices"

	"warren/event"
)

// A dim is a dimension of terms beside kinds and types. The functions take and
// change the term's own value of it.
type dim struct {
	name      string
	restricts func(*Term) bool
	widen     func(*Term)           // makes it restrict no more
	equal     func(a, b *Term) bool // the same restriction
	covers    func(a, b *Term) bool // a's holds wherever b's does; both restrict
	unite     func(a, b *Term)      // a's becomes one that holds where either does; both restrict
	narrow    func(a, b *Term) bool // a's becomes one that holds where both do, or more; false: never. Both restrict
}

// dims is every dimension, the one to be widened first where there are too many
// terms first.
var dims = []dim{
	listDim("nets", func(t *Term) *[]netip.Prefix { return &t.Nets }, comparePrefix, pickShorter),
	listDim("ports", func(t *Term) *[]uint16 { return &t.Ports }, cmp.Compare[uint16], pickShorter),
	textDim("names", func(t *Term) *[]Path { return &t.Names }),
	textDim("exes", func(t *Term) *[]Path { return &t.Exes }),
	notTextDim("not_names", func(t *Term) *[]Path { return &t.NotNames }),
	notTextDim("not_exes", func(t *Term) *[]Path { return &t.NotExes }),
	listDim("uids", func(t *Term) *[]uint32 { return &t.UIDs }, cmp.Compare[uint32], intersect),
	{
		name:      "workload",
		restricts: func(t *Term) bool { return t.Workload != nil },
		widen:     func(t *Term) { t.Workload = nil },
		equal:     func(a, b *Term) bool { return sameWorkload(a.Workload, b.Workload) },
		covers:    func(a, b *Term) bool { return sameWorkload(a.Workload, b.Workload) },
		unite: func(a, b *Term) {
			if !sameWorkload(a.Workload, b.Workload) {
				a.Workload = nil
			}
		},
		narrow: func(*Term, *Term) bool { return true }, // a's own
	},
	{
		name:      "outcome",
		restricts: func(t *Term) bool { return t.Outcome != AnyOutcome },
		widen:     func(t *Term) { t.Outcome = AnyOutcome },
		equal:     func(a, b *Term) bool { return a.Outcome == b.Outcome },
		covers:    func(a, b *Term) bool { return a.Outcome == b.Outcome },
		unite: func(a, b *Term) {
			if a.Outcome != b.Outcome {
				a.Outcome = AnyOutcome
			}
		},
		narrow: func(a, b *Term) bool { return a.Outcome == b.Outcome },
	},
	{
		name:      "open",
		restricts: func(t *Term) bool { return t.Open != 0 },
		widen:     func(t *Term) { t.Open = 0 },
		equal:     func(a, b *Term) bool { return a.Open == b.Open },
		covers:    func(a, b *Term) bool { return b.Open&^a.Open == 0 },
		unite:     func(a, b *Term) { a.Open |= b.Open },
		// Both must hold, but a file can be opened for several things at once.
		narrow: func(a, b *Term) bool {
			if b.Open&^a.Open == 0 {
				a.Open = b.Open
			}
			return true
		},
	},
	{
		name:      "raw",
		restricts: func(t *Term) bool { return t.RawDots },
		widen:     func(t *Term) { t.RawDots = false },
		equal:     func(*Term, *Term) bool { return true },
		covers:    func(*Term, *Term) bool { return true },
		unite:     func(*Term, *Term) {},
		narrow:    func(*Term, *Term) bool { return true },
	},
	listDim("inodes", func(t *Term) *[]Inode { return &t.Inodes }, compareInode, commonInodes),
	{
		name:      "paths",
		restricts: func(t *Term) bool { return t.Paths != nil },
		widen:     func(t *Term) { t.Paths = nil },
		equal:     func(a, b *Term) bool { return slices.Equal(a.Paths, b.Paths) },
		covers: func(a, b *Term) bool {
			return !slices.ContainsFunc(b.Paths, func(q Path) bool { return !pathsCover(a.Paths, q) })
		},
		unite: func(a, b *Term) { a.Paths = normalPaths(slices.Concat(a.Paths, b.Paths)) },
		// An event can have two names, each of which satisfies one of the two.
		narrow: func(a, b *Term) bool {
			if pathsWidth(b.Paths) < pathsWidth(a.Paths) {
				a.Paths = b.Paths
			}
			return true
		},
	},
	{ // no restriction, but of terms that are equal else, one that does not count covers one that does
		name:      "counted",
		restricts: func(t *Term) bool { return t.Counted != 0 },
		widen:     func(t *Term) { t.Counted = 0 },
		equal:     func(a, b *Term) bool { return a.Counted == b.Counted },
		covers:    func(a, b *Term) bool { return b.Counted&^a.Counted == 0 },
		unite:     func(a, b *Term) { a.Counted |= b.Counted },
		narrow:    func(a, b *Term) bool { a.Counted |= b.Counted; return true },
	},
}

// Only returns t without what it says of other dimensions than these: it holds
// wherever t does. That events are only counted is no condition on them, and stays.
func (t Term) Only(dimensions ...string) Term {
	for _, d := range dims {
		if d.name != "counted" && !slices.Contains(dimensions, d.name) {
			d.widen(&t)
		}
	}
	return t
}

func sameWorkload(a, b Workload) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a == b || a.String() == b.String()
}

// pickShorter and intersect are what the values of two lists have in common: of
// what can have several values in one event, either list is right.
func pickShorter[T any](a, b []T, _ func(T, T) int) []T {
	if len(b) < len(a) {
		return b
	}
	return a
}

// commonInodes has what one list says of the number and the other of the device
// in one.
func commonInodes(a, b []Inode, order func(a, b Inode) int) []Inode {
	if len(a)*len(b) > maxCompared {
		return pickShorter(a, b, order)
	}
	var out []Inode
	for _, x := range a {
		for _, y := range b {
			if (x.Ino == y.Ino || x.Ino == 0 || y.Ino == 0) && (x.Dev == y.Dev || x.Dev == 0 || y.Dev == 0) {
				out = append(out, Inode{Dev: max(x.Dev, y.Dev), Ino: max(x.Ino, y.Ino)})
			}
		}
	}
	return sorted(out, order)
}

func intersect[T any](a, b []T, order func(T, T) int) []T {
	var out []T
	for _, x := range a {
		if _, ok := slices.BinarySearchFunc(b, x, order); ok {
			out = append(out, x)
		}
	}
	return out
}

// listDim is a dimension that is a sorted list without doubles.
func listDim[T comparable](name string, of func(*Term) *[]T, order func(a, b T) int, both func(a, b []T, order func(T, T) int) []T) dim {
	return dim{
		name:      name,
		restricts: func(t *Term) bool { return *of(t) != nil },
		widen:     func(t *Term) { *of(t) = nil },
		equal:     func(a, b *Term) bool { return slices.Equal(*of(a), *of(b)) },
		covers: func(a, b *Term) bool {
			return len(intersect(*of(b), *of(a), order)) == len(*of(b))
		},
		unite: func(a, b *Term) {
			l := slices.Concat(*of(a), *of(b))
			slices.SortFunc(l, order)
			*of(a) = slices.Compact(l)
		},
		narrow: func(a, b *Term) bool {
			*of(a) = both(*of(a), *of(b), order)
			return len(*of(a)) > 0
		},
	}
}

// textDim is a dimension that compares a text of which an event has one.
func textDim(name string, of func(*Term) *[]Path) dim {
	return dim{
		name:      name,
		restricts: func(t *Term) bool { return *of(t) != nil },
		widen:     func(t *Term) { *of(t) = nil },
		equal:     func(a, b *Term) bool { return slices.Equal(*of(a), *of(b)) },
		covers: func(a, b *Term) bool {
			return !slices.ContainsFunc(*of(b), func(q Path) bool { return !pathsCover(*of(a), q) })
		},
		unite: func(a, b *Term) { *of(a) = normalPaths(slices.Concat(*of(a), *of(b))) },
		narrow: func(a, b *Term) bool {
			both, exact := commonPaths(*of(a), *of(b))
			*of(a) = both
			return !exact || len(both) > 0
		},
	}
}

// notTextDim is a dimension of what a text must not be: where a textDim lets more
// through, it lets through less.
func notTextDim(name string, of func(*Term) *[]Path) dim {
	is := textDim(name, of)
	d := is
	d.covers = func(a, b *Term) bool { return is.covers(b, a) }
	d.narrow = func(a, b *Term) bool {
		is.unite(a, b)
		return true
	}
	// What both exclude is left out.
	d.unite = func(a, b *Term) {
		both, exact := commonPaths(*of(a), *of(b))
		if !exact {
			both = nil
		}
		*of(a) = both
	}
	return d
}

// commonPaths returns the paths that satisfy both of two lists. Where that is not
// known, it returns the list that lets through less, and says so.
func commonPaths(a, b []Path) (both []Path, exact bool) {
	suffix := func(p Path) bool { return p.Op == Suffix }
	if len(a)*len(b) > maxCompared || slices.ContainsFunc(a, suffix) || slices.ContainsFunc(b, suffix) {
		if pathsWidth(b) < pathsWidth(a) {
			return b, false
		}
		return a, false
	}
	for _, p := range a { // of two that have anything in common, one covers the other
		if pathsCover(b, p) {
			both = append(both, p)
		}
	}
	for _, q := range b {
		if pathsCover(a, q) {
			both = append(both, q)
		}
	}
	return normalPaths(both), true
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func compareInode(a, b Inode) int {
	return cmp.Or(cmp.Compare(a.Ino, b.Ino), cmp.Compare(a.Dev, b.Dev))
}

func comparePath(a, b Path) int {
	return cmp.Or(cmp.Compare(a.Op, b.Op), cmp.Compare(a.Text, b.Text))
}

// pathsWidth orders lists of paths by how much they let through, by and large.
func pathsWidth(ps []Path) int {
	w := 0
	for _, p := range ps {
		switch p.Op {
		case Exact:
			w++
		case Suffix:
			w += 4096 / (1 + len(p.Text))
		default:
			w += 16 + 1024/(1+len(p.Text))
		}
	}
	return w
}

func pathsCover(ps []Path, q Path) bool {
	return slices.ContainsFunc(ps, func(p Path) bool { return p.covers(q) })
}

// normalPaths sorts paths and leaves out those that others cover. It returns
// nil where every name satisfies one of them.
func normalPaths(ps []Path) []Path {
	if anything(ps) {
		return nil
	}
	ps = slices.Clone(ps)
	slices.SortFunc(ps, comparePath)
	ps = slices.Compact(ps)
	if len(ps) > maxCompared {
		return ps
	}
	var out []Path
	for i, p := range ps {
		covered := slices.ContainsFunc(ps[:i], func(q Path) bool { return q.covers(p) })
		covered = covered || slices.ContainsFunc(ps[i+1:], func(q Path) bool { return q.covers(p) && !p.covers(q) })
		if !covered {
			out = append(out, p)
		}
	}
	return out
}

// maxCompared bounds the lists of which each element is compared with each.
const maxCompared = 512

// normal returns t with sorted lists, and with the kinds that its types and
// dimensions leave. One that holds for nothing has no kinds.
func (t Term) normal() Term {
	if t.Types != nil {
		types := slices.Clone(t.Types)
		slices.Sort(types)
		types = slices.Compact(types)
		var left event.KindSet
		all := true // every type of the kinds that are left
		t.Types = types
		var out []string
		for _, k := range t.Kinds.List() {
			for _, typ := range k.Types() {
				if _, ok := slices.BinarySearch(types, typ); ok {
					left |= event.Kinds(k)
					out = append(out, typ)
				}
			}
		}
		for _, k := range left.List() {
			for _, typ := range k.Types() {
				_, ok := slices.BinarySearch(types, typ)
				all = all && ok
			}
		}
		slices.Sort(out)
		t.Kinds, t.Types = left, slices.Compact(out)
		if all {
			t.Types = nil
		}
	}
	if t.Paths != nil {
		if t.Paths = normalPaths(t.Paths); t.Paths != nil {
			t.Kinds &= PathKinds
		}
	}
	if t.Inodes != nil {
		t.Inodes = sorted(t.Inodes, compareInode)
		if slices.Contains(t.Inodes, Inode{}) {
			t.Inodes = nil
		}
		t.Kinds &= PathKinds
	}
	if t.Open != 0 || t.RawDots {
		t.Kinds &= OpenKinds
	}
	if t.Ports != nil {
		t.Ports = sorted(t.Ports, cmp.Compare[uint16])
		t.Kinds &= SocketKinds
	}
	if t.Nets != nil {
		t.Nets = sorted(t.Nets, comparePrefix)
		t.Kinds &= SocketKinds
	}
	if t.Kinds&^CountedKinds != 0 {
		t.Counted = 0
	}
	t.UIDs = sorted(t.UIDs, cmp.Compare[uint32])
	if t.Exes != nil {
		t.Exes = normalPaths(t.Exes)
	}
	if t.Names != nil {
		t.Names = normalPaths(t.Names)
	}
	if t.Paths != nil || t.Inodes != nil {
		// Few events are left: to look for what executes them would cost all others more.
		t.NotExes, t.NotNames = nil, nil
	}
	if t.NotExes != nil {
		t.NotExes = normalPaths(t.NotExes)
	}
	if t.NotNames != nil {
		t.NotNames = normalPaths(t.NotNames)
	}
	if t.Types != nil { // of the kinds that are left
		t.Types = slices.DeleteFunc(slices.Clone(t.Types), func(typ string) bool {
			return !slices.ContainsFunc(t.Kinds.List(), func(k event.Kind) bool { return slices.Contains(k.Types(), typ) })
		})
		if len(t.Types) == 0 {
			t.Kinds, t.Types = 0, nil
		}
	}
	return t
}

func sorted[T comparable](l []T, order func(a, b T) int) []T {
	if l == nil {
		return nil
	}
	l = slices.Clone(l)
	slices.SortFunc(l, order)
	return slices.Compact(l)
}

// And returns a term that holds wherever both of two do, and sometimes where
// one does. It reports false where they never hold both.
func (t Term) And(u Term) (Term, bool) {
	t.Kinds &= u.Kinds
	switch {
	case t.Types == nil:
		t.Types = u.Types
	case u.Types != nil:
		if t.Types = intersect(t.Types, u.Types, cmp.Compare[string]); len(t.Types) == 0 {
			return Term{}, false
		}
	}
	for _, d := range dims {
		switch {
		case !d.restricts(&u):
		case !d.restricts(&t):
			take(d.name, &t, &u)
		default:
			if !d.narrow(&t, &u) {
				return Term{}, false
			}
		}
	}
	t = t.normal()
	return t, t.Kinds != 0
}

// take copies one dimension of u to t.
func take(name string, t, u *Term) {
	switch name {
	case "nets":
		t.Nets = u.Nets
	case "ports":
		t.Ports = u.Ports
	case "exes":
		t.Exes = u.Exes
	case "names":
		t.Names = u.Names
	case "not_exes":
		t.NotExes = u.NotExes
	case "not_names":
		t.NotNames = u.NotNames
	case "uids":
		t.UIDs = u.UIDs
	case "workload":
		t.Workload = u.Workload
	case "outcome":
		t.Outcome = u.Outcome
	case "open":
		t.Open = u.Open
	case "raw":
		t.RawDots = u.RawDots
	case "inodes":
		t.Inodes = u.Inodes
	case "paths":
		t.Paths = u.Paths
	case "counted":
		t.Counted = u.Counted
	}
}

// covers reports whether t holds wherever u does. It may not know.
func (t *Term) covers(u *Term) bool {
	if u.Kinds&^t.Kinds != 0 {
		return false
	}
	if t.Types != nil {
		if u.Types == nil || len(intersect(u.Types, t.Types, cmp.Compare[string])) != len(u.Types) {
			return false
		}
	}
	for _, d := range dims {
		if d.restricts(t) && (!d.restricts(u) || !d.covers(t, u)) {
			return false
		}
	}
	return true
}

// allTypes returns the types of t, spelt out.
func (t *Term) allTypes() []string {
	if t.Types != nil {
		return t.Types
	}
	var all []string
	for _, k := range t.Kinds.List() {
		all = append(all, k.Types()...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// sameBut reports whether two terms are equal in every dimension but one, which
// both restrict. The empty name stands for kinds and types.
func sameBut(name string, a, b *Term) bool {
	if name != "" && (a.Kinds != b.Kinds || !slices.Equal(a.Types, b.Types)) {
		return false
	}
	for _, d := range dims {
		if d.name == name {
			if !d.restricts(a) || !d.restricts(b) {
				return false
			}
			continue
		}
		if d.restricts(a) != d.restricts(b) || d.restricts(a) && !d.equal(a, b) {
			return false
		}
	}
	return true
}
