package filter

import (
	"fmt"
	"math/rand/v2"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/cluster"
	"warren/event"
	"warren/interest"
)

// TestInterestCovers holds interests against filters: what one accepts, the
// other lets through.
func TestInterestCovers(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	accepted, refused := 0, 0
	for range 5_000 {
		b := make([]byte, 3000)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		a, r := covers(t, b)
		accepted += a
		refused += r
	}
	// Or nothing was tried: neither that something passes nor that something is left out.
	if accepted < 1500 || refused < 1500 {
		t.Errorf("%d events were accepted by filters, %d refused by interests", accepted, refused)
	}
}

func FuzzInterest(f *testing.F) {
	f.Add([]byte("0123456789"), "fd.name startswith /etc and not evt.is_open_write = false")
	f.Add([]byte("abc"), "evt.type in (open, openat) and (evt.rawres < 0 or fd.directory pmatch (/etc, /u*r/b))")
	f.Fuzz(func(t *testing.T, b []byte, expr string) {
		covers(t, b)
		p, err := Compile(expr)
		if err != nil || len(expr) > 4096 {
			return
		}
		want := p.Interest()
		if len(want.Terms) > maxTerms {
			t.Errorf("%d terms", len(want.Terms))
		}
		for range 8 {
			b = slices.Clone(b[min(len(b), 10):])
			if e := fileEvent(&dice{b}); p.Match(e) && !want.Match(e) {
				t.Errorf("%s: accepts what %+v keeps out: %s", p, want.Terms, event.AppendJSON(nil, e))
			}
		}
	})
}

// covers makes a filter and events of bytes, and returns how many of the events
// the filter accepts, and how many its interest keeps out.
func covers(t *testing.T, b []byte) (accepted, refused int) {
	t.Helper()
	d := &dice{b}
	es := []*event.Event{fileEvent(d)}
	expr := wantedExpr(d, es[0], 3)
	p, err := Compile(expr)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	want := p.Interest()
	for range 3 {
		es = append(es, fileEvent(d))
	}
	for _, e := range es {
		match, lets := p.Match(e), want.Match(e)
		if match && !lets {
			t.Errorf("%s: accepts what %+v keeps out: %s", expr, want.Terms, event.AppendJSON(nil, e))
		}
		if match {
			accepted++
		}
		if !lets {
			refused++
		}
	}
	return accepted, refused
}

// fileEvent makes an event with names as sensors report them: absolute and
// without double slashes, or without any slash.
func fileEvent(d *dice) *event.Event {
	e := anyEvent(d)
	name := func(s *string) {
		if *s = pick(d, someNames...); *s == "" {
			*s = pick(d, someTexts...)
		}
		if strings.Contains(*s, "/") {
			*s = path.Clean("/" + *s)
		}
	}
	switch x := e.Data.(type) {
	case *event.Open:
		name(&x.Name)
		x.NameRaw = pick(d, someRaws...)
	case *event.FileClose:
		name(&x.Name)
	case *event.Mount:
		name(&x.Target)
	case *event.File:
		name(&x.Name)
		name(&x.FDName)
		name(&x.Target)
		if x.Type != "symlink" && x.Type != "symlinkat" {
			name(&x.Source)
		}
	}
	return e
}

var someNames = []string{"", "/etc/passwd", "/etc/ssh/sshd_config", "/etc", "/usr/bin/curl", "/usr/lib/a/b/c.conf", "/tmp/x", "/", "/x", "memfd:x", "/etcetera", "/a b/größe"}

var someRaws = []string{"", "/etc/passwd", "../../etc/passwd", "/etc/..", "a.b./c", ".x.", "/usr/../etc/../etc/x"}

// wantedFields are those that interests say something of.
var wantedFields = []string{
	"evt.type", "evt.kind", "evt.res", "evt.rawres", "evt.is_open_read", "evt.is_open_write", "evt.is_open_exec", "evt.is_open_create",
	"fd.name", "fd.containername", "fd.directory", "fd.containerdirectory", "fd.filename", "fs.path.name", "fs.path.source", "fs.path.target",
	"fd.nameraw", "fd.nameraw", "fd.ino", "fd.dev", "user.uid", "proc.exepath", "proc.exepath", "proc.name", "fd.port", "fd.lport", "fd.sport", "fd.ip", "fd.rip", "fd.net", "fd.snet",
	"container.id", "container.name", "k8s.ns.name", "k8s.pod.name",
}

