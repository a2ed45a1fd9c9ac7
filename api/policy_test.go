package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"warren/cluster"
	"warren/event"
	"warren/netpol"
)

// talkers are two pods of a shop, one of a bank, and a node.
type talkers struct {
	front, redis, bank *cluster.Pod
	node               *cluster.Node
	world              *netpol.World
}

func newTalkers() *talkers {
	pod := func(ns, name, addr string) *cluster.Pod {
		return &cluster.Pod{UID: "uid-" + name, Name: name, Namespace: ns, Node: "node-1", Labels: map[string]string{"app": name}, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
	}
	t := &talkers{front: pod("shop", "front", "10.0.0.1"), redis: pod("shop", "redis", "10.0.0.2"), bank: pod("bank", "bank", "10.0.0.3")}
	t.node = &cluster.Node{Name: "node-2", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}}
	t.world = &netpol.World{
		Pods: []*cluster.Pod{t.front, t.redis, t.bank}, Nodes: []*cluster.Node{t.node},
		Namespaces: map[string]map[string]string{"shop": {"team": "a"}, "bank": {"team": "b"}, "other": {}},
		Policies: []*cluster.Policy{
			{UID: "1", Namespace: "shop", Name: "shop", Tier: cluster.NetworkTier}, {UID: "2", Namespace: "bank", Name: "bank", Tier: cluster.NetworkTier},
			{UID: "3", Name: "all", Tier: cluster.AdminTier},
		},
	}
	return t
}

func (t *talkers) collector(flows bool) *PolicyCollector {
	return NewPolicyCollector(PolicyConfig{Flows: flows, World: func() (*netpol.World, error) { return t.world, nil }, Now: func() time.Time { return flowTime }})
}

// flowEvent is what the datapath tells at one end of a flow.
func flowEvent(typ string, at time.Time, local, remote *cluster.Pod, localPort, remotePort uint16, server bool, v event.Verdict) *event.Event {
	return &event.Event{Time: at, Data: &event.Flow{
		Socket: event.Socket{Local: local.Addrs[0], Remote: remote.Addrs[0], LocalPort: localPort, RemotePort: remotePort, L4: event.TCP, Server: server,
			RemotePeer: &cluster.Peer{Kind: cluster.PeerPod, Pod: remote}},
		Type: typ, Verdict: v, LocalPeer: &cluster.Peer{Kind: cluster.PeerPod, Pod: local},
	}}
}

func socketEvent(typ string, pod *cluster.Pod, s event.Socket, res event.Errno, state event.TCPState) *event.Event {
	p := &event.Process{Container: &event.Container{Pod: pod}}
	return &event.Event{Time: flowTime, Process: p, Data: &event.Connection{Socket: s, Type: typ, Res: res, State: state}}
}

// lines are the talk of a report, in short.
func lines(r PolicyReport) (list []string) {
	pods := map[string]string{}
	for _, p := range r.Pods {
		pods[p.UID] = p.Name
	}
	who := func(p PolicyParty) string {
		switch {
		case p.Pod != "":
			return pods[p.Pod]
		case p.Node != "":
			return p.Node
		}
		return p.Addr.String()
	}
	for _, t := range r.Talk {
		line := who(t.From) + " " + who(t.To) + " " + event.Proto(t.Protocol).String() + " " + t.SeenBy
		if t.Dropped {
			line += " dropped"
		}
		list = append(list, line+" "+string(rune('0'+t.Count)))
	}
	slices.Sort(list)
	return list
}

