package main

import (
	"bufio"
	"strings"
	"testing"
)

func TestAnswer(t *testing.T) {
	for _, test := range []struct{ in, want, err string }{
		{"+OK\r\n", "OK", ""},
		{":12\r\n", "12", ""},
		{"$3\r\na\nb\r\n", "a\nb", ""},
		{"$-1\r\n", "", ""},
		{"-ERR wrong\r\n", "", "redis: ERR wrong"},
		{"$3\r\na", "", "unexpected EOF"},
		{"$99999999999\r\n", "", "length"},
		{"*1\r\n", "", "no simple one"},
		{"\r\n", "", "answer of redis"},
		{"+OK\n", "", "answer of redis"},
		{"", "", "EOF"},
	} {
		got, err := answer(bufio.NewReader(strings.NewReader(test.in)))
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%q: %q, %v; want %q and an error with %q", test.in, got, err, test.want, test.err)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{"+OK\r\n", ":1\r\n", "$1\r\na\r\n", "$-1\r\n", "-no\r\n", "*0\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if got, err := answer(bufio.NewReader(strings.NewReader(in))); err == nil && len(got) > len(in) {
			t.Errorf("%q has become %q", in, got)
		}
	})
}
