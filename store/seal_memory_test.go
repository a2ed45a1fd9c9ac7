package store

import (
	"io"
	"testing"

	"warren/event"
)

// TestSealMemory: memory that a batch was read into is used again, all of it.
func TestSealMemory(t *testing.T) {
	const k = event.KindConnection
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // of a directory that goes
	m := newInventor(4)
	m.kinds = event.Kinds(k)
	fillStore(t, s, m, 5) // too little to be packed
	fillStore(t, s, m, 500)
	if err := s.writeOut(); err != nil {
		t.Fatal(err)
	}
	g := s.active()
	frames := g.list(func(f *frame) bool { return f.typ == frameBatch && f.kind == k })
	b := newGroupBuilder(io.Discard, event.LayoutOf(k), g.host, fileKeys(k, g.host, "", ""))
	add := func() (total int) {
		for i := range frames {
			if err := b.add(g, i, &frames[i]); err != nil {
				t.Fatal(err)
			}
		}
		n := len(b.batches)
		if err := b.flush(); err != nil {
			t.Fatal(err)
		}
		for _, raw := range b.batches[:n] {
			total += cap(raw.memory)
		}
		return total + cap(b.room)
	}
	for range len(frames) {
		add() // until all rooms are as large as is needed
	}
	want := add()
	for range 4 {
		if got := add(); got != want {
			t.Fatalf("%d bytes are %d when they are used again", want, got)
		}
	}
}
