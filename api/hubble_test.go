package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"weak"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/cluster"
	"warren/event"
)

// flowTime is when the first event of these tests happens.
var flowTime = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// connected is a connect to 192.0.2.N, the n-th event, a second after the last.
func connected(n int) *event.Event {
	return &event.Event{
		Time: flowTime.Add(time.Duration(n) * time.Second), Seq: uint64(n + 1),
		Process: &event.Process{Key: event.Key{PID: 42, Start: 7}, Name: "curl", ExePath: "/usr/bin/curl"},
		Data: &event.Connection{
			Socket: event.Socket{Local: netip.MustParseAddr("10.0.0.1"), LocalPort: 40000,
				Remote: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), RemotePort: 443, L4: event.TCP},
			Type: "connect", State: event.Established, PacketsSent: 1,
		},
	}
}

// refusedConnect is the same, refused by the peer: two flows.
func refusedConnect(n int) *event.Event {
	e := connected(n)
	c := e.Data.(*event.Connection)
	c.Res, c.Reset, c.State = event.Errno(unix.ECONNREFUSED), event.ResetRemote, event.Close
	return e
}

// A hubbleServer is one under test, with its events.
type hubbleServer struct {
	*Hubble
	events *fake
	client observerpb.ObserverClient
	conn   *grpc.ClientConn
}

// serveFlows starts a server on a socket, as an agent does.
func serveFlows(t *testing.T, cfg HubbleConfig) *hubbleServer {
	t.Helper()
	if cfg.Node == "" {
		cfg.Node = "node-1"
	}
	s := &hubbleServer{events: &fake{}}
	s.Hubble = NewHubble(cfg, s.events, slog.New(slog.DiscardHandler))
	socket := filepath.Join(t.TempDir(), "hubble.sock")
	l, err := ListenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 2)
	go func() { served <- s.Run(ctx) }()
	go func() { served <- ServeHubble(ctx, s.Hubble, l) }()
	s.conn, err = grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.conn.Close()
		stop()
		for range 2 {
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
	})
	s.client = observerpb.NewObserverClient(s.conn)
	s.events.stream(t, 0)
	return s
}

// tell sends events and waits until the ring has them.
func (s *hubbleServer) tell(t *testing.T, list ...*event.Event) {
	t.Helper()
	_, before := s.ring.bounds()
	s.events.send(list...)
	want := before.pos
	for _, e := range list {
		if newFlowRecord(e) != nil {
			want++
		}
	}
	wait(t, func() *struct{} {
		if _, end := s.ring.bounds(); end.pos < want {
			return nil
		}
		return &struct{}{}
	})
}

// ask returns the answers to a request, each as a short text: the last byte of
// the address of what is not 10.0.0.1, or what was lost.
func (s *hubbleServer) ask(t *testing.T, req *observerpb.GetFlowsRequest) []string {
	t.Helper()
	stream, err := s.client.GetFlows(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, short(resp))
	}
}

func short(resp *observerpb.GetFlowsResponse) string {
	if l := resp.GetLostEvents(); l != nil {
		return fmt.Sprintf("lost %d", l.GetNumEventsLost())
	}
	f := resp.GetFlow()
	if f.GetIsReply().GetValue() {
		return "<" + f.GetIP().GetSource()[len("192.0.2."):]
	}
	return f.GetIP().GetDestination()[len("192.0.2."):]
}

func toPort(port string) []*flowpb.FlowFilter {
	return []*flowpb.FlowFilter{{DestinationPort: []string{port}}}
}

