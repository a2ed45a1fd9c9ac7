// Package alert puts rules to work: it hands the events that some rule can match
// to workers, and makes an alert of each match, which is an event like any other.
//
// Events are shared out among workers by process, so that the events of one
// process are looked at in their order. What comes out does not depend on how many
// workers there are.
package alert

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"warren/event"
	"warren/interest"
	"warren/rule"
)

// Config are an engine's settings; zero values stand for the defaults.
type Config struct {
	// Load reads the rule files. It is asked again each Look, and takes effect
	// when what it returns has changed.
	Load func() ([]rule.File, error)
	// Rules says how they are read.
	Rules rule.Config
	// First is Falco's way: of the rules that an event matches, only the first
	// one alerts.
	First bool
	// Least is the least priority that alerts; nil for all.
	Least *rule.Priority
	// Workers is how many there are. Default: the processors, 8 at most.
	Workers int
	// Look is how often rule files are looked at again. Default 1 s.
	Look time.Duration
	// Budget is how many alerts of a rule a worker tells one by one in a second;
	// the others of that second are one, with their number. Default 200.
	Budget int
	// Aggregate is for how long alerts like one that was told are not told again but
	// counted; 0: each is told.
	Aggregate time.Duration
	// React hears of each alert of a rule that has reactions, with the event that it
	// is about, after it was told; nil for nobody. It does not wait. It hears of what
	// these rules alert of alone: of the last ones while others are at work already.
	React func(r *rule.Rule, about, alert *event.Event)
}

func (c Config) withDefaults() Config {
	c.Workers = cmp.Or(c.Workers, min(runtime.GOMAXPROCS(0), 8))
	c.Look = cmp.Or(c.Look, time.Second)
	c.Budget = cmp.Or(c.Budget, 200)
	return c
}

// Want is what one worker wants of the stream of events.
type Want struct {
	Name     string
	Kinds    event.KindSet
	Interest interest.Interest
	Match    func(*event.Event) bool
}

// A Stream is the events of one worker; [io.EOF] is its end. Close says that all
// is told that is to be told of them.
type Stream interface {
	Next(ctx context.Context) (*event.Event, error)
	Close()
}

// A Spine is where events come from and alerts go to.
type Spine interface {
	// Replace begins streams in the place of others, in one moment: each event is
	// in the old ones or in the new ones. The error is [io.EOF] when no event comes
	// any more.
	Replace(old []Stream, with []Want) ([]Stream, error)
	// Tell publishes an event.
	Tell(*event.Event)
}

// An Engine makes alerts. Its methods may be called by any goroutine; Run is
// called once.
type Engine struct {
	look  time.Duration // how often rule files are looked at
	spine Spine
	log   *slog.Logger

	now     atomic.Pointer[rules]
	began   chan struct{} // closed when Run looks at events
	alerts  atomic.Uint64 // told, each match of a summary counted
	lost    atomic.Uint64 // events that rules would have read
	refused atomic.Pointer[refusal]
	changes chan *Change // see Use

	// Only Run uses these.
	files []rule.File // that now was made of, or that were refused
}

// rules are a set at work.
type rules struct {
	cfg     Config
	files   []rule.File // of which it was made
	set     *rule.Set
	matcher *rule.Matcher
	loaded  time.Time
	tallies map[*rule.Rule]*tally
	noise   *noise        // nil where each alert is told
	left    atomic.Int64  // workers that look
	over    chan struct{} // closed when none does any more
}

type refusal struct {
	at  time.Time
	err error
}

// New loads the rules. The error is that the files cannot be read, or a
// *[BadRulesError].
func New(cfg Config, spine Spine, log *slog.Logger) (*Engine, error) {
	r, err := load(cfg)
	if err != nil {
		return nil, err
	}
	e := &Engine{look: r.cfg.Look, spine: spine, log: log, changes: make(chan *Change), began: make(chan struct{}), files: r.files}
	e.now.Store(r)
	return e, nil
}

// A Change is rules that can be put to work, once.
type Change struct {
	rules *rules
	done  chan struct{} // closed when they are at work
}

// Prepare loads the rules as another configuration has them, and changes nothing.
// Its errors are those of [New]. How often files are looked at stays as it is.
func (e *Engine) Prepare(cfg Config) (*Change, error) {
	r, err := load(cfg)
	if err != nil {
		return nil, err
	}
	return &Change{r, make(chan struct{})}, nil
}

