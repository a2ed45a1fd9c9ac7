package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/event"
	"warren/filter"
	"warren/internal/testkit"
)

// fake is an agent made of values.
type fake struct {
	mu      sync.Mutex
	streams []*fakeStream
	refuse  error
	begun   <-chan struct{} // of the streams to come
	recent  []*event.Event
	seq     uint64
	procs   []*event.Process
	conns   []*event.Event
	onConns func()
	status  Status
	ready   chan struct{}
	err     error
}

type fakeStream struct {
	who    string
	match  func(*event.Event) bool
	kinds  event.KindSet
	ch     chan *event.Event
	closed chan struct{}
	begun  <-chan struct{} // nil: at once
}

func (f *fake) Subscribe(who string, wanted *filter.Program, among event.KindSet) (Stream, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return nil, f.refuse
	}
	s := &fakeStream{who, wanted.Match, wanted.Kinds() & among, make(chan *event.Event, 1000), make(chan struct{}), f.begun}
	f.streams = append(f.streams, s)
	return s, nil
}

func (s *fakeStream) Next(ctx context.Context) (*event.Event, error) {
	select {
	case e, ok := <-s.ch:
		if !ok {
			return nil, io.EOF
		}
		return e, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *fakeStream) Buffered() bool { return len(s.ch) > 0 }
func (s *fakeStream) Close()         { close(s.closed) }

func (s *fakeStream) Begun(ctx context.Context) error {
	if s.begun == nil {
		return nil
	}
	select {
	case <-s.begun:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send offers an event to every stream.
func (f *fake) send(list ...*event.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range list {
		for _, s := range f.streams {
			if e.Data.Kind() == event.KindLost || s.kinds.Has(e.Data.Kind()) && s.match(e) {
				s.ch <- e
			}
		}
	}
}

func (f *fake) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.streams {
		close(s.ch)
	}
}

// stream waits for the n-th subscription.
func (f *fake) stream(t *testing.T, n int) *fakeStream {
	t.Helper()
	return wait(t, func() *fakeStream {
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.streams) <= n {
			return nil
		}
		return f.streams[n]
	})
}

// wait waits until get returns something.
func wait[T any](t *testing.T, get func() *T) *T {
	t.Helper()
	return testkit.WaitFor(t, "what the test looks for", func() (*T, bool) { v := get(); return v, v != nil })
}

func (f *fake) Recent() []*event.Event { return f.recent }
func (f *fake) Seq() uint64            { return f.seq }
func (f *fake) Settled() uint64        { return f.seq }

func (f *fake) Process(k event.Key) *event.Process {
	for _, p := range f.procs {
		if p.Key == k {
			return p
		}
	}
	return nil
}

func (f *fake) ProcessByPID(pid uint32) []*event.Process {
	var list []*event.Process
	for _, p := range f.procs {
		if p.PID == pid {
			list = append([]*event.Process{p}, list...)
		}
	}
	return list
}

func (f *fake) Processes(yield func(*event.Process) bool) {
	for _, p := range f.procs {
		if !yield(p) {
			return
		}
	}
}

func (f *fake) Connections(yield func(*event.Event) bool) {
	if f.onConns != nil {
		f.onConns()
	}
	for _, e := range f.conns {
		if !yield(e) {
			return
		}
	}
}

func (f *fake) Status() Status         { return f.status }
func (f *fake) Ready() <-chan struct{} { return f.ready }
func (f *fake) Err() error             { return f.err }

// newFake is an agent that knows a shell, what it runs, and a connection.
func newFake() *fake {
	f := &fake{ready: make(chan struct{}), status: sampleStatus()}
	close(f.ready)
	container := &event.Container{FullID: strings.Repeat("ab", 32), ID: strings.Repeat("ab", 6), Type: "podman", Name: "web", Labels: map[string]string{"app": "shop", "a b": "\xff"}, Privileged: true}
	process := func(pid uint32, name string, parent *event.Process) *event.Process {
		p := &event.Process{Key: event.Key{PID: pid, Start: uint64(pid) * 1e9}, PID: pid, TID: pid, VPID: pid, Name: name, ExePath: "/bin/" + name, Parent: parent, StartTime: time.Unix(1e9+int64(pid), 5), Container: container}
		p.SetArgs([]string{name, "-c", "caf\xe9\n"})
		p.CapEffective = 1 << 21
		if parent != nil {
			p.ParentKey, p.Depth = parent.Key, parent.Depth+1
		}
		return p
	}
	initProc := process(1, "init", nil)
	shell := process(100, "bash", initProc)
	curl := process(200, "curl", shell)
	old := process(200, "old", initProc)
	old.Start, old.Exited = 5, &event.Exit{Type: "procexit", Signal: 9, CoreDump: true, Ktime: 1e12}
	f.procs = []*event.Process{initProc, old, shell, curl}
	connection := &event.Connection{
		Socket: event.Socket{Local: netip.MustParseAddr("10.0.0.1"), Remote: netip.MustParseAddr("fd00::1"), LocalPort: 1, RemotePort: 443, L4: event.TCP, RemoteName: "example.org", Cookie: 7},
		Type:   "connect", State: event.Established, Start: time.Unix(1e9, 0), BytesSent: 1 << 63,
	}
	f.conns = []*event.Event{{Time: time.Unix(1e9, 0), Seq: 3, Actor: curl.Key, Process: curl, Data: connection}}
	f.recent = []*event.Event{
		{Time: time.Unix(1e9, 1), Seq: 1, Actor: shell.Key, Process: shell, Data: &event.Exec{Type: "execve"}},
		{Time: time.Unix(1e9, 2), Seq: 2, Actor: curl.Key, Process: curl, Data: &event.Exec{Type: "execve"}},
		f.conns[0],
		{Time: time.Unix(1e9, 4), Seq: 4, Actor: curl.Key, Process: curl, Data: &event.DNS{Socket: connection.Socket, Type: "dns", Name: "example.org", Answers: []string{"example.org 60 AAAA fd00::1"}}},
		{Time: time.Unix(1e9, 5), Seq: 5, Actor: old.Key, Process: old, Data: old.Exited},
	}
	f.seq = 5
	return f
}

// sampleStatus has every member set, so that what is left out of the
// description shows.
func sampleStatus() Status {
	return Status{
		Version: "v1", Instance: "warren", PID: 7, Hostname: "host", BootID: "id", Kernel: "6.1", Lockdown: "none", Started: time.Unix(1e9, 0), Ready: true, StateDir: "/s", Listen: []string{"unix:/x"},
		Node: "node-1", CgroupRoot: "/k8s/node1",
		Kubernetes:  &Kubernetes{"x", "https://api", true, time.Unix(1e9, 0), true, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, []Resource{{"pods", 1, 2, 3, 4, 5, 6, "oops"}}},
		Certificate: &Certificate{time.Unix(2e9, 0), "oops", 3},
		Hubble:      &HubbleState{1, 2, 3, 4, 5, time.Unix(1e9, 0), 6, 7},
		Alerts:      &Alerts{[]AlertChannel{{"c", "webhook", "https://x", 1, 2, 3, 4, 5, 6, "/s/dead.jsonl", 7, 8, 9, time.Unix(1e9, 0), "oops", time.Unix(1e9, 0), "full"}}, 3},
		Changes:     &Changes{"/etc/c.yaml", "wrong", time.Unix(1e9, 0), []string{"rings.bulk"}},
		Reactions:   &Reactions{true, true, 1, 2, []ReactionCount{{"program", 3, 4, 5, 6, 7}}, &ReactionFailure{time.Unix(1e9, 0), "r", "program", "oops"}},
		History:     &HistoryStatus{"/h", "evt.kind = exec", []string{"exec"}, "disk full", 1, 2, 3, time.Unix(1e9, 0), time.Unix(2e9, 0), 4, 5, 6, 7, []HistorySegments{{"exec", 1, 2, 3, time.Unix(1e9, 0), time.Unix(2e9, 0)}}, 8, 9, 10, &HistoryArchive{"file:///a", 1, 2, 3, 4, time.Unix(1e9, 0), 5, 6, time.Unix(1e9, 0), "full", time.Unix(1e9, 0), 7, 8}, []HistoryGap{{"node-1", time.Unix(1e9, 0), time.Unix(2e9, 0)}}, 9},
		Flows:       &FlowsState{1, 2, 3, 4, time.Unix(1e9, 0), []FlowEventCount{{"new", 9, 1}}, 4, 3, 5},
		Network: &Network{
			Mode: "vxlan", InForce: true, Waiting: "x", Error: "oops", Problems: []string{"x"}, Uplink: "eth0", MTU: 1450, Generation: 1, Applied: time.Unix(1e9, 0), ComputeTime: 2, ApplyTime: 3, Changes: 4, Failures: 5,
			Endpoints: []NetworkEndpoint{{"shop/db", "wrn1", []string{"10.0.0.2"}, true, "tcx", true, "oops"}},
			Policies:  []NetworkPolicy{{"u", "Network", "shop", "db", 6, 6, 7, 1, []string{"x"}, true, []string{"x"}}},
			Hooks:     []NetworkHook{{"endpoint", "tcx", 8, []Refusal{{"xdp", "x"}}}},
			Maps:      []NetworkMap{{"flows", 9, 10}},
			Packets:   []NetworkPackets{{"egress", "denied", "denied by policy", 11, 12}}, EventsLost: 13, Evicted: 14, Unflowed: 15,
		},
		Capabilities: []Cap{{"CAP_BPF", "x", true, true, true}},
		Sensors: []Sensor{{"process", true, []string{"exec"}, "late", []Want{{"evt.kind = exec", true, []string{"tables"}}}, []string{"paths", "workload"}, []string{"uids"}, 3, 1, []Hook{
			{"process.exec", "programs started", "tp_btf", "sched_process_exec", "", []Refusal{{"fentry", "lockdown refuses it"}}, []string{"tables"}, &HookCost{4096, 4, 2000, 500, 0.01}},
			{Name: "process.exit", Purpose: "ends", Error: "refused", For: []string{}},
		}}},
		Kinds:         []Kind{{"exec", 7, 1.5}, {"exit", 3, 0}},
		Records:       []Record{{"process.exec", "critical", 5, 4, 3, 2}, {"process.exit", "critical", 5, 4, 3, 2}},
		Losses:        []Loss{{"critical", "process.exec", 4}, {"kernel", "process.fork", 5}, {"kernel", "socket.state", 6}},
		Rings:         []Ring{{"critical", 2, 1, 1}, {"bulk", 2, 1, 1}},
		Reader:        Reader{1, 2, "oops"},
		Waiting:       Waiting{1, 2, 3, 4},
		Tables:        []Table{{"processes", 1, 2, 3, 4}, {"names", 1, 0, 0, 4}},
		Memory:        Memory{1, 2, 3},
		Subscriptions: []Subscription{{"events", "proc.name = x", []string{"exec"}, time.Unix(1e9, 0), 8192, 1, 5, Consumed{4, 2, 1}}, {Name: "b", Kinds: []string{}, Consumed: Consumed{Matched: 1}}},
		Ended:         Consumed{10, 9, 1},
	}
}

func newServer(f *fake, cfg Config) *Server {
	if cfg.Map == nil {
		cfg.Map = NewMapCollector(MapConfig{}).Answer
	}
	if cfg.Flows == nil {
		cfg.Flows = sampleFlows(f)
	}
	if cfg.Files == nil {
		cfg.Files = func(event.Key, int) ([]OpenFile, int, error) { return sampleFiles(), 7, nil }
	}
	return New(cfg, f, f, f, slog.New(slog.DiscardHandler))
}

// listen serves f on a Unix socket until the test ends.
func listen(t *testing.T, f *fake, cfg Config) (*Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- newServer(f, cfg).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return NewClient(path), path
}

// names reads what identifies each line.
func names(t *testing.T, lines Lines) []string {
	t.Helper()
	var got []string
	for line, err := range lines {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, name(t, line))
	}
	return got
}

