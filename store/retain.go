package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"warren/event"
)

// retainEvery is how often what has become too old is looked for.
const retainEvery = time.Minute

// sealLoop seals logs and removes what is too much, until ctx ends. It is a goroutine
// of its own: neither delays what is written.
func (s *Store) sealLoop(ctx context.Context) {
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	s.inspect(ctx)
	for {
		s.sealAndRetain(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.rotated:
		}
	}
}

func (s *Store) sealAndRetain(ctx context.Context) {
	switch err := s.sealAll(ctx); {
	case err == nil:
		s.works(dutySeal)
	case ctx.Err() == nil:
		s.failed(dutySeal, err)
	}
	if err := s.retain(); err != nil {
		s.failed(dutyRemove, err)
	} else {
		s.works(dutyRemove)
	}
}

// inspect looks at each sealed file that an earlier run left: what cannot be read is
// said at the start, and Status knows of the rest.
func (s *Store) inspect(ctx context.Context) {
	s.mu.Lock()
	files := s.sealed.all()
	s.mu.Unlock()
	for _, f := range files {
		if ctx.Err() != nil {
			return
		}
		file, err := s.openFile(f)
		switch {
		case err == nil:
			_ = file.close() // read only
		case !isNotExist(err) && !passing(err):
			s.unreadable(f, err)
		}
	}
}

// A group is what was sealed together: it refers to one table of processes, and goes
// as one.
type group struct {
	seq   uint64
	files []*sealed
	size  int64
	last  time.Time
}

// groups returns what is sealed, oldest first. The caller holds s.mu.
func (s *Store) groups() []group {
	var l []group
	for _, f := range s.sealed.files {
		if len(l) == 0 || l[len(l)-1].seq != f.Seq {
			l = append(l, group{seq: f.Seq})
		}
		g := &l[len(l)-1]
		g.files = append(g.files, f)
		f.mu.Lock()
		g.size += f.Size
		f.mu.Unlock()
		// A table's rows are older than what refers to them.
		if f.Kind != event.KindProcess && f.Last.After(g.last) {
			g.last = f.Last
		}
	}
	for i := range l {
		if l[i].last.IsZero() {
			l[i].last = l[i].files[0].Last
		}
	}
	slices.SortStableFunc(l, func(a, b group) int { return cmp.Compare(a.seq, b.seq) })
	return l
}

// retain removes what is more than is to be kept, oldest first.
func (s *Store) retain() error {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	s.mu.Lock()
	groups := s.groups()
	total, newest := int64(0), time.Time{}
	for _, g := range groups {
		total += g.size
		if g.last.After(newest) {
			newest = g.last
		}
	}
	for _, g := range s.segments {
		g.mu.Lock()
		total += g.size
		g.mu.Unlock()
	}
	s.mu.Unlock()
	oldest := s.age(newest).Add(-s.cfg.MaxAge)
	var errs []error
	for _, g := range groups {
		if total <= s.cfg.MaxBytes && !g.last.Before(oldest) {
			continue
		}
		if held := s.held(g); len(held) > 0 {
			if total <= s.cfg.MaxBytes+s.cfg.HeldBytes {
				continue
			}
			s.giveUp(held)
		}
		errs = append(errs, s.removeGroup(g))
		total -= g.size
	}
	// What could not be sealed must not fill the disk either.
	for total > s.cfg.MaxBytes+s.cfg.HeldBytes {
		g := s.dropLog()
		if g == nil {
			break
		}
		total -= g.size
		s.dropped(g)
		errs = append(errs, os.Remove(g.path), g.close())
	}
	return errors.Join(errs...)
}

// held returns those of a group that somebody still needs, and can read.
func (s *Store) held(g group) []*sealed {
	if s.cfg.Held == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(g.files), func(f *sealed) bool {
		return f.unread() != nil || !s.cfg.Held(f.Name)
	})
}

// giveUp counts segments that are removed though somebody needs them.
func (s *Store) giveUp(held []*sealed) {
	s.mu.Lock()
	first := s.state.givenUp == 0
	for _, f := range held {
		s.state.givenUp++
		s.state.givenUpBytes += f.Size
	}
	s.mu.Unlock()
	if first {
		s.log.Warn("history: segments are removed that have not been archived: there is no room for more", "dir", s.cfg.Dir, "maxBytes", s.cfg.MaxBytes, "heldBytes", s.cfg.HeldBytes)
	}
}

