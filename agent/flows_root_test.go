package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"warren/api"
	"warren/bpf"
	"warren/cluster"
	"warren/event"
	"warren/filter"
	"warren/identity"
	"warren/internal/testkit"
	"warren/pipeline"
	"warren/sensor/all"
)

// A flowRoad is the road of an agent that connects pods, as [Run] wires it.
type flowRoad struct {
	*flowWatch
	spine *pipeline.Pipeline
	who   *identity.Identity
}

// follow begins one for the network of w.
func (w *wire) follow() *flowRoad {
	t := w.t
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	road, err := bpf.NewRoad(bpf.Config{})
	if err != nil {
		t.Fatal(err)
	}
	who := identity.New(identity.Config{Cluster: w.state}, log)
	r := &flowRoad{flowWatch: newFlowWatch(w.net), who: who}
	watch := w.net.watchFlows()
	watch.Explain = 100 // there is time to look for rules on slow machines, too
	r.spine = pipeline.New(pipeline.Config{StopGrace: time.Millisecond}, road, who, all.Sensors(road, all.Config{Flow: watch}, log), log)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 3)
	go func() { ended <- who.Run(ctx) }()
	go func() { ended <- r.spine.Run(ctx) }()
	go func() { ended <- r.memory.Run(ctx, events{r.spine}) }()
	t.Cleanup(func() {
		cancel()
		for range 3 {
			if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		if err := road.Close(); err != nil {
			t.Error(err)
		}
	})
	<-r.spine.Ready()
	testkit.Wait(t, "the sensor of flows to run", func() bool {
		for _, s := range r.spine.Status().Sensors {
			if s.Name == "flow" && s.Running {
				return true
			}
		}
		return false
	})
	return r
}

// flows returns what is remembered and matches.
func (r *flowRoad) flows(t *testing.T, expr string) []*event.Event {
	t.Helper()
	p, err := filter.Compile(expr)
	if err != nil {
		t.Fatal(err)
	}
	var out []*event.Event
	for _, e := range r.memory.Recent() {
		if e.Data.Kind() == event.KindFlow && p.Match(e) {
			out = append(out, e)
		}
	}
	return out
}

// wait waits for flows that match, and returns the first.
func (r *flowRoad) wait(t *testing.T, expr string) (*event.Event, *event.Flow) {
	t.Helper()
	e := testkit.WaitFor(t, "a flow: "+expr, func() (*event.Event, bool) {
		l := r.flows(t, expr)
		if len(l) == 0 {
			return nil, false
		}
		return l[0], true
	})
	return e, e.Data.(*event.Flow)
}

