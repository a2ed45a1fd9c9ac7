package channel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// appendLine appends an alert as one line, as Falco writes it.
func appendLine(b, alert []byte, format string) []byte {
	if format == formatText {
		var of struct{ Output string }
		if json.Unmarshal(alert, &of) == nil {
			alert = bytes.Map(func(r rune) rune {
				if r == '\n' || r == '\r' {
					return ' '
				}
				return r
			}, []byte(of.Output))
		}
	}
	return append(append(b, alert...), '\n')
}

// A stdout writes to the agent's standard output.
type stdout struct {
	w      io.Writer
	format string
}

func openStdout(cfg *Config, env *Env) (sender, error) {
	if env.Stdout == nil {
		return nil, errors.New("there is no standard output")
	}
	return &stdout{env.Stdout, cfg.Format}, nil
}

func (s *stdout) send(_ context.Context, alerts [][]byte) (int, error) {
	for i, a := range alerts {
		if _, err := s.w.Write(appendLine(nil, a, s.format)); err != nil {
			return i, err
		}
	}
	return len(alerts), nil
}

func (s *stdout) close() {}

// A file is written until it is large: then it becomes PATH.1, that PATH.2, and so
// on. It may be moved or taken away by others at any time.
type file struct {
	cfg  *Config
	f    *os.File
	size int64
}

func openFile(cfg *Config, _ *Env) (sender, error) {
	w := &file{cfg: cfg}
	return w, w.open()
}

func (w *file) open() error {
	f, err := os.OpenFile(w.cfg.Path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(w.cfg.Path), 0o750); err == nil {
			f, err = os.OpenFile(w.cfg.Path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		}
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", w.cfg.Path)
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	w.f, w.size = f, info.Size()
	return nil
}

func (w *file) close() {
	if w.f != nil {
		_ = w.f.Close()
		w.f = nil
	}
}

func (w *file) send(_ context.Context, alerts [][]byte) (int, error) {
	if err := w.current(); err != nil {
		return 0, err
	}
	for i, a := range alerts {
		line := appendLine(nil, a, w.cfg.Format)
		if w.size > 0 && w.size+int64(len(line)) > w.cfg.Size {
			if err := w.rotate(); err != nil {
				return i, err
			}
		}
		if _, err := w.f.Write(line); err != nil {
			// Half a line would be met by whoever reads.
			return i, errors.Join(err, w.f.Truncate(w.size))
		}
		w.size += int64(len(line))
	}
	return len(alerts), nil
}

// current opens the file again where what is open is no longer it.
func (w *file) current() error {
	if w.f != nil {
		have, err := w.f.Stat()
		if err != nil {
			return err
		}
		want, err := os.Stat(w.cfg.Path)
		if err == nil && os.SameFile(have, want) {
			w.size = have.Size()
			return nil
		}
		w.close()
	}
	return w.open()
}

func (w *file) rotate() error {
	w.close()
	name := func(i int) string {
		if i == 0 {
			return w.cfg.Path
		}
		return fmt.Sprintf("%s.%d", w.cfg.Path, i)
	}
	for i := w.cfg.Keep - 1; i >= 0; i-- {
		if err := os.Rename(name(i), name(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return w.open()
}