func TestHubbleGetFlows(t *testing.T) {
	s := serveFlows(t, HubbleConfig{})
	// 0 to 9, of which 3 and 7 are refused.
	for n := range 10 {
		if n == 3 || n == 7 {
			s.tell(t, refusedConnect(n))
		} else {
			s.tell(t, connected(n))
		}
	}
	at := func(n int) *timestamppb.Timestamp {
		return timestamppb.New(flowTime.Add(time.Duration(n) * time.Second))
	}
	toEven := []*flowpb.FlowFilter{{DestinationIp: []string{"192.0.2.0", "192.0.2.2", "192.0.2.4", "192.0.2.6", "192.0.2.8"}}}
	for _, test := range []struct {
		name string
		req  *observerpb.GetFlowsRequest
		want string
	}{
		{"all", &observerpb.GetFlowsRequest{}, "0 1 2 3 <3 4 5 6 7 <7 8 9"},
		{"all as the command line asks", &observerpb.GetFlowsRequest{Number: 1<<64 - 1}, "0 1 2 3 <3 4 5 6 7 <7 8 9"},
		{"last", &observerpb.GetFlowsRequest{Number: 2}, "8 9"},
		{"last, within an event", &observerpb.GetFlowsRequest{Number: 3}, "<7 8 9"},
		{"last, a whole event", &observerpb.GetFlowsRequest{Number: 4}, "7 <7 8 9"},
		{"last, more than there are", &observerpb.GetFlowsRequest{Number: 100}, "0 1 2 3 <3 4 5 6 7 <7 8 9"},
		{"last that match", &observerpb.GetFlowsRequest{Number: 2, Whitelist: toEven}, "6 8"},
		{"last, not matching", &observerpb.GetFlowsRequest{Number: 3, Blacklist: toEven}, "7 <7 9"},
		{"last before", &observerpb.GetFlowsRequest{Number: 2, Until: at(4)}, "<3 4"},
		{"first", &observerpb.GetFlowsRequest{Number: 4, First: true}, "0 1 2 3"},
		{"first that match", &observerpb.GetFlowsRequest{Number: 2, First: true, Whitelist: toEven}, "0 2"},
		{"first of all", &observerpb.GetFlowsRequest{First: true, Whitelist: toEven}, "0 2 4 6 8"},
		{"since", &observerpb.GetFlowsRequest{Since: at(8)}, "8 9"},
		{"since, some", &observerpb.GetFlowsRequest{Since: at(6), Number: 3}, "6 7 <7"},
		{"until", &observerpb.GetFlowsRequest{Until: at(1)}, "0 1"},
		{"between", &observerpb.GetFlowsRequest{Since: at(2), Until: at(4)}, "2 3 <3 4"},
		{"first after", &observerpb.GetFlowsRequest{Since: at(5), First: true, Number: 1}, "5"},
		{"since before until", &observerpb.GetFlowsRequest{Since: at(5), Until: at(4)}, ""},
		{"nothing matches", &observerpb.GetFlowsRequest{Number: 5, Whitelist: toPort("1")}, ""},
		{"followed to a time that is past", &observerpb.GetFlowsRequest{Follow: true, Number: 2, Until: at(4)}, "<3 4"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := strings.Join(s.ask(t, test.req), " "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestHubbleOrder holds that flows are told in the order of time though their
// events come a little out of it.
func TestHubbleOrder(t *testing.T) {
	s := serveFlows(t, HubbleConfig{})
	s.tell(t, connected(1), connected(0), refusedConnect(3), connected(2), connected(9), connected(4), connected(10))
	for _, test := range []struct {
		name string
		req  *observerpb.GetFlowsRequest
		want string
	}{
		{"all", &observerpb.GetFlowsRequest{}, "0 1 2 3 <3 4 9 10"},
		{"the last, from within an event", &observerpb.GetFlowsRequest{Number: 5}, "2 <3 4 9 10"},
		{"the first", &observerpb.GetFlowsRequest{First: true, Number: 2}, "0 1"},
		{"followed to a time that is past", &observerpb.GetFlowsRequest{Follow: true, Number: 100, Until: timestamppb.New(flowTime.Add(2 * time.Second))}, "0 1 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := strings.Join(s.ask(t, test.req), " "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestHubbleFollow(t *testing.T) {
	s := serveFlows(t, HubbleConfig{})
	s.tell(t, connected(0), connected(1), connected(2))
	streams := map[string]grpc.ServerStreamingClient[observerpb.GetFlowsResponse]{}
	for name, req := range map[string]*observerpb.GetFlowsRequest{
		"from now":  {Follow: true},
		"from last": {Follow: true, Number: 2},
		"since":     {Follow: true, Since: timestamppb.New(flowTime.Add(time.Second))},
		"some":      {Follow: true, Number: 1, Whitelist: []*flowpb.FlowFilter{{DestinationIp: []string{"192.0.2.0", "192.0.2.4"}}}},
	} {
		stream, err := s.client.GetFlows(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		streams[name] = stream
	}
	next := func(name string) string {
		t.Helper()
		resp, err := streams[name].Recv()
		if err != nil {
			t.Fatal(err)
		}
		return short(resp)
	}
	// What was before: it also tells that the streams have begun.
	for name, want := range map[string]string{"from last": "1 2", "since": "1 2", "some": "0"} {
		for _, want := range strings.Fields(want) {
			if got := next(name); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	}
	wait(t, func() *struct{} {
		if s.Stats().Streams < len(streams) {
			return nil
		}
		return &struct{}{}
	})
	// "from now" has no sign of its beginning: it may miss some, but no later one.
	s.tell(t, connected(3), connected(4))
	for name, want := range map[string]string{"from last": "3 4", "since": "3 4", "some": "4"} {
		for _, want := range strings.Fields(want) {
			if got := next(name); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	}
	// Of two that come together, the one that happened first is told first.
	s.tell(t, connected(6), connected(5))
	for _, name := range []string{"from last", "since"} {
		for _, want := range []string{"5", "6"} {
			if got := next(name); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	}
	ended := make(chan string)
	go func() {
		last := ""
		for {
			resp, err := streams["from now"].Recv()
			if err != nil {
				ended <- last + " " + status.Code(err).String()
				return
			}
			last = short(resp)
		}
	}()
	s.tell(t, connected(7))
	s.events.end()
	if got := <-ended; got != "7 Unavailable" {
		t.Errorf("the stream ended with %s", got)
	}
	// The others have the rest, and an end that is no success.
	if got := next("since"); got != "7" {
		t.Errorf("since: %s", got)
	}
	if _, err := streams["since"].Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestHubbleFollowUntil(t *testing.T) {
	s := serveFlows(t, HubbleConfig{})
	// Nothing happens: the time alone ends the stream.
	stream, err := s.client.GetFlows(t.Context(), &observerpb.GetFlowsRequest{Follow: true, Until: timestamppb.New(time.Now().Add(50 * time.Millisecond))})
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("%v %v", resp, err)
	}
}

func TestHubbleLost(t *testing.T) {
	s := serveFlows(t, HubbleConfig{})
	lost := func(what, lane string) *event.Event {
		return &event.Event{Time: flowTime.Add(time.Second), Seq: 2, Data: &event.Lost{Type: "lost", Count: 12, What: what, Lane: lane}}
	}
	s.tell(t, connected(0), lost("socket.sock", "bulk"), lost("process.exec", "critical"), lost("connection", "queue"), lost("socket.udp", "table"), connected(2))
	// Whatever is asked for, what is missing is told, and does not count.
	stream, err := s.client.GetFlows(t.Context(), &observerpb.GetFlowsRequest{Number: 2, Blacklist: []*flowpb.FlowFilter{{Uuid: []string{"x"}}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		resp, err := stream.Recv()
		if err != nil {
			break
		}
		text := short(resp)
		if l := resp.GetLostEvents(); l != nil {
			text += " " + l.GetSource().String()
		}
		if resp.GetNodeName() != "node-1" || !resp.GetTime().IsValid() {
			t.Errorf("%v", resp)
		}
		got = append(got, text)
	}
	want := []string{"0", "lost 12 PERF_EVENT_RING_BUFFER", "lost 12 OBSERVER_EVENTS_QUEUE", "lost 12 UNKNOWN_LOST_EVENT_SOURCE", "2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestHubbleForgotten(t *testing.T) {
	s := serveFlows(t, HubbleConfig{Flows: 4})
	s.ring.past.first, s.ring.past.last = flowTime.Unix(), flowTime.Unix()
	for n := range 10 {
		s.tell(t, connected(n))
	}
	ask := func(n int) string {
		return strings.Join(s.ask(t, &observerpb.GetFlowsRequest{Since: timestamppb.New(flowTime.Add(time.Duration(n) * time.Second))}), " ")
	}
	for since, want := range map[int]string{-100: "lost 6 6 7 8 9", 4: "lost 2 6 7 8 9", 6: "6 7 8 9", 8: "8 9"} {
		if got := ask(since); got != want {
			t.Errorf("since %d: %s, want %s", since, got, want)
		}
	}
}

// TestHubbleSlow holds that who is overtaken is told by how much, exactly.
func TestHubbleSlow(t *testing.T) {
	h := NewHubble(HubbleConfig{Node: "node-1", Flows: 100}, &fake{}, slog.New(slog.DiscardHandler))
	took, done := 0, make(chan error)
	gate, sending := make(chan struct{}), make(chan struct{}, 1)
	var lost uint64
	r := &flowsReader{h: h, q: &flowsQuery{follow: true, filter: &FlowFilter{}}, send: func(resp *observerpb.GetFlowsResponse) error {
		select {
		case sending <- struct{}{}:
		default:
		}
		<-gate
		if l := resp.GetLostEvents(); l != nil {
			lost += l.GetNumEventsLost()
			return nil
		}
		took++
		return nil
	}}
	h.take(connected(0)) // before it begins
	go func() { done <- r.run(t.Context()) }()
	seen := 0
	for len(sending) == 0 { // until it has begun, and waits for its client
		h.take(connected(1))
		h.ring.publish()
		seen++
	}
	begun := seen
	for range 1000 {
		h.take(refusedConnect(2))
		seen += 2
	}
	h.ring.end()
	close(gate)
	if err := <-done; status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	if lost == 0 || took+int(lost) > seen || took+int(lost) < seen-begun {
		t.Errorf("%d taken, %d lost of %d to %d", took, lost, seen-begun, seen)
	}
}

func TestHubbleStalled(t *testing.T) {
	s := serveFlows(t, HubbleConfig{Stall: 20 * time.Millisecond})
	stream, err := s.client.GetFlows(t.Context(), &observerpb.GetFlowsRequest{Follow: true, Number: 1})
	if err != nil {
		t.Fatal(err)
	}
	// More than fits on the way to a client that takes nothing.
	for n := 0; s.Stats().Stalled == 0; n = (n + 1) % 200 {
		h := s.Hubble
		h.take(connected(n))
		h.ring.publish()
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "taken nothing for 20ms") {
		t.Error(err)
	}
	wait(t, func() *struct{} {
		if s.Stats().Streams > 0 {
			return nil
		}
		return &struct{}{}
	})
}

func TestHubbleStreams(t *testing.T) {
	s := serveFlows(t, HubbleConfig{Streams: 1})
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := s.client.GetFlows(ctx, &observerpb.GetFlowsRequest{Follow: true}); err != nil {
		t.Fatal(err)
	}
	open := func(n int) {
		t.Helper()
		wait(t, func() *struct{} {
			if s.Stats().Streams != n {
				return nil
			}
			return &struct{}{}
		})
	}
	open(1)
	stream, err := s.client.GetFlows(t.Context(), &observerpb.GetFlowsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Error(err)
	}
	cancel() // the client goes
	open(0)
}

func TestHubbleBadRequests(t *testing.T) {
	s := serveFlows(t, HubbleConfig{})
	filter := func(f *flowpb.FlowFilter) *observerpb.GetFlowsRequest {
		return &observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{f}}
	}
	newer := &flowpb.FlowFilter{Interface: []*flowpb.NetworkInterface{{}}}
	newer.Interface[0].ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 1}) // field 127
	for _, test := range []struct {
		req  *observerpb.GetFlowsRequest
		code codes.Code
		want string
	}{
		{&observerpb.GetFlowsRequest{First: true, Follow: true}, codes.InvalidArgument, "first: not together with follow"},
		{&observerpb.GetFlowsRequest{Since: &timestamppb.Timestamp{Nanos: -1}}, codes.InvalidArgument, "since: "},
		{&observerpb.GetFlowsRequest{Until: &timestamppb.Timestamp{Seconds: 1 << 60}}, codes.InvalidArgument, "until: "},
		{&observerpb.GetFlowsRequest{FieldMask: &fieldmaskpb.FieldMask{Paths: []string{"time", "source.color"}}}, codes.InvalidArgument, `field_mask: flows have no field "source.color"`},
		{filter(&flowpb.FlowFilter{SourceIp: []string{"10.0.0.1", "10.0.0.256"}}), codes.InvalidArgument, `source_ip: no address "10.0.0.256"`},
		{filter(&flowpb.FlowFilter{DestinationIp: []string{"10.0.0.0/33"}}), codes.InvalidArgument, `destination_ip: no network "10.0.0.0/33"`},
		{filter(&flowpb.FlowFilter{SourceIpXlated: []string{""}}), codes.InvalidArgument, `source_ip_xlated: no address ""`},
		{filter(&flowpb.FlowFilter{SourcePod: []string{""}}), codes.InvalidArgument, "source_pod: a name must not be empty"},
		{filter(&flowpb.FlowFilter{DestinationService: []string{"a/b/c"}}), codes.InvalidArgument, `destination_service: "a/b/c" has more than one slash`},
		{filter(&flowpb.FlowFilter{SourceFqdn: []string{"a b"}}), codes.InvalidArgument, `source_fqdn: "a b" has a character ' '`},
		{filter(&flowpb.FlowFilter{SourceFqdn: []string{"a.."}}), codes.InvalidArgument, `source_fqdn: "a.." ends in several dots`},
		{filter(&flowpb.FlowFilter{DestinationFqdn: []string{strings.Repeat("a", 600)}}), codes.InvalidArgument, "destination_fqdn: a name has at most 512 bytes"},
		{filter(&flowpb.FlowFilter{NodeName: []string{"a/b/c"}}), codes.InvalidArgument, `node_name: "a/b/c" has more than one slash`},
		{filter(&flowpb.FlowFilter{NodeName: []string{""}}), codes.InvalidArgument, "node_name: a name must not be empty"},
		{filter(&flowpb.FlowFilter{SourceClusterName: []string{""}}), codes.InvalidArgument, "source_cluster_name: a name must not be empty"},
		{filter(&flowpb.FlowFilter{SourcePort: []string{"http"}}), codes.InvalidArgument, `source_port: no port "http"`},
		{filter(&flowpb.FlowFilter{DestinationPort: []string{"65536"}}), codes.InvalidArgument, `destination_port: no port "65536"`},
		{filter(&flowpb.FlowFilter{Protocol: []string{"tpc"}}), codes.InvalidArgument, `protocol: no protocol "tpc"`},
		{filter(&flowpb.FlowFilter{SourceLabel: []string{"a in b"}}), codes.InvalidArgument, "source_label: no selector"},
		{filter(&flowpb.FlowFilter{NodeLabels: []string{""}}), codes.InvalidArgument, "node_labels: a selector must not be empty"},
		{filter(&flowpb.FlowFilter{DnsQuery: []string{"("}}), codes.InvalidArgument, `dns_query: no pattern "("`},
		{filter(&flowpb.FlowFilter{HttpUrl: []string{strings.Repeat("a", 5000)}}), codes.InvalidArgument, "http_url: a pattern has at most 4096 bytes"},
		{filter(&flowpb.FlowFilter{HttpStatusCode: []string{"600"}}), codes.InvalidArgument, `http_status_code: no status "600"`},
		{filter(&flowpb.FlowFilter{HttpMethod: []string{"GET"}, EventType: []*flowpb.EventTypeFilter{{Type: 4}}}), codes.InvalidArgument, "http_method: no flow can match"},
		{filter(&flowpb.FlowFilter{Experimental: &flowpb.FlowFilter_Experimental{CelExpression: []string{"true"}}}), codes.Unimplemented, "experimental.cel_expression"},
		{filter(newer), codes.Unimplemented, "does not know"},
		{&observerpb.GetFlowsRequest{Blacklist: []*flowpb.FlowFilter{{SourcePort: []string{"x"}}}}, codes.InvalidArgument, "source_port"},
	} {
		if err := CheckGetFlows(test.req); status.Code(err) != test.code || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want %v: %s", test.req, err, test.code, test.want)
		}
		stream, err := s.client.GetFlows(t.Context(), test.req)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != test.code || !strings.Contains(err.Error(), test.want) {
			t.Errorf("served: %v, want %v: %s", err, test.code, test.want)
		}
	}
	// Too large for a request of anybody's.
	big := filter(&flowpb.FlowFilter{Uuid: slices.Repeat([]string{strings.Repeat("u", 1000)}, 2000)})
	stream, err := s.client.GetFlows(t.Context(), big)
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Error(err)
	}
}

func TestHubbleHealth(t *testing.T) {
	s := serveFlows(t, HubbleConfig{})
	check := func(want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		for _, name := range []string{"", HubbleHealth} {
			wait(t, func() *struct{} {
				resp, err := healthpb.NewHealthClient(s.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
				if err != nil {
					t.Fatal(err)
				}
				if resp.GetStatus() != want {
					return nil
				}
				return &struct{}{}
			})
		}
	}
	check(healthpb.HealthCheckResponse_SERVING)
	s.events.end() // nothing is seen any more
	check(healthpb.HealthCheckResponse_NOT_SERVING)
}

func TestHubbleStatus(t *testing.T) {
	s := serveFlows(t, HubbleConfig{Node: "n", Cluster: "east", Version: "warren 1", Address: "192.0.2.7:4244", TLSName: "agent.warren", Flows: 3})
	s.ring.past.first, s.ring.past.last = flowTime.Unix(), flowTime.Unix()
	s.tell(t, connected(0), refusedConnect(1), connected(2))
	st, err := s.client.ServerStatus(t.Context(), &observerpb.ServerStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if st.GetNumFlows() != 3 || st.GetMaxFlows() != 3 || st.GetSeenFlows() != 4 || st.GetVersion() != "warren 1" || st.GetUptimeNs() == 0 ||
		st.GetNumConnectedNodes().GetValue() != 1 || st.GetNumUnavailableNodes().GetValue() != 0 || st.GetNumUnavailableNodes() == nil {
		t.Errorf("%v", st)
	}
	nodes, err := s.client.GetNodes(t.Context(), &observerpb.GetNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	n := nodes.GetNodes()[0]
	if len(nodes.GetNodes()) != 1 || n.GetName() != "east/n" || n.GetAddress() != "192.0.2.7:4244" || !n.GetTls().GetEnabled() ||
		n.GetTls().GetServerName() != "agent.warren" || n.GetSeenFlows() != 4 || n.GetNumFlows() != 3 || n.GetState().String() != "NODE_CONNECTED" {
		t.Errorf("%v", nodes)
	}
	stats := s.Stats()
	if !stats.Oldest.Equal(flowTime.Add(time.Second)) || stats.Bytes <= 0 || stats.MaxBytes != 8<<20 {
		t.Errorf("%+v", stats)
	}
	for _, call := range []func() error{
		func() error {
			s, err := s.client.GetAgentEvents(t.Context(), &observerpb.GetAgentEventsRequest{})
			return errors.Join(err, recvError(s))
		},
		func() error {
			s, err := s.client.GetDebugEvents(t.Context(), &observerpb.GetDebugEventsRequest{})
			return errors.Join(err, recvError(s))
		},
	} {
		if err := call(); !strings.Contains(fmt.Sprint(err), "code = Unimplemented") {
			t.Error(err)
		}
	}
}

func recvError[T any](s grpc.ServerStreamingClient[T]) error {
	if s == nil {
		return nil
	}
	_, err := s.Recv()
	return err
}

func TestHubbleRefused(t *testing.T) {
	f := &fake{refuse: errors.New("the pipeline has ended")}
	h := NewHubble(HubbleConfig{}, f, slog.New(slog.DiscardHandler))
	if err := h.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "the pipeline has ended") {
		t.Error(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := ServeHubble(t.Context(), h, l); err == nil || !strings.Contains(err.Error(), "listen on 127.0.0.1") {
		t.Error(err)
	}
}

// TestHubbleInterface asks as Hubble's user interface does: its page of a
// namespace wants the last flows and then all, without replies, without what
// it takes for noise; and each flow must have what it draws.
func TestHubbleInterface(t *testing.T) {
	s := serveFlows(t, HubbleConfig{})
	reply := []bool{false}
	req := &observerpb.GetFlowsRequest{
		Follow: true, Number: 10000,
		Whitelist: []*flowpb.FlowFilter{{SourcePod: []string{"shop/"}, Reply: reply}, {DestinationPod: []string{"shop/"}, Reply: reply}},
		Blacklist: []*flowpb.FlowFilter{
			{SourceLabel: []string{"reserved:unknown", "reserved:host", "k8s:k8s-app=kube-dns"}},
			{DestinationLabel: []string{"reserved:unknown", "reserved:host"}},
			{DestinationLabel: []string{"k8s:k8s-app=kube-dns"}, DestinationPort: []string{"53"}},
			{SourceFqdn: []string{"*.cluster.local*"}}, {DestinationFqdn: []string{"*.cluster.local*"}},
		},
	}
	of := func(n int, who *event.Process, change func(*event.Connection)) *event.Event {
		e := connected(n)
		e.Process = who
		change(e.Data.(*event.Connection))
		return e
	}
	s.tell(t,
		of(0, onHost, func(*event.Connection) {}),
		of(1, processIn(frontPod), func(c *event.Connection) { c.RemotePeer = &cluster.Peer{Kind: cluster.PeerPod, Pod: cartPod} }),
		of(2, processIn(frontPod), func(c *event.Connection) {
			c.RemotePeer, c.RemoteName = toService("shop", "cart"), "cart.shop.svc.cluster.local"
		}),
		of(3, processIn(frontPod), func(c *event.Connection) { c.RemotePeer = toService("shop", "cart") }),
		of(4, processIn(frontPod), func(c *event.Connection) {
			c.RemotePeer, c.RemoteName = &cluster.Peer{Kind: cluster.PeerWorld}, "a.test"
		}),
		of(5, processIn(hostPod), func(c *event.Connection) { c.RemotePeer = &cluster.Peer{Kind: cluster.PeerWorld} }),
	)
	stream, err := s.client.GetFlows(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1", "3", "4"} {
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := short(resp); got != want {
			t.Fatalf("flow to %s, want %s", got, want)
		}
		// A card is a labelled identity or a workload; an arrow needs both ends.
		f := resp.GetFlow()
		if f.GetL4() == nil || f.GetSource().GetIdentity() == 0 || f.GetDestination() == nil ||
			f.GetDestination().GetIdentity() == 0 && len(f.GetDestination().GetWorkloads()) == 0 {
			t.Errorf("cannot be drawn: %v", f)
		}
	}
}

// TestHubbleMemory holds that the ring takes about what it says, and keeps no
// process alive.
func TestHubbleMemory(t *testing.T) {
	h := NewHubble(HubbleConfig{Node: "node-1"}, nil, nil)
	events := make([]*event.Event, h.cfg.Flows)
	for n := range events {
		events[n] = connected(n)
		events[n].Process.ExePath = "/usr/bin/" + strings.Repeat("x", 91)
	}
	process := weak.Make(events[0].Process)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, e := range events {
		h.take(e)
	}
	runtime.ReadMemStats(&after)
	// Paths are the events' own, and counted: the ring may be the last to hold them.
	took := int(after.TotalAlloc-before.TotalAlloc) + 100*len(events)
	stats := h.Stats()
	if stats.Flows != h.cfg.Flows || took > stats.Bytes*3/2 || stats.Bytes > took*3/2 {
		t.Errorf("%d flows take %d bytes, and are said to take %d", stats.Flows, took, stats.Bytes)
	}
	t.Logf("%d flows: %d KiB", stats.Flows, took>>10)
	clear(events)
	runtime.GC()
	if process.Value() != nil {
		t.Error("a process is kept alive")
	}
	runtime.KeepAlive(h)
}
