package api

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/event"
	"warren/filter"
)

// Bounds of what one answer can have.
const (
	mostWho       = 4096    // rows
	mostWhoEnds   = 8       // of a row
	mostWhoAddrs  = 1024    // addresses that a name had
	mostWhoGoing  = 1 << 16 // connections whose end is looked for
	mostWhoCounts = 4096    // processes of a row that are told apart
	// longAncestry is how many ancestors a row has at most.
	longAncestry = 16
)

// whoStep is for how many events it is told once how far the answer is.
const whoStep = 256

// dnsMemory is how long a program can be thought to use an answer of DNS, where
// the answer itself does not allow for longer.
const dnsMemory = time.Hour

// A whoKey is what the processes of a row have in common.
type whoKey struct {
	exe, name, container, pod, direction, ancestry string
	uid                                            uint32
}

// A whoCollector makes rows of connections. One goroutine uses it.
type whoCollector struct {
	to           Target
	since, until time.Time
	given        map[netip.Addr][]whoGiven // addresses of the name
	named        map[whoNamed]int          // places in out.Addresses
	rows         map[whoKey]*whoSum
	// going are connections whose end was not seen yet, by their last event.
	going map[connectionKey]*whoGoing
	// parents are those of processes that were told with theirs: an agent that
	// starts later does not know of ancestors that have ended since.
	parents map[whoProcess]*event.Process
	found   uint64            // events of connections
	tell    func(WhoProgress) // how far it is; may be nil
	out     Who
}

// A whoProcess tells processes of all boots apart.
type whoProcess struct {
	boot string
	key  event.Key
}

// mostWhoParents bounds the parents that are remembered.
const mostWhoParents = 1 << 16

// A whoNamed is an address with a name that it had.
type whoNamed struct {
	addr netip.Addr
	name string
}

// whoGiven is a time in which an address had the name.
type whoGiven struct {
	name        string
	first, last time.Time // of the answer; of when it can be used
}

type whoGoing struct {
	row            *whoSum
	sent, received uint64
}

type whoSum struct {
	WhoRow
	execs map[whoProcess]bool
	ends  map[whoEnd]bool
}

// A whoEnd is what was reached; without a port where that was of the other end's choice.
type whoEnd struct {
	l4   event.Proto
	addr netip.AddrPort
	name string
}

// String returns the end as rows tell it.
func (e whoEnd) String() string {
	text := e.l4.String() + " "
	if e.addr.Port() != 0 {
		text += e.addr.String()
	} else {
		text += e.addr.Addr().String()
	}
	if e.name != "" {
		text += " " + e.name
	}
	return text
}

// answerWho asks what is on disk and what goes on at present.
func (s *Server) answerWho(ctx context.Context, q WhoQuestion) (Who, error) {
	if err := s.isHere(q.Nodes); err != nil {
		return Who{}, err
	}
	if err := s.ready(ctx); err != nil {
		return Who{}, err
	}
	to, err := ParseTarget(q.To)
	if err != nil {
		return Who{}, BadRequest("%v", err)
	}
	now := time.Now()
	c := &whoCollector{
		to: to, since: q.Since, until: q.Until, given: map[netip.Addr][]whoGiven{}, named: map[whoNamed]int{},
		rows: map[whoKey]*whoSum{}, going: map[connectionKey]*whoGoing{}, parents: map[whoProcess]*event.Process{}, tell: q.Progress,
		out: Who{To: to.String(), Until: q.Until, Addresses: []WhoAddress{}, Rows: []WhoRow{}},
	}
	if c.out.Until.IsZero() {
		c.out.Until = now
	}
	further, err := filter.Compile(q.Filter)
	if err != nil {
		return Who{}, BadRequest("%v", err)
	}
	if err := s.whoWas(ctx, c, q.Filter); err != nil {
		return Who{}, err
	}
	if q.Until.IsZero() {
		s.tables.Connections(func(e *event.Event) bool {
			if further.Match(e) {
				c.current(e)
			}
			return true
		})
	}
	out := c.answer()
	out.sort()
	out.Gaps, out.MoreGaps = lastGaps(out.Gaps, out.MoreGaps)
	return out.Last(q.Limit), nil
}

