package filter

import (
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/cluster"
	"warren/event"
)

// dice make choices from bytes, so that a fuzzer can change them. Used up, they
// always choose the first.
type dice struct{ b []byte }

func (d *dice) roll(n int) int {
	if len(d.b) == 0 {
		return 0
	}
	c := int(d.b[0])
	d.b = d.b[1:]
	if n > 256 && len(d.b) > 0 {
		c = c<<8 | int(d.b[0])
		d.b = d.b[1:]
	}
	return c % n
}

func (d *dice) chance(percent int) bool { return d.roll(100) >= 100-percent }

func pick[T any](d *dice, of ...T) T { return of[d.roll(len(of))] }

var (
	someTexts = []string{"curl", "sshd", "", "Curl", "a", "/usr/bin/curl", "/etc/passwd", "/usr//bin/", "a b", "x\xff", "größe", "Y3VybA==", "Y3VybA", "-n", "-tval", "-t", "--", "--long", "-", "shop.example", "CAP_SYS_ADMIN", "line\nline", "true", "443", "[a]", `back\slash`, "bcu"}
	someAddrs = []string{"10.0.0.1", "10.0.0.2", "192.168.1.1", "::1", "2001:db8::1", "::ffff:10.0.0.1"}
	someNums  = []uint64{0, 1, 2, 5, 443, 1000, 4242, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64, math.MaxUint64 - 110, 40000}
)

// anyEvent makes an event of any kind with any values.
func anyEvent(d *dice) *event.Event {
	kinds := event.AllKinds.List()
	k := kinds[d.roll(len(kinds))]
	e := &event.Event{Data: dataOf[k](), Ktime: 10_000_000_000}
	fill(d, reflect.ValueOf(e).Elem())
	fill(d, reflect.ValueOf(e.Data).Elem())
	if f, ok := fieldTagged(reflect.ValueOf(e.Data).Elem(), "field", "evt.type"); ok {
		f.SetString(pick(d, k.Types()...))
	}
	if s, ok := e.Data.(*event.Syscall); ok {
		fillCall(d, s)
	}
	if s := event.SocketOf(e); s != nil && d.chance(60) {
		s.RemotePeer = anyPeer(d)
	}
	p := &e.Process
	for range d.roll(6) {
		*p = new(event.Process)
		fill(d, reflect.ValueOf(*p).Elem())
		if d.chance(50) {
			c := new(event.Container)
			fill(d, reflect.ValueOf(c).Elem())
			(*p).Container = c
			if d.chance(60) {
				c.Pod = anyPod(d)
			}
		}
		p = &(*p).Parent
	}
	return e
}

// fillCall gives a call of any type any arguments.
func fillCall(d *dice, s *event.Syscall) {
	s.Call = event.LookupCall(s.Type)
	for i := range s.Regs {
		s.Regs[i] = pick(d, someNums...)
	}
	for i := range s.Memory {
		if s.Memory[i].There = d.chance(70); s.Memory[i].There {
			s.Memory[i].Bytes = pick(d, someTexts...)
		}
	}
	if s.Call.FD == event.NoFD {
		s.FD = -1
		return
	}
	if s.FD = int32(d.roll(4) - 1); !s.Call.FDObject {
		return
	}
	s.FDType, s.FDName = pick(d, "", "file", "ipv4"), pick(d, someTexts...)
	if d.chance(50) {
		s.Sock = new(event.Socket)
		fill(d, reflect.ValueOf(s.Sock).Elem())
	}
}

func anyPod(d *dice) *cluster.Pod {
	p := new(cluster.Pod)
	fill(d, reflect.ValueOf(p).Elem())
	p.Workload.Kind = pick(d, "Deployment", "DaemonSet", "")
	for range d.roll(3) {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(pick(d, someAddrs...)))
	}
	return p
}

func anyPeer(d *dice) *cluster.Peer {
	switch d.roll(4) {
	case 0:
		return &cluster.Peer{Kind: cluster.PeerPod, Pod: anyPod(d)}
	case 1:
		return &cluster.Peer{Kind: cluster.PeerService, Service: &cluster.Service{Namespace: pick(d, someTexts...), Name: pick(d, someTexts...)}}
	case 2:
		return &cluster.Peer{Kind: cluster.PeerNode, Node: &cluster.Node{Name: pick(d, someTexts...)}}
	}
	return &cluster.Peer{Kind: cluster.PeerWorld}
}

