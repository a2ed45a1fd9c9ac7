package api

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"

	"warren/cluster"
	"warren/event"
)

// Types of events as Hubble counts them, of what the datapath tells.
const (
	typeDrop    = 1
	typeVerdict = 5
)

// How a policy matched, as Cilium numbers it.
const (
	matchNone   = 0
	matchL3     = 1
	matchL3L4   = 2
	matchL4     = 3
	matchAll    = 4
	egressSub   = 2 // sub types of verdicts
	ingressSub  = 1
	auditPrefix = "would be dropped: "
)

// judged reports whether an event tells of a decision by policy.
func judged(f *event.Flow) bool {
	if f.Type != "flow_new" && f.Type != "flow_drop" {
		return false
	}
	return f.Policy != nil || f.Reason == event.PolicyDenied || f.Reason == event.PolicyDefault
}

// packetFlows returns how many flows an event of the datapath is: one for the
// packet, and before it one for the verdict where policy decided.
func packetFlows(f *event.Flow) int {
	if judged(f) {
		return 2
	}
	return 1
}

// packets tells of an event of the datapath.
func (t *flowTeller) packets(dst []*flowpb.Flow, r *flowRecord) []*flowpb.Flow {
	if judged(r.flow) {
		dst = append(dst, t.verdict(r))
	}
	return append(dst, t.packet(r))
}

// seen returns a flow with what both kinds have.
func (t *flowTeller) seen(r *flowRecord) *flowpb.Flow {
	d := r.flow
	way := outward
	if d.Reply != d.Server {
		way = inward // the far end sent it
	}
	f := t.base(r, way)
	f.Verdict = verdictOf(d)
	f.Interface = &flowpb.NetworkInterface{Index: d.Ifindex, Name: d.Interface}
	if d.Service != nil && way == outward {
		f.DestinationService = &flowpb.Service{Namespace: d.Service.Namespace, Name: d.Service.Name}
	}
	sent := d.FlagsSent
	if way == inward {
		sent = d.FlagsReceived
	}
	t.layer4(f, d, way, sent)
	f.PolicyMatchType = matchType(d)
	if p := policyOf(d); p != nil {
		by := []*flowpb.Policy{p}
		switch denied := d.Verdict != event.Forwarded; {
		case d.Server && denied:
			f.IngressDeniedBy = by
		case d.Server:
			f.IngressAllowedBy = by
		case denied:
			f.EgressDeniedBy = by
		default:
			f.EgressAllowedBy = by
		}
	}
	return f
}

// packet tells what became of a packet.
func (t *flowTeller) packet(r *flowRecord) *flowpb.Flow {
	d := r.flow
	f := t.seen(r)
	say(f, join(transport(f, d), outcome(d), volume(d)))
	if d.Verdict == event.Dropped {
		reason := dropReason(d.Reason)
		f.EventType = &flowpb.CiliumEventType{Type: typeDrop, SubType: int32(reason)}
		f.DropReasonDesc = reason
		f.DropReason = uint32(reason) //nolint:staticcheck // older clients read no other
		f.TraceObservationPoint = flowpb.TraceObservationPoint_UNKNOWN_POINT
		f.TraceReason = flowpb.TraceReason_TRACE_REASON_UNKNOWN
		return f
	}
	// The device is always a pod's, whether or not a process is known.
	f.TraceObservationPoint, f.EventType.SubType = flowpb.TraceObservationPoint_TO_ENDPOINT, traceToEndpoint
	if d.Reply == d.Server {
		f.TraceObservationPoint, f.EventType.SubType = flowpb.TraceObservationPoint_FROM_ENDPOINT, traceFromEndpoint
	}
	if d.Type == "flow_new" {
		f.TraceReason = flowpb.TraceReason_NEW
	}
	return f
}

