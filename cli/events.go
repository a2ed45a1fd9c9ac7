package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"warren/api"
	"warren/event"
	"warren/filter"
)

// eventsCommand shows the stream of events.
func eventsCommand(g *globals) *command {
	var output, columns, countBy string
	var limit int
	var recent, follow bool
	var about selection
	var when period
	counting := " With --count-by there is one row for each combination of values. Opens and system calls are counted in the kernel where the process, what it executes, the type, the result and the directory tell apart all that is asked for, in FIELDS and in FILTER; the numbers are as exact, and up to two seconds late. warren filter explain --count-by says whether they are. Other events are counted in the agent. What finds no room among 4096 rows, or in 2 MiB of values, is counted as others."
	return &command{
		name:    "events",
		args:    "[FILTER]",
		summary: "Show events as they happen",
		about: "Every process that starts, ends or changes its rights, every connection and every DNS answer, " +
			"as the kernel reports it. FILTER is a condition in Falco's language. Of files and system calls, which programs do all the time, " +
			"those are shown that FILTER asks for: by evt.kind, evt.type or a field of theirs. What costs much is said first; " +
			"warren filter explain says why.\n\n" +
			"DETAIL tells what matters for the kind of event: the command and who started it, the exit code and the time it took, " +
			"both ends of a connection by name. Events that were lost on the way are reported where they are missing.\n\n" +
			"The stream ends after --limit events, or when it is interrupted. With --recent it does not wait: it shows the last events that the agent still remembers, and before them, where --limit asks for more, those of the history.\n\n" +
			"With --since and --until the answer comes from the history, which is on the node's disk and keeps what its configuration says: processes, connections, names, changes of rights, losses. " +
			"With -f it then goes on with what happens, without a gap or a repetition. Repeats of a connection within a second are one event there, with their number." + counting,
		examples: []example{
			{"warren events", "Processes, connections and names, live"},
			{"warren events 'evt.type in (open, openat, creat) and fd.name startswith /etc and evt.is_open_write = true'", "Who opens files below /etc to write"},
			{"warren events 'evt.type = ptrace or evt.type = setns or evt.type = bpf'", "Calls that few programs make"},
			{"warren events 'evt.kind exists and proc.name = nginx'", "All that a program does"},
			{"warren events 'evt.type = execve and proc.aname = sshd'", "What people who logged in by SSH run"},
			{"warren events 'evt.type = connect and not fd.rip in (127.0.0.0/8)' -o wide", "Who connects to other machines, with user and executable"},
			{"warren events 'evt.kind = dns and dns.rcode = NXDOMAIN' --columns evt.time,proc.name,dns.name", "Names that do not exist, and who asked"},
			{"warren events --recent --limit 20 'evt.kind = credentials'", "Who changed their rights, looking back"},
			{"warren events --since 2h --until 1h30m 'evt.type = execve'", "What was started in that half hour"},
			{"warren events --since 14:32 -f 'proc.name = nginx and evt.kind exists'", "What a program has done since, and does"},
			{"warren events 'evt.kind = exit and exit.code != 0' -o json --limit 10", "The next ten failures, for a script"},
			{"warren events --count-by proc.exepath,fd.directory 'evt.kind = open and fd.name startswith /usr/'", "Which programs open files, and where"},
			{"warren events -n shop -l app=cart", "On a node of a cluster: what some pods do"},
		},
		cluster: []example{
			{"kubectl warren events", "What pods of my namespace do, on all nodes"},
			{"kubectl warren events -n shop -l 'app in (cart, payment)' 'evt.type = connect'", "Whom two applications connect to"},
			{"kubectl warren events -A 'evt.type = execve and proc.name in (sh, bash)'", "Shells that are started anywhere"},
			{"kubectl warren events -n shop --count-by k8s.pod.name,proc.exepath 'evt.type = execve'", "How often pods run which programs, over all nodes"},
			{"kubectl warren events -A --node node-1,node-2 --recent 'evt.kind = credentials' -o wide", "Who changed their rights on two nodes, looking back"},
		},
		flags: append([]*option{
			outputFlag(&output, "", "table", "wide", "json"),
			{long: "limit", meta: "N", number: &limit, doc: "end after N events; with --recent, or --since without -f, the last N"},
			{long: "follow", short: "f", yes: &follow, doc: "with --since: go on with what happens"},
			{long: "recent", yes: &recent, doc: "show what the agent remembers instead of what happens next"},
			{long: "columns", short: "c", meta: "FIELDS", text: &columns, doc: "show these fields instead, separated by commas; also of JSON; proc.aname[1] and the like give one of several values in tables"},
		}, append(append(when.flags(), &option{long: "count-by", meta: "FIELDS", text: &countBy, doc: "count events by the values of these fields instead of showing each"}), podFlags(g, &about)...)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			switch {
			case recent && (when.given() || follow):
				return usagef("--recent is about the last events: leave out --since, --until and -f")
			case when.until != "" && follow:
				return usagef("--until ends what -f goes on with: leave out one of them")
			case countBy != "" && when.given():
				return usagef("--count-by counts what happens: leave out --since and --until")
			}
			if countBy != "" && (recent || columns != "") {
				return usagef("--count-by shows counts: leave out --recent and --columns")
			}
			chosen, err := parseColumns(columns)
			if err != nil {
				return err
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			events := newEventTable(env, who, output == "wide")
			var st streamTable = events
			if chosen != nil {
				st = newFieldTable(env, chosen, output == "table")
			}
			q, err := who.question(api.Question{Filter: filterOf(args), Limit: limit, Fields: st.fields()})
			if err == nil {
				err = when.ask(&q, env.Now())
			}
			if err != nil {
				return err
			}
			past := when.given() && !follow
			events.dated = when.given() && dated(q.Since, q.Until, env.Now())
			if countBy != "" {
				by, err := fieldsToCountBy(countBy)
				if err != nil {
					return err
				}
				ctx, cancel := g.finite(ctx, true)
				defer cancel()
				ends := limit
				if who.cluster { // the hub ends it, and agents count as if there were none
					ends = 0
				}
				warnOfCounting(env, q.Filter, by, ends)
				err = countEvents(ctx, env, who, api.CountQuestion{Filter: q.Filter, By: by, Limit: limit, Nodes: q.Nodes}, output)
				return who.typed(err, filterOf(args))
			}
			out := newStream(env, st, who)
			if output == "json" {
				q.Fields = namesOf(chosen) // all, where none are chosen
			} else {
				out.ask(&q)
			}
			ctx, cancel := g.finite(ctx, !recent && !past)
			defer cancel()
			who.remembered(ctx, &q, follow)
			lines := who.Events(ctx, q)
			if recent || past {
				lines = who.Recent(ctx, q)
			} else {
				warnOfCost(env, filterOf(args))
			}
			if output == "json" {
				err = writeJSON(env, who.lines(lines, tellRoll, filterOf(args)))
			} else {
				err = out.write(who.lines(lines, keepRoll, filterOf(args)))
			}
			switch {
			case recent || past:
				return who.wholePast(ctx, err)
			case err == nil && limit == 0:
				return who.left()
			}
			return err
		},
	}
}

// warnOfCost says what makes a filter dear: what of it the kernel cannot decide.
func warnOfCost(env *Env, expr string) {
	prog, err := filter.Compile(expr)
	if err != nil {
		return // the agent says so
	}
	for _, w := range prog.Explain().Warnings {
		fmt.Fprintln(env.Stderr, env.program()+": "+w)
	}
}

// warnOfCounting says what makes counting dear: what the kernel cannot count.
func warnOfCounting(env *Env, expr string, by []string, limit int) {
	prog, err := filter.Compile(expr)
	if err != nil {
		return // the agent says so
	}
	c := prog.Counting(by, prog.Asked())
	switch {
	case limit > 0 && c.Kinds != 0:
		fmt.Fprintln(env.Stderr, env.program()+": with --limit every event is recorded: without, events of kind "+c.Kinds.String()+" are counted in the kernel")
	case c.Told != 0:
		fmt.Fprintln(env.Stderr, env.program()+": "+c.String())
	}
	if c.Told != 0 || limit > 0 {
		warnOfCost(env, expr)
	}
}

// left is the end of a stream that has none.
func (a *answerer) left() error {
	if a.cluster {
		return errors.New("the hub ended the stream: it was stopped, or went away")
	}
	return errors.New("the agent ended the stream: it was stopped, or went away")
}

// writeJSON passes lines on as they are, but for what must not reach a terminal.
func writeJSON(env *Env, lines api.Lines) error {
	out := &lazyWriter{out: env.Stdout}
	for line, err := range lines {
		if err != nil {
			return errors.Join(out.Flush(), err)
		}
		if env.Terminal {
			line = safeJSON(line)
		}
		if _, err := out.Write(append(line[:len(line):len(line)], '\n')); err != nil {
			return err
		}
	}
	return out.Flush()
}

// writeObject passes one object on.
func writeObject(env *Env, object []byte) error {
	return writeJSON(env, func(yield func([]byte, error) bool) { yield(bytes.TrimSpace(object), nil) })
}

// A streamTable makes rows of records.
type streamTable interface {
	// fields are the names of all that rows are made of: nothing else is asked for.
	fields() []string
	open(out io.Writer) *table
	row(r *record) []cell
	// aside returns what there is to say of a record that has no row, "" if it
	// has one.
	aside(r *record) string
}

// A stream is a table that is written row by row. Its head comes when the answer
// begins: what is refused has none.
type stream struct {
	env    *Env
	who    *answerer
	out    *lazyWriter
	rows   streamTable
	table  *table
	headed error
	begin  sync.Once
}

func newStream(env *Env, rows streamTable, who *answerer) *stream {
	s := &stream{env: env, who: who, out: &lazyWriter{out: env.Stdout}, rows: rows}
	s.table = rows.open(s.out)
	return s
}

// head writes the head, once.
func (s *stream) head() error {
	s.begin.Do(func() { s.headed = s.table.head() })
	return s.headed
}

// ask lets the answer to a question begin with the head.
func (s *stream) ask(q *api.Question) {
	q.Begun = func() { _ = s.head() } // write returns the error
}

func (s *stream) write(lines api.Lines) error {
	var r record
	for line, err := range lines {
		if err == nil {
			err = s.head()
		}
		if err == nil {
			err = r.parse(line)
		}
		if err == nil {
			text := s.rows.aside(&r)
			nodes := r.kind() == event.KindNodes
			if nodes {
				text = s.who.news
			}
			if text != "" {
				// What was before it is to be seen before it.
				if err := s.out.Flush(); err != nil {
					return err
				}
				fmt.Fprintln(s.env.Stderr, s.env.program()+": "+text)
			}
			if nodes || text != "" {
				continue
			}
			err = s.table.row(s.rows.row(&r))
		}
		if err != nil {
			return errors.Join(s.out.Flush(), err)
		}
	}
	if err := s.head(); err != nil {
		return err
	}
	return s.out.Flush()
}

// An eventTable has the columns that suit events of all kinds.
type eventTable struct {
	screen screen
	place  place
	wide   bool
	dated  bool // times with their day
	now    func() time.Time
}

func newEventTable(env *Env, who *answerer, wide bool) *eventTable {
	s := env.screen(!wide)
	return &eventTable{screen: s, place: who.place(s, wide), wide: wide, now: env.Now}
}

// eventContainer is where the column of the container stands.
const eventContainer = 4

func (et *eventTable) open(out io.Writer) *table {
	cols := []column{{head: "TIME", min: 12}, {head: "TYPE", min: 8, max: 13}, {head: "PID", min: 7, right: true}, {head: "PROCESS", min: 12, max: 15}}
	cols = et.place.columns(cols, column{head: "CONTAINER", min: 16, max: 24}, eventContainer, true)
	if et.dated {
		cols[0].min = 19
	}
	if et.wide {
		cols[0].min = 27
		cols = append(cols, column{head: "USER", min: 8, max: 16}, column{head: "PPID", min: 7, right: true}, column{head: "EXEPATH", min: 16, max: 40},
			column{head: "CWD", min: 8, max: 32}, column{head: "IMAGE", min: 5, max: 40}, column{head: "ANCESTRY", min: 16, max: 48})
	}
	return newTable(out, et.screen, append(cols, column{head: "DETAIL"}))
}

func (et *eventTable) fields() []string {
	names := []string{"evt.time", "evt.type", "evt.kind", "evt.res", "evt.count", "proc.pid", "proc.name"}
	names = slices.Concat(names, placeFields, commandFields, errorFields, flowFields, fileFields, callFields(), []string{
		"proc.aname", "proc.pname", "proc.ppid", "ns.changed",
		"exit.code", "exit.signal", "exit.core_dumped", "exit.duration", "exit.utime", "exit.stime", "exit.maxrss",
		"cred.old_uid", "evt.arg.uid", "cred.old_gid", "evt.arg.gid", "cred.cap_gained", "cred.cap_dropped",
		"evt.arg.ruid", "evt.arg.euid", "evt.arg.suid", "evt.arg.rgid", "evt.arg.egid", "evt.arg.sgid", "evt.arg.fd", "evt.arg.nstype",
		"conn.bytes_sent", "conn.bytes_received", "conn.duration", "conn.rtt", "conn.retransmits", "conn.latency",
		"dns.type", "dns.name", "dns.response", "dns.rcode", "dns.answers", "dns.latency",
		"alert.rule", "alert.priority", "alert.output", "alert.count",
		"reaction.action", "reaction.target", "reaction.outcome", "reaction.count", "reaction.dry_run", "reaction.reason", "reaction.output",
		"ka.user.name", "ka.impuser.name", "ka.verb", "ka.uri", "ka.stage", "ka.target.resource", "ka.target.subresource", "ka.target.namespace", "ka.target.name",
		"ka.response.code", "ka.response.reason",
	})
	if et.wide {
		names = slices.Concat(names, userFields, executableFields, []string{"proc.cwd", "container.image"})
	}
	return names
}

// What the cells that several tables have are made of.
var (
	containerFields  = []string{"container.id", "container.name", "proc.unit"}
	userFields       = []string{"user.name", "user.uid"}
	executableFields = []string{"proc.exepath", "proc.exepath_unresolved"}
	commandFields    = []string{
		"proc.argv", "proc.args_truncated", "proc.is_kthread", "proc.name", "proc.cmdline", "proc.exepath",
		"proc.is_exe_from_memfd", "proc.is_exe_deleted", "proc.is_exe_upper_layer",
	}
	endFields = []string{
		"fd.lip", "fd.lport", "fd.lip.name", "fd.rip", "fd.rport", "fd.rip.name",
		"k8s.remote.kind", "k8s.remote.ns.name", "k8s.remote.pod.name", "k8s.remote.svc.name", "k8s.remote.node.name",
	}
	errorFields = []string{"conn.error", "evt.res", "conn.reset"}
)

// aside tells of times in which nothing was seen, which are no events.
func (et *eventTable) aside(r *record) string {
	if r.kind() != event.KindLost || !r.has("lost.until") {
		return ""
	}
	return et.screen.lostDetail(r)
}

func (et *eventTable) row(r *record) []cell {
	s := et.screen
	at := r.time("evt.time").In(et.now().Location())
	text, color := s.safe(r.str("evt.type")), kindColor(r)
	row := []cell{
		{text: at.Format("15:04:05.000"), color: dim},
		{text: text, color: color},
		{text: s.safe(r.str("proc.pid"))},
		{text: s.safe(r.str("proc.name"))},
	}
	row = et.place.cells(row, r, eventContainer, true)
	if et.dated {
		row[0].text = at.Format("Jan _2 15:04:05.000")
	}
	if et.wide {
		row[0].text = at.Format("2006-01-02T15:04:05.000000Z07:00")
		row = append(row, cell{text: s.user(r)}, cell{text: s.safe(r.str("proc.ppid"))}, cell{text: s.executable(r)},
			cell{text: s.safe(r.str("proc.cwd"))}, cell{text: s.safe(r.str("container.image"))}, cell{text: s.ancestry(r, 0)})
	}
	d := s.detail(r)
	if et.wide && r.kind() == event.KindExec {
		d.tail = "" // it has a column of its own
	}
	if n := r.num("evt.count"); n > 1 {
		d.text = strings.TrimSpace(d.text + fmt.Sprintf(" (%d times)", n))
	}
	return append(row, d)
}

func kindColor(r *record) string {
	switch r.kind() {
	case event.KindExec, event.KindFork:
		return green
	case event.KindExit:
		return blue
	case event.KindCredentials, event.KindNamespace, event.KindFile, event.KindMount:
		return yellow
	case event.KindConnection, event.KindDNS, event.KindFlow:
		return cyan
	case event.KindLost:
		return red
	}
	return plain
}

// containerCell returns where the process runs: the container, or on the host the
// systemd unit.
func (s screen) containerCell(r *record) cell {
	id := r.str("container.id")
	if id == "" || id == "host" {
		return cell{text: s.safe(r.str("proc.unit")), color: dim}
	}
	name := r.str("container.name")
	if name == "" {
		name = id
	}
	return cell{text: s.safe(name)}
}

// user returns the name of the process's user, else the number.
func (s screen) user(r *record) string {
	if name := r.str("user.name"); name != "" {
		return s.safe(name)
	}
	return s.safe(r.str("user.uid"))
}

// executable returns the path of the executable, or why it has none.
func (s screen) executable(r *record) string {
	path := s.safe(r.str("proc.exepath"))
	if path == "" && r.yes("proc.exepath_unresolved") {
		return "(unresolved)"
	}
	return path
}

// ancestry returns the names of the ancestors, nearest first. If n is above 0,
// it is n of them, and those of one name in a row count as one.
func (s screen) ancestry(r *record, n int) string {
	names := r.list("proc.aname")
	var b strings.Builder
	for shown := 0; len(names) > 0; shown++ {
		if n > 0 && shown == n {
			b.WriteString(" <- " + s.ellipsis())
			break
		}
		if shown > 0 {
			b.WriteByte(' ')
		}
		run := 1
		for n > 0 && run < len(names) && names[run] == names[0] {
			run++
		}
		b.WriteString("<- " + s.orUnknown(names[0]))
		if run > 1 {
			fmt.Fprintf(&b, " (%d)", run)
		}
		names = names[run:]
	}
	return b.String()
}

func (s screen) ellipsis() string {
	if s.utf8 {
		return "…"
	}
	return "..."
}

// A fieldTable has a column for each of some fields.
type fieldTable struct {
	screen screen
	chosen []fieldColumn
	now    func() time.Time
}

type fieldColumn struct {
	name  string
	field *event.Field
	index int // of one value of several; -1: all
}

// parseColumns understands the value of --columns; nil where it was not given.
func parseColumns(list string) ([]fieldColumn, error) {
	if list == "" {
		return nil, nil
	}
	var cols []fieldColumn
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		base, arg, bracket := strings.Cut(name, "[")
		f, ok := event.Lookup(base)
		switch {
		case !ok:
			return nil, unknownField(base)
		case bracket && f.Arg == event.NoArg && f.Many == event.One:
			return nil, usagef("field %s has one value: write it without brackets", base)
		case f.Arg == event.KeyArg && !bracket && !f.KeyOptional:
			return nil, usagef("field %s needs a key: %s[key]", base, base)
		}
		c := fieldColumn{name: name, field: f, index: -1}
		if bracket {
			arg, ok = strings.CutSuffix(arg, "]")
			if !ok {
				return nil, usagef("field %s lacks its closing bracket", name)
			}
			if f.Arg != event.KeyArg {
				if _, err := fmt.Sscanf(arg+"$", "%d$", &c.index); err != nil || c.index < 0 {
					return nil, usagef("field %s: %q is not a number of a value", name, arg)
				}
			}
		}
		cols = append(cols, c)
	}
	return cols, nil
}

