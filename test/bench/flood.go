package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// canaryEvery is how many opens of the flood there are for one that is watched.
const canaryEvery = 1000

// A floodCheck counts what a stream says of the opens of one file.
type floodCheck struct {
	path      string
	delivered atomic.Int64
	lost      atomic.Int64 // opens, wherever they were
}

// floodFields are what a floodCheck reads.
const floodFields = "evt.kind,fd.name,lost.kind,lost.lane,lost.count"

func (c *floodCheck) event(line []byte) {
	if string(text(line, "evt.kind")) == "lost" {
		n, _ := number(line, "lost.count")
		kind := string(text(line, "lost.kind"))
		switch {
		case string(text(line, "lost.lane")) == "name" || string(text(line, "lost.lane")) == "kernel":
			// Of opens of others, too, and of such that nobody asked for.
		case kind == "open" || kind == "file.open":
			c.lost.Add(n)
		}
		return
	}
	if string(text(line, "fd.name")) == c.path {
		c.delivered.Add(1)
	}
}

// A floodResult is what a flood was and what was heard of it.
type floodResult struct {
	opens, watched int64 // of the flood; those that the stream is asked for
	delivered      int64
	lost           int64 // as the stream says
	storm          stormResult
	took           time.Duration
}

// bad is how many events of processes are lost or wrong, once each: those that no
// event came of and those that the kernel had no room for are mostly the same. What
// the client's queue had no room for, since it did not read in time, is not among
// them.
func (r floodResult) bad() int {
	return r.storm.wrong + max(r.storm.missing-r.storm.unread, r.storm.critical)
}

// left is what is neither delivered nor counted as lost.
func (r floodResult) left() int64 { return r.watched - r.delivered - r.lost }

// runFlood opens files on one processor and starts processes on another. Somebody
// asks for opens in the folder of the canaries only or, with all, in that of the
// rest.
func (b *bench) runFlood(ctx context.Context, config string, length time.Duration, all bool) (r floodResult, err error) {
	var files [2]string
	for i, name := range []string{"crowd", "canary"} {
		dir, err := b.folder("flood", name)
		if err != nil {
			return r, err
		}
		files[i] = filepath.Join(dir, "file")
		if err := os.WriteFile(files[i], nil, 0o600); err != nil {
			return r, err
		}
		if err := os.Chown(files[i], nobodysUID, -1); err != nil {
			return r, err
		}
		for above := dir; above != filepath.Dir(b.dir); above = filepath.Dir(above) {
			if err := os.Chmod(above, 0o711); err != nil {
				return r, err
			}
		}
	}
	every := canaryEvery
	check := &floodCheck{path: files[1]}
	if all {
		every, check.path = 0, files[0]
	}
	a, err := b.start(ctx, config)
	if err != nil {
		return r, err
	}
	defer a.stop()
	// Of the flood alone, by who opens: opens of others of which the kernel does not
	// show the file would be among what is lost.
	asked := fmt.Sprintf("%s and fd.name startswith %s/ and user.uid = %d", openTypes, filepath.Dir(check.path), nobodysUID)
	s, err := a.follow(ctx, asked, floodFields, check.event)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	before := int64(0)
	once := func() error {
		before++
		open := exec.CommandContext(ctx, b.load, "opens", "1", "1", "0", check.path)
		open.SysProcAttr = byNobody()
		return open.Run()
	}
	if err := awaitMore(ctx, &check.delivered, 0, once); err != nil {
		return r, err
	}
	before = quiet(check.delivered.Load, before, 300*time.Millisecond)

	first, second, err := twoProcessors()
	if err != nil {
		return r, err
	}
	seconds := int(length.Round(time.Second) / time.Second)
	var out bytes.Buffer
	began := time.Now()
	flood := exec.CommandContext(ctx, b.load, "flood", strconv.Itoa(seconds), files[0], files[1], strconv.Itoa(every))
	flood.Stdout = &out
	flood.SysProcAttr = byNobody()
	flooded := make(chan error, 1)
	go func() { flooded <- onProcessor(first, flood.Run) }()
	stormed := make(chan error, 1)
	go func() {
		stormed <- onProcessor(second, func() (err error) {
			r.storm, err = b.runStorm(ctx, a, length, unlimited)
			return err
		})
	}()
	err = <-flooded
	r.took = time.Since(began)
	if err = errors.Join(err, <-stormed); err != nil {
		return r, err
	}
	var canaries int64
	if _, err := fmt.Sscan(out.String(), &r.opens, &canaries); err != nil {
		return r, fmt.Errorf("the flood printed %q: %w", out.String(), err)
	}
	r.watched = canaries
	if all {
		r.watched = r.opens
	}
	r.opens += canaries
	sum := func() int64 { return check.delivered.Load() + check.lost.Load() }
	quiet(sum, before+r.watched, 10*time.Second)
	// Nothing may come twice.
	time.Sleep(100 * time.Millisecond)
	r.delivered, r.lost = check.delivered.Load()-before, check.lost.Load()
	return r, nil
}

