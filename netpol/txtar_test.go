package netpol_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"warren/netpol"
)

var update = flag.Bool("update", false, "write what comes out into testdata")

// TestCases runs testdata: a world, packets, and what becomes of each, by every
// way there is to judge them. The files are meant to be read; the form of a
// world is described at parseWorld.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var w *netpol.World
			var program *netpol.Program
			for i, f := range archive.Files {
				kind, _, _ := strings.Cut(f.Name, " ")
				var got string
				switch kind {
				case "world":
					w = parseWorld(t, string(f.Data))
					if program, err = netpol.NewCompiler().Compile(w, nil); err != nil {
						t.Fatal(err)
					}
					continue
				case "packets":
					got = judgeAll(t, w, program, string(f.Data))
				case "problems":
					for _, p := range w.Policies {
						for _, problem := range program.Problems[p.UID] {
							got += strings.TrimPrefix(p.Namespace+"/"+p.Name, "/") + ": " + problem + "\n"
						}
					}
				case "selecting":
					got = selecting(t, w, strings.TrimPrefix(f.Name, "selecting "))
				default:
					t.Fatalf("%s: what is %q?", file, f.Name)
				}
				if *update {
					archive.Files[i].Data = []byte(got)
				} else if diff := cmp.Diff(string(f.Data), got); diff != "" {
					t.Errorf("%s (-want +got; -update accepts):\n%s", f.Name, diff)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// judgeAll judges the packets of some text. Lines that begin with a blank are
// what came out last time.
func judgeAll(t *testing.T, w *netpol.World, program *netpol.Program, text string) string {
	var b strings.Builder
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if strings.HasPrefix(line, " ") {
			continue
		}
		b.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p := parsePacket(t, w, line)
		egress, ingress := netpol.Evaluate(p, w)
		if e, i := program.Judge(p); e != egress || i != ingress {
			t.Errorf("%s: Judge says %v, %v, Evaluate %v, %v", line, e, i, egress, ingress)
		}
		e := netpol.Explain(p, w)
		if e.Egress.Judgement != egress || e.Ingress.Judgement != ingress {
			t.Errorf("%s: Explain says %v, %v, Evaluate %v, %v", line, e.Egress.Judgement, e.Ingress.Judgement, egress, ingress)
		}
		fmt.Fprintf(&b, "    %s\n", e)
	}
	return b.String()
}

func selecting(t *testing.T, w *netpol.World, name string) string {
	var b strings.Builder
	for _, pod := range w.Pods {
		if pod.Namespace+"/"+pod.Name != name {
			continue
		}
		for _, s := range netpol.Selecting(pod, w) {
			fmt.Fprintf(&b, "%s (%s tier)\n", strings.TrimPrefix(s.Policy.Namespace+"/"+s.Policy.Name, "/"), s.Policy.Tier)
			for _, dir := range []netpol.Direction{netpol.Egress, netpol.Ingress} {
				if s.Isolates[dir] {
					fmt.Fprintf(&b, "  %s is isolated\n", dir)
				}
				for _, r := range s.Rules[dir] {
					ports := strings.Join(r.Ports, ", ")
					if ports == "" {
						ports = "every port"
					}
					fmt.Fprintf(&b, "  %s %d: %s %s: %s", dir, r.Rule.Rule+1, r.Action, strings.Join(r.Peers, ", "), ports)
					var now []string
					for _, p := range r.Pods {
						now = append(now, p.Namespace+"/"+p.Name)
					}
					for _, n := range r.Nodes {
						now = append(now, "node "+n.Name)
					}
					if len(now) > 0 {
						fmt.Fprintf(&b, " (now: %s)", strings.Join(now, ", "))
					}
					b.WriteByte('\n')
				}
			}
			for _, p := range s.Problems {
				fmt.Fprintf(&b, "  problem: %s\n", p)
			}
		}
		return b.String()
	}
	t.Fatalf("no pod %s", name)
	return ""
}