func name(t *testing.T, line []byte) string {
	t.Helper()
	var v struct {
		Kind  string `json:"evt.kind"`
		Name  string `json:"proc.name"`
		Count int    `json:"lost.count"`
	}
	if err := json.Unmarshal(line, &v); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	if v.Count > 0 {
		return fmt.Sprint(v.Kind, " ", v.Count)
	}
	return v.Kind + " " + v.Name
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// What was lost is told and is not one of the events that were asked for.
func TestRecentLosses(t *testing.T) {
	f := newFake()
	lost := &event.Event{Time: time.Unix(1, 0), Data: &event.Lost{Type: "lost", Count: 3, What: "process.exec", Lane: "critical"}}
	f.recent = []*event.Event{f.recent[0], lost, f.recent[1], lost}
	c, _ := listen(t, f, Config{})
	all := names(t, c.Recent(t.Context(), Question{}))
	if len(all) != 4 {
		t.Fatalf("%q, want four", all)
	}
	equal(t, names(t, c.Recent(t.Context(), Question{Limit: 1})), all[2:])
	equal(t, names(t, c.Recent(t.Context(), Question{Limit: 2})), all)
	equal(t, names(t, c.Recent(t.Context(), Question{Limit: 9})), all)
}

func TestLists(t *testing.T) {
	c, _ := listen(t, newFake(), Config{})
	ctx := t.Context()
	equal(t, names(t, c.Recent(ctx, Question{})), []string{"exec bash", "exec curl", "connection curl", "dns curl", "exit old"})
	equal(t, names(t, c.Recent(ctx, Question{Filter: "proc.name = curl"})), []string{"exec curl", "connection curl", "dns curl"})
	equal(t, names(t, c.Recent(ctx, Question{Filter: "proc.name = curl", Limit: 2})), []string{"connection curl", "dns curl"})
	equal(t, names(t, c.Processes(ctx, Question{})), []string{"process init", "process bash", "process curl"})
	equal(t, names(t, c.Processes(ctx, Question{Exited: true})), []string{"process old", "process init", "process bash", "process curl"})
	equal(t, names(t, c.Processes(ctx, Question{Filter: "proc.pname = bash", Exited: true})), []string{"process curl"})
	equal(t, names(t, c.Connections(ctx, Question{Filter: "fd.rport = 443"})), []string{"connection curl"})
	equal(t, names(t, c.Connections(ctx, Question{Filter: "fd.rport = 80"})), []string(nil))
	fields, err := c.Fields(ctx, "dns")
	if err != nil {
		t.Fatal(err)
	}
	own := map[string]bool{}
	for _, f := range fields {
		own[f.Name] = true
	}
	if !own["dns.name"] || !own["evt.time"] || own["exit.code"] {
		t.Errorf("fields of dns: %v", fields)
	}
	b, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var st Status
	if err := json.Unmarshal(b, &st); err != nil {
		t.Fatal(err)
	}
	equal(t, st, sampleStatus())
	if err := c.Health(ctx); err != nil {
		t.Error(err)
	}
}

func TestOneProcess(t *testing.T) {
	f := newFake()
	c, _ := listen(t, f, Config{})
	for _, id := range []string{"200", f.procs[3].ExecID()} {
		b, err := c.Process(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var v struct {
			Name        string            `json:"proc.name"`
			ExecID      string            `json:"proc.exec_id"`
			Ancestors   []json.RawMessage `json:"ancestors"`
			Children    []json.RawMessage `json:"children"`
			Connections []json.RawMessage `json:"connections"`
			Others      []string          `json:"others"`
			Proc        *procInfo         `json:"proc"`
		}
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		if v.Name != "curl" || v.ExecID != f.procs[3].ExecID() || len(v.Ancestors) != 2 || len(v.Children) != 0 || len(v.Connections) != 1 {
			t.Errorf("%s: %s", id, b)
		}
		// The pid was another's before; the exec id was not.
		if want := 1 - strings.Count(id, "-")/2; len(v.Others) != want {
			t.Errorf("%s: others %v, want %d", id, v.Others, want)
		}
		if v.Proc != nil {
			t.Errorf("%s: /proc told of a process that is not this one: %+v", id, v.Proc)
		}
	}
}

func TestRefusals(t *testing.T) {
	f := newFake()
	h := newServer(f, Config{})
	for _, tt := range []struct {
		method, target string
		status         int
		want           string // the JSON
	}{
		{"GET", "/v1/events?filtr=x", 400, `{"error":"unknown parameter \"filtr\"","hint":"did you mean filter?"}`},
		{"GET", "/metrics?x=1", 400, `{"error":"unknown parameter \"x\"","hint":"/metrics takes no parameters"}`},
		{"GET", "/v1/status?node=a", 400, `{"error":"parameter node is for a hub: this agent was not told which node of a cluster it is"}`},
		{"GET", "/v1/events?node=a,", 400, `{"error":"parameter node is \"a,\", want names separated by commas"}`},
		{"GET", "/v1/connections?limit=1", 400, `{"error":"unknown parameter \"limit\"","hint":"known are filter, fields, node, follow, since, until, watch"}`},
		{"GET", "/v1/events?limit=1&limit=2", 400, `{"error":"parameter limit is given 2 times"}`},
		{"GET", "/v1/events?limit=0", 400, `{"error":"parameter limit is \"0\", want a number of at least 1"}`},
		{"GET", "/v1/events?limit=many", 400, `{"error":"parameter limit is \"many\", want a number of at least 1"}`},
		{"GET", "/v1/events?follow=yes", 400, `{"error":"parameter follow is \"yes\", want true or false"}`},
		{"GET", "/v1/processes?exited=%1b[2J", 400, `{"error":"parameter exited is \"\\x1b[2J\", want true or false"}`},
		{"GET", "/v1/events?filter=%zz", 400, `{"error":"malformed query: invalid URL escape \"%zz\""}`},
		{"GET", "/v1/events?filter=a;b", 400, `{"error":"malformed query: invalid semicolon separator in query"}`},
		{"GET", "/v1/events?filter=fd.nmae%3D1", 400, `{"error":"no field fd.nmae","expr":"fd.nmae=1","pos":0,"end":7,"hint":"did you mean fd.name?"}`},
		{"GET", "/v1/processes?filter=evt.type%3Dconnect", 400, `{"error":"no process can match: the filter wants events of kind connection","expr":"evt.type=connect","pos":0,"end":16}`},
		{"GET", "/v1/events?filter=evt.kind%3Dprocess", 400, `{"error":"no event can match: the filter wants kind process, of which there are rows in lists and no events","expr":"evt.kind=process","pos":0,"end":16}`},
		{"GET", "/v1/events?filter=evt.kind%3Dexec+and+dns.type%3DA", 400, `{"error":"no event can match: the filter wants what cannot be at the same time","expr":"evt.kind=exec and dns.type=A","pos":0,"end":28}`},
		{"GET", "/v1/connections?filter=evt.type%3Dexecve", 400, `{"error":"no connection can match: the filter wants events of kind exec","expr":"evt.type=execve","pos":0,"end":15}`},
		{"GET", "/v1/fields?kind=dsn", 400, `{"error":"no kind \"dsn\"","hint":"did you mean dns?"}`},
		{"GET", "/v1/processes/x", 400, `{"error":"\"x\" is neither a pid nor an exec id"}`},
		{"GET", "/v1/processes/a-b-c", 400, `{"error":"\"a-b-c\" is neither a pid nor an exec id"}`},
		{"GET", "/v1/processes/4294967296", 400, `{"error":"\"4294967296\" is neither a pid nor an exec id"}`},
		{"GET", "/v1/processes/77", 404, `{"error":"no process 77 is known"}`},
		{"GET", "/v1/processes/000000000000-ff-1", 404, `{"error":"process \"000000000000-ff-1\" is not of this machine's present boot"}`},
		{"GET", "/v1/event", 404, `{"error":"no such path \"/v1/event\"","hint":"did you mean /v1/events?"}`},
		{"GET", "/", 404, `{"error":"no such path \"/\"","hint":"/openapi.json describes all paths"}`},
		{"GET", "/v1/events/", 404, `{"error":"no such path \"/v1/events/\"","hint":"did you mean /v1/events?"}`},
		{"POST", "/v1/events", 405, `{"error":"method \"POST\" is not allowed: every path answers GET only"}`},
		{"HEAD", "/v1/events", 405, `{"error":"method \"HEAD\" is not allowed: every path answers GET only"}`},
		{"DELETE", "/v1/processes/1", 405, `{"error":"method \"DELETE\" is not allowed: every path answers GET only"}`},
		{"POST", "/nowhere", 404, `{"error":"no such path \"/nowhere\"","hint":"/openapi.json describes all paths"}`},
	} {
		t.Run(tt.method+" "+tt.target, func(t *testing.T) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(tt.method, tt.target, nil))
			if w.Code != tt.status {
				t.Errorf("status %d, want %d", w.Code, tt.status)
			}
			if got := strings.TrimSpace(w.Body.String()); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if ct := w.Header().Get("Content-Type"); ct != "application/json" {
				t.Errorf("content type %s", ct)
			}
			if tt.status == 405 && w.Header().Get("Allow") != "GET" {
				t.Error("no header Allow")
			}
		})
	}
}

