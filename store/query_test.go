package store

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"warren/event"
	"warren/filter"
)

// An inventor makes events with values at random: few different ones, so that
// comparisons hold now and then.
type inventor struct {
	*rand.Rand
	at        time.Time
	seq       uint64
	processes []*event.Process
	kinds     event.KindSet // 0: all
}

var (
	madeTexts = []string{"curl", "sshd", "", "a", "/usr/bin/curl", "/etc/passwd", "x\xff", "größe", "shop", "[a]", "10.0.0.1", "connect", "host", "k=v"}
	madeAddrs = []string{"10.0.0.1", "10.0.0.2", "192.168.1.1", "::1", "2001:db8::1", "::ffff:10.0.0.1"}
	madeInts  = []int64{0, 1, 2, 5, 443, 1000, 4242, -1, -5, 1 << 40}
)

func pick[T any](m *inventor, l []T) T { return l[m.IntN(len(l))] }

// fill gives columns values.
func (m *inventor) fill(l *event.Layout, r event.Record) {
	for _, c := range l.Columns {
		if c.Extern || m.IntN(3) == 0 || strings.HasPrefix(c.Name, "evt.") && c.Name != "evt.rawres" && c.Name != "evt.res" || strings.HasPrefix(c.Name, "proc.key") {
			continue
		}
		switch c.Rep {
		case event.IntRep:
			v := pick(m, madeInts)
			if c.Type == event.Time {
				v = m.at.UnixNano() - 5
			}
			if c.Type == event.String {
				v = int64(m.IntN(3))
			}
			c.SetInt(r, v)
		case event.StrRep:
			c.SetStr(r, pick(m, madeTexts))
		case event.AddrRep:
			c.SetAddr(r, netip.MustParseAddr(pick(m, madeAddrs)))
		case event.ListRep:
			if c.Name == "dns.answers" || c.Name == "proc.argv" || c.Name == "k8s.svc.name" {
				c.SetList(r, []string{pick(m, madeTexts), pick(m, madeTexts)}[:1+m.IntN(2)])
			}
		case event.MapRep:
			c.SetMap(r, map[string]string{"app": pick(m, madeTexts), `a=\b`: "x"})
		}
	}
}

func (m *inventor) process() *event.Process {
	if len(m.processes) > 0 && m.IntN(10) > 0 {
		return pick(m, m.processes)
	}
	p := &event.Process{}
	if len(m.processes) > 0 && m.IntN(5) > 0 {
		p.Parent = pick(m, m.processes)
		p.ParentKey, p.Depth = p.Parent.Key, p.Parent.Depth+1
	}
	l := event.LayoutOf(event.KindProcess)
	m.fill(l, p.Record())
	if m.IntN(2) == 0 {
		p.Container, p.Exited = nil, nil
	}
	p.Key = event.Key{PID: uint32(len(m.processes) + 1), Start: uint64(len(m.processes) + 10)}
	p.PID = p.Key.PID
	m.processes = append(m.processes, p)
	return p
}

func (m *inventor) event() *event.Event {
	kinds := (event.AllKinds &^ event.StateKinds).List()
	if m.kinds != 0 {
		kinds = m.kinds.List()
	}
	l := event.LayoutOf(pick(m, kinds))
	e := l.NewEvent()
	m.seq++
	m.at = m.at.Add(time.Duration(m.IntN(1000)-100) * time.Millisecond)
	m.fill(l, e.Record())
	if c := l.Column("evt.type"); c != nil && c.Rep == event.StrRep {
		c.SetStr(e.Record(), pick(m, l.Kind.Types()))
	}
	e.Time, e.Ktime, e.Seq = m.at, m.seq*1000, m.seq
	if m.IntN(8) > 0 {
		e.Process = m.process()
		e.Actor = e.Process.Key
	}
	if m.IntN(10) == 0 {
		e.Actor = event.Key{PID: uint32(m.IntN(50)), Start: uint64(m.IntN(50))}
	}
	return e
}

