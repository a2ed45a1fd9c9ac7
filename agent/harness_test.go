package agent

import (
	"bufio"
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
	"syscall"
	"testing"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"warren/api"
	"warren/bpf"
	"warren/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.Main(m, map[string]func([]string) int{
		"agent":   helperAgent,
		"exit":    helperExit,
		"stay":    helperStay,
		"storm":   helperStorm,
		"connect": helperConnect,
	})
}

// helperAgent is a whole agent, with no more capabilities than -caps names.
func helperAgent(args []string) int {
	var o Options
	var caps, rung string
	var uid int
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	fs.StringVar(&o.Socket, "socket", "", "")
	fs.StringVar(&o.State, "state", "", "")
	fs.StringVar(&o.HTTP, "http", "", "")
	fs.StringVar(&o.Instance, "instance", "", "")
	fs.StringVar(&o.Config, "config", "", "")
	fs.StringVar(&caps, "caps", "", "")
	fs.StringVar(&rung, "rung", "", "")
	for name, at := range map[string]*string{
		"node": &o.Node, "cgroup-root": &o.CgroupRoot, "kubernetes": &o.Kubernetes, "kubeconfig": &o.Kubeconfig, "tls-dir": &o.TLSDir,
		"hub-listen": &o.HubListen, "hubble-listen": &o.HubbleListen, "hubble-socket": &o.HubbleSocket, "metrics-listen": &o.MetricsListen,
	} {
		fs.StringVar(at, name, "", "")
	}
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
	if hook, kind, ok := strings.Cut(rung, "="); ok {
		cfg.Road.Rungs = map[string]string{hook: kind} // unchecked
	}
	if err == nil {
		err = Run(context.Background(), cfg, os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		if wrong := (*UsageError)(nil); errors.As(err, &wrong) {
			return 2
		}
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

// helperStay runs until its standard input ends.
func helperStay([]string) int {
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

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
	stderr *testkit.Log
	report string
	done   chan struct{}
	err    error // of the process, once done is closed
}

// startAgent starts an agent with its own state and socket below dir. It
// returns when the report is out or the agent has ended.
func startAgent(t *testing.T, dir string, args ...string) *agentProcess {
	t.Helper()
	a := &agentProcess{dir: dir, stderr: &testkit.Log{}, done: make(chan struct{})}
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
	case <-time.After(testkit.Patience):
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
	case <-time.After(testkit.Patience):
		t.Error("the agent does not end")
		_ = a.cmd.Process.Kill()
		<-a.done
	}
	return a.cmd.ProcessState.ExitCode()
}

// refused fails the test unless the agent ended at once, with this error.
func (a *agentProcess) refused(t *testing.T, want string) {
	t.Helper()
	a.refusedBy(t, 1, want)
}

// refusedBy is refused with another exit code: 2 for a mistake of who started
// the agent.
func (a *agentProcess) refusedBy(t *testing.T, code int, want string) {
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
	if a.cmd.ProcessState.ExitCode() != code || !strings.Contains(last, want) {
		t.Errorf("exit code %d, said: %s\nwant %d: %s", a.cmd.ProcessState.ExitCode(), last, code, want)
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
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
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
			!slices.ContainsFunc(st.Sensors, func(s api.Sensor) bool { return !s.Running && (s.Name == "process" || s.Name == "socket") })
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
