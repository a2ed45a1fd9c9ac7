package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"warren/event"
)

// A record is one JSON object of the agent: an event, or an entry of a list.
// Its keys are names of fields. It is valid as long as the line it was read
// from.
type record struct {
	fields []recordField
}

type recordField struct {
	key string
	raw []byte // a JSON value
}

var errNoObject = errors.New("the agent sent a line that is not a JSON object")

// parse makes r the object of line.
func (r *record) parse(line []byte) error {
	r.fields = r.fields[:0]
	line = bytes.TrimSpace(line)
	// Once it is known to be well-formed, finding the values takes no errors.
	if len(line) < 2 || line[0] != '{' || !json.Valid(line) {
		return errNoObject
	}
	for i := skipSpace(line, 1); line[i] != '}'; {
		end := stringEnd(line, i)
		key := unquote(line[i:end])
		i = skipSpace(line, skipSpace(line, end)+1) // past the colon
		end = valueEnd(line, i)
		r.fields = append(r.fields, recordField{key, line[i:end]})
		if i = skipSpace(line, end); line[i] == ',' {
			i = skipSpace(line, i+1)
		}
	}
	return nil
}

func skipSpace(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r' {
		i++
	}
	return i
}

// stringEnd returns where the string that begins at i ends.
func stringEnd(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// valueEnd returns where the value that begins at i ends.
func valueEnd(b []byte, i int) int {
	depth := 0
	for {
		switch b[i] {
		case '"':
			i = stringEnd(b, i) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
		i++
		if depth == 0 && (b[i-1] == '"' || b[i-1] == '}' || b[i-1] == ']') {
			return i
		}
	}
}

// unquote returns the text of a JSON string. Like encoding/json it replaces what
// is not UTF-8; the agent sends no such thing.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw) {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

func (r *record) raw(key string) []byte {
	for i := range r.fields {
		if r.fields[i].key == key {
			return r.fields[i].raw
		}
	}
	return nil
}

// has reports whether there is a value.
func (r *record) has(key string) bool {
	v := r.raw(key)
	return v != nil && v[0] != 'n'
}

// str returns a string, or a number as it was written; "" where there is none.
// The bytes of a string that was not UTF-8 are those the kernel had.
func (r *record) str(key string) string {
	v := r.raw(key)
	if v == nil || v[0] == 'n' {
		return ""
	}
	if v[0] != '"' {
		return string(v)
	}
	if exact := r.raw(key + ";base64"); len(exact) > 2 && exact[0] == '"' {
		if b, err := base64.StdEncoding.AppendDecode(nil, exact[1:len(exact)-1]); err == nil {
			return string(b)
		}
	}
	return unquote(v)
}

// num returns a number; 0 where there is none.
func (r *record) num(key string) int64 {
	n, err := strconv.ParseInt(string(r.raw(key)), 10, 64)
	if err != nil {
		u, _ := strconv.ParseUint(string(r.raw(key)), 10, 64) // 0 where it is none either
		return int64(u)
	}
	return n
}

// yes reports whether a value is true.
func (r *record) yes(key string) bool {
	v := r.raw(key)
	return len(v) == 4 && v[0] == 't'
}

// elements returns the values of a list.
func (r *record) elements(key string) []json.RawMessage {
	v := r.raw(key)
	if len(v) == 0 || v[0] != '[' {
		return nil
	}
	var l []json.RawMessage
	if json.Unmarshal(v, &l) != nil {
		return nil
	}
	return l
}

// objects returns the elements of a list of objects.
func (r *record) objects(key string) []*record {
	var out []*record
	for _, e := range r.elements(key) {
		var o record
		if o.parse(e) == nil {
			out = append(out, &o)
		}
	}
	return out
}

// entries returns all values of a field that has keys: "app=shop, tier=front".
func (r *record) entries(name string) string {
	var b strings.Builder
	for _, f := range r.fields {
		key, ok := strings.CutPrefix(f.key, name+"[")
		if !ok || fieldOf(f.key) != name || strings.HasSuffix(f.key, ";base64") {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strings.TrimSuffix(key, "]") + "=" + r.str(f.key))
	}
	return b.String()
}

// object returns an object; one without values where there is none.
func (r *record) object(key string) *record {
	var o record
	if o.parse(r.raw(key)) != nil {
		return &record{}
	}
	return &o
}

// list returns the elements of a list; missing ones are "".
func (r *record) list(key string) []string {
	l := r.elements(key)
	out := make([]string, len(l))
	for i, e := range l {
		switch e[0] {
		case '"':
			out[i] = unquote(e)
		case 'n':
		default:
			out[i] = string(e)
		}
	}
	return out
}

// time returns a time; the zero one where there is none.
func (r *record) time(key string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, r.str(key))
	if err != nil {
		return time.Time{}
	}
	return t
}

// duration returns nanoseconds.
func (r *record) duration(key string) time.Duration { return time.Duration(r.num(key)) }

// kind returns the kind of the event that r is.
func (r *record) kind() event.Kind {
	k, _ := event.LookupKind(r.str("evt.kind")) // a newer agent's kinds are shown without detail
	return k
}

// appendJSON appends the object of those keys that keep wants.
func (r *record) appendJSON(b []byte, keep func(key string) bool) []byte {
	b = append(b, '{')
	for _, f := range r.fields {
		if !keep(f.key) {
			continue
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		key, err := json.Marshal(f.key)
		if err != nil {
			continue // cannot happen: strings can be written
		}
		b = append(append(append(b, key...), ':'), f.raw...)
	}
	return append(b, '}')
}

// fieldOf returns the field that a key belongs to: container.label[app] to
// container.label, and proc.name;base64 to proc.name.
func fieldOf(key string) string {
	if i := strings.IndexAny(key, "[;"); i >= 0 {
		return key[:i]
	}
	return key
}

// clone returns a copy that outlives the line.
func (r *record) clone() *record {
	c := &record{fields: make([]recordField, len(r.fields))}
	for i, f := range r.fields {
		c.fields[i] = recordField{f.key, bytes.Clone(f.raw)}
	}
	return c
}
