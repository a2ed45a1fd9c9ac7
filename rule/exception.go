package rule

import (
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"warren/filter"
)

// An exception is a named way of saying when a rule does not hold: for some
// fields, operators that compare them, and values that they are compared with.
type exception struct {
	name   string
	src    *source
	node   *yaml.Node
	fields fields
	single bool // fields is one text and not a list: values are compared with it together
	comps  []string
	values []exceptionValue
}

type fields []string

// An exceptionValue is what the fields are compared with: one operand each.
type exceptionValue struct {
	node     *yaml.Node
	operands []operand
	list     bool // it is a list of operands
}

// An operand is a value or a list of values.
type operand struct {
	texts []string
	list  bool
}

// exceptions returns the exceptions behind a rule's key.
func (it *item) exceptions(appending bool) (xs []*exception) {
	n := value(it.node, "exceptions")
	if n == nil || isNull(n) {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		it.fail(n, ErrYAMLValidate, "", "exceptions are %s and not a list", kindName(n))
		return nil
	}
	for _, n := range n.Content {
		if n.Kind != yaml.MappingNode {
			it.fail(n, ErrYAMLValidate, "", "an exception is %s and not a mapping", kindName(n))
			return nil
		}
		x := &exception{name: it.text(n, "name", true), src: it.src, node: n}
		if slices.ContainsFunc(xs, func(y *exception) bool { return y.name == x.name }) {
			it.say(n, WarnExceptionNotUnique, "", "the rule has two exceptions called %s", printable(x.name))
		}
		x.readFields(it, appending)
		values := value(n, "values")
		switch {
		case values == nil && appending:
			it.say(n, WarnAppendNoValues, "", "exception %s has no values to append", printable(x.name))
		case values == nil:
		case values.Kind != yaml.SequenceNode:
			it.fail(values, ErrYAMLValidate, "", "values of an exception are %s and not a list", kindName(values))
		default:
			for _, v := range values.Content {
				x.values = append(x.values, it.exceptionValue(v))
			}
		}
		if it.bad {
			return nil
		}
		xs = append(xs, x)
	}
	return xs
}

// readFields reads fields and comps.
func (x *exception) readFields(it *item, appending bool) {
	if n := it.key(x.node, "fields", !appending); n != nil {
		x.single = n.Kind == yaml.ScalarNode
		x.fields = it.oneOrMore(n)
	}
	n := value(x.node, "comps")
	if n == nil {
		return
	}
	x.comps = it.oneOrMore(n)
	switch {
	case it.bad || x.fields == nil:
	case x.single != (n.Kind == yaml.ScalarNode):
		it.fail(n, ErrValidate, "", "exception %s: fields and comps are both a text, or both a list", printable(x.name))
	case len(x.comps) != len(x.fields):
		it.fail(n, ErrValidate, "", "exception %s has %d fields and %d comps", printable(x.name), len(x.fields), len(x.comps))
	}
}

// oneOrMore returns a text or a list of texts as a list.
func (it *item) oneOrMore(n *yaml.Node) (list []string) {
	nodes := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	for _, n := range nodes {
		if n.Kind != yaml.ScalarNode || n.Value == "" {
			it.fail(n, ErrYAMLValidate, "", "%s stands where a text is expected", kindName(n))
			return nil
		}
		list = append(list, n.Value)
	}
	return list
}

func (it *item) exceptionValue(n *yaml.Node) exceptionValue {
	v := exceptionValue{node: n, list: n.Kind == yaml.SequenceNode}
	nodes := []*yaml.Node{n}
	if v.list {
		nodes = n.Content
	}
	for _, n := range nodes {
		switch n.Kind {
		case yaml.ScalarNode, yaml.SequenceNode:
			v.operands = append(v.operands, operand{it.oneOrMore(n), n.Kind == yaml.SequenceNode})
		default:
			it.fail(n, ErrYAMLValidate, "", "a value of an exception is %s", kindName(n))
		}
	}
	return v
}

// complete judges the exception of a rule, and fills in the operators that it
// does not name.
func (x *exception) complete(it *item, source string) bool {
	if x.comps == nil {
		for range x.fields {
			if x.single {
				x.comps = append(x.comps, "in")
			} else {
				x.comps = append(x.comps, "=")
			}
		}
	}
	for i, comp := range x.comps {
		comp = strings.Join(strings.Fields(comp), " ")
		x.comps[i] = comp
		list, known := operators[comp]
		switch {
		case !known:
			hint := ""
			if near := nearest(comp, operatorNames()); near != "" {
				hint = "did you mean " + near + "?"
			}
			it.fail(x.node, ErrValidate, hint, "exception %s: there is no operator %s", printable(x.name), printable(comp))
		case x.single && !list:
			it.fail(x.node, ErrValidate, "use in, pmatch, intersects, or an operator with oneof, anyof or allof", "exception %s has one field, which is compared with all values at once: %s does not do that", printable(x.name), comp)
		}
	}
	if kindsOf(source) != 0 && !it.bad {
		for _, f := range x.fields {
			if _, err := filter.Compile(f + " exists"); err != nil {
				it.fail(x.node, ErrValidate, "", "exception %s: %v", printable(x.name), err)
			}
		}
	}
	return !it.bad
}

