package identity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"warren/event"
)

func TestParsePasswd(t *testing.T) {
	in := strings.Join([]string{
		"root:x:0:0:root:/root:/bin/bash",
		"# a comment",
		"",
		"toor:x:0:0::/root:/bin/sh", // the first name of a number counts
		"+::::::",
		"-nobody:x:3:",
		"short:x",
		":x:5:5::/:",
		"neg:x:-1:0::/:",
		"big:x:4294967296:0::/:",
		"max:x:4294967295:0::/:",
		"blank:x: 7:0::/:",
		"müller:x:1001:100:a:b",
		"group:x:50:a,b,c",
		"last:x:60:60::/:/bin/sh",
		"odd:x:61:61:::/bin/sh:more",
		"long:x:62:62::/" + strings.Repeat("x", maxField) + ":/bin/sh",
	}, "\n")
	want := map[uint32]account{
		0:         {"root", &event.Account{Home: "/root", Shell: "/bin/bash"}},
		1<<32 - 1: {"max", &event.Account{Home: "/"}},
		1001:      {"müller", nil},
		50:        {"group", nil},
		60:        {"last", &event.Account{Home: "/", Shell: "/bin/sh"}},
		61:        {"odd", &event.Account{Shell: "/bin/sh"}},
		62:        {"long", nil},
	}
	if diff := cmp.Diff(want, parsePasswd([]byte(in)), cmp.AllowUnexported(account{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzParsePasswd(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/bash\n"))
	f.Add([]byte("a:b:c:d\n:::\n+@netgroup::::::\n"))
	f.Add([]byte("x:y:4294967295:"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := parsePasswd(data)
		if len(m) > maxUsers {
			t.Errorf("%d names", len(m))
		}
		for id, a := range m {
			texts := []string{a.name}
			if a.more != nil {
				texts = append(texts, a.more.Home, a.more.Shell)
			}
			for _, text := range texts {
				if a.name == "" || strings.ContainsAny(text, ":\n") || len(text) > maxField {
					t.Errorf("%d is %+v", id, a)
				}
			}
		}
	})
}

func FuzzParseIDMap(f *testing.F) {
	f.Add([]byte("         0     100000      65536\n"))
	f.Add([]byte("0 0 4294967295\n"))
	f.Add([]byte("1 4294967290 100\n5"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseIDMap(data)
		if err != nil {
			return
		}
		for _, r := range m {
			if r.n == 0 {
				continue
			}
			if _, ok := m.inside(r.outside); !ok {
				t.Errorf("%q: %d is mapped nowhere", data, r.outside)
			}
		}
	})
}

func TestIDMap(t *testing.T) {
	m, err := parseIDMap([]byte("         0     100000      1000\n      1000       1000          1\n"))
	must(t, err)
	for _, tt := range []struct {
		in, want uint32
		ok       bool
	}{{100000, 0, true}, {100999, 999, true}, {101000, 0, false}, {1000, 1000, true}, {0, 0, false}} {
		if got, ok := m.inside(tt.in); got != tt.want || ok != tt.ok {
			t.Errorf("%d: %d %v", tt.in, got, ok)
		}
	}
	if m, err := parseIDMap([]byte("0 0 4294967295\n")); err != nil || m != nil {
		t.Errorf("the identity is %v, %v", m, err)
	}
	if _, err := parseIDMap([]byte("0 1\n")); err == nil {
		t.Error("half a line was taken")
	}
}

func TestHostUsersFollowTheFile(t *testing.T) {
	m := newMachine(t, nil)
	init := m.task(1, event.Key{}, "init")
	as := func(uid uint32) func(*event.Process) {
		return func(p *event.Process) { p.UID, p.LoginUID = uid, event.LoginUID(uid) }
	}
	k, _ := m.fork(init, 100)
	if p := m.exec(k, as(1000), "/bin/x").Process; p.UserName != "ann" || p.LoginName != "ann" {
		t.Errorf("%q %q", p.UserName, p.LoginName)
	}
	if p := m.exec(k, as(2000), "/bin/x").Process; p.UserName != "" {
		t.Errorf("nobody is %q", p.UserName)
	}
	file := filepath.Join(m.cfg.Root, "etc/passwd")
	must(t, os.WriteFile(file, []byte("ann:x:1000:1000::/:\nbob:x:2000:2000::/home/bob:/bin/sh\n"), 0o644))
	m.tick(2 * time.Second)
	if p := m.exec(k, as(2000), "/bin/x").Process; p.UserName != "bob" || p.Account == nil || *p.Account != (event.Account{Home: "/home/bob", Shell: "/bin/sh"}) {
		t.Errorf("a user who was added is %q, %+v", p.UserName, p.Account)
	}
	must(t, os.Remove(file))
	m.tick(2 * time.Second)
	if p := m.exec(k, as(1000), "/bin/x").Process; p.UserName != "" {
		t.Errorf("without the file: %q", p.UserName)
	}
	// As in Falco.
	if p := m.exec(k, as(0), "/bin/x").Process; p.UserName != "root" || p.GroupName != "root" || p.Account == nil || *p.Account != (event.Account{Home: "/root"}) {
		t.Errorf("root without the file: %q %q %+v", p.UserName, p.GroupName, p.Account)
	}
}

// Files that a container's owner can make, and that must do no harm.
func TestAccountsOfAHostileRoot(t *testing.T) {
	outside := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(outside, "etc"), 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "etc/passwd"), []byte("secret:x:1:1::/:\n"), 0o644))
	good := []byte("inner:x:1:1::/:\n")
	for _, tt := range []struct {
		name string
		make func(t *testing.T, etc string)
		want string
	}{
		{"a file", func(t *testing.T, etc string) { must(t, os.WriteFile(etc+"/passwd", good, 0o644)) }, "inner"},
		{"a link within", func(t *testing.T, etc string) {
			must(t, os.WriteFile(etc+"/real", good, 0o644))
			must(t, os.Symlink("/etc/real", etc+"/passwd"))
		}, "inner"},
		{"a link out of it", func(t *testing.T, etc string) { must(t, os.Symlink(outside+"/etc/passwd", etc+"/passwd")) }, ""},
		{"a link upwards", func(t *testing.T, etc string) {
			must(t, os.Symlink("../../../../../../../.."+outside+"/etc/passwd", etc+"/passwd"))
		}, ""},
		{"a pipe", func(t *testing.T, etc string) { must(t, unix.Mkfifo(etc+"/passwd", 0o644)) }, ""},
		{"a directory", func(t *testing.T, etc string) { must(t, os.Mkdir(etc+"/passwd", 0o755)) }, ""},
		{"nothing", func(*testing.T, string) {}, ""},
		{"a huge file", func(t *testing.T, etc string) {
			must(t, os.WriteFile(etc+"/passwd", good, 0o644))
			must(t, os.Truncate(etc+"/passwd", 1<<40))
		}, "inner"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			etc := filepath.Join(root, "etc")
			must(t, os.Mkdir(etc, 0o755))
			tt.make(t, etc)
			a, err := readAccounts(root, nil)
			must(t, err)
			if got := a.user(1).name; got != tt.want {
				t.Errorf("user 1 is %q, want %q", got, tt.want)
			}
			again, err := readAccounts(root, a)
			must(t, err)
			if again != a {
				t.Error("read again though nothing has changed")
			}
		})
	}
}
