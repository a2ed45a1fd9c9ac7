package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"warren/api"
	"warren/event"
	"warren/filter"
)

var update = flag.Bool("update", false, "rewrite what the scripts expect")

// TestScripts runs testdata: each script types commands at an agent that
// serves the day of samples_test.go by the real server.
//
//	warren ARGUMENTS   runs Main; variables WIDTH (a terminal of that width), NO_COLOR, LC_ALL
//	exitcode N         holds the code of the last warren
//	agent start|stop   the agent on $WARREN_SOCKET, start [matching=WHICH] [priority=PRIORITY] [output=TEXT] FILE... one with rule files; agent node one of a cluster's node
//	kubectl warren ... the same as a plugin, with the hub of cluster_test.go; HUB says how that is doing
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			// The path of a socket has to be short.
			dir, err := os.MkdirTemp("", "warren")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(dir) })
			e.Setenv("WARREN_SOCKET", filepath.Join(dir, "s"))
			e.Setenv("LC_ALL", "C.UTF-8")
			e.Setenv("SOCKET", filepath.Join(dir, "s"))
			e.Values[worldKey{}] = &world{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"warren":   cmdWarren,
			"exitcode": cmdExitCode,
			"agent":    cmdAgent,
			"kubectl":  cmdKubectl,
		},
	})
}

type worldKey struct{}

// A world is what one script has running.
type world struct {
	code int
	stop func()
}

func cmdWarren(ts *testscript.TestScript, neg bool, args []string) {
	runMain(ts, neg, args, func(*Env) {})
}

