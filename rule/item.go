package rule

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// An item is one element of a rule file, being read. Its first mistake is
// reported; what is read behind it is worth nothing.
type item struct {
	l          *loader
	src        *source
	node       *yaml.Node
	kind, name string // rule, macro, list, ...
	bad        bool
}

// fail reports a mistake.
func (it *item) fail(at *yaml.Node, code Code, hint, format string, args ...any) {
	if it.bad {
		return
	}
	it.bad = true
	it.say(at, code, hint, format, args...)
}

// say reports something about a node.
func (it *item) say(at *yaml.Node, code Code, hint, format string, args ...any) {
	place, columns := it.src.place(at), 1
	if at.Kind == yaml.ScalarNode && at.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
		columns = max(len([]rune(at.Value)), 1)
	}
	it.l.findings = append(it.l.findings, Finding{
		Code: code, Place: place, Item: it.kind, Name: it.name, Msg: fmt.Sprintf(format, args...), Hint: hint,
		Excerpt: it.src.excerpt(place, columns),
	})
}

// key returns what stands behind a key, or nil; it has to be there if must says
// so.
func (it *item) key(m *yaml.Node, key string, must bool) *yaml.Node {
	n := value(m, key)
	if n == nil && must {
		it.fail(m, ErrYAMLValidate, "", "%s has no key %s", it.what(), key)
	}
	return n
}

func (it *item) what() string {
	if it.kind == "" || strings.Contains(it.kind, "_") {
		return "the item"
	}
	return "the " + it.kind
}

// scalar returns the text behind a key, which is not empty.
func (it *item) scalar(m *yaml.Node, key string, must bool) (p piece, ok bool) {
	n := it.key(m, key, must)
	switch {
	case n == nil:
		return piece{}, false
	case isNull(n):
		it.fail(n, ErrYAMLValidate, "", "there is nothing behind %s", key)
	case n.Kind != yaml.ScalarNode:
		it.fail(n, ErrYAMLValidate, "", "%s is %s and not a text", key, kindName(n))
	case n.Value == "":
		it.fail(n, ErrYAMLValidate, "", "%s is empty", key)
	default:
		return piece{n.Value, it.src, n}, true
	}
	return piece{}, false
}

func (it *item) text(m *yaml.Node, key string, must bool) string {
	p, _ := it.scalar(m, key, must)
	return p.text
}

// flag returns what is true or false behind a key of the item, or otherwise if
// there is none.
func (it *item) flag(key string, otherwise bool) bool { return it.flagOf(it.node, key, otherwise) }

// flagOf is flag of a mapping in the item.
func (it *item) flagOf(m *yaml.Node, key string, otherwise bool) bool {
	p, ok := it.scalar(m, key, false)
	if !ok {
		return otherwise
	}
	v, ok := parseBool(p.text)
	if !ok {
		it.fail(p.node, ErrYAMLValidate, "write true or false", "%s is %q", key, p.text)
	}
	return v
}

// sequence returns the elements behind a key.
func (it *item) sequence(m *yaml.Node, key string, must bool) []*yaml.Node {
	n := it.key(m, key, must)
	switch {
	case n == nil:
		return nil
	case n.Kind != yaml.SequenceNode:
		it.fail(n, ErrYAMLValidate, "", "%s is %s and not a list", key, kindName(n))
		return nil
	}
	return n.Content
}

// texts returns the elements behind a key, all texts.
func (it *item) texts(key string, must bool) (list []piece) {
	for _, n := range it.sequence(it.node, key, must) {
		if n.Kind != yaml.ScalarNode {
			it.fail(n, ErrYAMLValidate, "", "an element of %s is %s and not a text", key, kindName(n))
			return nil
		}
		list = append(list, piece{n.Value, it.src, n})
	}
	return list
}

// keys warns of keys that the item does not have.
func (it *item) keys(known ...string) {
	seen := map[string]bool{}
	for i := 0; i+1 < len(it.node.Content); i += 2 {
		k := it.node.Content[i]
		switch {
		case !slices.Contains(known, k.Value):
			hint := ""
			if near := nearest(k.Value, known); near != "" {
				hint = "did you mean " + near + "?"
			}
			it.say(k, WarnUnknownKey, hint, "unknown key %s: it is ignored", printable(k.Value))
		case seen[k.Value]:
			it.say(k, WarnDuplicateKey, "", "%s stands twice: the first one counts", k.Value)
		}
		seen[k.Value] = true
	}
}

// The operations of an override.
const (
	opAppend  = "append"
	opReplace = "replace"
)

// overrides returns what is to be done to which keys: "append" or "replace".
func (it *item) overrides(appendable, replaceable []string) map[string]string {
	n := value(it.node, "override")
	if n == nil || isNull(n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		it.fail(n, ErrYAMLValidate, "write condition: append, or another key and append or replace", "override is %s and not a mapping", kindName(n))
		return nil
	}
	ops := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, op := n.Content[i], n.Content[i+1]
		switch {
		case op.Value == opAppend && !slices.Contains(appendable, key.Value):
			hint := ""
			if slices.Contains(replaceable, key.Value) {
				hint = "use replace"
			}
			it.fail(key, ErrYAMLValidate, hint, "nothing can be appended to %s", printable(key.Value))
		case op.Value == opReplace && !slices.Contains(replaceable, key.Value):
			it.fail(key, ErrYAMLValidate, "", "%s cannot be replaced", printable(key.Value))
		case op.Value != opAppend && op.Value != opReplace:
			it.fail(op, ErrYAMLValidate, "it can be append or replace", "%s: no override is called %s", printable(key.Value), printable(op.Value))
		case value(it.node, key.Value) == nil:
			it.fail(key, ErrYAMLValidate, "", "override says %s of %s, but the %s has no %s", op.Value, key.Value, it.kind, key.Value)
		}
		ops[key.Value] = op.Value
	}
	return ops
}

// added says whether the item has the old way of appending, which it warns of.
func (it *item) added(overrides map[string]string) bool {
	if !it.flag("append", false) {
		return false
	}
	it.say(value(it.node, "append"), WarnDeprecated, "say it of each key under override, as condition: append", "append is deprecated")
	if len(overrides) > 0 {
		it.fail(value(it.node, "override"), ErrYAMLValidate, "leave append out", "append and override do not go together")
	}
	return true
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a mapping"
	}
	if isNull(n) {
		return "nothing"
	}
	return "a text"
}

// printable is a text as a message shows it.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "..."
	}
	return s
}
