package event

import (
	"strconv"
	"strings"
	"time"

	"warren/cluster"
)

// Flow is what the datapath tells of the packets between two ends, seen from
// one of them: from the pod that began, whose egress is judged, or from the pod
// that was asked, whose ingress is. A flow between two pods of this machine is
// therefore two events, each with its own verdict and its own process.
//
// Its types: flow_new, with the first packet; flow_update, when the verdict or
// the flags of TCP have changed and at intervals; flow_close; and flow_drop, when
// a packet was dropped. Counters are those of the flow, also where events of it
// were lost.
type Flow struct {
	Socket
	Type    string  `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Verdict Verdict `field:"flow.verdict" doc:"what became of the packet: forwarded, dropped, or audit (forwarded, though policy denies it)"`
	// Reason is why a packet was dropped, or would have been.
	Reason DropReason `field:"flow.drop_reason" doc:"why it was dropped, or would have been: policy_denied (by a rule), policy_default (no rule matched), spoofed_source, invalid_packet, fragment_unknown, unknown_transport, no_endpoint, no_route, source_routed, not_ip, error"`
	// Policy is the rule that gave the verdict, nil where none did.
	Policy *FlowPolicy `column:"flow.policy"`
	_      struct{}    `field:"flow.policy" type:"string" doc:"policy that gave the verdict: shop/allow-frontend; absent where no rule matched"`
	_      struct{}    `field:"flow.rule" type:"string" doc:"rule of the policy that gave the verdict: its number in its direction, from 1, or its name"`
	_      struct{}    `field:"flow.policy_tier" type:"string" doc:"tier of the policy that gave the verdict: Admin, Network, Baseline"`
	// Nearest says what the rule that came nearest to matching differs in.
	Nearest string `field:"flow.nearest" doc:"for what no rule matched: the rule that came nearest, and what it differs in; or that none allows anything"`

	Start           time.Time `field:"flow.start" doc:"when the first packet of the flow was seen"`
	Last            time.Time `field:"flow.last" doc:"when the latest packet of the flow was seen"`
	_               struct{}  `field:"flow.duration" type:"duration" doc:"nanoseconds between the first packet and the latest"`
	PacketsSent     uint64    `field:"flow.packets_sent" doc:"packets from the near end"`
	PacketsReceived uint64    `field:"flow.packets_received" doc:"packets to the near end"`
	BytesSent       uint64    `field:"flow.bytes_sent" doc:"bytes from the near end, headers included"`
	BytesReceived   uint64    `field:"flow.bytes_received" doc:"bytes to the near end, headers included"`
	PacketsDropped  uint64    `field:"flow.packets_dropped,omitzero" doc:"packets of either end that were dropped"`
	FlagsSent       TCPFlags  `field:"flow.tcp_flags_sent" doc:"flags of TCP that the near end has sent so far: SYN,ACK"`
	FlagsReceived   TCPFlags  `field:"flow.tcp_flags_received" doc:"flags of TCP that the far end has sent so far"`
	// ICMPType and ICMPCode are the packet's that the event is about, with
	// ICMP set.
	ICMP           bool     `column:"flow.icmp"`
	ICMPType       uint8    `column:"flow.icmp_type"`
	ICMPCode       uint8    `column:"flow.icmp_code"`
	_              struct{} `field:"flow.icmp_type" type:"uint" doc:"type of the ICMP message"`
	_              struct{} `field:"flow.icmp_code" type:"uint" doc:"code of the ICMP message"`
	Identity       uint32   `field:"flow.identity,omitzero" doc:"number of the near end's identity: pods that no policy tells apart have the same one"`
	RemoteIdentity uint32   `field:"flow.remote_identity,omitzero" doc:"number of the far end's identity"`
	Interface      string   `field:"flow.interface" doc:"name of the near end's device on this machine"`
	Ifindex        uint32   `column:"flow.ifindex"` // of that device
	PodUID         string   `column:"flow.pod_uid"` // of the pod at the near end, as its device has it; "" unknown
	Reply          bool     `column:"flow.reply"`   // the packet that the event is about came from the server's end

	// Service is the service that the near end asked for, where the far address is
	// that of a pod behind it; nil where there is none.
	Service *cluster.Service `column:"flow.service"`
	_       struct{}         `field:"flow.service" type:"string" doc:"service that the near end asked for, where the far address is one of its pods': shop/db"`

	// LocalPeer is what the near address stood for in the cluster; nil outside
	// clusters and while the cluster has not told. It says whose a flow is
	// where no process is known.
	LocalPeer *cluster.Peer `column:"flow.local"`

	_ struct{} `field:"flow.direction" type:"string" doc:"which way the flow was begun, seen from the near end: ingress, egress"`
}

// Kind implements [Data].
func (*Flow) Kind() Kind { return KindFlow }

// Direction returns ingress for a flow that the far end began, otherwise egress.
func (f *Flow) Direction() string {
	if f.Server {
		return "ingress"
	}
	return "egress"
}

// NoRule says of what no rule matched how near one was, as flow.nearest has it:
// which rule, and what it differs in; or that there is none.
func NoRule(nearest string) string {
	switch {
	case nearest == "":
		return "no rule matched"
	case strings.Contains(nearest, " differs in "):
		return "no rule matched; nearest: " + nearest
	}
	return "no rule matched; " + nearest
}

// A FlowPolicy is a rule that gave a verdict. It never changes, and is shared
// by all events of the rule.
type FlowPolicy struct {
	Kind      string             `column:"flow.policy_kind"` // NetworkPolicy, ClusterNetworkPolicy
	Namespace string             `column:"flow.policy_ns"`
	Name      string             `column:"flow.policy_name"`
	UID       string             `column:"flow.policy_uid"`
	Tier      cluster.PolicyTier `column:"flow.policy_tier"`
	Rule      int                `column:"flow.rule_index"` // from 0
	RuleName  string             `column:"flow.rule_name"`
	// Peers and Ports say what the rule is about: not everybody, not all ports.
	Peers bool `column:"flow.rule_peers"`
	Ports bool `column:"flow.rule_ports"`

	// Title and Number are how people name it: see [NewFlowPolicy].
	Title  string `column:"flow.policy"`
	Number string `column:"flow.rule"`
}

// NewFlowPolicy completes p by how people name it.
func NewFlowPolicy(p FlowPolicy) *FlowPolicy {
	p.Title, p.Number = p.Name, strconv.Itoa(p.Rule+1)
	if p.Namespace != "" {
		p.Title = p.Namespace + "/" + p.Name
	}
	if p.RuleName != "" {
		p.Number = p.RuleName
	}
	return &p
}

// A Verdict is what became of a packet.
type Verdict uint8

// The verdicts. Audit is that of a packet that policy denies where it is only
// to be told.
const (
	Forwarded Verdict = iota + 1
	Dropped
	Audit
)

var verdicts = [...]string{"", "forwarded", "dropped", "audit"}

// String returns forwarded, dropped or audit.
func (v Verdict) String() string {
	if int(v) < len(verdicts) {
		return verdicts[v]
	}
	return strconv.Itoa(int(v))
}

// Verdicts are the texts that flow.verdict has.
func Verdicts() []string { return verdicts[1:] }

// A DropReason is why a packet was dropped.
type DropReason uint8

// The reasons. PolicyDefault is that no rule matched where one had to.
const (
	PolicyDenied DropReason = iota + 1
	PolicyDefault
	SpoofedSource
	InvalidPacket
	FragmentUnknown
	UnknownTransport
	NoEndpoint
	NoRoute
	SourceRouted
	NotIP
	DatapathError

	numDropReasons
)

var dropReasons = [numDropReasons]string{
	PolicyDenied:     "policy_denied",
	PolicyDefault:    "policy_default",
	SpoofedSource:    "spoofed_source",
	InvalidPacket:    "invalid_packet",
	FragmentUnknown:  "fragment_unknown",
	UnknownTransport: "unknown_transport",
	NoEndpoint:       "no_endpoint",
	NoRoute:          "no_route",
	SourceRouted:     "source_routed",
	NotIP:            "not_ip",
	DatapathError:    "error",
}

// String returns the reason as a word, "" for none.
func (r DropReason) String() string {
	if r < numDropReasons {
		return dropReasons[r]
	}
	return strconv.Itoa(int(r))
}

// DropReasons are the texts that flow.drop_reason has.
func DropReasons() []string { return dropReasons[1:] }

// TCPFlags are flags of TCP, as they are sent.
type TCPFlags uint8

// The flags.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

var tcpFlagNames = [...]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"}

// tcpFlagTexts are the texts of all combinations: telling an event allocates none.
var tcpFlagTexts = func() (texts [256]string) {
	for n := range texts {
		var names []string
		for i, name := range tcpFlagNames {
			if n&(1<<i) != 0 {
				names = append(names, name)
			}
		}
		texts[n] = strings.Join(names, ",")
	}
	return texts
}()

// String returns the names of the flags, joined by commas.
func (f TCPFlags) String() string { return tcpFlagTexts[f] }

// SocketState tells that a socket asks for a connection, before there is an
// outcome.
type SocketState struct {
	Type   string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Socket Socket `fields:"-"`
}

// Kind implements [Data].
func (*SocketState) Kind() Kind { return KindSocket }
