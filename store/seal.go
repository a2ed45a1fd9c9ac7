package store

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"warren/event"
)

// Sealing makes one Parquet file for each kind of events in a log, and one of the
// processes that they refer to. While it goes on, and until it is done, the log is
// what is asked; a log that is still there at a start is what is true, and whatever
// was sealed of it is made again. So nothing is there twice, and nothing is not:
//
//	write   NAME.parquet.tmp, fsync
//	rename  to NAME.parquet, for each kind; fsync of the directories
//	swap    the files for the log, in memory
//	remove  the log, fsync of its directory
const tmpSuffix = ".tmp"

// sealStep is called before each step of sealing, by its name; tests have one that
// fails.
type sealStep func(step string) error

// Seal seals everything that was appended so far, and returns when that is done.
// What is appended meanwhile goes to a new log.
func (s *Store) Seal(ctx context.Context) error {
	s.flush(false)
	if err := s.writeOut(); err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	if g := s.active(); g != nil && g.rowCount() > 0 {
		if err := s.nextSegment(); err != nil {
			return fmt.Errorf("seal: %w", err)
		}
		s.sync(g)
	}
	return s.sealAll(ctx)
}

func (g *segment) rowCount() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total.rows
}

// sealAll seals every log but the one that is written to, oldest first.
func (s *Store) sealAll(ctx context.Context) error {
	s.sealing.Lock()
	defer s.sealing.Unlock()
	var errs []error
	tried := map[*segment]bool{}
	for ctx.Err() == nil {
		s.mu.Lock()
		var g *segment
		for i, x := range s.segments {
			if !tried[x] && !(i == len(s.segments)-1 && x.own) {
				g = x
				break
			}
		}
		s.mu.Unlock()
		if g == nil {
			return errors.Join(errs...)
		}
		tried[g] = true
		if err := s.seal(ctx, g); err != nil {
			errs = append(errs, fmt.Errorf("seal %s: %w", g.path, err))
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

func (s *Store) sealStep(step string) error {
	if s.cfg.sealStep == nil {
		return nil
	}
	return s.cfg.sealStep(step)
}

// seal seals one log, to which nobody writes.
func (s *Store) seal(ctx context.Context, g *segment) (err error) {
	if !g.hold() {
		return nil
	}
	defer g.release()
	if g.pending() > 0 {
		return errors.New("it is not written yet")
	}
	// As long as the log is there, it is what is true: it must not come out of a crash
	// with less than the files have.
	if err := g.sync(); err != nil {
		return err
	}
	var files []*sealed
	done := false
	defer func() {
		for _, f := range files {
			if !done && s.cfg.sealStep == nil { // a test that fails here dies here
				err = errors.Join(err, removeIfThere(filepath.Join(s.cfg.Dir, f.Name)), removeIfThere(filepath.Join(s.cfg.Dir, f.Name+tmpSuffix)))
			}
		}
	}()
	for _, k := range event.AllKinds.List() {
		if event.LayoutOf(k) == nil {
			continue
		}
		f, err := s.sealKind(ctx, g, k)
		if f != nil {
			files = append(files, f)
		}
		if err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := s.sealStep("rename " + f.Kind.String()); err != nil {
			return err
		}
		path := filepath.Join(s.cfg.Dir, f.Name)
		if err := os.Rename(path+tmpSuffix, path); err != nil {
			return err
		}
	}
	if err := s.sealStep("sync"); err != nil {
		return err
	}
	for _, f := range files {
		// The file's directory may be new, and the one above it.
		dir := filepath.Dir(filepath.Join(s.cfg.Dir, f.Name))
		for range 3 {
			if err := s.cfg.files.syncDir(dir); err != nil {
				return err
			}
			dir = filepath.Dir(dir)
		}
	}
	if err := s.sealStep("swap"); err != nil {
		return err
	}
	s.mu.Lock()
	for i, x := range s.segments {
		if x == g {
			s.segments = append(s.segments[:i:i], s.segments[i+1:]...)
			break
		}
	}
	s.sealed.add(files)
	s.mu.Unlock()
	done = true
	if err := s.sealStep("remove"); err != nil {
		return err
	}
	if err := errors.Join(os.Remove(g.path), g.close()); err != nil {
		return err
	}
	if err := s.cfg.files.syncDir(filepath.Dir(g.path)); err != nil {
		return err
	}
	if len(files) > 0 && s.cfg.Sealed != nil {
		s.cfg.Sealed()
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !isNotExist(err) {
		return err
	}
	return nil
}

// sealKind writes the temporary file of a kind. It returns nil where the log has no row
// of it.
func (s *Store) sealKind(ctx context.Context, g *segment, k event.Kind) (out *sealed, err error) {
	frames := g.list(func(f *frame) bool { return f.typ == frameBatch && f.kind == k && f.rows > 0 })
	living, err := g.living(k)
	if err != nil {
		return nil, err
	}
	if len(frames) == 0 && living == "" {
		return nil, nil
	}
	var t frameInfo
	for i := range frames {
		f := &frames[i]
		if i == 0 {
			t = f.frameInfo
			continue
		}
		t.minTime, t.maxTime = min(t.minTime, f.minTime), max(t.maxTime, f.maxTime)
		t.minSeq, t.maxSeq = min(t.minSeq, f.minSeq), max(t.maxSeq, f.maxSeq)
		t.events += f.events
	}
	if len(frames) == 0 {
		t.minTime, t.maxTime = g.began.UnixNano(), g.began.UnixNano()
	}
	// The name needs no more than the frames say: bounds of all times, also of those
	// at which rows ended.
	f := newSealed(k, s.cfg.Node, t.minTime, t.maxTime, g.seq)
	f.own, f.minSeq, f.maxSeq, f.Events = g.own, t.minSeq, t.maxSeq, t.events
	path := filepath.Join(s.cfg.Dir, f.Name)
	if err := s.sealStep("write " + k.String()); err != nil {
		return f, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return f, err
	}
	file, err := os.OpenFile(path+tmpSuffix, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	keys := s.keys(k, g)
	if living != "" {
		keys[keyLiving] = living
	}
	keys[keyEvents] = strconv.FormatUint(t.events, 10)
	keys[keyMinSeq], keys[keyMaxSeq] = strconv.FormatUint(t.minSeq, 10), strconv.FormatUint(t.maxSeq, 10)
	b, err := s.sealRows(ctx, g, k, frames, file, keys)
	if err != nil {
		return f, err
	}
	if err := file.Sync(); err != nil {
		return f, err
	}
	if err := s.sealStep("written " + k.String()); err != nil {
		return f, err
	}
	// What cannot be read again must not replace what can.
	check, err := openSealed(path + tmpSuffix)
	if err != nil {
		return f, fmt.Errorf("what was written cannot be read: %w", err)
	}
	defer check.close() //nolint:errcheck // read only
	if check.rows != b.total {
		return f, corrupt("%d rows were written as %d", b.total, check.rows)
	}
	f.describe(check)
	return f, nil
}

// sealRows writes a file of some frames of a log.
func (s *Store) sealRows(ctx context.Context, g *segment, k event.Kind, frames []frame, file *os.File, keys map[string]string) (*groupBuilder, error) {
	w := bufio.NewWriterSize(file, 256<<10)
	damaged := map[int]bool{}
	for {
		b := newGroupBuilder(w, event.LayoutOf(k), g.host, keys)
		err := func() error {
			for i := range frames {
				if err := ctx.Err(); err != nil {
					return err
				}
				if damaged[i] {
					continue
				}
				if err := b.add(g, i, &frames[i]); err != nil {
					return err
				}
			}
			if err := b.close(); err != nil {
				return err
			}
			return w.Flush()
		}()
		bad, ok := errors.AsType[badFrame](err)
		if !ok {
			return b, err
		}
		// The disk has lost it since it was written: nobody can have it back. The file
		// is begun again, without it.
		damaged[int(bad)] = true
		s.damagedFrame(g, &frames[bad], fmt.Errorf("read %s at %d: %w", g.path, frames[bad].off, errFrame))
		if err := file.Truncate(0); err != nil {
			return nil, err
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		w.Reset(file)
	}
}

// keys are what a file says of itself.
func (s *Store) keys(k event.Kind, g *segment) map[string]string {
	keys := fileKeys(k, g.host, s.cfg.Node, s.cfg.Version)
	keys[keySource] = strconv.FormatUint(g.seq, 10)
	return keys
}

// fileKeys are those of any file with rows of a kind.
func fileKeys(k event.Kind, host *event.Host, node, version string) map[string]string {
	return map[string]string{
		keyFormat: strconv.Itoa(parquetVersion), keyKind: k.String(), keyNode: node, keyVersion: version,
		keySchema:   fmt.Sprintf("%08x", schemaHash(event.LayoutOf(k))),
		keyHostname: host.Name(), keyK8sNode: host.Node(), keyBootID: host.BootID(),
	}
}

// living returns what the log's tables say, for the file of its processes: the
// numbers of the snapshots that lived when it began, and when that was written
// down again, with commas between.
func (g *segment) living(k event.Kind) (string, error) {
	if k != event.KindProcess {
		return "", nil
	}
	var texts []string
	for _, f := range g.list(func(f *frame) bool { return f.typ == frameTable }) {
		payload, err := g.payload(&f)
		if errors.Is(err, errFrame) {
			continue
		}
		if err != nil {
			return "", err
		}
		texts = append(texts, base64.StdEncoding.EncodeToString(payload))
	}
	return strings.Join(texts, ","), nil
}

// nameTime writes a time for the name of a file: so that names sort by it.
func nameTime(ns int64) string { return fmt.Sprintf("%019d", max(ns, 0)) }

func dateOf(ns int64) string {
	if ns == math.MaxInt64 || ns < 0 {
		ns = 0
	}
	return time.Unix(0, ns).UTC().Format(time.DateOnly)
}
