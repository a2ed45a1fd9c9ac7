package socket

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"warren/event"
	"warren/internal/testkit"
)

// ask packs a question.
func ask(t testing.TB, id uint16, name string, typ dnsmessage.Type) []byte {
	t.Helper()
	return pack(t, dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}},
	})
}

func pack(t testing.TB, m dnsmessage.Message) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// answerTo packs the test server's answer: nx.* does not exist, big.* has many
// addresses, everything else is an alias of one.
func answerTo(t testing.TB, question []byte) []byte {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil {
		t.Fatal(err)
	}
	m.Header.Response = true
	q := m.Questions[0]
	record := func(name dnsmessage.Name, body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: 300}, Body: body})
	}
	switch name := q.Name.String(); {
	case strings.HasPrefix(name, "nx."):
		m.Header.RCode = dnsmessage.RCodeNameError
	case strings.HasPrefix(name, "big."):
		for range 20 {
			record(q.Name, &dnsmessage.TXTResource{TXT: []string{strings.Repeat("x", 250), strings.Repeat("y", 250)}})
		}
	default:
		target := dnsmessage.MustNewName("target.test.")
		record(q.Name, &dnsmessage.CNAMEResource{CNAME: target})
		record(target, &dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}})
	}
	return pack(t, m)
}

func exchange(t *testing.T, client, server *net.UDPConn, question []byte) {
	t.Helper()
	to := netip.MustParseAddrPort(server.LocalAddr().String())
	if _, err := client.WriteToUDPAddrPort(question, to); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 65536)
	n, from, err := server.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.WriteToUDPAddrPort(answerTo(t, b[:n]), from); err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.ReadFromUDPAddrPort(b); err != nil {
		t.Fatal(err)
	}
}

// messages waits for n DNS events in a namespace.
func (r *rig) messages(netns uint32, n int) []*event.Event {
	r.t.Helper()
	testkit.WaitFor(r.t, "DNS messages", func() (int, bool) { got := len(r.dns(netns)); return got, got >= n })
	r.sync()
	got := r.dns(netns)
	if len(got) != n {
		r.t.Fatalf("%d messages, want %d:%s", len(got), n, list(got))
	}
	return got
}

func TestBPFDNSOverUDP(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			r := newRigOf(t, Config{}, roadConfig(), kindDNS)
			ns := testkit.NewNetns(t)
			addr := netip.MustParseAddr(host)
			network := map[bool]string{true: "udp4", false: "udp6"}[addr.Is4()]
			server := packetConn(t, ns, network, netip.AddrPortFrom(addr, 53).String())
			client := packetConn(t, ns, network, netip.AddrPortFrom(addr, 0).String())
			exchange(t, client, server, ask(t, 77, "Www.Example.test.", dnsmessage.TypeA))
			exchange(t, client, server, ask(t, 78, "nx.example.test.", dnsmessage.TypeAAAA))
			exchange(t, client, server, ask(t, 79, "big.example.test.", dnsmessage.TypeTXT))
			got := r.messages(ns.Inode(t), 12) // question and answer, each at both ends

			for i, e := range got {
				d := e.Data.(*event.DNS)
				r.owner(e, self(t), "message")
				isServer := i%4 == 1 || i%4 == 2 // sent, received; sent, received
				if d.Response != (i%4 >= 2) || d.Server != isServer || d.L4 != event.UDP || d.Local != addr || d.Remote != addr || d.ID != uint16(77+i/4) {
					t.Errorf("message %d: %s", i, show(d))
				}
				if isServer != (d.LocalPort == 53) || isServer == (d.RemotePort == 53) {
					t.Errorf("message %d: ports %d %d", i, d.LocalPort, d.RemotePort)
				}
				if d.Response != (d.Latency > 0) || d.Latency > int64(time.Minute) {
					t.Errorf("message %d: latency %d", i, d.Latency)
				}
			}
			d := got[0].Data.(*event.DNS)
			if d.Name != "www.example.test" || d.QType != "A" || d.RCode != "" || len(d.Answers) > 0 {
				t.Errorf("question: %s", show(d))
			}
			d = got[3].Data.(*event.DNS)
			wantAddrs := []event.Answer{{Name: "www.example.test", Addr: netip.MustParseAddr("192.0.2.7"), TTL: 300}}
			wantTexts := []string{"www.example.test 300 CNAME target.test", "target.test 300 A 192.0.2.7"}
			if d.RCode != "NOERROR" || !slices.Equal(d.Addrs, wantAddrs) || !slices.Equal(d.Answers, wantTexts) || d.Cut {
				t.Errorf("answer: %s %v", show(d), d.Addrs)
			}
			d = got[7].Data.(*event.DNS)
			if d.RCode != "NXDOMAIN" || d.Name != "nx.example.test" || d.QType != "AAAA" || len(d.Addrs) > 0 {
				t.Errorf("answer that there is none: %s", show(d))
			}
			// More than is captured of a datagram.
			d = got[11].Data.(*event.DNS)
			if n := len(d.Answers); n < 5 || n >= 20 || !d.Cut || d.Name != "big.example.test" {
				t.Errorf("answer of %d records: %s", n, show(d))
			}
			if n := r.sensor.dns.strange.Load(); n > 0 {
				t.Errorf("%d strange messages", n)
			}
		})
	}
}

