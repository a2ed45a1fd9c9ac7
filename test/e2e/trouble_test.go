package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"warren/internal/testkit"
)

func TestE2ESecondAgent(t *testing.T) {
	first := start(t, options{})
	for _, test := range []struct {
		name          string
		socket, state string
	}{
		{"same socket", first.socket, filepath.Join(t.TempDir(), "state")},
		{"same state", filepath.Join(first.dir, "other"), filepath.Join(first.dir, "state")},
	} {
		t.Run(test.name, func(t *testing.T) {
			second := newAgent(t, options{args: []string{"--socket", test.socket, "--state", test.state}})
			second.launch()
			<-second.ended
			if second.err == nil {
				t.Error("the second agent ended as if all were well")
			}
			if out := second.out.String(); !strings.Contains(out, strconv.Itoa(first.cmd.Process.Pid)) {
				t.Errorf("it does not name the first, process %d:\n%s", first.cmd.Process.Pid, out)
			}
		})
	}
	if _, err := first.get("/healthz"); err != nil {
		t.Errorf("the first agent has suffered: %v", err)
	}
	// Another instance runs beside it.
	other := start(t, options{})
	if _, err := other.get("/v1/status"); err != nil {
		t.Error(err)
	}
}

// TestE2EKilledAgent starts an agent again where one was killed: nothing of the
// first stands in the way, and nothing of it is left in the kernel.
func TestE2EKilledAgent(t *testing.T) {
	a := start(t, options{})
	if err := a.end(syscall.SIGKILL); err == nil {
		t.Error("killed, and yet no error")
	}
	if _, err := os.Stat(a.socket); err != nil {
		t.Fatalf("the killed agent took its socket along: %v", err)
	}
	b := newAgent(t, options{args: []string{"--socket", a.socket, "--state", filepath.Join(a.dir, "state")}})
	b.socket = a.socket
	b.launch()
	b.waitReady()
	if len(b.objects("process", "list", "proc.pid = "+strconv.Itoa(os.Getpid()))) != 1 {
		t.Error("the new agent does not know this process")
	}
}

// TestE2EWithoutAgent wants every command to say that there is no agent.
func TestE2EWithoutAgent(t *testing.T) {
	a := newAgent(t, options{})
	for _, args := range [][]string{{"events"}, {"process", "list"}, {"connection", "list"}, {"status"}} {
		r := a.warren(args...)
		if r.code == 0 || !strings.Contains(r.stderr, a.socket) || r.stdout != "" {
			t.Errorf("warren %v: exit code %d, stdout %q, stderr %q", args, r.code, r.stdout, r.stderr)
		}
	}
}

// TestE2EBadConfiguration wants line and column of each mistake.
func TestE2EBadConfiguration(t *testing.T) {
	for _, test := range []struct{ name, config, where string }{
		{"no YAML", "a: [", ":1:"},
		{"unknown key", "log-level: info\nnonsense: 1\n", ":2:"},
		{"not a list", "- 1\n- 2\n", ":1:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newAgent(t, options{config: test.config})
			a.launch()
			<-a.ended
			if out := a.out.String(); a.err == nil || !strings.Contains(out, "config.yaml"+test.where) {
				t.Errorf("ended with %v:\n%s", a.err, out)
			}
		})
	}
}

// storm starts many processes and ends them at once.
func storm(t *testing.T, count int) {
	t.Helper()
	script := fmt.Sprintf("i=0; while [ $i -lt %d ]; do /bin/true storm; i=$((i+1)); done", count)
	if err := shell(t, script).Run(); err != nil {
		t.Fatal(err)
	}
}

// TestE2EClientThatStopsReading has one client that reads nothing: the others do
// not notice, and the agent counts what it could not tell the one.
func TestE2EClientThatStopsReading(t *testing.T) {
	t.Run("usual", func(t *testing.T) { clientThatStopsReading(t, start(t, options{})) })
	t.Run("losses", func(t *testing.T) {
		a := start(t, options{config: "rings:\n  critical: 4KiB\n"})
		clientThatStopsReading(t, a)
		if body, err := a.get("/v1/status"); err != nil || !strings.Contains(string(body), `"lane":"critical"`) {
			t.Errorf("a ring of a page lost nothing: %v", err)
		}
	})
}

