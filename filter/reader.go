package filter

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"warren/event"
)

// A Reader reads a field of events, or what a transformer makes of one, as text.
// It is immutable and can be used by any number of goroutines at once.
type Reader struct {
	t       *term
	c       *compiler
	name    string
	fields  []string
	isField bool // and no transformer
}

// ParseReader reads a field or a transformer, with its arguments, at the
// beginning of text. It returns how many bytes of text that is. The error is an
// *[Error].
func ParseReader(text string) (r *Reader, n int, err error) {
	p := &parser{src: &source{text}, s: text}
	x, fail := p.readable()
	if fail != nil {
		return nil, 0, fail
	}
	c := newCompiler()
	t, fail := c.term(x)
	if fail != nil {
		return nil, 0, fail
	}
	r = &Reader{t: t, c: c, name: text[:p.pos]}
	_, r.isField = x.(*Field)
	visitOperand(x, func(f *Field) { r.fields = append(r.fields, f.Name) })
	return r, p.pos, nil
}

// readable parses what can stand on the left of an operator.
func (p *parser) readable() (Operand, *Error) {
	if name := p.name(); strings.HasPrefix(p.s[p.pos+len(name):], "(") && name != "" {
		return p.call()
	}
	if p.dotted() == "" {
		return nil, p.here().errorf("expected a field", "")
	}
	return p.field()
}

// Name returns the field or transformer as it was written.
func (r *Reader) Name() string { return r.name }

// Type returns the type of the values.
func (r *Reader) Type() event.Type { return r.t.typ }

// Field returns the field that is read, nil where it is a transformer, or has
// something in brackets.
func (r *Reader) Field() *event.Field { return r.t.field }

// Fields returns the names of the fields that the value is made of. The slice is
// shared: do not change it.
func (r *Reader) Fields() []string { return r.fields }

// Kinds returns the kinds of events that can have a value.
func (r *Reader) Kinds() event.KindSet { return r.t.kinds }

// Append appends the value that e has to b, and reports whether there is one.
// Several values stand in parentheses, with commas between them. Numbers are
// decimal, durations and times nanoseconds.
func (r *Reader) Append(b []byte, e *event.Event) ([]byte, bool) {
	var s *scratch
	if r.t.str != nil && r.t.str.scratch || r.t.num != nil && r.t.num.scratch || r.t.ip != nil && r.t.ip.scratch {
		s = r.c.pool.Get().(*scratch)
		defer s.put(r.c.pool)
	}
	start, n := len(b), 0
	begin := func() {
		if n++; n > 1 {
			b = append(b, ',')
		}
	}
	many := r.t.many != event.One
	if many {
		b = append(b, '(')
	}
	switch {
	case r.t.str != nil:
		r.t.str.find(e, s, func(v string) bool { begin(); b = append(b, v...); return false })
	case r.t.num != nil:
		r.t.num.find(e, s, func(v int64) bool { begin(); b = appendNumber(b, r.t.typ, v); return false })
	case r.t.ip != nil:
		r.t.ip.find(e, s, func(v netip.Addr) bool { begin(); b = v.AppendTo(b); return false })
	}
	if n == 0 {
		return b[:start], false
	}
	if many {
		b = append(b, ')')
	}
	return b, true
}

// IsList reports whether the value is a list of texts that events have.
func (r *Reader) IsList() bool { return r.isField && r.t.many == event.List && r.t.str != nil }

// AppendJSON appends the value of what IsList as an array of JSON, or null where e
// has none.
func (r *Reader) AppendJSON(b []byte, e *event.Event) []byte {
	s := r.c.pool.Get().(*scratch)
	defer s.put(r.c.pool)
	n := 0
	r.t.str.find(e, s, func(v string) bool {
		b = append(b, "[,"[min(n, 1)])
		b, n = event.AppendString(b, v), n+1
		return false
	})
	if n == 0 {
		return append(b, "null"...)
	}
	return append(b, ']')
}

// Num returns the value of a number, of a bool, a duration or a time, as
// [event.Field.Num] does; of several the first.
func (r *Reader) Num(e *event.Event) (n int64, ok bool) {
	if r.t.num == nil {
		return 0, false
	}
	var s *scratch
	if r.t.num.scratch {
		s = r.c.pool.Get().(*scratch)
		defer s.put(r.c.pool)
	}
	r.t.num.find(e, s, func(v int64) bool { n, ok = v, true; return true })
	return n, ok
}

func appendNumber(b []byte, t event.Type, v int64) []byte {
	switch t {
	case event.Bool:
		return strconv.AppendBool(b, v != 0)
	case event.Uint:
		return strconv.AppendUint(b, uint64(v), 10)
	case event.Time:
		return time.Unix(0, v).UTC().AppendFormat(b, time.RFC3339Nano)
	}
	return strconv.AppendInt(b, v, 10)
}
