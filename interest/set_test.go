package interest

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"warren/event"
)

var (
	connections = event.Kinds(event.KindConnection)
	processes   = event.Kinds(event.KindExec, event.KindExit)
)

func TestSet(t *testing.T) {
	s := Union(
		Holder{"tables", Of(processes)},
		Holder{"nobody", Interest{}},
		Holder{"a", Interest{[]Term{{Kinds: processes | connections, Types: []string{"listen", "execve"}}}}},
		Holder{"b", Interest{[]Term{{Kinds: connections, Types: []string{"connect"}, Ports: []uint16{443}}, {Kinds: connections, Types: []string{"connect"}, Ports: []uint16{80}}}}},
	)
	if got := s.Kinds(); got != processes|connections {
		t.Errorf("kinds %v", got)
	}
	if got := s.Types(event.KindConnection); !slices.Equal(got, []string{"connect", "listen"}) {
		t.Errorf("types of connections %v", got)
	}
	if got := s.Types(event.KindExec); !slices.Equal(got, event.KindExec.Types()) {
		t.Errorf("types of exec %v", got)
	}
	if got := s.Types(event.KindDNS); got != nil {
		t.Errorf("types of dns %v", got)
	}
	for _, tt := range []struct {
		kind event.Kind
		typ  string
		want []string
	}{
		{event.KindExec, "execve", []string{"tables", "a"}}, {event.KindExec, "", []string{"tables", "a"}}, {event.KindExec, "execveat", []string{"tables"}},
		{event.KindConnection, "listen", []string{"a"}}, {event.KindConnection, "connect", []string{"b"}}, {event.KindDNS, "", nil},
	} {
		if got := s.HoldersOf(tt.kind, tt.typ); !slices.Equal(got, tt.want) {
			t.Errorf("holders of %v %q: %v, want %v", tt.kind, tt.typ, got, tt.want)
		}
	}
	// The types that a wants of processes are the tables' already; what b wants is one term; types of different
	// kinds, another.
	if got := len(s.Terms()); got != 2 {
		t.Errorf("%d terms: %+v", got, s.Terms())
	}
	some := s.Among(connections)
	if got := some.Kinds(); got != connections {
		t.Errorf("kinds %v among connections", got)
	}
	if !s.Covers(some) || some.Covers(s) || !some.Covers(some) || !s.Equal(s.With(some)) || s.Equal(some) {
		t.Error("a part is covered by the whole, and not the other way round")
	}
	if got := s.Nameless().HoldersOf(event.KindExec, ""); !slices.Equal(got, []string{""}) || !s.Nameless().Equal(s) {
		t.Errorf("nameless holders %q", got)
	}
	if (Set{}).Kinds() != 0 || !s.Covers(Set{}) || (Set{}).Covers(s) || All(0).Kinds() != 0 {
		t.Error("the empty set wants something")
	}
}

func TestMerge(t *testing.T) {
	type terms = []Term
	for name, tt := range map[string]struct{ in, want terms }{
		"nothing":            {nil, terms{}},
		"no kinds":           {terms{{}, {Kinds: processes, Types: []string{"connect"}}}, terms{}},
		"covered":            {terms{{Kinds: connections, UIDs: []uint32{1}}, {Kinds: processes | connections}, {Kinds: processes}}, terms{{Kinds: processes | connections}}},
		"one of two":         {terms{{Kinds: connections, UIDs: []uint32{1}}, {Kinds: connections, UIDs: []uint32{1}}}, terms{{Kinds: connections, UIDs: []uint32{1}}}},
		"lists":              {terms{{Kinds: connections, UIDs: []uint32{3, 1}}, {Kinds: connections, UIDs: []uint32{2}}}, terms{{Kinds: connections, UIDs: []uint32{1, 2, 3}}}},
		"kinds":              {terms{{Kinds: connections}, {Kinds: processes}}, terms{{Kinds: connections | processes}}},
		"types":              {terms{{Kinds: connections, Types: []string{"connect"}}, {Kinds: processes}}, terms{{Kinds: connections | processes, Types: []string{"connect", "execve", "execveat", "procexit"}}}},
		"all types":          {terms{{Kinds: processes, Types: []string{"execve", "procexit"}}, {Kinds: processes, Types: []string{"execveat"}}}, terms{{Kinds: processes}}},
		"two apart":          {terms{{Kinds: connections, UIDs: []uint32{1}, Ports: []uint16{1}}, {Kinds: connections, UIDs: []uint32{2}, Ports: []uint16{2}}}, terms{{Kinds: connections, UIDs: []uint32{1}, Ports: []uint16{1}}, {Kinds: connections, UIDs: []uint32{2}, Ports: []uint16{2}}}},
		"ports of no socket": {terms{{Kinds: processes, Ports: []uint16{1}}}, terms{}},
	} {
		if got := Merge(tt.in); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, tt.want)
		}
	}
}

