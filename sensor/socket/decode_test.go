package socket

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
)

// bytesOf is a record as the kernel writes it.
func bytesOf[T any](r *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r))
}

func sockRecord() *socketSockRecord {
	r := &socketSockRecord{
		Cookie: 9, Began: 5e9, Duration: 2e9, Latency: 1e6, Sent: 10, Received: 20, PacketsOut: 3, PacketsIn: 4,
		Netns: 4026531840, Rtt: 50, RttMin: 40, Retrans: 1, Lost: 2, Lport: 40000, Rport: 443,
		Laddr: [16]uint8{10, 0, 0, 1}, Raddr: [16]uint8{192, 0, 2, 1},
		What: uint8(socketSockWhatSOCK_CLOSE), Family: familyIPv4, L4: uint8(event.TCP), State: uint8(event.Close),
		Reset: uint8(event.ResetRemote), Error: int32(unix.ECONNRESET),
	}
	r.H = socketRecord{Ktime: 7e9, Len: uint32(unsafe.Sizeof(*r)), Type: bpf.RecTCP}
	r.Owner.Pid, r.Owner.Start = 42, 3e9
	return r
}

// decoder is a sensor without a kernel, for all kinds.
func decoder(emit func(*event.Event)) *Sensor {
	s := New(nil, Config{}, slog.New(slog.DiscardHandler))
	s.emit.Store(&emit)
	s.want.Store(uint32(s.Kinds()))
	return s
}

