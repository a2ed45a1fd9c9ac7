package channel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testSpool is a spool with its counters.
type testSpool struct {
	*spool
	given, broken atomic.Int64
}

func newTestSpool(dir string, size int64) *testSpool {
	s := &testSpool{}
	s.spool = openSpool(dir, size, &s.given, &s.broken)
	return s
}

func (s *testSpool) put(from, to int) {
	for i := from; i < to; i++ {
		s.add([]byte(strconv.Itoa(i)))
	}
}

// take sends what waits, at most so many at once, and returns it.
func (s *testSpool) take(most int) (got []int) {
	for {
		first, frames, err := s.peek(most)
		if err != nil || len(frames) == 0 {
			return got
		}
		for _, f := range frames {
			n, _ := strconv.Atoi(string(f))
			got = append(got, n)
		}
		s.sent(first, len(frames))
	}
}

// failWrites lets writes to the open segment fail, as on a disk that is full.
func (s *testSpool) failWrites(t *testing.T, do func()) {
	t.Helper()
	if s.writing == nil {
		do()
		return
	}
	fd, err := unix.MemfdCreate("full", unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	full, whole := os.NewFile(uintptr(fd), "full"), s.writing
	if err := full.Truncate(s.segments[len(s.segments)-1].size); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(full.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err != nil {
		t.Fatal(err)
	}
	s.writing = full
	do()
	if s.writing == full {
		s.writing = whole
		_ = full.Close()
	} else {
		_ = whole.Close()
	}
}

func upTo(from, to int) (list []int) {
	for i := from; i < to; i++ {
		list = append(list, i)
	}
	return list
}

// TestSpoolSurvives opens what another has left: one that was closed, and one that
// was not, as a killed process leaves it.
func TestSpoolSurvives(t *testing.T) {
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed %t", closed), func(t *testing.T) {
			dir := t.TempDir()
			a := newTestSpool(dir, 1<<20)
			a.put(0, 1000)
			first, frames, _ := a.peek(300)
			a.sent(first, len(frames))
			if closed {
				a.close()
			}
			b := newTestSpool(dir, 1<<20)
			b.put(1000, 1100)
			if got := b.take(64); !slices.Equal(got, upTo(300, 1100)) {
				t.Errorf("%d frames, from %v to %v", len(got), got[:1], got[len(got)-1:])
			}
			if b.given.Load() != 0 || b.broken.Load() != 0 || b.waiting.Load() != 0 {
				t.Errorf("given up %d, damaged %d, waiting %d", b.given.Load(), b.broken.Load(), b.waiting.Load())
			}
			// All is sent: nobody sends it again, and no file is left but the cursor.
			b.close()
			c := newTestSpool(dir, 1<<20)
			if got := c.take(10); len(got) != 0 {
				t.Errorf("sent again: %v", got)
			}
			c.put(5, 6)
			c.spool.close()
			d := newTestSpool(dir, 1<<20)
			if got := d.take(10); !slices.Equal(got, []int{5}) {
				t.Errorf("after an empty spool: %v", got)
			}
		})
	}
}

// TestSpoolFull gives up the oldest, and counts them.
func TestSpoolFull(t *testing.T) {
	dir := t.TempDir()
	s := newTestSpool(dir, 1<<20)
	const n = 3000
	pad := bytes.Repeat([]byte("x"), 1000)
	for i := range n {
		s.add(append([]byte(fmt.Sprintf("%d ", i)), pad...))
	}
	if s.bytes.Load() > 1<<20+2000 {
		t.Errorf("%d bytes wait", s.bytes.Load())
	}
	var got []string
	for {
		first, frames, _ := s.peek(100)
		if len(frames) == 0 {
			break
		}
		for _, f := range frames {
			got = append(got, string(f[:bytes.IndexByte(f, ' ')]))
		}
		s.sent(first, len(frames))
	}
	given := int(s.given.Load())
	if len(got)+given != n || len(got) < 900 || got[0] != strconv.Itoa(given) || got[len(got)-1] != strconv.Itoa(n-1) {
		t.Errorf("%d frames from %s, given up %d", len(got), got[0], given)
	}
}

// TestSpoolDamaged leaves out what cannot be read, and nothing else.
func TestSpoolDamaged(t *testing.T) {
	for _, test := range []struct {
		name string
		harm func(b []byte) []byte
		want []int
	}{
		{"torn", func(b []byte) []byte { return b[:len(b)-3] }, upTo(0, 9)},
		{"torn in a head", func(b []byte) []byte { return b[:len(b)-frameHead-1+3] }, upTo(0, 9)},
		{"one bit", func(b []byte) []byte { b[4*(frameHead+1)+frameHead] ^= 1; return b }, slices.Concat(upTo(0, 4), upTo(5, 10))},
		{"a length", func(b []byte) []byte { binary.LittleEndian.PutUint32(b[4:], 1<<31); return b }, upTo(1, 10)},
		{"the magic", func(b []byte) []byte { b[0] = 0; return b }, upTo(1, 10)},
		{"nothing", func([]byte) []byte { return nil }, nil},
		{"something in between", func(b []byte) []byte { return slices.Insert(b, 3*(frameHead+1), frameMagic...) }, upTo(0, 10)},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			a := newTestSpool(dir, 1<<20)
			a.put(0, 10)
			a.close()
			path := filepath.Join(dir, fmt.Sprintf("%020d.spool", 1))
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, test.harm(b), 0o600); err != nil {
				t.Fatal(err)
			}
			s := newTestSpool(dir, 1<<20)
			if got := s.take(4); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			s.put(10, 11)
			if got := s.take(4); !slices.Equal(got, []int{10}) {
				t.Errorf("then %v", got)
			}
		})
	}
}

