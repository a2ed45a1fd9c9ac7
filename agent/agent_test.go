package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"warren/api"
	"warren/internal/testkit"
)

func TestBPFAgent(t *testing.T) {
	needBPF(t)
	older := processes(t)
	began := time.Now()
	a := startAgent(t, t.TempDir()).running(t)
	t.Logf("report after %v", time.Since(began))
	a.sees(t)
	for _, want := range []string{"warren ", "kernel ", "sensor process", "process.exec", "sensor socket", "capabilities", "listening on unix:", "try: warren --socket "} {
		if !strings.Contains(a.report, want) {
			t.Errorf("no %q in the report:\n%s", want, a.report)
		}
	}
	if err := a.Health(t.Context()); err != nil {
		t.Error(err)
	}

	// The first answer was complete: whoever is older than the agent is known.
	known := map[string]bool{}
	for line, err := range a.Processes(t.Context(), api.Question{Exited: true}) {
		if err != nil {
			t.Fatal(err)
		}
		var r struct {
			PID int `json:"proc.pid"`
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		known[strconv.Itoa(r.PID)] = true
	}
	for _, pid := range older {
		if !known[pid] && lives(pid) {
			comm, _ := os.ReadFile(filepath.Join("/proc", pid, "comm"))
			t.Errorf("process %s (%s) is not in the list", pid, bytes.TrimSpace(comm))
		}
	}

	// A clean end: the stream ends without an error, the socket is gone.
	ended := make(chan error, 1)
	go func() {
		var last error
		for _, err := range a.Events(t.Context(), api.Question{Filter: "proc.name = nobody"}) {
			last = err
		}
		ended <- last
	}()
	testkit.Wait(t, "the subscription", func() bool {
		return slices.ContainsFunc(a.status(t).Subscriptions, func(s api.Subscription) bool { return s.Filter == "proc.name = nobody" })
	})
	if code := a.stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if err := <-ended; err != nil {
		t.Errorf("the stream ended with %v", err)
	}
	if _, err := os.Lstat(filepath.Join(a.dir, "run", "s")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after the end: %v", err)
	}
}

// What rules say of the last that happened reaches the channels: of what was still
// in the kernel's rings when the agent was told to end, and of alerts that were
// counted.
func TestBPFLastAlerts(t *testing.T) {
	needBPF(t)
	dir := t.TempDir()
	config, rules, log := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "rules.yaml"), filepath.Join(dir, "alerts.json")
	for name, text := range map[string]string{
		config: "rules: {path: " + rules + ", aggregate: 1h}\nalerts: {channels: [{name: log, type: file, path: " + log + "}]}\nhistory: {enabled: false}\n",
		rules: `[{rule: canary, desc: d, condition: "evt.type in (execve, execveat) and proc.args contains last-canary", output: "%proc.name", priority: NOTICE},
			{rule: each, desc: d, condition: "evt.type in (execve, execveat) and proc.args contains last-canary", output: "%proc.args", priority: NOTICE}]`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := startAgent(t, dir, "-config", config).running(t)
	canary := func(n int) {
		t.Helper()
		if err := exec.Command("true", fmt.Sprint("last-canary", n)).Run(); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Wait(t, "the rules to match", func() bool {
		canary(0)
		return a.status(t).Rules.Rules[0].Matches > 0
	})
	const last = 20
	for n := range last {
		canary(n + 1)
	}
	if code := a.stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	counted, seen := 0, map[string]bool{}
	for line := range bytes.Lines(b) {
		var alert struct {
			Rule   string         `json:"rule"`
			Fields map[string]any `json:"output_fields"`
		}
		if err := json.Unmarshal(line, &alert); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		switch args, _ := alert.Fields["proc.args"].(string); {
		case alert.Rule == "each":
			seen[args] = true
		case alert.Fields["alert.count"] != nil:
			counted += int(alert.Fields["alert.count"].(float64))
		}
	}
	for n := range last {
		if args := fmt.Sprint("last-canary", n+1); !seen[args] {
			t.Errorf("no alert of %s", args)
		}
	}
	if counted < last {
		t.Errorf("%d alerts were told as one, want %d at least", counted, last)
	}
}

// processes are the pids of all that run and that this process may look at: some
// machines have one that even root may not, and hide it elsewhere too.
func processes(t *testing.T) []string {
	t.Helper()
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, d := range dirs {
		if _, err := strconv.Atoi(d.Name()); err != nil {
			continue
		}
		if _, err := os.Readlink(filepath.Join("/proc", d.Name(), "root")); err != nil {
			// It may not be looked at, or has ended and nobody has asked how.
			t.Logf("process %s is left out: %v", d.Name(), err)
			continue
		}
		pids = append(pids, d.Name())
	}
	return pids
}

// lives reports whether a process still runs: one that has ended is in /proc
// until its parent has asked how, but its root can no longer be read.
func lives(pid string) bool {
	_, err := os.Readlink(filepath.Join("/proc", pid, "root"))
	return err == nil
}

// A client that stops reading loses events, which are counted, and is
// disconnected; nobody else notices.
func TestBPFClientStopsReading(t *testing.T) {
	needBPF(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, []byte("queues: {events: 64, stall: 10s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, dir, "-config", config).running(t)
	conn, err := net.Dial("unix", filepath.Join(dir, "run", "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	stuck := func(st api.Status) *api.Subscription {
		for _, s := range st.Subscriptions {
			if strings.HasPrefix(s.Name, "events") && s.Filter == "" {
				return &s
			}
		}
		return nil
	}
	testkit.Wait(t, "the subscription", func() bool { return stuck(a.status(t)) != nil })
	storm := testkit.Command(t, "storm", "5000")
	if err := storm.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "losses", func() bool {
		st := a.status(t)
		s := stuck(st)
		if s == nil && st.Ended.Lost == 0 {
			t.Fatalf("disconnected before anything was lost: %+v", st.Ended)
		}
		if s == nil { // while the status was on its way
			return true
		}
		if s.Matched != s.Delivered+s.Lost+s.Queued {
			t.Errorf("matched %d, delivered %d, lost %d, queued %d", s.Matched, s.Delivered, s.Lost, s.Queued)
		}
		return s.Lost > 0
	})
	a.sees(t) // others are served meanwhile
	testkit.Wait(t, "the client to be disconnected", func() bool { return stuck(a.status(t)) == nil })
	if st := a.status(t); st.Ended.Lost == 0 || !slices.ContainsFunc(st.Losses, func(l api.Loss) bool { return l.Lane == "queue" && l.Count > 0 }) {
		t.Errorf("ended: %+v, losses %+v", st.Ended, st.Losses)
	}
	b, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Fatal(err)
	}
	if bytes.HasSuffix(b, []byte("0\r\n\r\n")) {
		t.Error("what the client got until then looks whole")
	}
	_ = storm.Process.Kill() // it has done its work
	_ = storm.Wait()
}

// An agent of which a part fails ends, says which, and leaves no socket.
func TestBPFPartFails(t *testing.T) {
	needBPF(t)
	dir := t.TempDir()
	a := startAgent(t, dir, "-rung", "process.exec=cgroup") // there is no such rung
	a.refused(t, "pipeline: start sensor process: ")
	if _, err := os.Lstat(filepath.Join(dir, "run", "s")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after the end: %v", err)
	}
}

// What the tables do not need is watched only while somebody asks for it.
func TestBPFOnDemand(t *testing.T) {
	needBPF(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	text := "tables: {exec: false, fork: false, exit: false, credentials: false, namespace: false, connection: false, dns: false}\nstop-grace: 50ms\nhistory: {enabled: false}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, dir, "-config", config).running(t)
	running := func() string {
		var names []string
		for _, s := range a.status(t).Sensors {
			if s.Running {
				names = append(names, s.Name)
			}
		}
		return strings.Join(names, " ")
	}
	if r := running(); r != "" {
		t.Errorf("%s runs, and nobody has asked", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range a.Events(ctx, api.Question{Filter: "evt.type = execve"}) {
		}
	}()
	testkit.Wait(t, "the process sensor", func() bool { return running() == "process" })
	cancel()
	<-ended
	testkit.Wait(t, "no sensor", func() bool { return running() == "" })
	a.sees(t)
	testkit.Wait(t, "what only the start needs to be given back", func() bool {
		return !slices.ContainsFunc(a.status(t).Capabilities, func(c api.Cap) bool { return c.Name == "CAP_SYS_ADMIN" && c.Held })
	})
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if hex, ok := strings.CutPrefix(line, "CapPrm:\t"); ok {
			if have, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64); err != nil || have&(1<<cap.SYS_ADMIN) != 0 {
				t.Errorf("it has %s still: %v", hex, err)
			}
		}
	}
}

// A process whose records were lost is known all the same, when the losses are over.
func TestBPFLostProcess(t *testing.T) {
	needBPF(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, []byte("rings: {critical: 64KiB}\nhistory: {enabled: false}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, dir, "-config", config).running(t)
	goOn := func() { _ = a.cmd.Process.Signal(unix.SIGCONT) }
	t.Cleanup(goOn) // before the agent is waited for
	if err := a.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "the agent to stop", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.HasPrefix(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" T"))
	})
	// Far more than the ring holds.
	if err := exec.Command("sh", "-c", "i=0; while [ $i -lt 600 ]; do (:); i=$((i+1)); done").Run(); err != nil {
		t.Fatal(err)
	}
	sleeper := exec.Command("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	})
	goOn()
	testkit.Wait(t, "the losses to be told", func() bool {
		return slices.ContainsFunc(a.status(t).Losses, func(l api.Loss) bool { return l.Lane == "critical" && l.Count > 0 })
	})
	testkit.Wait(t, "the process to be known", func() bool {
		for line, err := range a.Processes(t.Context(), api.Question{Filter: fmt.Sprintf("proc.pid = %d and proc.cmdline = 'sleep 1000'", sleeper.Process.Pid)}) {
			if err != nil {
				t.Fatal(err)
			}
			return len(line) > 0
		}
		return false
	})
}
