package filter

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"warren/event"
)

// judgeColumns evaluates a condition as someone with columns would: by values alone.
func judgeColumns(t *testing.T, c *Condition, e *event.Event) bool {
	holds := func(x *Condition) bool { return judgeColumns(t, x, e) }
	switch {
	case c.All != nil:
		return !slices.ContainsFunc(c.All, func(x *Condition) bool { return !holds(x) })
	case c.Any != nil:
		return slices.ContainsFunc(c.Any, holds)
	case c.Not != nil:
		return !holds(c.Not)
	case c.Compared == nil:
		p, err := CompileExpr(c.Expr)
		if err != nil {
			t.Fatal(err)
		}
		return p.Match(e)
	}
	x := c.Compared
	n, held := 0, 0
	each := func(ok bool) {
		n++
		if ok {
			held++
		}
	}
	first := 0
	if x.Field.Many == event.Ancestors {
		first = 1
	}
	for i := first; x.Field.Many == event.List || i < 2 && x.Field.Many == event.Either || i < 1 || first == 1; i++ {
		there := false
		switch {
		case x.Field.Type == event.String:
			var v string
			if v, there = x.Field.Str(e, i); there {
				if each(x.Text(v)); x.Only != nil && x.Text(v) && !slices.Contains(x.Only, v) {
					t.Fatalf("%s: %q is not among the only texts", c.Expr, v)
				}
			}
		case isAddr(x.Field.Type):
			var v netip.Addr
			if v, there = x.Field.Addr(e, i); there {
				v = v.Unmap()
				if each(x.Addr(v)); x.Addrs != nil && x.Addr(v) && !slices.Contains(x.Addrs, v) {
					t.Fatalf("%s: %v is not among the only addresses", c.Expr, v)
				}
			}
		default:
			var v int64
			if v, there = x.Field.Num(e, i); there {
				each(x.Num(v))
			}
		}
		if !there && (x.Field.Many == event.List || first == 1 && e.Process.Ancestor(i) == nil) {
			break
		}
	}
	if x.Every {
		return n > 0 && held == n
	}
	return held > 0
}

// TestConditionIsTheExpression compares conditions with the programs that they are
// of.
func TestConditionIsTheExpression(t *testing.T) {
	compared := 0
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 2))
		b := make([]byte, 4096)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		d := &dice{b}
		e := anyEvent(d)
		p, err := Compile(anyExpr(d, e, 3))
		if err != nil {
			continue
		}
		for range 4 {
			if got, want := judgeColumns(t, p.Condition(), e), p.Match(e); got != want {
				t.Fatalf("seed %d: %s is %v, want %v", seed, p, got, want)
			}
			compared++
			e = anyEvent(d)
		}
	}
	if compared < 5000 {
		t.Errorf("only %d comparisons", compared)
	}
}

// TestEdges: a range has a number that satisfies a comparison only if one of its
// ends or an edge in it does.
func TestEdges(t *testing.T) {
	for _, text := range []string{
		"fd.sport = 5", "fd.sport != 5", "fd.sport < 5", "fd.sport <= 5", "fd.sport > 5", "fd.sport >= 5", "fd.sport in (3, 7)",
		"fd.sport != oneof (5, 7)", "fd.sport = anyof (2, 4)", "fd.sport != allof (2, 4)", "evt.rawres > -3", "evt.rawres = -3", "evt.rawres in (-3, 18446744073709551615)",
	} {
		p, err := Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		c := p.Condition().Compared
		if c == nil {
			t.Fatalf("%s has no form for columns", text)
		}
		for lo := int64(-12); lo < 12; lo++ {
			if lo < 0 && c.Field.Type == event.Uint {
				continue
			}
			for hi := lo; hi < 14; hi++ {
				some := false
				for v := lo; v <= hi; v++ {
					some = some || c.Num(v)
				}
				may := c.Num(lo) || c.Num(hi)
				for _, edge := range c.Edges {
					may = may || edge >= lo && edge <= hi && c.Num(edge)
				}
				if some && !may {
					t.Errorf("%s: nothing in %d to %d by its edges", text, lo, hi)
				}
			}
		}
	}
}