// TestBPFFlows holds what is told of packets, from the kernel's programs to the
// memory of flows: verdicts, the rules behind them, and the processes at both
// ends, of what passes and of what does not.
func TestBPFFlows(t *testing.T) {
	w := newWire(t)
	t.Cleanup(w.begin())
	w.tell("web", "db")
	w.plug("web", "10.244.1.5", 5)
	w.plug("db", "10.244.1.6", 6)
	for _, name := range []string{"web", "db"} {
		if err := w.net.AddEndpoint(t.Context(), w.pods[name].endpoint); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"web", "db"} {
		w.state.SetPod(&cluster.Pod{UID: "uid-" + name, Name: name, Namespace: "shop", Node: "n1", Labels: map[string]string{"app": name}, Phase: "Running", Created: time.Now(), Started: time.Now(),
			Addrs: w.pods[name].endpoint.Addrs}, time.Now())
	}
	r := w.follow()
	w.serve("db", 5432)
	w.serve("db", 80)

	// No policy.
	if !w.reaches("web", "10.244.1.6:80") {
		t.Fatal("pods do not reach each other")
	}
	self := uint64(os.Getpid())
	out, f := r.wait(t, "flow.direction = egress and fd.sport = 80 and evt.type = flow_new")
	if f.Verdict != event.Forwarded || f.Policy != nil || f.LocalPeer == nil || f.LocalPeer.Pod.Name != "web" || f.RemotePeer == nil || f.RemotePeer.Pod.Name != "db" || f.Interface != "wrnweb" ||
		f.PodUID != "uid-web" || f.Local != netip.MustParseAddr("10.244.1.5") || f.FlagsSent&event.SYN == 0 {
		t.Errorf("the client's end: %s", event.AppendJSON(nil, out))
	}
	if uint64(out.Actor.PID) != self {
		t.Errorf("the client's end is of process %d, want %d: %s", out.Actor.PID, self, event.AppendJSON(nil, out))
	}
	in, f := r.wait(t, "flow.direction = ingress and fd.sport = 80 and evt.type = flow_new")
	if f.Verdict != event.Forwarded || f.LocalPeer == nil || f.LocalPeer.Pod.Name != "db" || f.Interface != "wrndb" || f.LocalPort != 80 {
		t.Errorf("the server's end: %s", event.AppendJSON(nil, in))
	}
	end, f := r.wait(t, "flow.direction = egress and fd.sport = 80 and evt.type = flow_close")
	if f.PacketsSent < 3 || f.BytesSent < 120 || f.PacketsReceived < 2 || f.FlagsSent&(event.SYN|event.ACK|event.FIN) != event.SYN|event.ACK|event.FIN || f.FlagsReceived&event.SYN == 0 ||
		f.Start.IsZero() || time.Since(f.Start) > time.Minute || f.Last.Before(f.Start) || uint64(end.Actor.PID) != self {
		t.Errorf("the end: %s", event.AppendJSON(nil, end))
	}

	// One rule, and default deny.
	w.state.SetPolicy(&cluster.Policy{UID: "p1", Namespace: "shop", Name: "db", Tier: cluster.NetworkTier, IsolatesIngress: true, Generation: 1,
		Subject: cluster.PolicySubject{Pods: cluster.Selector{Equal: map[string]string{"app": "db"}}},
		Ingress: []cluster.PolicyRule{{Action: cluster.AllowAction, Ports: []cluster.PolicyPort{{Protocol: "tcp", First: 5432, Last: 5432}},
			Peers: []cluster.PolicyPeer{{SameNamespace: true, Pods: &cluster.Selector{Equal: map[string]string{"app": "web"}}}}}}}, time.Now())
	testkit.Wait(t, "the policy to be in force", func() bool { return !w.reaches("web", "10.244.1.6:80") })
	drop, f := r.wait(t, "flow.verdict = dropped and fd.sport = 80")
	if f.Type != "flow_drop" || f.Direction() != "ingress" || f.Reason != event.PolicyDefault || f.Policy != nil || f.Nearest != "shop/db differs in port 80 (it has tcp 5432)" || f.LocalPeer == nil || f.LocalPeer.Pod.Name != "db" ||
		f.RemotePeer == nil || f.RemotePeer.Pod.Name != "web" {
		t.Errorf("dropped: %s", event.AppendJSON(nil, drop))
	}
	if !w.reaches("web", "10.244.1.6:5432") {
		t.Fatal("what the policy allows does not pass")
	}
	by, f := r.wait(t, "flow.direction = ingress and fd.sport = 5432 and evt.type = flow_new")
	if f.Verdict != event.Forwarded || f.Policy == nil || f.Policy.Title != "shop/db" || f.Policy.Number != "1" || f.Policy.Kind != "NetworkPolicy" || !f.Policy.Peers || !f.Policy.Ports {
		t.Errorf("allowed by a rule: %s", event.AppendJSON(nil, by))
	}

	// What is dropped on its way out has the process that sends it, though
	// nobody ever answers.
	w.state.SetPolicy(&cluster.Policy{UID: "p2", Namespace: "shop", Name: "quiet", Tier: cluster.NetworkTier, IsolatesEgress: true, Generation: 1,
		Subject: cluster.PolicySubject{Pods: cluster.Selector{Equal: map[string]string{"app": "web"}}}}, time.Now())
	testkit.Wait(t, "the other policy to be in force", func() bool { return !w.reaches("web", "10.244.1.6:5432") })
	drop, f = r.wait(t, "flow.verdict = dropped and fd.sport = 5432 and flow.direction = egress")
	if f.Reason != event.PolicyDefault || f.LocalPeer == nil || f.LocalPeer.Pod.Name != "web" || f.Nearest != "what isolates it allows nothing: shop/quiet" {
		t.Errorf("dropped: %s", event.AppendJSON(nil, drop))
	}
	if uint64(drop.Actor.PID) != self {
		t.Errorf("dropped on its way out: of process %d, want %d: %s", drop.Actor.PID, self, event.AppendJSON(nil, drop))
	}

	st := r.state()
	if st.Events[0].Told == 0 || st.Events[3].Told == 0 || st.Flows == 0 {
		t.Errorf("state %+v", st)
	}

	// Hubble's clients are told the same, and of no connection twice.
	h := api.NewHubble(api.HubbleConfig{Served: w.net.Served}, events{r.spine}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	testkit.Wait(t, "Hubble's flows", func() bool {
		w.reaches("web", "10.244.1.6:80")
		return h.Stats().Seen > 0
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
