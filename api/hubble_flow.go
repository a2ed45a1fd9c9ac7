package api

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"warren/event"
	"warren/l7"
)

// Types of events as Hubble counts them, and where packets are observed.
const (
	typeTrace = 4
	typeL7    = 129

	traceToEndpoint   = 0 // TraceObservationPoint has another number for it
	traceToHost       = 2
	traceFromEndpoint = 5
	traceFromHost     = 7
)

// connectionFlows returns how many flows an event of a connection is: none for
// a socket without a peer, two for a connect that the peer refused.
func connectionFlows(c *event.Connection) int {
	switch {
	case !c.Remote.IsValid() || c.Direction() == "listen":
		return 0
	case refused(c):
		return 2
	}
	return 1
}

// refused reports whether the peer answered a connect with a reset. A firewall
// may say the same by ICMP: then the peer has said nothing.
func refused(c *event.Connection) bool {
	return c.L4 == event.TCP && c.Type == "connect" && c.Res == event.Errno(unix.ECONNREFUSED) && c.Reset == event.ResetRemote
}

// A flowTeller makes flows of records.
type flowTeller struct {
	node     string // with the cluster's name
	self     string // the node's own
	cluster  string
	labels   func() []string // of the node, may be nil
	instance [8]byte         // random: in the ids of flows
	parts    podParts
}

// append appends the flows of a record to dst. They are the caller's to change.
func (t *flowTeller) append(dst []*flowpb.Flow, r *flowRecord) []*flowpb.Flow {
	from := len(dst)
	switch {
	case r.conn != nil && refused(r.conn):
		dst = append(dst, t.syn(r, "TCP Flags: SYN"), t.refusal(r))
	case r.conn != nil:
		dst = append(dst, t.connection(r))
	case r.dns != nil:
		dst = append(dst, t.dns(r))
	case r.flow != nil:
		dst = t.packets(dst, r)
	}
	for i, f := range dst[from:] {
		f.Uuid = t.uuid(r.seq, i)
	}
	return dst
}

// uuid returns the id of the i-th flow of an event: of version 8, which leaves
// its meaning to us. The same flow has the same id whenever it is told.
func (t *flowTeller) uuid(seq uint64, i int) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[8:], seq) // 56 bits are enough
	copy(b[:8], t.instance[:])
	b[6] = b[6]&0x0f | 0x80
	b[8] = 0x80 | byte(i)
	var s [36]byte
	hex.Encode(s[0:8], b[0:4])
	hex.Encode(s[9:13], b[4:6])
	hex.Encode(s[14:18], b[6:8])
	hex.Encode(s[19:23], b[8:10])
	hex.Encode(s[24:36], b[10:16])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:])
}

// A flowWay says which way the packet of a flow went.
type flowWay bool

const (
	outward flowWay = false // from the near end to the far one
	inward  flowWay = true
)

// base returns a flow with what all have: ends, addresses, ports and direction.
func (t *flowTeller) base(r *flowRecord, way flowWay) *flowpb.Flow {
	s := r.socket()
	near, far := t.near(r), t.far(r)
	f := &flowpb.Flow{
		Time:             timestamppb.New(r.time),
		Emitter:          &flowpb.Emitter{Name: "Warren"},
		Verdict:          flowpb.Verdict_FORWARDED,
		Type:             flowpb.FlowType_L3_L4,
		NodeName:         t.node,
		EventType:        &flowpb.CiliumEventType{Type: typeTrace},
		TraceReason:      flowpb.TraceReason_ESTABLISHED,
		TrafficDirection: flowpb.TrafficDirection_EGRESS,
		SocketCookie:     s.Cookie,
		CgroupId:         r.actor.cgroup,
		IP:               &flowpb.IP{IpVersion: ipVersion(s.Remote)},
	}
	if t.labels != nil {
		f.NodeLabels = t.labels()
	}
	if s.Server {
		f.TrafficDirection = flowpb.TrafficDirection_INGRESS
	}
	// A packet from the server's end is a reply.
	reply := s.Server == (way == outward)
	f.IsReply = wrapperspb.Bool(reply)
	if reply {
		f.TraceReason = flowpb.TraceReason_REPLY
	}
	source, destination := s.LocalPort, s.RemotePort
	if way == outward {
		f.Source, f.Destination = near.endpoint, far.endpoint
		f.SourceNames, f.DestinationNames = near.names, far.names
		f.SourceService, f.DestinationService = near.service, far.service
		f.IP.Source, f.IP.Destination = addrText(s.Local), addrText(s.Remote)
	} else {
		f.Source, f.Destination = far.endpoint, near.endpoint
		f.SourceNames, f.DestinationNames = far.names, near.names
		f.SourceService, f.DestinationService = far.service, near.service
		f.IP.Source, f.IP.Destination = addrText(s.Remote), addrText(s.Local)
		source, destination = destination, source
	}
	t.observe(f, r, way)
	switch s.L4 {
	case event.TCP:
		f.L4 = &flowpb.Layer4{Protocol: &flowpb.Layer4_TCP{TCP: &flowpb.TCP{
			SourcePort: uint32(source), DestinationPort: uint32(destination), Flags: &flowpb.TCPFlags{}}}}
	case event.UDP:
		f.L4 = &flowpb.Layer4{Protocol: &flowpb.Layer4_UDP{UDP: &flowpb.UDP{
			SourcePort: uint32(source), DestinationPort: uint32(destination)}}}
	}
	return f
}

