// Package channel takes alerts to where people and programs wait for them: a file,
// a webhook, a message broker.
//
// Each channel has a queue and goroutines of its own: one that hangs delays no
// other, and nobody who hands an alert over. What a receiver does not take is kept
// on the disk, in its order, and tried again until it does; see spool. An alert can
// arrive twice, where the agent or the receiver ends between taking it and saying
// so: its uuid is the same then.
//
// Everything of a [Set] may be called by any goroutine, unless it says otherwise.
package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"warren/alert"
	"warren/event"
	"warren/filter"
	"warren/rule"
)

// Env is what channels have in common.
type Env struct {
	// Dir is where each has a directory: of what waits, and of what was refused.
	Dir string
	// Hostname is the machine's name, Version the agent's.
	Hostname, Version string
	// Falco says how alerts are written until [Set.Replace] says otherwise; keys are
	// left out of what is handed over as Falco's JSON alone.
	Falco alert.Falco
	// Stdout is for the channels that write there.
	Stdout io.Writer
	Log    *slog.Logger
}

// A Set are the channels that there are.
type Set struct {
	env   Env
	kinds map[string]kind
	lost  atomic.Uint64

	mu    sync.RWMutex
	falco alert.Falco // how the channels of list write
	list  []*channel
	last  map[string]*channel // of each name the newest that has not ended
	end   bool
	all   sync.WaitGroup // channels that run
}

// Open begins channels. It reads what waits for them from the disk; receivers are
// not asked.
func Open(configs []Config, env Env) (*Set, error) {
	s := &Set{env: env, kinds: kinds}
	if err := s.Replace(configs, env.Falco); err != nil {
		return nil, err
	}
	return s, nil
}

// Replace puts channels, which write as falco says, in the place of those there are:
// one whose configuration is the same goes on, and what waits for one waits for that
// of the same name. After an error all is as it was.
func (s *Set) Replace(configs []Config, falco alert.Falco) error {
	env := s.env
	env.Falco = falco
	var fresh []*channel
	for _, cfg := range configs {
		cfg = cfg.withDefaults()
		if s.has(cfg, falco) {
			continue
		}
		c, err := newChannel(cfg, s.kinds[cfg.Type], env)
		if err != nil {
			return fmt.Errorf("channel %s: %w", cfg.Name, err)
		}
		fresh = append(fresh, c)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end {
		return nil
	}
	var list []*channel
	for _, cfg := range configs {
		cfg = cfg.withDefaults()
		if i := slices.IndexFunc(fresh, func(c *channel) bool { return c.cfg.Name == cfg.Name }); i >= 0 {
			list = append(list, fresh[i])
			continue
		}
		list = append(list, s.list[slices.IndexFunc(s.list, func(c *channel) bool { return c.cfg.Name == cfg.Name })])
	}
	for _, c := range s.list {
		if !slices.Contains(list, c) {
			c.stop() // nobody offers anything while we have the lock
		}
	}
	s.list, s.falco = list, falco
	for _, c := range fresh {
		before := s.last[c.cfg.Name] // has the directory until it ends
		if before != nil {
			c.counters = before.counters
		}
		if s.last == nil {
			s.last = map[string]*channel{}
		}
		s.last[c.cfg.Name] = c
		s.all.Go(func() {
			if before != nil {
				<-before.done
				c.counters.forgive()
			}
			c.run()
			s.ended(c)
		})
	}
	return nil
}

func (s *Set) ended(c *channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last[c.cfg.Name] == c {
		delete(s.last, c.cfg.Name)
	}
}

func (s *Set) has(cfg Config, falco alert.Falco) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return falco == s.falco && slices.ContainsFunc(s.list, func(c *channel) bool { return reflect.DeepEqual(c.cfg, cfg) })
}

// Offer hands an alert to the channels that want it. It does not wait. The event
// is of kind alert, or tells of alerts that were lost on the way to here.
func (s *Set) Offer(e *event.Event) {
	if l, ok := e.Data.(*event.Lost); ok {
		s.lost.Add(l.Count)
		return
	}
	a, ok := e.Data.(*event.Alert)
	if !ok {
		return
	}
	var text []byte
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, c := range s.list {
		if s.end || !c.wants(a, e) {
			continue
		}
		if text == nil {
			text = alert.Falco{ISOTime: s.falco.ISOTime}.Append(nil, e, s.env.Hostname)
		}
		select {
		case c.queue <- text:
		default:
			c.counters.lost.Add(1)
		}
	}
}

// Close ends the channels: what can be sent at once still is, the rest waits on
// the disk for the next agent. It returns after a few seconds though a receiver or
// the disk hangs. Nothing is offered afterwards. A second call does nothing.
func (s *Set) Close() {
	s.mu.Lock()
	if s.end {
		s.mu.Unlock()
		return
	}
	s.end = true
	for _, c := range s.list {
		c.stop()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(closeGrace):
		s.env.Log.Warn("a channel does not end: it is left as it is")
	}
}

