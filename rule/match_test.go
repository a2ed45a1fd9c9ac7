package rule

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"warren/event"
)

// comparisons are what random conditions are made of; $n, $p and $t stand for
// names, paths and types.
var comparisons = []string{
	"evt.type = $t", "evt.type != $t", "evt.type in ($t, $t)", "not evt.type in ($t, $t)", "evt.type exists", "evt.type startswith open",
	"proc.name = $n", "proc.name in ($n, $n)", "proc.name != $n", "proc.pname = $n", "proc.aname = $n", "proc.aname[2] = $n", "proc.name contains $n",
	"proc.pname exists", "proc.name = val(proc.pname)", "toupper(proc.name) = X",
	"fd.name startswith $p", "fd.name = $p", "fd.directory in ($p, $p)", "fd.name pmatch ($p, $p)", "evt.is_open_write = true",
	"fd.rport = 443", "fd.rip in (10.0.0.0/8)", "proc.is_exe_upper_layer = true", "container.id != host", "evt.rawres < 0",
}

type worlds struct{ *rand.Rand }

func (w worlds) pick(list ...string) string { return list[w.IntN(len(list))] }

func (w worlds) name() string { return w.pick("", "a", "b", "ab", "x") }
func (w worlds) path() string { return w.pick("", "/", "/etc", "/etc/a", "/usr/a", "/etc/a/b") }
func (w worlds) typ() string {
	return w.pick("open", "openat", "execve", "connect", "close", "procexit", "futex")
}

func (w worlds) condition(depth int) string {
	if depth > 0 && w.IntN(3) > 0 {
		var parts []string
		for range 2 + w.IntN(2) {
			parts = append(parts, w.condition(depth-1))
		}
		text := "(" + strings.Join(parts, w.pick(" and ", " and ", " or ")) + ")"
		if w.IntN(4) == 0 {
			return "not " + text
		}
		return text
	}
	text := comparisons[w.IntN(len(comparisons))]
	for _, v := range []struct {
		key  string
		draw func() string
	}{{"$n", w.name}, {"$p", w.path}, {"$t", w.typ}} {
		for strings.Contains(text, v.key) {
			s := v.draw()
			if s == "" {
				s = `""`
			}
			text = strings.Replace(text, v.key, s, 1)
		}
	}
	return text
}

func (w worlds) event() *event.Event {
	e := &event.Event{}
	for range w.IntN(4) {
		e.Process = &event.Process{Name: w.name(), Parent: e.Process, ExeUpper: w.IntN(2) == 0}
		if w.IntN(3) == 0 {
			e.Process.Container = &event.Container{ID: "c"}
		}
	}
	switch w.IntN(5) {
	case 0:
		e.Data = &event.Exec{Type: "execve"}
	case 1:
		e.Data = &event.Connection{Type: w.pick("connect", "close"), Socket: event.Socket{Remote: netip.MustParseAddr(w.pick("10.1.1.1", "192.0.2.1")), RemotePort: uint16(442 + w.IntN(2))}}
	case 2:
		e.Data = &event.FileClose{Type: "close"}
	default:
		o := &event.Open{Type: w.pick("open", "openat"), Write: w.IntN(2) == 0}
		o.Name = w.path()
		e.Data = o
	}
	return e
}

