package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

// A call is one of go test: what it is to be asked, what it writes and how it
// ends.
type call struct {
	args   string
	events string // of lines "ACTION PACKAGE [TEST] [: OUTPUT]"
	err    error
}

var errTest = errors.New("exit status 1")

const oneFails = `
run a TestGood
output a TestGood: === RUN   TestGood
output a TestGood: said by who passes
output a TestGood: --- PASS: TestGood (0.00s)
pass a TestGood
run a TestX
run a TestX/sub
output a TestX/sub: === RUN   TestX/sub
output a TestX/sub:     a_test.go:7: no answer
output a TestX: --- FAIL: TestX (0.10s)
output a TestX/sub:     --- FAIL: TestX/sub (0.10s)
fail a TestX/sub
fail a TestX
output a: FAIL
output a: FAIL	a	0.123s
fail a
output b: ok  	b	0.010s
pass b
`

const onePasses = `
run a TestX
output a TestX: --- PASS: TestX (0.10s)
pass a TestX
output a: PASS
output a: ok  	a	0.111s
pass a
`

func TestAgain(t *testing.T) {
	again1 := "-count=1 -run ^TestX$ a"
	printed := "    a_test.go:7: no answer\n--- FAIL: TestX (0.10s)\n    --- FAIL: TestX/sub (0.10s)\nFAIL\nFAIL\ta\t0.123s\n"
	for _, test := range []struct {
		name  string
		calls []call
		out   string
		err   string
	}{
		{"all pass", []call{{"./...", onePasses, nil}}, "ok  \ta\t0.111s\n", ""},
		{"one fails once", []call{{"./...", oneFails, errTest}, {again1, onePasses, nil}},
			printed + "ok  \tb\t0.010s\n\na TestX failed; once more, alone:\nok  \ta\t0.111s\n\nflaky: a TestX failed once, passed alone\n", ""},
		{"one fails twice", []call{{"./...", oneFails, errTest}, {again1, oneFails, errTest}},
			"", "a TestX failed twice"},
		{"the second time it is skipped", []call{{"./...", oneFails, errTest}, {again1, "output a: ok\npass a", nil}},
			"", "a TestX failed twice"},
		{"a panic", []call{{"./...", "run a TestX\noutput a TestX: --- FAIL: TestX\noutput a TestX: panic: no\nfail a TestX\noutput a: FAIL	a	0.1s\nfail a", errTest}},
			"--- FAIL: TestX\npanic: no\nFAIL\ta\t0.1s\n", "a did not run to its end: exit status 1"},
		{"a hang", []call{{"./...", "run a TestX\noutput a TestX: panic: test timed out\noutput a: FAIL	a	0.1s\nfail a", errTest}},
			"panic: test timed out\nFAIL\ta\t0.1s\n", "a did not run to its end: exit status 1"},
		{"a package that cannot be built", []call{{"./...", "build-output : a.go:1: no\noutput a: FAIL	a [build failed]\nfail a", errTest}},
			"a.go:1: no\nFAIL\ta [build failed]\n", "a did not run to its end: exit status 1"},
		{"a race", []call{{"./...", strings.Replace(oneFails, "no answer", "WARNING: DATA RACE", 1), errTest}},
			"", "a has a data race: exit status 1"},
		{"two that cannot be chance", []call{{"./...", "output b: FAIL	b [build failed]\nfail b\n" + strings.Replace(oneFails, "no answer", "WARNING: DATA RACE", 1), errTest}},
			"", "a has a data race: exit status 1\nb did not run to its end: exit status 1"},
		{"many", []call{{"./...", strings.Replace(oneFails, "fail a TestX\n", strings.Repeat("fail a TestX\n", 6), 1), errTest}},
			"", "6 tests failed, more than 5: none is tried again"},
		{"go test fails itself", []call{{"./...", "", errTest}}, "", "exit status 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			err := again(t.Context(), &out, play(t, test.calls), nil, []string{"./..."})
			if got := text(err); got != test.err {
				t.Errorf("error %q, want %q", got, test.err)
			}
			if test.out != "" && test.out != out.String() {
				t.Errorf("printed (-want +got):\n%s", cmp.Diff(test.out, out.String()))
			}
		})
	}
}

