package channel

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A spool keeps what waits to be sent, in its order, in segments on the disk: each
// is a file of frames, which are magic, length, checksum and content. What was
// written survives the end of the process, however it ends; that of the machine
// costs what the kernel had not written back yet. How far it was sent is in the file
// cursor.
//
// Without a directory, or while it cannot be written, frames wait in memory.
//
// All methods may wait for the disk; the counters do not. Any goroutine may call them.
type spool struct {
	dir  string
	size int64 // bytes that wait at most
	part int64 // bytes of one segment

	mu       sync.Mutex
	segments []*segment
	aside    []*segment // could not be read yet, in the order of seq
	asideAt  time.Time  // not before then they are tried again
	listed   bool       // what the directory has is known
	last     uint64     // the highest seq that a segment has had
	memory   [][]byte   // behind the segments
	inMemory int64
	next     uint64 // number of the next frame
	head     uint64 // number of the first one that is not sent
	writing  *os.File
	cursor   *os.File
	turn     uint64
	again    time.Time // not before then the disk is tried again
	wake     chan struct{}

	waiting, bytes   atomic.Int64  // frames that can be read, and what waits in all
	unread           atomic.Int64  // segments that stand aside
	givenUp, damaged *atomic.Int64 // frames and bytes; whoever opens the spool has them
	failure          atomic.Pointer[string]
}

// A segment is one file of frames.
type segment struct {
	seq   uint64
	path  string
	first uint64   // number of its first frame
	ends  []uint32 // where its frames end
	size  int64
	sent  int64    // bytes of it that were sent before the spool was opened
	file  *os.File // to read; nil while nobody does
}

const (
	frameHead   = 12
	maxFrame    = 1 << 20
	maxMemory   = 4 << 20 // bytes that wait in memory at most
	minSegment  = 64 << 10
	maxSegment  = 1 << 20
	cursorSlot  = 32
	diskPause   = time.Second
	asidePause  = time.Minute
	spoolSuffix = ".spool"
)

// frameMagic begins a frame; no JSON has these bytes.
var frameMagic = []byte{0xf5, 'W', 'A', 0xff}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openSpool reads what waits in a directory, which it makes. dir "" is none. A
// directory that cannot be used is told by failure, and frames wait in memory.
func openSpool(dir string, size int64, givenUp, damaged *atomic.Int64) *spool {
	s := &spool{dir: dir, size: size, part: min(max(size/8, minSegment), maxSegment), wake: make(chan struct{}, 1), givenUp: givenUp, damaged: damaged}
	if dir == "" {
		s.size = min(size, maxMemory)
		return s
	}
	if err := s.list(); err != nil {
		s.fail(err)
	}
	s.adopt()
	s.account()
	return s
}

// list finds the segments that there are, and how far they were sent: see adopt.
func (s *spool) list() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	atSeq, atOffset, err := s.readCursor()
	if err != nil {
		return err
	}
	s.last = atSeq
	for _, e := range list {
		name, ok := strings.CutSuffix(e.Name(), spoolSuffix)
		seq, err := strconv.ParseUint(name, 10, 64)
		if !ok || err != nil || len(name) != 20 {
			continue
		}
		g := &segment{seq: seq, path: filepath.Join(s.dir, e.Name())}
		if info, err := e.Info(); err == nil {
			g.size = info.Size()
		}
		if seq < atSeq {
			_ = os.Remove(g.path) // all is sent
			continue
		}
		if seq == atSeq {
			g.sent = atOffset
		}
		s.aside = append(s.aside, g)
		s.last = max(s.last, seq)
	}
	slices.SortFunc(s.aside, func(a, b *segment) int { return cmp.Compare(a.seq, b.seq) })
	s.listed = true
	return nil
}

// adopt puts the segments that stand aside behind the others, where they can be
// read. Nothing may wait in memory.
func (s *spool) adopt() {
	if time.Now().Before(s.asideAt) {
		return
	}
	var rest []*segment
	for _, g := range s.aside {
		b, err := os.ReadFile(g.path)
		if err == nil {
			err = s.moveBehind(g)
		}
		switch {
		case err == nil:
			s.load(g, b)
		case !errors.Is(err, fs.ErrNotExist):
			rest = append(rest, g)
			s.failed(err)
			s.asideAt = time.Now().Add(asidePause)
		}
	}
	s.aside = rest
	s.clean()
}

