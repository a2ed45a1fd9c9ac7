package filter

import (
	"net/netip"
	"testing"

	"warren/event"
)

func TestReader(t *testing.T) {
	init := &event.Process{Name: "systemd"}
	shell := &event.Process{Name: "bash", Parent: init, ExePath: "/usr/bin/bash"}
	e := &event.Event{Data: &event.Connection{
		Socket: event.Socket{Remote: netip.MustParseAddr("203.0.113.9"), RemotePort: 443, L4: event.TCP, Local: netip.MustParseAddr("10.0.0.1"), LocalPort: 4000},
		Type:   "connect",
	}}
	e.Process = &event.Process{Name: "curl", Parent: shell, Args: []string{"curl", "-s"}, ExeUpper: true}
	for _, test := range []struct {
		text, name, want string
	}{
		{"proc.name", "proc.name", "curl"},
		{"proc.name.", "proc.name", "curl"},
		{"proc.name)", "proc.name", "curl"},
		{"proc.name=x", "proc.name", "curl"},
		{"proc.aname[2] ", "proc.aname[2]", "systemd"},
		{"proc.aname[3] ", "proc.aname[3]", "<missing>"},
		{"proc.aname", "proc.aname", "(bash,systemd)"},
		{"proc.argv", "proc.argv", "(curl,-s)"},
		{"toupper(proc.name):", "toupper(proc.name)", "CURL"},
		{"basename(proc.pexepath)", "basename(proc.pexepath)", "bash"},
		{"fd.rport", "fd.rport", "443"},
		{"fd.rip", "fd.rip", "203.0.113.9"},
		{"fd.port", "fd.port", "(4000,443)"},
		{"proc.is_exe_upper_layer", "proc.is_exe_upper_layer", "true"},
		{"fd.nameraw", "fd.nameraw", "<missing>"},
	} {
		r, n, err := ParseReader(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		got := "<missing>"
		if b, ok := r.Append([]byte("="), e); ok {
			got = string(b[1:])
		} else if string(b) != "=" {
			t.Errorf("%s: what is missing left %q", test.text, b)
		}
		if got != test.want || r.Name() != test.name || n != len(test.name) {
			t.Errorf("%s: %s is %q (%d bytes), want %s, %q", test.text, r.Name(), got, n, test.name, test.want)
		}
	}
	for text, want := range map[string]string{
		"proc.nmae":         "no field proc.nmae; did you mean proc.name?",
		"touper(proc.name)": "no transformer touper; did you mean toupper?",
		"proc.aname[x]":     "proc.aname[] wants a number, not x; 0 is the process itself, 1 its parent",
		"5":                 "expected a field",
		"":                  "expected a field",
	} {
		if _, _, err := ParseReader(text); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
