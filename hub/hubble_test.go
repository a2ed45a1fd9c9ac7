package hub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"warren/api"
	"warren/internal/testkit"
)

// A fakeObserver is an agent's observer of flows.
type fakeObserver struct {
	observerpb.UnimplementedObserverServer
	node string

	mu      sync.Mutex
	flows   []*flowpb.Flow
	streams map[chan *flowpb.Flow]bool
	asked   []*observerpb.GetFlowsRequest
	stop    func()
}

// observe lets an agent serve flows, too.
func (a *fakeAgent) observe(t testing.TB, ca *authority) *fakeObserver {
	t.Helper()
	addr := "127.0.0.1:0"
	if a.hubble != 0 {
		addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.hubble).String()
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	a.hubble = l.Addr().(*net.TCPAddr).AddrPort().Port()
	o := &fakeObserver{node: a.node, streams: map[chan *flowpb.Flow]bool{}}
	s := grpc.NewServer()
	observerpb.RegisterObserverServer(s, o)
	creds := ca.credentials(t, agentLeaf, slog.New(slog.DiscardHandler))
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(creds.Listen(l, "h2", api.HubName, api.HubbleName))
	}()
	o.stop = s.Stop
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return o
}

// flow returns a flow that was seen at the sender's end.
func flow(node string, at time.Time, source, destination string) *flowpb.Flow {
	return &flowpb.Flow{
		Time: timestamppb.New(at), NodeName: node, Verdict: flowpb.Verdict_FORWARDED, TrafficDirection: flowpb.TrafficDirection_EGRESS, IsReply: wrapperspb.Bool(false),
		Source: &flowpb.Endpoint{Namespace: source, PodName: "a"}, Destination: &flowpb.Endpoint{Namespace: destination, PodName: "b"},
	}
}

func (o *fakeObserver) put(f ...*flowpb.Flow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flows = append(o.flows, f...)
}

func (o *fakeObserver) tell(f *flowpb.Flow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for s := range o.streams {
		s <- f
	}
}

func (o *fakeObserver) waitStreams(t testing.TB, n int) {
	t.Helper()
	testkit.Wait(t, fmt.Sprintf("%d streams of flows of %s", n, o.node), func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.streams) == n
	})
}

func (o *fakeObserver) GetFlows(req *observerpb.GetFlowsRequest, server grpc.ServerStreamingServer[observerpb.GetFlowsResponse]) error {
	feed := make(chan *flowpb.Flow, 1024)
	o.mu.Lock()
	o.asked = append(o.asked, req)
	list := slices.Clone(o.flows)
	if req.GetFollow() {
		o.streams[feed] = true
	}
	o.mu.Unlock()
	send := func(f *flowpb.Flow) error {
		return server.Send(&observerpb.GetFlowsResponse{NodeName: f.GetNodeName(), Time: f.GetTime(), ResponseTypes: &observerpb.GetFlowsResponse_Flow{Flow: f}})
	}
	if n := int(req.GetNumber()); n > 0 && n < len(list) && !req.GetFirst() {
		list = list[len(list)-n:]
	}
	for _, f := range list {
		if err := send(f); err != nil {
			return err
		}
	}
	for req.GetFollow() {
		select {
		case f := <-feed:
			if err := send(f); err != nil {
				return err
			}
		case <-server.Context().Done():
			return nil
		}
	}
	return nil
}

func (o *fakeObserver) GetNodes(context.Context, *observerpb.GetNodesRequest) (*observerpb.GetNodesResponse, error) {
	return &observerpb.GetNodesResponse{Nodes: []*observerpb.Node{{Name: o.node, State: relaypb.NodeState_NODE_CONNECTED}}}, nil
}

func (o *fakeObserver) GetNamespaces(context.Context, *observerpb.GetNamespacesRequest) (*observerpb.GetNamespacesResponse, error) {
	return &observerpb.GetNamespacesResponse{Namespaces: []*observerpb.Namespace{{Cluster: "default", Namespace: "shop"}, {Cluster: "default", Namespace: "bank"}}}, nil
}

func (o *fakeObserver) ServerStatus(context.Context, *observerpb.ServerStatusRequest) (*observerpb.ServerStatusResponse, error) {
	return &observerpb.ServerStatusResponse{NumFlows: 10, MaxFlows: 100, SeenFlows: 1000, UptimeNs: 5, FlowsRate: 1.5}, nil
}