// moveBehind gives a segment a number behind those that were read before it.
func (s *spool) moveBehind(g *segment) error {
	if k := len(s.segments); k == 0 || s.segments[k-1].seq < g.seq {
		return nil
	}
	path := s.path(s.last + 1)
	if err := os.Rename(g.path, path); err != nil {
		return err
	}
	s.last++
	g.seq, g.path = s.last, path
	return nil
}

// load takes in a segment. What follows a hole in it is found again by its magic.
func (s *spool) load(g *segment, b []byte) {
	if s.writing != nil {
		_ = s.writing.Close()
		s.writing = nil
	}
	g.first, g.size = s.next, int64(len(b))
	sound := 0
	for off := 0; off < len(b); {
		content, end, ok := parseFrame(b, off)
		if !ok {
			if off = nextFrame(b, off+1); off < 0 {
				break
			}
			continue
		}
		sound += frameHead + len(content)
		g.ends = append(g.ends, uint32(end))
		off = end
		if int64(end) <= g.sent && s.head == s.next {
			s.head++
		}
		s.next++
	}
	s.damaged.Add(int64(len(b) - sound))
	s.segments = append(s.segments, g)
}

func (s *spool) path(seq uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%020d%s", seq, spoolSuffix))
}

// appendFrame appends a frame.
func appendFrame(b, content []byte) []byte {
	b = append(b, frameMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(content)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(content, castagnoli))
	return append(b, content...)
}

// parseFrame reads the frame at an offset, and says where it ends.
func parseFrame(b []byte, off int) (content []byte, end int, ok bool) {
	if len(b)-off < frameHead || !bytes.Equal(b[off:off+4], frameMagic) {
		return nil, 0, false
	}
	n := int(binary.LittleEndian.Uint32(b[off+4:]))
	if n > maxFrame || n > len(b)-off-frameHead {
		return nil, 0, false
	}
	content = b[off+frameHead : off+frameHead+n]
	if crc32.Checksum(content, castagnoli) != binary.LittleEndian.Uint32(b[off+8:]) {
		return nil, 0, false
	}
	return content, off + frameHead + n, true
}

// nextFrame finds where the next frame may begin, -1 if nowhere.
func nextFrame(b []byte, from int) int {
	if from > len(b) {
		return -1
	}
	i := bytes.Index(b[from:], frameMagic)
	if i < 0 {
		return -1
	}
	return from + i
}

// add takes a frame in. The oldest that wait are given up for it, and counted,
// where there is no room.
func (s *spool) add(content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(content) > maxFrame {
		s.givenUp.Add(1)
		return
	}
	if s.dir != "" && s.flush() {
		err := s.write(content)
		if err == nil {
			s.added()
			return
		}
		s.fail(err)
	}
	for len(s.memory) > 0 && s.inMemory+int64(len(content)) > min(s.size, maxMemory) {
		if s.head < s.next-uint64(len(s.memory)) {
			// What is older waits on a disk that cannot be written: that stays.
			s.givenUp.Add(1)
			return
		}
		s.dropMemory()
	}
	s.memory = append(s.memory, content)
	s.inMemory += int64(len(content))
	s.next++
	s.added()
}

func (s *spool) added() {
	s.account()
	select {
	case s.wake <- struct{}{}:
	default: // one is enough: whoever is woken looks at all there is
	}
}

// flush writes down what waits in memory, where there is something, and reports
// whether the disk can be written.
func (s *spool) flush() bool {
	if time.Now().Before(s.again) {
		return false
	}
	if !s.listed {
		if err := s.list(); err != nil {
			s.fail(err)
			return false
		}
	}
	for len(s.memory) > 0 {
		s.next -= uint64(len(s.memory)) // write numbers them
		err := s.write(s.memory[0])
		if err == nil {
			s.forget()
		}
		s.next += uint64(len(s.memory))
		if err != nil {
			s.fail(err)
			return false
		}
	}
	if s.adopt(); len(s.aside) == 0 {
		s.failure.Store(nil)
	}
	return true
}

// dropMemory gives up the oldest frame in memory, which is the oldest that waits.
func (s *spool) dropMemory() {
	s.forget()
	s.head++
	s.givenUp.Add(1)
}

// forget takes the oldest frame out of memory.
func (s *spool) forget() {
	s.inMemory -= int64(len(s.memory[0]))
	s.memory[0] = nil
	s.memory = s.memory[1:]
}

// fail lets what comes wait in memory for a while.
func (s *spool) fail(err error) {
	s.failed(err)
	s.again = time.Now().Add(diskPause)
}

