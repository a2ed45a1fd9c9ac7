package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/klauspost/compress/zstd"
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

// flipper changes a file bit by bit, and back.
type flipper struct {
	t    *testing.T
	f    *os.File
	good []byte
}

func newFlipper(t *testing.T, path string) *flipper {
	t.Helper()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &flipper{t, f, good}
}

// each calls fn for each bit of some bytes, while it is another one.
func (f *flipper) each(at, n int64, fn func(bit int64)) {
	f.t.Helper()
	write := func(at int64, b byte) {
		if _, err := f.f.WriteAt([]byte{b}, at); err != nil {
			f.t.Fatal(err)
		}
	}
	for bit := range 8 * n {
		i := at + bit/8
		write(i, f.good[i]^1<<(bit%8))
		fn(bit)
		write(i, f.good[i])
	}
}

// TestHeadsDamaged: heads of pages have no checksum. Where one was changed by the disk,
// its page is damaged, or has what it had.
func TestHeadsDamaged(t *testing.T) {
	damaged, right := 0, 0
	for seed := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, 11))
		path, wrote := writeTestFile(t, r, 2*pageRows+r.IntN(pageRows))
		f := newFlipper(t, path)
		p, err := openParquet(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range wrote[0] {
			c, err := p.openChunk(0, i, &pageScratch{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			n := r.IntN(len(c.pages))
			page := c.pages[n]
			_, head := readPageHeader(f.good[page.at:])
			f.each(page.at, int64(head), func(bit int64) {
				c.decoded = -1
				if _, err := c.page(n); err == nil {
					right++
					wantPage(t, c, n, want)
				} else if damaged++; !isDamage(err) {
					t.Errorf("column %s, bit %d: %v", c.col.name, bit, err)
				}
				c.decoded = -1
				row := page.row + r.IntN(int(page.rows))
				got, ok, err := readSparse(c, n, []int32{int32(row)})
				switch {
				case err != nil && !isDamage(err):
					t.Errorf("column %s, bit %d: %v", c.col.name, bit, err)
				case err == nil && ok:
					if a, b := valueAt(c.col.shape, got, 0), valueAt(c.col.shape, want, row); !reflect.DeepEqual(a, b) {
						t.Errorf("column %s, bit %d: row %d is %v, want %v", c.col.name, bit, row, a, b)
					}
				}
			})
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}
	if damaged < 1000 {
		t.Errorf("only %d of %d changes were seen", damaged, damaged+right)
	}
}

// TestPlacesDamagedInQuery: where the list of a column's pages was changed by the disk,
// rows that are read by themselves are what they were.
func TestPlacesDamagedInQuery(t *testing.T) {
	s := openAt(t, Config{Dir: t.TempDir()})
	defer s.Close() //nolint:errcheck // checked by others
	m := newInventor(23)
	m.kinds = event.Kinds(event.KindConnection)
	fillStore(t, s, m, 9*pageRows)
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(s.Segments(), func(f Segment) bool { return f.Kind == event.KindConnection })
	path := filepath.Join(s.cfg.Dir, s.Segments()[i].Name)
	f := newFlipper(t, path)
	file, err := openSealed(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.close() //nolint:errcheck // read only
	rows := []int32{2*pageRows - 1}
	for _, name := range []string{"evt.time", "fd.rip", "evt.type"} {
		read := func() (*Vector, error) {
			b, err := newGroupReader(file, 0, nil, nil).batch(rows, func(c *event.Column) bool { return c.Name == name })
			if err != nil {
				return nil, err
			}
			return b.Vectors[file.layout.Column(name).Index], nil
		}
		info := file.groups[0].chunks[file.byName[name]]
		want, err := read()
		if err != nil {
			t.Fatal(err)
		}
		f.each(info.placesAt, int64(info.placesLen), func(bit int64) {
			got, err := read()
			if err != nil {
				t.Errorf("column %s, bit %d of byte %d: %v", name, bit%8, bit/8, err)
			} else if !reflect.DeepEqual(got, want) {
				t.Errorf("column %s, bit %d of byte %d: row %d is\n%+v, want\n%+v", name, bit%8, bit/8, rows[0], got, want)
			}
		})
	}
}

// TestPagesTooLarge: what a page says that it has is not believed, checksums or not.
func TestPagesTooLarge(t *testing.T) {
	zeros := make([]byte, 64<<20)
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := e.EncodeAll(zeros, nil)
	c := &chunk{pageScratch: &pageScratch{}}
	if _, err := c.unpack(bomb, 1000); !isDamage(err) {
		t.Errorf("%d bytes in a page of 1,000 are no damage: %v", len(zeros), err)
	}
	if n := cap(c.plain); n > 4096 {
		t.Errorf("%d bytes of memory for a page of 1,000", n)
	}
	small := e.EncodeAll(zeros[:255], nil)
	for name, b := range map[string][]byte{"a small frame": small, "a frame": e.EncodeAll(zeros[:5000], nil), "no frame": {1, 2, 3}, "nothing": nil} {
		if _, err := c.unpack(b, maxPage); !isDamage(err) {
			t.Errorf("%s is a page of %d bytes: %v", name, maxPage, err)
		}
		if n := cap(c.plain); n > 4096 {
			t.Errorf("%s: %d bytes of memory are kept", name, n)
		}
	}
	if b, err := c.unpack(small, 255); err != nil || len(b) != 255 {
		t.Errorf("%d bytes of 255: %v", len(b), err)
	}
	if _, err := c.unpack(bomb[:len(bomb)/2], len(zeros)); !isDamage(err) || cap(c.plain) > 4096 {
		t.Errorf("half a page has %d bytes of memory: %v", cap(c.plain), err)
	}
	if b, err := c.unpack(bomb, len(zeros)); err != nil || len(b) != len(zeros) {
		t.Errorf("%d bytes of %d: %v", len(b), len(zeros), err)
	}
	for name, h := range map[string]pageHeader{
		"bytes":   {packed: 1, unpacked: maxPage + 1},
		"values":  {packed: 1, unpacked: 1, values: maxPageValues + 1},
		"cut":     {packed: 2, unpacked: 1},
		"less":    {packed: 1, unpacked: -1},
		"minus 1": {packed: 1, unpacked: 1, values: -1},
	} {
		if h.fits(make([]byte, 1)) {
			t.Errorf("%s: %+v is read", name, h)
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
	set := newListSet()
	for i, list := range [][]uint32{{99, 0}, {7}, {99, 0}} {
		if k := set.add(list); int(k) != i%2 {
			t.Errorf("list %d is list %d of those that are different", i, k)
		}
	}
	lists := d.lists(set)
	if got := fmt.Sprint(lists); got != "[[text 99 text 0] [text 7]]" {
		t.Errorf("lists are %s", got)
	}
	whole := uintptr(unsafe.Pointer(unsafe.StringData(d.all)))
	if at := uintptr(unsafe.Pointer(unsafe.StringData(lists[0][0]))); at >= whole && at < whole+uintptr(len(d.all)) {
		t.Error("an element of a list holds the dictionary in memory")
	}
	for _, bad := range [][]byte{b[:len(b)-1], b[:3], append(slices.Clone(b), 0)} {
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