func wantedExpr(d *dice, e *event.Event, depth int) string {
	if depth > 0 {
		switch d.roll(6) {
		case 1, 2:
			return "(" + wantedExpr(d, e, depth-1) + " and " + wantedExpr(d, e, depth-1) + ")"
		case 3:
			return "(" + wantedExpr(d, e, depth-1) + " or " + wantedExpr(d, e, depth-1) + ")"
		case 4:
			return "not (" + wantedExpr(d, e, depth-1) + ")"
		}
	}
	if d.chance(15) {
		return anyCheck(d, e)
	}
	f, ok := event.Lookup(pick(d, wantedFields...))
	if !ok {
		panic("a field that is none")
	}
	return fieldCheck(d, e, f)
}

// fieldCheck compares f with something, mostly what e has.
func fieldCheck(d *dice, e *event.Event, f *event.Field) string {
	ops := []string{"=", "=", "!=", "in", "intersects"}
	switch {
	case f.Type == event.String:
		ops = append(ops, "contains", "startswith", "startswith", "endswith", "glob", "pmatch", "pmatch", "regex", "<", "bstartswith", "icontains", "iglob")
	case isNum(f.Type):
		ops = append(ops, "<", "<=", ">", ">=")
	}
	op := pick(d, ops...)
	value := func() string {
		if f.Type == event.String && f.Name[0] == 'f' && d.chance(40) {
			return textFor(d, op, pick(d, someNames...))
		}
		if f.Name == "fd.nameraw" && d.chance(60) {
			return textFor(d, op, pick(d, someRaws...))
		}
		if f.Name == "evt.res" && d.chance(60) {
			return textFor(d, op, pick(d, "SUCCESS", "SUCCESS", "ENOENT", "EPERM"))
		}
		if f.Name == "evt.rawres" && d.chance(60) {
			return pick(d, "0", "-1", "1", "3", "-2")
		}
		if f.Name == "evt.type" && (op == "=" || op == "!=" || op == "in" || op == "intersects") && d.chance(60) {
			if typ, _ := f.Str(e, 0); typ != "" {
				return typ
			}
		}
		return anyValue(d, e, f, f.Name, f.Type, op)
	}
	switch {
	case op == "in" || op == "intersects" || op == "pmatch":
		return f.Name + " " + op + " " + anyValues(d, value)
	case op[0] != '<' && op[0] != '>' && d.chance(20):
		return f.Name + " " + op + pick(d, " oneof ", " anyof ", " allof ") + anyValues(d, value)
	}
	v := value()
	if (op[0] == '<' || op[0] == '>') && strings.ContainsAny(v, `"'`) {
		v = "5"
	}
	return f.Name + " " + op + " " + v
}

