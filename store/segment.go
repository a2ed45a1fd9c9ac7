package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"warren/event"
)

// A segment is one log: events of all kinds and the snapshots that they refer to,
// as they came. The last one is being written; the others wait to be sealed.
//
// What it has can be read by any number of goroutines while one writes.
type segment struct {
	seq  uint64
	path string
	file file
	own  bool // this program wrote it, and gave its events their numbers

	syncing  sync.Mutex
	doubtful bool // the last sync failed; guarded by syncing

	mu      sync.Mutex
	host    *event.Host
	schemas schemas
	frames  []frame
	size    int64 // with what is not written yet
	written int64
	synced  int64
	began   time.Time
	total   frameInfo // of all batches of events
	readers int
	gone    bool // to be closed by its last reader
	damaged bool // which has been said
}

const logSuffix = ".wrs"

func segmentPath(dir string, seq uint64) string {
	return filepath.Join(dir, "active", fmt.Sprintf("%012d%s", seq, logSuffix))
}

// newSegment makes the log of a new segment, its head not yet written.
func newSegment(cfg *Config, fs files, seq uint64, host *event.Host) (*segment, error) {
	path := segmentPath(cfg.Dir, seq)
	f, err := fs.create(path)
	if err != nil {
		return nil, err
	}
	now := cfg.Now()
	g := &segment{seq: seq, path: path, file: f, own: true, host: host, began: now}
	head, err := json.Marshal(newHead(cfg, host, seq, now.UnixNano()))
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	b := appendPacked(make([]byte, headSize), head)
	sealFrame(b, 0, frameHead, 0)
	g.add(frame{typ: frameHead}, b)
	if err := fs.syncDir(filepath.Dir(path)); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return g, nil
}

// recoverSegment reads what an earlier run left: whatever is whole in it is
// there, and what is torn at its end is cut off.
func recoverSegment(path string, fs files) (*segment, *scan, error) {
	seq, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(path), logSuffix), 10, 64)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: not the name of a segment", path)
	}
	f, err := fs.open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	g := &segment{seq: seq, path: path, file: f, began: info.ModTime(), host: event.NewHost("", "", "")}
	var another *logVersionError
	var kinds map[event.Kind]event.Kind
	s, err := scanLog(f, info.Size(), func(f *frame, payload []byte) error {
		if k, ok := kinds[f.kind]; ok {
			f.kind = k
		}
		switch f.typ {
		case frameHead:
			head, known, err := parseHead(payload)
			if err != nil {
				errors.As(err, &another)
				return err
			}
			kinds = head.numbers()
			g.host, g.schemas = event.NewHost(head.Hostname, head.K8sNode, head.BootID), known
			g.began = time.Unix(0, head.Created)
		case frameBatch:
			g.count(f)
		}
		return nil
	})
	if err == nil && another != nil {
		err = another // whoever wrote it can read it
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read %s: %w", path, err), f.Close())
	}
	if s.tornBytes > 0 {
		if err := f.Truncate(s.end); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("cut the torn end of %s: %w", path, err), f.Close())
		}
	}
	g.frames, g.size, g.written = s.frames, s.end, s.end // that it is on the disk, nobody has said
	return g, s, nil
}

// add appends a frame, which lies in data with its head. It can be read from now
// on, and is written by the next call of write.
func (g *segment) add(f frame, data []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f.off, f.size, f.data = g.size+headSize, len(data)-headSize, data
	g.frames = append(g.frames, f)
	g.size += int64(len(data))
	if f.typ == frameBatch {
		g.count(&f)
	}
}

// count adds a batch to what is known of all. The caller holds g.mu, or nobody
// else knows g.
func (g *segment) count(f *frame) {
	if f.kind == event.KindProcess || f.rows == 0 {
		return
	}
	t := &g.total
	if t.rows == 0 {
		t.minTime, t.maxTime, t.minSeq, t.maxSeq = f.minTime, f.maxTime, f.minSeq, f.maxSeq
	}
	t.rows += f.rows
	t.events += f.events
	t.minTime, t.maxTime = min(t.minTime, f.minTime), max(t.maxTime, f.maxTime)
	t.minSeq, t.maxSeq = min(t.minSeq, f.minSeq), max(t.maxSeq, f.maxSeq)
}

