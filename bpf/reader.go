package bpf

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

type readerStats struct {
	polls, wakeups, malformed atomic.Uint64
	highest                   [numLanes]atomic.Uint64
}

// Run reads the rings and calls the decoders until ctx ends; then it decodes
// what is still there and returns nil. It may be called once; it fails with
// ErrClosed when it has ended before, or the road is closed.
func (r *Road) Run(ctx context.Context) error {
	if !r.running.CompareAndSwap(false, true) {
		select {
		case <-r.stopped:
			return fmt.Errorf("read road: %w", ErrClosed)
		default:
			return errors.New("read road: already running")
		}
	}
	defer r.stop.Do(func() { close(r.stopped) })
	defer context.AfterFunc(ctx, r.wait.kick)()

	interval := r.cfg.Busy
	for ctx.Err() == nil {
		fill, stuck := r.cycle()
		r.answerSyncs()
		r.stats.polls.Add(1)
		if fill > fillFlood && !stuck {
			continue
		}
		interval = r.nextInterval(interval, fill, stuck)
		woken, err := r.wait.wait(interval)
		if err != nil {
			return fmt.Errorf("wait for records: %w", err)
		}
		if woken {
			r.stats.wakeups.Add(1)
		}
	}
	return r.drain()
}

// How full a ring was found decides when it is looked at next. Each look costs a
// wake-up, which is dearer than hundreds of records, so few records wait for
// Idle. A ring that fills suddenly in the meantime wakes the reader itself, at a
// quarter (record_wakeup of road.h).
const (
	fillFlood  = 1.0 / 4  // look again at once
	fillBusy   = 1.0 / 16 // look sooner
	fillNormal = 1.0 / 64 // below it, look later
)

func (r *Road) nextInterval(last time.Duration, fill float64, stuck bool) time.Duration {
	switch {
	case stuck:
		return r.cfg.Busy
	case fill > fillBusy:
		return max(last/2, r.cfg.Busy)
	case fill < fillNormal:
		return min(last*2, r.cfg.Idle)
	}
	return last
}

// drainTime bounds how long the last drain waits for records that are reserved
// but not submitted: that takes microseconds unless a CPU is gone.
const drainTime = 100 * time.Millisecond

func (r *Road) drain() error {
	deadline := time.Now().Add(drainTime)
	var end [numLanes]uint64
	for l, g := range r.rings {
		end[l] = g.produced()
	}
	for {
		r.cycle()
		if r.reached(end) || time.Now().After(deadline) {
			r.answerSyncs()
			return nil
		}
		if _, err := r.wait.wait(time.Millisecond); err != nil {
			return fmt.Errorf("wait for records: %w", err)
		}
	}
}

func (r *Road) reached(end [numLanes]uint64) bool {
	return r.rings[Critical].consumed() >= end[Critical] && r.rings[Bulk].consumed() >= end[Bulk]
}

// cycle decodes what is in the rings. The order makes the promise of the
// package comment: what is in critical when bulk's end has been noted includes
// all that was submitted before any record below that end was reserved. So
// critical must be decoded up to its own end, noted second, before bulk may be
// decoded up to its end.
//
// Bulk's ring holds more than critical's has time for: while it is decoded, critical
// is looked at again and again (dispatchBulk), and only ever decoded earlier for it.
//
// fill is how full the fuller ring was, from 0 to 1. stuck means that a critical
// record is reserved but not yet submitted: bulk has to wait for it.
func (r *Road) cycle() (fill float64, stuck bool) {
	critical, bulk := r.rings[Critical], r.rings[Bulk]
	bulkEnd := bulk.produced()
	criticalEnd := critical.produced()

	fill = max(r.note(Critical, criticalEnd), r.note(Bulk, bulkEnd))
	if !critical.read(criticalEnd, r.dispatch, r.garbled) {
		return fill, true
	}
	bulk.read(bulkEnd, r.dispatchBulk, r.garbled)
	return fill, false
}

// lookAfter is how many bulk records are decoded before the critical ring is looked
// at: a look takes less than one of them.
const lookAfter = 64

// dispatchBulk is dispatch for records of the bulk ring. Where the critical ring
// fills meanwhile, that goes first: a full bulk ring takes tens of milliseconds to
// decode, and several times that on a busy machine, in which the critical one would
// overflow.
func (r *Road) dispatchBulk(rec []byte) {
	r.dispatch(rec)
	if r.unlooked++; r.unlooked < lookAfter {
		return
	}
	r.unlooked = 0
	critical := r.rings[Critical]
	if end := critical.produced(); r.note(Critical, end) > fillBusy {
		// What is stuck there, if anything, came later than what this read of bulk may
		// depend on.
		critical.read(end, r.dispatch, r.garbled)
	}
}

// note returns how full a ring is up to end, and remembers the fullest.
func (r *Road) note(l Lane, end uint64) float64 {
	n := end - r.rings[l].consumed()
	if n > r.stats.highest[l].Load() {
		r.stats.highest[l].Store(n) // the reader is the only writer
	}
	return float64(n) / float64(r.rings[l].size())
}

// dispatch gives one record, as long as the ring says it is, to its decoder.
func (r *Road) dispatch(rec []byte) {
	h, ok := ParseHeader(rec)
	if !ok || int(h.Type) >= len(r.handlers) {
		r.garbled()
		return
	}
	s := &r.handlers[h.Type]
	to := s.to.Load()
	if to == nil {
		r.garbled()
		return
	}
	if err := to.decode(rec[:h.Len:h.Len]); err != nil {
		s.malformed.Add(1)
		msg := to.name + ": " + err.Error()
		r.lastErr.Store(&msg)
		return
	}
	s.decoded.Add(1)
}

func (r *Road) garbled() { r.stats.malformed.Add(1) }

type syncRequest struct {
	end  [numLanes]uint64
	done chan struct{}
}

// Sync returns when everything that was submitted before the call has been
// decoded. It fails with ErrClosed once Run has ended, and waits for Run if it
// has not begun. It must not be called by a decoder.
func (r *Road) Sync(ctx context.Context) error {
	q := syncRequest{done: make(chan struct{})}
	r.syncMu.Lock()
	if r.closed {
		r.syncMu.Unlock()
		return fmt.Errorf("sync: %w", ErrClosed)
	}
	for l, g := range r.rings {
		q.end[l] = g.produced()
	}
	r.syncs = append(r.syncs, q)
	r.wait.kick()
	r.syncMu.Unlock()

	var err error
	select {
	case <-q.done:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-r.stopped:
		err = fmt.Errorf("sync: %w", ErrClosed)
	}
	r.syncMu.Lock()
	defer r.syncMu.Unlock()
	select {
	case <-q.done: // meanwhile, perhaps by the last drain
		return nil
	default:
		r.syncs = slices.DeleteFunc(r.syncs, func(s syncRequest) bool { return s.done == q.done })
		return err
	}
}

func (r *Road) answerSyncs() {
	r.syncMu.Lock()
	defer r.syncMu.Unlock()
	kept := r.syncs[:0]
	for _, q := range r.syncs {
		if r.reached(q.end) {
			close(q.done)
		} else {
			kept = append(kept, q)
		}
	}
	clear(r.syncs[len(kept):])
	r.syncs = kept
}
