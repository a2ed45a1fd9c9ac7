package channel

import (
	"testing"

	"warren/alert"
)

// TestAsWanted leaves keys out where Falco's JSON is handed over, and nowhere else.
func TestAsWanted(t *testing.T) {
	const text = `{"hostname":"h","output":"04:05:06.000000000: Critical sh: Critical <x>","output_fields":{"evt.time":1770091506000000789,"proc.name":"<x>"},"priority":"Critical","rule":"r","source":"syscall","tags":["a"],"time":"2026-02-03T04:05:06.000000000Z","uuid":"u"}`
	for _, test := range []struct {
		cfg  Config
		f    alert.Falco
		want string
	}{
		{Config{Type: "file", Format: formatJSON}, alert.Falco{ISOTime: true}, text},
		{Config{Type: "file", Format: formatText}, alert.Falco{NoOutput: true}, text},
		{Config{Type: "slack"}, alert.Falco{NoOutput: true}, text},
		{Config{Type: "webhook", Template: "x"}, alert.Falco{NoFields: true}, text},
		{Config{Type: "webhook"}, alert.Falco{NoOutput: true, NoTags: true, NoFields: true, Message: true},
			`{"hostname":"h","message":"sh: Critical <x>","priority":"Critical","rule":"r","source":"syscall","time":"2026-02-03T04:05:06.000000000Z","uuid":"u"}`},
		{Config{Type: "stdout", Format: formatJSON}, alert.Falco{NoOutput: true, NoTags: true},
			`{"hostname":"h","output_fields":{"evt.time":1770091506000000789,"proc.name":"<x>"},"priority":"Critical","rule":"r","source":"syscall","time":"2026-02-03T04:05:06.000000000Z","uuid":"u"}`},
	} {
		if got := string(test.cfg.asWanted(test.f, [][]byte{[]byte(text)})[0]); got != test.want {
			t.Errorf("%s, %+v: %s\nwant %s", test.cfg.Type, test.f, got, test.want)
		}
	}
	if got := string(rewritten(alert.Falco{Message: true}, []byte("{"))); got != "{" {
		t.Errorf("no JSON becomes %q", got)
	}
}
