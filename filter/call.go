package filter

import (
	"fmt"
	"strconv"
	"strings"

	"warren/event"
)

// call resolves a transformer.
func (c *compiler) call(x *Call) (*term, *Error) {
	if x.Arg != nil && x.Func != "getopt" {
		return nil, x.Arg.errorf(x.Func+"() has nothing in brackets", "")
	}
	switch x.Func {
	case "join":
		return c.join(x)
	case "concat":
		return c.concat(x)
	case "getopt":
		return c.getopt(x)
	}
	if len(x.Args) != 1 {
		return nil, x.errorf(x.Func+"() wants one thing, not "+strconv.Itoa(len(x.Args)), "")
	}
	if l, ok := x.Args[0].(*List); ok && x.Func == "len" {
		// The number of elements is known; that all of them exist is not.
		return c.length(x, l)
	}
	in, err := c.term(x.Args[0])
	if err != nil {
		return nil, err
	}
	t := *in
	t.Span, t.name, t.field = x.Span, quoted(string(x.append(nil))), nil
	if x.Func == "val" {
		t.name, t.field = in.name, in.field
		return &t, nil
	}
	if in.str == nil && (x.Func != "len" || in.many != event.List) {
		return nil, in.errorf(fmt.Sprintf("%s() wants text, but %s is %s", x.Func, in.name, typeName(in.typ)), "")
	}
	switch x.Func {
	case "tolower":
		t.str = transformedText(in.str, true, folded(lower))
	case "toupper":
		t.str = transformedText(in.str, true, folded(upper))
	case "basename":
		t.str = transformedText(in.str, false, func(s string, _ *scratch) (string, bool) {
			return s[strings.LastIndexByte(s, '/')+1:], true
		})
	case "b64":
		t.str = transformedText(in.str, true, decoded)
	case "len":
		t.typ, t.str = event.Uint, nil
		if in.many == event.List {
			t.many = event.One
			t.num = count(in.str)
		} else {
			t.num = transformed(in.str, false, func(s string, _ *scratch) (int64, bool) { return int64(len(s)), true })
		}
	}
	return &t, nil
}

// transformedText is transformed for text, which can also be a computed list.
func transformedText(v *values[string], scratched bool, fn func(string, *scratch) (string, bool)) *values[string] {
	u := transformed(v, scratched, fn)
	if list := v.list; list != nil {
		u.list = func(e *event.Event, s *scratch) ([]string, bool) {
			in, ok := list(e, s)
			n := len(s.list)
			for _, x := range in {
				if y, ok := fn(x, s); ok {
					s.list = append(s.list, y)
				}
			}
			return s.list[n:], ok && len(s.list) > n
		}
	}
	return u
}

// folded replaces every byte. Text that stays the same is not copied.
func folded(fold func(byte) byte) func(string, *scratch) (string, bool) {
	return func(text string, s *scratch) (string, bool) {
		for i := 0; i < len(text); i++ {
			if fold(text[i]) == text[i] {
				continue
			}
			n := len(s.buf)
			b := append(s.buf, text...)
			for j := n + i; j < len(b); j++ {
				b[j] = fold(b[j])
			}
			return s.took(b), true
		}
		return text, true
	}
}

// decoded decodes base 64 with padding or without. Other text has no value. The
// standard library's decoder would allocate an error for it.
func decoded(text string, s *scratch) (string, bool) {
	raw := strings.TrimSuffix(strings.TrimSuffix(text, "="), "=")
	if raw == "" {
		return "", text == ""
	}
	if len(raw)%4 == 1 {
		return "", false
	}
	b, bits, n := s.buf, uint32(0), 0
	for i := 0; i < len(raw); i++ {
		digit := strings.IndexByte(base64Digits, raw[i])
		if digit < 0 {
			return "", false
		}
		bits = bits<<6 | uint32(digit)
		if n += 6; n >= 8 {
			n -= 8
			b = append(b, byte(bits>>n))
		}
	}
	return s.took(b), true
}

const base64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// count counts the elements of a list. None is a missing value.
func count(v *values[string]) *values[int64] {
	return &values[int64]{many: event.One, scratch: v.scratch, use: func(e *event.Event, i int, s *scratch) (int64, bool) {
		n := int64(0)
		if i == 0 {
			v.find(e, s, func(string) bool { n++; return false })
		}
		return n, n > 0
	}}
}

// A textOf writes one value as text.
type textOf func(e *event.Event, s *scratch) (string, bool)

// text resolves x and returns how its one value is written as text.
func (c *compiler) text(x Operand, fn string) (textOf, event.KindSet, *Error) {
	t, err := c.term(x)
	if err != nil {
		return nil, 0, err
	}
	if t.many != event.One {
		hint := ""
		if t.many == event.List {
			hint = "join() makes one text of a list"
		}
		return nil, 0, t.errorf(fmt.Sprintf("%s() wants one value, but %s has several", fn, t.name), hint)
	}
	switch {
	case t.str != nil:
		use := t.str.use
		return func(e *event.Event, s *scratch) (string, bool) { return use(e, 0, s) }, t.kinds, nil
	case t.ip != nil:
		use := t.ip.use
		return func(e *event.Event, s *scratch) (string, bool) {
			a, ok := use(e, 0, s)
			if !ok {
				return "", false
			}
			return s.took(a.AppendTo(s.buf)), true
		}, t.kinds, nil
	}
	use, typ := t.num.use, t.typ
	return func(e *event.Event, s *scratch) (string, bool) {
		n, ok := use(e, 0, s)
		switch {
		case !ok:
			return "", false
		case typ == event.Bool:
			return strconv.FormatBool(n != 0), true
		case typ == event.Uint:
			return s.took(strconv.AppendUint(s.buf, uint64(n), 10)), true
		}
		return s.took(strconv.AppendInt(s.buf, n, 10)), true
	}, t.kinds, nil
}

