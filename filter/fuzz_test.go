package filter

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"warren/event"
)

// judge holds the compiled form of an expression against the reference.
func judge(t *testing.T, expr string, e *event.Event) (verdict bool) {
	t.Helper()
	p, err := Compile(expr)
	if err != nil {
		t.Fatalf("%v\n%s", err, caret(err))
	}
	want := reference(p.expr, e)
	// The part behind Match's look at the kind must itself be right.
	if got := p.match(e); got != want {
		t.Fatalf("%s\nis %v, the reference says %v, for\n%s", expr, got, want, event.AppendJSON(nil, e))
	}
	if want && !p.Kinds().Has(e.Data.Kind()) {
		t.Fatalf("%s\nholds for an event of kind %v, Kinds() = %v", expr, e.Data.Kind(), p.Kinds())
	}
	if p.Match(e) != want {
		t.Fatalf("%s\nMatch is %v, the reference says %v", expr, !want, want)
	}
	roundTrip(t, p)
	return want
}

// roundTrip checks that the canonical form means the same and is its own.
func roundTrip(t *testing.T, p *Program) {
	t.Helper()
	if p.expr == nil {
		return
	}
	canonical := p.String()
	q, err := Compile(canonical)
	if err != nil {
		t.Fatalf("canonical form: %v\n%s", err, caret(err))
	}
	if again := q.String(); again != canonical {
		t.Fatalf("canonical form\n%s\nturned into\n%s", canonical, again)
	}
	if a, b := shape(p.expr), shape(q.expr); a != b {
		t.Fatalf("canonical form %s means\n%s, not\n%s", canonical, b, a)
	}
	if q.Kinds() != p.Kinds() {
		t.Fatalf("canonical form %s has kinds %v, not %v", canonical, q.Kinds(), p.Kinds())
	}
}

// shape writes a tree without the places of its nodes.
func shape(x any) string {
	v := reflect.ValueOf(x)
	switch v.Kind() {
	case reflect.Interface, reflect.Pointer:
		if v.IsNil() {
			return "nil"
		}
		return shape(v.Elem().Interface())
	case reflect.Slice:
		var parts []string
		for i := range v.Len() {
			parts = append(parts, shape(v.Index(i).Interface()))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[Span]() {
			return ""
		}
		var parts []string
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "Quoted" {
				parts = append(parts, shape(v.Field(i).Interface()))
			}
		}
		return v.Type().Name() + "{" + strings.Join(parts, " ") + "}"
	}
	return fmt.Sprintf("%#v", x)
}

func FuzzMatch(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		b := make([]byte, 400)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &dice{b}
		// The expression's bytes come first: a change of them keeps the event.
		n := min(len(b), 80)
		about := &dice{b[n:]}
		e := anyEvent(about)
		judge(t, anyExpr(&dice{d.b[:n]}, e, 3), e)
	})
}

// TestReference is FuzzMatch with as many expressions as a second allows, and
// checks that both verdicts are common.
func TestReference(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	held, all := 0, 0
	b := make([]byte, 1200)
	for range 4000 {
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		e := anyEvent(&dice{b[:1000]})
		if judge(t, anyExpr(&dice{b[1000:]}, e, 2), e) {
			held++
		}
		all++
	}
	if held < all/10 || held > all*9/10 {
		t.Errorf("%d of %d expressions hold: the events or expressions are too alike", held, all)
	}
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{
		"", " ", "a", "proc.name = a and not (proc.pid > 5 or fd.ip in (10.0.0.0/8, ::1))", `proc.name = "a\x41\n\"" or proc.name = 'b'`,
		"proc.aname[2] in (a, 'b')", `container.label["a b"] exists`, `join(",", (proc.name, "a", 5)) contains oneof (a, b)`,
		`getopt(proc.args, "nt:")[t] = val(proc.name)`, "proc.name regex 'a(b'", "proc.name glob '[a-'", "evt.type = opennat", "not not(not proc.name exists)",
		"proc.name =~ a", "a && b", "\xff\x00", "((((((((", "proc.name in oneof", "tolower(b64(basename(proc.name))) = x", "proc.duration > 5s",
	} {
		f.Add(s)
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 30 {
		b := make([]byte, 300)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(anyExpr(&dice{b[200:]}, anyEvent(&dice{b}), 2))
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Compile(s)
		if err == nil {
			roundTrip(t, p)
			p.Match(&event.Event{Data: new(event.Exec)})
			return
		}
		var at *Error
		if !errors.As(err, &at) || at.Expr != s || at.Pos < 0 || at.End < at.Pos || at.End > len(s) {
			t.Fatalf("%q: error %#v", s, err)
		}
		if strings.ContainsAny(at.Error(), "\n\x1b") || at.Msg == "" {
			t.Fatalf("%q: the message is %q", s, at.Error())
		}
		line, under, ok := strings.Cut(at.Caret(), "\n")
		if !ok || strings.Trim(under, " ^") != "" || !strings.Contains(under, "^") || !utf8.ValidString(line) || strings.ContainsAny(line, "\x1b\r\t\x00\u202e") {
			t.Fatalf("%q: shown as\n%q\n%q", s, line, under)
		}
	})
}
