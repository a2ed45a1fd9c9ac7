package filter

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// source is a text that was parsed. Nodes of one tree can come from several:
// a condition and the macros that were put into it.
type source struct{ text string }

// A Span is the place of a node in the text it was parsed from.
type Span struct {
	src      *source
	Pos, End int // byte offsets
}

// span makes every node have its place.
func (s Span) span() Span { return s }

func (s Span) errorf(msg, hint string) *Error {
	if s.src == nil {
		return &Error{Msg: msg, Hint: hint}
	}
	return &Error{Expr: s.src.text, Pos: s.Pos, End: s.End, Msg: msg, Hint: hint}
}

// Mistake returns an error about what stands there, with the text that it was
// parsed from.
func (s Span) Mistake(msg, hint string) *Error { return s.errorf(msg, hint) }

// to returns the span from the start of s to the end of t.
func (s Span) to(t Span) Span { return Span{s.src, s.Pos, t.End} }

// An Expr is a condition: *And, *Or, *Not, *Check or *Macro. Trees are not
// changed once made and can share parts.
type Expr interface {
	// String returns the canonical form, which parses to the same tree.
	String() string
	span() Span
	append(b []byte, inside int) []byte
}

// And holds when all of its conditions do; they are evaluated in order until
// one does not.
type And struct {
	Span
	X []Expr
}

// Or holds when one of its conditions does; they are evaluated in order until
// one does.
type Or struct {
	Span
	X []Expr
}

// Not holds when its condition does not.
type Not struct {
	Span
	X Expr
}

// A Macro is a name that stands for a condition. [Expand] replaces it.
type Macro struct {
	Span
	Name string
}

// A Check compares an operand with another.
type Check struct {
	Span
	Left  Operand // *Field or *Call
	Op    Op
	OpAt  Span
	Mod   Mod
	Right Operand // *Value, *List, *ListName, *Call; nil for Exists
}

// An Operand is one side of a check: *Field, *Call, *Value, *List or *ListName.
type Operand interface {
	span() Span
	append(b []byte) []byte
}

// A Field names a field of events, with what stands in brackets behind it.
type Field struct {
	Span
	Name string
	Arg  *Value // nil where there are no brackets
}

// A Call is a transformer applied to operands, or val(field).
type Call struct {
	Span
	Func string
	Args []Operand
	Arg  *Value // what stands in brackets behind it: getopt(...)[x]
}

// A Value is a constant; its type is that of what it is compared with.
type Value struct {
	Span
	Text   string // unquoted
	Quoted bool
}

// A List is several operands in parentheses. On the right of an operator all
// are values.
type List struct {
	Span
	Items []Operand
}

// A ListName is a name that stands for a list. [Expand] replaces it.
type ListName struct {
	Span
	Name string
}

// An Op is an operator.
type Op uint8

// The operators.
const (
	Eq Op = iota + 1
	Ne
	Lt
	Le
	Gt
	Ge
	Exists
	In
	Intersects
	Pmatch
	Contains
	IContains
	BContains
	StartsWith
	BStartsWith
	EndsWith
	Glob
	IGlob
	Regex
)

var opNames = [...]string{
	Eq: "=", Ne: "!=", Lt: "<", Le: "<=", Gt: ">", Ge: ">=", Exists: "exists", In: "in", Intersects: "intersects", Pmatch: "pmatch",
	Contains: "contains", IContains: "icontains", BContains: "bcontains", StartsWith: "startswith", BStartsWith: "bstartswith",
	EndsWith: "endswith", Glob: "glob", IGlob: "iglob", Regex: "regex",
}

// String returns the operator as it is written.
func (o Op) String() string { return opNames[o] }

// numeric operators take a bare number on their right.
func (o Op) numeric() bool { return o >= Lt && o <= Ge }

// list operators take a list on their right.
func (o Op) list() bool { return o == In || o == Intersects || o == Pmatch }

// A Mod says how a comparison with each value of a list adds up.
type Mod uint8

// The modifiers.
const (
	NoMod Mod = iota
	OneOf     // exactly one comparison holds
	AnyOf     // at least one holds
	AllOf     // all hold
)

var modNames = [...]string{OneOf: "oneof", AnyOf: "anyof", AllOf: "allof"}

// String returns the modifier as it is written.
func (m Mod) String() string { return modNames[m] }

// transformers are the functions that can be called, but for val.
var transformers = []string{"tolower", "toupper", "b64", "basename", "len", "join", "concat", "getopt"}