// hubbleClient returns a client of the hub's observer; cert may be nil.
func (f *fixture) hubbleClient(cert *tls.Certificate) (observerpb.ObserverClient, *grpc.ClientConn) {
	f.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(f.ca.Cert)
	c := &tls.Config{RootCAs: roots, ServerName: api.HubName}
	if cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	conn, err := grpc.NewClient("passthrough:///"+f.hubble, grpc.WithTransportCredentials(credentials.NewTLS(c)))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	return observerpb.NewObserverClient(conn), conn
}

func (f *fixture) trusted() observerpb.ObserverClient {
	c, _ := f.hubbleClient(f.ca.pair(f.t, relayLeaf))
	return c
}

func withAuthorization(ctx context.Context, values ...string) context.Context {
	for _, v := range values {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
	}
	return ctx
}

// told returns what a client of Hubble gets, in short.
func told(r *observerpb.GetFlowsResponse) string {
	if n := r.GetNodeStatus(); n != nil {
		return strings.TrimSpace(fmt.Sprintf("%s %s %s", n.GetStateChange(), strings.Join(n.GetNodeNames(), ","), n.GetMessage()))
	}
	f := r.GetFlow()
	return fmt.Sprintf("%s %s>%s", f.GetNodeName(), f.GetSource().GetNamespace(), f.GetDestination().GetNamespace())
}

func allFlowsOf(ctx context.Context, c observerpb.ObserverClient, req *observerpb.GetFlowsRequest) (list []string, err error) {
	s, err := c.GetFlows(ctx, req)
	if err != nil {
		return nil, err
	}
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		list = append(list, told(r))
	}
}

func TestFlowsOfAllNodes(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two, three, dead := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca), newAgent("node-3").listen(t, ca), newAgent("node-4").listen(t, ca)
	o1, o2 := one.observe(t, ca), two.observe(t, ca)
	o4 := dead.observe(t, ca)
	begin := time.Now().Add(-time.Minute)
	for i := range 3 {
		o1.put(flow("node-1", begin.Add(time.Duration(2*i)*time.Second), fmt.Sprint(2*i), "x"))
		o2.put(flow("node-2", begin.Add(time.Duration(2*i+1)*time.Second), fmt.Sprint(2*i+1), "x"))
	}
	f := newFixture(t, ca, Config{}, one, two, three)
	dead.close()
	o4.stop()
	f.cluster.add(dead)
	f.waitUp(dead, false)
	c := f.trusted()
	got, err := allFlowsOf(t.Context(), c, &observerpb.GetFlowsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var flows, nodes []string
	for _, s := range got {
		if strings.HasPrefix(s, "NODE_") {
			nodes = append(nodes, s)
		} else {
			flows = append(flows, s)
		}
	}
	if want := []string{"node-1 0>x", "node-2 1>x", "node-1 2>x", "node-2 3>x", "node-1 4>x", "node-2 5>x"}; !slices.Equal(flows, want) {
		t.Errorf("told %q, want %q", flows, want)
	}
	if want := []string{"NODE_CONNECTED node-1,node-2", "NODE_UNAVAILABLE node-4 connection refused", "NODE_UNAVAILABLE node-3 its agent serves no flows"}; !slices.Equal(nodes, want) {
		t.Errorf("of nodes is told %q, want %q", nodes, want)
	}
	for _, test := range []struct {
		req  *observerpb.GetFlowsRequest
		want []string
	}{
		{&observerpb.GetFlowsRequest{Number: 2}, []string{"node-1 4>x", "node-2 5>x"}},
		{&observerpb.GetFlowsRequest{Number: 3, First: true}, []string{"node-1 0>x", "node-2 1>x", "node-1 2>x"}},
	} {
		got, err := allFlowsOf(t.Context(), c, test.req)
		got = slices.DeleteFunc(got, func(s string) bool { return strings.HasPrefix(s, "NODE_") })
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%v: told %q, %v, want %q", test.req, got, err, test.want)
		}
	}
	for _, req := range []*observerpb.GetFlowsRequest{
		{Whitelist: []*flowpb.FlowFilter{{SourceIp: []string{"no address"}}}},
		{First: true, Follow: true},
		{Number: mostRecent + 1},
		{FieldMask: &fieldmaskpb.FieldMask{Paths: []string{"no.such.field"}}},
	} {
		if _, err := allFlowsOf(t.Context(), c, req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v is answered with %v", req, err)
		}
	}
}

