package l7

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
)

// answer packs a response to a question for name with the given resources.
func answer(t testing.TB, name string, qtype dnsmessage.Type, rs ...dnsmessage.Resource) []byte {
	t.Helper()
	n := dnsmessage.MustNewName(name)
	for i := range rs {
		if rs[i].Header.Name.Length == 0 {
			rs[i].Header.Name = n
		}
		rs[i].Header.Class = dnsmessage.ClassINET
	}
	b, err := (&dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 4711, Response: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{{Name: n, Type: qtype, Class: dnsmessage.ClassINET}},
		Answers:   rs,
	}).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func header(name string, ttl uint32) dnsmessage.ResourceHeader {
	h := dnsmessage.ResourceHeader{TTL: ttl}
	if name != "" {
		h.Name = dnsmessage.MustNewName(name)
	}
	return h
}

func a(name string, ttl uint32, addr string) dnsmessage.Resource {
	return dnsmessage.Resource{Header: header(name, ttl), Body: &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()}}
}

func alias(name string, ttl uint32, to string) dnsmessage.Resource {
	return dnsmessage.Resource{Header: header(name, ttl), Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(to)}}
}

func unknown(name string, typ uint16, data string) dnsmessage.Resource {
	return dnsmessage.Resource{Header: header(name, 5), Body: &dnsmessage.UnknownResource{Type: dnsmessage.Type(typ), Data: []byte(data)}}
}

// hints is an HTTPS record: priority 1, target ".", alpn h2, two IPv4 and one
// IPv6 hint.
const hints = "\x00\x01\x00" + "\x00\x01\x00\x03\x02h2" +
	"\x00\x04\x00\x08\x01\x02\x03\x04\x05\x06\x07\x08" +
	"\x00\x06\x00\x10\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"

func TestParseDNSAnswers(t *testing.T) {
	tests := []struct {
		name  string
		msg   []byte
		texts []string
		addrs []string
	}{
		{"a", answer(t, "WWW.Example.org.", dnsmessage.TypeA, a("", 60, "192.0.2.1"), a("", 30, "192.0.2.2")),
			[]string{"www.example.org 60 A 192.0.2.1", "www.example.org 30 A 192.0.2.2"},
			[]string{"192.0.2.1 60", "192.0.2.2 30"}},
		{"aaaa", answer(t, "x.org.", dnsmessage.TypeAAAA, dnsmessage.Resource{Header: header("", 7),
			Body: &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("2001:db8::5").As16()}}),
			[]string{"x.org 7 AAAA 2001:db8::5"}, []string{"2001:db8::5 7"}},
		{"alias", answer(t, "a.org.", dnsmessage.TypeA, alias("", 10, "b.org."), alias("b.org.", 300, "c.org."), a("c.org.", 100, "192.0.2.9")),
			[]string{"a.org 10 CNAME b.org", "b.org 300 CNAME c.org", "c.org 100 A 192.0.2.9"},
			[]string{"192.0.2.9 10"}},
		{"alias after its address", answer(t, "a.org.", dnsmessage.TypeA, a("b.org.", 100, "192.0.2.9"), alias("", 300, "b.org.")),
			[]string{"b.org 100 A 192.0.2.9", "a.org 300 CNAME b.org"}, []string{"192.0.2.9 100"}},
		{"alias in circles", answer(t, "a.org.", dnsmessage.TypeA, alias("", 1, "b.org."), alias("b.org.", 1, "a.org.")),
			[]string{"a.org 1 CNAME b.org", "b.org 1 CNAME a.org"}, nil},
		{"alias of another circle", answer(t, "a.org.", dnsmessage.TypeA, alias("", 1, "b.org."), alias("b.org.", 1, "c.org."), alias("c.org.", 1, "b.org."), a("d.org.", 1, "192.0.2.1")),
			[]string{"a.org 1 CNAME b.org", "b.org 1 CNAME c.org", "c.org 1 CNAME b.org", "d.org 1 A 192.0.2.1"}, nil},
		{"stranger", answer(t, "evil.org.", dnsmessage.TypeA, a("bank.org.", 60, "192.0.2.1")),
			[]string{"bank.org 60 A 192.0.2.1"}, nil},
		{"ptr mx srv txt", answer(t, "m.org.", dnsmessage.TypeALL,
			dnsmessage.Resource{Header: header("", 1), Body: &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName("Host.org.")}},
			dnsmessage.Resource{Header: header("", 2), Body: &dnsmessage.MXResource{Pref: 10, MX: dnsmessage.MustNewName("mail.m.org.")}},
			dnsmessage.Resource{Header: header("", 3), Body: &dnsmessage.SRVResource{Priority: 1, Weight: 2, Port: 443, Target: dnsmessage.MustNewName("s.m.org.")}},
			dnsmessage.Resource{Header: header("", 4), Body: &dnsmessage.TXTResource{TXT: []string{"v=1", "a \"q\" \x1b[31m\\"}}}),
			[]string{"m.org 1 PTR host.org", "m.org 2 MX 10 mail.m.org", "m.org 3 SRV 1 2 443 s.m.org", `m.org 4 TXT "v=1" "a \"q\" \027[31m\\"`}, nil},
		{"https", answer(t, "h.org.", dnsmessage.Type(65), unknown("", 65, hints)),
			[]string{"h.org 5 HTTPS 1 . ipv4hint=1.2.3.4,5.6.7.8 ipv6hint=2001:db8::1"}, []string{"1.2.3.4 5", "5.6.7.8 5", "2001:db8::1 5"}},
		{"unknown", answer(t, "u.org.", dnsmessage.Type(4660), unknown("", 4660, "\x01\xff")),
			[]string{`u.org 5 TYPE4660 \# 2 01ff`}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := ParseDNS(tt.msg)
			if err != nil {
				t.Fatal(err)
			}
			var texts, addrs []string
			for i := range d.Answers {
				texts = append(texts, string(d.Answers[i].AppendText(nil)))
			}
			for a, ttl := range d.Addrs {
				addrs = append(addrs, a.String()+" "+itoa(ttl))
			}
			if diff := cmp.Diff(tt.texts, texts); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.addrs, addrs); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
			if !d.Response || d.ID != 4711 || d.RCode != 0 || d.Cut {
				t.Errorf("header: %+v", d)
			}
		})
	}
}

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// raw is a question for name, given on the wire.
func raw(flags uint16, name string) []byte {
	b := make([]byte, dnsHeaderLen)
	binary.BigEndian.PutUint16(b[2:], flags)
	b[5] = 1
	return append(append(b, name...), 0, 28, 0, 1)
}