// TestInterest shows what is made of filters.
func TestInterest(t *testing.T) {
	type (
		term  = interest.Term
		paths = []interest.Path
	)
	open, files := event.Kinds(event.KindOpen), event.Kinds(event.KindOpen, event.KindFile, event.KindFileClose)
	for _, tt := range []struct {
		expr string
		want []term
	}{
		{"evt.type in (open, openat, creat) and fd.name startswith /etc and evt.is_open_write = true",
			[]term{{Kinds: open, Types: []string{"creat", "open", "openat"}, Open: interest.OpenWrite, Paths: paths{{Op: interest.Prefix, Text: "/etc"}}}}},
		{"evt.kind = open and fd.name pmatch (/etc, /usr/lib/*.so)", []term{{Kinds: open, Paths: paths{{Op: interest.Under, Text: "/etc"}, {Op: interest.Under, Text: "/usr/lib"}, {Op: interest.Exact, Text: "etc"}}}}},
		{"fd.directory in (/bin, /usr/bin) and evt.rawres >= 0", []term{{Kinds: files, Outcome: interest.Succeeded, Paths: paths{{Op: interest.Prefix, Text: "/bin/"}, {Op: interest.Prefix, Text: "/usr/bin/"}}}}},
		{"evt.kind = open and fd.filename in (id_rsa, id_dsa)", []term{{Kinds: open, Paths: paths{{Op: interest.Exact, Text: "id_dsa"}, {Op: interest.Exact, Text: "id_rsa"}, {Op: interest.Suffix, Text: "/id_dsa"}, {Op: interest.Suffix, Text: "/id_rsa"}}}}},
		{"evt.kind = open and fd.name glob /home/*/.ssh/id_rsa and not fd.name endswith .pub", []term{{Kinds: open, Paths: paths{{Op: interest.Prefix, Text: "/home/"}}}}},
		{"evt.kind = open and fd.name contains ssh", []term{{Kinds: open}}},
		{"evt.type = ptrace or evt.type = openat2 or evt.type = openat", []term{{Kinds: open | event.Kinds(event.KindSyscall), Types: []string{"openat", "openat2", "ptrace"}}}},
		{"not evt.kind in (open, file)", []term{{Kinds: event.AllKinds &^ event.Kinds(event.KindOpen, event.KindFile)}}},
		{"evt.kind = open and not evt.res = SUCCESS", []term{{Kinds: open, Outcome: interest.Failed}}},
		{"evt.kind = open and evt.res = SUCCESS and evt.rawres < 0", nil},
		{"evt.kind = open and user.uid in (0, 1000) and user.uid = 0", []term{{Kinds: open, UIDs: []uint32{0}}}},
		{"evt.kind = open and (fd.ino = 7 and fd.dev = 3 or fd.name = /x)", []term{{Kinds: open, Inodes: []interest.Inode{{Dev: 3, Ino: 7}}}, {Kinds: open, Paths: paths{{Op: interest.Exact, Text: "/x"}}}}},
		{"evt.kind = open and proc.exepath startswith /usr/ and proc.exepath in (/usr/bin/cat, /bin/sh) and proc.name = cat", []term{{Kinds: open, Exes: paths{{Op: interest.Exact, Text: "/usr/bin/cat"}}, Names: paths{{Op: interest.Exact, Text: "cat"}}}}},
		{"evt.kind = open and proc.exepath glob /usr/*/cat and proc.exepath pmatch (/usr/bin)", []term{{Kinds: open, Exes: paths{{Op: interest.Under, Text: "/usr/bin"}}}}},
		{"evt.kind = open and proc.exepath = /usr/bin/cat and proc.exepath startswith /opt/", nil},
		{"evt.kind = connection and fd.sport in (80, 443, 70000)", []term{{Kinds: event.Kinds(event.KindConnection), Ports: []uint16{80, 443}}}},
		{"evt.kind = open and fd.nameraw contains '../' and fd.name contains id_rsa", []term{{Kinds: open, RawDots: true}}},
		{"evt.kind = open and fd.directory = /", []term{{Kinds: open, Paths: paths{{Op: interest.Prefix, Text: "/"}}}}},
	} {
		p, err := Compile(tt.expr)
		if err != nil {
			t.Errorf("%s: %v", tt.expr, err)
			continue
		}
		got := p.Interest().Terms
		for i := range got {
			got[i].Paths = sortedPaths(got[i].Paths)
		}
		for i := range tt.want {
			tt.want[i].Paths = sortedPaths(tt.want[i].Paths)
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", tt.expr, got, tt.want)
		}
	}
}

