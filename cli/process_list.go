package cli

import (
	"context"
	"iter"
	"math"
	"slices"
	"strconv"
	"time"

	"warren/api"
	"warren/event"
)

// processListCommand lists processes like ps.
func processListCommand(g *globals) *command {
	var output, columns string
	var exited, kernel bool
	var about selection
	var when string
	return &command{
		name:    "process list",
		args:    "[FILTER]",
		summary: "List processes",
		about: "Those that run, in the order in which they started; with --exited also those that have ended and are still remembered. " +
			"FILTER is a condition on the fields of the kind process. Threads of the kernel are left out unless --kernel is given. " +
			"With --at, those that ran at that moment, as they were then: by the history.",
		examples: []example{
			{"warren process list", "What runs"},
			{"warren process list 'container.id != host' -o wide", "What runs in containers, with user and executable"},
			{"warren process list --exited 'proc.aname = sshd and exit.code != 0'", "What failed in SSH sessions lately"},
			{"warren process list --at 1h30m 'user.name = root'", "What ran as root an hour and a half ago"},
			{"warren process list 'proc.is_exe_from_memfd = true or proc.is_exe_deleted = true'", "Programs that are in no directory"},
			{"warren process list --columns proc.pid,proc.name,thread.cap_effective 'thread.cap_effective exists'", "Who holds which capabilities"},
		},
		cluster: []example{
			{"kubectl warren process list -n shop", "What runs in the pods of a namespace"},
			{"kubectl warren process list -A --exited 'exit.signal = SIGKILL'", "What was killed lately, on any node"},
			{"kubectl warren process list -A --node node-1 -o wide", "Everything on one node, its own services too"},
		},
		flags: append([]*option{
			{long: "exited", yes: &exited, doc: "also processes that have ended"},
			{long: "kernel", yes: &kernel, doc: "also threads of the kernel"},
			{long: "at", meta: "WHEN", text: &when, doc: "as it was at this moment: " + whenDoc},
			outputFlag(&output, "", "table", "wide", "json"),
			{long: "columns", short: "c", meta: "FIELDS", text: &columns, doc: "show these fields instead, separated by commas; also of JSON"},
		}, podFlags(g, &about)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			chosen, err := parseColumns(columns)
			if err != nil {
				return err
			}
			at, err := moment("--at", when, env.Now())
			if err != nil {
				return err
			}
			if exited && !at.IsZero() {
				return usagef("--at shows what ran at that moment: leave out --exited")
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			s := env.screen(output == "table")
			pt := &processTable{screen: s, place: who.place(s, output == "wide"), wide: output == "wide", exited: exited, now: env.Now(), at: at}
			typed := filterOf(args)
			q, err := who.question(api.Question{Filter: typed, Exited: exited, At: at, Fields: pt.fields()})
			if err != nil {
				return err
			}
			if chosen != nil {
				q.Fields = append(namesOf(chosen), orderFields...)
			} else if output == "json" {
				q.Fields = nil
			}
			ctx, cancel := g.finite(ctx, false)
			defer cancel()
			who.unseen(ctx, at)
			lines := who.Processes(ctx, q)
			if output == "json" {
				return who.whole(writeJSON(env, only(withoutKernel(who.lines(lines, tellRoll, typed), kernel), namesOf(chosen))))
			}
			procs, err := readProcesses(who.lines(lines, dropRoll, typed), kernel)
			if err != nil {
				return err
			}
			pt.place = pt.place.withPods(procs)
			out := &lazyWriter{out: env.Stdout}
			if chosen != nil {
				ft := newFieldTable(env, chosen, output == "table")
				err = writeRows(ft.open(out), procs, ft.row)
			} else {
				err = writeRows(newTable(out, pt.screen, pt.columns()), procs, pt.row)
			}
			if err != nil {
				return err
			}
			return who.whole(out.Flush())
		},
	}
}

// orderFields are what lists of processes are picked and ordered by.
var orderFields = []string{"proc.is_kthread", "proc.start", "proc.pid"}

// only leaves out of each line what was asked for to pick by; with no names it
// leaves out nothing.
func only(lines api.Lines, names []string) api.Lines {
	if len(names) == 0 {
		return lines
	}
	return func(yield func([]byte, error) bool) {
		var r record
		for line, err := range lines {
			if err == nil {
				if err = r.parse(line); err == nil && !event.NoticeKinds.Has(r.kind()) {
					line = r.appendJSON(nil, func(key string) bool { return slices.Contains(names, fieldOf(key)) })
				}
			}
			if !yield(line, err) {
				return
			}
		}
	}
}

// withoutKernel leaves threads of the kernel out, unless they are wanted.
func withoutKernel(lines api.Lines, kernel bool) api.Lines {
	if kernel {
		return lines
	}
	return func(yield func([]byte, error) bool) {
		var r record
		for line, err := range lines {
			if err == nil && r.parse(line) == nil && r.yes("proc.is_kthread") {
				continue
			}
			if !yield(line, err) {
				return
			}
		}
	}
}

// readProcesses reads a list of processes in the order of their starts.
func readProcesses(lines api.Lines, kernel bool) ([]*record, error) {
	procs, err := readRecords(withoutKernel(lines, kernel))
	slices.SortStableFunc(procs, func(a, b *record) int {
		if c := a.time("proc.start").Compare(b.time("proc.start")); c != 0 {
			return c
		}
		return int(a.num("proc.pid") - b.num("proc.pid"))
	})
	return procs, err
}

// listedAtOnce is how many records of a list are held, to be put in order: a history
// has more than fit into memory.
const listedAtOnce = 100_000

// readRecords returns all records of lines.
func readRecords(lines api.Lines) (all []*record, err error) {
	for l, err := range recordsBy(math.MaxInt, lines) {
		if err != nil {
			return nil, err
		}
		all = l
	}
	return all, nil
}

// recordsBy yields the records of lines, n at once; none once, where there are none. It
// ends with the first error.
func recordsBy(n int, lines api.Lines) iter.Seq2[[]*record, error] {
	return func(yield func([]*record, error) bool) {
		var l []*record
		some := false
		for line, err := range lines {
			var r record
			if err == nil {
				err = r.parse(line)
			}
			if err != nil {
				if len(l) == 0 || yield(l, nil) {
					yield(nil, err)
				}
				return
			}
			if l = append(l, r.clone()); len(l) == n {
				if !yield(l, nil) {
					return
				}
				l, some = nil, true
			}
		}
		if len(l) > 0 || !some {
			yield(l, nil)
		}
	}
}

func writeRows(t *table, records []*record, row func(*record) []cell) error {
	rows := make([][]cell, len(records))
	for i, r := range records {
		rows[i] = row(r)
	}
	return t.rows(rows)
}

// A processTable has the columns of lists of processes.
type processTable struct {
	screen screen
	place  place
	wide   bool
	exited bool
	now    time.Time
	at     time.Time // the moment that the list is of; zero: now
}

// processContainer is where the column of the container stands, treeContainer
// where it does in a tree.
const (
	processContainer = 3
	treeContainer    = 2
)

func (pt *processTable) fields() []string {
	names := slices.Concat(orderFields, []string{"proc.ppid", "proc.duration", "proc.exited", "proc.exec_id", "exit.code", "exit.signal", "exit.core_dumped"},
		userFields, placeFields, commandFields)
	if pt.wide {
		names = slices.Concat(names, executableFields, []string{"proc.cwd", "container.image", "proc.aname"})
	}
	return names
}

func (pt *processTable) columns() []column {
	cols := []column{{head: "PID", right: true}, {head: "PPID", right: true, spare: 1}, {head: "USER", max: 16}, {head: "STARTED"}, {head: "DURATION", right: true}}
	cols = pt.place.columns(cols, column{head: "CONTAINER", max: 28, spare: 2}, processContainer, false)
	if pt.exited {
		cols = append(cols, column{head: "ENDED", max: 24, spare: 3})
	}
	if pt.wide {
		cols = append(cols, column{head: "EXEPATH"}, column{head: "CWD"}, column{head: "IMAGE"}, column{head: "EXEC ID"}, column{head: "ANCESTRY"})
	}
	return append(cols, column{head: "COMMAND"})
}

func (pt *processTable) row(r *record) []cell {
	s := pt.screen
	row := []cell{
		{text: s.safe(r.str("proc.pid"))},
		{text: s.safe(r.str("proc.ppid"))},
		{text: s.user(r)},
		{text: pt.started(r), color: dim},
		{text: pt.duration(r)},
	}
	row = pt.place.cells(row, r, processContainer, false)
	if pt.exited {
		row = append(row, pt.ended(r))
	}
	if pt.wide {
		row = append(row, cell{text: s.executable(r)}, cell{text: s.safe(r.str("proc.cwd"))}, cell{text: s.safe(r.str("container.image"))},
			cell{text: s.safe(r.str("proc.exec_id"))}, cell{text: s.ancestry(r, 0)})
	}
	return append(row, pt.command(r))
}

func (pt *processTable) started(r *record) string {
	t := r.time("proc.start")
	if t.IsZero() {
		return ""
	}
	return day(t, pt.now)
}

// duration returns how long a process has lived, or did.
func (pt *processTable) duration(r *record) string {
	switch start := r.time("proc.start"); {
	case r.yes("proc.exited"):
		return span(r.duration("proc.duration"))
	case start.IsZero():
		return ""
	default:
		now := pt.now
		if !pt.at.IsZero() {
			now = pt.at
		}
		return span(now.Sub(start))
	}
}

// ended returns how a process ended, nothing for one that lives.
func (pt *processTable) ended(r *record) cell {
	if !r.yes("proc.exited") {
		return cell{}
	}
	return pt.screen.ending(r)
}

func (pt *processTable) command(r *record) cell {
	c := cell{text: pt.screen.command(r)}
	for _, m := range executableMarks(r) {
		c.text += " (" + m + ")"
	}
	if r.yes("proc.exited") {
		c.color = dim
	}
	return c
}

// isPID reports whether an argument is a process id, not an exec id.
func isPID(arg string) bool {
	_, err := strconv.ParseUint(arg, 10, 32)
	return err == nil
}
