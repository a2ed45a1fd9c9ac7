package cli

import (
	"net/netip"
	"strings"
	"testing"

	"warren/api"
	"warren/cluster"
	"warren/event"
)

// flow has the day's packets judged, too.
func (m *machine) flow() {
	m.flows = api.NewFlowMemory(api.FlowsConfig{})
	podOf := func(p *event.Process) *cluster.Peer {
		return &cluster.Peer{Kind: cluster.PeerPod, Pod: p.Container.Pod}
	}
	front, cart := podOf(m.webapp), podOf(m.memfd)
	db := &cluster.Peer{Kind: cluster.PeerPod, Pod: &cluster.Pod{Namespace: "shop", Name: "db-0", UID: "db", Node: "node-2"}}
	world := &cluster.Peer{Kind: cluster.PeerWorld}
	base := event.Flow{
		Socket: event.Socket{Local: netip.MustParseAddr("10.1.0.7"), LocalPort: 40312, Remote: netip.MustParseAddr("10.1.1.4"), RemotePort: 5432, L4: event.TCP, RemotePeer: db},
		Type:   "flow_new", Verdict: event.Forwarded, Start: at(2_000), Last: at(2_000), PacketsSent: 1, BytesSent: 60, FlagsSent: event.SYN,
		Identity: 17, RemoteIdentity: 23, Interface: "wrn1a2b3c4d5e6f", LocalPeer: front,
		Policy: event.NewFlowPolicy(event.FlowPolicy{Kind: "NetworkPolicy", Namespace: "shop", Name: "allow-frontend", Tier: cluster.NetworkTier, Rule: 1}),
	}
	seq := uint64(len(m.events))
	add := func(ago int, p *event.Process, change func(*event.Flow)) {
		f := base
		change(&f)
		seq++
		e := &event.Event{Time: at(ago), Ktime: ktime(at(ago)), Seq: seq, Process: p, Data: &f}
		if p != nil {
			e.Actor = p.Key
		}
		m.flows.Add(e)
	}
	denied := func(f *event.Flow, reason event.DropReason) {
		f.Type, f.Verdict, f.Reason, f.Policy, f.PacketsDropped = "flow_drop", event.Dropped, reason, nil, 1
		f.PacketsSent, f.BytesSent = 0, 0
	}
	add(2_000, m.webapp, func(f *event.Flow) {
		f.Service = &cluster.Service{Namespace: "shop", Name: "db"}
	})
	add(1_990, m.webapp, func(f *event.Flow) {
		f.Type, f.FlagsSent, f.FlagsReceived = "flow_update", event.SYN|event.ACK, event.SYN|event.ACK
		f.PacketsSent, f.PacketsReceived, f.BytesSent, f.BytesReceived, f.Last = 12, 10, 1800, 64_000, at(1_990)
	})
	add(1_500, nil, func(f *event.Flow) { // nobody is known to listen
		denied(f, event.PolicyDefault)
		f.Local, f.LocalPort, f.Remote, f.RemotePort, f.Server = netip.MustParseAddr("10.1.0.9"), 8080, netip.MustParseAddr("10.1.0.7"), 51112, true
		f.LocalPeer, f.RemotePeer, f.Identity, f.RemoteIdentity = cart, front, 23, 17
		f.Nearest = "shop/allow-frontend differs in port 8080"
	})
	add(1_400, m.memfd, func(f *event.Flow) {
		denied(f, event.PolicyDenied)
		f.LocalPeer, f.RemotePeer, f.Local, f.LocalPort, f.Remote, f.RemotePort, f.L4 = cart, world, netip.MustParseAddr("fd00::9"), 3000, netip.MustParseAddr("2001:db8::2"), 53, event.UDP
		f.FlagsSent = 0
		f.Policy = event.NewFlowPolicy(event.FlowPolicy{Kind: "ClusterNetworkPolicy", Name: "no-world\x1b[31m", Tier: cluster.AdminTier, RuleName: "deny-all"})
	})
	add(1_300, nil, func(f *event.Flow) {
		denied(f, event.SpoofedSource)
		f.Remote, f.RemotePort, f.L4, f.ICMP, f.ICMPType, f.LocalPort, f.FlagsSent, f.RemotePeer = netip.MustParseAddr("10.9.9.9"), 0, 1, true, 8, 0, 0, nil
	})
	m.flows.Add(&event.Event{Time: at(1_200), Seq: seq + 1, Data: &event.Lost{Type: "lost", Count: 17, What: "flow.new", Lane: "ring"}})
	seq++
	add(1_000, m.memfd, func(f *event.Flow) {
		f.Verdict, f.Reason, f.Policy = event.Audit, event.PolicyDefault, nil
		f.LocalPeer, f.Local = cart, netip.MustParseAddr("10.1.0.9")
	})
}

// TestFlowFlags holds what the flags of flows make of what people type.
func TestFlowFlags(t *testing.T) {
	var f flowSelection
	set := func(name string, fn func(string) error, value, complaint string) {
		t.Helper()
		switch err := fn(value); {
		case err == nil && complaint != "":
			t.Errorf("%s %q is taken", name, value)
		case err != nil && (complaint == "" || !strings.Contains(err.Error(), complaint)):
			t.Errorf("%s %q: %v", name, value, err)
		}
	}
	verdict := f.oneOf("flow.verdict", event.Verdicts())
	set("--verdict", verdict, "Dropped, audit", "")
	set("--verdict", verdict, "denied", "takes forwarded, dropped, audit")
	set("--verdict", verdict, "", "takes forwarded")
	set("--protocol", f.protocols, "TCP,132,ICMPv6,47", "")
	set("--protocol", f.protocols, "256", "a number up to 255")
	set("--protocol", f.protocols, "0", "a number up to 255")
	set("--protocol", f.protocols, "tcp or true", "not")
	set("--port", f.ports, "80,443", "")
	set("--port", f.ports, "0", "ports from 1 to 65535")
	set("--port", f.ports, "65536", "ports from 1 to 65535")
	set("--pod", f.pods, "db-0,shop/cart", "")
	set("--pod", f.pods, "shop/", "NAMESPACE/NAME")
	set("--pod", f.pods, "a b", "NAMESPACE/NAME")
	set("--pod", f.pods, "a/b/c", "NAMESPACE/NAME")
	want := []string{
		"(flow.verdict = dropped or flow.verdict = audit)",
		"(fd.l4proto = tcp or fd.l4proto = sctp or fd.l4proto = icmp6 or fd.l4proto = 47)",
		"(fd.port = 80 or fd.port = 443)",
	}
	for i, w := range want {
		if i >= len(f.conditions) || f.conditions[i] != w {
			t.Fatalf("conditions %q, want %q first", f.conditions, want)
		}
	}
	if len(f.conditions) != 4 || !strings.Contains(f.conditions[3], `k8s.remote.pod.name startswith`) || !strings.Contains(f.conditions[3], " and k8s.ns.name = ") {
		t.Errorf("pods %q", f.conditions[3:])
	}
}