func TestFlowsFollowed(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	o1, o2 := one.observe(t, ca), two.observe(t, ca)
	f := newFixture(t, ca, Config{Wait: 3 * time.Second}, one, two) // flows have no heartbeats: the last one waits
	s, err := f.trusted().GetFlows(t.Context(), &observerpb.GetFlowsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	want := func(lines ...string) {
		t.Helper()
		for _, want := range lines {
			r, err := s.Recv()
			if err != nil {
				t.Fatalf("the stream ended with %v, want %q", err, want)
			}
			if got := told(r); got != want {
				t.Fatalf("told %q, want %q", got, want)
			}
		}
	}
	want("NODE_CONNECTED node-1,node-2")
	o1.waitStreams(t, 1)
	o2.waitStreams(t, 1)
	now := time.Now()
	o2.tell(flow("node-2", now, "second", ""))
	o1.tell(flow("node-1", now.Add(-50*time.Millisecond), "first", ""))
	want("node-1 first>", "node-2 second>")
	f.cluster.remove(two)
	want("NODE_GONE node-2")
	o1.stop()
	r, err := s.Recv()
	if err != nil || r.GetNodeStatus().GetStateChange() != relaypb.NodeState_NODE_UNAVAILABLE {
		t.Fatalf("told %v, %v, want that a node is unavailable", r, err)
	}
}

func TestFlowsOfTheirNamespaces(t *testing.T) {
	ca := newAuthority(t, "warren")
	one := newAgent("node-1").listen(t, ca)
	o := one.observe(t, ca)
	now := time.Now()
	in := func(f *flowpb.Flow) *flowpb.Flow {
		f.TrafficDirection = flowpb.TrafficDirection_INGRESS
		return f
	}
	unknown := func(f *flowpb.Flow) *flowpb.Flow {
		f.TrafficDirection = flowpb.TrafficDirection_TRAFFIC_DIRECTION_UNKNOWN
		return f
	}
	reply := func(f *flowpb.Flow) *flowpb.Flow {
		f.IsReply = wrapperspb.Bool(true)
		return f
	}
	o.put(
		flow("1", now, "shop", "bank"), flow("2", now, "bank", "shop"), in(flow("3", now, "shop", "bank")), in(flow("4", now, "bank", "shop")),
		unknown(flow("5", now, "shop", "bank")), unknown(flow("6", now, "shop", "shop")), flow("7", now, "", "shop"), flow("8", now, "shop", ""),
		reply(flow("9", now, "shop", "bank")), reply(flow("10", now, "bank", "shop")), reply(in(flow("11", now, "shop", "bank"))), reply(in(flow("12", now, "bank", "shop"))),
	)
	f := newFixture(t, ca, Config{}, one)
	c, _ := f.hubbleClient(nil)
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("token:shop-token"))
	for _, authorization := range []string{"Bearer shop-token", basic} {
		ctx := withAuthorization(t.Context(), authorization)
		got, err := allFlowsOf(ctx, c, &observerpb.GetFlowsRequest{FieldMask: &fieldmaskpb.FieldMask{Paths: []string{"node_name", "source.namespace", "destination.namespace"}}})
		want := []string{"NODE_CONNECTED node-1", "1 shop>bank", "4 bank>shop", "6 shop>shop", "8 shop>", "10 bank>shop", "11 shop>bank"}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("told %q, %v, want %q", got, err, want)
		}
		ns, err := c.GetNamespaces(ctx, &observerpb.GetNamespacesRequest{})
		if err != nil || len(ns.GetNamespaces()) != 1 || ns.GetNamespaces()[0].GetNamespace() != "shop" {
			t.Errorf("namespaces are %v, %v, want the shop", ns, err)
		}
	}
	o.mu.Lock()
	asked := o.asked[0]
	o.mu.Unlock()
	if len(asked.GetWhitelist()) != 4 || asked.GetWhitelist()[0].GetSourcePod()[0] != "shop/" || asked.GetFieldMask() != nil {
		t.Errorf("the agent was asked %v", asked)
	}
	// What is told is what was asked for.
	s, err := c.GetFlows(withAuthorization(t.Context(), basic), &observerpb.GetFlowsRequest{FieldMask: &fieldmaskpb.FieldMask{Paths: []string{"verdict"}}})
	if err != nil {
		t.Fatal(err)
	}
	for {
		r, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if f := r.GetFlow(); f != nil {
			if f.GetVerdict() != flowpb.Verdict_FORWARDED || f.GetSource() != nil {
				t.Errorf("told %v, want the verdict only", f)
			}
			break
		}
	}
}