// dropped tells of a log that is removed though it could not be sealed: what it has is
// in the history no more.
func (s *Store) dropped(g *segment) {
	g.mu.Lock()
	events, size := g.total.events, g.size
	g.mu.Unlock()
	s.mu.Lock()
	s.state.givenUp++
	s.state.givenUpBytes += size
	s.mu.Unlock()
	s.log.Warn("history: a log is removed that could not be sealed: there is no room for more", "path", g.path, "events", events, "bytes", size)
}

// removeGroup removes what was sealed together; events before the processes that they
// refer to, so that a crash leaves none without. Whoever reads them goes on.
func (s *Store) removeGroup(g group) error {
	gone := map[*sealed]bool{}
	for _, f := range g.files {
		gone[f] = true
	}
	s.opening.Lock()
	defer s.opening.Unlock()
	s.mu.Lock()
	s.sealed.remove(gone)
	s.state.pruned += len(g.files)
	s.mu.Unlock()
	files := slices.Clone(g.files)
	slices.SortStableFunc(files, func(a, b *sealed) int {
		return cmp.Compare(boolInt(a.Kind == event.KindProcess), boolInt(b.Kind == event.KindProcess))
	})
	var errs []error
	for _, f := range files {
		path := filepath.Join(s.cfg.Dir, filepath.FromSlash(f.Name))
		errs = append(errs, removeIfThere(path))
		_ = os.Remove(filepath.Dir(path)) // the day's directory, where it is empty now
	}
	return errors.Join(errs...)
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// dropLog takes the oldest log that nobody writes to out of the history; nil if there
// is none.
func (s *Store) dropLog() *segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.segments) < 2 {
		return nil
	}
	g := s.segments[0]
	s.segments = s.segments[1:]
	return g
}

// Pruned is what [Store.Prune] removed.
type Pruned struct {
	Segments int
	Bytes    int64
	// Before is the time before which nothing is left. Segments go as a whole: it is
	// earlier than what was asked for where one has later events too.
	Before time.Time
}

// Prune removes all segments whose events are older than a time, whoever needs them.
func (s *Store) Prune(ctx context.Context, before time.Time) (Pruned, error) {
	// A disk that is too full to seal on is one to prune all the same.
	sealed := s.Seal(ctx)
	if ctx.Err() != nil {
		return Pruned{}, fmt.Errorf("prune: %w", sealed)
	}
	s.sealing.Lock()
	defer s.sealing.Unlock()
	s.mu.Lock()
	groups := s.groups()
	s.mu.Unlock()
	p := Pruned{Before: before}
	var errs []error
	if sealed != nil {
		errs = append(errs, fmt.Errorf("prune: what is not sealed stays: %w", sealed))
	}
	for _, g := range groups {
		if !g.last.Before(before) {
			for _, f := range g.files {
				if f.Kind != event.KindProcess && f.First.Before(p.Before) {
					p.Before = f.First
				}
			}
			continue
		}
		if err := s.removeGroup(g); err != nil {
			errs = append(errs, err)
			continue
		}
		p.Segments += len(g.files)
		p.Bytes += g.size
	}
	return p, errors.Join(errs...)
}

// KindStatus is what is kept of a kind.
type KindStatus struct {
	Kind     event.Kind // KindProcess: the processes that events refer to
	Segments int        // sealed
	Rows     int64      // in them
	Events   uint64     // that those stand for
	Bytes    int64      // that they take
	// Plain is how many bytes their values have, one by one: by Bytes, how well they are
	// packed.
	Plain       int64
	First, Last time.Time
}

// kindStatus returns what is sealed, by kind. The caller holds s.mu.
func (s *Store) kindStatus() []KindStatus {
	byKind := map[event.Kind]*KindStatus{}
	for _, f := range s.sealed.files {
		k := byKind[f.Kind]
		if k == nil {
			k = &KindStatus{Kind: f.Kind, First: time.Unix(0, math.MaxInt64)}
			byKind[f.Kind] = k
		}
		f.mu.Lock()
		k.Segments++
		k.Rows += f.Rows
		k.Events += f.Events
		k.Bytes += f.Size
		k.Plain += f.Plain
		f.mu.Unlock()
		if f.First.Before(k.First) {
			k.First = f.First
		}
		if f.Last.After(k.Last) {
			k.Last = f.Last
		}
	}
	var l []KindStatus
	for _, k := range event.AllKinds.List() {
		if byKind[k] != nil {
			l = append(l, *byKind[k])
		}
	}
	return l
}
