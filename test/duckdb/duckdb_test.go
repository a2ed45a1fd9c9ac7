// Package duckdb holds the files of the history against another engine that reads
// them: the recipes of docs/history.md, run by DuckDB.
package duckdb

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/archive"
	"warren/event"
	"warren/filter"
	"warren/internal/testkit"
	"warren/store"
	"warren/test/traffic"
)

// statements are the SQL of the page, in order.
func statements(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../../docs/history.md")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, block := range strings.Split(string(page), "```sql\n")[1:] {
		sql, _, _ := strings.Cut(block, "```")
		for s := range strings.SplitSeq(sql, ";\n") {
			if s = strings.TrimSpace(s); s != "" {
				list = append(list, s)
			}
		}
	}
	return list
}

// run gives the rows of each statement, as sorted lines of JSON.
func run(t *testing.T, statements []string) [][]string {
	t.Helper()
	modules := os.Getenv("DUCKDB")
	if modules == "" {
		modules = "../../.cache/duckdb"
	}
	modules, err := filepath.Abs(modules)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(modules, "node_modules")); err != nil {
		t.Skipf("DuckDB is not there, `make e2e` installs it: %v", err)
	}
	args, err := json.Marshal(statements)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "run.mjs", string(args))
	cmd.Env = append(os.Environ(), "DUCKDB="+modules)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var answers [][]map[string]any
	if err := json.Unmarshal(out, &answers); err != nil {
		t.Fatal(err)
	}
	lines := make([][]string, len(answers))
	for i, rows := range answers {
		for _, row := range rows {
			lines[i] = append(lines[i], line(t, row))
		}
		slices.Sort(lines[i])
	}
	return lines
}

// line is a row as text. Numbers are texts: so are DuckDB's large ones.
func line(t *testing.T, row map[string]any) string {
	t.Helper()
	for k, v := range row {
		switch v := v.(type) {
		case float64:
			row[k] = fmt.Sprintf("%.0f", v)
		case uint64, int64, int:
			row[k] = fmt.Sprint(v)
		}
	}
	b, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// orNull is what an event has not.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// node keeps made-up events as an agent of a node does, seals them and archives
// them to a directory.
func node(t *testing.T, name, bucket string, seed uint64) *store.Store {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	dir := t.TempDir()
	s, err := store.Open(store.Config{Dir: dir, Node: name}, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- s.Run(ctx) }()
	target, err := archive.ParseURL("file://" + bucket)
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.Open(archive.Config{Dir: dir, Target: target, Segments: func() (list []archive.Segment) {
		for _, g := range s.Segments() {
			list = append(list, archive.Segment{Name: g.Name, Size: g.Size, Last: g.Last})
		}
		return list
	}}, log)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	source := traffic.New(traffic.Config{Seed: seed, Processes: 60, Peers: 80, Churn: 20})
	for range 3 { // as many logs
		for range 3000 {
			s.Append(source.Next())
		}
		if _, err := s.Sync(t.Context(), source.Seq()); err != nil {
			t.Fatal(err)
		}
		if err := s.Seal(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	a.Wake()
	testkit.Wait(t, "segments to be archived", func() bool { st := a.Status(); return st.Copied > 0 && st.Waiting == 0 })
	return s
}

// ask gives what Warren itself answers.
func ask(t *testing.T, s *store.Store, condition string, each func(*event.Event)) {
	t.Helper()
	p, err := filter.Compile(condition)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range s.Query(t.Context(), store.Query{Filter: p}) {
		if err != nil {
			t.Fatal(err)
		}
		each(e)
	}
}

// group adds up by the values of some columns.
type group struct {
	rows map[string]map[string]any
	t    *testing.T
}

func (g *group) add(key map[string]any, sums map[string]uint64) {
	k := line(g.t, key)
	row := g.rows[k]
	if row == nil {
		row = key
		g.rows[k] = row
	}
	for name, n := range sums {
		was, _ := row[name].(uint64)
		row[name] = was + n
	}
}

func (g *group) lines() (list []string) {
	for _, row := range g.rows {
		list = append(list, line(g.t, row))
	}
	slices.Sort(list)
	return list
}

// TestE2EDuckDB archives the segments of two nodes into one folder, runs the
// recipes on it as one table, and holds each answer against Warren's.
func TestE2EDuckDB(t *testing.T) {
	bucket, export := t.TempDir(), filepath.Join(t.TempDir(), "export.parquet")
	counts, talk, lines := &group{map[string]map[string]any{}, t}, &group{map[string]map[string]any{}, t}, []string(nil)
	var exported []string
	for i, name := range []string{"node-a", "node-b"} {
		s := node(t, name, bucket, uint64(i+1))
		ask(t, s, "evt.kind = connection", func(e *event.Event) {
			counts.add(map[string]any{"node": name, "evt.type": e.Data.(*event.Connection).Type}, map[string]uint64{"events": e.Times(), "rows": 1})
		})
		ask(t, s, "fd.rport = 5432 and fd.is_server = false and evt.type = close", func(e *event.Event) {
			var container any
			if c := e.Process.Container; c != nil {
				container = c.Name
			}
			talk.add(map[string]any{"node": name, "proc.exepath": e.Process.ExePath, "container.name": container},
				map[string]uint64{"events": e.Times(), "bytes": e.Data.(*event.Connection).BytesSent})
		})
		ask(t, s, "evt.kind = exec", func(e *event.Event) {
			var names []string
			for p := e.Process; p != nil; p = p.Parent {
				names = append(names, p.Name)
			}
			lines = append(lines, line(t, map[string]any{"node": name, "evt.num": e.Seq, "line": strings.Join(names, " < ")}))
		})
		if i > 0 {
			continue
		}
		exported = exportOf(t, s, export)
	}
	slices.Sort(lines)
	want := [][]string{nil, nil, nil, counts.lines(), talk.lines(), lines, exported}

	recipes := statements(t)
	if len(recipes) != len(want) {
		t.Fatalf("docs/history.md has %d statements, %d answers are known", len(recipes), len(want))
	}
	for i := range recipes {
		recipes[i] = strings.NewReplacer("BUCKET", bucket, "EXPORT", export).Replace(recipes[i])
	}
	got := run(t, recipes)
	for i, rows := range want {
		if rows == nil {
			continue
		}
		if len(rows) < 3 {
			t.Errorf("statement %d: only %d rows are known: this compares nothing", i, len(rows))
		}
		if d := cmp.Diff(rows, got[i]); d != "" {
			t.Errorf("%s\n(-Warren +DuckDB):\n%s", recipes[i], d)
		}
	}
}

// exportOf exports a history and gives the first rows as the page asks for them.
func exportOf(t *testing.T, s *store.Store, path string) (rows []string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Export(t.Context(), f, store.Query{}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for e, err := range s.Query(t.Context(), store.Query{Limit: 5}) {
		if err != nil {
			t.Fatal(err)
		}
		row := map[string]any{}
		for _, name := range []string{"evt.kind", "proc.name", "fd.sip", "container.name"} {
			f, _ := event.Lookup(name)
			text, _ := f.Str(e, 0)
			if a, ok := f.Addr(e, 0); ok {
				text = a.String()
			}
			row[name] = orNull(text)
		}
		var above []any
		for p := e.Process.Parent; p != nil; p = p.Parent {
			above = append(above, p.Name)
		}
		row["proc.aname"] = above
		rows = append(rows, line(t, row))
	}
	slices.Sort(rows)
	return rows
}