// verdict tells what policy decided.
func (t *flowTeller) verdict(r *flowRecord) *flowpb.Flow {
	d := r.flow
	f := t.seen(r)
	f.EventType = &flowpb.CiliumEventType{Type: typeVerdict, SubType: egressSub}
	if d.Server {
		f.EventType.SubType = ingressSub
	}
	f.TraceObservationPoint = flowpb.TraceObservationPoint_UNKNOWN_POINT
	f.TraceReason = flowpb.TraceReason_TRACE_REASON_UNKNOWN
	if d.Verdict != event.Forwarded {
		f.DropReasonDesc = dropReason(d.Reason)
		f.DropReason = uint32(f.DropReasonDesc) //nolint:staticcheck // older clients read no other
	}
	say(f, join(transport(f, d), outcome(d)))
	return f
}

// layer4 sets the ports, or what a protocol has instead.
func (t *flowTeller) layer4(f *flowpb.Flow, d *event.Flow, way flowWay, sent event.TCPFlags) {
	source, destination := uint32(d.LocalPort), uint32(d.RemotePort)
	if way == inward {
		source, destination = destination, source
	}
	switch {
	case d.L4 == event.TCP:
		setFlags(f, tcpFlags(sent))
	case d.ICMP && ipVersion(d.Remote) == flowpb.IPVersion_IPv4:
		f.L4 = &flowpb.Layer4{Protocol: &flowpb.Layer4_ICMPv4{ICMPv4: &flowpb.ICMPv4{Type: uint32(d.ICMPType), Code: uint32(d.ICMPCode)}}}
	case d.ICMP:
		f.L4 = &flowpb.Layer4{Protocol: &flowpb.Layer4_ICMPv6{ICMPv6: &flowpb.ICMPv6{Type: uint32(d.ICMPType), Code: uint32(d.ICMPCode)}}}
	case d.L4 == protoSCTP:
		f.L4 = &flowpb.Layer4{Protocol: &flowpb.Layer4_SCTP{SCTP: &flowpb.SCTP{SourcePort: source, DestinationPort: destination}}}
	}
}

// protoSCTP is IPPROTO_SCTP.
const protoSCTP event.Proto = 132

func tcpFlags(f event.TCPFlags) *flowpb.TCPFlags {
	return &flowpb.TCPFlags{
		FIN: f&event.FIN != 0, SYN: f&event.SYN != 0, RST: f&event.RST != 0, PSH: f&event.PSH != 0,
		ACK: f&event.ACK != 0, URG: f&event.URG != 0, ECE: f&event.ECE != 0, CWR: f&event.CWR != 0,
	}
}

func verdictOf(d *event.Flow) flowpb.Verdict {
	switch d.Verdict {
	case event.Dropped:
		return flowpb.Verdict_DROPPED
	case event.Audit:
		return flowpb.Verdict_AUDIT
	}
	return flowpb.Verdict_FORWARDED
}

// dropReasons are Cilium's names for ours.
var dropReasons = map[event.DropReason]flowpb.DropReason{
	event.PolicyDenied:     flowpb.DropReason_POLICY_DENY,
	event.PolicyDefault:    flowpb.DropReason_POLICY_DENIED,
	event.SpoofedSource:    flowpb.DropReason_INVALID_SOURCE_IP,
	event.InvalidPacket:    flowpb.DropReason_INVALID_PACKET_DROPPED,
	event.FragmentUnknown:  flowpb.DropReason_FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND,
	event.UnknownTransport: flowpb.DropReason_CT_TRUNCATED_OR_INVALID_HEADER,
	event.NoEndpoint:       flowpb.DropReason_DROP_EP_NOT_READY,
	event.NoRoute:          flowpb.DropReason_NO_TUNNEL_OR_ENCAPSULATION_ENDPOINT,
	event.SourceRouted:     flowpb.DropReason_INVALID_PACKET_DROPPED,
	event.NotIP:            flowpb.DropReason_INVALID_PACKET_DROPPED,
}

// dropReason returns what clients know a reason as: the rule of a policy, or
// that there is none, are two reasons to them too.
func dropReason(r event.DropReason) flowpb.DropReason { return dropReasons[r] }

