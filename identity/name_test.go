package identity

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"warren/event"
)

// answer applies a DNS answer.
func (m *machine) answer(netns uint32, addrs ...event.Answer) {
	d := &event.DNS{Type: "dns", Response: true, Addrs: addrs}
	d.NetNS = netns
	m.apply(event.Key{}, nil, d)
}

// asked returns the name of an address in the event of a connection made now.
func (m *machine) asked(netns uint32, a string) string {
	c := &event.Connection{Type: "connect"}
	c.NetNS, c.Remote, c.Cookie, c.L4 = netns, netip.MustParseAddr(a), m.ktime, event.TCP
	m.apply(event.Key{}, nil, c)
	return c.RemoteName
}

func TestNames(t *testing.T) {
	m := newMachine(t, nil)
	a := func(name, addr string, ttl uint32) event.Answer {
		return event.Answer{Name: name, Addr: netip.MustParseAddr(addr), TTL: ttl}
	}
	expect := func(netns uint32, addr, want string) {
		t.Helper()
		if got := m.asked(netns, addr); got != want {
			t.Errorf("%s in %d: %q, want %q", addr, netns, got, want)
		}
	}
	m.answer(1, a("shop.example", "10.0.0.1", 30), a("shop.example", "fd00::1", 30))
	m.answer(2, a("other.example", "10.0.0.1", 30))
	expect(1, "10.0.0.1", "shop.example")
	expect(1, "fd00::1", "shop.example")
	expect(1, "::ffff:10.0.0.1", "shop.example") // an IPv6 socket that speaks IPv4
	expect(2, "10.0.0.1", "other.example")
	expect(2, "fd00::1", "")
	expect(3, "10.0.0.1", "")

	m.tick(89 * time.Second) // 30 s to live and 60 s of grace
	expect(1, "10.0.0.1", "shop.example")
	m.tick(2 * time.Second)
	expect(1, "10.0.0.1", "")

	// Asked again before it ends, it lives longer; an answer with less to live
	// takes nothing away.
	m.answer(1, a("shop.example", "10.0.0.1", 300))
	m.answer(1, a("shop.example", "10.0.0.1", 1))
	m.tick(200 * time.Second)
	expect(1, "10.0.0.1", "shop.example")

	// Two names for one address: the last answered, and before it the first.
	before := m.ktime
	m.tick(time.Second)
	m.answer(1, a("img.example", "10.0.0.1", 300))
	expect(1, "10.0.0.1", "img.example")
	if got := m.names.lookup(1, netip.MustParseAddr("10.0.0.1"), before); got != "shop.example" {
		t.Errorf("before the last answer: %q", got)
	}

	// A question teaches nothing, nor does an answer without a name or address.
	q := &event.DNS{Type: "dns", Addrs: []event.Answer{a("q.example", "10.9.9.9", 300)}}
	q.NetNS = 1
	m.apply(event.Key{}, nil, q)
	expect(1, "10.9.9.9", "")
	m.answer(1, a("zero.example", "0.0.0.0", 300), event.Answer{Name: "no.example", TTL: 300}, a("", "10.9.9.8", 300))
	expect(1, "10.9.9.8", "")

	// A time to live beyond all reason does not overflow.
	m.answer(1, a("ever.example", "10.8.8.8", 1<<32-1))
	m.tick(8 * 24 * time.Hour)
	expect(1, "10.8.8.8", "")
}

func TestNamesAreBounded(t *testing.T) {
	m := newMachine(t, func(c *Config) { c.MaxNames = 100 })
	first := event.Answer{Name: "first.example", Addr: netip.MustParseAddr("10.0.0.1"), TTL: 3600}
	m.answer(1, first)
	for n := range 1000 {
		m.answer(1, event.Answer{Name: fmt.Sprintf("n%d.example", n), Addr: netip.AddrFrom4([4]byte{11, 0, byte(n >> 8), byte(n)}), TTL: 3600})
		if n%50 == 0 && m.asked(1, "10.0.0.1") != "first.example" {
			t.Fatalf("a name in use was forgotten after %d others", n)
		}
	}
	if s := m.Stats(); s.Names != 100 || s.NamesEvicted != 901 {
		t.Errorf("%d names, %d evicted", s.Names, s.NamesEvicted)
	}
	many := make([]event.Answer, 5000)
	for n := range many {
		many[n] = event.Answer{Name: "flood.example", Addr: netip.AddrFrom4([4]byte{12, 0, byte(n >> 8), byte(n)}), TTL: 3600}
	}
	m.answer(1, many...)
	if s := m.Stats(); s.NamesEvicted != 901+maxAnswers {
		t.Errorf("one message pushed out %d names", s.NamesEvicted-901)
	}
}
