package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"warren/api"
	"warren/event"
	"warren/filter"
	"warren/internal/testkit"
)

// hubble runs Hubble's own command line, as it is published, against a socket.
func hubble(t *testing.T, socket string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	program, err := exec.LookPath("hubble")
	if err != nil {
		t.Fatal("make e2e builds Hubble's command line first: ", err)
	}
	cmd := exec.CommandContext(t.Context(), program, append([]string{"--server", "unix://" + socket}, args...)...)
	// Nothing of the person's own who runs the test.
	cmd.Env = []string{"HOME=" + t.TempDir(), "XDG_CONFIG_HOME=" + t.TempDir()}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// listen returns a socket that a test's server answers on, and its path.
func listen(t *testing.T) (net.Listener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "h.sock")
	l, err := api.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	return l, path
}

// twoFlows answers with what a request picks of two flows that the test makes:
// the agent's filters, without an agent, so that flows may have what Warren
// does not see yet.
type twoFlows struct {
	observerpb.UnimplementedObserverServer
	flows []*flowpb.Flow
}

func (s *twoFlows) GetFlows(req *observerpb.GetFlowsRequest, stream grpc.ServerStreamingServer[observerpb.GetFlowsResponse]) error {
	if err := api.CheckGetFlows(req); err != nil {
		return err
	}
	picks, err := api.NewFlowFilter(req.GetWhitelist(), req.GetBlacklist())
	if err != nil {
		return err
	}
	for _, f := range s.flows {
		if !picks.Match(f) {
			continue
		}
		if err := stream.Send(&observerpb.GetFlowsResponse{ResponseTypes: &observerpb.GetFlowsResponse_Flow{Flow: f}}); err != nil {
			return err
		}
	}
	return nil
}

// A flagCase is a flag of hubble observe: the flows that it picks and leaves.
type flagCase struct {
	args    []string
	in, out *flowpb.Flow
	// refused is what the server says to a flag that it does not support.
	refused string
}

func from(e *flowpb.Endpoint) *flowpb.Flow { return &flowpb.Flow{Source: e} }
func to(e *flowpb.Endpoint) *flowpb.Flow   { return &flowpb.Flow{Destination: e} }

func pod(namespace, name string, labels ...string) *flowpb.Endpoint {
	return &flowpb.Endpoint{Namespace: namespace, PodName: name, Labels: labels, ClusterName: "default"}
}

func ip(source, destination string) *flowpb.Flow {
	return &flowpb.Flow{IP: &flowpb.IP{Source: source, Destination: destination, IpVersion: flowpb.IPVersion_IPv4}}
}

func tcp(source, destination uint32, flags *flowpb.TCPFlags) *flowpb.Flow {
	return &flowpb.Flow{L4: &flowpb.Layer4{Protocol: &flowpb.Layer4_TCP{TCP: &flowpb.TCP{SourcePort: source, DestinationPort: destination, Flags: flags}}}}
}

func udp(source, destination uint32) *flowpb.Flow {
	return &flowpb.Flow{L4: &flowpb.Layer4{Protocol: &flowpb.Layer4_UDP{UDP: &flowpb.UDP{SourcePort: source, DestinationPort: destination}}}}
}

func httpFlow(h *flowpb.HTTP) *flowpb.Flow {
	return &flowpb.Flow{EventType: &flowpb.CiliumEventType{Type: 129}, L7: &flowpb.Layer7{Record: &flowpb.Layer7_Http{Http: h}}}
}

func dnsFlow(query string) *flowpb.Flow {
	return &flowpb.Flow{L7: &flowpb.Layer7{Record: &flowpb.Layer7_Dns{Dns: &flowpb.DNS{Query: query}}}}
}

func workload(kind, name string) *flowpb.Endpoint {
	return &flowpb.Endpoint{Workloads: []*flowpb.Workload{{Kind: kind, Name: name}}}
}

