package audit

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"warren/internal/wholefile"
)

// LogConfig says which log is followed.
type LogConfig struct {
	// Path is the file that an API server writes, an event a line.
	Path string
	// State is a file that keeps how far the log was read.
	State string
	// Look is how often the log is looked at; 0 stands for the default, 250 ms.
	Look time.Duration
}

// A Log follows a log across rotation, be it renamed or emptied. It begins where it
// was when another one of the same state ended: nothing is read twice, and nothing
// left out, but that one which was killed may have told what it read in the last
// second. The first one begins at the log's end.
type Log struct {
	in  *Intake
	cfg LogConfig
	log *slog.Logger
	old *regexp.Regexp // names of what the log was renamed to

	f       *os.File // nil as long as there is none
	at      position
	size    int64 // of the file when its head was last compared
	buf     []byte
	saved   position
	savedAt time.Time
	unsaved bool
	told    string // the error that was logged last

	mu    sync.Mutex
	state LogState
}

// LogState is how far a log was read.
type LogState struct {
	File   string // that is read; "" for none
	Offset int64
	// Gaps is how often something is missing: the log was emptied before it was read,
	// or taken away while no agent ran.
	Gaps  uint64
	Error string // why it cannot be read
}

// A position is a place in a file that is known again under another name.
type position struct {
	Path   string `json:"path"` // of the log, not of the file
	Dev    uint64 `json:"dev"`
	Ino    uint64 `json:"ino"`  // 0 for a log that was not there
	Head   string `json:"head"` // hash of the first bytes: another file can get the number
	Offset int64  `json:"offset"`
	// Changed is when the file was last written to, or was looked for.
	Changed time.Time `json:"changed"`
}

// headSize is how many bytes a file is known again by.
const headSize = 256

const (
	defaultLook = 250 * time.Millisecond
	saveEvery   = time.Second
	// tick is how much the clock of files can be behind.
	tick  = 10 * time.Millisecond
	chunk = 256 << 10
)

// NewLog makes a follower of a log, which need not be there.
func NewLog(in *Intake, cfg LogConfig, log *slog.Logger) *Log {
	cfg.Look = cmp.Or(cfg.Look, defaultLook)
	return &Log{in: in, cfg: cfg, log: log, old: oldNames(filepath.Base(cfg.Path)), buf: make([]byte, chunk)}
}

// State returns how far the log was read.
func (l *Log) State() LogState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// Run follows the log until ctx ends.
func (l *Log) Run(ctx context.Context) error {
	defer func() {
		l.save(true)
		l.close()
	}()
	first := true
	idle := 0 // looks at a file that is the log no more, and to which nothing was added
	for ctx.Err() == nil {
		if first {
			err := l.begin()
			first = err != nil
			l.failed(err)
		}
		more, at := false, l.at.Offset
		if l.f != nil {
			var err error
			more, err = l.read(ctx)
			l.failed(err)
		}
		if more || l.at.Offset != at {
			idle = 0
		} else if !first && l.replaced() {
			// Who had it open when it was renamed may have written a last line.
			if idle++; idle > 1 || l.f == nil {
				idle = 0
				err := l.next(ctx)
				l.failed(err)
				more = err == nil
			}
		}
		l.save(false)
		if more {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(l.cfg.Look):
		}
	}
	return nil
}

// failed says why the log cannot be read, once.
func (l *Log) failed(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	l.mu.Lock()
	l.state.Error = text
	l.mu.Unlock()
	if text != l.told && text != "" {
		l.log.Warn("the audit log cannot be read", "path", l.cfg.Path, "err", err)
	}
	l.told = text
}

// gap says that something is missing, nobody knows how much.
func (l *Log) gap(why string) {
	l.mu.Lock()
	l.state.Gaps++
	l.mu.Unlock()
	l.in.bad(errors.New(why))
}

// begin opens the file that was read last, or the log.
func (l *Log) begin() error {
	was, err := l.load()
	if err != nil {
		return err
	}
	if was == nil {
		return l.open(l.cfg.Path, true)
	}
	if was.Ino == 0 {
		return l.after(was.Changed)
	}
	if found, err := l.reopen(was); found || err != nil {
		return err
	}
	l.gap("the log that was read is not there any more: " + l.cfg.Path)
	return l.after(was.Changed)
}

// reopen goes on at a position in its file, or, where that is gone or was emptied, in
// a copy of what it was. It reports whether there is one of them.
func (l *Log) reopen(was *position) (bool, error) {
	files, err := l.files()
	if err != nil {
		return false, err
	}
	for _, same := range []bool{true, false} {
		for _, f := range files {
			if f.is(was) != same || f.info.Size() < was.Offset || !same && was.Offset == 0 {
				continue
			}
			if err := l.open(f.path, false); err != nil {
				if same {
					return false, err
				}
				continue
			}
			if l.f != nil && l.head(was.Offset) == was.Head {
				l.at.Offset, l.at.Head = was.Offset, was.Head
				return true, nil
			}
			l.close()
		}
	}
	return false, nil
}

