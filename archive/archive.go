// Package archive copies what the history has sealed to a directory or to a
// bucket of S3, each segment once and under the name that it has here.
//
// Nothing waits for the receiver: the store asks [Archive.Held], which answers
// from memory, and copies are made by the goroutine of [Archive.Run], one at a
// time. A receiver that hangs is given up after a while, and asked again when it
// has let go. What was copied is remembered in a file beside the segments; where
// that is lost, a segment is copied again, over itself.
//
// Held, Wake and Status may be called from any goroutine, Run once.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// A Segment is a file that is complete and will not change.
type Segment struct {
	Name string    // its path below the directory, with slashes
	Size int64     // in bytes
	Last time.Time // of its last event
}

// Config is what an archive needs to know.
type Config struct {
	// Dir is where the segments are.
	Dir string
	// Target is where they are copied to.
	Target Target
	// Credentials is a file with the keys of a bucket, in the format of AWS; ""
	// stands for the environment. It is read again for each round of copies.
	Credentials string
	// Segments gives those that are sealed now, from memory.
	Segments func() []Segment

	// Stall is how long a copy may make no progress, 30 s if 0. Retry is the
	// pause after a first failure, 1 s if 0: it doubles up to 5 minutes. Look is
	// how often segments are asked for although nobody called Wake, a minute if 0.
	Stall, Retry, Look time.Duration
}

// maxRetry bounds the pause between failures, stuckGrace the time that a copy
// has to return after it was given up.
const (
	maxRetry   = 5 * time.Minute
	stuckGrace = time.Second
)

// Status is what has become of the segments.
type Status struct {
	// Target is the URL.
	Target string
	// Archived are those that are still here, and are copied.
	Archived      int
	ArchivedBytes int64
	// Copied and CopiedBytes count since the agent started.
	Copied      int
	CopiedBytes int64
	// Waiting are those that are not copied yet, WaitingSince the time of the
	// last event of the oldest one.
	Waiting      int
	WaitingBytes int64
	WaitingSince time.Time
	// Missed were removed before they were copied, since the agent started.
	Missed      int
	MissedBytes int64
	// LastCopy is when a copy was last made.
	LastCopy time.Time
	// Error is why no copy can be made now, since FailingSince; "" if it can.
	Error        string
	FailingSince time.Time
}

// An Archive copies segments.
type Archive struct {
	Config
	log     *slog.Logger
	journal *journal
	wake    chan struct{}
	// stuck gets the outcome of a copy that did not return when it was told to.
	// Only Run uses it.
	stuck <-chan error
	// fails counts the failures of a segment. Only Run uses it.
	fails map[string]int

	mu      sync.Mutex
	status  Status           // without what is waiting
	waiting map[string]int64 // what Run last saw waiting, with sizes
}

// Open reads what was copied before. The receiver is not asked: it may be away. A
// disk that cannot be read or written is told of, and ends nothing: then segments
// may be copied again.
func Open(c Config, log *slog.Logger) (*Archive, error) {
	if c.Stall == 0 {
		c.Stall = 30 * time.Second
	}
	if c.Retry == 0 {
		c.Retry = time.Second
	}
	if c.Look == 0 {
		c.Look = time.Minute
	}
	if c.Target.Inside(c.Dir) {
		return nil, fmt.Errorf("archive of %s: %s is inside of it", c.Dir, c.Target.Path)
	}
	j, err := openJournal(filepath.Join(c.Dir, journalName), c.Target.String())
	if err != nil {
		log.Warn("which segments are archived cannot be remembered", "err", err)
	}
	return &Archive{
		Config: c, log: log, journal: j,
		// One call is enough: whoever is woken looks at all there is.
		wake:  make(chan struct{}, 1),
		fails: map[string]int{}, waiting: map[string]int64{},
		status: Status{Target: c.Target.String()},
	}, nil
}

// Held reports whether a segment waits to be copied, so that it should stay.
func (a *Archive) Held(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.journal.has(name)
}

// Wake says that there may be new segments.
func (a *Archive) Wake() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Status says what has become of the segments.
func (a *Archive) Status() Status {
	segments := a.Segments()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	for _, seg := range segments {
		if a.journal.has(seg.Name) {
			s.Archived++
			s.ArchivedBytes += seg.Size
			continue
		}
		s.Waiting++
		s.WaitingBytes += seg.Size
		if s.WaitingSince.IsZero() || seg.Last.Before(s.WaitingSince) {
			s.WaitingSince = seg.Last
		}
	}
	return s
}

// Run copies until ctx ends. It returns soon after, even if a copy hangs.
func (a *Archive) Run(ctx context.Context) error {
	defer a.journal.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
			if pause > 0 {
				a.waitingNow() // a receiver that fails is not asked more often
				continue
			}
		case <-timer.C:
		}
		err := a.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		a.outcome(err)
		if err == nil {
			pause = 0
			timer.Reset(a.Look)
			continue
		}
		pause = min(max(2*pause, a.Retry), maxRetry)
		// Nodes that fail together do not come back together.
		timer.Reset(pause/2 + rand.N(pause/2+1))
	}
}

