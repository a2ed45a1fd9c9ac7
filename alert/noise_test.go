package alert

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"warren/event"
	"warren/rule"
)

// TestDiffering finds every time, duration and id of a process among the fields
// that make no alerts different.
func TestDiffering(t *testing.T) {
	fields := event.Fields()
	for _, c := range event.FalcoFields() {
		for _, f := range c.Fields {
			if x, ok := event.Lookup(f.Name); ok {
				fields = append(fields, x)
			}
		}
	}
	looks := regexp.MustCompile(`^evt\.(date|raw|output)?time(\.|$)|\.[cm]time|duration|[._]ts$|^(proc|thread)\.(v|pv|a|p|s|pg|vs|vpg|loginshell|exec_|parent_exec_)?[pt]?id$|^fd\.uid$`)
	for _, f := range fields {
		looks := f.Type == event.Time || f.Type == event.Duration || looks.MatchString(f.Name)
		if looks && !differs(f.Name) {
			t.Errorf("%s makes alerts different", f.Name)
		}
	}
	for _, name := range differing {
		if _, ok := event.Lookup(name); !ok {
			t.Errorf("no field %s", name)
		}
	}
	for name, want := range map[string]bool{"proc.apid[2]": true, "toupper(evt.datetime.s)": true, "proc.aname[2]": false, "toupper(proc.name)": false} {
		if differs(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

// TestAggregateArgs takes a process's own id in its arguments for no difference,
// and that of another for one.
func TestAggregateArgs(t *testing.T) {
	set, findings := rule.Load([]rule.File{{Name: "r.yaml", Text: []byte("- rule: r\n  desc: d\n  condition: evt.type in (execve, kill)\n  output: '%evt.args %evt.arg.pid %evt.arg[4]'\n  priority: INFO\n")}}, rule.Config{})
	if set == nil {
		t.Fatal(findings)
	}
	n := newNoise(time.Minute, set)
	again := func(e *event.Event) bool {
		_, again := n.add(nil, set.Rules[0], e, time.Unix(1, 0))
		return again
	}
	exec := func(pid uint32, args string) bool {
		p := &event.Process{PID: pid, TID: pid, VPID: pid, Name: "x", ArgsLine: args, Parent: &event.Process{PID: pid + 1000}}
		return again(&event.Event{Process: p, Data: &event.Exec{Type: "execve"}})
	}
	if exec(1, "a") || !exec(2, "a") || exec(2, "b") {
		t.Error("what begins is told wrong")
	}
	kill := func(pid string) bool {
		e, err := event.Make(map[string]event.Value{"evt.type": {Text: "kill"}, "evt.arg.pid": {Text: pid}})
		if err != nil {
			t.Fatal(err)
		}
		return again(e)
	}
	if kill("1") || !kill("1") || kill("2") {
		t.Error("who is killed is told wrong")
	}
}

// TestAggregateLarge keeps no more of large events than it may, and tells the others.
func TestAggregateLarge(t *testing.T) {
	set, findings := rule.Load([]rule.File{{Name: "r.yaml", Text: []byte("- rule: r\n  desc: d\n  source: k8s_audit\n  condition: ka.verb = get\n  output: '%ka.user.name'\n  priority: INFO\n")}}, rule.Config{})
	if set == nil {
		t.Fatal(findings)
	}
	n := newNoise(time.Minute, set)
	const size, groups = 1 << 20, 2 * maxHeld >> 20
	text := strings.Repeat("x", size)
	again := func(user int) bool {
		_, again := n.add(nil, set.Rules[0], &event.Event{Data: &event.K8sAudit{Type: "audit", User: strconv.Itoa(user), JSON: text}}, time.Unix(1, 0))
		return again
	}
	for range 2 {
		kept := 0
		for range 3 {
			for user := range groups {
				if again(user) {
					kept++
				}
			}
		}
		if n.held != maxHeld || n.overflow() == 0 {
			t.Errorf("%d bytes are kept, %d alerts found no room", n.held, n.overflow())
		}
		told := uint64(0)
		for _, s := range n.ended(time.Time{}) {
			told += s.times
		}
		if told != uint64(kept) || n.held != 0 {
			t.Errorf("%d of %d are told together, and %d bytes still kept", told, kept, n.held)
		}
	}
}
