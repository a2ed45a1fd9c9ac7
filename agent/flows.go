package agent

import (
	"cmp"
	"net/netip"
	"sync"

	"warren/api"
	"warren/datapath"
	"warren/event"
	"warren/netpol"
	"warren/sensor/flow"
)

// flowKernel is what is asked of a [datapath.Datapath] about flows.
type flowKernel interface {
	Tell(listening bool) error
	DrainFlows(tell func(*datapath.FlowEvent)) error
	FlowsWaiting() (bytes, room int)
	Counters() (datapath.Counters, error)
}

var _ flowKernel = (*datapath.Datapath)(nil)

// watchFlows returns how the flow sensor gets at the datapath: not at all where
// there is none.
func (n *network) watchFlows() flow.Config {
	if n == nil {
		return flow.Config{}
	}
	kernel, ok := n.kernel.(flowKernel)
	if !ok {
		return flow.Config{} // a kernel of tests
	}
	return flow.Config{Source: &flowSource{kernel: kernel}, Policies: n, Device: n.deviceOf}
}

// deviceOf returns the name of a device of this node and the uid of the pod
// behind it, "" where that is not known.
func (n *network) deviceOf(ifindex uint32) (name, pod string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.endpoints {
		if e.HostIndex == int(ifindex) {
			if e.pod != nil {
				return e.HostInterface, e.pod.UID
			}
			return e.HostInterface, e.PodUID
		}
	}
	return "", ""
}

// flowSource makes records for the flow sensor of what the datapath tells.
type flowSource struct {
	kernel flowKernel
	record flow.Record
	losses []flow.Loss
}

var _ flow.Source = (*flowSource)(nil)

// Tell implements [flow.Source].
func (s *flowSource) Tell(on bool) error { return s.kernel.Tell(on) }

// Waiting implements [flow.Source].
func (s *flowSource) Waiting() (bytes, room int) { return s.kernel.FlowsWaiting() }

// Read implements [flow.Source].
func (s *flowSource) Read(take func(*flow.Record)) error {
	return s.kernel.DrainFlows(func(e *datapath.FlowEvent) {
		s.fill(e)
		take(&s.record)
	})
}

// flowKinds and flowVerdicts are the sensor's words for the datapath's.
var (
	flowKinds    = [...]flow.Kind{datapath.FlowNew: flow.Began, datapath.FlowUpdate: flow.Went, datapath.FlowClose: flow.Ended, datapath.FlowDrop: flow.Dropped}
	flowVerdicts = [...]flow.Verdict{datapath.NotJudged: flow.Unjudged, datapath.Allowed: flow.Allowed, datapath.Denied: flow.Denied, datapath.Audited: flow.Audited}
)

// flowDrops are the reasons for drops other than by policy.
var flowDrops = map[uint8]event.DropReason{
	datapath.ReasonSpoofed:         event.SpoofedSource,
	datapath.ReasonInvalidPacket:   event.InvalidPacket,
	datapath.ReasonFragmentUnknown: event.FragmentUnknown,
	datapath.ReasonUnknownL4:       event.UnknownTransport,
	datapath.ReasonNoEndpoint:      event.NoEndpoint,
	datapath.ReasonNoRoute:         event.NoRoute,
	datapath.ReasonSourceRouted:    event.SourceRouted,
	datapath.ReasonNotIP:           event.NotIP,
}

