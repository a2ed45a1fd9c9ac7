package cli

import (
	"encoding/json"
	"slices"
	"testing"
	"time"
)

func TestRecord(t *testing.T) {
	line := ` { "evt.kind":"exec" , "proc.pid":42,"evt.rawres":-111,"proc.exe_ino":18446744073709551615,` +
		`"proc.args":"a\ufffdb","proc.args;base64":"Yf9i","proc.argv":["x","a\"b, c",null,"]}"],"proc.apid":[1,2],"proc.exited":true,` +
		`"container.label[a\"b]":"v","evt.time":"2026-11-20T21:03:04.5Z","gone":null,"nested":{"a":[1,{"b":"}"}]},"last":"x" } ` + "\n"
	var r record
	if err := r.parse([]byte(line)); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"evt.kind": "exec", "proc.pid": "42", "proc.args": "a\xffb", `container.label[a"b]`: "v", "gone": "", "missing": "", "proc.exited": "true", "last": "x",
	} {
		if got := r.str(key); got != want {
			t.Errorf("str(%s) = %q, want %q", key, got, want)
		}
	}
	if got := r.num("evt.rawres"); got != -111 {
		t.Errorf("num = %d", got)
	}
	if got := uint64(r.num("proc.exe_ino")); got != 1<<64-1 {
		t.Errorf("unsigned num = %d", got)
	}
	if got, want := r.list("proc.argv"), []string{"x", `a"b, c`, "", "]}"}; !slices.Equal(got, want) {
		t.Errorf("list = %q, want %q", got, want)
	}
	if got := r.list("proc.apid"); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("list of numbers = %q", got)
	}
	if !r.yes("proc.exited") || r.yes("proc.pid") || r.has("gone") || !r.has("nested") {
		t.Error("yes or has is wrong")
	}
	if got := r.time("evt.time"); !got.Equal(time.Date(2026, 11, 20, 21, 3, 4, 5e8, time.UTC)) {
		t.Errorf("time = %v", got)
	}
	for _, bad := range []string{"", "{", "[]", "null", `"x"`, `{"a":}`, `{"a":1}}`, `{"a" 1}`, "{}x", `{"a":"\x"}`} {
		if err := r.parse([]byte(bad)); err == nil {
			t.Errorf("parse(%q) accepts it", bad)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":"x\"y","c":[1,"]"],"d":{"e":null}}`))
	f.Add([]byte(`{}`))
	f.Add([]byte("{\t\"a\" :\n true , \"b\": [ ] }"))
	f.Add([]byte(`{"a;base64":"/w==","a":"\ufffd"}`))
	f.Add([]byte("{\"\x80\":{}}"))
	f.Fuzz(func(t *testing.T, line []byte) {
		var want map[string]json.RawMessage
		ok := json.Unmarshal(line, &want) == nil && want != nil
		var r record
		if err := r.parse(line); (err == nil) != ok {
			t.Fatalf("parse(%q) = %v; encoding/json says %v", line, err, ok)
		}
		for _, fl := range r.fields {
			if !json.Valid(fl.raw) {
				t.Fatalf("the value of %q is %q", fl.key, fl.raw)
			}
			if _, known := want[fl.key]; !known {
				t.Fatalf("%q has no key %q", line, fl.key)
			}
			r.str(fl.key)
			r.num(fl.key)
			r.list(fl.key)
			r.time(fl.key)
		}
		if len(r.fields) < len(want) {
			t.Fatalf("%d of %d keys of %q", len(r.fields), len(want), line)
		}
	})
}
