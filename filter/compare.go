package filter

import (
	"cmp"
	"net/netip"
	"strings"
	"sync"

	"warren/event"
)

// compare compiles the comparison of left with another field or transformer.
func (c *compiler) compare(x *Check, left *term, call *Call) (node, *Error) {
	right, err := c.call(call)
	if err != nil {
		return node{}, err
	}
	switch {
	case x.Op == Pmatch || x.Op == Regex:
		return node{}, right.errorf(x.Op.String()+" wants constants, not a field", "")
	case left.typ == event.Net || right.typ == event.Net:
		return node{}, right.errorf("networks are compared with constants only", "compare addresses: fd.cip = val(fd.sip)")
	case left.typ != right.typ && !(isNum(left.typ) && isNum(right.typ)):
		return node{}, right.errorf(left.name+" is "+typeName(left.typ)+", but "+right.name+" is "+typeName(right.typ), "")
	case right.many != event.One && x.Op != In && x.Op != Intersects:
		hint := "compare by in or intersects"
		if right.many == event.Ancestors {
			hint = "write which ancestor: " + right.name + "[1]"
		}
		return node{}, right.errorf(right.name+" has several values", hint)
	}
	r := reachOf(left.kinds & right.kinds)
	every := x.Op == Ne && left.many == event.Either || x.Op == In && left.many == event.List
	switch {
	case left.str != nil:
		return node{compared(c.pool, left.str, right.str, every, textComparison(x.Op)), r}, nil
	case left.num != nil:
		lt, rt, holds := left.typ, right.typ, orderHolds(x.Op)
		return node{compared(c.pool, left.num, right.num, every, func(a, b int64) bool { return holds(compareNumbers(a, b, lt, rt)) }), r}, nil
	}
	if x.Op == Ne {
		return node{compared(c.pool, left.ip, right.ip, every, func(a, b netip.Addr) bool { return a != b }), r}, nil
	}
	return node{compared(c.pool, left.ip, right.ip, every, func(a, b netip.Addr) bool { return a == b }), r}, nil
}

// compared makes a predicate that compares the values of left with those of
// right: one of them, or every one, with any.
func compared[T any](pool *sync.Pool, left, right *values[T], every bool, holds func(a, b T) bool) predicate {
	match := func(e *event.Event, s *scratch) bool {
		with := func(a T) bool { return right.find(e, s, func(b T) bool { return holds(a, b) }) }
		if every {
			return left.every(e, s, with)
		}
		return left.find(e, s, with)
	}
	if !left.scratch && !right.scratch {
		return func(e *event.Event) bool { return match(e, nil) }
	}
	return func(e *event.Event) bool {
		s := pool.Get().(*scratch)
		ok := match(e, s)
		s.put(pool)
		return ok
	}
}

// orderHolds returns what an operator wants of an order.
func orderHolds(op Op) func(int) bool {
	switch op {
	case Ne:
		return func(n int) bool { return n != 0 }
	case Lt:
		return func(n int) bool { return n < 0 }
	case Le:
		return func(n int) bool { return n <= 0 }
	case Gt:
		return func(n int) bool { return n > 0 }
	case Ge:
		return func(n int) bool { return n >= 0 }
	}
	return func(n int) bool { return n == 0 } // =, in, intersects
}

func textComparison(op Op) func(a, b string) bool {
	switch op {
	case Contains, BContains:
		return strings.Contains
	case StartsWith, BStartsWith:
		return strings.HasPrefix
	case EndsWith:
		return strings.HasSuffix
	case IContains:
		return containsFoldBoth
	case Glob:
		return func(s, pattern string) bool { return matchGlob(pattern, s, false) }
	case IGlob:
		return func(s, pattern string) bool { return matchGlob(pattern, s, true) }
	}
	holds := orderHolds(op)
	return func(a, b string) bool { return holds(cmp.Compare(a, b)) }
}

// containsFoldBoth reports whether s contains sub, both in any case.
func containsFoldBoth(s, sub string) bool {
next:
	for i := 0; i+len(sub) <= len(s); i++ {
		for j := range len(sub) {
			if lower(s[i+j]) != lower(sub[j]) {
				continue next
			}
		}
		return true
	}
	return false
}
