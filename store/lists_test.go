package store

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/event"
	"warren/filter"
)

// manyArguments appends the exits of n processes that have the same long arguments, a
// few of which have none, and returns the events and the arguments.
func manyArguments(t testing.TB, s *Store, n, long int) (events []*event.Event, args []string) {
	t.Helper()
	for i := range long {
		args = append(args, string(rune('a'+i%26)))
	}
	args[long/2] = "needle"
	at := time.Unix(1_700_000_000, 0)
	for i := range n {
		// Begun in another order than they end.
		p := &event.Process{Key: event.Key{PID: uint32(i + 1), Start: uint64(n - i)}, PID: uint32(i + 1), Name: "many", Args: args}
		if i%16 == 3 {
			p.Args = nil
		}
		e := connection(uint64(i+1), p, at.Add(time.Duration(i)*time.Millisecond), 443)
		s.Append(e)
		events = append(events, e)
	}
	if _, err := s.Sync(t.Context(), uint64(n)); err != nil {
		t.Fatal(err)
	}
	return events, args
}

// TestSealListsOnce: what many processes have alike is once in memory while it is
// sealed and asked for, and the pages of a file are bounded by what lists have, not by
// how many there are.
func TestSealListsOnce(t *testing.T) {
	const processes, long = 64, 16000
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // of a directory that goes
	events, args := manyArguments(t, s, processes, long)
	if err := s.writeOut(); err != nil {
		t.Fatal(err)
	}
	layout := event.LayoutOf(event.KindProcess)
	col := layout.Column("proc.argv")
	g := s.active()
	frames := g.list(func(f *frame) bool { return f.typ == frameBatch && f.kind == event.KindProcess })
	var file bytes.Buffer
	b := newGroupBuilder(&file, layout, g.host, fileKeys(event.KindProcess, g.host, "", ""))
	for i := range frames {
		if err := b.add(g, i, &frames[i]); err != nil {
			t.Fatal(err)
		}
		batch, err := g.read(&frames[i], nil)
		if err != nil {
			t.Fatal(err)
		}
		if v := viewOf(batch.Vectors[col.Index], batch.Rows); len(v.codes) > long {
			t.Errorf("the log's view of %d arguments has %d", long, len(v.codes))
		}
		l := newLineage(g)
		checkKnown(t, l, &l.knownSnapshots, batch.Vector(event.ColumnSnapshot).Ints, long)
	}
	if _, err := b.column(col); err != nil {
		t.Fatal(err)
	}
	if n := len(b.col.v.codes); n > long*len(frames) {
		t.Errorf("%d arguments in each of %d batches are %d in memory", long, len(frames), n)
	}
	ask := func(text string) {
		t.Helper()
		p, err := filter.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, s, events, Query{Filter: p})
	}
	askAll := func() {
		t.Helper()
		for _, text := range []string{"proc.argv = needle", "proc.argv = other", "not proc.argv = needle", "proc.argv = anyof (z, other)", "proc.name = many"} {
			ask(text)
		}
	}
	askAll()
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	askAll()
	for _, f := range s.sealed.all() {
		if f.Kind != event.KindProcess {
			continue
		}
		checkLists(t, s, f, args, processes)
	}
}

// checkLists holds that the pages of a sealed file of processes are bounded, and that
// rows have the arguments or none.
func checkLists(t *testing.T, s *Store, f *sealed, args []string, processes int) {
	t.Helper()
	file, err := s.openFile(f)
	if err != nil {
		t.Fatal(err)
	}
	defer file.close() //nolint:errcheck // read only
	c, err := file.readChunk(0, file.cols[file.layout.Column("proc.argv").Index], new(pageScratch), nil)
	if err != nil {
		t.Fatal(err)
	}
	checkShared(t, newGroupReader(file, 0, nil, nil), c, len(args))
	l := newSealedLineage(file)
	g, err := l.group(t.Context(), 0)
	if err != nil || len(g.numbers) != processes {
		t.Fatalf("a row group of %+v: %v", g, err)
	}
	checkKnown(t, l, &l.knownSnapshots, g.numbers, len(args))
	with := 0
	for n := range c.pages {
		if most := int64(pageElements + len(args)); c.pages[n].values > most {
			t.Errorf("page %d has %d elements, more than %d", n, c.pages[n].values, most)
		}
		v, err := c.page(n)
		if err != nil {
			t.Fatal(err)
		}
		v.dict = c.dict.texts()
		for i := range v.rows {
			got, _ := valueAt(shapeTexts, v, i).([]string)
			if len(got) > 0 {
				with++
			}
			if len(got) > 0 && !slices.Equal(got, args) {
				t.Fatalf("row %d of page %d has other arguments: %s", i, n, strings.Join(got[:5], " "))
			}
		}
	}
	if want := processes - processes/16; with != want {
		t.Errorf("%d processes have arguments, want %d", with, want)
	}
}

// checkShared holds that what reads all rows of a row group has the list of so many
// elements once, and an empty one.
func checkShared(t *testing.T, r *groupReader, c *chunk, long int) {
	t.Helper()
	var window vector
	if err := c.window(1, c.rows, &window); err != nil {
		t.Fatal(err)
	}
	if len(window.codes) != long || len(window.lists) != c.rows-1 {
		t.Errorf("%d elements of %d rows are in memory, want %d of %d", len(window.codes), len(window.lists), long, c.rows-1)
	}
	var rows []int32
	for i := range c.rows {
		rows = append(rows, int32(i))
	}
	b, err := r.batch(rows, func(c *event.Column) bool { return c.Name == "proc.argv" })
	if err != nil {
		t.Fatal(err)
	}
	if v := b.Vector("proc.argv"); len(v.Lists) != 1 || len(v.Lists[0]) != long {
		t.Errorf("%d lists are made of one", len(v.Lists))
	}
}

// checkKnown holds that snapshots of processes that are asked for one by one are not all
// kept.
func checkKnown(t *testing.T, l interface {
	process(ctx context.Context, number int64) (*event.Process, error)
}, known *knownSnapshots, numbers []int64, long int) {
	t.Helper()
	for n, number := range numbers {
		p, damage := l.process(t.Context(), number)
		if p == nil || damage != nil {
			t.Fatalf("snapshot %d is %v: %v", number, p, damage)
		}
		args := 0
		for _, r := range known.known {
			args += len(r.process.Args)
		}
		if args > maxKnownArgs+long {
			t.Fatalf("%d arguments of %d processes are kept", args, n+1)
		}
	}
}
