package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"warren/api"
	"warren/cluster"
	"warren/event"
)

// hostile is an agent that was told the same text by every process: it is the
// value of each field that is a string.
type hostile struct{ text string }

func (h hostile) record(k event.Kind, typ string) []byte {
	r := map[string]any{}
	for _, f := range event.Fields() {
		if !f.Has(k) || f.Virtual {
			continue
		}
		var v any
		switch f.Type {
		case event.String, event.IP, event.Net:
			v = h.text
		case event.Bool:
			v = true
		case event.Time:
			v = at(5000)
		default:
			v = 70001
		}
		name := f.Name
		if f.Arg == event.KeyArg {
			name += "[" + h.text + "]"
		}
		if f.Many != event.One {
			v = []any{v, v, nil}
		}
		r[name] = v
	}
	r["evt.kind"], r["evt.type"] = k.String(), typ
	line, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return line
}

func (h hostile) lines(kinds event.KindSet) api.Lines {
	return func(yield func([]byte, error) bool) {
		for _, k := range kinds.List() {
			for _, typ := range append(slices.Clone(k.Types()), h.text) {
				if !yield(h.record(k, typ), nil) {
					return
				}
			}
		}
	}
}

func (h hostile) Events(context.Context, api.Question) api.Lines { return h.lines(event.AllKinds) }
func (h hostile) Recent(context.Context, api.Question) api.Lines { return h.lines(event.AllKinds) }
func (h hostile) Processes(context.Context, api.Question) api.Lines {
	return h.lines(event.Kinds(event.KindProcess))
}
func (h hostile) Connections(context.Context, api.Question) api.Lines {
	return h.lines(event.Kinds(event.KindConnection))
}
func (h hostile) FollowConnections(context.Context, api.Question) api.Lines {
	return h.lines(event.Kinds(event.KindConnection, event.KindLost))
}

func (h hostile) Flows(context.Context, api.Question) api.Lines {
	return h.lines(event.Kinds(event.KindFlow))
}
func (h hostile) FollowFlows(context.Context, api.Question) api.Lines {
	return h.lines(event.Kinds(event.KindFlow, event.KindLost))
}

func (h hostile) CountEvents(context.Context, api.CountQuestion) api.Lines {
	return func(yield func([]byte, error) bool) {
		line, err := json.Marshal(api.Counts{By: []string{h.text}, Rows: []api.CountRow{{Values: []*string{&h.text}, Count: 1}, {Values: []*string{nil, &h.text}}, {}}, Lost: 1, Other: 1})
		yield(line, err)
	}
}

func (h hostile) WatchFile(context.Context, api.FileQuestion) api.Lines {
	return h.lines(event.AllKinds)
}

func (h hostile) Process(context.Context, string, ...string) ([]byte, error) {
	p := h.record(event.KindProcess, "process")
	text, err := json.Marshal(h.text)
	if err != nil {
		return nil, err
	}
	row := `[` + string(p) + `]`
	s := string(text)
	return []byte(string(p[:len(p)-1]) + `,"ancestors":` + row + `,"children":` + row + `,"connections":[` + string(h.record(event.KindConnection, "close")) + `],"others":[` + s +
		`],"proc":{"state":` + s + `,"threads":3,"rss_bytes":1,"cwd":` + s + `,"root":` + s + `,"seccomp":` + s + `,"files":[{"fd":1,"target":` + s + `,"type":` + s + `,"flags":` + s + `,"pos":7,"path_error":` + s + `},{"fd":2,"target":` + s + `,"socket":{"state":` + s + `}}],"files_open":9,"unreadable":[` + s + `]}}`), nil
}