// copied goes on in the copy that was made of a file before it was emptied, and
// reports whether there is one.
func (l *Log) copied() bool {
	f, at := l.f, l.at
	l.f = nil
	if found, err := l.reopen(&at); err == nil && found {
		f.Close()
		return true
	}
	l.close()
	l.f, l.at = f, at
	return false
}

// after opens the first file that was written to after a moment, or the log.
func (l *Log) after(t time.Time) error {
	files, err := l.files()
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.info.ModTime().After(t) {
			return l.open(f.path, false)
		}
	}
	return l.open(l.cfg.Path, false)
}

// open opens a file, at its begin or behind its last line. One that is not there is
// no error.
func (l *Log) open(path string, end bool) error {
	l.close()
	l.at = position{Path: l.cfg.Path}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		l.at.Changed = time.Now().Add(-tick) // it may come and be renamed before anybody looks
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", path)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("open the log: %w", err)
	}
	l.f, l.size = f, 0
	l.at.Dev, l.at.Ino = identityOf(info)
	l.at.Changed = info.ModTime()
	if end {
		l.at.Offset = l.lastLine(info.Size())
	}
	l.at.Head = l.head(l.at.Offset)
	return nil
}

func (l *Log) close() {
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

// lastLine returns where the line begins that is not complete yet, up to the size.
func (l *Log) lastLine(size int64) int64 {
	for end := size; end > 0; {
		b := l.buf[:min(end, chunk)]
		n, _ := l.f.ReadAt(b, end-int64(len(b)))
		if n < len(b) {
			return size // it was emptied meanwhile: read sees that
		}
		if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
			return end - int64(len(b)) + int64(i) + 1
		}
		end -= int64(len(b))
	}
	return 0
}

// head returns by what the file is known again, up to an offset.
func (l *Log) head(offset int64) string {
	b := make([]byte, min(offset, headSize))
	n, _ := l.f.ReadAt(b, 0)
	sum := sha256.Sum256(b[:n])
	return hex.EncodeToString(sum[:])
}

// read takes in complete lines, up to a chunk of them, and reports whether there may
// be more.
func (l *Log) read(ctx context.Context) (more bool, err error) {
	info, err := l.f.Stat()
	if err != nil {
		return false, fmt.Errorf("look at the log: %w", err)
	}
	changed := info.Size() != l.size || !info.ModTime().Equal(l.at.Changed)
	if info.Size() < l.at.Offset || changed && l.head(l.at.Offset) != l.at.Head {
		if l.copied() {
			return true, nil
		}
		l.gap("the log was emptied: " + l.cfg.Path)
		l.at.Offset, l.at.Head = 0, l.head(0)
	}
	l.size, l.at.Changed = info.Size(), info.ModTime()
	n, err := l.f.ReadAt(l.buf, l.at.Offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the log: %w", err)
	}
	text := l.buf[:n]
	done := bytes.LastIndexByte(text, '\n') + 1
	full := n == len(l.buf)
	if done == 0 && full {
		return l.long()
	}
	l.advance(int64(l.take(ctx, text[:done])))
	if done > 0 {
		l.in.room(ctx)
	}
	return full, nil
}

// take takes in lines until ctx ends: then nobody may look at more. It returns how
// many bytes were taken.
func (l *Log) take(ctx context.Context, lines []byte) (n int) {
	for line := range bytes.Lines(lines) {
		if ctx.Err() != nil {
			break
		}
		n += len(line)
		if line = bytes.TrimSpace(line); len(line) > 0 {
			l.in.take(line)
		}
	}
	return n
}

// advance moves on by lines that are done with.
func (l *Log) advance(n int64) {
	before := l.at.Offset
	l.at.Offset += n
	if before < headSize && n > 0 {
		l.at.Head = l.head(l.at.Offset)
	}
}

// long makes room for a line that is longer than the buffer, or passes over one that
// is too long for an event.
func (l *Log) long() (more bool, err error) {
	if int64(len(l.buf)) <= l.in.maxEvent.Load() {
		l.buf = make([]byte, 2*len(l.buf))
		return true, nil
	}
	for at := l.at.Offset + int64(len(l.buf)); ; {
		n, err := l.f.ReadAt(l.buf, at)
		if i := bytes.IndexByte(l.buf[:n], '\n'); i >= 0 {
			l.in.tooLarge()
			l.advance(at + int64(i) + 1 - l.at.Offset)
			return true, nil
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return false, nil // its end is still to come
		}
		if err != nil {
			return false, fmt.Errorf("read the log: %w", err)
		}
	}
}