// round copies what is waiting. A receiver that fails is not asked for the rest.
func (a *Archive) round(ctx context.Context) error {
	waiting := a.waitingNow()
	if len(waiting) == 0 {
		return nil
	}
	to, err := a.Target.receiver(a.Credentials)
	if err != nil {
		return err
	}
	defer to.close()
	var local error
	for _, s := range waiting {
		err := a.copy(ctx, to, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var here *localError
		switch {
		case errors.Is(err, fs.ErrNotExist) && errors.As(err, &here):
			continue // removed meanwhile: the next look finds out
		case errors.As(err, &here):
			a.fails[s.Name]++
			local = err
			continue
		case err != nil:
			a.fails[s.Name]++
			return err
		}
		if err := a.copied(s); err != nil {
			return err
		}
	}
	return local
}

// A localError says that a segment cannot be read. The receiver is not to blame.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// waitingNow gives what is to be copied: the oldest first, but those that have
// failed again and again last. It notes what has gone since the last look.
func (a *Archive) waitingNow() []Segment {
	segments := a.Segments()
	names := make(map[string]bool, len(segments))
	now := make(map[string]int64)
	var list []Segment
	a.mu.Lock()
	for _, s := range segments {
		names[s.Name] = true
		if !a.journal.has(s.Name) {
			list = append(list, s)
			now[s.Name] = s.Size
		}
	}
	missed, bytes := 0, int64(0)
	for name, size := range a.waiting {
		if !names[name] && !a.journal.has(name) {
			missed++
			bytes += size
			delete(a.fails, name)
		}
	}
	a.waiting = now
	a.status.Missed += missed
	a.status.MissedBytes += bytes
	err := a.journal.keep(names)
	a.mu.Unlock()
	if err != nil {
		a.log.Warn("the list of archived segments cannot be shortened", "err", err)
	}
	if missed > 0 {
		a.log.Warn("segments were removed before they were archived", "segments", missed, "bytes", bytes)
	}
	const often = 5
	slices.SortStableFunc(list, func(x, y Segment) int {
		if d := a.fails[x.Name]/often - a.fails[y.Name]/often; d != 0 {
			return d
		}
		return x.Last.Compare(y.Last)
	})
	return list
}

// errStalled ends a copy that makes no progress.
var errStalled = errors.New("stalled")

// copy gives the receiver a segment. It returns when ctx ends or the copy makes
// no progress, whatever the receiver does.
func (a *Archive) copy(ctx context.Context, to receiver, s Segment) error {
	if a.stuck != nil {
		select {
		case <-a.stuck:
			a.stuck = nil
		default:
			return fmt.Errorf("%s does not return from a copy that was given up", a.Target)
		}
	}
	if !filepath.IsLocal(filepath.FromSlash(s.Name)) {
		return &localError{fmt.Errorf("copy %q: not a path below %s", s.Name, a.Dir)}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(a.Stall, func() { cancel(errStalled) })
	defer timer.Stop()
	done := make(chan error, 1) // whoever is given up has somewhere to put it
	go func() {
		f, err := os.Open(filepath.Join(a.Dir, filepath.FromSlash(s.Name)))
		if err != nil {
			done <- &localError{err}
			return
		}
		defer func() { _ = f.Close() }()
		done <- to.put(ctx, s.Name, &source{f: f, size: s.Size, progress: func() {
			if ctx.Err() == nil {
				timer.Reset(a.Stall)
			}
		}})
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		grace := time.NewTimer(stuckGrace)
		defer grace.Stop()
		select {
		case err = <-done:
		case <-grace.C:
			a.stuck, err = done, errStalled
		}
	}
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return fmt.Errorf("copy %s to %s: no progress for %v", s.Name, a.Target, a.Stall)
	}
	return err
}

// copied remembers that a segment was copied.
func (a *Archive) copied(s Segment) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.fails, s.Name)
	delete(a.waiting, s.Name)
	a.status.Copied++
	a.status.CopiedBytes += s.Size
	a.status.LastCopy = time.Now()
	return a.journal.add(s.Name)
}

// outcome tells once when copies begin to fail, and when they succeed again.
func (a *Archive) outcome(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	failing := a.status.Error != ""
	switch {
	case err != nil && !failing:
		a.status.FailingSince = time.Now()
		a.log.Warn("the history cannot be archived", "target", a.Target.String(), "err", err)
	case err == nil && failing:
		a.log.Info("the history is archived again", "target", a.Target.String(), "after", time.Since(a.status.FailingSince).Round(time.Second).String())
		a.status.FailingSince = time.Time{}
	}
	a.status.Error = ""
	if err != nil {
		a.status.Error = err.Error()
	}
}
