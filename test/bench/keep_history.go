package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"warren/event"
	"warren/filter"
	"warren/store"
)

// historyKeeper keeps events as the agent does.
type historyKeeper struct {
	s         *store.Store
	stop      context.CancelFunc
	ended     chan error
	last      uint64
	processes atomic.Pointer[[]*event.Process]
}

func newHistoryKeeper(dir string) (*historyKeeper, error) { return openHistory(dir, false) }

// openHistory opens the history of a directory. Small segments are sealed every
// few seconds by what a crash test gives.
func openHistory(dir string, small bool) (*historyKeeper, error) {
	k := &historyKeeper{ended: make(chan error, 1)}
	c := store.Config{Dir: dir, MaxBytes: 64 << 30, MaxAge: 1000 * 24 * time.Hour, Version: "bench", Living: k.alive}
	if small {
		c.SegmentBytes = 1 << 20
	}
	var err error
	if k.s, err = store.Open(c, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	k.stop = stop
	go func() { k.ended <- k.s.Run(ctx) }()
	return k, nil
}

// living says which processes there were when the history began.
func (k *historyKeeper) living(ps []*event.Process) { k.processes.Store(&ps) }

func (k *historyKeeper) alive() iter.Seq[*event.Process] {
	if ps := k.processes.Load(); ps != nil {
		return slices.Values(*ps)
	}
	return slices.Values[[]*event.Process](nil)
}

func (k *historyKeeper) keep(e *event.Event) error {
	k.s.Append(e)
	k.last = e.Seq
	return nil
}

// wait returns when all that was kept can be read: for whoever gives events
// faster than any machine makes them.
func (k *historyKeeper) wait() error {
	_, err := k.s.Sync(context.Background(), k.last)
	return err
}

func (k *historyKeeper) finish() error {
	if err := k.wait(); err != nil {
		return err
	}
	if err := k.s.Seal(context.Background()); err != nil {
		return err
	}
	if n := k.s.Status().Failures; n > 0 {
		return fmt.Errorf("the history failed %d times", n)
	}
	return nil
}

// rows gives how many rows there are, and how many events there was no time for.
func (k *historyKeeper) rows() (rows, lost int64) {
	st := k.s.Status()
	return int64(st.Rows), int64(st.Lost)
}

// unreadable gives how many segments could not be read, and how many are sealed.
func (k *historyKeeper) unreadable() (bad, sealed int64) {
	st := k.s.Status()
	return st.Torn.Unreadable + int64(st.Unreadable), int64(len(k.s.Segments()))
}

func (k *historyKeeper) count(ctx context.Context, q question) (n int, err error) {
	p, err := filter.Compile(q.filter)
	if err != nil {
		return 0, err
	}
	for e, err := range k.s.Query(ctx, store.Query{Filter: p}) {
		if err != nil {
			return n, err
		}
		n += int(e.Times())
	}
	return n, nil
}

// each gives every event since a time.
func (k *historyKeeper) each(ctx context.Context, since time.Time, f func(*event.Event)) error {
	for e, err := range k.s.Query(ctx, store.Query{Since: since}) {
		if err != nil {
			return err
		}
		f(e)
	}
	return nil
}

func (k *historyKeeper) close() error {
	k.stop()
	return errors.Join(<-k.ended, k.s.Close())
}
