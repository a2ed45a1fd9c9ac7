package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"warren/api"
	"warren/event"
)

// onlyAlerts is what makes a question one about alerts.
const onlyAlerts = "evt.kind = alert"

// alertListCommand shows the alerts of the past, and those to come.
func alertListCommand(g *globals) *command {
	var output string
	var follow bool
	var limit int
	var about selection
	var when period
	return &command{
		name:    "alert list",
		args:    "[FILTER]",
		summary: "Show what rules have alerted, by the history",
		about: "The alerts of the last day, or since another moment, oldest first; with --follow, those to come as well. The agent makes them of its rule files: \"warren agent --rules\". " +
			"FILTER is a condition on the fields of the kind alert. One alert can be of many events that are alike, or of a rule that matches too often: TIMES says of how many. What happened around an alert, \"warren alert show\" tells.",
		examples: []example{
			{"warren alert list", "What happened in the last day"},
			{"warren alert list --since 1h 'alert.priority in (Emergency, Alert, Critical, Error)' -f", "The worst of the last hour, and what comes"},
			{"warren alert list --since 7d 'alert.rule contains shell' -o json", "For a script"},
		},
		cluster: []example{
			{"kubectl warren alert list -n shop", "What rules said of the pods of a namespace"},
		},
		flags: append([]*option{
			outputFlag(&output, "", "table", "wide", "json"),
			{long: "limit", meta: "N", number: &limit, doc: "only the last N; with -f, end after N"},
			{long: "follow", short: "f", yes: &follow, doc: "then show those to come"},
		}, append(when.flags(), podFlags(g, &about)...)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if when.until != "" && follow {
				return usagef("--until ends what -f goes on with: leave out one of them")
			}
			if when.since == "" {
				when.since = "1d"
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			who.selects = append(who.selects, onlyAlerts)
			s := env.screen(output != "wide")
			table := &alertTable{screen: s, place: who.place(s, output == "wide"), wide: output == "wide", now: env.Now}
			typed := filterOf(args)
			q, err := who.question(api.Question{Filter: typed, Limit: limit, Fields: table.fields()})
			if err == nil {
				err = when.ask(&q, env.Now())
			}
			if err != nil {
				return err
			}
			out := newStream(env, table, who)
			if output == "json" {
				q.Fields = nil
			} else {
				out.ask(&q)
			}
			ctx, cancel := g.finite(ctx, follow)
			defer cancel()
			lines := who.Recent(ctx, q)
			if follow {
				lines = who.Events(ctx, q)
			}
			if output == "json" {
				err = writeJSON(env, who.lines(lines, tellRoll, typed))
			} else {
				err = out.write(who.lines(lines, keepRoll, typed))
			}
			if follow && err == nil && limit == 0 {
				return who.left()
			}
			if follow {
				return who.whole(err)
			}
			return who.wholePast(ctx, err)
		},
	}
}

// An alertTable has the columns of alerts.
type alertTable struct {
	screen screen
	place  place
	wide   bool
	now    func() time.Time
}

const alertContainer = 5

func (at *alertTable) fields() []string {
	names := slices.Concat([]string{"evt.time", "evt.kind", "alert.priority", "alert.rule", "alert.output", "alert.count", "alert.first", "alert.uuid", "proc.pid", "proc.name"}, placeFields,
		[]string{"lost.count", "lost.kind", "lost.lane", "lost.consumer"})
	if at.wide {
		names = slices.Concat(names, userFields, executableFields, []string{"proc.aname", "proc.pname"})
	}
	return names
}

func (at *alertTable) open(out io.Writer) *table {
	cols := []column{{head: "TIME", min: 19}, {head: "PRIORITY", min: 8}, {head: "RULE", min: 36, max: 48}, {head: "TIMES", min: 5, right: true}, {head: "PROCESS", min: 12, max: 15}}
	cols = at.place.columns(cols, column{head: "CONTAINER", min: 16, max: 24}, alertContainer, true)
	if at.wide {
		cols = append(cols, column{head: "PID", min: 7, right: true}, column{head: "USER", min: 8, max: 16}, column{head: "EXEPATH", min: 16, max: 40}, column{head: "ANCESTRY", min: 16, max: 48}, column{head: "UUID", min: 36})
	}
	return newTable(out, at.screen, append(cols, column{head: "OUTPUT"}))
}

func (at *alertTable) row(r *record) []cell {
	s := at.screen
	row := []cell{
		{text: r.time("evt.time").In(at.now().Location()).Format(time.DateTime)},
		{text: s.safe(r.str("alert.priority")), color: priorityColor(r.str("alert.priority"))},
		{text: s.safe(r.str("alert.rule"))},
		{},
		{text: s.safe(r.str("proc.name"))},
	}
	if n := r.num("alert.count"); n > 1 || r.has("alert.first") {
		row[3] = count(uint64(n))
	}
	row = at.place.cells(row, r, alertContainer, true)
	if at.wide {
		row = append(row, cell{text: s.safe(r.str("proc.pid"))}, cell{text: s.user(r)}, cell{text: s.executable(r)}, cell{text: s.ancestry(r, 0)}, cell{text: s.safe(r.str("alert.uuid"))})
	}
	return append(row, cell{text: s.safe(r.str("alert.output"))})
}

func (at *alertTable) aside(r *record) string {
	if r.kind() == event.KindLost {
		return at.screen.lostDetail(r)
	}
	return ""
}

// priorityColor is the colour of how bad an alert is.
func priorityColor(priority string) string {
	switch priority {
	case "Emergency", "Alert", "Critical", "Error":
		return red
	case "Informational", "Debug":
		return plain
	}
	return yellow
}

// alertShowCommand tells all about one alert.
func alertShowCommand(g *globals) *command {
	var output string
	var about selection
	when := period{since: "7d"}
	return &command{
		name:    "alert show",
		args:    "UUID",
		summary: "Tell everything about one alert, and what happened around it",
		about: "The rule and what it said, the process with those that started it, and what the history has of that process and of its children in the minutes around: what they executed, whom they talked to, which names they asked for. " +
			"UUID is that of alert list -o wide; its beginning will do.",
		examples: []example{
			{"warren alert show 0f8fad5b-d9cb-469f-a165-70867728950e", "One alert"},
		},
		flags: append([]*option{outputFlag(&output, "", "table", "json")}, append(when.flags(), podFlags(g, &about)...)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if len(args) == 0 {
				return usagef("which alert? Its UUID is needed: see warren alert list -o wide")
			}
			if err := atMost(1, args); err != nil {
				return err
			}
			if !isUUID(args[0]) {
				return usagef("%q is no UUID of an alert: see warren alert list -o wide", args[0])
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			q, err := who.question(api.Question{Filter: onlyAlerts + " and alert.uuid startswith " + args[0], Limit: 2})
			if err == nil {
				err = when.ask(&q, env.Now())
			}
			if err != nil {
				return err
			}
			ctx, cancel := g.finite(ctx, false)
			defer cancel()
			found, err := readRecords(who.lines(who.Recent(ctx, q), dropRoll, ""))
			found = slices.DeleteFunc(found, func(r *record) bool { return r.kind() != event.KindAlert })
			switch {
			case err != nil:
				return err
			case len(found) == 0:
				return fmt.Errorf("no alert since %s has the UUID %s", when.since, args[0])
			case len(found) > 1:
				return fmt.Errorf("several alerts have a UUID that begins with %s", args[0])
			}
			if output == "json" {
				return who.whole(writeObject(env, found[0].appendJSON(nil, func(string) bool { return true })))
			}
			return who.whole(showAlert(ctx, env, who, found[0]))
		},
	}
}

// isUUID reports whether a text can begin a UUID.
func isUUID(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 36
}

// around is how long before and after an alert is shown what happened.
const around = 2 * time.Minute

func showAlert(ctx context.Context, env *Env, who *answerer, r *record) error {
	v := page{screen: env.screen(true)}
	at := r.time("evt.time")
	v.heading("Alert")
	v.line("rule", v.safe(r.str("alert.rule")))
	v.line("priority", v.paint(priorityColor(r.str("alert.priority")), v.safe(r.str("alert.priority"))))
	v.line("when", at.In(env.Now().Location()).Format("2006-01-02 15:04:05.000"))
	v.line("says", v.safe(r.str("alert.output")))
	switch n := r.num("alert.count"); {
	case r.has("alert.first"):
		first := r.time("alert.first").In(env.Now().Location()).Format("2006-01-02 15:04:05.000")
		v.line("times", fmt.Sprintf("%d since %s, of which this is the last", n, first))
	case n > 1:
		v.line("times", fmt.Sprintf("%d, of which this is the last", n))
	}
	v.line("tags", v.safe(strings.Join(r.list("alert.tags"), ", ")))
	v.heading("Process")
	v.line("command", v.command(r))
	v.line("pid", v.safe(r.str("proc.pid"))+" of "+v.user(r))
	v.line("executable", v.executable(r))
	v.line("works in", v.safe(r.str("proc.cwd")))
	v.line("ancestry", v.ancestry(r, 0))
	if r.str("container.id") != "host" {
		v.line("container", v.safe(strings.TrimSpace(r.str("container.name")+" "+r.str("container.image"))))
	}
	if pod := r.str("k8s.pod.name"); pod != "" {
		v.line("pod", v.safe(r.str("k8s.ns.name")+"/"+pod))
	}
	if err := v.reactions(ctx, env, who, r); err != nil {
		return err
	}
	if err := v.print(env); err != nil {
		return err
	}
	id := r.str("proc.exec_id")
	if id == "" {
		return nil
	}
	events := newEventTable(env, who, false)
	q, err := who.question(api.Question{Filter: "proc.exec_id = " + id + " or proc.parent_exec_id = " + id, Fields: events.fields()})
	if err != nil {
		return err
	}
	q.Since, q.Until = at.Add(-around), at.Add(around)
	if q.Until.After(env.Now()) {
		q.Until = time.Time{}
	}
	fmt.Fprintf(env.Stdout, "\n%s\n", v.paint(bold, "Around it"))
	return newStream(env, events, who).write(unreacted(who.lines(who.Recent(ctx, q), keepRoll, "")))
}

// unreacted are lines but for reactions, which are shown already. A filter that leaves
// these out asks for files and system calls as well: it is of kinds.
func unreacted(lines api.Lines) api.Lines {
	return func(yield func([]byte, error) bool) {
		var r record
		for line, err := range lines {
			if err == nil && r.parse(line) == nil && r.kind() == event.KindReaction {
				continue
			}
			if !yield(line, err) {
				return
			}
		}
	}
}

// reactions shows what became of what an alert's rule wanted done.
func (p *page) reactions(ctx context.Context, env *Env, who *answerer, alert *record) error {
	// By the alert, and not by kind: a history that keeps none of that kind has no
	// answer to such a question.
	q, err := who.question(api.Question{Filter: "alert.uuid = " + alert.str("alert.uuid")})
	if err != nil {
		return err
	}
	q.Since = alert.time("evt.time") // an outcome can be much later
	list, err := readRecords(who.lines(who.Recent(ctx, q), dropRoll, ""))
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(r *record) bool { return r.kind() != event.KindReaction })
	if len(list) > 0 {
		p.heading("Reactions")
	}
	for _, r := range list {
		c := p.reactionDetail(r, true)
		p.line(r.time("evt.time").In(env.Now().Location()).Format("15:04:05"), p.paint(c.color, c.text))
	}
	return nil
}
