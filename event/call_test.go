package event

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCallNumbers holds the table against x/sys, for both machines.
func TestCallNumbers(t *testing.T) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "golang.org/x/sys/unix").Output()
	if err != nil {
		t.Fatal(err)
	}
	for arch, number := range map[string]func(*Call) uint32{
		"amd64": func(c *Call) uint32 { return c.AMD64 },
		"arm64": func(c *Call) uint32 { return c.ARM64 },
	} {
		known := map[string]string{}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(dir)), "zsysnum_linux_"+arch+".go"), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
				if lit, ok := v.Values[0].(*ast.BasicLit); ok {
					known[v.Names[0].Name] = lit.Value
				}
			}
			return true
		})
		for i := range Calls {
			c := &Calls[i]
			want, ok := known["SYS_"+strings.ToUpper(c.Name)]
			got := ""
			if n := number(c); n != NoCall {
				got = string(appendNumber(n))
			}
			if ok != (got != "") || got != want {
				t.Errorf("%s on %s: %q, x/sys has %q", c.Name, arch, got, want)
			}
		}
	}
}

func appendNumber(n uint32) []byte {
	s := &Syscall{Regs: [6]uint64{uint64(n)}}
	b, _ := s.appendArg(nil, &CallArg{Form: FormUint, Bits: 32})
	return b
}

// TestCallTable: what the table says must be something that can be done.
func TestCallTable(t *testing.T) {
	seen := map[string]bool{}
	for i := range Calls {
		c := &Calls[i]
		if seen[c.Name] || c.Name == "" || c.Doc == "" {
			t.Errorf("%s: twice, or without a word", c.Name)
		}
		seen[c.Name] = true
		if ks := KindsOfType(c.Name) &^ StateKinds; ks != Kinds(KindSyscall) {
			t.Errorf("%s is a type of %v", c.Name, ks)
		}
		if len(c.Reads) > MaxReads || len(c.Args) == 0 || c.FD < NoFD || c.FD > 5 || c.FDObject && c.FD == NoFD {
			t.Errorf("%s: %+v", c.Name, c)
		}
		used := map[uint8]bool{}
		for _, a := range c.Args {
			used[a.Read] = true
			switch {
			case a.Form == 0 || a.At < AtResult || a.At > 5 || int(a.Read) > len(c.Reads) || a.If.At > 5:
				t.Errorf("%s: argument %+v", c.Name, a)
			case a.Form >= FormSignalSet && a.Read == 0:
				t.Errorf("%s: %s lies nowhere", c.Name, a.Name)
			case a.Form.HasNumber() && a.Bits != 32 && a.Bits != 64:
				t.Errorf("%s: %s has %d bits", c.Name, a.Name, a.Bits)
			case (a.Form == FormFlags || a.Form == FormEnum || a.Form == FormMode) != (len(a.Names) > 0):
				t.Errorf("%s: %s is %v with %d names", c.Name, a.Name, a.Form, len(a.Names))
			}
			if f, ok := Lookup("evt.arg." + a.Name); !ok || !f.Has(KindSyscall) {
				t.Errorf("%s: no field for %s", c.Name, a.Name)
			} else if (f.Type != String) && !a.Form.HasNumber() {
				t.Errorf("%s: %s is %v, and a number elsewhere", c.Name, a.Name, a.Form)
			}
		}
		for _, name := range c.Order {
			if name != noArg && !slices.ContainsFunc(c.Args, func(a CallArg) bool { return a.Name == name }) {
				t.Errorf("%s: it has no %s, which has a place", c.Name, name)
			}
		}
		for _, a := range c.Args {
			if c.Order != nil && !slices.Contains(c.Order, a.Name) {
				t.Errorf("%s: %s has no place", c.Name, a.Name)
			}
		}
		for j, r := range c.Reads {
			if !used[uint8(j+1)] || r.How == 0 || r.At > 5 || r.Len > 5 || r.Max == 0 || r.Max > maxPath {
				t.Errorf("%s: reads %+v", c.Name, r)
			}
		}
	}
}