// byNobody runs a program as a user who has no other processes, in a session of its
// own.
func byNobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: nobodysUID, Gid: nobodysUID},
		Setsid:     true, Pdeathsig: syscall.SIGKILL,
	}
}

// twoProcessors are two of those that we may use; the same where there is one.
func twoProcessors() (first, second int, err error) {
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return 0, 0, fmt.Errorf("processors: %w", err)
	}
	var of []int
	for cpu := range len(may) * strconv.IntSize {
		if may.IsSet(cpu) {
			of = append(of, cpu)
		}
	}
	return of[0], of[min(1, len(of)-1)], nil
}

// onProcessor runs what starts processes: they stay on one processor.
func onProcessor(cpu int, run func() error) error {
	done := make(chan error)
	go func() {
		// The thread ends with the goroutine, and nobody else is bound.
		runtime.LockOSThread()
		var only unix.CPUSet
		only.Set(cpu)
		if err := unix.SchedSetaffinity(0, &only); err != nil {
			done <- fmt.Errorf("bind to processor %d: %w", cpu, err)
			return
		}
		done <- run()
	}()
	return <-done
}

// flood is the promise that who asks for little is told all of it while much
// happens, that what is lost is counted exactly, and that processes suffer from
// none of it.
func (b *bench) flood(ctx context.Context) error {
	short := max(b.weight.flood/3, 2*time.Second)
	watched, err := b.runFlood(ctx, "", b.weight.flood, false)
	if err != nil {
		return fmt.Errorf("watched: %w", err)
	}
	all, err := b.runFlood(ctx, "", short, true)
	if err != nil {
		return fmt.Errorf("all: %w", err)
	}
	small, err := b.runFlood(ctx, "rings:\n  bulk: 64KiB\n", short, true)
	if err != nil {
		return fmt.Errorf("small ring: %w", err)
	}
	var bad, events int
	var rates, unread []string
	for i, r := range []floodResult{watched, all, small} {
		bad += r.bad()
		events += 3 * r.storm.started
		unread = append(unread, fmt.Sprintf("%d of %d", r.storm.unread, 3*r.storm.started))
		rates = append(rates, fmt.Sprintf("%.0f and %.0f", float64(r.opens)/r.took.Seconds(), r.storm.rate()))
		if r.bad() > 0 {
			fmt.Fprintf(b.log, "flood: %s: of %d events of processes %d are missing and %d wrong; the stream tells of %d lost on the critical lane and %d not read in time\n",
				[]string{"a directory watched", "all wanted", "all wanted, small ring"}[i], 3*r.storm.started, r.storm.missing, r.storm.wrong, r.storm.critical, r.storm.unread)
		}
		if r.storm.example != "" {
			fmt.Fprintf(b.log, "flood: the first wrong event of a process: %s", r.storm.example)
		}
	}
	// Whether a ring, and a queue, is read in time is a matter of speed, too. Where all
	// opens are wanted, a client may have no time to read of processes.
	b.add(figFloodCritical, b.fast(bad == 0), "0", "%d of %d", bad, events)
	b.add(figFloodUnread, b.fast(watched.storm.unread == 0), "0", "%s; where all opens were wanted %s", unread[0], strings.Join(unread[1:], " and "))
	b.add(figFloodCanaries, watched.delivered == watched.watched && watched.watched > 0, "all", "%d of %d, among %d opens", watched.delivered, watched.watched, watched.opens)
	sum := func(r floodResult) string {
		return fmt.Sprintf("%d - %d - %d = %d", r.watched, r.delivered, r.lost, r.left())
	}
	b.add(figFloodExact, all.left() == 0, "0", "%s", sum(all))
	b.add(figFloodSmall, small.left() == 0, "0", "%s", sum(small))
	b.add(figFloodLost, small.lost > 0, "some", "%.0f %% of %d", 100*float64(small.lost)/float64(small.watched), small.watched)
	b.add(figFloodRate, true, "for comparison", "%s", strings.Join(rates, "; "))
	return nil
}
