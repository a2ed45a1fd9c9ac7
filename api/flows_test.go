package api

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"warren/cluster"
	"warren/event"
)

// sampleFlow is a connection of a pod of the shop to its database.
func sampleFlow() *event.Flow {
	pod := func(ns, name string) *cluster.Peer {
		return &cluster.Peer{Kind: cluster.PeerPod, Pod: &cluster.Pod{Namespace: ns, Name: name, UID: "uid-" + name, Labels: map[string]string{"app": name}}}
	}
	return &event.Flow{
		Socket: event.Socket{Local: netip.MustParseAddr("10.0.0.1"), Remote: netip.MustParseAddr("10.0.0.2"), LocalPort: 40000, RemotePort: 5432, L4: event.TCP, RemotePeer: pod("shop", "db")},
		Type:   "flow_new", Verdict: event.Forwarded,
		Policy: event.NewFlowPolicy(event.FlowPolicy{Kind: "NetworkPolicy", Namespace: "shop", Name: "allow-frontend", Tier: cluster.NetworkTier, Rule: 1, Peers: true, Ports: true}),
		Start:  time.Unix(1e9, 0), Last: time.Unix(1e9, 5), PacketsSent: 1, BytesSent: 60, FlagsSent: event.SYN,
		Identity: 7, RemoteIdentity: 9, Interface: "veth1", Ifindex: 12, LocalPeer: pod("shop", "frontend"),
	}
}

// deniedFlow is one that no rule allows, seen from the server.
func deniedFlow() *event.Flow {
	f := sampleFlow()
	f.Local, f.Remote, f.LocalPort, f.RemotePort, f.Server = f.Remote, f.Local, f.RemotePort, f.LocalPort, true
	f.LocalPeer, f.RemotePeer = f.RemotePeer, f.LocalPeer
	f.Identity, f.RemoteIdentity = f.RemoteIdentity, f.Identity
	f.PacketsSent, f.BytesSent, f.FlagsSent = 0, 0, 0
	f.FlagsReceived, f.PacketsDropped = event.SYN, 3
	f.Type, f.Verdict, f.Reason, f.Policy = "flow_drop", event.Dropped, event.PolicyDefault, nil
	f.Nearest = "shop/allow-frontend differs in port 8080"
	return f
}

func sampleFlows(f *fake) *FlowMemory {
	m := NewFlowMemory(FlowsConfig{Forwarded: 2, Dropped: 2})
	for i, d := range []event.Data{sampleFlow(), deniedFlow(), &event.Lost{Type: "lost", Count: 4, What: "flow.new", Lane: "ring"}} {
		e := &event.Event{Time: time.Unix(1e9, int64(i)), Seq: uint64(10 + i), Data: d}
		if i == 0 {
			e.Process, e.Actor = f.procs[3], f.procs[3].Key
		}
		m.Add(e)
	}
	return m
}

// TestFlowMemory holds that what was dropped outlives what was forwarded, and
// that order is kept between both.
func TestFlowMemory(t *testing.T) {
	m := NewFlowMemory(FlowsConfig{Forwarded: 2, Dropped: 2})
	for seq := uint64(1); seq <= 20; seq++ {
		d := sampleFlow()
		if seq%8 == 0 {
			d = deniedFlow()
		}
		m.Add(&event.Event{Seq: seq, Time: time.Unix(int64(seq), 0), Data: d})
		m.Add(&event.Event{Seq: 100 + seq, Data: &event.Lost{What: "socket.tcp", Lane: "bulk"}}) // of others
		m.Add(&event.Event{Seq: 200 + seq, Data: &event.DNS{}})
	}
	var got []uint64
	for _, e := range m.Recent() {
		got = append(got, e.Seq)
	}
	if want := []uint64{8, 16, 19, 20}; len(got) != 4 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] || got[3] != want[3] {
		t.Errorf("remembered %v, want %v", got, want)
	}
	if s := m.Stats(); s.Flows != 4 || s.MaxFlows != 4 || s.Seen != 20 || !s.Oldest.Equal(time.Unix(8, 0)) || s.Bytes == 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestPastFlows(t *testing.T) {
	f := newFake()
	c, _ := listen(t, f, Config{})
	rows := func(q Question) (out []map[string]any) {
		t.Helper()
		for line, err := range c.Flows(t.Context(), q) {
			if err != nil {
				t.Fatal(err)
			}
			row := map[string]any{}
			if err := json.Unmarshal(line, &row); err != nil {
				t.Fatal(err)
			}
			out = append(out, row)
		}
		return out
	}
	all := rows(Question{})
	if len(all) != 3 || all[0]["flow.policy"] != "shop/allow-frontend" || all[0]["flow.rule"] != "2" || all[0]["flow.policy_tier"] != "Network" ||
		all[0]["proc.name"] != "curl" || all[0]["k8s.pod.name"] != "frontend" || all[0]["k8s.remote.pod.name"] != "db" || all[0]["flow.direction"] != "egress" ||
		all[0]["flow.tcp_flags_sent"] != "SYN" {
		t.Errorf("flows %v", all)
	}
	if all[1]["flow.verdict"] != "dropped" || all[1]["flow.drop_reason"] != "policy_default" || all[1]["flow.nearest"] != "shop/allow-frontend differs in port 8080" ||
		all[1]["flow.direction"] != "ingress" || all[1]["k8s.pod.name"] != "db" || all[1]["flow.packets_dropped"] != 3.0 || all[1]["flow.policy"] != nil {
		t.Errorf("dropped %v", all[1])
	}
	if got := rows(Question{Filter: "flow.verdict = dropped and k8s.ns.name = shop and fd.sport = 5432", Limit: 1}); len(got) != 2 || got[0]["evt.num"] != 11.0 || got[1]["evt.kind"] != "lost" {
		t.Errorf("dropped ones %v", got)
	}
	for _, err := range c.Flows(t.Context(), Question{Filter: "dns.name = x"}) {
		if e := (*Error)(nil); !errors.As(err, &e) || e.Status != 400 || !strings.Contains(e.Message, "no flow can match") {
			t.Errorf("a filter of something else: %v", err)
		}
	}
}

