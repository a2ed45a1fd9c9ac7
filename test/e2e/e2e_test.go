// Package e2e tests the built program as a user meets it: agents of their own
// instances, and commands that ask them. The tests need root and this machine's
// kernel; their names begin with TestE2E.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"warren/internal/testkit"
)

// program is the built program.
var program = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs("../../bin/warren")
	if err == nil {
		_, err = os.Stat(path)
	}
	return path, err
})

func programPath(t *testing.T) string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal("make e2e builds the program first:", err)
	}
	return path
}

func TestMain(m *testing.M) { testkit.Main(m, helpers) }

// An agent is a running instance.
type agent struct {
	t      *testing.T
	name   string
	dir    string
	socket string
	cmd    *exec.Cmd
	out    *output
	ended  chan struct{} // closed when it has
	err    error         // how; after ended
}

var instances atomic.Int64

// options are what a test wants of an agent beside the usual.
type options struct {
	config string   // YAML
	http   string   // address, off by default
	args   []string // further flags
	wrap   []string // a command that starts it
}

// newAgent prepares an instance of its own, so that tests and other agents of
// the machine do not meet.
func newAgent(t *testing.T, o options) *agent {
	t.Helper()
	testkit.NeedRoot(t)
	name := fmt.Sprintf("e2e-%d-%d", os.Getpid(), instances.Add(1))
	// Not t.TempDir, whose paths are too long for a socket's name.
	dir, err := os.MkdirTemp("", "warren-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := &agent{t: t, name: name, dir: dir, socket: filepath.Join(dir, "socket"), out: &output{}, ended: make(chan struct{})}
	if o.http == "" {
		o.http = "off"
	}
	args := slices.Concat(o.wrap, []string{programPath(t), "agent", "--instance", name, "--socket", a.socket,
		"--state", filepath.Join(dir, "state"), "--http", o.http}, o.args)
	if o.config != "" {
		file := filepath.Join(dir, "config.yaml")
		if err := os.WriteFile(file, []byte(o.config), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", file)
	}
	a.cmd = exec.Command(args[0], args[1:]...)
	a.cmd.Stdout, a.cmd.Stderr = a.out, a.out
	return a
}

// launch starts the agent and does not wait for it.
func (a *agent) launch() {
	a.t.Helper()
	if err := a.cmd.Start(); err != nil {
		a.t.Fatalf("start the agent: %v", err)
	}
	go func() {
		a.err = a.cmd.Wait()
		close(a.ended)
	}()
	a.t.Cleanup(func() {
		a.end(syscall.SIGTERM)
		if a.t.Failed() {
			a.t.Logf("the agent printed:\n%s", a.out)
		}
	})
}

// start starts an agent and waits until it answers.
func start(t *testing.T, o options) *agent {
	t.Helper()
	a := newAgent(t, o)
	a.launch()
	a.waitReady()
	return a
}

func (a *agent) waitReady() {
	a.t.Helper()
	testkit.Wait(a.t, "an answer of the agent", func() bool {
		select {
		case <-a.ended:
			a.t.Fatalf("the agent ended: %v", a.err)
		default:
		}
		_, err := a.get("/readyz")
		return err == nil
	})
}

// end ends the agent and gives how it ended.
func (a *agent) end(signal syscall.Signal) error {
	_ = a.cmd.Process.Signal(signal)
	select {
	case <-a.ended:
	case <-time.After(testkit.Patience):
		_ = a.cmd.Process.Kill()
		<-a.ended
		return errors.New("the agent did not end by itself")
	}
	return a.err
}

// client asks the agent over its socket.
func (a *agent) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", a.socket)
		},
	}}
}