func TestWhoMayAskForFlows(t *testing.T) {
	ca, foreign := newAuthority(t, "warren"), newAuthority(t, "foreign")
	one := newAgent("node-1").listen(t, ca)
	_ = one.observe(t, ca)
	f := newFixture(t, ca, Config{}, one)
	for _, test := range []struct {
		name          string
		cert          *tls.Certificate
		authorization []string
		code          codes.Code
	}{
		{"a hub's certificate", ca.pair(t, hubLeaf), nil, codes.OK},
		{"the relay's certificate", ca.pair(t, relayLeaf), nil, codes.OK},
		{"a token", nil, []string{"Bearer admin-token"}, codes.OK},
		{"a foreign certificate and a token", foreign.pair(t, hubLeaf), []string{"Bearer admin-token"}, codes.OK},
		{"nothing", nil, nil, codes.Unauthenticated},
		{"an agent's certificate", ca.pair(t, agentLeaf), nil, codes.Unauthenticated},
		{"a foreign certificate", foreign.pair(t, hubLeaf), nil, codes.Unauthenticated},
		{"an expired certificate", ca.pair(t, leaf{names: hubLeaf.names, expired: true}), nil, codes.Unauthenticated},
		{"a certificate for servers", ca.pair(t, leaf{names: hubLeaf.names, usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}), nil, codes.Unauthenticated},
		{"the front proxy's certificate", f.cluster.front.pair(t, leaf{common: "front-proxy-client"}), nil, codes.Unauthenticated},
		{"a wrong token", nil, []string{"Bearer wrong"}, codes.Unauthenticated},
		{"a wrong password", nil, []string{"Basic " + base64.StdEncoding.EncodeToString([]byte("admin-token:wrong"))}, codes.Unauthenticated},
		{"no password", nil, []string{"Basic " + base64.StdEncoding.EncodeToString([]byte("admin-token"))}, codes.Unauthenticated},
		{"no base64", nil, []string{"Basic admin-token"}, codes.Unauthenticated},
		{"two tokens", nil, []string{"Bearer admin-token", "Bearer admin-token"}, codes.Unauthenticated},
		{"an empty token", nil, []string{"Bearer "}, codes.Unauthenticated},
		{"who may see nothing", nil, []string{"Bearer nobody-token"}, codes.PermissionDenied},
	} {
		t.Run(test.name, func(t *testing.T) {
			f.t = t
			c, conn := f.hubbleClient(test.cert)
			ctx := withAuthorization(t.Context(), test.authorization...)
			if _, err := c.ServerStatus(ctx, &observerpb.ServerStatusRequest{}); status.Code(err) != test.code {
				t.Errorf("ServerStatus answers %v, want %v", err, test.code)
			}
			if _, err := c.GetNodes(ctx, &observerpb.GetNodesRequest{}); status.Code(err) != test.code {
				t.Errorf("GetNodes answers %v, want %v", err, test.code)
			}
			if _, err := c.GetNamespaces(ctx, &observerpb.GetNamespacesRequest{}); status.Code(err) != test.code {
				t.Errorf("GetNamespaces answers %v, want %v", err, test.code)
			}
			if _, err := allFlowsOf(ctx, c, &observerpb.GetFlowsRequest{}); status.Code(err) != test.code {
				t.Errorf("GetFlows answers %v, want %v", err, test.code)
			}
			want := test.code
			if want == codes.PermissionDenied {
				want = codes.OK // that the hub is well is no secret of a namespace
			}
			if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: api.HubbleHealth}); status.Code(err) != want {
				t.Errorf("Check answers %v, want %v", err, want)
			}
		})
	}
}