func sortedPaths(ps []interest.Path) []interest.Path {
	slices.SortFunc(ps, func(a, b interest.Path) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return ps
}

// TestInterestFields: interests suppose which kinds of events have what.
func TestInterestFields(t *testing.T) {
	for names, want := range map[string]event.KindSet{
		"fd.lip fd.rip fd.cip fd.sip fd.ip fd.net fd.lnet fd.rnet fd.cnet fd.snet fd.port fd.lport fd.rport fd.cport fd.sport": interest.SocketKinds,
		"evt.is_open_read evt.is_open_write evt.is_open_exec evt.is_open_create":                                               interest.OpenKinds,
		"fd.ino fd.dev fd.directory fd.filename fs.path.name fs.path.source fs.path.target":                                    interest.PathKinds,
		"user.uid proc.exepath proc.name container.id k8s.ns.name":                                                             event.AllKinds,
	} {
		for _, name := range strings.Fields(names) {
			f, ok := event.Lookup(name)
			if !ok || f.Kinds()&^want != 0 {
				t.Errorf("%s: field of %v, want a part of %v", name, f.Kinds(), want)
			}
		}
	}
}

// TestInterestBounded: what would be 2^40 terms is few, and soon.
func TestInterestBounded(t *testing.T) {
	var ands []string
	for i := range 40 {
		ands = append(ands, fmt.Sprintf("(fd.name = /a%d or user.uid = %d or evt.rawres < 0 or fd.ino = %d)", i, i, i+1))
	}
	begun := time.Now()
	for _, expr := range []string{strings.Join(ands, " and "), "not (" + strings.Join(ands, " or ") + ")", strings.Join(ands, " or ")} {
		p, err := Compile(expr)
		if err != nil {
			t.Fatal(err)
		}
		want := p.Interest()
		if len(want.Terms) > maxTerms {
			t.Errorf("%d terms", len(want.Terms))
		}
		e := &event.Event{Data: &event.Open{Type: "open", Name: "/a1", RawRes: -2, Res: 2}, Process: &event.Process{}}
		if p.Match(e) && !want.Match(e) {
			t.Error("an event is kept out")
		}
	}
	t.Log(time.Since(begun))
}

// TestInterestOfCalls: what few system calls have asks for these alone, and
// their descriptors have names of files and of sockets.
func TestInterestOfCalls(t *testing.T) {
	for _, tt := range []struct {
		expr string
		want []string
	}{
		{"evt.arg.request contains ATTACH", []string{"ptrace"}},
		{"evt.arg[request] = PTRACE_ATTACH", []string{"ptrace"}},
		{"evt.arg.option exists", []string{"prctl"}},
		{"evt.type in (dup, kill) and evt.arg.pid = 7", []string{"kill"}},
		{"fd.type = ipv4 and evt.kind = syscall", []string{"bind", "dup", "dup2", "dup3", "finit_module", "kexec_file_load"}},
		{"fd.name = /etc/passwd", []string{"bind", "dup", "dup2", "dup3", "finit_module", "kexec_file_load"}},
	} {
		set := interest.Union(interest.Holder{Interest: mustCompile(t, tt.expr).Interest()})
		got := set.Types(event.KindSyscall)
		slices.Sort(got)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: asks for %v, want %v", tt.expr, got, tt.want)
		}
	}
	e := &event.Event{Data: &event.Syscall{Type: "dup", Call: event.LookupCall("dup"), FD: 4, FDName: "/etc/passwd", FDType: "file"}}
	p := mustCompile(t, "fd.name = /etc/passwd")
	if in := p.Interest(); !p.Match(e) || !in.Match(e) {
		t.Error("a copy of a descriptor is kept out")
	}
}

// TestWorkloadFields: what is taken for a condition on containers is one of events
// of any kind, and looks at nothing but the container of the process.
func TestWorkloadFields(t *testing.T) {
	c := &event.Container{FullID: "abc", ID: "abc", Type: "docker", Name: "web", Labels: map[string]string{"k": "v"},
		Pod: &cluster.Pod{UID: "u", Name: "p", Namespace: "n", Labels: map[string]string{"k": "v"}, NamespaceLabels: map[string]string{"k": "v"}}}
	n := 0
	for _, f := range event.Fields() {
		name := f.Name
		if f.Arg == event.KeyArg {
			name += "[k]"
		}
		x, err := Parse(name + " exists")
		if err != nil || !ofWorkload(x) {
			continue
		}
		n++
		if f.Kinds() != event.AllKinds {
			t.Errorf("%s is of %s alone", f.Name, f.Kinds())
		}
		p, err := CompileExpr(x)
		if err != nil {
			t.Fatal(err)
		}
		bare := &event.Event{Process: &event.Process{Container: c}, Data: &event.Open{}}
		other := &event.Event{Time: time.Unix(1, 0), Ktime: 7, Seq: 3, Process: &event.Process{Name: "x", PID: 7, Container: c}, Data: &event.Connection{Type: "connect"}}
		if p.Match(bare) != p.Match(other) {
			t.Errorf("%s is not the container's", f.Name)
		}
	}
	if n < 20 {
		t.Errorf("%d fields of containers", n)
	}
}