// replaced reports whether the log is another file than the one that is read, or
// there is one at last. An empty one can wait: whoever writes may not know of it yet.
func (l *Log) replaced() bool {
	now, err := os.Stat(l.cfg.Path)
	if err != nil {
		return false
	}
	dev, ino := identityOf(now)
	return l.f == nil || now.Size() > 0 && (dev != l.at.Dev || ino != l.at.Ino)
}

// next goes on with the file that was begun behind the one that has been read. What
// stands behind its last line is a line nobody will complete.
func (l *Log) next(ctx context.Context) error {
	if l.f != nil {
		n, _ := l.f.ReadAt(l.buf, l.at.Offset)
		l.advance(int64(l.take(ctx, l.buf[:n])))
	}
	select {
	case <-ctx.Done():
		return nil
	default:
	}
	if l.at.Ino == 0 {
		return l.after(l.at.Changed)
	}
	files, err := l.files()
	if err != nil {
		return err
	}
	following := l.cfg.Path
	at := slices.IndexFunc(files, func(f logFile) bool { return f.is(&l.at) })
	if at < 0 { // it is gone
		at = slices.IndexFunc(files, func(f logFile) bool { return f.info.ModTime().After(l.at.Changed) }) - 1
	}
	if at >= -1 && at+1 < len(files) {
		following = files[at+1].path
	}
	return l.open(following, false)
}

// A logFile is the log, or one that it was renamed to.
type logFile struct {
	path string
	info fs.FileInfo
}

func (f *logFile) is(p *position) bool {
	dev, ino := identityOf(f.info)
	return dev == p.Dev && ino == p.Ino
}

func identityOf(info fs.FileInfo) (dev, ino uint64) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Dev, st.Ino
	}
	return 0, 0
}

// oldNames matches what a log is renamed to: names are those that API servers
// (NAME-TIME.EXT) and logrotate (NAME.EXT.N, NAME.EXT-DATE) give.
func oldNames(base string) *regexp.Regexp {
	ext := filepath.Ext(base)
	stem, ext, base := regexp.QuoteMeta(strings.TrimSuffix(base, ext)), regexp.QuoteMeta(ext), regexp.QuoteMeta(base)
	return regexp.MustCompile(`^(?:` + stem + `-[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9.-]+` + ext + `|` + base + `[.-][0-9]+)$`)
}

// files returns the log and what it was renamed to and can be read, oldest first.
func (l *Log) files() ([]logFile, error) {
	dir, base := filepath.Split(l.cfg.Path)
	entries, err := os.ReadDir(cmp.Or(dir, "."))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the log: %w", err)
	}
	var files []logFile
	for _, e := range entries {
		if e.Name() != base && !l.old.MatchString(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			files = append(files, logFile{path, info})
		}
	}
	slices.SortFunc(files, func(a, b logFile) int {
		if x, y := a.path == l.cfg.Path, b.path == l.cfg.Path; x != y {
			if x {
				return 1
			}
			return -1
		}
		return cmp.Or(a.info.ModTime().Compare(b.info.ModTime()), strings.Compare(a.path, b.path))
	})
	return files, nil
}

// load returns where the last one was, nil if there was none of this log.
func (l *Log) load() (*position, error) {
	_ = wholefile.Sweep(l.cfg.State) // who may not remove may not write either, and save tells
	b, err := os.ReadFile(l.cfg.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read how far the log was read: %w", err)
	}
	p := &position{}
	if err := json.Unmarshal(b, p); err != nil || p.Path != l.cfg.Path || p.Offset < 0 {
		if err != nil {
			l.log.Warn("how far the audit log was read is not known: it is followed from its end", "file", l.cfg.State, "err", err)
		}
		return nil, nil
	}
	return p, nil
}

// save keeps how far the log was read, once a second, or now.
func (l *Log) save(now bool) {
	if l.at.Path == "" {
		return // not begun
	}
	l.mu.Lock()
	l.state.Offset, l.state.File = l.at.Offset, ""
	if l.f != nil {
		l.state.File = l.f.Name()
	}
	l.mu.Unlock()
	if l.at == l.saved || !now && time.Since(l.savedAt) < saveEvery {
		return
	}
	b, err := json.Marshal(l.at)
	if err == nil {
		err = wholefile.Write(l.cfg.State, b, 0o600)
	}
	l.savedAt = time.Now()
	if err == nil {
		l.saved = l.at
	} else if !l.unsaved {
		l.log.Warn("how far the audit log was read cannot be kept: the next agent does not know", "err", err)
	}
	l.unsaved = err != nil
}