func names(source, destination string) *flowpb.Flow {
	return &flowpb.Flow{SourceNames: []string{source}, DestinationNames: []string{destination}}
}

func services(source, destination string) *flowpb.Flow {
	return &flowpb.Flow{SourceService: &flowpb.Service{Namespace: "shop", Name: source}, DestinationService: &flowpb.Service{Namespace: "shop", Name: destination}}
}

func event4(kind, sub int32) *flowpb.Flow {
	return &flowpb.Flow{EventType: &flowpb.CiliumEventType{Type: kind, SubType: sub}}
}

func dropped(reason flowpb.DropReason) *flowpb.Flow {
	return &flowpb.Flow{Verdict: flowpb.Verdict_DROPPED, DropReasonDesc: reason}
}

func reply(is bool) *flowpb.Flow { return &flowpb.Flow{IsReply: wrapperspb.Bool(is)} }

func onNode(name string, labels ...string) *flowpb.Flow {
	return &flowpb.Flow{NodeName: name, NodeLabels: labels}
}

func traced(id string) *flowpb.Flow {
	return &flowpb.Flow{TraceContext: &flowpb.TraceContext{Parent: &flowpb.TraceParent{TraceId: id}}}
}

// hubbleFlags is every flag of hubble observe that picks flows: one flow in and
// one out for each. Some have several cases.
var hubbleFlags = map[string][]flagCase{
	"all-namespaces":      {{args: []string{"-A"}, in: from(pod("any", "p")), out: from(&flowpb.Endpoint{Identity: 2})}},
	"from-all-namespaces": {{args: []string{"--from-all-namespaces"}, in: from(pod("any", "p")), out: to(pod("any", "p"))}},
	"to-all-namespaces":   {{args: []string{"--to-all-namespaces"}, in: to(pod("any", "p")), out: from(pod("any", "p"))}},
	"namespace": {
		{args: []string{"-n", "shop"}, in: from(pod("shop", "p")), out: from(pod("shop2", "p"))},
		{args: []string{"-n", "shop"}, in: to(pod("shop", "p")), out: to(pod("bank", "p"))},
	},
	"from-namespace": {{args: []string{"--from-namespace", "shop"}, in: from(pod("shop", "p")), out: to(pod("shop", "p"))}},
	"to-namespace":   {{args: []string{"--to-namespace", "shop"}, in: to(pod("shop", "p")), out: from(pod("shop", "p"))}},
	"pod": {
		{args: []string{"--pod", "shop/front"}, in: from(pod("shop", "front-1")), out: from(pod("bank", "front-1"))},
		{args: []string{"--pod", "front"}, in: to(pod("default", "front-1")), out: to(pod("shop", "front-1"))},
		{args: []string{"--pod", "/front"}, in: to(pod("shop", "front-1")), out: to(pod("shop", "a-front"))},
		{args: []string{"--pod", "front", "-n", "shop"}, in: to(pod("shop", "front-1")), out: to(pod("default", "front-1"))},
	},
	"from-pod": {{args: []string{"--from-pod", "shop/front"}, in: from(pod("shop", "front-1")), out: to(pod("shop", "front-1"))}},
	"to-pod":   {{args: []string{"--to-pod", "shop/front"}, in: to(pod("shop", "front-1")), out: from(pod("shop", "front-1"))}},
	"ip": {
		{args: []string{"--ip", "10.0.0.1"}, in: ip("10.0.0.1", "10.0.0.2"), out: ip("10.0.0.11", "10.0.0.2")},
		{args: []string{"--ip", "2001:db8::/32"}, in: ip("10.0.0.1", "2001:db8::7"), out: ip("10.0.0.11", "2001:db9::7")},
	},
	"from-ip": {{args: []string{"--from-ip", "10.1.0.0/16"}, in: ip("10.1.2.3", "10.0.0.1"), out: ip("10.0.0.1", "10.1.2.3")}},
	"to-ip":   {{args: []string{"--to-ip", "10.1.0.0/16"}, in: ip("10.0.0.1", "10.1.2.3"), out: ip("10.1.2.3", "10.0.0.1")}},
	"snat-ip": {{args: []string{"--snat-ip", "192.0.2.0/24"},
		in: &flowpb.Flow{IP: &flowpb.IP{Source: "10.0.0.1", SourceXlated: "192.0.2.9"}}, out: ip("192.0.2.9", "10.0.0.1")}},
	"ip-version": {{args: []string{"--ip-version", "v4"}, in: ip("10.0.0.1", "10.0.0.2"), out: &flowpb.Flow{}}},
	"ipv4":       {{args: []string{"-4"}, in: ip("10.0.0.1", "10.0.0.2"), out: &flowpb.Flow{IP: &flowpb.IP{IpVersion: flowpb.IPVersion_IPv6}}}},
	"ipv6":       {{args: []string{"-6"}, in: &flowpb.Flow{IP: &flowpb.IP{IpVersion: flowpb.IPVersion_IPv6}}, out: ip("10.0.0.1", "10.0.0.2")}},
	"port":       {{args: []string{"--port", "8080"}, in: tcp(8080, 1, nil), out: tcp(80, 18080, nil)}},
	"from-port":  {{args: []string{"--from-port", "53"}, in: udp(53, 1), out: udp(1, 53)}},
	"to-port":    {{args: []string{"--to-port", "443"}, in: tcp(1, 443, nil), out: tcp(443, 1, nil)}},
	"protocol": {
		{args: []string{"--protocol", "TCP"}, in: tcp(1, 2, nil), out: udp(1, 2)},
		{args: []string{"--protocol", "dns"}, in: dnsFlow("a."), out: udp(1, 53)},
	},
	"label": {
		{args: []string{"-l", "app=front"}, in: from(pod("s", "p", "k8s:app=front")), out: from(pod("s", "p", "k8s:app=fronts"))},
		{args: []string{"-l", "app in (front, back), !canary"}, in: to(pod("s", "p", "k8s:app=back")), out: to(pod("s", "p", "k8s:app=back", "k8s:canary=1"))},
		{args: []string{"-l", "reserved:world"}, in: to(&flowpb.Endpoint{Labels: []string{"reserved:world"}}), out: to(&flowpb.Endpoint{Labels: []string{"reserved:host"}})},
	},
	"from-label": {{args: []string{"--from-label", "k8s:app=front"}, in: from(pod("s", "p", "k8s:app=front")), out: to(pod("s", "p", "k8s:app=front"))}},
	"to-label":   {{args: []string{"--to-label", "k8s:app=front"}, in: to(pod("s", "p", "k8s:app=front")), out: from(pod("s", "p", "k8s:app=front"))}},
	"service": {
		{args: []string{"--service", "shop/cart"}, in: services("other", "cart"), out: services("other", "a-cart")},
	},
	"from-service":  {{args: []string{"--from-service", "shop/cart"}, in: services("cart", "x"), out: services("x", "cart")}},
	"to-service":    {{args: []string{"--to-service", "shop/cart"}, in: services("x", "cart"), out: services("cart", "x")}},
	"workload":      {{args: []string{"--workload", "Deployment/front"}, in: to(workload("Deployment", "front")), out: to(workload("DaemonSet", "front"))}},
	"from-workload": {{args: []string{"--from-workload", "front"}, in: from(workload("DaemonSet", "front")), out: to(workload("DaemonSet", "front"))}},
	"to-workload":   {{args: []string{"--to-workload", "DaemonSet/"}, in: to(workload("DaemonSet", "x")), out: to(workload("Deployment", "x"))}},
	"fqdn":          {{args: []string{"--fqdn", "*.example.com"}, in: names("", "www.example.com"), out: names("example.com", "www.example.com.evil.test")}},
	"from-fqdn":     {{args: []string{"--from-fqdn", "a.test"}, in: names("a.test", "b.test"), out: names("b.test", "a.test")}},
	"to-fqdn":       {{args: []string{"--to-fqdn", "a.test."}, in: names("b.test", "a.test"), out: names("a.test", "b.test")}},
	"identity":      {{args: []string{"--identity", "world"}, in: to(&flowpb.Endpoint{Identity: 2}), out: to(&flowpb.Endpoint{Identity: 1})}},
	"from-identity": {{args: []string{"--from-identity", "2147483649"}, in: from(&flowpb.Endpoint{Identity: 1<<31 + 1}), out: to(&flowpb.Endpoint{Identity: 1<<31 + 1})}},
	"to-identity":   {{args: []string{"--to-identity", "kube-apiserver"}, in: to(&flowpb.Endpoint{Identity: 7}), out: from(&flowpb.Endpoint{Identity: 7})}},
	"cluster": {
		{args: []string{"--cluster", "east"}, in: to(&flowpb.Endpoint{ClusterName: "east"}), out: to(&flowpb.Endpoint{ClusterName: "west"})},
		{args: []string{"--cluster", "prod-*"}, in: to(&flowpb.Endpoint{ClusterName: "prod-1"}), out: to(&flowpb.Endpoint{ClusterName: "test-1"})},
	},
	"from-cluster": {{args: []string{"--from-cluster", "east"}, in: from(&flowpb.Endpoint{ClusterName: "east"}), out: to(&flowpb.Endpoint{ClusterName: "east"})}},
	"to-cluster":   {{args: []string{"--to-cluster", "east"}, in: to(&flowpb.Endpoint{ClusterName: "east"}), out: from(&flowpb.Endpoint{ClusterName: "east"})}},
	"verdict":      {{args: []string{"--verdict", "ERROR"}, in: &flowpb.Flow{Verdict: flowpb.Verdict_ERROR}, out: &flowpb.Flow{Verdict: flowpb.Verdict_FORWARDED}}},
	"drop-reason-desc": {{args: []string{"--drop-reason-desc", "POLICY_DENIED"}, in: dropped(flowpb.DropReason_POLICY_DENIED),
		out: &flowpb.Flow{Verdict: flowpb.Verdict_FORWARDED, DropReasonDesc: flowpb.DropReason_POLICY_DENIED}}},
	"type": {
		{args: []string{"-t", "l7"}, in: event4(129, 0), out: event4(4, 0)},
		{args: []string{"-t", "trace:from-endpoint"}, in: event4(4, 5), out: event4(4, 0)},
		{args: []string{"-t", "trace:to-endpoint"}, in: event4(4, 0), out: event4(4, 5)},
	},
	"traffic-direction": {{args: []string{"--traffic-direction", "ingress"}, in: &flowpb.Flow{TrafficDirection: flowpb.TrafficDirection_INGRESS},
		out: &flowpb.Flow{TrafficDirection: flowpb.TrafficDirection_EGRESS}}},
	"reply":     {{args: []string{"--reply"}, in: reply(true), out: reply(false)}, {args: []string{"--reply"}, in: reply(true), out: &flowpb.Flow{}}},
	"not-reply": {{args: []string{"--not-reply"}, in: reply(false), out: reply(true)}, {args: []string{"--not-reply"}, in: dropped(133), out: &flowpb.Flow{}}},
	"tcp-flags": {{args: []string{"--tcp-flags", "RST,ACK"}, in: tcp(1, 2, &flowpb.TCPFlags{RST: true, ACK: true}), out: tcp(1, 2, &flowpb.TCPFlags{RST: true})}},
	"node-name": {
		{args: []string{"--node-name", "node-*"}, in: onNode("node-1"), out: onNode("host-1")},
		{args: []string{"--node-name", "east/"}, in: onNode("east/node-1"), out: onNode("node-1")},
		{args: []string{"--node-name", "default/node-1"}, in: onNode("node-1"), out: onNode("east/node-1")},
	},
	"node-label":  {{args: []string{"--node-label", "zone=a"}, in: onNode("n", "zone=a"), out: onNode("n", "zone=b")}},
	"http-method": {{args: []string{"--http-method", "get"}, in: httpFlow(&flowpb.HTTP{Method: "GET"}), out: httpFlow(&flowpb.HTTP{Method: "POST"})}},
	"http-path":   {{args: []string{"--http-path", `^/page/\d+$`}, in: httpFlow(&flowpb.HTTP{Url: "http://a.test/page/1?x=1"}), out: httpFlow(&flowpb.HTTP{Url: "http://a.test/page/x"})}},
	"http-url":    {{args: []string{"--http-url", `a\.test/`}, in: httpFlow(&flowpb.HTTP{Url: "http://a.test/page/1"}), out: httpFlow(&flowpb.HTTP{Url: "http://b.test/page/x"})}},
	"http-status": {{args: []string{"--http-status", "5+"}, in: httpFlow(&flowpb.HTTP{Code: 503}), out: httpFlow(&flowpb.HTTP{Code: 404})}, {args: []string{"--http-status", "404"}, in: httpFlow(&flowpb.HTTP{Code: 404}), out: httpFlow(&flowpb.HTTP{})}},
	"http-header": {{args: []string{"--http-header", "a:b"}, in: httpFlow(&flowpb.HTTP{Headers: []*flowpb.HTTPHeader{{Key: "a", Value: "b"}}}), out: httpFlow(&flowpb.HTTP{Headers: []*flowpb.HTTPHeader{{Key: "a", Value: "c"}}})}},
	"trace-id":    {{args: []string{"--trace-id", "abc"}, in: traced("abc"), out: traced("abd")}},
	"ip-trace-id": {{args: []string{"--ip-trace-id", "7"}, in: &flowpb.Flow{IpTraceId: &flowpb.IPTraceID{TraceId: 7}}, out: &flowpb.Flow{IpTraceId: &flowpb.IPTraceID{TraceId: 8}}}},
	"interface":   {{args: []string{"--interface", "eth0"}, in: &flowpb.Flow{Interface: &flowpb.NetworkInterface{Name: "eth0"}}, out: &flowpb.Flow{Interface: &flowpb.NetworkInterface{Name: "eth1"}}}},
	"encrypted":   {{args: []string{"--encrypted"}, in: &flowpb.Flow{IP: &flowpb.IP{Encrypted: true}}, out: ip("10.0.0.1", "10.0.0.2")}},
	"unencrypted": {{args: []string{"--unencrypted"}, in: ip("10.0.0.1", "10.0.0.2"), out: &flowpb.Flow{IP: &flowpb.IP{Encrypted: true}}}},
	"uuid":        {{args: []string{"--uuid", "in"}, in: &flowpb.Flow{}, out: &flowpb.Flow{}}},
	"not":         {{args: []string{"--not", "--verdict", "ERROR"}, in: &flowpb.Flow{Verdict: flowpb.Verdict_FORWARDED}, out: &flowpb.Flow{Verdict: flowpb.Verdict_ERROR}}},
	"allowlist":   {{args: []string{"--allowlist", `{"dns_query":["kube.*local"]}`}, in: dnsFlow("kube-dns.local."), out: dnsFlow("example.com.")}},
	"denylist":    {{args: []string{"--denylist", `{"source_ip":["10.0.0.1"],"destination_ip":["10.0.0.2"]}`}, in: ip("10.0.0.1", "10.0.0.3"), out: ip("10.0.0.1", "10.0.0.2")}},
	"cel-expression": {{args: []string{"--cel-expression", "_flow.verdict == flow.Verdict.DROPPED"},
		refused: "experimental.cel_expression: expressions of CEL are not supported"}},
}

