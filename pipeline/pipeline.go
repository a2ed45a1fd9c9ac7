// Package pipeline is the spine of the agent: it starts the sensors that
// somebody needs, completes each event from the tables of who is who, and hands
// it to those who asked for it.
//
//	sensor -> emit -> number -> tables -> (wait for a container) -> match -> queue -> Next
//
// Everything up to the queues happens on the goroutine that reads the kernel's
// rings, one event after the other; each consumer then takes from its own queue
// on its own goroutine. Filters are evaluated before the queue, not by the
// consumer behind it. An event that nobody wants then costs less (75 ns against
// 95, with a filter of three terms), no flood of unwanted events can push wanted
// ones out of a queue (behind it, half were lost in the same benchmark), and
// what a full queue loses is exactly what the consumer would have seen. See
// BenchmarkMatch.
//
// Nothing is lost in silence. A full ring, a record that cannot be read and a
// full queue are counted, and the consumers concerned get an [event.Lost] where
// the gap is. For each subscription delivered + lost + queued = matched.
//
// All methods of [Pipeline] may be called by any goroutine, at any time.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"warren/bpf"
	"warren/event"
	"warren/identity"
	"warren/sensor"
)

// Config are the pipeline's settings; zero values stand for the defaults.
type Config struct {
	// Tables are the kinds that are watched though nobody subscribes to them,
	// because the tables of processes, connections and names are made of them.
	// Nil stands for TableKinds.
	Tables *event.KindSet
	// Queue is how many events wait for a consumer before the next are lost.
	// Default 8192.
	Queue int
	// Recent is how many past events are kept for those who ask what just
	// happened. Default 1024; negative: none.
	Recent int
	// WaitContainer is how long an event waits at most for the description of
	// its container. Default 1 s.
	WaitContainer time.Duration
	// WaitEvents is how many events wait at most; more push the oldest on.
	// Default 8192.
	WaitEvents int
	// StopGrace is how long a hook stays attached after the last who needed it
	// has gone. Default 5 s.
	StopGrace time.Duration
}

// TableKinds are the kinds that the tables are made of.
const TableKinds = processKinds | 1<<event.KindConnection | 1<<event.KindDNS

// processKinds are what every subscription needs: each event carries the
// process that acted.
const processKinds event.KindSet = 1<<event.KindExec | 1<<event.KindFork | 1<<event.KindExit | 1<<event.KindCredentials | 1<<event.KindNamespace

// drainTime bounds how long a shutdown waits for what the rings still hold.
const drainTime = 2 * time.Second

func (c Config) withDefaults() Config {
	if c.Tables == nil {
		all := TableKinds
		c.Tables = &all
	}
	if c.Queue <= 0 {
		c.Queue = 8192
	}
	if c.Recent == 0 {
		c.Recent = 1024
	}
	if c.WaitContainer <= 0 {
		c.WaitContainer = time.Second
	}
	if c.WaitEvents <= 0 {
		c.WaitEvents = 8192
	}
	if c.StopGrace <= 0 {
		c.StopGrace = 5 * time.Second
	}
	return c
}

// road is what the pipeline needs of a [bpf.Road].
type road interface {
	Run(ctx context.Context) error
	Sync(ctx context.Context) error
	Counters() []bpf.Counter
	Costs() map[string]bpf.Cost
	Stats() bpf.RoadStats
}

// tables is what the pipeline needs of an [identity.Identity]. Apply, Pending,
// Resolve, Doubt and Relink are called by one goroutine at a time.
type tables interface {
	Apply(e *event.Event)
	Pending(e *event.Event) bool
	Resolve(e *event.Event, final bool)
	Doubt(since uint64)
	Relink()
	Described() <-chan struct{}
}

var (
	_ road   = (*bpf.Road)(nil)
	_ tables = (*identity.Identity)(nil)
)

