package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"warren/event"
)

// A Segment is one sealed file: rows of one kind.
type Segment struct {
	// Name is its path below the history's directory, with slashes:
	// kind=connection/date=2026-11-21/NODE-FIRST-LAST-SEQ.parquet.
	Name string
	Kind event.Kind // KindProcess: the processes that files of the same Seq refer to
	// Seq numbers what was sealed together.
	Seq         uint64
	First, Last time.Time // of its rows
	Size        int64     // bytes
	// Rows, Events (that the rows stand for) and Plain (bytes before they were packed)
	// are 0 until the file has been looked at.
	Rows   int64
	Events uint64
	Plain  int64
}

// A sealed is a segment as the store knows it.
type sealed struct {
	Segment
	own            bool // this program wrote what is in it, and gave its events their numbers
	minSeq, maxSeq uint64

	mu      sync.Mutex
	bad     error       // why it cannot be read, once that is known
	damaged bool        // a part of it cannot be read, which has been said
	meta    *sealedFile // what its footer says, while it is remembered; without a file
}

// newSealed names the segment of a kind that a log makes.
func newSealed(k event.Kind, node string, first, last int64, seq uint64) *sealed {
	return &sealed{Segment: Segment{
		Name: fmt.Sprintf("kind=%v/date=%s/%s-%s-%s-%012d%s", k, dateOf(first), nameOfNode(node), nameTime(first), nameTime(last), seq, sealedSuffix),
		Kind: k, Seq: seq, First: time.Unix(0, first), Last: time.Unix(0, last),
	}}
}

const sealedSuffix = ".parquet"

// nameOfNode makes a node's name fit for the name of a file.
func nameOfNode(node string) string {
	if node == "" {
		return "node"
	}
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '_'
	}, node)
	if len(name) > maxNodeName {
		return fmt.Sprintf("%s_%08x", name[:maxNodeName-9], crc32.Checksum([]byte(node), castagnoli))
	}
	return name
}

// maxNodeName is the most of a node's name that the name of a file has: a file system
// takes 255 bytes, times and all. Kubernetes lets nodes have names as long as that.
const maxNodeName = 150

// parseSealed reads a name back.
func parseSealed(name string) (*sealed, bool) {
	dir, file := filepath.Split(name)
	kind, _, _ := strings.Cut(strings.TrimPrefix(dir, "kind="), "/")
	k, ok := event.LookupKind(kind)
	base, isParquet := strings.CutSuffix(file, sealedSuffix)
	parts := strings.Split(base, "-")
	if n := len(parts); ok && isParquet && n >= 4 {
		first, err1 := strconv.ParseInt(parts[n-3], 10, 64)
		last, err2 := strconv.ParseInt(parts[n-2], 10, 64)
		seq, err3 := strconv.ParseUint(parts[n-1], 10, 64)
		if err1 == nil && err2 == nil && err3 == nil {
			return &sealed{Segment: Segment{Name: name, Kind: k, Seq: seq, First: time.Unix(0, first), Last: time.Unix(0, last)}}, true
		}
	}
	return nil, false
}

// describe completes a segment by what its file says.
func (f *sealed) describe(file *sealedFile) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Size, f.Rows, f.Plain = file.size, file.rows, file.plain
	if n, err := strconv.ParseUint(file.keys[keyEvents], 10, 64); err == nil {
		f.Events = n
	}
	meta, p := *file, *file.parquetFile
	p.f, meta.parquetFile = nil, &p
	f.meta = &meta
}

// openFile opens a sealed file. Its footer is read once, while it is remembered.
func (s *Store) openFile(f *sealed) (*sealedFile, error) {
	file, err := f.open(s.cfg.Dir)
	if err != nil {
		return nil, err
	}
	return s.readFile(f, file)
}

// readFile is openFile of a file that is open, which it closes where it fails.
func (s *Store) readFile(f *sealed, opened *os.File) (*sealedFile, error) {
	file, err := f.read(opened)
	if err == nil {
		s.mu.Lock()
		s.sealed.remember(f)
		s.mu.Unlock()
	}
	return file, err
}

// unread returns why the file cannot be read; nil where that is not known.
func (f *sealed) unread() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bad
}

// open opens the file, unless it cannot be read.
func (f *sealed) open(dir string) (*os.File, error) {
	if err := f.unread(); err != nil {
		return nil, err
	}
	return os.Open(filepath.Join(dir, filepath.FromSlash(f.Name)))
}

// read reads the footer where it is not remembered. It closes the file where it fails.
func (f *sealed) read(file *os.File) (*sealedFile, error) {
	f.mu.Lock()
	meta := f.meta
	f.mu.Unlock()
	if meta == nil {
		file, err := readSealed(file)
		if err == nil {
			f.describe(file)
		}
		return file, err
	}
	if st, err := file.Stat(); err != nil || st.Size() != meta.size {
		return nil, errors.Join(corrupt("its size has changed"), err, file.Close())
	}
	opened, p := *meta, *meta.parquetFile
	p.f, opened.parquetFile = file, &p
	return &opened, nil
}

// sealedSet is the sealed segments, by time. Store.mu guards it.
type sealedSet struct {
	files  []*sealed
	recent []*sealed // those whose footers are remembered
}

// maxFooters is how many footers are remembered: each has some kilobytes for each of
// its row groups, and a history has as many files as there is room for.
const maxFooters = 128