func TestPolicyFlows(t *testing.T) {
	w := newTalkers()
	c := w.collector(true)
	at := func(s int) time.Time { return flowTime.Add(time.Duration(s) * time.Second) }
	for _, e := range []*event.Event{
		flowEvent("flow_new", at(0), w.front, w.redis, 40000, 6379, false, event.Forwarded),
		flowEvent("flow_new", at(1), w.redis, w.front, 6379, 40000, true, event.Forwarded),
		flowEvent("flow_update", at(2), w.front, w.redis, 40000, 6379, false, event.Forwarded),
		flowEvent("flow_new", at(3), w.front, w.redis, 40001, 6379, false, event.Forwarded),
		flowEvent("flow_drop", at(4), w.bank, w.redis, 40000, 6379, false, event.Dropped),
		flowEvent("flow_new", at(5), w.bank, w.front, 40000, 80, false, event.Audit),
		socketEvent("connect", w.front, event.Socket{Local: w.front.Addrs[0], Remote: netip.MustParseAddr("198.51.100.1"), RemotePort: 443, L4: event.TCP}, 0, event.Established),
	} {
		c.Add(e)
	}
	r, err := c.Answer(t.Context(), PolicyQuestion{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"bank front tcp client 1", "bank redis tcp client dropped 1", "front redis tcp client 2", "front redis tcp server 1"}
	if d := cmp.Diff(want, lines(r)); d != "" {
		t.Error(d)
	}
	if r.Source != TalkOfFlows {
		t.Errorf("source %s", r.Source)
	}
	// Both ends of one flow are one observation, by the larger count.
	var seen []string
	now, pods := r.World()
	for _, o := range r.Observations(now, pods, false) {
		seen = append(seen, o.From.String()+" "+o.To.String()+" "+string(rune('0'+o.Count)))
	}
	slices.Sort(seen)
	if d := cmp.Diff([]string{"bank/bank shop/front 1", "shop/front shop/redis 2"}, seen); d != "" {
		t.Error(d)
	}
	if denied := r.Observations(now, pods, true); len(denied) != 1 || denied[0].From.Pod.Name != "bank" {
		t.Errorf("denied: %v", denied)
	}
}

func TestPolicyConnections(t *testing.T) {
	w := newTalkers()
	c := w.collector(false)
	to := func(addr string, port uint16, peer *cluster.Peer) event.Socket {
		return event.Socket{Local: w.front.Addrs[0], LocalPort: 40000, Remote: netip.MustParseAddr(addr), RemotePort: port, L4: event.TCP, RemotePeer: peer}
	}
	pod := func(p *cluster.Pod) *cluster.Peer { return &cluster.Peer{Kind: cluster.PeerPod, Pod: p} }
	accepted := event.Socket{Local: w.redis.Addrs[0], LocalPort: 6379, Remote: w.front.Addrs[0], RemotePort: 40000, L4: event.TCP, Server: true, RemotePeer: pod(w.front)}
	world := &cluster.Peer{Kind: cluster.PeerWorld}
	for _, e := range []*event.Event{
		socketEvent("accept4", w.redis, accepted, 0, event.Established),
		socketEvent("connect", w.front, to("10.0.0.3", 80, pod(w.bank)), event.Errno(unix.ECONNREFUSED), event.Close),
		socketEvent("connect", w.front, to("198.51.100.1", 443, world), 0, event.Established),
		socketEvent("connect", w.front, to("192.0.2.2", 22, &cluster.Peer{Kind: cluster.PeerNode, Node: w.node}), 0, event.Established),
		// None of these tells who talked to whom.
		socketEvent("connect", w.front, to("10.96.0.1", 80, &cluster.Peer{Kind: cluster.PeerService, Service: &cluster.Service{Name: "redis"}}), 0, event.Established),
		socketEvent("connect", w.front, to("198.51.100.2", 443, world), event.Errno(unix.ETIMEDOUT), event.Close),
		socketEvent("connect", w.front, to("10.0.0.9", 80, nil), 0, event.Established),
		socketEvent("connect", w.front, to("127.0.0.1", 80, nil), 0, event.Established),
		socketEvent("connect", w.front, to("10.0.0.1", 80, pod(w.front)), 0, event.Established),
		socketEvent("listen", w.front, event.Socket{Local: netip.IPv4Unspecified(), LocalPort: 80, L4: event.TCP}, 0, event.Listen),
		socketEvent("connect", nil, to("198.51.100.3", 443, world), 0, event.Established),
		flowEvent("flow_new", flowTime, w.front, w.bank, 40000, 99, false, event.Forwarded),
	} {
		c.Add(e)
	}
	c.Add(&event.Event{Time: flowTime, Data: &event.Lost{Count: 3}})
	r, err := c.Answer(t.Context(), PolicyQuestion{Namespaces: []string{"shop"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"front 198.51.100.1 tcp client 1", "front bank tcp client 1", "front node-2 tcp client 1", "front redis tcp server 1"}
	if d := cmp.Diff(want, lines(r)); d != "" {
		t.Error(d)
	}
	if r.Lost != 3 || r.Source != TalkOfConnections {
		t.Errorf("lost %d, source %s", r.Lost, r.Source)
	}
	// The bank is near, and its policies judge what the shop does there.
	var policies []string
	for _, p := range r.Policies {
		policies = append(policies, p.Name)
	}
	if d := cmp.Diff([]string{"shop", "bank", "all"}, policies); d != "" {
		t.Error(d)
	}
	if _, ok := r.Namespaces["other"]; ok || len(r.Namespaces) != 2 {
		t.Errorf("namespaces: %v", r.Namespaces)
	}
}

// TestPolicyGone holds that who talked is remembered as what it was.
func TestPolicyGone(t *testing.T) {
	w := newTalkers()
	c := w.collector(true)
	c.Add(flowEvent("flow_new", flowTime, w.front, w.redis, 40000, 6379, false, event.Forwarded))
	w.world.Pods = []*cluster.Pod{w.redis, w.bank}
	r, err := c.Answer(t.Context(), PolicyQuestion{Namespaces: []string{"shop"}})
	if err != nil {
		t.Fatal(err)
	}
	now, pods := r.World()
	if len(now.Pods) != 1 || now.Pods[0].Name != "redis" || pods["uid-front"] == nil || pods["uid-front"].Labels["app"] != "front" {
		t.Errorf("now %v, of all %v", now.Pods, pods)
	}
	if o := r.Observations(now, pods, false); len(o) != 1 || o[0].From.Pod != pods["uid-front"] {
		t.Errorf("observations: %v", o)
	}
}

func TestPolicyForgets(t *testing.T) {
	w := newTalkers()
	c := NewPolicyCollector(PolicyConfig{Flows: true, MaxTalk: 64, World: func() (*netpol.World, error) { return w.world, nil }})
	for n := range 1000 {
		c.Add(flowEvent("flow_new", flowTime.Add(time.Duration(n)*time.Second), w.front, w.redis, 40000, uint16(n+1), false, event.Forwarded))
	}
	r, err := c.Answer(t.Context(), PolicyQuestion{})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Talk) > 64 || len(r.Talk) < 50 || uint64(len(r.Talk))+r.Forgotten != 1000 {
		t.Errorf("%d remembered, %d forgotten", len(r.Talk), r.Forgotten)
	}
	if last := r.Talk[len(r.Talk)-1]; last.Port != 1000 {
		t.Errorf("the newest is %v", last)
	}
}

// TestPolicyScan holds that who tries all ports, in vain, pushes out nobody who
// may talk.
func TestPolicyScan(t *testing.T) {
	w := newTalkers()
	c := NewPolicyCollector(PolicyConfig{Flows: true, MaxTalk: 64, World: func() (*netpol.World, error) { return w.world, nil }})
	for n := range 20 {
		c.Add(flowEvent("flow_new", flowTime, w.front, w.redis, 40000, uint16(n+1), false, event.Forwarded))
	}
	for n := range 1000 {
		c.Add(flowEvent("flow_drop", flowTime.Add(time.Duration(n)*time.Second), w.redis, w.bank, uint16(n+1), 40000, true, event.Dropped))
	}
	r, err := c.Answer(t.Context(), PolicyQuestion{})
	if err != nil {
		t.Fatal(err)
	}
	now, pods := r.World()
	if seen := r.Observations(now, pods, false); len(seen) != 20 || len(r.Talk) > 64 {
		t.Errorf("%d of 20 that may talk are remembered, of %d", len(seen), len(r.Talk))
	}
}

// TestPolicyDeniedAtServer holds that what the client's node lets go and the
// server's denies is not taken for something that was let through; what was let
// in once is, and what nobody saw arrive.
func TestPolicyDeniedAtServer(t *testing.T) {
	w := newTalkers()
	client, server := w.collector(true), w.collector(true)
	for port, arrives := range map[uint16][]event.Verdict{1: {event.Dropped}, 2: {event.Dropped, event.Forwarded}, 3: {event.Audit}, 4: nil} {
		client.Add(flowEvent("flow_new", flowTime, w.bank, w.redis, 40000, port, false, event.Forwarded))
		for _, v := range arrives {
			server.Add(flowEvent("flow_new", flowTime, w.redis, w.bank, port, 40000, true, v))
		}
	}
	var reports []PolicyReport
	for _, c := range []*PolicyCollector{client, server} {
		r, err := c.Answer(t.Context(), PolicyQuestion{Namespaces: []string{"shop"}})
		if err != nil {
			t.Fatal(err)
		}
		reports = append(reports, r)
	}
	m := MergePolicyReports(reports)
	now, pods := m.World()
	ports := func(dropped bool) (list []uint16) {
		for _, o := range m.Observations(now, pods, dropped) {
			list = append(list, o.Port)
		}
		slices.Sort(list)
		return list
	}
	if d := cmp.Diff([]uint16{2, 3, 4}, ports(false)); d != "" {
		t.Error("let through: " + d)
	}
	if d := cmp.Diff([]uint16{1, 2}, ports(true)); d != "" {
		t.Error("denied: " + d)
	}
}

// TestPolicyMerge holds that reports of nodes become one, and that nobody is
// told of namespaces that they may not see but for what talked to theirs.
func TestPolicyMerge(t *testing.T) {
	w := newTalkers()
	one, two := w.collector(true), w.collector(true)
	one.Add(flowEvent("flow_new", flowTime, w.front, w.redis, 40000, 6379, false, event.Forwarded))
	two.Add(flowEvent("flow_new", flowTime.Add(time.Second), w.redis, w.front, 6379, 40000, true, event.Forwarded))
	two.Add(flowEvent("flow_new", flowTime, w.front, w.redis, 40000, 6379, false, event.Forwarded))
	two.Add(flowEvent("flow_new", flowTime, w.bank, w.bank, 1, 2, false, event.Forwarded))
	two.Add(flowEvent("flow_new", flowTime, w.bank, w.front, 40000, 80, false, event.Forwarded))
	var reports []PolicyReport
	for i, c := range []*PolicyCollector{one, two} {
		r, err := c.Answer(t.Context(), PolicyQuestion{})
		if err != nil {
			t.Fatal(err)
		}
		r.Reporters = []string{string(rune('a' + i))}
		reports = append(reports, r)
	}
	m := MergePolicyReports(reports)
	want := []string{"bank front tcp client 1", "front redis tcp client 2", "front redis tcp server 1"}
	if d := cmp.Diff(want, lines(m)); d != "" {
		t.Error(d)
	}
	if !slices.Equal(m.Reporters, []string{"a", "b"}) || len(m.Pods) != 3 || len(m.Policies) != 3 {
		t.Errorf("reporters %v, %d pods, %d policies", m.Reporters, len(m.Pods), len(m.Policies))
	}
	shop := m.Restrict(func(ns string) bool { return ns == "shop" })
	if d := cmp.Diff(want, lines(shop)); d != "" {
		t.Error(d)
	}
	if !slices.Equal(shop.Partial, []string{"bank"}) || len(shop.Policies) != 2 {
		t.Errorf("partial %v, policies %v", shop.Partial, shop.Policies)
	}
	bank := m.Restrict(func(ns string) bool { return ns == "bank" })
	if d := cmp.Diff([]string{"bank front tcp client 1"}, lines(bank)); d != "" {
		t.Error(d)
	}
	if len(bank.Pods) != 2 {
		t.Errorf("whoever sees the bank sees %v", bank.Pods)
	}
}

// TestPolicyParts holds that world and talk are the whole.
func TestPolicyParts(t *testing.T) {
	w := newTalkers()
	c := w.collector(true)
	c.Add(flowEvent("flow_new", flowTime, w.front, w.bank, 40000, 80, false, event.Forwarded))
	part := func(namespaces []string, p PolicyPart) *PolicyReport {
		r, err := c.Answer(t.Context(), PolicyQuestion{Namespaces: namespaces, Part: p})
		if err != nil {
			t.Fatal(err)
		}
		return &r
	}
	talk := part([]string{"shop"}, PolicyTalks)
	if len(talk.Talk) != 1 || len(talk.Pods) != 2 || talk.Pods[0].Gone || len(talk.Nodes)+len(talk.Policies)+len(talk.Namespaces) > 0 {
		t.Errorf("who talked: %+v", talk)
	}
	var m PolicyMerge
	m.Add(talk)
	if got := m.Namespaces(); !slices.Equal(got, []string{"bank", "shop"}) {
		t.Errorf("of namespaces %q", got)
	}
	world := part(m.Namespaces(), PolicyWorld)
	if len(world.Talk) > 0 || len(world.Pods) != 3 {
		t.Errorf("the world: %+v", world)
	}
	m.Add(world)
	text := func(r PolicyReport) string {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if d := cmp.Diff(text(MergePolicyReports([]PolicyReport{*part([]string{"shop"}, WholePolicy)})), text(m.Report())); d != "" {
		t.Error(d)
	}
}

// TestPolicyRoute holds that a report comes as it was sent.
func TestPolicyRoute(t *testing.T) {
	w := newTalkers()
	c := w.collector(true)
	c.Add(flowEvent("flow_drop", flowTime, w.front, w.redis, 40000, 6379, false, event.Dropped))
	sent, err := c.Answer(t.Context(), PolicyQuestion{Namespaces: []string{"shop"}})
	if err != nil {
		t.Fatal(err)
	}
	var asked PolicyQuestion
	refuse := false
	srv := httptest.NewServer(NewMux([]Route{PolicyRoute(func(_ context.Context, q PolicyQuestion) (PolicyReport, error) {
		if asked = q; refuse && q.Part != "" {
			return PolicyReport{}, BadRequest("unknown parameter part")
		}
		return sent, nil
	})}, slog.New(slog.DiscardHandler)))
	defer srv.Close()
	base, err := url.Parse(srv.URL + "/v1")
	if err != nil {
		t.Fatal(err)
	}
	client := NewHTTPClient(base, srv.Client().Transport)
	got, err := client.Policy(t.Context(), PolicyQuestion{[]string{"shop", "bank"}, []string{"node-1"}, PolicyTalks})
	if err != nil {
		t.Fatal(err)
	}
	text := func(r PolicyReport) string {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if d := cmp.Diff(text(sent), text(got)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(PolicyQuestion{[]string{"shop", "bank"}, []string{"node-1"}, PolicyTalks}, asked); d != "" {
		t.Error(d)
	}
	// Who does not know of parts tells all.
	refuse = true
	if got, err := client.Policy(t.Context(), PolicyQuestion{Part: PolicyWorld}); err != nil || len(got.Talk) != 1 || asked.Part != "" {
		t.Errorf("an older release: %v, %d lines of talk", err, len(got.Talk))
	}
}