func clientThatStopsReading(t *testing.T, a *agent) {
	t.Helper()
	const filter = "evt.kind in (fork, exec, exit) and proc.exepath != stuck"
	response, err := a.client().Get("http://agent/v1/events?follow=true&filter=" + strings.ReplaceAll(filter, " ", "%20"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	word := unique(t)
	reader := a.follow("evt.kind = exit and proc.cmdline contains " + word)
	count := 0
	lost := func() uint64 {
		body, err := a.get("/v1/status")
		if err != nil {
			t.Fatal(err)
		}
		var status struct {
			Subscriptions []struct {
				Filter string
				Lost   uint64
			}
			Ended struct{ Lost uint64 } `json:"ended_subscriptions"`
		}
		if err := json.Unmarshal(body, &status); err != nil {
			t.Fatal(err)
		}
		n := status.Ended.Lost
		for _, s := range status.Subscriptions {
			if s.Filter == filter {
				n += s.Lost
			}
		}
		return n
	}
	gone := func() bool { // it may also be sent away
		body, err := a.get("/v1/status")
		return err == nil && !strings.Contains(string(body), "!= stuck")
	}
	for lost() == 0 && !gone() {
		if count++; count > 200 {
			t.Fatal("200 storms, and still the client that does not read lost nothing")
		}
		storm(t, 500)
		if err := shell(t, "exit 0", word).Run(); err != nil {
			t.Fatal(err)
		}
	}
	// Everybody is told of losses, whatever he asked for: they are no exits. What
	// was lost of processes may have been one of ours.
	told := func() (exits int, missing bool) {
		pids := map[string]bool{}
		for _, e := range reader.all() {
			switch e.str("evt.kind") {
			case "exit":
				if pid := e.str("proc.pid"); pids[pid] {
					t.Errorf("the exit of process %s was told twice", pid)
				} else {
					pids[pid] = true
				}
			case "lost":
				missing = missing || strings.HasPrefix(e.str("lost.kind"), "process.")
			default:
				t.Errorf("the client that reads is told %v", e)
			}
		}
		return len(pids), missing
	}
	testkit.Wait(t, "all exits for the client that reads", func() bool {
		exits, missing := told()
		return exits >= count || missing
	})
	if exits, missing := told(); exits > count || exits < count && !missing {
		t.Errorf("the client that reads has %d exits, want %d; losses: %v", exits, count, missing)
	}
}

// TestE2EStartAmidStorm starts agents while processes come and go: what /proc
// shows is gone before it can be read.
func TestE2EStartAmidStorm(t *testing.T) {
	loop := shell(t, "while :; do /bin/true amid; /bin/true storm; done")
	loop.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := loop.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(-loop.Process.Pid, syscall.SIGKILL); _ = loop.Wait() }()
	for range 3 {
		a := start(t, options{})
		list := a.objects("process", "list", "proc.pid = "+strconv.Itoa(loop.Process.Pid))
		if len(list) != 1 {
			t.Errorf("the loop is listed %d times", len(list))
		}
		for _, o := range a.objects("process", "list", "--exited", "proc.pname = sh and proc.ppid = "+strconv.Itoa(loop.Process.Pid)) {
			if o.str("proc.name") == "true" && o.str("proc.exepath") != readlink(t, "/bin/true") {
				t.Errorf("a process of the storm is wrong: %v", o)
			}
		}
		if err := a.end(syscall.SIGTERM); err != nil {
			t.Errorf("the agent ended with %v", err)
		}
	}
}

var httpAddress = regexp.MustCompile(`127\.0\.0\.1:\d+`)

func TestE2EHTTP(t *testing.T) {
	a := start(t, options{http: "127.0.0.1:0"})
	address := httpAddress.FindString(a.ok("status"))
	if address == "" {
		t.Fatalf("status does not tell the address:\n%s", a.ok("status"))
	}
	get := func(path string) (int, string) {
		response, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	for _, path := range []string{"/v1/processes", "/v1/connections", "/v1/fields", "/v1/status", "/metrics", "/healthz", "/openapi.json",
		"/v1/processes/" + strconv.Itoa(os.Getpid())} {
		if code, body := get(path); code != http.StatusOK || body == "" {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	for path, want := range map[string]int{
		"/v1/events?filter=fd.nmae%20%3D%20x": 400, "/v1/processes?filter=(": 400, "/v1/processes/4194304": 404, "/v1/nothing": 404,
		"/v1/events?limit=many": 400,
	} {
		if code, body := get(path); code != want {
			t.Errorf("%s: %d %q, want %d", path, code, body, want)
		}
	}
	// The stream, over TCP.
	response, err := http.Get("http://" + address + "/v1/events?follow=true&limit=1&filter=evt.kind%20%3D%20exec")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if err := exec.Command("/bin/true").Run(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(response.Body).ReadString('\n')
	if err != nil || parseObject(t, line).str("evt.kind") != "exec" {
		t.Errorf("the stream's first line is %q, %v", line, err)
	}
}

func TestE2EMetrics(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatal("make e2e puts promtool into the path:", err)
	}
	a := start(t, options{})
	storm(t, 50)
	metrics, err := a.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	check := exec.Command(promtool, "check", "metrics")
	check.Stdin = strings.NewReader(string(metrics))
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// TestE2ECapabilities runs an agent with exactly the capabilities that it names.
func TestE2ECapabilities(t *testing.T) {
	type status struct {
		Capabilities []struct {
			Name           string
			Required, Held bool
			Returned       bool
		}
		Sensors []struct {
			Hooks []struct{ Name, Rung string }
		}
	}
	read := func(a *agent) (s status, rungs map[string]string) {
		body, err := a.get("/v1/status")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(body, &s); err != nil {
			t.Fatal(err)
		}
		rungs = make(map[string]string)
		for _, sensor := range s.Sensors {
			for _, hook := range sensor.Hooks {
				rungs[hook.Name] = hook.Rung
			}
		}
		return s, rungs
	}
	full, want := read(start(t, options{}))
	var all []string
	for _, c := range full.Capabilities {
		name := strings.ToLower(strings.TrimPrefix(c.Name, "CAP_"))
		if name == "sys_resource" {
			t.Error("the agent asks for CAP_SYS_RESOURCE")
		}
		all = append(all, "+"+name)
	}
	if len(all) == 0 {
		t.Fatal("the agent names no capability")
	}
	// A root user's program gets what the bounding set leaves.
	bounded := func(caps []string) []string {
		return []string{"setpriv", "--bounding-set", "-all," + strings.Join(caps, ","), "--inh-caps", "-all"}
	}
	exact := start(t, options{wrap: bounded(all)})
	s, rungs := read(exact)
	for _, c := range s.Capabilities {
		if !c.Held && !c.Returned {
			t.Errorf("%s was not there", c.Name)
		}
	}
	for hook, rung := range want {
		if rungs[hook] != rung {
			t.Errorf("with exactly its capabilities, %s is attached as %q instead of %q", hook, rungs[hook], rung)
		}
	}
	word := unique(t)
	f := exact.follow("proc.cmdline contains " + word)
	if err := shell(t, "exit 0", word).Run(); err != nil {
		t.Fatal(err)
	}
	f.wait("the exit", func(o object) bool { return o.str("evt.kind") == "exit" })

	// Without one of them, it says which.
	for i, c := range full.Capabilities {
		t.Run("without "+c.Name, func(t *testing.T) {
			rest := append(append([]string(nil), all[:i]...), all[i+1:]...)
			a := newAgent(t, options{wrap: bounded(rest)})
			a.launch()
			if c.Required {
				<-a.ended
				if a.err == nil {
					t.Error("it ended as if all were well")
				}
			} else {
				a.waitReady()
			}
			// It may answer before it has reported.
			testkit.Wait(t, "a word that "+c.Name+" is missing", func() bool { return strings.Contains(a.out.String(), c.Name) })
		})
	}
}
