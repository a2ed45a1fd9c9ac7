package process

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"warren/event"
)

// A window is the time while existing processes are read. The kernel reads a
// process and writes its record in two steps, between which the process may do
// something that is told first. What a record tells of such a process is older
// than what is known: the window remembers what was told, and corrects it.
//
// The zero value is closed. Opened and closed by Snapshot, used by the reader.
type window struct {
	opened atomic.Bool // told is not nil: spares the reader the lock, all its life but for a moment

	mu   sync.Mutex
	told map[event.Key]*news // nil while closed
}

// news is what was told of a process since the window was opened.
type news struct {
	image bool // an exec: everything
	ended bool
	creds *event.Creds
	ns    *event.Namespaces
}

func (w *window) open() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = map[event.Key]*news{}
	w.opened.Store(true)
}

func (w *window) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = nil
	w.opened.Store(false)
}

// endWait bounds how long the window stays open for what was submitted before reading
// failed.
const endWait = 10 * time.Second

// while opens the window, reads what exists, and closes it when the records of that
// have been decoded: read returns so if it succeeds. If it does not, some are still on
// their way, and sync waits for them, though ctx may have ended.
func (w *window) while(ctx context.Context, read, sync func(context.Context) error) error {
	w.open()
	defer w.close()
	err := read(ctx)
	if err != nil {
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWait)
		defer cancel()
		_ = sync(wait) // where the road has ended, no record comes any more
	}
	return err
}

// note remembers news of a process if the window is open.
func (w *window) note(k event.Key, change func(*news)) {
	if !w.opened.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told == nil {
		return
	}
	n := w.told[k]
	if n == nil {
		n = &news{}
		w.told[k] = n
	}
	change(n)
}

// correct brings what was read of an existing process up to date. It returns
// false if all of it was told already.
func (w *window) correct(p *event.Process) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.told[p.Key]
	if n == nil {
		return true
	}
	if n.creds != nil {
		p.Creds = *n.creds
	}
	if n.ns != nil {
		p.Namespaces = *n.ns
	}
	return !n.image && !n.ended
}