// fill sets every member with a tag.
func fill(d *dice, v reflect.Value) {
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		f := v.Field(i)
		if _, ok := sf.Tag.Lookup("field"); !ok || sf.Name == "_" {
			if sf.Type.Kind() == reflect.Struct && sf.IsExported() && sf.Type != reflect.TypeFor[time.Time]() {
				fill(d, f)
			}
			continue
		}
		switch f.Interface().(type) {
		case netip.Addr:
			if d.chance(80) {
				f.Set(reflect.ValueOf(netip.MustParseAddr(pick(d, someAddrs...))))
			}
		case time.Time:
			if d.chance(80) {
				f.Set(reflect.ValueOf(time.Unix(int64(d.roll(5)), int64(d.roll(5)))))
			}
		case []string:
			var l []string
			for range d.roll(5) {
				l = append(l, pick(d, someTexts...))
			}
			f.Set(reflect.ValueOf(l))
		case map[string]string:
			m := map[string]string{}
			for range d.roll(3) {
				m[pick(d, "app", "a b", "")] = pick(d, someTexts...)
			}
			f.Set(reflect.ValueOf(m))
		case *int32:
			if d.chance(70) {
				n := int32(pick(d, 0, 1, -5))
				f.Set(reflect.ValueOf(&n))
			}
		default:
			switch f.Kind() {
			case reflect.String:
				f.SetString(pick(d, someTexts...))
			case reflect.Bool:
				f.SetBool(d.chance(50))
			case reflect.Int:
				f.SetInt(int64(d.roll(5)))
			case reflect.Int32:
				f.SetInt(int64(int32(pick(d, someNums...))))
			case reflect.Int64:
				f.SetInt(int64(pick(d, someNums...)))
			default:
				f.SetUint(pick(d, someNums...) & (1<<f.Type().Bits() - 1))
			}
		}
	}
}

// anyExpr makes an expression that compiles, often about what e has.
func anyExpr(d *dice, e *event.Event, depth int) string {
	if depth > 0 {
		switch d.roll(8) {
		case 1, 2:
			return "(" + anyExpr(d, e, depth-1) + " and " + anyExpr(d, e, depth-1) + ")"
		case 3, 4:
			return anyExpr(d, e, depth-1) + pick(d, " or ", " or not ") + anyExpr(d, e, depth-1)
		case 5:
			return "not " + anyExpr(d, e, depth-1)
		case 6:
			return "(" + anyExpr(d, e, depth-1) + ")"
		case 7:
			return anyExpr(d, e, depth-1) + " and " + anyExpr(d, e, depth-1)
		}
	}
	return anyCheck(d, e)
}

func anyField(d *dice, only func(*event.Field) bool) *event.Field {
	fs := slices.DeleteFunc(slices.Clone(event.Fields()), func(f *event.Field) bool { return !only(f) })
	return fs[d.roll(max(len(fs), 257))%len(fs)]
}

// operand writes a field with what must or may stand in brackets.
func operand(d *dice, f *event.Field) (text string, many event.Many) {
	switch {
	case f.Name == "evt.arg":
		return f.Name + pick(d, "[pid]", "[1]", "[flags]", "[request]"), event.One
	case f.Arg == event.KeyArg && (!f.KeyOptional || d.chance(70)):
		return f.Name + pick(d, "[app]", `["a b"]`, `[""]`, "[none]"), event.One
	case f.Many == event.Ancestors && d.chance(50), f.Many == event.List && d.chance(30), f.Name == "proc.args" && d.chance(30):
		return f.Name + "[" + strconv.Itoa(d.roll(5)) + "]", event.One
	}
	return f.Name, f.Many
}

func isText(f *event.Field) bool { return f.Type == event.String }