// observe says where the packet was seen: between the near end, a container or
// the host, and the kernel.
func (t *flowTeller) observe(f *flowpb.Flow, r *flowRecord, way flowWay) {
	inside := r.actor.container != nil
	switch {
	case way == outward && inside:
		f.TraceObservationPoint, f.EventType.SubType = flowpb.TraceObservationPoint_FROM_ENDPOINT, traceFromEndpoint
	case way == outward:
		f.TraceObservationPoint, f.EventType.SubType = flowpb.TraceObservationPoint_FROM_HOST, traceFromHost
	case inside:
		f.TraceObservationPoint, f.EventType.SubType = flowpb.TraceObservationPoint_TO_ENDPOINT, traceToEndpoint
	default:
		f.TraceObservationPoint, f.EventType.SubType = flowpb.TraceObservationPoint_TO_HOST, traceToHost
	}
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func ipVersion(a netip.Addr) flowpb.IPVersion {
	if a.Is4() {
		return flowpb.IPVersion_IPv4
	}
	return flowpb.IPVersion_IPv6
}

// connection tells a connection's event.
func (t *flowTeller) connection(r *flowRecord) *flowpb.Flow {
	c := r.conn
	if c.L4 != event.TCP {
		return t.datagrams(r)
	}
	switch c.Type {
	case "connect":
		if c.Res != 0 {
			return t.failure(r)
		}
		return t.syn(r, join("TCP Flags: SYN", "connected", span(" in ", c.Latency)))
	case "accept", "accept4":
		f := t.base(r, inward)
		f.TraceReason = flowpb.TraceReason_NEW
		setFlags(f, &flowpb.TCPFlags{SYN: true})
		say(f, "TCP Flags: SYN; accepted")
		if c.Res != 0 {
			f.Verdict = flowpb.Verdict_ERROR
			say(f, "TCP Flags: SYN; accept: "+c.Res.String())
		}
		return f
	case "close":
		return t.end(r)
	}
	// Counters of a connection that goes on: told from the client's end, whose
	// segments all carry ACK since it was established.
	f := t.base(r, flowWay(c.Server))
	setFlags(f, &flowpb.TCPFlags{ACK: true})
	say(f, join("TCP Flags: ACK", traffic(c)))
	return f
}

// syn tells of the first segment of a connection that this end began.
func (t *flowTeller) syn(r *flowRecord, summary string) *flowpb.Flow {
	f := t.base(r, outward)
	f.TraceReason = flowpb.TraceReason_NEW
	setFlags(f, &flowpb.TCPFlags{SYN: true})
	say(f, summary)
	return f
}

// refusal tells of the reset with which the peer answered a SYN. A reset that
// is taken for an answer acknowledges it.
func (t *flowTeller) refusal(r *flowRecord) *flowpb.Flow {
	f := t.base(r, inward)
	setFlags(f, &flowpb.TCPFlags{RST: true, ACK: true})
	say(f, "TCP Flags: RST, ACK; connection refused")
	return f
}

// failure tells of a connect that came to nothing. Nobody decided on a packet
// that is known: the verdict is the error, or none where the caller gave up.
func (t *flowTeller) failure(r *flowRecord) *flowpb.Flow {
	c := r.conn
	f := t.base(r, outward)
	f.TraceReason = flowpb.TraceReason_NEW
	f.Verdict = flowpb.Verdict_ERROR
	summary := "connect: " + c.Res.String()
	if c.Res == event.Errno(unix.ECANCELED) {
		f.Verdict, summary = flowpb.Verdict_TRACED, "the caller gave up"
	}
	if c.PacketsSent > 0 {
		setFlags(f, &flowpb.TCPFlags{SYN: true})
		summary = "TCP Flags: SYN; " + summary
	}
	say(f, join(summary, span("after ", c.Latency)))
	return f
}

// end tells how a connection ended. Who closes without a reset sends FIN.
func (t *flowTeller) end(r *flowRecord) *flowpb.Flow {
	c := r.conn
	way := outward
	if c.Reset == event.ResetRemote {
		way = inward
	}
	f := t.base(r, way)
	summary := "TCP Flags: FIN, ACK; closed"
	switch {
	case c.Reset != event.NotReset:
		setFlags(f, &flowpb.TCPFlags{RST: true})
		summary = "TCP Flags: RST; reset"
	case c.Error != 0:
		f.Verdict = flowpb.Verdict_ERROR
		summary = "connection lost: " + c.Error.String()
	default:
		setFlags(f, &flowpb.TCPFlags{FIN: true, ACK: true})
	}
	say(f, join(summary+span(" after ", c.Duration), traffic(c)))
	return f
}

// datagrams tells of UDP: from the end that sent first.
func (t *flowTeller) datagrams(r *flowRecord) *flowpb.Flow {
	c := r.conn
	f := t.base(r, flowWay(c.Server))
	switch c.Type {
	case "sendto", "recvfrom", "connect":
		f.TraceReason = flowpb.TraceReason_NEW
		say(f, "UDP")
	case "close":
		say(f, join("UDP; ended"+span(" after ", c.Duration), traffic(c)))
	default:
		say(f, join("UDP", traffic(c)))
	}
	if c.Res != 0 {
		f.Verdict = flowpb.Verdict_ERROR
		say(f, "UDP; "+c.Type+": "+c.Res.String())
	}
	return f
}

// say sets the text that people read. The field is called deprecated since its
// first day, and is what every client prints.
func say(f *flowpb.Flow, summary string) { f.Summary = summary } //nolint:staticcheck // see above

func setFlags(f *flowpb.Flow, flags *flowpb.TCPFlags) { f.GetL4().GetTCP().Flags = flags }

func traffic(c *event.Connection) string {
	return fmt.Sprintf("%d B sent, %d B received", c.BytesSent, c.BytesReceived)
}

func span(before string, nanos int64) string {
	if nanos <= 0 {
		return ""
	}
	d := time.Duration(nanos)
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= unit {
			return before + d.Round(unit/100).String()
		}
	}
	return before + d.String()
}