func TestHealth(t *testing.T) {
	f := newFake()
	f.ready = make(chan struct{})
	server := newServer(f, Config{})
	check := func(when, path string, code int, body string) {
		t.Helper()
		for name, h := range map[string]http.Handler{"the API": server, "probes": server.Probes()} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if got := strings.TrimSpace(w.Body.String()); w.Code != code || got != body {
				t.Errorf("%s, %s of %s: %d %s, want %d %s", when, path, name, w.Code, got, code, body)
			}
		}
	}
	// Who only starts is not to be started again.
	check("before ready", "/healthz", 200, `{"status":"ok"}`)
	check("before ready", "/readyz", 503, `{"error":"the agent is still starting: it has not read yet what was there before it"}`)
	close(f.ready)
	check("ready", "/healthz", 200, `{"status":"ok"}`)
	check("ready", "/readyz", 200, `{"status":"ok"}`)
	f.err = errors.New("pipeline: ring is corrupt")
	for _, path := range []string{"/healthz", "/readyz"} {
		check("after the road died", path, 503, `{"error":"pipeline: ring is corrupt"}`)
	}
}

// What tells how the agent does tells nothing of what happens on the machine.
func TestProbesTellNothingElse(t *testing.T) {
	h := newServer(newFake(), Config{}).Probes()
	for _, r := range newServer(newFake(), Config{}).routes() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", strings.Replace(r.Pattern, "{id}", "1", 1), nil))
		want := 404
		if r.Pattern == "/metrics" || r.Pattern == "/healthz" || r.Pattern == "/readyz" {
			want = 200
		}
		if w.Code != want {
			t.Errorf("%s: %d, want %d", r.Pattern, w.Code, want)
		}
	}
}

