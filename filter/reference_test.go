package filter

import (
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/event"
)

// reference interprets x for e in the plainest way there is: the compiler is
// held against it. It expects an expression that compiles.
func reference(x Expr, e *event.Event) bool {
	switch x := x.(type) {
	case *And:
		return !slices.ContainsFunc(x.X, func(y Expr) bool { return !reference(y, e) })
	case *Or:
		return slices.ContainsFunc(x.X, func(y Expr) bool { return reference(y, e) })
	case *Not:
		return !reference(x.X, e)
	}
	c := x.(*Check)
	left := refValues(c.Left, e)
	switch right := c.Right.(type) {
	case nil:
		return len(left.vals) > 0
	case *Call:
		r := refValues(right, e)
		if c.Op == In || c.Op == Intersects {
			return refAdd(left, c.Op, func(l any) bool {
				return slices.ContainsFunc(r.vals, func(r any) bool { return refHolds(Eq, l, r) })
			})
		}
		return len(r.vals) == 1 && refAdd(left, c.Op, func(l any) bool { return refHolds(c.Op, l, r.vals[0]) })
	case *Value:
		r := refConstant(left.typ, c.Op, right.Text)
		return refAdd(left, c.Op, func(l any) bool { return refHolds(c.Op, l, r) })
	case *List:
		held := 0
		var one func(l any) bool
		if c.Mod == NoMod { // in, intersects, pmatch
			one = func(l any) bool {
				return slices.ContainsFunc(right.Items, func(item Operand) bool {
					op := c.Op
					if op != Pmatch {
						op = Eq
					}
					return refHolds(op, l, refConstant(left.typ, op, item.(*Value).Text))
				})
			}
			return refAdd(left, c.Op, one)
		}
		for _, item := range right.Items {
			r := refConstant(left.typ, c.Op, item.(*Value).Text)
			if refAdd(left, c.Op, func(l any) bool { return refHolds(c.Op, l, r) }) {
				held++
			}
		}
		switch c.Mod {
		case AnyOf:
			return held > 0
		case AllOf:
			return held > 0 && held == len(right.Items)
		}
		return held == 1
	}
	panic("no such check")
}

// refAdd adds up what fn says of several values.
func refAdd(left refResult, op Op, fn func(any) bool) bool {
	if left.many == event.Either && op == Ne || left.many == event.List && op == In {
		return len(left.vals) > 0 && !slices.ContainsFunc(left.vals, func(l any) bool { return !fn(l) })
	}
	return slices.ContainsFunc(left.vals, fn)
}

// A refResult is what an operand is for an event: vals are string, *big.Int,
// bool or netip.Addr.
type refResult struct {
	typ  event.Type
	many event.Many
	vals []any
}

func refConstant(t event.Type, op Op, text string) any {
	switch t {
	case event.String:
		if op == BContains || op == BStartsWith {
			b, err := hex.DecodeString(text)
			if err != nil {
				panic(err)
			}
			return string(b)
		}
		return text
	case event.Bool:
		return text == "true"
	case event.IP, event.Net:
		if a, err := netip.ParseAddr(text); err == nil {
			return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		}
		return netip.MustParsePrefix(text).Masked()
	case event.Duration:
		if d, err := time.ParseDuration(text); err == nil && strings.ContainsAny(text, "smh") {
			return big.NewInt(int64(d))
		}
	case event.Time:
		if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return big.NewInt(t.UnixNano())
		}
	}
	n, ok := new(big.Int), false
	if digits := strings.TrimLeft(text, "+-0"); strings.HasPrefix(digits, "x") || strings.HasPrefix(digits, "o") {
		n, ok = n.SetString(text, 0)
	} else {
		n, ok = n.SetString(text, 10)
	}
	if !ok {
		panic("no number: " + text)
	}
	return n
}

// refHolds compares two values; r can be a pattern or a network.
func refHolds(op Op, l, r any) bool {
	switch l := l.(type) {
	case bool:
		return (l == r.(bool)) == (op != Ne)
	case *big.Int:
		return refOrder(op, l.Cmp(r.(*big.Int)))
	case netip.Addr:
		if a, ok := r.(netip.Addr); ok {
			return (l == a) == (op != Ne)
		}
		return r.(netip.Prefix).Contains(l) == (op != Ne)
	}
	s, v := l.(string), r.(string)
	switch op {
	case Contains, BContains:
		return strings.Contains(s, v)
	case IContains:
		return strings.Contains(refLower(s), refLower(v))
	case StartsWith, BStartsWith:
		return strings.HasPrefix(s, v)
	case EndsWith:
		return strings.HasSuffix(s, v)
	case Glob:
		return refGlob(v, s)
	case IGlob:
		return refGlob(refLower(v), refLower(s))
	case Regex:
		re := regexp.MustCompile("(?m)" + v)
		re.Longest()
		at := re.FindStringIndex(s)
		return at != nil && at[0] == 0 && at[1] == len(s)
	case Pmatch:
		p, path := refNames(v), refNames(s)
		for i, name := range p {
			if i >= len(path) || strings.ContainsAny(name, "?*[") && !refGlob(name, path[i]) || !strings.ContainsAny(name, "?*[") && name != path[i] {
				return false
			}
		}
		return true
	}
	return refOrder(op, strings.Compare(s, v))
}