// TestSpoolCursor believes the older place where the newer one is torn.
func TestSpoolCursor(t *testing.T) {
	dir := t.TempDir()
	a := newTestSpool(dir, 1<<20)
	a.put(0, 10)
	for range 3 {
		first, frames, _ := a.peek(1)
		a.sent(first, len(frames))
	}
	path := filepath.Join(dir, "cursor")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[(3%2)*cursorSlot+8] ^= 0xff
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := newTestSpool(dir, 1<<20).take(4); !slices.Equal(got, upTo(2, 10)) {
		t.Errorf("got %v", got)
	}
}

// TestSpoolWithoutDisk keeps frames in memory while the disk cannot be written, and
// writes them down, in their order, once it can.
func TestSpoolWithoutDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := newTestSpool(dir, 1<<20)
	if s.failure.Load() == nil {
		t.Error("no failure")
	}
	s.put(0, 10)
	first, frames, _ := s.peek(3)
	s.sent(first, len(frames))
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	s.again = s.again.Add(-diskPause)
	first, frames, _ = s.peek(3) // in memory, and then on the disk
	s.put(10, 20)
	s.sent(first, len(frames))
	if why := s.failure.Load(); why != nil {
		t.Error(*why)
	}
	b := newTestSpool(dir, 1<<20) // as after a kill
	if got := b.take(4); !slices.Equal(got, upTo(6, 20)) {
		t.Errorf("got %v", got)
	}
}

// TestSpoolWriteFails goes on in a new segment where frames were sent from memory
// meanwhile.
func TestSpoolWriteFails(t *testing.T) {
	s := newTestSpool(t.TempDir(), 1<<20)
	s.put(0, 5)
	s.failWrites(t, func() { s.put(5, 8) })
	if len(s.memory) != 3 {
		t.Fatalf("%d frames in memory", len(s.memory))
	}
	if got := s.take(4); !slices.Equal(got, upTo(0, 8)) {
		t.Errorf("got %v", got)
	}
	s.again = time.Time{}
	s.put(8, 20)
	if got := s.take(4); !slices.Equal(got, upTo(8, 20)) || s.given.Load() != 0 {
		t.Errorf("then %v, given up %d", got, s.given.Load())
	}
}