// A list that is asked for while the agent starts waits for the tables.
func TestFirstAnswerIsComplete(t *testing.T) {
	f := newFake()
	f.ready = make(chan struct{})
	c, _ := listen(t, f, Config{})
	got := make(chan []string)
	go func() { got <- names(t, c.Processes(t.Context(), Question{})) }()
	select {
	case <-got:
		t.Error("answered before the tables were complete")
	case <-time.After(20 * time.Millisecond):
	}
	close(f.ready)
	if n := len(<-got); n != 3 {
		t.Errorf("%d processes, want 3", n)
	}
}

func TestStream(t *testing.T) {
	f := newFake()
	c, _ := listen(t, f, Config{})
	got := make(chan []string)
	go func() { got <- names(t, c.Events(t.Context(), Question{Filter: "proc.name = curl", Limit: 3})) }()
	s := f.stream(t, 0)
	lost := &event.Event{Seq: 9, Data: &event.Lost{Type: "lost", Count: 5}}
	f.send(f.recent...)
	f.send(lost)
	f.send(f.recent...)
	// A loss is told and does not count.
	equal(t, <-got, []string{"exec curl", "connection curl", "dns curl"})
	<-s.closed

	go func() { got <- names(t, c.Events(t.Context(), Question{})) }()
	f.stream(t, 1)
	f.mu.Lock()
	f.streams = f.streams[1:]
	f.mu.Unlock()
	f.send(f.recent[0], lost, f.recent[1])
	f.end() // of the agent: the stream ends, without an error
	equal(t, <-got, []string{"exec bash", "lost 5", "exec curl"})
}

