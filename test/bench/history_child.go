package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"warren/event"
	"warren/test/traffic"
)

// What is measured runs in processes of its own, so that CPU, memory and caches
// are its own: this program again, with these as its first argument.
const (
	childKeep  = "history-keep"  // KEEPER DIR EVENTS RATE DISTINCT
	childAsk   = "history-ask"   // KEEPER DIR QUESTION
	childCrash = "history-crash" // DIR SEED RATE
)

// historyChild does a child's work, in a child.
func historyChild() {
	if len(os.Args) < 2 {
		return
	}
	var result any
	var err error
	switch os.Args[1] {
	case childKeep:
		result, err = keepEvents(os.Args[2], os.Args[3], number64(os.Args[4]), number64(os.Args[5]), os.Args[6] == "true")
	case childAsk:
		result, err = ask(os.Args[2], os.Args[3], os.Args[4])
	case childCrash:
		err = keepUntilKilled(os.Args[2], number64(os.Args[3]), number64(os.Args[4]))
	default:
		return
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, os.Args[1:], err)
		os.Exit(1)
	}
	os.Exit(0)
}

// number64 reads an argument that this program has written.
func number64(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}

// runChild runs a child and reads its result.
func runChild(ctx context.Context, result any, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%v: %w", args, err)
	}
	return json.Unmarshal(out, result)
}

// kept is what keeping events has cost.
type kept struct {
	Events  int64
	CPU     time.Duration // of the process, from the first event to when all is as it stays
	Wall    time.Duration // until the last event was taken in
	Bytes   int64
	Heap    int64          // the most there was, sampled
	Rows    int64          // of the history, if it is one
	Lost    int64          // events that it had no time for
	Answers map[string]int // how many answer each question, as the events were made
}

// keepEvents gives events to a keeper: rate of them a second, or as fast as
// it can if that is 0.
func keepEvents(name, dir string, events, rate int64, distinct bool) (kept, error) {
	result := kept{Events: events, Answers: map[string]int{}}
	// As an agent outside of clusters does, whose tables are part of its limit.
	debug.SetGCPercent(200)
	debug.SetMemoryLimit(96 * mebi)
	source := traffic.New(traffic.Config{Seed: 1, Distinct: distinct})
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return result, err
	}
	k, err := newKeeper(name, dir)
	if err != nil {
		return result, err
	}
	var peak atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			if now, err := heap(os.Getpid()); err == nil {
				peak.Store(max(peak.Load(), now))
			}
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
			}
		}
	}()
	before, start := cpuTime(), time.Now()
	for n := int64(0); n < events; {
		due := events
		if rate > 0 {
			due = min(events, int64(time.Since(start).Seconds()*float64(rate)))
		}
		for ; n < due; n++ {
			e := source.Connection()
			// Somebody connects to a rare address now and then for a moment.
			if at := n * 1000 / events; at >= 700 && at < 702 && n%25 == 0 {
				e.Data.(*event.Connection).Remote = rareAddr
			}
			for _, q := range questions {
				if q.answers(e) {
					result.Answers[q.name]++
				}
			}
			if err := k.keep(e); err != nil {
				return result, err
			}
			if rate == 0 && n%8192 == 0 {
				if err := k.wait(); err != nil {
					return result, err
				}
			}
		}
		if n < events {
			time.Sleep(time.Millisecond)
		}
	}
	result.Wall = time.Since(start)
	if err := k.finish(); err != nil {
		return result, err
	}
	result.CPU = cpuTime() - before
	close(stop)
	<-stopped
	result.Heap = peak.Load()
	if h, ok := k.(*historyKeeper); ok {
		result.Rows, result.Lost = h.rows()
	}
	if err := k.close(); err != nil {
		return result, err
	}
	result.Bytes, err = diskUse(dir)
	return result, err
}

// cpuTime is what the process has used, in user space and in the kernel.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// answer is what a question has cost.
type answer struct {
	Count int
	Took  time.Duration
}

// ask opens what was kept, none of it in the page cache, and asks.
func ask(name, dir, which string) (answer, error) {
	var result answer
	if err := forgetPages(dir); err != nil {
		return result, err
	}
	start := time.Now()
	k, err := newKeeper(name, dir)
	if err != nil {
		return result, err
	}
	for _, q := range questions {
		if q.name == which {
			result.Count, err = k.count(context.Background(), q)
		}
	}
	result.Took = time.Since(start)
	if err != nil {
		return result, err
	}
	return result, k.close()
}

// forgetPages drops the files of a directory from the page cache.
func forgetPages(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if err := f.Sync(); err != nil {
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}
