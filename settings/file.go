// Package settings reads what can be set about a program: a file of keys and
// values in YAML, and the texts that stand there or behind flags.
//
// Nothing here has state; any goroutine may call it.
package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"warren/filter"
)

// An Option is one key of a configuration file for a C: a value, or a section.
type Option[C any] struct {
	Key, Doc string
	// Set takes in a value. Its error says what is wrong with it.
	Set func(c *C, v string) error
	// Sub are the keys of a section.
	Sub []Option[C]
	// Each, for a section whose keys are not fixed, is called with every key.
	Each func(c *C, key, v string) error
	// Item, for a list of sections, is called at the beginning of each: what Sub
	// sets next, and Check checks, is about that one.
	Item func(c *C)
	// Check, for a section, says whether its values go together.
	Check func(c *C) error
}

// Within returns options of a T as those of a C that has one.
func Within[C, T any](options []Option[T], at func(*C) *T) []Option[C] {
	var list []Option[C]
	for _, o := range options {
		w := Option[C]{Key: o.Key, Doc: o.Doc, Sub: Within(o.Sub, at)}
		if o.Set != nil {
			w.Set = func(c *C, v string) error { return o.Set(at(c), v) }
		}
		if o.Each != nil {
			w.Each = func(c *C, key, v string) error { return o.Each(at(c), key, v) }
		}
		if o.Item != nil {
			w.Item = func(c *C) { o.Item(at(c)) }
		}
		if o.Check != nil {
			w.Check = func(c *C) error { return o.Check(at(c)) }
		}
		list = append(list, w)
	}
	return list
}

// An Error is a mistake in the configuration file.
type Error struct {
	File         string
	Line, Column int // from 1; 0 where it is not known
	Msg          string
}

// Error returns file, line, column and message, as compilers do.
func (e *Error) Error() string {
	at := e.File
	if e.Line > 0 {
		at += ":" + strconv.Itoa(e.Line)
	}
	if e.Column > 0 {
		at += ":" + strconv.Itoa(e.Column)
	}
	return at + ": " + e.Msg
}

// maxConfig bounds the file: what is larger is something else.
const maxConfig = 1 << 20