// TestCallFields looks at one event through its fields.
func TestCallFields(t *testing.T) {
	ptrace := &Syscall{Type: "ptrace", Call: LookupCall("ptrace"), FD: -1, RawRes: -1, Res: 1, Regs: [6]uint64{unix.PTRACE_CONT, 42, 0xdeadbeef, 11}}
	values(t, ptrace, map[string]string{
		"evt.type": "ptrace", "evt.res": "EPERM", "evt.rawres": "-1", "evt.arg.res": "EPERM", "evt.arg.request": "PTRACE_CONT",
		"evt.arg.pid": "42", "evt.arg.addr": "DEADBEEF", "evt.arg.data": "SIGSEGV", "evt.arg.name": "", "fd.num": "", "fd.type": "",
		"evt.args": "res=-1(EPERM) addr=DEADBEEF data=11(SIGSEGV) request=7(PTRACE_CONT) pid=42",
	})
	dup := &Syscall{Type: "dup3", Call: LookupCall("dup3"), FD: 9, RawRes: 9, Regs: [6]uint64{3, 9, unix.O_CLOEXEC | 1}, FDName: "/etc/passwd", FDType: "file"}
	values(t, dup, map[string]string{
		"evt.arg.oldfd": "3", "evt.arg.newfd": "9", "evt.arg.flags": "O_CLOEXEC|0x1", "fd.num": "9", "fd.name": "/etc/passwd", "fd.type": "file",
		"evt.arg.res": "9", "fd.lip": "", "fd.sockfamily": "",
	})
	e := &Event{Data: dup}
	if f, _ := Lookup("evt.rawarg.flags"); f == nil {
		t.Error("evt.rawarg.flags is no field")
	} else if n, ok := f.Num(e, 0); !ok || n != unix.O_CLOEXEC|1 {
		t.Errorf("evt.rawarg.flags is %d", n)
	}
	f, _ := Lookup("evt.arg")
	for key, want := range map[string]string{"0": "9", "1": "3", "3": "O_CLOEXEC|0x1", "4": "", "oldfd": "3", "pid": ""} {
		if s, ok := f.Key(e, key); s != want || ok != (want != "") {
			t.Errorf("evt.arg[%s] is %q, want %q", key, s, want)
		}
	}
}

// TestCallPlaces: arguments that Falco has and events do not keep their place.
func TestCallPlaces(t *testing.T) {
	f, _ := Lookup("evt.arg")
	for _, tt := range []struct {
		call *Syscall
		want []string
	}{
		{&Syscall{Type: "socketpair", Call: LookupCall("socketpair"), RawRes: -1, Res: 1, Regs: [6]uint64{unix.AF_INET, 1, 6}}, []string{"EPERM", "", "", "", "", "AF_INET", "1", "6", ""}},
		{&Syscall{Type: "recvmsg", Call: LookupCall("recvmsg"), RawRes: 5, Regs: [6]uint64{7}}, []string{"5", "5", "", "", "", "7", "0", ""}},
		{&Syscall{Type: "recvmmsg", Call: LookupCall("recvmmsg"), RawRes: 1, Regs: [6]uint64{7}}, []string{"1", "7", "", "", "", "", "0", ""}},
	} {
		for n, want := range tt.want {
			if s, ok := f.Key(&Event{Data: tt.call}, strconv.Itoa(n)); s != want || ok != (s != "") {
				t.Errorf("evt.arg[%d] of %s is %q, want %q", n, tt.call.Type, s, want)
			}
		}
	}
}

// TestCPU: absent where it is not known, and the first processor is 0.
func TestCPU(t *testing.T) {
	f, _ := Lookup("evt.cpu")
	for cpu, want := range map[uint16]string{0: "", 1: "0", 12: "11"} {
		got := ""
		if n, ok := f.Num(&Event{CPU: cpu, Data: &Fork{}}, 0); ok {
			got = strconv.FormatInt(n, 10)
		}
		if got != want {
			t.Errorf("evt.cpu of %d is %q, want %q", cpu, got, want)
		}
	}
}

