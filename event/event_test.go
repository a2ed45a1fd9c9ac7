package event

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"
)

func sample() *Event {
	init := &Process{Key: Key{1, 5}, PID: 1, Name: "systemd"}
	sh := &Process{Key: Key{10, 50}, PID: 10, Name: "bash", Parent: init, ParentKey: init.Key, Depth: 1}
	p := &Process{Key: Key{11, 60}, PID: 11, Name: "curl", Parent: sh, ParentKey: sh.Key, Depth: 2, LoginUID: NoLogin}
	p.CapEffective = 1<<21 | 1
	p.SetArgs([]string{"curl", "-s", "http://a\xffb"})
	p.Container = &Container{ID: "abc", Labels: map[string]string{"app": "shop"}}
	return &Event{
		Time: time.Unix(1, 5), Ktime: 100, Seq: 7, Actor: p.Key, Process: p,
		Data: &Connection{Type: "connect", Res: 111, RawRes: -111, State: Close, Socket: Socket{
			Local: netip.MustParseAddr("10.0.0.1"), LocalPort: 4000,
			Remote: netip.MustParseAddr("10.0.0.2"), RemotePort: 443, L4: TCP, RemoteName: "shop.example",
		}},
	}
}

func TestFieldValues(t *testing.T) {
	e := sample()
	for _, tt := range []struct {
		name string
		i    int
		want string
	}{
		{"evt.type", 0, "connect"}, {"evt.res", 0, "ECONNREFUSED"}, {"evt.kind", 0, "connection"},
		{"proc.name", 0, "curl"}, {"proc.pname", 0, "bash"}, {"proc.aname", 0, "curl"}, {"proc.aname", 2, "systemd"},
		{"proc.args", 0, "-s http://a\xffb"}, {"fd.name", 0, "10.0.0.1:4000->10.0.0.2:443"},
		{"fd.l4proto", 0, "tcp"}, {"fd.sip.name", 0, "shop.example"}, {"conn.direction", 0, "out"},
		{"thread.cap_effective", 0, "CAP_CHOWN CAP_SYS_ADMIN"}, {"container.id", 0, "abc"},
	} {
		f, ok := Lookup(tt.name)
		if !ok {
			t.Errorf("no field %s", tt.name)
			continue
		}
		if got, ok := f.Str(e, tt.i); !ok || got != tt.want {
			t.Errorf("%s[%d] = %q, %v; want %q", tt.name, tt.i, got, ok, tt.want)
		}
	}
	for _, name := range []string{"proc.pname", "fd.lip.name", "proc.aname"} {
		f, _ := Lookup(name)
		if s, ok := f.Str(&Event{Data: e.Data}, 1); ok {
			t.Errorf("%s of an event without process = %q", name, s)
		}
	}
	f, _ := Lookup("fd.port")
	if n, _ := f.Num(e, 0); n != 4000 {
		t.Errorf("fd.port[0] = %d", n)
	}
	if n, _ := f.Num(e, 1); n != 443 {
		t.Errorf("fd.port[1] = %d", n)
	}
	f, _ = Lookup("container.label")
	if s, ok := f.Key(e, "app"); !ok || s != "shop" {
		t.Errorf("container.label[app] = %q, %v", s, ok)
	}
	f, _ = Lookup("user.loginuid")
	if n, ok := f.Num(e, 0); !ok || n != -1 {
		t.Errorf("user.loginuid = %d, %v", n, ok)
	}
}

func TestFieldsDescribed(t *testing.T) {
	for _, f := range Fields() {
		if f.Doc == "" || f.Type == 0 || f.Kinds() == 0 {
			t.Errorf("field %q lacks doc, type or kinds", f.Name)
		}
	}
	for _, k := range AllKinds.List() {
		for i, typ := range k.Types() {
			if slices.Contains(k.Types()[:i], typ) || !KindsOfType(typ).Has(k) {
				t.Errorf("evt.type %s of %v: stands twice, or is not found", typ, k)
			}
		}
	}
	for typ, want := range map[string]KindSet{"execve": Kinds(KindExec), "close": Kinds(KindConnection, KindFileClose), "nothing": 0} {
		if got := KindsOfType(typ); got != want {
			t.Errorf("evt.type %s is of the kinds %v, want %v", typ, got, want)
		}
	}
}

func TestAppendJSON(t *testing.T) {
	b := AppendJSON(nil, sample())
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	for k, want := range map[string]any{
		"evt.type": "connect", "proc.args": "-s http://a\ufffdb", "proc.args;base64": "LXMgaHR0cDovL2H/Yg==",
		"container.label[app]": "shop", "fd.rip": "10.0.0.2", "evt.time": "1970-01-01T00:00:01.000000005Z",
		"fd.sport": 443.0,
	} {
		if m[k] != want {
			t.Errorf("%s = %v, want %v", k, m[k], want)
		}
	}
	for _, k := range []string{"fd.lip.name", "fd.ip", "proc.cwd"} {
		if v, ok := m[k]; ok {
			t.Errorf("%s = %v, want no key", k, v)
		}
	}
	if a, ok := m["proc.aname"].([]any); !ok || len(a) != 2 || a[0] != "bash" {
		t.Errorf("proc.aname = %v", m["proc.aname"])
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	e := sample()
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendJSON(buf[:0], e)
	}
}

