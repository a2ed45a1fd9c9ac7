package store

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
	"slices"

	"github.com/klauspost/compress/s2"

	"warren/event"
)

// A log is frames, one behind the other:
//
//	magic   4  the frame begins here
//	length  4  of what follows the head
//	type    1  frameHead, frameBatch or frameTable
//	kind    1  of the batch
//	check   2  of the ten bytes before it: what follows need not be read to know a false magic
//	crc     4  CRC32C of type, kind and what follows
//
// Numbers are little-endian. A batch begins with what is known of it without
// unpacking it: see frameInfo.
const (
	frameMagic = 0x9d57524e // "NRW" and what is no text
	headSize   = 16
	maxFrame   = 16 << 20
	// maxBody bounds what a payload unpacks to, and splitAt what a batch of more
	// than one row is written as.
	maxBody = 16 << 20
	splitAt = 4 << 20
)

// The types of frames.
const (
	frameHead  = 1 // the first of each log: of which machine, and the columns
	frameBatch = 2
	frameTable = 3 // the snapshots of all processes that lived at a time
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendFrame puts the head before a payload that begins at dst[at+headSize:].
func sealFrame(dst []byte, at int, typ byte, kind event.Kind) {
	head := dst[at : at+headSize]
	binary.LittleEndian.PutUint32(head, frameMagic)
	binary.LittleEndian.PutUint32(head[4:], uint32(len(dst)-at-headSize))
	head[8], head[9] = typ, byte(kind)
	binary.LittleEndian.PutUint16(head[10:], headCheck(head))
	binary.LittleEndian.PutUint32(head[12:], frameCRC(head, dst[at+headSize:]))
}

func headCheck(head []byte) uint16 {
	c := crc32.Checksum(head[:10], castagnoli)
	return uint16(c) ^ uint16(c>>16)
}

func frameCRC(head, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(head[8:10], castagnoli), castagnoli, payload)
}

// A frame is where one lies in its log, and what is known of it.
type frame struct {
	off  int64
	size int // of the payload
	typ  byte
	kind event.Kind
	frameInfo
	// data is the payload until it is written.
	data []byte
}

// frameInfo is what the payload of a batch begins with.
type frameInfo struct {
	schema  uint32 // hash of the layout that wrote it
	rows    int
	events  uint64 // that the rows stand for
	minTime int64  // of evt.time, and evt.time_last
	maxTime int64
	minSeq  uint64 // of evt.num; of processes the numbers of snapshots
	maxSeq  uint64
}

func (i *frameInfo) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, i.schema)
	b = binary.AppendUvarint(b, uint64(i.rows))
	b = binary.AppendUvarint(b, i.events)
	b = binary.AppendVarint(b, i.minTime)
	b = binary.AppendVarint(b, i.maxTime-i.minTime)
	b = binary.AppendUvarint(b, i.minSeq)
	return binary.AppendUvarint(b, i.maxSeq-i.minSeq)
}

func (i *frameInfo) read(r *reader) {
	if s := r.bytes(4); s != nil {
		i.schema = binary.LittleEndian.Uint32(s)
	}
	i.rows = int(min(r.uvarint(), math.MaxInt32))
	i.events = r.uvarint()
	i.minTime = r.varint()
	i.maxTime = i.minTime + r.varint()
	i.minSeq = r.uvarint()
	i.maxSeq = i.minSeq + r.uvarint()
}

// Payloads are packed where that saves something: a byte says whether. A log does
// not live long: S2 costs a fifth of what zstd does, and saves nearly as much. What is
// mostly numbers is hardly smaller for it, and costs twice as much to keep.
const (
	plain  = 0
	packed = 1
)

// minPacked is the least that is worth packing.
const minPacked = 128

func appendPacked(dst, body []byte) []byte {
	if len(body) >= minPacked {
		at := len(dst)
		room := s2.MaxEncodedLen(len(body))
		dst = slices.Grow(append(dst, packed), room)
		if n := len(s2.Encode(dst[at+1:at+1+room], body)); n < len(body) {
			return dst[:at+1+n]
		}
		dst = dst[:at]
	}
	return append(append(dst, plain), body...)
}

func unpack(b []byte) ([]byte, error) { return unpackTo(nil, b) }