// whoWas takes in what is on disk.
func (s *Server) whoWas(ctx context.Context, c *whoCollector, further string) error {
	h := s.cfg.History
	if h == nil {
		s.whoNow(c, "this agent keeps no history")
		return nil
	}
	if _, err := h.Sync(ctx); err != nil {
		s.whoNow(c, err.Error())
		return ctx.Err()
	}
	st := h.Status()
	c.out.Failing = st.Error
	if c.since.Before(st.Oldest) {
		c.since = st.Oldest
	}
	c.out.Since = c.since
	q := PastQuestion{Since: c.since, Until: c.until}
	ask := func(expr string, kinds event.KindSet, do func(*event.Event) error) error {
		var err error
		if q.Filter, err = filter.Compile(expr); err != nil {
			return err
		}
		q.Kinds = kinds
		err = each(h.Events(ctx, q), do)
		if err != nil && ctx.Err() == nil {
			return Unavailable("the history cannot be read: %v", err)
		}
		return err
	}
	if c.to.Name != "" {
		// An answer can be used for a while after it was given.
		q.Since = q.Since.Add(-dnsMemory)
		if err := ask(c.to.answers(), event.Kinds(event.KindDNS), c.answered); err != nil {
			return err
		}
		q.Since = c.since
	}
	cond := c.condition()
	if strings.TrimSpace(further) != "" {
		cond = "(" + cond + ") and (" + further + ")"
	}
	if err := ask(cond, event.Kinds(event.KindConnection), c.connection); err != nil {
		return err
	}
	err := ask("evt.kind = lost", event.Kinds(event.KindLost), func(e *event.Event) error {
		if l, ok := e.Data.(*event.Lost); ok {
			c.out.Lost += l.Count
		}
		if g, ok := gapOf(e); ok {
			c.out.Gaps, c.out.MoreGaps = appendGap(c.out.Gaps, c.out.MoreGaps, g)
		}
		return nil
	})
	c.out.Broken = h.Status().Broken // now that all was read
	return err
}

// whoNow prepares for there being nothing but what the table has, and says why.
func (s *Server) whoNow(c *whoCollector, why string) {
	c.out.NoHistory, c.since, c.out.Since = why, time.Time{}, time.Now()
	s.tables.Connections(func(e *event.Event) bool {
		if at := start(e); !at.IsZero() && at.Before(c.out.Since) {
			c.out.Since = at
		}
		return true
	})
}

// answers is a condition that holds for all answers of DNS that give the name an
// address.
func (t *Target) answers() string {
	name := strconv.Quote(t.Name) // of characters that need no quoting: see isName
	if t.Below {
		return "evt.kind = dns and dns.response = true and (dns.name endswith " + strconv.Quote("."+t.Name) + " or dns.answers contains " + strconv.Quote("."+t.Name+" ") + ")"
	}
	return "evt.kind = dns and dns.response = true and (dns.name = " + name + " or dns.answers contains " + name + ")"
}