func unknownField(name string) error {
	e := &usageError{msg: "no field " + name}
	if hint := filter.SuggestField(name); hint != "" {
		e.msg += "; " + hint
	}
	return e
}

func newFieldTable(env *Env, fields []fieldColumn, cut bool) *fieldTable {
	return &fieldTable{screen: env.screen(cut), chosen: fields, now: env.Now}
}

func (ft *fieldTable) fields() []string { return namesOf(ft.chosen) }

// namesOf returns the fields that columns are made of.
func namesOf(cols []fieldColumn) []string {
	names := make([]string, len(cols))
	for i, c := range cols {
		names[i] = c.field.Name
		if c.itself() {
			names[i] = ownField(c.field.Name)
		}
	}
	return names
}

// itself reports whether a column is about the process, not its ancestors:
// proc.aname[0] is proc.name.
func (c fieldColumn) itself() bool { return c.field.Many == event.Ancestors && c.index == 0 }

// ownField returns the field of a process that a field of its ancestors is
// named after.
func ownField(ancestors string) string { return strings.Replace(ancestors, "proc.a", "proc.", 1) }

func (ft *fieldTable) open(out io.Writer) *table {
	cols := make([]column, len(ft.chosen))
	for i, f := range ft.chosen {
		cols[i] = column{head: f.name, min: 8, max: 40}
		switch f.field.Type {
		case event.Time:
			cols[i].min = 23
		case event.Int, event.Uint, event.Duration:
			cols[i].right = f.field.Many == event.One && i < len(cols)-1
		}
	}
	return newTable(out, ft.screen, cols)
}

