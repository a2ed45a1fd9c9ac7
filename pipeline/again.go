package pipeline

import (
	"context"
	"errors"
	"strings"
	"time"

	"warren/bpf"
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
	againTime = 2 * time.Second        // that reading may take
)

// doubt is the time of which records of processes are missing.
type doubt struct {
	since       uint64    // ktime at which none was missing yet; 0: no record is missing
	first, last time.Time // when losses were noticed
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
	return d.since != 0 && (now.Sub(d.last) >= lossQuiet || now.Sub(d.first) >= lossMost)
}

// takeDoubt returns since when records are missing, and forgets it; 0 where it is not
// yet time.
func (l *losses) takeDoubt(now time.Time) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.doubt.due(now) {
		return 0
	}
	since := l.doubt.since
	l.doubt = doubt{}
	return since
}

func (l *losses) doubtDue(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.doubt.due(now)
}

// readAgain reads the processes that exist where records of them were lost. Only
// runSensors calls it.
func (p *Pipeline) readAgain(ctx context.Context, now time.Time) {
	since := p.losses.takeDoubt(now)
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
		reading, cancel := context.WithTimeout(ctx, againTime)
		err := r.sensor.Snapshot(reading)
		if err == nil {
			err = p.road.Sync(reading)
		}
		cancel()
		p.mu.Lock()
		p.tables.Relink()
		p.mu.Unlock()
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, context.DeadlineExceeded): // later, there may be time
			p.losses.mu.Lock()
			if d := &p.losses.doubt; d.since == 0 {
				*d = doubt{since: since, first: now, last: time.Now()}
			} else {
				d.since = since
			}
			p.losses.mu.Unlock()
		default:
			p.log.Warn("processes were not read again, though records of them were lost", "err", err)
		}
	}
}
