package store

import (
	"fmt"
	"strings"
	"testing"

	"warren/event"
	"warren/filter"
)

// same compares two events by all that can be asked of them.
func same(t testing.TB, got, want *event.Event) {
	t.Helper()
	a, b := string(event.AppendJSON(nil, got)), string(event.AppendJSON(nil, want))
	if a != b {
		t.Fatalf("an event became another:\n%s\nwas\n%s", a, b)
	}
	if got.Actor != want.Actor {
		t.Fatalf("actor %v was %v", got.Actor, want.Actor)
	}
	for _, f := range event.Fields() {
		for i := range 4 {
			if x, y := value(f, got, i), value(f, want, i); x != y {
				t.Fatalf("%s[%d] = %s, was %s:\n%s", f.Name, i, x, y, b)
			}
		}
	}
}

func value(f *event.Field, e *event.Event, i int) string {
	switch {
	case f.Arg == event.KeyArg:
		s, ok := f.Key(e, fmt.Sprint("key", i))
		return fmt.Sprint(s, ok)
	case f.Type == event.String:
		s, ok := f.Str(e, i)
		return fmt.Sprint(s, ok)
	case f.Type == event.IP || f.Type == event.Net:
		a, ok := f.Addr(e, i)
		return fmt.Sprint(a, ok)
	}
	n, ok := f.Num(e, i)
	return fmt.Sprint(n, ok)
}

// TestColumnsProperty: events that are taken apart into columns, written as bytes,
// read and put together again are what they were.
func TestColumnsProperty(t *testing.T) {
	for seed := range uint64(6) {
		s := openAt(t, Config{Dir: t.TempDir()})
		m := newMaker(seed)
		want := map[uint64]*event.Event{}
		for range 400 {
			e := m.event(0)
			want[e.Seq] = e
			s.Append(e)
			if m.IntN(50) == 0 {
				s.flush(false)
			}
		}
		release := s.Hold() // what follows is not collapsed either: equal events are rare at random
		s.flush(false)
		release()
		got := all(t, s, Query{})
		if len(got) != len(want) {
			t.Fatalf("%d events became %d", len(want), len(got))
		}
		for i, e := range got {
			if i > 0 && e.Time.Before(got[i-1].Time) {
				t.Fatalf("event %d is older than the one before it", i)
			}
			same(t, e, want[e.Seq])
		}
		for _, text := range filters {
			f, err := filter.Compile(text)
			if err != nil {
				t.Fatal(err)
			}
			found := all(t, s, Query{Filter: f})
			n := 0
			for _, e := range want {
				if f.Match(e) {
					n++
				}
			}
			if len(found) != n {
				t.Fatalf("%s: %d events, want %d", text, len(found), n)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

var filters = []string{
	"proc.name contains 1", "proc.aname = text3", "fd.sip = 10.0.0.3 or fd.name contains text", "evt.type in (connect, openat, setuid)",
	"k8s.pod.labels[key1] exists", "container.id != host and evt.res = SUCCESS", "not proc.pname = text1", "evt.num > 200",
	"thread.cap_effective contains CAP_CHOWN", "fd.num >= 0", "proc.duration > 1s", "container.duration < 1m",
}

// TestColumnNames: a name stands for one type in all kinds, and what has names is
// found by them.
func TestColumnNames(t *testing.T) {
	types := map[string]string{}
	for _, k := range append(storedKinds, event.KindProcess) {
		for i, c := range event.LayoutOf(k).Columns {
			if c.Index != i || event.LayoutOf(k).Column(c.Name) != c {
				t.Errorf("%v: column %s is not the %dth", k, c.Name, i)
			}
			typ := fmt.Sprint(c.Rep, c.Type)
			if old, ok := types[c.Name]; ok && old != typ {
				t.Errorf("%s is %s in %v, and %s in another kind", c.Name, typ, k, old)
			}
			types[c.Name] = typ
			if c.Rep != event.IntRep || c.Type != event.String {
				continue
			}
			for _, v := range []int64{0, 1, 2, 3, 7, 11, 110, 130} {
				s := c.Text(v)
				if back, ok := c.Number(s); s != "" && (!ok || c.Text(back) != s) {
					t.Errorf("%s: %d is %q, which is %d, %v", c.Name, v, s, back, ok)
				}
			}
		}
	}
	for name, typ := range types {
		// A column that is called like a field has its values.
		f, ok := event.Lookup(name)
		if ok && !strings.HasSuffix(typ, f.Type.String()) {
			t.Errorf("column %s is %s, the field %v", name, typ, f.Type)
		}
	}
}
