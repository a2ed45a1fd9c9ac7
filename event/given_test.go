package event

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// valuesOf are those of an event's JSON, or of a short form of it.
func valuesOf(t *testing.T, text string) map[string]Value {
	t.Helper()
	var object map[string]any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&object); err != nil {
		t.Fatal(err)
	}
	out := map[string]Value{}
	for name, v := range object {
		if list, ok := v.([]any); ok {
			val := Value{Many: true}
			for _, x := range list {
				s := ""
				if x != nil {
					s = fmt.Sprint(x)
				}
				val.List = append(val.List, s)
			}
			out[name] = val
			continue
		}
		out[name] = Value{Text: fmt.Sprint(v)}
	}
	return out
}

// TestMake makes events of a few fields, and reads others that follow.
func TestMake(t *testing.T) {
	for _, test := range []struct{ given, field, want string }{
		{`{"evt.type":"openat","fd.name":"/etc/shadow","proc.name":"cat"}`, "fd.filename", "shadow"},
		{`{"evt.type":"openat","fd.name":"/etc/shadow"}`, "fd.typechar", "f"},
		{`{"evt.type":"openat","fd.name":"/etc/shadow"}`, "evt.is_open_read", "true"},
		{`{"evt.type":"openat","evt.arg.flags":"O_TRUNC|O_CREAT|O_WRONLY"}`, "evt.is_open_write", "true"},
		{`{"evt.type":"openat","evt.is_open_write":true}`, "evt.arg.flags", "O_WRONLY"},
		{`{"evt.type":"openat","evt.res":"ENOENT"}`, "evt.rawres", "-2"},
		{`{"evt.type":"execve","proc.name":"ls","proc.args":"-l /tmp","proc.pname":"bash","proc.aname":["bash","sshd"]}`, "proc.cmdline", "ls -l /tmp"},
		{`{"evt.type":"execve","proc.name":"ls","proc.aname[3]":"sshd"}`, "proc.aname", ""},
		{`{"evt.type":"execve","proc.argv":["a","b c"],"proc.name":"a"}`, "proc.nargs", "1"},
		{`{"evt.type":"openat","proc.argv":["cat","/etc/shadow"]}`, "fd.type", "file"},
		{`{"evt.type":"openat","proc.argv":["cat","/etc/shadow"]}`, "evt.is_open_read", "true"},
		{`{"evt.type":"connect","proc.argv":["nc"],"fd.sip":"192.0.2.7"}`, "fd.l4proto", "tcp"},
		{`{"evt.type":"execve","proc.name":"x","container.id":"0123456789ab","container.image.repository":"r"}`, "container.id", "0123456789ab"},
		{`{"evt.type":"execve","container.id":"host","proc.pid":7}`, "container.name", "host"},
		{`{"evt.type":"connect","fd.name":"10.0.0.1:4000->192.0.2.7:443"}`, "fd.sip", "192.0.2.7"},
		{`{"evt.type":"accept4","fd.is_server":true,"fd.name":"10.0.0.1:4000->192.0.2.7:443"}`, "fd.lport", "443"},
		{`{"evt.type":"connect","fd.sip":"2001:db8::1","fd.sport":53,"fd.l4proto":"udp"}`, "fd.rport", "53"},
		{`{"evt.type":"ptrace","evt.arg.request":"PTRACE_ATTACH","evt.arg.pid":12}`, "evt.arg.pid", "12"},
		{`{"evt.type":"symlinkat","evt.arg.target":"/etc/shadow","evt.arg.linkpath":"/tmp/x"}`, "fs.path.target", "/tmp/x"},
		{`{"evt.type":"setuid","evt.res":"EPERM","evt.arg.uid":0}`, "evt.kind", "attempt"},
		{`{"evt.type":"procexit","exit.signal":"SIGKILL"}`, "exit.signal", "SIGKILL"},
		{`{"evt.type":"execve","k8s.deployment.name":"web","k8s.ns.name":"shop","k8s.pod.labels[app]":"web"}`, "k8s.workload.kind", "Deployment"},
		{`{"evt.type":"execve","proc.name":"?","proc.name;base64":"/w=="}`, "proc.name", "\xff"},
		{`{"evt.type":"execve","thread.cap_effective":"CAP_KILL CAP_SYS_ADMIN"}`, "thread.cap_effective", "CAP_KILL CAP_SYS_ADMIN"},
	} {
		e, err := Make(valuesOf(t, test.given))
		if err != nil {
			t.Errorf("%s: %v", test.given, err)
			continue
		}
		f, ok := Lookup(test.field)
		if !ok {
			t.Fatal(test.field)
		}
		i := 0
		if f.Many == Ancestors {
			i = 1
		}
		got, _ := f.Str(e, i)
		if f.Type != String {
			b, _, _ := appendValue(nil, f, e, i)
			got = strings.Trim(string(b), `"`)
		}
		if got != test.want {
			t.Errorf("%s: %s is %q, want %q", test.given, test.field, got, test.want)
		}
	}
}

