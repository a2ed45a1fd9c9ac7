package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fxamacker/cbor/v2"

	"warren/cluster"
	"warren/event"
)

// rowsOf reads all rows, whose JSON they keep.
func rowsOf(t *testing.T, batches Batches) []Row {
	t.Helper()
	var all []Row
	for b, err := range batches {
		if err != nil {
			t.Fatal(err)
		}
		if since := time.Since(time.Unix(0, b.Clock)); since < 0 || since > time.Minute {
			t.Errorf("the batch's clock is %v off", since)
		}
		all = append(all, b.Rows...)
	}
	return all
}

// linesOf reads all lines.
func linesOf(t *testing.T, lines Lines) []string {
	t.Helper()
	var all []string
	for line, err := range lines {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(line))
	}
	return all
}

// In batches there is what is in lines, and what a hub needs to know of it.
func TestRows(t *testing.T) {
	f := newFake()
	f.procs[3].Container.Pod = &cluster.Pod{UID: "u", Name: "web-1", Namespace: "shop"} // that of all but one
	f.procs[0].Container = nil
	c, _ := listen(t, f, Config{})
	ctx := t.Context()
	for _, test := range []struct {
		name  string
		lines Lines
		rows  Batches
		want  []Row
	}{
		{"recent events", c.Recent(ctx, Question{Limit: 3}), c.Rows(ctx, PathEvents, false, Question{Limit: 3}), []Row{
			{Time: 1e18, Kind: "connection", Namespace: "shop"}, {Time: 1e18 + 4, Kind: "dns", Namespace: "shop"}, {Time: 1e18 + 5, Kind: "exit", Namespace: "shop"},
		}},
		{"processes", c.Processes(ctx, Question{Filter: "proc.name in (init, bash)", Fields: []string{"proc.name"}}), c.Rows(ctx, PathProcesses, false, Question{Filter: "proc.name in (init, bash)", Fields: []string{"proc.name"}}), []Row{
			{Time: 1e18 + 1e9 + 5, Kind: "process"}, {Time: 1e18 + 100e9 + 5, Kind: "process", Namespace: "shop"},
		}},
		{"connections", c.Connections(ctx, Question{}), c.Rows(ctx, PathConnections, false, Question{}), []Row{
			{Time: 1e18, Kind: "connection", Namespace: "shop"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			lines, rows := linesOf(t, test.lines), rowsOf(t, test.rows)
			if len(rows) != len(test.want) || len(lines) != len(test.want) {
				t.Fatalf("%d rows, %d lines, want %d", len(rows), len(lines), len(test.want))
			}
			for i, want := range test.want {
				want.JSON = rows[i].JSON
				equal(t, rows[i], want)
				// What the kernel's clock says changes from one answer to the next.
				var a, b map[string]any
				if err := errors.Join(json.Unmarshal([]byte(lines[i]), &a), json.Unmarshal(rows[i].JSON, &b)); err != nil {
					t.Fatal(err)
				}
				for _, m := range []map[string]any{a, b} {
					for _, k := range []string{"evt.time", "evt.ktime", "proc.duration", "proc.ppid.duration"} {
						delete(m, k)
					}
				}
				equal(t, a, b)
			}
		})
	}
}

// What is older than the agent comes first.
func TestRowOfUnknownAge(t *testing.T) {
	w := httptest.NewRecorder()
	req := httptest.NewRequest("GET", "/", nil)
	req.Header.Set("Accept", RowsType)
	out := NewWriter(w, req, time.Minute, nil)
	old := &event.Event{Time: time.Unix(5, 0), Data: &event.Connection{Type: "connect", Existing: true}}
	if err := writeRows(out, []*event.Event{old}, start); err != nil {
		t.Fatal(err)
	}
	if rows := rowsOf(t, decodeBatches(w.Body)); len(rows) != 1 || rows[0].Time != 0 {
		t.Errorf("%+v", rows)
	}
}

func TestNegotiation(t *testing.T) {
	h := newServer(newFake(), Config{})
	for accept, want := range map[string]string{
		"":                        "application/x-ndjson",
		"*/*":                     "application/x-ndjson",
		"application/cbor":        "application/x-ndjson",
		RowsType + "x":            "application/x-ndjson",
		";;;":                     "application/x-ndjson",
		RowsType:                  RowsType,
		RowsType + "; q=1":        RowsType,
		"text/html, " + RowsType:  RowsType,
		strings.ToUpper(RowsType): RowsType,
	} {
		req := httptest.NewRequest("GET", "/v1/processes", nil)
		req.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if ct := w.Header().Get("Content-Type"); ct != want || w.Header().Get("Vary") != "Accept" {
			t.Errorf("Accept %q: %s, Vary %q, want %s", accept, ct, w.Header().Get("Vary"), want)
		}
	}
	// What is no list is as it is.
	req := httptest.NewRequest("GET", "/v1/status", nil)
	req.Header.Set("Accept", RowsType)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	if ct := w.Header().Get("Content-Type"); ct != "application/json" {
		t.Errorf("status: %s", ct)
	}
}

// pipeWriter is an answer that is read as it is written.
type pipeWriter struct {
	header http.Header
	*io.PipeWriter
}

func (p pipeWriter) Header() http.Header { return p.header }
func (p pipeWriter) WriteHeader(int)     {}
func (p pipeWriter) Flush()              {}

// An idle stream of batches tells the time each second, the first at once; one
// of lines is silent for longer.
func TestBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		h := newServer(f, Config{})
		r, w := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		var ended sync.WaitGroup
		ended.Go(func() {
			defer w.Close()
			defer func() { _ = recover() }() // how a handler ends whose client has gone
			req := httptest.NewRequest("GET", "/v1/events", nil).WithContext(ctx)
			req.Header.Set("Accept", RowsType)
			h.ServeHTTP(pipeWriter{http.Header{}, w}, req)
		})
		next, stop := iter.Pull2(decodeBatches(r))
		defer stop()
		began := time.Now()
		for i := range 3 {
			b, err, ok := next()
			if !ok || err != nil || len(b.Rows) != 0 {
				t.Fatalf("%+v %v %t", b, err, ok)
			}
			if at := time.Since(began); at != time.Duration(i)*time.Second || b.Clock != time.Now().UnixNano() {
				t.Errorf("beat %d after %v, its clock %v", i, at, time.Unix(0, b.Clock))
			}
		}
		f.send(f.recent[0], f.recent[1])
		b, err, ok := next()
		if !ok || err != nil || len(b.Rows) != 2 {
			t.Errorf("%+v %v %t", b, err, ok)
		}
		if at := time.Since(began); at != 2*time.Second {
			t.Errorf("events came after %v: they wait for no beat", at)
		}
		cancel()
		if _, _, ok := next(); ok {
			t.Error("the stream goes on")
		}
		ended.Wait()
	})
}

