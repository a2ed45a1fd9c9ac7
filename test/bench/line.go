package main

import (
	"bytes"
	"strconv"
)

// The events of a storm come faster than encoding/json decodes them, and what
// reads them shares the machine with what is measured. So values are cut out of
// the lines: keys are never part of a value in what our own load causes.

// number is a number in an event's line.
func number(line []byte, key string) (int64, bool) {
	rest, ok := after(line, key)
	if !ok {
		return 0, false
	}
	end := 0
	for end < len(rest) && (rest[end] == '-' || rest[end] >= '0' && rest[end] <= '9') {
		end++
	}
	n, err := strconv.ParseInt(string(rest[:end]), 10, 64)
	return n, err == nil
}

// text is a string in an event's line. Strings with escapes are cut at the
// first quote.
func text(line []byte, key string) []byte {
	rest, ok := after(line, key)
	if !ok || len(rest) == 0 || rest[0] != '"' {
		return nil
	}
	end := bytes.IndexByte(rest[1:], '"')
	if end < 0 {
		return nil
	}
	return rest[1 : 1+end]
}

func after(line []byte, key string) ([]byte, bool) {
	var buf [64]byte
	pattern := append(append(append(buf[:0], '"'), key...), '"', ':')
	i := bytes.Index(line, pattern)
	if i < 0 {
		return nil, false
	}
	return line[i+len(pattern):], true
}