// anyText writes something that is text, and a transformer around it.
func anyText(d *dice, depth int) (text string, many event.Many) {
	text, many = operand(d, anyField(d, isText))
	if depth == 0 || d.chance(30) {
		return text, many
	}
	switch d.roll(8) {
	case 0, 1, 2, 3:
		text, many = anyText(d, depth-1)
		return pick(d, "tolower", "toupper", "basename", "b64") + "(" + text + ")", many
	case 4:
		return "concat(" + anyItem(d) + ", " + anyItem(d) + ")", event.One
	case 5:
		return "join(" + pick(d, `"-"`, `""`, anyItem(d)) + ", " + anyList(d) + ")", event.One
	case 6:
		return "getopt(" + anyList(d) + `, "nt:")[` + pick(d, "n", "t", "x") + "]", event.One
	}
	return "getopt(" + anyList(d) + ", " + pick(d, `"nt:"`, `":n:tv"`, anyItem(d)) + ")", event.List
}

func anyItem(d *dice) string {
	if d.chance(40) {
		return pick(d, `"-"`, `"a b"`, `""`, `"nt:"`, "5", "0x1f", `"\""`)
	}
	f := anyField(d, func(f *event.Field) bool { return f.Many == event.One && (f.Arg != event.KeyArg || f.KeyOptional) })
	return f.Name
}

func anyList(d *dice) string {
	switch d.roll(4) {
	case 0:
		return "proc.args"
	case 1:
		return pick(d, "proc.argv", "dns.answers", "ns.changed")
	}
	var items []string
	for range d.roll(4) {
		items = append(items, pick(d, `"-n"`, `"-tval"`, `"-t"`, `"--"`, `"v"`, anyItem(d)))
	}
	return "(" + strings.Join(items, ", ") + ")"
}

func anyCheck(d *dice, e *event.Event) string {
	f := anyField(d, func(*event.Field) bool { return true })
	if d.chance(15) { // the fields that kinds follow from
		f, _ = event.Lookup(pick(d, "evt.type", "evt.kind"))
	}
	left, many := operand(d, f)
	typ := f.Type
	if typ == event.String && d.chance(25) {
		left, many = anyText(d, 2)
	}
	if (typ == event.String || many == event.List) && d.chance(10) {
		left, many, typ = "len("+left+")", event.One, event.Uint
	}
	if d.chance(10) {
		return left + " exists"
	}
	if d.chance(10) && f.Type != event.Net {
		return left + anyOther(d, typ, many)
	}
	ops := []string{"=", "!=", "==", "in", "intersects"}
	switch {
	case typ == event.String:
		ops = append(ops, "<", "<=", ">", ">=", "contains", "icontains", "startswith", "endswith", "glob", "iglob", "regex", "pmatch", "bcontains", "bstartswith")
	case isNum(typ):
		ops = append(ops, "<", "<=", ">", ">=")
	}
	op := pick(d, ops...)
	value := func() string { return anyValue(d, e, f, left, typ, op) }
	switch {
	case op == "in" || op == "intersects" || op == "pmatch":
		return left + " " + op + " " + anyValues(d, value)
	case op[0] != '<' && op[0] != '>' && d.chance(25):
		return left + " " + op + pick(d, " oneof ", " anyof ", " allof ") + anyValues(d, value)
	}
	v := value()
	if (op[0] == '<' || op[0] == '>') && strings.ContainsAny(v, `"'`) {
		v = "5" // no quotes behind these
	}
	return left + " " + op + " " + v
}

func anyValues(d *dice, value func() string) string {
	vs := []string{}
	for range d.roll(13) {
		vs = append(vs, value())
	}
	return "(" + strings.Join(vs, ", ") + ")"
}

// anyOther writes an operator and another field of the same type.
func anyOther(d *dice, typ event.Type, many event.Many) string {
	f := anyField(d, func(f *event.Field) bool {
		return f.Many == event.One && f.Arg == event.NoArg && (f.Type == typ || isNum(typ) && isNum(f.Type))
	})
	ops := []string{"=", "!=", "in", "intersects"}
	if typ == event.String {
		ops = append(ops, "<", ">=", "contains", "icontains", "bcontains", "startswith", "endswith", "glob", "iglob")
	}
	if isNum(typ) {
		ops = append(ops, "<", "<=", ">", ">=")
	}
	right := "val(" + f.Name + ")"
	switch op := pick(d, ops...); {
	case typ == event.String && (op == "in" || op == "intersects") && d.chance(40):
		return " " + op + " " + pick(d, "val", "tolower", "b64", "basename") + "(" + pick(d, "proc.argv", "proc.aname", "dns.answers") + ")"
	case typ == event.String && d.chance(40):
		return " " + op + " " + pick(d, "tolower", "toupper", "basename", "b64") + "(" + f.Name + ")"
	default:
		return " " + op + " " + right
	}
}

