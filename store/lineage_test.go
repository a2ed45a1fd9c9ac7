package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/event"
)

// watchedBytes counts what is read of a sealed file, and has one byte other than it is.
type watchedBytes struct {
	sealedBytes
	bad   int64 // place of the byte; -1: none
	reads []watchedRead
}

type watchedRead struct{ at, n int64 }

func (w *watchedBytes) ReadAt(b []byte, at int64) (int, error) {
	w.reads = append(w.reads, watchedRead{at, int64(len(b))})
	n, err := w.sealedBytes.ReadAt(b, at)
	if i := w.bad - at; w.bad >= 0 && i >= 0 && i < int64(n) {
		b[i] ^= 1
	}
	return n, err
}

// whole returns how often a column chunk was read whole.
func (w *watchedBytes) whole(c *chunkInfo) int {
	n := 0
	for _, r := range w.reads {
		if r.at == c.at && r.n == c.length {
			n++
		}
	}
	return n
}

// again returns how many reads were of what had been read before.
func (w *watchedBytes) again() int {
	places := map[int64]bool{}
	for _, r := range w.reads {
		places[r.at] = true
	}
	return len(w.reads) - len(places)
}

// watchedProcesses returns a sealed file of so many processes, which have no parents and
// the same arguments.
func watchedProcesses(t *testing.T, n, args int) (*sealedFile, *watchedBytes) {
	t.Helper()
	at := time.Unix(1e9, 0)
	same := slices.Repeat([]string{"x"}, args)
	living := func(yield func(*event.Process) bool) {
		for i := range uint32(n) {
			p := &event.Process{Key: event.Key{PID: i + 1, Start: 1}, PID: i + 1, Name: "x", Cmdline: fmt.Sprintf("x %d", i), Args: same}
			if !yield(p) {
				return
			}
		}
	}
	s := openAt(t, Config{Dir: t.TempDir(), Now: func() time.Time { return at }, Living: func() iter.Seq[*event.Process] { return living }})
	defer s.Close() //nolint:errcheck // checked by others
	s.Append(connection(1, &event.Process{Key: event.Key{PID: 1}}, at, 1))
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(s.Segments(), func(f Segment) bool { return f.Kind == event.KindProcess })
	file, err := openSealed(filepath.Join(s.cfg.Dir, s.Segments()[i].Name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.close() }) // read only
	if len(file.groups) != 1 || file.groups[0].rows < n {
		t.Fatalf("%d row groups, the first of %d rows", len(file.groups), file.groups[0].rows)
	}
	w := &watchedBytes{sealedBytes: file.f, bad: -1}
	file.f = w
	return file, w
}