// remember says that the footer of a file is known. Those of the latest files are
// remembered, however often all are read one after the other.
func (s *sealedSet) remember(f *sealed) {
	if slices.Contains(s.recent, f) {
		return
	}
	if s.recent = append(s.recent, f); len(s.recent) <= maxFooters {
		return
	}
	old := slices.MinFunc(s.recent, func(a, b *sealed) int { return cmp.Compare(a.Seq, b.Seq) })
	s.recent = slices.DeleteFunc(s.recent, func(f *sealed) bool { return f == old })
	old.mu.Lock()
	old.meta = nil
	old.mu.Unlock()
}

func (s *sealedSet) all() []*sealed { return slices.Clone(s.files) }

func (s *sealedSet) add(files []*sealed) {
	s.files = append(s.files, files...)
	for _, f := range files {
		if f.meta != nil {
			s.remember(f)
		}
	}
	slices.SortStableFunc(s.files, func(a, b *sealed) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Kind, b.Kind))
	})
}

func (s *sealedSet) remove(gone map[*sealed]bool) {
	s.files = slices.DeleteFunc(s.files, func(f *sealed) bool { return gone[f] })
	s.recent = slices.DeleteFunc(s.recent, func(f *sealed) bool { return gone[f] })
}

// Segments returns the sealed files, oldest first.
func (s *Store) Segments() []Segment {
	s.mu.Lock()
	files := s.sealed.all()
	s.mu.Unlock()
	list := make([]Segment, 0, len(files))
	for _, f := range files {
		f.mu.Lock()
		if f.bad == nil {
			list = append(list, f.Segment)
		}
		f.mu.Unlock()
	}
	return list
}

// recoverSealed finds the sealed files. What was being sealed when the program was
// killed, and so is in a log too, goes; the log is sealed again. The logs must have
// been recovered before.
func (s *Store) recoverSealed() error {
	logs := map[uint64]bool{}
	for _, g := range s.segments {
		logs[g.seq] = true
	}
	var found []*sealed
	dirs, err := filepath.Glob(filepath.Join(s.cfg.Dir, "kind=*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				// The rest of the history is worth having without it.
				s.log.Warn("history: a directory cannot be read, and is passed over", "path", path, "err", err)
				return fs.SkipDir
			}
			if d.IsDir() {
				return nil
			}
			rel, err := filepath.Rel(s.cfg.Dir, path)
			if err != nil {
				return err
			}
			name := filepath.ToSlash(rel)
			if strings.HasSuffix(name, tmpSuffix) {
				if _, ok := parseSealed(strings.TrimSuffix(name, tmpSuffix)); ok {
					return os.Remove(path)
				}
			}
			f, ok := parseSealed(name)
			if !ok {
				s.foreign(name)
				return nil
			}
			if logs[f.Seq] {
				return os.Remove(path)
			}
			st, err := d.Info()
			if err != nil {
				return err
			}
			f.Size = st.Size()
			s.nextSeq = max(s.nextSeq, f.Seq+1)
			if f.Kind == event.KindProcess {
				s.snaps.last = max(s.snaps.last, f.Last.UnixNano())
			}
			found = append(found, f)
			return nil
		})
		if err != nil {
			return err
		}
	}
	s.sealed.add(found)
	s.lastSnapshot()
	return nil
}

// lastSnapshot lets numbers of snapshots go on where they ended, which is later than
// the clock where that was set back. A file that is damaged says so when it is asked.
func (s *Store) lastSnapshot() {
	for _, f := range slices.Backward(s.sealed.files) {
		if f.Kind != event.KindProcess {
			continue
		}
		file, err := s.openFile(f)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(file.keys[keyMaxSeq], 10, 64)
		_ = file.close() // read only
		if err == nil {
			s.snaps.last = max(s.snaps.last, n)
			return
		}
	}
}

// foreign says once that a file is not the history's.
func (s *Store) foreign(name string) {
	s.state.foreign++
	s.log.Warn("history: a file that the history did not write is passed over", "dir", s.cfg.Dir, "name", name)
}

// passing reports whether an error says nothing of the file: the next try may succeed.
func passing(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EAGAIN, unix.EINTR, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// unreadable says once why a sealed file cannot be read; it is passed over from then
// on, and left for somebody to look at.
func (s *Store) unreadable(f *sealed, err error) {
	f.mu.Lock()
	known := f.bad != nil
	if !known {
		f.bad = err
	}
	known = known || f.damaged
	f.mu.Unlock()
	if known {
		return
	}
	s.mu.Lock()
	s.state.unreadable++
	s.mu.Unlock()
	s.log.Warn("history: a sealed file cannot be read, and is passed over", "dir", s.cfg.Dir, "name", f.Name, "err", err)
}

// damagedPart says once that a part of a sealed file cannot be read. The rest is asked
// as before.
func (s *Store) damagedPart(f *sealed, err error) {
	f.mu.Lock()
	known := f.damaged || f.bad != nil
	f.damaged = true
	f.mu.Unlock()
	if known {
		return
	}
	s.mu.Lock()
	s.state.unreadable++
	s.mu.Unlock()
	s.log.Warn("history: a part of a sealed file cannot be read, and is passed over", "dir", s.cfg.Dir, "name", f.Name, "err", err)
}

// damagedFrame says once for each log that the disk has lost something of it: a frame,
// or the one that a *[frameDamage] names.
func (s *Store) damagedFrame(g *segment, f *frame, err error) {
	if d, ok := errors.AsType[*frameDamage](err); ok {
		f = d.frame
	}
	g.mu.Lock()
	known := g.damaged
	g.damaged = true
	g.mu.Unlock()
	if known {
		return
	}
	s.mu.Lock()
	s.state.torn.DamagedLogs++
	s.state.torn.DamagedFrames++
	s.state.torn.DamagedBytes += int64(f.size)
	s.mu.Unlock()
	s.log.Warn("history: a part of a log cannot be read any more", "path", g.path, "err", err)
}
