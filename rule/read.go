package rule

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"warren/filter"
)

// Names that conditions can speak of.
var (
	macroName = regexp.MustCompile(`^[a-zA-Z]+[a-zA-Z0-9_]*$`)
	listName  = regexp.MustCompile(`^[^()"'\s=,]+$`)
)

var (
	engineKeys = []string{"required_engine_version"}
	pluginKeys = []string{"required_plugin_versions"}
	listKeys   = []string{"list", "items", "append", "override"}
	macroKeys  = []string{"macro", "condition", "append", "override"}
	ruleKeys   = []string{"rule", "condition", "output", "desc", "priority", "source", "enabled", "capture", "capture_duration",
		"warn_evttypes", "skip-if-unknown-filter", "tags", "exceptions", "reaction", "override", "append"}

	ruleAppend  = []string{"condition", "output", "desc", "tags", "exceptions", "reaction"}
	ruleReplace = []string{"condition", "output", "desc", "priority", "capture", "capture_duration", "tags", "exceptions", "enabled", "warn_evttypes",
		"skip-if-unknown-filter", "reaction"}
)

func nearest(word string, names []string) string { return filter.Nearest(word, names) }

// read takes in the elements of a file.
func (l *loader) read(f File) {
	src := newSource(f)
	docs, at, err := documents(f)
	if err != nil {
		l.findings = append(l.findings, Finding{Code: ErrYAMLParse, Place: at, Msg: err.Error(), Excerpt: src.excerpt(at, 1)})
		return
	}
	for _, doc := range docs {
		if isNull(doc) {
			continue
		}
		file := &item{l: l, src: src, node: doc}
		if doc.Kind != yaml.SequenceNode {
			file.fail(doc, ErrYAMLValidate, "each rule, macro and list begins with a dash", "the file is %s and not a list", kindName(doc))
			continue
		}
		for _, n := range doc.Content {
			if isNull(n) {
				continue
			}
			it := &item{l: l, src: src, node: n}
			if n.Kind != yaml.MappingNode {
				it.fail(n, ErrYAMLValidate, "", "an item is %s and not a mapping", kindName(n))
				continue
			}
			l.item(it)
		}
	}
}

// item takes in one element of a file.
func (l *loader) item(it *item) {
	for _, kind := range []struct {
		key  string
		read func(*item)
	}{{"required_engine_version", l.engine}, {"required_plugin_versions", l.plugins}, {"list", l.list}, {"macro", l.macro}, {"rule", l.rule}} {
		if value(it.node, kind.key) != nil {
			it.kind = kind.key
			kind.read(it)
			return
		}
	}
	hint := ""
	if len(it.node.Content) > 0 {
		if near := nearest(it.node.Content[0].Value, []string{"rule", "macro", "list", "required_engine_version", "required_plugin_versions"}); near != "" {
			hint = "did you mean " + near + "?"
		}
	}
	it.say(it.node, WarnUnknownItem, hint, "this is neither a rule nor a macro nor a list: it is ignored")
}

// engine judges the version of the engine that a file is written for.
func (l *loader) engine(it *item) {
	p, ok := it.scalar(it.node, it.kind, true)
	it.keys(engineKeys...)
	if !ok {
		return
	}
	want, ok := parseVersion(p.text)
	switch {
	case !ok:
		it.fail(p.node, ErrYAMLValidate, "it is a number, or three with dots between them", "%s is no version of an engine", printable(p.text))
	case !engineVersion.runs(want):
		it.fail(p.node, ErrValidate, "", "the rules want version %s of Falco's engine; what is understood here is %s", want, engineVersion)
	}
}