// answered takes in an answer of DNS.
func (c *whoCollector) answered(e *event.Event) error {
	d, ok := e.Data.(*event.DNS)
	if !ok || !d.Response {
		return nil
	}
	name := ""
	if c.to.names(d.Name) {
		name = d.Name
	}
	type given struct {
		addr netip.Addr
		ttl  time.Duration
	}
	var addrs []given
	for _, record := range d.Answers { // name TTL type value
		f := strings.Fields(record)
		if len(f) < 4 {
			continue
		}
		if name == "" && (c.to.names(f[0]) || f[2] == "CNAME" && c.to.names(f[3])) {
			name = strings.TrimSuffix(f[0], ".") // one of its other names
		}
		if a, err := netip.ParseAddr(f[3]); err == nil && (f[2] == "A" || f[2] == "AAAA") {
			ttl, _ := strconv.ParseUint(f[1], 10, 32) // 0 where it is no number
			addrs = append(addrs, given{a.Unmap(), time.Duration(ttl) * time.Second})
		}
	}
	if name == "" {
		return nil
	}
	for _, g := range addrs {
		if len(c.given) >= mostWhoAddrs && c.given[g.addr] == nil {
			continue
		}
		list := c.given[g.addr]
		until := e.Time.Add(max(g.ttl, dnsMemory))
		if at := slices.IndexFunc(list, func(l whoGiven) bool { return l.name == name && !e.Time.After(l.last) }); at >= 0 {
			list[at].last = until
		} else {
			list = append(list, whoGiven{name, e.Time, until})
		}
		c.given[g.addr] = list
		c.address(g.addr, name, e.Time)
	}
	return nil
}

// address remembers that an address had a name at a time.
func (c *whoCollector) address(a netip.Addr, name string, at time.Time) {
	id := whoNamed{a, name}
	i, ok := c.named[id]
	if !ok {
		if len(c.out.Addresses) < mostWhoAddrs {
			c.named[id] = len(c.out.Addresses)
			c.out.Addresses = append(c.out.Addresses, WhoAddress{a.String(), name, at, at})
		}
		return
	}
	k := &c.out.Addresses[i]
	if at.After(k.Last) {
		k.Last = at
	}
	if at.Before(k.First) {
		k.First = at
	}
}

// condition holds for all events of connections with the target, and perhaps
// for others.
func (c *whoCollector) condition() string {
	var b strings.Builder
	b.WriteString("evt.kind = connection and (")
	switch {
	case c.to.Net.IsValid() && c.to.Net.IsSingleIP():
		b.WriteString("fd.rip = " + c.to.Net.Addr().String())
	case c.to.Net.IsValid():
		b.WriteString("fd.rnet = " + c.to.Net.String())
	case c.to.Below:
		b.WriteString("fd.rip.name endswith " + strconv.Quote("."+c.to.Name))
	default:
		b.WriteString("fd.rip.name = " + strconv.Quote(c.to.Name))
	}
	if len(c.given) > 0 {
		var list []string
		for a := range c.given {
			list = append(list, a.String())
		}
		slices.Sort(list)
		b.WriteString(" or fd.rip in (" + strings.Join(list, ", ") + ")")
	}
	b.WriteByte(')')
	if c.to.Port != 0 {
		fmt.Fprintf(&b, " and fd.rport = %d", c.to.Port)
	}
	return b.String()
}

// meets reports whether a connection is one with the target, and by which name.
func (c *whoCollector) meets(e *event.Event, d *event.Connection) (name string, ok bool) {
	if !d.Remote.IsValid() || c.to.Port != 0 && d.RemotePort != c.to.Port {
		return "", false
	}
	if c.to.Net.IsValid() {
		return d.RemoteName, c.to.Net.Contains(d.Remote.Unmap())
	}
	if c.to.names(d.RemoteName) {
		return d.RemoteName, true
	}
	// The address may have had several names: the last answer counts there.
	began := e.Time
	if !d.Start.IsZero() {
		began = d.Start
	}
	for _, g := range c.given[d.Remote.Unmap()] {
		if !began.Before(g.first) && !began.After(g.last) {
			return g.name, true
		}
	}
	return "", false
}

