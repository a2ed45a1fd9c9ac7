package rule

import (
	"encoding/json"
	"testing"
	"time"

	"warren/event"
)

func TestFormat(t *testing.T) {
	sh := &event.Process{Name: "sh"}
	e := &event.Event{Time: time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC), Data: &event.Open{Type: "openat"}}
	e.Process = &event.Process{PID: 7, Name: "cat", Parent: sh, Args: []string{"cat", "x"}, ExeUpper: true, Cmdline: "cat \x1b[31m \xff\"",
		Container: &event.Container{ID: "abc", StartTime: time.Unix(3, 5)}}
	for _, test := range []struct{ format, text, fields string }{
		{"plain", "plain", `{}`},
		{"*%proc.name did", "cat did", `{"proc.name":"cat"}`},
		{"%proc.name|%proc.aname[1]|%proc.aname[2].", "cat|sh|<NA>.", `{"proc.aname[1]":"sh","proc.aname[2]":null,"proc.name":"cat"}`},
		{"%6proc.name|%2proc.name|", "cat   |ca|", `{"proc.name":"cat"}`},
		{"100%% %proc.pid %proc.is_exe_upper_layer", "100% 7 true", `{"proc.is_exe_upper_layer":true,"proc.pid":7}`},
		{"%evt.time %evt.datetime", "04:05:06.000000789 2026-02-03 04:05:06.000000789", `{"evt.datetime":"2026-02-03 04:05:06.000000789"}`},
		{"%evt.type %evt.dir %toupper(proc.name)%container.info %container.start_ts", "openat < CAT 3000000005", `{"container.start_ts":3000000005,"evt.dir":"<","evt.type":"openat","toupper(proc.name)":"CAT"}`},
		{"%proc.cmdline", "cat \x1b[31m \xff\"", `{"proc.cmdline":"cat \u001b[31m \ufffd\""}`},
		{"%proc.argv", "(cat,x)", `{"proc.argv":"(cat,x)"}`},
		{"", "", `{}`},
	} {
		f, err := ParseFormat(test.format)
		if err != nil {
			t.Errorf("%s: %v", test.format, err)
			continue
		}
		if got := string(f.Append(nil, e)); got != test.text {
			t.Errorf("%s says %q, want %q", test.format, got, test.text)
		}
		got := string(f.AppendFields(nil, e))
		if got != test.fields || !json.Valid([]byte(got)) {
			t.Errorf("%s has fields %s, want %s", test.format, got, test.fields)
		}
	}
}

func TestFormatMistakes(t *testing.T) {
	for text, want := range map[string]FormatError{
		"a %":                {2, 3, "a percent sign has no field behind it", "write %% for the sign itself", false},
		"100% sure":          {3, 4, "a percent sign has no field behind it", "write %% for the sign itself", false},
		"a %proc.nmae":       {3, 12, "no field proc.nmae", "did you mean proc.name?", true},
		"%9999proc.name":     {1, 5, "a value cannot be 9999 bytes wide", "1000 is the most", false},
		"%proc.aname[x]":     {12, 13, "proc.aname[] wants a number, not x", "0 is the process itself, 1 its parent", false},
		"%touper(proc.name)": {1, 7, "no transformer touper", "did you mean toupper?", false},
	} {
		_, err := ParseFormat(text)
		if err == nil || *err != want {
			t.Errorf("%s: %+v, want %+v", text, err, want)
		}
	}
}
