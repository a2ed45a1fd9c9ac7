package filter

import "strings"

// A pathTree holds paths and finds out whether one of them is a path or one of
// its parent directories. Parts of the paths can be patterns, each for one
// name; empty parts do not count.
type pathTree struct {
	whole bool // a path ends here: everything below matches
	names map[string]*pathTree
	globs []globTree
}

type globTree struct {
	pattern glob
	text    string
	below   *pathTree
}

func newPathTree(paths []string) *pathTree {
	t := &pathTree{}
	for _, p := range paths {
		t.add(p)
	}
	return t
}

func (t *pathTree) add(path string) {
	for name, rest := firstName(path); name != ""; name, rest = firstName(rest) {
		t = t.child(name)
	}
	t.whole = true
}

func (t *pathTree) child(name string) *pathTree {
	if strings.ContainsAny(name, "?*[") {
		for _, g := range t.globs {
			if g.text == name {
				return g.below
			}
		}
		below := &pathTree{}
		t.globs = append(t.globs, globTree{parseGlob(name, false), name, below})
		return below
	}
	below, ok := t.names[name]
	if !ok {
		if t.names == nil {
			t.names = map[string]*pathTree{}
		}
		below = &pathTree{}
		t.names[name] = below
	}
	return below
}

// firstName returns the first name of a path and what follows it.
func firstName(path string) (name, rest string) {
	path = strings.TrimLeft(path, "/")
	name, rest, _ = strings.Cut(path, "/")
	return name, rest
}

// match reports whether a path of the tree is path or above it.
func (t *pathTree) match(path string) bool {
	for {
		if t.whole {
			return true
		}
		name, rest := firstName(path)
		if name == "" {
			return false
		}
		below := t.names[name]
		if len(t.globs) == 0 { // the common case: one way down
			if below == nil {
				return false
			}
			t, path = below, rest
			continue
		}
		if below != nil && below.match(rest) {
			return true
		}
		for _, g := range t.globs {
			if g.pattern.match(name) && g.below.match(rest) {
				return true
			}
		}
		return false
	}
}