func TestParseDNSNames(t *testing.T) {
	label := strings.Repeat("x", 63)
	long := strings.Repeat("\x3f"+label, 3)
	tests := []struct {
		name, wire, want string
		err              error
	}{
		{"lower case", "\x03WwW\x07eXample\x00", "www.example", nil},
		{"root", "\x00", ".", nil},
		{"special", "\x08a.b\\\"; \x7f\x00", `a\.b\\\"\;\032\127`, nil},
		{"bytes", "\x04\x00\x1b\xff\n\x00", `\000\027\255\010`, nil},
		{"longest", long + "\x3d" + label[:61] + "\x00", strings.Repeat(label+".", 3) + label[:61], nil},
		{"too long", long + "\x3e" + label[:62] + "\x00", "", ErrDNSMalformed},
		{"reserved", "\x40\x00", "", ErrDNSMalformed},
		{"to itself", "\xc0\x0c", "", ErrDNSMalformed},
		{"in circles", "\x01a\xc0\x0c", "", ErrDNSMalformed},
		{"into the header", "\xc0\x02", "", ErrDNSMalformed},
		{"forward", "\xc0\x20", "", ErrDNSMalformed},
		{"no end", "\x3fabc", "", ErrDNSShort},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := ParseDNS(raw(0, tt.wire))
			if !errors.Is(err, tt.err) || err == nil && (d.Name != tt.want || d.QType != DNSTypeAAAA) {
				t.Errorf("got %q %v %v, want %q, %v", d.Name, d.QType, err, tt.want, tt.err)
			}
		})
	}
}

