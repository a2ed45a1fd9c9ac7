package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"warren/bpf"
	"warren/event"
	"warren/l7"
)

// dnsDecoder is what the decoder of DNS records remembers. It is the reader's,
// except for the counts.
type dnsDecoder struct {
	streams streams
	asked   questions
	// strange counts messages from or to port 53 that are no DNS.
	strange atomic.Uint64
}

const dnsPort = 53

// decodeDNS decodes a struct dns_record.
func (s *Sensor) decodeDNS(rec []byte) error {
	r, err := bpf.View[socketDnsRecord](rec)
	if err != nil {
		return err
	}
	payload := rec[unsafe.Offsetof(r.Data):] // not Sizeof: Go pads what ends in nothing
	if uint64(r.Captured) > uint64(len(payload)) || r.Captured > r.Size {
		return fmt.Errorf("%w: %d bytes captured of %d, in %d", errRecord, r.Captured, r.Size, len(payload))
	}
	payload = payload[:r.Captured]
	var sock event.Socket
	if err := fillEnds(&sock, r.Family, &r.Laddr, &r.Raddr, r.Lport, r.Rport); err != nil {
		return err
	}
	sock.L4 = event.Proto(r.L4)
	sock.NetNS = r.Netns
	sock.Cookie = r.Cookie

	switch sock.L4 {
	case event.UDP:
		if !s.message(r, &sock, payload, r.Captured < r.Size) {
			s.dns.strange.Add(1)
		}
	case event.TCP:
		key := streamKey{
			local:  netip.AddrPortFrom(sock.Local, sock.LocalPort),
			remote: netip.AddrPortFrom(sock.Remote, sock.RemotePort),
			netns:  r.Netns,
			egress: r.Egress != 0,
		}
		s.dns.streams.add(key, segment{seq: r.Seq, flags: r.TcpFlags, data: payload}, func(msg []byte) bool {
			ok := s.message(r, &sock, msg, false)
			if !ok {
				s.dns.strange.Add(1)
			}
			return ok
		})
	default:
		return fmt.Errorf("%w: protocol %d", errRecord, r.L4)
	}
	return nil
}

// dnsEvent is an event and its data in one allocation.
type dnsEvent struct {
	event event.Event
	dns   event.DNS
}

// message emits one DNS message; cut says that its end was not captured. It
// returns false for what is no DNS message.
func (s *Sensor) message(r *socketDnsRecord, sock *event.Socket, msg []byte, cut bool) bool {
	m, err := l7.ParseDNS(msg)
	if err != nil && !(cut && errors.Is(err, l7.ErrDNSShort) && m.Name != "") {
		return false
	}
	e := new(dnsEvent)
	d := &e.dns
	d.Socket = *sock
	egress := r.Egress != 0
	// Servers ask other servers from port 53 too: then the direction decides.
	d.Server = sock.LocalPort == dnsPort && (sock.RemotePort != dnsPort || egress == m.Response)
	d.Type = "dns"
	d.Response = m.Response
	d.ID = m.ID
	d.Name = m.Name
	if m.Name != "" {
		d.QType = m.QType.String()
	}
	d.Cut = m.Truncated || m.Cut || cut
	key := questionKey{
		local:  netip.AddrPortFrom(sock.Local, sock.LocalPort),
		remote: netip.AddrPortFrom(sock.Remote, sock.RemotePort),
		netns:  sock.NetNS,
		id:     m.ID,
		l4:     sock.L4,
	}
	if m.Response {
		d.RCode = m.RCode.String()
		d.Answers = answerTexts(m.Answers)
		for addr, ttl := range m.Addrs {
			d.Addrs = append(d.Addrs, event.Answer{Name: m.Name, Addr: addr, TTL: ttl})
		}
		if at, ok := s.dns.asked.answered(key); ok && r.H.Ktime > at {
			d.Latency = int64(r.H.Ktime - at)
		}
	} else {
		s.dns.asked.ask(key, r.H.Ktime)
	}
	e.event = event.Event{
		Time:  bpf.Wall(r.H.Ktime),
		Ktime: r.H.Ktime,
		CPU:   r.H.Cpu + 1,
		Actor: event.Key{PID: r.Owner.Pid, Start: r.Owner.Start},
		Data:  d,
	}
	s.send(&e.event)
	return true
}

// answerTexts renders records, all in one string.
func answerTexts(rs []l7.DNSRecord) []string {
	if len(rs) == 0 {
		return nil
	}
	var buf [1024]byte
	b := buf[:0]
	var ends [l7.MaxDNSAnswers]int
	for i := range rs {
		b = rs[i].AppendText(b)
		ends[i] = len(b)
	}
	all := string(b)
	out := make([]string, len(rs))
	start := 0
	for i := range out {
		out[i] = all[start:ends[i]]
		start = ends[i]
	}
	return out
}

// maxQuestions bounds the questions that wait for their answer.
const maxQuestions = 4096

// A questionKey names a question until it is answered.
type questionKey struct {
	local, remote netip.AddrPort
	netns         uint32
	id            uint16
	l4            event.Proto
}

type question struct {
	at   uint64 // kernel time
	slot int
}

// questions remembers when questions were asked, the newest maxQuestions.
type questions struct {
	m     map[questionKey]question
	slots []questionKey // in the order of asking, overwritten in circles
	next  int
}

func (q *questions) ask(k questionKey, at uint64) {
	if old, ok := q.m[k]; ok { // asked again: the wait began with the first
		if at-old.at < uint64(questionPatience) {
			return
		}
		delete(q.m, k)
	}
	if q.m == nil {
		q.m = map[questionKey]question{}
	}
	if len(q.slots) < maxQuestions {
		q.slots = append(q.slots, questionKey{})
	}
	old := q.slots[q.next]
	if w, ok := q.m[old]; ok && w.slot == q.next {
		delete(q.m, old)
	}
	q.slots[q.next] = k
	q.m[k] = question{at: at, slot: q.next}
	q.next = (q.next + 1) % maxQuestions
}

// questionPatience is how long, in nanoseconds, an answer is worth waiting for;
// a question with the same key after that is another one.
const questionPatience = 30e9

func (q *questions) answered(k questionKey) (at uint64, ok bool) {
	w, ok := q.m[k]
	if ok {
		delete(q.m, k)
	}
	return w.at, ok
}
