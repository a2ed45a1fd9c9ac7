package filter

import (
	"slices"
	"strings"
	"testing"

	"warren/event"
)

func TestExplain(t *testing.T) {
	for _, tt := range []struct {
		expr     string
		parts    []Judge
		notes    string // of all parts, joined
		warnings int
	}{
		{"evt.type in (open, openat, creat) and fd.name startswith /etc and evt.is_open_write = true", []Judge{Hooks, Kernel, Kernel}, "", 0},
		{"evt.type = openat and fd.name contains secret", []Judge{Hooks, UserSpace}, "", 1},
		{"evt.type = openat and proc.name = cat and not fd.name startswith /etc", []Judge{Hooks, Kernel, UserSpace}, "", 0},
		{"evt.type = openat and fd.directory in (/bin, /sbin) and user.uid = 0", []Judge{Hooks, KernelInPart, Kernel}, "all below the directory", 0},
		{"evt.kind = open and fd.name glob /home/*/.ssh/id_rsa", []Judge{Hooks, KernelInPart}, "the text before the first star, or behind the last", 0},
		{"evt.kind = open and fd.name pmatch (/etc, /u*r)", []Judge{Hooks, UserSpace}, "", 1},
		{"evt.kind = open and not evt.res = SUCCESS", []Judge{Hooks, Kernel}, "", 0},
		{"evt.kind = open and evt.res = ENOENT", []Judge{Hooks, KernelInPart}, "whether the call failed", 0},
		{"evt.kind = open and k8s.ns.name = shop", []Judge{Hooks, KernelInPart}, "by the cgroup, once its container is described", 0},
		{"evt.type = sendmsg and fd.rport = 443 and fd.net = 10.0.0.0/8", []Judge{Hooks, Kernel, Kernel}, "", 0},
		{"evt.type = connect and fd.rport = 443", []Judge{Hooks, UserSpace}, everyConnection, 0},
		{"evt.kind in (connection, syscall) and fd.rport = 443", []Judge{Hooks, KernelInPart}, everyConnection, 0},
		{"evt.type = ptrace and proc.exepath = /usr/bin/gdb", []Judge{Hooks, Kernel}, "", 0},
		{"evt.kind = open and proc.exepath startswith /usr/local/", []Judge{Hooks, Kernel}, "", 0},
		{"evt.kind = open and proc.exepath pmatch (/opt/*/bin, /usr)", []Judge{Hooks, KernelInPart}, "the directories before the first pattern", 0},
		{"evt.kind = open and proc.name glob python3.*", []Judge{Hooks, KernelInPart}, "the text before the first star", 0},
		{"evt.kind = open and proc.exepath endswith /python3", []Judge{Hooks, UserSpace}, "", 1},
		{"evt.kind = open and not proc.exepath = /bin/cat", []Judge{Hooks, Kernel}, "", 0},
		{"evt.kind = open and proc.name != cat", []Judge{Hooks, Kernel}, "", 0},
		{"evt.kind = open and fd.name = /a and not proc.name = cat", []Judge{Hooks, Kernel, UserSpace}, "of what is left when the file is judged", 0},
		{"evt.kind = open and not proc.name in (cat, sh) and not proc.exepath endswith /cat", []Judge{Hooks, Kernel, UserSpace}, "", 0},
		{"evt.type = connect and user.uid = 0", []Judge{Hooks, UserSpace}, "", 0},
		{"evt.kind = open and not container.id != host", []Judge{Hooks, KernelInPart}, "by the cgroup, once its container is described", 0},
		{"evt.type = execve and proc.name = cat", []Judge{Hooks, UserSpace}, "", 0},
		{"fd.name = /etc/shadow or proc.name = cat", []Judge{Kernel, KernelInPart}, "of files and system calls; of the rest all is recorded", 0},
		{"", nil, "", 0},
		{"proc.name = cat", []Judge{UserSpace}, "", 0},
		{"evt.kind exists and proc.name = cat", []Judge{UserSpace, KernelInPart}, "of files and system calls; of the rest all is recorded", 0},
	} {
		p, err := Compile(tt.expr)
		if err != nil {
			t.Fatal(err)
		}
		e := p.Explain()
		var judges []Judge
		var notes []string
		for _, part := range e.Parts {
			judges = append(judges, part.Judge)
			if part.Note != "" {
				notes = append(notes, part.Note)
			}
		}
		if !slices.Equal(judges, tt.parts) || strings.Join(notes, "; ") != tt.notes {
			t.Errorf("%s: %+v", tt.expr, e.Parts)
		}
		if len(e.Warnings) != tt.warnings {
			t.Errorf("%s: warnings %q", tt.expr, e.Warnings)
		}
	}
	for expr, want := range map[string]event.KindSet{"proc.name = cat": event.OnDemandKinds, "evt.kind exists and proc.name = cat": 0} {
		p, err := Compile(expr)
		if err != nil {
			t.Fatal(err)
		}
		if e := p.Explain(); e.Left != want || e.Kinds&want != 0 {
			t.Errorf("%s: kinds %s, left %s", expr, e.Kinds, e.Left)
		}
	}
	p, err := Compile("evt.type in (rename, openat) and fs.path.target startswith /etc")
	if err != nil {
		t.Fatal(err)
	}
	if e := p.Explain(); e.Kinds != event.Kinds(event.KindFile) || !slices.Equal(e.Types, []string{"rename"}) || len(e.Terms) != 1 {
		t.Errorf("%+v", e)
	}
}