func (h hostile) Map(context.Context, api.MapQuestion) (api.Map, error) {
	x := h.text
	kinds := []api.MapKind{api.MapWorkload, api.MapService, api.MapContainer, api.MapProcess, api.MapHost, api.MapName, api.MapAddress, api.MapWorld, api.MapKind(x)}
	m := api.Map{Reporters: []string{x}, Total: 3, Missing: []string{x}, Lost: 1, Forgotten: 1}
	for i, k := range kinds {
		m.Nodes = append(m.Nodes, api.MapNode{ID: strconv.Itoa(i) + x, Kind: k, Namespace: x, Name: x, Workload: x, Services: []string{x}, Backends: []string{x, "a/" + x}})
		m.Edges = append(m.Edges, api.MapEdge{From: strconv.Itoa(i) + x, To: strconv.Itoa((i*i+1)%len(kinds)) + x, Protocol: x, SeenBy: x, Failed: 1, Errors: map[string]uint64{x: 1}, RTT: &api.MapRTT{Mean: 1}})
	}
	m.Edges = append(m.Edges, api.MapEdge{From: "nobody" + x, To: x})
	return m, nil
}

func (h hostile) PolicyStatus(context.Context, api.PolicyStatusQuestion) (api.PolicyStatus, error) {
	x := h.text
	p := api.NetworkPolicy{UID: x, Tier: x, Namespace: x, Name: x, Generation: -1, Endpoints: -2, Audited: -3, Failed: []string{x, x}, Problems: []string{x, x}}
	node := api.NodePolicies{Node: x, Mode: x, Waiting: x, Error: x, Policies: []api.NetworkPolicy{p, {}}}
	return api.PolicyStatus{Total: -1, Missing: []string{x}, Nodes: []api.NodePolicies{node, {Mode: api.ModeOff}, {Node: x, Error: x}}}, nil
}

func (h hostile) Policy(context.Context, api.PolicyQuestion) (api.PolicyReport, error) {
	x := h.text
	addrs := []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	pod := api.PolicyPod{UID: x, Name: "pod" + x, Namespace: "shop", Node: x, Labels: map[string]string{x: x}, Addrs: addrs, Workload: cluster.Workload{Kind: x, Name: "victim"}}
	other := api.PolicyPod{UID: "2" + x, Name: x, Namespace: x, Labels: map[string]string{"app": x}, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}
	sel := cluster.Selector{Equal: map[string]string{x: x}, Rules: []cluster.SelectorRule{{Key: x, Op: cluster.OpExists}}}
	policy := &cluster.Policy{UID: x, Namespace: "shop", Name: x, Tier: cluster.NetworkTier, Subject: cluster.PolicySubject{Pods: sel}, IsolatesIngress: true, IsolatesEgress: true, Problems: []string{x},
		Ingress: []cluster.PolicyRule{{Name: x, Action: cluster.AllowAction, Peers: []cluster.PolicyPeer{{Pods: &sel, Namespaces: &sel}}, Ports: []cluster.PolicyPort{{Protocol: "tcp", Name: x}}}}}
	party := func(addr netip.Addr, uid string) api.PolicyParty { return api.PolicyParty{Addr: addr, Pod: uid} }
	return api.PolicyReport{
		Source: x, Reporters: []string{x}, Total: 2, Missing: []string{x}, Lost: 1, Forgotten: 1, Partial: []string{x}, Pods: []api.PolicyPod{pod, other},
		Nodes: []api.PolicyNode{{Name: x}}, Namespaces: map[string]map[string]string{"shop": {x: x}}, Policies: []*cluster.Policy{policy, nil},
		Talk: []api.PolicyTalk{
			{From: party(addrs[0], pod.UID), To: party(other.Addrs[0], other.UID), Protocol: 6, Port: 1, Count: 1, SeenBy: x},
			{From: party(addrs[0], pod.UID), To: party(other.Addrs[0], other.UID), Protocol: 1, Count: 1, SeenBy: x},
			{From: party(netip.Addr{}, ""), To: party(addrs[0], pod.UID), Protocol: 6, Port: 1, Count: 1, SeenBy: x},
		},
	}, nil
}

// hostileHub is a hub whose agents are hostile.
type hostileHub struct{ hostile }

func (h hostileHub) Status(ctx context.Context, _ ...string) ([]byte, error) {
	agent, err := h.hostile.Status(ctx)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(h.text)
	if err != nil {
		return nil, err
	}
	s := string(text)
	return []byte(`{"hub":{"version":` + s + `,"nodes_total":3,"nodes_missing":[` + s + `]},"nodes":[{"node":` + s + `,"pod":` + s + `,"version":` + s + `,"error":` + s + `,"status":` + string(agent) + `}]}`), nil
}