// Use puts rules to work in the place of those there are, in one moment: each event
// meets the old ones or the new ones. It returns when Run has done so, or the error
// of ctx.
func (e *Engine) Use(ctx context.Context, c *Change) error {
	select {
	case e.changes <- c:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A BadRulesError says that rule files have mistakes.
type BadRulesError struct{ Findings []rule.Finding }

// Error tells the first mistake, and how many more there are.
func (e *BadRulesError) Error() string {
	var first *rule.Finding
	n := 0
	for i := range e.Findings {
		if e.Findings[i].IsError() {
			if n++; first == nil {
				first = &e.Findings[i]
			}
		}
	}
	if first == nil {
		return "the rules have mistakes"
	}
	msg := fmt.Sprintf("%v: %s (%s)", first.Place, first.Msg, first.Code)
	if n > 1 {
		msg += fmt.Sprintf("; and %d more: see warren rule check", n-1)
	}
	return msg
}

// load reads the files of a configuration.
func load(cfg Config) (*rules, error) {
	cfg = cfg.withDefaults()
	files, err := cfg.Load()
	if err != nil {
		return nil, err
	}
	return newRules(cfg, files)
}

func newRules(cfg Config, files []rule.File) (*rules, error) {
	set, findings := rule.Load(files, cfg.Rules)
	if set == nil {
		return nil, &BadRulesError{findings}
	}
	set = set.AtLeast(cfg.Least)
	r := &rules{
		cfg: cfg, files: files, set: set, matcher: rule.NewMatcher(set), loaded: time.Now(),
		tallies: map[*rule.Rule]*tally{}, over: make(chan struct{}),
	}
	for _, x := range set.Rules {
		r.tallies[x] = new(tally)
	}
	if cfg.Aggregate > 0 {
		r.noise = newNoise(cfg.Aggregate, set)
	}
	return r, nil
}

// kinds are those that rules can be about.
const kinds = event.AllKinds &^ (event.StateKinds | event.NoticeKinds | 1<<event.KindAlert | 1<<event.KindReaction)

// wants are the streams of some rules, one for each worker, or none where there is
// nothing to look at. That a worker shall not be handed the events of others is
// judged first, for it is cheap.
func (r *rules) wants() []Want {
	var of event.KindSet
	var all interest.Interest
	for _, x := range r.set.Rules {
		if x.Enabled {
			mine := x.Kinds() & kinds
			of |= mine
			all.Terms = append(all.Terms, x.Program.Interest().Among(mine).Terms...)
		}
	}
	if of == 0 {
		return nil
	}
	all.Terms = bounded(all.Terms)
	list := make([]Want, r.cfg.Workers)
	for i := range list {
		list[i] = Want{Name: "rules", Kinds: of, Interest: all}
		if n := uint64(len(list)); n > 1 {
			list[i].Name = fmt.Sprintf("rules %d", i+1)
			list[i].Match = func(e *event.Event) bool { return share(e)%n == uint64(i) }
		}
	}
	return list
}

// maxTerms is how many terms the pipeline is given, to be compared with each other
// whenever somebody wants something else: many more than the kernel can judge.
const maxTerms = 1024

// bounded returns terms that hold where one of ts does: of too many one for those that
// are about the same kinds of events, which lets through more.
func bounded(ts []interest.Term) []interest.Term {
	if len(ts) <= maxTerms {
		return ts
	}
	like := map[event.KindSet][]interest.Term{}
	for _, t := range ts {
		like[t.Kinds] = append(like[t.Kinds], t)
	}
	out := make([]interest.Term, 0, len(like))
	for _, kinds := range slices.Sorted(maps.Keys(like)) {
		out = append(out, envelope(like[kinds]))
	}
	return out
}

// envelope is [interest.Envelope], which takes the longer for each term the more it
// has taken up, in halves.
func envelope(ts []interest.Term) interest.Term {
	if len(ts) > 16 {
		ts = []interest.Term{envelope(ts[:len(ts)/2]), envelope(ts[len(ts)/2:])}
	}
	return interest.Envelope(ts)
}

// share is a number by which the events of a process stay together. What no process
// has done is shared out one by one.
func share(e *event.Event) uint64 {
	if e.Actor.IsZero() {
		return e.Seq
	}
	h := (uint64(e.Actor.PID)<<32 ^ e.Actor.Start) * 0x9e3779b97f4a7c15 // Knuth: 2^64 divided by the golden ratio
	return h >> 32
}

// Began is closed once no event is missed any more, which Run sees to.
func (e *Engine) Began() <-chan struct{} { return e.began }

// drainTime is how long an engine that ends waits for the end of its streams.
const drainTime = 10 * time.Second

// Run makes alerts until ctx ends, and then of what is left in the streams, until
// these end too, or for some seconds.
func (e *Engine) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	over, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(ctx, func() { time.AfterFunc(drainTime, cancel) })
	r := e.now.Load()
	streams, err := e.start(over, g, r, nil)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	close(e.began)
	g.Go(func() error {
		tick := time.NewTicker(e.look)
		defer tick.Stop()
		for {
			var next *rules
			var done chan struct{} // nil where nobody waits
			select {
			case <-ctx.Done():
				return nil
			case c := <-e.changes:
				next, done = c.rules, c.done
				e.files = next.files
			case <-tick.C:
				if next = e.changed(); next == nil {
					continue
				}
			}
			switch streams, err = e.start(over, g, next, streams); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			}
			e.now.Store(next)
			e.refused.Store(nil)
			e.log.Info("the rules have changed", "rules", len(next.set.Rules))
			if done != nil {
				close(done)
			}
		}
	})
	return g.Wait()
}

