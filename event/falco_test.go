package event

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

// TestFalcoTable holds the table of Falco's fields against the fields: what it
// says is there, is, in the forms that it has; what is not, is not.
func TestFalcoTable(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range FalcoFields() {
		for _, x := range c.Fields {
			if seen[x.Name] {
				t.Errorf("%s stands twice", x.Name)
			}
			seen[x.Name] = true
			f, ok := Lookup(x.Name)
			if x.Name == "evt.rawarg" {
				f, ok = Lookup("evt.rawarg.fd")
			}
			switch {
			case ok != (x.Why == ""):
				t.Errorf("%s: there is a field: %t", x.Name, ok)
			case ok && FalcoWhy(x.Name) != "":
				t.Errorf("%s: a reason, %q, though it is there", x.Name, FalcoWhy(x.Name))
			case !ok && FalcoWhy(x.Name) != x.Why:
				t.Errorf("%s: the reason is %q", x.Name, FalcoWhy(x.Name))
			case ok && strings.Contains(x.Form, "[n]") && f.Arg == NoArg && x.Name != "proc.args":
				t.Errorf("%s takes no number", x.Name)
			case ok && strings.Contains(x.Form, "[KEY]") && f.Arg != KeyArg:
				t.Errorf("%s takes no key", x.Name)
			}
		}
	}
	if len(seen) < 250 {
		t.Errorf("%d fields", len(seen))
	}
	for name, want := range map[string]string{"k8s.rc.label.app": noMeta, "container.mount.source": noMounts, "container.mount[0]": "", "proc.nam": "", "fd.types": noFDTable} {
		if got := FalcoWhy(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestFalcoArgNumbers holds the numbers of arguments against Falco's: those that
// events do not have keep their places.
func TestFalcoArgNumbers(t *testing.T) {
	p := &Process{PID: 70, TID: 71, VPID: 7, Name: "cat", Exe: "cat", TTY: 34816, LoginUID: 1000, ParentKey: Key{PID: 69, Start: 1}}
	p.UID, p.GID = 1001, 1002
	connection := func(typ string) *Connection {
		return &Connection{Type: typ, Socket: Socket{Local: netip.MustParseAddr("10.0.0.1"), LocalPort: 4000, Remote: netip.MustParseAddr("10.0.0.2"), RemotePort: 443}}
	}
	const tuple = "10.0.0.1:4000->10.0.0.2:443"
	for _, test := range []struct {
		data Data
		want map[int]string // all that there are
	}{
		{&Exec{Type: "execve"}, map[int]string{0: "0", 1: "cat", 3: "71", 4: "70", 5: "69", 13: "cat", 16: "34816", 18: "1000", 26: "1001"}},
		{&Fork{Type: "clone3"}, map[int]string{0: "0", 1: "cat", 3: "71", 4: "70", 5: "69", 13: "cat", 15: "0", 16: "1001", 17: "1002", 18: "7", 19: "7"}},
		{connection("connect"), map[int]string{0: "0", 1: tuple}},
		{connection("accept4"), map[int]string{1: tuple}},
		{connection("sendto"), map[int]string{0: "0", 4: tuple}},
		{connection("recvfrom"), map[int]string{0: "0", 2: tuple}},
		{&Open{Type: "openat2", RawRes: 3, Dir: -100, Name: "/x", FileObject: FileObject{Inode: 12, FileMode: 0o100644}}, map[int]string{0: "<f>/x", 1: "AT_FDCWD", 2: "/x", 3: "O_RDONLY", 4: "0", 6: "0", 7: "12"}},
		{&Open{Type: "open_by_handle_at", RawRes: 3, Name: "/x", FileObject: FileObject{Inode: 12, FileMode: 0o100644}}, map[int]string{0: "<f>/x", 2: "O_RDONLY", 3: "/x", 4: "0", 5: "12"}},
	} {
		e := &Event{Process: p, Data: test.data}
		for n := range 40 {
			if got, ok := argKey(e, strconv.Itoa(n)); got != test.want[n] || ok != (got != "") {
				t.Errorf("%s: argument %d is %q, want %q", typeOf(e), n, got, test.want[n])
			}
		}
		if got := string(appendEventArgs(nil, e)); strings.HasPrefix(got, "-=") || strings.Contains(got, " -=") {
			t.Errorf("%s: %s", typeOf(e), got)
		}
		if got, ok := argKey(e, noArg); ok {
			t.Errorf("%s: an argument %s: %s", typeOf(e), noArg, got)
		}
	}
	if KnownArg(noArg) {
		t.Errorf("there is an argument %s", noArg)
	}
}
