package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"warren/api"
	"warren/event"
	"warren/filter"
	"warren/settings"
)

// A period is what the flags --since and --until say.
type period struct {
	since, until string // as they were typed
}

// whenDoc is how moments are typed.
const whenDoc = "how long ago like 2h, 1h30m or 1d, a time of day like 14:32, a day like 2026-11-21 or yesterday, or 2026-11-21T14:32:00Z"

func (p *period) flags() []*option {
	return []*option{
		{long: "since", meta: "WHEN", text: &p.since, doc: "look back, by the history: " + whenDoc},
		{long: "until", meta: "WHEN", text: &p.until, doc: "look back no further than to this moment; now, where it is not given"},
	}
}

func (p *period) given() bool { return p.since != "" || p.until != "" }

// times returns the moments; the zero time for one that is not given.
func (p *period) times(now time.Time) (since, until time.Time, err error) {
	if since, err = moment("--since", p.since, now); err != nil {
		return since, until, err
	}
	if until, err = moment("--until", p.until, now); err != nil {
		return since, until, err
	}
	if !since.IsZero() && !until.IsZero() && !since.Before(until) {
		return since, until, usagef("--since %s is not before --until %s", p.since, p.until)
	}
	return since, until, nil
}

// moment understands a flag that is a moment of the past; the zero time where it
// was not given.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, err := settings.ParseMoment(text, now)
	if err != nil {
		return at, usagef("%s %s", flag, err.Error())
	}
	return at, nil
}

// ask adds the period to a question.
func (p *period) ask(q *api.Question, now time.Time) (err error) {
	q.Since, q.Until, err = p.times(now)
	return err
}

// remembered says where the history begins, if that is after what is asked for:
// nobody takes silence for an answer then. Agents without one say so themselves. What
// is no question, as its filter is none, is only told that. An answer that goes on with
// what happens does not say where its past ends: who follows is told here already what
// broken says.
func (a *answerer) remembered(ctx context.Context, q *api.Question, follow bool) {
	since := q.Since
	if a.cluster || since.IsZero() {
		return
	}
	if _, err := filter.Compile(q.Filter); err != nil {
		return
	}
	st, err := a.kept(ctx)
	if err != nil {
		return
	}
	if text := beginOf(&st, since, a.env.Now()); text != "" {
		fmt.Fprintln(a.env.Stderr, a.env.program()+": "+text)
	}
	if follow {
		a.tellBroken(&st)
	}
}

// broken says how many segments cannot be read whole, as far as is known: most are
// found by the question that needs them, so it comes behind the answer.
func (a *answerer) broken(ctx context.Context) {
	if a.cluster {
		return
	}
	if st, err := a.kept(ctx); err == nil {
		a.tellBroken(&st)
	}
}

func (a *answerer) tellBroken(st *api.HistoryStatus) {
	if st.Broken > 0 {
		fmt.Fprintln(a.env.Stderr, a.env.program()+": "+brokenNote(st.Broken))
	}
}

// wholePast is whole, for an answer that came from the history.
func (a *answerer) wholePast(ctx context.Context, err error) error {
	if err == nil {
		a.broken(ctx)
	}
	return a.whole(err)
}

// kept returns what this machine keeps.
func (a *answerer) kept(ctx context.Context) (st api.HistoryStatus, err error) {
	b, err := a.History(ctx)
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("read what the agent keeps: %w", err)
	}
	return st, nil
}

// brokenNote says that an answer may lack what was in segments, of whatever time.
func brokenNote(n int) string {
	return segmentCount(n) + " of the history cannot be read whole: something may be missing"
}