// plugins judges which of Falco's plugins a file needs.
func (l *loader) plugins(it *item) {
	it.keys(pluginKeys...)
	for _, n := range it.sequence(it.node, it.kind, true) {
		if n.Kind != yaml.MappingNode {
			it.fail(n, ErrYAMLValidate, "", "a plugin is %s and not a mapping", kindName(n))
			return
		}
		all := append([]*yaml.Node{n}, it.sequence(n, "alternatives", false)...)
		var found bool
		var names []string
		for _, n := range all {
			if n.Kind != yaml.MappingNode {
				it.fail(n, ErrYAMLValidate, "", "an alternative is %s and not a mapping", kindName(n))
				return
			}
			name, version := it.text(n, "name", true), it.text(n, "version", true)
			if it.bad {
				return
			}
			want, ok := parseVersion(version)
			if !ok || !strings.Contains(version, ".") {
				it.fail(value(n, "version"), ErrValidate, "it is three numbers with dots between them", "plugin %s: %s is no version", printable(name), printable(version))
				return
			}
			if slices.Contains(names, name) {
				it.fail(n, ErrValidate, "", "plugin %s is among its own alternatives", printable(name))
				return
			}
			names = append(names, name)
			if have, ok := l.cfg.plugins()[name]; ok && have.runs(want) {
				found = true
			}
		}
		if !found {
			it.fail(n, ErrValidate, "what Warren does itself is that of "+l.cfg.pluginNames(), "the rules need the plugin %s", printable(strings.Join(names, " or ")))
			return
		}
	}
}

// list takes in a list.
func (l *loader) list(it *item) {
	it.name = it.text(it.node, "list", true)
	if it.bad {
		return
	}
	if !listName.MatchString(it.name) {
		it.say(value(it.node, "list"), WarnListName, "", "a list's name has no blank, quote, comma, parenthesis and =: no condition can speak of this one")
	}
	items := it.texts("items", true)
	ops := it.overrides([]string{"items"}, []string{"items"})
	add := it.added(ops) || ops["items"] == opAppend
	it.keys(listKeys...)
	values := make([]*filter.Value, 0, len(items))
	for _, p := range items {
		v, err := filter.ParseItem(p.text)
		if err != nil {
			it.fail(p.node, ErrValidate, "", "%v", err)
			return
		}
		values = append(values, v)
	}
	if it.bad {
		return
	}
	prev := l.lists.at(it.name)
	switch {
	case add && prev == nil:
		it.fail(it.node, ErrValidate, "define it before", "no list is called %s: nothing can be appended to it", printable(it.name))
	case add:
		prev.values = append(prev.values, values...)
		prev.items = append(prev.items, items...)
		prev.seen = l.tick()
	default:
		l.lists.define(it.name, &listDef{defined: l.define(it), values: values, items: items})
	}
}

// macro takes in a macro.
func (l *loader) macro(it *item) {
	it.name = it.text(it.node, "macro", true)
	if it.bad {
		return
	}
	if !macroName.MatchString(it.name) {
		it.say(value(it.node, "macro"), WarnMacroName, "", "a macro's name is letters, digits and _, a letter first: no condition can speak of this one")
	}
	cond, _ := it.scalar(it.node, "condition", true)
	ops := it.overrides([]string{"condition"}, []string{"condition"})
	add := it.added(ops) || ops["condition"] == opAppend
	it.keys(macroKeys...)
	if it.bad {
		return
	}
	prev := l.macros.at(it.name)
	switch {
	case add && prev == nil:
		it.fail(it.node, ErrValidate, "define it before", "no macro is called %s: nothing can be appended to it", printable(it.name))
	case add:
		prev.cond = append(prev.cond, cond)
		prev.seen = l.tick()
	default:
		l.macros.define(it.name, &macroDef{defined: l.define(it), cond: prose{cond}})
	}
}

// rule takes in a rule, or what is to be changed about one.
func (l *loader) rule(it *item) {
	it.name = it.text(it.node, "rule", true)
	if it.bad {
		return
	}
	ops := it.overrides(ruleAppend, ruleReplace)
	add := it.added(ops)
	it.keys(ruleKeys...)
	if it.bad {
		return
	}
	prev := l.rules.at(it.name)
	if n := value(it.node, "source"); n != nil && n.Kind == yaml.ScalarNode && prev != nil && n.Value != "" && !isNull(n) && n.Value != prev.source {
		it.fail(n, ErrValidate, "", "the rule has the source %s already", printable(prev.source))
		return
	}
	switch {
	case len(ops) > 0:
		l.override(it, prev, ops)
	case add:
		l.appendTo(it, prev, map[string]string{"condition": opAppend, "exceptions": opAppend})
	case !slices.ContainsFunc([]string{"condition", "output", "desc", "priority"}, func(k string) bool { return value(it.node, k) != nil }):
		l.enable(it, prev)
	default:
		l.newRule(it)
	}
}

