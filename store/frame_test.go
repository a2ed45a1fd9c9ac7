package store

import (
	"bytes"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"warren/event"
)

// logOf returns the log of some events, and where its frames begin.
func logOf(t testing.TB, n int) (data []byte, frames []frame) {
	t.Helper()
	dir := t.TempDir()
	s := openAt(t, Config{Dir: dir})
	m := newMaker(3)
	for i := range n {
		e := m.event(0)
		e.Time = time.Unix(1e9+int64(i), 0)
		s.Append(e)
		if i%10 == 9 {
			s.flush(false)
		}
	}
	s.flush(false)
	g := s.active()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(g.path)
	if err != nil {
		t.Fatal(err)
	}
	return data, g.frames
}

// reopened writes a log into a directory and opens it.
func reopened(t testing.TB, data []byte) *Store {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/active", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(segmentPath(dir, 1), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return openAt(t, Config{Dir: dir})
}

// TestTorn: of a log that ends anywhere, all whole frames are there, and what is
// behind them is counted, and cut off.
func TestTorn(t *testing.T) {
	data, frames := logOf(t, 60)
	for range 60 {
		n := rand.IntN(len(data))
		s := reopened(t, data[:n])
		whole, end := 0, int64(0)
		for _, f := range frames {
			if f.off+int64(f.size) <= int64(n) {
				end = f.off + int64(f.size)
				if f.typ == frameBatch && f.kind != event.KindProcess {
					whole += f.rows
				}
			}
		}
		if got := len(all(t, s, Query{})); got != whole {
			t.Fatalf("of %d of %d bytes %d events are there, want %d", n, len(data), got, whole)
		}
		if torn := s.Status().Torn; torn.Bytes != int64(n)-end || torn.DamagedFrames != 0 {
			t.Fatalf("cut at %d, behind a frame that ends at %d: %+v", n, end, torn)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamaged: a frame with a wrong bit costs itself, and nothing else, wherever it
// is; only processes that it had are unknown then.
func TestDamaged(t *testing.T) {
	data, frames := logOf(t, 60)
	total := 0
	for _, f := range frames {
		if f.typ == frameBatch && f.kind != event.KindProcess {
			total += f.rows
		}
	}
	for range 100 {
		at := rand.IntN(len(data))
		bad := slices.Clone(data)
		bad[at] ^= 1 << rand.IntN(8)
		hit := slices.IndexFunc(frames, func(f frame) bool { return int64(at) < f.off+int64(f.size) })
		want := total
		if f := frames[hit]; f.typ == frameBatch && f.kind != event.KindProcess {
			want -= f.rows
		}
		s := reopened(t, bad)
		if got := len(all(t, s, Query{})); got != want {
			t.Fatalf("a wrong bit at %d, in %+v: %d events, want %d", at, frames[hit].kind, got, want)
		}
		torn := s.Status().Torn
		size := int64(frames[hit].size + headSize)
		if last := hit == len(frames)-1; last && torn.Bytes != size || !last && (torn.DamagedFrames != 1 || torn.DamagedLogs != 1 || torn.DamagedBytes != size) {
			t.Fatalf("a wrong bit at %d, in frame %d of %d, of %d bytes: %+v", at, hit, len(frames), size, torn)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzLog reads what is no log: nothing may make it fail otherwise than by an error.
func FuzzLog(f *testing.F) {
	data, frames := logOf(f, 9)
	f.Add(data[frames[1].off-headSize:])
	for _, fr := range frames[1:] { // the head is long, and small inputs are tried faster
		f.Add(data[fr.off-headSize : fr.off+int64(fr.size)])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		own := ownSchemas()
		s, err := scanLog(bytes.NewReader(data), int64(len(data)), func(f *frame, payload []byte) error {
			readFrame(f, payload, own)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if s.end+s.tornBytes != int64(len(data)) || s.badBytes > s.end {
			t.Fatalf("of %d bytes %+v", len(data), s)
		}
		// Past the checksum too: whoever wrote it, it is read.
		if len(data) > 2 {
			fr := frame{typ: data[0] % 4, kind: event.Kind(data[1])}
			readFrame(&fr, data[2:], own)
			for k, hash := range ownHashes() {
				if l := own[schemaKey{k, hash}]; byte(k) == data[1] {
					if b, err := decodeBatch(data[2:], l, nil, nil); err == nil {
						useBatch(b)
					}
				}
			}
		}
	})
}

func readFrame(f *frame, payload []byte, s schemas) {
	switch f.typ {
	case frameHead:
		_, _, _ = parseHead(payload)
	case frameTable:
		_, _, _ = readTable(payload)
	case frameBatch:
		if b, err := f.batch(payload, s, nil, nil); err == nil {
			useBatch(b)
		}
	}
}

func useBatch(b *Batch) {
	for i := range min(b.Rows, 50) {
		if b.Layout.Kind == event.KindProcess {
			b.Process(i, nil)
			continue
		}
		event.AppendJSON(nil, b.Event(i, nil))
	}
}

// TestManyFrames reads windows of a log at every border.
func TestManyFrames(t *testing.T) {
	var data []byte
	var want []int64
	for i := range 300 {
		at := len(data)
		data = append(data, make([]byte, headSize)...)
		data = append(data, bytes.Repeat([]byte{byte(i)}, rand.IntN(20000))...)
		sealFrame(data, at, frameTable, 0)
		want = append(want, int64(at+headSize))
		if rand.IntN(4) == 0 {
			data = append(data, bytes.Repeat([]byte{0x4e, 0x52, 0x57, 0x9d}, rand.IntN(300))...) // magics
		}
	}
	s, err := scanLog(bytes.NewReader(data), int64(len(data)), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for _, f := range s.frames {
		got = append(got, f.off)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%d frames are found, want %d", len(got), len(want))
	}
}
