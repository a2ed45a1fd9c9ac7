package cli

import (
	"io"
	"sync"
	"time"
)

// A lazyWriter gathers what is written, so that a fast stream does not cost a
// system call a line, and passes it on at most flushDelay later.
type lazyWriter struct {
	out io.Writer

	mu    sync.Mutex
	buf   []byte
	timer *time.Timer
	err   error // the first of out; it is returned by every Write after it
}

const (
	flushDelay = 20 * time.Millisecond
	flushSize  = 64 << 10
)

// Write implements [io.Writer].
func (w *lazyWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.buf) == 0 {
		w.after()
	}
	w.buf = append(w.buf, b...)
	if len(w.buf) >= flushSize {
		w.flush()
	}
	if w.err != nil {
		return 0, w.err
	}
	return len(b), nil
}

// Flush passes on what is left and returns the first error there was.
func (w *lazyWriter) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
	return w.err
}

func (w *lazyWriter) after() {
	if w.timer != nil {
		w.timer.Reset(flushDelay)
		return
	}
	w.timer = time.AfterFunc(flushDelay, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.flush()
	})
}

func (w *lazyWriter) flush() {
	if len(w.buf) > 0 && w.err == nil {
		_, w.err = w.out.Write(w.buf)
	}
	w.buf = w.buf[:0]
}
