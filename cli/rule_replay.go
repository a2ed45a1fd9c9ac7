package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/api"
	"warren/event"
	"warren/filter"
	"warren/rule"
)

// ruleReplayCommand tells what rules would have said of the past.
func ruleReplayCommand(g *globals) *command {
	var output, only, base string
	var how ruling
	var about selection
	when := period{since: "1d"}
	return &command{
		name:    "rule replay",
		args:    "[FILE...]",
		summary: "Tell what rules would have alerted, by the history",
		about: "The rules of the files are put to what the agent has kept of the last day, or since another moment: each event with the process and its ancestors as they were. " +
			"They are read behind the rule files that the agent has, so that they may append to these and override them; a file that it has already takes its own place there. Asked are the rules that the files define, and those that are others by them; without files all that the agent has. The alerts are shown as alert list does, and then how many each rule would have made. " +
			"What the agent's configuration says of rules holds: the least priority that alerts, whether the first rule that matches does alone, and what is said behind outputs. But each alert is told, and none counted with others. " +
			"No alert is not always an answer: which rules read events that the history does not keep, or what it does not have of ancestors, when it begins, when no agent ran and what was lost is said. What is kept is history: filter in the agent's configuration.",
		examples: []example{
			{"warren rule replay new.yaml", "What a new rule would have said of the last day"},
			{"warren rule replay", "What the agent's rules say of the last day"},
			{"warren rule replay local.yaml --rules falco_rules.yaml --history 7d --rule 'Terminal shell in container'", "One rule, of a week, behind other files than the agent's"},
			{"warren rule replay new.yaml --since 14:00 --until 15:00 -o json", "For a script"},
		},
		cluster: []example{
			{"kubectl warren rule replay -n shop new.yaml", "What a new rule would have said of the pods of a namespace"},
		},
		flags: append([]*option{
			outputFlag(&output, "", "table", "wide", "json"),
			{long: "rule", meta: "NAME", text: &only, doc: "only the rule of that name"},
			{long: "rules", meta: "PATHS", text: &base, doc: "rule files and directories before FILE, by comma, in the place of the agent's; none for none"},
			{long: "matching", meta: "WHICH", choices: []string{api.MatchingAll, api.MatchingFirst}, text: &how.matching, doc: "all rules that an event matches alert, or the first (the agent's)"},
			{long: "priority", meta: "PRIORITY", text: &how.priority, doc: "least priority that alerts (the agent's)"},
			{long: "history", meta: "WHEN", text: &when.since, doc: "the same as --since"},
		}, append(when.flags(), podFlags(g, &about)...)...),
		run: func(ctx context.Context, env *Env, args []string) error {
			files, err := readRules(env, args)
			if err != nil {
				return err
			}
			who, err := g.answerer(env, &about)
			if err != nil {
				return err
			}
			since, until, err := when.times(env.Now())
			if err != nil {
				return err
			}
			ctx, cancel := g.finite(ctx, false)
			defer cancel()
			before, err := how.base(ctx, env, who, base)
			if err != nil {
				return err
			}
			set, rivals, err := how.replayed(env, before, files, only)
			if err != nil {
				return err
			}
			r := &replayView{env: env, who: who, set: set, rivals: rivals, least: how.least, since: since, until: until, counts: map[string]uint64{}}
			if err := r.keeps(ctx); err != nil {
				return err
			}
			asked := r.ask()
			q, err := who.question(api.Question{Filter: asked, Since: since, Until: until})
			if err != nil {
				return err
			}
			s := env.screen(output != "wide")
			table := &alertTable{screen: s, place: who.place(s, output == "wide"), wide: output == "wide", now: env.Now}
			if asked != "" {
				lines := r.alerts(who.lines(who.Recent(ctx, q), dropRoll, asked))
				if output == "json" {
					err = writeJSON(env, lines)
				} else {
					err = newStream(env, table, who).write(lines)
				}
			}
			if err == nil {
				err = r.summary(output == "json")
			}
			return who.wholePast(ctx, err)
		},
	}
}

// A replayView is what rules say of the past, and what cannot be known.
type replayView struct {
	env          *Env
	who          *answerer
	set          *rule.Set
	rivals       *rule.Set      // all of which the first that matches alerts; nil where each does
	least        *rule.Priority // that alerts; nil for all
	since, until time.Time

	judged  []*rule.Rule // those of set that the history can be asked, and that alert
	kept    event.KindSet
	counts  map[string]uint64
	lost    uint64
	unread  int // events that could not be made again
	why     error
	unfound int  // events that the agent said match, and here no rule did
	whole   bool // whether the agent was asked for those that match, and no others
}