// TestMatcher compares what a matcher finds with what each rule's own program
// says, for random rules and events.
func TestMatcher(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	matches, events := 0, 0
	for seed := range rounds {
		w := worlds{rand.New(rand.NewPCG(uint64(seed), 1))}
		var text strings.Builder
		for i := range 1 + w.IntN(40) {
			fmt.Fprintf(&text, "- rule: r%d\n  desc: d\n  condition: %s\n  output: o\n  priority: INFO\n  enabled: %v\n", i, quoted(w.condition(3)), w.IntN(10) > 0)
		}
		set, findings := Load([]File{{"a.yaml", []byte(text.String())}}, Config{})
		if set == nil {
			t.Fatalf("%s\n%+v", text.String(), findings)
		}
		worker := NewMatcher(set).NewWorker()
		for range 300 {
			e := w.event()
			var want []string
			for _, r := range set.Rules {
				if r.Enabled && r.Program.Match(e) {
					want = append(want, r.Name)
				}
			}
			got := []string{}
			for _, r := range worker.Match(e) {
				got = append(got, r.Name)
			}
			events++
			matches += len(got)
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: an event matches %v, want %v\n%s\n%s", seed, got, want, event.AppendJSON(nil, e), text.String())
			}
			got = got[:0]
			worker.Judge(e, func(r *Rule, judge func() bool) bool {
				if first, again := judge(), judge(); first && again {
					got = append(got, r.Name)
				}
				return true
			})
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: each by itself, %v match, want %v\n%s\n%s", seed, got, want, event.AppendJSON(nil, e), text.String())
			}
		}
	}
	if matches < events/10 {
		t.Errorf("%d matches of %d events: the test looks at nothing", matches, events)
	}
}

// quoted is a YAML text in single quotes.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// TestMatchAllocatesNothing matches events against Falco's rules.
func TestMatchAllocatesNothing(t *testing.T) {
	w, events := falcoWorker(t)
	found := 0
	if n := testing.AllocsPerRun(100, func() {
		for _, e := range events {
			found += len(w.Match(e))
		}
	}); n > 0 && !raceEnabled {
		t.Errorf("%v allocations for %d events", n, len(events))
	}
	if found == 0 {
		t.Error("none of the events matches")
	}
}

// falcoWorker has Falco's rules, and events as they come when these are asked
// for: three quarters of them match nothing.
func falcoWorker(t testing.TB) (*Worker, []*event.Event) {
	set, findings := Load([]File{falcoRules(t)}, Config{})
	if set == nil {
		t.Fatalf("%+v", findings)
	}
	init := &event.Process{PID: 1, Name: "systemd", ExePath: "/usr/lib/systemd/systemd", Exe: "/sbin/init", Cmdline: "systemd"}
	shell := &event.Process{PID: 100, Name: "bash", ExePath: "/usr/bin/bash", Exe: "bash", Cmdline: "bash", Parent: init}
	process := func(name string, c *event.Container) *event.Process {
		return &event.Process{PID: 200, Name: name, ExePath: "/usr/bin/" + name, Exe: name, Cmdline: name + " -x /tmp/y", ArgsLine: "-x /tmp/y", Parent: shell, Container: c, TTY: 34816}
	}
	c := &event.Container{ID: "abcdef", Name: "web", ImageRepo: "docker.io/library/nginx"}
	var events []*event.Event
	add := func(p *event.Process, d event.Data) {
		events = append(events, &event.Event{Seq: 1 + uint64(len(events)), Process: p, Data: d})
	}
	open := func(name string, write bool) *event.Open {
		o := &event.Open{Type: "openat", Write: write, Read: !write, RawRes: 3, Name: name}
		o.FileMode = unix.S_IFREG
		return o
	}
	add(process("make", nil), &event.Exec{Type: "execve"})
	add(process("cc1", nil), open("/etc/ld.so.cache", false))
	add(process("cat", nil), open("/etc/shadow", false))
	add(process("cc1", c), open("/etc/passwd", false))
	add(process("sh", c), &event.Exec{Type: "execve"})
	add(process("nginx", c), open("/var/log/nginx/access.log", true))
	add(process("curl", nil), &event.Connection{Type: "connect", Socket: event.Socket{Local: netip.MustParseAddr("10.0.0.1"), Remote: netip.MustParseAddr("203.0.113.1"), LocalPort: 40000, RemotePort: 443, L4: event.TCP}})
	add(process("gdb", nil), &event.Exec{Type: "execve"})
	return NewMatcher(set).NewWorker(), events
}

// BenchmarkMatch is the cost of one event with Falco's rules.
func BenchmarkMatch(b *testing.B) {
	w, events := falcoWorker(b)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		w.Match(events[i%len(events)])
		i++
	}
}
