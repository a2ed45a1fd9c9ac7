package identity

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/event"
)

// ancestry renders a process and its ancestors by name.
func ancestry(p *event.Process) string {
	var names []string
	for ; p != nil; p = p.Parent {
		names = append(names, p.Name)
	}
	return strings.Join(names, " < ")
}

func TestForkExecExit(t *testing.T) {
	m := newMachine(t, nil)
	init := m.task(1, event.Key{}, "init")
	sh := m.task(100, init, "sh", "-c", "work")

	child, e := m.fork(sh, 200)
	p := e.Process
	if got, want := ancestry(p), "sh < sh < init"; got != want {
		t.Errorf("after fork: %s, want %s", got, want)
	}
	if p.Cmdline != "sh -c work" || p.ExePath != "/bin/sh" || p.Depth != 2 || p.ParentKey != sh {
		t.Errorf("fork did not copy the image: %q %q depth %d parent %v", p.Cmdline, p.ExePath, p.Depth, p.ParentKey)
	}
	if p.UserName != "root" || p.GroupName != "root" || p.LoginName != "" {
		t.Errorf("users %q %q %q", p.UserName, p.GroupName, p.LoginName)
	}
	start := p.StartTime

	m.tick(time.Second)
	// What the sensor says of the parent at exec is who is parent by then.
	e = m.exec(child, func(p *event.Process) { p.ParentKey, p.StartTime = init, time.Time{} }, "/usr/bin/curl", "-s", "http://x")
	p = e.Process
	if got, want := ancestry(p), "curl < sh < init"; got != want {
		t.Errorf("after exec: %s, want %s", got, want)
	}
	if p.ParentKey != sh || !p.StartTime.Equal(start) || p.Cmdline != "curl -s http://x" {
		t.Errorf("exec: parent %v, start %v, cmdline %q", p.ParentKey, p.StartTime, p.Cmdline)
	}
	if q := m.Process(child); q != p {
		t.Error("the event's process is not the table's")
	}

	m.tick(2 * time.Second)
	e = m.exit(child, 3)
	x := e.Data.(*event.Exit)
	if e.Process.Exited != x || x.Code != 3 || x.Ktime != m.ktime || x.Duration != int64(m.ktime-child.Start) {
		t.Errorf("exit: %+v", x)
	}
	if p.Exited != nil {
		t.Error("an exit changed a snapshot that was already published")
	}
	if got := ancestry(m.Process(child)); got != "curl < sh < init" {
		t.Errorf("after exit: %s", got)
	}
	again := m.exit(child, 4)
	if again.Process.Exited.Code != 3 {
		t.Error("a second exit replaced the first")
	}
	m.check()
}

func TestParentIsAsItWas(t *testing.T) {
	m := newMachine(t, nil)
	init := m.task(1, event.Key{}, "init")
	sh := m.task(100, init, "sh")
	child, _ := m.fork(sh, 200)
	m.exec(sh, nil, "/bin/vim")
	m.exit(sh, 0)
	m.exec(child, nil, "/bin/cat")
	if got, want := ancestry(m.Process(child)), "cat < sh < init"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if m.Process(child).Parent.Exited != nil {
		t.Error("the parent had not ended at the fork")
	}
	m.check()
}

func TestPIDReuse(t *testing.T) {
	m := newMachine(t, nil)
	init := m.task(1, event.Key{}, "init")
	var keys []event.Key
	for n := range 3 {
		k, _ := m.fork(init, 500)
		m.exec(k, nil, fmt.Sprintf("/bin/run%d", n))
		keys = append(keys, k)
		if n < 2 {
			m.exit(k, 0)
		}
	}
	var names []string
	for _, p := range m.ProcessByPID(500) {
		names = append(names, p.Name)
	}
	if diff := cmp.Diff([]string{"run2", "run1", "run0"}, names); diff != "" {
		t.Errorf("by pid, newest first (-want +got):\n%s", diff)
	}
	for n, k := range keys {
		if p := m.Process(k); p == nil || p.Name != fmt.Sprintf("run%d", n) {
			t.Errorf("process %v is %+v", k, p)
		}
	}
	// An end that nobody told: the pid could not have been given away otherwise.
	m.fork(init, 500)
	if m.Process(keys[2]) != nil || m.Stats().Vanished != 1 {
		t.Errorf("the process that ended unseen is still there; %d vanished", m.Stats().Vanished)
	}
	m.check()
}

