package filter

import (
	"strings"

	"warren/event"
)

// options is what an option string of getopt(3) says: which letters are
// options, and which of them have a value.
type options struct {
	known, valued [4]uint64
}

func has(set *[4]uint64, c byte) bool { return set[c>>6]&(1<<(c&63)) != 0 }

func parseOptions(s string) (o options) {
	s = strings.TrimPrefix(s, ":")
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == ':' {
			continue
		}
		o.known[c>>6] |= 1 << (c & 63)
		if i+1 < len(s) && s[i+1] == ':' {
			o.valued[c>>6] |= 1 << (c & 63)
			i++
		}
	}
	return o
}

// scan goes through arguments as getopt(3) does and calls found for each
// option with its letter, as text, and its value. A value that is missing at
// the end is given as "" with the letter "". Unknown options are given as "?".
// Long options are skipped.
func (o *options) scan(args []string, found func(opt string, value string, valued bool)) {
	for n := 0; n < len(args); n++ {
		arg := args[n]
		if strings.HasPrefix(arg, "--") {
			if len(arg) == 2 {
				return
			}
			continue
		}
		if len(arg) < 2 || arg[0] != '-' {
			return
		}
		for i := 1; i < len(arg); i++ {
			switch c := arg[i]; {
			case c == ':' || !has(&o.known, c):
				found("?", "", false)
				continue
			case !has(&o.valued, c):
				found(arg[i:i+1], "", false)
				continue
			case i+1 < len(arg):
				found(arg[i:i+1], arg[i+1:], true)
			case n+1 < len(args):
				n++
				found(arg[i:i+1], args[n], true)
			default:
				found("", arg[i:i+1], false)
			}
			break
		}
	}
}

// getopt resolves getopt(list, options) and getopt(list, options)[x].
func (c *compiler) getopt(x *Call) (*term, *Error) {
	if len(x.Args) != 2 {
		return nil, x.errorf("getopt() wants a list of arguments and an option string", `write getopt(proc.args, "ab:")`)
	}
	list, kinds, err := c.list(x.Args[0], "getopt", "first")
	if err != nil {
		return nil, err
	}
	if l, ok := x.Args[1].(*List); ok {
		return nil, l.errorf("getopt() wants one option string, not a list", "")
	}
	text, more, err := c.text(x.Args[1], "getopt")
	if err != nil {
		return nil, err
	}
	parse := func(e *event.Event, s *scratch) (options, bool) {
		t, ok := text(e, s)
		return parseOptions(t), ok
	}
	if v, ok := x.Args[1].(*Value); ok {
		o := parseOptions(v.Text)
		parse = func(*event.Event, *scratch) (options, bool) { return o, true }
	}
	if x.Arg != nil {
		if len(x.Arg.Text) != 1 {
			return nil, x.Arg.errorf("getopt()[] wants the letter of one option", "")
		}
		return composed(x, kinds&more, func(e *event.Event, s *scratch) (string, bool) {
			return selected(e, s, list, parse, x.Arg.Text)
		}), nil
	}
	t := &term{Span: x.Span, name: quoted(string(x.append(nil))), typ: event.String, many: event.List, kinds: kinds & more}
	t.str = &values[string]{many: event.List, scratch: true, list: func(e *event.Event, s *scratch) ([]string, bool) {
		args, ok := list(e, s)
		if !ok {
			return nil, false
		}
		o, ok := parse(e, s)
		if !ok {
			return nil, false
		}
		n := len(s.list)
		o.scan(args, func(opt, value string, valued bool) {
			s.list = append(s.list, opt)
			if valued {
				s.list = append(s.list, value)
			}
		})
		return s.list[n:], len(s.list) > n
	}}
	return t, nil
}

// selected returns the value of the last option with the letter want: what
// follows it, its own letter where it has none, "" where one is missing.
func selected(e *event.Event, s *scratch, list listOf, parse func(*event.Event, *scratch) (options, bool), want string) (result string, is bool) {
	args, ok := list(e, s)
	if !ok {
		return "", false
	}
	o, ok := parse(e, s)
	if !ok {
		return "", false
	}
	o.scan(args, func(opt, value string, valued bool) {
		switch {
		case opt == "" && value == want:
			result, is = "", true
		case opt != want || !valued && opt == "?" && !has(&o.known, '?'):
		case valued:
			result, is = value, true
		default:
			result, is = opt, true
		}
	})
	return result, is
}
