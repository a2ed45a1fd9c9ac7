package rule

import (
	"maps"
	"slices"
	"strings"

	"warren/filter"
)

// A File is a rule file: its name is for messages.
type File struct {
	Name string
	Text []byte
}

// Config says what rules may count on; its zero value is what an agent has.
type Config struct {
	// Sources are the sources of events beside [SourceSyscall] and [SourceAudit].
	Sources []string
	// Extra is appended to what every rule says, behind a blank.
	Extra string
	// Add is what is said with the rules' outputs.
	Add []Addition
}

func (c Config) sources() []string { return append([]string{SourceSyscall, SourceAudit}, c.Sources...) }

func (c Config) hasSource(name string) bool { return slices.Contains(c.sources(), name) }

// plugins are those of Falco's whose work Warren does itself, with the version
// whose fields it has.
func (c Config) plugins() map[string]version {
	return map[string]version{"container": {0, 6, 0}, "k8saudit": {0, 18, 0}, "json": {0, 7, 4}}
}

func (c Config) pluginNames() string {
	return strings.Join(slices.Sorted(maps.Keys(c.plugins())), ", ")
}

// Load reads rule files, in their order: what a later one says of a rule, macro
// or list changes what an earlier one has said. The findings are in the order of
// files and lines. The set is nil if one of them is an error: files are used as
// a whole or not at all.
func Load(files []File, cfg Config) (*Set, []Finding) {
	l := &loader{cfg: cfg, texts: map[string]origin{}}
	for _, f := range files {
		l.read(f)
	}
	set := l.resolve()
	if !HasErrors(l.findings) {
		l.unused()
		l.lint(set)
	}
	sortFindings(l.findings, files)
	if HasErrors(l.findings) {
		return nil, l.findings
	}
	return set, l.findings
}

// A loader is what was read so far.
type loader struct {
	cfg      Config
	findings []Finding

	rules  table[ruleDef]
	macros table[macroDef]
	lists  table[listDef]
	ticks  int
	texts  map[string]origin // whose text an error is in
}

// tick numbers what was defined and changed.
func (l *loader) tick() int { l.ticks++; return l.ticks }

// defined is what all definitions have.
type defined struct {
	it *item
	// index is the number of the first definition, seen that of the last change:
	// macros see those that were defined before it.
	index, seen int
}

func (l *loader) define(it *item) defined {
	n := l.tick()
	return defined{it, n, n}
}

type listDef struct {
	defined
	values []*filter.Value
	items  []piece // where they stand
	used   bool
}

type macroDef struct {
	defined
	cond prose
	expr filter.Expr // nil where cond has a mistake
	used bool
}

type ruleDef struct {
	defined
	cond, output  prose
	desc          string
	priority      Priority
	source        string
	unknownSource bool
	enabled       bool
	capture       bool
	warnTypes     bool
	skipUnknown   bool
	tags          []string
	exceptions    []*exception
	reactions     []Reaction
}

// A table has definitions by name, in the order in which they were first made.
type table[T any] struct {
	names  []string
	byName map[string]*T
}

func (t *table[T]) at(name string) *T { return t.byName[name] }

// define puts a definition in the place of an earlier one of its name.
func (t *table[T]) define(name string, d *T) {
	prev, ok := t.byName[name]
	if !ok {
		if t.byName == nil {
			t.byName = map[string]*T{}
		}
		t.names = append(t.names, name)
		t.byName[name] = d
		return
	}
	// Who sees it was decided when it first stood there.
	type indexed interface{ first() *int }
	if a, ok := any(prev).(indexed); ok {
		*any(d).(indexed).first() = *a.first()
	}
	*prev = *d
}

func (d *defined) first() *int { return &d.index }

func (t *table[T]) all(yield func(string, *T) bool) {
	for _, name := range t.names {
		if !yield(name, t.byName[name]) {
			return
		}
	}
}

// An origin is whose a text is that was parsed.
type origin struct {
	it   *item
	text prose
	// shift is how many bytes the parsed text has in front of text; exception is
	// whose text it is where it was put together.
	exception *exception
}