// policyOf returns the policy behind a verdict.
func policyOf(d *event.Flow) *flowpb.Policy {
	p := d.Policy
	if p == nil {
		return nil
	}
	labels := []string{"k8s:io.cilium.k8s.policy.derived-from=" + p.Kind, "k8s:io.cilium.k8s.policy.name=" + p.Name}
	if p.Namespace != "" {
		labels = append(labels, "k8s:io.cilium.k8s.policy.namespace="+p.Namespace)
	}
	if p.UID != "" {
		labels = append(labels, "k8s:io.cilium.k8s.policy.uid="+p.UID)
	}
	labels = append(labels, "warren:rule="+p.Number)
	if p.Tier != cluster.NetworkTier {
		labels = append(labels, "warren:tier="+strings.ToLower(p.Tier.String()))
	}
	return &flowpb.Policy{Name: p.Name, Namespace: p.Namespace, Kind: p.Kind, Labels: labels}
}

// matchType says what the rule that decided was about.
func matchType(d *event.Flow) uint32 {
	p := d.Policy
	switch {
	case p == nil:
		return matchNone
	case p.Peers && p.Ports:
		return matchL3L4
	case p.Peers:
		return matchL3
	case p.Ports:
		return matchL4
	}
	return matchAll
}

// transport says what the packet was.
func transport(f *flowpb.Flow, d *event.Flow) string {
	switch {
	case d.L4 == event.TCP:
		if flags := f.GetL4().GetTCP().GetFlags(); flags != nil {
			sent := d.FlagsSent
			if d.Reply != d.Server {
				sent = d.FlagsReceived
			}
			if sent != 0 {
				return "TCP Flags: " + strings.ReplaceAll(sent.String(), ",", ", ")
			}
		}
		return "TCP"
	case d.ICMP:
		return fmt.Sprintf("%s type %d code %d", strings.ToUpper(d.L4.String()), d.ICMPType, d.ICMPCode)
	}
	return strings.ToUpper(d.L4.String())
}

// outcome says why a verdict is what it is.
func outcome(d *event.Flow) string {
	text := ""
	if d.Verdict == event.Audit {
		text = auditPrefix
	}
	switch p := d.Policy; {
	case p != nil && d.Verdict == event.Forwarded:
		return "allowed by " + p.Title + " rule " + p.Number
	case p != nil:
		return text + "denied by " + p.Title + " rule " + p.Number
	case d.Reason == event.PolicyDefault:
		return text + event.NoRule(d.Nearest)
	case d.Reason == event.PolicyDenied:
		return text + "denied by policy"
	}
	return text + strings.ReplaceAll(d.Reason.String(), "_", " ")
}

// volume says how much a flow was, where it is told again or for the last time.
func volume(d *event.Flow) string {
	text := ""
	switch d.Type {
	case "flow_update":
	case "flow_close":
		text = "ended" + span(" after ", int64(d.Last.Sub(d.Start))) + "; "
	default:
		return ""
	}
	text += fmt.Sprintf("%d B sent, %d B received", d.BytesSent, d.BytesReceived)
	if d.PacketsDropped > 0 {
		text += ", " + strconv.FormatUint(d.PacketsDropped, 10) + " packets dropped"
	}
	return text
}

// A servedSet says which addresses are pods' whose packets the datapath tells.
type servedSet func(netip.Addr) bool

// twice reports whether the datapath tells a connection too: it leaves a pod
// whose packets it sees. That a process was told of a failure is in no packet.
func (s servedSet) twice(c *event.Connection) bool {
	return s != nil && c.Local.IsValid() && c.Local != c.Remote && s(c.Local) && !troubled(c)
}

// troubled reports whether a connection came to nothing, or ended, without a
// packet that says so.
func troubled(c *event.Connection) bool {
	switch c.Type {
	case "connect":
		return c.Res != 0 && c.Res != inProgress && c.Reset == event.NotReset
	case "close":
		return c.Error != 0 && c.Reset == event.NotReset
	}
	return false
}