// syntaxError is how the YAML library says where it stopped.
var syntaxError = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?(?s:(.*))$`)

// Parse reads a file's text, YAML, into c. Its error is an [*Error].
func Parse[C any](file string, src []byte, options []Option[C], c *C) error {
	fail := func(n *yaml.Node, format string, args ...any) error {
		e := &Error{File: file, Msg: fmt.Sprintf(format, args...)}
		if n != nil {
			e.Line, e.Column = n.Line, n.Column
		}
		return e
	}
	if len(src) > maxConfig {
		return fail(nil, "%d bytes are too much for a configuration", len(src))
	}
	dec := yaml.NewDecoder(bytes.NewReader(src))
	var doc, more yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil // nothing is set
	}
	if err == nil {
		if err = dec.Decode(&more); err == nil {
			return fail(&more, "a second document: a configuration is one")
		}
	}
	if !errors.Is(err, io.EOF) {
		e := &Error{File: file, Msg: err.Error()}
		if m := syntaxError.FindStringSubmatch(err.Error()); m != nil {
			e.Line, _ = strconv.Atoi(m[1]) // 0 where there is none
			e.Msg = m[2]
		}
		if line, column, bad := notText(src); bad {
			e.Line, e.Column = line, column
		} else if e.Line == 0 && !strings.HasPrefix(e.Msg, "unknown anchor") {
			e.Line = 1 // the library leaves out the first, and the line of an anchor
		}
		return e
	}
	if len(doc.Content) != 1 {
		return nil
	}
	r := reader[C]{all: options, c: c, fail: fail}
	return r.section(doc.Content[0], Option[C]{Sub: options})
}

// notText finds the first byte that no YAML file can have.
func notText(src []byte) (line, column int, bad bool) {
	line, column = 1, 1
	for len(src) > 0 {
		r, n := utf8.DecodeRune(src)
		switch {
		case r == utf8.RuneError && n == 1, r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0x7f:
			return line, column, true
		case r == '\n':
			line, column = line+1, 0
		}
		column++
		src = src[n:]
	}
	return 0, 0, false
}

// A reader sets the settings of one file.
type reader[C any] struct {
	all  []Option[C]
	c    *C
	fail func(n *yaml.Node, format string, args ...any) error
}

// section reads a mapping.
func (r *reader[C]) section(n *yaml.Node, o Option[C]) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil // a section without content
	}
	if n.Kind != yaml.MappingNode {
		return r.fail(n, "want keys with values%s, not %s", under(o.Key), kindName(n))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, v := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			return r.fail(key, "a key must be a word, not %s", kindName(key))
		}
		if seen[key.Value] {
			return r.fail(key, "key %q is there twice", key.Value)
		}
		seen[key.Value] = true
		if o.Each != nil {
			if v.Kind != yaml.ScalarNode {
				return r.fail(v, "%s: want a value, not %s", key.Value, kindName(v))
			}
			if err := o.Each(r.c, key.Value, v.Value); err != nil {
				return r.fail(v, "%s: %v", key.Value, err)
			}
			continue
		}
		at := slices.IndexFunc(o.Sub, func(s Option[C]) bool { return s.Key == key.Value })
		if at < 0 {
			return r.fail(key, "%s", r.unknown(key.Value, o))
		}
		sub := o.Sub[at]
		if sub.Item != nil {
			if err := r.list(v, sub); err != nil {
				return err
			}
			continue
		}
		if sub.Set == nil {
			if err := r.section(v, sub); err != nil {
				return err
			}
			continue
		}
		if v.Kind != yaml.ScalarNode || v.Tag == "!!null" {
			return r.fail(v, "%s: want a value, not %s", sub.Key, kindName(v))
		}
		if err := sub.Set(r.c, v.Value); err != nil {
			return r.fail(v, "%s: %v", sub.Key, err)
		}
	}
	if o.Check != nil {
		if err := o.Check(r.c); err != nil {
			return r.fail(n, "%s: %v", o.Key, err)
		}
	}
	return nil
}

// list reads a list of mappings.
func (r *reader[C]) list(n *yaml.Node, o Option[C]) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil // a list without content
	}
	if n.Kind != yaml.SequenceNode {
		return r.fail(n, "want a list%s, not %s", under(o.Key), kindName(n))
	}
	for _, item := range n.Content {
		if item.Kind != yaml.MappingNode {
			return r.fail(item, "want keys with values in the list%s, not %s", under(o.Key), kindName(item))
		}
		o.Item(r.c)
		if err := r.section(item, o); err != nil {
			return err
		}
	}
	return nil
}

func under(key string) string {
	if key == "" {
		return ""
	}
	return " under " + key
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "nothing"
		}
		return "a value"
	}
	return "this"
}

// unknown says that there is no such key, and which may have been meant: a
// similar one, or one of the same name in another section.
func (r *reader[C]) unknown(key string, o Option[C]) string {
	msg := fmt.Sprintf("no key %q%s", key, under(o.Key))
	var here []string
	for _, s := range o.Sub {
		here = append(here, s.Key)
	}
	if near := filter.Nearest(key, here); near != "" {
		return msg + "; did you mean " + near + "?"
	}
	for _, s := range r.all {
		if o.Key != "" && s.Key == key {
			return msg + "; " + key + " stands at the top"
		}
		for _, t := range s.Sub {
			if t.Key == key {
				return msg + "; " + key + " stands under " + s.Key
			}
		}
	}
	return msg + "; keys are " + strings.Join(here, ", ")
}

// Changed returns the keys whose values two files do not have in common, with those
// that they stand under before a dot, sorted. A text that is no YAML has none.
func Changed(before, after []byte) []string {
	a, b := values(before), values(after)
	maps.DeleteFunc(a, func(key, v string) bool {
		now, ok := b[key]
		if ok && now == v {
			delete(b, key)
		}
		return ok && now == v
	})
	maps.Copy(a, b)
	return slices.Sorted(maps.Keys(a))
}

// values are a file's, by their keys.
func values(src []byte) map[string]string {
	list := map[string]string{}
	var doc yaml.Node
	if len(src) > maxConfig || yaml.Unmarshal(src, &doc) != nil {
		return list
	}
	var walk func(key string, n *yaml.Node)
	walk = func(key string, n *yaml.Node) {
		switch {
		case n.Kind == yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				walk(strings.TrimPrefix(key+"."+n.Content[i].Value, "."), n.Content[i+1])
			}
		case n.Tag != "!!null":
			list[key] = text(n)
		}
	}
	for _, n := range doc.Content {
		walk("", n)
	}
	return list
}

// text is the same of values that are.
func text(n *yaml.Node) string {
	b := strconv.AppendQuote(nil, n.Value)
	for _, c := range n.Content {
		b = append(append(b, " ("...), text(c)+")"...)
	}
	return string(b)
}
