package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/prefilter"
	"warren/sensor"
)

// sensors decides which sensors run. One goroutine, runSensors, calls them.
type sensors struct {
	list []*runner

	mu sync.Mutex // guards what Status reads of each runner: the fields below sensor
}

// runner is a sensor and what it has been told.
type runner struct {
	sensor sensor.Sensor

	running bool
	want    interest.Set  // what it was started with
	kinds   event.KindSet // of these, what it has hooks for
	refused event.KindSet // what this kernel, or our rights, do not allow
	hooks   []sensor.HookStatus
	counter uint64 // who is the newest of those that count of those that it knows
	// prefilter is nil where the kernel judges nothing.
	prefilter *prefilter.Status
	err       error
	spareAt   time.Time // since when it has more than is wanted; zero: it has not
}

// prefiltered is a sensor whose programs judge what is wanted before they record.
type prefiltered interface {
	// Prefilter is called by the goroutine that calls Start.
	Prefilter() prefilter.Status
}

// interestChanged has runSensors look again.
func (p *Pipeline) interestChanged() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// tablesName names the tables among those who hold interests.
const tablesName = "tables"

// settled says which changes of interests the sensors know of.
type settled struct {
	mu      sync.Mutex
	asked   uint64        // those up to this one, as Pipeline.asked counts them
	changed chan struct{} // closed when asked rises
}

func (s *settled) to(asked uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if asked > s.asked {
		s.asked = asked
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// look reports whether the sensors know of a change; if not, the channel is closed
// when there is something new.
func (s *settled) look(asked uint64) (bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked >= asked, s.changed
}

// interest is what somebody needs, with who, after so many changes.
func (p *Pipeline) interest() (interest.Set, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tables := *p.cfg.Tables
	var holders []interest.Holder
	for _, s := range p.subs {
		if k := s.opts.Kinds &^ event.NoticeKinds; k != 0 {
			tables |= processKinds // each event names its process
			holders = append(holders, interest.Holder{Name: s.opts.Name, Interest: s.opts.Interest.Among(k)})
		}
	}
	holders = append(holders, interest.Holder{Name: tablesName, Interest: interest.Of(tables)})
	return interest.Union(holders...), p.asked
}

// newestCounter returns who is the newest of those who want numbers alone, of
// some kinds of events; 0: nobody is.
func (p *Pipeline) newestCounter(kinds event.KindSet) (id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.subs {
		if s.counts && s.opts.Kinds&kinds&interest.CountedKinds != 0 {
			id = max(id, s.id)
		}
	}
	return id
}

// runSensors starts and stops sensors as interests change, until ctx ends. It
// returns an error when the sensors that the tables need cannot be started;
// what fails later, for one consumer, is logged and shown by Status.
func (p *Pipeline) runSensors(ctx context.Context) error {
	if err := p.arrange(ctx, time.Now()); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	close(p.ready)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.kick:
		case <-timer.C:
		}
		if err := p.arrange(ctx, time.Now()); err != nil && ctx.Err() == nil {
			p.log.Warn("a sensor could not be started", "err", err)
		}
		p.readAgain(ctx, time.Now())
		if at, ok := p.nextStop(); ok {
			timer.Reset(time.Until(at))
		}
	}
}

// arrange makes the sensors be what is wanted now: missing kinds at once, spare
// ones after the grace.
func (p *Pipeline) arrange(ctx context.Context, now time.Time) error {
	want, asked := p.interest()
	defer p.settled.to(asked) // also where some of it is not to be had: it will not be soon
	var errs []error
	var fresh []*runner
	for _, r := range p.sensors.list {
		begun, err := p.adjust(r, want, now)
		if err != nil {
			errs = append(errs, err)
		}
		if begun {
			fresh = append(fresh, r)
		}
	}
	if len(fresh) == 0 {
		return errors.Join(errs...)
	}
	// All hooks are attached before the first look at what exists: what comes
	// to be meanwhile is seen by one of the two.
	for _, r := range fresh {
		if err := r.sensor.Snapshot(ctx); err != nil {
			errs = append(errs, fmt.Errorf("read what exists for sensor %s: %w", r.sensor.Name(), err))
		}
	}
	if err := p.road.Sync(ctx); err != nil {
		return errors.Join(append(errs, fmt.Errorf("wait for the rings: %w", err))...)
	}
	p.mu.Lock()
	p.tables.Relink()
	p.mu.Unlock()
	p.reportLosses()
	return errors.Join(errs...)
}

