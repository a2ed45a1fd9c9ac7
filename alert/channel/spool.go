package channel

import (
	"bytes"
	"encoding/binary"
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
	memory   [][]byte // behind the segments
	inMemory int64
	next     uint64 // number of the next frame
	head     uint64 // number of the first one that is not sent
	writing  *os.File
	cursor   *os.File
	turn     uint64
	again    time.Time // not before then the disk is tried again
	wake     chan struct{}

	waiting, bytes   atomic.Int64
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
	if err := s.read(); err != nil {
		s.fail(err)
	}
	s.account()
	return s
}

// read takes in the segments that there are. What follows a hole in one is found
// again by its magic.
func (s *spool) read() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		name, ok := strings.CutSuffix(e.Name(), spoolSuffix)
		seq, err := strconv.ParseUint(name, 10, 64)
		if !ok || err != nil || len(name) != 20 {
			continue
		}
		s.segments = append(s.segments, &segment{seq: seq, path: filepath.Join(s.dir, e.Name())})
	}
	slices.SortFunc(s.segments, func(a, b *segment) int { return int(int64(a.seq - b.seq)) })
	atSeq, atOffset := s.readCursor()
	var errs []error
	for _, g := range s.segments {
		g.first = s.next
		b, err := os.ReadFile(g.path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
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
			if g.seq < atSeq || g.seq == atSeq && int64(end) <= atOffset {
				s.head = s.next + 1
			}
			s.next++
		}
		s.damaged.Add(int64(len(b) - sound))
		g.size = int64(len(b))
	}
	s.clean()
	return errors.Join(errs...)
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
	s.failure.Store(nil)
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

func (s *spool) fail(err error) {
	msg := err.Error()
	s.failure.Store(&msg)
	s.again = time.Now().Add(diskPause)
}

// write appends a frame to the last segment, or to a new one.
func (s *spool) write(content []byte) error {
	n := int64(frameHead + len(content))
	var g *segment
	if s.writing != nil {
		g = s.segments[len(s.segments)-1]
		if g.size+n > s.part {
			_ = s.writing.Close()
			s.writing, g = nil, nil
		}
	}
	if g == nil {
		var seq uint64 = 1
		if k := len(s.segments); k > 0 {
			seq = s.segments[k-1].seq + 1
		} else if at, _ := s.readCursor(); at >= seq {
			seq = at + 1
		}
		g = &segment{seq: seq, path: filepath.Join(s.dir, fmt.Sprintf("%020d%s", seq, spoolSuffix)), first: s.next}
		f, err := os.OpenFile(g.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
		if errors.Is(err, fs.ErrNotExist) { // somebody has taken the directory away
			if err = os.MkdirAll(s.dir, 0o700); err == nil {
				f, err = os.OpenFile(g.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
			}
		}
		if err != nil {
			return err
		}
		s.writing = f
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
	g := s.segments[0]
	if end := g.first + uint64(len(g.ends)); end > s.head {
		s.givenUp.Add(int64(end - s.head))
		s.head = end
	}
	s.remove()
	return true
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
// number of the first.
func (s *spool) peek(most int) (first uint64, frames [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first = s.head
	for n := s.head; n < s.next && len(frames) < most; n++ {
		content, err := s.frame(n)
		if err == nil {
			frames = append(frames, content)
			continue
		}
		if len(frames) > 0 {
			break // what cannot be read is met first the next time
		}
		s.givenUp.Add(1)
		s.head = n + 1
		first = s.head
	}
	s.clean()
	s.account()
	return first, frames
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
// said, so many. It returns how many of them had been given up meanwhile.
func (s *spool) sent(first uint64, n int) (givenUp int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := first + uint64(n)
	if first < s.head {
		givenUp = int(min(s.head, end) - first)
		s.givenUp.Add(-int64(givenUp))
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
	return givenUp
}

// position is where on the disk the first frame that is not sent begins.
func (s *spool) position() (seq uint64, offset int64) {
	for _, g := range s.segments {
		seq, offset = g.seq, 0
		if at := s.head - g.first; at < uint64(len(g.ends)) {
			if at > 0 {
				offset = int64(g.ends[at-1])
			}
			return seq, offset
		}
		offset = g.size
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

// readCursor returns how far was sent: zero where that is not known.
func (s *spool) readCursor() (seq uint64, offset int64) {
	b, err := os.ReadFile(filepath.Join(s.dir, "cursor"))
	if err != nil {
		return 0, 0
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
	return seq, offset
}

// account notes what waits, for whoever asks.
func (s *spool) account() {
	s.waiting.Store(int64(s.next - s.head))
	s.bytes.Store(s.onDisk() + s.inMemory)
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