// newRule takes in the whole of a rule.
func (l *loader) newRule(it *item) {
	r := &ruleDef{enabled: true, warnTypes: true}
	cond, _ := it.scalar(it.node, "condition", true)
	output, _ := it.scalar(it.node, "output", true)
	output.text = strings.TrimSpace(output.text)
	r.cond, r.output = prose{cond}, prose{output}
	r.desc = it.text(it.node, "desc", true)
	r.priority = it.priority()
	r.source = cmp.Or(it.text(it.node, "source", false), SourceSyscall)
	r.enabled = it.flag("enabled", true)
	r.capture = it.flag("capture", false)
	it.number("capture_duration")
	r.warnTypes = it.flag("warn_evttypes", true)
	r.skipUnknown = it.flag("skip-if-unknown-filter", false)
	r.tags = it.tags()
	r.exceptions = it.exceptions(false)
	r.reactions = it.reactions()
	if it.bad {
		return
	}
	if prev := l.rules.at(it.name); prev != nil && prev.source != r.source {
		it.fail(it.node, ErrValidate, "", "the rule has the source %s already", printable(prev.source))
		return
	}
	if !l.cfg.hasSource(r.source) {
		r.unknownSource = true
		it.say(it.at("source"), WarnUnknownSource, "the sources are "+strings.Join(l.cfg.sources(), " and "), "there is no source %s: the rule is left out", printable(r.source))
	}
	for _, x := range r.exceptions {
		if x.fields == nil {
			it.fail(x.node, ErrValidate, "", "exception %s has no fields", printable(x.name))
			return
		}
		if !x.complete(it, r.source) {
			return
		}
	}
	r.defined = l.define(it)
	l.rules.define(it.name, r)
}

// enable takes in a rule that only says whether another is enabled.
func (l *loader) enable(it *item, prev *ruleDef) {
	if it.overridesReaction(); it.bad {
		return
	}
	on := it.flag("enabled", true)
	if it.key(it.node, "enabled", false) == nil {
		it.fail(it.node, ErrYAMLValidate, "a rule has condition, desc, output and priority; one of nothing but enabled says it of another", "the rule has no key enabled")
		return
	}
	if it.bad {
		return
	}
	it.say(it.at("enabled"), WarnDeprecated, "add override: with enabled: replace under it", "a rule of which nothing but enabled is said is deprecated")
	if prev == nil {
		it.fail(it.node, ErrValidate, "", "no rule is called %s", printable(it.name))
		return
	}
	prev.enabled = on
}

// at returns what stands behind a key, or the item.
func (it *item) at(key string) *yaml.Node { return cmp.Or(value(it.node, key), it.node) }

func (it *item) priority() Priority {
	p, ok := it.scalar(it.node, "priority", true)
	if !ok {
		return 0
	}
	v, ok := ParsePriority(p.text)
	if !ok {
		hint := "the priorities are " + strings.Join(priorityNames[:], ", ")
		it.fail(p.node, ErrYAMLValidate, hint, "%s is no priority", printable(p.text))
	}
	return v
}

// number judges a number that is not negative.
func (it *item) number(key string) {
	if p, ok := it.scalar(it.node, key, false); ok && !wholeNumber.MatchString(p.text) {
		it.fail(p.node, ErrYAMLValidate, "it is a whole number", "%s is %s", key, printable(p.text))
	}
}

var wholeNumber = regexp.MustCompile(`^[0-9]{1,9}$`)

func (it *item) tags() (tags []string) {
	for _, p := range it.texts("tags", false) {
		tags = append(tags, p.text)
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}
