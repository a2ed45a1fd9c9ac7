package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/api"
	"warren/event"
)

// kept is the history of a machine: what it saw is all there ever was, but for some
// minutes in which no agent ran.
type kept struct{ m *machine }

var noAgent = &event.Event{Time: at(14_400_000), Data: &event.Lost{Type: "lost", Lane: "agent", Until: at(14_100_000)}}

var _ api.History = kept{}

func (k kept) Sync(context.Context) (uint64, error) { return 0, nil }

func (k kept) Events(_ context.Context, q api.PastQuestion) iter.Seq2[*event.Event, error] {
	return func(yield func(*event.Event, error) bool) {
		list := append(slices.Clone(k.m.events), noAgent)
		slices.SortStableFunc(list, func(a, b *event.Event) int { return a.Time.Compare(b.Time) })
		list = slices.DeleteFunc(list, func(e *event.Event) bool {
			if e == noAgent {
				return !q.Since.IsZero() && at(14_100_000).Before(q.Since) || !q.Until.IsZero() && !e.Time.Before(q.Until) || q.Kinds != 0 && !q.Kinds.Has(event.KindLost)
			}
			return !q.Since.IsZero() && e.Time.Before(q.Since) || !q.Until.IsZero() && !e.Time.Before(q.Until) || q.Kinds != 0 && !q.Kinds.Has(e.Data.Kind()) || q.Filter != nil && !q.Filter.Match(e)
		})
		if q.Newest && q.Limit > 0 && len(list) > q.Limit {
			list = list[len(list)-q.Limit:]
		}
		for _, e := range list {
			if e.Data.Kind() == event.KindDNS {
				copied := *e
				copied.Past = &event.Past{Count: 3, Last: e.Time.Add(time.Millisecond)}
				e = &copied
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (k kept) Processes(_ context.Context, at time.Time) iter.Seq2[*event.Process, error] {
	return func(yield func(*event.Process, error) bool) {
		for _, p := range k.m.processes() {
			if p.StartTime.After(at) {
				continue
			}
			alive := *p
			alive.Exited = nil
			if p.Exited != nil && p.StartTime.Add(time.Duration(p.Exited.Duration)).Before(at) {
				continue
			}
			if !yield(&alive, nil) {
				return
			}
		}
	}
}

func (k kept) Export(_ context.Context, w io.Writer, _ api.PastQuestion) (int64, error) {
	_, err := io.WriteString(w, "PAR1")
	return 1, err
}

func (k kept) Prune(_ context.Context, before time.Time) (api.Pruned, error) {
	return api.Pruned{Segments: 3, Bytes: 4 << 20, Before: before, Oldest: at(3_600_000)}, nil
}

func (k kept) Status() api.HistoryStatus {
	return api.HistoryStatus{
		Dir: "/var/lib/warren/history", Filter: "evt.kind in (exec, exit)", Kinds: []string{"exec", "exit", "connection", "dns", "credentials", "namespace", "alert", "reaction", "lost"},
		Bytes: 300 << 20, MaxBytes: 1 << 30, MaxAge: 7 * 24 * time.Hour, Oldest: at(36_000_000), Newest: at(10), Events: 123456, Rows: 45678, RawBytes: 2400 << 20, SealedBytes: 290 << 20, Torn: 512,
		Segments: []api.HistorySegments{{Kind: "active", Segments: 1, Bytes: 1 << 20}, {Kind: "exec", Segments: 17, Rows: 45555, Bytes: 290 << 20, Oldest: at(36_000_000), Newest: at(60_000)}},
		Archive: &api.HistoryArchive{
			URL: "s3://traces/production?endpoint=https://minio.example:9000", Segments: 14, Bytes: 250 << 20, Copied: 3, CopiedBytes: 60 << 20, LastCopy: at(900_000),
			Waiting: 3, WaitingBytes: 40 << 20, WaitingSince: at(3_000_000), Error: "put kind=exec/a.parquet into bucket traces: connection refused", FailingSince: at(840_000), GivenUp: 1, GivenUpBytes: 5 << 20,
		},
	}
}

func TestPruneAsks(t *testing.T) {
	for answer, done := range map[string]bool{"y\n": true, "yes\n": true, "n\n": false, "\n": false, "": false} {
		var out, errs strings.Builder
		asked := &pruned{}
		env := testEnv(io.Discard, asked)
		env.Stdout, env.Stderr, env.Stdin = &out, &errs, strings.NewReader(answer)
		env.Terminal, env.StderrTerminal, env.Width = true, true, func() int { return 80 }
		if code := Main(t.Context(), env, []string{"history", "prune", "--before", "1d"}); code != 0 {
			t.Errorf("%q: exit code %d: %s", answer, code, &errs)
		}
		if asked.before.IsZero() == done || !strings.Contains(errs.String(), "[y/N]") {
			t.Errorf("%q: taken away before %v: %s%s", answer, asked.before, &out, &errs)
		}
	}
}

type pruned struct {
	judge
	before time.Time
}

func (p *pruned) PruneHistory(_ context.Context, before time.Time) (api.Pruned, error) {
	p.before = before
	return api.Pruned{Segments: 1}, nil
}

// TestWhoProgress: on a terminal, and there alone, it is said how far the answer is, and
// taken away when it is there.
func TestWhoProgress(t *testing.T) {
	for name, test := range map[string]struct {
		terminal bool
		term     string
		want     string
	}{
		"terminal": {true, "xterm", "\r\x1b[Klooked through the history up to 17:43:14\r\x1b[Klooked through the history up to 19:23:14: 512 events found\r\x1b[K"},
		"dumb":     {true, "dumb", ""},
		"pipe":     {false, "xterm", ""},
	} {
		var errs strings.Builder
		env := testEnv(io.Discard, reached{})
		env.Stderr, env.StderrTerminal = &errs, test.terminal
		env.Getenv = func(name string) string { return map[string]string{"TERM": test.term}[name] }
		if code := Main(t.Context(), env, []string{"who", "203.0.113.7"}); code != 0 {
			t.Errorf("%s: exit code %d: %s", name, code, &errs)
		}
		if got, _, _ := strings.Cut(errs.String(), "warren: "); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
		if want := "warren: 2 segments of the history cannot be read whole: something may be missing\n"; !strings.Contains(errs.String(), want) {
			t.Errorf("%s: %q does not say %q", name, errs.String(), want)
		}
	}
}

type reached struct{ judge }

func (reached) Who(_ context.Context, q api.WhoQuestion) (api.Who, error) {
	if q.Progress != nil {
		q.Progress(api.WhoProgress{At: at(12_000_000)})
		q.Progress(api.WhoProgress{At: at(6_000_000), Events: 512})
	}
	return api.Who{To: q.To, Broken: 2}, nil
}

// TestBrokenBehindAnswer: what cannot be read of the history is known once an answer
// needed it, so it is said behind the rows, and once.
func TestBrokenBehindAnswer(t *testing.T) {
	const (
		row  = `{"evt.kind":"exec"}` + "\n"
		note = "warren: 1 segment of the history cannot be read whole: something may be missing\n"
	)
	for line, want := range map[string]string{
		"events -o json --since 1d":          row + note,
		"events -o json --until 1h":          row + note,
		"events -o json --recent":            row + note,
		"connection list -o json --since 1d": row + note,
		"alert list -o json":                 row + note,
		"history export":                     row + note,
		"history export --format parquet":    "PAR1" + note,
		"rule learn --least 2":               note + "warren: there is no alert of these rules in the history since 1d\n",
		// What is no question about the past says nothing of it.
		"connection list -o json": row,
		// Who follows is told what was known before.
		"events -o json --since 1d -f --limit 1": row,
	} {
		var out strings.Builder
		Main(t.Context(), testEnv(&out, &spoilt{row: row}), strings.Fields(line))
		if out.String() != want {
			t.Errorf("%s: %q, want %q", line, &out, want)
		}
	}
	var out strings.Builder
	Main(t.Context(), testEnv(&out, &spoilt{row: row, found: true}), strings.Fields("events -o json --since 1d -f --limit 1"))
	if out.String() != note+row {
		t.Errorf("%q, want the note before the rows", &out)
	}
}

// A spoilt agent has a history with a segment that turns out to be broken when
// something is asked for.
type spoilt struct {
	judge
	row   string
	found bool
}

func (s *spoilt) rows() api.Lines {
	return func(yield func([]byte, error) bool) {
		s.found = true
		yield([]byte(strings.TrimSpace(s.row)), nil)
	}
}

func (s *spoilt) Events(context.Context, api.Question) api.Lines      { return s.rows() }
func (s *spoilt) Recent(context.Context, api.Question) api.Lines      { return s.rows() }
func (s *spoilt) Connections(context.Context, api.Question) api.Lines { return s.rows() }

func (s *spoilt) ExportHistory(context.Context, api.Question) (io.ReadCloser, error) {
	s.found = true
	return io.NopCloser(strings.NewReader("PAR1")), nil
}

func (s *spoilt) History(context.Context) ([]byte, error) {
	st := api.HistoryStatus{Oldest: at(200_000_000)}
	if s.found {
		st.Broken = 1
	}
	return json.Marshal(st)
}

func TestDated(t *testing.T) {
	for text, want := range map[string]bool{"1h": false, "20h": false, "1d": true, "14:32": false, "22:00": true} {
		p := period{since: text}
		since, until, err := p.times(now)
		if err != nil || dated(since, until, now) != want {
			t.Error(fmt.Sprint(text, since, err))
		}
	}
}

// TestGapNotes: of many gaps the last are told one by one.
func TestGapNotes(t *testing.T) {
	var gaps []api.HistoryGap
	for i := range 10 {
		gaps = append(gaps, api.HistoryGap{From: at(10_000 - 10*i), To: at(10_000 - 10*i - 5)})
	}
	notes := gapNotes(gaps, 990, at(0))
	if len(notes) != 9 || notes[0] != "no agent recorded 992 times more" || notes[8] != unseen("", gaps[9].From, gaps[9].To, at(0)) {
		t.Errorf("%q", notes)
	}
	if notes := gapNotes(gaps[:1], 0, at(0)); len(notes) != 1 {
		t.Errorf("%q", notes)
	}
}
