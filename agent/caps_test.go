package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// allNeeds are the names of capabilities that an agent has a use for, without
// those that only the start needs.
func allNeeds(without string) string {
	var list []string
	for _, n := range needs {
		if name := (right{need: n}).name(); !n.startOnly && name != without {
			list = append(list, name)
		}
	}
	return strings.Join(list, ",")
}

func TestBPFAgentCapabilities(t *testing.T) {
	needBPF(t)
	t.Run("exactly", func(t *testing.T) {
		a := startAgent(t, t.TempDir(), "-caps", allNeeds("")).running(t)
		var want uint64
		for _, n := range needs {
			if !n.startOnly {
				want |= 1 << n.cap
			}
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
			if line := fmt.Sprintf("%s:\t%016x\n", set, want); !strings.Contains(string(b), line) {
				t.Errorf("want %sin\n%s", line, b)
			}
		}
		for _, bad := range []cap.Value{cap.SYS_RESOURCE, cap.SYS_ADMIN} {
			if want&(1<<bad) != 0 {
				t.Errorf("%s is among the needs", bad)
			}
		}
		a.sees(t)
	})
	// Started by root, with everything, it gives up what it does not need.
	t.Run("root", func(t *testing.T) {
		a := startAgent(t, t.TempDir()).running(t)
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			set, hex, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			if !strings.HasPrefix(set, "Cap") {
				continue
			}
			have, err := strconv.ParseUint(hex, 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range needs {
				if !n.startOnly {
					have &^= 1 << n.cap
				}
			}
			if have != 0 {
				t.Errorf("%s has %#x beyond the needs", set, have)
			}
		}
	})
	for _, n := range needs {
		name := (right{need: n}).name()
		switch {
		case n.required:
			t.Run("without "+name, func(t *testing.T) {
				a := startAgent(t, t.TempDir(), "-caps", allNeeds(name))
				a.refused(t, fmt.Sprintf("capabilities are missing: %s (%s): start the agent as root, or with at least ", name, n.feature))
			})
		case !n.startOnly:
			t.Run("without "+name, func(t *testing.T) {
				a := startAgent(t, t.TempDir(), "-caps", allNeeds(name)).running(t)
				if want := fmt.Sprintf("lacks %s: %s", name, n.feature); !strings.Contains(a.report, want) {
					t.Errorf("want %q in\n%s", want, a.report)
				}
				a.sees(t)
			})
		}
	}
	// A user of its own, as a service manager would start it.
	t.Run("not root", func(t *testing.T) {
		dir := openDir(t)
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		a := startAgent(t, filepath.Join(dir, "agent"), "-uid", "65534", "-caps", allNeeds("")).running(t)
		a.sees(t)
	})
	t.Run("without any", func(t *testing.T) {
		a := startAgent(t, openDir(t), "-uid", "65534")
		a.refused(t, "capabilities are missing: CAP_BPF (load programs and maps into the kernel), CAP_PERFMON (")
	})
}