// start puts rules to work in the place of others, until ctx ends at the latest.
func (e *Engine) start(ctx context.Context, g *errgroup.Group, r *rules, old []Stream) ([]Stream, error) {
	streams, err := e.spine.Replace(old, r.wants())
	if err != nil {
		return nil, fmt.Errorf("begin to look at events: %w", err)
	}
	r.left.Store(int64(len(streams)))
	if len(streams) == 0 {
		close(r.over)
	}
	for i, s := range streams {
		w := e.newWorker(r)
		w.others = i > 0
		g.Go(func() error {
			defer func() {
				if r.left.Add(-1) == 0 {
					close(r.over)
				}
			}()
			return w.run(ctx, s)
		})
	}
	g.Go(func() error {
		e.quiet(r)
		for _, s := range streams {
			s.Close()
		}
		return nil
	})
	return streams, nil
}

func (e *Engine) newWorker(r *rules) *worker {
	return &worker{e: e, rules: r, match: r.matcher.NewWorker(), spent: map[*rule.Rule]*spending{}, costs: costs{skip: map[event.Kind]int{}}}
}

// quiet tells of alerts that were counted, when it is time, and of those that are
// left when no worker is.
func (e *Engine) quiet(r *rules) {
	if r.noise == nil {
		<-r.over
		return
	}
	w := e.newWorker(r)
	tell := func(now time.Time) {
		for _, s := range r.noise.ended(now) {
			w.alert(s.rule, s.last, s.times, s.first)
		}
	}
	tick := time.NewTicker(min(r.noise.window/4, time.Second))
	defer tick.Stop()
	var said uint64
	for {
		select {
		case now := <-tick.C:
			tell(now)
		case <-r.over:
			tell(time.Time{})
			return
		}
		if over := r.noise.overflow(); over > 0 && said == 0 {
			said = over
			e.log.Warn("too many different alerts to find those that are alike: each is told", "most", maxGroups)
		}
	}
}

// changed returns the rules of files that have changed, nil where they have not,
// or cannot be used: then that is said, once.
func (e *Engine) changed() *rules {
	now := e.now.Load()
	files, err := now.cfg.Load()
	if err != nil {
		e.files = nil
		e.refuse(err)
		return nil
	}
	same := SameFiles(files, e.files)
	if e.files = files; same {
		return nil
	}
	if SameFiles(files, now.files) { // again
		e.refused.Store(nil)
		return nil
	}
	r, err := newRules(now.cfg, files)
	if err != nil {
		e.refuse(err)
		return nil
	}
	return r
}

// refuse keeps the rules that there are, and says why.
func (e *Engine) refuse(err error) {
	if was := e.refused.Load(); was != nil && was.err.Error() == err.Error() {
		return
	}
	e.refused.Store(&refusal{time.Now(), err})
	e.log.Error("the rule files cannot be used: the rules stay as they were", "err", err)
}

// A worker looks at the events of some processes.
type worker struct {
	e      *Engine
	rules  *rules
	match  *rule.Worker
	second time.Time // that spent is about
	spent  map[*rule.Rule]*spending
	others bool              // which another worker is told of as well: losses before the streams
	lost   map[string]uint64 // by what it was, since it was told
	costs  costs
	text   []byte
}

// spending is what a rule has alerted in a second.
type spending struct {
	told   int
	looked int    // matches that were laid beside others
	more   uint64 // matches that were not told one by one
	first  time.Time
	last   *event.Event // of these
}

func (w *worker) run(ctx context.Context, s Stream) error {
	w.second = time.Now()
	for {
		// A summary is due though nothing more happens.
		wait, cancel := ctx, context.CancelFunc(func() {})
		if w.owes() {
			wait, cancel = context.WithDeadline(ctx, w.second.Add(time.Second))
		}
		ev, err := s.Next(wait)
		cancel()
		now := time.Now()
		if now.Sub(w.second) >= time.Second {
			w.summarise()
			w.second = now
		}
		switch {
		case err == nil:
			w.measure(ev, now)
			w.look(ev)
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			w.summarise()
			return nil //nolint:nilerr // the end, or nobody waits for it any longer
		case !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("read events: %w", err)
		}
	}
}