func TestBPFDNSOverTCP(t *testing.T) {
	r := newRigOf(t, Config{}, roadConfig(), kindDNS)
	ns := testkit.NewNetns(t)
	ln := listen(t, ns, "tcp4", "127.0.0.1:53", false)
	client := dial(t, ns, "tcp4", "127.0.0.1:53")
	server := accept(t, ln)

	prefixed := func(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }
	read := func(c net.Conn) []byte {
		t.Helper()
		b := make([]byte, 2)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		b = make([]byte, binary.BigEndian.Uint16(b))
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	write := func(c net.Conn, b []byte) {
		t.Helper()
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	// Two questions in one segment, a third in pieces.
	first, second := ask(t, 1, "a.test.", dnsmessage.TypeA), ask(t, 2, "big.test.", dnsmessage.TypeTXT)
	write(client, append(prefixed(first), prefixed(second)...))
	for range 2 {
		write(server, prefixed(answerTo(t, read(server)))) // the second is of 10 kB
		read(client)
	}
	third := prefixed(ask(t, 3, "c.test.", dnsmessage.TypeA))
	for _, b := range third {
		write(client, []byte{b})
	}
	write(server, prefixed(answerTo(t, read(server))))
	read(client)

	got := r.messages(ns.Inode(t), 12)
	var seen []string
	for _, e := range got {
		r.owner(e, self(t), "message")
		d := e.Data.(*event.DNS)
		seen = append(seen, fmt.Sprintf("%d %v %v %s %d", d.ID, d.Server, d.Response, d.Name, len(d.Answers)))
		if d.L4 != event.TCP || d.Cut || d.Response != (d.Latency > 0) {
			t.Errorf("%s", show(d))
		}
	}
	slices.Sort(seen)
	var want []string
	for i, q := range []string{"a.test 2", "big.test 20", "c.test 2"} {
		name, n, _ := strings.Cut(q, " ")
		for _, end := range []bool{false, true} {
			want = append(want, fmt.Sprintf("%d %v false %s 0", i+1, end, name), fmt.Sprintf("%d %v true %s %s", i+1, end, name, n))
		}
	}
	slices.Sort(want)
	if !slices.Equal(seen, want) {
		t.Errorf("got %q\nwant %q", seen, want)
	}

	// The streams are forgotten with their connection.
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	r.sync()
	if ss := &r.sensor.dns.streams; ss.bytes != 0 || ss.dropped != 0 {
		t.Errorf("%d bytes in %d streams, %d dropped", ss.bytes, len(ss.m), ss.dropped)
	}
}

// TestBPFDNSOwner has questions of another process.
func TestBPFDNSOwner(t *testing.T) {
	r := newRigOf(t, Config{}, roadConfig(), kindDNS)
	ns := testkit.NewNetns(t)
	server := packetConn(t, ns, "udp4", "127.0.0.1:53")
	h := start(t, ns, nil, "ask", "127.0.0.1:53")
	b := make([]byte, 512)
	n, from, err := server.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.WriteToUDPAddrPort(answerTo(t, b[:n]), from); err != nil {
		t.Fatal(err)
	}
	h.ready()
	client := h.key()
	for i, e := range r.messages(ns.Inode(t), 4) {
		want := client
		if i == 1 || i == 2 {
			want = self(t)
		}
		r.owner(e, want, fmt.Sprint("message ", i))
	}
	h.finish()
}