func refOrder(op Op, n int) bool {
	switch op {
	case Ne:
		return n != 0
	case Lt:
		return n < 0
	case Le:
		return n <= 0
	case Gt:
		return n > 0
	case Ge:
		return n >= 0
	}
	return n == 0
}

func refNames(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" })
}

func refMap(s string, from, to byte, add int) string {
	b := []byte(s)
	for i, c := range b {
		if from <= c && c <= to {
			b[i] = byte(int(c) + add)
		}
	}
	return string(b)
}

func refLower(s string) string { return refMap(s, 'A', 'Z', 32) }

// refGlob translates a pattern to a regular expression over bytes as runes. It
// knows the brackets that the tests make: no classes, no escapes inside.
func refGlob(pattern, s string) bool {
	var re strings.Builder
	re.WriteString(`(?s)^`)
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '*':
			re.WriteString(".*")
		case '?':
			re.WriteString(".")
		case '\\':
			i++
			if i == len(pattern) {
				return false
			}
			re.WriteString(regexp.QuoteMeta(refRunes(pattern[i : i+1])))
		case '[':
			end := strings.IndexByte(pattern[min(i+2, len(pattern)):], ']')
			if end < 0 {
				re.WriteString(`\[`)
				continue
			}
			set := pattern[i+1 : i+2+end]
			i += 2 + end
			if strings.HasPrefix(set, "!") {
				set = "^" + set[1:]
			}
			re.WriteString("[" + refRunes(set) + "]")
		default:
			re.WriteString(regexp.QuoteMeta(refRunes(string([]byte{c}))))
		}
	}
	re.WriteString("$")
	return regexp.MustCompile(re.String()).MatchString(refRunes(s))
}