// aside tells losses, which have none of the fields that somebody chose.
func (ft *fieldTable) aside(r *record) string {
	if r.kind() != event.KindLost || slices.ContainsFunc(ft.chosen, func(c fieldColumn) bool { return strings.HasPrefix(c.name, "lost.") }) {
		return ""
	}
	return ft.screen.lostDetail(r)
}

func (ft *fieldTable) row(r *record) []cell {
	row := make([]cell, len(ft.chosen))
	for i, f := range ft.chosen {
		row[i].text = ft.value(r, f)
	}
	return row
}

// value returns a field's value for people: durations with their unit, times
// in the zone of the terminal.
func (ft *fieldTable) value(r *record, c fieldColumn) string {
	name := c.field.Name
	switch {
	case c.field.Arg == event.KeyArg && c.name == name:
		return ft.screen.safe(r.entries(name))
	case c.field.Arg == event.KeyArg:
		return ft.screen.safe(r.str(c.name))
	case c.itself():
		return ft.screen.safe(r.str(ownField(name)))
	case c.field.Many != event.One:
		values := r.list(name)
		i := c.index
		if c.field.Many == event.Ancestors {
			i-- // the list begins with the parent, which is number 1
		}
		switch {
		case c.index < 0:
			return ft.screen.safe(strings.Join(values, " "))
		case i < len(values):
			return ft.screen.safe(values[i])
		}
		return ""
	case !r.has(name):
		return ""
	case c.field.Type == event.Duration:
		return span(r.duration(name))
	case c.field.Type == event.Time:
		return r.time(name).In(ft.now().Location()).Format("2006-01-02 15:04:05.000")
	}
	return ft.screen.safe(r.str(name))
}
