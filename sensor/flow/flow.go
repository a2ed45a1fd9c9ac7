// Package flow makes events of what the datapath tells of packets: flows that
// begin, go on and end, and packets that were dropped, each with the rule behind
// its verdict.
//
// It has no program of its own. The datapath judges and counts whether or not
// somebody listens; the sensor has it tell, reads what it tells and gives names
// to its numbers. Without a datapath there is no such event.
//
// # Order
//
// Records come by a ring of their own. Before it is read, all that the road's
// sensors have submitted by then is decoded: who connects is known, as far as
// the socket sensor can know, when the flow is told.
//
// # Concurrency
//
// One goroutine, from Start to Stop, reads records, makes events of them and
// emits them.
package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"warren/bpf"
	"warren/event"
	"warren/interest"
	"warren/sensor"
)

// Config says where flows come from. The zero value is that of a machine without
// a datapath: the sensor then offers nothing.
type Config struct {
	// Source is the datapath, nil where there is none.
	Source Source
	// Policies give names to rules; nil knows none.
	Policies Policies
	// Device returns the name of a device and the uid of the pod behind it, "" for
	// what it does not know; nil knows none.
	Device func(ifindex uint32) (name, podUID string)
	// Idle and Busy bound the interval at which records are looked for. 0 means
	// 50 ms and 1 ms.
	Idle, Busy time.Duration
	// Explain bounds the part of a CPU that looking for the nearest rule of what
	// no rule matched may take. 0 means 0.05.
	Explain float64
}

func (c Config) withDefaults() Config {
	if c.Idle <= 0 {
		c.Idle = 50 * time.Millisecond
	}
	if c.Busy <= 0 {
		c.Busy = time.Millisecond
	}
	if c.Explain <= 0 {
		c.Explain = 0.05
	}
	return c
}

// road is what the sensor needs of a [bpf.Road].
type road interface {
	Sync(ctx context.Context) error
}

// A Sensor is the flow sensor. Make one with New.
type Sensor struct {
	road road
	cfg  Config
	log  *slog.Logger

	emit atomic.Pointer[func(*event.Event)]

	// Of the goroutine that calls Start and Stop.
	stop    context.CancelFunc
	stopped chan struct{}

	// Of the reader.
	teller teller
	losses map[Loss]uint64 // by what and where: what was known last

	mu  sync.Mutex
	err error // of the reader
}

var _ sensor.Sensor = (*Sensor)(nil)

// New returns a sensor that reads from cfg.Source. It starts nothing.
func New(road *bpf.Road, cfg Config, log *slog.Logger) *Sensor { return newSensor(road, cfg, log) }

func newSensor(road road, cfg Config, log *slog.Logger) *Sensor {
	cfg = cfg.withDefaults()
	return &Sensor{road: road, cfg: cfg, log: log, teller: newTeller(cfg)}
}

// Name implements [sensor.Sensor].
func (*Sensor) Name() string { return "flow" }

// Kinds implements [sensor.Sensor].
func (s *Sensor) Kinds() event.KindSet {
	if s.cfg.Source == nil {
		return 0
	}
	return event.Kinds(event.KindFlow)
}

// Start implements [sensor.Sensor].
func (s *Sensor) Start(want interest.Set, emit func(*event.Event)) error {
	if want.Kinds()&s.Kinds() == 0 {
		return s.Stop()
	}
	s.emit.Store(&emit)
	if s.stop != nil {
		return nil
	}
	// What was lost while nobody listened is missed by nobody.
	s.losses = map[Loss]uint64{}
	if err := s.count(nil); err != nil {
		return err
	}
	if err := s.cfg.Source.Tell(true); err != nil {
		return fmt.Errorf("have the datapath tell flows: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop, s.stopped = cancel, make(chan struct{})
	go func() {
		defer close(s.stopped)
		s.read(ctx)
	}()
	return nil
}

// Snapshot implements [sensor.Sensor]. A flow that goes on is told at the
// datapath's next interval, so there is nothing to do.
func (*Sensor) Snapshot(context.Context) error { return nil }

// Stop implements [sensor.Sensor].
func (s *Sensor) Stop() error {
	if s.stop == nil {
		return nil
	}
	err := s.cfg.Source.Tell(false)
	s.stop()
	<-s.stopped
	s.stop = nil
	if err != nil {
		return fmt.Errorf("have the datapath tell no flows: %w", err)
	}
	return nil
}

// Hooks implements [sensor.Sensor]. Programs and hooks are the datapath's.
func (*Sensor) Hooks() []sensor.HookStatus { return nil }

// How full the ring was found decides when it is looked at next, as for the
// road's own.
const (
	fillFlood  = 4  // a quarter: look again at once
	fillBusy   = 16 // look sooner
	fillNormal = 64 // below it, look later
)

// lossEvery is how often losses are asked for.
const lossEvery = time.Second

// read reads records until ctx ends, and then those that are left.
func (s *Sensor) read(ctx context.Context) {
	interval := s.cfg.Busy
	timer := time.NewTimer(interval)
	defer timer.Stop()
	var counted time.Time
	for {
		waiting, room := s.cfg.Source.Waiting()
		if waiting > 0 {
			s.cycle(ctx)
		}
		if now := time.Now(); now.Sub(counted) >= lossEvery || ctx.Err() != nil {
			counted = now
			if err := s.count(s.send); err != nil {
				s.failed(err)
			}
		}
		if ctx.Err() != nil {
			return
		}
		switch {
		case waiting > room/fillFlood:
			continue
		case waiting > room/fillBusy:
			interval = max(interval/2, s.cfg.Busy)
		case waiting < room/fillNormal:
			interval = min(interval*2, s.cfg.Idle)
		}
		timer.Reset(interval)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// cycle reads what is there, after what the road had before it.
func (s *Sensor) cycle(ctx context.Context) {
	if err := s.road.Sync(ctx); err != nil && !errors.Is(err, bpf.ErrClosed) && ctx.Err() == nil {
		s.failed(fmt.Errorf("wait for the road: %w", err))
	}
	if err := s.cfg.Source.Read(s.take); err != nil {
		s.failed(fmt.Errorf("read flows: %w", err))
	}
}

// take emits the events of one record.
func (s *Sensor) take(r *Record) { s.teller.tell(r, s.send) }

func (s *Sensor) send(e *event.Event) { (*s.emit.Load())(e) }

// count tells what was lost since it was called last.
func (s *Sensor) count(emit func(*event.Event)) error {
	list, err := s.cfg.Source.Losses()
	if err != nil {
		return fmt.Errorf("count lost flows: %w", err)
	}
	for _, l := range list {
		key := Loss{What: l.What, Lane: l.Lane}
		n := l.Count - min(s.losses[key], l.Count)
		if l.Count < s.losses[key] {
			n = l.Count // the datapath began anew
		}
		s.losses[key] = l.Count
		if n == 0 || emit == nil {
			continue
		}
		ktime := boottime()
		emit(&event.Event{Time: bpf.Wall(ktime), Ktime: ktime,
			Data: &event.Lost{Type: "lost", Count: n, What: "flow." + l.What, Lane: l.Lane}})
	}
	return nil
}

// boottime is the kernel's clock that events carry: nanoseconds since boot.
func boottime() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail: the clock exists since 2.6.39
	return uint64(ts.Nano())
}

// failed remembers what went wrong, and says it once.
func (s *Sensor) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil || s.err.Error() != err.Error() {
		s.log.Warn("flows cannot be read", "err", err)
	}
	s.err = err
}
