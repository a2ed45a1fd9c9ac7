package flow

import (
	"cmp"
	"net"
	"net/netip"
	"time"

	"warren/bpf"
	"warren/cluster"
	"warren/event"
	"warren/netpol"
)

// flowEvent is an event and its data in one allocation.
type flowEvent struct {
	event event.Event
	flow  event.Flow
}

// The bounds of what a teller remembers.
const (
	maxRules      = 65536
	maxNearest    = 16384
	maxInterfaces = 4096
	ruleLife      = 10 * time.Second // a number whose rule was not known is asked for again
	interfaceLife = 10 * time.Second
)

// A teller makes events of records. It belongs to one goroutine.
type teller struct {
	policies Policies
	budget   budget

	generation uint64
	rules      map[netpol.RuleID]ruleSeen
	nearest    map[nearestKey]string
	interfaces map[uint32]interfaceSeen
	ifname     func(ifindex uint32) string
	known      func(ifindex uint32) (name, pod string)
	now        func() time.Time
	// clock is the time of the record at hand, coarse enough for lifetimes.
	clock time.Time
}

type ruleSeen struct {
	policy     *event.FlowPolicy // nil: nobody knew
	asked      time.Time
	generation uint64
}

type interfaceSeen struct {
	name, pod string
	asked     time.Time
}

func newTeller(cfg Config) teller {
	return teller{
		policies:   cfg.Policies,
		budget:     budget{share: cfg.Explain},
		rules:      map[netpol.RuleID]ruleSeen{},
		nearest:    map[nearestKey]string{},
		interfaces: map[uint32]interfaceSeen{},
		ifname:     ifname,
		known:      cfg.Device,
		now:        time.Now,
	}
}

// tell emits the events of a record: one for each end that it tells of.
func (t *teller) tell(r *Record, emit func(*event.Event)) {
	t.clock = bpf.Wall(r.Ktime)
	if r.Service && r.Kind != Dropped && r.Ends[netpol.Egress].Verdict == Unjudged {
		return
	}
	told := false
	for i := range r.Ends {
		if r.tells(netpol.Direction(i)) {
			emit(t.event(r, netpol.Direction(i)))
			told = true
		}
	}
	if !told {
		emit(t.event(r, r.lastResort()))
	}
}

// tells reports whether a record tells of an end: one that is here and was
// judged; of a drop, one that was denied.
func (r *Record) tells(d netpol.Direction) bool {
	e := &r.Ends[d]
	switch {
	case e.Ifindex == 0 || e.Verdict == Unjudged:
		return false
	case r.Kind == Dropped:
		return e.Verdict == Denied
	}
	return true
}

// lastResort is the end that a record is told of though no end was judged: the
// packet was dropped before that, or is nobody's concern. It is the one that
// sent the packet, if it is here.
func (r *Record) lastResort() netpol.Direction {
	sender := netpol.Egress
	if r.Reply {
		sender = netpol.Ingress
	}
	if other := netpol.Ingress - sender; r.Ends[sender].Ifindex == 0 && r.Ends[other].Ifindex != 0 {
		return other
	}
	return sender
}

var kindTypes = [...]string{Began: "flow_new", Went: "flow_update", Ended: "flow_close", Dropped: "flow_drop"}

// event makes the event of one end.
func (t *teller) event(r *Record, d netpol.Direction) *event.Event {
	both := new(flowEvent)
	f := &both.flow
	near, far := &r.Ends[d], &r.Ends[netpol.Ingress-d]
	local, remote := r.Client, r.Server
	if d == netpol.Ingress {
		local, remote = remote, local
	}
	f.Local, f.LocalPort = local.Addr(), local.Port()
	f.Remote, f.RemotePort = remote.Addr(), remote.Port()
	f.L4 = event.Proto(r.Protocol)
	f.Server = d == netpol.Ingress
	if r.Reply == f.Server {
		f.Cookie = r.Cookie // the near end's socket sent it
	}
	f.Reply = r.Reply
	switch r.Protocol {
	case protoICMP, protoICMP6:
		f.ICMP, f.ICMPType, f.ICMPCode = true, r.ICMPType, r.ICMPCode
		f.LocalPort, f.RemotePort = 0, 0
	case protoTCP:
		f.FlagsSent, f.FlagsReceived = event.TCPFlags(near.TCPFlags), event.TCPFlags(far.TCPFlags)
	}
	f.PacketsSent, f.BytesSent = near.Packets, near.Bytes
	f.PacketsReceived, f.BytesReceived = far.Packets, far.Bytes
	f.PacketsDropped = r.Dropped
	f.Identity, f.RemoteIdentity = uint32(near.Identity), uint32(far.Identity)
	f.Ifindex = near.Ifindex
	f.Interface, f.PodUID = t.device(near.Ifindex)
	if int(r.Kind) < len(kindTypes) {
		f.Type = kindTypes[r.Kind]
	}
	t.judge(f, r, d, near)
	both.event = event.Event{Time: t.clock, Ktime: r.Ktime, Data: f}
	f.Start, f.Last = r.Began, r.Seen
	if f.Last.IsZero() {
		f.Last = t.clock
	}
	return &both.event
}

// Protocols that are told differently.
const (
	protoICMP  = 1
	protoTCP   = 6
	protoICMP6 = 58
)