// adjust starts, restarts or stops one sensor. It reports whether the sensor
// has begun to run.
func (p *Pipeline) adjust(r *runner, all interest.Set, now time.Time) (begun bool, err error) {
	can := r.sensor.Kinds() &^ r.refused
	want := all.Among(can &^ event.StateKinds)
	if want.Kinds() != 0 { // what the tables learn on the way
		want = want.With(interest.Union(interest.Holder{Name: tablesName, Interest: interest.Of(can & event.StateKinds)}))
	}
	had, exact := r.want, true
	// Who begins to count is not told what was counted before: its sensor, which
	// may be doing all that is wanted already, begins anew.
	counter := p.newestCounter(can)
	switch {
	case counter > r.counter || !had.Covers(want): // more: keep the spare ones, their grace goes on
		if exact = want.Covers(had); !exact {
			want = want.With(had.Nameless())
		}
	case want.Covers(had):
		p.spare(r, time.Time{}, want)
		return false, nil
	case r.spareAt.IsZero():
		p.spare(r, now, want.With(had.Nameless()))
		return false, nil
	case now.Before(r.spareAt.Add(p.cfg.StopGrace)):
		return false, nil
	}
	if want.Kinds() == 0 {
		if err = r.sensor.Stop(); err != nil {
			err = fmt.Errorf("stop sensor %s: %w", r.sensor.Name(), err)
		}
		p.note(r, interest.Set{}, 0, 0, err)
		return false, err
	}
	started, err := p.start(r.sensor, want)
	if err != nil && started == 0 {
		p.sensors.mu.Lock()
		defer p.sensors.mu.Unlock()
		r.err = err // as it was; the next change of interests tries again
		return false, err
	}
	begun = !r.running
	r.counter = counter
	missing := want.Kinds() &^ started
	spareAt := cmp.Or(r.spareAt, now)
	p.note(r, want.Among(started), started, missing, err)
	if !exact { // what was spare before is not asked for by somebody else having come
		p.spare(r, spareAt, r.want)
	}
	if err != nil {
		p.log.Warn("a sensor does without some kinds of events", "sensor", r.sensor.Name(), "kinds", missing.String(), "err", err)
	}
	return begun, nil
}

// start starts a sensor for the kinds wanted. Where one of them is not to be
// had on this kernel, or with our rights, it does without that one: it returns
// what the sensor runs with, and why that is not everything.
func (p *Pipeline) start(s sensor.Sensor, want interest.Set) (event.KindSet, error) {
	kinds := want.Kinds()
	err := s.Start(want, p.emit)
	if err == nil {
		return kinds & s.Kinds(), nil // it may have found out that it cannot have all
	}
	err = fmt.Errorf("start sensor %s: %w", s.Name(), err)
	if u := (*bpf.UnavailableError)(nil); !errors.As(err, &u) {
		return 0, err
	}
	for _, k := range (kinds &^ event.StateKinds).List() {
		less := kinds &^ event.Kinds(k)
		if less&^event.StateKinds != 0 && s.Start(want.Among(less), p.emit) == nil {
			return less, err
		}
	}
	return 0, err
}

// note remembers, for Status, what a sensor does now.
func (p *Pipeline) note(r *runner, want interest.Set, kinds, refused event.KindSet, err error) {
	hooks := r.sensor.Hooks()
	var judged *prefilter.Status
	if s, ok := r.sensor.(prefiltered); ok && kinds != 0 {
		st := s.Prefilter()
		judged = &st
	}
	p.sensors.mu.Lock()
	defer p.sensors.mu.Unlock()
	r.running, r.want, r.kinds, r.hooks, r.prefilter, r.spareAt = kinds != 0, want, kinds, hooks, judged, time.Time{}
	r.refused |= refused
	if err != nil || r.refused == 0 {
		r.err = err
	}
}

// spare remembers since when a sensor has more than is wanted, and who wants
// what of it now.
func (p *Pipeline) spare(r *runner, since time.Time, want interest.Set) {
	p.sensors.mu.Lock()
	defer p.sensors.mu.Unlock()
	r.spareAt, r.want = since, want
}

// nextStop returns when the first spare hook is to go.
func (p *Pipeline) nextStop() (time.Time, bool) {
	var first time.Time
	for _, r := range p.sensors.list {
		if r.spareAt.IsZero() {
			continue
		}
		if at := r.spareAt.Add(p.cfg.StopGrace); first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first, !first.IsZero()
}

// stopSensors ends all, at shutdown.
func (p *Pipeline) stopSensors() error {
	var errs []error
	for _, r := range p.sensors.list {
		if !r.running {
			continue
		}
		if err := r.sensor.Stop(); err != nil {
			errs = append(errs, fmt.Errorf("stop sensor %s: %w", r.sensor.Name(), err))
		}
		p.sensors.mu.Lock()
		r.running, r.want, r.kinds, r.prefilter = false, interest.Set{}, 0, nil
		p.sensors.mu.Unlock()
	}
	return errors.Join(errs...)
}