func TestDecodeConnection(t *testing.T) {
	var got *event.Event
	s := decoder(func(e *event.Event) { got = e })
	if err := s.decodeSock(bytesOf(sockRecord())); err != nil {
		t.Fatal(err)
	}
	if got.Ktime != 7e9 || got.Actor != (event.Key{PID: 42, Start: 3e9}) || got.Process != nil {
		t.Errorf("%+v", got)
	}
	c := got.Data.(*event.Connection)
	if d := got.Time.Sub(c.Start); d != 2*time.Second {
		t.Errorf("began %v before", d)
	}
	want := &event.Connection{
		Socket: event.Socket{Local: netip.MustParseAddr("10.0.0.1"), Remote: netip.MustParseAddr("192.0.2.1"), LocalPort: 40000,
			RemotePort: 443, L4: event.TCP, NetNS: 4026531840, Cookie: 9},
		Type: "close", State: event.Close, Duration: 2e9, Latency: 1e6, BytesSent: 10, BytesReceived: 20, PacketsSent: 3,
		PacketsRecv: 4, RTT: 50e3, MinRTT: 40e3, Retransmits: 1, Lost: 2, Reset: event.ResetRemote, Error: event.Errno(unix.ECONNRESET),
	}
	if diff := cmp.Diff(want, c, cmpopts.IgnoreFields(event.Connection{}, "Start"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmpopts.IgnoreUnexported(event.Connection{}, event.Socket{})); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeEnds(t *testing.T) {
	v4in6 := [16]uint8{10: 0xff, 11: 0xff, 12: 10, 15: 1}
	tests := []struct {
		name          string
		family        uint8
		laddr, raddr  [16]uint8
		lport, rport  uint16
		local, remote string
	}{
		{"IPv4", familyIPv4, [16]uint8{10, 0, 0, 1}, [16]uint8{10, 0, 0, 2}, 1, 2, "10.0.0.1", "10.0.0.2"},
		{"IPv4 in IPv6", familyIPv6, v4in6, v4in6, 1, 2, "10.0.0.1", "10.0.0.1"},
		{"IPv6", familyIPv6, [16]uint8{0: 0x20, 1: 1, 15: 1}, [16]uint8{15: 1}, 1, 2, "2001::1", "::1"},
		{"listening", familyIPv4, [16]uint8{}, [16]uint8{}, 80, 0, "0.0.0.0", ""},
		{"listening on IPv6", familyIPv6, [16]uint8{}, [16]uint8{}, 80, 0, "::", ""},
		{"without a local address", familyIPv4, [16]uint8{}, [16]uint8{10, 0, 0, 2}, 0, 80, "", "10.0.0.2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := sockRecord()
			r.Family, r.Laddr, r.Raddr, r.Lport, r.Rport = tt.family, tt.laddr, tt.raddr, tt.lport, tt.rport
			e, err := connection(r)
			if err != nil {
				t.Fatal(err)
			}
			c := e.Data.(*event.Connection)
			text := func(a netip.Addr) string {
				if !a.IsValid() {
					return ""
				}
				return a.String()
			}
			if text(c.Local) != tt.local || text(c.Remote) != tt.remote || c.LocalPort != tt.lport || c.RemotePort != tt.rport {
				t.Errorf("%v %d %v %d", c.Local, c.LocalPort, c.Remote, c.RemotePort)
			}
		})
	}
}

func TestDecodeSpecial(t *testing.T) {
	var got []*event.Event
	s := decoder(func(e *event.Event) { got = append(got, e) })
	r := &socketSockRecord{What: uint8(socketSockWhatSOCK_TABLE_FULL), Received: 12}
	if err := s.decodeSock(bytesOf(r)); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || !cmp.Equal(got[0].Data, &event.Lost{Type: "lost", Count: 12, What: "socket.udp", Lane: "table"}) {
		t.Errorf("%+v", got)
	}
	r = &socketSockRecord{What: uint8(socketSockWhatSOCK_RELEASED), Cookie: 1}
	for range 2 { // the second request finds the first waiting
		if err := s.decodeSock(bytesOf(r)); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.ended) != 1 || len(got) != 1 {
		t.Errorf("%d requests, %d events", len(s.ended), len(got))
	}
	s.want.Store(uint32(kindDNS))
	if err := s.decodeSock(bytesOf(sockRecord())); err != nil || len(got) != 1 {
		t.Errorf("%d events that nobody wants, %v", len(got)-1, err)
	}
}

func TestDecodeLies(t *testing.T) {
	s := decoder(func(e *event.Event) { t.Errorf("emitted %s", show(e.Data)) })
	whole := bytesOf(sockRecord())
	for n := range whole {
		if err := s.decodeSock(whole[:n]); !errors.Is(err, bpf.ErrShort) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	for name, lie := range map[string]func(*socketSockRecord){
		"what 0":     func(r *socketSockRecord) { r.What = 0 },
		"what 200":   func(r *socketSockRecord) { r.What = 200 },
		"state":      func(r *socketSockRecord) { r.State = 13 },
		"reset":      func(r *socketSockRecord) { r.Reset = 3 },
		"family":     func(r *socketSockRecord) { r.Family = 1 },
		"protocol":   func(r *socketSockRecord) { r.L4 = 1 },
		"result":     func(r *socketSockRecord) { r.Res = 1 },
		"error":      func(r *socketSockRecord) { r.Error = -1 },
		"least int":  func(r *socketSockRecord) { r.Error = -1 << 31 },
		"no family":  func(r *socketSockRecord) { r.Family = 0 },
		"what empty": func(r *socketSockRecord) { r.What = uint8(len(whats)) },
	} {
		r := sockRecord()
		lie(r)
		if err := s.decodeSock(bytesOf(r)); !errors.Is(err, errRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// dnsRecord is a record with a payload in room bytes.
func dnsRecord(l4 event.Proto, egress bool, lport, rport uint16, seq uint32, flags uint8, payload []byte, room int) []byte {
	r := socketDnsRecord{Cookie: 3, Netns: 7, Size: uint32(len(payload)), Captured: uint32(min(len(payload), room)), Seq: seq,
		Lport: lport, Rport: rport, Laddr: [16]uint8{10, 0, 0, 1}, Raddr: [16]uint8{10, 0, 0, 2}, Family: familyIPv4, L4: uint8(l4), TcpFlags: flags}
	if egress {
		r.Egress = 1
	}
	r.H = socketRecord{Ktime: 5e9, Type: bpf.RecDNS}
	r.Owner.Pid = 42
	b := append([]byte(nil), bytesOf(&r)[:unsafe.Offsetof(r.Data)]...)
	b = append(b, payload[:r.Captured]...)
	return append(b, make([]byte, room-int(r.Captured))...)
}

func TestDecodeDNS(t *testing.T) {
	var got []*event.DNS
	s := decoder(func(e *event.Event) { got = append(got, e.Data.(*event.DNS)) })
	question := ask(t, 1, "a.test.", dnsmessage.TypeA)
	decode := func(rec []byte) {
		t.Helper()
		if err := s.decodeDNS(rec); err != nil {
			t.Fatal(err)
		}
	}
	// A server asks another: both ports are 53.
	decode(dnsRecord(event.UDP, true, 53, 53, 0, 0, question, 128))
	decode(dnsRecord(event.UDP, false, 53, 53, 0, 0, answerTo(t, question), 128))
	decode(dnsRecord(event.UDP, false, 53, 53, 0, 0, ask(t, 2, "b.test.", dnsmessage.TypeA), 128))
	if len(got) != 3 || got[0].Server || got[1].Server || !got[2].Server {
		t.Fatalf("%d messages: %+v", len(got), got)
	}
	if len(got[1].Addrs) != 1 || got[1].Addrs[0].Name != "a.test" {
		t.Errorf("%+v", got[1].Addrs)
	}
	decode(dnsRecord(event.UDP, false, 53, 53, 0, 0, []byte("no DNS at all, but long enough"), 128))
	if len(got) != 3 || s.dns.strange.Load() != 1 {
		t.Errorf("%d messages, %d strange", len(got), s.dns.strange.Load())
	}
	// The end of a captured message may be missing, not that of another.
	long := answerTo(t, ask(t, 3, "big.test.", dnsmessage.TypeTXT))
	decode(dnsRecord(event.UDP, false, 4000, 53, 0, 0, long, 4096))
	decode(dnsRecord(event.UDP, false, 4000, 53, 0, 0, long[:4096], 4096))
	if len(got) != 4 || !got[3].Cut || len(got[3].Answers) == 0 || s.dns.strange.Load() != 2 {
		t.Errorf("%d messages, %d strange", len(got), s.dns.strange.Load())
	}

	rec := dnsRecord(event.UDP, false, 4000, 53, 0, 0, question, 128)
	for n := range rec {
		if err := s.decodeDNS(rec[:n]); err == nil && n < int(unsafe.Offsetof(socketDnsRecord{}.Data))+len(question) {
			t.Errorf("%d bytes of %d are enough", n, len(rec))
		}
	}
	for name, at := range map[string]uintptr{
		"captured": unsafe.Offsetof(socketDnsRecord{}.Captured) + 1,
		"family":   unsafe.Offsetof(socketDnsRecord{}.Family),
		"protocol": unsafe.Offsetof(socketDnsRecord{}.L4),
	} {
		lie := append([]byte(nil), rec...)
		lie[at] = 99
		if err := s.decodeDNS(lie); !errors.Is(err, errRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestQuestions(t *testing.T) {
	var q questions
	key := func(i int) questionKey {
		return questionKey{id: uint16(i), netns: uint32(i >> 16), l4: event.UDP}
	}
	for i := range 2 * maxQuestions {
		q.ask(key(i), uint64(i))
	}
	if len(q.m) != maxQuestions || len(q.slots) != maxQuestions {
		t.Fatalf("%d questions in %d slots", len(q.m), len(q.slots))
	}
	if _, ok := q.answered(key(maxQuestions - 1)); ok {
		t.Error("the oldest is remembered")
	}
	if at, ok := q.answered(key(maxQuestions)); !ok || at != maxQuestions {
		t.Errorf("the newest: %d %v", at, ok)
	}
	if _, ok := q.answered(key(maxQuestions)); ok {
		t.Error("answered twice")
	}
	last := key(2*maxQuestions - 1)
	q.ask(last, 2*maxQuestions+5) // sent again
	if at, _ := q.answered(last); at != 2*maxQuestions-1 {
		t.Errorf("the wait began at %d", at)
	}
	q.ask(last, 1)
	q.ask(last, 1+questionPatience)
	if at, _ := q.answered(last); at != 1+questionPatience {
		t.Errorf("another question with the same number: %d", at)
	}
}

func FuzzDecodeSock(f *testing.F) {
	f.Add(bytesOf(sockRecord()))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, rec []byte) {
		s := decoder(func(e *event.Event) {
			if b := event.AppendJSON(nil, e); !strings.HasPrefix(string(b), "{") {
				t.Errorf("%s", b)
			}
		})
		_ = s.decodeSock(rec) // whatever it says, it must come back
	})
}

func FuzzDecodeDNS(f *testing.F) {
	question := ask(f, 1, "a.test.", dnsmessage.TypeA)
	f.Add(dnsRecord(event.UDP, true, 4000, 53, 0, 0, question, 128))
	f.Add(dnsRecord(event.TCP, true, 4000, 53, 5, tcpSYN, append([]byte{0, byte(len(question))}, question...), 128))
	f.Fuzz(func(t *testing.T, rec []byte) {
		s := decoder(func(e *event.Event) { event.AppendJSON(nil, e) })
		for range 2 {
			_ = s.decodeDNS(rec)
		}
	})
}

func BenchmarkDecodeConnection(b *testing.B) {
	s := decoder(func(*event.Event) {})
	rec := bytesOf(sockRecord())
	b.ReportAllocs()
	for b.Loop() {
		if err := s.decodeSock(rec); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeDNS(b *testing.B) {
	s := decoder(func(*event.Event) {})
	rec := dnsRecord(event.UDP, false, 4000, 53, 0, 0, answerTo(b, ask(b, 1, "a.test.", dnsmessage.TypeA)), 128)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.decodeDNS(rec); err != nil {
			b.Fatal(err)
		}
	}
}