// unseen says that a moment of the past lies in a time in which no agent kept
// anything, here or on nodes that are asked: what is known of it is what was before.
// Where nobody can tell, the answer itself says why.
func (a *answerer) unseen(ctx context.Context, at time.Time) {
	if at.IsZero() {
		return
	}
	q := api.Question{Filter: "lost.lane = agent", Since: at, Until: at.Add(1), Nodes: a.nodes, Fields: []string{"evt.kind", "evt.time", "k8s.node.name", "lost.lane", "lost.until"}}
	var gaps []api.HistoryGap
	for line, err := range a.Recent(ctx, q) {
		if err != nil {
			return
		}
		var r record
		if r.parse(line) != nil || r.str("lost.lane") != "agent" {
			continue
		}
		g := api.HistoryGap{From: r.time("evt.time"), To: r.time("lost.until")}
		if a.cluster {
			g.Node = r.str("k8s.node.name")
		}
		if at.After(g.From) && at.Before(g.To) {
			gaps = append(gaps, g)
		}
	}
	say := screen{utf8: a.env.utf8()}
	for _, note := range gapNotes(gaps, 0, a.env.Now()) {
		fmt.Fprintln(a.env.Stderr, a.env.program()+": "+say.safe(note)+": what is shown is what was known at its begin")
	}
}

// gapNotes say when nothing was kept: the last gaps one by one, and how many there were
// before, with those of which nothing but that is known.
func gapNotes(gaps []api.HistoryGap, uncounted int, now time.Time) (notes []string) {
	const most = 8
	if more := uncounted + len(gaps) - most; more > 0 {
		notes = append(notes, fmt.Sprintf("no agent recorded %d times more", more))
	}
	for _, g := range gaps[max(len(gaps)-most, 0):] {
		notes = append(notes, unseen(g.Node, g.From, g.To, now))
	}
	return notes
}

// A keeper is whose history answers.
type keeper struct {
	node string // "" for this machine
	// told says that it is known what is kept; it is not for who may see some namespaces only.
	told bool
	api.HistoryStatus
}

// kinds are those of which events are kept, all where nobody tells.
func (k *keeper) kinds() (kinds event.KindSet) {
	if !k.told {
		return event.AllKinds
	}
	for _, name := range k.Kinds {
		if kind, ok := event.LookupKind(name); ok {
			kinds |= event.Kinds(kind)
		}
	}
	return kinds
}

// histories returns what this machine keeps, or each node that answers.
func (a *answerer) histories(ctx context.Context) (all []keeper, err error) {
	if !a.cluster {
		st, err := a.kept(ctx)
		if err != nil {
			return nil, err
		}
		return []keeper{{told: true, HistoryStatus: st}}, nil
	}
	b, err := a.Status(ctx, a.nodes...)
	if err != nil {
		return nil, err
	}
	var st hubStatus
	if err := json.Unmarshal(b, &st); err != nil {
		return nil, fmt.Errorf("read what the nodes keep: %w", err)
	}
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if n.Status == nil {
			continue // it does not answer, or is not told of to who asks
		}
		k := keeper{node: n.Node, told: true, HistoryStatus: api.HistoryStatus{Error: "there is no history"}}
		if n.Status.History != nil {
			k.HistoryStatus = *n.Status.History
		}
		all = append(all, k)
	}
	if len(all) == 0 && st.Hub.Answered > 0 {
		all = append(all, keeper{})
	}
	return all, nil
}

// beginOf says where a history begins that does not reach back to since; "" where
// it does.
func beginOf(st *api.HistoryStatus, since, now time.Time) string {
	switch {
	case st.Oldest.IsZero() && st.Error != "":
		return "" // the answer says so
	case st.Oldest.IsZero():
		return "the history is empty"
	case since.Before(st.Oldest.Add(-time.Second)):
		return "the history begins at " + day(st.Oldest, now) + ": of what was before nothing is known"
	}
	return ""
}

// dated reports whether times need their day, because the past is asked for that
// is not today.
func dated(since, until, now time.Time) bool {
	if since.IsZero() {
		return !until.IsZero()
	}
	since = since.In(now.Location())
	return since.Year() != now.Year() || since.YearDay() != now.YearDay()
}