// expr makes a condition.
func (m *inventor) expr(depth int) string {
	if depth > 0 {
		switch m.IntN(5) {
		case 0:
			return "(" + m.expr(depth-1) + " and " + m.expr(depth-1) + ")"
		case 1:
			return "(" + m.expr(depth-1) + " or " + m.expr(depth-1) + ")"
		case 2:
			return "not (" + m.expr(depth-1) + ")"
		}
	}
	fields := event.Fields()
	f := pick(m, fields)
	name := f.Name
	switch {
	case f.Arg == event.KeyArg && (!f.KeyOptional || m.IntN(2) == 0):
		name += "[app]"
	case f.Many == event.Ancestors && m.IntN(2) == 0:
		name += fmt.Sprintf("[%d]", m.IntN(3))
	}
	value := func() string {
		switch f.Type {
		case event.String:
			if f.Name == "evt.type" {
				return pick(m, []string{"connect", "execve", "dns", "close"})
			}
			if f.Name == "evt.kind" {
				return pick(m, []string{"connection", "exec", "dns"})
			}
			return strconv.Quote(pick(m, append(madeTexts, "SUCCESS", "tcp", "ESTAB")))
		case event.IP:
			return pick(m, madeAddrs)
		case event.Net:
			return pick(m, []string{"10.0.0.0/8", "192.168.1.1", "::/0", "0.0.0.0/0"})
		case event.Bool:
			return pick(m, []string{"true", "false"})
		case event.Time:
			return strconv.FormatInt(m.at.UnixNano()-int64(m.IntN(2))*5, 10)
		}
		return strconv.FormatInt(pick(m, madeInts), 10)
	}
	ops := []string{"=", "!=", "exists", "in"}
	switch f.Type {
	case event.String:
		ops = append(ops, "contains", "startswith", "endswith", "glob", ">=")
	case event.Int, event.Uint, event.Duration, event.Time:
		ops = append(ops, "<", "<=", ">", ">=")
	}
	switch op := pick(m, ops); op {
	case "exists":
		return name + " exists"
	case "in":
		return name + " in (" + value() + ", " + value() + ")"
	default:
		return name + " " + op + " " + value()
	}
}