// unpackTo is unpack into the memory of room where there is enough. What is not
// packed is not copied.
func unpackTo(room, b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, errFrame
	}
	if b[0] == plain {
		return b[1:], nil
	}
	if b[0] != packed {
		return nil, errFrame
	}
	n, err := s2.DecodedLen(b[1:])
	if err != nil || n > maxBody {
		return nil, errFrame
	}
	if cap(room) < n {
		room = make([]byte, 0, n+n/8)
	}
	out, err := s2.Decode(room[:cap(room)], b[1:])
	if err != nil {
		return nil, errFrame
	}
	return out, nil
}

// batch reads the batch of a frame's payload.
func (f *frame) batch(payload []byte, schemas schemas, host *event.Host, want func(*event.Column) bool) (*Batch, error) {
	r := &reader{b: payload}
	var info frameInfo
	info.read(r)
	s := schemas.of(f.kind, info.schema)
	if r.failed || s == nil {
		return nil, errFrame
	}
	body, err := unpack(r.b)
	if err != nil {
		return nil, err
	}
	b, err := decodeBatch(body, s, host, want)
	if err == nil && b.Rows != info.rows {
		err = errFrame
	}
	return b, err
}

// A scan is what was found in a log.
type scan struct {
	frames []frame
	end    int64 // of the last whole frame
	// What is damaged between whole frames, and what is behind the last one.
	badFrames, badBytes int64
	tornBytes           int64
}

// scanLog finds the frames of a log of some size. Each is read, and none is kept.
// What is no frame is passed over, up to the next that is one.
func scanLog(log io.ReaderAt, size int64, visit func(f *frame, payload []byte) error) (*scan, error) {
	s := &scan{}
	in := &window{log: log, size: size}
	bad := false
	for at := int64(0); at+headSize <= size; {
		head, err := in.at(at, headSize)
		if err != nil {
			return s, err
		}
		length := int64(binary.LittleEndian.Uint32(head[4:]))
		ok := binary.LittleEndian.Uint32(head) == frameMagic && binary.LittleEndian.Uint16(head[10:]) == headCheck(head) &&
			length <= maxFrame && at+headSize+length <= size
		if ok {
			whole, err := in.at(at, int(headSize+length))
			if err != nil {
				return s, err
			}
			head, payload := whole[:headSize], whole[headSize:]
			if ok = binary.LittleEndian.Uint32(head[12:]) == frameCRC(head, payload); ok {
				f := frame{off: at + headSize, size: int(length), typ: head[8], kind: event.Kind(head[9])}
				if f.typ == frameBatch {
					r := &reader{b: payload}
					f.read(r)
					ok = !r.failed
				}
				if ok && visit != nil {
					ok = visit(&f, payload) == nil
				}
				if ok {
					s.badBytes += at - s.end
					if bad {
						s.badFrames++
						bad = false
					}
					s.frames = append(s.frames, f)
					at += headSize + length
					s.end = at
					continue
				}
				at += headSize + length - 1 // whole, but not to be understood
			}
		}
		bad = true
		next, err := in.find(at + 1)
		if err != nil {
			return s, err
		}
		at = next
	}
	s.tornBytes = size - s.end
	return s, nil
}

// A window is the part of a log that is in memory.
type window struct {
	log  io.ReaderAt
	size int64
	off  int64
	buf  []byte
}

const windowSize = 1 << 20

// at returns n bytes at an offset, which are there.
func (w *window) at(off int64, n int) ([]byte, error) {
	if off >= w.off && off+int64(n) <= w.off+int64(len(w.buf)) {
		return w.buf[off-w.off:][:n], nil
	}
	w.buf = grow(w.buf, int(min(max(int64(n), windowSize), w.size-off)))
	w.off = off
	if m, err := w.log.ReadAt(w.buf, off); m < len(w.buf) {
		w.buf = w.buf[:0]
		return nil, err
	}
	return w.buf[:n], nil
}

// find returns the next place where a frame may begin.
func (w *window) find(off int64) (int64, error) {
	for ; off+headSize <= w.size; off++ {
		b, err := w.at(off, 4)
		if err != nil {
			return 0, err
		}
		if binary.LittleEndian.Uint32(b) == frameMagic {
			return off, nil
		}
	}
	return w.size, nil
}
