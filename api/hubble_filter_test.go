package api

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// TestFlowFilterFields holds that each field of a filter has a test: one that
// is forgotten would pick everything.
func TestFlowFilterFields(t *testing.T) {
	fields := (&flowpb.FlowFilter{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		f := &flowpb.FlowFilter{}
		m := f.ProtoReflect()
		if field.IsList() {
			list := m.Mutable(field).List()
			switch {
			case field.Message() != nil:
				list.Append(list.NewElement())
			case field.Kind() == protoreflect.StringKind:
				list.Append(protoreflect.ValueOfString(map[bool]string{true: "10.0.0.1"}[strings.Contains(string(field.Name()), "_ip")] +
					map[bool]string{true: "80"}[strings.HasSuffix(string(field.Name()), "_port")] +
					map[protoreflect.Name]string{"protocol": "tcp", "http_status_code": "200"}[field.Name()]))
				if list.Get(0).String() == "" {
					list.Set(0, protoreflect.ValueOfString("a"))
				}
			default:
				list.Append(list.NewElement())
			}
		} else {
			m.Set(field, m.NewField(field))
			f.GetExperimental().CelExpression = []string{"true"}
		}
		filter, err := NewFlowFilter([]*flowpb.FlowFilter{f}, nil)
		if field.Name() == "experimental" {
			if status.Code(err) != codes.Unimplemented {
				t.Errorf("%s: %v", field.Name(), err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", field.Name(), err)
		} else if filter.all() {
			t.Errorf("%s is passed over", field.Name())
		}
	}
}

func TestFlowFilter(t *testing.T) {
	front := &flowpb.Flow{Verdict: flowpb.Verdict_FORWARDED, Source: &flowpb.Endpoint{Namespace: "shop", PodName: "front-1"}, IP: &flowpb.IP{Source: "10.0.0.1"}}
	cart := &flowpb.Flow{Verdict: flowpb.Verdict_ERROR, Source: &flowpb.Endpoint{Namespace: "shop", PodName: "cart-1"}, IP: &flowpb.IP{Source: "::ffff:10.0.0.2"}}
	fromPod := func(names ...string) *flowpb.FlowFilter { return &flowpb.FlowFilter{SourcePod: names} }
	type list = []*flowpb.FlowFilter
	for _, test := range []struct {
		name         string
		white, black list
		want         string // f of front, c of cart
	}{
		{"none", nil, nil, "fc"},
		{"an empty one", list{{}}, nil, "fc"},
		{"none that is there", list{nil}, nil, "fc"},
		{"an empty one in the black list", nil, list{{}}, ""},
		{"fields are all wanted", list{{SourcePod: []string{"shop/"}, Verdict: []flowpb.Verdict{flowpb.Verdict_ERROR}}}, nil, "c"},
		{"values are each enough", list{fromPod("shop/front", "shop/cart")}, nil, "fc"},
		{"filters are each enough", list{fromPod("shop/front"), fromPod("shop/cart")}, nil, "fc"},
		{"black and white", list{fromPod("shop/")}, list{fromPod("shop/cart")}, "f"},
		{"black alone", nil, list{fromPod("shop/cart"), fromPod("bank/")}, "f"},
		{"an address as another writes it", list{{SourceIp: []string{"::ffff:10.0.0.1"}}}, nil, "f"},
		{"a network with addresses of both", list{{SourceIp: []string{"10.0.0.0/30"}}}, nil, "fc"},
		{"a network as another writes it", list{{SourceIp: []string{"::ffff:10.0.0.2/127"}}}, nil, "c"},
		{"an unknown end", list{{SourceIdentity: []uint32{0}}}, nil, "fc"},
		{"an unknown end where there is none", list{{DestinationIdentity: []uint32{0}}}, nil, ""},
	} {
		f, err := NewFlowFilter(test.white, test.black)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		got := ""
		if f.Match(front) {
			got += "f"
		}
		if f.Match(cart) {
			got += "c"
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
		if all := test.want == "fc" && test.black == nil && (test.white == nil || test.white[0] == nil || proto.Size(test.white[0]) == 0); f.all() != all {
			t.Errorf("%s: all is %v", test.name, f.all())
		}
	}
}

func TestWildcard(t *testing.T) {
	for _, test := range []struct{ pattern, in, out string }{
		{"a.test", "a.test A.TEST a.test.", "b.test aa.test a.tests"},
		{"*", "a x.y", ""},
		{"*.test", "a.test .test b.a.test", "test a.testing"},
		{"a*", "a ab a.test", "ba"},
		{"a*a", "aa aba", "a ab"},
		{"*a*b*", "ab xaybz", "ba b"},
		{"a**b", "ab axb", "a"},
		{"*.cluster.local*", "x.cluster.local x.cluster.local.lan", "cluster.local"},
		{"_dns._udp.*", "_dns._udp.a", "dns.udp.a"},
	} {
		w, err := parseWildcard(test.pattern)
		if err != nil {
			t.Errorf("%s: %v", test.pattern, err)
			continue
		}
		for _, name := range strings.Fields(test.in) {
			if !w.match(name) {
				t.Errorf("%s does not match %s", test.pattern, name)
			}
		}
		for _, name := range strings.Fields(test.out) {
			if w.match(name) {
				t.Errorf("%s matches %s", test.pattern, name)
			}
		}
	}
}

func TestLabelSelector(t *testing.T) {
	labels := []string{"k8s:app=front", "k8s:tier=web", "k8s:replicas=3", "container:image=registry:5000/nginx", "reserved:host", "zone=a", "k8s:empty="}
	for selector, want := range map[string]bool{
		"app":                               true,
		"k8s:app":                           true,
		"any:app":                           true,
		"reserved:app":                      false,
		"reserved:host":                     true,
		"k8s:reserved":                      false,
		"app=front":                         true,
		"app==front":                        true,
		"app = front":                       true,
		"app=fron":                          false,
		"app!=front":                        false,
		"app != back":                       true,
		"missing!=x":                        true,
		"missing=x":                         false,
		"missing":                           false,
		"!missing":                          true,
		"! missing":                         true,
		"!app":                              false,
		"app in (front,back)":               true,
		"app in ( back , front ),tier=web":  true,
		"app in (back)":                     false,
		"app notin (back), tier":            true,
		"app notin (front)":                 false,
		"missing notin (a)":                 true,
		"missing in (a)":                    false,
		"app=front,tier=db":                 false,
		"replicas>2":                        true,
		"replicas > 3":                      false,
		"replicas<4":                        true,
		"app>1":                             false,
		"missing>1":                         false,
		"container:image":                   true,
		"image in (registry:5000/nginx)":    true,
		"zone=a":                            true,
		"empty=":                            true,
		"app=":                              false,
		"empty in ()":                       true,
		" app ":                             true,
		"k8s:app=front,!k8s:canary, zone=a": true,
	} {
		s, err := parseLabelSelector(selector)
		if err != nil {
			t.Errorf("%q: %v", selector, err)
		} else if got := s.match(labels); got != want {
			t.Errorf("%q: %v", selector, got)
		}
	}
	for selector, want := range map[string]string{
		"":                       "must not be empty",
		"  ":                     "must not be empty",
		"=a":                     `expected a key before "=a"`,
		"a,":                     `expected a key before ""`,
		"a:":                     "expected a key",
		"a:b:c":                  "expected a key",
		"a b":                    `expected in, notin or a sign behind "a", not "b"`,
		"a in b":                 "expected (",
		"a in (b":                "expected a comma or )",
		"a=b c":                  `expected a comma before "c"`,
		"a>b":                    `"b" is no whole number`,
		"!a=b":                   "expected a comma",
		strings.Repeat("a", 1e4): "at most 4096 bytes",
	} {
		if _, err := parseLabelSelector(selector); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %s", selector, err, want)
		}
	}
}

func FuzzLabelSelector(f *testing.F) {
	for _, s := range []string{"app", "k8s:app=front,tier!=db", "a in (b,c), !d", "n>3", "x notin (", "!"} {
		f.Add(s, "k8s:app=front")
	}
	f.Fuzz(func(t *testing.T, selector, label string) {
		s, err := parseLabelSelector(selector)
		if err == nil && len(s) == 0 {
			t.Error("a selector that wants nothing")
		}
		s.match([]string{label})
	})
}

func FuzzWildcard(f *testing.F) {
	f.Add("*.a*b.c", "x.ab.c")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		w, err := parseWildcard(pattern)
		if err != nil {
			return
		}
		// What stands in for each star does not matter.
		if !w.match(strings.ReplaceAll(canonicalName(pattern), "*", "x")) {
			t.Errorf("%q does not match itself", pattern)
		}
		w.match(name)
	})
}

// FuzzFlowFilter gives any message for a filter, and any for a flow.
func FuzzFlowFilter(f *testing.F) {
	add := func(filter *flowpb.FlowFilter, flow *flowpb.Flow) {
		a, err := proto.Marshal(filter)
		if err != nil {
			f.Fatal(err)
		}
		b, err := proto.Marshal(flow)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(a, b, "source.labels")
	}
	teller := &flowTeller{node: "n", self: "n", cluster: "default"}
	flow := teller.append(nil, newFlowRecord(connected(1)))[0]
	add(&flowpb.FlowFilter{}, flow)
	add(&flowpb.FlowFilter{SourceIp: []string{"10.0.0.0/8"}, DestinationPort: []string{"443"}, Reply: []bool{false}, TcpFlags: []*flowpb.TCPFlags{{SYN: true}}}, flow)
	add(&flowpb.FlowFilter{SourceLabel: []string{"a in (b)"}, NodeName: []string{"x/*"}, SourceFqdn: []string{"*.a"}, Interface: []*flowpb.NetworkInterface{{}}}, flow)
	add(&flowpb.FlowFilter{HttpPath: []string{"a.*"}, HttpStatusCode: []string{"4+"}, EventType: []*flowpb.EventTypeFilter{{Type: 129}}, SourceWorkload: []*flowpb.Workload{{}}}, flow)
	f.Fuzz(func(t *testing.T, filter, flow []byte, path string) {
		var want flowpb.FlowFilter
		var got flowpb.Flow
		if proto.Unmarshal(filter, &want) != nil || proto.Unmarshal(flow, &got) != nil {
			return
		}
		white, err := NewFlowFilter([]*flowpb.FlowFilter{&want}, nil)
		if c := status.Code(err); c != codes.OK && c != codes.InvalidArgument && c != codes.Unimplemented {
			t.Fatal(err)
		}
		if err == nil {
			black, err := NewFlowFilter(nil, []*flowpb.FlowFilter{&want})
			if err != nil || white.Match(&got) == black.Match(&got) {
				t.Fatalf("a flow is in both lists, or in none: %v", err)
			}
		}
		if m, err := NewFlowMask(&fieldmaskpb.FieldMask{Paths: []string{path}}); err == nil {
			m.Prune(&got)
		}
	})
}

func TestFlowMask(t *testing.T) {
	flow := func() *flowpb.Flow {
		return &flowpb.Flow{
			Uuid: "u", Verdict: flowpb.Verdict_FORWARDED, SourceNames: []string{"a"}, IP: &flowpb.IP{Source: "s", Destination: "d"},
			Source: &flowpb.Endpoint{Identity: 1, Labels: []string{"l"}, Workloads: []*flowpb.Workload{{Name: "w", Kind: "k"}}},
		}
	}
	for _, test := range []struct {
		paths []string
		want  *flowpb.Flow
		keeps bool // extensions
	}{
		{nil, flow(), true},
		{[]string{"uuid"}, &flowpb.Flow{Uuid: "u"}, false},
		{[]string{"IP.source", "source_names", "extensions"}, &flowpb.Flow{IP: &flowpb.IP{Source: "s"}, SourceNames: []string{"a"}}, true},
		{[]string{"source.identity", "source.labels"}, &flowpb.Flow{Source: &flowpb.Endpoint{Identity: 1, Labels: []string{"l"}}}, false},
		{[]string{"source.identity", "source"}, &flowpb.Flow{Source: flow().GetSource()}, false},
		{[]string{"source", "source.identity"}, &flowpb.Flow{Source: flow().GetSource()}, false},
		{[]string{"source.workloads"}, &flowpb.Flow{Source: &flowpb.Endpoint{Workloads: flow().GetSource().GetWorkloads()}}, false},
		{[]string{"l7.dns"}, &flowpb.Flow{}, false},
	} {
		m, err := NewFlowMask(&fieldmaskpb.FieldMask{Paths: test.paths})
		if err != nil {
			t.Errorf("%v: %v", test.paths, err)
			continue
		}
		got := flow()
		m.Prune(got)
		if !proto.Equal(got, test.want) || m.Wants("extensions") != test.keeps {
			t.Errorf("%v: %v", test.paths, got)
		}
	}
	for _, path := range []string{"", "x", "source.", "source..identity", "source.workloads.name", "uuid.x"} {
		if _, err := NewFlowMask(&fieldmaskpb.FieldMask{Paths: []string{path}}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v", path, err)
		}
	}
	if err := CheckGetFlows(&observerpb.GetFlowsRequest{}); err != nil {
		t.Error(err)
	}
}

func TestHubblePeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		self := HubblePeer{Name: "n1", Address: "10.0.0.1:4244", TLSName: "agent.warren"}
		moved := self
		moved.Address = "10.0.0.9:4244"
		var now atomic.Pointer[[]HubblePeer]
		now.Store(&[]HubblePeer{self, {Name: "n2", Address: "10.0.0.2:4244"}, {Name: "n3"}})
		h := NewHubble(HubbleConfig{Node: "n1", Cluster: "east", Peers: func() []HubblePeer { return *now.Load() }}, nil, nil)
		var got []string
		server := &peerStream{ctx: t.Context(), send: func(c *peerpb.ChangeNotification) {
			got = append(got, strings.Join([]string{c.GetType().String(), c.GetName(), c.GetAddress(), c.GetTls().GetServerName()}, " "))
		}}
		ended := make(chan error)
		go func() { ended <- h.Notify(nil, server.start()) }()
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			got = nil
		}
		expect("PEER_ADDED east/n1 10.0.0.1:4244 agent.warren", "PEER_ADDED east/n2 10.0.0.2:4244 ")
		now.Store(&[]HubblePeer{moved, {Name: "n3", Address: "10.0.0.3:4244"}})
		server.pass(h.cfg.Refresh)
		expect("PEER_DELETED east/n2 10.0.0.2:4244 ", "PEER_UPDATED east/n1 10.0.0.9:4244 agent.warren", "PEER_ADDED east/n3 10.0.0.3:4244 ")
		server.pass(h.cfg.Refresh)
		expect()
		server.cancel()
		if err := <-ended; status.Code(err) != codes.Canceled {
			t.Error(err)
		}
	})
	// Alone, and known only to this machine: nobody can be sent anywhere.
	if peers := NewHubble(HubbleConfig{Node: "n1"}, nil, nil).peers(); len(peers) != 0 {
		t.Errorf("%v", peers)
	}
	if peers := NewHubble(HubbleConfig{Node: "n1", Address: "10.0.0.1:4244"}, nil, nil).peers(); len(peers) != 1 || peers[0].Address != "10.0.0.1:4244" {
		t.Errorf("%v", peers)
	}
}

// peerStream is a relay that listens.
type peerStream struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelFunc
	send   func(*peerpb.ChangeNotification)
}

func (s *peerStream) start() *peerStream {
	s.ctx, s.cancel = context.WithCancel(s.ctx)
	return s
}

func (s *peerStream) Context() context.Context { return s.ctx }

func (s *peerStream) Send(c *peerpb.ChangeNotification) error {
	s.send(c)
	return nil
}

// pass lets time pass.
func (s *peerStream) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