func TestAppendStringHarmless(t *testing.T) {
	for _, in := range []string{"a\u009b31m", "x\u202ey", "z\u200b", "\u2028", "\U000e0041", "\x7f\x1b[1m\n", "é漢😀"} {
		b, valid := appendString(nil, in)
		var back string
		if err := json.Unmarshal(b, &back); err != nil || back != in || !valid {
			t.Errorf("%q became %s: %q, %v, %v", in, b, back, valid, err)
		}
		for _, r := range string(b) {
			if !strconv.IsPrint(r) {
				t.Errorf("%q became %q: %U is as it was", in, b, r)
			}
		}
	}
}

// TestOtherReaders holds Append, StrOf and NumOf against Str and Num.
func TestOtherReaders(t *testing.T) {
	e := sample()
	for _, f := range Fields() {
		if f.Type == String && f.Arg != KeyArg {
			for i := range 4 {
				want, ok := f.Str(e, i)
				b, got := f.Append([]byte("x"), e, i)
				if got != ok || ok && string(b) != "x"+want {
					t.Errorf("%s[%d]: Append = %q, %v; Str = %q, %v", f.Name, i, b, got, want, ok)
				}
			}
		}
		if f.Many != Ancestors {
			continue
		}
		for p, i := e.Process, 0; i < 4; i++ {
			wantStr, okStr := f.Str(e, i)
			wantNum, okNum := f.Num(e, i)
			gotStr, isStr := f.StrOf(p)
			gotNum, isNum := f.NumOf(p)
			if gotStr != wantStr || gotNum != wantNum || isStr != okStr || isNum != okNum {
				t.Errorf("%s[%d]: StrOf = %q, %v; NumOf = %d, %v; want %q, %v and %d, %v", f.Name, i, gotStr, isStr, gotNum, isNum, wantStr, okStr, wantNum, okNum)
			}
			if p != nil {
				p = p.Parent
			}
		}
	}
	f, _ := Lookup("fd.name")
	buf := make([]byte, 0, 128)
	if n := testing.AllocsPerRun(100, func() { buf, _ = f.Append(buf[:0], e, 0) }); !f.Composed() || n != 0 {
		t.Errorf("fd.name: Composed = %v, Append allocates %v times", f.Composed(), n)
	}
}

func TestDirection(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	for want, conns := range map[string][]*Connection{
		"listen": {
			{State: Listen, Socket: Socket{L4: TCP, Local: addr, Server: true}},
			{State: Close, Socket: Socket{L4: TCP, Local: addr, Server: true}}, // it was closed
			{State: Established, Socket: Socket{L4: UDP, Local: addr, Server: true}},
		},
		"in":  {{State: Established, Socket: Socket{L4: TCP, Local: addr, Remote: addr, Server: true}}},
		"out": {{State: Established, Socket: Socket{L4: TCP, Local: addr, Remote: addr}}, {State: Established, Socket: Socket{L4: UDP, Local: addr}}},
	} {
		for _, c := range conns {
			e := &Event{Data: c}
			f, _ := Lookup("conn.direction")
			if got, _ := f.Str(e, 0); got != want {
				t.Errorf("%+v goes %s, want %s", c, got, want)
			}
			f, _ = Lookup("fd.connected")
			if got, _ := f.Num(e, 0); got != truth(c.L4 == TCP && want != "listen") {
				t.Errorf("%+v is connected: %d", c, got)
			}
		}
	}
}

func TestCloneFlags(t *testing.T) {
	f, _ := Lookup("evt.arg.flags")
	for flags, want := range map[uint64]string{
		0: "", 17: "", 0x4111: "CLONE_VM|CLONE_VFORK", 0x10000000: "CLONE_NEWUSER", 0x4000000000004100: "CLONE_VM|CLONE_VFORK|0x4000000000000000",
	} {
		if got, ok := f.Str(&Event{Data: &Fork{Flags: flags}}, 0); got != want || ok != (want != "") {
			t.Errorf("%#x is %q, %v; want %q", flags, got, ok, want)
		}
	}
	// What clone takes for a signal is a flag of clone3.
	if got, _ := f.Str(&Event{Data: &Fork{Type: "clone3", Flags: 0x80 | 0x4000}}, 0); got != "CLONE_VFORK|CLONE_NEWTIME" {
		t.Errorf("clone3: %q", got)
	}
}

// The parent's pid is known even where nobody has looked at the parent.
func TestParentPID(t *testing.T) {
	ppid, ok := Lookup("proc.ppid")
	if !ok {
		t.Fatal("no field proc.ppid")
	}
	for _, tt := range []struct {
		p    *Process
		want int64
		ok   bool
	}{
		{&Process{Parent: &Process{PID: 7}, ParentKey: Key{PID: 8, Start: 1}}, 7, true},
		{&Process{ParentKey: Key{PID: 1, Start: 5}}, 1, true},
		{&Process{}, 0, false},
		{nil, 0, false},
	} {
		if got, ok := ppid.Num(&Event{Process: tt.p, Data: &Exec{}}, 0); ok != tt.ok || ok && got != tt.want {
			t.Errorf("proc.ppid of %+v is %d, %t", tt.p, got, ok)
		}
	}
}