func (w *worker) owes() bool {
	if len(w.lost) > 0 {
		return true
	}
	for _, s := range w.spent {
		if s.more > 0 {
			return true
		}
	}
	return false
}

// look matches one event.
func (w *worker) look(ev *event.Event) {
	if l, ok := ev.Data.(*event.Lost); ok {
		// What is nobody's own, each stream tells of.
		if w.others && l.Consumer == "" {
			return
		}
		if w.lost == nil {
			w.lost = map[string]uint64{}
		}
		w.lost[l.What+" ("+l.Lane+")"] += l.Count
		w.e.lost.Add(l.Count)
		return
	}
	for _, r := range w.match.Match(ev) {
		w.rules.tallies[r].matches.Add(1)
		w.matched(r, ev)
		if w.rules.cfg.First {
			return
		}
	}
}

// looks is how many matches of a rule are laid beside others in a second, for
// each that may be told: whoever floods a rule is counted, and costs nobody else.
const looks = 50

// matched tells of a match, or counts it.
func (w *worker) matched(r *rule.Rule, ev *event.Event) {
	s := w.spent[r]
	if s == nil {
		s = &spending{}
		w.spent[r] = s
	}
	if n := w.rules.noise; n != nil && s.looked < looks*w.rules.cfg.Budget {
		s.looked++
		var again bool
		if w.text, again = n.add(w.text, r, ev, time.Now()); again {
			return
		}
		if s.told < w.rules.cfg.Budget {
			s.told++
			w.alert(r, ev, 1, time.Time{})
			return
		}
	} else if n == nil && s.told < w.rules.cfg.Budget {
		s.told++
		w.alert(r, ev, 1, time.Time{})
		return
	}
	if s.more++; s.more == 1 {
		s.first = ev.Time
	}
	s.last = ev
}

// summarise tells what was not told one by one.
func (w *worker) summarise() {
	for r, s := range w.spent {
		if s.more > 0 {
			w.alert(r, s.last, s.more, s.first)
		}
		delete(w.spent, r)
	}
	for _, what := range slices.Sorted(maps.Keys(w.lost)) {
		n := w.lost[what]
		w.e.spine.Tell(&event.Event{Time: time.Now(), Data: &event.Alert{
			Type: "alert", Rule: LostRule, Priority: rule.Warning.String(), Source: "internal", ID: NewID(),
			Output: fmt.Sprintf("%d events were lost that rules may have matched: %s", n, what),
			Fields: string(event.AppendString([]byte(fmt.Sprintf(`{"lost.count":%d,"lost.kind":`, n)), what)) + "}",
		}})
	}
	clear(w.lost)
}

// LostRule is the name of alerts about events that were lost before a rule could
// look at them.
const LostRule = "Warren: events lost"

// alert tells of a match, or of several: first is when the first of them was, and
// the zero time where there is but one.
func (w *worker) alert(r *rule.Rule, ev *event.Event, times uint64, first time.Time) {
	w.e.alerts.Add(times)
	w.text = r.Format.Append(w.text[:0], ev)
	output := string(w.text)
	w.text = r.Format.AppendFields(w.text[:0], ev)
	a := &event.Alert{
		Type: "alert", Rule: r.Name, Priority: r.Priority.String(), Source: r.Source, Output: output, Fields: string(w.text), Tags: r.Tags, ID: NewID(),
		About: ev.Seq, Cause: typeOf(ev), Times: times, First: first,
	}
	if !first.IsZero() {
		a.Last = ev.Time
	}
	told := &event.Event{Time: ev.Time, Ktime: ev.Ktime, Actor: ev.Actor, Process: ev.Process, Data: a}
	w.e.spine.Tell(told)
	if react := w.rules.cfg.React; react != nil && len(r.Reactions) > 0 {
		react(r, ev, told)
	}
}

var typeField, _ = event.Lookup("evt.type")

func typeOf(ev *event.Event) string {
	s, _ := typeField.Str(ev, 0)
	return s
}

// NewID returns a random UUID (RFC 9562, version 4).
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	text := make([]byte, 36)
	hex.Encode(text, b[:4])
	hex.Encode(text[9:], b[4:6])
	hex.Encode(text[14:], b[6:8])
	hex.Encode(text[19:], b[8:10])
	hex.Encode(text[24:], b[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text)
}
