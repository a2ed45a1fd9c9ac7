package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"warren/cluster"
	"warren/event"
)

// flowLine writes a flow as the tests expect it, in one line.
func flowLine(f *flowpb.Flow) string {
	end := func(ip string, port uint32, e *flowpb.Endpoint, s *flowpb.Service, names []string) string {
		who := fmt.Sprint(e.GetIdentity())
		switch {
		case e.GetIdentity() >= identityOfLabels:
			who = "labels"
		case len(e.GetLabels()) == 1:
			who = e.GetLabels()[0]
		}
		if e.GetPodName() != "" {
			who += " " + e.GetNamespace() + "/" + e.GetPodName()
		}
		for _, w := range e.GetWorkloads() {
			who += " " + w.GetKind() + "/" + w.GetName()
		}
		if s != nil {
			who += " " + s.GetNamespace() + "." + s.GetName()
		}
		return fmt.Sprintf("%s:%d [%s]", ip, port, strings.Join(append([]string{who}, names...), " "))
	}
	var source, destination uint32
	var flags []string
	l4 := "UDP"
	if t := f.GetL4().GetTCP(); t != nil {
		l4 = "TCP"
		source, destination = t.GetSourcePort(), t.GetDestinationPort()
		if t.GetFlags() != nil {
			flags = strings.Fields(strings.ReplaceAll(t.GetFlags().String(), ":true", ""))
		}
	} else {
		source, destination = f.GetL4().GetUDP().GetSourcePort(), f.GetL4().GetUDP().GetDestinationPort()
	}
	reply := ""
	if f.GetIsReply().GetValue() {
		reply = " reply"
	}
	return fmt.Sprintf("%s%s %s %s%v %s -> %s %d:%d %s %s (%s)", f.GetTrafficDirection(), reply, f.GetTraceReason(), l4, flags,
		end(f.GetIP().GetSource(), source, f.GetSource(), f.GetSourceService(), f.GetSourceNames()),
		end(f.GetIP().GetDestination(), destination, f.GetDestination(), f.GetDestinationService(), f.GetDestinationNames()),
		f.GetEventType().GetType(), f.GetEventType().GetSubType(), f.GetTraceObservationPoint(), f.GetVerdict(), f.GetSummary()) //nolint:staticcheck // what people read
}

var (
	frontPod = &cluster.Pod{UID: "u1", Name: "front-1", Namespace: "shop", Labels: map[string]string{"app": "front", "pod-template-hash": "abc"},
		NamespaceLabels: map[string]string{"team": "web"}, Workload: cluster.Workload{Kind: "Deployment", Name: "front"}, ServiceAccount: "front"}
	cartPod = &cluster.Pod{UID: "u2", Name: "cart-1", Namespace: "shop", Labels: map[string]string{"app": "cart"},
		Workload: cluster.Workload{Kind: "StatefulSet", Name: "cart"}}
	hostPod = &cluster.Pod{UID: "u3", Name: "proxy-1", Namespace: "kube-system", HostNetwork: true, Workload: cluster.Workload{Kind: "DaemonSet", Name: "proxy"}}
)

func processIn(p *cluster.Pod) *event.Process {
	return &event.Process{Key: event.Key{PID: 42, Start: 7}, Name: "app", ExePath: "/app", Container: &event.Container{ID: "c1", Type: "containerd", Name: "app", Pod: p}}
}

var (
	onHost      = &event.Process{Key: event.Key{PID: 42, Start: 7}, Name: "curl", ExePath: "/usr/bin/curl"}
	inUnit      = &event.Process{Key: event.Key{PID: 43, Start: 7}, Name: "sshd", Cgroup: event.Cgroup{CgroupID: 99, Unit: "ssh.service"}}
	inContainer = &event.Process{Key: event.Key{PID: 44, Start: 7}, Name: "nginx", Container: &event.Container{ID: "c2", Type: "podman", Name: "web", Image: "nginx:1", ImageRepo: "nginx"}}
)

func toService(namespace, name string) *cluster.Peer {
	return &cluster.Peer{Kind: cluster.PeerService, Service: &cluster.Service{Namespace: namespace, Name: name}}
}

