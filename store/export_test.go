package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"

	"warren/event"
	made "warren/test/traffic"
)

// hostile are events whose texts are what nobody would write.
func hostile() []*event.Event {
	p := &event.Process{Key: event.Key{PID: 7, Start: 1}, PID: 7, Name: "a\xff", ExePath: "/tmp/\"x\"\n=", StartTime: time.Unix(5, 0)}
	p.SetArgs([]string{"", "b\x00c", strings.Repeat("é", 3000)})
	p.Container = &event.Container{ID: "c", Labels: map[string]string{"a=b": "c=d", "e": ""}}
	return []*event.Event{
		{Process: p, Actor: p.Key, Data: &event.Exec{Type: "execve"}},
		{Data: &event.Lost{Type: "lost", Count: 1 << 63, What: "process.exec"}},
		{Data: &event.DNS{Type: "recvfrom", Answers: []string{"a 60 A 1.2.3.4", "b"}, Name: "x"}},
	}
}

// TestExport reads an export by another reader of Parquet, and holds every value
// against the event's JSON.
func TestExport(t *testing.T) {
	s, err := Open(Config{Dir: t.TempDir(), Node: "node-a"}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	source := made.New(made.Config{Processes: 40, Peers: 60, Churn: 10, Distinct: true})
	for range 4 * exportRows / 3 {
		s.Append(source.Next())
		if source.Seq()%1000 == 0 {
			s.step(false)
		}
	}
	for i, e := range hostile() {
		e.Seq, e.Time = source.Seq()+uint64(i)+1, source.Now().Add(time.Duration(i+1)*time.Second)
		s.Append(e)
	}
	s.step(false)

	var b bytes.Buffer
	rows, err := s.Export(t.Context(), &b, Query{})
	if err != nil {
		t.Fatal(err)
	}
	var want []map[string]any
	for e, err := range s.Query(t.Context(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, flatJSON(t, e))
	}
	if len(want) <= exportRows || rows != int64(len(want)) {
		t.Fatalf("%d rows were exported of %d events", rows, len(want))
	}
	got := readByOthers(t, b.Bytes())
	if len(got) != len(want) {
		t.Fatalf("%d rows are read of %d", len(got), len(want))
	}
	for i := range got {
		if !reflect.DeepEqual(want[i], got[i]) {
			t.Fatalf("row %d (-JSON +Parquet):\n%s", i, cmp.Diff(want[i], got[i]))
		}
	}
	// A filter leaves out columns that none of its events can have.
	b.Reset()
	if _, err := s.Export(t.Context(), &b, Query{Kinds: event.Kinds(event.KindExit), Limit: 1}); err != nil {
		t.Fatal(err)
	}
	f, err := parquet.OpenFile(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := f.Schema().Lookup("fd.rip"); ok || f.NumRows() != 1 {
		t.Errorf("the ends of processes have addresses: %v, %d rows", ok, f.NumRows())
	}
}

// TestExportListsOnce: what many events have alike is once in memory, and lists that
// differ make a row group full.
func TestExportListsOnce(t *testing.T) {
	const rows, different = 1000, 2 * exportElements / maxExported
	words := make([]string, different+maxExported)
	for i := range words {
		words[i] = fmt.Sprint(i)
	}
	x := newExporter(io.Discard, event.Kinds(event.KindExec), nil)
	argv := &x.cols[slices.IndexFunc(x.cols, func(c exportColumn) bool { return c.field.Name == "proc.argv" })]
	add := func(args []string) {
		t.Helper()
		p := &event.Process{Key: event.Key{PID: 7, Start: 1}, PID: 7, Args: args}
		if err := x.add(&event.Event{Process: p, Actor: p.Key, Data: &event.Exec{Type: "execve"}}); err != nil {
			t.Fatal(err)
		}
	}
	for range rows {
		add(words[:maxExported])
	}
	if n := len(argv.v.codes); n != maxExported {
		t.Errorf("%d arguments of %d events are %d in memory", maxExported, rows, n)
	}
	for i := range different {
		add(words[i:][:maxExported])
		if n := len(argv.v.codes); n >= exportElements {
			t.Fatalf("%d arguments are in memory", n)
		}
	}
	if err := x.close(); err != nil {
		t.Fatal(err)
	}
	if n := int64(rows + different); x.w.rows != n || len(x.w.groups) > 3 {
		t.Errorf("%d rows of %d are in %d row groups", x.w.rows, n, len(x.w.groups))
	}
}

// TestExportFails holds that what could not be written is no file.
func TestExportFails(t *testing.T) {
	s, err := Open(Config{Dir: t.TempDir()}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, e := range hostile() {
		e.Time = time.Now()
		s.Append(e)
	}
	s.step(false)
	full := errors.New("full")
	if _, err := s.Export(t.Context(), &brief{left: 1000, err: full}, Query{}); !errors.Is(err, full) {
		t.Errorf("a writer that fails: %v", err)
	}
}

// brief is a writer that takes so many bytes.
type brief struct {
	left int
	err  error
}

func (w *brief) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	if w.left -= n; n < len(p) {
		return n, w.err
	}
	return n, nil
}

// flatJSON is an event's JSON with values as a file of Parquet has them.
func flatJSON(t *testing.T, e *event.Event) map[string]any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(event.AppendJSON(nil, e)))
	d.UseNumber()
	var values map[string]any
	if err := d.Decode(&values); err != nil {
		t.Fatal(err)
	}
	flat := map[string]any{}
	for key, v := range values {
		name, _, _ := strings.Cut(key, "[")
		f, ok := event.Lookup(strings.TrimSuffix(name, ";base64"))
		switch {
		case !ok:
			t.Fatalf("no field %s", name)
		case strings.HasSuffix(key, ";base64"):
			raw, _ := f.Str(e, 0) // bytes that are no UTF-8 have another form here
			flat[f.Name] = escapeText(raw)
		case flat[name] != nil && f.Arg != event.KeyArg:
		case f.Arg == event.KeyArg:
			list, _ := flat[name].([]any)
			flat[name] = append(list, joinPair(key[len(name)+1:len(key)-1], v.(string)))
		case f.Many != event.One:
			list := []any{}
			for i, item := range v.([]any) {
				if item == nil {
					item = ""
				}
				if f.Many == event.Ancestors {
					i++
				}
				if raw, ok := f.Str(e, i); ok {
					item = escapeText(raw)
				}
				list = append(list, fmt.Sprint(item))
			}
			flat[name] = list
		case f.Type == event.Time:
			at, err := time.Parse(time.RFC3339Nano, v.(string))
			if err != nil {
				t.Fatal(err)
			}
			flat[name] = fmt.Sprint(at.UnixNano())
		default:
			flat[name] = v
			if n, ok := v.(json.Number); ok {
				flat[name] = n.String()
			}
		}
	}
	sortPairs(flat)
	return flat
}

