package api

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"warren/event"
)

func TestTarget(t *testing.T) {
	for text, want := range map[string]string{
		"203.0.113.7": "203.0.113.7", "203.0.113.7:443": "203.0.113.7:443", "10.1.2.3/8": "10.0.0.0/8", "10.0.0.0/8:53": "10.0.0.0/8:53",
		"2001:db8::1": "2001:db8::1", "[2001:db8::1]:443": "[2001:db8::1]:443", "2001:db8::/32": "2001:db8::/32", "::ffff:1.2.3.4": "1.2.3.4",
		"Example.COM.": "example.com", "example.com:443": "example.com:443", "*.example.com": "*.example.com", "localhost": "localhost", "a_b.example": "a_b.example",
	} {
		got, err := ParseTarget(text)
		if err != nil || got.String() != want {
			t.Errorf("%s is %v, %v, want %s", text, got, err, want)
		}
		if again, err := ParseTarget(got.String()); err != nil || again != got {
			t.Errorf("%s is read again as %v, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "1.2.3", "1.2.3.4.5", "256.1.1.1", "a b", "x:0", "x:65536", "x:http", ":443", "[::1", "[::1]", "fe80::1%eth0", "*.", "a..b", `a"b`, "::1:", "10.0.0.0/33", "https://example.com/"} {
		if got, err := ParseTarget(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, s := range []string{"203.0.113.7", "example.com:443", "*.example.com", "[2001:db8::1]:443", "10.0.0.0/8"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		to, err := ParseTarget(text)
		if err != nil {
			return
		}
		if again, err := ParseTarget(to.String()); err != nil || again != to {
			t.Errorf("%q is %v, which is %v, %v", text, to, again, err)
		}
		// Whatever it is, it is no more than a value in a condition.
		c := &whoCollector{to: to}
		for _, cond := range []string{c.condition(), to.answers()} {
			if q := (Query{"filter": cond}); to.Name != "" || cond == c.condition() {
				if _, err := q.Filter(); err != nil {
					t.Errorf("%q makes %s: %v", text, cond, err)
				}
			}
		}
	})
}

// A whoDay is a day on which several processes reached something.
func whoDay(f *fake) *fakeHistory {
	initProc, shell, curl := f.procs[0], f.procs[2], f.procs[3]
	host := func(p *event.Process) *event.Process {
		c := *p
		c.Container, c.UserName = nil, "root"
		return &c
	}
	sshd := host(initProc)
	sshd.Name, sshd.ExePath, sshd.PID, sshd.PID = "sshd", "/usr/sbin/sshd", 50, 50
	bash := host(shell)
	bash.Parent, bash.SID = sshd, bash.PID
	wget := host(curl)
	wget.Name, wget.ExePath, wget.Parent, wget.SID = "wget", "/usr/bin/wget", bash, bash.PID
	h := newFakeHistory()
	h.status.Oldest = time.Unix(1e9, 0)
	at := func(sec int64) time.Time { return time.Unix(1e9+sec, 0) }
	conn := func(p *event.Process, cookie uint64, typ, addr, name string, sec, began int64, sent uint64) {
		c := &event.Connection{Socket: event.Socket{Local: netip.MustParseAddr("10.0.0.1"), Remote: netip.MustParseAddr(addr), LocalPort: uint16(1000 + cookie), RemotePort: 443, L4: event.TCP, Cookie: cookie, RemoteName: name}, Type: typ, State: event.Established, Start: at(began), BytesSent: sent, BytesReceived: sent * 10}
		if typ == "close" {
			c.State = event.Close
		}
		if typ == "refused" {
			c.Type, c.Res, c.State = "connect", 111, event.Close
		}
		h.events = append(h.events, &event.Event{Time: at(sec), Seq: uint64(len(h.events) + 1), Actor: p.Key, Process: p, Data: c})
	}
	answer := func(sec int64, name string, records ...string) {
		h.events = append(h.events, &event.Event{Time: at(sec), Seq: uint64(len(h.events) + 1), Actor: curl.Key, Process: curl, Data: &event.DNS{Type: "dns", Response: true, Name: name, Answers: records}})
	}
	answer(10, "example.com", "example.com 60 A 203.0.113.7")
	conn(curl, 1, "connect", "203.0.113.7", "example.com", 11, 11, 0)
	conn(curl, 1, "close", "203.0.113.7", "example.com", 12, 11, 100)
	// The address gets another name, and is reached by it; the old one is still good.
	answer(20, "other.example", "other.example 60 A 203.0.113.7")
	conn(wget, 2, "connect", "203.0.113.7", "other.example", 21, 21, 0)
	conn(wget, 2, "update", "203.0.113.7", "other.example", 25, 21, 7)
	// The name moves to another address, by an alias.
	answer(30, "www.example.com", "www.example.com 60 CNAME example.com", "example.com 60 A 203.0.113.99")
	conn(wget, 3, "connect", "203.0.113.99", "www.example.com", 31, 31, 0)
	conn(wget, 3, "close", "203.0.113.99", "www.example.com", 32, 31, 5)
	conn(wget, 4, "refused", "203.0.113.99", "www.example.com", 33, 33, 0)
	// Much later the old address is somebody else's.
	conn(curl, 5, "connect", "203.0.113.7", "third.example", 9000, 9000, 0)
	conn(curl, 5, "close", "203.0.113.7", "third.example", 9001, 9000, 1)
	// Older than the history.
	conn(curl, 6, "close", "203.0.113.7", "", 9002, -500, 50)
	f.conns = nil
	return h
}

func whoRows(w Who) []string {
	var rows []string
	for _, r := range w.Rows {
		var line []string
		for _, a := range r.Ancestry {
			line = append(line, a.Name)
		}
		rows = append(rows, fmt.Sprintf("%s in %s by %s: %d (%d open, %d failed) %d/%d bytes, %d-%d, %s", r.ExePath, r.Container, strings.Join(line, "<"), r.Connections, r.Open, r.Failed, r.Sent, r.Received, r.First.Unix()-1e9, r.Last.Unix()-1e9, strings.Join(r.Ends, ";")))
	}
	return rows
}

func TestWho(t *testing.T) {
	f := newFake()
	h := whoDay(f)
	h.spoilt = 2 // which is known once it was read
	c, _ := listen(t, f, Config{History: h})
	ask := func(q WhoQuestion) Who {
		t.Helper()
		w, err := c.Who(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	const (
		curlRow = "/bin/curl in web by bash<init: 3 (0 open, 0 failed) 151/1510 bytes, 11-9002, tcp 203.0.113.7:443 example.com;tcp 203.0.113.7:443 third.example;tcp 203.0.113.7:443"
		wgetRow = "/usr/bin/wget in host by bash<sshd: 1 (0 open, 0 failed) 7/70 bytes, 21-25, tcp 203.0.113.7:443 other.example"
	)
	w := ask(WhoQuestion{To: "203.0.113.7"})
	equal(t, w.Broken, 2)
	equal(t, whoRows(w), []string{curlRow, wgetRow})
	var known []string
	for _, a := range w.Addresses {
		known = append(known, a.Name)
	}
	equal(t, known, []string{"third.example", "other.example", "example.com"})
	if !w.Since.Equal(h.status.Oldest) {
		t.Errorf("since %v, want the begin of the history", w.Since)
	}
	equal(t, whoRows(ask(WhoQuestion{To: "203.0.113.0/28:443"})), []string{curlRow, wgetRow})
	equal(t, len(ask(WhoQuestion{To: "203.0.113.7:80"}).Rows), 0)
	equal(t, whoRows(ask(WhoQuestion{To: "203.0.113.7", Filter: "proc.name = wget"})), []string{wgetRow})
	equal(t, whoRows(ask(WhoQuestion{To: "203.0.113.7", Since: time.Unix(1e9+15, 0), Until: time.Unix(1e9+24, 0)})),
		[]string{"/usr/bin/wget in host by bash<sshd: 1 (0 open, 0 failed) 0/0 bytes, 21-21, tcp 203.0.113.7:443 other.example"})
	// By the name: what it was called when it was reached, and what DNS had said of it.
	equal(t, whoRows(ask(WhoQuestion{To: "example.com:443"})), []string{
		"/usr/bin/wget in host by bash<sshd: 2 (0 open, 1 failed) 12/120 bytes, 21-33, tcp 203.0.113.7:443 example.com;tcp 203.0.113.99:443 www.example.com",
		"/bin/curl in web by bash<init: 1 (0 open, 0 failed) 100/1000 bytes, 11-12, tcp 203.0.113.7:443 example.com",
	})
	equal(t, len(ask(WhoQuestion{To: "*.example.com"}).Rows), 1)
	equal(t, len(ask(WhoQuestion{To: "example.co"}).Rows), 0)
	limited := ask(WhoQuestion{To: "203.0.113.7", Limit: 1})
	if len(limited.Rows) != 1 || limited.More != 1 {
		t.Errorf("%d rows and %d more", len(limited.Rows), limited.More)
	}
}

// What goes on is in the answer, with and without a history.
func TestWhoLives(t *testing.T) {
	f := newFake()
	h := whoDay(f)
	live := func(cookie uint64, began time.Time, sent uint64) *event.Event {
		return &event.Event{Time: time.Now(), Process: f.procs[3], Actor: f.procs[3].Key, Data: &event.Connection{Socket: event.Socket{Remote: netip.MustParseAddr("198.51.100.1"), RemotePort: 22, L4: event.TCP, Cookie: cookie}, Type: "update", State: event.Established, Start: began, BytesSent: sent}}
	}
	one := live(71, time.Unix(1e9+100, 0), 5)
	connect := *one
	connect.Seq, connect.Time, connect.Data = 900, time.Unix(1e9+100, 0), &event.Connection{Socket: one.Data.(*event.Connection).Socket, Type: "connect", State: event.Established, Start: time.Unix(1e9+100, 0)}
	h.events = append(h.events, &connect)
	f.conns = []*event.Event{one, live(72, time.Time{}, 6)}
	for _, cfg := range []Config{{History: h}, {}} {
		c, _ := listen(t, f, cfg)
		w, err := c.Who(t.Context(), WhoQuestion{To: "198.51.100.1"})
		if err != nil {
			t.Fatal(err)
		}
		if len(w.Rows) != 1 || w.Rows[0].Connections != 2 || w.Rows[0].Open != 2 || w.Rows[0].Sent != 11 || (w.NoHistory == "") != (cfg.History != nil) {
			t.Errorf("with a history: %v: %+v", cfg.History != nil, w)
		}
	}
}

// An agent that starts later knows less of a process: it is the same one, in the
// same row, and so is what it has open.
func TestWhoAcrossAgents(t *testing.T) {
	f := newFake()
	curl := f.procs[3]
	later := *curl
	later.Parent = nil
	h := newFakeHistory()
	h.status.Oldest = time.Unix(1e9, 0)
	conn := func(p *event.Process, cookie uint64, typ string, sec int64, sent uint64) *event.Event {
		c := &event.Connection{Socket: event.Socket{Remote: netip.MustParseAddr("198.51.100.1"), RemotePort: 22, L4: event.TCP, Cookie: cookie}, Type: typ, State: event.Established, BytesSent: sent}
		if typ == "connect" {
			c.Start = time.Unix(1e9+sec, 0)
		}
		if typ == "close" {
			c.State = event.Close
		}
		return &event.Event{Time: time.Unix(1e9+sec, 0), Seq: uint64(sec), Process: p, Actor: p.Key, Data: c}
	}
	h.events = []*event.Event{
		conn(curl, 1, "connect", 1, 0), conn(curl, 2, "connect", 2, 0),
		// And now there is another agent.
		conn(&later, 1, "update", 11, 5), conn(&later, 2, "close", 12, 7), conn(&later, 3, "connect", 13, 0), conn(&later, 3, "close", 14, 9),
	}
	open := conn(&later, 1, "update", 15, 6)
	f.conns = []*event.Event{open, h.events[3], h.events[5]}
	c, _ := listen(t, f, Config{History: h})
	for _, failing := range []string{"", "no space left on device"} {
		h.status.Error = failing
		w, err := c.Who(t.Context(), WhoQuestion{To: "198.51.100.1"})
		if err != nil {
			t.Fatal(err)
		}
		if len(w.Rows) != 1 || len(w.Rows[0].Ancestry) != 2 {
			t.Fatalf("%+v", w.Rows)
		}
		if r := w.Rows[0]; r.Connections != 3 || r.Open != 1 || r.Sent != 22 || r.Processes != 1 || w.Failing != failing || w.NoHistory != "" {
			t.Errorf("%+v", w)
		}
	}
	// The list has the begin of what is older than the agent.
	rows := begun(open, h.events[0].Data.(*event.Connection))
	if d := rows.Data.(*event.Connection); !d.Start.Equal(time.Unix(1e9+1, 0)) || d.Duration != int64(14*time.Second) || !open.Data.(*event.Connection).Start.IsZero() {
		t.Errorf("begun at %v", d.Start)
	}
}

func TestMergeWho(t *testing.T) {
	a := Who{To: "x", Since: time.Unix(5, 0), Until: time.Unix(9, 0), Addresses: []WhoAddress{{"1.2.3.4", "x", time.Unix(5, 0), time.Unix(6, 0)}}, Rows: []WhoRow{{Node: "a", ExePath: "/x", Last: time.Unix(8, 0), Connections: 2, Namespace: "shop"}}, Lost: 1, Broken: 4}
	b := Who{To: "x", Since: time.Unix(4, 0), Until: time.Unix(10, 0), Addresses: []WhoAddress{{"1.2.3.4", "x", time.Unix(7, 0), time.Unix(8, 0)}}, Rows: []WhoRow{{Node: "b", ExePath: "/x", Last: time.Unix(9, 0), Connections: 3}}, Lost: 2, Broken: 1}
	w := MergeWho([]Who{a, b})
	if len(w.Rows) != 2 || w.Rows[0].Node != "b" || w.Lost != 3 || w.Broken != 5 || !w.Since.Equal(b.Since) || !w.Until.Equal(b.Until) || len(w.Addresses) != 1 || !w.Addresses[0].Last.Equal(time.Unix(8, 0)) {
		t.Errorf("%+v", w)
	}
	if w = w.Restrict(func(ns string) bool { return ns == "shop" }); len(w.Rows) != 1 || w.Rows[0].Node != "a" {
		t.Errorf("%+v", w)
	}
	if w := MergeWho([]Who{a, b}).Last(1); len(w.Rows) != 1 || w.More != 2 {
		t.Errorf("%+v", w)
	}
}