// join joins what there is to say. A part that begins with a blank goes on with
// the one before.
func join(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		if p == "" {
			continue
		}
		if b.Len() > 0 && p[0] != ' ' {
			b.WriteString("; ")
		}
		b.WriteString(p)
	}
	return b.String()
}

// dns tells of a DNS message.
func (t *flowTeller) dns(r *flowRecord) *flowpb.Flow {
	d := r.dns
	// The server's end sends answers, the client's questions.
	f := t.base(r, flowWay(d.Server != d.Response))
	f.Type = flowpb.FlowType_L7
	f.EventType = &flowpb.CiliumEventType{Type: typeL7}
	f.TraceObservationPoint = flowpb.TraceObservationPoint_UNKNOWN_POINT
	f.TraceReason = flowpb.TraceReason_TRACE_REASON_UNKNOWN
	if tcp := f.GetL4().GetTCP(); tcp != nil {
		tcp.Flags = nil // a message is no segment
	}
	name := d.Name + "."
	m := &flowpb.DNS{Query: name, ObservationSource: "socket"}
	if d.QType != "" {
		m.Qtypes = []string{d.QType}
	}
	f.L7 = &flowpb.Layer7{Type: flowpb.L7FlowType_REQUEST, Record: &flowpb.Layer7_Dns{Dns: m}}
	if !d.Response {
		say(f, "DNS Query "+name+" "+d.QType)
		return f
	}
	f.L7.Type = flowpb.L7FlowType_RESPONSE
	f.L7.LatencyNs = uint64(max(d.Latency, 0))
	m.Rcode = rcode(d.RCode)
	for _, a := range d.Addrs {
		m.Ips = append(m.Ips, a.Addr.String())
	}
	for i, text := range d.Answers {
		fields := strings.SplitN(text, " ", 4)
		if len(fields) < 4 {
			continue
		}
		if ttl, err := strconv.ParseUint(fields[1], 10, 32); err == nil && (i == 0 || uint32(ttl) < m.Ttl) {
			m.Ttl = uint32(ttl)
		}
		if !slices.Contains(m.Rrtypes, fields[2]) {
			m.Rrtypes = append(m.Rrtypes, fields[2])
		}
		if fields[2] == "CNAME" {
			m.Cnames = append(m.Cnames, strings.TrimSuffix(fields[3], ".")+".")
		}
	}
	answer := d.RCode
	if len(m.GetIps())+len(m.GetCnames()) > 0 {
		answer = strconv.Quote(strings.Join(slices.Concat(m.GetCnames(), m.GetIps()), ","))
	}
	say(f, join(fmt.Sprintf("DNS Answer %s (Query %s %s)", answer, name, d.QType), span("in ", d.Latency)))
	return f
}

// rcode returns the number of a DNS answer's code.
func rcode(name string) uint32 {
	for c := range l7.DNSRCode(16) {
		if c.String() == name {
			return uint32(c)
		}
	}
	return 0
}

// lostEvent tells of a loss on the way to the ring.
func lostEvent(l *event.Lost, at time.Time) *flowpb.LostEvent {
	source := flowpb.LostEventSource_UNKNOWN_LOST_EVENT_SOURCE // a table of the kernel
	switch l.Lane {
	case "critical", "bulk":
		source = flowpb.LostEventSource_PERF_EVENT_RING_BUFFER
	case "queue":
		source = flowpb.LostEventSource_OBSERVER_EVENTS_QUEUE
	}
	return &flowpb.LostEvent{Source: source, NumEventsLost: l.Count, Last: timestamppb.New(at)}
}