func refRunes(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

func refValues(x Operand, e *event.Event) refResult {
	switch x := x.(type) {
	case *Value:
		return refResult{event.String, event.One, []any{x.Text}}
	case *Field:
		return refField(x, e)
	case *Call:
		return refCall(x, e)
	}
	panic("no such operand")
}

func refField(x *Field, e *event.Event) refResult {
	name, from, one := x.Name, 0, false
	if name == "proc.args" && x.Arg != nil {
		name, from = "proc.argv", 1
	}
	f, _ := event.Lookup(name)
	r := refResult{typ: f.Type, many: f.Many}
	if f.Arg == event.KeyArg && x.Arg != nil {
		if v, ok := f.Key(e, x.Arg.Text); ok {
			r.vals = append(r.vals, v)
		}
		return r
	}
	if x.Arg != nil {
		n, err := strconv.Atoi(x.Arg.Text)
		if err != nil {
			panic(err)
		}
		from += n
		one = true
		r.many = event.One
	} else if f.Many == event.Ancestors {
		from = 1
	}
	for i := from; ; i++ {
		v, ok := refValue(f, e, i)
		if ok {
			r.vals = append(r.vals, v)
		}
		switch {
		case one, f.Many == event.One, f.Many == event.Either && i == 1, f.Many == event.List && !ok,
			f.Many == event.Ancestors && e.Process.Ancestor(i) == nil:
			return r
		}
	}
}

func refValue(f *event.Field, e *event.Event, i int) (any, bool) {
	switch f.Type {
	case event.String:
		s, ok := f.Str(e, i)
		return s, ok
	case event.IP, event.Net:
		a, ok := f.Addr(e, i)
		return a.Unmap(), ok
	}
	n, ok := f.Num(e, i)
	switch f.Type {
	case event.Bool:
		return n != 0, ok
	case event.Uint:
		return new(big.Int).SetUint64(uint64(n)), ok
	}
	return big.NewInt(n), ok
}

func refCall(x *Call, e *event.Event) refResult {
	each := func(t event.Type, fn func(s string) (any, bool)) refResult {
		in := refValues(x.Args[0], e)
		out := refResult{typ: t, many: in.many}
		for _, v := range in.vals {
			if y, ok := fn(v.(string)); ok {
				out.vals = append(out.vals, y)
			}
		}
		return out
	}
	one := func(t event.Type, v any) refResult { return refResult{t, event.One, []any{v}} }
	missing := refResult{typ: event.String}
	switch x.Func {
	case "val":
		return refValues(x.Args[0], e)
	case "tolower":
		return each(event.String, func(s string) (any, bool) { return refLower(s), true })
	case "toupper":
		return each(event.String, func(s string) (any, bool) { return refMap(s, 'a', 'z', -32), true })
	case "basename":
		return each(event.String, func(s string) (any, bool) {
			parts := strings.Split(s, "/")
			return parts[len(parts)-1], true
		})
	case "b64":
		return each(event.String, func(s string) (any, bool) {
			raw := strings.TrimSuffix(strings.TrimSuffix(s, "="), "=")
			b, err := base64.RawStdEncoding.DecodeString(raw)
			return string(b), err == nil && !strings.ContainsAny(s, "\r\n") && (raw != "" || s == "")
		})
	case "len":
		if l, ok := x.Args[0].(*List); ok {
			texts, ok := refTexts(l, e)
			if !ok {
				return refResult{typ: event.Uint}
			}
			return one(event.Uint, big.NewInt(int64(len(texts))))
		}
		if in := refValues(x.Args[0], e); in.many == event.List {
			if len(in.vals) == 0 {
				return refResult{typ: event.Uint}
			}
			return one(event.Uint, big.NewInt(int64(len(in.vals))))
		}
		return each(event.Uint, func(s string) (any, bool) { return big.NewInt(int64(len(s))), true })
	case "concat":
		texts, ok := refTexts(&List{Items: x.Args}, e)
		if !ok {
			return missing
		}
		return one(event.String, strings.Join(texts, ""))
	case "join":
		sep, ok := refTexts(&List{Items: x.Args[:1]}, e)
		texts, ok2 := refTexts(x.Args[1], e)
		if !ok || !ok2 {
			return missing
		}
		return one(event.String, strings.Join(texts, sep[0]))
	}
	args, ok := refTexts(x.Args[0], e)
	options, ok2 := refTexts(&List{Items: x.Args[1:]}, e)
	if !ok || !ok2 {
		return refResult{event.String, event.List, nil}
	}
	return refGetopt(args, options[0], x.Arg)
}

// refTexts writes the values of a list, all of which must exist.
func refTexts(x Operand, e *event.Event) ([]string, bool) {
	var texts []string
	l, ok := x.(*List)
	if !ok {
		in := refValues(x, e)
		if f, ok := x.(*Field); ok && f.Name == "proc.args" {
			in = refValues(&Field{Name: "proc.argv"}, e)
			in.vals = in.vals[min(1, len(in.vals)):]
		}
		for _, v := range in.vals {
			texts = append(texts, v.(string))
		}
		return texts, len(texts) > 0
	}
	for _, item := range l.Items {
		in := refValues(item, e)
		if len(in.vals) == 0 {
			return nil, false
		}
		switch v := in.vals[0].(type) {
		case string:
			texts = append(texts, v)
		case bool:
			texts = append(texts, strconv.FormatBool(v))
		case *big.Int:
			texts = append(texts, v.String())
		case netip.Addr:
			texts = append(texts, v.String())
		}
	}
	return texts, true
}

// refGetopt spreads the arguments into letters first.
func refGetopt(args []string, options string, want *Value) refResult {
	options = strings.TrimPrefix(options, ":")
	known := strings.ReplaceAll(options, ":", "")
	valued := func(c string) bool {
		for i := 0; i+1 < len(options); i++ {
			if options[i:i+1] == c && options[i+1] == ':' {
				return true
			}
		}
		return false
	}
	var all []any
	var picked []any
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" || !strings.HasPrefix(arg, "-") || arg == "-" {
			break
		}
		if strings.HasPrefix(arg, "--") {
			continue
		}
		for i := 1; i < len(arg); i++ {
			c := arg[i : i+1]
			if c == ":" || !strings.Contains(known, c) {
				all = append(all, "?")
				continue
			}
			if !valued(c) {
				all = append(all, c)
				if want != nil && want.Text == c {
					picked = []any{c}
				}
				continue
			}
			value, found := arg[i+1:], true
			if value == "" {
				if found = len(args) > 0; found {
					value, args = args[0], args[1:]
				}
			}
			if found {
				all = append(all, c, value)
			} else {
				all = append(all, "")
			}
			if want != nil && want.Text == c {
				picked = []any{value}
			}
			break
		}
	}
	if want != nil {
		return refResult{event.String, event.One, picked}
	}
	return refResult{event.String, event.List, all}
}
