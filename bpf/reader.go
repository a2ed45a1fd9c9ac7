package bpf

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

type readerStats struct {
	polls, wakeups, malformed atomic.Uint64
	highest                   [numLanes]atomic.Uint64
}

// Run reads the rings and calls the decoders until ctx ends; then it decodes
// what is still there and returns nil. It may be called once.
func (r *Road) Run(ctx context.Context) error {
	if !r.running.CompareAndSwap(false, true) {
		return errors.New("read road: already running")
	}
	defer r.stop.Do(func() { close(r.stopped) })
	defer context.AfterFunc(ctx, r.wait.kick)()

	idle, busy := int(r.cfg.Idle.Milliseconds()), int(r.cfg.Busy.Milliseconds())
	interval := busy
	for ctx.Err() == nil {
		progress, stuck := r.cycle()
		r.answerSyncs()
		switch {
		case progress || stuck:
			interval = busy
		default:
			interval = min(interval*2, idle)
		}
		woken, err := r.wait.wait(interval)
		if err != nil {
			return fmt.Errorf("wait for records: %w", err)
		}
		r.stats.polls.Add(1)
		if woken {
			r.stats.wakeups.Add(1)
		}
	}
	return r.drain()
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
		if _, err := r.wait.wait(1); err != nil {
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
// decoded up to its end. stuck means that a critical record is not yet
// submitted: bulk has to wait for it.
func (r *Road) cycle() (progress, stuck bool) {
	critical, bulk := r.rings[Critical], r.rings[Bulk]
	bulkEnd := bulk.produced()
	criticalEnd := critical.produced()

	progress = r.note(Critical, criticalEnd)|r.note(Bulk, bulkEnd) > 0
	if !critical.read(criticalEnd, r.dispatch, r.garbled) {
		return progress, true
	}
	bulk.read(bulkEnd, r.dispatch, r.garbled)
	return progress, false
}

// note returns the bytes that wait below end and remembers their maximum.
func (r *Road) note(l Lane, end uint64) uint64 {
	n := end - r.rings[l].consumed()
	if n > r.stats.highest[l].Load() {
		r.stats.highest[l].Store(n) // the reader is the only writer
	}
	return n
}

// dispatch gives one record, as long as the ring says it is, to its decoder.
func (r *Road) dispatch(rec []byte) {
	h, ok := ParseHeader(rec)
	if !ok || int(h.Type) >= len(r.handlers) {
		r.garbled()
		return
	}
	to := r.handlers[h.Type].Load()
	if to == nil {
		r.garbled()
		return
	}
	if err := to.decode(rec[:h.Len:h.Len]); err != nil {
		to.malformed.Add(1)
		msg := to.name + ": " + err.Error()
		r.lastErr.Store(&msg)
		return
	}
	to.decoded.Add(1)
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
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return fmt.Errorf("sync: %w", ErrClosed)
	}
	for l, g := range r.rings {
		q.end[l] = g.produced()
	}
	r.syncs = append(r.syncs, q)
	r.wait.kick()
	r.mu.Unlock()

	select {
	case <-q.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.stopped:
	}
	select {
	case <-q.done: // by the last drain
		return nil
	default:
		return fmt.Errorf("sync: %w", ErrClosed)
	}
}

func (r *Road) answerSyncs() {
	r.mu.Lock()
	defer r.mu.Unlock()
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

// A waiter waits until a ring has woken the reader, somebody kicked it, or time
// is up. It is edge-triggered: data that is merely there wakes nobody, only
// the kernel's deliberate wake-ups do.
type waiter struct {
	epoll  int
	events [numLanes + 1]unix.EpollEvent

	mu    sync.Mutex // so that a late kick meets no other file's number
	event int        // -1 when closed
}

func newWaiter(rings ...int) (w *waiter, err error) {
	w = &waiter{epoll: -1, event: -1}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if w.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	for _, fd := range append([]int{w.event}, rings...) {
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)}
		if err = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return nil, fmt.Errorf("watch ring: %w", err)
		}
	}
	return w, nil
}

// wait returns after at most so many milliseconds; woken says that a ring asked
// for it.
func (w *waiter) wait(milliseconds int) (woken bool, err error) {
	n, err := unix.EpollWait(w.epoll, w.events[:], milliseconds)
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	for _, e := range w.events[:max(n, 0)] {
		if int(e.Fd) != w.event {
			woken = true
		}
	}
	return woken, err
}

// kick ends the current wait, or the next.
func (w *waiter) kick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Each write is an edge, though nobody reads. It would fail only after 2^64
	// of them.
	one := [8]byte{1}
	_, _ = unix.Write(w.event, one[:])
}

func (w *waiter) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, fd := range []int{w.epoll, w.event} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	w.epoll, w.event = -1, -1
	return errors.Join(errs...)
}