// A busy stream makes batches of a size, and rows stay whole.
func TestLargeBatches(t *testing.T) {
	f := newFake()
	for len(f.recent) < 3*batchRows {
		f.recent = append(f.recent, f.recent...)
	}
	c, _ := listen(t, f, Config{})
	rows, batches := 0, 0
	for b, err := range c.Rows(t.Context(), PathEvents, false, Question{}) {
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, r := range b.Rows {
			if !json.Valid(r.JSON) || r.Kind == "" {
				t.Fatalf("%s: %s", r.Kind, r.JSON)
			}
			size += len(r.JSON)
		}
		if len(b.Rows) > batchRows || size > 2*batchBytes {
			t.Errorf("a batch of %d rows, %d bytes", len(b.Rows), size)
		}
		rows, batches = rows+len(b.Rows), batches+1
	}
	if rows != len(f.recent) || batches < 3 {
		t.Errorf("%d rows of %d in %d batches", rows, len(f.recent), batches)
	}
}

// A row that another agent wrote goes on as it is, in either form.
func TestWriteRow(t *testing.T) {
	row := Row{Time: 5, Kind: "exec", Namespace: "shop", JSON: []byte(`{"evt.kind":"exec"}`)}
	for accept, check := range map[string]func(b []byte) bool{
		RowsType: func(b []byte) bool {
			rows := rowsOf(t, decodeBatches(bytes.NewReader(b)))
			return len(rows) == 2 && slices.EqualFunc(rows, []Row{row, row}, func(a, b Row) bool {
				return a.Time == b.Time && a.Kind == b.Kind && a.Namespace == b.Namespace && bytes.Equal(a.JSON, b.JSON)
			})
		},
		"": func(b []byte) bool { return string(b) == strings.Repeat(string(row.JSON)+"\n", 2) },
	} {
		req := httptest.NewRequest("GET", "/", nil)
		req.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		out := NewWriter(w, req, time.Minute, nil)
		if err := errors.Join(out.Row(row), out.Row(row), out.Flush()); err != nil {
			t.Fatal(err)
		}
		if !check(w.Body.Bytes()) {
			t.Errorf("Accept %q: %q", accept, w.Body)
		}
	}
}