// fixture is a store with some of its events sealed, some in a log that is not, and
// some not written yet; and the events.
func fixture(t testing.TB, seed uint64, n int) (*Store, *inventor, []*event.Event) {
	t.Helper()
	m := &inventor{Rand: rand.New(rand.NewPCG(seed, 5)), at: time.Unix(1_700_000_000, 0)}
	s := openAt(t, Config{Dir: t.TempDir(), Now: func() time.Time { return m.at }})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	defer s.Hold()()
	var events []*event.Event
	for i := range n {
		e := m.event()
		events = append(events, e)
		s.Append(e)
		if i == n/3 || i == n/2 {
			if err := s.Seal(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if i == 3*n/4 {
			s.flush(false)
			if err := s.writeOut(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.Sync(t.Context(), m.seq); err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(events, func(a, b *event.Event) int { return a.Time.Compare(b.Time) })
	return s, m, events
}

// naive is what a query must tell.
func naive(events []*event.Event, q Query) (list []string) {
	var found []*event.Event
	for _, e := range events {
		from, to := q.span()
		if ns := e.Time.UnixNano(); ns < from || ns > to || q.Kinds != 0 && !q.Kinds.Has(e.Data.Kind()) || q.Filter != nil && !q.Filter.Match(e) ||
			e.Seq <= q.After || q.UpTo != 0 && e.Seq > q.UpTo {
			continue
		}
		found = append(found, e)
	}
	if q.Limit > 0 && q.Newest {
		slices.Reverse(found)
	}
	for i, counted := 0, 0; q.Limit > 0 && i < len(found); i++ {
		if !event.NoticeKinds.Has(found[i].Data.Kind()) || onlyNotices(q) {
			counted++
		}
		if counted == q.Limit {
			found = found[:i+1]
		}
	}
	if q.Limit > 0 && q.Newest {
		slices.Reverse(found)
	}
	for _, e := range found {
		list = append(list, told(e, q))
	}
	return list
}

// onlyNotices reports whether a query is about nothing else.
func onlyNotices(q Query) bool {
	kinds := event.AllKinds &^ event.StateKinds
	if q.Kinds != 0 {
		kinds &= q.Kinds
	}
	if q.Filter != nil {
		kinds &= q.Filter.Kinds()
	}
	return kinds&^event.NoticeKinds == 0
}

// told is what is compared: all of an event, where everything is asked for.
func told(e *event.Event, q Query) string {
	if q.Filter == nil {
		return string(event.AppendJSON(nil, e))
	}
	return fmt.Sprint(e.Data.Kind(), e.Seq)
}

func compare(t *testing.T, s *Store, events []*event.Event, q Query) {
	t.Helper()
	want := naive(events, q)
	var got []string
	for e, err := range s.Query(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, told(e, q))
	}
	if !slices.Equal(got, want) {
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || got[i] != want[i] {
				g, w := "nothing", "nothing"
				if i < len(got) {
					g = got[i]
				}
				if i < len(want) {
					w = want[i]
				}
				t.Fatalf("%v: %d events, want %d; the first that differs is number %d:\n got %s\nwant %s", q.Filter, len(got), len(want), i, g, w)
			}
		}
	}
}

// TestColumnsAreFields holds that a column tells what the field of its name does, or is
// known not to.
func TestColumnsAreFields(t *testing.T) {
	m := &inventor{Rand: rand.New(rand.NewPCG(1, 5)), at: time.Unix(1_700_000_000, 0)}
	wrong := map[string]string{}
	conditions := map[*event.Field]*filter.Condition{}
	for _, f := range event.Fields() {
		conditions[f] = filterOf(t, f)
	}
	for range 4000 {
		e := m.event()
		p := &plan{kind: e.Data.Kind(), layout: event.LayoutOf(e.Data.Kind())}
		b := new(builder).events(p.layout, event.ThisHost(), []*event.Event{e}, &refs{snapshot: []int64{0}, execID: []string{""}})
		for _, f := range event.Fields() {
			if p.ofProcess(conditions[f].Expr) {
				continue
			}
			l := p.eventLeaf(conditions[f].Compared)
			if l == nil || l.form != leafColumn || l.loose {
				continue
			}
			v := vectorAt(b, l.cols[0])
			got, want := "none", "none"
			if v.Has(0) {
				w := viewOf(v, 1)
				switch {
				case w.nums != nil:
					got = fmt.Sprint(w.nums[0])
				case w.addrs != nil:
					got = w.addrs[0].String()
				case w.offsets != nil:
					got = fmt.Sprintf("%q", v.Lists[0])
				default:
					if got = w.dict[w.codes[0]]; got == "" {
						got = "none"
					}
				}
			}
			switch f.Type {
			case event.String:
				if s, ok := f.Str(e, 0); ok {
					want = s
				}
				if f.Many == event.List && want != "none" {
					var list []string
					for i := 0; ; i++ {
						s, ok := f.Str(e, i)
						if !ok {
							break
						}
						list = append(list, s)
					}
					want = fmt.Sprintf("%q", list)
				}
			case event.IP, event.Net:
				if a, ok := f.Addr(e, 0); ok {
					want = a.String()
				}
			default:
				if n, ok := f.Num(e, 0); ok {
					want = fmt.Sprint(n)
				}
			}
			if got != want {
				wrong[f.Name] = fmt.Sprintf("%s of %v is %s, and %s in its column", f.Name, p.kind, want, got)
			}
		}
	}
	for _, text := range wrong {
		t.Error(text)
	}
}

func filterOf(t *testing.T, f *event.Field) *filter.Condition {
	name := f.Name
	if f.Arg == event.KeyArg && !f.KeyOptional {
		name += "[mode]"
	}
	p, err := filter.Compile(name + " exists")
	if err != nil {
		t.Fatal(err)
	}
	c := p.Condition()
	if c.Compared == nil {
		c.Compared = &filter.Comparison{Field: f}
	}
	return c
}

func TestQueryIsMatch(t *testing.T) {
	some := 0
	for seed := range uint64(2) {
		s, m, events := fixture(t, seed, 1000)
		compare(t, s, events, Query{})
		for range 300 {
			text := m.expr(3)
			p, err := filter.Compile(text)
			if err != nil {
				continue
			}
			q := Query{Filter: p}
			switch m.IntN(6) {
			case 0:
				q.Since = pick(m, events).Time
			case 1:
				q.Until = pick(m, events).Time
			case 2:
				q.Limit = 1 + m.IntN(50)
			case 3:
				q.Limit, q.Newest = 1+m.IntN(50), true
			case 4:
				q.UpTo, q.After = pick(m, events).Seq, pick(m, events).Seq/2
			}
			if n := len(naive(events, q)); n > 0 && n < len(events) {
				some++
			}
			compare(t, s, events, q)
		}
	}
	if some < 150 {
		t.Errorf("only %d queries told some events and not all", some)
	}
}

// TestQueryByAncestors asks what is found by the links between processes.
func TestQueryByAncestors(t *testing.T) {
	s, _, events := fixture(t, 7, 1500)
	for _, text := range []string{
		"proc.aname = sshd", "not proc.aname = sshd", "proc.aname != sshd", "proc.aname exists", "proc.aname in (curl, shop)", "proc.aname = anyof (curl, shop)", "proc.aname = oneof (curl, shop)",
		"proc.aname contains s and proc.name = curl", "proc.apid = 3", "proc.apid > 20", "proc.aexepath startswith /usr", "proc.acmdline = a", "proc.aname[2] = sshd", "proc.aname = nothing or proc.apid = 1",
	} {
		p, err := filter.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, s, events, Query{Filter: p})
	}
}

// TestLimitOfLosses: losses are told between events and are none of those that were
// asked for.
func TestLimitOfLosses(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close()
	p := &event.Process{Key: event.Key{PID: 10, Start: 50}, PID: 10, Name: "curl"}
	for i := range 4 {
		at = at.Add(time.Second)
		s.Append(connection(uint64(2*i+1), p, at, 443))
		s.Append(&event.Event{Time: at.Add(1), Seq: uint64(2*i + 2), Data: &event.Lost{Type: "lost", Count: 1, Lane: "disk"}})
	}
	if _, err := s.Sync(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	lost := event.Kinds(event.KindLost)
	for _, tt := range []struct {
		q    Query
		want []uint64
	}{
		{Query{Limit: 2}, []uint64{1, 2, 3}},
		{Query{Limit: 2, Newest: true}, []uint64{5, 6, 7, 8}},
		{Query{Limit: 2, Kinds: lost}, []uint64{2, 4}},
		{Query{Limit: 2, Newest: true, Kinds: event.NoticeKinds}, []uint64{6, 8}},
	} {
		var got []uint64
		for _, e := range all(t, s, tt.q) {
			got = append(got, e.Seq)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v: events %d, want %d", tt.q, got, tt.want)
		}
	}
}
