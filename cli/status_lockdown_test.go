package cli

import (
	"strings"
	"testing"
	"time"

	"warren/api"
)

// A status says of lockdown what is known: where the mode cannot be read, what
// was refused for it, or nothing.
func TestStatusLockdown(t *testing.T) {
	hook := func(reason string) []api.Sensor {
		return []api.Sensor{{Name: "socket", Hooks: []api.Hook{{Name: "socket.accept", Rung: "tracepoint", Refused: []api.Refusal{{Rung: "fentry", Reason: reason}}}}}}
	}
	for _, test := range []struct {
		mode, reason, want string
	}{
		{"none", "", "6.18, lockdown none"},
		{"integrity", "lockdown refuses fexit: its mode is integrity", "6.18, lockdown integrity"},
		{"unknown", "lockdown refuses fexit (a trampoline on kernel text)", "6.18, locked down: it refuses hooks"},
		{"unknown", "this kernel has no fexit", "6.18"},
		{"", "", "6.18"},
	} {
		v := statusView{st: &api.Status{Kernel: "6.18", Lockdown: test.mode, Sensors: hook(test.reason)}, now: time.Unix(0, 0)}
		v.agent()
		if _, line, _ := strings.Cut(v.b.String(), "kernel"); strings.TrimSpace(strings.SplitN(line, "\n", 2)[0]) != test.want {
			t.Errorf("mode %q, refused because %q: %q, want %q", test.mode, test.reason, line, test.want)
		}
	}
}