// What an expression stands inside of, for parentheses.
const (
	insideNothing = iota
	insideAnd
	insideNot
)

// String implements [Expr].
func (x *And) String() string { return string(x.append(nil, insideNothing)) }

// String implements [Expr].
func (x *Or) String() string { return string(x.append(nil, insideNothing)) }

// String implements [Expr].
func (x *Not) String() string { return string(x.append(nil, insideNothing)) }

// String implements [Expr].
func (x *Macro) String() string { return x.Name }

// String implements [Expr].
func (x *Check) String() string { return string(x.append(nil, insideNothing)) }

func (x *And) append(b []byte, inside int) []byte {
	return appendJoined(b, x.X, " and ", insideAnd, inside >= insideAnd)
}

func (x *Or) append(b []byte, inside int) []byte {
	return appendJoined(b, x.X, " or ", insideNothing, inside >= insideAnd)
}

func appendJoined(b []byte, xs []Expr, word string, inside int, parens bool) []byte {
	if parens {
		b = append(b, '(')
	}
	for i, x := range xs {
		if i > 0 {
			b = append(b, word...)
		}
		in := inside
		if _, ok := x.(*Or); ok {
			in = insideAnd // an or directly in an or keeps its parentheses, and its shape
		}
		b = x.append(b, in)
	}
	if parens {
		b = append(b, ')')
	}
	return b
}

func (x *Not) append(b []byte, inside int) []byte {
	if twice, ok := x.X.(*Not); ok {
		return twice.X.append(b, inside)
	}
	return x.X.append(append(b, "not "...), insideNot)
}

func (x *Macro) append(b []byte, _ int) []byte { return append(b, x.Name...) }

func (x *Check) append(b []byte, _ int) []byte {
	b = x.Left.append(b)
	b = append(b, ' ')
	b = append(b, x.Op.String()...)
	if x.Mod != NoMod {
		b = append(b, ' ')
		b = append(b, x.Mod.String()...)
	}
	if x.Right != nil {
		b = append(b, ' ')
		b = x.Right.append(b)
	}
	return b
}

func (x *Field) append(b []byte) []byte { return appendArg(append(b, x.Name...), x.Arg) }

func (x *Call) append(b []byte) []byte {
	b = append(b, x.Func...)
	b = append(b, '(')
	b = appendOperands(b, x.Args, true)
	b = append(b, ')')
	return appendArg(b, x.Arg)
}

func (x *List) append(b []byte) []byte {
	b = append(b, '(')
	b = appendOperands(b, x.Items, false)
	return append(b, ')')
}

func (x *ListName) append(b []byte) []byte { return append(b, x.Name...) }

func (x *Value) append(b []byte) []byte { return appendText(b, x.Text, x.plain()) }

// plain reports whether x can be written without quotes and still be read as a
// value.
func (x *Value) plain() bool {
	if x.Text == "" || slices.Contains(modNames[1:], x.Text) {
		return false
	}
	return !strings.ContainsFunc(x.Text, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()"'=,\`, r)
	})
}

func appendArg(b []byte, arg *Value) []byte {
	if arg == nil {
		return b
	}
	b = append(b, '[')
	b = appendText(b, arg.Text, arg.plain() && !strings.ContainsAny(arg.Text, "[]"))
	return append(b, ']')
}

func appendOperands(b []byte, xs []Operand, call bool) []byte {
	for i, x := range xs {
		if i > 0 {
			b = append(b, ", "...)
		}
		switch x := x.(type) {
		case *Value:
			// What a transformer is given is quoted, but for numbers.
			b = appendText(b, x.Text, x.plain() && (!call || !x.Quoted))
		case *List:
			b = append(b, '(')
			b = appendOperands(b, x.Items, true)
			b = append(b, ')')
		default:
			b = x.append(b)
		}
	}
	return b
}

const hexDigits = "0123456789abcdef"

// appendText appends a constant, in quotes unless it is plain.
func appendText(b []byte, s string, plain bool) []byte {
	if plain {
		return append(b, s...)
	}
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		if r, n := utf8.DecodeRuneInString(s[i:]); r >= utf8.RuneSelf && n > 1 && unicode.IsPrint(r) {
			b = append(b, s[i:i+n]...)
			i += n - 1
			continue
		}
		switch c := s[i]; {
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\t':
			b = append(b, '\\', 't')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '"':
			b = append(b, '\\', '"')
		case c < ' ' || c >= 0x7f, c == '\\':
			// A backslash could not stand as \\ at the end: a quote behind a
			// backslash never ends a string.
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
