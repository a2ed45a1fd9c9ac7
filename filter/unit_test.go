package filter

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/event"
)

func TestKinds(t *testing.T) {
	all := event.AllKinds
	sockets := event.Kinds(event.KindConnection, event.KindDNS, event.KindFlow, event.KindSyscall)
	for _, tt := range []struct {
		expr string
		want event.KindSet
	}{
		{"", all},
		{"proc.name = a", all},
		{"not proc.name = a", all},
		{"evt.type = execve", event.Kinds(event.KindExec)},
		{"evt.type in (execve, connect)", event.Kinds(event.KindExec, event.KindConnection)},
		{"evt.type startswith set", event.Kinds(event.KindCredentials, event.KindNamespace, event.KindAttempt)},
		{"evt.type = openat", event.Kinds(event.KindOpen)},
		{"evt.type != dns", all &^ event.Kinds(event.KindDNS)},
		{"evt.type != connect", all},
		// Not of a false is true, so a missing type cannot be ruled out.
		{"not evt.type = dns", all},
		{"evt.kind = dns", event.Kinds(event.KindDNS)},
		{"not evt.kind = dns", all &^ event.Kinds(event.KindDNS)},
		{"not (evt.kind = dns or evt.kind = exec)", all &^ event.Kinds(event.KindDNS, event.KindExec)},
		{"not (evt.kind = dns and proc.name = a)", all},
		{"not (not evt.kind = dns)", event.Kinds(event.KindDNS)},
		{"not (not evt.kind = dns or proc.name = a)", event.Kinds(event.KindDNS)},
		{"not (not evt.kind = dns and proc.name = a)", all},
		{"fd.ip = ::1", sockets},
		{"fd.ip != ::1", sockets},
		{"not fd.ip = ::1", all},
		{"fd.ip exists and evt.type != dns", event.Kinds(event.KindConnection, event.KindFlow, event.KindSyscall)},
		{"fd.ip exists or evt.type = execve", sockets | event.Kinds(event.KindExec)},
		{"fd.ip exists and dns.name exists", event.Kinds(event.KindDNS)},
		{"proc.name = val(dns.name)", event.Kinds(event.KindDNS)},
		{`join(",", (proc.name, dns.name)) exists`, event.Kinds(event.KindDNS)},
		{"evt.type = execve and evt.type = connect", 0},
		{"proc.name in ()", 0},
		{"not proc.name in ()", all},
		{"toupper(evt.type) = CONNECT", all},
		{"evt.type = val(proc.name)", all},
		{"exit.code = 0", event.Kinds(event.KindExit, event.KindProcess)},
	} {
		if got := mustCompile(t, tt.expr).Kinds(); got != tt.want {
			t.Errorf("%s: kinds %v, want %v", tt.expr, got, tt.want)
		}
	}
}

func TestEmpty(t *testing.T) {
	for _, expr := range []string{"", " ", "\n\t"} {
		p := mustCompile(t, expr)
		if !p.Match(&event.Event{Data: new(event.Exec)}) || p.String() != "" {
			t.Errorf("%q: matches %v, is %q", expr, p.Match(&event.Event{Data: new(event.Exec)}), p)
		}
	}
	if _, err := Parse(" "); err == nil {
		t.Error("Parse of nothing: no error")
	}
}

// TestNoData is about events that were never given their data.
func TestNoData(t *testing.T) {
	for expr, want := range map[string]bool{"fd.ip = ::1": false, "not fd.ip = ::1": true, "evt.num exists": false, "proc.aname = a": false} {
		if got := mustCompile(t, expr).Match(&event.Event{}); got != want {
			t.Errorf("%s: %v", expr, got)
		}
	}
}