// What says that a stream has begun is said when its hooks are there.
func TestStreamBegins(t *testing.T) {
	f := newFake()
	hooks := make(chan struct{})
	f.begun = hooks
	c, _ := listen(t, f, Config{})
	begun := make(chan struct{})
	got := make(chan []string)
	go func() {
		got <- names(t, c.Events(t.Context(), Question{Limit: 1, Begun: func() { close(begun) }}))
	}()
	f.stream(t, 0)
	select {
	case <-begun:
		t.Error("the stream has begun before its hooks are there")
	default:
	}
	close(hooks)
	<-begun
	f.send(f.recent[0])
	equal(t, <-got, []string{"exec bash"})
}

func TestFollowConnections(t *testing.T) {
	f := newFake()
	c, _ := listen(t, f, Config{})
	known, news := *f.conns[0], *f.conns[0]
	known.Seq, news.Seq = 5, 6
	// Both happen between the subscription and the list; the list tells of the
	// first already.
	f.onConns = func() { f.send(&known, &news, f.recent[0]) }
	next := make(chan string)
	go func() {
		for line, err := range c.FollowConnections(t.Context(), Question{}) {
			if err != nil {
				break
			}
			var v struct {
				Seq int `json:"evt.num"`
			}
			if err := json.Unmarshal(line, &v); err != nil {
				t.Error(err)
			}
			next <- fmt.Sprint(name(t, line), " ", v.Seq)
		}
		close(next)
	}()
	equal(t, []string{<-next, <-next}, []string{"connection curl 3", "connection curl 6"})
	f.end()
	if s, ok := <-next; ok {
		t.Errorf("one more: %s", s)
	}
}

