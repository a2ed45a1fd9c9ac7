package filter

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"warren/event"
)

// fromTestdata returns an event and the expressions about it that compile.
func fromTestdata(tb testing.TB, name string) (*event.Event, []*Program) {
	tb.Helper()
	source, err := os.ReadFile("testdata/semantics.txtar")
	if err != nil {
		tb.Fatal(err)
	}
	var e *event.Event
	var ps []*Program
	for _, f := range txtar.Parse(source).Files {
		switch f.Name {
		case name + ".event":
			if e, err = newEvent(string(f.Data)); err != nil {
				tb.Fatal(err)
			}
		case name + ".filters":
			for _, line := range strings.Split(string(f.Data), "\n") {
				if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "->") || strings.HasPrefix(line, " |") {
					continue
				}
				if p, err := Compile(line); err == nil {
					ps = append(ps, p)
				}
			}
		}
	}
	return e, ps
}

// TestMatchAllocatesNothing runs every expression of testdata/semantics.txtar.
func TestMatchAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools at random")
	}
	for _, name := range []string{"connect", "listen", "dns"} {
		e, ps := fromTestdata(t, name)
		if len(ps) < 10 {
			t.Fatalf("%s: %d expressions", name, len(ps))
		}
		for _, p := range ps {
			if n := testing.AllocsPerRun(20, func() { p.Match(e) }); n != 0 {
				t.Errorf("%s: %v allocations", p, n)
			}
		}
	}
}

// sixTerms is a typical filter, which has to look at everything.
const sixTerms = "evt.type = connect and proc.aname contains sshd and fd.rport = 443 and not fd.rip in (10.0.0.0/8) and proc.name in (curl, wget) and container.id != host"

// BenchmarkMatch measures one evaluation: of a typical filter of six terms that
// holds, of the same for an event of another kind, and of single terms.
func BenchmarkMatch(b *testing.B) {
	e, _ := fromTestdata(b, "connect")
	dns, _ := fromTestdata(b, "dns")
	many := func(format string, n int) string {
		var vs []string
		for i := range n {
			vs = append(vs, fmt.Sprintf(format, i))
		}
		return "(" + strings.Join(vs, ", ") + ")"
	}
	for _, bb := range []struct {
		name, expr string
		e          *event.Event
		want       bool
	}{
		{"six terms", sixTerms, e, true},
		{"six terms, other kind", sixTerms, dns, false},
		{"text equal", "proc.name = curl", e, true},
		{"text in 1000", "proc.name in " + many("name%d", 1000), e, false},
		{"begins with one of 1000", "proc.exepath startswith anyof " + many("/opt/%d/", 1000), e, false},
		{"number in 1000", "proc.pid in " + many("%d", 1000), e, false},
		{"address in 256 networks", "fd.rip in " + many("10.%d.0.0/24", 256), e, false},
		{"icontains", "proc.cmdline icontains SHOP.EXAMPLE", e, true},
		{"iglob", "proc.cmdline iglob *SHOP*B?C", e, true},
		{"regex", "proc.cmdline regex '.*https://[a-z.]+/.*'", e, true},
		{"pmatch", "proc.cwd pmatch (/etc, /usr, /var/lib, /home/ann)", e, true},
		{"tolower", "tolower(user.name) = ann", e, true},
		{"composed", "fd.name endswith :443", e, true},
		{"join", `join(",", (proc.name, proc.pid, fd.rip)) contains 4242`, e, true},
		{"either", "fd.net = 10.0.0.0/8", e, true},
		{"ancestors", "proc.aname = systemd", e, true},
	} {
		b.Run(bb.name, func(b *testing.B) {
			p := mustCompile(b, bb.expr)
			if p.Match(bb.e) != bb.want {
				b.Fatalf("%s: %v", bb.expr, !bb.want)
			}
			b.ReportAllocs()
			for b.Loop() {
				p.Match(bb.e)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(sixTerms); err != nil {
			b.Fatal(err)
		}
	}
}
