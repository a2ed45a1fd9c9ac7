package cli

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"warren/api"
	"warren/filter"
)

// whoCommand says which programs reached an address or a name.
func whoCommand(g *globals) *command {
	var output, expr string
	var limit int
	var about selection
	var when period
	return &command{
		name:    "who",
		args:    "ADDRESS|NETWORK|NAME[:PORT]",
		summary: "Tell which programs reached an address or a name",
		about: "Which executables had connections with it, in which containers, by which user, started by whom, when, how often, and how much was sent and received. " +
			"The answer comes from the history and from what goes on: also of processes that have long ended, and of names that have other addresses since. " +
			"What counts is the name that an address had when it was reached: by the program's own question or another's, as DNS answered this machine.\n\n" +
			"A row is one executable, started in the same way. STARTED BY goes up to the first process of the container, or of the session and who began that. " +
			"A network is an address with its bits, 10.0.0.0/8; *.example.com is all names below example.com. Where DIR is in, the target connected to here. " +
			"--filter is a further condition on the fields of the kind connection.",
		examples: []example{
			{"warren who 203.0.113.7", "Who reached an address"},
			{"warren who example.com:443 --since 1d -o wide", "Who reached a name in the last day, with command lines"},
			{"warren who 10.0.0.0/8:22 --since 14:00 --until 14:30", "Who used SSH in a network, in half an hour"},
			{"warren who '*.example.com' --filter 'container.id != host' -o json", "From containers, for a script"},
		},
		cluster: []example{
			{"kubectl warren who 203.0.113.7 -A", "Who reached an address, on all nodes"},
			{"kubectl warren who example.com:443 -n shop --since 2h", "Which pods of a namespace reached a name"},
		},
		flags: append(append([]*option{
			outputFlag(&output, "", "table", "wide", "json"),
			{long: "limit", meta: "N", number: &limit, doc: "only the N rows of what happened last"},
			{long: "filter", meta: "FILTER", text: &expr, doc: "only connections for which this holds"},
		}, when.flags()...), podFlags(g, &about)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if len(args) == 0 {
				return usagef("who reached what? An address, a network or a name is needed")
			}
			if err := atMost(1, args); err != nil {
				return err
			}
			if _, err := api.ParseTarget(args[0]); err != nil {
				return usagef("%s", err.Error())
			}
			q := api.WhoQuestion{To: args[0], Limit: limit}
			var err error
			if q.Since, q.Until, err = when.times(env.Now()); err != nil {
				return err
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			if _, err := filter.Compile(expr); err != nil {
				return err
			}
			q.Filter, q.Nodes = who.filter(expr), who.nodes
			ctx, cancel := g.finite(ctx, false)
			defer cancel()
			said := env.progress()
			if said != nil {
				q.Progress = func(p api.WhoProgress) { said.tell(whoProgress(&p, env.Now())) }
			}
			w, err := who.Who(ctx, q)
			said.clear()
			if err != nil {
				return err
			}
			who.missingNodes(w.Total, w.Missing)
			if output == "json" {
				return who.whole(writeValue(env, w))
			}
			v := whoView{screen: env.screen(output == "table"), who: who, w: &w, wide: output == "wide", now: env.Now(), asked: q}
			return who.whole(v.write(env))
		},
	}
}

// whoProgress says how far an answer is.
func whoProgress(p *api.WhoProgress, now time.Time) string {
	text := "looked through the history up to " + day(p.At, now)
	if p.Events > 0 {
		text += fmt.Sprintf(": %d events found", p.Events)
	}
	return text
}

// A whoView writes who it was.
type whoView struct {
	screen
	who   *answerer
	w     *api.Who
	wide  bool
	now   time.Time
	asked api.WhoQuestion
}

func (v *whoView) write(env *Env) error {
	if len(v.w.Rows) > 0 {
		out := &lazyWriter{out: env.Stdout}
		var rows [][]cell
		pods, in := v.who.pods, false
		for i := range v.w.Rows {
			pods = pods || v.w.Rows[i].Pod != ""
			in = in || v.w.Rows[i].Direction != "out"
		}
		for i := range v.w.Rows {
			rows = append(rows, v.row(&v.w.Rows[i], pods, in))
		}
		if err := newTable(out, v.screen, v.columns(pods, in)).rows(rows); err != nil {
			return err
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
	say := screen{utf8: env.utf8()}
	for _, note := range v.notes() {
		fmt.Fprintln(env.Stderr, env.program()+": "+say.safe(note))
	}
	return nil
}

func (v *whoView) columns(pods, in bool) []column {
	cols := []column{{head: "LAST"}, {head: "FIRST", spare: 6}}
	if v.who.cluster {
		cols = append(cols, column{head: "NODE", max: 24, spare: 4})
	}
	if pods {
		cols = append(cols, column{head: "NAMESPACE", max: 20}, column{head: "POD", max: 40})
	}
	cols = append(cols, column{head: "CONTAINER", max: 24, spare: 2}, column{head: "USER", max: 16, spare: 3})
	if in {
		cols = append(cols, column{head: "DIR"})
	}
	cols = append(cols, column{head: "CONNS", right: true}, column{head: "FAILED", right: true, spare: 1}, column{head: "SENT", right: true}, column{head: "RECV", right: true},
		column{head: "REACHED", max: 48}, column{head: "EXECUTABLE", max: 40})
	if v.wide {
		cols = append(cols, column{head: "OPEN", right: true}, column{head: "PROCESSES", right: true}, column{head: "PID", right: true}, column{head: "LOGIN"}, column{head: "IMAGE"}, column{head: "COMMAND", max: 80})
	}
	return append(cols, column{head: "STARTED BY"})
}

func (v *whoView) row(r *api.WhoRow, pods, in bool) []cell {
	row := []cell{{text: day(r.Last, v.now)}, {text: day(r.First, v.now), color: dim}}
	if v.who.cluster {
		row = append(row, cell{text: v.safe(r.Node)})
	}
	if pods {
		row = append(row, cell{text: v.safe(r.Namespace)}, cell{text: v.safe(r.Pod)})
	}
	where := cell{text: v.safe(cmp.Or(r.Container, r.ContainerID))}
	if r.ContainerID == "" || r.ContainerID == "host" {
		where = cell{text: v.safe(r.Unit), color: dim}
	}
	row = append(row, where, cell{text: v.safe(cmp.Or(r.User, strconv.FormatUint(uint64(r.UID), 10)))})
	if in {
		row = append(row, cell{text: v.safe(r.Direction)})
	}
	failed := ""
	if r.Failed > 0 {
		failed = strconv.FormatUint(r.Failed, 10)
	}
	row = append(row, cell{text: strconv.FormatUint(r.Connections, 10)}, cell{text: failed, color: red}, cell{text: byteCount(r.Sent)}, cell{text: byteCount(r.Received)},
		cell{text: v.ends(r)}, cell{text: v.safe(cmp.Or(r.ExePath, r.Name, "(unknown)"))})
	if v.wide {
		row = append(row, cell{text: strconv.FormatUint(r.Open, 10)}, cell{text: strconv.Itoa(r.Processes)}, cell{text: strconv.FormatUint(uint64(r.PID), 10)},
			cell{text: v.safe(r.LoginName)}, cell{text: v.safe(r.Image)}, cell{text: v.safe(r.Cmdline)})
	}
	return append(row, cell{text: v.startedBy(r)})
}

// ends returns what was reached, without what was asked for anyway.
func (v *whoView) ends(r *api.WhoRow) string {
	var b strings.Builder
	most := 2
	if v.wide {
		most = len(r.Ends)
	}
	for i, end := range r.Ends {
		if i == most {
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		proto, rest, _ := strings.Cut(end, " ")
		addr, name, _ := strings.Cut(rest, " ")
		if proto != "tcp" {
			b.WriteString(v.safe(proto) + " ")
		}
		b.WriteString(v.safe(addr))
		if name != "" {
			b.WriteString(" (" + v.safe(name) + ")")
		}
	}
	if more := len(r.Ends) - most + r.MoreEnds; more > 0 {
		fmt.Fprintf(&b, " and %d more", more)
	}
	return b.String()
}

func (v *whoView) startedBy(r *api.WhoRow) string {
	var b strings.Builder
	for i := 0; i < len(r.Ancestry); {
		name, run := r.Ancestry[i].Name, 1
		for !v.wide && i+run < len(r.Ancestry) && r.Ancestry[i+run].Name == name {
			run++
		}
		if i > 0 {
			b.WriteString(" <- ")
		}
		b.WriteString(v.safe(cmp.Or(name, "?")))
		if run > 1 {
			fmt.Fprintf(&b, " (%d)", run)
		}
		i += run
	}
	return b.String()
}

// notes are what is to be said beside the rows.
func (v *whoView) notes() []string {
	var notes []string
	w := v.w
	if len(w.Rows) == 0 {
		text := "nobody reached " + w.To + " since " + day(w.Since, v.now)
		if v.asked.Filter != "" {
			text = "no connection with " + w.To + " since " + day(w.Since, v.now)
		}
		if !v.asked.Until.IsZero() {
			text += " until " + day(w.Until, v.now)
		}
		if v.asked.Filter != "" {
			text += " is one for which holds: " + v.asked.Filter
		}
		notes = append(notes, text)
	}
	if t, err := api.ParseTarget(w.To); err == nil && t.Name != "" {
		notes = append(notes, addressNotes(w, v.now)...)
	}
	if w.Failing != "" {
		notes = append(notes, "the history fails: "+w.Failing)
	}
	switch {
	case w.NoHistory != "":
		notes = append(notes, w.NoHistory+": there is only what goes on, and what ended lately")
	case !v.asked.Since.IsZero() && v.asked.Since.Before(w.Since.Add(-time.Second)):
		notes = append(notes, "the history begins at "+day(w.Since, v.now)+": of what was before nothing is known")
	}
	if w.Broken > 0 {
		notes = append(notes, brokenNote(w.Broken))
	}
	if w.More > 0 {
		notes = append(notes, fmt.Sprintf("%d connections of others are not shown", w.More))
	}
	notes = append(notes, gapNotes(w.Gaps, w.MoreGaps, v.now)...)
	if w.Lost > 0 {
		notes = append(notes, fmt.Sprintf("%d events were lost in that time: figures may be too low", w.Lost))
	}
	return notes
}

// addressNotes say which addresses a name had.
func addressNotes(w *api.Who, now time.Time) []string {
	const most = 8
	var notes []string
	for i, a := range w.Addresses {
		if i == most {
			notes = append(notes, fmt.Sprintf("and %d addresses more: -o json has them", len(w.Addresses)-most))
			break
		}
		span := "at " + day(a.Last, now)
		if a.Last.Sub(a.First) >= time.Second {
			span = "from " + day(a.First, now) + " to " + span[3:]
		}
		notes = append(notes, a.Name+" was "+a.Address+" "+span)
	}
	return notes
}
