package rule

import (
	"strings"
	"testing"
)

// TestParseSuiteRefuses tells what a file of tests cannot say, and where.
func TestParseSuiteRefuses(t *testing.T) {
	tests := "tests:\n- name: x\n  events:\n  - evt.type: execve\n  alerts:\n"
	for _, test := range []struct{ name, text, want string }{
		{"a.yaml", tests + "  - rule: r\n    priority: INFO\n", "a.yaml:7:5: an alert has no key priority: want rule and output"},
		{"a.yaml", tests + "  - output: o\n    rule: r\n    ouptut: o\n", "a.yaml:8:5: an alert has no key ouptut"},
		{"a.yaml", tests + "  - rule: r\n    output: [o]\n", "a.yaml:7:13: output is a text, and not a list"},
		{"a.txtar", "-- events --\n{\"evt.type\":\"execve\"}\n{\"evt.type\":\"execve\"} {\"evt.type\":\"openat\"}\n", "a.txtar:3: something stands behind the JSON object"},
		{"a.txtar", "-- events --\n{\"evt.type\":\"execve\"}]\n", "a.txtar:2: something stands behind the JSON object"},
	} {
		_, err := ParseSuite(File{test.name, []byte(test.text)})
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s\n%v, want %s", test.text, err, test.want)
		}
	}
	for _, text := range []string{
		"  - rule: r\n    output: o\n  - r: o\n  - r\n",
		"  - {output: o, rule: r}\n  - rule: r\n",
	} {
		if s, err := ParseSuite(File{"a.yaml", []byte(tests + text)}); err != nil || len(s.Tests[0].Alerts) < 2 || s.Tests[0].Alerts[0].Output != "o" {
			t.Errorf("%s\n%+v, %v", text, s, err)
		}
	}
	if s, err := ParseSuite(File{"a.txtar", []byte("-- events --\n{\"evt.type\":\"execve\"} # a comment\n")}); err != nil || len(s.Tests) != 1 {
		t.Error(err)
	}
}
