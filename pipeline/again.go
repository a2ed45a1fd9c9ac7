package pipeline

import (
	"context"
	"strings"
	"sync"
	"time"

	"warren/bpf"
	"warren/sensor"
)

// A record of a process that is lost leaves the tables wrong for as long as that
// process lives: without its exec it keeps its parent's image, without its fork it
// is unknown. So when the losses are over, what exists is read once more.
const (
	processSensor = "process"
	// existingRecords are those of what exists itself: in a tiny ring some are lost
	// each time, so that no other time would help.
	existingRecords = "process.existing"

	lossQuiet = 500 * time.Millisecond // no loss for so long: they are over
	lossMost  = 5 * time.Second        // what goes on for longer is not waited for

	// Reading begins anew each time. Where it does not succeed it may take twice as
	// long the next time, after as long a pause.
	againTime = 2 * time.Second // that it may take at first; for so long, sensors wait for it
	againMost = time.Minute
)

// doubt is the time of which records of processes are missing.
type doubt struct {
	since       uint64    // ktime at which none was missing yet; 0: no record is missing
	first, last time.Time // when losses were noticed

	misses int       // how often reading has failed since it last succeeded
	after  time.Time // there is no reading before
}

// allowed is how long reading may take, and how long it pauses, after so many misses.
func (d *doubt) allowed() time.Duration {
	t := againTime
	for range d.misses {
		if t *= 2; t >= againMost {
			return againMost
		}
	}
	return t
}

// missed notes that what was lost since the ktime has not been read.
func (d *doubt) missed(since uint64, now time.Time) {
	if d.since == 0 {
		d.first, d.last = now, now
	}
	d.since = since // what was lost meanwhile was lost later
	d.misses++
	d.after = now.Add(d.allowed())
}

// note takes a counter that has grown since the ktime.
func (d *doubt) note(c bpf.Counter, since uint64, now time.Time) {
	if c.Lane == bpf.Bulk || c.Name == existingRecords || !strings.HasPrefix(c.Name, processSensor+".") {
		return
	}
	if d.since == 0 {
		d.since, d.first = max(since, 1), now
	}
	d.last = now
}

// due reports whether it is time to read what exists.
func (d *doubt) due(now time.Time) bool {
	return d.since != 0 && !now.Before(d.after) && (now.Sub(d.last) >= lossQuiet || now.Sub(d.first) >= lossMost)
}

// takeDoubt returns since when records are missing, and forgets it; 0 where it is not
// yet time. Reading what exists may take the time allowed.
func (l *losses) takeDoubt(now time.Time) (since uint64, allowed time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.doubt.due(now) {
		return 0, 0
	}
	d := &l.doubt
	since, allowed = d.since, d.allowed()
	d.since = 0
	return since, allowed
}

func (l *losses) doubtDue(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.doubt.due(now)
}

// answerDoubt notes how reading went, and returns how often it has failed by now.
func (l *losses) answerDoubt(since uint64, err error, now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := &l.doubt
	if err == nil {
		d.misses, d.after = 0, time.Time{}
	} else {
		d.missed(since, now)
	}
	return d.misses
}

// readAgain reads the processes that exist where records of them were lost. Only
// runSensors calls it.
func (p *Pipeline) readAgain(ctx context.Context, now time.Time) {
	since, allowed := p.losses.takeDoubt(now)
	if since == 0 {
		return
	}
	for _, r := range p.sensors.list {
		if r.sensor.Name() != processSensor || !r.running {
			continue
		}
		p.mu.Lock()
		p.tables.Doubt(since)
		p.mu.Unlock()
		err := p.read(ctx, r.sensor, allowed)
		p.mu.Lock()
		p.tables.Relink()
		p.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		if p.losses.answerDoubt(since, err, time.Now()) == 1 {
			p.log.Warn("processes were not read again, though records of them were lost; it is tried again, less and less often", "err", err)
		}
	}
}

// read has a sensor read what exists. It gives up when the time allowed is over, and,
// after againTime, when the sensors have something else to do.
func (p *Pipeline) read(ctx context.Context, s sensor.Sensor, allowed time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, allowed)
	defer cancel()
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(againTime):
		}
		defer p.interestChanged() // runSensors looks at what was taken from it here
		for {
			p.mu.Lock()
			asked := p.asked
			p.mu.Unlock()
			if done, _ := p.settled.look(asked); !done {
				cancel()
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-p.kick:
			}
		}
	})
	return s.Snapshot(ctx)
}