func TestEventsBeforeAnExec(t *testing.T) {
	m := newMachine(t, nil)
	init := m.task(1, event.Key{}, "init")
	k, _ := m.fork(init, 300)
	m.exec(k, nil, "/bin/bash")
	before := m.ktime
	m.tick(time.Millisecond)
	m.exec(k, nil, "/bin/nc")
	m.exit(k, 0)
	// A record that waited in the other ring meanwhile.
	for _, tt := range []struct {
		ktime uint64
		want  string
	}{{before + 10, "bash"}, {m.ktime, "nc"}, {0, "nc"}} {
		e := &event.Event{Ktime: tt.ktime, Actor: k, Data: conn("connect", tt.ktime+1, "1.1.1.1:1", "2.2.2.2:2")}
		m.Apply(e)
		if e.Process == nil || e.Process.Name != tt.want {
			t.Errorf("at %d: %v, want %s", tt.ktime, e.Process, tt.want)
		}
	}
	m.check()
}

func TestUnknownParentThenRelink(t *testing.T) {
	m := newMachine(t, nil)
	// Children come before their parents, as the kernel lists them after its
	// numbers have wrapped.
	key := func(pid uint32) event.Key { return event.Key{PID: pid, Start: uint64(pid) * 1e9} }
	d := m.task(10, key(20), "d")
	m.task(20, key(30), "c")
	m.task(30, key(40), "b")
	forked, _ := m.fork(d, 50)
	m.task(40, event.Key{}, "a")
	if got := ancestry(m.Process(d)); got != "d" {
		t.Fatalf("before: %s", got)
	}
	m.Relink()
	for k, want := range map[event.Key]string{
		d: "d < c < b < a", key(20): "c < b < a", key(40): "a", forked: "d < d < c < b < a",
	} {
		p := m.Process(k)
		if got := ancestry(p); got != want {
			t.Errorf("%d: %s, want %s", k.PID, got, want)
		}
		if n := strings.Count(want, "<"); int(p.Depth) != n {
			t.Errorf("%d: depth %d, want %d", k.PID, p.Depth, n)
		}
	}
	m.check()

	before := m.Process(d)
	m.Relink()
	if m.Process(d) != before {
		t.Error("a second Relink made new snapshots of what was complete")
	}
	m.check()
}

// A parent that has become another program meanwhile stays, in its child's
// ancestry, what it was.
func TestRelinkKeepsWhatTheParentWas(t *testing.T) {
	m := newMachine(t, nil)
	key := func(pid uint32) event.Key { return event.Key{PID: pid, Start: uint64(pid) * 1e9} }
	sh := m.task(10, key(20), "sh")
	child, _ := m.fork(sh, 50)
	m.exec(child, nil, "/bin/work")
	m.exec(sh, nil, "/bin/vim")
	m.exec(sh, nil, "/bin/vim2")
	m.task(20, event.Key{}, "init")
	m.Relink()
	if got, want := ancestry(m.Process(child)), "work < sh < init"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := ancestry(m.Process(sh)), "vim2 < init"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	m.check()
}

func TestLateParentIsFoundByLaterEvents(t *testing.T) {
	m := newMachine(t, nil)
	key := event.Key{PID: 20, Start: 20e9}
	k, e := m.fork(key, 50, func(p *event.Process) { p.Name = "orphan" })
	if e.Process.Parent != nil || e.Process.ParentKey != key {
		t.Fatalf("parent %v %v", e.Process.Parent, e.Process.ParentKey)
	}
	m.task(20, event.Key{}, "sh")
	e = m.apply(k, nil, conn("connect", 1, "1.1.1.1:1", "2.2.2.2:2"))
	if got, want := ancestry(e.Process), "orphan < sh"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	m.check()
}

