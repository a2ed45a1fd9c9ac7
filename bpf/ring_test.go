package bpf

import (
	"encoding/binary"
	"os"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

// fakeRing is a ring in plain memory, written as the kernel writes it.
type fakeRing struct {
	*ring
	pos uint64
}

func newFakeRing(size int) *fakeRing {
	page := os.Getpagesize()
	words := make([]uint64, (page+2*size)/8) // aligned
	mem := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8)
	cons := make([]uint64, 1)
	return &fakeRing{ring: newRing(unsafe.Slice((*byte)(unsafe.Pointer(&cons[0])), 8), mem, page)}
}

// put writes one byte into both places where the kernel maps it.
func (f *fakeRing) put(pos uint64, b byte) {
	f.data[pos&f.mask] = b
	f.data[pos&f.mask+f.mask+1] = b
}

func (f *fakeRing) head(pos uint64, head uint32) {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], head)
	for i, c := range b {
		f.put(pos+uint64(i), c)
	}
}

// write reserves a record with flags in its header and returns where it is.
func (f *fakeRing) write(rec []byte, flags uint32) (pos uint64) {
	pos = f.pos
	f.head(pos, uint32(len(rec))|flags)
	for i, c := range rec {
		f.put(pos+ringHeader+uint64(i), c)
	}
	f.pos += ringHeader + uint64(len(rec)+7)&^7
	*f.prod = f.pos
	return pos
}

func (f *fakeRing) readAll() (recs []string, drained bool, bad int) {
	drained = f.read(f.produced(), func(rec []byte) { recs = append(recs, string(rec)) }, func() { bad++ })
	return recs, drained, bad
}

func TestRingReads(t *testing.T) {
	f := newFakeRing(4096)
	f.write([]byte("one"), 0)
	f.write([]byte("never was"), ringDiscard)
	f.write(nil, 0)
	f.write([]byte("12345678"), 0)
	got, drained, bad := f.readAll()
	if diff := cmp.Diff([]string{"one", "", "12345678"}, got); diff != "" || !drained || bad != 0 {
		t.Errorf("drained %v, bad %d: %s", drained, bad, diff)
	}
	if f.consumed() != f.produced() {
		t.Errorf("consumed %d of %d", f.consumed(), f.produced())
	}
}

func TestRingWraps(t *testing.T) {
	f := newFakeRing(4096)
	rec := make([]byte, 1000)
	for i := range 1000 {
		for j := range rec {
			rec[j] = byte(i + j)
		}
		f.write(rec[:1+i], 0)
		got, _, _ := f.readAll()
		if len(got) != 1 || got[0] != string(rec[:1+i]) {
			t.Fatalf("record %d at %d of the ring came out different", i, f.pos&f.mask)
		}
	}
	if f.pos < 10*4096 {
		t.Error("the ring did not wrap")
	}
}

func TestRingStopsAtBusy(t *testing.T) {
	f := newFakeRing(4096)
	f.write([]byte("one"), 0)
	pos := f.write([]byte("two"), ringBusy)
	f.write([]byte("three"), 0)
	got, drained, _ := f.readAll()
	if diff := cmp.Diff([]string{"one"}, got); diff != "" || drained {
		t.Errorf("drained %v: %s", drained, diff)
	}
	if f.consumed() != pos {
		t.Errorf("consumed up to %d, want %d", f.consumed(), pos)
	}
	f.head(pos, 3)
	got, drained, _ = f.readAll()
	if diff := cmp.Diff([]string{"two", "three"}, got); diff != "" || !drained {
		t.Errorf("drained %v: %s", drained, diff)
	}
}

func TestRingStopsAtEnd(t *testing.T) {
	f := newFakeRing(4096)
	f.write([]byte("one"), 0)
	end := f.produced()
	f.write([]byte("two"), 0)
	var got []string
	f.read(end, func(rec []byte) { got = append(got, string(rec)) }, func() { t.Error("bad") })
	if diff := cmp.Diff([]string{"one"}, got); diff != "" {
		t.Error(diff)
	}
}

// A header that cannot be is skipped with all that follows, and the ring works
// again after that.
func TestRingResyncs(t *testing.T) {
	for name, head := range map[string]uint32{
		"longer than what was produced": 64,
		"as long as can be":             ringLenMask,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeRing(4096)
			f.write([]byte("one"), 0)
			f.head(f.write([]byte("two"), 0), head)
			got, drained, bad := f.readAll()
			if diff := cmp.Diff([]string{"one"}, got); diff != "" || !drained || bad != 1 {
				t.Errorf("drained %v, bad %d: %s", drained, bad, diff)
			}
			f.write([]byte("three"), 0)
			if got, _, bad := f.readAll(); bad != 0 || !cmp.Equal(got, []string{"three"}) {
				t.Errorf("after that: %q, bad %d", got, bad)
			}
		})
	}
}

// Whatever is in the memory, reading ends, within what was produced.
func FuzzRing(f *testing.F) {
	good := newFakeRing(4096)
	good.write([]byte("0123456789abcdef0123"), 0)
	good.write([]byte("x"), ringDiscard)
	good.write([]byte("y"), ringBusy)
	f.Add(uint64(0), good.pos, good.data[:good.pos])
	f.Add(uint64(4090), uint64(16), []byte{8, 0, 0, 0, 0, 0, 0, 0})
	f.Add(uint64(8), uint64(4096), []byte{0xff, 0xff, 0xff, 0x3f})
	f.Fuzz(func(t *testing.T, start, length uint64, data []byte) {
		g := newFakeRing(4096)
		start = start % (1 << 40) &^ 7
		length = length % 4097 &^ 7
		for i, b := range data[:min(len(data), 4096)] {
			g.put(start+uint64(i), b)
		}
		*g.cons, *g.prod = start, start+length
		total := 0
		g.read(g.produced(), func(rec []byte) { total += len(rec) + ringHeader }, func() {})
		if total > int(length) {
			t.Errorf("%d bytes of records in %d bytes", total, length)
		}
		if c := g.consumed(); c < start || c > start+length {
			t.Errorf("consumed %d, want within %d and %d", c, start, start+length)
		}
	})
}

// submit clears the busy bit of the record at pos, as the kernel does it: while
// others read.
func (f *fakeRing) submit(pos uint64) {
	for _, at := range []uint64{pos & f.mask, pos&f.mask + f.mask + 1} {
		head := (*uint32)(unsafe.Pointer(&f.data[at]))
		atomic.StoreUint32(head, atomic.LoadUint32(head)&^uint32(ringBusy))
	}
}
