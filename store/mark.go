package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"warren/event"
)

// A mark says until when everything that was to be kept is on the disk: a time, in a
// file beside the logs. It has always the same length and is written over itself, so
// that a program that is killed leaves a whole one. The next run tells by it since
// when nobody has kept anything.
//
// It is not synced: after a loss of power it can be as old as what the kernel had not
// written yet, half a minute mostly. What it tells is then longer than it was, never
// shorter.
type mark struct {
	path string

	mu    sync.Mutex
	file  file      // nil until it is written
	last  time.Time // what it says
	begun time.Time // when Recording was called
	over  time.Time // when Ending was
}

const (
	markName   = "recorded"
	markLayout = "2006-01-02T15:04:05.000000000Z07:00\n"
	// markLag is how late events may come to Append.
	markLag = time.Second
)

// read reads what an earlier run has left. The file need not be there.
func (m *mark) read() error {
	b, err := os.ReadFile(m.path)
	if isNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if m.last, err = time.Parse(markLayout, string(b)); err != nil {
		return fmt.Errorf("%s is not a time: %w", m.path, err)
	}
	return nil
}

// write says that everything until t is on the disk.
func (m *mark) write(fsys files, t time.Time) error {
	text := t.UTC().AppendFormat(nil, markLayout)
	if m.file == nil {
		f, err := fsys.open(m.path)
		if errors.Is(err, fs.ErrNotExist) {
			f, err = fsys.create(m.path)
		}
		if err != nil {
			return err
		}
		// What is longer, and no mark, would stay longer.
		if err := f.Truncate(int64(len(text))); err != nil {
			return errors.Join(err, f.Close())
		}
		m.file = f
	}
	if _, err := m.file.WriteAt(text, 0); err != nil {
		return err
	}
	m.last = t
	return nil
}

func (m *mark) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file == nil {
		return nil
	}
	return m.file.Close()
}

// Recording says that from now on everything that is to be kept comes to Append. The
// time since an earlier run was last able to say so is told by an event: of kind lost,
// on the lane agent. To be called once, by any goroutine.
func (s *Store) Recording() {
	now := s.cfg.Now()
	m := &s.mark
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begun = now
	if m.last.IsZero() || !m.last.Before(now) {
		return // the first run, or the clock was set back since
	}
	// It came before all others: 0 is no number, and two notices may have the same.
	gap := &event.Event{Time: m.last, Seq: 1, Data: &event.Lost{Type: "lost", Lane: "agent", Until: now}}
	s.in.mu.Lock()
	s.in.events = append(s.in.events, gap) // there is room for one more
	s.in.mu.Unlock()
}

// Ending says that from now on not everything that is to be kept comes to Append. What
// comes is kept all the same. Any goroutine may call it; what counts is the first time.
func (s *Store) Ending() {
	m := &s.mark
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over.IsZero() {
		m.over = s.cfg.Now()
	}
}

// recorded says that everything that had come to Append at a time is written. It is
// said once a second.
func (s *Store) recorded(now time.Time) {
	m := &s.mark
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.begun.IsZero() || now.Before(m.begun) {
		return
	}
	until := now.Add(-markLag)
	if now.Sub(m.begun) < markLag {
		until = m.begun
	}
	if until = m.within(until); until.Unix() != m.last.Unix() {
		s.marked(until)
	}
}

// within returns t, or when Ending was called if that was before. The caller holds m.mu.
func (m *mark) within(t time.Time) time.Time {
	if !m.over.IsZero() && m.over.Before(t) {
		return m.over
	}
	return t
}

// marked writes the mark. The caller holds s.mark.mu.
func (s *Store) marked(until time.Time) {
	if err := s.mark.write(s.cfg.files, until); err != nil {
		s.failed(dutyMark, err)
		return
	}
	s.works(dutyMark)
}

// ended says that everything was written, and nothing more comes.
func (s *Store) ended(now time.Time) {
	m := &s.mark
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.begun.IsZero() && !now.Before(m.begun) {
		s.marked(m.within(now))
	}
}
