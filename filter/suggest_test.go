package filter

import (
	"strings"
	"testing"
)

// TestUnknownArgument: arguments that no call has are errors with a hint.
func TestUnknownArgument(t *testing.T) {
	for expr, want := range map[string]string{
		"evt.arg.reqest = x":      "did you mean evt.arg.request?",
		"evt.rawarg.flag = 1":     "did you mean evt.rawarg.flags?",
		"evt.arg.zzzzzzzzzz = x":  "docs/syscalls.md has the arguments of system calls",
		"evt.arg[reqest] = x":     "did you mean request?",
		"evt.arg.pid contains 12": "use =, !=, <, <=, >, >= or in",
	} {
		_, err := Compile(expr)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a hint: %s", expr, err, want)
		}
	}
	for _, expr := range []string{"evt.rawarg.flags = 3", "evt.arg.size > 100", "evt.arg[0] = 3", "evt.arg.type = 2", "evt.args contains PTRACE_ATTACH"} {
		if _, err := Compile(expr); err != nil {
			t.Errorf("%s: %v", expr, err)
		}
	}
}
