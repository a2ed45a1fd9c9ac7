package rule

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"warren/event"
	"warren/filter"
)

// A Format says something about an event: text with %field in it, as rules have
// for their output. It is immutable; any goroutine may use it.
type Format struct {
	parts  []part
	fields []part // those with a field, each name once, sorted by it
}

// A part is text, or a value behind it.
type part struct {
	text  string
	name  string // of the field, as it was written; "" for text alone
	width int    // bytes that the value is filled up to or cut to; 0 for as it is
	value *filter.Reader
	said  *Format // stands for the value: what it says
}

// Missing stands for a value that an event does not have.
const Missing = "<NA>"

// containerInfo is what outputs of old rules have; Falco makes nothing of it.
const containerInfo = "container.info"

// A FormatError says what is wrong with a format, and where.
type FormatError struct {
	Pos, End int // the wrong part
	Msg      string
	Hint     string // "" where there is nothing to say
	Unknown  bool   // it names a field that there is not
}

// Error implements error.
func (e *FormatError) Error() string {
	if e.Hint == "" {
		return e.Msg
	}
	return e.Msg + "; " + e.Hint
}

// ParseFormat reads a format. %name is the value of a field, %name[x] that of
// one with something in brackets, %toupper(name) what a transformer makes of it,
// %20name the value in 20 bytes; %% is a percent sign. A * at the beginning,
// which says that values may be missing, says nothing here: they always may.
func ParseFormat(text string) (*Format, *FormatError) {
	f := &Format{}
	var plain strings.Builder
	pos := 0
	if strings.HasPrefix(text, "*") {
		pos = 1
	}
	for pos < len(text) {
		i := strings.IndexByte(text[pos:], '%')
		if i < 0 {
			break
		}
		plain.WriteString(text[pos : pos+i])
		at := pos + i
		pos = at + 1
		if strings.HasPrefix(text[pos:], "%") {
			plain.WriteByte('%')
			pos++
			continue
		}
		digits := pos
		for pos < len(text) && text[pos] >= '0' && text[pos] <= '9' {
			pos++
		}
		width := 0
		if pos > digits {
			var err error
			if width, err = strconv.Atoi(text[digits:pos]); err != nil || width > 1000 {
				return nil, &FormatError{Pos: digits, End: pos, Msg: "a value cannot be " + text[digits:pos] + " bytes wide", Hint: "1000 is the most"}
			}
		}
		if strings.HasPrefix(text[pos:], containerInfo) {
			pos += len(containerInfo)
			continue
		}
		r, n, err := filter.ParseReader(text[pos:])
		if err != nil {
			return nil, formatError(at, pos, err)
		}
		f.parts = append(f.parts, part{text: plain.String(), name: r.Name(), width: width, value: r})
		plain.Reset()
		pos += n
	}
	plain.WriteString(text[min(pos, len(text)):])
	if plain.Len() > 0 {
		f.parts = append(f.parts, part{text: plain.String()})
	}
	for _, p := range f.parts {
		if p.name != "" && !slices.ContainsFunc(f.fields, func(q part) bool { return q.name == p.name }) {
			f.fields = append(f.fields, p)
		}
	}
	slices.SortFunc(f.fields, func(a, b part) int { return strings.Compare(a.name, b.name) })
	return f, nil
}

// formatError says what is wrong behind a percent sign.
func formatError(at, pos int, err error) *FormatError {
	var fe *filter.Error
	if !errors.As(err, &fe) {
		return &FormatError{Pos: at, End: pos, Msg: err.Error()}
	}
	if fe.Pos == 0 && fe.Msg == "expected a field" {
		return &FormatError{Pos: at, End: pos, Msg: "a percent sign has no field behind it", Hint: "write %% for the sign itself"}
	}
	return &FormatError{Pos: pos + fe.Pos, End: pos + fe.End, Msg: fe.Msg, Hint: fe.Hint, Unknown: unknownField(err)}
}