// hostileBatches are no batches.
func hostileBatches(t testing.TB) map[string][]byte {
	enc := func(v any) []byte {
		b, err := cbor.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	row := []any{1, "exec", "", []byte("{}")}
	whole := enc([]any{1, []any{row}})
	return map[string][]byte{
		"cut":                 whole[:len(whole)-1],
		"text":                []byte("HTTP/1.1 200 OK"),
		"map":                 enc(map[string]int{"clock": 1}),
		"no rows":             enc([]any{1}),
		"too many parts":      enc([]any{1, []any{}, 2}),
		"a row of three":      enc([]any{1, []any{row[:3]}}),
		"JSON as text":        enc([]any{1, []any{[]any{1, "exec", "", "{}"}}}),
		"kind as number":      enc([]any{1, []any{[]any{1, 1, "", []byte("{}")}}}),
		"kind not UTF-8":      {0x82, 0x01, 0x81, 0x84, 0x01, 0x61, 0xff, 0x60, 0x40},
		"deep":                bytes.Repeat([]byte{0x81}, 1000),
		"endless":             {0x9f, 0x01},
		"a huge array":        {0x82, 0x01, 0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"a huge string":       append([]byte{0x82, 0x01, 0x81, 0x84, 0x01, 0x60, 0x60, 0x5b, 0, 0, 1, 0, 0, 0, 0, 0}, make([]byte, 100)...),
		"tagged":              {0xc1, 0x82, 0x01, 0x80},
		"clock beyond 64 bit": {0x82, 0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x80},
	}
}

func TestHostileBatches(t *testing.T) {
	for name, b := range hostileBatches(t) {
		var last error
		n := 0
		for _, err := range decodeBatches(bytes.NewReader(b)) {
			last = err
			n++
		}
		if last == nil || n != 1 {
			t.Errorf("%s: %d, %v", name, n, last)
		}
	}
	// One that never ends is left before it fills the memory.
	endless := io.MultiReader(bytes.NewReader([]byte{0x82, 0x01, 0x81, 0x84, 0x01, 0x60, 0x60, 0x5b, 0, 0, 1, 0, 0, 0, 0, 0}), zeros{})
	for _, err := range decodeBatches(bufio.NewReaderSize(endless, 1<<20)) {
		if err == nil || !strings.Contains(err.Error(), "has more than") {
			t.Errorf("a batch without end: %v", err)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// FuzzBatches reads anything as batches; what is read can be written and means
// the same.
func FuzzBatches(f *testing.F) {
	var good bytes.Buffer
	if err := encodeBatch(&good, Batch{Clock: 7, Rows: []Row{{Time: 1, Kind: "exec", Namespace: "shop", JSON: []byte(`{}`)}}}); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add(append(good.Bytes(), good.Bytes()...))
	for _, b := range hostileBatches(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for batch, err := range decodeBatches(bytes.NewReader(b)) {
			if err != nil {
				return
			}
			var again bytes.Buffer
			if err := encodeBatch(&again, batch); err != nil {
				t.Fatal(err)
			}
			for same, err := range decodeBatches(&again) {
				if err != nil || same.Clock != batch.Clock || len(same.Rows) != len(batch.Rows) {
					t.Fatalf("%+v became %+v: %v", batch, same, err)
				}
				for i := range same.Rows {
					if !bytes.Equal(same.Rows[i].JSON, batch.Rows[i].JSON) || same.Rows[i].Time != batch.Rows[i].Time {
						t.Fatalf("%+v became %+v", batch.Rows[i], same.Rows[i])
					}
				}
			}
		}
	})
}

// benchEvent is a connection of a pod, with what real ones have.
func benchEvent() *event.Event {
	f := newFake()
	e := f.conns[0]
	e.Process.Container.Labels = map[string]string{"app": "shop", "io.kubernetes.pod.name": "web-7d4b9c-x2x"}
	e.Process.Container.Pod = &cluster.Pod{
		UID: "0f4a1e52-6f1c-4f6e-9f0e-2b7f6f3f2a11", Name: "web-7d4b9c-x2x", Namespace: "shop", Node: "node-1",
		Labels: map[string]string{"app": "web", "pod-template-hash": "7d4b9c", "app.kubernetes.io/part-of": "shop"},
	}
	return e
}

// discard is an answer that nobody reads.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// BenchmarkRowWrite is what an agent spends on a row: as a line, in a batch, and
// in a batch whose rows a hub passes on.
func BenchmarkRowWrite(b *testing.B) {
	e := benchEvent()
	pass := Row{Time: 1, Kind: "connection", Namespace: "shop", JSON: event.AppendJSON(nil, e)}
	for _, bench := range []struct {
		name, accept string
		write        func(*Writer) error
	}{
		{"line", "", func(w *Writer) error { return w.Event(e) }},
		{"row", RowsType, func(w *Writer) error { return w.Event(e) }},
		{"pass-line", "", func(w *Writer) error { return w.Row(pass) }},
		{"pass-row", RowsType, func(w *Writer) error { return w.Row(pass) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			req := httptest.NewRequest("GET", "/", nil)
			req.Header.Set("Accept", bench.accept)
			out := NewWriter(discard{http.Header{}}, req, time.Minute, nil)
			b.ReportAllocs()
			for b.Loop() {
				if err := bench.write(out); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(pass.JSON)), "json-bytes")
		})
	}
}

// BenchmarkRowRead is what a hub spends on a row to learn its time, its kind and
// its namespace: from a batch, and from a line of JSON.
func BenchmarkRowRead(b *testing.B) {
	e := benchEvent()
	write := func(accept string) []byte {
		req := httptest.NewRequest("GET", "/", nil)
		req.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		out := NewWriter(w, req, time.Minute, nil)
		for range batchRows {
			if err := out.Event(e); err != nil {
				b.Fatal(err)
			}
		}
		if err := out.Flush(); err != nil {
			b.Fatal(err)
		}
		return w.Body.Bytes()
	}
	b.Run("row", func(b *testing.B) {
		src := write(RowsType)
		b.ReportAllocs()
		for b.Loop() {
			for batch, err := range decodeBatches(bytes.NewReader(src)) {
				if err != nil {
					b.Fatal(err)
				}
				for _, r := range batch.Rows {
					if r.Namespace != "shop" || r.Kind != "connection" {
						b.Fatalf("%+v", r)
					}
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batchRows), "ns/row")
	})
	b.Run("line", func(b *testing.B) {
		src := write("")
		b.ReportAllocs()
		for b.Loop() {
			s := bufio.NewScanner(bytes.NewReader(src))
			for s.Scan() {
				var row struct {
					Time      time.Time `json:"evt.time"`
					Kind      string    `json:"evt.kind"`
					Namespace string    `json:"k8s.ns.name"`
				}
				if err := json.Unmarshal(s.Bytes(), &row); err != nil || row.Namespace != "shop" {
					b.Fatal(err, row)
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batchRows), "ns/row")
	})
}
