package event

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// TestRemade reads every field of an event, and of the event that is made of its
// JSON: those that differ are the ones that Remade names.
func TestRemade(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	process := func(pid uint32, name string, parent *Process) *Process {
		p := &Process{
			Key: Key{PID: pid, Start: uint64(pid) * 1e9}, PID: pid, TID: pid, VPID: pid, Name: name, Exe: name, ExePath: "/bin/" + name, StartTime: start.Add(time.Duration(pid) * time.Second),
			LoginUID: NoLogin, Parent: parent,
		}
		p.PidNS, p.NetNS = 1, 1
		p.SetArgs([]string{name, "-" + name})
		if parent != nil {
			p.ParentKey, p.Depth = parent.Key, parent.Depth+1
		}
		return p
	}
	contained := func(p *Process, vpid uint32) *Process {
		p.VPID, p.PidNS, p.SID, p.PGID = vpid, 2, 5, 5 // of a leader that is none of them
		p.Container = &Container{FullID: "0123456789abcdef", ID: "0123456789ab"}
		return p
	}
	entry := contained(process(10, "entry", process(1, "systemd", nil)), 1)
	last := contained(process(12, "cat", contained(process(11, "bash", entry), 2)), 3)
	last.Account = &Account{Home: "/home/ann", Shell: "/bin/sh"}
	last.ExeCtime = start.Add(time.Hour).UnixNano()
	e := &Event{Seq: 1, CPU: 3, Time: start.Add(2 * time.Hour), Ktime: 20e9, Actor: last.Key, Process: last, Data: &Exec{Type: "execve"}}
	e.past().Host = NewHost("node", "node", "0123456789abcdef0123456789abcdef")

	again, err := Make(valuesOf(t, string(AppendJSON(nil, e))))
	if err != nil {
		t.Fatal(err)
	}
	said := func(f *Field, e *Event) string {
		m := maker{e: e}
		if f.Arg == KeyArg {
			return fmt.Sprint(f.All(e))
		}
		return fmt.Sprint(m.read(f, 0, 8))
	}
	for _, name := range slices.Sorted(maps.Keys(catalog.byName)) {
		f := catalog.byName[name]
		if !f.Has(KindExec) {
			continue
		}
		if was, is := said(f, e), said(f, again); (was == is) != Remade(name) {
			t.Errorf("%s is remade: %t; it was %s and is %s", name, Remade(name), was, is)
		}
	}
	for name := range notRemade {
		if f, ok := Lookup(name); !ok || !f.Has(KindExec) {
			t.Errorf("there is no %s", name)
		}
	}
}
