package flow

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"warren/cluster"
	"warren/event"
	"warren/netpol"
)

// fakeSource tells what a test gives it.
type fakeSource struct {
	mu      sync.Mutex
	on      bool
	tells   []bool
	records []Record
	losses  []Loss
	err     error
	reads   int
}

func (s *fakeSource) put(r ...Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, r...)
}

func (s *fakeSource) Tell(on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on = on
	s.tells = append(s.tells, on)
	return s.err
}

func (s *fakeSource) Waiting() (bytes, room int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records) * 300, 8 << 20
}

func (s *fakeSource) Read(take func(*Record)) error {
	s.mu.Lock()
	list := s.records
	s.records = nil
	s.reads++
	s.mu.Unlock()
	var one Record
	for i := range list {
		one = list[i]
		take(&one)
		one = Record{Protocol: 99, Kind: 77} // it is the source's again
	}
	return s.err
}

func (s *fakeSource) Losses() ([]Loss, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.losses, s.err
}

// fakeRoad counts how often it was waited for.
type fakeRoad struct {
	mu    sync.Mutex
	syncs int
	then  func()
}

func (r *fakeRoad) Sync(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.syncs++
	if r.then != nil {
		r.then()
	}
	return nil
}

// fakePolicies knows rules 1 to 3.
type fakePolicies struct {
	mu         sync.Mutex
	generation uint64
	asked      int
	cost       func()
	gone       bool
}

func (p *fakePolicies) Generation() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.generation
}

func (p *fakePolicies) Rule(id netpol.RuleID) (netpol.Ref, *cluster.Policy, bool) {
	if p.gone {
		return netpol.Ref{}, nil, false
	}
	switch id {
	case 1:
		policy := &cluster.Policy{Ingress: []cluster.PolicyRule{{}, {AnyPeer: true, Ports: []cluster.PolicyPort{{First: 80, Last: 80}}}}}
		return netpol.Ref{Tier: cluster.NetworkTier, Namespace: "shop", Name: "allow-frontend", UID: "u1", Direction: netpol.Ingress, Rule: 1}, policy, true
	case 2:
		return netpol.Ref{Tier: cluster.AdminTier, Name: "no-world", UID: "u2", Direction: netpol.Egress, RuleName: "deny-all"}, nil, true
	}
	return netpol.Ref{}, nil, false
}

func (p *fakePolicies) Nearest(d netpol.Direction, packet netpol.Packet) string {
	p.mu.Lock()
	p.asked++
	p.mu.Unlock()
	if p.cost != nil {
		p.cost()
	}
	if d == netpol.Ingress {
		return "shop/allow-frontend differs in peer " + packet.Src.String()
	}
	return ""
}

// A rig runs a sensor on a fake source.
type rig struct {
	*Sensor
	source   *fakeSource
	road     *fakeRoad
	policies *fakePolicies
	mu       sync.Mutex
	events   []*event.Event
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{source: &fakeSource{}, road: &fakeRoad{}, policies: &fakePolicies{generation: 1}}
	r.Sensor = newSensor(r.road, Config{Source: r.source, Policies: r.policies, Device: func(i uint32) (string, string) {
		return map[uint32]string{11: "wrn11"}[i], map[uint32]string{11: "front", 12: "cart"}[i]
	}, Idle: time.Millisecond}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	r.teller.ifname = func(i uint32) string { return map[uint32]string{11: "wrong", 12: "wrn12"}[i] }
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) collect(e *event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *rig) seen() []*event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*event.Event(nil), r.events...)
}

// told returns the flows of one record.
func (r *rig) told(rec Record) []*event.Flow {
	var out []*event.Flow
	r.teller.tell(&rec, func(e *event.Event) { out = append(out, e.Data.(*event.Flow)) })
	return out
}

// local is a flow between two pods of this node, from 11 to 12.
func local() Record {
	return Record{
		Kind: Began, Protocol: 6, Ktime: 5e9, Began: time.Unix(1e9, 0), Seen: time.Unix(1e9, 1), Cookie: 77,
		Client: netip.MustParseAddrPort("10.0.0.1:40000"), Server: netip.MustParseAddrPort("10.0.0.2:80"),
		Ends: [2]End{
			{Verdict: Allowed, Rule: 2, Identity: 7, Ifindex: 11, TCPFlags: 2, Packets: 3, Bytes: 180},
			{Verdict: Allowed, Rule: 1, Identity: 9, Ifindex: 12, TCPFlags: 0x12, Packets: 2, Bytes: 120},
		},
	}
}
