package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/api"
	"warren/event"
)

// statusCommand reports on the agent itself.
func statusCommand(g *globals) *command {
	var output string
	var about selection
	summary := "Report on the agent: hooks, events, losses, memory"
	if g.kubectl {
		summary = "Report on the hub, and on the agent of each node"
	}
	return &command{
		name:    "status",
		summary: summary,
		about: "For each hook: by which kind of program it is attached, and why not by a better one; what one run of its programs takes, and which share of a core they take together, by a measure of one run in 1,024. " +
			"Then how many events there were, what was lost and where, how full rings, tables and queues are, and who listens. " +
			"Of a cluster: the hub, and each node with its agent; -o wide has the whole report of each, for those who may see all pods.",
		examples: []example{
			{"warren status", "How the agent is doing"},
			{"warren status -o wide", "With every place that a hook is attached to"},
			{"warren status -o json", "The same for a script"},
		},
		cluster: []example{
			{"kubectl warren status", "How hub and agents are doing"},
			{"kubectl warren status --node node-1 -o wide", "All about one node's agent"},
		},
		flags: append([]*option{outputFlag(&output, "", "table", "wide", "json")}, nodeFlags(g, &about)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			if err := atMost(0, args); err != nil {
				return err
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			ctx, cancel := g.finite(ctx, false)
			defer cancel()
			report, err := who.Status(ctx, who.nodes...)
			if err != nil {
				return err
			}
			if who.cluster {
				return who.whole(who.writeHubStatus(report, output))
			}
			if output == "json" {
				return writeObject(env, report)
			}
			var st api.Status
			if err := json.Unmarshal(report, &st); err != nil {
				return fmt.Errorf("read the status: %w", err)
			}
			v := statusView{page: page{screen: env.screen(output == "table")}, st: &st, wide: output == "wide", now: env.Now()}
			v.write()
			return v.print(env)
		},
	}
}

// A statusView writes an agent's report on itself.
type statusView struct {
	page
	st   *api.Status
	wide bool
	now  time.Time
}

func (v *statusView) write() {
	v.agent()
	v.cluster()
	v.network()
	v.sensors()
	v.rules()
	v.alerts()
	v.reactions()
	v.audit()
	v.capabilities()
	v.traffic()
	v.losses()
	v.room()
	if v.st.History != nil {
		v.heading("History")
		v.history(v.st.History, v.now)
	}
	v.consumers()
}

func (v *statusView) agent() {
	st := v.st
	state := "ready"
	if !st.Ready {
		state = v.paint(yellow, "still starting")
	}
	v.heading("warren " + v.safe(st.Version) + ", instance " + v.safe(st.Instance))
	v.line("state", state+", up "+span(v.now.Sub(st.Started)))
	v.line("pid", strconv.Itoa(st.PID))
	v.line("host", v.safe(st.Hostname)+", boot "+v.safe(st.BootID))
	v.line("kernel", v.safe(st.Kernel)+v.lockdown())
	v.place()
	v.line("state kept in", v.safe(st.StateDir))
	for _, l := range st.Listen {
		v.line("listens on", v.safe(l))
	}
	if c := st.Changes; c != nil {
		if c.Refused != "" {
			v.line("changed file", v.paint(red, "not used: ")+v.safe(c.Refused))
		}
		if len(c.Restart) > 0 {
			v.line("changed keys", v.paint(yellow, "take effect with the next start: ")+v.safe(strings.Join(c.Restart, ", ")))
		}
	}
}

// lockdown says which mode the kernel is locked down in. Where that cannot be
// read, as in most containers, it says what shows: that hooks were refused for it;
// or nothing.
func (v *statusView) lockdown() string {
	if mode := v.st.Lockdown; mode != "" && mode != "unknown" {
		return ", lockdown " + v.safe(mode)
	}
	for _, s := range v.st.Sensors {
		for _, h := range s.Hooks {
			refused := func(r api.Refusal) bool { return strings.HasPrefix(r.Reason, "lockdown refuses ") }
			if slices.ContainsFunc(h.Refused, refused) {
				return ", locked down: it refuses hooks"
			}
		}
	}
	return ""
}

func (v *statusView) sensors() {
	var why notes
	for _, s := range v.st.Sensors {
		v.heading("Sensor " + v.safe(s.Name))
		switch {
		case !s.Running && !v.st.Ready:
			v.line("state", v.paint(dim, "not running yet"))
		case !s.Running && s.Error != "":
			v.line("state", v.paint(red, "not running"))
		case !s.Running:
			v.line("state", v.paint(dim, "not running: nobody wants its events"))
		default:
			v.line("watches", v.safe(strings.Join(s.Kinds, ", ")))
		}
		if s.Error != "" {
			v.line("error", v.paint(red, v.safe(s.Error)))
		}
		if len(s.Hooks) == 0 {
			continue
		}
		rows := make([][]cell, len(s.Hooks))
		for i, h := range s.Hooks {
			rows[i] = v.hook(h, &why)
		}
		v.judges(s)
		v.prefilter(s.Prefilter)
		v.rows([]column{{head: "HOOK"}, {head: "ATTACHED BY"}, {head: "REFUSED"}, {head: "A RUN", right: true}, {head: "CORE", right: true}, {head: "FOR WHOM", max: 24}, {head: "WHAT FOR"}, {head: "WHERE", spare: 1}}, rows)
	}
	if len(why) > 0 {
		v.heading("Why not better")
		for i, reason := range why {
			fmt.Fprintf(&v.b, "  [%d] %s\n", i+1, v.safe(reason))
		}
	}
}

// notes are reasons by number: one that holds for many hooks is told once.
type notes []string

// mark returns the number of a reason.
func (n *notes) mark(reason string) string {
	i := slices.Index(*n, reason)
	if i < 0 {
		i = len(*n)
		*n = append(*n, reason)
	}
	return fmt.Sprintf("[%d]", i+1)
}

func (v *statusView) hook(h api.Hook, why *notes) []cell {
	rung := cell{text: v.safe(h.Rung), color: green}
	var refused []string
	for _, r := range h.Refused {
		// Two rungs of one kind can be refused for the same reason.
		if text := v.safe(r.Rung) + " " + why.mark(r.Reason); !slices.Contains(refused, text) {
			refused = append(refused, text)
		}
	}
	switch {
	case h.Rung == "" && h.Error != "":
		rung = cell{text: "nothing", color: red}
		if len(refused) == 0 {
			refused = append(refused, why.mark(h.Error))
		}
	case h.Rung == "":
		rung = cell{text: "-", color: dim}
	case len(h.Refused) > 0:
		rung.color = yellow
	}
	run, core := v.cost(h.Cost)
	return []cell{{text: v.safe(h.Name)}, rung, {text: strings.Join(refused, ", ")}, run, core, v.whom(h), {text: v.safe(h.Purpose)}, {text: v.where(h.Target), color: dim}}
}

// prefilter writes what the kernel lets through, where that is less than all.
func (v *statusView) prefilter(wants []api.Want) {
	const most = 160 // characters of a condition that can name a hundred paths
	for _, w := range wants {
		if w.Whole {
			continue
		}
		text := v.safe(w.Events)
		if r := []rune(text); len(r) > most && !v.wide {
			text = fmt.Sprintf("%s... (%d characters, all with -o wide)", string(r[:most]), len(r))
		}
		who := "nobody any more"
		if len(w.For) > 0 {
			who = v.safe(strings.Join(w.For, ", "))
		}
		v.line("lets through", text+v.paint(dim, ", for "+who))
	}
}

// judges writes what a sensor's programs judge before they record, and what not.
func (v *statusView) judges(s api.Sensor) {
	if len(s.Judges) == 0 {
		return // kinds and types of events decide which hooks are attached, and that is all
	}
	v.line("judges", v.safe(strings.Join(s.Judges, ", ")))
	if len(s.Widened) > 0 {
		v.line("too many", v.paint(yellow, v.safe(strings.Join(s.Widened, ", "))+": the kernel has no room for what is asked, and lets it all through"))
	}
	if s.Cgroups > 0 || s.CgroupsUnjudged > 0 {
		text := fmt.Sprintf("%d cgroups are known to be a container's or the host's, others are let through", s.Cgroups)
		if s.CgroupsUnjudged > 0 {
			text += v.paint(yellow, fmt.Sprintf("; for %d there was no room", s.CgroupsUnjudged))
		}
		v.line("workloads", text)
	}
}

// whom returns for whom a hook is attached.
func (v *statusView) whom(h api.Hook) cell {
	switch {
	case h.Rung == "":
		return cell{}
	case len(h.For) == 0:
		return cell{text: "nobody any more", color: dim}
	}
	return cell{text: v.safe(strings.Join(h.For, ", "))}
}

// cost returns what a run of a hook's programs takes, and which share of a CPU
// they take.
func (v *statusView) cost(c *api.HookCost) (run, core cell) {
	if c == nil || c.Sampled == 0 {
		return cell{}, cell{}
	}
	if core.text = percent(c.Core); c.Core >= 0.05 {
		core.color = yellow
	}
	return cell{text: nanos(c.Mean)}, core
}

// where returns what a hook is attached to, the first of many places unless
// the page is wide.
func (v *statusView) where(target string) string {
	places := strings.Fields(target)
	if len(places) > 2 && !v.wide {
		return v.safe(fmt.Sprintf("%s and %d others", places[0], len(places)-1))
	}
	return v.safe(target)
}

func (v *statusView) capabilities() {
	if len(v.st.Capabilities) == 0 {
		return
	}
	v.heading("Capabilities")
	rows := make([][]cell, len(v.st.Capabilities))
	for i, c := range v.st.Capabilities {
		held := cell{text: "held", color: green}
		switch {
		case c.Held:
		case c.Returned:
			held = cell{text: "given back", color: dim}
		case c.Required:
			held = cell{text: "missing", color: red}
		default:
			held = cell{text: "missing", color: yellow}
		}
		rows[i] = []cell{{text: v.safe(c.Name)}, held, {text: v.safe(c.For)}}
	}
	v.rows([]column{{head: "NAME"}, {head: "STATE"}, {head: "WHAT FOR"}}, rows)
}

func (v *statusView) traffic() {
	if len(v.st.Kinds) > 0 {
		v.heading("Events")
		var rows [][]cell
		for _, k := range v.st.Kinds {
			if kind, ok := event.LookupKind(k.Kind); ok && event.StateKinds.Has(kind) {
				continue // they fill tables, nobody sees them
			}
			rows = append(rows, []cell{{text: v.safe(k.Kind)}, count(k.Total), {text: rate(k.Rate)}})
		}
		v.rows([]column{{head: "KIND", min: 16}, {head: "TOTAL", right: true}, {head: "NOW", right: true, min: 8}, {}}, blankLast(rows))
	}
	if len(v.st.Records) > 0 {
		v.heading("Records from the kernel")
		rows := make([][]cell, len(v.st.Records))
		for i, r := range v.st.Records {
			rows[i] = []cell{{text: v.safe(r.Record)}, {text: v.safe(r.Lane)}, count(r.Submitted), count(r.Decoded), bad(r.Lost), bad(r.Malformed)}
		}
		v.rows([]column{{head: "RECORD", min: 16}, {head: "LANE"}, {head: "WRITTEN", right: true}, {head: "READ", right: true}, {head: "LOST", right: true}, {head: "MALFORMED", right: true}, {}}, blankLast(rows))
	}
}

func (v *statusView) losses() {
	v.heading("Losses")
	if len(v.st.Losses) == 0 {
		v.line("none", "every event since the start has reached who asked for it")
		return
	}
	rows := make([][]cell, len(v.st.Losses))
	for i, l := range v.st.Losses {
		rows[i] = []cell{{text: v.safe(l.Lane)}, bad(l.Count), {text: v.safe(l.Kind)}}
	}
	v.rows([]column{{head: "WHERE", min: 16}, {head: "COUNT", right: true}, {head: "WHAT"}}, rows)
}

func (v *statusView) room() {
	st := v.st
	v.heading("Memory")
	v.line("the agent's own", byteCount(st.Memory.RSSAnon)+", "+byteCount(st.Memory.Heap)+" of it in use")
	for _, r := range st.Rings {
		v.line(v.safe(r.Lane)+" ring", fmt.Sprintf("%s, %s waiting, %s at most so far", byteCount(uint64(r.Size)), byteCount(uint64(r.Waiting)), byteCount(uint64(r.Highest))))
	}
	if st.Reader.LastError != "" {
		v.line("reader", v.paint(red, v.safe(st.Reader.LastError)))
	}
	if w := st.Waiting; w.Total > 0 {
		v.line("events held", fmt.Sprintf("%d waited until their container or process was known, %d do now; %d went on without, %d were pushed on", w.Total, w.Now, w.TimedOut, w.PushedOut))
	}
	if len(st.Tables) == 0 {
		return
	}
	v.heading("Tables")
	rows := make([][]cell, len(st.Tables))
	for i, t := range st.Tables {
		used, budget := "", ""
		if t.Bytes > 0 || t.Budget > 0 {
			used = byteCount(uint64(t.Bytes))
		}
		if t.Budget > 0 {
			budget = byteCount(uint64(t.Budget))
		}
		rows[i] = []cell{{text: v.safe(t.Name)}, {text: strconv.Itoa(t.Entries)}, {text: used}, {text: budget}, count(t.Evicted)}
	}
	v.rows([]column{{head: "TABLE", min: 16}, {head: "ENTRIES", right: true}, {head: "SIZE", right: true}, {head: "BOUND", right: true}, {head: "FORGOTTEN", right: true}, {}}, blankLast(rows))
}

func (v *statusView) consumers() {
	if len(v.st.Subscriptions) > 0 || v.st.Ended.Matched > 0 {
		v.heading("Subscriptions")
	}
	if len(v.st.Subscriptions) > 0 {
		rows := make([][]cell, len(v.st.Subscriptions))
		for i, s := range v.st.Subscriptions {
			rows[i] = []cell{{text: v.safe(s.Name)}, {text: span(v.now.Sub(s.Since))}, count(s.Matched), count(s.Delivered), {text: fmt.Sprintf("%d of %d", s.Queued, s.Size)}, bad(s.Lost), {text: v.safe(s.Filter)}}
		}
		v.rows([]column{{head: "WHO", min: 16, max: 32}, {head: "SINCE", right: true}, {head: "MATCHED", right: true}, {head: "DELIVERED", right: true}, {head: "QUEUE", right: true}, {head: "LOST", right: true}, {head: "FILTER"}}, rows)
	}
	for _, s := range v.st.Subscriptions {
		if s.Unnamed > 0 {
			v.line("could match", fmt.Sprintf("%d events for %s: the kernel does not show which file they are about", s.Unnamed, v.safe(s.Name)))
		}
	}
	if e := v.st.Ended; e.Matched > 0 {
		v.line("ended ones", fmt.Sprintf("%d matched, %d delivered, %d lost, %d still queued when they ended", e.Matched, e.Delivered, e.Lost, e.Matched-e.Delivered-e.Lost))
	}
}

func count(n uint64) cell { return cell{text: strconv.FormatUint(n, 10)} }

// bad is a count that should be zero.
func bad(n uint64) cell {
	c := count(n)
	if n > 0 {
		c.color = red
	} else {
		c.color = dim
	}
	return c
}

// blankLast adds an empty column: the last one is never aligned to the right.
func blankLast(rows [][]cell) [][]cell {
	for i := range rows {
		rows[i] = append(rows[i], cell{})
	}
	return rows
}
