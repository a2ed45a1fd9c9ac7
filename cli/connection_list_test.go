package cli

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"warren/event"
)

// Of a connection that is older than the agent nobody knows the age.
func TestConnectionOfUnknownAge(t *testing.T) {
	for want, c := range map[string]*event.Connection{
		"":     {Existing: true},
		"0s":   {Start: time.Unix(1, 0)},
		"2.0s": {Start: time.Unix(1, 0), Duration: 2e9},
	} {
		var r record
		if err := r.parse(event.AppendJSON(nil, &event.Event{Data: c})); err != nil {
			t.Fatal(err)
		}
		if r.has("conn.start") == c.Start.IsZero() {
			t.Errorf("age %q: conn.start %q", want, r.str("conn.start"))
		}
		table := connectionTable{now: func() time.Time { return time.Unix(9, 0) }}
		row := table.row(&r)
		if got := row[len(row)-2].text; got != want { // before the error
			t.Errorf("age %q, want %q", got, want)
		}
	}
}

// More than is held at once is shown as several tables, each in order; what came
// before an error is shown too.
func TestConnectionsInTables(t *testing.T) {
	for _, s := range []struct {
		starts []int64
		err    error
		want   string
	}{
		{nil, nil, "START\n"},
		{[]int64{2, 1}, nil, "START\n1\n2\n"},
		{[]int64{3, 2, 1}, nil, "START\n2\n3\nSTART\n1\n"},
		{[]int64{3, 2, 1}, io.ErrUnexpectedEOF, "START\n2\n3\nSTART\n1\n"},
	} {
		var out strings.Builder
		lines := func(yield func([]byte, error) bool) {
			for _, at := range s.starts {
				e := &event.Event{Data: &event.Connection{Start: time.Unix(at, 0)}}
				if !yield(event.AppendJSON(nil, e), nil) {
					return
				}
			}
			if s.err != nil {
				yield(nil, s.err)
			}
		}
		env := &Env{Stdout: &out, Stderr: io.Discard}
		err := writeConnections(env, lines, 2, &connectionTable{}, startTable{})
		if got := out.String(); got != s.want || !errors.Is(err, s.err) {
			t.Errorf("%v: %q, %v, want %q, %v", s.starts, got, err, s.want, s.err)
		}
	}
}

// startTable shows when connections began.
type startTable struct{}

func (startTable) fields() []string { return nil }

func (startTable) open(out io.Writer) *table {
	return newTable(out, screen{}, []column{{head: "START"}})
}

func (startTable) row(r *record) []cell {
	return []cell{{text: strconv.FormatInt(r.time("conn.start").Unix(), 10)}}
}

func (startTable) aside(*record) string { return "" }
