// Package l7 parses what programs say to each other, one protocol per file.
//
// Everything here is pure: bytes in, values out; no input or output, no
// goroutine, no clock. All functions may be called concurrently. The bytes come
// from the wire and are hostile: every parser is bounded in time and memory by
// the length of its input and by the limits it names, and is fuzzed.
package l7