func TestUnknownActor(t *testing.T) {
	m := newMachine(t, nil)
	k := event.Key{PID: 77, Start: 77}
	for _, d := range []event.Data{
		conn("connect", 1, "1.1.1.1:1", "2.2.2.2:2"), &event.Exit{}, &event.Credentials{}, &event.Namespace{}, &event.DNS{},
	} {
		var p *event.Process
		if _, ok := d.(*event.Credentials); ok {
			p = &event.Process{Key: k, PID: 77}
		}
		e := m.apply(k, p, d)
		if e.Process != nil {
			t.Errorf("%T: process %+v out of nothing", d, e.Process)
		}
		if m.Pending(e) {
			t.Errorf("%T waits though /proc cannot tell", d)
		}
		m.Resolve(e, true)
	}
	if n := m.Stats().Unknown; n != 5 {
		t.Errorf("%d unknown, want 5", n)
	}
	// An exec tells everything.
	e := m.exec(k, nil, "/bin/late")
	if e.Process.Name != "late" || m.Process(k) != e.Process {
		t.Errorf("after exec: %+v", e.Process)
	}
	m.check()
}

func TestCredentials(t *testing.T) {
	m := newMachine(t, nil)
	init := m.task(1, event.Key{}, "init")
	k, _ := m.fork(init, 100, func(p *event.Process) { p.CapEffective = 0b1111 })

	now := &event.Process{Key: k, PID: 100, TID: 101, Creds: event.Creds{UID: 1000, GID: 1000, CapEffective: 0b10011}}
	e := m.apply(k, now, &event.Credentials{Type: "setuid"})
	want := &event.Credentials{Type: "setuid", Gained: 0b10000, Dropped: 0b1100, OldCaps: 0b1111}
	if diff := cmp.Diff(want, e.Data); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	p := e.Process
	if p.UID != 1000 || p.UserName != "ann" || p.GroupName != "staff" || p.TID != 101 || ancestry(p) != "init < init" {
		t.Errorf("after: uid %d %q %q tid %d %s", p.UID, p.UserName, p.GroupName, p.TID, ancestry(p))
	}
	if q := m.Process(k); q.TID != 100 || q.UID != 1000 {
		t.Errorf("table: tid %d uid %d", q.TID, q.UID)
	}

	// What the kernel said of before stays.
	e = m.apply(k, &event.Process{Key: k, TID: 100, Creds: event.Creds{CapEffective: 1}}, &event.Credentials{OldUID: 7, OldCaps: 3})
	want = &event.Credentials{OldUID: 7, OldCaps: 3, Dropped: 2}
	if diff := cmp.Diff(want, e.Data); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	m.check()
}

func TestNamespaces(t *testing.T) {
	m := newMachine(t, nil)
	init := m.task(1, event.Key{}, "init")
	ns := event.Namespaces{MntNS: 1, PidNS: 2, NetNS: 3, UserNS: 4}
	k, _ := m.fork(init, 100, func(p *event.Process) { p.Namespaces = ns; p.CapEffective = 5 })
	e := m.apply(k, &event.Process{Key: k, Namespaces: event.Namespaces{NetNS: 33, MntNS: 11}, Cwd: "/new"}, &event.Namespace{Type: "setns"})
	if diff := cmp.Diff(&event.Namespace{Type: "setns", Changed: []string{"mnt", "net"}, Old: ns}, e.Data); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	p := m.Process(k)
	if p.NetNS != 33 || p.PidNS != 2 || p.Cwd != "/new" || p.CapEffective != 5 {
		t.Errorf("after: %+v %q %v", p.Namespaces, p.Cwd, p.CapEffective)
	}
	m.check()
}