// TestInterrupted does not call a test failed that was not run to its end.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	calls := play(t, []call{{"b", oneFails, errTest}, {"-count=1 -run ^TestX$ a", "", errTest}})
	tries := 0
	err := again(ctx, io.Discard, func(ctx context.Context, w io.Writer, args []string) error {
		if tries++; tries == 2 {
			cancel()
		}
		return calls(ctx, w, args)
	}, nil, []string{"b"})
	if want := "a TestX, once more: context canceled"; text(err) != want {
		t.Errorf("error %q, want %q", text(err), want)
	}
}

// TestVerbose wants everything printed, as it comes.
func TestVerbose(t *testing.T) {
	var out bytes.Buffer
	if err := again(t.Context(), &out, play(t, []call{{"-v b", oneFails, nil}}), []string{"-v"}, []string{"b"}); err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for l := range strings.Lines(oneFails) {
		if _, said, ok := strings.Cut(l, ": "); ok {
			want.WriteString(said)
		}
	}
	if d := cmp.Diff(want.String(), out.String()); d != "" {
		t.Errorf("printed (-want +got):\n%s", d)
	}
}

// play is a go test that is called as calls have it.
func play(t *testing.T, calls []call) func(context.Context, io.Writer, []string) error {
	t.Cleanup(func() {
		if len(calls) > 0 {
			t.Errorf("go test was not called with %q", calls[0].args)
		}
	})
	return func(_ context.Context, w io.Writer, args []string) error {
		if len(calls) == 0 {
			t.Fatalf("go test was called with %q", args)
		}
		c := calls[0]
		calls = calls[1:]
		if got := strings.Join(args, " "); got != c.args {
			t.Errorf("go test was called with %q, want %q", got, c.args)
		}
		stream := events(t, c.events)
		// Pipes know no lines.
		for len(stream) > 0 {
			n := min(len(stream), 7)
			if _, err := w.Write(stream[:n]); err != nil {
				t.Error(err)
			}
			stream = stream[n:]
		}
		return c.err
	}
}

func events(t *testing.T, lines string) []byte {
	var out bytes.Buffer
	for l := range strings.Lines(lines) {
		head, said, _ := strings.Cut(l, ": ")
		words := append(strings.Fields(head), "", "", "")
		if words[0] == "" {
			continue
		}
		b, err := json.Marshal(event{Action: words[0], Package: strings.Trim(words[1], ":"), Test: words[2], Output: said})
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(b, '\n'))
	}
	return out.Bytes()
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// The test fails where it has not been before.
const module = `
-- go.mod --
module m
-- m_test.go --
package m

import (
	"os"
	"testing"
)

func TestGood(t *testing.T) {}

func TestFlaky(t *testing.T) {
	t.Run("sub", func(t *testing.T) {
		if err := os.Mkdir("been", 0o755); err == nil {
			t.Error("it was not there")
		}
	})
}
`

// TestGoTest holds what is assumed of go test against go test.
func TestGoTest(t *testing.T) {
	dir := t.TempDir()
	for _, f := range txtar.Parse([]byte(module)).Files {
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("GOWORK", "off")
	t.Setenv("GOFLAGS", "")
	var out bytes.Buffer
	if err := again(t.Context(), &out, goTest, []string{"-vet=off", "-run", "Test"}, []string{"."}); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"m_test.go:13: it was not there", "--- FAIL: TestFlaky", "FAIL\tm\t", "ok  \tm\t", "\nflaky: m TestFlaky failed once, passed alone\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("printed no %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "TestGood") {
		t.Errorf("printed what passed:\n%s", out.String())
	}
}