// connection takes in an event of a connection from the disk.
func (c *whoCollector) connection(e *event.Event) error {
	d, ok := e.Data.(*event.Connection)
	if !ok {
		return nil
	}
	name, ok := c.meets(e, d)
	if !ok {
		return nil
	}
	if c.found++; c.tell != nil && c.found%whoStep == 0 {
		c.tell(WhoProgress{Since: c.since, Until: c.out.Until, At: e.Time, Events: c.found})
	}
	k := keyOf(d)
	r := c.row(e, d, k)
	if r == nil {
		c.out.More += e.Times()
		return nil
	}
	r.saw(e, d, name)
	if d.Remote.IsValid() && d.RemoteName != "" && c.to.Net.IsValid() {
		c.address(d.Remote.Unmap(), d.RemoteName, e.Time)
	}
	switch {
	case d.Type != "update" && d.Type != "close":
		if d.Res != 0 || d.Error != 0 {
			r.Failed += e.Times()
			return nil
		}
		r.Connections += e.Times()
		c.goesOn(k, r, 0, 0)
	case d.Type == "update":
		if c.going[k] == nil && c.older(d) {
			r.Connections += e.Times()
		}
		c.goesOn(k, r, d.BytesSent, d.BytesReceived)
	default:
		if c.going[k] == nil && c.older(d) {
			r.Connections += e.Times()
		}
		delete(c.going, k)
		r.Sent += d.BytesSent
		r.Received += d.BytesReceived
	}
	return nil
}

// older reports whether a connection began before the time that is looked at.
func (c *whoCollector) older(d *event.Connection) bool {
	return d.Start.IsZero() || d.Start.Before(c.since)
}

// goesOn remembers what a connection has carried so far.
func (c *whoCollector) goesOn(k connectionKey, r *whoSum, sent, received uint64) {
	g := c.going[k]
	if g == nil {
		if len(c.going) >= mostWhoGoing {
			r.Sent += sent
			r.Received += received
			return
		}
		g = &whoGoing{row: r}
		c.going[k] = g
	}
	g.sent, g.received = max(g.sent, sent), max(g.received, received)
}

// current takes in a connection that the table has: what goes on, and of what has
// ended only what is not on disk at all.
func (c *whoCollector) current(e *event.Event) {
	d, ok := e.Data.(*event.Connection)
	if !ok || c.out.NoHistory == "" && d.State == event.Close {
		return
	}
	name, ok := c.meets(e, d)
	if !ok {
		return
	}
	k := keyOf(d)
	r := c.row(e, d, k)
	if r == nil {
		c.out.More++
		return
	}
	r.saw(e, d, name)
	if at := start(e); !at.IsZero() && at.Before(r.First) && !at.Before(c.since) {
		r.First = at
	}
	known := c.going[k]
	delete(c.going, k)
	if d.State == event.Close && d.Res != 0 {
		r.Failed++
		return
	}
	if known == nil && (c.older(d) || c.out.NoHistory != "") {
		r.Connections++
	}
	if d.State != event.Close {
		r.Open++
		r.Last = c.out.Until
	}
	r.Sent += d.BytesSent
	r.Received += d.BytesReceived
}

// row returns the row of an event, nil where there is no room. A connection stays
// in the row that it began in, also where less is known of its process later.
func (c *whoCollector) row(e *event.Event, d *event.Connection, conn connectionKey) *whoSum {
	if g := c.going[conn]; g != nil {
		return g.row
	}
	p := e.Process
	k := whoKey{direction: d.Direction()}
	var line []WhoAncestor
	if p != nil {
		k.exe, k.name, k.uid = p.ExePath, p.Name, p.UID
		if p.ExePath != "" {
			k.name = "" // threads name themselves
		}
		if p.Container != nil {
			k.container = p.Container.FullID
			if p.Container.Pod != nil {
				k.pod = p.Container.Pod.UID
			}
		}
		line = c.ancestry(e)
		var b strings.Builder
		for _, a := range line {
			b.WriteString(cmp.Or(a.ExePath, a.Name))
			b.WriteByte(0)
		}
		k.ancestry = b.String()
	}
	if r := c.rows[k]; r != nil {
		return r
	}
	if len(c.rows) >= mostWho {
		return nil
	}
	r := &whoSum{WhoRow: WhoRow{Direction: k.direction, First: e.Time, Last: e.Time, Ancestry: line, Node: text(e, "k8s.node.name"), key: k}, execs: map[whoProcess]bool{}, ends: map[whoEnd]bool{}}
	if p != nil {
		r.Name, r.ExePath, r.User, r.UID, r.LoginName, r.Unit = p.Name, p.ExePath, p.UserName, p.UID, p.LoginName, p.Cgroup.Unit
		r.Container, r.ContainerID, r.Image = text(e, "container.name"), text(e, "container.id"), text(e, "container.image")
		r.Namespace, r.Pod = text(e, "k8s.ns.name"), text(e, "k8s.pod.name")
	}
	c.rows[k] = r
	return r
}

