package filter

import (
	"strings"
	"testing"

	"warren/event"
	"warren/interest"
)

// TestCounting: the kernel counts what it can tell apart, and nothing else.
func TestCounting(t *testing.T) {
	for _, tt := range []struct {
		expr, by string
		kinds    event.KindSet // counted
		why      string        // others are not
		dirs     bool
	}{
		{"evt.kind = open", "proc.exe,fd.directory", event.Kinds(event.KindOpen), "", true},
		{"evt.kind = open", "proc.exe", event.Kinds(event.KindOpen), "", false},
		{"evt.kind = open and fd.name startswith /etc", "proc.exe", event.Kinds(event.KindOpen), "", true},
		{"evt.kind = open and fd.name startswith /etc/ssh/", "proc.exe", event.Kinds(event.KindOpen), "", true},
		{"evt.kind = open and fd.name startswith /etc/ssh", "proc.exe", 0, `"fd.name startswith /etc/ssh" (with a slash at its end it could)`, false},
		{"evt.kind = open and not fd.directory = /etc", "user.name", event.Kinds(event.KindOpen), "", true},
		{"evt.kind = open and fd.name = /etc/passwd", "proc.exe", 0, `"fd.name = /etc/passwd"`, false},
		{"evt.kind = open", "fd.name", 0, "fd.name", false},
		{"evt.kind = open", "proc.exe,evt.time", 0, "evt.time", false},
		{"evt.kind = open and evt.rawres >= 0 and evt.is_open_write = true", "proc.name,evt.res", event.Kinds(event.KindOpen), "", false},
		{"evt.kind = open and fd.num > 2", "proc.name", 0, `"fd.num > 2"`, false},
		{"evt.kind = open and tolower(proc.name) contains sh and container.id = host", "proc.name", event.Kinds(event.KindOpen), "", false},
		{"evt.type = ptrace", "proc.exe,evt.res,fd.directory", event.Kinds(event.KindSyscall), "", false},
		{"evt.type = ptrace and evt.arg.request = PTRACE_ATTACH", "proc.exe", 0, `"evt.arg.request = PTRACE_ATTACH"`, false},
		{"evt.type in (openat, ptrace)", "proc.exe,dns.name", event.Kinds(event.KindOpen, event.KindSyscall), "", false},
		{"evt.type in (openat, ptrace)", "fd.ino", event.Kinds(event.KindSyscall), "fd.ino", false},
		{"evt.type = execve", "proc.exe", 0, "", false},
	} {
		p, err := Compile(tt.expr)
		if err != nil {
			t.Fatal(err)
		}
		by := strings.Split(tt.by, ",")
		c := p.Counting(by, p.Asked())
		if c.Kinds != tt.kinds || strings.Join(c.Why, ", ") != tt.why {
			t.Errorf("%s by %s: counted %q, not because of %q", tt.expr, tt.by, c.Kinds, c.Why)
		}
		for _, term := range p.Counted(by, p.Asked()).Interest().Terms {
			if yes := term.Kinds&tt.kinds != 0; yes != (term.Counted != 0) || yes && tt.dirs != (term.Counted&interest.CountedByDirectory != 0) {
				t.Errorf("%s by %s: %v is counted by %b", tt.expr, tt.by, term, term.Counted)
			}
		}
		for _, term := range p.Interest().Terms {
			if term.Counted != 0 {
				t.Errorf("%s: %v is counted though nobody said so", tt.expr, term)
			}
		}
	}
	for _, name := range sameFields {
		if _, known := event.Lookup(name); !known {
			t.Errorf("there is no field %s", name)
		}
	}
}