const (
	// sendGrace is how long a channel that ends goes on sending.
	sendGrace  = 2 * time.Second
	closeGrace = 5 * time.Second
	// stuckGrace is the time that a sender has to return after it was given up.
	stuckGrace = time.Second
	// queueSize is how many alerts wait for a channel to write them down. Who
	// drops is [Set.Offer], and counts it.
	queueSize = 1 << 10
	// maxWait bounds what a receiver can ask us to wait.
	maxWait = time.Hour
)

// ErrNoChannel says that there is no channel of that name.
var ErrNoChannel = errors.New("no such channel")

// Test sends an alert that says that it is a test, past everything that waits, and
// returns when the receiver has taken it, or why it has not.
func (s *Set) Test(ctx context.Context, name string) error {
	s.mu.RLock()
	i := slices.IndexFunc(s.list, func(c *channel) bool { return c.cfg.Name == name })
	var c *channel
	if i >= 0 {
		c = s.list[i]
	}
	s.mu.RUnlock()
	if c == nil {
		return ErrNoChannel
	}
	e := &event.Event{Time: time.Now(), Data: &event.Alert{
		Type: "alert", Rule: "Warren: test", Priority: rule.Informational.String(), Source: "internal", Tags: []string{"test"}, ID: alert.NewID(),
		Output: "This is a test of the channel " + name, Fields: "{}",
	}}
	t := trial{alert.Falco{ISOTime: c.env.Falco.ISOTime}.Append(nil, e, s.env.Hostname), make(chan error, 1)}
	select {
	case c.trials <- t:
	case <-c.done:
		return ErrNoChannel
	case <-ctx.Done():
		return errors.New("the channel is busy: its receiver takes long to answer")
	}
	select {
	case err := <-t.answer:
		return err
	case <-c.done:
		return ErrNoChannel
	case <-ctx.Done():
		return errors.New("the receiver does not answer")
	}
}

// A trial is a test of a channel.
type trial struct {
	text   []byte
	answer chan error // has room for the answer
}

// A sender is a way to a receiver. One goroutine uses it.
type sender interface {
	// send hands over alerts, as Falco writes them in JSON, in their order, and
	// says how many of them the receiver has taken; the error is about the next.
	// It is a *[refusedError] if that can never be taken.
	send(ctx context.Context, alerts [][]byte) (taken int, err error)
	close()
}

// A refusedError says that a receiver will never take an alert.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// A laterError says that a receiver wants to be left alone for a while.
type laterError struct {
	err   error
	after time.Duration
}

func (e *laterError) Error() string { return e.err.Error() }
func (e *laterError) Unwrap() error { return e.err }

// A channel is one way to one receiver.
type channel struct {
	cfg  Config
	env  Env
	dir  string
	prog *filter.Program // nil wants all
	bad  rule.Priority   // the least that is sent
	open func() (sender, error)
	to   string
	most int // alerts that are sent at once

	queue  chan []byte
	trials chan trial
	over   context.Context // ends when nothing more comes
	end    context.CancelFunc
	done   chan struct{} // closed when the directory is free

	spool    atomic.Pointer[spool]
	counters *counters // shared by those of a name, which run one after the other

	// Only run uses these.
	sender  sender
	stuck   <-chan result // gets the outcome of a send that did not return
	stuckAt uint64        // what that was about: see hand
	tried   time.Time     // since when the oldest alert is tried
	dead    deadLetters
}

// counters count alerts since the agent started.
type counters struct {
	sent, retried, dead, lost, givenUp, damaged atomic.Int64

	mu     sync.Mutex
	last   time.Time // when the receiver took something
	err    string    // why it does not
	failed time.Time // since when
}

// forgive forgets why the channel before failed: the next one may not.
func (c *counters) forgive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err, c.failed = "", time.Time{}
}

func newChannel(cfg Config, kind kind, env Env) (*channel, error) {
	c := &channel{cfg: cfg, env: env, dir: filepath.Join(env.Dir, cfg.Name), queue: make(chan []byte, queueSize), trials: make(chan trial), done: make(chan struct{}), counters: &counters{}}
	var ok bool
	if c.bad, ok = rule.ParsePriority(cfg.Priority); !ok {
		return nil, fmt.Errorf("no priority %q", cfg.Priority)
	}
	if cfg.Filter != "" {
		var err error
		if c.prog, err = filter.Compile(cfg.Filter); err != nil {
			return nil, fmt.Errorf("filter: %w", err)
		}
	}
	if kind.open == nil {
		return nil, fmt.Errorf("no type %q", cfg.Type)
	}
	c.open, c.most = func() (sender, error) { return kind.open(&c.cfg, &c.env) }, max(kind.most, 1)
	c.to = kind.to(&c.cfg)
	c.dead = deadLetters{path: filepath.Join(c.dir, deadName)}
	c.over, c.end = context.WithCancel(context.Background())
	return c, nil
}