func TestFlows(t *testing.T) {
	sock := func(l4 event.Proto, local, remote string, server bool, peer *cluster.Peer) event.Socket {
		l, r := netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)
		return event.Socket{Local: l.Addr(), LocalPort: l.Port(), Remote: r.Addr(), RemotePort: r.Port(), L4: l4, Server: server, RemotePeer: peer}
	}
	client := func(peer *cluster.Peer) event.Socket {
		return sock(event.TCP, "10.0.0.1:40000", "10.0.0.2:80", false, peer)
	}
	server := func(peer *cluster.Peer) event.Socket {
		return sock(event.TCP, "10.0.0.2:80", "10.0.0.1:40000", true, peer)
	}
	named := func(s event.Socket, local, remote string) event.Socket {
		s.LocalName, s.RemoteName = local, remote
		return s
	}
	errno := func(e unix.Errno) event.Errno { return event.Errno(e) }
	cart := &cluster.Peer{Kind: cluster.PeerPod, Pod: cartPod}
	for _, test := range []struct {
		name string
		who  *event.Process
		data event.Data
		want []string
	}{
		{"connect of a pod to a pod", processIn(frontPod), &event.Connection{Type: "connect", Socket: client(cart), Latency: 1234567, PacketsSent: 2},
			[]string{"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [labels shop/front-1 Deployment/front] -> 10.0.0.2:80 [labels shop/cart-1 StatefulSet/cart] 4:5 FROM_ENDPOINT FORWARDED (TCP Flags: SYN; connected in 1.23ms)"}},
		{"to a service", processIn(frontPod), &event.Connection{Type: "connect", Socket: named(client(toService("shop", "cart")), "", "cart.shop.svc")},
			[]string{"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [labels shop/front-1 Deployment/front] -> 10.0.0.2:80 [0 Service/cart shop.cart cart.shop.svc] 4:5 FROM_ENDPOINT FORWARDED (TCP Flags: SYN; connected)"}},
		{"to the API server", onHost, &event.Connection{Type: "connect", Socket: client(toService("default", "kubernetes"))},
			[]string{"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [reserved:host] -> 10.0.0.2:80 [reserved:kube-apiserver Service/kubernetes default.kubernetes] 4:7 FROM_HOST FORWARDED (TCP Flags: SYN; connected)"}},
		{"to another node", onHost, &event.Connection{Type: "connect", Socket: client(&cluster.Peer{Kind: cluster.PeerNode, Node: &cluster.Node{Name: "node-2"}})},
			[]string{"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [reserved:host] -> 10.0.0.2:80 [reserved:remote-node node-2] 4:7 FROM_HOST FORWARDED (TCP Flags: SYN; connected)"}},
		{"to this node", inUnit, &event.Connection{Type: "connect", Socket: client(&cluster.Peer{Kind: cluster.PeerNode, Node: &cluster.Node{Name: "node-1"}})},
			[]string{"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [reserved:host Unit/ssh.service] -> 10.0.0.2:80 [reserved:host node-1] 4:7 FROM_HOST FORWARDED (TCP Flags: SYN; connected)"}},
		{"to the world", processIn(frontPod), &event.Connection{Type: "connect", Socket: named(client(&cluster.Peer{Kind: cluster.PeerWorld}), "", "a.test")},
			[]string{"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [labels shop/front-1 Deployment/front] -> 10.0.0.2:80 [reserved:world a.test] 4:5 FROM_ENDPOINT FORWARDED (TCP Flags: SYN; connected)"}},
		{"to a public address, without a cluster", onHost, &event.Connection{Type: "connect", Socket: sock(event.TCP, "10.0.0.1:1", "9.9.9.9:443", false, nil)},
			[]string{"EGRESS NEW TCP[SYN] 10.0.0.1:1 [reserved:host] -> 9.9.9.9:443 [reserved:world] 4:7 FROM_HOST FORWARDED (TCP Flags: SYN; connected)"}},
		{"to a private one, of which nothing is known", onHost, &event.Connection{Type: "connect", Socket: client(nil)},
			[]string{"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [reserved:host] -> 10.0.0.2:80 [0] 4:7 FROM_HOST FORWARDED (TCP Flags: SYN; connected)"}},
		{"on the loopback of the host", onHost, &event.Connection{Type: "connect", Socket: sock(event.TCP, "[::1]:1", "[::1]:2", false, nil)},
			[]string{"EGRESS NEW TCP[SYN] ::1:1 [reserved:host] -> ::1:2 [reserved:host] 4:7 FROM_HOST FORWARDED (TCP Flags: SYN; connected)"}},
		{"on the loopback of a pod", processIn(cartPod), &event.Connection{Type: "connect", Socket: sock(event.TCP, "127.0.0.1:1", "127.0.0.1:2", false, nil)},
			[]string{"EGRESS NEW TCP[SYN] 127.0.0.1:1 [labels shop/cart-1 StatefulSet/cart] -> 127.0.0.1:2 [labels shop/cart-1 StatefulSet/cart] 4:5 FROM_ENDPOINT FORWARDED (TCP Flags: SYN; connected)"}},
		{"of a pod in its node's network", processIn(hostPod), &event.Connection{Type: "connect", Socket: sock(event.TCP, "127.0.0.1:1", "127.0.0.1:2", false, nil)},
			[]string{"EGRESS NEW TCP[SYN] 127.0.0.1:1 [1 kube-system/proxy-1 DaemonSet/proxy] -> 127.0.0.1:2 [reserved:host] 4:5 FROM_ENDPOINT FORWARDED (TCP Flags: SYN; connected)"}},
		{"of a container without a pod", inContainer, &event.Connection{Type: "connect", Socket: sock(event.TCP, "127.0.0.1:1", "127.0.0.1:2", false, nil)},
			[]string{"EGRESS NEW TCP[SYN] 127.0.0.1:1 [labels Container/web] -> 127.0.0.1:2 [0] 4:5 FROM_ENDPOINT FORWARDED (TCP Flags: SYN; connected)"}},
		{"of nobody that is known", nil, &event.Connection{Type: "connect", Socket: sock(event.TCP, "127.0.0.1:1", "127.0.0.1:2", false, nil)},
			[]string{"EGRESS NEW TCP[SYN] 127.0.0.1:1 [0] -> 127.0.0.1:2 [0] 4:7 FROM_HOST FORWARDED (TCP Flags: SYN; connected)"}},
		{"accept", processIn(cartPod), &event.Connection{Type: "accept4", Socket: server(&cluster.Peer{Kind: cluster.PeerPod, Pod: frontPod}), RawRes: 5},
			[]string{"INGRESS NEW TCP[SYN] 10.0.0.1:40000 [labels shop/front-1 Deployment/front] -> 10.0.0.2:80 [labels shop/cart-1 StatefulSet/cart] 4:0 TO_ENDPOINT FORWARDED (TCP Flags: SYN; accepted)"}},
		{"refused by the peer", onHost, &event.Connection{Type: "connect", Socket: client(nil), Res: errno(unix.ECONNREFUSED), Reset: event.ResetRemote, PacketsSent: 1},
			[]string{
				"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [reserved:host] -> 10.0.0.2:80 [0] 4:7 FROM_HOST FORWARDED (TCP Flags: SYN)",
				"EGRESS reply REPLY TCP[RST ACK] 10.0.0.2:80 [0] -> 10.0.0.1:40000 [reserved:host] 4:2 TO_HOST FORWARDED (TCP Flags: RST, ACK; connection refused)"}},
		{"refused by somebody on the way", onHost, &event.Connection{Type: "connect", Socket: client(nil), Res: errno(unix.ECONNREFUSED), PacketsSent: 1},
			[]string{"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [reserved:host] -> 10.0.0.2:80 [0] 4:7 FROM_HOST ERROR (TCP Flags: SYN; connect: ECONNREFUSED)"}},
		{"unanswered", onHost, &event.Connection{Type: "connect", Socket: client(nil), Res: errno(unix.ETIMEDOUT), PacketsSent: 6, Latency: 130e9},
			[]string{"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [reserved:host] -> 10.0.0.2:80 [0] 4:7 FROM_HOST ERROR (TCP Flags: SYN; connect: ETIMEDOUT; after 2m10s)"}},
		{"without a route", onHost, &event.Connection{Type: "connect", Socket: client(nil), Res: errno(unix.ENETUNREACH)},
			[]string{"EGRESS NEW TCP[] 10.0.0.1:40000 [reserved:host] -> 10.0.0.2:80 [0] 4:7 FROM_HOST ERROR (connect: ENETUNREACH)"}},
		{"given up", onHost, &event.Connection{Type: "connect", Socket: client(nil), Res: errno(unix.ECANCELED), PacketsSent: 1},
			[]string{"EGRESS NEW TCP[SYN] 10.0.0.1:40000 [reserved:host] -> 10.0.0.2:80 [0] 4:7 FROM_HOST TRACED (TCP Flags: SYN; the caller gave up)"}},
		{"update, at the client's end", onHost, &event.Connection{Type: "update", Socket: client(nil), State: event.Established, BytesSent: 5, BytesReceived: 7},
			[]string{"EGRESS ESTABLISHED TCP[ACK] 10.0.0.1:40000 [reserved:host] -> 10.0.0.2:80 [0] 4:7 FROM_HOST FORWARDED (TCP Flags: ACK; 5 B sent, 7 B received)"}},
		{"update, at the server's end", onHost, &event.Connection{Type: "update", Socket: server(nil), State: event.Established},
			[]string{"INGRESS ESTABLISHED TCP[ACK] 10.0.0.1:40000 [0] -> 10.0.0.2:80 [reserved:host] 4:2 TO_HOST FORWARDED (TCP Flags: ACK; 0 B sent, 0 B received)"}},
		{"close, at the client's end", onHost, &event.Connection{Type: "close", Socket: client(nil), Duration: 2e9},
			[]string{"EGRESS ESTABLISHED TCP[FIN ACK] 10.0.0.1:40000 [reserved:host] -> 10.0.0.2:80 [0] 4:7 FROM_HOST FORWARDED (TCP Flags: FIN, ACK; closed after 2s; 0 B sent, 0 B received)"}},
		{"close, at the server's end", onHost, &event.Connection{Type: "close", Socket: server(nil)},
			[]string{"INGRESS reply REPLY TCP[FIN ACK] 10.0.0.2:80 [reserved:host] -> 10.0.0.1:40000 [0] 4:7 FROM_HOST FORWARDED (TCP Flags: FIN, ACK; closed; 0 B sent, 0 B received)"}},
		{"reset by this end, the client", onHost, &event.Connection{Type: "close", Socket: client(nil), Reset: event.ResetLocal},
			[]string{"EGRESS ESTABLISHED TCP[RST] 10.0.0.1:40000 [reserved:host] -> 10.0.0.2:80 [0] 4:7 FROM_HOST FORWARDED (TCP Flags: RST; reset; 0 B sent, 0 B received)"}},
		{"reset by the peer, the client", onHost, &event.Connection{Type: "close", Socket: server(nil), Reset: event.ResetRemote, Error: errno(unix.ECONNRESET)},
			[]string{"INGRESS ESTABLISHED TCP[RST] 10.0.0.1:40000 [0] -> 10.0.0.2:80 [reserved:host] 4:2 TO_HOST FORWARDED (TCP Flags: RST; reset; 0 B sent, 0 B received)"}},
		{"reset by the peer, the server", onHost, &event.Connection{Type: "close", Socket: client(nil), Reset: event.ResetRemote},
			[]string{"EGRESS reply REPLY TCP[RST] 10.0.0.2:80 [0] -> 10.0.0.1:40000 [reserved:host] 4:2 TO_HOST FORWARDED (TCP Flags: RST; reset; 0 B sent, 0 B received)"}},
		{"lost", onHost, &event.Connection{Type: "close", Socket: client(nil), Error: errno(unix.ETIMEDOUT), Duration: 900e9, BytesSent: 3},
			[]string{"EGRESS ESTABLISHED TCP[] 10.0.0.1:40000 [reserved:host] -> 10.0.0.2:80 [0] 4:7 FROM_HOST ERROR (connection lost: ETIMEDOUT after 15m0s; 3 B sent, 0 B received)"}},
		{"first datagram out", onHost, &event.Connection{Type: "sendto", Socket: sock(event.UDP, "10.0.0.1:5", "10.0.0.2:6", false, nil)},
			[]string{"EGRESS NEW UDP[] 10.0.0.1:5 [reserved:host] -> 10.0.0.2:6 [0] 4:7 FROM_HOST FORWARDED (UDP)"}},
		{"first datagram in", onHost, &event.Connection{Type: "recvfrom", Socket: sock(event.UDP, "10.0.0.2:6", "10.0.0.1:5", true, nil)},
			[]string{"INGRESS NEW UDP[] 10.0.0.1:5 [0] -> 10.0.0.2:6 [reserved:host] 4:2 TO_HOST FORWARDED (UDP)"}},
		{"a UDP flow goes on", onHost, &event.Connection{Type: "update", Socket: sock(event.UDP, "10.0.0.1:5", "10.0.0.2:6", false, nil), BytesSent: 1},
			[]string{"EGRESS ESTABLISHED UDP[] 10.0.0.1:5 [reserved:host] -> 10.0.0.2:6 [0] 4:7 FROM_HOST FORWARDED (UDP; 1 B sent, 0 B received)"}},
		{"a UDP flow ends", onHost, &event.Connection{Type: "close", Socket: sock(event.UDP, "10.0.0.2:6", "10.0.0.1:5", true, nil), Duration: 1500},
			[]string{"INGRESS ESTABLISHED UDP[] 10.0.0.1:5 [0] -> 10.0.0.2:6 [reserved:host] 4:2 TO_HOST FORWARDED (UDP; ended after 1.5µs; 0 B sent, 0 B received)"}},
		{"UDP that may not connect", onHost, &event.Connection{Type: "connect", Socket: sock(event.UDP, "10.0.0.1:5", "10.0.0.2:6", false, nil), Res: errno(unix.EACCES)},
			[]string{"EGRESS NEW UDP[] 10.0.0.1:5 [reserved:host] -> 10.0.0.2:6 [0] 4:7 FROM_HOST ERROR (UDP; connect: EACCES)"}},
		{"a listening socket", onHost, &event.Connection{Type: "listen", State: event.Listen, Socket: event.Socket{Local: netip.IPv4Unspecified(), LocalPort: 80, L4: event.TCP}}, nil},
		{"a DNS question", processIn(frontPod), &event.DNS{Type: "dns", Socket: sock(event.UDP, "10.0.0.1:5", "10.0.0.2:53", false, cart), Name: "a.test", QType: "A"},
			[]string{"EGRESS TRACE_REASON_UNKNOWN UDP[] 10.0.0.1:5 [labels shop/front-1 Deployment/front] -> 10.0.0.2:53 [labels shop/cart-1 StatefulSet/cart] 129:0 UNKNOWN_POINT FORWARDED (DNS Query a.test. A)"}},
		{"its answer", onHost, &event.DNS{Type: "dns", Socket: sock(event.UDP, "10.0.0.1:5", "10.0.0.2:53", false, nil), Response: true, Name: "a.test", QType: "A", RCode: "NOERROR",
			Answers: []string{"a.test 300 CNAME b.test", "b.test 60 A 192.0.2.1"}, Addrs: []event.Answer{{Name: "a.test", Addr: netip.MustParseAddr("192.0.2.1"), TTL: 60}}, Latency: 5e6},
			[]string{`EGRESS reply TRACE_REASON_UNKNOWN UDP[] 10.0.0.2:53 [0] -> 10.0.0.1:5 [reserved:host] 129:0 UNKNOWN_POINT FORWARDED (DNS Answer "b.test.,192.0.2.1" (Query a.test. A); in 5ms)`}},
		{"a question to this server, by TCP", onHost, &event.DNS{Type: "dns", Socket: sock(event.TCP, "10.0.0.2:53", "10.0.0.1:5", true, nil), Name: "a.test", QType: "A"},
			[]string{"INGRESS TRACE_REASON_UNKNOWN TCP[] 10.0.0.1:5 [0] -> 10.0.0.2:53 [reserved:host] 129:0 UNKNOWN_POINT FORWARDED (DNS Query a.test. A)"}},
		{"the server's answer", onHost, &event.DNS{Type: "dns", Socket: sock(event.UDP, "10.0.0.2:53", "10.0.0.1:5", true, nil), Response: true, Name: "a.test", QType: "AAAA", RCode: "NXDOMAIN"},
			[]string{"INGRESS reply TRACE_REASON_UNKNOWN UDP[] 10.0.0.2:53 [reserved:host] -> 10.0.0.1:5 [0] 129:0 UNKNOWN_POINT FORWARDED (DNS Answer NXDOMAIN (Query a.test. AAAA))"}},
		{"no flow", onHost, &event.Exec{Type: "execve"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			teller := &flowTeller{node: "node-1", self: "node-1", cluster: "default"}
			var got []string
			if r := newFlowRecord(&event.Event{Time: flowTime, Seq: 9, Process: test.who, Data: test.data}); r != nil {
				flows := teller.append(nil, r)
				if len(flows) != r.flows {
					t.Errorf("%d flows, %d announced", len(flows), r.flows)
				}
				for _, f := range flows {
					got = append(got, flowLine(f))
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestFlowWhole holds every field of two flows.
func TestFlowWhole(t *testing.T) {
	teller := &flowTeller{node: "east/node-1", self: "node-1", cluster: "east", labels: func() []string { return []string{"zone=a"} }, instance: [8]byte{0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0xfa, 0xf9, 0xf8}}
	socket := event.Socket{Local: netip.MustParseAddr("10.0.0.1"), LocalPort: 5, Remote: netip.MustParseAddr("2001:db8::1"), RemotePort: 53, L4: event.UDP, Cookie: 77, NetNS: 3}
	who := *processIn(frontPod)
	who.Cgroup.CgroupID = 99
	who.UserName = "root"
	r := newFlowRecord(&event.Event{Time: flowTime, Seq: 258, Process: &who, Data: &event.DNS{Type: "dns", Socket: socket, Response: true, Name: "a.test", QType: "A",
		RCode: "SERVFAIL", Answers: []string{"a.test 300 CNAME b.test", "b.test 60 A 192.0.2.1", "broken"}, Addrs: []event.Answer{{Addr: netip.MustParseAddr("192.0.2.1")}}, Latency: 5}})
	f := teller.append(nil, r)[0]
	f.Extensions = flowExtras(r)
	identity := f.GetDestination().GetIdentity()
	want := fmt.Sprintf(`{"time":"2026-11-20T12:00:00Z","uuid":"fffefdfc-fbfa-89f8-8000-000000000102","emitter":{"name":"Warren"},"verdict":"FORWARDED",
"IP":{"source":"2001:db8::1","destination":"10.0.0.1","ipVersion":"IPv6"},"l4":{"UDP":{"source_port":53,"destination_port":5}},
"source":{"identity":2,"labels":["reserved:world"]},
"destination":{"identity":%d,"cluster_name":"east","namespace":"shop","labels":["k8s:app=front","k8s:io.cilium.k8s.namespace.labels.team=web",
"k8s:io.cilium.k8s.policy.cluster=east","k8s:io.cilium.k8s.policy.serviceaccount=front","k8s:io.kubernetes.pod.namespace=shop","k8s:pod-template-hash=abc"],
"pod_name":"front-1","workloads":[{"name":"front","kind":"Deployment"}]},"Type":"L7","node_name":"east/node-1","node_labels":["zone=a"],
"l7":{"type":"RESPONSE","latency_ns":"5","dns":{"query":"a.test.","ips":["192.0.2.1"],"ttl":60,"cnames":["b.test."],"observation_source":"socket","rcode":2,"qtypes":["A"],"rrtypes":["CNAME","A"]}},
"event_type":{"type":129},"traffic_direction":"EGRESS","is_reply":true,"socket_cookie":"77","cgroup_id":"99",
"Summary":"DNS Answer \"b.test.,192.0.2.1\" (Query a.test. A); in 5ns",
"extensions":{"@type":"type.googleapis.com/google.protobuf.Struct","value":{"evt.num":258,"evt.type":"dns","fd.netns":3,"proc.exec_id":%q,"proc.pid":42,"proc.name":"app",
"proc.exepath":"/app","user.name":"root","user.uid":0,"container.id":"c1","container.name":"app","k8s.pod.uid":"u1"}}}`, identity, event.Key{PID: 42, Start: 7}.ExecID())
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	var got, expected any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &expected); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(expected, got); diff != "" {
		t.Error(diff)
	}
}

func TestFlowID(t *testing.T) {
	teller := &flowTeller{}
	seen := map[string]bool{}
	for seq := range uint64(1000) {
		for i := range 2 {
			id := teller.uuid(seq<<20, i)
			if seen[id] || !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(id) {
				t.Fatal(id)
			}
			seen[id] = true
		}
	}
	if id := teller.uuid(7<<20, 0); !seen[id] {
		t.Error("the same flow has two ids")
	}
}

func TestFlowIdentity(t *testing.T) {
	of := func(change func(*cluster.Pod)) uint32 {
		p := *frontPod
		change(&p)
		return newPodPart(&p, "default").identity
	}
	same := of(func(*cluster.Pod) {})
	if same < identityOfLabels {
		t.Errorf("%d is Cilium's", same)
	}
	for name, change := range map[string]func(*cluster.Pod){
		"another pod":      func(p *cluster.Pod) { p.Name, p.UID = "front-2", "u9" },
		"another revision": func(p *cluster.Pod) { p.Labels = map[string]string{"app": "front", "pod-template-hash": "def"} },
		"another node":     func(p *cluster.Pod) { p.Node = "node-9" },
	} {
		if of(change) != same {
			t.Errorf("%s has another identity", name)
		}
	}
	for name, change := range map[string]func(*cluster.Pod){
		"namespace": func(p *cluster.Pod) { p.Namespace = "bank" },
		"label": func(p *cluster.Pod) {
			p.Labels = map[string]string{"app": "front", "pod-template-hash": "abc", "x": "y"}
		},
		"account": func(p *cluster.Pod) { p.ServiceAccount = "root" },
	} {
		if of(change) == same {
			t.Errorf("another %s, the same identity", name)
		}
	}
	if p := newPodPart(&cluster.Pod{UID: "u"}, "default"); p.identity != 0 || p.labels != nil {
		t.Errorf("of a pod without a name: %+v", p)
	}
	// What is remembered of pods is bounded.
	var parts podParts
	for range maxPodParts + 10 {
		parts.of(&cluster.Pod{Name: "p"}, "default")
	}
	if len(parts.m) > maxPodParts {
		t.Errorf("%d pods remembered", len(parts.m))
	}
}

func TestFlowRing(t *testing.T) {
	rec := func(n, flows, bytes int) *flowRecord {
		return &flowRecord{time: flowTime.Add(time.Duration(n) * time.Second), flows: flows, bytes: bytes}
	}
	r := newFlowRing(5, 1000, flowTime)
	held := func() (flows, records int) {
		oldest, end := r.bounds()
		return r.stats().Flows, int(end.pos - oldest.pos)
	}
	for n := range 4 {
		r.add(rec(n, 2, 10))
	}
	if flows, records := held(); flows != 4 || records != 2 {
		t.Errorf("%d flows in %d records", flows, records)
	}
	for n := range 20 { // losses count as no flow, but as records
		r.add(rec(n, 0, 1))
	}
	if flows, records := held(); flows != 0 || records != 5 {
		t.Errorf("%d flows in %d records", flows, records)
	}
	r.add(rec(30, 1, 900))
	r.add(rec(31, 1, 900))
	if s := r.stats(); s.Bytes != 900 || s.Flows != 1 || s.Seen != 10 {
		t.Errorf("%+v", s)
	}
	r.add(rec(32, 1, 5000)) // larger than all: it alone
	if flows, records := held(); flows != 1 || records != 1 {
		t.Errorf("%d flows in %d records", flows, records)
	}
	// Rates: 11 flows since the start, of which one within the last minute.
	for _, test := range []struct {
		second int
		want   float64
	}{{33, 11.0 / 33}, {91, 2.0 / 60}, {92, 1.0 / 60}, {93, 0}, {5000, 0}} {
		if got := r.rate(flowTime.Add(time.Duration(test.second) * time.Second)); got != test.want {
			t.Errorf("rate after %d s: %v, want %v", test.second, got, test.want)
		}
	}
}

func TestFlowPast(t *testing.T) {
	p := flowPast{first: 1000, last: 1000}
	for n := range int64(10) {
		p.advance(1000+n*100, uint64(n*10))
	}
	for _, test := range []struct {
		second int64
		count  uint64
		from   int64
	}{{0, 0, 1000}, {1000, 0, 1000}, {1050, 10, 1050}, {1100, 10, 1100}, {1101, 20, 1101}, {1900, 90, 1900}, {1901, 95, 1901}} {
		if count, from := p.before(test.second, 95); count != test.count || from != test.from {
			t.Errorf("before %d: %d from %d, want %d from %d", test.second, count, from, test.count, test.from)
		}
	}
	p.advance(500, 7) // a clock that falls back
	if count, _ := p.before(1100, 95); count != 10 {
		t.Errorf("%d", count)
	}
	p.advance(1<<40, 95) // and one that leaps
	if count, from := p.before(0, 95); count != 95 || from != 1<<40-3599 {
		t.Errorf("%d from %d", count, from)
	}
}

func TestHubbleNamespaces(t *testing.T) {
	s := serveFlows(t, HubbleConfig{Cluster: "east"})
	e := connected(0)
	e.Time = time.Now()
	e.Process = processIn(frontPod)
	e.Data.(*event.Connection).RemotePeer = toService("bank", "vault")
	old := connected(1)
	old.Time = time.Now().Add(-2 * time.Hour)
	old.Process = processIn(hostPod)
	s.tell(t, old, e)
	resp, err := s.client.GetNamespaces(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range resp.GetNamespaces() {
		got = append(got, n.GetCluster()+"/"+n.GetNamespace())
	}
	if want := []string{"east/bank", "east/shop"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	var n namespacesSeen
	for i := range maxNamespaces + 10 {
		n.saw(fmt.Sprint(i), flowTime)
	}
	if len(n.last) > maxNamespaces {
		t.Errorf("%d namespaces", len(n.last))
	}
	n.saw("new", flowTime.Add(2*time.Hour))
	if got := n.names(flowTime.Add(2 * time.Hour)); !slices.Equal(got, []string{"new"}) {
		t.Errorf("%v", got)
	}
}

func TestFlowExtras(t *testing.T) {
	r := newFlowRecord(connected(1))
	r.actor.exePath = "/tmp/\xff"
	r.conn.Error, r.conn.Existing = event.Errno(unix.ECONNRESET), true
	a := flowExtras(r)
	m, err := a.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"proc.exepath":"/tmp/�"`, `"conn.error":"ECONNRESET"`, `"conn.existing":true`, `"conn.state":"ESTAB"`} {
		if !strings.Contains(strings.ReplaceAll(string(text), `": `, `":`), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if _, err := proto.Marshal(a); err != nil {
		t.Error(err)
	}
}

func BenchmarkFlowRecord(b *testing.B) {
	h := NewHubble(HubbleConfig{Node: "n"}, nil, nil)
	e := connected(1)
	b.ReportAllocs()
	for b.Loop() {
		h.take(e)
	}
}

func BenchmarkFlowTell(b *testing.B) {
	teller := &flowTeller{node: "n", self: "n", cluster: "default"}
	e := connected(1)
	e.Process = processIn(frontPod)
	r := newFlowRecord(e)
	var buf []*flowpb.Flow
	b.ReportAllocs()
	for b.Loop() {
		buf = teller.append(buf[:0], r)
	}
}