func (a *agent) get(path string) ([]byte, error) {
	response, err := a.client().Get("http://agent" + path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return body, err
}

// A result is what a command printed and how it ended.
type result struct {
	stdout, stderr string
	code           int
}

// warren runs a command that asks the agent.
func (a *agent) warren(args ...string) result {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), testkit.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, programPath(a.t), args...)
	cmd.Env = append(os.Environ(), "WARREN_SOCKET="+a.socket, "NO_COLOR=1", "LC_ALL=C.UTF-8")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		a.t.Fatalf("warren %s: %v", strings.Join(args, " "), err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// ok is warren for a command that must succeed: its output.
func (a *agent) ok(args ...string) string {
	a.t.Helper()
	r := a.warren(args...)
	if r.code != 0 {
		a.t.Fatalf("warren %s: exit code %d: %s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.stdout
}

// objects is ok for -o json: an object for each line.
func (a *agent) objects(args ...string) []object {
	a.t.Helper()
	var all []object
	for line := range strings.Lines(a.ok(append(args, "-o", "json")...)) {
		all = append(all, parseObject(a.t, line))
	}
	return all
}

// An object is an event, process or connection as JSON has it.
type object map[string]any

func parseObject(t *testing.T, line string) object {
	t.Helper()
	var o object
	decoder := json.NewDecoder(strings.NewReader(line))
	decoder.UseNumber()
	if err := decoder.Decode(&o); err != nil {
		t.Fatalf("not a JSON object: %v: %q", err, line)
	}
	return o
}

// str is the text of a value, "" if it is absent.
func (o object) str(key string) string {
	switch v := o[key].(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

// A follower is a `warren events` that runs.
type follower struct {
	t      *testing.T
	mu     sync.Mutex
	events []object
	lines  []string
	filter string
}

// read starts a command that prints objects, a line each, until the test ends;
// done is closed when it has said its last.
func (a *agent) read(name string, stderr io.Writer, args ...string) (f *follower, done <-chan struct{}) {
	a.t.Helper()
	f = &follower{t: a.t, filter: name}
	cmd := exec.Command(programPath(a.t), append(args, "-o", "json")...)
	cmd.Env = append(os.Environ(), "WARREN_SOCKET="+a.socket)
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		a.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	ended := make(chan struct{})
	a.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = cmd.Wait()
	})
	go func() {
		defer close(ended)
		f.take(stdout)
	}()
	return f, ended
}

// take keeps what a command prints until its end.
func (f *follower) take(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<22)
	for lines.Scan() {
		o := object{}
		decoder := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		decoder.UseNumber()
		if err := decoder.Decode(&o); err != nil {
			o = object{"evt.kind": "no JSON: " + err.Error()}
		}
		f.mu.Lock()
		f.events = append(f.events, o)
		f.lines = append(f.lines, lines.Text())
		f.mu.Unlock()
	}
}

// follow starts `warren events FILTER -o json` and returns when the agent knows
// of it: what happens afterwards will be seen.
func (a *agent) follow(filter string) *follower {
	a.t.Helper()
	var stderr output
	f, done := a.read(filter, &stderr, "events", filter)
	testkit.Wait(a.t, "subscription "+filter, func() bool {
		select {
		case <-done:
			a.t.Fatalf("warren events %s ended: %s", filter, stderr.String())
		default:
		}
		status, err := a.get("/v1/status")
		if err != nil {
			return false
		}
		var s struct {
			Subscriptions []struct{ Filter string }
		}
		if err := json.Unmarshal(status, &s); err != nil {
			a.t.Fatalf("status: %v", err)
		}
		for _, sub := range s.Subscriptions {
			if sub.Filter == filter {
				return true
			}
		}
		return false
	})
	return f
}

// wait gives the first event that good says yes to.
func (f *follower) wait(what string, good func(o object) bool) object {
	f.t.Helper()
	defer func() {
		if f.t.Failed() {
			f.t.Logf("events %s so far: %v", f.filter, f.all())
		}
	}()
	return testkit.WaitFor(f.t, what+" among events "+f.filter, func() (object, bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, e := range f.events {
			if good(e) {
				return e, true
			}
		}
		return nil, false
	})
}

// all gives the events so far.
func (f *follower) all() []object {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.events)
}

// output collects what a process prints, while it runs.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// want compares the values of some keys.
func want(t *testing.T, o object, values map[string]string) {
	t.Helper()
	for key, value := range values {
		if got := o.str(key); got != value {
			t.Errorf("%s is %q, want %q", key, got, value)
		}
	}
	if t.Failed() {
		t.Logf("of %v", o)
	}
}