func TestLimit(t *testing.T) {
	var ts []Term
	for i := range 40 {
		ts = append(ts, Term{Kinds: connections, UIDs: []uint32{uint32(i)}, Ports: []uint16{uint16(i + 1)}})
	}
	if got, widened := Limit(ts, 40); len(got) != 40 || widened != nil {
		t.Errorf("%d terms, without %v", len(got), widened)
	}
	got, widened := Limit(ts, 39)
	if len(got) != 1 || got[0].Ports != nil || len(got[0].UIDs) != 40 || !slices.Equal(widened, []string{"nets", "ports"}) {
		t.Errorf("%+v without %v", got, widened)
	}
	all, _ := Limit(append(ts, Term{Kinds: processes, Outcome: Failed}), 1)
	if len(all) != 1 || all[0].restrictions() != 0 {
		t.Errorf("one term: %+v", all)
	}
	if e := Envelope(ts); !slices.Equal(e.UIDs, got[0].UIDs) || len(e.Ports) != 40 || e.Kinds != connections {
		t.Errorf("envelope %+v", e)
	}
	if e := Envelope(append(ts, Term{Kinds: processes, UIDs: []uint32{7}})); e.Ports != nil || e.Kinds != connections|processes {
		t.Errorf("envelope %+v", e)
	}
}

func TestAnd(t *testing.T) {
	net := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for name, tt := range map[string]struct{ a, b, want Term }{
		"disjoint kinds":  {Term{Kinds: processes}, Term{Kinds: connections}, Term{}},
		"disjoint types":  {Term{Kinds: connections, Types: []string{"connect"}}, Term{Kinds: connections, Types: []string{"listen"}}, Term{}},
		"disjoint users":  {Term{Kinds: connections, UIDs: []uint32{1}}, Term{Kinds: connections, UIDs: []uint32{2}}, Term{}},
		"both outcomes":   {Term{Kinds: connections, Outcome: Failed}, Term{Kinds: connections, Outcome: Succeeded}, Term{}},
		"ports of either": {Term{Kinds: connections, Ports: []uint16{1, 2}}, Term{Kinds: connections, Ports: []uint16{3}}, Term{Kinds: connections, Ports: []uint16{3}}},
		"taken over":      {Term{Kinds: processes | connections}, Term{Kinds: connections, Nets: net, Exes: []Path{{Op: Exact, Text: "/a"}}}, Term{Kinds: connections, Nets: net, Exes: []Path{{Op: Exact, Text: "/a"}}}},
	} {
		got, ok := tt.a.And(tt.b)
		if !reflect.DeepEqual(got, tt.want) || ok != (tt.want.Kinds != 0) {
			t.Errorf("%s: %+v %v", name, got, ok)
		}
	}
}

func TestPath(t *testing.T) {
	for _, tt := range []struct {
		p    Path
		name string
		want bool
	}{
		{Path{Exact, "/etc/passwd"}, "/etc/passwd", true}, {Path{Exact, "/etc/passwd"}, "/etc/passwd-", false},
		{Path{Prefix, "/etc/pa"}, "/etc/passwd", true}, {Path{Prefix, "/etc/pa"}, "/etc/p", false},
		{Path{Suffix, ".conf"}, "/etc/a.conf", true}, {Path{Suffix, ".conf"}, "/etc/a.config", false},
		{Path{Under, "/etc"}, "/etc", true}, {Path{Under, "/etc"}, "/etc/ssh/x", true}, {Path{Under, "/etc"}, "/etcetera", false}, {Path{Under, "/etc"}, "/et", false},
		{Path{}, "", false},
	} {
		if got := tt.p.Match(tt.name); got != tt.want {
			t.Errorf("%+v of %q: %v", tt.p, tt.name, got)
		}
	}
	// A path that covers another holds wherever that does.
	texts := []string{"/", "/a", "/a/", "/a/b", "/ab", "b", "/b", "/a/b/b"}
	for _, op := range []PathOp{Exact, Prefix, Suffix, Under} {
		for _, p := range texts {
			for _, op2 := range []PathOp{Exact, Prefix, Suffix, Under} {
				for _, q := range texts {
					a, b := Path{op, p}, Path{op2, q}
					if !a.covers(b) {
						continue
					}
					for _, name := range append(texts, "/a/b/c", "/abc", "/x/b", "", "/a/") {
						if b.Match(name) && !a.Match(name) {
							t.Errorf("%+v does not cover %+v: %q", a, b, name)
						}
					}
				}
			}
		}
	}
}