// sortPairs puts labels in order: they have none.
func sortPairs(values map[string]any) {
	for name, v := range values {
		if f, _ := event.Lookup(name); f != nil && f.Arg == event.KeyArg {
			slices.SortFunc(v.([]any), func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
		}
	}
}

// readByOthers reads a file by parquet-go's own reader.
func readByOthers(t *testing.T, file []byte) (rows []map[string]any) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "export.parquet")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r := parquet.NewReader(f)
	defer func() { _ = r.Close() }()
	columns := r.Schema().Columns()
	buf := make([]parquet.Row, 100)
	for {
		n, err := r.ReadRows(buf)
		for _, row := range buf[:n] {
			m := map[string]any{}
			for _, v := range row {
				if v.IsNull() {
					continue
				}
				path := columns[v.Column()]
				var x any
				switch v.Kind() {
				case parquet.Boolean:
					x = v.Boolean()
				case parquet.Int64:
					x = fmt.Sprint(v.Int64())
					if f, ok := event.Lookup(path[0]); ok && f.Type == event.Uint {
						x = fmt.Sprint(v.Uint64())
					}
				default:
					x = string(v.ByteArray())
				}
				if len(path) > 1 {
					list, _ := m[path[0]].([]any)
					x = append(list, x)
				}
				m[path[0]] = x
			}
			sortPairs(m)
			rows = append(rows, m)
		}
		if errors.Is(err, io.EOF) {
			return rows
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