// Fields returns the names of the fields in the format, as they are written,
// sorted, each once.
func (f *Format) Fields() []string {
	names := make([]string, len(f.fields))
	for i, p := range f.fields {
		names[i] = p.name
	}
	return names
}

// Append appends what the format says of e to b. Text of events is not made
// safe: it can hold what a terminal obeys.
func (f *Format) Append(b []byte, e *event.Event) []byte {
	for _, p := range f.parts {
		b = append(b, p.text...)
		if p.name == "" {
			continue
		}
		start := len(b)
		var ok bool
		if b, ok = p.append(b, e); !ok {
			b = append(b, Missing...)
		}
		if p.width > 0 {
			for len(b)-start < p.width {
				b = append(b, ' ')
			}
			b = b[:start+p.width]
		}
	}
	return b
}

// append appends a value as Falco writes it.
func (p *part) append(b []byte, e *event.Event) ([]byte, bool) {
	if p.said != nil {
		return p.said.Append(b, e), true
	}
	var ok bool
	start := len(b)
	if fn := renders[p.name]; fn != nil {
		b, ok = fn(b, e)
	} else if fn := numbers[p.name]; fn != nil && p.name != "evt.outputtime" {
		var n int64
		if n, ok = fn(e); ok {
			b = strconv.AppendInt(b, n, 10)
		}
	} else {
		b, ok = p.value.Append(b, e)
	}
	if ok {
		return b, true
	}
	if fn := instead[p.name]; fn != nil {
		if s := fn(e); s != "" {
			return append(b[:start], s...), true
		}
	}
	return b[:start], false
}

// AppendFields appends the fields of the format and their values as a JSON
// object: output_fields of an alert. What is missing is null. The time, evt.time, is
// not among them: each alert has it.
func (f *Format) AppendFields(b []byte, e *event.Event) []byte {
	b = append(b, '{')
	var room [256]byte
	for _, p := range f.fields {
		if p.name == "evt.time" {
			continue
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = event.AppendString(b, p.name)
		b = append(b, ':')
		if p.isList() {
			b = p.value.AppendJSON(b, e)
			continue
		}
		text, ok := p.append(room[:0], e)
		if fn := numbers[p.name]; fn != nil && p.said == nil {
			var n int64
			n, ok = fn(e)
			text = strconv.AppendInt(room[:0], n, 10)
		}
		switch {
		case !ok:
			b = append(b, "null"...)
		case p.plain():
			b = append(b, text...)
		default:
			b = event.AppendString(b, string(text))
		}
	}
	return append(b, '}')
}

// isList reports whether the value is a list in JSON too, as the lists of Falco's
// plugins are.
func (p *part) isList() bool {
	return p.said == nil && p.value.Kinds() == auditKinds && p.value.IsList()
}

// plain reports whether the value is a JSON number, or true or false.
func (p *part) plain() bool {
	if p.said != nil {
		return false
	}
	if numbers[p.name] != nil {
		return true
	}
	if renders[p.name] != nil {
		return false
	}
	if f := p.value.Field(); f != nil && f.Many != event.One {
		return false
	}
	switch p.value.Type() {
	case event.Int, event.Uint, event.Bool, event.Duration:
		return true
	}
	return false
}

// Key returns a format of the fields of f alone, with a zero byte behind each:
// what it says of two events is the same if the values are. Fields that skip
// names are not in it. Of a value that a format of its own says, the fields of
// that are.
func (f *Format) Key(skip func(name string) bool) *Format {
	k := &Format{}
	has := func(name string) bool {
		return slices.ContainsFunc(k.parts, func(q part) bool { return q.name == name && q.said == nil })
	}
	for _, p := range slices.Concat(f.fields, f.parts) { // the text can have what is not among the fields: see addFields
		switch {
		case p.said != nil:
			k.parts = append(k.parts, part{name: p.name, said: p.said.Key(skip)}, part{text: "\x00"})
		case p.name != "" && !has(p.name) && !skip(p.name):
			k.parts = append(k.parts, part{name: p.name, value: p.value}, part{text: "\x00"})
		}
	}
	return k
}