func TestLimits(t *testing.T) {
	nested := func(n int, open, inside, end string) string {
		return strings.Repeat(open, n) + inside + strings.Repeat(end, n)
	}
	for _, tt := range []struct {
		name, expr, want string
	}{
		{"parentheses", nested(100, "(", "proc.name exists", ")"), ""},
		{"too many parentheses", nested(101, "(", "proc.name exists", ")"), "more than 100 parentheses inside each other"},
		{"far too many", strings.Repeat("(", 1<<19), "more than 100 parentheses inside each other"},
		{"calls", nested(100, "tolower(", "proc.name", ")") + " exists", ""},
		{"too many calls", nested(101, "tolower(", "proc.name", ")") + " exists", "more than 100 parentheses inside each other"},
		{"not", strings.Repeat("not ", 1<<17) + "proc.name exists", ""},
		{"and", strings.Repeat("proc.name exists and ", 1<<15) + "proc.name exists", ""},
		{"a large regular expression", "proc.name regex 'a{1000}'", ""},
		{"many large regular expressions", "proc.name regex anyof ('a{1000}'" + strings.Repeat(", 'a{1000}'", 200) + ")", "the regular expressions of this expression are too large together"},
		{"long", strings.Repeat(" ", 1<<20) + "proc.name exists", "the expression is longer than 1048576 bytes"},
	} {
		_, err := Compile(tt.expr)
		if got := fmt.Sprint(err); tt.want == "" && err != nil || tt.want != "" && got != tt.want {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestCaret(t *testing.T) {
	for _, tt := range []struct {
		name, expr string
		pos, end   int
		want       string
	}{
		{"one byte", "abc", 1, 2, "abc\n ^"},
		{"nothing, at the end", "abc", 3, 3, "abc\n   ^"},
		{"of nothing", "", 0, 0, "\n^"},
		{"second line", "ab\ncd\nef", 3, 5, "cd\n^^"},
		{"into the next line", "ab\ncd", 1, 4, "ab\n ^"},
		{"at the end of a line", "ab\ncd", 2, 2, "ab\n  ^"},
		{"tabs", "\ta\tb", 3, 4, " a b\n   ^"},
		{"escapes", "\x1b[31m\x00\x7f\x9b b", 9, 10, "\ufffd[31m\ufffd\ufffd\ufffd b\n         ^"},
		{"text turned around", "\u202eab", 3, 4, "\ufffdab\n ^"},
		{"wide and combining", "世e\u0301 b", 7, 8, "世e\u0301 b\n    ^"},
		{"emoji", "🚀 b", 5, 6, "🚀 b\n   ^"},
		{"broken UTF-8", "\xff\xfe b", 3, 4, "\ufffd\ufffd b\n   ^"},
		{"outside", "abc", 7, 9, "abc\n   ^"},
	} {
		e := &Error{Expr: tt.expr, Pos: tt.pos, End: tt.end}
		if d := cmp.Diff(tt.want, e.Caret()); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

// TestMessagesAreSafe puts terminal escapes everywhere a message quotes.
func TestMessagesAreSafe(t *testing.T) {
	for _, expr := range []string{
		"proc.name = \"\x1b[31m\" and x.y = z", "evt.type = \"\x1b[31m\"", "proc.pid = \"\x1b\"", "fd.ip = \"\x1b\"", "proc.name \x1b", "proc.aname[\x1b] = a",
		"proc.name in (\x1b(", "proc.name regex \"\x1b(\"", "container.label[\"\x1b\"] > 5 and \x1b", "tolower(proc.name, \"\x1b\") = a", "proc.name = \"\\\x1b\"",
		"evt.type = \"a\u202eb\"", "evt.type = " + strings.Repeat("a", 500), "proc.pid contains \"\x1b\" and proc.name = a\x1b(b)",
	} {
		_, err := Compile(expr)
		if err == nil {
			t.Errorf("%q: no error", expr)
			continue
		}
		if msg := err.Error(); strings.ContainsAny(msg, "\x1b\n\u202e") || len(msg) > 200 {
			t.Errorf("%q: %q", expr, msg)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"**", "ab", true}, {"?", "", false}, {"?", "/", true}, {"?", "é", false}, {"??", "é", true},
		{"*.log", ".log", true}, {"a*b*c", "a-b-b-c", true}, {"a*b*c", "a-b-b-cd", false}, {"*a", "aaab", false}, {"*ab", "aab", true},
		{"[", "[", true}, {"[a", "[a", true}, {"[]", "[]", true}, {"[]a]", "]", true}, {"[!]a]", "]", false}, {"[!]a]", "b", true}, {"[^a]", "b", true}, {"[a-]", "-", true},
		{"[a-c]", "b", true}, {"[c-a]", "b", false}, {"[--0]", ".", true}, {`[\]]`, "]", true}, {`[\-a]`, "-", true}, {`[a\-c]`, "b", false}, {`[a\]`, `[a]`, true},
		{"[[:digit:]]", "5", true}, {"[[:digit:]a]", "a", true}, {"[![:digit:]]", "5", false}, {"[[:upper:][:space:]]", "\t", true}, {"[[:nosuch:]]", "n]", true},
		{"[[:punct:]]", "!", true}, {"[[:alnum:]]", "_", false}, {"[[:cntrl:]]", "\x7f", true}, {"[[:graph:]]", " ", false}, {"[[:print:]]", " ", true}, {"[[:xdigit:]]", "G", false}, {"[[:blank:]]", "\n", false},
		{`\*`, "*", true}, {`\*`, "a", false}, {`a\`, "a", false}, {`a\`, `a\`, false}, {`\\`, `\`, true},
	} {
		if got := compileGlob(tt.pattern, false)(tt.text); got != tt.want {
			t.Errorf("%q glob %q: %v", tt.text, tt.pattern, got)
		}
		if got := matchGlob(tt.pattern, tt.text, false); got != tt.want {
			t.Errorf("%q glob %q, not compiled: %v", tt.text, tt.pattern, got)
		}
	}
	for _, tt := range []struct {
		pattern, text string
		want          bool
	}{
		{"abc", "ABC", true}, {"[a-c]X", "Bx", true}, {"[A-C]", "b", true}, {"[!a]", "A", false}, {"[/-[]", "a", false}, {"[/-[]", "0", true}, {"É", "é", false}, {`\A`, "a", true}, {"[[:upper:]]", "a", true}, {"K", "\u212a", false},
	} {
		if got := compileGlob(tt.pattern, true)(tt.text); got != tt.want {
			t.Errorf("%q iglob %q: %v", tt.text, tt.pattern, got)
		}
		if got := matchGlob(tt.pattern, tt.text, true); got != tt.want {
			t.Errorf("%q iglob %q, not compiled: %v", tt.text, tt.pattern, got)
		}
	}
	// Many stars cost the product of the lengths, not a power.
	if compileGlob(strings.Repeat("*a", 50)+"b", false)(strings.Repeat("a", 20000)) {
		t.Error("a pattern that ends in b matches what does not")
	}
}

func TestSuggest(t *testing.T) {
	for word, want := range map[string]string{
		"fd.nmae": "did you mean fd.name?", "pid": "did you mean proc.pid?", "PID": "did you mean proc.pid?", "rport": "did you mean fd.rport?",
		"process.name": "did you mean proc.name?", "proc.cmdlin": "did you mean proc.cmdline?", "proc.exe_path": "did you mean proc.exepath?",
		"fd.frobnicate": "see the fields that begin with fd.", "conatiner.frobnicate": "did you mean a field that begins with container.?",
		"qqqqqq": "", strings.Repeat("x", 1000): "",
	} {
		if got := SuggestField(word); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
	for name, field := range otherNames {
		if _, ok := event.Lookup(field); !ok {
			t.Errorf("%s suggests %s, which is no field", name, field)
		}
	}
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "ab", 1}, {"abc", "xbc", 1}, {"ca", "abc", 3}, {"nmae", "name", 1}} {
		if got := distance(tt.a, tt.b); got != tt.want || distance(tt.b, tt.a) != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

// TestFalcoTypes checks the table of names, and that it does not hide typing
// errors of ours.
func TestFalcoTypes(t *testing.T) {
	for _, name := range []string{"openat", "openat2", "open", "creat", "ptrace", "finit_module", "userfaultfd", "renameat2", "procexit", "signaldeliver"} {
		if !falcoTypes[name] {
			t.Errorf("%s is missing", name)
		}
	}
	for name := range falcoTypes {
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || len(name) < 2 {
			t.Errorf("%q is no name", name)
		}
	}
}

// resolver is a Resolver of texts.
type resolver struct {
	macros map[string]string
	lists  map[string][]string
}

func (r resolver) Macro(name string) (Expr, bool) {
	text, ok := r.macros[name]
	if !ok {
		return nil, false
	}
	x, err := Parse(text)
	if err != nil {
		panic(err)
	}
	return x, true
}

func (r resolver) List(name string) ([]*Value, bool) {
	texts, ok := r.lists[name]
	var vs []*Value
	for _, text := range texts {
		v, err := ParseItem(text)
		if err != nil {
			panic(err)
		}
		vs = append(vs, v)
	}
	return vs, ok
}

func TestExpand(t *testing.T) {
	r := resolver{
		map[string]string{
			"spawned": "evt.type in (execve, execveat)", "shell": "proc.name in (shells)", "either": "shell or proc.pid = 1",
			"self": "proc.pid = 1 and self", "ping": "pong", "pong": "ping", "bad": "proc.nmae = a",
		},
		map[string][]string{"shells": {"bash", "more_shells", `"a b"`}, "more_shells": {"zsh", "shells_"}, "empty": nil, "loop": {"loop"}, "quoted": {`"shells"`}},
	}
	r.macros["m0"], r.lists["l0"] = "proc.pid = 1", []string{"a"}
	for i := range 40 { // twice the last, forty times
		m, l := fmt.Sprintf("m%d", i), fmt.Sprintf("l%d", i)
		r.macros[fmt.Sprintf("m%d", i+1)], r.lists[fmt.Sprintf("l%d", i+1)] = m+" and "+m, []string{l, l}
	}
	for _, tt := range []struct{ expr, want, err string }{
		{"spawned and shell", `evt.type in (execve, execveat) and proc.name in (bash, zsh, shells_, "a b")`, ""},
		{"not either", `not (proc.name in (bash, zsh, shells_, "a b") or proc.pid = 1)`, ""},
		{"spawned or either", `evt.type in (execve, execveat) or (proc.name in (bash, zsh, shells_, "a b") or proc.pid = 1)`, ""},
		{"proc.name in shells", `proc.name in (bash, zsh, shells_, "a b")`, ""},
		{"proc.name = anyof shells", `proc.name = anyof (bash, zsh, shells_, "a b")`, ""},
		{`proc.name in ("shells", more_shells)`, "proc.name in (shells, zsh, shells_)", ""},
		{"proc.name in (quoted)", "proc.name in (shells)", ""},
		{"proc.name in (a, empty)", "proc.name in (a)", ""},
		{"proc.name in empty", "proc.name in ()", ""},
		{"proc.name = shells", "proc.name = shells", ""},
		{"unknown and proc.name in unknown", "unknown and proc.name in unknown", ""},
		{"proc.name = a", "proc.name = a", ""},
		{"self", "", "macro self: more than 100 macros inside each other; does it contain itself?"},
		{"ping", "", "macro ping: more than 100 macros inside each other; does it contain itself?"},
		{"m40", "", "m0 stands for more than 1048576 macros and values"},
		{"proc.name in (l40)", "", "l1 stands for more than 1048576 macros and values"},
		{"proc.name in (loop)", "", "list loop: more than 100 lists inside each other; does it contain itself?"},
	} {
		x, err := Parse(tt.expr)
		if err != nil {
			t.Fatal(err)
		}
		before := x.String()
		y, err := Expand(x, r)
		if tt.err != "" {
			if err == nil || err.Error() != tt.err {
				t.Errorf("%s: %v, want %s", tt.expr, err, tt.err)
			}
			continue
		}
		if err != nil || y.String() != tt.want {
			t.Errorf("%s: %v, %v; want %s", tt.expr, y, err, tt.want)
		}
		if x.String() != before {
			t.Errorf("%s: Expand changed its input to %s", tt.expr, x)
		}
	}

	// An error inside a macro shows the macro's own text.
	x, _ := Parse("proc.name = x and bad")
	y, err := Expand(x, r)
	if err != nil {
		t.Fatal(err)
	}
	var at *Error
	if _, err = CompileExpr(y); !errors.As(err, &at) || at.Caret() != "proc.nmae = a\n^^^^^^^^^" {
		t.Errorf("error in a macro: %v", err)
	}
}

func TestParseItem(t *testing.T) {
	for text, want := range map[string]string{"a": "a", "a b": "a b", `"a b"`: "a b", ` 'it\'s' `: "it's", "": "", `a"b`: `a"b`} {
		if v, err := ParseItem(text); err != nil || v.Text != want {
			t.Errorf("%q: %v, %v; want %q", text, v, err, want)
		}
	}
	for text, want := range map[string]string{`"a`: `this string has no closing "`, `"a" b`: "expected the end behind the closing quote"} {
		if _, err := ParseItem(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestConcurrent shares one program, and its scratches, between goroutines.
func TestConcurrent(t *testing.T) {
	p := mustCompile(t, `join("-", (proc.name, fd.rport)) = curl-443 and tolower(proc.name) = curl`)
	hit, _ := newEvent("kind = connection\nproc.name = curl\nfd.rport = 443")
	miss, _ := newEvent("kind = connection\nproc.name = curl\nfd.rport = 44")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				if !p.Match(hit) || p.Match(miss) {
					t.Error("wrong verdict")
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestDeepAncestry: each ancestor is looked at once, also by what a transformer makes
// of them. Anybody can start processes in processes.
func TestDeepAncestry(t *testing.T) {
	const depth = 20_000
	e := &event.Event{Process: &event.Process{Name: "first"}, Data: new(event.Exec)}
	for range depth {
		e.Process = &event.Process{Name: "sh", Parent: e.Process}
	}
	if !mustCompile(t, "proc.aname = first and not toupper(proc.aname) = x").Match(e) {
		t.Error("the first ancestor is not found")
	}
	looks := 0
	names := &values[string]{many: event.Ancestors, of: func(p *event.Process, _ *scratch) (string, bool) {
		looks++
		return p.Name, true
	}}
	upper := transformed(names, true, func(name string, _ *scratch) (string, bool) { return strings.ToUpper(name), true })
	for what, v := range map[string]*values[string]{"names": names, "transformed": upper} {
		looks = 0
		if v.find(e, new(scratch), func(name string) bool { return name == "x" }) {
			t.Error(what, "an ancestor has a name that none has")
		}
		if looks != depth {
			t.Errorf("%s: %d looks at %d ancestors", what, looks, depth)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"fd.name", "fd.rport", "proc.name", "events", "exec", "x"}
	for in, want := range map[string]string{
		"fd.nmae": "fd.name", "evnets": "events", "proc.nam": "proc.name", "xyz": "", "exce": "exec", "": "", "y": "", strings.Repeat("events", 20): "",
	} {
		if got := Nearest(in, known); got != want {
			t.Errorf("%q is near %q, want %q", in, got, want)
		}
	}
}