// wants reports whether an alert is for this channel.
func (c *channel) wants(a *event.Alert, e *event.Event) bool {
	p, ok := rule.ParsePriority(a.Priority)
	return (!ok || p <= c.bad) && (c.prog == nil || c.prog.Match(e))
}

// stop lets the channel end. Nothing may be offered afterwards.
func (c *channel) stop() {
	close(c.queue)
	c.end()
}

// run writes down what comes and sends what is written down, until the channel is
// stopped and a while after.
func (c *channel) run() {
	defer close(c.done)
	dir := c.dir
	if c.cfg.Spool < 0 {
		dir = ""
		if err := os.MkdirAll(c.dir, 0o700); err != nil {
			c.env.Log.Warn("there is no place for alerts that a receiver refuses", "channel", c.cfg.Name, "err", err)
		}
	}
	sp := openSpool(dir, c.cfg.room(), &c.counters.givenUp, &c.counters.damaged)
	c.spool.Store(sp)
	if n := sp.waiting.Load(); n > 0 {
		c.env.Log.Info("alerts wait from before", "channel", c.cfg.Name, "alerts", n)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		for text := range c.queue {
			sp.add(text)
		}
	}()
	c.sending(sp, written)
	<-written
	before := c.counters.givenUp.Load()
	sp.close()
	if n := c.counters.givenUp.Load() - before; n > 0 {
		c.env.Log.Error("alerts could neither be sent nor written down", "channel", c.cfg.Name, "alerts", n)
	}
}

// sending sends what waits, until all that came is written and the time to send it
// is over.
func (c *channel) sending(sp *spool, written <-chan struct{}) {
	defer c.leave()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// What is sent when the channel ends has a little time left.
	context.AfterFunc(c.over, func() { time.AfterFunc(sendGrace, cancel) })
	pause := time.Duration(0)
	for ctx.Err() == nil {
		waits := sp.waiting.Load() > 0
		over := c.over.Err() != nil
		switch {
		case waits && pause == 0:
			pause = c.attempt(ctx, sp, 0)
			c.answer(ctx, sp)
			continue
		case waits && over:
			return // a receiver that fails is not waited for
		case over:
			select {
			case <-written:
				if sp.waiting.Load() == 0 {
					return
				}
			case <-sp.wake:
			case <-ctx.Done():
			}
			continue
		}
		var again <-chan time.Time
		more := sp.wake
		if waits {
			again, more = time.After(jitter(pause)), nil
		}
		select {
		case <-more:
			pause = 0
		case <-again:
			pause = c.attempt(ctx, sp, pause)
		case <-c.over.Done():
		case t := <-c.trials:
			if err := c.try(ctx, sp, t.text); err == nil {
				pause = 0 // it can be reached
				t.answer <- nil
			} else {
				t.answer <- err
			}
		}
	}
}

// answer makes the trials that wait.
func (c *channel) answer(ctx context.Context, sp *spool) {
	select {
	case t := <-c.trials:
		t.answer <- c.try(ctx, sp, t.text)
	default:
	}
}

// jitter is a time of at least d: channels that fail together do not come back
// together.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/4+1) }

// try sends one alert past those that wait.
func (c *channel) try(ctx context.Context, sp *spool, text []byte) error {
	if c.stuck != nil && !c.loose(ctx, sp, 0) {
		return errStuck
	}
	r := c.hand(ctx, 0, [][]byte{text})
	c.outcome(r.err)
	return r.err
}

var errStuck = errors.New("the receiver does not return from a call that was given up")

