package event

import (
	"encoding/json"
	"strconv"
	"strings"
)

// A jsonText is a value of JSON as it is written, "" for none. What it has is
// looked up each time: that costs a look at each byte, and allocates nothing but
// for text with escapes in it. Where a key stands twice the last one counts, as it
// does for API servers. Text that is not JSON has something or nothing of what it
// is asked for, and does no harm.
type jsonText string

// A jsonCursor goes through the members of an object, or the elements of an array.
type jsonCursor struct {
	s     string
	i     int
	close byte // what ends it; 0 for what has neither
}

// open returns a cursor at the first member or element.
func (j jsonText) open() jsonCursor {
	c := jsonCursor{s: string(j), i: 1}
	if len(j) > 0 {
		switch j[0] {
		case '{':
			c.close = '}'
		case '[':
			c.close = ']'
		}
	}
	return c
}

// next returns a member, with its key as it is written, or an element.
func (c *jsonCursor) next() (key, v jsonText, ok bool) {
	if c.close == 0 {
		return "", "", false
	}
	c.blank(',')
	if c.i >= len(c.s) || c.s[c.i] == c.close {
		return "", "", false
	}
	if c.close == '}' {
		if key = c.value(); len(key) < 2 || key[0] != '"' {
			return "", "", false
		}
		c.blank(':')
	}
	v = c.value()
	return key, v, v != ""
}

// blank passes over blanks, and one other character.
func (c *jsonCursor) blank(mark byte) {
	for ; c.i < len(c.s); c.i++ {
		switch c.s[c.i] {
		case ' ', '\t', '\n', '\r', mark:
		default:
			return
		}
	}
}

// value passes over a value, and returns it; "" where there is none.
func (c *jsonCursor) value() jsonText {
	start, depth := c.i, 0
	for c.i < len(c.s) {
		switch c.s[c.i] {
		case '"':
			c.quoted()
		case '{', '[':
			depth++
			c.i++
			continue
		case '}', ']':
			if depth == 0 {
				return "" // the end of what it should be in
			}
			depth--
			c.i++
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return "" // not where a value begins
			}
			c.i++
			continue
		default:
			for c.i < len(c.s) && strings.IndexByte(",:]} \t\n\r", c.s[c.i]) < 0 {
				c.i++
			}
		}
		if depth == 0 {
			return jsonText(c.s[start:c.i])
		}
	}
	return "" // not closed
}

// quoted passes over a text in quotes.
func (c *jsonCursor) quoted() {
	for c.i++; c.i < len(c.s); c.i++ {
		switch c.s[c.i] {
		case '\\':
			c.i++
		case '"':
			c.i++
			return
		}
	}
	c.i = len(c.s)
}

// get follows keys of objects.
func (j jsonText) get(keys ...string) jsonText {
	for _, key := range keys {
		j = j.member(key)
	}
	return j
}

// member returns the value of a key of an object, or, by its number, an element of an
// array.
func (j jsonText) member(key string) (found jsonText) {
	c := j.open()
	if c.close == ']' {
		n, err := strconv.ParseUint(key, 10, 31)
		if err != nil {
			return ""
		}
		return j.element(int(n))
	}
	for {
		k, v, ok := c.next()
		if !ok {
			return found
		}
		if k.is(key) {
			found = v
		}
	}
}

// element returns the n-th element of an array.
func (j jsonText) element(n int) jsonText {
	if j.isList() {
		for c := j.open(); ; n-- {
			_, v, ok := c.next()
			if !ok || n == 0 {
				return v
			}
		}
	}
	return ""
}

// pointer follows a JSON pointer (RFC 6901); the slash that it begins with can be
// left out.
func (j jsonText) pointer(p string) jsonText {
	if p == "" {
		return j
	}
	p = strings.TrimPrefix(p, "/")
	for more := true; more && j != ""; {
		var key string
		key, p, more = strings.Cut(p, "/")
		if strings.IndexByte(key, '~') >= 0 {
			key = strings.ReplaceAll(strings.ReplaceAll(key, "~1", "/"), "~0", "~")
		}
		j = j.member(key)
	}
	return j
}

func (j jsonText) isList() bool { return len(j) > 0 && j[0] == '[' }
func (j jsonText) isText() bool { return len(j) > 1 && j[0] == '"' }

// is reports whether j is a text, without quotes and escapes that of s.
func (j jsonText) is(s string) bool {
	if len(j) == len(s)+2 && j[0] == '"' && string(j[1:len(j)-1]) == s {
		return true
	}
	return strings.IndexByte(string(j), '\\') >= 0 && j.text() == s
}

// text returns a text without quotes and escapes, and other values as they are
// written.
func (j jsonText) text() string {
	if !j.isText() {
		return string(j)
	}
	inside := string(j[1 : len(j)-1])
	if strings.IndexByte(inside, '\\') < 0 {
		return inside
	}
	var s string
	if json.Unmarshal([]byte(j), &s) != nil {
		return inside
	}
	return s
}

// texts appends the elements of an array.
func (j jsonText) texts(dst []string) []string {
	j.each(-1, func(v jsonText) { dst = append(dst, v.text()) })
	return dst
}

// each calls fn with the elements of an array, or with the at-th alone.
func (j jsonText) each(at int, fn func(jsonText)) {
	if !j.isList() {
		return
	}
	if at >= 0 {
		if v := j.element(at); v != "" {
			fn(v)
		}
		return
	}
	for c := j.open(); ; {
		_, v, ok := c.next()
		if !ok {
			return
		}
		fn(v)
	}
}