func TestKeepAlive(t *testing.T) {
	f := newFake()
	_, path := listen(t, f, Config{KeepAlive: 5 * time.Millisecond})
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	for range 3 {
		if line, err := r.ReadString('\n'); line != "\n" || err != nil {
			t.Errorf("idle stream: %q, %v", line, err)
		}
	}
	f.send(f.recent[0])
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line != "\n" {
			equal(t, name(t, []byte(line)), "exec bash")
			break
		}
	}
	// The client goes; nothing happens; the server notices nevertheless.
	s := f.stream(t, 0)
	conn.Close()
	<-s.closed
}

// A client that stops reading is disconnected, and its subscription ends.
func TestClientStopsReading(t *testing.T) {
	f := newFake()
	_, path := listen(t, f, Config{Stall: 50 * time.Millisecond})
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	s := f.stream(t, 0)
	for {
		select {
		case s.ch <- f.recent[0]:
			continue
		case <-s.closed:
		case <-time.After(testkit.Patience):
			t.Fatal("still connected")
		}
		break
	}
	// What it got until then does not look like a whole answer.
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the end of a broken stream reads as %v", err)
	}
}

func TestTooManyStreams(t *testing.T) {
	f := newFake()
	c, _ := listen(t, f, Config{Streams: 1})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for _, err := range c.Events(ctx, Question{}) {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	}()
	s := f.stream(t, 0)
	for _, err := range c.Events(t.Context(), Question{}) {
		if e := (*Error)(nil); !errors.As(err, &e) || e.Status != 503 || e.Message != "1 streams are open already: no more are served at the same time" {
			t.Errorf("second stream: %v", err)
		}
	}
	cancel()
	<-s.closed
	f.refuse = errors.New("the pipeline has ended")
	wait(t, func() *error { // the place is free a moment after the stream has closed
		for _, err := range c.Events(t.Context(), Question{}) {
			if err.Error() == "the pipeline has ended" {
				return &err
			}
		}
		return nil
	})
}