// pending returns how many bytes wait to be written.
func (g *segment) pending() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.size - g.written
}

// write writes what waits. One goroutine at a time. What a failed write left
// behind is written over by the next.
func (g *segment) write() error {
	g.mu.Lock()
	first := len(g.frames)
	for first > 0 && g.frames[first-1].data != nil {
		first--
	}
	waiting := slices.Clone(g.frames[first:])
	g.mu.Unlock()
	for _, f := range waiting {
		if _, err := g.file.WriteAt(f.data, f.off-headSize); err != nil {
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, f := range waiting {
		g.frames[first+i].data = nil
		g.written = f.off + int64(f.size)
	}
	return nil
}

// sync makes what was written safe. It can run beside write.
func (g *segment) sync() error {
	g.mu.Lock()
	upTo := g.written
	dirty := upTo > g.synced
	g.mu.Unlock()
	if !dirty {
		return nil
	}
	g.syncing.Lock()
	defer g.syncing.Unlock()
	if g.doubtful {
		if err := g.rewrite(upTo); err != nil {
			return err
		}
	}
	if err := g.file.Sync(); err != nil {
		g.doubtful = true
		return err
	}
	g.doubtful = false
	g.mu.Lock()
	defer g.mu.Unlock()
	g.synced = max(g.synced, upTo)
	return nil
}

// rewrite writes again what was not synced. After a sync that failed the kernel takes
// what it could not write for written: the next sync would succeed, and it be lost.
// The caller holds g.syncing.
func (g *segment) rewrite(upTo int64) error {
	g.mu.Lock()
	at := g.synced
	g.mu.Unlock()
	b := make([]byte, min(upTo-at, 256<<10))
	for at < upTo {
		n, err := g.file.ReadAt(b[:min(int64(len(b)), upTo-at)], at)
		if n == 0 {
			return err
		}
		if _, err := g.file.WriteAt(b[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// hold keeps the file open until release. It reports false when it is closed.
func (g *segment) hold() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return false
	}
	g.readers++
	return true
}

func (g *segment) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.readers--; g.readers == 0 && g.gone {
		_ = g.file.Close() // it is not written any more
	}
}

// close closes the file when the last reader has released it.
func (g *segment) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return nil
	}
	g.gone = true
	if g.readers == 0 {
		return g.file.Close()
	}
	return nil
}

// list returns the frames of which pick reports true.
func (g *segment) list(pick func(*frame) bool) []frame {
	g.mu.Lock()
	defer g.mu.Unlock()
	var l []frame
	for i := range g.frames {
		if pick(&g.frames[i]) {
			l = append(l, g.frames[i])
		}
	}
	return l
}

// read reads the batch of a frame: those columns that want reports true for; nil
// wants all.
func (g *segment) read(f *frame, want func(*event.Column) bool) (*Batch, error) {
	payload, err := g.payload(f)
	if err != nil {
		return nil, err
	}
	return f.batch(payload, g.schemas, g.host, want)
}

// payload reads what follows the head of a frame.
func (g *segment) payload(f *frame) ([]byte, error) {
	if f.data != nil {
		return f.data[headSize:], nil
	}
	b, err := g.whole(nil, f)
	if err != nil {
		return nil, err
	}
	return b[headSize:], nil
}

// whole reads a frame that is written, with its head, into the memory of room where
// there is enough.
func (g *segment) whole(room []byte, f *frame) ([]byte, error) {
	b := grow(room[:0], headSize+f.size)
	if _, err := g.file.ReadAt(b, f.off-headSize); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", g.path, err)
	}
	// It was whole when it was written, or found; the disk may have lost it since.
	if frameCRC(b[:headSize], b[headSize:]) != le32(b[12:]) {
		return nil, fmt.Errorf("read %s at %d: %w", g.path, f.off, errFrame)
	}
	return b, nil
}

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// leftovers returns the logs that are in a directory, oldest first.
func leftovers(dir string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "active", "*"+logSuffix))
	slices.Sort(paths)
	return paths, err
}