// judge says what became of the packet at one end, and by which rule.
func (t *teller) judge(f *event.Flow, r *Record, d netpol.Direction, end *End) {
	f.Verdict = event.Forwarded
	switch end.Verdict {
	case Denied:
		f.Verdict = event.Dropped
		if r.Kind != Ended {
			f.Type = kindTypes[Dropped]
		}
	case Audited:
		f.Verdict = event.Audit
	case Unjudged:
		if r.Kind == Dropped {
			f.Verdict = event.Dropped
		}
	}
	if end.Rule != 0 {
		f.Policy = t.rule(end.Rule)
	}
	switch {
	case f.Verdict == event.Forwarded:
	case r.Reason != 0:
		f.Reason = r.Reason
	case end.Verdict == Unjudged:
		f.Reason = event.DatapathError
	case end.Rule != 0:
		f.Reason = event.PolicyDenied
	default:
		f.Reason = event.PolicyDefault
	}
	if f.Reason == event.PolicyDefault {
		f.Nearest = t.near(r, d)
	}
}

// rule returns what is told of a rule, nil where nobody knows it. One that is no
// longer in force is told as it was.
func (t *teller) rule(id netpol.RuleID) *event.FlowPolicy {
	if t.policies == nil {
		return nil
	}
	seen, ok := t.rules[id]
	generation := t.policies.Generation()
	if ok && seen.generation == generation && (seen.policy != nil || t.clock.Sub(seen.asked) < ruleLife) {
		return seen.policy
	}
	if len(t.rules) >= maxRules {
		clear(t.rules) // numbers are not used again, so those in use come back
	}
	seen.asked, seen.generation = t.clock, generation
	if ref, p, ok := t.policies.Rule(id); ok {
		if next := describe(ref, p); seen.policy == nil || *next != *seen.policy {
			seen.policy = next
		}
	}
	t.rules[id] = seen
	return seen.policy
}

// describe says what an event tells of a rule.
func describe(ref netpol.Ref, p *cluster.Policy) *event.FlowPolicy {
	f := event.FlowPolicy{Kind: "ClusterNetworkPolicy", Namespace: ref.Namespace, Name: ref.Name, UID: ref.UID, Tier: ref.Tier, Rule: ref.Rule, RuleName: ref.RuleName, Peers: true, Ports: true}
	if ref.Tier == cluster.NetworkTier {
		f.Kind = "NetworkPolicy"
	}
	if p != nil {
		rules := p.Egress
		if ref.Direction == netpol.Ingress {
			rules = p.Ingress
		}
		if ref.Rule >= 0 && ref.Rule < len(rules) {
			f.Peers, f.Ports = !rules[ref.Rule].AnyPeer, len(rules[ref.Rule].Ports) > 0
		}
	}
	return event.NewFlowPolicy(f)
}

// A nearestKey is what the nearest rule depends on. It names both ends, not their
// identities: the text names them, too.
type nearestKey struct {
	direction      netpol.Direction
	protocol       uint8
	port           uint16
	client, server netip.Addr
}

// near says which rule is nearest to allowing the packet. It looks while there
// is time for it; "" is that there was none, or that no rule is near.
func (t *teller) near(r *Record, d netpol.Direction) string {
	if t.policies == nil {
		return ""
	}
	if g := t.policies.Generation(); g != t.generation {
		t.generation = g
		clear(t.nearest)
	}
	k := nearestKey{direction: d, protocol: r.Protocol, port: r.Server.Port(), client: r.Client.Addr(), server: r.Server.Addr()}
	if r.Protocol == protoICMP || r.Protocol == protoICMP6 {
		k.port = 0
	}
	text, ok := t.nearest[k]
	if ok {
		return text
	}
	begun := t.now()
	if !t.budget.has(begun) {
		return ""
	}
	text = t.policies.Nearest(d, netpol.Packet{Src: k.client, Dst: k.server, Protocol: r.Protocol, Port: k.port})
	t.budget.spend(begun, t.now())
	if len(t.nearest) >= maxNearest {
		clear(t.nearest)
	}
	t.nearest[k] = text
	return text
}

// device returns the name of a device and the uid of the pod behind it, "" for
// what is not known.
func (t *teller) device(ifindex uint32) (name, pod string) {
	if ifindex == 0 {
		return "", ""
	}
	seen, ok := t.interfaces[ifindex]
	if ok && t.clock.Sub(seen.asked) < interfaceLife {
		return seen.name, seen.pod
	}
	if len(t.interfaces) >= maxInterfaces {
		clear(t.interfaces)
	}
	// One that is gone is told of as it was.
	if t.known != nil {
		name, pod = t.known(ifindex)
	}
	if name == "" {
		name = t.ifname(ifindex)
	}
	seen.name, seen.pod = cmp.Or(name, seen.name), cmp.Or(pod, seen.pod)
	seen.asked = t.clock
	t.interfaces[ifindex] = seen
	return seen.name, seen.pod
}

func ifname(ifindex uint32) string {
	i, err := net.InterfaceByIndex(int(ifindex))
	if err != nil {
		return ""
	}
	return i.Name
}

// A budget bounds the part of the time that something takes: what was spent is
// paid back as time goes by.
type budget struct {
	share float64
	free  time.Time // when what was spent will be paid back
}

// budgetAhead is how much may be spent at once.
const budgetAhead = time.Second

func (b *budget) has(now time.Time) bool { return b.free.Sub(now) < budgetAhead }

func (b *budget) spend(begun, ended time.Time) {
	if b.free.Before(begun) {
		b.free = begun
	}
	b.free = b.free.Add(time.Duration(float64(ended.Sub(begun)) / b.share))
}