// FuzzQuery asks everything with any query: the answer is always one of ours.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"", "filter=proc.name%3Dx", "follow=false&limit=3", "kind=exec", "filter=%", "exited", "a=b&a=c", "filter=(", "limit=999999999999999999999", "since=2h&until=1h30m", "at=14:32", "to=example.com:443&since=1d", "to=10.0.0.0/8"} {
		f.Add(s)
	}
	past := newFakeHistory(newFake().recent...)
	past.status.Oldest = time.Unix(1, 0)
	h := newServer(newFake(), Config{History: past, Policy: newTalkers().collector(true).Answer, PolicyStatus: statusOfPolicies})
	f.Fuzz(func(t *testing.T, raw string) {
		for _, r := range h.routes() {
			path := strings.Replace(r.Pattern, "{id}", "200", 1)
			if path == "/v1"+PathFiles || path == "/v1"+PathCounts {
				continue // they always follow
			}
			q := raw
			if path == "/v1/events" || path == "/v1/connections" || path == "/v1/flows" {
				q = "follow=false&" + raw
			}
			u := url.URL{Path: path, RawQuery: q}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, &http.Request{Method: "GET", URL: &u, Header: http.Header{}})
			if w.Code != 200 && w.Code != 400 && !(w.Code == 404 && strings.Contains(raw, "at=")) {
				t.Errorf("%s: %d %s", u.String(), w.Code, w.Body)
			}
			if w.Code == 400 && !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s: %s", u.String(), w.Body)
			}
		}
	})
}
