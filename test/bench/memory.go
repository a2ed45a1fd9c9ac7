package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	figHeapIdle   = "heap, idle"
	figHeapChurn  = "heap, after 1,000,000 processes"
	figFirstEvent = "start to first event"
)

const mebi = 1 << 20

// heap reads the agent's anonymous memory: after a while of rest, and after
// processes came and went.
func (b *bench) heap(ctx context.Context) error {
	a, err := b.start(ctx, "")
	if err != nil {
		return err
	}
	defer a.stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(b.idle):
	}
	idle, err := heap(a.pid())
	if err != nil {
		return err
	}
	b.add(figHeapIdle, idle <= 48*mebi, "at most 48 MiB", "%.1f MiB", float64(idle)/mebi)

	// The most that it takes at any moment counts, not what is left afterwards.
	sampling, stop := context.WithCancel(ctx)
	defer stop()
	most := make(chan int64)
	go func() {
		peak := idle
		for sampling.Err() == nil {
			if now, err := heap(a.pid()); err == nil {
				peak = max(peak, now)
			}
			time.Sleep(50 * time.Millisecond)
		}
		most <- peak
	}()
	r, err := b.runStorm(ctx, a, time.Hour, b.churn)
	stop()
	peak := <-most
	if err != nil {
		return err
	}
	b.add(figHeapChurn, peak <= 128*mebi, "at most 128 MiB", "%.1f MiB at most during %d", float64(peak)/mebi, r.started)
	return nil
}

// firstEvent is the time from starting the program to the first event that a
// client reads, with processes starting all the while.
func (b *bench) firstEvent(ctx context.Context) error {
	var seconds []float64
	for range b.rounds {
		took, err := b.firstEventOnce(ctx)
		if err != nil {
			return err
		}
		seconds = append(seconds, took.Seconds())
	}
	s := spreadOf(seconds)
	b.add(figFirstEvent, s.median <= 1*b.slack, "at most 1 s", "%v s in %d starts", s, len(seconds))
	return nil
}

func (b *bench) firstEventOnce(ctx context.Context) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	a, err := b.launch("")
	if err != nil {
		return 0, err
	}
	defer a.stop()
	var first atomic.Int64
	var s *stream
	for s == nil {
		s, err = a.follow(ctx, "evt.kind = exec", "evt.kind", func([]byte) { first.CompareAndSwap(0, int64(time.Since(a.began))) })
		if err != nil {
			if ctx.Err() != nil {
				return 0, fmt.Errorf("subscribe: %w", err)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	defer func() { _ = s.close() }()
	for first.Load() == 0 {
		run, err := b.startStorm(ctx, time.Second, 1)
		if err != nil {
			return 0, err
		}
		if _, _, err := run.wait(); err != nil {
			return 0, err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Duration(first.Load()), nil
}