// loose waits for a send that did not return, for a while, and reports whether it
// now has.
func (c *channel) loose(ctx context.Context, sp *spool, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case r := <-c.stuck:
		c.stuck = nil
		if c.sender = r.sender; r.err != nil {
			c.drop()
		}
		if c.stuckAt > 0 {
			c.took(sp, c.stuckAt-1, r.taken)
		}
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// attempt sends alerts and takes into account what became of them. It returns how
// long to wait before the next attempt.
func (c *channel) attempt(ctx context.Context, sp *spool, pause time.Duration) time.Duration {
	if c.stuck != nil && !c.loose(ctx, sp, c.cfg.Timeout) {
		c.outcome(errStuck)
		return c.cfg.Retry
	}
	first, alerts, err := sp.peek(c.most)
	if err == nil && len(alerts) == 0 {
		return pause
	}
	if c.tried.IsZero() {
		c.tried = time.Now()
	}
	if err != nil {
		if c.outcome(err); time.Since(c.tried) > c.cfg.GiveUp {
			sp.skip()
			c.tried = time.Time{}
		}
		return c.longer(pause)
	}
	r := c.hand(ctx, first+1, alerts)
	if r.taken > 0 {
		c.took(sp, first, r.taken)
		pause = 0
	}
	if r.err == nil {
		c.outcome(nil)
		return 0
	}
	rest := alerts[min(r.taken, len(alerts)):]
	var no *refusedError
	switch {
	case ctx.Err() != nil:
		return pause
	case errors.As(r.err, &no) && len(rest) > 0:
		c.bury(sp, first+uint64(r.taken), rest[0], r.err)
		return 0
	case c.stuck == nil && !c.tried.IsZero() && time.Since(c.tried) > c.cfg.GiveUp && len(rest) > 0:
		c.outcome(r.err)
		c.bury(sp, first+uint64(r.taken), rest[0], fmt.Errorf("not taken for %v: %w", c.cfg.GiveUp, r.err))
		return c.cfg.Retry
	}
	c.counters.retried.Add(1)
	c.outcome(r.err)
	pause = c.longer(pause)
	var later *laterError
	if errors.As(r.err, &later) {
		pause = max(pause, min(later.after, maxWait))
	}
	return pause
}

// longer is the pause after one more failure.
func (c *channel) longer(pause time.Duration) time.Duration {
	return min(max(2*pause, c.cfg.Retry), c.cfg.MaxRetry)
}

// took counts alerts that have arrived.
func (c *channel) took(sp *spool, first uint64, n int) {
	if n > 0 {
		sp.sent(first, n)
		c.counters.sent.Add(int64(n))
		c.tried = time.Time{}
	}
}

// bury puts aside an alert that no receiver will take.
func (c *channel) bury(sp *spool, number uint64, text []byte, err error) {
	c.counters.dead.Add(1)
	c.tried = time.Time{}
	if derr := c.dead.add(text, err); derr != nil {
		c.env.Log.Error("an alert that was refused cannot be kept", "channel", c.cfg.Name, "err", derr)
	}
	sp.sent(number, 1)
	c.note(err)
}

// A result is what became of alerts, and by whom.
type result struct {
	taken  int
	err    error
	sender sender // nil where none could be opened
}

// hand gives alerts to the sender, and returns when they were taken, or after the
// time that is allowed, whatever the sender does. about is what they are, for the
// case that it does not return: 0, or the number of the first and one.
func (c *channel) hand(ctx context.Context, about uint64, alerts [][]byte) result {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	done := make(chan result, 1) // who is given up has somewhere to put it
	s := c.sender
	go func() {
		var r result
		if r.sender = s; s == nil {
			if r.sender, r.err = c.open(); r.err != nil {
				r.sender = nil
			}
		}
		if r.err == nil {
			r.taken, r.err = r.sender.send(ctx, c.cfg.asWanted(c.env.Falco, alerts))
			r.err = timedOut(ctx, r.err, c.cfg.Timeout)
		}
		done <- r
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		grace := time.NewTimer(stuckGrace)
		defer grace.Stop()
		select {
		case r = <-done:
		case <-grace.C:
			c.stuck, c.stuckAt, c.sender = done, about, nil
			return result{err: errStuck}
		}
	}
	c.sender = r.sender
	var no *refusedError
	if r.err != nil && !errors.As(r.err, &no) {
		c.drop() // files with secrets and certificates are read again
	}
	return r
}

// timedOut says of an error that it is because of the time.
func timedOut(ctx context.Context, err error, after time.Duration) error {
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %v", after)
	}
	return err
}

// drop lets go of the sender.
func (c *channel) drop() {
	if c.sender != nil {
		c.sender.close()
		c.sender = nil
	}
}

// leave lets go of the sender for good; of one that is stuck, once it returns.
func (c *channel) leave() {
	c.drop()
	if stuck := c.stuck; stuck != nil {
		go func() {
			if r := <-stuck; r.sender != nil {
				r.sender.close()
			}
		}()
	}
}

// outcome tells once when a receiver begins to fail, and when it takes alerts
// again.
func (c *channel) outcome(err error) {
	n := c.counters
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	switch {
	case err == nil && !n.failed.IsZero():
		c.env.Log.Info("alerts are taken again", "channel", c.cfg.Name, "after", now.Sub(n.failed).Round(time.Second).String())
		n.failed, n.err = time.Time{}, ""
	case err != nil && n.failed.IsZero():
		c.env.Log.Warn("alerts cannot be sent: they wait", "channel", c.cfg.Name, "err", err)
		n.failed = now
	}
	if err != nil {
		n.err = err.Error()
	} else {
		n.last, n.err = now, ""
	}
}

// note keeps an error that is no failure of the channel.
func (c *channel) note(err error) {
	n := c.counters
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err.Error()
}
