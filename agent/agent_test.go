package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"warren/api"
	"warren/bpf"
	"warren/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.Main(m, map[string]func([]string) int{
		"agent":   helperAgent,
		"exit":    helperExit,
		"storm":   helperStorm,
		"connect": helperConnect,
	})
}

// helperAgent is a whole agent, with no more capabilities than -caps names.
func helperAgent(args []string) int {
	var o Options
	var caps string
	var uid int
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	fs.StringVar(&o.Socket, "socket", "", "")
	fs.StringVar(&o.State, "state", "", "")
	fs.StringVar(&o.HTTP, "http", "", "")
	fs.StringVar(&o.Instance, "instance", "", "")
	fs.StringVar(&o.Config, "config", "", "")
	fs.StringVar(&caps, "caps", "", "")
	fs.IntVar(&uid, "uid", 0, "")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if uid != 0 {
		if err := become(uid, caps != ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	}
	if caps != "" {
		var have []right
		for _, name := range strings.Split(caps, ",") {
			v, err := cap.FromName(strings.ToLower(name))
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 2
			}
			have = append(have, right{need: need{cap: v}, held: true})
		}
		if err := limit(have); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	}
	cfg, err := Load(o)
	if err == nil {
		err = Run(context.Background(), cfg, os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}

// become changes the user, and keeps the capabilities if keep is true.
func become(uid int, keep bool) error {
	if !keep {
		return syscall.Setuid(uid)
	}
	if err := cap.SetGroups(uid); err != nil {
		return err
	}
	if err := cap.SetUID(uid); err != nil {
		return err
	}
	// What may be put in force is put in force.
	now := cap.GetProc()
	if err := now.Fill(cap.Effective, cap.Permitted); err != nil {
		return err
	}
	return now.SetProc()
}

func helperExit([]string) int { return 42 }

// helperStorm runs itself many times.
func helperStorm(args []string) int {
	n, _ := strconv.Atoi(args[0])
	self, err := os.Executable()
	if err != nil {
		return 1
	}
	for range n {
		cmd := exec.CommandContext(context.Background(), self)
		cmd.Env = []string{"WARREN_TEST_HELPER=exit"}
		_ = cmd.Run() // it exits with 42
	}
	return 0
}

func helperConnect(args []string) int {
	c, err := net.Dial("tcp", args[0])
	if err != nil {
		return 1
	}
	c.Close()
	return 0
}

// needBPF skips where an agent cannot run at all.
func needBPF(t *testing.T) {
	t.Helper()
	testkit.NeedRoot(t)
	testkit.NeedKernel(t, "ring", "5.8", bpf.Probe(bpf.FeatureRing))
	testkit.NeedKernel(t, "tp_btf", "5.5", bpf.Probe(bpf.FeatureTPBTF))
}

// An agentProcess is an agent in a process of its own.
type agentProcess struct {
	*api.Client
	cmd    *exec.Cmd
	dir    string
	stderr *lockedBuffer
	report string
	done   chan struct{}
	err    error // of the process, once done is closed
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startAgent starts an agent with its own state and socket below dir. It
// returns when the report is out or the agent has ended.
func startAgent(t *testing.T, dir string, args ...string) *agentProcess {
	t.Helper()
	a := &agentProcess{dir: dir, stderr: &lockedBuffer{}, done: make(chan struct{})}
	socket := filepath.Join(dir, "run", "s")
	a.Client = api.NewClient(socket)
	a.cmd = testkit.Command(t, "agent", append([]string{"-socket", socket, "-state", filepath.Join(dir, "state"), "-http", "off", "-instance", "test"}, args...)...)
	a.cmd.Stderr = a.stderr
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reported := make(chan struct{})
	go func() {
		defer close(a.done)
		var b strings.Builder
		for s := bufio.NewScanner(out); s.Scan(); {
			b.WriteString(s.Text() + "\n")
			if strings.HasSuffix(s.Text(), " status") {
				a.report = b.String()
				close(reported)
			}
		}
		a.err = a.cmd.Wait()
	}()
	t.Cleanup(func() {
		a.stop(t)
		if t.Failed() {
			t.Logf("agent said:\n%s", a.stderr)
		}
	})
	select {
	case <-reported:
	case <-a.done:
	case <-time.After(time.Minute):
		t.Fatalf("the agent does not start:\n%s", a.stderr)
	}
	return a
}

// running fails the test unless the agent runs.
func (a *agentProcess) running(t *testing.T) *agentProcess {
	t.Helper()
	if a.report == "" {
		<-a.done
		t.Fatalf("the agent has ended (%v):\n%s", a.err, a.stderr)
	}
	return a
}

// stop asks the agent to end and returns its exit code.
func (a *agentProcess) stop(t *testing.T) int {
	t.Helper()
	_ = a.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-a.done:
	case <-time.After(20 * time.Second):
		t.Error("the agent does not end")
		_ = a.cmd.Process.Kill()
		<-a.done
	}
	return a.cmd.ProcessState.ExitCode()
}

// refused fails the test unless the agent ended at once, with this error.
func (a *agentProcess) refused(t *testing.T, want string) {
	t.Helper()
	if a.report != "" {
		t.Errorf("the agent runs; want: %s", want)
		return
	}
	<-a.done
	last := ""
	for line := range strings.Lines(a.stderr.String()) {
		if strings.HasPrefix(line, "error: ") {
			last = strings.TrimSpace(line)
		}
	}
	if a.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(last, want) {
		t.Errorf("exit code %d, said: %s\nwant: %s", a.cmd.ProcessState.ExitCode(), last, want)
	}
}

func (a *agentProcess) status(t *testing.T) api.Status {
	t.Helper()
	b, err := a.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var st api.Status
	if err := json.Unmarshal(b, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// sees fails the test unless the agent tells of a process that runs now, and of
// a connection that it makes, with the process that made it.
func (a *agentProcess) sees(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	type row struct {
		Type string `json:"evt.type"`
		PID  int    `json:"proc.pid"`
		PPID int    `json:"proc.ppid"`
		Code int    `json:"exit.code"`
		Res  string `json:"evt.res"`
	}
	filter := fmt.Sprintf("(evt.type in (execve, execveat, procexit) and proc.ppid = %d) or (evt.type = connect and fd.rport = %s)", os.Getpid(), port)
	got := make(chan row, 100)
	streamed := make(chan error, 1)
	go func() {
		defer close(got)
		for line, err := range a.Events(ctx, api.Question{Filter: filter}) {
			if err != nil {
				streamed <- err
				return
			}
			var r row
			if err := json.Unmarshal(line, &r); err != nil {
				streamed <- err
				return
			}
			got <- r
		}
	}()
	testkit.Wait(t, "the subscription, and its sensors", func() bool {
		st := a.status(t)
		return slices.ContainsFunc(st.Subscriptions, func(s api.Subscription) bool { return strings.Contains(s.Filter, port) }) &&
			!slices.ContainsFunc(st.Sensors, func(s api.Sensor) bool { return !s.Running })
	})
	cmd := testkit.Command(t, "connect", l.Addr().String())
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	var exec, connect, exit bool
	for !exec || !connect || !exit {
		r, ok := <-got
		if !ok {
			t.Fatalf("exec %t, connect %t, exit %t of %d, then: %v", exec, connect, exit, pid, <-streamed)
		}
		if r.PID != pid {
			continue
		}
		switch r.Type {
		case "connect":
			connect = true
			if r.Res != "SUCCESS" || r.PPID != os.Getpid() {
				t.Errorf("connect: %+v", r)
			}
		case "procexit":
			exit = true
		default:
			exec = true
		}
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
	testkit.Wait(t, "the subscription", func() bool { return len(a.status(t).Subscriptions) == 1 })
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

// openDir is a folder that everybody can enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; strings.HasPrefix(d, os.TempDir()) && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestBPFSecondAgent(t *testing.T) {
	needBPF(t)
	dir := t.TempDir()
	first := startAgent(t, filepath.Join(dir, "a"), "-http", "127.0.0.1:0").running(t)
	pid := first.cmd.Process.Pid
	state, socket := filepath.Join(dir, "a", "state"), filepath.Join(dir, "a", "run", "s")
	t.Run("same state and socket", func(t *testing.T) {
		startAgent(t, filepath.Join(dir, "a")).refused(t, fmt.Sprintf("another agent (pid %d) uses the state %s", pid, state))
	})
	t.Run("same state", func(t *testing.T) {
		startAgent(t, filepath.Join(dir, "b"), "-state", state).refused(t, fmt.Sprintf("another agent (pid %d) uses the state %s", pid, state))
	})
	t.Run("same socket", func(t *testing.T) {
		startAgent(t, filepath.Join(dir, "b"), "-socket", socket).refused(t, fmt.Sprintf("another agent (pid %d) uses the socket %s", pid, socket))
	})
	t.Run("same HTTP address", func(t *testing.T) {
		http := ""
		for _, l := range first.status(t).Listen {
			http, _ = strings.CutPrefix(l, "http://")
		}
		startAgent(t, filepath.Join(dir, "b"), "-http", http).refused(t, "listen on "+http+": the address is in use: give another with --http, or --http off")
	})
	t.Run("socket of another program", func(t *testing.T) {
		path := filepath.Join(dir, "other")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		startAgent(t, filepath.Join(dir, "b"), "-socket", path).refused(t, fmt.Sprintf("listen on %s: process %d listens there already", path, os.Getpid()))
	})
	t.Run("its own everything", func(t *testing.T) {
		second := startAgent(t, filepath.Join(dir, "b"), "-instance", "other").running(t)
		second.sees(t)
		first.sees(t)
		if code := second.stop(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("after a crash", func(t *testing.T) {
		if err := first.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-first.done
		if _, err := os.Lstat(socket); err != nil {
			t.Fatalf("the dead agent's socket: %v", err)
		}
		startAgent(t, filepath.Join(dir, "a")).running(t).sees(t)
	})
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
			if s.Filter == "" {
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
		s := stuck(a.status(t))
		if s == nil {
			t.Fatal("disconnected before anything was lost")
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
	config := filepath.Join(dir, "config.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("hooks: {process.exec: cgroup}\n") // there is no such rung
	a := startAgent(t, dir, "-config", config)
	a.refused(t, "pipeline: start sensor process: ")
	if _, err := os.Lstat(filepath.Join(dir, "run", "s")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after the end: %v", err)
	}
	write("hooks: {process.exce: tp_btf}\n")
	a = startAgent(t, dir, "-config", config).running(t)
	const want = `msg="the configuration names a hook that does not exist" hook=process.exce near=process.exec`
	testkit.Wait(t, want, func() bool { return strings.Contains(a.stderr.String(), want) })
}

// What the tables do not need is watched only while somebody asks for it.
func TestBPFOnDemand(t *testing.T) {
	needBPF(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	text := "tables: {exec: false, fork: false, exit: false, credentials: false, namespace: false, connection: false, dns: false}\nstop-grace: 50ms\n"
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
