package filter

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/event"
)

// A number is a constant in the range of both int64 and uint64.
type number struct {
	neg bool
	mag uint64
}

// parseNumber reads a constant for a field of type t.
func parseNumber(t *term, v *Value) (number, *Error) {
	text := v.Text
	switch t.typ {
	case event.Bool:
		if text == "true" || text == "false" {
			return number{mag: uint64(len("false") - len(text))}, nil
		}
		return number{}, v.errorf(t.name+" is true or false, not "+quoted(text), "")
	case event.Duration:
		if d, err := time.ParseDuration(text); err == nil && !isNumber(text) {
			return number{d < 0, uint64(max(d, -d))}, nil
		}
	case event.Time:
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
			if at.Year() < 1678 || at.Year() > 2261 {
				return number{}, v.errorf("times are between the years 1678 and 2261", "")
			}
			n := at.UnixNano()
			return number{n < 0, uint64(max(n, -n))}, nil
		}
	}
	n := number{}
	digits := text
	if digits != "" && (digits[0] == '-' || digits[0] == '+') {
		n.neg = digits[0] == '-'
		digits = digits[1:]
	}
	base := 10
	if len(digits) > 2 && digits[0] == '0' {
		switch digits[1] {
		case 'x', 'X':
			base = 16
		case 'o', 'O':
			base = 8
		}
		if base != 10 {
			digits = digits[2:]
		}
	}
	mag, err := strconv.ParseUint(digits, base, 64)
	if err != nil || digits[0] == '+' {
		return number{}, noNumber(t, v, err)
	}
	if n.neg && mag > 1<<63 {
		return number{}, v.errorf(text+" is out of range", "")
	}
	n.mag = mag
	n.neg = n.neg && mag > 0
	return n, nil
}

func noNumber(t *term, v *Value, err error) *Error {
	if err != nil && strings.Contains(err.Error(), strconv.ErrRange.Error()) {
		return v.errorf(quoted(v.Text)+" is out of range", "")
	}
	hint := ""
	switch {
	case isNumber(v.Text):
		return v.errorf(t.name+" is a whole number, not "+quoted(v.Text), "")
	case t.typ == event.Duration:
		hint = "write nanoseconds, or a number with its unit: 5s, 10ms"
	case t.typ == event.Time:
		hint = "write nanoseconds since 1970, or a time like 2006-01-02T15:04:05Z"
	case strings.HasSuffix(t.name, "port"):
		hint = "compare names of services with " + strings.TrimSuffix(t.name, "port") + "proto"
		if t.name == "fd.port" {
			hint = "compare names of services with fd.sproto"
		}
	}
	return v.errorf(t.name+" is "+typeName(t.typ)+", not "+quoted(v.Text), hint)
}

// Numbers are compared in an order of uint64: those with a sign have it
// flipped, so that every comparison is one with a range.
const signFlip = 1 << 63

func signed(t event.Type) bool { return t != event.Uint }

func flipOf(t event.Type) uint64 {
	if signed(t) {
		return signFlip
	}
	return 0
}

// key returns n in the order of a type. Below or above what the type can hold,
// side is -1 or 1.
func (n number) key(t event.Type) (k uint64, side int) {
	switch {
	case !signed(t) && n.neg:
		return 0, -1
	case !signed(t):
		return n.mag, 0
	case n.neg:
		return signFlip - n.mag, 0
	case n.mag > math.MaxInt64:
		return 0, 1
	}
	return n.mag + signFlip, 0
}

// numberMatcher returns how numbers of t are matched against constants.
func numberMatcher(t *term) func(Op, Mod, []*Value) (func(int64) bool, *Error) {
	return func(op Op, mod Mod, vs []*Value) (func(int64) bool, *Error) {
		ns := make([]number, len(vs))
		for i, v := range vs {
			var err *Error
			if ns[i], err = parseNumber(t, v); err != nil {
				return nil, err
			}
		}
		switch {
		case op == In, op == Intersects, op == Eq && mod == AnyOf:
			return numberSet(t.typ, ns), nil
		case op == Ne && mod == AllOf:
			in := numberSet(t.typ, ns)
			return func(v int64) bool { return !in(v) }, nil
		case mod != NoMod:
			fs := make([]func(int64) bool, len(ns))
			for i, n := range ns {
				fs[i] = numberRange(t.typ, op, n)
			}
			return counted(mod, fs), nil
		}
		return numberRange(t.typ, op, ns[0]), nil
	}
}

// numberRange compares numbers of type t with n.
func numberRange(t event.Type, op Op, n number) func(int64) bool {
	k, side := n.key(t)
	lo, hi, some := uint64(0), uint64(math.MaxUint64), true
	switch op {
	case Eq, Ne:
		lo, hi, some = k, k, side == 0
	case Lt:
		if side == 0 {
			hi, some = k-1, k > 0
		} else {
			some = side > 0
		}
	case Le:
		if side == 0 {
			hi = k
		} else {
			some = side > 0
		}
	case Gt:
		if side == 0 {
			lo, some = k+1, k < math.MaxUint64
		} else {
			some = side < 0
		}
	case Ge:
		if side == 0 {
			lo = k
		} else {
			some = side < 0
		}
	}
	flip := flipOf(t)
	switch {
	case op == Ne && !some:
		return func(int64) bool { return true }
	case op == Ne:
		want := int64(k ^ flip)
		return func(v int64) bool { return v != want }
	case !some:
		return func(int64) bool { return false }
	case op == Eq:
		want := int64(k ^ flip)
		return func(v int64) bool { return v == want }
	}
	size := hi - lo
	return func(v int64) bool { return uint64(v)^flip-lo <= size }
}

// numberSet holds for one of ns.
func numberSet(t event.Type, ns []number) func(int64) bool {
	const few = 8
	var list []int64
	for _, n := range ns {
		if k, side := n.key(t); side == 0 {
			list = append(list, int64(k^flipOf(t)))
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	if len(list) <= few {
		return func(v int64) bool {
			for _, n := range list {
				if n == v {
					return true
				}
			}
			return false
		}
	}
	set := make(map[int64]struct{}, len(list))
	for _, n := range list {
		set[n] = struct{}{}
	}
	return func(v int64) bool { _, ok := set[v]; return ok }
}

// compareNumbers returns -1, 0 or 1 for numbers of two types.
func compareNumbers(a, b int64, at, bt event.Type) int {
	x, y := uint64(a), uint64(b)
	switch {
	case signed(at) && signed(bt):
		x, y = x^signFlip, y^signFlip
	case signed(at) && a < 0:
		return -1
	case signed(bt) && b < 0:
		return 1
	}
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}