// A listOf reads a list into the scratch. All elements must exist.
type listOf func(e *event.Event, s *scratch) ([]string, bool)

// list resolves x, which a transformer wants to be a list.
func (c *compiler) list(x Operand, fn, what string) (listOf, event.KindSet, *Error) {
	switch x := x.(type) {
	case *List:
		return c.listItems(x, fn)
	case *Field:
		if x.Name == "proc.args" && x.Arg == nil {
			// As a list, proc.args is the arguments one by one.
			f, _ := event.Lookup("proc.argv")
			return collected(reader(event.List, 1, f.Str)), f.Kinds(), nil
		}
	case *Value:
		return nil, 0, x.errorf(fn+"() wants a list as its "+what+" argument", "write (a, b) or a field that is a list")
	}
	t, err := c.term(x)
	if err != nil {
		return nil, 0, err
	}
	if t.str == nil || t.many != event.List {
		return nil, 0, t.errorf(fmt.Sprintf("%s() wants a list as its %s argument, but %s is one value", fn, what, t.name), "write (a, b) or a field that is a list")
	}
	return collected(t.str), t.kinds, nil
}

// listItems resolves a list that is written out.
func (c *compiler) listItems(x *List, fn string) (listOf, event.KindSet, *Error) {
	kinds := event.AllKinds
	texts := make([]textOf, len(x.Items))
	for i, item := range x.Items {
		text, ks, err := c.text(item, fn)
		if err != nil {
			return nil, 0, err
		}
		texts[i] = text
		kinds &= ks
	}
	return func(e *event.Event, s *scratch) ([]string, bool) {
		n := len(s.list)
		for _, text := range texts {
			t, ok := text(e, s)
			if !ok {
				return nil, false
			}
			s.list = append(s.list, t)
		}
		return s.list[n:], true
	}, kinds, nil
}

// collected reads all values of a list.
func collected(v *values[string]) listOf {
	if v.list != nil {
		return v.list
	}
	return func(e *event.Event, s *scratch) ([]string, bool) {
		n := len(s.list)
		for i := 0; ; i++ {
			x, ok := v.use(e, i, s)
			if !ok {
				return s.list[n:], i > 0
			}
			s.list = append(s.list, x)
		}
	}
}

// length resolves len() of a list that is written out.
func (c *compiler) length(x *Call, l *List) (*term, *Error) {
	list, kinds, err := c.listItems(l, "len")
	if err != nil {
		return nil, err
	}
	num := &values[int64]{scratch: true, use: func(e *event.Event, i int, s *scratch) (int64, bool) {
		l, ok := list(e, s)
		return int64(len(l)), ok && i == 0
	}}
	return &term{Span: x.Span, name: quoted(string(x.append(nil))), typ: event.Uint, kinds: kinds, num: num}, nil
}

// join resolves join(separator, list).
func (c *compiler) join(x *Call) (*term, *Error) {
	if len(x.Args) != 2 {
		return nil, x.errorf("join() wants a separator and a list", `write join(",", (a.b, c.d))`)
	}
	if l, ok := x.Args[0].(*List); ok {
		return nil, l.errorf("join() wants the separator first, then the list", "")
	}
	sep, kinds, err := c.text(x.Args[0], "join")
	if err != nil {
		return nil, err
	}
	list, more, err := c.list(x.Args[1], "join", "second")
	if err != nil {
		return nil, err
	}
	return composed(x, kinds&more, func(e *event.Event, s *scratch) (string, bool) {
		by, ok := sep(e, s)
		if !ok {
			return "", false
		}
		l, ok := list(e, s)
		if !ok {
			return "", false
		}
		b := s.buf
		for i, item := range l {
			if i > 0 {
				b = append(b, by...)
			}
			b = append(b, item...)
		}
		return s.took(b), true
	}), nil
}

// concat resolves concat(a, b, ...).
func (c *compiler) concat(x *Call) (*term, *Error) {
	if len(x.Args) < 2 {
		return nil, x.errorf("concat() wants two things or more", "")
	}
	for _, a := range x.Args {
		if l, ok := a.(*List); ok {
			return nil, l.errorf("concat() wants single values, not lists", "join() makes one text of a list")
		}
	}
	list, kinds, err := c.listItems(&List{x.Span, x.Args}, "concat")
	if err != nil {
		return nil, err
	}
	return composed(x, kinds, func(e *event.Event, s *scratch) (string, bool) {
		l, ok := list(e, s)
		if !ok {
			return "", false
		}
		b := s.buf
		for _, item := range l {
			b = append(b, item...)
		}
		return s.took(b), true
	}), nil
}

// composed is a term of one text.
func composed(x *Call, kinds event.KindSet, text textOf) *term {
	return &term{Span: x.Span, name: quoted(string(x.append(nil))), typ: event.String, kinds: kinds, str: &values[string]{
		scratch: true,
		use: func(e *event.Event, i int, s *scratch) (string, bool) {
			if i > 0 {
				return "", false
			}
			return text(e, s)
		},
	}}
}
