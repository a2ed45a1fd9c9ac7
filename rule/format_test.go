package rule

import (
	"encoding/json"
	"net/netip"
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

// TestFormatFalco holds what outputs say against what Falco says of the same.
func TestFormatFalco(t *testing.T) {
	at := time.Date(2026, 2, 3, 4, 5, 6, 7000, time.UTC)
	runc := &event.Process{PID: 90, Name: "runc", Exe: "/usr/bin/runc"}
	shell := &event.Process{PID: 100, Name: "bash", Exe: "-bash", ArgsLine: "-l", Cmdline: "bash -l", SID: 100, PGID: 100, Parent: runc}
	cat := &event.Process{PID: 107, TID: 107, VPID: 7, Name: "cat", Exe: "cat", Cwd: "/root", SID: 100, PGID: 107, Parent: shell, Args: []string{"cat", "a", "b"}}
	open := &event.Event{Time: at, Process: cat, Data: &event.Open{Type: "openat", RawRes: 3, Name: "/etc/shadow", NameRaw: "shadow", Dir: event.AtCwd, Flags: event.OpenUpper, Read: true,
		FileObject: event.FileObject{Inode: 12, Dev: 253<<20 | 1<<8 | 2, FileMode: 0o100600}}}
	failed := &event.Event{Time: at, Process: cat, Data: &event.Open{Type: "openat", RawRes: -2, Res: 2, NameRaw: "shadow", Dir: 5}}
	unlink := &event.Event{Time: at, Process: cat, Data: &event.File{Type: "unlinkat", Name: "/tmp/x", NameRaw: "x", Dir: 4, FD: -1}}
	chmod := &event.Event{Time: at, Process: cat, Data: &event.File{Type: "chmod", Name: "/tmp/x", Mode: 0o4755, FD: -1}}
	exec := &event.Event{Time: at, Process: cat, Data: &event.Exec{Type: "execve"}}
	conn := &event.Event{Time: at, Process: cat, Data: &event.Connection{Type: "connect", Res: 111, RawRes: -111, Socket: event.Socket{
		Local: netip.MustParseAddr("10.0.0.1"), LocalPort: 4000, Remote: netip.MustParseAddr("10.0.0.2"), RemotePort: 443, L4: event.TCP}}}
	for _, test := range []struct {
		e            *event.Event
		format, text string
		field        string // as JSON; "" for the text
	}{
		{open, "%evt.time.s", "04:05:06", ""},
		{open, "%evt.time.iso8601", "2026-02-03T04:05:06.000007000+0000", ""},
		{open, "%evt.datetime.s", "2026-02-03 04:05:06", ""},
		{open, "%evt.outputtime", "04:05:06.000007000", "1770091506000007000"},
		{open, "%evt.rawtime", "1770091506000007000", "1770091506000007000"},
		{open, "%evt.rawtime.s", "1770091506", "1770091506"},
		{open, "%evt.rawtime.ns", "000007000", "7000"},
		{open, "%evt.count", "1", "1"},
		{open, "%evt.source", "syscall", ""},
		{open, "%evt.is_async", "false", "false"},
		{open, "%syscall.type", "openat", ""},
		{open, "%evt.category", "file", ""},
		{open, "%evt.type.is.openat", "1", ""},
		{open, "%evt.type.is.open", "0", ""},
		{open, "%evt.failed", "false", "false"},
		{failed, "%evt.failed", "true", "true"},
		{failed, "%evt.count.error.file", "1", "1"},
		{failed, "%evt.count.error.net", "<NA>", "null"},
		{open, "%evt.abspath", "/etc/shadow", ""},
		{open, "%evt.args", "fd=3(<f>/etc/shadow) dirfd=-100(AT_FDCWD) name=/etc/shadow flags=32769(O_RDONLY|FD_UPPER_LAYER) mode=0 dev=10FD02 ino=12", ""},
		{failed, "%evt.args", "fd=-2(ENOENT) dirfd=5 name=shadow flags=1(O_RDONLY) mode=0 dev=0 ino=0", ""},
		{unlink, "%evt.args", "res=0 dirfd=4 name=/tmp/x flags=0", ""},
		{unlink, "%evt.arg.flags", "0", ""},
		{unlink, "%evt.arg[2]", "/tmp/x", ""},
		{unlink, "%evt.arg[9]", "<NA>", "null"},
		{chmod, "%evt.args", "res=0 filename=/tmp/x mode=04755(S_IXOTH|S_IROTH|S_IXGRP|S_IRGRP|S_IXUSR|S_IWUSR|S_IRUSR|S_ISUID)", ""},
		{open, "%evt.rawarg.fd %evt.rawarg.dirfd %evt.arg.fd %evt.arg.ino", "3 -100 <f>/etc/shadow 12", ""},
		{conn, "%evt.args", "res=-111(ECONNREFUSED) tuple=10.0.0.1:4000->10.0.0.2:443", ""},
		{conn, "%evt.arg.tuple", "10.0.0.1:4000->10.0.0.2:443", ""},
		{conn, "%evt.category", "net", ""},
		{conn, "%evt.count.error.net", "1", "1"},
		{conn, "%evt.is_open_write", "false", "false"},
		{conn, "%fd.typechar %fd.type %fd.sockfamily %fd.sproto", "4 ipv4 ip https", ""},
		{open, "%proc.cwd", "/root/", ""},
		{open, "%proc.aname", "bash runc", ""},
		{open, "%proc.aexe", "-bash /usr/bin/runc", ""},
		{open, "%proc.acmdline", "bash -l ", ""},
		{open, "%proc.apid", "107", "107"},
		{open, "%proc.apid[1]", "100", "100"},
		{open, "%proc.aargs[1]", "-l", ""},
		{open, "%proc.args[1]", "b", ""},
		{open, "%proc.sname %proc.sid.exe %proc.pgid.name", "bash -bash cat", ""},
		{open, "%proc.loginshellid", "100", "100"},
		{open, "%proc.is_pgid_leader", "true", "true"},
		{open, "%thread.vtid", "7", "7"},
		{open, "%fd.dev", "10FD02", ""},
		{open, "%fd.dev.major %fd.dev.minor", "253 258", ""},
		{open, "%fd.uid", "1073", ""},
		{open, "%fd.containername", "host:/etc/shadow", ""},
		{open, "%fd.is_upper_layer %fd.is_lower_layer", "true false", ""},
		{open, "%container.id %container.full_id %container.name %container.image", "host host host <NA>", ""},
		{exec, "%evt.arg.exe %evt.arg.cwd %evt.arg.res", "cat /root 0", ""},
		{exec, "%evt.is_open_read", "false", "false"},
	} {
		f, err := ParseFormat(test.format)
		if err != nil {
			t.Errorf("%s: %v", test.format, err)
			continue
		}
		if got := string(f.Append(nil, test.e)); got != test.text {
			t.Errorf("%s of %T says %q, want %q", test.format, test.e.Data, got, test.text)
		}
		fields := f.AppendFields(nil, test.e)
		if !json.Valid(fields) {
			t.Errorf("%s: no JSON: %s", test.format, fields)
		}
		if test.field == "" || len(f.Fields()) > 1 {
			continue
		}
		if want := `{"` + f.Fields()[0] + `":` + test.field + "}"; string(fields) != want {
			t.Errorf("%s has fields %s, want %s", test.format, fields, want)
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