// unreadable lets a file not be opened, until it is called.
func unreadable(t *testing.T, path string) (mend func()) {
	t.Helper()
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, path); err != nil { // leads nowhere
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		links, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*"+spoolSuffix))
		for _, name := range links {
			if to, err := os.Readlink(name); err == nil && to == path {
				if err := os.Rename(path+".away", name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestSpoolUnreadable keeps what cannot be read now.
func TestSpoolUnreadable(t *testing.T) {
	dir := t.TempDir()
	s := newTestSpool(dir, 1<<20)
	s.put(0, 10)
	mend := unreadable(t, filepath.Join(dir, fmt.Sprintf("%020d.spool", 1)))
	if _, frames, err := s.peek(4); !errors.Is(err, syscall.ELOOP) || len(frames) != 0 || s.waiting.Load() != 10 {
		t.Errorf("%d frames, %v, %d wait", len(frames), err, s.waiting.Load())
	}
	mend()
	if got := s.take(4); !slices.Equal(got, upTo(0, 10)) || s.given.Load() != 0 {
		t.Errorf("got %v, given up %d", got, s.given.Load())
	}
	s.put(10, 20)
	_ = unreadable(t, filepath.Join(dir, fmt.Sprintf("%020d.spool", 1)))
	s.close()
	s = newTestSpool(dir, 1<<20)
	s.put(20, 30)
	s.skip()
	if got := s.take(4); len(got) != 0 || s.given.Load() != 10 {
		t.Errorf("got %v, given up %d", got, s.given.Load())
	}
}

// TestSpoolOpenedUnreadable does not take for sent what it cannot read when it is
// opened: it is sent once it can be, by this spool or the next.
func TestSpoolOpenedUnreadable(t *testing.T) {
	for _, test := range []struct {
		name string
		bad  int
		then []int
	}{
		{"first", 1, upTo(2, 5)},
		{"last", 2, upTo(5, 10)},
	} {
		for _, later := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, later %t", test.name, later), func(t *testing.T) {
				dir := t.TempDir()
				a := newTestSpool(dir, 1<<20)
				a.put(0, 5)
				a.close()
				a = newTestSpool(dir, 1<<20)
				a.put(5, 10)
				first, _, _ := a.peek(2)
				a.sent(first, 2)
				a.close()
				mend := unreadable(t, filepath.Join(dir, fmt.Sprintf("%020d.spool", test.bad)))
				s := newTestSpool(dir, 1<<20)
				if s.failure.Load() == nil {
					t.Error("no failure")
				}
				if known := s.onDisk(); s.unread.Load() != 1 || s.bytes.Load() <= known {
					t.Errorf("%d segments stand aside, %d bytes wait, %d of them in others", s.unread.Load(), s.bytes.Load(), known)
				}
				s.again = time.Time{}
				s.put(10, 15)
				if got, want := s.take(4), slices.Concat(upTo(2, 5), upTo(5, 10), upTo(10, 15)); !slices.Equal(got, slices.DeleteFunc(want, func(n int) bool { return slices.Contains(test.then, n) })) {
					t.Errorf("got %v", got)
				}
				mend()
				if later {
					s.asideAt = time.Time{}
					s.put(15, 16)
				} else {
					s.close()
					s = newTestSpool(dir, 1<<20)
					s.put(15, 16)
				}
				got := s.take(4)
				slices.Sort(got)
				for _, n := range append(test.then, 15) {
					if !slices.Contains(got, n) {
						t.Errorf("then %v, want %v", got, test.then)
					}
				}
				if s.given.Load() != 0 || s.broken.Load() != 0 || s.failure.Load() != nil || s.unread.Load() != 0 {
					t.Errorf("given up %d, damaged %d, %d segments stand aside", s.given.Load(), s.broken.Load(), s.unread.Load())
				}
			})
		}
	}
}

// TestSpoolInMemory has no directory.
func TestSpoolInMemory(t *testing.T) {
	s := newTestSpool("", 1<<20)
	big := make([]byte, 300<<10)
	for range 5 {
		s.add(big)
	}
	s.put(5, 6)
	if s.given.Load() != 2 || s.waiting.Load() != 4 {
		t.Errorf("given up %d, waiting %d", s.given.Load(), s.waiting.Load())
	}
	s.add(make([]byte, maxFrame+1))
	if s.given.Load() != 3 {
		t.Error("a frame that is too large was taken")
	}
	s.close()
	if s.given.Load() != 7 || s.waiting.Load() != 0 {
		t.Errorf("closed: given up %d, waiting %d", s.given.Load(), s.waiting.Load())
	}
}

// TestSpoolAgainstModel does what it likes with a spool, and compares.
func TestSpoolAgainstModel(t *testing.T) {
	for seed := range uint64(6) {
		dir := t.TempDir()
		r := rand.New(rand.NewPCG(seed, 1))
		s := newTestSpool(dir, 64<<20)
		s.part = 512 // many segments
		var model []int
		next := 0
		for range 400 {
			switch r.IntN(9) {
			case 0, 1, 2, 8:
				n := r.IntN(20)
				if r.IntN(4) == 0 {
					s.failWrites(t, func() { s.put(next, next+n) })
				} else {
					s.put(next, next+n)
				}
				if r.IntN(2) == 0 {
					s.again = time.Time{}
				}
				model = append(model, upTo(next, next+n)...)
				next += n
			case 3, 4, 5:
				most := 1 + r.IntN(80)
				first, frames, _ := s.peek(most)
				want := model[:min(most, len(model))]
				for i, f := range frames {
					if string(f) != strconv.Itoa(want[i]) {
						t.Fatalf("seed %d: %s, want %d", seed, f, want[i])
					}
				}
				if len(frames) != len(want) {
					t.Fatalf("seed %d: %d frames, want %d", seed, len(frames), len(want))
				}
				n := r.IntN(len(frames) + 1)
				s.sent(first, n)
				model = model[n:]
			case 6:
				if r.IntN(2) == 0 {
					s.close()
				}
				model = model[:len(model)-len(s.memory)] // a killed process loses those
				s = newTestSpool(dir, 64<<20)
				s.part = 512
			case 7:
				if s.waiting.Load() != int64(len(model)) {
					t.Fatalf("seed %d: %d wait, want %d", seed, s.waiting.Load(), len(model))
				}
			}
		}
		if s.given.Load() != 0 || s.broken.Load() != 0 {
			t.Errorf("given up %d, damaged %d", s.given.Load(), s.broken.Load())
		}
	}
}

// FuzzSpool reads anything as a segment.
func FuzzSpool(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, []byte("{}")), []byte("x")))
	f.Add(append([]byte("xx"), appendFrame(nil, nil)...))
	f.Add(frameMagic)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, fmt.Sprintf("%020d.spool", 7))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := newTestSpool(dir, 1<<20)
		n := int(s.waiting.Load())
		if got := len(s.take(3)); got != n || s.given.Load() != 0 {
			t.Errorf("%d frames of %d, given up %d", got, n, s.given.Load())
		}
		s.close()
		_ = os.Remove(filepath.Join(dir, "cursor"))
	})
}
