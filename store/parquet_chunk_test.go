package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go/format"

	"warren/event"
)

// wantPage holds that a page of a chunk is what was written.
func wantPage(t *testing.T, c *chunk, n int, want *vector) {
	t.Helper()
	got, err := c.page(n)
	if err != nil {
		t.Fatal(err)
	}
	got.dict = c.dict.texts()
	for k := range got.rows {
		if a, b := valueAt(c.col.shape, got, k), valueAt(c.col.shape, want, c.pages[n].row+k); !reflect.DeepEqual(a, b) {
			t.Fatalf("column %s, row %d of page %d is %v, want %v", c.col.name, k, n, a, b)
		}
	}
}

// TestOpenChunk holds that pages that are read by themselves have what they have where
// all are read, whichever comes first, and also once their memory was given back.
func TestOpenChunk(t *testing.T) {
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 9))
		path, wrote := writeTestFile(t, r, 5*pageRows+r.IntN(pageRows))
		p, err := openParquet(path)
		if err != nil {
			t.Fatal(err)
		}
		room, scratch := &rooms{}, &pageScratch{}
		for i, want := range wrote[0] {
			few, err := p.openChunk(0, i, scratch, room)
			if err != nil {
				t.Fatal(err)
			}
			if few.raw != nil {
				t.Fatalf("column %s was read whole", few.col.name)
			}
			all, err := p.readChunk(0, i, scratch, room)
			if err != nil {
				t.Fatal(err)
			}
			if len(few.pages) != len(all.pages) {
				t.Fatalf("column %s has %d pages of %d", few.col.name, len(few.pages), len(all.pages))
			}
			for n, a := range all.pages {
				if b := few.pages[n]; a.row != b.row || a.rows != b.rows || a.at != b.at || a.length != b.length {
					t.Errorf("column %s, page %d is %+v, and %+v by itself", few.col.name, n, a, b)
				}
			}
			for range 8 {
				wantPage(t, few, r.IntN(len(few.pages)), want)
			}
			wantPage(t, all, r.IntN(len(all.pages)), want)
			all.shed(room)
			for n := range all.pages {
				wantPage(t, all, n, want)
			}
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}
}

// TestPlacesDamaged: where the list of a column's pages was changed by the disk, the
// pages are found without it.
func TestPlacesDamaged(t *testing.T) {
	path, wrote := writeTestFile(t, rand.New(rand.NewPCG(4, 4)), 5*pageRows)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := openParquet(path)
	if err != nil {
		t.Fatal(err)
	}
	info := p.groups[0].chunks[0]
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
	list := good[info.placesAt : info.placesAt+int64(info.placesLen)]
	var theirs format.OffsetIndex
	if _, err := unmarshal(list, &theirs); err != nil {
		t.Fatal(err)
	}
	ours, ok := appendPlaces(nil, list)
	if !ok || len(ours) != len(theirs.PageLocations) || len(ours) != 5 {
		t.Fatalf("%d places of %d: %v", len(ours), len(theirs.PageLocations), ok)
	}
	for i, d := range ours {
		if l := theirs.PageLocations[i]; d.at != l.Offset || d.length != int64(l.CompressedPageSize) || int64(d.row) != l.FirstRowIndex {
			t.Errorf("place %d is %+v, want %+v", i, d, l)
		}
	}
	for i := range list {
		was := list[i]
		list[i] ^= 0x10
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		list[i] = was
		if p, err = openParquet(path); err != nil {
			t.Fatal(err)
		}
		c, err := p.openChunk(0, 0, &pageScratch{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for n := range c.pages {
			if _, err := c.page(n); err != nil && !isDamage(err) {
				t.Fatalf("byte %d: %v", i, err)
			} else if err == nil {
				wantPage(t, c, n, wrote[0][0])
			}
		}
		if err := p.close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNarrow: of a large dictionary only what is wanted is taken, and copied.
func TestNarrow(t *testing.T) {
	var b []byte
	for i := range 100 {
		text := fmt.Sprintf("text %d", i)
		b = append(append(b, byte(len(text)), 0, 0, 0), text...)
	}
	d, err := newDictionary(b, 100)
	if err != nil {
		t.Fatal(err)
	}
	codes := []uint32{99, 0, 99, 7}
	list := d.narrow(codes)
	if got := strings.Join(list, ","); got != "text 99,text 0,text 7" || !reflect.DeepEqual(codes, []uint32{0, 1, 0, 2}) {
		t.Errorf("%v of %s", codes, got)
	}
	if list := d.narrow(make([]uint32, 13)); list != nil {
		t.Errorf("13 of 100 texts are narrowed to %v", list)
	}
	for _, bad := range [][]byte{b[:len(b)-1], b[:3]} {
		if _, err := newDictionary(bad, 100); !isDamage(err) {
			t.Errorf("a dictionary of %d bytes is read: %v", len(bad), err)
		}
	}
}

// TestQueryScattered asks for few rows of large row groups, whose pages are read by
// themselves, and for many.
func TestQueryScattered(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	m := newInventor(21)
	m.kinds = event.Kinds(event.KindConnection, event.KindExec)
	events := byTime(fillStore(t, s, m, 9*pageRows))
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, step := range []int{1, 7, 5000} {
		for at := step; at < len(events); at += len(events) / 3 {
			q := Query{Since: events[at-1].Time, Until: events[min(at+step, len(events)-1)].Time}
			compare(t, s, events, q)
		}
	}
	for _, text := range []string{"evt.num = 17000", "fd.rport = 443 and evt.num < 400", "evt.kind = exec and evt.num > 8000 and evt.num < 8400"} {
		compare(t, s, events, Query{Filter: mustCompile(t, text)})
	}
}