func TestTaskAfterItsOwnEvents(t *testing.T) {
	m := newMachine(t, nil)
	init := m.task(1, event.Key{}, "init")
	k, _ := m.fork(init, 100)
	m.exec(k, func(p *event.Process) { p.Filename = "./script" }, "/bin/sh", "./script")
	same := *m.Process(k)
	same.Filename, same.Args, same.Cmdline, same.Parent = "", nil, "sh", nil
	same.UID = 1000
	m.apply(k, &same, &event.ProcessState{})
	if p := m.Process(k); p.Filename != "./script" || p.Cmdline != "sh ./script" || p.UID != 1000 || ancestry(p) != "sh < init" {
		t.Errorf("the same image: %q %q %d %s", p.Filename, p.Cmdline, p.UID, ancestry(p))
	}
	// Its exec was lost: the kernel's present answer counts.
	other := &event.Process{Key: k, PID: 100, Name: "vi", ExePath: "/bin/vi", ParentKey: init}
	other.SetArgs([]string{"vi", "x"})
	m.apply(k, other, &event.ProcessState{})
	if p := m.Process(k); p.Cmdline != "vi x" || p.Filename != "" || ancestry(p) != "vi < init" {
		t.Errorf("another image: %q %q %s", p.Cmdline, p.Filename, ancestry(p))
	}
	// A zombie is still listed by the kernel.
	m.exit(k, 9)
	late := *other
	late.Exited = nil
	e := m.apply(k, &late, &event.ProcessState{})
	if e.Process.Exited == nil || m.Process(k).Exited == nil {
		t.Error("a zombie came to life")
	}
	m.check()
}