func (s *spool) failed(err error) {
	msg := err.Error()
	s.failure.Store(&msg)
}

// write appends a frame to the last segment, or to a new one.
func (s *spool) write(content []byte) error {
	n := int64(frameHead + len(content))
	var g *segment
	if s.writing != nil {
		g = s.segments[len(s.segments)-1]
		// The numbers have gone on where frames were sent from memory.
		if g.size+n > s.part || g.first+uint64(len(g.ends)) != s.next {
			_ = s.writing.Close()
			s.writing, g = nil, nil
		}
	}
	if g == nil {
		g = &segment{seq: s.last + 1, path: s.path(s.last + 1), first: s.next}
		f, err := os.OpenFile(g.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
		if errors.Is(err, fs.ErrNotExist) { // somebody has taken the directory away
			if err = os.MkdirAll(s.dir, 0o700); err == nil {
				f, err = os.OpenFile(g.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
			}
		}
		if err != nil {
			return err
		}
		s.writing, s.last = f, g.seq
		s.segments = append(s.segments, g)
	}
	for s.onDisk()+n > s.size && s.giveUp() {
	}
	if _, err := s.writing.Write(appendFrame(make([]byte, 0, n), content)); err != nil {
		// Half a frame must not stand before the next one.
		if terr := s.writing.Truncate(g.size); terr != nil {
			_ = s.writing.Close()
			s.writing = nil
		}
		return err
	}
	g.size += n
	g.ends = append(g.ends, uint32(g.size))
	s.next++
	return nil
}

func (s *spool) onDisk() (n int64) {
	for _, g := range s.segments {
		n += g.size
	}
	return n
}

// giveUp removes the oldest segment but the one that is written, and reports
// whether there was one.
func (s *spool) giveUp() bool {
	if len(s.segments) < 2 {
		return false
	}
	s.abandon()
	return true
}

// skip gives up what waits in the oldest segment, which cannot be read.
func (s *spool) skip() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.segments) == 1 && s.writing != nil {
		_ = s.writing.Close()
		s.writing = nil
	}
	if len(s.segments) > 0 {
		s.abandon()
	}
	s.account()
}

// abandon removes the oldest segment, sent or not.
func (s *spool) abandon() {
	g := s.segments[0]
	if end := g.first + uint64(len(g.ends)); end > s.head {
		s.givenUp.Add(int64(end - s.head))
		s.head = end
	}
	s.remove()
}

// remove takes the oldest segment away.
func (s *spool) remove() {
	g := s.segments[0]
	if g.file != nil {
		_ = g.file.Close()
	}
	_ = os.Remove(g.path)
	s.segments = slices.Delete(s.segments, 0, 1)
}

// clean removes segments that are sent, but for the one that is written.
func (s *spool) clean() {
	for len(s.segments) > 0 {
		g := s.segments[0]
		if g.first+uint64(len(g.ends)) > s.head || s.writing != nil && len(s.segments) == 1 {
			return
		}
		s.remove()
	}
}

// peek returns the oldest frames that are not sent, at most so many, and the
// number of the first. What is damaged is given up. An error says that the first
// cannot be read now, and may be later.
func (s *spool) peek(most int) (first uint64, frames [][]byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first = s.head
	for n := s.head; n < s.next && len(frames) < most; n++ {
		content, ferr := s.frame(n)
		if ferr == nil {
			frames = append(frames, content)
			continue
		}
		if len(frames) > 0 {
			break // what cannot be read is met first the next time
		}
		if !errors.Is(ferr, errDamaged) && !errors.Is(ferr, io.EOF) && !errors.Is(ferr, fs.ErrNotExist) {
			err = ferr
			break
		}
		s.givenUp.Add(1)
		s.head = n + 1
		first = s.head
	}
	s.clean()
	s.account()
	return first, frames, err
}

var errDamaged = errors.New("a frame is damaged")