// anyValue writes a value for a comparison: often what e has there.
func anyValue(d *dice, e *event.Event, f *event.Field, left string, typ event.Type, op string) string {
	switch {
	case left == "evt.type" && (op[0] == '=' || op == "!=" || op[0] == 'i' && op[1] == 'n'):
		return pick(d, "connect", "execve", "fork", "procexit", "dns", "openat", "lost", "close")
	case left == "evt.kind" && (op[0] == '=' || op == "!=" || op[0] == 'i' && op[1] == 'n'):
		return pick(d, "connection", "exec", "dns", "lost", "exit")
	}
	var have any
	x, err := Parse(left + " exists")
	if err != nil {
		panic(err)
	}
	if vals := refValues(x.(*Check).Left, e).vals; len(vals) > 0 && d.chance(60) {
		have = vals[d.roll(len(vals))]
	}
	switch typ {
	case event.Bool:
		return pick(d, "true", "false")
	case event.IP, event.Net:
		a := pick(d, someAddrs...)
		if have, ok := have.(netip.Addr); ok {
			a = have.String()
		}
		return a + pick(d, "", "", "/8", "/32", "/0")
	case event.String:
		s, ok := have.(string)
		if !ok {
			s = pick(d, someTexts...)
		}
		return textFor(d, op, s)
	}
	n, ok := have.(*big.Int)
	if !ok {
		n = new(big.Int).SetUint64(pick(d, someNums...))
	}
	switch d.roll(6) {
	case 0:
		n = new(big.Int).Add(n, big.NewInt(1))
	case 1:
		n = new(big.Int).Neg(n)
	case 2:
		if n.Sign() >= 0 && n.BitLen() <= 64 {
			return fmt.Sprintf("0x%x", n)
		}
	case 3:
		if typ == event.Duration {
			return pick(d, "5ns", "1us", "1.5ms", "10s", "-1h")
		}
	case 4:
		if typ == event.Time {
			return pick(d, "1970-01-01T00:00:01Z", "1970-01-01T00:00:02.000000003Z", "2000-01-01T00:00:00+02:00")
		}
	}
	if n.Cmp(new(big.Int).SetUint64(math.MaxUint64)) > 0 || n.Cmp(big.NewInt(math.MinInt64)) < 0 {
		return "7"
	}
	return n.String()
}

// textFor changes s a little and writes it for an operator.
func textFor(d *dice, op, s string) string {
	switch op {
	case "regex":
		return pick(d, "curl", "'c.*'", "'.*l'", "'(?i)CURL'", "'a|curl'", "''", "'^.*$'", "'[a-z/]+'", "'line$.^line'")
	case "bcontains", "bstartswith":
		if s == "" {
			s = "c"
		}
		return fmt.Sprintf("%x", s[:1+d.roll(len(s))])
	case "glob", "iglob", "pmatch":
		switch d.roll(6) {
		case 0:
			s = pick(d, "*", "c*", "*l", "*ur*", "c?rl", "[a-d]url", "[!a-d]url", "[^x]*", "/usr/*", "/*/bin", "/u[r-t]r/b*", "*\\[*", "[", "[a", "a[b", "x\\", "CURL", "**l", "?*?", "[]a]*")
		case 1:
			if len(s) > 0 {
				s = s[:d.roll(len(s))] + "*"
			}
		case 2:
			if len(s) > 0 {
				s = "*" + s[d.roll(len(s)):]
			}
		}
	default:
		switch d.roll(6) {
		case 0:
			s = s[:len(s)-d.roll(len(s)+1)]
		case 1:
			s = s[d.roll(len(s)+1):]
		case 2:
			s = strings.ToUpper(s)
		case 3:
			s += "x"
		}
	}
	return string((&Value{Text: strings.ReplaceAll(s, "\x00", "")}).append(nil))
}