// ofRules are the kinds of events that rules can be about.
const ofRules = event.AllKinds &^ (event.StateKinds | event.NoticeKinds | 1<<event.KindAlert | 1<<event.KindReaction)

// maxReplay is how long a filter may be that is sent to the agent, bytes: longer
// ones are judged here alone.
const maxReplay = 16 << 10

// keeps finds out what histories there are, and says what they do not have.
func (r *replayView) keeps(ctx context.Context) error {
	all, err := r.who.histories(ctx)
	if err != nil {
		return err
	}
	for i := range all {
		r.kept |= all[i].kinds()
	}
	var reads event.KindSet
	for _, x := range r.set.Rules {
		reads |= x.Kinds() & ofRules
	}
	for i := range all {
		k, whose := &all[i], ""
		if k.node != "" {
			whose = k.node + ": "
		}
		if !k.told {
			r.say(whose + "what the history keeps is told only to who may get pods in all namespaces: of other events the rules are not asked")
			continue
		}
		if k.Error != "" {
			r.say(whose + "nothing is kept at present: " + k.Error)
		}
		if missing := r.kept & reads &^ k.kinds(); missing != 0 {
			r.say(whose + "the history keeps no events of kind " + missing.String() + ", as others do")
		}
		if !ofKinds(k.Filter) {
			r.say(whose + "the history keeps only what matches " + k.Filter + ": of other events the rules are not asked")
		}
		if text := beginOf(&k.HistoryStatus, r.since, r.env.Now()); text != "" {
			r.say(whose + text)
		}
	}
	return nil
}

// ask returns the filter that the agents are asked with, "" where they keep nothing
// that a rule reads, and says which rules they cannot be asked of.
func (r *replayView) ask() string {
	var conditions []string
	var kinds event.KindSet
	for _, x := range r.set.Rules {
		reads := x.Kinds() & ofRules
		missing := reads &^ r.kept
		switch {
		case r.least != nil && x.Priority > *r.least:
			r.say("rule " + x.Name + " was not asked: it is " + x.Priority.String() + ", and the least that alerts is " + r.least.String() + "; --priority debug asks it")
			continue
		case reads == 0:
			r.say("rule " + x.Name + " reads no event that there is")
			continue
		case missing == reads:
			r.say("rule " + x.Name + " was not asked: it reads events of kind " + missing.String() + ", and the history does not keep them")
			continue
		case len(unknown(x)) > 0:
			r.say("rule " + x.Name + " was not asked: the history does not have all of " + strings.Join(unknown(x), ", "))
			continue
		case missing != 0:
			r.say("rule " + x.Name + " was asked of a part only: the history does not keep events of kind " + missing.String())
		}
		r.judged = append(r.judged, x)
		kinds |= reads & r.kept
		condition := "(" + x.Condition.String() + ")"
		if x.Source == rule.SourceAudit {
			condition = "(evt.kind = k8s_audit and " + condition + ")"
		}
		conditions = append(conditions, condition)
	}
	if kinds == 0 {
		return ""
	}
	r.judgeRivals(kinds)
	names := strings.ReplaceAll(kinds.String(), ",", ", ")
	text := "evt.kind in (" + names + ") and (" + strings.Join(conditions, " or ") + ")"
	if _, err := filter.Compile(text); err == nil && len(text) <= maxReplay {
		r.whole = true
		return text
	}
	return "evt.kind in (" + names + ")"
}

// judgeRivals leaves out of the rivals those that the history cannot be asked, and says
// which of them may have alerted in the place of a rule that is asked.
func (r *replayView) judgeRivals(kinds event.KindSet) {
	if r.rivals == nil {
		return
	}
	var names []string
	last := r.judged[len(r.judged)-1]
	before := true
	r.rivals.Rules = slices.DeleteFunc(r.rivals.Rules, func(x *rule.Rule) bool {
		before = before && x != last
		if len(unknown(x)) == 0 {
			return false
		}
		if before && x.Kinds()&kinds != 0 && !slices.Contains(r.set.Rules, x) {
			names = append(names, x.Name)
		}
		return true
	})
	if len(names) > 0 {
		r.say("the first rule that matches alerts alone; what these would have said cannot be told, and it may have been in the place of what is shown: " + strings.Join(names, ", "))
	}
}

// unknown are the fields of a rule's condition that may say something else of what
// the history has than they said when it happened.
func unknown(r *rule.Rule) []string {
	names := filter.FieldsOf(r.Condition)
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), event.Remade)
}