// operators are those that can stand in comps; true are those that take a list.
var operators = func() map[string]bool {
	m := map[string]bool{"in": true, "intersects": true, "pmatch": true, "<": false, "<=": false, ">": false, ">=": false, "exists": false}
	for _, op := range []string{"=", "==", "!=", "contains", "icontains", "bcontains", "startswith", "bstartswith", "endswith", "glob", "iglob", "regex"} {
		m[op] = false
		for _, mod := range []string{"oneof", "anyof", "allof"} {
			m[op+" "+mod] = true
		}
	}
	return m
}()

func operatorNames() (names []string) {
	for name := range operators {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// condition returns what has to hold for the exception to hold, as text; "" for
// nothing, if it has no values.
func (x *exception) condition(it *item) string {
	var b strings.Builder
	if x.single {
		for _, v := range x.values {
			if v.list {
				it.fail(v.node, ErrValidate, "", "exception %s has one field: its values are texts, and no lists", printable(x.name))
				return ""
			}
			if b.Len() == 0 {
				b.WriteString(x.fields[0] + " " + x.comps[0] + " (")
			} else {
				b.WriteString(", ")
			}
			b.WriteString(quote(v.operands[0].texts[0]))
		}
		if b.Len() > 0 {
			b.WriteString(")")
		}
		return b.String()
	}
	for _, v := range x.values {
		if len(v.operands) != len(x.fields) || !v.list {
			it.fail(v.node, ErrValidate, "", "exception %s has %d fields, but this has %d values", printable(x.name), len(x.fields), len(v.operands))
			return ""
		}
		if b.Len() > 0 {
			b.WriteString(" or ")
		}
		b.WriteByte('(')
		for i, field := range x.fields {
			if i > 0 {
				b.WriteString(" and ")
			}
			b.WriteString(field + " " + x.comps[i] + " ")
			o := v.operands[i]
			if x.comps[i] == "exists" {
				continue
			}
			if !o.list && operators[x.comps[i]] {
				o.list = true
				o.texts = listed(o.texts[0])
			}
			if !o.list {
				b.WriteString(quote(o.texts[0]))
				continue
			}
			b.WriteByte('(')
			for j, t := range o.texts {
				if j > 0 {
					b.WriteString(", ")
				}
				b.WriteString(quote(t))
			}
			b.WriteByte(')')
		}
		b.WriteByte(')')
	}
	return b.String()
}

// listed returns the elements of a text in parentheses, (a, b), which is how
// lists are written where the file has a text; of another text, the text.
func listed(text string) []string {
	t := strings.TrimSpace(text)
	if !strings.HasPrefix(t, "(") || !strings.HasSuffix(t, ")") {
		return []string{text}
	}
	list, err := filter.Parse("evt.type in " + t)
	check, ok := list.(*filter.Check)
	if err != nil || !ok {
		return []string{text}
	}
	l, ok := check.Right.(*filter.List)
	if !ok {
		return []string{text}
	}
	var texts []string
	for _, item := range l.Items {
		if v, ok := item.(*filter.Value); ok {
			text := v.Text
			if v.Quoted {
				text = `"` + escape(text) + `"`
			}
			texts = append(texts, text)
		}
	}
	return texts
}

// quote writes a value as a condition has it: as it is where it can stand so,
// since it may be the name of a list or have quotes of its own.
func quote(text string) string {
	if listName.MatchString(text) {
		return text
	}
	if n := len(text); n >= 2 && (text[0] == '"' || text[0] == '\'') && text[n-1] == text[0] {
		if _, err := filter.ParseItem(text); err == nil {
			return text
		}
	}
	if call.MatchString(text) {
		if _, err := filter.Parse("evt.type = " + text); err == nil {
			return text // a transformer: val(proc.pname)
		}
	}
	return `"` + escape(text) + `"`
}

func escape(text string) string {
	return strings.NewReplacer(`\`, `\x5c`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(text)
}

var call = regexp.MustCompile(`^[a-z0-9]+\(.*\)$`)