// fill makes the record say what e does.
func (s *flowSource) fill(e *datapath.FlowEvent) {
	r := &s.record
	*r = flow.Record{
		Protocol: e.Protocol, Reply: e.Packet.Reply, Service: e.Service, Ktime: e.Ktime, Began: e.Began, Seen: e.Seen,
		Cookie: e.Packet.Cookie, Dropped: e.Dropped, ICMPType: e.Packet.ICMP[0], ICMPCode: e.Packet.ICMP[1],
		Client: netip.AddrPortFrom(e.Client, e.ClientPort), Server: netip.AddrPortFrom(e.Server, e.ServerPort),
	}
	if int(e.Kind) < len(flowKinds) {
		r.Kind = flowKinds[e.Kind]
	}
	if r.Kind == flow.Ended { // no packet
		r.ICMPType, r.ICMPCode = e.ICMP[0], e.ICMP[1]
	}
	for i := range r.Ends {
		r.Ends[i] = flow.End{
			TCPFlags: e.TCPFlags[i], Rule: e.Rule[i], Identity: e.ID[i], Ifindex: uint32(e.Ifindex[i]), Packets: e.Packets[i], Bytes: e.Bytes[i],
		}
		if v := e.Verdict[i]; int(v) < len(flowVerdicts) {
			r.Ends[i].Verdict = flowVerdicts[v]
		}
	}
	if r.Kind == flow.Dropped && e.Packet.Reason != datapath.ReasonPolicy {
		r.Reason = cmp.Or(flowDrops[e.Packet.Reason], event.DatapathError)
		whereSeen(r, e)
	}
}

// whereSeen says at whose device a packet was dropped, where that was before its
// flow was looked for: the flow does not say.
func whereSeen(r *flow.Record, e *datapath.FlowEvent) {
	if r.Ends[0].Ifindex != 0 || r.Ends[1].Ifindex != 0 {
		return
	}
	switch e.Packet.Hook {
	case datapath.HookEndpointFrom:
		r.Ends[netpol.Egress].Ifindex = uint32(e.Packet.Ifindex)
	case datapath.HookEndpointTo:
		r.Ends[netpol.Ingress].Ifindex = uint32(e.Packet.Ifindex)
	}
}

// Losses implements [flow.Source].
func (s *flowSource) Losses() ([]flow.Loss, error) {
	c, err := s.kernel.Counters()
	if err != nil {
		return nil, err
	}
	s.losses = append(s.losses[:0],
		flow.Loss{What: "any", Lane: "decode", Count: c.Malformed},
		flow.Loss{What: "drop", Lane: "rate", Count: c.Quiet},
		flow.Loss{What: "new", Lane: "table", Count: c.Unflowed},
		flow.Loss{What: "close", Lane: "table", Count: c.Evicted},
	)
	for kind, count := range c.Lost {
		s.losses = append(s.losses, flow.Loss{What: flowKindName(kind), Lane: "ring", Count: count})
	}
	return s.losses, nil
}

func flowKindName(k datapath.FlowEventKind) string {
	switch k {
	case datapath.FlowNew:
		return "new"
	case datapath.FlowUpdate:
		return "update"
	case datapath.FlowClose:
		return "close"
	}
	return "drop"
}

// A flowWatch remembers flows and counts them for the status; nil where there is
// no datapath.
type flowWatch struct {
	memory *api.FlowMemory
	kernel flowKernel

	mu   sync.Mutex
	last datapath.Counters // that could be read
}

func newFlowWatch(n *network) *flowWatch {
	if n == nil {
		return nil
	}
	kernel, ok := n.kernel.(flowKernel)
	if !ok {
		return nil
	}
	return &flowWatch{memory: api.NewFlowMemory(api.FlowsConfig{}), kernel: kernel}
}

// state describes what is known, nil where there is no datapath.
func (w *flowWatch) state() *api.FlowsState {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	if c, err := w.kernel.Counters(); err == nil {
		w.last = c
	}
	c := w.last
	w.mu.Unlock()
	m := w.memory.Stats()
	st := &api.FlowsState{Flows: m.Flows, MaxFlows: m.MaxFlows, Bytes: m.Bytes, Seen: m.Seen, Oldest: m.Oldest, Events: []api.FlowEventCount{}, Begun: c.Begun, Ended: c.Ended, Quiet: c.Quiet}
	for k := datapath.FlowNew; k <= datapath.FlowDrop; k++ {
		st.Events = append(st.Events, api.FlowEventCount{Kind: flowKindName(k), Told: c.Told[k], Lost: c.Lost[k]})
	}
	return st
}