// text returns the value of a field that is a text.
func text(e *event.Event, name string) string {
	f, ok := event.Lookup(name)
	if !ok {
		return ""
	}
	v, _ := f.Str(e, 0)
	return v
}

// saw takes in when it was, who, and with which end.
func (r *whoSum) saw(e *event.Event, d *event.Connection, name string) {
	first, last := e.Time, lastTime(e)
	if first.Before(r.First) {
		r.First = first
	}
	if last.After(r.Last) {
		r.Last = last
	}
	if p := e.Process; p != nil && p.ExePath == r.ExePath {
		if len(r.execs) < mostWhoCounts {
			r.execs[whoProcess{text(e, "evt.boot_id"), p.Key}] = true
		}
		r.PID, r.Cmdline, r.Name = p.PID, p.Cmdline, p.Name
		r.ExecID = text(e, "proc.exec_id")
	}
	end := whoEnd{d.L4, netip.AddrPortFrom(d.Remote, d.RemotePort), name}
	if d.Server {
		end.addr = netip.AddrPortFrom(d.Remote, 0)
	}
	switch {
	case r.ends[end]:
	case len(r.Ends) < mostWhoEnds:
		r.ends[end] = true
		r.Ends = append(r.Ends, end.String())
	case len(r.ends) < mostWhoCounts:
		r.ends[end] = true
		r.MoreEnds++
	}
}

// lastTime is the time of the last event that a row is of.
func lastTime(e *event.Event) time.Time {
	if e.Past != nil && !e.Past.Last.IsZero() {
		return e.Past.Last
	}
	return e.Time
}

// answer returns the rows.
func (c *whoCollector) answer() Who {
	for _, g := range c.going { // whose end nobody saw
		g.row.Sent += g.sent
		g.row.Received += g.received
	}
	for _, r := range c.rows {
		r.Processes = len(r.execs)
		if r.Ancestry == nil {
			r.Ancestry = []WhoAncestor{}
		}
		c.out.Rows = append(c.out.Rows, r.WhoRow)
	}
	return c.out
}

// ancestry returns those who started a process, nearest first: in a container up
// to its first process, elsewhere up to the leader of the session and who began
// it.
func (c *whoCollector) ancestry(e *event.Event) []WhoAncestor {
	p, boot := e.Process, text(e, "evt.boot_id")
	execID := event.Key.ExecID
	if e.Past != nil && e.Past.Host != nil {
		execID = e.Past.Host.ExecID
	}
	var line []WhoAncestor
	for a, child := c.parent(boot, p), p; a != nil && len(line) < longAncestry; a, child = c.parent(boot, a), a {
		if p.Container != nil && (a.Container == nil || a.Container.FullID != p.Container.FullID) {
			break
		}
		line = append(line, WhoAncestor{PID: a.PID, Name: a.Name, ExePath: a.ExePath, ExecID: execID(a.Key), Cmdline: a.Cmdline})
		if p.Container == nil && p.SID != 0 && child.PID == p.SID {
			break // a began the session
		}
	}
	return line
}

// parent returns who started a process, as an earlier event told where this one
// does not.
func (c *whoCollector) parent(boot string, p *event.Process) *event.Process {
	id := whoProcess{boot, p.Key}
	known := c.parents[id]
	if p.Parent == nil {
		return known
	}
	if known == nil && len(c.parents) < mostWhoParents {
		c.parents[id] = p.Parent
	}
	return p.Parent
}