func runMain(ts *testscript.TestScript, neg bool, args []string, change func(*Env)) {
	env := &Env{
		Stdout: ts.Stdout(), Stderr: ts.Stderr(),
		Getenv: ts.Getenv, Dir: ts.MkAbs("."),
		Now:   func() time.Time { return now },
		Dial:  func(socket string) Agent { return api.NewClient(socket) },
		Build: Build{Version: "v1.2.3", Revision: "0123456789abcdef", Go: "go1.26", Platform: "linux/amd64"},
		RunAgent: func(_ context.Context, o AgentOptions) error {
			_, err := io.WriteString(ts.Stdout(), "agent "+strings.Join([]string{o.Socket, o.HTTP, o.State, o.Config, o.Instance, o.LogLevel}, "|")+"\n")
			return err
		},
	}
	env.RunHub = func(_ context.Context, o HubOptions) error {
		_, err := io.WriteString(ts.Stdout(), "hub "+strings.Join([]string{o.Listen, o.HubbleListen, o.TLSDir, o.Namespace, o.Agents, o.Kubeconfig, o.MetricsListen, o.Config, o.LogLevel}, "|")+"\n")
		return err
	}
	change(env)
	if w := ts.Getenv("WIDTH"); w != "" {
		n, err := strconv.Atoi(w)
		ts.Check(err)
		env.Terminal, env.Width = true, func() int { return n }
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	switch ts.Getenv("STDOUT") {
	case "":
	case "interrupted": // somebody presses Ctrl-C once something was written
		env.Stdout = &hook{out: env.Stdout, then: func() error { cancel(); return nil }}
	case "broken": // whoever read the pipe has gone
		env.Stdout = &hook{out: env.Stdout, then: func() error { return syscall.EPIPE }}
	}
	// Exec ids begin with the boot id of the machine that runs the test.
	id := strings.ReplaceAll(event.BootID(), "-", "")[:12]
	env.Stdout = &replacer{env.Stdout, strings.NewReplacer(id, "b0072e9a1c55", event.BootID(), "b0072e9a-1c55-4000-8000-000000000000")}
	w := ts.Value(worldKey{}).(*world)
	w.code = Main(ctx, env, args)
	if neg != (w.code != 0) {
		ts.Fatalf("warren exits with %d", w.code)
	}
}

// A replacer puts words for others. Commands write whole lines.
type replacer struct {
	out   io.Writer
	words *strings.Replacer
}

func (r *replacer) Write(b []byte) (int, error) {
	if _, err := r.words.WriteString(r.out, string(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// A hook calls then after the first Write.
type hook struct {
	out  io.Writer
	then func() error
}

func (h *hook) Write(b []byte) (int, error) {
	if _, err := h.out.Write(b); err != nil {
		return 0, err
	}
	if err := h.then(); err != nil {
		return 0, err
	}
	return len(b), nil
}

func cmdExitCode(ts *testscript.TestScript, _ bool, args []string) {
	if w := ts.Value(worldKey{}).(*world); len(args) != 1 || strconv.Itoa(w.code) != args[0] {
		ts.Fatalf("exit code %d, want %v", w.code, args)
	}
}

func cmdAgent(ts *testscript.TestScript, _ bool, args []string) {
	w := ts.Value(worldKey{}).(*world)
	if len(args) == 0 {
		args = []string{""}
	}
	switch args[0] {
	case "start", "node":
		m := newMachine()
		if args[0] == "node" {
			m = newNode()
			m.flow()
		}
		for _, name := range args[1:] {
			switch key, value, _ := strings.Cut(name, "="); key {
			case "matching":
				m.rules.Settings.Matching = value
			case "priority":
				m.rules.Settings.Priority = value
			case "output":
				m.rules.Settings.Output = value
			default:
				m.rules.Files = append(m.rules.Files, api.RuleFile{Name: ts.MkAbs(name), Text: ts.ReadFile(name)})
			}
		}
		w.stop = startAgent(ts.Check, ts.Getenv("WARREN_SOCKET"), m)
		ts.Defer(func() { w.stop() })
	case "stop":
		w.stop()
	default:
		ts.Fatalf("usage: agent start|node|stop [FILE...]")
	}
}

// startAgent serves a day of samples_test.go on a socket until stop is
// called, which may happen more than once.
func startAgent(check func(error), socket string, m *machine) (stop func()) {
	listener, err := api.ListenUnix(socket)
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	server := api.New(api.Config{Map: m.talk().Answer, Flows: m.flows, History: kept{m}, Rules: func() api.RuleFiles { return m.rules }}, recorded{m}, recorded{m}, recorded{m}, slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, listener) }()
	return sync.OnceFunc(func() {
		cancel()
		<-done // how it ended is the business of its own tests
	})
}

// recorded is an agent's inside: what it saw is all there ever was.
type recorded struct{ m *machine }

func (r recorded) Subscribe(_ string, wanted *filter.Program, among event.KindSet) (api.Stream, error) {
	if among == event.Kinds(event.KindFlow) {
		return &replay{left: r.m.flows.Recent(), wanted: wanted}, nil
	}
	return &replay{left: r.m.events, wanted: wanted}, nil
}
func (r recorded) Recent() []*event.Event { return r.m.events }
func (r recorded) Seq() uint64            { return 0 }
func (r recorded) Settled() uint64        { return 0 }

func (r recorded) Process(k event.Key) *event.Process {
	for _, p := range r.m.processes() {
		if p.Key == k {
			return p
		}
	}
	return nil
}

func (r recorded) ProcessByPID(pid uint32) []*event.Process {
	var l []*event.Process
	for _, p := range r.m.processes() {
		if p.PID == pid {
			l = append(l, p)
		}
	}
	return l
}

func (r recorded) Processes(yield func(*event.Process) bool) {
	for _, p := range r.m.processes() {
		if !yield(p) {
			return
		}
	}
}

func (r recorded) Connections(yield func(*event.Event) bool) {
	for _, e := range r.m.connections {
		if !yield(e) {
			return
		}
	}
}

func (r recorded) Ready() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
func (r recorded) Err() error { return nil }

// A replay is a stream of recorded events, which ends with them.
type replay struct {
	left   []*event.Event
	wanted *filter.Program
}

func (r *replay) Next(context.Context) (*event.Event, error) {
	for len(r.left) > 0 {
		e := r.left[0]
		r.left = r.left[1:]
		if event.NoticeKinds.Has(e.Data.Kind()) || r.wanted.Match(e) {
			return e, nil
		}
	}
	return nil, io.EOF
}
func (r *replay) Buffered() bool              { return true }
func (r *replay) Begun(context.Context) error { return nil }
func (r *replay) Close()                      {}

func (r recorded) Status() api.Status {
	past := kept{}.Status()
	return api.Status{
		Version: "v1.2.3", Instance: "warren", PID: 812, Hostname: "lab\x1b[31m", BootID: "4f2a61d0-0000-4000-8000-000000000001", Kernel: "6.18.44", Lockdown: "integrity",
		Started: at(11_000_000), Ready: true, StateDir: "/var/lib/warren", Listen: []string{"/run/warren/warren.sock", "http://127.0.0.1:9180"},
		Node: "node-1\x1b[31m", CgroupRoot: "/k8s/node1",
		Kubernetes: &api.Kubernetes{
			Server: "https://10.96.0.1", Connected: true, Synced: true, Since: at(11_001_000), Pods: 203, EndedPods: 4, Services: 21, EndpointSlices: 21, Nodes: 3, Namespaces: 7, Addresses: 231, OwnPods: 57, Untold: 1, PeersDropped: 3, Trimmed: 1,
			Resources: []api.Resource{{Name: "nodes", Requests: 2, Objects: 3, Events: 40, Bytes: 23456}, {Name: "pods", Requests: 5, Failures: 2, Objects: 406, Events: 1234, Restarts: 1, Bytes: 3 << 20, Error: "connection refused"}},
		},
		Certificate: &api.Certificate{Expires: at(-86_400_000), Error: "tls.crt: no such file", Refused: 3},
		Hubble:      &api.HubbleState{Flows: 4095, MaxFlows: 4095, Bytes: 1 << 20, MaxBytes: 8 << 20, Seen: 100_000, Oldest: at(300_000), Streams: 2},
		Network: &api.Network{
			Mode: "vxlan\x1b[31m", Error: "set routes: no such device", Problems: []string{"the firewall drops what is forwarded"}, Uplink: "eth0", MTU: 1450, Generation: 77, Applied: at(2_000),
			ComputeTime: 1_234_567, ApplyTime: 2 * time.Millisecond, Changes: 76, Failures: 1,
			Endpoints: []api.NetworkEndpoint{
				{Pod: "shop/db-0", Interface: "wrn0123456789ab", Addresses: []string{"10.244.1.7", "fd00::7"}, InForce: true, Hook: "tcx", Audit: true},
				{Pod: "shop/web\x1b[31m", Interface: "wrnab", Addresses: []string{"10.244.1.8"}, Error: "no such device"},
			},
			Policies: []api.NetworkPolicy{{Tier: "Admin", Name: "all", Endpoints: 2}, {Tier: "Network", Namespace: "shop", Name: "db", Endpoints: 1, Failed: []string{"shop/web"}, Problems: []string{"spec.ingress[0].ports[0]: 0 is no port"}}},
			Hooks:    []api.NetworkHook{{Name: "endpoint", Rung: "clsact", Devices: 2, Refused: []api.Refusal{{Rung: "tcx", Reason: "needs Linux 6.6"}}}},
			Maps:     []api.NetworkMap{{Name: "flows", Used: 500, Capacity: 512}, {Name: "verdicts", Used: 5, Capacity: 65536}},
			Packets:  []api.NetworkPackets{{Direction: "egress", Verdict: "allowed", Packets: 1000, Bytes: 1 << 20}, {Direction: "ingress", Verdict: "denied", Reason: "policy", Packets: 3, Bytes: 180}},
			Evicted:  9,
		},
		Rules: &api.Rules{Loaded: at(7_200_000), Alerts: 31, Lost: 4, Unlike: 5, Refused: "local.yaml:4:5: no field proc.nmae\x1b[31m (LOAD_ERR_COMPILE_CONDITION)", Rules: []api.RuleState{
			{Name: "Terminal shell in container", Priority: "Notice", Enabled: true, Matches: 2}, {Name: "Clear Log Activities\x1b[31m", Priority: "Warning", Enabled: true, Matches: 29},
			{Name: "Never", Priority: "Error", Enabled: true, Measured: 40, Mean: 85}, {Name: "Off", Priority: "Error"},
		}},
		History: &past,
		Changes: &api.Changes{File: "config.yaml", Refused: "config.yaml:3:7: no key \"tpye\" under channels\x1b[31m", RefusedAt: at(90_000), Restart: []string{"history.max-size", "rings.bulk"}},
		Alerts: &api.Alerts{Lost: 2, Channels: []api.AlertChannel{
			{Name: "out", Type: "stdout", To: "stdout", Sent: 31},
			{Name: "slack", Type: "webhook", To: "https://hooks.slack.com", Waiting: 12, Sent: 19, Retried: 4, GivenUp: 1, Error: "hooks.slack.com answers 500 Internal Server Error\x1b[31m", FailingSince: at(90_000)},
			{Name: "siem", Type: "webhook", To: "https://siem.example:8443", Sent: 30, Dead: 1, Error: "siem.example:8443 answers 400 Bad Request", DeadFile: "/var/lib/warren/alerts/siem/dead.jsonl", DiskError: "no space left on device", Damaged: 3 << 10},
		}},
		Capabilities: []api.Cap{
			{Name: "CAP_BPF", For: "load programs", Required: true, Held: true},
			{Name: "CAP_PERFMON", For: "attach to tracepoints", Required: true},
			{Name: "CAP_SYS_PTRACE", For: "read what /proc hides of other users' processes"},
			{Name: "CAP_SYS_ADMIN", For: "open tracefs; given back once the sensors run", Returned: true},
		},
		Sensors: []api.Sensor{
			{Name: "process", Running: true, Kinds: []string{"exec", "fork", "exit"}, Judges: []string{"uids", "paths", "workload"}, Widened: []string{"nets"}, Cgroups: 41, CgroupsUnjudged: 2, Prefilter: []api.Want{
				{Events: "evt.kind in (exec, fork, exit)", Whole: true, For: []string{"tables"}},
				{Events: "evt.type = setuid and user.uid = 1000", For: []string{"events", "x\x1b[31m"}},
				{Events: "evt.type = open and path in (" + strings.Repeat("/some/where, ", 20) + "/etc)", For: []string{}},
			}, Hooks: []api.Hook{
				{Name: "process.exec", Purpose: "programs that are started", Rung: "tp_btf", Target: "sched_process_exec", For: []string{"tables", "x\x1b[31m"},
					Cost: &api.HookCost{Runs: 1 << 20, Sampled: 1024, Time: 5_376_000, Mean: 5250, Core: 0.0034}},
				{Name: "process.cred", Purpose: "changes of user and capabilities", Rung: "tracepoint", Target: "syscalls/sys_exit_setuid syscalls/sys_exit_setgid syscalls/sys_exit_capset", Refused: []api.Refusal{{Rung: "fentry", Reason: "lockdown refuses fentry"}}},
			}},
			{Name: "socket", Kinds: []string{}, Error: "no cgroup2 mount", Hooks: []api.Hook{
				{Name: "socket.dns", Purpose: "DNS over UDP", Error: "needs a cgroup2 mount"},
			}},
		},
		Kinds:   []api.Kind{{Kind: "exec", Total: 12345, Rate: 3.25}, {Kind: "connection", Total: 67, Rate: 0}, {Kind: "process", Total: 5}},
		Records: []api.Record{{Record: "process.exec", Lane: "critical", Submitted: 12345, Decoded: 12345}, {Record: "socket.tcp", Lane: "bulk", Submitted: 100, Decoded: 99, Lost: 120, Malformed: 1}},
		Losses:  []api.Loss{{Lane: "bulk", Kind: "socket.tcp", Count: 120}, {Lane: "decode", Kind: "socket.tcp", Count: 1}, {Lane: "kernel", Kind: "socket.state", Count: 3}},
		Rings:   []api.Ring{{Lane: "critical", Size: 2 << 20, Waiting: 0, Highest: 34567}, {Lane: "bulk", Size: 16 << 20, Waiting: 128, Highest: 16 << 20}},
		Waiting: api.Waiting{Now: 1, Total: 12, TimedOut: 2},
		Tables:  []api.Table{{Name: "processes", Entries: 231, Bytes: 456789, Budget: 32 << 20, Evicted: 5}, {Name: "names", Entries: 17}},
		Memory:  api.Memory{RSSAnon: 34 << 20, Heap: 12 << 20, Rings: 18 << 20},
		Subscriptions: []api.Subscription{{Name: "events @", Filter: "evt.type = execve", Kinds: []string{"exec"}, Since: at(60_000), Size: 8192, Queued: 3, Unnamed: 12,
			Consumed: api.Consumed{Matched: 40, Delivered: 30, Lost: 7}}},
		Ended: api.Consumed{Matched: 100, Delivered: 100},
	}
}

// TestFieldsAgree holds warren fields, which asks nobody, against the agent's
// answer.
func TestFieldsAgree(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	stop := startAgent(func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}, socket, newMachine())
	defer stop()
	want, err := api.NewClient(socket).Fields(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := Main(t.Context(), testEnv(&out, nil), []string{"fields", "-o", "json"}); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		var r record
		if err := r.parse([]byte(line)); err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.Join([]string{r.str("name"), r.str("type"), r.str("doc"), r.str("many"), r.str("arg"), r.str("virtual"), strings.Join(r.list("kinds"), ",")}, "|"))
	}
	var said []string
	for _, f := range want {
		virtual := ""
		if f.Virtual {
			virtual = "true"
		}
		said = append(said, strings.Join([]string{f.Name, f.Type, f.Doc, f.Many, f.Arg, virtual, strings.Join(f.Kinds, ",")}, "|"))
	}
	if !slices.Equal(got, said) {
		t.Errorf("the command says\n%s\nthe agent says\n%s", strings.Join(got, "\n"), strings.Join(said, "\n"))
	}
}

// testEnv returns an environment that answers from agent, not a terminal, in
// UTF-8.
func testEnv(out io.Writer, agent Agent) *Env {
	return &Env{
		Stdout: out, Stderr: out,
		Getenv: func(name string) string {
			if name == "LC_ALL" {
				return "C.UTF-8"
			}
			return ""
		},
		Now:      func() time.Time { return now },
		Dial:     func(string) Agent { return agent },
		RunAgent: func(context.Context, AgentOptions) error { return errors.New("not here") },
	}
}