// When records were lost, a child with its parent's image may have one of its own: the
// same program with other arguments, as the tools of busybox are.
func TestTaskAfterLosses(t *testing.T) {
	m := newMachine(t, nil)
	init := m.task(1, event.Key{}, "init")
	old, _ := m.fork(init, 90)
	m.exec(old, nil, "/bin/busybox", "httpd")
	worker, _ := m.fork(old, 91) // before the losses: it has its parent's image, and another title
	m.tick(time.Second)
	since := m.ktime
	sh, _ := m.fork(init, 100)
	m.exec(sh, nil, "/bin/busybox", "sh")
	child, _ := m.fork(sh, 101) // its exec is lost
	lost := event.Key{PID: 102, Start: m.ktime + 2000}
	kworker := event.Key{PID: 3, Start: 3e9}
	unread, _ := m.fork(sh, 104) // its arguments are out of reach when it is read

	read := func(k, parent event.Key, args ...string) {
		p := &event.Process{Key: k, PID: k.PID, TID: k.PID, ParentKey: parent, Name: args[0], ExePath: "/bin/busybox", ExeInode: 12, LoginUID: event.NoLogin, StartTime: m.now()}
		p.SetArgs(args)
		m.apply(k, p, &event.ProcessState{Type: "process"})
	}
	bare := func(k, parent event.Key, name string, change func(*event.Process)) {
		p := &event.Process{Key: k, PID: k.PID, TID: k.PID, ParentKey: parent, Name: name, LoginUID: event.NoLogin, StartTime: m.now()}
		change(p)
		m.apply(k, p, &event.ProcessState{Type: "process"})
	}
	all := func() {
		bare(kworker, init, "kworker", func(p *event.Process) { p.Kthread = true })
		bare(unread, sh, "busybox", func(p *event.Process) { p.ExePath, p.ExeInode, p.ArgsCut = "/bin/busybox", 12, true })
		read(old, init, "busybox", "title")
		read(worker, old, "busybox", "title")
		read(sh, init, "busybox", "title")
		read(child, sh, "wget", "http://x")
		read(lost, sh, "nc", "-l")
	}
	is := func(when string, want ...string) {
		t.Helper()
		var got []string
		for _, k := range []event.Key{old, worker, sh, child, lost, unread} {
			p := m.Process(k)
			if p == nil {
				got = append(got, "unknown")
				continue
			}
			got = append(got, p.Name+": "+p.Cmdline)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	const httpd, shell = "busybox: busybox httpd", "busybox: busybox sh"
	is("before", httpd, httpd, shell, shell, "unknown", shell)
	m.Doubt(since)
	all()
	m.Relink()
	is("read again", httpd, httpd, shell, "wget: wget http://x", "nc: nc -l", shell)
	if a := ancestry(m.Process(lost)); a != "nc < busybox < init" {
		t.Errorf("ancestry %s", a)
	}
	m.check()

	// What has not changed is not kept once more.
	before, thread := m.Process(sh), m.Process(kworker)
	bytes := m.procs.bytes
	m.Doubt(since)
	all()
	m.Relink()
	if m.Process(sh) != before || m.Process(kworker) != thread || m.procs.bytes > bytes {
		t.Errorf("read without a change, the tables have %d bytes, had %d", m.procs.bytes, bytes)
	}
	m.check()

	// Without losses what is known from their own events is better.
	next, _ := m.fork(sh, 103)
	read(next, sh, "busybox", "title")
	if p := m.Process(next); p.Cmdline != "busybox sh" {
		t.Errorf("after a record of what exists: %q", p.Cmdline)
	}
	m.check()
}

// Records of other lanes are read when thousands of processes have changed since, and
// belong to what was true at their time.
func TestOvertakenByMany(t *testing.T) {
	m := newMachine(t, func(c *Config) { c.ProcessBytes = 1 << 30 })
	init := m.task(1, event.Key{}, "init")
	shell, _ := m.fork(init, 2)
	m.exec(shell, nil, "/bin/sh")
	opened := m.ktime
	m.exec(shell, nil, "/bin/cat")
	k, _ := m.fork(init, 3)
	const replaced = 8192    // two fifths of what the critical ring holds
	for range replaced - 2 { // and two of the shell
		m.exec(k, nil, "/bin/true")
	}
	at := func(ktime uint64) string {
		e := &event.Event{Ktime: ktime, Actor: shell, Data: &event.Open{Type: "open"}}
		m.Apply(e)
		return e.Process.Name
	}
	m.tick(time.Second)
	if before, after := at(opened), at(m.ktime); before != "sh" || after != "cat" {
		t.Errorf("a late event is of %s, one of now of %s", before, after)
	}
	if n := m.Stats().Overtaken; n != 0 {
		t.Errorf("%d snapshots were forgotten too soon", n)
	}
	for range maxRecent - replaced + 1 {
		m.exec(k, nil, "/bin/true")
	}
	if n := m.Stats().Overtaken; n == 0 {
		t.Error("more were replaced than are remembered, and it is not counted")
	}
	n := m.Stats().Overtaken
	m.tick(recentSpan)
	m.sweepOnce(m.ktime + 1)
	if s := m.Stats(); s.Replaced != 0 || s.Overtaken != n {
		t.Errorf("afterwards %d snapshots remember what they replaced, %d were forgotten too soon", s.Replaced, s.Overtaken)
	}
	m.check()
}

// A program that re-forks itself for ever, with and without an exec.
func TestEndlessChain(t *testing.T) {
	m := newMachine(t, func(c *Config) { c.MaxExited = 10 })
	k := m.task(1, event.Key{}, "daemon")
	for n := range 2 * maxRecent {
		next, e := m.fork(k, uint32(2+n))
		if n%3 == 0 {
			e = m.exec(next, nil, "/bin/daemon", fmt.Sprint(n))
		}
		m.exit(k, 0)
		k = next
		deep := 0
		for p := e.Process.Parent; p != nil; p = p.Parent {
			deep++
		}
		if deep > maxDepth || int32(deep) != e.Process.Depth {
			t.Fatalf("generation %d: %d ancestors, depth %d", n, deep, e.Process.Depth)
		}
		if n > maxDepth && deep < keepDepth {
			t.Fatalf("generation %d: only %d ancestors", n, deep)
		}
		if n%4000 == 0 || n < 2000 && n%100 == 0 {
			m.check()
		}
	}
	// 11 processes, their chains, and what recent snapshots replaced.
	if n := m.Stats().ProcessBytes / snapSize; n > 64+maxRecent+200 {
		t.Errorf("%d snapshots kept", n)
	}
	m.tick(time.Minute)
	m.sweepOnce(m.ktime)
	if n := m.Stats().ProcessBytes / snapSize; n > 150 {
		t.Errorf("%d snapshots kept at rest", n)
	}
	m.check()
}

// Many children of one deep process share its ancestors.
func TestDeepParentSharesItsChain(t *testing.T) {
	m := newMachine(t, nil)
	k := m.task(1, event.Key{}, "x")
	for n := range maxDepth + 5 {
		k, _ = m.fork(k, uint32(2+n))
	}
	for range 40 { // to just below the bound, then children at it
		if m.Process(k).Depth == maxDepth-1 {
			break
		}
		k, _ = m.fork(k, m.Process(k).PID+1)
	}
	before := m.Stats().ProcessBytes
	for n := range 1000 {
		m.fork(k, uint32(10000+n))
	}
	if grown := (m.Stats().ProcessBytes - before) / 1000; grown > snapSize+entrySize+100 {
		t.Errorf("a child costs %d bytes", grown)
	}
	m.check()
}

func TestExitedAreForgotten(t *testing.T) {
	m := newMachine(t, func(c *Config) { c.MaxExited, c.ExitedAge = 100, time.Minute })
	init := m.task(1, event.Key{}, "init")
	var keys []event.Key
	for n := range 200 {
		k, _ := m.fork(init, uint32(100+n))
		m.exit(k, 0)
		keys = append(keys, k)
	}
	s := m.Stats()
	if s.Exited != 100 || s.Evicted != 100 {
		t.Errorf("%d remembered, %d evicted", s.Exited, s.Evicted)
	}
	if m.Process(keys[99]) != nil || m.Process(keys[100]) == nil {
		t.Error("not the oldest were forgotten")
	}
	m.tick(30 * time.Second)
	k, _ := m.fork(init, 1000)
	m.exit(k, 0)
	m.tick(31 * time.Second)
	m.sweepOnce(m.ktime)
	if s := m.Stats(); s.Exited != 1 {
		t.Errorf("%d remembered after their time", s.Exited)
	}
	m.check()
}

func TestProcessBudget(t *testing.T) {
	const budget = 1 << 20
	long := strings.Repeat("x", 30<<10)
	for _, tt := range []struct {
		name string
		run  func(m *machine, init event.Key, n int)
	}{
		{"exited with long arguments", func(m *machine, init event.Key, n int) {
			k, _ := m.fork(init, uint32(10+n))
			m.exec(k, nil, "/bin/x", long)
			m.exit(k, 0)
		}},
		{"connections of exited processes", func(m *machine, init event.Key, n int) {
			k, _ := m.fork(init, uint32(10+n))
			m.exec(k, nil, "/bin/x", long)
			m.apply(k, nil, conn("connect", uint64(n+1), "1.1.1.1:1", "2.2.2.2:2"))
			m.apply(k, nil, conn("close", uint64(n+1), "1.1.1.1:1", "2.2.2.2:2"))
			m.exit(k, 0)
		}},
		{"living with long arguments", func(m *machine, init event.Key, n int) {
			k, _ := m.fork(init, uint32(10+n))
			m.exec(k, nil, "/bin/x", long)
			m.apply(k, nil, conn("connect", uint64(n+1), "1.1.1.1:1", "2.2.2.2:2"))
		}},
		{"ancestors that ended", func(m *machine, init event.Key, n int) {
			k := init
			for g := range 5 {
				c, _ := m.fork(k, uint32(10+10*n+g))
				m.exec(c, nil, "/bin/x", long)
				if k != init {
					m.exit(k, 0)
				}
				k = c
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, func(c *Config) { c.ProcessBytes = budget })
			init := m.task(1, event.Key{}, "init")
			for n := range 2000 {
				tt.run(m, init, n)
				if got := m.Stats().ProcessBytes; got > budget+64<<10 {
					t.Fatalf("%d: %d bytes, the budget is %d", n, got, budget)
				}
				if n%200 == 0 {
					m.check()
				}
			}
			s := m.Stats()
			if s.Evicted+s.Stripped == 0 {
				t.Errorf("nothing given up: %+v", s)
			}
			m.check()
		})
	}
}

// TestCounting drives the tables at random and holds every reference count
// against what can be reached.
func TestCounting(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := newMachine(t, func(c *Config) {
			c.ProcessBytes, c.MaxExited, c.MaxClosed = 200<<10, 60, 20
		})
		keys := []event.Key{m.task(1, event.Key{}, "init")}
		groups := []func(*event.Process){
			m.cgroup(1, "/system.slice/a.service"), m.cgroup(2, "/docker/"+id64(1)), m.cgroup(3, "/docker/"+id64(2)),
		}
		for n := range 3000 {
			k := keys[r.IntN(len(keys))]
			switch r.IntN(10) {
			case 0, 1, 2:
				c, _ := m.fork(k, uint32(r.IntN(300)+2), groups[r.IntN(len(groups))])
				keys = append(keys, c)
			case 3, 4:
				m.exec(k, groups[r.IntN(len(groups))], fmt.Sprintf("/bin/%d", r.IntN(9)), strings.Repeat("a", r.IntN(3000)))
			case 5:
				m.exit(k, 0)
				keys = append(keys[:0], keys[max(0, len(keys)-100):]...)
			case 6:
				m.apply(k, nil, conn([]string{"connect", "update", "close"}[r.IntN(3)], uint64(r.IntN(40)+1), "1.1.1.1:1", "2.2.2.2:2"))
			case 7:
				m.apply(k, &event.Process{Key: k, TID: k.PID, Creds: event.Creds{UID: uint32(r.IntN(3))}}, &event.Credentials{})
			case 8:
				key := event.Key{PID: uint32(r.IntN(100) + 400), Start: 5}
				m.apply(key, &event.Process{Key: key, PID: key.PID, ParentKey: k, Name: "t"}, &event.ProcessState{})
				keys = append(keys, key)
			case 9:
				switch r.IntN(4) {
				case 0:
					m.Relink()
				case 1:
					m.describedAs(ParseCgroup("/docker/"+id64(1)), &Description{Name: "n"})
				case 2:
					m.tick(time.Duration(r.IntN(400)) * time.Millisecond)
				case 3:
					m.sweepOnce(m.ktime)
				}
			}
			if n%50 == 0 {
				m.check()
			}
			if t.Failed() {
				t.Fatalf("seed %d, step %d", seed, n)
			}
		}
	}
}

// A login writes its number to /proc/self/loginuid without an event: only the
// records of its children, and of the task itself, tell.
func TestLoginIsTheRecords(t *testing.T) {
	m := newMachine(t, nil)
	sshd := m.task(100, event.Key{}, "sshd")
	login := func(p *event.Process) { p.LoginUID, p.SessionID = 1000, 7 }
	k, e := m.fork(sshd, 200, login)
	if p := e.Process; p.LoginUID != 1000 || p.SessionID != 7 || p.LoginName != "ann" || p.Cmdline != "sshd" {
		t.Errorf("child: login %d %q, session %d, %q", p.LoginUID, p.LoginName, p.SessionID, p.Cmdline)
	}
	if p := m.Process(sshd); p.LoginUID != event.NoLogin {
		t.Errorf("parent: login %d", p.LoginUID)
	}

	// The parent is listed again, with the same image.
	old := m.Process(sshd)
	p := &event.Process{Key: sshd, PID: 100, TID: 100, Name: "sshd", ExePath: old.ExePath}
	p.SetArgs([]string{"sshd"})
	login(p)
	m.apply(sshd, p, &event.ProcessState{Type: "process"})
	if p := m.Process(sshd); p.LoginUID != 1000 || p.SessionID != 7 || p.LoginName != "ann" {
		t.Errorf("parent, listed again: login %d %q, session %d", p.LoginUID, p.LoginName, p.SessionID)
	}
	if _, e = m.fork(k, 300); e.Process.LoginUID != 1000 || e.Process.SessionID != 7 {
		t.Errorf("grandchild: login %d, session %d", e.Process.LoginUID, e.Process.SessionID)
	}
	m.check()
}