// TestSealedLineageDamaged: processes in whole pages are there, and what is damaged is
// not read for each of them, nor again.
func TestSealedLineageDamaged(t *testing.T) {
	const many, few, long = 5 * pageRows, 40, 12000
	page := func(fromEnd int) func(c *chunk) (int64, int, int) {
		return func(c *chunk) (bad int64, from, to int) {
			p := &c.pages[len(c.pages)-fromEnd]
			return p.at + p.length - 1, p.row, p.row + int(p.rows)
		}
	}
	for _, test := range []struct {
		name, column    string
		processes, args int
		damage          func(c *chunk) (bad int64, from, to int) // a byte, and the rows that are lost
	}{
		{"nothing", "proc.cmdline", many, 0, func(*chunk) (int64, int, int) { return -1, 0, 0 }},
		{"the last page", "proc.cmdline", many, 0, page(1)},
		{"a page between others", "proc.cmdline", many, 0, page(3)},
		{"a page of lists", "proc.argv", few, long, page(2)},
		{"a dictionary", "proc.cmdline", many, 0, func(c *chunk) (int64, int, int) { return c.info.data - 1, 0, c.rows }},
		{"numbers", event.ColumnSnapshot, many, 0, func(c *chunk) (int64, int, int) { return c.info.at + c.info.length - 1, 0, c.rows }},
	} {
		file, w := watchedProcesses(t, test.processes, test.args)
		numbers, err := newGroupReader(file, 0, nil, nil).ints(event.ColumnSnapshot)
		if err != nil {
			t.Fatal(err)
		}
		c, err := file.openChunk(0, file.byName[test.column], &pageScratch{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		bad, from, to := test.damage(c)
		w.bad = bad
		for _, all := range []bool{true, false} { // at once, or one by one
			t.Run(fmt.Sprint(test.name, " ", all), func(t *testing.T) {
				w.reads = nil
				l := newSealedLineage(file)
				first := max(0, len(numbers)-2*pageRows)
				if all {
					first = 0
					if err := l.load(t.Context(), numbers); err != nil {
						t.Fatal(err)
					}
				}
				for i, n := range numbers[first:] {
					p, err := l.process(t.Context(), n)
					row := first + i
					if lost := row >= from && row < to; lost != isDamage(err) || lost != (p == nil) {
						t.Fatalf("process %d in row %d is %v: %v; rows %d to %d are damaged", n, row, p, err, from, to)
					}
				}
				if n := w.again(); all && n > 0 {
					t.Errorf("%d reads are of what was read before", n)
				}
				if n := w.whole(c.info); n > 1 {
					t.Errorf("the column is read whole %d times", n)
				}
				w.reads = nil
				for _, n := range numbers[first:] {
					_, _ = l.process(t.Context(), n) // the error is the same
				}
				if n := len(w.reads); n > 0 {
					t.Errorf("what is known is read another %d times", n)
				}
			})
		}
	}
}

// TestGroupReaderDamaged: a chunk is read whole once for what its list of pages may be
// wrong about, and not at all where it was read whole before.
func TestGroupReaderDamaged(t *testing.T) {
	const pages = 5
	file, w := watchedProcesses(t, pages*pageRows-1, 0)
	i := file.byName["proc.cmdline"]
	info := &file.groups[0].chunks[i]
	c, err := file.openChunk(0, i, &pageScratch{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	last := c.pages[len(c.pages)-1]
	for _, test := range []struct {
		name  string
		bad   int64
		whole bool // read so before
	}{
		{"a page", last.at + last.length - 1, false},
		{"a page of a whole chunk", last.at + last.length - 1, true},
		{"a head", last.at + 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.bad, w.reads = test.bad, nil
			r := newGroupReader(file, 0, nil, nil)
			col := file.layout.Column("proc.cmdline")
			if test.whole {
				if _, err := r.chunk(col.Index); err != nil {
					t.Fatal(err)
				}
			}
			read := func(row int) error {
				_, err := r.batch([]int32{int32(row)}, func(c *event.Column) bool { return c == col })
				return err
			}
			for range 3 {
				if err := read(r.rows() - 1); !isDamage(err) {
					t.Errorf("a row of what is damaged: %v", err)
				}
				if err := read(0); err != nil {
					t.Errorf("a row of another page: %v", err)
				}
			}
			if n := w.whole(info); n != 1 {
				t.Errorf("the column is read whole %d times", n)
			}
		})
	}
}

// TestLineageEnds: who does not want the answer any more does not wait for processes.
func TestLineageEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	file, _ := watchedProcesses(t, 2, 0)
	l := newSealedLineage(file)
	if err := l.load(ctx, []int64{1}); !errors.Is(err, context.Canceled) {
		t.Errorf("a sealed file: %v", err)
	}
	if _, err := l.find(t.Context(), 1); err != nil { // whose numbers are known now
		t.Fatal(err)
	}
	if _, err := l.process(ctx, l.groups[0].numbers[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("a sealed file whose numbers are known: %v", err)
	}
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	fillStore(t, s, newInventor(1), 50)
	g := s.active()
	if _, err := newLineage(g).process(ctx, int64(newLineage(g).frames[0].minSeq)); !errors.Is(err, context.Canceled) {
		t.Errorf("a log: %v", err)
	}
}

// TestLineageDamaged: a log's frame that is damaged is read once for processes that
// stand behind each other in it, and each process is looked for once.
func TestLineageDamaged(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	fillStore(t, s, newInventor(1), 50)
	if err := s.writeOut(); err != nil {
		t.Fatal(err)
	}
	g := s.active()
	l := newLineage(g)
	b, err := l.batch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	numbers := slices.Clone(b.Vector(event.ColumnSnapshot).Ints)
	if len(numbers) < 2 {
		t.Fatalf("a frame of %d processes", len(numbers))
	}
	if _, err := g.file.WriteAt([]byte{0xff, 0xff, 0xff}, l.frames[0].off+5); err != nil {
		t.Fatal(err)
	}
	l = newLineage(g)
	counted := &countedReads{file: g.file}
	g.file = counted
	defer func() { g.file = counted.file }()
	for range 2 {
		for _, n := range numbers {
			if p, err := l.process(t.Context(), n); !isDamage(err) || !strings.Contains(err.Error(), g.path) {
				t.Fatalf("process %d is %v: %v", n, p, err)
			}
		}
	}
	if counted.n != 1 {
		t.Errorf("the frame is read %d times", counted.n)
	}
}

// TestDamagedFrameOfProcess: what is counted is what the disk has damaged, not what has
// led there.
func TestDamagedFrameOfProcess(t *testing.T) {
	at := time.Unix(1e9, 0)
	p := &event.Process{Key: event.Key{PID: 1, Start: 1}, PID: 1, Name: "x", Cmdline: strings.Repeat("xy ", 30)}
	for name, ask := range map[string]func(s *Store){
		"processes": func(s *Store) {
			for _, err := range s.Processes(t.Context(), at) {
				if err != nil {
					t.Error(err)
				}
			}
		},
		"events": func(s *Store) {
			if n := len(all(t, s, Query{})); n != 1 {
				t.Errorf("%d events", n)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			living := slices.Values([]*event.Process{p})
			s := openAt(t, Config{Dir: t.TempDir(), Now: func() time.Time { return at }, Living: func() iter.Seq[*event.Process] { return living }})
			defer s.Close() //nolint:errcheck // checked by others
			s.Append(connection(1, p, at, 1))
			s.flush(false)
			if err := s.writeOut(); err != nil {
				t.Fatal(err)
			}
			g := s.active()
			f := newLineage(g).frames[0]
			if _, err := g.file.WriteAt([]byte{0xff, 0xff, 0xff}, f.off+5); err != nil {
				t.Fatal(err)
			}
			ask(s)
			if torn := s.Status().Torn; torn.DamagedFrames != 1 || torn.DamagedLogs != 1 || torn.DamagedBytes != int64(f.size) {
				t.Errorf("%+v, want %d bytes", torn, f.size)
			}
		})
	}
}

type countedReads struct {
	file
	n int
}

func (c *countedReads) ReadAt(b []byte, at int64) (int, error) {
	c.n++
	return c.file.ReadAt(b, at)
}