// TestMakeRefuses tells what cannot be given, and why.
func TestMakeRefuses(t *testing.T) {
	for given, want := range map[string]string{
		`{"proc.name":"x"}`:                                                       "needs evt.type",
		`{"evt.type":"opneat"}`:                                                   "no event is of type opneat",
		`{"evt.type":"execve","proc.nmae":"x"}`:                                   "no field proc.nmae",
		`{"evt.type":"execve","fd.name":"x"}`:                                     "events of type execve do not have fd.name",
		`{"evt.type":"execve","proc.pid":"x"}`:                                    "that is no number",
		`{"evt.type":"openat","fd.name":"/a/b","fd.filename":"c"}`:                `fd.filename cannot be "c": by the other fields it is b`,
		`{"evt.type":"connect","fd.name":"here"}`:                                 "want ADDRESS:PORT",
		`{"evt.type":"execve","proc.cmdline":["a"]}`:                              "and no list",
		`{"evt.type":"ptrace","evt.arg.request":"PTRACE_NEVER"}`:                  "there is no PTRACE_NEVER",
		`{"evt.type":"execve","evt.time":"yesterday"}`:                            "no time",
		`{"evt.type":"openat","evt.is_open_write":"perhaps"}`:                     "true or false",
		`{"evt.type":"execve","proc.name":"a","proc.name;base64":"!"}`:            "not base64",
		`{"evt.type":"execve","proc.aname[1000000000]":"a"}`:                      "no ancestor's number",
		`{"evt.type":"openat","evt.arg.flags":"O_NEVER"}`:                         "there is no flag O_NEVER",
		`{"evt.type":"execve","proc.exec_id":"x"}`:                                "no id of a process",
		`{"evt.kind":"process","evt.type":"process"}`:                             "no event is of kind process",
		`{"evt.type":"execve","proc.name":"a","proc.sname":"bash"}`:               "proc.sname cannot be",
		`{"evt.type":"openat","fd.name":"/x","fd.type":"pipe"}`:                   "type file or directory",
		`{"evt.type":"execve","proc.is_exe_writable":true,"evt.arg.length":3000}`: "do not have evt.arg.length",
		`{"evt.type":"execve","proc.argv[1]":"a"}`:                                "proc.argv cannot be given with something in brackets",
		`{"evt.type":"execve","proc.name[1]":"a"}`:                                "proc.name cannot be given with something in brackets",
		`{"evt.type":"openat","evt.arg.flags[0]":"O_RDONLY"}`:                     "evt.arg.flags cannot be given with something in brackets",
		`{"evt.type":"connect","fd.ip[0]":"192.0.2.7"}`:                           "fd.ip cannot be given with something in brackets",
		`{"evt.type":"execve","proc.aname[1":"a"}`:                                "no closing bracket",
		`{"evt.type":"execve","k8s.pod.label":"a"}`:                               "k8s.pod.label wants a key",
	} {
		e, err := Make(valuesOf(t, given))
		if err == nil {
			t.Errorf("%s: made %s", given, AppendJSON(nil, e))
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", given, err, want)
		}
	}
}
