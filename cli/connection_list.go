package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"warren/api"
	"warren/event"
)

// connectionListCommand lists connections like ss, with their owners.
func connectionListCommand(g *globals) *command {
	var output, columns string
	var follow bool
	var about selection
	var when period
	return &command{
		name:    "connection list",
		args:    "[FILTER]",
		summary: "List TCP connections, listening sockets and UDP flows with their owners",
		about: "Those that are open, and those that were closed lately. LOCAL and REMOTE carry the name that this machine was answered by DNS for the address. " +
			"FILTER is a condition on the fields of the kind connection. With --follow, what happens to them is shown as it happens.\n\n" +
			"With --since, all that there were since then are shown, by the history: as they ended, or as they were when they were last heard of; in tables of 100,000, where there are more.",
		examples: []example{
			{"warren connection list", "Who talks to whom"},
			{"warren connection list 'conn.direction = listen'", "What can be connected to"},
			{"warren connection list 'conn.error exists or conn.retransmits > 0' -o wide", "What goes wrong"},
			{"warren connection list -f 'proc.name = curl'", "What curl does from now on"},
			{"warren connection list --since 1d 'fd.rport = 22'", "Who used SSH in the last day"},
		},
		cluster: []example{
			{"kubectl warren connection list -n shop", "Whom the pods of a namespace talk to"},
			{"kubectl warren connection list -A 'k8s.remote.svc.name = payment' -o wide", "Who talks to a service, by the client's side"},
		},
		flags: append([]*option{
			{long: "follow", short: "f", yes: &follow, doc: "then show changes as they happen"},
			outputFlag(&output, "", "table", "wide", "json"),
			{long: "columns", short: "c", meta: "FIELDS", text: &columns, doc: "show these fields instead, separated by commas; also of JSON"},
		}, append(when.flags(), podFlags(g, &about)...)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if follow && when.until != "" {
				return usagef("--until ends what -f goes on with: leave out one of them")
			}
			chosen, err := parseColumns(columns)
			if err != nil {
				return err
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			s := env.screen(output == "table")
			table := &connectionTable{screen: s, place: who.place(s, output == "wide"), wide: output == "wide", follow: follow, now: env.Now}
			var st streamTable = table
			if chosen != nil {
				st = newFieldTable(env, chosen, output == "table")
			}
			typed := filterOf(args)
			q, err := who.question(api.Question{Filter: typed, Fields: append(st.fields(), "conn.start")})
			if err == nil {
				err = when.ask(&q, env.Now())
			}
			if err != nil {
				return err
			}
			out := newStream(env, st, who)
			switch {
			case output == "json":
				q.Fields = namesOf(chosen)
			case follow:
				out.ask(&q)
			}
			ctx, cancel := g.finite(ctx, follow)
			defer cancel()
			who.remembered(ctx, &q, follow)
			lines := who.Connections(ctx, q)
			if follow {
				lines = who.FollowConnections(ctx, q)
			}
			switch {
			case output == "json":
				err = writeJSON(env, who.lines(lines, tellRoll, typed))
			case follow:
				err = out.write(who.lines(lines, keepRoll, typed))
			default:
				err = writeConnections(env, who.lines(lines, dropRoll, typed), listedAtOnce, table, st)
			}
			switch {
			case err == nil && follow:
				return who.left()
			case when.given() && !follow:
				return who.wholePast(ctx, err)
			}
			return who.whole(err)
		},
	}
}

// writeConnections writes a list in tables of n connections, each in the order in
// which they began.
func writeConnections(env *Env, lines api.Lines, n int, ct *connectionTable, st streamTable) error {
	out := &lazyWriter{out: env.Stdout}
	for conns, err := range recordsBy(n, lines) {
		if err != nil {
			return errors.Join(out.Flush(), err)
		}
		conns = slices.DeleteFunc(conns, func(r *record) bool {
			text := st.aside(r)
			if text != "" {
				fmt.Fprintln(env.Stderr, env.program()+": "+text)
			}
			return text != ""
		})
		ct.place = ct.place.withPods(conns)
		slices.SortStableFunc(conns, func(a, b *record) int { return a.time("conn.start").Compare(b.time("conn.start")) })
		if err := writeRows(st.open(out), conns, st.row); err != nil {
			return err
		}
	}
	return out.Flush()
}

// A connectionTable has the columns of connections.
type connectionTable struct {
	screen screen
	place  place
	wide   bool
	follow bool
	now    func() time.Time
}

// connectionContainer is where the column of the container stands, in a list
// that is not followed.
const connectionContainer = 5

func (ct *connectionTable) open(out io.Writer) *table {
	cols := []column{
		{head: "PROTO", spare: 4}, {head: "STATE", min: 6}, {head: "DIR", min: 6, spare: 5}, {head: "PID", right: true, min: 6}, {head: "PROCESS", min: 8, max: 15},
		{head: "LOCAL", min: 16, max: 40}, {head: "REMOTE", min: 16, max: 48}, {head: "SENT", right: true, min: 8}, {head: "RECV", right: true, min: 8},
		{head: "RTT", right: true, min: 6, spare: 2}, {head: "RETRANS", right: true, spare: 1}, {head: "AGE", right: true, min: 6, spare: 3},
	}
	if ct.follow {
		cols = append([]column{{head: "TIME", min: 12}, {head: "TYPE", min: 8}}, cols...)
	}
	cols = ct.place.columns(cols, column{head: "CONTAINER", max: 24}, ct.containerAt(), ct.follow)
	if ct.wide {
		cols = append(cols, column{head: "USER", max: 16}, column{head: "EXEPATH", min: 16, max: 40}, column{head: "IMAGE", min: 5, max: 40}, column{head: "NETNS"}, column{head: "ANCESTRY", min: 16, max: 48})
	}
	return newTable(out, ct.screen, append(cols, column{head: "ERROR"}))
}

func (ct *connectionTable) fields() []string {
	names := []string{
		"evt.time", "evt.type", "fd.l4proto", "conn.state", "conn.direction", "proc.pid", "proc.name",
		"conn.bytes_sent", "conn.bytes_received", "conn.rtt", "conn.retransmits", "conn.duration",
	}
	names = slices.Concat(names, placeFields, endFields, errorFields)
	if ct.wide {
		names = slices.Concat(names, userFields, executableFields, []string{"container.image", "fd.netns", "proc.aname"})
	}
	return names
}

func (ct *connectionTable) containerAt() int {
	if ct.follow {
		return connectionContainer + 2
	}
	return connectionContainer
}

// aside tells losses, which are no connections.
func (ct *connectionTable) aside(r *record) string {
	if r.kind() != event.KindLost {
		return ""
	}
	return ct.screen.lostDetail(r)
}

func (ct *connectionTable) row(r *record) []cell {
	s := ct.screen
	rtt, retrans := "", ""
	if d := r.duration("conn.rtt"); d > 0 {
		rtt = span(d)
	}
	if n := r.num("conn.retransmits"); n > 0 {
		retrans = s.safe(r.str("conn.retransmits"))
	}
	age := "" // unknown of a connection that is older than the agent
	if r.has("conn.duration") {
		age = span(r.duration("conn.duration"))
	}
	row := []cell{
		{text: s.safe(r.str("fd.l4proto"))},
		{text: s.safe(r.str("conn.state")), color: stateColor(r.str("conn.state"))},
		{text: s.safe(r.str("conn.direction"))},
		{text: s.safe(r.str("proc.pid"))},
		{text: s.safe(r.str("proc.name"))},
		{text: s.shortEnd(r, "l")},
		{text: s.shortEnd(r, "r")},
		{text: byteCount(uint64(r.num("conn.bytes_sent")))},
		{text: byteCount(uint64(r.num("conn.bytes_received")))},
		{text: rtt},
		{text: retrans, color: yellow},
		{text: age},
	}
	if !r.has("fd.rip") {
		row[6], row[7], row[8] = cell{}, cell{}, cell{}
	}
	if ct.follow {
		row = append([]cell{{text: r.time("evt.time").In(ct.now().Location()).Format("15:04:05.000"), color: dim}, {text: s.safe(r.str("evt.type"))}}, row...)
	}
	row = ct.place.cells(row, r, ct.containerAt(), ct.follow)
	if ct.wide {
		row = append(row, cell{text: s.user(r)}, cell{text: s.executable(r)}, cell{text: s.safe(r.str("container.image"))}, cell{text: s.safe(r.str("fd.netns"))}, cell{text: s.ancestry(r, 0)})
	}
	return append(row, cell{text: s.connectionError(r), color: red})
}

// shortEnd writes one end of a socket; where lines are cut, the name stands
// instead of the address, not before it.
func (s screen) shortEnd(r *record, side string) string {
	name := r.str("fd." + side + "ip.name")
	if name == "" && side == "r" {
		name = peerName(r)
	}
	if name != "" && s.cut {
		return s.safe(name) + ":" + s.safe(r.str("fd."+side+"port"))
	}
	return s.end(r, side)
}

func stateColor(state string) string {
	switch state {
	case "ESTAB":
		return green
	case "LISTEN":
		return blue
	case "CLOSED":
		return dim
	}
	return plain
}
