package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	figRingExact = "64 KiB ring: generated - delivered - counted as lost"
	figRingLost  = "64 KiB ring: lost, so that the above means something"
)

// smallRingConfig makes the ring of process events 64 KiB, in which a storm
// must lose.
const smallRingConfig = "rings:\n  critical: 64KiB\n"

// A ringCount is what a stream delivered and said was lost, by kind.
type ringCount struct {
	mu              sync.Mutex
	delivered, lost [truths]int64
	other           int64 // lost of no kind that is counted
}

func (c *ringCount) event(line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kind := string(text(line, "evt.kind"))
	counts := &c.delivered
	n := int64(1)
	if kind == "lost" {
		counts = &c.lost
		n, _ = number(line, "lost.count")
		_, kind, _ = strings.Cut(string(text(line, "lost.kind")), ".")
	}
	for i, name := range truthNames {
		if name == kind {
			counts[i] += n
			return
		}
	}
	c.other += n
}

func (c *ringCount) read() (delivered, lost [truths]int64, other int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.delivered, c.lost, c.other
}

// smallRing wants every process event of the whole machine, delivered or
// counted, to be one that the kernel counted too.
func (b *bench) smallRing(ctx context.Context) (err error) {
	a, err := b.start(ctx, smallRingConfig)
	if err != nil {
		return err
	}
	defer a.stop()
	kernel, err := newTruth()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kernel.Close()) }()
	var stream ringCount
	s, err := a.follow(ctx, "evt.kind in (fork, exec, exit)", "evt.kind", stream.event)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()

	before, err := settled(ctx, kernel, &stream)
	if err != nil {
		return err
	}
	run, err := b.startStorm(ctx, b.weight.smallRing, unlimited)
	if err != nil {
		return err
	}
	resume := a.stall(400*time.Millisecond, 100*time.Millisecond)
	_, _, err = run.wait()
	resume()
	if err != nil {
		return err
	}
	after, err := settled(ctx, kernel, &stream)
	if err != nil {
		return err
	}
	exact := after.other == before.other
	var parts []string
	var lost, generated int64
	for i, name := range truthNames {
		g := after.generated[i] - before.generated[i]
		d := after.delivered[i] - before.delivered[i]
		l := after.lost[i] - before.lost[i]
		parts = append(parts, fmt.Sprintf("%s %d - %d - %d = %d", name, g, d, l, g-d-l))
		exact = exact && g == d+l
		lost, generated = lost+l, generated+g
	}
	b.add(figRingExact, exact, "0", "%s", strings.Join(parts, "; "))
	b.add(figRingLost, lost > 0, "some", "%.0f %% of %d", 100*float64(lost)/float64(generated), generated)
	return nil
}

// stall stops the agent's process for a moment again and again, as a machine
// does that has more to run than it can: however fast its reader is, the ring
// overflows. It goes on until the returned function is called.
func (a *agent) stall(every, moment time.Duration) (resume func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(every):
			}
			_ = a.cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(moment)
			_ = a.cmd.Process.Signal(syscall.SIGCONT)
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}

// A reading is what kernel and stream say at a moment when both are at rest.
type reading struct {
	generated, delivered, lost [truths]int64
	other                      int64
}

// settled reads when the machine starts no process for long enough that the
// agent has told of all before.
func settled(ctx context.Context, kernel *truth, stream *ringCount) (r reading, err error) {
	take := func() (r reading, err error) {
		r.delivered, r.lost, r.other = stream.read()
		r.generated, err = kernel.read()
		return r, err
	}
	last, err := take()
	if err != nil {
		return r, err
	}
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; {
		// Losses are told of once a second.
		time.Sleep(1500 * time.Millisecond)
		now, err := take()
		if err != nil {
			return r, err
		}
		if now == last {
			return now, nil
		}
		last = now
	}
	return r, errors.New("the machine starts processes all the time: events cannot be counted exactly")
}