// A Pipeline runs sensors and hands their events to subscriptions.
type Pipeline struct {
	cfg    Config
	road   road
	tables tables
	log    *slog.Logger
	ready  chan struct{}
	kick   chan struct{} // capacity 1: interests changed; a second kick says nothing new
	waits  chan struct{} // capacity 1: the first event began to wait; likewise
	parted chan struct{} // capacity 1: a teller has gone; likewise

	// mu orders the events: who holds it may number, complete and publish them.
	// The ring's reader holds it during each event and finds it free but when a
	// consumer comes or goes, or waiting events are let on.
	mu      sync.Mutex
	seq     uint64
	totals  [maxKinds]uint64
	waiting waiting
	recent  recent
	routes  [maxKinds][]*Subscription // who may match events of the kind
	subs    []*Subscription
	asked   uint64          // how often interests have changed
	tellers []*Subscription // not closed, of those who make events
	ending  bool            // no event comes but of these
	closed  bool            // nor of these
	gone    consumed

	sensors sensors
	losses  losses
	rates   rates
	settled settled
}

// maxKinds is more than there are kinds: a [event.KindSet] has 32 bits.
const maxKinds = 32

// New returns a pipeline of the sensors, which emit what the road decodes.
func New(cfg Config, road *bpf.Road, tables *identity.Identity, list []sensor.Sensor, log *slog.Logger) *Pipeline {
	return newPipeline(cfg, road, tables, list, log)
}

func newPipeline(cfg Config, road road, tables tables, list []sensor.Sensor, log *slog.Logger) *Pipeline {
	p := &Pipeline{
		cfg:    cfg.withDefaults(),
		road:   road,
		tables: tables,
		log:    log,
		ready:  make(chan struct{}),
		kick:   make(chan struct{}, 1),
		waits:  make(chan struct{}, 1),
		parted: make(chan struct{}, 1),
	}
	p.waiting.init()
	p.recent.init(p.cfg.Recent)
	p.losses.init()
	p.settled.changed = make(chan struct{})
	for _, s := range list {
		p.sensors.list = append(p.sensors.list, &runner{sensor: s})
	}
	return p
}

// Ready is closed when the tables are complete: the sensors that the tables
// need run, and what existed before them has been read.
func (p *Pipeline) Ready() <-chan struct{} { return p.ready }

// Run starts the sensors that somebody needs, and keeps it so, until ctx ends.
// Then it stops them, lets what is under way arrive, and closes every
// subscription: consumers get what is left in their queues and then [io.EOF], last
// those who want what others make of that.
//
// It returns nil after ctx ended, and an error when the road failed or a sensor
// that the tables need could not be started. It can be called once.
func (p *Pipeline) Run(ctx context.Context) error {
	defer p.closeSubscriptions()

	// The road outlives ctx: what the sensors saw until they stopped is read.
	roadCtx, stopRoad := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRoad()
	g, ctx := errgroup.WithContext(ctx)
	roadDone := make(chan struct{})
	g.Go(func() error {
		defer close(roadDone)
		if err := p.road.Run(roadCtx); err != nil && roadCtx.Err() == nil {
			return fmt.Errorf("read rings: %w", err)
		}
		return nil
	})
	g.Go(func() error { p.keep(ctx); return nil })
	g.Go(func() error {
		err := p.runSensors(ctx)
		err = errors.Join(err, p.stopSensors())
		select {
		case <-roadDone: // it failed, nothing can be drained
		default:
			drain, cancel := context.WithTimeout(roadCtx, drainTime)
			defer cancel()
			if syncErr := p.road.Sync(drain); syncErr != nil {
				p.log.Warn("events under way at shutdown were not read", "err", syncErr)
			}
		}
		stopRoad()
		return err
	})
	err := g.Wait()

	p.mu.Lock()
	p.letOn(time.Time{}, true)
	p.mu.Unlock()
	p.reportLosses()
	return err
}

// keep does what must happen while no event comes: it lets waiting events on
// and, once a second, counts.
func (p *Pipeline) keep(ctx context.Context) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	// While events wait, a look now and then finds those whose time is over:
	// ours, or that of the tables, which give up without a sign.
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.waits:
		case <-p.tables.Described():
		case <-look.C:
		case now := <-second.C:
			p.reportLosses()
			if p.losses.doubtDue(now) {
				p.interestChanged() // to runSensors: one goroutine calls the sensors
			}
			costs := p.road.Costs()
			p.mu.Lock()
			p.sayUnnamed(now)
			p.rates.sample(now, &p.totals, costs)
			p.mu.Unlock()
			continue
		}
		p.mu.Lock()
		p.letOn(time.Now(), false)
		left := len(p.waiting.fifo)
		p.mu.Unlock()
		if left > 0 {
			look.Reset(max(time.Millisecond, p.cfg.WaitContainer/50))
		}
	}
}