// ofKinds reports whether a filter picks kinds and nothing else.
func ofKinds(text string) bool {
	x, err := filter.Parse(text)
	if text == "" || err != nil {
		return text == ""
	}
	c, ok := x.(*filter.Check)
	if !ok {
		return false
	}
	f, ok := c.Left.(*filter.Field)
	return ok && f.Name == "evt.kind" && (c.Op == filter.In || c.Op == filter.Eq)
}

func (r *replayView) say(text string) {
	s := r.env.screen(false)
	fmt.Fprintln(r.env.Stderr, r.env.program()+": "+s.safe(text))
}

// alerts makes of events those that rules say of them. What was lost stays among
// them.
func (r *replayView) alerts(lines api.Lines) api.Lines {
	return func(yield func([]byte, error) bool) {
		asked := &rule.Set{Rules: r.judged}
		if r.rivals != nil {
			asked = r.rivals
		}
		w := rule.NewMatcher(asked).NewWorker()
		var room []byte
		for line, err := range lines {
			if err != nil {
				yield(nil, err)
				return
			}
			e, err := eventOf(line)
			if err != nil {
				r.unread, r.why = r.unread+1, err
				continue
			}
			if l, ok := e.Data.(*event.Lost); ok {
				if r.lost += l.Count; !yield(line, nil) {
					return
				}
				continue
			}
			if event.NoticeKinds.Has(e.Data.Kind()) {
				continue
			}
			found := w.Match(e)
			if len(found) == 0 && r.whole {
				r.unfound++
			}
			if r.rivals != nil && len(found) > 0 {
				found = found[:1]
			}
			for _, x := range found {
				if !slices.Contains(r.judged, x) {
					continue // a rival
				}
				r.counts[x.Name] += e.Times()
				room = event.AppendJSON(room[:0], alertOf(x, e))
				if !yield(room, nil) {
					return
				}
			}
		}
	}
}

// eventOf makes the event again that an agent has written.
func eventOf(line []byte) (*event.Event, error) {
	values, err := rule.ParseEvent(line)
	if err != nil {
		return nil, err
	}
	return event.Make(values)
}

// alertOf is what a rule says of an event.
func alertOf(r *rule.Rule, e *event.Event) *event.Event {
	typ := ""
	if f, ok := event.Lookup("evt.type"); ok {
		typ, _ = f.Str(e, 0)
	}
	a := &event.Alert{
		Type: "alert", Rule: r.Name, Priority: r.Priority.String(), Source: r.Source, Tags: r.Tags, About: e.Seq, Cause: typ, Times: e.Times(),
		Output: string(r.Format.Append(nil, e)), Fields: string(r.Format.AppendFields(nil, e)),
	}
	out := &event.Event{Time: e.Time, Ktime: e.Ktime, Seq: e.Seq, Actor: e.Actor, Process: e.Process, Data: a}
	if e.Past != nil {
		out.Past = &event.Past{Host: e.Past.Host}
	}
	return out
}

// summary says how many alerts each rule would have made, and what could not be
// judged.
func (r *replayView) summary(quiet bool) error {
	s := r.env.screen(false)
	if r.lost > 0 {
		r.say(strconv.FormatUint(r.lost, 10) + " events were lost in that time: rules would have been asked of these too")
	}
	if r.unread > 0 {
		r.say(fmt.Sprintf("%s could not be judged: %v", amount(r.unread, "event"), r.why))
	}
	if r.unfound > 0 {
		r.say(amount(r.unfound, "event") + " that the agent says match could not be told by rule: is it of another version?")
	}
	if quiet {
		return nil
	}
	out := &lazyWriter{out: r.env.Stdout}
	rules := slices.Clone(r.set.Rules)
	slices.SortStableFunc(rules, func(a, b *rule.Rule) int { return cmp.Compare(r.counts[b.Name], r.counts[a.Name]) })
	fmt.Fprintln(out)
	rows := make([][]cell, len(rules))
	for i, x := range rules {
		rows[i] = []cell{count(r.counts[x.Name]), {text: s.safe(x.Priority.String()), color: priorityColor(x.Priority.String())}, {text: s.safe(x.Name)}}
		if !slices.Contains(r.judged, x) {
			rows[i][0] = cell{text: "not asked", color: yellow}
		}
	}
	if err := newTable(out, s, []column{{head: "ALERTS", right: true}, {head: "PRIORITY"}, {head: "RULE"}}).rows(rows); err != nil {
		return err
	}
	return out.Flush()
}