// flagsOf reads the names of the flags that the command line has in a section
// of its help.
func flagsOf(t *testing.T, help, section string) []string {
	t.Helper()
	_, rest, ok := strings.Cut(help, section+":\n")
	if !ok {
		t.Fatalf("the help has no section %q", section)
	}
	rest, _, _ = strings.Cut(rest, "\n\n")
	var list []string
	for _, m := range regexp.MustCompile(`(?m)^ {2,6}(?:-\w, )? *--([a-z0-9-]+)`).FindAllStringSubmatch(rest, -1) {
		list = append(list, m[1])
	}
	return list
}

// TestE2EHubbleFlags asks by every filter that Hubble's command line has. It
// reads the list from the command line itself: a new one makes it fail.
func TestE2EHubbleFlags(t *testing.T) {
	help, _, err := hubble(t, "/none", "observe", "--help")
	if err != nil {
		t.Fatal(err)
	}
	var tested []string
	for name := range hubbleFlags {
		tested = append(tested, name)
	}
	flags := slices.Concat(flagsOf(t, help, "Filters Flags"), flagsOf(t, help, "Raw-Filters Flags"))
	slices.Sort(flags)
	slices.Sort(tested)
	if diff := cmp.Diff(flags, tested); diff != "" {
		t.Fatalf("flags of the command line, and those that are tested:\n%s", diff)
	}
	observer := &twoFlows{}
	server := grpc.NewServer(api.HubbleServerOptions()...)
	observerpb.RegisterObserverServer(server, observer)
	l, socket := listen(t)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- api.ServeGRPC(ctx, server, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	for _, name := range tested {
		for _, c := range hubbleFlags[name] {
			t.Run(strings.Join(c.args, " "), func(t *testing.T) {
				observer.flows = nil
				if c.refused == "" {
					c.in.Uuid, c.out.Uuid = "in", "out"
					observer.flows = []*flowpb.Flow{c.out, c.in, c.out}
				}
				out, errs, err := hubble(t, socket, append([]string{"observe", "-o", "json"}, c.args...)...)
				if c.refused != "" {
					if err == nil || !strings.Contains(errs, c.refused) {
						t.Fatalf("not refused: %v\n%s%s", err, out, errs)
					}
					return
				}
				if err != nil {
					t.Fatalf("%v\n%s", err, errs)
				}
				var got []string
				for line := range strings.Lines(out) {
					var resp struct{ Flow struct{ UUID string } }
					if err := json.Unmarshal([]byte(line), &resp); err != nil {
						t.Fatal(err)
					}
					got = append(got, resp.Flow.UUID)
				}
				if !slices.Equal(got, []string{"in"}) {
					t.Errorf("picked %v", got)
				}
			})
		}
	}
}

// manyEvents is a stream of connects to 192.0.2.0 and so on, one a second.
type manyEvents struct {
	n    int
	next func(n int) *event.Event
	more chan struct{} // closed, or one for each event
	told int
}

func (s *manyEvents) Subscribe(string, *filter.Program, event.KindSet) (api.Stream, error) {
	return s, nil
}
func (*manyEvents) Recent() []*event.Event { return nil }
func (*manyEvents) Seq() uint64            { return 0 }
func (*manyEvents) Settled() uint64        { return 0 }
func (*manyEvents) Buffered() bool         { return false }
func (*manyEvents) Close()                 {}

func (*manyEvents) Begun(context.Context) error { return nil }

func (s *manyEvents) Next(ctx context.Context) (*event.Event, error) {
	if s.told < s.n {
		s.told++
		return s.next(s.told - 1), nil
	}
	select {
	case _, ok := <-s.more:
		if !ok {
			return nil, io.EOF
		}
		s.n++
		return s.Next(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serveConnects serves 50 connects, one a second from a time on.
func serveConnects(t *testing.T, cfg api.HubbleConfig, start time.Time, listeners ...net.Listener) *api.Hubble {
	t.Helper()
	events := &manyEvents{n: 50, more: make(chan struct{}), next: func(n int) *event.Event {
		return &event.Event{Time: start.Add(time.Duration(n) * time.Second), Seq: uint64(n + 1), Data: &event.Connection{Type: "connect",
			Socket: event.Socket{Local: netip.MustParseAddr("10.0.0.1"), LocalPort: 1, Remote: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), RemotePort: 443, L4: event.TCP}}}
	}}
	h := api.NewHubble(cfg, events, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 2)
	go func() { served <- h.Run(ctx) }()
	go func() { served <- api.ServeHubble(ctx, h, listeners...) }()
	t.Cleanup(func() {
		stop()
		for range 2 {
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
	})
	testkit.Wait(t, "the flows", func() bool { return h.Stats().Seen == 50 })
	return h
}

// TestE2EHubbleSelectors asks by --first, --last and the like.
func TestE2EHubbleSelectors(t *testing.T) {
	help, _, err := hubble(t, "/none", "observe", "--help")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	l, socket := listen(t)
	serveConnects(t, api.HubbleConfig{Node: "node-1"}, start, l)
	at := func(n int) string { return start.Add(time.Duration(n) * time.Second).Format(time.RFC3339) }
	span := func(from, to int) []string {
		var list []string
		for n := from; n <= to; n++ {
			list = append(list, netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}).String())
		}
		return list
	}
	cases := map[string]struct {
		args []string
		want []string
	}{
		"":      {nil, span(30, 49)},
		"all":   {[]string{"--all"}, span(0, 49)},
		"first": {[]string{"--first", "3"}, span(0, 2)},
		"last":  {[]string{"--last", "3"}, span(47, 49)},
		"since": {[]string{"--since", at(45)}, span(45, 49)},
		"until": {[]string{"--since", at(45), "--until", at(46)}, span(45, 46)},
	}
	for _, name := range flagsOf(t, help, "Selectors Flags") {
		if _, ok := cases[name]; !ok && name != "follow" {
			t.Errorf("--%s is not tested", name)
		}
	}
	for name, c := range cases {
		t.Run("--"+name, func(t *testing.T) {
			out, errs, err := hubble(t, socket, append([]string{"observe", "-o", "json"}, c.args...)...)
			if err != nil {
				t.Fatalf("%v\n%s", err, errs)
			}
			var got []string
			for line := range strings.Lines(out) {
				resp := &observerpb.GetFlowsResponse{}
				if err := resp.UnmarshalJSON([]byte(line)); err != nil {
					t.Fatal(err)
				}
				got = append(got, resp.GetFlow().GetIP().GetDestination())
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	// What the three other formats make of a flow.
	for format, want := range map[string]string{
		"compact": `12:00:49.000: 10.0.0.1:1 (unknown) -> 192.0.2.49:443 (world) from-host FORWARDED (TCP Flags: SYN; connected)`,
		"dict":    `SUMMARY: TCP Flags: SYN; connected`,
		"table":   `192.0.2.49:443   from-host   FORWARDED   TCP Flags: SYN; connected`,
	} {
		out, errs, err := hubble(t, socket, "observe", "--last", "1", "-o", format)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v\n%s%s", format, err, out, errs)
		}
	}
	// A mask of the person's own.
	out, errs, err := hubble(t, socket, "observe", "--last", "1", "-o", "json", "--field-mask", "time,IP.destination")
	if err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	resp := &observerpb.GetFlowsResponse{}
	if err := resp.UnmarshalJSON([]byte(out)); err != nil {
		t.Fatal(err)
	}
	want := &flowpb.Flow{Time: timestamppb.New(start.Add(49 * time.Second)), IP: &flowpb.IP{Destination: "192.0.2.49"}}
	if resp.GetFlow().String() != want.String() {
		t.Errorf("masked: %v", resp.GetFlow())
	}
}