func TestStatusOfHubble(t *testing.T) {
	ca := newAuthority(t, "warren")
	one, two := newAgent("node-1").listen(t, ca), newAgent("node-2").listen(t, ca)
	_ = one.observe(t, ca)
	f := newFixture(t, ca, Config{Version: "v1.2.3"}, one, two)
	c := f.trusted()
	st, err := c.ServerStatus(t.Context(), &observerpb.ServerStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if st.GetNumConnectedNodes().GetValue() != 1 || st.GetNumUnavailableNodes().GetValue() != 1 || !slices.Equal(st.GetUnavailableNodes(), []string{"node-2"}) ||
		st.GetNumFlows() != 10 || st.GetMaxFlows() != 100 || st.GetSeenFlows() != 1000 || st.GetVersion() != "v1.2.3" {
		t.Errorf("the status is %v", st)
	}
	nodes, err := c.GetNodes(t.Context(), &observerpb.GetNodesRequest{})
	if err != nil || len(nodes.GetNodes()) != 2 || nodes.GetNodes()[0].GetState() != relaypb.NodeState_NODE_CONNECTED || nodes.GetNodes()[1].GetState() != relaypb.NodeState_NODE_UNAVAILABLE {
		t.Errorf("the nodes are %v, %v", nodes, err)
	}
	for _, stream := range []func() error{
		func() error {
			s, err := c.GetAgentEvents(t.Context(), &observerpb.GetAgentEventsRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		func() error {
			s, err := c.GetDebugEvents(t.Context(), &observerpb.GetDebugEventsRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
	} {
		if err := stream(); status.Code(err) != codes.Unimplemented {
			t.Errorf("what there is not is answered with %v", err)
		}
	}
}

func TestFlowsEndWithRights(t *testing.T) {
	ca := newAuthority(t, "warren")
	one := newAgent("node-1").listen(t, ca)
	_ = one.observe(t, ca)
	f := newFixture(t, ca, Config{Review: 200 * time.Millisecond}, one)
	c, _ := f.hubbleClient(nil)
	s, err := c.GetFlows(withAuthorization(t.Context(), "Bearer shop-token"), &observerpb.GetFlowsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := s.Recv(); err != nil || told(r) != "NODE_CONNECTED node-1" {
		t.Fatalf("told %v, %v", r, err)
	}
	f.cluster.change(func(c *fakeCluster) { c.may["sue"] = nil })
	if r, err := s.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("told %v, %v, want that permission is denied", r, err)
	}
}

// TestNarrowFlows holds that what agents are asked for is what is told of it.
func TestNarrowFlows(t *testing.T) {
	v := &view{namespaces: map[string]bool{"shop": true, "cart-1": true}}
	var flows []*flowpb.Flow
	for _, source := range []string{"shop", "bank", "", "shopping", "cart-1"} {
		for _, destination := range []string{"shop", "bank", "", "cart-1"} {
			for _, d := range []flowpb.TrafficDirection{flowpb.TrafficDirection_EGRESS, flowpb.TrafficDirection_INGRESS} {
				for _, reply := range []bool{false, true} {
					f := flow("n", time.Now(), source, destination)
					f.TrafficDirection, f.IsReply = d, wrapperspb.Bool(reply)
					for _, e := range []*flowpb.Endpoint{f.GetSource(), f.GetDestination()} {
						if e.GetNamespace() != "" {
							e.Labels = []string{namespaceLabel + "=" + e.GetNamespace(), "k8s:app=x"}
						}
					}
					flows = append(flows, f)
				}
			}
		}
	}
	for _, white := range [][]*flowpb.FlowFilter{
		nil,
		{{Verdict: []flowpb.Verdict{flowpb.Verdict_FORWARDED}}},
		{{SourcePod: []string{"bank/"}}, {DestinationPod: []string{"bank/", "shop/"}}},
		{{SourceLabel: []string{"k8s:app=x"}}},
		{{TrafficDirection: []flowpb.TrafficDirection{flowpb.TrafficDirection_EGRESS}}},
		{{Reply: []bool{true}}},
		{{Verdict: []flowpb.Verdict{flowpb.Verdict_DROPPED}}},
	} {
		whole, err := api.NewFlowFilter(white, nil)
		if err != nil {
			t.Fatal(err)
		}
		list, all := v.narrowFlows(white)
		narrow, err := api.NewFlowFilter(list, nil)
		if err != nil || !all {
			t.Fatal(all, err)
		}
		for _, f := range flows {
			if want, got := whole.Match(f) && v.seesFlow(f), narrow.Match(f); got != want {
				t.Errorf("%v: asked for is %t, told %t: %v", white, got, want, f)
			}
		}
	}
	// Where there is no room in the filter the hub alone decides.
	both := []*flowpb.FlowFilter{{SourcePod: []string{"a/b"}, SourceLabel: []string{"c"}}}
	if list, all := v.narrowFlows(both); all || len(list) != 4 || len(list[0].GetSourcePod()) != 1 || len(list[0].GetSourceLabel()) != 1 {
		t.Errorf("narrowed to %v", list)
	}
	if list, all := everything.narrowFlows(both); !all || len(list) != 1 {
		t.Errorf("who sees everything asks %v", list)
	}
	// And then also which are the last.
	for _, test := range []struct {
		v    *view
		req  *observerpb.GetFlowsRequest
		want uint64
	}{
		{v, &observerpb.GetFlowsRequest{Number: 5}, 5},
		{v, &observerpb.GetFlowsRequest{Number: 5, Whitelist: both}, allFlows},
		{v, &observerpb.GetFlowsRequest{Number: 5, First: true, Whitelist: both}, allFlows},
		{v, &observerpb.GetFlowsRequest{Number: 5, Follow: true, Whitelist: both}, 5},
		{v, &observerpb.GetFlowsRequest{Whitelist: both}, 0},
		{everything, &observerpb.GetFlowsRequest{Number: 5, Whitelist: both}, 5},
	} {
		if got := pushFlows(test.req, test.v).GetNumber(); got != test.want {
			t.Errorf("of %v agents are asked %d, want %d", test.req, got, test.want)
		}
	}
}