func TestParseDNSBadInput(t *testing.T) {
	whole := answer(t, "a.example.org.", dnsmessage.TypeA, a("", 60, "192.0.2.1"), a("", 60, "192.0.2.2"))
	t.Run("every length", func(t *testing.T) {
		for n := range whole {
			d, err := ParseDNS(whole[:n])
			if !errors.Is(err, ErrDNSShort) {
				t.Fatalf("%d bytes of %d: %v", n, len(whole), err)
			}
			if n == len(whole)-1 && (d.Name != "a.example.org" || len(d.Answers) != 1) {
				t.Errorf("kept %+v", d)
			}
		}
	})
	t.Run("limit of records", func(t *testing.T) {
		var rs []dnsmessage.Resource
		for range MaxDNSAnswers + 1 {
			rs = append(rs, a("", 1, "192.0.2.1"))
		}
		d, err := ParseDNS(answer(t, "a.org.", dnsmessage.TypeA, rs...))
		if err != nil || len(d.Answers) != MaxDNSAnswers || !d.Cut {
			t.Errorf("%d answers, cut %v, %v", len(d.Answers), d.Cut, err)
		}
	})
	t.Run("limit of text", func(t *testing.T) {
		var txt []string
		for range 9 {
			txt = append(txt, strings.Repeat("\x00", 255))
		}
		d, err := ParseDNS(answer(t, "a.org.", dnsmessage.TypeTXT, dnsmessage.Resource{Body: &dnsmessage.TXTResource{TXT: txt}}))
		if err != nil || len(d.Answers) != 1 || len(d.Answers[0].Value) > maxDNSValue || !d.Cut {
			t.Errorf("cut %v, %v", d.Cut, err)
		}
	})
	// A record whose data is bad does not hide what stands behind it.
	for name, r := range map[string]dnsmessage.Resource{
		"address of 3 bytes":    unknown("", 1, "abc"),
		"address of 15 bytes":   unknown("", 28, "abcdefghijklmno"),
		"hint of 3 bytes":       unknown("", 65, "\x00\x01\x00\x00\x04\x00\x03abc"),
		"good hint, bad hint":   unknown("", 65, "\x00\x01\x00\x00\x04\x00\x04abcd\x00\x04\x00\x03abc"),
		"alias and more":        unknown("", 5, "\x00x"),
		"alias beyond its data": unknown("", 5, "\x04x"),
		"string beyond data":    unknown("", 16, "\x04x"),
		"mail without a name":   unknown("", 15, "\x00\x01"),
	} {
		t.Run(name, func(t *testing.T) {
			data := r.Body.(*dnsmessage.UnknownResource).Data
			d, err := ParseDNS(answer(t, "a.org.", dnsmessage.TypeA, r, a("", 60, "192.0.2.1")))
			if err != nil || len(d.Answers) != 2 {
				t.Fatalf("%+v %v", d, err)
			}
			want := DNSRecord{Name: "a.org", Type: d.Answers[0].Type, Class: 1, TTL: 5, Value: fmt.Sprintf(`\# %d %x`, len(data), data)}
			if diff := cmp.Diff(want, d.Answers[0], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
			var addrs []string
			for addr := range d.Addrs {
				addrs = append(addrs, addr.String())
			}
			if diff := cmp.Diff([]string{"192.0.2.1"}, addrs); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("reserved bit", func(t *testing.T) { // servers do not mind
		if d, err := ParseDNS(raw(0x40, "\x01a\x00")); err != nil || d.Name != "a" {
			t.Errorf("%+v %v", d, err)
		}
	})
	bad := map[string][]byte{
		"no such label": append(raw(0x8000, "\x00"), 0x80, 0, 0, 1),
		"9 questions":   append([]byte{0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0}, make([]byte, 9*5)...),
	}
	bad["no such label"][7] = 1 // one answer, whose owner it is
	for name, msg := range bad {
		t.Run(name, func(t *testing.T) {
			if d, err := ParseDNS(msg); !errors.Is(err, ErrDNSMalformed) {
				t.Errorf("%+v %v", d, err)
			}
		})
	}
}

func TestDNSNames(t *testing.T) {
	if got := DNSTypeHTTPS.String() + " " + DNSType(999).String(); got != "HTTPS TYPE999" {
		t.Error(got)
	}
	if got := DNSRCode(3).String() + " " + DNSRCode(15).String(); got != "NXDOMAIN RCODE15" {
		t.Error(got)
	}
}

// FuzzParseDNS holds the parser against that of golang.org/x/net: what both
// accept, both read alike.
func FuzzParseDNS(f *testing.F) {
	f.Add(raw(0, "\x03www\x07example\x00"))
	f.Add(answer(f, "www.example.org.", dnsmessage.TypeA, alias("", 1, "b.example.org."), a("b.example.org.", 60, "192.0.2.1")))
	f.Add(answer(f, "h.org.", dnsmessage.Type(65), unknown("", 65, hints)))
	f.Add(answer(f, "m.org.", dnsmessage.TypeALL,
		dnsmessage.Resource{Body: &dnsmessage.SRVResource{Port: 443, Target: dnsmessage.MustNewName("s.m.org.")}},
		dnsmessage.Resource{Body: &dnsmessage.MXResource{Pref: 10, MX: dnsmessage.MustNewName("mail.m.org.")}},
		dnsmessage.Resource{Body: &dnsmessage.TXTResource{TXT: []string{"a", "b"}}}))
	f.Add(raw(0x8180, "\xc0\x0c"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDNS(b)
		if len(d.Answers) > MaxDNSAnswers {
			t.Fatalf("%d answers", len(d.Answers))
		}
		n := 0
		for addr := range d.Addrs {
			if n++; !addr.IsValid() || n > MaxDNSAnswers*maxDNSHints*maxDNSAliases {
				t.Fatal("addresses without end or value")
			}
		}
		for i := range d.Answers {
			r := &d.Answers[i]
			if len(r.Value) > 4*maxDNSName+maxDNSValue || len(r.Name) > 4*maxDNSName {
				t.Fatalf("record of %d and %d bytes", len(r.Name), len(r.Value))
			}
			for _, c := range r.AppendText(nil) {
				if c < ' ' || c > '~' {
					t.Fatalf("control character %#x in %q", c, r.AppendText(nil))
				}
			}
		}
		if err != nil {
			return
		}
		compare(t, b, &d)
	})
}

// compare holds d against what dnsmessage reads, if it does.
func compare(t *testing.T, b []byte, d *DNS) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil {
		t.Fatalf("we accept what has no header: %v", err)
	}
	if h.ID != d.ID || h.Response != d.Response || h.Truncated != d.Truncated || uint16(h.RCode) != uint16(d.RCode) || uint8(h.OpCode) != d.Opcode {
		t.Fatalf("header: %+v, want %+v", d, h)
	}
	qs, err := p.AllQuestions()
	if err != nil {
		return // it refuses dots within labels
	}
	if len(qs) > 0 {
		if got, want := d.Name, present(qs[0].Name); got != want || uint16(d.QType) != uint16(qs[0].Type) {
			t.Fatalf("question %q %v, want %q %v", got, d.QType, want, qs[0].Type)
		}
	}
	for i := range d.Answers {
		rh, err := p.AnswerHeader()
		if err != nil {
			return
		}
		r := &d.Answers[i]
		if r.Name != present(rh.Name) || uint16(r.Type) != uint16(rh.Type) || r.Class != uint16(rh.Class) || r.TTL != rh.TTL && rh.TTL < 1<<31 {
			t.Fatalf("record %+v, want %+v", r, rh)
		}
		if strings.HasPrefix(r.Value, `\# `) { // bad data, which it reads past the end of
			if err := p.SkipAnswer(); err != nil {
				return
			}
			continue
		}
		switch rh.Type {
		case dnsmessage.TypeA:
			if w, err := p.AResource(); err == nil && r.Addr != netip.AddrFrom4(w.A) {
				t.Fatalf("address %v, want %v", r.Addr, w.A)
			} else if err != nil {
				return
			}
		case dnsmessage.TypeAAAA:
			if w, err := p.AAAAResource(); err == nil && r.Addr != netip.AddrFrom16(w.AAAA) {
				t.Fatalf("address %v, want %v", r.Addr, w.AAAA)
			} else if err != nil {
				return
			}
		case dnsmessage.TypeCNAME:
			if w, err := p.CNAMEResource(); err == nil && r.Target != present(w.CNAME) {
				t.Fatalf("alias %q, want %q", r.Target, present(w.CNAME))
			} else if err != nil {
				return
			}
		case dnsmessage.TypeSRV:
			if w, err := p.SRVResource(); err == nil && r.Target != present(w.Target) {
				t.Fatalf("target %q, want %q", r.Target, present(w.Target))
			} else if err != nil {
				return
			}
		default:
			if err := p.SkipAnswer(); err != nil {
				return
			}
		}
	}
}

// present renders a name of dnsmessage, in which labels have no dots, as we do.
func present(n dnsmessage.Name) string {
	s := n.Data[:n.Length]
	if len(s) == 1 {
		return "."
	}
	var text []byte
	for _, c := range s[:len(s)-1] {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c == '.' {
			text = append(text, c)
			continue
		}
		text = appendDNSByte(text, c, nameSpecial)
	}
	return string(text)
}

func BenchmarkParseDNS(b *testing.B) {
	msg := answer(b, "www.example.org.", dnsmessage.TypeA, alias("", 10, "b.example.org."), a("b.example.org.", 100, "192.0.2.9"))
	b.ReportAllocs()
	for b.Loop() {
		if d, err := ParseDNS(msg); err != nil || len(d.Answers) != 2 {
			b.Fatal(err)
		}
	}
}