// frame reads one.
func (s *spool) frame(n uint64) ([]byte, error) {
	if begin := s.next - uint64(len(s.memory)); n >= begin {
		return s.memory[n-begin], nil
	}
	i, ok := slices.BinarySearchFunc(s.segments, n, func(g *segment, n uint64) int {
		switch {
		case g.first+uint64(len(g.ends)) <= n:
			return -1
		case g.first > n:
			return 1
		}
		return 0
	})
	if !ok {
		return nil, errDamaged
	}
	g := s.segments[i]
	if g.file == nil {
		f, err := os.Open(g.path)
		if err != nil {
			return nil, err
		}
		g.file = f
	}
	at := n - g.first
	begin := uint32(0)
	if at > 0 {
		begin = g.ends[at-1]
	}
	b := make([]byte, g.ends[at]-begin)
	if _, err := g.file.ReadAt(b, int64(begin)); err != nil {
		return nil, err
	}
	for off := 0; off >= 0; off = nextFrame(b, off+1) { // a hole may stand before it
		if content, end, ok := parseFrame(b, off); ok && end == len(b) {
			return content, nil
		}
	}
	return nil, errDamaged
}

// sent says that frames have arrived, or will never: from the number that peek
// said, so many. Those that were given up meanwhile no longer count as that.
func (s *spool) sent(first uint64, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := first + uint64(n)
	if first < s.head {
		s.givenUp.Add(-int64(min(s.head, end) - first))
	}
	if end > s.head {
		s.head = end
		if begin := s.next - uint64(len(s.memory)); end > begin {
			for range end - begin {
				s.forget()
			}
		}
		if s.dir != "" && len(s.segments) > 0 {
			if err := s.writeCursor(); err != nil {
				s.fail(err)
			}
		}
		s.clean()
	}
	s.account()
}

// position is where on the disk the first frame that is not sent begins.
func (s *spool) position() (seq uint64, offset int64) {
	seq, offset = s.inSegments()
	if len(s.aside) > 0 && s.aside[0].seq < seq {
		return s.aside[0].seq, s.aside[0].sent
	}
	return seq, offset
}

func (s *spool) inSegments() (seq uint64, offset int64) {
	for _, g := range s.segments {
		if s.head <= g.first {
			return g.seq, 0
		}
		if at := s.head - g.first; at < uint64(len(g.ends)) {
			return g.seq, int64(g.ends[at-1])
		}
		seq, offset = g.seq, g.size
	}
	return seq, offset
}

// writeCursor remembers how far was sent. It has two places, written in turn: a
// write that is torn leaves the one before.
func (s *spool) writeCursor() (err error) {
	if s.cursor == nil {
		if s.cursor, err = os.OpenFile(filepath.Join(s.dir, "cursor"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
			return err
		}
	}
	seq, offset := s.position()
	s.turn++
	b := make([]byte, 0, cursorSlot)
	b = binary.LittleEndian.AppendUint64(b, s.turn)
	b = binary.LittleEndian.AppendUint64(b, seq)
	b = binary.LittleEndian.AppendUint64(b, uint64(offset))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	b = append(b, 0, 0, 0, 0)
	_, err = s.cursor.WriteAt(b, int64(s.turn%2)*cursorSlot)
	return err
}

// readCursor returns how far was sent: zero where nobody has noted that.
func (s *spool) readCursor() (seq uint64, offset int64, err error) {
	b, err := os.ReadFile(filepath.Join(s.dir, "cursor"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, 0, err
	}
	for ; len(b) >= cursorSlot; b = b[cursorSlot:] {
		if crc32.Checksum(b[:24], castagnoli) != binary.LittleEndian.Uint32(b[24:]) {
			continue
		}
		if turn := binary.LittleEndian.Uint64(b); turn >= s.turn {
			s.turn = turn
			seq, offset = binary.LittleEndian.Uint64(b[8:]), int64(binary.LittleEndian.Uint64(b[16:]))
		}
	}
	return seq, offset, nil
}

// account notes what waits, for whoever asks.
func (s *spool) account() {
	s.waiting.Store(int64(s.next - s.head))
	bytes := s.onDisk() + s.inMemory
	for _, g := range s.aside {
		bytes += g.size
	}
	s.bytes.Store(bytes)
	s.unread.Store(int64(len(s.aside)))
}

// close lets go of the files. What waits in memory is given up.
func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir != "" && len(s.memory) > 0 {
		s.again = time.Time{}
		s.flush()
	}
	s.givenUp.Add(int64(len(s.memory)))
	s.next -= uint64(len(s.memory))
	s.memory, s.inMemory = nil, 0
	if s.writing != nil {
		_ = s.writing.Close()
		s.writing = nil
	}
	s.clean()
	for _, g := range s.segments {
		if g.file != nil {
			_ = g.file.Close()
			g.file = nil
		}
	}
	if s.cursor != nil {
		_ = s.cursor.Close()
		s.cursor = nil
	}
	s.account()
}
