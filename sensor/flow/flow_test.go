package flow

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/cluster"
	"warren/event"
	"warren/interest"
	"warren/internal/testkit"
)

// line writes what a test looks at of an event.
func line(f *event.Flow) string {
	s := fmt.Sprintf("%s %s %s %s %v", f.Type, f.Direction(), f.Socket.String(), f.L4, f.Verdict)
	if f.Policy != nil {
		s += fmt.Sprintf(" by %s rule %s", f.Policy.Title, f.Policy.Number)
	}
	if f.Reason != 0 {
		s += " for " + f.Reason.String()
	}
	if f.Nearest != "" {
		s += ": " + f.Nearest
	}
	return s + " at " + f.Interface + " " + f.PodUID
}

// TestEnds holds of which ends a record tells, and what.
func TestEnds(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Record)
		want   []string
	}{
		{"both pods are here", func(*Record) {}, []string{
			"flow_new egress 10.0.0.1:40000->10.0.0.2:80 tcp forwarded by no-world rule deny-all at wrn11 front",
			"flow_new ingress 10.0.0.1:40000->10.0.0.2:80 tcp forwarded by shop/allow-frontend rule 2 at wrn12 cart",
		}},
		{"the server is elsewhere", func(r *Record) { r.Ends[1].Ifindex, r.Ends[1].Verdict = 0, Unjudged }, []string{
			"flow_new egress 10.0.0.1:40000->10.0.0.2:80 tcp forwarded by no-world rule deny-all at wrn11 front",
		}},
		{"the client is elsewhere", func(r *Record) { r.Kind, r.Ends[0].Ifindex, r.Ends[0].Verdict = Went, 0, Unjudged }, []string{
			"flow_update ingress 10.0.0.1:40000->10.0.0.2:80 tcp forwarded by shop/allow-frontend rule 2 at wrn12 cart",
		}},
		{"dropped where it comes in", func(r *Record) {
			r.Kind, r.Ends[1].Verdict, r.Ends[1].Rule, r.Dropped = Dropped, Denied, 0, 1
		}, []string{
			"flow_drop ingress 10.0.0.1:40000->10.0.0.2:80 tcp dropped for policy_default: shop/allow-frontend differs in peer 10.0.0.1 at wrn12 cart",
		}},
		{"dropped by a rule where it goes out", func(r *Record) {
			r.Kind, r.Ends[0].Verdict, r.Ends[1].Verdict = Dropped, Denied, Unjudged
		}, []string{
			"flow_drop egress 10.0.0.1:40000->10.0.0.2:80 tcp dropped by no-world rule deny-all for policy_denied at wrn11 front",
		}},
		{"new, and denied", func(r *Record) { r.Ends[0].Verdict, r.Ends[1].Verdict = Denied, Unjudged }, []string{
			"flow_drop egress 10.0.0.1:40000->10.0.0.2:80 tcp dropped by no-world rule deny-all for policy_denied at wrn11 front",
		}},
		{"more of it was dropped", func(r *Record) { r.Kind, r.Ends[0].Verdict, r.Ends[1].Verdict = Went, Denied, Unjudged }, []string{
			"flow_drop egress 10.0.0.1:40000->10.0.0.2:80 tcp dropped by no-world rule deny-all for policy_denied at wrn11 front",
		}},
		{"what was dropped is over", func(r *Record) { r.Kind, r.Ends[0].Verdict, r.Ends[1].Verdict = Ended, Denied, Unjudged }, []string{
			"flow_close egress 10.0.0.1:40000->10.0.0.2:80 tcp dropped by no-world rule deny-all for policy_denied at wrn11 front",
		}},
		{"audited", func(r *Record) { r.Ends[1].Verdict, r.Ends[1].Rule = Audited, 0 }, []string{
			"flow_new egress 10.0.0.1:40000->10.0.0.2:80 tcp forwarded by no-world rule deny-all at wrn11 front",
			"flow_new ingress 10.0.0.1:40000->10.0.0.2:80 tcp audit for policy_default: shop/allow-frontend differs in peer 10.0.0.1 at wrn12 cart",
		}},
		{"dropped before it was judged", func(r *Record) {
			r.Kind, r.Reason, r.Ends = Dropped, event.SpoofedSource, [2]End{{Ifindex: 11}, {}}
		}, []string{
			"flow_drop egress 10.0.0.1:40000->10.0.0.2:80 tcp dropped for spoofed_source at wrn11 front",
		}},
		{"a reply is dropped", func(r *Record) {
			r.Kind, r.Reply, r.Reason, r.Ends[0].Verdict, r.Ends[1].Verdict, r.Ends[1].Rule = Dropped, true, event.InvalidPacket, Unjudged, Unjudged, 0
		}, []string{
			"flow_drop ingress 10.0.0.1:40000->10.0.0.2:80 tcp dropped for invalid_packet at wrn12 cart",
		}},
		{"dropped on the way in, of nobody here", func(r *Record) { r.Kind, r.Ends = Dropped, [2]End{} }, []string{
			"flow_drop egress 10.0.0.1:40000->10.0.0.2:80 tcp dropped for error at  ",
		}},
		{"to a service", func(r *Record) { r.Service, r.Ends[0].Verdict, r.Ends[1].Verdict = true, Unjudged, Unjudged }, nil},
		{"to a service of this node's own", func(r *Record) { r.Service, r.Ends[1].Verdict, r.Ends[1].Ifindex = true, Unjudged, 0 }, []string{
			"flow_new egress 10.0.0.1:40000->10.0.0.2:80 tcp forwarded by no-world rule deny-all at wrn11 front",
		}},
		{"to a service, dropped", func(r *Record) {
			r.Service, r.Kind, r.Ends[0].Verdict, r.Ends[1].Verdict = true, Dropped, Denied, Unjudged
		}, []string{
			"flow_drop egress 10.0.0.1:40000->10.0.0.2:80 tcp dropped by no-world rule deny-all for policy_denied at wrn11 front",
		}},
		{"a rule that nobody knows any more", func(r *Record) { r.Ends[0].Ifindex, r.Ends[1].Rule = 0, 9 }, []string{
			"flow_new ingress 10.0.0.1:40000->10.0.0.2:80 tcp forwarded at wrn12 cart",
		}},
		{"a device that is gone", func(r *Record) { r.Ends[0].Ifindex, r.Ends[1].Ifindex = 0, 99 }, []string{
			"flow_new ingress 10.0.0.1:40000->10.0.0.2:80 tcp forwarded by shop/allow-frontend rule 2 at  ",
		}},
		{"of no kind that is known", func(r *Record) { r.Kind, r.Ends[1].Ifindex = 200, 0 }, []string{
			" egress 10.0.0.1:40000->10.0.0.2:80 tcp forwarded by no-world rule deny-all at wrn11 front",
		}},
	} {
		r := newRig(t)
		rec := local()
		test.change(&rec)
		var got []string
		for _, f := range r.told(rec) {
			got = append(got, line(f))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// TestParts holds the figures of both ends.
func TestParts(t *testing.T) {
	r := newRig(t)
	rec := local()
	rec.Dropped = 4
	both := r.told(rec)
	out, in := both[0], both[1]
	if out.PacketsSent != 3 || out.BytesSent != 180 || out.PacketsReceived != 2 || out.BytesReceived != 120 || out.FlagsSent != event.SYN || out.FlagsReceived != event.SYN|event.ACK ||
		out.Identity != 7 || out.RemoteIdentity != 9 || out.Cookie != 77 || out.PacketsDropped != 4 || !out.Start.Equal(time.Unix(1e9, 0)) || !out.Last.Equal(time.Unix(1e9, 1)) || out.Server {
		t.Errorf("client's end %+v", out)
	}
	if in.PacketsSent != 2 || in.BytesSent != 120 || in.PacketsReceived != 3 || in.FlagsSent != event.SYN|event.ACK || in.Identity != 9 || in.Cookie != 0 || !in.Server ||
		in.Local != netip.MustParseAddr("10.0.0.2") || in.LocalPort != 80 || in.RemotePort != 40000 {
		t.Errorf("server's end %+v", in)
	}
	if p := in.Policy; p.Peers || !p.Ports || p.Kind != "NetworkPolicy" || p.UID != "u1" || p.Tier != cluster.NetworkTier {
		t.Errorf("policy %+v", p)
	}
	if p := out.Policy; !p.Peers || !p.Ports || p.Kind != "ClusterNetworkPolicy" {
		t.Errorf("policy of which only the name is known %+v", p)
	}
	rec.Reply, rec.Seen = true, time.Time{}
	both = r.told(rec)
	if both[0].Cookie != 0 || both[1].Cookie != 77 || !both[0].Reply || both[0].Last.IsZero() {
		t.Errorf("a reply: %+v, %+v", both[0], both[1])
	}
	rec.Protocol, rec.ICMPType, rec.ICMPCode = 1, 8, 0
	if f := r.told(rec)[0]; !f.ICMP || f.ICMPType != 8 || f.LocalPort != 0 || f.RemotePort != 0 || f.FlagsSent != 0 {
		t.Errorf("ICMP %+v", f)
	}
}

// TestRules holds that a rule is told as it was after it is gone, and asked for
// again after a change.
func TestRules(t *testing.T) {
	r := newRig(t)
	first := r.told(local())[1].Policy
	if again := r.told(local())[1].Policy; again != first {
		t.Error("a rule is described twice")
	}
	r.policies.generation++
	if again := r.told(local())[1].Policy; again != first {
		t.Error("a rule that did not change is described anew")
	}
	r.policies.gone = true
	r.policies.generation++
	if again := r.told(local())[1].Policy; again != first {
		t.Errorf("a rule that is gone: %+v", again)
	}
}

// TestNearest holds that the nearest rule is looked for once, and not for all the
// time there is.
func TestNearest(t *testing.T) {
	r := newRig(t)
	denied := local()
	denied.Kind, denied.Ends[1].Verdict, denied.Ends[1].Rule = Dropped, Denied, 0
	// Both clients have the same identity, and are not each other.
	ask := func(port uint16, client string) string {
		t.Helper()
		rec := denied
		rec.Client = netip.AddrPortFrom(netip.MustParseAddr(client), rec.Client.Port())
		rec.Server = netip.AddrPortFrom(rec.Server.Addr(), port)
		return r.told(rec)[0].Nearest
	}
	const one, other = "10.0.0.1", "10.0.0.3"
	for range 3 {
		if got := ask(80, one); got != "shop/allow-frontend differs in peer 10.0.0.1" {
			t.Errorf("near is %q", got)
		}
	}
	if r.policies.asked != 1 {
		t.Errorf("asked %d times, want 1", r.policies.asked)
	}
	r.policies.generation++
	ask(80, one)
	ask(81, one)
	for range 2 {
		if got := ask(81, other); got != "shop/allow-frontend differs in peer 10.0.0.3" {
			t.Errorf("of another pod with the same identity near is %q", got)
		}
	}
	if r.policies.asked != 4 {
		t.Errorf("asked %d times, want 4", r.policies.asked)
	}
	// Each search takes 20 ms: of a second of searching all at once, and then a
	// twentieth of the time.
	now := time.Unix(0, 0)
	r.teller.now = func() time.Time { return now }
	r.teller.budget = budget{share: 0.05}
	r.policies.cost = func() { now = now.Add(20 * time.Millisecond) }
	r.policies.asked = 0
	for port := uint16(1000); port < 2000; port++ {
		ask(port, one)
	}
	atOnce := r.policies.asked
	if atOnce == 0 || atOnce > 5 {
		t.Errorf("%d searches at once", atOnce)
	}
	for port := uint16(2000); port < 3000; port++ {
		now = now.Add(10 * time.Millisecond)
		ask(port, one)
	}
	if n := r.policies.asked - atOnce; n < 20 || n > 40 {
		t.Errorf("%d searches in 10 s, want about 25", n)
	}
	if got := ask(1000, one); got == "" {
		t.Error("what is known is not told for want of time")
	}
}

// TestSensor holds the way from the source to the events: after the road, until
// the end, and with what was lost.
func TestSensor(t *testing.T) {
	r := newRig(t)
	r.source.losses = []Loss{{"new", "ring", 5}, {"drop", "ring", 1}} // before anybody listened
	want := event.Kinds(event.KindFlow)
	if r.Kinds() != want || r.Name() != "flow" {
		t.Fatalf("%s offers %v", r.Name(), r.Kinds())
	}
	if err := r.Start(interest.All(want|event.Kinds(event.KindDNS)), r.collect); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(interest.All(want), r.collect); err != nil { // again
		t.Fatal(err)
	}
	if err := r.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.source.put(local(), local())
	testkit.Wait(t, "the events of two records", func() bool { return len(r.seen()) == 4 })
	r.road.mu.Lock()
	if r.road.syncs == 0 {
		t.Error("the road was not waited for")
	}
	r.road.mu.Unlock()
	r.source.mu.Lock()
	r.source.losses = []Loss{{"new", "ring", 8}, {"drop", "ring", 1}, {"any", "decode", 2}}
	r.source.records = append(r.source.records, local())
	r.source.mu.Unlock()
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	var flows, lost int
	for _, e := range r.seen() {
		switch d := e.Data.(type) {
		case *event.Flow:
			flows++
		case *event.Lost:
			lost++
			if (d.What != "flow.new" || d.Count != 3 || d.Lane != "ring") && (d.What != "flow.any" || d.Count != 2 || d.Lane != "decode") {
				t.Errorf("lost %+v", d)
			}
		}
	}
	if flows != 6 || lost != 2 {
		t.Errorf("%d flows and %d losses, want 6 and 2", flows, lost)
	}
	if diff := cmp.Diff([]bool{true, false}, r.source.tells); diff != "" {
		t.Errorf("the datapath was told (-want +got):\n%s", diff)
	}
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
}

// TestLossesOfAnother holds that a datapath that begins to count anew has lost
// what it says.
func TestLossesOfAnother(t *testing.T) {
	r := newRig(t)
	r.losses = map[Loss]uint64{}
	var got []uint64
	for _, n := range []uint64{10, 10, 12, 3} {
		r.source.losses = []Loss{{"new", "ring", n}}
		if err := r.count(func(e *event.Event) { got = append(got, e.Data.(*event.Lost).Count) }); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]uint64{10, 2, 3}, got); diff != "" {
		t.Errorf("lost (-want +got):\n%s", diff)
	}
}

// TestNoDatapath holds that nothing is offered where nobody tells.
func TestNoDatapath(t *testing.T) {
	s := newSensor(&fakeRoad{}, Config{}, slog.New(slog.DiscardHandler))
	if s.Kinds() != 0 {
		t.Errorf("offers %v", s.Kinds())
	}
	if err := s.Start(interest.All(event.AllKinds), func(*event.Event) { t.Error("an event") }); err != nil {
		t.Error(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

// TestBrokenSource holds that a source that fails is asked again, and that Start
// says so.
func TestBrokenSource(t *testing.T) {
	r := newRig(t)
	r.source.err = errors.New("closed")
	if err := r.Start(interest.All(event.Kinds(event.KindFlow)), r.collect); err == nil || err.Error() != "count lost flows: closed" {
		t.Errorf("start: %v", err)
	}
	r.source.err = nil
	if err := r.Start(interest.All(event.Kinds(event.KindFlow)), r.collect); err != nil {
		t.Fatal(err)
	}
	r.source.mu.Lock()
	r.source.err = errors.New("closed")
	r.source.records = []Record{local()}
	r.source.mu.Unlock()
	testkit.Wait(t, "the events that were there", func() bool { return len(r.seen()) == 2 })
	r.source.mu.Lock()
	r.source.err = nil
	r.source.mu.Unlock()
	r.source.put(local())
	testkit.Wait(t, "the next events", func() bool { return len(r.seen()) == 4 })
}

// TestPace holds how often an idle source is looked at, and how soon a busy one.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &countingSource{}
		s := newSensor(&fakeRoad{}, Config{Source: src}, slog.New(slog.DiscardHandler))
		if err := s.Start(interest.All(event.Kinds(event.KindFlow)), func(*event.Event) {}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		idle := src.looks.Load()
		if idle < 200 || idle > 220 {
			t.Errorf("%d looks in 10 idle seconds, want about 200", idle)
		}
		src.fill.Store(1 << 20) // an eighth of the ring, each time
		time.Sleep(time.Second)
		synctest.Wait()
		if n := src.looks.Load() - idle; n < 800 {
			t.Errorf("%d looks in a busy second, want nearly 1,000", n)
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// countingSource has nothing to tell.
type countingSource struct {
	fakeSource
	looks, fill atomic.Int64
}

func (s *countingSource) Waiting() (bytes, room int) {
	s.looks.Add(1)
	return int(s.fill.Load()), 8 << 20
}
