package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestArchive reads back what was written, as the kernel does.
func TestArchive(t *testing.T) {
	var out bytes.Buffer
	a := newArchive(&out)
	for _, name := range []string{"bin/a", "bin/bcd", "e/f/g"} {
		if err := a.add(name, modeExec, []byte("data of "+name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	got, err := readArchive(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"bin 40755 ", "bin/a 100755 data of bin/a", "bin/bcd 100755 data of bin/bcd",
		"e 40755 ", "e/f 40755 ", "e/f/g 100755 data of e/f/g",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("entries (-want +got):\n%s", d)
	}
}

func readArchive(b []byte) ([]string, error) {
	var entries []string
	for {
		if len(b) < 110 || string(b[:6]) != "070701" {
			return nil, fmt.Errorf("no header where one is due: %q", b[:min(len(b), 110)])
		}
		field := func(i int) int {
			n, err := strconv.ParseUint(string(b[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				return -1
			}
			return int(n)
		}
		mode, size, nameSize := field(1), field(6), field(11)
		dataAt := (110 + nameSize + 3) &^ 3
		end := dataAt + (size+3)&^3
		if nameSize < 1 || size < 0 || end > len(b) {
			return nil, fmt.Errorf("header %q leads out of the archive", b[:110])
		}
		name := string(b[110 : 110+nameSize-1])
		if name == "TRAILER!!!" {
			return entries, nil
		}
		entries = append(entries, fmt.Sprintf("%s %o %s", name, mode, b[dataAt:dataAt+size]))
		b = b[end:]
	}
}

func TestLibraries(t *testing.T) {
	const ldd = "\tlinux-vdso.so.1 (0x00007ffaf0bf3000)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007ffaf08e3000)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007ffaf0bf5000)\n"
	if want := []string{"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"}; !slices.Equal(libraries(ldd), want) {
		t.Errorf("libraries are %q, want %q", libraries(ldd), want)
	}
}

func TestLoadOrder(t *testing.T) {
	data := map[string]string{
		"a":       "\x7fELF\x00license=GPL\x00depends=b-x,c\x00",
		"b_x":     "depends=c\x00alias=y\x00",
		"c":       "\x00depends=\x00",
		"built":   "",
		"loop_1":  "\x00depends=loop-2\x00",
		"loop_2":  "\x00depends=loop-1\x00",
		"orphan":  "\x00depends=nowhere\x00",
		"nothing": "no modinfo at all",
	}
	read := func(name string) ([]byte, error) {
		d, ok := data[name]
		switch {
		case !ok:
			return nil, errors.New("no module " + name)
		case d == "":
			return nil, nil
		}
		return []byte(d), nil
	}
	for _, test := range []struct {
		names []string
		want  string // or error
	}{
		{[]string{"a"}, "c b_x a"},
		{[]string{"b-x", "a", "built", "nothing"}, "c b_x a nothing"},
		{[]string{"loop-1"}, "modules depend on each other: loop_1 loop_2 loop_1"},
		{[]string{"orphan"}, "no module nowhere"},
	} {
		order, err := loadOrder(test.names, read)
		var names []string
		for _, m := range order {
			names = append(names, m.name)
		}
		got := strings.Join(names, " ")
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("loadOrder(%q) = %q, want %q", test.names, got, test.want)
		}
	}
}

const goodRun = `VM-KERNEL 6.1.0-1
VM-NEXT
VM-BEGIN sensor/x ^Test(BPF|Root)
=== RUN   TestBPFOne
    x_test.go:10: RUNG x.one fentry fentry,tracepoint
--- PASS: TestBPFOne (0.10s)
=== RUN   TestBPFTwo
    x_test.go:20: the kernel lacks it
--- SKIP: TestBPFTwo (0.00s)
PASS
VM-END sensor/x 0
VM-DONE
`

// TestReport holds the verdict on what machines print: everything that is not
// exactly as it should be is named.
func TestReport(t *testing.T) {
	noSkip := strings.ReplaceAll(goodRun, "--- SKIP", "--- PASS")
	for _, test := range []struct {
		name, run string
		wrong     []string
	}{
		{"all well", noSkip, nil},
		{"a skip", goodRun, []string{"6.1: sensor/x: TestBPFTwo was skipped: the kernel lacks it"}},
		{"a lesser rung", strings.Replace(noSkip, "x.one fentry", "x.one tracepoint", 1),
			[]string{"6.1: x.one is attached as tracepoint, though it has fentry"}},
		{"a failure", strings.NewReplacer("--- PASS: TestBPFOne", "--- FAIL: TestBPFOne", "x 0\n", "x 1\n").Replace(noSkip),
			[]string{`6.1: sensor/x: exit code "1"`}},
		{"a crash", strings.Split(noSkip, "VM-END")[0],
			[]string{"kernel 6.1.0-1 ended before the tests did", `6.1: sensor/x: exit code ""`}},
		{"no tests", "VM-KERNEL 6.1.0-1\nVM-BEGIN a\ntesting: warning: no tests to run\nPASS\nVM-END a 0\nVM-DONE\n",
			[]string{"6.1: a ran no test"}},
		{"a sensor that does not tell its rungs", strings.Replace(noSkip, "RUNG x.one", "rung x.one", 1),
			[]string{"6.1: sensor/x logged no RUNG"}},
		{"another kernel", strings.Replace(noSkip, "6.1.0-1", "6.1.0-2", 1),
			[]string{`kernel 6.1.0-1: the machine ran "6.1.0-2"`}},
		{"no kernel", strings.Replace(noSkip, "VM-KERNEL 6.1.0-1\n", "", 1),
			[]string{`kernel 6.1.0-1: the machine ran ""`}},
		{"a machine in trouble", "VM-ERROR cannot load veth.ko\n" + noSkip,
			[]string{"6.1: cannot load veth.ko"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			// The serial line may add carriage returns.
			p := planOf(t, "6.1", strings.ReplaceAll(test.run, "\n", "\r\n"))
			var out bytes.Buffer
			r := newReport(&out, true)
			r.plan(p)
			if err := r.finish(); (err != nil) != (test.wrong != nil) {
				t.Errorf("finish: %v", err)
			}
			if d := cmp.Diff(test.wrong, r.wrong); d != "" {
				t.Errorf("what is wrong (-want +got):\n%s\n%s", d, out.String())
			}
			if failed := strings.HasPrefix(test.name, "a failure"); strings.Contains(out.String(), "RUN   TestBPFOne") != failed {
				t.Errorf("what the test printed should be there if it failed:\n%s", out.String())
			}
		})
	}
}

// planOf is a kernel on which one machine printed something.
func planOf(t *testing.T, series, printed string) *plan {
	t.Helper()
	p := &plan{kernel: kernel{series: series, release: "6.1.0-1"}, booted: 1, running: 1}
	r := readResults(t, printed)
	p.end(&r, r.check(p.kernel.release))
	return p
}

func readResults(t *testing.T, printed string) (r results) {
	t.Helper()
	if err := r.read(strings.NewReader(printed), func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	return r
}

// failedRun is one in which a test failed, with one below it.
const failedRun = `VM-KERNEL 6.1.0-1
VM-BEGIN sensor/x ^Test(BPF|Root)
=== RUN   TestBPFOne
=== RUN   TestBPFOne/good
=== RUN   TestBPFOne/bad
    x_test.go:10: no answer
--- FAIL: TestBPFOne (0.10s)
    --- PASS: TestBPFOne/good (0.05s)
    --- FAIL: TestBPFOne/bad (0.05s)
=== RUN   TestBPFTwo
    x_test.go:20: RUNG x.two fentry fentry
--- PASS: TestBPFTwo (0.00s)
FAIL
VM-END sensor/x 1
VM-DONE
`

const passedAlone = `VM-KERNEL 6.1.0-1
VM-BEGIN sensor/x ^TestBPFOne$
=== RUN   TestBPFOne
=== RUN   TestBPFOne/good
=== RUN   TestBPFOne/bad
    x_test.go:10: RUNG x.one fentry fentry
--- PASS: TestBPFOne (0.10s)
    --- PASS: TestBPFOne/good (0.05s)
    --- PASS: TestBPFOne/bad (0.05s)
PASS
VM-END sensor/x 0
VM-DONE
`

// TestAgain gives tests that failed a second try, and tells it.
func TestAgain(t *testing.T) {
	one := []task{{"sensor/x", "^TestBPFOne$"}}
	six := strings.Repeat("--- FAIL: TestBPFOne (0.10s)\n", 6)
	for _, test := range []struct {
		name, first string
		again       []task
		second      string
		wrong       []string
	}{
		{"it passes", failedRun, one, passedAlone, nil},
		{"it fails again", failedRun, one, strings.NewReplacer("PASS", "FAIL", "x 0", "x 1").Replace(passedAlone),
			[]string{"6.1: warren/sensor/x TestBPFOne failed twice"}},
		{"it is skipped", failedRun, one, strings.ReplaceAll(passedAlone, "--- PASS", "--- SKIP"),
			[]string{"6.1: sensor/x: TestBPFOne was skipped: RUNG x.one fentry fentry",
				"6.1: sensor/x: TestBPFOne/bad was skipped: RUNG x.one fentry fentry",
				"6.1: sensor/x: TestBPFOne/good was skipped: RUNG x.one fentry fentry",
				"6.1: warren/sensor/x TestBPFOne failed twice"}},
		{"it is attached in a lesser way", failedRun, one, strings.Replace(passedAlone, "fentry fentry", "tracepoint fentry,tracepoint", 1),
			[]string{"6.1: x.one is attached as tracepoint, though it has fentry"}},
		{"another ran", failedRun, one, strings.ReplaceAll(passedAlone, "sensor/x", "sensor/y"),
			[]string{`6.1: sensor/x: exit code "1"`, "tests that failed, once more: kernel 6.1.0-1: given and not run: sensor/x"}},
		{"the machine dies", failedRun, one, strings.Split(passedAlone, "VM-END")[0],
			[]string{`6.1: sensor/x: exit code "1"`, "tests that failed, once more: kernel 6.1.0-1 ended before the tests did"}},
		{"too many", strings.Replace(failedRun, "--- FAIL: TestBPFOne (0.10s)\n", six, 1), nil, "",
			[]string{`6.1: sensor/x: exit code "1"`, "kernel 6.1.0-1: 6 tests failed, more than 5: none is tried again"}},
		{"a panic", strings.Replace(failedRun, "x 1", "x 2", 1), nil, "",
			[]string{`6.1: sensor/x: exit code "2"`}},
		{"it ended before all had run", strings.Replace(failedRun, "\nFAIL\n", "\n", 1), nil, "",
			[]string{`6.1: sensor/x: exit code "1"`}},
		{"what no test says", strings.NewReplacer("--- FAIL", "--- PASS").Replace(failedRun), nil, "",
			[]string{`6.1: sensor/x: exit code "1"`}},
		{"all well", strings.NewReplacer("--- FAIL", "--- PASS", "x 1", "x 0").Replace(failedRun), nil, "", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := planOf(t, "6.1", test.first)
			var tried []task
			again(t.Context(), []*plan{p}, func(_ context.Context, k kernel, number int, next func() (task, bool)) (results, error) {
				if number != 2 {
					t.Errorf("machine %d is booted, want 2", number)
				}
				for task, ok := next(); ok; task, ok = next() {
					tried = append(tried, task)
				}
				r := readResults(t, test.second)
				return r, r.check(k.release)
			}, 1)
			if d := cmp.Diff(test.again, tried, cmp.AllowUnexported(task{})); d != "" {
				t.Fatalf("tests that were tried again (-want +got):\n%s", d)
			}
			var out bytes.Buffer
			r := newReport(&out, false)
			r.plan(p)
			if err := r.finish(); (err != nil) != (test.wrong != nil) {
				t.Errorf("finish: %v", err)
			}
			slices.Sort(r.wrong)
			if d := cmp.Diff(test.wrong, r.wrong); d != "" {
				t.Errorf("what is wrong (-want +got):\n%s\n%s", d, out.String())
			}
			if test.name == "it passes" {
				for _, want := range []string{"x_test.go:10: no answer", "[6.1: 4 passed, 0 failed, 0 skipped]", "x.one", "\nflaky: 6.1: warren/sensor/x TestBPFOne failed once, passed alone\n"} {
					if !strings.Contains(out.String(), want) {
						t.Errorf("the report has no %q:\n%s", want, out.String())
					}
				}
			}
		})
	}
}

// TestReportMissingHook wants each hook attached on every kernel.
func TestReportMissingHook(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out, false)
	for _, series := range []string{"6.1", "6.12"} {
		run := strings.ReplaceAll(goodRun, "--- SKIP", "--- PASS")
		if series == "6.12" {
			run = strings.Replace(run, "RUNG", "rung", 1)
		}
		r.plan(planOf(t, series, run))
	}
	if err := r.finish(); err == nil || !strings.Contains(err.Error(), "6.12: x.one was not attached") {
		t.Errorf("finish: %v\n%s", err, out.String())
	}
}

// TestReportLackingHook allows for what a kernel cannot have.
func TestReportLackingHook(t *testing.T) {
	var out bytes.Buffer
	r := newReport(&out, false)
	for _, series := range []string{"6.12", "6.1"} {
		run := strings.ReplaceAll(strings.ReplaceAll(goodRun, "--- SKIP", "--- PASS"), "x.one", "file.chmod2")
		if series == "6.1" {
			run = strings.Replace(run, "RUNG", "rung", 1)
		}
		r.plan(planOf(t, series, run))
	}
	if err := r.finish(); err != nil && strings.Contains(err.Error(), "attached") {
		t.Errorf("finish: %v\n%s", err, out.String())
	}
}