// TestCallText: each form, with values that have names and that have none.
func TestCallText(t *testing.T) {
	mem := func(b string) [MaxReads]CallMemory { return [MaxReads]CallMemory{{Bytes: b, There: true}} }
	for _, tt := range []struct {
		arg  CallArg
		s    Syscall
		want string
	}{
		{regEnum("domain", 0, socketFamilies), Syscall{Regs: [6]uint64{unix.AF_NETLINK}}, "AF_ROUTE|AF_NETLINK"},
		{regEnum("domain", 0, socketFamilies), Syscall{Regs: [6]uint64{200}}, "200"},
		{regEnum("domain", 0, socketFamilies), Syscall{Regs: [6]uint64{unix.AF_INET | 7<<32}}, "AF_INET"}, // upper half: nobody looks
		{regFlags("flags", 0, memfdFlags), Syscall{}, "0"},
		{regFlags("flags", 0, memfdFlags), Syscall{Regs: [6]uint64{1 << 31}}, "0x80000000"},
		{mode("mode", 0), Syscall{Regs: [6]uint64{0o644}}, "S_IROTH|S_IRGRP|S_IWUSR|S_IRUSR|S_IFREG"},
		{mode("mode", 0), Syscall{Regs: [6]uint64{unix.S_IFBLK}}, "S_IFBLK"},
		{mode("mode", 0), Syscall{Regs: [6]uint64{0o130000 | 1<<20}}, "0x10b000"},
		{regFD("fd", 0), Syscall{Regs: [6]uint64{0xffffff9c}}, "AT_FDCWD"},
		{regFD("fd", 0), Syscall{Regs: [6]uint64{0xffffffff}}, "-1"},
		{newFD("fd"), Syscall{RawRes: -24}, "EMFILE"},
		{result(), Syscall{RawRes: -4000}, "E4000"},
		{regSig("sig", 0), Syscall{Regs: [6]uint64{0}}, "0"},
		{regSig("sig", 0), Syscall{Regs: [6]uint64{200}}, "SIG200"},
		{regHex("addr", 0), Syscall{Regs: [6]uint64{1<<64 - 1}}, "FFFFFFFFFFFFFFFF"},
		{memText("name", 0), Syscall{Memory: mem("ab\x00cd")}, "ab"},
		{memData("data", 0), Syscall{Memory: mem("ab\x00c\nd\xff")}, "ab.c.d."},
		{CallArg{Form: FormAddress}.in(0, 0), Syscall{Memory: mem("\x02\x00\x01\xbb\x0a\x00\x00\x01")}, "10.0.0.1:443"},
		{CallArg{Form: FormAddress}.in(0, 0), Syscall{Memory: mem("\x0a\x00\x00\x50\x00\x00\x00\x00" + strings.Repeat("\x00", 15) + "\x01\x00\x00\x00\x00")}, "::1:80"},
		{CallArg{Form: FormAddress}.in(0, 0), Syscall{Memory: mem("\x01\x00/run/x\x00y")}, "/run/x"},
		{CallArg{Form: FormAddress}.in(0, 0), Syscall{Memory: mem("\x01\x00\x00abs")}, "@abs"},
		{CallArg{Form: FormAddress}.in(0, 0), Syscall{Memory: mem("\x11\x00")}, "AF_PACKET"},
		{CallArg{Form: FormAddress}.in(0, 0), Syscall{Memory: mem("\x02\x00\x01")}, "AF_INET"},
		{CallArg{Form: FormSignalSet}.in(0, 0), Syscall{Memory: mem("\x03\x00\x00\x00\x00\x00\x00\x80")}, "SIGHUP SIGINT SIGRT30"},
		{regUint("x", 0).in(0, 2), Syscall{Memory: mem("\x01\x02\x03\x00\x00\x00")}, "3"},
		{regUint("x", 0).in(0, 3), Syscall{Memory: mem("\x01\x02\x03\x00\x00\x00")}, ""}, // not all of it was read
	} {
		if got, ok := tt.s.appendArg(nil, &tt.arg); string(got) != tt.want || ok != (tt.want != "") {
			t.Errorf("%s: %q %v, want %q", tt.arg.Form, got, ok, tt.want)
		}
	}
}
