package api

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"warren/cluster"
	"warren/event"
)

func flowsOf(t *testing.T, e *event.Event) []*flowpb.Flow {
	t.Helper()
	teller := flowTeller{node: "node-1", self: "node-1", cluster: DefaultCluster}
	r := newFlowRecord(e)
	if r == nil {
		t.Fatal("no flow")
	}
	flows := teller.append(nil, r)
	if len(flows) != r.flows {
		t.Errorf("%d flows, counted as %d", len(flows), r.flows)
	}
	return flows
}

// TestVerdictFlows holds what clients of Hubble are told of what the datapath
// decides.
func TestVerdictFlows(t *testing.T) {
	front := &cluster.Peer{Kind: cluster.PeerPod, Pod: frontPod}
	cart := &cluster.Peer{Kind: cluster.PeerPod, Pod: cartPod}
	allow := event.NewFlowPolicy(event.FlowPolicy{Kind: "NetworkPolicy", Namespace: "shop", Name: "allow-frontend", UID: "p1", Tier: cluster.NetworkTier, Rule: 1, Peers: true, Ports: true})
	admin := event.NewFlowPolicy(event.FlowPolicy{Kind: "ClusterNetworkPolicy", Name: "no-world", Tier: cluster.AdminTier, RuleName: "deny-all"})
	start := time.Unix(1e9, 0)
	base := event.Flow{
		Socket: event.Socket{Local: netip.MustParseAddr("10.0.0.1"), LocalPort: 40000, Remote: netip.MustParseAddr("10.0.0.2"), RemotePort: 8080, L4: event.TCP, RemotePeer: cart},
		Type:   "flow_new", Verdict: event.Forwarded, Policy: allow, Start: start, Last: start, FlagsSent: event.SYN, LocalPeer: front, Interface: "wrn1", Ifindex: 12,
	}
	for _, test := range []struct {
		name   string
		change func(*event.Flow)
		proc   *event.Process
		want   []string
	}{
		{"allowed by a rule", func(f *event.Flow) { f.Service = &cluster.Service{Namespace: "shop", Name: "cart"} }, processIn(frontPod), []string{
			"EGRESS TRACE_REASON_UNKNOWN TCP[SYN] 10.0.0.1:40000 [labels shop/front-1 Deployment/front] -> 10.0.0.2:8080 [labels shop/cart-1 StatefulSet/cart shop.cart] 5:2 UNKNOWN_POINT FORWARDED (TCP Flags: SYN; allowed by shop/allow-frontend rule 2)",
			"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [labels shop/front-1 Deployment/front] -> 10.0.0.2:8080 [labels shop/cart-1 StatefulSet/cart shop.cart] 4:5 FROM_ENDPOINT FORWARDED (TCP Flags: SYN; allowed by shop/allow-frontend rule 2)",
		}},
		{"no policy", func(f *event.Flow) { f.Policy = nil }, nil, []string{
			"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [labels shop/front-1 Deployment/front] -> 10.0.0.2:8080 [labels shop/cart-1 StatefulSet/cart] 4:5 FROM_ENDPOINT FORWARDED (TCP Flags: SYN)",
		}},
		{"answered", func(f *event.Flow) {
			f.Type, f.Reply, f.FlagsReceived, f.BytesSent, f.BytesReceived = "flow_update", true, event.SYN|event.ACK, 60, 52
		}, nil, []string{
			"EGRESS reply REPLY TCP[SYN ACK] 10.0.0.2:8080 [labels shop/cart-1 StatefulSet/cart] -> 10.0.0.1:40000 [labels shop/front-1 Deployment/front] 4:0 TO_ENDPOINT FORWARDED (TCP Flags: SYN, ACK; allowed by shop/allow-frontend rule 2; 60 B sent, 52 B received)",
		}},
		{"ended", func(f *event.Flow) {
			f.Type, f.Last, f.FlagsSent, f.PacketsDropped = "flow_close", start.Add(1500*time.Millisecond), event.SYN|event.ACK|event.FIN, 3
		}, nil, []string{
			"EGRESS ESTABLISHED TCP[FIN SYN ACK] 10.0.0.1:40000 [labels shop/front-1 Deployment/front] -> 10.0.0.2:8080 [labels shop/cart-1 StatefulSet/cart] 4:5 FROM_ENDPOINT FORWARDED (TCP Flags: FIN, SYN, ACK; allowed by shop/allow-frontend rule 2; ended after 1.5s; 0 B sent, 0 B received, 3 packets dropped)",
		}},
		{"no rule", func(f *event.Flow) {
			f.Local, f.LocalPort, f.Remote, f.RemotePort, f.Server, f.LocalPeer, f.RemotePeer = f.Remote, f.RemotePort, f.Local, f.LocalPort, true, cart, front
			f.Type, f.Verdict, f.Reason, f.Policy, f.Nearest = "flow_drop", event.Dropped, event.PolicyDefault, nil, "shop/allow-frontend differs in port 8080"
			f.FlagsSent, f.FlagsReceived = 0, event.SYN
		}, nil, []string{
			"INGRESS TRACE_REASON_UNKNOWN TCP[SYN] 10.0.0.1:40000 [labels shop/front-1 Deployment/front] -> 10.0.0.2:8080 [labels shop/cart-1 StatefulSet/cart] 5:1 UNKNOWN_POINT DROPPED (TCP Flags: SYN; no rule matched; nearest: shop/allow-frontend differs in port 8080)",
			"INGRESS TRACE_REASON_UNKNOWN TCP[SYN] 10.0.0.1:40000 [labels shop/front-1 Deployment/front] -> 10.0.0.2:8080 [labels shop/cart-1 StatefulSet/cart] 1:133 UNKNOWN_POINT DROPPED (TCP Flags: SYN; no rule matched; nearest: shop/allow-frontend differs in port 8080)",
		}},
		{"denied by a rule", func(f *event.Flow) {
			f.Type, f.Verdict, f.Reason, f.Policy, f.L4, f.RemotePeer, f.Remote = "flow_drop", event.Dropped, event.PolicyDenied, admin, event.UDP, &cluster.Peer{Kind: cluster.PeerWorld}, netip.MustParseAddr("2001:db8::1")
			f.Local = netip.MustParseAddr("fd00::1")
		}, nil, []string{
			"EGRESS TRACE_REASON_UNKNOWN UDP[] fd00::1:40000 [labels shop/front-1 Deployment/front] -> 2001:db8::1:8080 [reserved:world] 5:2 UNKNOWN_POINT DROPPED (UDP; denied by no-world rule deny-all)",
			"EGRESS TRACE_REASON_UNKNOWN UDP[] fd00::1:40000 [labels shop/front-1 Deployment/front] -> 2001:db8::1:8080 [reserved:world] 1:181 UNKNOWN_POINT DROPPED (UDP; denied by no-world rule deny-all)",
		}},
		{"audit", func(f *event.Flow) { f.Verdict, f.Reason, f.Policy = event.Audit, event.PolicyDefault, nil }, nil, []string{
			"EGRESS TRACE_REASON_UNKNOWN TCP[SYN] 10.0.0.1:40000 [labels shop/front-1 Deployment/front] -> 10.0.0.2:8080 [labels shop/cart-1 StatefulSet/cart] 5:2 UNKNOWN_POINT AUDIT (TCP Flags: SYN; would be dropped: no rule matched)",
			"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [labels shop/front-1 Deployment/front] -> 10.0.0.2:8080 [labels shop/cart-1 StatefulSet/cart] 4:5 FROM_ENDPOINT AUDIT (TCP Flags: SYN; would be dropped: no rule matched)",
		}},
		{"another's address", func(f *event.Flow) {
			f.Type, f.Verdict, f.Reason, f.Policy = "flow_drop", event.Dropped, event.SpoofedSource, nil
		}, nil, []string{
			"EGRESS TRACE_REASON_UNKNOWN TCP[SYN] 10.0.0.1:40000 [labels shop/front-1 Deployment/front] -> 10.0.0.2:8080 [labels shop/cart-1 StatefulSet/cart] 1:132 UNKNOWN_POINT DROPPED (TCP Flags: SYN; spoofed source)",
		}},
	} {
		d := base
		test.change(&d)
		var got []string
		for _, f := range flowsOf(t, &event.Event{Time: start, Seq: 9, Process: test.proc, Data: &d}) {
			got = append(got, flowLine(f))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// TestVerdictParts holds what the line of a flow does not show.
func TestVerdictParts(t *testing.T) {
	d := deniedFlow()
	d.Policy = event.NewFlowPolicy(event.FlowPolicy{Kind: "ClusterNetworkPolicy", Name: "no-world", UID: "p2", Tier: cluster.BaselineTier, RuleName: "deny-all", Ports: true})
	d.Reason, d.Nearest = event.PolicyDenied, ""
	flows := flowsOf(t, &event.Event{Time: time.Unix(1e9, 0), Data: d})
	want := &flowpb.Policy{Name: "no-world", Kind: "ClusterNetworkPolicy", Labels: []string{
		"k8s:io.cilium.k8s.policy.derived-from=ClusterNetworkPolicy", "k8s:io.cilium.k8s.policy.name=no-world", "k8s:io.cilium.k8s.policy.uid=p2", "warren:rule=deny-all", "warren:tier=baseline"}}
	for _, f := range flows {
		by := f.GetIngressDeniedBy()
		if len(by) != 1 || by[0].GetName() != want.GetName() || by[0].GetKind() != want.GetKind() || cmp.Diff(want.GetLabels(), by[0].GetLabels()) != "" {
			t.Errorf("denied by %v", by)
		}
		if f.GetDropReasonDesc() != flowpb.DropReason_POLICY_DENY || f.GetPolicyMatchType() != matchL4 || f.GetInterface().GetName() != "veth1" || f.GetInterface().GetIndex() != 12 {
			t.Errorf("flow %v", f)
		}
	}
	icmp := sampleFlow()
	icmp.L4, icmp.ICMP, icmp.ICMPType, icmp.Remote = 58, true, 128, netip.MustParseAddr("fd00::2")
	if f := flowsOf(t, &event.Event{Data: icmp})[1]; f.GetL4().GetICMPv6().GetType() != 128 || f.GetSummary() != "ICMP6 type 128 code 0; allowed by shop/allow-frontend rule 2" { //nolint:staticcheck // what people read
		t.Errorf("ICMP %v", f)
	}
	sctp := sampleFlow()
	sctp.L4, sctp.Reply = protoSCTP, true
	if f := flowsOf(t, &event.Event{Data: sctp})[1]; f.GetL4().GetSCTP().GetSourcePort() != 5432 || f.GetL4().GetSCTP().GetDestinationPort() != 40000 {
		t.Errorf("SCTP %v", f)
	}
	for r := event.PolicyDenied; r.String() != "error"; r++ {
		if dropReason(r) == flowpb.DropReason_DROP_REASON_UNKNOWN {
			t.Errorf("%v is unknown to clients", r)
		}
	}
}

// TestServed holds that a connection of a pod is not told twice.
func TestServed(t *testing.T) {
	served := netip.MustParseAddr("10.0.0.1")
	h := NewHubble(HubbleConfig{Served: func(a netip.Addr) bool { return a == served }}, newFake(), slog.New(slog.DiscardHandler))
	if k := h.kinds(); !k.Has(event.KindFlow) || !k.Has(event.KindConnection) {
		t.Errorf("kinds %v", k)
	}
	connection := func(local, remote string) *event.Event {
		return &event.Event{Data: &event.Connection{Type: "connect", State: event.Established, Socket: event.Socket{
			Local: netip.MustParseAddr(local), LocalPort: 1, Remote: netip.MustParseAddr(remote), RemotePort: 2, L4: event.TCP}}}
	}
	// No packet says that nobody answers; one does that somebody refuses.
	silent, refused := connection("10.0.0.1", "10.0.0.2"), connection("10.0.0.1", "10.0.0.2")
	silent.Data.(*event.Connection).Res, silent.Data.(*event.Connection).State = event.Errno(unix.ETIMEDOUT), event.Close
	refused.Data.(*event.Connection).Res, refused.Data.(*event.Connection).State = event.Errno(unix.ECONNREFUSED), event.Close
	refused.Data.(*event.Connection).Reset = event.ResetRemote
	for _, e := range []*event.Event{
		silent,
		refused,
		connection("10.0.0.1", "10.0.0.2"), // as a flow
		connection("10.0.0.1", "10.0.0.1"), // never leaves the pod
		connection("10.0.0.9", "10.0.0.1"), // of the host
		{Data: sampleFlow()},
		{Data: &event.DNS{Socket: event.Socket{Local: served, Remote: netip.MustParseAddr("10.0.0.53"), L4: event.UDP}}},
	} {
		h.take(e)
	}
	if s := h.Stats(); s.Seen != 6 { // the flow with its verdict
		t.Errorf("%d flows, want 6", s.Seen)
	}
	if k := NewHubble(HubbleConfig{}, newFake(), slog.New(slog.DiscardHandler)).kinds(); k.Has(event.KindFlow) {
		t.Errorf("without a datapath: kinds %v", k)
	}
}
