package interest

import (
	"fmt"
	"strconv"
	"strings"

	"warren/event"
)

// String returns the term as a condition, for people: in the words of filters,
// but that path stands for each of the names that an event has.
func (t Term) String() string {
	var parts []string
	if len(t.Types) > 0 {
		parts = append(parts, oneOf("evt.type", t.Types))
	} else if t.Kinds&event.AllKinds != event.AllKinds {
		parts = append(parts, oneOf("evt.kind", strings.Split(t.Kinds.String(), ",")))
	}
	switch t.Outcome {
	case Succeeded:
		parts = append(parts, "evt.rawres >= 0")
	case Failed:
		parts = append(parts, "evt.rawres < 0")
	}
	parts = append(parts, t.openText())
	parts = append(parts, pathText("path", t.Paths))
	if t.RawDots {
		parts = append(parts, `fd.nameraw contains ".."`)
	}
	var inodes []string
	for _, i := range t.Inodes {
		text := "fd.ino = " + strconv.FormatUint(i.Ino, 10)
		if i.Dev != 0 {
			text += " and fd.dev = " + strconv.FormatUint(i.Dev, 10)
		}
		inodes = append(inodes, text)
	}
	parts = append(parts, either(inodes))
	parts = append(parts, oneOf("user.uid", t.UIDs), pathText("proc.exepath", t.Exes), pathText("proc.name", t.Names))
	parts = append(parts, notText("proc.exepath", t.NotExes), notText("proc.name", t.NotNames))
	if t.Workload != nil {
		parts = append(parts, "("+t.Workload.String()+")")
	}
	parts = append(parts, oneOf("fd.port", t.Ports), oneOf("fd.net", t.Nets))
	var said []string
	for _, p := range parts {
		if p != "" {
			said = append(said, p)
		}
	}
	if len(said) == 0 {
		return "everything"
	}
	return strings.Join(said, " and ")
}

func (t Term) openText() string {
	var parts []string
	for i, name := range []string{"read", "write", "exec", "create"} {
		if t.Open&(1<<i) != 0 {
			parts = append(parts, "evt.is_open_"+name+" = true")
		}
	}
	return either(parts)
}

func pathText(field string, paths []Path) string {
	by := map[PathOp][]string{}
	for _, p := range paths {
		by[p.Op] = append(by[p.Op], p.Text)
	}
	var parts []string
	if list := by[Exact]; list != nil {
		parts = append(parts, oneOf(field, list))
	}
	for _, op := range []struct {
		op   PathOp
		word string
	}{{Prefix, "startswith"}, {Suffix, "endswith"}} {
		for _, text := range by[op.op] {
			parts = append(parts, field+" "+op.word+" "+value(text))
		}
	}
	if list := by[Under]; list != nil {
		parts = append(parts, field+" pmatch ("+strings.Join(values(list), ", ")+")")
	}
	return either(parts)
}

// notText says that a field satisfies none of some conditions.
func notText(field string, paths []Path) string {
	if len(paths) == 0 {
		return ""
	}
	return "not " + pathText(field, paths)
}

// either is a condition that holds when one of several does; "" of none.
func either(parts []string) string {
	switch len(parts) {
	case 0:
		return ""
	case 1:
		return parts[0]
	}
	return "(" + strings.Join(parts, " or ") + ")"
}

// oneOf says that a field has one of several values; "" where none are asked for.
func oneOf[T any](field string, list []T) string {
	switch len(list) {
	case 0:
		return ""
	case 1:
		return field + " = " + value(list[0])
	}
	return field + " in (" + strings.Join(values(list), ", ") + ")"
}

func values[T any](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = value(v)
	}
	return out
}

// value writes a value as a filter has it, in quotes where they are needed.
func value(v any) string {
	s := fmt.Sprint(v)
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_./:-+@", r)
	}
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// HoldersOfTerm returns the names of those for whose sake t is a term of the set.
func (s Set) HoldersOfTerm(t Term) []string {
	whole := Set{terms: []Term{t}}
	var names []string
	for _, h := range s.holders {
		for _, u := range h.Interest.Terms {
			if h.Name != "" && whole.Covers(Set{terms: []Term{u.normal()}}) {
				names = append(names, h.Name)
				break
			}
		}
	}
	return names
}
