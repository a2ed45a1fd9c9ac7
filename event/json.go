package event

import (
	"encoding/base64"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// AppendJSON appends e as one JSON object to b. Its keys are the names of the
// fields; a missing value has no key.
//
// Strings come from the kernel and need not be UTF-8. Where one is not, its
// invalid bytes are replaced by U+FFFD, and a second key, the name followed by
// ";base64", holds the bytes as they were. Elements of lists, and labels, have
// no such key: what proc.argv holds is in proc.exe and proc.args too.
func AppendJSON(b []byte, e *Event) []byte { return appendJSON(b, e, catalog.byKind[kindOf(e)]) }

func appendJSON(b []byte, e *Event, fields []*Field) []byte {
	b = append(b, '{')
	first := true
	key := func(name string) {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, `":`...)
	}
	for _, f := range fields {
		switch {
		case f.Arg == KeyArg:
			m := f.gets[kindOf(e)].all(e)
			var room [32]string
			for _, k := range appendSortedKeys(room[:0], m) {
				if !first {
					b = append(b, ',')
				}
				first = false
				b, _ = appendString(b, f.Name+"["+k+"]")
				b = append(b, ':')
				b, _ = appendString(b, m[k])
			}
		case f.Many == Either:
			at, wasFirst := len(b), first
			key(f.Name)
			var some bool
			if b, some = appendEither(b, f, e); !some {
				b, first = b[:at], wasFirst
			}
		case f.Many == List || f.Many == Ancestors:
			i := 0
			if f.Many == Ancestors {
				i = 1
				if e.Process == nil || e.Process.Parent == nil {
					continue
				}
			} else if _, ok := f.Str(e, 0); !ok {
				continue
			}
			key(f.Name)
			b = appendList(b, f, e, i)
		default:
			name := len(b)
			wasFirst := first
			key(f.Name)
			var ok, valid bool
			if b, ok, valid = appendValue(b, f, e, 0); !ok {
				b, first = b[:name], wasFirst
			} else if !valid {
				raw, _ := f.Str(e, 0)
				key(f.Name + ";base64")
				b = append(b, '"')
				b = base64.StdEncoding.AppendEncode(b, []byte(raw))
				b = append(b, '"')
			}
		}
	}
	return append(b, '}')
}

// appendEither appends the values of those ends that there are, as a list. It
// reports whether there is one.
func appendEither(b []byte, f *Field, e *Event) (_ []byte, some bool) {
	b = append(b, '[')
	for i := range 2 {
		at := len(b)
		if some {
			b = append(b, ',')
		}
		var ok bool
		if b, ok, _ = appendValue(b, f, e, i); !ok {
			b = b[:at]
			continue
		}
		some = true
	}
	return append(b, ']'), some
}

// appendList appends values from the i-th on. A value that is missing between
// others is null, so that generations stay aligned.
func appendList(b []byte, f *Field, e *Event, i int) []byte {
	b = append(b, '[')
	if f.Listed() {
		for n, s := range f.AppendList(nil, e, -1) {
			if n > 0 {
				b = append(b, ',')
			}
			b, _ = appendString(b, s)
		}
		return append(b, ']')
	}
	for n := 0; ; i, n = i+1, n+1 {
		if f.Many == Ancestors && e.Process.Ancestor(i) == nil {
			break
		}
		at := len(b)
		if n > 0 {
			b = append(b, ',')
		}
		var ok bool
		if b, ok, _ = appendValue(b, f, e, i); !ok {
			if f.Many != Ancestors {
				b = b[:at]
				break
			}
			b = append(b, "null"...)
		}
	}
	return append(b, ']')
}

// appendValue appends the i-th value of f. It reports whether there is one, and
// whether it was valid UTF-8.
func appendValue(b []byte, f *Field, e *Event, i int) (_ []byte, ok, valid bool) {
	switch f.Type {
	case String:
		s, ok := f.Str(e, i)
		if !ok {
			return b, false, true
		}
		b, valid = appendString(b, s)
		return b, true, valid
	case IP, Net:
		a, ok := f.Addr(e, i)
		if !ok {
			return b, false, true
		}
		b = append(b, '"')
		b = a.AppendTo(b)
		return append(b, '"'), true, true
	}
	n, ok := f.Num(e, i)
	if !ok {
		return b, false, true
	}
	switch f.Type {
	case Bool:
		b = strconv.AppendBool(b, n != 0)
	case Uint:
		b = strconv.AppendUint(b, uint64(n), 10)
	case Time:
		b = append(b, '"')
		b = time.Unix(0, n).UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	default:
		b = strconv.AppendInt(b, n, 10)
	}
	return b, true, true
}

const hexDigits = "0123456789abcdef"

// AppendString appends s as a JSON string: bytes that are not UTF-8 become U+FFFD,
// and what a terminal would not print is escaped.
func AppendString(b []byte, s string) []byte {
	b, _ = appendString(b, s)
	return b
}

// appendString appends s as [AppendString] does and reports whether it was UTF-8.
func appendString(b []byte, s string) (_ []byte, valid bool) {
	valid = true
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\t':
				b = append(b, '\\', 't')
			case '\r':
				b = append(b, '\\', 'r')
			default:
				b = append(b, `\u00`...)
				b = append(b, hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			valid = false
			b = append(b, s[start:i]...)
			b = append(b, `\ufffd`...)
			i++
			start = i
			continue
		}
		if !strconv.IsPrint(r) {
			// C1 controls, bidirectional overrides, zero-width characters: JSON
			// means the same with them escaped, and a terminal is safe.
			b = append(b, s[start:i]...)
			for _, u := range utf16.AppendRune(nil, r) {
				b = append(b, '\\', 'u', hexDigits[u>>12], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
			}
			i += n
			start = i
			continue
		}
		i += n
	}
	b = append(b, s[start:]...)
	return append(b, '"'), valid
}
