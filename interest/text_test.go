package interest

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/event"
)

func TestTermText(t *testing.T) {
	open := event.Kinds(event.KindOpen)
	for want, term := range map[string]Term{
		"everything":      {Kinds: event.AllKinds},
		"evt.kind = open": {Kinds: open},
		"evt.kind in (exec, open) and evt.rawres < 0": {Kinds: open | event.Kinds(event.KindExec), Outcome: Failed},
		"evt.type in (open, openat) and evt.rawres >= 0 and (evt.is_open_write = true or evt.is_open_create = true) and (path = /x or path startswith \"/a b\" or path endswith .so or path pmatch (/etc, /usr))": {
			Kinds: open, Types: []string{"open", "openat"}, Outcome: Succeeded, Open: OpenWrite | OpenCreate,
			Paths: []Path{{Exact, "/x"}, {Prefix, "/a b"}, {Suffix, ".so"}, {Under, "/etc"}, {Under, "/usr"}},
		},
		"evt.kind = open and (fd.ino = 7 and fd.dev = 8 or fd.ino = 9)": {Kinds: open, Inodes: []Inode{{8, 7}, {0, 9}}},
		"evt.kind = connection and user.uid = 0 and proc.exepath = \"/a\\x1b\" and fd.port in (22, 80) and fd.net = 10.0.0.0/8": {
			Kinds: event.Kinds(event.KindConnection), UIDs: []uint32{0}, Exes: []Path{{Op: Exact, Text: "/a\x1b"}}, Ports: []uint16{22, 80}, Nets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		},
	} {
		if got := term.String(); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

func TestHoldersOfTerm(t *testing.T) {
	open := event.Kinds(event.KindOpen)
	of := func(paths ...Path) Interest { return Interest{Terms: []Term{{Kinds: open, Paths: paths}}} }
	s := Union(Holder{"a", of(Path{Under, "/etc"})}, Holder{"b", of(Path{Exact, "/etc/passwd"})}, Holder{"c", Of(event.Kinds(event.KindExec))}, Holder{"", of(Path{Exact, "/x"})})
	got := map[string][]string{}
	for _, term := range s.Terms() {
		got[term.String()] = s.HoldersOfTerm(term)
	}
	want := map[string][]string{"evt.kind = exec": {"c"}, "evt.kind = open and (path = /x or path pmatch (/etc))": {"a", "b"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