func (h hostile) Status(context.Context, ...string) ([]byte, error) {
	x := h.text
	st := api.Status{
		History: &api.HistoryStatus{Dir: x, Filter: x, Error: x, Segments: []api.HistorySegments{{Kind: x}}},
		Alerts:  &api.Alerts{Lost: 1, Channels: []api.AlertChannel{{Name: x, Type: x, To: x, Error: x, DiskError: x, DeadFile: x, Damaged: 1, FailingSince: time.Unix(1, 0)}, {Name: x, Error: x}}},
		Changes: &api.Changes{File: x, Refused: x, Restart: []string{x}},
		Rules:   &api.Rules{Refused: x, Rules: []api.RuleState{{Name: x, Priority: x, Matches: 1}}},
		Version: x, Instance: x, Hostname: x, BootID: x, Kernel: x, Lockdown: x, StateDir: x, Listen: []string{x},
		Capabilities: []api.Cap{{Name: x, For: x}},
		Sensors:      []api.Sensor{{Name: x, Running: true, Kinds: []string{x}, Error: x, Hooks: []api.Hook{{Name: x, Purpose: x, Rung: x, Target: x, Error: x, Refused: []api.Refusal{{Rung: x, Reason: x}}}, {Name: x, Error: x}}}},
		Kinds:        []api.Kind{{Kind: x}}, Records: []api.Record{{Record: x, Lane: x}}, Losses: []api.Loss{{Lane: x, Kind: x, Count: 1}},
		Rings: []api.Ring{{Lane: x}}, Reader: api.Reader{LastError: x}, Tables: []api.Table{{Name: x}}, Subscriptions: []api.Subscription{{Name: x, Unnamed: 1, Filter: x, Kinds: []string{x}}},
	}
	return json.Marshal(st)
}

func (h hostile) Who(context.Context, api.WhoQuestion) (api.Who, error) {
	x := h.text
	return api.Who{
		To: "x.example", NoHistory: x, Failing: x, Addresses: []api.WhoAddress{{Address: x, Name: x}}, Missing: []string{x}, Total: 1, Lost: 1, More: 1,
		Rows: []api.WhoRow{{
			Node: x, Name: x, ExePath: x, User: x, LoginName: x, Container: x, ContainerID: x, Image: x, Namespace: x, Pod: x, Unit: x, Direction: x, ExecID: x, Cmdline: x, Failed: 1,
			Ancestry: []api.WhoAncestor{{Name: x, ExePath: x, ExecID: x, Cmdline: x}}, Ends: []string{"tcp " + x + " " + x, x, x},
		}},
	}, nil
}

func (h hostile) History(context.Context) ([]byte, error) {
	x := h.text
	return json.Marshal(api.HistoryStatus{Dir: x, Filter: x, Error: x, Lost: 1, Torn: 1, Broken: 1, Kinds: []string{x}, Segments: []api.HistorySegments{{Kind: x}}})
}

func (hostile) ExportHistory(context.Context, api.Question) (io.ReadCloser, error) {
	return nil, errStop
}
func (h hostile) TestAlert(context.Context, string) (api.AlertTested, error) {
	return api.AlertTested{Channel: h.text}, nil
}
func (h hostile) Rules(context.Context) (api.RuleFiles, error) {
	return api.RuleFiles{Files: []api.RuleFile{{Name: h.text, Text: h.text}}}, nil
}
func (hostile) PruneHistory(context.Context, time.Time) (api.Pruned, error) {
	return api.Pruned{}, errStop
}