func TestFollowFlows(t *testing.T) {
	f := newFake()
	c, _ := listen(t, f, Config{})
	got := make(chan string, 1)
	go func() {
		defer close(got)
		for line, err := range c.FollowFlows(t.Context(), Question{Limit: 1, Filter: "flow.verdict = dropped"}) {
			if err != nil {
				t.Error(err)
			}
			got <- string(line)
		}
	}()
	s := f.stream(t, 0)
	if s.kinds != event.Kinds(event.KindFlow) {
		t.Errorf("subscribed to %v", s.kinds)
	}
	s.ch <- &event.Event{Seq: 20, Time: time.Unix(1e9, 7), Data: deniedFlow()}
	if line := <-got; !strings.Contains(line, `"evt.num":20`) {
		t.Errorf("followed %s", line)
	}
	if line, more := <-got; more {
		t.Errorf("and then %s", line)
	}
}

// TestNoFlows holds what an agent without a datapath says.
func TestNoFlows(t *testing.T) {
	f := newFake()
	s := New(Config{}, f, f, f, slog.New(slog.DiscardHandler))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/v1/flows", nil))
	var e Error
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != 503 || !strings.Contains(e.Message, "does not connect pods") || !strings.Contains(e.Hint, "warren connection list") {
		t.Errorf("without a datapath: %d %s", w.Code, w.Body)
	}
}

// TestFlowMetrics holds that packets are counted by a few words.
func TestFlowMetrics(t *testing.T) {
	f := newFake()
	f.status.Flows = &FlowsState{Flows: 1, Events: []FlowEventCount{{"new", 9, 1}}, Begun: 6, Ended: 3, Quiet: 5}
	f.status.Network = &Network{Evicted: 2, Unflowed: 4, Packets: []NetworkPackets{{"egress", "denied", "denied by policy", 5, 6}, {"ingress", "allowed", "", 7, 8}}}
	w := httptest.NewRecorder()
	newServer(f, Config{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/metrics", nil))
	for _, want := range []string{
		`warren_packets_total{direction="egress",reason="denied by policy",verdict="denied"} 5`,
		`warren_packet_bytes_total{direction="egress",reason="denied by policy",verdict="denied"} 6`,
		`warren_packets_total{direction="ingress",reason="",verdict="allowed"} 7`,
		`warren_flow_events_total{kind="new"} 9`, `warren_flow_events_lost_total{kind="new"} 1`, `warren_flows_remembered 1`, `warren_flows_evicted_total 2`,
		`warren_flows_begun_total 6`, `warren_flows_ended_total 3`, `warren_packets_without_flow_total 4`, `warren_drops_untold_total 5`,
	} {
		if !strings.Contains(w.Body.String(), "\n"+want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	f.status.Flows, f.status.Network = nil, nil
	w = httptest.NewRecorder()
	newServer(f, Config{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/metrics", nil))
	if strings.Contains(w.Body.String(), "warren_packets_total") || w.Code != 200 {
		t.Errorf("packets are counted without a datapath (%d)", w.Code)
	}
}