// FuzzTerminal has every command show a machine whose every text is hostile:
// nothing that a terminal would obey comes out.
func FuzzTerminal(f *testing.F) {
	for i, s := range []string{"", "plain", "\x1b[2J\x1b]0;x\a", "two\nlines\r", "\u202egpj.exe", "\u009b31m", "\xff\xfe\x80", "漢字漢字漢字漢字漢字漢字漢字", "a'b\\c", "fe80::1", "\U000e0041\u200b", strings.Repeat("x", 300), "-1", "SUCCESS"} {
		f.Add(s, []uint8{0, 60, 200}[i%3])
	}
	commands := []string{"events", "events -o wide", "events -o json", "events -c evt.time,proc.name,proc.argv,proc.aname[1],fd.rip,lost.kind", "process list --exited --kernel", "process list -o wide", "process tree --kernel",
		"process show 1", "process show 1 -o json", "connection list", "connection list -f", "connection list -o wide", "flows", "flows -o wide", "flows -f", "status", "status -o wide", "status -o json",
		"events -A", "process list -A", "events -c k8s.pod.labels", "map", "map -o wide", "map -o dot", "map -o json",
		"alert list", "alert list -o wide", "alert list -o json", "alert show abc", "alert test abc", "who 1.2.3.4", "who x.example -o wide", "who x.example -o json", "who 1.2.3.4 -A", "history status", "history status -o json", "history export", "events --since 1d", "connection list --since 1d", "process tree --at 1d --kernel",
		"policy status", "policy status -o wide", "policy status -o json", "policy suggest -n shop", "policy test -n shop --from victim --to 10.0.0.2:80", "policy test -n shop --from victim --to 10.0.0.2:80 -o json", "policy explain -n shop victim",
		"policy explain -n shop victim -o dot", "policy explain -n shop victim -o json", "policy diff -n shop -", "policy diff -n shop - -o json"}
	f.Fuzz(func(t *testing.T, text string, columns uint8) {
		for _, command := range commands {
			var out bytes.Buffer
			env := testEnv(&out, hostile{text})
			env.Terminal, env.Width = true, func() int { return int(columns) }
			env.Stdin = strings.NewReader("")
			env.Policies = func([]byte, string) ([]*cluster.Policy, error) {
				return []*cluster.Policy{{Namespace: "shop", Name: text, Tier: cluster.NetworkTier, IsolatesEgress: true, Problems: []string{text}}}, nil
			}
			env.Getenv = func(name string) string {
				return map[string]string{"LC_ALL": "C.UTF-8", "NO_COLOR": "1"}[name]
			}
			for _, env.Kubectl = range []bool{false, true} {
				env.Cluster = func(ClusterOptions) (Agent, string, error) { return hostileHub{hostile{text}}, "default", nil }
				Main(t.Context(), env, strings.Fields(command))
			}
			for line := range strings.Lines(out.String()) {
				if bad := harmless(strings.TrimSuffix(line, "\n")); bad != "" {
					t.Fatalf("warren %s shows %s of %q: %q", command, bad, text, line)
				}
			}
		}
	})
}

// TestPaintedTextIsSafe: a colour that was in the text is not ours.
func TestPaintedTextIsSafe(t *testing.T) {
	var out bytes.Buffer
	env := testEnv(&out, hostile{red + "x" + reset})
	env.Terminal, env.Width = true, func() int { return 0 }
	if code := Main(t.Context(), env, []string{"events", "-o", "wide"}); code != exitFailed {
		t.Fatalf("exit code %d", code)
	}
	if !strings.Contains(out.String(), `\x1b[31mx\x1b[0m`) {
		t.Errorf("the text is not to be seen: %s", out.String()[:200])
	}
	out.Reset()
	env.Terminal = false
	if Main(t.Context(), env, []string{"events"}); strings.Contains(out.String(), "\x1b") {
		t.Error("a pipe gets escapes")
	}
}

func BenchmarkEventRow(b *testing.B) {
	var line []byte
	for _, e := range newMachine().events {
		if e.Data.Kind() == event.KindExec {
			line = event.AppendJSON(nil, e)
			break
		}
	}
	et := newEventTable(testEnv(io.Discard, nil), &answerer{}, false)
	tab := et.open(io.Discard)
	b.ReportAllocs()
	var r record
	for b.Loop() {
		if err := r.parse(line); err != nil {
			b.Fatal(err)
		}
		if err := tab.row(et.row(&r)); err != nil {
			b.Fatal(err)
		}
	}
}
